//! Every list is a table, JSON or CSV, of the same rows.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use serde_json::{Map, Value};

use super::Shop;

/// The records of a CSV text, as Python reads it.
#[track_caller]
fn records(csv: &str) -> Vec<Vec<String>> {
    let mut python = Command::new("python3")
        .args(["-c", "import csv, io, json, sys\nprint(json.dumps(list(csv.reader(io.StringIO(sys.stdin.buffer.read().decode(), newline='')))))"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut python.stdin.take().unwrap(), csv.as_bytes()).unwrap();
    let done = python.wait_with_output().unwrap();
    assert!(done.status.success(), "{csv}");
    serde_json::from_slice(&done.stdout).unwrap()
}

/// A moment of JSON (`2026-11-24T10:00:00Z`) as PostgreSQL prints it; another text as it is.
fn moment(text: &str) -> String {
    let (Some(day), Some(clock)) = (text.get(..10), text.get(11..)) else { return text.to_owned() };
    let is_moment = day.bytes().filter(|byte| *byte == b'-').count() == 2 && text.as_bytes()[10] == b'T';
    if !is_moment {
        return text.to_owned();
    }
    let clock = clock.strip_suffix('Z').or(clock.strip_suffix("+00:00")).unwrap_or(clock);
    let clock = if clock.contains('.') { clock.trim_end_matches('0').trim_end_matches('.') } else { clock };
    format!("{day} {clock}+00")
}

#[test]
fn each_list_has_the_same_rows_in_json_and_csv() {
    let mut shop = Shop::orders();
    let before = shop.server.value("select pg_current_wal_insert_lsn()").unwrap();
    shop.server.run(
        "begin; select pg_logical_emit_message(true, 'bygone', '{\"actor\": \"d, \\\"q\\\"\"}');
         update orders set customer = E'a \"quote\", a comma\\nand a line' where id = 1; delete from notes where a = 2; commit",
    );
    shop.capture();
    let last = shop.json(&["transactions", "--limit", "1"])[0]["xid"].to_string();
    let mut counts = BTreeMap::new();
    for arguments in [
        &["tables"][..],
        &["log"],
        &["history", "orders", "1"],
        &["as-of", "orders", "--at", "now"],
        &["diff", "orders", "--from", &before],
        &["blame", "orders", "1"],
        &["transactions"],
        &["transaction", &last],
        &["who", "d, \"q\""],
        &["find", "orders", "customer", "ann"],
        &["sql", "select * from orders_history"],
    ] {
        let mut with_format = arguments.to_vec();
        with_format.extend(["--format", "csv"]);
        let mut records = records(&shop.ask(&with_format)).into_iter();
        let head = records.next().unwrap_or_else(|| panic!("{arguments:?} has no heading"));
        let told: Vec<Map<String, Value>> =
            shop.json(arguments).into_iter().map(|row| serde_json::from_value(row).unwrap()).collect();
        assert_eq!(records.len(), told.len(), "{arguments:?}");
        counts.insert(arguments[0], told.len());
        for (record, object) in records.zip(told) {
            assert_eq!(record.len(), head.len(), "{arguments:?}: {record:?} under {head:?}");
            // Plain values are the same; what is nested is JSON within the field, or one line for each.
            for (name, field) in head.iter().zip(&record) {
                match &object[name.as_str()] {
                    Value::Null => assert_eq!(field, "", "{arguments:?}: {name}"),
                    Value::String(text) => assert_eq!(moment(field), moment(text), "{arguments:?}: {name}"),
                    Value::Number(number) => assert_eq!(field, &number.to_string(), "{arguments:?}: {name}"),
                    _ => {}
                }
            }
        }
    }
    let expected = [
        ("as-of", 2),
        ("blame", 3),
        ("diff", 1),
        ("find", 2),
        ("history", 3),
        ("log", 4),
        ("sql", 7),
        ("tables", 2),
        ("transaction", 2),
        ("transactions", 3),
        ("who", 2),
    ];
    assert_eq!(counts, BTreeMap::from(expected));
}

/// What `tables` says is what the files and the facts are.
#[test]
fn tables_tell_first_and_last_moment_bytes_and_schemas() {
    let mut shop = Shop::orders();
    shop.server.run("alter table orders add column note text; update orders set note = 'x' where id = 1");
    shop.capture();
    shop.server.run("create table empty (id int primary key)");
    shop.capture();
    let tables = shop.json(&["tables"]);
    let log = shop.json(&["log"]);
    let bytes: u64 = log.iter().map(|commit| commit["bytes"].as_u64().unwrap()).sum();
    let mut adds: BTreeMap<String, u64> = BTreeMap::new();
    for entry in std::fs::read_dir(shop.scratch.join("history/log")).unwrap() {
        let commit: Value = serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        for add in commit["add"].as_array().unwrap() {
            *adds.entry(add["table"].as_str().unwrap().to_owned()).or_default() +=
                add["bytes"].as_u64().unwrap();
        }
    }
    assert_eq!(adds.values().sum::<u64>(), bytes);
    for (row, (table, schemas)) in tables.iter().zip([("empty", 1), ("notes", 1), ("orders", 2)]) {
        assert_eq!(row["table"], format!("public.{table}"));
        assert_eq!(row["schemas"], schemas, "{table}");
        assert_eq!(
            row["bytes"].as_u64().unwrap(),
            adds.get(&format!("public.{table}")).copied().unwrap_or(0),
            "{table}"
        );
        let facts = shop.json(&["sql", &format!("select min(_valid_from) as first, max(_valid_from) as last, count(*) as versions from {table}_history")]);
        assert_eq!(row["versions"], facts[0]["versions"], "{table}");
        for end in ["first", "last"] {
            if row["versions"] == 0 {
                assert!(row[end].is_string(), "{table} is known since its copy: {row}");
            } else {
                let [told, known] = [&row[end], &facts[0][end]].map(|at| moment(at.as_str().unwrap()));
                assert_eq!(told, known, "{table}, {end}");
            }
        }
    }
}
