//! Removes objects whose facts stand in others by now.

use std::collections::HashMap;
use std::time::Duration;

use crate::error::{ErrorKind, Result};
use crate::failpoint;
use crate::log::path::{DATA, compacted_seq};
use crate::log::{self, LogState};
use crate::store::Store;
use crate::timestamp::Timestamp;

use super::{Done, LEFT_BEHIND};

/// Removes objects that a commit older than `grace` has removed, and files of compactions that never came to their commit.
///
/// A crash in between costs nothing: what is left is found again.
pub(super) async fn sweep(store: &Store, state: &LogState, grace: Duration, done: &mut Done) -> Result<()> {
    let removed: HashMap<&str, u64> = state.removed().collect();
    let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    let (grace, left_behind) = (micros(grace), micros(grace.max(LEFT_BEHIND)));
    let now = Timestamp::now().0;
    let mut ages = Ages { store, at: HashMap::new() };
    for directory in DATA {
        for object in store.list(directory).await? {
            let path = object.path.as_str();
            // The commit since which nobody needs it, or for which it was made in vain.
            let since = match removed.get(path) {
                Some(seq) => Some((*seq, grace)),
                None if !state.names(path) => compacted_seq(path).map(|seq| (seq, left_behind)),
                None => None,
            };
            let Some((seq, age)) = since.filter(|(seq, _)| *seq < state.next_seq) else { continue };
            if now.saturating_sub(ages.of(seq).await?) < age {
                continue;
            }
            failpoint::hit("compact.before_delete")?;
            match store.delete(path).await {
                Ok(()) => done.removed += 1,
                Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::ReadOnly) => {
                    // Under object lock the others stay, too: they are not asked for one by one, pass after pass.
                    tracing::debug!(%error, path, "old objects stay");
                    done.kept += 1;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// When commits were written.
struct Ages<'a> {
    store: &'a Store,
    at: HashMap<u64, i64>,
}

impl Ages<'_> {
    async fn of(&mut self, seq: u64) -> Result<i64> {
        if let Some(at) = self.at.get(&seq) {
            return Ok(*at);
        }
        let at = log::read(self.store, seq).await?.commit.at.0;
        self.at.insert(seq, at);
        Ok(at)
    }
}
