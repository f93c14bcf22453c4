//! `bygone doctor`: each check finds what it is there for, and its fix, pasted as it stands, mends it.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::bygone::{Bygone, Outcome};
use crate::support::majors::on_each_major;
use crate::support::moto::{BUCKET, Moto};
use crate::support::postgres::{DATABASE, Postgres};
use crate::support::process::eventually;
use crate::support::scratch::Scratch;

struct Findings {
    code: Option<i32>,
    checks: Vec<Value>,
}

impl Findings {
    fn of(outcome: &Outcome) -> Self {
        let checks = serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("{error}:\n{}\n{}", outcome.stdout, outcome.stderr));
        Self { code: outcome.code(), checks }
    }

    fn all<'a>(&'a self, check: &'a str) -> impl Iterator<Item = &'a Value> {
        self.checks.iter().filter(move |found| found["check"] == check)
    }

    /// The worst finding of a check.
    #[track_caller]
    fn worst<'a>(&'a self, check: &'a str) -> &'a Value {
        let rank = |found: &&Value| match found["level"].as_str() {
            Some("ok") => 0,
            Some("warning") => 1,
            _ => 2,
        };
        self.all(check).max_by_key(rank).unwrap_or_else(|| panic!("no check {check}: {:#?}", self.checks))
    }

    #[track_caller]
    fn level<'a>(&'a self, check: &'a str) -> &'a str {
        self.worst(check)["level"].as_str().unwrap()
    }

    /// The fix, without the remark behind it.
    #[track_caller]
    fn fix(&self, check: &str) -> String {
        let fix = self.worst(check)["fix"].as_str().unwrap_or_else(|| panic!("{check} has no fix"));
        fix.split(" --").next().unwrap().to_owned()
    }

    /// The fixes of all findings of a check.
    fn fixes(&self, check: &str) -> Vec<String> {
        let all = self.all(check).filter_map(|found| found["fix"].as_str());
        all.map(|fix| fix.split(" --").next().unwrap().to_owned()).collect()
    }
}

fn examine(source: &str, more: &[&str]) -> Findings {
    let scratch = Scratch::new("doctor");
    let bygone = Bygone::new(source, scratch.join("history"));
    Findings::of(&bygone.command(&[&["doctor", "--source", source, "--format", "json"], more].concat()))
}

fn a_source_that_is_well_has_no_problem(server: Postgres) {
    server.run("create table orders (id int primary key, t text); insert into orders select i, 'x' from generate_series(1, 1000) i; analyze orders");
    let before = server.traces();
    let found = examine(&server.url(), &[]);
    assert_eq!(found.code, Some(0), "{:#?}", found.checks);
    for check in [
        "server",
        "version",
        "wal_level",
        "replication_slots",
        "wal_senders",
        "role_replication",
        "tables",
        "replica_identity",
        "select",
        "types",
        "first_copy",
        "slot",
    ] {
        assert_eq!(found.level(check), "ok", "{check}: {:#?}", found.worst(check));
    }
    assert!(found.worst("first_copy")["message"].as_str().unwrap().contains("about 1000 rows"));
    assert_eq!(server.traces(), before, "it left something behind");
}

on_each_major!(
    &[("max_slot_wal_keep_size", "1GB")],
    [14 as v14, 15 as v15, 16 as v16, 17 as v17, 18 as v18],
    [a_source_that_is_well_has_no_problem]
);

#[test]
fn tables_that_cannot_be_seen_whole_are_named_with_the_statement_that_mends_them() {
    let server = Postgres::start();
    server.run(
        "create table \"No Key\" (n int); create unlogged table fast (id int primary key);
         create table clash (id int primary key, _version int);
         create table parent (id int primary key); create table \"child; drop\" (id int primary key, p int references parent on delete cascade);
         create table shapes (id int primary key, made int generated always as (id * 2) stored, during interval)",
    );
    let found = examine(&server.url(), &["--table", "public.*", "--table", "-public.\"child; drop\""]);
    assert_eq!(found.code, Some(1));
    assert_eq!(found.level("replica_identity"), "warning");
    assert!(found.worst("replica_identity")["message"].as_str().unwrap().contains("No Key"));
    assert_eq!(found.level("column_names"), "problem");
    assert_eq!(found.level("not_captured"), "warning");
    assert_eq!(found.level("types"), "warning");
    assert_eq!(found.level("generated_columns"), if server.major() < 18 { "warning" } else { "ok" });
    assert!(found.worst("cascades")["message"].as_str().unwrap().contains("child; drop"));

    server.run(&found.fix("replica_identity"));
    server.run("alter table clash rename _version to version; drop table fast");
    let found = examine(&server.url(), &["--table", "public.*"]);
    assert_eq!(found.code, Some(0), "{:#?}", found.checks);
    assert_eq!(found.level("replica_identity"), "ok");
    assert_eq!(found.all("cascades").count() + found.all("not_captured").count(), 0);
}

#[test]
fn a_role_is_told_which_rights_it_lacks_until_it_lacks_none() {
    let server = Postgres::start();
    server.run(
        "create schema \"sh op\"; create table \"sh op\".orders (id int primary key); create table notes (id int primary key);
         create role app login",
    );
    let url = server.url_as("app", DATABASE);
    let found = examine(&url, &[]);
    assert_eq!(found.fixes("publications").len(), 2, "{:#?}", found.checks);
    for check in ["role_replication", "select", "publications"] {
        assert_eq!((found.code, found.level(check)), (Some(1), "problem"), "{check}");
        server.run(&found.fixes(check)[0]);
        let later = examine(&url, &[]);
        assert_eq!(later.fixes(check), found.fixes(check)[1..], "{:#?}", later.checks);
    }
    // It may make publications now, and is not the owner of what is to be in them.
    let scratch = Scratch::new("doctor");
    let mut bygone = Bygone::new(url.clone(), scratch.join("history"));
    bygone.attempt(&[]).refused(&["create publication", "add table only"]);
    assert_eq!(
        server.column("select pubname::text from pg_publication"),
        Vec::<String>::new(),
        "one is left behind"
    );
    let found = examine(&url, &[]);
    assert_eq!((found.code, found.level("publications")), (Some(1), "problem"));
    server.run(&found.fix("publications"));
    let found = examine(&url, &[]);
    assert_eq!(found.code, Some(0), "{:#?}", found.checks);
    bygone.until_current();
}

#[test]
fn publications_and_a_slot_of_the_operators_own_are_looked_at_and_none_of_its_own_missed() {
    let server = Postgres::start();
    server.run(
        "create table orders (id int primary key, total int); create table notes (id int primary key);
         create role app login replication; grant select on orders, notes to app",
    );
    let url = server.url_as("app", DATABASE);
    let given = ["--table", "public.*", "--publication", "mine", "--slot", "theirs"];
    // What is found wrong is mended by the fixes in their order, until nothing is.
    let mend = |check: &str, words: &str| {
        let found = examine(&url, &given);
        let told = found.worst(check);
        assert_eq!((found.code, told["level"].as_str()), (Some(1), Some("problem")), "{told}");
        assert!(told["message"].as_str().unwrap().contains(words), "{told}");
        found.fixes(check).iter().for_each(|fix| server.run(fix));
    };
    mend("publications", "does not exist");
    server.run("alter publication mine drop table notes");
    mend("publications", "not published: public.notes");
    mend("slot", "bygone run makes none");
    let found = examine(&url, &given);
    assert_eq!(found.code, Some(0), "{:#?}", found.checks);

    server.run("alter publication mine set (publish = 'insert, update')");
    mend("publications", "does not publish delete, truncate");
    if server.major() >= 15 {
        server.run("alter publication mine set table orders (id), notes where (id > 5)");
        let found = examine(&url, &[&given[..], &["--accept-partial"]].concat());
        assert_eq!((found.code, found.all("publications").count()), (Some(0), 2), "{:#?}", found.checks);
        assert_eq!(found.level("publications"), "warning");
        let scratch = Scratch::new("doctor");
        let run = Bygone::new(url.clone(), scratch.join("history")).options(&given[2..]).attempt(&[]);
        run.refused(&["only some columns of public.orders", "only some rows of public.notes"]);
        mend("publications", "publishes only some");
    }
    let found = examine(&url, &given);
    assert_eq!((found.code, found.level("publications")), (Some(0), "ok"), "{:#?}", found.checks);
    let scratch = Scratch::new("doctor");
    Bygone::new(url.clone(), scratch.join("history")).options(&given[2..]).until_current();
}

#[test]
fn what_a_file_says_of_its_captures_is_looked_at_as_bygone_run_takes_it() {
    let server = Postgres::start();
    server.run(
        "create table orders (id int primary key, total int); create publication mine for table orders;
         create role app login replication password 'hunter2'; grant select on orders to app",
    );
    server.admit("scram-sha-256");
    let scratch = Scratch::new("doctor");
    let (file, secret) = (scratch.join("bygone.toml"), scratch.join("secret"));
    std::fs::write(&secret, "hunter2\n").unwrap();
    let text = format!(
        "source = \"{url}\"\npublication = \"mine\"\ncommit-interval = \"1s\"\nhistory = \"{root}/h\"\n\
         password-command = \"cat {secret}\"\n\
         [capture.well]\n[capture.wrong]\nleave-out = [\"orders.totl\"]\nretention = [\"public.order=years-7\"]\n",
        url = server.url_as("app", DATABASE),
        root = scratch.path().display(),
        secret = secret.display(),
    );
    std::fs::write(&file, text).unwrap();
    let bygone = Bygone::new("", scratch.join("unused"));
    let ask = |more: &[&str]| {
        let words = ["doctor", "--config", file.to_str().unwrap(), "--format", "json"];
        Findings::of(&bygone.command(&[&words, more].concat()))
    };
    let found = ask(&["well"]);
    assert_eq!((found.code, found.level("publications")), (Some(0), "ok"), "{:#?}", found.checks);
    let found = ask(&[]);
    assert_eq!(found.code, Some(1));
    for (check, words) in [("columns", "did you mean total"), ("retention", "did you mean public.orders")] {
        let told = found.worst(check);
        assert_eq!((&told["capture"], &told["level"]), (&"wrong".into(), &"problem".into()), "{told}");
        assert!(told["message"].as_str().unwrap().contains(words), "{told}");
    }
    assert_eq!(found.all("server").count(), 2, "both are looked at");
    // A flag comes before the file.
    assert_eq!(ask(&["well", "--publication", "other"]).level("publications"), "problem");
    let shown = bygone.command(&["doctor", "--config", file.to_str().unwrap()]).stdout;
    assert!(shown.contains("[capture.well]") && shown.contains("[capture.wrong]"), "{shown}");
}

#[test]
fn the_database_for_fact_tables_is_looked_at() {
    let server = Postgres::start();
    server.run("create table orders (id int primary key)");
    server.run("create database past");
    server.run("create role audit login");
    let target = server.url_as("audit", "past");
    let ask = |target: &str| examine(&server.url(), &["--facts", target, "--facts-schema", "Old facts"]);
    let found = ask(&target);
    assert_eq!((found.code, found.level("facts")), (Some(1), "problem"), "{:#?}", found.checks);
    server.run(&found.fix("facts"));
    assert_eq!((ask(&target).code, ask(&target).level("facts")), (Some(0), "ok"));
    server.connect_to("past").batch_execute("create schema \"Old facts\"").unwrap();
    assert!(ask(&target).worst("facts")["message"].as_str().unwrap().contains("there already"));
    let found = ask("postgres://audit@127.0.0.1:1/past");
    assert!(found.worst("facts")["message"].as_str().unwrap().contains("is the server running"));
}

#[test]
fn settings_and_slots_that_a_capture_cannot_work_with_are_told() {
    let server = Postgres::with(&[
        ("wal_level", "replica"),
        ("max_wal_senders", "0"),
        ("max_replication_slots", "0"),
        ("wal_sender_timeout", "0"),
    ]);
    server.run("create table orders (id int primary key)");
    let found = examine(&server.url(), &[]);
    assert_eq!(found.code, Some(1));
    for check in ["wal_level", "wal_senders", "replication_slots"] {
        assert_eq!(found.level(check), "problem", "{check}");
        assert!(found.fix(check).starts_with("alter system set"), "{}", found.fix(check));
    }
    assert_eq!(found.level("wal_sender_timeout"), "warning");
    assert_eq!(found.level("max_slot_wal_keep_size"), "warning");

    let server = Postgres::start();
    server.run("create table orders (id int primary key)");
    server.run("select pg_create_logical_replication_slot('bygone', 'test_decoding')");
    assert_eq!(examine(&server.url(), &[]).level("slot"), "problem");
    let mut old = server.connect();
    old.batch_execute("begin; create table never (n int)").unwrap();
    let found = examine(&server.url(), &["--name", "other"]);
    assert_eq!(found.level("long_transactions"), "ok", "it is not a minute old");
}

#[test]
fn what_may_go_wrong_one_day_is_a_warning_and_no_problem() {
    let mut server = Postgres::with(&[("logical_decoding_work_mem", "64kB"), ("wal_sender_timeout", "5s")]);
    server.run(
        "create table orders (id int primary key); create table parts (id int primary key) partition by range (id);
         create table parts_1 partition of parts for values from (1) to (10); create materialized view sums as select 1",
    );
    server.run("select pg_create_physical_replication_slot('of_a_standby')");
    let found = examine(&server.url(), &[]);
    assert_eq!(found.code, Some(0), "{:#?}", found.checks);
    for check in ["logical_decoding_work_mem", "wal_sender_timeout", "max_slot_wal_keep_size", "failover"] {
        assert_eq!(found.level(check), "warning", "{:#?}", found.worst(check));
    }
    assert!(
        found.worst("tables")["message"].as_str().unwrap().contains("2 to capture, 1 of them partitioned")
    );
    if server.major() >= 16 {
        let standby = server.standby(&[("hot_standby_feedback", "off")]);
        let found = examine(&standby.url(), &[]);
        assert_eq!(found.level("hot_standby_feedback"), "warning", "{:#?}", found.checks);
    } else {
        let standby = server.standby(&[]);
        let found = examine(&standby.url(), &[]);
        assert_eq!((found.code, found.level("standby")), (Some(1), "problem"), "{:#?}", found.checks);
    }
}

#[test]
fn a_server_that_does_not_answer_is_a_problem_and_the_place_of_the_history_is_looked_at_all_the_same() {
    let scratch = Scratch::new("doctor");
    let history = scratch.join("to/be/made");
    let found = examine("postgres://app@127.0.0.1:1/shop", &["--history", history.to_str().unwrap()]);
    assert_eq!((found.code, found.level("connection")), (Some(1), "problem"));
    assert_eq!(found.level("history"), "ok");
    assert!(!scratch.join("to").exists(), "it made a directory");
}

#[test]
fn what_would_stop_a_capture_that_has_begun_is_a_problem() {
    let server = Postgres::start();
    server.run("create table t (id int primary key); insert into t values (1)");
    let scratch = Scratch::new("doctor");
    let root = scratch.join("history");
    let history = root.to_str().unwrap();
    let mut bygone = Bygone::new(server.url(), &root);
    bygone.until_current();
    let examined = |source: &str| examine(source, &["--history", history]);
    assert_eq!(examined(&server.url()).level("stream"), "ok");
    // While it is being read, too.
    bygone.start("");
    assert!(eventually(Duration::from_secs(60), || bygone.said().contains("streaming")), "{}", bygone.said());
    assert_eq!(examined(&server.url()).level("stream"), "ok");
    bygone.terminate(Signal::TERM, Duration::from_secs(20));

    let problem = |found: &Findings, words: &str| {
        let told = found.worst("stream");
        assert_eq!((found.code, told["level"].as_str()), (Some(1), Some("problem")), "{told}");
        assert!(told["message"].as_str().unwrap().contains(words), "{told}");
    };
    // Servers of the tests are copies of one, so this one is the same, put back to a moment of before it all.
    let other = Postgres::start();
    other.run("create table t (id int primary key)");
    problem(&examined(&other.url()), "restored from a backup");
    server.run("alter publication bygone drop table t");
    problem(&examined(&server.url()), "publication");
    server.run("alter publication bygone add table only t; select pg_drop_replication_slot('bygone')");
    problem(&examined(&server.url()), "slot");
}

#[test]
fn a_bucket_is_tried_and_left_as_it_was() {
    let server = Postgres::start();
    server.run("create table orders (id int primary key)");
    let moto = Moto::start();
    let bygone = moto.bygone(server.url(), "shop");
    let url = server.url();
    let ask = |history: &str| {
        Findings::of(&bygone.command(&["doctor", "--source", &url, "--history", history, "--format", "json"]))
    };
    let found = ask(&format!("s3://{BUCKET}/shop"));
    assert_eq!(found.code, Some(0), "{:#?}", found.checks);
    assert_eq!((found.level("history"), found.level("store_clock")), ("ok", "ok"));
    assert!(moto.store("shop").list().is_empty());
    // What protects the objects is told as it is found.
    assert_eq!((found.level("store_versioning"), found.level("store_object_lock")), ("warning", "ok"));
    moto.put("locked", "x-amz-bucket-object-lock-enabled: true\r\n", "");
    let found = ask("s3://locked/shop");
    assert_eq!((found.level("store_versioning"), found.level("store_object_lock")), ("ok", "warning"));
    let rule = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE</Mode>\
                <Days>30</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
    moto.put("archive", "x-amz-bucket-object-lock-enabled: true\r\n", "");
    moto.put("archive?object-lock", "", rule);
    let found = ask("s3://archive/shop");
    assert_eq!(found.level("store_object_lock"), "ok");
    assert!(
        found.worst("store_object_lock")["message"].to_string().contains("COMPLIANCE, 30 days"),
        "{:#?}",
        found.checks
    );

    let found = ask("s3://no-such-bucket/x");
    assert_eq!((found.code, found.level("history")), (Some(1), "problem"));
}
