//! What happens to a table while it is copied beside the stream: a copy settles no more than had happened at its own point.

use std::time::Duration;

use rustix::process::Signal;

use super::{Diary, ITEMS, SOON};
use crate::support::bygone::Bygone;
use crate::support::process::eventually;

/// A run in which the first copy beside the stream is there long before it is used.
fn begin() -> Diary {
    let mut diary = Diary::begin(false, ITEMS);
    diary.beat();
    diary.settle();
    diary.bygone.start("copy.ready=sleep(5000)@1");
    diary.live = true;
    diary.settle();
    diary
}

#[test]
fn a_rewrite_during_a_comparison_calls_for_another() {
    let mut diary = begin();
    diary.change("alter table items alter n type bigint using n + 1", &[("rewrite", "public.items")]);
    std::thread::sleep(Duration::from_secs(2));
    diary.change(
        "alter table items alter n type int using n + 100",
        &[("rewrite", "public.items"), ("reconcile", "public.items")],
    );
    diary.save("items");
    diary.check();
}

#[test]
fn a_rewrite_during_the_first_copy_calls_for_another() {
    let mut diary = begin();
    diary.change(
        "create table born (id int primary key, n int); insert into born values (1, 1), (2, 2)",
        &[("attach", "public.born")],
    );
    std::thread::sleep(Duration::from_secs(2));
    diary.change(
        "alter table born alter n type bigint using n * 10; alter table born add column r float8 default random()",
        &[("rewrite", "public.born"), ("snapshot", "public.born")],
    );
    diary.save("born");
    diary.check();
}

/// A copy that begins while the stream brings again what the history has: what is announced there holds for what the copy has yet to
/// take in.
#[test]
fn a_copy_that_begins_in_a_replay_knows_what_was_announced_in_it() {
    let mut diary = Diary::begin(
        false,
        "create type mood as enum ('a', 'b'); create table moods (m mood primary key, n int); insert into moods values ('a', 0);
         create table filler (id int primary key, t text); create table spans (id int primary key)",
    );
    // Nothing is committed, so that all comes again.
    diary.bygone = Bygone::new(diary.server.url(), diary.scratch.join("history")).options(&[
        "--commit-interval",
        "1h",
        "--catalog-interval",
        "200ms",
        "--memory",
        "1GiB",
    ]);
    diary.bygone.start("copy.ready=sleep(10000)@1");
    let said = |diary: &Diary, word: &str| eventually(SOON, || diary.bygone.said().contains(word));
    assert!(said(&diary, "streaming"), "{}", diary.bygone.said());
    std::thread::sleep(Duration::from_secs(1));
    diary.server.run("insert into filler select i, repeat('x', 100) from generate_series(1, 200000) i");
    diary.server.run("update moods set n = 1");
    std::thread::sleep(Duration::from_secs(8));
    // The one table calls for another form of the stream, and so for another connection; the other for a copy.
    diary.server.run(
        "begin; alter type mood rename value 'a' to 'A'; alter table spans add column v interval; commit",
    );
    assert!(said(&diary, "asking for the stream as text"), "{}", diary.bygone.said());
    assert!(said(&diary, "copying tables beside the stream"), "{}", diary.bygone.said());
    std::thread::sleep(Duration::from_secs(6));
    diary.server.run("update moods set n = 2");
    std::thread::sleep(Duration::from_secs(8));
    assert!(diary.bygone.alive(), "{}", diary.bygone.said());
    diary.bygone.terminate(Signal::TERM, Duration::from_secs(30));
    diary.save("moods");
    diary.check();
}

/// Any role may send a message as the event triggers do.
#[test]
fn messages_of_ddl_that_never_was_change_nothing() {
    let mut diary = Diary::begin(
        true,
        &format!("{ITEMS}; create role nobody_much login; create table other (id int primary key)"),
    );
    let mut forger = diary.server.connect();
    forger.batch_execute("set role nobody_much").unwrap();
    let oid = diary.server.value("select 'items'::regclass::oid::int8").unwrap();
    let column = |name: &str, attnum: i16, kind: u32| {
        format!(
            r#"{{"name":"{name}","attnum":{attnum},"type":{kind},"typmod":-1,"has_default":false,"missing":null}}"#
        )
    };
    let table = |columns: &[String]| {
        format!(r#"{{"kind":"table","oid":{oid},"filenode":1,"stamp":1,"columns":[{}]}}"#, columns.join(","))
    };
    let (id, a, n) = (column("id", 1, 23), column("a", 2, 25), column("n", 3, 23));
    let forged = [
        format!(r#"{{"kind":"drop","oid":{oid}}}"#),
        table(&[]),
        table(&[id.clone(), id.clone(), a.clone(), n.clone(), column("v", 4, 1043)]),
        table(&[id, n, column("a", 2, 23), column("other", 4, 25), column("more", 9, 25)]),
        "{}".to_owned(),
    ];
    for (step, message) in forged.iter().enumerate() {
        forger.execute("select pg_logical_emit_message(true, 'bygone.ddl', $1)", &[message]).unwrap();
        diary.change(
            &format!("update items set n = {step} where id <= 5; insert into items values (100 + {step})"),
            &[],
        );
        diary.save("items");
    }
    assert!(diary.events("drop", "public.items").is_empty());
    diary.check();
}
