//! What a running capture tells of itself: counters that the pipeline keeps, and the endpoint that shows them (`--listen`).
//!
//! Names and units follow Prometheus' conventions; `docs/metrics.md` has them in one table, which a test compares with what a real
//! capture answers.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bygone_replication::Lsn;
use bygone_sink::encoder::WrittenFile;
use serde_json::{Map, Value};

use crate::error::Result;
use crate::follower::Followed;
use crate::http::{self, Answer};

/// Facts a second are those of so long a time, in which several commits are made.
const LATELY: Duration = Duration::from_secs(60);
/// Not known.
pub(crate) const UNKNOWN: i64 = i64::MIN;

/// What `/status` tells beside the metrics; Prometheus has rates of its own.
pub(crate) const FACTS_PER_SECOND: &str = "facts_per_second";

/// Counters and gauges of one capture. Writing one costs an atomic store.
#[derive(Debug)]
pub(crate) struct Metrics {
    started: SystemTime,
    pub(crate) transactions: AtomicU64,
    pub(crate) transactions_without_actor: AtomicU64,
    commits: AtomicU64,
    commit_files: AtomicU64,
    commit_bytes: AtomicU64,
    commit_micros: AtomicU64,
    pub(crate) reconnects: AtomicU64,
    pub(crate) streaming: AtomicBool,
    /// Positions of the source, as numbers.
    pub(crate) received: AtomicU64,
    durable: AtomicU64,
    settled: AtomicU64,
    pub(crate) source: AtomicU64,
    commit_seq: AtomicI64,
    /// Microseconds since the Unix epoch.
    last_commit: AtomicI64,
    known_until: AtomicI64,
    pub(crate) slot_held: AtomicI64,
    pub(crate) slot_safe: AtomicI64,
    pub(crate) tables_waiting: AtomicU64,
    pub(crate) tables_in_doubt: AtomicU64,
    /// Bytes of the transaction that waits in a file.
    pub(crate) spilled: AtomicU64,
    facts: Mutex<BTreeMap<String, u64>>,
    /// Commits of the last while, each with its facts.
    lately: Mutex<VecDeque<(Instant, u64)>>,
    /// What is written from the log beside the capture, by name.
    followers: Mutex<BTreeMap<&'static str, Arc<Followed>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            started: SystemTime::now(),
            transactions: AtomicU64::default(),
            transactions_without_actor: AtomicU64::default(),
            commits: AtomicU64::default(),
            commit_files: AtomicU64::default(),
            commit_bytes: AtomicU64::default(),
            commit_micros: AtomicU64::default(),
            reconnects: AtomicU64::default(),
            streaming: AtomicBool::default(),
            received: AtomicU64::default(),
            durable: AtomicU64::default(),
            settled: AtomicU64::default(),
            source: AtomicU64::default(),
            commit_seq: AtomicI64::new(UNKNOWN),
            last_commit: AtomicI64::new(UNKNOWN),
            known_until: AtomicI64::new(UNKNOWN),
            slot_held: AtomicI64::new(UNKNOWN),
            slot_safe: AtomicI64::new(UNKNOWN),
            tables_waiting: AtomicU64::default(),
            tables_in_doubt: AtomicU64::default(),
            spilled: AtomicU64::default(),
            facts: Mutex::default(),
            lately: Mutex::default(),
            followers: Mutex::default(),
        }
    }
}

/// A label and its value.
type Label = (&'static str, String);

/// A metric at one moment.
struct Sample {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// Each with its label, where it has one.
    values: Vec<(Option<Label>, f64)>,
}

/// What a person wants to know of a capture at one look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Glance {
    pub(crate) streaming: bool,
    /// Durable since the start.
    pub(crate) facts: u64,
    pub(crate) lag_bytes: u64,
    pub(crate) lag_seconds: f64,
    /// Number and age.
    pub(crate) last_commit: Option<(i64, Duration)>,
    pub(crate) tables_waiting: u64,
}

impl Metrics {
    /// How it is now.
    pub(crate) fn glance(&self) -> Glance {
        let (at, seq) = (self.last_commit.load(Ordering::Relaxed), self.commit_seq.load(Ordering::Relaxed));
        let age = u64::try_from(now_micros().saturating_sub(at)).unwrap_or(0);
        let facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        Glance {
            streaming: self.streaming.load(Ordering::Relaxed),
            facts: facts.values().sum(),
            lag_bytes: self.lag_bytes(),
            lag_seconds: self.lag_seconds(),
            last_commit: (at != UNKNOWN && seq != UNKNOWN).then(|| (seq, Duration::from_micros(age))),
            tables_waiting: self.tables_waiting.load(Ordering::Relaxed),
        }
    }

    /// A history that holds commits up to one is gone on with.
    pub(crate) fn resumed(&self, next_seq: u64) {
        if let Some(last) = next_seq.checked_sub(1) {
            self.commit_seq.store(i64::try_from(last).unwrap_or(i64::MAX), Ordering::Relaxed);
        }
    }

    /// Something else is written from the log, and has its own state shown under a name.
    pub(crate) fn followed_by(&self, name: &'static str, followed: Arc<Followed>) {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner).insert(name, followed);
    }

    /// Of each that is written from the log: whether it is, and how many commits it lacks, where that is known.
    fn followers(&self) -> [Vec<(Option<Label>, f64)>; 2] {
        let next = self.commit_seq.load(Ordering::Relaxed).saturating_add(1);
        let followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
        let label = |name: &str| Some(("sink", name.to_owned()));
        let up = followers.iter().map(|(name, it)| (label(name), f64::from(u8::from(it.is_up()))));
        let behind = followers.iter().filter_map(|(name, it)| {
            let lacks = u64::try_from(next).unwrap_or(0).saturating_sub(it.next()?);
            Some((label(name), lacks as f64))
        });
        [up.collect(), behind.collect()]
    }

    /// A commit is durable up to a position of the source, and to a time, with these files.
    pub(crate) fn committed(
        &self,
        seq: u64,
        durable: Lsn,
        known: Option<i64>,
        files: &[WrittenFile],
        took: Duration,
    ) {
        self.durable.store(durable.0, Ordering::Relaxed);
        self.commit_seq.store(i64::try_from(seq).unwrap_or(i64::MAX), Ordering::Relaxed);
        if let Some(known) = known {
            self.known_until.store(known, Ordering::Relaxed);
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.commit_micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.last_commit.store(now_micros(), Ordering::Relaxed);
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut brought = 0;
        for file in files {
            self.commit_files.fetch_add(1, Ordering::Relaxed);
            self.commit_bytes.fetch_add(file.bytes, Ordering::Relaxed);
            if file.table != bygone_sink::log::path::TRANSACTIONS {
                *facts.entry(file.table.clone()).or_default() += file.rows;
                brought += file.rows;
            }
        }
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        lately.push_back((Instant::now(), brought));
        while lately.front().is_some_and(|(at, _)| at.elapsed() > LATELY) {
            lately.pop_front();
        }
    }

    /// Facts that became durable in the last minute, or since the start, a second.
    fn facts_per_second(&self) -> f64 {
        let lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = lately.iter().filter(|(at, _)| at.elapsed() <= LATELY);
        let facts: u64 = counted.map(|(_, facts)| facts).sum();
        let whole = self.started.elapsed().unwrap_or(LATELY).min(LATELY);
        facts as f64 / whole.as_secs_f64().max(1.0)
    }

    /// Up to a position of the source, and to a time, there is nothing that the history has yet to be told.
    pub(crate) fn settled(&self, position: Lsn, known: i64) {
        self.settled.store(position.0, Ordering::Relaxed);
        self.known_until.fetch_max(known, Ordering::Relaxed);
    }

    /// Up to where the history is known to lack nothing: what is durable, and what followed and brought nothing.
    fn whole(&self) -> u64 {
        self.durable.load(Ordering::Relaxed).max(self.settled.load(Ordering::Relaxed))
    }

    /// WAL that was written and of which the history may lack something, in bytes.
    fn lag_bytes(&self) -> u64 {
        let end = self.source.load(Ordering::Relaxed).max(self.received.load(Ordering::Relaxed));
        end.saturating_sub(self.whole())
    }

    /// How long ago the history was known to lack nothing, in seconds: 0 while it lacks nothing of what came.
    fn lag_seconds(&self) -> f64 {
        let known = self.known_until.load(Ordering::Relaxed);
        if known == UNKNOWN || self.received.load(Ordering::Relaxed) <= self.whole() {
            return 0.0;
        }
        seconds(now_micros().saturating_sub(known).max(0))
    }

    fn samples(&self) -> Vec<Sample> {
        let count = |value: &AtomicU64| vec![(None, value.load(Ordering::Relaxed) as f64)];
        let one = |value: f64| vec![(None, value)];
        let known = |value: &AtomicI64, scale: fn(i64) -> f64| {
            let value = value.load(Ordering::Relaxed);
            if value == UNKNOWN { Vec::new() } else { vec![(None, scale(value))] }
        };
        let whole = |value: i64| value as f64;
        let facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let facts =
            facts.iter().map(|(table, rows)| (Some(("table", table.clone())), *rows as f64)).collect();
        let [up, behind] = self.followers();
        let sample = |name, kind, help, values| Sample { name, kind, help, values };
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let version = Some(("version", env!("BYGONE_VERSION").to_owned()));
        vec![
            sample("bygone_build_info", "gauge", "1, with the version.", vec![(version, 1.0)]),
            sample(
                "bygone_facts_total",
                "counter",
                "Facts durable in the history since the start, by table.",
                facts,
            ),
            sample(
                "bygone_transactions_total",
                "counter",
                "Transactions of the source taken since the start that brought facts.",
                count(&self.transactions),
            ),
            sample(
                "bygone_transactions_without_actor_total",
                "counter",
                "Those of them that did not say who made them.",
                count(&self.transactions_without_actor),
            ),
            sample("bygone_commits_total", "counter", "Commits made since the start.", count(&self.commits)),
            sample(
                "bygone_commit_files_total",
                "counter",
                "Files in these commits.",
                count(&self.commit_files),
            ),
            sample(
                "bygone_commit_bytes_total",
                "counter",
                "Bytes of these files.",
                count(&self.commit_bytes),
            ),
            sample(
                "bygone_commit_duration_seconds_total",
                "counter",
                "Seconds from cutting commits until they were durable.",
                one(self.commit_micros.load(Ordering::Relaxed) as f64 / 1e6),
            ),
            sample(
                "bygone_commit_seq",
                "gauge",
                "Number of the last commit.",
                known(&self.commit_seq, whole),
            ),
            sample(
                "bygone_last_commit_timestamp_seconds",
                "gauge",
                "When it was made, by this machine's clock.",
                known(&self.last_commit, seconds),
            ),
            sample(
                "bygone_known_until_timestamp_seconds",
                "gauge",
                "The source's clock when the history lacked nothing of what had come.",
                known(&self.known_until, seconds),
            ),
            sample(
                "bygone_streaming",
                "gauge",
                "1 while the source streams.",
                one(f64::from(u8::from(self.streaming.load(Ordering::Relaxed)))),
            ),
            sample(
                "bygone_reconnects_total",
                "counter",
                "Connections that were lost and made again.",
                count(&self.reconnects),
            ),
            sample(
                "bygone_received_lsn",
                "gauge",
                "Position of the source up to which all is taken, as a number of bytes.",
                count(&self.received),
            ),
            sample(
                "bygone_durable_lsn",
                "gauge",
                "Position of the source up to which all is durable, as a number of bytes.",
                count(&self.durable),
            ),
            sample(
                "bygone_lag_bytes",
                "gauge",
                "WAL that the source has written and of which the history may lack something.",
                one(self.lag_bytes() as f64),
            ),
            sample(
                "bygone_lag_seconds",
                "gauge",
                "How long ago the history lacked nothing of what had come; 0 while it lacks nothing.",
                one(self.lag_seconds()),
            ),
            sample(
                "bygone_slot_wal_held_bytes",
                "gauge",
                "WAL that the source keeps for the slot.",
                known(&self.slot_held, whole),
            ),
            sample(
                "bygone_slot_wal_safe_bytes",
                "gauge",
                "WAL that may still be written before the slot is lost; absent where nothing limits it.",
                known(&self.slot_safe, whole),
            ),
            sample(
                "bygone_tables_waiting",
                "gauge",
                "Tables whose first copy is not in the history yet.",
                count(&self.tables_waiting),
            ),
            sample(
                "bygone_tables_in_doubt",
                "gauge",
                "Tables that are to be compared with the source.",
                count(&self.tables_in_doubt),
            ),
            sample(
                "bygone_spilled_bytes",
                "gauge",
                "Bytes on disk of a transaction that is too large for memory, until all of it is taken.",
                count(&self.spilled),
            ),
            sample(
                "bygone_sink_up",
                "gauge",
                "1 while fact tables or the Delta view take what the history gets, 0 since a try has failed.",
                up,
            ),
            sample(
                "bygone_sink_commits_behind",
                "gauge",
                "Commits of the history that fact tables or the Delta view lack.",
                behind,
            ),
            sample(
                "process_resident_memory_bytes",
                "gauge",
                "Memory of the process.",
                resident().map_or_else(Vec::new, one),
            ),
            sample("process_start_time_seconds", "gauge", "When the process began.", one(started)),
        ]
    }

    /// Prometheus' text format, 0.0.4.
    fn text(&self) -> String {
        let mut out = String::new();
        for Sample { name, kind, help, values } in self.samples() {
            // Writing to a String does not fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (label, value) in values {
                let label = label.map_or_else(String::new, |(label, of)| {
                    let of = of.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                    format!("{{{label}=\"{of}\"}}")
                });
                let _ = writeln!(out, "{name}{label} {value}");
            }
        }
        out
    }

    fn json(&self) -> String {
        let mut all = Map::new();
        for Sample { name, values, .. } in self.samples() {
            let value = match values.as_slice() {
                [] => Value::Null,
                [(None, value)] => Value::from(*value),
                many => {
                    let by_label = many.iter().map(|(label, value)| {
                        let of = label.as_ref().map_or("", |(_, of)| of.as_str());
                        (of.to_owned(), Value::from(*value))
                    });
                    Value::Object(by_label.collect())
                }
            };
            all.insert(name.to_owned(), value);
        }
        all.insert(FACTS_PER_SECOND.to_owned(), self.facts_per_second().into());
        Value::Object(all).to_string()
    }
}

fn now_micros() -> i64 {
    bygone_sink::timestamp::Timestamp::now().0
}

fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kilobytes| kilobytes * 1024.0)
}

/// `9464` or `127.0.0.1:9464`: this machine alone, unless another address is given.
pub(crate) fn parse_address(text: &str) -> std::result::Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    text.parse()
        .map_err(|_| "expected a port or an address with one, as in 9464 or 127.0.0.1:9464".to_owned())
}

/// What is shown at which address.
static SHOWN: Mutex<BTreeMap<SocketAddr, Arc<Mutex<Arc<Metrics>>>>> = Mutex::new(BTreeMap::new());

/// Answers at an address, in a thread of its own, until the process ends. `ready_within` is the lag in bytes up to which a capture is
/// ready. A capture that begins anew in this process takes the place of its earlier try.
pub(crate) fn listen(address: SocketAddr, metrics: Arc<Metrics>, ready_within: u64) -> Result<()> {
    let mut all = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(shown) = all.get(&address).filter(|_| address.port() != 0) {
        *shown.lock().unwrap_or_else(PoisonError::into_inner) = metrics;
        return Ok(());
    }
    let shown = Arc::new(Mutex::new(metrics));
    let asked = Arc::clone(&shown);
    http::serve(address, "metrics", move |method, path| {
        let metrics = Arc::clone(&asked.lock().unwrap_or_else(PoisonError::into_inner));
        answer(method, path, &metrics, ready_within)
    })?;
    all.insert(address, shown);
    tracing::info!(%address, "metrics at /metrics, /healthz, /readyz, /status");
    Ok(())
}

fn answer(method: &str, path: &str, metrics: &Metrics, ready_within: u64) -> Answer {
    if !matches!(method, "GET" | "HEAD") {
        return Answer::text(405, "only GET\n");
    }
    match path {
        "/metrics" => {
            Answer { code: 200, kind: "text/plain; version=0.0.4; charset=utf-8", body: metrics.text() }
        }
        "/status" => Answer { code: 200, kind: "application/json", body: metrics.json() },
        "/healthz" => Answer::text(200, "alive\n"),
        "/readyz" if !metrics.streaming.load(Ordering::Relaxed) => Answer::text(503, "not streaming\n"),
        "/readyz" if metrics.lag_bytes() > ready_within => {
            Answer::text(503, format!("{} bytes behind\n", metrics.lag_bytes()))
        }
        "/readyz" => Answer::text(200, "streaming\n"),
        _ => Answer::text(404, "there is /metrics, /healthz, /readyz and /status\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_host_is_this_machine_alone() {
        assert_eq!(parse_address("9464").unwrap().to_string(), "127.0.0.1:9464");
        assert_eq!(parse_address("0.0.0.0:1").unwrap().to_string(), "0.0.0.0:1");
        assert!(parse_address("here").is_err());
    }

    #[test]
    fn a_capture_that_begins_anew_is_shown_where_its_earlier_try_was() {
        use std::io::{Read as _, Write as _};
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let ready = || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /readyz HTTP/1.1\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer.starts_with("HTTP/1.1 200 ")
        };
        let tries = [(); 2].map(|()| Arc::new(Metrics::default()));
        tries[1].streaming.store(true, Ordering::Relaxed);
        listen(address, Arc::clone(&tries[0]), 0).unwrap();
        assert!(!ready());
        listen(address, Arc::clone(&tries[1]), 0).unwrap();
        assert!(ready());
    }

    #[test]
    fn wal_that_brought_nothing_is_no_lag() {
        let metrics = Metrics::default();
        metrics.committed(1, Lsn(1000), Some(now_micros() - 60_000_000), &[], Duration::ZERO);
        for position in [&metrics.received, &metrics.source] {
            position.store(5000, Ordering::Relaxed);
        }
        assert_eq!(metrics.lag_bytes(), 4000);
        assert!(metrics.lag_seconds() >= 60.0);
        metrics.settled(Lsn(5000), now_micros() - 10_000_000);
        assert_eq!((metrics.lag_bytes(), metrics.lag_seconds()), (0, 0.0));
        // What comes next waits since that was so.
        metrics.received.store(5100, Ordering::Relaxed);
        let waits = metrics.lag_seconds();
        assert!(metrics.lag_bytes() == 100 && (10.0..59.0).contains(&waits), "{waits}");
    }

    #[test]
    fn facts_a_second_are_those_of_the_last_minute() {
        let metrics = Metrics { started: SystemTime::now() - Duration::from_secs(20), ..Metrics::default() };
        assert_eq!(metrics.facts_per_second(), 0.0);
        let now = Instant::now();
        *metrics.lately.lock().unwrap() = [(61, 9000), (30, 100), (0, 100)]
            .into_iter()
            .filter_map(|(ago, facts)| Some((now.checked_sub(Duration::from_secs(ago))?, facts)))
            .collect();
        assert!((9.0..=10.0).contains(&metrics.facts_per_second()), "{}", metrics.facts_per_second());
    }

    #[test]
    fn names_of_tables_are_escaped() {
        let metrics = Metrics::default();
        metrics.facts.lock().unwrap().insert("public.a\"b\\c\nd".to_owned(), 3);
        assert!(
            metrics.text().contains("bygone_facts_total{table=\"public.a\\\"b\\\\c\\nd\"} 3\n"),
            "{}",
            metrics.text()
        );
        assert_eq!(answer("GET", "/readyz", &metrics, 0).code, 503);
        assert_eq!(answer("POST", "/metrics", &metrics, 0).code, 405);
        assert_eq!(answer("GET", "/", &metrics, 0).code, 404);
    }
}
