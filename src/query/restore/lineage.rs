//! A row under all the keys that it had.

use std::collections::{HashMap, HashSet};

use bygone_replication::Lsn;
use bygone_sink::read::{Archive, Cut, FactFilter, OwnedFact, TableHistory};

use super::super::changes::{Shown, live_at};
use super::super::lookup;
use super::super::row::rekeyed;
use crate::error::Result;

/// The versions of entities, oldest first, as far as they were read.
pub(super) struct Lineages<'a> {
    archive: &'a Archive,
    table: &'a TableHistory,
    versions: HashMap<String, Vec<OwnedFact>>,
}

/// Where a row is that had another key.
pub(super) struct Present<'a> {
    /// Its last version.
    pub(super) last: &'a OwnedFact,
    /// What became of it after it got the first of its other keys.
    pub(super) later: Vec<&'a OwnedFact>,
}

impl<'a> Lineages<'a> {
    pub(super) async fn read(
        archive: &'a Archive,
        table: &'a TableHistory,
        entities: &[String],
    ) -> Result<Self> {
        let mut lineages = Self { archive, table, versions: HashMap::new() };
        lineages.load(entities.iter().cloned().collect()).await?;
        Ok(lineages)
    }

    /// All versions of an entity under this name.
    pub(super) fn of(&self, entity: &str) -> &[OwnedFact] {
        self.versions.get(entity).map_or(&[], Vec::as_slice)
    }

    /// Reads on until it is known where each of the entities read so far went.
    pub(super) async fn follow(&mut self) -> Result<()> {
        loop {
            let goals = self.versions.values().flatten().flat_map(|fact| goals(self.table, fact));
            let wanted: HashSet<String> = goals.filter(|id| !self.versions.contains_key(id)).collect();
            if wanted.is_empty() {
                return Ok(());
            }
            self.load(wanted).await?;
        }
    }

    /// Where the row is that had an entity's key at last, where it has another one now.
    pub(super) fn present(&self, entity: &str) -> Option<Present<'_>> {
        let mut end = self.of(entity).last()?;
        let mut later = Vec::new();
        let mut moved = false;
        let mut most = None;
        while let Some((versions, at)) = self.next(end) {
            moved = true;
            // Each key follows upon another one: there are no more than there are versions.
            let left = most.get_or_insert_with(|| self.versions.values().map(Vec::len).sum::<usize>());
            let Some(fewer) = left.checked_sub(1) else { break };
            *left = fewer;
            let rest = versions.get(at + 1..).unwrap_or_default();
            // It goes on up to where it gets yet another key.
            let on = rest.iter().position(|fact| self.next(fact).is_some());
            let lived = on.map_or(rest, |on| rest.get(..on).unwrap_or_default());
            later.extend(lived);
            end = on.and_then(|on| rest.get(on)).or(versions.last())?;
        }
        moved.then_some(Present { last: end, later })
    }

    /// The versions of the row that has an entity's key at last, under this key and those before; without those that say
    /// but that it is called otherwise.
    pub(super) async fn past(&mut self, entity: &str) -> Result<Vec<OwnedFact>> {
        let mut own = self.of(entity).to_vec();
        if own.last().is_some_and(|last| self.next(last).is_some()) {
            own.pop();
        }
        let mut pieces: Vec<Vec<OwnedFact>> = Vec::new();
        loop {
            let began = own.iter().rposition(|fact| origin(fact).is_some());
            let Some((at, fact, before)) = began.and_then(|at| {
                let fact = own.get(at)?;
                Some((at, fact.clone(), origin(fact)?))
            }) else {
                pieces.push(own);
                break;
            };
            self.load(HashSet::from([before.clone()])).await?;
            let mut older: Vec<OwnedFact> =
                self.of(&before).iter().filter(|older| is_before(older, &fact)).cloned().collect();
            if older.last().is_some_and(|last| last.head.tombstone && last.head.op == "rekey") {
                older.pop();
            }
            let named_only = match older.last() {
                Some(last) if fact.head.xid == 0 => self.are_same(last, &fact)?,
                _ => false,
            };
            pieces.push(own.split_off(if named_only { at + 1 } else { at }));
            own = older;
        }
        Ok(pieces.into_iter().rev().flatten().collect())
    }

    /// The row of an entity at a moment, under the key that it had then.
    pub(super) async fn at(&mut self, entity: &str, cut: &Cut) -> Result<Option<OwnedFact>> {
        if let Some(own) = live_at(self.of(entity), cut) {
            return Ok(Some(own.clone()));
        }
        Ok(live_at(&self.past(entity).await?, cut).cloned())
    }

    /// The fact that goes on with a row after the tombstone of the key that it had, among the versions of its entity.
    fn next(&self, tombstone: &OwnedFact) -> Option<(&[OwnedFact], usize)> {
        let (head, ordered) = (&tombstone.head, tombstone.head.xid != 0);
        goals(self.table, tombstone).into_iter().find_map(|goal| {
            let versions = self.of(&goal);
            let is_it = |fact: &OwnedFact| {
                (fact.head.lsn, fact.head.xid) == (head.lsn, head.xid)
                    && (fact.head.seq > head.seq || !ordered)
                    && origin(fact).as_ref() == Some(&head.entity_id)
            };
            Some((versions, versions.iter().position(is_it)?))
        })
    }

    fn are_same(&self, one: &OwnedFact, other: &OwnedFact) -> Result<bool> {
        let newest = self.table.newest();
        let (one, other) = (Shown::new(self.table, one, newest)?, Shown::new(self.table, other, newest)?);
        Ok(one.fields()? == other.fields()?)
    }

    async fn load(&mut self, mut wanted: HashSet<String>) -> Result<()> {
        wanted.retain(|id| !self.versions.contains_key(id));
        if wanted.is_empty() {
            return Ok(());
        }
        // Those that there never were are not looked for again.
        self.versions.extend(wanted.iter().map(|id| (id.clone(), Vec::new())));
        let filter = FactFilter { entities: Some(wanted), ..FactFilter::default() };
        self.versions.extend(lookup::versions_of(self.archive, self.table, filter).await?);
        Ok(())
    }
}

/// The key that a row had before the fact that gave it another one.
fn origin(fact: &OwnedFact) -> Option<String> {
    let is_start = fact.head.op == "rekey" && !fact.head.tombstone;
    is_start.then(|| rekeyed(fact.head.context.as_deref(), "rekeyed_from")).flatten()
}

/// The entities that may go on with the row of a tombstone: the one that it names or, where the table got another key, those
/// that the row's values name.
fn goals(table: &TableHistory, fact: &OwnedFact) -> Vec<String> {
    if fact.head.op != "rekey" || !fact.head.tombstone {
        return Vec::new();
    }
    if let Some(goal) = rekeyed(fact.head.context.as_deref(), "rekeyed_to") {
        return vec![goal];
    }
    let mut goals = Vec::new();
    for version in &table.versions {
        let row = Shown::new(table, fact, &version.schema);
        let goal = row.ok().and_then(|row| lookup::entity_of(&row));
        goals.extend(goal.filter(|goal| *goal != fact.head.entity_id && !goals.contains(goal)));
    }
    goals
}

/// A version is of before a fact that gave its row another key. In a comparison with the source all facts have one
/// position, and no order.
fn is_before(version: &OwnedFact, fact: &OwnedFact) -> bool {
    let place = |fact: &OwnedFact| -> (Lsn, i64) { (fact.head.lsn, fact.head.seq) };
    if fact.head.xid == 0 { version.head.lsn < fact.head.lsn } else { place(version) < place(fact) }
}
