//! Whether a history is what was written: the chain of commits, every live file's bytes, and the slabs and indexes made from them.
//!
//! What the chain proves: nobody changed, removed or inserted anything before the last commit without changing every later
//! one. What it does not prove: who can write to the history can make up a whole new chain, or cut commits off its end. Who
//! keeps the [head](Report::head) of an earlier verification elsewhere can tell ([`Expectation`]).

mod chain;
mod derived;
mod files;
mod report;

use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind, Result};
use crate::log::path::{commit_path, commit_seq, fact_seq};
use crate::log::{ContentHash, MANIFEST, Manifest};
use crate::store::Store;

pub use report::{Head, Problem, ProblemKind, Progress, Report};

/// A commit whose hash is known from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// The commit's sequence number.
    pub seq: u64,
    /// SHA-256 of its bytes.
    pub sha256: ContentHash,
}

/// Recomputes the chain and the hash, length and row count of every live file; where these are whole, holds slabs
/// and indexes against the facts. Memory is bounded by the number of files and commits' names, not by their size. `progress` is called
/// after each commit and each file.
///
/// # Errors
/// [`ErrorKind::NoHistory`] where there is none, and where the store does not answer. What is wrong with the history is in
/// the report, not an error.
pub async fn verify(
    store: &Store,
    expected: Option<Expectation>,
    mut progress: impl FnMut(&Progress),
) -> Result<Report> {
    let mut report = Report::default();
    // Commits first: the files of these are there, and what is committed meanwhile is left for the next time.
    let commits = store.list("log").await?.into_iter();
    let mut objects: BTreeMap<String, u64> = commits.map(|object| (object.path, object.bytes)).collect();
    objects.extend(missed(store, &objects).await?);
    let others = store.list("").await?.into_iter().filter(|object| commit_seq(&object.path).is_none());
    objects.extend(others.map(|object| (object.path, object.bytes)));
    verify_manifest(store, &objects, &mut report).await?;
    if !objects.keys().any(|path| commit_seq(path).is_some())
        && let Some(path) = objects.keys().find(|path| fact_seq(path).is_some())
    {
        let what = "there are files of facts, and no commit at all: the log is missing";
        report.problem(ProblemKind::MissingCommit, path, what);
    }
    let named = chain::verify(store, &objects, expected, &mut report, &mut progress).await?;
    files::verify(store, &objects, &named, &mut report, &mut progress).await?;
    if report.is_ok() {
        derived::verify(store, &mut report).await?;
    }
    report.ok = report.problems.is_empty();
    Ok(report)
}

/// Commits that a listing lacks between others, and that are there: a directory may be listed with a name that comes meanwhile, and
/// without the one that came before it.
async fn missed(store: &Store, listed: &BTreeMap<String, u64>) -> Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    let mut next = 0;
    // By path, which is by number.
    for seq in listed.keys().filter_map(|path| commit_seq(path)) {
        while next < seq {
            match store.head(&commit_path(next)).await {
                Ok(bytes) => found.push((commit_path(next), bytes)),
                // The rest of the hole is one, too.
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
            next += 1;
        }
        next = seq.saturating_add(1);
    }
    Ok(found)
}

async fn verify_manifest(store: &Store, objects: &BTreeMap<String, u64>, report: &mut Report) -> Result<()> {
    if !objects.contains_key(MANIFEST) {
        if !objects.keys().any(|path| path.starts_with("log/")) {
            let detail = format!("{} holds no {MANIFEST}; is the address right?", store.describe());
            return Err(Error::new(ErrorKind::NoHistory, "there is no history", detail));
        }
        report.problem(ProblemKind::MissingManifest, MANIFEST, "the manifest is missing");
        return Ok(());
    }
    match Manifest::from_bytes(&store.get(MANIFEST).await?) {
        Ok(manifest) => report.history = Some(manifest.id),
        Err(err) => report.problem(ProblemKind::UnreadableManifest, MANIFEST, &err.to_string()),
    }
    Ok(())
}
