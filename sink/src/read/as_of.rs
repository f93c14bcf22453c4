//! A table as of a moment: the last version of each entity.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use arrow::array::{Array, Int64Array, StringArray, TimestampMicrosecondArray};
use parquet::arrow::ProjectionMask;

use super::facts::facts_at;
use super::file::{self, column};
use super::{Archive, Columns, Cut, Fact, FactFilter, Flow, OwnedFact, TableHistory};
use crate::entity::{StateKey, state_key};
use crate::error::Result;

/// Where the last version of an entity stands. 24 bytes, and some 40 for the entity's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Winner {
    version: i64,
    file: u32,
    row: u32,
    live: bool,
}

/// The last version of each entity at a moment, tombstones included.
#[derive(Debug)]
pub struct Winners {
    last: HashMap<StateKey, Winner>,
    live: usize,
}

/// A table as of a moment, ready to be read.
#[derive(Debug)]
pub struct AsOf<'a> {
    archive: &'a Archive,
    table: &'a TableHistory,
    winners: Winners,
}

impl Winners {
    /// Finds them.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub async fn find(archive: &Archive, table: &TableHistory, cut: Cut) -> Result<Self> {
        let mut found = Self { last: HashMap::new(), live: 0 };
        let filter = FactFilter { until: Some(cut), ..FactFilter::default() };
        for (number, file) in table.files.iter().enumerate() {
            if filter.may_take_file(file) {
                found.take_file(archive, u32::try_from(number).unwrap_or(u32::MAX), &file.add, cut).await?;
            }
        }
        found.live = found.last.values().filter(|winner| winner.live).count();
        Ok(found)
    }

    async fn take_file(
        &mut self,
        archive: &Archive,
        number: u32,
        add: &crate::log::Add,
        cut: Cut,
    ) -> Result<()> {
        const NEEDED: [&str; 5] = ["_entity_id", "_version", "_deleted_at", "_lsn", "_valid_from"];
        let builder = file::open(archive.store(), add).await?;
        let mask = ProjectionMask::columns(builder.parquet_schema(), NEEDED);
        let mut batches = file::read(&add.path, builder.with_projection(mask))?;
        let mut row = 0u32;
        while let Some(batch) = file::next(&add.path, &mut batches).await? {
            let entity_id: &StringArray = column(&add.path, &batch, "_entity_id")?;
            let version: &Int64Array = column(&add.path, &batch, "_version")?;
            let deleted_at: &TimestampMicrosecondArray = column(&add.path, &batch, "_deleted_at")?;
            let lsn: &Int64Array = column(&add.path, &batch, "_lsn")?;
            let valid_from: &TimestampMicrosecondArray = column(&add.path, &batch, "_valid_from")?;
            for at in 0..batch.num_rows() {
                if cut.covers(lsn.value(at), valid_from.value(at)) {
                    let winner = Winner {
                        version: version.value(at),
                        file: number,
                        row,
                        live: deleted_at.is_null(at),
                    };
                    match self.last.entry(state_key(entity_id.value(at))) {
                        Entry::Vacant(free) => {
                            free.insert(winner);
                        }
                        Entry::Occupied(mut taken) if taken.get().version < winner.version => {
                            taken.insert(winner);
                        }
                        Entry::Occupied(_) => {}
                    }
                }
                row = row.saturating_add(1);
            }
        }
        Ok(())
    }

    /// How many entities live at the moment.
    #[must_use]
    pub const fn live(&self) -> usize {
        self.live
    }
}

impl<'a> AsOf<'a> {
    /// Finds the rows of a table as of a moment.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub async fn find(archive: &'a Archive, table: &'a TableHistory, cut: Cut) -> Result<AsOf<'a>> {
        Ok(Self { winners: Winners::find(archive, table, cut).await?, archive, table })
    }

    /// How many rows there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.winners.live()
    }

    /// There are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Walks over the rows, in the order of their facts.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub async fn rows(&self, columns: &Columns, visit: &mut dyn FnMut(&Fact<'_>) -> Flow) -> Result<()> {
        let live = self.winners.last.values().filter(|winner| winner.live);
        let mut places: Vec<(u32, u32)> = live.map(|winner| (winner.file, winner.row)).collect();
        walk(self.archive, self.table, &mut places, columns, &mut |_, fact| visit(fact)).await
    }

    /// Walks over the rows in the order of their entities: whole numbers by size, other keys by their text. Holds all of
    /// them in memory.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub async fn sorted_rows(
        &self,
        columns: &Columns,
        visit: &mut dyn FnMut(&Fact<'_>) -> Flow,
    ) -> Result<()> {
        let mut rows: Vec<(StateKey, OwnedFact)> = Vec::with_capacity(self.len());
        let mut keep = |fact: &Fact<'_>| {
            rows.push((state_key(&fact.head.entity_id), fact.to_owned()));
            Flow::Continue(())
        };
        self.rows(columns, &mut keep).await?;
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (_, OwnedFact { head, schema, row }) in &rows {
            if visit(&Fact { head, schema, row }).is_break() {
                break;
            }
        }
        Ok(())
    }
}

async fn walk(
    archive: &Archive,
    table: &TableHistory,
    places: &mut [(u32, u32)],
    columns: &Columns,
    visit: &mut dyn FnMut((u32, u32), &Fact<'_>) -> Flow,
) -> Result<()> {
    places.sort_unstable();
    for chunk in places.chunk_by(|a, b| a.0 == b.0) {
        let Some((number, _)) = chunk.first().copied() else { continue };
        let file = usize::try_from(number).ok().and_then(|at| table.files.get(at));
        let Some(file) = file else { continue };
        let rows: Vec<u32> = chunk.iter().map(|(_, row)| *row).collect();
        let mut visit = |row: u32, fact: &Fact<'_>| visit((number, row), fact);
        if facts_at(archive.store(), table, file, &rows, columns, &mut visit).await?.is_break() {
            break;
        }
    }
    Ok(())
}

/// What became of an entity between two moments.
#[derive(Clone, Debug)]
pub struct Change {
    /// The entity.
    pub entity_id: String,
    /// Its row at the first moment.
    pub before: Option<OwnedFact>,
    /// Its row at the second.
    pub after: Option<OwnedFact>,
}

/// The entities that have another version at the second moment than at the first, or live at one of them only, in the
/// order of their keys.
///
/// # Errors
/// Where a file cannot be read.
pub async fn diff(archive: &Archive, table: &TableHistory, from: Cut, to: Cut) -> Result<Vec<Change>> {
    let before = Winners::find(archive, table, from).await?.last;
    let after = Winners::find(archive, table, to).await?.last;
    let mut sides: HashMap<(u32, u32), (StateKey, bool)> = HashMap::new();
    for (one, other, is_after) in [(&before, &after, false), (&after, &before, true)] {
        for (key, winner) in one.iter().filter(|(_, winner)| winner.live) {
            if other.get(key) != Some(winner) {
                sides.insert((winner.file, winner.row), (key.clone(), is_after));
            }
        }
    }
    let mut places: Vec<(u32, u32)> = sides.keys().copied().collect();
    let mut changes: HashMap<StateKey, Change> = HashMap::new();
    let mut take = |place: (u32, u32), fact: &Fact<'_>| {
        if let Some((key, is_after)) = sides.get(&place) {
            let change = changes.entry(key.clone()).or_insert_with(|| Change {
                entity_id: fact.head.entity_id.clone(),
                before: None,
                after: None,
            });
            let side = if *is_after { &mut change.after } else { &mut change.before };
            *side = Some(fact.to_owned());
        }
        Flow::Continue(())
    };
    walk(archive, table, &mut places, &Columns::All, &mut take).await?;
    let mut changes: Vec<(StateKey, Change)> = changes.into_iter().collect();
    changes.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(changes.into_iter().map(|(_, change)| change).collect())
}
