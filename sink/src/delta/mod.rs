//! Delta Lake's view of the fact files: a table per captured table, in `_delta_log` beside the files, and one of transactions.
//!
//! A follower of the log, like the fact tables: each commit of the log that touches a table becomes one commit of its Delta table,
//! which names the very same files. What it says is made from the log alone, times included, so that whoever makes it makes the
//! same bytes: a commit that is there already is the one that would have been made, or somebody else writes to the view. The
//! transaction identifier (`txn`) holds the number of the log's commit [37].
//!
//! Columns only grow, without column mapping or type widening [36]; the schema comes before the first file that needs it, in the
//! same commit [35]. Actions are written by hand, not by the crate `deltalake`: it replaces no bytes of ours, has no way to make
//! the same commit twice the same, and would bring a second object store and a query engine along.

mod actions;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;

use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::log::path::TRANSACTIONS;
use crate::log::{self, Commit, EventKind};
use crate::read::Archive;
use crate::store::PutOutcome;

use actions::{Columns, Commitment};

/// The Delta tables of a history.
#[derive(Debug)]
pub struct DeltaView {
    archive: Archive,
    tables: BTreeMap<String, Written>,
    /// The next commit of the log to be shown.
    next: u64,
    /// The columns of tables up to a schema version, as far as they were asked for: to gather them takes a walk over all files.
    columns: HashMap<(String, i32), Arc<Columns>>,
}

/// How far a Delta table is.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    /// Its next version.
    version: u64,
    /// The last commit of the log that it shows.
    seq: Option<u64>,
    /// The schema version up to which it has columns; 0 where it has none.
    schema: i32,
}

impl DeltaView {
    /// Opens the view of a history as far as it is there.
    ///
    /// # Errors
    /// Where the store does not answer, or holds something else under the view's names.
    pub async fn open(archive: Archive) -> Result<Self> {
        let mut view = Self { archive, tables: BTreeMap::new(), next: 0, columns: HashMap::new() };
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        for directory in log::path::DATA {
            for object in view.archive.store()?.list(directory).await? {
                let Some((root, version)) = actions::version_of(&object.path) else { continue };
                let known = newest.entry(root.to_owned()).or_default();
                *known = (*known).max(version);
            }
        }
        for (root, version) in newest {
            let path = actions::commit_path(&root, version);
            let bytes = view.archive.store()?.get(&path).await?;
            let (seq, schema) =
                actions::read_back(&bytes, &view.archive.manifest().id).ok_or_else(|| foreign(&path))?;
            let is_later = |view: &Self| view.archive.log().last_seq().is_none_or(|last| seq > last);
            // Somebody else may show commits that came since the log was read.
            if is_later(&view) {
                view.archive.refresh().await?;
            }
            if is_later(&view) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "the Delta view is of a later log",
                    format!(
                        "{path} shows commit {seq}, which the log does not have: it was put back, or cut off; remove the \
                         directories _delta_log, and the view is made anew"
                    ),
                ));
            }
            view.tables.insert(root, Written { version: version + 1, seq: Some(seq), schema });
        }
        view.next = view.first_lacking();
        Ok(view)
    }

    /// The first commit that a table of the view may lack; the log's next one where none lacks any. A table whose
    /// `_delta_log` is gone is made anew from the log's beginning, whatever the others show.
    fn first_lacking(&self) -> u64 {
        let log = self.archive.log();
        let mut last: BTreeMap<String, u64> =
            log.tables().filter_map(root_of).map(|root| (root, 0)).collect();
        let files = log.files().map(|(path, file)| (path, file.added_by));
        for (path, seq) in files.chain(log.removed()) {
            let Some((root, _)) = actions::within(path) else { continue };
            let known = last.entry(root.to_owned()).or_default();
            *known = (*known).max(seq);
        }
        let lacking = last.into_iter().filter_map(|(root, last)| match self.tables.get(&root) {
            Some(Written { seq: Some(seq), .. }) => (*seq < last).then_some(seq + 1),
            _ => Some(0),
        });
        lacking.min().unwrap_or(log.next_seq)
    }

    /// The next commit of the log to be shown.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Shows all commits that are not shown yet; gives how many.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] where somebody else writes to the view; what the store says.
    pub async fn catch_up(&mut self) -> Result<u64> {
        self.archive.refresh().await?;
        let from = self.next;
        let commits = log::commits(self.archive.store()?, from..self.archive.log().next_seq);
        let mut commits = std::pin::pin!(commits);
        while let Some(stored) = commits.try_next().await? {
            self.show(&stored.commit).await?;
            self.next = stored.commit.seq + 1;
        }
        Ok(self.next - from)
    }

    /// Shows one commit in each table that it touches.
    async fn show(&mut self, commit: &Commit) -> Result<()> {
        let mut touched: BTreeMap<String, (String, Commitment<'_>)> = BTreeMap::new();
        let merged = commit.body.events.iter().any(|event| event.kind == EventKind::Compact);
        for add in &commit.body.add {
            let Some((root, file)) = actions::within(&add.path) else { continue };
            let (_, own) =
                touched.entry(root.to_owned()).or_insert_with(|| (add.table.clone(), Commitment::default()));
            own.add.push((file, add));
        }
        for path in &commit.body.remove {
            let Some((root, file)) = actions::within(path) else { continue };
            if !touched.contains_key(root) {
                let Some(table) = self.table_at(root) else { continue };
                touched.insert(root.to_owned(), (table, Commitment::default()));
            }
            if let Some((_, own)) = touched.get_mut(root) {
                own.remove.push(file);
            }
        }
        // A table without a fact is an empty table, not none.
        for schema in &commit.body.schemas {
            let Some(root) = root_of(&schema.table) else { continue };
            if !self.tables.contains_key(&root) {
                let (_, own) =
                    touched.entry(root).or_insert_with(|| (schema.table.clone(), Commitment::default()));
                own.schema = own.schema.max(schema.schema);
            }
        }
        for (root, (table, mut own)) in touched {
            let written = self.tables.get(&root).copied().unwrap_or_default();
            if written.seq.is_some_and(|seq| seq >= commit.seq) {
                continue;
            }
            own.data_change = !merged;
            let newest = own.add.iter().map(|(_, add)| add.schema).max().unwrap_or(0);
            let newest = newest.max(own.schema).max(written.schema);
            let (before, after) = (self.columns(&table, written.schema)?, self.columns(&table, newest)?);
            let is_new = written.version == 0;
            own.columns = (is_new || before != after).then_some(&after);
            own.upgrade = is_new || after.needs_features() != before.needs_features();
            own.schema = newest;
            let bytes = own.to_bytes(commit, &self.archive.manifest().id, &table);
            let path = actions::commit_path(&root, written.version);
            failpoint::hit("delta.before_put")?;
            // The same bytes count as ours; so do those of another release that shows the same commit there.
            let outcome = self.archive.store()?.put_new(&path, Bytes::from(bytes)).await?;
            if outcome == PutOutcome::AlreadyExists {
                let found = self.archive.store()?.get(&path).await?;
                let shown = actions::read_back(&found, &self.archive.manifest().id);
                if shown.is_none_or(|(seq, _)| seq != commit.seq) {
                    return Err(foreign(&path));
                }
            }
            self.tables.insert(
                root,
                Written { version: written.version + 1, seq: Some(commit.seq), schema: newest },
            );
        }
        Ok(())
    }

    /// The table whose files lie in a directory.
    fn table_at(&self, root: &str) -> Option<String> {
        if root == TRANSACTIONS {
            return Some(TRANSACTIONS.to_owned());
        }
        let mut tables = self.archive.log().tables();
        tables.find(|table| root_of(table).as_deref() == Some(root)).map(str::to_owned)
    }

    /// The columns of a table's files up to a schema version.
    fn columns(&mut self, table: &str, up_to: i32) -> Result<Arc<Columns>> {
        let asked = (table.to_owned(), up_to);
        if let Some(known) = self.columns.get(&asked) {
            return Ok(Arc::clone(known));
        }
        let columns = if table == TRANSACTIONS {
            Columns::of([crate::transactions::schema()])
        } else {
            let history = self.archive.table(table)?;
            let versions = history.versions.iter().filter(|version| version.schema.version <= up_to);
            Columns::of(versions.map(|version| Arc::clone(version.schema.arrow())))
        };
        let columns = Arc::new(columns);
        self.columns.insert(asked, Arc::clone(&columns));
        Ok(columns)
    }
}

/// The directory of a table that the log calls so.
fn root_of(table: &str) -> Option<String> {
    let name = log::parse_table_text(table)?;
    Some(format!("tables/{}", log::table_dir(&name.schema, &name.name)))
}

fn foreign(path: &str) -> Error {
    Error::new(
        ErrorKind::Conflict,
        "somebody else writes to the Delta view",
        format!(
            "{path} is not what bygone would have put there: remove the directory _delta_log to have the view made anew, or go on \
             without it (--no-delta)"
        ),
    )
}
