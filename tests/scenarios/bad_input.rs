//! What cannot work is refused in words that say what to do, and leaves nothing half-made.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use super::{SHOP, contents};
use crate::support::bygone::{Bygone, Outcome};
use crate::support::disk::Disk;
use crate::support::moto::Moto;
use crate::support::postgres::{DATABASE, Postgres, Stop};
use crate::support::process::eventually;
use crate::support::scratch::Scratch;

/// A shop, and a place for its history where nothing is yet.
struct Case {
    server: Postgres,
    scratch: Scratch,
}

impl Case {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(settings: &[(&str, &str)]) -> Self {
        let server = Postgres::with(settings);
        server.run(SHOP);
        Self { server, scratch: Scratch::new("bad-input") }
    }

    fn history(&self) -> PathBuf {
        self.scratch.join("history")
    }

    fn bygone(&self) -> Bygone {
        Bygone::new(self.server.url(), self.history())
    }

    /// The run is refused with these words, and neither the source nor the history has changed by it.
    #[track_caller]
    fn refuses(&self, bygone: &mut Bygone, words: &[&str]) -> Outcome {
        let (traces, kept) = (self.server.traces(), contents(&self.history()));
        let outcome = bygone.attempt(&[]).refused(words);
        assert_eq!(self.server.traces(), traces, "left at the source after\n{}", outcome.stderr);
        assert_eq!(contents(&self.history()), kept, "left in the history after\n{}", outcome.stderr);
        outcome
    }
}

#[test]
fn a_source_that_is_down() {
    let mut case = Case::new();
    let mut bygone = case.bygone();
    case.server.stop(Stop::Fast);
    let place = ["127.0.0.1", &case.server.port().to_string()];
    let outcome =
        bygone.attempt(&[]).refused(&[&place[..], &["is the server running", "listen_addresses"]].concat());
    assert!(outcome.took < Duration::from_secs(90), "it took {:?} to say so", outcome.took);
    bygone.reach(case.server.socket_string());
    bygone.attempt(&[]).refused(&["is the server running", "unix_socket_directories"]);
    assert_eq!(contents(&case.history()), []);
}

#[test]
fn a_host_that_does_not_exist() {
    let scratch = Scratch::new("bad-input");
    let mut bygone = Bygone::new("postgres://postgres@no-such-host.invalid/shop", scratch.join("history"));
    bygone.attempt(&[]).refused(&["no-such-host.invalid", "spelt rightly"]);
    assert_eq!(contents(&scratch.join("history")), []);
}

#[test]
fn a_source_that_is_no_address() {
    let scratch = Scratch::new("bad-input");
    for source in ["postgres://[", "host=", "port=12x dbname=shop", "mysql://localhost/shop", ""] {
        let outcome = Bygone::new(source, scratch.join("history")).attempt(&[]);
        assert!(matches!(outcome.code(), Some(1 | 2)), "{source:?}: {}\n{}", outcome.status, outcome.stderr);
        assert!(
            !outcome.stderr.is_empty() && !outcome.stderr.contains("panicked"),
            "{source:?}: {}",
            outcome.stderr
        );
    }
    assert_eq!(contents(&scratch.join("history")), []);
}

#[test]
fn a_wrong_password() {
    let case = Case::new();
    case.server.run("create role app login superuser password 'right-one'");
    for method in ["scram-sha-256", "md5", "password"] {
        case.server.admit(method);
        let url = case.server.url_as("app:wrong-one", DATABASE);
        let outcome = case
            .refuses(&mut Bygone::new(url, case.history()), &["is the password right", "--password-command"]);
        assert!(!outcome.stderr.contains("wrong-one"), "the password is shown:\n{}", outcome.stderr);
    }
    let url = case.server.url_as("app:right-one", DATABASE);
    Bygone::new(url, case.history()).until_current();
}

#[test]
fn a_password_that_nobody_gave() {
    let case = Case::new();
    case.server.run("create role app login superuser password 'secret'");
    case.server.admit("scram-sha-256");
    let url = case.server.url_as("app", DATABASE);
    case.refuses(&mut Bygone::new(url, case.history()), &["password"]);
}

#[test]
fn tls_that_the_server_does_not_speak() {
    let case = Case::new();
    let url = format!("{}?sslmode=require", case.server.url());
    case.refuses(&mut Bygone::new(url, case.history()), &["TLS", "sslmode"]);
}

#[test]
fn a_server_that_wants_tls() {
    let case = Case::new();
    case.server.admit("hostssl trust");
    let url = format!("{}?sslmode=disable", case.server.url());
    case.refuses(&mut Bygone::new(url, case.history()), &["pg_hba.conf", "has to admit it"]);
}

#[test]
fn a_database_that_is_not_there() {
    let case = Case::new();
    let url = case.server.url_as("postgres", "nowhere");
    case.refuses(&mut Bygone::new(url, case.history()), &["nowhere", "psql --list"]);
}

#[test]
fn a_wal_without_logical_information() {
    let case = Case::with(&[("wal_level", "replica")]);
    case.refuses(&mut case.bygone(), &["wal_level", "logical", "restart"]);
}

#[test]
fn no_replication_slot_left() {
    let case = Case::with(&[("max_replication_slots", "1")]);
    case.server.run("select pg_create_physical_replication_slot('of_a_standby')");
    case.refuses(&mut case.bygone(), &["max_replication_slots"]);
}

#[test]
fn no_wal_sender_left() {
    let case = Case::with(&[("max_wal_senders", "0")]);
    case.refuses(&mut case.bygone(), &["max_wal_senders"]);
}

#[test]
fn a_role_that_may_not_replicate() {
    let case = Case::new();
    case.server
        .run("create role app login; grant select on orders to app; grant create on database shop to app");
    let mut bygone = Bygone::new(case.server.url_as("app", DATABASE), case.history());
    case.refuses(&mut bygone, &["alter role", "replication"]);
}

#[test]
fn a_role_that_may_not_publish_or_read() {
    let case = Case::new();
    case.server.run("create role app login replication");
    let url = case.server.url_as("app", DATABASE);
    let outcome = case.refuses(&mut Bygone::new(&url, case.history()), &["create publication"]);
    // The statements that it names, run by who may: then only the right to read is missing, and named as well.
    let statements: Vec<&str> = outcome.stderr.lines().filter(|line| line.ends_with(';')).collect();
    case.server.run(&statements.concat());
    let outcome = case.refuses(&mut Bygone::new(&url, case.history()), &["grant select on", "orders"]);
    let grant = outcome.stderr.find("grant select on").unwrap();
    let grant = outcome.stderr[grant..].lines().next().unwrap();
    case.server.run(grant.split(';').next().unwrap());
    Bygone::new(&url, case.history()).until_current();
}

/// A copy of a history whose log did not come along, or not yet: nothing is begun anew over it.
#[test]
fn a_history_whose_log_is_missing() {
    let case = Case::new();
    case.bygone().until_current();
    case.server.run("update orders set total = 0");
    case.bygone().until_current();
    let (log, aside) = (case.history().join("log"), case.history().join("../log-elsewhere"));
    std::fs::rename(&log, &aside).unwrap();
    let slot = "select confirmed_flush_lsn from pg_replication_slots where slot_name = 'bygone'";
    let before = case.server.value(slot);
    case.refuses(&mut case.bygone(), &["no log that names them", "put log/ back"]);
    assert_eq!(case.server.value(slot), before);
    let told = case.bygone().ask(&["verify"]);
    assert_eq!(told.code(), Some(1));
    assert!(told.stdout.contains("the log is missing"), "{}", told.stdout);
    std::fs::rename(&aside, &log).unwrap();
    case.bygone().ask(&["verify"]).well();
    case.bygone().until_current();
}

#[test]
fn a_table_that_is_not_there() {
    let case = Case::new();
    case.refuses(&mut case.bygone().tables(&["public.ordrs"]), &["public.ordrs", "public.orders"]);
}

#[test]
fn a_pattern_that_matches_nothing() {
    let case = Case::new();
    case.refuses(&mut case.bygone().tables(&["public.*", "shop.order_*"]), &["shop.order_*"]);
}

#[test]
fn a_database_without_tables() {
    let case = Case::new();
    case.server.run("drop table orders");
    case.refuses(&mut case.bygone(), &["table"]);
}

#[test]
fn the_history_of_another_cluster() {
    let case = Case::new();
    case.bygone().until_current();
    let stranger = Postgres::stranger();
    stranger.run(SHOP);
    case.refuses(&mut Bygone::new(stranger.url(), case.history()), &["system identifier"]);
    assert_eq!(stranger.traces(), [""; 0]);
}

#[test]
fn the_history_of_another_database() {
    let case = Case::new();
    case.bygone().until_current();
    case.server.run("create database other template shop");
    let url = case.server.url_as("postgres", "other");
    case.refuses(&mut Bygone::new(url, case.history()), &["other", "shop"]);
}

#[test]
fn a_history_of_a_newer_format() {
    let case = Case::new();
    case.bygone().until_current();
    let path = case.history().join("bygone.json");
    let text = fs::read_to_string(&path).unwrap();
    let newer = text.replace("\"format\":1", "\"format\":2").replace("\"format\": 1", "\"format\": 2");
    assert_ne!(newer, text);
    fs::write(&path, newer).unwrap();
    case.refuses(&mut case.bygone(), &["format", "newer"]);
}

#[test]
fn a_directory_that_holds_something_else() {
    let case = Case::new();
    fs::create_dir_all(case.history().join("tables")).unwrap();
    fs::write(case.history().join("tables/notes.txt"), "not ours").unwrap();
    // Whether it begins there or refuses to: what is not its own stays.
    let outcome = case.bygone().attempt(&[]);
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    assert_eq!(fs::read_to_string(case.history().join("tables/notes.txt")).unwrap(), "not ours");
}

#[test]
fn a_history_that_cannot_be_written() {
    let case = Case::new();
    fs::create_dir(case.history()).unwrap();
    fs::set_permissions(case.history(), fs::Permissions::from_mode(0o555)).unwrap();
    let words = [case.history().to_str().unwrap().to_owned(), "permission".to_owned()];
    case.refuses(&mut case.bygone().unprivileged(), &words.each_ref().map(String::as_str));
}

#[test]
fn a_history_below_a_file() {
    let case = Case::new();
    fs::write(case.scratch.join("file"), "").unwrap();
    let below = case.scratch.join("file/history");
    case.refuses(&mut Bygone::new(case.server.url(), &below), &[below.to_str().unwrap()]);
}

#[test]
fn a_bucket_that_is_not_there() {
    let case = Case::new();
    let moto = Moto::start();
    let mut bygone = Bygone::new(case.server.url(), "s3://no-such-bucket/p");
    for (name, value) in moto.variables() {
        bygone = bygone.env(name, &value);
    }
    case.refuses(&mut bygone, &["no-such-bucket"]);
}

#[test]
fn an_s3_server_that_is_down() {
    let case = Case::new();
    let mut bygone = Bygone::new(case.server.url(), "s3://kept/p")
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "a")
        .env("AWS_SECRET_ACCESS_KEY", "b");
    let outcome = case.refuses(&mut bygone, &["127.0.0.1:1"]);
    assert!(outcome.took < Duration::from_secs(200), "{:?}", outcome.took);
}

#[test]
fn a_history_at_an_unknown_sort_of_address() {
    let case = Case::new();
    let outcome = Bygone::new(case.server.url(), "ftp://host/history").attempt(&[]);
    assert!(matches!(outcome.code(), Some(1 | 2)), "{}", outcome.status);
    assert!(outcome.stderr.contains("ftp"), "{}", outcome.stderr);
    assert_eq!(case.server.traces(), [""; 0]);
}

#[test]
fn a_disk_that_fills_up() {
    let case = Case::new();
    let Some(disk) = Disk::mount(case.scratch.join("small")) else { return };
    let history = disk.path().join("history");
    let mut bygone = Bygone::new(case.server.url(), &history);
    bygone.until_current();
    let before = contents(&history);
    case.server.run(
        "insert into orders select n, (select string_agg(md5((n * m)::text), '') from generate_series(1, 20) m), n
         from generate_series(10, 30000) n",
    );
    let outcome = bygone.attempt(&[]).refused(&["space"]);
    println!("{}", outcome.stderr);
    // What was durable still is, and once there is room the run goes on where it was.
    let after = contents(&history);
    assert!(before.iter().all(|file| after.contains(file)), "what was kept has changed");
    disk.grow();
    bygone.until_current();
    let history = crate::support::history::History::read(crate::support::store::Store::directory(&history));
    assert_eq!(history.orphans(), [""; 0]);
    assert_eq!(history.fact_count(), 3 + 29_991);
}

#[test]
fn a_slot_that_another_process_reads() {
    let case = Case::new();
    case.bygone().until_current();
    let slot =
        case.server.traces().iter().find_map(|trace| trace.strip_prefix("slot ").map(str::to_owned)).unwrap();
    let publication = case
        .server
        .traces()
        .iter()
        .find_map(|trace| trace.strip_prefix("publication ").map(str::to_owned))
        .unwrap();
    let _reader = case
        .server
        .program("pg_recvlogical")
        .args(["-U", "postgres", "-d", DATABASE, "--start", "--slot", &slot, "-f", "/dev/null"])
        .args(["-o", "proto_version=1", "-o", &format!("publication_names={publication}")])
        .start(&case.scratch.join("reader.log"));
    let active =
        format!("select active_pid::text from pg_replication_slots where slot_name = '{slot}' and active");
    assert!(eventually(Duration::from_secs(20), || case.server.value(&active).is_some()));
    let pid = case.server.value(&active).unwrap();
    let outcome = case.refuses(&mut case.bygone(), &[&slot, &pid]);
    assert!(outcome.took < Duration::from_secs(120), "{:?}", outcome.took);
}

#[test]
fn a_second_bygone_on_the_same_history() {
    let case = Case::new();
    let mut first = case.bygone().options(&["--commit-interval", "200ms"]);
    first.start("");
    let active = "select active_pid::text from pg_replication_slots where active";
    // The slot is in use for a moment when it is made, and then by the stream.
    let streams = || first.said().contains("streaming") && case.server.value(active).is_some();
    assert!(eventually(Duration::from_secs(30), streams), "{}", first.said());
    let pid = case.server.value(active).unwrap();
    case.bygone().attempt(&[]).refused(&[&pid]);
    assert!(first.alive(), "{}", first.said());
}

#[test]
fn a_column_that_clashes_with_a_system_column() {
    let case = Case::new();
    case.server.run("create table clash (id int primary key, _version int, _date date)");
    case.refuses(&mut case.bygone(), &["public.clash", "_version", "--table"]);
    case.bygone().tables(&["public.*", "-public.clash"]).until_current();
}

#[test]
fn a_publication_that_shows_only_a_part() {
    let case = Case::new();
    case.server.run("create publication part for table orders with (publish = 'insert')");
    case.refuses(&mut case.bygone().options(&["--publication", "part"]), &["part", "update"]);
}

#[test]
fn a_slot_that_has_gone_beyond_what_is_durable() {
    let case = Case::new();
    case.bygone().until_current();
    let slot =
        case.server.traces().iter().find_map(|trace| trace.strip_prefix("slot ").map(str::to_owned)).unwrap();
    case.server.run("update orders set total = 0");
    case.server.run(&format!("select pg_replication_slot_advance('{slot}', pg_current_wal_lsn())"));
    case.refuses(&mut case.bygone(), &[&slot]);
}

#[test]
fn a_slot_that_is_gone() {
    let case = Case::new();
    case.bygone().until_current();
    let slot =
        case.server.traces().iter().find_map(|trace| trace.strip_prefix("slot ").map(str::to_owned)).unwrap();
    case.server.run(&format!("select pg_drop_replication_slot('{slot}')"));
    case.refuses(&mut case.bygone(), &[&slot]);
}

#[test]
fn a_publication_that_somebody_changed() {
    let case = Case::new();
    case.bygone().until_current();
    let named =
        case.server.traces().iter().find_map(|trace| trace.strip_prefix("publication ").map(str::to_owned));
    let named = named.unwrap();
    case.server.run(&format!("alter publication {named} drop table orders"));
    case.refuses(&mut case.bygone(), &[&named]);
}

#[test]
fn usage_that_is_no_usage_exits_with_two() {
    let scratch = Scratch::new("bad-input");
    let bygone = Bygone::new("postgres://localhost/shop", scratch.join("history"));
    for arguments in [
        &["run", "--no-such-flag"][..],
        &["run"],
        &["no-such-command"],
        &["run", "--source", "postgres://localhost/shop"],
        &["run", "--source", "postgres://localhost/shop", "--history", "h", "--commit-interval", "soon"],
        &["run", "--source", "postgres://localhost/shop", "--history", "h", "--memory", "much"],
        &["verify"],
    ] {
        let outcome = bygone.command(arguments);
        assert_eq!(outcome.code(), Some(2), "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stdout.is_empty() && !outcome.stderr.is_empty(), "{arguments:?}: {}", outcome.stdout);
    }
    let help = bygone.command(&["run", "--help"]).well();
    for option in ["--source", "--history", "--table", "--commit-interval", "--memory", "--until-current"] {
        assert!(help.stdout.contains(option), "no {option} in\n{}", help.stdout);
    }
}
