//! A captured table while it is being read: its schema versions, and how the rows of the stream map onto them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bygone_replication::Lsn;
use bygone_replication::pgoutput::{Cell, Tuple};

use crate::batch::FactBatch;
use crate::error::{Error, ErrorKind, Result};
use crate::hashing::Intake;
use crate::schema::TableSchema;
use crate::shelf::Shelf;
use crate::value::{self, Field, Kind, Row, RowBuilder, Status};

/// A captured table.
#[derive(Debug)]
pub(crate) struct CapturedTable {
    pub(crate) schema: Arc<TableSchema>,
    /// All schema versions: rows in state may be of an older one.
    versions: BTreeMap<i32, Arc<TableSchema>>,
    /// Facts on their way, by the leaf partition that they are of (0 outside partitioned tables): a file holds the facts
    /// of one leaf, so that state can be rebuilt with what a truncated leaf takes along [8].
    pub(crate) batches: Vec<(u32, FactBatch)>,
    /// Transactions that end here or before are part of the table's snapshot.
    pub(crate) start: Lsn,
    /// Positions of the columns by which the stream names old rows, where they are not the key's, and state knows the
    /// entities by them.
    pub(crate) aliased: Option<Vec<usize>>,
    /// A change could not be followed: the table has to be compared with the source.
    pub(crate) doubtful: bool,
    /// What is known of the rows of a leaf, or (0) of all, may not be what the source had before the next change.
    pub(crate) doubted: Option<u32>,
    /// Two leaf partitions have held rows of one key at the same time.
    pub(crate) ambiguous: bool,
    /// Where the large values of its rows are.
    shelf: Arc<Shelf>,
    /// `_seq` of the next fact, within `seq_of`.
    seq: u32,
    seq_of: Lsn,
}

impl CapturedTable {
    pub(crate) fn new(schema: Arc<TableSchema>, start: Lsn, shelf: Arc<Shelf>) -> Self {
        let versions = BTreeMap::from([(schema.version, Arc::clone(&schema))]);
        Self {
            schema,
            versions,
            batches: Vec::new(),
            start,
            aliased: None,
            doubtful: false,
            doubted: None,
            ambiguous: false,
            shelf,
            seq: 0,
            seq_of: Lsn::ZERO,
        }
    }

    /// Where the transaction of its last fact ends; zero before the first.
    pub(crate) const fn last_fact(&self) -> Lsn {
        self.seq_of
    }

    /// Another handle on the same table, without its facts.
    pub(crate) fn share(&self) -> Self {
        Self {
            versions: self.versions.clone(),
            ..Self::new(Arc::clone(&self.schema), self.start, Arc::clone(&self.shelf))
        }
    }

    /// Makes a schema version known. The newest one is that of the facts to come; their batch must have been taken.
    pub(crate) fn learn(&mut self, schema: Arc<TableSchema>) {
        self.versions.insert(schema.version, Arc::clone(&schema));
        if schema.version > self.schema.version {
            self.batches.clear();
            // Positions are others.
            self.aliased = None;
            self.schema = schema;
        }
    }

    /// What is known of the rows of a leaf is what the source had before the next change.
    pub(crate) fn is_sure_of(&self, leaf: u32) -> bool {
        self.doubted.is_none_or(|doubted| doubted != 0 && doubted != leaf)
    }

    /// The batch for facts of a leaf.
    pub(crate) fn batch(&mut self, leaf: u32) -> &mut FactBatch {
        let at = self.batches.iter().position(|(of, _)| *of == leaf).unwrap_or_else(|| {
            let batch = FactBatch::new(Arc::clone(&self.schema)).with_shelf(Some(Arc::clone(&self.shelf)));
            self.batches.push((leaf, batch));
            self.batches.len() - 1
        });
        // It was found or just made.
        self.batches.get_mut(at).map_or_else(|| unreachable!("a batch that is there"), |(_, batch)| batch)
    }

    /// The next `_seq` in the transaction at `lsn`.
    pub(crate) fn next_seq(&mut self, lsn: Lsn) -> Result<u32> {
        if self.seq_of != lsn {
            self.seq_of = lsn;
            self.seq = 0;
        }
        let seq = self.seq;
        self.seq = seq.checked_add(1).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "a transaction has more than 4,294,967,295 facts of one table",
                format!("table {} at {lsn}", self.schema.log_name),
            )
        })?;
        Ok(seq)
    }

    /// A row of any known schema version as one of the newest, or `None` where it is that already.
    pub(crate) fn convert(&self, row: &[u8], version: i32) -> Result<Option<Arc<[u8]>>> {
        if version == self.schema.version {
            return Ok(None);
        }
        let old = self.versions.get(&version).ok_or_else(|| {
            Error::new(
                ErrorKind::Damaged,
                "state holds a row of an unknown schema version",
                self.schema.log_name.clone(),
            )
        })?;
        convert_row(row, old, &self.schema, &self.shelf).map(|row| Some(row.into()))
    }
}

/// A row of one schema version as a row of another: columns go by attnum, whatever they are called.
///
/// A column that is new reads as its missing value, the constant that the server itself puts there for rows which were
/// never rewritten [23].
pub(crate) fn convert_row(
    row: &[u8],
    from: &TableSchema,
    to: &TableSchema,
    shelf: &Arc<Shelf>,
) -> Result<Vec<u8>> {
    let fields: Vec<Field<'_>> =
        Row::new(row, from.kinds()).fields().collect::<Result<_, _>>().map_err(damaged_row)?;
    let mut made = RowBuilder::with_shelf(Some(Arc::clone(shelf)));
    made.start(to.columns.len());
    for column in &to.columns {
        let before =
            from.counterpart(to, column).and_then(|at| Some((from.columns.get(at)?, *fields.get(at)?)));
        match before {
            // A hash is not to be taken for a value, nor is a value to go on where hashes are kept.
            Some((old, field)) if !old.is_form_of(column) => match field.status {
                Status::Null => made.null(),
                _ => made.unknown(),
            },
            Some((old, field))
                if old.reads_as(column) || matches!(field.status, Status::Null | Status::Unknown) =>
            {
                made.field(field)
            }
            Some((old, field)) => {
                let text = old.cast_to(column).apply(text_of(&old.kind, field, shelf)?);
                read_or_keep(&column.kind, &text, &mut made);
            }
            None => match &column.column.missing {
                Some(text) => read_or_keep(&column.kind, text, &mut made),
                None => made.null(),
            },
        }
    }
    made.check()?;
    Ok(made.bytes().to_vec())
}

/// Appends the value that a text is; the text itself, as one that the column cannot hold, where it is none.
fn read_or_keep(kind: &Kind, text: &str, row: &mut RowBuilder) {
    let mut alone = RowBuilder::default();
    alone.start(1);
    let cell = Cell::Text(text.as_bytes());
    if value::read(kind, cell, &mut alone).is_err() || value::read(kind, cell, row).is_err() {
        row.raw(text);
    }
}

/// The text of a value, wherever it is.
fn text_of(kind: &Kind, field: Field<'_>, shelf: &Shelf) -> Result<String> {
    let mut text = String::new();
    if field.status != Status::Large {
        value::render(kind, field, &mut text).map_err(damaged_row)?;
        return Ok(text);
    }
    let value = shelf.value(field.large().map_err(damaged_row)?)?;
    let mut whole = RowBuilder::default();
    whole.start(1);
    whole.variable(&value);
    drop(value);
    let field = Row::new(whole.bytes(), std::slice::from_ref(kind)).fields().next();
    let field = field.unwrap_or(Err(value::RowError)).map_err(damaged_row)?;
    value::render(kind, field, &mut text).map_err(damaged_row)?;
    Ok(text)
}

/// A row in state or in a batch that was not made by this program.
pub(crate) fn damaged_row(_: value::RowError) -> Error {
    Error::new(
        ErrorKind::Damaged,
        "a kept row is damaged",
        "delete the state directory: it is rebuilt from facts",
    )
}

/// How the rows of a relation in the stream map onto a captured table.
#[derive(Clone, Debug)]
pub(crate) struct RelationMap {
    /// Index of the captured table.
    pub(crate) table: usize,
    /// The leaf partition's oid; 0 for an ordinary table.
    pub(crate) leaf: u32,
    /// Position in the schema of each column of the relation.
    positions: Vec<Option<usize>>,
    /// The relation has exactly the schema's columns, in its order.
    straight: bool,
    /// For each of the schema's columns: the relation has it.
    present: Vec<bool>,
    intake: Intake,
    /// Positions in the schema of the columns of old key tuples, where they are not the key's [16].
    pub(crate) alias: Option<Vec<usize>>,
}

impl RelationMap {
    pub(crate) fn new(
        table: usize,
        leaf: u32,
        positions: Vec<Option<usize>>,
        columns: usize,
        intake: Intake,
    ) -> Self {
        let straight =
            positions.len() == columns && positions.iter().enumerate().all(|(at, to)| *to == Some(at));
        let mut present = vec![false; columns];
        for position in positions.iter().flatten() {
            if let Some(present) = present.get_mut(*position) {
                *present = true;
            }
        }
        Self { table, leaf, positions, straight, present, intake, alias: None }
    }

    /// Reads a tuple into `row`. True when a value stored out of line was not sent.
    pub(crate) fn read(&self, schema: &TableSchema, tuple: Tuple<'_>, row: &mut RowBuilder) -> Result<bool> {
        let kinds = schema.kinds();
        row.start(kinds.len());
        let mut unchanged = false;
        if tuple.len() != self.positions.len() {
            return Err(Error::new(
                ErrorKind::Damaged,
                "a row of the stream has another number of columns than its relation",
                schema.log_name.clone(),
            ));
        }
        if self.straight && self.intake.is_plain() {
            for (kind, cell) in kinds.iter().zip(tuple.cells()) {
                unchanged |= matches!(cell, Cell::Unchanged);
                value::read(kind, cell, row).map_err(|error| column_error(schema, row.len(), error))?;
            }
            row.check()?;
            return Ok(unchanged);
        }
        let mut cells: Vec<Option<Cell<'_>>> = vec![None; kinds.len()];
        for (position, cell) in self.positions.iter().zip(tuple.cells()) {
            if let Some(slot) = position.and_then(|at| cells.get_mut(at)) {
                *slot = Some(cell);
            }
        }
        for (at, (kind, cell)) in kinds.iter().zip(cells).enumerate() {
            match cell {
                Some(cell) => {
                    unchanged |= matches!(cell, Cell::Unchanged);
                    self.intake
                        .read(at, kind, cell, row)
                        .map_err(|error| column_error(schema, row.len(), error))?;
                }
                // A column that is not published (generated, or left out by a column list) is never null by guess [26].
                None => row.unknown(),
            }
        }
        row.check()?;
        Ok(unchanged)
    }

    /// Fills what was not sent from older rows, the first that knows it; columns that never are sent stay unknown.
    pub(crate) fn fill(
        &self,
        schema: &TableSchema,
        row: &[u8],
        older: &[&[u8]],
        out: &mut RowBuilder,
    ) -> Result<()> {
        let kinds = schema.kinds();
        let mut older: Vec<_> = older.iter().map(|row| Row::new(row, kinds).fields()).collect();
        out.start(kinds.len());
        for (field, present) in Row::new(row, kinds).fields().zip(&self.present) {
            let mut field = field.map_err(damaged_row)?;
            for older in &mut older {
                let old = older.next().unwrap_or(Ok(Field::UNKNOWN)).map_err(damaged_row)?;
                if field.status == Status::Unknown && *present {
                    field = old;
                }
            }
            out.field(field);
        }
        Ok(())
    }
}

fn column_error(schema: &TableSchema, at: usize, error: value::ValueError) -> Error {
    let column = schema.columns.get(at).map_or("?", |column| column.column.name.as_str());
    Error::new(
        ErrorKind::Damaged,
        "a value cannot be read",
        format!("column {column} of {}", schema.log_name),
    )
    .with_source(error)
}
