//! An S3 server on this machine: moto's, which honours conditional puts, for multipart uploads too.
//!
//! moto comes from PyPI into a virtual environment below the user's cache directory, once; `BYGONE_TEST_PYTHON` names a
//! Python that has it already. The server ends with the test, however the test ends: it watches its standard input.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use bygone_sink::store::{Location, Store, StoreOptions};

/// The bucket that is there.
pub(crate) const BUCKET: &str = "kept";

/// Prints where it listens, and ends when its standard input does.
const SERVER: &str = "
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
from moto.server import main
main(['-H', '127.0.0.1', '-p', '0'])
";

/// A running server with one empty bucket.
#[derive(Debug)]
pub(crate) struct S3Server {
    process: Child,
    port: u16,
}

impl S3Server {
    /// The server of this process's tests; each uses prefixes of its own ([`unique`]).
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<S3Server> = OnceLock::new();
        SHARED.get_or_init(|| Self::start_with(&[]))
    }

    /// A server that asks for valid credentials once the bucket is there.
    pub(crate) fn start_locked() -> Self {
        // One request without: the one that makes the bucket.
        Self::start_with(&[("INITIAL_NO_AUTH_ACTION_COUNT", "1")])
    }

    fn start_with(environment: &[(&str, &str)]) -> Self {
        let mut process = Command::new(python())
            .args(["-c", SERVER])
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("python starts");
        let mut log = BufReader::new(process.stderr.take().expect("stderr is piped"));
        let mut said = String::new();
        let port = loop {
            let before = said.len();
            assert_ne!(log.read_line(&mut said).unwrap(), 0, "the server did not come up:\n{said}");
            let line = &said[before..];
            if let Some((_, rest)) = line.split_once("Running on http://127.0.0.1:") {
                break rest.trim().parse().expect("a port");
            }
        };
        // Or it stops when the pipe is full.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let server = Self { process, port };
        let answer = server.request(&format!("PUT /{BUCKET}"), b"");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The variables by which the usual AWS tools find the server at `port`.
    pub(crate) fn environment_at(port: u16) -> BTreeMap<String, String> {
        let endpoint = format!("http://127.0.0.1:{port}");
        [
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test-secret"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// A prefix of the bucket as a store.
    pub(crate) fn store(&self, prefix: &str) -> Store {
        store_at(self.port, prefix, Duration::from_secs(20))
    }

    /// Sends an unsigned request, `PUT /kept/x`, and gives the whole answer back.
    pub(crate) fn request(&self, what: &str, body: &[u8]) -> String {
        request(self.port, what, body)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A prefix that no other test uses.
pub(crate) fn unique() -> String {
    format!("tests/{:016x}", rand::random::<u64>())
}

/// A prefix of the bucket as a store, reached through `port`.
pub(crate) fn store_at(port: u16, prefix: &str, retry_for: Duration) -> Store {
    let location = Location::parse(&format!("s3://{BUCKET}/{prefix}")).unwrap();
    let environment = Some(S3Server::environment_at(port));
    Store::open(&location, &StoreOptions { retry_for, environment, ..StoreOptions::default() }).unwrap()
}

/// Sends an unsigned request and gives the whole answer back.
pub(crate) fn request(port: u16, what: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let length = body.len();
    write!(
        stream,
        "{what} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn python() -> &'static PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        if let Some(named) = std::env::var_os("BYGONE_TEST_PYTHON") {
            return named.into();
        }
        let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache");
        let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("bygone-test");
        let python = cache.join("venv/bin/python3");
        fs::create_dir_all(&cache).unwrap();
        // Test processes run side by side; one of them installs.
        let lock = File::create(cache.join("lock")).unwrap();
        lock.lock().unwrap();
        let has_moto = || {
            Command::new(&python)
                .args(["-c", "import moto.server"])
                .output()
                .is_ok_and(|run| run.status.success())
        };
        if !has_moto() {
            run(Command::new("python3").args(["-m", "venv"]).arg(cache.join("venv")));
            run(Command::new(&python).args(["-m", "pip", "install", "-q", "moto[server]"]));
        }
        python
    })
}

fn run(command: &mut Command) {
    let done = command.output().unwrap_or_else(|err| panic!("{command:?}: {err}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}
