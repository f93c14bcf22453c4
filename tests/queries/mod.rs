//! What the reading commands answer is what the source returned then, for every type and over changes of columns.
//!
//! The judge is PostgreSQL: tables saved at a moment are compared, as their own types, with what a command prints. DuckDB
//! reads the views that bygone prints, and has to come to the same rows.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::bygone::Bygone;
use crate::support::moto::Moto;
use crate::support::postgres::Postgres;
use crate::support::scratch::Scratch;

/// A source, and a history of its schema `public`.
struct Shop {
    server: Postgres,
    bygone: Bygone,
    scratch: Scratch,
}

impl Shop {
    /// With these tables in it before the history begins.
    fn with(sql: &str) -> Self {
        let server = Postgres::start();
        server.run(&format!("create schema saved; {sql}"));
        let scratch = Scratch::new("history");
        let mut bygone = Bygone::new(server.url(), scratch.join("history"));
        bygone.until_current();
        Self { server, bygone, scratch }
    }

    fn capture(&mut self) {
        self.bygone.until_current();
    }

    fn orders() -> Self {
        let mut shop = Self::with(
            "create table orders (id bigint primary key, customer text, total numeric(12,2));
             insert into orders values (1, 'ann', 12.50), (2, 'bob', 99.90), (3, 'cid', 0.01);
             create table notes (a int, b text, note text, primary key (b, a));
             insert into notes values (1, 'x,y', 'first'), (2, 'eu', null)",
        );
        shop.server.run(
            r#"begin; select pg_logical_emit_message(true, 'bygone', '{"actor": "ann", "reason": "refund"}');
               update orders set total = 13.50 where id = 1; update notes set note = 'second' where a = 1; commit"#,
        );
        shop.server.run(
            "update orders set customer = '', total = null where id = 2; delete from orders where id = 3",
        );
        shop.capture();
        shop
    }

    /// A successful command's output.
    #[track_caller]
    fn ask(&self, arguments: &[&str]) -> String {
        self.bygone.ask(arguments).well().stdout
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let mut all = arguments.to_vec();
        all.extend(["--format", "json"]);
        let text = self.ask(&all);
        let Ok(Value::Array(rows)) = serde_json::from_str(&text) else { panic!("no JSON array: {text}") };
        rows
    }

    /// A command that must fail without printing a result.
    #[track_caller]
    fn refused(&self, arguments: &[&str], words: &[&str]) {
        let outcome = self.bygone.ask(arguments).refused(words);
        assert_eq!(outcome.stdout, "", "{arguments:?}");
    }

    /// What is there now, saved as `saved.<name>`: where the WAL stood, and the time.
    fn save(&self, table: &str, name: &str) -> (String, String) {
        self.server.run(&format!("create table saved.{name} as table {table}"));
        let lsn = self.server.value("select pg_current_wal_insert_lsn()").unwrap();
        let time = self
            .server
            .value("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US+00')");
        std::thread::sleep(Duration::from_millis(5));
        (lsn, time.unwrap())
    }

    /// The CSV is the saved table: every column cast to its own type.
    #[track_caller]
    fn assert_saved(&self, csv: &str, saved: &str) {
        let mut client = self.server.connect();
        client
            .batch_execute(&format!("drop table if exists told; create temp table told (like saved.{saved})"))
            .unwrap();
        let mut copy = client.copy_in("copy told from stdin (format csv, header match)").unwrap();
        copy.write_all(csv.as_bytes()).unwrap();
        copy.finish().unwrap_or_else(|error| panic!("{saved}: {error}\n{csv}"));
        let differences = client
            .query_one(
                &format!(
                    "select count(*)::bigint, min(line) from (
                        (select 'missing ' || t::text as line from saved.{saved} t except all select 'missing ' || t::text from told t)
                        union all
                        (select 'extra ' || t::text from told t except all select 'extra ' || t::text from saved.{saved} t)) d"
                ),
                &[],
            )
            .unwrap();
        let (count, line): (i64, Option<String>) = (differences.get(0), differences.get(1));
        assert_eq!(count, 0, "{saved}: {}\n{csv}", line.unwrap_or_default());
    }
}

/// Many types, with values that are easily lost.
const WIDE: &str = r#"
    create type mood as enum ('sad', 'ok');
    create domain short as varchar(5);
    create table wide (
        id int primary key, flag boolean, small smallint, big bigint, money numeric(38,10), free numeric, single real,
        dbl float8, word varchar(20), padded char(5), any_text text, label mood, domained short, bytes bytea, day date,
        at timestamp, atz timestamptz, clock time, span interval, unique_id uuid, document json, binary_document jsonb,
        ints int[], texts text[], floats float8[], times timestamptz[], ragged int[], net inet, period tstzrange, bits bit(3), gone text);
    insert into wide values
        (1, true, -32768, 9223372036854775807, 'nan', 'Infinity', '1e-40', 5e-324, 'a,"b"', 'ab', E'line\nbreak\ttab', 'ok', 'five5',
         '\x00ff', 'infinity', '-infinity', 'infinity', '24:00', '1 mon -2 days 03:00', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11',
         '{"b": 1,  "a": 1}', '{"b": 1, "a": 1e30}', '{1,null,3}', '{"",null,"NULL","a b","c\"d"}', '{nan,1e300,-0}',
         '{2026-11-24 10:00+05:30,infinity}', '{{1,2},{3,4}}', '10.0.0.1/8', '[2026-01-01,)', '101', 'x'),
        (2, false, 0, -9223372036854775808, 0.0000000001, 1e-30, 'nan', '-infinity', '', '', '', 'sad', '', '', '4713-01-01 BC',
         '0001-01-01 00:00:00 BC', '2026-11-24 10:00:00.123456+00', '00:00:00.000001', '0', null, 'null', 'null', '{}', '{}', '{}',
         '{}', '{}', '::1', 'empty', '000', ''),
        (3, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null,
         null, null, null, null, null, null, null, null, null, null),
        (-4, true, 1, 1, 12345678901234567890.5, 10, 16777216, 1e15, '\.', ' a', ' ', 'ok', ' ', '\x5c', '294276-12-31',
         '294276-12-31 23:59:59.999999', '0044-03-15 12:00 BC', '12:00', '1 day', '00000000-0000-0000-0000-000000000000', '[]', '[]',
         '{-1}', '{é,漢字}', '{0.1}', null, '[0:1]={7,8}', '0.0.0.0/0', '(,)', '111', '\x')"#;

#[test]
fn a_table_as_of_any_moment_is_what_the_source_returned() {
    let mut shop = Shop::with(WIDE);
    let changes = [
        "select 1",
        "update wide set money = 1, dbl = 0.1, any_text = null where id = 1",
        "delete from wide where id = 2; insert into wide (id, any_text) values (2, 'again'), (5, repeat('long ', 2000))",
        "alter table wide add column added int default 7",
        "update wide set added = null where id = 3; update wide set small = 5 where id = 5",
        "alter table wide drop column gone; update wide set word = 'after' where id = 1",
        "alter table wide add column gone int; update wide set gone = 5 where id = 1",
        "alter table wide rename column word to phrase; update wide set phrase = 'renamed' where id = -4",
        "update wide set id = 60 where id = 5",
        "insert into wide (id) values (100)",
        "truncate wide",
        "insert into wide (id, money) values (1, 3.5)",
    ];
    let mut moments = Vec::new();
    for (at, change) in changes.iter().enumerate() {
        shop.server.run(change);
        // A change of columns alone is told with the next row change.
        shop.server.run("update wide set flag = not coalesce(flag, false) where id = 1");
        moments.push(shop.save("wide", &format!("m{at}")));
        if at % 4 == 1 {
            shop.capture();
        }
    }
    shop.server.run("insert into wide (id) values (1000)");
    shop.capture();
    for (at, (lsn, time)) in moments.iter().enumerate() {
        for moment in [lsn, time] {
            let csv = shop.ask(&["as-of", "wide", "--at", moment, "--format", "csv"]);
            shop.assert_saved(&csv, &format!("m{at}"));
        }
    }
    let views = shop.ask(&["views", "duckdb"]);
    let mut checks = String::new();
    for (at, (_, time)) in moments.iter().enumerate() {
        let file = shop.scratch.join(format!("m{at}.parquet"));
        let path = file.to_str().unwrap();
        shop.ask(&["as-of", "wide", "--at", time, "--format", "parquet", "--output", path]);
        // What Parquet's types cannot hold is null in the file; the view has infinity back.
        let infinite = "* replace (
            case when isinf(day) then null else day end as day, case when isinf(\"at\") then null else \"at\" end as \"at\",
            case when isinf(atz) then null else atz end as atz)";
        // The views have the columns of now: what was called otherwise then, or was not there.
        let now = shop.server.column("select attname::text from pg_attribute where attrelid = 'wide'::regclass and attnum > 0 and not attisdropped order by attnum");
        let then = now.iter().map(|name| match name.as_str() {
            "phrase" if at < 7 => "word as phrase".to_owned(),
            "added" if at < 3 => "null as added".to_owned(),
            "gone" if at < 6 => "null as gone".to_owned(),
            name => format!("\"{name}\""),
        });
        let then = then.collect::<Vec<_>>().join(", ");
        checks.push_str(&format!(
            "with v as (select {infinite} from wide_as_of('{time}')), f as (select {then} from '{path}')
             select {at}, (select count(*) from f), count(*) from ((from v except all from f) union all (from f except all from v));\n"
        ));
    }
    let mut rows = 0;
    for row in duckdb(&views, &checks) {
        assert_eq!(row[2], 0, "as of moment {} DuckDB has other rows", row[0]);
        rows += row[1].as_i64().unwrap();
    }
    assert!(rows > 40, "{rows} rows prove nothing");
}

/// The rows of each query, after the views were made, through DuckDB's own package.
fn duckdb(views: &str, queries: &str) -> Vec<Value> {
    let scratch = Scratch::new("duckdb");
    let write = |name: &str, text: &str| {
        let path = scratch.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (views, queries) = (write("views.sql", views), write("queries.sql", queries));
    let program = "import duckdb, json, sys
con = duckdb.connect()
con.execute(\"set timezone = 'UTC'\")
text = open(sys.argv[1]).read()
if text: con.execute(text)
rows = []
for query in open(sys.argv[2]).read().split(';\\n'):
    if query.strip(): rows += con.execute(query).fetchall()
print(json.dumps(rows, default=str))";
    let done = Command::new(python()).arg("-c").arg(program).args([&views, &queries]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice::<Vec<Value>>(&done.stdout).unwrap()
}

/// The Python that has the packages of the tests.
fn python() -> PathBuf {
    if let Some(named) = std::env::var_os("BYGONE_TEST_PYTHON") {
        return named.into();
    }
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is not set")).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("bygone-test/venv/bin/python3")
}

#[test]
fn duckdb_has_the_three_relations_of_each_table() {
    let mut shop = Shop::orders();
    shop.server.run("create schema other; create table empty (id int primary key)");
    shop.capture();
    let views = shop.ask(&["views", "duckdb"]);
    let rows = duckdb(
        &views,
        "select id, customer, total::varchar from orders order by id;
select id, _version, _op, _valid_to is null from orders_history order by id, _version;
select a, b, note from notes order by a;\n",
    );
    let expected = serde_json::json!([
        [1, "ann", "13.50"],
        [2, "", null],
        [1, 1, "snapshot", false],
        [1, 2, "update", true],
        [2, 1, "snapshot", false],
        [2, 2, "update", true],
        [3, 1, "snapshot", false],
        [3, 2, "delete", true],
        [1, "x,y", "second"],
        [2, "eu", null],
    ]);
    assert_eq!(Value::from(rows), expected);
}

#[test]
fn a_moment_that_is_not_known_is_refused_with_the_reason() {
    let shop = Shop::orders();
    for moment in ["2020-01-01", "0/1", "10 years ago"] {
        shop.refused(
            &["as-of", "orders", "--at", moment],
            &["nothing is known of public.orders", "begins at"],
        );
    }
    for moment in ["2100-01-01T00:00:00Z", "FFFF/0"] {
        shop.refused(&["as-of", "orders", "--at", moment], &["nothing is known", "known until"]);
    }
    shop.refused(&["as-of", "orders", "--at", "tx:1"], &["no transaction 1"]);
    shop.refused(&["as-of", "orders", "--at", "soon"], &["not a moment", "2 hours ago"]);
    let now = shop.bygone.ask(&["as-of", "orders", "--at", "now", "--format", "csv"]).well();
    assert!(now.stderr.contains("known until"), "{}", now.stderr);
    assert_eq!(now.stdout, "id,customer,total\n1,ann,13.50\n2,\"\",\n");
}

#[test]
fn names_that_are_not_known_are_answered_with_the_nearest() {
    let mut shop = Shop::orders();
    shop.refused(&["as-of", "oders", "--at", "now"], &["no table \"oders\"", "did you mean orders"]);
    shop.refused(
        &["as-of", "orders", "--at", "now", "--columns", "totl"],
        &["no column \"totl\"", "did you mean total"],
    );
    shop.refused(&["history", "orders", "11"], &["never had a row", "11", "the nearest keys are 1"]);
    shop.refused(&["history", "notes", "eu"], &["key of public.notes is (b, a)", "--key b=…,a=…"]);
    shop.server.run("create schema other; create table other.orders (id int primary key)");
    shop.bygone =
        Bygone::new(shop.server.url(), shop.scratch.join("history")).tables(&["public.*", "other.*"]);
    shop.capture();
    shop.refused(&["as-of", "orders", "--at", "now"], &["other.orders or public.orders"]);
    assert_eq!(shop.json(&["history", "public.orders", "1"]).len(), 2);
    assert_eq!(shop.bygone.ask(&["as-of", "orders"]).code(), Some(2));
    assert_eq!(shop.bygone.ask(&["history", "orders"]).code(), Some(2));
}

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
    shop.refused(&["diff", "orders", "--from", "now", "--to", &before], &["is later than --to"]);
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
fn conditions_compare_as_the_column_s_type_does() {
    let shop = Shop::with(WIDE);
    for condition in [
        "id = 1",
        "id < 0",
        "id >= 2",
        "money > 0.00000000005",
        "free < 11",
        "dbl < 0",
        "dbl <> 1e15",
        "padded = 'ab   '",
        "padded = 'ab'",
        "word = ''",
        "any_text is null",
        "any_text is not null and id > 0",
        "label = 'ok'",
        "day > '2000-01-01'",
        "atz < '2026-11-24 10:00:01+00'",
        "unique_id = 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
        "flag = true",
        "flag <> true",
        "big = 9223372036854775807",
    ] {
        shop.server.run(&format!(
            "drop table if exists saved.some; create table saved.some as select * from wide where {condition}"
        ));
        let csv = shop.ask(&["as-of", "wide", "--at", "now", "--where", condition, "--format", "csv"]);
        shop.assert_saved(&csv, "some");
    }
    for condition in
        ["lower(word) = 'a'", "id = 1 or id = 2", "id", "id =", "", "ints < '{1}'", "id = 'x'", "nope = 1"]
    {
        assert_eq!(
            shop.bygone.ask(&["as-of", "wide", "--at", "now", "--where", condition]).code(),
            Some(1),
            "{condition}"
        );
    }
    shop.refused(&["as-of", "wide", "--at", "now", "--where", "id in (1)"], &["supported are"]);
}

#[test]
fn columns_and_limit_choose_what_is_shown() {
    let shop = Shop::orders();
    assert_eq!(
        shop.ask(&[
            "as-of",
            "orders",
            "--at",
            "now",
            "--columns",
            "total,id",
            "--limit",
            "1",
            "--format",
            "csv"
        ]),
        "total,id\n13.50,1\n"
    );
    let rows = shop.json(&["as-of", "orders", "--at", "now"]);
    assert_eq!(rows[0], serde_json::json!({"id": 1, "customer": "ann", "total": "13.50"}));
    assert_eq!(rows[1], serde_json::json!({"id": 2, "customer": "", "total": null}));
}

#[test]
fn a_row_comes_back_as_it_was() {
    let mut shop = Shop::with(&format!(
        "{WIDE};
         create table odd (\"Key\" int generated always as identity primary key, \"it's\" text, sum int generated always as (1) stored);
         insert into odd (\"it's\") values (E'a\\\\b''c'), ('other');
         create table notes (a int, b text, note text, primary key (b, a)); insert into notes values (1, 'x,y', 'first')"
    ));
    shop.server.run("create table saved.wide as table wide; create table saved.odd as table odd; create table saved.notes as table notes");
    // Given rows that were deleted, changed and added
    shop.server.run(
        "delete from wide where id in (1, 2); update wide set word = 'x', ints = '{9}', atz = null where id = -4;
         insert into wide (id) values (7); delete from odd where \"Key\" = 1; update odd set \"it's\" = null where \"Key\" = 2;
         update notes set note = 'second'",
    );
    shop.capture();
    let source = shop.server.url();
    let restore = |row: &[&str]| {
        let mut arguments = vec!["restore"];
        arguments.extend(row);
        arguments.extend(["--apply", "--source", &source]);
        shop.bygone.ask(&arguments)
    };
    // When each is brought back
    for row in [
        &["wide", "1"][..],
        &["wide", "2"],
        &["wide", "-4"],
        &["wide", "7"],
        &["odd", "1"],
        &["odd", "2"],
        &["notes", "x,y", "1"],
    ] {
        restore(row).well();
    }
    // Then the tables are what they were
    for table in ["wide", "odd", "notes"] {
        let differences = shop.server.value(&format!(
            "select count(*) from ((select t::text from {table} t except all select t::text from saved.{table} t)
             union all (select t::text from saved.{table} t except all select t::text from {table} t)) d"
        ));
        assert_eq!(differences.as_deref(), Some("0"), "{table}");
    }
    // And what the history does not know of yet is not overwritten.
    restore(&["wide", "7"]).refused(&["it is gone there", "--force"]);
    shop.server.run("update notes set note = 'third'");
    restore(&["notes", "x,y", "1"]).refused(&["note is third, not second"]);
    assert_eq!(shop.server.value("select note from notes").as_deref(), Some("third"));
    shop.capture();
    let who = shop.json(&["history", "wide", "1"]);
    assert_eq!(who.last().unwrap()["op"], "insert");
}

#[test]
fn tables_and_log_tell_what_there_is() {
    let shop = Shop::orders();
    let tables = shop.json(&["tables"]);
    let told: Vec<_> =
        tables.iter().map(|row| (row["table"].as_str().unwrap(), &row["rows"], &row["versions"])).collect();
    assert_eq!(
        told,
        [
            ("public.notes", &Value::from(2), &Value::from(3)),
            ("public.orders", &Value::from(2), &Value::from(6))
        ]
    );
    let commits = shop.json(&["log"]);
    let kinds: Vec<&str> = commits
        .iter()
        .flat_map(|commit| commit["events"].as_array().unwrap())
        .map(|event| event["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["attach", "attach", "snapshot", "snapshot"]);
    assert_eq!(commits.last().unwrap()["facts"], 4);
    assert_eq!(shop.json(&["log", "--limit", "1"]).len(), 1);
}

#[test]
fn tables_fit_the_terminal() {
    let shop = Shop::with(WIDE);
    for arguments in [
        &["tables"][..],
        &["log"],
        &["history", "wide", "1"],
        &["blame", "wide", "1"],
        &["as-of", "wide", "--at", "now"],
        &["as-of", "wide", "--at", "now", "--columns", "id,any_text,texts"],
        &["find", "wide", "label", "ok"],
    ] {
        let text = shop.ask(arguments);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{arguments:?}: {line}");
        }
    }
}

#[test]
fn a_history_in_a_bucket_answers_as_well() {
    let server = Postgres::start();
    server.run("create table orders (id int primary key, total int); insert into orders select n, n from generate_series(1, 3000) n");
    let moto = Moto::start();
    let mut bygone = moto.bygone(server.url(), "shop");
    bygone.until_current();
    let before = server.value("select pg_current_wal_insert_lsn()").unwrap();
    server.run("update orders set total = 0 where id = 7; delete from orders where id > 10");
    bygone.until_current();
    let now = bygone.ask(&["as-of", "orders", "--at", "now", "--format", "csv"]).well().stdout;
    assert_eq!(now, "id,total\n1,1\n2,2\n3,3\n4,4\n5,5\n6,6\n7,0\n8,8\n9,9\n10,10\n");
    let then = bygone.ask(&["as-of", "orders", "--at", &before, "--format", "csv"]).well().stdout;
    assert_eq!(then.lines().count(), 3001);
    let history = bygone.ask(&["history", "orders", "7", "--format", "csv"]).well().stdout;
    assert_eq!(history.lines().filter(|line| line.contains("total: 7 -> 0")).count(), 1, "{history}");
    let views = bygone.ask(&["views", "duckdb"]).well().stdout;
    assert!(views.contains("'s3://kept/shop/tables/public.orders/_date="), "{views}");
}

#[test]
fn each_command_explains_itself() {
    let shop = Path::new("/nonexistent");
    let bygone = Bygone::new("", shop);
    for command in [
        "tables",
        "log",
        "history",
        "as-of",
        "diff",
        "blame",
        "transactions",
        "transaction",
        "who",
        "find",
        "restore",
        "views",
    ] {
        let help = bygone.command(&[command, "--help"]).well();
        assert!(help.stdout.contains("--history"), "{command}");
    }
    bygone.ask(&["tables"]).refused(&["there is no history"]);
}
