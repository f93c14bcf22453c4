//! `bygone demo`: the whole thing on a throw-away database.
//!
//! A PostgreSQL is started in a temporary directory, a small shop works on it with ordinary SQL, and the very commands that
//! a user would type are run on it, and shown with what they print.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::session;
use tokio_postgres::Client;

use crate::cli::Demo;
use crate::error::{Error, Result};
use crate::screen::tell;

const TABLES: &str = "
create table customers (id bigint generated always as identity primary key, name text not null, email text not null, status text not null);
create table orders (id bigint generated always as identity primary key, customer bigint not null references customers,
  status text not null, total numeric(10,2) not null, placed timestamptz not null default now());
insert into customers (name, email, status) values
  ('Ann', 'ann@example.com', 'active'), ('Bob', 'bob@example.com', 'active'), ('Cleo', 'cleo@example.com', 'active');
insert into orders (customer, status, total) values (1, 'new', 12.50), (2, 'new', 99.00), (1, 'new', 7.25);
";

const MORNING: &str = "
begin;
select pg_logical_emit_message(true, 'bygone', '{\"actor\": \"ann\", \"reason\": \"paid online\"}');
update orders set status = 'paid' where id = 2;
commit;
update customers set email = 'bob@work.example' where id = 2;
insert into orders (customer, status, total) values (3, 'new', 250.00);
";

const EVENING: &str = "
begin;
select pg_logical_emit_message(true, 'bygone', '{\"actor\": \"support: dana\", \"reason\": \"chargeback\"}');
update customers set status = 'suspended' where id = 2;
update orders set status = 'refunded', total = 0 where id = 2;
commit;
delete from orders where id = 3;
";

/// Runs the demonstration.
pub(crate) async fn demo(arguments: &Demo) -> Result<()> {
    let directory = match &arguments.directory {
        Some(directory) => {
            fs::create_dir_all(directory).map_err(|error| cannot("make", directory, &error))?;
            directory.canonicalize().map_err(|error| cannot("find", directory, &error))?
        }
        None => tempfile::Builder::new()
            .prefix("bygone-demo-")
            .tempdir()
            .map_err(|error| cannot("make a directory in", &std::env::temp_dir(), &error))?
            .keep(),
    };
    let stage = Stage::open(&directory)?;
    say("starting a throw-away PostgreSQL");
    let server = Server::start(&directory)?;
    let url = server.url();
    let shop = session::connect_sql(&ConnectOptions::parse(&url)?).await?;
    say("a small shop begins its day: two tables, a few rows");
    run_sql(&shop, TABLES).await?;

    stage.command(&["run", "--source", &url, "--history", stage.history(), "--until-current"])?;
    say("the shop works on: an order is paid, a customer moves, an order comes");
    tell!("{}", indented(MORNING));
    run_sql(&shop, MORNING).await?;
    // The moment that is asked about later lies clearly between the two.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let moment: String = shop
        .query_one(
            "select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')",
            &[],
        )
        .await
        .map_err(|error| Error::other(format!("the shop's database: {error}")))?
        .get(0);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    say("and later: a chargeback, a suspension, a deleted order");
    tell!("{}", indented(EVENING));
    run_sql(&shop, EVENING).await?;
    stage.command(&["run", "--source", &url, "--history", stage.history(), "--until-current"])?;
    drop(shop);
    drop(server);

    say("the database is gone by now; the history answers without it");
    stage.command(&["history", "orders", "2", "--history", stage.history()])?;
    stage.command(&["as-of", "orders", "--at", &moment, "--history", stage.history()])?;
    stage.command(&["as-of", "orders", "--at", "now", "--history", stage.history()])?;
    stage.command(&["blame", "customers", "2", "--history", stage.history()])?;
    stage.command(&["restore", "orders", "3", "--at", &moment, "--history", stage.history()])?;
    stage.command(&["verify", "--history", stage.history()])?;
    say("the same in DuckDB, over the files as they are; paste:");
    tell!(
        "  select _version, _op, status, total, _actor, _valid_from\n  from read_parquet('{}/tables/public.orders/_date=*/*.parquet')\n  \
         where _entity_id = '2' order by _version;\n\nor all the views, with their past: bygone views duckdb --history {}",
        stage.history(),
        stage.history()
    );
    tell!("\nThe history stays in {}", stage.history());
    Ok(())
}

fn say(text: &str) {
    tell!("\n-- {text}");
}

fn indented(sql: &str) -> String {
    sql.trim().lines().map(|line| format!("  {line}\n")).collect()
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::other(format!("cannot {what} {}: {error}", path.display()))
}

async fn run_sql(client: &Client, sql: &str) -> Result<()> {
    client.batch_execute(sql).await.map_err(|error| Error::other(format!("the shop's database: {error}")))
}

/// Runs bygone's own commands, as a user would.
struct Stage {
    program: PathBuf,
    history: String,
    state: PathBuf,
}

impl Stage {
    fn open(directory: &Path) -> Result<Self> {
        let program = std::env::current_exe()
            .map_err(|error| Error::other(format!("cannot find bygone itself: {error}")))?;
        Ok(Self {
            program,
            history: directory.join("history").display().to_string(),
            state: directory.join("state"),
        })
    }

    fn history(&self) -> &str {
        &self.history
    }

    /// Shows a command and what it prints.
    fn command(&self, arguments: &[&str]) -> Result<()> {
        let shown: Vec<String> =
            arguments
                .iter()
                .map(|argument| {
                    if argument.contains([' ', '*']) {
                        format!("'{argument}'")
                    } else {
                        (*argument).to_owned()
                    }
                })
                .collect();
        tell!("\n$ bygone {}", shown.join(" "));
        let quiet: &[&str] = if arguments.first() == Some(&"run") { &["--quiet"] } else { &[] };
        let status = Command::new(&self.program)
            .args(arguments)
            .args(quiet)
            .env("XDG_STATE_HOME", &self.state)
            .stdin(Stdio::null())
            .status()
            .map_err(|error| Error::other(format!("cannot run {}: {error}", self.program.display())))?;
        if status.success() {
            return Ok(());
        }
        Err(Error::other(format!("bygone {} ended with {status}", arguments.first().unwrap_or(&""))))
    }
}

/// A PostgreSQL that goes when it is dropped.
struct Server {
    bin: PathBuf,
    data: PathBuf,
    port: u16,
    as_postgres: bool,
}

impl Server {
    fn start(directory: &Path) -> Result<Self> {
        let bin = programs()?;
        let root = directory.join("postgres");
        fs::create_dir_all(&root).map_err(|error| cannot("make", &root, &error))?;
        let as_postgres = is_root();
        if as_postgres {
            // PostgreSQL refuses to run as root; its user must be able to reach its directory.
            let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
            fs::set_permissions(directory, mode).map_err(|error| cannot("open up", directory, &error))?;
            run(Command::new("chown").arg("postgres").arg(&root), "chown")?;
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(|error| Error::other(format!("there is no free port: {error}")))?
            .port();
        let server = Self { bin, data: root.join("data"), port, as_postgres };
        let mut initdb = server.program("initdb");
        initdb
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-D"])
            .arg(&server.data);
        run(&mut initdb, "initdb")?;
        let settings = format!(
            "-c wal_level=logical -c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' -c fsync=off"
        );
        let mut start = server.program("pg_ctl");
        start
            .args(["-w", "-s", "-o", &settings, "-l"])
            .arg(root.join("log"))
            .arg("-D")
            .arg(&server.data)
            .arg("start");
        run(&mut start, "pg_ctl start")?;
        Ok(server)
    }

    fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    fn program(&self, name: &str) -> Command {
        let path = self.bin.join(name);
        let mut command = if self.as_postgres {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut stop = self.program("pg_ctl");
        stop.args(["-w", "-s", "-m", "immediate", "-D"]).arg(&self.data).arg("stop");
        if let Err(error) = run(&mut stop, "pg_ctl stop") {
            eprintln!("bygone: {error}");
        }
        if let Some(root) = self.data.parent()
            && let Err(error) = fs::remove_dir_all(root)
        {
            eprintln!("bygone: {}", cannot("remove", root, &error));
        }
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// The newest server on this machine.
fn programs() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("BYGONE_PG_BIN") {
        return Ok(given.into());
    }
    let mut installed: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(version, bin)| *version >= 14 && bin.join("initdb").exists())
        .collect();
    installed.sort();
    if let Some((_, newest)) = installed.pop() {
        return Ok(newest);
    }
    std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .find(|directory| directory.join("initdb").exists() && directory.join("pg_ctl").exists())
        .ok_or_else(|| {
            Error::other(
                "there is no PostgreSQL server on this machine: install one (Debian: apt-get install postgresql), or name the \
                 directory of initdb and pg_ctl in BYGONE_PG_BIN",
            )
        })
}

fn run(command: &mut Command, what: &str) -> Result<()> {
    let output = command
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| Error::other(format!("cannot run {what}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::other(format!("{what} failed: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
