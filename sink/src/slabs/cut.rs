//! Where a slab ends.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use arrow::array::{Array, Int64Array, TimestampMicrosecondArray};
use bygone_replication::Lsn;
use parquet::arrow::ProjectionMask;

use super::Slab;
use crate::error::Result;
use crate::log::{Add, LiveFile};
use crate::read::file::{self, column};
use crate::read::{Archive, TableHistory};
use crate::store::Store;
use crate::timestamp::Timestamp;

/// How many rows have ended in a slab for two that live at its end. A slab holds the rows that lived at its beginning beside
/// those that began in it: more of these make all slabs smaller, and a scan of one longer (docs/performance.md has figures).
const ENDED_FOR_TWO_ALIVE: u64 = 3;

/// The stretch of a slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) from: Lsn,
    pub(super) to: Lsn,
    pub(super) times: [Timestamp; 2],
    /// How many rows its slab has, about.
    pub(super) rows: u64,
}

/// What came of looking for a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A slab is due.
    At(Stretch),
    /// Not before so many more facts. There are so many behind `since`, so many rows live, and this is the stretch so far.
    After { lacks: u64, new: u64, live: u64, so_far: Option<Stretch> },
}

/// What the choice needs to know of a fact; in the order of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    lsn: i64,
    valid_from: i64,
    /// A row ended: the version before it.
    ends: bool,
    /// By how much there are more rows, or fewer.
    change: i8,
}

/// The first position behind `last` up to which one and a half times as many rows have ended as live there, and at least `least`.
///
/// Only positions before the end of the log are settled: facts at its very end may still come, of a snapshot or a comparison.
pub(super) async fn find(
    archive: &Archive,
    table: &TableHistory,
    last: Option<&Slab>,
    since: Lsn,
    live: u64,
    least: u64,
) -> Result<Found> {
    let from = last.map_or(Lsn::ZERO, |slab| slab.to);
    let limit = archive.known_until().0;
    let overlaps = |file: &&LiveFile| file.add.lsn[1] > from && file.add.lsn[0] < limit;
    let mut files: Vec<&LiveFile> = table.files.iter().filter(overlaps).collect();
    files.sort_by_key(|file| file.add.lsn[0]);
    let live_before = live;
    let mut choice = Choice {
        live: i64::try_from(live).unwrap_or(i64::MAX),
        facts: 0,
        new: 0,
        since,
        ended: 0,
        least,
        latest: None,
    };
    let mut so_far = None;
    let mut begins = last.map(|slab| slab.times[1]);
    let mut waiting: BinaryHeap<Reverse<Step>> = BinaryHeap::new();
    for (at, live) in files.iter().enumerate() {
        steps(archive.store()?, &live.add, from, &mut waiting).await?;
        let settled = files.get(at + 1).map_or(limit, |next| next.add.lsn[0].min(limit)).as_i64();
        while let Some(Reverse(step)) = waiting.peek().copied().filter(|Reverse(step)| step.lsn < settled) {
            waiting.pop();
            let begins = *begins.get_or_insert(Timestamp(step.valid_from));
            choice.take(&step);
            // The facts of one position stay together.
            let whole = waiting.peek().is_none_or(|Reverse(next)| next.lsn != step.lsn);
            if whole {
                let ends = Timestamp(choice.latest.unwrap_or(step.valid_from)).max(begins);
                let rows = live_before + choice.facts;
                let stretch = Stretch { from, to: Lsn::from_i64(step.lsn), times: [begins, ends], rows };
                if choice.is_due() {
                    return Ok(Found::At(stretch));
                }
                so_far = Some(stretch);
            }
        }
    }
    let live = u64::try_from(choice.live).unwrap_or(0);
    Ok(Found::After { lacks: choice.lacks(), new: choice.new, live, so_far })
}

/// From when on the slab of a stretch answers for times, and up to when: none where it has no fact.
pub(super) async fn times(
    store: &Store,
    table: &TableHistory,
    before: Option<&Slab>,
    [from, to]: [Lsn; 2],
) -> Result<Option<[Timestamp; 2]>> {
    let (mut first, mut latest): (Option<(i64, i64)>, Option<i64>) = (None, None);
    for file in table.files.iter().filter(|file| file.add.lsn[1] > from && file.add.lsn[0] <= to) {
        let path = &file.add.path;
        let builder = file::open(store, path, file.add.bytes).await?;
        let mask = ProjectionMask::columns(builder.parquet_schema(), ["_valid_from", "_lsn"]);
        let mut batches = file::read(path, builder.with_projection(mask))?;
        while let Some(batch) = file::next(path, &mut batches).await? {
            let valid_from: &TimestampMicrosecondArray = column(path, &batch, "_valid_from")?;
            let lsn: &Int64Array = column(path, &batch, "_lsn")?;
            for (lsn, time) in lsn.values().iter().copied().zip(valid_from.values().iter().copied()) {
                if lsn > from.as_i64() && lsn <= to.as_i64() {
                    first = Some(first.map_or((lsn, time), |first| first.min((lsn, time))));
                    latest = latest.max(Some(time));
                }
            }
        }
    }
    Ok(first.zip(latest).map(|((_, first), latest)| {
        let begins = before.map_or(Timestamp(first), |before| before.times[1]);
        [begins, Timestamp(latest).max(begins)]
    }))
}

struct Choice {
    live: i64,
    facts: u64,
    since: Lsn,
    new: u64,
    ended: u64,
    least: u64,
    latest: Option<i64>,
}

impl Choice {
    fn take(&mut self, step: &Step) {
        self.facts += 1;
        self.new += u64::from(step.lsn > self.since.as_i64());
        self.live += i64::from(step.change);
        self.ended += u64::from(step.ends);
        self.latest = self.latest.max(Some(step.valid_from));
    }

    fn lacks(&self) -> u64 {
        (ENDED_FOR_TWO_ALIVE * u64::try_from(self.live).unwrap_or(0) / 2)
            .max(self.least)
            .saturating_sub(self.ended)
    }

    fn is_due(&self) -> bool {
        self.lacks() == 0
    }
}

async fn steps(store: &Store, add: &Add, from: Lsn, into: &mut BinaryHeap<Reverse<Step>>) -> Result<()> {
    let builder = file::open(store, &add.path, add.bytes).await?;
    let names = ["_version", "_valid_from", "_deleted_at", "_lsn"];
    let mask = ProjectionMask::columns(builder.parquet_schema(), names);
    let mut batches = file::read(&add.path, builder.with_projection(mask))?;
    while let Some(batch) = file::next(&add.path, &mut batches).await? {
        let version: &Int64Array = column(&add.path, &batch, "_version")?;
        let valid_from: &TimestampMicrosecondArray = column(&add.path, &batch, "_valid_from")?;
        let deleted_at: &TimestampMicrosecondArray = column(&add.path, &batch, "_deleted_at")?;
        let lsn: &Int64Array = column(&add.path, &batch, "_lsn")?;
        for at in (0..batch.num_rows()).filter(|at| lsn.value(*at) > from.as_i64()) {
            let (first, tombstone) = (version.value(at) == 1, deleted_at.is_valid(at));
            // A row that came back after its end is counted as one that ended: that is near enough.
            let change = i8::from(first && !tombstone) - i8::from(tombstone && !first);
            into.push(Reverse(Step {
                lsn: lsn.value(at),
                valid_from: valid_from.value(at),
                ends: !first,
                change,
            }));
        }
    }
    Ok(())
}
