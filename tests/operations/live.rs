//! On a terminal `bygone run` shows what it is doing, in one line below those of the log.

use std::process::Command;

use crate::support::bygone::Bygone;
use crate::support::postgres::Postgres;
use crate::support::scratch::Scratch;

/// Runs a program on a terminal of 80 columns, for some seconds, ends it politely, and prints what it showed.
const TERMINAL: &str = r"
import fcntl, os, pty, select, signal, struct, sys, termios, time
seconds, command = float(sys.argv[1]), sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    time.sleep(0.2)
    os.execv(command[0], command)
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
shown, end, told = b'', time.monotonic() + seconds, False
while True:
    ready, _, _ = select.select([terminal], [], [], 0.2)
    if ready:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    if time.monotonic() > end and not told:
        os.kill(pid, signal.SIGTERM)
        told = True
    if time.monotonic() > end + 30:
        os.kill(pid, signal.SIGKILL)
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

fn shown(server: &Postgres, scratch: &Scratch, more: &[&str]) -> String {
    let done = Command::new("python3")
        .args([
            "-c",
            TERMINAL,
            "4",
            env!("CARGO_BIN_EXE_bygone"),
            "run",
            "--source",
            &server.url(),
            "--commit-interval",
            "300ms",
        ])
        .args([
            "--history",
            scratch.join("history").to_str().unwrap(),
            "--state",
            scratch.join("state").to_str().unwrap(),
        ])
        .args(more)
        .env("TERM", "xterm-256color")
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{}: {shown}\n{}", done.status, String::from_utf8_lossy(&done.stderr));
    shown
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
