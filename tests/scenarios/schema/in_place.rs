//! Changes for which PostgreSQL touches no row: columns that come with a default, and types that share a form on disk.

use std::time::Duration;

use rustix::process::Signal;

use super::{Diary, ITEMS, SOON};
use crate::support::bygone::Bygone;
use crate::support::majors::on_each_major;
use crate::support::postgres::Postgres;
use crate::support::process::eventually;

/// A running capture to which the event triggers alone tell what becomes of columns: looks are rare.
fn told_by_triggers(server: Postgres) -> Diary {
    let mut diary = Diary::begin_on(server, false, ITEMS);
    let source = diary.server.url();
    diary.bygone.command(&["install", "ddl", "--source", &source]).well();
    diary.beat();
    let options = ["--commit-interval", "100ms", "--catalog-interval", "1h"];
    diary.bygone = Bygone::new(source, diary.scratch.join("history")).options(&options);
    diary.bygone.start("");
    diary.live = true;
    diary.settle();
    diary
}

/// The session of the application has settings of its own when it adds columns, and event triggers run in it.
fn what_older_rows_read_as_does_not_depend_on_the_session(server: Postgres) {
    let mut diary = told_by_triggers(server);
    diary.save("items");
    for (number, change) in [
        "set datestyle = 'SQL, DMY'; alter table items add column day date default '2026-02-01'",
        "set timezone = 'Asia/Kolkata'; set datestyle = 'Postgres'; alter table items add column at timestamptz default '2026-02-01 10:00+00'",
        "set bytea_output = 'escape'; alter table items add column b bytea default '\\x00ff'",
        "set extra_float_digits = -15; alter table items add column f float8 default 0.1::float8 + 0.2",
        "set intervalstyle = 'sql_standard'; alter table items add column i interval default '1 mon -2 days'",
        "set datestyle = 'German'; alter table items add column days date[] default '{2026-02-01,infinity}'",
    ]
    .into_iter()
    .enumerate()
    {
        diary.change(change, &[]);
        diary.save("items");
        diary.change(&format!("update items set a = 'changed' where id = {}", number + 1), &[]);
        diary.save("items");
    }
    diary.check();
}

#[test]
fn what_older_rows_read_as_is_kept_as_it_was_told_where_it_cannot_be_read() {
    let mut diary = told_by_triggers(Postgres::start());
    // As an earlier version had installed them.
    diary.server.run("alter function bygone_installed.describe(oid) reset datestyle");
    diary.change(
        "set datestyle = 'SQL, DMY'; alter table items add column day date default '2026-02-01'; update items set n = 100 where id = 1",
        &[],
    );
    diary.settle();
    let csv = diary.bygone.ask(&["as-of", "items", "--at", "now", "--format", "csv"]).well().stdout;
    assert!(csv.contains("\n2,a2,2,v2,01/02/2026\n") && csv.contains("\n1,a1,100,v1,2026-02-01\n"), "{csv}");
    diary.bygone.terminate(Signal::TERM, SOON);
    diary.bygone.forget();
    diary.bygone.until_current();
}

/// A rewrite writes the default into every row, and the server forgets that older rows had lacked it.
#[test]
fn what_older_rows_read_as_is_known_after_a_rewrite() {
    let mut diary = Diary::begin(
        true,
        "create table kept (id int primary key, n int); insert into kept select i, i from generate_series(1, 5) i;
         create table lines (n int, line text); alter table lines replica identity full;
         insert into lines values (1, 'a'), (2, 'b'), (3, 'c')",
    );
    let save = |diary: &mut Diary| ["kept", "lines"].iter().for_each(|table| diary.save(table));
    let both = [("schema", "public.kept"), ("schema", "public.lines")];
    diary.change(
        "alter table kept add column d int default 7; alter table lines add column d int default 7",
        &both,
    );
    save(&mut diary);
    diary.change("vacuum full kept", &[("reconcile", "public.kept")]);
    diary.change("vacuum full lines", &[("reconcile", "public.lines")]);
    diary.change("alter table kept rename n to m; alter table lines rename n to m", &both);
    save(&mut diary);
    diary.change("update kept set m = 100 where id = 1; update lines set line = 'x' where m = 1; delete from lines where m = 2", &[]);
    save(&mut diary);
    diary.check();
    let history = diary.history();
    let facts = ["public.kept", "public.lines"].map(|table| history.texts(table, &["_op", "_changed"]));
    assert!(facts.iter().flatten().all(|fact| fact[0].as_deref() != Some("reconcile")), "{facts:?}");
    let update = facts[0].iter().find(|fact| fact[0].as_deref() == Some("update")).unwrap();
    assert_eq!(update[1].as_deref(), Some("{\"m\"}"));
}

/// With synchronous replication a transaction comes by the stream, and the source does not show it until a standby has it.
fn columns_that_the_source_does_not_show_yet(held: Duration, compared: bool) {
    let settings = [("synchronous_standby_names", "nobody"), ("synchronous_commit", "local")];
    let mut diary = Diary::begin_on(Postgres::with(&settings), true, ITEMS);
    diary.save("items");
    let mut client = diary.server.connect();
    let waiting = std::thread::spawn(move || {
        client.batch_execute(
            "begin; set local synchronous_commit = on; alter table items add column late jsonb; update items set late = '{}' where id = 1; commit",
        )
    });
    let waits =
        || diary.server.value("select pid from pg_stat_activity where wait_event = 'SyncRep'").is_some();
    assert!(eventually(SOON, waits));
    std::thread::sleep(held);
    // The transaction is committed all the same.
    diary.server.run("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'");
    waiting.join().unwrap().unwrap();
    if compared {
        let found = || !diary.events("reconcile", "public.items").is_empty();
        assert!(eventually(SOON, found), "{}", diary.bygone.said());
    }
    diary.save("items");
    diary.change("update items set late = '[]' where id = 2", &[]);
    diary.save("items");
    diary.check();
    assert_eq!(!diary.events("reconcile", "public.items").is_empty(), compared);
}

#[test]
fn a_column_that_the_source_shows_a_moment_later_is_known_as_what_it_is() {
    columns_that_the_source_does_not_show_yet(Duration::from_millis(700), false);
}

#[test]
fn a_column_that_the_source_shows_long_after_the_stream_is_compared() {
    columns_that_the_source_does_not_show_yet(Duration::from_secs(5), true);
}

const PLACES: &str = "
    create table visits (id int primary key, at timestamp, left_at timestamptz, net cidr, v varchar(5), m numeric(12,2), code int);
    insert into visits values (1, '2026-01-01 10:00', '2026-01-01 10:00+00', '10.1.2.3', 'a', 1.50, -5),
        (2, 'infinity', '-infinity', '10.0.0.0/8', 'b', 'NaN', 7), (3, '0044-03-15 12:00:00.5 BC', null, '::1', null, null, null);
    create table lines (at timestamp, line text); alter table lines replica identity full;
    insert into lines values ('2026-01-01 10:00', 'x'), ('2026-01-01 11:00', 'y'), ('2026-01-01 11:00', 'y')";

fn types_change_in_place(live: bool, server: Postgres) {
    let mut diary = Diary::begin_on(server, live, PLACES);
    let save = |diary: &mut Diary| ["visits", "lines"].iter().for_each(|table| diary.save(table));
    save(&mut diary);
    diary.change(
        "set timezone = 'UTC'; alter table visits alter at type timestamptz, alter left_at type timestamp, alter net type inet,
            alter v type text, alter m type numeric, alter code type oid;
         alter table lines alter at type timestamptz",
        &[("schema", "public.visits"), ("schema", "public.lines")],
    );
    save(&mut diary);
    diary.change(
        "update visits set v = 'longer than five' where id = 1; update lines set line = 'X' where line = 'x';
         delete from lines where ctid = (select min(ctid) from lines where line = 'y')",
        &[],
    );
    save(&mut diary);
    diary.change("delete from lines where line = 'X'; insert into visits (id) values (4)", &[]);
    save(&mut diary);
    diary.check();
    let history = diary.history();
    let ops = ["public.visits", "public.lines"].map(|table| history.texts(table, &["_op", "_changed"]));
    assert!(ops.iter().flatten().all(|fact| fact[0].as_deref() != Some("reconcile")), "{ops:?}");
    let changed: Vec<_> = ops[0].iter().filter(|fact| fact[0].as_deref() == Some("update")).collect();
    assert_eq!(changed, [&vec![Some("update".to_owned()), Some("{\"v\"}".to_owned())]]);
    diary.bygone.start("");
    let source = diary.server.url();
    diary.bygone.ask(&["reconcile", "--source", &source]).well();
    diary.bygone.terminate(Signal::TERM, SOON);
}

fn types_that_change_in_place_while_it_runs_read_as_they_do_in_the_source(server: Postgres) {
    types_change_in_place(true, server);
}

fn types_that_change_in_place_while_it_is_stopped_read_as_they_do_in_the_source(server: Postgres) {
    types_change_in_place(false, server);
}

/// A value that only the source can print, and values by which rows are known.
fn values_read_otherwise(live: bool) {
    let mut diary = Diary::begin(
        live,
        "create table named (id int primary key, relation oid, document xml);
         insert into named values (1, 1259, '<?xml version=\"1.0\"?><a/>'), (2, 0, null);
         create table days (at timestamp primary key, n int); insert into days values ('2026-01-01 10:00', 1), ('2026-01-02 10:00', 2)",
    );
    let save = |diary: &mut Diary| ["named", "days"].iter().for_each(|table| diary.save(table));
    save(&mut diary);
    diary.change(
        "set timezone = 'UTC'; alter table named alter relation type regclass, alter document type text; alter table days alter at type timestamptz",
        &[("reconcile", "public.named"), ("reconcile", "public.days")],
    );
    save(&mut diary);
    diary.change(
        "set timezone = 'UTC'; update days set n = 10 where at = '2026-01-01 10:00'; delete from days where n = 2; update named set id = 3 where id = 2",
        &[],
    );
    save(&mut diary);
    diary.check();
    let found = diary.events("reconcile", "public.named");
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn values_that_only_the_source_can_print_are_compared_while_it_runs() {
    values_read_otherwise(true);
}

#[test]
fn values_that_only_the_source_can_print_are_compared_when_it_starts() {
    values_read_otherwise(false);
}

/// Columns that come to be called as bygone's own are.
fn names_of_ours(live: bool) {
    let mut diary = Diary::begin(live, ITEMS);
    diary.save("items");
    for change in [
        "alter table items add column _version int; update items set _version = 700 where id = 1",
        "alter table items add column _lsn bigint default 7",
        "alter table items rename column v to \"_ID\"; update items set \"_ID\" = 'x' where id = 2",
        "alter table items add column _date date default '2026-01-01', add column _valid_to timestamptz",
        "alter table items alter _version type text using 'n' || _version",
        "alter table items drop column _lsn; alter table items add column _raw jsonb; update items set _raw = '{}' where id = 3",
    ] {
        let schema = ("schema", "public.items");
        // What a rewrite did is known once the table was compared.
        let expected: &[_] = match change.contains("using") {
            true => &[schema, ("reconcile", "public.items")],
            false => &[schema],
        };
        diary.change(change, expected);
        diary.save("items");
    }
    diary.change(
        "create table others (id int primary key); insert into others values (1)",
        &[("snapshot", "public.others")],
    );
    diary.save("others");
    diary.check();
    let history = diary.history();
    for batch in history.facts("public.items") {
        let schema = batch.schema();
        let mut names: Vec<_> = schema.fields().iter().map(|field| field.name().to_lowercase()).collect();
        let columns = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), columns, "{schema:?}");
    }
    let source = diary.server.url();
    let found = diary.bygone.command(&["doctor", "--source", &source, "--table", "public.*"]).stdout;
    assert!(!found.contains("needs for itself"), "{found}");
    let now =
        diary.bygone.ask(&["sql", "select id, _version from items where id = 1", "--format", "csv"]).well();
    assert_eq!(now.stdout, "id,_version\n1,n700\n");
    // `_version__2` was the column of numbers, `_version__3` is that of texts.
    let told = "select _version, _version__3 as users from items_history where id = 1 order by _version";
    let told = diary.bygone.ask(&["sql", told, "--format", "csv"]).well();
    assert_eq!(told.stdout, "_version,users\n1,\n2,700\n3,n700\n");
}

#[test]
fn a_column_that_comes_to_have_a_name_of_ours_while_it_runs_is_kept_under_another() {
    names_of_ours(true);
}

#[test]
fn a_column_that_comes_to_have_a_name_of_ours_while_it_is_stopped_is_kept_under_another() {
    names_of_ours(false);
}

on_each_major!(
    &[],
    [14 as v14, 15 as v15, 18 as v18],
    [
        what_older_rows_read_as_does_not_depend_on_the_session,
        types_that_change_in_place_while_it_runs_read_as_they_do_in_the_source,
        types_that_change_in_place_while_it_is_stopped_read_as_they_do_in_the_source
    ]
);
