//! What others in the source hold up for long: a capture waits for no more than it has to, can be stopped while it does, and goes on with
//! everything else.

use std::time::Duration;

use rustix::process::Signal;

use super::schema::{Diary, ITEMS};
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::http::get;
use crate::support::postgres::{DATABASE, Postgres, Stop};
use crate::support::process::{eventually, free_port};
use crate::support::scratch::Scratch;
use crate::support::store::Store;

const SOON: Duration = Duration::from_secs(60);
/// What a transaction of somebody else has written, that does not end.
const OPEN: &str = "begin; create temp table mine (id int); insert into mine values (1)";

fn slots(server: &Postgres) -> String {
    server.value("select count(*) from pg_replication_slots").unwrap()
}

/// The first slot waits for all transactions of the server.
#[test]
fn the_making_of_a_slot_can_be_stopped_and_killed() {
    let server = Postgres::start();
    server.run(ITEMS);
    let scratch = Scratch::new("history");
    let port = free_port();
    let listen = port.to_string();
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&["--listen", &listen]);
    let mut other = server.connect();
    other.batch_execute(OPEN).unwrap();
    let making = |server: &Postgres| eventually(SOON, || slots(server) == "1");

    bygone.start("");
    assert!(making(&server), "{}", bygone.said());
    // It is alive, and says so; it is not ready.
    let code = |path: &str| {
        let asked = get(port, path);
        asked.unwrap_or_else(|| panic!("{path} is not answered")).0
    };
    assert_eq!((code("/healthz"), code("/readyz")), (200, 503));
    bygone.terminate(Signal::TERM, Duration::from_secs(10));
    assert!(eventually(SOON, || slots(&server) == "0"), "the server goes on making the slot");

    bygone.start("");
    assert!(making(&server), "{}", bygone.said());
    bygone.kill();
    bygone.start("");
    let waits = eventually(SOON, || bygone.said().contains("waits for this transaction") || !bygone.alive());
    assert!(waits && bygone.alive(), "{}", bygone.said());
    assert_eq!(slots(&server), "1");
    other.batch_execute("commit").unwrap();
    let copied = eventually(SOON, || code("/readyz") == 200 || !bygone.alive());
    assert!(copied && bygone.alive(), "{}", bygone.said());
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    assert_eq!(
        bygone.ask(&["as-of", "items", "--at", "now", "--format", "csv"]).well().stdout.lines().count(),
        51
    );
}

/// A command for the password that does not end, or says without end what is none.
#[test]
fn a_password_command_that_goes_wrong_holds_nothing_up() {
    let server = Postgres::start();
    server.run(ITEMS);
    let scratch = Scratch::new("history");
    let with = |command: &str| {
        Bygone::new(server.url(), scratch.join("history")).options(&["--password-command", command])
    };
    let mut bygone = with("sleep 600");
    bygone.start("");
    std::thread::sleep(Duration::from_millis(500));
    assert!(bygone.alive(), "{}", bygone.said());
    bygone.terminate(Signal::TERM, Duration::from_secs(10));
    // No password is asked for here.
    let told = with("yes").until_current();
    assert!(told.stderr.contains("says more than 4096 bytes"), "{}", told.stderr);
}

/// A run that ends by itself says why it cannot, where nobody can tell what the catalog says.
#[test]
fn a_catalog_that_cannot_be_read_is_not_waited_for_without_end() {
    let server = Postgres::start();
    server.run(&format!(
        "{ITEMS}; create role app login replication; grant create on database {DATABASE} to app;
        grant usage on schema public to app; alter table items owner to app"
    ));
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url_as("app", DATABASE), scratch.join("history"))
        .options(&["--catalog-interval", "200ms"]);
    bygone.until_current();
    server.run("revoke select on pg_enum from public; update items set n = n + 1");
    let refused = bygone.attempt(&["--source-timeout", "3s"]);
    refused.refused(&["pg_enum", "whether the history is current"]);
    server.run("grant select on pg_enum to public");
    bygone.until_current();
}

/// A table that is new waits for a transaction that does not end; the others do not, also after a restart.
#[test]
fn a_table_that_cannot_be_copied_yet_holds_up_no_other() {
    let mut diary = Diary::begin(true, ITEMS);
    let mut other = diary.server.connect();
    other.batch_execute(OPEN).unwrap();
    diary.change(
        "create table later (id int primary key); insert into later values (1), (2)",
        &[("attach", "public.later")],
    );
    diary.bygone.terminate(Signal::TERM, Duration::from_secs(20));
    diary.server.run("update items set n = n + 1");
    diary.bygone.start("");
    diary.save("items");
    diary.bygone.kill();
    diary.server.run("delete from items where id = 1");
    diary.bygone.start("");
    diary.save("items");
    assert!(diary.events("snapshot", "public.later").is_empty());
    // Stopped, it ends at once.
    diary.bygone.terminate(Signal::TERM, Duration::from_secs(20));
    diary.bygone.start("");
    other.batch_execute("commit").unwrap();
    let copied =
        eventually(SOON, || !diary.events("snapshot", "public.later").is_empty() || !diary.bygone.alive());
    assert!(copied && diary.bygone.alive(), "{}", diary.bygone.said());
    diary.save("later");
    diary.check();
    assert_eq!(slots(&diary.server), "1", "slots of copies are left");
}

/// Of a table that somebody else made and the role may not publish nothing is known; of all others everything.
#[test]
fn a_table_that_cannot_be_published_holds_up_no_other() {
    let server = Postgres::start();
    server.run(&format!(
        "{ITEMS}; create role app login replication; create role owner; grant owner to app; grant create on database {DATABASE} to app;
         grant usage on schema public to app; alter table items owner to owner"
    ));
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url_as("app", DATABASE), scratch.join("history")).options(&[
        "--commit-interval",
        "100ms",
        "--catalog-interval",
        "200ms",
    ]);
    bygone.start("");
    let events = |kind: &str, table: &str| {
        let history = History::read(Store::directory(scratch.join("history")));
        history.events(kind).iter().filter(|event| event["table"] == table).count()
    };
    assert!(eventually(SOON, || events("snapshot", "public.items") == 1), "{}", bygone.said());
    server.run("create table theirs (id int primary key); insert into theirs values (1)");
    let told = eventually(SOON, || bygone.said().contains("cannot be published"));
    assert!(told, "{}", bygone.said());
    server.run(
        "create table ours (id int primary key); alter table ours owner to owner; insert into ours values (5);
         alter table items alter n type bigint using n * 100",
    );
    let followed = eventually(SOON, || {
        events("snapshot", "public.ours") == 1 && events("reconcile", "public.items") == 1
    });
    assert!(followed && bygone.alive(), "{}", bygone.said());
    assert_eq!(events("attach", "public.theirs"), 0);
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    // So does a run that ends by itself, on a history that is there.
    bygone.until_current();
    let rows = |table: &str| {
        bygone.ask(&["as-of", table, "--at", "now", "--format", "csv", "--where", "id <= 5"]).well().stdout
    };
    assert!(rows("items").contains("\n5,a5,500,v5\n"), "{}", rows("items"));
    assert_eq!(rows("ours"), "id\n5\n");

    // Once it may be published, it is captured.
    bygone.start("");
    server.run("alter table theirs owner to owner");
    assert!(eventually(SOON, || events("snapshot", "public.theirs") == 1), "{}", bygone.said());
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
}

/// Of a table that the role may not read nothing is copied; of all others everything, also at the next start.
#[test]
fn a_table_that_may_not_be_read_holds_up_no_other() {
    let server = Postgres::start();
    server.run(&format!(
        "{ITEMS}; create role app login replication; grant usage on schema public to app; grant select on items to app;
         create publication mine for all tables"
    ));
    let scratch = Scratch::new("history");
    let options = ["--publication", "mine", "--commit-interval", "100ms", "--catalog-interval", "200ms"];
    let mut bygone = Bygone::new(server.url_as("app", DATABASE), scratch.join("history")).options(&options);
    bygone.start("");
    let copied = |table: &str| {
        let history = History::read(Store::directory(scratch.join("history")));
        history.events("snapshot").iter().any(|event| event["table"] == table)
    };
    assert!(eventually(SOON, || copied("public.items")), "{}", bygone.said());
    server.run(
        "begin; create table secret (id int primary key); create table good (id int primary key); insert into good values (1);
         grant select on good to app; commit",
    );
    assert!(eventually(SOON, || copied("public.good")), "{}", bygone.said());
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.start("");
    server.run("insert into good values (2)");
    let rows = |table: &str| bygone.ask(&["as-of", table, "--at", "now", "--format", "csv"]).well().stdout;
    assert!(eventually(SOON, || rows("good") == "id\n1\n2\n"), "{}", bygone.said());
    assert!(!copied("public.secret"));
    server.run("insert into secret values (7); grant select on secret to app");
    assert!(eventually(SOON, || copied("public.secret")), "{}", bygone.said());
    assert_eq!(rows("secret"), "id\n7\n");
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
}

/// A table that is truncated again and again while it is copied has no other copied again.
#[test]
fn a_table_that_is_altered_each_time_it_is_copied_holds_up_no_other() {
    let mut diary = Diary::begin(false, ITEMS);
    diary.bygone.start("copy.begun=sleep(2000)");
    diary.server.run("begin; create table busy (id int primary key); create table calm (id int primary key); insert into calm values (1); commit");
    let copied = |diary: &Diary, table: &str| !diary.events("snapshot", table).is_empty();
    let calm = eventually(Duration::from_secs(15), || {
        diary.server.run("truncate busy; insert into busy values (1)");
        copied(&diary, "public.calm")
    });
    assert!(calm && !copied(&diary, "public.busy"), "{}", diary.bygone.said());
    assert!(eventually(SOON, || copied(&diary, "public.busy")), "{}", diary.bygone.said());
    diary.bygone.terminate(Signal::TERM, Duration::from_secs(20));
    diary.save("busy");
    diary.save("calm");
    diary.check();
}

/// The server notices before a look at the catalog does.
#[test]
fn a_publication_that_is_dropped_under_the_stream_is_explained_and_led_over() {
    for go_on in [false, true] {
        let server = Postgres::start();
        server.run(ITEMS);
        let scratch = Scratch::new("history");
        let mut options = vec!["--commit-interval", "100ms", "--catalog-interval", "1h"];
        if go_on {
            options.extend(["--on-gap", "reconcile"]);
        }
        let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&options);
        bygone.start("");
        let history = || History::read(Store::directory(scratch.join("history")));
        let copied = eventually(SOON, || {
            !history().events("snapshot").is_empty() && bygone.said().contains("streaming")
        });
        assert!(copied, "{}", bygone.said());
        server.run("drop publication bygone; update items set a = 'unheard' where id = 1");
        if go_on {
            let led_over = eventually(SOON, || !history().events("gap").is_empty() || !bygone.alive());
            assert!(led_over && bygone.alive(), "{}", bygone.said());
            server.run("update items set a = 'heard' where id = 2");
            bygone.terminate(Signal::TERM, Duration::from_secs(20));
            bygone.until_current();
            let rows =
                bygone.ask(&["as-of", "items", "--at", "now", "--format", "csv", "--where", "id <= 2"]);
            assert!(rows.well().stdout.contains("1,unheard,1,v1\n2,heard,2,v2"));
        } else {
            let status = bygone.ending(SOON);
            assert!(!status.success());
            let said = bygone.said();
            assert!(said.contains("publication") && said.contains("--on-gap reconcile"), "{said}");
        }
    }
}

/// A server was away for longer than a slot in use is waited for, and then somebody else reads the slot for a moment.
#[test]
fn a_slot_that_is_in_use_after_a_long_outage_is_waited_for() {
    let mut diary = Diary::begin(true, ITEMS);
    // What takes somebody else a while to read.
    diary.bygone.signal(Signal::STOP);
    diary.server.run("insert into items select i, repeat('x', 100) from generate_series(1000, 300000) i");
    diary.server.stop(Stop::Immediate);
    diary.bygone.signal(Signal::CONT);
    std::thread::sleep(Duration::from_secs(23));
    diary.server.start_again();
    let mut other = diary.server.connect();
    let reads = "select count(*) from pg_logical_slot_peek_binary_changes('bygone', null, null, 'proto_version', '1', 'publication_names', \
                 'bygone')";
    let refused = eventually(SOON, || {
        // Where bygone is just looking itself, it is refused.
        let _ = other.query(reads, &[]);
        diary.bygone.said().contains("is being read by another process")
    });
    assert!(refused && diary.bygone.alive(), "{}", diary.bygone.said());
    diary.server.run("update items set n = n + 1 where id < 1000");
    diary.save("items");
    diary.check();
}
