//! Retention classes: what the files of a table are tagged with.

use serde_json::Value;

use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::moto::Moto;
use crate::support::postgres::Postgres;
use crate::support::scratch::Scratch;

const TABLES: &str = "
    create table orders (id int primary key, body bytea); insert into orders values (0, 'x');
    create table sessions (id int primary key); insert into sessions values (0);
    create table plain (id int primary key); insert into plain values (0)";
/// 8 MB that no codec makes smaller.
const LARGE: &str =
    "select decode(string_agg(md5(random()::text), ''), 'hex') from generate_series(1, 200000) where k > 0";

/// The class of each table, as `bygone tables` tells it.
fn told(bygone: &Bygone) -> Vec<(String, Option<String>)> {
    let told = bygone.ask(&["tables", "--format", "json"]).well().stdout;
    let tables: Vec<Value> = serde_json::from_str(&told).unwrap();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    tables.iter().map(|table| (text(&table["table"]).unwrap(), text(&table["retention"]))).collect()
}

/// Each file of the bucket that holds facts of a table, with its tags.
fn tags(moto: &Moto, table: &str) -> Vec<(String, Vec<String>)> {
    let files = moto.store("p").list().into_keys();
    let files = files
        .filter(|path| path.starts_with(&format!("tables/public.{table}/")) && path.ends_with(".parquet"));
    files.map(|path| (path.clone(), moto.tags(&format!("p/{path}")))).collect()
}

#[test]
fn the_files_of_a_table_carry_its_class_in_a_bucket() {
    let server = Postgres::start();
    server.run(TABLES);
    let moto = Moto::start();
    let options = [
        "--retention",
        "public.*=long",
        "--retention",
        "sessions=days-30",
        "--retention",
        "plain=x",
        "--no-compact",
    ];
    let mut bygone = moto.bygone(server.url(), "p").options(&options);
    bygone.until_current();
    for id in 1..=3 {
        // Not so large that they would be left as they are.
        server.run(&format!(
            "insert into orders select {id} * 10 + k, ({LARGE}) from generate_series(1, 3) k; insert into sessions values ({id})"
        ));
        bygone.until_current();
    }
    let of = |table: &str, class: &str| {
        let found = tags(&moto, table);
        assert!(found.iter().all(|(_, tags)| *tags == [format!("bygone-retention={class}")]), "{found:?}");
        found.len()
    };
    assert_eq!((of("orders", "long"), of("sessions", "days-30"), of("plain", "x")), (4, 4, 1));
    // A file that is merged by somebody who was told nothing, and goes in parts, too.
    bygone.ask(&["compact", "--all", "--grace", "1ms"]).well();
    let merged = tags(&moto, "orders");
    let large = moto
        .store("p")
        .list()
        .into_iter()
        .filter(|(path, bytes)| path.starts_with("tables/") && *bytes > 16 << 20);
    assert_eq!(large.count(), 1, "{merged:?}");
    of("orders", "long");
    of("sessions", "days-30");
    let classes = |orders: Option<&str>| {
        let class = |class: &str| Some(class.to_owned());
        [
            ("public.orders".to_owned(), orders.map(str::to_owned)),
            ("public.plain".to_owned(), class("x")),
            ("public.sessions".to_owned(), class("days-30")),
        ]
    };
    assert_eq!(told(&bygone), classes(Some("long")));
    // Another class from now on.
    let mut bygone = moto.bygone(server.url(), "p").options(&options[2..]);
    server.run("insert into orders values (9, 'y')");
    bygone.until_current();
    assert_eq!(told(&bygone), classes(None));
    let none = tags(&moto, "orders").into_iter().filter(|(_, tags)| tags.is_empty());
    assert_eq!(none.count(), 1);
    let history = History::read(moto.store("p"));
    assert!(history.events("attach").iter().any(|event| event["retention"] == "days-30"));
    bygone.ask(&["verify"]).well();
}

#[test]
fn a_class_of_no_table_is_refused() {
    let server = Postgres::start();
    server.run(TABLES);
    let scratch = Scratch::new("history");
    let attempt = |given: &str| {
        Bygone::new(server.url(), scratch.join("history")).options(&["--retention", given]).attempt(&[])
    };
    attempt("order=long").refused(&["no captured table matches order", "did you mean orders"]);
    attempt("orders").misused(&["TABLE=CLASS"]);
    attempt("orders=Long").misused(&["at most 32 characters"]);
    // On a disk the log alone tells.
    let mut bygone =
        Bygone::new(server.url(), scratch.join("history")).options(&["--retention", "orders=long"]);
    bygone.until_current();
    assert_eq!(told(&bygone)[0].1.as_deref(), Some("long"));
}
