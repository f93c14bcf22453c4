//! Rows of one schema version, as another version has them.

use std::sync::Arc;

use bygone_replication::pgoutput::Cell;

use super::TableHistory;
use crate::error::Result;
use crate::fact_file::damaged;
use crate::schema::{SchemaColumn, TableSchema};
use crate::value::{self, Field, Kind, Row, RowBuilder, Status, render};

/// Where a column's value comes from.
#[derive(Debug)]
enum From {
    /// The column at this position, as it is.
    Same(usize),
    /// The column at this position, which had another type.
    Cast(usize, Kind, value::Cast),
    /// The row is older than the column, and reads as this ever since (a row of one column) [23].
    Missing(Box<[u8]>),
    /// The row is older than the column, or of a table before this one that had none of the name.
    Null,
    /// The column at this position, which was not hashed, or hashed with another key: what it held is not shown as what the
    /// column is now.
    OtherForm(usize),
    /// What the row reads as is not known.
    Unknown,
}

/// Turns rows of one schema version into rows of another.
#[derive(Debug)]
pub struct Reshape {
    from: Arc<TableSchema>,
    to: Arc<TableSchema>,
    columns: Vec<From>,
    identity: bool,
}

impl Reshape {
    /// From rows written under `from` to rows as `to` shows them: columns that came in between read as their missing value.
    #[must_use]
    pub fn new(table: &TableHistory, from: &Arc<TableSchema>, to: &Arc<TableSchema>) -> Self {
        let columns: Vec<From> = to
            .columns
            .iter()
            .map(|column| match from.namesake(to, column).and_then(|at| Some((at, from.columns.get(at)?))) {
                Some((at, before)) if !before.is_form_of(column) => From::OtherForm(at),
                Some((at, before)) if before.reads_as(column) => From::Same(at),
                Some((at, before)) => From::Cast(at, before.kind.clone(), before.cast_to(column)),
                None if from.oid != to.oid => From::Null,
                None => missing(table, from.version, column),
            })
            .collect();
        let same = |(at, column): (usize, &From)| matches!(column, From::Same(before) if *before == at);
        let identity = from.columns.len() == columns.len() && columns.iter().enumerate().all(same);
        Self { from: Arc::clone(from), to: Arc::clone(to), columns, identity }
    }

    /// The version that rows come out in.
    #[must_use]
    pub fn to(&self) -> &Arc<TableSchema> {
        &self.to
    }

    /// Writes the row into `out`.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) when the row is none of the version it comes from.
    pub fn apply(&self, row: &[u8], out: &mut RowBuilder) -> Result<()> {
        let broken = |error: value::RowError| damaged(&self.from.log_name, &error.to_string());
        let fields: Vec<Field<'_>> =
            Row::new(row, self.from.kinds()).fields().collect::<Result<_, _>>().map_err(broken)?;
        out.start(self.columns.len());
        for (column, target) in self.columns.iter().zip(&self.to.columns) {
            match column {
                From::Same(at) => out.field(fields.get(*at).copied().unwrap_or(Field::NULL)),
                From::Cast(at, before, change) => {
                    let field = fields.get(*at).copied().unwrap_or(Field::NULL);
                    cast(before, field, *change, &target.kind, out).map_err(broken)?;
                }
                From::Missing(value) => {
                    let kinds = std::slice::from_ref(&target.kind);
                    let field = Row::new(value, kinds).fields().next().and_then(Result::ok);
                    out.field(field.unwrap_or(Field::NULL));
                }
                From::Null => out.null(),
                From::OtherForm(at) if fields.get(*at).is_some_and(|field| field.status == Status::Null) => {
                    out.null();
                }
                From::OtherForm(_) | From::Unknown => out.unknown(),
            }
        }
        Ok(())
    }

    /// What the files call each of the columns; none where one of them does not read as it was written.
    #[must_use]
    pub(super) fn as_in_files(&self) -> Option<Vec<&str>> {
        let name = |column: &From| match column {
            From::Same(at) => self.from.columns.get(*at).map(|column| column.physical.as_str()),
            _ => None,
        };
        self.columns.iter().map(name).collect()
    }

    /// Rows come out as they went in.
    #[must_use]
    pub const fn is_identity(&self) -> bool {
        self.identity
    }
}

fn missing(table: &TableHistory, after: i32, target: &SchemaColumn) -> From {
    let kind = &target.kind;
    let Some((_, column)) = table.added_after(target.column.attnum, after) else { return From::Null };
    let Some(text) = &column.column.missing else { return From::Null };
    if !column.is_form_of(target) {
        return From::Unknown;
    }
    let mut row = RowBuilder::default();
    row.start(1);
    match value::read(&column.kind, Cell::Text(text.as_bytes()), &mut row) {
        // The type may have changed since the column came.
        Ok(()) if !column.reads_as(target) => {
            let mut other = RowBuilder::default();
            other.start(1);
            let kinds = std::slice::from_ref(&column.kind);
            let field = Row::new(row.bytes(), kinds).fields().next().and_then(Result::ok);
            match field.map(|field| cast(&column.kind, field, column.cast_to(target), kind, &mut other)) {
                Some(Ok(())) => From::Missing(other.bytes().into()),
                _ => From::Null,
            }
        }
        Ok(()) => From::Missing(row.bytes().into()),
        Err(_) => {
            let mut raw = RowBuilder::default();
            raw.start(1);
            raw.raw(text);
            From::Missing(raw.bytes().into())
        }
    }
}

/// A value of one kind as another, through its text: what Postgres does for the changes of type that rewrite nothing
/// (`integer` to `bigint`, `varchar` to `text`). Text that the other kind does not read is kept as it is.
fn cast(
    from: &Kind,
    field: Field<'_>,
    change: value::Cast,
    to: &Kind,
    out: &mut RowBuilder,
) -> Result<(), value::RowError> {
    match field.status {
        Status::Null => out.null(),
        Status::Unknown => out.unknown(),
        Status::Value | Status::Large | Status::Raw => {
            let mut text = String::new();
            render(from, field, &mut text)?;
            let text = change.apply(text);
            let mut read = RowBuilder::default();
            read.start(1);
            if value::read(to, Cell::Text(text.as_bytes()), &mut read).is_ok() {
                let kinds = std::slice::from_ref(to);
                let field = Row::new(read.bytes(), kinds).fields().next().and_then(Result::ok);
                out.field(field.ok_or(value::RowError)?);
            } else {
                out.raw(&text);
            }
        }
    }
    Ok(())
}
