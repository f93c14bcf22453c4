//! A directory as a store.
//!
//! An object appears under its name in one step: it is written and fsynced as `.staging/<instance>-<random>`, under a lock
//! that tells it from what was left over, then given its name by `renameat2(RENAME_NOREPLACE)` or, where the file system
//! lacks that, by a hard link; both refuse to replace a file. Then its directory is fsynced, and for every directory that
//! this process has not yet seen made durable, the parent up to the history's own. A crash before the naming leaves a file
//! in `.staging`; a crash after it and before the fsync leaves the object or nothing, and nobody was told.
//!
//! The first fsync or naming that fails latches the store: the kernel may have dropped the dirty pages and say "fine"
//! the next time.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tempfile::NamedTempFile;

use super::{Object, PutOutcome, Sealed, Store, blocking};
use crate::error::{Error, ErrorKind, Result};

const STAGING: &str = ".staging";

/// How much of a file is read at once: large enough that the system call does not matter.
const CHUNK: usize = 1 << 20;

/// Directories deeper than this are not listed; a history has five levels.
const MAX_DEPTH: usize = 16;

#[derive(Debug)]
pub(super) struct LocalStore {
    root: PathBuf,
    /// Tells our staging files from those of earlier processes.
    instance: String,
    latched: AtomicBool,
    /// Directories whose entry in their parent is known to be on disk.
    durable: Mutex<HashSet<PathBuf>>,
}

impl Store {
    /// After this, every write is refused until the store is opened again.
    pub(super) fn latch(&self) {
        if let super::Kind::Local(store) = &*self.0 {
            store.latched.store(true, Ordering::SeqCst);
        }
    }
}

impl LocalStore {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            instance: format!("{:016x}", rand::random::<u64>()),
            latched: AtomicBool::new(false),
            durable: Mutex::default(),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn staging_file(&self) -> Result<NamedTempFile> {
        self.refuse_if_latched()?;
        let directory = self.root.join(STAGING);
        self.ensure_directory(&directory)?;
        locked_file(&directory, &format!("{}-", self.instance))
            .map_err(|err| Error::from_io("cannot create a file", &directory, err))
    }

    pub(super) async fn put_new(self: &Arc<Self>, path: &str, bytes: Bytes) -> Result<PutOutcome> {
        let (store, path) = (Arc::clone(self), path.to_owned());
        blocking(move || {
            let mut file = store.staging_file()?;
            file.write_all(&bytes).map_err(|err| Error::from_io("cannot write a file", file.path(), err))?;
            file.as_file()
                .sync_all()
                .map_err(|err| store.latching("cannot make a file durable", file.path(), err))?;
            store.name(file, &path).map(|(outcome, _)| outcome)
        })
        .await
    }

    pub(super) async fn make_durable(self: &Arc<Self>, path: &str) -> Result<()> {
        let (store, target) = (Arc::clone(self), self.root.join(path));
        blocking(move || {
            let directory = target.parent().unwrap_or(&store.root);
            let synced = File::open(&target).and_then(|file| file.sync_all());
            synced
                .and_then(|()| sync_directory(directory))
                .map_err(|err| store.latching("cannot make a file durable", &target, err))
        })
        .await
    }

    pub(super) async fn publish(self: &Arc<Self>, sealed: &mut Sealed, path: &str) -> Result<PutOutcome> {
        sealed.path()?;
        let Some(file) = sealed.file.take() else { return Ok(PutOutcome::AlreadyExists) };
        let (store, path) = (Arc::clone(self), path.to_owned());
        let (outcome, file) = blocking(move || store.name(file, &path)).await?;
        sealed.file = file;
        Ok(outcome)
    }

    /// Gives a durable staging file its final name; hands it back where the name is taken by other bytes.
    fn name(&self, file: NamedTempFile, path: &str) -> Result<(PutOutcome, Option<NamedTempFile>)> {
        self.refuse_if_latched()?;
        let target = self.root.join(path);
        let directory = target.parent().unwrap_or(&self.root);
        self.ensure_directory(directory)?;
        let taken = match file.persist_noclobber(&target) {
            Ok(_) => None,
            Err(err) if err.error.kind() == io::ErrorKind::AlreadyExists => Some(err.file),
            Err(err)
                if matches!(err.error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::CrossesDevices) =>
            {
                let remedy = "the file system can neither rename without replacing nor make hard links, \
                              and a history needs one of them; choose another file system";
                let detail = format!("{}: {remedy}", self.root.display());
                return Err(Error::new(ErrorKind::Unsupported, "not a place for a history", detail)
                    .with_source(err.error));
            }
            Err(err) => {
                let err = Error::from_io("cannot name a file", &target, err.error);
                self.latched.fetch_or(!err.kind().leaves_nothing(), Ordering::SeqCst);
                return Err(err);
            }
        };
        if let Some(file) = taken {
            let same = same_content(file.path(), &target)
                .map_err(|err| Error::from_io("cannot compare files", &target, err))?;
            if !same {
                return Ok((PutOutcome::AlreadyExists, Some(file)));
            }
            // Whoever put it there may not have come to this.
            let existing = File::open(&target).and_then(|file| file.sync_all());
            existing.map_err(|err| self.latching("cannot make a file durable", &target, err))?;
        }
        sync_directory(directory)
            .map_err(|err| self.latching("cannot make a directory durable", directory, err))?;
        Ok((PutOutcome::Created, None))
    }

    /// Creates a directory and those above it, and makes each one's name durable once per process: one that stands
    /// there already may be younger than its parent's last fsync.
    fn ensure_directory(&self, directory: &Path) -> Result<()> {
        if self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(directory) {
            return Ok(());
        }
        if let Some(parent) = directory.parent() {
            let exists = directory.is_dir();
            if !exists || directory != self.root {
                self.ensure_directory(parent)?;
            }
            if !exists {
                match DirBuilder::new().mode(0o700).create(directory) {
                    Ok(()) => {}
                    Err(err) if err.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
                    Err(err) => return Err(Error::from_io("cannot create a directory", directory, err)),
                }
            }
            match sync_directory(parent) {
                Ok(()) => {}
                // Above the history we may be allowed to pass and not to read.
                Err(err)
                    if err.kind() == io::ErrorKind::PermissionDenied && !parent.starts_with(&self.root) => {}
                Err(err) => return Err(self.latching("cannot make a directory durable", parent, err)),
            }
        }
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).insert(directory.to_owned());
        Ok(())
    }

    fn refuse_if_latched(&self) -> Result<()> {
        if self.latched.load(Ordering::SeqCst) {
            let detail =
                "an earlier write may not have reached the disk; start bygone again to find out what did";
            return Err(Error::new(ErrorKind::Latched, "the store takes no more writes", detail));
        }
        Ok(())
    }

    fn latching(&self, what: &'static str, path: &Path, err: io::Error) -> Error {
        self.latched.store(true, Ordering::SeqCst);
        Error::from_io(what, path, err)
    }

    pub(super) async fn get(&self, path: &str) -> Result<Bytes> {
        let path = self.root.join(path);
        blocking(move || {
            fs::read(&path).map(Bytes::from).map_err(|err| Error::from_io("cannot read", &path, err))
        })
        .await
    }

    pub(super) async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        let path = self.root.join(path);
        blocking(move || {
            let failed = |err| Error::from_io("cannot read", &path, err);
            let file = File::open(&path).map_err(failed)?;
            // The length bounds what is allocated: the range may come from a damaged file's footer.
            let length = file.metadata().map_err(failed)?.len();
            let wanted = range.end.min(length).saturating_sub(range.start);
            let mut buffer = vec![0; usize::try_from(wanted).unwrap_or(0)];
            match file.read_exact_at(&mut buffer, range.start) {
                Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(Bytes::new()),
                other => other.map(|()| Bytes::from(buffer)).map_err(failed),
            }
        })
        .await
    }

    pub(super) async fn get_stream(&self, path: &str) -> Result<BoxStream<'static, Result<Bytes>>> {
        let path = self.root.join(path);
        let opened = path.clone();
        let file =
            blocking(move || File::open(&opened).map_err(|err| Error::from_io("cannot read", &opened, err)))
                .await?;
        let chunks = stream::try_unfold((file, path), |(mut file, path)| async {
            blocking(move || {
                let mut buffer = Vec::new();
                let mut limited = (&mut file).take(CHUNK as u64);
                match limited.read_to_end(&mut buffer) {
                    Ok(0) => Ok(None),
                    Ok(_) => Ok(Some((Bytes::from(buffer), (file, path)))),
                    Err(err) => Err(Error::from_io("cannot read", &path, err)),
                }
            })
            .await
        });
        Ok(chunks.boxed())
    }

    pub(super) async fn head(&self, path: &str) -> Result<u64> {
        let path = self.root.join(path);
        blocking(move || {
            let failed = |err| Error::from_io("cannot read", &path, err);
            let metadata = fs::metadata(&path).map_err(failed)?;
            if metadata.is_dir() { Err(failed(io::ErrorKind::NotFound.into())) } else { Ok(metadata.len()) }
        })
        .await
    }

    pub(super) async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>> {
        let (root, prefix, after) = (self.root.clone(), prefix.to_owned(), after.to_owned());
        blocking(move || {
            let mut objects = Vec::new();
            walk(&root.join(&prefix), &prefix, &after, 0, &mut objects)?;
            Ok(objects)
        })
        .await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<()> {
        let path = self.root.join(path);
        blocking(move || match fs::remove_file(&path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                Err(Error::from_io("cannot remove", &path, err))
            }
            _ => Ok(()),
        })
        .await
    }

    pub(super) async fn has_stale_staging(&self) -> Result<bool> {
        let directory = self.root.join(STAGING);
        blocking(move || Ok(entries_of(&directory)?.iter().any(|entry| is_left_over(&entry.path())))).await
    }

    pub(super) async fn remove_stale_staging(&self) -> Result<usize> {
        let (directory, ours) = (self.root.join(STAGING), self.instance.clone());
        blocking(move || remove_files_of_others(&directory, |name| !name.starts_with(&ours))).await
    }
}

/// A file under a name of its own, locked while it is open: so it is told from those that a process has left which died. Other
/// stores of this process may write into the directory, and other processes.
pub(super) fn locked_file(directory: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    loop {
        let file = tempfile::Builder::new().prefix(prefix).tempfile_in(directory)?;
        match file.as_file().try_lock() {
            // Whoever removes what is left over may have come between the file and its lock.
            Ok(()) if !file.path().exists() => {}
            Err(TryLockError::WouldBlock) => {}
            // A file system without locks is no reason not to write.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(file),
        }
    }
}

/// The file is there, and nobody has it open by [`locked_file`].
fn is_left_over(path: &Path) -> bool {
    match File::options().read(true).write(true).open(path) {
        Err(err) => err.kind() != io::ErrorKind::NotFound,
        Ok(file) => !matches!(file.try_lock(), Err(TryLockError::WouldBlock)) && path.exists(),
    }
}

/// Removes a file unless somebody has it open by [`locked_file`]; says whether it did.
fn remove_unless_locked(path: &Path) -> io::Result<bool> {
    let file = match File::options().read(true).write(true).open(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.ok(),
    };
    if let Some(file) = &file
        && matches!(file.try_lock(), Err(TryLockError::WouldBlock))
    {
        return Ok(false);
    }
    // The lock is held until the file is gone.
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(err),
    }
}

/// What a directory holds; nothing where it is missing.
fn entries_of(directory: &Path) -> Result<Vec<fs::DirEntry>> {
    let failed = |err| Error::from_io("cannot list a directory", directory, err);
    match fs::read_dir(directory) {
        Ok(entries) => entries.collect::<io::Result<_>>().map_err(failed),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(err) => Err(failed(err)),
    }
}

/// Removes the files of a directory whose name is chosen and that nobody writes any more; says how many. A missing directory holds
/// none.
pub(super) fn remove_files_of_others(directory: &Path, chosen: impl Fn(&str) -> bool) -> Result<usize> {
    let mut removed = 0;
    for entry in entries_of(directory)? {
        if entry.file_name().to_str().is_some_and(&chosen) {
            match remove_unless_locked(&entry.path()) {
                Ok(gone) => removed += usize::from(gone),
                Err(err) => return Err(Error::from_io("cannot remove", &entry.path(), err)),
            }
        }
    }
    Ok(removed)
}

/// Gathers the files below a directory. Names that no object can have are passed over: they are not ours.
///
/// A symbolic link to a directory is followed at the top only (`tables` on another disk): deeper down it could be a loop.
fn walk(directory: &Path, prefix: &str, after: &str, depth: usize, objects: &mut Vec<Object>) -> Result<()> {
    if depth > MAX_DEPTH {
        return Ok(());
    }
    let failed = |err| Error::from_io("cannot list a directory", directory, err);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(());
        }
        Err(err) => return Err(failed(err)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| super::is_plain_segment(name)) else { continue };
        if prefix.is_empty() && name == STAGING {
            continue;
        }
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        let file_type = entry.file_type().map_err(failed)?;
        if file_type.is_file() && path.as_str() <= after {
            continue;
        }
        let link = file_type.is_symlink();
        let metadata = match fs::metadata(entry.path()) {
            Ok(metadata) => metadata,
            // Removed meanwhile, or a dangling link.
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            Err(err) => return Err(failed(err)),
        };
        if metadata.is_file() {
            let modified = metadata.modified().map_err(failed)?.into();
            objects.push(Object { path, bytes: metadata.len(), modified });
        } else if metadata.is_dir() && (!link || prefix.is_empty()) {
            walk(&entry.path(), &path, after, depth + 1, objects)?;
        }
    }
    Ok(())
}

fn same_content(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (Vec::with_capacity(CHUNK), Vec::with_capacity(CHUNK));
    loop {
        left.clear();
        right.clear();
        (&mut one).take(CHUNK as u64).read_to_end(&mut left)?;
        (&mut other).take(CHUNK as u64).read_to_end(&mut right)?;
        if left != right {
            return Ok(false);
        }
        if left.is_empty() {
            return Ok(true);
        }
    }
}

/// Makes the names in a directory durable. File systems that know no fsync of directories (some network and FUSE ones
/// answer EINVAL) write names through; there is nothing else that could be asked of them.
fn sync_directory(directory: &Path) -> io::Result<()> {
    match File::open(directory)?.sync_all() {
        Err(err) if matches!(err.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn nobody_else_can_read_what_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("new/history");
        let store = Arc::new(LocalStore::new(root.clone()));

        store.put_new("a/b/c", Bytes::from_static(b"x")).await.unwrap();

        assert_eq!(mode(&root), 0o700);
        assert_eq!(mode(&root.join("a/b")), 0o700);
        assert_eq!(mode(&root.join("a/b/c")), 0o600);
    }

    #[tokio::test]
    async fn after_an_unclear_failure_nothing_more_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::new(directory.path().to_owned()));
        store.put_new("a", Bytes::from_static(b"x")).await.unwrap();
        // A name that is too long for the file system fails at the naming, after everything was written.
        let err = store.put_new(&format!("x/{}", "y".repeat(300)), Bytes::new()).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Io);

        let err = store.put_new("b", Bytes::from_static(b"x")).await.unwrap_err();

        assert_eq!(err.kind(), ErrorKind::Latched);
        assert!(!directory.path().join("b").exists());
        assert_eq!(store.get("a").await.unwrap().as_ref(), b"x", "reading goes on");
    }

    #[tokio::test]
    async fn a_crash_before_the_naming_leaves_only_a_staging_file_that_the_next_opening_removes() {
        let directory = tempfile::tempdir().unwrap();
        let crashed = LocalStore::new(directory.path().to_owned());
        crashed.staging_file().unwrap().keep().unwrap();
        let next = LocalStore::new(directory.path().to_owned());
        let own = next.staging_file().unwrap();

        assert_eq!(next.list("", "").await.unwrap(), []);
        assert_eq!(next.remove_stale_staging().await.unwrap(), 1);

        assert!(own.path().exists());
    }

    #[tokio::test]
    async fn a_file_that_another_store_is_writing_is_not_left_over() {
        let directory = tempfile::tempdir().unwrap();
        let [writing, cleaning] = [(); 2].map(|()| LocalStore::new(directory.path().to_owned()));
        let written = writing.staging_file().unwrap();
        assert_eq!(cleaning.remove_stale_staging().await.unwrap(), 0);
        assert!(written.path().exists());
        written.keep().unwrap();
        assert_eq!(cleaning.remove_stale_staging().await.unwrap(), 1);

        // Not at the moment of its making, either.
        let done = Arc::new(AtomicBool::new(false));
        let cleaner = std::thread::spawn({
            let (done, staging) = (Arc::clone(&done), directory.path().join(STAGING));
            move || {
                while !done.load(Ordering::SeqCst) {
                    remove_files_of_others(&staging, |_| true).unwrap();
                }
            }
        });
        for _ in 0..2000 {
            let file = writing.staging_file().unwrap();
            std::thread::yield_now();
            assert!(file.path().exists());
        }
        done.store(true, Ordering::SeqCst);
        cleaner.join().unwrap();
    }

    #[tokio::test]
    async fn links_in_a_loop_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::new(directory.path().to_owned()));
        store.put_new("tables/t/x", Bytes::new()).await.unwrap();
        std::os::unix::fs::symlink(directory.path(), directory.path().join("tables/t/loop")).unwrap();
        std::os::unix::fs::symlink(directory.path().join("tables"), directory.path().join("other")).unwrap();

        let paths: Vec<_> = store.list("", "").await.unwrap().into_iter().map(|object| object.path).collect();

        assert_eq!(
            paths.iter().filter(|path| path.starts_with("tables/")).collect::<Vec<_>>(),
            ["tables/t/x"]
        );
        assert!(paths.contains(&"other/t/x".to_owned()));
    }
}
