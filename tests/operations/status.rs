//! `bygone status`, from outside.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::bygone::{Bygone, Outcome};
use crate::support::postgres::Postgres;
use crate::support::process::{eventually, free_port};
use crate::support::scratch::Scratch;

#[test]
fn a_capture_tells_from_outside_where_it_stands() {
    let server = Postgres::start();
    server.run(
        "create table orders (id int primary key, t text); insert into orders values (1, 'a'), (2, 'b')",
    );
    let scratch = Scratch::new("history");
    let mut bygone =
        Bygone::new(server.url(), scratch.join("history")).options(&["--commit-interval", "100ms"]);
    let url = server.url();
    let ask = |bygone: &Bygone, more: &[&str]| {
        let outcome = bygone.ask(&[&["status", "--format", "json"], more].concat());
        let report: Value =
            serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("{}", outcome.stderr));
        (outcome.code(), report)
    };
    bygone.command(&["status"]).misused(&["--history", "--source"]);
    bygone.ask(&["status"]).refused(&["no history"]);
    let outcome = bygone.command(&["status", "--source", &url]).refused(&[]);
    assert!(outcome.stdout.contains("no replication slot"), "{}", outcome.stdout);

    bygone.until_current();
    let (code, report) = ask(&bygone, &[]);
    assert_eq!((code, &report["healthy"]), (Some(0), &true.into()), "{report:#}");
    assert_eq!(report["history"]["tables"][0]["facts"], 2);
    // Nobody reads the slot.
    let (code, report) = ask(&bygone, &["--source", &url]);
    assert_eq!((code, &report["source"]["active"]), (Some(1), &false.into()));

    bygone.start("");
    let healthy = eventually(Duration::from_secs(30), || ask(&bygone, &["--source", &url]).0 == Some(0));
    assert!(healthy, "{:#}", ask(&bygone, &["--source", &url]).1);
    server.run("insert into orders select i, 'x' from generate_series(3, 1000) i");
    let caught_up = eventually(Duration::from_secs(30), || ask(&bygone, &[]).1["history"]["facts"] == 1000);
    assert!(caught_up);
    let (_, report) = ask(&bygone, &["--source", &url]);
    assert!(report["source"]["held_bytes"].as_i64().unwrap() >= 0);
    assert!(report["source"]["restart"].is_string(), "{report:#}");
    assert!(report["source"]["lag_bytes"].as_u64().unwrap() < 1 << 20, "{report:#}");
    assert_eq!(report["source"]["oldest_transaction"], Value::Null, "{report:#}");
    let mut open = server.connect();
    open.batch_execute("begin; insert into orders values (2000, 'open')").unwrap();
    let (_, report) = ask(&bygone, &["--source", &url]);
    assert!(report["source"]["oldest_transaction"]["age_s"].is_i64(), "{report:#}");
    let shown = bygone.ask(&["status", "--source", &url]).well().stdout;
    assert!(shown.contains("open longest that of server process"), "{shown}");
    open.batch_execute("rollback").unwrap();
    for line in shown.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    bygone.ask(&["reconcile", "--source", &url]).well();
    assert!(ask(&bygone, &[]).1["history"]["verified"]["public.orders"].is_string());

    // Something is lost: that is not healthy until it is led over, and told for ever.
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    server.run("select pg_drop_replication_slot('bygone')");
    assert_eq!(ask(&bygone, &["--source", &url]).0, Some(1));
    bygone.attempt(&["--on-gap", "reconcile"]).well();
    let (code, report) = ask(&bygone, &[]);
    assert_eq!((code, &report["history"]["gaps"][0]["kind"]), (Some(0), &"gap".into()), "{report:#}");
}

#[test]
fn a_capture_that_runs_tells_its_rate_and_memory_and_how_far_its_first_copy_is() {
    let server = Postgres::start();
    server.run(
        "create table orders (id int primary key); insert into orders select generate_series(1, 100);
         create table notes (id int primary key)",
    );
    let scratch = Scratch::new("history");
    let at = free_port().to_string();
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&[
        "--commit-interval",
        "100ms",
        "--listen",
        &at,
    ]);
    let read = |outcome: Outcome| {
        let report: Value = serde_json::from_str(&outcome.stdout).unwrap_or_default();
        (outcome.code(), report)
    };
    let ask = |bygone: &Bygone| read(bygone.command(&["status", "--at", &at, "--format", "json"]));
    let (code, report) = ask(&bygone);
    assert_eq!((code, &report["healthy"], &report["running"]), (Some(1), &false.into(), &Value::Null));
    assert!(report["problems"][0].as_str().unwrap().contains("is bygone run going"), "{report:#}");

    bygone.start("snapshot.table_done=sleep(5000)");
    let both = |bygone: &Bygone| read(bygone.ask(&["status", "--at", &at, "--format", "json"]));
    let copying = eventually(Duration::from_secs(60), || {
        let (code, report) = both(&bygone);
        let far = serde_json::json!({"done": 0, "tables": 2});
        code == Some(1) && report["history"]["first_copy"] == far && report["running"]["streaming"] == false
    });
    assert!(copying, "{:#}", both(&bygone).1);
    let streams = eventually(Duration::from_secs(60), || both(&bygone).0 == Some(0));
    let (_, report) = both(&bygone);
    assert!(streams && report["history"]["first_copy"].is_null(), "{report:#}");
    let copied = ask(&bygone).1["running"]["facts"].as_u64().unwrap();
    server.run("insert into orders select generate_series(101, 1000)");
    let counted = eventually(Duration::from_secs(60), || ask(&bygone).1["running"]["facts"] == copied + 900);
    let (_, report) = ask(&bygone);
    assert!(counted, "{report:#}");
    let running = &report["running"];
    assert!(running["facts_per_second"].as_f64().unwrap() >= 900.0 / 60.0, "{running}");
    assert!(running["memory_bytes"].as_u64().unwrap() > 1 << 20, "{running}");
    let shown = bygone.command(&["status", "--at", &at]).well().stdout;
    assert!(shown.contains("facts/s in the last minute") && shown.contains("memory"), "{shown}");
}

#[test]
fn log_lines_can_be_json() {
    let server = Postgres::start();
    server.run("create table orders (id int primary key); insert into orders values (1)");
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&["--log-format", "json"]);
    let outcome = bygone.until_current();
    let lines: Vec<Value> = outcome.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let attached = lines.iter().find(|line| line["message"] == "attached").unwrap();
    assert_eq!((&attached["level"], &attached["tables"]), (&"INFO".into(), &1.into()), "{attached}");
}
