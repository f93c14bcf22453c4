//! Every committed change is a fact, once, whatever is killed when.
//!
//! Symptom of a break: the oracle's `lost` or `doubled`. Causes that were met by others: an acknowledgement before the
//! commit was durable, a position taken for the end of a transaction that was its beginning, state applied twice, files
//! of a dead commit taken for live ones. Rule: what is acknowledged is never beyond `resume` of the last commit.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

use super::Source;
use crate::support::bygone::{Bygone, Outcome};
use crate::support::comparison::{assert_flawless, judge, judge_moment};
use crate::support::history::History;
use crate::support::moto::Moto;
use crate::support::oracle::Oracle;
use crate::support::postgres::{Postgres, Stop};
use crate::support::process::eventually;
use crate::support::scratch::Scratch;
use crate::support::store::Store;
use crate::support::workload::{Habits, TABLES, Workload};

/// The failpoints of a capture that streams.
pub(super) const STREAMING: [&str; 10] = [
    "spool.after_write",
    "file.before_write",
    "file.after_write",
    "file.after_upload",
    "commit.before_put",
    "commit.after_put",
    "state.before_apply",
    "state.after_apply",
    "ack.before",
    "ack.after",
];

/// How long a run may take to reach a failpoint that every run passes.
const SOON: Duration = Duration::from_secs(60);

/// Where the slot may forget, and where the next run begins: the first never passes the second.
#[track_caller]
pub(super) fn assert_not_acknowledged_too_far(server: &Postgres, history: &History) {
    let Some(resume) = history.resume() else { return };
    let confirmed = server.value(
        "select confirmed_flush_lsn - '0/0' from pg_replication_slots where slot_name not like 'audit%'",
    );
    let confirmed: u64 = confirmed.expect("there is no slot").parse().unwrap();
    assert!(confirmed <= resume, "acknowledged up to {confirmed:x}, durable up to {resume:x}");
}

/// Waits for a run to have made its first commit.
#[track_caller]
pub(super) fn wait_for_commits(bygone: &mut Bygone, history: &std::path::Path, count: usize) {
    let log = history.join("log");
    let commits = || std::fs::read_dir(&log).map_or(0, Iterator::count);
    let came = eventually(SOON, || commits() >= count || !bygone.alive());
    assert!(came && bygone.alive(), "no {count} commits:\n{}", bygone.said());
}

#[test]
fn a_busy_database_becomes_facts_once() {
    let source = Source::start();
    let workload = Workload::start(&source.server, &Habits::default());
    workload.wait_for(150);
    let mut bygone = source.bygone().options(&["--commit-interval", "500ms"]);
    bygone.start("");
    wait_for_commits(&mut bygone, &source.history(), 3);
    workload.wait_for(1500);
    workload.finish();
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.until_current();
    source.assert_exact(Store::directory(source.history()), 2000);
    bygone.ask(&["verify"]).well();
}

#[test]
fn fifty_kills_at_random_times_neither_lose_nor_double_a_fact() {
    let habits = Habits::default();
    let mut random = StdRng::seed_from_u64(habits.seed);
    let source = Source::start();
    let workload = Workload::start(&source.server, &habits);
    workload.wait_for(100);
    let mut bygone = source.bygone().options(&["--commit-interval", "300ms"]);
    for kill in 0..52 {
        bygone.start("");
        // Some die while they start, most between their second and tenth commit.
        let life = if random.random_bool(0.25) { 0.02..0.4 } else { 0.4..3.0 };
        std::thread::sleep(Duration::from_secs_f64(random.random_range(life)));
        bygone.kill();
        if kill % 4 == 0 {
            assert_not_acknowledged_too_far(
                &source.server,
                &History::read(Store::directory(source.history())),
            );
        }
        if random.random_bool(0.2) {
            bygone.forget();
        }
    }
    workload.finish();
    bygone.until_current();
    source.assert_exact(Store::directory(source.history()), 5000);
    bygone.ask(&["verify"]).well();
}

#[test]
fn a_kill_at_each_durable_step_neither_loses_nor_doubles_a_fact() {
    let source = Source::start();
    let workload = Workload::start(&source.server, &Habits { large: 6000, ..Habits::default() });
    workload.wait_for(200);
    // Little memory, so that transactions are spooled.
    let mut bygone = source.bygone().options(&["--commit-interval", "300ms", "--memory", "64MiB"]);
    let history = || History::read(Store::directory(source.history()));
    for point in ["snapshot.after_slot=abort", "snapshot.table_done=abort@1", "snapshot.table_done=abort@3"] {
        bygone.start(point);
        bygone.abort(SOON);
        assert_not_acknowledged_too_far(&source.server, &history());
    }
    for (number, point) in STREAMING.into_iter().enumerate() {
        for nth in [1, 2] {
            bygone.start(&format!("{point}=abort@{nth}"));
            if point == "spool.after_write" {
                // Some 16 MB in one transaction.
                let first = 10_000_000 + nth * 10_000;
                source.server.run(&format!(
                    "insert into orders (id, note) select n, (select string_agg(md5(n::text || m), '') from
                     generate_series(1, 200) m) from generate_series({first}, {first} + 2500) n"
                ));
            }
            bygone.abort(SOON);
            assert_not_acknowledged_too_far(&source.server, &history());
        }
        if number % 3 == 1 {
            bygone.forget();
        }
    }
    workload.finish();
    bygone.until_current();
    source.assert_exact(Store::directory(source.history()), 3000);
    bygone.ask(&["verify"]).well();
}

#[test]
fn kills_during_the_first_copy_neither_lose_nor_double_a_row() {
    let habits = Habits::default();
    let mut random = StdRng::seed_from_u64(habits.seed);
    let source = Source::start();
    let workload = Workload::start(&source.server, &habits);
    workload.wait_for(300);
    for round in 1..=6 {
        let history = source.scratch.join(format!("history-{round}"));
        let mut bygone = Bygone::new(source.server.url(), &history);
        bygone.start(&format!("snapshot.table_done=abort@{round}"));
        bygone.abort(SOON);
        for _ in 0..2 {
            bygone.start("");
            std::thread::sleep(Duration::from_millis(random.random_range(10..400)));
            bygone.kill();
        }
        bygone.until_current();
        let mut history = History::read(Store::directory(&history));
        let copied: i64 = history.events("snapshot").len().try_into().unwrap();
        assert_eq!(copied, 7, "each table is copied once");
        history.verify(true);
        assert_flawless(&history.violations);
        bygone.command(&["detach", "--source", &source.server.url()]).well();
    }
    let mut bygone = source.bygone();
    bygone.start("snapshot.table_done=abort@2");
    bygone.abort(SOON);
    workload.finish();
    bygone.until_current();
    source.assert_exact(Store::directory(source.history()), 100);
}

#[test]
fn a_writer_that_slept_while_another_went_on_is_fenced() {
    // Given a writer that stands still until the server has given it up
    let server = Postgres::with(&[("wal_sender_timeout", "2s")]);
    Workload::create(&server);
    let oracle = Oracle::install(&mut server.connect(), &TABLES);
    let scratch = Scratch::new("history");
    let history = scratch.join("history");
    let workload = Workload::start(&server, &Habits { truncate: false, ..Habits::default() });
    let mut first = Bygone::new(server.url(), &history).options(&["--commit-interval", "300ms"]);
    first.start("");
    wait_for_commits(&mut first, &history, 4);
    first.signal(Signal::STOP);
    let active = || server.value("select 1 from pg_replication_slots where slot_name = 'bygone' and active");
    assert!(eventually(Duration::from_secs(60), || active().is_none()), "the server still waits for it");

    // When another goes on in its place, and the first wakes up
    let mut second = Bygone::new(server.url(), &history).options(&["--commit-interval", "300ms"]);
    second.start("");
    let before = History::read(Store::directory(&history)).commits.len();
    wait_for_commits(&mut second, &history, before + 3);
    first.signal(Signal::CONT);

    // Then the first stops, and says who won
    let status = first.ending(Duration::from_secs(120));
    assert_eq!(status.code(), Some(1), "{status}\n{}", first.said());
    let log = History::read(Store::directory(&history));
    let winner = log.commits.last().unwrap()["writer"].as_str().unwrap();
    assert!(first.said().contains(winner), "nothing about {winner} in\n{}", first.said());
    workload.finish();
    second.terminate(Signal::TERM, Duration::from_secs(20));
    second.until_current();
    let mut log = History::read(Store::directory(&history));
    assert_flawless(&judge(&mut server.connect(), &oracle, &mut log, true));
}

#[test]
fn in_a_bucket_a_kill_at_each_durable_step_neither_loses_nor_doubles_a_fact() {
    let moto = Moto::start();
    let source = Source::start();
    let habits = Habits { pause: Duration::from_millis(15), ..Habits::default() };
    let workload = Workload::start(&source.server, &habits);
    workload.wait_for(100);
    let options = ["--commit-interval", "400ms"];
    let mut bygone = moto.bygone(source.server.url(), "deep/prefix").options(&options);
    for point in ["snapshot.after_slot", "snapshot.table_done"].into_iter().chain(STREAMING) {
        if point == "spool.after_write" {
            continue;
        }
        bygone.start(&format!("{point}=abort@{}", if point.starts_with("snapshot") { 1 } else { 2 }));
        bygone.abort(SOON);
        assert_not_acknowledged_too_far(&source.server, &History::read(moto.store("deep/prefix")));
    }
    workload.finish();
    bygone.until_current();
    source.assert_exact(moto.store("deep/prefix"), 1000);
    bygone.ask(&["verify"]).well();
}

#[test]
fn in_a_bucket_kills_at_random_times_neither_lose_nor_double_a_fact() {
    let moto = Moto::start();
    let habits = Habits { pause: Duration::from_millis(15), ..Habits::default() };
    let mut random = StdRng::seed_from_u64(habits.seed);
    let source = Source::start();
    let workload = Workload::start(&source.server, &habits);
    let mut bygone = moto.bygone(source.server.url(), "p").options(&["--commit-interval", "400ms"]);
    for kill in 0..10 {
        bygone.start("");
        std::thread::sleep(Duration::from_secs_f64(random.random_range(0.3..4.0)));
        bygone.kill();
        if kill == 5 {
            bygone.forget();
        }
    }
    workload.finish();
    bygone.until_current();
    source.assert_exact(moto.store("p"), 1000);
}

#[test]
fn a_server_that_crashes_in_mid_stream_is_found_again() {
    let mut source = Source::start();
    let workload = Workload::start(&source.server, &Habits::default());
    workload.wait_for(100);
    let mut bygone = source.bygone().options(&["--commit-interval", "300ms"]);
    bygone.start("");
    wait_for_commits(&mut bygone, &source.history(), 3);
    for crash in 0..4 {
        workload.wait_for(150);
        match crash {
            0 | 2 => source.server.stop(Stop::Immediate),
            1 => source.server.kill(),
            _ => source.server.stop(Stop::Fast),
        }
        std::thread::sleep(Duration::from_millis(700));
        source.server.start_again();
        let before = History::read(Store::directory(source.history())).commits.len();
        wait_for_commits(&mut bygone, &source.history(), before + 2);
    }
    workload.finish();
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.until_current();
    source.assert_exact(Store::directory(source.history()), 1000);
}

#[test]
fn a_polite_end_comes_within_seconds_and_leaves_all_in_order() {
    let source = Source::start();
    let workload = Workload::start(&source.server, &Habits::default());
    workload.wait_for(100);
    let mut bygone = source.bygone();
    for signal in [Signal::TERM, Signal::INT] {
        // The usual ten seconds between commits: the end must not wait for them.
        bygone.start("");
        let before = History::read(Store::directory(source.history())).commits.len();
        wait_for_commits(&mut bygone, &source.history(), before + 1);
        workload.wait_for(200);
        bygone.terminate(signal, Duration::from_secs(8));
        let mut history = History::read(Store::directory(source.history()));
        history.verify(true);
        assert_flawless(&history.violations);
        let confirmed = source.server.value(
            "select confirmed_flush_lsn - '0/0' from pg_replication_slots where slot_name not like 'audit%'",
        );
        let confirmed: u64 = confirmed.unwrap().parse().unwrap();
        assert_eq!(
            Some(confirmed),
            history.resume(),
            "what is durable at the end is acknowledged at the end"
        );
    }
    workload.finish();
    bygone.until_current();
    source.assert_exact(Store::directory(source.history()), 500);
}

#[test]
fn the_facts_that_a_saved_snapshot_sees_are_the_rows_that_its_session_saw() {
    // Given a table of which copies are saved while it changes, each with its session's snapshot
    let server = Postgres::start();
    Workload::create(&server);
    let mut client = server.connect();
    let oracle = Oracle::install(&mut client, &["public.orders"]);
    let scratch = Scratch::new("history");
    let workload = Workload::start(&server, &Habits { large: 1000, ..Habits::default() });
    workload.wait_for(100);
    let mut bygone = Bygone::new(server.url(), scratch.join("history"))
        .tables(&["public.orders"])
        .options(&["--commit-interval", "300ms"]);
    bygone.start("");
    wait_for_commits(&mut bygone, &scratch.join("history"), 2);
    let mut saved = Vec::new();
    for moment in 0..12 {
        workload.wait_for(60);
        let name = format!("audit.saved_{moment}");
        let mut session = client
            .build_transaction()
            .isolation_level(postgres::IsolationLevel::RepeatableRead)
            .start()
            .unwrap();
        let snapshot: String = session.query_one("select pg_current_snapshot()::text", &[]).unwrap().get(0);
        session.batch_execute(&format!("create table {name} as select * from public.orders")).unwrap();
        session.commit().unwrap();
        saved.push((name, snapshot));
    }
    workload.finish();
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.until_current();

    // Then the facts of the transactions that a snapshot sees give the rows of its copy
    let mut history = History::read(Store::directory(scratch.join("history")));
    assert_flawless(&judge(&mut client, &oracle, &mut history, true));
    for (name, snapshot) in saved {
        assert_flawless(&judge_moment(&mut client, &oracle.tables[0], &name, &snapshot));
    }
}

/// A run with `--memory 64MiB` stayed near that.
#[track_caller]
fn assert_bounded(outcome: &Outcome) {
    eprintln!("peak: {} MiB", outcome.peak >> 20);
    assert!(
        outcome.peak < 192 << 20,
        "{} MiB were resident, 64 were allowed for buffers",
        outcome.peak >> 20
    );
}

#[test]
fn a_transaction_larger_than_the_memory_is_one_commit() {
    let source = Source::start();
    let mut bygone = source.bygone().options(&["--memory", "64MiB"]);
    bygone.until_current();
    // Some 150 MB of changes in one transaction.
    source.server.run(
        "begin;
         insert into orders (id, customer, note) select n, n, repeat(md5(n::text), 125) from generate_series(1, 20000) n;
         update orders set customer = -1, note = note || 'x' where id % 2 = 0;
         delete from orders where id % 3 = 0;
         insert into settings values ('last', 'of all', 1, now());
         commit",
    );
    assert_bounded(&bygone.until_current());
    let history = source.assert_exact(Store::directory(source.history()), 30_000);
    let large = history.live.values().filter(|entry| entry.table == "public.orders");
    let commits: std::collections::BTreeSet<u64> = large.map(|entry| entry.commit).collect();
    assert_eq!(commits.len(), 1, "the transaction lies in the commits {commits:?}");
}

/// What outgrows memory goes to disk, and cannot behind a commit on its way: that is waited for.
#[test]
fn a_change_larger_than_the_memory_behind_a_slow_commit_takes_no_more() {
    let server = Postgres::start();
    server.run(
        "create table small (id int primary key); create table filler (id int primary key, t text);
         create table large (id int primary key, t text);
         insert into large select i, repeat('x', 150) || i from generate_series(1, 600000) i",
    );
    let scratch = Scratch::new("history");
    let options = ["--memory", "64MiB", "--commit-interval", "1ms"];
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&options);
    bygone.until_current();
    server.run("insert into small values (1)");
    // So that the commit of what came before is cut ahead of what comes behind.
    server.run("insert into filler select i, repeat('x', 100) from generate_series(1, 10000) i");
    server.run("truncate large");
    let mut bygone = bygone.env("BYGONE_FAILPOINTS", "commit.before_put=sleep(15000)@1");
    assert_bounded(&bygone.until_current());
    let history = History::read(Store::directory(scratch.join("history")));
    assert_eq!(history.events("truncate").len(), 1);
    assert_eq!(history.fact_count(), 1_200_000 + 10_001);
    let left = bygone.ask(&["as-of", "large", "--at", "now", "--format", "csv"]).well();
    assert_eq!(left.stdout, "id,t\n");
}
