//! Values: what sort a column holds, how one is read from the wire, how it is kept, how it is shown.
//!
//! A value has one kept form, whether it came as text, in Postgres' binary format or out of a fact file. Rows in that
//! form are compared byte by byte to find what an update changed.

mod array;
mod binary;
mod block;
mod cast;
pub mod float;
mod kind;
mod numeric;
mod printed;
mod render;
mod row;
mod text;

pub(crate) use binary::read as read_binary;
pub(crate) use block::RowBlock;
pub use cast::{Cast, HOST};
pub use kind::Kind;
pub use printed::Printed;
pub use render::render;
pub(crate) use render::{push_hex, uuid as push_uuid, uuid_text};
pub(crate) use row::{Elements, LARGE_MARK, ListBuilder, get_decimal};
pub use row::{Field, Row, RowBuilder, RowError, Status};

use bygone_replication::pgoutput::Cell;

/// Appends a value from the wire to a row, as `kind`.
///
/// A value that the kind cannot hold (`NaN` in a decimal, `infinity` in a date, a ragged array) is kept as its exact
/// Postgres text instead ([`Status::Raw`]): nothing is lost.
///
/// # Errors
/// When the bytes are not what the server sends for this type.
#[inline]
pub fn read(kind: &Kind, cell: Cell<'_>, row: &mut RowBuilder) -> Result<(), ValueError> {
    match cell {
        Cell::Null => row.null(),
        Cell::Unchanged => row.unknown(),
        Cell::Text(bytes) => text::read(kind, bytes, row)?,
        Cell::Binary(bytes) => binary::read(kind, bytes, row)?,
    }
    Ok(())
}

/// The text that Postgres prints for a value.
pub(crate) fn printed(kind: &Kind, cell: Cell<'_>) -> Result<String, ValueError> {
    let mut row = RowBuilder::default();
    row.start(1);
    read(kind, cell, &mut row)?;
    let field = Row::new(row.bytes(), std::slice::from_ref(kind)).fields().next().and_then(Result::ok);
    let mut text = String::new();
    let rendered = field.map(|field| render(kind, field, &mut text));
    rendered.and_then(Result::ok).ok_or(ValueError::UnexpectedBinary)?;
    Ok(text)
}

/// A value that is not what its type says. It never shows the value itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// The text is not one that Postgres prints for the type.
    #[error("a value is not the text of a {0}")]
    Text(&'static str),
    /// The bytes are not the type's binary form.
    #[error("a value is not the binary form of a {0}")]
    Binary(&'static str),
    /// The type came in binary although bygone did not ask for it.
    #[error("a value of a type that bygone reads as text came in binary form")]
    UnexpectedBinary,
    /// The column is hashed, and the key is not there, or another one is.
    #[error("a value is to be hashed with a key that is not there")]
    NoHashKey,
}
