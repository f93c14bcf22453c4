//! What state knows of an entity, and where it looks: what this commit changed, what the commit before changed and has
//! not applied yet, then the store.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::entity::StateKey;
use crate::error::{Error, ErrorKind, Result};
use crate::state::State;

/// What is known under one key of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// The entity that the key names.
    Entity(Entity),
    /// The entities that have this content, in a table without a key.
    Content(Content),
    /// Where an entity of such a table stands: what rebuilding state from facts goes by.
    Place(Place),
}

/// The content that an entity has, in a table without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its last `_version`.
    pub(crate) version: i64,
    /// The key of its [`Content`].
    pub(crate) key: StateKey,
}

/// The last version of an entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entity {
    /// Its `_version`.
    pub(crate) version: i64,
    /// It was no tombstone.
    pub(crate) live: bool,
    /// The partition that holds the row; 0 outside partitioned tables.
    pub(crate) leaf: u32,
    /// The schema version of the row.
    pub(crate) schema: i32,
    /// The row.
    pub(crate) row: Arc<[u8]>,
}

/// Equal rows of a table without a key: nothing but their ids tells them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// The schema version of the row.
    pub(crate) schema: i32,
    /// The row they all have.
    pub(crate) row: Arc<[u8]>,
    /// The live entities, smallest id first.
    pub(crate) twins: VecDeque<Twin>,
}

/// One of several entities with the same content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Twin {
    /// The `_id` of its first fact, which is its `_entity_id`.
    pub(crate) id: [u8; 16],
    /// Its last `_version`.
    pub(crate) version: i64,
    /// The partition that holds the row; 0 outside partitioned tables.
    pub(crate) leaf: u32,
}

const DEAD: u8 = 0;
const LIVE: u8 = 1;
const TWINS: u8 = 2;
const PLACE: u8 = 3;

impl Known {
    /// The form that the store keeps: tag, numbers as little-endian fixed fields, then the row.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (mut out, row) = match self {
            Self::Entity(entity) => {
                let mut out = Vec::with_capacity(entity.row.len() + 24);
                Self::encode_entity(
                    entity.live,
                    entity.version,
                    entity.leaf,
                    entity.schema,
                    &entity.row,
                    &mut out,
                );
                return out;
            }
            Self::Content(content) => {
                let mut out = Vec::with_capacity(content.row.len() + content.twins.len() * 24 + 8);
                out.push(TWINS);
                put(&mut out, u64::from(content.schema.cast_unsigned()));
                put(&mut out, content.twins.len() as u64);
                for twin in &content.twins {
                    out.extend_from_slice(&twin.id);
                    put(&mut out, twin.version.cast_unsigned());
                    put(&mut out, u64::from(twin.leaf));
                }
                (out, &*content.row)
            }
            Self::Place(place) => {
                let mut out = Vec::with_capacity(place.key.len() + 12);
                out.push(PLACE);
                put(&mut out, place.version.cast_unsigned());
                (out, place.key.as_slice())
            }
        };
        out.extend_from_slice(row);
        out
    }

    /// The form that the store keeps of an entity, without the need for one.
    pub(super) fn encode_entity(
        live: bool,
        version: i64,
        leaf: u32,
        schema: i32,
        row: &[u8],
        out: &mut Vec<u8>,
    ) {
        out.push(if live { LIVE } else { DEAD });
        put(out, version.cast_unsigned());
        put(out, u64::from(leaf));
        put(out, u64::from(schema.cast_unsigned()));
        out.extend_from_slice(row);
    }

    /// Reads what [`Known::encode`] made.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        Self::try_decode(bytes).ok_or_else(|| {
            Error::new(
                ErrorKind::Damaged,
                "an entry of the state is damaged",
                "delete the state directory: it is rebuilt from facts",
            )
        })
    }

    fn try_decode(mut bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        bytes = rest;
        Some(match *tag {
            tag @ (DEAD | LIVE) => Self::Entity(Entity {
                live: tag == LIVE,
                version: take(&mut bytes)?.cast_signed(),
                leaf: u32::try_from(take(&mut bytes)?).ok()?,
                schema: u32::try_from(take(&mut bytes)?).ok()?.cast_signed(),
                row: bytes.into(),
            }),
            TWINS => {
                let schema = u32::try_from(take(&mut bytes)?).ok()?.cast_signed();
                let count = take(&mut bytes)?;
                let mut twins = VecDeque::new();
                for _ in 0..count {
                    let (id, rest) = bytes.split_first_chunk::<16>()?;
                    bytes = rest;
                    twins.push_back(Twin {
                        id: *id,
                        version: take(&mut bytes)?.cast_signed(),
                        leaf: u32::try_from(take(&mut bytes)?).ok()?,
                    });
                }
                Self::Content(Content { schema, twins, row: bytes.into() })
            }
            PLACE => Self::Place(Place {
                version: take(&mut bytes)?.cast_signed(),
                key: StateKey::from_slice(bytes),
            }),
            _ => return None,
        })
    }
}

/// Appends a number in groups of seven bits, lowest first.
fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7F) as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7F) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// What a commit changed in state: table and key, to what is known now (`None`: forget).
pub(crate) type Changes = HashMap<StateKey, Option<Known>>;

/// What an entry takes beside its key.
fn bytes_of(known: Option<&Known>) -> usize {
    match known {
        Some(Known::Entity(entity)) => entity.row.len(),
        Some(Known::Content(content)) => content.row.len() + content.twins.len() * size_of::<Twin>(),
        Some(Known::Place(_)) | None => 0,
    }
}

/// What a map entry costs beside the bytes of its key and row.
const ENTRY_OVERHEAD: usize = 120;

/// State as seen by the transaction that is being read.
#[derive(Debug)]
pub(crate) struct Entities {
    state: Arc<State>,
    current: Changes,
    current_bytes: usize,
    sealed: Option<Arc<Changes>>,
    spilled: bool,
}

/// Gives all that is known of a table, one after the other, to work that may change what is known by its owner.
pub(super) fn visit_all<T: AsRef<Entities>>(
    owner: &mut T,
    table: u32,
    mut work: impl FnMut(&mut T, &[u8], Known) -> Result<()>,
) -> Result<()> {
    let entities = owner.as_ref();
    let (changed, state) = (entities.changed_keys(table), Arc::clone(&entities.state));
    for entry in state.scan(table)? {
        let (key, value) = entry?;
        if changed.binary_search_by(|other| other.as_slice().cmp(&key)).is_err() {
            work(owner, &key, Known::decode(&value)?)?;
        }
    }
    for key in changed {
        if let Some(known) = owner.as_ref().get(table, &key)? {
            work(owner, &key, known)?;
        }
    }
    Ok(())
}

impl AsRef<Self> for Entities {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl Entities {
    pub(crate) fn new(state: Arc<State>) -> Self {
        Self { state, current: Changes::new(), current_bytes: 0, sealed: None, spilled: false }
    }

    /// Memory that the changes since the last commit take, about.
    pub(crate) const fn bytes(&self) -> usize {
        self.current_bytes
    }

    pub(crate) fn get(&self, table: u32, key: &[u8]) -> Result<Option<Known>> {
        let full = full_key(table, key);
        if let Some(known) = self.current.get(&full) {
            return Ok(known.clone());
        }
        // A spill is newer than a sealed commit, but one is only begun when none is pending.
        if let Some(known) = self.sealed.as_ref().and_then(|sealed| sealed.get(&full)) {
            return Ok(known.clone());
        }
        match self.state.get(table, key)? {
            Some(bytes) => Known::decode(&bytes).map(Some),
            None => Ok(None),
        }
    }

    pub(crate) fn put(&mut self, table: u32, key: &[u8], known: Option<Known>) {
        self.current_bytes += bytes_of(known.as_ref());
        match self.current.insert(full_key(table, key), known) {
            Some(before) => self.current_bytes -= bytes_of(before.as_ref()).min(self.current_bytes),
            None => self.current_bytes += key.len() + ENTRY_OVERHEAD,
        }
    }

    /// Changes what is known under a key where it stands: equal rows may be many.
    pub(crate) fn change<T>(
        &mut self,
        table: u32,
        key: &[u8],
        work: impl FnOnce(&mut Option<Known>) -> T,
    ) -> Result<T> {
        let full = full_key(table, key);
        if !self.current.contains_key(&full) {
            let known = self.get(table, key)?;
            self.put(table, key, known);
        }
        let known = self.current.entry(full).or_default();
        self.current_bytes -= bytes_of(known.as_ref()).min(self.current_bytes);
        let done = work(known);
        self.current_bytes += bytes_of(known.as_ref());
        Ok(done)
    }

    /// The keys of a table that were changed and are not in the store yet.
    pub(crate) fn changed_keys(&self, table: u32) -> Vec<StateKey> {
        let prefix = table.to_be_bytes();
        let sealed = self.sealed.iter().flat_map(|sealed| sealed.keys());
        let mut keys: Vec<StateKey> = self
            .current
            .keys()
            .chain(sealed)
            .filter_map(|key| key.strip_prefix(&prefix).map(StateKey::from_slice))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Gives all that is known of a table.
    pub(crate) fn each(&self, table: u32, mut visit: impl FnMut(&[u8], Known) -> Result<()>) -> Result<()> {
        visit_all(&mut &*self, table, |_, key, known| visit(key, known))
    }

    /// The entity is there and no tombstone.
    pub(crate) fn is_live(&self, table: u32, key: &[u8]) -> Result<bool> {
        Ok(matches!(self.get(table, key)?, Some(Known::Entity(entity)) if entity.live))
    }

    pub(crate) fn store(&self) -> &Arc<State> {
        &self.state
    }

    /// A commit before this one still has to be applied.
    pub(crate) const fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    /// Moves the changes to disk, for a transaction that outgrows memory.
    pub(crate) fn spill(&mut self) -> Result<()> {
        debug_assert!(self.sealed.is_none(), "a spill would hide behind a sealed commit");
        self.state.spill(sorted(&self.current))?;
        self.current.clear();
        self.current_bytes = 0;
        self.spilled = true;
        Ok(())
    }

    /// Ends the commit: what it changed, to be applied once the log has it.
    pub(crate) fn seal(&mut self) -> Sealed {
        let changes = Arc::new(std::mem::take(&mut self.current));
        self.current_bytes = 0;
        self.sealed = Some(Arc::clone(&changes));
        let generation = self.state.shelf().seal();
        Sealed { changes, spilled: std::mem::take(&mut self.spilled), generation }
    }

    /// The sealed commit is in the store.
    pub(crate) fn unseal(&mut self) {
        self.sealed = None;
    }
}

/// What a commit changed in state.
#[derive(Clone, Debug)]
pub struct Sealed {
    changes: Arc<Changes>,
    spilled: bool,
    /// The large values that its rows name were put by then.
    generation: u64,
}

impl Sealed {
    /// Writes the changes of commit `seq`, which the log has, into the store.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn apply(&self, state: &State, seq: u64) -> Result<()> {
        if self.spilled {
            // What is in memory is newer than what was spilled; both belong to the same commit.
            state.spill(sorted(&self.changes))?;
            state.apply_spilled(seq)?;
        } else {
            state.apply(seq, sorted(&self.changes), true)?;
        }
        state.sweep_if_due(self.generation)?;
        Ok(())
    }
}

/// The changes in key order, as the store takes them.
fn sorted(changes: &Changes) -> impl Iterator<Item = (u32, &[u8], Option<Vec<u8>>)> {
    let mut entries: Vec<_> = changes.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries.into_iter().filter_map(|(key, known)| {
        let (table, key) = key.split_first_chunk::<4>()?;
        Some((u32::from_be_bytes(*table), key, known.as_ref().map(Known::encode)))
    })
}

fn full_key(table: u32, key: &[u8]) -> StateKey {
    let mut full = StateKey::from_slice(&table.to_be_bytes());
    full.extend_from_slice(key);
    full
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_comes_back_from_its_stored_form() {
        let row: Arc<[u8]> = vec![1, 2, 3].into();
        let entity = Entity { version: 300, live: true, leaf: 70_000, schema: 2, row: Arc::clone(&row) };
        let twins = [
            Twin { id: [7; 16], version: 1, leaf: 0 },
            Twin { id: [9; 16], version: i64::MAX, leaf: u32::MAX },
        ]
        .into();
        for known in [
            Known::Entity(entity.clone()),
            Known::Entity(Entity { live: false, ..entity }),
            Known::Content(Content { schema: 1, row, twins }),
        ] {
            let bytes = known.encode();
            assert_eq!(Known::decode(&bytes).unwrap(), known);
            for cut in 0..bytes.len() {
                let _ = Known::decode(&bytes[..cut]);
            }
        }
        assert!(Known::decode(&[]).is_err());
        assert!(Known::decode(&[9]).is_err());
    }
}
