//! Between two transactions: looks at the catalog are taken, tables copied beside the stream, and what was copied made
//! facts of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bygone_replication::Lsn;
use bygone_replication::stream::Feedback;
use bygone_sink::fact::{Op, Origin};
use bygone_sink::failpoint;
use bygone_sink::log::{Event, EventKind};
use bygone_sink::versioning::{Reconciled, Telling};

use super::pipeline::{Pipeline, Until};
use super::registry::{Captured, Doubt};
use super::shadow::{self, Copied, Shadow};
use crate::error::{Error, Result};

/// How long after a copy that failed, or lacks tables, the next is tried.
const COPY_AGAIN: Duration = Duration::from_secs(30);

/// How often the metrics are told of tables.
const GAUGE_EVERY: Duration = Duration::from_secs(1);

impl Pipeline {
    /// Whether there is something about tables that the history does not have yet, and will without another change.
    pub(super) fn has_doubts(&self) -> bool {
        self.looks.is_some()
            && (self.noticed.is_none()
                || !self.ahead.is_empty()
                || self.shadow.is_some()
                || !self.to_copy().is_empty())
    }

    /// Facts that are of no transaction can stand at `position`: none of a transaction that ended here is in another commit
    /// already. Where one is, the next message of the stream makes room.
    pub(super) fn has_place(&self) -> bool {
        self.last_facts != self.position || self.uncommitted > 0
    }

    /// The time of facts that stand at `position` and were found by this clock: beside those of a transaction that ended
    /// here, no later than these.
    pub(super) fn time_here(&self, clock: i64) -> i64 {
        match self.high_water {
            Some(high) if self.last_facts == self.position => high,
            Some(high) => high.max(clock),
            None => clock,
        }
    }

    /// Captured tables to be copied, by index, with their oids.
    fn to_copy(&self) -> BTreeMap<usize, u32> {
        self.follower
            .registry
            .tables()
            .iter()
            .enumerate()
            .filter(|(_, table)| !table.dropped && (table.snapshot.is_none() || table.doubt.is_some()))
            .map(|(index, table)| (index, table.schema().oid))
            .collect()
    }

    /// Oids under which the stream sends the rows of tables.
    fn relations_of(&self, tables: &BTreeMap<usize, u32>) -> BTreeSet<u32> {
        tables.keys().flat_map(|index| self.follower.registry.relations_of(*index)).collect()
    }

    /// Takes what the watcher has seen, or what it ended with.
    pub(super) fn take_looks(&mut self) -> Result<()> {
        if let Some(verdict) = self.verdict.take() {
            return Err(verdict);
        }
        let Some(looks) = &self.looks else { return Ok(()) };
        // A run that ends by itself takes the first look alone, which is of its beginning: on a busy source there is
        // always another.
        let enough = |pipeline: &Self| {
            pipeline.until != Until::Stopped && (pipeline.noticed.is_some() || !pipeline.ahead.is_empty())
        };
        while !enough(self)
            && let Some(look) = looks.take()
        {
            let mut look = look?;
            look.at = self.axis.of_history(look.at);
            look.since = look.since.map(|since| self.axis.of_history(since));
            self.ahead.push_back(look);
        }
        Ok(())
    }

    /// To be called between transactions.
    pub(super) fn attend(&mut self, feedback: &Feedback) -> Result<()> {
        // While the stream is followed up to the place of a copy, nothing may come between.
        if self.discard || matches!(self.until, Until::Exactly(_)) {
            return Ok(());
        }
        self.take_looks()?;
        while self
            .ahead
            .front()
            .is_some_and(|look| look.at <= self.position && (self.has_place() || !self.ends_rows(look)))
        {
            if let Some(look) = self.ahead.pop_front() {
                self.notice(&look, feedback)?;
            }
        }
        if self.gauged.is_none_or(|at| at.elapsed() >= GAUGE_EVERY) {
            self.gauge();
        }
        if self.binary && !self.follower.registry.reads_binary() {
            return Err(Error::TextNeeded);
        }
        self.copy_what_is_due()?;
        let Some(shadow) = &mut self.shadow else { return Ok(()) };
        match shadow.look() {
            Ok(true) if shadow.ready.as_ref().is_some_and(|copied| copied.point <= self.position) => {
                let rekeys =
                    shadow.tables.keys().filter_map(|index| self.follower.registry.tables().get(*index));
                let rekeys = rekeys.flat_map(|table| &table.doubt).any(|doubt| doubt.old_key.is_some());
                if rekeys && !self.has_place() { Ok(()) } else { self.join(feedback) }
            }
            Ok(_) => Ok(()),
            Err(error) => {
                self.shadow = None;
                if self.until != Until::Stopped {
                    return Err(error);
                }
                tracing::warn!(%error, "tables could not be copied beside the stream: tried again");
                self.copy_again = Some(Instant::now() + COPY_AGAIN);
                Ok(())
            }
        }
    }

    /// What the metrics say of tables and of the source.
    fn gauge(&mut self) {
        self.gauged = Some(Instant::now());
        let of = |wanted: fn(&Captured) -> bool| {
            let tables = self.follower.registry.tables().iter();
            tables.filter(|table| !table.dropped && wanted(table)).count() as u64
        };
        self.metrics.tables_waiting.store(of(|table| table.snapshot.is_none()), Ordering::Relaxed);
        self.metrics.tables_in_doubt.store(of(|table| table.doubt.is_some()), Ordering::Relaxed);
        let latest = self.shared.latest();
        if latest > Lsn::ZERO {
            self.metrics.source.store(latest.0, Ordering::Relaxed);
        }
    }

    fn copy_what_is_due(&mut self) -> Result<()> {
        if self.shadow.is_some() || self.copy_again.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        let tables = self.to_copy();
        if tables.is_empty() || self.noticed.is_none() {
            return Ok(());
        }
        self.copy_again = None;
        let relations = self.relations_of(&tables);
        let announced = self.follower.announcements(relations.iter().copied());
        tracing::info!(tables = tables.len(), "copying tables beside the stream");
        let rules = self.copies.rules.with_known(&self.follower.registry);
        let keys = self.follower.registry.keys();
        let copies = shadow::Settings { rules, keys, ..self.copies.clone() };
        self.shadow = Some(Shadow::start(copies, tables, relations, announced, &self.runtime)?);
        Ok(())
    }

    /// Makes facts of what the copied tables show and the history does not, at the place where the stream stands.
    fn join(&mut self, feedback: &Feedback) -> Result<()> {
        let Some(mut shadow) = self.shadow.take() else { return Ok(()) };
        // Partitions came or went while the tables were copied: the copy lacks what the stream brought of these.
        if shadow.relations != self.relations_of(&shadow.tables) {
            return Ok(());
        }
        // What outgrows memory goes to disk, and that must not happen behind a commit on its way.
        self.settle(feedback)?;
        let Some(mut copied) = shadow.catch_up(&mut self.catalog)? else { return Ok(()) };
        let valid_from = self.time_here(copied.at);
        let origin = Origin { lsn: self.position, xid: 0, committed_at: valid_from, valid_from };
        let mut settled = 0;
        for index in shadow.tables.keys() {
            settled += u32::from(self.join_table(*index, &mut copied, &origin)?);
        }
        if settled > 0 {
            self.fruitless.reset();
        }
        if copied.is_part {
            self.copy_again = Some(Instant::now() + COPY_AGAIN);
        } else if settled == 0 {
            // Whatever stands in the way, the source is not asked for the same rows without a pause.
            self.copy_again = Some(Instant::now() + self.fruitless.next_pause());
        }
        self.high_water = Some(valid_from);
        self.server_time = self.server_time.max(Some(copied.at));
        failpoint::hit("join.before_cut")?;
        self.cut(feedback)
    }

    /// Says whether the table is as the source has it now.
    fn join_table(&mut self, index: usize, copied: &mut Copied, origin: &Origin) -> Result<bool> {
        let Some(table) = self.follower.registry.tables().get(index) else { return Ok(false) };
        if table.dropped {
            return Ok(false);
        }
        let schema = std::sync::Arc::clone(table.schema());
        let first = table.snapshot.is_none();
        let doubt = table.doubt.clone().unwrap_or_default();
        let point = copied.point;
        let observed = copied.table(index, &schema)?.filter(|_| doubt.happened <= point);
        let Some((observed, place)) = observed else {
            // The copy does not show what has become of it since, and the stream may not tell: it is copied once more.
            tracing::debug!(table = schema.log_name, "altered while it was copied");
            return Ok(false);
        };
        let op = match (first, &doubt.old_key) {
            (true, _) => Op::Snapshot,
            (false, Some(_)) => Op::Rekey,
            (false, None) => Op::Reconcile,
        };
        let telling = Telling { found: op, gone: op, leaf: doubt.leaf, old_key: doubt.old_key.clone() };
        self.follower.versioner.begin(origin.clone());
        let found = self.follower.versioner.reconcile(index, observed, place, &telling)?;
        let facts = self.follower.versioner.summary().facts;
        self.uncommitted += facts;
        self.facts += facts;
        self.joined(index, first, &doubt, found, origin.lsn)?;
        Ok(true)
    }

    /// A table is as the source has it.
    fn joined(&mut self, index: usize, first: bool, doubt: &Doubt, found: Reconciled, at: Lsn) -> Result<()> {
        self.follower.versioner.set_start(index, at);
        let Some(table) = self.follower.registry.table_mut(index) else { return Ok(()) };
        table.doubt = None;
        table.snapshot.get_or_insert(at);
        let name = table.schema().log_name.clone();
        let parts = table.parts_document();
        let unseen = table.unseen;
        let Reconciled { rows, added, changed, removed } = found;
        let event = if first {
            tracing::info!(table = name, rows, "snapshot");
            Event::at(EventKind::Snapshot, Some(name), at).with("rows", rows)
        } else {
            tracing::info!(table = name, rows, added, changed, removed, "compared with the source");
            let mut event = Event::at(EventKind::Reconcile, Some(name), at)
                .with("rows", rows)
                .with("added", added)
                .with("changed", changed)
                .with("removed", removed);
            if let Some(leaf) = doubt.leaf {
                event = event.with("leaf", leaf);
            }
            if unseen {
                event = event.with("updates_unseen", true);
            }
            event
        };
        self.follower.registry.new_events.push(event.with("parts", parts));
        let relations = self.follower.registry.relations_of(index);
        self.follower.map_again(relations)
    }
}
