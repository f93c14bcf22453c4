//! A file on its way to becoming an object.

use std::io::{self, Write};
use std::path::Path;

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::{PutOutcome, Store, blocking};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::log::ContentHash;

/// A file being written, invisible to readers. Dropping it removes it.
#[derive(Debug)]
pub struct StagedFile {
    store: Store,
    file: NamedTempFile,
    hash: Sha256,
    bytes: u64,
}

impl StagedFile {
    pub(super) fn new(store: Store, file: NamedTempFile) -> Self {
        Self { store, file, hash: Sha256::new(), bytes: 0 }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends the writing and makes the file durable under its temporary name.
    ///
    /// # Errors
    /// As [`Store::put_new`].
    pub async fn seal(self) -> Result<Sealed> {
        let Self { store, file, hash, bytes } = self;
        let durable = store.local_root().is_some();
        let latch = store.clone();
        let file = blocking(move || {
            // What goes to a bucket is read back at once and is worthless after a crash.
            if durable {
                file.as_file().sync_all().map_err(|err| {
                    latch.latch();
                    Error::from_io("cannot make a file durable", file.path(), err)
                })?;
            }
            Ok(file)
        })
        .await?;
        failpoint::hit("file.after_write")?;
        Ok(Sealed { store, file: Some(file), bytes, sha256: ContentHash(hash.finalize().into()) })
    }
}

impl Write for StagedFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.hash.update(buffer.get(..written).unwrap_or_default());
        self.bytes += u64::try_from(written).unwrap_or(0);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A complete file under a temporary name, waiting to be published. Dropping it removes it.
#[derive(Debug)]
pub struct Sealed {
    store: Store,
    /// Gone once published.
    pub(super) file: Option<NamedTempFile>,
    bytes: u64,
    sha256: ContentHash,
}

impl Sealed {
    /// The file's length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// SHA-256 of the file's bytes as they were written.
    #[must_use]
    pub fn sha256(&self) -> ContentHash {
        self.sha256
    }

    /// Makes the file the object `path`, under the rules of [`Store::put_new`]. After [`PutOutcome::AlreadyExists`] it may
    /// be published under another path.
    ///
    /// # Errors
    /// As [`Store::put_new`]; [`ErrorKind::Conflict`] where it was published before.
    pub async fn publish(&mut self, path: &str) -> Result<PutOutcome> {
        self.publish_of_class(path, None).await
    }

    /// The same of a retention class, as [`Store::put_new_of_class`].
    ///
    /// # Errors
    /// As [`Sealed::publish`].
    pub async fn publish_of_class(&mut self, path: &str, class: Option<&str>) -> Result<PutOutcome> {
        let store = self.store.clone();
        let outcome = store.publish(self, path, class).await?;
        failpoint::hit("file.after_upload")?;
        Ok(outcome)
    }

    /// The file, to read it again before it is published.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where it cannot be opened; [`ErrorKind::Conflict`] where it was published.
    pub(crate) fn reopen(&self) -> Result<std::fs::File> {
        let path = self.path()?;
        std::fs::File::open(path).map_err(|error| {
            Error::new(ErrorKind::Io, "cannot read a file again", path.display().to_string())
                .with_source(error)
        })
    }

    /// The file under its temporary name.
    pub(super) fn path(&self) -> Result<&Path> {
        self.file.as_ref().map(NamedTempFile::path).ok_or_else(|| {
            Error::new(ErrorKind::Conflict, "a file was published twice", "its first object is untouched")
        })
    }
}
