//! Fact tables, and what their server can hold at most: locks in one transaction, columns in a table, bytes in a row or a key.

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
                std::thread::sleep(Duration::from_millis(2));
            }
            most
        });
        work();
        ended.store(true, Ordering::SeqCst);
        sampler.join().unwrap()
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
