//! The log: a chain of commits, each holding the SHA-256 of the one before.

mod chain;
mod commit;
mod event;
mod hash;
pub mod lsn_text;
mod manifest;
pub mod path;
mod schema;
mod state;
mod writer;

pub(crate) use chain::LONGEST;
pub use chain::{StoredCommit, catch_up, commit_count, commits, load, read};
pub use commit::{ASIDE, Add, CATALOG_SEEN, Commit, CommitBody, FORMAT, LSN_OFFSET, Source, Wal};
pub use event::{Event, EventKind, EventLsn, VERIFIED};
pub use hash::ContentHash;
pub use manifest::{MANIFEST, Manifest, ManifestSource};
pub use path::{parse_table_text, table_dir, table_text};
pub use schema::{ColumnDoc, SchemaVersion, TypeDoc};
pub use state::{LiveFile, LogState};
pub use writer::{Appended, LogWriter, Orphans};
