//! Changes that are lost for good: noticed before anything is written, recorded where that is asked for, and led over by
//! facts that a comparison with the source makes.

use std::time::Duration;

use rustix::process::Signal;

use super::contents;
use super::schema::{Diary, ITEMS};
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::postgres::{Postgres, Stop};
use crate::support::process::eventually;
use crate::support::scratch::{Scratch, copy_directory};
use crate::support::store::Store;

/// Rows that change while nobody hears of it: one of each kind.
const UNHEARD: &str = "
    update items set a = 'unheard' where id <= 5; delete from items where id = 10; insert into items (id, a) values (900, 'unheard')";
/// How the slot and the publication are called.
const DROP_SLOT: &str = "select pg_drop_replication_slot('bygone')";
const MOVE_SLOT: &str = "select pg_replication_slot_advance('bygone', pg_current_wal_lsn())";

fn begin() -> Diary {
    let mut diary = Diary::begin(
        false,
        &format!(
            "{ITEMS};
             create table log_lines (line text); alter table log_lines replica identity full;
             insert into log_lines select 'line ' || i % 7 from generate_series(1, 30) i;
             create table quiet (id int primary key, t text); insert into quiet values (1, 'never changes')"
        ),
    );
    diary.change("update items set n = n + 1 where id % 10 = 0", &[]);
    for table in ["items", "log_lines", "quiet"] {
        diary.save(table);
    }
    diary
}

/// Loses changes as `lose` does, and goes on.
fn lost_and_led_over(
    diary: &mut Diary,
    lose: impl FnOnce(&mut Postgres) -> String,
    flags: &[&str],
    kind: &str,
) {
    let root = diary.scratch.join("history");
    let inside = lose(&mut diary.server);

    // Without being asked to it explains, names the way out, and writes nothing.
    let before = contents(&root);
    let refused = diary.bygone.attempt(&[]).refused(&[flags[0]]);
    eprintln!("{}", refused.stderr);
    assert_eq!(contents(&root), before, "something was written");

    // Killed between the making of a slot and the commit that says so, it does the same again.
    if kind == "gap" {
        diary.bygone.start_with(flags, "gap.after_slot=abort");
        diary.bygone.abort(Duration::from_secs(60));
    }
    diary.bygone.attempt(flags).well();
    for table in ["items", "log_lines", "quiet"] {
        diary.save(table);
    }

    // What was there before is there unaltered.
    for (path, bytes) in before.iter().filter(|(path, _)| !path.contains("_delta_log")) {
        assert!(
            contents(&root).iter().any(|(now, same)| now == path && same == bytes),
            "{path} is not as it was"
        );
    }
    // The loss is told for ever, with its range and its reason.
    let history = diary.history();
    let told = history.events(kind);
    let of_all: Vec<_> = told.iter().filter(|event| event["table"].is_null()).collect();
    assert!(!of_all.is_empty(), "no {kind}: {told:?}");
    assert!(of_all[0]["lsn"].is_array() && of_all[0]["reason"].is_string(), "{of_all:?}");
    for command in [&["log"][..], &["verify"], &["status"]] {
        assert!(diary.bygone.ask(command).well().stdout.contains(kind), "{command:?} does not tell");
    }
    // Only what differs has become facts.
    let ops = history.texts("public.items", &["_op", "id"]);
    let reconciled = ops.iter().filter(|fact| fact[0].as_deref() == Some("reconcile")).count();
    assert!(reconciled <= 13, "{reconciled} facts for at most 13 rows that changed");
    assert!(
        history.texts("public.quiet", &["_op"]).iter().all(|fact| fact[0].as_deref() == Some("snapshot"))
    );

    // A moment inside is not known, and what was known before is shown only where it is asked for.
    let question = ["as-of", "items", "--at", inside.as_str(), "--format", "csv"];
    diary.bygone.ask(&question).refused(&["not known", kind, "--inexact"]);
    let shown = diary.bygone.ask(&[&question[..], &["--inexact"]].concat()).well();
    assert!(
        shown.stderr.contains(kind) && !shown.stdout.contains("unheard"),
        "{}{}",
        shown.stderr,
        shown.stdout
    );
}

/// The stretch is lost, and its middle is given back.
fn unheard(server: &Postgres) -> String {
    server.run("insert into items (id, a) values (800, 'unheard'); update items set a = 'unheard twice' where id = 800");
    let inside = server.value("select pg_current_wal_insert_lsn()").unwrap();
    server.run(UNHEARD);
    server.run(
        "insert into log_lines values ('unheard'), ('line 1'); delete from log_lines where line = 'line 2'",
    );
    inside
}

#[test]
fn a_slot_that_was_dropped_leaves_a_recorded_gap() {
    let mut diary = begin();
    lost_and_led_over(
        &mut diary,
        |server| {
            let inside = unheard(server);
            server.run(DROP_SLOT);
            server.run("update items set a = 'unheard too' where id = 6; create table fresh (id int primary key); insert into fresh values (1)");
            inside
        },
        &["--on-gap", "reconcile"],
        "gap",
    );
    diary.save("fresh");
    diary.check();
}

#[test]
fn a_slot_that_was_moved_leaves_a_recorded_gap() {
    let mut diary = begin();
    lost_and_led_over(
        &mut diary,
        |server| {
            let inside = unheard(server);
            server.run(MOVE_SLOT);
            inside
        },
        &["--on-gap", "reconcile"],
        "gap",
    );
    diary.check();
}

#[test]
fn a_publication_that_lacked_a_table_leaves_a_recorded_gap() {
    let mut diary = begin();
    lost_and_led_over(
        &mut diary,
        |server| {
            server.run(
                "alter publication bygone drop table items; alter publication bygone drop table log_lines",
            );
            unheard(server)
        },
        &["--on-gap", "reconcile"],
        "gap",
    );
    diary.check();
}

#[test]
fn a_publication_that_lacked_a_table_for_a_while_leaves_a_recorded_gap() {
    let mut diary = begin();
    lost_and_led_over(
        &mut diary,
        |server| {
            server.run("alter publication bygone drop table items, log_lines");
            let inside = unheard(server);
            server.run("alter publication bygone add table only items, only log_lines");
            inside
        },
        &["--on-gap", "reconcile"],
        "gap",
    );
    diary.check();
}

#[test]
fn a_publication_that_lacked_operations_for_a_while_leaves_a_recorded_gap() {
    let mut diary = begin();
    lost_and_led_over(
        &mut diary,
        |server| {
            let publish = "select concat_ws(', ', case when pubinsert then 'insert' end, case when pubupdate then 'update' end, \
                 case when pubdelete then 'delete' end, case when pubtruncate then 'truncate' end) from pg_publication where pubname = 'bygone'";
            let publish = server.value(publish).unwrap();
            server.run("alter publication bygone set (publish = 'truncate')");
            let inside = unheard(server);
            server.run(&format!("alter publication bygone set (publish = '{publish}')"));
            inside
        },
        &["--on-gap", "reconcile"],
        "gap",
    );
    diary.check();
}

#[test]
fn a_publication_that_is_altered_and_put_back_at_once_stops_the_stream() {
    let mut diary = Diary::begin(true, ITEMS);
    // Another owner loses nothing.
    diary.server.run("create role other superuser; alter publication bygone owner to other");
    diary.change("update items set n = n + 1 where id % 10 = 0", &[]);
    diary.settle();
    diary.server.run(
        "begin; alter publication bygone drop table items; update items set n = n + 1; \
         alter publication bygone add table only items; commit",
    );
    let status = diary.bygone.ending(Duration::from_secs(60));
    let said = diary.bygone.said();
    assert_eq!(status.code(), Some(1), "{said}");
    for word in ["items", "put back", "--on-gap"] {
        assert!(said.contains(word), "{word} is not told:\n{said}");
    }
}

#[test]
fn a_publication_that_was_dropped_leaves_a_recorded_gap() {
    let mut diary = begin();
    lost_and_led_over(
        &mut diary,
        |server| {
            server.run("drop publication bygone");
            unheard(server)
        },
        &["--on-gap", "reconcile"],
        "gap",
    );
    diary.check();
}

/// A source that was put back to an earlier backup has written other things since, in part at the very same positions.
fn restored(goes_past: bool) {
    let mut diary = begin();
    diary.server.stop(Stop::Fast);
    diary.server.back_up(&diary.scratch.join("backup"));
    diary.server.start_again();
    // What only the history will know.
    diary.change("update items set a = 'undone' where id between 20 and 23; insert into items (id, a) values (700, 'undone')", &[]);
    let undone = diary.server.value("select pg_current_wal_insert_lsn()").unwrap();
    diary.save("items");
    diary.check();
    diary.forget_last();

    let backup = diary.scratch.join("backup");
    lost_and_led_over(
        &mut diary,
        |server| {
            let inside = server.value("select pg_current_wal_insert_lsn()").unwrap();
            server.stop(Stop::Immediate);
            server.restore(&backup);
            server.start_again();
            if goes_past {
                // Its WAL soon ends behind that of the history.
                server
                    .run("create table saved.filler as select md5(n::text) from generate_series(1, 50000) n");
            }
            unheard(server);
            inside
        },
        &["--accept-fork"],
        "fork",
    );
    // What was undone was true once, and both ways stand in the history, one after the other.
    let versions = diary.history().texts("public.items", &["_entity_id", "_version", "_op", "a"]);
    let of = |id: &str| -> Vec<(String, String)> {
        let mut own: Vec<_> = versions.iter().filter(|fact| fact[0].as_deref() == Some(id)).collect();
        own.sort_by_key(|fact| fact[1].as_deref().map(|version| version.parse::<i64>().unwrap()));
        own.iter().map(|fact| (fact[2].clone().unwrap(), fact[3].clone().unwrap_or_default())).collect()
    };
    let ops: Vec<String> = of("700").into_iter().map(|(op, _)| op).collect();
    assert_eq!(ops, ["insert", "reconcile"], "{:?}", of("700"));
    assert_eq!(of("21").last().unwrap().1, "a21");
    assert_eq!(diary.history().commits.last().unwrap()["epoch"], 1);
    // A position may be meant as the source's.
    let at = |place: &str| diary.bygone.ask(&["as-of", "items", "--at", place, "--format", "csv"]).well();
    let before = at(&undone);
    assert!(before.stdout.contains("undone"), "{}", before.stdout);
    if goes_past {
        assert!(before.stderr.contains("lies before the fork at"), "{}", before.stderr);
    } else {
        let now = format!("what the source calls {undone} since then is 1/{}", &undone[2..]);
        assert!(before.stderr.contains(&now), "{}", before.stderr);
    }
    diary.change("update items set a = 'after' where id = 21", &[]);
    diary.save("items");
    diary.check();
}

#[test]
fn a_restored_source_is_a_recorded_fork() {
    restored(false);
}

/// A copy of the files is on the same timeline: all that tells is a transaction that does not come again.
#[test]
fn a_restored_source_that_has_written_past_the_end_of_the_history_is_a_recorded_fork() {
    restored(true);
}

/// The fork is found on the way to the place of a copy that was cut short before.
#[test]
fn a_restored_source_is_a_recorded_fork_also_where_a_first_copy_is_due() {
    let mut diary = begin();
    // A table that is attached, and not copied.
    diary.bygone.start("copy.begun=sleep(60000)");
    diary.server.run("create table later (id int primary key); insert into later values (1)");
    let attached = eventually(Duration::from_secs(60), || !diary.events("attach", "public.later").is_empty());
    assert!(attached, "{}", diary.bygone.said());
    diary.bygone.kill();
    let backup = diary.scratch.join("backup");
    diary.server.stop(Stop::Fast);
    diary.server.back_up(&backup);
    diary.server.start_again();
    // What only the history will know; the open transaction keeps the table from being copied.
    let mut open = diary.server.connect();
    open.batch_execute("begin; create temp table mine (id int)").unwrap();
    diary.bygone.start("");
    let goes_on = eventually(Duration::from_secs(60), || diary.bygone.said().contains("are still open"));
    assert!(goes_on, "{}", diary.bygone.said());
    diary.server.run("update items set a = 'undone' where id = 20");
    let undone = |diary: &Diary| {
        diary.history().texts("public.items", &["a"]).iter().any(|a| a[0].as_deref() == Some("undone"))
    };
    assert!(eventually(Duration::from_secs(60), || undone(&diary)), "{}", diary.bygone.said());
    diary.bygone.kill();
    drop(open);

    diary.server.stop(Stop::Immediate);
    diary.server.restore(&backup);
    diary.server.start_again();
    diary.server.run("create table saved.filler as select md5(n::text) from generate_series(1, 50000) n");
    diary.server.run(UNHEARD);
    diary.bygone.attempt(&[]).refused(&["--accept-fork"]);
    diary.bygone.attempt(&["--accept-fork"]).well();
    for table in ["items", "log_lines", "quiet", "later"] {
        diary.save(table);
    }
    diary.check();
}

/// The server takes a slot's WAL away while bygone does not answer.
#[test]
fn a_slot_that_is_invalidated_while_it_runs_is_led_over_in_the_same_run() {
    let mut diary = begin();
    diary.server.run("alter system set max_slot_wal_keep_size = '1MB'");
    diary.server.run("select pg_reload_conf()");
    diary.bygone.start_with(&["--on-gap", "reconcile"], "");
    let streams = "select 1 from pg_replication_slots where slot_name = 'bygone' and active";
    assert!(
        eventually(Duration::from_secs(30), || diary.server.value(streams).is_some()),
        "{}",
        diary.bygone.said()
    );
    diary.bygone.signal(Signal::STOP);
    let lost = "select 1 from pg_replication_slots where slot_name = 'bygone' and wal_status = 'lost'";
    diary.server.run(UNHEARD);
    // Segments, and nothing to send: a server that is held up in sending to the one that sleeps would wait for it.
    let gone = eventually(Duration::from_secs(60), || {
        for _ in 0..3 {
            diary.server.run("select pg_logical_emit_message(false, 'fill', 'x'), pg_switch_wal()");
        }
        diary.server.run("checkpoint");
        diary.server.value(lost).is_some()
    });
    assert!(gone, "the slot is not lost");
    diary.bygone.signal(Signal::CONT);
    let led_over = eventually(Duration::from_secs(60), || {
        !diary.bygone.alive() || !diary.events("reconcile", "public.items").is_empty()
    });
    assert!(led_over && diary.bygone.alive(), "{}", diary.bygone.said());
    diary.bygone.terminate(Signal::TERM, Duration::from_secs(20));
    diary.server.run("alter system reset max_slot_wal_keep_size");
    diary.server.run("select pg_reload_conf()");
    diary.save("items");
    diary.check();
}

/// The history was put back, and another machine went on with it past where this one's state is.
#[test]
fn state_of_a_line_that_was_given_up_is_not_gone_on_with() {
    let mut diary = begin();
    let (root, backup) = (diary.scratch.join("history"), diary.scratch.join("backup"));
    copy_directory(&root, &backup);
    diary.server.run("update items set a = 'given up' where id = 1");
    diary.bygone.until_current();
    std::fs::remove_dir_all(&root).unwrap();
    copy_directory(&backup, &root);
    let mut other = Bygone::new(diary.server.url(), &root).options(&["--commit-interval", "100ms"]);
    other.attempt(&["--on-gap", "reconcile"]).well();
    for step in 0..3 {
        diary
            .server
            .run(&format!("update items set a = 'of the other', n = {step} where id between 2 and 20"));
        other.until_current();
    }
    diary.server.run("update items set a = 'again' where id <= 2");
    diary.bygone.until_current();
    diary.save("items");
    diary.check();
}

#[test]
fn a_slot_that_holds_more_than_it_may_is_dropped_and_the_gap_recorded() {
    let mut diary = begin();
    // A transaction that is left open holds the slot's WAL, however far bygone is.
    let mut idle = diary.server.connect();
    idle.batch_execute("begin; create table never (n int)").unwrap();
    diary.bygone.start_with(&["--max-slot-lag", "16MB"], "");
    diary.server.run(
        "select pg_logical_emit_message(false, 'fill', repeat('x', 4000000)) from generate_series(1, 8)",
    );
    let ended = diary.bygone.ending(Duration::from_secs(60));
    assert_eq!(ended.code(), Some(1), "{}", diary.bygone.said());
    assert!(diary.bygone.said().contains("--max-slot-lag"), "{}", diary.bygone.said());
    assert_eq!(diary.server.value("select 1 from pg_replication_slots where slot_name = 'bygone'"), None);
    let history = diary.history();
    assert_eq!(history.events("gap").len(), 1);
    idle.batch_execute("rollback").unwrap();

    diary.server.run(UNHEARD);
    diary.bygone.attempt(&[]).refused(&["--on-gap reconcile"]);
    diary.bygone.attempt(&["--on-gap", "reconcile"]).well();
    diary.save("items");
    diary.check();
}

/// What is copied takes nothing from the slot, however long it takes.
#[test]
fn a_slot_that_holds_more_than_it_may_is_dropped_while_tables_are_copied() {
    let server = Postgres::start();
    server.run(&format!("{ITEMS}; create table others (id int primary key); insert into others values (1)"));
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"));
    let options = ["--max-slot-lag", "16MB", "--catalog-interval", "200ms", "--snapshot-workers", "1"];
    bygone.start_with(&options, "snapshot.table_done=sleep(20000)@1");
    let slot = "select 1 from pg_replication_slots where slot_name = 'bygone'";
    let soon = Duration::from_secs(30);
    assert!(eventually(soon, || server.value(slot).is_some()), "{}", bygone.said());
    server.run(
        "select pg_logical_emit_message(false, 'fill', repeat('x', 4000000)) from generate_series(1, 8)",
    );
    let ended = bygone.ending(soon);
    assert_eq!(ended.code(), Some(1), "{}", bygone.said());
    assert!(bygone.said().contains("--max-slot-lag"), "{}", bygone.said());
    assert_eq!(server.value(slot), None);
    let history = || History::read(Store::directory(scratch.join("history")));
    assert_eq!(history().events("gap").len(), 1);

    server.run("update items set a = 'unheard' where id = 1; insert into others values (2)");
    bygone.attempt(&[]).refused(&["--on-gap reconcile"]);
    bygone.attempt(&["--on-gap", "reconcile"]).well();
    let rows = |table: &str, columns: &str| {
        let asked =
            ["as-of", table, "--at", "now", "--format", "csv", "--columns", columns, "--where", "id <= 2"];
        bygone.ask(&asked).well().stdout
    };
    assert!(rows("items", "id,a").starts_with("id,a\n1,unheard\n"), "{}", rows("items", "id,a"));
    assert_eq!(rows("others", "id"), "id\n1\n2\n");
    bygone.ask(&["verify"]).well();
}

/// A commit is on its way to a server that does not answer, and nobody knows for how long.
#[test]
fn a_slot_that_holds_more_than_it_may_is_dropped_though_the_fact_tables_do_not_answer() {
    let server = Postgres::start();
    server.run(ITEMS);
    let mut target = Postgres::start();
    target.run("create database facts");
    let url = target.url_as("postgres", "facts");
    let scratch = Scratch::new("history");
    let options = ["--facts", &url, "--commit-interval", "100ms", "--catalog-interval", "200ms"];
    let mut bygone = Bygone::new(server.url(), scratch.join("none")).without_files().options(&options);
    bygone.until_current();
    bygone.start_with(&["--max-slot-lag", "16MB"], "");
    let soon = Duration::from_secs(60);
    assert!(eventually(soon, || bygone.said().contains("streaming")), "{}", bygone.said());
    target.stop(Stop::Immediate);
    server.run("update items set a = 'unheard' where id = 1");
    server.run(
        "select pg_logical_emit_message(false, 'fill', repeat('x', 4000000)) from generate_series(1, 8)",
    );
    let ended = bygone.ending(soon);
    assert_eq!(ended.code(), Some(1), "{}", bygone.said());
    assert!(bygone.said().contains("--max-slot-lag"), "{}", bygone.said());
    assert_eq!(server.value("select 1 from pg_replication_slots where slot_name = 'bygone'"), None);

    server.run("update items set a = 'unheard' where id = 2");
    target.start_again();
    bygone.attempt(&[]).refused(&["--on-gap reconcile"]);
    bygone.attempt(&["--on-gap", "reconcile"]).well();
    let mut facts = target.connect_to("facts");
    let rows = facts.query("select id, a from bygone.items where a = 'unheard' order by id", &[]).unwrap();
    let ids: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(ids, [1, 2]);
}
