//! The terminal: bars at its foot, lines above them.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{MultiProgress, ProgressBar};

use crate::query::sheet::{no_output, terminal_width};

/// `println!` that survives a closed pipe.
macro_rules! tell {
    ($($text:tt)*) => { $crate::screen::print_line(format_args!($($text)*)) };
}
pub(crate) use tell;

static BARS: OnceLock<MultiProgress> = OnceLock::new();
/// Nobody wants to see bars.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Whether a terminal shows colours and wants them (<https://no-color.org>).
pub(crate) fn has_colours(stream: &impl IsTerminal) -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Prints a line of a result, or ends the process: see [`no_output`].
pub(crate) fn print_line(line: std::fmt::Arguments<'_>) {
    if let Err(error) = writeln!(io::stdout(), "{line}").map_err(no_output) {
        eprintln!("bygone: {error}");
        std::process::exit(1);
    }
}

/// Prints a line of a result behind a heading, at words' ends within the terminal, if it is one.
pub(crate) fn print_wrapped(heading: &str, text: &str) {
    let indent = heading.chars().count();
    let width = terminal_width();
    // For a program a line is a line.
    if !io::stdout().is_terminal() || width < indent + 20 {
        return tell!("{heading}{text}");
    }
    let mut line = heading.to_owned();
    let mut used = indent;
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > indent && used + 1 + length > width {
            tell!("{line}");
            line = " ".repeat(indent);
            used = indent;
        }
        if used > indent {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += length;
    }
    tell!("{line}");
}

/// No bars from now on: lines are for a program, or hardly any are wanted.
pub(crate) fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// A bar at the foot of the terminal; none where standard error is none, or bars are not wanted.
pub(crate) fn bar(bar: ProgressBar) -> Option<ProgressBar> {
    let wanted = io::stderr().is_terminal() && !QUIET.load(Ordering::Relaxed);
    wanted.then(|| BARS.get_or_init(MultiProgress::new).add(bar))
}

/// Standard error, above the bars. A line is written at once and whole.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    line: Vec<u8>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        let write = || io::stderr().write_all(&line);
        match BARS.get() {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            // Nowhere is left to say that standard error is gone.
            let _ = self.flush();
        }
    }
}
