//! Sinks that roll forward from the log beside a capture: fact tables, the Delta view. Nothing that befalls one holds the capture up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bygone_replication::backoff::Backoff;
use bygone_sink::error::ErrorKind;
use bygone_sink::store::{Location, Store, StoreOptions};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::metrics::Metrics;

/// How often it is looked for new commits.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the end of a run waits for a target that does not answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The longest pause between tries in that time.
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// Where a history is kept.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) location: Location,
    pub(crate) options: StoreOptions,
}

impl Place {
    /// A store there, which shares nothing with others.
    pub(crate) fn open(&self) -> Result<Store> {
        Ok(Store::open(&self.location, &self.options)?)
    }
}

/// What follows a log.
pub(crate) trait Sink: Send + Sync + 'static {
    /// It, opened.
    type Open: Send;

    /// What it is, for messages.
    fn what(&self) -> &'static str;

    /// What metrics call it.
    fn label(&self) -> &'static str;

    /// Opens it, and finds out how far it is.
    fn open(&self, store: &Store) -> impl Future<Output = Result<Self::Open>> + Send;

    /// Takes all commits that it lacks; gives how many.
    fn catch_up(open: &mut Self::Open) -> impl Future<Output = Result<u64>> + Send;

    /// The first commit that it lacks.
    fn next(open: &Self::Open) -> u64;
}

/// How far a sink is, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    up: AtomicBool,
    /// One more than the first commit that it lacks; 0 while that is not known.
    next: AtomicU64,
}

impl Followed {
    /// Its last try went well.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// The first commit that it lacks; none before it could be opened once.
    pub(crate) fn next(&self) -> Option<u64> {
        self.next.load(Ordering::Relaxed).checked_sub(1)
    }

    fn has(&self, next: u64) {
        self.next.store(next.saturating_add(1), Ordering::Relaxed);
        self.up.store(true, Ordering::Relaxed);
    }

    fn failed(&self) {
        self.up.store(false, Ordering::Relaxed);
    }
}

/// A task that follows the log.
#[derive(Debug)]
pub(crate) struct Follower {
    ending: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Follower {
    /// Follows the log at a place, through a store of its own: one that has failed takes no more writes, and must not be the
    /// capture's.
    pub(crate) fn start(sink: impl Sink, place: Place, metrics: &Metrics) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let followed = Arc::new(Followed::default());
        metrics.followed_by(sink.label(), Arc::clone(&followed));
        let task = tokio::spawn(follow(sink, place, Arc::clone(&ending), followed));
        Self { ending, task }
    }

    /// Ends it, once it has all that the log holds; a target that does not answer is not waited for.
    pub(crate) async fn finish(self) -> Result<()> {
        self.ending.store(true, Ordering::SeqCst);
        self.task
            .await
            .map_err(|error| Error::other(format!("a task beside the capture has failed: {error}")))?
    }
}

async fn follow<S: Sink>(
    sink: S,
    place: Place,
    ending: Arc<AtomicBool>,
    followed: Arc<Followed>,
) -> Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
    let mut since: Option<Instant> = None;
    let what = sink.what();
    loop {
        let Err(error) = follow_once(&sink, &place, &ending, &followed, &mut backoff).await else {
            return Ok(());
        };
        followed.failed();
        if is_final(&error) {
            // The capture goes on, and its end tells of it once more.
            tracing::error!(%error, "no longer written: {what}");
            return Err(error);
        }
        if ending.load(Ordering::SeqCst) && since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            tracing::warn!(%error, "left behind, to be caught up at the next start: {what}");
            return Ok(());
        }
        pause(&mut backoff, &ending, |pause| {
            tracing::warn!(%error, pause = pause.as_secs_f64(), "behind, and tried again: {what}");
        })
        .await;
    }
}

/// Trying again does not help.
pub(crate) fn is_final(error: &Error) -> bool {
    let Error::Sink(reason) = error else { return false };
    matches!(
        reason.kind(),
        ErrorKind::Fenced | ErrorKind::OtherSource | ErrorKind::Damaged | ErrorKind::Conflict
    )
}

async fn follow_once<S: Sink>(
    sink: &S,
    place: &Place,
    ending: &AtomicBool,
    followed: &Followed,
    backoff: &mut Backoff,
) -> Result<()> {
    let mut open = sink.open(&place.open()?).await?;
    followed.has(S::next(&open));
    loop {
        // Looked at before: what the log holds at the end is taken after that.
        let last = ending.load(Ordering::SeqCst);
        let taken = S::catch_up(&mut open).await?;
        followed.has(S::next(&open));
        if taken > 0 {
            tracing::debug!(commits = taken, "{}", sink.what());
            backoff.reset();
        }
        if last {
            return Ok(());
        }
        rest(LOOK_EVERY, ending).await;
    }
}

/// Pauses after a try that has failed, once it is said for how long. Where the end comes meanwhile, the next try comes at once;
/// where it has come before, tries are made in the time that is left, with pauses between them.
pub(crate) async fn pause(backoff: &mut Backoff, ending: &AtomicBool, say: impl FnOnce(Duration)) {
    let pause = backoff.next_pause();
    if ending.load(Ordering::SeqCst) {
        let pause = pause.min(LAST_PAUSE);
        say(pause);
        tokio::time::sleep(pause).await;
    } else {
        say(pause);
        rest(pause, ending).await;
    }
}

/// Sleeps, but not for long once the end has come.
async fn rest(pause: Duration, ending: &AtomicBool) {
    const STEP: Duration = Duration::from_millis(50);
    let until = Instant::now() + pause;
    tokio::time::sleep(STEP).await;
    while Instant::now() < until && !ending.load(Ordering::SeqCst) {
        tokio::time::sleep(STEP).await;
    }
}
