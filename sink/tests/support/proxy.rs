//! A proxy before the S3 server that loses replies, refuses and meddles, request by request.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is passed on, and so is the reply.
    Pass,
    /// It is passed on and takes effect; the reply is lost.
    LoseReply,
    /// The connection ends before it is passed on.
    Refuse,
    /// It is answered with this status and not passed on.
    Answer(u16),
    /// It is passed on without its `If-None-Match`.
    StripCondition,
}

/// A listening proxy; stops with the value.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    stopped: Arc<AtomicBool>,
    puts: Arc<AtomicUsize>,
}

impl Proxy {
    /// A proxy before `upstream` in which `fate` decides by the request line (`PUT /kept/x?y HTTP/1.1`).
    pub(crate) fn start(upstream: u16, fate: impl Fn(&str) -> Fate + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stopped, puts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stop, count, fate) = (Arc::clone(&stopped), Arc::clone(&puts), Arc::new(fate));
        thread::spawn(move || {
            for client in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let (fate, count) = (Arc::clone(&fate), Arc::clone(&count));
                thread::spawn(move || {
                    let _ = serve(client?, upstream, &*fate, &count);
                    io::Result::Ok(())
                });
            }
        });
        Self { port, stopped, puts }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// PUT requests that were passed on.
    pub(crate) fn puts(&self) -> usize {
        self.puts.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Serves one request of a connection, then ends it.
fn serve(
    mut client: TcpStream,
    upstream: u16,
    fate: &dyn Fn(&str) -> Fate,
    puts: &AtomicUsize,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        match client.read(&mut buffer)? {
            0 => return Ok(()),
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let mut lines: Vec<&str> = text.trim_end().split("\r\n").collect();
    let header = |name: &str| {
        lines.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let length: usize = header("content-length").map_or(0, |length| length.parse().unwrap());
    while bytes.len() < head + length {
        match client.read(&mut buffer)? {
            0 => return Ok(()),
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    }
    let request = lines[0].to_owned();
    let fate = fate(&request);
    match fate {
        Fate::Refuse => return client.shutdown(Shutdown::Both),
        Fate::Answer(status) => {
            return write!(client, "HTTP/1.1 {status} no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        Fate::StripCondition => lines.retain(|line| !line.to_ascii_lowercase().starts_with("if-none-match")),
        Fate::Pass | Fate::LoseReply => {}
    }
    lines.retain(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    if request.starts_with("PUT ") {
        puts.fetch_add(1, Ordering::SeqCst);
    }
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    write!(server, "{}\r\nConnection: close\r\n\r\n", lines.join("\r\n"))?;
    server.write_all(&bytes[head..])?;
    let mut reply = Vec::new();
    server.read_to_end(&mut reply)?;
    if fate != Fate::LoseReply {
        client.write_all(&reply)?;
    }
    client.shutdown(Shutdown::Both)
}
