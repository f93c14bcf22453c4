//! Fact tables while many write and somebody reads: versions have no holes, transactions are seen whole, and of two followers one writes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

use super::SHOP;
use super::fact_tables::{assert_current, assert_same_facts};
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::postgres::Postgres;
use crate::support::process::eventually;
use crate::support::scratch::{Scratch, copy_directory};
use crate::support::store::Store;

#[test]
fn many_clients_that_update_the_same_rows_leave_consecutive_versions() {
    const CLIENTS: i64 = 32;
    const UPDATES: i64 = 30;
    const ROWS: i64 = 4;
    let server = Postgres::start();
    server.run(&format!(
        "create table counters (id int primary key, n bigint not null); insert into counters select i, 0 from generate_series(1, {ROWS}) i"
    ));
    server.run("create database facts");
    let url = server.url_as("postgres", "facts");
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&[
        "--commit-interval",
        "100ms",
        "--facts",
        &url,
    ]);
    bygone.start("");
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let server = &server;
            scope.spawn(move || {
                let mut session = server.connect();
                for update in 0..UPDATES {
                    let row = (client + update) % ROWS + 1;
                    session
                        .batch_execute(&format!("update counters set n = n + 1 where id = {row}"))
                        .unwrap();
                }
            });
        }
    });
    bygone.terminate(Signal::TERM, Duration::from_secs(60));
    bygone.until_current();
    let mut client = server.connect_to("facts");
    let history = History::read(Store::directory(scratch.join("history")));
    let facts = assert_same_facts(&mut client, &history, "public.counters", "counters");
    // The first copy may have come in the midst of it.
    assert!(facts > 1, "{facts}");
    let sql = "select count(*), count(*) filter (where n - first <> _version - 1), max(n) from (select *, first_value(n) over (partition by _entity_id \
         order by _version) as first from bygone.counters_history) h";
    let row = client.query_one(sql, &[]).unwrap();
    assert_eq!(row.get::<_, i64>(1), 0, "an update was lost, or is out of order");
    let sum: i64 = client.query_one("select sum(n)::bigint from bygone.counters", &[]).unwrap().get(0);
    assert_eq!(sum, CLIENTS * UPDATES);
    assert_current(&server, &mut client, "counters", "counters");
}

/// Transfers between accounts: whenever one looks, no money is there that was not there before.
const ACCOUNTS: i64 = 12;

/// Moves money about, in transactions of several updates, until it is told to stop.
fn transfer(server: &Postgres, seed: u64, stop: &AtomicBool) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut session = server.connect();
    while !stop.load(Ordering::SeqCst) {
        let mut accounts: Vec<i64> = (0..3).map(|_| random.random_range(1..=ACCOUNTS)).collect();
        accounts.sort_unstable();
        accounts.dedup();
        let (last, others) = accounts.split_last().unwrap();
        let mut sum = 0;
        let mut sql = "begin;".to_owned();
        for account in others {
            let amount: i64 = random.random_range(-50..50);
            sum += amount;
            sql += &format!("update accounts set balance = balance + {amount} where id = {account};");
        }
        sql += &format!("update accounts set balance = balance - {sum} where id = {last}; commit");
        session.batch_execute(&sql).unwrap();
    }
}

/// The number of accounts and the sum of their balances, of a relation.
fn total(client: &mut postgres::Client, relation: &str) -> (i64, i64) {
    let sql = format!("select count(*), coalesce(sum(balance), 0)::bigint from {relation}");
    let row = client.query_one(&sql, &[]).unwrap_or_else(|error| panic!("{relation}: {error:?}"));
    (row.get(0), row.get(1))
}

/// Some moments of which the target knows, as arguments of `accounts_as_of`, those at which a slab ends among them.
fn moments(client: &mut postgres::Client, count: usize) -> Vec<String> {
    let sql = format!(
        "(select format('to_timestamp(%s::numeric)', extract(epoch from valid_from)) from bygone.transactions order by random() limit {count}) union all
         (select format('pg_lsn %L', lsn) from bygone.transactions order by random() limit {count}) union all
         (select format('to_timestamp(%s::numeric)', extract(epoch from m)) from bygone.slabs, unnest(array[ends, ends - interval '1 us']) m
         order by random() limit {count})"
    );
    client.query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn whoever_reads_while_facts_and_slabs_are_written_sees_transactions_whole() {
    let server = Postgres::start();
    server.run(&format!(
        "create table accounts (id int primary key, balance bigint not null); insert into accounts select i, 0 from generate_series(1, {ACCOUNTS}) i"
    ));
    server.run("create database facts");
    let url = server.url_as("postgres", "facts");
    let scratch = Scratch::new("history");
    let options = ["--commit-interval", "100ms", "--facts", &url, "--slab-rows", "60"];
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&options);
    bygone.until_current();
    bygone.start("");
    let stop = AtomicBool::new(false);
    let looks = thread::scope(|scope| {
        let (server, stop) = (&server, &stop);
        for seed in 0..4 {
            scope.spawn(move || transfer(server, seed, stop));
        }
        let reader = scope.spawn(move || {
            let mut client = server.connect_to("facts");
            let began = Instant::now();
            let mut looks = 0;
            while began.elapsed() < Duration::from_secs(8) {
                assert_eq!(total(&mut client, "bygone.accounts"), (ACCOUNTS, 0));
                for moment in moments(&mut client, 2) {
                    let relation = format!("bygone.accounts_as_of({moment})");
                    assert_eq!(total(&mut client, &relation), (ACCOUNTS, 0), "as of {moment}");
                    looks += 1;
                }
            }
            looks
        });
        let looks = reader.join();
        stop.store(true, Ordering::SeqCst);
        looks.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    bygone.terminate(Signal::TERM, Duration::from_secs(60));
    bygone.until_current();
    let mut client = server.connect_to("facts");
    let slabs: i64 = client.query_one("select count(*) from bygone.slabs", &[]).unwrap().get(0);
    let transactions: i64 = client.query_one("select count(*) from bygone.transactions", &[]).unwrap().get(0);
    assert!(
        looks > 50 && slabs > 3 && transactions > 200,
        "{looks} looks, {slabs} slabs, {transactions} transactions"
    );
    for moment in moments(&mut client, 25) {
        assert_eq!(
            total(&mut client, &format!("bygone.accounts_as_of({moment})")),
            (ACCOUNTS, 0),
            "as of {moment}"
        );
    }
    assert_current(&server, &mut client, "accounts", "accounts");
}

#[test]
fn of_two_followers_of_copies_of_one_history_one_is_fenced_and_nothing_is_doubled() {
    let server = Postgres::start();
    server.run(SHOP);
    server.run("create database facts");
    let scratch = Scratch::new("history");
    let mut capture = Bygone::new(server.url(), scratch.join("history"));
    for total in 0..7 {
        server.run(&format!("update orders set total = {total}"));
        capture.until_current();
    }
    let copy = scratch.join("copy");
    copy_directory(&scratch.join("history"), &copy);
    let url = server.url_as("postgres", "facts");
    // Each commit of the one stays open for a while.
    let mut slow = Bygone::new(server.url(), scratch.join("history"))
        .env("BYGONE_FAILPOINTS", "facts.before_commit=sleep(1200)");
    slow.start_bare(&[
        "backfill-facts",
        "--history",
        scratch.join("history").to_str().unwrap(),
        "--facts",
        &url,
    ]);
    let writing =
        "select count(*) from pg_stat_activity where datname = 'facts' and state = 'idle in transaction'";
    assert!(
        eventually(Duration::from_secs(30), || server.value(writing).as_deref() == Some("1")),
        "{}",
        slow.said()
    );
    let other = Bygone::new(server.url(), &copy);
    let refused =
        other.ask(&["backfill-facts", "--facts", &url]).refused(&["somebody else writes these fact tables"]);
    assert!(refused.stderr.contains("is there already"), "{}", refused.stderr);
    assert!(slow.ending(Duration::from_secs(60)).success(), "{}", slow.said());
    let history = History::read(Store::directory(&copy));
    let mut client = server.connect_to("facts");
    assert_same_facts(&mut client, &history, "public.orders", "orders");
    let row = client
        .query_one("select count(*), count(distinct seq), max(seq) + 1 from bygone.commits", &[])
        .unwrap();
    let commits = i64::try_from(history.commits.len()).unwrap();
    assert_eq!([0, 1].map(|at| row.get::<_, i64>(at)), [commits; 2]);
    // The copy goes on where the other has ended.
    other.ask(&["backfill-facts", "--facts", &url]).well();
}
