//! Changes of tables whose rows have a key.

use std::sync::Arc;

use serde_json::json;

use bygone_replication::pgoutput::{Old, Tuple};

use crate::entity::{entity_id, entity_id_of, state_key};
use crate::error::Result;
use crate::fact::{Context, Op};
use crate::schema::TableSchema;
use crate::shelf::Shelf;
use crate::value::{Field, Kind, Row, RowBuilder, Status};

use super::alias;
use super::beside::Beside;
use super::context::with_note;
use super::emit::{Emitter, Said};
use super::known::{Entities, Entity, Known};
use super::table::{CapturedTable, RelationMap, damaged_row};

/// Buffers that each change uses anew.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) row: RowBuilder,
    pub(super) filled: RowBuilder,
    pub(super) old: RowBuilder,
    pub(super) entity: String,
    pub(super) old_entity: String,
    pub(super) changed: Vec<u16>,
}

impl Scratch {
    /// Rows that are read have their large values on a shelf.
    pub(super) fn with_shelf(shelf: &Arc<Shelf>) -> Self {
        let builder = || RowBuilder::with_shelf(Some(Arc::clone(shelf)));
        Self { row: builder(), filled: builder(), old: builder(), ..Self::default() }
    }
}

/// An entity that a delete ends.
#[derive(Debug)]
pub(super) struct Gone {
    id: String,
    /// The leaf partition that it was deleted from.
    leaf: u32,
    prior: Option<Entity>,
    /// What the delete tells of an entity never seen.
    row: Vec<u8>,
}

/// All that a change works on.
pub(super) struct Change<'a> {
    pub(super) map: &'a RelationMap,
    pub(super) table: &'a mut CapturedTable,
    pub(super) entities: &'a mut Entities,
    pub(super) out: &'a mut Emitter,
    pub(super) scratch: &'a mut Scratch,
    pub(super) beside: &'a mut Beside,
}

impl Change<'_> {
    pub(super) fn insert(&mut self, new: Tuple<'_>) -> Result<()> {
        let schema = Arc::clone(&self.table.schema);
        self.map.read(&schema, new, &mut self.scratch.row)?;
        row_entity(&schema, self.scratch.row.bytes(), &mut self.scratch.entity)?;
        let prior = self.entity(&schema, false)?;
        // The key of leaves alone need not be unique over all of them.
        if prior.as_ref().is_some_and(|prior| prior.live && prior.leaf != self.map.leaf) {
            self.table.ambiguous = true;
        }
        self.put_beside(prior.as_ref());
        self.version(Op::Insert, prior, None)
    }

    pub(super) fn update(&mut self, old: Option<Old<'_>>, new: Tuple<'_>) -> Result<()> {
        let schema = Arc::clone(&self.table.schema);
        let unsent = self.map.read(&schema, new, &mut self.scratch.row)?;
        let mut whole_old = false;
        let mut has_old = false;
        if let Some(old) = old {
            self.map.read(&schema, old.tuple(), &mut self.scratch.old)?;
            whole_old = matches!(old, Old::Row(_));
            has_old = has_key(&schema, self.scratch.old.bytes())?;
        }
        // A key stored out of line that did not change stands in the old tuple alone [13].
        if unsent && has_old {
            fill_key(&schema, self.scratch.row.bytes(), self.scratch.old.bytes(), &mut self.scratch.filled)?;
            std::mem::swap(&mut self.scratch.row, &mut self.scratch.filled);
        }
        row_entity(&schema, self.scratch.row.bytes(), &mut self.scratch.entity)?;
        if has_old {
            row_entity(&schema, self.scratch.old.bytes(), &mut self.scratch.old_entity)?;
        } else {
            self.scratch.old_entity.clone_from(&self.scratch.entity);
            if let Some(positions) = &self.map.alias {
                // The old tuple names the row by other columns; without one, these have not changed.
                let named = if old.is_some() { &self.scratch.old } else { &self.scratch.row };
                if let Some(id) = alias::find(self.table, self.entities, named.bytes(), positions)? {
                    self.scratch.old_entity = id;
                }
            }
        }
        let rekeyed = self.scratch.old_entity != self.scratch.entity;
        let prior = self.entity(&schema, true)?;
        if unsent {
            // The old row as sent knows best, then the last row of the entity that had the old key, unless that is of before something
            // that the stream did not tell [14].
            let sure = |prior: &&Entity| self.table.is_sure_of(prior.leaf);
            let known = prior.as_ref().filter(sure).map(|prior| &*prior.row);
            let sent = whole_old.then(|| self.scratch.old.bytes());
            let older: Vec<&[u8]> = sent.into_iter().chain(known).collect();
            self.map.fill(&schema, self.scratch.row.bytes(), &older, &mut self.scratch.filled)?;
            std::mem::swap(&mut self.scratch.row, &mut self.scratch.filled);
        }
        if whole_old && let Some(beside) = self.take_beside(prior.as_ref())? {
            return self.update_beside(beside, rekeyed);
        }
        if !rekeyed {
            return self.version(Op::Update, prior, None);
        }
        let note = with_note(self.out.context.as_deref(), json!({"rekeyed_to": self.scratch.entity}));
        let unseen = if prior.is_none() { self.scratch.old.bytes().to_vec() } else { Vec::new() };
        if !self.bring_back(prior.as_ref())? {
            self.tombstone(&schema, Op::Rekey, prior, &unseen, Some(&note))?;
        }
        self.rekeyed_version()
    }

    /// Emits the row in `scratch.row`, which had the key of the entity in `scratch.old_entity` before.
    fn rekeyed_version(&mut self) -> Result<()> {
        let schema = Arc::clone(&self.table.schema);
        let prior = self.entity(&schema, false)?;
        self.put_beside(prior.as_ref());
        let note = with_note(self.out.context.as_deref(), json!({"rekeyed_from": self.scratch.old_entity}));
        self.version(Op::Rekey, prior, Some(&note))
    }

    /// The row in `scratch.row` takes the key of a row that is still there: one of a deferrable key.
    fn put_beside(&mut self, prior: Option<&Entity>) {
        if let Some(prior) = prior.filter(|prior| prior.live && prior.leaf == self.map.leaf) {
            self.beside.put(self.table.schema.number, &self.scratch.entity, prior.clone());
        }
    }

    /// Takes the row that the whole old row in `scratch.old` means, where that is not the one which state knows.
    fn take_beside(&mut self, known: Option<&Entity>) -> Result<Option<Entity>> {
        let schema = &self.table.schema;
        let place = (schema.number, self.scratch.old_entity.as_str());
        self.beside.take(place, schema.kinds(), known, self.scratch.old.bytes())
    }

    /// Updates a row that waits beside the one which state knows: that one stays as it is.
    fn update_beside(&mut self, beside: Entity, rekeyed: bool) -> Result<()> {
        if rekeyed {
            return self.rekeyed_version();
        }
        let row = self.scratch.row.bytes().into();
        self.beside.put(self.table.schema.number, &self.scratch.entity, Entity { row, ..beside });
        Ok(())
    }

    /// The row that state knows of the entity in `scratch.old_entity` goes, and another one of its key is left: that is its
    /// next version. False where there is none.
    fn bring_back(&mut self, prior: Option<&Entity>) -> Result<bool> {
        let schema = Arc::clone(&self.table.schema);
        let Some(left) = self.beside.pop(schema.number, &self.scratch.old_entity) else { return Ok(false) };
        self.scratch.filled.start(schema.columns.len());
        for field in Row::new(&left.row, schema.kinds()).fields() {
            self.scratch.filled.field(field.map_err(damaged_row)?);
        }
        let named = self.scratch.entity.clone();
        self.scratch.entity.clone_from(&self.scratch.old_entity);
        std::mem::swap(&mut self.scratch.row, &mut self.scratch.filled);
        let done = self.version(Op::Update, prior.cloned(), None);
        std::mem::swap(&mut self.scratch.row, &mut self.scratch.filled);
        self.scratch.entity = named;
        done.map(|()| true)
    }

    pub(super) fn delete(&mut self, old: Old<'_>) -> Result<()> {
        match self.deleted(old)? {
            Some(gone) => self.bury_gone(gone),
            None => Ok(()),
        }
    }

    /// What a delete of one leaf partition and an insert into another come to, where they are of one row: an update that
    /// moved it [8].
    pub(super) fn moved(&mut self, gone: &Gone, new: Tuple<'_>) -> Result<bool> {
        let schema = Arc::clone(&self.table.schema);
        self.map.read(&schema, new, &mut self.scratch.row)?;
        row_entity(&schema, self.scratch.row.bytes(), &mut self.scratch.entity)?;
        if self.scratch.entity != gone.id || self.map.leaf == gone.leaf {
            return Ok(false);
        }
        self.version(Op::Update, gone.prior.clone(), None)?;
        Ok(true)
    }

    /// Ends an entity that was found to be deleted.
    pub(super) fn bury_gone(&mut self, gone: Gone) -> Result<()> {
        let schema = Arc::clone(&self.table.schema);
        self.scratch.old_entity = gone.id;
        if self.bring_back(gone.prior.as_ref())? {
            return Ok(());
        }
        let unseen = gone.row;
        self.tombstone(&schema, Op::Delete, gone.prior, &unseen, None)
    }

    /// The entity that a delete ends; none where nobody can tell.
    pub(super) fn deleted(&mut self, old: Old<'_>) -> Result<Option<Gone>> {
        let schema = Arc::clone(&self.table.schema);
        self.map.read(&schema, old.tuple(), &mut self.scratch.old)?;
        if has_key(&schema, self.scratch.old.bytes())? {
            row_entity(&schema, self.scratch.old.bytes(), &mut self.scratch.old_entity)?;
        } else {
            let positions = self.map.alias.as_deref().unwrap_or_default();
            let found = alias::find(self.table, self.entities, self.scratch.old.bytes(), positions)?;
            let Some(id) = found else {
                // It came before state knew rows by these columns: the table has to be compared with the source.
                self.table.doubtful = true;
                return Ok(None);
            };
            self.scratch.old_entity = id;
        }
        let prior = self.entity(&schema, true)?;
        if matches!(old, Old::Row(_)) && self.take_beside(prior.as_ref())?.is_some() {
            return Ok(None);
        }
        if prior.is_none() && matches!(old, Old::Key(_)) {
            only_key_known(&schema, self.scratch.old.bytes(), &mut self.scratch.filled)?;
            std::mem::swap(&mut self.scratch.old, &mut self.scratch.filled);
        }
        let row = if prior.is_none() { self.scratch.old.bytes().to_vec() } else { Vec::new() };
        Ok(Some(Gone { id: self.scratch.old_entity.clone(), leaf: self.map.leaf, prior, row }))
    }

    /// What is known of the old or the new entity, as a row of the newest schema.
    fn entity(&mut self, schema: &TableSchema, old: bool) -> Result<Option<Entity>> {
        let id = if old { &self.scratch.old_entity } else { &self.scratch.entity };
        let known = self.entities.get(schema.number, &state_key(id))?;
        let Some(Known::Entity(mut entity)) = known else { return Ok(None) };
        if let Some(row) = self.table.convert(&entity.row, entity.schema)? {
            entity.row = row;
        }
        Ok(Some(entity))
    }

    /// Emits the row in `scratch.row` as the next version of the entity in `scratch.entity`.
    fn version(&mut self, op: Op, prior: Option<Entity>, context: Option<&Context>) -> Result<()> {
        let row = self.scratch.row.bytes();
        let kinds = self.table.schema.kinds();
        let version = prior.as_ref().map_or(1, |prior| prior.version + 1);
        let changed = match &prior {
            Some(prior) => {
                differences(kinds, &prior.row, row, &mut self.scratch.changed)?;
                let same = prior.live && prior.leaf == self.map.leaf;
                let unwatched =
                    op == Op::Update && same && unwatched(&self.table.schema, &self.scratch.changed);
                if unwatched && all_come_again(kinds, row, &self.scratch.changed)? {
                    return Ok(());
                }
                Some(self.scratch.changed.as_slice())
            }
            None => None,
        };
        let said = Said {
            entity_id: &self.scratch.entity,
            version,
            leaf: self.map.leaf,
            op,
            tombstone: false,
            changed,
            context,
        };
        self.out.emit(self.table, &said, row)?;
        let entity = Entity {
            version,
            live: true,
            leaf: self.map.leaf,
            schema: self.table.schema.version,
            row: row.into(),
        };
        let key = state_key(&self.scratch.entity);
        if let Some(positions) = &self.table.aliased {
            alias::note(self.table, self.entities, key.clone(), self.scratch.row.bytes(), positions)?;
        }
        self.entities.put(self.table.schema.number, &key, Some(Known::Entity(entity)));
        Ok(())
    }

    /// Ends the entity in `scratch.old_entity`; of one never seen, `unseen` is all that is known.
    fn tombstone(
        &mut self,
        schema: &TableSchema,
        op: Op,
        prior: Option<Entity>,
        unseen_row: &[u8],
        context: Option<&Context>,
    ) -> Result<()> {
        let unseen;
        let context = if prior.is_none() && context.is_none() {
            unseen = with_note(self.out.context.as_deref(), json!({"unseen": true}));
            Some(&unseen)
        } else {
            context
        };
        let entity = prior.map_or_else(
            || Entity {
                version: 0,
                live: true,
                leaf: self.map.leaf,
                schema: schema.version,
                row: unseen_row.into(),
            },
            |prior| Entity { schema: schema.version, ..prior },
        );
        let id = std::mem::take(&mut self.scratch.old_entity);
        let done = bury(self.table, self.entities, self.out, &id, op, entity, context);
        self.scratch.old_entity = id;
        done
    }
}

/// Emits a tombstone of an entity with its last row, which must be of the newest schema.
pub(super) fn bury(
    table: &mut CapturedTable,
    entities: &mut Entities,
    out: &mut Emitter,
    entity_id: &str,
    op: Op,
    entity: Entity,
    context: Option<&Context>,
) -> Result<()> {
    let version = entity.version + 1;
    // The tombstone holds the last row: nothing differs. Of an entity never seen it is the first version.
    let changed: Option<&[u16]> = (version > 1).then_some(&[]);
    let said = Said { entity_id, version, leaf: entity.leaf, op, tombstone: true, changed, context };
    out.emit(table, &said, &entity.row)?;
    let number = table.schema.number;
    let buried = Entity { version, live: false, ..entity };
    entities.put(number, &state_key(entity_id), Some(Known::Entity(buried)));
    Ok(())
}

/// Positions of the columns in which two rows differ.
pub(super) fn differences(kinds: &[Kind], before: &[u8], after: &[u8], out: &mut Vec<u16>) -> Result<()> {
    out.clear();
    if before == after {
        return Ok(());
    }
    let pairs = Row::new(before, kinds).fields().zip(Row::new(after, kinds).fields());
    for (at, (before, after)) in pairs.enumerate() {
        if before.map_err(damaged_row)? != after.map_err(damaged_row)? {
            out.push(u16::try_from(at).unwrap_or(u16::MAX));
        }
    }
    Ok(())
}

/// Something has changed, and nothing that is watched.
pub(super) fn unwatched(schema: &TableSchema, changed: &[u16]) -> bool {
    let is_unwatched =
        |at: &u16| schema.columns.get(usize::from(*at)).is_some_and(|column| column.column.unwatched);
    !changed.is_empty() && changed.iter().all(is_unwatched)
}

/// The next update of the row brings these values of it again, whether it changes them or not. A value that is stored out of line comes only
/// where it changes: it has to be kept now.
fn all_come_again(kinds: &[Kind], row: &[u8], changed: &[u16]) -> Result<bool> {
    for (at, (field, kind)) in Row::new(row, kinds).fields().zip(kinds).enumerate() {
        let field = field.map_err(damaged_row)?;
        if changed.iter().any(|changed| usize::from(*changed) == at) && may_be_out_of_line(kind, field) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The server may store a value in another table: one of more than 24 bytes, with its header, in a row of more than 2,000
/// (`toast_tuple_find_biggest_attribute`). How many bytes it takes there is not known of all types.
fn may_be_out_of_line(kind: &Kind, field: Field<'_>) -> bool {
    const SHORT: usize = 24;
    let least = match (field.status, kind) {
        (Status::Null | Status::Unknown, _) => return false,
        (Status::Raw | Status::Large, _) | (_, Kind::Jsonb | Kind::List(_) | Kind::Other) => 0,
        (Status::Value, Kind::Text | Kind::Json | Kind::Bytes) => SHORT,
        (Status::Value, Kind::NumericText | Kind::Printed(_)) => SHORT - 8,
        // Others take no more, but for decimals of more than 36 digits.
        (Status::Value, Kind::Decimal { precision, .. }) => return *precision > 36,
        (Status::Value, _) => return false,
    };
    field.bytes().len() >= least
}

/// The entity id of a row.
pub(super) fn row_entity(schema: &TableSchema, row: &[u8], out: &mut String) -> Result<()> {
    out.clear();
    if let [only] = schema.key.as_slice() {
        let mut fields = Row::new(row, schema.kinds()).fields();
        let mut field = Field::NULL;
        for kind in schema.kinds().iter().take(only + 1) {
            field = fields.column(kind).map_err(damaged_row)?;
        }
        return entity_id(schema, |_| field, out).map_err(damaged_row);
    }
    // Keys stand in front as a rule: few fields are walked.
    let last = schema.key.iter().max().copied().unwrap_or(0);
    let mut fields = smallvec::SmallVec::<[Field<'_>; 8]>::new();
    for field in Row::new(row, schema.kinds()).fields().take(last + 1) {
        fields.push(field.map_err(damaged_row)?);
    }
    entity_id(schema, |at| fields.get(at).copied().unwrap_or(Field::NULL), out).map_err(damaged_row)
}

/// The id of the entity that state knows under a key, with its row of this schema.
pub(super) fn known_entity(key: &[u8], schema: &TableSchema, row: &[u8]) -> Result<String> {
    if let Some(id) = entity_id_of(key) {
        return Ok(id);
    }
    let mut id = String::new();
    row_entity(schema, row, &mut id)?;
    Ok(id)
}

/// The old tuple names the key: that of another identity index leaves it null [16].
fn has_key(schema: &TableSchema, row: &[u8]) -> Result<bool> {
    for (at, field) in Row::new(row, schema.kinds()).fields().enumerate() {
        let missing = matches!(field.map_err(damaged_row)?.status, Status::Null | Status::Unknown);
        if missing && schema.key.contains(&at) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Key columns that were not sent, from the old tuple.
fn fill_key(schema: &TableSchema, row: &[u8], old: &[u8], out: &mut RowBuilder) -> Result<()> {
    out.start(schema.columns.len());
    let pairs = Row::new(row, schema.kinds()).fields().zip(Row::new(old, schema.kinds()).fields());
    for (at, (field, old)) in pairs.enumerate() {
        let (field, old) = (field.map_err(damaged_row)?, old.map_err(damaged_row)?);
        let missing = field.status == Status::Unknown && schema.key.contains(&at);
        out.field(if missing { old } else { field });
    }
    Ok(())
}

/// Of a row never seen, a delete tells the key alone: the rest is unknown, not null.
fn only_key_known(schema: &TableSchema, row: &[u8], out: &mut RowBuilder) -> Result<()> {
    out.start(schema.columns.len());
    for field in Row::new(row, schema.kinds()).fields() {
        let field = field.map_err(damaged_row)?;
        out.field(if field.status == Status::Null { Field::UNKNOWN } else { field });
    }
    Ok(())
}
