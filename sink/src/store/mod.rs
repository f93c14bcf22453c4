//! The place where a history's objects are kept: a directory or a bucket.
//!
//! Both give the same promises:
//! - [`Store::put_new`] and [`Sealed::publish`] create an object whole or not at all, never replace one, and return
//!   once it will survive a crash of the machine (or of whatever the bucket's owner promises).
//! - Of several writers of one path exactly one is told [`PutOutcome::Created`], unless they wrote the same bytes.
//!
//! A directory must offer `fsync` on files and directories and either `renameat2(RENAME_NOREPLACE)` or hard links.
//! A bucket must honour `If-None-Match: *` on `PutObject` and `CompleteMultipartUpload`;
//! [`Store::check_put_if_absent`] finds out.

mod aws_profile;
mod bucket;
mod local;
mod location;
mod remote;
mod remote_error;
mod staged;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tempfile::NamedTempFile;

use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::timestamp::Timestamp;
use local::LocalStore;
use remote::RemoteStore;

pub use bucket::{Protection, Retention};
pub use location::Location;
pub use staged::{Sealed, StagedFile};

/// The tag by which objects in a bucket tell their retention class.
pub const RETENTION_TAG: &str = "bygone-retention";

/// What became of a put-if-absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object stands there with these bytes and will survive a crash.
    ///
    /// Also when an object with exactly these bytes stood there already: it may be our own, from an attempt whose reply
    /// was lost. Who needs to know the winner of a race puts something of his own into the bytes.
    Created,
    /// An object with other bytes stands there; it is untouched.
    AlreadyExists,
}

/// An object of a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Its path below the history, segments separated by `/`.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was written, by the store's own clock.
    pub modified: Timestamp,
}

/// Microseconds after which nobody is taken to be still at work on a file that is made beside the log, or to be reading one that
/// was replaced.
const LEFT_BEHIND: i64 = 3_600_000_000;

impl Object {
    /// It is so old that nobody is at work on it any more, or reads it where it was replaced.
    pub(crate) fn is_left_behind(&self) -> bool {
        self.modified.0 < Timestamp::now().0.saturating_sub(LEFT_BEHIND)
    }
}

/// How a [`Store`] behaves.
#[derive(Clone)]
pub struct StoreOptions {
    /// How long a request to a bucket is repeated before the error is passed on.
    pub retry_for: Duration,
    /// Where files are gathered before they are uploaded to a bucket; the system's temporary directory without it.
    pub spool: Option<PathBuf>,
    /// The environment that a bucket's settings are read from; the process's without it.
    pub environment: Option<BTreeMap<String, String>>,
}

impl Default for StoreOptions {
    /// Half a minute outlasts the usual fail-over of a store; what lasts longer is for the operator to see.
    fn default() -> Self {
        Self { retry_for: Duration::from_secs(30), spool: None, environment: None }
    }
}

impl fmt::Debug for StoreOptions {
    /// Without the environment, which holds secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("retry_for", &self.retry_for)
            .field("spool", &self.spool)
            .finish_non_exhaustive()
    }
}

/// A place for objects; cheap to clone. See the [module](self) for its promises.
#[derive(Clone, Debug)]
pub struct Store(Arc<Kind>);

#[derive(Debug)]
enum Kind {
    Local(Arc<LocalStore>),
    Remote(RemoteStore),
}

impl Store {
    /// Opens a place. Does no I/O apart from reading AWS' or Azure's settings: neither rights nor existence are checked.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] where these settings make no sense.
    pub fn open(location: &Location, options: &StoreOptions) -> Result<Self> {
        Ok(Self(Arc::new(match location {
            Location::Local(root) => Kind::Local(Arc::new(LocalStore::new(root.clone()))),
            Location::S3 { bucket, prefix } => Kind::Remote(RemoteStore::s3(bucket, prefix, options)?),
            Location::Azure { container, prefix } => {
                Kind::Remote(RemoteStore::azure(container, prefix, options)?)
            }
        })))
    }

    /// Puts an object unless one with other bytes stands there. Durable when it returns.
    ///
    /// # Errors
    /// After [`ErrorKind::Unreachable`] or [`ErrorKind::Io`] the object may or may not be there. A local store refuses all
    /// further writes then ([`ErrorKind::Latched`]) until it is opened again.
    pub async fn put_new(&self, path: &str, bytes: Bytes) -> Result<PutOutcome> {
        self.put_new_of_class(path, bytes, None).await
    }

    /// The same of a retention class, which an object in a bucket carries as the tag [`RETENTION_TAG`].
    ///
    /// # Errors
    /// As [`Store::put_new`].
    pub async fn put_new_of_class(
        &self,
        path: &str,
        bytes: Bytes,
        class: Option<&str>,
    ) -> Result<PutOutcome> {
        check_path(path)?;
        match &*self.0 {
            Kind::Local(store) => store.put_new(path, bytes).await,
            Kind::Remote(store) => store.put_new(path, bytes, class).await,
        }
    }

    /// Begins a file that need not fit into memory; it becomes an object only through [`Sealed::publish`].
    ///
    /// Blocks for a file creation.
    ///
    /// # Errors
    /// Where no file can be created.
    pub fn stage(&self) -> Result<StagedFile> {
        failpoint::hit("file.before_write")?;
        Ok(StagedFile::new(self.clone(), self.temporary_file()?))
    }

    /// A file without a name, for what does not fit into memory: beside what is staged, and gone with the process.
    ///
    /// # Errors
    /// Where no file can be created.
    pub(crate) fn scratch_file(&self) -> Result<std::fs::File> {
        // The name goes with the path; the file stays as long as it is open.
        Ok(self.temporary_file()?.into_file())
    }

    fn temporary_file(&self) -> Result<NamedTempFile> {
        match &*self.0 {
            Kind::Local(store) => store.staging_file(),
            Kind::Remote(store) => store.spool_file(),
        }
    }

    /// Finds out early, and without a trace, whether files can be created: in the directory, or for a bucket in the spool.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`], [`ErrorKind::ReadOnly`], [`ErrorKind::NoSpace`] and what else stands against it.
    pub async fn check_writable(&self) -> Result<()> {
        let store = self.clone();
        blocking(move || store.temporary_file().map(drop)).await
    }

    /// Sees to it that an object stays: whoever put it may have been killed before its name was durable.
    ///
    /// # Errors
    /// Where a disk does not do so.
    pub async fn make_durable(&self, path: &str) -> Result<()> {
        check_path(path)?;
        match &*self.0 {
            Kind::Local(store) => store.make_durable(path).await,
            // What a bucket shows is durable.
            Kind::Remote(_) => Ok(()),
        }
    }

    /// Proves that the store refuses to replace an object: puts the bytes that already stand at `path` once more and
    /// expects a refusal. Changes nothing either way.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where the store took them.
    pub async fn check_put_if_absent(&self, path: &str, bytes: Bytes) -> Result<()> {
        check_path(path)?;
        match &*self.0 {
            // The kernel's word is enough.
            Kind::Local(_) => Ok(()),
            Kind::Remote(store) => store.check_put_if_absent(path, bytes).await,
        }
    }

    /// Tries, and leaves no trace, whether a history can be kept here: whether objects can be put, and none is put in another's
    /// place. Gives by how much the store's clock is ahead of this machine's, in seconds, where it has one of its own.
    ///
    /// # Errors
    /// What stands against it; [`ErrorKind::Unsupported`] where the store replaces objects.
    pub async fn probe(&self) -> Result<Option<i64>> {
        match &*self.0 {
            Kind::Local(store) => {
                // Nothing is made that was not there: the nearest directory that exists has to take files.
                let root = store.root().to_owned();
                blocking(move || {
                    let there = root.ancestors().find(|at| at.is_dir()).unwrap_or_else(|| Path::new("."));
                    let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
                    tempfile::tempfile_in(there)
                        .map(drop)
                        .map_err(|err| Error::from_io("cannot create a file", there, err))
                })
                .await?;
                Ok(None)
            }
            Kind::Remote(store) => store.probe(&format!("bygone-probe-{:016x}", rand::random::<u64>())).await,
        }
    }

    /// What the bucket does for the objects in it; none for a directory.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] where one may not ask; where the bucket does not answer.
    pub async fn protection(&self) -> Result<Option<Protection>> {
        match &*self.0 {
            Kind::Local(_) => Ok(None),
            Kind::Remote(store) => store.protection().await,
        }
    }

    /// The bytes of an object.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without it.
    pub async fn get(&self, path: &str) -> Result<Bytes> {
        check_path(path)?;
        match &*self.0 {
            Kind::Local(store) => store.get(path).await,
            Kind::Remote(store) => store.get(path).await,
        }
    }

    /// Bytes `range` of an object, all of them.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] where the object ends before the range does.
    pub async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        check_path(path)?;
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        let bytes = match &*self.0 {
            Kind::Local(store) => store.get_range(path, range.clone()).await?,
            Kind::Remote(store) => store.get_range(path, range.clone()).await?,
        };
        if u64::try_from(bytes.len()).ok() != Some(wanted) {
            return Err(cut_short(path, &range));
        }
        Ok(bytes)
    }

    /// The bytes of an object in pieces of moderate size, so that it need not fit into memory.
    ///
    /// # Errors
    /// As [`Store::get`], also in the midst of the stream.
    pub async fn get_stream(&self, path: &str) -> Result<BoxStream<'static, Result<Bytes>>> {
        check_path(path)?;
        match &*self.0 {
            Kind::Local(store) => store.get_stream(path).await,
            Kind::Remote(store) => store.get_stream(path).await,
        }
    }

    /// The length of an object in bytes.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without it.
    pub async fn head(&self, path: &str) -> Result<u64> {
        check_path(path)?;
        match &*self.0 {
            Kind::Local(store) => store.head(path).await,
            Kind::Remote(store) => store.head(path).await,
        }
    }

    /// Whether there is such an object.
    ///
    /// # Errors
    /// Where the store does not say.
    pub async fn exists(&self, path: &str) -> Result<bool> {
        match self.head(path).await {
            Ok(_) => Ok(true),
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// The objects below the directory `prefix` (`""` for all), by path. What is being staged is not among them.
    ///
    /// # Errors
    /// Where the store does not say. A directory that does not exist holds nothing.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.list_after(prefix, "").await
    }

    /// Those of them that come after a path, in the order of paths. A bucket is asked for no others.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn list_after(&self, prefix: &str, after: &str) -> Result<Vec<Object>> {
        for path in [prefix, after].into_iter().filter(|path| !path.is_empty()) {
            check_path(path)?;
        }
        let mut objects = match &*self.0 {
            Kind::Local(store) => store.list(prefix, after).await?,
            Kind::Remote(store) => store.list(prefix, after).await?,
        };
        objects.sort_unstable();
        Ok(objects)
    }

    /// Removes an object. One that is not there is no error.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] under object lock or without the right.
    pub async fn delete(&self, path: &str) -> Result<()> {
        check_path(path)?;
        match &*self.0 {
            Kind::Local(store) => store.delete(path).await,
            Kind::Remote(store) => store.delete(path).await,
        }
    }

    /// Removes objects that no reader takes. Where nothing may be removed they stay.
    pub(crate) async fn delete_unread(&self, paths: impl IntoIterator<Item = &str>) -> Result<()> {
        for path in paths {
            match self.delete(path).await {
                Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::ReadOnly) => break,
                done => done?,
            }
        }
        Ok(())
    }

    /// There is what a process that died began to stage in a directory. What is staged for a bucket never lies there.
    ///
    /// # Errors
    /// Where files cannot be listed.
    pub async fn has_stale_staging(&self) -> Result<bool> {
        match &*self.0 {
            Kind::Local(store) => store.has_stale_staging().await,
            Kind::Remote(_) => Ok(false),
        }
    }

    /// Removes what earlier openings of this store began to stage and never published; says how many files.
    ///
    /// # Errors
    /// Where files cannot be listed or removed.
    pub async fn remove_stale_staging(&self) -> Result<usize> {
        match &*self.0 {
            Kind::Local(store) => store.remove_stale_staging().await,
            // Spool files have no name that outlives the process, except after a crash; those lie in the spool directory.
            Kind::Remote(store) => store.remove_stale_spool().await,
        }
    }

    /// The store's name for messages: a path or an address. Holds no secrets.
    #[must_use]
    pub fn describe(&self) -> String {
        match &*self.0 {
            Kind::Local(store) => store.root().display().to_string(),
            Kind::Remote(store) => store.describe().to_owned(),
        }
    }

    /// The directory, where it is one.
    #[must_use]
    pub fn local_root(&self) -> Option<&Path> {
        match &*self.0 {
            Kind::Local(store) => Some(store.root()),
            Kind::Remote(_) => None,
        }
    }

    async fn publish(&self, sealed: &mut Sealed, path: &str, class: Option<&str>) -> Result<PutOutcome> {
        check_path(path)?;
        match &*self.0 {
            Kind::Local(store) => store.publish(sealed, path).await,
            Kind::Remote(store) => store.upload(sealed, path, class).await,
        }
    }
}

/// Runs what blocks on a thread where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|err| {
        Err(Error::new(ErrorKind::Io, "a task of the store ended before its time", "").with_source(err))
    })
}

fn cut_short(path: &str, range: &Range<u64>) -> Error {
    let detail = format!("{path} ends before byte {}; `bygone verify` says what is damaged", range.end);
    Error::new(ErrorKind::Damaged, "an object is cut short", detail)
}

/// Refuses what is no plain relative path of [`is_plain_segment`]s.
///
/// Every path passes here, those that were read back from a log among them: none may lead out of the history.
pub(crate) fn check_path(path: &str) -> Result<()> {
    // S3 takes keys of 1,024 bytes; this leaves room for the prefix.
    if path.len() <= 900 && path.split('/').all(is_plain_segment) {
        return Ok(());
    }
    let shown: String = path.chars().take(200).collect();
    Err(Error::new(ErrorKind::InvalidPath, "not a path inside a history", format!("{shown:?}")))
}

/// The characters are those that every file system, bucket and reader takes without escaping.
fn is_plain_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment.len() <= 255
        && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-~=+".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_the_history() {
        let long = "a/".repeat(500) + "a";
        for path in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../b",
            "a/..",
            "./a",
            "a//b",
            "a/",
            "a\\b",
            "a b",
            "a%2e",
            "a\0b",
            "é",
            "a\nb",
            "c:/x",
            &long,
            &"a".repeat(256),
        ] {
            assert_eq!(check_path(path).unwrap_err().kind(), ErrorKind::InvalidPath, "{path:?}");
        }
        for path in [
            "bygone.json",
            "log/00000000000000000000.json",
            "tables/public.~41~/_date=2026-11-23/0-0.parquet",
            "..a",
        ] {
            assert!(check_path(path).is_ok(), "{path:?}");
        }
    }
}
