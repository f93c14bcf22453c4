//! Publications that somebody made, and what they leave out.

use std::collections::BTreeMap;
use std::fmt;

use super::state::PublicationState;
use crate::catalog::{CatalogError, ErrorKind};
use crate::table::{Table, TableName, quote_identifier};

/// Something about a publication that somebody made which keeps changes from the history.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Partial {
    /// Some operations are not published.
    Operations {
        /// The publication's name.
        publication: String,
        /// Which.
        missing: Vec<&'static str>,
    },
    /// Rows outside the filter are not published, and updates across it come as inserts and deletes.
    Filter {
        /// The publication's name.
        publication: String,
        /// The table.
        table: TableName,
    },
    /// Columns outside the list are not published.
    Columns {
        /// The publication's name.
        publication: String,
        /// The table.
        table: TableName,
    },
    /// Partitions come as their root, so truncates of a partition are not published.
    ViaRoot {
        /// The publication's name.
        publication: String,
    },
}

impl fmt::Display for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operations { publication, missing } => {
                write!(f, "publication {publication:?} does not publish {}", missing.join(", "))
            }
            Self::Filter { publication, table } => {
                write!(f, "publication {publication:?} publishes only some rows of {table}")
            }
            Self::Columns { publication, table } => {
                write!(f, "publication {publication:?} publishes only some columns of {table}")
            }
            Self::ViaRoot { publication } => write!(
                f,
                "publication {publication:?} publishes partitions as their root, which hides truncates of partitions"
            ),
        }
    }
}

impl Partial {
    /// The statement after which nothing is left out any more.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Operations { publication, .. } => format!(
                "alter publication {} set (publish = 'insert, update, delete, truncate');",
                quote_identifier(publication)
            ),
            Self::ViaRoot { publication } => format!(
                "alter publication {} set (publish_via_partition_root = false);",
                quote_identifier(publication)
            ),
            Self::Filter { publication, table } | Self::Columns { publication, table } => {
                let (publication, table) = (quote_identifier(publication), table.quoted());
                format!(
                    "alter publication {publication} drop table only {table}; alter publication {publication} add table only {table};"
                )
            }
        }
    }

    /// The one table that it concerns; none for a whole publication.
    #[must_use]
    pub const fn table(&self) -> Option<&TableName> {
        match self {
            Self::Filter { table, .. } | Self::Columns { table, .. } => Some(table),
            Self::Operations { .. } | Self::ViaRoot { .. } => None,
        }
    }
}

/// Leaves of tables what these publications publish: the columns of their lists, and the rows of their filters. A row is
/// published where any of the publications that list its table lets it through.
pub fn restrict(tables: &mut [Table], state: &PublicationState) {
    for table in tables {
        let members: Vec<_> = state
            .publications
            .iter()
            .flat_map(|publication| &publication.tables)
            .filter(|member| member.oid == table.oid)
            .collect();
        if let Some(listed) = members.iter().find_map(|member| member.columns.as_ref()) {
            table.columns.retain(|column| listed.contains(&column.attnum));
        }
        let filters: Option<Vec<String>> =
            members.iter().map(|member| member.filter.as_ref().map(|filter| format!("({filter})"))).collect();
        table.row_filter = filters.filter(|filters| !filters.is_empty()).map(|filters| filters.join(" or "));
    }
}

/// Checks publications that somebody made (`--publication`), and says in what way they are partial: to be recorded
/// where that is accepted.
///
/// # Errors
/// [`ErrorKind::Missing`] when one of `names` does not exist; [`ErrorKind::Conflict`] when the same table has two
/// different column lists, which stops decoding, or when they are partial and `accept_partial` is not given.
pub fn check_user_made<S: AsRef<str>>(
    state: &PublicationState,
    names: &[S],
    accept_partial: bool,
) -> Result<Vec<Partial>, CatalogError> {
    let doing = "checking the publications";
    for name in names.iter().map(AsRef::as_ref) {
        if state.get(name).is_none() {
            return Err(CatalogError::new(
                ErrorKind::Missing,
                doing,
                format!("publication {name:?} does not exist in this database"),
            ));
        }
    }
    let mut lists: BTreeMap<u32, &Option<Vec<i16>>> = BTreeMap::new();
    let mut partial = Vec::new();
    for publication in &state.publications {
        let name = || publication.name.clone();
        let operations = [
            (publication.insert, "insert"),
            (publication.update, "update"),
            (publication.delete, "delete"),
            (publication.truncate, "truncate"),
        ];
        let missing: Vec<_> =
            operations.iter().filter(|(on, _)| !on).map(|(_, operation)| *operation).collect();
        if !missing.is_empty() {
            partial.push(Partial::Operations { publication: name(), missing });
        }
        if publication.via_root {
            partial.push(Partial::ViaRoot { publication: name() });
        }
        for table in &publication.tables {
            if *lists.entry(table.oid).or_insert(&table.columns) != &table.columns {
                return Err(CatalogError::new(
                    ErrorKind::Conflict,
                    doing,
                    format!(
                        "table {} has different column lists in them, which the server cannot decode; \
                         give it the same list everywhere",
                        table.name
                    ),
                ));
            }
            if table.filter.is_some() {
                partial.push(Partial::Filter { publication: name(), table: table.name.clone() });
            }
            if table.columns.is_some() {
                partial.push(Partial::Columns { publication: name(), table: table.name.clone() });
            }
        }
    }
    if partial.is_empty() || accept_partial {
        return Ok(partial);
    }
    let reasons: Vec<String> = partial.iter().map(ToString::to_string).collect();
    Err(CatalogError::new(
        ErrorKind::Conflict,
        doing,
        format!(
            "{}; what is not published cannot stand in the history (change the publication; or leave --publication out, and bygone makes its own; or go on with --accept-partial, which the history will say)",
            reasons.join("; ")
        ),
    ))
}
