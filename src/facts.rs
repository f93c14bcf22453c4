//! Fact tables in PostgreSQL: beside a capture (`bygone run --facts`), and for a history that is there (`bygone backfill-facts`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bygone_replication::backoff::Backoff;
use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::session;
use bygone_sink::error::ErrorKind;
use bygone_sink::fact_tables::FactTables;
use bygone_sink::failpoint;
use bygone_sink::read::Archive;
use bygone_sink::store::{Location, Store, StoreOptions};
use tokio::time::Instant;

use crate::cli::{BackfillFacts, FactsArgument};
use crate::error::{Error, Result};

/// How often it is looked for new commits.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the end of a run waits for a target that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where fact tables are.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    connect: ConnectOptions,
    schema: String,
}

impl Target {
    /// What the command line says; none without `--facts`.
    pub(crate) fn of(argument: &FactsArgument) -> Result<Option<Self>> {
        let Some(url) = &argument.facts else { return Ok(None) };
        let connect = ConnectOptions::parse(url)
            .map_err(|error| Error::other(format!("--facts: {error}")))?
            .with_application_name("bygone facts");
        Ok(Some(Self { connect, schema: argument.facts_schema.clone() }))
    }

    async fn open(&self, store: &Store) -> Result<FactTables> {
        let archive = Archive::open(store).await?;
        let client = session::connect_sql(&self.connect).await?;
        Ok(FactTables::open(client, archive, &self.schema).await?)
    }
}

/// Fills fact tables from a history, as far as that goes.
pub(crate) async fn backfill(arguments: &BackfillFacts) -> Result<()> {
    failpoint::init()?;
    let target = Target::of(&arguments.facts)?
        .ok_or_else(|| Error::other("give --facts the database for the fact tables"))?;
    let store = Store::open(&Location::parse(&arguments.history.history)?, &StoreOptions::default())?;
    let mut tables = target.open(&store).await?;
    let from = tables.next();
    let written = tables.catch_up().await?;
    eprintln!("bygone: wrote {written} commits, from {from} on; the fact tables are current");
    Ok(())
}

/// Follows the log beside a capture. Nothing that befalls it holds the capture up.
#[derive(Debug)]
pub(crate) struct Follower {
    ending: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Follower {
    pub(crate) fn start(target: Target, store: Store) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(follow(target, store, Arc::clone(&ending)));
        Self { ending, task }
    }

    /// Ends it, once the tables hold all that the log does; a target that does not answer is not waited for.
    pub(crate) async fn finish(self) -> Result<()> {
        self.ending.store(true, Ordering::SeqCst);
        self.task
            .await
            .map_err(|error| Error::other(format!("the task of the fact tables has failed: {error}")))?
    }
}

async fn follow(target: Target, store: Store, ending: Arc<AtomicBool>) -> Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
    let mut since: Option<Instant> = None;
    loop {
        let Err(error) = follow_once(&target, &store, &ending, &mut backoff).await else { return Ok(()) };
        if let Error::Sink(sink) = &error
            && matches!(sink.kind(), ErrorKind::Fenced | ErrorKind::OtherSource | ErrorKind::Damaged)
        {
            // Trying again does not help; the capture goes on, and its end tells of it once more.
            tracing::error!(%error, "the fact tables are no longer written");
            return Err(error);
        }
        if ending.load(Ordering::SeqCst) && since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            tracing::warn!(%error, "the fact tables stay behind; they catch up at the next start");
            return Ok(());
        }
        let pause = backoff.next_pause();
        tracing::warn!(%error, pause = pause.as_secs_f64(), "the fact tables are behind: tried again");
        rest(pause, &ending).await;
    }
}

async fn follow_once(
    target: &Target,
    store: &Store,
    ending: &AtomicBool,
    backoff: &mut Backoff,
) -> Result<()> {
    let mut tables = target.open(store).await?;
    tracing::info!(schema = target.schema, commit = tables.next(), "fact tables");
    loop {
        // Looked at before: what the log holds at the end is written after that.
        let last = ending.load(Ordering::SeqCst);
        let written = tables.catch_up().await?;
        if written > 0 {
            tracing::debug!(written, next = tables.next(), "fact tables");
            backoff.reset();
        }
        if last {
            return Ok(());
        }
        rest(LOOK_EVERY, ending).await;
    }
}

/// Sleeps, but not for long once the end has come.
async fn rest(pause: Duration, ending: &AtomicBool) {
    const STEP: Duration = Duration::from_millis(50);
    let until = Instant::now() + pause;
    tokio::time::sleep(STEP).await;
    while Instant::now() < until && !ending.load(Ordering::SeqCst) {
        tokio::time::sleep(STEP).await;
    }
}
