//! The socket of a stream, in blocking form, shared by the thread that reads and the thread that writes.
//!
//! Plain blocking reads are what makes large gulps possible: under an event loop every packet wakes the loop, whether
//! or not anybody means to read yet.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ClientConnection;

use crate::error::{Error, Result};
use crate::transport::Transport;

/// Bytes of TLS records read at a time.
const RECORDS: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Socket {
    raw: Raw,
    tls: Option<Tls>,
}

#[derive(Debug)]
enum Raw {
    Tcp(TcpStream),
    Unix(UnixStream),
}

#[derive(Debug)]
struct Tls {
    session: Mutex<ClientConnection>,
    /// Held from taking records out of the session until they are written, so that they stay in order.
    writing: Mutex<()>,
}

impl Socket {
    pub(super) fn new(transport: Transport) -> Result<Self> {
        let failed = |err: io::Error| Error::io("the socket cannot be taken over", &err);
        let tcp = |stream: tokio::net::TcpStream| {
            let stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            Ok(Raw::Tcp(stream))
        };
        match transport {
            Transport::Tcp(stream) => Ok(Self { raw: tcp(stream).map_err(failed)?, tls: None }),
            Transport::Unix(stream) => {
                let stream = stream.into_std().map_err(failed)?;
                stream.set_nonblocking(false).map_err(failed)?;
                Ok(Self { raw: Raw::Unix(stream), tls: None })
            }
            Transport::Tls(stream) => {
                let (stream, session) = stream.into_inner();
                let tls = Tls { session: Mutex::new(session), writing: Mutex::new(()) };
                Ok(Self { raw: tcp(stream).map_err(failed)?, tls: Some(tls) })
            }
        }
    }

    pub(super) fn is_unix(&self) -> bool {
        matches!(self.raw, Raw::Unix(_))
    }

    /// Writes all of it.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &self.tls else { return self.raw.write_all(bytes) };
        let _order = lock(&tls.writing);
        let records = {
            let mut session = lock(&tls.session);
            session.writer().write_all(bytes)?;
            take_records(&mut session)?
        };
        self.raw.write_all(&records)
    }

    /// Ends reading and writing for both threads, also where one of them is blocked in it.
    pub(super) fn close(&self) {
        // It may be closed by the other side already.
        let _ = match &self.raw {
            Raw::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Raw::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl Raw {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Self::Tcp(stream) => (&*stream).read(buffer),
                Self::Unix(stream) => (&*stream).read(buffer),
            };
            match result {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => (&*stream).write_all(bytes),
            Self::Unix(stream) => (&*stream).write_all(bytes),
        }
    }
}

/// The reading half.
#[derive(Debug)]
pub(super) struct SocketReader {
    socket: Arc<Socket>,
    /// Records read and not yet given to the TLS session.
    records: Vec<u8>,
    next: usize,
    end: usize,
}

impl SocketReader {
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        let records = if socket.tls.is_some() { vec![0; RECORDS] } else { Vec::new() };
        Self { socket, records, next: 0, end: 0 }
    }

    /// Waits for bytes and gives as many as are at hand; 0 at the end of the stream.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.socket.tls {
            None => self.socket.raw.read(buffer),
            Some(tls) => {
                read_tls(&self.socket.raw, tls, &mut self.records, &mut self.next, &mut self.end, buffer)
            }
        }
    }
}

fn read_tls(
    raw: &Raw,
    tls: &Tls,
    records: &mut [u8],
    next: &mut usize,
    end: &mut usize,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let mut filled = 0;
    loop {
        let answers = {
            let mut session = lock(&tls.session);
            loop {
                let room = buffer.get_mut(filled..).unwrap_or_default();
                if room.is_empty() {
                    return Ok(filled);
                }
                match session.reader().read(room) {
                    // The server has closed the session in an orderly way.
                    Ok(0) => return Ok(filled),
                    Ok(count) => {
                        filled += count;
                        continue;
                    }
                    Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                    Err(err) => return if filled > 0 { Ok(filled) } else { Err(err) },
                }
                let mut rest = records.get(*next..*end).unwrap_or_default();
                if rest.is_empty() {
                    break;
                }
                *next += session.read_tls(&mut rest)?;
                session
                    .process_new_packets()
                    .map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))?;
            }
            session.wants_write()
        };
        if answers {
            let _order = lock(&tls.writing);
            let records = take_records(&mut lock(&tls.session))?;
            raw.write_all(&records)?;
        }
        if filled > 0 {
            return Ok(filled);
        }
        *next = 0;
        *end = raw.read(records)?;
        if *end == 0 {
            // Without the session's own good-bye: the socket was cut.
            return Ok(0);
        }
    }
}

fn take_records(session: &mut ClientConnection) -> io::Result<Vec<u8>> {
    let mut records = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut records)?;
    }
    Ok(records)
}

/// A thread that panicked leaves nothing half-done behind these locks that the other could not see as an I/O error.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
