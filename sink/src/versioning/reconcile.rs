//! What the WAL did not tell: a table's rows as the source has them, compared with what state knows.
//!
//! The rows were gathered beside the stream by a [`Versioner`] of their own, up to the very position at which they are
//! compared. So every difference is one that no message of the stream explains: a table that was not captured before,
//! a rewrite, an attached partition, another key.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::json;

use crate::entity::{content_key, twin_key};
use crate::error::Result;
use crate::fact::{Context, Op, fact_id, fact_id_text};
use crate::schema::TableSchema;
use crate::value::{Row, Status};

use super::content::{bury_twin, put_twin};
use super::context::with_note;
use super::emit::Said;
use super::keyed::{bury, differences, known_entity, row_entity, unwatched};
use super::known::{Entity, Known, Twin, visit_all};
use super::table::damaged_row;
use super::{TransactionSummary, Versioner};

/// How differences are told.
#[derive(Clone, Debug)]
pub struct Telling {
    /// The op of a row that differs, or that nothing was known of.
    pub found: Op,
    /// The op of the tombstone of a row that is not there.
    pub gone: Op,
    /// Only rows of this leaf partition are compared.
    pub leaf: Option<u32>,
    /// Attnums of the key that named entities before, where it is another one now: facts say what they were called.
    pub old_key: Option<Vec<i16>>,
}

/// What a comparison came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Rows that the source has.
    pub rows: u64,
    /// Rows of which nothing was known, or whose entity was dead.
    pub added: u64,
    /// Rows that were known otherwise.
    pub changed: u64,
    /// Rows that were known and are not there.
    pub removed: u64,
}

impl Versioner {
    /// Makes facts of every difference between a table and its rows as `observed` has them. Belongs between
    /// [`Versioner::begin`] and the return of this function, which ends what was begun; no commit may be on its way.
    ///
    /// The observed table must have this table's newest columns and key.
    ///
    /// # Errors
    /// When state cannot be read, or facts cannot be written.
    pub fn reconcile(
        &mut self,
        index: usize,
        observed: &Versioner,
        observed_index: usize,
        telling: &Telling,
    ) -> Result<Reconciled> {
        let mut done = Reconciled::default();
        let Some(theirs) = observed.tables.get(observed_index) else { return Ok(done) };
        let Some(schema) = self.schema(index).map(Arc::clone) else { return Ok(done) };
        let old_key = telling.old_key.as_deref().map(|key| with_key(&schema, key));
        let wanted = |leaf: u32| telling.leaf.is_none_or(|only| only == leaf);
        observed.entities.each(theirs.schema.number, |key, known| {
            match known {
                Known::Entity(entity) if entity.live && wanted(entity.leaf) => {
                    let row = theirs.convert(&entity.row, entity.schema)?;
                    let row = row.unwrap_or_else(|| Arc::clone(&entity.row));
                    done.rows += 1;
                    self.compare_entity(index, key, entity.leaf, row, telling, old_key.as_ref(), &mut done)?;
                }
                Known::Content(content) => {
                    let row = theirs.convert(&content.row, content.schema)?;
                    let row = row.unwrap_or_else(|| Arc::clone(&content.row));
                    let twins: Vec<Twin> =
                        content.twins.iter().copied().filter(|twin| wanted(twin.leaf)).collect();
                    done.rows += twins.len() as u64;
                    self.compare_content(index, &row, &twins, telling, &mut done)?;
                }
                Known::Entity(_) | Known::Place(_) => {}
            }
            self.spill_if_large()
        })?;
        let keyed = !schema.key.is_empty();
        visit_all(self, schema.number, |this, key, known| {
            let stays = match &known {
                // What is kept under the other form of key is of before the key changed.
                Known::Entity(entity) => {
                    !entity.live
                        || !wanted(entity.leaf)
                        || (keyed && observed.entities.is_live(theirs.schema.number, key)?)
                }
                Known::Content(content) => {
                    !keyed
                        && observed.entities.get(theirs.schema.number, &content_key(&content.row))?.is_some()
                }
                Known::Place(_) => true,
            };
            if stays {
                return Ok(());
            }
            let before = this.out.facts;
            this.bury_known(index, key, known, telling.gone, telling.leaf)?;
            done.removed += this.out.facts - before;
            Ok(())
        })?;
        if let Some(table) = self.tables.get_mut(index) {
            // State does not know the rows that came by other columns than those of their key.
            table.aliased = None;
        }
        Ok(done)
    }

    /// Ends every live entity of a table, or of one of its leaves. Belongs after [`Versioner::begin`]; returns how many.
    ///
    /// # Errors
    /// As [`Versioner::reconcile`].
    pub fn bury_table(&mut self, index: usize, op: Op, leaf: Option<u32>) -> Result<u64> {
        self.settle()?;
        let before = self.out.facts;
        self.bury_all(index, op, leaf)?;
        self.count(index, before);
        Ok(self.out.facts - before)
    }

    /// Facts made since [`Versioner::begin`].
    #[must_use]
    pub const fn summary(&self) -> TransactionSummary {
        TransactionSummary { facts: self.out.facts, has_actor: false }
    }

    #[expect(clippy::too_many_arguments, reason = "one caller, which has all of it at hand")]
    fn compare_entity(
        &mut self,
        index: usize,
        key: &[u8],
        leaf: u32,
        row: Arc<[u8]>,
        telling: &Telling,
        old_key: Option<&TableSchema>,
        done: &mut Reconciled,
    ) -> Result<()> {
        let Some(table) = self.tables.get_mut(index) else { return Ok(()) };
        let number = table.schema.number;
        let prior = match self.entities.get(number, key)? {
            Some(Known::Entity(mut entity)) => {
                if let Some(row) = table.convert(&entity.row, entity.schema)? {
                    entity.row = row;
                }
                Some(entity)
            }
            _ => None,
        };
        let changed = &mut self.scratch.changed;
        changed.clear();
        if let Some(prior) = &prior {
            differences(table.schema.kinds(), &prior.row, &row, changed)?;
            without_unknown(&table.schema, &prior.row, &row, changed)?;
            let same = changed.is_empty() || unwatched(&table.schema, changed);
            if prior.live && same && prior.leaf == leaf {
                return Ok(());
            }
        }
        if prior.as_ref().is_some_and(|prior| prior.live) {
            done.changed += 1;
        } else {
            done.added += 1;
        }
        let id = known_entity(key, &table.schema, &row)?;
        let note = match old_key {
            Some(old) if !old.key.is_empty() => {
                let mut before = String::new();
                row_entity(old, &row, &mut before)?;
                Some(with_note(self.out.context.as_deref(), json!({"rekeyed_from": before})))
            }
            _ => None,
        };
        let version = prior.as_ref().map_or(1, |prior| prior.version + 1);
        let said = Said {
            entity_id: &id,
            version,
            leaf,
            op: telling.found,
            tombstone: false,
            changed: prior.is_some().then_some(changed.as_slice()),
            context: note.as_ref(),
        };
        self.out.emit(table, &said, &row)?;
        if let Some(findings) = &mut self.out.findings
            && prior.is_some_and(|prior| !prior.live)
        {
            findings.was_missing(&id);
        }
        let entity = Entity { version, live: true, leaf, schema: table.schema.version, row };
        self.entities.put(number, key, Some(Known::Entity(entity)));
        Ok(())
    }

    /// Equal rows: as many entities as the source has of them.
    fn compare_content(
        &mut self,
        index: usize,
        row: &[u8],
        twins: &[Twin],
        telling: &Telling,
        done: &mut Reconciled,
    ) -> Result<()> {
        let Some(table) = self.tables.get_mut(index) else { return Ok(()) };
        let number = table.schema.number;
        let own = match self.entities.get(number, &content_key(row))? {
            Some(Known::Content(content)) => content.twins,
            _ => VecDeque::new(),
        };
        let mut left: Vec<Twin> =
            own.into_iter().filter(|twin| telling.leaf.is_none_or(|only| only == twin.leaf)).collect();
        for twin in twins {
            if let Some(at) = left.iter().position(|own| own.leaf == twin.leaf) {
                left.remove(at);
                continue;
            }
            let seq = self.out.next_seq(table)?;
            let id = fact_id(self.out.origin.committed_at, self.out.origin.lsn, seq);
            let said = Said {
                entity_id: &fact_id_text(id),
                version: 1,
                leaf: twin.leaf,
                op: telling.found,
                tombstone: false,
                changed: None,
                context: None::<&Context>,
            };
            self.out.emit_at(table, seq, &said, row)?;
            put_twin(table, &mut self.entities, row, Twin { id, version: 1, leaf: twin.leaf })?;
            done.added += 1;
        }
        for twin in left {
            bury_twin(table, &mut self.out, twin, telling.gone, row)?;
            let key = content_key(row);
            if let Some(Known::Content(mut content)) = self.entities.get(number, &key)? {
                content.twins.retain(|own| own.id != twin.id);
                let known = (!content.twins.is_empty()).then_some(Known::Content(content));
                self.entities.put(number, &key, known);
            }
            self.entities.put(number, &twin_key(twin.id), None);
            done.removed += 1;
        }
        Ok(())
    }

    /// Ends an entity, or all equal rows, that state knows.
    pub(super) fn bury_known(
        &mut self,
        index: usize,
        key: &[u8],
        known: Known,
        op: Op,
        leaf: Option<u32>,
    ) -> Result<()> {
        let Some(table) = self.tables.get_mut(index) else { return Ok(()) };
        let wanted = |of: u32| leaf.is_none_or(|leaf| leaf == of);
        match known {
            Known::Entity(mut entity) if entity.live && wanted(entity.leaf) => {
                if let Some(row) = table.convert(&entity.row, entity.schema)? {
                    entity.row = row;
                    entity.schema = table.schema.version;
                }
                let id = known_entity(key, &table.schema, &entity.row)?;
                bury(table, &mut self.entities, &mut self.out, &id, op, entity, None)?;
            }
            Known::Content(mut content) => {
                let row =
                    table.convert(&content.row, content.schema)?.unwrap_or_else(|| Arc::clone(&content.row));
                let (gone, left): (VecDeque<Twin>, VecDeque<Twin>) =
                    content.twins.iter().partition(|twin| wanted(twin.leaf));
                for twin in gone {
                    bury_twin(table, &mut self.out, twin, op, &row)?;
                    self.entities.put(table.schema.number, &twin_key(twin.id), None);
                }
                content.twins = left;
                let known = (!content.twins.is_empty()).then_some(Known::Content(content));
                self.entities.put(table.schema.number, key, known);
            }
            Known::Entity(_) | Known::Place(_) => {}
        }
        self.spill_if_large()
    }
}

/// The same columns with another key.
fn with_key(schema: &TableSchema, key: &[i16]) -> TableSchema {
    TableSchema::of_columns(
        schema.number,
        schema.name.clone(),
        schema.log_name.clone(),
        schema.oid,
        schema.version,
        schema.columns.clone(),
        key,
    )
}

/// What the observed row does not know is no difference; nor is a generated column that the prior one does not: the server
/// had not sent it.
fn without_unknown(schema: &TableSchema, prior: &[u8], row: &[u8], changed: &mut Vec<u16>) -> Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let known = |row: &[u8]| {
        let fields = Row::new(row, schema.kinds()).fields();
        let known = fields.map(|field| field.map(|field| field.status != Status::Unknown));
        known.collect::<std::result::Result<Vec<bool>, _>>().map_err(damaged_row)
    };
    let (before, now) = (known(prior)?, known(row)?);
    let is = |known: &[bool], at: u16| known.get(usize::from(at)).is_some_and(|known| *known);
    let is_generated =
        |at: u16| schema.columns.get(usize::from(at)).is_some_and(|column| column.column.generated.is_some());
    changed.retain(|at| is(&now, *at) && (is(&before, *at) || !is_generated(*at)));
    Ok(())
}
