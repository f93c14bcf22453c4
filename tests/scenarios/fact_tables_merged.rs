//! Fact tables that are behind a history whose files were merged meanwhile: each fact is a row once, of the commit that made it.

use super::fact_tables::assert_same_facts;
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::postgres::Postgres;
use crate::support::scratch::Scratch;
use crate::support::store::Store;

/// A table whose first copy, and a transaction after it, make several files each with little memory.
const LARGE: &str = "create table large (id int primary key, t text);
    insert into large select n, string_agg(md5(n::text || m), '') from generate_series(1, 60000) n, generate_series(1, 32) m group by n";

/// How many files of a table each commit added that no compaction made, by its number.
fn files_of(history: &History, table: &str) -> Vec<usize> {
    let all = history.commits.iter().filter(|commit| commit["aside"] != true);
    let counts = all
        .map(|commit| commit["add"].as_array().unwrap().iter().filter(|add| add["table"] == table).count());
    counts.filter(|count| *count > 0).collect()
}

/// Live files of a table that a compaction made.
fn merged_files(history: &History, table: &str) -> usize {
    history.live.iter().filter(|(path, entry)| entry.table == table && path.contains("-c")).count()
}

/// Symptom: of files of one position, which those of a first copy are, each was looked for in the first merged file that covers it. So all of
/// its facts were copied once for each (a unique violation, tried again for ever), and those in a second merged file never.
#[test]
fn files_of_one_commit_that_were_merged_are_each_copied_once() {
    let server = Postgres::start();
    server.run(LARGE);
    server.run("create table small (id int primary key, n int); insert into small values (1, 1)");
    server.run("create database facts");
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&["--memory", "64MiB"]);
    bygone.until_current();
    server.run("update large set t = left(t, 500) || id where id % 2 = 0; update small set n = 2");
    bygone.until_current();
    server.run("delete from large where id % 100 = 0; insert into small values (2, 1)");
    bygone.until_current();
    let before = History::read(Store::directory(scratch.join("history")));
    let files = files_of(&before, "public.large");
    assert!(files[0] >= 4, "{files:?}");
    let url = server.url_as("postgres", "facts");
    let mut client = server.connect_to("facts");
    // Into several files, then into one.
    for (schema, size, merged) in [("several", "24MiB", 2..9), ("one", "512MiB", 1..2)] {
        bygone.ask(&["compact", "--all", "--compact-size", size, "--grace", "1ms"]).well();
        bygone.ask(&["compact", "--all", "--compact-size", size, "--grace", "1ms"]).well();
        let history = History::read(Store::directory(scratch.join("history")));
        let count = merged_files(&history, "public.large");
        assert!(merged.contains(&count), "{count} merged files of {files:?}");
        bygone.ask(&["backfill-facts", "--facts", &url, "--facts-schema", schema]).well();
        client
            .batch_execute(&format!(
                "drop schema if exists bygone cascade; alter schema {schema} rename to bygone"
            ))
            .unwrap();
        assert!(assert_same_facts(&mut client, &history, "public.large", "large") > 90_000);
        assert_same_facts(&mut client, &history, "public.small", "small");
        let transactions = "select count(*) from bygone.transactions";
        assert_eq!(client.query_one(transactions, &[]).unwrap().get::<_, i64>(0), 2);
    }
}

/// Facts of a comparison may bear the position of the transaction before it, which can be in another commit.
#[test]
fn facts_of_changes_and_of_comparisons_in_one_merged_file_come_with_their_commits() {
    let server = Postgres::start();
    server.run("create table t (id int primary key, n int, v text); insert into t select i, 0, 'a' from generate_series(1, 40) i");
    server.run("create database facts");
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&[
        "--commit-interval",
        "200ms",
        "--catalog-interval",
        "200ms",
    ]);
    bygone.until_current();
    for round in 1..6 {
        server.run(&format!("update t set n = {round} where id % 3 = {round} % 3"));
        bygone.until_current();
        // The table is written anew, of which the stream tells nothing.
        server.run(&format!("alter table t alter v type text using v || {round}"));
        bygone.until_current();
    }
    let history = History::read(Store::directory(scratch.join("history")));
    assert!(history.events("reconcile").len() > 1);
    bygone.ask(&["compact", "--all", "--grace", "1ms"]).well();
    bygone.ask(&["compact", "--all", "--grace", "1ms"]).well();
    let url = server.url_as("postgres", "facts");
    bygone.ask(&["backfill-facts", "--facts", &url]).well();
    let history = History::read(Store::directory(scratch.join("history")));
    let mut client = server.connect_to("facts");
    assert!(assert_same_facts(&mut client, &history, "public.t", "t") > 100);
}
