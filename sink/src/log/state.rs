//! What commits 0…n say together.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use bygone_replication::Lsn;
use serde_json::{Map, Value};

use super::commit::{ASIDE, Add, COMMITS, Commit, CommitBody, FORMAT, LSN_OFFSET, Source, Wal};
use super::event::Event;
use super::hash::ContentHash;
use super::path::{TRANSACTIONS, check_data_path, commit_path, compacted_path, compacted_seq, fact_seq};
use super::schema::SchemaVersion;
use crate::error::{Error, ErrorKind, Result};
use crate::timestamp::Timestamp;

/// What commits 0…n say together: where reading goes on, which files are live, which tables there are.
#[derive(Clone, Debug, Default)]
pub struct LogState {
    /// The sequence number of the next commit; 0 while there is none.
    pub next_seq: u64,
    /// SHA-256 of the last commit's bytes.
    pub last_hash: Option<ContentHash>,
    /// The last commit's writer.
    pub last_writer: Option<String>,
    /// When the last commit was written, by its writer's clock.
    pub last_at: Option<Timestamp>,
    /// The last commit's `resume`.
    pub resume: Option<Lsn>,
    /// The last commit's `wal.to`.
    pub wal_to: Option<Lsn>,
    /// The last commit's `epoch`.
    pub epoch: u32,
    /// By how much positions of the history lie beyond those of the source: 0 before a fork, see
    /// [`LSN_OFFSET`](super::commit::LSN_OFFSET).
    pub lsn_offset: u64,
    /// Up to where the publications are known to have been as recorded.
    pub catalog_seen: Option<Lsn>,
    /// The last commit's `source`.
    pub source: Option<Source>,
    /// The source's clock at the last message covered: what is later is not known yet.
    pub server_time: Option<Timestamp>,
    /// The latest `_valid_from` given.
    pub high_water: Option<Timestamp>,
    /// What the publications looked like when that was last recorded.
    pub publication: Option<Value>,
    files: BTreeMap<String, LiveFile>,
    removed: BTreeMap<String, u64>,
    schemas: BTreeMap<String, Vec<SchemaVersion>>,
    events: Vec<(u64, Event)>,
}

/// A file that holds facts as of a commit.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveFile {
    /// What the log says of it.
    pub add: Add,
    /// The commit that added it.
    pub added_by: u64,
}

impl LiveFile {
    /// The first and the last of the commits whose facts it holds: one for most files, more after a compaction.
    #[must_use]
    pub fn commits(&self) -> [u64; 2] {
        let merged = self.add.extra.get(COMMITS).and_then(Value::as_array);
        let merged = merged.and_then(|commits| Some([commits.first()?.as_u64()?, commits.last()?.as_u64()?]));
        merged.unwrap_or([self.added_by; 2])
    }

    /// It stands for several: for those that a compaction merged, or those that have arrived elsewhere ([`LogState::gather_files`]).
    pub(crate) fn is_merged(&self) -> bool {
        compacted_seq(&self.add.path).is_some()
    }

    /// Takes in another one of the same schema version.
    fn join(&mut self, other: &Self) {
        let (one, two) = (self.commits(), other.commits());
        self.added_by = self.added_by.max(other.added_by);
        let (add, more) = (&mut self.add, &other.add);
        let commits = vec![one[0].min(two[0]), one[1].max(two[1])];
        add.extra.insert(COMMITS.to_owned(), commits.into());
        add.digest = None;
        add.rows += more.rows;
        add.bytes += more.bytes;
        add.lsn = [add.lsn[0].min(more.lsn[0]), add.lsn[1].max(more.lsn[1])];
        add.valid_from =
            [add.valid_from[0].min(more.valid_from[0]), add.valid_from[1].max(more.valid_from[1])];
    }

    fn is_before(&self, seq: u64) -> bool {
        self.added_by < seq && fact_seq(&self.add.path).is_none_or(|number| number < seq)
    }

    /// Files of one table in the order of their facts. Two commits may have facts of one position.
    #[must_use]
    pub fn in_order(&self, other: &Self) -> Ordering {
        let key = |file: &Self| (file.add.lsn[0], file.commits());
        key(self).cmp(&key(other)).then_with(|| self.add.path.cmp(&other.add.path))
    }
}

impl LogState {
    /// The last commit's sequence number.
    #[must_use]
    pub fn last_seq(&self) -> Option<u64> {
        self.next_seq.checked_sub(1)
    }

    /// The live files, by path.
    pub fn files(&self) -> impl ExactSizeIterator<Item = (&str, &LiveFile)> {
        self.files.iter().map(|(path, file)| (path.as_str(), file))
    }

    /// A log of which only the live files are known.
    #[cfg(test)]
    pub(crate) fn of_files(files: impl IntoIterator<Item = LiveFile>) -> Self {
        let files = files.into_iter().map(|file| (file.add.path.clone(), file)).collect();
        Self { files, ..Self::default() }
    }

    /// The live files of one table ([`table_text`](super::table_text)), in the order of their facts.
    #[must_use]
    pub fn files_of(&self, table: &str) -> Vec<&LiveFile> {
        let mut files: Vec<_> = self.files.values().filter(|file| file.add.table == table).collect();
        files.sort_by(|a, b| a.in_order(b));
        files
    }

    /// The live file of a path.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&LiveFile> {
        self.files.get(path)
    }

    /// The files of commits before one, but for those that bear the number of a later commit: a file to come may not be called so.
    pub(crate) fn files_before(&self, seq: u64) -> impl Iterator<Item = &LiveFile> {
        self.files.values().filter(move |file| file.is_before(seq))
    }

    /// Forgets those files: they have arrived elsewhere, and are not there any more.
    pub fn forget_files(&mut self, before: u64) {
        self.files.retain(|_, file| !file.is_before(before));
    }

    /// Has those files stand together: what arrives elsewhere is asked for there, and all that is kept of its files are ranges.
    pub(crate) fn gather_files(&mut self, before: u64) {
        let gathered = gathered(self.files_before(before));
        self.forget_files(before);
        self.files.extend(gathered.into_iter().map(|file| (file.add.path.clone(), file)));
    }

    /// Files that were live once, with the commit that removed them: their objects may be gone.
    pub fn removed(&self) -> impl ExactSizeIterator<Item = (&str, u64)> {
        self.removed.iter().map(|(path, seq)| (path.as_str(), *seq))
    }

    /// A commit names the path, whether it is live or not.
    #[must_use]
    pub fn names(&self, path: &str) -> bool {
        self.files.contains_key(path) || self.removed.contains_key(path)
    }

    /// The tables that ever had a schema, as [`table_text`](super::table_text).
    pub fn tables(&self) -> impl ExactSizeIterator<Item = &str> {
        self.schemas.keys().map(String::as_str)
    }

    /// All versions of a table's columns, oldest first.
    #[must_use]
    pub fn schemas(&self, table: &str) -> &[SchemaVersion] {
        self.schemas.get(table).map_or(&[], Vec::as_slice)
    }

    /// The newest version of a table's columns.
    #[must_use]
    pub fn schema(&self, table: &str) -> Option<&SchemaVersion> {
        self.schemas(table).last()
    }

    /// All events with the commit that recorded them, oldest first.
    #[must_use]
    pub fn events(&self) -> &[(u64, Event)] {
        &self.events
    }

    /// A state as a checkpoint keeps it: these files, columns and events, and the rest as it stands here. What was removed is not
    /// in it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidPath`] where a path leads out of the history.
    pub(crate) fn restore(
        self,
        files: Vec<LiveFile>,
        schemas: Vec<SchemaVersion>,
        events: Vec<(u64, Event)>,
    ) -> Result<Self> {
        let mut state = Self { events, ..self };
        for file in files {
            check_data_path(&file.add.path)?;
            state.files.insert(file.add.path.clone(), file);
        }
        for schema in schemas {
            state.schemas.entry(schema.table.clone()).or_default().push(schema);
        }
        Ok(state)
    }

    /// Goes on by one commit whose bytes have this hash. Changes nothing where it refuses.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] where the commit does not follow from the ones before.
    pub fn apply(&mut self, commit: &Commit, hash: ContentHash) -> Result<()> {
        self.check(commit)?;
        let Commit { seq, at, writer, body, .. } = commit;
        for path in &body.remove {
            self.files.remove(path);
            self.removed.insert(path.clone(), *seq);
        }
        for add in &body.add {
            self.files.insert(add.path.clone(), LiveFile { add: add.clone(), added_by: *seq });
        }
        for schema in &body.schemas {
            self.schemas.entry(schema.table.clone()).or_default().push(schema.clone());
        }
        self.events.extend(body.events.iter().map(|event| (*seq, event.clone())));
        self.next_seq = seq + 1;
        self.last_hash = Some(hash);
        self.last_writer = Some(writer.clone());
        self.last_at = Some(*at);
        self.resume = Some(body.resume);
        self.wal_to = Some(body.wal.to);
        self.epoch = body.epoch;
        self.lsn_offset = body.lsn_offset();
        self.catalog_seen = body.catalog_seen().or(self.catalog_seen);
        self.source = Some(body.source.clone());
        self.server_time = body.server_time.or(self.server_time);
        self.high_water = body.high_water.or(self.high_water);
        if body.publication.is_some() {
            self.publication.clone_from(&body.publication);
        }
        Ok(())
    }

    /// The body of a commit that leaves all as it is, marked as [`ASIDE`]: for what is added about the history by
    /// somebody who does not capture. None before the first commit.
    #[must_use]
    pub fn aside(&self) -> Option<CommitBody> {
        let mut extra = Map::new();
        extra.insert(ASIDE.to_owned(), true.into());
        if self.lsn_offset != 0 {
            extra.insert(LSN_OFFSET.to_owned(), Lsn(self.lsn_offset).to_string().into());
        }
        Some(CommitBody {
            wal: Wal { from: self.wal_to?, to: self.wal_to? },
            resume: self.resume?,
            epoch: self.epoch,
            source: self.source.clone()?,
            server_time: self.server_time,
            high_water: self.high_water,
            publication: None,
            schemas: Vec::new(),
            events: Vec::new(),
            add: Vec::new(),
            remove: Vec::new(),
            extra,
        })
    }

    /// A commit is marked as [`ASIDE`], and does no more than such a one may: a capture can go on behind it.
    pub(super) fn is_aside(&self, body: &CommitBody) -> bool {
        let Some(allowed) = self.aside() else { return false };
        let same = CommitBody {
            events: body.events.clone(),
            extra: body.extra.clone(),
            add: body.add.clone(),
            remove: body.remove.clone(),
            ..allowed
        };
        body.is_aside() && body.lsn_offset() == self.lsn_offset && *body == same && self.keeps_all_facts(body)
    }

    /// Files only take the place of others with as many facts, table by table.
    fn keeps_all_facts(&self, body: &CommitBody) -> bool {
        let mut rows: BTreeMap<&str, i128> = BTreeMap::new();
        for add in &body.add {
            *rows.entry(&add.table).or_default() += i128::from(add.rows);
        }
        for path in &body.remove {
            let Some(file) = self.files.get(path) else { return false };
            *rows.entry(&file.add.table).or_default() -= i128::from(file.add.rows);
        }
        rows.values().all(|rows| *rows == 0)
    }

    /// Whether a commit follows from the ones before.
    pub(super) fn check(&self, commit: &Commit) -> Result<()> {
        let seq = self.next_seq;
        if commit.format != FORMAT {
            return Err(damaged(seq, format!("its format is {}", commit.format)));
        }
        if commit.seq != seq || seq == u64::MAX {
            return Err(damaged(seq, format!("it says that it is commit {}", commit.seq)));
        }
        if commit.prev != self.last_hash {
            let hash =
                |hash: Option<ContentHash>| hash.map_or_else(|| "none".to_owned(), |hash| hash.to_string());
            let (said, is) = (hash(commit.prev), hash(self.last_hash));
            let what = format!(
                "the commit before it has the SHA-256 {is}, and it says {said}: one of the two was altered"
            );
            return Err(damaged(seq, what));
        }
        // A hostile log may name a path twice in one commit.
        let mut removed = BTreeSet::new();
        for path in &commit.body.remove {
            if !self.files.contains_key(path) || !removed.insert(path) {
                return Err(damaged(seq, format!("it removes {path:?}, which is not live")));
            }
        }
        let mut added = BTreeSet::new();
        for add in &commit.body.add {
            check_data_path(&add.path).map_err(|err| damaged(seq, err.to_string()).with_source(err))?;
            if self.names(&add.path) || !added.insert(&add.path) {
                return Err(damaged(seq, format!("it adds {}, which a commit named before", add.path)));
            }
        }
        for (at, schema) in commit.body.schemas.iter().enumerate() {
            let before =
                commit.body.schemas.iter().take(at).rev().find(|before| before.table == schema.table);
            let newest = before.or_else(|| self.schema(&schema.table)).map_or(0, |before| before.schema);
            if schema.schema <= newest {
                let (table, version) = (&schema.table, schema.schema);
                return Err(damaged(seq, format!("it gives {table} schema {version} after schema {newest}")));
            }
        }
        Ok(())
    }
}

/// Commits of which transactions are gathered together: a question about a moment reads so many.
const TOGETHER: u64 = 1_000;

/// Files as one for each table, schema version and leaf, under paths that no file has; of transactions one for some commits each.
fn gathered<'a>(files: impl Iterator<Item = &'a LiveFile>) -> Vec<LiveFile> {
    let mut groups: BTreeMap<_, LiveFile> = BTreeMap::new();
    for file in files {
        let add = &file.add;
        let part = if add.table == TRANSACTIONS { file.commits()[0] / TOGETHER } else { 0 };
        groups
            .entry((add.table.as_str(), add.schema, add.leaf(), part))
            .and_modify(|group| group.join(file))
            .or_insert_with(|| file.clone());
    }
    let mut groups: Vec<LiveFile> = groups.into_values().collect();
    for (number, group) in (0..).zip(&mut groups) {
        let commits = group.commits();
        group.add.extra.insert(COMMITS.to_owned(), commits.to_vec().into());
        group.add.path = compacted_path(&group.add.path, commits[1], number);
    }
    groups
}

fn damaged(seq: u64, what: String) -> Error {
    let detail = format!("{}: {what}; `bygone verify` says more", commit_path(seq));
    Error::new(ErrorKind::Damaged, "the log is damaged", detail)
}

#[cfg(test)]
mod tests {
    use super::super::commit::tests::EXAMPLE;
    use super::*;

    fn commit(seq: u64, prev: Option<ContentHash>, add: &[&str], remove: &[&str]) -> Commit {
        let mut commit = Commit::from_bytes(EXAMPLE.as_bytes(), seq).unwrap();
        let file = commit.body.add[0].clone();
        (commit.seq, commit.prev) = (seq, prev);
        commit.body.schemas.clear();
        commit.body.add = add.iter().map(|path| Add { path: (*path).to_owned(), ..file.clone() }).collect();
        commit.body.remove = remove.iter().map(|path| (*path).to_owned()).collect();
        commit
    }

    const A: &str = "tables/public.t/_date=2026-11-23/00000000000000000000-000.parquet";
    const B: &str = "tables/public.t/_date=2026-11-23/00000000000000000001-000.parquet";

    #[test]
    fn the_live_files_are_the_adds_less_the_removes() {
        let mut state = LogState::default();
        let (first, second) = (ContentHash([1; 32]), ContentHash([2; 32]));
        state.apply(&commit(0, None, &[A], &[]), first).unwrap();
        state.apply(&commit(1, Some(first), &[B], &[A]), second).unwrap();

        assert_eq!(state.files().map(|(path, file)| (path, file.added_by)).collect::<Vec<_>>(), [(B, 1)]);
        assert_eq!(state.removed().collect::<Vec<_>>(), [(A, 1)]);
        assert!(state.names(A));
        assert_eq!((state.next_seq, state.last_hash), (2, Some(second)));
        assert_eq!(state.files_of("public.orders").len(), 1);
    }

    #[test]
    fn of_files_that_have_arrived_ranges_are_kept() {
        let mut state = LogState::default();
        let mut last = None;
        for seq in 0..4u64 {
            let path = A.replace("00000-000", &format!("{seq:05}-000"));
            let mut commit = commit(seq, last, &[&path], &[]);
            commit.body.add[0].lsn = [Lsn(seq * 10), Lsn(seq * 10 + 5)];
            last = Some(ContentHash([u8::try_from(seq).unwrap(); 32]));
            state.apply(&commit, last.unwrap()).unwrap();
        }
        let rows = state.files().next().unwrap().1.add.rows;
        // Once, and again with what came since.
        for (before, commits, ends) in [(2, [0, 1], 15), (3, [0, 2], 25)] {
            state.gather_files(before);
            let files = state.files_of("public.orders");
            assert_eq!(files.len() as u64, 5 - before);
            assert_eq!((files[0].commits(), files[0].is_merged()), (commits, true));
            assert_eq!((files[0].add.lsn, files[0].add.rows), ([Lsn(0), Lsn(ends)], before * rows));
            assert!(files[1..].iter().all(|file| !file.is_merged()));
            assert_eq!(state.files_before(4).count(), files.len());
        }
    }

    #[test]
    fn what_does_not_follow_is_refused_and_changes_nothing() {
        let mut state = LogState::default();
        let first = ContentHash([1; 32]);
        state.apply(&commit(0, None, &[A], &[]), first).unwrap();
        let mut versions = commit(1, Some(first), &[], &[]);
        let schema = Commit::from_bytes(EXAMPLE.as_bytes(), 1).unwrap().body.schemas.remove(0);
        versions.body.schemas = vec![schema.clone(), schema];

        for (name, bad) in [
            ("seq", commit(2, Some(first), &[], &[])),
            ("prev", commit(1, None, &[], &[])),
            ("prev", commit(1, Some(ContentHash([2; 32])), &[], &[])),
            ("added twice", commit(1, Some(first), &[A], &[])),
            ("added twice at once", commit(1, Some(first), &[B, B], &[])),
            ("removed and added again", commit(1, Some(first), &[A], &[A])),
            ("not live", commit(1, Some(first), &[], &[B])),
            ("removed twice", commit(1, Some(first), &[], &[A, A])),
            ("leads out", commit(1, Some(first), &["tables/../../x.parquet"], &[])),
            ("absolute", commit(1, Some(first), &["/etc/x.parquet"], &[])),
            ("no data file", commit(1, Some(first), &["log/x.parquet"], &[])),
            ("schema twice", versions),
        ] {
            assert_eq!(state.apply(&bad, first).unwrap_err().kind(), ErrorKind::Damaged, "{name}");
            assert_eq!((state.next_seq, state.files().len()), (1, 1), "{name}");
        }
    }
}
