//! What the relations of a stream are to the captured tables, and the changes that they announce.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bygone_replication::Lsn;
use bygone_replication::catalog::Attribute;
use bygone_replication::ddl::{self, Ddl};
use bygone_replication::pgoutput::{Message, Relation};
use bygone_replication::table;
use bygone_sink::fact::Op;
use bygone_sink::log::{EventLsn, table_text};
use bygone_sink::versioning::{Versioner, is_context};

use super::registry::{Known, Part, Registry};
use super::source::CatalogReader;
use crate::error::{Error, Result};

/// Where a transaction stands whose facts are being made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The catalog was as the history has it up to here.
    pub(crate) held: Lsn,
    /// Where the transaction before it ends.
    pub(crate) position: Lsn,
    /// Where it ends itself.
    pub(crate) end: Lsn,
    /// Its number, where that is known.
    pub(crate) xid: Option<u32>,
}

/// Captured tables with what makes facts of their changes.
pub(crate) struct Follower {
    pub(crate) versioner: Versioner,
    pub(crate) registry: Registry,
    /// The last Relation message of each relation, as it came: the server sends it once in a connection.
    announced: HashMap<u32, Vec<u8>>,
    /// Relations that were told to have other columns since they were announced.
    overtaken: HashSet<u32>,
}

impl Follower {
    pub(crate) fn new(versioner: Versioner, registry: Registry) -> Self {
        Self { versioner, registry, announced: HashMap::new(), overtaken: HashSet::new() }
    }

    /// Another connection announces everything anew.
    pub(crate) fn forget(&mut self) {
        self.announced.clear();
        self.overtaken.clear();
        self.versioner.forget_relations();
    }

    /// The Relation messages of these relations that have been seen.
    pub(crate) fn announcements(&self, oids: impl IntoIterator<Item = u32>) -> Vec<Vec<u8>> {
        oids.into_iter().filter_map(|oid| self.announced.get(&oid).cloned()).collect()
    }

    /// Asks the catalog for what a message of a transaction will be looked up in, before facts of the transaction are made: then nothing
    /// is half done where the source has gone.
    pub(crate) fn prepare(&mut self, body: &[u8], catalog: &mut CatalogReader, xid: u64) -> Result<()> {
        match body.first() {
            Some(b'R') => {
                catalog.see(xid)?;
                let Message::Relation(relation) = Message::decode(body)? else { return Ok(()) };
                if let Known::Unknown = self.registry.look_up(&relation) {
                    let tables = catalog.know_tables(&[relation.oid])?;
                    self.registry.know_relations(&tables);
                }
                match self.registry.look_up(&relation) {
                    Known::Same { table, .. } | Known::Changed { table }
                        if self.registry.is_waiting(table) => {}
                    Known::Same { table, .. } => {
                        let root = self.registry.tables().get(table).map(|table| table.schema().oid);
                        catalog.know_attributes(&[root.unwrap_or(relation.oid), relation.oid])?;
                    }
                    Known::Changed { table } => {
                        let root = self.versioner.schema(table).map(|schema| schema.oid);
                        catalog.know_tables(&[root.unwrap_or(relation.oid), relation.oid])?;
                    }
                    Known::Unknown => {}
                }
            }
            Some(b'M') => {
                let Message::Logical { transactional: true, prefix, content, .. } = Message::decode(body)?
                else {
                    return Ok(());
                };
                if is_foreign(prefix, content) {
                    catalog.know_text(content)?;
                }
                if prefix == ddl::PREFIX {
                    match Ddl::parse(&in_unicode(prefix, content, catalog)?) {
                        Ok(Ddl::Table { oid, .. } | Ddl::Drop { oid })
                            if self.registry.by_oid(oid).is_some() =>
                        {
                            catalog.see(xid)?;
                            catalog.know_tables(&[oid])?;
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes a message of a transaction whose facts are being made.
    pub(crate) fn message(&mut self, body: &[u8], catalog: &mut CatalogReader, place: &Place) -> Result<()> {
        if let Some(doubts) = self.registry.new_doubts() {
            for (index, doubt) in doubts.enumerate() {
                self.versioner.set_doubt(index, doubt.map(|doubt| doubt.leaf.unwrap_or(0)));
            }
        }
        match Message::decode(body)? {
            Message::Logical { transactional: true, prefix: ddl::PREFIX, content, .. } => {
                match Ddl::parse(&in_unicode(ddl::PREFIX, content, catalog)?) {
                    Ok(told) => self.ddl(told, catalog, place.end),
                    Err(error) => {
                        // Anybody may send messages, and each is followed by a look at the catalog.
                        tracing::warn!(%error, "a message of bygone.ddl makes no sense");
                        Ok(())
                    }
                }
            }
            Message::Relation(relation) => {
                self.announced.insert(relation.oid, body.to_vec());
                self.overtaken.remove(&relation.oid);
                self.relation(&relation, catalog, place)
            }
            Message::Logical { transactional: true, prefix, content, lsn } => {
                let content = &*in_unicode(prefix, content, catalog)?;
                let message = Message::Logical { transactional: true, prefix, content, lsn };
                Ok(self.versioner.message(&message)?)
            }
            message => {
                if !self.overtaken.is_empty() {
                    for oid in relations_of(&message) {
                        self.trust_announced(oid, catalog, place)?;
                    }
                }
                self.versioner.message(&message)?;
                if let Message::Truncate { .. } = message {
                    self.registry.truncated(&relations_of(&message), place.end);
                }
                Ok(())
            }
        }
    }

    /// A row comes of a relation that is not announced anew: its columns are as it was announced, whatever was told of them since.
    fn trust_announced(&mut self, oid: u32, catalog: &mut CatalogReader, place: &Place) -> Result<()> {
        if !self.overtaken.remove(&oid) {
            return Ok(());
        }
        let Some(body) = self.announced.get(&oid).cloned() else { return Ok(()) };
        let Message::Relation(relation) = Message::decode(&body)? else { return Ok(()) };
        self.relation(&relation, catalog, place)
    }

    /// Takes a Relation message that was seen before these tables were read.
    pub(crate) fn remember(&mut self, body: &[u8]) -> Result<()> {
        let Message::Relation(relation) = Message::decode(body)? else { return Ok(()) };
        self.announced.insert(relation.oid, body.to_vec());
        self.map_again([relation.oid])
    }

    /// Maps relations that were announced before onto what the registry says by now.
    pub(crate) fn map_again(&mut self, oids: impl IntoIterator<Item = u32>) -> Result<()> {
        for oid in oids {
            let Some(body) = self.announced.get(&oid).cloned() else { continue };
            let Message::Relation(relation) = Message::decode(&body)? else { continue };
            match self.registry.look_up(&relation) {
                Known::Same { table, .. } | Known::Changed { table } if self.registry.is_waiting(table) => {
                    self.versioner.ignore_relation(oid);
                }
                Known::Same { table, leaf, positions } => {
                    let identity = identity(&relation, &positions);
                    self.versioner.map_relation(oid, table, leaf, positions, identity);
                }
                // The server announces it anew before its next row: what it was altered by is known by now.
                Known::Changed { .. } => {
                    self.versioner.forget_relation(oid);
                    self.overtaken.insert(oid);
                }
                Known::Unknown => self.versioner.ignore_relation(oid),
            }
        }
        Ok(())
    }

    /// DDL at its very place, as the event triggers tell it [22].
    fn ddl(&mut self, told: Ddl, catalog: &mut CatalogReader, end: Lsn) -> Result<()> {
        match told {
            Ddl::Table { oid, columns, filenode, stamp } => {
                let Some(index) = self.registry.by_oid(oid) else { return Ok(()) };
                let Some(old) = self.versioner.schema(index).cloned() else { return Ok(()) };
                let now = catalog.tables(&[oid])?.into_iter().next();
                if super::evolve::is_impossible(&columns, &old, now.as_ref()) {
                    passed_over(&old.log_name);
                    return Ok(());
                }
                let table = super::evolve::as_told(oid, &columns, &old, now.as_ref());
                if super::evolve::differ(&old.columns, &table.columns) {
                    let schema = self.registry.change_at(index, &table, EventLsn::At(end))?;
                    tracing::info!(table = schema.log_name, schema = schema.version, "new columns");
                    self.versioner.change_schema(index, schema)?;
                    let relations = self.registry.relations_of(index);
                    self.map_again(relations)?;
                }
                self.registry.part_is(index, oid, Part { filenode, stamp }, end);
                Ok(())
            }
            Ddl::Published { oid, updates } => {
                if let Some(index) = self.registry.by_oid(oid) {
                    self.registry.updates_are(index, updates, end);
                }
                Ok(())
            }
            Ddl::Drop { oid } => {
                let Some(index) = self.registry.by_oid(oid) else { return Ok(()) };
                if let Some(there) = catalog.tables(&[oid])?.first() {
                    passed_over(&table_text(&there.name));
                    return Ok(());
                }
                let rows = self.versioner.bury_table(index, Op::Drop, None)?;
                for oid in self.registry.relations_of(index) {
                    self.registry.forget_relation(oid);
                    self.versioner.ignore_relation(oid);
                }
                self.registry.dropped(index, end, rows);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn relation(
        &mut self,
        relation: &Relation<'_>,
        catalog: &mut CatalogReader,
        place: &Place,
    ) -> Result<()> {
        match self.registry.look_up(relation) {
            Known::Same { table, .. } | Known::Changed { table } if self.registry.is_waiting(table) => {
                // Its snapshot is still to come, and holds all of this.
                self.versioner.ignore_relation(relation.oid);
                Ok(())
            }
            Known::Same { table, .. } if self.has_moved(table, relation, catalog, place.xid)? => {
                self.changed(table, relation, catalog, place)
            }
            Known::Same { table, leaf, positions } => {
                let identity = identity(relation, &positions);
                self.versioner.map_relation(relation.oid, table, leaf, positions, identity);
                Ok(())
            }
            Known::Unknown => {
                // Perhaps a partition that came after the tables were read.
                let tables = catalog.tables(&[relation.oid])?;
                self.registry.know_relations(&tables);
                match self.registry.look_up(relation) {
                    Known::Unknown => {
                        tracing::debug!(
                            schema = relation.schema,
                            table = relation.name,
                            "not captured: passed over"
                        );
                        self.versioner.ignore_relation(relation.oid);
                        Ok(())
                    }
                    Known::Same { .. } | Known::Changed { .. } => self.relation(relation, catalog, place),
                }
            }
            Known::Changed { table } => self.changed(table, relation, catalog, place),
        }
    }

    /// The columns that the stream names are others than those which had these names: they have changed names among
    /// themselves, or were dropped and made again. Nothing in the message tells that, so the catalog is asked each time [21].
    ///
    /// The catalog may be ahead of the stream. Columns come in the order of their numbers: where the catalog's are not, it is.
    /// What that leaves open is told by the transaction that touched the columns last.
    fn has_moved(
        &mut self,
        index: usize,
        relation: &Relation<'_>,
        catalog: &mut CatalogReader,
        xid: Option<u32>,
    ) -> Result<bool> {
        let Some(table) = self.registry.tables().get(index) else { return Ok(false) };
        let schema = Arc::clone(table.schema());
        let columns = schema.columns.iter().map(|column| &column.column);
        let known: HashMap<&str, i16> = columns.map(|column| (column.name.as_str(), column.attnum)).collect();
        let attributes = catalog.attributes(&[schema.oid, relation.oid])?;
        let of = |oid: u32| -> HashMap<&str, &Attribute> {
            let own = attributes.iter().filter(|attribute| attribute.relation == oid);
            own.map(|attribute| (attribute.name.as_str(), attribute)).collect()
        };
        let (root, own) = (of(schema.oid), of(relation.oid));
        let names: Vec<&str> = relation.columns().map(|column| column.name).collect();
        let moved: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| root.get(name).is_some_and(|now| known.get(name) != Some(&now.attnum)))
            .collect();
        let ascends = |attnums: Vec<i16>| attnums.is_sorted_by(|a, b| a < b);
        let is_leaf = relation.oid != schema.oid;
        let before_fits =
            is_leaf || ascends(names.iter().filter_map(|name| known.get(name).copied()).collect());
        if moved.is_empty() {
            // They had other names then, and have these again by now.
            return Ok(!before_fits);
        }
        let now_fits = ascends(names.iter().filter_map(|name| Some(own.get(name)?.attnum)).collect());
        let touched_after = || {
            let mut touched = moved.iter().filter_map(|name| own.get(name)).map(|attribute| attribute.xmin);
            // Numbers of transactions go round.
            xid.is_none_or(|xid| touched.all(|xmin| xid.wrapping_sub(xmin).cast_signed() >= 0))
        };
        let moved = now_fits && (!before_fits || touched_after());
        if let Some(table) = self.registry.table_mut(index).filter(|_| now_fits && before_fits) {
            // Either may be wrong. The rows that came are compared with the source once the catalog is caught up with.
            table.unsure = true;
        }
        Ok(moved)
    }

    /// The stream shows a table with other columns than before.
    fn changed(
        &mut self,
        index: usize,
        relation: &Relation<'_>,
        catalog: &mut CatalogReader,
        place: &Place,
    ) -> Result<()> {
        let old = self.versioner.schema(index).cloned();
        let Some(old) = old else { return Err(Error::other("a table is not known")) };
        // A partition has the columns of its root under numbers of its own.
        let is_leaf = relation.oid != old.oid;
        let tables = catalog.tables(&[old.oid, relation.oid])?;
        let now = tables.iter().find(|table| table.oid == old.oid);
        let now = now.map(|root| super::evolve::filled_from(root, &tables));
        let table = super::evolve::as_of_stream(relation, &old, now.as_deref(), is_leaf);
        let in_order = is_leaf || super::evolve::is_in_order(relation, &table);
        // It came behind the last row with the columns of before, too.
        let after = place.held.max(self.versioner.last_fact(index)).min(place.position);
        let schema = self.registry.change(index, &table, [after, place.end])?;
        tracing::info!(table = schema.log_name, schema = schema.version, "new columns");
        self.versioner.change_schema(index, Arc::clone(&schema))?;
        // What older rows read as was not caught in time: a rewrite has written it into them since [23].
        let lost = schema.columns.iter().any(|column| {
            let column = &column.column;
            old.position(column.attnum).is_none() && column.has_default && column.missing.is_none()
        });
        if !in_order {
            self.registry.doubt(index, place.position, "nobody can tell which of the columns are which");
        } else if !self.registry.make_sure(index, place.position) && lost {
            self.registry.doubt(
                index,
                place.position,
                "a column came, and what older rows read as cannot be told any more",
            );
        }
        // Once the catalog tells which column it is, what came of it is that one's.
        if super::evolve::has_stranger(&table, &old, now.as_deref())
            && let Some(table) = self.registry.table_mut(index)
        {
            table.unsure = true;
        }
        match self.registry.look_up(relation) {
            Known::Same { table, leaf, positions } => {
                let identity = identity(relation, &positions);
                self.versioner.map_relation(relation.oid, table, leaf, positions, identity);
                Ok(())
            }
            Known::Changed { .. } | Known::Unknown => Err(Error::other(format!(
                "the columns of {} in the stream make no sense beside its catalog entry",
                table::TableName::new(relation.schema, relation.name)
            ))),
        }
    }
}

/// The message is for bygone, and not in UTF-8: the server sends messages as they were given to it, in the encoding of the database.
fn is_foreign(prefix: &str, content: &[u8]) -> bool {
    (prefix == ddl::PREFIX || is_context(prefix)) && std::str::from_utf8(content).is_err()
}

/// What a message says in UTF-8; as it is, where nobody can tell.
fn in_unicode<'a>(prefix: &str, content: &'a [u8], catalog: &mut CatalogReader) -> Result<Cow<'a, [u8]>> {
    if !is_foreign(prefix, content) {
        return Ok(Cow::Borrowed(content));
    }
    let text = catalog.text(content)?;
    Ok(text.map_or(Cow::Borrowed(content), |text| Cow::Owned(text.into_bytes())))
}

/// The relations whose rows a message brings, or ends.
fn relations_of(message: &Message<'_>) -> Vec<u32> {
    match message {
        Message::Insert { relation, .. }
        | Message::Update { relation, .. }
        | Message::Delete { relation, .. } => vec![*relation],
        Message::Truncate { relations, .. } => relations.oids().collect(),
        _ => Vec::new(),
    }
}

/// Any role may send a message as the event triggers do.
fn passed_over(table: &str) {
    tracing::warn!(table, "a message of bygone.ddl tells what the catalog contradicts: it is passed over");
}

/// The places of the columns by which old rows are named; none where whole rows come, or nothing.
fn identity(relation: &Relation<'_>, positions: &[Option<usize>]) -> Option<Vec<usize>> {
    if !matches!(relation.identity, b'd' | b'i') {
        return None;
    }
    let columns = relation.columns().zip(positions);
    let mut places: Vec<usize> = columns.filter(|(column, _)| column.key).filter_map(|(_, at)| *at).collect();
    places.sort_unstable();
    Some(places)
}
