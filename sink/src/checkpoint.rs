//! Checkpoints: what the log says up to a commit, in one document, so that a reader need not read it from its beginning.
//!
//! `checkpoints/<seq>.json` follows from commits 0 to `seq` and from nothing else. It names the SHA-256 of the last of them: a reader takes a
//! checkpoint only where that commit has it, and the log itself otherwise. Like [slabs](crate::slabs) they hold no truth, and may be removed
//! at any time; [`prove`] makes one anew from the log.
//!
//! Two things are left out, so that one does not grow with the log as the log does. Of the places of commits in time all of
//! the last 10,000 are kept, and before these those beside an event and one in 64: questions about a moment are answered by the times of
//! the facts, and by commits where there are none. And of files that compactions have replaced nothing is said: readers do not ask.
//!
//! [Fact tables](crate::fact_tables) have checkpoints too, beside the commit that each is of. Where they are all that keeps the facts, what stands
//! there of files are [ranges](LogState::gather_files).

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::log::path::commit_seq;
use crate::log::{
    self, Add, ContentHash, Event, EventKind, LiveFile, LogState, SchemaVersion, Source, lsn_text,
};
use crate::read::{Archive, CommitPlace};
use crate::store::{Object, Store};
use crate::timestamp::Timestamp;
use bygone_replication::Lsn;

/// The directory of all checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";

/// The same in a spool, of the commits that are in fact tables.
pub(crate) const ARRIVED: &str = "arrived";

/// Commits after which another one is worth its bytes: to read so many takes some 5 ms on a disk, and as many requests to a bucket, a few
/// round trips one after another.
pub const EVERY: u64 = 100;
/// Where the last one was larger than this (some ten thousand files), ten times as many commits: so it is not written all the time.
const LARGE: u64 = 4 << 20;

const FORMAT: u32 = 1;
/// So many last commits are kept with their places.
const RECENT: u64 = 10_000;
/// One in so many of the others.
const ONE_IN: u64 = 64;
/// How many are kept: a reader may be about to read the one before the last.
const KEPT: usize = 2;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Document {
    format: u32,
    seq: u64,
    /// SHA-256 of the commit's bytes.
    hash: ContentHash,
    at: Option<Timestamp>,
    writer: Option<String>,
    #[serde(with = "lsn_text::optional")]
    resume: Option<Lsn>,
    #[serde(with = "lsn_text::optional")]
    wal_to: Option<Lsn>,
    epoch: u32,
    lsn_offset: u64,
    #[serde(with = "lsn_text::optional")]
    catalog_seen: Option<Lsn>,
    source: Option<Source>,
    server_time: Option<Timestamp>,
    high_water: Option<Timestamp>,
    publication: Option<Value>,
    files: Vec<FileDoc>,
    schemas: Vec<SchemaVersion>,
    events: Vec<EventDoc>,
    places: Vec<PlaceDoc>,
}

/// `seq`, and in microseconds or bytes: `at`, `wal.to`, `server_time`, `high_water`.
type PlaceDoc = (u64, i64, u64, Option<i64>, Option<i64>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct FileDoc {
    added_by: u64,
    add: Add,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct EventDoc {
    seq: u64,
    event: Event,
}

impl Document {
    fn of(archive: &Archive) -> Option<Self> {
        let log = archive.log();
        let seq = log.last_seq()?;
        // A compaction changes nothing that a reader asks about.
        let events = log.events().iter().filter(|(_, event)| event.kind != EventKind::Compact);
        let events: Vec<EventDoc> =
            events.map(|(seq, event)| EventDoc { seq: *seq, event: event.clone() }).collect();
        let beside_an_event = |at: u64| events.binary_search_by_key(&at, |event| event.seq).is_ok();
        let kept = |at: u64| {
            at + RECENT > seq || at.is_multiple_of(ONE_IN) || beside_an_event(at) || beside_an_event(at + 1)
        };
        let places = archive.commits().iter().filter(|place| kept(place.seq)).map(|place| {
            let micros = |time: Option<Timestamp>| time.map(|time| time.0);
            (place.seq, place.at.0, place.wal_to.0, micros(place.server_time), micros(place.high_water))
        });
        Some(Self {
            format: FORMAT,
            seq,
            hash: log.last_hash?,
            at: log.last_at,
            writer: log.last_writer.clone(),
            resume: log.resume,
            wal_to: log.wal_to,
            epoch: log.epoch,
            lsn_offset: log.lsn_offset,
            catalog_seen: log.catalog_seen,
            source: log.source.clone(),
            server_time: log.server_time,
            high_water: log.high_water,
            publication: log.publication.clone(),
            files: log
                .files()
                .map(|(_, file)| FileDoc { added_by: file.added_by, add: file.add.clone() })
                .collect(),
            schemas: log.tables().flat_map(|table| log.schemas(table)).cloned().collect(),
            places: places.collect(),
            events,
        })
    }

    fn restore(self) -> Result<(LogState, Vec<CommitPlace>)> {
        let mut state = LogState::default();
        state.next_seq = self.seq.saturating_add(1);
        state.last_hash = Some(self.hash);
        state.last_writer = self.writer;
        state.last_at = self.at;
        state.resume = self.resume;
        state.wal_to = self.wal_to;
        state.epoch = self.epoch;
        state.lsn_offset = self.lsn_offset;
        state.catalog_seen = self.catalog_seen;
        state.source = self.source;
        state.server_time = self.server_time;
        state.high_water = self.high_water;
        state.publication = self.publication;
        let files = self.files.into_iter().map(|file| LiveFile { add: file.add, added_by: file.added_by });
        let events = self.events.into_iter().map(|event| (event.seq, event.event));
        let state = state.restore(files.collect(), self.schemas, events.collect())?;
        let places = self.places.into_iter().map(|(seq, at, wal_to, server_time, high_water)| CommitPlace {
            seq,
            at: Timestamp(at),
            wal_to: Lsn(wal_to),
            server_time: server_time.map(Timestamp),
            high_water: high_water.map(Timestamp),
        });
        Ok((state, places.collect()))
    }
}

/// The newest checkpoint that is of this log; none where there is no such one.
///
/// # Errors
/// What the store has to say. A checkpoint that cannot be read is passed over.
pub(crate) async fn newest(store: &Store) -> Result<Option<Restored>> {
    newest_of(store, CHECKPOINTS).await
}

/// What the log says up to a commit.
pub(crate) type Restored = (LogState, Vec<CommitPlace>);

/// The commits whose documents a spool does not have any more: what they say, and the last of them is there. All that a history of files
/// begins with is nothing.
///
/// # Errors
/// As [`newest`].
pub(crate) async fn arrived(store: &Store) -> Result<Restored> {
    // A spool is on a disk.
    let found = if store.local_root().is_some() { newest_of(store, ARRIVED).await? } else { None };
    Ok(found.unwrap_or_default())
}

/// Has a spool's log begin with the commit of a checkpoint: what comes before it is in the tables, which the checkpoint is from.
///
/// # Errors
/// Where it cannot be written.
pub(crate) async fn begin_with(spool: &Store, seq: u64, document: &str) -> Result<()> {
    let _ = spool.put_new(&path(ARRIVED, seq), Bytes::from(document.to_owned())).await?;
    failpoint::hit("spool.begun")?;
    forget_before(spool, seq).await
}

/// Removes from a spool what stands before the commit that its log begins with.
///
/// # Errors
/// Where it cannot be removed.
pub(crate) async fn forget_before(spool: &Store, seq: u64) -> Result<()> {
    let checkpoints = all_of(spool, ARRIVED).await?;
    let commits = spool.list("log").await?.into_iter();
    let commits = commits.filter_map(|object| Some((commit_seq(&object.path)?, object.path)));
    // The oldest first: what a crash leaves is a log without holes.
    for (_, path) in checkpoints.into_iter().chain(commits).filter(|(old, _)| *old < seq) {
        spool.delete(&path).await?;
    }
    Ok(())
}

/// The checkpoint of a log as it is.
///
/// # Errors
/// Where it cannot be written as JSON.
pub(crate) fn of(archive: &Archive) -> Result<Option<String>> {
    let Some(document) = Document::of(archive) else { return Ok(None) };
    Ok(String::from_utf8(log::to_bytes(&document)?).ok())
}

/// What a checkpoint says that stands beside a commit of this hash; none where it is not of it.
pub(crate) fn beside(seq: u64, hash: ContentHash, document: &str) -> Option<Restored> {
    let document = parse(document.as_bytes(), seq, "a checkpoint").ok()?;
    if document.hash == hash { document.restore().ok() } else { None }
}

async fn newest_of(store: &Store, directory: &str) -> Result<Option<Restored>> {
    for (seq, path) in all_of(store, directory).await?.into_iter().rev() {
        match read(store, seq, &path).await {
            Ok(document) => {
                // The commit may be gone or altered: whoever reads the log then finds out and says so.
                let same = log::read(store, seq).await.is_ok_and(|stored| stored.hash == document.hash);
                if same && let Ok(restored) = document.restore() {
                    return Ok(Some(restored));
                }
            }
            Err(error) if error.is_transient() => return Err(error),
            Err(_) => {}
        }
        tracing::warn!(path, "a checkpoint is left aside: it is not of this log");
    }
    Ok(None)
}

/// A checkpoint is what it would be if it were made now from the whole log.
///
/// # Errors
/// Where the log cannot be read, or the checkpoint is no such document.
pub async fn prove(store: &Store, seq: u64, path: &str) -> Result<bool> {
    let told = read(store, seq, path).await?;
    let archive = Archive::open_whole(store, Some(seq)).await?;
    Ok(Document::of(&archive).is_some_and(|document| document == told))
}

/// Makes a checkpoint of the log as it is, where the last one lies `every` commits back, or ten times as many behind a large one; gives the
/// commit.
///
/// # Errors
/// Where the log cannot be read, and what the store has to say.
pub async fn make(store: &Store, log: &LogState, every: u64) -> Result<Option<u64>> {
    let before = objects(store, CHECKPOINTS).await?;
    let covered = before.last().map_or(0, |(seq, _)| seq + 1);
    let is_large = before.last().is_some_and(|(_, last)| last.bytes > LARGE);
    let every = every.max(1).saturating_mul(if is_large { 10 } else { 1 });
    if log.next_seq < covered.saturating_add(every) {
        return Ok(None);
    }
    let archive = Archive::open(store).await?;
    let Some(document) = Document::of(&archive) else { return Ok(None) };
    let bytes = Bytes::from(log::to_bytes(&document)?);
    // One that is there was made by another of the same log.
    let _ = store.put_new(&path(CHECKPOINTS, document.seq), bytes).await?;
    let old = before.iter().rev().skip(KEPT - 1);
    store.delete_unread(old.map(|(_, object)| object.path.as_str())).await?;
    Ok(Some(document.seq))
}

/// All that there are, oldest first.
///
/// # Errors
/// What the store has to say.
pub async fn all(store: &Store) -> Result<Vec<(u64, String)>> {
    all_of(store, CHECKPOINTS).await
}

async fn all_of(store: &Store, directory: &str) -> Result<Vec<(u64, String)>> {
    let found = objects(store, directory).await?.into_iter();
    Ok(found.map(|(seq, object)| (seq, object.path)).collect())
}

async fn objects(store: &Store, directory: &str) -> Result<Vec<(u64, Object)>> {
    let found = store.list(directory).await?.into_iter();
    Ok(found.filter_map(|object| Some((seq_of(directory, &object.path)?, object))).collect())
}

fn path(directory: &str, seq: u64) -> String {
    format!("{directory}/{seq:020}.json")
}

fn seq_of(directory: &str, path: &str) -> Option<u64> {
    let name = path.strip_prefix(directory)?.strip_prefix('/')?.strip_suffix(".json")?;
    (name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit())).then(|| name.parse().ok())?
}

async fn read(store: &Store, seq: u64, path: &str) -> Result<Document> {
    parse(&store.get(path).await?, seq, path)
}

fn parse(bytes: &[u8], seq: u64, path: &str) -> Result<Document> {
    let document: Document = log::from_bytes(bytes, path)?;
    if document.format != FORMAT || document.seq != seq {
        let detail = format!("{path}: format {}, of commit {}", document.format, document.seq);
        return Err(Error::new(ErrorKind::Damaged, "not a checkpoint of this name", detail));
    }
    Ok(document)
}
