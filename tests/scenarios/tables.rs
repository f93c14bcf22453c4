//! Every shape of table: keys of any type, many columns and none, names of any kind, rows that are hidden, tables that
//! cannot be captured.

use std::collections::BTreeSet;

use arrow::array::{Array, AsArray};

use crate::support::bygone::Bygone;
use crate::support::comparison::assert_flawless;
use crate::support::history::History;
use crate::support::oracle::{literal, quoted};
use crate::support::postgres::{DATABASE, Postgres};
use crate::support::scratch::Scratch;
use crate::support::store::Store;

/// A source, and a capture of its schema `public`.
struct Case {
    server: Postgres,
    scratch: Scratch,
    bygone: Bygone,
}

impl Case {
    fn with(sql: &str) -> Self {
        let server = Postgres::start();
        server.run(sql);
        let scratch = Scratch::new("history");
        let bygone = Bygone::new(server.url(), scratch.join("history"));
        Self { server, scratch, bygone }
    }

    #[track_caller]
    fn history(&self) -> History {
        let mut history = History::read(Store::directory(self.scratch.join("history")));
        history.verify(true);
        assert_flawless(&history.violations);
        history
    }

    /// The facts of a table, each as its columns joined by spaces.
    fn facts(&self, table: &str, columns: &[&str]) -> Vec<String> {
        let texts = self.history().texts(table, columns);
        texts
            .iter()
            .map(|fact| fact.iter().map(|text| text.as_deref().unwrap_or("-")).collect::<Vec<_>>().join(" "))
            .collect()
    }
}

/// Types of keys, with values that are distinct to their operator class.
const KEYS: &[(&str, &[&str])] = &[
    ("bigint", &["-9223372036854775808", "0", "7"]),
    ("text", &["", " ", "a\"b", "a\\b", "[\"x\"]", "null", "1", "é\u{301}🦀", "\u{1}", "line\nend", "\\x00"]),
    ("varchar(5)", &["", "ab"]),
    ("char(4)", &["a", "ab", ""]),
    ("name", &["x y"]),
    ("citext", &["Anna", "BOB"]),
    ("numeric", &["1.0", "2.00", "NaN", "Infinity", "1e-20", "123456789012345678901234567890"]),
    ("numeric(10,3)", &["1.5", "NaN", "-0.001"]),
    ("real", &["0.1", "1e15", "-1e-7", "NaN", "Infinity", "16777216", "131359.125"]),
    (
        "double precision",
        &["0.1", "1e15", "1e16", "5e-324", "NaN", "-Infinity", "123456789012345", "2.98023223876953125e-8"],
    ),
    ("boolean", &["t", "f"]),
    ("uuid", &["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"]),
    ("bytea", &["\\x", "\\x00ff"]),
    ("date", &["2026-11-24", "infinity", "0044-03-15 BC"]),
    ("timestamp", &["2026-11-24 01:02:03.5", "-infinity", "294276-12-31 23:59:59.999999"]),
    ("timestamptz", &["2026-11-24 01:02:03.5+05:30", "infinity"]),
    ("time", &["24:00:00", "01:02:03.000004"]),
    ("timetz", &["01:02:03+05:30"]),
    ("interval", &["1 mon -2 days", "0"]),
    ("inet", &["10.0.0.1", "::1/64"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("bit(3)", &["101"]),
    ("money", &["-1234.56"]),
    ("jsonb", &["{\"a\": 1}", "[]", "\"1\""]),
    ("oid", &["4294967295"]),
    ("pg_lsn", &["16/B374D848"]),
    ("int4range", &["[1,5)", "empty"]),
    ("integer[]", &["{}", "{1,NULL}", "{{1,2},{3,4}}", "[0:1]={7,8}"]),
    ("text[]", &["{\"a b\",NULL,\"NULL\"}"]),
    ("double precision[]", &["{0.1,1e15,NaN}", "{{1,2.98023223876953125e-8}}"]),
    ("mood", &["sad", "très bien"]),
    ("cents", &["1.5", "NaN"]),
    ("pair", &["(1,\"a b\")", "(,)"]),
    ("\"char\"", &["x", "\\310"]),
    ("xid8", &["18446744073709551615"]),
    ("tid", &["(7,1)"]),
    ("tsvector", &["'a':1"]),
];

#[test]
fn a_key_of_any_type_names_its_entity_by_its_text() {
    // Given a table keyed by each type, and one keyed by that and another column, in another order
    let mut case = Case::with(
        "create extension citext; create type mood as enum ('sad', 'très bien'); create domain cents as numeric(12,2);
         create type pair as (n int, t text); create schema kept",
    );
    let version = case.server.major();
    for (number, (sql, _)) in KEYS.iter().enumerate() {
        case.server.run(&format!(
            "create table k{number} (v int, k {sql} primary key);
             create table c{number} (b text, v int, k {sql}, primary key (k, b))"
        ));
    }
    let fill = |case: &Case, half: usize| {
        let mut statements = String::new();
        for (number, (sql, values)) in KEYS.iter().enumerate() {
            for value in values.iter().skip(half).step_by(2) {
                let value = format!("{}::{sql}", literal(value));
                statements.push_str(&format!(
                    "insert into k{number} values (0, {value}); insert into c{number} values (E'a\"\\\\', 0, {value});\n"
                ));
            }
        }
        case.server.run(&statements);
    };
    // When half of the rows are copied, half are streamed, and all are changed twice, once after the state was lost
    fill(&case, 0);
    case.bygone.until_current();
    fill(&case, 1);
    case.bygone.until_current();
    let change = |case: &Case| {
        let all: String = (0..KEYS.len())
            .map(|n| format!("update k{n} set v = v + 1; update c{n} set v = v + 1;"))
            .collect();
        case.server.run(&all);
    };
    change(&case);
    case.bygone.until_current();
    case.bygone.forget();
    change(&case);
    for number in 0..KEYS.len() {
        let kept = format!(
            "create table kept.k{number} as table k{number}; create table kept.c{number} as table c{number}"
        );
        case.server.run(&kept);
        case.server.run(&format!("delete from k{number}; delete from c{number}"));
    }
    case.bygone.until_current();
    // Then each row is one entity of four versions, named by the text of its key.
    let history = case.history();
    let session =
        "set datestyle = 'ISO'; set timezone = 'UTC'; set extra_float_digits = 3; set bytea_output = 'hex';
        set lc_monetary = 'C'; set intervalstyle = 'postgres'";
    let mut client = case.server.connect();
    client.batch_execute(session).unwrap();
    assert!(version >= 14);
    let mut wrong = Vec::new();
    for (number, (sql, values)) in KEYS.iter().enumerate() {
        for (table, id) in [("k", "format('%s', k)"), ("c", "jsonb_build_array(format('%s', k), b)::text")] {
            let due: BTreeSet<String> =
                super::types::texts(&mut client, &format!("select {id} from kept.{table}{number}"))
                    .into_iter()
                    .collect();
            assert_eq!(due.len(), values.len(), "{sql}");
            let facts = history.texts(&format!("public.{table}{number}"), &["_entity_id", "_version", "_op"]);
            let spaced = |id: &str| match table {
                "c" => serde_json::from_str::<serde_json::Value>(id)
                    .unwrap()
                    .to_string()
                    .replace("\",\"", "\", \""),
                _ => id.to_owned(),
            };
            let found: BTreeSet<String> =
                facts.iter().map(|fact| spaced(fact[0].as_deref().unwrap())).collect();
            if found != due || facts.len() != 4 * due.len() {
                wrong.push(format!("{sql}: {} facts, {found:?} instead of {due:?}", facts.len()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn equal_keys_of_another_text_are_another_entity() {
    let mut case = Case::with(
        "create extension citext;
         create table amounts (k numeric primary key); insert into amounts values (1.0);
         create table people (k citext primary key); insert into people values ('Anna');
         create table ratios (k double precision primary key, v int); insert into ratios values (0, 1)",
    );
    case.bygone.until_current();
    case.server
        .run("update amounts set k = 1.00; update people set k = 'ANNA'; update ratios set k = -0.0::float8");
    case.bygone.until_current();
    for (table, one, other) in
        [("public.amounts", "1.0", "1.00"), ("public.people", "Anna", "ANNA"), ("public.ratios", "0", "-0")]
    {
        assert_eq!(
            case.facts(table, &["_entity_id", "_version", "_op"]),
            [format!("{one} 1 snapshot"), format!("{one} 2 rekey"), format!("{other} 1 rekey")],
            "{table}"
        );
    }
}

#[test]
fn a_table_may_have_1600_columns_or_none() {
    let columns: Vec<String> = (1..=1600).map(|n| format!("c{n} smallint")).collect();
    let mut case = Case::with(&format!(
        "create table broad ({}, primary key (c1600, c1)); create table bare (); alter table bare replica identity full;
         insert into broad (c1, c800, c1600) values (1, 2, 3); insert into bare default values; insert into bare default values",
        columns.join(", ")
    ));
    case.bygone.until_current();
    case.server.run(
        "insert into broad (c1, c2, c1600) values (4, 5, 6); update broad set c1599 = 7; insert into bare default values;
         delete from broad where c1 = 4; delete from bare where ctid = '(0,1)'",
    );
    case.bygone.until_current();
    assert_eq!(
        case.facts("public.broad", &["_entity_id", "_op", "_changed", "c2", "c800", "c1599"]),
        [
            "[\"3\",\"1\"] snapshot - - 2 -",
            "[\"6\",\"4\"] insert - 5 - -",
            "[\"3\",\"1\"] update {\"c1599\"} - 2 7",
            "[\"6\",\"4\"] update {\"c1599\"} 5 - 7",
            "[\"6\",\"4\"] delete {} 5 - 7",
        ]
    );
    let bare = case.facts("public.bare", &["_op"]);
    assert_eq!(bare.iter().filter(|op| *op == "snapshot").count(), 2);
    assert_eq!(bare.iter().filter(|op| *op == "insert").count(), 1);
    assert_eq!(bare.iter().filter(|op| *op == "delete").count(), 1);
}

#[test]
fn names_of_any_kind_keep_their_tables_apart() {
    let long = "é".repeat(31);
    let names = [
        "Orders", "orders", "a b", "a.b", "q\"t", "it's", "日本", "-", "~", "%2F", "select", &long, "a/b",
        "..", "$1",
    ];
    let mut sql = String::from("create schema \"A.b\"; create schema \"Ünï \"\"q\"\"\";");
    let schemas = ["public", "A.b", "Ünï \"q\""];
    let mut number = 0;
    for schema in schemas {
        for name in names {
            let table = format!("{}.{}", quoted(schema), quoted(name));
            let column = quoted(name);
            sql.push_str(&format!(
                "create table {table} ({column} int primary key, \"Id\" int, id int); insert into {table} values ({number});"
            ));
            number += 1;
        }
    }
    sql.push_str("create table \"b\".x ()");
    let sql = sql.replace(
        "create table \"b\".x ()",
        "create schema b; create table b.a (id int primary key); insert into b.a values (99)",
    );
    let mut case = Case::with(&sql);
    let patterns = ["public.*", "\"A.b\".*", "\"Ünï \"\"q\"\"\".*", "b.*"];
    case.bygone = Bygone::new(case.server.url(), case.scratch.join("history")).tables(&patterns);
    case.bygone.until_current();
    for schema in schemas {
        for name in names {
            let table = format!("{}.{}", quoted(schema), quoted(name));
            case.server.run(&format!("update {table} set id = 1"));
        }
    }
    case.bygone.until_current();
    let history = case.history();
    let tables: Vec<String> = history.tables().into_iter().map(str::to_owned).collect();
    assert_eq!(tables.len(), names.len() * schemas.len() + 1, "{tables:?}");
    let mut seen = BTreeSet::new();
    for table in &tables {
        let facts = history.texts(table, &["_entity_id", "_op"]);
        seen.insert(facts[0][0].clone());
        let ops: Vec<&str> = facts.iter().map(|fact| fact[1].as_deref().unwrap()).collect();
        assert_eq!(ops, if table == "b.a" { &["snapshot"][..] } else { &["snapshot", "update"] }, "{table}");
        // `Id` and `id` are one name to most readers of Parquet.
        let batch = &history.facts(table)[0];
        let lower: BTreeSet<String> =
            batch.schema().fields().iter().map(|field| field.name().to_lowercase()).collect();
        assert_eq!(lower.len(), batch.num_columns(), "{table}");
        let ids = batch.column_by_name("_entity_id").unwrap().as_string::<i32>();
        assert_eq!(ids.len(), batch.num_rows());
    }
    assert_eq!(seen.len(), tables.len(), "tables share their rows");
}

#[test]
fn rows_that_a_policy_hides_are_not_left_out_in_silence() {
    let mut case = Case::with(
        "create table guarded (id int primary key, owner text); insert into guarded values (1, 'ann'), (2, 'bob');
         create table free (id int primary key);
         alter table guarded enable row level security; create policy own on guarded using (owner = current_user);
         create role app login replication; grant select on all tables in schema public to app; grant create on database shop to app;
         alter table guarded owner to postgres; grant postgres to app; alter role app noinherit",
    );
    case.server.run("revoke postgres from app; alter table free owner to app; create role owners; grant owners to app; alter role app inherit");
    case.server.run("create publication mine for table guarded, free");
    let source = case.server.url_as("app", DATABASE);
    let bygone =
        |case: &Case| Bygone::new(&source, case.scratch.join("history")).options(&["--publication", "mine"]);
    bygone(&case).attempt(&[]).refused(&[
        "row-level security",
        "public.guarded",
        "alter role \"app\" bypassrls",
    ]);
    case.server.run("alter role app bypassrls");
    case.bygone = bygone(&case);
    case.bygone.until_current();
    assert_eq!(case.facts("public.guarded", &["id", "owner"]), ["1 ann", "2 bob"]);
}

#[test]
fn tables_that_cannot_be_captured_are_named() {
    let mut case = Case::with(
        "create table kept (id int primary key); create unlogged table quick (id int primary key);
         create extension file_fdw; create server files foreign data wrapper file_fdw;
         create foreign table far (id int) server files options (filename '/dev/null');
         create view seen as table kept; create materialized view made as table kept;
         create sequence numbers; create table parent (id int primary key); create table child () inherits (parent)",
    );
    let said = case.bygone.until_current().stderr;
    for words in [
        "public.quick is unlogged",
        "alter table \"public\".\"quick\" set logged",
        "public.far is a foreign table",
    ] {
        let plain = words.replace('"', "");
        assert!(said.replace('"', "").contains(&plain), "nothing says {words:?}:\n{said}");
    }
    let published = case.server.column("select tablename::text from pg_publication_tables order by 1");
    assert_eq!(published, ["child", "kept", "parent"]);
    for (pattern, word) in
        [("public.seen", "view"), ("public.made", "view"), ("public.numbers", "public.numbers")]
    {
        let mut other = Bygone::new(case.server.url(), case.scratch.join("other"))
            .tables(&[pattern])
            .options(&["--name", "other"]);
        other.attempt(&[]).refused(&[word]);
    }
}

#[test]
fn children_of_an_inherited_table_are_tables_of_their_own() {
    let mut case = Case::with(
        "create table parent (id int primary key, v int);
         create table child (extra text, primary key (id)) inherits (parent);
         insert into parent values (1, 10); insert into child values (2, 20, 'x')",
    );
    case.bygone.until_current();
    case.server.run("update parent set v = v + 1; truncate only parent");
    case.bygone.until_current();
    let columns = ["_entity_id", "_op", "v"];
    assert_eq!(case.facts("public.parent", &columns), ["1 snapshot 10", "1 update 11", "1 truncate 11"]);
    assert_eq!(case.facts("public.child", &columns), ["2 snapshot 20", "2 update 21"]);
}

#[test]
fn a_hundred_megabytes_in_one_column_arrive() {
    const SIZE: usize = 100 << 20;
    let mut case = Case::with("create table large (id int primary key, body text, n int)");
    let filling = format!("repeat('0123456789abcdef', {})", SIZE / 16);
    case.server.run(&format!("insert into large values (1, {filling}, 0)"));
    case.bygone.until_current();
    case.server.run(&format!("insert into large values (2, {filling}, 0)"));
    let outcome = case.bygone.until_current();
    case.server.run("update large set n = 1");
    case.bygone.until_current();
    // As it was received; then it lies on disk.
    let peak = outcome.peak;
    assert!(peak < 3 * SIZE as u64, "it took {} MiB", peak >> 20);
    let history = case.history();
    let lengths: Vec<(i32, usize)> = history
        .facts("public.large")
        .iter()
        .flat_map(|batch| {
            let ids =
                batch.column_by_name("id").unwrap().as_primitive::<arrow::datatypes::Int32Type>().clone();
            let bodies = batch.column_by_name("body").unwrap().as_string::<i32>().clone();
            (0..batch.num_rows())
                .map(move |row| (ids.value(row), bodies.value(row).len()))
                .collect::<Vec<_>>()
        })
        .collect();
    let mut sorted = lengths.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [(1, SIZE), (1, SIZE), (2, SIZE), (2, SIZE)]);
}
