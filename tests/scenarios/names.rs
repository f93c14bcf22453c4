//! Names that would be code, or lead elsewhere, where anybody forgot to quote them.

use std::collections::BTreeMap;

use super::delta;
use crate::queries::engines::duckdb;
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::postgres::Postgres;
use crate::support::scratch::Scratch;
use crate::support::store::Store;

const SCHEMA: &str = "S\"; drop table public.bystander; --";
const COLUMN: &str = "'; drop table bystander; --";

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The directory in the history of each table.
fn directories(history: &History) -> BTreeMap<String, String> {
    let adds = history.commits.iter().flat_map(|commit| commit["add"].as_array().unwrap());
    let directory = |path: &str| path.splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
    let named = adds.map(|add| (add["table"].as_str().unwrap(), directory(add["path"].as_str().unwrap())));
    named.filter(|(table, _)| *table != "transactions").map(|(table, at)| (table.to_owned(), at)).collect()
}

#[test]
fn a_name_is_nothing_but_a_name_wherever_it_comes() {
    let server = Postgres::start();
    let long = "A".repeat(63);
    let names =
        ["../x", "a\"b; drop table bystander", "x'); drop table bystander; --", "$(id)`id`", "%s{}\\", &long];
    server.run(&format!(
        "create table bystander (id int primary key); insert into bystander values (1); create schema {}",
        quoted(SCHEMA)
    ));
    let tables: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let schema = if at % 2 == 0 { "public".to_owned() } else { quoted(SCHEMA) };
            format!("{schema}.{}", quoted(name))
        })
        .collect();
    let column = quoted(COLUMN);
    for table in &tables {
        server.run(&format!("create table {table} (id int primary key, {column} text); insert into {table} values (1, 'first')"));
    }
    let scratch = Scratch::new("history");
    let root = scratch.join("history");
    let url = server.url();
    let mut bygone = Bygone::new(&url, &root)
        .tables(&["public.*", &format!("{}.*", quoted(SCHEMA))])
        .options(&["--facts", &url]);
    bygone.command(&["install", "ddl", "--source", &url]).well();
    bygone.until_current();
    let before = server.value("select pg_current_wal_insert_lsn()").unwrap();
    for table in &tables {
        server.run(&format!(
            "update {table} set {column} = 'second'; alter table {table} add column {} int default 7, add column _version int default 700",
            quoted(names[1])
        ));
    }
    bygone.until_current();

    let history = History::read(Store::directory(&root));
    let directories = directories(&history);
    assert_eq!(directories.len(), tables.len() + 1, "{directories:?}");
    for table in &tables {
        let ask = |arguments: &[&str]| bygone.ask(arguments).well().stdout;
        let now = ask(&["as-of", table, "--at", "now", "--format", "csv"]);
        assert!(now.ends_with("\n1,second,7,700\n"), "{table}: {now}");
        assert!(
            ask(&["as-of", table, "--at", &before, "--format", "csv"]).ends_with("\n1,first\n"),
            "{table}"
        );
        assert!(ask(&["blame", table, "1", "--format", "json"]).contains(COLUMN), "{table}");
        assert!(
            ask(&["diff", table, "--from", &before, "--to", "now", "--format", "json"]).contains("second"),
            "{table}"
        );
        assert!(ask(&["history", table, "1", "--format", "json"]).contains("first"), "{table}");
        let told = bygone.ask_of(&url, &["as-of", table, "--at", "now", "--format", "csv"]).well().stdout;
        assert_eq!(told, now, "{table}");
        let arguments = ["restore", table, "1", "--at", &before, "--apply", "--source", &url];
        bygone.ask(&arguments).well();
        let text = server.value(&format!("select {column} from {table}"));
        assert_eq!(text.as_deref(), Some("first"), "{table}");
    }
    bygone.until_current();

    // What other engines are given stands for each table under its own name.
    let asked =
        names.iter().map(|name| format!("select {column} from {};\n", quoted(name))).collect::<String>();
    let rows = duckdb(&bygone.ask(&["views", "duckdb"]).well().stdout, &asked);
    assert!(rows.len() == names.len() && rows.iter().all(|row| row[0] == "first"), "{rows:?}");
    server.run(&bygone.ask_of(&url, &["views", "postgres"]).well().stdout);
    let views = server.column("select quote_ident(viewname) from pg_views where schemaname = 'bygone'");
    let shown = |view: &&String| {
        server.value(&format!("select count(*) from information_schema.columns where table_schema = 'bygone' and quote_ident(table_name) = $q${view}$q$ and column_name = $q${COLUMN}$q$")).as_deref() == Some("1")
    };
    let shown: Vec<_> = views.iter().filter(shown).filter(|view| !view.contains("_timeline")).collect();
    assert_eq!(shown.len(), names.len(), "{views:?}");
    for view in shown {
        assert_eq!(
            server.value(&format!("select {column} from bygone.{view}")).as_deref(),
            Some("first"),
            "{view}"
        );
    }
    let history = History::read(Store::directory(&root));
    for (table, directory) in &directories {
        delta::assert_same(&history, &root, table, directory);
    }
    bygone.ask(&["verify"]).well();
    bygone.command(&["uninstall", "--source", &url]).well();
    assert_eq!(server.value("select count(*) from bystander").as_deref(), Some("1"));
    bygone.command(&["detach", "--source", &url]).well();
    assert_eq!(server.traces(), Vec::<String>::new());
}
