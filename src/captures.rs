//! Several captures of a file in one process.
//!
//! Each has a runtime of its own, all threads of which are in the capture's span: so every line of the log says whose it is, and
//! none has to wait for another's threads. What becomes of one is nothing to the others; a source that cannot be reached when its
//! capture begins is waited for, since no supervisor starts a process again that goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bygone_replication::backoff::Backoff;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tracing::Span;

use crate::capture;
use crate::cli::Run;
use crate::error::{Error, Result};

/// A try that went on for longer was no failure at the start: the next pause is a short one again.
const WELL_BEGUN: Duration = Duration::from_secs(300);
/// How long threads of a try are waited for that has failed, before the next: they may hold the state directory.
const LEFT_OVER: Duration = Duration::from_secs(10);
/// How soon a signal ends a pause.
const STEP: Duration = Duration::from_millis(50);

/// Runs captures until each has come to its end; tells whether all ended well. One that fails says so at once.
pub(crate) fn run(runs: Vec<Run>) -> Result<bool> {
    let cannot = |error: std::io::Error| Error::other(format!("cannot start: {error}"));
    let signals = Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(cannot)?;
    let stopping = Arc::new(AtomicBool::new(false));
    watch_signals(&signals, &stopping).map_err(cannot)?;
    let mut threads = Vec::new();
    for run in runs {
        let stopping = Arc::clone(&stopping);
        let thread = std::thread::Builder::new().name("capture".to_owned());
        threads.push(thread.spawn(move || keep(&run, &stopping)).map_err(cannot)?);
    }
    // A panic has ended the process.
    let ended: Vec<bool> = threads.into_iter().map(|thread| thread.join().unwrap_or(false)).collect();
    signals.shutdown_background();
    Ok(ended.into_iter().all(|well| well))
}

/// A capture that is not at work hears of signals from here.
fn watch_signals(runtime: &Runtime, stopping: &Arc<AtomicBool>) -> std::io::Result<()> {
    let _entered = runtime.enter();
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let (mut signals, stopping) = (signal(kind)?, Arc::clone(stopping));
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                stopping.store(true, Ordering::SeqCst);
            }
        });
    }
    Ok(())
}

/// Runs a capture, and again where its source could not be reached; tells whether it ended well.
fn keep(run: &Run, stopping: &Arc<AtomicBool>) -> bool {
    // At the level of errors, for lines of any level are to have it.
    let span = tracing::error_span!("run", capture = %run.captured.name);
    let _entered = span.enter();
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    loop {
        let began = Instant::now();
        let Err(error) = attempt(run.clone(), &span, stopping) else { return true };
        // Until it is current, whoever started it waits for its end.
        if !error.is_lost_source() || run.until_current {
            tracing::error!("{error}");
            return false;
        }
        if began.elapsed() > WELL_BEGUN {
            backoff.reset();
        }
        let stopped = || stopping.load(Ordering::SeqCst);
        if !stopped() {
            let pause = backoff.next_pause();
            tracing::warn!(%error, pause = pause.as_secs_f64(), "not begun, and tried again");
            let until = Instant::now() + pause;
            while Instant::now() < until && !stopped() {
                std::thread::sleep(STEP);
            }
        }
        if stopped() {
            tracing::info!(%error, "stopped before the source could be reached");
            return true;
        }
    }
}

fn attempt(run: Run, span: &Span, stopping: &Arc<AtomicBool>) -> Result<()> {
    let mut options = crate::options(run)?;
    options.stopping = Some(Arc::clone(stopping));
    let theirs = span.clone();
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        // For as long as the thread goes on.
        .on_thread_start(move || std::mem::forget(theirs.clone().entered()))
        .build()
        .map_err(|error| Error::other(format!("cannot start: {error}")))?;
    let ended = runtime.block_on(Box::pin(capture::run(options)));
    if ended.as_ref().is_err_and(Error::is_lost_source) {
        runtime.shutdown_timeout(LEFT_OVER);
    } else {
        // Threads that wait for a connection need not be waited for.
        runtime.shutdown_background();
    }
    ended
}
