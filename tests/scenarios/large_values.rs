//! Values of megabytes: exact like any other, and never in memory more than once.

use std::time::Duration;

use super::Source;
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::postgres::Postgres;
use crate::support::scratch::{Scratch, copy_directory};
use crate::support::store::Store;

/// Just large, and more so.
const LARGE: u32 = 4_100;
const LARGER: u32 = 4_700;

/// SQL for a text of so many KiB that does not pack well, told apart by `seed`.
fn text(seed: u32, kib: u32) -> String {
    format!(
        "(select string_agg(md5(({seed} + g::bigint * 7919)::text), '' order by g) from generate_series(1, {}) g)",
        kib * 32
    )
}

/// What lies beside the state's rows.
fn shelved(bygone: &Bygone) -> usize {
    bygone.traces().iter().filter(|(path, _)| path.contains("/large/")).count()
}

/// Each kind of change of rows that have large values, on tables of each kind of identity.
fn changes() -> Vec<String> {
    let (one, two, three) = (text(1, LARGE), text(2, LARGER), text(3, LARGE));
    vec![
        format!("insert into settings values ('streamed', {one}, 1, now())"),
        // Not sent again, as nothing has changed in it.
        "update settings set ratio = ratio + 1".to_owned(),
        format!("update settings set value = {two} where name = 'copied'"),
        "update settings set name = 'renamed' where name = 'streamed'".to_owned(),
        "update settings set value = 'small' where name = 'renamed'".to_owned(),
        format!("begin; update settings set value = {three} where name = 'renamed'; update settings set ratio = 5 where name = 'renamed'; commit"),
        format!("insert into sessions values (gen_random_uuid(), decode({one}, 'hex'), array['a'], now(), now(), {two})"),
        "update sessions set day = day + 1, payload = payload || '\\x00'".to_owned(),
        "update sessions set body = null where body is not null".to_owned(),
        format!("insert into order_lines values (7, 'big', 1, 2.5, jsonb_build_object('body', {one}, 'n', 1.5))"),
        "update order_lines set quantity = 2 where order_id = 7".to_owned(),
        format!("insert into clicks values ('a', 1, {one}), ('a', 1, {one}), ('b', 2, {two})"),
        "update clicks set visitor = 3 where page = 'a'".to_owned(),
        "update clicks set body = 'small' where page = 'b'".to_owned(),
        "delete from clicks where page = 'b'".to_owned(),
        "delete from settings where name = 'renamed'".to_owned(),
        format!("insert into settings values ('renamed', {one}, 1, now())"),
        "begin; delete from settings where name = 'renamed'; insert into settings values ('renamed', 'again', 2, now()); commit".to_owned(),
    ]
}

#[test]
fn large_values_are_exact_through_every_change_and_without_state() {
    let source = Source::start();
    source.server.run(&format!("insert into settings values ('copied', {}, 1, now())", text(9, LARGE)));
    source.server.run(&format!("insert into clicks values ('copied', 0, {})", text(9, LARGE)));
    let mut bygone = source.bygone().options(&["--commit-interval", "500ms"]);
    bygone.until_current();
    for (at, change) in changes().iter().enumerate() {
        source.server.run(change);
        match at {
            // State as it is after a crash, or after a loss: the values come back out of facts.
            4 | 9 => {
                bygone.start(if at == 4 { "ack.before=abort" } else { "file.after_upload=abort" });
                bygone.abort(Duration::from_secs(60));
            }
            6 | 12 | 15 => {
                bygone.until_current();
                bygone.forget();
            }
            _ => {}
        }
        if at % 3 == 0 {
            bygone.until_current();
        }
    }
    bygone.until_current();
    bygone.command(&["compact", "--history", &source.history().display().to_string()]).well();
    bygone.forget();
    source.server.run("update settings set ratio = 9; update clicks set visitor = 9; delete from sessions");
    bygone.until_current();
    source.assert_exact(Store::directory(source.history()), 28);
    bygone.ask(&["verify"]).well();
}

#[test]
fn large_values_that_no_row_has_any_more_leave_the_state() {
    let server = Postgres::start();
    server.run("create table docs (id int primary key, body text)");
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"));
    bygone.until_current();
    for seed in 1..=4 {
        server.run(&format!(
            "insert into docs values (1, {}) on conflict (id) do update set body = excluded.body",
            text(seed, LARGE)
        ));
        server.run(&format!("insert into docs values ({seed} + 10, {})", text(7, LARGE)));
        bygone.until_current();
    }
    // The newest body, the one that four rows share, and what came since the start.
    bygone.until_current();
    assert_eq!(shelved(&bygone), 2, "files for large values");
    server.run("update docs set id = id + 100");
    bygone.until_current();
    let count = bygone
        .ask(&[
            "as-of",
            "docs",
            "--at",
            "now",
            "--where",
            "body is not null",
            "--format",
            "csv",
            "--columns",
            "id",
        ])
        .well();
    assert_eq!(count.stdout.lines().count(), 6, "{}", count.stdout);
}

/// The end of a row stands in a file that is never merged, its beginning in one that was merged with what an old state lacks.
#[test]
fn an_old_state_behind_merged_files_takes_no_ended_row_for_one_that_lives() {
    let server = Postgres::start();
    server.run("create table heap (a text, b text); alter table heap replica identity full");
    let scratch = Scratch::new("history");
    let (state, old) = (scratch.join("state"), scratch.join("old"));
    let mut bygone =
        Bygone::new(server.url(), scratch.join("history")).options(&["--state", state.to_str().unwrap()]);
    let mut step = |sql: &str| {
        server.run(sql);
        bygone.until_current();
    };
    step("insert into heap values ('x', 'small')");
    step(&format!("update heap set b = {}", text(1, LARGE)));
    step("delete from heap");
    step("insert into heap values ('y', 'other')");
    copy_directory(&state, &old);
    step("insert into heap values ('z', 'later')");
    bygone.ask(&["compact", "--all", "--grace", "1ms"]).well();
    std::fs::remove_dir_all(&state).unwrap();
    copy_directory(&old, &state);
    server.run("insert into heap values ('x', 'small')");
    bygone.until_current();
    server.run("delete from heap where a = 'x'");
    bygone.until_current();
    let rows = bygone.ask(&["as-of", "heap", "--at", "now", "--format", "csv"]).well().stdout;
    let mut rows: Vec<&str> = rows.lines().skip(1).collect();
    rows.sort_unstable();
    assert_eq!(rows, ["y,other", "z,later"]);
    let history = History::read(Store::directory(scratch.join("history")));
    let mut versions = history.texts("public.heap", &["_entity_id", "_version"]);
    let facts = versions.len();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), facts, "two facts are one version of one row");
}

#[test]
fn a_row_of_two_hundred_megabytes_is_in_memory_once() {
    const MIB: u32 = 208;
    let server = Postgres::start();
    server.run("create table docs (id int primary key, n int, body text)");
    // Sixteen MiB are farther apart than what packs them looks back.
    let body = format!("repeat({}, {})", text(1, 16 << 10), MIB / 16);
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"));
    server.run(&format!("insert into docs values (1, 0, {body})"));
    let mut peaks = vec![("copied", bygone.until_current().peak)];
    for (what, change) in [
        ("inserted", format!("insert into docs values (2, 0, {body})")),
        ("updated beside", "update docs set n = n + 1".to_owned()),
        ("updated", "update docs set body = body || 'x' where id = 1".to_owned()),
        ("deleted", "delete from docs where id = 2".to_owned()),
    ] {
        server.run(&change);
        peaks.push((what, bygone.until_current().peak));
    }
    let shown: Vec<String> = peaks.iter().map(|(what, peak)| format!("{what} {}", peak >> 20)).collect();
    eprintln!("MiB at most: {}", shown.join(", "));
    assert!(peaks.iter().all(|(_, peak)| *peak < 384 << 20), "MiB at most: {}", shown.join(", "));
    let lengths = bygone
        .ask(&[
            "sql",
            "select _version, length(body) from docs_history order by id, _version",
            "--format",
            "csv",
        ])
        .well();
    let whole = (MIB << 20).to_string();
    let longer = ((MIB << 20) + 1).to_string();
    let expected =
        ["1", "2", "3", "1", "2", "3"].iter().zip([&whole, &whole, &longer, &whole, &whole, &whole]);
    let expected: Vec<String> = expected.map(|(version, length)| format!("{version},{length}")).collect();
    assert_eq!(lengths.stdout.lines().skip(1).collect::<Vec<_>>(), expected);
}
