//! A history opened for reading: the log, and where in the WAL and in time its commits lie.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bygone_replication::Lsn;
use futures_util::TryStreamExt;
use futures_util::future::try_join;
use parquet::arrow::ProjectionMask;

use super::facts::facts;
use super::file::{self, column};
use super::{Columns, Fact, FactFilter, Flow, TableHistory};
use crate::checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::fact_tables::Rows;
use crate::history::read_manifest;
use crate::log::path::TRANSACTIONS;
use crate::log::{self, Commit, EventKind, EventLsn, LogState, Manifest, StoredCommit};
use crate::store::Store;
use crate::timestamp::Timestamp;
use arrow::array::{Int64Array, TimestampMicrosecondArray};
use tokio_postgres::Client;

/// Where a commit ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitPlace {
    /// Which commit it is.
    pub seq: u64,
    /// When it was written, by the writer's clock.
    pub at: Timestamp,
    /// Its `wal.to`.
    pub wal_to: Lsn,
    /// The source's clock at the last message that it covers.
    pub server_time: Option<Timestamp>,
    /// The latest `_valid_from` up to it.
    pub high_water: Option<Timestamp>,
}

impl CommitPlace {
    fn of(commit: &Commit) -> Self {
        let body = &commit.body;
        Self {
            seq: commit.seq,
            at: commit.at,
            wal_to: body.wal.to,
            server_time: body.server_time,
            high_water: body.high_water,
        }
    }

    /// Up to when its commit knows everything.
    #[must_use]
    pub fn known_until(&self) -> Option<Timestamp> {
        self.server_time.max(self.high_water)
    }
}

/// How its facts are kept.
#[derive(Clone, Debug)]
pub(super) enum Kept {
    /// As Parquet files.
    Files(Store),
    /// As rows of fact tables.
    Rows(Arc<Rows>),
}

/// A history opened for reading.
#[derive(Clone, Debug)]
pub struct Archive {
    kept: Kept,
    manifest: Manifest,
    log: LogState,
    commits: Vec<CommitPlace>,
}

impl Archive {
    /// Opens a history as its last commit left it: by its newest [checkpoint](crate::checkpoint) and the commits since. Of files that
    /// were removed it knows only what these say.
    ///
    /// # Errors
    /// [`ErrorKind::NoHistory`] where there is none, [`ErrorKind::NewerFormat`], [`ErrorKind::Damaged`].
    pub async fn open(store: &Store) -> Result<Self> {
        let (manifest, newest) = try_join(read_manifest(store), checkpoint::newest(store)).await?;
        let (log, commits) = newest.unwrap_or_default();
        let archive = Self { kept: Kept::Files(store.clone()), manifest, log, commits };
        let end = log::commit_count_from(store, archive.log.next_seq).await?;
        archive.up_to(end).await
    }

    /// Opens a history as commit `last` left it, or as it is, by all its commits.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub async fn open_whole(store: &Store, last: Option<u64>) -> Result<Self> {
        let manifest = read_manifest(store).await?;
        let end = match last {
            Some(last) => last.saturating_add(1),
            None => log::commit_count(store).await?,
        };
        let archive = Self {
            kept: Kept::Files(store.clone()),
            manifest,
            log: LogState::default(),
            commits: Vec::new(),
        };
        archive.up_to(end).await
    }

    /// Opens a spool: its log begins with the commits that have not arrived, or some before.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub async fn open_spool(store: &Store) -> Result<Self> {
        let manifest = read_manifest(store).await?;
        let (log, commits) = checkpoint::arrived(store).await?;
        let archive = Self { kept: Kept::Files(store.clone()), manifest, log, commits };
        let end = log::commit_count_from(store, archive.log.next_seq).await?;
        archive.up_to(end).await
    }

    /// Opens the history that the fact tables in a schema of a database hold, by their newest checkpoint and the commits since.
    ///
    /// # Errors
    /// [`ErrorKind::NoHistory`] where there are none, [`ErrorKind::Damaged`], what the database says.
    pub async fn open_rows(client: Client, schema: &str) -> Result<Self> {
        let (rows, manifest) = Rows::open(client, schema).await?;
        let (log, commits) = rows.checkpoint().await?.map(|newest| newest.restored).unwrap_or_default();
        let since = rows.commits(log.next_seq, None).await?;
        let mut archive = Self { kept: Kept::Rows(Arc::new(rows)), manifest, log, commits };
        for stored in &since {
            archive.take(stored)?;
        }
        Ok(archive)
    }

    async fn up_to(mut self, end: u64) -> Result<Self> {
        let mut commits = std::pin::pin!(log::commits(self.store()?, self.log.next_seq..end));
        while let Some(stored) = commits.try_next().await? {
            self.take(&stored)?;
        }
        Ok(self)
    }

    /// Reads the commits that came since, and gives them back.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub async fn refresh(&mut self) -> Result<Vec<Commit>> {
        let mut news = Vec::new();
        let store = match &mut self.kept {
            Kept::Files(store) => store.clone(),
            Kept::Rows(rows) => {
                let rows = Arc::get_mut(rows).ok_or_else(|| {
                    Error::new(ErrorKind::Conflict, "a reader is at work", "the fact tables are still read")
                })?;
                rows.renew().await?;
                for stored in rows.commits(self.log.next_seq, None).await? {
                    self.take(&stored)?;
                    news.push(stored.commit);
                }
                return Ok(news);
            }
        };
        loop {
            match log::read(&store, self.log.next_seq).await {
                Ok(stored) => {
                    self.take(&stored)?;
                    news.push(stored.commit);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(news),
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, StoredCommit { commit, hash }: &StoredCommit) -> Result<()> {
        self.log.apply(commit, *hash)?;
        self.commits.push(CommitPlace::of(commit));
        Ok(())
    }

    /// Where its files are kept.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where its facts are rows.
    pub fn store(&self) -> Result<&Store> {
        match &self.kept {
            Kept::Files(store) => Ok(store),
            Kept::Rows(rows) => {
                let detail = format!(
                    "schema {:?} holds rows; bygone backfill-history makes files of them",
                    rows.schema()
                );
                Err(Error::new(ErrorKind::Unsupported, "that needs a history of files", detail))
            }
        }
    }

    /// The rows of its facts.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where its facts are files.
    pub(crate) fn rows(&self) -> Result<&Rows> {
        match &self.kept {
            Kept::Rows(rows) => Ok(rows),
            Kept::Files(store) => {
                let detail = format!("{} holds files", store.describe());
                Err(Error::new(ErrorKind::Unsupported, "that needs fact tables", detail))
            }
        }
    }

    pub(super) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Walks over facts of a table, which within an entity come in the order of their versions until files are merged.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub async fn facts(
        &self,
        table: &TableHistory,
        filter: &FactFilter,
        columns: &Columns,
        visit: &mut dyn FnMut(&Fact<'_>) -> Flow,
    ) -> Result<()> {
        match &self.kept {
            Kept::Files(store) => facts(store, table, filter, columns, visit).await,
            Kept::Rows(rows) => rows.facts(table, filter, columns, visit).await,
        }
    }

    /// Some commits, oldest first.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub async fn commits_of(&self, range: Range<u64>, visit: &mut dyn FnMut(&Commit) -> Flow) -> Result<()> {
        match &self.kept {
            Kept::Files(store) => {
                let mut commits = std::pin::pin!(log::commits(store, range));
                while let Some(stored) = commits.try_next().await? {
                    if visit(&stored.commit).is_break() {
                        break;
                    }
                }
            }
            Kept::Rows(rows) => {
                let count = range.end.saturating_sub(range.start);
                let commits = rows.commits(range.start, Some(count)).await?;
                let _: Flow = commits.iter().try_for_each(|stored| visit(&stored.commit));
            }
        }
        Ok(())
    }

    /// What it is of.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What its log says.
    #[must_use]
    pub fn log(&self) -> &LogState {
        &self.log
    }

    /// Keeps of the files of commits before one what fact tables do not say.
    pub(crate) fn gather_files(&mut self, before: u64) {
        self.log.gather_files(before);
    }

    /// Its commits, oldest first; of those before a checkpoint only some.
    #[must_use]
    pub fn commits(&self) -> &[CommitPlace] {
        &self.commits
    }

    /// The last position that is known, and the source's clock there.
    #[must_use]
    pub fn known_until(&self) -> (Lsn, Option<Timestamp>) {
        let time = self.commits.iter().filter_map(CommitPlace::known_until).max();
        (self.log.wal_to.unwrap_or(Lsn::ZERO), time)
    }

    /// The events of a kind that concern a table or all tables, with the commit that recorded them.
    pub fn events<'a>(&'a self, table: &'a str) -> impl Iterator<Item = (u64, &'a log::Event)> {
        let concerns = move |event: &log::Event| event.table.as_deref().is_none_or(|name| name == table);
        self.log.events().iter().filter(move |(_, event)| concerns(event)).map(|(seq, event)| (*seq, event))
    }

    /// The last position whose facts, and events, lie at or before a time.
    ///
    /// # Errors
    /// Where a file that tells of it cannot be read.
    pub async fn place_of_time(&self, time: Timestamp) -> Result<Lsn> {
        let early = |at: Option<Timestamp>| at.is_none_or(|at| at <= time);
        let commits = self.commits.iter().filter(|place| early(place.server_time) && early(place.high_water));
        let mut last = commits.map(|place| place.wal_to).max().unwrap_or(Lsn::ZERO);
        for (_, file) in self.log.files() {
            let [first, latest] = file.add.valid_from;
            if latest <= time {
                last = last.max(file.add.lsn[1]);
            } else if first <= time {
                let within = self.places(&file.add).await?;
                let covered = within.into_iter().filter(|(_, valid_from)| *valid_from <= time);
                last = covered.map(|(lsn, _)| lsn).max().map_or(last, |lsn| last.max(lsn));
            }
        }
        Ok(last)
    }

    /// The first time at which a position is passed; `None` where that is not known yet.
    ///
    /// # Errors
    /// Where a file that tells of it cannot be read.
    pub async fn time_of_place(&self, place: Lsn) -> Result<Option<Timestamp>> {
        let commits = self.commits.iter().filter(|commit| commit.wal_to >= place);
        let mut first = commits.filter_map(CommitPlace::known_until).min();
        for (_, file) in self.log.files() {
            let [from, to] = file.add.lsn;
            if from >= place {
                first = first.into_iter().chain([file.add.valid_from[0]]).min();
            } else if to >= place {
                let within = self.places(&file.add).await?;
                let later = within.into_iter().filter(|(lsn, _)| *lsn >= place).map(|(_, time)| time);
                first = first.into_iter().chain(later).min();
            }
        }
        Ok(first)
    }

    /// The last time by the source's clock of which it is known that it does not lie behind a position.
    ///
    /// # Errors
    /// Where a file that tells of it cannot be read.
    pub async fn place_known_until(&self, place: Lsn) -> Result<Option<Timestamp>> {
        let commits = self.commits.iter().filter(|commit| commit.wal_to <= place);
        let mut last = commits.filter_map(CommitPlace::known_until).max();
        for (_, file) in self.log.files() {
            let [from, to] = file.add.lsn;
            if to <= place {
                last = last.max(Some(file.add.valid_from[1]));
            } else if from <= place {
                let within = self.places(&file.add).await?;
                let earlier = within.into_iter().filter(|(lsn, _)| *lsn <= place).map(|(_, time)| time);
                last = last.max(earlier.max());
            }
        }
        Ok(last)
    }

    /// Positions that a file tells the time of: both of its ends, and within it those that nothing else tells.
    async fn places(&self, add: &log::Add) -> Result<Vec<(Lsn, Timestamp)>> {
        let ([first, last], [earliest, latest]) = (add.lsn, add.valid_from);
        let mut places = vec![(first, earliest), (last, latest)];
        match &self.kept {
            _ if add.table == TRANSACTIONS => places.extend(self.transaction_places(add).await?),
            Kept::Files(store) => {
                // What a look at the catalog ended has no transaction, and its commit may end later.
                let noticed: BTreeSet<Lsn> = self
                    .events(&add.table)
                    .filter(|(_, event)| noticed_since(event).is_some())
                    .filter_map(|(_, event)| event.lsn.map(EventLsn::latest))
                    .filter(|place| first < *place && *place < last)
                    .collect();
                if !noticed.is_empty() {
                    let of_it = |place: &Lsn| noticed.contains(place);
                    places.extend(places_in(store, add, ["_lsn", "_valid_from"], of_it).await?);
                }
            }
            Kept::Rows(_) => {}
        }
        Ok(places)
    }

    async fn transaction_places(&self, add: &log::Add) -> Result<Vec<(Lsn, Timestamp)>> {
        match &self.kept {
            Kept::Files(store) => places_in(store, add, ["lsn", "valid_from"], |_| true).await,
            Kept::Rows(rows) => rows.places(add.lsn).await,
        }
    }

    /// The first position that is known to lie after a time; `None` where nothing is known after it.
    ///
    /// # Errors
    /// Where a file that tells of it cannot be read.
    pub async fn place_after_time(&self, time: Timestamp) -> Result<Option<Lsn>> {
        let late = self.commits.iter().filter(|place| place.known_until().is_some_and(|until| until > time));
        let mut next = late.map(|place| place.wal_to).min();
        for (_, file) in self.log.files() {
            let [first, latest] = file.add.valid_from;
            if first > time {
                next = next.into_iter().chain([file.add.lsn[0]]).min();
            } else if latest > time {
                let within = self.places(&file.add).await?;
                let later = within.into_iter().filter(|(_, valid_from)| *valid_from > time);
                next = next.into_iter().chain(later.map(|(lsn, _)| lsn)).min();
            }
        }
        Ok(next)
    }

    /// The stretches in which a table's rows are not known, or not exactly, oldest first.
    pub fn doubts<'a>(&'a self, table: &'a str) -> impl Iterator<Item = Doubt<'a>> {
        self.events(table).enumerate().filter_map(move |(at, (_, event))| {
            let lsn = event.lsn?;
            if let Some(after) = noticed_since(event) {
                let until = lsn.latest();
                return (after < until).then_some(Doubt { event, after, until: Some(until), whole: false });
            }
            let whole = matches!(event.kind, EventKind::Gap | EventKind::Fork);
            let told = event.detail.get("doubt").and_then(serde_json::Value::as_bool) == Some(true);
            if !whole && !told && event.kind != EventKind::Rewrite {
                return None;
            }
            // The rows were compared with the source, and are known again. A comparison of one leaf settles its coming.
            let of_leaf = event.kind == EventKind::Partition;
            let settled = self.events(table).skip(at).find_map(|(_, later)| {
                let place = later.lsn?.latest();
                if later.detail.contains_key(log::VERIFIED) {
                    return None;
                }
                let settles = match later.kind {
                    EventKind::Reconcile => of_leaf || !later.detail.contains_key("leaf"),
                    // Nothing is left to be known.
                    EventKind::Drop | EventKind::Detach => later.table.is_some(),
                    // It came after the loss, or had no first copy when that came.
                    EventKind::Snapshot => event.table.is_none(),
                    _ => false,
                };
                (settles && place >= lsn.latest()).then_some(place)
            });
            let after = match lsn {
                EventLsn::At(at) => Lsn(at.0.saturating_sub(1)),
                EventLsn::Within([after, _]) => after,
            };
            let until = if whole && !told { Some(settled.unwrap_or(lsn.latest())) } else { settled };
            Some(Doubt { event, after, until, whole })
        })
    }
}

/// Positions that are wanted, with their times, as two columns of a file have them.
async fn places_in(
    store: &Store,
    add: &log::Add,
    columns: [&str; 2],
    is_wanted: impl Fn(&Lsn) -> bool,
) -> Result<Vec<(Lsn, Timestamp)>> {
    let builder = file::open(store, &add.path, add.bytes).await?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns);
    let mut batches = file::read(&add.path, builder.with_projection(mask))?;
    let mut places = Vec::new();
    while let Some(batch) = file::next(&add.path, &mut batches).await? {
        let lsn: &Int64Array = column(&add.path, &batch, columns[0])?;
        let time: &TimestampMicrosecondArray = column(&add.path, &batch, columns[1])?;
        let pairs = lsn.values().iter().zip(time.values());
        let pairs = pairs.map(|(lsn, time)| (Lsn::from_i64(*lsn), Timestamp(*time)));
        places.extend(pairs.filter(|(lsn, _)| is_wanted(lsn)));
        // Each of a thousand rows may say the same.
        places.dedup();
    }
    Ok(places)
}

/// The last position at which a table, or a leaf of it, was there for sure, if a look at the catalog found it gone: the stream tells of
/// a drop exactly, where it does.
fn noticed_since(event: &log::Event) -> Option<Lsn> {
    event.table.as_ref()?;
    match event.kind {
        EventKind::Partition | EventKind::Detach | EventKind::Drop => {
            event.detail.get(log::SINCE)?.as_str()?.parse().ok()
        }
        _ => None,
    }
}

/// A stretch of the WAL in which a table's rows are not known, or not exactly.
#[derive(Clone, Copy, Debug)]
pub struct Doubt<'a> {
    /// What happened.
    pub event: &'a log::Event,
    /// The last position at which the rows are known before it.
    pub after: Lsn,
    /// The first position at which they are known again; none where that has not come yet.
    pub until: Option<Lsn>,
    /// Changes are missing altogether: a gap, or a fork of the timeline. Else the facts are right but for what the event
    /// stands for: rows rewritten, a partition that came or went, or the table's own end.
    pub whole: bool,
}

impl Doubt<'_> {
    /// A moment lies inside, or may: one of the positions from `place` to before `next`.
    #[must_use]
    pub fn meets(&self, place: Lsn, next: Lsn) -> bool {
        overlaps(place, next, self.after, self.until)
    }
}

/// One of the positions from `place` to before `next` lies after `after` and before `until`.
pub(super) fn overlaps(place: Lsn, next: Lsn, after: Lsn, until: Option<Lsn>) -> bool {
    let last = until.map_or(next, |until| until.min(next));
    place.max(Lsn(after.0.saturating_add(1))) < last
}

pub(super) fn unknown_table(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, "the history has no such table", name.to_owned())
}
