//! Appending to the log.

use bytes::Bytes;

use super::chain::catch_up;
use super::commit::{Commit, CommitBody, FORMAT};
use super::event::Event;
use super::hash::ContentHash;
use super::path::{DATA, commit_path, fact_seq};
use super::state::LogState;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::log::read;
use crate::store::{PutOutcome, Store};
use crate::timestamp::Timestamp;

/// The one who appends to a history's log.
///
/// There may be others who think the same: whoever loses the race for a sequence number is fenced and must stop. A writer
/// that was fenced, or does not know whether its last commit is there, refuses to go on.
#[derive(Debug)]
pub struct LogWriter {
    store: Store,
    state: LogState,
    writer: String,
    /// Commits of this writer's own, which prove that nobody else's can follow.
    appended: u64,
    /// Why no more is appended.
    latched: Option<&'static str>,
    /// What others have said since this writer's last commit.
    passed: Vec<Event>,
}

/// The proof that a commit is durable; only [`LogWriter::append`] makes one. What it covers may be acknowledged.
#[derive(Clone, Debug)]
#[must_use]
pub struct Appended {
    commit: Commit,
    hash: ContentHash,
    passed: Vec<Event>,
}

impl Appended {
    /// What others said about the history in commits of their own that stand before this one: see [`ASIDE`](super::ASIDE).
    #[must_use]
    pub fn passed(&self) -> &[Event] {
        &self.passed
    }

    /// The commit's sequence number.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.commit.seq
    }

    /// SHA-256 of the commit's bytes.
    #[must_use]
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// The commit as it stands in the log.
    #[must_use]
    pub fn commit(&self) -> &Commit {
        &self.commit
    }
}

/// What [`LogWriter::remove_orphans`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Objects that no commit names, removed.
    pub removed: usize,
    /// Objects that no commit names and that the store refuses to remove (object lock): they stay, and are ignored.
    pub kept: usize,
    /// Files that were never published, removed.
    pub staging: usize,
}

impl LogWriter {
    /// A writer that goes on after `state`.
    pub(crate) fn new(store: Store, state: LogState) -> Self {
        let writer = format!("{:032x}", rand::random::<u128>());
        Self { store, state, writer, appended: 0, latched: None, passed: Vec::new() }
    }

    /// What the log says, this writer's commits included.
    #[must_use]
    pub fn state(&self) -> &LogState {
        &self.state
    }

    /// The store that it writes to.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Forgets the files of commits before one: they have arrived elsewhere, and are not there any more.
    pub fn forget_files(&mut self, before: u64) {
        self.state.forget_files(before);
    }

    /// This writer's id, as it stands in its commits: another one at each opening.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.writer
    }

    /// The sequence number that the next commit will have; new files are named after it.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.state.next_seq
    }

    /// Appends a commit. When it returns, the commit is durable.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] where somebody else wrote this commit, [`ErrorKind::Latched`] after an error that left open
    /// whether the last one is there: open the history again to find out. [`ErrorKind::Conflict`] for a commit that does not
    /// follow from the ones before, which is not written; that and a full disk leave the writer as it was.
    pub async fn append(&mut self, body: CommitBody) -> Result<Appended> {
        loop {
            match self.try_append(&body).await {
                Err(err) if err.kind() == ErrorKind::Fenced => {
                    if !self.pass().await? {
                        return Err(err);
                    }
                }
                appended => {
                    return appended
                        .map(|appended| Appended { passed: std::mem::take(&mut self.passed), ..appended });
                }
            }
        }
    }

    /// Goes on behind the next commit where that is one of somebody who does not capture, and keeps what it says in mind.
    ///
    /// # Errors
    /// Where the store does not say what stands there: then nobody knows whose it is.
    async fn pass(&mut self) -> Result<bool> {
        let next = match read(&self.store, self.state.next_seq).await {
            Ok(next) => next,
            Err(error) if error.kind().is_of_object() => return Ok(false),
            Err(error) => return Err(error),
        };
        if !self.state.is_aside(&next.commit.body) || self.state.apply(&next.commit, next.hash).is_err() {
            return Ok(false);
        }
        self.latched = None;
        tracing::debug!(seq = next.commit.seq, "going on behind a commit that captures nothing");
        self.passed.extend(next.commit.body.events);
        Ok(true)
    }

    async fn try_append(&mut self, body: &CommitBody) -> Result<Appended> {
        if let Some(why) = self.latched {
            let detail = format!("{why}; start bygone again to find out where the log stands");
            return Err(Error::new(ErrorKind::Latched, "the log takes no more commits from here", detail));
        }
        let commit = Commit {
            format: FORMAT,
            seq: self.state.next_seq,
            prev: self.state.last_hash,
            at: Timestamp::now(),
            writer: self.writer.clone(),
            body: body.clone(),
        };
        self.state.check(&commit).map_err(|err| {
            Error::new(
                ErrorKind::Conflict,
                "refused to write a commit that readers would refuse",
                err.to_string(),
            )
        })?;
        let bytes = commit.to_bytes()?;
        let hash = ContentHash::of(&bytes);
        let path = commit_path(commit.seq);

        failpoint::hit("commit.before_put")?;
        // Should this future be dropped in the midst, the outcome is unknown.
        self.latched = Some("a commit was given up while it was being written");
        match self.store.put_new(&path, Bytes::from(bytes)).await {
            Ok(PutOutcome::Created) => {}
            Ok(PutOutcome::AlreadyExists) => {
                self.latched = Some("somebody else writes to this history");
                return Err(self.fenced(commit.seq).await);
            }
            Err(err) if err.kind().leaves_nothing() => {
                self.latched = None;
                return Err(err);
            }
            Err(err) => {
                self.latched = Some("it is not known whether the last commit was written");
                return Err(err);
            }
        }
        failpoint::hit("commit.after_put")?;
        self.state.apply(&commit, hash)?;
        self.appended += 1;
        self.latched = None;
        Ok(Appended { commit, hash, passed: Vec::new() })
    }

    async fn fenced(&self, seq: u64) -> Error {
        let winner = match read(&self.store, seq).await {
            Ok(winner) => {
                let Commit { writer, at, .. } = winner.commit;
                format!("writer {writer} wrote it at {at}")
            }
            Err(err) => format!("who wrote it cannot be read ({err})"),
        };
        let detail = format!(
            "{} is there already: {winner}, this is writer {}; two processes write to {}, stop one of them",
            commit_path(seq),
            self.writer,
            self.store.describe()
        );
        Error::new(ErrorKind::Fenced, "another writer has taken over this history", detail)
    }

    /// Removes objects that no commit names, left by writers that did not come to committing.
    ///
    /// Does nothing before this writer's first commit: until then a writer that is still running might commit the very
    /// objects. Afterwards it cannot, for its next commit has a number that is taken; and only objects named after such a
    /// number are removed, so whoever takes over later keeps his.
    ///
    /// To be called when this writer has no files under way that are named after an earlier commit than the one that will
    /// add them: they look like orphans.
    ///
    /// # Errors
    /// Where the store cannot be listed or does not answer. That it refuses a removal is counted, not an error.
    pub async fn remove_orphans(&self) -> Result<Orphans> {
        let mut orphans = Orphans::default();
        if self.appended == 0 || self.latched.is_some() {
            return Ok(orphans);
        }
        for directory in DATA {
            for object in self.store.list(directory).await? {
                let path = &object.path;
                // Files without a commit's number are not ours, Delta's among them.
                if self.state.names(path) || fact_seq(path).is_none_or(|seq| seq >= self.state.next_seq) {
                    continue;
                }
                match self.store.delete(path).await {
                    Ok(()) => orphans.removed += 1,
                    Err(err) if matches!(err.kind(), ErrorKind::Denied | ErrorKind::ReadOnly) => {
                        tracing::warn!(error = %err, path, "an object that no commit names stays");
                        orphans.kept += 1;
                    }
                    Err(err) => return Err(err),
                }
            }
        }
        orphans.staging = self.store.remove_stale_staging().await?;
        if orphans != Orphans::default() {
            tracing::info!(
                removed = orphans.removed,
                kept = orphans.kept,
                staging = orphans.staging,
                "orphans"
            );
        }
        Ok(orphans)
    }

    /// Fails if somebody else has appended meanwhile: a check for long pauses between commits.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`].
    pub async fn check_fence(&mut self) -> Result<()> {
        while self.store.exists(&commit_path(self.state.next_seq)).await? {
            if self.pass().await? {
                continue;
            }
            self.latched = Some("somebody else writes to this history");
            return Err(self.fenced(self.state.next_seq).await);
        }
        Ok(())
    }

    /// Gives the writing up and reads on: what the log says by now.
    ///
    /// # Errors
    /// As [`catch_up`].
    pub async fn into_state(mut self) -> Result<LogState> {
        catch_up(&self.store, &mut self.state).await?;
        Ok(self.state)
    }
}
