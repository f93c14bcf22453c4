//! Fact tables and what is strange about their database, or the source's names: nothing of it stops them, and none is run or obeyed.

use std::time::Duration;

use rustix::process::Signal;

use super::SHOP;
use crate::support::bygone::Bygone;
use crate::support::postgres::Postgres;
use crate::support::process::eventually;
use crate::support::scratch::Scratch;

const SOON: Duration = Duration::from_secs(60);

/// A source, an empty database for its facts on the same server, and a capture with a history of files.
fn begin(sql: &str, made: &str) -> (Postgres, Scratch, Bygone, postgres::Client) {
    let server = Postgres::start();
    server.run(sql);
    server.run(&format!("create database facts {made}"));
    let url = server.url_as("postgres", "facts");
    let scratch = Scratch::new("history");
    let options = ["--facts", &url, "--commit-interval", "100ms", "--catalog-interval", "200ms"];
    let bygone = Bygone::new(server.url(), scratch.join("history")).options(&options);
    let client = server.connect_to("facts");
    (server, scratch, bygone, client)
}

fn refused(client: &mut postgres::Client, sql: &str) -> String {
    let error = client.query(sql, &[]).unwrap_err();
    error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}")).message().to_owned()
}

#[test]
fn until_a_table_is_copied_nothing_is_known_of_it() {
    let server = Postgres::start();
    server.run(SHOP);
    let url = server.url();
    let scratch = Scratch::new("facts");
    let options = ["--facts", &url];
    let mut bygone = Bygone::new(&url, scratch.join("none")).without_files().options(&options);
    bygone.start("snapshot.before_lock=sleep(60000)@1");
    let made = "select 1 from pg_proc where proname = 'orders_as_of'";
    assert!(eventually(SOON, || server.value(made).is_some()), "{}", bygone.said());
    let mut client = server.connect();
    for question in ["now()", "pg_lsn 'F/0'", "(select max(committed_at) from bygone.transactions)"] {
        let told = refused(&mut client, &format!("select * from bygone.orders_as_of({question})"));
        assert!(
            told.contains("its first copy is not in the history") || told.contains("null"),
            "{question}: {told}"
        );
    }
    bygone.kill();
    bygone.until_current();
    let shown = client.query("select * from bygone.orders_as_of(now())", &[]).unwrap();
    assert_eq!(shown.len(), 3);
    let told = refused(
        &mut client,
        "select * from bygone.orders_as_of((select max(at) from bygone.commits where seq < 0))",
    );
    assert!(told.contains("as of which moment?"), "{told}");
}

#[test]
fn tables_may_be_called_like_something_of_bygones_own_or_like_a_quote() {
    let (server, _scratch, mut bygone, mut client) = begin(
        r#"create table events_table (id int primary key); insert into events_table values (1);
           create table transactions_actor (id int primary key); insert into transactions_actor values (1);
           create table orders_view (id int primary key); insert into orders_view values (1);
           create table "a$bygone$b" (id int primary key, "x$as$y" text); insert into "a$bygone$b" values (1, 'x')"#,
        "",
    );
    bygone.until_current();
    // Something of somebody else's stands where a table would be.
    client.batch_execute("create view bygone.later as select 1 as one").unwrap();
    server.run(
        r#"create table later (id int primary key); insert into later values (1);
           alter table "a$bygone$b" add column v text default 'a $bygone$ b $bygone1$ c'; insert into "a$bygone$b" values (2, 'y')"#,
    );
    bygone.until_current();
    bygone.until_current();
    for (relation, rows) in [
        ("events_table__2", 1),
        ("transactions_actor__2", 1),
        ("orders_view", 1),
        ("later__2", 1),
        ("\"a$bygone$b\" where v like '%$bygone1$%'", 2),
        ("\"a$bygone$b_as_of\"(now())", 2),
    ] {
        let found = client.query(&format!("select * from bygone.{relation}"), &[]).unwrap();
        assert_eq!(found.len(), rows, "{relation}");
    }
}

/// A label that older rows were filled with is called otherwise by now.
#[test]
fn a_default_that_its_type_no_longer_takes_stops_nothing() {
    let server = Postgres::start();
    server.run(&format!("{SHOP}; create type mood as enum ('sad', 'glad')"));
    let url = server.url();
    let scratch = Scratch::new("history");
    let options = ["--facts", &url, "--commit-interval", "100ms", "--catalog-interval", "200ms"];
    let mut bygone = Bygone::new(&url, scratch.join("history")).options(&options);
    bygone.until_current();
    server.run("alter table orders add column m mood default 'sad'");
    bygone.until_current();
    server.run("alter type mood rename value 'sad' to 'blue'");
    bygone.until_current();
    server.run("alter table orders add column n int; insert into orders (id, m) values (4, 'glad')");
    bygone.until_current();
    let moods = server.column("select coalesce(m::text, '-') from bygone.orders order by id");
    assert_eq!(moods.len(), 4, "{moods:?}");
    assert_eq!(moods[3], "glad");
}

#[test]
fn a_database_that_cannot_hold_every_character_is_refused() {
    let (_server, scratch, mut bygone, _client) =
        begin(SHOP, "encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0");
    let said = bygone.attempt(&[]).stderr;
    assert!(said.contains("LATIN1") && said.contains("create database"), "{said}");
    assert!(scratch.join("history").exists());
}

/// Whoever reads for long keeps a table from being altered, and nobody else from reading it, nor bygone from ending.
#[test]
fn a_long_reader_holds_up_neither_other_readers_nor_the_end() {
    let (server, _scratch, mut bygone, mut reader) = begin(SHOP, "");
    bygone.until_current();
    reader.batch_execute("begin; select * from bygone.orders").unwrap();
    bygone.start("");
    server.run("alter table orders add column note text; insert into orders (id, note) values (4, 'new')");
    let told = eventually(SOON, || bygone.said().contains("lock timeout") || !bygone.alive());
    assert!(told && bygone.alive(), "{}", bygone.said());
    let mut other = server.connect_to("facts");
    other.batch_execute("set statement_timeout = '15s'; select * from bygone.orders").unwrap();
    bygone.terminate(Signal::TERM, SOON);
    reader.batch_execute("commit").unwrap();
    bygone.until_current();
    assert_eq!(reader.query("select note from bygone.orders where note = 'new'", &[]).unwrap().len(), 1);
}

/// Whoever may make functions in `public` has none of them run by bygone, or by those who ask.
#[test]
fn functions_of_others_are_not_taken_for_the_servers_own() {
    let (server, _scratch, mut bygone, mut client) = begin(SHOP, "");
    client
        .batch_execute(
            "create table public.ran (what text);
             create function public.format(text, name) returns text language plpgsql as $$ begin insert into public.ran values ('format'); return 'x'; end $$;
             create function public.format(text, text, text) returns text language plpgsql as $$ begin insert into public.ran values ('format'); return 'x'; end $$;
             create function public.both(text[], text[]) returns boolean language plpgsql as $$ begin insert into public.ran values ('both'); return true; end $$;
             create operator public.&& (leftarg = text[], rightarg = text[], function = public.both)",
        )
        .unwrap();
    bygone.until_current();
    server.run("update orders set total = 1 where id = 1");
    bygone.until_current();
    let blamed = client.query("select * from bygone.orders_blame('1') where version = 2", &[]).unwrap();
    assert_eq!(blamed.len(), 1);
    client.query("select * from bygone.orders_as_of(now())", &[]).unwrap();
    let told = refused(&mut client, "select * from bygone.orders_as_of('2020-01-01')");
    assert!(told.contains("its history begins at"), "{told}");
    let ran: Vec<String> =
        client.query("select what from public.ran", &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert!(ran.is_empty(), "{ran:?}");
}
