//! Fact tables in PostgreSQL: beside a capture (`bygone run --facts`), and for a history that is there (`bygone backfill-facts`).

use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::session;
use bygone_sink::encoder::EncoderLimits;
use bygone_sink::fact_tables::{FactTables, Unloaded, unload};
use bygone_sink::failpoint;
use bygone_sink::read::Archive;
use bygone_sink::store::{Location, Store, StoreOptions};

use crate::cli::{BackfillFacts, FactsArgument};
use crate::error::{Error, Result};
use crate::follower::Sink;

/// For files that are made from rows: as a capture with the default memory has them.
const LIMITS: EncoderLimits =
    EncoderLimits { file_bytes: 32 << 20, open_bytes: 48 << 20, pending_bytes: 40 << 20 };

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
        Ok(Some(Self { connect: options("--facts", url)?, schema: argument.facts_schema.clone() }))
    }
}

/// A session with a database that holds fact tables.
pub(crate) async fn connect(option: &str, url: &str) -> Result<tokio_postgres::Client> {
    Ok(session::connect_sql(&options(option, url)?).await?)
}

fn options(option: &str, url: &str) -> Result<ConnectOptions> {
    let options = ConnectOptions::parse(url).map_err(|error| Error::other(format!("{option}: {error}")))?;
    Ok(options.with_application_name("bygone facts"))
}

impl Sink for Target {
    type Open = FactTables;

    fn what(&self) -> &'static str {
        "the fact tables"
    }

    async fn open(&self, store: &Store) -> Result<FactTables> {
        let archive = Archive::open_whole(store, None).await?;
        let client = session::connect_sql(&self.connect).await?;
        let tables = FactTables::open(client, archive, &self.schema).await?;
        tracing::info!(schema = self.schema, commit = tables.next(), "fact tables");
        Ok(tables)
    }

    async fn catch_up(open: &mut FactTables) -> Result<u64> {
        Ok(open.catch_up().await?)
    }
}

/// Makes a history of files from fact tables.
pub(crate) async fn backfill_history(arguments: &BackfillFacts) -> Result<()> {
    failpoint::init()?;
    let target = Target::of(&arguments.facts)?
        .ok_or_else(|| Error::other("give --facts the database with the fact tables"))?;
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
    let target = Target::of(&arguments.facts)?
        .ok_or_else(|| Error::other("give --facts the database for the fact tables"))?;
    let store = Store::open(&Location::parse(&arguments.history.history)?, &StoreOptions::default())?;
    let mut tables = target.open(&store).await?;
    let from = tables.next();
    let written = tables.catch_up().await?;
    eprintln!("bygone: wrote {written} commits, from {from} on; the fact tables are current");
    Ok(())
}
