//! Many small files become few large ones.
//!
//! Commits come every few seconds, and each leaves a file per table: a day of them would be thousands. Files of one table, day,
//! schema version and leaf partition that follow one another are merged, by the rule of a log-structured tree: as soon as there
//! are [`Policy::fan_in`] neighbours of about one size, they become one file of the next size. Each fact is so rewritten a few
//! times at most, and a table keeps tens of files a day, however often commits are made.
//!
//! A compaction is a commit like any other, marked [`ASIDE`](crate::log::ASIDE): it adds the new files and removes the old ones at
//! once, so a reader of the log sees each fact once, before and after. A capture goes on behind it. The old objects stay for
//! [`Policy::grace`], for readers that had begun. The files hold the same facts, value by value and in the same order.

mod plan;
mod rewrite;
mod sweep;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::log::{self, Add, Event, EventKind, LogState, LogWriter};
use crate::store::Store;
use crate::timestamp::Timestamp;

use plan::Group;
use sweep::Sweep;

/// When files are merged, and when the old ones go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Neighbours of about one size that are merged; at least 2.
    pub fan_in: usize,
    /// Files are not made larger than about this, in bytes.
    pub target_bytes: u64,
    /// How long objects stay after the commit that removed them.
    pub grace: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { fan_in: 8, target_bytes: 128 << 20, grace: Duration::from_secs(3600) }
    }
}

/// What a pass came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Files that were merged.
    pub merged: usize,
    /// Files that they became.
    pub into: usize,
    /// Bytes of the files that were merged.
    pub bytes: u64,
    /// Objects that were removed, their time being up.
    pub removed: usize,
    /// The store refused to remove an object (object lock), and was not asked for more: they stay.
    pub kept: usize,
}

/// Input bytes after which what was merged is committed: a pass that is cut short loses no more than that.
const COMMIT_BYTES: u64 = 256 << 20;
/// No more is merged for a commit that has waited so long.
const LONGEST_GATHERING: Duration = Duration::from_secs(300);
/// A file that no commit names is left behind by a compaction that died once its number is so old, whatever the grace is: one that
/// goes on gives up well before that.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);
/// Times that a commit is tried while a capture commits, too.
const ATTEMPTS: usize = 50;

/// Merges the files of a history, while others write and read it.
#[derive(Debug)]
pub struct Compactor {
    store: Store,
    state: LogState,
    policy: Policy,
    sweep: Sweep,
    stop: Arc<AtomicBool>,
}

/// Files that were merged, and what they became.
struct Merged {
    add: Add,
    remove: Vec<String>,
    bytes: u64,
}

/// Files that could not be merged, for one of them is not what the log says.
#[derive(Default)]
struct Broken {
    paths: HashSet<String>,
    first: Option<Error>,
}

impl Broken {
    fn add(&mut self, group: &Group, error: Error) {
        tracing::warn!(%error, "files are not merged");
        self.paths.extend(group.files.iter().map(|file| file.add.path.clone()));
        self.first.get_or_insert(error);
    }

    fn is_in(&self, group: &Group) -> bool {
        group.files.iter().any(|file| self.paths.contains(&file.add.path))
    }
}

impl Compactor {
    /// For a history that stands as `state` says, or is further by now. Setting `stop` ends a pass early, with nothing left behind.
    #[must_use]
    pub fn new(store: Store, state: LogState, policy: Policy, stop: Arc<AtomicBool>) -> Self {
        Self { store, state, policy, sweep: Sweep::default(), stop }
    }

    /// Merges what is due, and removes old objects whose time is up. A file that is not what the log says is left as it is, with those that
    /// would be merged with it; everything else is done all the same.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] or [`ErrorKind::NotFound`] where there is such a file. [`ErrorKind::Fenced`] where others commit
    /// too often, and what the store has to say.
    pub async fn pass(&mut self) -> Result<Done> {
        let mut done = Done::default();
        log::catch_up(&self.store, &mut self.state).await?;
        // What a capture adds meanwhile is for the next pass: else there would always be something due.
        let last = self.state.last_seq();
        let mut broken = Broken::default();
        // What was merged is of a new size, and may be due again.
        loop {
            let mut groups = plan::plan(&self.state, &self.policy, last);
            groups.retain(|group| !broken.is_in(group));
            if groups.is_empty() || self.stopped() {
                break;
            }
            self.merge_all(groups, &mut done, &mut broken).await?;
        }
        if !self.stopped() {
            self.sweep.pass(&self.store, &self.state, self.policy.grace, &mut done).await?;
        }
        broken.first.map_or(Ok(done), Err)
    }

    /// What a pass would merge: files, and how many they would become.
    #[must_use]
    pub fn due(&self) -> (usize, usize) {
        let groups = plan::plan(&self.state, &self.policy, self.state.last_seq());
        (groups.iter().map(|group| group.files.len()).sum(), groups.len())
    }

    /// The log as it was last read.
    #[must_use]
    pub fn state(&self) -> &LogState {
        &self.state
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn merge_all(&mut self, groups: Vec<Group>, done: &mut Done, broken: &mut Broken) -> Result<()> {
        let began = Since::now();
        let mut merged: Vec<Merged> = Vec::new();
        let mut outcome = Ok(());
        for group in groups {
            let full = merged.iter().map(|merged| merged.bytes).sum::<u64>() >= COMMIT_BYTES;
            if full || began.elapsed() > LONGEST_GATHERING {
                break;
            }
            // Of the class that the table is of by now, whatever it was when the facts came.
            let table = group.files.first().map_or("", |file| file.add.table.as_str());
            let class = self.state.schemas(table).last().and_then(|schema| schema.retention.clone());
            let seq = self.state.next_seq;
            match rewrite::rewrite(&self.store, &group, seq, class.as_deref(), &self.stop).await {
                Ok(Some(add)) => merged.push(Merged {
                    add,
                    bytes: group.files.iter().map(|file| file.add.bytes).sum(),
                    remove: group.files.into_iter().map(|file| file.add.path).collect(),
                }),
                Ok(None) => break,
                Err(error) if error.kind().is_of_object() => broken.add(&group, error),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        // After an error it is not known whether a commit names the new files: what none names is swept up later.
        self.commit(&merged, began).await?;
        for merged in merged {
            done.merged += merged.remove.len();
            done.into += 1;
            done.bytes += merged.bytes;
        }
        outcome
    }

    /// Nobody has swept up the new files.
    async fn are_there(&self, merged: &[Merged]) -> Result<bool> {
        for merged in merged {
            if !self.store.exists(&merged.add.path).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Has the log name the new files in place of the old ones, whoever else writes to it.
    async fn commit(&mut self, merged: &[Merged], began: Since) -> Result<()> {
        if merged.is_empty() {
            return Ok(());
        }
        failpoint::hit("compact.before_commit")?;
        for _ in 0..ATTEMPTS {
            if began.elapsed() > LEFT_BEHIND / 2 || !self.are_there(merged).await? {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "a compaction took too long",
                    "its files were, or may have been, swept up as left behind; they are given up",
                ));
            }
            let gone =
                merged.iter().flat_map(|merged| &merged.remove).find(|path| self.state.file(path).is_none());
            if let Some(path) = gone {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "somebody else compacts this history",
                    format!("{path} is no longer live; what was merged is given up"),
                ));
            }
            let mut body = self.state.aside().ok_or_else(|| {
                Error::new(ErrorKind::Conflict, "there is nothing to compact", "the log has no commit")
            })?;
            for merged in merged {
                body.events.push(event(merged));
                body.add.push(merged.add.clone());
                body.remove.extend(merged.remove.iter().cloned());
            }
            let mut writer = LogWriter::new(self.store.clone(), std::mem::take(&mut self.state));
            let appended = writer.append(body).await;
            self.state = match &appended {
                Err(error) if error.kind() != ErrorKind::Fenced => log::load(&self.store, None).await?,
                // A capture was first, or we were: the log says what there is.
                _ => writer.into_state().await?,
            };
            match appended {
                Ok(appended) => {
                    tracing::debug!(seq = appended.seq(), "compacted");
                    return failpoint::hit("compact.after_commit");
                }
                Err(error) if error.kind() == ErrorKind::Fenced => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(
            ErrorKind::Fenced,
            "no compaction could be committed",
            "the capture commits too often",
        ))
    }
}

/// When something began, by two clocks: the one stands still while the machine sleeps, and the other may be set.
#[derive(Clone, Copy, Debug)]
struct Since {
    steady: Instant,
    clock: Timestamp,
}

impl Since {
    fn now() -> Self {
        Self { steady: Instant::now(), clock: Timestamp::now() }
    }

    /// The longer of what the two say.
    fn elapsed(self) -> Duration {
        let by_clock = u64::try_from(Timestamp::now().0.saturating_sub(self.clock.0)).unwrap_or(0);
        self.steady.elapsed().max(Duration::from_micros(by_clock))
    }
}

fn event(merged: &Merged) -> Event {
    let [_, to] = merged.add.lsn;
    Event::at(EventKind::Compact, Some(merged.add.table.clone()), to)
        .with("files", merged.remove.len())
        .with("rows", merged.add.rows)
        .with("bytes", [merged.bytes, merged.add.bytes].to_vec())
}
