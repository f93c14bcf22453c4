//! What others make of publications, and of the tables in them: no change that goes by unpublished is missed without a word, and no table
//! is taken for something that it is not.

use std::time::Duration;

use rustix::process::Signal;

use super::schema::ITEMS;
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::postgres::{DATABASE, Postgres};
use crate::support::process::eventually;
use crate::support::scratch::Scratch;
use crate::support::store::Store;

const SOON: Duration = Duration::from_secs(60);
const RECONCILE: [&str; 2] = ["--on-gap", "reconcile"];

/// Events of a kind that concern a table.
fn events(scratch: &Scratch, kind: &str, table: &str) -> usize {
    let history = History::read(Store::directory(scratch.join("history")));
    history.events(kind).iter().filter(|event| event["table"] == table).count()
}

fn rows(bygone: &Bygone, table: &str) -> String {
    bygone.ask(&["as-of", table, "--at", "now", "--format", "csv"]).well().stdout
}

#[test]
fn a_captured_table_that_cannot_be_published_again_is_not_taken_for_dropped() {
    let server = Postgres::start();
    server.run(&format!(
        "{ITEMS}; create role app login replication; create role owner; grant owner to app; grant create on database {DATABASE} to app;
         grant usage on schema public to app; alter table items owner to owner; grant select on items to app"
    ));
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url_as("app", DATABASE), scratch.join("history"));
    bygone.until_current();
    server.run(
        "alter publication bygone drop table items; alter table items owner to postgres;
         update items set a = 'unheard' where id = 1",
    );
    bygone.attempt(&RECONCILE).refused(&["public.items is captured", "as the owner of the table"]);
    assert_eq!(events(&scratch, "drop", "public.items"), 0, "a table that is there was taken for dropped");
    server.run("alter table items owner to owner; update items set a = 'unheard' where id = 2");
    bygone.attempt(&RECONCILE).well();
    let told = rows(&bygone, "items");
    assert!(told.contains("\n1,unheard,1,v1\n") && told.contains("\n2,unheard,2,v2\n"), "{told}");
    assert_eq!(events(&scratch, "drop", "public.items"), 0);
}

/// The watcher moves a table into the publication of inserts, and bygone is killed before a commit tells so.
#[test]
fn a_table_that_had_no_identity_for_a_while_is_compared_though_no_commit_tells() {
    let server = Postgres::start();
    server.run(ITEMS);
    let scratch = Scratch::new("history");
    let options = ["--catalog-interval", "200ms", "--commit-interval", "1h"];
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&options);
    bygone.until_current();
    bygone.start("");
    assert!(eventually(SOON, || bygone.said().contains("streaming")), "{}", bygone.said());
    server.run("alter table items drop constraint items_pkey");
    let moved =
        "select 1 where (select array_agg(pubname) from pg_publication_tables) = '{bygone_insert_only}'";
    assert!(eventually(SOON, || server.value(moved).is_some()), "{}", bygone.said());
    bygone.kill();
    assert_eq!(events(&scratch, "updates_unseen", "public.items"), 0, "a commit told of it");
    server.run(
        "update items set a = 'unheard' where id = 1; delete from items where id = 2;
         alter table items add primary key (id)",
    );
    bygone.until_current();
    let told = rows(&bygone, "items");
    assert!(told.contains("\n1,unheard,1,v1\n") && !told.contains("\n2,"), "{told}");
    assert_eq!(events(&scratch, "gap", "public.items"), 1);
    bygone.until_current();
    assert_eq!(events(&scratch, "reconcile", "public.items"), 1, "it was compared again and again");
}

#[test]
fn a_table_that_is_let_go_of_may_leave_the_publication() {
    let server = Postgres::start();
    server.run(ITEMS);
    server.run("create table dull (id int primary key); create table duller (id int primary key)");
    let scratch = Scratch::new("history");
    let run = |patterns: &[&str]| {
        Bygone::new(server.url(), scratch.join("history")).tables(patterns).until_current();
    };
    run(&["public.*"]);
    run(&["public.*", "-dull"]);
    // The one was let go of before, the other is from this start on.
    server.run("alter publication bygone drop table dull; alter publication bygone drop table duller");
    run(&["public.*", "-dull*"]);
    assert_eq!(events(&scratch, "detach", "public.dull"), 1);
    assert_eq!(events(&scratch, "detach", "public.duller"), 1);
    server.run("update items set a = 'heard' where id = 1");
    run(&["public.*", "-dull*"]);
    let bygone = Bygone::new(server.url(), scratch.join("history"));
    assert!(rows(&bygone, "items").contains("\n1,heard,1,v1\n"));
}

/// The publication is not altered when a table leaves the schema that it is of.
#[test]
fn a_table_that_leaves_a_published_schema_is_missed() {
    let server = Postgres::start();
    if server.major() < 15 {
        eprintln!("skipped: publications of schemas come with 15");
        return;
    }
    server.run(
        "create schema shop; create table shop.a (id int primary key, v text); create table shop.b (id int primary key);
         insert into shop.a values (1, 'x'); create publication own for tables in schema shop",
    );
    server.run("select pg_create_logical_replication_slot('own', 'pgoutput')");
    let scratch = Scratch::new("history");
    let options = ["--publication", "own", "--slot", "own", "--catalog-interval", "200ms"];
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).tables(&["shop.*"]).options(&options);
    bygone.until_current();
    // One that goes altogether is no such table.
    server.run("drop table shop.b");
    bygone.until_current();
    assert_eq!(events(&scratch, "drop", "shop.b"), 1);
    bygone.start("");
    assert!(eventually(SOON, || bygone.said().contains("streaming")), "{}", bygone.said());
    server.run("alter table shop.a set schema public; update a set v = 'unheard'");
    let status = bygone.ending(SOON);
    let said = bygone.said();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("public.a is no longer in publication") && said.contains("--on-gap"), "{said}");
    bygone.attempt(&[]).refused(&["public.a is no longer in publication"]);
    // Back again, it is compared where that is asked for.
    server.run("alter table a set schema shop");
    bygone.until_current();
}

/// Whatever keeps one table from being published keeps nothing else from being looked at.
#[test]
fn a_table_whose_publishing_fails_holds_up_no_other() {
    let server = Postgres::start();
    server.run(ITEMS);
    let scratch = Scratch::new("history");
    let options = ["--catalog-interval", "200ms", "--commit-interval", "100ms"];
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&options);
    bygone.until_current();
    server.run(
        "create function refuse() returns event_trigger language plpgsql as $$ begin raise 'not on a Monday'; end $$;
         create event trigger refuse on ddl_command_start when tag in ('ALTER PUBLICATION') execute function refuse();
         create table later (id int primary key); insert into later values (1);
         alter table items alter n type bigint using n * 100",
    );
    let told = bygone.until_current().stderr;
    assert!(told.contains("cannot be published") && told.contains("not on a Monday"), "{told}");
    assert!(rows(&bygone, "items").contains("\n1,a1,100,v1\n"));
    // Nor from bounding what the source keeps.
    let mut idle = server.connect();
    idle.batch_execute("begin; create table never (n int)").unwrap();
    bygone.start_with(&["--max-slot-lag", "16MB"], "");
    server.run(
        "select pg_logical_emit_message(false, 'fill', repeat('x', 4000000)) from generate_series(1, 8)",
    );
    let ended = bygone.ending(SOON);
    assert_eq!(ended.code(), Some(1), "{}", bygone.said());
    assert!(bygone.said().contains("--max-slot-lag"), "{}", bygone.said());
}

/// A partition that somebody else owns: what becomes of its rows is not seen, and readers are told.
#[test]
fn a_partition_that_cannot_be_published_is_told_of_its_root() {
    let server = Postgres::start();
    server.run(&format!(
        "create role app login replication; grant create on database {DATABASE} to app; grant all on schema public to app;
         set role app;
         create table parted (id int primary key, v text) partition by range (id);
         create table parted_1 partition of parted for values from (0) to (50); insert into parted values (1, 'a')"
    ));
    let scratch = Scratch::new("history");
    let options = ["--catalog-interval", "200ms", "--commit-interval", "100ms"];
    let mut bygone = Bygone::new(server.url_as("app", DATABASE), scratch.join("history")).options(&options);
    bygone.until_current();
    bygone.start("");
    server.run(
        "create table parted_2 (like parted including all); grant select on parted_2 to app; insert into parted_2 values (60, 'b');
         alter table parted attach partition parted_2 for values from (50) to (100)",
    );
    let told =
        eventually(SOON, || events(&scratch, "updates_unseen", "public.parted") == 1 || !bygone.alive());
    assert!(told && bygone.alive(), "{}", bygone.said());
    server.run("insert into parted values (2, 'c'); insert into parted values (61, 'd')");
    bygone.terminate(Signal::TERM, SOON);
    let asked = ["as-of", "parted", "--at", "now", "--format", "csv"];
    bygone.ask(&asked).refused(&["--inexact"]);

    // The next start looks at the catalog, too.
    bygone.start("");
    server.run("set role app; create table later (id int primary key)");
    let looks = eventually(SOON, || events(&scratch, "attach", "public.later") == 1 || !bygone.alive());
    assert!(looks && bygone.alive(), "{}", bygone.said());
    server.run("alter table parted_2 owner to app");
    let seen = eventually(SOON, || events(&scratch, "reconcile", "public.parted") > 0 || !bygone.alive());
    assert!(seen && bygone.alive(), "{}", bygone.said());
    server.run("insert into parted values (62, 'e'); delete from parted where id = 60");
    bygone.terminate(Signal::TERM, SOON);
    bygone.until_current();
    assert_eq!(rows(&bygone, "parted"), "id,v\n1,a\n2,c\n61,d\n62,e\n");
    bygone.ask(&["verify"]).well();
}
