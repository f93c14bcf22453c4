//! Columns that are hashed, from a day on: every reader shows the hashes as text, and none takes a value for a hash.

use std::fs;

use serde_json::{Value, json};

use super::Shop;
use super::engines::{duckdb, make_slabs};
use crate::support::bygone::Bygone;

const KEY: &str = "a key for the tests, of some length";

#[test]
fn every_reader_shows_the_hash_and_none_a_value_of_before() {
    let mut shop = Shop::with(
        "create extension pgcrypto;
         create table cards (id int primary key, holder text, number int);
         insert into cards select n, 'holder ' || n, 4000 + n from generate_series(1, 20) n",
    );
    // Given a column of numbers that is hashed from the second commit on, slabs, and the facts as rows
    shop.server
        .run("update cards set holder = 'before' where id = 1; update cards set number = null where id = 2");
    shop.capture();
    shop.server.run("create database facts");
    let key = shop.scratch.join("key");
    fs::write(&key, KEY).unwrap();
    let facts = shop.server.url_as("postgres", "facts");
    let options = [
        "--hash-key-file",
        key.to_str().unwrap(),
        "--hash-column",
        "cards.number",
        "--facts",
        &facts,
        "--slab-rows",
        "10",
    ];
    shop.bygone = Bygone::new(shop.server.url(), shop.scratch.join("history")).options(&options);
    shop.server.run("update cards set holder = 'after' where id = 3; insert into cards values (21, 'new', 4021); delete from cards where id = 4");
    shop.capture();
    shop.server.run("update cards set holder = 'again'");
    shop.capture();
    make_slabs(&shop, "10", 1);
    shop.capture();
    // When each is asked for the table of now
    let sql =
        format!("select id, encode(hmac(number::text, '{KEY}', 'sha256'), 'hex') from cards order by id");
    let now: Vec<Value> = shop
        .server
        .connect()
        .query(&sql, &[])
        .unwrap()
        .iter()
        .map(|row| json!([row.get::<_, i32>(0), row.get::<_, Option<String>>(1)]))
        .collect();
    // Then it is what the server hashes
    let cards = "select id, number from cards order by id";
    let shown = |rows: Vec<Value>| -> Vec<Value> {
        rows.iter().map(|row| json!([row["id"], row["number"]])).collect()
    };
    assert_eq!(shown(shop.json(&["as-of", "cards", "--at", "now"])), now);
    assert_eq!(shown(shop.json(&["sql", cards])), now);
    let views = shop.ask(&["views", "duckdb"]);
    assert_eq!(duckdb(&views, &format!("{cards};\n")), now);
    let mut target = shop.server.connect_to("facts");
    let rows = target.query("select id, number from bygone.cards order by id", &[]).unwrap();
    let rows: Vec<Value> =
        rows.iter().map(|row| json!([row.get::<_, i32>(0), row.get::<_, Option<String>>(1)])).collect();
    assert_eq!(rows, now);
    // And no history shows a number where hashes are.
    let sql = "select count(*)::int, count(number)::int, min(length(number))::int from cards_history";
    for counts in [duckdb(&views, &format!("{sql};\n"))[0].clone(), {
        let row = &shop.json(&["sql", sql])[0];
        Value::Array(row.as_object().unwrap().values().cloned().collect())
    }] {
        let [all, known, least] = [0, 1, 2].map(|at| counts[at].as_i64().unwrap());
        assert!(all > 60 && known < all - 20 && least == 64, "{counts}");
    }
    // As it was before, it is shown as it was.
    let events = shop.json(&["log"]);
    let first = events[0]["wal_to"].as_str().unwrap();
    let before = shop.json(&["as-of", "cards", "--at", first]);
    assert_eq!((before.len(), &before[4]["number"]), (20, &json!(4005)), "{before:?}");
    shop.ask(&["verify"]);
    // Who compares with a value is told that hashes are compared; who knows the hash finds the row.
    let hash = now[4][1].as_str().unwrap();
    for (literal, told) in [("'4005'", true), (&*format!("'{hash}'"), false)] {
        let found = shop
            .bygone
            .ask(&[
                "as-of",
                "cards",
                "--at",
                "now",
                "--where",
                &format!("number = {literal}"),
                "--format",
                "csv",
            ])
            .well();
        assert_eq!(found.stderr.contains("number is kept as hashes"), told, "{}", found.stderr);
        assert_eq!(found.stdout.lines().count(), if told { 1 } else { 2 }, "{}", found.stdout);
    }
    for arguments in [
        &["as-of", "cards", "--at", "now", "--where", "number like '4%'"][..],
        &["as-of", "cards", "--at", "now", "--where", "number in ('4005', null)"],
        &["find", "cards", "number", "4005"],
        &["restore", "cards", "--where", "number = '4005'", "--at", "now"],
    ] {
        let said = shop.bygone.ask(arguments).well().stderr;
        assert!(
            said.contains("number is kept as hashes, and compared as such: bygone hash prints"),
            "{arguments:?}: {said}"
        );
    }
    let then = shop
        .bygone
        .ask(&["as-of", "cards", "--at", first, "--where", "number = 4005", "--format", "csv"])
        .well();
    assert!(!then.stderr.contains("hashes") && then.stdout.lines().count() == 2, "{then:?}");
}
