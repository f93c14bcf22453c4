//! What can go wrong between here and the server, and what to do about it.

use std::fmt;
use std::io;

/// The result of anything that talks to the server.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The connection settings, or a file that they name, cannot be used.
    Config,
    /// A host name could not be resolved.
    Resolve,
    /// The operating system failed a connect, read or write.
    Io,
    /// The server did not answer in time.
    Timeout,
    /// The connection ended where it should not have.
    Closed,
    /// No server is of the sort that `target_session_attrs` asks for: in the middle of a failover, none is.
    WrongServer,
    /// TLS could not be agreed on, or a certificate was refused.
    Tls,
    /// The server wants an authentication that cannot be given.
    Auth,
    /// The server's own error: see [`Error::server`].
    Server,
    /// The server sent something that the protocol does not allow here.
    Protocol,
    /// The connection was left in the middle of a command by its user.
    Abandoned,
}

/// What to do after an [`Error`]. The default is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// It may pass by itself: connect again after a pause.
    Retry,
    /// It will not pass by itself: tell the operator.
    Stop,
}

/// A failure of a connection to the server.
///
/// Its text is complete: nothing has to be read from a chain of sources.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    what: &'static str,
    detail: String,
    server: Option<ServerError>,
    io: Option<io::ErrorKind>,
    remedy: Option<&'static str>,
}

impl Error {
    /// An error of a kind: what was tried, and what came of it.
    #[must_use]
    pub fn new(kind: ErrorKind, what: &'static str, detail: impl fmt::Display) -> Self {
        let detail = detail.to_string();
        Self(Box::new(Inner { kind, what, detail, server: None, io: None, remedy: None }))
    }

    /// The server's own error in answer to `what`.
    #[must_use]
    pub fn from_server(what: &'static str, server: ServerError) -> Self {
        let mut error = Self::new(ErrorKind::Server, what, "");
        error.0.server = Some(server);
        error
    }

    pub(crate) fn io(what: &'static str, err: &io::Error) -> Self {
        let kind = match err.kind() {
            io::ErrorKind::UnexpectedEof => ErrorKind::Closed,
            io::ErrorKind::TimedOut => ErrorKind::Timeout,
            // A TLS failure (an alert, a record that does not decrypt) travels as an I/O error.
            _ if err.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => ErrorKind::Tls,
            _ => ErrorKind::Io,
        };
        let mut error = Self::new(kind, what, err);
        error.0.io = Some(err.kind());
        error
    }

    pub(crate) fn protocol(detail: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Protocol, "the server broke the protocol", detail)
    }

    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Closed, "connection lost", "the server closed it unexpectedly")
    }

    /// The same error, told of a place (`host:port`).
    pub(crate) fn at(mut self, place: &str) -> Self {
        self.0.detail =
            if self.0.detail.is_empty() { place.to_owned() } else { format!("{place}: {}", self.0.detail) };
        self
    }

    /// The same error, with what to do about it at the end of its text.
    pub(crate) fn with_remedy(mut self, remedy: Option<&'static str>) -> Self {
        self.0.remedy = remedy;
        self
    }

    /// What the operating system said, where it failed.
    pub(crate) fn io_kind(&self) -> Option<io::ErrorKind> {
        self.0.io
    }

    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The server's error, where it sent one.
    #[must_use]
    pub fn server(&self) -> Option<&ServerError> {
        self.0.server.as_ref()
    }

    /// The SQLSTATE of the server's error, where it sent one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        self.server().map(|server| server.code.as_str())
    }

    /// Whether connecting again may help. The one place where this is decided.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let passing = match self.0.kind {
            ErrorKind::Resolve
            | ErrorKind::Io
            | ErrorKind::Timeout
            | ErrorKind::Closed
            | ErrorKind::WrongServer => true,
            ErrorKind::Server => self.sqlstate().is_some_and(passing_sqlstate),
            ErrorKind::Config
            | ErrorKind::Tls
            | ErrorKind::Auth
            | ErrorKind::Protocol
            | ErrorKind::Abandoned => false,
        };
        if passing { Policy::Retry } else { Policy::Stop }
    }
}

/// SQLSTATEs of failures that pass by themselves ("PostgreSQL Error Codes" in the manual).
fn passing_sqlstate(code: &str) -> bool {
    match code {
        // The server refuses what was sent, for instance a pooler a startup parameter: it will again.
        "08P01" => false,
        // Shut down, crashed, starting up, idle session ended.
        "57P01" | "57P02" | "57P03" | "57P05" => true,
        // Too many connections; the slot is still held by the connection before this one.
        "53300" | "55006" => true,
        // Connection exceptions; serialization failures and deadlocks.
        _ => code.starts_with("08") || code.starts_with("40"),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.what)?;
        if !self.0.detail.is_empty() {
            write!(f, ": {}", self.0.detail)?;
        }
        if let Some(server) = &self.0.server {
            write!(f, ": {server}")?;
        }
        if let Some(remedy) = self.0.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}, {:?})", self.0.kind, self.to_string())
    }
}

impl std::error::Error for Error {}

impl From<tokio_postgres::Error> for Error {
    fn from(err: tokio_postgres::Error) -> Self {
        const WHAT: &str = "query failed";
        if let Some(db) = err.as_db_error() {
            return Self::from_server(
                WHAT,
                ServerError {
                    severity: db.severity().to_owned(),
                    code: db.code().code().to_owned(),
                    message: db.message().to_owned(),
                    detail: db.detail().map(str::to_owned),
                    hint: db.hint().map(str::to_owned),
                    context: db.where_().map(str::to_owned),
                },
            );
        }
        if err.is_closed() {
            return Self::closed();
        }
        match std::error::Error::source(&err).and_then(|source| source.downcast_ref::<io::Error>()) {
            Some(io) => Self::io(WHAT, io),
            None => match std::error::Error::source(&err) {
                Some(source) => Self::protocol(format_args!("{err}: {source}")),
                None => Self::protocol(&err),
            },
        }
    }
}

/// An `ErrorResponse` of the server ("Error and Notice Message Fields" in the manual).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL`, `PANIC`: never translated where the server is 9.6 or later.
    pub severity: String,
    /// Five characters of SQLSTATE; empty where the server sent none.
    pub code: String,
    /// The primary message, in the server's language.
    pub message: String,
    /// More about the problem. May quote values of rows.
    pub detail: Option<String>,
    /// What the server suggests to do.
    pub hint: Option<String>,
    /// Where it happened: function, slot, callback.
    pub context: Option<String>,
}

impl ServerError {
    /// Reads the body of an `ErrorResponse` or `NoticeResponse`. Whatever is malformed is left out.
    pub(crate) fn parse(body: &[u8]) -> Self {
        let mut error = Self::default();
        for field in body.split(|byte| *byte == 0) {
            let Some((name, value)) = field.split_first() else { break };
            let value = String::from_utf8_lossy(value).into_owned();
            match name {
                b'V' => error.severity = value,
                b'S' if error.severity.is_empty() => error.severity = value,
                b'C' => error.code = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                b'W' => error.context = Some(value),
                _ => {}
            }
        }
        error
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.code)?;
        // Classes 22 and 23 (data exceptions, constraints) quote values of rows in the detail.
        if let Some(detail) = &self.detail
            && !self.code.starts_with("22")
            && !self.code.starts_with("23")
        {
            write!(f, "; {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        if self.code == "08P01" && self.message.contains("startup parameter") {
            f.write_str("; connect to the server itself, not through a connection pooler")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str) -> Error {
        Error::from_server("test", ServerError { code: code.to_owned(), ..ServerError::default() })
    }

    #[test]
    fn what_passes_by_itself_is_retried() {
        for code in ["57P01", "57P02", "57P03", "57P05", "08006", "08000", "53300", "55006", "40001", "40P01"]
        {
            assert_eq!(server(code).policy(), Policy::Retry, "{code}");
        }
        for kind in [ErrorKind::Io, ErrorKind::Resolve, ErrorKind::Closed, ErrorKind::Timeout] {
            assert_eq!(Error::new(kind, "test", "").policy(), Policy::Retry, "{kind:?}");
        }
    }

    #[test]
    fn everything_else_stops() {
        for code in
            ["28000", "28P01", "3D000", "42501", "42704", "55000", "22023", "08P01", "XX000", "", "57014"]
        {
            assert_eq!(server(code).policy(), Policy::Stop, "{code}");
        }
        for kind in [ErrorKind::Config, ErrorKind::Tls, ErrorKind::Auth, ErrorKind::Protocol] {
            assert_eq!(Error::new(kind, "test", "").policy(), Policy::Stop, "{kind:?}");
        }
    }

    #[test]
    fn an_error_response_is_read_truncated_at_every_byte() {
        let body = b"SFEHLER\0VERROR\0C42704\0Mno slot\0Dmore\0Htry\0Wwhere\0Fslot.c\0\0";
        let whole = ServerError::parse(body);
        assert_eq!(whole.severity, "ERROR");
        assert_eq!(whole.code, "42704");
        assert_eq!(whole.to_string(), "no slot (SQLSTATE 42704); more; hint: try");
        assert_eq!(whole.context.as_deref(), Some("where"));
        for end in 0..body.len() {
            let _ = ServerError::parse(&body[..end]).to_string();
        }
    }

    #[test]
    fn values_of_rows_are_not_shown() {
        let body = b"C23505\0Mduplicate key\0DKey (id)=(42) already exists.\0\0";
        assert!(!ServerError::parse(body).to_string().contains("42)"));
    }
}
