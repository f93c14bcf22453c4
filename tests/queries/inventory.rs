//! What a history holds, and how it is printed.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::{Shop, WIDE};
use crate::support::bygone::Bygone;
use crate::support::process::eventually;

#[test]
fn tables_and_log_tell_what_there_is() {
    let shop = Shop::orders();
    let tables = shop.json(&["tables"]);
    let told: Vec<_> =
        tables.iter().map(|row| (row["table"].as_str().unwrap(), &row["rows"], &row["versions"])).collect();
    assert_eq!(
        told,
        [
            ("public.notes", &Value::from(2), &Value::from(3)),
            ("public.orders", &Value::from(2), &Value::from(6))
        ]
    );
    let commits = shop.json(&["log"]);
    let kinds: Vec<&str> = commits
        .iter()
        .flat_map(|commit| commit["events"].as_array().unwrap())
        .map(|event| event["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["attach", "attach", "snapshot", "snapshot"]);
    assert_eq!(commits.last().unwrap()["facts"], 4);
    assert_eq!(shop.json(&["log", "--limit", "1"]).len(), 1);
}

#[test]
fn tables_fit_the_terminal() {
    let mut shop = Shop::with(WIDE);
    let before = shop.server.value("select pg_current_wal_insert_lsn()").unwrap();
    shop.server.run("update wide set word = 'b', any_text = repeat('long ', 100), dbl = 1 where id < 3; delete from wide where id = 3");
    shop.capture();
    for arguments in [
        &["tables"][..],
        &["log"],
        &["history", "wide", "1"],
        &["blame", "wide", "1"],
        &["as-of", "wide", "--at", "now"],
        &["as-of", "wide", "--at", "now", "--columns", "id,any_text,texts"],
        &["find", "wide", "label", "ok"],
        &["transactions"],
        &["diff", "wide", "--from", &before],
        &["sql", "select * from wide_history"],
    ] {
        let text = shop.ask(arguments);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{arguments:?}: {line}");
        }
    }
}

#[test]
fn each_command_explains_itself() {
    let shop = Path::new("/nonexistent");
    let bygone = Bygone::new("", shop);
    for command in [
        "tables",
        "log",
        "history",
        "as-of",
        "diff",
        "blame",
        "transactions",
        "transaction",
        "who",
        "find",
        "restore",
        "sql",
        "views",
    ] {
        let help = bygone.command(&[command, "--help"]).well();
        assert!(help.stdout.contains("--history"), "{command}");
    }
    bygone.ask(&["tables"]).refused(&["there is no history"]);
}

#[test]
fn a_followed_log_tells_each_commit_as_it_comes() {
    let mut shop = Shop::orders();
    for format in ["table", "json"] {
        let out = shop.scratch.join(format!("followed.{format}"));
        let mut follower = shop.bygone.follow(&["log", "--follow", "--limit", "1", "--format", format], &out);
        let told = || std::fs::read_to_string(&out).unwrap();
        let lines = |text: String| -> usize {
            let is_commit = |line: &&str| {
                line.starts_with('{') || line.trim_start().starts_with(|c: char| c.is_ascii_digit())
            };
            text.lines().filter(is_commit).count()
        };
        assert!(eventually(Duration::from_secs(20), || lines(told()) == 1), "{}", told());
        for (number, change) in
            ["update orders set total = 1", "update orders set total = 2"].iter().enumerate()
        {
            shop.server.run(change);
            shop.capture();
            assert!(eventually(Duration::from_secs(20), || lines(told()) == number + 2), "{}", told());
        }
        if format == "table" {
            // One heading, whatever comes.
            assert_eq!(told().matches("commit").count(), 1, "{}", told());
        } else {
            for line in told().lines() {
                let commit: Value = serde_json::from_str(line).unwrap();
                assert!(commit["commit"].is_u64() && commit["events"].is_array(), "{line}");
            }
        }
        follower.signal(Signal::TERM);
        follower.wait(Duration::from_secs(10));
    }
}

#[test]
fn views_for_postgres_stand_on_its_fact_tables() {
    let shop = Shop::orders();
    let sql = shop.ask(&["views", "postgres", "--facts-schema", "past", "--table", "orders"]);
    assert!(sql.contains("\"past\".\"orders_as_of\"(timestamptz)") && !sql.contains("notes"), "{sql}");
}
