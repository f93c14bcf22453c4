//! Capturing from a hot standby, and what becomes of a capture when a standby takes over.
//!
//! A standby decodes from PostgreSQL 16 on. It can make a slot, but neither publications nor the record that a new slot
//! waits for: those come from the primary. A failover is lossless where the standby keeps a copy of the slot (17 on) and
//! the primary sends bygone nothing that the standby lacks; everywhere else it must end in a stop, never in a silent gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::exactly_once::wait_for_commits;
use super::{SHOP, Source, contents};
use crate::support::bygone::Bygone;
use crate::support::comparison::{assert_flawless, judge};
use crate::support::history::History;
use crate::support::majors::on_each_major;
use crate::support::oracle::Oracle;
use crate::support::postgres::{Postgres, Stop};
use crate::support::process::eventually;
use crate::support::scratch::Scratch;
use crate::support::store::Store;
use crate::support::workload::{Habits, Workload};

on_each_major!(&[], [14 as v14, 15 as v15], [a_standby_that_cannot_decode_is_refused]);
on_each_major!(&[], [16 as v16, 18 as v18], [a_standby_is_captured_like_a_primary]);
on_each_major!(
    &[],
    [17 as v17],
    [a_standby_is_captured_like_a_primary, a_table_that_the_primary_has_yet_to_publish_holds_up_no_other]
);

mod failover {
    use super::{
        a_failover_to_a_standby_with_a_copy_of_the_slot_loses_nothing,
        a_failover_without_a_copy_of_the_slot_is_noticed, on_each_major,
    };

    on_each_major!(&[], [14 as v14, 16 as v16], [a_failover_without_a_copy_of_the_slot_is_noticed]);
    on_each_major!(&[], [17 as v17], [a_failover_to_a_standby_with_a_copy_of_the_slot_loses_nothing]);
    on_each_major!(
        &[],
        [18 as v18],
        [
            a_failover_without_a_copy_of_the_slot_is_noticed,
            a_failover_to_a_standby_with_a_copy_of_the_slot_loses_nothing
        ]
    );
}

fn wal_end(primary: &Postgres) -> String {
    primary.value("select pg_current_wal_lsn()").unwrap()
}

/// A primary that tells its standbys all the time which transactions run.
struct Telling(Option<std::thread::JoinHandle<()>>, Arc<AtomicBool>);

impl Telling {
    fn start(primary: &Postgres) -> Self {
        let (mut client, stop) = (primary.connect(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                client.execute("select pg_log_standby_snapshot()", &[]).unwrap();
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        Self(Some(thread), stop)
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.1.store(true, Ordering::SeqCst);
        let ended = self.0.take().map(std::thread::JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_none_or(|ended| ended.is_ok()));
    }
}

fn a_standby_that_cannot_decode_is_refused(mut primary: Postgres) {
    primary.run(SHOP);
    let standby = primary.standby(&[]);
    let scratch = Scratch::new("history");
    let history = scratch.join("history");
    Bygone::new(standby.url(), &history).attempt(&[]).refused(&["standby", "16", "primary"]);
    assert_eq!(contents(&history), []);
    // The same address once it has been promoted.
    standby.promote();
    Bygone::new(standby.url(), &history).until_current();
}

fn a_standby_is_captured_like_a_primary(primary: Postgres) {
    let mut source = Source::of(primary);
    let mut standby = source.server.standby(&[]);
    let mut bygone = Bygone::new(standby.url(), source.history()).options(&["--commit-interval", "300ms"]);

    // Given that the primary lacks the publications: the error names the SQL for it, and nothing has been made
    let outcome = bygone.attempt(&[]).refused(&["on the primary", "create publication", "alter publication"]);
    assert_eq!(contents(&source.history()), []);
    assert_eq!(standby.traces(), [""; 0]);
    let statements: Vec<&str> = outcome.stderr.lines().filter(|line| line.ends_with(';')).collect();
    for statement in statements {
        source.server.run(statement);
    }
    standby.reached(&wal_end(&source.server));

    // When nothing tells the standby which transactions run, then bygone says what would
    let writer = "select pid::text from pg_stat_activity where backend_type = 'background writer'";
    let writer = Pid::from_raw(source.server.value(writer).unwrap().parse().unwrap()).unwrap();
    kill_process(writer, Signal::STOP).unwrap();
    bygone.start("");
    let said = eventually(Duration::from_secs(30), || bygone.said().contains("pg_log_standby_snapshot()"));
    kill_process(writer, Signal::CONT).unwrap();
    assert!(said, "{}", bygone.said());
    // A slot takes several of these records, which come every 15 seconds otherwise.
    let telling = Telling::start(&source.server);
    let workload = Workload::start(&source.server, &Habits { large: 1500, ..Habits::default() });
    let history = || History::read(Store::directory(source.history()));
    let copied = eventually(Duration::from_secs(60), || history().events("snapshot").len() >= 7);
    assert!(copied, "{}", bygone.said());
    workload.wait_for(200);

    // And through a kill of the one and a crash of the other, all is there once
    bygone.kill();
    workload.wait_for(100);
    bygone.start("");
    wait_for_commits(&mut bygone, &source.history(), history().commits.len() + 2);
    standby.stop(Stop::Immediate);
    standby.start_again();
    let before = history().commits.len();
    wait_for_commits(&mut bygone, &source.history(), before + 2);
    workload.wait_for(100);
    workload.finish();
    standby.reached(&wal_end(&source.server));
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.until_current();
    drop(telling);
    source.assert_exact(Store::directory(source.history()), 800);

    // And detach removes what is the standby's, and names what is the primary's
    let detached = bygone.command(&["detach", "--source", &standby.url()]);
    let detached = detached.refused(&["on the primary", "drop publication"]);
    assert!(detached.stderr.contains("dropped replication slot"), "{}", detached.stderr);
    assert_eq!(standby.column("select slot_name from pg_replication_slots"), [""; 0]);
}

fn a_table_that_the_primary_has_yet_to_publish_holds_up_no_other(mut primary: Postgres) {
    primary.run(SHOP);
    let standby = primary.standby(&[]);
    let _telling = Telling::start(&primary);
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(standby.url(), scratch.join("history")).options(&[
        "--commit-interval",
        "100ms",
        "--catalog-interval",
        "200ms",
    ]);
    let events = |kind: &str, table: &str| {
        let history = History::read(Store::directory(scratch.join("history")));
        history.events(kind).iter().filter(|event| event["table"] == table).count()
    };
    primary.run(
        "create publication bygone for table orders; create publication bygone_insert_only with (publish = 'insert, truncate');
         alter table orders replica identity full",
    );
    standby.reached(&wal_end(&primary));
    bygone.until_current();

    // It is told once, with what the primary lacks; everything else is looked at, and a run comes to its end.
    primary.run(
        "create table later (id int primary key); insert into later values (1);
         alter table orders alter total type numeric(14,2) using total * 100",
    );
    standby.reached(&wal_end(&primary));
    let told = bygone.until_current().stderr;
    assert!(
        told.contains("on the primary") && told.contains("add table only \"public\".\"later\""),
        "{told}"
    );
    assert_eq!(events("reconcile", "public.orders"), 1, "{told}");

    bygone.start("");
    primary.run("alter publication bygone add table later");
    let copied = eventually(Duration::from_secs(60), || events("snapshot", "public.later") == 1);
    assert!(copied && bygone.alive(), "{}", bygone.said());
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.ask(&["verify"]).well();
}

fn a_failover_without_a_copy_of_the_slot_is_noticed(mut primary: Postgres) {
    // Given a standby that has all that the history has, and one history that went on while it had not
    primary.run(SHOP);
    let mut standby = primary.standby(&[]);
    let scratch = Scratch::new("history");
    let mut level = Bygone::new(primary.url(), scratch.join("level")).options(&["--name", "level"]);
    let mut ahead = Bygone::new(primary.url(), scratch.join("ahead")).options(&["--name", "ahead"]);
    level.until_current();
    ahead.until_current();
    standby.reached(&wal_end(&primary));
    standby.stop(Stop::Fast);
    primary.run("insert into orders values (4, 'dee', 4)");
    ahead.until_current();
    primary.stop(Stop::Immediate);

    // When it takes over and goes another way
    standby.start_again();
    standby.promote();
    standby.run("insert into orders select n, 'other', n from generate_series(4, 2000) n");

    // Then neither goes on as if nothing had happened
    for (bygone, name, words) in [
        (&mut level, "level", &["\"level\"", "failed over"][..]),
        (&mut ahead, "ahead", &["timeline", "failover"][..]),
    ] {
        let before = contents(&scratch.join(name));
        bygone.reach(standby.url());
        let outcome = bygone.attempt(&[]).refused(words);
        eprintln!("{}", outcome.stderr);
        assert_eq!(contents(&scratch.join(name)), before, "{name}: something was written");
    }

    // And each goes on once it is told to, with the loss on record
    for (bygone, flags, kind) in
        [(&mut level, &["--on-gap", "reconcile"][..], "gap"), (&mut ahead, &["--accept-fork"][..], "fork")]
    {
        bygone.attempt(flags).well();
        let now = bygone.ask(&["as-of", "orders", "--at", "now", "--format", "csv"]).well().stdout;
        let mut rows: Vec<&str> = now.lines().skip(1).collect();
        rows.sort_unstable();
        let there = "select id || ',' || customer || ',' || total from orders order by (id || ',' || customer || ',' || total) collate \"C\"";
        assert_eq!(rows, standby.column(there));
        assert!(bygone.ask(&["log"]).well().stdout.contains(kind));
        bygone.ask(&["verify"]).well();
    }
}

fn a_failover_to_a_standby_with_a_copy_of_the_slot_loses_nothing(primary: Postgres) {
    // Given a standby that keeps the slots in step, and a primary that waits for it
    let mut source = Source::of(primary);
    let standby = source.server.standby(&[("sync_replication_slots", "on")]);
    source.server.run("alter system set synchronized_standby_slots = 'standby'");
    source.server.run("select pg_reload_conf()");
    let both = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/shop?target_session_attrs=read-write",
        source.server.port(),
        standby.port()
    );
    let workload = Workload::start(&source.server, &Habits { large: 1500, ..Habits::default() });
    let mut bygone = Bygone::new(both, source.history()).options(&["--commit-interval", "300ms"]);
    bygone.start("");
    wait_for_commits(&mut bygone, &source.history(), 3);
    let copied = "select count(*) from pg_replication_slots where synced and not temporary and invalidation_reason is null";
    let copied = eventually(Duration::from_secs(90), || {
        // The witness' slot is kept in step, too, and only moves when it is read.
        Oracle::catch_up(&mut source.server.connect());
        standby.value(copied).as_deref() == Some("2")
    });
    assert!(copied, "the standby has no copies of the slots:\n{}", bygone.said());
    // When the primary dies in the middle of it all, and the standby takes over
    workload.wait_for(200);
    source.server.stop(Stop::Immediate);
    workload.finish();
    std::thread::sleep(Duration::from_secs(1));
    // A copy cannot be read before that.
    Bygone::new(standby.url(), source.history()).attempt(&[]).refused(&["\"bygone\"", "standby", "primary"]);
    standby.promote();
    let before = History::read(Store::directory(source.history())).commits.len();
    let workload = Workload::start(&standby, &Habits { large: 1500, ..Habits::default() });
    wait_for_commits(&mut bygone, &source.history(), before + 3);
    workload.wait_for(200);
    workload.finish();
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.until_current();

    // Then all that the new primary has is there once, and the log says that it is another timeline
    let mut history = History::read(Store::directory(source.history()));
    let found = judge(&mut standby.connect(), &source.oracle, &mut history, true);
    assert_flawless(&found);
    assert!(history.fact_count() > 800, "{} facts prove nothing", history.fact_count());
    let timelines: Vec<_> = [history.commits.first(), history.commits.last()]
        .iter()
        .map(|c| c.unwrap()["source"]["timeline"].clone())
        .collect();
    assert_eq!(timelines, [1, 2]);
    bygone.ask(&["verify"]).well();
}
