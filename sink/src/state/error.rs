//! What can go wrong with the state store.

use std::error::Error;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

/// What kind of failure a [`StateError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StateErrorKind {
    /// Another process (or another handle of this one) holds the directory.
    InUse,
    /// A file is damaged. The directory is marked, so that the next open wipes it and starts empty.
    Damaged,
    /// The disk or the file system failed; after it nothing more is written until the store is reopened.
    Io,
    /// A key or value has a size that the store cannot hold.
    TooLarge,
    /// An earlier write failed: the store takes no more writes until it is reopened.
    Stopped,
}

/// A failure of the state store. It names files and sizes, never keys or rows.
#[derive(Debug)]
pub struct StateError {
    kind: StateErrorKind,
    what: &'static str,
    detail: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl StateError {
    pub(super) fn new(kind: StateErrorKind, what: &'static str) -> Self {
        Self { kind, what, detail: None, source: None }
    }

    pub(super) fn io(what: &'static str, source: std::io::Error) -> Self {
        Self::new(StateErrorKind::Io, what).caused_by(source)
    }

    /// A failure below a directory, with what to do about it.
    pub(super) fn io_in(directory: &Path, what: &'static str, source: std::io::Error) -> Self {
        let remedy = match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                " (free space there, or keep the state elsewhere with --state)"
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                " (make it writable, or keep the state elsewhere with --state)"
            }
            _ => "",
        };
        Self::io(what, source).with(format!("{}{remedy}", directory.display()))
    }

    /// What cannot be written below a directory.
    pub(crate) fn unwritable_in(directory: &Path, source: std::io::Error) -> Self {
        Self::io_in(directory, "the state store cannot be written", source)
    }

    pub(super) fn with(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub(super) fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> StateErrorKind {
        self.kind
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl Error for StateError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// The result of a call to the state store.
pub type Result<T> = std::result::Result<T, StateError>;
