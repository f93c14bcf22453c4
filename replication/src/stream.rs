//! The replication stream: `START_REPLICATION`, read by one thread and answered by another.
//!
//! The walsender sends one small packet per row change. A receiver that wakes for each of them costs more than the
//! decoding of the change, and slows the sender down; so the reading thread lets data gather while the server is busy
//! and takes it in large gulps, and reads at once when the stream was idle. What it reads goes through a queue that is
//! bounded in bytes; when that is full, reading stops, the server waits, and feedback goes on.

mod chunk;
mod feedback;
mod queue;
mod socket;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

pub use chunk::{WalChunk, WalMessage, WalMessages};
pub use feedback::Feedback;

use crate::error::{Error, Result};
use crate::frame::{
    self, Frame, HEADER, Header, TAG_COMMAND_COMPLETE, TAG_COPY_BOTH, TAG_COPY_DATA, TAG_COPY_DONE,
    TAG_ERROR, TAG_NOTICE, TAG_PARAMETER, TAG_READY,
};
use crate::wire::{Connection, log_notice, server_error};
use feedback::Progress;
use queue::ByteQueue;
use socket::{Socket, SocketReader};

/// Room for one gulp.
const GULP: usize = 1024 * 1024;

/// How long data gathers before a busy TCP stream is read again.
///
/// Measured (PostgreSQL 15, 2 cores, loopback, 0.6 M row changes in transactions of 6, 217 MB, machine otherwise idle):
/// reading at once 10.4 s and 8 s of processor time in the receiver (0.5 M wake-ups); 500 µs 2.7 s; 1 ms 2.6 s and 0.13 s
/// of processor time; 4 ms no faster, with twice the delay. `pg_recvlogical` takes 6.1 s. A larger `SO_RCVBUF` (2 MiB)
/// changed nothing, and a fixed one would end the kernel's own tuning, which far servers need.
const GATHER_TCP: Duration = Duration::from_millis(1);

/// The same for a Unix-domain socket, whose small packets fill the sender's buffer after some 200 of them: 1 ms holds the
/// sender up (5.2 s), 100 to 500 µs do not (2.9 s), reading at once takes 3.8 s, `pg_recvlogical` 3.9 s.
const GATHER_UNIX: Duration = Duration::from_micros(250);

/// The longest time between two statuses.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// How a stream is read.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// Bytes that may wait in the queue for the consumer. One message may be longer; it then waits alone.
    pub queue_bytes: usize,
    /// How long data may gather between two reads of a busy stream; the default suits the socket (TCP 1 ms, Unix-domain
    /// 250 µs).
    pub gather: Option<Duration>,
    /// The longest time between two statuses; the default is a third of the server's `wal_sender_timeout`, at most 5 s.
    pub status_interval: Option<Duration>,
    /// How long the server may say nothing before it counts as gone. Halfway it is asked for a sign of life.
    pub silence: Duration,
    /// How long [`Feedback::shutdown`] waits for the server to end the stream.
    pub farewell: Duration,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            queue_bytes: 32 * 1024 * 1024,
            gather: None,
            status_interval: None,
            // Decoding of a huge transaction can keep a walsender from answering for minutes.
            silence: Duration::from_secs(300),
            farewell: Duration::from_secs(5),
        }
    }
}

impl Connection {
    /// Starts a stream with a `START_REPLICATION SLOT … LOGICAL …` command, on a connection in replication mode.
    ///
    /// # Errors
    /// The server's: 55006 while another connection reads the slot, 42704 where there is no such slot, 55000 where the
    /// slot has lost its WAL.
    pub async fn start_replication(self, sql: &str) -> Result<(WalStream, Feedback)> {
        self.start_replication_with(sql, &StreamOptions::default()).await
    }

    /// [`Connection::start_replication`] with options.
    ///
    /// # Errors
    /// As there.
    pub async fn start_replication_with(
        mut self,
        sql: &str,
        options: &StreamOptions,
    ) -> Result<(WalStream, Feedback)> {
        let interval = match options.status_interval {
            Some(interval) => interval,
            None => status_interval(self.wal_sender_timeout().await?),
        };
        self.start(sql).await?;
        let frame = self.next().await?;
        match frame.tag {
            TAG_COPY_BOTH => {}
            TAG_ERROR => return Err(server_error("the server refused to stream", &frame)),
            _ => return Err(frame.unexpected("the start of the stream")),
        }

        let (io, frames) = self.into_parts();
        let socket = Arc::new(Socket::new(io.into_transport())?);
        let progress = Arc::new(Progress::new());
        let queue = Arc::new(ByteQueue::new(options.queue_bytes));
        let feedback = Feedback::spawn(
            Arc::clone(&socket),
            Arc::clone(&progress),
            Arc::clone(&queue),
            options,
            interval,
        )?;
        let gather = options.gather.unwrap_or(if socket.is_unix() { GATHER_UNIX } else { GATHER_TCP });
        let reader = Reader {
            socket: SocketReader::new(socket),
            buffer: vec![0; GULP],
            filled: 0,
            gather,
            silence: options.silence,
            queue: Arc::clone(&queue),
            progress,
            done: false,
        };
        reader.spawn(frames.into_rest())?;
        Ok((WalStream { queue }, feedback))
    }

    /// `wal_sender_timeout`; zero where the server has none.
    async fn wal_sender_timeout(&mut self) -> Result<Duration> {
        let rows = self
            .simple_query("select setting from pg_catalog.pg_settings where name = 'wal_sender_timeout'")
            .await?;
        let milliseconds = rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
        Ok(Duration::from_millis(milliseconds.unwrap_or(0)))
    }
}

fn status_interval(wal_sender_timeout: Duration) -> Duration {
    if wal_sender_timeout.is_zero() {
        return STATUS_INTERVAL;
    }
    (wal_sender_timeout / 3).clamp(Duration::from_millis(10), STATUS_INTERVAL)
}

/// The chunks of a stream, in order.
///
/// Dropping it does not end the stream: [`Feedback`] does.
#[derive(Debug)]
pub struct WalStream {
    queue: Arc<ByteQueue>,
}

/// Nothing came within the time allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing came within the time allowed")]
pub struct Elapsed;

impl WalStream {
    /// The next chunk; an error once, at the end; `None` after it, and after [`Feedback::shutdown`]. A future that is
    /// dropped loses nothing.
    pub async fn next(&mut self) -> Option<Result<WalChunk>> {
        self.queue.next().await
    }

    /// [`WalStream::next`] for a plain thread.
    pub fn blocking_next(&mut self) -> Option<Result<WalChunk>> {
        self.queue.blocking_next(None).flatten()
    }

    /// [`WalStream::blocking_next`] with a limit.
    ///
    /// # Errors
    /// The time was over first.
    pub fn blocking_next_timeout(&mut self, limit: Duration) -> Result<Option<Result<WalChunk>>, Elapsed> {
        self.queue.blocking_next(Some(Instant::now() + limit)).ok_or(Elapsed)
    }
}

impl Drop for WalStream {
    fn drop(&mut self) {
        self.queue.discard();
    }
}

struct Reader {
    socket: SocketReader,
    /// What was read and not yet cut into messages: its first `filled` bytes.
    buffer: Vec<u8>,
    filled: usize,
    gather: Duration,
    silence: Duration,
    queue: Arc<ByteQueue>,
    progress: Arc<Progress>,
    /// The server has sent `CopyDone`.
    done: bool,
}

impl Reader {
    fn spawn(mut self, rest: BytesMut) -> Result<()> {
        // What came with the answer to START_REPLICATION; never longer than a gulp unless a message is.
        if rest.len() > self.buffer.len() {
            self.buffer.resize(rest.len(), 0);
        }
        self.append(&rest);
        thread::Builder::new()
            .name("wal-reader".to_owned())
            .spawn(move || {
                let result = self.run();
                let stopping = self.progress.is_stopping();
                self.progress.reader_ended(result.is_ok());
                self.queue.end(result.err().filter(|_| !stopping));
            })
            .map_err(|err| Error::io("a thread cannot be started", &err))?;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) {
        for (slot, byte) in self.buffer.iter_mut().skip(self.filled).zip(bytes) {
            *slot = *byte;
        }
        self.filled = self.filled.saturating_add(bytes.len()).min(self.buffer.len());
    }

    /// Reads to the end of the stream. Ends well only where we have ended it.
    fn run(&mut self) -> Result<()> {
        loop {
            let run = frame::copy_data_run(self.buffer.get(..self.filled).unwrap_or_default())?;
            if run.length > 0 {
                // One copy per gulp, so that a chunk holds no more memory than its messages need.
                let bytes = Bytes::copy_from_slice(self.buffer.get(..run.length).unwrap_or_default());
                self.consume(run.length);
                self.deliver(bytes)?;
            }
            match run.next {
                Some(header) if header.total > self.buffer.len() => {
                    if header.tag != TAG_COPY_DATA {
                        return Err(Error::protocol(format_args!("a message of {} bytes", header.total)));
                    }
                    self.long_message(header)?;
                    continue;
                }
                Some(header) if header.total <= self.filled => {
                    let whole = Bytes::copy_from_slice(self.buffer.get(..header.total).unwrap_or_default());
                    self.consume(header.total);
                    if self.control(&Frame { tag: header.tag, body: whole.slice(HEADER..), whole })? {
                        return Ok(());
                    }
                    continue;
                }
                _ => {}
            }
            // Half of the buffer full: there is more at hand, and the server may be waiting for room. Else let data
            // gather, once something came. The first read after a pause of the server waits in `read` and is handed on
            // without delay.
            if run.length > 0 && run.length < GULP / 2 && !self.gather.is_zero() {
                thread::sleep(self.gather);
            }
            self.read()?;
        }
    }

    fn consume(&mut self, length: usize) {
        self.buffer.copy_within(length.min(self.filled)..self.filled, 0);
        self.filled = self.filled.saturating_sub(length);
    }

    fn read(&mut self) -> Result<()> {
        let count = self.socket.read(self.buffer.get_mut(self.filled..).unwrap_or_default());
        let count = self.received(count)?;
        self.filled = self.filled.saturating_add(count);
        Ok(())
    }

    fn received(&self, count: std::io::Result<usize>) -> Result<usize> {
        match count {
            _ if self.progress.is_silent() => Err(feedback::silence(self.silence)),
            Ok(0) => Err(Error::closed()),
            Ok(count) => Ok(count),
            Err(err) => Err(Error::io("reading from the server", &err)),
        }
    }

    /// Reads a message that is longer than the buffer into memory of its own.
    fn long_message(&mut self, header: Header) -> Result<()> {
        let mut message = vec![0; header.total];
        let (start, mut rest) = message.split_at_mut_checked(self.filled).unwrap_or_default();
        start.copy_from_slice(self.buffer.get(..self.filled).unwrap_or_default());
        self.filled = 0;
        while !rest.is_empty() {
            let count = self.socket.read(rest);
            let count = self.received(count)?;
            self.progress.heard();
            rest = rest.split_at_mut_checked(count).unwrap_or_default().1;
        }
        self.deliver(message.into())
    }

    fn deliver(&mut self, run: Bytes) -> Result<()> {
        let chunk = WalChunk::new(run)?;
        let blocked = self.queue.is_full(chunk.size());
        self.progress.received(chunk.wal_end(), chunk.reply_requested(), blocked);
        self.queue.push(chunk);
        if blocked {
            self.progress.unblocked();
        }
        Ok(())
    }

    /// A message that is not of the stream; true at the end of it.
    fn control(&mut self, frame: &Frame) -> Result<bool> {
        match frame.tag {
            TAG_ERROR => Err(server_error("the server ended the stream", frame)),
            TAG_NOTICE => {
                log_notice(frame);
                Ok(false)
            }
            TAG_PARAMETER => Ok(false),
            TAG_COPY_DONE => {
                self.done = true;
                Ok(false)
            }
            // A walsender that shuts down ends the command without a CopyDone, then closes.
            TAG_COMMAND_COMPLETE => Ok(false),
            TAG_READY if self.done && self.progress.is_stopping() => Ok(true),
            TAG_READY => Err(Error::closed()),
            _ => Err(frame.unexpected("the stream")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_come_thrice_in_the_time_that_the_server_allows() {
        for (timeout, interval) in [(60_000, 5000), (2000, 666), (0, 5000), (1, 10)] {
            assert_eq!(status_interval(Duration::from_millis(timeout)).as_millis(), interval);
        }
    }
}
