//! Conditions, columns and limits: which rows are shown, and what of them.

use super::{Shop, WIDE};

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
        "id = 1 or id = 2",
        "not id = 1",
        "id in (1, 3)",
        "id not in (1, 3)",
        "id not in (1, null)",
        "id between 1 and 2",
        "money not between 0 and 5",
        "(id = 1 or any_text is null) and not (flag = false)",
        "flag",
        "not flag",
        "flag is not true",
        "flag is false",
        "word is distinct from ''",
        "word is not distinct from null",
        "word like '%\"b%'",
        "word not like 'a%'",
        "any_text ilike 'LINE%'",
        "padded like 'ab%'",
        "domained like '_ive5'",
        "true",
        "id = null",
        "not (id = null)",
        "dbl = 'NaN' or dbl = '-infinity' or dbl > 0",
    ] {
        shop.server.run(&format!(
            "drop table if exists saved.some; create table saved.some as select * from wide where {condition}"
        ));
        let csv = shop.ask(&["as-of", "wide", "--at", "now", "--where", condition, "--format", "csv"]);
        shop.assert_saved(&csv, "some");
    }
    for condition in [
        "lower(word) = 'a'",
        "id",
        "id =",
        "",
        "ints < '{1}'",
        "id = 'x'",
        "nope = 1",
        "id = 1 or",
        "(id = 1",
        "id = 1)",
        "id in ()",
        "id not",
        "id like '1'",
        "word like 'a\\'",
        "word = ann",
    ] {
        assert_eq!(
            shop.bygone.ask(&["as-of", "wide", "--at", "now", "--where", condition]).code(),
            Some(2),
            "{condition}"
        );
    }
    shop.misused(&["as-of", "wide", "--at", "now", "--where", "id ~ '1'"], &["supported are"]);
    shop.misused(&["as-of", "wide", "--at", "now", "--where", "word = ann"], &["write 'ann'"]);
    shop.misused(
        &["as-of", "wide", "--at", "now", "--where", &format!("{}id = 1", "(".repeat(5000))],
        &["goes too deep"],
    );
}

#[test]
fn rows_that_a_condition_cannot_tell_of_are_counted() {
    // Given a column whose values are not known once a row has changed
    let mut shop = Shop::with(
        "create table doubled (id int primary key, v int, g int generated always as (v * 2) stored);
         insert into doubled values (1, 1), (2, 1), (3, null)",
    );
    shop.server.run("update doubled set v = 1");
    shop.capture();
    for (condition, rows, told) in [
        ("g = 2", 0, "3 rows of public.doubled, which are left out"),
        ("g is null or id < 3", 2, "1 row of public.doubled, which is left out"),
        ("g = 2 or id < 3", 2, "1 row of public.doubled"),
        ("not (g = 2 and id > 1)", 1, "2 rows of public.doubled"),
        ("g = 2 and id > 3", 0, ""),
        ("g = 2 and v = null", 0, ""),
        ("g in (2) or v = 1 or id = 3", 3, ""),
    ] {
        let asked = shop
            .bygone
            .ask(&["as-of", "doubled", "--at", "now", "--where", condition, "--format", "csv"])
            .well();
        assert_eq!(asked.stdout.lines().count(), rows + 1, "{condition}: {}", asked.stdout);
        let said = asked.stderr.contains("cannot tell");
        assert!(said != told.is_empty() && asked.stderr.contains(told), "{condition}: {}", asked.stderr);
    }
    let found = shop.bygone.ask(&["find", "doubled", "g", "2"]).well();
    assert!(found.stderr.contains("g is not known in "), "{}", found.stderr);
    assert!(!shop.bygone.ask(&["find", "doubled", "v", "1"]).well().stderr.contains("not known"));
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
