//! Child processes that cannot outlive their test.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};

/// The Python that a variable names, else the one that `scripts/install` has set up under this name.
pub(crate) fn python(variable: &str, installed: &str) -> PathBuf {
    if let Some(named) = std::env::var_os(variable) {
        return named.into();
    }
    installed_in(installed).join("bin/python3")
}

/// Where `scripts/install` puts something.
pub(crate) fn installed_in(name: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is not set")).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    cache.join("bygone-test").join(name)
}

/// A program, prepared but not started.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    words: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    user: Option<String>,
    last_resort: &'static str,
}

impl Program {
    pub(crate) fn new(program: impl Into<OsString>) -> Self {
        Self { words: vec![program.into()], environment: Vec::new(), user: None, last_resort: "KILL" }
    }

    pub(crate) fn arg(mut self, word: impl Into<OsString>) -> Self {
        self.words.push(word.into());
        self
    }

    pub(crate) fn args<W: Into<OsString>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    /// The program and its arguments.
    pub(crate) fn words(&self) -> &[OsString] {
        &self.words
    }

    pub(crate) fn env(mut self, name: impl Into<String>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Runs as this user where the tests run as root; as whoever runs the tests otherwise.
    pub(crate) fn not_as_root(mut self, user: &str) -> Self {
        self.user = geteuid().is_root().then(|| user.to_owned());
        self
    }

    /// The signal that the kernel sends when the test is gone, however it went; `KILL` when not named.
    pub(crate) fn when_orphaned(mut self, signal: &'static str) -> Self {
        self.last_resort = signal;
        self
    }

    /// The command: `setpriv` changes the user, asks the kernel for the last resort, and becomes the program.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig").arg(self.last_resort);
        if let Some(user) = &self.user {
            command.arg(format!("--reuid={user}")).arg(format!("--regid={user}")).arg("--init-groups");
        }
        command.arg("--").args(&self.words);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            // The tester's own PostgreSQL settings must reach neither the servers nor the binary.
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Starts it, both outputs at the end of `log`.
    pub(crate) fn start(&self, log: &Path) -> Running {
        let output = append_to(log);
        let errors = output.try_clone().unwrap();
        let mut command = self.command();
        command.stdout(output).stderr(errors);
        Running::of(command, log)
    }

    /// Runs it to its end.
    #[track_caller]
    pub(crate) fn finish(&self) -> std::process::Output {
        self.command().output().unwrap_or_else(|error| panic!("cannot start {:?}: {error}", self.words))
    }

    /// Runs it to its end, which must be a good one.
    #[track_caller]
    pub(crate) fn succeed(&self) {
        let done = self.finish();
        assert!(
            done.status.success(),
            "{:?}: {}\n{}{}",
            self.words,
            done.status,
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    }
}

/// What the kernel knows of a process's largest resident size, in bytes; 0 once it has ended.
fn resident_peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim_end_matches("kB").trim().parse().map_or(0, |kib: u64| kib * 1024)
}

fn append_to(log: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(log).unwrap()
}

/// A started program, killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
    peak: u64,
}

impl Running {
    /// Starts a command whose words go to `log`.
    pub(crate) fn of(mut command: Command, log: &Path) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { child, log: log.to_owned(), peak: 0 }
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// The exit status once it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
            kill_process(pid, signal).unwrap();
        }
    }

    /// Waits for the end; `None` when it has not come by then.
    pub(crate) fn wait(&mut self, at_most: Duration) -> Option<ExitStatus> {
        let began = Instant::now();
        loop {
            self.peak = self.peak.max(resident_peak(self.child.id()));
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if began.elapsed() > at_most {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The most memory that was resident at once, in bytes, as seen while it was waited for.
    pub(crate) fn peak(&self) -> u64 {
        self.peak
    }

    /// `kill -9`. True when it was still running.
    pub(crate) fn kill(&mut self) -> bool {
        let _ = self.child.kill();
        self.child.wait().unwrap().signal() == Some(9)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Calls `ready` until it says yes; false when it has not by then.
pub(crate) fn eventually(at_most: Duration, mut ready: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !ready() {
        if began.elapsed() > at_most {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// A loopback port that nobody listens on, outside the range from which the kernel picks ports for clients: a server
/// that is stopped for a while must find its port free again.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = rand::random_range(20_000..32_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
