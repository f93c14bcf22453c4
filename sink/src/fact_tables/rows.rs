//! Fact tables read back: the log, facts and transactions, as readers of files get them.
//!
//! All that one reader sees is of one snapshot of the target, so that the log and the facts agree, whatever is written meanwhile.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use bygone_replication::Lsn;
use bygone_replication::pgoutput::Cell;
use bygone_replication::snapshot::copy_text::Row as TextRow;
use bygone_replication::table::{quote_identifier, quote_literal};
use futures_util::StreamExt as _;
use tokio_postgres::Client;

use super::left_out::LEFT_OUT;
use super::names::Names;
use super::{LEAF_COLUMN, SESSION, ownership, told};
use crate::checkpoint::{self, Restored};
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Commit, ContentHash, Manifest, StoredCommit};
use crate::read::{
    Change, Columns, Cut, Fact, FactFilter, Flow, Head, LiveRow, TableHistory, Transaction, TransactionFilter,
};
use crate::schema::TableSchema;
use crate::timestamp::Timestamp;
use crate::value::{self, RowBuilder};

/// Commits read at a time.
const COMMITS: i64 = 500;
/// System columns, as the head of a fact is made of them.
const HEAD: &str = "h._id, h._entity_id, h._version, h._op, (extract(epoch from h._valid_from) * 1000000)::int8, \
     h._deleted_at is not null, h._lsn, h._seq, h._xid, h._actor, h._context, array_to_json(h._changed), \
     array_to_json(h._unknown), h._schema";
const HEAD_COLUMNS: usize = 14;

/// Checkpoints that are looked at, should the newest be no good, before the whole log is read.
const CHECKPOINTS: usize = 2;

/// A checkpoint, with the commit that it is of.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(super) seq: u64,
    pub(super) commit: String,
    pub(super) document: String,
    pub(crate) restored: Restored,
}

/// Fact tables, opened for reading.
#[derive(Debug)]
pub struct Rows {
    client: Client,
    schema: String,
    manifest: String,
    names: Names,
    /// Columns of each history table.
    columns: HashMap<String, HashSet<String>>,
    /// Tables that lack facts, with what the tables say of it.
    left_out: HashMap<String, String>,
}

impl Rows {
    /// Opens the fact tables in a schema of a database.
    ///
    /// # Errors
    /// [`ErrorKind::NoHistory`] where there are none, [`ErrorKind::Unsupported`] where they were made before they could be read
    /// without their files, and what the database says.
    pub(crate) async fn open(client: Client, schema: &str) -> Result<(Self, Manifest)> {
        let doing = "opening the fact tables";
        client.batch_execute(SESSION).await.map_err(|error| told(doing, &error))?;
        // A table of that name may be anybody's.
        let sql = format!(
            "select exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'manifest') from pg_class c join pg_namespace n \
             on n.oid = c.relnamespace where n.nspname = $1 and c.relname = 'history' and {}",
            ownership::is_ours()
        );
        let found = client.query_opt(&sql, &[&schema]).await.map_err(|error| told(doing, &error))?;
        let manifest = match found.map(|row| row.get::<_, bool>(0)) {
            None => None,
            Some(false) => return Err(older(schema)),
            Some(true) => {
                let sql = format!("select manifest from {}.history", quote_identifier(schema));
                client.query_opt(&sql, &[]).await.map_err(|error| told(doing, &error))?
            }
        };
        let Some(manifest) = manifest else {
            let detail = format!("schema {schema:?} holds no facts; --facts-schema says which one does");
            return Err(Error::new(ErrorKind::NoHistory, "there is no history", detail));
        };
        let text = manifest.get::<_, Option<String>>(0).ok_or_else(|| older(schema))?;
        let manifest = Manifest::from_bytes(text.as_bytes())?;
        let mut rows = Self {
            client,
            schema: schema.to_owned(),
            manifest: text,
            names: Names::default(),
            columns: HashMap::new(),
            left_out: HashMap::new(),
        };
        rows.begin().await?;
        Ok((rows, manifest))
    }

    /// Sees what was written up to now.
    pub(crate) async fn renew(&mut self) -> Result<()> {
        self.client.batch_execute("rollback").await.map_err(|error| told("ending a snapshot", &error))?;
        self.begin().await
    }

    async fn begin(&mut self) -> Result<()> {
        let doing = "reading the fact tables' catalog";
        self.client
            .batch_execute("begin isolation level repeatable read read only")
            .await
            .map_err(|error| told(doing, &error))?;
        let sql = format!("select log_name, base from {}.tables", quote_identifier(&self.schema));
        self.names = Names::default();
        for row in self.client.query(&sql, &[]).await.map_err(|error| told(doing, &error))? {
            self.names.know(row.get(0), row.get(1));
        }
        let sql = "select c.relname::text, a.attname::text from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n \
             on n.oid = c.relnamespace where n.nspname = $1 and a.attnum > 0 and not a.attisdropped";
        self.columns.clear();
        for row in self.client.query(sql, &[&self.schema]).await.map_err(|error| told(doing, &error))? {
            self.columns.entry(row.get(0)).or_default().insert(row.get(1));
        }
        let sql = format!(
            "select table_name, pg_catalog.format('%s, from commit %s on: %s', table_name, seq, detail ->> 'reason') from {}.events where kind = '{LEFT_OUT}' \
             order by seq desc",
            quote_identifier(&self.schema)
        );
        let rows = self.client.query(&sql, &[]).await.map_err(|error| told(doing, &error))?;
        self.left_out = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        Ok(())
    }

    /// Refuses where facts of a table are left out.
    fn check_whole(&self, table: &TableHistory) -> Result<()> {
        self.left_out.get(&table.log_name).map_or(Ok(()), |told| Err(lacking(told)))
    }

    /// Refuses where facts of any table are left out.
    pub(super) fn check_all_whole(&self) -> Result<()> {
        self.left_out.values().min().map_or(Ok(()), |told| Err(lacking(told)))
    }

    /// Which schema of the database they stand in.
    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }

    /// The manifest, as it stands there.
    pub(super) fn manifest(&self) -> &str {
        &self.manifest
    }

    /// The newest checkpoint that is of this log; none where there is no such one.
    pub(crate) async fn checkpoint(&self) -> Result<Option<Checkpoint>> {
        // Tables that an older bygone wrote last have none.
        if !self.columns.get("commits").is_some_and(|columns| columns.contains("checkpoint")) {
            return Ok(None);
        }
        let sql = format!(
            "select seq, document, checkpoint from {}.commits where checkpoint is not null order by seq desc limit {CHECKPOINTS}",
            quote_identifier(&self.schema)
        );
        let rows =
            self.client.query(&sql, &[]).await.map_err(|error| told("reading a checkpoint", &error))?;
        for row in rows {
            let (seq, commit, document): (i64, String, String) = (row.get(0), row.get(1), row.get(2));
            let seq = u64::try_from(seq).unwrap_or(0);
            let hash = ContentHash::of(commit.as_bytes());
            match checkpoint::beside(seq, hash, &document) {
                Some(restored) => return Ok(Some(Checkpoint { seq, commit, document, restored })),
                None => tracing::warn!(seq, "a checkpoint is left aside: it is not of this log"),
            }
        }
        Ok(None)
    }

    /// The number of the next commit.
    pub(super) async fn next(&self) -> Result<u64> {
        let sql = format!("select coalesce(max(seq) + 1, 0) from {}.commits", quote_identifier(&self.schema));
        let row = self.client.query_one(&sql, &[]).await.map_err(|error| told("reading commits", &error))?;
        Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
    }

    /// The commits from one on, oldest first.
    pub(crate) async fn commits(&self, from: u64, limit: Option<u64>) -> Result<Vec<StoredCommit>> {
        let documents = self.documents(from, limit).await?;
        let commit = |(seq, document): (u64, String)| {
            let commit = Commit::from_bytes(document.as_bytes(), seq)?;
            Ok(StoredCommit { commit, hash: ContentHash::of(document.as_bytes()) })
        };
        documents.into_iter().map(commit).collect()
    }

    /// The bytes of commits from one on, oldest first.
    pub(super) async fn documents(&self, from: u64, limit: Option<u64>) -> Result<Vec<(u64, String)>> {
        let doing = "reading commits";
        let sql = format!(
            "select seq, document from {}.commits where seq >= $1 order by seq limit $2",
            quote_identifier(&self.schema)
        );
        let mut commits = Vec::new();
        let mut from = i64::try_from(from).unwrap_or(i64::MAX);
        let end = limit.map_or(i64::MAX, |limit| from.saturating_add_unsigned(limit));
        while from < end {
            let count = COMMITS.min(end - from);
            let rows =
                self.client.query(&sql, &[&from, &count]).await.map_err(|error| told(doing, &error))?;
            for row in &rows {
                let (seq, document): (i64, Option<String>) = (row.get(0), row.get(1));
                let document = document.ok_or_else(|| older(&self.schema))?;
                commits.push((u64::try_from(seq).unwrap_or(0), document));
            }
            from += count;
            if i64::try_from(rows.len()).unwrap_or(i64::MAX) < count {
                break;
            }
        }
        Ok(commits)
    }

    /// Walks over facts, in their order.
    pub(crate) async fn facts(
        &self,
        table: &TableHistory,
        filter: &FactFilter,
        columns: &Columns,
        visit: &mut dyn FnMut(&Fact<'_>) -> Flow,
    ) -> Result<()> {
        self.check_whole(table)?;
        let mut wanted = vec!["true".to_owned()];
        wanted.extend(filter.until.map(|cut| before(cut, "h")));
        wanted.extend(filter.lsn.map(|lsn| format!("h._lsn = '{lsn}'")));
        wanted.extend(filter.since.map(|since| format!("h._valid_from >= '{since}'")));
        wanted.extend(filter.within.map(|[from, to]| format!("h._lsn between '{from}' and '{to}'")));
        wanted.extend(filter.actor.as_ref().map(|actor| format!("h._actor = {}", quote_literal(actor))));
        wanted.extend(filter.entities.as_ref().map(|ids| {
            format!("h._entity_id = any({}::text[])", super::objects::array(ids.iter().map(String::as_str)))
        }));
        let Some(history) = self.history_of(table) else { return Ok(()) };
        let clause = format!("from {history} h where {} order by h._lsn, h._seq", wanted.join(" and "));
        self.walk(table, columns, "", &clause, &mut |_, fact| visit(fact)).await
    }

    /// Walks over the facts of a range of positions, in their order, with the leaf partition of each: over those that are there.
    pub(crate) async fn facts_within(
        &self,
        table: &TableHistory,
        range: [Lsn; 2],
        visit: &mut dyn FnMut(u32, &Fact<'_>) -> Flow,
    ) -> Result<()> {
        let Some(history) = self.history_of(table) else { return Ok(()) };
        let leaves = self.columns_of(table).is_some_and(|columns| columns.contains(LEAF_COLUMN));
        let leaf = if leaves { format!("h.{LEAF_COLUMN}, ") } else { String::new() };
        let clause = format!(
            "from {history} h where h._lsn between '{}' and '{}' order by h._lsn, h._seq",
            range[0], range[1]
        );
        self.walk(table, &Columns::All, &leaf, &clause, &mut |leaf, fact| {
            visit(leaf.and_then(|leaf| leaf.parse().ok()).unwrap_or(0), fact)
        })
        .await
    }

    /// Walks over the rows of a table as it was at a moment.
    pub(crate) async fn live(
        &self,
        table: &TableHistory,
        cut: Cut,
        columns: &Columns,
        visit: &mut dyn FnMut(&LiveRow<'_>) -> Flow,
    ) -> Result<()> {
        self.check_whole(table)?;
        let Some(clause) = self.alive(table, cut) else { return Ok(()) };
        self.walk(table, columns, "", &clause, &mut |_, fact| {
            visit(&LiveRow { entity_id: &fact.head.entity_id, schema: fact.schema, row: fact.row })
        })
        .await
    }

    /// How many rows a table had at a moment.
    pub(crate) async fn live_count(&self, table: &TableHistory, cut: Cut) -> Result<usize> {
        self.check_whole(table)?;
        let Some(clause) = self.alive(table, cut) else { return Ok(0) };
        let row = self
            .client
            .query_one(&format!("select count(*) {clause}"), &[])
            .await
            .map_err(|error| told("counting rows", &error))?;
        Ok(usize::try_from(row.get::<_, i64>(0)).unwrap_or(0))
    }

    /// The entities whose version is another one at the second moment.
    pub(crate) async fn changes(&self, table: &TableHistory, from: Cut, to: Cut) -> Result<Vec<Change>> {
        self.check_whole(table)?;
        let (Some(from), Some(to)) = (self.alive(table, from), self.alive(table, to)) else {
            return Ok(Vec::new());
        };
        let clause = format!(
            "from (with sides as materialized (select false as side, h.* {from} union all select true, h.* {to}) select * from sides s where \
             not exists (select from sides o where o._entity_id = s._entity_id and o._version = s._version and o.side <> s.side)) h"
        );
        let mut changes: Vec<Change> = Vec::new();
        let mut at: HashMap<String, usize> = HashMap::new();
        self.walk(table, &Columns::All, "h.side, ", &clause, &mut |side, fact| {
            let id = &fact.head.entity_id;
            let place = *at.entry(id.clone()).or_insert_with(|| {
                changes.push(Change { entity_id: id.clone(), before: None, after: None });
                changes.len() - 1
            });
            if let Some(change) = changes.get_mut(place) {
                let half = if side == Some("t") { &mut change.after } else { &mut change.before };
                *half = Some(fact.to_owned());
            }
            Flow::Continue(())
        })
        .await?;
        Ok(changes)
    }

    /// Walks over transactions, newest first.
    pub(crate) async fn transactions(
        &self,
        filter: &TransactionFilter,
        visit: &mut dyn FnMut(Transaction) -> Flow,
    ) -> Result<()> {
        self.transactions_where(&format!("{} order by h.lsn desc", filter.sql()), visit).await
    }

    async fn transactions_where(
        &self,
        clause: &str,
        visit: &mut dyn FnMut(Transaction) -> Flow,
    ) -> Result<()> {
        let sql = format!(
            "select h.xid, h.lsn, (extract(epoch from h.committed_at) * 1000000)::int8, (extract(epoch from h.valid_from) * 1000000)::int8, \
             h.actor, h.context, h.origin, h.tables from {}.transactions h where {clause}",
            quote_identifier(&self.schema)
        );
        self.copy(&sql, 8, &mut |fields| {
            let tables = match fields.text(7)? {
                Some(text) => serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text)
                    .map_err(|_| senseless("counts of facts"))?,
                None => serde_json::Map::new(),
            };
            let tables = tables.into_iter().map(|(table, count)| (table, count.as_i64().unwrap_or(0)));
            let transaction = Transaction {
                xid: fields.number(0)?,
                lsn: fields.lsn(1)?,
                committed_at: Timestamp(fields.number(2)?),
                valid_from: Timestamp(fields.number(3)?),
                actor: fields.text(4)?,
                context: fields.json(5)?,
                origin: fields.text(6)?,
                tables: tables.collect(),
            };
            Ok(visit(transaction))
        })
        .await
    }

    /// Walks over the transactions that end in a range of positions, oldest first.
    pub(super) async fn transactions_within(
        &self,
        range: [Lsn; 2],
        visit: &mut dyn FnMut(Transaction) -> Flow,
    ) -> Result<()> {
        let clause = format!("h.lsn between '{}' and '{}' order by h.lsn", range[0], range[1]);
        self.transactions_where(&clause, visit).await
    }

    /// Where the transactions of a range of positions end, and their times.
    pub(crate) async fn places(&self, range: [Lsn; 2]) -> Result<Vec<(Lsn, Timestamp)>> {
        let sql = format!(
            "select h.lsn::text, (extract(epoch from h.valid_from) * 1000000)::int8 from {}.transactions h where h.lsn between '{}' and '{}'",
            quote_identifier(&self.schema),
            range[0],
            range[1]
        );
        let rows =
            self.client.query(&sql, &[]).await.map_err(|error| told("reading transactions", &error))?;
        let place = |row: &tokio_postgres::Row| {
            let lsn: &str = row.get(0);
            let lsn = lsn.parse().map_err(|_| senseless("a position"))?;
            Ok((lsn, Timestamp(row.get(1))))
        };
        rows.iter().map(place).collect()
    }

    /// The history table of a captured table; none where the target has none yet.
    fn history_of(&self, table: &TableHistory) -> Option<String> {
        let base = self.names.known(&table.log_name)?;
        Some(format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&format!("{base}_history"))))
    }

    fn columns_of(&self, table: &TableHistory) -> Option<&HashSet<String>> {
        self.columns.get(&format!("{}_history", self.names.known(&table.log_name)?))
    }

    /// The `from` and `where` of the facts that were the last of their entities at a moment, tombstones left out.
    fn alive(&self, table: &TableHistory, cut: Cut) -> Option<String> {
        let history = self.history_of(table)?;
        Some(format!(
            "from {history} h where h._deleted_at is null and {} and not exists (select from {history} n where n._entity_id = \
             h._entity_id and n._version = h._version + 1 and {})",
            before(cut, "h"),
            before(cut, "n")
        ))
    }

    /// Walks over facts `h`. Where `first` names a column more, its text comes with each.
    async fn walk(
        &self,
        table: &TableHistory,
        columns: &Columns,
        first: &str,
        clause: &str,
        visit: &mut dyn FnMut(Option<&str>, &Fact<'_>) -> Flow,
    ) -> Result<()> {
        let there = self.columns_of(table);
        let mut physical: Vec<&str> = Vec::new();
        for version in &table.versions {
            for column in &version.schema.columns {
                let wanted = match columns {
                    Columns::All => true,
                    Columns::Some(attnums) => attnums.contains(&column.column.attnum),
                };
                let name = column.physical.as_str();
                if wanted && !physical.contains(&name) && there.is_some_and(|there| there.contains(name)) {
                    physical.push(name);
                }
            }
        }
        let mut sql = format!("select {first}{HEAD}");
        for name in &physical {
            // Writing to a String does not fail.
            let _ = write!(sql, ", h.{}", quote_identifier(name));
        }
        sql.push(' ');
        sql.push_str(clause);
        let ahead = usize::from(!first.is_empty());
        let layouts: HashMap<i32, Layout<'_>> = table
            .versions
            .iter()
            .map(|version| (version.schema.version, Layout::of(&version.schema, &physical)))
            .collect();
        let mut row = RowBuilder::default();
        let count = ahead + HEAD_COLUMNS + physical.len();
        self.copy(&sql, count, &mut |fields| {
            let number = fields.number(ahead + 13)?;
            let layout =
                i32::try_from(number).ok().and_then(|number| layouts.get(&number)).ok_or_else(|| {
                    let detail = format!("{}: the log has no schema {number}", table.log_name);
                    Error::new(ErrorKind::Damaged, "the fact tables are damaged", detail)
                })?;
            let head = fields.head(ahead)?;
            let unknown = fields.names(ahead + 12)?.unwrap_or_default();
            layout.read(fields, ahead + HEAD_COLUMNS, &unknown, &mut row)?;
            let first = if ahead == 1 { fields.text(0)? } else { None };
            Ok(visit(first.as_deref(), &Fact { head: &head, schema: layout.schema, row: row.bytes() }))
        })
        .await
    }

    /// Runs a query by `COPY`, and gives the fields of each row.
    async fn copy(
        &self,
        sql: &str,
        columns: usize,
        visit: &mut dyn FnMut(&Fields<'_>) -> Result<Flow>,
    ) -> Result<()> {
        let doing = "reading facts";
        let stream = self
            .client
            .copy_out(&format!("copy ({sql}) to stdout"))
            .await
            .map_err(|error| told(doing, &error))?;
        let mut stream = std::pin::pin!(stream);
        while let Some(line) = stream.next().await {
            let line = line.map_err(|error| told(doing, &error))?;
            let fields = TextRow::parse(&line, columns)
                .map_err(|error| senseless("a row").with_source(error))?
                .fields()
                .collect();
            if visit(&Fields(fields))?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// Where the columns of a schema version stand among the fields that are read.
struct Layout<'a> {
    schema: &'a Arc<TableSchema>,
    places: Vec<Option<usize>>,
}

impl<'a> Layout<'a> {
    fn of(schema: &'a Arc<TableSchema>, physical: &[&str]) -> Self {
        let place = |name: &str| physical.iter().position(|other| *other == name);
        Self { schema, places: schema.columns.iter().map(|column| place(&column.physical)).collect() }
    }

    fn read(&self, fields: &Fields<'_>, from: usize, unknown: &[String], row: &mut RowBuilder) -> Result<()> {
        row.start(self.schema.columns.len());
        for (column, place) in self.schema.columns.iter().zip(&self.places) {
            if unknown.contains(&column.physical) {
                row.unknown();
                continue;
            }
            let cell = match place.and_then(|place| fields.get(from + place)) {
                Some(bytes) => Cell::Text(bytes),
                None => Cell::Null,
            };
            value::read(&column.kind, cell, row).map_err(|error| {
                let what = format!("a value of {}.{}", self.schema.name, column.physical);
                senseless(&what).with_source(error)
            })?;
        }
        Ok(())
    }
}

/// The fields of a row.
struct Fields<'a>(Vec<Option<Cow<'a, [u8]>>>);

impl Fields<'_> {
    fn get(&self, at: usize) -> Option<&[u8]> {
        self.0.get(at)?.as_deref()
    }

    fn str(&self, at: usize) -> Result<Option<&str>> {
        let text = self.get(at).map(std::str::from_utf8).transpose();
        text.map_err(|error| senseless("text").with_source(error))
    }

    fn text(&self, at: usize) -> Result<Option<String>> {
        Ok(self.str(at)?.map(str::to_owned))
    }

    fn number(&self, at: usize) -> Result<i64> {
        let number = self.str(at)?.and_then(|text| text.parse().ok());
        number.ok_or_else(|| senseless("a number"))
    }

    fn lsn(&self, at: usize) -> Result<Lsn> {
        let lsn = self.str(at)?.and_then(|text| text.parse().ok());
        lsn.ok_or_else(|| senseless("a position"))
    }

    /// JSON as files have it, without the spaces of `jsonb`.
    fn json(&self, at: usize) -> Result<Option<String>> {
        let Some(text) = self.str(at)? else { return Ok(None) };
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| senseless("JSON").with_source(error))?;
        Ok(Some(value.to_string()))
    }

    fn names(&self, at: usize) -> Result<Option<Vec<String>>> {
        let Some(text) = self.str(at)? else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|error| senseless("names").with_source(error))
    }

    fn head(&self, from: usize) -> Result<Head> {
        let text = |at: usize| Ok::<_, Error>(self.text(from + at)?.unwrap_or_default());
        Ok(Head {
            id: text(0)?,
            entity_id: text(1)?,
            version: self.number(from + 2)?,
            op: text(3)?,
            valid_from: Timestamp(self.number(from + 4)?),
            tombstone: self.get(from + 5) == Some(b"t"),
            lsn: self.lsn(from + 6)?,
            seq: self.number(from + 7)?,
            xid: self.number(from + 8)?,
            actor: self.text(from + 9)?,
            context: self.json(from + 10)?,
            changed: self.names(from + 11)?,
        })
    }
}

/// The facts `of` which lie at or before a moment.
fn before(cut: Cut, of: &str) -> String {
    cut.sql(&format!("{of}._lsn"), &format!("{of}._valid_from"))
}

fn lacking(told: &str) -> Error {
    let detail = format!(
        "facts are left out, because they cannot be held there, of {told}; a history of files has them"
    );
    Error::new(ErrorKind::Unsupported, "the fact tables do not hold all facts", detail)
}

fn older(schema: &str) -> Error {
    let detail = format!(
        "schema {schema:?} was filled by an older bygone: drop it, and fill it anew with bygone backfill-facts"
    );
    Error::new(ErrorKind::Unsupported, "these fact tables cannot be read without their history", detail)
}

fn senseless(what: &str) -> Error {
    Error::new(ErrorKind::Damaged, "the fact tables are damaged", format!("{what} makes no sense"))
}
