//! Types of the source that are not, or are no longer, what the target calls so: facts hold what was, and no value stops them.

use super::fact_tables::{assert_answers_alike, assert_current, assert_same_facts, assert_same_history};
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::majors::on_each_major;
use crate::support::postgres::Postgres;
use crate::support::scratch::Scratch;
use crate::support::store::Store;

/// The type of a column of a history table.
fn type_of(client: &mut postgres::Client, table: &str, column: &str) -> String {
    let sql = "select format_type(atttypid, atttypmod) from pg_attribute where attrelid = $1::text::regclass and attname = $2";
    client.query_one(sql, &[&format!("bygone.{table}_history"), &column]).unwrap().get(0)
}

/// The rows of now are those of the source, in these columns. (The stream tells neither of a label that
/// is renamed nor of a field that a composite type gets.)
fn assert_odd_rows(client: &mut postgres::Client, columns: &str) {
    let mut rows = |schema: &str| -> Vec<String> {
        let sql = format!("select ({columns})::text from {schema}.odd order by id");
        client.query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(rows("bygone"), rows("public"));
}

/// Symptom: a fact with the label of before a rename, and a value of before a domain got its rule, were refused by the target's types of
/// today, and all fact tables stood still for ever. And the rule itself was refused in the source, for rows of the history broke it.
fn types_that_change_in_the_sources_own_database_stop_nothing(server: Postgres) {
    server.run(
        "create type mood as enum ('calm', 'glad', 'cross'); create domain word as varchar(12); create domain ratio as numeric(5, 2);
         create type pair as (a int, b text);
         create table odd (id int primary key, m mood, ms mood[], w word, r ratio, p pair);
         insert into odd values (1, 'calm', '{calm,glad}', 'rather long', null, row(1, 'x')), (2, 'cross', null, null, 1.5, null);
         create table plain (id int primary key, t text); insert into plain values (1, 'a')",
    );
    let scratch = Scratch::new("history");
    let url = server.url();
    let options = ["--facts", &url, "--slab-rows", "2"];
    let mut bygone = Bygone::new(&url, scratch.join("history")).options(&options);
    bygone.until_current();
    let mut client = server.connect();
    assert_eq!(type_of(&mut client, "odd", "m"), "mood");
    assert_eq!(type_of(&mut client, "odd", "w"), "character varying(12)");
    assert_eq!(type_of(&mut client, "odd", "r"), "numeric(5,2)");
    // Facts of then, and types of now.
    server.run(
        "update odd set m = 'glad', ms = '{cross,null}' where id = 1; update odd set m = 'calm', p = row(2, 'y') where id = 2;
         insert into plain values (2, 'b'); update odd set w = 'ok', r = 1",
    );
    server.run("alter type mood rename value 'glad' to 'happy'");
    server.run("alter domain word add check (length(value) < 4); alter domain word set not null; alter domain ratio set not null");
    server.run("alter type pair add attribute c int; insert into plain values (3, 'c')");
    bygone.until_current();
    let history = History::read(Store::directory(scratch.join("history")));
    assert_same_facts(&mut client, &history, "public.odd", "odd");
    assert_eq!(assert_same_facts(&mut client, &history, "public.plain", "plain"), 3);
    assert_odd_rows(&mut client, "id, ms, w, r");
    // What was refused is text, and nothing else.
    let types = ["m", "ms", "w", "r"].map(|column| type_of(&mut client, "odd", column));
    assert_eq!(types[2..], ["character varying(12)", "numeric(5,2)"]);
    assert_eq!(types[0], "text");
    let sql = "select m from bygone.odd_history where _entity_id = '1' and _version = 2";
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, String>(0), "glad");
    let sql = "select col_description('bygone.odd_history'::regclass, attnum) from pg_attribute where attrelid = \
         'bygone.odd_history'::regclass and attname = 'm'";
    assert!(client.query_one(sql, &[]).unwrap().get::<_, String>(0).contains("that one is refused here"));
    // It goes on, also with another column of the type, and one that comes with a default of a domain that takes no null.
    server.run("alter table odd add more mood default 'happy', add d word default 'x'; update odd set ms = '{happy}', m = 'happy' where id = 1");
    server.run("insert into odd values (3, 'calm', '{}', 'w', 2, row(3, 'z', 4), 'cross', 'y')");
    bygone.until_current();
    let history = History::read(Store::directory(scratch.join("history")));
    assert_same_facts(&mut client, &history, "public.odd", "odd");
    assert_odd_rows(&mut client, "id, m, ms, w, r, more, d");
    assert_eq!(type_of(&mut client, "odd", "more"), "mood");
}

on_each_major!(
    &[],
    [14 as v14, 15 as v15, 18 as v18],
    [types_that_change_in_the_sources_own_database_stop_nothing]
);

/// The same of another server, which has types of these names that are others.
fn a_target_whose_types_are_others_holds_every_value(with_files: bool) {
    let server = Postgres::start();
    let target = Postgres::stranger();
    server.run(
        "create type mood as enum ('calm', 'glad'); create type pair as (a int, b text); create domain word as text;
         create table people (id int primary key, m mood, ms mood[], p pair, w word, ws word[], n int);
         insert into people values (1, 'calm', '{calm}', row(1, 'x'), null, '{a,null}', 1), (2, 'glad', '{calm,glad}', row(2, 'y'), '', null, 2);
         create table plain (id int primary key, t text); insert into plain values (1, 'a');
         create table late (id int primary key, m mood); insert into late values (1, 'calm')",
    );
    target.run(
        "create type mood as enum ('calm'); create type pair as (a int); create domain word as text check (length(value) > 3) not null",
    );
    let scratch = Scratch::new("history");
    let url = target.url();
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&["--facts", &url]);
    if !with_files {
        bygone = bygone.without_files();
    }
    let told = bygone.until_current().stderr;
    assert!(told.contains("they are text there from now on") && !told.contains("glad"), "{told}");
    let mut client = target.connect();
    assert_eq!(type_of(&mut client, "late", "m"), "mood");
    // One whose own target type took everything so far, and is an array of it.
    server.run("update late set m = 'glad'; insert into plain values (2, 'b'); update people set n = n + 1");
    server.run("create view of_late as select 1");
    let told = bygone.until_current().stderr;
    assert!(told.contains("they are text there from now on"), "{told}");
    let types = ["m", "ms", "p", "w", "ws", "n"].map(|column| type_of(&mut client, "people", column));
    assert_eq!(types, ["text", "text[]", "text", "text", "text[]", "integer"]);
    assert_eq!(type_of(&mut client, "late", "m"), "text");
    for table in ["people", "plain", "late"] {
        assert_current(&server, &mut client, table, table);
    }
    let back = scratch.join("back");
    bygone.command(&["backfill-history", "--facts", &url, "--history", back.to_str().unwrap()]).well();
    let back = History::read(Store::directory(&back));
    if with_files {
        let history = History::read(Store::directory(scratch.join("history")));
        for table in ["people", "plain", "late"] {
            assert_same_facts(&mut client, &history, &format!("public.{table}"), table);
        }
        assert_same_history(&history, &back);
        assert!(assert_answers_alike(&bygone, &url, &history, &["public.people", "public.late"]) > 20);
    } else {
        assert_eq!(back.facts("public.people").iter().map(|facts| facts.num_rows()).sum::<usize>(), 4);
    }
}

#[test]
fn a_target_whose_types_are_others_holds_every_value_beside_files() {
    a_target_whose_types_are_others_holds_every_value(true);
}

#[test]
fn a_target_whose_types_are_others_holds_every_value_of_rows_alone() {
    a_target_whose_types_are_others_holds_every_value(false);
}

/// Types that came with a later PostgreSQL than the target's.
fn a_target_that_is_older_than_the_source_holds_its_numbers(target: Postgres) {
    let server = Postgres::start();
    if server.major() < 15 {
        eprintln!("the server of the tests is no younger than the target");
        return;
    }
    server.run(
        "create table sums (id int primary key, rounded numeric(3, -2), small numeric(2, 5), plain numeric(5, 2));
         insert into sums values (1, 12345, 0.00012, 1.25), (2, 'NaN', null, 3); create table other (id int primary key)",
    );
    let scratch = Scratch::new("history");
    let url = target.url();
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&["--facts", &url]);
    bygone.until_current();
    server.run("update sums set small = 0.00099; alter table sums add more numeric(3, -1) default 50");
    bygone.until_current();
    let mut client = target.connect();
    assert_current(&server, &mut client, "sums", "sums");
    assert_current(&server, &mut client, "other", "other");
    assert_eq!(type_of(&mut client, "sums", "rounded"), "numeric");
    assert_eq!(type_of(&mut client, "sums", "plain"), "numeric(5,2)");
    let history = History::read(Store::directory(scratch.join("history")));
    assert_same_facts(&mut client, &history, "public.sums", "sums");
}

on_each_major!(&[], [14 as target_of_14], [a_target_that_is_older_than_the_source_holds_its_numbers]);

/// Symptom: the name of a column that gets another type was longer than PostgreSQL takes names, which cut it to the name that was there.
#[test]
fn columns_with_the_longest_names_may_change_their_types() {
    let server = Postgres::start();
    server.run("create database facts");
    let names = ["é".repeat(31), "n".repeat(63), "n".repeat(61) + "ox", "x".repeat(60)];
    let columns = names.iter().map(|name| format!("\"{name}\" text")).collect::<Vec<_>>().join(", ");
    server.run(&format!("create table wordy (id int primary key, {columns}); insert into wordy values (1, '1', '2', '3', '4'), (2, '5', null, 'x', '8')"));
    let scratch = Scratch::new("history");
    let url = server.url_as("postgres", "facts");
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&["--facts", &url]);
    bygone.until_current();
    let now = "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let before = server.value(now).unwrap();
    for to in [
        "int using case when length(%) = 1 and % < 'a' then %::int end",
        "date using '2026-01-02'",
        "text using 'again'",
    ] {
        let alter =
            |name: &String| format!("alter \"{name}\" type {}", to.replace('%', &format!("\"{name}\"")));
        server.run(&format!("alter table wordy {}", names.iter().map(alter).collect::<Vec<_>>().join(", ")));
        server.run("update wordy set id = id where id = 1");
        bygone.until_current();
        let mut client = server.connect_to("facts");
        assert_current(&server, &mut client, "wordy", "wordy");
    }
    let history = History::read(Store::directory(scratch.join("history")));
    let mut client = server.connect_to("facts");
    assert_same_facts(&mut client, &history, "public.wordy", "wordy");
    let sql = format!("select \"{}\" from bygone.wordy_as_of('{before}') order by id", names[1]);
    let told: Vec<Option<String>> = client.query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(told, [Some("2".to_owned()), None]);
}
