//! Fact tables, and what their server can hold at most: locks in one transaction, columns in a table, bytes in a row or a key.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::fact_tables::assert_same_facts;
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::postgres::Postgres;
use crate::support::scratch::Scratch;
use crate::support::store::Store;

/// So many tables, each with a row.
fn many(count: usize) -> String {
    format!(
        "do $$ begin for n in 1..{count} loop execute format('create table t%s (id int primary key, x text)', n);
         execute format('insert into t%s values (1, ''a'')', n); end loop; end $$"
    )
}

/// The most locks that there were at once while something was done.
fn most_locks(server: &Postgres, work: impl FnOnce()) -> i64 {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut client = server.connect();
            let mut most = 0;
            while !ended.load(Ordering::SeqCst) {
                // Where the lock table is full this fails.
                let row = client.query_one("select count(*) from pg_locks", &[]).unwrap();
                most = most.max(row.get::<_, i64>(0));
                std::thread::sleep(Duration::from_millis(10));
            }
            most
        });
        // Also where it fails: the scope waits for the sampler.
        let done = catch_unwind(AssertUnwindSafe(work));
        ended.store(true, Ordering::SeqCst);
        let most = sampler.join().unwrap();
        done.unwrap_or_else(|panic| resume_unwind(panic));
        most
    })
}

/// Symptom: a first commit of a thousand tables took thirty locks for each in one transaction, which the server has not; it was tried
/// again for ever, and meanwhile every other session was refused locks.
#[test]
fn a_commit_with_many_tables_leaves_locks_to_others_and_is_whole_whatever_is_killed() {
    const TABLES: usize = 180;
    const LOCKS: i64 = 1000;
    let server = Postgres::with(&[("max_connections", "30")]);
    server.run(&many(TABLES));
    server.run("create database facts");
    let url = server.url_as("postgres", "facts");
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&[
        "--facts",
        &url,
        "--facts-partition",
        "none",
        "--catalog-interval",
        "200ms",
    ]);
    let mut client = server.connect_to("facts");
    let views = |client: &mut postgres::Client| {
        let sql =
            "select count(*) from pg_class where relkind = 'v' and relnamespace = to_regnamespace('bygone')";
        usize::try_from(client.query_one(sql, &[]).unwrap().get::<_, i64>(0)).unwrap()
    };
    let most = most_locks(&server, || {
        for failpoint in
            ["facts.tables_made=abort@3", "facts.tables_made=abort@9", "facts.before_commit=abort"]
        {
            bygone.start(failpoint);
            bygone.abort(Duration::from_secs(60));
        }
        assert!(views(&mut client) > 100);
        bygone.until_current();
    });
    assert!(most < LOCKS, "{most} locks at once");
    // Changes of many tables at once, and of some of them twice.
    server.run(&format!(
        "do $$ begin for n in 1..{TABLES} loop execute format('alter table t%s add y int default 7', n); end loop;
         for n in 1..30 loop execute format('alter table t%s alter x type varchar(9)', n); end loop;
         for n in 1..{TABLES} loop execute format('update t%s set y = 8', n); end loop; end $$"
    ));
    let most = most_locks(&server, || {
        bygone.start("facts.tables_made=abort@3");
        bygone.abort(Duration::from_secs(60));
        bygone.until_current();
    });
    assert!(most < LOCKS, "{most} locks at once");
    let history = History::read(Store::directory(scratch.join("history")));
    for n in [1, 30, 31, TABLES] {
        assert_same_facts(&mut client, &history, &format!("public.t{n}"), &format!("t{n}"));
        let row = client.query_one(&format!("select x::text, y from bygone.t{n}"), &[]).unwrap();
        assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1)), ("a", 8), "t{n}");
    }
    assert_eq!(views(&mut client), 2 * TABLES);
    // By month, too, where each table needs a partition.
    let by_month =
        ["backfill-facts", "--facts", &url, "--facts-schema", "months", "--facts-partition", "month"];
    let most = most_locks(&server, || {
        bygone.ask(&by_month).well();
    });
    assert!(most < LOCKS, "{most} locks at once");
    let sql = format!("select count(*) from months.t{TABLES}_history where _version = 2");
    assert_eq!(client.query_one(&sql, &[]).unwrap().get::<_, i64>(0), 1);
}

/// The message with which the target refuses a question; none where it answers.
fn refusal(client: &mut postgres::Client, sql: &str) -> Option<String> {
    let error = client.query(sql, &[]).err()?;
    Some(error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}")).message().to_owned())
}

/// Symptom: one table of which the target could not hold a row, a key or the columns stopped the facts of all tables, for ever.
fn a_table_that_the_target_cannot_hold_is_left_out_and_holds_up_no_other(with_files: bool) {
    let server = Postgres::start();
    let columns =
        |count: usize, of: &str| (1..=count).map(|n| format!("c{n} {of}")).collect::<Vec<_>>().join(", ");
    server.run("create table well (id int primary key, t text); insert into well values (1, 'a')");
    server.run(&format!(
        "create table wide ({}, primary key (c1)); insert into wide (c1) values (1)",
        columns(1600, "int")
    ));
    server.run(&format!(
        "create table broad (id int primary key, {}); insert into broad (id) values (1), (2)",
        columns(999, "float8")
    ));
    server
        .run("create table \"Long's\" (url text primary key, n int); insert into \"Long's\" values ('a', 1)");
    server.run("create database facts");
    let url = server.url_as("postgres", "facts");
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&["--facts", &url]);
    if !with_files {
        bygone = bygone.without_files();
    }
    // Columns, which are too many at once.
    let told = bygone.until_current();
    assert!(
        told.stderr.contains("public.wide") && told.stderr.contains("at most 1600 columns"),
        "{}",
        told.stderr
    );
    let mut client = server.connect_to("facts");
    let count = |client: &mut postgres::Client, of: &str| {
        client.query_one(&format!("select count(*) from bygone.{of}"), &[]).unwrap().get::<_, i64>(0)
    };
    assert_eq!(
        [count(&mut client, "well"), count(&mut client, "broad"), count(&mut client, "\"Long's\"")],
        [1, 2, 1]
    );
    client.batch_execute("create view mine as select id from bygone.broad").unwrap();
    // A row and a key, which come later, and a kill as they are found out.
    let key: String = (0..335).map(|n| format!("{:08x}", n * 2_654_435_761_u64 % 4_294_967_291)).collect();
    let key = key + "abcde";
    let all: Vec<String> = (1..=999).map(|n| format!("c{n} = {n}.5")).collect();
    server.run(&format!(
        "begin; insert into well values (2, 'b'); update broad set {} where id = 1; insert into \"Long's\" values ('{key}', 2); commit",
        all.join(", ")
    ));
    bygone.start("facts.tables_made=abort");
    bygone.abort(Duration::from_secs(60));
    bygone.until_current();
    // It goes on, also where the state has to be made anew of what is there.
    server.run("update broad set c1 = 7; delete from broad where id = 2; update wide set c2 = 2; update \"Long's\" set n = 3");
    server.run("alter table broad drop c9, add more int; alter table \"Long's\" alter n type bigint; insert into well values (3, 'c')");
    if !with_files {
        bygone.forget();
    }
    bygone.until_current();
    server.run(
        "update broad set more = 1; update \"Long's\" set n = 5000000000; insert into well values (4, 'd')",
    );
    bygone.until_current();
    assert_eq!(count(&mut client, "well"), 4);
    let sql =
        "select table_name from bygone.events where kind = 'left_out' order by table_name collate \"C\"";
    let left_out: Vec<String> = client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(left_out, ["public.Long's", "public.broad", "public.wide"]);
    // Nothing that would be half of the truth is said.
    assert!(refusal(&mut client, "select * from bygone.wide").is_some());
    for (base, reason) in [("broad", "row is too big"), ("\"Long's\"", "index row size")] {
        let object = |suffix: &str| match base.strip_suffix('"') {
            Some(base) => format!("bygone.{base}{suffix}\""),
            None => format!("bygone.{base}{suffix}"),
        };
        for question in [
            object(""),
            object("_timeline"),
            object("_as_of") + "(now())",
            object("_as_of") + "('2030-01-01')",
            object("_as_of") + "(pg_lsn 'F/0')",
            object("_blame") + "('1')",
            object("_diff") + "('2020-01-01', now())",
        ] {
            let told = refusal(&mut client, &format!("select * from {question} limit 1")).unwrap_or_default();
            assert!(told.contains("are left out from commit") && told.contains(reason), "{question}: {told}");
        }
        assert!(count(&mut client, object("_history").trim_start_matches("bygone.")) > 0);
    }
    assert!(refusal(&mut client, "select * from mine").is_some());
    for arguments in [
        &["as-of", "broad", "--at", "now"][..],
        &["history", "broad", "1"],
        &["diff", "broad", "--from", "2020-01-01", "--to", "now"],
        &["sql", "select * from broad_history"],
    ] {
        let told = bygone.ask_of(&url, arguments);
        assert!(told.code() != Some(0), "{arguments:?}: {}", told.stdout);
    }
    assert!(bygone.ask_of(&url, &["history", "broad", "1"]).refused(&[]).stderr.contains("left out"));
    bygone.ask_of(&url, &["as-of", "well", "--at", "now"]).well();
    let back = scratch.join("back");
    let told = bygone.command(&["backfill-history", "--facts", &url, "--history", back.to_str().unwrap()]);
    assert!(told.refused(&["left out"]).stderr.contains("public."));
    if with_files {
        let history = History::read(Store::directory(scratch.join("history")));
        assert_eq!(assert_same_facts(&mut client, &history, "public.well", "well"), 4);
        assert!(bygone.ask(&["as-of", "broad", "--at", "now"]).well().stdout.contains("7"));
    }
}

#[test]
fn a_table_that_the_target_cannot_hold_holds_up_no_other_beside_files() {
    a_table_that_the_target_cannot_hold_is_left_out_and_holds_up_no_other(true);
}

#[test]
fn a_table_that_the_target_cannot_hold_holds_up_no_other_of_rows_alone() {
    a_table_that_the_target_cannot_hold_is_left_out_and_holds_up_no_other(false);
}
