//! The Delta Lake view, read by engines that know nothing of bygone: DuckDB's `delta_scan`, delta-rs, and Sail.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::SHOP;
use super::exactly_once::wait_for_commits;
use super::types::readers;
use crate::support::bygone::Bygone;
use crate::support::history::{History, object_of};
use crate::support::moto::{BUCKET, Moto};
use crate::support::postgres::Postgres;
use crate::support::process::python;
use crate::support::scratch::Scratch;
use crate::support::store::Store;

/// Gives rows as the tests' own reader of files gives facts: each value that is not null, as PostgreSQL reads it, by its column.
const TELL: &str = r#"
import datetime, decimal, json, os, sys
def told(value):
    if isinstance(value, bool): return str(value).lower()
    if isinstance(value, float): return repr(value).replace('e+', 'e').replace('nan', 'NaN')
    if isinstance(value, decimal.Decimal): return format(value, 'f')
    if isinstance(value, (bytes, bytearray)): return '\\x' + value.hex()
    if isinstance(value, datetime.datetime):
        zone = '' if value.tzinfo is None else '+00'
        if zone: value = value.astimezone(datetime.timezone.utc)
        return value.strftime('%Y-%m-%d %H:%M:%S.%f').rjust(26, '0') + zone
    if isinstance(value, dict): value = list(value.items())
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return json.dumps({key: told(one) for key, one in value}, ensure_ascii=False, separators=(',', ':'))
    if isinstance(value, list): return '{' + ','.join('NULL' if one is None else '"' + told(one).replace('\\', '\\\\').replace('"', '\\"') + '"' for one in value) + '}'
    return str(value)
def facts(columns, rows):
    rows = [dict(zip(columns, row)) for row in rows]
    rows.sort(key=lambda row: (row['_lsn'], row['_seq']))
    return [{column: told(value) for column, value in row.items() if value is not None} for row in rows]
"#;

/// What both engines see of a Delta table: all of its rows.
const READ_WHOLE: &str = r#"
import duckdb, duckdb_extension_delta
from deltalake import DeltaTable, QueryBuilder
root = sys.argv[1]
con = duckdb.connect()
con.execute("load '" + os.path.dirname(duckdb_extension_delta.__file__) + "/extensions/v" + duckdb.__version__ + "/delta.duckdb_extension'")
con.execute("set timezone = 'UTC'")
# Where a query takes long, the engine would show how far it is.
con.execute("set enable_progress_bar = false")
duck = con.execute(f"select * from delta_scan('{root}')")
duck = facts([column[0] for column in duck.description], duck.fetchall())
rs = []
for batch in QueryBuilder().register("t", DeltaTable(root)).execute("select * from t"):
    columns = batch.schema.names
    rs += zip(*[[value.as_py() for value in batch[column]] for column in columns])
print(json.dumps({"duckdb": duck, "delta-rs": facts(columns, rs)}))
"#;

/// What both engines see of a Delta table: a column's values, in order, and what it is made of.
const READ: &str = r#"
import json, os, sys
import duckdb, duckdb_extension_delta
from deltalake import DeltaTable, QueryBuilder
root, column = sys.argv[1], sys.argv[2]
con = duckdb.connect()
con.execute("load '" + os.path.dirname(duckdb_extension_delta.__file__) + "/extensions/v" + duckdb.__version__ + "/delta.duckdb_extension'")
duck = [row[0] for row in con.execute(f"select cast({column} as varchar) c from delta_scan('{root}') order by c").fetchall()]
table = DeltaTable(root)
batches = QueryBuilder().register("t", table).execute(f"select cast({column} as varchar) c from t order by c")
rs = []
for batch in batches:
    rs += [value.as_py() for value in batch["c"]]
print(json.dumps({"duckdb": duck, "delta-rs": rs, "version": table.version(), "files": len(table.file_uris()),
                  "columns": [field.name for field in table.schema().fields]}))
"#;

#[track_caller]
fn read(root: &Path, column: &str) -> Value {
    told(Command::new(readers()).arg("-c").arg(READ).arg(root).arg(column))
}

/// What a program that must succeed prints as JSON.
#[track_caller]
fn told<T: DeserializeOwned>(program: &mut Command) -> T {
    let done = program.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}", &said[said.len().saturating_sub(3000)..]);
    serde_json::from_slice(&done.stdout).unwrap()
}

/// The ids of all facts of a table, in order.
fn ids(history: &History, table: &str) -> Vec<String> {
    let mut ids: Vec<String> =
        history.texts(table, &["_id"]).into_iter().map(|mut fact| fact[0].take().unwrap()).collect();
    ids.sort_unstable();
    ids
}

/// Both engines see the facts of a table, each once; gives what they see.
#[track_caller]
pub(super) fn assert_same(history: &History, root: &Path, table: &str, directory: &str) -> Value {
    let ids = ids(history, table);
    let seen = read(&root.join(directory), "_id");
    for engine in ["duckdb", "delta-rs"] {
        assert!(
            seen[engine] == serde_json::json!(ids),
            "{table}, {engine}: {} facts of {}",
            seen[engine].as_array().unwrap().len(),
            ids.len()
        );
    }
    seen
}

#[test]
fn both_engines_see_the_facts_through_schema_changes_kills_and_compaction() {
    let server = Postgres::start();
    server.run(SHOP);
    server.run(
        "create table \"Odd \"\"Name\" (id int primary key, \"Id\" text, t timestamp, n numeric(10,2), a int[]);
         insert into \"Odd \"\"Name\" values (1, 'x', now(), 1.5, '{1,null}')",
    );
    let scratch = Scratch::new("history");
    let root = scratch.join("history");
    let mut bygone = Bygone::new(server.url(), &root).options(&["--commit-interval", "100ms"]);
    bygone.until_current();
    for (number, change) in [
        "update orders set total = 1 where id = 1",
        "alter table orders add column extra int default 7; update orders set extra = 8 where id = 2",
        "alter table orders rename customer to client; update orders set client = 'z'",
        "alter table orders drop column extra; alter table orders add column extra text; update orders set extra = 'text' where id = 3",
        "update \"Odd \"\"Name\" set t = null; alter table orders alter total type text",
        "insert into orders values (9, 'late', '9'); delete from orders where id = 1",
    ]
    .into_iter()
    .enumerate()
    {
        server.run(change);
        // Killed before a Delta commit, and so between those of two tables: the next start shows what is missing.
        bygone.start("delta.before_put=abort");
        bygone.abort(Duration::from_secs(60));
        if number % 2 == 1 {
            bygone.start("delta.before_put=abort@2");
            std::thread::sleep(Duration::from_millis(1500));
            if bygone.alive() {
                bygone.kill();
            } else {
                bygone.abort(Duration::from_secs(5));
            }
        }
        bygone.until_current();
    }
    let history = History::read(Store::directory(&root));
    let seen = assert_same(&history, &root, "public.orders", "tables/public.orders");
    for column in ["customer", "client", "extra", "extra__2", "total", "total__2"] {
        let columns = seen["columns"].as_array().unwrap();
        assert!(columns.contains(&column.into()) || column == "client", "{column} of {columns:?}");
    }
    assert_same(&history, &root, "public.\"Odd \"\"Name\"", &format!("tables/{}", odd(&root)));
    let transactions: i64 =
        history.live.values().filter(|file| file.table == "transactions").map(|file| file.rows).sum();
    let seen_there = read(&root.join("transactions"), "xid");
    assert_eq!(seen_there["delta-rs"].as_array().unwrap().len(), usize::try_from(transactions).unwrap());

    // Files that take the place of others change nothing.
    bygone.ask(&["compact", "--all"]).well();
    bygone.ask(&["delta"]).well();
    bygone.ask(&["compact", "--all", "--grace", "1ms"]).well();
    let history = History::read(Store::directory(&root));
    let merged = assert_same(&history, &root, "public.orders", "tables/public.orders");
    assert!(merged["files"].as_u64() < seen["files"].as_u64(), "{merged}");
    bygone.ask(&["verify"]).well();

    // A view that is made anew is the same, byte by byte.
    let log = root.join("tables/public.orders/_delta_log");
    let bytes = |at: &Path| {
        let mut files: Vec<_> = std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>()
    };
    let before = bytes(&log);
    for directory in ["tables/public.orders", &format!("tables/{}", odd(&root)), "transactions"] {
        std::fs::remove_dir_all(root.join(directory).join("_delta_log")).unwrap();
    }
    bygone.ask(&["delta"]).well();
    assert!(bytes(&log) == before, "the view is another one");
    // Somebody else's commit is not written over, and does not hold the capture up.
    std::fs::write(log.join(format!("{:020}.json", before.len())), "{\"commitInfo\":{}}\n").unwrap();
    server.run("update orders set client = 'again' where id = 9");
    bygone.attempt(&[]).refused(&["Delta view", "--no-delta"]);
    bygone.attempt(&["--no-delta"]).well();
    assert!(
        History::read(Store::directory(&root)).texts("public.orders", &["_op"]).len()
            > history.texts("public.orders", &["_op"]).len()
    );
}

/// The directory of the oddly named table.
fn odd(root: &Path) -> String {
    let names = std::fs::read_dir(root.join("tables"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.into_iter().find(|name| name.contains('~')).unwrap()
}

/// A table with a column of every type of the files, and what happens to it.
const EVERY_TYPE: &str = r#"
    create type mood as enum ('sad', 'ok');
    create table every (id int primary key, flag boolean, small smallint, big bigint, number oid, single real, dbl float8,
        money numeric(10,2), wide numeric(38,10), free numeric, word varchar(20), any_text text, label mood, bytes bytea, day date,
        at timestamp, atz timestamptz, clock time, span interval, unique_id uuid, document json, binary_document jsonb,
        flags boolean[], ints int[], texts text[], sums numeric(8,2)[], days date[], times timestamptz[], blobs bytea[], floats float8[], net inet);
    insert into every values
        (1, true, -32768, 9223372036854775807, 4294967295, 1.5, 1e300, 12.50, 1234567890123456789012345678.0123456789, 1e-30, 'a,"b"',
         E'line\nbreak', 'ok', '\x00ff', '2026-11-24', '2026-11-24 10:00:00.123456', '2026-11-24 10:00:00.123456+05:30', '24:00',
         '1 mon -2 days 03:00', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{"b": 1}', '{"b": 1}', '{t,null,f}', '{1,null,3}',
         '{"",null,"NULL","c\"d"}', '{1.5,null,-0.01}', '{2026-11-24,null}', '{2026-11-24 10:00+05:30,null}', '{"\\x00","\\xff"}', '{0.1,5e-324}', '10.0.0.1/8'),
        (2, false, 0, 0, 0, -0.25, -0.5, 'nan', 'nan', 'Infinity', '', '', 'sad', '', 'infinity', '-infinity', 'infinity', '00:00:00.000001',
         '0', null, 'null', 'null', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{nan}', '::1'),
        (3, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null,
         null, null, '{{1,2},{3,4}}', null, null, null, null, null, null, null)"#;
const CHANGES: [&str; 5] = [
    "update every set small = 7, texts = '{x}', at = '1999-12-31' where id < 3",
    "alter table every alter id type bigint, alter flag type text, alter small type int, alter money type numeric(12,4), alter at type timestamptz, \
         alter ints type bigint[], drop column word, alter label type text; alter table every rename any_text to word;
     alter table every add column later timestamp default '2026-01-01', add column flags2 boolean[] default '{t}';
     update every set word = 'renamed' where id = 1",
    "insert into every (id, flag, money, at, ints, later) values (5000000000, 'text now', 0.0001, '2026-06-01 12:00+00', '{5000000000}', null); delete from every where id = 2",
    "drop table every",
    "create table every (id text primary key, big text, word int, at date, ints int[]); insert into every values ('one', 'text', 1, '2026-01-01', '{1}');
     update every set word = 2",
];

/// The facts of a table as the tests' own reader has them, and as engines told them.
#[track_caller]
fn assert_whole(history: &History, table: &str, engine: &str, told: &Value) {
    let facts = history.whole(table);
    let told: Vec<BTreeMap<String, String>> = serde_json::from_value(told.clone()).unwrap();
    assert_eq!(told.len(), facts.len(), "{table}, {engine}");
    for (mut told, mut fact) in told.into_iter().zip(facts) {
        assert_eq!(told.remove("_date").as_deref(), fact["_valid_from"].get(..10), "{engine}: {told:?}");
        for (row, names) in [(&mut told, &["_context", "_raw"][..]), (&mut fact, &["_raw"])] {
            let objects = row.iter_mut().filter(|(name, _)| names.contains(&name.as_str()));
            objects.for_each(|(_, object)| *object = object_of(object));
        }
        assert_eq!(told, fact, "{table}, {engine}");
    }
}

/// Of each commit of a table's view: whether it is a merge by the history's log, and what it says of each file.
#[track_caller]
fn assert_merges_change_nothing(history: &History, directory: &Path) -> usize {
    let (mut last, mut merges) = (-1, 0);
    let mut names: Vec<_> =
        std::fs::read_dir(directory.join("_delta_log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names {
        let text = std::fs::read_to_string(&path).unwrap();
        let actions: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let seq = actions.iter().find_map(|action| action["txn"]["version"].as_i64()).unwrap();
        assert!(seq > last, "{} shows commit {seq} after {last}", path.display());
        last = seq;
        let commit = history.commits.iter().find(|commit| commit["seq"] == seq).unwrap();
        let merged = commit["events"].as_array().unwrap().iter().any(|event| event["kind"] == "compact");
        for action in actions
            .iter()
            .flat_map(|action| [&action["add"], &action["remove"]])
            .filter(|action| action.is_object())
        {
            assert_eq!(action["dataChange"], !merged, "{}: {action}", path.display());
        }
        merges += usize::from(merged);
    }
    merges
}

#[test]
fn every_value_is_seen_through_schema_changes_compaction_and_a_drop() {
    let server = Postgres::start();
    server.run(EVERY_TYPE);
    let scratch = Scratch::new("history");
    let root = scratch.join("history");
    let mut bygone = Bygone::new(server.url(), &root);
    bygone.until_current();
    let sail = python("BYGONE_TEST_SAIL", "sail");
    let directory = root.join("tables/public.every");
    for change in CHANGES {
        server.run(&format!("select pg_logical_emit_message(true, 'bygone', '{{\"actor\": \"ann\", \"n\": [1, null]}}'); {change}"));
        bygone.until_current();
        bygone.ask(&["compact", "--all", "--grace", "1ms"]).well();
        bygone.ask(&["delta"]).well();
        let history = History::read(Store::directory(&root));
        let seen: Value =
            told(Command::new(readers()).arg("-c").arg(format!("{TELL}{READ_WHOLE}")).arg(&directory));
        for engine in ["duckdb", "delta-rs"] {
            assert_whole(&history, "public.every", engine, &seen[engine]);
        }
    }
    let history = History::read(Store::directory(&root));
    assert!(history.whole("public.every").len() > 12);
    assert!(assert_merges_change_nothing(&history, &directory) > 2);
    if !sail.exists() {
        eprintln!("Sail is not installed: it is left out");
        return;
    }
    let program = scratch.join("sail.py");
    std::fs::write(&program, format!("{TELL}{SAIL_WHOLE}")).unwrap();
    let seen: Value = told(Command::new(sail).arg(&program).arg(&directory).env("TZ", "UTC"));
    assert_whole(&history, "public.every", "Sail", &seen);
}

#[test]
fn a_running_capture_shows_its_commits_as_they_come() {
    let server = Postgres::start();
    server.run(SHOP);
    let scratch = Scratch::new("history");
    let root = scratch.join("history");
    let mut bygone = Bygone::new(server.url(), &root).options(&[
        "--commit-interval",
        "100ms",
        "--compact-interval",
        "300ms",
    ]);
    bygone.start("");
    wait_for_commits(&mut bygone, &root, 2);
    for n in 0..30 {
        server.run(&format!("update orders set total = {n}"));
        std::thread::sleep(Duration::from_millis(60));
    }
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    let history = History::read(Store::directory(&root));
    assert!(!history.events("compact").is_empty(), "nothing was merged");
    let seen = assert_same(&history, &root, "public.orders", "tables/public.orders");
    assert_eq!(seen["duckdb"].as_array().unwrap().len(), 93);
}

/// What delta-rs sees of a Delta table in a bucket.
const READ_BUCKET: &str = r#"
import json, sys
from deltalake import DeltaTable, QueryBuilder
table = DeltaTable(sys.argv[1])
batches = QueryBuilder().register("t", table).execute("select _id from t order by _id")
print(json.dumps([value.as_py() for batch in batches for value in batch["_id"]]))
"#;

#[test]
fn in_a_bucket_the_view_is_read_as_on_a_disk() {
    let server = Postgres::start();
    server.run(SHOP);
    let moto = Moto::start();
    let mut bygone = moto.bygone(server.url(), "shop");
    bygone.until_current();
    for change in [
        "update orders set total = total + 1",
        "alter table orders add column later text default 'x'; insert into orders values (4, 'dee', 1)",
        "delete from orders where id = 2",
    ] {
        server.run(change);
        bygone.until_current();
    }
    bygone.ask(&["compact", "--all", "--grace", "1ms"]).well();
    bygone.ask(&["delta"]).well();
    let history = History::read(moto.store("shop"));
    let ids = ids(&history, "public.orders");
    let seen: Vec<String> = told(
        Command::new(readers())
            .args(["-c", READ_BUCKET, &format!("s3://{BUCKET}/shop/tables/public.orders")])
            .envs(moto.variables()),
    );
    assert!(ids.len() >= 8, "{} facts prove nothing", ids.len());
    assert_eq!(seen, ids);
}

/// What Sail, a Spark without Java, sees of Delta tables: the ids of each.
const SAIL: &str = r#"
import json, sys
from pysail.spark import SparkConnectServer
from pyspark.sql import SparkSession
server = SparkConnectServer("127.0.0.1", 0)
server.start(background=True)
spark = SparkSession.builder.remote(f"sc://127.0.0.1:{server.listening_address[1]}").getOrCreate()
print(json.dumps([[row[0] for row in spark.sql(f"select _id from delta.`{root}` order by _id").collect()] for root in sys.argv[1:]]))
"#;

/// All that Sail sees of a Delta table.
const SAIL_WHOLE: &str = r#"
from pysail.spark import SparkConnectServer
from pyspark.sql import SparkSession
from pyspark.sql.types import ArrayType, TimestampType
server = SparkConnectServer("127.0.0.1", 0)
server.start(background=True)
spark = SparkSession.builder.remote(f"sc://127.0.0.1:{server.listening_address[1]}").getOrCreate()
frame = spark.sql(f"select * from delta.`{sys.argv[1]}`")
# Instants come as times of the local clock.
def instant(value, kind):
    if isinstance(kind, ArrayType) and value is not None: return [instant(one, kind.elementType) for one in value]
    if isinstance(kind, TimestampType) and value is not None: return value.replace(tzinfo=datetime.timezone.utc)
    return value
rows = [[instant(value, field.dataType) for value, field in zip(row, frame.schema.fields)] for row in frame.collect()]
print(json.dumps(facts(frame.columns, rows)))
"#;

#[test]
fn sail_sees_the_facts_through_schema_changes_and_compaction() {
    let python = python("BYGONE_TEST_SAIL", "sail");
    if !python.exists() {
        eprintln!("Sail is not installed: it is left out");
        return;
    }
    let server = Postgres::start();
    server.run(SHOP);
    server.run("create table wide (id int primary key, t timestamp, n numeric(10,2), a int[], j jsonb)");
    let scratch = Scratch::new("history");
    let root = scratch.join("history");
    let mut bygone = Bygone::new(server.url(), &root);
    bygone.until_current();
    for change in [
        "insert into wide values (1, now(), 1.5, '{1,null}', '{}'), (2, null, null, null, null)",
        "alter table wide add column later text default 'x'; update wide set later = 'y' where id = 1",
        "alter table wide drop column n; delete from wide where id = 2",
        "update wide set later = null; update orders set customer = 'sail'; insert into orders values (4, 'dee', 1)",
    ] {
        server.run(change);
        bygone.until_current();
    }
    bygone.ask(&["compact", "--all", "--grace", "1ms"]).well();
    bygone.ask(&["delta"]).well();
    let history = History::read(Store::directory(&root));
    let tables = [("public.orders", "tables/public.orders"), ("public.wide", "tables/public.wide")];
    // Sail's own Python looks for its program's file.
    let program = scratch.join("sail.py");
    std::fs::write(&program, SAIL).unwrap();
    let directories = tables.map(|(_, directory)| root.join(directory));
    let seen: Vec<Vec<String>> = told(Command::new(python).arg(&program).args(directories));
    for ((table, _), seen) in tables.into_iter().zip(seen) {
        let ids = ids(&history, table);
        assert!(ids.len() >= 4, "{table}: {} facts prove nothing", ids.len());
        assert!(seen == ids, "{table}: {} facts of {}", seen.len(), ids.len());
    }
}
