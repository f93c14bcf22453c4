//! State: what each entity looked like last.
//!
//! State is a local, disposable cache derived from facts: `(table, entity key) -> bytes`, where the bytes are the encoded
//! last version and row, opaque to this module. Keys are ordered by table number, then by the key's bytes.
//!
//! The commit log is the state's write-ahead log, so the state keeps none of its own: [`State::applied`] says up to
//! which commit it holds the facts, and whoever opens it replays the commits after that. Replaying a commit again does
//! no harm. After a crash `applied` may say less than was applied, never more than is there.
//!
//! What cannot be trusted (another history, another format, a damaged file) is wiped, and the state starts empty.
//!
//! ```text
//! <dir>/lock            held by the process that has the state open
//! <dir>/store/applied   format, history and the last commit whose facts are durable here
//! <dir>/store/rows/     the rows
//! <dir>/store/large/    values too large to stand in rows
//! <dir>/store/spill-N/  entries of a transaction that did not fit into memory and is not in the log yet
//! ```
//!
//! The engine is `lsm-tree`, the storage engine of fjall, used without fjall's journal: see `docs/design.md` for the
//! measurements. Small commits go to its memtable, large ones in as sorted files; one background thread merges files.

mod applied;
mod bulk;
mod change_writer;
mod compactor;
mod directory;
mod error;
mod lock;
mod scan;
mod sort_buffer;
mod spill;
mod stored_value;
mod tree;
mod write_back;

use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use bulk::{BulkLoader, BulkWriter};
pub use error::{Result, StateError, StateErrorKind};
pub use lock::DirectoryLock;
pub(crate) use lock::create_private;
pub use scan::{Key, Scan};
pub use stored_value::Slice;

use applied::{Applied, Last};
use change_writer::ChangeWriter;
use compactor::Compactor;
use directory::Directory;
use spill::Spill;
use tree::{Shared, Tree, full_key};

pub use crate::shelf::Shelf;
use crate::shelf::{Hold, Named};

/// What the state belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The history's id, from its `bygone.json`.
    pub history_id: String,
}

/// How long small commits may stay in memory alone. After a crash they are replayed from the log.
const FLUSH_AFTER: Duration = Duration::from_secs(300);

/// The state store. See the [module](self).
///
/// All calls block and may be made from several threads; writers take turns.
#[derive(Debug)]
pub struct State {
    rows: Tree,
    spill: Spill,
    writer: Arc<Mutex<Writer>>,
    compactor: Compactor,
    shared: Shared,
    directory: Arc<Directory>,
    shelf: Arc<Shelf>,
    /// Of the shelf of another state.
    _hold: Option<Hold>,
}

/// What only the writer whose turn it is may touch.
#[derive(Debug)]
struct Writer {
    applied: Applied,
    /// The last commit applied, durable or not.
    latest: Option<u64>,
    /// The last commit whose SHA-256 was told, with that.
    told: Option<(u64, String)>,
    /// When the oldest commit that is in memory alone was applied.
    unflushed_since: Option<Instant>,
}

impl Writer {
    /// Records a commit. `durable` says that the rows of it and of all commits before are durable.
    fn applied(&mut self, seq: u64, durable: bool) -> Result<()> {
        self.latest = Some(self.latest.map_or(seq, |latest| latest.max(seq)));
        if durable {
            self.flushed()
        } else {
            self.unflushed_since.get_or_insert_with(Instant::now);
            Ok(())
        }
    }

    /// Everything applied so far is durable.
    fn flushed(&mut self) -> Result<()> {
        self.unflushed_since = None;
        let last = self.last();
        self.applied.record(last)
    }

    fn last(&self) -> Last {
        let seq = self.latest;
        let commit =
            self.told.as_ref().filter(|(told, _)| Some(*told) == seq).map(|(_, commit)| commit.clone());
        Last { seq, commit }
    }
}

impl State {
    /// Opens the state in `dir`, creating the directory (mode 0700) where it is missing, with a block cache of
    /// `cache_bytes` bytes.
    ///
    /// A state of another history or format, or a damaged one, is wiped.
    ///
    /// # Errors
    /// [`StateErrorKind::InUse`] when another process has it open, [`StateErrorKind::Io`] when the directory cannot be
    /// read or written.
    pub fn open(dir: &Path, identity: &Identity, cache_bytes: u64) -> Result<Self> {
        let directory = Directory::lock(dir)?;
        directory.sweep()?;
        if directory.is_marked_damaged() {
            tracing::warn!(directory = %dir.display(), "the state was found damaged before: it starts empty");
            directory.wipe()?;
        }
        let store = directory.store();
        let found = match Applied::read(&store, &identity.history_id) {
            // The engine takes a directory without its manifest for a new one.
            Ok(Some(Last { seq: Some(_), .. })) if !store.join("rows").join("current").exists() => {
                Err("its rows are missing".into())
            }
            found => found,
        };
        let last = match found {
            Ok(Some(last)) if last.seq.is_some() => last,
            Ok(_) => {
                // Rows that no record vouches for, if any.
                directory.wipe()?;
                Last::default()
            }
            Err(reason) => {
                tracing::warn!(directory = %dir.display(), %reason, "the state cannot be used: it starts empty");
                directory.wipe()?;
                Last::default()
            }
        };
        let opened = Self::open_store(&directory, identity, cache_bytes, last);
        let (shared, writer, rows) = match opened {
            Err(error) if error.kind() == StateErrorKind::Damaged => {
                tracing::warn!(directory = %dir.display(), %error, "the state is damaged: it starts empty");
                directory.wipe()?;
                Self::open_store(&directory, identity, cache_bytes, Last::default())?
            }
            opened => opened?,
        };
        let writer = Arc::new(Mutex::new(writer));
        let directory = Arc::new(directory);
        let compactor = Compactor::start(rows.clone(), writer.clone(), directory.clone())
            .map_err(|err| StateError::io("no thread for merging the state's files", err))?;
        compactor.look_at(&rows);
        let shelf = Arc::new(Shelf::new(store.join("large")));
        let spill = Spill::new(store, shared.clone());
        let state = Self { rows, spill, writer, compactor, shared, directory, shelf, _hold: None };
        if state.shelf.is_used() {
            state.shelf.sweep(&state.named()?, None);
        }
        Ok(state)
    }

    /// Keeps large values on the shelf of another state, which takes over rows of this one.
    #[must_use]
    pub fn sharing_shelf(mut self, shelf: Arc<Shelf>) -> Self {
        self._hold = Some(shelf.hold());
        self.shelf = shelf;
        self
    }

    /// Where the large values of rows are.
    #[must_use]
    pub fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    /// The large values that rows name.
    fn named(&self) -> Result<Named> {
        let mut named = Named::default();
        // No writer may be at work while the snapshots are taken. What was spilled hides nothing here: it may be discarded.
        let writer = self.writing();
        let rows = self.rows.scan::<std::ops::RangeFull>(..)?;
        let spilled = self.spill.scan::<std::ops::RangeFull>(..)?;
        drop(writer);
        for entry in rows.chain(spilled.into_iter().flatten()) {
            if let (_, Some(value)) = entry? {
                named.look_through(&value);
            }
        }
        Ok(named)
    }

    /// Sweeps the shelf, where there is much on it that no row names. What was put up to `generation` has been applied.
    pub(crate) fn sweep_if_due(&self, generation: u64) -> Result<()> {
        if self.shelf.is_sweep_due() {
            self.shelf.sweep(&self.named()?, Some(generation));
        }
        Ok(())
    }

    fn open_store(
        directory: &Directory,
        identity: &Identity,
        cache_bytes: u64,
        last: Last,
    ) -> Result<(Shared, Writer, Tree)> {
        let store = directory.store();
        let shared = Shared::new(&store, cache_bytes);
        Spill::sweep(&store)?;
        let applied = Applied::open(&store, &identity.history_id, last)?;
        let rows = Tree::open(&store.join("rows"), &shared)?;
        let Last { seq: latest, commit } = applied.last().clone();
        let told = latest.zip(commit);
        Ok((shared, Writer { applied, latest, told, unflushed_since: None }, rows))
    }

    /// The SHA-256 of a commit that is applied next, in hex: by that it is told from another one of the same number.
    pub fn commit_is(&self, seq: u64, commit: String) {
        self.writing().told = Some((seq, commit));
    }

    /// The SHA-256 of the commit up to which the state holds the facts, where it was told.
    #[must_use]
    pub fn applied_commit(&self) -> Option<String> {
        self.writing().last().commit
    }

    /// The commit up to which the state holds the facts; none when it is empty.
    #[must_use]
    pub fn applied(&self) -> Option<u64> {
        self.writing().latest
    }

    fn writing(&self) -> MutexGuard<'_, Writer> {
        // A panic while the lock was held leaves nothing half-done that the next call could see: the engine's own
        // failures are kept in `Health`.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last value of an entity, spilled entries first.
    ///
    /// # Errors
    /// [`StateErrorKind::Damaged`] or [`StateErrorKind::Io`] when a file cannot be read.
    pub fn get(&self, table: u32, key: &[u8]) -> Result<Option<Slice>> {
        let mut short = [0; 64];
        let long;
        let key = match short.get_mut(..4 + key.len()) {
            Some(full) => {
                let (head, tail) = full.split_at_mut(4);
                head.copy_from_slice(&table.to_be_bytes());
                tail.copy_from_slice(key);
                &*full
            }
            None => {
                long = full_key(table, key);
                &long
            }
        };
        if let Some(spilled) = self.spill.get(key)? {
            return Ok(spilled);
        }
        Ok(self.rows.get(key)?.flatten())
    }

    /// Applies the facts of commit `seq`, which is durable in the log: writes or (value none) removes each entity.
    ///
    /// Of several changes to one entity the last one counts. `sorted` says that keys ascend within ascending tables,
    /// which spares a large commit the sorting; when it turns out wrong, nothing is lost but that.
    ///
    /// # Errors
    /// [`StateErrorKind::TooLarge`] for a key above 64 KiB or a value above 4 GiB; otherwise as [`State::get`]. After an
    /// error the state takes no more writes and has to be reopened.
    pub fn apply<K, V, I>(&self, seq: u64, changes: I, sorted: bool) -> Result<()>
    where
        I: IntoIterator<Item = (u32, K, Option<V>)>,
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let mut writer = self.writing();
        let mut into = ChangeWriter::new(&self.rows, sorted, false);
        for (table, key, value) in changes {
            into.push(table, key.as_ref(), value.as_ref().map(AsRef::as_ref))?;
        }
        let durable = into.finish()?;
        writer.applied(seq, durable)?;
        self.after_write(&mut writer)
    }

    /// Flushes the memtable where it is due, and has the files looked at where there is a new one.
    fn after_write(&self, writer: &mut Writer) -> Result<()> {
        let old = writer.unflushed_since.is_some_and(|since| since.elapsed() >= FLUSH_AFTER);
        if self.rows.flush_if_large()? {
            writer.flushed()?;
        } else if old {
            self.flush_with(writer)?;
        }
        if writer.unflushed_since.is_none() {
            self.compactor.look_at(&self.rows);
        }
        Ok(())
    }

    /// Makes everything that was applied durable. Dropping the state does so too, but cannot report a failure.
    ///
    /// # Errors
    /// [`StateErrorKind::Io`] when the disk fails.
    pub fn flush(&self) -> Result<()> {
        let mut writer = self.writing();
        self.flush_with(&mut writer)
    }

    fn flush_with(&self, writer: &mut Writer) -> Result<()> {
        if writer.unflushed_since.is_some() {
            self.rows.flush()?;
            writer.flushed()?;
        }
        Ok(())
    }

    /// Starts loading rows of a table that has just been copied. See [`BulkLoader`].
    ///
    /// # Errors
    /// [`StateErrorKind::Io`] when no thread can be started.
    pub fn bulk_load(self: &Arc<Self>, table: u32) -> Result<BulkLoader> {
        BulkLoader::start(self.clone(), table, bulk::Sizes::default())
    }

    /// Keeps entries of a transaction that does not fit into memory and is not in the log yet.
    ///
    /// They are seen by [`State::get`] and [`State::scan`] before anything applied, and are gone after
    /// [`State::discard_spill`], [`State::apply_spilled`] or a restart.
    ///
    /// # Errors
    /// As [`State::apply`].
    pub fn spill<K, V, I>(&self, changes: I) -> Result<()>
    where
        I: IntoIterator<Item = (u32, K, Option<V>)>,
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let _writer = self.writing();
        let tree = self.spill.write(changes)?;
        self.compactor.look_at(&tree);
        Ok(())
    }

    /// Applies what was spilled: its transaction is durable in the log as part of commit `seq`.
    ///
    /// # Errors
    /// As [`State::apply`].
    pub fn apply_spilled(&self, seq: u64) -> Result<()> {
        let mut writer = self.writing();
        let durable = match self.spill.scan(..)? {
            Some(mut entries) => {
                self.rows.take_in(&mut entries)?;
                true
            }
            None => false,
        };
        writer.applied(seq, durable)?;
        self.spill.discard();
        self.after_write(&mut writer)
    }

    /// Forgets what was spilled.
    ///
    /// # Errors
    /// [`StateErrorKind::Io`] when its files cannot be removed.
    pub fn discard_spill(&self) -> Result<()> {
        let _writer = self.writing();
        self.spill.discard();
        Ok(())
    }

    /// The entities of a table in key order, spilled entries included, as they stand now: later writes do not show.
    ///
    /// Each item is the entity's key and value. Files that the scan reads stay until it is dropped.
    ///
    /// # Errors
    /// As [`State::get`]; the iterator yields them too, and ends after the first.
    pub fn scan(&self, table: u32) -> Result<Scan> {
        // No writer may be at work while the snapshot is taken.
        let _writer = self.writing();
        Scan::start(&self.rows, &self.spill, table)
    }

    /// Removes all entities of a table.
    ///
    /// Like an applied change it is durable only with the next flush; the log replays it.
    ///
    /// # Errors
    /// As [`State::apply`].
    pub fn remove_table(&self, table: u32) -> Result<()> {
        let mut writer = self.writing();
        self.flush_with(&mut writer)?;
        self.rows.flush()?;
        self.rows.drop_files_within(table_range(table))?;
        // What shares its file with another table is removed one by one.
        let mut run = self.rows.start_run()?;
        for entry in self.rows.scan(table_range(table))? {
            run.push(&entry?.0, None)?;
        }
        run.finish()?;
        self.compactor.look_at(&self.rows);
        self.after_write(&mut writer)
    }

    /// Removes everything: [`State::applied`] is none afterwards.
    ///
    /// # Errors
    /// [`StateErrorKind::Io`] when the disk fails.
    pub fn clear(&self) -> Result<()> {
        let mut writer = self.writing();
        self.spill.discard();
        // In this order: a crash between the two leaves rows that nothing vouches for, not the reverse.
        writer.latest = None;
        writer.flushed()?;
        self.rows.clear()
    }

    /// Bytes on disk, spilled entries included.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.rows.disk_bytes() + self.spill.disk_bytes() + self.shelf.disk_bytes()
    }

    /// About how many entities there are: entries that a later one replaces count until files are merged.
    #[must_use]
    pub fn len_estimate(&self) -> u64 {
        self.rows.len_estimate()
    }

    /// Waits until the background thread has nothing left to merge.
    pub fn wait_until_compacted(&self) {
        self.compactor.wait();
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.compactor.stop();
        let mut writer = self.writing();
        if let Err(error) = self.flush_with(&mut writer) {
            tracing::warn!(%error, "the state could not be flushed: the log will be replayed from further back");
        }
        drop(writer);
        if self.shared.health.damaged.load(std::sync::atomic::Ordering::Relaxed) {
            self.directory.mark_damaged();
        }
    }
}

/// All full keys of a table.
fn table_range(table: u32) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let first = Bound::Included(table.to_be_bytes().to_vec());
    let last =
        table.checked_add(1).map_or(Bound::Unbounded, |next| Bound::Excluded(next.to_be_bytes().to_vec()));
    (first, last)
}

#[cfg(test)]
mod tests;
