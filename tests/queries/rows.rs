//! The versions of rows: what each changed, and what happened together.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::Shop;
use crate::support::bygone::Bygone;
use crate::support::postgres::Postgres;
use crate::support::scratch::Scratch;

#[test]
fn every_version_of_a_row_says_what_it_changed_and_who_did() {
    let shop = Shop::orders();
    let versions = shop.json(&["history", "orders", "1"]);
    assert_eq!(versions.len(), 2);
    assert_eq!(versions[0]["op"], "snapshot");
    assert_eq!(versions[0]["xid"], Value::Null);
    assert_eq!(versions[1]["who"], "ann");
    assert_eq!(versions[1]["changes"], serde_json::json!({"total": {"old": "12.50", "new": "13.50"}}));
    let deleted = shop.json(&["history", "orders", "3"]);
    assert_eq!(deleted[1]["op"], "delete");
    // All ways to name a row of a composite key lead to it.
    let by_parts = shop.json(&["history", "notes", "x,y", "1"]);
    assert_eq!(by_parts[1]["changes"]["note"]["new"], "second");
    for key in [&["--key", "a=1,b=x,y"][..], &["--key", "b=x,y", "--key", "a=1"], &[r#"["x,y","1"]"#]] {
        let mut arguments = vec!["history", "notes"];
        arguments.extend(key);
        assert_eq!(shop.json(&arguments), by_parts, "{key:?}");
    }
}

#[test]
fn each_column_has_the_version_that_last_changed_it() {
    let shop = Shop::orders();
    let columns = shop.json(&["blame", "orders", "1"]);
    let told: Vec<_> = columns
        .iter()
        .map(|row| (row["column"].as_str().unwrap(), row["version"].as_i64().unwrap()))
        .collect();
    assert_eq!(told, [("id", 1), ("customer", 1), ("total", 2)]);
    assert_eq!(columns[2]["who"], "ann");
}

#[test]
fn of_a_value_that_is_not_known_no_version_is_blamed() {
    let mut shop = Shop::with(
        "create table sums (id int primary key, n int, twice int generated always as (n * 2) stored);
         insert into sums values (1, 1), (2, 5)",
    );
    shop.server.run("update sums set n = 2 where id = 1");
    shop.capture();
    let told = shop.bygone.ask(&["blame", "sums", "1", "--format", "csv"]).well();
    assert!(told.stdout.contains("\ntwice,,,,,,\n"), "{}", told.stdout);
    assert!(
        told.stderr.contains("twice is not known") && told.stderr.contains("generated columns"),
        "{}",
        told.stderr
    );
    // The copy at the start read it.
    let known = shop.bygone.ask(&["blame", "sums", "2", "--format", "csv"]).well();
    assert!(
        known.stdout.contains("\ntwice,10,1,") && known.stderr.is_empty(),
        "{} {}",
        known.stdout,
        known.stderr
    );
}

#[test]
fn a_diff_lists_what_came_went_and_changed() {
    let mut shop = Shop::orders();
    let before = shop.server.value("select pg_current_wal_insert_lsn()").unwrap();
    shop.server.run(
        "insert into orders values (4, 'dot', 1); delete from orders where id = 2; update orders set total = 14 where id = 1;
         insert into orders values (9, 'brief', 1); delete from orders where id = 9",
    );
    shop.capture();
    let changes = shop.json(&["diff", "orders", "--from", &before]);
    let told: Vec<_> =
        changes.iter().map(|row| (row["change"].as_str().unwrap(), row["key"].as_str().unwrap())).collect();
    assert_eq!(told, [("changed", "1"), ("removed", "2"), ("added", "4")]);
    assert_eq!(changes[0]["changes"], serde_json::json!({"total": {"old": "13.50", "new": "14.00"}}));
    shop.misused(&["diff", "orders", "--from", "now", "--to", &before], &["is later than --to"]);
}

#[test]
fn a_diff_shows_each_side_with_the_columns_that_it_had() {
    let mut shop = Shop::with(
        "create table q (id int primary key, \"x y\" jsonb, total int);
         insert into q values (1, '{\"a\": 1}', 10), (2, null, 20), (3, null, 30)",
    );
    let before = shop.server.value("select pg_current_wal_insert_lsn()").unwrap();
    shop.server.run("alter table q add column n int default 3; alter table q drop column \"x y\"; alter table q add column \"x y\" int");
    shop.capture();
    shop.server.run(
        "update q set n = 4, \"x y\" = 5 where id = 1; update q set total = 21 where id = 2; delete from q where id = 3;
         insert into q values (4, 40)",
    );
    shop.capture();
    let changes = shop.json(&["diff", "q", "--from", &before]);
    let told: Vec<&Value> = changes.iter().map(|change| &change["changes"]).collect();
    assert_eq!(
        told,
        [
            &serde_json::json!({"n": {"new": 4}, "x y": {"old": {"a": 1}, "new": 5}}),
            &serde_json::json!({"total": {"old": 20, "new": 21}}),
            &serde_json::json!({"id": {"old": 3}, "x y": {"old": null}, "total": {"old": 30}}),
            &serde_json::json!({"id": {"new": 4}, "total": {"new": 40}, "n": {"new": 3}, "x y": {"new": null}}),
        ]
    );
}

#[test]
fn a_transaction_is_shown_whole_with_its_context() {
    let shop = Shop::orders();
    let all = shop.json(&["transactions"]);
    // Statements that are sent together are one transaction.
    assert_eq!(all.len(), 2, "{all:?}");
    let refund = all.last().unwrap();
    assert_eq!(refund["who"], "ann");
    assert_eq!(refund["context"]["reason"], "refund");
    let xid = refund["xid"].as_i64().unwrap();
    // The 32 bits that xmin shows name it as well.
    for id in [xid, xid & 0xFFFF_FFFF] {
        let changes = shop.json(&["transaction", &id.to_string()]);
        let tables: Vec<_> = changes.iter().map(|row| row["table"].as_str().unwrap()).collect();
        assert_eq!(tables, ["public.orders", "public.notes"]);
        assert_eq!(changes[1]["changes"]["note"], serde_json::json!({"old": "first", "new": "second"}));
        assert_eq!(changes[0]["context"]["reason"], "refund");
    }
    let at_end = shop.ask(&["as-of", "orders", "--at", &format!("tx:{xid}"), "--format", "csv"]);
    assert_eq!(at_end, "id,customer,total\n1,ann,13.50\n2,bob,99.90\n3,cid,0.01\n");
    let who = shop.json(&["who", "ann"]);
    assert_eq!(who.len(), 2);
    assert!(who.iter().all(|row| row["xid"] == refund["xid"]), "{who:?}");
    assert_eq!(shop.json(&["who", "nobody"]).len(), 0);
    shop.refused(&["transaction", "1"], &["no transaction 1"]);
}

#[test]
fn a_value_is_found_in_every_version_that_held_it() {
    let shop = Shop::orders();
    let found = shop.json(&["find", "orders", "total", "12.5"]);
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0]["key"], &found[0]["version"]), (&Value::from("1"), &Value::from(1)));
    let versions = shop.json(&["history", "orders", "1"]);
    assert_eq!(found[0]["until"], versions[1]["when"]);
    assert_eq!(shop.json(&["find", "orders", "customer", "ann"]).len(), 2);
    assert_eq!(shop.json(&["find", "orders", "customer", ""]).len(), 1);
}

#[test]
fn a_row_whose_key_changed_says_where_it_went_on() {
    let mut shop = Shop::orders();
    shop.server.run("update orders set id = 70 where id = 1");
    shop.capture();
    let old = shop.bygone.ask(&["history", "orders", "1"]).well();
    assert!(old.stderr.contains("was given the key 70: bygone history public.orders 70"), "{}", old.stderr);
    let new = shop.bygone.ask(&["history", "orders", "70"]).well();
    assert!(new.stderr.contains("had the key 1: bygone history public.orders 1"), "{}", new.stderr);
}

#[test]
fn long_values_are_cut_short_for_people_and_whole_for_programs() {
    let mut shop = Shop::with(
        "create table pages (id int primary key, picture bytea, body text, note text);
         insert into pages values (1, convert_to(repeat('x', 500000), 'UTF8'), repeat('é', 1000000), 'old')",
    );
    shop.server.run("update pages set body = repeat('ü', 1000000), note = 'new' where id = 1");
    shop.capture();
    for (arguments, said) in [
        (&["as-of", "pages", "--at", "now"][..], "2 long values are cut short"),
        (&["history", "pages", "1"], "2 long values are cut short"),
        (&["blame", "pages", "1"], "2 long values are cut short"),
        (&["sql", "select body from pages"], "a long value is cut short"),
    ] {
        let begun = Instant::now();
        let told = shop.bygone.ask(arguments).well();
        // Wrapping all of it took some hundred times as long.
        assert!(begun.elapsed() < Duration::from_secs(10), "{arguments:?}: {:?}", begun.elapsed());
        assert!(told.stdout.contains('…') && told.stdout.len() < 100_000, "{arguments:?}: {}", told.stdout);
        assert!(told.stderr.contains(said) && told.stderr.contains("--format csv"), "{}", told.stderr);
    }
    // Both sides of a change are seen, and what changed beside it.
    let versions = shop.ask(&["history", "pages", "1"]);
    for part in ["é…", "ü…", "note: old -> new"] {
        assert!(versions.contains(part), "{part}: {versions}");
    }
    let (old, new) = ("é".repeat(1_000_000), "ü".repeat(1_000_000));
    let versions = shop.json(&["history", "pages", "1"]);
    assert!(versions[1]["changes"]["body"] == serde_json::json!({"old": old, "new": new}));
    let csv = shop.ask(&["history", "pages", "1", "--format", "csv"]);
    assert!(csv.contains(&format!("body: {old} -> {new}")));
    let now = shop.ask(&["as-of", "pages", "--at", "now", "--format", "csv"]);
    assert!(now.contains(&new) && now.contains(&"78".repeat(500_000)));
}

#[test]
fn the_nearest_of_many_long_keys_are_named_soon() {
    let shop = Shop::with(
        "create table long_keys (k text primary key);
         insert into long_keys select string_agg(md5(n || ' ' || m), '') from generate_series(1, 20000) n, generate_series(1, 16) m group by n",
    );
    let key = shop.server.value("select max(k) from long_keys").unwrap();
    let begun = Instant::now();
    shop.refused(&["history", "long_keys", &format!("{key}x")], &["never had a row", &key]);
    // To compare each with each in full took a minute.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn an_actor_that_is_not_known_is_answered_with_the_nearest() {
    let shop = Shop::orders();
    let who = shop.bygone.ask(&["who", "anne"]).well();
    assert!(who.stderr.contains("nothing by anne; did you mean ann?"), "{}", who.stderr);
}

#[test]
fn a_column_that_is_gone_is_found_by_its_last_name() {
    let mut shop = Shop::orders();
    shop.server.run(
        "alter table orders rename column customer to buyer; update orders set buyer = 'eve' where id = 1",
    );
    shop.capture();
    shop.server.run("alter table orders drop column buyer; update orders set total = 1 where id = 1");
    shop.capture();
    let found = shop.json(&["find", "orders", "buyer", "ann"]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(shop.json(&["find", "orders", "buyer", "eve"]).len(), 1);
}

#[test]
fn a_table_is_found_by_each_way_to_write_its_name() {
    let server = Postgres::start();
    server.run(
        r#"create schema "S 2"; create table "S 2".same (id int primary key); create table "S 2"."a.b" (id int primary key);
           create table "S 2"."a""b" (id int primary key)"#,
    );
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).tables(&["S 2.*"]);
    bygone.until_current();
    for name in [
        r#""S 2".same"#,
        r#"S 2."same""#,
        r#""S 2"."same""#,
        "S 2.same",
        "same",
        r#""same""#,
        r#""S 2"."a.b""#,
        r#"S 2."a.b""#,
        "a.b",
        r#""S 2"."a""b""#,
        r#"S 2."a""b""#,
    ] {
        bygone.ask(&["as-of", name, "--at", "now"]).well();
    }
    bygone.ask(&["as-of", r#""S 2.same"#, "--at", "now"]).refused(&["has no table"]);
    bygone.ask(&["as-of", r#""S 2"same"#, "--at", "now"]).refused(&["has no table"]);
}

/// A key is found in each form that PostgreSQL calls equal to it; where several rows have had such keys, they are named.
#[test]
fn a_row_is_found_by_a_key_in_another_spelling() {
    let mut shop = Shop::with(
        "create extension citext;
         create table free (id numeric primary key, v text); insert into free values (1.0, 'a'), (20, 'b');
         create table fixed (id numeric(12,3) primary key, v text); insert into fixed values (1.5, 'a');
         create table moments (at timestamptz primary key, v text); insert into moments values ('2026-11-24 10:00+00', 'a');
         create table plain (at timestamp primary key, v text); insert into plain values ('2026-11-24 10:00', 'a');
         create table days (day date primary key, v text); insert into days values ('2026-11-24', 'a');
         create table ids (id uuid primary key, v text); insert into ids values ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'a');
         create table blobs (id bytea primary key, v text); insert into blobs values ('\\xdead', 'a');
         create table names (id citext primary key, v text); insert into names values ('Ann', 'a');
         create table padded (id char(5) primary key, v text); insert into padded values ('ab', 'a');
         create table flags (id boolean primary key, v text); insert into flags values (true, 'a');
         create table floats (id float8 primary key, v text); insert into floats values (1e20, 'a');
         create table pairs (n numeric, at timestamptz, v text, primary key (n, at)); insert into pairs values (2.50, '2026-11-24 10:00+00', 'a')",
    );
    shop.server.run("update free set id = 20.00 where id = 20");
    shop.capture();
    for (table, keys) in [
        ("free", &["1.0", "1.00", "1", "+1.000", "01"][..]),
        ("fixed", &["1.500", "1.5", "1.50000"]),
        ("moments", &["2026-11-24 10:00:00+00", "2026-11-24T15:30:00+05:30", "2026-11-24T10:00Z"]),
        ("plain", &["2026-11-24 10:00:00", "2026-11-24T10:00", "2026-11-24 10:00:00.0"]),
        ("days", &["2026-11-24", "2026-11-24 00:00"]),
        ("ids", &["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "{a0eebc999c0b4ef8bb6d6bb9bd380a11}"]),
        ("blobs", &["\\xdead", "\\xDEAD", "\\336\\255"]),
        ("names", &["Ann", "ann", "ANN"]),
        ("padded", &["ab   ", "ab"]),
        ("flags", &["t", "true", "yes"]),
        ("floats", &["1e+20", "100000000000000000000"]),
    ] {
        for key in keys {
            let told = shop.json(&["history", table, key]);
            assert_eq!((told.len(), &told[0]["op"]), (1, &"snapshot".into()), "{table} {key}: {told:?}");
        }
        assert_eq!(shop.json(&["blame", table, keys[1]]).len(), 2, "{table}");
    }
    let pair = ["history", "pairs", "2.5", "2026-11-24 11:00:00+01"];
    assert_eq!(shop.json(&pair).len(), 1);
    assert_eq!(shop.json(&["history", "pairs", "--key", "at=2026-11-24 10:00Z,n=2.500"]).len(), 1);
    // What is printed and restored is the row under its own name.
    let told = shop.bygone.ask(&["history", "names", "ANN"]).well();
    assert!(told.stderr.contains("1 version of public.names Ann"), "{}", told.stderr);
    shop.server.run("update names set v = 'changed'");
    shop.capture();
    assert!(shop.ask(&["restore", "names", "aNN"]).contains("set \"v\" = 'a'"));
    shop.refused(&["history", "free", "20.0"], &["several keys are equal to it", "20, 20.00"]);
    assert_eq!(shop.json(&["history", "free", "20"]).len(), 2);
    shop.refused(&["history", "free", "3"], &["never had a row with the key 3"]);
    shop.refused(
        &["history", "moments", "2026-11-24 10:00:00+01"],
        &["never had a row", "the nearest keys are"],
    );
    shop.refused(&["restore", "days", "2026-11-25"], &["never had a row", "the nearest keys are 2026-11-24"]);
}

/// Rows that are older than a column read as its default for as long as they live, once the column is there.
#[test]
fn a_value_is_found_in_rows_that_are_older_than_their_column() {
    let mut shop =
        Shop::with("create table t (id int primary key, n int); insert into t values (1, 0), (2, 0), (3, 0)");
    shop.server.run("update t set n = 1 where id = 2; delete from t where id = 3");
    shop.capture();
    shop.server.run("alter table t add column c int default 7");
    shop.server.run("update t set c = 8 where id = 2");
    shop.capture();
    let found = shop.json(&["find", "t", "c", "7"]);
    let found: Vec<_> =
        found.iter().map(|row| (row["key"].as_str().unwrap(), row["version"].as_i64().unwrap())).collect();
    assert_eq!(found, [("1", 1), ("2", 2)]);
}
