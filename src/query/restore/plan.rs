//! What has to be done so that rows are what they were.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bygone_replication::Lsn;
use bygone_sink::read::{
    Archive, AsOf, Columns, Cut, Fact, FactFilter, Flow, LiveRow, OwnedFact, TableHistory, Transaction,
    TransactionFilter,
};
use bygone_sink::schema::TableSchema;

use super::super::changes::{Shown, damaged, live_at};
use super::super::condition::Condition;
use super::super::row::rekeyed;
use super::super::value::fields;
use super::super::verdict::{Verdict, tell_not_known};
use super::super::{lookup, moment};
use super::lineage::{Lineages, Present};
use super::ranks::Ranks;
use super::statement::{self, Sql, Statement, Then, Verb};
use crate::error::{Error, Result};

/// One row's change.
pub(super) struct Step {
    /// Position of its table in the plan.
    pub(super) table: usize,
    pub(super) entity_id: String,
    /// The last versions that the history has of the rows concerned, tombstones included.
    pub(super) last: Vec<OwnedFact>,
    pub(super) statement: Statement,
}

/// The changes that bring rows back.
pub(super) struct Plan {
    tables: Vec<TableHistory>,
    pub(super) steps: Vec<Step>,
    /// What is brought back: `public.orders 7`.
    pub(super) title: String,
    /// As what: `as it was at 2026-11-24 10:00:00+00`.
    pub(super) shown: String,
    /// Changes that came later and would be undone as well without being asked for.
    pub(super) conflicts: Vec<String>,
}

impl Plan {
    pub(super) fn table(&self, step: &Step) -> Result<&TableHistory> {
        self.tables.get(step.table).ok_or_else(|| Error::other("a table of the plan is not known"))
    }

    /// `public.orders 7`.
    pub(super) fn name_of(&self, step: &Step) -> String {
        let table = self.tables.get(step.table).map_or("", |table| table.log_name.as_str());
        format!("{table} {}", step.entity_id)
    }

    /// How many tables it changes.
    pub(super) fn spread(&self) -> usize {
        self.steps.iter().map(|step| step.table).collect::<HashSet<_>>().len()
    }

    /// Rows come back before those that refer to them, and go after them. Without ranks the order between tables is open.
    pub(super) fn sort(&mut self, ranks: &Ranks) {
        let rank: Vec<usize> = self.tables.iter().map(|table| ranks.of(&table.name)).collect();
        self.steps.sort_by_key(|step| {
            let rank = rank.get(step.table).copied().unwrap_or(0);
            let rank = if step.statement.verb == Verb::Delete { usize::MAX - rank } else { rank };
            (step.statement.verb, rank)
        });
    }

    /// Its tables refer to each other in no circle.
    pub(super) fn is_sorted_by(&self, ranks: &Ranks) -> bool {
        let tables = self.tables.iter().enumerate();
        let changed = tables.filter(|(at, _)| self.steps.iter().any(|step| step.table == *at));
        ranks.are_in_order(&changed.map(|(_, table)| &table.name).collect::<Vec<_>>())
    }

    /// Its steps as SQL, in their order.
    pub(super) fn statements(&self) -> Vec<String> {
        statement::shared(self.steps.iter().map(|step| &step.statement.sql))
    }

    /// Rows that come back to a table, or go from it, do so by more than one statement, so that their order may matter.
    pub(super) fn is_apart(&self) -> bool {
        let sharing = || self.steps.iter().filter(|step| step.statement.sql.takes_more());
        let wanted: HashSet<(usize, Verb)> =
            sharing().map(|step| (step.table, step.statement.verb)).collect();
        statement::shared(sharing().map(|step| &step.statement.sql)).len() > wanted.len()
    }

    /// Rows that would come back where their key is another row's by now take its place.
    pub(super) fn replace(&mut self, taken: &[usize]) {
        let mut at = 0;
        self.steps.retain_mut(|step| {
            at += 1;
            if !taken.contains(&(at - 1)) {
                return true;
            }
            let replacing = step.statement.replacing.take();
            step.statement.verb = Verb::Update;
            replacing.map(|sql| step.statement.sql = Sql::whole(sql)).is_some()
        });
    }

    /// One row as it was at a moment, or before its last change.
    pub(super) async fn row(
        archive: &Archive,
        table: TableHistory,
        mut entity_id: String,
        at: Option<&str>,
    ) -> Result<Self> {
        let mut lineages = Lineages::read(archive, &table, std::slice::from_ref(&entity_id)).await?;
        if lineages.of(&entity_id).is_empty() {
            entity_id = lookup::by_equal_key(archive, &table, &entity_id).await?;
            lineages = Lineages::read(archive, &table, std::slice::from_ref(&entity_id)).await?;
        }
        lineages.follow().await?;
        let past = lineages.past(&entity_id).await?;
        let (found, place, shown) = match at {
            Some(text) => {
                let at = moment::resolve(archive, text).await?;
                moment::check_known(archive, &table, &at, None).await?;
                (lineages.at(&entity_id, &at.cut).await?, (at.cut, at.place), at.shown)
            }
            None => before_last_change(&past, lineages.present(&entity_id).is_some(), &entity_id)?,
        };
        let schema = Arc::clone(table.schema_for(&place.0, place.1));
        let then = found.as_ref().map(|fact| Then { fact, schema });
        let present = lineages.present(&entity_id);
        let conflicts = match &present {
            Some(present) if at.is_none() && !present.last.head.tombstone => {
                present.later.iter().map(|later| changed_again(&table, later)).collect()
            }
            _ => Vec::new(),
        };
        let last = last_known(&table, lineages.of(&entity_id), present.as_ref())?;
        let now = last.last().filter(|fact| !fact.head.tombstone);
        let statement = Statement::new(&table, then.as_ref(), now)?;
        let title = format!("{} {entity_id}", table.log_name);
        let shown = format!("as it was at {shown}");
        let steps = statement.map(|statement| Step { table: 0, entity_id, last, statement });
        let steps = steps.into_iter().collect();
        Ok(Self { tables: vec![table], steps, title, shown, conflicts })
    }

    /// The rows for which a condition held at a moment.
    pub(super) async fn rows(
        archive: &Archive,
        table: TableHistory,
        condition: &str,
        at: &str,
    ) -> Result<Self> {
        let at = moment::resolve(archive, at).await?;
        moment::check_known(archive, &table, &at, None).await?;
        let schema = Arc::clone(table.schema_for(&at.cut, at.place));
        let wanted = Condition::parse(&schema, condition)?;
        let mut found: Vec<String> = Vec::new();
        let (mut not_told, mut failed) = (0, None);
        let attnums =
            wanted.columns().into_iter().filter_map(|at| Some(schema.columns.get(at)?.column.attnum));
        let columns = Columns::Some(attnums.collect());
        let mut shaper = super::super::changes::Shaper::new(&table, &schema);
        let mut take = |live: &LiveRow<'_>| {
            let held = shaper.row(live.schema, live.row).and_then(|row| {
                let fields = fields(row, schema.kinds()).map_err(damaged)?;
                Ok(wanted.of(&fields, schema.kinds()))
            });
            match held {
                Ok(Verdict::Holds) => found.push(live.entity_id.to_owned()),
                Ok(Verdict::Not) => {}
                Ok(Verdict::NotKnown) => not_told += 1,
                Err(error) => {
                    failed = Some(error);
                    return Flow::Break(());
                }
            }
            Flow::Continue(())
        };
        AsOf::find(archive, &table, at.cut).await?.sorted_rows(&columns, &mut take).await?;
        if let Some(error) = failed {
            return Err(error);
        }
        tell_not_known(&table.log_name, not_told);
        let mut lineages = Lineages::read(archive, &table, &found).await?;
        lineages.follow().await?;
        let present = |entity_id: &String| lineages.present(entity_id);
        // Who has the key of a row now may be one of the others, which gets its own key back.
        let moved: HashSet<&str> =
            found.iter().filter_map(present).map(|present| present.last.head.entity_id.as_str()).collect();
        let mut steps = Vec::new();
        for entity_id in &found {
            let (versions, present) = (lineages.of(entity_id), present(entity_id));
            let then = live_at(versions, &at.cut).map(|fact| Then { fact, schema: Arc::clone(&schema) });
            let last = match &present {
                None if moved.contains(entity_id.as_str()) => Vec::new(),
                present => last_known(&table, versions, present.as_ref())?,
            };
            let now = last.last().filter(|fact| !fact.head.tombstone);
            if let Some(statement) = Statement::new(&table, then.as_ref(), now)? {
                steps.push(Step { table: 0, entity_id: entity_id.clone(), last, statement });
            }
        }
        let title = format!("{} where {condition}", table.log_name);
        let shown = format!("as it was at {}", at.shown);
        Ok(Self { tables: vec![table], steps, title, shown, conflicts: Vec::new() })
    }

    /// Everything that a transaction changed, as it was before.
    pub(super) async fn transaction(archive: &Archive, xid: i64) -> Result<Self> {
        let mut found = None;
        let filter = TransactionFilter { xid: Some(xid), ..TransactionFilter::default() };
        let mut take = |transaction: Transaction| {
            found = Some(transaction);
            Flow::Break(())
        };
        archive.transactions(&filter, &mut take).await?;
        let Some(transaction) = found else {
            return Err(moment::unknown_transaction(archive, xid));
        };
        let mut plan = Self {
            tables: Vec::new(),
            steps: Vec::new(),
            title: format!("what transaction {} changed", transaction.xid),
            shown: "as it was before".to_owned(),
            conflicts: Vec::new(),
        };
        for (name, _) in &transaction.tables {
            plan.undo(archive, archive.table(name)?, &transaction).await?;
        }
        Ok(plan)
    }

    /// Adds what undoes a transaction in one table, its last change first.
    async fn undo(
        &mut self,
        archive: &Archive,
        table: TableHistory,
        transaction: &Transaction,
    ) -> Result<()> {
        let filter = FactFilter { lsn: Some(transaction.lsn), ..FactFilter::default() };
        let mut done: Vec<OwnedFact> = Vec::new();
        let mut keep = |fact: &Fact<'_>| {
            if fact.head.xid == transaction.xid {
                done.push(fact.to_owned());
            }
            Flow::Continue(())
        };
        archive.facts(&table, &filter, &Columns::All, &mut keep).await?;
        done.sort_by_key(|fact| std::cmp::Reverse(fact.head.seq));
        let mut order: Vec<String> = Vec::new();
        let mut spans: HashMap<String, Span> = HashMap::new();
        for fact in &done {
            let head = &fact.head;
            let span = spans.entry(head.entity_id.clone()).or_insert_with(|| {
                order.push(head.entity_id.clone());
                Span { first: head.version, last: head.version, rekeyed_from: None }
            });
            span.first = span.first.min(head.version);
            if head.op == "rekey" && !head.tombstone {
                span.rekeyed_from = rekeyed(head.context.as_deref(), "rekeyed_from");
            }
        }
        let before = Cut::Lsn(Lsn(transaction.lsn.0.saturating_sub(1)));
        let Cut::Lsn(place) = before else { return Ok(()) };
        let schema = Arc::clone(table.schema_for(&before, place));
        let lineages = Lineages::read(archive, &table, &order).await?;
        let number = self.tables.len();
        let rows: BTreeMap<&str, Sides<'_>> = order
            .iter()
            .filter_map(|entity| {
                let span = spans.get(entity)?;
                Some((entity.as_str(), Sides::new(lineages.of(entity), span)))
            })
            .collect();
        let mut merged: HashSet<&str> = HashSet::new();
        for entity in &order {
            let Some(sides) = rows.get(entity.as_str()) else { continue };
            if let Some(later) = sides.later {
                self.conflicts.push(changed_again(&table, later));
            }
            if sides.unseen {
                eprintln!(
                    "bygone: {} {entity} was deleted there without ever having been seen: it cannot be brought back",
                    table.log_name
                );
            }
        }
        for entity in &order {
            let Some(sides) = rows.get(entity.as_str()) else { continue };
            // A row whose key changed gets its old key back: it stays the row that others refer to.
            let from = spans.get(entity).and_then(|span| span.rekeyed_from.as_deref());
            let from = from.and_then(|from| rows.get_key_value(from)).filter(|(_, old)| {
                old.then.is_some() && old.now.is_none() && sides.then.is_none() && sides.now.is_some()
            });
            if let Some((old, old_sides)) = from {
                merged.insert(old);
                let last = [old_sides.last, sides.last].into_iter().flatten().cloned().collect();
                self.step(number, &table, entity, last, (old_sides.then, sides.now), &schema)?;
            }
        }
        let paired: HashSet<&str> = order
            .iter()
            .filter(|entity| {
                let from = spans.get(*entity).and_then(|span| span.rekeyed_from.as_deref());
                from.is_some_and(|from| merged.contains(from))
            })
            .map(String::as_str)
            .collect();
        for entity in order
            .iter()
            .filter(|entity| !merged.contains(entity.as_str()) && !paired.contains(entity.as_str()))
        {
            let Some(sides) = rows.get(entity.as_str()) else { continue };
            let last = sides.last.cloned().into_iter().collect();
            self.step(number, &table, entity, last, (sides.then, sides.now), &schema)?;
        }
        self.tables.push(table);
        Ok(())
    }

    fn step(
        &mut self,
        number: usize,
        table: &TableHistory,
        entity_id: &str,
        last: Vec<OwnedFact>,
        (then, now): (Option<&OwnedFact>, Option<&OwnedFact>),
        schema: &Arc<TableSchema>,
    ) -> Result<()> {
        let then = then.map(|fact| Then { fact, schema: Arc::clone(schema) });
        if let Some(statement) = Statement::new(table, then.as_ref(), now)? {
            self.steps.push(Step { table: number, entity_id: entity_id.to_owned(), last, statement });
        }
        Ok(())
    }
}

/// The versions of an entity that one transaction made.
struct Span {
    first: i64,
    last: i64,
    rekeyed_from: Option<String>,
}

/// An entity before a transaction, and now.
struct Sides<'a> {
    then: Option<&'a OwnedFact>,
    now: Option<&'a OwnedFact>,
    last: Option<&'a OwnedFact>,
    /// The first change after the transaction.
    later: Option<&'a OwnedFact>,
    /// The transaction deleted it, and no version is older.
    unseen: bool,
}

impl<'a> Sides<'a> {
    fn new(versions: &'a [OwnedFact], span: &Span) -> Self {
        let live = |fact: &&OwnedFact| !fact.head.tombstone;
        let before = versions.iter().rev().find(|fact| fact.head.version < span.first);
        let first = versions.iter().find(|fact| fact.head.version == span.first);
        Self {
            then: before.filter(live),
            now: versions.last().filter(live),
            last: versions.last(),
            later: versions.iter().find(|fact| fact.head.version > span.last),
            unseen: before.is_none() && first.is_some_and(|first| first.head.tombstone),
        }
    }
}

/// `public.orders 7 was changed again by transaction 4711 (update)`.
fn changed_again(table: &TableHistory, later: &OwnedFact) -> String {
    let head = &later.head;
    let by = if head.xid == 0 { String::new() } else { format!(" by transaction {}", head.xid) };
    format!("{} {} was changed again{by} ({})", table.log_name, head.entity_id, head.op)
}

/// The last versions of a row that the source is compared with: the present one, and before it that of the key that it had.
fn last_known(
    table: &TableHistory,
    versions: &[OwnedFact],
    present: Option<&Present<'_>>,
) -> Result<Vec<OwnedFact>> {
    let newest = table.newest();
    let mut last: Vec<OwnedFact> = versions.last().cloned().into_iter().collect();
    if let Some(Present { last: present, .. }) = present {
        let entity = |fact: &OwnedFact| Shown::new(table, fact, newest).map(|row| lookup::entity_of(&row));
        // Where only the table's key changed, both name the same row.
        if let Some(own) = last.first()
            && entity(own)? == entity(present)?
        {
            last.clear();
        }
        last.push((*present).clone());
    }
    Ok(last)
}

/// A version of a row, where the columns are looked for that it is shown with, and what it is called.
type Found = (Option<OwnedFact>, (Cut, Lsn), String);

/// The row as the version before its last one left it; one that went on under another key as it was before that.
fn before_last_change(past: &[OwnedFact], went_on: bool, entity_id: &str) -> Result<Found> {
    let place = past.last().map_or(Lsn::ZERO, |last| last.head.lsn);
    let back = if went_on { 1 } else { 2 };
    let Some(before) = past.len().checked_sub(back).and_then(|at| past.get(at)) else {
        // What came with its only version goes with it; a row that was there before the history began does not.
        if past.first().is_some_and(|fact| fact.head.op == "insert") {
            return Ok((None, (Cut::Lsn(place), place), "its beginning, before its only version".to_owned()));
        }
        return Err(Error::other(
            "the row has one version only: there is nothing older to bring back; --at says as of when",
        ));
    };
    let mut shown = format!("version {}", before.head.version);
    if before.head.entity_id != entity_id {
        shown.push_str(&format!(" of {}", before.head.entity_id));
    }
    Ok(((!before.head.tombstone).then(|| before.clone()), (Cut::Lsn(place), place), shown))
}
