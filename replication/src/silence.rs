//! A server that says nothing while an answer is awaited: it may be at work, or nobody may be at the other end any more, as
//! when a firewall has forgotten the connection. Which of the two is asked over another connection.
//!
//! Time alone does not tell them apart: a slot is made only when the transactions of its moment have ended, and a `COPY`
//! waits for whoever has the table locked, both for hours where it must be.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::conninfo::{ConnectOptions, Host};
use crate::error::Result;
use crate::frame::TAG_READY;
use crate::transport::{Address, Encryption, Transport};
use crate::wire::Connection;

/// After a first look that finds the server waiting for us: what it said before may still be on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(5);

/// A session of the server, as another session can find it.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: Address,
    pub(crate) host: Host,
    pub(crate) options: ConnectOptions,
    pub(crate) encryption: Encryption,
    /// `BackendKeyData` as it came.
    pub(crate) key: Bytes,
}

impl Peer {
    fn pid(&self) -> Option<i32> {
        (&*self.key).try_get_i32().ok()
    }

    /// Comes back if the session is at work on what it was asked; an error where it is not, after it was ended: nobody else
    /// will, and it may hold locks.
    async fn ask(self: Arc<Self>, limit: Duration) -> io::Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let asked = tokio::time::timeout(limit, self.look(pid, limit)).await;
        match asked {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(dead(limit, "its session there does not know of anything to answer")),
            // It lives, at least.
            Ok(Err(error)) if error.server().is_some() => Ok(()),
            Ok(Err(error)) => Err(dead(limit, &error.to_string())),
            Err(_) => Err(dead(limit, "it does not answer on another connection either")),
        }
    }

    async fn look(&self, pid: i32, limit: Duration) -> Result<bool> {
        let options = ConnectOptions { silence: None, ..self.options.clone() };
        let mut other =
            Connection::attempt(&options, &self.host, &self.address, self.encryption, crate::wire::Mode::Sql)
                .await?;
        // Without the right to see it, or where activities are not tracked, nothing speaks against its being at work.
        let at_work = format!(
            "select state like 'idle%' or state = 'active' and wait_event in ('ClientRead', 'ClientWrite') \
             from pg_catalog.pg_stat_activity where pid = {pid}"
        );
        let is_at_work = |rows: Vec<Vec<Option<String>>>| {
            rows.first().is_some_and(|row| row.first().is_none_or(|waits| waits.as_deref() != Some("t")))
        };
        if is_at_work(other.simple_query(&at_work).await?) {
            other.close().await;
            return Ok(true);
        }
        tokio::time::sleep(ON_ITS_WAY.min(limit / 4)).await;
        let works = is_at_work(other.simple_query(&at_work).await?);
        if !works {
            // The number may be another session's by now, if the server was started anew.
            let end = format!(
                "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity where pid = {pid} \
                 and usename = current_user and application_name = pg_catalog.current_setting('application_name')"
            );
            other.simple_query(&end).await?;
        }
        other.close().await;
        Ok(works)
    }
}

fn dead(limit: Duration, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the server said nothing for {limit:?}, and {why}"))
}

/// A byte stream to the server that ends with an error when nobody is at its other end.
#[derive(Debug)]
pub(crate) struct Patient {
    io: Transport,
    /// None where silence is let pass.
    watch: Option<Box<Watch>>,
}

struct Watch {
    peer: Arc<Peer>,
    limit: Duration,
    /// Something was sent, and no `ReadyForQuery` came since.
    awaits: bool,
    /// The last bytes that came.
    tail: [u8; READY.len() + 1],
    /// Nothing has come since.
    since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
    question: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send>>>,
}

/// `ReadyForQuery` but for its last byte, the transaction's status.
const READY: [u8; 5] = [TAG_READY, 0, 0, 0, 5];

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("limit", &self.limit)
            .field("awaits", &self.awaits)
            .finish_non_exhaustive()
    }
}

impl Patient {
    /// A stream whose session has begun and awaits nothing.
    pub(crate) fn new(io: Transport, peer: Arc<Peer>) -> Self {
        let silence = peer.options.silence;
        let watch = |limit| Watch {
            peer,
            limit,
            awaits: false,
            tail: [0; READY.len() + 1],
            since: None,
            alarm: None,
            question: None,
        };
        Self { io, watch: silence.map(watch).map(Box::new) }
    }

    /// Whether TLS protects it.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.io.is_encrypted()
    }

    /// The stream, for one who watches it in another way.
    pub(crate) fn into_transport(self) -> Transport {
        self.io
    }
}

impl Watch {
    fn heard(&mut self, bytes: &[u8]) {
        (self.since, self.question) = (None, None);
        let new = bytes.get(bytes.len().saturating_sub(self.tail.len())..).unwrap_or_default();
        self.tail.rotate_left(new.len());
        let kept = self.tail.len() - new.len();
        for (slot, byte) in self.tail.iter_mut().skip(kept).zip(new) {
            *slot = *byte;
        }
        // Before it lets anybody wait for it, a server always says so last.
        if self.tail.starts_with(&READY) {
            self.awaits = false;
        }
    }

    fn told(&mut self, cx: &mut Context<'_>) {
        self.awaits = true;
        (self.since, self.question) = (None, None);
        // Whoever polls may not read again before something happens.
        let _ = self.poll_alarm(cx);
    }

    /// Ready when the silence has become too long.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = *self.since.get_or_insert_with(Instant::now) + self.limit;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        // It is set for an earlier silence as a rule, and only looked at when that would have been too long.
        while alarm.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                self.alarm = None;
                return Poll::Ready(());
            }
            alarm.as_mut().reset(due);
        }
        Poll::Pending
    }

    /// Ready with an error when nobody is at the other end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.awaits {
            if self.question.is_none() {
                ready!(self.poll_alarm(cx));
            }
            let (peer, limit) = (&self.peer, self.limit);
            let question = self.question.get_or_insert_with(|| Box::pin(Arc::clone(peer).ask(limit)));
            if let Err(error) = ready!(question.as_mut().poll(cx)) {
                return Poll::Ready(error);
            }
            (self.since, self.question) = (None, None);
        }
        Poll::Pending
    }
}

impl AsyncRead for Patient {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, watch } = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(io).poll_read(cx, buf);
        let Some(watch) = watch else { return read };
        if read.is_pending() {
            return watch.poll(cx).map(Err);
        }
        watch.heard(buf.filled().get(before..).unwrap_or_default());
        read
    }
}

impl AsyncWrite for Patient {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { io, watch } = self.get_mut();
        let written = Pin::new(io).poll_write(cx, buf);
        if let (Poll::Ready(Ok(1..)), Some(watch)) = (&written, watch) {
            watch.told(cx);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
