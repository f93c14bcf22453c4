//! Reading the log.

use std::ops::Range;

use futures_util::stream::{self, Stream};
use futures_util::{StreamExt, TryStreamExt};

use super::commit::Commit;
use super::hash::ContentHash;
use super::path::{commit_path, commit_seq};
use super::state::LogState;
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;

/// Commits read at the same time: a bucket answers each in some 20 ms, so that a thousand take little more than a second.
const READ_AHEAD: usize = 16;

/// A commit document is refused beyond this length; the greatest that bygone writes are snapshots of thousands of tables
/// (some 10 MB).
pub(crate) const LONGEST: u64 = 256 << 20;

/// A commit as it was read, with the hash of the bytes that it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredCommit {
    /// What it says.
    pub commit: Commit,
    /// SHA-256 of its bytes, which the next commit holds as `prev`.
    pub hash: ContentHash,
}

/// Reads commits 0 to `up_to`, or all, and checks the chain.
///
/// # Errors
/// [`ErrorKind::Damaged`] where a commit is missing or altered; [`ErrorKind::NotFound`] where the log does not reach `up_to`.
pub async fn load(store: &Store, up_to: Option<u64>) -> Result<LogState> {
    let found = commit_count(store).await?;
    let end = match up_to {
        None => found,
        Some(last) if last < found => last + 1,
        Some(last) => {
            let detail = format!("{}: there is no commit {last}; the log has {found}", store.describe());
            return Err(Error::new(ErrorKind::NotFound, "the log ends before that", detail));
        }
    };
    let mut state = LogState::default();
    let mut commits = std::pin::pin!(commits(store, 0..end));
    while let Some(StoredCommit { commit, hash }) = commits.try_next().await? {
        state.apply(&commit, hash)?;
    }
    Ok(state)
}

/// Reads the commits that came after `state` and says how many.
///
/// # Errors
/// As [`load`]; `state` then stands at the last good commit.
pub async fn catch_up(store: &Store, state: &mut LogState) -> Result<u64> {
    let before = state.next_seq;
    loop {
        match read(store, state.next_seq).await {
            Ok(StoredCommit { commit, hash }) => state.apply(&commit, hash)?,
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(state.next_seq - before),
            Err(err) => return Err(err),
        }
    }
}

/// One commit. Says nothing about its place in the chain.
///
/// # Errors
/// [`ErrorKind::NotFound`] without it; [`ErrorKind::Damaged`] where it is none.
pub async fn read(store: &Store, seq: u64) -> Result<StoredCommit> {
    let bytes = store.get(&commit_path(seq)).await?;
    Ok(StoredCommit { commit: Commit::from_bytes(&bytes, seq)?, hash: ContentHash::of(&bytes) })
}

/// Commits in order, read some way ahead. Says nothing about their place in the chain.
///
/// # Errors
/// In the stream, as [`read`].
pub fn commits(store: &Store, range: Range<u64>) -> impl Stream<Item = Result<StoredCommit>> + Send + use<> {
    let store = store.clone();
    stream::iter(range)
        .map(move |seq| {
            let store = store.clone();
            async move { read(&store, seq).await }
        })
        .buffered(READ_AHEAD)
}

/// How many commits the log holds, by a listing.
///
/// # Errors
/// [`ErrorKind::Damaged`] where one is missing between others.
pub async fn commit_count(store: &Store) -> Result<u64> {
    commit_count_from(store, 0).await
}

/// The same where the commits before `first` are known: they are not listed.
pub(crate) async fn commit_count_from(store: &Store, first: u64) -> Result<u64> {
    let mut next = first;
    let after = first.checked_sub(1).map_or_else(String::new, commit_path);
    // By path, which is by number.
    for object in store.list_after("log", &after).await? {
        // What is not called like a commit is none (checkpoints of later versions).
        let Some(seq) = commit_seq(&object.path) else { continue };
        while next < seq {
            // A directory may be listed with a name that comes meanwhile, and without the one that came before it.
            if !store.exists(&commit_path(next)).await? {
                let detail = format!("{} is missing; `bygone verify` says more", commit_path(next));
                return Err(Error::new(ErrorKind::Damaged, "the log is damaged", detail));
            }
            next += 1;
        }
        if seq < next {
            continue;
        }
        if object.bytes > LONGEST {
            let detail = format!("{} has {} bytes, which no commit has", object.path, object.bytes);
            return Err(Error::new(ErrorKind::Damaged, "the log is damaged", detail));
        }
        next = seq.saturating_add(1);
    }
    Ok(next)
}
