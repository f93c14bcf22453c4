//! A directory of what bygone keeps on the side: one process at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use super::error::{Result, StateError, StateErrorKind};

/// A directory, locked for as long as this value lives: `<dir>/lock` is held (flock), and holds the pid.
#[derive(Debug)]
pub struct DirectoryLock {
    /// The file stays when it is closed, for its removal would race with the next owner.
    _file: File,
}

impl DirectoryLock {
    /// Creates the directory where it is missing (mode 0700, parents too) and locks it.
    ///
    /// # Errors
    /// [`StateErrorKind::InUse`] where another process has it, [`StateErrorKind::Io`] where it cannot be made or locked.
    pub fn take(path: &Path) -> Result<Self> {
        create_private(path).map_err(|err| {
            StateError::io("the state directory cannot be created", err).with(path.display().to_string())
        })?;
        let lock_path = path.join("lock");
        let failed = |err| {
            StateError::io("the state directory cannot be locked", err).with(lock_path.display().to_string())
        };
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let mut file = options.open(&lock_path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(path, &file)),
            Err(TryLockError::Error(err)) => return Err(failed(err)),
        }
        // The pid only serves the other process' error message: a failure to write it does no harm.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

fn in_use(path: &Path, file: &File) -> StateError {
    let mut owner = String::new();
    let known = file.take(32).read_to_string(&mut owner).is_ok() && owner.trim().parse::<u32>().is_ok();
    let owner = if known { format!("process {}", owner.trim()) } else { "another process".into() };
    StateError::new(
        StateErrorKind::InUse,
        "the state directory is in use: stop the other process, or name another directory",
    )
    .with(format!("{owner} has {}", path.display()))
}

/// Makes a directory and those above it, for this user alone.
pub(crate) fn create_private(path: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(path)
}
