//! What the catalog tells that the stream does not, as events and facts: see [`Pipeline::notice`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use bygone_replication::Lsn;
use bygone_replication::publication::{self, Difference};
use bygone_replication::stream::Feedback;
use bygone_replication::table::{Table, TableKind};
use bygone_sink::fact::{Op, Origin};
use bygone_sink::log::{Event, EventKind, EventLsn, SINCE, table_text};

use super::evolve::{differ, filled_from};
use super::pipeline::Pipeline;
use super::registry::{Doubt, Part, is_unseen, key_after};
use super::watcher::{Families, Look};
use crate::error::Result;

impl Pipeline {
    /// Takes a look at the catalog that holds what had happened before `position`: the stream has told all that it tells of
    /// that, and what it did not tell is made known here.
    pub(super) fn notice(&mut self, look: &Look, feedback: &Feedback) -> Result<()> {
        // What happened while nobody looked is of any time since the catalog was as the history has it.
        let since = look.since.unwrap_or_else(|| self.catalog_held()).min(look.at);
        let within = [since, look.at];
        let origin = Origin {
            lsn: self.position,
            xid: 0,
            committed_at: look.clock,
            valid_from: self.time_here(look.clock),
        };
        // What outgrows memory goes to disk, and that must not happen behind a commit on its way.
        self.settle(feedback)?;
        let before = self.follower.registry.new_events.len();
        self.gone(look, &origin, since)?;
        self.altered(look, &origin, within)?;
        self.appeared(look)?;
        self.enums(look, within);
        self.published(look, within);
        self.noticed = Some(look.number);
        self.noticed_at = look.at;
        if self.follower.registry.new_events.len() > before {
            self.high_water = Some(origin.valid_from);
            self.server_time = self.server_time.max(Some(look.clock));
            self.oldest.get_or_insert_with(std::time::Instant::now);
        }
        self.shared.capture(self.follower.registry.oids());
        Ok(())
    }

    /// The look ends rows with facts of its own.
    pub(super) fn ends_rows(&self, look: &Look) -> bool {
        let there: HashSet<u32> = look.tables.iter().map(|table| table.oid).collect();
        let there = |oid: u32| there.contains(&oid);
        self.follower
            .registry
            .tables()
            .iter()
            .filter(|table| !table.dropped)
            .any(|table| !there(table.schema().oid) || table.parts.keys().any(|part| !there(*part)))
    }

    /// Tables that were dropped.
    fn gone(&mut self, look: &Look, origin: &Origin, since: Lsn) -> Result<()> {
        let there: BTreeSet<u32> = look.tables.iter().map(|table| table.oid).collect();
        let leaves: BTreeSet<u32> = look
            .tables
            .iter()
            .filter(|table| matches!(table.kind, TableKind::Leaf { .. }))
            .map(|table| table.oid)
            .collect();
        let gone: Vec<(usize, u32)> = self
            .follower
            .registry
            .tables()
            .iter()
            .enumerate()
            .filter(|(_, table)| !table.dropped)
            .map(|(index, table)| (index, table.schema().oid))
            .filter(|(_, oid)| !there.contains(oid) || leaves.contains(oid))
            .collect();
        for (index, oid) in gone {
            let table = self.follower.registry.tables().get(index);
            let parts = table.into_iter().flat_map(|table| table.parts.keys());
            let joined = !there.contains(&oid) && parts.copied().any(|part| leaves.contains(&part));
            // A table that became a partition goes on as a part of its root; one that is left out goes on without us.
            let reason = if leaves.contains(&oid) || joined {
                Some("it became a partition")
            } else if self.shared.left_out.contains(&oid) {
                Some("--table leaves it out")
            } else {
                None
            };
            let op = if reason.is_some() { Op::Reconcile } else { Op::Drop };
            let facts = self.bury(index, op, None, origin)?;
            let relations = self.follower.registry.relations_of(index);
            for oid in relations {
                self.follower.registry.forget_relation(oid);
                self.follower.versioner.ignore_relation(oid);
            }
            let Some(table) = self.follower.registry.table_mut(index) else { continue };
            table.dropped = true;
            table.doubt = None;
            let name = table.schema().log_name.clone();
            let kind = if reason.is_some() { EventKind::Detach } else { EventKind::Drop };
            match reason {
                Some(reason) => tracing::warn!(table = name, rows = facts, reason, "not captured any more"),
                None => tracing::info!(table = name, rows = facts, "the table is no longer there"),
            }
            let event = Event::at(kind, Some(name), origin.lsn).with("oid", oid);
            let event = event.with(SINCE, since.to_string()).with("rows", facts);
            self.follower.registry.new_events.push(match reason {
                Some(reason) => event.with("reason", reason),
                None => event,
            });
        }
        Ok(())
    }

    /// Captured tables that are not as they were.
    fn altered(&mut self, look: &Look, origin: &Origin, within: [Lsn; 2]) -> Result<()> {
        let families = Families::of(&look.tables);
        for table in look.tables.iter().filter(|table| !matches!(table.kind, TableKind::Leaf { .. })) {
            let Some(index) = self.follower.registry.by_oid(table.oid) else { continue };
            let family = families.family(table);
            let table = &*filled_from(table, &family);
            self.renamed(index, table, within);
            let keyed = self.key(index, table, &family, within);
            self.columns(index, table, keyed, look.at, within)?;
            self.identity(index, table, &family, look.hidden.contains(&table.oid), within);
            self.parts(index, &family, &families, origin, within)?;
        }
        Ok(())
    }

    fn renamed(&mut self, index: usize, now: &Table, within: [Lsn; 2]) {
        let Some(table) = self.follower.registry.table_mut(index) else { return };
        if table.present_name == now.name {
            return;
        }
        table.present_name = now.name.clone();
        let name = table.schema().log_name.clone();
        tracing::info!(table = name, now = %now.name, "the table was renamed");
        let event = Event::placed(EventKind::Schema, Some(name), EventLsn::Within(within));
        self.follower.registry.new_events.push(event.with("renamed_to", table_text(&now.name)));
    }

    /// Another key names the entities from now on [16]. True where a new schema version has to say so.
    fn key(&mut self, index: usize, now: &Table, family: &[Table], within: [Lsn; 2]) -> bool {
        let Some(table) = self.follower.registry.table_mut(index) else { return false };
        let key = key_after(table.key(), now, family);
        if key == table.key() {
            return false;
        }
        let old = table.key().to_vec();
        let name = table.schema().log_name.clone();
        table.raise(Doubt { old_key: Some(old.clone()), ..Doubt::at(within[1]) });
        tracing::info!(table = name, "the table has another key: its rows get other entity ids");
        let event = Event::placed(EventKind::Key, Some(name), EventLsn::Within(within));
        self.follower
            .registry
            .new_events
            .push(event.with("doubt", true).with("old_key", old).with("key", now.key().to_vec()));
        self.follower.registry.set_key(index, &key);
        true
    }

    /// The table's columns as the catalog has them.
    pub(super) fn columns(
        &mut self,
        index: usize,
        now: &Table,
        keyed: bool,
        at: Lsn,
        within: [Lsn; 2],
    ) -> Result<()> {
        let Some(table) = self.follower.registry.tables().get(index) else { return Ok(()) };
        let old = Arc::clone(table.schema());
        // The stream is further than this look.
        let outrun = table.changed_at > at;
        if !keyed && (outrun || !differ(&old.columns, &now.columns)) {
            return Ok(());
        }
        let schema = self.follower.registry.change(index, now, within)?;
        tracing::info!(table = schema.log_name, schema = schema.version, "new columns");
        self.follower.versioner.change_schema(index, schema)?;
        self.follower.registry.make_sure(index, within[1]);
        let relations = self.follower.registry.relations_of(index);
        self.follower.map_again(relations)
    }

    /// Whether updates and deletes of the table can be seen [9]; of a partition that is `hidden`, nothing can.
    fn identity(&mut self, index: usize, now: &Table, family: &[Table], hidden: bool, within: [Lsn; 2]) {
        let Some(table) = self.follower.registry.table_mut(index) else { return };
        // Leaves that hold rows of one key go on to, until the table has a key of its own.
        table.twins &= now.key().is_empty();
        let unseen = hidden || table.twins || is_unseen(now, family);
        if table.unseen == unseen {
            return;
        }
        table.unseen = unseen;
        let name = table.schema().log_name.clone();
        if hidden {
            tracing::warn!(
                table = name,
                "a partition of it cannot be published: what becomes of its rows is not seen until then"
            );
            let event = Event::at(EventKind::UpdatesUnseen, Some(name), within[0])
                .with("until", within[1].to_string());
            self.follower.registry.new_events.push(event.with("reason", "a partition cannot be published"));
        } else if unseen {
            tracing::warn!(
                "{}: updates and deletes cannot be seen any more, for it has neither a primary key nor another replica \
                 identity now; to change that, add a primary key or run: alter table {} replica identity full;",
                now.name,
                now.name.quoted()
            );
            self.follower.registry.new_events.push(
                Event::at(EventKind::UpdatesUnseen, Some(name), within[0])
                    .with("until", within[1].to_string()),
            );
        } else {
            tracing::info!(table = name, "updates and deletes are seen from now on");
            self.follower.registry.doubt(index, within[1], "updates and deletes were not published");
        }
    }

    /// The relations that hold the table's rows: leaves come and go, and each may have been rewritten [8, 24].
    fn parts(
        &mut self,
        index: usize,
        family: &[Table],
        families: &Families<'_>,
        origin: &Origin,
        within: [Lsn; 2],
    ) -> Result<()> {
        let found: BTreeMap<u32, &Table> = family
            .iter()
            .filter(|part| part.kind != TableKind::Partitioned)
            .map(|part| (part.oid, part))
            .collect();
        let Some(table) = self.follower.registry.tables().get(index) else { return Ok(()) };
        let known = table.parts.clone();
        let name = table.schema().log_name.clone();
        let parts: BTreeMap<u32, Part> = found.iter().map(|(oid, part)| (*oid, Part::of(part))).collect();
        if known == parts {
            return Ok(());
        }
        let rewritten =
            found.iter().any(|(oid, part)| known.get(oid).is_some_and(|known| was_rewritten(known, part)));
        let mut told = Vec::new();
        for oid in known.keys().filter(|oid| !found.contains_key(oid)) {
            let detached = families.get(*oid).is_some();
            let (action, op) = if detached { ("detach", Op::Reconcile) } else { ("drop", Op::Drop) };
            let facts = self.bury(index, op, Some(*oid), origin)?;
            self.follower.registry.forget_relation(*oid);
            self.follower.versioner.ignore_relation(*oid);
            told.push(
                Event::at(EventKind::Partition, Some(name.clone()), origin.lsn)
                    .with("action", action)
                    .with("leaf", *oid)
                    .with(SINCE, within[0].to_string())
                    .with("rows", facts),
            );
        }
        let mut doubts = Vec::new();
        let is_leaf = |part: &Table| matches!(part.kind, TableKind::Leaf { .. });
        for (oid, leaf) in found.iter().filter(|(oid, part)| is_leaf(part) && !known.contains_key(oid)) {
            doubts.push(Doubt { leaf: Some(*oid), ..Doubt::at(within[1]) });
            told.push(
                Event::placed(EventKind::Partition, Some(name.clone()), EventLsn::Within(within))
                    .with("action", "attach")
                    .with("leaf", *oid)
                    .with("leaf_name", table_text(&leaf.name))
                    .with("doubt", true),
            );
        }
        if rewritten {
            tracing::info!(table = name, "the table was rewritten: it is compared with the source");
            doubts.push(Doubt::at(within[1]));
            let event = Event::placed(EventKind::Rewrite, Some(name.clone()), EventLsn::Within(within));
            told.push(event.with("doubt", true));
        }
        let leaves: Vec<Table> = found.values().map(|part| (*part).clone()).collect();
        self.follower.registry.know_relations(&leaves);
        self.follower.registry.new_events.extend(told);
        if let Some(table) = self.follower.registry.table_mut(index) {
            table.parts = parts;
            doubts.into_iter().for_each(|doubt| table.raise(doubt));
            let document = table.parts_document();
            // The log says so with whatever else it is told of the table: the next start compares with that.
            let mut events = self.follower.registry.new_events.iter_mut().rev();
            if let Some(event) = events.find(|event| event.table.as_deref() == Some(name.as_str())) {
                event.detail.insert("parts".to_owned(), document);
            }
        }
        let relations = self.follower.registry.relations_of(index);
        self.follower.map_again(relations)
    }

    /// Tables that match the patterns and are not captured yet.
    fn appeared(&mut self, look: &Look) -> Result<()> {
        let families = Families::of(&look.tables);
        for table in look.tables.iter().filter(|table| !matches!(table.kind, TableKind::Leaf { .. })) {
            if !look.wanted.contains(&table.oid) || self.follower.registry.by_oid(table.oid).is_some() {
                continue;
            }
            let family = families.family(table);
            let index = self.follower.registry.attach(table, &family, self.position)?;
            self.follower.registry.know_relations(&family);
            let Some(captured) = self.follower.registry.tables().get(index) else { continue };
            tracing::info!(table = captured.schema().log_name, "new table");
            if captured.unseen {
                tracing::warn!(
                    "{}: updates and deletes cannot be seen, for it has neither a primary key nor another replica identity; \
                     to change that, add a primary key or run: alter table {} replica identity full;",
                    table.name,
                    table.name.quoted()
                );
            }
            self.follower.versioner.set_table(index, &captured.versions, Lsn(u64::MAX))?;
        }
        Ok(())
    }

    /// A label that is renamed changes what rows print, and no message tells so [24]. Where rows are known by it, they have
    /// other names from now on: the table is compared with the source.
    fn enums(&mut self, look: &Look, within: [Lsn; 2]) {
        let now: BTreeMap<u32, Vec<String>> = look.enums.iter().cloned().collect();
        let mut told = Vec::new();
        let before = std::mem::take(&mut self.enums);
        for index in 0..self.follower.registry.tables().len() {
            let Some(table) = self.follower.registry.table_mut(index).filter(|table| !table.dropped) else {
                continue;
            };
            let schema = Arc::clone(table.schema());
            for column in schema.columns.iter().map(|column| &column.column) {
                let oid = column.data_type.innermost().oid;
                let Some(after) = now.get(&oid) else { continue };
                let names_rows = table.key().is_empty() || table.key().contains(&column.attnum);
                // What rows are known by is kept in the log, for a label may be renamed while nobody looks.
                let recorded = table.labels.get(&column.name).filter(|_| names_rows);
                let known = before.get(&oid).or(recorded);
                // Labels that were only added change no row.
                let renamed = known.is_some_and(|known| !known.iter().all(|label| after.contains(label)));
                if !renamed && (!names_rows || recorded == Some(after)) {
                    continue;
                }
                let mut event =
                    Event::placed(EventKind::Enum, Some(schema.log_name.clone()), EventLsn::Within(within));
                event = event.with("column", column.name.clone());
                if let Some(known) = known {
                    event = event.with("before", known.clone());
                }
                event = event.with("after", after.clone());
                if renamed && names_rows {
                    tracing::info!(
                        table = schema.log_name,
                        column = column.name,
                        "labels by which rows are known were renamed: the table is compared with the source"
                    );
                    table.raise(Doubt::at(within[1]));
                    event = event.with("doubt", true);
                }
                told.push(event);
                table.labels.insert(column.name.clone(), after.clone());
            }
        }
        self.follower.registry.new_events.extend(told);
        self.enums = now;
    }

    /// What is published, for the log.
    fn published(&mut self, look: &Look, within: [Lsn; 2]) {
        if self.published == look.publications {
            return;
        }
        for difference in publication::compare(&self.published, &look.publications) {
            match difference {
                Difference::TableAdded { table, .. } | Difference::TableRemoved { table, .. } => {
                    tracing::debug!(%table, "the publications changed");
                }
                // It was in the other publication meanwhile, for want of an identity, and no look told so that has come this far.
                Difference::Relisted { oid: Some(oid), .. } => {
                    if let Some(index) = self.follower.registry.of_relation(oid) {
                        let reason = "updates and deletes were not published";
                        self.follower.registry.doubt_of(index, EventLsn::Within(within), reason);
                    }
                }
                _ => {}
            }
        }
        self.tell_published(look.publications.clone());
    }

    /// Ends all entities of a table, or those of a leaf.
    fn bury(&mut self, index: usize, op: Op, leaf: Option<u32>, origin: &Origin) -> Result<u64> {
        self.follower.versioner.begin(origin.clone());
        let facts = self.follower.versioner.bury_table(index, op, leaf)?;
        self.uncommitted += facts;
        self.facts += facts;
        Ok(facts)
    }
}

/// The relation's rows may have been written anew with other values, which no message told.
///
/// Another file alone is a VACUUM FULL, CLUSTER or TRUNCATE; together with a change of a column it is an ALTER TABLE that
/// rewrote. That both came from different statements is possible, and then the comparison finds nothing.
fn was_rewritten(known: &Part, now: &Table) -> bool {
    known.filenode != now.filenode && known.stamp != now.columns_stamp
}
