//! The captured tables: what the log knows of them, and what the stream calls them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bygone_replication::Lsn;
use bygone_replication::pattern::{Pattern, Patterns};
use bygone_replication::pgoutput::Relation;
use bygone_replication::table::{Column, ReplicaIdentity, Table, TableKind, TableName};
use bygone_sink::log::{
    ColumnDoc, Event, EventKind, EventLsn, LogState, SchemaVersion, VERIFIED, parse_table_text, table_text,
};
use bygone_sink::schema::{PhysicalNames, TableSchema};
use bygone_sink::value::Cast;

use super::column_rules::{ColumnRules, check_still_free, is_spared, same_rules};
use super::retention::Retention;
use crate::error::{Error, Result};

/// In an event of updates that are not seen: it is because leaves hold rows of one key.
const TWINS: &str = "twins";

/// A captured table.
#[derive(Clone, Debug)]
pub(crate) struct Captured {
    /// Its schema versions, oldest first; never empty.
    pub(crate) versions: Vec<Arc<TableSchema>>,
    physical: PhysicalNames,
    key: Vec<i16>,
    /// The consistent point of its snapshot, once that is in the log.
    pub(crate) snapshot: Option<Lsn>,
    /// It is gone from the source.
    pub(crate) dropped: bool,
    /// Schema and name by now.
    pub(crate) present_name: TableName,
    /// Its updates and deletes are not published [9].
    pub(crate) unseen: bool,
    /// Where the stream last showed other columns.
    pub(crate) changed_at: Lsn,
    /// Rows may have been taken for those of other columns that had their names before.
    pub(crate) unsure: bool,
    /// The labels of enums, by column, as the log was told of them.
    pub(crate) labels: BTreeMap<String, Vec<String>>,
    /// Its leaves hold rows of one key, which cannot be told apart.
    pub(crate) twins: bool,
    /// It goes on under the name of one that was there before.
    pub(crate) again: bool,
    /// Something happened to it that the stream did not tell: it has to be compared with the source.
    pub(crate) doubt: Option<Doubt>,
    /// The relations that hold its rows: itself, or its leaves.
    pub(crate) parts: BTreeMap<u32, Part>,
}

/// Why a table has to be compared with the source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// Only this leaf has to be.
    pub(crate) leaf: Option<u32>,
    /// Its entities had this key before.
    pub(crate) old_key: Option<Vec<i16>>,
    /// What raised it had happened when the WAL ended here: a copy of an earlier moment does not settle it.
    pub(crate) happened: Lsn,
}

impl Doubt {
    /// Of the whole table, by what had happened at a position.
    pub(crate) fn at(happened: Lsn) -> Self {
        Self { happened, ..Self::default() }
    }

    /// As an event of the log has it.
    fn recall(event: &Event) -> Self {
        let leaf = event.detail.get("leaf").and_then(serde_json::Value::as_u64);
        let key = event.detail.get("old_key").and_then(serde_json::Value::as_array);
        let number = |value: &serde_json::Value| value.as_i64().and_then(|n| i16::try_from(n).ok());
        Self {
            leaf: leaf.and_then(|leaf| u32::try_from(leaf).ok()),
            old_key: key.map(|key| key.iter().filter_map(number).collect()),
            happened: event.lsn.map_or(Lsn::ZERO, EventLsn::latest),
        }
    }

    /// Both at once.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            leaf: self.leaf.filter(|leaf| other.leaf == Some(*leaf)),
            old_key: self.old_key.or(other.old_key),
            happened: self.happened.max(other.happened),
        }
    }
}

/// What tells that a relation was rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) filenode: u32,
    pub(crate) stamp: u64,
}

impl Part {
    pub(crate) fn of(table: &Table) -> Self {
        Self { filenode: table.filenode, stamp: table.columns_stamp }
    }
}

impl Captured {
    fn new(key: Vec<i16>, physical: PhysicalNames, name: TableName) -> Self {
        Self {
            versions: Vec::new(),
            physical,
            key,
            snapshot: None,
            dropped: false,
            present_name: name,
            unseen: false,
            changed_at: Lsn::ZERO,
            unsure: false,
            labels: BTreeMap::new(),
            twins: false,
            again: false,
            doubt: None,
            parts: BTreeMap::new(),
        }
    }

    /// Attnums of the key.
    pub(crate) fn key(&self) -> &[i16] {
        &self.key
    }

    /// A name that it has, or had when it was attached, is among those of a pattern.
    pub(crate) fn was_called(&self, pattern: &Pattern) -> bool {
        pattern.matches(&self.present_name)
            || self.versions.iter().any(|schema| pattern.matches(&schema.name))
    }

    /// Relation and number of the columns that had a name.
    pub(crate) fn columns_called<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (u32, i16)> + 'a {
        self.versions.iter().flat_map(move |schema| {
            let named = schema.columns.iter().filter(move |known| known.column.name == name);
            named.map(|known| (schema.oid, known.column.attnum))
        })
    }

    /// The newest schema.
    pub(crate) fn schema(&self) -> &Arc<TableSchema> {
        // There is always one: `attach` and `of_log` begin with it.
        self.versions.last().unwrap_or_else(|| unreachable!("a captured table has a schema"))
    }
}

impl Captured {
    /// What an event of the log says of the table.
    fn recall(&mut self, event: &Event) {
        let text = |key: &str| event.detail.get(key).and_then(serde_json::Value::as_str);
        match &event.kind {
            EventKind::Attach => {
                self.dropped = false;
                self.snapshot = None;
                self.unseen = false;
                self.twins = false;
                self.again = event.detail.contains_key("replaces_oid");
                self.doubt = None;
                self.present_name =
                    text("name").and_then(parse_table_text).unwrap_or_else(|| self.present_name.clone());
            }
            EventKind::Snapshot => self.snapshot = event.lsn.map(EventLsn::latest),
            EventKind::Drop | EventKind::Detach => self.dropped = true,
            EventKind::UpdatesUnseen => {
                self.unseen = true;
                self.twins |= event.detail.contains_key(TWINS);
            }
            // A comparison that changed nothing: see `bygone reconcile`.
            EventKind::Reconcile if event.detail.contains_key(VERIFIED) => {}
            EventKind::Reconcile => {
                if event.detail.get("leaf").is_none() {
                    self.unseen &= event.detail.contains_key("updates_unseen");
                    self.doubt = None;
                } else if self.doubt.as_ref().is_some_and(|doubt| doubt.leaf.is_some()) {
                    self.doubt = None;
                }
            }
            EventKind::Schema => {
                if let Some(name) = text("renamed_to").and_then(parse_table_text) {
                    self.present_name = name;
                }
            }
            EventKind::Rewrite | EventKind::Gap | EventKind::Key | EventKind::Partition | EventKind::Enum
                if event.detail.get("doubt").and_then(serde_json::Value::as_bool) == Some(true) =>
            {
                self.raise(Doubt::recall(event));
            }
            _ => {}
        }
        if event.kind == EventKind::Enum
            && let Some(column) = text("column")
            && let Some(labels) = event.detail.get("after").and_then(serde_json::Value::as_array)
        {
            let labels = labels.iter().filter_map(serde_json::Value::as_str).map(str::to_owned);
            self.labels.insert(column.to_owned(), labels.collect());
        }
        if let Some(parts) = event.detail.get("parts").and_then(serde_json::Value::as_object) {
            let read = |(oid, part): (&String, &serde_json::Value)| {
                let filenode = u32::try_from(part.get(0)?.as_u64()?).ok()?;
                Some((oid.parse().ok()?, Part { filenode, stamp: part.get(1)?.as_u64()? }))
            };
            self.parts = parts.iter().filter_map(read).collect();
        }
    }

    /// The table has to be compared with the source.
    pub(crate) fn raise(&mut self, doubt: Doubt) {
        self.doubt = Some(match self.doubt.take() {
            Some(before) => before.and(doubt),
            None => doubt,
        });
    }

    /// Its parts, as events have them.
    pub(crate) fn parts_document(&self) -> serde_json::Value {
        let parts = self.parts.iter().map(|(oid, part)| {
            (oid.to_string(), serde_json::Value::from(vec![u64::from(part.filenode), part.stamp]))
        });
        serde_json::Value::Object(parts.collect())
    }
}

/// All captured tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    /// Columns that are left out of tables, hashed or not watched from now on.
    rules: ColumnRules,
    retention: Retention,
    tables: Vec<Captured>,
    by_name: BTreeMap<String, usize>,
    /// Relations of the stream: table or leaf partition, to the table's index and the leaf's oid (or 0).
    relations: HashMap<u32, (usize, u32)>,
    /// Whoever makes facts knows which tables are in doubt.
    doubts_told: bool,
    /// Schema versions and events that the next commit has to tell.
    pub(crate) new_schemas: Vec<SchemaVersion>,
    pub(crate) new_events: Vec<Event>,
}

/// What a relation of the stream is to us.
#[derive(Debug)]
pub(crate) enum Known {
    /// It is as the newest schema of the table says: positions of its columns there.
    Same { table: usize, leaf: u32, positions: Vec<Option<usize>> },
    /// It is a captured table's, but its columns are not the newest schema's.
    Changed { table: usize },
    /// It is not known.
    Unknown,
}

impl Registry {
    /// Of no table yet.
    pub(crate) fn ruled_by(rules: ColumnRules, retention: Retention) -> Self {
        Self { rules, retention, ..Self::default() }
    }

    /// What the log says.
    pub(crate) fn of_log(log: &LogState) -> Result<Self> {
        let mut registry = Self::default();
        let mut tables: Vec<(u32, String, Captured)> = Vec::new();
        for name in log.tables() {
            let versions = log.schemas(name);
            let mut captured: Option<(u32, Captured)> = None;
            for version in versions {
                let (number, schema, key) = of_document(name, version)?;
                let (_, captured) = captured.get_or_insert_with(|| {
                    (number, Captured::new(key.clone(), PhysicalNames::default(), schema.name.clone()))
                });
                captured.key = key;
                captured.physical.learn(&schema);
                captured.versions.push(Arc::new(schema));
            }
            if let Some((number, captured)) = captured {
                tables.push((number, name.to_owned(), captured));
            }
        }
        tables.sort_by_key(|(number, ..)| *number);
        for (_, name, captured) in tables {
            registry.push(name, captured);
        }
        for (_, event) in log.events() {
            if is_of_all(event) {
                registry.doubt_all();
            }
            let Some(at) = event.table.as_ref().and_then(|name| registry.by_name.get(name)) else { continue };
            if let Some(table) = registry.tables.get_mut(*at) {
                table.recall(event);
            }
        }
        for (index, table) in registry.tables.iter().enumerate() {
            for part in table.parts.keys().filter(|part| **part != table.schema().oid) {
                registry.relations.insert(*part, (index, *part));
            }
        }
        // The stream may go on with rows of a table that was let go of.
        let Self { tables, relations, .. } = &mut registry;
        relations.retain(|_, (index, _)| tables.get(*index).is_some_and(|table| !table.dropped));
        Ok(registry)
    }

    /// Takes what somebody else has had the log say.
    pub(crate) fn hear(&mut self, event: &Event) {
        let at = event.table.as_ref().and_then(|name| self.by_name.get(name)).copied();
        if let Some(table) = at.and_then(|at| self.table_mut(at)) {
            table.recall(event);
        }
    }

    /// Something is lost of all tables: each has to be compared with the source.
    pub(crate) fn doubt_all(&mut self) {
        self.doubts_told = false;
        // The others get a first copy anyway.
        for table in self.tables.iter_mut().filter(|table| !table.dropped && table.snapshot.is_some()) {
            table.raise(Doubt::default());
        }
    }

    fn push(&mut self, name: String, captured: Captured) {
        let index = self.tables.len();
        self.relations.insert(captured.schema().oid, (index, 0));
        self.by_name.insert(name, index);
        self.tables.push(captured);
    }

    /// A relation of a table has this file and columns from the end of a transaction on: another file of other columns is a
    /// rewrite, whose rows the stream does not tell [24].
    pub(crate) fn part_is(&mut self, index: usize, oid: u32, part: Part, end: Lsn) {
        let Some(table) = self.table_mut(index) else { return };
        let Some(known) = table.parts.get_mut(&oid) else { return };
        let rewritten = known.filenode != part.filenode && known.stamp != part.stamp;
        *known = part;
        if rewritten {
            table.raise(Doubt::at(end));
            let event = Event::at(EventKind::Rewrite, Some(table.schema().log_name.clone()), end)
                .with("doubt", true)
                .with("parts", table.parts_document());
            self.new_events.push(event);
        }
    }

    /// A table is gone from the source, with so many rows that it had.
    pub(crate) fn dropped(&mut self, index: usize, at: Lsn, rows: u64) {
        let Some(table) = self.table_mut(index) else { return };
        table.dropped = true;
        table.doubt = None;
        let (name, oid) = (table.schema().log_name.clone(), table.schema().oid);
        tracing::info!(table = name, rows, "the table was dropped");
        let event = Event::at(EventKind::Drop, Some(name), at).with("oid", oid).with("rows", rows);
        self.new_events.push(event);
    }

    /// The updates of a table are published from the end of a transaction on, or no longer [9].
    pub(crate) fn updates_are(&mut self, index: usize, published: bool, end: Lsn) {
        let Some(table) = self.tables.get_mut(index).filter(|table| table.unseen == published) else {
            return;
        };
        table.unseen = !published;
        if published {
            self.doubt(index, end, "updates and deletes were not published");
        } else {
            let name = table.schema().log_name.clone();
            tracing::warn!(
                table = name,
                "updates and deletes cannot be seen any more: the table has no replica identity"
            );
            self.new_events.push(Event::at(EventKind::UpdatesUnseen, Some(name), end));
        }
    }

    /// Something of a table is not known, for a reason: it is compared with the source, and the log says so.
    pub(crate) fn doubt(&mut self, index: usize, lsn: Lsn, reason: &str) {
        self.doubt_of(index, EventLsn::At(lsn), reason);
    }

    /// The same of what may have happened anywhere in a range.
    pub(crate) fn doubt_of(&mut self, index: usize, place: EventLsn, reason: &str) {
        self.compare(EventKind::Gap, index, place, Doubt::at(place.latest()), reason);
    }

    /// Compares a table with the source if rows of it may have been taken for those of other columns: what is known is right by all that
    /// can be told. Says whether it does.
    pub(crate) fn make_sure(&mut self, index: usize, lsn: Lsn) -> bool {
        let unsure = self.tables.get(index).is_some_and(|table| table.unsure);
        if unsure {
            let reason = "columns have changed their names among themselves, or were made again under them";
            self.compare(EventKind::Rewrite, index, EventLsn::At(lsn), Doubt::at(lsn), reason);
        }
        unsure
    }

    /// State does not know a row that the stream names. What the source has, the stream has told: any copy settles it.
    pub(crate) fn missed(&mut self, index: usize, lsn: Lsn) {
        // Until the table has been compared, many a row may be missed.
        let doubt = self.tables.get(index).and_then(|table| table.doubt.as_ref());
        if doubt.is_some_and(|doubt| doubt.leaf.is_none()) {
            return;
        }
        let reason = "a row is not known by the columns that the stream names it by";
        self.compare(EventKind::Gap, index, EventLsn::At(lsn), Doubt::default(), reason);
    }

    fn compare(&mut self, kind: EventKind, index: usize, place: EventLsn, doubt: Doubt, reason: &str) {
        let Some(table) = self.table_mut(index) else { return };
        table.raise(doubt);
        table.unsure = false;
        let name = table.schema().log_name.clone();
        tracing::warn!(table = name, reason, "the table is compared with the source");
        let event = Event::placed(kind, Some(name), place);
        self.new_events.push(event.with("doubt", true).with("reason", reason));
    }

    /// The partitions of a table hold rows of one key: their history is one entity's, and readers are told so, once.
    pub(crate) fn ambiguous(&mut self, index: usize, lsn: Lsn) {
        let Some(table) = self.tables.get_mut(index).filter(|table| !table.twins) else { return };
        (table.unseen, table.twins) = (true, true);
        let name = table.schema().log_name.clone();
        tracing::warn!(
            table = name,
            "two partitions hold rows of the same key, which bygone cannot tell apart: add a primary key to the partitioned \
             table, or run: alter table … replica identity full; on each partition without one"
        );
        let event = Event::at(EventKind::UpdatesUnseen, Some(name), lsn);
        self.new_events.push(event.with(TWINS, true).with("reason", "two partitions hold rows of one key"));
    }

    /// The key names a table's entities from its next schema version on.
    pub(crate) fn set_key(&mut self, index: usize, key: &[i16]) {
        if let Some(captured) = self.tables.get_mut(index) {
            captured.key = key.to_vec();
        }
    }

    /// The captured tables, by index.
    pub(crate) fn tables(&self) -> &[Captured] {
        &self.tables
    }

    /// Schema versions of all tables by name, as state is rebuilt with.
    pub(crate) fn schemas(&self) -> HashMap<String, Vec<Arc<TableSchema>>> {
        self.by_name
            .iter()
            .filter_map(|(name, at)| Some((name.clone(), self.tables.get(*at)?.versions.clone())))
            .collect()
    }

    /// Begins to capture a table, `all` holding its leaves; `lsn` is where that is said. Under the name of a table that was
    /// dropped it goes on with that one's files, numbers and versions.
    ///
    /// # Errors
    /// Where columns are to be left out or hashed by which its rows are named.
    pub(crate) fn attach(&mut self, table: &Table, all: &[Table], lsn: Lsn) -> Result<usize> {
        self.attach_by(table, all, &pinned_key(table, all), lsn)
    }

    /// The same, with a key that names the table's entities.
    pub(crate) fn attach_by(&mut self, table: &Table, all: &[Table], key: &[i16], lsn: Lsn) -> Result<usize> {
        let name = self.free_name(&table.name);
        let key = key.to_vec();
        self.rules.check_table(table, &key)?;
        let index = match self.by_name.get(&name).copied() {
            Some(index) => index,
            None => {
                let index = self.tables.len();
                self.by_name.insert(name.clone(), index);
                self.tables.push(Captured::new(key.clone(), PhysicalNames::default(), table.name.clone()));
                index
            }
        };
        self.doubts_told = false;
        let captured = self.tables.get_mut(index).ok_or_else(|| Error::other("a table is not known"))?;
        let number =
            captured.versions.first().map_or(u32::try_from(index).unwrap_or(u32::MAX), |first| first.number);
        let version = captured.versions.last().map_or(0, |newest| newest.version) + 1;
        captured.physical.of_table(table.oid);
        let marked = self.rules.mark(table, &key);
        let mut schema = TableSchema::new(number, name.clone(), version, &marked, &key, &captured.physical);
        schema.retention = self.retention.of(&table.name).map(str::to_owned);
        // The name that its files go under.
        if let Some(own) = parse_table_text(&name) {
            schema.name = own;
        }
        captured.physical.learn(&schema);
        let again = captured.versions.last().map(|newest| newest.oid);
        captured.again = again.is_some();
        captured.twins = false;
        captured.key = key;
        captured.snapshot = None;
        captured.dropped = false;
        captured.doubt = None;
        captured.present_name = table.name.clone();
        captured.unseen = is_unseen(table, all);
        captured.parts = all
            .iter()
            .filter(|part| match part.kind {
                TableKind::Leaf { root } => root == table.oid,
                TableKind::Ordinary => part.oid == table.oid,
                TableKind::Partitioned => false,
            })
            .map(|part| (part.oid, Part::of(part)))
            .collect();
        let identity = if captured.key.is_empty() { "content" } else { "key" };
        let mut event = Event::at(EventKind::Attach, Some(name.clone()), lsn)
            .with("identity", identity)
            .with("replica_identity", format!("{:?}", table.identity).to_lowercase())
            .with("schema", schema.version)
            .with("parts", captured.parts_document());
        event = telling_rules(event, &schema);
        if table_text(&table.name) != name {
            event = event.with("name", table_text(&table.name));
        }
        if let Some(before) = again {
            event = event.with("replaces_oid", before).with("oid", table.oid);
        }
        self.new_events.push(event);
        if captured.unseen {
            // Readers must know that the table's rows may have changed since [9].
            self.new_events.push(Event::at(EventKind::UpdatesUnseen, Some(name), lsn));
        }
        self.new_schemas.push(document(&schema));
        self.relations.insert(schema.oid, (index, 0));
        captured.versions.push(Arc::new(schema));
        Ok(index)
    }

    /// The name in the log for a table: its own, unless another captured table that is still there has it, having been
    /// renamed since.
    fn free_name(&self, own: &TableName) -> String {
        let taken = |name: &str| {
            self.by_name
                .get(name)
                .and_then(|at| self.tables.get(*at))
                .is_some_and(|captured| !captured.dropped)
        };
        let numbered = |count: u32| TableName::new(own.schema.clone(), format!("{}__{count}", own.name));
        (1..)
            .map(|count| table_text(&if count == 1 { own.clone() } else { numbered(count) }))
            .find(|name| !taken(name))
            .unwrap_or_else(|| table_text(own))
    }

    /// The doubts about tables, where they may not be as they were when this was last asked.
    pub(crate) fn new_doubts(&mut self) -> Option<impl Iterator<Item = Option<&Doubt>>> {
        let told = std::mem::replace(&mut self.doubts_told, true);
        (!told).then(|| self.tables.iter().map(|table| table.doubt.as_ref()))
    }

    /// A captured table for changing what is known of it.
    pub(crate) fn table_mut(&mut self, index: usize) -> Option<&mut Captured> {
        self.doubts_told = false;
        self.tables.get_mut(index)
    }

    /// Index of the captured table with this oid that is still there.
    pub(crate) fn by_oid(&self, oid: u32) -> Option<usize> {
        let (index, leaf) = self.relations.get(&oid).copied()?;
        let captured = self.tables.get(index).filter(|captured| leaf == 0 && !captured.dropped)?;
        (captured.schema().oid == oid).then_some(index)
    }

    /// The captured table that a relation is, or is a part of.
    pub(crate) fn of_relation(&self, oid: u32) -> Option<usize> {
        self.relations.get(&oid).map(|(index, _)| *index)
    }

    /// Relations were truncated by the transaction that ends here: the tombstones say which rows went, the event that it was one command.
    pub(crate) fn truncated(&mut self, oids: &[u32], end: Lsn) {
        let mut tables: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for (index, leaf) in oids.iter().filter_map(|oid| self.relations.get(oid)) {
            tables.entry(*index).or_default().extend(Some(*leaf).filter(|leaf| *leaf != 0));
        }
        for (index, leaves) in tables {
            let follows = |table: &&Captured| !table.dropped && table.snapshot.is_some_and(|copy| copy < end);
            let Some(table) = self.tables.get(index).filter(follows) else { continue };
            let event = Event::at(EventKind::Truncate, Some(table.schema().log_name.clone()), end);
            self.new_events.push(if leaves.is_empty() { event } else { event.with("leaves", leaves) });
        }
    }

    /// A relation is none of a captured table any more.
    pub(crate) fn forget_relation(&mut self, oid: u32) {
        self.relations.remove(&oid);
    }

    /// Oids under which the stream sends a table's rows.
    pub(crate) fn relations_of(&self, index: usize) -> Vec<u32> {
        self.relations.iter().filter(|(_, (table, _))| *table == index).map(|(oid, _)| *oid).collect()
    }

    /// Makes the leaf partitions of captured tables known, and tables under their present oids.
    pub(crate) fn know_relations(&mut self, tables: &[Table]) {
        let roots: HashMap<u32, usize> = tables
            .iter()
            .filter(|table| !matches!(table.kind, TableKind::Leaf { .. }))
            .filter_map(|table| Some((table.oid, self.by_oid(table.oid)?)))
            .collect();
        for table in tables {
            match table.kind {
                TableKind::Leaf { root } => {
                    let index = roots.get(&root).copied().or_else(|| self.by_oid(root));
                    if let Some(index) = index {
                        self.relations.insert(table.oid, (index, table.oid));
                    }
                }
                TableKind::Ordinary | TableKind::Partitioned => {
                    if let Some(index) = roots.get(&table.oid) {
                        self.relations.insert(table.oid, (*index, 0));
                    }
                }
            }
        }
    }

    /// Compares a relation of the stream with what is known.
    pub(crate) fn look_up(&self, relation: &Relation<'_>) -> Known {
        let Some((index, leaf)) = self.relations.get(&relation.oid).copied() else { return Known::Unknown };
        let Some(schema) = self.tables.get(index).map(Captured::schema) else { return Known::Unknown };
        let mut positions = Vec::new();
        for column in relation.columns() {
            let at = schema.columns.iter().position(|known| known.column.name == column.name);
            let same = at.and_then(|at| schema.columns.get(at)).is_some_and(|known| {
                known.column.data_type.oid == column.type_oid
                    && known.column.data_type.typmod == column.typmod
            });
            if !same {
                return Known::Changed { table: index };
            }
            let taken = at.filter(|at| schema.columns.get(*at).is_some_and(|known| !known.column.left_out));
            positions.push(taken);
        }
        // A column that is gone from the stream was dropped, unless it never was sent.
        let gone = schema
            .columns
            .iter()
            .enumerate()
            .any(|(at, column)| column.sent && !positions.contains(&Some(at)));
        if gone { Known::Changed { table: index } } else { Known::Same { table: index, leaf, positions } }
    }

    /// Takes a table's new columns, as the stream shows them, with what the catalog says of them.
    pub(crate) fn change(
        &mut self,
        index: usize,
        table: &Table,
        within: [Lsn; 2],
    ) -> Result<Arc<TableSchema>> {
        self.change_at(index, table, EventLsn::Within(within))
    }

    /// As [`Registry::change`], at a place that may be known exactly.
    pub(crate) fn change_at(
        &mut self,
        index: usize,
        table: &Table,
        place: EventLsn,
    ) -> Result<Arc<TableSchema>> {
        let rules = self.rules.with_known(self);
        if let Some(captured) = self.tables.get(index) {
            check_still_free(&captured.schema().columns, &captured.key, &captured.schema().log_name)?;
            rules.check_table(table, &captured.key)?;
        }
        // A table that is renamed keeps its class as well.
        let retention = self.tables.get(index).and_then(|captured| captured.schema().retention.clone());
        self.change_under(&rules, retention, index, table, place)
    }

    fn change_under(
        &mut self,
        rules: &ColumnRules,
        retention: Option<String>,
        index: usize,
        table: &Table,
        place: EventLsn,
    ) -> Result<Arc<TableSchema>> {
        self.doubts_told = false;
        let captured = self.tables.get_mut(index).ok_or_else(|| Error::other("a table is not known"))?;
        let old = Arc::clone(captured.schema());
        let mut marked = rules.mark(table, &captured.key);
        for column in &mut marked.columns {
            let before = table.columns.iter().find(|before| before.attnum == column.attnum);
            // The hash of what older rows read as is no such value.
            if column.hashed.is_none() && before.is_some_and(|before| before.hashed.is_some()) {
                column.missing = None;
            }
            // A rewrite has written it into those rows, and the catalog forgets it; the rows that are known are of before.
            if column.missing.is_none() && column.hashed.is_none() {
                column.missing = missing_before(&old, column);
            }
        }
        let mut schema = TableSchema::new(
            old.number,
            old.log_name.clone(),
            old.version + 1,
            &marked,
            &captured.key,
            &captured.physical,
        );
        // Files go on under the name and oid that the table had when it was attached.
        schema.retention = retention;
        schema.partitioned |= old.partitioned;
        schema.name.clone_from(&old.name);
        schema.oid = old.oid;
        captured.physical.learn(&schema);
        captured.changed_at = place.latest();
        let schema = Arc::new(schema);
        captured.versions.push(Arc::clone(&schema));
        self.new_schemas.push(document(&schema));
        let event = Event::placed(EventKind::Schema, Some(old.log_name.clone()), place);
        self.new_events.push(telling_rules(event.with("schema", schema.version), &schema));
        let otherwise = schema.columns.iter().filter(|column| !column.column.left_out).any(|column| {
            let before = old.columns.iter().find(|before| before.column.attnum == column.column.attnum);
            before.is_some_and(|before| !before.is_form_of(column))
        });
        let reason = if otherwise {
            // What is known of the rows is of the other form: each is looked at once more.
            Some("other columns are hashed")
        } else {
            reads_otherwise(&old, &schema).then_some("values read otherwise under the type of now")
        };
        if let Some(reason) = reason.filter(|_| captured.snapshot.is_some()) {
            captured.raise(Doubt::at(place.latest()));
            let event = Event::placed(EventKind::Rewrite, Some(old.log_name.clone()), place);
            self.new_events.push(event.with("doubt", true).with("reason", reason));
        }
        Ok(schema)
    }

    /// Other columns than before are to be left out, hashed, or not to be watched, or a table is of another retention class: a schema
    /// version of its own says so.
    pub(crate) fn rule_from(
        &mut self,
        rules: ColumnRules,
        retention: Retention,
        tables: &[Table],
        lsn: Lsn,
    ) -> Result<()> {
        self.rules = rules.clone();
        self.retention = retention;
        for index in 0..self.tables.len() {
            let Some(captured) = self.tables.get(index).filter(|captured| !captured.dropped) else {
                continue;
            };
            let old = Arc::clone(captured.schema());
            let Some(table) = tables.iter().find(|table| table.oid == old.oid) else { continue };
            // A column that was renamed since is meant by the name that it has, and by the one that it had.
            let rules = rules.with_marked(&rules.mark(table, &captured.key));
            // What else has become of its columns is seen where it happened.
            let columns = old.columns.iter().map(|column| column.column.clone()).collect();
            let table = Table { columns, ..table.clone() };
            let marked = rules.mark(&table, &captured.key);
            let pairs = || marked.columns.iter().zip(&old.columns);
            for (now, before) in pairs() {
                self.rules.check_same_key(now, &before.column, &old.log_name)?;
            }
            let class = self.retention.of(&table.name).map(str::to_owned);
            for (now, before) in pairs() {
                let before = &before.column;
                if is_spared(before) && !is_spared(now) {
                    let how = if before.left_out { "left out" } else { "hashed" };
                    tracing::warn!(
                        table = old.log_name,
                        column = now.name,
                        "the column is no longer {how}: its values are kept from here on"
                    );
                }
            }
            if pairs().any(|(now, before)| !same_rules(now, &before.column)) || class != old.retention {
                let schema = self.change_under(&rules, class, index, &table, EventLsn::At(lsn))?;
                tracing::info!(table = schema.log_name, schema = schema.version, "other rules hold for it");
            }
        }
        Ok(())
    }

    /// A table's snapshot is in the log.
    pub(crate) fn snapshot_done(&mut self, index: usize, lsn: Lsn) {
        if let Some(table) = self.tables.get_mut(index) {
            table.snapshot = Some(lsn);
        }
    }

    /// The table's snapshot is not in the log yet.
    pub(crate) fn is_waiting(&self, index: usize) -> bool {
        self.tables.get(index).is_some_and(|table| table.snapshot.is_none())
    }

    /// The tables to be copied before the stream goes on, by index: facts of one that goes on under another's name have that one's
    /// versions before them, and are made by comparison, beside the stream.
    pub(crate) fn to_copy_first(&self) -> Vec<usize> {
        self.tables
            .iter()
            .enumerate()
            .filter(|(_, table)| table.snapshot.is_none() && !table.dropped && !table.again)
            .map(|(at, _)| at)
            .collect()
    }

    /// The oids of all captured tables and their leaves.
    pub(crate) fn oids(&self) -> HashSet<u32> {
        self.relations.keys().copied().collect()
    }

    /// Oids of tables that the patterns select no longer, and of their leaves.
    pub(crate) fn left_out(&self, patterns: &Patterns) -> HashSet<u32> {
        let is_left_out = |table: &Captured| {
            !table.dropped && !patterns.select(&table.present_name) && !patterns.select(&table.schema().name)
        };
        let left_out = self.tables.iter().enumerate().filter(|(_, table)| is_left_out(table));
        left_out.flat_map(|(index, _)| self.relations_of(index)).collect()
    }

    /// The leaf partitions of tables.
    pub(crate) fn leaves_of(&self, tables: &[usize]) -> Vec<u32> {
        let mut leaves: Vec<u32> = self
            .relations
            .values()
            .filter(|(table, leaf)| *leaf != 0 && tables.contains(table))
            .map(|(_, leaf)| *leaf)
            .collect();
        leaves.sort_unstable();
        leaves
    }

    /// The keys that name the rows of tables, by oid.
    pub(crate) fn keys(&self) -> HashMap<u32, Vec<i16>> {
        let there = self.tables.iter().filter(|table| !table.dropped);
        there.map(|table| (table.schema().oid, table.key.clone())).collect()
    }

    /// Every captured table's columns can be read in binary form.
    pub(crate) fn reads_binary(&self) -> bool {
        self.tables.iter().all(|table| table.dropped || table.schema().reads_binary())
    }
}

/// An event of all tables, by which each is in doubt.
fn is_of_all(event: &Event) -> bool {
    event.table.is_none()
        && matches!(event.kind, EventKind::Gap | EventKind::Fork)
        && event.detail.get("doubt").and_then(serde_json::Value::as_bool) == Some(true)
}

/// The attnums of the key that names a table's rows. A partitioned table without one has that of its leaves, where all have
/// the same.
pub(crate) fn pinned_key(table: &Table, all: &[Table]) -> Vec<i16> {
    if table.kind != TableKind::Partitioned || !table.key().is_empty() {
        return table.key().to_vec();
    }
    // The order of a leaf's columns is its own [8].
    let names = |leaf: &Table| -> Vec<String> {
        leaf.key().iter().filter_map(|attnum| Some(leaf.column(*attnum)?.name.clone())).collect()
    };
    let mut keys = leaves_of(table, all).map(names);
    let Some(first) = keys.next() else { return Vec::new() };
    if first.is_empty() || keys.any(|key| key != first) {
        return Vec::new();
    }
    let attnum =
        |name: &String| table.columns.iter().find(|column| column.name == *name).map(|column| column.attnum);
    first.iter().map(attnum).collect::<Option<Vec<i16>>>().unwrap_or_default()
}

/// The key by which a table's rows are named from now on, that were named by another before. One that lost its identity goes on with
/// that: nothing better names its rows.
pub(crate) fn key_after(known: &[i16], now: &Table, all: &[Table]) -> Vec<i16> {
    let key = pinned_key(now, all);
    let lost = key.is_empty() && is_unseen(now, all);
    let is_there = |attnum: &i16| now.column(*attnum).is_some();
    if lost && known.iter().all(is_there) { known.to_vec() } else { key }
}

/// Updates and deletes of the table cannot be followed: they are not published [9], or name rows of a partitioned table by
/// keys that not all of its leaves have.
pub(crate) fn is_unseen(table: &Table, all: &[Table]) -> bool {
    match table.kind {
        TableKind::Partitioned => {
            let keyless = pinned_key(table, all).is_empty();
            leaves_of(table, all).any(|leaf| {
                leaf.identity == ReplicaIdentity::Nothing
                    || (keyless && leaf.identity != ReplicaIdentity::Full)
            })
        }
        _ => table.identity == ReplicaIdentity::Nothing,
    }
}

fn leaves_of<'a>(table: &'a Table, all: &'a [Table]) -> impl Iterator<Item = &'a Table> {
    all.iter().filter(|leaf| matches!(leaf.kind, TableKind::Leaf { root } if root == table.oid))
}

/// The log's form of a schema.
fn document(schema: &TableSchema) -> SchemaVersion {
    let in_key = |at: usize| schema.key.contains(&at);
    let columns = schema
        .columns
        .iter()
        .enumerate()
        .map(|(at, column)| ColumnDoc::new(&column.column, in_key(at), &column.physical))
        .collect();
    let key = schema
        .key
        .iter()
        .filter_map(|at| schema.columns.get(*at))
        .map(|column| column.column.attnum)
        .collect();
    let mut extra = serde_json::Map::new();
    extra.insert("number".to_owned(), schema.number.into());
    SchemaVersion {
        table: schema.log_name.clone(),
        schema: schema.version,
        oid: schema.oid,
        columns,
        key,
        retention: schema.retention.clone(),
        partitioned: schema.partitioned,
        extra,
    }
}

/// A schema out of the log, with the table's number and the attnums of its key.
fn of_document(name: &str, version: &SchemaVersion) -> Result<(u32, TableSchema, Vec<i16>)> {
    let damaged = || {
        Error::other(format!("the log's schema {} of {name} is damaged: run bygone verify", version.schema))
    };
    let table = parse_table_text(name).ok_or_else(damaged)?;
    let number = version.number().ok_or_else(damaged)?;
    let columns = version.live_columns();
    let schema = TableSchema::of_columns(
        number,
        table,
        name.to_owned(),
        version.oid,
        version.schema,
        columns,
        &version.key,
    )
    .as_in(version);
    Ok((number, schema, version.key.clone()))
}

/// What rows that are older than a column were known to read as in it, as a value of its type of now.
fn missing_before(old: &TableSchema, column: &Column) -> Option<String> {
    let before = &old.columns.get(old.position(column.attnum)?)?.column;
    let missing = before.missing.clone().filter(|_| before.hashed.is_none())?;
    Some(Cast::between(&before.data_type, &column.data_type).apply(missing))
}

/// The type of a column has changed, and what its values read as now, though the server may have rewritten none: in a way that only the
/// source can tell, or where rows are known by them.
fn reads_otherwise(old: &TableSchema, now: &TableSchema) -> bool {
    now.columns.iter().enumerate().any(|(at, column)| {
        let before = old.position(column.column.attnum).and_then(|before| old.columns.get(before));
        let cast = before.map(|before| Cast::between(&before.column.data_type, &column.column.data_type));
        match cast {
            None | Some(Cast::Same) => false,
            Some(Cast::Unknown) => true,
            Some(_) => column.column.hashed.is_some() || now.key.contains(&at),
        }
    })
}

/// The event with the names of the columns that are left out, hashed, or not watched, and the table's retention class.
fn telling_rules(mut event: Event, schema: &TableSchema) -> Event {
    if let Some(class) = &schema.retention {
        event = event.with("retention", class.clone());
    }
    let names = |holds: fn(&Column) -> bool| -> Vec<&str> {
        let columns = schema.columns.iter().map(|column| &column.column);
        columns.filter(|column| holds(column)).map(|column| column.name.as_str()).collect()
    };
    for (rule, names) in [
        ("left_out", names(|column| column.left_out)),
        ("hashed", names(|column| column.hashed.is_some())),
        ("updates_ignored", names(|column| column.unwatched)),
    ] {
        if !names.is_empty() {
            event = event.with(rule, names);
        }
    }
    event
}
