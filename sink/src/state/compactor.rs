//! The background thread that merges files.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Writer;
use super::directory::Directory;
use super::error::{Result, StateErrorKind};
use super::tree::Tree;

/// After so long without a write there is time to pack what was left as it is.
const IDLE: Duration = Duration::from_secs(60);
/// A merge that takes longer than this does not hold up the end of the process, which is free to end it.
const PATIENCE: Duration = Duration::from_secs(3);

/// The background thread and what it has to look at.
#[derive(Debug)]
pub(super) struct Compactor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    trees: VecDeque<Tree>,
    busy: bool,
    stop: bool,
    stopped: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Compactor {
    /// Starts the thread. `writer` is taken for a moment before each merge.
    pub(super) fn start(
        rows: Tree,
        writer: Arc<Mutex<Writer>>,
        directory: Arc<Directory>,
    ) -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let merging = Merging { rows, writer, directory };
        let theirs = shared.clone();
        let span = tracing::Span::current();
        let thread = std::thread::Builder::new().name("state-merge".into()).spawn(move || {
            let _entered = span.entered();
            merging.run(&theirs);
            drop(merging);
            theirs.queue().stopped = true;
            theirs.changed.notify_all();
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Has the thread look at a tree that was written to.
    pub(super) fn look_at(&self, tree: &Tree) {
        let mut queue = self.shared.queue();
        if !queue.trees.iter().any(|queued| queued.is_same(tree)) {
            queue.trees.push_back(tree.clone());
            self.shared.changed.notify_all();
        }
    }

    /// Waits until there is nothing left to do.
    pub(super) fn wait(&self) {
        let idle = |queue: &mut Queue| !queue.stopped && (queue.busy || !queue.trees.is_empty());
        drop(self.shared.changed.wait_while(self.shared.queue(), idle));
    }

    /// Ends the thread once the merge at hand, if any, is done. A long one goes on without being waited for: it keeps
    /// the directory's lock, and may be cut off at any point.
    pub(super) fn stop(&mut self) {
        let mut queue = self.shared.queue();
        queue.stop = true;
        queue.trees.clear();
        self.shared.changed.notify_all();
        let waited = self.shared.changed.wait_timeout_while(queue, PATIENCE, |queue| !queue.stopped);
        let stopped = waited.is_ok_and(|(queue, _)| queue.stopped);
        if let Some(thread) = self.thread.take()
            && stopped
            && thread.join().is_err()
        {
            tracing::warn!("the thread that merges the state's files panicked");
        }
    }
}

/// What the thread works with.
struct Merging {
    rows: Tree,
    writer: Arc<Mutex<Writer>>,
    /// Held for its lock: no other process may open the store while a merge is under way.
    directory: Arc<Directory>,
}

impl Merging {
    fn run(&self, shared: &Shared) {
        let mut unpacked = true;
        let mut queue = shared.queue();
        while !queue.stop {
            let tree = queue.trees.pop_front();
            if tree.is_none() {
                let idle = |queue: &mut Queue| queue.trees.is_empty() && !queue.stop;
                if !unpacked {
                    queue = shared.changed.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                let waited = shared.changed.wait_timeout_while(queue, IDLE, idle);
                let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                queue = guard;
                if !timeout.timed_out() {
                    continue;
                }
            }
            queue.busy = true;
            drop(queue);
            let more = match &tree {
                Some(tree) => self.report(tree.compact(self.watermark(tree))),
                None => {
                    self.report(self.rows.pack(self.watermark(&self.rows)));
                    false
                }
            };
            unpacked = tree.is_some();
            queue = shared.queue();
            queue.busy = false;
            if let Some(tree) = tree
                && more
                && !queue.trees.iter().any(|queued| queued.is_same(&tree))
            {
                queue.trees.push_back(tree);
            }
            shared.changed.notify_all();
        }
    }

    /// Scans begin under the writers' lock: one that begins later reads nothing older than this.
    fn watermark(&self, tree: &Tree) -> u64 {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        tree.watermark()
    }

    fn report(&self, result: Result<bool>) -> bool {
        match result {
            Ok(more) => more,
            Err(error) if error.kind() == StateErrorKind::Damaged => {
                tracing::error!(%error, "the state is damaged: reopened, it starts empty");
                self.directory.mark_damaged();
                false
            }
            // A full disk, mostly: nothing is lost, and the next write has it tried again.
            Err(error) => {
                tracing::warn!(%error, "the state's files could not be merged");
                false
            }
        }
    }
}
