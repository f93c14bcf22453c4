//! Directories that live as long as their test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A directory of the test's own. It goes with the test, unless the test failed or `BYGONE_TEST_KEEP` is set.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// An empty directory that every user may pass through: servers run as a user of their own.
    pub(crate) fn new(purpose: &str) -> Self {
        let made = tempfile::Builder::new().prefix(&format!("bygone-test-{purpose}-")).tempdir().unwrap();
        let path = made.keep();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("BYGONE_TEST_KEEP").is_some() {
            eprintln!("kept: {}", self.path.display());
        } else {
            // A server that is still letting go of its files must not turn a passed test into a failed one.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// A copy of a whole directory, owners and modes as they are.
pub(crate) fn copy_directory(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "cp -a {} {}", from.display(), to.display());
}

/// The end of a log, for the message of a failed test.
pub(crate) fn tail(log: &Path, bytes: usize) -> String {
    let all = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&all[all.len().saturating_sub(bytes)..]).into_owned()
}
