//! DuckDB and Spark open every file, and see the types that were promised.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field};
use serde_json::{Value, json};

use super::catalogue::{BUILT_IN, DDL, MADE};
use super::read;
use super::specimens::{STREAMED, Specimens, run};
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::postgres::Postgres;
use crate::support::process::python;
use crate::support::scratch::Scratch;

#[derive(Clone, Copy)]
enum Engine {
    DuckDb,
    Spark,
}

impl Engine {
    /// What it calls a column's type.
    fn type_name(self, field: &Field) -> String {
        let is_json = field.metadata().get("ARROW:extension:name").is_some_and(|name| name == "arrow.json");
        let (duckdb, spark) = match field.data_type() {
            DataType::Boolean => ("BOOLEAN", "boolean"),
            DataType::Int16 => ("SMALLINT", "smallint"),
            DataType::Int32 => ("INTEGER", "int"),
            DataType::Int64 => ("BIGINT", "bigint"),
            DataType::Float32 => ("FLOAT", "float"),
            DataType::Float64 => ("DOUBLE", "double"),
            DataType::Utf8 if is_json => ("JSON", "string"),
            DataType::Utf8 => ("VARCHAR", "string"),
            DataType::Binary => ("BLOB", "binary"),
            DataType::Date32 => ("DATE", "date"),
            DataType::Timestamp(_, None) => ("TIMESTAMP", "timestamp_ntz"),
            DataType::Timestamp(..) => ("TIMESTAMP WITH TIME ZONE", "timestamp"),
            DataType::Map(..) => ("MAP(VARCHAR, VARCHAR)", "map<string,string>"),
            DataType::Decimal128(precision, scale) => {
                return match self {
                    Self::DuckDb => format!("DECIMAL({precision},{scale})"),
                    Self::Spark => format!("decimal({precision},{scale})"),
                };
            }
            DataType::List(element) => {
                let element = self.type_name(element);
                return match self {
                    Self::DuckDb => format!("{element}[]"),
                    Self::Spark => format!("array<{element}>"),
                };
            }
            other => panic!("no type for {other}"),
        };
        match self {
            Self::DuckDb => duckdb,
            Self::Spark => spark,
        }
        .to_owned()
    }
}

/// Reads files as the engines do: for each set of files, the type of every column, how many values it has, and how many
/// characters, where it is text. Every value is looked at.
const PROGRAM: &str = r#"
import json, sys
sets = json.load(open(sys.argv[1]))
wanted = sys.argv[2]
quote = '`' if wanted == 'spark' else '"'
text = 'string' if wanted == 'spark' else 'varchar'
if wanted == 'duckdb':
    import duckdb
    con = duckdb.connect()
    con.execute("set timezone = 'UTC'")
    def types(files):
        return [(row[0], row[1]) for row in con.execute('describe select * from read_parquet(?)', [files]).fetchall()]
    def ask(files, columns):
        return con.execute('select ' + columns + ' from read_parquet(?)', [files]).fetchone()
else:
    from pyspark.sql import SparkSession
    spark = (SparkSession.builder.master('local[1]').config('spark.ui.enabled', 'false')
        .config('spark.driver.bindAddress', '127.0.0.1').config('spark.sql.session.timeZone', 'UTC')
        .config('spark.sql.shuffle.partitions', '1').config('spark.sql.codegen.wholeStage', 'false')
        .config('spark.sql.codegen.factoryMode', 'NO_CODEGEN').config('spark.sql.ansi.enabled', 'false').getOrCreate())
    spark.sparkContext.setLogLevel('OFF')
    def types(files):
        frame = spark.read.parquet(*files)
        frame.createOrReplaceTempView('t')
        return frame.dtypes
    def ask(files, columns):
        return list(spark.sql('select ' + columns + ' from t').head())
told = {}
for name, files in sets.items():
    columns = types(files)
    # The partition is no column of the files.
    columns = [(column, kind) for column, kind in columns if column != '_date']
    found = {column: [kind] for column, kind in columns}
    for at in range(0, len(columns), 150):
        parts = []
        for column, kind in columns[at:at + 150]:
            c = quote + column.replace(quote, quote + quote) + quote
            looked = 'sum(length(' + c + '))' if kind in ('VARCHAR', 'string') else 'max(length(cast(' + c + ' as ' + text + ')))'
            parts += ['count(' + c + ')', looked]
        row = ask(files, ', '.join(parts))
        for place, (column, kind) in enumerate(columns[at:at + 150]):
            found[column] += [row[2 * place], row[2 * place + 1]]
    told[name] = found
print(json.dumps(told))
"#;

/// The Python that has the engines: `scripts/install readers` makes it.
pub(in crate::scenarios) fn interpreter() -> PathBuf {
    python("BYGONE_TEST_READERS", "readers")
}

/// What an engine sees in sets of files; none, with a word of why, where it cannot be had.
fn ask(engine: Engine, sets: &Value) -> Option<BTreeMap<String, BTreeMap<String, Value>>> {
    let python = interpreter();
    let has = |module: &str| {
        let import = format!("import {module}");
        Command::new(&python).arg("-c").arg(import).output().is_ok_and(|done| done.status.success())
    };
    let name = match engine {
        Engine::DuckDb => {
            assert!(has("duckdb"), "{} has no duckdb: run scripts/install readers", python.display());
            "duckdb"
        }
        Engine::Spark => {
            let java = Command::new("java").arg("-version").output().is_ok_and(|done| done.status.success());
            if !java || !has("pyspark") {
                eprintln!("Spark is left out: there is no {}", if java { "pyspark" } else { "Java" });
                return None;
            }
            "spark"
        }
    };
    let scratch = Scratch::new("engine");
    let file = scratch.join("sets.json");
    std::fs::write(&file, sets.to_string()).unwrap();
    let done = Command::new(&python).arg("-c").arg(PROGRAM).arg(&file).arg(name).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{name}: {}", &said[said.len().saturating_sub(4000)..]);
    Some(serde_json::from_slice(&done.stdout).unwrap())
}

/// The files of each table, and of the transactions.
fn files(history: &History, root: &std::path::Path) -> Value {
    let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in history.live.values() {
        sets.entry(entry.table.clone()).or_default().push(root.join(&entry.path).display().to_string());
    }
    json!(sets)
}

#[test]
fn duckdb_and_spark_read_every_file_and_see_the_promised_types() {
    // Given facts of every type, in a file that was copied and one that was streamed, and tables of odd shapes
    let server = Postgres::start();
    let mut client = server.connect();
    run(&mut client, &format!("{DDL} create schema texts"));
    let specimens = Specimens::of(server.major(), BUILT_IN.iter().chain(MADE));
    specimens.create(&mut client, "texts.zoo");
    specimens.insert(&mut client, "texts.zoo", 0);
    let many: Vec<String> = (0..300).map(|n| format!("c{n} int")).collect();
    run(
        &mut client,
        &format!(
            "create table texts.broad ({}, primary key (c0)); insert into texts.broad (c0, c299) values (1, 2);
             create table texts.\"Odd \"\"é\"\"\" (\"Id\" int primary key, id int, \"a b\" text, \"q\"\"t\" text, \"x.y\" text, \"`\" text);
             insert into texts.\"Odd \"\"é\"\"\" values (1, 2, 'a', 'b', 'c', 'd');
             create table texts.bare (); alter table texts.bare replica identity full; insert into texts.bare default values",
            many.join(", ")
        ),
    );
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).tables(&["texts.*"]);
    bygone.until_current();
    specimens.insert(&mut client, "texts.zoo", STREAMED);
    bygone.until_current();
    let history = read(scratch.join("history"));
    let sets = files(&history, &scratch.join("history"));
    // When each engine reads them, then it sees what our own reader sees.
    for engine in [Engine::DuckDb, Engine::Spark] {
        let Some(told) = ask(engine, &sets) else { continue };
        assert_eq!(told.len(), sets.as_object().unwrap().len());
        let mut wrong = Vec::new();
        for table in history.tables() {
            let batches = history.facts(table);
            for (at, field) in batches[0].schema().fields().iter().enumerate() {
                let columns = batches.iter().map(|batch| batch.column(at));
                let count: usize = columns.clone().map(|column| column.len() - column.null_count()).sum();
                let mut due = vec![json!(engine.type_name(field)), json!(count)];
                let Some(seen) = told[table].get(field.name()) else {
                    wrong.push(format!("{table}: no column {}", field.name()));
                    continue;
                };
                let name = seen[0].as_str().unwrap_or_default();
                if matches!(name, "VARCHAR" | "string") {
                    let text = |column: &arrow::array::ArrayRef| -> usize {
                        column.as_string::<i32>().iter().flatten().map(|text| text.chars().count()).sum()
                    };
                    let length: usize = columns.map(text).sum();
                    due.push(if count == 0 { Value::Null } else { json!(length) });
                } else {
                    due.push(seen[2].clone());
                }
                if *seen != json!(due) {
                    wrong.push(format!("{table}.{}: {seen}, not {}", field.name(), json!(due)));
                }
            }
        }
        assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    }
}
