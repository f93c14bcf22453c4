//! Whole transactions out of the stream.
//!
//! A fact carries the end of its transaction's commit record, which only the last message tells [7]; so changes wait
//! until they have all been seen. What does not fit into memory waits in a file.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bygone_replication::Lsn;
use bygone_replication::pgoutput::{Begin, Commit, Message, POSTGRES_EPOCH_US};
use bygone_replication::stream::{WalChunk, WalMessage};
use bygone_sink::failpoint;
use bytes::Bytes;

use crate::error::{Error, Result};
use crate::metrics::Metrics;

/// What came out of a chunk.
pub(crate) trait Assembled {
    /// A whole transaction.
    fn transaction(&mut self, transaction: &mut Transaction<'_>) -> Result<()>;
    /// The server has nothing more up to here, and no transaction is open.
    fn quiet_until(&mut self, wal_end: Lsn, sent_at: i64) -> Result<()>;
}

/// A transaction with all its messages.
pub(crate) struct Transaction<'a> {
    pub(crate) begin: Begin,
    pub(crate) commit: Commit,
    /// When the server sent its end: microseconds since the Unix epoch, by the server's clock.
    pub(crate) sent_at: i64,
    spool: Option<&'a mut Spool>,
    kept: &'a [Bytes],
    here: &'a [&'a [u8]],
}

impl Transaction<'_> {
    /// Gives each message between Begin and Commit, in order.
    pub(crate) fn for_each(&mut self, mut work: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if let Some(spool) = &mut self.spool {
            spool.read_back(&mut work)?;
        }
        for body in self.kept {
            work(body)?;
        }
        for body in self.here {
            work(body)?;
        }
        Ok(())
    }
}

/// Gathers the messages of the transaction that is being received.
#[derive(Debug)]
pub(crate) struct Assembler {
    directory: PathBuf,
    memory: usize,
    metrics: Arc<Metrics>,
    open: Option<Begin>,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    spool: Option<Spool>,
}

impl Assembler {
    /// Transactions larger than `memory` bytes wait in a file in `directory`, of which the metrics tell.
    pub(crate) fn new(directory: &Path, memory: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            directory: directory.to_owned(),
            memory,
            metrics,
            open: None,
            kept: Vec::new(),
            kept_bytes: 0,
            spool: None,
        }
    }

    /// Forgets the transaction that is being received: the connection was lost, and it will come again.
    pub(crate) fn reset(&mut self) {
        self.open = None;
        self.kept.clear();
        self.kept_bytes = 0;
        self.spool = None;
    }

    /// Takes what was received.
    pub(crate) fn push(&mut self, chunk: &WalChunk, to: &mut impl Assembled) -> Result<()> {
        let mut here: Vec<&[u8]> = Vec::new();
        for message in chunk.messages() {
            match message {
                WalMessage::Data { body, sent_at, .. } => match (body.first(), self.open) {
                    (Some(b'B'), _) => {
                        let Message::Begin(begin) = Message::decode(body)? else { continue };
                        self.reset();
                        here.clear();
                        self.open = Some(begin);
                    }
                    (Some(b'C'), Some(begin)) => {
                        let Message::Commit(commit) = Message::decode(body)? else { continue };
                        let mut transaction = Transaction {
                            begin,
                            commit,
                            sent_at: sent_at.saturating_add(POSTGRES_EPOCH_US),
                            spool: self.spool.as_mut(),
                            kept: &self.kept,
                            here: &here,
                        };
                        to.transaction(&mut transaction)?;
                        if let Some(spool) = &self.spool {
                            let bytes = spool.bytes;
                            tracing::info!(
                                xid = begin.xid,
                                bytes,
                                "the large transaction is taken: its file goes"
                            );
                        }
                        self.reset();
                        here.clear();
                    }
                    (Some(_), Some(_)) => here.push(body),
                    // Messages outside transactions (a non-transactional logical message) bring no facts.
                    _ => {}
                },
                WalMessage::Keepalive { wal_end, sent_at, .. } if self.open.is_none() => {
                    to.quiet_until(wal_end, sent_at.saturating_add(POSTGRES_EPOCH_US))?;
                }
                WalMessage::Keepalive { .. } => {}
            }
        }
        if self.open.is_some() {
            for body in here {
                self.kept_bytes += body.len() + size_of::<Bytes>();
                self.kept.push(chunk.keep(body));
            }
            if self.kept_bytes > self.memory {
                self.spill()?;
            }
        }
        Ok(())
    }

    fn spill(&mut self) -> Result<()> {
        let spool = match &mut self.spool {
            Some(spool) => spool,
            None => {
                let spool = Spool::create(&self.directory, Arc::clone(&self.metrics))?;
                let (xid, directory) = (self.open.map(|begin| begin.xid), self.directory.display());
                tracing::info!(xid, %directory, "a large transaction waits in a file until all of it has come");
                self.spool.insert(spool)
            }
        };
        for body in self.kept.drain(..) {
            spool.write(&body)?;
        }
        spool.gauge();
        self.kept_bytes = 0;
        failpoint::hit("spool.after_write")?;
        Ok(())
    }
}

/// A file that holds messages, each after its length; it has no name and goes with the process.
#[derive(Debug)]
pub(crate) struct Spool {
    directory: PathBuf,
    file: BufWriter<File>,
    messages: u64,
    bytes: u64,
    metrics: Arc<Metrics>,
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.metrics.spilled.store(0, Ordering::Relaxed);
    }
}

impl Spool {
    fn create(directory: &Path, metrics: Arc<Metrics>) -> Result<Self> {
        let file = tempfile::tempfile_in(directory).map_err(|error| unwritable(directory, &error))?;
        Ok(Self {
            directory: directory.to_owned(),
            file: BufWriter::with_capacity(1 << 20, file),
            messages: 0,
            bytes: 0,
            metrics,
        })
    }

    fn gauge(&self) {
        self.metrics.spilled.store(self.bytes, Ordering::Relaxed);
    }

    fn write(&mut self, body: &[u8]) -> Result<()> {
        let length =
            u32::try_from(body.len()).map_err(|_| Error::other("a message of the stream is over 4 GiB"))?;
        self.file
            .write_all(&length.to_le_bytes())
            .and_then(|()| self.file.write_all(body))
            .map_err(|error| unwritable(&self.directory, &error))?;
        self.messages += 1;
        self.bytes += u64::from(length) + size_of_val(&length) as u64;
        Ok(())
    }

    fn read_back(&mut self, work: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let failed = |directory: &Path, error: &std::io::Error| {
            Error::other(format!(
                "cannot read back a large transaction from {}: {error}",
                directory.display()
            ))
        };
        self.file.flush().map_err(|error| unwritable(&self.directory, &error))?;
        let file = self.file.get_mut();
        file.seek(SeekFrom::Start(0)).map_err(|error| failed(&self.directory, &error))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut body = Vec::new();
        for _ in 0..self.messages {
            let mut length = [0; 4];
            reader.read_exact(&mut length).map_err(|error| failed(&self.directory, &error))?;
            body.resize(u32::from_le_bytes(length) as usize, 0);
            reader.read_exact(&mut body).map_err(|error| failed(&self.directory, &error))?;
            work(&body)?;
        }
        Ok(())
    }
}

fn unwritable(directory: &Path, error: &std::io::Error) -> Error {
    Error::other(format!(
        "cannot write a large transaction to {}: {error}; give --state a directory with more room",
        directory.display()
    ))
}
