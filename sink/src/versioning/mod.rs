//! Changes become facts: each is versioned against what state knows of its entity.
//!
//! A [`Versioner`] is given whole transactions, change by change, in commit order. What it learns of entities stays in
//! memory (or, for a transaction that outgrows it, in a spill file) until the log has the facts: see
//! [`Versioner::seal`].

mod alias;
mod beside;
mod content;
mod context;
mod emit;
mod keyed;
mod known;
mod rebuild;
mod reconcile;
mod snapshot;
mod table;

use std::collections::HashMap;
use std::sync::Arc;

use bygone_replication::Lsn;
use bygone_replication::pgoutput::{Message, Relations, Tuple};

use crate::encoder::Encoder;
use crate::error::{Error, ErrorKind, Result};
use crate::fact::{Context, Op, Origin};
use crate::hashing::{HashKey, Intake};
use crate::schema::TableSchema;
use crate::state::State;
use crate::transactions::TransactionBatch;

use beside::Beside;
use emit::{Emitter, Findings};
use keyed::{Change, Gone, Scratch};
use known::{Entities, visit_all};
use table::{CapturedTable, RelationMap};

pub use context::is_context;
pub use emit::{Finding, FindingKind};
pub use known::Sealed;
pub use rebuild::{CatchUp, catch_up, catch_up_until};
pub use reconcile::{Reconciled, Telling};
pub use snapshot::{ContentLoader, SnapshotWriter};
pub(crate) use table::damaged_row;

/// What a transaction brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactionSummary {
    /// Facts of all tables.
    pub facts: u64,
    /// The application said who made it.
    pub has_actor: bool,
}

/// Turns changes into facts.
#[derive(Debug)]
pub struct Versioner {
    tables: Vec<CapturedTable>,
    relations: HashMap<u32, Option<RelationMap>>,
    entities: Entities,
    out: Emitter,
    scratch: Scratch,
    beside: Beside,
    transactions: TransactionBatch,
    replication_origin: Option<String>,
    /// The last context of the transaction, for its row in the table of transactions.
    said: Option<Arc<Context>>,
    counts: Vec<(usize, i64)>,
    /// A row that was deleted from a leaf partition, by relation: it may only have moved [8].
    gone: Option<(u32, Gone)>,
    /// Bytes of changes in memory after which a transaction is spilled.
    spill_bytes: usize,
    hash_key: Option<HashKey>,
}

impl AsRef<Entities> for Versioner {
    fn as_ref(&self) -> &Entities {
        &self.entities
    }
}

impl Versioner {
    /// A versioner over a state that holds all facts of the log.
    #[must_use]
    pub fn new(state: Arc<State>, encoder: Encoder, spill_bytes: usize) -> Self {
        let scratch = Scratch::with_shelf(state.shelf());
        let origin = Origin { lsn: Lsn::ZERO, xid: 0, committed_at: 0, valid_from: 0 };
        Self {
            tables: Vec::new(),
            relations: HashMap::new(),
            entities: Entities::new(state),
            out: Emitter { encoder, origin, context: None, facts: 0, findings: None },
            scratch,
            beside: Beside::default(),
            transactions: TransactionBatch::default(),
            replication_origin: None,
            said: None,
            counts: Vec::new(),
            gone: None,
            spill_bytes,
            hash_key: None,
        }
    }

    /// The key for columns that are hashed: without it, no row of a table that has one is taken.
    #[must_use]
    pub fn with_hash_key(self, hash_key: Option<HashKey>) -> Self {
        Self { hash_key, ..self }
    }

    /// Adds a captured table: older schema versions first, the newest last. Changes of transactions that end at `start`
    /// or before it are part of the table's snapshot, and skipped. Returns its index. `versions` must not be empty: without any, nothing is
    /// added, and the index is that of the next table.
    pub fn add_table(&mut self, versions: &[Arc<TableSchema>], start: Lsn) -> usize {
        let mut versions = versions.iter();
        let Some(first) = versions.next() else { return self.tables.len() };
        let shelf = Arc::clone(self.entities.store().shelf());
        let mut table = CapturedTable::new(Arc::clone(first), start, shelf);
        for schema in versions {
            table.learn(Arc::clone(schema));
        }
        self.tables.push(table);
        self.tables.len() - 1
    }

    /// Adds the captured table `index`, or has it go on as another table of the name does, as [`Versioner::add_table`].
    ///
    /// # Errors
    /// When the facts before cannot be written.
    pub fn set_table(&mut self, index: usize, versions: &[Arc<TableSchema>], start: Lsn) -> Result<()> {
        self.settle()?;
        let Some(table) = self.tables.get_mut(index) else {
            self.add_table(versions, start);
            return Ok(());
        };
        self.out.flush(table)?;
        for schema in versions {
            table.learn(Arc::clone(schema));
        }
        table.start = start;
        Ok(())
    }

    /// Facts of a table are of this schema version from now on.
    ///
    /// # Errors
    /// When the facts before cannot be written.
    pub fn change_schema(&mut self, index: usize, schema: Arc<TableSchema>) -> Result<()> {
        self.settle()?;
        if let Some(table) = self.tables.get_mut(index) {
            self.out.flush(table)?;
            table.learn(schema);
            content::find_anew(table, &mut self.entities, self.spill_bytes)?;
        }
        Ok(())
    }

    /// A table's snapshot is in the log: changes of transactions that end at `start` or before it are part of it.
    pub fn set_start(&mut self, table: usize, start: Lsn) {
        if let Some(table) = self.tables.get_mut(table) {
            table.start = start;
        }
    }

    /// Something happened to a table that the stream did not tell, to the rows of one of its leaves or (0) to all: what is known of them
    /// fills no value that the stream leaves out [14]. None once they have been compared with the source.
    pub fn set_doubt(&mut self, table: usize, leaf: Option<u32>) {
        if let Some(table) = self.tables.get_mut(table) {
            table.doubted = leaf;
        }
    }

    /// Where the transaction ends that brought the last fact of a captured table; zero before the first.
    #[must_use]
    pub fn last_fact(&self, table: usize) -> Lsn {
        self.tables.get(table).map_or(Lsn::ZERO, CapturedTable::last_fact)
    }

    /// The newest schema of a captured table.
    #[must_use]
    pub fn schema(&self, table: usize) -> Option<&Arc<TableSchema>> {
        self.tables.get(table).map(|table| &table.schema)
    }

    /// Rows of relation `oid` in the stream belong to a captured table; `positions` gives the place in its newest schema
    /// of each column of the relation. `leaf` is the partition's oid, or 0. `identity` gives the places of the columns by
    /// which old rows are named; none where whole rows come.
    pub fn map_relation(
        &mut self,
        oid: u32,
        table: usize,
        leaf: u32,
        positions: Vec<Option<usize>>,
        identity: Option<Vec<usize>>,
    ) {
        let Some(captured) = self.tables.get(table) else { return };
        let intake = Intake::new(&captured.schema, self.hash_key.as_ref());
        let mut map = RelationMap::new(table, leaf, positions, captured.schema.columns.len(), intake);
        let mut key = captured.schema.key.clone();
        key.sort_unstable();
        map.alias = identity.filter(|identity| !key.is_empty() && !identity.is_empty() && *identity != key);
        self.relations.insert(oid, Some(map));
    }

    /// Rows of relation `oid` are none of ours.
    pub fn ignore_relation(&mut self, oid: u32) {
        self.relations.insert(oid, None);
    }

    /// Relation `oid` will be announced again before its next row.
    pub fn forget_relation(&mut self, oid: u32) {
        self.relations.remove(&oid);
    }

    /// Relations are announced anew by each connection.
    pub fn forget_relations(&mut self) {
        self.relations.clear();
    }

    /// Keeps in mind the first `limit` facts of each [`Versioner::reconcile`] from now on.
    pub fn note_findings(&mut self, limit: usize) {
        self.out.findings = Some(Findings { limit, found: Vec::new() });
    }

    /// The facts that were kept in mind since this was last asked.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        self.out.findings.as_mut().map(|findings| std::mem::take(&mut findings.found)).unwrap_or_default()
    }

    /// Starts a transaction.
    pub fn begin(&mut self, origin: Origin) {
        self.out.origin = origin;
        self.out.context = None;
        self.out.facts = 0;
        self.beside.clear();
        self.said = None;
        self.replication_origin = None;
        self.counts.clear();
        self.gone = None;
    }

    /// Takes one message of the transaction. Begin, Commit, Relation and Type are the caller's.
    ///
    /// # Errors
    /// When a change cannot be read, or facts cannot be written.
    pub fn message(&mut self, message: &Message<'_>) -> Result<()> {
        if let Some((from, gone)) = self.gone.take() {
            if let Message::Insert { relation, new } = *message
                && self.is_sibling(from, relation)
                && self.moved(relation, &gone, new)?
            {
                return Ok(());
            }
            self.bury(from, gone)?;
        }
        match *message {
            Message::Insert { relation, new } => {
                self.change(
                    relation,
                    |change, keyed| {
                        if keyed { change.insert(new) } else { change.insert_content(new) }
                    },
                )
            }
            Message::Update { relation, old, new } => self.change(relation, |change, keyed| {
                if keyed { change.update(old, new) } else { change.update_content(old, new) }
            }),
            Message::Delete { relation, old } if self.is_keyed_leaf(relation) => {
                let mut gone = None;
                self.change(relation, |change, _| {
                    gone = change.deleted(old)?;
                    Ok(())
                })?;
                self.gone = gone.map(|gone| (relation, gone));
                Ok(())
            }
            Message::Delete { relation, old } => {
                self.change(
                    relation,
                    |change, keyed| {
                        if keyed { change.delete(old) } else { change.delete_content(old) }
                    },
                )
            }
            Message::Truncate { relations, .. } => self.truncate(relations),
            Message::Logical { transactional: true, prefix, content, .. } if is_context(prefix) => {
                let said = Arc::new(context::parse(prefix, content));
                self.out.context = Some(Arc::clone(&said));
                self.said = Some(said);
                Ok(())
            }
            Message::Origin { name, .. } => {
                self.replication_origin = Some(name.to_owned());
                Ok(())
            }
            // A message outside transactions may come from one that aborted: never context [33].
            Message::Logical { .. }
            | Message::Begin(_)
            | Message::Commit(_)
            | Message::Relation(_)
            | Message::Type { .. } => Ok(()),
        }
    }

    /// A row that was deleted from a leaf partition has not moved: what follows concerns the table as a whole, of which its
    /// last row has to be one still.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.gone.take().map_or(Ok(()), |(from, gone)| self.bury(from, gone))
    }

    fn bury(&mut self, from: u32, gone: Gone) -> Result<()> {
        self.change(from, |change, _| change.bury_gone(gone))
    }

    /// The relation is a leaf partition of a table with a key.
    fn is_keyed_leaf(&self, relation: u32) -> bool {
        let map = self.relations.get(&relation).and_then(Option::as_ref).filter(|map| map.leaf != 0);
        map.and_then(|map| self.tables.get(map.table)).is_some_and(|table| !table.schema.key.is_empty())
    }

    /// Two relations are leaves of one table.
    fn is_sibling(&self, one: u32, other: u32) -> bool {
        let table = |oid: u32| self.relations.get(&oid).and_then(Option::as_ref).map(|map| map.table);
        one != other && table(one).is_some() && table(one) == table(other)
    }

    fn moved(&mut self, relation: u32, gone: &Gone, new: Tuple<'_>) -> Result<bool> {
        let mut moved = false;
        self.change(relation, |change, _| {
            moved = change.moved(gone, new)?;
            Ok(())
        })?;
        Ok(moved)
    }

    /// Partitioned tables of which two leaves have held rows of one key, since this was last asked.
    pub fn take_ambiguous(&mut self) -> Vec<usize> {
        let tables = self.tables.iter_mut().enumerate();
        tables.filter_map(|(index, table)| std::mem::take(&mut table.ambiguous).then_some(index)).collect()
    }

    /// Tables of which a change could not be followed, since this was last asked.
    pub fn take_doubtful(&mut self) -> Vec<usize> {
        let tables = self.tables.iter_mut().enumerate();
        tables.filter_map(|(index, table)| std::mem::take(&mut table.doubtful).then_some(index)).collect()
    }

    fn change(
        &mut self,
        relation: u32,
        work: impl FnOnce(&mut Change<'_>, bool) -> Result<()>,
    ) -> Result<()> {
        let map = match self.relations.get(&relation) {
            Some(Some(map)) => map,
            Some(None) => return Ok(()),
            None => return Err(unannounced(relation)),
        };
        let Some(table) = self.tables.get_mut(map.table) else { return Err(unannounced(relation)) };
        if self.out.origin.lsn <= table.start {
            return Ok(());
        }
        let before = self.out.facts;
        let keyed = !table.schema.key.is_empty();
        let index = map.table;
        if keyed && map.alias.is_some() && map.alias != table.aliased {
            let positions = map.alias.clone().unwrap_or_default();
            alias::make_all(table, &mut self.entities, &positions)?;
            table.aliased = Some(positions);
        }
        let mut change = Change {
            map,
            table,
            entities: &mut self.entities,
            out: &mut self.out,
            scratch: &mut self.scratch,
            beside: &mut self.beside,
        };
        work(&mut change, keyed)?;
        self.count(index, before);
        self.spill_if_large()
    }

    fn count(&mut self, table: usize, before: u64) {
        let facts = i64::try_from(self.out.facts - before).unwrap_or(i64::MAX);
        match self.counts.iter_mut().find(|(counted, _)| *counted == table) {
            Some((_, count)) => *count += facts,
            None => self.counts.push((table, facts)),
        }
    }

    /// A tombstone for each live entity of the tables. A leaf partition takes with it the rows that it holds.
    fn truncate(&mut self, relations: Relations<'_>) -> Result<()> {
        for relation in relations.oids() {
            let map = match self.relations.get(&relation) {
                Some(Some(map)) => map.clone(),
                Some(None) => continue,
                None => return Err(unannounced(relation)),
            };
            let skipped = self.tables.get(map.table).is_none_or(|table| self.out.origin.lsn <= table.start);
            if !skipped {
                let before = self.out.facts;
                self.bury_all(map.table, Op::Truncate, (map.leaf != 0).then_some(map.leaf))?;
                self.count(map.table, before);
            }
        }
        Ok(())
    }

    /// Ends every live entity of a table, or of one of its leaves.
    fn bury_all(&mut self, index: usize, op: Op, leaf: Option<u32>) -> Result<()> {
        let Some(number) = self.tables.get(index).map(|table| table.schema.number) else { return Ok(()) };
        visit_all(self, number, |this, key, known| this.bury_known(index, key, known, op, leaf))
    }

    /// A transaction that outgrows memory goes on over a file.
    fn spill_if_large(&mut self) -> Result<()> {
        if self.entities.bytes() > self.spill_bytes && !self.entities.is_sealed() {
            self.entities.spill()?;
        }
        Ok(())
    }

    /// Ends the transaction.
    ///
    /// # Errors
    /// When facts cannot be written.
    pub fn commit(&mut self) -> Result<TransactionSummary> {
        self.settle()?;
        let has_actor = self.said.as_ref().is_some_and(|said| said.actor.is_some());
        let summary = TransactionSummary { facts: self.out.facts, has_actor };
        if summary.facts > 0 {
            if self.transactions.is_full(&self.out.origin) {
                self.flush_transactions()?;
            }
            let tables = &self.tables;
            let counts = self.counts.iter().filter(|(_, count)| *count > 0).filter_map(|(table, count)| {
                tables.get(*table).map(|table| (table.schema.log_name.as_str(), *count))
            });
            self.transactions
                .append(&self.out.origin, self.said.as_deref(), self.replication_origin.as_deref(), counts)
                .map_err(|error| Error::new(ErrorKind::Io, "facts cannot be gathered", error.to_string()))?;
        }
        Ok(summary)
    }

    fn flush_transactions(&mut self) -> Result<()> {
        let taken = self
            .transactions
            .take()
            .map_err(|error| Error::new(ErrorKind::Io, "facts cannot be gathered", error.to_string()))?;
        match taken {
            Some((batch, span)) => self.out.encoder.write_transactions(batch, span),
            None => Ok(()),
        }
    }

    /// Memory that changes since the last commit take, about: they wait for the log.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.entities.bytes()
    }

    /// A sealed commit was not released yet: another cannot be sealed.
    #[must_use]
    pub const fn is_sealed(&self) -> bool {
        self.entities.is_sealed()
    }

    /// Ends a commit: hands all its facts to the encoder, and gives what state must be told once the log has them.
    ///
    /// # Errors
    /// When facts cannot be written.
    pub fn seal(&mut self) -> Result<Sealed> {
        for table in &mut self.tables {
            self.out.flush(table)?;
        }
        self.flush_transactions()?;
        Ok(self.entities.seal())
    }

    /// State holds the sealed commit: it need not be remembered any longer.
    pub fn release(&mut self) {
        self.entities.unseal();
    }
}

fn unannounced(relation: u32) -> Error {
    Error::new(
        ErrorKind::Damaged,
        "the stream holds a row of a relation that it never announced",
        format!("relation {relation}"),
    )
}
