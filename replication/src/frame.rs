//! Cutting the byte stream of the server into messages ("Message Formats" in the PostgreSQL manual).
//!
//! A message is a tag byte, a length of four bytes that counts itself but not the tag, and a body.

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::error::{Error, Result};

pub(crate) const TAG_AUTHENTICATION: u8 = b'R';
pub(crate) const TAG_BACKEND_KEY: u8 = b'K';
pub(crate) const TAG_COMMAND_COMPLETE: u8 = b'C';
pub(crate) const TAG_COPY_BOTH: u8 = b'W';
pub(crate) const TAG_COPY_DATA: u8 = b'd';
pub(crate) const TAG_COPY_DONE: u8 = b'c';
pub(crate) const TAG_COPY_IN: u8 = b'G';
pub(crate) const TAG_COPY_OUT: u8 = b'H';
pub(crate) const TAG_DATA_ROW: u8 = b'D';
pub(crate) const TAG_EMPTY_QUERY: u8 = b'I';
pub(crate) const TAG_ERROR: u8 = b'E';
pub(crate) const TAG_NOTICE: u8 = b'N';
pub(crate) const TAG_NOTIFICATION: u8 = b'A';
pub(crate) const TAG_PARAMETER: u8 = b'S';
pub(crate) const TAG_PROTOCOL_VERSION: u8 = b'v';
pub(crate) const TAG_READY: u8 = b'Z';
pub(crate) const TAG_ROW_DESCRIPTION: u8 = b'T';

/// Tag and length.
pub(crate) const HEADER: usize = 5;

/// The longest message taken: the server builds each in a buffer of at most 1 GiB (`MaxAllocSize`).
pub(crate) const MAX_MESSAGE: usize = (1 << 30) + HEADER;

/// The longest message taken before the server is known to be one: what libpq allows there.
pub(crate) const MAX_STARTUP_MESSAGE: usize = 30_000;

/// Room for one read from the socket: large enough that a busy server costs few reads.
const READ_SIZE: usize = 256 * 1024;

/// The head of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) tag: u8,
    /// Bytes of the whole message, head included.
    pub(crate) total: usize,
}

impl Header {
    /// The head that `bytes` begin with; `None` while there are too few of them.
    pub(crate) fn parse(bytes: &[u8], max: usize) -> Result<Option<Self>> {
        let Some(&[tag, a, b, c, d]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let total = length.saturating_add(1);
        if total < HEADER || total > max {
            let printed = char::from(tag).escape_default();
            return Err(Error::protocol(format_args!("a message '{printed}' claims {length} bytes")));
        }
        Ok(Some(Self { tag, total }))
    }
}

/// One message.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) tag: u8,
    pub(crate) body: Bytes,
    /// The message with its head.
    pub(crate) whole: Bytes,
}

impl Frame {
    /// The error for a message that does not belong where it came.
    pub(crate) fn unexpected(&self, during: &str) -> Error {
        Error::protocol(format_args!("message '{}' during {during}", char::from(self.tag).escape_default()))
    }
}

/// Bytes read and not yet taken.
#[derive(Debug, Default)]
pub(crate) struct FrameBuffer {
    bytes: BytesMut,
    /// The buffer has grown for one long message and is to be replaced.
    oversize: bool,
}

impl FrameBuffer {
    /// The next whole message.
    pub(crate) async fn next(&mut self, io: &mut (impl AsyncRead + Unpin), max: usize) -> Result<Frame> {
        loop {
            if let Some(header) = Header::parse(&self.bytes, max)?
                && self.bytes.len() >= header.total
            {
                let whole = self.take(header.total);
                return Ok(Frame { tag: header.tag, body: whole.slice(HEADER..), whole });
            }
            self.fill(io, max).await?;
        }
    }

    /// The longest run of whole `CopyData` messages that is at hand, at least one; `None` where another message is next.
    pub(crate) async fn copy_data(&mut self, io: &mut (impl AsyncRead + Unpin)) -> Result<Option<Bytes>> {
        loop {
            let run = copy_data_run(&self.bytes)?;
            if run.length > 0 {
                return Ok(Some(self.take(run.length)));
            }
            if run.next.is_some_and(|next| next.tag != TAG_COPY_DATA) {
                return Ok(None);
            }
            self.fill(io, MAX_MESSAGE).await?;
        }
    }

    /// What was read and not taken.
    pub(crate) fn into_rest(self) -> BytesMut {
        self.bytes
    }

    fn take(&mut self, length: usize) -> Bytes {
        let taken = self.bytes.split_to(length).freeze();
        if self.oversize {
            // One long message must not keep its memory for the rest of the connection.
            self.bytes = BytesMut::from(&*self.bytes);
            self.oversize = false;
        }
        taken
    }

    async fn fill(&mut self, io: &mut (impl AsyncRead + Unpin), max: usize) -> Result<()> {
        if self.bytes.capacity() - self.bytes.len() < READ_SIZE / 4 {
            self.bytes.reserve(READ_SIZE);
        }
        if let Some(header) = Header::parse(&self.bytes, max)? {
            let missing = header.total.saturating_sub(self.bytes.len());
            if missing > READ_SIZE {
                self.oversize = true;
                self.bytes.reserve(missing);
            }
        }
        let count =
            io.read_buf(&mut self.bytes).await.map_err(|err| Error::io("reading from the server", &err))?;
        if count == 0 { Err(Error::closed()) } else { Ok(()) }
    }
}

/// Whole `CopyData` messages at the start of a buffer.
pub(crate) struct CopyDataRun {
    /// Their bytes.
    pub(crate) length: usize,
    /// The head of the message after them, where it is at hand.
    pub(crate) next: Option<Header>,
}

/// Finds the whole `CopyData` messages that `bytes` begin with.
pub(crate) fn copy_data_run(bytes: &[u8]) -> Result<CopyDataRun> {
    let mut length = 0;
    loop {
        let rest = bytes.get(length..).unwrap_or_default();
        let next = match Header::parse(rest, MAX_MESSAGE) {
            Ok(next) => next,
            // What came before the damage is still good.
            Err(_) if length > 0 => return Ok(CopyDataRun { length, next: None }),
            Err(err) => return Err(err),
        };
        match next {
            Some(header) if header.tag == TAG_COPY_DATA && header.total <= rest.len() => {
                length += header.total
            }
            next => return Ok(CopyDataRun { length, next }),
        }
    }
}

/// The payloads of a run of whole `CopyData` messages.
#[derive(Clone, Debug)]
pub struct Payloads<'a> {
    rest: &'a [u8],
}

impl<'a> Payloads<'a> {
    pub(crate) fn new(run: &'a [u8]) -> Self {
        Self { rest: run }
    }
}

impl<'a> Iterator for Payloads<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let (head, after) = self.rest.split_first_chunk::<HEADER>()?;
        let &[_, a, b, c, d] = head;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?.checked_sub(4)?;
        let (payload, rest) = after.split_at_checked(length)?;
        self.rest = rest;
        Some(payload)
    }
}

/// The part of a body that is read next.
#[derive(Clone, Debug)]
pub(crate) struct Body<'a>(pub(crate) &'a [u8]);

impl<'a> Body<'a> {
    pub(crate) fn u8(&mut self) -> Result<u8> {
        self.0.try_get_u8().map_err(short)
    }

    pub(crate) fn i16(&mut self) -> Result<i16> {
        self.0.try_get_i16().map_err(short)
    }

    pub(crate) fn i32(&mut self) -> Result<i32> {
        self.0.try_get_i32().map_err(short)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(|| short(()))?;
        self.0 = rest;
        Ok(bytes)
    }

    /// A string up to its zero byte.
    pub(crate) fn text(&mut self) -> Result<String> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or_else(|| short(()))?;
        let text = String::from_utf8_lossy(self.bytes(end)?).into_owned();
        self.bytes(1)?;
        Ok(text)
    }
}

fn short<T>(_: T) -> Error {
    Error::protocol("a message is shorter than it should be")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[tag][..], &length, body].concat()
    }

    fn stream() -> Vec<u8> {
        [message(b'd', b"one"), message(b'd', b""), message(b'd', b"three"), message(b'c', b"")].concat()
    }

    #[test]
    fn a_run_of_copy_data_is_cut_at_every_byte() {
        let stream = stream();
        // Ends of the three messages.
        let ends = [8, 13, 23];
        for end in 0..=stream.len() {
            let run = copy_data_run(&stream[..end]).unwrap();
            let expected = ends.iter().rev().find(|at| **at <= end).copied().unwrap_or(0);
            assert_eq!(run.length, expected, "at {end}");
            let payloads: Vec<_> = Payloads::new(&stream[..run.length]).collect();
            let all: [&[u8]; 3] = [b"one", b"", b"three"];
            assert_eq!(payloads, all[..payloads.len()]);
            assert_eq!(payloads.len(), ends.iter().filter(|at| **at <= end).count());
        }
        let run = copy_data_run(&stream).unwrap();
        assert_eq!(run.next, Some(Header { tag: b'c', total: 5 }));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for length in [0_u32, 3, 1 << 31, u32::MAX] {
            let bytes = [&[b'd'][..], &length.to_be_bytes(), b"payload"].concat();
            let err = Header::parse(&bytes, MAX_MESSAGE).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Protocol);
            assert!(copy_data_run(&bytes).is_err());
            // Behind good messages, the good ones are handed out first.
            let bytes = [message(b'd', b"good"), bytes].concat();
            assert_eq!(copy_data_run(&bytes).unwrap().length, 9);
        }
        assert_eq!(Payloads::new(b"d\0\0\0\x03abc").count(), 0);
        assert_eq!(Payloads::new(b"d\0\0\0\x09abc").count(), 0);
    }

    #[tokio::test]
    async fn messages_come_whole_however_the_stream_is_cut() {
        let long = vec![7; 3 * READ_SIZE];
        let stream = [message(b'T', b"x"), stream(), message(b'D', &long), message(b'Z', b"I")].concat();
        for step in [1, 2, 3, 7, 1000, 100_000, stream.len()] {
            let mut io = tokio_test_stream(&stream, step);
            let mut frames = FrameBuffer::default();
            assert_eq!(frames.next(&mut io, MAX_MESSAGE).await.unwrap().tag, b'T');
            let mut payloads = Vec::new();
            while let Some(run) = frames.copy_data(&mut io).await.unwrap() {
                payloads.extend(Payloads::new(&run).map(<[u8]>::to_vec));
            }
            assert_eq!(payloads, [b"one".to_vec(), b"".to_vec(), b"three".to_vec()]);
            assert_eq!(frames.next(&mut io, MAX_MESSAGE).await.unwrap().tag, b'c');
            assert_eq!(frames.next(&mut io, MAX_MESSAGE).await.unwrap().body, long);
            assert!(frames.bytes.capacity() <= 2 * READ_SIZE, "{}", frames.bytes.capacity());
            assert_eq!(frames.next(&mut io, MAX_MESSAGE).await.unwrap().tag, b'Z');
            assert_eq!(frames.next(&mut io, MAX_MESSAGE).await.unwrap_err().kind(), ErrorKind::Closed);
        }
    }

    /// A reader that hands out `step` bytes at a time.
    fn tokio_test_stream(bytes: &[u8], step: usize) -> impl AsyncRead + Unpin + use<> {
        let (mut near, far) = tokio::io::duplex(step);
        let bytes = bytes.to_vec();
        tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut near, &bytes).await });
        far
    }

    #[test]
    fn short_bodies_are_errors() {
        assert!(Body(b"").u8().is_err());
        assert!(Body(b"1").i16().is_err());
        assert!(Body(b"123").i32().is_err());
        assert!(Body(b"no end").text().is_err());
        assert!(Body(b"12").bytes(3).is_err());
        let mut body = Body(b"a\0b");
        assert_eq!(body.text().unwrap(), "a");
        assert_eq!(body.0, b"b");
    }
}
