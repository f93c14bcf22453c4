//! What can end a command, and whether trying again can help.

use bygone_replication::catalog::CatalogError;
use bygone_replication::catalog::ErrorKind as CatalogErrorKind;
use bygone_replication::conninfo::ConnInfoError;
use bygone_replication::pgoutput::DecodeError;
use bygone_replication::preflight::StartRefused;
use bygone_replication::{Error as ReplicationError, Policy};
use bygone_sink::error::{Error as SinkError, ErrorKind as SinkErrorKind};

/// The result of a command.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a command cannot go on. What is printed says what to do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The connection to the source.
    #[error("{0}")]
    Source(#[from] ReplicationError),
    /// The connection string.
    #[error("--source: {0}")]
    ConnInfo(#[from] ConnInfoError),
    /// The source's catalog, publications or slots.
    #[error("{0}")]
    Catalog(#[from] CatalogError),
    /// What is kept.
    #[error("{0}")]
    Sink(#[from] SinkError),
    /// The stream cannot be decoded.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// Going on would lose changes.
    #[error("{0}")]
    Refused(#[from] StartRefused),
    /// The source keeps more WAL for the slot than `--max-slot-lag` allows.
    #[error(
        "the source keeps {held} bytes of WAL for replication slot {slot:?}, more than --max-slot-lag allows ({limit}): the slot was \
         dropped rather than let it fill the source's disk, and the gap is recorded in the history. Start with --on-gap \
         reconcile, which makes a new slot and compares every table with the source"
    )]
    SlotLag {
        /// The slot's name.
        slot: String,
        /// Bytes.
        held: u64,
        /// Bytes.
        limit: u64,
    },
    /// It was told to stop while tables were copied for the first time.
    #[error("stopped during the snapshot; it begins anew for the tables that are not done")]
    Stopped,
    /// The stream brings a table whose values have to be read as text, and is in binary form.
    #[error("a table is read as text from here on")]
    TextNeeded,
    /// The command is not used rightly, as a sentence.
    #[error("{0}")]
    Usage(String),
    /// Anything else, as a sentence.
    #[error("{0}")]
    Other(String),
}

impl Error {
    pub(crate) fn other(text: impl Into<String>) -> Self {
        Self::Other(text.into())
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// What a process ends with: 2 where the command was not used rightly, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        let is_usage = match self {
            Self::Usage(_) | Self::ConnInfo(_) => true,
            Self::Sink(error) => error.kind() == SinkErrorKind::InvalidLocation,
            _ => false,
        };
        if is_usage { 2 } else { 1 }
    }

    /// The server misses something that the stream needs, such as a publication: what is missing is found out, and
    /// explained, by the checks of the next connect.
    pub(crate) fn is_undefined(&self) -> bool {
        matches!(self, Self::Source(error) if error.sqlstate() == Some("42704"))
    }

    /// The source could not be reached, or went while it was spoken to.
    pub(crate) fn is_lost_source(&self) -> bool {
        match self {
            Self::Source(error) => error.policy() == Policy::Retry,
            Self::Catalog(error) => error.kind() == CatalogErrorKind::Connection,
            _ => false,
        }
    }

    /// Whether connecting again may help. The default is to stop.
    pub(crate) fn policy(&self) -> Policy {
        let retry = match self {
            Self::Source(error) => return error.policy(),
            Self::Catalog(error) => {
                matches!(error.kind(), CatalogErrorKind::Connection | CatalogErrorKind::Busy)
            }
            // After a crash of our own the server may not have noticed yet; a standby catches up.
            Self::Refused(refused) => refused.passes(),
            Self::TextNeeded => true,
            _ => false,
        };
        if retry { Policy::Retry } else { Policy::Stop }
    }
}
