//! Tables as the source has them, gathered beside the stream, to be compared with what state knows.
//!
//! A temporary slot gives a consistent point Y and its snapshot. The tables are copied as of Y into a state of their own
//! while the stream of all others goes on; what the stream brings of them meanwhile is kept aside. Once the copy is there,
//! what was kept is applied to it, and so it shows the tables as of the very place where the stream stands: between two
//! transactions, of which none is torn [4]. Nothing of it is a fact yet: see [`Pipeline::join`](super::pipeline).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};

use bygone_replication::Lsn;
use bygone_replication::catalog;
use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::pgoutput::Message;
use bygone_replication::session;
use bygone_replication::table::{Table, TableKind};
use bygone_replication::wire::{Connection, Mode};
use bygone_sink::encoder::{Encoder, EncoderLimits, FileNumbers};
use bygone_sink::fact::Origin;
use bygone_sink::failpoint;
use bygone_sink::state::{Identity, Shelf, State};
use bygone_sink::store::Store;
use bygone_sink::versioning::Versioner;

use super::attach::{self, export, temporary_slot};
use super::axis::Axis;
use super::column_rules::ColumnRules;
use super::registry::{Registry, key_after};
use super::relations::{Follower, Place};
use super::retention::Retention;
use super::snapshot::{self, CopySettings, Outcome, Wanted};
use super::source::{CatalogReader, restrict};
use super::watcher::Families;
use crate::error::{Error, Result};

/// A table that is altered each time it is copied is given up after so many tries, until the next time.
const ATTEMPTS: usize = 5;
/// Of the state that holds the copies: it is written once and read once.
const CACHE_BYTES: u64 = 8 << 20;

/// What copies need.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) options: ConnectOptions,
    pub(super) slot: String,
    pub(super) workers: usize,
    pub(super) limits: EncoderLimits,
    pub(super) spill_bytes: usize,
    /// Where the copies, and what the stream brings meanwhile, are kept.
    pub(super) directory: PathBuf,
    /// Publications that the operator made.
    pub(super) made: Vec<String>,
    /// Files go nowhere; the copying asks for it all the same.
    pub(super) store: Store,
    pub(super) axis: Axis,
    /// Which columns are left out, hashed, or not watched.
    pub(super) rules: ColumnRules,
    /// The keys that name the rows of captured tables, by oid.
    pub(super) keys: HashMap<u32, Vec<i16>>,
    /// All of the tables have to be copied: none is left for another time.
    pub(super) whole: bool,
    /// Where large values go; the copy's own, where rows of it go nowhere else.
    pub(super) shelf: Option<Arc<Shelf>>,
}

/// The tables of a copy that is there.
pub(super) struct Copied {
    pub(super) point: Lsn,
    /// The server's clock just after that point, microseconds since the Unix epoch.
    pub(super) at: i64,
    /// Some tables were left for another time.
    pub(super) is_part: bool,
    follower: Follower,
    /// Place in `follower` of each captured table.
    places: BTreeMap<usize, usize>,
    /// Dropped after what is open in it.
    _directory: tempfile::TempDir,
}

/// A copy under way.
pub(super) struct Shadow {
    /// The captured tables that are copied, by index, with their oids.
    pub(super) tables: BTreeMap<usize, u32>,
    pub(super) relations: BTreeSet<u32>,
    kept: Kept,
    outcome: mpsc::Receiver<Result<Copied>>,
    pub(super) ready: Option<Copied>,
    stop: Arc<AtomicBool>,
}

impl std::fmt::Debug for Shadow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shadow").field("tables", &self.tables).finish_non_exhaustive()
    }
}

impl Shadow {
    /// Begins to copy tables, given by index and oid. `relations` are the oids under which the stream sends their rows, and
    /// `announced` what it has said of these.
    pub(super) fn start(
        settings: Settings,
        tables: BTreeMap<usize, u32>,
        relations: BTreeSet<u32>,
        announced: Vec<Vec<u8>>,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Self> {
        let mut kept = Kept::create(&settings.directory)?;
        for body in announced {
            kept.write(Lsn::ZERO, &body)?;
        }
        let (tell, outcome) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = tables.clone();
        let stopping = Arc::clone(&stop);
        runtime.spawn(async move {
            // Nobody is there to hear of it when the capture has ended.
            let _ = tell.send(copy(&settings, &theirs, &stopping).await);
        });
        Ok(Self { tables, relations, kept, outcome, ready: None, stop })
    }

    /// Keeps a message of the stream if it concerns the tables; `end` is where its transaction ends.
    pub(super) fn keep(&mut self, end: Lsn, body: &[u8]) -> Result<()> {
        // Only messages about relations: the decoder need not look at the others.
        if !matches!(body.first(), Some(b'R' | b'I' | b'U' | b'D' | b'T')) {
            return Ok(());
        }
        let concerns = match Message::decode(body)? {
            Message::Relation(relation) => self.relations.contains(&relation.oid),
            Message::Insert { relation, .. }
            | Message::Update { relation, .. }
            | Message::Delete { relation, .. } => self.relations.contains(&relation),
            Message::Truncate { relations, .. } => relations.oids().any(|oid| self.relations.contains(&oid)),
            _ => false,
        };
        if concerns { self.kept.write(end, body) } else { Ok(()) }
    }

    /// Keeps the announcement of a relation whose rows come later.
    pub(super) fn announced(&mut self, body: &[u8]) -> Result<()> {
        // As of before the copy, like what was announced before that was begun.
        self.keep(Lsn::ZERO, body)
    }

    /// Looks whether the copy is there.
    pub(super) fn look(&mut self) -> Result<bool> {
        if self.ready.is_none() {
            match self.outcome.try_recv() {
                Ok(outcome) => self.ready = Some(outcome?),
                Err(mpsc::TryRecvError::Empty) => {}
                Err(mpsc::TryRecvError::Disconnected) => {
                    return Err(Error::other("a copy has failed without a word"));
                }
            }
        }
        Ok(self.ready.is_some())
    }

    /// The tables as they are where the stream stands.
    pub(super) fn catch_up(&mut self, catalog: &mut CatalogReader) -> Result<Option<Copied>> {
        let Some(mut copied) = self.ready.take() else { return Ok(None) };
        let point = copied.point;
        let mut open: Option<Lsn> = None;
        let follower = &mut copied.follower;
        self.kept.read_back(|end, body| {
            if end <= point {
                // The copy holds it. What was said of columns counts where it still holds; else it is said again.
                return if body.first() == Some(&b'R') { follower.remember(body) } else { Ok(()) };
            }
            if open != Some(end) {
                if open.is_some() {
                    follower.versioner.commit()?;
                }
                follower.versioner.begin(Origin { lsn: end, xid: 0, committed_at: 0, valid_from: 0 });
                open = Some(end);
            }
            follower.message(body, catalog, &Place { held: point, position: point, end, xid: None })
        })?;
        if open.is_some() {
            follower.versioner.commit()?;
        }
        Ok(Some(copied))
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Copied {
    /// The versioner that holds the tables, and the place there of a captured table, once its columns and key are those of
    /// `schema`.
    pub(super) fn table(
        &mut self,
        index: usize,
        schema: &bygone_sink::schema::TableSchema,
    ) -> Result<Option<(&Versioner, usize)>> {
        let Some(place) = self.places.get(&index).copied() else { return Ok(None) };
        if self.follower.registry.tables().get(place).is_none_or(|table| table.doubt.is_some()) {
            // What the stream told of it since the copy's point is not all that has happened.
            return Ok(None);
        }
        let Some(own) = self.follower.versioner.schema(place).cloned() else { return Ok(None) };
        let key: Vec<i16> = schema
            .key
            .iter()
            .filter_map(|at| schema.columns.get(*at))
            .map(|column| column.column.attnum)
            .collect();
        let own_key: Vec<i16> =
            own.key.iter().filter_map(|at| own.columns.get(*at)).map(|column| column.column.attnum).collect();
        if own_key != key {
            // The key changed while the copy was made, or before that was noticed.
            return Ok(None);
        }
        if own.columns != schema.columns {
            let like = bygone_sink::schema::TableSchema::of_columns(
                own.number,
                own.name.clone(),
                own.log_name.clone(),
                own.oid,
                own.version + 1,
                schema.columns.clone(),
                &key,
            );
            self.follower.versioner.change_schema(place, Arc::new(like))?;
        }
        Ok(Some((&self.follower.versioner, place)))
    }
}

/// Copies tables, given by index and oid, as of a consistent point of now.
pub(super) async fn copy(
    settings: &Settings,
    tables: &BTreeMap<usize, u32>,
    stop: &Arc<AtomicBool>,
) -> Result<Copied> {
    let mut told = String::new();
    for _ in 0..ATTEMPTS {
        match copy_once(settings, tables, stop).await? {
            Ok(copied) => return Ok(copied),
            Err(missed) => told = missed,
        }
    }
    Err(Error::other(format!("tables could not be copied, at {ATTEMPTS} tries; the last time: {told}")))
}

/// Copies the tables at the point of a new temporary slot; or says which of them could not be read as of that, and why.
async fn copy_once(
    settings: &Settings,
    tables: &BTreeMap<usize, u32>,
    stop: &Arc<AtomicBool>,
) -> Result<std::result::Result<Copied, String>> {
    let sql = session::connect_sql(&settings.options).await?;
    let connection = Connection::connect(&settings.options, Mode::Replication).await?;
    let version = connection.server_version();
    let name = temporary_slot(&settings.slot);
    let mut exported = export(&sql, connection, &name, version, true, stop).await?;
    exported.point = settings.axis.of_history(exported.point);
    failpoint::hit("copy.begun")?;
    let oids: Vec<u32> = tables.values().copied().collect();
    let mut found = with_leaves(&sql, &oids).await?;
    restrict(&sql, &settings.made, &mut found).await?;
    let left_out = left_for_later(settings, &sql, tables, &found).await?;
    let directory = tempfile::Builder::new()
        .prefix("copy-")
        .tempdir_in(&settings.directory)
        .map_err(|error| unwritable(&settings.directory, &error))?;
    let path = directory.path().join("state");
    let state = tokio::task::spawn_blocking(move || {
        State::open(&path, &Identity { history_id: "copy".to_owned() }, CACHE_BYTES)
    })
    .await
    .map_err(|error| Error::other(format!("opening a copy's state: {error}")))?
    .map_err(bygone_sink::error::Error::from)?;
    let state = match &settings.shelf {
        Some(shelf) => state.sharing_shelf(Arc::clone(shelf)),
        None => state,
    };
    let state = Arc::new(state);
    let mut registry = Registry::ruled_by(settings.rules.clone(), Retention::default());
    let mut versioner = Versioner::new(Arc::clone(&state), Encoder::discarding(), settings.spill_bytes)
        .with_hash_key(settings.rules.hash_key().cloned());
    let mut places = BTreeMap::new();
    let mut wanted = Vec::new();
    let families = Families::of(&found);
    for (index, oid) in tables.iter().filter(|(_, oid)| !left_out.contains(oid)) {
        // One that was dropped is noticed by the watcher.
        let Some(table) = families.get(*oid) else { continue };
        let family = families.family(table);
        let known = settings.keys.get(oid).map(Vec::as_slice).unwrap_or_default();
        let key = key_after(known, table, &family);
        let place = registry.attach_by(table, &family, &key, exported.point)?;
        places.insert(*index, place);
        registry.snapshot_done(place, exported.point);
        let Some(captured) = registry.tables().get(place) else { continue };
        versioner.add_table(&captured.versions, exported.point);
        let parts = family.into_iter().filter(|part| captured.parts.contains_key(&part.oid)).collect();
        wanted.push(Wanted { index: place, schema: Arc::clone(captured.schema()), parts });
    }
    registry.know_relations(&found);
    let copying = CopySettings {
        options: settings.options.clone(),
        snapshot_name: exported.name.clone(),
        taken: exported.taken,
        origin: Origin { lsn: exported.point, xid: 0, committed_at: exported.at, valid_from: exported.at },
        workers: settings.workers,
        block_size: catalog::server_info(&sql).await?.block_size,
        limits: settings.limits,
        stop: Arc::clone(stop),
        aside: true,
        hash_key: settings.rules.hash_key().cloned(),
    };
    let numbers = Arc::new(FileNumbers::new(0));
    let (done, mut outcomes) = tokio::sync::mpsc::channel(64);
    let store = settings.store.clone();
    let into = Arc::clone(&state);
    let running =
        tokio::spawn(async move { snapshot::copy(&copying, &store, &into, &numbers, wanted, done).await });
    let mut seq = 0;
    let mut missed = BTreeMap::new();
    while let Some(outcome) = outcomes.recv().await {
        let table = match outcome {
            Outcome::Copied(table) => table,
            Outcome::Missed { index, why } => {
                missed.insert(index, why);
                continue;
            }
        };
        seq += 1;
        let state = Arc::clone(&state);
        tokio::task::spawn_blocking(move || -> bygone_sink::error::Result<()> {
            if let Some(loader) = table.loader {
                loader.install()?;
            }
            match table.contents {
                Some(contents) => contents.finish(&state, seq),
                None => Ok(()),
            }
        })
        .await
        .map_err(|error| Error::other(format!("keeping a copy: {error}")))??;
    }
    running.await.map_err(|error| Error::other(format!("a copy has failed: {error}")))??;
    exported.connection.close().await;
    failpoint::hit("copy.ready")?;
    places.retain(|_, place| !missed.contains_key(place));
    if !missed.is_empty() {
        let names = missed.iter().filter_map(|(place, why)| {
            registry.tables().get(*place).map(|table| format!("{}: {why}", table.schema().log_name))
        });
        let told = names.collect::<Vec<_>>().join(", ");
        tracing::warn!("not copied: {told}");
        if settings.whole || places.is_empty() {
            return Ok(Err(told));
        }
    }
    Ok(Ok(Copied {
        point: exported.point,
        at: exported.at,
        is_part: !missed.is_empty() || !left_out.is_empty(),
        follower: Follower::new(versioner, registry),
        places,
        _directory: directory,
    }))
}

/// Those of the tables that the role cannot read whole: they stand in the way of none of the others.
async fn left_for_later(
    settings: &Settings,
    sql: &tokio_postgres::Client,
    tables: &BTreeMap<usize, u32>,
    found: &[Table],
) -> Result<HashSet<u32>> {
    let Some((error, hidden)) = attach::unreadable(sql, found).await? else { return Ok(HashSet::new()) };
    if settings.whole || tables.values().all(|oid| hidden.contains(oid)) {
        return Err(error);
    }
    tracing::warn!(%error, "the others are copied");
    Ok(hidden)
}

/// Tables, and the leaves of those that are partitioned.
async fn with_leaves(sql: &tokio_postgres::Client, oids: &[u32]) -> Result<Vec<Table>> {
    let mut tables = catalog::load_tables_by_oid(sql, oids).await?;
    let roots: Vec<u32> =
        tables.iter().filter(|table| table.kind == TableKind::Partitioned).map(|table| table.oid).collect();
    if !roots.is_empty() {
        let leaves = catalog::leaves_of(sql, &roots).await?;
        tables.extend(catalog::load_tables_by_oid(sql, &leaves).await?);
    }
    Ok(tables)
}

/// Messages of the stream, each with the end of its transaction, in a file without a name.
#[derive(Debug)]
struct Kept {
    directory: PathBuf,
    file: BufWriter<File>,
    messages: u64,
}

impl Kept {
    fn create(directory: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(directory).map_err(|error| unwritable(directory, &error))?;
        let file = BufWriter::with_capacity(1 << 16, file);
        Ok(Self { directory: directory.to_owned(), file, messages: 0 })
    }

    fn write(&mut self, end: Lsn, body: &[u8]) -> Result<()> {
        let length =
            u32::try_from(body.len()).map_err(|_| Error::other("a message of the stream is over 4 GiB"))?;
        self.file
            .write_all(&end.0.to_le_bytes())
            .and_then(|()| self.file.write_all(&length.to_le_bytes()))
            .and_then(|()| self.file.write_all(body))
            .map_err(|error| unwritable(&self.directory, &error))?;
        self.messages += 1;
        Ok(())
    }

    fn read_back(&mut self, mut work: impl FnMut(Lsn, &[u8]) -> Result<()>) -> Result<()> {
        let unreadable = |error: std::io::Error| {
            Error::other(format!("cannot read back what was kept beside a copy: {error}"))
        };
        self.file.flush().map_err(|error| unwritable(&self.directory, &error))?;
        let file = self.file.get_mut();
        file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut body = Vec::new();
        for _ in 0..self.messages {
            let (mut end, mut length) = ([0; 8], [0; 4]);
            reader.read_exact(&mut end).map_err(unreadable)?;
            reader.read_exact(&mut length).map_err(unreadable)?;
            body.resize(u32::from_le_bytes(length) as usize, 0);
            reader.read_exact(&mut body).map_err(unreadable)?;
            work(Lsn(u64::from_le_bytes(end)), &body)?;
        }
        Ok(())
    }
}

fn unwritable(directory: &Path, error: &std::io::Error) -> Error {
    Error::other(format!(
        "cannot keep a copy in {}: {error}; give --state a directory with more room",
        directory.display()
    ))
}
