//! `COPY … TO STDOUT`.

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::frame::{
    Body, Payloads, TAG_COMMAND_COMPLETE, TAG_COPY_DATA, TAG_COPY_DONE, TAG_COPY_OUT, TAG_ERROR, TAG_READY,
};
use crate::wire::{Connection, server_error};

impl Connection {
    /// Starts a `COPY … TO STDOUT`.
    ///
    /// # Errors
    /// The server's; SQL that is no `COPY … TO STDOUT` leaves the connection unusable.
    pub async fn copy_out(&mut self, sql: &str) -> Result<CopyOut<'_>> {
        self.start(sql).await?;
        let frame = self.next().await?;
        match frame.tag {
            TAG_COPY_OUT => Ok(CopyOut {
                binary: Body(&frame.body).u8()? == 1,
                connection: self,
                rows: None,
                done: false,
            }),
            TAG_ERROR => {
                let err = server_error("the server refused to copy", &frame);
                self.until_ready().await?;
                Err(err)
            }
            _ => Err(frame.unexpected("the start of COPY")),
        }
    }

    /// Reads what follows an `ErrorResponse`.
    async fn until_ready(&mut self) -> Result<()> {
        while self.next().await?.tag != TAG_READY {}
        self.finish();
        Ok(())
    }
}

/// A running `COPY … TO STDOUT`.
///
/// Follow it until [`CopyOut::next`] gives `None`: only then is the copy known to be whole, and can the connection be
/// used again.
#[derive(Debug)]
pub struct CopyOut<'a> {
    connection: &'a mut Connection,
    binary: bool,
    rows: Option<u64>,
    done: bool,
}

impl CopyOut<'_> {
    /// The next gulp; `None` once the server has confirmed the end.
    ///
    /// # Errors
    /// The server's, also in mid-copy; a lost connection. What came before is then not the whole.
    pub async fn next(&mut self) -> Result<Option<CopyChunk>> {
        while !self.done {
            if let Some(run) = self.connection.frames.copy_data(&mut self.connection.io).await? {
                return Ok(Some(CopyChunk(run)));
            }
            let frame = self.connection.next().await?;
            match frame.tag {
                // Behind a notice.
                TAG_COPY_DATA => return Ok(Some(CopyChunk(frame.whole))),
                TAG_COPY_DONE => {
                    self.end().await?;
                    self.done = true;
                }
                TAG_ERROR => {
                    let err = server_error("the server ended the copy", &frame);
                    self.connection.until_ready().await?;
                    return Err(err);
                }
                _ => return Err(frame.unexpected("COPY")),
            }
        }
        Ok(None)
    }

    /// Reads from `CopyDone` to `ReadyForQuery`.
    async fn end(&mut self) -> Result<()> {
        let mut failure = None;
        loop {
            let frame = self.connection.next().await?;
            match frame.tag {
                TAG_COMMAND_COMPLETE => self.rows = copied_rows(&Body(&frame.body).text()?),
                TAG_ERROR => failure = Some(server_error("the server ended the copy", &frame)),
                TAG_READY => break,
                _ => return Err(frame.unexpected("the end of COPY")),
            }
        }
        self.connection.finish();
        match failure {
            Some(err) => Err(err),
            None if self.rows.is_none() => Err(Error::protocol("COPY ended without its count of rows")),
            None => Ok(()),
        }
    }

    /// How many rows the server says that it has sent; known at the end.
    #[must_use]
    pub fn rows(&self) -> Option<u64> {
        self.rows
    }

    /// Whether the format is binary.
    #[must_use]
    pub fn is_binary(&self) -> bool {
        self.binary
    }
}

/// `COPY 42`.
fn copied_rows(tag: &str) -> Option<u64> {
    tag.strip_prefix("COPY ")?.parse().ok()
}

/// A run of whole `CopyData` messages, as they came from the socket.
///
/// The server sends each row as one message; in the binary format the header is at the start of the first and the
/// trailer is one of its own.
#[derive(Clone, Debug)]
pub struct CopyChunk(Bytes);

impl CopyChunk {
    /// The content of each message, without copying.
    #[must_use]
    pub fn payloads(&self) -> Payloads<'_> {
        Payloads::new(&self.0)
    }

    /// How many bytes the chunk holds in memory, heads of messages included.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tag_gives_the_count() {
        assert_eq!(copied_rows("COPY 42"), Some(42));
        assert_eq!(copied_rows("COPY"), None);
        assert_eq!(copied_rows("SELECT 1"), None);
    }
}
