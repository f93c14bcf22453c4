//! What can go wrong with what is kept, and whether trying again can help.

use std::error::Error as StdError;
use std::fmt;

/// The result of what this crate does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be done.
///
/// Opaque: a [kind](Error::kind) to decide by, a description that is fixed per cause, and a detail that names the
/// object and, where an operator can act, the remedy. Never holds row values or credentials.
///
/// `{}` prints description and detail, `{:#}` the underlying causes as well.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    description: &'static str,
    detail: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What sort of trouble an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The object does not exist.
    NotFound,
    /// There is no history at the place.
    NoHistory,
    /// The history was written by a newer bygone.
    NewerFormat,
    /// The history belongs to another database, server or capture.
    OtherSource,
    /// Somebody else wrote the next commit: this writer has lost and must stop.
    Fenced,
    /// What was read back is not what was written: altered, missing or hostile.
    Damaged,
    /// The rights do not suffice.
    Denied,
    /// The bucket does not exist.
    BucketMissing,
    /// The store does not answer; whether the last request took effect is unknown.
    Unreachable,
    /// The disk or the quota is full.
    NoSpace,
    /// The file system is mounted read-only.
    ReadOnly,
    /// An earlier write failed in a way that leaves its outcome unknown: nothing more is written until reopened.
    Latched,
    /// The text does not name a place for a history.
    InvalidLocation,
    /// The path cannot stand for an object of a history.
    InvalidPath,
    /// The place or the store cannot do what a history needs.
    Unsupported,
    /// The place can never hold it: too many columns, a row or a key that is too long.
    TooLarge,
    /// A setting (environment, profile, failpoint list) makes no sense.
    Configuration,
    /// The caller asked for something that contradicts what is kept.
    Conflict,
    /// A failpoint said so.
    Failpoint,
    /// Any other failure of the operating system or the store.
    Io,
}

impl ErrorKind {
    /// The same request may succeed later without anybody doing anything. Everything else stops bygone.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Unreachable)
    }

    /// An object is missing, or not what it should be: others may well be.
    #[must_use]
    pub(crate) fn is_of_object(self) -> bool {
        matches!(self, Self::NotFound | Self::Damaged)
    }

    /// A write that failed like this left nothing behind, so the writer may go on.
    pub(crate) fn leaves_nothing(self) -> bool {
        matches!(
            self,
            Self::Denied
                | Self::BucketMissing
                | Self::NoSpace
                | Self::ReadOnly
                | Self::InvalidPath
                | Self::Unsupported
        )
    }
}

impl Error {
    /// An error with no underlying cause. `description` is a short phrase without row values, `detail` names the
    /// object concerned and the remedy.
    pub fn new(kind: ErrorKind, description: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, description, detail: detail.into(), source: None }))
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What sort of trouble it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The phrase that is the same for every error of this cause.
    #[must_use]
    pub fn description(&self) -> &'static str {
        self.0.description
    }

    /// What it was about, and the remedy where there is one; may be empty.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// Shorthand for [`ErrorKind::is_transient`].
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.kind().is_transient()
    }

    /// What an I/O error on a file means for the one who runs bygone. `what` says what was being done.
    pub(crate) fn from_io(what: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let (kind, remedy) = match source.kind() {
            Io::NotFound => (ErrorKind::NotFound, ""),
            Io::PermissionDenied => {
                (ErrorKind::Denied, "; give the user that bygone runs as the right to read and write there")
            }
            Io::StorageFull | Io::QuotaExceeded => (
                ErrorKind::NoSpace,
                "; free space or move the history to a larger disk, then start bygone again",
            ),
            Io::ReadOnlyFilesystem => (ErrorKind::ReadOnly, "; the file system is mounted read-only"),
            _ => (ErrorKind::Io, ""),
        };
        let detail = format!("{}: {source}{remedy}", path.display());
        Self::new(kind, what, detail).with_source(source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.description)?;
        if !self.0.detail.is_empty() {
            write!(f, ": {}", self.0.detail)?;
        }
        if f.alternate() {
            let mut cause = self.source();
            while let Some(err) = cause {
                write!(f, ": {err}")?;
                cause = err.source();
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("description", &self.0.description)
            .field("detail", &self.0.detail)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<crate::state::StateError> for Error {
    fn from(error: crate::state::StateError) -> Self {
        use crate::state::StateErrorKind as Kind;
        let kind = match error.kind() {
            Kind::InUse => ErrorKind::Conflict,
            Kind::Damaged => ErrorKind::Damaged,
            Kind::Stopped => ErrorKind::Latched,
            Kind::TooLarge => ErrorKind::Unsupported,
            Kind::Io => ErrorKind::Io,
        };
        Self::new(kind, "the state cannot be used", error.to_string()).with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_it_was_about_and_on_request_its_causes() {
        let io = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let err = Error::from_io("cannot write", std::path::Path::new("/h/x"), io);
        assert_eq!(err.kind(), ErrorKind::NoSpace);
        assert!(err.to_string().starts_with("cannot write: /h/x: "), "{err}");
        assert!(err.to_string().contains("free space"), "{err}");
        let outer = Error::new(ErrorKind::Io, "outer", "").with_source(err);
        assert_eq!(outer.to_string(), "outer");
        assert!(format!("{outer:#}").starts_with("outer: cannot write"), "{outer:#}");
    }
}
