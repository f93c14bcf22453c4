//! How far a first copy is: a bar on a terminal, log lines elsewhere.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::screen;

/// How often a log line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The progress of a copy, by the bytes of the tables' files that have been read.
#[derive(Debug)]
pub(crate) struct CopyProgress {
    bar: Option<ProgressBar>,
    /// When the snapshot was taken that the source keeps for as long: vacuum removes no row that is younger.
    taken: Instant,
    begun: Instant,
    last_line: Mutex<Instant>,
    rows: AtomicU64,
    received: AtomicU64,
    done: AtomicU64,
    total: u64,
}

impl CopyProgress {
    /// Begins: so many pieces, of so many bytes on the source's disk, as of a snapshot that was taken then.
    pub(crate) fn start(pieces: usize, total: u64, taken: Instant) -> Self {
        let style = ProgressStyle::with_template("snapshot {bar:30} {bytes}/{total_bytes} {msg} eta {eta}");
        let bar = ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let bar = screen::bar(bar);
        if bar.is_none() {
            tracing::info!(pieces, bytes = total, "snapshot begins");
        }
        let now = Instant::now();
        Self {
            bar,
            taken,
            begun: now,
            last_line: Mutex::new(now),
            rows: AtomicU64::new(0),
            received: AtomicU64::new(0),
            done: AtomicU64::new(0),
            total,
        }
    }

    /// More was received.
    pub(crate) fn read(&self, rows: u64, bytes: u64) {
        let rows = self.rows.fetch_add(rows, Ordering::Relaxed) + rows;
        self.received.fetch_add(bytes, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            let age = self.taken.elapsed().as_secs();
            bar.set_message(format!("{rows} rows, {:.0}/s, snapshot {age} s old", self.rate(rows)));
            return;
        }
        let mut last = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            let done = self.done.load(Ordering::Relaxed);
            tracing::info!(
                rows,
                rows_per_second = self.rate(rows),
                bytes = done,
                of = self.total,
                age_seconds = self.taken.elapsed().as_secs(),
                "snapshot"
            );
        }
    }

    /// A piece is durable.
    pub(crate) fn piece_done(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    /// All is done, or given up.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let rows = self.rows.load(Ordering::Relaxed);
        let seconds = self.begun.elapsed().as_secs_f64();
        let age_seconds = self.taken.elapsed().as_secs_f64();
        tracing::info!(rows, seconds, rows_per_second = self.rate(rows), age_seconds, "snapshot read");
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn rate(&self, rows: u64) -> f64 {
        (rows as f64 / self.begun.elapsed().as_secs_f64().max(0.001)).round()
    }
}
