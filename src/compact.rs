//! `bygone compact`, and the merging of files beside a capture.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bygone_sink::checkpoint;
use bygone_sink::compaction::{Compactor, Done, Policy};
use bygone_sink::error::ErrorKind as SinkErrorKind;
use bygone_sink::failpoint;
use bygone_sink::history::History;
use bygone_sink::index::{self, Indexer};
use bygone_sink::log::LogState;
use bygone_sink::slabs::{self, Slabber};
use bygone_sink::store::{Location, Store, StoreOptions};

use tokio::sync::Notify;

use crate::cli::{Compact, Merging};
use crate::error::{Error, Result};
use crate::follower::Place;
use crate::query::sheet::Cell;

/// The policy that the command line asks for.
pub(crate) fn policy(merging: Merging) -> Policy {
    Policy { target_bytes: merging.compact_size, grace: merging.grace, ..Policy::default() }
}

/// Merges what is due, once.
pub(crate) async fn compact(arguments: &Compact) -> Result<()> {
    failpoint::init()?;
    let location = Location::parse(&arguments.history.history)?;
    let store = Store::open(&location, &StoreOptions::default())?;
    let history = History::open(&store).await?;
    let mut policy = policy(arguments.merging);
    if arguments.all {
        policy.fan_in = 2;
    }
    let state = history.state().clone();
    let before = state.files().len();
    let mut compactor = Compactor::new(store.clone(), state, policy, Arc::new(AtomicBool::new(false)));
    if arguments.dry_run {
        let (files, into) = compactor.due();
        eprintln!("bygone: of {before} files, {files} would become {into}");
        return Ok(());
    }
    let done = compactor.pass().await?;
    eprintln!("bygone: {}", told(&done));
    let derived =
        Derived::new(&store, DerivedPolicy::of(arguments.merging), &Arc::new(AtomicBool::new(false)));
    let (_, made) = derived_pass(derived, compactor.state().clone()).await;
    for told in made?.told() {
        eprintln!("bygone: {told}");
    }
    Ok(())
}

/// What is made from facts beside them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DerivedPolicy {
    slabs: Option<slabs::Policy>,
    indexes: bool,
    checkpoint_every: u64,
}

impl DerivedPolicy {
    /// The policy that the command line asks for.
    pub(crate) fn of(merging: Merging) -> Self {
        let least = merging.slabbing.least();
        Self {
            slabs: least.map(|least| slabs::Policy { least, ..slabs::Policy::default() }),
            indexes: !merging.no_index,
            checkpoint_every: merging.checkpoint_every,
        }
    }
}

/// The makers of it.
#[derive(Debug)]
struct Derived {
    slabber: Option<Slabber>,
    indexer: Option<Indexer>,
    store: Store,
    checkpoint_every: u64,
}

/// What they have made, as far as each was asked to.
#[derive(Clone, Copy, Debug, Default)]
struct Made {
    checkpoint: Option<u64>,
    slabs: Option<slabs::Done>,
    indexes: Option<index::Done>,
}

impl Derived {
    fn new(store: &Store, policy: DerivedPolicy, stop: &Arc<AtomicBool>) -> Self {
        let slabber = policy.slabs.map(|policy| Slabber::new(store.clone(), policy, Arc::clone(stop)));
        let indexer = policy.indexes.then(|| Indexer::new(store.clone(), Arc::clone(stop)));
        Self { slabber, indexer, store: store.clone(), checkpoint_every: policy.checkpoint_every }
    }

    async fn pass(&mut self, log: &LogState) -> Result<Made> {
        let mut made = Made {
            checkpoint: checkpoint::make(&self.store, log, self.checkpoint_every).await?,
            ..Made::default()
        };
        let slabs = match &mut self.slabber {
            Some(slabber) => Some(slabber.pass(log).await),
            None => None,
        };
        // Whatever is wrong with the one, the other is of use.
        if let Some(indexer) = &mut self.indexer {
            made.indexes = Some(indexer.pass(log).await?);
        }
        made.slabs = slabs.transpose()?;
        Ok(made)
    }
}

impl Made {
    fn is_nothing(&self) -> bool {
        self.checkpoint.is_none()
            && self.slabs.is_none_or(|done| done == slabs::Done::default())
            && self.indexes.is_none_or(|done| done == index::Done::default())
    }

    fn told(&self) -> impl Iterator<Item = String> {
        let size = |bytes| Cell::bytes(bytes).text().to_owned();
        let slabs = self
            .slabs
            .map(|done| format!("{} slabs were made ({} rows, {})", done.slabs, done.rows, size(done.bytes)));
        let indexes = self.indexes.map(|done| {
            format!("{} indexes were made (of {} facts, {})", done.indexes, done.rows, size(done.bytes))
        });
        let checkpoint =
            self.checkpoint.map(|seq| format!("a checkpoint of the log was made, up to commit {seq}"));
        checkpoint.into_iter().chain(slabs).chain(indexes)
    }
}

/// A pass on a thread that it may keep busy.
async fn derived_pass(mut derived: Derived, log: LogState) -> (Option<Derived>, Result<Made>) {
    let runtime = tokio::runtime::Handle::current();
    let task = tokio::task::spawn_blocking(move || {
        let made = runtime.block_on(derived.pass(&log));
        (derived, made)
    });
    match task.await {
        Ok((derived, made)) => (Some(derived), made),
        Err(error) => {
            (None, Err(Error::other(format!("the making of slabs and indexes has failed: {error}"))))
        }
    }
}

fn told(done: &Done) -> String {
    let kept = if done.kept > 0 { ", the others may not be" } else { "" };
    format!(
        "{} files ({}) became {}; {} old ones were removed{kept}",
        done.merged,
        Cell::bytes(done.bytes).text(),
        done.into,
        done.removed
    )
}

/// Merges files in the background until it is stopped.
#[derive(Debug)]
pub(crate) struct Background {
    stop: Arc<AtomicBool>,
    wake: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Background {
    /// Begins; a pass that fails is tried again the next time, for a history can be written without.
    pub(crate) fn start(
        place: Place,
        state: LogState,
        policy: Policy,
        made: DerivedPolicy,
        every: Duration,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let wake = Arc::new(Notify::new());
        let store = place.open()?;
        let mut derived = Some(Derived::new(&store, made, &stop));
        let mut compactor = Compactor::new(store, state, policy, Arc::clone(&stop));
        let task = tokio::spawn({
            let (stop, wake) = (Arc::clone(&stop), Arc::clone(&wake));
            async move {
                while !stop.load(Ordering::SeqCst) {
                    tokio::select! {
                        () = tokio::time::sleep(every) => {}
                        () = wake.notified() => return,
                    }
                    match compactor.pass().await {
                        Ok(done) if done == Done::default() => {}
                        Ok(done) => tracing::debug!("compaction: {}", told(&done)),
                        Err(error) => {
                            tracing::warn!(%error, "small files could not be merged: tried again later");
                            // A store that has once failed to make something durable takes nothing more.
                            if error.kind() == SinkErrorKind::Latched
                                && let Ok(store) = place.open()
                            {
                                let state = compactor.state().clone();
                                derived = Some(Derived::new(&store, made, &stop));
                                compactor = Compactor::new(store, state, policy, Arc::clone(&stop));
                            }
                        }
                    }
                    // After an error of the store it may not be known what the log says: nothing is to be made from that.
                    if compactor.state().last_seq().is_none() {
                        continue;
                    }
                    let Some(ready) = derived.take() else { continue };
                    let (ready, done) = derived_pass(ready, compactor.state().clone()).await;
                    derived = ready;
                    match done {
                        Ok(done) if done.is_nothing() => {}
                        Ok(done) => done.told().for_each(|told| tracing::debug!("{told}")),
                        Err(error) => {
                            tracing::warn!(%error, "slabs or indexes could not be made: tried again later");
                        }
                    }
                }
            }
        });
        Ok(Self { stop, wake, task })
    }

    /// Ends it. A pass that is under way comes to where it leaves nothing behind.
    pub(crate) async fn finish(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.wake.notify_one();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the merging of small files has failed");
        }
    }
}
