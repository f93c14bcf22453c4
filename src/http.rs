//! HTTP/1 for the few short pages that a running capture shows. Whoever reaches the port may send what he likes.
//!
//! Of a request no more than its head is read, up to [`HEAD_BYTES`], and nothing is made as large as a client says that something
//! is. Each connection carries one request and is closed after its answer. Reading the head and writing the answer have an end in
//! time, and the oldest connection makes room where there are too many: clients that send nothing, or read nothing, keep nobody
//! else from an answer.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener as Bound};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::error::{Error, Result};

/// The longest head of a request. Probes and Prometheus send some 300 bytes.
const HEAD_BYTES: usize = 8192;
const HEADERS: usize = 64;
/// Connections at once, far from what a process may have open (1,024 files where nobody says otherwise).
const CONNECTIONS: usize = 64;
/// How long a client may take to send the head.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How long it may take to read the answer, which is some 100 KiB with a thousand tables.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// More is no answer to [`get`].
const ANSWER_BYTES: u64 = 16 << 20;
/// For so long what a client still sends is read and dropped after the answer: a socket that is closed with something unread in it
/// resets the connection, which can take the answer from a client that has not read it yet.
const LINGER: Duration = Duration::from_secs(1);
/// After connections that could not be taken, for want of files as a rule.
const PAUSE: Duration = Duration::from_millis(100);

/// Plain text.
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";

/// What is answered to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) kind: &'static str,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn text(code: u16, body: impl Into<String>) -> Self {
        Self { code, kind: TEXT, body: body.into() }
    }
}

/// The body of a page of such an endpoint.
///
/// # Errors
/// Where nobody answers, or with something else than 200.
pub(crate) async fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES).read_to_string(&mut answer).await?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(std::io::Error::other("the answer is none of bygone's")),
    }
}

/// Answers at an address, in a thread with a runtime of its own, until the process ends. `answer` gets the method and the path,
/// without what follows a `?`, and takes no time to speak of.
///
/// # Errors
/// Where the address cannot be listened at.
pub(crate) fn serve(
    address: SocketAddr,
    thread: &str,
    answer: impl Fn(&str, &str) -> Answer + Send + Sync + 'static,
) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::other(format!("cannot listen at {address}: {error}; give --listen another port"))
    };
    let bound = Bound::bind(address).map_err(failed)?;
    bound.set_nonblocking(true).map_err(failed)?;
    let cannot = |error: std::io::Error| Error::other(format!("cannot start a thread: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let listener = {
        let _entered = runtime.enter();
        TcpListener::from_std(bound).map_err(failed)?
    };
    let answer = Arc::new(answer);
    std::thread::Builder::new()
        .name(thread.to_owned())
        .spawn(move || runtime.block_on(take_connections(&listener, &answer)))
        .map_err(cannot)?;
    Ok(())
}

async fn take_connections<F>(listener: &TcpListener, answer: &Arc<F>)
where
    F: Fn(&str, &str) -> Answer + Send + Sync + 'static,
{
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection for metrics could not be taken");
                sleep(PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        while open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let answer = Arc::clone(answer);
        let connection = tokio::spawn(async move {
            // Whoever asked may have gone.
            if let Err(error) = converse(stream, &*answer).await {
                tracing::debug!(%error, "a request for metrics was not answered to its end");
            }
        });
        open.push_back(connection.abort_handle());
    }
}

/// One request and its answer.
async fn converse(mut stream: TcpStream, answer: impl Fn(&str, &str) -> Answer) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    let Ok(read) = timeout(HEAD_WITHIN, read_head(&mut stream, &mut head)).await else { return Ok(()) };
    let (bare, answer) = match read? {
        Head::Gone => return Ok(()),
        Head::Wrong(code, said) => (false, Answer::text(code, said)),
        Head::Asks { method, target } => {
            let path = target.split(['?', '#']).next().unwrap_or_default();
            (method == "HEAD", answer(&method, path))
        }
    };
    let bytes = rendered(&answer, bare);
    if timeout(ANSWER_WITHIN, stream.write_all(&bytes)).await.is_ok_and(|written| written.is_ok()) {
        stream.shutdown().await?;
        let _ = timeout(LINGER, async {
            let mut dropped = [0; 4096];
            while stream.read(&mut dropped).await.is_ok_and(|read| read > 0) {}
        })
        .await;
    }
    Ok(())
}

/// What a client has sent.
#[derive(Debug, PartialEq)]
enum Head {
    /// It went, or had nothing to ask.
    Gone,
    /// Nothing that could be answered: a code, and why.
    Wrong(u16, &'static str),
    Asks {
        method: String,
        target: String,
    },
}

/// Reads until the head is whole, or cannot become one.
async fn read_head(stream: &mut TcpStream, head: &mut Vec<u8>) -> std::io::Result<Head> {
    loop {
        let left = HEAD_BYTES.saturating_sub(head.len());
        if (&mut *stream).take(left as u64).read_buf(head).await? == 0 {
            return Ok(if left == 0 { Head::Wrong(431, "too long\n") } else { Head::Gone });
        }
        if let Some(done) = parse(head) {
            return Ok(done);
        }
    }
}

/// Nothing where more has to come.
fn parse(head: &[u8]) -> Option<Head> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => Some(match (request.method, request.path) {
            (Some(method), Some(target)) => {
                Head::Asks { method: method.to_owned(), target: target.to_owned() }
            }
            _ => Head::Wrong(400, "no request\n"),
        }),
        Ok(httparse::Status::Partial) => None,
        Err(httparse::Error::TooManyHeaders) => Some(Head::Wrong(431, "too many headers\n")),
        Err(_) => Some(Head::Wrong(400, "no request of HTTP/1\n")),
    }
}

/// The answer as it is sent; `bare` without its body, for `HEAD`.
fn rendered(answer: &Answer, bare: bool) -> Vec<u8> {
    let reason = match answer.code {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "",
    };
    let allow = if answer.code == 405 { "Allow: GET, HEAD\r\n" } else { "" };
    let mut text = format!(
        "HTTP/1.1 {} {reason}\r\nDate: {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        answer.code,
        chrono::Utc::now().format("%a, %d %b %Y %H:%M:%S GMT"),
        answer.kind,
        answer.body.len()
    );
    if !bare {
        text.push_str(&answer.body);
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(method: &str, target: &str) -> Option<Head> {
        Some(Head::Asks { method: method.to_owned(), target: target.to_owned() })
    }

    #[test]
    fn a_head_is_taken_once_it_is_whole_whatever_it_says_of_a_body() {
        let whole = b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\n";
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), None, "{cut}");
        }
        assert_eq!(parse(whole), asks("GET", "/metrics?x=1"));
        assert_eq!(parse(b"GET / HTTP/1.0\n\n"), asks("GET", "/"));
    }

    #[test]
    fn what_is_no_request_is_told_so() {
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS + 1));
        assert!(matches!(parse(many.as_bytes()), Some(Head::Wrong(431, _))));
        for wrong in [
            &b"\x16\x03\x01\x02\x00"[..],
            b"GET\r\n\r\n",
            b"GET / HTTP/2.0\r\n\r\n",
            b"\0\0\0\0",
            b"G\xffT / ",
        ] {
            assert!(matches!(parse(wrong), Some(Head::Wrong(400, _))), "{wrong:?}");
        }
    }

    #[test]
    fn the_answer_to_head_has_the_length_and_not_the_body() {
        let answer = Answer::text(200, "alive\n");
        let [whole, bare] = [false, true].map(|bare| String::from_utf8(rendered(&answer, bare)).unwrap());
        assert!(whole.contains("\r\nContent-Length: 6\r\n") && whole.ends_with("\r\n\r\nalive\n"), "{whole}");
        assert!(bare.contains("\r\nContent-Length: 6\r\n") && bare.ends_with("\r\n\r\n"), "{bare}");
    }
}
