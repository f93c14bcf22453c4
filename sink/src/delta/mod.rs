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

use std::collections::BTreeMap;

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
        let mut view = Self { archive, tables: BTreeMap::new(), next: 0 };
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        for directory in log::path::DATA {
            for object in view.archive.store().list(directory).await? {
                let Some((root, version)) = actions::version_of(&object.path) else { continue };
                let known = newest.entry(root.to_owned()).or_default();
                *known = (*known).max(version);
            }
        }
        for (root, version) in newest {
            let path = actions::commit_path(&root, version);
            let bytes = view.archive.store().get(&path).await?;
            let (seq, schema) =
                actions::read_back(&bytes, &view.archive.manifest().id).ok_or_else(|| foreign(&path))?;
            view.tables.insert(root, Written { version: version + 1, seq: Some(seq), schema });
        }
        // Commits are shown one after the other: before the last that any table shows, nothing is missing.
        view.next = view.tables.values().filter_map(|written| written.seq).max().unwrap_or(0);
        Ok(view)
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
        let commits = log::commits(self.archive.store(), from..self.archive.log().next_seq);
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
            if let Some((_, own)) = touched.get_mut(root) {
                own.remove.push(file);
            }
        }
        for (root, (table, mut own)) in touched {
            let written = self.tables.get(&root).copied().unwrap_or_default();
            if written.seq.is_some_and(|seq| seq >= commit.seq) {
                continue;
            }
            own.data_change = !merged;
            let newest = own.add.iter().map(|(_, add)| add.schema).max().unwrap_or(0).max(written.schema);
            let (before, after) = (self.columns(&table, written.schema)?, self.columns(&table, newest)?);
            let is_new = written.version == 0;
            own.columns = (is_new || before != after).then_some(&after);
            own.upgrade = is_new || after.needs_features() != before.needs_features();
            own.schema = newest;
            let bytes = own.to_bytes(commit, &self.archive.manifest().id, &table);
            let path = actions::commit_path(&root, written.version);
            failpoint::hit("delta.before_put")?;
            // The same bytes count as ours.
            if self.archive.store().put_new(&path, Bytes::from(bytes)).await? == PutOutcome::AlreadyExists {
                return Err(foreign(&path));
            }
            self.tables.insert(
                root,
                Written { version: written.version + 1, seq: Some(commit.seq), schema: newest },
            );
        }
        Ok(())
    }

    /// The columns of a table's files up to a schema version.
    fn columns(&self, table: &str, up_to: i32) -> Result<Columns> {
        if table == TRANSACTIONS {
            return Ok(Columns::of([crate::transactions::schema()]));
        }
        let history = self.archive.table(table)?;
        let versions = history.versions.iter().filter(|version| version.schema.version <= up_to);
        Ok(Columns::of(versions.map(|version| std::sync::Arc::clone(version.schema.arrow()))))
    }
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
