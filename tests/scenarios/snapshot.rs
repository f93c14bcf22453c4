//! What is there when a capture begins, and what it leaves when it ends.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{SHOP, Source};
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::postgres::{DATABASE, Postgres};
use crate::support::process::eventually;
use crate::support::scratch::Scratch;
use crate::support::store::Store;
use crate::support::workload::{Habits, Workload};

#[test]
fn tables_are_copied_as_of_one_moment_while_others_write() {
    // Given a table of many pages, empty tables, and an application that does not wait
    let source = Source::start();
    source.server.run(
        "insert into orders (id, customer, state, total)
         select -n, n % 100, repeat(md5(n::text), 3), n / 100.0 from generate_series(1, 120000) n",
    );
    // A truncate before the copy would leave too little to prove anything.
    let habits = Habits { pause: Duration::from_millis(2), truncate: false, ..Habits::default() };
    let workload = Workload::start(&source.server, &habits);
    workload.wait_for(200);
    let mut bygone = source.bygone();
    bygone.until_current();
    workload.finish();
    bygone.until_current();
    source.assert_exact(Store::directory(source.history()), 120_000);
}

#[test]
fn tables_that_are_added_later_are_copied_while_others_write() {
    // Adding a table to a publication cuts through transactions that are running: none may be kept in part.
    let source = Source::start();
    let workload =
        Workload::start(&source.server, &Habits { pause: Duration::from_millis(2), ..Habits::default() });
    workload.wait_for(200);
    source.bygone().tables(&["public.orders", "public.clicks"]).until_current();
    for patterns in [&["public.orders", "public.clicks", "public.wide"][..], &["public.*"]] {
        workload.wait_for(200);
        source.bygone().tables(patterns).until_current();
    }
    workload.finish();
    source.bygone().until_current();
    source.assert_exact(Store::directory(source.history()), 1000);
}

#[test]
fn a_value_of_many_megabytes_is_kept_and_need_not_be_sent_again() {
    let source = Source::start();
    let mut bygone = source.bygone().options(&["--memory", "64MiB"]);
    bygone.until_current();
    source.server.run(
        "insert into sessions (token, body) values (gen_random_uuid(), repeat('0123456789abcdef', 2600000))",
    );
    bygone.until_current();
    // What PostgreSQL leaves out of the stream is filled from what is known, also after the state was lost.
    source.server.run("update sessions set tags = '{once}'");
    bygone.until_current();
    bygone.forget();
    source.server.run("update sessions set tags = '{twice}'; delete from sessions");
    bygone.until_current();
    source.assert_exact(Store::directory(source.history()), 4);
}

#[test]
fn an_idle_source_gets_no_chain_of_empty_commits() {
    let server = Postgres::start();
    server.run(SHOP);
    let scratch = Scratch::new("history");
    let mut bygone =
        Bygone::new(server.url(), scratch.join("history")).options(&["--commit-interval", "100ms"]);
    bygone.until_current();
    let before = History::read(Store::directory(scratch.join("history"))).commits.len();
    bygone.start("");
    std::thread::sleep(Duration::from_secs(4));
    bygone.terminate(Signal::TERM, Duration::from_secs(10));
    let after = History::read(Store::directory(scratch.join("history"))).commits.len();
    assert!(after <= before + 2, "{} commits say that nothing happened", after - before);
}

#[test]
fn empty_tables_are_known_to_be_empty() {
    let source = Source::start();
    source.bygone().until_current();
    let history = source.assert_exact(Store::directory(source.history()), 0);
    assert_eq!(history.fact_count(), 0);
    assert!(!history.commits.is_empty(), "nothing says that the tables are empty");
}

#[test]
fn until_current_ends_when_all_that_was_committed_before_is_durable() {
    let server = Postgres::start();
    server.run(SHOP);
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"));
    bygone.until_current();
    server.run("update orders set total = total + 1; delete from orders where id = 3");
    let outcome = bygone.until_current();
    assert!(outcome.took < Duration::from_secs(9), "it waited {:?} for the commit interval", outcome.took);
    let history = History::read(Store::directory(scratch.join("history")));
    let facts = history.texts("public.orders", &["id", "_version", "_op", "total"]);
    let facts: Vec<String> =
        facts.iter().map(|fact| fact.iter().flatten().cloned().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        facts,
        [
            "1 1 snapshot 12.50",
            "2 1 snapshot 99.90",
            "3 1 snapshot 0.01",
            "1 2 update 13.50",
            "2 2 update 100.90",
            "3 2 update 1.01",
            "3 3 delete 1.01"
        ]
    );
    // Nothing new: no facts, and it ends all the same.
    bygone.until_current();
    let again = History::read(Store::directory(scratch.join("history")));
    assert_eq!(again.fact_count(), history.fact_count());
}

#[test]
fn an_idle_source_does_not_keep_its_wal() {
    let server = Postgres::start();
    server.run(SHOP);
    server.run("create schema other; create table other.noise (t text)");
    let scratch = Scratch::new("history");
    let mut bygone =
        Bygone::new(server.url(), scratch.join("history")).options(&["--commit-interval", "300ms"]);
    bygone.start("");
    let slot = "from pg_replication_slots where slot_name not like 'audit%'";
    let kept = || server.value(&format!("select pg_current_wal_lsn() - confirmed_flush_lsn {slot}"));
    assert!(
        eventually(Duration::from_secs(30), || kept().is_some_and(|kept| kept.len() < 7)),
        "{}",
        bygone.said()
    );
    for _ in 0..10 {
        server.run("insert into other.noise select repeat('x', 800) from generate_series(1, 12000)");
    }
    let freed = eventually(Duration::from_secs(40), || kept().unwrap().parse::<i64>().unwrap() < 70 << 20);
    assert!(freed, "{:?} bytes of WAL are kept for a table that nobody captures\n{}", kept(), bygone.said());
    bygone.terminate(Signal::TERM, Duration::from_secs(10));
    let mut history = History::read(Store::directory(scratch.join("history")));
    history.verify(true);
    crate::support::comparison::assert_flawless(&history.violations);
}

#[test]
fn a_table_without_an_identity_keeps_working_and_its_inserts_are_kept() {
    let server = Postgres::start();
    server.run(SHOP);
    server.run("create table notes (t text); insert into notes values ('old')");
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"));
    bygone.until_current();
    // PostgreSQL refuses these where a table without an identity is published with its updates.
    server.run(
        "insert into notes values ('new'); update notes set t = t || '!'; delete from notes where t = 'old!'",
    );
    bygone.until_current();
    let history = History::read(Store::directory(scratch.join("history")));
    let facts = history.texts("public.notes", &["_op", "_version", "t"]);
    let expected = [["snapshot", "1", "old"], ["insert", "1", "new"]];
    assert_eq!(facts, expected.map(|fact| fact.map(|text| Some(text.to_owned())).to_vec()));
    assert_eq!(history.events("updates_unseen").len(), 1, "readers are not told what they cannot see");
    // A comparison of one moment, whatever it finds, is no sight of what comes after it.
    bygone.start("");
    bygone.ask(&["reconcile", "notes", "--source", &server.url()]).refused(&["public.notes"]);
    bygone.terminate(rustix::process::Signal::TERM, std::time::Duration::from_secs(20));
    bygone.ask(&["as-of", "notes", "--at", "now"]).refused(&["--inexact"]);
}

#[test]
fn partitions_are_one_table_under_the_name_of_their_root() {
    let server = Postgres::start();
    server.run(
        "create table visits (id int, region text, n int, primary key (id, region)) partition by list (region);
         create table visits_eu partition of visits for values in ('eu');
         create table visits_us (n int, region text not null, id int not null, primary key (id, region));
         alter table visits attach partition visits_us for values in ('us');
         insert into visits values (1, 'eu', 10), (2, 'us', 20)",
    );
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"));
    bygone.until_current();
    server.run("update visits set n = n + 1; insert into visits values (3, 'us', 30)");
    server.run("truncate visits_us");
    bygone.until_current();
    let history = History::read(Store::directory(scratch.join("history")));
    assert_eq!(history.tables().into_iter().collect::<Vec<_>>(), ["public.visits"]);
    let facts = history.texts("public.visits", &["id", "region", "n", "_version", "_op"]);
    let mut facts: Vec<String> =
        facts.iter().map(|fact| fact.iter().flatten().cloned().collect::<Vec<_>>().join(" ")).collect();
    facts.sort();
    assert_eq!(
        facts,
        [
            "1 eu 10 1 snapshot",
            "1 eu 11 2 update",
            "2 us 20 1 snapshot",
            "2 us 21 2 update",
            "2 us 21 3 truncate",
            "3 us 30 1 insert",
            "3 us 30 2 truncate"
        ]
    );
}

#[test]
fn a_unix_socket_and_a_key_value_string_reach_the_source_too() {
    let server = Postgres::start();
    server.run(SHOP);
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.socket_string(), scratch.join("history"));
    bygone.until_current();
    // Another way to the same database is the same source.
    server.run("insert into orders values (4, 'dee', 4)");
    bygone.reach(server.url());
    bygone.until_current();
    let history = History::read(Store::directory(scratch.join("history")));
    assert_eq!(history.fact_count(), 4);
}

#[test]
fn a_publication_and_a_slot_of_the_operators_own_are_used_as_they_are() {
    let server = Postgres::start();
    server.run(SHOP);
    server.run("create table secret (id int primary key); create publication mine for table orders");
    let scratch = Scratch::new("history");
    let slot = "select pg_create_logical_replication_slot('mine_too', 'pgoutput')";
    server.run(slot);
    let mut bygone = Bygone::new(server.url(), scratch.join("history"))
        .tables(&["public.orders"])
        .options(&["--publication", "mine", "--slot", "mine_too"]);
    bygone.until_current();
    server.run("update orders set total = 7 where id = 1; insert into secret values (1)");
    bygone.until_current();
    assert_eq!(server.traces(), ["publication mine", "slot mine_too"]);
    let history = History::read(Store::directory(scratch.join("history")));
    assert_eq!(history.tables().into_iter().collect::<Vec<_>>(), ["public.orders"]);
    assert_eq!(history.fact_count(), 4);
}

#[test]
fn what_a_capture_creates_is_named_after_it_and_detach_removes_it() {
    let server = Postgres::start();
    server.run(SHOP);
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&["--name", "shop_audit"]);
    bygone.until_current();
    let traces = server.traces();
    assert!(traces.contains(&"slot shop_audit".to_owned()), "{traces:?}");
    assert!(traces.iter().all(|trace| trace.contains("shop_audit")), "{traces:?}");
    let before = super::contents(&scratch.join("history"));

    bygone.command(&["detach", "--source", &server.url(), "--name", "shop_audit"]).well();
    assert_eq!(server.traces(), [""; 0]);
    let after = super::contents(&scratch.join("history"));
    assert!(before.iter().all(|file| after.contains(file)), "detach changed what was kept");
    let mut history = History::read(Store::directory(scratch.join("history")));
    history.verify(true);
    crate::support::comparison::assert_flawless(&history.violations);
}

#[test]
fn detach_leaves_alone_what_is_another_databases_a_standbys_another_tools_or_being_read() {
    let server = Postgres::start();
    server.run(SHOP);
    server.run("create database other");
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"));
    bygone.until_current();
    let traces = server.traces();
    let detach = |bygone: &Bygone, url: &str, words: &[&str]| {
        bygone.command(&["detach", "--source", url]).refused(words);
    };
    // The capture stands still for a moment, and somebody gives the address of another database.
    let elsewhere = server.url_as("postgres", "other");
    detach(&bygone, &elsewhere, &["\"bygone\" belongs to database", DATABASE, "left alone"]);
    assert_eq!(server.traces(), traces);
    // It is at work.
    bygone.start("");
    let active = "select 1 from pg_replication_slots where slot_name = 'bygone' and active";
    let mut client = server.connect();
    assert!(eventually(Duration::from_secs(60), || client.query_opt(active, &[]).unwrap().is_some()));
    detach(&bygone, &server.url(), &["is active", "stop the bygone run"]);
    assert_eq!(server.traces(), traces);
    bygone.terminate(Signal::TERM, Duration::from_secs(60));
    bygone.command(&["detach", "--source", &server.url()]).well();
    // The name is a standby's, then another tool's.
    for (make, words) in [
        ("pg_create_physical_replication_slot('bygone')", ["physical", "left alone"]),
        ("pg_create_logical_replication_slot('bygone', 'test_decoding')", ["test_decoding", "left alone"]),
    ] {
        server.run(&format!("select {make}"));
        detach(&bygone, &server.url(), &words);
        assert_eq!(server.traces(), ["slot bygone"]);
        server.run("select pg_drop_replication_slot('bygone')");
    }
}

#[test]
fn only_tables_that_were_asked_for_are_captured() {
    let server = Postgres::start();
    server.run(SHOP);
    server.run(
        "create schema shop; create table shop.order_items (id int primary key); create table shop.people (id int primary key);
         insert into shop.order_items values (1); insert into shop.people values (1)",
    );
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).tables(&["shop.order_*"]);
    bygone.until_current();
    let history = History::read(Store::directory(scratch.join("history")));
    assert_eq!(history.tables().into_iter().collect::<Vec<_>>(), ["shop.order_items"]);
    let published = server.column("select schemaname || '.' || tablename from pg_publication_tables");
    assert_eq!(published, ["shop.order_items"]);
}

#[test]
fn a_slow_reader_of_the_source_is_not_dropped() {
    // Every commit stalls for longer than the server waits for a sign of life.
    let server = Postgres::with(&[("wal_sender_timeout", "2s")]);
    server.run(SHOP);
    let scratch = Scratch::new("history");
    let mut bygone =
        Bygone::new(server.url(), scratch.join("history")).options(&["--commit-interval", "200ms"]);
    bygone.until_current();
    bygone.start("commit.before_put=sleep(6000)@1");
    let began = Instant::now();
    server.run("update orders set total = 1 where id = 1");
    let pid = "select active_pid::text from pg_replication_slots where active";
    assert!(eventually(Duration::from_secs(20), || server.value(pid).is_some()));
    let first = server.value(pid);
    while began.elapsed() < Duration::from_secs(8) {
        assert_eq!(server.value(pid), first, "the connection was lost\n{}", bygone.said());
        std::thread::sleep(Duration::from_millis(200));
    }
    bygone.terminate(Signal::TERM, Duration::from_secs(10));
    let history = History::read(Store::directory(scratch.join("history")));
    assert_eq!(history.fact_count(), 4);
}

fn four_tables() -> (Postgres, Scratch, Bygone) {
    let server = Postgres::start();
    for table in ["a", "b", "c", "held"] {
        server.run(&format!(
            "create table {table} (id int primary key); insert into {table} select generate_series(1, 100)"
        ));
    }
    let scratch = Scratch::new("history");
    let bygone = Bygone::new(server.url(), scratch.join("history"));
    (server, scratch, bygone)
}

/// The tables whose copy is in the log.
fn copied(scratch: &Scratch) -> Vec<String> {
    let history = History::read(Store::directory(scratch.join("history")));
    let mut copied: Vec<String> =
        history.events("snapshot").iter().map(|event| event["table"].as_str().unwrap().to_owned()).collect();
    copied.sort();
    copied
}

#[test]
fn tables_that_are_copied_are_committed_while_another_takes_long() {
    // At the first start, and where a copy that was cut short is taken up again.
    for cut_short in [false, true] {
        let (_server, scratch, mut bygone) = four_tables();
        if cut_short {
            bygone.start("snapshot.table_done=abort");
            bygone.abort(Duration::from_secs(30));
        }
        bygone.start("snapshot.table_done=sleep(60000)@2");
        let committed = eventually(Duration::from_secs(30), || copied(&scratch).len() == 3);
        assert!(committed, "{:?}\n{}", copied(&scratch), bygone.said());
        bygone.kill();
        bygone.until_current();
        let tables = ["public.a", "public.b", "public.c", "public.held"];
        assert_eq!(copied(&scratch), tables, "a table was copied again");
        bygone.ask(&["verify"]).well();
    }
}

/// One table is locked by somebody else once the slot is there, and meanwhile the copy comes to its end otherwise.
#[test]
fn tables_that_are_copied_stay_copied_whatever_ends_the_copy_of_the_others() {
    for stopped in [true, false] {
        let (server, scratch, mut bygone) = four_tables();
        bygone.start("snapshot.after_slot=sleep(2000)");
        let mut client = server.connect();
        let made = "select 1 from pg_replication_slots where slot_name = 'bygone' and confirmed_flush_lsn is not null";
        assert!(eventually(Duration::from_secs(30), || client.query_opt(made, &[]).unwrap().is_some()));
        client.batch_execute("begin; lock table held").unwrap();
        let waits = "select 1 from pg_locks where not granted";
        assert!(eventually(Duration::from_secs(15), || server.value(waits).is_some()), "{}", bygone.said());
        std::thread::sleep(Duration::from_secs(1));
        if stopped {
            bygone.signal(Signal::TERM);
        } else {
            server.run("select pg_terminate_backend(pid) from pg_locks where not granted");
        }
        client.batch_execute("commit").unwrap();
        let status = bygone.ending(Duration::from_secs(30));
        assert_eq!(status.success(), stopped, "{}", bygone.said());
        assert_eq!(copied(&scratch), ["public.a", "public.b", "public.c"], "{}", bygone.said());
        bygone.until_current();
        assert_eq!(copied(&scratch).len(), 4, "a table was copied again");
        bygone.ask(&["verify"]).well();
    }
}

#[test]
fn columns_that_are_renamed_or_dropped_before_the_first_copy_are_copied_as_they_are() {
    let server = Postgres::start();
    server.run(
        "create table renamed (id int primary key, v text, n int); insert into renamed values (1, 'a', 10);
         create table dropped (id int primary key, v text, n int); insert into dropped values (1, 'a', 10);
         create table swapped (id int primary key, v text, w text); insert into swapped values (1, 'v', 'w');
         create table parted (id int primary key, v text, n int) partition by range (id);
         create table parted_1 (n int, v text, id int not null);
         alter table parted attach partition parted_1 for values from (0) to (50);
         insert into parted values (1, 'a', 10)",
    );
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"));
    // It knows the tables, and none is copied.
    bygone.start("snapshot.table_done=abort");
    bygone.abort(Duration::from_secs(30));
    server.run(
        "alter table renamed rename v to w; alter table dropped drop column v;
         alter table swapped rename v to x; alter table swapped rename w to v; alter table swapped rename x to w;
         alter table parted rename v to w; alter table parted add column c int default 9",
    );
    server.run(
        "update renamed set n = 11; insert into swapped values (2, 'V', 'W'); update parted set w = 'b'",
    );
    bygone.until_current();
    server.run("insert into dropped values (2, 20); update swapped set v = 'new' where id = 2; insert into parted values (2, 'x', 1, 2)");
    bygone.until_current();
    for (table, rows) in [
        ("renamed", "id,w,n\n1,a,11\n"),
        ("dropped", "id,n\n1,10\n2,20\n"),
        ("swapped", "id,w,v\n1,v,w\n2,V,new\n"),
        ("parted", "id,w,n,c\n1,b,10,9\n2,x,1,2\n"),
    ] {
        let shown = bygone.ask(&["as-of", table, "--at", "now", "--format", "csv"]).well();
        assert_eq!(shown.stdout, rows, "{table}");
    }
}

/// Between the moment at which it is read what there is to copy, and a table's turn.
#[test]
fn names_that_lead_to_others_before_their_turn_are_copied_as_what_they_are() {
    let server = Postgres::start();
    server.run(
        "create table columns (id int primary key, v text, w text); insert into columns values (1, 'v', 'w');
         create table anew (id int primary key, v text); insert into anew values (1, 'old');
         create table one (id int primary key, v text); insert into one values (1, 'of one');
         create table other (id int primary key, v text); insert into other values (1, 'of other');
         create table parted (id int, v text, w text) partition by range (id);
         create table parted_1 partition of parted for values from (0) to (50);
         alter table parted add primary key (id); insert into parted values (1, 'v', 'w');
         create table gone (id int primary key); insert into gone values (1);
         create table renamed (id int primary key, v text); insert into renamed values (1, 'there');
         create table moved (id int primary key); insert into moved values (1); create schema elsewhere",
    );
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"));
    let options = ["--snapshot-workers", "1", "--catalog-interval", "200ms", "--commit-interval", "200ms"];
    bygone.start_with(&options, "snapshot.before_lock=sleep(4000)@1");
    let exported =
        "select 1 from pg_replication_slots where slot_name = 'bygone' and confirmed_flush_lsn is not null";
    assert!(eventually(Duration::from_secs(30), || server.value(exported).is_some()), "{}", bygone.said());
    std::thread::sleep(Duration::from_secs(2));
    let swapped = |table: &str| {
        format!(
            "alter table {table} rename v to x; alter table {table} rename w to v; alter table {table} rename x to w;"
        )
    };
    server.run(&format!(
        "{} {}
         alter table anew drop column v; alter table anew add column v text;
         alter table one rename to neither; alter table other rename to one; alter table neither rename to other;
         drop table gone; alter table renamed rename to called; alter table moved set schema elsewhere",
        swapped("columns"),
        swapped("parted"),
    ));
    let done = [
        "public.anew",
        "public.columns",
        "public.moved",
        "public.one",
        "public.other",
        "public.parted",
        "public.renamed",
    ];
    let came = eventually(Duration::from_secs(60), || copied(&scratch) == done || !bygone.alive());
    assert!(came && bygone.alive(), "{:?}\n{}", copied(&scratch), bygone.said());
    assert!(bygone.said().contains("could not be copied"), "{}", bygone.said());
    server.run("update columns set v = 'V'; insert into anew values (2, 'new'); insert into called values (2, 'too')");
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.until_current();
    for (table, rows) in [
        ("columns", "id,w,v\n1,v,V\n"),
        ("parted", "id,w,v\n1,v,w\n"),
        ("anew", "id,v\n1,\n2,new\n"),
        // By the names that they have now.
        ("one", "id,v\n1,of other\n"),
        ("other", "id,v\n1,of one\n"),
        ("called", "id,v\n1,there\n2,too\n"),
        ("elsewhere.moved", "id\n1\n"),
    ] {
        let shown = bygone.ask(&["as-of", table, "--at", "now", "--format", "csv"]).well();
        assert_eq!(shown.stdout, rows, "{table}");
    }
    bygone.ask(&["verify"]).well();
}

/// Somebody else keeps a table locked for longer than a copy waits.
#[test]
fn a_table_that_stays_locked_holds_no_other_up() {
    let (server, scratch, mut bygone) = four_tables();
    bygone = bygone.options(&["--catalog-interval", "200ms", "--commit-interval", "200ms"]);
    bygone.start("snapshot.after_slot=sleep(2000)");
    let mut client = server.connect();
    let made =
        "select 1 from pg_replication_slots where slot_name = 'bygone' and confirmed_flush_lsn is not null";
    assert!(eventually(Duration::from_secs(30), || client.query_opt(made, &[]).unwrap().is_some()));
    client.batch_execute("begin; lock table held").unwrap();
    // The others are there, and followed.
    let others = eventually(Duration::from_secs(60), || copied(&scratch).len() == 3);
    assert!(others && bygone.alive(), "{:?}\n{}", copied(&scratch), bygone.said());
    server.run("insert into a values (1000)");
    let rows = |table: &str, bygone: &Bygone| {
        bygone.ask(&["as-of", table, "--at", "now", "--format", "csv"]).well().stdout.lines().count() - 1
    };
    let followed = eventually(Duration::from_secs(120), || rows("a", &bygone) == 101 || !bygone.alive());
    assert!(followed && bygone.alive(), "{}", bygone.said());
    client.batch_execute("insert into held values (1000); commit").unwrap();
    let there = eventually(Duration::from_secs(120), || copied(&scratch).len() == 4 || !bygone.alive());
    assert!(there && bygone.alive(), "{}", bygone.said());
    // The first signal is heard as the first.
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    assert_eq!(rows("held", &bygone), 101);
    bygone.ask(&["verify"]).well();
}
