//! The judges can say yes, and each of their rules can say no.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Date32Array, TimestampMicrosecondArray};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::support::comparison::judge;
use crate::support::draft::{Draft, Fact};
use crate::support::history::History;
use crate::support::oracle::Oracle;
use crate::support::postgres::Postgres;
use crate::support::rendering;
use crate::support::scratch::{Scratch, copy_directory};
use crate::support::store::Store;
use crate::support::workload::{self, Habits, Workload};

const TABLES: [&str; 3] = ["public.items", "public.pairs", "public.bag"];

const DDL: &str = "
    create table items (id bigint primary key, name text, price numeric(12,2), at timestamptz, tags text[], raw bytea,
        score double precision, day date, big text);
    create table pairs (b text, a int, v text, primary key (a, b));
    create table bag (a int, t text);
    alter table bag replica identity full";

/// The ordinary life of a few rows; each line is a transaction.
const BEFORE: &str = "
    insert into items select n, 'item ' || n, n * 1.25, now(), array['a', null, 'q\"\\'], '\\x00ff', n / 3.0, '2024-02-29', repeat('x', 4000) from generate_series(1, 12) n
    insert into pairs select 'b' || n, n, 'v' from generate_series(1, 5) n; insert into bag values (1, 'x'), (1, 'x'), (2, null), (3, '')
    delete from items where id = 12; update bag set t = 'y' where a = 2
    delete from bag where a = 3";
const DURING: &str = "
    update items set name = 'new', price = price + 1 where id <= 4
    update items set name = 'newer' where id = 1
    update items set at = null, tags = '{}', day = 'infinity' where id = 2
    update items set name = name where id = 3; update items set name = '' where id = 3; update items set name = null where id = 3
    delete from items where id = 4; insert into items (id, name, big) values (4, 'again', 'y')
    update items set id = 100 where id = 5; update pairs set v = 'w' where a = 1
    update pairs set a = 50, v = null where a = 2; delete from pairs where a = 3
    insert into bag values (1, 'x'), (4, 'z')
    update bag set t = 'changed' where a = 1
    delete from bag where a = 4
    insert into items (id, name, price) values (200, 'late', -0.01)
    truncate pairs; insert into pairs values ('b', 9, 'after')
    update items set score = 'NaN' where id = 6; update items set score = '-0' where id = 7
    delete from items where id = 8";

type Damage = fn(&mut Draft);
type Vandalism = fn(&Path);

/// A fact of `items` with this op and entity, the last one of them.
fn find(draft: &mut Draft, op: &str, entity: &str) -> usize {
    let facts = &draft.sheet("public.items").facts;
    facts.iter().rposition(|fact| fact.op == op && fact.entity == entity).unwrap()
}

/// Changes one fact of `items`.
fn spoil(draft: &mut Draft, op: &str, entity: &str, how: impl FnOnce(&mut Fact)) {
    let position = find(draft, op, entity);
    how(&mut draft.sheet("public.items").facts[position]);
}

/// Changes one value of a fact of `items`.
fn revalue(draft: &mut Draft, op: &str, entity: &str, column: &str, value: Option<&str>) {
    let column = draft.sheet("public.items").column(column);
    spoil(draft, op, entity, |fact| fact.values[column] = value.map(str::to_owned));
}

const DAMAGES: &[(&str, &[&str], Damage)] = &[
    ("a fact is missing from the middle", &["lost", "versions"], |draft| {
        let facts = &mut draft.sheet("public.items").facts;
        let position = facts.iter().position(|fact| fact.entity == "1" && fact.op == "update").unwrap();
        facts.remove(position);
    }),
    ("the newest fact of an entity is missing", &["lost", "current-extra"], |draft| {
        let position = find(draft, "delete", "8");
        draft.sheet("public.items").facts.remove(position);
    }),
    ("a row of the snapshot is missing", &["snapshot-missing"], |draft| {
        let position = find(draft, "snapshot", "9");
        draft.sheet("public.items").facts.remove(position);
    }),
    ("a row of the snapshot is there twice", &["snapshot-extra", "versions"], |draft| {
        let position = find(draft, "snapshot", "9");
        let sheet = draft.sheet("public.items");
        let mut twin = sheet.facts[position].clone();
        twin.seq = 500;
        sheet.facts.push(twin);
    }),
    ("a fact is there twice", &["doubled", "id-unique", "place-unique", "versions"], |draft| {
        let position = find(draft, "update", "1");
        let sheet = draft.sheet("public.items");
        let twin = sheet.facts[position].clone();
        sheet.facts.push(twin);
    }),
    ("a fact is there twice, the second numbered as if it were a change", &["doubled"], |draft| {
        let position = find(draft, "insert", "200");
        let sheet = draft.sheet("public.items");
        let mut twin = sheet.facts[position].clone();
        (twin.version, twin.seq, twin.op) = (2, twin.seq + 1, "update".to_owned());
        twin.changed = Some(Vec::new());
        sheet.facts.push(twin);
    }),
    ("two versions have changed places", &["version-order", "altered"], |draft| {
        let last = find(draft, "update", "1");
        let first = find(draft, "snapshot", "1");
        let facts = &mut draft.sheet("public.items").facts;
        let middle = (first + 1..last).find(|at| facts[*at].entity == "1").unwrap();
        let version = facts[last].version;
        facts[last].version = facts[middle].version;
        facts[middle].version = version;
    }),
    ("a text is another", &["altered", "current-extra"], |draft| {
        revalue(draft, "update", "1", "name", Some("newest"));
    }),
    ("a cent is missing", &["altered"], |draft| revalue(draft, "insert", "200", "price", Some("-0.02"))),
    ("null has become the empty text", &["altered"], |draft| revalue(draft, "update", "3", "name", Some(""))),
    ("minus zero has become zero", &["altered"], |draft| revalue(draft, "update", "7", "score", Some("0"))),
    ("a microsecond is missing", &["altered", "changed"], |draft| {
        revalue(draft, "update", "1", "at", Some("2001-01-01 00:00:00.000001+00"));
    }),
    ("an unchanged large value is null", &["altered", "changed"], |draft| {
        revalue(draft, "update", "1", "big", None);
    }),
    ("a byte is another", &["altered"], |draft| revalue(draft, "update", "6", "raw", Some("\\x00fe"))),
    ("an array has another element", &["altered"], |draft| {
        revalue(draft, "update", "6", "tags", Some(r#"["a", "null", "q\"\\"]"#));
    }),
    ("what the column cannot hold is lost", &["altered"], |draft| {
        spoil(draft, "update", "2", |fact| fact.raw.clear());
    }),
    ("what the column holds is in _raw too", &["raw"], |draft| {
        spoil(draft, "update", "1", |fact| fact.raw.push(("name".to_owned(), "newer".to_owned())));
    }),
    ("what the column can hold is in _raw instead", &["raw-needless"], |draft| {
        let column = draft.sheet("public.items").column("score");
        spoil(draft, "update", "1", |fact| {
            let score = fact.values[column].take().unwrap();
            fact.raw.push(("score".to_owned(), score));
        });
    }),
    ("a snapshot value is another", &["snapshot-missing", "snapshot-extra"], |draft| {
        revalue(draft, "snapshot", "9", "name", Some("item 8"));
    }),
    ("a tombstone does not say when", &["tombstones", "op"], |draft| {
        spoil(draft, "delete", "8", |fact| fact.deleted_at = None);
    }),
    ("a tombstone holds another row", &["tombstone-row", "altered"], |draft| {
        revalue(draft, "delete", "8", "name", Some("gone"));
    }),
    ("a truncated row has no tombstone", &["lost", "current-extra"], |draft| {
        let facts = &mut draft.sheet("public.pairs").facts;
        let position = facts.iter().rposition(|fact| fact.op == "truncate").unwrap();
        facts.remove(position);
    }),
    ("the old key has no tombstone", &["lost", "current-extra"], |draft| {
        let position = find(draft, "rekey", "5");
        draft.sheet("public.items").facts.remove(position);
    }),
    ("the new key does not name the old one", &["rekeyed-from"], |draft| {
        spoil(draft, "rekey", "100", |fact| fact.context = None);
    }),
    ("the operation is another", &["op"], |draft| {
        spoil(draft, "update", "1", |fact| fact.op = "reconciled".to_owned());
    }),
    ("the transaction is another", &["transaction", "one-transaction"], |draft| {
        spoil(draft, "update", "3", |fact| fact.xid = fact.xid.map(|xid| xid - 1));
    }),
    ("the transaction has lost its epoch", &["transaction"], |draft| {
        for sheet in &mut draft.sheets {
            for fact in &mut sheet.facts {
                fact.xid = fact.xid.map(|xid| xid & 0xFFFF_FFFF);
            }
        }
    }),
    ("the place is where the commit record begins", &["place", "id-bits"], |draft| {
        spoil(draft, "delete", "8", |fact| fact.lsn -= 8);
    }),
    ("the time is before the commit", &["time", "valid-from"], |draft| {
        spoil(draft, "update", "1", |fact| fact.valid_from -= 60_000_000);
    }),
    ("the identifier is of another fact", &["id-bits"], |draft| {
        spoil(draft, "update", "1", |fact| fact.id = fact.id.replace("-7", "-4"));
    }),
    ("the entity is another", &["entity-id"], |draft| {
        spoil(draft, "insert", "200", |fact| fact.entity = "201".to_owned());
    }),
    ("_changed names too much", &["changed"], |draft| {
        spoil(draft, "update", "1", |fact| fact.changed.as_mut().unwrap().push("big".to_owned()));
    }),
    ("_changed says nothing", &["changed"], |draft| {
        spoil(draft, "update", "1", |fact| fact.changed = None);
    }),
    ("a value is said to be unknown", &["unknown"], |draft| {
        spoil(draft, "update", "1", |fact| fact.unknown = Some(vec!["big".to_owned()]));
    }),
    ("one of two equal rows has changed twice", &["multiset-missing", "multiset-extra"], |draft| {
        let facts = &mut draft.sheet("public.bag").facts;
        let changed = facts.iter().rposition(|fact| fact.op == "update").unwrap();
        let other = facts[..changed].iter().rposition(|fact| fact.op == "update").unwrap();
        facts[changed].entity = facts[other].entity.clone();
        facts[changed].version = facts[other].version + 1;
    }),
    ("a keyless row is missing", &["multiset-missing", "current-missing"], |draft| {
        let facts = &mut draft.sheet("public.bag").facts;
        let position = facts.iter().position(|fact| fact.op == "insert").unwrap();
        facts.retain({
            let entity = facts[position].entity.clone();
            move |fact| fact.entity != entity
        });
    }),
];

const VANDALISMS: &[(&str, &[&str], Vandalism)] = &[
    ("a commit is altered", &["chain"], |root| edit(root, 1, |commit| commit["writer"] = "other".into())),
    ("a commit is missing", &["chain"], |root| fs::remove_file(log(root, 1)).unwrap()),
    ("two commits have changed places", &["chain"], |root| {
        let (one, two) = (fs::read(log(root, 1)).unwrap(), fs::read(log(root, 2)).unwrap());
        fs::write(log(root, 1), two).unwrap();
        fs::write(log(root, 2), one).unwrap();
    }),
    ("a commit is no JSON", &["chain"], |root| fs::write(log(root, 2), "{").unwrap()),
    ("a bit of a file has flipped", &["file"], |root| {
        let path = file(root, "public.items");
        let mut body = fs::read(&path).unwrap();
        let middle = body.len() / 2;
        body[middle] ^= 1;
        fs::write(path, body).unwrap();
    }),
    ("a file is cut off", &["file"], |root| {
        let path = file(root, "public.items");
        let body = fs::read(&path).unwrap();
        fs::write(path, &body[..body.len() - 1]).unwrap();
    }),
    ("a file is missing", &["file"], |root| fs::remove_file(file(root, "public.pairs")).unwrap()),
    ("a file belongs to no commit", &["orphan"], |root| {
        let path = file(root, "public.items");
        fs::copy(&path, path.with_file_name("00000000000000000009-000.parquet")).unwrap();
    }),
    ("a temporary file is left", &["orphan"], |root| fs::write(root.join("log/.00000#1"), "{").unwrap()),
    ("the log removes what is not there", &["replay"], |root| {
        edit(root, 2, |commit| commit["remove"] = json!(["tables/none.parquet"]));
    }),
    ("the log goes back", &["resume-order"], |root| edit(root, 2, |commit| commit["resume"] = json!("0/1"))),
    ("the log has a row too many", &["file"], |root| {
        edit(root, 2, |commit| {
            commit["add"][0]["rows"] = json!(commit["add"][0]["rows"].as_i64().unwrap() + 1)
        });
    }),
    ("the log says another range", &["file-range"], |root| {
        edit(root, 2, |commit| commit["add"][0]["lsn"] = json!(["0/1", "0/2"]));
    }),
    ("a transaction lies in two commits", &["torn"], |root| {
        let mut moved = Vec::new();
        edit(root, 1, |commit| {
            let add = commit["add"].as_array_mut().unwrap();
            moved = add.extract_if(.., |add| add["table"] == "public.pairs").collect();
        });
        edit(root, 2, |commit| commit["add"].as_array_mut().unwrap().extend(moved));
    }),
    ("a file lies under another date", &["file-date"], |root| {
        let path = file(root, "public.items");
        let day = path.parent().unwrap();
        fs::rename(day, day.with_file_name("_date=1999-01-01")).unwrap();
        let name = day.file_name().unwrap().to_str().unwrap();
        for seq in 0..3 {
            edit(root, seq, |commit| {
                *commit =
                    serde_json::from_str(&commit.to_string().replace(
                        &format!("tables/public.items/{name}"),
                        "tables/public.items/_date=1999-01-01",
                    ))
                    .unwrap();
            });
        }
    }),
    ("a transaction is not listed", &["transactions"], |root| {
        edit(root, 2, |commit| {
            let add = commit["add"].as_array_mut().unwrap();
            add.retain(|add| add["table"] != "transactions");
        });
    }),
    ("a transaction is listed with another count", &["transactions"], |root| {
        // Of a transaction that changed two tables, the facts of one are out of the log's sight.
        edit(root, 1, |commit| {
            let add = commit["add"].as_array_mut().unwrap();
            add.retain(|add| add["table"] != "public.pairs");
        });
    }),
    ("a table lies under another's name", &["path"], |root| {
        for seq in 0..3 {
            edit(root, seq, |commit| {
                let text = commit.to_string().replace(r#""table":"public.bag""#, r#""table":"public.Bag""#);
                *commit = serde_json::from_str(&text).unwrap();
            });
        }
    }),
    ("nothing says what the columns are", &["schema"], |root| {
        edit(root, 0, |commit| commit["schemas"] = json!([]))
    }),
    ("nothing says when a table was copied", &["snapshot-event"], |root| {
        edit(root, 0, |commit| commit["events"] = json!([]))
    }),
    ("nothing says what the history is", &["layout"], |root| {
        fs::remove_file(root.join("bygone.json")).unwrap()
    }),
];

fn log(root: &Path, seq: usize) -> std::path::PathBuf {
    root.join(format!("log/{seq:020}.json"))
}

/// A fact file of a table.
fn file(root: &Path, table: &str) -> std::path::PathBuf {
    let history = History::read(Store::directory(root));
    let entry = history.live.values().find(|entry| entry.table == table).unwrap();
    root.join(&entry.path)
}

fn edit(root: &Path, seq: usize, how: impl FnOnce(&mut Value)) {
    let mut commit = serde_json::from_slice(&fs::read(log(root, seq)).unwrap()).unwrap();
    how(&mut commit);
    fs::write(log(root, seq), commit.to_string()).unwrap();
}

fn live(server: &Postgres, script: &str) {
    let mut client = server.connect();
    for transaction in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        client.batch_execute(transaction).unwrap_or_else(|error| panic!("{transaction}: {error:?}"));
    }
}

fn place(server: &Postgres) -> i64 {
    server.value("select pg_current_wal_lsn() - '0/0'").unwrap().parse().unwrap()
}

#[test]
fn a_correct_history_is_found_correct_and_every_damage_is_found() {
    // Given a history that says what happened
    let server = Postgres::start();
    server.run(DDL);
    let mut client = server.connect();
    let oracle = Oracle::install(&mut client, &TABLES);
    live(&server, BEFORE);
    let mut cuts = vec![place(&server)];
    let lines: Vec<&str> = DURING.lines().collect();
    for part in lines.chunks(8) {
        live(&server, &part.join("\n"));
        cuts.push(place(&server));
    }
    let draft = Draft::of(&mut client, &oracle, &cuts);
    let scratch = Scratch::new("judges");
    let sound = scratch.join("sound");
    draft.write(&sound);

    // When it is judged as it is, then nothing is wrong
    let found = judge(&mut client, &oracle, &mut History::read(Store::directory(&sound)), true);
    crate::support::comparison::assert_flawless(&found);

    // When it is damaged, then the rules that the damage breaks are named
    let mut missed = Vec::new();
    for (number, (title, rules, damage)) in DAMAGES.iter().enumerate() {
        let mut spoilt = draft.clone();
        damage(&mut spoilt);
        let root = scratch.join(format!("damage-{number}"));
        spoilt.write(&root);
        missed.extend(undetected(&mut client, &oracle, &root, title, rules));
    }
    for (number, (title, rules, vandalism)) in VANDALISMS.iter().enumerate() {
        let root = scratch.join(format!("vandalism-{number}"));
        copy_directory(&sound, &root);
        vandalism(&root);
        missed.extend(undetected(&mut client, &oracle, &root, title, rules));
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));

    // When the source has moved on, then the history is behind
    server.run("alter table items disable trigger user; update items set name = 'unseen' where id = 9");
    let found = judge(&mut client, &oracle, &mut History::read(Store::directory(&sound)), true);
    let rules: BTreeSet<_> = found.iter().map(|violation| violation.rule.as_str()).collect();
    assert_eq!(rules, BTreeSet::from(["current-missing", "current-extra"]));
}

/// A sentence when a damage went unnoticed.
fn undetected(
    client: &mut postgres::Client,
    oracle: &Oracle,
    root: &Path,
    title: &str,
    rules: &[&str],
) -> Option<String> {
    let found = judge(client, oracle, &mut History::read(Store::directory(root)), true);
    let named: BTreeSet<_> = found.iter().map(|violation| violation.rule.clone()).collect();
    let due: BTreeSet<_> = rules.iter().map(|&rule| rule.to_owned()).collect();
    println!("{title}: {named:?}");
    (!due.is_subset(&named)).then(|| format!("{title}: found {named:?}, not {due:?}"))
}

#[test]
fn times_of_every_age_are_rendered_as_postgresql_prints_them() {
    let server = Postgres::start();
    let mut client = server.connect();
    client.batch_execute("set timezone = 'UTC'; set datestyle = 'ISO, YMD'").unwrap();
    let mut random = StdRng::seed_from_u64(1);
    let mut days: Vec<i32> = (0..2000).map(|_| random.random_range(-2_440_588..2_145_031_948)).collect();
    days.extend([-719_528, -719_529, -719_162, -719_163, -1, 0, 11_016, 2_932_896, 2_932_897]);
    let mut micros: Vec<i64> =
        (0..2000).map(|_| random.random_range(-210_866_803_200_000_000..9_223_371_000_000_000_000)).collect();
    micros.extend([-62_135_596_800_000_000, -62_135_596_800_000_001, -1, 0, 1]);
    let dates: ArrayRef = Arc::new(Date32Array::from(days.clone()));
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(micros.clone()).with_timezone("UTC"));

    let rows = client
        .query("select (date '1970-01-01' + n)::text from unnest($1::int4[]) with ordinality u (n, o) order by o", &[&days])
        .unwrap();
    for (row, printed) in rows.iter().enumerate() {
        assert_eq!(rendering::text(&dates, row).unwrap().as_deref(), Some(printed.get(0)), "{}", days[row]);
    }
    // The texts are compared after PostgreSQL has read them, as the judges do it.
    let texts: Vec<_> = (0..micros.len()).map(|row| rendering::text(&times, row).unwrap()).collect();
    let wrong = client
        .query_one(
            "select count(*) from unnest($1::int8[], $2::text[]) u (n, t)
             where t::timestamptz <> timestamptz 'epoch' + (n / 86400000000) * interval '1 day'
                 + (n % 86400000000) * interval '1 microsecond'",
            &[&micros, &texts],
        )
        .unwrap();
    assert_eq!(wrong.get::<_, i64>(0), 0);
}

#[test]
fn the_workload_makes_every_sort_of_change_in_every_table() {
    let server = Postgres::start();
    Workload::create(&server);
    let oracle = Oracle::install(&mut server.connect(), &workload::TABLES);
    let habits = Habits { pause: Duration::from_millis(1), ..Habits::default() };
    let workload = Workload::start(&server, &habits);
    workload.wait_for(4000);
    workload.finish();
    let mut truncated = 0;
    for table in &oracle.tables {
        let seen = server.column(&format!("select distinct op from {} order by 1", table.changes));
        truncated += seen.iter().filter(|op| *op == "truncate").count();
        let usual: Vec<_> = seen.iter().filter(|op| *op != "truncate").collect();
        assert_eq!(usual, ["delete", "insert", "update"], "{}", table.name);
        if !table.key.is_empty() {
            let (old, new) = (table.entity("(before)."), table.entity("(after)."));
            let moved =
                format!("select count(*) from {} where op = 'update' and {old} <> {new}", table.changes);
            assert_ne!(server.value(&moved).unwrap(), "0", "no key of {} has changed", table.name);
        }
    }
    assert!(truncated > 0);
    // Large values lie out of line, and most updates leave them alone.
    let toast = "select pg_relation_size(reltoastrelid) > 0 from pg_class where relname = 'sessions'";
    assert_eq!(server.value(toast).as_deref(), Some("t"));
    let alone = "select count(*) from audit.change_4 where op = 'update' and (before).big = (after).big
        and length((after).big) > 2000";
    assert!(server.value(alone).unwrap().parse::<i64>().unwrap() > 20);
}
