//! `bygone compact`, and the merging of files beside a capture.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bygone_sink::compaction::{Compactor, Done, Policy};
use bygone_sink::failpoint;
use bygone_sink::history::History;
use bygone_sink::log::LogState;
use bygone_sink::slabs::{self, Slabber};
use bygone_sink::store::{Location, Store, StoreOptions};

use tokio::sync::Notify;

use crate::cli::{Compact, Merging};
use crate::error::{Error, Result};
use crate::query::sheet::Cell;

/// The policy that the command line asks for.
pub(crate) fn policy(merging: Merging) -> Policy {
    Policy { target_bytes: merging.compact_size, grace: merging.grace, ..Policy::default() }
}

/// How slabs are made, if they are.
pub(crate) fn slab_policy(merging: Merging) -> Option<slabs::Policy> {
    let policy = slabs::Policy { least: merging.slab_rows, ..slabs::Policy::default() };
    (!merging.no_slabs).then_some(policy)
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
    if let Some(policy) = slab_policy(arguments.merging) {
        let slabber = Slabber::new(store, policy, Arc::new(AtomicBool::new(false)));
        let (_, made) = slab_pass(slabber, compactor.state().clone()).await;
        eprintln!("bygone: {}", slabs_told(&made?));
    }
    Ok(())
}

fn slabs_told(done: &slabs::Done) -> String {
    format!("{} slabs were made ({} rows, {})", done.slabs, done.rows, Cell::bytes(done.bytes).text())
}

/// A pass on a thread that it may keep busy.
async fn slab_pass(mut slabber: Slabber, log: LogState) -> (Option<Slabber>, Result<slabs::Done>) {
    let runtime = tokio::runtime::Handle::current();
    let task = tokio::task::spawn_blocking(move || {
        let done = runtime.block_on(slabber.pass(&log));
        (slabber, done)
    });
    match task.await {
        Ok((slabber, done)) => (Some(slabber), done.map_err(Into::into)),
        Err(error) => (None, Err(Error::other(format!("the making of slabs has failed: {error}")))),
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
        store: Store,
        state: LogState,
        policy: Policy,
        slabs: Option<slabs::Policy>,
        every: Duration,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let wake = Arc::new(Notify::new());
        let mut slabber = slabs.map(|policy| Slabber::new(store.clone(), policy, Arc::clone(&stop)));
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
                        }
                    }
                    let Some(ready) = slabber.take() else { continue };
                    let (ready, made) = slab_pass(ready, compactor.state().clone()).await;
                    slabber = ready;
                    match made {
                        Ok(done) if done == slabs::Done::default() => {}
                        Ok(done) => tracing::debug!("{}", slabs_told(&done)),
                        Err(error) => tracing::warn!(%error, "a slab could not be made: tried again later"),
                    }
                }
            }
        });
        Self { stop, wake, task }
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
