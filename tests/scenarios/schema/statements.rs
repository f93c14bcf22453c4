//! Statements that a history has to follow like any other, each in a table of which moments before and after are saved.

use std::io::Write;
use std::time::Duration;

use rustix::process::Signal;

use super::{Diary, ITEMS};
use crate::support::bygone::Bygone;
use crate::support::majors::{on, on_each_major};
use crate::support::postgres::Postgres;
use crate::support::scratch::Scratch;

fn keys_that_change_places_and_rows_in_bulk(server: Postgres) {
    let mut diary = Diary::begin_on(server, true, ITEMS);
    diary.save("items");
    diary.change(
        "begin; update items set id = -1 where id = 1; update items set id = 1 where id = 2; update items set id = 2 where id = -1; commit",
        &[],
    );
    diary.save("items");
    if diary.server.major() >= 15 {
        diary.change(
            "merge into items using (values (1), (3), (99)) given (id) on items.id = given.id
             when matched and given.id = 3 then delete when matched then update set a = 'merged' when not matched then insert (id) values (given.id)",
            &[],
        );
        diary.save("items");
    }
    let mut client = diary.server.connect();
    let mut rows = client.copy_in("copy items (id, a) from stdin").unwrap();
    for id in 1000..3000 {
        writeln!(rows, "{id}\tcopied {id}").unwrap();
    }
    rows.finish().unwrap();
    diary.save("items");
    diary.check();
    let facts = diary.history().texts("public.items", &["_entity_id", "_op", "_version"]);
    let swapped = facts.iter().filter(|fact| fact[1].as_deref() == Some("rekey")).count();
    assert_eq!(swapped, 6, "each of the three updates ends one entity and goes on as another");
    let copied = facts.iter().filter(|fact| fact[1].as_deref() == Some("insert"));
    assert!(copied.count() >= 2000);
}

fn truncates_of_every_kind(server: Postgres) {
    let mut diary = Diary::begin_on(
        server,
        true,
        &format!(
            "{ITEMS}; create table notes (id int primary key references items on delete cascade, note text);
             insert into notes select id, 'n' from items where id < 5;
             create table counted (id int generated always as identity primary key, n serial, v text);
             insert into counted (v) values ('a'), ('b');
             create table part (id int primary key, v text) partition by range (id);
             create table part_1 partition of part for values from (0) to (10);
             create table part_2 partition of part for values from (10) to (20);
             insert into part select i, 'p' from generate_series(1, 19) i"
        ),
    );
    let save = |diary: &mut Diary| {
        ["items", "notes", "counted", "part"].iter().for_each(|table| diary.save(table));
    };
    save(&mut diary);
    for sql in [
        "insert into counted (v) values ('c'); delete from items where id = 1",
        "begin; insert into items (id) values (70); truncate items, counted restart identity cascade; insert into items (id) values (71); commit",
        "insert into counted (v) values ('d'), ('e'); insert into notes values (71, 'again')",
        "begin; truncate part; insert into part values (3, 'new'), (13, 'new'); commit",
        "truncate only part_2, notes",
    ] {
        diary.change(sql, &[]);
        save(&mut diary);
    }
    diary.check();
    let ends = diary.history().texts("public.notes", &["_op"]);
    assert_eq!(ends.iter().filter(|fact| fact[0].as_deref() == Some("truncate")).count(), 4, "{ends:?}");
}

fn what_alters_a_table_and_none_of_its_rows(server: Postgres) {
    let mut diary = Diary::begin_on(
        server,
        true,
        &format!(
            "create schema elsewhere; {ITEMS};
             create table parent (id int primary key, v text); create table child (primary key (id), extra int) inherits (parent);
             insert into parent values (1, 'p'); insert into child values (2, 'c', 5), (3, 'd', 6);
             create unlogged table swift (id int primary key, v text); insert into swift values (1, 'a'), (2, 'b')"
        ),
    );
    diary.save("items");
    diary.save("child");
    let schemas = diary.events("schema", "public.items").len();
    diary.change("alter table items alter a set not null; update items set n = 0 where id = 1", &[]);
    diary.save("items");
    diary.change("alter table items alter a drop not null; update items set a = null where id = 2", &[]);
    diary.save("items");
    assert_eq!(diary.events("schema", "public.items").len(), schemas, "no row reads otherwise");
    diary.change(
        "alter table parent add column x int default 7",
        &[("schema", "public.parent"), ("schema", "public.child")],
    );
    diary.save("child");
    diary.change("update child set x = null where id = 2; update only parent set x = 8", &[]);
    diary.save("child");
    diary.change("alter table swift set logged", &[("snapshot", "public.swift")]);
    diary.save("swift");
    diary.change("update swift set v = 'B' where id = 2", &[]);
    diary.save("swift");
    // The files go on where they are, and commands find the table under the name that it has.
    diary.change("alter table items set schema elsewhere", &[("schema", "public.items")]);
    diary.change(
        "update elsewhere.items set n = 1000 where id = 3; delete from elsewhere.items where id = 4",
        &[],
    );
    diary.save("elsewhere.items");
    diary.check();
}

/// A key that the table's replica identity leaves out: its updates cannot be published.
fn a_table_with_a_key_and_no_identity_is_known_once_it_has_one(server: Postgres) {
    let mut diary = Diary::begin_on(
        server,
        true,
        "create table hidden (id int primary key, v int); alter table hidden replica identity nothing;
         insert into hidden values (1, 1), (2, 2), (3, 3)",
    );
    diary.server.run("update hidden set v = 10 where id = 1; delete from hidden where id = 3; insert into hidden values (4, 4)");
    diary.settle();
    assert_eq!(diary.events("updates_unseen", "public.hidden").len(), 1);
    assert!(
        diary.bygone.said().contains("alter table \"public\".\"hidden\" replica identity full"),
        "{}",
        diary.bygone.said()
    );
    diary.bygone.ask(&["as-of", "hidden", "--at", "now"]).refused(&["hidden", "--inexact"]);
    diary.change("alter table hidden replica identity default", &[("reconcile", "public.hidden")]);
    diary.save("hidden");
    diary.change("update hidden set v = 20 where id = 2; delete from hidden where id = 4", &[]);
    diary.save("hidden");
    diary.check();
}

/// The event of a table that was made again says which table it comes after.
#[test]
fn a_table_that_was_made_again_names_the_one_before() {
    let mut diary = Diary::begin(true, ITEMS);
    let oid = |diary: &Diary| diary.server.value("select 'items'::regclass::oid").unwrap();
    let before = oid(&diary);
    diary.change(
        "drop table items; create table items (id int primary key, other text); insert into items values (1, 'x')",
        &[("drop", "public.items"), ("snapshot", "public.items")],
    );
    let attached = diary.events("attach", "public.items").pop().unwrap();
    let dropped = diary.events("drop", "public.items").pop().unwrap();
    assert_eq!(attached["replaces_oid"].to_string(), before);
    assert_eq!(attached["oid"].to_string(), oid(&diary));
    assert_eq!(dropped["oid"].to_string(), before);
    diary.bygone.terminate(Signal::TERM, Duration::from_secs(20));
}

/// A publication of the operator that sends rows of partitions as those of their root: which rows go with a partition is not told.
fn a_publication_of_roots_is_refused_and_one_of_partitions_is_taken(server: Postgres) {
    server.run(
        "create table part (id int primary key, v text) partition by range (id);
         create table part_1 partition of part for values from (0) to (10);
         create table part_2 partition of part for values from (10) to (20);
         insert into part values (1, 'a'), (11, 'b');
         create publication own for table part with (publish_via_partition_root = true)",
    );
    server.run("select pg_create_logical_replication_slot('own', 'pgoutput')");
    let scratch = Scratch::new("history");
    let options = ["--publication", "own", "--slot", "own"];
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).tables(&["part"]).options(&options);
    bygone.attempt(&["--accept-partial"]).refused(&[
        "public.part_1",
        "alter publication",
        "publish_via_partition_root = false",
    ]);
    server.run("alter publication own set (publish_via_partition_root = false)");
    bygone.until_current();
    server.run(
        "insert into part values (2, 'c'), (12, 'd'); update part set v = 'B' where id = 11; truncate part_1",
    );
    bygone.until_current();
    let rows = bygone.ask(&["as-of", "part", "--at", "now", "--format", "csv"]).well().stdout;
    let mut rows: Vec<&str> = rows.lines().skip(1).collect();
    rows.sort_unstable();
    assert_eq!(rows, ["11,B", "12,d"]);
    bygone.ask(&["verify"]).well();
}

/// What is generated is published from 18 on; that it is generated otherwise no message tells.
#[test]
fn generated_columns_that_come_change_and_go_are_followed() {
    on(18, &[], |server| {
        let mut diary = Diary::begin_on(server, true, ITEMS);
        diary.save("items");
        let compared = [("rewrite", "public.items"), ("reconcile", "public.items")];
        diary.change("alter table items add column g int generated always as (n * 2) stored", &compared);
        diary.save("items");
        diary.change("update items set n = 100 where id = 1; insert into items (id, n) values (70, 7)", &[]);
        diary.save("items");
        diary.change(
            "alter table items alter column g set expression as (n * 3)",
            &[("reconcile", "public.items")],
        );
        diary.save("items");
        diary.change(
            "alter table items alter column g drop expression; update items set g = -1 where id = 2",
            &[],
        );
        diary.save("items");
        diary.check();
    });
}

on_each_major!(
    &[],
    [14 as v14, 15 as v15, 18 as v18],
    [
        keys_that_change_places_and_rows_in_bulk,
        truncates_of_every_kind,
        what_alters_a_table_and_none_of_its_rows,
        a_table_with_a_key_and_no_identity_is_known_once_it_has_one,
        a_publication_of_roots_is_refused_and_one_of_partitions_is_taken
    ]
);
