//! `bygone reconcile`: does the history hold what the source holds?
//!
//! Like a trial balance in book-keeping. The source's rows are copied as of one position, that of a temporary slot's snapshot;
//! the history's rows as of the same position are made from its facts alone, whatever state a capture keeps; and the two are
//! compared row by row. A capture that runs meanwhile is not disturbed: it is asked for a commit that covers the position,
//! and goes on behind the one that keeps the result ([`ASIDE`](bygone_sink::log::ASIDE)).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::preflight::StartRefused;
use bygone_replication::publication::Names;
use bygone_replication::wire::{Connection, Mode};
use bygone_replication::{Lsn, session};
use bygone_sink::encoder::Encoder;
use bygone_sink::error::ErrorKind as SinkErrorKind;
use bygone_sink::fact::{Op, Origin};
use bygone_sink::history::History;
use bygone_sink::log::{Event, EventKind, Manifest, VERIFIED};
use bygone_sink::read::Archive;
use bygone_sink::schema::TableSchema;
use bygone_sink::state::{Identity, State};
use bygone_sink::versioning::{Finding, FindingKind, Reconciled, Telling, Versioner, catch_up_until};
use tokio_postgres::Client;

use super::Memory;
use super::axis::Axis;
use super::column_rules::{ColumnRules, read_hash_key};
use super::pipeline::COMMIT_PREFIX;
use super::registry::Registry;
use super::shadow::{self, Copied, Settings};
use super::source;
use crate::cli::Reconcile;
use crate::error::{Error, Result};
use crate::query::lookup;

/// How often it is looked whether the history has come far enough.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often the capture is asked again for a commit.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// Of memory, as `bygone run` has it.
const MEMORY: u64 = 256 << 20;
/// Times that the result is tried to be kept, while a capture commits.
const ATTEMPTS: usize = 20;

/// What came of one table.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// As the log names it.
    pub(crate) table: String,
    /// The names of its columns, by place.
    pub(crate) columns: Vec<String>,
    /// How many rows, and how many that differ.
    pub(crate) found: Reconciled,
    /// The first that differ.
    pub(crate) findings: Vec<Finding>,
}

impl Verdict {
    /// Rows that differ.
    pub(crate) const fn differences(&self) -> u64 {
        self.found.added + self.found.changed + self.found.removed
    }
}

/// What came of all.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The position at which source and history were compared, in the history's positions.
    pub(crate) at: Lsn,
    pub(crate) verdicts: Vec<Verdict>,
    /// The commit that keeps the result.
    pub(crate) recorded: Option<u64>,
}

/// Compares tables of the source with the history.
pub(crate) async fn reconcile(arguments: &Reconcile, archive: &mut Archive) -> Result<Outcome> {
    let connect = ConnectOptions::parse(&arguments.source)?.with_application_name("bygone");
    check_source(&connect, archive.manifest()).await?;
    let registry = Registry::of_log(archive.log())?;
    let tables = chosen(arguments, archive, &registry)?;
    let hash_key = arguments.hash_key_file.as_deref().map(read_hash_key).transpose()?;
    let directory = match &arguments.directory {
        Some(directory) => tempfile::tempdir_in(directory),
        None => tempfile::tempdir(),
    }
    .map_err(|error| {
        Error::other(format!("cannot keep the rows to be compared: {error}; give --directory"))
    })?;
    let memory = Memory::of(MEMORY);
    let settings = Settings {
        options: connect.clone(),
        slot: archive.manifest().name.clone(),
        workers: usize::from(arguments.workers),
        limits: memory.encoder,
        spill_bytes: memory.changes,
        directory: directory.path().to_owned(),
        made: made_by_operator(archive.manifest())?,
        store: archive.store()?.clone(),
        axis: Axis { offset: archive.log().lsn_offset },
        rules: ColumnRules::of(&registry, tables.keys().copied(), hash_key)?,
        keys: registry.keys(),
        whole: true,
        shelf: None,
    };
    let mut copied = shadow::copy(&settings, &tables, &Arc::new(AtomicBool::new(false))).await?;
    let sql = session::connect_sql(&connect).await?;
    cover(archive, copied.point, &sql, arguments.wait).await?;
    let registry = Registry::of_log(archive.log())?;
    let wanted: HashMap<String, Vec<Arc<TableSchema>>> = tables
        .keys()
        .filter_map(|index| registry.tables().get(*index))
        .map(|table| (table.schema().log_name.clone(), table.versions.clone()))
        .collect();
    let path = directory.path().join("facts");
    let state = tokio::task::spawn_blocking(move || {
        State::open(&path, &Identity { history_id: "facts".to_owned() }, memory.state_cache)
    })
    .await
    .map_err(|error| Error::other(format!("opening a state: {error}")))?
    .map_err(bygone_sink::error::Error::from)?;
    let state = Arc::new(state);
    catch_up_until(&state, archive.store()?, archive.log(), &wanted, Some(copied.point)).await?;
    let (at, limit) = (copied.point, arguments.limit);
    let verdicts = tokio::task::spawn_blocking(move || {
        tables
            .keys()
            .map(|index| compare(*index, &registry, &state, &mut copied, limit))
            .collect::<Result<Vec<_>>>()
    })
    .await
    .map_err(|error| Error::other(format!("comparing: {error}")))??;
    let recorded =
        if arguments.no_record { None } else { Some(record(arguments, archive, at, &verdicts).await?) };
    if arguments.repair {
        // It hears of it with its next commit.
        ask_for_commit(&sql).await;
    }
    Ok(Outcome { at, verdicts, recorded })
}

/// It is the history's source.
async fn check_source(connect: &ConnectOptions, manifest: &Manifest) -> Result<()> {
    let mut connection = Connection::connect(connect, Mode::Replication).await?;
    let system_id = source::identify(&mut connection).await?.system_id.to_string();
    connection.close().await;
    if system_id == manifest.source.system_id {
        return Ok(());
    }
    Err(StartRefused::OtherSystem {
        recorded: manifest.source.system_id.parse().unwrap_or_default(),
        current: system_id.parse().unwrap_or_default(),
    }
    .into())
}

/// The publications through which the history is made, unless they are the capture's own.
fn made_by_operator(manifest: &Manifest) -> Result<Vec<String>> {
    let own = Names::new(&manifest.name)?.both().map(str::to_owned);
    Ok(if manifest.publications == own { Vec::new() } else { manifest.publications.clone() })
}

/// The tables that are asked for, by index, with their oids.
fn chosen(arguments: &Reconcile, archive: &Archive, registry: &Registry) -> Result<BTreeMap<usize, u32>> {
    let mut names = Vec::new();
    for text in &arguments.tables {
        names.push(lookup::table(archive, text)?.log_name);
    }
    let mut chosen = BTreeMap::new();
    for (index, table) in registry.tables().iter().enumerate() {
        let name = &table.schema().log_name;
        if !names.is_empty() && !names.contains(name) {
            continue;
        }
        if table.dropped || table.snapshot.is_none() {
            if names.contains(name) {
                let why = if table.dropped {
                    "is no longer captured"
                } else {
                    "has no snapshot in the history yet"
                };
                return Err(Error::other(format!("{name} {why}: there is nothing to compare")));
            }
            continue;
        }
        chosen.insert(index, table.schema().oid);
    }
    if chosen.is_empty() {
        return Err(Error::other("the history has no captured table to compare"));
    }
    Ok(chosen)
}

/// Waits until the history covers a position.
async fn cover(archive: &mut Archive, point: Lsn, sql: &Client, wait: Duration) -> Result<()> {
    let began = Instant::now();
    let mut asked: Option<Instant> = None;
    loop {
        archive.refresh().await?;
        let (last, _) = archive.known_until();
        if last >= point {
            return Ok(());
        }
        if began.elapsed() >= wait {
            return Err(Error::other(format!(
                "the history ends at {last}, and the comparison is of {point}: is bygone run going? Start it, or give it more \
                 time with --wait (now {} s)",
                wait.as_secs()
            )));
        }
        if asked.is_none_or(|at| at.elapsed() >= ASK_EVERY) {
            ask_for_commit(sql).await;
            asked = Some(Instant::now());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Asks the capture for a commit.
async fn ask_for_commit(sql: &Client) {
    let ask = format!("select pg_catalog.pg_logical_emit_message(true, '{COMMIT_PREFIX}', '')");
    if let Err(error) = sql.batch_execute(&ask).await {
        // A standby cannot: a commit comes by itself, later.
        tracing::debug!(%error, "no commit could be asked for");
    }
}

/// Compares one table.
fn compare(
    index: usize,
    registry: &Registry,
    state: &Arc<State>,
    copied: &mut Copied,
    limit: usize,
) -> Result<Verdict> {
    let table = registry.tables().get(index).ok_or_else(|| Error::other("a table is not known"))?;
    let schema = Arc::clone(table.schema());
    let (point, at) = (copied.point, copied.at);
    let Some((observed, place)) = copied.table(index, &schema)? else {
        return Err(Error::other(format!(
            "{} was altered while it was compared: once bygone run has taken that in, start again",
            schema.log_name
        )));
    };
    let mut known = Versioner::new(Arc::clone(state), Encoder::discarding(), Memory::of(MEMORY).changes);
    let own = known.add_table(&table.versions, Lsn::ZERO);
    known.note_findings(limit);
    known.begin(Origin { lsn: point, xid: 0, committed_at: at, valid_from: at });
    let telling = Telling { found: Op::Reconcile, gone: Op::Reconcile, leaf: None, old_key: None };
    let found = known.reconcile(own, observed, place, &telling)?;
    let columns = schema.columns.iter().map(|column| column.column.name.clone()).collect();
    Ok(Verdict { table: schema.log_name.clone(), columns, found, findings: known.take_findings() })
}

/// Has the log keep the result, whoever else writes to it.
async fn record(arguments: &Reconcile, archive: &mut Archive, at: Lsn, verdicts: &[Verdict]) -> Result<u64> {
    let mut events = Vec::new();
    for verdict in verdicts {
        let Reconciled { rows, added, changed, removed } = verdict.found;
        let differs = verdict.differences() > 0;
        let event = Event::at(EventKind::Reconcile, Some(verdict.table.clone()), at)
            .with(VERIFIED, !differs)
            .with("rows", rows)
            .with("missing", added)
            .with("changed", changed)
            .with("extra", removed);
        events.push(event);
        if differs && arguments.repair {
            let gap = Event::at(EventKind::Gap, Some(verdict.table.clone()), at);
            events.push(gap.with("doubt", true).with("reason", "bygone reconcile found differences"));
        }
    }
    for _ in 0..ATTEMPTS {
        let history = History::open(archive.store()?).await?;
        let mut body =
            history.state().aside().ok_or_else(|| Error::other("the history has no commit yet"))?;
        body.events.clone_from(&events);
        match history.into_writer().append(body).await {
            Ok(appended) => return Ok(appended.seq()),
            // A capture was first: behind its commit, then.
            Err(error) if error.kind() == SinkErrorKind::Fenced => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::other("the capture commits too often for the result to be kept: give --no-record"))
}

/// How a finding is told.
pub(crate) fn told(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::Missing => "not in the history",
        FindingKind::Changed => "differs",
        FindingKind::Extra => "not in the source",
    }
}
