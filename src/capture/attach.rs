//! Attaching to a source: publications, slot, log and state are made or found, and fit each other.

use std::collections::HashSet;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bygone_replication::catalog::{ErrorKind as CatalogErrorKind, Loaded};
use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::pattern::Patterns;
use bygone_replication::preflight;
use bygone_replication::publication::{self, Partial, PublicationState};
use bygone_replication::slot::{self, CreateOptions};
use bygone_replication::table::{Table, TableKind, quote_identifier};
use bygone_replication::wire::{Connection, Mode};
use bygone_replication::{Lsn, catalog, session};
use bygone_sink::error::ErrorKind as SinkErrorKind;
use bygone_sink::failpoint;
use bygone_sink::history::{History, Identity};
use bygone_sink::log::path::{DATA, fact_seq};
use bygone_sink::log::{Event, EventKind, LogState, LogWriter, ManifestSource, Source, table_text};
use bygone_sink::schema::TableSchema;
use bygone_sink::state::{Identity as StateIdentity, State};
use bygone_sink::store::Store;
use bygone_sink::versioning;
use tokio_postgres::Client;

use super::axis::Axis;
use super::commit::Said;
use super::registry::Registry;
use super::source::{self, Wanted};
use super::watcher::Families;
use super::{Memory, RunOptions, state_directory};
use crate::error::{Error, Result};
use crate::facts::Alone;

/// How often it is said what the making of a slot waits for.
const TELL_WAITING_EVERY: Duration = Duration::from_secs(5);
/// How often what waits looks whether it is told to stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A slot's exported snapshot. It lives as long as the connection does nothing else.
#[derive(Debug)]
pub(super) struct Exported {
    pub(super) connection: Connection,
    pub(super) name: String,
    pub(super) point: Lsn,
    /// The server's time just after, microseconds since the Unix epoch.
    pub(super) at: i64,
    pub(super) taken: Instant,
}

/// Everything that a capture begins with.
pub(super) struct Attached {
    pub(super) log: LogWriter,
    pub(super) state: Arc<State>,
    pub(super) registry: Registry,
    pub(super) wanted: Wanted,
    pub(super) recorded: PublicationState,
    pub(super) source: Source,
    pub(super) next_xid: u64,
    pub(super) exported: Option<Exported>,
    /// Where the source's WAL ended at the start.
    pub(super) current: Lsn,
    /// Where large transactions wait.
    pub(super) spool: PathBuf,
}

/// Attaches: for the first time, or again.
pub(super) async fn attach(
    options: &RunOptions,
    connect: &ConnectOptions,
    store: &Store,
    memory: Memory,
    alone: Option<&Alone>,
    stop: &AtomicBool,
) -> Result<Attached> {
    let sql = session::connect_sql(connect).await?;
    let server = preflight::read_server(&sql).await?;
    let history = match History::open(store).await {
        Ok(history) => Some(history),
        Err(error) if error.kind() == SinkErrorKind::NoHistory => None,
        Err(error) => return Err(error.into()),
    };
    let has_manifest = history.is_some();
    let begun = history.as_ref().is_some_and(|history| history.state().last_seq().is_some());
    preflight::check_server(&server, u32::from(!begun && options.slot.is_none()), 1).map_err(|refused| {
        let lines: Vec<String> = refused.iter().map(ToString::to_string).collect();
        Error::other(lines.join("\n"))
    })?;
    for warning in preflight::warnings(&server) {
        tracing::warn!("{warning}");
    }
    let mut replication = Connection::connect(connect, Mode::Replication).await?;
    let identified = source::identify(&mut replication).await?;
    let known = history.as_ref().map(|history| Registry::of_log(history.state())).transpose()?;
    let known = known.unwrap_or_default();
    let patterns = Patterns::parse(&options.tables).map_err(catalog::CatalogError::from)?;
    let mut loaded = match catalog::load_tables(&sql, &patterns).await {
        // A table that was captured and then dropped is no longer there to be matched.
        Err(error) if begun && error.kind() == CatalogErrorKind::Pattern => {
            tracing::warn!(error = %error, "going on with the tables that are captured already");
            let oids: Vec<u32> = known.oids().into_iter().collect();
            Loaded { tables: catalog::load_tables_by_oid(&sql, &oids).await?, skipped: Vec::new() }
        }
        loaded => loaded?,
    };
    source::restrict(&sql, &options.publications, &mut loaded.tables).await?;
    for skipped in &loaded.skipped {
        tracing::warn!("not captured: {skipped}");
    }
    check_rules(&sql, options, &loaded.tables, &known).await?;
    without_clashes(&mut loaded.tables, begun.then(|| known.oids()).as_ref())?;
    if loaded.tables.is_empty() && !begun {
        return Err(Error::other(
            "there is no table to capture: the database has none, or --table selects none",
        ));
    }
    let names = publication::Names::new(&options.name)?;
    let wanted = Wanted {
        slot: options.slot.clone().unwrap_or_else(|| options.name.clone()),
        publications: if options.publications.is_empty() {
            names.both().map(str::to_owned).to_vec()
        } else {
            options.publications.clone()
        },
    };
    slot::check_name(&wanted.slot)?;
    let identity = Identity {
        name: options.name.clone(),
        source: ManifestSource {
            system_id: identified.system_id.to_string(),
            database: server.server.database.clone(),
        },
        slot: wanted.slot.clone(),
        publications: wanted.publications.clone(),
    };
    let current = end_of_wal(&server.server, identified.wal_end);
    let source = Source {
        system_id: identified.system_id.to_string(),
        timeline: identified.timeline,
        database: server.server.database.clone(),
    };
    let mut begin = Begin {
        options,
        sql: &sql,
        store,
        names: &names,
        wanted: &wanted,
        server: &server,
        source: &source,
        stop,
    };
    let (log, registry, recorded, exported, history_id) = match history.filter(|_| begun) {
        Some(history) => {
            drop(replication);
            begin.again(history, &identity, &loaded.tables).await?
        }
        None => begin.first(&identity, &loaded.tables, has_manifest, replication).await?,
    };
    // The timeline that the history follows, which the first connect compares with the server's [2].
    let source = log.state().source.clone().unwrap_or(source);
    let directory = state_directory(options.state.as_deref(), &history_id)?;
    let cache = memory.state_cache;
    let state = tokio::task::spawn_blocking({
        let directory = directory.clone();
        move || State::open(&directory, &StateIdentity { history_id }, cache)
    })
    .await
    .map_err(|error| Error::other(format!("opening state: {error}")))?
    .map_err(bygone_sink::error::Error::from)?;
    let state = Arc::new(state);
    let rows = match alone {
        Some(alone) => {
            if alone.is_anew() {
                state.clear().map_err(bygone_sink::error::Error::from)?;
            }
            // What has arrived in the tables is nowhere else.
            if state.applied() == log.state().last_seq() { None } else { alone.rows().await? }
        }
        None => None,
    };
    let schemas = registry.schemas();
    // Of a long history this takes minutes. Left half way, it begins anew.
    tokio::select! {
        done = versioning::catch_up(&state, store, rows.as_ref(), log.state(), &schemas) => drop(done?),
        () = stopped(stop, Duration::ZERO) => return Err(Error::Stopped),
    }
    Ok(Attached {
        log,
        state,
        registry,
        wanted,
        recorded,
        source,
        next_xid: server.server.next_xid,
        exported,
        current,
        spool: directory,
    })
}

/// Refuses columns whose names bygone needs for itself. Once a capture has begun, a table that comes with such a column keeps the
/// others from nothing; one that is captured may get one, and keeps it under another name.
fn without_clashes(tables: &mut Vec<Table>, captured: Option<&HashSet<u32>>) -> Result<()> {
    let mut refused = None;
    tables.retain(|table| {
        let Some(column) = TableSchema::clash(table).filter(|_| !is_captured(table, captured)) else {
            return true;
        };
        let name = &table.name;
        let why = format!(
            "column {column} of {name} has a name that bygone needs for itself: leave the table out with --table '-{name}', or \
             rename the column"
        );
        if captured.is_some() {
            tracing::warn!("not captured: {why}");
        } else {
            refused.get_or_insert(why);
        }
        false
    });
    refused.map_or(Ok(()), |why| Err(Error::other(why)))
}

/// The table is among those that are captured, or a partition of one.
fn is_captured(table: &Table, captured: Option<&HashSet<u32>>) -> bool {
    captured.is_some_and(|captured| captured.contains(&table.oid) || captured.contains(&table.root()))
}

/// What is said of tables and columns makes sense; tables that were renamed out of the patterns are captured all the same.
async fn check_rules(sql: &Client, options: &RunOptions, loaded: &[Table], known: &Registry) -> Result<()> {
    let mut others = known.oids();
    for table in loaded {
        others.remove(&table.oid);
    }
    let others: Vec<u32> = others.into_iter().collect();
    let mut tables = catalog::load_tables_by_oid(sql, &others).await?;
    tables.extend_from_slice(loaded);
    options.column_rules.check(&tables, known)?;
    options.retention.check(&tables, known)
}

/// The last position that the stream can reach without anything more being written.
///
/// The insert position stands behind a page's header when the last record ended with the page, the stream's before it.
fn end_of_wal(server: &catalog::ServerInfo, flushed: Lsn) -> Lsn {
    const PAGE: u64 = 8192;
    const SHORT_HEADER: u64 = 24;
    const LONG_HEADER: u64 = 40;
    let Some(insert) = server.wal_insert else { return server.wal_replay.unwrap_or(flushed) };
    match insert.0 % PAGE {
        in_header @ (SHORT_HEADER | LONG_HEADER) => Lsn(insert.0 - in_header),
        _ => insert,
    }
}

type Begun = (LogWriter, Registry, PublicationState, Option<Exported>, String);

struct Begin<'a> {
    options: &'a RunOptions,
    sql: &'a Client,
    store: &'a Store,
    names: &'a publication::Names,
    wanted: &'a Wanted,
    server: &'a preflight::ServerState,
    source: &'a Source,
    stop: &'a AtomicBool,
}

impl Begin<'_> {
    fn owns_slot(&self) -> bool {
        self.options.slot.is_none()
    }

    /// The first commit: publications, then the slot [3], then the log says where it begins.
    async fn first(
        &mut self,
        identity: &Identity,
        tables: &[Table],
        manifest: bool,
        mut replication: Connection,
    ) -> Result<Begun> {
        self.check_log_is_there().await?;
        let existing = slot::read(self.sql, &self.wanted.slot).await?;
        match (&existing, self.owns_slot()) {
            (Some(_), true) if manifest => {
                // Ours, from a start that did not come to its first commit. If that was killed while the slot was being made, the
                // server is at it still.
                slot::abandon(self.sql, &self.wanted.slot).await?;
                slot::drop(self.sql, &self.wanted.slot).await?;
            }
            (Some(slot), true) => {
                return Err(Error::other(format!(
                    "replication slot {0:?} exists already, and {1} holds no history that it belongs to: another capture of \
                     this server uses it (then give this one another --name), or it was left behind (then run: select \
                     pg_drop_replication_slot('{0}');)",
                    slot.name,
                    self.store.describe()
                )));
            }
            (None, false) => {
                return Err(Error::other(format!(
                    "there is no replication slot {0:?}: run select pg_create_logical_replication_slot('{0}', 'pgoutput'); \
                     or leave --slot out, and bygone makes one of its own",
                    self.wanted.slot
                )));
            }
            (Some(slot), false) => {
                preflight::check_slot(slot, &self.server.server.database, self.server.server.in_recovery)
                    .map_err(|refused| Error::other(refused.to_string()))?;
            }
            (None, true) => {}
        }
        // A place that cannot be written to, and rights that do not suffice, are found out before anything is made.
        self.store.check_writable().await?;
        let partial = self.publish(tables).await?;
        check_readable(self.sql, &self.server.role.role, tables).await?;
        let history = History::open_or_create(self.store, identity).await?;
        let history_id = history.manifest().id.clone();
        let recorded = publication::inspect(self.sql, &self.wanted.publications).await?;
        // A slot that nobody reads keeps the source's WAL: what stands in the way of reading it comes to light before it is made.
        let directory = state_directory(self.options.state.as_deref(), &history_id)?;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.and_then(|()| tempfile::tempfile_in(&directory)).map_err(|error| {
            Error::other(format!(
                "the state directory {} cannot be written to: {error}; give --state another one",
                directory.display()
            ))
        })?;
        let (point, exported) = if self.owns_slot() {
            let exported = export(
                self.sql,
                replication,
                &self.wanted.slot,
                self.server.server.version,
                false,
                self.stop,
            )
            .await?;
            (exported.point, Some(exported))
        } else {
            let confirmed = existing.and_then(|slot| slot.confirmed_flush_lsn).unwrap_or(Lsn::ZERO);
            replication.simple_query("IDENTIFY_SYSTEM").await?;
            (confirmed, None)
        };
        failpoint::hit("snapshot.after_slot")?;
        let mut registry =
            Registry::ruled_by(self.options.column_rules.clone(), self.options.retention.clone());
        let families = Families::of(tables);
        for table in tables.iter().filter(|table| !matches!(table.kind, TableKind::Leaf { .. })) {
            registry.attach(table, &families.family(table), point)?;
        }
        registry.know_relations(tables);
        for partial in partial {
            let table = partial.table().map(table_text);
            let event = Event::at(EventKind::Partial, table, point);
            registry.new_events.push(event.with("reason", partial.to_string()));
        }
        let mut log = history.into_writer();
        let said = Said {
            from: point,
            to: point,
            source: self.source.clone(),
            epoch: 0,
            axis: Axis::default(),
            seen: None,
            server_time: exported.as_ref().map(|exported| exported.at),
            high_water: None,
            publication: Some(recorded.fingerprint().into()),
            schemas: std::mem::take(&mut registry.new_schemas),
            events: std::mem::take(&mut registry.new_events),
        };
        let appended = log.append(said.body(&[])).await?;
        tracing::info!(
            seq = appended.seq(),
            tables = registry.tables().len(),
            slot = self.wanted.slot,
            from = %point,
            "attached"
        );
        Ok((log, registry, recorded, exported, history_id))
    }

    /// The first commit names no files, so there are none before it. Where there are, the log has been lost, or is not there yet: to begin anew
    /// would take them for what a writer left that died.
    async fn check_log_is_there(&self) -> Result<()> {
        let mut files = 0;
        for directory in DATA {
            let objects = self.store.list(directory).await?;
            files += objects.iter().filter(|object| fact_seq(&object.path).is_some()).count();
        }
        if files == 0 {
            return Ok(());
        }
        Err(Error::other(format!(
            "{} holds {files} files of facts and no log that names them: put log/ back where it was copied or restored without \
             it, or give --history another place; nothing was changed",
            self.store.describe()
        )))
    }

    /// Goes on where the log ends. What has become of the tables in the meantime is found by the watcher.
    async fn again(&mut self, history: History, identity: &Identity, tables: &[Table]) -> Result<Begun> {
        let history = history.for_writing(identity).await?;
        let history_id = history.manifest().id.clone();
        let mut registry = Registry::of_log(history.state())?;
        let recorded = recorded(history.state())?.ok_or_else(not_recorded)?;
        registry.know_relations(tables);
        let lsn = history.state().wal_to.unwrap_or(Lsn::ZERO);
        let (rules, retention) = (self.options.column_rules.clone(), self.options.retention.clone());
        registry.rule_from(rules, retention, tables, lsn)?;
        Ok((history.into_writer(), registry, recorded, None, history_id))
    }

    /// Has the tables published, each where its identity allows [9].
    async fn publish(&self, tables: &[Table]) -> Result<Vec<Partial>> {
        if !self.options.publications.is_empty() {
            let state = publication::inspect(self.sql, &self.wanted.publications).await?;
            let accept = self.options.accept_partial;
            let partial = publication::check_user_made(&state, &self.wanted.publications, accept)?;
            for partial in &partial {
                tracing::warn!("{partial}");
            }
            let listed: HashSet<u32> = publication::published_tables(self.sql, &self.wanted.publications)
                .await?
                .into_iter()
                .collect();
            let as_root = |table: &&Table| match table.kind {
                TableKind::Leaf { root } => listed.contains(&root) && !listed.contains(&table.oid),
                TableKind::Ordinary | TableKind::Partitioned => false,
            };
            if let Some(table) = tables.iter().find(as_root) {
                return Err(Error::other(format!(
                    "the publications {} publish {} as rows of its root, of which nobody can tell what becomes of them with their partition: \
                     run alter publication … set (publish_via_partition_root = false), or leave the table out",
                    self.wanted.publications.join(", "),
                    table.name
                )));
            }
            let missing: Vec<String> = tables
                .iter()
                .filter(|table| table.kind != TableKind::Partitioned && !listed.contains(&table.oid))
                .map(|table| table.name.to_string())
                .collect();
            if !missing.is_empty() {
                return Err(Error::other(format!(
                    "the publications {} do not publish {}: add them, or give --table patterns that select what is published",
                    self.wanted.publications.join(", "),
                    missing.join(", ")
                )));
            }
            return Ok(partial);
        }
        let is_unseen =
            |table: &&Table| publication::is_insert_only(table) && table.kind != TableKind::Partitioned;
        for table in tables.iter().filter(is_unseen) {
            tracing::warn!(
                "{}: updates and deletes cannot be seen, for it has neither a primary key nor another replica identity; to \
                 change that, add a primary key or run: alter table {} replica identity full;",
                table.name,
                table.name.quoted()
            );
        }
        let all: Vec<&Table> = tables.iter().collect();
        let ensured = publication::ensure(self.sql, self.names, &all).await?;
        for statement in &ensured.statements {
            tracing::debug!(statement, "publication");
        }
        Ok(Vec::new())
    }
}

fn not_recorded() -> Error {
    Error::other("the log does not say what the publications were: run bygone verify")
}

/// The publications as the log has them; none before its first commit.
pub(super) fn recorded(log: &LogState) -> Result<Option<PublicationState>> {
    let text = log.publication.as_ref().and_then(serde_json::Value::as_str);
    text.map(|text| text.parse().map_err(|_| not_recorded())).transpose()
}

/// The role may read what it has to copy, and would be shown all of it.
pub(super) async fn check_readable(sql: &Client, role: &str, tables: &[Table]) -> Result<()> {
    let role = quote_identifier(role);
    let guarded: Vec<String> =
        tables.iter().filter(|table| table.row_security).map(|table| table.name.to_string()).collect();
    if !guarded.is_empty() {
        return Err(Error::other(format!(
            "row-level security would hide rows of {} from the role {role}, and a first copy without them would be \
             taken for the whole; as a superuser, run:\nalter role {role} bypassrls;\n(or leave the tables out with \
             --table '-…')",
            guarded.join(", ")
        )));
    }
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let rights = catalog::table_rights(sql, &oids).await?;
    let unreadable: Vec<String> = tables
        .iter()
        .filter(|table| table.kind != TableKind::Partitioned)
        .filter(|table| rights.iter().any(|right| right.oid == table.oid && !right.select))
        .map(|table| table.name.quoted())
        .collect();
    if unreadable.is_empty() {
        return Ok(());
    }
    Err(Error::other(format!(
        "the role {role} may not read all tables that are to be copied; as their owner or a superuser, run:\n\
         grant select on {} to {role};\n\
         (and grant usage on the schema, where that is lacking)",
        unreadable.join(", ")
    )))
}

/// The tables, by oid, that the role cannot read whole, with what keeps it from that; none where it can read all.
pub(super) async fn unreadable(sql: &Client, tables: &[Table]) -> Result<Option<(Error, HashSet<u32>)>> {
    let role = catalog::current_role_rights(sql).await?.role;
    match check_readable(sql, &role, tables).await {
        Ok(()) => Ok(None),
        Err(error) => Ok(Some((error, hidden(sql, tables).await?))),
    }
}

/// Tables, by oid, that the role may not read, or would not be shown all of; partitioned ones with such a leaf among them.
async fn hidden(sql: &Client, tables: &[Table]) -> Result<HashSet<u32>> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let rights = catalog::table_rights(sql, &oids).await?;
    let is_hidden = |table: &&Table| {
        let unreadable = || rights.iter().any(|right| right.oid == table.oid && !right.select);
        table.row_security || (table.kind != TableKind::Partitioned && unreadable())
    };
    Ok(tables.iter().filter(is_hidden).flat_map(|table| [table.oid, table.root()]).collect())
}

/// A name for a temporary slot beside the capture's own. Never the same twice: the server may need a moment to notice that
/// the connection of the last one was closed.
pub(super) fn temporary_slot(own: &str) -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    // 40, 6, 10, 1 and 5 bytes at most: a slot's name has 63.
    format!("{}_copy_{}_{}", own.chars().take(40).collect::<String>(), std::process::id(), number % 100_000)
}

/// Makes a slot and exports the snapshot of its consistent point. `stop` ends the wait for that with [`Error::Stopped`].
pub(super) async fn export(
    sql: &Client,
    connection: Connection,
    name: &str,
    version: u32,
    temporary: bool,
    stop: &AtomicBool,
) -> Result<Exported> {
    let exported = export_within(sql, connection, name, version, temporary, stop, None).await?;
    exported.ok_or(Error::Stopped)
}

/// The same; none where transactions that began before go on for longer than `patience`.
pub(super) async fn export_within(
    sql: &Client,
    mut connection: Connection,
    name: &str,
    version: u32,
    temporary: bool,
    stop: &AtomicBool,
    patience: Option<Duration>,
) -> Result<Option<Exported>> {
    // Standbys keep a copy of a slot that is to stay, so that a failover loses nothing; on a standby there is no such thing.
    let failover =
        !temporary && version >= slot::FAILOVER_VERSION && !catalog::server_info(sql).await?.in_recovery;
    let options = CreateOptions { temporary, export_snapshot: true, failover };
    let command = slot::create_command(version, name, options)?;
    let made = wait_for_slot(sql, connection.simple_query(&command), stop, patience).await;
    let rows = match made {
        Ok(Some(rows)) => rows,
        other => {
            // The server would go on waiting, with a slot that nobody reads.
            slot::abandon(sql, name).await?;
            return other.map(|_| None);
        }
    };
    let field = |at: usize| rows.first().and_then(|row| row.get(at)).and_then(Option::as_deref);
    let (Some(point), Some(snapshot)) = (field(1).and_then(|lsn| lsn.parse().ok()), field(2)) else {
        return Err(Error::other("the server's answer to CREATE_REPLICATION_SLOT makes no sense"));
    };
    let taken = Instant::now();
    let at = catalog::server_time(sql).await?;
    Ok(Some(Exported { connection, name: snapshot.to_owned(), point, at, taken }))
}

/// Comes back once the process has been told to stop, so long ago.
pub(super) async fn stopped(stop: &AtomicBool, ago: Duration) {
    while !stop.load(Ordering::SeqCst) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    tokio::time::sleep(ago).await;
}

/// Waits while a slot is made, and says what that waits for: transactions that began before [28]. None where it takes too long.
async fn wait_for_slot<T>(
    sql: &Client,
    made: impl Future<Output = bygone_replication::Result<T>>,
    stop: &AtomicBool,
    patience: Option<Duration>,
) -> Result<Option<T>> {
    let mut made = std::pin::pin!(made);
    let now = tokio::time::Instant::now();
    let deadline = now + patience.unwrap_or_default();
    let mut tell = tokio::time::interval_at(now + TELL_WAITING_EVERY, TELL_WAITING_EVERY);
    loop {
        tokio::select! {
            result = &mut made => return Ok(Some(result?)),
            () = stopped(stop, Duration::ZERO) => return Err(Error::Stopped),
            () = tokio::time::sleep_until(deadline), if patience.is_some() => return Ok(None),
            _ = tell.tick() => {
                if catalog::server_info(sql).await?.in_recovery {
                    // A standby knows what runs on its primary from records that an idle primary does not write.
                    tracing::warn!(
                        "the making of the slot waits for the primary to tell this standby which transactions run; if it is \
                         idle, run on the primary: select pg_log_standby_snapshot();"
                    );
                }
                for running in slot::running_transactions(sql).await? {
                    tracing::warn!(
                        pid = running.pid,
                        prepared = running.prepared,
                        application = running.application,
                        seconds = running.seconds,
                        "the making of the slot waits for this transaction to end"
                    );
                }
            }
        }
    }
}

/// There are objects that no commit names.
pub(super) async fn has_orphans(log: &LogWriter) -> Result<bool> {
    // Files that were begun and never named, by a writer that died.
    if log.store().has_stale_staging().await? {
        return Ok(true);
    }
    for directory in DATA {
        for object in log.store().list(directory).await? {
            if fact_seq(&object.path).is_some() && !log.state().names(&object.path) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
