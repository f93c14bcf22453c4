//! Rows that the stream names by other columns than those of their key [16].
//!
//! The key is pinned when a table is attached, and is its primary key where there is one. Under REPLICA IDENTITY USING INDEX,
//! or once the identity has moved, an old key tuple has other columns, and an update that leaves these alone has none at
//! all. Then state also knows each live entity by the identity's columns. These entries are a cache: each is checked
//! against the row of the entity that it leads to, and all are made anew when a process first needs them.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::entity::{StateKey, row_alias_key};
use crate::error::Result;
use crate::value::{Kind, Row, RowBuilder, Status};

use super::keyed::known_entity;
use super::known::{Entities, Entity, Known, Place};
use super::table::{CapturedTable, damaged_row};

/// Entries written to state at once while all are made.
const CHUNK: usize = 50_000;

/// The key in state under which an entity is known by the columns at `positions`; none where one of them is not known.
pub(super) fn alias_key(kinds: &[Kind], row: &[u8], positions: &[usize]) -> Result<Option<StateKey>> {
    let mut builder = RowBuilder::default();
    builder.start(positions.len());
    let mut fields = Vec::new();
    for field in Row::new(row, kinds).fields() {
        fields.push(field.map_err(damaged_row)?);
    }
    for position in positions {
        match fields.get(*position) {
            Some(field) if !matches!(field.status, Status::Null | Status::Unknown) => builder.field(*field),
            _ => return Ok(None),
        }
    }
    let digest = Sha256::digest(builder.bytes());
    Ok(Some(row_alias_key(digest.get(..16).unwrap_or_default())))
}

/// The id of the live entity that the columns at `positions` name, as `row` has them.
pub(super) fn find(
    table: &CapturedTable,
    entities: &Entities,
    row: &[u8],
    positions: &[usize],
) -> Result<Option<String>> {
    let kinds = table.schema.kinds();
    let Some(key) = alias_key(kinds, row, positions)? else { return Ok(None) };
    let number = table.schema.number;
    let Some(Known::Place(place)) = entities.get(number, &key)? else { return Ok(None) };
    let Some(Known::Entity(entity)) = entities.get(number, &place.key)? else { return Ok(None) };
    let now = table.convert(&entity.row, entity.schema)?.unwrap_or_else(|| Arc::clone(&entity.row));
    let same = entity.live && alias_key(kinds, &now, positions)?.as_ref() == Some(&key);
    if same { known_entity(&place.key, &table.schema, &now).map(Some) } else { Ok(None) }
}

/// Notes that an entity has this row.
pub(super) fn note(
    table: &CapturedTable,
    entities: &mut Entities,
    state_key: StateKey,
    row: &[u8],
    positions: &[usize],
) -> Result<()> {
    if let Some(key) = alias_key(table.schema.kinds(), row, positions)? {
        let place = Place { version: 0, key: state_key };
        entities.put(table.schema.number, &key, Some(Known::Place(place)));
    }
    Ok(())
}

/// Makes the entries of all live entities.
pub(super) fn make_all(table: &CapturedTable, entities: &mut Entities, positions: &[usize]) -> Result<()> {
    let number = table.schema.number;
    let state = Arc::clone(entities.store());
    let mut made: Vec<(u32, StateKey, Option<Vec<u8>>)> = Vec::new();
    // Facts are applied by commit; what is no fact is written beside them, under the commit that is there.
    let applied = state.applied().unwrap_or(0);
    entities.each(number, |key, known| {
        let Known::Entity(Entity { live: true, schema, row, .. }) = known else { return Ok(()) };
        let now = table.convert(&row, schema)?.unwrap_or(row);
        if let Some(alias) = alias_key(table.schema.kinds(), &now, positions)? {
            let place = Known::Place(Place { version: 0, key: StateKey::from_slice(key) });
            made.push((number, alias, Some(place.encode())));
        }
        if made.len() >= CHUNK {
            made.sort_unstable();
            state.apply(applied, made.drain(..), true)?;
        }
        Ok(())
    })?;
    made.sort_unstable();
    state.apply(applied, made, true)?;
    Ok(())
}
