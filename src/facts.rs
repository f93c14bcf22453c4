//! Fact tables in PostgreSQL: beside a history of files (`bygone run --facts`), in its place (without `--history`), and for a history
//! that is there (`bygone backfill-facts`).

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bygone_replication::backoff::Backoff;
use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::session;
use bygone_sink::encoder::EncoderLimits;
use bygone_sink::error::ErrorKind;
use bygone_sink::fact_tables::spool::{self, Restored};
use bygone_sink::fact_tables::{Cutter, FactTables, Layout, Unloaded, unload};
use bygone_sink::failpoint;
use bygone_sink::log::ContentHash;
use bygone_sink::read::Archive;
use bygone_sink::state::DirectoryLock;
use bygone_sink::store::{Location, Store, StoreOptions};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::cli::{BackfillFacts, BackfillHistory, FactsArgument, FactsPartition};
use crate::error::{Error, Result};
use crate::follower::{PATIENCE, Place, Sink, is_final, pause};

/// For files that are made from rows: as a capture with the default memory has them.
const LIMITS: EncoderLimits =
    EncoderLimits { file_bytes: 32 << 20, open_bytes: 48 << 20, pending_bytes: 40 << 20 };

/// Where fact tables are.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    connect: ConnectOptions,
    schema: String,
    layout: Layout,
    /// How many rows of a table have to end before its first slab; none for no slabs.
    slab_rows: Option<u64>,
}

impl Target {
    /// What the command line says; none without `--facts`.
    pub(crate) fn of(argument: &FactsArgument, slab_rows: Option<u64>) -> Result<Option<Self>> {
        let Some(url) = argument.place.url() else { return Ok(None) };
        let layout = match argument.facts_partition {
            FactsPartition::None => Layout::Whole,
            FactsPartition::Month => Layout::ByMonth,
        };
        let schema = argument.place.facts_schema.clone();
        Ok(Some(Self { connect: options("--facts", url)?, schema, layout, slab_rows }))
    }

    /// A name for what belongs to these tables on a disk, the same whatever the password.
    pub(crate) fn file_name(&self, capture: &str) -> String {
        let Self { connect, schema, .. } = self;
        let told = [&connect.host(), connect.database(), schema, capture].join("\0");
        let hash = ContentHash::of(format!("{told}\0{}", connect.port()).as_bytes()).to_string();
        format!("facts-{}", hash.get(..16).unwrap_or(&hash))
    }
}

/// A session with a database that holds fact tables.
pub(crate) async fn connect(option: &str, url: &str) -> Result<tokio_postgres::Client> {
    Ok(session::connect_sql(&options(option, url)?).await?)
}

/// How a session with such a database is opened.
pub(crate) fn options(option: &str, url: &str) -> Result<ConnectOptions> {
    let options = ConnectOptions::parse(url).map_err(|error| Error::usage(format!("{option}: {error}")))?;
    Ok(options.with_application_name("bygone facts"))
}

impl Sink for Target {
    type Open = FactTables;

    fn what(&self) -> &'static str {
        "the fact tables"
    }

    fn label(&self) -> &'static str {
        "fact_tables"
    }

    async fn open(&self, store: &Store) -> Result<FactTables> {
        self.follow(Archive::open_whole(store, None).await?).await
    }

    async fn catch_up(open: &mut FactTables) -> Result<u64> {
        Ok(open.catch_up().await?)
    }

    fn next(open: &FactTables) -> u64 {
        open.next()
    }
}

impl Target {
    /// The tables, to be written from a log.
    async fn follow(&self, archive: Archive) -> Result<FactTables> {
        let client = session::connect_sql(&self.connect).await?;
        let mut tables = FactTables::open(client, archive, &self.schema, self.layout).await?;
        if let Some(least) = self.slab_rows {
            let client = session::connect_sql(&self.connect).await?;
            tables.cut(Cutter::new(client, &self.schema, least).await?);
        }
        tracing::info!(schema = self.schema, commit = tables.next(), "fact tables");
        Ok(tables)
    }
}

/// Fact tables without a history of files: their own transactions are the log. The capture writes into a spool on a local disk, and a
/// commit counts, and is acknowledged, once the tables hold it.
pub(crate) struct Alone {
    target: Target,
    spool: Place,
    restored: Restored,
    open: Mutex<Option<FactTables>>,
    stop: std::sync::Arc<AtomicBool>,
    /// Nobody else has the spool.
    _lock: DirectoryLock,
}

impl Alone {
    /// Opens the spool, and sees to it that it holds what the tables hold.
    pub(crate) async fn begin(
        target: Target,
        directory: PathBuf,
        options: StoreOptions,
        stop: std::sync::Arc<AtomicBool>,
    ) -> Result<Self> {
        let lock = DirectoryLock::take(&directory).map_err(bygone_sink::error::Error::from)?;
        let spool = Place { location: Location::parse(&directory.to_string_lossy())?, options };
        let client = session::connect_sql(&target.connect).await?;
        let restored = spool::restore(client, &target.schema, &spool.open()?).await?;
        Ok(Self { target, spool, restored, open: Mutex::new(None), stop, _lock: lock })
    }

    /// What the capture writes into.
    pub(crate) fn spool(&self) -> &Place {
        &self.spool
    }

    /// What was derived from an earlier spool is of no use.
    pub(crate) fn is_anew(&self) -> bool {
        self.restored == Restored::Anew
    }

    /// The tables, to be read; none where they hold nothing yet.
    pub(crate) async fn rows(&self) -> Result<Option<Archive>> {
        let client = session::connect_sql(&self.target.connect).await?;
        match Archive::open_rows(client, &self.target.schema).await {
            Ok(archive) => Ok(Some(archive)),
            Err(error) if error.kind() == ErrorKind::NoHistory => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Comes back once the tables hold all that the spool's log has. A target that does not answer is waited for.
    pub(crate) async fn deliver(&self) -> Result<()> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let mut stopping: Option<Instant> = None;
        loop {
            let Err(error) = Box::pin(self.deliver_once()).await else { return Ok(()) };
            let stopped = self.stop.load(Ordering::SeqCst)
                && stopping.get_or_insert_with(Instant::now).elapsed() > PATIENCE;
            // The spool has no more what the tables have lost: they were put back, which a start finds out about.
            let is_put_back = matches!(&error, Error::Sink(error) if error.kind() == ErrorKind::NotFound);
            if is_final(&error) || is_put_back || stopped {
                return Err(error);
            }
            pause(&mut backoff, &self.stop, |pause| {
                tracing::warn!(%error, pause = pause.as_secs_f64(), "the fact tables cannot be written: tried again, nothing is acknowledged");
            })
            .await;
        }
    }

    async fn deliver_once(&self) -> Result<()> {
        let mut open = self.open.lock().await;
        let mut tables = match open.take() {
            Some(tables) => tables,
            None => self.target.follow(Archive::open_spool(&self.spool.open()?).await?).await?,
        };
        tables.catch_up().await?;
        *open = Some(tables);
        Ok(())
    }

    /// Removes what is on the disk of commits that the tables and the state have, up to one.
    pub(crate) async fn clear(&self, seq: u64) -> Result<()> {
        match self.open.lock().await.as_mut() {
            Some(tables) => Ok(tables.clear(seq).await?),
            None => Ok(()),
        }
    }
}

/// Makes a history of files from fact tables.
pub(crate) async fn backfill_history(arguments: &BackfillHistory) -> Result<()> {
    failpoint::init()?;
    let target = Target::of(&arguments.facts, None)?
        .ok_or_else(|| Error::usage("give --facts the database with the fact tables"))?;
    let store = Store::open(&Location::parse(&arguments.history.history)?, &StoreOptions::default())?;
    let client = session::connect_sql(&target.connect).await?;
    let archive = Archive::open_rows(client, &target.schema).await?;
    let Unloaded { commits, facts } = unload(&archive, &store, LIMITS).await?;
    eprintln!("bygone: wrote {commits} commits with {facts} facts; the history is as the fact tables are");
    Ok(())
}

/// Fills fact tables from a history, as far as that goes.
pub(crate) async fn backfill(arguments: &BackfillFacts) -> Result<()> {
    failpoint::init()?;
    let target = Target::of(&arguments.facts, arguments.slabbing.least())?
        .ok_or_else(|| Error::usage("give --facts the database for the fact tables"))?;
    let store = Store::open(&Location::parse(&arguments.history.history)?, &StoreOptions::default())?;
    let mut tables = target.open(&store).await?;
    let from = tables.next();
    let written = tables.catch_up().await?;
    eprintln!("bygone: wrote {written} commits, from {from} on; the fact tables are current");
    if let Some(cutter) = tables.take_cutter() {
        let made = cutter.finish().await?;
        if made > 0 {
            eprintln!("bygone: made {made} slabs");
        }
    }
    Ok(())
}
