//! Facts as rows: append-only history tables in PostgreSQL, which roll forward from the log.
//!
//! The log is the truth. A follower reads the commits that its target lacks, in order, and writes the facts, transactions and
//! schema versions of each in one transaction of the target, together with the commit's number in `commits`: its primary key
//! fences out a second follower, and a crash at any point leaves a whole number of commits. A target that is down holds
//! nothing back; it catches up later.
//!
//! Values travel by `COPY`: in its binary format where bygone knows the binary form of every column's type on the target, else as text, which is
//! what facts keep of every type exactly, whatever server the target is.

mod binary;
mod copy;
mod names;
mod objects;
mod rows;
mod slabs;
pub mod spool;
mod tuples;
mod unload;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use bygone_replication::Lsn;
use bygone_replication::table::quote_identifier;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::log::path::{TRANSACTIONS, commit_path};
use crate::log::{Add, Commit, LiveFile, MANIFEST};
use crate::read::Archive;
use crate::timestamp::Timestamp;

use binary::Receiver;
use copy::Work;
use names::Names;
pub use objects::{Layout, Objects};
pub use rows::Rows;
pub use slabs::Cutter;
pub use unload::{Unloaded, unload};

/// The schema that the tables are put into, unless another is named.
pub const DEFAULT_SCHEMA: &str = "bygone";

/// What the comment of such a schema begins with: its tables are never captured.
pub const MARK: &str = "bygone: facts of ";

/// Values are printed and read as the source's sessions print them.
const SESSION: &str = "set client_encoding = 'UTF8'; set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres'; set timezone = 'UTC'; \
     set bytea_output = 'hex'; set xmloption = content; set lc_monetary = 'C'; set extra_float_digits = 1";

/// The column that names the leaf partition of a fact, in the history of a partitioned table.
const LEAF_COLUMN: &str = "_bygone_leaf";

/// Built-in types, and arrays of which, that are kept as text: the server takes no values of them from a client, or takes them for names
/// of objects that the target need not have.
const ONLY_AS_TEXT: &str =
    "^(pg_node_tree|pg_ndistinct|pg_dependencies|pg_mcv_list|pg_brin_.*_summary|gtsvector|aclitem|reg.*)$";

/// What the target calls a type.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TypeName {
    /// With its modifier: `numeric(12,2)`.
    whole: String,
    /// Without, so that values of any modifier fit: `numeric`; `bpchar`, for `character` alone has length 1.
    bare: String,
}

impl TypeName {
    fn text() -> Self {
        Self { whole: "text".to_owned(), bare: "text".to_owned() }
    }
}

/// Fact tables, and the history that they follow.
#[derive(Debug)]
pub struct FactTables {
    client: Client,
    archive: Archive,
    schema: String,
    names: Names,
    layout: Layout,
    /// The months for which a table is known to have a partition; none where it is not partitioned.
    months: HashMap<String, Option<HashSet<String>>>,
    /// The next commit to be written.
    next: u64,
    /// Columns of tables, with their types.
    columns: HashMap<String, BTreeMap<String, TypeName>>,
    /// What reads the values of a history table's columns, by its name.
    receivers: HashMap<String, HashMap<String, Receiver>>,
    cutter: Option<Cutter>,
    last_checkpoint: LastCheckpoint,
}

/// What came since the last checkpoint, which decides on the next.
#[derive(Debug, Default)]
struct LastCheckpoint {
    /// The commit that it is of, and what it says, where this process made it.
    made: Option<(u64, String)>,
    bytes: u64,
    commits_since: u64,
    bytes_since: u64,
}

impl LastCheckpoint {
    /// Another one is due: a reader has much to read, and what he is spared is no less than what is written for it, so that
    /// checkpoints never take more room than commits.
    fn is_due(&self) -> bool {
        self.commits_since >= checkpoint::EVERY && self.bytes_since >= self.bytes
    }
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
            layout,
            months: HashMap::new(),
            next: 0,
            columns: HashMap::new(),
            receivers: HashMap::new(),
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
        self.archive.refresh().await?;
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
        self.execute(doing, &objects::frame(&self.schema, &self.archive.manifest().source.database)).await?;
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
        Ok(())
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

    /// Finds out how long ago the last checkpoint was made.
    async fn find_checkpoint(&mut self) -> Result<()> {
        let sql = format!(
            "with last as (select seq, length(checkpoint) as bytes from {s}.commits where checkpoint is not null order by seq desc limit 1) \
             select coalesce((select bytes from last), 0)::bigint, count(*), coalesce(sum(length(document)), 0)::bigint from {s}.commits where \
             seq > coalesce((select seq from last), -1)",
            s = quote_identifier(&self.schema)
        );
        let row = self.client.query_one(&sql, &[]).await;
        let row = row.map_err(|error| told("looking for a checkpoint", &error))?;
        let number = |at: usize| u64::try_from(row.get::<_, i64>(at)).unwrap_or(0);
        self.last_checkpoint =
            LastCheckpoint { made: None, bytes: number(0), commits_since: number(1), bytes_since: number(2) };
        Ok(())
    }

    /// The checkpoint that is to be written beside a commit; none where it is not yet time, or where the log goes on behind it.
    fn checkpoint_of(&self, commit: &Commit) -> Result<Option<String>> {
        let is_last = self.archive.log().last_seq() == Some(commit.seq);
        if is_last && self.last_checkpoint.is_due() { checkpoint::of(&self.archive) } else { Ok(None) }
    }

    /// A commit was written, perhaps with a checkpoint.
    fn note_checkpoint(&mut self, seq: u64, bytes: usize, made: Option<String>) {
        let last = &mut self.last_checkpoint;
        match made {
            Some(made) => {
                *last = LastCheckpoint {
                    bytes: made.len() as u64,
                    made: Some((seq, made)),
                    ..LastCheckpoint::default()
                };
            }
            None => {
                last.commits_since += 1;
                last.bytes_since += bytes as u64;
            }
        }
    }

    /// Writes one commit in one transaction.
    async fn write(&mut self, commit: &Commit, document: &[u8]) -> Result<()> {
        let checkpoint = self.checkpoint_of(commit)?;
        self.execute("beginning a transaction", "begin").await?;
        let written = self.write_within(commit, document, checkpoint.as_deref()).await;
        match written {
            Ok(()) => {
                failpoint::hit("facts.before_commit")?;
                self.execute("committing", "commit").await?;
                self.note_checkpoint(commit.seq, document.len(), checkpoint);
                failpoint::hit("facts.after_commit")
            }
            Err(error) => {
                // What is known of columns may be of what is undone now.
                self.columns.clear();
                self.receivers.clear();
                self.months.clear();
                if self.client.batch_execute("rollback").await.is_err() {
                    tracing::debug!("the transaction of a fact-table commit went with its connection");
                }
                Err(error)
            }
        }
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
            Some(code) if *code == tokio_postgres::error::SqlState::UNIQUE_VIOLATION => Error::new(
                ErrorKind::Fenced,
                "somebody else writes these fact tables",
                format!("commit {} is there already, in schema {:?}", commit.seq, self.schema),
            ),
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
                .execute(&sql, &[&seq, &event.kind.as_str(), &event.table, &lsn, &detail])
                .await
                .map_err(|error| told(doing, &error))?;
        }
        // Files that take the place of others hold nothing new.
        if commit.body.is_aside() {
            return Ok(());
        }
        let mut works = Vec::new();
        for add in &commit.body.add {
            works.push(self.prepare_copy(add, commit.seq).await?);
        }
        copy::all(&self.client, self.archive.store()?, works).await?;
        for add in commit.body.add.iter().filter(|add| add.table != TRANSACTIONS) {
            if let Some(cutter) = &mut self.cutter {
                cutter.note(&self.names.base(&add.table), add.rows);
            }
        }
        Ok(())
    }

    /// Sees to it that a commit's facts in a file can be copied. A COPY lets nothing beside it happen in its session.
    async fn prepare_copy(&mut self, add: &Add, seq: u64) -> Result<Work> {
        let Some(file) = self.where_it_is(add, seq) else {
            let detail = format!("no live file holds what {} held", add.path);
            return Err(Error::new(ErrorKind::Damaged, "a commit's facts are not to be found", detail));
        };
        let s = quote_identifier(&self.schema);
        if add.table == TRANSACTIONS {
            return Ok(Work::transactions(&format!("{s}.transactions"), file, add.lsn));
        }
        let base = self.names.base(&add.table);
        if add.leaf() != 0 {
            self.know_leaves(&base).await?;
        }
        self.know_months(&base, add.valid_from).await?;
        let history = format!("{base}_history");
        let name = format!("{s}.{}", quote_identifier(&history));
        let table = self.archive.table(&add.table)?;
        let receivers = match self.receivers.entry(history) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let receivers = binary::receivers(&self.client, &self.schema, unknown.key()).await?;
                unknown.insert(receivers)
            }
        };
        Work::facts(&name, table, file, add, receivers)
    }

    /// The file that holds a commit's facts by now: its own, or the one that it was merged into.
    fn where_it_is(&self, add: &Add, seq: u64) -> Option<LiveFile> {
        let log = self.archive.log();
        if let Some(file) = log.file(&add.path) {
            return Some(file.clone());
        }
        let files = log.files_of(&add.table);
        let found = files.into_iter().find(|file| {
            let [from, to] = file.commits();
            from <= seq
                && seq <= to
                && file.add.schema == add.schema
                && file.add.leaf() == add.leaf()
                && file.add.lsn[0] <= add.lsn[0]
                && add.lsn[1] <= file.add.lsn[1]
        });
        found.cloned()
    }

    /// A table has new columns: they are added, and what readers ask is made anew.
    async fn evolve(&mut self, version: &crate::log::SchemaVersion) -> Result<()> {
        let doing = "following a change of columns";
        let s = quote_identifier(&self.schema);
        let log_name = &version.table;
        let base = match self.names.known(log_name) {
            Some(base) => base.to_owned(),
            None => {
                let base = self.names.choose(log_name);
                let sql = format!("insert into {s}.tables (log_name, base) values ($1, $2)");
                self.client.execute(&sql, &[log_name, &base]).await.map_err(|error| told(doing, &error))?;
                self.execute(doing, &objects::history_table(&self.schema, &base, log_name, self.layout))
                    .await?;
                base
            }
        };
        let document = serde_json::to_string(version).unwrap_or_else(|_| "{}".to_owned());
        let sql = format!(
            "insert into {s}.schemas (table_name, schema, document) values ($1, $2, $3::text::jsonb)"
        );
        self.client
            .execute(&sql, &[log_name, &version.schema, &document])
            .await
            .map_err(|error| told(doing, &error))?;
        self.execute(doing, &objects::slab_table(&self.schema, &base)).await?;
        // In the order in which slabs are made of facts.
        for table in [format!("{base}_history"), format!("{base}_slabs")] {
            self.fit(&base, &table, version).await?;
        }
        // As of this version, which need not be the newest that the log has.
        let mut table = self.archive.table(log_name)?;
        table.versions.retain(|known| known.schema.version <= version.schema);
        let objects = Objects::of(&self.schema, &base, &table);
        self.execute(doing, &objects.statements()).await
    }

    /// Has a table take the columns of a schema version.
    async fn fit(&mut self, base: &str, table: &str, version: &crate::log::SchemaVersion) -> Result<()> {
        let doing = "following a change of columns";
        let s = quote_identifier(&self.schema);
        let of = quote_identifier(table);
        let mut columns = self.columns_of(table).await?;
        for column in version.columns.iter().filter(|column| !column.dropped) {
            let name = column.physical();
            let wanted = match column.hashed {
                Some(_) => TypeName::text(),
                None => self.type_of(&column.data_type()).await?,
            };
            let quoted = quote_identifier(name);
            match columns.get(name) {
                None => {
                    let sql = format!("alter table {s}.{of} add column {quoted} {}", wanted.whole);
                    self.execute(doing, &sql).await?;
                    columns.insert(name.to_owned(), wanted);
                }
                // Values of each modifier of a type fit into the type without one.
                Some(there) if *there == wanted || there.whole == wanted.bare => {}
                Some(TypeName { bare, .. }) => {
                    let bare = bare.clone();
                    let views = [base.to_owned(), format!("{base}_timeline")];
                    for view in views.map(|view| quote_identifier(&view)) {
                        self.execute(doing, &format!("drop view if exists {s}.{view} cascade")).await?;
                    }
                    let sql = format!("alter table {s}.{of} alter column {quoted} type {bare}");
                    self.execute(doing, &sql).await?;
                    columns.insert(name.to_owned(), TypeName { whole: bare.clone(), bare });
                }
            }
        }
        self.columns.insert(table.to_owned(), columns);
        self.receivers.remove(table);
        Ok(())
    }

    /// Sees to it that a partitioned history has a partition for each month.
    async fn know_months(&mut self, base: &str, [from, to]: [Timestamp; 2]) -> Result<()> {
        let mut months = match self.months.remove(base) {
            Some(known) => known,
            None => self.is_partitioned(base).await?.then(HashSet::new),
        };
        if let Some(months) = &mut months {
            self.make_months(base, months, [from, to]).await?;
        }
        self.months.insert(base.to_owned(), months);
        Ok(())
    }

    async fn make_months(
        &self,
        base: &str,
        known: &mut HashSet<String>,
        [from, to]: [Timestamp; 2],
    ) -> Result<()> {
        let mut day = first_of_month(&from.date());
        let last = to.date();
        while day.as_str() <= last.as_str() {
            let next = month_after(&day);
            if !known.contains(&day) {
                let sql = objects::partition(&self.schema, base, [&day, &next]);
                self.execute("making a partition", &sql).await?;
                known.insert(day.clone());
            }
            // The last month that has a name.
            if next.len() != day.len() {
                break;
            }
            day = next;
        }
        Ok(())
    }

    async fn is_partitioned(&self, base: &str) -> Result<bool> {
        let sql = "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and \
             c.relname = $2 and c.relkind = 'p')";
        let row = self
            .client
            .query_one(sql, &[&self.schema, &format!("{base}_history")])
            .await
            .map_err(|error| told("reading the target's catalog", &error))?;
        Ok(row.get(0))
    }

    /// Leaf partitions can be truncated by themselves: whose rows those are has to be known when the state is made anew.
    async fn know_leaves(&mut self, base: &str) -> Result<()> {
        let table = format!("{base}_history");
        if self.columns_of(&table).await?.contains_key(LEAF_COLUMN) {
            return Ok(());
        }
        let history = format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&table));
        let sql = format!(
            "alter table {history} add column {LEAF_COLUMN} bigint; comment on column {history}.{LEAF_COLUMN} is 'oid of the partition'"
        );
        self.execute("telling partitions apart", &sql).await?;
        self.columns.remove(&table);
        Ok(())
    }

    async fn columns_of(&self, table: &str) -> Result<BTreeMap<String, TypeName>> {
        if let Some(columns) = self.columns.get(table) {
            return Ok(columns.clone());
        }
        let sql = "select a.attname::text, format_type(a.atttypid, a.atttypmod), format_type(a.atttypid, -1) from pg_attribute a join pg_class c on c.oid = a.attrelid
            join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2 and a.attnum > 0 and not a.attisdropped";
        let rows = self
            .client
            .query(sql, &[&self.schema, &table])
            .await
            .map_err(|error| told("reading the target's catalog", &error))?;
        let named = |row: &Row| (row.get(0), TypeName { whole: row.get(1), bare: row.get(2) });
        Ok(rows.iter().map(named).collect())
    }

    /// The type of a column on the target: its own where the target has it, else text.
    async fn type_of(&self, data_type: &bygone_replication::table::DataType) -> Result<TypeName> {
        const FIRST_OF_USERS: u32 = 16_384;
        let asked = if data_type.oid < FIRST_OF_USERS {
            // Built-in types have the same oids everywhere; a newer source may have one that the target lacks.
            let sql = "select format_type(t.oid, $2), format_type(t.oid, -1) from pg_type t left join pg_type e on e.oid = t.typelem and \
                 t.typcategory = 'A' where t.oid = $1 and coalesce(e.typname, t.typname) <> 'name' and coalesce(e.typname, t.typname) !~ $3";
            self.client.query_opt(sql, &[&data_type.oid, &data_type.typmod, &ONLY_AS_TEXT]).await
        } else {
            let name =
                format!("{}.{}", quote_identifier(&data_type.schema), quote_identifier(&data_type.name));
            let sql = "select format_type(to_regtype($1), $2), format_type(to_regtype($1), -1) where to_regtype($1) is not null";
            self.client.query_opt(sql, &[&name, &data_type.typmod]).await
        };
        let row = asked.map_err(|error| told("looking for a type on the target", &error))?;
        Ok(row.map_or_else(TypeName::text, |row| TypeName { whole: row.get(0), bare: row.get(1) }))
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

/// What the target says; never values.
fn told(doing: &'static str, error: &tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(db) => {
            let hint = db.hint().map_or_else(String::new, |hint| format!("; {hint}"));
            let kind = if db.code().code() == "42501" { ErrorKind::Denied } else { ErrorKind::Unsupported };
            Error::new(
                kind,
                "the target of --facts refuses",
                format!("{doing}: {} (SQLSTATE {}){hint}", db.message(), db.code().code()),
            )
        }
        None => Error::new(
            ErrorKind::Unreachable,
            "the target of --facts does not answer",
            format!("{doing}: {error}"),
        ),
    }
}

/// `2026-11-30` becomes `2026-11-01`.
fn first_of_month(day: &str) -> String {
    format!("{}-01", day.get(..7).unwrap_or(day))
}

/// The first day of the next month.
fn month_after(first: &str) -> String {
    let number = |range: std::ops::Range<usize>| first.get(range).and_then(|text| text.parse::<u32>().ok());
    match (number(0..4), number(5..7)) {
        (Some(year), Some(12)) => format!("{:04}-01-01", year + 1),
        (Some(year), Some(month)) => format!("{year:04}-{:02}-01", month + 1),
        _ => "infinity".to_owned(),
    }
}

/// A document of the history: JSON is text.
fn as_text(document: &[u8]) -> Result<&str> {
    std::str::from_utf8(document).map_err(|error| {
        Error::new(ErrorKind::Damaged, "the log is damaged", "a document is no text").with_source(error)
    })
}

/// The `where` of facts that lie in a range of positions.
const fn within(lsn: Lsn, range: [Lsn; 2]) -> bool {
    range[0].0 <= lsn.0 && lsn.0 <= range[1].0
}
