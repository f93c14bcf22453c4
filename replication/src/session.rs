//! Ordinary SQL, through tokio-postgres.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{Client, NoTls};

use crate::conninfo::ConnectOptions;
use crate::error::Result;
use crate::frame::{TAG_AUTHENTICATION, TAG_BACKEND_KEY, TAG_PARAMETER, TAG_READY};
use crate::silence::Patient;
use crate::wire::{Connection, Mode};

/// Opens a session for ordinary SQL, with the hosts, TLS, password handling and session parameters of every other
/// connection of this crate. It ends when the client is dropped.
///
/// The client's own cancel tokens do not work, as it does not know where it is connected: see
/// [`Connection::canceller`] and [`adopt`].
///
/// # Errors
/// As [`Connection::connect`].
pub async fn connect_sql(options: &ConnectOptions) -> Result<Client> {
    adopt(Box::pin(Connection::connect(options, Mode::Sql)).await?).await
}

/// Hands a connection over to tokio-postgres, whose task is spawned on the current runtime.
///
/// # Errors
/// None that a connection between two commands would give.
pub async fn adopt(connection: Connection) -> Result<Client> {
    let stream = Adopted::new(connection);
    let mut config = tokio_postgres::Config::new();
    // Never sent: what tokio-postgres says at the start is dropped.
    config.user("bygone").ssl_mode(tokio_postgres::config::SslMode::Disable);
    let (client, task) = config.connect_raw(stream, NoTls).await?;
    tokio::spawn(async move {
        if let Err(err) = task.await {
            // Whoever uses the client learns of it as well.
            tracing::debug!(error = %crate::Error::from(err), "SQL session ended");
        }
    });
    Ok(client)
}

/// A session that has begun, made to look like one that begins: the client's start-up message is dropped, and what the
/// server had answered to ours is told once more.
struct Adopted {
    io: Patient,
    /// Still to be read before the socket.
    told: Bytes,
    dropped: StartupMessage,
}

/// How much of the client's start-up message has gone by.
enum StartupMessage {
    Length([u8; 4], usize),
    Body(usize),
}

impl Adopted {
    fn new(connection: Connection) -> Self {
        let (key, parameters) = connection.greeting();
        let mut told = BytesMut::new();
        put_message(&mut told, TAG_AUTHENTICATION, &0_i32.to_be_bytes());
        for (name, value) in parameters {
            put_message(
                &mut told,
                TAG_PARAMETER,
                &[name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat(),
            );
        }
        if !key.is_empty() {
            put_message(&mut told, TAG_BACKEND_KEY, &key);
        }
        put_message(&mut told, TAG_READY, b"I");
        let (io, frames) = connection.into_parts();
        told.extend_from_slice(&frames.into_rest());
        Self { io, told: told.freeze(), dropped: StartupMessage::Length([0; 4], 0) }
    }
}

fn put_message(buffer: &mut BytesMut, tag: u8, body: &[u8]) {
    buffer.put_u8(tag);
    buffer.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
    buffer.put_slice(body);
}

impl StartupMessage {
    /// How many of these bytes belong to the message.
    fn take(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Length(length, known) => {
                let mut taken = 0;
                for (slot, byte) in length.iter_mut().skip(*known).zip(bytes) {
                    *slot = *byte;
                    taken += 1;
                }
                *known += taken;
                if *known == length.len() {
                    let total = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
                    *self = Self::Body(total.saturating_sub(4));
                }
                taken
            }
            Self::Body(left) => {
                let taken = bytes.len().min(*left);
                *left -= taken;
                taken
            }
        }
    }
}

impl AsyncRead for Adopted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.told.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let count = buf.remaining().min(self.told.len());
        buf.put_slice(&self.told.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Adopted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        while !buf.is_empty() {
            let count = self.dropped.take(buf);
            if count == 0 {
                break;
            }
            taken += count;
            buf.advance(count);
        }
        if taken > 0 { Poll::Ready(Ok(taken)) } else { Pin::new(&mut self.io).poll_write(cx, buf) }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_is_dropped_however_it_is_cut() {
        let message = [&12_u32.to_be_bytes()[..], b"startup!", b"query"].concat();
        for step in 1..=message.len() {
            let mut dropped = StartupMessage::Length([0; 4], 0);
            let mut kept = Vec::new();
            for mut part in message.chunks(step) {
                while !part.is_empty() {
                    let count = dropped.take(part);
                    if count == 0 {
                        kept.extend_from_slice(part);
                        break;
                    }
                    part = &part[count..];
                }
            }
            assert_eq!(kept, b"query", "in steps of {step}");
        }
    }
}
