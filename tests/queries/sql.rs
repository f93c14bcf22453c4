//! `bygone sql` gives the rows that the other commands give, and says what it cannot do.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::Shop;
use super::engines::make_slabs;
use crate::support::bygone::Bygone;

/// Many types, with values that Arrow's types hold.
const PLAIN: &str = r#"
    create type mood as enum ('sad', 'ok');
    create table plain (
        id int primary key, flag boolean, small smallint, big bigint, money numeric(12,2), free numeric, single real, dbl float8,
        word varchar(20), padded char(5), label mood, bytes bytea, day date, at timestamp, atz timestamptz, clock time, unique_id uuid,
        document jsonb, ints int[], texts text[], "Odd ""name""" text, gone text);
    insert into plain values
        (1, true, -32768, 9223372036854775807, 12.50, 1e-30, 0.1, 1e300, 'a,"b"', 'ab', 'ok', '\x00ff', '2026-11-24', '2026-11-24 10:00',
         '2026-11-24 10:00:00.123456+05:30', '24:00', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{"b": 1}', '{1,null,3}', '{"",null,"NULL","a b","c\"d"}', 'x', 'y'),
        (2, false, 0, 0, -0.01, 12345678901234567890, 16777216, 5e-324, '', '', 'sad', '', '0001-01-01', '0044-03-15 12:00 BC', '1970-01-01 00:00+00',
         '00:00:00.000001', null, 'null', '{}', '{}', '', ''),
        (3, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null),
        (-4, true, 1, 1, 0, 10, 1e15, 1e15, '\.', ' a', 'ok', '\x5c', '294276-12-31', '250000-12-31 23:59:59.999999', '0044-03-15 12:00 BC', '12:00',
         '00000000-0000-0000-0000-000000000000', '[1.5]', '{-1}', '{é,漢字}', ' ', 'z')"#;

#[test]
fn sql_gives_the_rows_of_as_of_at_every_moment() {
    let mut shop = Shop::with(PLAIN);
    let mut moments = Vec::new();
    for (at, change) in [
        "select 1",
        "update plain set money = 1, dbl = 0.25, word = null where id = 1",
        "delete from plain where id = 2; insert into plain (id, word) values (2, 'again'), (5, 'new')",
        "alter table plain add column added int default 7",
        "update plain set added = null where id = 3",
        "alter table plain drop column gone; update plain set small = 2 where id = 1",
        "alter table plain rename column word to phrase; update plain set phrase = 'renamed' where id = -4",
        "update plain set id = 60 where id = 5",
        "truncate plain",
    ]
    .iter()
    .enumerate()
    {
        shop.server.run(change);
        shop.server.run("update plain set flag = not coalesce(flag, false) where id = 1");
        moments.push(shop.save("plain", &format!("m{at}")));
        if at % 3 == 1 {
            shop.capture();
        }
    }
    shop.server.run("insert into plain (id) values (1000)");
    shop.capture();
    // Looked for among the facts, then in slabs.
    for slabs in [false, true] {
        if slabs {
            make_slabs(&shop, "4", 2);
        }
        for (at, (lsn, time)) in moments.iter().enumerate() {
            let expected = shop.ask(&["as-of", "plain", "--at", lsn, "--format", "csv"]);
            shop.assert_saved(&expected, &format!("m{at}"));
            let rows = expected.lines().count() - 1;
            for moment in [lsn, time] {
                let told = shop.ask(&[
                    "sql",
                    &format!("select * from plain_as_of('{moment}') order by id"),
                    "--format",
                    "csv",
                ]);
                assert_eq!(told, expected, "moment {at}");
                // One row by its key, which is found in another way.
                let row = shop.ask(&[
                    "sql",
                    &format!("select * from plain_as_of('{moment}') where id = 1"),
                    "--format",
                    "csv",
                ]);
                let expected: Vec<&str> = expected
                    .lines()
                    .enumerate()
                    .filter(|(at, line)| *at == 0 || line.starts_with("1,"))
                    .map(|(_, line)| line)
                    .collect();
                assert_eq!(row.lines().collect::<Vec<_>>(), expected, "moment {at}");
                let some =
                    format!("select count(*) as n from (select flag from plain_as_of('{moment}') limit 2)");
                assert_eq!(shop.json(&["sql", &some])[0]["n"], rows.min(2), "moment {at}");
                let all = format!("select count(*) as n from plain_as_of('{moment}')");
                assert_eq!(shop.json(&["sql", &all])[0]["n"], rows, "moment {at}");
            }
        }
    }
    let now = shop.ask(&["as-of", "plain", "--at", "now", "--format", "csv"]);
    assert_eq!(shop.ask(&["sql", "select * from plain order by id", "--format", "csv"]), now);
    assert_eq!(shop.ask(&["sql", "select * from public.plain order by id;", "--format", "csv"]), now);
    // Every fact is there, with the values and the names that its columns have had.
    let facts = shop.json(&["sql", "select id, phrase, gone, added, _entity_id, _version, _valid_from, _valid_to, _changed, _op, _schema from plain_history order by _entity_id, _version"]);
    for pair in facts.windows(2) {
        let next = if pair[0]["_entity_id"] == pair[1]["_entity_id"] {
            &pair[1]["_valid_from"]
        } else {
            &Value::Null
        };
        assert_eq!(&pair[0]["_valid_to"], next, "{} {}", pair[0], pair[1]);
    }
    let first = facts.iter().find(|fact| fact["_entity_id"] == "1").unwrap();
    assert_eq!(
        (&first["phrase"], &first["gone"], &first["added"]),
        (&json!("a,\"b\""), &json!("y"), &Value::Null)
    );
    assert_eq!(facts.iter().filter(|fact| fact["_op"] == "truncate").count(), 5);
    let count = shop.json(&["sql", "select count(*) as n from plain_history"]);
    assert_eq!(count[0]["n"], facts.len());
}

#[test]
fn conditions_that_skip_files_leave_no_row_out() {
    let mut shop = Shop::orders();
    let before = shop.server.value("select pg_current_wal_insert_lsn()").unwrap();
    for total in 20..24 {
        shop.server.run(&format!("update orders set total = {total}, customer = null where id <> 1; insert into orders values ({total}, 'n', 0)"));
        shop.capture();
    }
    let all = shop.json(&["sql", "select * from orders_history order by _lsn, _seq"]);
    let lsn = all[all.len() / 2]["_lsn"].as_i64().unwrap();
    let time = all[all.len() / 2]["_valid_from"].as_str().unwrap();
    for (condition, holds) in [
        (
            "_entity_id = '2'".to_owned(),
            &(|fact: &Value| fact["_entity_id"] == "2") as &dyn Fn(&Value) -> bool,
        ),
        ("id = 2".to_owned(), &|fact| fact["id"] == 2),
        ("2 = id and _version > 1".to_owned(), &|fact| {
            fact["id"] == 2 && fact["_version"].as_i64() > Some(1)
        }),
        ("id in (1, 2, 77)".to_owned(), &|fact| fact["id"] == 1 || fact["id"] == 2),
        ("id = 1 or id = 3".to_owned(), &|fact| fact["id"] == 1 || fact["id"] == 3),
        ("_actor = 'ann'".to_owned(), &|fact| fact["_actor"] == "ann"),
        (format!("_lsn = {lsn}"), &|fact| fact["_lsn"] == lsn),
        (format!("_lsn < {lsn}"), &|fact| fact["_lsn"].as_i64().unwrap() < lsn),
        (format!("_lsn <= {lsn} and id <> 1"), &|fact| {
            fact["_lsn"].as_i64().unwrap() <= lsn && fact["id"] != 1
        }),
        (format!("_valid_from <= timestamp '{time}'"), &|fact| fact["_valid_from"].as_str().unwrap() <= time),
        (format!("_valid_from > timestamp '{time}'"), &|fact| fact["_valid_from"].as_str().unwrap() > time),
        (format!("timestamp '{time}' <= _valid_from"), &|fact| fact["_valid_from"].as_str().unwrap() >= time),
        (format!("_lsn > {lsn}"), &|fact| fact["_lsn"].as_i64().unwrap() > lsn),
        (format!("_lsn >= {lsn} and _valid_from >= timestamp '{time}'"), &|fact| {
            fact["_lsn"].as_i64().unwrap() >= lsn
        }),
    ] {
        let told = shop
            .json(&["sql", &format!("select * from orders_history where {condition} order by _lsn, _seq")]);
        let expected: Vec<&Value> = all.iter().filter(|fact| holds(fact)).collect();
        assert!(!expected.is_empty(), "{condition} proves nothing");
        assert_eq!(told.iter().collect::<Vec<_>>(), expected, "{condition}");
    }
    assert_eq!(shop.json(&["sql", "select id from orders where id = 77"]).len(), 0);
    assert_eq!(shop.json(&["sql", "select id from orders limit 1"]).len(), 1);
    // Files that came later are not opened at all.
    let directory = shop.scratch.join("history/tables/public.orders");
    let days = fs::read_dir(&directory)
        .unwrap()
        .map(|day| day.unwrap().path())
        .filter(|day| !day.ends_with("_delta_log"));
    let mut files: Vec<_> =
        days.flat_map(|day| fs::read_dir(day).unwrap()).map(|file| file.unwrap().path()).collect();
    files.sort_by_key(|path| path.file_name().unwrap().to_owned());
    // Names begin with the number of the commit.
    let number = |path: &std::path::Path| path.file_name().unwrap().to_string_lossy()[..20].to_owned();
    let newest = number(files.last().unwrap());
    let late = files.into_iter().filter(|path| number(path) == newest);
    late.for_each(|path| fs::remove_file(path).unwrap());
    assert_eq!(shop.json(&["sql", &format!("select * from orders_as_of('{before}')")]).len(), 2);
    assert!(
        !shop
            .json(&["sql", &format!("select id, _valid_from from orders_history where _lsn < {lsn}")])
            .is_empty()
    );
    shop.refused(&["sql", "select * from orders"], &["cannot read"]);
}

#[test]
fn what_a_type_cannot_hold_is_null_with_a_word() {
    let mut shop = Shop::with(
        "create table t (id int primary key, day date, n numeric(4,1)); insert into t values (1, 'infinity', 'NaN'), (2, null, 1)",
    );
    let moment = shop.server.value("select pg_current_wal_insert_lsn()").unwrap();
    shop.server.run("update t set n = 2 where id = 2");
    shop.server.run("update t set n = 3 where id = 2");
    shop.capture();
    for slabs in [false, true] {
        if slabs {
            make_slabs(&shop, "2", 1);
        }
        let query = format!("select day, n from t_as_of('{moment}') order by id");
        let told = shop.bygone.ask(&["sql", &query, "--format", "csv"]).well();
        assert_eq!(told.stdout, "day,n\n,\n,1.0\n");
        assert_eq!(told.stderr.matches("1 row of t has a value that").count(), 1, "{}", told.stderr);
        assert!(told.stderr.contains("_raw"), "{}", told.stderr);
        let told = shop.bygone.ask(&["sql", &format!("select id from t_as_of('{moment}')")]).well();
        assert!(!told.stderr.contains("_raw"), "{}", told.stderr);
    }
    let raw = shop.json(&["sql", "select _raw from t_history where id = 1"]);
    assert_eq!(raw, [json!({"_raw": {"day": "infinity", "n": "NaN"}})]);
    let told = shop.bygone.ask(&["sql", "select id from t"]).well();
    assert!(!told.stderr.contains("_raw"), "{}", told.stderr);
}

/// Behind the last slab its rows stand beside the facts since, whatever became of them.
#[test]
fn the_rows_of_the_last_slab_and_the_facts_since_are_one_table() {
    let mut shop = Shop::with(
        "create table t (id int primary key, v text, n numeric(4,1));
         insert into t select n, 'v' || n, n from generate_series(1, 40) n",
    );
    for change in ["update t set n = n + 1 where id <= 30", "update t set v = 'x' where id > 10"] {
        shop.server.run(change);
    }
    shop.capture();
    make_slabs(&shop, "10", 1);
    let mut moments = Vec::new();
    for (at, change) in [
        "select 1",
        "update t set v = 'since' where id in (1, 20, 40)",
        "delete from t where id in (2, 20); insert into t values (20, 'again', 9.5), (41, 'new', 0)",
        "alter table t add column added int default 7; update t set id = 50 where id = 41",
        "update t set added = null where id = 3",
        "truncate t; insert into t values (1, 'alone', 1)",
    ]
    .iter()
    .enumerate()
    {
        shop.server.run(change);
        moments.push(shop.save("t", &format!("m{at}")));
        shop.capture();
        let now = shop.ask(&["as-of", "t", "--at", "now", "--format", "csv"]);
        assert_eq!(shop.ask(&["sql", "select * from t order by id", "--format", "csv"]), now, "{change}");
    }
    for (at, (lsn, time)) in moments.iter().enumerate() {
        for moment in [lsn, time] {
            let query = format!("select * from t_as_of('{moment}') order by id");
            let told = shop.ask(&["sql", &query, "--format", "csv"]);
            assert_eq!(told, shop.ask(&["as-of", "t", "--at", moment, "--format", "csv"]), "moment {at}");
        }
    }
}

#[test]
fn tables_of_one_moment_join() {
    let shop = Shop::orders();
    let refund = shop.json(&["who", "ann"])[0]["xid"].clone();
    let told = shop.json(&[
        "sql",
        &format!(
            "select o.customer, n.note from orders_as_of('tx:{refund}') o join notes_as_of('tx:{refund}') n on n.a = o.id order by o.id"
        ),
    ]);
    assert_eq!(
        told,
        [json!({"customer": "ann", "note": "second"}), json!({"customer": "bob", "note": null})]
    );
    // A moment may be worked out.
    shop.refused(
        &["sql", "select * from orders_as_of(now() - interval '1 year')"],
        &["nothing is known of public.orders", "begins at"],
    );
    let lsn = shop.json(&["sql", "select max(_lsn) as l from orders_history"])[0]["l"].clone();
    assert_eq!(shop.json(&["sql", &format!("select * from orders_as_of({lsn})")]).len(), 2);
}

#[test]
fn a_function_is_found_by_its_schema_too() {
    let mut shop = Shop::with(
        r#"create table orders (id int primary key);
        create schema "Shop 2";
        create table "Shop 2".orders (id int primary key);
        create table "Shop 2"."It's ""A""" (id int primary key);
        insert into orders values (1);
        insert into "Shop 2".orders values (2);
        insert into "Shop 2"."It's ""A""" values (3)"#,
    );
    shop.bygone =
        Bygone::new(shop.server.url(), shop.scratch.join("history")).tables(&["public.*", "Shop 2.*"]);
    shop.capture();
    let (moment, _) = shop.save("orders", "m");
    shop.server.run(r#"delete from orders; delete from "Shop 2".orders; delete from "Shop 2"."It's ""A""""#);
    shop.capture();
    for (function, id) in [
        ("orders_as_of", 1),
        ("Public.Orders_As_Of", 1),
        ("bygone.public.orders_as_of", 1),
        (r#""Shop 2".orders_as_of"#, 2),
        (r#""Shop 2"."orders_as_of""#, 2),
        (r#""Shop 2"."It's ""A""_as_of""#, 3),
        (r#""It's ""A""_as_of""#, 3),
        (r#""Shop 2_orders_as_of""#, 2),
        ("public.public_orders_as_of", 1),
    ] {
        let told = shop.json(&["sql", &format!("select id from {function}('{moment}')")]);
        assert_eq!(told, [json!({"id": id})], "{function}");
        shop.ask(&["sql", &format!("explain select id from {function}('{moment}')")]);
    }
    shop.refused(
        &["sql", "select * from public.oders_as_of('now')"],
        &["no relation oders_as_of", "did you mean"],
    );
}

#[test]
fn what_cannot_be_answered_is_refused_with_a_remedy() {
    let shop = Shop::orders();
    for (query, words) in [
        ("select * from oders", &["no relation oders", "did you mean orders"][..]),
        ("select * from orders_as_off('now')", &["did you mean orders_as_of"]),
        ("select totl from orders", &["totl", "total"]),
        ("select * from orders_as_of('2100-01-01T00:00:00Z')", &["nothing is known", "known until"]),
        ("select * from orders_as_of('2020-01-01')", &["nothing is known of public.orders", "begins at"]),
        ("select * from orders_as_of()", &["takes one moment"]),
        ("select * from orders_as_of(true)", &["a moment is"]),
        ("create table t (a int)", &["read, not written"]),
        ("insert into orders select * from orders", &["read, not written"]),
        ("copy orders to 'x.csv'", &["read, not written"]),
        ("select", &["expected"]),
        ("selec 1", &["selec"]),
        ("", &["no statement"]),
        ("select 1 / 0", &["divide by zero"]),
    ] {
        shop.refused(&["sql", query], words);
    }
}

#[test]
fn lists_and_maps_are_looked_into_and_a_query_may_begin_with_a_remark() {
    let shop = Shop::orders();
    let query = "-- what changed\nselect id, _changed[1] as first, array_has(_changed, 'total') as total from orders_history \
                 where _op = 'update' order by id";
    let rows = shop.json(&["sql", query]);
    assert_eq!(
        Value::from(rows),
        json!([{"id": 1, "first": "total", "total": true}, {"id": 2, "first": "customer", "total": true}])
    );
}

#[test]
fn a_semicolon_between_dollars_ends_no_statement() {
    let shop = Shop::orders();
    assert_eq!(
        shop.json(&["sql", "select $$x;y$$ as a, count(*) as n from orders"]),
        [json!({"a": "x;y", "n": 2})]
    );
}

#[test]
fn standard_input_is_a_script() {
    let shop = Shop::orders();
    let run = |text: &str| {
        let mut running = Command::new(env!("CARGO_BIN_EXE_bygone"))
            .args(["sql", "--format", "csv", "--history", shop.scratch.join("history").to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        running.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let done = running.wait_with_output().unwrap();
        (done.status.code(), String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let (code, told, _) =
        run("-- how many; really\nselect count(*) as n from orders;\nselect ';' as c,\n 1 as one");
    assert_eq!((code, told.as_str()), (Some(0), "n\n2\nc,one\n;,1\n"));
    let (code, told, said) = run("select 1 as a; select nope; select 2 as b");
    assert_eq!((code, told.as_str()), (Some(1), "a\n1\n"));
    assert!(said.contains("nope"), "{said}");
}

/// What a union or a default puts beside documents is none, though the column is one of documents.
#[test]
fn a_text_beside_documents_is_a_string_in_json() {
    let shop =
        Shop::with("create table d (id int primary key, doc jsonb); insert into d values (1, '{\"a\": 1}')");
    let mut rows = shop.json(&["sql", "select doc as x from d union all select 'plain text'"]);
    rows.sort_by_key(|row| row["x"].is_string());
    assert_eq!(rows, [serde_json::json!({"x": {"a": 1}}), serde_json::json!({"x": "plain text"})]);
}

/// Among the rows of a table a name of bygone's own is the user's.
#[test]
fn a_column_called_like_one_of_ours_is_the_users_among_rows() {
    let mut shop = Shop::with("create table t (id int primary key); insert into t values (1), (2)");
    shop.server.run("alter table t add column _entity_id text default 'x', add column _lsn bigint default 7");
    shop.capture();
    for condition in ["_entity_id = 'x'", "_lsn = 7", "_lsn <= 7"] {
        let rows =
            shop.ask(&["sql", "--format", "csv", &format!("select id from t where {condition} order by id")]);
        assert_eq!(rows, "id\n1\n2\n", "{condition}");
    }
}
