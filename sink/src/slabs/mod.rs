//! Slabs: a table's rows laid out by time, so that "as of" any moment is a filter over one of them.
//!
//! To find a table's rows as of a moment in its facts, each entity's last version before it has to be looked for among all
//! of them: the longer the history, the longer that takes. A slab is a stretch `(K1, K2]` of the WAL. It holds each row that
//! lived at K1 (carried over from the slab before) and each that began in the stretch, with the place at which its validity
//! ended, if it did so within. As of a moment L in `[K1, K2)` the table is the rows of one slab with `_lsn <= L` and
//! `L < _to_lsn` (or null), and for a time T likewise by `_valid_from` and `_valid_to`: no join, no window, in any engine. It is
//! the idea of the time-split B-tree (Lomet and Salzberg, 1989).
//!
//! A slab is cut when one and a half times as many rows have ended in it as live at its end. So a scan reads at most about two and a
//! half times the rows that it finds, and slabs hold at most about one and two thirds rows for each fact. Rows are kept in the order of their entities: the versions of
//! one lie side by side, and what did not change between them packs to next to nothing.
//!
//! When as many facts as rows live wait behind the last slab, one is begun: made of what there is, and replaced by the whole one, so that no more facts than rows live wait
//! behind the last.
//!
//! Slabs hold no truth. They are made from facts, by [`Slabber`], and stand beside them in `slabs/`; the log does not know of them.
//! Whoever removes that directory loses nothing but time. [`prove`] compares a slab with the facts.

mod build;
mod cut;
mod gather;
mod path;
mod prove;
mod set;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bygone_replication::Lsn;

use crate::error::Result;
use crate::log::LogState;
use crate::read::{Archive, TableHistory};
use crate::store::Store;

pub use path::SLABS;
pub use prove::{Proof, prove};
pub use set::{Slab, SlabFile, SlabSet};

/// When a row's validity began; null where that was before the slab's stretch. To know that of a carried row is not worth the bytes.
pub const BEGAN: &str = "_began";
/// When it ended; null where that was not in the slab's stretch.
pub const ENDED: &str = "_ended";

/// The system columns of facts that a slab has; [`BEGAN`], [`ENDED`] and the user's follow.
pub(crate) const KEPT: [&str; 5] = ["_entity_id", "_version", "_unknown", "_schema", "_raw"];

/// When slabs are cut, and in what memory they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Fewer rows than this are never worth a slab: their facts are read as quickly.
    pub least: u64,
    /// Bytes of rows that are held at once while a slab is made; a larger one is made in parts.
    pub memory: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self { least: 20_000, memory: 96 << 20 }
    }
}

/// What a pass came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Slabs that were made.
    pub slabs: usize,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Makes the slabs that are due, beside a capture.
#[derive(Debug)]
pub struct Slabber {
    store: Store,
    policy: Policy,
    stop: Arc<AtomicBool>,
    /// Facts, by table, that have to stand behind the last slab before another look is worth it.
    next_look: HashMap<String, u64>,
}

impl Slabber {
    /// For a history. Setting `stop` ends a pass early, with nothing half-made that a reader would take.
    #[must_use]
    pub fn new(store: Store, policy: Policy, stop: Arc<AtomicBool>) -> Self {
        Self { store, policy, stop, next_look: HashMap::new() }
    }

    /// Makes all slabs that are due in the history as the log leaves it. Those of the other tables are made, too, where facts of one are
    /// not what they should be.
    ///
    /// # Errors
    /// Where facts cannot be read, or are not what they should be, and what the store has to say.
    pub async fn pass(&mut self, log: &LogState) -> Result<Done> {
        let mut done = Done::default();
        let tables: Vec<String> = log
            .tables()
            .filter(|table| {
                let facts: u64 = log.files_of(table).iter().map(|file| file.add.rows).sum();
                facts >= self.policy.least.max(self.next_look.get(*table).copied().unwrap_or(0))
            })
            .map(str::to_owned)
            .collect();
        if tables.is_empty() {
            return Ok(done);
        }
        let archive = Archive::open(&self.store).await?;
        let mut failed = None;
        for name in tables {
            match self.slabs_of(&archive, &name, &mut done).await {
                // What is wrong with one table's files is nothing to the others.
                Err(error) if error.kind().is_of_object() => failed = failed.or(Some(error)),
                made => made?,
            }
        }
        failed.map_or(Ok(done), Err)
    }

    async fn slabs_of(&mut self, archive: &Archive, name: &str, done: &mut Done) -> Result<()> {
        let table = archive.table(name)?;
        if table.known.is_empty() || clashes(&table) {
            return Ok(());
        }
        while !self.stopped() && self.next_slab(archive, &table, done).await? {}
        Ok(())
    }

    /// Makes a table's next slab; says whether it was due.
    async fn next_slab(&mut self, archive: &Archive, table: &TableHistory, done: &mut Done) -> Result<bool> {
        let slabs = SlabSet::load(&self.store, &table.log_name).await?;
        self.store.delete_unread(slabs.left_behind()).await?;
        let (last, begun) = slabs.done_and_begun();
        let from = last.map_or(Lsn::ZERO, |slab| slab.to);
        // A slab holds whole rows, and many of them at a time are sorted: not where one may be as large as memory.
        if table.files.iter().any(|file| file.add.is_large() && file.add.lsn[1] > from) {
            return Ok(false);
        }
        let since = begun.or(last).map_or(Lsn::ZERO, |slab| slab.to);
        let behind = |place: Lsn| -> u64 {
            table.files.iter().filter(|file| file.add.lsn[1] > place).map(|file| file.add.rows).sum()
        };
        let live = match last {
            Some(slab) => slab.live(&self.store).await?,
            None => 0,
        };
        let total: u64 = table.files.iter().map(|file| file.add.rows).sum();
        let least = self.policy.least.max(live);
        if behind(since) < least {
            self.next_look.insert(table.log_name.clone(), total + (least - behind(since)));
            return Ok(false);
        }
        let found = cut::find(archive, table, last, since, live, self.policy.least).await?;
        let (stretch, begun) = match found {
            cut::Found::At(stretch) => (stretch, false),
            // Half of one: what is behind it is read more slowly than what is in it.
            cut::Found::After { new, live, so_far: Some(stretch), .. }
                if new >= self.policy.least.max(live) && stretch.to > since =>
            {
                (stretch, true)
            }
            cut::Found::After { lacks, new, live, .. } => {
                let more = lacks.min(self.policy.least.max(live).saturating_sub(new)).max(1);
                self.next_look.insert(table.log_name.clone(), total + more);
                return Ok(false);
            }
        };
        let (memory, stop) = (self.policy.memory, &self.stop);
        let Some(made) = build::build(&self.store, table, last, &stretch, begun, memory, stop).await? else {
            return Ok(false);
        };
        done.slabs += 1;
        done.rows += made.rows;
        done.bytes += made.bytes;
        // One that is not taken would be made again and again: another maker's may stand in its place.
        let taken = SlabSet::load(&self.store, &table.log_name).await?;
        let is_it = |slab: &Slab| slab.from == stretch.from && slab.to == stretch.to && slab.begun == begun;
        Ok(taken.all().iter().any(is_it))
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A column of the user's is called like one of those that only slabs have: the table goes without.
fn clashes(table: &TableHistory) -> bool {
    let taken = [BEGAN, ENDED, path::FROM_TIME, path::TO_TIME];
    table.versions.iter().flat_map(|version| &version.schema.columns).any(|column| {
        let names = [&column.physical, &column.column.name];
        names.iter().any(|name| taken.iter().any(|taken| taken.eq_ignore_ascii_case(name)))
    })
}
