//! Facts on their way out: each gets its place in the transaction and goes into its table's batch.

use std::sync::Arc;

use crate::batch::FactHead;
use crate::encoder::Encoder;
use crate::error::Result;
use crate::fact::{Context, Op, Origin};

use super::table::{CapturedTable, damaged_row};

/// One day of `_valid_from`: the facts of a file are of one day.
pub(crate) const DAY_US: i64 = 86_400_000_000;

/// What a fact says beside its row.
#[derive(Debug)]
pub(crate) struct Said<'a> {
    pub(crate) entity_id: &'a str,
    pub(crate) version: i64,
    /// The leaf partition; 0 outside partitioned tables.
    pub(crate) leaf: u32,
    pub(crate) op: Op,
    pub(crate) tombstone: bool,
    pub(crate) changed: Option<&'a [u16]>,
    /// In place of the transaction's context.
    pub(crate) context: Option<&'a Context>,
}

/// What a comparison found of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The row's `_entity_id`.
    pub entity_id: String,
    /// In what way it differs.
    pub kind: FindingKind,
    /// Places of the columns that differ, in the table's newest schema.
    pub columns: Vec<u16>,
}

/// How a row of the history differs from the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingKind {
    /// The source has it, the history has not.
    Missing,
    /// Both have it, with other values.
    Changed,
    /// The history has it, the source has not.
    Extra,
}

/// Findings that are kept in mind.
#[derive(Debug)]
pub(crate) struct Findings {
    pub(crate) limit: usize,
    pub(crate) found: Vec<Finding>,
}

impl Findings {
    /// The row that was noted last was known, as one that had ended.
    pub(crate) fn was_missing(&mut self, entity_id: &str) {
        if let Some(last) = self.found.last_mut().filter(|last| last.entity_id == entity_id) {
            last.kind = FindingKind::Missing;
            last.columns.clear();
        }
    }

    fn note(&mut self, said: &Said<'_>) {
        if self.found.len() >= self.limit {
            return;
        }
        let kind = match said.changed {
            _ if said.tombstone => FindingKind::Extra,
            Some(_) => FindingKind::Changed,
            None => FindingKind::Missing,
        };
        let columns = if said.tombstone { Vec::new() } else { said.changed.unwrap_or_default().to_vec() };
        self.found.push(Finding { entity_id: said.entity_id.to_owned(), kind, columns });
    }
}

/// Writes the facts of the transaction that is being read.
#[derive(Debug)]
pub(crate) struct Emitter {
    pub(crate) encoder: Encoder,
    pub(crate) origin: Origin,
    pub(crate) context: Option<Arc<Context>>,
    /// Facts of this transaction so far.
    pub(crate) facts: u64,
    /// What they are of, where somebody wants to know.
    pub(crate) findings: Option<Findings>,
}

impl Emitter {
    /// The `_seq` that the next fact of a table gets.
    pub(crate) fn next_seq(&self, table: &mut CapturedTable) -> Result<u32> {
        table.next_seq(self.origin.lsn)
    }

    pub(crate) fn emit(&mut self, table: &mut CapturedTable, said: &Said<'_>, row: &[u8]) -> Result<()> {
        let seq = self.next_seq(table)?;
        self.emit_at(table, seq, said, row)
    }

    pub(crate) fn emit_at(
        &mut self,
        table: &mut CapturedTable,
        seq: u32,
        said: &Said<'_>,
        row: &[u8],
    ) -> Result<()> {
        let batch = table.batch(said.leaf);
        let new_day = batch
            .first_valid_from()
            .is_some_and(|first| first.div_euclid(DAY_US) != self.origin.valid_from.div_euclid(DAY_US));
        if new_day || batch.is_full() {
            self.encoder.write(batch, said.leaf)?;
        }
        let head = FactHead {
            entity_id: said.entity_id,
            version: said.version,
            op: said.op,
            tombstone: said.tombstone,
            seq,
            changed: said.changed,
            context: said.context.or(self.context.as_deref()),
        };
        batch.append(&self.origin, &head, row).map_err(damaged_row)?;
        self.facts += 1;
        if let Some(findings) = &mut self.findings {
            findings.note(said);
        }
        Ok(())
    }

    /// Hands the table's facts to the encoder.
    pub(crate) fn flush(&mut self, table: &mut CapturedTable) -> Result<()> {
        for (leaf, batch) in &mut table.batches {
            self.encoder.write(batch, *leaf)?;
        }
        // Leaves come and go: those without facts are not kept in mind.
        table.batches.truncate(8);
        Ok(())
    }
}
