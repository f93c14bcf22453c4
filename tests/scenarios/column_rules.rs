//! Columns that are left out: no value of them is anywhere, and the history says so. Columns that are not watched: updates of them
//! alone are no facts.

use std::fs;
use std::path::Path;

use super::faults::files;
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::postgres::Postgres;
use crate::support::scratch::Scratch;
use crate::support::store::Store;

const USERS: &str = "
    create table users (id int primary key, name text, \"Pass.word\" text, logins int);
    insert into users select n, 'user ' || n, 'SECRET-' || n, 0 from generate_series(1, 50) n;
    create table notes (id int primary key, body text);
    insert into notes values (1, 'SECRET in a note, which is kept')";

/// Nothing below a directory holds the words, compressed or not: facts are read back as text.
#[track_caller]
fn assert_nowhere(root: &Path, history: &History) {
    for fact in history.texts("public.users", &["Pass.word", "name"]) {
        assert_eq!(fact[0], None, "{fact:?}");
    }
    let mut found = Vec::new();
    files(root, &mut found);
    for file in found {
        let bytes = fs::read(&file).unwrap();
        let word = b"SECRET-";
        let at = bytes.windows(word.len()).position(|window| window == word);
        assert_eq!(at, None, "{}", file.display());
    }
}

#[test]
fn no_value_of_a_column_that_is_left_out_is_kept_anywhere() {
    let server = Postgres::start();
    server.run(USERS);
    let scratch = Scratch::new("history");
    let (root, state) = (scratch.join("history"), scratch.join("state"));
    let options = ["--state", state.to_str().unwrap(), "--leave-out", "users.\"Pass.word\""];
    let mut bygone = Bygone::new(server.url(), &root).options(&options);
    bygone.until_current();
    for change in [
        "update users set \"Pass.word\" = 'SECRET-new' where id = 1",
        "update users set logins = logins + 1, \"Pass.word\" = 'SECRET-too' where id = 2",
        "insert into users values (51, 'new', 'SECRET-51', 1); delete from users where id = 3",
        "alter table users add column age int default 7; update users set age = 8 where id = 4",
        "alter table users replica identity full; update users set name = 'full' where id = 5",
    ] {
        server.run(change);
        bygone.until_current();
    }
    // State is made anew, merged files and the comparison with the source know as little.
    bygone.forget();
    fs::remove_dir_all(&state).unwrap();
    server.run("update users set name = 'again' where id = 6");
    bygone.until_current();
    bygone.ask(&["compact", "--all"]).well();
    bygone.start("");
    let told = bygone.ask(&["reconcile", "users", "--source", &server.url()]);
    bygone.terminate(rustix::process::Signal::TERM, std::time::Duration::from_secs(20));
    assert_eq!(told.code(), Some(0), "{}{}", told.stdout, told.stderr);
    let history = History::read(Store::directory(&root));
    assert_nowhere(&scratch.join("history"), &history);
    assert_nowhere(&state, &history);
    let unknown = history.texts("public.users", &["_unknown"]);
    assert!(unknown.len() >= 55 && unknown.iter().all(|fact| fact[0].is_some()), "{} facts", unknown.len());
    let attach = &history.events("attach");
    assert!(
        attach.iter().any(|event| event["left_out"] == serde_json::json!(["Pass.word"])),
        "no event tells of the column"
    );
    let told = bygone.ask(&["as-of", "users", "--at", "now", "--format", "csv"]).well();
    assert!(told.stderr.contains("the column is left out of the history"), "{}", told.stderr);
    assert_eq!(told.stdout.lines().count(), 51);
    bygone.ask(&["verify"]).well();

    // Taken in again: what is written from now on is known.
    let mut bygone = Bygone::new(server.url(), &root).options(&options[..2]);
    server.run("update users set \"Pass.word\" = 'now seen' where id = 7");
    bygone.until_current();
    let told = bygone.ask(&["history", "users", "7"]).well().stdout;
    assert!(told.contains("now seen"), "{told}");
    let history = History::read(Store::directory(&root));
    assert_eq!(history.events("schema").len(), 2, "a schema version of its own");
    // And left out once more.
    let mut bygone = Bygone::new(server.url(), &root).options(&options);
    server.run("update users set \"Pass.word\" = 'SECRET-at-last', name = 'last' where id = 7");
    bygone.until_current();
    let told = bygone.ask(&["history", "users", "7"]).well().stdout;
    assert!(!told.contains("SECRET") && told.contains("last"), "{told}");
}

#[test]
fn what_cannot_be_left_out_is_refused() {
    let server = Postgres::start();
    server.run(USERS);
    server.run("create table heap (a int, b int); alter table heap replica identity full");
    let scratch = Scratch::new("history");
    for (given, words) in [
        ("users.id", &["not column id of public.users", "belongs to the key"][..]),
        ("heap.a", &["not column a of public.heap", "no key"]),
        ("users.nmae", &["has a column nmae", "did you mean name"]),
        ("nobody.x", &["has a column x"]),
    ] {
        let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&["--leave-out", given]);
        bygone.attempt(&[]).refused(words);
    }
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&["--leave-out", "password"]);
    bygone.attempt(&[]).misused(&["--leave-out", "names no column"]);
}

/// PostgreSQL sends a value that it stores out of line when it changes, and not with the next change of the row.
#[test]
fn an_unwatched_value_that_will_not_come_again_is_kept() {
    let server = Postgres::start();
    server.run(
        "create table docs (id int primary key, title text, body text, seen int);
         alter table docs alter body set storage external;
         insert into docs values (1, 'a', repeat('old ', 1000), 0), (2, 'b', 'short', 0)",
    );
    let scratch = Scratch::new("history");
    let root = scratch.join("history");
    let mut bygone = Bygone::new(server.url(), &root).options(&["--ignore-updates", "docs.body,docs.seen"]);
    bygone.until_current();
    server.run("update docs set body = repeat('new ', 1000) where id = 1");
    server.run("update docs set seen = 1; update docs set body = 'brief' where id = 2");
    server.run("update docs set title = 'A' where id = 1; update docs set title = 'B' where id = 2");
    bygone.until_current();
    let history = History::read(Store::directory(&root));
    let mut facts = history.texts("public.docs", &["_entity_id", "_version", "title", "body", "seen"]);
    facts.retain(|fact| fact[1].as_deref() != Some("1"));
    facts.sort_unstable();
    let new = "new ".repeat(1000);
    let fact = |values: [&str; 5]| values.map(|value| Some(value.to_owned())).to_vec();
    assert_eq!(
        facts,
        [
            fact(["1", "2", "a", &new, "0"]),
            fact(["1", "3", "A", &new, "1"]),
            fact(["2", "2", "B", "brief", "1"])
        ]
    );
}

#[test]
fn updates_of_unwatched_columns_alone_are_no_facts() {
    let server = Postgres::start();
    server.run(USERS);
    let scratch = Scratch::new("history");
    let root = scratch.join("history");
    let mut bygone =
        Bygone::new(server.url(), &root).options(&["--ignore-updates", "users.logins,users.\"Pass.word\""]);
    bygone.until_current();
    server.run("update users set logins = logins + 1");
    server.run("update users set logins = 7, \"Pass.word\" = 'x' where id = 1; update users set name = name where id = 2");
    server.run("update users set logins = 9, name = 'other' where id = 1; update notes set body = 'b'");
    server.run("delete from users where id = 3; insert into users values (3, 'back', 'p', 5); update users set logins = 6 where id = 3");
    bygone.until_current();
    let history = History::read(Store::directory(&root));
    let mut facts = history.texts("public.users", &["_entity_id", "_version", "_op", "logins"]);
    facts.retain(|fact| fact[1].as_deref() != Some("1"));
    facts.sort_unstable();
    let fact = |values: [&str; 4]| values.map(|value| Some(value.to_owned())).to_vec();
    assert_eq!(
        facts,
        [fact(["1", "2", "update", "9"]), fact(["3", "2", "delete", "0"]), fact(["3", "3", "insert", "5"]),]
    );
    let told = bygone.ask(&["history", "users", "1"]).well().stdout;
    assert!(told.contains("logins: 0 -> 9"), "{told}");
    let attach = history.events("attach");
    let rule = serde_json::json!(["Pass.word", "logins"]);
    assert!(attach.iter().any(|event| event["updates_ignored"] == rule), "no event tells of the rule");
    // What is not watched is no difference to the source either.
    bygone.start("");
    let told = bygone.ask(&["reconcile", "users", "--source", &server.url()]);
    assert_eq!(told.code(), Some(0), "{}{}", told.stdout, told.stderr);
    bygone.terminate(rustix::process::Signal::TERM, std::time::Duration::from_secs(20));
    // From the day on which it is watched, it is told.
    let mut bygone = Bygone::new(server.url(), &root);
    server.run("update users set logins = 10 where id = 1");
    bygone.until_current();
    assert!(bygone.ask(&["history", "users", "1"]).well().stdout.contains("logins: 9 -> 10"));
}

#[test]
fn a_column_or_table_that_was_dropped_may_still_be_named() {
    let server = Postgres::start();
    server.run(USERS);
    let scratch = Scratch::new("history");
    let named = ["--leave-out", "users.\"Pass.word\"", "--retention", "notes=short"];
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&named);
    bygone.until_current();
    server.run("alter table users drop column \"Pass.word\"; drop table notes");
    for _ in 0..2 {
        let told = bygone.until_current().stderr;
        assert!(told.contains("has a column Pass.word any more"), "{told}");
    }
    server.run("alter table users rename to people; alter table people rename name to alias");
    bygone.until_current();
    // What never was, and what goes on under another name, is told from what is gone.
    for wrong in
        [["--leave-out", "users.pasword"], ["--leave-out", "users.name"], ["--retention", "users=short"]]
    {
        bygone.attempt(&wrong).refused(&[wrong[0], "no captured table"]);
    }
}
