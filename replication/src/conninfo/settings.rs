//! From keys and values to what they mean.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{
    ChannelBinding, ConnInfoError, ConnectOptions, Endpoint, Environment, Host, Keepalives, Password,
    RootCertificates, SslMode, TargetSession, TlsOptions, keys,
};

/// How long one connection attempt may take where `connect_timeout` does not say. libpq waits for ever; a capture that
/// runs unattended must come to its next try.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an answer is waited for before the server is asked whether it is at work. Huge transactions are decoded for minutes.
const SILENCE: Duration = Duration::from_secs(300);

/// Where servers put their sockets: Debian's directory, then PostgreSQL's own.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Settings by their canonical names, over an environment.
pub(super) struct Settings<'a> {
    values: BTreeMap<&'static str, String>,
    environment: &'a Environment,
}

impl<'a> Settings<'a> {
    /// Refuses unknown names, and values that are not supported.
    pub(super) fn new(
        pairs: Vec<(String, String)>,
        environment: &'a Environment,
    ) -> Result<Self, ConnInfoError> {
        let mut settings = Self { values: BTreeMap::new(), environment };
        for (name, value) in pairs {
            // Later ones win.
            settings.values.insert(keys::find(&name)?.name, value);
        }
        settings.check_support()?;
        Ok(settings)
    }

    /// A setting from the text or the environment; empty is absent, as in libpq.
    fn get(&self, name: &str) -> Option<&str> {
        match self.values.get(name) {
            Some(value) => Some(value.as_str()).filter(|value| !value.is_empty()),
            None => keys::variable(name).and_then(|variable| self.environment.variable(variable)),
        }
    }

    fn check_support(&self) -> Result<(), ConnInfoError> {
        for key in keys::KEYS {
            if let Some(value) = self.get(key.name)
                && let keys::Support::Only(allowed, why) = key.support
                && !allowed.contains(&value)
            {
                return Err(ConnInfoError::new(format_args!("{}={value} is not supported: {why}", key.name)));
            }
        }
        Ok(())
    }

    fn number(&self, name: &str) -> Result<Option<i64>, ConnInfoError> {
        self.get(name)
            .map(|text| {
                text.trim().parse::<i64>().map_err(|_| {
                    ConnInfoError::new(format_args!("{name} must be a whole number, not {text:?}"))
                })
            })
            .transpose()
    }

    fn seconds(&self, name: &str) -> Result<Option<Duration>, ConnInfoError> {
        Ok(self.number(name)?.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).map(Duration::from_secs))
    }

    /// A value out of a fixed list.
    fn choice<T: Copy>(&self, name: &str, default: T, choices: &[(&str, T)]) -> Result<T, ConnInfoError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        choices.iter().find(|(text, _)| *text == value).map(|(_, choice)| *choice).ok_or_else(|| {
            let known: Vec<_> = choices.iter().map(|(text, _)| *text).collect();
            ConnInfoError::new(format_args!("{name} must be one of {}, not {value:?}", known.join(", ")))
        })
    }

    /// A file of the user's, where it exists: `~/.postgresql/<name>`.
    fn default_file(&self, name: &str) -> Option<PathBuf> {
        let file = self.environment.home.as_ref()?.join(".postgresql").join(name);
        file.exists().then_some(file)
    }

    pub(super) fn build(&self) -> Result<ConnectOptions, ConnInfoError> {
        let user = self.get("user").map(str::to_owned).or_else(|| self.environment.user.clone());
        let user = user.ok_or_else(|| ConnInfoError::new("no user: set user= or PGUSER"))?;
        let database = self.get("dbname").unwrap_or(&user).to_owned();
        let mut hosts = self.hosts()?;
        self.fill_passwords(&mut hosts);

        let keepalives = Keepalives {
            idle: self.seconds("keepalives_idle")?,
            interval: self.seconds("keepalives_interval")?,
            count: self.number("keepalives_count")?.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0),
        };
        let tcp_user_timeout = self.number("tcp_user_timeout")?.and_then(|ms| u64::try_from(ms).ok());
        Ok(ConnectOptions {
            hosts,
            user,
            database,
            tls: self.tls()?,
            channel_binding: self.choice(
                "channel_binding",
                ChannelBinding::Prefer,
                &[
                    ("disable", ChannelBinding::Disable),
                    ("prefer", ChannelBinding::Prefer),
                    ("require", ChannelBinding::Require),
                ],
            )?,
            application_name: self
                .get("application_name")
                .or_else(|| self.get("fallback_application_name"))
                .unwrap_or("bygone")
                .to_owned(),
            options: self.get("options").map(str::to_owned),
            connect_timeout: match self.number("connect_timeout")? {
                None => Some(DEFAULT_CONNECT_TIMEOUT),
                // Zero and below wait for ever; libpq takes one second as two.
                Some(n) => u64::try_from(n).ok().filter(|n| *n > 0).map(|n| Duration::from_secs(n.max(2))),
            },
            keepalives: (self.number("keepalives")?.unwrap_or(1) != 0).then_some(keepalives),
            tcp_user_timeout: tcp_user_timeout.filter(|ms| *ms > 0).map(Duration::from_millis),
            silence: Some(SILENCE),
            target_session: self.choice(
                "target_session_attrs",
                TargetSession::Any,
                &[
                    ("any", TargetSession::Any),
                    ("read-write", TargetSession::ReadWrite),
                    ("read-only", TargetSession::ReadOnly),
                    ("primary", TargetSession::Primary),
                    ("standby", TargetSession::Standby),
                    ("prefer-standby", TargetSession::PreferStandby),
                ],
            )?,
        })
    }

    fn hosts(&self) -> Result<Vec<Host>, ConnInfoError> {
        let list = |name| self.get(name).map(|text| text.split(',').map(str::trim).collect::<Vec<_>>());
        let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
        let count = names.as_ref().or(addresses.as_ref()).map_or(1, Vec::len);
        if let Some(addresses) = &addresses
            && addresses.len() != count
        {
            let text = format!("{count} host(s), but {} hostaddr(s)", addresses.len());
            return Err(ConnInfoError(text));
        }
        if let Some(ports) = &ports
            && ports.len() != count
            && ports.len() != 1
        {
            return Err(ConnInfoError(format!("{count} host(s), but {} ports", ports.len())));
        }
        let item = |list: &Option<Vec<&str>>, i: usize| -> Option<String> {
            list.as_ref()?.get(i).filter(|text| !text.is_empty()).map(|text| (*text).to_owned())
        };
        (0..count)
            .map(|i| {
                let port = match &ports {
                    Some(only) if only.len() == 1 => item(&ports, 0),
                    _ => item(&ports, i),
                };
                let address = item(&addresses, i)
                    .map(|text| {
                        text.parse::<IpAddr>().map_err(|_| {
                            ConnInfoError::new(format_args!("hostaddr must be an IP address, not {text:?}"))
                        })
                    })
                    .transpose()?;
                let endpoint = match (item(&names, i), address) {
                    (Some(name), None) if name.starts_with('@') => {
                        return Err(ConnInfoError::new("abstract Unix-domain sockets are not supported"));
                    }
                    (Some(name), None) if name.starts_with('/') => Endpoint::Unix(name.into()),
                    (None, None) => Endpoint::Unix(default_socket_directory()),
                    (name, address) => Endpoint::Tcp { name: name.unwrap_or_default(), address },
                };
                Ok(Host {
                    endpoint,
                    port: port_number(port.as_deref())?,
                    password: None,
                    passfile: None,
                    command: None,
                })
            })
            .collect()
    }

    fn fill_passwords(&self, hosts: &mut [Host]) {
        if let Some(password) = self.get("password") {
            for host in hosts {
                host.password = Some(Password(password.to_owned()));
            }
            return;
        }
        let named = self.get("passfile").map(PathBuf::from);
        let Some(file) = named.or_else(|| Some(self.environment.home.as_ref()?.join(".pgpass"))) else {
            return;
        };
        for host in hosts {
            let name = match &host.endpoint {
                Endpoint::Unix(directory) if is_default_socket_directory(directory) => "localhost".to_owned(),
                _ => host.name(),
            };
            host.passfile = Some((file.clone(), name));
        }
    }

    fn tls(&self) -> Result<TlsOptions, ConnInfoError> {
        let roots = match self.get("sslrootcert") {
            None => RootCertificates::Default(self.default_file("root.crt")),
            Some("system") => RootCertificates::System,
            Some(file) => RootCertificates::File(file.into()),
        };
        let system = roots == RootCertificates::System;
        let default = if system { SslMode::VerifyFull } else { SslMode::Prefer };
        let mode = self.choice(
            "sslmode",
            default,
            &[
                ("disable", SslMode::Disable),
                ("allow", SslMode::Allow),
                ("prefer", SslMode::Prefer),
                ("require", SslMode::Require),
                ("verify-ca", SslMode::VerifyCa),
                ("verify-full", SslMode::VerifyFull),
            ],
        )?;
        // Anybody can have a certificate of a public authority: only the host name tells servers apart.
        if system && mode != SslMode::VerifyFull {
            return Err(ConnInfoError::new("sslrootcert=system needs sslmode=verify-full"));
        }
        let file = |name: &str, default: &str| {
            self.get(name).map(PathBuf::from).or_else(|| self.default_file(default))
        };
        let client = match (file("sslcert", "postgresql.crt"), file("sslkey", "postgresql.key")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (Some(certificate), None) => {
                let text = format!("sslcert={} needs sslkey", certificate.display());
                return Err(ConnInfoError(text));
            }
            (None, _) => None,
        };
        Ok(TlsOptions { mode, roots, client, server_name: self.number("sslsni")?.unwrap_or(1) != 0 })
    }
}

fn port_number(text: Option<&str>) -> Result<u16, ConnInfoError> {
    let Some(text) = text else { return Ok(keys::DEFAULT_PORT) };
    // The text is not quoted: in a URL, an unescaped character of the password may have put a part of it here.
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
        ConnInfoError::new(
            "the port must be a number from 1 to 65535 (in a URL, characters such as / : @ ? # % in a password \
             are written %2F %3A %40 %3F %23 %25)",
        )
    })
}

fn default_socket_directory() -> PathBuf {
    let [debian, own] = SOCKET_DIRECTORIES;
    PathBuf::from(if Path::new(debian).is_dir() { debian } else { own })
}

fn is_default_socket_directory(directory: &Path) -> bool {
    SOCKET_DIRECTORIES.iter().any(|known| Path::new(known) == directory)
}
