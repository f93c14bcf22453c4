//! A table that was dropped and made again: the rows of both read as one history, column by column, whatever became of types.

use serde_json::{Value, json};

use super::Shop;
use super::engines::duckdb;

/// `p` and `q` before, and a position before they were dropped.
fn remade() -> (Shop, String) {
    let mut shop = Shop::with(
        "create table p (id int primary key, v text, w int); insert into p values (1, 'stays', 5), (2, 'gone', 6);
         create table q (id int primary key, v text, \"Odd\" int); insert into q values (1, 'word', 1), (2, '7', 2), (3, null, 3)",
    );
    let before = shop.server.value("select pg_current_wal_insert_lsn()").unwrap();
    shop.server.run(
        "drop table p; create table p (id int primary key, v text, w bigint); insert into p values (1, 'stays', 8);
         drop table q; create table q (id int primary key, v int); insert into q values (1, 9), (3, null)",
    );
    shop.capture();
    shop.server.run("update p set w = 80 where id = 1");
    shop.capture();
    (shop, before)
}

#[test]
fn a_row_comes_back_into_a_table_whose_columns_have_other_types() {
    let (mut shop, before) = remade();
    shop.restore(&["p", "2", "--apply"]).well();
    shop.restore(&["p", "1", "--at", &before, "--apply"]).well();
    let rows = shop.server.column("select id || ' ' || v || ' ' || w from p order by id");
    assert_eq!(rows, ["1 stays 5", "2 gone 6"]);
    shop.restore(&["q", "2", "--at", &before, "--apply"]).well();
    assert_eq!(shop.server.value("select v::text from q where id = 2").as_deref(), Some("7"));
    // What the type of now does not take is said, and left alone.
    shop.restore(&["q", "1", "--at", &before, "--apply"])
        .refused(&["v (which its type of now does not take)", "not known"]);
    let told = shop.restore(&["q", "3", "--at", &before]).well();
    assert!(told.stderr.contains("nothing to do"), "{}", told.stderr);
    shop.server.run("delete from q where id = 1");
    shop.capture();
    let told = shop.restore(&["q", "1", "--at", &before, "--apply"]).well();
    assert!(told.stderr.contains("the value of v (which its type of now does not take)"), "{}", told.stderr);
    assert_eq!(shop.server.value("select v::text from q where id = 1"), None);
}

#[test]
fn what_a_column_held_before_is_shown_beside_what_it_holds() {
    let (shop, before) = remade();
    let changes = shop.json(&["diff", "p", "--from", &before]);
    assert_eq!(changes[0]["changes"], json!({"w": {"old": 5, "new": 80}}));
    assert_eq!(changes[1]["changes"], json!({"id": {"old": 2}, "v": {"old": "gone"}, "w": {"old": 6}}));
    let changes = shop.json(&["diff", "q", "--from", &before]);
    assert_eq!(changes[0]["changes"], json!({"v": {"old": "word", "new": 9}}));
    for value in ["5", "6", "8", "80"] {
        assert_eq!(shop.json(&["find", "p", "w", value]).len(), 1, "{value}");
    }
    assert_eq!(shop.json(&["find", "q", "v", "7"]).len(), 1);
    let held = shop.json(&["sql", "select id, w from p_history where _op <> 'drop' order by _lsn, _seq"]);
    let expected = json!([{"id": 1, "w": 5}, {"id": 2, "w": 6}, {"id": 1, "w": 8}, {"id": 1, "w": 80}]);
    assert_eq!(Value::from(held), expected);
    let odd = shop.json(&[
        "sql",
        "select \"Odd\", v, v__2, _raw from q_history where _op <> 'drop' order by _lsn, _seq",
    ]);
    assert_eq!(odd[0], json!({"Odd": 1, "v": null, "v__2": "word", "_raw": {"v": "word"}}));
    let time = shop.json(&["history", "p", "1"])[0]["when"].as_str().unwrap().to_owned();
    let told = duckdb(
        &shop.ask(&["views", "duckdb"]),
        &format!(
            "select id, w from p_as_of('{time}') order by id;\nselect id, w from p order by id;\nselect v from q order by id;\n"
        ),
    );
    assert_eq!(Value::from(told), json!([[1, 5], [2, 6], [1, 80], [9], [null]]));
}
