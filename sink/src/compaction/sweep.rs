//! Removes objects whose facts stand in others by now.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::error::{ErrorKind, Result};
use crate::failpoint;
use crate::log::path::{DATA, compacted_seq};
use crate::log::{self, LogState};
use crate::store::Store;
use crate::timestamp::Timestamp;

use super::{Done, LEFT_BEHIND};

/// How often all objects are listed, for what nobody names: a listing takes a request for each thousand of them, and the Delta view alone
/// has one for each commit and table.
const LIST_EVERY: Duration = Duration::from_secs(3600);

/// What the passes so far came to.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// When all objects were listed last.
    listed: Option<Instant>,
    /// What this commit, or one before it, removed is gone.
    gone: Option<u64>,
}

impl Sweep {
    /// Removes objects that a commit older than `grace` has removed, and files of compactions that never came to their commit.
    ///
    /// A crash in between costs nothing: what is left is found again.
    pub(super) async fn pass(
        &mut self,
        store: &Store,
        state: &LogState,
        grace: Duration,
        done: &mut Done,
    ) -> Result<()> {
        let mut remover = Remover { store, done, refused: false };
        let mut ages = Ages { store, at: HashMap::new() };
        let mut due: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
        for (path, seq) in state.removed().filter(|(_, seq)| self.gone.is_none_or(|gone| *seq > gone)) {
            due.entry(seq).or_default().push(path);
        }
        if self.listed.is_none_or(|at| at.elapsed() >= LIST_EVERY) {
            list(store, state, grace, &mut ages, &mut remover).await?;
            self.listed = Some(Instant::now());
            // Of these nothing was left, whichever of them were there.
            let seqs: Vec<u64> = due.into_keys().collect();
            let (mut from, mut to) = (0, seqs.len());
            while from < to {
                let middle = from.midpoint(to);
                let Some(seq) = seqs.get(middle) else { break };
                if ages.is_over(*seq, grace).await? { from = middle + 1 } else { to = middle }
            }
            self.gone = from.checked_sub(1).and_then(|last| seqs.get(last)).copied().or(self.gone);
            return Ok(());
        }
        for (seq, paths) in due {
            if remover.refused || !ages.is_over(seq, grace).await? {
                break;
            }
            for path in paths {
                remover.remove(path).await?;
            }
            self.gone = Some(seq);
        }
        Ok(())
    }
}

async fn list(
    store: &Store,
    state: &LogState,
    grace: Duration,
    ages: &mut Ages<'_>,
    remover: &mut Remover<'_>,
) -> Result<()> {
    let removed: HashMap<&str, u64> = state.removed().collect();
    for directory in DATA {
        for object in store.list(directory).await? {
            let path = object.path.as_str();
            // The commit since which nobody needs it, or for which it was made in vain.
            let since = match removed.get(path) {
                Some(seq) => Some((*seq, grace)),
                None if !state.names(path) => compacted_seq(path).map(|seq| (seq, grace.max(LEFT_BEHIND))),
                None => None,
            };
            let Some((seq, age)) = since.filter(|(seq, _)| *seq < state.next_seq) else { continue };
            if ages.is_over(seq, age).await? {
                remover.remove(path).await?;
            }
            if remover.refused {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Removes objects, until one may not be.
struct Remover<'a> {
    store: &'a Store,
    done: &'a mut Done,
    /// Under object lock the others stay, too: they are not asked for one by one.
    refused: bool,
}

impl Remover<'_> {
    async fn remove(&mut self, path: &str) -> Result<()> {
        if self.refused {
            return Ok(());
        }
        failpoint::hit("compact.before_delete")?;
        match self.store.delete(path).await {
            Ok(()) => self.done.removed += 1,
            Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::ReadOnly) => {
                tracing::debug!(%error, path, "old objects stay");
                self.done.kept += 1;
                self.refused = true;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// When commits were written.
struct Ages<'a> {
    store: &'a Store,
    at: HashMap<u64, i64>,
}

impl Ages<'_> {
    /// A commit was written so long ago.
    async fn is_over(&mut self, seq: u64, age: Duration) -> Result<bool> {
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        Ok(Timestamp::now().0.saturating_sub(self.of(seq).await?) >= age)
    }

    async fn of(&mut self, seq: u64) -> Result<i64> {
        if let Some(at) = self.at.get(&seq) {
            return Ok(*at);
        }
        let at = log::read(self.store, seq).await?.commit.at.0;
        self.at.insert(seq, at);
        Ok(at)
    }
}
