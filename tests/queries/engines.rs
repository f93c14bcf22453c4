//! DuckDB and Spark read the views that bygone prints, and come to the rows that bygone, and the source, had.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::cookbook::Story;
use super::{Shop, WIDE};
use crate::support::moto::Moto;
use crate::support::postgres::Postgres;
use crate::support::process;
use crate::support::scratch::Scratch;

#[test]
fn a_table_as_of_any_moment_is_what_the_source_returned() {
    let mut shop = Shop::with(&format!("{WIDE}; create table loose (id int); create table bare ()"));
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
    let check_all = |shop: &Shop| {
        for (at, (lsn, time)) in moments.iter().enumerate() {
            for moment in [lsn, time] {
                let csv = shop.ask(&["as-of", "wide", "--at", moment, "--format", "csv"]);
                shop.assert_saved(&csv, &format!("m{at}"));
            }
        }
    };
    check_all(&shop);
    // The same through slabs, and behind the last of them.
    make_slabs(&shop, "4", 2);
    check_all(&shop);
    let files: Vec<String> = moments
        .iter()
        .enumerate()
        .map(|(at, (_, time))| {
            let path = shop.scratch.join(format!("m{at}.parquet")).to_str().unwrap().to_owned();
            shop.ask(&["as-of", "wide", "--at", time, "--format", "parquet", "--output", &path]);
            path
        })
        .collect();
    // The views have the columns of now: what was called otherwise then, or was not there.
    let now = shop.server.column(
        "select attname::text from pg_attribute where attrelid = 'wide'::regclass and attnum > 0 and not attisdropped order by attnum",
    );
    let columns = |at: usize, quote: char| {
        let then = now.iter().map(|name| match name.as_str() {
            "phrase" if at < 7 => "word as phrase".to_owned(),
            "added" if at < 3 => "null as added".to_owned(),
            "gone" if at < 6 => "null as gone".to_owned(),
            name => format!("{quote}{name}{quote}"),
        });
        then.collect::<Vec<_>>().join(", ")
    };
    // What Parquet's types cannot hold is null in the file; DuckDB's view has infinity back.
    let infinite = "* replace (
        case when isinf(day) then null else day end as day, case when isinf(\"at\") then null else \"at\" end as \"at\",
        case when isinf(atz) then null else atz end as atz)";
    let mut checks = String::new();
    for (at, ((_, time), path)) in moments.iter().zip(&files).enumerate() {
        let then = columns(at, '"');
        checks.push_str(&format!(
            "with v as (select {infinite} from wide_as_of('{time}')), f as (select {then} from '{path}')
             select {at}, (select count(*) from f), count(*) from ((from v except all from f) union all (from f except all from v));\n"
        ));
    }
    assert_same_rows("DuckDB", &duckdb(&shop.ask(&["views", "duckdb"]), &checks));
    // Spark takes seconds for each.
    let mut checks = String::new();
    let chosen: Vec<_> = moments.iter().zip(&files).enumerate().filter(|(at, _)| at % 2 == 1).collect();
    for &(at, ((_, time), path)) in &chosen {
        let then = columns(at, '`');
        checks.push_str(&format!(
            "with v as (select * from wide_as_of(timestamp '{time}')), f as (select {then} from parquet.`{path}`)
             select {at}, (select count(*) from f), count(*) from
             ((select * from v except all select * from f) union all (select * from f except all select * from v));\n"
        ));
    }
    // And what is not known is said, not shown as an empty table.
    checks.push_str("select * from wide_as_of(timestamp '2020-01-01');\nselect * from wide_as_of(timestamp '2100-01-01');\n");
    let (_, then) = &moments[5];
    checks.push_str(&format!("select * from loose;\nselect * from loose_as_of(timestamp '{then}');\n"));
    checks.push_str("select count(*), count(_valid_to), max(_version) from wide_history;\n");
    // The recipes for Spark go along, so that Spark is started once.
    let story = Story::play();
    let recipes = story.recipes("sql spark");
    checks.push_str(&recipes.join(";\n"));
    let views = format!("{}{}", shop.ask(&["views", "spark"]), story.shop.ask(&["views", "spark"]));
    let Some(mut told) = spark(&views, &checks) else { return };
    for (row, recipe) in told.split_off(told.len() - recipes.len()).iter().zip(&recipes) {
        assert!(row.as_array().is_some_and(|row| !row.is_empty()), "Spark has no rows for {recipe}: {row}");
    }
    let history = told.pop().unwrap();
    let counted = duckdb(
        &shop.ask(&["views", "duckdb"]),
        "select count(*), count(_valid_to), max(_version) from wide_history;\n",
    );
    assert_eq!(history, counted[0]);
    for refusal in told.split_off(told.len() - 2) {
        let text = refusal.as_str().unwrap_or_default();
        assert!(text.contains("its updates and deletes cannot be seen"), "{refusal}");
    }
    for (refusal, words) in told.split_off(chosen.len()).iter().zip(["begins at", "know until"]) {
        let text = refusal.as_str().unwrap_or_default();
        assert!(text.contains("nothing is known of public.wide") && text.contains(words), "{refusal}");
    }
    assert_same_rows("Spark", &told);
}

/// In whatever zone the engine's session is.
#[test]
fn types_that_changed_in_place_read_alike_in_every_engine() {
    let mut shop = Shop::with(
        "create table visits (id int primary key, came timestamp, left_at timestamptz, net cidr, code int);
         insert into visits values (1, '2026-01-01 10:00', '2026-01-01 10:00+00', '10.1.2.3', -5),
            (2, '2026-03-29 02:30:00.123456', '2026-03-29 02:30+00', '2001:db8::/32', 7), (3, null, null, '::1', null)",
    );
    shop.server.run(
        "set timezone = 'UTC'; alter table visits alter came type timestamptz, alter left_at type timestamp, alter net type inet,
            alter code type oid, add column since timestamp default '2026-01-01 00:00'",
    );
    shop.server.run("set timezone = 'UTC'; alter table visits alter since type timestamptz; insert into visits (id, net) values (4, '10.1.2.4')");
    shop.capture();
    let told =
        |rows: &[Value]| rows.iter().map(|row| row[0].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let expected = shop.server.column(
        "select concat_ws('|', id, (extract(epoch from came) * 1000000)::bigint, to_char(left_at, 'YYYY-MM-DD HH24:MI:SS'), net, code,
            (extract(epoch from since) * 1000000)::bigint) from visits order by id",
    );
    let asked = "set timezone = 'Europe/Berlin';
select concat_ws('|', id, epoch_us(came), strftime(left_at, '%Y-%m-%d %H:%M:%S'), net, code, epoch_us(since)) from visits order by id;\n";
    assert_eq!(told(&duckdb(&shop.ask(&["views", "duckdb"]), asked)), expected);
    let mut asked = String::from("set spark.sql.session.timeZone = Europe/Berlin;\n");
    for id in 1..=4 {
        asked.push_str(&format!(
            "select concat_ws('|', id, unix_micros(came), cast(left_at as string), net, code, unix_micros(since))
             from visits where id = {id};\n"
        ));
    }
    // The plain files of all versions read together, too.
    let files = shop.scratch.join("history/tables/public.visits");
    let count = "select count(*), count(distinct _id), max(_version)";
    let glob = format!("read_parquet('{}/_date=*/*.parquet', union_by_name = true)", files.display());
    assert_eq!(duckdb("", &format!("{count} from {glob};\n")), [json!([4, 4, 1])]);
    let plain = format!(
        "create temporary view plain using parquet options (path '{}', mergeSchema 'true')",
        files.display()
    );
    let views = format!("{}{plain}", shop.ask(&["views", "spark"]));
    asked.push_str(&format!("{count} from plain where _entity_id is not null;\n"));
    if let Some(mut rows) = spark(&views, &asked) {
        assert_eq!(rows.pop(), Some(json!([4, 4, 1])));
        assert_eq!(told(&rows[1..]), expected);
    }
    let told = shop.ask(&[
        "sql",
        "select id, arrow_cast(came, 'Int64') as came, arrow_cast(left_at, 'Int64') as left_at, net, code from visits order by id",
        "--format",
        "csv",
    ]);
    let expected = shop.server.column(
        "select concat(id, ',', (extract(epoch from came) * 1000000)::bigint, ',', (extract(epoch from left_at) * 1000000)::bigint, ',', net, ',', code)
         from visits order by id",
    );
    assert_eq!(told.lines().skip(1).collect::<Vec<_>>(), expected);
}

/// Makes slabs of so many rows, and at least so many of them.
#[track_caller]
pub(super) fn make_slabs(shop: &Shop, rows: &str, least: u32) {
    let told = shop.bygone.ask(&["compact", "--slab-rows", rows]).well().stderr;
    let made = told.lines().find_map(|line| line.strip_prefix("bygone: ")?.split_once(" slabs were made"));
    let made: u32 = made.and_then(|(count, _)| count.parse().ok()).unwrap_or_else(|| panic!("{told}"));
    assert!(made >= least, "{told}");
}

/// Of each moment: its number, how many rows there are, and how many differ.
#[track_caller]
fn assert_same_rows(engine: &str, told: &[Value]) {
    let mut rows = 0;
    for row in told {
        assert_eq!(row[2], 0, "as of moment {} {engine} has other rows", row[0]);
        rows += row[1].as_i64().unwrap();
    }
    assert!(rows > 15, "{rows} rows prove nothing");
}

/// The rows of each query, after the views were made, through DuckDB's own package.
pub(crate) fn duckdb(views: &str, queries: &str) -> Vec<Value> {
    let program = "import duckdb, json, sys
con = duckdb.connect()
con.execute(\"set timezone = 'UTC'\")
text = open(sys.argv[1]).read()
if 's3' in text:
    import os, duckdb_extension_httpfs
    root = os.path.dirname(duckdb_extension_httpfs.__file__)
    con.execute(\"load '\" + root + \"/extensions/v\" + duckdb.__version__ + \"/httpfs.duckdb_extension'\")
if text: con.execute(text)
rows = []
for query in open(sys.argv[2]).read().split(';\\n'):
    if query.strip(): rows += con.execute(query).fetchall()
print(json.dumps(rows, default=str))";
    python(program, views, queries)
}

/// The first row of each query through Spark, or what it said instead; none where there is no Java to run it. Starting it
/// takes ten seconds, so that one test asks all.
fn spark(views: &str, queries: &str) -> Option<Vec<Value>> {
    let has_java = Command::new("java").arg("-version").output().is_ok_and(|done| done.status.success());
    if !has_java {
        eprintln!("there is no Java: Spark is left out");
        return None;
    }
    let program = "import json, sys
from pyspark.sql import SparkSession
spark = (SparkSession.builder.master('local[1]').config('spark.ui.enabled', 'false').config('spark.driver.bindAddress', '127.0.0.1')
    .config('spark.sql.session.timeZone', 'UTC').config('spark.sql.shuffle.partitions', '1')
    .config('spark.sql.codegen.wholeStage', 'false').config('spark.sql.codegen.factoryMode', 'NO_CODEGEN')
    .config('spark.sql.adaptive.enabled', 'false').getOrCreate())
spark.sparkContext.setLogLevel('OFF')
for statement in open(sys.argv[1]).read().split(';\\n'):
    statement = '\\n'.join(line for line in statement.split('\\n') if not line.startswith('--')).strip()
    if statement: spark.sql(statement)
rows = []
for query in open(sys.argv[2]).read().split(';\\n'):
    if not query.strip(): continue
    try: rows.append(list(spark.sql(query).head() or []))
    except Exception as error: rows.append(str(error))
print(json.dumps(rows, default=str))";
    Some(python(program, views, queries))
}

/// What DuckDB says in place of each query's rows, or how many there are.
pub(super) fn duckdb_says(views: &str, queries: &[String]) -> Vec<String> {
    let program = "import duckdb, json, sys
con = duckdb.connect()
con.execute(\"set timezone = 'UTC'\")
con.execute(open(sys.argv[1]).read())
said = []
for query in open(sys.argv[2]).read().split(';\\n'):
    try: said.append(str(len(con.execute(query).fetchall())) + ' rows')
    except Exception as error: said.append(str(error))
print(json.dumps(said))";
    let said = python(program, views, &queries.join(";\n"));
    said.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn python(program: &str, views: &str, queries: &str) -> Vec<Value> {
    let scratch = Scratch::new("engine");
    let write = |name: &str, text: &str| {
        let path = scratch.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (views, queries) = (write("views.sql", views), write("queries.sql", queries));
    let done = Command::new(process::python("BYGONE_TEST_READERS", "readers"))
        .arg("-c")
        .arg(program)
        .args([&views, &queries])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice::<Vec<Value>>(&done.stdout).unwrap()
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
fn rows_of_which_updates_cannot_be_seen_are_refused_unless_asked_for() {
    let mut shop =
        Shop::with("create table loose (id int, v text); insert into loose values (1, 'a'), (2, 'b')");
    let update = "update loose set v = 'changed' where id = 1; delete from loose where id = 2; insert into loose values (3, 'c')";
    shop.server.run(update);
    shop.capture();
    let (_, then) = shop.save("loose", "then");
    shop.server.run("insert into loose values (4, 'd')");
    shop.capture();
    let asked = |moment: &str| {
        ["from loose".to_owned(), format!("from loose_as_of('{moment}')"), "from loose_history".to_owned()]
    };
    let told = shop.bygone.ask(&["views", "duckdb"]).well();
    assert!(
        told.stderr.contains("public.loose has no primary key") && told.stderr.contains("--inexact"),
        "{}",
        told.stderr
    );
    assert!(
        told.stdout.contains("\n-- public.loose has no primary key and no replica identity"),
        "{}",
        told.stdout
    );
    let said = duckdb_says(&told.stdout, &asked(&then));
    assert!(said[0].contains("its updates and deletes cannot be seen"), "{said:?}");
    assert!(said[1].contains("its updates and deletes cannot be seen"), "{said:?}");
    assert_eq!(said[2], "4 rows");
    // Asked for, they are shown as what they are.
    let told = shop.bygone.ask(&["views", "duckdb", "--inexact"]).well();
    assert!(
        told.stderr.contains("cannot be seen") && told.stdout.contains("\n-- public.loose has no"),
        "{}",
        told.stderr
    );
    assert_eq!(duckdb_says(&told.stdout, &asked(&then)), ["4 rows", "3 rows", "4 rows"]);
    // With a key its rows are compared, and known from then on.
    shop.server.run("alter table loose add primary key (id)");
    shop.capture();
    shop.server.run("update loose set v = 'seen' where id = 4");
    shop.capture();
    shop.server.run("insert into loose values (5, 'e')");
    shop.capture();
    let told = shop.bygone.ask(&["views", "duckdb"]).well();
    let rows = duckdb(&told.stdout, "select id, v from loose order by id;\n");
    assert_eq!(Value::from(rows), serde_json::json!([[1, "changed"], [3, "c"], [4, "seen"], [5, "e"]]));
    let said = duckdb_says(&told.stdout, &asked(&then));
    assert!(said[1].contains("its updates and deletes cannot be seen"), "{said:?}");
}

#[test]
fn a_table_without_columns_takes_no_views_from_the_others() {
    let mut shop = Shop::with(
        "create table bare (); create table emptied (id int primary key, v int); insert into emptied values (1, 2)",
    );
    shop.server.run("alter table emptied drop column v, drop column id; create table full_one (id int primary key); insert into full_one values (7)");
    shop.capture();
    shop.server.run("insert into full_one values (8)");
    shop.capture();
    let told = shop.bygone.ask(&["views", "duckdb"]).well();
    for table in ["bare", "emptied"] {
        let said = format!("public.{table} has no columns: of its relations there is {table}_history alone");
        assert!(told.stderr.contains(&said) && told.stdout.contains(&said), "{}", told.stderr);
    }
    let rows = duckdb(
        &told.stdout,
        "select * from full_one order by 1;\nselect count(*) from emptied_history where _op = 'snapshot';\nselect count(*) from bare_history;\n",
    );
    assert_eq!(Value::from(rows), serde_json::json!([[7], [8], [1], [0]]));
    let spark = shop.ask(&["views", "spark"]);
    assert!(
        spark.contains("`bare_history`") && !spark.contains("`bare`") && !spark.contains("select \n"),
        "{spark}"
    );
}

#[test]
fn tables_and_columns_with_names_that_the_views_use_are_read_all_the_same() {
    let shop = Shop::with(
        "create table orders (id int primary key, t text, _t int); insert into orders values (1, 'a', 2);
         create table orders_history (id int primary key); insert into orders_history values (7);
         create table \"Bills\" (id int primary key); insert into \"Bills\" values (8), (9);
         create table bills (id int primary key)",
    );
    // Behind the first copy, and what is known ends with the last transaction.
    let (_, at) = shop.save("orders", "m");
    shop.server.run("insert into bills values (3)");
    let mut shop = shop;
    shop.capture();
    let rows = duckdb(
        &shop.ask(&["views", "duckdb"]),
        &format!(
            "select t, _t, _version from orders_as_of('{at}') join orders_history using (id, t, _t);
select id from public_orders_history;
select id, _version from public_orders_history_history;
select count(*) from \"public_Bills\";
select id from public_bills_2;\n"
        ),
    );
    assert_eq!(Value::from(rows), serde_json::json!([["a", 2, 1], [7], [7, 1], [2], [3]]));
    assert_eq!(shop.json(&["sql", "select id from \"public_Bills_as_of\"('now') order by id"]).len(), 2);
    // Names with their schemas are each table's own.
    assert_eq!(shop.json(&["sql", "select * from public.bills"]), [serde_json::json!({"id": 3})]);
}

#[test]
fn a_column_whose_type_became_another_one_is_read_as_far_as_that_goes() {
    let mut shop =
        Shop::with("create table t (id int primary key, v text); insert into t values (1, 'abc'), (2, '12')");
    shop.server.run("update t set v = 'abcd' where id = 1");
    shop.capture();
    shop.server.run("alter table t alter v type int using length(v)");
    shop.server.run("update t set v = v + 1 where id = 2");
    shop.capture();
    let views = shop.ask(&["views", "duckdb"]);
    assert!(views.contains("v had another type"), "{views}");
    let rows = duckdb(
        &views,
        "select id, v from t order by id; select _version, v from t_history where id = 1 order by 1;
         select _version, v from t_history where id = 2 and _op = 'snapshot'"
            .replace("; ", ";\n")
            .as_str(),
    );
    assert_eq!(Value::from(rows), serde_json::json!([[1, 4], [2, 3], [1, null], [2, null], [3, 4], [1, 12]]));
}

#[test]
fn fifty_moments_under_load_read_as_the_source_had_them() {
    let mut shop = Shop::with(
        "create table orders (id int primary key, customer text, total numeric(12,2), tags text[]);
         insert into orders select n, 'c' || n % 7, n, '{a}' from generate_series(1, 60) n;
         create table counter (n int); insert into counter values (0)",
    );
    let seed: u64 = rand::rng().random();
    eprintln!("seed {seed}");
    let stop = AtomicBool::new(false);
    let mut moments = Vec::new();
    shop.bygone.start("");
    std::thread::scope(|scope| {
        for writer in 0..2u64 {
            let (server, stop) = (&shop.server, &stop);
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(seed ^ writer);
                let mut client = server.connect();
                while !stop.load(Ordering::Relaxed) {
                    // In the order of their keys, so that the two do not wait for each other.
                    let id = random.random_range(1..80);
                    let sql = match random.random_range(0..5) {
                        0 => format!("delete from orders where id = {id}"),
                        1 => format!(
                            "insert into orders values ({id}, 'new', {id}, null) on conflict (id) do nothing"
                        ),
                        2 => {
                            format!("update orders set total = total + 1 where id between {id} and {id} + 3")
                        }
                        3 => format!(
                            "update orders set tags = tags || 'b'::text, customer = null where id = {id}"
                        ),
                        _ => format!("begin; update orders set total = 0 where id = {id}; rollback"),
                    };
                    // A deadlock between the two is theirs to lose.
                    let _ = client.batch_execute(&sql);
                }
            });
        }
        let mut random = StdRng::seed_from_u64(seed);
        let mut client = shop.server.connect();
        for at in 0..50 {
            std::thread::sleep(std::time::Duration::from_millis(random.random_range(1..40)));
            // Nobody writes while the table is copied: the position is exact, and the time lies between two commits.
            let mut saving = client.transaction().unwrap();
            saving
                .batch_execute(&format!(
                    "lock table orders in share mode; create table saved.m{at} as table orders"
                ))
                .unwrap();
            let row = saving
                .query_one(
                    "select pg_current_wal_insert_lsn()::text,
                            to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US+00')",
                    &[],
                )
                .unwrap();
            moments.push((row.get::<_, String>(0), row.get::<_, String>(1)));
            std::thread::sleep(std::time::Duration::from_millis(2));
            saving.commit().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    shop.bygone.terminate(rustix::process::Signal::TERM, std::time::Duration::from_secs(20));
    shop.server.run("insert into orders values (1000, 'last', 1, null)");
    shop.capture();
    make_slabs(&shop, "60", 2);
    // Only some of the moments lie behind the last slab, and some of the facts too.
    shop.server.run("update orders set total = 7 where id % 2 = 0; delete from orders where id < 5");
    shop.capture();
    let mut checks = String::new();
    for (at, (lsn, time)) in moments.iter().enumerate() {
        let told = shop.ask(&["as-of", "orders", "--at", lsn, "--format", "csv"]);
        shop.assert_saved(&told, &format!("m{at}"));
        assert_eq!(shop.ask(&["as-of", "orders", "--at", time, "--format", "csv"]), told, "moment {at}");
        let path = shop.scratch.join(format!("m{at}.csv"));
        std::fs::write(&path, &told).unwrap();
        let file = format!(
            "read_csv('{}', header = true, all_varchar = true, nullstr = '\\N', allow_quoted_nulls = false)",
            path.display()
        );
        checks.push_str(&format!(
            "with v as (select id::varchar as id, coalesce(customer, '') as customer, coalesce(total::varchar, '') as total,
                        coalesce('{{' || array_to_string(tags, ',') || '}}', '') as tags from orders_as_of('{time}')),
                  f as (select id, coalesce(customer, '') as customer, coalesce(total, '') as total, coalesce(tags, '') as tags from {file})
             select {at}, (select count(*) from f), count(*) from ((from v except all from f) union all (from f except all from v));\n"
        ));
    }
    assert_same_rows("DuckDB", &duckdb(&shop.ask(&["views", "duckdb"]), &checks));
}

#[test]
fn a_history_in_a_bucket_answers_as_well() {
    let server = Postgres::start();
    server.run("create table orders (id int primary key, total int); insert into orders select n, n from generate_series(1, 3000) n");
    let moto = Moto::start();
    let mut bygone = moto.bygone(server.url(), "shop");
    bygone.until_current();
    let before = server.value("select pg_current_wal_insert_lsn()").unwrap();
    let time = server
        .value("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US+00')")
        .unwrap();
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
    // DuckDB reads the bucket itself.
    let endpoint = moto.endpoint();
    let endpoint = endpoint.strip_prefix("http://").unwrap();
    let views = format!(
        "create secret (type s3, key_id 'test', secret 'test', endpoint '{endpoint}', url_style 'path', use_ssl false);\n{views}"
    );
    let sums = "select count(*)::int, sum(total)::int from";
    let told = duckdb(&views, &format!("{sums} orders;\n{sums} orders_as_of('{time}');\n"));
    assert_eq!(told, [serde_json::json!([10, 48]), serde_json::json!([3000, 4_501_500])]);
}
