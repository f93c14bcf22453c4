//! The same promises on every major of PostgreSQL that is supported, and what only some of them can do.
//!
//! A major that the machine lacks is skipped with a word; `make test` fetches them all. The rest of the end-to-end tests
//! run on the system's version.

use std::time::Duration;

use bygone_replication::conninfo::{ConnectOptions, Environment};
use bygone_replication::session;
use bygone_replication::slot::{self, Slot};
use rustix::process::Signal;

use super::exactly_once::{assert_not_acknowledged_too_far, wait_for_commits};
use super::{SHOP, Source, contents};
use crate::support::bygone::Bygone;
use crate::support::comparison::assert_flawless;
use crate::support::history::History;
use crate::support::majors::on_each_major;
use crate::support::postgres::{Postgres, Stop};
use crate::support::process::eventually;
use crate::support::scratch::Scratch;
use crate::support::store::Store;
use crate::support::workload::{Habits, Workload};

on_each_major!(
    &[],
    [14 as v14, 15 as v15, 16 as v16, 17 as v17, 18 as v18],
    [
        a_busy_database_becomes_facts_once_through_a_kill_and_a_restart,
        tables_are_copied_while_others_write,
        partitions_are_one_table,
        a_slot_that_lost_its_wal_stops_bygone_with_the_remedy,
        a_slot_that_decodes_prepared_transactions_early_is_refused,
        generated_columns_are_kept_where_they_are_sent_and_never_null_by_guess
    ]
);

/// What came with a version.
mod since {
    use super::{a_slot_that_idled_too_long_stops_bygone_with_the_remedy, on_each_major};

    on_each_major!(
        &[("idle_replication_slot_timeout", "1s")],
        [18 as v18],
        [a_slot_that_idled_too_long_stops_bygone_with_the_remedy]
    );
}

/// All but the Delta view, which comes a moment after the commits that it shows.
fn facts_and_log(history: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let is_beside = |path: &str| path.contains("_delta_log") || path.starts_with(".staging");
    contents(history).into_iter().filter(|(path, _)| !is_beside(path)).collect()
}

fn version(server: &Postgres) -> u32 {
    server.value("show server_version_num").unwrap().parse().unwrap()
}

/// The slot as `replication` reads it.
fn read_slot(server: &Postgres, name: &str) -> Option<Slot> {
    let options = ConnectOptions::parse_in(&server.socket_string(), &Environment::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = session::connect_sql(&options).await.unwrap();
        slot::read(&client, name).await.unwrap()
    })
}

/// The facts of a table, each as one line of these columns; nothing stands for null.
fn lines(history: &std::path::Path, table: &str, columns: &[&str]) -> Vec<String> {
    let history = History::read(Store::directory(history));
    let facts = history.texts(table, columns);
    facts.iter().map(|fact| fact.iter().flatten().cloned().collect::<Vec<_>>().join(" ")).collect()
}

fn a_busy_database_becomes_facts_once_through_a_kill_and_a_restart(server: Postgres) {
    let mut source = Source::of(server);
    let workload = Workload::start(&source.server, &Habits { large: 1500, ..Habits::default() });
    workload.wait_for(150);
    let mut bygone = source.bygone().options(&["--commit-interval", "300ms"]);
    bygone.start("");
    wait_for_commits(&mut bygone, &source.history(), 3);
    workload.wait_for(300);
    bygone.kill();
    assert_not_acknowledged_too_far(&source.server, &History::read(Store::directory(source.history())));
    workload.wait_for(200);
    bygone.start("");
    let before = History::read(Store::directory(source.history())).commits.len();
    wait_for_commits(&mut bygone, &source.history(), before + 2);
    source.server.stop(Stop::Immediate);
    source.server.start_again();
    let before = History::read(Store::directory(source.history())).commits.len();
    wait_for_commits(&mut bygone, &source.history(), before + 2);
    workload.wait_for(200);
    workload.finish();
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.until_current();
    source.assert_exact(Store::directory(source.history()), 1500);
    bygone.ask(&["verify"]).well();
}

fn tables_are_copied_while_others_write(server: Postgres) {
    let source = Source::of(server);
    source.server.run(
        "insert into orders (id, customer, state, total)
         select -n, n % 100, repeat(md5(n::text), 3), n / 100.0 from generate_series(1, 30000) n",
    );
    let habits = Habits { pause: Duration::from_millis(2), large: 0, truncate: false, ..Habits::default() };
    let workload = Workload::start(&source.server, &habits);
    workload.wait_for(200);
    let mut bygone = source.bygone();
    bygone.until_current();
    workload.finish();
    bygone.until_current();
    source.assert_exact(Store::directory(source.history()), 30_000);
}

fn partitions_are_one_table(server: Postgres) {
    server.run(
        "create table visits (id int, region text, n int, note text, primary key (id, region))
             partition by list (region);
         create table visits_eu partition of visits for values in ('eu');
         create table visits_asia partition of visits for values in ('in', 'jp') partition by range (id);
         create table visits_asia_low partition of visits_asia for values from (minvalue) to (100);
         create table visits_asia_high (note text, n int, region text not null, id int not null,
             primary key (id, region));
         alter table visits_asia attach partition visits_asia_high for values from (100) to (maxvalue);
         insert into visits values (1, 'eu', 10), (2, 'in', 20), (300, 'jp', 30), (4, 'in', 40)",
    );
    // One whose rows can move without getting another key.
    server.run(
        "create table jobs (id int, state text, n int) partition by list (state);
         create table jobs_open partition of jobs for values in ('open');
         create table jobs_done partition of jobs for values in ('done');
         alter table jobs_open replica identity full; alter table jobs_done replica identity full;
         insert into jobs values (1, 'open', 1), (2, 'open', 2)",
    );
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"));
    bygone.until_current();
    // Each in a transaction of its own, so that their order is theirs.
    for statement in [
        "update visits set n = n + 1",
        "update visits set region = 'jp' where id = 2",
        "update visits set region = 'eu' where id = 4",
        "insert into visits values (500, 'in', 50)",
        "update jobs set state = 'done' where id = 1",
        "truncate visits_asia_high",
        "truncate jobs_done",
        "delete from visits where id = 1",
    ] {
        server.run(statement);
    }
    bygone.until_current();
    let history = History::read(Store::directory(scratch.join("history")));
    assert_eq!(history.tables().into_iter().collect::<Vec<_>>(), ["public.jobs", "public.visits"]);
    let facts = lines(&scratch.join("history"), "public.visits", &["id", "region", "n", "_version", "_op"]);
    let (copied, streamed) = facts.split_at(4);
    let mut copied = copied.to_vec();
    copied.sort();
    assert_eq!(
        copied,
        ["1 eu 10 1 snapshot", "2 in 20 1 snapshot", "300 jp 30 1 snapshot", "4 in 40 1 snapshot"]
    );
    let mut updated = streamed[..4].to_vec();
    updated.sort();
    assert_eq!(updated, ["1 eu 11 2 update", "2 in 21 2 update", "300 jp 31 2 update", "4 in 41 2 update"]);
    assert_eq!(
        streamed[4..],
        [
            // Within one leaf the key changes; from leaf to leaf a row goes and another comes.
            "2 in 21 3 rekey",
            "2 jp 21 1 rekey",
            "4 in 41 3 delete",
            "4 eu 41 1 insert",
            "500 in 50 1 insert",
            "300 jp 31 3 truncate",
            "500 in 50 2 truncate",
            "1 eu 11 3 delete",
        ]
    );
    let mut facts = lines(&scratch.join("history"), "public.jobs", &["id", "state", "n", "_op"]);
    facts[..2].sort();
    assert_eq!(
        facts,
        ["1 open 1 snapshot", "2 open 2 snapshot", "1 open 1 delete", "1 done 1 insert", "1 done 1 truncate"]
    );
    let mut history = history;
    history.verify(true);
    assert_flawless(&history.violations);
}

fn a_slot_that_lost_its_wal_stops_bygone_with_the_remedy(server: Postgres) {
    // Given a running bygone that stands still while more WAL is written than the server keeps for a slot
    server.run(SHOP);
    server.run("alter system set max_slot_wal_keep_size = '16MB'; ");
    server.run("select pg_reload_conf()");
    let scratch = Scratch::new("history");
    let history = scratch.join("history");
    let mut bygone = Bygone::new(server.url(), &history).options(&["--commit-interval", "200ms"]);
    bygone.start("");
    let active = "select 1 from pg_replication_slots where slot_name = 'bygone' and active";
    assert!(eventually(Duration::from_secs(30), || server.value(active).is_some()), "{}", bygone.said());
    wait_for_commits(&mut bygone, &history, 2);
    let before = facts_and_log(&history);
    bygone.signal(Signal::STOP);
    let lost = "select 1 from pg_replication_slots where slot_name = 'bygone' and wal_status = 'lost'";
    for _ in 0..8 {
        server.run("update orders set total = total + 1; select pg_switch_wal()");
        server.run("checkpoint");
        if server.value(lost).is_some() {
            break;
        }
    }
    assert!(server.value(lost).is_some(), "the server still keeps the slot's WAL");

    // Then it stops when it wakes, and each start after that does, and both say what to do
    let words =
        ["\"bygone\"", "lost", "wal_removed", "max_slot_wal_keep_size", "pg_drop_replication_slot('bygone')"];
    bygone.signal(Signal::CONT);
    let status = bygone.ending(Duration::from_secs(60));
    assert_eq!(status.code(), Some(1), "{status}\n{}", bygone.said());
    for word in words {
        assert!(bygone.said().contains(word), "nothing about {word:?} in\n{}", bygone.said());
    }
    bygone.attempt(&[]).refused(&words);
    assert_eq!(facts_and_log(&history), before, "something was written after the loss");

    // And the slot reads the same on each version, by what that version tells
    let version = version(&server);
    let slot = read_slot(&server, "bygone").unwrap();
    assert_eq!(slot.lost(), Some("wal_removed"));
    assert_eq!(slot.wal_status.as_deref(), Some("lost"));
    assert_eq!(slot.restart_lsn, None);
    assert!(slot.confirmed_flush_lsn.is_some(), "where the gap begins is gone");
    assert_eq!(slot.invalidation_reason.as_deref(), (version >= 170_000).then_some("wal_removed"));
    assert_eq!(slot.conflicting.is_some(), version >= 160_000);
}

fn a_slot_that_idled_too_long_stops_bygone_with_the_remedy(server: Postgres) {
    server.run(SHOP);
    let scratch = Scratch::new("history");
    let history = scratch.join("history");
    let mut bygone = Bygone::new(server.url(), &history);
    bygone.until_current();
    let before = facts_and_log(&history);
    std::thread::sleep(Duration::from_millis(1500));
    server.run("insert into orders values (4, 'dee', 4)");
    server.run("checkpoint");
    assert_eq!(read_slot(&server, "bygone").unwrap().lost(), Some("idle_timeout"));
    bygone.attempt(&[]).refused(&["\"bygone\"", "idle_timeout", "idle_replication_slot_timeout"]);
    assert_eq!(facts_and_log(&history), before, "something was written after the loss");
}

fn a_slot_that_decodes_prepared_transactions_early_is_refused(server: Postgres) {
    server.run(SHOP);
    server.run("create publication mine for table orders");
    server.run("select pg_create_logical_replication_slot('early', 'pgoutput', false, true)");
    assert!(read_slot(&server, "early").unwrap().two_phase);
    let scratch = Scratch::new("history");
    let history = scratch.join("history");
    let outcome = Bygone::new(server.url(), &history)
        .options(&["--publication", "mine", "--slot", "early"])
        .attempt(&[])
        .refused(&["\"early\"", "two_phase"]);
    assert_eq!(contents(&history), [], "{}", outcome.stderr);
    // Prepared transactions as such are no trouble: they are facts when they are committed.
    let mut bygone = Bygone::new(server.url(), &history).options(&["--name", "late"]);
    bygone.until_current();
    server.run("begin; insert into orders values (4, 'dee', 4); prepare transaction 'four'");
    server.run("begin; insert into orders values (5, 'eve', 5); prepare transaction 'five'");
    bygone.until_current();
    server.run("commit prepared 'four'");
    server.run("rollback prepared 'five'");
    bygone.until_current();
    let facts = lines(&history, "public.orders", &["id", "_op"]);
    assert_eq!(facts.last().unwrap(), "4 insert");
    assert_eq!(facts.len(), 4, "{facts:?}");
}

fn generated_columns_are_kept_where_they_are_sent_and_never_null_by_guess(server: Postgres) {
    let sends_stored = version(&server) >= 180_000;
    let ghost = if sends_stored { "ghost int generated always as (net * 2) virtual," } else { "" };
    server.run(&format!(
        "create table invoices (id int primary key, net int, {ghost}
             gross int generated always as (net + net / 5) stored, note text);
         insert into invoices (id, net) values (1, 10)"
    ));
    let scratch = Scratch::new("history");
    let history = scratch.join("history");
    let mut bygone = Bygone::new(server.url(), &history);
    bygone.until_current();
    server.run("insert into invoices (id, net) values (2, 20)");
    server.run("update invoices set net = 50 where id = 1");
    server.run("update invoices set note = 'paid' where id = 1");
    server.run("delete from invoices where id = 1");
    bygone.until_current();
    let known = History::read(Store::directory(&history));
    let mut columns = vec!["id", "net", "gross", "_op", "_unknown", "_changed"];
    if sends_stored {
        columns.push("ghost");
    }
    let facts = known.texts("public.invoices", &columns);
    let text = |at: usize, column: usize| facts[at][column].as_deref();
    assert_eq!(facts.len(), 5, "{facts:?}");
    // The copy has asked for all values.
    assert_eq!((text(0, 2), text(0, 4)), (Some("12"), None));
    if sends_stored {
        let gross: Vec<_> = (0..5).map(|at| text(at, 2)).collect();
        assert_eq!(gross, [Some("12"), Some("24"), Some("60"), Some("60"), Some("60")]);
        assert_eq!(text(0, 6), Some("20"), "the copy has computed it");
        for fact in &facts[1..] {
            assert_eq!((&fact[6], fact[4].as_deref()), (&None, Some("{\"ghost\"}")), "{fact:?}");
        }
        assert!(text(2, 5).unwrap().contains("gross"), "{:?}", facts[2]);
    } else {
        for fact in &facts[1..] {
            assert_eq!((&fact[2], fact[4].as_deref()), (&None, Some("{\"gross\"}")), "{fact:?}");
        }
    }
    // Who asks is told what is not known.
    let answer = bygone.ask(&["as-of", "public.invoices", "--at", "now"]).well();
    let unknown = if sends_stored { "ghost" } else { "gross" };
    assert!(answer.stderr.contains(&format!("{unknown} is not known")), "{}", answer.stderr);
    // And it is no difference to the source.
    bygone.start("");
    bygone.ask(&["reconcile", "--source", &server.url()]).well();
    bygone.terminate(rustix::process::Signal::TERM, Duration::from_secs(20));
}
