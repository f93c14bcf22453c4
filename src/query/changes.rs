//! What differs between two versions of a row.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bygone_sink::read::{OwnedFact, Reshape, TableHistory};
use bygone_sink::schema::{SchemaColumn, TableSchema};
use bygone_sink::value::{Field, RowBuilder, RowError, Status};

use super::sheet::{Cell, abridged, json_string};
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

impl Change {
    fn new(column: &SchemaColumn, old: Option<Cell>, new: Option<Cell>) -> Self {
        Self { column: column.column.name.clone(), old, new }
    }
}

/// The columns that differ, or all of them where a row came or went; each row as its own schema has it.
pub(crate) fn between(
    table: &TableHistory,
    before: Option<(&OwnedFact, &Arc<TableSchema>)>,
    after: Option<(&OwnedFact, &Arc<TableSchema>)>,
) -> Result<Vec<Change>> {
    let show = |(fact, schema): (&OwnedFact, &Arc<TableSchema>)| Shown::new(table, fact, schema);
    match (before, after) {
        (Some(before), Some(after)) => {
            // What the earlier row reads as under the later columns tells whether anything but the columns changed.
            let as_after =
                if before.1.version == after.1.version { None } else { Some(show((before.0, after.1))?) };
            let before = show(before)?;
            differing(&before, as_after.as_ref().unwrap_or(&before), &show(after)?)
        }
        (None, Some(after)) => {
            let after = show(after)?;
            let columns = after.schema.columns.iter().zip(after.cells()?);
            let told = columns.filter(|(column, new)| column.sent || *new != Cell::Unknown);
            Ok(told.map(|(column, new)| Change::new(column, None, Some(new))).collect())
        }
        (Some(before), None) => {
            let before = show(before)?;
            let columns = before.schema.columns.iter().zip(before.cells()?);
            Ok(columns.map(|(column, old)| Change::new(column, Some(old), None)).collect())
        }
        (None, None) => Ok(Vec::new()),
    }
}

/// The columns of a later row that differ from those of an earlier one, which is given as it was, and as the later columns
/// show it. A column that came in between has no old value.
fn differing(before: &Shown, as_after: &Shown, after: &Shown) -> Result<Vec<Change>> {
    let (old, read_as, new) = (before.cells()?, as_after.fields()?, after.cells()?);
    let counterparts: Vec<Option<usize>> =
        after.schema.columns.iter().map(|column| before.schema.namesake(&after.schema, column)).collect();
    // Another column that had the name, and is gone.
    let by_name = |name: &str| {
        let mut columns = before.schema.columns.iter().enumerate();
        columns.position(|(at, column)| column.column.name == name && !counterparts.contains(&Some(at)))
    };
    let mut changes = Vec::new();
    let rows =
        after.schema.columns.iter().zip(&counterparts).zip(read_as.iter().zip(after.fields()?)).zip(new);
    for (((column, counterpart), (read_as, field)), new) in rows {
        let replaced = if counterpart.is_none() { by_name(&column.column.name) } else { None };
        let old = counterpart.or(replaced).and_then(|at| old.get(at).cloned());
        let differs = if replaced.is_some() { old.as_ref() != Some(&new) } else { *read_as != field };
        // A generated column that the source does not send is not known after an update, which is no change.
        let unsent = !column.sent && (old == Some(Cell::Unknown) || new == Cell::Unknown);
        if differs && !unsent {
            changes.push(Change::new(column, old, Some(new)));
        }
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
    let schema = &fact.schema;
    let before = before.filter(|before| !before.head.tombstone).map(|before| (before, schema));
    between(table, before, Some((fact, schema)))
}

/// People see at most so many characters of each line of a value before and after a change.
const LONGEST: usize = 1_500;

/// Changes as one cell: a line for each column, an object in JSON.
pub(crate) fn changes_cell(changes: &[Change]) -> Cell {
    let pairs = changes.iter().map(|Change { column, old, new }| {
        let sides = [("old", old), ("new", new)];
        let sides =
            sides.iter().filter_map(|(name, cell)| Some(format!("\"{name}\": {}", cell.as_ref()?.json())));
        format!("{}: {{{}}}", json_string(column), sides.collect::<Vec<_>>().join(", "))
    });
    let json = format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "));
    let whole = Cell::Value { text: in_lines(changes, |side| Cow::Borrowed(side.shown())), json };
    let is_long = |side: &Cell| abridged(side.shown(), LONGEST).is_some();
    if !changes.iter().any(|change| [&change.old, &change.new].into_iter().flatten().any(is_long)) {
        return whole;
    }
    Cell::Abridged { brief: in_lines(changes, in_brief), whole: Box::new(whole) }
}

fn in_brief(side: &Cell) -> Cow<'_, str> {
    abridged(side.shown(), LONGEST).map_or(Cow::Borrowed(side.shown()), Cow::Owned)
}

/// A line for each column, with its values as they are to be shown.
fn in_lines(changes: &[Change], show: impl Fn(&Cell) -> Cow<'_, str>) -> String {
    let lines = changes.iter().map(|Change { column, old, new }| match (old, new) {
        (Some(old), Some(new)) => format!("{column}: {} -> {}", show(old), show(new)),
        (None, Some(one)) | (Some(one), None) => format!("{column}: {}", show(one)),
        (None, None) => column.clone(),
    });
    lines.collect::<Vec<_>>().join("\n")
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

/// Why values of a column are not known.
pub(crate) const fn why_unknown(column: &SchemaColumn) -> &'static str {
    if column.column.left_out {
        "the column is left out of the history"
    } else if column.column.hashed.is_some() {
        "the column is hashed, and these rows are older than that"
    } else if column.sent {
        "large values that were never seen"
    } else {
        "the source does not send generated columns"
    }
}
