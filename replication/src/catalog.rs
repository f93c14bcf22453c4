//! Reads what the server's catalog says, in a handful of queries however many tables there are.
//!
//! Nothing here waits for a lock that somebody holds on a table, takes a transaction id, or writes.
//! All of it works within a transaction of the caller's (it then sees the catalog of that transaction's snapshot) and
//! without one. Texts such as [`Column::missing`] are rendered under the settings of the session, so these have to be
//! the fixed ones that every connection to the source uses.
//!
//! [`Column::missing`]: crate::table::Column::missing

mod error;
mod server;
mod tables;
mod types;
pub mod watch;

pub use error::{CatalogError, ErrorKind};
pub use server::{
    RoleRights, ServerInfo, TableRights, current_role_rights, decode_text, is_visible, server_info,
    server_time, table_rights, widen_xid,
};
pub(crate) use tables::only_element;
pub use tables::{
    Attribute, Loaded, SkipReason, Skipped, leaves_of, load_attributes, load_table, load_tables,
    load_tables_by_oid,
};

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, PgLsn};

use crate::Lsn;

/// One column of a row, by name; a column of another type is an error and not a panic.
pub(crate) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: &str) -> Result<T, CatalogError> {
    row.try_get(column).map_err(CatalogError::from_postgres("reading an answer of the server"))
}

/// A `pg_lsn` column.
pub(crate) fn get_lsn(row: &Row, column: &str) -> Result<Option<Lsn>, CatalogError> {
    Ok(get::<Option<PgLsn>>(row, column)?.map(|lsn| Lsn(u64::from(lsn))))
}

/// A `"char"` column cast to text: its one character.
pub(crate) fn get_char(row: &Row, column: &str) -> Result<char, CatalogError> {
    let text: &str = get(row, column)?;
    text.chars().next().ok_or_else(|| {
        CatalogError::new(ErrorKind::Server, "reading an answer of the server", format!("{column} is empty"))
    })
}
