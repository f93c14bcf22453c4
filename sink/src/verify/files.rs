//! The live files.

use std::collections::{BTreeMap, HashSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use parquet::file::metadata::ParquetMetaDataReader;
use sha2::{Digest, Sha256};

use super::chain::{Live, Named};
use super::report::{Problem, ProblemKind, Progress, Report};
use crate::checkpoint::CHECKPOINTS;
use crate::content::Proof;
use crate::error::{Error, ErrorKind, Result};
use crate::index::INDEX;
use crate::log::path::{DATA, commit_seq, fact_seq};
use crate::log::{self, ContentHash, MANIFEST};
use crate::read::file;
use crate::slabs::SLABS;
use crate::store::Store;

/// Files read at the same time, each a piece at a time: enough to keep both cores hashing.
const AT_A_TIME: usize = 4;

/// A footer that is longer is taken for damage; it has to be in memory as a whole. Ours have some kilobytes.
const LONGEST_FOOTER: u64 = 256 << 20;

pub(super) async fn verify(
    store: &Store,
    objects: &BTreeMap<String, u64>,
    named: &Named,
    report: &mut Report,
    progress: &mut impl FnMut(&Progress),
) -> Result<()> {
    report_strangers(objects, named, report);
    let mut state =
        Progress { commits: report.commits, commits_total: report.commits, ..Progress::default() };
    let mut to_read = Vec::new();
    for live in named.values().flatten() {
        let add = &live.add;
        state.files_total += 1;
        state.bytes_total = state.bytes_total.saturating_add(add.bytes);
        match objects.get(&add.path) {
            None => {
                let what = format!("the file is missing; it held {} facts of {}", add.rows, add.table);
                report.problem(ProblemKind::MissingFile, &add.path, &what);
            }
            Some(bytes) if *bytes != add.bytes => {
                let (kind, what) = if *bytes < add.bytes {
                    (ProblemKind::TruncatedFile, "the file was cut short")
                } else {
                    (ProblemKind::AlteredFile, "the file is longer than it was")
                };
                let problem = Problem::new(kind, &add.path, what);
                report
                    .problems
                    .push(problem.values(format!("{} bytes", add.bytes), format!("{bytes} bytes")));
            }
            Some(_) => to_read.push(live),
        }
    }
    state.files = state.files_total - to_read.len() as u64;

    let checks = stream::iter(to_read).map(|live| {
        let store = store.clone();
        let live = live.clone();
        let add = live.add.clone();
        async move {
            // A task of its own: hashing uses every core, and a reader that panics takes nobody along.
            let task = tokio::spawn(async move { verify_file(&store, &live).await });
            let result = task.await.unwrap_or_else(|_| {
                let what = "the file makes the Parquet reader fail";
                Ok(Some(Problem::new(ProblemKind::UnreadableFile, &add.path, what)))
            });
            (add, result)
        }
    });
    let mut checks = std::pin::pin!(checks.buffer_unordered(AT_A_TIME));
    while let Some((add, result)) = checks.next().await {
        match result? {
            Some(problem) => report.problems.push(problem),
            None => {
                report.files += 1;
                report.rows = report.rows.saturating_add(add.rows);
                report.bytes = report.bytes.saturating_add(add.bytes);
            }
        }
        state.files += 1;
        state.bytes = state.bytes.saturating_add(add.bytes);
        progress(&state);
    }
    excuse_merged(store, report).await
}

/// A file that is missing because others hold its facts by now, as commits say that came meanwhile, is no problem: those are for the next
/// verification.
async fn excuse_merged(store: &Store, report: &mut Report) -> Result<()> {
    let is_missing = |problem: &Problem| problem.kind == ProblemKind::MissingFile;
    let Some(head) = report.head.filter(|_| report.problems.iter().any(is_missing)) else { return Ok(()) };
    let mut removed = HashSet::new();
    for seq in head.seq + 1.. {
        match log::read(store, seq).await {
            Ok(stored) => removed.extend(stored.commit.body.remove),
            Err(error) if error.kind().is_of_object() => break,
            Err(error) => return Err(error),
        }
    }
    report.problems.retain(|problem| !(is_missing(problem) && removed.contains(&problem.path)));
    Ok(())
}

/// Objects that no commit names.
fn report_strangers(objects: &BTreeMap<String, u64>, named: &Named, report: &mut Report) {
    for path in objects.keys().filter(|path| !named.contains_key(*path)) {
        let mut segments = path.split('/');
        if segments.next().is_some_and(|first| DATA.contains(&first)) {
            // Delta's view of the same files has a log of its own.
            if path.split('/').any(|segment| segment == "_delta_log") {
                continue;
            }
            let head = report.head.map(|head| head.seq);
            let what = match fact_seq(path) {
                Some(seq) if head.is_none_or(|head| seq > head) => {
                    "no commit names the file: it is of a commit that is under way, or that was cut off the end of the log"
                }
                _ => "no commit names the file: a writer ended before its commit",
            };
            report.warning(ProblemKind::UnreferencedFile, path, what);
        } else if path != MANIFEST && commit_seq(path).is_none() && !is_derived(path) {
            report.warning(ProblemKind::UnknownObject, path, "the object is no part of the history");
        }
    }
}

/// Slabs and indexes are made from facts, checkpoints from the log, and hold no truth: no commit names them.
fn is_derived(path: &str) -> bool {
    path.split_once('/').is_some_and(|(first, _)| [SLABS, INDEX, CHECKPOINTS].contains(&first))
}

/// Reads a file and compares it with what the log says of it.
async fn verify_file(store: &Store, live: &Live) -> Result<Option<Problem>> {
    let add = &live.add;
    let found = match hash(store, &add.path).await {
        Ok(hash) => hash,
        Err(err) if err.kind() == ErrorKind::NotFound => {
            return Ok(Some(Problem::new(ProblemKind::MissingFile, &add.path, "the file is missing")));
        }
        Err(err) => return Err(err),
    };
    if found != add.sha256 {
        let problem = Problem::new(ProblemKind::AlteredFile, &add.path, "the file was altered");
        return Ok(Some(problem.values(add.sha256, found)));
    }
    let proved = match row_count(store, &add.path, add.bytes).await {
        Ok(rows) if rows == add.rows => verify_parts(store, live).await,
        Ok(rows) => {
            let what = "the file holds another number of facts than the log says";
            Ok(Some(Problem::new(ProblemKind::RowCount, &add.path, what).values(add.rows, rows)))
        }
        Err(err) => Err(err),
    };
    match proved {
        Err(err) if err.kind() == ErrorKind::Damaged => {
            Ok(Some(Problem::new(ProblemKind::UnreadableFile, &add.path, &err.to_string())))
        }
        other => other,
    }
}

/// Holds a merged file against the files that it replaced, though they are gone. One that never was has the bytes that were written, and
/// needs no more.
async fn verify_parts(store: &Store, live: &Live) -> Result<Option<Problem>> {
    let Live { add, parts, moved } = live;
    if !moved || parts.iter().all(|part| part.content.is_none()) {
        return Ok(None);
    }
    let mut proof = Proof::new(parts);
    let mut batches = file::read(&add.path, file::open(store, &add.path, add.bytes).await?)?;
    while let Some(batch) = file::next(&add.path, &mut batches).await? {
        if let Err(part) = proof.add(&batch) {
            let what = format!("facts of commit {} were altered when files were merged", part.seq);
            return Ok(Some(Problem::new(ProblemKind::AlteredFacts, &add.path, &what)));
        }
    }
    Ok(None)
}

async fn hash(store: &Store, path: &str) -> Result<ContentHash> {
    let mut hash = Sha256::new();
    let mut chunks = store.get_stream(path).await?;
    while let Some(chunk) = chunks.try_next().await? {
        hash.update(&chunk);
    }
    Ok(ContentHash(hash.finalize().into()))
}

/// The number of rows that a Parquet file's footer gives, its row groups agreeing.
async fn row_count(store: &Store, path: &str, length: u64) -> Result<u64> {
    let damaged = |what: &str| Error::new(ErrorKind::Damaged, "not a Parquet file", what);
    // The last eight bytes: the footer's length and "PAR1".
    let tail = store.get_range(path, length.saturating_sub(8)..length).await?;
    let (&[a, b, c, d, ref magic @ ..], 8) = (&*tail, tail.len()) else {
        return Err(damaged("it is too short"));
    };
    if magic != b"PAR1" {
        return Err(damaged("it does not end in PAR1"));
    }
    let footer = u64::from(u32::from_le_bytes([a, b, c, d]));
    let start = length.checked_sub(footer + 8).filter(|_| footer <= LONGEST_FOOTER);
    let start = start.ok_or_else(|| damaged("its footer is longer than the file"))?;
    let footer = store.get_range(path, start..length - 8).await?;
    let metadata =
        ParquetMetaDataReader::decode_metadata(&footer).map_err(|err| damaged(&err.to_string()))?;
    let total = u64::try_from(metadata.file_metadata().num_rows()).ok();
    let sum = metadata
        .row_groups()
        .iter()
        .try_fold(0_u64, |sum, group| sum.checked_add(u64::try_from(group.num_rows()).ok()?));
    match (total, sum) {
        (Some(total), Some(sum)) if total == sum => Ok(total),
        _ => Err(damaged("its row groups do not add up")),
    }
}
