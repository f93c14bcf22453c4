//! `bygone sql` on a terminal is a shell.

use std::process::Command;

use super::Shop;

/// Types lines into a program on a terminal, each when it is asked for; prints what the terminal showed.
const TERMINAL: &str = r"
import fcntl, os, pty, select, struct, sys, termios, time
lines, command = sys.argv[1].split('\n'), sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    time.sleep(0.2)
    os.execv(command[0], command)
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 100, 0, 0))
shown, answered, end = b'', 0, time.monotonic() + 60
while time.monotonic() < end:
    ready, _, _ = select.select([terminal], [], [], 0.2)
    if ready:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    asked = shown.endswith(b'bygone> ') or shown.endswith(b'     -> ')
    if asked and len(shown) > answered and lines:
        line = lines.pop(0)
        # Control-D is no line.
        os.write(terminal, b'\x04' if line == '^D' else line.encode() + b'\n')
        answered = len(shown)
else:
    os.kill(pid, 9)
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

/// What a terminal shows of a shell into which these lines are typed. It must end well.
#[track_caller]
fn typed(shop: &Shop, lines: &[&str], more: &[&str]) -> String {
    let done = Command::new("python3")
        .args(["-c", TERMINAL, &lines.join("\n"), env!("CARGO_BIN_EXE_bygone"), "sql", "--history"])
        .arg(shop.scratch.join("history"))
        .args(more)
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&done.stdout).replace("\r\n", "\n");
    assert!(done.status.success(), "{}: {shown}\n{}", done.status, String::from_utf8_lossy(&done.stderr));
    shown
}

#[test]
fn statements_are_answered_one_after_another_until_it_is_left() {
    let shop = Shop::orders();
    let shown = typed(
        &shop,
        &[
            "select id, total from orders order by id;",
            "select count(*) as facts,",
            "  ';' as mark",
            "from orders_history; select 'a' as first; select",
            "'b' as second;",
            "selec 1;",
            "select * from oders;",
            "select nope from orders;",
            "select 7 as still_here;",
            "\\d",
            "\\q",
        ],
        &[],
    );
    let parts: Vec<&str> = shown.split("bygone> ").collect();
    assert!(parts[0].contains("known until") && parts[0].contains("\\q ends"), "{shown}");
    let says = |part: usize, words: &[&str]| {
        let mut rest = parts[part];
        for word in words {
            rest = rest
                .split_once(word)
                .unwrap_or_else(|| panic!("no {word:?} in {:?} of {shown}", parts[part]))
                .1;
        }
    };
    says(1, &["id total", "--------", " 1 13.50", " 2", "2 rows"]);
    // A statement goes on over lines, and a line may end several.
    says(
        2,
        &[
            "     -> ",
            "     -> ",
            "facts mark",
            "6 ;",
            "1 row",
            "first",
            "a",
            "1 row",
            "     -> ",
            "second",
            "b",
            "1 row",
        ],
    );
    // What goes wrong is said, and the next is answered.
    says(3, &["bygone: ", "selec"]);
    says(4, &["bygone: there is no relation oders", "did you mean orders"]);
    says(5, &["bygone: ", "nope"]);
    says(6, &["still_here", "7"]);
    says(7, &["\nnotes\nnotes_history\nnotes_as_of(moment)\norders\n"]);
    assert_eq!(parts.len(), 9, "{shown}");
    for ends in ["exit", "quit", "^D"] {
        let shown = typed(&shop, &["select 1 as one;", ends], &["--format", "csv"]);
        assert!(shown.contains("\none\n1\nbygone> "), "{shown}");
    }
}
