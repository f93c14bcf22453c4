//! bygone keeps every version of every row of a PostgreSQL database, and answers what was true when.
//!
//! The way of a change: [`capture`] follows the source through the crate `bygone_replication`, and has the crate
//! `bygone_sink` make facts of what it sees.

mod capture;
mod captures;
mod cli;
mod compact;
mod config;
mod delta;
mod demo;
mod detach;
mod doctor;
mod error;
mod facts;
mod follower;
mod hash;
mod http;
mod install;
mod live;
mod manual;
mod metrics;
mod query;
mod reconcile;
mod screen;
mod status;
mod verify;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::capture::RunOptions;
use crate::cli::{Cli, Command, LogFormat, Run};
use crate::error::{Error, Result};

/// What a panic means for the command that runs.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum OnPanic {
    /// Something may be half done: the process ends at once.
    Abort,
    /// A history is read, and none written: a sentence, and the end.
    Tell,
    /// Damaged files are read on purpose: what reads one fails alone, and the file is named.
    Unwind,
}

static ON_PANIC: AtomicU8 = AtomicU8::new(OnPanic::Abort as u8);

/// A thread that fails must not leave the others acknowledging: the process ends at once.
fn end_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let on_panic = ON_PANIC.load(Ordering::Relaxed);
        if on_panic == OnPanic::Unwind as u8 {
            return;
        }
        if on_panic == OnPanic::Tell as u8 {
            // Of what libraries do with a damaged file, not all is an error of theirs.
            let said = info.payload_as_str().unwrap_or("no reason was given");
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            eprintln!(
                "bygone: what was read makes no sense ({said}, {place}): a file may be damaged, which bygone verify tells by name; \
                 where it finds none, this is a bug: please report it"
            );
            std::process::exit(1);
        }
        default(info);
        eprintln!("bygone: this is a bug; nothing was acknowledged that is not durable. Please report it.");
        std::process::abort();
    }));
}

/// No core file is written of the process, whatever ends it: memory has rows and passwords. What cannot be set is left as it is.
fn leave_no_core() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // A program that takes cores through a pipe need not mind the limit.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

fn main() -> ExitCode {
    leave_no_core();
    end_on_panic();
    let arguments: Vec<String> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    // Settings of a file are added to the command line; without one, it is whole as it is.
    let (cli, others) = match config::captures(&arguments) {
        Ok(Some(mut captures)) if !captures.is_empty() => (captures.remove(0), captures),
        Ok(_) => (Cli::parse(), Vec::new()),
        Err(error) => {
            say_why(config::log_format(&arguments), &error);
            return ExitCode::from(2);
        }
    };
    let log_format = cli.log_format;
    let on_panic = match cli.command {
        Command::Query(_) => OnPanic::Tell,
        Command::Verify(_) => OnPanic::Unwind,
        _ => OnPanic::Abort,
    };
    ON_PANIC.store(on_panic as u8, Ordering::Relaxed);
    if writes(&cli.command) {
        // What is kept is for its owner alone: files are made 0600, directories 0700.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    }
    start_logging(&cli);
    match execute_all(cli.command, others.into_iter().map(|capture| capture.command).collect()) {
        Ok(code) => code,
        Err(error) => {
            say_why(log_format, &error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// The last line: why a command ends. No filter of the log's leaves it out.
fn say_why(format: LogFormat, error: &Error) {
    match format {
        LogFormat::Text => eprintln!("bygone: {error}"),
        LogFormat::Json => {
            let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
            let message = error.to_string();
            eprintln!("{}", serde_json::json!({"timestamp": now, "level": "ERROR", "message": message}));
        }
    }
}

/// The command writes a history or state.
const fn writes(command: &Command) -> bool {
    use Command::{BackfillFacts, BackfillHistory, Compact, Delta, Reconcile, Run};
    matches!(command, Run(_) | Compact(_) | Reconcile(_) | BackfillFacts(_) | BackfillHistory(_) | Delta(_))
}

/// Runs a command, which is the same of each other capture of a file.
fn execute_all(command: Command, others: Vec<Command>) -> Result<ExitCode> {
    match command {
        Command::Run(run) if !others.is_empty() => {
            let others = others.into_iter().filter_map(|other| match other {
                Command::Run(run) => Some(*run),
                _ => None,
            });
            let all_well = captures::run(std::iter::once(*run).chain(others).collect())?;
            Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Doctor(first) => {
            let others = others.into_iter().filter_map(|other| match other {
                Command::Doctor(doctor) => Some(*doctor),
                _ => None,
            });
            let captures: Vec<_> = std::iter::once(*first).chain(others).collect();
            block_on(Box::pin(doctor::doctor(&captures)))
        }
        command => block_on(Box::pin(execute(command))),
    }
}

fn block_on(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Error::other(format!("cannot start: {error}")))?;
    let result = runtime.block_on(command);
    // Threads that wait for a connection need not be waited for.
    runtime.shutdown_background();
    result
}

async fn execute(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(run) => Box::pin(capture::run(options(*run)?)).await.map(|()| ExitCode::SUCCESS),
        Command::Detach(detach) => detach::detach(&detach).await.map(|()| ExitCode::SUCCESS),
        Command::Doctor(doctor) => Box::pin(doctor::doctor(&[*doctor])).await,
        Command::Status(status) => Box::pin(status::status(&status)).await,
        Command::Compact(compact) => Box::pin(compact::compact(&compact)).await.map(|()| ExitCode::SUCCESS),
        Command::BackfillFacts(backfill) => {
            Box::pin(facts::backfill(&backfill)).await.map(|()| ExitCode::SUCCESS)
        }
        Command::BackfillHistory(backfill) => {
            Box::pin(facts::backfill_history(&backfill)).await.map(|()| ExitCode::SUCCESS)
        }
        Command::Config(config) => config::config(&config).map(|()| ExitCode::SUCCESS),
        Command::Completions(completions) => manual::completions(&completions).map(|()| ExitCode::SUCCESS),
        Command::Man(man) => manual::pages(&man).map(|()| ExitCode::SUCCESS),
        Command::Delta(delta) => Box::pin(delta::delta(&delta)).await.map(|()| ExitCode::SUCCESS),
        Command::Install(install) => install::install(&install).await.map(|()| ExitCode::SUCCESS),
        Command::Uninstall(uninstall) => install::uninstall(&uninstall).await.map(|()| ExitCode::SUCCESS),
        Command::Hash(arguments) => hash::hash(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Verify(verify) => verify::verify(&verify).await,
        Command::Reconcile(arguments) => Box::pin(reconcile::reconcile(&arguments)).await,
        Command::Query(query) => Box::pin(query::run(query)).await.map(|()| ExitCode::SUCCESS),
        Command::Demo(demo) => demo::demo(&demo).await.map(|()| ExitCode::SUCCESS),
    }
}

fn options(run: Run) -> Result<RunOptions> {
    if run.config.is_none() && !run.captures.is_empty() {
        return Err(Error::usage(format!(
            "{:?} is a capture of a file: give --config FILE",
            run.captures.join(" ")
        )));
    }
    let captured = run.captured;
    Ok(RunOptions {
        facts: facts::Target::of(&run.facts, run.merging.slabbing.least())?,
        delta: !run.no_delta && !run.discard,
        source: run.source,
        history: run.history.filter(|history| !history.is_empty()),
        column_rules: captured.column_rules()?,
        retention: capture::Retention::parse(&captured.retention)?,
        password_command: captured.password_command,
        tables: captured.tables,
        name: captured.name,
        slot: captured.slot,
        publications: captured.publications,
        accept_partial: captured.accept_partial,
        state: run.state,
        until_current: run.until_current,
        commit_interval: run.commit_interval,
        catalog_interval: run.catalog_interval,
        commit_bytes: run.commit_size,
        memory: run.memory,
        snapshot_workers: usize::from(run.snapshot_workers),
        discard: run.discard,
        listen: run.listen,
        ready_within: run.ready_within,
        compact_every: (!run.no_compact).then_some(run.compact_interval),
        compaction: compact::policy(run.merging),
        derived: compact::DerivedPolicy::of(run.merging),
        on_gap: run.on_gap,
        max_slot_lag: run.max_slot_lag,
        accept_fork: run.accept_fork,
        source_timeout: run.source_timeout,
        store_timeout: run.store_timeout,
        stopping: None,
    })
}

/// Logs go to stderr; `BYGONE_LOG` takes tracing's filter directives.
fn start_logging(cli: &Cli) {
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => "warn",
        // Of the libraries below, only what goes wrong.
        (false, 0) => "warn,bygone=info,bygone_replication=info,bygone_sink=info",
        (false, 1) => "warn,bygone=debug,bygone_replication=debug,bygone_sink=debug",
        (false, _) => "debug",
    };
    let filter = EnvFilter::try_from_env("BYGONE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    if cli.quiet || matches!(cli.log_format, LogFormat::Json) {
        screen::be_quiet();
    }
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(screen::Lines::default)
        .with_target(false);
    match cli.log_format {
        LogFormat::Text => lines.with_ansi(screen::has_colours(&std::io::stderr())).init(),
        LogFormat::Json => {
            // Of several captures, the span says whose a line is.
            lines.json().flatten_event(true).with_current_span(true).with_span_list(false).init()
        }
    }
}
