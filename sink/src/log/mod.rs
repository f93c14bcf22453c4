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

pub(crate) use chain::{LONGEST, commit_count_from};
pub use chain::{StoredCommit, catch_up, commit_count, commits, load, read};
pub use commit::{
    ASIDE, Add, CATALOG_SEEN, COMMITS, Commit, CommitBody, FORMAT, LARGE, LEAF, LSN_OFFSET, Source, Wal,
};
pub(crate) use commit::{from_bytes, to_bytes};
pub use event::{Event, EventKind, EventLsn, SINCE, VERIFIED};
pub use hash::ContentHash;
pub use manifest::{MANIFEST, Manifest, ManifestSource};
pub use path::{parse_table_text, table_dir, table_text};
pub use schema::{ColumnDoc, SchemaVersion, TypeDoc};
pub use state::{LiveFile, LogState};
pub use writer::{Appended, LogWriter, Orphans};

#[cfg(test)]
pub(crate) mod tests_support {
    //! Files of a log, made up.

    pub(crate) use super::commit::tests::EXAMPLE;
    use super::{Add, Commit, LiveFile};

    /// A file of a size, of commit `seq`.
    pub(crate) fn live_file(seq: u64, bytes: u64) -> LiveFile {
        let commit = Commit::from_bytes(EXAMPLE.as_bytes(), 0).unwrap();
        let add = Add {
            bytes,
            lsn: [bygone_replication::Lsn(seq); 2],
            path: format!("x/{seq:020}-000.parquet"),
            ..commit.body.add[0].clone()
        };
        LiveFile { add, added_by: seq }
    }
}
