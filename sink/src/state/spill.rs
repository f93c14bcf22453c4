//! Entries of a transaction that does not fit into memory and is not in the log yet.
//!
//! They live in a tree of their own, which is begun with the first entry and removed, files and all, with the
//! transaction. A removed entity has an entry too, which hides what the rows say of it.

use std::fs;
use std::io::ErrorKind;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::change_writer::ChangeWriter;
use super::error::{Result, StateError};
use super::tree::{Entry, Scan, Shared, Tree};

/// The spilled entries, if there are any.
#[derive(Debug)]
pub(super) struct Spill {
    store: PathBuf,
    shared: Shared,
    tree: RwLock<Option<Tree>>,
    /// Spares look-ups the lock while nothing is spilled, which is nearly always.
    any: AtomicBool,
    number: AtomicU64,
}

impl Spill {
    pub(super) fn new(store: PathBuf, shared: Shared) -> Self {
        Self {
            store,
            shared,
            tree: RwLock::default(),
            any: AtomicBool::new(false),
            number: AtomicU64::new(0),
        }
    }

    /// Removes what an earlier process left behind in `store`.
    pub(super) fn sweep(store: &Path) -> Result<()> {
        let failed = |err| StateError::io("spilled state cannot be removed", err);
        let found = match fs::read_dir(store) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(()),
            found => found.map_err(failed)?,
        };
        for entry in found {
            let entry = entry.map_err(failed)?;
            if entry.file_name().as_encoded_bytes().starts_with(b"spill-") {
                fs::remove_dir_all(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn tree(&self) -> Option<Tree> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.tree.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A tree that goes with its last user, or with the next start.
    pub(super) fn temporary(&self) -> Result<Tree> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        Tree::open_temporary(&self.store.join(format!("spill-{number}")), &self.shared)
    }

    /// What is spilled of a full key: nothing, or an entry that may say that it was removed.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        match self.tree() {
            Some(tree) => tree.get(key),
            None => Ok(None),
        }
    }

    /// Adds entries; a later one of the same key counts. The caller holds the writers' lock.
    pub(super) fn write<K, V, I>(&self, changes: I) -> Result<Tree>
    where
        I: IntoIterator<Item = (u32, K, Option<V>)>,
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let tree = match self.tree() {
            Some(tree) => tree,
            None => {
                let tree = self.temporary()?;
                *self.tree.write().unwrap_or_else(PoisonError::into_inner) = Some(tree.clone());
                self.any.store(true, Ordering::Release);
                tree
            }
        };
        let mut into = ChangeWriter::new(&tree, false, true);
        for (table, key, value) in changes {
            into.push(table, key.as_ref(), value.as_ref().map(AsRef::as_ref))?;
        }
        into.finish()?;
        tree.flush_if_large()?;
        Ok(tree)
    }

    /// The spilled entries of `range` in key order, as they stand now; none when nothing is spilled.
    pub(super) fn scan<R: RangeBounds<Vec<u8>>>(&self, range: R) -> Result<Option<Scan>> {
        self.tree().map(|tree| tree.scan(range)).transpose()
    }

    /// Forgets all entries. The files go when the last scan over them ends.
    pub(super) fn discard(&self) {
        self.any.store(false, Ordering::Release);
        self.tree.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.tree().map_or(0, |tree| tree.disk_bytes())
    }
}
