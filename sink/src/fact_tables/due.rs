//! When a checkpoint of the log is due in fact tables.

use bygone_replication::table::quote_identifier;

use super::{FactTables, told};
use crate::checkpoint;
use crate::error::Result;
use crate::log::Commit;

/// Commits after which one is due at the earliest: to read so many takes some 50 ms.
const EVERY: u64 = 1_000;

/// What came since the last checkpoint, which decides on the next.
#[derive(Debug, Default)]
pub(super) struct LastCheckpoint {
    /// The commit that it is of, and what it says, where this process made it.
    pub(super) made: Option<(u64, String)>,
    bytes: u64,
    commits_since: u64,
    bytes_since: u64,
}

impl LastCheckpoint {
    /// Another one is due: a reader has much to read, and what he is spared is no less than what is written for it, so that
    /// checkpoints never take more room than commits.
    fn is_due(&self) -> bool {
        self.commits_since >= EVERY && self.bytes_since >= self.bytes
    }
}

impl FactTables {
    /// Finds out how long ago the last checkpoint was made.
    pub(super) async fn find_checkpoint(&mut self) -> Result<()> {
        let sql = format!(
            "with last as (select seq, length(checkpoint) as bytes from {s}.commits where checkpoint is not null order by seq desc limit 1) \
             select coalesce((select bytes from last), 0)::bigint, count(*), coalesce(sum(length(document)), 0)::bigint from {s}.commits where \
             seq > coalesce((select seq from last), -1)",
            s = quote_identifier(&self.schema)
        );
        let row = self.client.query_one(&sql, &[]).await;
        let row = row.map_err(|error| told("looking for a checkpoint", &error))?;
        let number = |at: usize| u64::try_from(row.get::<_, i64>(at)).unwrap_or(0);
        self.last_checkpoint =
            LastCheckpoint { made: None, bytes: number(0), commits_since: number(1), bytes_since: number(2) };
        Ok(())
    }

    /// The checkpoint that is to be written beside a commit; none where it is not yet time, or where the log goes on behind it.
    pub(super) fn checkpoint_of(&self, commit: &Commit) -> Result<Option<String>> {
        let is_last = self.archive.log().last_seq() == Some(commit.seq);
        if is_last && self.last_checkpoint.is_due() { checkpoint::of(&self.archive) } else { Ok(None) }
    }

    /// A commit was written, perhaps with a checkpoint.
    pub(super) fn note_checkpoint(&mut self, seq: u64, bytes: usize, made: Option<String>) {
        let last = &mut self.last_checkpoint;
        match made {
            Some(made) => {
                *last = LastCheckpoint {
                    bytes: made.len() as u64,
                    made: Some((seq, made)),
                    ..LastCheckpoint::default()
                };
            }
            None => {
                last.commits_since += 1;
                last.bytes_since += bytes as u64;
            }
        }
    }
}
