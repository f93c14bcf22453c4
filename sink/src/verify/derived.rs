//! Checkpoints, slabs and indexes, each held against what it was made from.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;

use super::report::{Problem, ProblemKind, Report};
use crate::checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::index::{self, Indexes};
use crate::read::{Archive, TableHistory};
use crate::slabs::{Proof, Slab, SlabSet, prove};
use crate::store::Store;

/// Bytes of rows in memory at once.
const MEMORY: usize = 64 << 20;

/// To be called for a history whose log and files are whole: what is made from facts is no better than the facts that it is held against.
pub(super) async fn verify(store: &Store, report: &mut Report) -> Result<()> {
    let archive = Archive::open_whole(store, None).await?;
    for (seq, path) in
        checkpoint::all(store).await?.into_iter().filter(|(seq, _)| archive.log().last_seq() >= Some(*seq))
    {
        let proof = alone(checkpoint::prove(store, seq, &path)).await;
        if is_gone(&proof) {
            continue;
        }
        match fault(proof, || "it is not what the log says".to_owned())? {
            None => report.checkpoints += 1,
            Some(what) => {
                let what = format!("{what}; remove it: readers then read the log");
                report.problem(ProblemKind::FalseCheckpoint, &path, &what);
            }
        }
    }
    let known = archive.known_until().0;
    for name in archive.log().tables() {
        let table = archive.table(name)?;
        let slabs = SlabSet::load(store, name).await?;
        let mut before = None;
        // One that was made meanwhile is left for the next time.
        for slab in slabs.all().iter().filter(|slab| slab.to <= known) {
            if !verify_slab(store, &table, before, slab, report).await? {
                // Those that follow carried its rows over.
                break;
            }
            before = Some(slab);
        }
        verify_indexes(store, &table, report).await?;
    }
    Ok(())
}

async fn verify_indexes(store: &Store, table: &TableHistory, report: &mut Report) -> Result<()> {
    let adds = || table.files.iter().map(|file| &file.add);
    let indexes = Indexes::load(store, &table.log_name, adds()).await?;
    for (add, index) in adds().filter_map(|add| Some((add, indexes.of(&add.path)?))) {
        let proof = alone(index::prove(store, add, index)).await;
        if is_gone(&proof) {
            continue;
        }
        match fault(proof, || format!("the index is not of the facts in {}", add.path))? {
            None => report.indexes += 1,
            Some(what) => {
                let what = format!("{what}; remove it, `bygone compact` makes it anew");
                report.problem(ProblemKind::FalseIndex, &index.path, &what);
            }
        }
    }
    Ok(())
}

/// A proof that fails alone, where a library panics over a damaged file: no hash of the log tells that these are as they were written.
async fn alone<T>(proof: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(proof).catch_unwind().await.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::Damaged,
            "the object makes the library that reads it fail",
            "it is damaged",
        ))
    })
}

/// What is wrong, where a proof failed.
fn fault(proof: Result<bool>, differs: impl FnOnce() -> String) -> Result<Option<String>> {
    match proof {
        Ok(true) => Ok(None),
        Ok(false) => Ok(Some(differs())),
        Err(err) if err.kind() == ErrorKind::Damaged => Ok(Some(err.to_string())),
        Err(err) => Err(err),
    }
}

/// It, or what it is held against, was replaced meanwhile.
fn is_gone(proof: &Result<bool>) -> bool {
    proof.as_ref().is_err_and(|err| err.kind() == ErrorKind::NotFound)
}

/// Says whether the slab holds what the facts say.
async fn verify_slab(
    store: &Store,
    table: &TableHistory,
    before: Option<&Slab>,
    slab: &Slab,
    report: &mut Report,
) -> Result<bool> {
    let path = slab.files.first().map_or("", |file| &file.path);
    match alone(prove(store, table, before, slab, MEMORY)).await {
        Ok(Proof::Holds(rows)) => {
            report.slabs += 1;
            report.slab_rows = report.slab_rows.saturating_add(rows);
            Ok(true)
        }
        Ok(Proof::Differs(held, said)) => {
            let what = format!("the slab holds other rows than the facts; {}", remedy(path));
            report.problems.push(
                Problem::new(ProblemKind::FalseSlab, path, &what)
                    .values(format!("{said} rows"), format!("{held} rows")),
            );
            Ok(false)
        }
        Ok(Proof::OtherTimes) => {
            let what =
                format!("the slab is called after other times than those of its facts; {}", remedy(path));
            report.problem(ProblemKind::FalseSlab, path, &what);
            Ok(false)
        }
        Ok(Proof::Alone) => {
            let what = format!("the slab before it is missing: nothing proves its rows; {}", remedy(path));
            report.warning(ProblemKind::UnprovenSlab, path, &what);
            Ok(false)
        }
        Err(err) if err.kind() == ErrorKind::NotFound => {
            let what = format!("{err}: it, or what it is held against, was replaced meanwhile");
            report.warning(ProblemKind::UnprovenSlab, path, &what);
            Ok(false)
        }
        Err(err) if err.kind() == ErrorKind::Damaged => {
            report.problem(ProblemKind::FalseSlab, path, &format!("{err}; {}", remedy(path)));
            Ok(false)
        }
        Err(err) => Err(err),
    }
}

fn remedy(path: &str) -> String {
    let directory = path.split("/_slab_from=").next().unwrap_or(path);
    format!("remove {directory}/, `bygone compact` makes it anew")
}
