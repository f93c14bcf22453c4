//! Throw-away PostgreSQL clusters.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postgres::{Client, NoTls};
use rustix::process::{Signal, geteuid};

use super::process::{Program, Running, eventually, free_port};
use super::scratch::{Scratch, copy_directory, tail};

/// The database that the tests work in.
pub(crate) const DATABASE: &str = "shop";

/// What every cluster starts from. `fsync` is off because here processes crash, never the machine.
const SETTINGS: &[(&str, &str)] = &[
    ("wal_level", "logical"),
    ("listen_addresses", "127.0.0.1"),
    ("max_connections", "80"),
    ("max_wal_senders", "12"),
    ("max_replication_slots", "12"),
    ("max_prepared_transactions", "4"),
    ("shared_buffers", "128MB"),
    ("max_wal_size", "2GB"),
    ("wal_sender_timeout", "20s"),
    ("fsync", "off"),
    ("jit", "off"),
    ("timezone", "Asia/Kolkata"),
    ("log_timezone", "UTC"),
    // Where decoding begins is logged with its whole statement otherwise, many times in each test.
    ("log_min_error_statement", "fatal"),
    ("datestyle", "SQL, DMY"),
    ("log_line_prefix", "%m [%p] %a "),
    ("lc_messages", "C"),
];

/// Raised when what the template holds changes.
const TEMPLATE: &str = "2";

/// How to end a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Clients are cut off, a checkpoint is written.
    Fast,
    /// As in a crash: recovery at the next start.
    Immediate,
}

/// A running cluster. It is stopped and removed with its test.
#[derive(Debug)]
pub(crate) struct Postgres {
    // Dropped before its files.
    server: Option<Running>,
    port: u16,
    programs: PathBuf,
    scratch: Scratch,
    environment: Vec<(String, String)>,
}

impl Postgres {
    /// A cluster with the settings that a capture needs.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// A cluster with these settings over the usual ones.
    pub(crate) fn with(settings: &[(&str, &str)]) -> Self {
        Self::of(&programs(), settings)
    }

    /// The same with the server whose programs are in this directory.
    pub(crate) fn of(programs: &Path, settings: &[(&str, &str)]) -> Self {
        Self::from_data(programs, settings, |to| copy_directory(&template(programs), to))
    }

    /// A cluster of its own making: its system identifier is like no other's.
    pub(crate) fn stranger() -> Self {
        let programs = programs();
        Self::from_data(&programs, &[], |to| initialize(to, &programs))
    }

    /// A hot standby of this cluster, with these settings over the usual ones. The cluster is stopped for as long as its
    /// files are copied.
    pub(crate) fn standby(&mut self, settings: &[(&str, &str)]) -> Self {
        self.run("select pg_create_physical_replication_slot('standby', true)");
        self.stop(Stop::Fast);
        let upstream = format!("{} application_name=standby", self.socket_string());
        let usual = [
            ("primary_conninfo", upstream.as_str()),
            ("primary_slot_name", "standby"),
            ("hot_standby_feedback", "on"),
        ];
        let settings: Vec<_> = usual.iter().chain(settings).copied().collect();
        let (from, programs) = (self.data(), self.programs.clone());
        let standby = Self::from_data(&programs, &settings, |to| {
            copy_directory(&from, to);
            // The primary's slots are not the standby's.
            for slot in fs::read_dir(to.join("pg_replslot")).unwrap() {
                fs::remove_dir_all(slot.unwrap().path()).unwrap();
            }
            fs::write(to.join("standby.signal"), "").unwrap();
            self.start_again();
        });
        standby.reached(&self.value("select pg_current_wal_lsn()").unwrap());
        standby
    }

    /// Waits for a standby to have replayed up to a position.
    #[track_caller]
    pub(crate) fn reached(&self, lsn: &str) {
        let there = format!("select 1 where pg_last_wal_replay_lsn() >= '{lsn}'");
        let came = eventually(Duration::from_secs(60), || self.value(&there).is_some());
        assert!(came, "the standby does not come to {lsn}:\n{}", tail(&self.log(), 4000));
    }

    /// Makes a standby the primary.
    pub(crate) fn promote(&self) {
        assert_eq!(self.value("select pg_promote(true, 60)").as_deref(), Some("t"));
    }

    /// Copies the stopped server's files.
    pub(crate) fn back_up(&self, to: &Path) {
        assert!(self.server.is_none(), "the server runs");
        copy_directory(&self.data(), to);
    }

    /// Puts back files that were copied, for the stopped server.
    pub(crate) fn restore(&self, from: &Path) {
        assert!(self.server.is_none(), "the server runs");
        fs::remove_dir_all(self.data()).unwrap();
        copy_directory(from, &self.data());
    }

    fn from_data(programs: &Path, settings: &[(&str, &str)], make: impl FnOnce(&Path)) -> Self {
        let scratch = Scratch::new("postgres");
        give_to_server(scratch.path());
        make(&scratch.join("data"));
        let port = free_port();
        let programs = programs.to_owned();
        let mut made = Self { server: None, port, programs, scratch, environment: Vec::new() };
        let socket = made.scratch.path().display().to_string();
        let mut lines = format!("port = {port}\nunix_socket_directories = '{socket}'\n");
        for (name, value) in SETTINGS.iter().chain(settings) {
            lines.push_str(&format!("{name} = '{value}'\n"));
        }
        fs::write(made.data().join("postgresql.auto.conf"), lines).unwrap();
        made.admit("trust");
        made.start_again();
        made
    }

    fn data(&self) -> PathBuf {
        self.scratch.join("data")
    }

    fn log(&self) -> PathBuf {
        self.scratch.join("server.log")
    }

    /// Writes `pg_hba.conf`: the socket is the tests' own way in and always open; TCP asks for `method`, and when that
    /// begins with `hostssl ` or `hostnossl `, only such connections are taken.
    pub(crate) fn admit(&self, method: &str) {
        let (kind, method) = method.split_once(' ').unwrap_or(("host", method));
        let rules = ["all", "replication"].map(|database| {
            format!("local {database} all trust\n{kind} {database} all 127.0.0.1/32 {method}\n")
        });
        fs::write(self.data().join("pg_hba.conf"), rules.concat()).unwrap();
        if self.server.is_some() {
            self.connect().execute("select pg_reload_conf()", &[]).unwrap();
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Starts the stopped server on the port that it had.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        assert!(self.server.is_none(), "the server runs already");
        // What is to be the server's alone is not for the program that takes its rights away.
        let own = self.environment.iter().map(|(name, value)| format!("{name}={value}"));
        let mut server = Program::new("/usr/bin/env")
            .args(own)
            .arg(self.programs.join("postgres"))
            .arg("-D")
            .arg(self.data())
            .env("LC_ALL", "C.UTF-8")
            .not_as_root("postgres")
            .when_orphaned("QUIT")
            .start(&self.log());
        let up =
            eventually(Duration::from_secs(60), || server.ended().is_some() || self.try_connect().is_ok());
        assert!(up && server.ended().is_none(), "PostgreSQL does not start:\n{}", tail(&self.log(), 4000));
        self.server = Some(server);
    }

    /// Starts the server anew with these variables in its environment.
    #[track_caller]
    pub(crate) fn start_in(&mut self, environment: &[(String, String)]) {
        self.stop(Stop::Fast);
        self.environment = environment.to_vec();
        self.start_again();
    }

    /// Ends the server.
    pub(crate) fn stop(&mut self, how: Stop) {
        let Some(mut server) = self.server.take() else { return };
        server.signal(match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        });
        assert!(server.wait(Duration::from_secs(60)).is_some(), "PostgreSQL does not stop");
    }

    /// `kill -9` on the postmaster; returns when its children have noticed.
    pub(crate) fn kill(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        server.kill();
        // The postmaster's lock file names a process group that must be gone before a start is allowed.
        assert!(
            eventually(Duration::from_secs(30), || std::net::TcpListener::bind(("127.0.0.1", self.port))
                .is_ok()),
            "children of a killed server hold its port"
        );
        std::thread::sleep(Duration::from_millis(500));
    }

    /// Where TCP clients find the database.
    pub(crate) fn url(&self) -> String {
        self.url_as("postgres", DATABASE)
    }

    pub(crate) fn url_as(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// The same database through its unix socket, as libpq's key=value string.
    pub(crate) fn socket_string(&self) -> String {
        format!("host={} port={} user=postgres dbname={DATABASE}", self.scratch.path().display(), self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// One of PostgreSQL's own programs: the server's, or the search path's where the server came without clients.
    pub(crate) fn program(&self, name: &str) -> Program {
        let own = self.programs.join(name);
        Program::new(if own.exists() { own } else { name.into() })
            .env("PGPORT", self.port.to_string())
            .env("PGHOST", "127.0.0.1")
    }

    /// Has the server offer TLS, under a certificate for `localhost` that it signs itself: the certificate.
    pub(crate) fn certify(&self) -> String {
        self.run(
            "copy (select 1) to program 'openssl req -x509 -new -nodes -days 2 -newkey rsa:2048 -subj /CN=localhost \
             -addext subjectAltName=DNS:localhost -keyout server.key -out server.crt 2>/dev/null'",
        );
        self.run("alter system set ssl = on");
        self.run("select pg_reload_conf()");
        let offers = "select 1 where current_setting('ssl') = 'on'";
        assert!(eventually(Duration::from_secs(10), || self.value(offers).is_some()), "TLS is not offered");
        self.value("select pg_read_file('server.crt')").unwrap()
    }

    fn try_connect(&self) -> Result<Client, postgres::Error> {
        Client::connect(&format!("{} application_name=test connect_timeout=5", self.socket_string()), NoTls)
    }

    /// A session of a superuser in the database of the tests.
    #[track_caller]
    pub(crate) fn connect(&self) -> Client {
        self.try_connect().unwrap_or_else(|error| panic!("{error:?}\n{}", tail(&self.log(), 3000)))
    }

    /// A session of a superuser in another database.
    #[track_caller]
    pub(crate) fn connect_to(&self, database: &str) -> Client {
        let address =
            self.socket_string().replace(&format!("dbname={DATABASE}"), &format!("dbname={database}"));
        Client::connect(&format!("{address} application_name=test"), NoTls)
            .unwrap_or_else(|error| panic!("{error:?}\n{}", tail(&self.log(), 3000)))
    }

    /// The server's major version.
    pub(crate) fn major(&self) -> u32 {
        self.value("show server_version_num")
            .and_then(|number| number.parse().ok())
            .map_or(0, |n: u32| n / 10_000)
    }

    /// Runs statements.
    #[track_caller]
    pub(crate) fn run(&self, sql: &str) {
        if let Err(error) = self.connect().batch_execute(sql) {
            panic!("{error:?}\n{sql}");
        }
    }

    /// The one value of a query, as text.
    #[track_caller]
    pub(crate) fn value(&self, sql: &str) -> Option<String> {
        let rows = self.connect().simple_query(sql).unwrap_or_else(|error| panic!("{error:?}\n{sql}"));
        rows.iter().find_map(|message| match message {
            postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
    }

    /// All rows of a query of one column, as text; nulls are left out.
    #[track_caller]
    pub(crate) fn column(&self, sql: &str) -> Vec<String> {
        let rows = self.connect().simple_query(sql).unwrap_or_else(|error| panic!("{error:?}\n{sql}"));
        let texts = rows.iter().filter_map(|message| match message {
            postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        texts.collect()
    }

    /// The names of what a capture leaves at the source: slots and publications, the oracle's own aside.
    pub(crate) fn traces(&self) -> Vec<String> {
        self.column(
            "select 'slot ' || slot_name from pg_replication_slots where slot_name not like 'audit%' \
             union all select 'publication ' || pubname from pg_publication where pubname not like 'audit%' order by 1",
        )
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- end of the server's log\n{}", tail(&self.log(), 2500));
        }
        if let Some(server) = &mut self.server {
            server.signal(Signal::QUIT);
            server.wait(Duration::from_secs(10));
        }
    }
}

/// The directory of `postgres` and `initdb`: `BYGONE_TEST_PG_BIN`, else the newest of Debian's, else the search path's.
fn programs() -> PathBuf {
    if let Some(named) = std::env::var_os("BYGONE_TEST_PG_BIN") {
        return named.into();
    }
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = debian
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(version, at)| *version >= 14 && at.join("postgres").exists())
        .collect();
    found.sort();
    if let Some((_, at)) = found.pop() {
        return at;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .find(|at| at.join("postgres").exists() && at.join("initdb").exists())
        .expect("no PostgreSQL server: scripts/install installs one, BYGONE_TEST_PG_BIN names one")
}

fn give_to_server(path: &Path) {
    if geteuid().is_root() {
        let given = std::process::Command::new("chown").arg("postgres:").arg(path).status().unwrap();
        assert!(given.success(), "there is no user postgres to run the server as");
    }
}

/// A cluster initialized once on this machine, to be copied: initdb takes seconds, a copy a tenth of one.
fn template(programs: &Path) -> PathBuf {
    let version = Program::new(programs.join("postgres")).arg("--version").finish();
    let version = String::from_utf8_lossy(&version.stdout).split_whitespace().nth(2).unwrap().to_owned();
    let root = std::env::temp_dir().join(format!("bygone-test-templates-{}", geteuid().as_raw()));
    fs::create_dir_all(&root).unwrap();
    assert_eq!(
        fs::metadata(&root).unwrap().uid(),
        geteuid().as_raw(),
        "{} is another user's",
        root.display()
    );
    let ready = root.join(format!("{version}-{TEMPLATE}"));
    let lock = File::create(root.join("lock")).unwrap();
    lock.lock().unwrap();
    if !ready.exists() {
        let making = Scratch::new("template");
        give_to_server(making.path());
        initialize(&making.join("data"), programs);
        let staged = root.join("staged");
        let _ = fs::remove_dir_all(&staged);
        copy_directory(&making.join("data"), &staged);
        fs::rename(staged, &ready).unwrap();
    }
    ready
}

/// A new cluster whose transaction counter has already wrapped, as far as that can be had: the epoch of a 64-bit
/// transaction id must show.
fn initialize(data: &Path, programs: &Path) {
    let program =
        |name: &str| Program::new(programs.join(name)).env("LC_ALL", "C.UTF-8").not_as_root("postgres");
    program("initdb")
        .arg("-D")
        .arg(data)
        .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"])
        .succeed();
    // Servers that were fetched come without it.
    if programs.join("pg_resetwal").exists() {
        program("pg_resetwal").args(["-e", "3", "-D"]).arg(data).succeed();
    }
    let create = data.with_file_name("create.sql");
    fs::write(&create, format!("create database {DATABASE}\n")).unwrap();
    let mut single = program("postgres").arg("--single").arg("-D").arg(data).arg("postgres").command();
    let done = single.stdin(File::open(&create).unwrap()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
