//! Columns that are hashed: their values are nowhere, and what stands for them is what the server itself makes of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::faults::files;
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::postgres::Postgres;
use crate::support::process::eventually;
use crate::support::scratch::Scratch;
use crate::support::store::Store;

const KEY: &str = "0123456789abcdef, and more";

/// A column of each sort, all but two hashed; the note is so long that it is stored out of line.
const PEOPLE: &str = "
    create extension pgcrypto;
    create table people (id int primary key, name text, email text, note text, born date, score numeric(10, 2), paid numeric,
        seen timestamptz, doc jsonb, tags text[], raw bytea, ok boolean, ratio float8, who uuid, code char(9), span time);
    alter table people alter note set storage external;
    insert into people select n, 'name ' || n, 'SECRET-' || n, 'SECRET-' || n || repeat(md5(n::text), 200), date '1990-01-01' + n,
        n / 7.0, n / 3.0, timestamptz '2026-01-01 10:00:00.5+02' + n * interval '1 hour', jsonb_build_object('a', 'SECRET-' || n),
        array['SECRET-' || n, null, 'a,b'], decode('534543524554', 'hex'), n % 2 = 0, n / 3.0::float8, gen_random_uuid(), 'S-' || n,
        time '01:02:03.4' + n * interval '1 minute' from generate_series(1, 40) n;
    insert into people (id) values (0);
    update people set born = 'infinity', score = 'NaN', seen = '-infinity', ratio = 'NaN', tags = '{{a,b},{c,d}}' where id = 1;
    create table plain (id int primary key);
    create table pins (id int primary key, pin text);
    insert into pins values (1, 'SECRET-pin')";
const HASHED: [&str; 14] = [
    "email", "note", "born", "score", "paid", "seen", "doc", "tags", "raw", "ok", "ratio", "who", "code",
    "span",
];

fn key_file(scratch: &Scratch, name: &str, key: &str) -> PathBuf {
    let path = scratch.join(name);
    fs::write(&path, key).unwrap();
    path
}

/// What the server hashes for each row of a table: its key, then the columns.
fn by_the_server(server: &Postgres, table: &str, columns: &[&str]) -> Vec<Vec<Option<String>>> {
    let mut client = server.connect();
    client
        .batch_execute("set timezone = 'UTC'; set datestyle = 'ISO'; set search_path = pg_catalog, public")
        .unwrap();
    // What the type prints, which a cast to text does not always give.
    let hash = |column: &&str| {
        format!(
            "case when {column} is not null then encode(hmac(format('%s', {column}), '{KEY}', 'sha256'), 'hex') end"
        )
    };
    let columns: Vec<String> = columns.iter().map(hash).collect();
    let sql = format!("select id::text, {} from public.{table} t order by t.id", columns.join(", "));
    let rows = client.query(&sql, &[]).unwrap();
    rows.iter().map(|row| (0..row.len()).map(|at| row.get(at)).collect()).collect()
}

/// The same as the history tells of now.
fn by_the_history(bygone: &Bygone, table: &str, columns: &[&str]) -> Vec<Vec<Option<String>>> {
    let wanted = format!("id,{}", columns.join(","));
    let asked = ["as-of", table, "--at", "now", "--columns", &wanted, "--format", "json"];
    let told = bygone.ask(&asked).well();
    assert!(!told.stderr.contains("is not known"), "{}", told.stderr);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&told.stdout).unwrap();
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let names = std::iter::once("id").chain(columns.iter().copied());
    let mut rows: Vec<Vec<Option<String>>> =
        rows.iter().map(|row| names.clone().map(|name| text(&row[name])).collect()).collect();
    rows.sort_by_key(|row| row[0].as_ref().map(|id| id.parse::<i64>().unwrap()));
    rows
}

/// Both tell the same of each row.
#[track_caller]
fn assert_same(server: &Postgres, bygone: &Bygone, table: &str, columns: &[&str], when: &str) {
    let (theirs, ours) = (by_the_server(server, table, columns), by_the_history(bygone, table, columns));
    assert_eq!(theirs.len(), ours.len(), "{when}");
    for (theirs, ours) in theirs.iter().zip(&ours) {
        for (at, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
            assert_eq!(theirs, ours, "{when}: {:?}", at.checked_sub(1).map(|at| columns[at]));
        }
    }
}

/// Nothing below a directory holds the word, and no fact does.
#[track_caller]
fn assert_nowhere(directories: &[&Path], history: &History, tables: &[&str]) {
    for table in tables {
        for fact in history.whole(table) {
            assert!(fact.values().all(|value| !value.contains("SECRET")), "{fact:?}");
        }
    }
    let mut found = Vec::new();
    directories.iter().for_each(|directory| files(directory, &mut found));
    assert!(!found.is_empty());
    for file in found {
        let bytes = fs::read(&file).unwrap();
        for word in [&b"SECRET"[..], KEY.as_bytes()] {
            let at = bytes.windows(word.len()).position(|window| window == word);
            assert_eq!(at, None, "{}", file.display());
        }
    }
}

fn values_are_nowhere(more: &str, binary: bool) {
    let server = Postgres::start();
    server.run(PEOPLE);
    server.run(more);
    let scratch = Scratch::new("history");
    let (root, state) = (scratch.join("history"), scratch.join("state"));
    let key = key_file(&scratch, "key", &format!("{KEY}\n"));
    let hashed: Vec<String> = HASHED.iter().map(|column| format!("people.{column}")).collect();
    let options =
        ["--state", state.to_str().unwrap(), "--hash-key-file", key.to_str().unwrap(), "--hash-column"];
    let all = format!("{},public.*.pin", hashed.join(","));
    let mut bygone = Bygone::new(server.url(), &root).options(&options).options(&[&all]);
    let told = bygone.until_current();
    assert!(told.stderr.contains(&format!("binary={binary}")), "{}", told.stderr);
    assert!(told.stderr.contains("chmod 600"), "{}", told.stderr);
    assert_same(&server, &bygone, "people", &HASHED, "copied");
    for change in [
        // The note is not sent along.
        "update people set name = 'other' where id = 2",
        "update people set email = 'SECRET-new', score = 1, tags = '[0:1]={x,y}', seen = now() where id = 3",
        "update people set note = note || 'SECRET-more' where id = 4; update people set email = null where id = 5",
        "insert into people select 100 + id, name, email, note, born, score, paid, seen, doc, tags, raw, ok, ratio, who, code, span from people",
        "delete from people where id = 6; update people set id = 1000 where id = 7",
        "alter table people replica identity full; update people set name = 'full' where id = 8; delete from people where id = 9",
        "alter table people add column pin text default 'SECRET-default'; update people set pin = 'SECRET-given' where id = 10",
    ] {
        server.run(change);
        bygone.until_current();
        assert_same(&server, &bygone, "people", &HASHED, change);
    }
    assert_same(&server, &bygone, "people", &["pin"], "at the end");
    // An update that left the note alone changed nothing of it.
    let told = bygone.ask(&["history", "people", "2", "--format", "json"]).well().stdout;
    let told: Vec<serde_json::Value> = serde_json::from_str(&told).unwrap();
    assert_eq!(told.len(), 2, "{told:?}");
    let history = History::read(Store::directory(&root));
    let changed = history.texts("public.people", &["_entity_id", "_version", "_changed", "_unknown", "note"]);
    let second = changed
        .iter()
        .find(|fact| fact[0].as_deref() == Some("2") && fact[1].as_deref() == Some("2"))
        .unwrap();
    assert_eq!(second[2].as_deref(), Some("{\"name\"}"), "{second:?}");
    assert_eq!((&second[3], second[4].as_ref().map(String::len)), (&None, Some(64)));
    // One that is known can be found.
    let hash =
        bygone.command(&["hash", "--hash-key-file", key.to_str().unwrap(), "SECRET-new"]).well().stdout;
    let found = bygone.ask(&["find", "people", "email", hash.trim(), "--format", "json"]).well().stdout;
    let found: Vec<serde_json::Value> = serde_json::from_str(&found).unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    // A column that is renamed while nobody looks is hashed under either name; state is made anew from facts, files are merged, and
    // the source agrees.
    bygone.forget();
    fs::remove_dir_all(&state).unwrap();
    server.run(
        "update people set who = '53454352-4554-5345-4352-455453454352' where id = 11; alter table people rename column who to whom;
         update people set whom = '53454352-4554-5345-4352-455453454353', name = 'again' where id = 12",
    );
    bygone = Bygone::new(server.url(), &root)
        .options(&options)
        .options(&[&all.replace("people.who", "people.whom")]);
    bygone.until_current();
    assert_same(&server, &bygone, "people", &["whom"], "renamed");
    bygone.ask(&["compact", "--all"]).well();
    bygone.start("");
    let reconcile = ["reconcile", "--source", &server.url()];
    bygone.ask(&reconcile).refused(&["is hashed with the key", "--hash-key-file"]);
    bygone.ask(&["reconcile", "plain", "--source", &server.url()]).well();
    let told = bygone.ask(&[&reconcile[..], &options[2..4]].concat());
    bygone.terminate(rustix::process::Signal::TERM, Duration::from_secs(20));
    assert_eq!(told.code(), Some(0), "{}{}", told.stdout, told.stderr);
    bygone.ask(&["verify"]).well();
    let history = History::read(Store::directory(&root));
    assert_nowhere(&[&root, &state], &history, &["public.people", "public.pins"]);
    assert!(!bygone.traces().iter().any(|(_, bytes)| bytes.windows(6).any(|word| word == b"SECRET")));
    let attach = history.events("attach");
    let rule = serde_json::json!(HASHED);
    assert!(attach.iter().any(|event| event["hashed"] == rule), "no event tells of the columns: {attach:?}");
}

#[test]
fn no_value_of_a_column_that_is_hashed_is_kept_anywhere_read_in_binary_form() {
    values_are_nowhere("", true);
}

#[test]
fn no_value_of_a_column_that_is_hashed_is_kept_anywhere_read_as_text() {
    values_are_nowhere(
        "create type pair as (a int, b text); create table pairs (id int primary key, p pair)",
        false,
    );
}

#[test]
fn a_column_can_be_hashed_from_a_day_on_and_no_longer_from_another() {
    let server = Postgres::start();
    server.run(PEOPLE);
    let scratch = Scratch::new("history");
    let root = scratch.join("history");
    let (key, other) =
        (key_file(&scratch, "key", KEY), key_file(&scratch, "other", "another key, as long as that"));
    let (key, other) = (key.to_str().unwrap(), other.to_str().unwrap());
    let mut bygone = Bygone::new(server.url(), &root);
    bygone.until_current();
    // Hashed from now on: each row gets a fact with the hash, and the files a column of its own.
    let mut bygone =
        Bygone::new(server.url(), &root).options(&["--hash-column", "people.email,people.score"]);
    server.run("update people set name = 'first' where id = 2");
    // A kill before that is done forgets nothing.
    bygone.start_with(&["--hash-key-file", key, "--commit-interval", "100ms"], "join.before_cut=abort");
    bygone.abort(Duration::from_secs(60));
    bygone.attempt(&["--hash-key-file", key]).well();
    let columns = ["email", "score"];
    assert_same(&server, &bygone, "people", &columns, "at the end");
    let history = History::read(Store::directory(&root));
    let facts = history.whole("public.people");
    let made: Vec<_> = facts.iter().filter(|fact| fact["_op"] != "snapshot").collect();
    assert!(made.len() >= 40 && made.iter().all(|fact| !fact.contains_key("email")), "{made:?}");
    assert!(made.iter().any(|fact| fact.get("email__2").is_some_and(|hash| hash.len() == 64)), "{made:?}");
    assert!(made.iter().any(|fact| fact.contains_key("score__2")), "{made:?}");
    // Another key, or none, or a key that is none, is refused.
    bygone
        .attempt(&["--hash-key-file", other])
        .refused(&["is hashed with the key", "--leave-out public.people.email"]);
    let source = server.url();
    bygone
        .ask(&["reconcile", "people", "--source", &source, "--hash-key-file", other])
        .refused(&["is hashed with the key"]);
    let absent = scratch.join("absent");
    bygone
        .attempt(&["--hash-key-file", absent.to_str().unwrap()])
        .refused(&["cannot be read", "openssl rand"]);
    for (given, words) in [("", "is empty"), ("too short\n", "holds 9 bytes")] {
        let file = key_file(&scratch, "bad", given);
        bygone.attempt(&["--hash-key-file", file.to_str().unwrap()]).refused(&[words, "16 bytes"]);
    }
    let mut without = Bygone::new(server.url(), &root).options(&["--hash-column", "people.email"]);
    without.attempt(&[]).misused(&["--hash-key-file"]);
    // A hash brings no value back.
    server.run("update people set email = 'SECRET-later', name = 'second' where id = 2");
    bygone.attempt(&["--hash-key-file", key]).well();
    let told = bygone.ask(&["restore", "people", "2"]).well();
    assert!(
        told.stderr.contains("email (hashed)") && told.stdout.contains("'first'"),
        "{}{}",
        told.stdout,
        told.stderr
    );
    assert!(!told.stdout.contains("email"), "{}", told.stdout);
    // By way of being left out, another key.
    let mut bygone = Bygone::new(server.url(), &root).options(&[
        "--leave-out",
        "people.email,people.score",
        "--hash-column",
        "people.code",
        "--hash-key-file",
        other,
    ]);
    bygone.until_current();
    let mut bygone = Bygone::new(server.url(), &root).options(&[
        "--hash-column",
        "people.email,people.score",
        "--hash-key-file",
        other,
    ]);
    bygone.until_current();
    let hash = bygone.command(&["hash", "--hash-key-file", other, "SECRET-later"]).well().stdout;
    let found = bygone.ask(&["find", "people", "email", hash.trim()]).well();
    // What was left out meanwhile may have been it, too.
    assert!(found.stderr.contains("email is not known in 40 versions"), "{}", found.stderr);
    assert!(found.stderr.ends_with("held it\n1 version\n"), "{}{}", found.stderr, found.stdout);
    // Not hashed any more: the values come back, and one of before the rule is found beside them.
    let mut bygone = Bygone::new(server.url(), &root);
    assert!(bygone.until_current().stderr.contains("no longer hashed"));
    let told = bygone.ask(&["as-of", "people", "--at", "now", "--where", "id = 2", "--format", "csv"]).well();
    assert!(told.stdout.contains("SECRET-later"), "{}", told.stdout);
    bygone.ask(&["verify"]).well();
}

#[test]
fn what_cannot_be_hashed_is_refused() {
    let server = Postgres::start();
    server.run("create table users (id int primary key, name text); create table heap (a int, b int); alter table heap replica identity full");
    let scratch = Scratch::new("history");
    let key = key_file(&scratch, "key", KEY);
    for (given, words) in [
        ("users.id", &["not column id of public.users", "belongs to the key"][..]),
        ("heap.a", &["not column a of public.heap", "no key"]),
        ("users.nmae", &["has a column nmae", "did you mean name"]),
    ] {
        let options = ["--hash-key-file", key.to_str().unwrap(), "--hash-column", given];
        Bygone::new(server.url(), scratch.join("history")).options(&options).attempt(&[]).refused(words);
    }
    let options = ["--hash-key-file", key.to_str().unwrap(), "--hash-column", "name"];
    let mut nameless = Bygone::new(server.url(), scratch.join("history")).options(&options);
    nameless.attempt(&[]).misused(&["--hash-column", "names no column"]);
    // Nor may it come to name rows later, whether that is seen at a start or while bygone runs.
    let options =
        ["--hash-key-file", key.to_str().unwrap(), "--hash-column", "users.name", "--catalog-interval", "1s"];
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&options);
    bygone.until_current();
    bygone.start("");
    assert!(eventually(Duration::from_secs(60), || bygone.said().contains("streaming")), "{}", bygone.said());
    server.run("insert into users values (1, 'SECRET'); alter table users drop constraint users_pkey, add primary key (name)");
    assert_eq!(bygone.ending(Duration::from_secs(60)).code(), Some(1), "{}", bygone.said());
    assert!(bygone.said().contains("names the table's rows by now"), "{}", bygone.said());
    bygone.attempt(&[]).refused(&["not column name of public.users", "key"]);
    let history = History::read(Store::directory(scratch.join("history")));
    assert_nowhere(&[&scratch.join("history")], &history, &["public.users"]);
    // Nor does a table that comes later bring such a column in.
    let server = Postgres::start();
    server.run("create table users (id int primary key, name text)");
    let options = [
        "--hash-key-file",
        key.to_str().unwrap(),
        "--hash-column",
        "public.*.name",
        "--catalog-interval",
        "1s",
    ];
    let mut bygone = Bygone::new(server.url(), scratch.join("other")).options(&options);
    bygone.start("");
    assert!(eventually(Duration::from_secs(60), || bygone.said().contains("streaming")), "{}", bygone.said());
    server.run("create table names (name text primary key); insert into names values ('SECRET')");
    assert_eq!(bygone.ending(Duration::from_secs(60)).code(), Some(1), "{}", bygone.said());
    assert!(bygone.said().contains("not column name of public.names"), "{}", bygone.said());
    let history = History::read(Store::directory(scratch.join("other")));
    assert_nowhere(&[&scratch.join("other")], &history, &["public.users"]);
}

#[test]
fn a_column_that_is_renamed_while_bygone_runs_stays_hashed() {
    let server = Postgres::start();
    server
        .run("create table users (id int primary key, name text); insert into users values (1, 'SECRET-1')");
    let scratch = Scratch::new("history");
    let (root, key) = (scratch.join("history"), key_file(&scratch, "key", KEY));
    let options =
        ["--hash-key-file", key.to_str().unwrap(), "--hash-column", "users.name", "--catalog-interval", "1s"];
    let mut bygone =
        Bygone::new(server.url(), &root).options(&options).options(&["--commit-interval", "200ms"]);
    bygone.start("");
    let has = |facts: usize| {
        let all =
            || Store::directory(&root).read("bygone.json").map(|_| History::read(Store::directory(&root)));
        eventually(Duration::from_secs(60), || {
            all().is_some_and(|history| {
                history.tables().contains("public.users")
                    && history.texts("public.users", &["_id"]).len() >= facts
            })
        })
    };
    assert!(has(1), "{}", bygone.said());
    server.run("alter table users rename column name to label; insert into users values (2, 'SECRET-2')");
    assert!(has(2), "{}", bygone.said());
    server.run("alter table users rename to people; alter table people alter label type varchar(90); insert into people values (3, 'SECRET-3')");
    assert!(has(3), "{}", bygone.said());
    // A rewrite has the table read once more.
    server.run("alter table people add column at timestamptz default clock_timestamp()");
    assert!(has(6), "{}", bygone.said());
    bygone.terminate(rustix::process::Signal::TERM, Duration::from_secs(20));
    let history = History::read(Store::directory(&root));
    assert_nowhere(&[&root], &history, &["public.users"]);
    assert!(
        history
            .whole("public.users")
            .iter()
            .all(|fact| fact["_op"] == "reconcile" || fact.values().any(|value| value.len() == 64))
    );
}

#[test]
fn partitions_and_other_identities_are_followed_by_hashes_as_by_values() {
    let server = Postgres::start();
    server.run(
        "create extension pgcrypto;
         create table parted (id int, region text, note text, primary key (id, region)) partition by list (region);
         create table parted_a partition of parted for values in ('a');
         create table parted_b (note text, gone int, region text not null, id int not null, primary key (id, region));
         alter table parted_b drop column gone; alter table parted attach partition parted_b for values in ('b');
         insert into parted select n, case when n % 2 = 0 then 'a' else 'b' end, 'SECRET-' || n from generate_series(1, 10) n;
         create table users (id int primary key deferrable, email text not null unique, name text);
         alter table users replica identity using index users_email_key;
         insert into users select n, 'SECRET-' || n, 'name ' || n from generate_series(1, 10) n",
    );
    let scratch = Scratch::new("history");
    let (root, key) = (scratch.join("history"), key_file(&scratch, "key", KEY));
    let options = ["--hash-key-file", key.to_str().unwrap(), "--hash-column", "parted.note,users.email"];
    let mut bygone = Bygone::new(server.url(), &root).options(&options);
    for change in [
        "select 1",
        "update parted set note = 'SECRET-new' where id < 4; update parted set region = 'b' where id = 6; delete from parted where id = 7",
        "update users set email = 'SECRET-new' where id = 1; update users set name = 'x' where id = 2; delete from users where id = 3",
        "update users set email = 'SECRET-1', id = 20 where id = 1; insert into users values (3, 'SECRET-3', 'back')",
        "truncate parted_a",
    ] {
        server.run(change);
        bygone.until_current();
        assert_same(&server, &bygone, "parted", &["note"], change);
        assert_same(&server, &bygone, "users", &["email"], change);
    }
    let history = History::read(Store::directory(&root));
    assert_nowhere(&[&root], &history, &["public.parted", "public.users"]);
    bygone.ask(&["verify"]).well();
}
