//! The WAL that the source keeps for the slot: a slot that nobody reads, or that a forgotten transaction holds, fills the
//! source's disk, or is lost [31, 47, 48].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bygone_replication::slot::{self, RunningTransaction, Slot};
use tokio_postgres::Client;

use crate::error::{Error, Result};
use crate::metrics::{self, Metrics};

/// From so much on, where the server sets no limit, the operator hears of it: at each doubling.
const WORTH_A_WORD: i64 = 1 << 30;
/// A transaction that is older holds the slot's WAL up in earnest.
const OLD_TRANSACTION: f64 = 60.0;

/// What was said last.
#[derive(Debug)]
pub(super) struct WalHeld {
    slot: String,
    /// More than this is not to be held.
    limit: Option<u64>,
    metrics: Arc<Metrics>,
    /// The next word is due when so much is held, where nothing limits it.
    above: i64,
    /// The next word is due when so little is left, where something does.
    below: i64,
}

impl WalHeld {
    pub(super) const fn new(slot: String, limit: Option<u64>, metrics: Arc<Metrics>) -> Self {
        Self { slot, limit, metrics, above: WORTH_A_WORD, below: i64::MAX }
    }

    /// Looks at the slot, and says so where it holds much; fails where that is more than it may.
    pub(super) async fn look(&mut self, sql: &Client) -> Result<()> {
        let Some(slot) = slot::read(sql, &self.slot).await? else { return Ok(()) };
        self.metrics.slot_held.store(slot.wal_held.unwrap_or_default(), Ordering::Relaxed);
        self.metrics.slot_safe.store(slot.safe_wal_size.unwrap_or(metrics::UNKNOWN), Ordering::Relaxed);
        let held = u64::try_from(slot.wal_held.unwrap_or_default()).unwrap_or_default();
        if let Some(limit) = self.limit.filter(|limit| held > *limit) {
            return Err(Error::SlotLag { slot: slot.name, held, limit });
        }
        if !self.is_due(&slot) {
            return Ok(());
        }
        let oldest = slot::running_transactions(sql).await?.into_iter().next();
        let held = slot.wal_held.unwrap_or_default();
        let holder = holder(oldest.as_ref());
        match slot.safe_wal_size {
            Some(left) => tracing::warn!(
                slot = slot.name,
                held,
                left,
                status = slot.wal_status,
                "the source keeps much WAL for the slot: once `left` bytes more are written, the slot is lost \
                 (max_slot_wal_keep_size){holder}"
            ),
            None => tracing::warn!(
                slot = slot.name,
                held,
                "the source keeps much WAL for the slot, and nothing keeps it from filling the disk{holder}; to limit it, set \
                 max_slot_wal_keep_size there"
            ),
        }
        Ok(())
    }

    fn is_due(&mut self, slot: &Slot) -> bool {
        let held = slot.wal_held.unwrap_or_default();
        match slot.safe_wal_size {
            // More than half of what is allowed; then at each halving of what is left.
            Some(left) if held > left => {
                let due = left < self.below;
                if due {
                    self.below = if left > 0 { left / 2 } else { i64::MIN };
                }
                due
            }
            Some(_) => {
                self.below = i64::MAX;
                false
            }
            None => {
                let due = held >= self.above;
                if due {
                    self.above = held.saturating_mul(2);
                } else if held < WORTH_A_WORD {
                    self.above = WORTH_A_WORD;
                }
                due
            }
        }
    }
}

/// Who holds it, where it is not bygone that is behind.
fn holder(oldest: Option<&RunningTransaction>) -> String {
    let Some(oldest) = oldest.filter(|oldest| oldest.seconds.is_some_and(|age| age >= OLD_TRANSACTION))
    else {
        return String::new();
    };
    let age = oldest.seconds.unwrap_or_default();
    match (&oldest.prepared, oldest.pid) {
        (Some(name), _) => format!("; the prepared transaction {name:?} of {age:.0} s ago holds it"),
        (None, Some(pid)) => format!("; the transaction of server process {pid}, {age:.0} s old, holds it"),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(watch: &mut WalHeld, held: i64, left: Option<i64>) -> bool {
        watch.is_due(&Slot { wal_held: Some(held), safe_wal_size: left, ..Slot::default() })
    }

    #[test]
    fn a_word_at_half_of_what_is_allowed_and_at_each_halving_after_that() {
        let mut watch = WalHeld::new("s".to_owned(), None, Arc::default());
        let seen =
            [(10, 90), (51, 49), (52, 48), (77, 23), (80, 20), (101, -1), (110, -10), (5, 95), (60, 40)];
        let told: Vec<bool> =
            seen.into_iter().map(|(held, left)| due(&mut watch, held, Some(left))).collect();
        assert_eq!(told, [false, true, false, true, false, true, false, false, true]);
    }

    #[test]
    fn without_a_limit_a_word_at_a_gigabyte_and_at_each_doubling() {
        let mut watch = WalHeld::new("s".to_owned(), None, Arc::default());
        let told: Vec<bool> = [0, 1, 1, 2, 3, 5, 0, 1]
            .into_iter()
            .map(|gigabytes| due(&mut watch, gigabytes << 30, None))
            .collect();
        assert_eq!(told, [false, true, false, true, false, true, false, true]);
    }
}
