//! On a terminal `bygone run` shows what it is doing, in one line below those of the log.

use crate::support::bygone::Bygone;
use crate::support::postgres::Postgres;
use crate::support::scratch::Scratch;
use crate::support::terminal;

/// What a terminal of 80 columns shows of some seconds of a capture.
fn shown(server: &Postgres, scratch: &Scratch, more: &[&str]) -> String {
    let mut capture = terminal::terminal(80, 4, &[]);
    capture
        .args([env!("CARGO_BIN_EXE_bygone"), "run", "--source", &server.url(), "--commit-interval", "300ms"])
        .arg("--history")
        .arg(scratch.join("history"))
        .arg("--state")
        .arg(scratch.join("state"))
        .args(more)
        .env("TERM", "xterm-256color");
    terminal::shown(&mut capture)
}

#[test]
fn a_terminal_shows_what_a_capture_is_doing_and_a_pipe_does_not() {
    let server = Postgres::start();
    server.run("create table orders (id int primary key, n int); insert into orders select n, 0 from generate_series(1, 500) n");
    let scratch = Scratch::new("history");
    let url = server.url();
    let busy = std::thread::spawn(move || {
        let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
        for round in 0..60 {
            client.batch_execute(&format!("update orders set n = {round} where id <= 100")).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    });
    let told = shown(&server, &scratch, &[]);
    busy.join().unwrap();
    assert!(told.contains(" facts/s, ") && told.contains(" behind, commit "), "{told}");
    // Lines of the log stand above it, each whole.
    let line = told.split(['\n', '\r']).find(|line| line.contains("INFO") && line.contains("streaming"));
    assert!(line.is_some_and(|line| line.contains("slot")), "{told}");
    // It is gone in the end, and not there for those who want to see little, or read the lines with a program.
    let last = told.trim_end().rsplit(['\n', '\r']).next().unwrap_or_default();
    assert!(!last.contains("facts/s"), "{last:?} of {told}");
    for quiet in [&["--quiet"][..], &["--log-format", "json"]] {
        let told = shown(&server, &scratch, quiet);
        assert!(!told.contains("facts/s"), "{told}");
    }
    let mut piped = Bygone::new(server.url(), scratch.join("history"))
        .options(&["--state", scratch.join("state").to_str().unwrap()]);
    piped.start("");
    std::thread::sleep(std::time::Duration::from_secs(2));
    piped.terminate(rustix::process::Signal::TERM, std::time::Duration::from_secs(20));
    assert!(!piped.said().contains("facts/s"), "{}", piped.said());
}
