//! The captured tables: what the log knows of them, and what the stream calls them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bygone_replication::Lsn;
use bygone_replication::pgoutput::Relation;
use bygone_replication::table::{ReplicaIdentity, Table, TableKind};
use bygone_sink::log::{
    ColumnDoc, Event, EventKind, EventLsn, LogState, SchemaVersion, parse_table_text, table_text,
};
use bygone_sink::schema::{PhysicalNames, SchemaColumn, TableSchema};
use bygone_sink::value::Kind;

use crate::error::{Error, Result};

/// A captured table.
#[derive(Clone, Debug)]
pub(crate) struct Captured {
    /// Its schema versions, oldest first; never empty.
    pub(crate) versions: Vec<Arc<TableSchema>>,
    physical: PhysicalNames,
    key: Vec<i16>,
    /// The consistent point of its snapshot, once that is in the log.
    pub(crate) snapshot: Option<Lsn>,
}

impl Captured {
    /// The newest schema.
    pub(crate) fn schema(&self) -> &Arc<TableSchema> {
        // There is always one: `attach` and `of_log` begin with it.
        self.versions.last().unwrap_or_else(|| unreachable!("a captured table has a schema"))
    }
}

/// All captured tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    tables: Vec<Captured>,
    by_name: BTreeMap<String, usize>,
    /// Relations of the stream: table or leaf partition, to the table's index and the leaf's oid (or 0).
    relations: HashMap<u32, (usize, u32)>,
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
                    let empty = Captured {
                        versions: Vec::new(),
                        physical: PhysicalNames::default(),
                        key,
                        snapshot: None,
                    };
                    (number, empty)
                });
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
            let (EventKind::Snapshot, Some(name), Some(lsn)) = (&event.kind, &event.table, event.lsn) else {
                continue;
            };
            if let Some(table) = registry.by_name.get(name).and_then(|at| registry.tables.get_mut(*at)) {
                table.snapshot = Some(lsn.latest());
            }
        }
        Ok(registry)
    }

    fn push(&mut self, name: String, captured: Captured) -> usize {
        let index = self.tables.len();
        self.relations.insert(captured.schema().oid, (index, 0));
        self.by_name.insert(name, index);
        self.tables.push(captured);
        index
    }

    /// The captured tables, by index.
    pub(crate) fn tables(&self) -> &[Captured] {
        &self.tables
    }

    /// Index of the table with a name in the log.
    pub(crate) fn index_of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Schema versions of all tables by name, as state is rebuilt with.
    pub(crate) fn schemas(&self) -> HashMap<String, Vec<Arc<TableSchema>>> {
        self.by_name
            .iter()
            .filter_map(|(name, at)| Some((name.clone(), self.tables.get(*at)?.versions.clone())))
            .collect()
    }

    /// Begins to capture a table. Leaves are made known with [`Registry::know_leaves`].
    pub(crate) fn attach(&mut self, table: &Table, lsn: Lsn) -> usize {
        let name = table_text(&table.name);
        let number = u32::try_from(self.tables.len()).unwrap_or(u32::MAX);
        let key = table.key().to_vec();
        let physical = PhysicalNames::default();
        let schema = TableSchema::new(number, name.clone(), 1, table, &key, &physical);
        let identity = if key.is_empty() { "content" } else { "key" };
        self.new_events.push(
            Event::at(EventKind::Attach, Some(name.clone()), lsn)
                .with("identity", identity)
                .with("replica_identity", format!("{:?}", table.identity).to_lowercase()),
        );
        if table.identity == ReplicaIdentity::Nothing && table.kind == TableKind::Ordinary {
            // Readers must know that the table's rows may have changed since [9].
            self.new_events.push(Event::at(
                EventKind::Other("updates_unseen".to_owned()),
                Some(name.clone()),
                lsn,
            ));
        }
        self.new_schemas.push(document(&schema));
        let mut captured = Captured { versions: Vec::new(), physical, key, snapshot: None };
        captured.physical.learn(&schema);
        captured.versions.push(Arc::new(schema));
        self.push(name, captured)
    }

    /// Makes the leaf partitions of captured tables known, and tables under their present oids.
    pub(crate) fn know_relations(&mut self, tables: &[Table]) {
        let roots: HashMap<u32, usize> = tables
            .iter()
            .filter(|table| !matches!(table.kind, TableKind::Leaf { .. }))
            .filter_map(|table| Some((table.oid, self.index_of(&table_text(&table.name))?)))
            .collect();
        for table in tables {
            match table.kind {
                TableKind::Leaf { root } => {
                    let index = roots
                        .get(&root)
                        .copied()
                        .or_else(|| self.tables.iter().position(|captured| captured.schema().oid == root));
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
            positions.push(at);
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
        let captured = self.tables.get_mut(index).ok_or_else(|| Error::other("a table is not known"))?;
        let old = Arc::clone(captured.schema());
        let mut schema = TableSchema::new(
            old.number,
            old.log_name.clone(),
            old.version + 1,
            table,
            &captured.key,
            &captured.physical,
        );
        // Files go on under the name and oid that the table had when it was attached.
        schema.name.clone_from(&old.name);
        schema.oid = old.oid;
        captured.physical.learn(&schema);
        let schema = Arc::new(schema);
        captured.versions.push(Arc::clone(&schema));
        self.new_schemas.push(document(&schema));
        let mut event = Event::at(EventKind::Schema, Some(old.log_name.clone()), within[1]);
        event.lsn = Some(EventLsn::Within(within));
        self.new_events.push(event.with("schema", schema.version));
        Ok(schema)
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

    /// The tables whose snapshot is not in the log yet, by index.
    pub(crate) fn without_snapshot(&self) -> Vec<usize> {
        self.tables
            .iter()
            .enumerate()
            .filter(|(_, table)| table.snapshot.is_none())
            .map(|(at, _)| at)
            .collect()
    }

    /// The oids of all captured tables and their leaves.
    pub(crate) fn oids(&self) -> HashSet<u32> {
        self.relations.keys().copied().collect()
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

    /// Every captured table's columns can be read in binary form.
    pub(crate) fn reads_binary(&self) -> bool {
        self.tables.iter().all(|table| table.schema().reads_binary())
    }
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
        extra,
    }
}

/// A schema out of the log, with the table's number and the attnums of its key.
fn of_document(name: &str, version: &SchemaVersion) -> Result<(u32, TableSchema, Vec<i16>)> {
    let damaged = || {
        Error::other(format!("the log's schema {} of {name} is damaged: run bygone verify", version.schema))
    };
    let table = parse_table_text(name).ok_or_else(damaged)?;
    let number =
        version.extra.get("number").and_then(serde_json::Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let number = number.ok_or_else(damaged)?;
    let columns = version
        .columns
        .iter()
        .filter(|column| !column.dropped)
        .map(|document| {
            let column = document.column();
            SchemaColumn {
                physical: document.physical().to_owned(),
                kind: Kind::of(&column.data_type),
                sent: column.generated.is_none(),
                column,
            }
        })
        .collect();
    let schema = TableSchema::of_columns(
        number,
        table,
        name.to_owned(),
        version.oid,
        version.schema,
        columns,
        &version.key,
    );
    Ok((number, schema, version.key.clone()))
}
