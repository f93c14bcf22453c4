//! Every recipe of `docs/querying.md`, run as it stands there on the history of its shop.
//!
//! Times, positions and transaction ids differ from run to run: what the page writes is replaced by what they are, and in
//! printed output they count as equal.

use std::process::Command;

use super::Shop;
use super::engines::{duckdb, spark};

const PAGE: &str = include_str!("../../docs/querying.md");
/// What the page calls the moment between morning and afternoon, and the chargeback.
const NOON: [&str; 2] = ["2026-11-24 12:00:00+00", "2026-11-24T12:00:00Z"];
const NOON_LSN: &str = "0/1A2B3C0";
const CHARGEBACK: &str = "4711";
const SOURCE: &str = "postgres://app@db/shop";

/// The fenced blocks of a page: what stands behind the fence, and the lines.
fn blocks(page: &str) -> Vec<(&str, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(&str, String)> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => open = Some((info, String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, text))) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// The commands of a block, each with what it prints; nothing where the page does not show that.
fn commands(text: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), String::new())),
            (None, Some((_, printed))) => {
                printed.push_str(line);
                printed.push('\n');
            }
            (None, None) => panic!("a console block begins with a command: {text}"),
        }
    }
    commands
}

/// The words of an output, in no order: how cells are wrapped depends on how long a time is.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = text
        .split(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | ',' | '"' | '\''))
        .filter(|word| !word.is_empty() && !word.bytes().all(|byte| byte == b'-'))
        .map(|word| {
            let has_digit = word.contains(|c: char| c.is_ascii_digit());
            let marked = word.contains(['/', ':', '+']) || word.matches('-').count() == 2;
            let large = word.len() >= 3 && word.bytes().all(|byte| byte.is_ascii_digit());
            if (has_digit && marked) || large { "#".to_owned() } else { word.to_owned() }
        })
        .collect();
    words.sort();
    words
}

#[test]
fn every_recipe_of_the_page_works() {
    let blocks = blocks(PAGE);
    let story: Vec<&String> = blocks.iter().filter(|(info, _)| *info == "sql source").map(|(_, text)| text).collect();
    let [first, morning, afternoon] = story.as_slice() else { panic!("the shop has three parts") };
    let mut shop = Shop::with(first);
    let run = |sql: &str| {
        // Statement by statement, as psql sends them: each a transaction of its own outside of begin and commit.
        let mut client = shop.server.connect();
        sql.split_terminator(";\n").for_each(|statement| client.batch_execute(statement).unwrap());
    };
    run(morning);
    let noon = shop
        .server
        .value("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')")
        .unwrap();
    let lsn = shop.server.value("select pg_current_wal_insert_lsn()").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(5));
    run(afternoon);
    shop.capture();
    let dana = shop.json(&["who", "dana"]);
    let chargeback = dana[0]["xid"].to_string();
    let filled = |text: &str| {
        text.replace(NOON[0], &format!("{noon}+00"))
            .replace(NOON[1], &format!("{}Z", noon.replace(' ', "T")))
            .replace(NOON_LSN, &lsn)
            .replace(CHARGEBACK, &chargeback)
            .replace(SOURCE, &shop.server.url())
    };
    let (mut ran, mut for_spark, mut told) = (0, String::new(), String::new());
    for (info, text) in &blocks {
        match *info {
            "console" => {
                for (command, printed) in commands(text) {
                    let script = format!("bygone() {{ {} \"$@\"; }}; {}", env!("CARGO_BIN_EXE_bygone"), filled(&command));
                    // timeout runs programs, not functions of the shell.
                    let script = script.replace("timeout 1 bygone", &format!("timeout 1 {}", env!("CARGO_BIN_EXE_bygone")));
                    let done = Command::new("sh")
                        .args(["-c", &format!("{{ {script}\n}} 2>&1")])
                        .current_dir(shop.scratch.path())
                        .env("BYGONE_HISTORY", "./history")
                        .env_remove("USER")
                        .env("COLUMNS", "80")
                        .output()
                        .unwrap();
                    let output = String::from_utf8_lossy(&done.stdout).into_owned();
                    assert!(done.status.success(), "$ {command}\n{output}");
                    told.push_str(&format!("$ {command}\n{output}"));
                    if !printed.is_empty() {
                        assert_eq!(words(&output), words(&filled(&printed)), "$ {command}\n{output}");
                    }
                    ran += 1;
                }
            }
            "sql duckdb" => {
                let views = std::fs::read_to_string(shop.scratch.join("views.sql")).unwrap();
                let history = format!("'{}/", shop.scratch.join("history").display());
                for query in filled(text).replace("'history/", &history).split(";\n").filter(|query| !query.trim().is_empty()) {
                    assert!(!duckdb(&views, &format!("{query};\n")).is_empty(), "DuckDB has no rows for {query}");
                    ran += 1;
                }
            }
            "sql spark" => for_spark.push_str(&filled(text)),
            "sql bygone" => {
                for query in filled(text).split(";\n").filter(|query| !query.trim().is_empty()) {
                    assert!(!shop.json(&["sql", query]).is_empty(), "bygone sql has no rows for {query}");
                    ran += 1;
                }
            }
            // The shop, and what is not to be run.
            "sql source" | "sql" | "sh" => {}
            other => panic!("nobody runs blocks of {other:?}"),
        }
    }
    assert!(ran > 30, "{ran} recipes are not all");
    let views = std::fs::read_to_string(shop.scratch.join("spark.sql")).unwrap();
    for row in spark(&views, &for_spark).into_iter().flatten() {
        assert!(row.as_array().is_some_and(|row| !row.is_empty()), "Spark says {row}");
    }
    // For who writes the page: BYGONE_TEST_COOKBOOK=FILE keeps what the commands printed.
    if let Some(path) = std::env::var_os("BYGONE_TEST_COOKBOOK") {
        std::fs::write(path, told).unwrap();
    }
}
