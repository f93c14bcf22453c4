//! Rows that live beside the one that state knows under their key.
//!
//! Where a key is deferrable, several rows may have one key until their transaction commits, and which of them a change means is
//! told by its old row alone, which comes whole (such a key is no replica identity, so the table's is FULL) [15]. State
//! knows one row of an entity, the one that came last; the others wait here, until they are given other keys or are
//! deleted, at the latest by the end of their transaction.

use std::collections::HashMap;

use crate::error::Result;
use crate::value::{Kind, Row, Status};

use super::known::Entity;
use super::table::damaged_row;

/// The rows that wait, by table and entity.
#[derive(Debug, Default)]
pub(super) struct Beside(HashMap<(u32, String), Vec<Entity>>);

impl Beside {
    /// Another transaction begins: of the one before none is left.
    pub(super) fn clear(&mut self) {
        if !self.0.is_empty() {
            self.0.clear();
        }
    }

    /// Another row takes the place of this one, which is still there.
    pub(super) fn put(&mut self, table: u32, id: &str, row: Entity) {
        self.0.entry((table, id.to_owned())).or_default().push(row);
    }

    /// The row that comes back where the one that state knows goes.
    pub(super) fn pop(&mut self, table: u32, id: &str) -> Option<Entity> {
        if self.0.is_empty() {
            return None;
        }
        let rows = self.0.get_mut(&(table, id.to_owned()))?;
        rows.pop()
    }

    /// Takes out the row that an old row means, unless it is the one that state knows.
    pub(super) fn take(
        &mut self,
        (table, id): (u32, &str),
        kinds: &[Kind],
        known: Option<&Entity>,
        old: &[u8],
    ) -> Result<Option<Entity>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let Some(rows) = self.0.get_mut(&(table, id.to_owned())) else { return Ok(None) };
        if let Some(known) = known
            && known.live
            && agree(kinds, &known.row, old)?
        {
            return Ok(None);
        }
        for at in 0..rows.len() {
            if let Some(row) = rows.get(at)
                && agree(kinds, &row.row, old)?
            {
                return Ok(Some(rows.remove(at)));
            }
        }
        Ok(None)
    }
}

/// Two rows are equal in all that is known of both.
fn agree(kinds: &[Kind], one: &[u8], other: &[u8]) -> Result<bool> {
    for (one, other) in Row::new(one, kinds).fields().zip(Row::new(other, kinds).fields()) {
        let (one, other) = (one.map_err(damaged_row)?, other.map_err(damaged_row)?);
        if one != other && one.status != Status::Unknown && other.status != Status::Unknown {
            return Ok(false);
        }
    }
    Ok(true)
}
