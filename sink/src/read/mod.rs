//! Facts read back: the tables of a history at any moment, and the versions of their rows.
//!
//! Reading begins with an [`Archive`]: the log, with the place of each commit. It names the files; their statistics in
//! the log, then those of Parquet's row groups, say which need not be opened. Of a table "as of" a [`Cut`], three small
//! columns are read first, to find the last version of each entity; then only the rows of those versions.

mod archive;
mod as_of;
mod facts;
pub(crate) mod file;
mod reshape;
mod slab_scan;
mod table;
mod transaction;

pub use archive::{Archive, CommitPlace, Doubt};
pub use as_of::{AsOf, Change, LiveRow, diff};
pub(crate) use facts::facts;
pub use facts::{Columns, Fact, FactFilter, Head, OwnedFact};
pub use reshape::Reshape;
pub use slab_scan::{SlabBatch, SlabPart};
pub use table::{Extent, TableHistory, Version};
pub(crate) use transaction::transactions_of;
pub use transaction::{Transaction, TransactionFilter};

use bygone_replication::Lsn;

use crate::timestamp::Timestamp;

/// A moment: which facts lie at or before it. Every cut is a prefix of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The facts whose `_lsn` is at most this.
    Lsn(Lsn),
    /// The facts whose `_valid_from` is at most this.
    Time(Timestamp),
}

impl Cut {
    /// The same in PostgreSQL's SQL, of columns that hold a position and a time.
    pub(crate) fn sql(&self, lsn: &str, time: &str) -> String {
        match self {
            Self::Lsn(last) => format!("{lsn} <= '{last}'"),
            Self::Time(last) => format!("{time} <= '{last}'"),
        }
    }

    /// A fact lies at or before the moment.
    #[must_use]
    pub fn covers(&self, lsn: i64, valid_from: i64) -> bool {
        match self {
            Self::Lsn(last) => lsn <= last.as_i64(),
            Self::Time(last) => valid_from <= last.0,
        }
    }
}

/// Whether a walk over facts goes on.
pub type Flow = std::ops::ControlFlow<()>;
