//! The endpoint of a running capture, and all that is written down about it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::bygone::Bygone;
use crate::support::http::get;
use crate::support::postgres::Postgres;
use crate::support::process::{eventually, free_port};
use crate::support::scratch::Scratch;

/// The words of a text that are names of metrics.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("bygone_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn a_capture_shows_metrics_that_are_those_of_the_docs_the_dashboard_and_the_alerts() {
    let server = Postgres::with(&[("max_slot_wal_keep_size", "1GB")]);
    server
        .run("create table \"or\"\"ders\" (id int primary key); insert into \"or\"\"ders\" values (1), (2)");
    let scratch = Scratch::new("history");
    let port = free_port();
    let listen = port.to_string();
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&[
        "--listen",
        &listen,
        "--commit-interval",
        "100ms",
        "--catalog-interval",
        "200ms",
    ]);
    bygone.start("");
    let ready =
        eventually(Duration::from_secs(60), || get(port, "/readyz").is_some_and(|(code, _)| code == 200));
    assert!(ready, "{}", bygone.said());
    server.run("begin; select pg_logical_emit_message(true, 'bygone', '{\"actor\": \"ann\"}'); insert into \"or\"\"ders\" values (3); commit");
    server.run("insert into \"or\"\"ders\" select generate_series(4, 10)");
    let value = |name: &str| {
        let text = get(port, "/metrics")?.1;
        let line = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#'))?.to_owned();
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    let facts = "bygone_facts_total{table=\"public.\\\"or\\\"\\\"ders\\\"\"}";
    let counted = eventually(Duration::from_secs(30), || value(facts) == Some(10.0));
    assert!(counted, "{:?}", get(port, "/metrics"));
    assert_eq!(value("bygone_transactions_total"), Some(2.0));
    assert_eq!(value("bygone_transactions_without_actor_total"), Some(1.0));
    assert_eq!(value("bygone_streaming"), Some(1.0));
    assert!(value("bygone_slot_wal_safe_bytes").unwrap() > 0.0);
    assert!(
        value("bygone_commits_total").unwrap() >= 1.0
            && value("process_resident_memory_bytes").unwrap() > 1e6
    );

    let (_, text) = get(port, "/metrics").unwrap();
    let live: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect();
    let docs: BTreeSet<String> = file("docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split('`').next())
        .filter(|name| !name.starts_with('/'))
        .map(str::to_owned)
        .collect();
    assert_eq!(live, docs, "docs/metrics.md");
    for path in ["deploy/grafana-dashboard.json", "deploy/alerts.yml"] {
        let used = named(&file(path));
        assert!(used.len() >= 5 && used.is_subset(&live), "{path}: {:?}", used.difference(&live));
    }
    let status: Value = serde_json::from_str(&get(port, "/status").unwrap().1).unwrap();
    assert_eq!(status["bygone_facts_total"]["public.\"or\"\"ders\""], 10.0, "{status}");
    assert_eq!(status["bygone_streaming"], 1.0);
    assert_eq!(get(port, "/healthz").unwrap().0, 200);
    assert_eq!(get(port, "/nothing").unwrap().0, 404);

    // A source that is gone makes it not ready, and alive all the same.
    let mut server = server;
    server.stop(crate::support::postgres::Stop::Immediate);
    let not_ready =
        eventually(Duration::from_secs(30), || get(port, "/readyz").is_some_and(|(code, _)| code == 503));
    assert!(not_ready && get(port, "/healthz").is_some_and(|(code, _)| code == 200), "{}", bygone.said());
    bygone.kill();
}

#[test]
fn a_transaction_that_waits_on_disk_is_told_of() {
    let server = Postgres::start();
    server.run("create table t (id int primary key, v text)");
    let scratch = Scratch::new("history");
    let port = free_port();
    let listen = port.to_string();
    let options = ["--listen", &listen, "--memory", "64MiB", "--commit-interval", "100ms"];
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&options);
    // Held up while it gathers the first bytes on disk.
    bygone.start("spool.after_write=sleep(3000)@1");
    let metric = |name: &str| {
        let text = get(port, "/metrics")?.1;
        let line = text.lines().find(|line| line.starts_with(name))?.to_owned();
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    let ready = || get(port, "/readyz").is_some_and(|(code, _)| code == 200);
    assert!(eventually(Duration::from_secs(60), ready), "{}", bygone.said());
    assert_eq!(metric("bygone_spilled_bytes"), Some(0.0));
    server.run("insert into t select i, repeat(md5(i::text), 30) from generate_series(1, 20000) i");
    let waits = || metric("bygone_spilled_bytes").is_some_and(|bytes| bytes > 1e6);
    assert!(eventually(Duration::from_secs(30), waits), "{}", bygone.said());
    let taken =
        || metric("bygone_facts_total{") == Some(20000.0) && metric("bygone_spilled_bytes") == Some(0.0);
    assert!(eventually(Duration::from_secs(60), taken), "{}", bygone.said());
    let said = bygone.said();
    assert!(
        said.contains("a large transaction waits in a file")
            && said.contains("the large transaction is taken"),
        "{said}"
    );
    let bytes = said.lines().find(|line| line.contains("is taken")).unwrap();
    let bytes: u64 = bytes.split("bytes=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((5_000_000..20_000_000).contains(&bytes), "{said}");
    bygone.kill();
}

#[test]
fn no_client_of_the_endpoint_ends_the_capture_or_keeps_others_from_an_answer() {
    let server = Postgres::start();
    server.run("create table t (id int primary key)");
    let scratch = Scratch::new("history");
    let port = free_port();
    let listen = port.to_string();
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&["--listen", &listen]);
    bygone.start("");
    let healthy = || get(port, "/healthz").is_some_and(|(code, _)| code == 200);
    assert!(eventually(Duration::from_secs(60), healthy), "{}", bygone.said());
    let send = |text: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    // A body of any length is announced: the head alone is looked at, and nobody waits for the rest.
    for length in ["18446744073709551615", "50000000000", "-1", "a lot"] {
        for method in ["GET", "POST"] {
            let mut stream =
                send(&format!("{method} /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\nx"));
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let code = if method == "GET" { "200" } else { "405" };
            assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{length}: {answer}");
            assert!(bygone.alive() && healthy(), "{length}: {}", bygone.said());
        }
    }
    // A head without an end.
    let mut stream = send(&format!("GET /healthz HTTP/1.1\r\nx: {}", "y".repeat(10_000)));
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // Clients that ask for much and read nothing, and clients that do not come to the end of their question.
    let asking = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2000);
    let clients: Vec<TcpStream> = (0..400)
        .map(|n| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.set_nonblocking(true).unwrap();
            let text = if n % 2 == 0 { asking.as_str() } else { "GET /heal" };
            let _ = stream.write(text.as_bytes());
            stream
        })
        .collect();
    for _ in 0..5 {
        let began = Instant::now();
        assert!(healthy() && began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    drop(clients);
    bygone.kill();
}
