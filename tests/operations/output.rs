//! Results that nobody reads to their end, and terminals without colours.

use std::process::Command;

use crate::support::bygone::Bygone;
use crate::support::postgres::Postgres;
use crate::support::scratch::Scratch;

#[test]
fn a_reader_that_has_seen_enough_ends_a_command_in_silence() {
    let server = Postgres::start();
    server.run("create table orders (id int primary key)");
    let scratch = Scratch::new("output");
    let history = scratch.join("history");
    let mut bygone = Bygone::new(server.url(), history.clone());
    bygone.until_current();
    let config = scratch.join("bygone.toml");
    let text = format!("source = {:?}\nhistory = {:?}\n", server.url(), history);
    std::fs::write(&config, text).unwrap();
    let history = format!("--history '{}'", history.display());
    let source = format!("--source '{}'", server.url());
    for command in [
        format!("config --config '{}' --print", config.display()),
        format!("install ddl --print {source}"),
        "uninstall --print".to_owned(),
        format!("status {history}"),
        format!("status {history} --format json"),
        format!("doctor {source}"),
        format!("verify {history} --format json"),
        format!("verify {history}"),
        format!("tables {history}"),
        format!("sql 'select 1' {history}"),
        "help".to_owned(),
    ] {
        // The pipe is closed before anything is written to it.
        let script = format!(
            "{{ sleep 0.2; '{}' {command}; echo \"code $?\" >&2; }} | true",
            env!("CARGO_BIN_EXE_bygone")
        );
        let done = Command::new("sh").args(["-c", &script]).output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(
            said.ends_with("code 0\n") && !said.contains("panic") && !said.contains("bug"),
            "{command}: {said}"
        );
    }
}
