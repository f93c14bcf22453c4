//! What a logical walsender sends ("Streaming Replication Protocol" in the PostgreSQL manual).

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::frame::Payloads;
use crate::lsn::Lsn;

const DATA: u8 = b'w';
const KEEPALIVE: u8 = b'k';

/// A gulp of the stream: whole messages, in order, as they came from the socket.
#[derive(Clone, Debug)]
pub struct WalChunk {
    run: Bytes,
    wal_end: Lsn,
    sent_at: i64,
    reply_requested: bool,
}

impl WalChunk {
    /// Takes a run of whole `CopyData` messages, each of which must be one of a walsender's.
    pub(super) fn new(run: Bytes) -> Result<Self> {
        let mut chunk = Self { run: Bytes::new(), wal_end: Lsn::ZERO, sent_at: 0, reply_requested: false };
        for payload in Payloads::new(&run) {
            let message = WalMessage::parse(payload)
                .ok_or_else(|| Error::protocol("a message of the stream is malformed"))?;
            let (wal_end, sent_at) = match message {
                WalMessage::Data { end, sent_at, .. } => (end, sent_at),
                WalMessage::Keepalive { wal_end, sent_at, reply_requested } => {
                    chunk.reply_requested |= reply_requested;
                    (wal_end, sent_at)
                }
            };
            chunk.wal_end = chunk.wal_end.max(wal_end);
            chunk.sent_at = sent_at;
        }
        chunk.run = run;
        Ok(chunk)
    }

    /// The messages, without copying.
    #[must_use]
    pub fn messages(&self) -> WalMessages<'_> {
        WalMessages(Payloads::new(&self.run))
    }

    /// The furthest end of WAL that the server has named in it. Not a position to acknowledge: that of a data message
    /// is the change's own.
    #[must_use]
    pub fn wal_end(&self) -> Lsn {
        self.wal_end
    }

    /// When the server sent the last of the messages: microseconds since 2000-01-01 UTC, by its clock.
    #[must_use]
    pub fn sent_at(&self) -> i64 {
        self.sent_at
    }

    /// Whether the server asked for a status in it. It has been answered; a server that is shutting down goes on asking
    /// until everything it has sent is acknowledged as flushed.
    #[must_use]
    pub fn reply_requested(&self) -> bool {
        self.reply_requested
    }

    /// Bytes in memory, heads of messages included.
    #[must_use]
    pub fn size(&self) -> usize {
        self.run.len()
    }

    /// A part of one of the bodies, to be kept for longer than the chunk. Nothing is copied; the whole chunk stays in
    /// memory for as long as the part does. Bytes that are not from this chunk are copied.
    #[must_use]
    pub fn keep(&self, part: &[u8]) -> Bytes {
        let start = part.as_ptr().addr().checked_sub(self.run.as_ptr().addr());
        match start.and_then(|start| Some(start..start.checked_add(part.len())?)) {
            Some(range) if range.end <= self.run.len() => self.run.slice(range),
            _ => Bytes::copy_from_slice(part),
        }
    }
}

/// The messages of a [`WalChunk`].
#[derive(Clone, Debug)]
pub struct WalMessages<'a>(Payloads<'a>);

impl<'a> Iterator for WalMessages<'a> {
    type Item = WalMessage<'a>;

    #[inline]
    fn next(&mut self) -> Option<WalMessage<'a>> {
        // Each was parsed once already when the chunk was made.
        WalMessage::parse(self.0.next()?)
    }
}

/// One message of the stream. Times are microseconds since 2000-01-01 UTC, by the server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalMessage<'a> {
    /// `XLogData`.
    Data {
        /// Where the change starts in the WAL; 0/0 for messages that stand for no place (relations, types).
        start: Lsn,
        /// The field that the protocol calls the current end of WAL: with logical decoding, the same as `start`.
        end: Lsn,
        /// When it was sent.
        sent_at: i64,
        /// A message of the output plugin.
        body: &'a [u8],
    },
    /// `Primary keepalive message`.
    Keepalive {
        /// How far the server has decoded and sent: everything before it has been seen, if it was for us.
        wal_end: Lsn,
        /// When it was sent.
        sent_at: i64,
        /// The server wanted a status at once. The feedback thread has seen to it.
        reply_requested: bool,
    },
}

impl<'a> WalMessage<'a> {
    /// Reads the content of a `CopyData` message; `None` where it is malformed.
    #[inline]
    fn parse(payload: &'a [u8]) -> Option<Self> {
        let (&tag, rest) = payload.split_first()?;
        match tag {
            DATA => {
                let (start, rest) = rest.split_first_chunk()?;
                let (end, rest) = rest.split_first_chunk()?;
                let (sent_at, body) = rest.split_first_chunk()?;
                Some(Self::Data {
                    start: Lsn(u64::from_be_bytes(*start)),
                    end: Lsn(u64::from_be_bytes(*end)),
                    sent_at: i64::from_be_bytes(*sent_at),
                    body,
                })
            }
            KEEPALIVE => {
                let (wal_end, rest) = rest.split_first_chunk()?;
                let (sent_at, rest) = rest.split_first_chunk()?;
                Some(Self::Keepalive {
                    wal_end: Lsn(u64::from_be_bytes(*wal_end)),
                    sent_at: i64::from_be_bytes(*sent_at),
                    reply_requested: *rest.first()? != 0,
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy_data(payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len() + 4).unwrap().to_be_bytes();
        [b"d", &length[..], payload].concat()
    }

    fn data(lsn: u64, body: &[u8]) -> Vec<u8> {
        [b"w", &lsn.to_be_bytes()[..], &lsn.to_be_bytes(), &7_i64.to_be_bytes(), body].concat()
    }

    fn keepalive(lsn: u64, reply: u8) -> Vec<u8> {
        [b"k", &lsn.to_be_bytes()[..], &9_i64.to_be_bytes(), &[reply]].concat()
    }

    #[test]
    fn a_chunk_gives_its_messages_in_order() {
        let run = [data(5, b"body"), keepalive(8, 1), data(0, b""), keepalive(6, 0)]
            .map(|m| copy_data(&m))
            .concat();
        let chunk = WalChunk::new(run.into()).unwrap();
        assert_eq!((chunk.wal_end(), chunk.sent_at(), chunk.reply_requested()), (Lsn(8), 9, true));
        let messages: Vec<_> = chunk.messages().collect();
        assert_eq!(
            messages,
            [
                WalMessage::Data { start: Lsn(5), end: Lsn(5), sent_at: 7, body: b"body" },
                WalMessage::Keepalive { wal_end: Lsn(8), sent_at: 9, reply_requested: true },
                WalMessage::Data { start: Lsn(0), end: Lsn(0), sent_at: 7, body: b"" },
                WalMessage::Keepalive { wal_end: Lsn(6), sent_at: 9, reply_requested: false },
            ]
        );
        let WalMessage::Data { body, .. } = messages[0] else { unreachable!() };
        let kept = chunk.keep(&body[1..3]);
        assert_eq!(kept.as_ptr(), body[1..].as_ptr());
        assert_eq!(chunk.keep(b"foreign"), "foreign");
        drop(chunk);
        assert_eq!(kept, "od");
    }

    #[test]
    fn a_message_truncated_at_every_byte_is_an_error() {
        for (message, head) in [(data(5, b"body"), 25), (keepalive(5, 0), 18)] {
            for end in 0..message.len() {
                let chunk = WalChunk::new(copy_data(&message[..end]).into());
                // A body may have any length; the head may not.
                assert_eq!(chunk.is_ok(), end >= head, "{end} bytes");
            }
        }
        assert!(WalChunk::new(copy_data(b"x12345678901234567890123456789").into()).is_err());
    }
}
