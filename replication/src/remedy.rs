//! What an operator can look at where a connection did not come about.

use std::io;

use crate::conninfo::{Endpoint, Host};
use crate::error::{Error, ErrorKind};

/// What to do next; nothing where the error says so itself.
pub(crate) fn of(error: &Error, host: &Host) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::Resolve => Some(
            "is the host in the connection string spelt rightly, and known to this machine (getent hosts NAME)?",
        ),
        ErrorKind::Io => of_socket(error.io_kind()?, &host.endpoint),
        ErrorKind::Timeout => Some(SILENT),
        ErrorKind::Closed => Some(
            "is it a PostgreSQL server that listens there, and not a proxy or another program? A server's log says why it ended the \
             connection",
        ),
        ErrorKind::Server => of_sqlstate(error.sqlstate()?),
        _ => None,
    }
}

const SILENT: &str = "nothing answers there: is the address right, does the machine run, and does each firewall on the way let \
                      connections through?";

fn of_socket(kind: io::ErrorKind, endpoint: &Endpoint) -> Option<&'static str> {
    match (kind, endpoint) {
        (io::ErrorKind::ConnectionRefused, Endpoint::Tcp { .. }) => Some(
            "is the server running, and does it listen there (listen_addresses and port in postgresql.conf)? Are host and port in the \
             connection string right?",
        ),
        (io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound, Endpoint::Unix(_)) => Some(
            "is the server running on this machine, with its socket in this directory (unix_socket_directories)? One on another \
             machine is reached with host=NAME",
        ),
        (io::ErrorKind::PermissionDenied, Endpoint::Unix(_)) => Some(
            "this user may not use the socket: see unix_socket_permissions and unix_socket_group, or use host=localhost",
        ),
        (io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable, _) => Some(SILENT),
        _ => None,
    }
}

fn of_sqlstate(code: &str) -> Option<&'static str> {
    match code {
        "28P01" => Some(
            "is the password right? It comes from the connection string, PGPASSWORD, the password file (PGPASSFILE, ~/.pgpass) or \
             --password-command",
        ),
        "28000" => {
            Some("the role has to exist, with LOGIN, and pg_hba.conf on the server has to admit it from here")
        }
        "3D000" => Some("name a database of that server in the connection string (psql --list shows them)"),
        "53300" => Some("end connections that nobody needs, or raise max_connections on the server"),
        "57P03" => Some("it starts, or stops: try again in a moment"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::error::ServerError;

    fn told(endpoint: Endpoint, error: &Error) -> &'static str {
        let host = Host { endpoint, port: 5432, password: None, passfile: None, command: None };
        of(error, &host).unwrap_or_else(|| panic!("nothing to do about {error}"))
    }

    #[test]
    fn whatever_keeps_a_connection_from_coming_about_has_a_remedy() {
        let tcp = || Endpoint::Tcp { name: "db".to_owned(), address: None };
        let unix = || Endpoint::Unix(PathBuf::from("/run/postgresql"));
        let io = |kind: io::ErrorKind| Error::io("test", &kind.into());
        assert!(told(tcp(), &io(io::ErrorKind::ConnectionRefused)).contains("listen_addresses"));
        assert!(told(unix(), &io(io::ErrorKind::NotFound)).contains("unix_socket_directories"));
        assert!(told(unix(), &io(io::ErrorKind::PermissionDenied)).contains("unix_socket_permissions"));
        for kind in
            [io::ErrorKind::HostUnreachable, io::ErrorKind::NetworkUnreachable, io::ErrorKind::TimedOut]
        {
            assert!(told(tcp(), &io(kind)).contains("firewall"), "{kind:?}");
        }
        for kind in [ErrorKind::Resolve, ErrorKind::Timeout, ErrorKind::Closed] {
            told(tcp(), &Error::new(kind, "test", ""));
        }
        for code in ["28P01", "28000", "3D000", "53300", "57P03"] {
            let server = ServerError { code: code.to_owned(), ..ServerError::default() };
            told(tcp(), &Error::from_server("test", server));
        }
    }
}
