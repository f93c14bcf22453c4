//! A program on a terminal.

use std::process::Command;

/// Runs a program on a terminal of so many columns. Types lines, each when it is asked for; ends it politely after so many seconds, where it
/// has not ended by itself; and prints what it showed.
const SCRIPT: &str = r"
import fcntl, os, pty, select, signal, struct, sys, termios, time
columns, seconds, lines, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:]
lines = lines.split('\n') if lines else []
pid, terminal = pty.fork()
if pid == 0:
    time.sleep(0.2)
    os.execv(command[0], command)
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
shown, answered, end, told = b'', 0, time.monotonic() + seconds, False
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
    asked = shown.endswith(b'bygone> ') or shown.endswith(b'     -> ')
    if asked and len(shown) > answered and lines:
        line = lines.pop(0)
        # Control-D is no line.
        os.write(terminal, b'\x04' if line == '^D' else line.encode() + b'\n')
        answered = len(shown)
    if time.monotonic() > end and not told:
        os.kill(pid, signal.SIGTERM)
        told = True
    if time.monotonic() > end + 30:
        os.kill(pid, signal.SIGKILL)
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

/// A command that lacks the program and its arguments.
pub(crate) fn terminal(columns: u16, seconds: u32, lines: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", SCRIPT, &columns.to_string(), &seconds.to_string(), &lines.join("\n")]);
    command
}

/// What the terminal shows. The program must end well.
#[track_caller]
pub(crate) fn shown(command: &mut Command) -> String {
    let done = command.output().unwrap();
    let shown = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{}: {shown}\n{}", done.status, String::from_utf8_lossy(&done.stderr));
    shown
}
