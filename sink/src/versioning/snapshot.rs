//! Rows of a first copy become facts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bygone_replication::pgoutput::Cell;

use crate::batch::{FactBatch, FactHead};
use crate::encoder::Encoder;
use crate::entity::state_key;
use crate::error::{Error, ErrorKind, Result};
use crate::fact::{Op, Origin, fact_id, fact_id_text};
use crate::schema::TableSchema;
use crate::state::BulkWriter;
use crate::value::{self, RowBuilder};

use super::keyed::row_entity;
use super::known::Known;
use super::table::damaged_row;

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
    origin: Origin,
    next_seq: Arc<AtomicU64>,
    leaf: u32,
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
        Self {
            batch: FactBatch::new(Arc::clone(&schema)),
            schema,
            encoder,
            state,
            origin,
            next_seq,
            leaf,
            row: RowBuilder::default(),
            entity: String::new(),
            stored: Vec::new(),
            rows: 0,
        }
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
            value::read(kind, cell, &mut self.row).map_err(|error| self.column_error(count, error))?;
            count += 1;
        }
        if count != kinds.len() {
            return Err(Error::new(
                ErrorKind::Damaged,
                "a copied row lacks columns",
                format!("{}: {count} of {}", self.schema.log_name, kinds.len()),
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
            self.entity = fact_id_text(fact_id(self.origin.committed_at, self.origin.lsn, seq));
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
