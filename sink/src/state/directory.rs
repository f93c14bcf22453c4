//! The state directory: one process at a time, and what is wiped when it cannot be trusted.
//!
//! ```text
//! <dir>/lock      held (flock) by the process that has the store open; holds its pid
//! <dir>/damaged   there when a damaged file was met: the next open wipes the store
//! <dir>/store/    the embedded store
//! ```
//! Nothing else in the directory is ever touched.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::error::{Result, StateError};
use super::lock::DirectoryLock;

/// The directory, locked for as long as this value lives.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: DirectoryLock,
}

impl Directory {
    /// Locks the directory, which is made where it is missing.
    pub(super) fn lock(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), _lock: DirectoryLock::take(path)? })
    }

    /// Where the embedded store lies.
    pub(super) fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    fn damage_marker(&self) -> PathBuf {
        self.path.join("damaged")
    }

    /// Whether a damaged file was met since the last wipe.
    pub(super) fn is_marked_damaged(&self) -> bool {
        self.damage_marker().exists()
    }

    /// Sees to it that the next open wipes the store.
    pub(super) fn mark_damaged(&self) {
        if let Err(error) = File::create(self.damage_marker()) {
            tracing::warn!(%error, "the state directory could not be marked as damaged");
        }
    }

    /// Removes the store. The rename comes first: a crash in the middle of the removal must not leave half a store
    /// under its name.
    pub(super) fn wipe(&self) -> Result<()> {
        let wiped = self.path.join("store.wiped");
        let failed = |err| {
            StateError::io("the state directory cannot be wiped", err).with(self.path.display().to_string())
        };
        remove_tree(&wiped).map_err(failed)?;
        match fs::rename(self.store(), &wiped) {
            Ok(()) => {}
            Err(err) if err.kind() == ErrorKind::NotFound => {}
            Err(err) => return Err(failed(err)),
        }
        // The new store must not be found together with the old one's files after a power loss.
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(failed)?;
        remove_tree(&wiped).map_err(failed)?;
        match fs::remove_file(self.damage_marker()) {
            Err(err) if err.kind() != ErrorKind::NotFound => Err(failed(err)),
            _ => Ok(()),
        }
    }

    /// Removes what an interrupted wipe left.
    pub(super) fn sweep(&self) -> Result<()> {
        remove_tree(&self.path.join("store.wiped")).map_err(|err| {
            StateError::io("the state directory cannot be swept", err).with(self.path.display().to_string())
        })
    }
}

fn remove_tree(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
        Err(err) => Err(err),
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}
