//! A throw-away PostgreSQL for the tests of this module, and a database of it for each test.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::wire::{Connection, Mode};
use tokio_postgres::{Client, NoTls};

/// Makes a cluster (a copy of one that is initialized once: that takes seconds), prints its socket directory, and removes all when its input ends: so when the tests do, in whatever
/// way. `$1` is the directory of the programs, the rest are settings.
const SCRIPT: &str = r#"
set -eu
programs=$1
shift
directory=$(mktemp -d "${TMPDIR:-/tmp}/bygone-catalog-XXXXXX")
trap 'rm -rf "$directory"' EXIT
export LC_ALL=C.UTF-8
template="${TMPDIR:-/tmp}/bygone-catalog-template-$(id -u)-$("$programs/postgres" --version | tr -cd 0-9.)"
if ! [ -O "$template" ]; then
    "$programs/initdb" -D "$directory/new" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >"$directory/log" 2>&1
    # Servers that were fetched come without it.
    if [ -x "$programs/pg_resetwal" ]; then
        "$programs/pg_resetwal" -e 3 -D "$directory/new" >>"$directory/log" 2>&1
    fi
    # Another test may have been faster, and then keeps its own.
    mv -T "$directory/new" "$template" 2>/dev/null || [ -O "$template" ]
fi
cp -Rp "$template" "$directory/data"
"$programs/postgres" -D "$directory/data" -c listen_addresses= -c "unix_socket_directories=$directory" \
    -c fsync=off -c max_prepared_transactions=4 -c wal_level=logical -c max_wal_senders=20 -c max_replication_slots=20 -c max_connections=100 \
    -c timezone=Asia/Kolkata -c "datestyle=SQL, DMY" -c max_locks_per_transaction=64 -c min_wal_size=32MB "$@" >>"$directory/log" 2>&1 &
server=$!
for attempt in $(seq 300); do
    if grep -q ready "$directory/data/postmaster.pid" 2>/dev/null; then break; fi
    kill -0 $server || { cat "$directory/log" >&2; exit 1; }
    sleep 0.1
done
echo "$directory"
cat >/dev/null
kill -QUIT $server
wait $server || true
"#;

/// A running cluster, stopped and removed when it is dropped or the process ends.
pub(super) struct Server {
    // The script waits for the end of its input, which this holds open.
    script: Child,
    directory: String,
}

impl Server {
    /// The one that tests share; each has a database of its own in it.
    pub(super) fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// One with these settings on top.
    pub(super) fn start(settings: &[&str]) -> Self {
        // The server refuses to run as root.
        let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        let mut command = if root {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "sh"]);
            command
        } else {
            Command::new("sh")
        };
        command.args(["-c", SCRIPT, "sh"]).arg(programs());
        for setting in settings {
            command.args(["-c", setting]);
        }
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = command.spawn().unwrap();
        let mut directory = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut directory).unwrap();
        assert!(!directory.is_empty(), "PostgreSQL does not start");
        Self { script, directory: directory.trim_end().to_owned() }
    }

    /// A new, empty database.
    pub(super) async fn database(&'static self) -> Database {
        Database { server: self, name: self.create_database("").await }
    }

    /// Makes a database and gives its name.
    pub(super) async fn create_database(&self, options: &str) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let sql = format!("create database {name} {options}");
        self.connect("postgres", "postgres").await.batch_execute(&sql).await.unwrap();
        name
    }

    /// A session with the settings that every session of a capture has.
    pub(super) async fn connect(&self, user: &str, database: &str) -> Client {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.directory).user(user).dbname(database);
        config.options("-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c extra_float_digits=3");
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// A replication connection.
    pub(super) async fn replicate(&self, user: &str, database: &str) -> Connection {
        let options =
            ConnectOptions::parse(&format!("host={} user={user} dbname={database}", self.directory)).unwrap();
        Connection::connect(&options, Mode::Replication).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

/// One test's database.
pub(super) struct Database {
    server: &'static Server,
    pub(super) name: String,
}

impl Database {
    /// A superuser's session.
    pub(super) async fn connect(&self) -> Client {
        self.connect_as("postgres").await
    }

    pub(super) async fn connect_as(&self, user: &str) -> Client {
        self.server.connect(user, &self.name).await
    }

    pub(super) async fn replicate(&self) -> Connection {
        self.server.replicate("postgres", &self.name).await
    }

    /// A name that no other test uses, for what belongs to the whole server (roles, slots).
    pub(super) fn own(&self, name: &str) -> String {
        format!("{name}_{}", self.name)
    }
}

/// The directory of `postgres`: `BYGONE_TEST_PG_BIN`, else the newest of Debian's.
fn programs() -> PathBuf {
    if let Some(named) = std::env::var_os("BYGONE_TEST_PG_BIN") {
        return named.into();
    }
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let versions =
        debian.filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())));
    let (_, newest) =
        versions.max().expect("no PostgreSQL server: install one, or name one in BYGONE_TEST_PG_BIN");
    newest.join("bin")
}

/// The one value of a query.
pub(super) async fn value(client: &Client, sql: &str) -> String {
    let rows = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{error:?}\n{sql}"));
    let value = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    value.unwrap_or_else(|| panic!("no value: {sql}"))
}

/// `server_version_num`.
pub(super) async fn version(client: &Client) -> u32 {
    value(client, "show server_version_num").await.parse().unwrap()
}

/// Runs statements.
pub(super) async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?}\n{sql}"));
}
