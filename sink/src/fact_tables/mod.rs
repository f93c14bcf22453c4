//! Facts as rows: append-only history tables in PostgreSQL, which roll forward from the log.
//!
//! The log is the truth. A follower reads the commits that its target lacks, in order, and writes the facts, transactions and
//! schema versions of each in one transaction of the target, together with the commit's number in `commits`: its primary key
//! fences out a second follower, and a crash at any point leaves a whole number of commits. A target that is down holds
//! nothing back; it catches up later.
//!
//! Values travel by `COPY`: in its binary format where bygone knows the binary form of every column's type on the target, else as text, which is
//! what facts keep of every type exactly, whatever server the target is.

mod ahead;
mod binary;
mod copy;
mod due;
mod known;
mod left_out;
mod names;
mod objects;
mod ownership;
mod placed;
mod reading;
mod refused;
mod rows;
mod shape;
mod slabs;
pub mod spool;
mod tuples;
mod unload;
mod writers;

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bygone_replication::Lsn;
use bygone_replication::table::quote_identifier;
use tokio_postgres::Client;
use tokio_postgres::error::DbError;
use tokio_postgres::types::ToSql;

use crate::checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::log::path::{TRANSACTIONS, commit_path};
use crate::log::{Add, Commit, EventKind, MANIFEST};
use crate::read::{Archive, TableHistory};

use binary::Receiver;
use copy::{Failed, Work};
use due::LastCheckpoint;
use names::Names;
pub(crate) use objects::actor_start;
pub use objects::{Layout, Objects};
use placed::{Placed, placed};
pub use rows::Rows;
use shape::TypeName;
pub use slabs::Cutter;
use tuples::json_without_nul;
pub use unload::{Unloaded, unload};
pub use writers::{Inspected, Unguarded, Writer, inspect};

/// The schema that the tables are put into, unless another is named.
pub const DEFAULT_SCHEMA: &str = "bygone";

/// What the comment of such a schema begins with: its tables are never captured.
pub const MARK: &str = "bygone: facts of ";

/// Values are printed and read as the source's sessions print them.
const SESSION: &str = "set client_encoding = 'UTF8'; set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres'; set timezone = 'UTC'; \
     set bytea_output = 'hex'; set xmloption = content; set lc_monetary = 'C'; set extra_float_digits = 1; set lock_timeout = '10s'";

/// The column that names the leaf partition of a fact, in the history of a partitioned table.
const LEAF_COLUMN: &str = "_bygone_leaf";

/// What no attempt more would bring into the target.
#[derive(Debug)]
enum Unfit {
    /// Facts of a table, by its name in the log.
    Table(String),
    /// Values, as long as these columns have the types that they have.
    Values { table: String, columns: Vec<String> },
}

/// Fact tables, and the history that they follow.
#[derive(Debug)]
pub struct FactTables {
    client: Client,
    archive: Archive,
    schema: String,
    names: Names,
    /// Tables that were given their names in the transaction that is open.
    named: Vec<String>,
    layout: Layout,
    /// The months for which a table is known to have a partition; none where it is not partitioned.
    months: HashMap<String, Option<HashSet<String>>>,
    /// The next commit to be written.
    next: u64,
    /// Schema versions whose objects were made ahead of the commit that brings them, by the table's name in the log.
    made: HashSet<(String, i32)>,
    /// Tables whose facts the target cannot hold, by their names in the log.
    left_out: HashSet<String>,
    /// What it cannot hold, as an attempt to write a commit has just found.
    unfit: Option<Unfit>,
    /// Columns that are to be text, by their tables' names in the log: their types refused values of the commit that is written.
    as_text: HashMap<String, BTreeSet<String>>,
    /// Columns of tables, with their types.
    columns: HashMap<String, BTreeMap<String, TypeName>>,
    /// What reads the values of a history table's columns, by its name.
    receivers: HashMap<String, HashMap<String, Receiver>>,
    /// Tables of the log with all their schema versions, without their files: there may be one for each commit.
    tables: HashMap<String, TableHistory>,
    cutter: Option<Cutter>,
    last_checkpoint: LastCheckpoint,
}

impl FactTables {
    /// Opens the tables in a schema of the target, making what is missing; new history tables in this layout.
    ///
    /// # Errors
    /// [`ErrorKind::OtherSource`] where they are of another history; what the target says.
    pub async fn open(client: Client, archive: Archive, schema: &str, layout: Layout) -> Result<Self> {
        let prepared = async {
            client.batch_execute(SESSION).await?;
            client.batch_execute("set synchronous_commit = on").await
        };
        prepared.await.map_err(|error| told("preparing the session", &error))?;
        let mut tables = Self {
            client,
            archive,
            schema: schema.to_owned(),
            names: Names::default(),
            named: Vec::new(),
            layout,
            months: HashMap::new(),
            next: 0,
            made: HashSet::new(),
            left_out: HashSet::new(),
            unfit: None,
            as_text: HashMap::new(),
            columns: HashMap::new(),
            receivers: HashMap::new(),
            tables: HashMap::new(),
            cutter: None,
            last_checkpoint: LastCheckpoint::default(),
        };
        tables.prepare().await?;
        Ok(tables)
    }

    /// The next commit of the log that the target lacks.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Writes all commits that the target lacks; gives how many.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] where somebody else writes these tables; [`ErrorKind::Unreachable`] where the target does not
    /// answer, and what it says.
    pub async fn catch_up(&mut self) -> Result<u64> {
        let news = self.archive.refresh().await?;
        if news.iter().any(|commit| !commit.body.schemas.is_empty()) {
            self.tables.clear();
        }
        let mut written = 0;
        while self.next < self.archive.log().next_seq {
            let document = self.archive.store()?.get(&commit_path(self.next)).await?;
            self.write(&Commit::from_bytes(&document, self.next)?, &document).await?;
            self.next += 1;
            written += 1;
            if let Some(cutter) = &mut self.cutter {
                cutter.consider().await;
            }
        }
        Ok(written)
    }

    /// Has slabs made beside, as the past of tables grows.
    pub fn cut(&mut self, mut cutter: Cutter) {
        self.names.bases().for_each(|base| cutter.look_at(base));
        self.cutter = Some(cutter);
    }

    /// What makes slabs.
    pub fn take_cutter(&mut self) -> Option<Cutter> {
        self.cutter.take()
    }

    /// Removes the files of commits that the target has, up to one, and forgets them: for a history that is but the way to these tables.
    ///
    /// # Errors
    /// Where they cannot be removed.
    pub async fn clear(&mut self, seq: u64) -> Result<()> {
        let end = self.next.min(seq.saturating_add(1));
        let spool = self.archive.store()?;
        spool::clear(spool, self.archive.log(), end).await?;
        if let Some((seq, document)) = self.last_checkpoint.made.take_if(|(seq, _)| *seq < end) {
            checkpoint::begin_with(spool, seq, &document).await?;
        }
        self.archive.gather_files(end);
        Ok(())
    }

    /// Makes the schema with the tables that all histories have, and finds out how far the target is.
    async fn prepare(&mut self) -> Result<()> {
        let doing = "preparing the fact tables";
        let id = self.archive.manifest().id.clone();
        let encoding =
            self.client.query_one("select pg_catalog.current_setting('server_encoding')", &[]).await;
        check_encoding(encoding.map_err(|error| told(doing, &error))?.get(0))?;
        ownership::check(&self.client, &self.schema).await?;
        self.execute(doing, &objects::frame(&self.schema, &self.archive.manifest().source.database)).await?;
        // One by one: there may be more than a transaction can lock.
        for table in writers::unguarded(&self.client, &self.schema).await? {
            self.execute(doing, &table.fix).await?;
        }
        for statement in objects::reader(&self.schema) {
            // Without the right to make roles, somebody else grants what readers need.
            if let Err(error) = self.client.batch_execute(&statement).await {
                tracing::debug!(error = %told(doing, &error), "readers are not granted anything");
                break;
            }
        }
        let s = quote_identifier(&self.schema);
        let row = self
            .client
            .query_opt(&format!("select id from {s}.history"), &[])
            .await
            .map_err(|error| told(doing, &error))?;
        match row.map(|row| row.get::<_, String>(0)) {
            Some(theirs) if theirs != id => {
                let detail = format!(
                    "schema {:?} is of history {theirs}, not {id}; give --facts-schema another name",
                    self.schema
                );
                return Err(Error::new(
                    ErrorKind::OtherSource,
                    "the fact tables are of something else",
                    detail,
                ));
            }
            Some(_) => {}
            None => {
                let sql = format!("insert into {s}.history (id, manifest) values ($1, $2)");
                let manifest = self.archive.store()?.get(MANIFEST).await?;
                self.client
                    .execute(&sql, &[&id, &as_text(&manifest)?])
                    .await
                    .map_err(|error| told(doing, &error))?;
            }
        }
        let row = self
            .client
            .query_one(&format!("select coalesce(max(seq) + 1, 0) from {s}.commits"), &[])
            .await
            .map_err(|error| told(doing, &error))?;
        self.next = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
        if self.next > self.archive.log().next_seq {
            let detail = format!(
                "the tables hold commit {}, the history ends before it: it is an older copy, or somebody else writes the tables in this moment",
                self.next - 1
            );
            return Err(Error::new(
                ErrorKind::OtherSource,
                "the fact tables are ahead of the history",
                detail,
            ));
        }
        self.check_last().await?;
        self.find_checkpoint().await?;
        let rows = self
            .client
            .query(&format!("select log_name, base from {s}.tables"), &[])
            .await
            .map_err(|error| told(doing, &error))?;
        for row in rows {
            self.names.know(row.get(0), row.get(1));
        }
        self.find_left_out().await?;
        self.renew().await
    }

    /// The last commit there is the history's own: another writer may have made one of the same number.
    async fn check_last(&self) -> Result<()> {
        let Some(last) = self.next.checked_sub(1) else { return Ok(()) };
        let sql = format!("select document from {}.commits where seq = $1", quote_identifier(&self.schema));
        let row = self
            .client
            .query_one(&sql, &[&i64::try_from(last).unwrap_or(i64::MAX)])
            .await
            .map_err(|error| told("reading the last commit", &error))?;
        let ours = self.archive.store()?.get(&commit_path(last)).await?;
        match row.get::<_, Option<String>>(0) {
            Some(theirs) if theirs.as_bytes() != &*ours => Err(Error::new(
                ErrorKind::Fenced,
                "somebody else writes these fact tables",
                format!("commit {last} in schema {:?} is another one", self.schema),
            )),
            _ => Ok(()),
        }
    }

    /// Writes one commit in one transaction; without the facts of tables that the target can never hold.
    async fn write(&mut self, commit: &Commit, document: &[u8]) -> Result<()> {
        let checkpoint = self.checkpoint_of(commit)?;
        while let Err(error) = self.write_once(commit, document, checkpoint.as_deref()).await {
            match self.unfit.take() {
                Some(Unfit::Table(table)) => self.leave_out(&table, commit.seq, error.detail()).await?,
                Some(Unfit::Values { table, columns }) => self.keep_as_text(&table, columns),
                None => return Err(error),
            }
        }
        self.made.clear();
        self.as_text.clear();
        self.note_checkpoint(commit.seq, document.len(), checkpoint);
        failpoint::hit("facts.after_commit")
    }

    async fn write_once(&mut self, commit: &Commit, document: &[u8], checkpoint: Option<&str>) -> Result<()> {
        self.make_ahead(commit).await?;
        self.execute("beginning a transaction", "begin").await?;
        let written = self.write_within(commit, document, checkpoint).await;
        match written {
            Ok(()) => {
                failpoint::hit("facts.before_commit")?;
                self.execute("committing", "commit").await?;
                self.named.clear();
                Ok(())
            }
            Err(error) => {
                self.roll_back().await;
                Err(error)
            }
        }
    }

    async fn roll_back(&mut self) {
        // What is known of names and columns may be of what is undone now.
        self.named.drain(..).for_each(|table| self.names.forget(&table));
        self.columns.clear();
        self.receivers.clear();
        self.months.clear();
        if self.client.batch_execute("rollback").await.is_err() {
            tracing::debug!("the transaction of a fact-table commit went with its connection");
        }
    }

    fn fenced(&self, seq: u64) -> Error {
        Error::new(
            ErrorKind::Fenced,
            "somebody else writes these fact tables",
            format!("commit {seq} is there already, in schema {:?}", self.schema),
        )
    }

    async fn write_within(
        &mut self,
        commit: &Commit,
        document: &[u8],
        checkpoint: Option<&str>,
    ) -> Result<()> {
        let s = quote_identifier(&self.schema);
        let seq = i64::try_from(commit.seq).unwrap_or(i64::MAX);
        let doing = "writing a commit";
        // First of all, so that of two followers one waits here and then finds the number taken.
        let insert = format!(
            "insert into {s}.commits (seq, at, wal_to, resume, epoch, known_until, document, checkpoint) values ($1, $2::text::timestamptz, \
             $3::text::pg_lsn, $4::text::pg_lsn, $5, $6::text::timestamptz, $7, $8)"
        );
        let (at, wal_to, resume) =
            (commit.at.to_string(), commit.body.wal.to.to_string(), commit.body.resume.to_string());
        let known = commit.body.server_time.max(commit.body.high_water).map(|at| at.to_string());
        let epoch = i32::try_from(commit.body.epoch).unwrap_or(i32::MAX);
        let document = as_text(document)?;
        let row: [&(dyn ToSql + Sync); 8] =
            [&seq, &at, &wal_to, &resume, &epoch, &known, &document, &checkpoint];
        let inserted = self.client.execute(&insert, &row).await;
        inserted.map_err(|error| match error.code() {
            Some(code) if *code == tokio_postgres::error::SqlState::UNIQUE_VIOLATION => {
                self.fenced(commit.seq)
            }
            _ => told(doing, &error),
        })?;
        for schema in &commit.body.schemas {
            self.evolve(schema).await?;
        }
        for event in &commit.body.events {
            let sql = format!(
                "insert into {s}.events (seq, kind, table_name, lsn, detail) values ($1, $2, $3, $4::text::pg_lsn, $5::text::jsonb)"
            );
            let lsn = event.lsn.map(|lsn| lsn.latest().to_string());
            let detail = serde_json::to_string(event).unwrap_or_else(|_| "{}".to_owned());
            self.client
                .execute(&sql, &[&seq, &event.kind.as_str(), &event.table, &lsn, &json_without_nul(&detail)])
                .await
                .map_err(|error| told(doing, &error))?;
        }
        let mut seen_or_not: Vec<&str> = Vec::new();
        for event in &commit.body.events {
            if let (EventKind::UpdatesUnseen | EventKind::Reconcile, Some(table)) =
                (&event.kind, &event.table)
            {
                seen_or_not.push(table);
            }
        }
        seen_or_not.sort_unstable();
        seen_or_not.dedup();
        for table in seen_or_not {
            self.tell_unseen(table).await?;
        }
        self.widen_refusing().await?;
        // Files that take the place of others hold nothing new.
        if commit.body.is_aside() {
            return Ok(());
        }
        let kept = |add: &&Add| !self.left_out.contains(&add.table);
        let adds: Vec<&Add> = commit.body.add.iter().filter(kept).collect();
        for add in adds.iter().filter(|add| add.table != TRANSACTIONS) {
            self.fit_add(&self.names.base(&add.table), add).await?;
        }
        let mut works = Vec::new();
        for facts in placed(self.archive.log(), commit.seq, adds.iter().copied())? {
            works.push(self.prepare_copy(facts).await?);
        }
        if let Err(Failed { table, error }) = copy::all(&self.client, self.archive.store()?, works).await {
            return if table == TRANSACTIONS { Err(error) } else { self.of_copy(&table, Err(error)) };
        }
        for add in adds.into_iter().filter(|add| add.table != TRANSACTIONS) {
            if let Some(cutter) = &mut self.cutter {
                cutter.note(&self.names.base(&add.table), add.rows);
            }
        }
        Ok(())
    }

    /// What is needed to copy some of a commit's facts. A COPY lets nothing beside it happen in its session.
    async fn prepare_copy(&mut self, facts: Placed<'_>) -> Result<Work> {
        let s = quote_identifier(&self.schema);
        let add = facts.of;
        if add.table == TRANSACTIONS {
            return Ok(Work::transactions(&format!("{s}.transactions"), facts));
        }
        let history = format!("{}_history", self.names.base(&add.table));
        let name = format!("{s}.{}", quote_identifier(&history));
        let there = if facts.is_merged { self.ids_at(&name, facts.range[0]).await? } else { HashSet::new() };
        let table = match self.tables.entry(add.table.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                unknown.insert(TableHistory { files: Vec::new(), ..self.archive.table(&add.table)? })
            }
        };
        let receivers = match self.receivers.entry(history) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let receivers = binary::receivers(&self.client, &self.schema, unknown.key()).await?;
                unknown.insert(receivers)
            }
        };
        Work::facts(&name, table.clone(), facts, there, receivers)
    }

    /// The ids of the facts of one position that a table has of earlier commits.
    async fn ids_at(&self, history: &str, lsn: Lsn) -> Result<HashSet<String>> {
        let sql = format!("select _id::text from {history} where _lsn = $1::text::pg_lsn");
        let rows = self.client.query(&sql, &[&lsn.to_string()]).await;
        Ok(rows.map_err(|error| told("reading ids", &error))?.iter().map(|row| row.get(0)).collect())
    }

    async fn execute(&self, doing: &'static str, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).await.map_err(|error| told(doing, &error))
    }
}

/// What readers ask of each table of a history, by the table's name in the log.
///
/// # Errors
/// Where the log's word on a table's columns makes no sense.
pub fn objects(archive: &Archive, schema: &str) -> Result<Vec<(String, Objects)>> {
    let mut names = Names::default();
    // In the order in which their names were given.
    let mut tables: Vec<(u64, String)> = Vec::new();
    for name in archive.log().tables() {
        let first = archive.events(name).find(|(_, event)| event.table.is_some()).map_or(0, |(seq, _)| seq);
        tables.push((first, name.to_owned()));
    }
    tables.sort_unstable();
    tables
        .into_iter()
        .map(|(_, log_name)| {
            let table = archive.table(&log_name)?;
            let base = names.choose(&log_name);
            Ok((log_name, Objects::of(schema, &base, &table)))
        })
        .collect()
}

/// The database can hold every value.
///
/// # Errors
/// [`ErrorKind::Unsupported`] where it is in another encoding.
pub fn check_encoding(encoding: &str) -> Result<()> {
    if encoding == "UTF8" {
        return Ok(());
    }
    let detail = format!(
        "its encoding is {encoding}, which has no place for some values of the source: make it one with create database … encoding 'UTF8' \
         template template0"
    );
    Err(Error::new(ErrorKind::Unsupported, "fact tables need a database in UTF8", detail))
}

/// What the target says; never values.
fn told(doing: &'static str, error: &tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(db) => {
            let mut hint = db.hint().map_or_else(String::new, |hint| format!("; {hint}"));
            if *db.code() == tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE {
                hint = "; a session that reads the table, or is idle in a transaction that did, keeps it from being altered".to_owned();
            }
            // What depends on something is told in the details alone, which hold no values then.
            if *db.code() == tokio_postgres::error::SqlState::DEPENDENT_OBJECTS_STILL_EXIST {
                hint = db
                    .detail()
                    .map_or_else(String::new, |detail| format!("; {}", detail.replace('\n', "; ")));
            }
            let kind = match db.code().code() {
                "42501" => ErrorKind::Denied,
                code if code.starts_with("54") => ErrorKind::TooLarge,
                _ => ErrorKind::Unsupported,
            };
            Error::new(
                kind,
                "the target of --facts refuses",
                format!("{doing}: {} (SQLSTATE {}){hint}", without_value(db), db.code().code()),
            )
        }
        None => Error::new(
            ErrorKind::Unreachable,
            "the target of --facts does not answer",
            format!("{doing}: {error}"),
        ),
    }
}

/// The message of an error; of one that a value causes, without the value, which stands in quotes.
fn without_value(error: &DbError) -> Cow<'_, str> {
    let message = error.message();
    match (message.find('"'), message.rfind('"')) {
        (Some(first), Some(last)) if first < last && error.code().code().starts_with("22") => {
            let (before, after) = (message.get(..first), message.get(last + 1..));
            format!("{}\"…\"{}", before.unwrap_or_default(), after.unwrap_or_default()).into()
        }
        _ => message.into(),
    }
}

/// A document of the history: JSON is text.
fn as_text(document: &[u8]) -> Result<&str> {
    std::str::from_utf8(document).map_err(|error| {
        Error::new(ErrorKind::Damaged, "the log is damaged", "a document is no text").with_source(error)
    })
}
