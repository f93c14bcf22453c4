//! Connection settings, as libpq takes them.
//!
//! A URL, a `key=value` string, `PG*` environment variables and the password file, in libpq's order of precedence: the
//! text, then the environment, then the defaults ("Connection Strings" and "Environment Variables" in the PostgreSQL
//! manual). What libpq knows and this crate does not support is refused, never passed over where it matters.

mod keys;
mod pairs;
mod settings;
mod url;

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use crate::passfile;
use crate::table::quote_literal;
use crate::tls;
use settings::Settings;

/// The connection settings cannot be used. The text says why; it never holds a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConnInfoError(String);

impl ConnInfoError {
    fn new(text: impl fmt::Display) -> Self {
        Self(text.to_string())
    }
}

impl From<ConnInfoError> for crate::Error {
    fn from(err: ConnInfoError) -> Self {
        Self::new(crate::ErrorKind::Config, "connection settings", err)
    }
}

/// What connection settings take from the process around them.
#[derive(Clone, Default)]
pub struct Environment {
    /// Environment variables by name.
    pub variables: HashMap<String, String>,
    /// The home directory, where the password file and certificates are looked for.
    pub home: Option<PathBuf>,
    /// The name of the operating system's user: the default of the database user.
    pub user: Option<String>,
}

impl Environment {
    /// The environment of this process. Variables that are not UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        let variables: HashMap<_, _> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let home = variables.get("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        Self { variables, home, user: whoami::username().ok() }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // PGPASSWORD and much else that is not ours to show.
        f.debug_struct("Environment")
            .field("home", &self.home)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// A password, which no `Debug` output shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(pub(crate) String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A host over TCP.
    Tcp {
        /// The name, which certificates are checked against. Empty where only an address is known.
        name: String,
        /// `hostaddr`: connect to this address and do not look the name up.
        address: Option<IpAddr>,
    },
    /// The directory of a Unix-domain socket.
    Unix(PathBuf),
}

/// One of the servers to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// The port; also a part of the socket's file name.
    pub port: u16,
    pub(crate) password: Option<Password>,
    /// Where no password was given: the password file, and the name that the host has in it.
    pub(crate) passfile: Option<(PathBuf, String)>,
    /// A command that prints the password, in place of both.
    pub(crate) command: Option<String>,
}

/// How long a password command may take.
const LONGEST_COMMAND: Duration = Duration::from_secs(30);
/// Bytes of a password that a command prints.
const LONGEST_PASSWORD: usize = 4096;

impl Host {
    /// The password to log in with. The password file is read each time: passwords are rotated.
    pub(crate) async fn password_now(&self, database: &str, user: &str) -> Option<Password> {
        if let Some(command) = &self.command {
            return printed_by(command).await;
        }
        let Some((file, name)) = &self.passfile else { return self.password.clone() };
        let entries = passfile::read(file)?;
        passfile::find(&entries, name, self.port, database, user).map(Password)
    }

    /// The host name, the address where there is no name, or the socket's directory.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.endpoint {
            Endpoint::Tcp { name, address: Some(address) } if name.is_empty() => address.to_string(),
            Endpoint::Tcp { name, .. } => name.clone(),
            Endpoint::Unix(directory) => directory.display().to_string(),
        }
    }

    /// The file of a Unix-domain socket.
    pub(crate) fn socket_file(&self, directory: &Path) -> PathBuf {
        directory.join(format!(".s.PGSQL.{}", self.port))
    }
}

/// What a shell command prints, without the line's end; none where it fails, says too much, or takes too long, which the log
/// says. It ends with whoever waits for it.
async fn printed_by(command: &str) -> Option<Password> {
    match tokio::time::timeout(LONGEST_COMMAND, run(command)).await {
        Ok(Ok(text)) => Some(Password(text)),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the password command has failed");
            None
        }
        Err(_) => {
            tracing::warn!(
                seconds = LONGEST_COMMAND.as_secs(),
                "the password command does not end: it is given up"
            );
            None
        }
    }
}

/// A process that ends with whoever waits for it.
struct Shell(Child);

impl Drop for Shell {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn run(command: &str) -> std::io::Result<String> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command);
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut shell = Shell(shell.spawn()?);
    let (out, errors) = (beginning(shell.0.stdout.take()), beginning(shell.0.stderr.take()));
    let (out, errors) = (out.await?, errors.await?);
    if out.len() > LONGEST_PASSWORD {
        let error = format!("it says more than {LONGEST_PASSWORD} bytes, which no password has");
        return Err(std::io::Error::other(error));
    }
    let status = loop {
        match shell.0.try_wait()? {
            Some(status) => break status,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    if !status.success() {
        let said = String::from_utf8_lossy(&errors);
        return Err(std::io::Error::other(format!("{status}: {}", said.trim())));
    }
    let text = String::from_utf8_lossy(&out);
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// What a command says, as far as a password may go and a byte more. It is read by a thread of its own, for which nobody has to wait: what
/// the command has started may hold on to its output.
fn beginning(from: Option<impl Read + Send + 'static>) -> impl Future<Output = std::io::Result<Vec<u8>>> {
    let (tell, said) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut from = from.map(|from| from.take(LONGEST_PASSWORD as u64 + 1));
        let read = from.as_mut().map_or(Ok(0), |from| from.read_to_end(&mut bytes));
        // Nobody listens any more where it was given up.
        let _ = tell.send(read.map(|_| bytes));
    });
    async { said.await.unwrap_or_else(|_| Err(std::io::Error::other("what it says cannot be read"))) }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Endpoint::Unix(directory) => self.socket_file(directory).display().fmt(f),
            Endpoint::Tcp { .. } if self.name().contains(':') => write!(f, "[{}]:{}", self.name(), self.port),
            Endpoint::Tcp { .. } => write!(f, "{}:{}", self.name(), self.port),
        }
    }
}

/// `sslmode`: how far TLS is insisted on. Unix-domain sockets never use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Only where the server insists.
    Allow,
    /// Where the server has it.
    Prefer,
    /// Always; the certificate is checked only where a root certificate is at hand.
    Require,
    /// Always, with a certificate of a known authority.
    VerifyCa,
    /// Always, with a certificate of a known authority for this very host.
    VerifyFull,
}

/// Which authorities a server's certificate may come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCertificates {
    /// `~/.postgresql/root.crt`, where it exists; else there are none.
    Default(Option<PathBuf>),
    /// The file of `sslrootcert`.
    File(PathBuf),
    /// `sslrootcert=system`: those of the operating system.
    System,
}

/// `channel_binding`: whether the password exchange is tied to the TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where the server offers it.
    Prefer,
    /// Always: any other authentication is refused.
    Require,
}

/// `target_session_attrs`: what sort of server will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetSession {
    /// Any.
    Any,
    /// One whose sessions can write.
    ReadWrite,
    /// One whose sessions cannot write.
    ReadOnly,
    /// One that is not a standby.
    Primary,
    /// A standby.
    Standby,
    /// A standby if one of the hosts is one, else any.
    PreferStandby,
}

/// TLS settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// `sslmode`.
    pub mode: SslMode,
    /// `sslrootcert`.
    pub roots: RootCertificates,
    /// `sslcert` and `sslkey`: the client's certificate chain and key, both PEM.
    pub client: Option<(PathBuf, PathBuf)>,
    /// `sslsni`: name the host in the TLS handshake.
    pub server_name: bool,
}

/// TCP keepalives, in the operating system's terms; `None` leaves its default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalives {
    /// `keepalives_idle`: quiet time before the first probe.
    pub idle: Option<Duration>,
    /// `keepalives_interval`: time between probes.
    pub interval: Option<Duration>,
    /// `keepalives_count`: lost probes before the connection counts as dead.
    pub count: Option<u32>,
}

/// Everything that has to be known to connect.
///
/// ```
/// use bygone_replication::conninfo::{ConnectOptions, Environment};
///
/// let options = ConnectOptions::parse_in("postgres://app:secret@db:5433/shop", &Environment::default())?;
/// assert_eq!(options.host(), "db");
/// assert_eq!(options.database(), "shop");
/// assert!(!format!("{options:?}").contains("secret"));
/// # Ok::<(), bygone_replication::conninfo::ConnInfoError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) tls: TlsOptions,
    pub(crate) channel_binding: ChannelBinding,
    pub(crate) application_name: String,
    pub(crate) options: Option<String>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) keepalives: Option<Keepalives>,
    pub(crate) tcp_user_timeout: Option<Duration>,
    pub(crate) target_session: TargetSession,
    /// How long a server may let an answer wait before it is asked, over another connection, whether it is at work.
    pub(crate) silence: Option<Duration>,
}

impl ConnectOptions {
    /// Reads a URL (`postgres://…`, `postgresql://…`) or a `key=value` string, in the environment of this process.
    ///
    /// # Errors
    /// Malformed text; an unknown key (the nearest one is named) or one that is not supported; a value out of range.
    pub fn parse(text: &str) -> Result<Self, ConnInfoError> {
        Self::parse_in(text, &Environment::of_process())
    }

    /// As [`ConnectOptions::parse`], in an environment of the caller's.
    ///
    /// # Errors
    /// As there.
    pub fn parse_in(text: &str, environment: &Environment) -> Result<Self, ConnInfoError> {
        let pairs = if url::is_url(text) { url::parse(text)? } else { pairs::parse(text)? };
        Settings::new(pairs, environment)?.build()
    }

    /// The servers to try, in order.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The name of the first server.
    #[must_use]
    pub fn host(&self) -> String {
        self.hosts.first().map(Host::name).unwrap_or_default()
    }

    /// The port of the first server.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.hosts.first().map_or(keys::DEFAULT_PORT, |host| host.port)
    }

    /// The database user.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// `application_name`: what the server shows in `pg_stat_activity` and `pg_stat_replication`.
    #[must_use]
    pub fn application_name(&self) -> &str {
        &self.application_name
    }

    /// The TLS settings.
    #[must_use]
    pub fn tls(&self) -> &TlsOptions {
        &self.tls
    }

    /// The same server and user, another database.
    #[must_use]
    pub fn with_database(mut self, database: impl Into<String>) -> Self {
        self.database = database.into();
        self
    }

    /// The same, under another `application_name`.
    #[must_use]
    pub fn with_application_name(mut self, name: impl Into<String>) -> Self {
        self.application_name = name.into();
        self
    }

    /// The same, but a server that lets an answer wait for this long is asked over another connection whether it is at work on
    /// it. Where it is not, or does not answer there either, the connection counts as lost, and its session is ended.
    #[must_use]
    pub fn with_silence(mut self, limit: Duration) -> Self {
        self.silence = Some(limit);
        self
    }

    /// Has the password be what a shell command prints, without the line's end, where one is given. It is run at each connect: passwords
    /// are rotated.
    #[must_use]
    pub fn with_password_command(mut self, command: Option<&str>) -> Self {
        if let Some(command) = command {
            for host in &mut self.hosts {
                host.command = Some(command.to_owned());
            }
        }
        self
    }

    /// Reads the certificates and keys that a connection would use, so that what is wrong with them is known before the first.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) where a file cannot be used, or one is missing that `sslmode` needs.
    pub fn check_certificates(&self) -> Result<(), crate::Error> {
        let over_tcp = self.hosts.iter().any(|host| matches!(host.endpoint, Endpoint::Tcp { .. }));
        if over_tcp && self.tls.mode >= SslMode::Require { tls::check_files(&self.tls) } else { Ok(()) }
    }

    /// The settings for a log line: who connects where, without a password.
    #[must_use]
    pub fn redacted(&self) -> String {
        let hosts: Vec<_> = self.hosts.iter().map(Host::to_string).collect();
        format!(
            "{} as {} to database {}",
            hosts.join(","),
            quote_literal(&self.user),
            quote_literal(&self.database)
        )
    }
}

impl FromStr for ConnectOptions {
    type Err = ConnInfoError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests;
