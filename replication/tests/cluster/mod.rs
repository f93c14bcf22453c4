//! Throw-away PostgreSQL clusters.

use std::fmt::Write as _;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bygone_replication::conninfo::{ConnectOptions, Environment};
use tempfile::TempDir;

/// `fsync` is off because here servers crash, never the machine.
const SETTINGS: &str = "\
    wal_level = logical\n\
    listen_addresses = '127.0.0.1'\n\
    max_wal_senders = 10\n\
    max_replication_slots = 10\n\
    max_wal_size = '4GB'\n\
    fsync = off\n\
    lc_messages = 'C'\n";

/// A running cluster. It is stopped and removed with its test.
pub(crate) struct Cluster {
    directory: TempDir,
    server: Option<Child>,
    pub(crate) port: u16,
    programs: PathBuf,
}

impl Cluster {
    /// A cluster that trusts everybody on this machine, with these lines over the usual settings.
    pub(crate) fn start(settings: &str) -> Self {
        let programs = programs();
        let directory = tempfile::Builder::new().prefix("bygone-cluster").tempdir().unwrap();
        give_to_server(directory.path());
        let mut cluster = Self { directory, server: None, port: free_port(), programs };
        let initdb = cluster
            .as_server("initdb")
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "-D"])
            .arg(cluster.data())
            .output()
            .unwrap();
        assert!(initdb.status.success(), "{}", String::from_utf8_lossy(&initdb.stderr));
        let mut lines = SETTINGS.to_owned();
        let socket = cluster.path().display();
        writeln!(lines, "port = {}\nunix_socket_directories = '{socket}'\n{settings}", cluster.port).unwrap();
        fs::write(cluster.data().join("postgresql.auto.conf"), lines).unwrap();
        cluster.run();
        cluster
    }

    /// Starts the server, which is not running.
    pub(crate) fn run(&mut self) {
        let log = fs::File::create(self.path().join("server.log")).unwrap();
        let mut server = self
            .as_server("postgres")
            .arg("-D")
            .arg(self.data())
            .env("LC_ALL", "C.UTF-8")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let started = Instant::now();
        while !self.try_psql("select 1").0 {
            let ended = server.try_wait().unwrap();
            assert!(ended.is_none() && started.elapsed() < Duration::from_secs(60), "{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.server = Some(server);
    }

    /// Ends the server with a signal: `INT` for fast, `QUIT` for immediate.
    pub(crate) fn stop(&mut self, signal: &str) {
        let Some(mut server) = self.server.take() else { return };
        // `setpriv` has become the server: the process id is the postmaster's.
        let kill = Command::new("kill").arg(format!("-{signal}")).arg(server.id().to_string()).status();
        assert!(kill.unwrap().success());
        server.wait().unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path().join("server.log")).unwrap_or_default()
    }

    /// Replaces `pg_hba.conf`; the socket stays the tests' own way in for the user `postgres`.
    pub(crate) fn admit(&self, rules: &str) {
        let own = "local all postgres trust\nlocal replication postgres trust\n";
        fs::write(self.data().join("pg_hba.conf"), format!("{own}{rules}\n")).unwrap();
        self.reload();
    }

    /// Makes the server read its configuration again, and waits until it has.
    pub(crate) fn reload(&self) {
        let marker = format!("test.reloaded = '{}'\n", self.psql("select now()"));
        let conf = self.data().join("postgresql.conf");
        let text = fs::read_to_string(&conf).unwrap();
        fs::write(&conf, format!("{text}{marker}")).unwrap();
        self.psql("select pg_reload_conf()");
        let wanted = marker.split('\'').nth(1).unwrap();
        let started = Instant::now();
        // A new session sees what the postmaster has read.
        while self.psql("show test.reloaded") != wanted {
            assert!(started.elapsed() < Duration::from_secs(10), "{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs SQL as superuser through psql; its output, unaligned.
    pub(crate) fn psql(&self, sql: &str) -> String {
        let (done, output) = self.try_psql(sql);
        assert!(done, "{sql}\n{output}");
        output
    }

    fn try_psql(&self, sql: &str) -> (bool, String) {
        // Servers that were fetched come without clients.
        let own = self.programs.join("psql");
        let output = Command::new(if own.exists() { own } else { "psql".into() })
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-p"])
            .arg(self.port.to_string())
            .arg("-h")
            .arg(self.path())
            .args(["-c", sql])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.success(), String::from_utf8_lossy(&text).trim_end().to_owned())
    }

    /// Settings for a TCP connection of the superuser, and these over them.
    pub(crate) fn tcp(&self, more: &str) -> ConnectOptions {
        options(&format!("host=127.0.0.1 port={} user=postgres dbname=postgres {more}", self.port))
    }

    /// The same for the socket.
    pub(crate) fn socket(&self, more: &str) -> ConnectOptions {
        options(&format!(
            "host={} port={} user=postgres dbname=postgres {more}",
            self.path().display(),
            self.port
        ))
    }

    /// One of PostgreSQL's programs, to run as its user.
    fn as_server(&self, program: &str) -> Command {
        // The kernel ends the server where the test cannot.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "QUIT"]);
        if is_root() {
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
        }
        command.arg("--").arg(self.programs.join(program)).current_dir("/").stdin(Stdio::null());
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server's log\n{}", self.log());
        }
        if let Some(mut server) = self.server.take() {
            let _ = Command::new("kill").arg("-QUIT").arg(server.id().to_string()).status();
            let _ = server.wait();
        }
    }
}

/// Settings without anything of this process' environment.
pub(crate) fn options(text: &str) -> ConnectOptions {
    ConnectOptions::parse_in(text, &Environment::default()).unwrap()
}

/// Gives a file or directory to the user that the server runs as.
pub(crate) fn give_to_server(path: &Path) {
    if is_root() {
        assert!(Command::new("chown").arg("postgres:").arg(path).status().unwrap().success());
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// The directory of the server's programs.
fn programs() -> PathBuf {
    if let Some(named) = std::env::var_os("BYGONE_TEST_PG_BIN") {
        return named.into();
    }
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = debian
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, at)| at.join("postgres").exists())
        .collect();
    found.sort();
    found.pop().map_or_else(|| PathBuf::from("/usr/local/bin"), |(_, at)| at)
}

/// Passes bytes between clients and a server, until told to swallow them: a network that has gone quiet.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    swallow: Arc<std::sync::atomic::AtomicBool>,
}

impl Proxy {
    pub(crate) fn to(port: u16) -> Self {
        use std::io::{Read as _, Write as _};
        use std::sync::atomic::{AtomicBool, Ordering};

        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let swallow = Arc::new(AtomicBool::new(false));
        let proxy = Self { port: listener.local_addr().unwrap().port(), swallow: Arc::clone(&swallow) };
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                let pairs = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
                for (mut from, mut to) in pairs {
                    let swallow = Arc::clone(&swallow);
                    std::thread::spawn(move || {
                        let mut buffer = [0; 65536];
                        while let Ok(count @ 1..) = from.read(&mut buffer) {
                            if !swallow.load(Ordering::SeqCst) && to.write_all(&buffer[..count]).is_err() {
                                break;
                            }
                        }
                    });
                }
            }
        });
        proxy
    }

    pub(crate) fn go_quiet(&self) {
        self.swallow.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}
