//! The binary under test, run as a user runs it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::process::{Program, Running};
use super::scratch::{Scratch, tail};

/// Long enough for anything that a scenario asks for: reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(240);

/// What a finished run left.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
    /// The most memory that was resident at once, in bytes.
    pub(crate) peak: u64,
}

impl Outcome {
    /// The exit code; `None` after a signal.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The run must have succeeded.
    #[track_caller]
    pub(crate) fn well(self) -> Self {
        assert!(self.status.success(), "{}\n{}{}", self.status, self.stdout, self.stderr);
        self
    }

    /// The run must have failed as a command fails that cannot do its work: with 1, and words on stderr that contain
    /// all of these (upper and lower case alike), not with a panic.
    #[track_caller]
    pub(crate) fn refused(self, words: &[&str]) -> Self {
        self.ended(1, words)
    }

    /// The run must have failed as a command fails that is not used rightly: with 2.
    #[track_caller]
    pub(crate) fn misused(self, words: &[&str]) -> Self {
        self.ended(2, words)
    }

    #[track_caller]
    fn ended(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code(), Some(code), "{}\n{}{}", self.status, self.stdout, self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        let said = self.stderr.to_lowercase();
        for word in words {
            assert!(said.contains(&word.to_lowercase()), "nothing about {word:?} in\n{}", self.stderr);
        }
        self
    }
}

/// One installation of bygone: a source, a history, and a home of its own.
#[derive(Debug)]
pub(crate) struct Bygone {
    running: Option<Running>,
    binary: PathBuf,
    source: String,
    history: String,
    keeps_files: bool,
    tables: Vec<String>,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    user: Option<String>,
    scratch: Scratch,
    runs: usize,
}

impl Bygone {
    /// Captures the tables of the schema `public`.
    pub(crate) fn new(source: impl Into<String>, history: impl AsRef<Path>) -> Self {
        let scratch = Scratch::new("bygone");
        fs::create_dir(scratch.join("home")).unwrap();
        Self {
            running: None,
            binary: env!("CARGO_BIN_EXE_bygone").into(),
            source: source.into(),
            history: history.as_ref().to_str().unwrap().to_owned(),
            keeps_files: true,
            tables: vec!["public.*".to_owned()],
            options: Vec::new(),
            environment: Vec::new(),
            user: None,
            scratch,
            runs: 0,
        }
    }

    /// Other patterns than `public.*`.
    pub(crate) fn tables(mut self, patterns: &[&str]) -> Self {
        self.tables = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        self
    }

    /// More arguments for each `run`.
    pub(crate) fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    /// Each `run` keeps its facts as rows alone.
    pub(crate) fn without_files(mut self) -> Self {
        self.keeps_files = false;
        self
    }

    /// A variable of the environment of all its commands.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs as the user `postgres` where the tests run as root, which no file permission stops.
    pub(crate) fn unprivileged(mut self) -> Self {
        let copy = self.scratch.join("bygone");
        fs::copy(&self.binary, &copy).unwrap();
        fs::set_permissions(self.scratch.join("home"), fs::Permissions::from_mode(0o777)).unwrap();
        self.binary = copy;
        self.user = Some("postgres".to_owned());
        self
    }

    /// The same installation with another source.
    pub(crate) fn reach(&mut self, source: impl Into<String>) {
        self.source = source.into();
    }

    fn home(&self) -> PathBuf {
        self.scratch.join("home")
    }

    fn program(&self) -> Program {
        let home = self.home();
        let mut program = Program::new(&self.binary)
            .env("HOME", &home)
            .env("XDG_STATE_HOME", home.join("state"))
            .env("XDG_CACHE_HOME", home.join("cache"))
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("XDG_DATA_HOME", home.join("data"))
            .env("RUST_BACKTRACE", "1");
        for (name, value) in &self.environment {
            program = program.env(name.clone(), value.clone());
        }
        match &self.user {
            Some(user) => program.not_as_root(user),
            None => program,
        }
    }

    fn run_program(&self, more: &[&str]) -> Program {
        let mut program = self.program().args(["run", "--source", &self.source]);
        if self.keeps_files {
            program = program.args(["--history", &self.history]);
        }
        for table in &self.tables {
            program = program.args(["--table", table]);
        }
        program.args(&self.options).args(more)
    }

    /// Starts `bygone run`, with failpoints where `failpoints` is not empty.
    #[track_caller]
    pub(crate) fn start(&mut self, failpoints: &str) {
        self.start_with(&[], failpoints);
    }

    /// The same with more arguments.
    #[track_caller]
    pub(crate) fn start_with(&mut self, more: &[&str], failpoints: &str) {
        assert!(self.running.is_none(), "it runs already");
        self.runs += 1;
        let log = self.scratch.join(format!("run-{}.log", self.runs));
        self.running = Some(self.run_program(more).env("BYGONE_FAILPOINTS", failpoints).start(&log));
    }

    /// Starts a command with exactly these arguments.
    #[track_caller]
    pub(crate) fn start_bare(&mut self, arguments: &[&str]) {
        assert!(self.running.is_none(), "it runs already");
        self.runs += 1;
        let log = self.scratch.join(format!("run-{}.log", self.runs));
        self.running = Some(self.program().args(arguments).start(&log));
    }

    /// True while the started run goes on.
    pub(crate) fn alive(&mut self) -> bool {
        self.running.as_mut().is_some_and(|running| running.ended().is_none())
    }

    /// What the started run, or the last one, has logged.
    pub(crate) fn said(&self) -> String {
        tail(&self.scratch.join(format!("run-{}.log", self.runs)), 6000)
    }

    /// Sends the started run a signal.
    pub(crate) fn signal(&mut self, signal: Signal) {
        self.running.as_mut().expect("nothing runs").signal(signal);
    }

    /// `kill -9`. The run must still have been going on.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        let killed = self.running.take().expect("nothing runs").kill();
        assert!(killed, "it had ended by itself:\n{}", self.said());
    }

    /// Ends the run, if there is one that goes on; how it ended, where it did so by itself.
    pub(crate) fn end(&mut self) -> Option<ExitStatus> {
        let mut running = self.running.take()?;
        let ended = running.ended();
        if ended.is_none() {
            running.kill();
        }
        ended
    }

    /// Ends the run as an operator does, and must be obeyed within `at_most`, with success.
    #[track_caller]
    pub(crate) fn terminate(&mut self, signal: Signal, at_most: Duration) -> Duration {
        let mut running = self.running.take().expect("nothing runs");
        let began = Instant::now();
        running.signal(signal);
        match running.wait(at_most) {
            Some(status) => assert!(status.success(), "{status}\n{}", self.said()),
            None => panic!("it goes on {at_most:?} after the signal:\n{}", self.said()),
        }
        began.elapsed()
    }

    /// Waits for the started run to end by itself.
    #[track_caller]
    pub(crate) fn ending(&mut self, at_most: Duration) -> ExitStatus {
        let mut running = self.running.take().expect("nothing runs");
        running
            .wait(at_most)
            .unwrap_or_else(|| panic!("it has not ended after {at_most:?}:\n{}", tail(running.log(), 6000)))
    }

    /// Waits for the started run to reach a failpoint that aborts it.
    #[track_caller]
    pub(crate) fn abort(&mut self, at_most: Duration) {
        let status = self.ending(at_most);
        assert_eq!(status.signal(), Some(6), "{status}, no abort:\n{}", self.said());
    }

    /// `bygone run --until-current`, which must succeed.
    #[track_caller]
    pub(crate) fn until_current(&mut self) -> Outcome {
        self.attempt(&[]).well()
    }

    /// `bygone run --until-current` with more arguments, however it ends.
    #[track_caller]
    pub(crate) fn attempt(&mut self, more: &[&str]) -> Outcome {
        assert!(self.running.is_none(), "it runs already");
        let mut arguments = vec!["--until-current"];
        arguments.extend(more);
        finish(&self.run_program(&arguments), &self.scratch)
    }

    /// A command that takes `--history`, however it ends.
    #[track_caller]
    pub(crate) fn ask(&self, arguments: &[&str]) -> Outcome {
        finish(&self.program().args(arguments).args(["--history", &self.history]), &self.scratch)
    }

    /// The same command of another history.
    #[track_caller]
    pub(crate) fn ask_of(&self, history: &str, arguments: &[&str]) -> Outcome {
        finish(&self.program().args(arguments).args(["--history", history]), &self.scratch)
    }

    /// A command that takes `--history` and goes on until it is stopped; its output goes to a file.
    pub(crate) fn follow(&self, arguments: &[&str], out: &Path) -> Running {
        let mut command = self.program().args(arguments).args(["--history", &self.history]).command();
        let log = out.with_extension("err");
        command.stdout(fs::File::create(out).unwrap()).stderr(fs::File::create(&log).unwrap());
        Running::of(command, &log)
    }

    /// A command with exactly these arguments, however it ends.
    #[track_caller]
    pub(crate) fn command(&self, arguments: &[&str]) -> Outcome {
        finish(&self.program().args(arguments), &self.scratch)
    }

    /// All that it keeps outside the history, and all that it has logged: paths and bytes.
    pub(crate) fn traces(&self) -> Vec<(String, Vec<u8>)> {
        let store = super::store::Store::directory(self.scratch.path());
        store.list().into_keys().map(|path| (path.clone(), store.read(&path).unwrap())).collect()
    }

    /// Loses everything outside the history: the state is a cache.
    pub(crate) fn forget(&self) {
        fs::remove_dir_all(self.home()).unwrap();
        fs::create_dir(self.home()).unwrap();
        if self.user.is_some() {
            fs::set_permissions(self.home(), fs::Permissions::from_mode(0o777)).unwrap();
        }
    }
}

impl Drop for Bygone {
    fn drop(&mut self) {
        self.running = None;
        if std::thread::panicking() && self.runs > 0 {
            eprintln!("--- end of run {}'s log\n{}", self.runs, self.said());
        }
    }
}

/// Runs a program that has to come to an end.
#[track_caller]
fn finish(program: &Program, scratch: &Scratch) -> Outcome {
    let (out, err) = (scratch.join("stdout"), scratch.join("stderr"));
    let began = Instant::now();
    let mut command = program.command();
    command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
    let mut running = Running::of(command, &err);
    let Some(status) = running.wait(PATIENCE) else {
        panic!("{program:?} has not ended after {PATIENCE:?}:\n{}", tail(&err, 6000));
    };
    Outcome { status, stdout: read(&out), stderr: read(&err), took: began.elapsed(), peak: running.peak() }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
}
