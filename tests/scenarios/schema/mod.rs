//! What an application does to its tables, while bygone runs and while it is stopped.
//!
//! The form of most tests: change, write, change; then the table as of each saved moment is the copy that was saved then.
//! A change that the WAL does not carry is known from the position of the `reconcile` event on; before it is saved, that
//! event is waited for.

mod in_place;
mod kills;
mod overtaken;
mod rows;
mod statements;

use std::io::Write;
use std::time::Duration;

use serde_json::Value;

use crate::support::bygone::Bygone;
use crate::support::comparison::{assert_flawless, judge};
use crate::support::history::{History, lsn};
use crate::support::oracle::Oracle;
use crate::support::postgres::Postgres;
use crate::support::process::eventually;
use crate::support::scratch::Scratch;
use crate::support::store::Store;
use crate::support::workload::{Habits, TABLES, Workload};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(60);

/// A source whose tables change, its history, and what was saved of them.
pub(super) struct Diary {
    pub(super) server: Postgres,
    pub(super) bygone: Bygone,
    pub(super) scratch: Scratch,
    live: bool,
    saved: Vec<Saved>,
}

struct Saved {
    table: String,
    copy: String,
    lsn: String,
}

impl Diary {
    pub(super) fn begin(live: bool, sql: &str) -> Self {
        Self::begin_on(Postgres::start(), live, sql)
    }

    /// The same on a server that is there already.
    pub(super) fn begin_on(server: Postgres, live: bool, sql: &str) -> Self {
        server.run(&format!("create schema saved; {sql}"));
        let scratch = Scratch::new("history");
        let options = ["--commit-interval", "100ms", "--catalog-interval", "200ms"];
        let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&options);
        if live {
            bygone.start("");
        } else {
            bygone.until_current();
        }
        let mut diary = Self { server, bygone, scratch, live, saved: Vec::new() };
        diary.settle();
        diary
    }

    pub(super) fn history(&self) -> History {
        History::read(Store::directory(self.scratch.join("history")))
    }

    /// Events of a kind that concern a table.
    pub(super) fn events(&self, kind: &str, table: &str) -> Vec<Value> {
        let history = self.history();
        history.events(kind).into_iter().filter(|event| event["table"] == table).cloned().collect()
    }

    /// Until all that is in the source by now is in the history.
    #[track_caller]
    pub(super) fn settle(&mut self) {
        if !self.live {
            self.bygone.until_current();
            return;
        }
        let now =
            self.server.value("select pg_current_wal_insert_lsn() - '0/0'").unwrap().parse::<u64>().unwrap();
        self.beat();
        let there = |diary: &Self| {
            let history = diary.history();
            history.resume().is_some_and(|resume| resume >= now) && history.tables().contains("public.beat")
        };
        let came = eventually(SOON, || there(self) || !self.bygone.alive());
        assert!(came && self.bygone.alive(), "the history does not come to {now:x}:\n{}", self.bygone.said());
    }

    /// Runs SQL, and waits for events that it has to bring about.
    #[track_caller]
    pub(super) fn change(&mut self, sql: &str, expected: &[(&str, &str)]) {
        let before: Vec<usize> =
            expected.iter().map(|(kind, table)| self.events(kind, table).len()).collect();
        self.server.run(sql);
        if !self.live {
            self.bygone.until_current();
        }
        for ((kind, table), before) in expected.iter().zip(before) {
            let came = eventually(SOON, || {
                self.events(kind, table).len() > before || (self.live && !self.bygone.alive())
            });
            assert!(
                came && self.events(kind, table).len() > before,
                "no {kind} of {table} after {sql}:\n{}",
                self.bygone.said()
            );
        }
    }

    /// Saves the table as it is.
    pub(super) fn save(&mut self, table: &str) {
        let copy = format!("m{}", self.saved.len());
        self.server.run(&format!("create table saved.{copy} as table {table}"));
        let lsn = self.server.value("select pg_current_wal_insert_lsn()").unwrap();
        let lsn = self.of_history(&lsn);
        self.saved.push(Saved { table: table.to_owned(), copy, lsn });
        // What happens next is known to have happened after this.
        self.beat();
        self.settle();
        if self.live {
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// The history's position for one of the source, which has begun anew after a fork.
    fn of_history(&self, lsn: &str) -> String {
        let offset = self.history().commits.last().map_or(Value::Null, |commit| commit["lsn_offset"].clone());
        let offset = offset.as_str().unwrap_or("0/0");
        self.server
            .value(&format!(
                "select '0/0'::pg_lsn + ('{lsn}'::pg_lsn - '0/0') + ('{offset}'::pg_lsn - '0/0')"
            ))
            .unwrap()
    }

    /// Something that a commit has to be made for, in a table of its own.
    fn beat(&self) {
        self.server.run(
            "create table if not exists beat (n int primary key);
             insert into beat select coalesce(max(n), 0) + 1 from beat",
        );
    }

    /// The moment that was saved last is none any more: the source was put back to before it.
    pub(super) fn forget_last(&mut self) {
        self.saved.pop();
    }

    /// Every saved moment reads as it was.
    #[track_caller]
    pub(super) fn check(&mut self) {
        self.settle();
        if self.live {
            self.bygone.terminate(Signal::TERM, Duration::from_secs(20));
        }
        self.bygone.until_current();
        self.bygone.ask(&["verify"]).well();
        let mut history = self.history();
        history.verify(true);
        assert_flawless(&history.violations);
        assert!(!self.saved.is_empty());
        for saved in &self.saved {
            let arguments = ["as-of", saved.table.as_str(), "--at", saved.lsn.as_str(), "--format", "csv"];
            self.same(&self.bygone.ask(&arguments).well().stdout, &saved.copy);
        }
        // And so it does from a state that was made anew.
        self.bygone.forget();
        self.bygone.until_current();
        let again = self.history();
        assert_eq!(
            again.fact_count(),
            history.fact_count(),
            "a new state finds differences where there are none"
        );
    }

    #[track_caller]
    fn same(&self, csv: &str, copy: &str) {
        let mut client = self.server.connect();
        client
            .batch_execute(&format!("drop table if exists told; create temp table told (like saved.{copy})"))
            .unwrap();
        let mut into = client.copy_in("copy told from stdin (format csv, header)").unwrap();
        into.write_all(csv.as_bytes()).unwrap();
        into.finish().unwrap_or_else(|error| panic!("{copy}: {error:?}\n{csv}"));
        let sql = format!(
            "select string_agg(line, chr(10)) from (
                (select 'missing ' || t::text as line from saved.{copy} t except all select 'missing ' || t::text from told t)
                union all
                (select 'extra ' || t::text from told t except all select 'extra ' || t::text from saved.{copy} t)) d"
        );
        let difference: Option<String> = client.query_one(&sql, &[]).unwrap().get(0);
        assert_eq!(difference, None, "{copy}:\n{csv}");
    }
}

pub(super) const ITEMS: &str = "
    create table items (id int primary key, a text, n int, v varchar(20));
    insert into items select i, 'a' || i, i, 'v' || i from generate_series(1, 50) i";

fn columns_change(live: bool) {
    let mut diary = Diary::begin(live, ITEMS);
    diary.save("items");
    diary.change(
        "alter table items alter n type bigint",
        &[("rewrite", "public.items"), ("reconcile", "public.items")],
    );
    diary.save("items");
    let found = diary.events("reconcile", "public.items");
    assert_eq!(found[0]["changed"], 0, "nothing that a reader sees has changed: {found:?}");
    diary.change(
        "alter table items alter n type bigint using n * 2",
        &[("rewrite", "public.items"), ("reconcile", "public.items")],
    );
    diary.save("items");
    assert_eq!(diary.events("reconcile", "public.items")[1]["changed"], 50);
    diary.change("alter table items add column d int default 7", &[("schema", "public.items")]);
    diary.save("items");
    diary.change("update items set d = null where id = 1; update items set a = 'x' where id = 2", &[]);
    diary.save("items");
    diary.change(
        "alter table items add column r float8 default random()",
        &[("rewrite", "public.items"), ("reconcile", "public.items")],
    );
    diary.save("items");
    diary.change("alter table items drop column a", &[("schema", "public.items")]);
    diary.save("items");
    diary.change("alter table items rename v to w", &[("schema", "public.items")]);
    diary.save("items");
    diary.change("vacuum full items", &[]);
    diary.change("insert into items (id) values (100)", &[]);
    diary.save("items");
    diary.change(
        "alter table items alter n type text using 'n' || n",
        &[("rewrite", "public.items"), ("reconcile", "public.items")],
    );
    diary.save("items");
    diary.change("alter table items add column a text; update items set a = 'new' where id = 3", &[]);
    diary.save("items");
    diary.change(
        "begin; update items set w = 'pre' where id = 4; alter table items add column late int default 3;
        update items set w = 'post' where id = 5; insert into items (id) values (101); commit",
        &[],
    );
    diary.save("items");
    diary.change("truncate items; insert into items (id, w) values (1, 'after')", &[]);
    diary.save("items");
    diary.check();
    // Several statements between two looks may pass for a rewrite, which then is found to be none.
    let found = diary.events("reconcile", "public.items");
    let real =
        found.iter().filter(|event| event["changed"] != 0 || event["added"] != 0 || event["removed"] != 0);
    assert_eq!(real.count(), 3, "{found:#?}");
}

#[test]
fn columns_that_change_while_it_runs_read_as_they_were() {
    columns_change(true);
}

#[test]
fn columns_that_change_while_it_is_stopped_read_as_they_were() {
    columns_change(false);
}

fn tables_come_and_go(live: bool) {
    let mut diary = Diary::begin(live, ITEMS);
    diary.save("items");
    diary.change(
        "create table later (k text primary key, n int); insert into later values ('a', 1), ('b', 2)",
        &[("snapshot", "public.later")],
    );
    diary.save("later");
    diary.change("update later set n = 3 where k = 'a'; delete from later where k = 'b'", &[]);
    diary.save("later");
    diary.change("drop table later", &[("drop", "public.later")]);
    diary.save("items");
    // Under the same name, another table.
    diary.change(
        "create table later (n int, k text primary key, extra int default 5); insert into later values (9, 'a'), (8, 'z')",
        &[("attach", "public.later"), ("snapshot", "public.later")],
    );
    diary.save("later");
    diary.change("update later set extra = 6", &[]);
    diary.save("later");
    diary.change("drop table items; create table items (id int primary key, other text); insert into items values (1, 'x')",
        &[("drop", "public.items"), ("snapshot", "public.items")]);
    diary.save("items");
    diary.change("alter table items rename to things", &[("schema", "public.items")]);
    diary.change("insert into things values (2, 'y')", &[]);
    diary.check();
    let versions = diary.history().texts("public.later", &["_entity_id", "_version", "_op"]);
    let of_a: Vec<_> = versions
        .iter()
        .filter(|fact| fact[0].as_deref() == Some("a"))
        .map(|fact| (fact[1].clone().unwrap(), fact[2].clone().unwrap()))
        .collect();
    for (number, op) in
        [("1", "snapshot"), ("2", "update"), ("3", "drop"), ("4", "snapshot"), ("5", "update")]
    {
        assert!(of_a.contains(&(number.to_owned(), op.to_owned())), "no {number} {op} in {of_a:?}");
    }
}

#[test]
fn tables_that_come_and_go_while_it_runs_are_followed() {
    tables_come_and_go(true);
}

#[test]
fn tables_that_come_and_go_while_it_is_stopped_are_followed() {
    tables_come_and_go(false);
}

fn partitions_change(live: bool) {
    let mut diary = Diary::begin(
        live,
        "create table part (id int, region text, n int, primary key (id, region)) partition by list (region);
         create table part_eu partition of part for values in ('eu');
         create table part_us partition of part for values in ('us');
         create table stray (n int, id int, region text not null, primary key (id, region));
         insert into part select i, case i % 2 when 0 then 'eu' else 'us' end, i from generate_series(1, 20) i;
         insert into stray select i, i, 'asia' from generate_series(100, 110) i",
    );
    diary.save("part");
    diary.change(
        "alter table part attach partition stray for values in ('asia')",
        &[("partition", "public.part"), ("reconcile", "public.part"), ("detach", "public.stray")],
    );
    diary.save("part");
    diary.change("update part set n = -1 where id = 105; insert into part values (111, 'asia', 0)", &[]);
    diary.save("part");
    diary.change("truncate part_us", &[]);
    diary.save("part");
    diary.change("insert into part values (7, 'us', 7)", &[]);
    diary.change(
        "alter table part detach partition part_eu",
        &[("partition", "public.part"), ("snapshot", "public.part_eu")],
    );
    diary.save("part");
    diary.save("part_eu");
    diary.change("update part_eu set n = 1000 where id = 2", &[]);
    diary.save("part_eu");
    diary.change("drop table part_us", &[("partition", "public.part")]);
    diary.save("part");
    diary.change(
        "create table part_rest partition of part default; insert into part values (500, 'mars', 5)",
        &[("partition", "public.part"), ("reconcile", "public.part")],
    );
    diary.save("part");
    diary.check();
}

#[test]
fn partitions_that_come_and_go_while_it_runs_are_followed() {
    partitions_change(true);
}

#[test]
fn partitions_that_come_and_go_while_it_is_stopped_are_followed() {
    partitions_change(false);
}

#[test]
fn a_row_that_moves_between_partitions_is_updated() {
    let mut diary = Diary::begin(
        true,
        "create table part (id int, region text, n int) partition by list (region);
         create table part_eu partition of part for values in ('eu');
         create table part_us partition of part for values in ('us');
         alter table part_eu add primary key (id); alter table part_us add primary key (id);
         create table keyed (id int, at int, note text, primary key (id, at)) partition by range (at);
         create table keyed_1 (note text, at int not null, id int not null, primary key (id, at));
         alter table keyed attach partition keyed_1 for values from (0) to (100);
         create table keyed_2 partition of keyed for values from (100) to (200);
         insert into keyed values (1, 1, 'one'), (2, 101, 'two');
         create table logs (id int, at int, note text) partition by range (at);
         create table logs_1 partition of logs for values from (0) to (100);
         create table logs_2 partition of logs for values from (100) to (200);
         alter table logs_1 replica identity full; alter table logs_2 replica identity full;
         insert into logs values (1, 1, 'one')",
    );
    diary.save("keyed");
    diary.change("update keyed set at = 150 where id = 1; update keyed set note = 'x' where id = 2", &[]);
    diary.save("keyed");
    diary.change("insert into part values (1, 'eu', 1), (2, 'us', 2)", &[]);
    diary.save("part");
    diary.change("update part set region = 'us', n = 10 where id = 1", &[]);
    diary.save("part");
    diary.change("begin; delete from keyed where id = 1; insert into keyed values (1, 150, 'again'), (3, 3, 'three'); commit", &[]);
    diary.save("keyed");
    diary.change("update logs set at = 120 where id = 1", &[]);
    diary.save("logs");
    diary.check();
    let facts = diary.history().texts("public.part", &["_entity_id", "_version", "_op"]);
    let moved = [Some("1".to_owned()), Some("2".to_owned()), Some("update".to_owned())];
    assert!(facts.iter().any(|fact| fact[..] == moved), "{facts:?}");
}

/// The identity is an index, the key is the primary key: neither names the other in the stream [16].
#[test]
fn a_row_is_found_by_an_identity_that_is_not_its_key() {
    let mut diary = Diary::begin(
        true,
        "create table users (id int primary key, email text not null unique, n int);
         alter table users replica identity using index users_email_key;
         insert into users select i, 'u' || i, 0 from generate_series(1, 9) i",
    );
    diary.save("users");
    let steps = [
        "update users set n = 1 where id = 1",
        "update users set email = 'other' where id = 2",
        "update users set id = 30 where id = 3",
        "update users set id = 40, email = 'forty' where id = 4",
        "delete from users where id = 5",
        "begin; insert into users values (50, 'u5', 5); update users set id = 51 where id = 50; delete from users where email = 'u5'; commit",
        "update users set email = 'u2' where id = 6; delete from users where email = 'u2'",
    ];
    for step in steps {
        diary.change(step, &[]);
        diary.save("users");
    }
    // The identity moves while it runs.
    diary.change("alter table users replica identity default; update users set n = 2 where id = 7", &[]);
    diary.save("users");
    diary.change("alter table users replica identity using index users_email_key; delete from users where id = 7; update users set id = 80 where id = 8", &[]);
    diary.save("users");
    diary.check();
    let facts = diary.history().texts("public.users", &["_entity_id", "_op", "_context"]);
    let rekeyed = |id: &str| {
        facts.iter().any(|fact| fact[0].as_deref() == Some(id) && fact[1].as_deref() == Some("rekey"))
    };
    assert!(["3", "30", "4", "40"].into_iter().all(rekeyed), "{facts:?}");
}

#[test]
fn a_table_that_loses_its_key_goes_on_and_breaks_no_statement_of_the_application() {
    let mut diary = Diary::begin(true, ITEMS);
    diary.save("items");
    diary.change("alter table items drop constraint items_pkey", &[("updates_unseen", "public.items")]);
    // Published for inserts alone, the table takes any statement.
    diary.server.run("update items set a = 'unseen' where id = 5; delete from items where id = 6; insert into items values (200, 'x')");
    diary.change("alter table items add primary key (id)", &[("reconcile", "public.items")]);
    diary.save("items");
    diary.change("update items set a = 'seen' where id = 7", &[]);
    diary.save("items");
    diary.check();
}

fn keys_change(live: bool) {
    let mut diary = Diary::begin(live, ITEMS);
    diary.save("items");
    diary.change(
        "begin; alter table items drop constraint items_pkey; alter table items add primary key (a); commit",
        &[("key", "public.items"), ("reconcile", "public.items")],
    );
    diary.save("items");
    diary.change("update items set n = 7 where id = 2; update items set a = 'renamed' where id = 3; delete from items where id = 4", &[]);
    diary.save("items");
    diary.change(
        "begin; alter table items drop constraint items_pkey; alter table items replica identity full; commit",
        &[("key", "public.items"), ("reconcile", "public.items")],
    );
    diary.save("items");
    diary.change(
        "update items set n = 8 where id = 2; insert into items table items; delete from items where id = 7",
        &[],
    );
    diary.save("items");
    diary.change(
        "alter table items add column more int default 4; update items set v = 'w' where id = 9",
        &[],
    );
    diary.save("items");
    diary.check();
    let facts = diary.history().texts("public.items", &["_entity_id", "_op", "_context"]);
    assert!(
        facts.iter().any(|fact| fact[0].as_deref() == Some("a2")
            && fact[1].as_deref() == Some("rekey")
            && fact[2].as_deref().is_some_and(|context| context.contains("\"rekeyed_from\":\"2\""))),
        "a2 does not say that it was 2"
    );
}

#[test]
fn another_key_gives_the_rows_other_entities() {
    keys_change(true);
}

#[test]
fn another_key_given_while_it_was_stopped_gives_the_rows_other_entities() {
    keys_change(false);
}

/// Leaves with keys of their own may hold rows of one key: what is said of that holds until the table has a key of its own.
#[test]
fn leaves_that_share_a_key_are_told_apart_by_nobody_until_the_table_has_one() {
    let mut diary = Diary::begin(
        true,
        "create table parts (id int, k int, v text) partition by list (k);
         create table parts_1 partition of parts for values in (1); alter table parts_1 add primary key (id);
         create table parts_2 partition of parts for values in (2); alter table parts_2 add primary key (id)",
    );
    diary.change("insert into parts values (1, 1, 'a'), (1, 2, 'b')", &[("updates_unseen", "public.parts")]);
    let refused = |diary: &Diary| {
        diary.bygone.ask(&["as-of", "parts", "--at", "now"]).refused(&["--inexact"]);
    };
    refused(&diary);
    // Another look, and another start.
    diary.change("create table other (id int primary key)", &[("snapshot", "public.other")]);
    refused(&diary);
    diary.bygone.terminate(Signal::TERM, Duration::from_secs(20));
    diary.bygone.start("");
    diary.change("create table another (id int primary key)", &[("snapshot", "public.another")]);
    refused(&diary);
    diary.change(
        "alter table parts_1 drop constraint parts_1_pkey; alter table parts_2 drop constraint parts_2_pkey;
         alter table parts add primary key (id, k)",
        &[("key", "public.parts"), ("reconcile", "public.parts")],
    );
    diary.save("parts");
    diary.check();
}

#[test]
fn enum_labels_that_are_renamed_are_told() {
    let mut diary = Diary::begin(
        true,
        "create type mood as enum ('sad', 'ok'); create table people (id int primary key, m mood);
         insert into people values (1, 'sad'), (2, 'ok')",
    );
    diary.change("alter type mood add value 'fine'; ", &[]);
    diary.change("insert into people values (3, 'fine')", &[]);
    diary.save("people");
    diary.change("alter type mood rename value 'sad' to 'blue'", &[("enum", "public.people")]);
    diary.server.run("update people set m = 'blue' where id = 2");
    diary.settle();
    let event = &diary.events("enum", "public.people")[0];
    assert_eq!(event["column"], "m");
    assert_eq!(event["after"], serde_json::json!(["blue", "ok", "fine"]));
}

/// Tables are added, one after another, while all of them are written to: each is exact from its own place on.
#[test]
fn tables_that_are_made_under_load_are_exact_from_their_snapshot_on() {
    let server = Postgres::start();
    Workload::create(&server);
    let oracle = Oracle::install(&mut server.connect(), &TABLES);
    let scratch = Scratch::new("history");
    let workload = Workload::start(&server, &Habits::default());
    workload.wait_for(100);
    let options = ["--commit-interval", "200ms", "--catalog-interval", "300ms"];
    let history = scratch.join("history");
    // Two of the tables to begin with, the others match the patterns of the second run, which finds them as it goes.
    let mut bygone =
        Bygone::new(server.url(), &history).tables(&["public.orders", "public.settings"]).options(&options);
    bygone.start("");
    let commits = |least: usize| {
        let log = history.join("log");
        eventually(SOON, || std::fs::read_dir(&log).map_or(0, Iterator::count) >= least)
    };
    assert!(commits(3), "{}", bygone.said());
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    let mut bygone = bygone.tables(&["public.*"]);
    bygone.start("");
    let snapshots = || History::read(Store::directory(&history)).events("snapshot").len();
    let came = eventually(SOON, || snapshots() >= TABLES.len() || !bygone.alive());
    assert!(came && bygone.alive(), "{} snapshots:\n{}", snapshots(), bygone.said());
    workload.wait_for(300);
    workload.finish();
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.until_current();
    let mut log = History::read(Store::directory(&history));
    assert_flawless(&judge(&mut server.connect(), &oracle, &mut log, true));
    let starts: std::collections::BTreeSet<_> =
        log.events("snapshot").iter().filter_map(|event| lsn(&event["lsn"])).collect();
    assert!(starts.len() >= 2, "all tables were copied at one place: {starts:?}");
}

/// Other patterns than before: a table that they leave out is let go of, and taken anew once they select it again. One that was renamed
/// out of them stays.
#[test]
fn a_table_that_is_left_out_from_a_start_on_is_let_go_of() {
    let server = Postgres::start();
    server.run(&format!(
        "{ITEMS}; create table audit_log (id int primary key, who text); insert into audit_log values (1, 'ann'), (2, 'bob');
         create table item_notes (id int primary key, note text); insert into item_notes values (1, 'first')"
    ));
    let scratch = Scratch::new("history");
    let run = |patterns: &[&str]| {
        Bygone::new(server.url(), scratch.join("history")).tables(patterns).until_current();
    };
    run(&["public.item*", "public.audit*"]);
    server.run("alter table item_notes rename to notes");
    run(&["public.item*", "public.audit*"]);
    // The first run without it, which notices it, and then one that has nothing of it to notice.
    for note in ["second", "third"] {
        server.run(&format!("update notes set note = '{note}'"));
        run(&["public.item*"]);
        server.run(&format!("insert into audit_log values ({}, 'a secret')", 10 + note.len()));
    }
    let bygone = Bygone::new(server.url(), scratch.join("history"));
    let history = || History::read(Store::directory(scratch.join("history")));
    let detached = history().events("detach").into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(detached.len(), 1, "{detached:?}");
    assert_eq!(detached[0]["table"], "public.audit_log");
    assert!(
        history().texts("public.audit_log", &["who"]).iter().all(|who| who[0].as_deref() != Some("a secret"))
    );
    bygone.ask(&["as-of", "audit_log", "--at", "now"]).refused(&["public.audit_log went out of capture"]);
    let notes = bygone.ask(&["as-of", "notes", "--at", "now", "--format", "csv"]).well().stdout;
    assert_eq!(notes, "id,note\n1,third\n");

    run(&["public.item*", "public.audit*"]);
    let rows = bygone.ask(&["as-of", "audit_log", "--at", "now", "--format", "csv"]).well().stdout;
    assert_eq!(rows, "id,who\n1,ann\n2,bob\n15,a secret\n16,a secret\n");
    bygone.ask(&["verify"]).well();
    history().verify(true);
}

#[test]
fn publications_that_leave_something_out_are_taken_on_request_and_the_history_says_so() {
    let server = Postgres::start();
    if server.value("show server_version_num").unwrap().as_str() < "150000" {
        eprintln!("skipped: publications have neither row filters nor column lists before 15");
        return;
    }
    server.run(
        "create table people (id int, name text, secret text, country text, primary key (id, country));
         insert into people values (1, 'ann', 's1', 'de'), (2, 'bob', 's2', 'us');
         create publication part for table people (id, name, country) where (country = 'de') with (publish = 'insert, update, delete')",
    );
    server.run("select pg_create_logical_replication_slot('own', 'pgoutput')");
    let scratch = Scratch::new("history");
    let options = ["--publication", "part", "--slot", "own"];
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).tables(&["people"]).options(&options);
    bygone.attempt(&[]).refused(&["only some rows", "only some columns", "truncate", "--accept-partial"]);
    bygone.attempt(&["--accept-partial"]).well();
    server.run("insert into people values (3, 'cid', 's3', 'de'), (4, 'dan', 's4', 'us'); update people set country = 'de' where id = 2;
        update people set country = 'us' where id = 1; update people set name = 'c' where id = 3");
    bygone.attempt(&["--accept-partial"]).well();
    let outcome = bygone.ask(&["as-of", "people", "--at", "now", "--format", "csv"]).well();
    assert_eq!(outcome.stdout, "id,name,country\n2,bob,de\n3,c,de\n");
    assert!(
        outcome.stderr.contains("only some rows") && outcome.stderr.contains("only some columns"),
        "{}",
        outcome.stderr
    );
    let history = History::read(Store::directory(scratch.join("history")));
    for reason in ["only some rows", "only some columns"] {
        let says = |event: &&&Value| {
            event["table"] == "public.people"
                && event["reason"].as_str().is_some_and(|said| said.contains(reason))
        };
        assert_eq!(history.events("partial").iter().filter(says).count(), 1, "{reason}");
    }
    bygone.ask(&["verify"]).well();
}

/// With event triggers each DDL has its exact place, within a transaction too, and no statement of the application fails.
#[test]
fn installed_event_triggers_make_the_place_of_ddl_exact() {
    let mut diary = Diary::begin(false, ITEMS);
    let source = diary.server.url();
    diary.bygone.command(&["install", "ddl", "--source", &source]).well();
    // Again does no harm.
    diary.bygone.command(&["install", "ddl", "--source", &source]).well();
    // Looks are rare: what is known is known from the triggers.
    diary.bygone = Bygone::new(source.clone(), diary.scratch.join("history")).options(&[
        "--commit-interval",
        "100ms",
        "--catalog-interval",
        "1h",
    ]);
    diary.beat();
    diary.bygone.start("");
    diary.live = true;
    diary.settle();
    diary.save("items");
    let steps = [
        "alter table items add column d int default 7",
        "update items set d = 8 where id = 2",
        "begin; update items set v = 'pre' where id = 3; alter table items add column e int default 9; update items set v = 'post' where id = 4; commit",
        "alter table items rename v to w",
        "alter table items drop column a",
        "insert into items (id) values (77)",
    ];
    for step in steps {
        diary.change(step, &[]);
        diary.save("items");
    }
    diary.change(
        "alter table items alter n type bigint using n * 3",
        &[("rewrite", "public.items"), ("reconcile", "public.items")],
    );
    diary.save("items");
    // Not one statement of the application fails, though nobody looks.
    diary.server.run("alter table items drop constraint items_pkey; update items set n = 1 where id = 1; delete from items where id = 9");
    diary.server.run("alter table items add primary key (id); update items set n = 2 where id = 2");
    diary.change("create table gone (id int primary key); insert into gone values (1)", &[]);
    diary.bygone.terminate(Signal::TERM, Duration::from_secs(20));
    diary.bygone.start("");
    let came = eventually(SOON, || !diary.events("snapshot", "public.gone").is_empty());
    assert!(came, "{}", diary.bygone.said());
    diary.change("begin; insert into gone values (2); drop table gone; commit", &[("drop", "public.gone")]);
    let dropped = diary.history().texts("public.gone", &["_entity_id", "_op", "_xid"]);
    let tombstones: Vec<_> = dropped.iter().filter(|fact| fact[1].as_deref() == Some("drop")).collect();
    assert!(
        tombstones.len() == 2 && tombstones.iter().all(|fact| fact[2].as_deref() != Some("0")),
        "{dropped:?}"
    );
    let exact = diary.events("schema", "public.items");
    assert!(exact.iter().filter(|event| event["lsn"].is_string()).count() >= 4, "{exact:#?}");
    diary.bygone.terminate(Signal::TERM, Duration::from_secs(20));
    diary.bygone.command(&["uninstall", "--source", &source]).well();
    assert_eq!(diary.server.value("select count(*)::text from pg_event_trigger").as_deref(), Some("0"));
    assert_eq!(diary.server.value("select to_regnamespace('bygone')::text"), None);
    diary.bygone.start("");
    diary.save("items");
    diary.check();
}

/// Columns that have changed names among themselves, or were made again under their name and type, look alike in the stream.
fn columns_move(live: bool) {
    let mut diary = Diary::begin(
        live,
        "create table swapped (id int primary key, a text, b text); insert into swapped values (1, 'a1', 'b1'), (2, 'a2', 'b2');
         create table back (id int primary key, a text, b text); insert into back values (1, 'a1', 'b1'), (2, 'a2', 'b2');
         create table again (id int primary key, n int); insert into again values (1, 1), (2, 2);
         create table between (id int primary key, n int, m int); insert into between values (1, 1, 10), (2, 2, 20);
         create table filled (id int primary key, n int); insert into filled values (1, 1), (2, 2);
         create table at_once (id int primary key, a text, b text); insert into at_once values (1, 'a1', 'b1'), (2, 'a2', 'b2')",
    );
    let tables = ["swapped", "back", "again", "between", "filled", "at_once"];
    tables.iter().for_each(|table| diary.save(table));
    for sql in [
        "alter table swapped rename a to x; alter table swapped rename b to a; alter table swapped rename x to b",
        "update swapped set a = 'new a' where id = 1",
        "alter table back rename a to x; alter table back rename b to a; alter table back rename x to b",
        "update back set a = 'new a' where id = 1",
        "alter table back rename a to x; alter table back rename b to a; alter table back rename x to b",
        "update back set a = 'newer a' where id = 2",
        "alter table again drop column n; alter table again add column n int",
        "insert into again values (3, 33); update again set n = 11 where id = 1",
        "alter table between drop column n; alter table between add column n int",
        "insert into between values (3, 30, 33); update between set n = 11 where id = 1",
        "alter table filled drop column n; alter table filled add column n int default 7",
        "insert into filled values (3, 33); update filled set n = null where id = 1",
        "begin; update at_once set a = 'before' where id = 2; alter table at_once rename a to x; alter table at_once rename b to a;
         alter table at_once rename x to b; update at_once set a = 'after' where id = 1; commit",
    ] {
        diary.server.run(sql);
    }
    tables.iter().for_each(|table| diary.save(table));
    diary.server.run(
        "update swapped set b = 'newer'; update back set b = 'newer' where id = 2; update again set n = n + 1; update between set n = n + 1; update filled set n = n + 1;
         update at_once set b = 'newer'",
    );
    tables.iter().for_each(|table| diary.save(table));
    diary.check();
}

#[test]
fn columns_that_change_names_among_themselves_are_told_apart() {
    columns_move(true);
}

#[test]
fn columns_that_change_names_among_themselves_while_it_is_stopped_are_told_apart() {
    columns_move(false);
}

#[test]
fn partitions_with_columns_in_another_order_follow_their_root() {
    let mut diary = Diary::begin(
        true,
        "create table visits (id int primary key, v text, n int) partition by range (id);
         create table visits_1 (n int, v text, id int not null);
         alter table visits attach partition visits_1 for values from (0) to (50);
         create table visits_2 partition of visits for values from (50) to (99);
         insert into visits values (1, 'a', 100), (2, 'b', 200), (60, 'c', 300);
         create table moved (like visits including all) partition by range (id);
         create table moved_1 (v text, id int not null, n int);
         alter table moved attach partition moved_1 for values from (0) to (50);
         insert into moved values (1, 'a', 100), (2, 'b', 200)",
    );
    diary.save("visits");
    diary.save("moved");
    for sql in [
        "alter table visits add column c int default 9",
        "update visits set v = 'B' where id in (2, 60)",
        "alter table moved rename v to w",
        "update moved set w = 'B' where id = 2",
    ] {
        diary.server.run(sql);
    }
    diary.save("visits");
    let compared =
        |diary: &Diary| ["public.visits", "public.moved"].map(|table| diary.events("reconcile", table).len());
    let before = compared(&diary);
    diary.save("moved");
    diary.server.run("alter table visits rename v to w; alter table visits rename n to v; alter table visits rename w to n");
    diary.server.run("update visits set v = v + 1 where id > 1; insert into visits values (3, 'x', 1, 2)");
    diary.server.run("alter table moved drop column n; alter table moved add column n int");
    diary.server.run("update moved set n = 7 where id = 1; delete from moved where id = 2");
    diary.settle();
    // A partition has numbers of its own for its columns: the source is asked what became of them.
    let done = eventually(SOON, || compared(&diary) > before);
    assert!(done, "{}", diary.bygone.said());
    diary.save("visits");
    diary.save("moved");
    diary.check();
}

/// Labels by which rows are known.
fn enum_keys(live: bool) {
    let mut diary = Diary::begin(
        live,
        "create type mood as enum ('a', 'b', 'c');
         create table keyed (m mood primary key, v text); insert into keyed values ('a', '1'), ('b', '2');
         create table whole (m mood[], v text); insert into whole values ('{a}', '1'), ('{b}', '2');
         alter table whole replica identity full",
    );
    diary.settle();
    diary.change(
        "alter type mood rename value 'a' to 'A'",
        &[("enum", "public.keyed"), ("enum", "public.whole")],
    );
    for sql in [
        "update keyed set v = 'x' where m = 'A'; update whole set v = 'x' where m = '{A}'",
        "delete from keyed where m = 'A'; delete from whole where m = '{A}'",
    ] {
        diary.server.run(sql);
        diary.settle();
        // Until the tables were compared.
        std::thread::sleep(Duration::from_secs(3));
        diary.save("keyed");
        diary.save("whole");
    }
    diary.check();
}

#[test]
fn rows_that_are_known_by_a_label_stay_one_when_it_is_renamed() {
    enum_keys(true);
}

#[test]
fn rows_that_are_known_by_a_label_stay_one_when_it_is_renamed_while_it_is_stopped() {
    enum_keys(false);
}

#[test]
fn rows_of_a_deferrable_key_share_it_until_they_commit() {
    let mut diary = Diary::begin(
        true,
        "create table seats (id int primary key deferrable initially deferred, v text);
         alter table seats replica identity full",
    );
    for sql in [
        "update seats set id = id + 1",
        "update seats set id = 4 - id",
        "begin; insert into seats values (1, 'new'); delete from seats where v = 'a'; commit",
        "begin; insert into seats values (1, 'new'); update seats set id = 9 where v = 'a'; commit",
        "begin; insert into seats values (1, 'new'); update seats set v = 'A' where v = 'a'; update seats set id = 9 where v = 'A'; commit",
        "begin; insert into seats values (1, 'new'); delete from seats where v = 'new'; commit",
        "begin; update seats set id = 1 where id = 2; update seats set id = 2 where v = 'a'; commit",
        "begin; update seats set id = 1 where id = 2; update seats set id = 5 where v = 'b'; commit",
        "begin; update seats set id = 1 where id > 1; update seats set id = 7 where v = 'b'; delete from seats where v = 'a'; commit",
        "begin; insert into seats values (1, 'a'); savepoint s; delete from seats where id = 1; rollback to s; delete from seats where ctid = (select min(ctid) from seats where id = 1); commit",
    ] {
        diary.server.run("truncate seats; insert into seats values (1, 'a'), (2, 'b'), (3, 'c')");
        diary.server.run(sql);
        diary.save("seats");
    }
    diary.check();
}
