//! The first copy of tables: pieces of them are read at one consistent point, by several workers, into files of facts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::pgoutput::Cell;
use bygone_replication::snapshot::copy_binary::BinaryCopy;
use bygone_replication::snapshot::{self, Chunk, copy_text};
use bygone_replication::table::{Column, Table, quote_literal};
use bygone_replication::wire::{Connection, Mode, ResultColumn};
use bygone_sink::encoder::{Encoder, EncoderLimits, FileNumbers, WrittenFile};
use bygone_sink::fact::Origin;
use bygone_sink::failpoint;
use bygone_sink::hashing::HashKey;
use bygone_sink::schema::TableSchema;
use bygone_sink::state::{BulkLoader, Shelf, State};
use bygone_sink::store::Store;
use bygone_sink::versioning::{ContentLoader, SnapshotWriter};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};

use super::progress::CopyProgress;
use crate::error::{Error, Result};

/// How long a table's lock is waited for: behind a waiting lock, everything queues up [29].
const LOCK_TIMEOUT: Duration = Duration::from_secs(20);

/// A table to be copied.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The captured table's index.
    pub(crate) index: usize,
    pub(crate) schema: Arc<TableSchema>,
    /// The table itself, or the leaves that hold its rows.
    pub(crate) parts: Vec<Table>,
}

/// What was copied of a table.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) index: usize,
    pub(crate) rows: u64,
    pub(crate) files: Vec<WrittenFile>,
    /// Its rows in state, to be installed once the log has the files; none for a table without a key.
    pub(crate) loader: Option<BulkLoader>,
    /// The rows of a table without a key, where they go into state alone.
    pub(crate) contents: Option<ContentLoader>,
}

/// What became of a table.
#[derive(Debug)]
pub(crate) enum Outcome {
    Copied(Box<Copied>),
    /// It cannot be read as it was at the consistent point, and must be copied at another one [30].
    Missed {
        /// The captured table's index.
        index: usize,
        why: Missed,
    },
}

/// Why a table cannot be read as it was at the consistent point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    /// It was altered or rewritten since.
    Altered,
    /// It is not there under its name any more.
    Gone,
    /// Somebody else has it locked.
    Locked,
    /// The role may not read it any more.
    Forbidden,
}

impl std::fmt::Display for Missed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Altered => f.write_str("it was altered or rewritten meanwhile"),
            Self::Gone => f.write_str("it was dropped or renamed meanwhile"),
            Self::Locked => write!(f, "somebody else had it locked for {} seconds", LOCK_TIMEOUT.as_secs()),
            Self::Forbidden => f.write_str("the role may not read it any more"),
        }
    }
}

impl Missed {
    /// What an error of a statement on one table alone means for that.
    fn of(error: &bygone_replication::Error) -> Option<Self> {
        match error.sqlstate()? {
            // A table or its schema, and a column.
            "42P01" | "3F000" => Some(Self::Gone),
            "42703" => Some(Self::Altered),
            "55P03" => Some(Self::Locked),
            "42501" => Some(Self::Forbidden),
            _ => None,
        }
    }
}

/// Where and how to copy.
#[derive(Clone, Debug)]
pub(crate) struct CopySettings {
    pub(crate) options: ConnectOptions,
    pub(crate) snapshot_name: String,
    /// When that was taken.
    pub(crate) taken: Instant,
    pub(crate) origin: Origin,
    pub(crate) workers: usize,
    pub(crate) block_size: u32,
    pub(crate) limits: EncoderLimits,
    pub(crate) stop: Arc<AtomicBool>,
    /// The rows go into state alone, and no file is written.
    pub(crate) aside: bool,
    /// For columns that are hashed.
    pub(crate) hash_key: Option<HashKey>,
}

/// A piece of work: a table or a range of its blocks.
#[derive(Debug)]
struct Task {
    shared: Arc<Shared>,
    part: Table,
    leaf: u32,
    chunk: Chunk,
    bytes: u64,
}

/// What the pieces of a table share.
#[derive(Debug)]
struct Shared {
    index: usize,
    schema: Arc<TableSchema>,
    next_seq: Arc<AtomicU64>,
    loader: Mutex<Option<BulkLoader>>,
    contents: Mutex<Option<Arc<Mutex<ContentLoader>>>>,
    left: AtomicU64,
    rows: AtomicU64,
    missed: OnceLock<Missed>,
    files: Mutex<Vec<WrittenFile>>,
}

/// Copies tables; each is sent on as soon as all of it is durable in files.
pub(crate) async fn copy(
    settings: &CopySettings,
    store: &Store,
    state: &Arc<State>,
    numbers: &Arc<FileNumbers>,
    wanted: Vec<Wanted>,
    done: mpsc::Sender<Outcome>,
) -> Result<()> {
    // Until they are in files, rows name large values that no state holds.
    let _hold = state.shelf().hold();
    let mut shared = BTreeMap::new();
    let mut parts = Vec::new();
    let mut owner = BTreeMap::new();
    for table in wanted {
        let loader = if table.schema.key.is_empty() {
            None
        } else {
            Some(state.bulk_load(table.schema.number).map_err(bygone_sink::error::Error::from)?)
        };
        let contents = (settings.aside && loader.is_none())
            .then(|| Arc::new(Mutex::new(ContentLoader::new(Arc::clone(state), Arc::clone(&table.schema)))));
        for part in &table.parts {
            let leaf = if part.oid == table.schema.oid { 0 } else { part.oid };
            owner.insert(part.oid, (table.index, leaf));
            parts.push(part.clone());
        }
        let of_table = Shared {
            index: table.index,
            schema: table.schema,
            next_seq: Arc::new(AtomicU64::new(0)),
            loader: Mutex::new(loader),
            contents: Mutex::new(contents),
            left: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            missed: OnceLock::new(),
            files: Mutex::new(Vec::new()),
        };
        shared.insert(table.index, Arc::new(of_table));
    }
    let mut tasks = VecDeque::new();
    for piece in snapshot::plan(&parts, settings.workers, snapshot::CHUNK_BYTES, settings.block_size) {
        let Some((index, leaf)) = owner.get(&piece.table.oid) else { continue };
        let Some(shared) = shared.get(index) else { continue };
        shared.left.fetch_add(1, Ordering::SeqCst);
        tasks.push_back(Task {
            shared: Arc::clone(shared),
            part: piece.table.clone(),
            leaf: *leaf,
            chunk: piece.chunk,
            bytes: piece.bytes,
        });
    }
    // A partitioned table without leaves has nothing to copy.
    for shared in shared.values().filter(|shared| shared.left.load(Ordering::SeqCst) == 0) {
        finish_table(shared, &done).await?;
    }
    let total: u64 = tasks.iter().map(|task| task.bytes).sum();
    let progress = Arc::new(CopyProgress::start(tasks.len(), total, settings.taken));
    let workers = settings.workers.min(tasks.len()).max(1);
    let tasks = Arc::new(Mutex::new(tasks));
    // The others end with the one that fails; the capture need not.
    let failed = Arc::new(AtomicBool::new(false));
    let mut running = JoinSet::new();
    for _ in 0..workers {
        let worker = Worker {
            settings: settings.clone(),
            failed: Arc::clone(&failed),
            store: store.clone(),
            numbers: Arc::clone(numbers),
            tasks: Arc::clone(&tasks),
            done: done.clone(),
            progress: Arc::clone(&progress),
            shelf: Arc::clone(state.shelf()),
            runtime: Handle::current(),
        };
        // Decoding and encoding keep a thread busy for minutes.
        running.spawn_blocking(move || worker.run());
    }
    drop(done);
    let mut first = Ok(());
    while let Some(result) = running.join_next().await {
        if let Err(error) = ended(result) {
            failed.store(true, Ordering::SeqCst);
            if first.is_ok() {
                first = Err(error);
            }
        }
    }
    progress.finish();
    first
}

async fn finish_table(shared: &Shared, done: &mpsc::Sender<Outcome>) -> Result<()> {
    let loader = shared.loader.lock().unwrap_or_else(PoisonError::into_inner).take();
    // The last worker is done: nobody else holds it.
    let contents = shared.contents.lock().unwrap_or_else(PoisonError::into_inner).take();
    let contents = contents
        .and_then(Arc::into_inner)
        .map(|contents| contents.into_inner().unwrap_or_else(PoisonError::into_inner));
    let outcome = if let Some(why) = shared.missed.get() {
        drop(loader);
        Outcome::Missed { index: shared.index, why: *why }
    } else {
        failpoint::hit("snapshot.table_done")?;
        Outcome::Copied(Box::new(Copied {
            index: shared.index,
            rows: shared.rows.load(Ordering::SeqCst),
            files: std::mem::take(&mut *shared.files.lock().unwrap_or_else(PoisonError::into_inner)),
            loader,
            contents,
        }))
    };
    done.send(outcome).await.map_err(|_| Error::other("the snapshot was given up"))
}

/// A piece whose rows have all been read.
struct CopiedPiece {
    rows: u64,
    /// Its files, as soon as all are durable.
    files: oneshot::Receiver<bygone_sink::error::Result<Vec<WrittenFile>>>,
}

/// Waits until the files of a piece are durable. The last piece of a table ends the table.
async fn end_piece(
    task: Task,
    copied: Option<CopiedPiece>,
    done: mpsc::Sender<Outcome>,
    progress: Arc<CopyProgress>,
) -> Result<()> {
    let shared = &task.shared;
    if let Some(copied) = copied {
        let files = copied.files.await.map_err(|_| Error::other("the encoder has stopped"))??;
        shared.files.lock().unwrap_or_else(PoisonError::into_inner).extend(files);
        shared.rows.fetch_add(copied.rows, Ordering::SeqCst);
        progress.piece_done(task.bytes);
    }
    if shared.left.fetch_sub(1, Ordering::SeqCst) == 1 {
        finish_table(shared, &done).await?;
    }
    Ok(())
}

fn ended(end: std::result::Result<Result<()>, JoinError>) -> Result<()> {
    end.unwrap_or_else(|error| Err(Error::other(format!("a copying task has failed: {error}"))))
}

struct Worker {
    settings: CopySettings,
    /// Another worker has failed.
    failed: Arc<AtomicBool>,
    store: Store,
    numbers: Arc<FileNumbers>,
    tasks: Arc<Mutex<VecDeque<Task>>>,
    done: mpsc::Sender<Outcome>,
    progress: Arc<CopyProgress>,
    shelf: Arc<Shelf>,
    runtime: Handle,
}

impl Worker {
    fn run(&self) -> Result<()> {
        let encoder = if self.settings.aside {
            Encoder::discarding()
        } else {
            let numbers = Arc::clone(&self.numbers);
            Encoder::start(self.store.clone(), numbers, self.settings.limits, self.runtime.clone())?.0
        };
        let mut connection = self.runtime.block_on(Connection::connect(&self.settings.options, Mode::Sql))?;
        let mut ends = JoinSet::new();
        loop {
            let task = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(task) = task else { break };
            if self.is_stopped() {
                return Err(Error::Stopped);
            }
            while let Some(end) = ends.try_join_next() {
                ended(end)?;
            }
            let copied = match task.shared.missed.get() {
                Some(_) => None,
                None => self.copy(&mut connection, &encoder, &task)?,
            };
            // The next piece does not wait until the files of this one are encoded and durable.
            let end = end_piece(task, copied, self.done.clone(), Arc::clone(&self.progress));
            ends.spawn_on(end, &self.runtime);
        }
        self.runtime.block_on(async {
            connection.close().await;
            while let Some(end) = ends.join_next().await {
                ended(end)?;
            }
            Ok(())
        })
    }

    fn is_stopped(&self) -> bool {
        self.settings.stop.load(Ordering::Relaxed) || self.failed.load(Ordering::Relaxed)
    }

    /// Copies one piece in a transaction of its own on the exported snapshot; none where the table is not as it was there.
    fn copy(
        &self,
        connection: &mut Connection,
        encoder: &Encoder,
        task: &Task,
    ) -> Result<Option<CopiedPiece>> {
        let begun = Instant::now();
        failpoint::hit("snapshot.before_lock")?;
        for statement in snapshot::import_statements(&self.settings.snapshot_name) {
            self.runtime.block_on(connection.simple_query(&statement))?;
        }
        let missed = match self.lock(connection, task) {
            Ok(missed) => missed,
            Err(Error::Source(error)) => Some(Missed::of(&error).ok_or(error)?),
            Err(error) => return Err(error),
        };
        if let Some(missed) = missed {
            // Another piece of the table may have been told so before.
            task.shared.missed.get_or_init(|| missed);
            self.runtime.block_on(connection.simple_query("rollback"))?;
            return Ok(None);
        }
        let schema = &task.shared.schema;
        let loader = task
            .shared
            .loader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(BulkLoader::writer);
        let mut writer = SnapshotWriter::new(
            Arc::clone(schema),
            task.leaf,
            encoder.clone(),
            loader,
            self.settings.origin.clone(),
            Arc::clone(&task.shared.next_seq),
        )
        .with_hash_key(self.settings.hash_key.as_ref())
        .with_shelf(&self.shelf)
        .with_contents(task.shared.contents.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let binary = schema.reads_binary();
        let columns = schema.columns.iter().map(|column| &column.column);
        let statement = snapshot::copy_statement(&task.part, columns, task.chunk, binary);
        let width = schema.columns.len();
        // Rows without a key are known by what the stream sends of them.
        let keyless = schema.key.is_empty();
        let left_out =
            schema.columns.iter().map(|column| column.column.left_out || (keyless && !column.sent));
        let left_out: Vec<bool> = left_out.collect();
        let whole = !left_out.contains(&true);
        let mut rows_read = 0u64;
        let mut bytes_read = 0u64;
        let mut copy = self.runtime.block_on(connection.copy_out(&statement))?;
        let mut format = BinaryCopy::new(width);
        while let Some(chunk) = self.runtime.block_on(copy.next())? {
            if self.is_stopped() {
                return Err(Error::Stopped);
            }
            for mut payload in chunk.payloads() {
                if binary {
                    while let Some(row) = format.next_row(&mut payload).map_err(copy_error)? {
                        rows_read += 1;
                        if whole {
                            writer.binary_row(row.fields())?;
                            continue;
                        }
                        writer.row(row.fields().zip(&left_out).map(|(field, left_out)| match field {
                            _ if *left_out => Cell::Unchanged,
                            Some(value) => Cell::Binary(value),
                            None => Cell::Null,
                        }))?;
                    }
                } else {
                    let row = copy_text::Row::parse(payload, width).map_err(copy_error)?;
                    let fields: Vec<_> = row.fields().collect();
                    writer.row(fields.iter().zip(&left_out).map(|(field, left_out)| match field {
                        _ if *left_out => Cell::Unchanged,
                        Some(text) => Cell::Text(text),
                        None => Cell::Null,
                    }))?;
                    rows_read += 1;
                }
            }
            bytes_read += chunk.size() as u64;
            self.progress.read(rows_read, chunk.size() as u64);
            rows_read = 0;
        }
        if binary {
            format.finish().map_err(copy_error)?;
        }
        let said = copy.rows();
        self.runtime.block_on(connection.simple_query("commit"))?;
        let rows = writer.finish()?;
        if said.is_some_and(|said| said != rows) {
            return Err(Error::other(format!(
                "{}: {rows} rows came of {said:?} that the server sent",
                schema.log_name
            )));
        }
        let files = encoder.finish(None)?;
        tracing::debug!(
            table = schema.log_name,
            rows,
            bytes = bytes_read,
            seconds = begun.elapsed().as_secs_f64(),
            "copied a piece"
        );
        Ok(Some(CopiedPiece { rows, files }))
    }

    /// Locks the table; says why it cannot be copied as it was at the consistent point, if so [30].
    fn lock(&self, connection: &mut Connection, task: &Task) -> Result<Option<Missed>> {
        for statement in snapshot::lock_statements(&task.part, LOCK_TIMEOUT) {
            self.runtime.block_on(connection.simple_query(&statement))?;
        }
        let is_same = self.was_as_planned(connection, task)? && self.is_as_planned(connection, task)?;
        Ok((!is_same).then_some(Missed::Altered))
    }

    /// The names that are copied by lead, under the lock, to the columns of the plan. Others may have them by now, of the table or
    /// under its name.
    fn is_as_planned(&self, connection: &mut Connection, task: &Task) -> Result<bool> {
        let columns: Vec<&Column> = task.shared.schema.columns.iter().map(|column| &column.column).collect();
        let sql = snapshot::resolve_statement(&task.part, columns.iter().copied());
        let resolved = self.runtime.block_on(connection.describe(&sql))?;
        let planned = columns.iter().filter(|column| !column.left_out).map(|column| {
            let own = task.part.columns.iter().find(|own| own.name == column.name)?;
            let type_oid = own.data_type.base().oid;
            Some(ResultColumn { table: task.part.oid, attnum: own.attnum, type_oid })
        });
        Ok(planned.eq(resolved.into_iter().map(Some)))
    }

    /// The table's file is that of the consistent point, and its columns were those of the plan.
    fn was_as_planned(&self, connection: &mut Connection, task: &Task) -> Result<bool> {
        // A column that has come since is told by the stream, and publications may leave some out.
        let attnums: Vec<String> = task.part.columns.iter().map(|column| column.attnum.to_string()).collect();
        let sql = format!(
            "select c.relfilenode = pg_catalog.pg_relation_filenode(c.oid), (select pg_catalog.string_agg(a.attnum || ' ' || \
             a.atttypid || ' ' || a.atttypmod || ' ' || a.attname, ',' order by a.attnum) from pg_catalog.pg_attribute a \
             where a.attrelid = c.oid and a.attnum = any ({}) and not a.attisdropped) from pg_catalog.pg_class c \
             where c.oid = {}::pg_catalog.oid",
            quote_literal(&format!("{{{}}}", attnums.join(","))),
            quote_literal(&task.part.oid.to_string())
        );
        let rows = self.runtime.block_on(connection.simple_query(&sql))?;
        let Some([same_file, columns]) = rows.first().and_then(|row| row.first_chunk()) else {
            return Ok(false);
        };
        let planned: Vec<String> = task
            .part
            .columns
            .iter()
            .map(|column| {
                let kind = &column.data_type;
                format!("{} {} {} {}", column.attnum, kind.oid, kind.typmod, column.name)
            })
            .collect();
        Ok(same_file.as_deref() == Some("t") && columns.as_deref().unwrap_or_default() == planned.join(","))
    }
}

fn copy_error(error: snapshot::CopyError) -> Error {
    Error::other(error.to_string())
}
