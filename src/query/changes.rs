//! What differs between two versions of a row.

use std::collections::HashMap;
use std::sync::Arc;

use bygone_sink::read::{OwnedFact, Reshape, TableHistory};
use bygone_sink::schema::TableSchema;
use bygone_sink::value::{Field, RowBuilder, RowError, Status};

use super::sheet::{Cell, json_string};
use super::value::{cell, fields};
use crate::error::{Error, Result};

/// A row as a schema version shows it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) schema: Arc<TableSchema>,
    row: Box<[u8]>,
}

impl Shown {
    /// The row of a fact, as another schema version has it.
    pub(crate) fn new(table: &TableHistory, fact: &OwnedFact, schema: &Arc<TableSchema>) -> Result<Self> {
        let reshape = Reshape::new(table, &fact.schema, schema);
        if reshape.is_identity() {
            return Ok(Self { schema: Arc::clone(schema), row: fact.row.clone() });
        }
        let mut row = RowBuilder::default();
        reshape.apply(&fact.row, &mut row)?;
        Ok(Self { schema: Arc::clone(schema), row: row.bytes().into() })
    }

    /// The fields, by column.
    pub(crate) fn fields(&self) -> Result<Vec<Field<'_>>> {
        fields(&self.row, self.schema.kinds()).map_err(damaged)
    }

    /// The values, by column.
    pub(crate) fn cells(&self) -> Result<Vec<Cell>> {
        let kinds = self.schema.kinds();
        self.fields()?
            .into_iter()
            .zip(kinds)
            .map(|(field, kind)| cell(kind, field).map_err(damaged))
            .collect()
    }

    /// Names of the columns, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.schema.columns.iter().map(|column| column.column.name.as_str())
    }
}

/// Shows rows of any schema version as one of them has it.
#[derive(Debug)]
pub(crate) struct Shaper<'a> {
    table: &'a TableHistory,
    schema: &'a Arc<TableSchema>,
    reshapes: HashMap<i32, Reshape>,
    row: RowBuilder,
}

impl<'a> Shaper<'a> {
    /// As `schema` has them.
    pub(crate) fn new(table: &'a TableHistory, schema: &'a Arc<TableSchema>) -> Self {
        Self { table, schema, reshapes: HashMap::new(), row: RowBuilder::default() }
    }

    /// The row of a fact that was written under `from`.
    pub(crate) fn row<'b>(&'b mut self, from: &Arc<TableSchema>, row: &'b [u8]) -> Result<&'b [u8]> {
        let reshape =
            self.reshapes.entry(from.version).or_insert_with(|| Reshape::new(self.table, from, self.schema));
        if reshape.is_identity() {
            return Ok(row);
        }
        reshape.apply(row, &mut self.row)?;
        Ok(self.row.bytes())
    }
}

pub(crate) fn damaged(error: RowError) -> Error {
    Error::other(format!("{error}; bygone verify says more"))
}

/// A column that differs.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) column: String,
    /// None where there was no row.
    pub(crate) old: Option<Cell>,
    /// None where there is no row any more.
    pub(crate) new: Option<Cell>,
}

/// The columns that differ, or all of them where a row came or went. Both rows as `schema` has them.
pub(crate) fn between(
    table: &TableHistory,
    before: Option<&OwnedFact>,
    after: Option<&OwnedFact>,
    schema: &Arc<TableSchema>,
) -> Result<Vec<Change>> {
    let show = |fact: Option<&OwnedFact>| fact.map(|fact| Shown::new(table, fact, schema)).transpose();
    let (before, after) = (show(before)?, show(after)?);
    let mut changes = Vec::new();
    match (&before, &after) {
        (Some(before), Some(after)) => {
            let differs: Vec<bool> =
                before.fields()?.iter().zip(after.fields()?).map(|(a, b)| *a != b).collect();
            let pairs = before.cells()?.into_iter().zip(after.cells()?);
            let sent = schema.columns.iter().map(|column| column.sent);
            for (((column, (old, new)), differs), sent) in after.names().zip(pairs).zip(differs).zip(sent) {
                // A generated column that the source does not send is not known after an update, which is no change.
                let unsent = !sent && (old == Cell::Unknown || new == Cell::Unknown);
                if differs && !unsent {
                    changes.push(Change { column: column.to_owned(), old: Some(old), new: Some(new) });
                }
            }
        }
        (None, Some(row)) => {
            for ((column, new), sent) in
                row.names().zip(row.cells()?).zip(schema.columns.iter().map(|column| column.sent))
            {
                if !sent && new == Cell::Unknown {
                    continue;
                }
                changes.push(Change { column: column.to_owned(), old: None, new: Some(new) });
            }
        }
        (Some(row), None) => {
            for (column, old) in row.names().zip(row.cells()?) {
                changes.push(Change { column: column.to_owned(), old: Some(old), new: None });
            }
        }
        (None, None) => {}
    }
    Ok(changes)
}

/// What a version changed of the one before. A tombstone changes nothing: its row is the last known one.
pub(crate) fn by_version(
    table: &TableHistory,
    before: Option<&OwnedFact>,
    fact: &OwnedFact,
) -> Result<Vec<Change>> {
    if fact.head.tombstone {
        return Ok(Vec::new());
    }
    between(table, before.filter(|before| !before.head.tombstone), Some(fact), &fact.schema)
}

/// Changes as one cell: a line for each column, an object in JSON.
pub(crate) fn changes_cell(changes: &[Change]) -> Cell {
    let lines = changes.iter().map(|Change { column, old, new }| match (old, new) {
        (Some(old), Some(new)) => format!("{column}: {} -> {}", old.shown(), new.shown()),
        (None, Some(one)) | (Some(one), None) => format!("{column}: {}", one.shown()),
        (None, None) => column.clone(),
    });
    let pairs = changes.iter().map(|Change { column, old, new }| {
        let sides = [("old", old), ("new", new)];
        let sides =
            sides.iter().filter_map(|(name, cell)| Some(format!("\"{name}\": {}", cell.as_ref()?.json())));
        format!("{}: {{{}}}", json_string(column), sides.collect::<Vec<_>>().join(", "))
    });
    Cell::Value {
        text: lines.collect::<Vec<_>>().join("\n"),
        json: format!("{{{}}}", pairs.collect::<Vec<_>>().join(", ")),
    }
}

/// The version of a row at a moment: the last one at or before it, if that is no tombstone.
pub(crate) fn live_at<'a>(versions: &'a [OwnedFact], cut: &bygone_sink::read::Cut) -> Option<&'a OwnedFact> {
    let last = versions.iter().rev().find(|fact| cut.covers(fact.head.lsn.as_i64(), fact.head.valid_from.0));
    last.filter(|fact| !fact.head.tombstone)
}

/// A field whose value is not known.
pub(crate) fn is_unknown(field: &Field<'_>) -> bool {
    field.status == Status::Unknown
}
