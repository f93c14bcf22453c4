//! What the log's events mean to readers: rewrites, partitions, gaps, drops and new names.
//!
//! The events stand in commits that the tests append themselves, so that each lies where the test wants it.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Shop;
use super::engines::duckdb_says;
use crate::support::history::hex;

impl Shop {
    /// Appends a commit that says these events, each `offset` bytes after the history's present end where it names a
    /// number in place of a position. Gives back that end.
    fn tell(&self, events: &[Value]) -> u64 {
        self.tell_of(&json!([]), events)
    }

    /// The same, with new versions of tables' columns.
    fn tell_of(&self, schemas: &Value, events: &[Value]) -> u64 {
        let log = self.scratch.join("history/log");
        let mut names: Vec<_> = fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        let bytes = fs::read(names.last().unwrap()).unwrap();
        let mut commit: Value = serde_json::from_slice(&bytes).unwrap();
        let end = position(commit["wal"]["to"].as_str().unwrap());
        let place =
            |offset: &Value| offset.as_u64().map_or(offset.clone(), |offset| shown(end + offset).into());
        let events: Vec<Value> = events
            .iter()
            .map(|event| {
                let mut event = event.clone();
                event["lsn"] = match &event["lsn"] {
                    Value::Array(pair) => pair.iter().map(place).collect(),
                    one => place(one),
                };
                event
            })
            .collect();
        let seq = commit["seq"].as_u64().unwrap() + 1;
        let to = shown(end + 0x1_0000);
        commit["seq"] = seq.into();
        commit["prev"] = hex(&Sha256::digest(&bytes)).into();
        commit["wal"] = json!({"from": shown(end), "to": to});
        commit["resume"] = to.into();
        commit["server_time"] = commit["at"].clone();
        commit["events"] = events.into();
        commit["schemas"] = schemas.clone();
        commit["add"] = json!([]);
        commit["remove"] = json!([]);
        fs::write(log.join(format!("{seq:020}.json")), format!("{commit}\n")).unwrap();
        end
    }

    /// What `as-of` says on stderr, beside a result.
    #[track_caller]
    fn warned(&self, table: &str, place: u64) -> String {
        self.answered(table, &shown(place)).1
    }
}

fn position(text: &str) -> u64 {
    let (high, low) = text.split_once('/').unwrap();
    (u64::from_str_radix(high, 16).unwrap() << 32) | u64::from_str_radix(low, 16).unwrap()
}

fn shown(position: u64) -> String {
    format!("{:X}/{:X}", position >> 32, position & 0xFFFF_FFFF)
}

#[test]
fn between_a_rewrite_and_the_comparison_rows_are_not_known_exactly() {
    for (kind, word) in [("rewrite", "rewritten"), ("partition", "a partition came"), ("key", "another key")]
    {
        let shop = Shop::orders();
        let end = shop.tell(&[
            json!({"kind": kind, "table": "public.orders", "lsn": [0x100, 0x200], "doubt": true}),
            json!({"kind": "reconcile", "table": "public.orders", "lsn": 0x300}),
        ]);
        for sure in [end, end + 0x100, end + 0x300, end + 0x400] {
            assert_eq!(shop.warned("orders", sure), "", "{kind} {sure:x}");
        }
        for unsure in [end + 0x101, end + 0x200, end + 0x2ff] {
            let said = shop.warned("orders", unsure);
            assert!(said.contains("not known exactly") && said.contains(word), "{said}");
            assert!(said.contains(&format!("known until {}", shown(end + 0x100))), "{said}");
            assert!(said.contains(&format!("known again from {}", shown(end + 0x300))), "{said}");
            // The other tables are what they are.
            assert_eq!(shop.warned("notes", unsure), "");
        }
        // A time between the two commits may be any position between them.
        let log = shop.json(&["log"]);
        let at = log.last().unwrap()["at"].as_str().unwrap();
        let now = shop.bygone.ask(&["as-of", "orders", "--at", at, "--format", "csv"]).well();
        assert_eq!(now.stdout, "id,customer,total\n1,ann,13.50\n2,\"\",\n");
        let diff =
            shop.bygone.ask(&["diff", "orders", "--from", &shown(end), "--to", &shown(end + 0x150)]).well();
        assert!(diff.stderr.contains("not known exactly"), "{}", diff.stderr);
    }
}

/// Engines that cannot warn beside an answer refuse one, unless views were asked for that show what is known.
#[test]
fn views_refuse_the_moments_at_which_rows_are_not_known_exactly() {
    for (kind, word) in [("rewrite", "rewritten"), ("partition", "a partition came"), ("key", "another key")]
    {
        let shop = Shop::orders();
        shop.tell(&[json!({"kind": kind, "table": "public.orders", "lsn": [0x100, 0x200], "doubt": true})]);
        // The commit is as old as the one before: the rewrite may lie a moment before that.
        let log = shop.json(&["log"]);
        let at = log.last().unwrap()["at"].as_str().unwrap().to_owned();
        let asked = |at: &str| {
            [
                "orders",
                "orders_as_of({at}::timestamptz - interval 1 microsecond)",
                "orders_as_of({at}::timestamptz - interval 1 day)",
                "orders_history",
                "notes",
                "notes_as_of({at}::timestamptz)",
            ]
            .map(|relation| format!("from {}", relation.replace("{at}", &format!("'{at}'"))))
        };
        for (settled, inexact) in [(false, false), (false, true), (true, false)] {
            if settled {
                shop.tell(&[json!({"kind": "reconcile", "table": "public.orders", "lsn": 0x300})]);
            }
            let mut arguments = vec!["views", "duckdb"];
            arguments.extend(inexact.then_some("--inexact"));
            let told = shop.bygone.ask(&arguments).well();
            for said in [&told.stderr, &told.stdout] {
                assert!(
                    said.contains("the rows of public.orders are not known exactly from")
                        && said.contains(word),
                    "{said}"
                );
                assert!(!said.contains("the rows of public.notes"), "{said}");
            }
            let said = duckdb_says(&told.stdout, &asked(&at));
            let refused = |said: &str| {
                said.contains("not known exactly at this moment")
                    && said.contains(word)
                    && said.contains("--inexact")
            };
            assert_eq!(refused(&said[0]), !settled && !inexact, "{said:?}");
            assert_eq!(refused(&said[1]), !inexact, "{said:?}");
            assert!(said[2].contains("its history begins at"), "{said:?}");
            assert_eq!(said[3..], ["6 rows", "2 rows", "2 rows"]);
            if inexact {
                assert_eq!(said[..2], ["2 rows", "2 rows"]);
            }
        }
    }
}

#[test]
fn a_rewrite_that_is_not_settled_yet_leaves_the_present_in_doubt() {
    let shop = Shop::orders();
    let end = shop.tell(&[json!({"kind": "rewrite", "table": "public.orders", "lsn": 0x100})]);
    assert_eq!(shop.warned("orders", end + 0xff), "");
    let now = shop.bygone.ask(&["as-of", "orders", "--at", "now"]).well();
    assert!(now.stderr.contains("not in the history yet"), "{}", now.stderr);
    shop.tell(&[json!({"kind": "reconcile", "table": "public.orders", "lsn": 0x100})]);
    let now = shop.bygone.ask(&["as-of", "orders", "--at", "now"]).well();
    assert!(!now.stderr.contains("not known exactly"), "{}", now.stderr);
    // Nor does a table that is captured anew go on with the doubts of before.
    shop.tell(&[
        json!({"kind": "rewrite", "table": "public.orders", "lsn": 0x100, "doubt": true}),
        json!({"kind": "detach", "table": "public.orders", "lsn": 0x200}),
        json!({"kind": "snapshot", "table": "public.orders", "lsn": 0x300}),
    ]);
    let now = shop.bygone.ask(&["as-of", "orders", "--at", "now"]).well();
    assert!(!now.stderr.contains("not known exactly"), "{}", now.stderr);
}

#[test]
fn inside_a_gap_nothing_is_known_of_any_table() {
    for kind in ["gap", "fork"] {
        let shop = Shop::orders();
        let end = shop.tell(&[json!({"kind": kind, "lsn": [0x100, 0x200]})]);
        for table in ["orders", "notes"] {
            for sure in [end, end + 0x100, end + 0x200] {
                let said = shop.warned(table, sure);
                // After a fork the source has positions of before once more.
                let is_twice = kind == "fork" && sure <= end + 0x100;
                assert_eq!(said.contains("lies before the fork"), is_twice, "{kind} {sure:x}: {said}");
                assert!(!said.contains("known"), "{kind} {sure:x}: {said}");
            }
            let known = format!("known until {}", shown(end + 0x100));
            let inside = shown(end + 0x150);
            let words = [known.as_str(), kind, "known again from"];
            shop.refused(&["as-of", table, "--at", &inside], &words);
            shop.refused(&["sql", &format!("select * from {table}_as_of('{inside}')")], &words);
            shop.refused(
                &[
                    "sql",
                    &format!("select 1 as one union all select count(*) from {table}_as_of('{inside}')"),
                ],
                &words,
            );
            shop.refused(&["diff", table, "--from", &shown(end), "--to", &inside], &words);
            shop.refused(&["diff", table, "--from", &inside, "--to", &shown(end + 0x200)], &words);
            shop.refused(&["restore", table, "--where", "true", "--at", &inside], &words);
            let key = if table == "orders" { &["1"][..] } else { &["x,y", "1"] };
            shop.refused(&[&["restore", table][..], key, &["--at", &inside]].concat(), &words);
        }
        // What happened to rows, as far as it is known, can be asked all the same.
        assert_eq!(shop.json(&["history", "orders", "1"]).len(), 2);
        assert_eq!(shop.json(&["blame", "orders", "1"]).len(), 3);
        assert_eq!(shop.json(&["find", "orders", "customer", "ann"]).len(), 2);
        let views = shop.ask(&["views", "duckdb"]);
        let log = shop.json(&["log"]);
        let at = log.last().unwrap()["at"].as_str().unwrap();
        let asked = [
            "orders_as_of('{at}'::timestamptz - interval 1 microsecond)",
            "orders_as_of('{at}'::timestamptz)",
            "orders",
            "orders_history",
        ]
        .map(|relation| format!("from {}", relation.replace("{at}", at)));
        let said = duckdb_says(&views, &asked);
        assert!(said[0].contains(&format!("a {kind} lies there; it is known until")), "{said:?}");
        assert_eq!(said[1..], ["2 rows", "2 rows", "6 rows"], "{said:?}");
    }
}

#[test]
fn a_dropped_table_is_known_until_it_was_dropped() {
    let shop = Shop::orders();
    let end = shop.tell(&[json!({"kind": "drop", "table": "public.orders", "lsn": 0x100})]);
    assert_eq!(shop.warned("orders", end), "");
    let dropped = format!("dropped at {}", shown(end + 0x100));
    for moment in ["now", &shown(end + 0x100), &shown(end + 0x200)] {
        shop.refused(&["as-of", "orders", "--at", moment], &[&dropped]);
    }
    // What happened to its rows can still be asked.
    assert_eq!(shop.json(&["history", "orders", "1"]).len(), 2);
    let tables = shop.json(&["tables"]);
    assert_eq!(tables[1]["status"].as_str().unwrap(), dropped);
    assert_eq!(tables[0]["status"], Value::Null);
    let views = shop.ask(&["views", "duckdb"]);
    assert!(views.contains("it was dropped at"), "{views}");
}

#[test]
fn a_table_that_was_renamed_is_found_by_both_names() {
    let shop = Shop::orders();
    shop.tell(&[
        json!({"kind": "schema", "table": "public.notes", "lsn": [0x100, 0x200], "renamed_to": "public.jottings"}),
        // Another table's old name may be taken by then.
        json!({"kind": "schema", "table": "public.orders", "lsn": [0x200, 0x300], "renamed_to": "archive.Orders"}),
    ]);
    let rows = shop.json(&["as-of", "notes", "--at", "now"]);
    for name in ["jottings", "public.jottings", "public.notes", "\"jottings\""] {
        assert_eq!(shop.json(&["as-of", name, "--at", "now"]), rows, "{name}");
    }
    for name in ["orders", "public.orders", "Orders", "archive.Orders", "\"archive\".\"Orders\""] {
        assert_eq!(shop.json(&["history", name, "1"]).len(), 2, "{name}");
    }
    shop.refused(&["as-of", "joltings", "--at", "now"], &["did you mean jottings"]);
    let tables = shop.json(&["tables"]);
    assert_eq!(
        (&tables[0]["table"], &tables[0]["status"]),
        (&"public.notes".into(), &"now public.jottings".into())
    );
    let sql = shop.ask(&["restore", "jottings", "x,y", "1"]);
    assert!(sql.contains(r#"update only "public"."jottings""#), "{sql}");
    let told =
        super::engines::duckdb(&shop.ask(&["views", "duckdb"]), "select count(*)::int from jottings;\n");
    assert_eq!(told, [json!([2])]);
}

#[test]
fn a_table_made_again_has_columns_of_its_own() {
    let shop = Shop::orders();
    // The new table has the same columns at other places, and one more.
    let column = |name: &str, attnum: i16, of: &str, oid: u32| json!({"name": name, "attnum": attnum, "type": of, "typmod": -1, "key": name == "id", "type_oid": oid});
    let mut total = column("total", 1, "numeric", 1700);
    total["typmod"] = 786_438.into();
    let schema = json!([{"table": "public.orders", "schema": 2, "oid": 4_000_000, "number": 1, "key": [2],
        "columns": [total, column("id", 2, "int8", 20), column("customer", 3, "text", 25), column("note", 4, "text", 25)]}]);
    let end = shop.tell_of(
        &schema,
        &[
            json!({"kind": "drop", "table": "public.orders", "lsn": 0x100}),
            json!({"kind": "attach", "table": "public.orders", "lsn": 0x200, "schema": 2}),
            json!({"kind": "snapshot", "table": "public.orders", "lsn": 0x300, "rows": 0}),
        ],
    );
    let then = shop.ask(&["as-of", "orders", "--at", &shown(end), "--format", "csv"]);
    assert_eq!(then, "id,customer,total\n1,ann,13.50\n2,\"\",\n");
    shop.refused(&["as-of", "orders", "--at", &shown(end + 0x250)], &["dropped at"]);
    assert_eq!(shop.json(&["find", "orders", "customer", "ann"]).len(), 2);
    assert_eq!(shop.json(&["find", "orders", "total", "12.50"]).len(), 1);
    let expected = json!([["12.50", 1, "ann"], ["13.50", 1, "ann"]]);
    let sql = "select cast(total as varchar) as total, id, customer from orders_history where id = 1 order by _version";
    let told = super::engines::duckdb(&shop.ask(&["views", "duckdb"]), &format!("{sql};\n"));
    assert_eq!(Value::from(told), expected);
    let told = shop.json(&["sql", sql]);
    let told: Vec<Value> = told.iter().map(|row| json!([row["total"], row["id"], row["customer"]])).collect();
    assert_eq!(Value::from(told), expected);
}

#[test]
fn a_partition_that_went_leaves_no_doubt() {
    let shop = Shop::orders();
    let end = shop.tell(&[
        json!({"kind": "partition", "table": "public.orders", "lsn": 0x100, "action": "detach", "leaf": 7}),
    ]);
    for place in [end, end + 0x100, end + 0x200] {
        assert_eq!(shop.warned("orders", place), "");
    }
    // A comparison of one leaf does not settle a rewrite of the whole.
    let end = shop.tell(&[
        json!({"kind": "rewrite", "table": "public.orders", "lsn": 0x100, "doubt": true}),
        json!({"kind": "reconcile", "table": "public.orders", "lsn": 0x200, "leaf": 7}),
        json!({"kind": "reconcile", "table": "public.orders", "lsn": 0x400}),
    ]);
    assert!(shop.warned("orders", end + 0x300).contains(&format!("known again from {}", shown(end + 0x400))));
}

#[test]
fn what_an_application_does_to_its_tables_is_read_as_it_was() {
    let mut shop = Shop::orders();
    let (before, _) = shop.save("orders", "before");
    // A rewrite, another name, and another table in place of one.
    shop.server.run("alter table orders alter total type text using total || ' EUR'");
    shop.server.run("alter table orders rename to purchases");
    shop.server.run("drop table notes; create table notes (note text, a int primary key); insert into notes values ('new', 1)");
    shop.capture();
    shop.server.run("create table saved.after as table purchases");
    let now = shop.ask(&["as-of", "purchases", "--at", "now", "--format", "csv"]);
    shop.assert_saved(&now, "after");
    let then = shop.ask(&["as-of", "orders", "--at", &before, "--format", "csv"]);
    shop.assert_saved(&then, "before");
    let moment = format!("select * from purchases_as_of('{before}') order by id");
    assert_eq!(shop.ask(&["sql", &moment, "--format", "csv"]), then);
    assert_eq!(shop.ask(&["sql", "select * from purchases order by id", "--format", "csv"]), now);
    // The two tables of one name are told apart.
    assert_eq!(shop.ask(&["as-of", "notes", "--at", "now", "--format", "csv"]), "note,a\nnew,1\n");
    assert_eq!(shop.json(&["as-of", "notes", "--at", &before]).len(), 2);
    let facts = shop.json(&["sql", "select note, a, b, _op from notes_history order by _lsn, _seq"]);
    assert_eq!(facts[0], json!({"note": "first", "a": 1, "b": "x,y", "_op": "snapshot"}));
    assert_eq!(facts.last().unwrap(), &json!({"note": "new", "a": 1, "b": null, "_op": "snapshot"}));
    assert_eq!(facts.iter().filter(|fact| fact["_op"] == "drop").count(), 2);
    // In the doubt between the rewrite and the comparison the rows come with a warning.
    let events = shop.json(&["log"]);
    let rewrite = events
        .iter()
        .flat_map(|commit| commit["events"].as_array().unwrap())
        .find(|event| event["kind"] == "rewrite")
        .unwrap()
        .clone();
    let [after, seen] = [0, 1].map(|at| position(rewrite["lsn"][at].as_str().unwrap()));
    assert!(shop.warned("purchases", seen).contains("rewritten"), "{rewrite}");
    assert!(!shop.warned("purchases", after).contains("rewritten"), "{rewrite}");
    let told = super::engines::duckdb(
        &shop.ask(&["views", "duckdb"]),
        "select total from purchases order by id;\nselect note from notes;\n",
    );
    assert_eq!(told, [json!(["13.50 EUR"]), json!([null]), json!(["new"])]);
}

/// What the catalog told of, and no message of the stream: it happened at some time between two looks.
#[test]
fn until_a_look_at_the_catalog_tells_of_it_what_came_or_went_leaves_rows_in_doubt() {
    let mut shop = Shop::with(
        "create table part (id int, r text, primary key (id, r)) partition by list (r);
         create table part_eu partition of part for values in ('eu'); insert into part values (1, 'eu');
         create table part_us partition of part for values in ('us');
         create table stray (like part including all); insert into stray values (9, 'asia');
         create table gone (id int primary key); insert into gone values (1);
         create table other (id int primary key)",
    );
    let (before, _) = shop.save("part", "before");
    shop.server.run("insert into other values (1)");
    shop.capture();
    // While nobody looks.
    shop.server.run("alter table part attach partition stray for values in ('asia')");
    let (attached, time) = shop.save("part", "attached");
    shop.server.run("alter table part detach partition part_eu; drop table part_us; drop table gone");
    let (went, _) = shop.save("part", "went");
    shop.server.run("insert into other values (2)");
    shop.capture();

    let (rows, said) = shop.answered("part", &before);
    assert_eq!(said, "");
    shop.assert_saved(&rows, "before");
    for moment in [&attached, &time, &went] {
        let (_, said) = shop.answered("part", moment);
        let words = [
            "are not known exactly: a partition came",
            "a partition was detached",
            "a partition was dropped",
        ];
        assert!(words.iter().all(|word| said.contains(word)), "{moment}: {said}");
        let (rows, said) = shop.answered("gone", moment);
        assert!(said.contains("not known exactly: it was dropped"), "{moment}: {said}");
        assert_eq!(rows, "id\n1\n");
        let (_, said) = shop.answered("stray", moment);
        assert!(said.contains("not known exactly: it went out of capture"), "{moment}: {said}");
        assert_eq!(shop.answered("other", moment).1, "");
        for asked in [
            vec!["diff", "part", "--from", &before, "--to", moment],
            vec!["sql", &format!("select * from part_as_of('{moment}')")],
        ] {
            let said = shop.bygone.ask(&asked).well().stderr;
            assert!(said.contains("a partition was detached"), "{asked:?}: {said}");
        }
    }
    // Once that is noticed, and what came is compared, all is known.
    shop.server.run("insert into other values (3)");
    let (after, _) = shop.save("part", "after");
    shop.capture();
    let (rows, said) = shop.answered("part", &after);
    assert_eq!(said, "");
    shop.assert_saved(&rows, "after");
    shop.refused(&["as-of", "gone", "--at", &after], &["public.gone was dropped at"]);

    let told = shop.bygone.ask(&["views", "duckdb"]).well();
    let asked = [
        format!("from part_as_of('{time}')"),
        format!("from gone_as_of('{time}')"),
        "from part".to_owned(),
        format!("from other_as_of('{time}')"),
    ];
    let said = duckdb_says(&told.stdout, &asked);
    assert!(said[0].contains("not known exactly at this moment: a partition"), "{said:?}");
    assert!(said[1].contains("not known exactly at this moment: it was dropped"), "{said:?}");
    assert_eq!(said[2..], ["1 rows", "1 rows"], "{said:?}");
}

/// The event triggers tell of it in the stream: nothing is in doubt.
#[test]
fn a_drop_that_the_event_triggers_tell_leaves_no_doubt() {
    let mut shop = Shop::with(
        "create table gone (id int primary key); insert into gone values (1);
         create table empty (id int primary key); create table other (id int primary key)",
    );
    let source = shop.server.url();
    shop.bygone.command(&["install", "ddl", "--source", &source]).well();
    shop.server.run("insert into other values (1)");
    shop.capture();
    let (there, then) = shop.save("gone", "there");
    shop.server.run("drop table gone");
    shop.server.run("drop table empty");
    let (dropped, time) = shop.save("other", "dropped");
    shop.server.run("insert into other values (2)");
    shop.capture();
    for moment in [&there, &then] {
        assert_eq!(shop.answered("gone", moment), ("id\n1\n".to_owned(), String::new()), "{moment}");
    }
    for moment in [&dropped, &time] {
        shop.refused(&["as-of", "gone", "--at", moment], &["public.gone was dropped at"]);
    }
    shop.refused(&["as-of", "empty", "--at", &dropped], &["public.empty was dropped at"]);
    // Without a row that ended then, a time tells no more than that it was about here.
    let (_, said) = shop.answered("empty", &time);
    assert!(said.contains("public.empty was dropped at"), "{said}");
}

/// A time lies somewhere between two positions, and what was lost between them may have been lost before it.
#[test]
fn a_time_just_after_a_table_lost_its_identity_is_refused_as_a_position_is() {
    let mut shop = Shop::with(
        "create table loose (id int primary key, v text); insert into loose values (1, 'seen');
         create table other (id int primary key)",
    );
    let source = shop.server.url();
    shop.bygone.command(&["install", "ddl", "--source", &source]).well();
    shop.server.run("insert into other values (1)");
    shop.capture();
    let (_, before) = shop.save("loose", "before");
    shop.server.run("insert into other values (2)");
    std::thread::sleep(Duration::from_millis(20));
    shop.server.run("alter table loose drop constraint loose_pkey");
    shop.server.run("update loose set v = 'unseen'");
    let (place, time) = shop.save("loose", "changed");
    shop.server.run("insert into other values (3)");
    shop.capture();
    assert_eq!(shop.answered("loose", &before), ("id,v\n1,seen\n".to_owned(), String::new()));
    for moment in [&place, &time, &"now".to_owned()] {
        let words = ["public.loose has no primary key", "cannot be seen", "--inexact"];
        shop.refused(&["as-of", "loose", "--at", moment], &words);
        shop.refused(&["sql", &format!("select * from loose_as_of('{moment}')")], &words);
    }
    let views = shop.bygone.ask(&["views", "duckdb"]).well().stdout;
    let asked = [&before, &time].map(|time| format!("from loose_as_of('{time}')"));
    let said = duckdb_says(&views, &asked);
    assert_eq!(said[0], "1 rows");
    assert!(said[1].contains("cannot be seen"), "{said:?}");
}
