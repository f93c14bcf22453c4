//! The files in `deploy/` and the compose file: their commands are ones that bygone takes.

use std::path::Path;

use crate::support::bygone::Bygone;
use crate::support::scratch::Scratch;

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// bygone takes these arguments: what it then says is of the source, which is not there.
fn assert_taken(arguments: &[&str]) {
    let scratch = Scratch::new("deploy");
    let bygone = Bygone::new("postgres://localhost:1/shop", scratch.join("history"))
        .env("BYGONE_SOURCE", "postgres://nobody@127.0.0.1:1/shop")
        .env("BYGONE_HISTORY", scratch.join("history").to_str().unwrap())
        .env("BYGONE_LISTEN", "127.0.0.1:0");
    let outcome = bygone.command(arguments);
    assert_eq!(outcome.code(), Some(1), "{arguments:?}: {}", outcome.stderr);
    assert!(outcome.stderr.contains("127.0.0.1"), "{arguments:?}: {}", outcome.stderr);
}

#[test]
fn the_service_starts_what_bygone_takes() {
    let unit = file("deploy/bygone.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let arguments: Vec<&str> = start.split(' ').skip(1).collect();
    assert_taken(&arguments);
}

#[test]
fn the_manifest_starts_what_bygone_takes() {
    let manifest = file("deploy/kubernetes.yaml");
    let line = manifest.lines().find_map(|line| line.trim().strip_prefix("args: ")).unwrap();
    let arguments: Vec<String> = serde_json::from_str(line).unwrap();
    let at = arguments.iter().position(|argument| argument == "--history").unwrap();
    // The bucket is not there: nor is it asked before the source.
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    assert!(arguments[at + 1].starts_with("s3://"));
    assert_taken(&arguments);
}
