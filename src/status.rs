//! `bygone status`: where a capture stands, seen from outside: by what its log says, what its source says, and what it says itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::slot::{self, RunningTransaction, Slot};
use bygone_replication::{Lsn, catalog, session};
use bygone_sink::log::{EventKind, EventLsn, VERIFIED};
use bygone_sink::read::Archive;
use bygone_sink::timestamp::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::{Format, Status};
use crate::error::{Error, Result};
use crate::http;
use crate::metrics::FACTS_PER_SECOND;
use crate::query::inventory::open_archive;
use crate::query::sheet::{Cell, Sheet, left, right};
use crate::screen::{print_wrapped, tell};

/// How long a capture may take to say how it is.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// All that is known.
#[derive(Debug, Serialize)]
struct Report {
    healthy: bool,
    /// Why it is not.
    problems: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<HistoryReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<SourceReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<RunningReport>,
}

/// What the log says.
#[derive(Debug, Serialize)]
struct HistoryReport {
    name: String,
    commit: u64,
    /// By the writer's clock.
    committed_at: Option<String>,
    commit_age_s: Option<i64>,
    /// Everything up to here is in the history; of the history, see `lsn_offset` of the log.
    position: String,
    known_until: Option<String>,
    epoch: u32,
    facts: u64,
    bytes: u64,
    files: usize,
    tables: Vec<TableReport>,
    /// While some table's is not in the history.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_copy: Option<FirstCopy>,
    gaps: Vec<GapReport>,
    /// Tables whose rows have not been compared with the source since something was lost.
    in_doubt: Vec<String>,
    /// The position through which each table was last proved to be complete.
    verified: BTreeMap<String, String>,
}

/// One captured table.
#[derive(Debug, Serialize)]
struct TableReport {
    table: String,
    facts: u64,
    bytes: u64,
    files: usize,
    /// `captured`, `waiting` for its snapshot, or `dropped`.
    state: &'static str,
}

/// How far the first copy is.
#[derive(Debug, Serialize)]
struct FirstCopy {
    /// Tables that are in the history.
    done: usize,
    tables: usize,
}

/// Something that was lost.
#[derive(Debug, Serialize)]
struct GapReport {
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    from: String,
    to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// What the source says.
#[derive(Debug, Serialize)]
struct SourceReport {
    slot: String,
    /// A process reads from it: bygone run is going.
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    active_pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confirmed: Option<String>,
    /// The source keeps its WAL from here on: where the oldest transaction began that the slot may still have to decode.
    #[serde(skip_serializing_if = "Option::is_none")]
    restart: Option<String>,
    /// The transaction that has been open longest, with the slot's WAL behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_transaction: Option<OldestTransaction>,
    /// WAL that the source keeps for the slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_bytes: Option<i64>,
    /// What can still be written before the slot is lost; absent where nothing limits it.
    #[serde(skip_serializing_if = "Option::is_none")]
    safe_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<String>,
    position: String,
    /// WAL that was written and is not in the history, or not confirmed where there is no history to ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_bytes: Option<u64>,
    /// Age of what is known; 0 where nothing is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_s: Option<i64>,
}

/// A transaction that has written and is still open, or prepared.
#[derive(Debug, Serialize)]
struct OldestTransaction {
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    /// The name of a prepared one.
    #[serde(skip_serializing_if = "Option::is_none")]
    prepared: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_s: Option<i64>,
}

impl OldestTransaction {
    fn of(running: RunningTransaction) -> Self {
        let RunningTransaction { pid, prepared, seconds, .. } = running;
        Self { pid, prepared, age_s: seconds.map(|seconds| seconds as i64) }
    }

    fn shown(&self) -> String {
        let who = match (&self.prepared, self.pid) {
            (Some(name), _) => format!("prepared transaction {name:?}"),
            (None, Some(pid)) => format!("that of server process {pid}"),
            (None, None) => "one of another role".to_owned(),
        };
        match self.age_s {
            Some(age) => format!("{who}, open for {age} s"),
            None => who,
        }
    }
}

/// What the capture says of itself.
#[derive(Debug, Serialize)]
struct RunningReport {
    at: String,
    streaming: bool,
    /// Made durable in the last minute.
    facts_per_second: f64,
    /// Made durable since it was started.
    facts: u64,
    memory_bytes: Option<u64>,
    /// Tables that came later, and whose first copy is made beside the stream.
    tables_to_copy: u64,
    lag_bytes: u64,
    lag_s: f64,
}

impl RunningReport {
    /// Reads what `/status` answers.
    fn of(at: SocketAddr, told: &Map<String, Value>) -> Self {
        let number = |name: &str| told.get(name).and_then(Value::as_f64);
        let count = |name: &str| number(name).unwrap_or_default() as u64;
        let by_table = told.get("bygone_facts_total").and_then(Value::as_object);
        let facts = by_table.into_iter().flat_map(Map::values).filter_map(Value::as_f64).sum::<f64>();
        Self {
            at: at.to_string(),
            streaming: number("bygone_streaming") == Some(1.0),
            facts_per_second: number(FACTS_PER_SECOND).unwrap_or_default(),
            facts: facts as u64,
            memory_bytes: number("process_resident_memory_bytes").map(|bytes| bytes as u64),
            tables_to_copy: count("bygone_tables_waiting"),
            lag_bytes: count("bygone_lag_bytes"),
            lag_s: number("bygone_lag_seconds").unwrap_or_default(),
        }
    }
}

/// Asks the history, the source, the capture, or several of them.
pub(crate) async fn status(arguments: &Status) -> Result<ExitCode> {
    if arguments.history.is_none() && arguments.source.is_none() && arguments.at.is_none() {
        return Err(Error::usage("give --history, --source, --at, or several of them"));
    }
    let archive = match &arguments.history {
        Some(history) => Some(open_archive(history, &arguments.facts_schema).await?),
        None => None,
    };
    let mut problems = Vec::new();
    let history = archive.as_ref().map(|archive| history(archive, &mut problems)).transpose()?;
    let source = match &arguments.source {
        Some(url) => Some(source(arguments, url, archive.as_ref(), &mut problems).await?),
        None => None,
    };
    let running = match arguments.at {
        Some(at) => running(at, &mut problems).await,
        None => None,
    };
    let report = Report { healthy: problems.is_empty(), problems, history, source, running };
    print(arguments.format, &report)?;
    Ok(if report.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn history(archive: &Archive, problems: &mut Vec<String>) -> Result<HistoryReport> {
    let log = archive.log();
    let (position, known) = archive.known_until();
    let mut tables = Vec::new();
    let mut in_doubt = Vec::new();
    for table in archive.tables()? {
        let last = table.known.last();
        let state = match last {
            None => "waiting",
            Some(extent) if extent.to.is_some() => "dropped",
            Some(_) => "captured",
        };
        if state != "dropped" && archive.doubts(&table.log_name).any(|doubt| doubt.until.is_none()) {
            in_doubt.push(table.log_name.clone());
        }
        tables.push(TableReport {
            facts: table.files.iter().map(|file| file.add.rows).sum(),
            bytes: table.files.iter().map(|file| file.add.bytes).sum(),
            files: table.files.len(),
            table: table.log_name,
            state,
        });
    }
    let waiting: Vec<&str> =
        tables.iter().filter(|table| table.state == "waiting").map(|table| table.table.as_str()).collect();
    let present = tables.iter().filter(|table| table.state != "dropped").count();
    let first_copy =
        (!waiting.is_empty()).then(|| FirstCopy { done: present - waiting.len(), tables: present });
    if !waiting.is_empty() {
        problems.push(format!("the first copy of {} is not in the history yet", waiting.join(", ")));
    }
    if !in_doubt.is_empty() {
        problems.push(format!(
            "{} have not been compared with the source since something was lost",
            in_doubt.join(", ")
        ));
    }
    let mut gaps = Vec::new();
    let mut verified = BTreeMap::new();
    for (_, event) in log.events() {
        let at = event.lsn.map(EventLsn::latest).unwrap_or(Lsn::ZERO);
        match event.kind {
            EventKind::Gap | EventKind::Fork => gaps.push(GapReport {
                kind: event.kind.to_string(),
                table: event.table.clone(),
                from: event.lsn.map(EventLsn::earliest).unwrap_or(Lsn::ZERO).to_string(),
                to: at.to_string(),
                reason: event.detail.get("reason").and_then(|reason| reason.as_str()).map(str::to_owned),
            }),
            EventKind::Reconcile
                if event.detail.get(VERIFIED).and_then(serde_json::Value::as_bool) == Some(true) =>
            {
                verified.insert(event.table.clone().unwrap_or_default(), at.to_string());
            }
            _ => {}
        }
    }
    Ok(HistoryReport {
        name: archive.manifest().name.clone(),
        commit: log.last_seq().unwrap_or_default(),
        committed_at: log.last_at.map(|at| at.to_string()),
        commit_age_s: log.last_at.map(|at| seconds_between(at, Timestamp::now())),
        position: position.to_string(),
        known_until: known.map(|known| known.to_string()),
        epoch: log.epoch,
        facts: tables.iter().map(|table| table.facts).sum(),
        bytes: log.files().map(|(_, file)| file.add.bytes).sum(),
        files: log.files().len(),
        tables,
        first_copy,
        gaps,
        in_doubt,
        verified,
    })
}

async fn source(
    arguments: &Status,
    url: &str,
    archive: Option<&Archive>,
    problems: &mut Vec<String>,
) -> Result<SourceReport> {
    let connect = ConnectOptions::parse(url)?
        .with_application_name("bygone status")
        .with_password_command(arguments.password_command.as_deref());
    let sql = session::connect_sql(&connect).await?;
    let server = catalog::server_info(&sql).await?;
    let now = Timestamp(catalog::server_time(&sql).await?);
    let manifest = archive.map(Archive::manifest);
    let name = manifest.and_then(|manifest| manifest.slot.clone()).unwrap_or_else(|| arguments.name.clone());
    if let (Some(manifest), Some(system_id)) = (manifest, server.system_id)
        && manifest.source.system_id != system_id.to_string()
    {
        problems.push("the history is of another database cluster".to_owned());
    }
    let position = server.wal_insert.or(server.wal_replay).unwrap_or(Lsn::ZERO);
    let found = slot::read(&sql, &name).await?;
    let slot = found.clone().unwrap_or_default();
    judge(&name, found.as_ref(), problems);
    // After a fork the history's positions lie beyond the source's.
    let covered = archive.and_then(|archive| {
        let log = archive.log();
        Some(Lsn(log.resume?.0.saturating_sub(log.lsn_offset)))
    });
    let covered = covered.or(slot.confirmed_flush_lsn);
    let lag_bytes = covered.map(|covered| position.0.saturating_sub(covered.0));
    let known = archive.and_then(|archive| archive.known_until().1);
    let lag_s = match (lag_bytes, known) {
        (Some(0), _) => Some(0),
        (_, Some(known)) => Some(seconds_between(known, now).max(0)),
        _ => None,
    };
    if lag_bytes.is_some_and(|lag| lag > arguments.max_lag) {
        problems.push(format!(
            "the history is {} bytes of WAL behind the source, more than --max-lag ({})",
            lag_bytes.unwrap_or_default(),
            arguments.max_lag
        ));
    }
    Ok(SourceReport {
        slot: name,
        active: slot.active,
        active_pid: slot.active_pid,
        confirmed: slot.confirmed_flush_lsn.map(|lsn| lsn.to_string()),
        restart: slot.restart_lsn.map(|lsn| lsn.to_string()),
        oldest_transaction: slot::running_transactions(&sql)
            .await?
            .into_iter()
            .next()
            .map(OldestTransaction::of),
        held_bytes: slot.wal_held,
        safe_bytes: slot.safe_wal_size,
        lost: slot.lost().map(str::to_owned),
        position: position.to_string(),
        lag_bytes,
        lag_s,
    })
}

/// Asks a capture that runs.
async fn running(at: SocketAddr, problems: &mut Vec<String>) -> Option<RunningReport> {
    let asked = tokio::time::timeout(ANSWER_WITHIN, http::get(at, "/status")).await;
    let told = match asked {
        Ok(told) => told.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
    };
    let told = told.and_then(|body| {
        serde_json::from_str(&body).map_err(|_| "what answers there is no bygone".to_owned())
    });
    let report = match told {
        Ok(told) => RunningReport::of(at, &told),
        Err(error) => {
            problems
                .push(format!("{at} does not tell how it is: {error}; is bygone run going, with --listen?"));
            return None;
        }
    };
    if !report.streaming {
        problems.push(
            "the capture does not stream: it copies tables, connects, or waits, as its log says".to_owned(),
        );
    }
    Some(report)
}

fn judge(name: &str, slot: Option<&Slot>, problems: &mut Vec<String>) {
    match slot {
        None => problems
            .push(format!("the source has no replication slot {name:?}: start bygone run, which says more")),
        Some(slot) => {
            if let Some(reason) = slot.lost() {
                problems.push(format!(
                    "replication slot {name:?} is lost ({reason}): bygone run says what to do"
                ));
            } else if !slot.active {
                problems.push(format!("nobody reads replication slot {name:?}: bygone run is not going"));
            }
        }
    }
}

fn seconds_between(from: Timestamp, to: Timestamp) -> i64 {
    to.0.saturating_sub(from.0) / 1_000_000
}

fn print(format: Format, report: &Report) -> Result<()> {
    if format == Format::Json {
        let text = serde_json::to_string_pretty(report)
            .map_err(|error| Error::other(format!("the report has no JSON: {error}")))?;
        tell!("{text}");
        return Ok(());
    }
    if format == Format::Csv {
        return tables(format, report);
    }
    let line = |name: &str, text: &str| print_wrapped(&format!("{name:12} "), text);
    line("health", if report.healthy { "healthy" } else { "NOT HEALTHY" });
    for problem in &report.problems {
        line("", problem);
    }
    if let Some(history) = &report.history {
        let age = history.commit_age_s.map_or_else(String::new, |age| format!(", {age} s ago"));
        line("commit", &format!("{}{age}", history.commit));
        let known = history.known_until.as_deref().unwrap_or("nothing");
        line("known until", &format!("{known} ({})", history.position));
        let size = Cell::bytes(history.bytes);
        line("history", &format!("{} facts, {} files, {}", history.facts, history.files, size.text()));
        if let Some(FirstCopy { done, tables }) = history.first_copy {
            line("first copy", &format!("{done} of {tables} tables are in the history"));
        }
        for gap in &history.gaps {
            let of = gap.table.as_deref().unwrap_or("all tables");
            let why = gap.reason.as_deref().unwrap_or("no reason is on record");
            line(&gap.kind, &format!("{of}, {} to {}: {why}", gap.from, gap.to));
        }
        if let Some((table, at)) = history.verified.iter().next() {
            let more = history.verified.len() - 1;
            let more = if more > 0 { format!(" (and {more} more tables)") } else { String::new() };
            line("verified", &format!("{table} through {at}{more}"));
        }
    }
    if let Some(source) = &report.source {
        let who = source
            .active_pid
            .map_or_else(|| "nobody reads it".to_owned(), |pid| format!("read by server process {pid}"));
        line("slot", &format!("{}: {who}", source.slot));
        let bytes = |bytes: i64| Cell::bytes(u64::try_from(bytes).unwrap_or_default()).text().to_owned();
        if let Some(held) = source.held_bytes {
            let limit = source
                .safe_bytes
                .map_or_else(|| "no limit".to_owned(), |left| format!("{} more may be", bytes(left)));
            let from = source.restart.as_ref().map_or_else(String::new, |lsn| format!(" from {lsn} on"));
            line("WAL held", &format!("{}{from} ({limit})", bytes(held)));
        }
        if let Some(oldest) = &source.oldest_transaction {
            line("open longest", &oldest.shown());
        }
        if let Some(lag) = source.lag_bytes {
            let seconds = source.lag_s.map_or_else(String::new, |lag| format!(", {lag} s"));
            line("lag", &format!("{}{seconds}", Cell::bytes(lag).text()));
        }
    }
    if let Some(running) = &report.running {
        let rate = format!("{:.1} facts/s in the last minute", running.facts_per_second);
        line("rate", &format!("{rate}, {} facts since the start", running.facts));
        if let Some(memory) = running.memory_bytes {
            line("memory", Cell::bytes(memory).text());
        }
        if running.tables_to_copy > 0 {
            line("to be copied", &format!("{} tables, beside the stream", running.tables_to_copy));
        }
    }
    if report.history.is_some() {
        tell!("");
        tables(format, report)?;
    }
    Ok(())
}

fn tables(format: Format, report: &Report) -> Result<()> {
    let headings = vec![left("table"), right("facts"), right("files"), right("bytes"), left("state")];
    let mut sheet = Sheet::new(format, headings)?;
    for table in report.history.iter().flat_map(|history| &history.tables) {
        sheet.row(vec![
            Cell::Text(table.table.clone()),
            Cell::number(table.facts),
            Cell::number(table.files),
            if format == Format::Table { Cell::bytes(table.bytes) } else { Cell::number(table.bytes) },
            Cell::Text(table.state.to_owned()),
        ])?;
    }
    sheet.finish()?;
    Ok(())
}
