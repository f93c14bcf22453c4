//! A connection to the server, of our own: tokio-postgres has neither the replication mode nor `COPY BOTH`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::auth;
use crate::conninfo::{ConnectOptions, Host, TargetSession};
use crate::error::{Error, ErrorKind, Policy, Result, ServerError};
use crate::frame::{
    Body, Frame, FrameBuffer, MAX_MESSAGE, MAX_STARTUP_MESSAGE, TAG_BACKEND_KEY, TAG_COMMAND_COMPLETE,
    TAG_COPY_IN, TAG_DATA_ROW, TAG_EMPTY_QUERY, TAG_ERROR, TAG_NOTICE, TAG_NOTIFICATION, TAG_PARAMETER,
    TAG_PROTOCOL_VERSION, TAG_READY, TAG_ROW_DESCRIPTION,
};
use crate::remedy;
use crate::silence::{Patient, Peer};
use crate::transport::{self, Address, Encryption};

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Ordinary SQL.
    Sql,
    /// `replication=database`: the commands of a logical walsender, and SQL through [`Connection::simple_query`].
    Replication,
}

/// Settings of every session, so that a value has one text whoever reads it and however the server, the database or
/// the role are configured. Startup parameters win over all of these.
const SESSION_PARAMETERS: [(&str, &str); 9] = [
    ("client_encoding", "UTF8"),
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("xmloption", "content"),
    ("quote_all_identifiers", "off"),
];

/// The settings that values are printed under, as clauses of a function that prints some.
pub(crate) fn function_settings() -> String {
    let of_values = SESSION_PARAMETERS.iter().filter(|(name, _)| *name != "client_encoding");
    let clauses = of_values.map(|(name, value)| format!("set {name} = '{value}'"));
    clauses.collect::<Vec<_>>().join(" ")
}

/// With this search path, names of relations, types and functions (`regclass` and its kin) are printed with their schema,
/// whatever the path of the role is.
const SEARCH_PATH: (&str, &str) = ("search_path", "pg_catalog");

/// Limits that a role may carry for the sake of applications and that must not end a snapshot or a stream; and how a server
/// that waits for us finds out within two minutes that nobody is here any more: for hours it may believe otherwise, and
/// keep the locks and the snapshot of the session. (No `tcp_user_timeout`: it ends connections that wait for room, too.) They
/// go before the user's own `options`, which win.
const LIMITS: &str = "-c statement_timeout=0 -c lock_timeout=0 \
    -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0 -c tcp_keepalives_idle=60 \
    -c tcp_keepalives_interval=15 -c tcp_keepalives_count=4";

/// The rows of a result, as text.
pub type Rows = Vec<Vec<Option<String>>>;

/// A column of a result, as the server resolved it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultColumn {
    /// `pg_class.oid` of the table that it is of; 0 where it is of none.
    pub table: u32,
    /// Its number there.
    pub attnum: i16,
    /// Its type; of a domain, the type below.
    pub type_oid: u32,
}

/// A connection, between two commands.
#[derive(Debug)]
pub struct Connection {
    pub(crate) io: Patient,
    pub(crate) frames: FrameBuffer,
    parameters: Parameters,
    peer: Arc<Peer>,
    state: State,
}

/// What the server says about itself.
#[derive(Debug, Default)]
struct Parameters(BTreeMap<String, String>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    /// A command was sent and its end not seen. Left behind by a future that was dropped, or by an I/O error.
    Busy,
}

impl Connection {
    /// Connects to the first of the hosts that answers and is of the wanted sort.
    ///
    /// # Errors
    /// The failure of the last host tried. A host that refuses for good (a wrong password, no such database) ends the
    /// search, as in libpq.
    pub async fn connect(options: &ConnectOptions, mode: Mode) -> Result<Self> {
        let mut last = None;
        // `prefer-standby` goes round twice.
        let rounds: &[TargetSession] = match options.target_session {
            TargetSession::PreferStandby => &[TargetSession::Standby, TargetSession::Any],
            ref wanted => std::slice::from_ref(wanted),
        };
        for wanted in rounds {
            for host in &options.hosts {
                match Box::pin(Self::connect_host(options, host, mode)).await {
                    Ok(mut connection) if connection.parameters.suit(*wanted) => {
                        connection.take_any_bytes().await?;
                        connection.take_any_time(options).await?;
                        return Ok(connection);
                    }
                    Ok(connection) => {
                        connection.close().await;
                        let err = "the server is not of the sort that target_session_attrs asks for";
                        last = Some(Error::new(ErrorKind::WrongServer, err, host));
                    }
                    Err(err) => {
                        let remedy = remedy::of(&err, host);
                        let err = err.at(&host.to_string()).with_remedy(remedy);
                        let next = err.policy() == Policy::Retry;
                        tracing::debug!(host = %host, error = %err, "host skipped");
                        last = Some(err);
                        if !next {
                            break;
                        }
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::new(ErrorKind::Config, "connecting failed", "there is no host")))
    }

    /// A database in SQL_ASCII holds bytes of any encoding, which the server refuses to send as UTF-8 where they are none: it
    /// is asked to send them as they are.
    async fn take_any_bytes(&mut self) -> Result<()> {
        if self.parameter("server_encoding") == Some("SQL_ASCII") {
            self.simple_query("set client_encoding = 'SQL_ASCII'").await?;
        }
        Ok(())
    }

    /// A role's limit to transactions would end each copy that takes longer. Servers before 17 do not know it, and refuse
    /// a connection that speaks of it.
    async fn take_any_time(&mut self, options: &ConnectOptions) -> Result<()> {
        let own = options.options.as_ref().is_some_and(|own| own.contains("transaction_timeout"));
        if self.server_version() >= 170_000 && !own {
            self.simple_query("set transaction_timeout = 0").await?;
        }
        Ok(())
    }

    async fn connect_host(options: &ConnectOptions, host: &Host, mode: Mode) -> Result<Self> {
        let mut last = Error::closed();
        for address in within(options.connect_timeout, transport::addresses(host)).await? {
            match Self::connect_address(options, host, &address, mode).await {
                Ok(connection) => return Ok(connection),
                // A server that has refused for good will do so by its other addresses.
                Err(err) if err.policy() == Policy::Stop => return Err(err),
                Err(err) => last = err,
            }
        }
        Err(last)
    }

    async fn connect_address(
        options: &ConnectOptions,
        host: &Host,
        address: &Address,
        mode: Mode,
    ) -> Result<Self> {
        let mut told: Option<Error> = None;
        for encryption in Encryption::attempts(options.tls.mode, host) {
            let attempt = Self::attempt(options, host, address, *encryption, mode);
            let err = match within(options.connect_timeout, Box::pin(attempt)).await {
                Ok(connection) => return Ok(connection),
                Err(err) => err,
            };
            let wants_it_otherwise = err.sqlstate() == Some("28000");
            // `allow` and `prefer` try the other way where TLS failed or pg_hba.conf wants it otherwise; never where a
            // password was refused, which would then be sent once more, in the open.
            let other_way = err.kind() == ErrorKind::Tls || wants_it_otherwise;
            // Of two refusals, the one of the way that got further.
            let further = err.server().is_some() && !wants_it_otherwise;
            if told.is_none() || further {
                told = Some(err);
            }
            if !other_way {
                break;
            }
        }
        Err(told.unwrap_or_else(Error::closed))
    }

    pub(crate) async fn attempt(
        options: &ConnectOptions,
        host: &Host,
        address: &Address,
        encryption: Encryption,
        mode: Mode,
    ) -> Result<Self> {
        let io = transport::dial(address, options).await?;
        let mut io = io.encrypt(encryption, host, options).await?;
        let mut frames = FrameBuffer::default();
        send(&mut io, &startup_message(options, mode)?).await?;
        let password = host.password_now(&options.database, &options.user).await;
        auth::authenticate(&mut io, &mut frames, options, password.as_ref()).await?;

        let mut parameters = Parameters::default();
        let mut key = Bytes::new();
        loop {
            let frame = frames.next(&mut io, MAX_STARTUP_MESSAGE).await?;
            match frame.tag {
                TAG_READY => break,
                TAG_BACKEND_KEY => key = frame.body,
                TAG_PARAMETER => parameters.set(&frame)?,
                TAG_NOTICE | TAG_PROTOCOL_VERSION => {}
                TAG_ERROR => return Err(server_error("the server refused the connection", &frame)),
                _ => return Err(frame.unexpected("start-up")),
            }
        }
        let peer = Arc::new(Peer {
            address: address.clone(),
            host: host.clone(),
            options: options.clone(),
            encryption,
            key,
        });
        Ok(Self { io: Patient::new(io, Arc::clone(&peer)), frames, parameters, peer, state: State::Ready })
    }

    /// The server's version as a number: 150018 for 15.18, 0 where it does not say.
    #[must_use]
    pub fn server_version(&self) -> u32 {
        self.parameter("server_version").map_or(0, version_number)
    }

    /// A parameter that the server reports (`server_version`, `TimeZone`, `in_hot_standby` …).
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.0.get(name).map(String::as_str)
    }

    /// The server that the connection reached.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.peer.host
    }

    /// Whether TLS protects the connection.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.io.is_encrypted()
    }

    /// Runs SQL, or a replication command, and gives the rows of its last result set.
    ///
    /// Texts that are not UTF-8 (a timeline history file may be anything) have their bad bytes replaced.
    ///
    /// # Errors
    /// The server's, after which the connection can still be used; a lost connection.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Rows> {
        self.query(sql).await.map(|(_, rows)| rows)
    }

    /// Runs SQL, and gives the columns of its last result set: what its names mean now, whatever the transaction's snapshot shows.
    ///
    /// # Errors
    /// As [`Connection::simple_query`].
    pub async fn describe(&mut self, sql: &str) -> Result<Vec<ResultColumn>> {
        self.query(sql).await.map(|(columns, _)| columns)
    }

    async fn query(&mut self, sql: &str) -> Result<(Vec<ResultColumn>, Rows)> {
        self.start(sql).await?;
        let (mut columns, mut rows) = (Vec::new(), Rows::new());
        let mut failure = None;
        loop {
            let frame = self.next().await?;
            match frame.tag {
                TAG_READY => break,
                TAG_ROW_DESCRIPTION => (columns, rows) = (result_columns(&frame.body)?, Rows::new()),
                TAG_DATA_ROW => rows.push(data_row(&frame.body)?),
                TAG_ERROR => failure = Some(server_error("the server refused a command", &frame)),
                TAG_COMMAND_COMPLETE | TAG_EMPTY_QUERY => {}
                // Ends as an ErrorResponse of its own.
                TAG_COPY_IN => self.send_copy_fail().await?,
                _ => return Err(frame.unexpected("a query")),
            }
        }
        self.state = State::Ready;
        failure.map_or(Ok((columns, rows)), Err)
    }

    /// Sends a simple query.
    pub(crate) async fn start(&mut self, sql: &str) -> Result<()> {
        if self.state == State::Busy {
            return Err(Error::new(
                ErrorKind::Abandoned,
                "the connection cannot be used any more",
                "an earlier command on it was not followed to its end",
            ));
        }
        let mut message = BytesMut::new();
        frontend::query(sql, &mut message)
            .map_err(|err| Error::new(ErrorKind::Config, "a command cannot be sent", err))?;
        self.state = State::Busy;
        send(&mut self.io, &message).await
    }

    /// The next message that belongs to a command. Notices are logged, parameters noted.
    pub(crate) async fn next(&mut self) -> Result<Frame> {
        loop {
            let frame = self.frames.next(&mut self.io, MAX_MESSAGE).await?;
            match frame.tag {
                TAG_PARAMETER => self.parameters.set(&frame)?,
                TAG_NOTICE => log_notice(&frame),
                TAG_NOTIFICATION => {}
                _ => return Ok(frame),
            }
        }
    }

    /// The command has been followed to its `ReadyForQuery`.
    pub(crate) fn finish(&mut self) {
        self.state = State::Ready;
    }

    async fn send_copy_fail(&mut self) -> Result<()> {
        let mut message = BytesMut::new();
        frontend::copy_fail("no data is sent this way", &mut message)
            .map_err(|err| Error::new(ErrorKind::Protocol, "a command cannot be sent", err))?;
        send(&mut self.io, &message).await
    }

    /// What asks the server, over a connection of its own, to cancel the command that runs on this one.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::clone(&self.peer))
    }

    /// Says good-bye and closes. A connection that is merely dropped leaves the server to find out.
    pub async fn close(mut self) {
        let mut message = BytesMut::new();
        frontend::terminate(&mut message);
        // The connection is over, whatever comes of it.
        let _ = send(&mut self.io, &message).await;
        let _ = self.io.shutdown().await;
    }

    /// What is left of the connection for a user of its own protocol: the socket, what was read and not taken.
    pub(crate) fn into_parts(self) -> (Patient, FrameBuffer) {
        (self.io, self.frames)
    }

    /// The messages with which the session began, as far as they still matter: keys and parameters.
    pub(crate) fn greeting(&self) -> (Bytes, HashMap<String, String>) {
        (self.peer.key.clone(), self.parameters.0.clone().into_iter().collect())
    }
}

impl Parameters {
    fn set(&mut self, frame: &Frame) -> Result<()> {
        let mut body = Body(&frame.body);
        let (name, value) = (body.text()?, body.text()?);
        self.0.insert(name, value);
        Ok(())
    }

    /// Whether the server is of the wanted sort. From version 14 on each says by itself.
    fn suit(&self, wanted: TargetSession) -> bool {
        let on = |name: &str| self.0.get(name).is_some_and(|value| value == "on");
        let standby = on("in_hot_standby");
        let read_only = standby || on("default_transaction_read_only");
        match wanted {
            TargetSession::Any | TargetSession::PreferStandby => true,
            TargetSession::ReadWrite => !read_only,
            TargetSession::ReadOnly => read_only,
            TargetSession::Primary => !standby,
            TargetSession::Standby => standby,
        }
    }
}

/// Asks for the command on a connection to be cancelled.
#[derive(Clone, Debug)]
pub struct Canceller(Arc<Peer>);

impl Canceller {
    /// Sends the request. The server does not say what came of it: the command may have ended by itself.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn cancel(&self) -> Result<()> {
        const CANCEL_REQUEST: u32 = 80_877_102;
        let Peer { address, host, options, encryption, key } = &*self.0;
        let io = transport::dial(address, options).await?;
        let mut io = io.encrypt(*encryption, host, options).await?;
        let length = u32::try_from(key.len() + 8).unwrap_or(u32::MAX);
        let message = [&length.to_be_bytes()[..], &CANCEL_REQUEST.to_be_bytes(), key].concat();
        send(&mut io, &message).await?;
        // The server closes when it has read it; closing first could overtake the request.
        let mut rest = [0; 1];
        let _ = tokio::io::AsyncReadExt::read(&mut io, &mut rest).await;
        Ok(())
    }
}

/// Bounds a step of connecting by `connect_timeout`.
async fn within<T>(limit: Option<Duration>, step: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(limit) = limit else { return step.await };
    tokio::time::timeout(limit, step).await.unwrap_or_else(|_| {
        let limit = format_args!("no answer within {limit:?} (connect_timeout)");
        Err(Error::new(ErrorKind::Timeout, "connecting failed", limit))
    })
}

fn startup_message(options: &ConnectOptions, mode: Mode) -> Result<BytesMut> {
    let switches = match &options.options {
        Some(own) => format!("{LIMITS} {own}"),
        None => LIMITS.to_owned(),
    };
    let mut parameters = vec![
        ("user", options.user.as_str()),
        ("database", &options.database),
        ("application_name", &options.application_name),
        ("options", &switches),
    ];
    parameters.extend(SESSION_PARAMETERS);
    if mode == Mode::Replication {
        parameters.push(("replication", "database"));
        parameters.push(SEARCH_PATH);
    }
    let mut message = BytesMut::new();
    frontend::startup_message(parameters, &mut message)
        .map_err(|err| Error::new(ErrorKind::Config, "connection settings cannot be sent", err))?;
    Ok(message)
}

async fn send(io: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> Result<()> {
    let failed = |err| Error::io("sending to the server", &err);
    io.write_all(message).await.map_err(failed)?;
    io.flush().await.map_err(failed)
}

pub(crate) fn server_error(what: &'static str, frame: &Frame) -> Error {
    Error::from_server(what, ServerError::parse(&frame.body))
}

pub(crate) fn log_notice(frame: &Frame) {
    let notice = ServerError::parse(&frame.body);
    if notice.severity == "WARNING" {
        tracing::warn!(notice = %notice, "the server warns");
    } else {
        tracing::debug!(notice = %notice, "notice of the server");
    }
}

/// Of each column: name, table, number there, type, its length and modifier, format.
fn result_columns(body: &[u8]) -> Result<Vec<ResultColumn>> {
    let mut body = Body(body);
    let count = body.i16()?;
    (0..count)
        .map(|_| {
            body.text()?;
            let (table, attnum) = (body.i32()?.cast_unsigned(), body.i16()?);
            let type_oid = body.i32()?.cast_unsigned();
            body.bytes(8)?;
            Ok(ResultColumn { table, attnum, type_oid })
        })
        .collect()
}

fn data_row(body: &[u8]) -> Result<Vec<Option<String>>> {
    let mut body = Body(body);
    let count = body.i16()?;
    (0..count)
        .map(|_| match usize::try_from(body.i32()?) {
            Ok(length) => Ok(Some(String::from_utf8_lossy(body.bytes(length)?).into_owned())),
            // -1: null.
            Err(_) => Ok(None),
        })
        .collect()
}

/// `15.18 (Debian …)` is 150018; `17beta2` and `18devel` are the version to come.
fn version_number(text: &str) -> u32 {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let major = numbers.next().unwrap_or(0);
    let released = text.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with('.');
    let minor = if released { numbers.next().unwrap_or(0) } else { 0 };
    major.saturating_mul(10_000).saturating_add(minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        for (text, number) in
            [("15.18 (Debian 15.18-0+deb12u1)", 150_018), ("17beta2", 170_000), ("18devel", 180_000), ("", 0)]
        {
            assert_eq!(version_number(text), number, "{text}");
        }
    }

    #[test]
    fn a_row_truncated_at_every_byte_is_an_error() {
        let body = b"\0\x03\0\0\0\x02ab\xff\xff\xff\xff\0\0\0\0";
        assert_eq!(data_row(body).unwrap(), [Some("ab".to_owned()), None, Some(String::new())]);
        for end in 0..body.len() {
            assert_eq!(data_row(&body[..end]).unwrap_err().kind(), ErrorKind::Protocol, "{end}");
        }
    }
}
