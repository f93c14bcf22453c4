//! Commits: files, then the log, then state. One at a time is on its way, while the next is gathered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bygone_replication::Lsn;
use bygone_sink::encoder::WrittenFile;
use bygone_sink::failpoint;
use bygone_sink::log::{
    CATALOG_SEEN, CommitBody, ContentHash, Event, LSN_OFFSET, LogWriter, SchemaVersion, Source, Wal,
};
use bygone_sink::state::State;
use bygone_sink::timestamp::Timestamp;
use bygone_sink::versioning::Sealed;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

use super::axis::Axis;
use crate::error::{Error, Result};
use crate::facts::Alone;
use crate::metrics::Metrics;

/// What a commit says beside its files.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) from: Lsn,
    pub(crate) to: Lsn,
    pub(crate) source: Source,
    pub(crate) epoch: u32,
    pub(crate) axis: Axis,
    /// Up to where the publications are known to have been as recorded.
    pub(crate) seen: Option<Lsn>,
    /// Microseconds since the Unix epoch.
    pub(crate) server_time: Option<i64>,
    /// Microseconds since the Unix epoch.
    pub(crate) high_water: Option<i64>,
    pub(crate) publication: Option<serde_json::Value>,
    pub(crate) schemas: Vec<SchemaVersion>,
    pub(crate) events: Vec<Event>,
}

/// Up to when the history knows what was, as a commit tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// [`Said::server_time`].
    pub(crate) server_time: Option<i64>,
    /// [`Said::high_water`].
    pub(crate) high_water: Option<i64>,
}

impl Said {
    pub(crate) const fn told(&self) -> Told {
        Told { server_time: self.server_time, high_water: self.high_water }
    }

    /// The document, with the files.
    pub(crate) fn body(self, files: &[WrittenFile]) -> CommitBody {
        let mut extra = serde_json::Map::new();
        if self.axis.offset != 0 {
            extra.insert(LSN_OFFSET.to_owned(), Lsn(self.axis.offset).to_string().into());
        }
        if let Some(seen) = self.seen {
            extra.insert(CATALOG_SEEN.to_owned(), seen.to_string().into());
        }
        CommitBody {
            wal: Wal { from: self.from, to: self.to },
            resume: self.to,
            epoch: self.epoch,
            source: self.source,
            server_time: self.server_time.map(Timestamp),
            high_water: self.high_water.map(Timestamp),
            publication: self.publication,
            schemas: self.schemas,
            events: self.events,
            add: files.iter().map(WrittenFile::added).collect(),
            remove: Vec::new(),
            extra,
        }
    }
}

/// A commit that is durable in the log: what it covers may be acknowledged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Durable {
    pub(crate) seq: u64,
    /// SHA-256 of its bytes.
    pub(crate) hash: ContentHash,
    pub(crate) resume: Lsn,
    /// What others said about the history since the commit before.
    pub(crate) passed: Vec<Event>,
}

/// A commit on its way.
#[derive(Debug)]
pub(crate) struct Pending {
    durable: Option<oneshot::Receiver<Result<Durable>>>,
    applied: oneshot::Receiver<Result<()>>,
}

/// What became of the commit on its way since one last looked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Progress {
    Waiting,
    Durable(Durable),
    Applied,
}

/// Appends commits to the log and applies them to state.
#[derive(Clone)]
pub(crate) struct Committer {
    pub(crate) log: Arc<Mutex<LogWriter>>,
    pub(crate) state: Arc<State>,
    pub(crate) runtime: Handle,
    pub(crate) metrics: Arc<Metrics>,
    /// Where a commit has to arrive before it counts, where that is not the log.
    pub(crate) alone: Option<Arc<Alone>>,
}

type Files = oneshot::Receiver<bygone_sink::error::Result<Vec<WrittenFile>>>;

impl Committer {
    /// Sends a commit on its way.
    pub(crate) fn start(&self, files: Files, said: Said, sealed: Sealed) -> Pending {
        let (tell_durable, durable) = oneshot::channel();
        let (tell_applied, applied) = oneshot::channel();
        let this = self.clone();
        self.runtime.spawn(async move {
            let appended = this.append(files, said).await;
            let commit = appended.as_ref().ok().map(|durable| (durable.seq, durable.hash));
            // Whoever started the commit may have given up in the meantime.
            let _ = tell_durable.send(appended);
            if let Some((seq, hash)) = commit {
                let state = Arc::clone(&this.state);
                let done = tokio::task::spawn_blocking(move || {
                    failpoint::hit("state.before_apply")?;
                    state.commit_is(seq, hash.to_string());
                    sealed.apply(&state, seq)?;
                    failpoint::hit("state.after_apply")
                });
                let done = done.await.map_err(|error| Error::other(format!("applying state: {error}")));
                let done = done.and_then(|done| done.map_err(Error::from));
                let done = if done.is_ok() { this.clear(seq).await } else { done };
                let _ = tell_applied.send(done);
            }
        });
        Pending { durable: Some(durable), applied }
    }

    /// Removes the files of commits that have arrived in tables, and that the state has, up to one.
    pub(crate) async fn clear(&self, seq: u64) -> Result<()> {
        if let Some(alone) = &self.alone {
            alone.clear(seq).await?;
            self.log.lock().await.forget_files(seq.saturating_add(1));
        }
        Ok(())
    }

    async fn append(&self, files: Files, said: Said) -> Result<Durable> {
        let began = Instant::now();
        let files = files.await.map_err(|_| Error::other("the encoder has stopped"))??;
        let resume = said.to;
        let known = said.server_time.max(said.high_water);
        let durable = said.axis.of_source(resume);
        let appended = self.log.lock().await.append(said.body(&files)).await?;
        if let Some(alone) = &self.alone {
            alone.deliver().await?;
        }
        self.metrics.committed(appended.seq(), durable, known, &files, began.elapsed());
        let passed = appended.passed().to_vec();
        Ok(Durable { seq: appended.seq(), hash: appended.hash(), resume, passed })
    }
}

impl Pending {
    /// Looks what became of it, without waiting.
    pub(crate) fn look(&mut self) -> Result<Progress> {
        if let Some(durable) = &mut self.durable {
            return match durable.try_recv() {
                Ok(result) => {
                    self.durable = None;
                    result.map(Progress::Durable)
                }
                Err(oneshot::error::TryRecvError::Empty) => Ok(Progress::Waiting),
                Err(oneshot::error::TryRecvError::Closed) => Err(lost()),
            };
        }
        match self.applied.try_recv() {
            Ok(result) => result.map(|()| Progress::Applied),
            Err(oneshot::error::TryRecvError::Empty) => Ok(Progress::Waiting),
            Err(oneshot::error::TryRecvError::Closed) => Err(lost()),
        }
    }

    /// Waits for the next thing to become of it, for so long at most.
    pub(crate) fn wait(&mut self, runtime: &Handle, at_most: Duration) -> Result<Progress> {
        runtime.block_on(async {
            if let Some(durable) = &mut self.durable {
                let Ok(result) = timeout(at_most, durable).await else { return Ok(Progress::Waiting) };
                self.durable = None;
                return result.map_err(|_| lost())?.map(Progress::Durable);
            }
            let Ok(result) = timeout(at_most, &mut self.applied).await else { return Ok(Progress::Waiting) };
            result.map_err(|_| lost())?.map(|()| Progress::Applied)
        })
    }
}

fn lost() -> Error {
    Error::other("the task that commits has ended before its commit: see the error before")
}
