//! Rows of a first copy become facts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bygone_replication::Lsn;
use bygone_replication::pgoutput::Cell;

use crate::batch::{FactBatch, FactHead};
use crate::encoder::Encoder;
use crate::entity::state_key;
use crate::error::{Error, ErrorKind, Result};
use crate::fact::{Op, Origin, fact_id, fact_id_text};
use crate::hashing::{HashKey, Intake};
use crate::schema::TableSchema;
use crate::shelf::{Hold, Shelf};
use crate::state::{BulkWriter, State};
use crate::value::{self, RowBuilder};

use super::content::put_twin;
use super::keyed::row_entity;
use super::known::{Entities, Known, Twin};
use super::table::{CapturedTable, damaged_row};

/// Bytes of changes after which they are moved to disk.
const CHUNK_BYTES: usize = 16 << 20;

/// Notes in state the rows of a table without a key, of which equal ones share an entry: for all workers of a copy.
#[derive(Debug)]
pub struct ContentLoader {
    table: CapturedTable,
    entities: Entities,
    _hold: Hold,
}

impl ContentLoader {
    /// A loader into a state that holds nothing of the table.
    #[must_use]
    pub fn new(state: Arc<State>, schema: Arc<TableSchema>) -> Self {
        let shelf = Arc::clone(state.shelf());
        let hold = shelf.hold();
        Self {
            table: CapturedTable::new(schema, Lsn::ZERO, shelf),
            entities: Entities::new(state),
            _hold: hold,
        }
    }

    fn push(&mut self, id: [u8; 16], leaf: u32, row: &[u8]) -> Result<()> {
        put_twin(&self.table, &mut self.entities, row, Twin { id, version: 1, leaf })?;
        if self.entities.bytes() > CHUNK_BYTES { self.entities.spill() } else { Ok(()) }
    }

    /// Makes the rows part of the state.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn finish(mut self, state: &State, seq: u64) -> Result<()> {
        self.entities.seal().apply(state, seq)
    }
}

/// Writes the rows of a table, or of a part of it, that one worker copies.
///
/// Each row is the first version of its entity. Rows of a table without a key are noted in state when the commit is
/// caught up with, not here: equal rows share an entry there.
#[derive(Debug)]
pub struct SnapshotWriter {
    schema: Arc<TableSchema>,
    batch: FactBatch,
    encoder: Encoder,
    state: Option<BulkWriter>,
    contents: Option<Arc<Mutex<ContentLoader>>>,
    origin: Origin,
    next_seq: Arc<AtomicU64>,
    leaf: u32,
    intake: Intake,
    row: RowBuilder,
    entity: String,
    stored: Vec<u8>,
    rows: u64,
}

impl SnapshotWriter {
    /// A writer for one worker. All writers of a table share `next_seq`; `state` is `None` for a table without a key.
    #[must_use]
    pub fn new(
        schema: Arc<TableSchema>,
        leaf: u32,
        encoder: Encoder,
        state: Option<BulkWriter>,
        origin: Origin,
        next_seq: Arc<AtomicU64>,
    ) -> Self {
        let intake = Intake::new(&schema, None);
        Self {
            batch: FactBatch::new(Arc::clone(&schema)),
            schema,
            encoder,
            state,
            contents: None,
            origin,
            next_seq,
            leaf,
            intake,
            row: RowBuilder::default(),
            entity: String::new(),
            stored: Vec::new(),
            rows: 0,
        }
    }

    /// The key for columns that are hashed: without it, no row of a table that has one is taken.
    #[must_use]
    pub fn with_hash_key(self, key: Option<&HashKey>) -> Self {
        Self { intake: Intake::new(&self.schema, key), ..self }
    }

    /// Large values go on a shelf.
    #[must_use]
    pub fn with_shelf(self, shelf: &Arc<Shelf>) -> Self {
        let shelf = Some(Arc::clone(shelf));
        Self { row: RowBuilder::with_shelf(shelf.clone()), batch: self.batch.with_shelf(shelf), ..self }
    }

    /// Rows of a table without a key go into state, too.
    #[must_use]
    pub fn with_contents(self, contents: Option<Arc<Mutex<ContentLoader>>>) -> Self {
        Self { contents, ..self }
    }

    /// Takes a row: the values of the schema's columns in its order.
    ///
    /// # Errors
    /// When a value is not what its type says, or facts cannot be written.
    pub fn row<'a>(&mut self, cells: impl Iterator<Item = Cell<'a>>) -> Result<()> {
        let kinds = self.schema.kinds();
        self.row.start(kinds.len());
        let mut count = 0;
        for (cell, kind) in cells.zip(kinds) {
            self.intake
                .read(count, kind, cell, &mut self.row)
                .map_err(|error| self.column_error(count, error))?;
            count += 1;
        }
        self.take(count)
    }

    /// Takes a row of which all columns are there in binary form, `None` for null: what [`SnapshotWriter::row`] does, for the many rows
    /// of a copy.
    ///
    /// # Errors
    /// As there.
    pub fn binary_row<'a>(&mut self, fields: impl Iterator<Item = Option<&'a [u8]>>) -> Result<()> {
        if !self.intake.is_plain() {
            return self.row(fields.map(|field| field.map_or(Cell::Null, Cell::Binary)));
        }
        let kinds = self.schema.kinds();
        self.row.start(kinds.len());
        let mut count = 0;
        for (field, kind) in fields.zip(kinds) {
            match field {
                Some(bytes) => value::read_binary(kind, bytes, &mut self.row)
                    .map_err(|error| self.column_error(count, error))?,
                None => self.row.null(),
            }
            count += 1;
        }
        self.take(count)
    }

    /// Makes a fact of the row that was read, of so many columns.
    fn take(&mut self, count: usize) -> Result<()> {
        self.row.check()?;
        let columns = self.schema.columns.len();
        if count != columns {
            return Err(Error::new(
                ErrorKind::Damaged,
                "a copied row lacks columns",
                format!("{}: {count} of {columns}", self.schema.log_name),
            ));
        }
        let seq = u32::try_from(self.next_seq.fetch_add(1, Ordering::Relaxed)).map_err(|_| {
            Error::new(
                ErrorKind::Unsupported,
                "a table has more than 4,294,967,295 rows",
                format!("{}: that is more than one snapshot can number", self.schema.log_name),
            )
        })?;
        if self.schema.key.is_empty() {
            let id = fact_id(self.origin.committed_at, self.origin.lsn, seq);
            self.entity = fact_id_text(id);
            if let Some(contents) = &self.contents {
                let mut contents = contents.lock().unwrap_or_else(PoisonError::into_inner);
                contents.push(id, self.leaf, self.row.bytes())?;
            }
        } else {
            row_entity(&self.schema, self.row.bytes(), &mut self.entity)?;
        }
        let head = FactHead {
            entity_id: &self.entity,
            version: 1,
            op: Op::Snapshot,
            tombstone: false,
            seq,
            changed: None,
            context: None,
        };
        self.batch.append(&self.origin, &head, self.row.bytes()).map_err(damaged_row)?;
        if let Some(state) = &mut self.state {
            self.stored.clear();
            Known::encode_entity(true, 1, self.leaf, self.schema.version, self.row.bytes(), &mut self.stored);
            state.push(&state_key(&self.entity), &self.stored)?;
        }
        self.rows += 1;
        if self.batch.is_full() {
            self.encoder.write(&mut self.batch, self.leaf)?;
        }
        Ok(())
    }

    fn column_error(&self, at: usize, error: value::ValueError) -> Error {
        let column = self.schema.columns.get(at).map_or("?", |column| column.column.name.as_str());
        Error::new(
            ErrorKind::Damaged,
            "a value cannot be read",
            format!("column {column} of {}", self.schema.log_name),
        )
        .with_source(error)
    }

    /// Hands over the last rows. Returns how many there were in all.
    ///
    /// # Errors
    /// When facts cannot be written.
    pub fn finish(mut self) -> Result<u64> {
        if !self.batch.is_empty() {
            self.encoder.write(&mut self.batch, self.leaf)?;
        }
        if let Some(state) = self.state.take() {
            state.finish()?;
        }
        Ok(self.rows)
    }
}
