//! A table as of a moment: the last version of each entity.
//!
//! Where a [slab](crate::slabs) answers for the moment, its rows are filtered. Behind the last slab its rows are taken that no later
//! fact is of, and the last versions of the entities that have facts since. Without slabs the last version of each entity is
//! looked for among all facts.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, Int64Array, StringArray, TimestampMicrosecondArray};
use bygone_replication::Lsn;
use futures_util::{StreamExt as _, TryStreamExt as _};
use parquet::arrow::ProjectionMask;

use super::archive::Kept;
use super::facts::facts_at;
use super::file::{self, Builder, column};
use super::slab_scan::{Answering, Lived, read_ahead};
use super::{Archive, Columns, Cut, Fact, FactFilter, Flow, OwnedFact, TableHistory};
use crate::entity::{StateKey, entity_id_of, state_key};
use crate::error::Result;
use crate::fact_file::{RowColumns, damaged};
use crate::fact_tables::Rows;
use crate::log::Add;
use crate::schema::TableSchema;
use crate::timestamp::Timestamp;
use crate::value::RowBuilder;

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
struct Winners {
    last: HashMap<StateKey, Winner>,
}

/// A row of a table as of a moment.
#[derive(Clone, Copy, Debug)]
pub struct LiveRow<'a> {
    /// Which one.
    pub entity_id: &'a str,
    /// The schema version that it was written under.
    pub schema: &'a Arc<TableSchema>,
    /// Its values, of that schema version.
    pub row: &'a [u8],
}

/// Where rows stand among the facts of a table: which of its files, and where in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FactPlaces(Vec<(u32, u32)>);

impl FactPlaces {
    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A table as of a moment, ready to be read.
#[derive(Debug)]
pub struct AsOf<'a> {
    archive: &'a Archive,
    table: &'a TableHistory,
    /// Rows in files of a slab.
    in_slab: Vec<Lived>,
    /// Rows among the facts: which of the table's files, and where in it.
    in_facts: Vec<(u32, u32)>,
    /// Rows of a fact table: those of this moment, so many.
    in_rows: Option<(Arc<Rows>, Cut, usize)>,
}

impl Winners {
    /// Finds them.
    ///
    /// # Errors
    /// Where a file cannot be read.
    async fn find(archive: &Archive, table: &TableHistory, cut: Cut) -> Result<Self> {
        Self::find_after(archive, table, Lsn::ZERO, cut).await
    }

    /// Finds them among the facts behind a position.
    async fn find_after(archive: &Archive, table: &TableHistory, after: Lsn, cut: Cut) -> Result<Self> {
        let may_have = |add: &Add| add.lsn[1] > after;
        let is_within = |lsn: i64, time: i64| lsn > after.as_i64() && cut.covers(lsn, time);
        Self::among(archive, table, cut, may_have, is_within, None).await
    }

    /// Finds them among the facts behind one moment and up to another.
    async fn find_between(archive: &Archive, table: &TableHistory, from: Cut, to: Cut) -> Result<Self> {
        let may_have = |add: &Add| !from.covers(add.lsn[1].as_i64(), add.valid_from[1].0);
        let is_within = |lsn: i64, time: i64| !from.covers(lsn, time) && to.covers(lsn, time);
        Self::among(archive, table, to, may_have, is_within, None).await
    }

    /// Finds those of some entities.
    async fn find_of(
        archive: &Archive,
        table: &TableHistory,
        cut: Cut,
        entities: &HashMap<StateKey, Winner>,
    ) -> Result<Self> {
        let is_within = |lsn: i64, time: i64| cut.covers(lsn, time);
        Self::among(archive, table, cut, |_| true, is_within, Some(entities)).await
    }

    /// Finds them among the facts whose position and time `is_within` takes, all of which lie in files that `may_have` some, and up to a
    /// moment; of all entities, or of some.
    async fn among(
        archive: &Archive,
        table: &TableHistory,
        until: Cut,
        may_have: impl Fn(&Add) -> bool,
        is_within: impl Fn(i64, i64) -> bool,
        entities: Option<&HashMap<StateKey, Winner>>,
    ) -> Result<Self> {
        let mut found = Self { last: HashMap::new() };
        let filter = FactFilter { until: Some(until), ..FactFilter::default() };
        let files = (0u32..).zip(&table.files);
        let files: Vec<(u32, &Add)> = files
            .filter(|(_, file)| filter.may_take_file(file) && may_have(&file.add))
            .map(|(number, file)| (number, &file.add))
            .collect();
        let adds: Vec<&Add> = files.iter().map(|(_, add)| *add).collect();
        let mut opened = std::pin::pin!(file::opened(archive.store()?, &adds));
        for (number, add) in files {
            let Some(builder) = opened.try_next().await? else { break };
            found.take_file(builder, number, add, &is_within, entities).await?;
        }
        Ok(found)
    }

    async fn take_file(
        &mut self,
        builder: Builder,
        number: u32,
        add: &Add,
        is_within: impl Fn(i64, i64) -> bool,
        entities: Option<&HashMap<StateKey, Winner>>,
    ) -> Result<()> {
        const NEEDED: [&str; 5] = ["_entity_id", "_version", "_deleted_at", "_lsn", "_valid_from"];
        let mask = ProjectionMask::columns(builder.parquet_schema(), NEEDED);
        let mut batches = file::read(&add.path, builder.with_projection(mask))?;
        let is_wanted = |key: &StateKey| entities.is_none_or(|some| some.contains_key(key));
        let mut row = 0u32;
        while let Some(batch) = file::next(&add.path, &mut batches).await? {
            let entity_id: &StringArray = column(&add.path, &batch, "_entity_id")?;
            let version: &Int64Array = column(&add.path, &batch, "_version")?;
            let deleted_at: &TimestampMicrosecondArray = column(&add.path, &batch, "_deleted_at")?;
            let lsn: &Int64Array = column(&add.path, &batch, "_lsn")?;
            let valid_from: &TimestampMicrosecondArray = column(&add.path, &batch, "_valid_from")?;
            for at in 0..batch.num_rows() {
                let key =
                    is_within(lsn.value(at), valid_from.value(at)).then(|| state_key(entity_id.value(at)));
                if let Some(key) = key.filter(is_wanted) {
                    let winner = Winner {
                        version: version.value(at),
                        file: number,
                        row,
                        live: deleted_at.is_null(at),
                    };
                    match self.last.entry(key) {
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

    fn places(&self) -> Vec<(u32, u32)> {
        let live = self.last.values().filter(|winner| winner.live);
        let mut places: Vec<(u32, u32)> = live.map(|winner| (winner.file, winner.row)).collect();
        places.sort_unstable();
        places
    }
}

impl<'a> AsOf<'a> {
    /// Finds the rows of a table as of a moment.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub async fn find(archive: &'a Archive, table: &'a TableHistory, cut: Cut) -> Result<AsOf<'a>> {
        let mut found = Self { archive, table, in_slab: Vec::new(), in_facts: Vec::new(), in_rows: None };
        if let Kept::Rows(rows) = archive.kept() {
            found.in_rows = Some((Arc::clone(rows), cut, rows.live_count(table, cut).await?));
            return Ok(found);
        }
        let Some(answering) = Answering::find(archive, table, cut).await? else {
            found.in_facts = Winners::find(archive, table, cut).await?.places();
            return Ok(found);
        };
        let (wanted, FactPlaces(places)) = answering.wanted(archive, table, cut).await?;
        found.in_facts = places;
        for file in &answering.slab.files {
            found.in_slab.extend(Lived::in_file(archive.store()?, file, &wanted).await?);
        }
        Ok(found)
    }

    /// The rows at these places alone.
    #[must_use]
    pub fn among_facts(archive: &'a Archive, table: &'a TableHistory, places: FactPlaces) -> Self {
        Self { archive, table, in_slab: Vec::new(), in_facts: places.0, in_rows: None }
    }

    /// How many rows there are.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub async fn count(&self) -> Result<usize> {
        let mut count = self.in_rows.as_ref().map_or(0, |(_, _, count)| *count) + self.in_facts.len();
        for part in &self.in_slab {
            let mut batches = std::pin::pin!(part.batches(&|_| false, false)?);
            while let Some(batch) = batches.try_next().await? {
                count += batch.num_rows();
            }
        }
        Ok(count)
    }

    /// Walks over the rows, in no order.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub async fn rows(&self, columns: &Columns, visit: &mut dyn FnMut(&LiveRow<'_>) -> Flow) -> Result<()> {
        if let Some((rows, cut, _)) = &self.in_rows {
            return rows.live(self.table, *cut, columns, visit).await;
        }
        if self.rows_in_slab(columns, visit).await?.is_break() {
            return Ok(());
        }
        let mut visit = |_: (u32, u32), fact: &Fact<'_>| {
            visit(&LiveRow { entity_id: &fact.head.entity_id, schema: fact.schema, row: fact.row })
        };
        walk(self.archive, self.table, &self.in_facts, columns, &mut visit).await
    }

    async fn rows_in_slab(
        &self,
        columns: &Columns,
        visit: &mut dyn FnMut(&LiveRow<'_>) -> Flow,
    ) -> Result<Flow> {
        let users = columns.in_files(self.table);
        let mut parts = std::pin::pin!(read_ahead(&self.in_slab, &|name| users.contains(name))?);
        let mut row = RowBuilder::default();
        while let Some((part, mut batches)) = parts.next().await {
            let path = part.path();
            let schema = self.table.version(part.schema()).ok_or_else(|| {
                damaged(path, &format!("the log has no schema {} of its table", part.schema()))
            })?;
            while let Some(batch) = batches.recv().await {
                let batch = batch?;
                let entity_id: &StringArray = column(path, &batch, "_entity_id")?;
                let values = RowColumns::new(path, Arc::clone(schema), &batch, part.notes())?;
                for at in 0..batch.num_rows() {
                    values.row(at, &mut row)?;
                    let live = LiveRow { entity_id: entity_id.value(at), schema, row: row.bytes() };
                    if visit(&live).is_break() {
                        return Ok(Flow::Break(()));
                    }
                }
            }
        }
        Ok(Flow::Continue(()))
    }

    /// Walks over the rows in the order of their entities: whole numbers by size, other keys by their text. Holds all of
    /// them in memory.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub async fn sorted_rows(
        &self,
        columns: &Columns,
        visit: &mut dyn FnMut(&LiveRow<'_>) -> Flow,
    ) -> Result<()> {
        self.sorted_if_few(columns, usize::MAX, visit).await
    }

    /// The same, but for more rows than `most`, or much memory: these are walked over in no order.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub async fn sorted_if_few(
        &self,
        columns: &Columns,
        most: usize,
        visit: &mut dyn FnMut(&LiveRow<'_>) -> Flow,
    ) -> Result<()> {
        let bound = if most == usize::MAX { usize::MAX } else { SORTED_BYTES };
        let mut gathered = Some(Gathered::default());
        let mut take = |row: &LiveRow<'_>| {
            let Some(rows) = &mut gathered else { return visit(row) };
            rows.push(row);
            if rows.places.len() <= most && rows.bytes.len() <= bound {
                return Flow::Continue(());
            }
            // There are too many: those that came are not held any longer.
            let flow = rows.each(visit);
            gathered = None;
            flow
        };
        self.rows(columns, &mut take).await?;
        if let Some(mut rows) = gathered {
            rows.places.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            let _: Flow = rows.each(visit);
        }
        Ok(())
    }
}

/// More bytes of rows are not sorted where they need not be.
const SORTED_BYTES: usize = 256 << 20;

/// Rows that are held until all are there.
#[derive(Debug, Default)]
struct Gathered {
    /// By the keys of their entities: where each has its schema, the end of its id, and that of its row.
    places: Vec<(StateKey, [usize; 4])>,
    schemas: Vec<Arc<TableSchema>>,
    bytes: Vec<u8>,
}

impl Gathered {
    fn push(&mut self, row: &LiveRow<'_>) {
        let known = self.schemas.iter().rposition(|schema| Arc::ptr_eq(schema, row.schema));
        let schema = known.unwrap_or_else(|| {
            self.schemas.push(Arc::clone(row.schema));
            self.schemas.len() - 1
        });
        let begins = self.bytes.len();
        self.bytes.extend_from_slice(row.entity_id.as_bytes());
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(row.row);
        self.places.push((state_key(row.entity_id), [schema, begins, middle, self.bytes.len()]));
    }

    /// Walks over them in the order of their places.
    fn each(&self, visit: &mut dyn FnMut(&LiveRow<'_>) -> Flow) -> Flow {
        for (_, [schema, begins, middle, ends]) in &self.places {
            let id = self.bytes.get(*begins..*middle).and_then(|id| std::str::from_utf8(id).ok());
            let (Some(schema), Some(entity_id), Some(row)) =
                (self.schemas.get(*schema), id, self.bytes.get(*middle..*ends))
            else {
                continue;
            };
            if visit(&LiveRow { entity_id, schema, row }).is_break() {
                return Flow::Break(());
            }
        }
        Flow::Continue(())
    }
}

/// The entities that have facts behind a position and up to a moment, and where the last facts are of those that live.
pub(super) async fn facts_since(
    archive: &Archive,
    table: &TableHistory,
    after: Lsn,
    cut: Cut,
) -> Result<(HashSet<StateKey>, FactPlaces)> {
    let since = Winners::find_after(archive, table, after, cut).await?;
    let places = FactPlaces(since.places());
    Ok((since.last.into_keys().collect(), places))
}

/// The time that parts the table's facts as a cut does; none where a fact before it and one after it have one time, or no fact
/// comes before it.
pub(super) async fn as_time(archive: &Archive, table: &TableHistory, cut: Cut) -> Result<Option<Timestamp>> {
    let lsn = match cut {
        Cut::Time(time) => return Ok(Some(time)),
        Cut::Lsn(lsn) => lsn,
    };
    let (mut last, mut next): (Option<Timestamp>, Option<Timestamp>) = (None, None);
    let earlier = |a: Option<Timestamp>, b: Timestamp| Some(a.map_or(b, |a| a.min(b)));
    for live in &table.files {
        let add = &live.add;
        if add.lsn[1] <= lsn {
            last = last.max(Some(add.valid_from[1]));
        } else if add.lsn[0] > lsn {
            next = earlier(next, add.valid_from[0]);
        } else {
            let builder = file::open(archive.store()?, &add.path, add.bytes).await?;
            let mask = ProjectionMask::columns(builder.parquet_schema(), ["_lsn", "_valid_from"]);
            let mut batches = file::read(&add.path, builder.with_projection(mask))?;
            while let Some(batch) = file::next(&add.path, &mut batches).await? {
                let lsns: &Int64Array = column(&add.path, &batch, "_lsn")?;
                let valid_from: &TimestampMicrosecondArray = column(&add.path, &batch, "_valid_from")?;
                for (at, time) in lsns.values().iter().zip(valid_from.values()) {
                    if *at <= lsn.as_i64() {
                        last = last.max(Some(Timestamp(*time)));
                    } else {
                        next = earlier(next, Timestamp(*time));
                    }
                }
            }
        }
    }
    Ok(last.filter(|last| next.is_none_or(|next| *last < next)))
}

async fn walk(
    archive: &Archive,
    table: &TableHistory,
    places: &[(u32, u32)],
    columns: &Columns,
    visit: &mut dyn FnMut((u32, u32), &Fact<'_>) -> Flow,
) -> Result<()> {
    for chunk in places.chunk_by(|a, b| a.0 == b.0) {
        let Some((number, _)) = chunk.first().copied() else { continue };
        let file = usize::try_from(number).ok().and_then(|at| table.files.get(at));
        let Some(file) = file else { continue };
        let rows: Vec<u32> = chunk.iter().map(|(_, row)| *row).collect();
        let mut visit = |row: u32, fact: &Fact<'_>| visit((number, row), fact);
        if facts_at(archive.store()?, table, file, &rows, columns, &mut visit).await?.is_break() {
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
    if let Kept::Rows(rows) = archive.kept() {
        let mut changes = rows.changes(table, from, to).await?;
        changes.sort_by_cached_key(|change| state_key(&change.entity_id));
        return Ok(changes);
    }
    // The others are as they were, and nothing of theirs is read.
    let touched = Winners::find_between(archive, table, from, to).await?;
    let mut changes: HashMap<StateKey, Change> = HashMap::new();
    let mut take = |fact: &Fact<'_>, is_after: bool| {
        let change = changes.entry(state_key(&fact.head.entity_id)).or_insert_with(|| Change {
            entity_id: fact.head.entity_id.clone(),
            before: None,
            after: None,
        });
        let side = if is_after { &mut change.after } else { &mut change.before };
        // Of several versions the last one counts.
        if side.as_ref().is_none_or(|known| known.head.version < fact.head.version) {
            *side = Some(fact.to_owned());
        }
        Flow::Continue(())
    };
    let after = touched.places();
    walk(archive, table, &after, &Columns::All, &mut |_, fact| take(fact, true)).await?;
    match few_ids(&touched.last) {
        Some(entities) => {
            let filter = FactFilter { until: Some(from), entities: Some(entities), ..FactFilter::default() };
            archive.facts(table, &filter, &Columns::All, &mut |fact| take(fact, false)).await?;
        }
        None => {
            let before = Winners::find_of(archive, table, from, &touched.last).await?.places();
            walk(archive, table, &before, &Columns::All, &mut |_, fact| take(fact, false)).await?;
        }
    }
    for change in changes.values_mut() {
        change.before.take_if(|fact| fact.head.tombstone);
    }
    let mut changes: Vec<(StateKey, Change)> =
        changes.into_iter().filter(|(_, change)| change.before.is_some() || change.after.is_some()).collect();
    changes.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(changes.into_iter().map(|(_, change)| change).collect())
}

/// The ids of entities that are few enough to be looked up one by one; none where they are not, or a key does not tell its id.
fn few_ids(entities: &HashMap<StateKey, Winner>) -> Option<HashSet<String>> {
    const FEW: usize = 1_000;
    (entities.len() <= FEW).then(|| entities.keys().map(|key| entity_id_of(key)).collect()).flatten()
}
