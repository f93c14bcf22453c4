//! What changed between two states of publications.

use std::collections::BTreeMap;
use std::fmt;

use super::state::{Publication, PublicationState, SchemaMember, TableMember};
use crate::table::TableName;

/// One thing about the publications that is no longer as it was recorded.
///
/// Each means that changes may have gone by unpublished, or that others come than the history expects.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The publication is gone.
    Missing {
        /// Its name.
        publication: String,
    },
    /// A publication that was not recorded.
    Unexpected {
        /// Its name.
        publication: String,
    },
    /// It was dropped and made anew (or another was renamed to it): what was written in between was not published.
    Replaced {
        /// Its name.
        publication: String,
    },
    /// It was altered, and altered back: for a while it may have published less.
    Restored {
        /// Its name.
        publication: String,
    },
    /// A table or schema was taken out of it, and put back: what was written in between was not published.
    Relisted {
        /// The publication's name.
        publication: String,
        /// `table public.orders`, `schema public`.
        member: String,
        /// The table's oid, where it is one.
        oid: Option<u32>,
    },
    /// An operation or option is on now and was off, or the reverse.
    Option {
        /// Its name.
        publication: String,
        /// `insert`, `update`, `delete`, `truncate`, `all_tables`, `via_root`, `generated`.
        option: &'static str,
        /// On now.
        now: bool,
    },
    /// A table is no longer listed.
    TableRemoved {
        /// The publication's name.
        publication: String,
        /// The table's oid.
        oid: u32,
        /// The table, as recorded.
        table: TableName,
    },
    /// A table is listed that was not.
    TableAdded {
        /// The publication's name.
        publication: String,
        /// The table's oid.
        oid: u32,
        /// The table.
        table: TableName,
    },
    /// A table's row filter is another one.
    Filter {
        /// The publication's name.
        publication: String,
        /// The table's oid.
        oid: u32,
        /// The table.
        table: TableName,
    },
    /// A table's column list is another one.
    Columns {
        /// The publication's name.
        publication: String,
        /// The table's oid.
        oid: u32,
        /// The table.
        table: TableName,
    },
    /// A schema is no longer listed.
    SchemaRemoved {
        /// The publication's name.
        publication: String,
        /// The schema, as recorded.
        schema: String,
    },
    /// A schema is listed that was not.
    SchemaAdded {
        /// The publication's name.
        publication: String,
        /// The schema.
        schema: String,
    },
}

impl Difference {
    /// The oid of the one table that is concerned; none where it is more than one.
    #[must_use]
    pub const fn table_oid(&self) -> Option<u32> {
        match self {
            Self::TableRemoved { oid, .. }
            | Self::TableAdded { oid, .. }
            | Self::Filter { oid, .. }
            | Self::Columns { oid, .. } => Some(*oid),
            Self::Relisted { oid, .. } => *oid,
            Self::Missing { .. }
            | Self::Unexpected { .. }
            | Self::Replaced { .. }
            | Self::Restored { .. }
            | Self::Option { .. }
            | Self::SchemaRemoved { .. }
            | Self::SchemaAdded { .. } => None,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { publication } => write!(f, "publication {publication:?} no longer exists"),
            Self::Unexpected { publication } => write!(f, "publication {publication:?} was not there before"),
            Self::Replaced { publication } => {
                write!(f, "publication {publication:?} was dropped and made anew (its oid differs)")
            }
            Self::Restored { publication } => {
                write!(f, "publication {publication:?} was altered, and altered back to what it was")
            }
            Self::Relisted { publication, member, .. } => {
                write!(f, "{member} was taken out of publication {publication:?}, and put back")
            }
            Self::Option { publication, option, now } => match (*option, *now) {
                ("all_tables", true) => write!(f, "publication {publication:?} now publishes all tables"),
                ("all_tables", false) => {
                    write!(f, "publication {publication:?} no longer publishes all tables")
                }
                ("via_root", true) => {
                    write!(f, "publication {publication:?} now publishes partitions as their root")
                }
                ("via_root", false) => {
                    write!(f, "publication {publication:?} no longer publishes partitions as their root")
                }
                ("generated", true) => {
                    write!(f, "publication {publication:?} now publishes generated columns")
                }
                ("generated", false) => {
                    write!(f, "publication {publication:?} no longer publishes generated columns")
                }
                (operation, true) => write!(f, "publication {publication:?} now publishes {operation}s"),
                (operation, false) => {
                    write!(f, "publication {publication:?} no longer publishes {operation}s")
                }
            },
            Self::TableRemoved { publication, table, .. } => {
                write!(f, "table {table} is no longer in publication {publication:?}")
            }
            Self::TableAdded { publication, table, .. } => {
                write!(f, "table {table} was added to publication {publication:?}")
            }
            Self::Filter { publication, table, .. } => {
                write!(f, "the row filter of table {table} in publication {publication:?} changed")
            }
            Self::Columns { publication, table, .. } => {
                write!(f, "the column list of table {table} in publication {publication:?} changed")
            }
            Self::SchemaRemoved { publication, schema } => {
                write!(f, "schema {schema} is no longer in publication {publication:?}")
            }
            Self::SchemaAdded { publication, schema } => {
                write!(f, "schema {schema} was added to publication {publication:?}")
            }
        }
    }
}

/// What is no longer as it was recorded; empty when the stream carries the same. A table that was only renamed is the
/// same table.
#[must_use]
pub fn compare(recorded: &PublicationState, current: &PublicationState) -> Vec<Difference> {
    let mut differences = Vec::new();
    for before in &recorded.publications {
        match current.get(&before.name) {
            None => differences.push(Difference::Missing { publication: before.name.clone() }),
            Some(now) => compare_one(before, now, &mut differences),
        }
    }
    for now in &current.publications {
        if recorded.get(&now.name).is_none() {
            differences.push(Difference::Unexpected { publication: now.name.clone() });
        }
    }
    differences
}

fn compare_one(before: &Publication, now: &Publication, differences: &mut Vec<Difference>) {
    let publication = || now.name.clone();
    if before.oid != now.oid {
        differences.push(Difference::Replaced { publication: publication() });
    }
    let known = differences.len();
    for (option, was, is) in [
        ("all_tables", before.all_tables, now.all_tables),
        ("insert", before.insert, now.insert),
        ("update", before.update, now.update),
        ("delete", before.delete, now.delete),
        ("truncate", before.truncate, now.truncate),
        ("via_root", before.via_root, now.via_root),
        ("generated", before.generated, now.generated),
    ] {
        if was != is {
            differences.push(Difference::Option { publication: publication(), option, now: is });
        }
    }
    if let (Some(was), Some(is)) = (before.stamp, now.stamp)
        && (before.oid, was.owner) == (now.oid, is.owner)
        && was.xmin != is.xmin
        && differences.len() == known
    {
        differences.push(Difference::Restored { publication: publication() });
    }
    // All of what a publication lists that was made anew is.
    let is_relisted = |was: Option<u32>, is: Option<u32>| {
        before.oid == now.oid && was.zip(is).is_some_and(|(was, is)| was != is)
    };

    let old: BTreeMap<u32, &SchemaMember> =
        before.schemas.iter().map(|schema| (schema.oid, schema)).collect();
    let new: BTreeMap<u32, &SchemaMember> = now.schemas.iter().map(|schema| (schema.oid, schema)).collect();
    for (oid, was) in &old {
        match new.get(oid) {
            None => differences
                .push(Difference::SchemaRemoved { publication: publication(), schema: was.name.clone() }),
            Some(is) if is_relisted(was.entry, is.entry) => differences.push(Difference::Relisted {
                publication: publication(),
                member: format!("schema {}", is.name),
                oid: None,
            }),
            Some(_) => {}
        }
    }
    for (oid, is) in &new {
        if !old.contains_key(oid) {
            differences.push(Difference::SchemaAdded { publication: publication(), schema: is.name.clone() });
        }
    }

    let old: BTreeMap<u32, &TableMember> = before.tables.iter().map(|table| (table.oid, table)).collect();
    let new: BTreeMap<u32, &TableMember> = now.tables.iter().map(|table| (table.oid, table)).collect();
    for (oid, was) in &old {
        let table = was.name.clone();
        match new.get(oid) {
            None => {
                differences.push(Difference::TableRemoved { publication: publication(), oid: *oid, table });
            }
            Some(is) => {
                if was.filter == is.filter && was.columns == is.columns && is_relisted(was.entry, is.entry) {
                    differences.push(Difference::Relisted {
                        publication: publication(),
                        member: format!("table {}", is.name),
                        oid: Some(*oid),
                    });
                }
                let (oid, table) = (*oid, || is.name.clone());
                if was.filter != is.filter {
                    differences.push(Difference::Filter { publication: publication(), oid, table: table() });
                }
                if was.columns != is.columns {
                    differences.push(Difference::Columns { publication: publication(), oid, table: table() });
                }
            }
        }
    }
    for (oid, is) in &new {
        if !old.contains_key(oid) {
            let table = is.name.clone();
            differences.push(Difference::TableAdded { publication: publication(), oid: *oid, table });
        }
    }
}
