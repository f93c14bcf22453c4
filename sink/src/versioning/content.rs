//! Changes of tables without a key: the whole row names the entity, and equal rows are told apart by nothing [17].
//!
//! An entity's id is the `_id` of its first fact. An update or delete takes the smallest id among the rows that are
//! equal to the old one, so that a replay chooses alike. Under NOTHING only inserts come, each an entity of its own.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::json;

use bygone_replication::pgoutput::{Old, Tuple};

use crate::entity::{content_key, twin_key};
use crate::error::Result;
use crate::fact::{Context, Op, fact_id, fact_id_text};

use super::context::with_note;
use super::emit::{Emitter, Said};
use super::keyed::{Change, differences};
use super::known::{Content, Entities, Known, Place, Twin, visit_all};
use super::table::CapturedTable;

impl Change<'_> {
    pub(super) fn insert_content(&mut self, new: Tuple<'_>) -> Result<()> {
        let schema = Arc::clone(&self.table.schema);
        self.map.read(&schema, new, &mut self.scratch.row)?;
        self.first_version(Op::Insert, None)
    }

    pub(super) fn update_content(&mut self, old: Option<Old<'_>>, new: Tuple<'_>) -> Result<()> {
        let schema = Arc::clone(&self.table.schema);
        let unsent = self.map.read(&schema, new, &mut self.scratch.row)?;
        let Some(old) = old else {
            // Without FULL the server refuses such an update, unless the identity was just taken away.
            return self.first_version(Op::Reconcile, None);
        };
        self.map.read(&schema, old.tuple(), &mut self.scratch.old)?;
        if unsent {
            let older = [self.scratch.old.bytes()];
            self.map.fill(&schema, self.scratch.row.bytes(), &older, &mut self.scratch.filled)?;
            std::mem::swap(&mut self.scratch.row, &mut self.scratch.filled);
        }
        let Some(twin) = take_twin(self.table, self.entities, self.scratch.old.bytes())? else {
            self.missed();
            let note = with_note(self.out.context.as_deref(), json!({"unseen": true}));
            return self.first_version(Op::Reconcile, Some(&note));
        };
        differences(
            schema.kinds(),
            self.scratch.old.bytes(),
            self.scratch.row.bytes(),
            &mut self.scratch.changed,
        )?;
        let version = twin.version + 1;
        let said = Said {
            entity_id: &fact_id_text(twin.id),
            version,
            leaf: self.map.leaf,
            op: Op::Update,
            tombstone: false,
            changed: Some(&self.scratch.changed),
            context: None,
        };
        self.out.emit(self.table, &said, self.scratch.row.bytes())?;
        put_twin(
            self.table,
            self.entities,
            self.scratch.row.bytes(),
            Twin { id: twin.id, version, leaf: self.map.leaf },
        )
    }

    pub(super) fn delete_content(&mut self, old: Old<'_>) -> Result<()> {
        let schema = Arc::clone(&self.table.schema);
        self.map.read(&schema, old.tuple(), &mut self.scratch.old)?;
        match take_twin(self.table, self.entities, self.scratch.old.bytes())? {
            Some(twin) => bury_twin(self.table, self.out, twin, Op::Delete, self.scratch.old.bytes()),
            None => {
                self.missed();
                let note = with_note(self.out.context.as_deref(), json!({"unseen": true}));
                let seq = self.out.next_seq(self.table)?;
                let id = fact_id(self.out.origin.committed_at, self.out.origin.lsn, seq);
                let said = Said {
                    entity_id: &fact_id_text(id),
                    version: 1,
                    leaf: self.map.leaf,
                    op: Op::Reconcile,
                    tombstone: true,
                    changed: None,
                    context: Some(&note),
                };
                self.out.emit_at(self.table, seq, &said, self.scratch.old.bytes())
            }
        }
    }

    /// The row was there, and state does not know it as the stream shows it: what it knows in its place lives on, until the table is
    /// compared with the source.
    const fn missed(&mut self) {
        self.table.doubtful = true;
    }

    /// Emits the row in `scratch.row` as a new entity.
    fn first_version(&mut self, op: Op, context: Option<&Context>) -> Result<()> {
        let seq = self.out.next_seq(self.table)?;
        let id = fact_id(self.out.origin.committed_at, self.out.origin.lsn, seq);
        let said = Said {
            entity_id: &fact_id_text(id),
            version: 1,
            leaf: self.map.leaf,
            op,
            tombstone: false,
            changed: None,
            context,
        };
        self.out.emit_at(self.table, seq, &said, self.scratch.row.bytes())?;
        put_twin(
            self.table,
            self.entities,
            self.scratch.row.bytes(),
            Twin { id, version: 1, leaf: self.map.leaf },
        )
    }
}

/// Takes the entity with the smallest id among those that have this row.
fn take_twin(table: &CapturedTable, entities: &mut Entities, row: &[u8]) -> Result<Option<Twin>> {
    let number = table.schema.number;
    let taken = entities.change(number, &content_key(row), |known| {
        let Some(Known::Content(content)) = known else { return None };
        let twin = content.twins.pop_front();
        known.take_if(|known| is_empty(known));
        twin
    })?;
    if let Some(twin) = taken {
        entities.put(number, &twin_key(twin.id), None);
    }
    Ok(taken)
}

/// Notes that an entity has this row now.
pub(super) fn put_twin(table: &CapturedTable, entities: &mut Entities, row: &[u8], twin: Twin) -> Result<()> {
    let (number, version) = (table.schema.number, table.schema.version);
    let key = content_key(row);
    // What had these bytes under other columns may read otherwise now, and is found elsewhere.
    let is_older = |known: &mut Known| matches!(known, Known::Content(content) if content.schema != version);
    let older = entities.change(number, &key, |known| known.take_if(is_older))?;
    let mut elsewhere = None;
    if let Some(Known::Content(mut content)) = older {
        match table.convert(&content.row, content.schema)? {
            Some(now) if *now != *row => elsewhere = Some((now, content.twins)),
            _ => {
                content.schema = version;
                entities.put(number, &key, Some(Known::Content(content)));
            }
        }
    }
    entities.change(number, &key, |known| {
        let known = known.get_or_insert_with(|| {
            Known::Content(Content { schema: version, row: row.into(), twins: VecDeque::new() })
        });
        if let Known::Content(content) = known {
            let at = content.twins.partition_point(|other| other.id < twin.id);
            content.twins.insert(at, twin);
        }
    })?;
    entities.put(number, &twin_key(twin.id), Some(Known::Place(Place { version: twin.version, key })));
    if let Some((now, twins)) = elsewhere {
        for twin in twins {
            put_twin(table, entities, &now, twin)?;
        }
    }
    Ok(())
}

/// Content that no entity has.
fn is_empty(known: &Known) -> bool {
    matches!(known, Known::Content(content) if content.twins.is_empty())
}

/// The rows of a table without a key are found by their content: after a change of columns, by that of their rows as they read now
/// [17]. What is known is spilled when it takes more than `spill_bytes`.
pub(super) fn find_anew(table: &CapturedTable, entities: &mut Entities, spill_bytes: usize) -> Result<()> {
    let number = table.schema.number;
    if !table.schema.key.is_empty() {
        return Ok(());
    }
    visit_all(entities, number, |entities, key, known| {
        let Known::Content(_) = known else { return Ok(()) };
        // Rows that were gone through before may read now as this one did, and stand in its place already.
        let Some(Known::Content(content)) = entities.get(number, key)? else { return Ok(()) };
        let Some(row) = table.convert(&content.row, content.schema)? else { return Ok(()) };
        entities.put(number, key, None);
        for twin in content.twins {
            put_twin(table, entities, &row, twin)?;
        }
        if entities.bytes() > spill_bytes && !entities.is_sealed() { entities.spill() } else { Ok(()) }
    })
}

/// Takes an entity from the content that it has, when state is rebuilt.
pub(super) fn take_twin_by_id(table: &CapturedTable, entities: &mut Entities, id: [u8; 16]) -> Result<()> {
    let number = table.schema.number;
    let Some(Known::Place(place)) = entities.get(number, &twin_key(id))? else { return Ok(()) };
    entities.change(number, &place.key, |known| {
        if let Some(Known::Content(content)) = known
            && let Ok(at) = content.twins.binary_search_by(|twin| twin.id.cmp(&id))
        {
            content.twins.remove(at);
        }
        known.take_if(|known| is_empty(known));
    })?;
    entities.put(number, &twin_key(id), None);
    Ok(())
}

/// Emits the tombstone of an entity that is no longer in state.
pub(super) fn bury_twin(
    table: &mut CapturedTable,
    out: &mut Emitter,
    twin: Twin,
    op: Op,
    row: &[u8],
) -> Result<()> {
    let said = Said {
        entity_id: &fact_id_text(twin.id),
        version: twin.version + 1,
        leaf: twin.leaf,
        op,
        tombstone: true,
        changed: Some(&[]),
        context: None,
    };
    out.emit(table, &said, row)
}
