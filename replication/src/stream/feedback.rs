//! Telling the server how far we are, from a thread of its own: a consumer that is stuck, or a runtime that is busy,
//! must not cost the connection.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use super::StreamOptions;
use super::queue::ByteQueue;
use super::socket::Socket;
use crate::error::{Error, ErrorKind, Result};
use crate::lsn::Lsn;

/// 2000-01-01 in the time of Unix.
const EPOCH_2000: Duration = Duration::from_secs(946_684_800);

/// Where the stream stands, as reader, feedback and their user know it together.
#[derive(Debug)]
pub(super) struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    received: Lsn,
    flushed: Lsn,
    /// The flushed position of the last status sent.
    told: Lsn,
    reply_wanted: bool,
    /// When the server was last heard of, or the reader last had to wait for room.
    heard: Instant,
    /// The reader waits for room in the queue: silence is ours, not the server's.
    blocked: bool,
    /// The server has been given up.
    silent: bool,
    stopping: bool,
    abandoned: bool,
    reader: Reader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Running,
    /// The server has ended the stream as we asked.
    Done,
    Failed,
}

impl Progress {
    pub(super) fn new() -> Self {
        let state = State {
            received: Lsn::ZERO,
            flushed: Lsn::ZERO,
            told: Lsn::ZERO,
            reply_wanted: false,
            heard: Instant::now(),
            blocked: false,
            silent: false,
            stopping: false,
            abandoned: false,
            reader: Reader::Running,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code below can panic with the lock held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reader has a chunk.
    pub(super) fn received(&self, wal_end: Lsn, reply_wanted: bool, blocked: bool) {
        let mut state = self.lock();
        state.received = state.received.max(wal_end);
        state.heard = Instant::now();
        state.blocked = blocked;
        state.reply_wanted |= reply_wanted;
        drop(state);
        if reply_wanted {
            self.changed.notify_all();
        }
    }

    /// The reader reads again.
    pub(super) fn unblocked(&self) {
        let mut state = self.lock();
        state.blocked = false;
        state.heard = Instant::now();
    }

    /// Bytes of a long message have come.
    pub(super) fn heard(&self) {
        self.lock().heard = Instant::now();
    }

    /// The reader has come to an end.
    pub(super) fn reader_ended(&self, well: bool) {
        self.lock().reader = if well { Reader::Done } else { Reader::Failed };
        self.changed.notify_all();
    }

    /// Whether it was us who ended the stream.
    pub(super) fn is_stopping(&self) -> bool {
        let state = self.lock();
        state.stopping || state.abandoned
    }

    /// Whether the server was given up for its silence.
    pub(super) fn is_silent(&self) -> bool {
        self.lock().silent
    }
}

/// The handle through which positions are acknowledged.
///
/// Dropping it without [`Feedback::shutdown`] cuts the connection.
#[derive(Debug)]
pub struct Feedback {
    progress: Arc<Progress>,
    queue: Arc<ByteQueue>,
    /// Told by the thread when it is through; taken by `shutdown`.
    finished: Option<oneshot::Receiver<Result<()>>>,
}

impl Feedback {
    /// Starts the thread.
    pub(super) fn spawn(
        socket: Arc<Socket>,
        progress: Arc<Progress>,
        queue: Arc<ByteQueue>,
        options: &StreamOptions,
        interval: Duration,
    ) -> Result<Self> {
        let (finish, finished) = oneshot::channel();
        let sender = Sender {
            socket,
            progress: Arc::clone(&progress),
            interval,
            silence: options.silence,
            farewell: options.farewell,
        };
        std::thread::Builder::new()
            .name("wal-feedback".to_owned())
            .spawn(move || {
                let result = sender.run();
                sender.socket.close();
                // Nobody waits where the handle was dropped.
                let _ = finish.send(result);
            })
            .map_err(|err| Error::io("a thread cannot be started", &err))?;
        Ok(Self { progress, queue, finished: Some(finished) })
    }

    /// The furthest position that the server has named. It is reported as written, and no promise.
    #[must_use]
    pub fn received(&self) -> Lsn {
        self.progress.lock().received
    }

    /// The acknowledged position.
    #[must_use]
    pub fn flushed(&self) -> Lsn {
        self.progress.lock().flushed
    }

    /// Acknowledges everything before a position, for ever: the server may throw its WAL away. It is told at once.
    /// The position never moves back: one that lies before is passed over.
    pub fn set_flushed(&self, position: Lsn) {
        let mut state = self.progress.lock();
        if position > state.flushed {
            state.flushed = position;
            drop(state);
            self.progress.changed.notify_all();
        }
    }

    /// Acknowledges for a last time, ends the stream and closes the connection. What is still queued, and what the
    /// server still sends, is dropped; [`super::WalStream::next`] gives `None`.
    ///
    /// # Errors
    /// The connection was lost before, or the server did not end the stream in time ([`StreamOptions::farewell`]): it is
    /// not certain then that the last acknowledgement has reached it.
    pub async fn shutdown(mut self) -> Result<()> {
        match self.stop() {
            Some(finished) => finished.await.unwrap_or_else(|_| Err(Error::closed())),
            None => Ok(()),
        }
    }

    /// [`Feedback::shutdown`] for a plain thread. Not for use inside a runtime.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_shutdown(mut self) -> Result<()> {
        match self.stop() {
            Some(finished) => finished.blocking_recv().unwrap_or_else(|_| Err(Error::closed())),
            None => Ok(()),
        }
    }

    fn stop(&mut self) -> Option<oneshot::Receiver<Result<()>>> {
        self.progress.lock().stopping = true;
        self.queue.discard();
        self.progress.changed.notify_all();
        self.finished.take()
    }
}

impl Drop for Feedback {
    fn drop(&mut self) {
        if self.finished.is_some() {
            self.progress.lock().abandoned = true;
            self.queue.discard();
            self.progress.changed.notify_all();
        }
    }
}

/// What the thread does next.
enum Step {
    Status { received: Lsn, flushed: Lsn, ping: bool },
    Stop { received: Lsn, flushed: Lsn },
    GiveUp(Result<()>),
}

struct Sender {
    socket: Arc<Socket>,
    progress: Arc<Progress>,
    interval: Duration,
    silence: Duration,
    farewell: Duration,
}

impl Sender {
    fn run(&self) -> Result<()> {
        let failed = |err: io::Error| Error::io("sending to the server", &err);
        let mut last = Instant::now();
        loop {
            match self.wait(last) {
                Step::GiveUp(result) => return result,
                Step::Status { received, flushed, ping } => {
                    last = Instant::now();
                    self.socket.write(&status(received, flushed, ping)).map_err(failed)?;
                }
                Step::Stop { received, flushed } => {
                    let mut message = status(received, flushed, false).to_vec();
                    // CopyDone.
                    message.extend([b'c', 0, 0, 0, 4]);
                    self.socket.write(&message).map_err(failed)?;
                    return self.await_end();
                }
            }
        }
    }

    fn wait(&self, last: Instant) -> Step {
        let mut state = self.progress.lock();
        loop {
            if state.abandoned {
                return Step::GiveUp(Ok(()));
            }
            if state.reader != Reader::Running {
                // The stream has told its user why.
                return Step::GiveUp(Err(Error::closed()));
            }
            let (received, flushed) = (state.received.max(state.flushed), state.flushed);
            if state.stopping {
                return Step::Stop { received, flushed };
            }
            let now = Instant::now();
            let quiet =
                if state.blocked { Duration::ZERO } else { now.saturating_duration_since(state.heard) };
            if quiet >= self.silence {
                state.silent = true;
                return Step::GiveUp(Err(silence(self.silence)));
            }
            let due = last + self.interval;
            if state.reply_wanted || state.flushed > state.told || now >= due {
                state.reply_wanted = false;
                state.told = flushed;
                return Step::Status { received, flushed, ping: quiet >= self.silence / 2 };
            }
            let pause = due.saturating_duration_since(now);
            state =
                self.progress.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the reader to see the server's `CopyDone`.
    fn await_end(&self) -> Result<()> {
        let deadline = Instant::now() + self.farewell;
        let mut state = self.progress.lock();
        loop {
            match state.reader {
                Reader::Done => break,
                Reader::Failed => return Err(Error::closed()),
                Reader::Running => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    "ending the stream",
                    format_args!("the server did not end it within {:?}", self.farewell),
                ));
            }
            state = self.progress.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        // Terminate. The server has ended the stream: nothing depends on this any more.
        let _ = self.socket.write(&[b'X', 0, 0, 0, 4]);
        Ok(())
    }
}

/// The error of a server that says nothing any more.
pub(super) fn silence(after: Duration) -> Error {
    Error::new(
        ErrorKind::Timeout,
        "connection lost",
        format_args!("no word from the server for {after:?}, though it was asked"),
    )
}

/// A `Standby status update` in a `CopyData` message.
fn status(received: Lsn, flushed: Lsn, ping: bool) -> [u8; 39] {
    // A clock before 2000 tells the server nothing worse than a wrong time.
    let now = SystemTime::now().duration_since(UNIX_EPOCH + EPOCH_2000).unwrap_or_default();
    let now = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
    let mut message = [0; 39];
    let parts: [&[u8]; 6] = [
        &[b'd', 0, 0, 0, 38, b'r'],
        &received.0.to_be_bytes(),
        &flushed.0.to_be_bytes(),
        // Applied: the same.
        &flushed.0.to_be_bytes(),
        &now.to_be_bytes(),
        &[u8::from(ping)],
    ];
    for (slot, byte) in message.iter_mut().zip(parts.into_iter().flatten()) {
        *slot = *byte;
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_laid_out_as_the_manual_says() {
        let message = status(Lsn(0x0102), Lsn(0x0304), true);
        assert_eq!(message[..6], [b'd', 0, 0, 0, 38, b'r']);
        assert_eq!(message[6..14], 0x0102_u64.to_be_bytes());
        assert_eq!(message[14..22], 0x0304_u64.to_be_bytes());
        assert_eq!(message[22..30], 0x0304_u64.to_be_bytes());
        assert!(i64::from_be_bytes(message[30..38].try_into().unwrap()) > 800_000_000_000_000);
        assert_eq!(message[38], 1);
    }
}
