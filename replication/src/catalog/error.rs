use tokio_postgres::error::SqlState;

use crate::error::Policy;
use crate::pattern::PatternError;

/// What kind of trouble a [`CatalogError`] is, and so what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The connection is gone or the server is going down or coming up: connect anew and try again.
    Connection,
    /// Somebody else holds what is needed for now (a lock, an active slot): try again later.
    Busy,
    /// The role lacks a right; the message says what a DBA has to run.
    Rights,
    /// The table, slot or publication does not exist.
    Missing,
    /// It exists already, or exists in another shape than the one that is needed.
    Conflict,
    /// A `--table` pattern is wrong or matches nothing.
    Pattern,
    /// A name that cannot be used.
    Name,
    /// The server's version cannot do it.
    Unsupported,
    /// Anything else that the server refused, or an answer that makes no sense.
    Server,
}

/// Something about the catalog, a publication or a slot could not be read or done.
///
/// The message says what was being done, what went wrong and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {detail}")]
pub struct CatalogError {
    kind: ErrorKind,
    doing: &'static str,
    detail: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl CatalogError {
    pub(crate) fn new(kind: ErrorKind, doing: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, doing, detail: detail.into(), source: None }
    }

    /// For `map_err`: what the server or the connection said while `doing` something.
    pub(crate) fn from_postgres(doing: &'static str) -> impl Fn(tokio_postgres::Error) -> Self {
        move |error| {
            let kind = kind(&error);
            let detail = match error.as_db_error() {
                Some(db) => {
                    let mut detail = format!("{} (SQLSTATE {})", db.message(), db.code().code());
                    for more in [db.detail(), db.hint()].into_iter().flatten() {
                        detail.push_str("; ");
                        detail.push_str(more);
                    }
                    detail
                }
                None => match std::error::Error::source(&error) {
                    Some(cause) => format!("{error}: {cause}"),
                    None => error.to_string(),
                },
            };
            Self { kind, doing, detail, source: Some(Box::new(error)) }
        }
    }

    /// The same error with a remedy at the end of its message.
    pub(crate) fn with_remedy(mut self, remedy: &str) -> Self {
        self.detail.push_str("; ");
        self.detail.push_str(remedy);
        self
    }

    /// What kind of trouble it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether trying again, where needed on a new connection, may help.
    #[must_use]
    pub fn policy(&self) -> Policy {
        match self.kind {
            ErrorKind::Connection | ErrorKind::Busy => Policy::Retry,
            ErrorKind::Rights
            | ErrorKind::Missing
            | ErrorKind::Conflict
            | ErrorKind::Pattern
            | ErrorKind::Name
            | ErrorKind::Unsupported
            | ErrorKind::Server => Policy::Stop,
        }
    }

    /// The SQLSTATE, where the server gave one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        let error = self.source.as_ref()?.downcast_ref::<tokio_postgres::Error>()?;
        error.code().map(SqlState::code)
    }
}

impl From<PatternError> for CatalogError {
    fn from(error: PatternError) -> Self {
        Self {
            kind: ErrorKind::Pattern,
            doing: "selecting tables",
            detail: error.to_string(),
            source: Some(Box::new(error)),
        }
    }
}

/// By SQLSTATE, never by text: texts differ between versions and languages.
fn kind(error: &tokio_postgres::Error) -> ErrorKind {
    let Some(code) = error.code() else {
        let outside = std::error::Error::source(error).is_some_and(|cause| cause.is::<std::io::Error>());
        return if error.is_closed() || outside { ErrorKind::Connection } else { ErrorKind::Server };
    };
    match code.code() {
        "42501" => ErrorKind::Rights,
        // undefined_object, undefined_table, invalid_schema_name
        "42704" | "42P01" | "3F000" => ErrorKind::Missing,
        // duplicate_object, duplicate_table
        "42710" | "42P07" => ErrorKind::Conflict,
        // object_in_use, lock_not_available, query_canceled, deadlock_detected, serialization_failure,
        // configuration_limit_exceeded, out of locks or slots
        "55006" | "55P03" | "57014" | "40P01" | "40001" | "53400" | "53200" => ErrorKind::Busy,
        "0A000" => ErrorKind::Unsupported,
        // admin_shutdown, crash_shutdown, cannot_connect_now, idle timeouts, too_many_connections
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "53300" => ErrorKind::Connection,
        code if code.starts_with("08") => ErrorKind::Connection,
        _ => ErrorKind::Server,
    }
}
