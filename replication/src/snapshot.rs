//! The initial snapshot: what is to be copied, in which pieces, and the statements for it.
//!
//! Each piece is copied in a transaction of its own that imports the slot's exported snapshot:
//!
//! 1. [`import_statements`], for all pieces that are going to run at once, while the export still lives;
//! 2. [`lock_statements`], then [`read_stamp`] (the catalog at the consistent point) and [`resolve_statement`] (what the names
//!    mean now, which the lock keeps from changing): if they differ, the table was rewritten or altered in between, the old
//!    snapshot may see it empty, or the names lead to others, and it has to be redone under a new snapshot;
//! 3. [`copy_statement`], whose payloads [`copy_text`] and [`copy_binary`] take apart;
//! 4. commit. A table in several pieces is whole only if its stamp was the same under each one's lock.

pub mod copy_binary;
pub mod copy_text;

use std::fmt::Write as _;
use std::time::Duration;

use tokio_postgres::Client;

use crate::catalog::{CatalogError, get};
use crate::table::{Column, Table, TableKind, quote_identifier, quote_literal};

/// From which size of its main fork on a table is worth cutting into pieces, and the size of these.
pub const CHUNK_BYTES: u64 = 64 << 20;

/// A part of a table, by the blocks that its rows are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Chunk {
    /// All of it.
    Whole,
    /// The rows in the blocks from `from` on and before `to`; to the end without `to`.
    Blocks {
        /// The first block.
        from: u32,
        /// The first block that is no longer part of it.
        to: Option<u32>,
    },
}

/// One COPY: a table or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The table.
    pub table: &'a Table,
    /// The part.
    pub chunk: Chunk,
    /// Which piece of the table it is, from 0, and of how many.
    pub number: (u32, u32),
    /// About how many bytes of the main fork it reads.
    pub bytes: u64,
}

/// Cuts tables into pieces of about `chunk_bytes`, and no fewer than `workers` for a table that is cut at all.
///
/// The pieces of a table are neighbours, so that it stays locked for as short a time as can be, and big tables come
/// first, so that workers finish together. Partitioned roots are left out, since their leaves hold the rows.
///
/// Whatever `table.blocks` says, the pieces of a table miss and double nothing: they cover every place a row can be at
/// without overlap, the last one being open-ended, and a row version that the snapshot sees keeps its place until the
/// table is rewritten, which the lock prevents. (Rows that came after the size was read and before the snapshot are in
/// the last piece; rows that came later are not visible to it.)
#[must_use]
pub fn plan(tables: &[Table], workers: usize, chunk_bytes: u64, block_size: u32) -> Vec<Piece<'_>> {
    let block_size = u64::from(block_size.max(1));
    let chunk_blocks = (chunk_bytes / block_size).max(1);
    let workers = u64::try_from(workers).unwrap_or(1).max(1);
    let mut tables: Vec<&Table> =
        tables.iter().filter(|table| table.kind != TableKind::Partitioned).collect();
    tables.sort_by(|left, right| right.blocks.cmp(&left.blocks).then_with(|| left.name.cmp(&right.name)));
    let mut pieces = Vec::new();
    for table in tables {
        // Block numbers are 32 bits wide in the server, so a table cannot be bigger.
        let blocks = table.blocks.min(u64::from(u32::MAX));
        let count =
            if blocks <= chunk_blocks { 1 } else { blocks.div_ceil(chunk_blocks).max(workers.min(blocks)) };
        let boundary = |index: u64| u32::try_from(blocks * index / count).unwrap_or(u32::MAX);
        for index in 0..count {
            let (from, to) = (boundary(index), boundary(index + 1));
            let chunk = if count == 1 {
                Chunk::Whole
            } else {
                Chunk::Blocks { from, to: (index + 1 < count).then_some(to) }
            };
            let number = (u32::try_from(index).unwrap_or(u32::MAX), u32::try_from(count).unwrap_or(u32::MAX));
            pieces.push(Piece { table, chunk, number, bytes: u64::from(to - from) * block_size });
        }
    }
    pieces
}

/// The statement that copies a part of a table out: `columns` in this order, in binary or text format.
///
/// Without rows of inheritance children, which are tables of their own, and without those that a row filter leaves out.
/// Generated columns come as their values, columns that are left out as null.
#[must_use]
pub fn copy_statement<'a>(
    table: &Table,
    columns: impl IntoIterator<Item = &'a Column>,
    chunk: Chunk,
    binary: bool,
) -> String {
    let value =
        |column: &Column| if column.left_out { "null".to_owned() } else { quote_identifier(&column.name) };
    let columns: Vec<String> = columns.into_iter().map(value).collect();
    let mut query = format!("select {} from only {}", columns.join(", "), table.name.quoted());
    let mut conditions = Vec::new();
    if let Chunk::Blocks { from, to } = chunk {
        conditions.push(format!("ctid >= '({from},0)'::tid"));
        conditions.extend(to.map(|to| format!("ctid < '({to},0)'::tid")));
    }
    conditions.extend(table.row_filter.as_ref().map(|filter| format!("({filter})")));
    if !conditions.is_empty() {
        // Writing to a string does not fail.
        let _ = write!(query, " where {}", conditions.join(" and "));
    }
    let format = if binary { "binary" } else { "text" };
    format!("copy ({query}) to stdout (format {format})")
}

/// What resolves the names of [`copy_statement`] as that does, and reads nothing: for [`Connection::describe`], under the lock. A
/// transaction's snapshot shows the catalog of then, its statements take names as they are now.
///
/// [`Connection::describe`]: crate::wire::Connection::describe
#[must_use]
pub fn resolve_statement<'a>(table: &Table, columns: impl IntoIterator<Item = &'a Column>) -> String {
    let columns = columns.into_iter().filter(|column| !column.left_out);
    let columns: Vec<String> = columns.map(|column| quote_identifier(&column.name)).collect();
    format!("select {} from only {} limit 0", columns.join(", "), table.name.quoted())
}

/// The statements that open a transaction on the exported snapshot, to be run in order.
///
/// Row security is switched off so that a policy that would hide rows is an error instead. The search path is that of the
/// stream, so that names are printed alike.
#[must_use]
pub fn import_statements(snapshot: &str) -> [String; 4] {
    [
        "begin isolation level repeatable read read only".to_owned(),
        format!("set transaction snapshot {}", quote_literal(snapshot)),
        "set local row_security = off".to_owned(),
        "set local search_path = pg_catalog".to_owned(),
    ]
}

/// The statements that lock a table against being altered or rewritten while it is copied, waiting at most `timeout`
/// (rounded up to milliseconds; zero would be for ever and is taken as one millisecond).
#[must_use]
pub fn lock_statements(table: &Table, timeout: Duration) -> [String; 2] {
    let millis = timeout.as_micros().div_ceil(1000).clamp(1, 2_147_483_647);
    [
        format!("set local lock_timeout = {millis}"),
        format!("lock table only {} in access share mode", table.name.quoted()),
    ]
}

/// A table's file and columns: what must not have changed between the consistent point and the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableStamp {
    /// `pg_class.oid`.
    pub oid: u32,
    /// `pg_class.relfilenode`: another one after TRUNCATE, VACUUM FULL, CLUSTER and every ALTER TABLE that rewrites.
    pub filenode: u32,
    /// Live columns by attnum: number, name, type, modifier.
    pub columns: Vec<(i16, String, u32, i32)>,
}

/// Reads a table's stamp as of the client's snapshot: in a transaction that imported one, as of that; otherwise now.
/// `None` when there is no such table.
///
/// # Errors
/// [`catalog::ErrorKind::Connection`](crate::catalog::ErrorKind::Connection) and whatever else the server says.
pub async fn read_stamp(client: &Client, oid: u32) -> Result<Option<TableStamp>, CatalogError> {
    // pg_relation_filenode() would not do: it looks past the snapshot at the catalog of now.
    let sql = "
        select c.oid, c.relfilenode, a.*
        from pg_catalog.pg_class c
        cross join lateral (
            select coalesce(array_agg(s.attnum), '{}') as attnums, coalesce(array_agg(s.attname::text), '{}') as names,
                coalesce(array_agg(s.atttypid), '{}') as types, coalesce(array_agg(s.atttypmod), '{}') as typmods
            from (
                select * from pg_catalog.pg_attribute t
                where t.attrelid = c.oid and t.attnum > 0 and not t.attisdropped
                order by t.attnum
            ) s
        ) a
        where c.oid = $1";
    let row = client
        .query_typed_opt(sql, &[(&oid, tokio_postgres::types::Type::OID)])
        .await
        .map_err(CatalogError::from_postgres("reading a table's file and columns"))?;
    let Some(row) = row else { return Ok(None) };
    let attnums: Vec<i16> = get(&row, "attnums")?;
    let names: Vec<String> = get(&row, "names")?;
    let types: Vec<u32> = get(&row, "types")?;
    let typmods: Vec<i32> = get(&row, "typmods")?;
    let columns = attnums.into_iter().zip(names).zip(types).zip(typmods);
    Ok(Some(TableStamp {
        oid: get(&row, "oid")?,
        filenode: get(&row, "relfilenode")?,
        columns: columns.map(|(((attnum, name), oid), typmod)| (attnum, name, oid, typmod)).collect(),
    }))
}

/// What is wrong with a COPY payload: the server broke the protocol, or the wrong format was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The payload ends within a row.
    #[error("a row of the COPY data is cut off")]
    Truncated,
    /// A row has another number of fields than columns were asked for.
    #[error("a row of the COPY data has {found} fields instead of {expected}")]
    Fields {
        /// Columns that were asked for.
        expected: usize,
        /// Fields of the row; of a text row, at least so many.
        found: usize,
    },
    /// The signature of the binary format is missing.
    #[error("the COPY data does not begin with the signature of the binary format")]
    Signature,
    /// Flags that change the meaning of the data.
    #[error("the COPY data has flags that are not known: {0:#x}")]
    Flags(u32),
    /// A length that cannot be.
    #[error("the COPY data has a field of length {0}")]
    Length(i32),
    /// Data after the end.
    #[error("the COPY data goes on after its end")]
    AfterEnd,
    /// The data ended without saying so.
    #[error("the COPY data ended before its end was announced")]
    Unfinished,
}
