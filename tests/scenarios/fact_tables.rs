//! Facts as rows in PostgreSQL: they are those of the history, exactly, whatever is killed, and nobody alters them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;

use super::{SHOP, Source};
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::http::get;
use crate::support::majors::on_each_major;
use crate::support::postgres::{Postgres, Stop};
use crate::support::process::{eventually, free_port};
use crate::support::scratch::Scratch;
use crate::support::store::Store;
use crate::support::workload::{Habits, TABLES, Workload};

/// What tells one fact from another, of a table, as the target and as the files have it.
pub(super) fn assert_same_facts(
    target: &mut postgres::Client,
    history: &History,
    table: &str,
    base: &str,
) -> usize {
    let sql = format!(
        "select _id::text, _entity_id, _version::text, _op, (_lsn - '0/0')::text, _seq::text, _xid::text, _deleted_at is not null, _actor, \
         _schema::text from bygone.\"{base}_history\""
    );
    let mut told: Vec<Vec<Option<String>>> = target
        .query(&sql, &[])
        .unwrap()
        .iter()
        .map(|row| {
            let text = |at: usize| row.get::<_, Option<String>>(at);
            vec![text(0), text(1), text(2), text(3), text(4), text(5), text(6), text(8), text(9)]
        })
        .collect();
    told.sort_unstable();
    let columns = ["_id", "_entity_id", "_version", "_op", "_lsn", "_seq", "_xid", "_actor", "_schema"];
    let mut facts = history.texts(table, &columns);
    facts.sort_unstable();
    assert_eq!(told.len(), facts.len(), "{table}");
    assert!(told == facts, "{table} is not the same in the target");
    let holes = format!(
        "select count(*) from (select _version - row_number() over (partition by _entity_id order by _version) as gap from bygone.\"{base}_history\") v where gap <> 0"
    );
    assert_eq!(
        target.query_one(&holes, &[]).unwrap().get::<_, i64>(0),
        0,
        "{table} has holes in its versions"
    );
    told.len()
}

/// Rows of the target's view that the source's table has not, or the reverse.
pub(super) fn assert_current(source: &Postgres, target: &mut postgres::Client, table: &str, base: &str) {
    let dump = |client: &mut postgres::Client, of: &str| {
        let rows =
            client.query(&format!("select whole_row::text from {of} whole_row order by 1"), &[]).unwrap();
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    };
    let ours = dump(target, &format!("bygone.\"{base}\""));
    let theirs = dump(&mut source.connect(), table);
    assert!(ours == theirs, "{table}: {} rows here, {} there", ours.len(), theirs.len());
}

/// What the log and the target call a table of the workload.
fn names(table: &str) -> (String, String) {
    let name = table.replace('"', "");
    let base = name.trim_start_matches("public.").to_owned();
    (name, base)
}

#[test]
fn the_end_of_a_run_tries_a_target_that_is_not_there_with_pauses_in_between() {
    let source = Source::start();
    let nowhere = format!("postgres://postgres@127.0.0.1:{}/none", free_port());
    let mut bygone = source.bygone().options(&["--facts", &nowhere]);
    let outcome = bygone.until_current();
    let tries = outcome.stderr.matches("behind, and tried again").count();
    assert!((2..20).contains(&tries), "{tries} tries:\n{}", outcome.stderr);
    assert!(outcome.stderr.contains("left behind"), "{}", outcome.stderr);
}

/// The facts of all tables of the workload are those of the history. Gives how many there are.
fn assert_workload_facts(target: &mut postgres::Client, history: &History) -> usize {
    let all = TABLES.map(names).into_iter().filter(|(name, _)| history.tables().contains(name.as_str()));
    all.map(|(name, base)| assert_same_facts(target, history, &name, &base)).sum()
}

/// The target's views of all tables of the workload read as the source does.
fn assert_workload_current(source: &Source, target: &mut postgres::Client) {
    for table in TABLES {
        assert_current(&source.server, target, table, &names(table).1);
    }
}

/// One history says what the other says, fact by fact, value by value.
pub(super) fn assert_same_history(one: &History, other: &History) {
    assert_eq!(one.tables(), other.tables());
    for table in one.tables() {
        let (facts, others) = (one.whole(table), other.whole(table));
        assert_eq!(facts.len(), others.len(), "{table}");
        let differ = facts.iter().zip(&others).find(|(a, b)| a != b);
        assert!(differ.is_none(), "{table}: {differ:?}");
    }
    for what in ["events", "schemas"] {
        let told = |history: &History| {
            let all = history.commits.iter().flat_map(|commit| commit[what].as_array().unwrap().clone());
            all.collect::<Vec<_>>()
        };
        assert_eq!(told(one), told(other), "{what}");
    }
}

/// Reading commands say the same of the rows as of the files. Gives how many were asked.
pub(super) fn assert_answers_alike(
    bygone: &Bygone,
    target: &str,
    history: &History,
    tables: &[&str],
) -> usize {
    let alike = |arguments: &[&str]| {
        let (files, rows) = (bygone.ask(arguments), bygone.ask_of(target, arguments));
        let same = files.stdout == rows.stdout && files.status == rows.status;
        let differ = files.stdout.lines().zip(rows.stdout.lines()).find(|(a, b)| a != b);
        let cut = |line: &str| line.chars().take(400).collect::<String>();
        let differ = differ.map(|(a, b)| (cut(a), cut(b)));
        assert!(same, "{arguments:?}: {differ:?}\n{}\n{}", files.stderr, rows.stderr);
        (!files.stdout.is_empty()) as usize
    };
    let ends: Vec<&str> =
        history.commits.iter().map(|commit| commit["wal"]["to"].as_str().unwrap()).collect();
    let moments: Vec<&str> = ends.iter().copied().step_by(ends.len().div_ceil(4)).collect();
    let last = *ends.last().unwrap();
    let mut asked = 0;
    for format in ["json", "table"] {
        asked += alike(&["tables", "--format", format]);
        asked += alike(&["log", "--format", format]);
        asked += alike(&["transactions", "--format", format]);
    }
    for table in tables {
        let key = history.texts(table, &["_entity_id"]).last().unwrap()[0].clone().unwrap();
        asked += alike(&["history", table, "--format", "json", "--", &key]);
        asked += alike(&["blame", table, "--format", "json", "--", &key]);
        asked += alike(&["restore", table, "--at", moments[1], "--", &key]);
        for moment in moments.iter().copied().chain([last]) {
            asked += alike(&["as-of", table, "--at", moment, "--format", "csv"]);
            asked += alike(&["diff", table, "--from", moment, "--to", last, "--format", "json"]);
        }
        let quoted = table.split_once('.').unwrap().1.trim_matches('"');
        for sql in [
            format!("select * from \"{quoted}_history\" order by _lsn, _seq"),
            format!("select count(*), count(distinct _entity_id), max(_valid_to) from \"{quoted}_history\""),
            format!("select count(*) from \"{quoted}\""),
        ] {
            asked += alike(&["sql", "--format", "csv", &sql]);
        }
    }
    asked
}

#[test]
fn a_busy_capture_that_is_killed_writes_each_fact_into_its_tables_once() {
    let source = Source::start();
    source.server.run("create database facts");
    let target = source.server.url_as("postgres", "facts");
    let workload = Workload::start(&source.server, &Habits { large: 500, ..Habits::default() });
    workload.wait_for(60);
    let mut bygone = source.bygone().options(&["--commit-interval", "100ms", "--facts", &target]);
    for round in 0..4 {
        bygone.start(
            ["", "facts.before_commit=abort@3", "facts.after_commit=abort@2", "facts.before_commit=error@2"]
                [round],
        );
        workload.wait_for(60);
        std::thread::sleep(Duration::from_millis(1500));
        match round {
            1 | 2 => bygone.abort(Duration::from_secs(60)),
            _ => bygone.kill(),
        }
    }
    workload.finish();
    bygone.until_current();
    let history = source.assert_exact(Store::directory(source.history()), 300);
    let mut client = source.server.connect_to("facts");
    let facts = assert_workload_facts(&mut client, &history);
    assert_workload_current(&source, &mut client);
    assert!(facts >= 300, "{facts}");
    let tables: Vec<&str> = TABLES.into_iter().filter(|table| history.tables().contains(table)).collect();
    let asked = assert_answers_alike(&bygone, &target, &history, &tables);
    assert!(asked > 30, "{asked}");
    let commits: i64 = client.query_one("select count(*) from bygone.commits", &[]).unwrap().get(0);
    assert_eq!(usize::try_from(commits).unwrap(), history.commits.len());

    // The way back: files made from the rows are the same history, and the judge finds nothing wrong with it.
    let back = source.scratch.join("back");
    let url = format!("file://{}", back.display());
    bygone.command(&["backfill-history", "--facts", &target, "--history", &url]).well();
    bygone.command(&["verify", "--history", &url]).well();
    assert_same_history(&history, &source.assert_exact(Store::directory(&back), 300));

    // What an older history tells again is the same, from files that were merged, too.
    bygone.ask(&["compact", "--all", "--grace", "1ms"]).well();
    bygone.ask(&["compact", "--grace", "1ms"]).well();
    source.server.run("create database again");
    let again = source.server.url_as("postgres", "again");
    bygone.ask(&["backfill-facts", "--facts", &again]).well();
    let mut again = source.server.connect_to("again");
    let history = History::read(Store::directory(source.history()));
    assert_workload_facts(&mut again, &history);
    let transactions = "select count(*) from bygone.transactions";
    let count = |client: &mut postgres::Client| client.query_one(transactions, &[]).unwrap().get::<_, i64>(0);
    assert_eq!(count(&mut again), count(&mut client));
}

/// Failpoints on the way of a commit into tables that are its only place.
const ON_THE_WAY: [&str; 9] = [
    "file.after_write=abort@4",
    "commit.before_put=abort@3",
    "commit.after_put=abort@2",
    "facts.before_commit=abort@3",
    "facts.after_commit=abort@3",
    "facts.before_commit=error@2",
    "state.before_apply=abort@3",
    "state.after_apply=abort@2",
    "snapshot.after_slot=abort",
];

#[test]
fn rows_alone_are_a_whole_history_whatever_is_killed_or_lost() {
    let source = Source::start();
    let target = Postgres::stranger();
    let workload = Workload::start(&source.server, &Habits { large: 500, ..Habits::default() });
    workload.wait_for(60);
    let url = target.url();
    let mut bygone =
        source.bygone().without_files().options(&["--commit-interval", "100ms", "--facts", &url]);
    for (round, failpoints) in ON_THE_WAY.iter().rev().enumerate() {
        bygone.start(failpoints);
        workload.wait_for(25);
        if failpoints.contains("abort") {
            bygone.abort(Duration::from_secs(60));
        } else {
            std::thread::sleep(Duration::from_millis(1500));
            bygone.kill();
        }
        // State and spool are caches.
        if round % 3 == 2 {
            bygone.forget();
        }
    }
    bygone.start("");
    std::thread::sleep(Duration::from_millis(700));
    workload.finish();
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.until_current();
    // Little is left on the way: files that bear the number of the commit to come.
    let left = bygone.traces().into_iter().filter(|(path, _)| path.ends_with(".parquet")).count();
    assert!(left < 8, "{left} files that have arrived are still there");
    let back = source.scratch.join("back");
    bygone.command(&["backfill-history", "--facts", &url, "--history", back.to_str().unwrap()]).well();
    let history = source.assert_exact(Store::directory(&back), 300);
    let mut client = target.connect();
    assert_workload_facts(&mut client, &history);
    assert!(bygone.command(&["status", "--history", &url]).stdout.contains("commit"));
}

/// Adds commits in which nothing happens, as an idle source gets them.
const QUIET_COMMITS: &str = "do $$ declare n bigint; last bygone.commits; begin
    select max(seq) into n from bygone.commits;
    for seq in n + 1 .. n + 1500 loop
        select * into last from bygone.commits c where c.seq = n;
        n := seq;
        last.document := (last.document::jsonb - 'publication' || jsonb_build_object('seq', seq,
            'prev', encode(sha256(convert_to(last.document, 'UTF8')), 'hex'), 'schemas', array[]::text[], 'events', array[]::text[],
            'add', array[]::text[], 'remove', array[]::text[], 'wal', jsonb_build_object('from', last.wal_to, 'to', last.wal_to)))::text || E'\\n';
        last.seq := seq;
        insert into bygone.commits select last.*;
    end loop;
end $$";

/// The documents of commits that a spool holds.
fn in_spool(bygone: &Bygone) -> usize {
    let is_commit = |path: &str| path.contains("/log/0") && path.ends_with(".json");
    bygone.traces().into_iter().filter(|(path, _)| is_commit(path)).count()
}

#[test]
fn before_its_history_begins_nothing_is_known_of_a_table() {
    let source = Postgres::start();
    source.run(SHOP);
    source.run("create table empty (id int primary key)");
    let scratch = Scratch::new("facts");
    let url = source.url();
    let mut bygone = Bygone::new(&url, scratch.join("history")).without_files().options(&["--facts", &url]);
    bygone.until_current();
    let mut client = source.connect();
    for (question, sentence) in [
        ("bygone.orders_as_of('2020-01-01')", "nothing is known of public.orders at "),
        ("bygone.orders_as_of('2020-01-01') where id = 1", "its history begins at"),
        ("bygone.orders_as_of(timestamptz '2020-01-01') where id = 1 limit 1", "its history begins at"),
        ("bygone.orders_as_of(pg_lsn '0/1') where id = 1", "nothing is known of public.orders at 0/1"),
        ("bygone.empty_as_of('2020-01-01')", "nothing is known of public.empty"),
    ] {
        let error = client.query(&format!("select * from {question}"), &[]).unwrap_err();
        let told = error.as_db_error().unwrap_or_else(|| panic!("{question}: {error}")).message().to_owned();
        assert!(told.contains(sentence), "{question}: {told}");
    }
    let first = "(select min(_valid_from) from bygone.orders_history)";
    for (question, count) in [
        (format!("bygone.orders_as_of({first})"), 3),
        ("bygone.orders_as_of(now())".to_owned(), 3),
        ("bygone.orders_as_of(pg_lsn 'F/0') where id = 2".to_owned(), 1),
        ("bygone.empty_as_of(now())".to_owned(), 0),
    ] {
        let rows = client.query(&format!("select * from {question}"), &[]).unwrap();
        assert_eq!(rows.len(), count, "{question}");
    }
}

#[test]
fn inside_a_gap_and_behind_a_drop_nothing_is_known_of_a_table() {
    let source = Postgres::start();
    source.run(SHOP);
    source.run("create table short (id int primary key); insert into short values (1)");
    let scratch = Scratch::new("facts");
    let url = source.url();
    let mut bygone = Bygone::new(&url, scratch.join("history")).without_files().options(&[
        "--facts",
        &url,
        "--slab-rows",
        "1",
        "--on-gap",
        "reconcile",
    ]);
    bygone.until_current();
    let mut client = source.connect();
    let mut now = || -> [String; 2] {
        let row = client
            .query_one(
                "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US+00'), pg_current_wal_insert_lsn()::text",
                &[],
            )
            .unwrap();
        std::thread::sleep(Duration::from_millis(20));
        [row.get(0), row.get(1)]
    };
    source.run("update orders set customer = 'before' where id = 1");
    let before = now();
    source.run("update orders set customer = 'before' where id = 2; drop table short");
    bygone.until_current();
    let [dropped, _] = now();
    source.run("select pg_drop_replication_slot('bygone')");
    source.run("update orders set customer = 'lost' where id = 1");
    let inside = now();
    source.run("update orders set customer = 'found' where id = 1");
    bygone.until_current();
    let after = now();
    source.run("update orders set customer = 'later' where id = 1");
    bygone.until_current();
    let mut client = source.connect();
    let mut ask = |question: &str| -> Result<Vec<String>, String> {
        let rows = client.query(&format!("select customer from bygone.{question} where id = 1"), &[]);
        match rows {
            Ok(rows) => Ok(rows.iter().map(|row| row.get(0)).collect()),
            Err(error) => {
                Err(error.as_db_error().map_or(error.to_string(), |told| told.message().to_owned()))
            }
        }
    };
    for ([time, place], status) in [(&before, "before"), (&after, "found")] {
        assert_eq!(ask(&format!("orders_as_of('{time}')")).unwrap(), [status]);
        assert_eq!(ask(&format!("orders_as_of(pg_lsn '{place}')")).unwrap(), [status]);
    }
    let [time, place] = &inside;
    for question in [
        format!("orders_as_of('{time}')"),
        format!("orders_as_of(pg_lsn '{place}')"),
        format!(
            "orders_diff('{}', '{time}') d(change, key, old, new), lateral (select change as customer, 1 as id) x",
            before[0]
        ),
    ] {
        let told = ask(&question).unwrap_err();
        assert!(
            told.starts_with("nothing is known of public.orders at ") && told.contains("a gap lies there"),
            "{question}: {told}"
        );
    }
    let gone = client.query(&format!("select * from bygone.short_as_of('{dropped}')"), &[]).unwrap_err();
    let told = gone.as_db_error().unwrap().message();
    assert!(
        told.contains("nothing is known of public.short") && told.contains("a drop lies there"),
        "{told}"
    );
    assert_eq!(
        client.query(&format!("select * from bygone.short_as_of('{}')", before[0]), &[]).unwrap().len(),
        1
    );
    let listed: Vec<String> = client
        .query("select kind from bygone.gaps('public.orders') where known_again is not null and known_until is not null", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(listed, ["gap"]);
}

/// What the WAL does not carry, and moments that the facts do not reach, are told beside the rows.
#[test]
fn where_rows_are_not_known_exactly_or_not_yet_a_notice_says_so() {
    let source = Postgres::start();
    source.run(SHOP);
    let scratch = Scratch::new("facts");
    let url = source.url();
    let mut bygone = Bygone::new(&url, scratch.join("history")).without_files().options(&["--facts", &url]);
    bygone.until_current();
    source.run("update orders set customer = 'before' where id = 1");
    let before = both_ways(&source);
    bygone.until_current();
    source.run("alter table orders alter total type text using total || ' EUR'");
    let inside = both_ways(&source);
    bygone.until_current();
    source.run("update orders set customer = 'after' where id = 1");
    let after = both_ways(&source);
    bygone.until_current();
    let behind = [format!("{} + interval '1 day'", after[0]), "pg_lsn 'F0/0'".to_owned()];
    let (mut client, told) = listening(&url);
    for (moments, words) in [
        (before, &[][..]),
        (
            inside,
            &["the rows of public.orders at", "are not known exactly: they were rewritten", "known until"],
        ),
        (after, &[]),
        (behind, &["public.orders is known until", "what is shown is what was known then"]),
    ] {
        for moment in moments {
            let rows = client.query(&format!("select id from bygone.orders_as_of({moment})"), &[]).unwrap();
            assert_eq!(rows.len(), 3, "{moment}");
            let told = std::mem::take(&mut *told.lock().unwrap());
            assert_eq!(told.len(), usize::from(!words.is_empty()), "{moment}: {told:?}");
            assert!(words.iter().all(|word| told[0].contains(word)), "{moment}: {told:?}");
        }
    }
    let doubts = client
        .query("select kind from bygone.doubts('public.orders') where known_again is not null", &[])
        .unwrap();
    assert_eq!(doubts.iter().map(|row| row.get(0)).collect::<Vec<String>>(), ["rewrite"]);
}

/// This moment as a time and as a position, in SQL.
fn both_ways(source: &Postgres) -> [String; 2] {
    let time =
        source.value("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US+00')");
    let place = source.value("select pg_current_wal_insert_lsn()");
    std::thread::sleep(Duration::from_millis(20));
    [format!("timestamptz '{}'", time.unwrap()), format!("pg_lsn '{}'", place.unwrap())]
}

/// A client, and the notices that the server sends it.
fn listening(url: &str) -> (postgres::Client, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::<String>::new()));
    let hear = Arc::clone(&told);
    let client = url
        .parse::<postgres::Config>()
        .unwrap()
        .notice_callback(move |notice| hear.lock().unwrap().push(notice.message().to_owned()))
        .connect(postgres::NoTls)
        .unwrap();
    (client, told)
}

#[test]
fn until_a_look_at_the_catalog_tells_of_it_a_notice_says_what_may_have_come_or_gone() {
    let source = Postgres::start();
    source.run(
        "create table part (id int, r text, primary key (id, r)) partition by list (r);
         create table part_eu partition of part for values in ('eu'); insert into part values (1, 'eu');
         create table part_us partition of part for values in ('us');
         create table stray (like part including all); insert into stray values (9, 'asia');
         create table gone (id int primary key); insert into gone values (1);
         create table beat (id int primary key)",
    );
    let scratch = Scratch::new("facts");
    let url = source.url();
    let mut bygone = Bygone::new(&url, scratch.join("history")).without_files().options(&["--facts", &url]);
    bygone.until_current();
    let before = both_ways(&source);
    source.run("insert into beat values (1)");
    bygone.until_current();
    source.run(
        "alter table part attach partition stray for values in ('asia'); alter table part detach partition part_eu;
         drop table part_us; drop table gone",
    );
    let inside = both_ways(&source);
    source.run("insert into beat values (2)");
    bygone.until_current();
    source.run("insert into beat values (3)");
    let after = both_ways(&source);
    source.run("insert into beat values (4)");
    bygone.until_current();
    let (mut client, told) = listening(&url);
    let mut said = |table: &str, moment: &str| {
        let rows = client.query(&format!("select id from bygone.{table}_as_of({moment})"), &[]);
        (rows.map(|rows| rows.len()).ok(), std::mem::take(&mut *told.lock().unwrap()).join("\n"))
    };
    for moment in &before {
        assert_eq!(said("part", moment), (Some(1), String::new()));
        assert_eq!(said("gone", moment), (Some(1), String::new()));
    }
    for moment in &inside {
        let (_, notices) = said("part", moment);
        for word in ["a partition came", "a partition was detached", "a partition was dropped"] {
            assert!(notices.contains(&format!("not known exactly: {word}")), "{moment}: {notices}");
        }
        let (rows, notices) = said("gone", moment);
        assert_eq!(rows, Some(1));
        assert!(notices.contains("not known exactly: their table was dropped"), "{moment}: {notices}");
    }
    for moment in &after {
        assert_eq!(said("part", moment), (Some(1), String::new()));
        assert_eq!(said("gone", moment).0, None, "nothing is known of a table that was dropped");
    }
}

#[test]
fn what_cannot_be_seen_of_a_table_is_said_of_its_rows() {
    let source = Postgres::start();
    source.run(
        "create table loose (id int, v text); insert into loose values (1, 'a'), (2, 'b');
         create table sums (id int primary key, n int, twice int generated always as (n * 2) stored);
         insert into sums values (1, 1), (2, 5)",
    );
    let scratch = Scratch::new("facts");
    let url = source.url();
    let mut bygone = Bygone::new(&url, scratch.join("history")).without_files().options(&["--facts", &url]);
    bygone.until_current();
    source.run("update loose set v = 'changed' where id = 1; insert into loose values (3, 'c'); update sums set n = 2 where id = 1");
    bygone.until_current();
    let mut client = source.connect();
    let mut said = |of: &str| -> String {
        client.query_one(&format!("select obj_description({of})"), &[]).unwrap().get(0)
    };
    let (view, function) = (
        "'bygone.loose'::regclass, 'pg_class'",
        "'bygone.loose_as_of(timestamptz)'::regprocedure, 'pg_proc'",
    );
    let (now, then) = (said(view), said(function));
    assert!(
        now.starts_with("public.loose as far as it is known; its updates and deletes cannot be seen"),
        "{now}"
    );
    assert!(
        then.starts_with("public.loose as it was at a moment; its updates and deletes cannot be seen"),
        "{then}"
    );
    assert_eq!(said("'bygone.sums'::regclass, 'pg_class'"), "public.sums as it is now");
    // With a key its rows are compared and seen.
    source.run("alter table loose add primary key (id)");
    bygone.until_current();
    source.run("update loose set v = 'seen' where id = 3");
    bygone.until_current();
    assert_eq!(said(view), "public.loose as it is now");
    let then = said(function);
    assert!(then.contains("were not seen for a time"), "{then}");
    // What is not known is blamed on nobody.
    let blame = |client: &mut postgres::Client, key: &str| -> String {
        let sql = format!(
            "select string_agg(column_name || ' ' || coalesce(version::text, 'unknown'), ',') from bygone.sums_blame('{key}')"
        );
        client.query_one(&sql, &[]).unwrap().get(0)
    };
    assert_eq!(blame(&mut client, "1"), "id 1,n 2,twice unknown");
    assert_eq!(blame(&mut client, "2"), "id 1,n 1,twice 1");
    // Comments of before are made anew, too.
    client.batch_execute("comment on view bygone.loose is 'public.loose as it ever was'").unwrap();
    bygone.until_current();
    let said: String = client.query_one(&format!("select obj_description({view})"), &[]).unwrap().get(0);
    assert_eq!(said, "public.loose as it is now");
}

#[test]
fn thousands_of_commits_of_rows_alone_are_opened_by_a_checkpoint() {
    // Given tables that hold thousands of commits, as an older bygone wrote them
    let source = Source::start();
    let target = Postgres::stranger();
    let workload = Workload::start(&source.server, &Habits { large: 100, ..Habits::default() });
    workload.wait_for(40);
    let url = target.url();
    let mut bygone =
        source.bygone().without_files().options(&["--commit-interval", "100ms", "--facts", &url]);
    bygone.until_current();
    let mut client = target.connect();
    client.batch_execute(QUIET_COMMITS).unwrap();
    client.batch_execute("alter table bygone.commits drop column checkpoint").unwrap();
    let before = bygone.command(&["tables", "--history", &url, "--format", "json"]).well();
    assert!(!before.stdout.is_empty());
    // When more comes, and it is killed as the spool gets its first checkpoint
    workload.wait_for(40);
    bygone.start("spool.begun=abort");
    bygone.abort(Duration::from_secs(60));
    workload.wait_for(40);
    bygone.until_current();
    // Then there is a checkpoint, and the spool begins with it
    let sql = "select count(*) from bygone.commits where checkpoint is not null";
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, i64>(0), 1);
    let left = in_spool(&bygone);
    assert!((1..100).contains(&left), "{left} commits are still in the spool");
    // also where it is made anew, with the state
    bygone.forget();
    workload.wait_for(40);
    bygone.until_current();
    assert!((1..100).contains(&in_spool(&bygone)));
    workload.finish();
    bygone.until_current();
    // and the answers are those that all commits give, which are asked where a checkpoint is of another log, or there is none.
    let table = TABLES[0];
    let (moment, time) = moments(&mut client);
    let answers = || {
        let asked: [&[&str]; 5] = [
            &["log", "--format", "json"],
            &["transactions", "--format", "json"],
            &["as-of", table, "--at", &moment, "--format", "csv"],
            &["diff", table, "--from", &moment, "--to", &time, "--format", "json"],
            &["as-of", table, "--at", &time, "--format", "csv"],
        ];
        asked.map(|arguments| bygone.ask_of(&url, arguments).well())
    };
    let by_checkpoint = answers();
    for (sql, warned) in [("replace(checkpoint, '\"hash\":\"', '\"hash\":\"f')", true), ("null", false)] {
        client
            .batch_execute(&format!(
                "alter table bygone.commits disable trigger all; update bygone.commits set checkpoint = {sql} where checkpoint is not null; \
                 alter table bygone.commits enable trigger all"
            ))
            .unwrap();
        for (one, other) in by_checkpoint.iter().zip(answers()) {
            assert_eq!(one.stdout, other.stdout);
            assert_eq!(other.stderr.contains("left aside"), warned, "{}", other.stderr);
        }
    }
    let back = source.scratch.join("back");
    bygone.command(&["backfill-history", "--facts", &url, "--history", back.to_str().unwrap()]).well();
    let history = source.assert_exact(Store::directory(&back), 100);
    assert_workload_facts(&mut client, &history);
}

/// Where a transaction in the midst of a workload ends, and when a later one was committed.
fn moments(target: &mut postgres::Client) -> (String, String) {
    let at = |target: &mut postgres::Client, what: &str, quarters: u32| {
        let sql = format!(
            "select ({what})::text from bygone.transactions order by lsn offset (select count(*) * {quarters} / 4 from bygone.transactions) limit 1"
        );
        target.query_one(&sql, &[]).unwrap().get(0)
    };
    let time = "to_char(valid_from at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    (at(target, "lsn", 2), at(target, time, 3))
}

#[test]
fn tables_by_month_hold_the_same_and_cannot_be_altered_by_the_partition() {
    let source = Source::start();
    source.server.run("create database facts");
    let url = source.server.url_as("postgres", "facts");
    let workload = Workload::start(&source.server, &Habits { large: 0, ..Habits::default() });
    workload.wait_for(40);
    let options = ["--commit-interval", "100ms", "--facts", &url, "--facts-partition", "month"];
    let mut bygone = source.bygone().options(&options);
    bygone.start("facts.before_commit=abort@2");
    bygone.abort(Duration::from_secs(60));
    workload.finish();
    bygone.until_current();
    let history = source.assert_exact(Store::directory(source.history()), 50);
    let mut client = source.server.connect_to("facts");
    assert_workload_facts(&mut client, &history);
    assert_workload_current(&source, &mut client);
    let partitions = "select c.oid::regclass::text from pg_class c where c.relispartition and c.relkind = 'r' and \
         c.relnamespace = 'bygone'::regnamespace order by 1";
    let partitions: Vec<String> =
        client.query(partitions, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert!(partitions.iter().any(|name| name.contains("orders_history_p2")), "{partitions:?}");
    for sql in ["update % set _op = 'x'", "delete from %", "truncate %"] {
        let error = client.batch_execute(&sql.replace('%', &partitions[0])).unwrap_err();
        assert!(error.as_db_error().unwrap().message().contains("facts are only ever added"), "{sql}");
    }
}

/// A relation's rows as one hash.
fn digest(client: &mut postgres::Client, relation: &str) -> (i64, Option<String>) {
    let sql = format!("select count(*), md5(string_agg(r::text, E'\\n' order by r::text)) from {relation} r");
    let row = client.query_one(&sql, &[]).unwrap();
    (row.get(0), row.get(1))
}

#[test]
fn slabs_change_no_answer_and_may_be_removed() {
    let source = Source::start();
    source.server.run("create database facts");
    let url = source.server.url_as("postgres", "facts");
    let workload = Workload::start(&source.server, &Habits { large: 200, ..Habits::default() });
    workload.wait_for(40);
    let options = ["--commit-interval", "100ms", "--facts", &url, "--slab-rows", "40"];
    let mut bygone = source.bygone().options(&options);
    bygone.start("");
    // All tables are copied: they have one beginning.
    let copied = eventually(Duration::from_secs(60), || bygone.said().contains("streaming"));
    assert!(copied, "{}", bygone.said());
    workload.wait_for(200);
    bygone.kill();
    bygone.start("");
    workload.wait_for(150);
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    workload.finish();
    bygone.until_current();
    bygone.ask(&["backfill-facts", "--facts", &url, "--slab-rows", "40"]).well();
    let history = source.assert_exact(Store::directory(source.history()), 300);
    let mut client = source.server.connect_to("facts");
    let slabs = "select base from bygone.slabs order by base, slab";
    let slabs: Vec<String> = client.query(slabs, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert!(slabs.len() > 5, "{slabs:?}");
    // Moments inside, between and behind them, those at which one ends and another begins included; a table that was truncated while it was
    // copied begins later than the others.
    let times = "select distinct extract(epoch from t)::text from (select ends from bygone.slabs union all select ends - interval '1 us' from bygone.slabs union all \
         select (select _valid_from from bygone.orders_history order by _lsn, _seq offset n * 97 limit 1) from generate_series(0, 60) n union all \
         select now()) m (t) where t >= (select max(c.known_until) from bygone.commits c join bygone.events e on e.seq = c.seq and e.kind = 'snapshot')";
    let times: Vec<String> = client.query(times, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let relations: Vec<String> = TABLES
        .map(names)
        .into_iter()
        .filter(|(name, _)| history.tables().contains(name.as_str()))
        .flat_map(|(_, base)| {
            let past = times.iter().map(move |time| format!("bygone.\"{base}_as_of\"(to_timestamp({time}))"));
            past.collect::<Vec<_>>()
        })
        .collect();
    let answers: Vec<_> = relations.iter().map(|relation| digest(&mut client, relation)).collect();
    assert!(answers.iter().filter(|(rows, _)| *rows > 0).count() > 50);
    assert_workload_current(&source, &mut client);
    client.batch_execute("select bygone.drop_slabs()").unwrap();
    for (relation, answer) in relations.iter().zip(&answers) {
        assert_eq!(digest(&mut client, relation), *answer, "{relation}");
    }
    assert_workload_current(&source, &mut client);
    for sql in [
        "delete from bygone.slabs",
        "update bygone.orders_slabs set _version = 1",
        "truncate bygone.orders_slabs",
    ] {
        let error = client.batch_execute(sql).unwrap_err();
        assert!(error.as_db_error().unwrap().message().contains("facts are only ever added"), "{sql}");
    }
    // They are made anew, though others: how many rows there are to begin with is known by now.
    for _ in 0..5 {
        source.server.run("update orders set total = total + 1");
    }
    bygone.until_current();
    bygone.ask(&["backfill-facts", "--facts", &url, "--slab-rows", "40"]).well();
    let more: i64 =
        client.query_one("select count(*) from bygone.slabs where base = 'orders'", &[]).unwrap().get(0);
    assert!(more > 0);
    for (relation, answer) in relations.iter().zip(&answers) {
        assert_eq!(digest(&mut client, relation), *answer, "{relation}");
    }
    assert_current(&source.server, &mut client, "public.orders", "orders");
}

/// The target is put back to what it was: what it lost was acknowledged, and is a gap.
#[test]
fn rows_alone_that_were_put_back_are_a_gap_that_is_led_over() {
    let server = Postgres::start();
    server.run(SHOP);
    server.run("create database facts");
    let url = server.url_as("postgres", "facts");
    let scratch = Scratch::new("history");
    let mut bygone =
        Bygone::new(server.url(), scratch.join("none")).without_files().options(&["--facts", &url]);
    bygone.until_current();
    server.run("create database backup template facts");
    server.run("update orders set total = 5 where id = 1; delete from orders where id = 2");
    bygone.until_current();
    server.run("drop database facts");
    server.run("alter database backup rename to facts");
    server.run("insert into orders values (9, 'zoe', 1)");
    // With what the spool still has, nothing is lost; without it, there is a gap.
    bygone.forget();
    bygone.attempt(&[]).refused(&["--on-gap"]);
    bygone.attempt(&["--on-gap", "reconcile"]).well();
    assert_current(&server, &mut server.connect_to("facts"), "orders", "orders");
    let log = bygone.ask_of(&url, &["log"]).well().stdout;
    assert!(log.contains("gap"), "{log}");
    server.run("update orders set total = 6 where id = 1");
    bygone.until_current();
    assert_current(&server, &mut server.connect_to("facts"), "orders", "orders");
}

/// What state is made of again: partitions that can be emptied by themselves, rows that only their content tells apart, columns that come.
#[test]
fn state_made_of_rows_knows_partitions_and_twins_and_columns() {
    let server = Postgres::start();
    server.run("create database facts");
    let url = server.url_as("postgres", "facts");
    let scratch = Scratch::new("history");
    server.run(
        "create table parts (id int primary key, t text) partition by range (id);
         create table parts_a partition of parts for values from (0) to (100);
         create table parts_b partition of parts for values from (100) to (200);
         insert into parts select n, 'first' from generate_series(0, 199, 7) n;
         create table twins (line text); alter table twins replica identity full;
         insert into twins values ('x'), ('x'), ('x'), ('y');
         create table long (id int primary key, n int, t text);
         insert into long select n, 0, string_agg(md5(n::text || m), '') from generate_series(1, 3) n, generate_series(1, 300) m group by n;
         alter table long alter t set storage external",
    );
    let mut bygone =
        Bygone::new(server.url(), scratch.join("none")).without_files().options(&["--facts", &url]);
    let mut target = server.connect_to("facts");
    for change in [
        "select 1",
        "update parts set t = 'second' where id % 2 = 0; delete from twins where ctid = (select min(ctid) from twins); update long set n = 1",
        "truncate parts_a; insert into parts values (3, 'new'); update twins set line = 'z' where line = 'y'",
        "alter table twins add column n int default 5; insert into twins values ('x', 6); update long set n = n + 1 where id = 2",
        "delete from twins where line = 'x' and n = 5; alter table parts add column more text; update parts set more = t where id > 150",
        "truncate parts_b; truncate twins; insert into twins values ('last', null); update long set t = 'short' where id = 1",
    ] {
        server.run(change);
        bygone.forget();
        bygone.until_current();
        for (table, base) in [("parts", "parts"), ("twins", "twins"), ("long", "long")] {
            assert_current(&server, &mut target, table, base);
        }
    }
    let unknown: i64 = target
        .query_one("select count(*) from bygone.long_history where _unknown is not null", &[])
        .unwrap()
        .get(0);
    assert_eq!(unknown, 0, "values that were not changed are known");
}

#[test]
fn rows_alone_hold_the_source_back_while_their_server_is_down_and_fence_a_second_writer() {
    let source = Source::start();
    let mut target = Postgres::stranger();
    let workload = Workload::start(&source.server, &Habits { large: 0, ..Habits::default() });
    workload.wait_for(40);
    let url = target.url();
    let options = ["--commit-interval", "100ms", "--facts", &url];
    let mut bygone = source.bygone().without_files().options(&options);
    bygone.until_current();
    bygone.start("");
    assert!(eventually(Duration::from_secs(60), || bygone.said().contains("streaming")), "{}", bygone.said());
    workload.wait_for(40);
    target.stop(Stop::Immediate);
    let acknowledged = || {
        let sql = "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = 'bygone'";
        source.server.connect().query_one(sql, &[]).unwrap().get::<_, String>(0)
    };
    // What was on its way may have been told just before.
    std::thread::sleep(Duration::from_secs(1));
    let before = acknowledged();
    workload.wait_for(60);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(acknowledged(), before, "what has not arrived was acknowledged");
    assert!(bygone.alive(), "{}", bygone.said());
    target.start_again();
    assert!(eventually(Duration::from_secs(60), || acknowledged() != before), "{}", bygone.said());
    workload.finish();
    // Another one, with a spool of its own, finds the slot in use, and the first goes on.
    let mut second = source.bygone().without_files().options(&options);
    let refused = second.attempt(&[]).refused(&[]).stderr;
    assert!(refused.contains("in use") || refused.contains("somebody else"), "{refused}");
    assert!(bygone.alive());
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    second.until_current();
    bygone.until_current();
    let back = source.scratch.join("back");
    bygone.command(&["backfill-history", "--facts", &url, "--history", back.to_str().unwrap()]).well();
    source.assert_exact(Store::directory(&back), 50);
}

#[test]
fn a_target_that_is_down_holds_nothing_back_and_catches_up() {
    let source = Source::start();
    let mut target = Postgres::stranger();
    let workload = Workload::start(&source.server, &Habits { large: 0, ..Habits::default() });
    workload.wait_for(40);
    let port = free_port();
    let listen = port.to_string();
    let options = ["--commit-interval", "100ms", "--facts", &target.url(), "--listen", &listen];
    let mut bygone = source.bygone().options(&options);
    bygone.until_current();
    target.stop(Stop::Immediate);
    bygone.start("");
    let shown = |line: &str| get(port, "/metrics").is_some_and(|(_, text)| text.lines().any(|it| it == line));
    let up = |up: u8| format!("bygone_sink_up{{sink=\"fact_tables\"}} {up}");
    let before = History::read(Store::directory(source.history())).commits.len();
    workload.wait_for(60);
    let goes_on = eventually(Duration::from_secs(30), || {
        History::read(Store::directory(source.history())).commits.len() > before + 3
    });
    assert!(goes_on && bygone.alive() && shown(&up(0)), "{}", bygone.said());
    target.start_again();
    workload.finish();
    let head = "select coalesce(max(seq), 0) from bygone.commits";
    let caught_up = eventually(Duration::from_secs(60), || {
        let commits = History::read(Store::directory(source.history())).commits.len();
        target
            .connect()
            .query_one(head, &[])
            .is_ok_and(|row| row.get::<_, i64>(0) + 1 == i64::try_from(commits).unwrap())
    });
    assert!(caught_up, "{}", bygone.said());
    let lacks_none = "bygone_sink_commits_behind{sink=\"fact_tables\"} 0";
    let told = eventually(Duration::from_secs(10), || shown(&up(1)) && shown(lacks_none));
    assert!(told, "{:?}", get(port, "/metrics"));
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    let history = source.assert_exact(Store::directory(source.history()), 50);
    let mut client = target.connect();
    assert_workload_facts(&mut client, &history);
}

/// Types that are the source's own, values that no file's column holds, columns that come, go and change: in the source's own
/// database, where a comparison is exact.
#[test]
fn tables_in_the_sources_own_database_read_as_the_source_did() {
    let server = Postgres::start();
    server.run(
        "create type mood as enum ('calm', 'glad'); create domain short as varchar(5) check (length(value) < 6);
         create type pair as (a int, b text);
         create table \"Odd \"\"Name\" (id int, \"a b\" text, \"Upper\" mood, n numeric, m numeric(12,2), d date, t timestamptz, f float8, r real,
            arr int[], moods mood[], s short, p pair, j jsonb, b bytea, iv interval, c char(4), ip inet, rg int4range, x xml, primary key (id, \"a b\"));
         insert into \"Odd \"\"Name\" values
            (1, E'tab\\tline\\nback\\\\slash', 'calm', 'NaN', 1.50, 'infinity', '-infinity', 'NaN', '-Infinity', '{{1,2},{3,null}}', '{calm,null}',
             'ab', row(1, 'x y'), '{\"a\": 1e400}', '\\x00ff', '1 mon -2 days 03:04:05.6', 'ab', '10.0.0.1/8', '[1,5)', '<a/>'),
            (2, '', null, 1e300, null, '4713-01-01 BC', '294276-12-31 23:59:59.999999+00', 5e-324, 'Infinity', '{}', '{}', '', row(null, ''), 'null', '', '0', '', '::1', 'empty', null),
            (3, '\\N', 'glad', -0.000, 99, '5874897-12-31', '2026-11-25 01:02:03.000001+00', '-0', 1e-45, '[2:3]={7,8}', null, null, null, '[]', null, '-178000000 years', null, null, null, null);
         create table plain (id int primary key, t text); insert into plain values (1, 'a'), (2, 'b');
         create table keyless (line text); alter table keyless replica identity full; insert into keyless values ('x'), ('x'), ('y');
         create schema saved",
    );
    let scratch = Scratch::new("history");
    let url = server.url();
    let mut bygone = Bygone::new(&url, scratch.join("history")).tables(&[]).options(&[
        "--facts",
        &url,
        "--slab-rows",
        "2",
    ]);
    bygone.until_current();
    let mut client = server.connect();
    client.batch_execute("set extra_float_digits = 1").unwrap();
    let mut moments = Vec::new();
    let mut save = |client: &mut postgres::Client, bygone: &mut Bygone| {
        let n = moments.len();
        client.batch_execute(&format!("create table saved.odd{n} as table \"Odd \"\"Name\"; create table saved.plain{n} as table plain")).unwrap();
        moments.push(
            client.query_one("select pg_current_wal_insert_lsn()::text", &[]).unwrap().get::<_, String>(0),
        );
        client.batch_execute("insert into keyless values ('beat')").unwrap();
        bygone.until_current();
    };
    save(&mut client, &mut bygone);
    for change in [
        "update \"Odd \"\"Name\" set \"Upper\" = 'glad', arr = array[null, 5] where id = 1; delete from plain where id = 2",
        "alter table plain add column extra int default 7; update plain set t = 'new' where id = 1; insert into plain values (3, 'c', null)",
        "alter table plain rename t to word; alter table \"Odd \"\"Name\" alter m type numeric(14,4)",
        "alter table plain alter extra type text using 'x' || extra; alter type mood add value 'cross'",
        "update \"Odd \"\"Name\" set moods = '{cross}'",
        "truncate plain; insert into plain values (9, 'z', 'q')",
    ] {
        client.batch_execute(change).unwrap();
        save(&mut client, &mut bygone);
    }
    let last = moments.len() - 1;
    for (view, saved) in [("\"Odd \"\"Name\"", "odd"), ("plain", "plain")] {
        let differ = format!(
            "select count(*) from ((select w::text from bygone.{view} w except all select w::text from saved.{saved}{last} w) union all \
             (select w::text from saved.{saved}{last} w except all select w::text from bygone.{view} w)) d"
        );
        assert_eq!(client.query_one(&differ, &[]).unwrap().get::<_, i64>(0), 0, "{view} as it is now");
    }
    // Moments before the table's columns changed hold the same rows, under the names of today.
    for (n, lsn) in moments.iter().enumerate() {
        let odd: i64 = client
            .query_one(
                &format!(
                    "select count(*) from bygone.\"Odd \"\"Name_as_of\"('{lsn}'::pg_lsn) v full join saved.odd{n} w using (id, \"a b\") where \
                     (v.n, v.d, v.t, v.f, v.r, v.arr::text, v.moods::text, v.p::text, v.j, v.b, v.c) is distinct from \
                     (w.n, w.d, w.t, w.f, w.r, w.arr::text, w.moods::text, w.p::text, w.j, w.b, w.c)"
                ),
                &[],
            )
            .unwrap()
            .get(0);
        assert_eq!(odd, 0, "moment {n}");
    }
    let types: Vec<String> = client
        .query("select format_type(atttypid, atttypmod) from pg_attribute where attrelid = 'bygone.\"Odd \"\"Name_history\"'::regclass and attname in ('Upper', 'moods', 's', 'p') order by attname", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(types, ["mood", "mood[]", "pair", "character varying(5)"]);
    // Three equal rows of a table without a key are three entities; bygone's own tables are none of the history's.
    let lines: i64 =
        client.query_one("select count(*) from bygone.keyless where line <> 'beat'", &[]).unwrap().get(0);
    assert_eq!(lines, 3);
    let history = History::read(Store::directory(scratch.join("history")));
    assert!(history.tables().iter().all(|table| !table.starts_with("bygone.")), "{:?}", history.tables());

    let tables: Vec<&str> = history.tables().into_iter().collect();
    assert!(assert_answers_alike(&bygone, &url, &history, &tables) > 30);
    let back = scratch.join("back");
    let place = back.to_str().unwrap();
    bygone.command(&["backfill-history", "--facts", &url, "--history", place]).well();
    assert_same_history(&history, &History::read(Store::directory(&back)));
    // It catches up, and nobody else's history is touched.
    client.batch_execute("update \"Odd \"\"Name\" set n = 7").unwrap();
    bygone.until_current();
    bygone.command(&["backfill-history", "--facts", &url, "--history", place]).well();
    let history = History::read(Store::directory(scratch.join("history")));
    assert_same_history(&history, &History::read(Store::directory(&back)));
    let own = scratch.join("history");
    bygone
        .command(&["backfill-history", "--facts", &url, "--history", own.to_str().unwrap()])
        .refused(&["another history"]);

    // The views that are printed are those that are there.
    let views = bygone.ask(&["views", "postgres"]).well().stdout;
    client.batch_execute(&views).unwrap();

    // The other questions, and that conditions reach the indexes.
    let blame =
        client.query("select column_name, version from bygone.plain_blame('9') order by 1", &[]).unwrap();
    assert_eq!(blame.len(), 3);
    let diff = client
        .query_one(
            "select string_agg(change || ' ' || _entity_id, ',' order by _entity_id) from bygone.plain_diff((select min(_valid_from) from \
             bygone.plain_history), now())",
            &[],
        )
        .unwrap();
    assert_eq!(diff.get::<_, String>(0), "removed 1,removed 2,added 9");
    assert!(!client.query("select * from bygone.who_changed('public.plain')", &[]).unwrap().is_empty());
    let ends = "select count(*) from bygone.plain_timeline where _valid_to is null";
    assert!(client.query_one(ends, &[]).unwrap().get::<_, i64>(0) >= 4);
    client.batch_execute("set enable_seqscan = off").unwrap();
    let plan: Vec<String> = client
        .query("explain select * from bygone.plain_as_of('2030-01-01'::timestamptz) where id = 9", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let plan = plan.join("\n");
    assert!(
        plan.contains("bygone_key_") && !plan.contains("Function Scan") && !plan.contains("Seq Scan"),
        "{plan}"
    );
    let undescribed = "select string_agg(c.relname, ',') from pg_class c where c.relnamespace = 'bygone'::regnamespace and c.relkind in ('r', 'v') and obj_description(c.oid, 'pg_class') is null";
    assert_eq!(client.query_one(undescribed, &[]).unwrap().get::<_, Option<String>>(0), None);
}

fn facts_cannot_be_altered_and_readers_may_read(target: Postgres) {
    let server = Postgres::start();
    server.run(SHOP);
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&[
        "--facts",
        &target.url(),
        "--facts-schema",
        "past \"shop\"",
    ]);
    bygone.until_current();
    server.run("update orders set total = 5 where id = 1; delete from orders where id = 2");
    bygone.until_current();
    let mut client = target.connect();
    for sql in [
        "update %.orders_history set _op = 'x'",
        "delete from %.orders_history",
        "truncate %.orders_history",
        "delete from %.commits",
        "update %.transactions set actor = 'nobody'",
    ] {
        let error = client.batch_execute(&sql.replace('%', "\"past \"\"shop\"\"\"")).unwrap_err();
        let message = error.as_db_error().unwrap().message();
        assert!(message.contains("facts are only ever added"), "{sql}: {message}");
    }
    client.batch_execute("set role bygone_reader").unwrap();
    let rows: i64 =
        client.query_one("select count(*) from \"past \"\"shop\"\"\".orders", &[]).unwrap().get(0);
    assert_eq!(rows, 2);
    assert!(client.batch_execute("insert into \"past \"\"shop\"\"\".history values ('x')").is_err());
    // Another history does not write here.
    server.run("create database other");
    let other = server.url_as("postgres", "other");
    server.connect_to("other").batch_execute(SHOP).unwrap();
    let mut bygone = Bygone::new(other, scratch.join("other")).options(&[
        "--name",
        "other",
        "--facts",
        &target.url(),
        "--facts-schema",
        "past \"shop\"",
    ]);
    bygone.attempt(&[]).refused(&["--facts-schema"]);
}

on_each_major!(
    &[],
    [14 as v14, 15 as v15, 16 as v16, 17 as v17, 18 as v18],
    [facts_cannot_be_altered_and_readers_may_read]
);

/// What an application says of itself may be any text: it stands in the tables as far as they can hold it, and stops nothing.
#[test]
fn whatever_an_application_says_of_itself_the_tables_go_on() {
    let server = Postgres::start();
    server.run(SHOP);
    // Facts of the one travel in binary form, of the other as text.
    server.run("create table places (id int primary key, at point)");
    server.run("create database facts");
    let url = server.url_as("postgres", "facts");
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&["--facts", &url]);
    bygone.until_current();
    let long: String = (0..900).map(|n| format!("{:08x}", n * 2_654_435_761_u64 % 4_294_967_291)).collect();
    for (n, actor) in [r"a\u0000b", r"a\\u0000b", r"\\\u0000", &long].into_iter().enumerate() {
        server.run(&format!(
            "begin; select pg_logical_emit_message(true, 'bygone', '{{\"actor\": \"{actor}\", \"{actor}\": 1}}');
             update orders set total = {n}; insert into places values ({n}, '(1,2)'); commit"
        ));
        bygone.until_current();
    }
    let mut client = server.connect_to("facts");
    let long = long.as_str();
    for (table, rows) in [("orders", 3), ("places", 1)] {
        for actor in ["a\u{fffd}b", r"a\u0000b", "\\\u{fffd}", long] {
            let sql =
                format!("select count(*) from bygone.{table}_history where _actor = $1 and _context ? $1");
            assert_eq!(client.query_one(&sql, &[&actor]).unwrap().get::<_, i64>(0), rows, "{actor}");
        }
    }
    for actor in ["a\u{fffd}b", r"a\u0000b", "\\\u{fffd}", long] {
        let sql = "select count(*) from bygone.who_changed('public.orders', $1)";
        assert_eq!(client.query_one(sql, &[&actor]).unwrap().get::<_, i64>(0), 1, "{actor}");
    }
    let told = bygone.ask_of(&url, &["transactions", "--actor", long, "--format", "json"]).well().stdout;
    assert_eq!(told.matches("\"xid\"").count(), 1);
    client.batch_execute("set enable_seqscan = off").unwrap();
    let plan = client.query("explain select * from bygone.who_changed(null, 'ann')", &[]).unwrap();
    let plan: String = plan.iter().map(|row| row.get::<_, String>(0)).collect();
    assert!(plan.contains("transactions_by_actor"), "{plan}");
}
