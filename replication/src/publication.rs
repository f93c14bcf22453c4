//! Publications: which tables the slot's stream carries.
//!
//! A capture named `bygone` has two. `bygone` publishes every operation. `bygone_insert_only` publishes inserts and
//! truncates of the tables that have no usable replica identity: were their updates and deletes published, the
//! application's own updates and deletes would fail. Both list tables one by one, and partitions as leaves: a
//! publication for all tables would set that trap for every table made later, and publishing through the root loses
//! truncates of partitions.

mod difference;
mod ensure;
mod fingerprint;
mod partial;
mod state;

pub use difference::{Difference, compare};
pub use ensure::{Change, Ensured, Refused, drop, ensure, ensure_each, missing};
pub use fingerprint::ParseFingerprintError;
pub use partial::{Partial, check_user_made, restrict};
pub(crate) use state::server_version;
pub use state::{Publication, PublicationState, SchemaMember, Stamp, TableMember, inspect, published_tables};

use crate::catalog::{CatalogError, ErrorKind};
use crate::table::{ReplicaIdentity, Table};

/// What is appended to the capture's name for the second publication.
const INSERT_ONLY_SUFFIX: &str = "_insert_only";

/// Longest identifier in bytes (`NAMEDATALEN - 1`).
const MAX_NAME: usize = 63;

/// The names of a capture's own two publications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Publishes every operation.
    pub all: String,
    /// Publishes inserts and truncates.
    pub insert_only: String,
}

impl Names {
    /// The names for a capture of this name.
    ///
    /// # Errors
    /// [`ErrorKind::Name`] when the longer one does not fit into an identifier.
    pub fn new(capture: &str) -> Result<Self, CatalogError> {
        let names = Self { all: capture.to_owned(), insert_only: format!("{capture}{INSERT_ONLY_SUFFIX}") };
        if capture.is_empty() || names.insert_only.len() > MAX_NAME {
            return Err(CatalogError::new(
                ErrorKind::Name,
                "naming the publications",
                format!(
                    "{capture:?} cannot be the capture's name, which has 1 to {} bytes",
                    MAX_NAME - INSERT_ONLY_SUFFIX.len()
                ),
            ));
        }
        Ok(names)
    }

    /// Both, in the order in which the stream is asked for them.
    #[must_use]
    pub fn both(&self) -> [&str; 2] {
        [&self.all, &self.insert_only]
    }
}

/// Whether a table belongs into the insert-only publication, since publishing its updates would make them fail.
#[must_use]
pub fn is_insert_only(table: &Table) -> bool {
    table.identity == ReplicaIdentity::Nothing
}
