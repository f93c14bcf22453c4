//! The socket below a connection: TCP, TCP under TLS, or a Unix-domain socket.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use crate::conninfo::{ConnectOptions, Endpoint, Host, SslMode};
use crate::error::{Error, ErrorKind, Result};
use crate::tls;

/// A byte stream to the server.
#[derive(Debug)]
pub(crate) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Where one connection attempt goes.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(std::path::PathBuf),
}

/// The addresses of a host, in the order in which they are tried.
pub(crate) async fn addresses(host: &Host) -> Result<Vec<Address>> {
    let (name, address) = match &host.endpoint {
        Endpoint::Unix(directory) => return Ok(vec![Address::Unix(host.socket_file(directory))]),
        Endpoint::Tcp { name, address } => (name, address),
    };
    if let Some(address) = address {
        return Ok(vec![Address::Tcp(SocketAddr::new(*address, host.port))]);
    }
    let found = tokio::net::lookup_host((name.as_str(), host.port))
        .await
        .map_err(|err| Error::new(ErrorKind::Resolve, "host name could not be resolved", err))?;
    let found: Vec<_> = found.map(Address::Tcp).collect();
    if found.is_empty() {
        return Err(Error::new(ErrorKind::Resolve, "host name could not be resolved", "it has no address"));
    }
    Ok(found)
}

/// Connects a socket, without TLS.
pub(crate) async fn dial(address: &Address, options: &ConnectOptions) -> Result<Transport> {
    let failed = |err: io::Error| Error::io("connecting failed", &err);
    match address {
        Address::Unix(file) => Ok(Transport::Unix(UnixStream::connect(file).await.map_err(failed)?)),
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            set_liveness(&stream, options).map_err(failed)?;
            Ok(Transport::Tcp(stream))
        }
    }
}

/// Keepalives and the time after which unacknowledged data ends the connection.
fn set_liveness(stream: &TcpStream, options: &ConnectOptions) -> io::Result<()> {
    let socket = SockRef::from(stream);
    if let Some(keepalives) = options.keepalives {
        let mut keepalive = TcpKeepalive::new();
        if let Some(idle) = keepalives.idle {
            keepalive = keepalive.with_time(idle);
        }
        if let Some(interval) = keepalives.interval {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(count) = keepalives.count {
            keepalive = keepalive.with_retries(count);
        }
        socket.set_keepalive(true)?;
        socket.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(target_os = "linux")]
    if options.tcp_user_timeout.is_some() {
        socket.set_tcp_user_timeout(options.tcp_user_timeout)?;
    }
    Ok(())
}

/// Whether one attempt uses TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// It does not.
    None,
    /// It does where the server can.
    IfOffered,
    /// It does.
    Always,
}

impl Encryption {
    /// The attempts that an `sslmode` makes, in order.
    pub(crate) fn attempts(mode: SslMode, host: &Host) -> &'static [Self] {
        match (&host.endpoint, mode) {
            (Endpoint::Unix(_), _) | (_, SslMode::Disable) => &[Self::None],
            (_, SslMode::Allow) => &[Self::None, Self::Always],
            (_, SslMode::Prefer) => &[Self::IfOffered, Self::None],
            (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Self::Always],
        }
    }
}

impl Transport {
    /// Puts TLS over the socket, as far as `encryption` wants it and the server has it ("SSL Session Encryption" in the
    /// manual).
    pub(crate) async fn encrypt(
        mut self,
        encryption: Encryption,
        host: &Host,
        options: &ConnectOptions,
    ) -> Result<Self> {
        if encryption == Encryption::None {
            return Ok(self);
        }
        let mut request = bytes::BytesMut::new();
        postgres_protocol::message::frontend::ssl_request(&mut request);
        let failed = |err: io::Error| Error::io("asking the server for TLS failed", &err);
        self.write_all(&request).await.map_err(failed)?;
        self.flush().await.map_err(failed)?;
        // Exactly one byte: anything the server may have sent behind it is read by the TLS layer, never taken as plain
        // text (CVE-2021-23222).
        match self.read_u8().await.map_err(failed)? {
            b'S' => match self {
                Self::Tcp(stream) => Ok(Self::Tls(Box::new(tls::handshake(stream, host, options).await?))),
                other => Ok(other),
            },
            b'N' if encryption == Encryption::IfOffered => Ok(self),
            b'N' => Err(Error::new(
                ErrorKind::Tls,
                "the server does not offer TLS",
                "set ssl = on there, or sslmode=disable here",
            )),
            // An ErrorResponse of a server that cannot even fork says nothing that may be trusted.
            _ => Err(Error::new(
                ErrorKind::Closed,
                "asking the server for TLS failed",
                "it cannot take connections",
            )),
        }
    }

    /// The hash of the server's certificate that ties a password exchange to this TLS connection.
    pub(crate) fn channel_binding(&self) -> Option<Vec<u8>> {
        match self {
            Self::Tls(stream) => tls::server_end_point(stream.get_ref().1.peer_certificates()?.first()?),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// Whether TLS protects it.
    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Transport::Tcp($stream) => $call,
            Transport::Unix($stream) => $call,
            Transport::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
