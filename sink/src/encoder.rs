//! Batches of facts become Parquet files, and files objects of the history.
//!
//! A thread of its own encodes; finished files are put while it goes on. Nothing here is part of the history until a
//! commit names it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use bygone_replication::Lsn;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::batch::{FactBatch, LargeCell, Span};
use crate::content::Content;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::large_file::LargeFile;
use crate::log::path::{TRANSACTIONS, fact_number, fact_path, transactions_path};
use crate::log::{Add, ContentHash, LARGE, LEAF, LogState};
use crate::parquet_layout;
use crate::schema::TableSchema;
use crate::store::{PutOutcome, StagedFile, Store};
use crate::timestamp::Timestamp;
use crate::value::RowError;
use crate::versioning::damaged_row;

/// Batches that may wait for the encoder: enough to even out bursts, few enough to stay small (8,192 rows each).
const WAITING_BATCHES: usize = 6;
/// Rows of a table that are gathered before its file is begun. Thousands of tables with a few rows each then cost a few
/// batches, not thousands of open files with their dictionaries.
const ROWS_BEFORE_FILE: usize = 32_768;

/// Bytes of a file on disk that are in memory at once while it is put.
const MOST_BUFFERED: usize = 24 << 20;

/// Paths that orphans may have taken before a writer gives up.
const MOST_ORPHANS: usize = 10_000;

/// How large things may get on the way to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderLimits {
    /// Bytes after which a file is finished.
    pub file_bytes: usize,
    /// Bytes in files that are open, over all tables; beyond it the largest is finished.
    pub open_bytes: usize,
    /// Bytes of finished files that wait to be durable.
    pub pending_bytes: usize,
}

/// Numbers the files of commits: `<seq>-<nnn>`.
#[derive(Debug)]
pub struct FileNumbers(Mutex<(u64, u32)>);

impl FileNumbers {
    /// Files from now on belong to commit `seq`.
    #[must_use]
    pub const fn new(seq: u64) -> Self {
        Self(Mutex::new((seq, 0)))
    }

    /// Files from now on belong to the next commit of a log. One that it names already may bear that number, and need not be there
    /// any more.
    #[must_use]
    pub fn after(log: &LogState) -> Self {
        let named = log.files().filter_map(|(path, _)| fact_number(path));
        let next = named.filter(|(seq, _)| *seq == log.next_seq).map(|(_, n)| n.saturating_add(1)).max();
        Self(Mutex::new((log.next_seq, next.unwrap_or(0))))
    }

    /// Files from now on belong to the next commit, `seq`.
    pub fn start(&self, seq: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (seq, 0);
    }

    fn take(&self) -> (u64, u32) {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = *next;
        next.1 += 1;
        taken
    }
}

/// A file that is durable, though no commit names it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenFile {
    /// Path in the history.
    pub path: String,
    /// Name of the table in the log.
    pub table: String,
    /// Schema version of its facts.
    pub schema: i32,
    /// The leaf partition that its facts are of; 0 outside partitioned tables.
    pub leaf: u32,
    /// Facts in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub sha256: ContentHash,
    /// What it covers.
    pub span: Span,
    /// What its facts say: see [`content`](crate::content).
    pub digest: Option<ContentHash>,
    /// Its facts have values of megabytes.
    pub large: bool,
}

impl WrittenFile {
    /// What a commit says of it.
    #[must_use]
    pub fn added(&self) -> Add {
        let mut extra = serde_json::Map::new();
        if self.leaf != 0 {
            extra.insert(LEAF.to_owned(), self.leaf.into());
        }
        if self.large {
            extra.insert(LARGE.to_owned(), true.into());
        }
        Add {
            path: self.path.clone(),
            table: self.table.clone(),
            schema: self.schema,
            rows: self.rows,
            bytes: self.bytes,
            sha256: self.sha256,
            lsn: [Lsn::from_i64(self.span.lsn.0), Lsn::from_i64(self.span.lsn.1)],
            valid_from: [Timestamp(self.span.valid_from.0), Timestamp(self.span.valid_from.1)],
            digest: self.digest,
            extra,
        }
    }
}

enum Job {
    Write { target: Target, batch: RecordBatch, span: Span, large: Vec<LargeCell> },
    Finish { next_seq: Option<u64>, answer: tokio::sync::oneshot::Sender<Result<Vec<WrittenFile>>> },
}

/// Table, schema version, day and leaf partition.
type FileKey = (String, i32, i64, u32);

/// Which file a batch goes into: the facts of a file are of one table, one schema version, one day and one leaf.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    key: FileKey,
    place: Place,
    pub(crate) schema: SchemaRef,
}

#[derive(Clone, Debug)]
pub(crate) enum Place {
    Facts(Arc<TableSchema>),
    Transactions,
}

/// The way to the encoder's thread.
#[derive(Clone)]
pub struct Encoder {
    jobs: Option<SyncSender<Job>>,
    failure: Arc<Mutex<Option<Error>>>,
    /// Bytes of finished files since the last commit was cut.
    bytes: Arc<AtomicU64>,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("discards", &self.jobs.is_none()).finish_non_exhaustive()
    }
}

impl Encoder {
    /// Starts the thread. It ends when the last clone of the encoder is dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        store: Store,
        numbers: Arc<FileNumbers>,
        limits: EncoderLimits,
        runtime: Handle,
    ) -> Result<(Self, JoinHandle<()>)> {
        let (jobs, inbox) = sync_channel(WAITING_BATCHES);
        let failure = Arc::new(Mutex::new(None));
        let pending = Arc::new(Semaphore::new(limits.pending_bytes));
        let bytes = Arc::new(AtomicU64::new(0));
        let mut worker = Worker {
            store,
            numbers,
            limits,
            runtime,
            pending,
            files: BTreeMap::new(),
            large: BTreeMap::new(),
            uploads: Vec::new(),
            bytes: Arc::clone(&bytes),
        };
        let shared = Arc::clone(&failure);
        let span = tracing::Span::current();
        let thread = std::thread::Builder::new()
            .name("encoder".to_owned())
            .spawn(move || span.in_scope(|| worker.run(&inbox, &shared)))
            .map_err(|error| {
                Error::new(ErrorKind::Io, "cannot start a thread", "encoder").with_source(error)
            })?;
        Ok((Self { jobs: Some(jobs), failure, bytes }, thread))
    }

    /// An encoder that drops what it is given.
    #[must_use]
    pub fn discarding() -> Self {
        Self { jobs: None, failure: Arc::default(), bytes: Arc::default() }
    }

    /// Takes the facts out of a batch, which all are of one day and one leaf partition (0 outside partitioned tables). Blocks while too many batches wait.
    ///
    /// # Errors
    /// When a file could not be written earlier on.
    pub fn write(&self, batch: &mut FactBatch, leaf: u32) -> Result<()> {
        let schema = Arc::clone(batch.schema());
        let Some((rows, span)) = batch.take().map_err(not_gathered)? else { return Ok(()) };
        let large = batch.take_large();
        let day = span.valid_from.0.div_euclid(86_400_000_000);
        let target = Target {
            key: (schema.log_name.clone(), schema.version, day, leaf),
            schema: Arc::clone(schema.arrow()),
            place: Place::Facts(schema),
        };
        self.send(Job::Write { target, batch: rows, span, large })
    }

    /// Takes rows of the table of transactions.
    ///
    /// # Errors
    /// When a file could not be written earlier on.
    pub fn write_transactions(&self, batch: RecordBatch, span: Span) -> Result<()> {
        let day = span.valid_from.0.div_euclid(86_400_000_000);
        let target = Target {
            key: (TRANSACTIONS.to_owned(), 0, day, 0),
            schema: batch.schema(),
            place: Place::Transactions,
        };
        self.send(Job::Write { target, batch, span, large: Vec::new() })
    }

    /// Ends the files of this commit, and numbers those to come after `next_seq` where one is given. The answer comes when
    /// all are durable.
    ///
    /// # Errors
    /// When a file could not be written earlier on.
    pub fn finish(
        &self,
        next_seq: Option<u64>,
    ) -> Result<tokio::sync::oneshot::Receiver<Result<Vec<WrittenFile>>>> {
        self.bytes.store(0, Ordering::Relaxed);
        let (answer, receiver) = tokio::sync::oneshot::channel();
        if self.jobs.is_some() {
            self.send(Job::Finish { next_seq, answer })?;
        } else {
            // Nobody may be listening any more: then the answer is of no use.
            let _ = answer.send(Ok(Vec::new()));
        }
        Ok(receiver)
    }

    /// Bytes of files that were finished for the commit that is being gathered.
    #[must_use]
    pub fn bytes_since_finish(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn send(&self, job: Job) -> Result<()> {
        let Some(jobs) = &self.jobs else { return Ok(()) };
        jobs.send(job).map_err(|_| {
            let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            failure.unwrap_or_else(|| {
                Error::new(ErrorKind::Latched, "the encoder has stopped", "see the error before")
            })
        })
    }
}

struct Worker {
    store: Store,
    numbers: Arc<FileNumbers>,
    limits: EncoderLimits,
    runtime: Handle,
    pending: Arc<Semaphore>,
    files: BTreeMap<FileKey, OpenFile>,
    /// Facts with values that are on a shelf have files of their own.
    large: BTreeMap<FileKey, LargeFile>,
    uploads: Vec<tokio::task::JoinHandle<Result<WrittenFile>>>,
    bytes: Arc<AtomicU64>,
}

/// Facts of one future file.
struct OpenFile {
    target: Target,
    /// Batches for which no file was begun yet.
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
    waiting_bytes: usize,
    writer: Option<ArrowWriter<Vec<u8>>>,
    content: Content,
    rows: u64,
    span: Span,
}

impl OpenFile {
    fn memory(&self) -> usize {
        self.waiting_bytes
            + self.writer.as_ref().map_or(0, |writer| writer.memory_size() + writer.bytes_written())
    }

    /// Moves waiting batches into the file.
    fn encode(&mut self) -> Result<()> {
        if self.writer.is_none() {
            let properties = parquet_layout::properties(&self.target.schema);
            let writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&self.target.schema), Some(properties));
            self.writer = Some(writer.map_err(parquet_bug)?);
        }
        if let Some(writer) = &mut self.writer {
            for batch in self.waiting.drain(..) {
                self.content.add(&batch);
                writer.write(&batch).map_err(parquet_bug)?;
            }
            if writer.in_progress_size() > parquet_layout::ROW_GROUP_BYTES {
                make_room(writer);
                writer.flush().map_err(parquet_bug)?;
            }
        }
        self.waiting_rows = 0;
        self.waiting_bytes = 0;
        Ok(())
    }
}

impl Worker {
    fn run(&mut self, inbox: &Receiver<Job>, failure: &Mutex<Option<Error>>) {
        while let Ok(job) = inbox.recv() {
            let done = match job {
                Job::Write { target, batch, span, large } if large.is_empty() => {
                    self.write(target, batch, span)
                }
                Job::Write { target, batch, large, .. } => self.write_large(&target, &batch, &large),
                Job::Finish { next_seq, answer } => self.finish(next_seq).map(|uploads| {
                    self.runtime.spawn(async move {
                        // Whoever asked may have given up in the meantime.
                        let _ = answer.send(collect(uploads).await);
                    });
                }),
            };
            if let Err(error) = done {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                return;
            }
        }
    }

    fn write(&mut self, target: Target, batch: RecordBatch, span: Span) -> Result<()> {
        let key = target.key.clone();
        let file = self.files.entry(key.clone()).or_insert_with(|| OpenFile {
            target,
            waiting: Vec::new(),
            waiting_rows: 0,
            waiting_bytes: 0,
            writer: None,
            content: Content::default(),
            rows: 0,
            span,
        });
        file.rows += batch.num_rows() as u64;
        file.waiting_rows += batch.num_rows();
        file.waiting_bytes += batch.get_array_memory_size();
        file.span = file.span.and(span);
        file.waiting.push(batch);
        if file.writer.is_some() || file.waiting_rows >= ROWS_BEFORE_FILE {
            file.encode()?;
        }
        if file.writer.as_ref().is_some_and(|writer| {
            writer.bytes_written() + writer.in_progress_size() >= self.limits.file_bytes
        }) {
            self.close(&key)?;
        }
        while self.files.values().map(OpenFile::memory).sum::<usize>() > self.limits.open_bytes {
            let largest = self.files.iter().max_by_key(|(_, file)| file.memory()).map(|(key, _)| key.clone());
            match largest {
                Some(key) => self.close(&key)?,
                None => break,
            }
        }
        Ok(())
    }

    /// Takes facts of which some have large values.
    fn write_large(&mut self, target: &Target, batch: &RecordBatch, values: &[LargeCell]) -> Result<()> {
        let mut done = 0;
        for values in values.chunk_by(|a, b| a.row == b.row) {
            let Some(row) = values.first().map(|value| value.row) else { continue };
            self.write_slice(target, batch, done..row)?;
            done = row + 1;
            let file = match self.large.entry(target.key.clone()) {
                Entry::Occupied(file) => file.into_mut(),
                Entry::Vacant(place) => place.insert(LargeFile::create(&self.store, target.clone())?),
            };
            if file.append(&batch.slice(row, 1), values)? >= self.limits.file_bytes as u64 {
                self.close_large(&target.key)?;
            }
        }
        self.write_slice(target, batch, done..batch.num_rows())
    }

    /// Takes some facts of a batch.
    fn write_slice(&mut self, target: &Target, batch: &RecordBatch, rows: Range<usize>) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let rows = batch.slice(rows.start, rows.len());
        let span = Span::of(&rows).map_err(arrow_bug)?;
        self.write(target.clone(), rows, span)
    }

    fn finish(&mut self, next_seq: Option<u64>) -> Result<Vec<tokio::task::JoinHandle<Result<WrittenFile>>>> {
        while let Some(key) = self.files.keys().next().cloned() {
            self.close(&key)?;
        }
        while let Some(key) = self.large.keys().next().cloned() {
            self.close_large(&key)?;
        }
        if let Some(seq) = next_seq {
            self.numbers.start(seq);
        }
        Ok(std::mem::take(&mut self.uploads))
    }

    /// Finishes a file and starts putting it.
    fn close(&mut self, key: &FileKey) -> Result<()> {
        let Some(mut file) = self.files.remove(key) else { return Ok(()) };
        file.encode()?;
        let Some(mut writer) = file.writer.take() else { return Ok(()) };
        make_room(&mut writer);
        let body = Bytes::from(writer.into_inner().map_err(parquet_bug)?);
        self.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        let permit = self.room(body.len())?;
        let mut named = Named::new(&file.target, file.rows, file.span, Arc::clone(&self.numbers));
        named.digest = file.content.finish();
        let store = self.store.clone();
        self.uploads.push(self.runtime.spawn(async move { put(store, named, body, permit).await }));
        Ok(())
    }

    /// Waits until so many bytes may be on their way. More than fits at once is still let through alone.
    fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let weight = u32::try_from(bytes.min(self.limits.pending_bytes)).unwrap_or(u32::MAX);
        self.runtime
            .block_on(Arc::clone(&self.pending).acquire_many_owned(weight))
            .map_err(|_| Error::new(ErrorKind::Latched, "the encoder has stopped", ""))
    }

    /// The same of a file with large values, which lies on disk.
    fn close_large(&mut self, key: &FileKey) -> Result<()> {
        let Some(file) = self.large.remove(key) else { return Ok(()) };
        let Some(span) = file.span else { return Ok(()) };
        let named = Named::new(&file.target, file.rows, span, Arc::clone(&self.numbers));
        let staged = file.finish()?;
        self.bytes.fetch_add(staged.bytes(), Ordering::Relaxed);
        let permit = self.room(MOST_BUFFERED)?;
        self.uploads.push(self.runtime.spawn(publish(named, staged, permit)));
        Ok(())
    }
}

/// A finished file, before it has a path.
struct Named {
    place: Place,
    leaf: u32,
    rows: u64,
    span: Span,
    /// None of a file that is never merged.
    digest: Option<ContentHash>,
    /// That of its commit: by the time at which it is put, the next one may be gathered.
    number: (u64, u32),
    numbers: Arc<FileNumbers>,
}

impl Named {
    fn new(target: &Target, rows: u64, span: Span, numbers: Arc<FileNumbers>) -> Self {
        let number = numbers.take();
        Self { place: target.place.clone(), leaf: target.key.3, rows, span, digest: None, number, numbers }
    }

    /// The retention class of its table.
    fn class(&self) -> Option<&str> {
        match &self.place {
            Place::Facts(schema) => schema.retention.as_deref(),
            Place::Transactions => None,
        }
    }

    /// A writer that died before its commit has left what has this path: no commit names it, and it goes after our next one.
    fn is_taken(&mut self, path: &str) {
        tracing::info!(path, "an orphan has this path: taking the next");
        self.number = self.numbers.take();
    }

    fn path(&self) -> String {
        let day = Timestamp(self.span.valid_from.0).date();
        let (seq, number) = self.number;
        match &self.place {
            Place::Facts(schema) => fact_path(&schema.name, &day, seq, number),
            Place::Transactions => transactions_path(&day, seq, number),
        }
    }

    fn written(self, path: String, bytes: u64, sha256: ContentHash, large: bool) -> WrittenFile {
        let (table, schema) = match &self.place {
            Place::Facts(schema) => (schema.log_name.clone(), schema.version),
            Place::Transactions => (TRANSACTIONS.to_owned(), 0),
        };
        let Self { leaf, rows, span, digest, .. } = self;
        WrittenFile { path, table, schema, leaf, rows, bytes, sha256, span, digest, large }
    }
}

/// Puts a file under the next free path.
async fn put(
    store: Store,
    mut named: Named,
    body: Bytes,
    _room: OwnedSemaphorePermit,
) -> Result<WrittenFile> {
    failpoint::hit("file.before_write")?;
    let size = body.len() as u64;
    let hashed = body.clone();
    let sha256 = tokio::task::spawn_blocking(move || ContentHash::of(&hashed))
        .await
        .map_err(|error| Error::new(ErrorKind::Io, "a task was ended", "hashing").with_source(error))?;
    failpoint::hit("file.after_write")?;
    for _ in 0..MOST_ORPHANS {
        let path = named.path();
        match store.put_new_of_class(&path, body.clone(), named.class()).await? {
            PutOutcome::Created => {
                failpoint::hit("file.after_upload")?;
                return Ok(named.written(path, size, sha256, false));
            }
            PutOutcome::AlreadyExists => named.is_taken(&path),
        }
    }
    Err(no_path())
}

/// Makes a file on disk the object of the next free path.
async fn publish(mut named: Named, staged: StagedFile, _room: OwnedSemaphorePermit) -> Result<WrittenFile> {
    let mut sealed = staged.seal().await?;
    let (size, sha256) = (sealed.bytes(), sealed.sha256());
    for _ in 0..MOST_ORPHANS {
        let path = named.path();
        match sealed.publish_of_class(&path, named.class()).await? {
            PutOutcome::Created => return Ok(named.written(path, size, sha256, true)),
            PutOutcome::AlreadyExists => named.is_taken(&path),
        }
    }
    Err(no_path())
}

fn no_path() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "no path is free for a file",
        "is another bygone writing to this history?",
    )
}

/// Makes room for the row group that is about to be written. A file that grows by doubling is copied each time, into memory that the
/// system has to clear first.
fn make_room(writer: &mut ArrowWriter<Vec<u8>>) {
    let size = writer.in_progress_size();
    writer.inner_mut().reserve(size);
}

async fn collect(uploads: Vec<tokio::task::JoinHandle<Result<WrittenFile>>>) -> Result<Vec<WrittenFile>> {
    let mut files = Vec::with_capacity(uploads.len());
    for upload in uploads {
        let file = upload
            .await
            .map_err(|error| Error::new(ErrorKind::Io, "a task was ended", "upload").with_source(error))?;
        files.push(file?);
    }
    Ok(files)
}

pub(crate) fn parquet_bug(error: ParquetError) -> Error {
    Error::new(ErrorKind::Io, "a Parquet file cannot be encoded", error.to_string()).with_source(error)
}

pub(crate) fn arrow_bug(error: arrow::error::ArrowError) -> Error {
    Error::new(ErrorKind::Io, "facts cannot be gathered", error.to_string()).with_source(error)
}

fn not_gathered(error: ArrowError) -> Error {
    if let ArrowError::ExternalError(error) = &error
        && let Some(error) = error.downcast_ref::<RowError>()
    {
        return damaged_row(*error);
    }
    arrow_bug(error)
}
