//! One ordered tree of the embedded store: small writes go through its memtable, large ones in as sorted files.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lsm_tree::compaction::Leveled;
use lsm_tree::config::{
    BlockSizePolicy, BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry,
    PinningPolicy, RestartIntervalPolicy,
};
use lsm_tree::{
    AbstractTree as _, AnyIngestion, AnyTree, Cache, CompressionType, Config, DescriptorTable, Guard as _,
    SequenceNumberCounter, Slice,
};

use super::error::{Result, StateError, StateErrorKind};
use super::sort_buffer::SortBuffer;
use super::stored_value;

/// The memtable is written out when it holds this many bytes.
pub(super) const MEMTABLE_BYTES: u64 = 8 << 20;
/// A sort buffer is written out as one sorted run when it holds this many bytes.
pub(super) const RUN_BYTES: usize = 32 << 20;
/// From this many bytes on a commit goes in as a sorted file, past the memtable: half the work for each row, but some
/// fixed cost for the file.
pub(super) const RUN_FROM_BYTES: usize = 2 << 20;
/// Size of a block before compression: what a look-up reads and unpacks. Twice as much saves 8 % of the disk and costs a
/// third of the look-ups' speed.
const BLOCK_BYTES: u32 = 4 << 10;
/// By depth. New rows and their first merge are left as they are: packing would nearly double the cost of a load. What
/// settles below is packed, and so is a small store when it has time ([`Tree::pack`]).
const COMPRESSION: [CompressionType; 3] =
    [CompressionType::None, CompressionType::None, CompressionType::Lz4];
/// Size of a file: what a merge rewrites at least.
const FILE_BYTES: u64 = 32 << 20;
/// A larger store is not packed as a whole: rewriting it would take long and, for that time, twice the disk. It holds
/// less than the table's heap without that.
const PACK_BELOW: u64 = 1 << 30;
/// Open files of all trees together.
const OPEN_FILES: usize = 256;
/// Longest key the engine takes, our table number included.
const MAX_KEY: usize = u16::MAX as usize;

/// Memory shared by all trees of a store.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) cache: Arc<Cache>,
    pub(super) files: Arc<DescriptorTable>,
    pub(super) health: Arc<Health>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("health", &self.health).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(directory: &Path, cache_bytes: u64) -> Self {
        Self {
            cache: Arc::new(Cache::with_capacity_bytes(cache_bytes)),
            files: Arc::new(DescriptorTable::new(OPEN_FILES)),
            health: Arc::new(Health { directory: directory.to_owned(), ..Health::default() }),
        }
    }
}

/// What became of the store: once something is wrong, it stays so until the store is reopened.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Where it lies, for messages.
    directory: PathBuf,
    /// A damaged file was met, or the engine gave up half-way.
    pub(super) damaged: AtomicBool,
    /// A write failed.
    pub(super) stopped: AtomicBool,
}

impl Health {
    fn check_read(&self) -> Result<()> {
        if self.damaged.load(Ordering::Relaxed) {
            return Err(StateError::new(
                StateErrorKind::Damaged,
                "the state store is damaged: reopened, it starts empty",
            ));
        }
        Ok(())
    }

    fn check_write(&self) -> Result<()> {
        self.check_read()?;
        if self.stopped.load(Ordering::Relaxed) {
            return Err(StateError::new(
                StateErrorKind::Stopped,
                "an earlier write to the state store failed: it has to be reopened",
            ));
        }
        Ok(())
    }

    /// Sorts a failure into ours, and remembers it.
    fn failed(&self, what: &'static str, error: lsm_tree::Error) -> StateError {
        use lsm_tree::Error;
        match error {
            Error::Io(error) if !means_damage(&error) => StateError::io_in(&self.directory, what, error),
            error => {
                self.damaged.store(true, Ordering::Relaxed);
                StateError::new(StateErrorKind::Damaged, what).caused_by(error)
            }
        }
    }

    /// Calls into the engine to read. A panic inside it is taken for damage.
    fn read<T>(&self, what: &'static str, call: impl FnOnce() -> lsm_tree::Result<T>) -> Result<T> {
        self.check_read()?;
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(result) => result.map_err(|error| self.failed(what, error)),
            Err(_) => {
                self.damaged.store(true, Ordering::Relaxed);
                Err(StateError::new(StateErrorKind::Damaged, what).with("the storage engine panicked"))
            }
        }
    }

    /// Reads the stored form of a value.
    fn value(&self, stored: Slice) -> Result<Entry> {
        super::Slice::read(stored).inspect_err(|_| self.damaged.store(true, Ordering::Relaxed))
    }

    /// Calls into the engine to write: after a failure no further write is taken.
    pub(super) fn write<T>(
        &self,
        what: &'static str,
        call: impl FnOnce() -> lsm_tree::Result<T>,
    ) -> Result<T> {
        self.check_write()?;
        self.read(what, call).inspect_err(|_| self.stopped.store(true, Ordering::Relaxed))
    }
}

/// An entry's value; none when the entry says that the entity was removed.
pub(super) type Entry = Option<super::Slice>;

/// Whether an I/O error lies with the files rather than with the machine.
///
/// A file that was cut short makes the engine seek to places that do not exist, with all sorts of errors. Taken for
/// damage by mistake, an error costs a rebuild; taken for the machine's by mistake, it would come back at every start.
fn means_damage(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    /// Too many open files, in the system and in the process.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    let machine = matches!(
        error.kind(),
        ErrorKind::PermissionDenied
            | ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::FileTooLarge
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::OutOfMemory
            | ErrorKind::ResourceBusy
            | ErrorKind::TimedOut
            | ErrorKind::Interrupted
    );
    !machine && !matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// One ordered tree. Writers take turns (the caller sees to it); readers need no lock.
#[derive(Clone)]
pub(super) struct Tree {
    tree: AnyTree,
    /// The next write's number, within this tree and this process.
    next: SequenceNumberCounter,
    /// Writes below this number are complete.
    visible: SequenceNumberCounter,
    health: Arc<Health>,
    /// Dropped after the tree.
    files: Option<Arc<RemoveOnDrop>>,
}

/// The directory of a temporary tree; goes with the last user of its files.
#[derive(Debug)]
struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "spilled state could not be removed: the next start does it");
        }
    }
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("path", &self.tree.tree_config().path).finish_non_exhaustive()
    }
}

impl Tree {
    /// Opens the tree in `path`, creating it where it is missing.
    pub(super) fn open(path: &Path, shared: &Shared) -> Result<Self> {
        let next = SequenceNumberCounter::default();
        let visible = SequenceNumberCounter::default();
        let config = Config::new(path, next.clone(), visible.clone())
            .use_cache(shared.cache.clone())
            .use_descriptor_table(Some(shared.files.clone()))
            .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
            .data_block_compression_policy(CompressionPolicy::new(COMPRESSION))
            .data_block_restart_interval_policy(RestartIntervalPolicy::all(16))
            .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(
                10.0,
            ))))
            // Indexes and filters in parts, of which only the small upper ones stay in memory.
            .filter_block_partitioning_policy(PinningPolicy::all(true))
            .index_block_partitioning_policy(PinningPolicy::all(true))
            .filter_block_pinning_policy(PinningPolicy::all(true))
            .index_block_pinning_policy(PinningPolicy::all(true));
        let health = shared.health.clone();
        let tree = health.write("the state store cannot be opened", || config.open())?;
        let highest = health.read("the state store cannot be opened", || Ok(tree.get_highest_seqno()))?;
        if let Some(highest) = highest {
            next.fetch_max(highest.saturating_add(1));
            visible.fetch_max(highest.saturating_add(1));
        }
        Ok(Self { tree, next, visible, health, files: None })
    }

    /// Opens a new tree in `path` that is removed with its last clone and scan.
    pub(super) fn open_temporary(path: &Path, shared: &Shared) -> Result<Self> {
        let mut tree = Self::open(path, shared)?;
        tree.files = Some(Arc::new(RemoveOnDrop(path.to_owned())));
        Ok(tree)
    }

    /// Whether both are clones of one tree.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.tree.tree_config().path == other.tree.tree_config().path
    }

    /// What the tree has of a key: nothing, or an entry that may say that the entity was removed.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        let stored = self.health.read("the state store cannot be read", || self.tree.get(key, u64::MAX))?;
        stored.map(|stored| self.health.value(stored)).transpose()
    }

    /// Writes what was gathered; of several entries with one key the last one counts.
    ///
    /// Returns whether everything written to the tree so far is durable.
    pub(super) fn write_buffer(&self, buffer: &mut SortBuffer) -> Result<bool> {
        if buffer.size() < RUN_FROM_BYTES {
            self.write_memtable(buffer)?;
            return Ok(false);
        }
        self.start_run_with(buffer)?.finish()?;
        Ok(true)
    }

    /// Starts a sorted run with what was gathered.
    pub(super) fn start_run_with(&self, buffer: &mut SortBuffer) -> Result<Run<'_>> {
        buffer.sort();
        let mut run = self.start_run()?;
        for (key, value) in buffer.iter() {
            run.push(key, value)?;
        }
        Ok(run)
    }

    fn write_memtable(&self, buffer: &mut SortBuffer) -> Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        // One sequence number for all: of two entries with one key and one number the engine would keep any.
        buffer.sort();
        self.health.write("the state store cannot be written", || {
            let number = self.next.next();
            let mut size = 0;
            for (key, value) in buffer.iter() {
                size = match value {
                    Some(value) => self.tree.insert(key, value, number).1,
                    None => self.tree.remove(key, number).1,
                };
            }
            self.visible.fetch_max(number + 1);
            Ok(size)
        })?;
        Ok(())
    }

    /// Makes everything durable when the memtable has grown large; returns whether it did.
    pub(super) fn flush_if_large(&self) -> Result<bool> {
        let large = self.tree.active_memtable().size() >= MEMTABLE_BYTES;
        if large {
            self.flush()?;
        }
        Ok(large)
    }

    /// Makes everything written so far durable.
    pub(super) fn flush(&self) -> Result<()> {
        self.health.write("the state store cannot be written", || {
            self.tree.flush_active_memtable(self.visible.get())?;
            self.drop_old_versions(self.visible.get())
        })
    }

    /// Lets go of files and memtables that only older versions of the tree need.
    fn drop_old_versions(&self, before: u64) -> lsm_tree::Result<()> {
        self.tree.get_version_history_lock().maintenance(&self.tree.tree_config().path, before)
    }

    /// Where its files lie.
    pub(super) fn files_directory(&self) -> PathBuf {
        self.tree.tree_config().path.join("tables")
    }

    /// Starts a sorted run. Nothing of it is visible before [`Run::finish`].
    pub(super) fn start_run(&self) -> Result<Run<'_>> {
        let ingestion = self.health.write("the state store cannot be written", || self.tree.ingestion())?;
        Ok(Run { tree: self, ingestion, entries: 0 })
    }

    /// Takes in all entries of another tree, as one run.
    pub(super) fn take_in(&self, entries: &mut Scan) -> Result<()> {
        let mut run = self.start_run()?;
        while let Some(entry) = entries.next_stored() {
            let (key, stored) = entry?;
            run.push(&key, stored_value::unless_removed(&stored))?;
        }
        run.finish()
    }

    /// Merges what has to be merged. Returns whether there may be more to do.
    ///
    /// `before` is a number of [`Tree::watermark`]: no scan that starts later reads older versions.
    pub(super) fn compact(&self, before: u64) -> Result<bool> {
        self.health.read("the state store cannot be compacted", || {
            let version = self.tree.current_version().id();
            self.tree.compact(Arc::new(Leveled::default().with_table_target_size(FILE_BYTES)), before)?;
            let changed = self.tree.current_version().id() != version;
            self.drop_old_versions(before)?;
            Ok(changed)
        })
    }

    /// Rewrites everything packed, where that is worth it. Returns whether it did.
    ///
    /// `before`: as for [`Tree::compact`].
    pub(super) fn pack(&self, before: u64) -> Result<bool> {
        self.health.read("the state store cannot be packed", || {
            let version = self.tree.current_version();
            let (mut total, mut unpacked) = (0, 0);
            for file in version.iter_tables() {
                total += file.metadata.file_size;
                if file.metadata.data_block_compression == CompressionType::None {
                    unpacked += file.metadata.file_size;
                }
            }
            if unpacked < FILE_BYTES || unpacked < total / 4 || total > PACK_BELOW {
                return Ok(false);
            }
            drop(version);
            self.tree.major_compact(FILE_BYTES, before)?;
            self.drop_old_versions(before)?;
            Ok(true)
        })
    }

    /// Versions that are older than the newest one below this number are of no use to scans started after this call.
    pub(super) fn watermark(&self) -> u64 {
        self.visible.get()
    }

    /// The entries of `range` in key order, as they stand now. No writer may be at work during this call.
    pub(super) fn scan<R: std::ops::RangeBounds<Vec<u8>>>(&self, range: R) -> Result<Scan> {
        let inner = self.health.read("the state store cannot be read", || {
            Ok(self.tree.range(range, self.visible.get(), None))
        })?;
        Ok(Scan { inner, health: self.health.clone(), _files: self.files.clone() })
    }

    /// Removes all entries.
    pub(super) fn clear(&self) -> Result<()> {
        self.health.write("the state store cannot be cleared", || {
            self.tree.clear()?;
            self.drop_old_versions(self.visible.get())
        })
    }

    /// Drops the files that lie within the range as a whole: the cheap part of removing it.
    pub(super) fn drop_files_within<R: std::ops::RangeBounds<Vec<u8>>>(&self, range: R) -> Result<()> {
        self.health.write("the state store cannot be written", || self.tree.drop_range(range))
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.tree.disk_space()
    }

    pub(super) fn len_estimate(&self) -> u64 {
        self.tree.approximate_len() as u64
    }
}

/// A sorted run that is being written.
pub(super) struct Run<'a> {
    tree: &'a Tree,
    ingestion: AnyIngestion<'a>,
    entries: u64,
}

impl Run<'_> {
    /// Adds an entry; keys must ascend strictly.
    pub(super) fn push(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        self.entries += 1;
        let ingestion = &mut self.ingestion;
        self.tree.health.write("the state store cannot be written", || match value {
            Some(value) => ingestion.write(key, value),
            None => ingestion.write_tombstone(key),
        })
    }

    /// Makes the run durable and visible, and with it everything that was written to the tree before.
    pub(super) fn finish(self) -> Result<()> {
        let Self { tree, ingestion, entries } = self;
        if entries == 0 {
            return Ok(());
        }
        tree.health.write("the state store cannot be written", || ingestion.finish())
    }
}

/// Entries of a tree in key order, as they stood when the scan began.
pub(super) struct Scan {
    inner: Box<dyn DoubleEndedIterator<Item = lsm_tree::IterGuardImpl> + Send + 'static>,
    health: Arc<Health>,
    _files: Option<Arc<RemoveOnDrop>>,
}

impl Scan {
    /// The next entry as it is stored.
    pub(super) fn next_stored(&mut self) -> Option<Result<(Slice, Slice)>> {
        let inner = &mut self.inner;
        self.health
            .read("the state store cannot be read", || {
                inner.next().map(|entry| entry.into_inner()).transpose()
            })
            .transpose()
    }
}

impl Iterator for Scan {
    type Item = Result<(Slice, Entry)>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_stored()?.and_then(|(key, stored)| Ok((key, self.health.value(stored)?))))
    }
}

/// The key as the store has it: the table's number, then the entity's key.
pub(super) fn full_key(table: u32, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(4 + key.len());
    full.extend_from_slice(&table.to_be_bytes());
    full.extend_from_slice(key);
    full
}

/// Refuses what the engine cannot hold.
pub(super) fn check_sizes(key: &[u8], value: Option<&[u8]>) -> Result<()> {
    // The spill's tag byte needs room too.
    let value_fits = value.is_none_or(|value| u32::try_from(value.len()).is_ok_and(|len| len < u32::MAX - 1));
    if key.len() <= MAX_KEY - 4 && value_fits {
        return Ok(());
    }
    Err(StateError::new(StateErrorKind::TooLarge, "a row is too large for the state store").with(format!(
        "key of {} bytes, value of {}",
        key.len(),
        value.map_or(0, <[u8]>::len)
    )))
}
