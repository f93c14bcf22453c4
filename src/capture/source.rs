//! The source: connecting to it, and the checks that come before its stream [1, 2, 3].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bygone_replication::catalog::Attribute;
use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::preflight::{self, Current, Recorded, StartRefused};
use bygone_replication::publication::{self, Difference, PublicationState};
use bygone_replication::slot;
use bygone_replication::table::Table;
use bygone_replication::wire::{Connection, Mode};
use bygone_replication::{Lsn, Policy, catalog, session};
use bygone_sink::failpoint;
use tokio::runtime::Handle;
use tokio_postgres::Client;

use super::watcher::harmful;
use crate::error::{Error, Result};

/// For how long the catalog is tried again while facts are made.
const LONGEST_TRYING: Duration = Duration::from_secs(5);
const TRIED_AGAIN: Duration = Duration::from_millis(250);

/// How long the catalog is waited for to show what a transaction of the stream did.
const LONGEST_UNSEEN: Duration = Duration::from_secs(2);
const SEEN_AGAIN: Duration = Duration::from_millis(5);

/// Of messages that are not in UTF-8, so many bytes are put into Unicode before facts are made of their transaction; more of them are in
/// its course.
const MOST_KNOWN_TEXT: usize = 1 << 20;

/// What `IDENTIFY_SYSTEM` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identified {
    pub(crate) system_id: u64,
    pub(crate) timeline: u32,
    pub(crate) wal_end: Lsn,
}

/// Asks a replication connection which server it is connected to.
pub(crate) async fn identify(connection: &mut Connection) -> Result<Identified> {
    let rows = connection.simple_query("IDENTIFY_SYSTEM").await?;
    let field = |at: usize| rows.first().and_then(|row| row.get(at)).and_then(Option::as_deref);
    let read = || {
        Some(Identified {
            system_id: field(0)?.parse().ok()?,
            timeline: field(1)?.parse().ok()?,
            wal_end: field(2)?.parse().ok()?,
        })
    };
    read().ok_or_else(|| Error::other("the server's answer to IDENTIFY_SYSTEM makes no sense"))
}

/// What a capture reads from.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) slot: String,
    pub(crate) publications: Vec<String>,
}

/// A checked replication connection, ready to be started.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) connection: Connection,
    pub(crate) sql: Client,
    pub(crate) timeline: u32,
    /// What the slot has confirmed.
    pub(crate) confirmed: Option<Lsn>,
    /// A 64-bit transaction id of now, to widen those of the stream with [10].
    pub(crate) next_xid: u64,
}

/// Connects, and checks that nothing is lost of the tables that are captured, given with their leaves, by starting the stream at
/// `resume`.
pub(crate) async fn connect(
    options: &ConnectOptions,
    wanted: &Wanted,
    system_id: u64,
    timeline: u32,
    resume: Lsn,
    recorded: &PublicationState,
    captured: &HashSet<u32>,
) -> Result<Ready> {
    let sql = session::connect_sql(options).await?;
    let mut connection = Connection::connect(options, Mode::Replication).await?;
    let server = catalog::server_info(&sql).await?;
    let identified = identify(&mut connection).await?;
    let history = if identified.timeline == timeline {
        None
    } else {
        let rows = connection.simple_query(&format!("TIMELINE_HISTORY {}", identified.timeline)).await?;
        rows.into_iter().next().and_then(|row| row.into_iter().nth(1).flatten())
    };
    let publications = publication::inspect(&sql, &wanted.publications).await?;
    let slot = slot::read(&sql, &wanted.slot).await?;
    let recorded = Recorded { system_id, timeline, resume, slot: &wanted.slot, publications: recorded };
    let current = Current {
        system_id: identified.system_id,
        timeline: identified.timeline,
        wal_end: identified.wal_end,
        timeline_history: history.as_deref().map(str::as_bytes),
        database: &server.database,
        in_recovery: server.in_recovery,
        slot: slot.as_ref(),
        publications: &publications,
    };
    match preflight::check_start(&recorded, &current) {
        Ok(()) => {}
        Err(StartRefused::PublicationChanged { differences })
            if are_harmless(&sql, &differences, captured).await? => {}
        Err(refused) => return Err(refused.into()),
    }
    let confirmed = slot.and_then(|slot| slot.confirmed_flush_lsn);
    Ok(Ready { connection, sql, timeline: identified.timeline, confirmed, next_xid: server.next_xid })
}

/// The publications changed in ways that lose nothing of captured tables.
async fn are_harmless(sql: &Client, differences: &[Difference], captured: &HashSet<u32>) -> Result<bool> {
    let concerned = differences.iter().filter_map(Difference::table_oid);
    let concerned: Vec<u32> = concerned.filter(|oid| captured.contains(oid)).collect();
    let there = catalog::load_tables_by_oid(sql, &concerned).await?;
    Ok(harmful(differences, |oid| there.iter().any(|table| table.oid == oid)).is_empty())
}

/// Leaves of tables what publications that the operator made publish; `made` has none where the capture's own are used.
pub(super) async fn restrict(sql: &Client, made: &[String], tables: &mut [Table]) -> Result<()> {
    if !made.is_empty() {
        publication::restrict(tables, &publication::inspect(sql, made).await?);
    }
    Ok(())
}

/// Reads the catalog from the thread that follows the stream.
#[derive(Debug)]
pub(crate) struct CatalogReader {
    options: ConnectOptions,
    runtime: Handle,
    client: Option<Client>,
    /// Publications that the operator made.
    made: Vec<String>,
    stop: Arc<AtomicBool>,
    /// What was asked for before facts were made of a transaction, by the oids.
    known_tables: HashMap<Vec<u32>, Vec<Table>>,
    known_attributes: HashMap<Vec<u32>, Vec<Attribute>>,
    /// The last transaction that the catalog was waited for to show.
    seen: Option<u64>,
    known_texts: HashMap<Vec<u8>, Option<String>>,
    known_bytes: usize,
    making_facts: bool,
}

impl CatalogReader {
    pub(crate) fn new(
        options: ConnectOptions,
        runtime: Handle,
        made: Vec<String>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self {
            options,
            runtime,
            client: None,
            made,
            stop,
            known_tables: HashMap::new(),
            known_attributes: HashMap::new(),
            seen: None,
            known_texts: HashMap::new(),
            known_bytes: 0,
            making_facts: false,
        }
    }

    /// Uses a connection that is there already.
    pub(crate) fn adopt(&mut self, client: Client) {
        self.client = Some(client);
    }

    /// Tables by oid; those that are gone are left out.
    pub(crate) fn tables(&mut self, oids: &[u32]) -> Result<Vec<Table>> {
        if let Some(known) = self.known_tables.get(oids) {
            return Ok(known.clone());
        }
        let made = self.made.clone();
        self.read(async |client| read(client, oids, &made).await)
    }

    /// The columns of relations by oid.
    pub(crate) fn attributes(&mut self, oids: &[u32]) -> Result<Vec<Attribute>> {
        if let Some(known) = self.known_attributes.get(oids) {
            return Ok(known.clone());
        }
        self.read(async |client| Ok(catalog::load_attributes(client, oids).await?))
    }

    /// Waits until the catalog shows what a transaction did, or has not for long: the stream can be ahead of it.
    pub(crate) fn see(&mut self, xid: u64) -> Result<()> {
        if self.seen == Some(xid) {
            return Ok(());
        }
        let began = Instant::now();
        while !self.read(async |client| Ok(catalog::is_visible(client, xid).await?))? {
            if began.elapsed() > LONGEST_UNSEEN || self.stop.load(Ordering::SeqCst) {
                tracing::warn!(xid, "the source does not show yet what the stream has brought of it");
                break;
            }
            std::thread::sleep(SEEN_AGAIN);
        }
        self.seen = Some(xid);
        Ok(())
    }

    /// The text that bytes are in the encoding of the database; none where they are no text in it.
    pub(crate) fn text(&mut self, bytes: &[u8]) -> Result<Option<String>> {
        if let Some(known) = self.known_texts.get(bytes) {
            return Ok(known.clone());
        }
        self.read(async |client| Ok(catalog::decode_text(client, bytes).await?))
    }

    /// What will be asked for in the next transaction is asked for now.
    pub(crate) fn know_tables(&mut self, oids: &[u32]) -> Result<Vec<Table>> {
        let tables = self.tables(oids)?;
        self.known_tables.insert(oids.to_vec(), tables.clone());
        Ok(tables)
    }

    /// The same of columns.
    pub(crate) fn know_attributes(&mut self, oids: &[u32]) -> Result<()> {
        let attributes = self.attributes(oids)?;
        self.known_attributes.insert(oids.to_vec(), attributes);
        Ok(())
    }

    /// The same of texts, as far as there is room for them.
    pub(crate) fn know_text(&mut self, bytes: &[u8]) -> Result<()> {
        if self.known_texts.contains_key(bytes) || self.known_bytes + bytes.len() > MOST_KNOWN_TEXT {
            return Ok(());
        }
        let text = self.text(bytes)?;
        self.known_bytes += bytes.len();
        self.known_texts.insert(bytes.to_vec(), text);
        Ok(())
    }

    /// Facts of a transaction are being made: an error that passes by itself would have the stream begin anew in front of
    /// them, and they would be made twice.
    pub(crate) fn begin_facts(&mut self) {
        self.making_facts = true;
    }

    /// They are whole; what was known for them is known no longer.
    pub(crate) fn end_facts(&mut self) {
        self.making_facts = false;
        self.known_tables.clear();
        self.known_attributes.clear();
        self.known_texts.clear();
        self.known_bytes = 0;
    }

    /// Reads over the connection that is there, or another one where that has failed. While facts are made, an error that passes is not
    /// returned: it is tried again, and the process ends where that takes long. (The server may be waiting for us, in order to
    /// shut down, and what was committed is read again at the next start.)
    fn read<T>(&mut self, read: impl AsyncFn(&Client) -> Result<T>) -> Result<T> {
        let runtime = self.runtime.clone();
        let began = Instant::now();
        loop {
            let error = match runtime.block_on(self.read_once(&read)) {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            let passes = error.policy() == Policy::Retry;
            if !self.making_facts || !passes || self.stop.load(Ordering::SeqCst) {
                return Err(error);
            }
            if began.elapsed() > LONGEST_TRYING {
                return Err(Error::other(format!(
                    "the catalog cannot be asked for a table that a transaction has changed: {error}; start again"
                )));
            }
            tracing::warn!(%error, "the catalog is asked again");
            std::thread::sleep(TRIED_AGAIN);
        }
    }

    async fn read_once<T>(&mut self, read: &impl AsyncFn(&Client) -> Result<T>) -> Result<T> {
        failpoint::hit("catalog.asked")?;
        if let Some(client) = self.client.as_ref().filter(|client| !client.is_closed())
            && let Ok(found) = read(client).await
        {
            return Ok(found);
        }
        let client = session::connect_sql(&self.options).await?;
        let found = read(&client).await?;
        self.client = Some(client);
        Ok(found)
    }
}

async fn read(client: &Client, oids: &[u32], made: &[String]) -> Result<Vec<Table>> {
    let mut tables = catalog::load_tables_by_oid(client, oids).await?;
    restrict(client, made, &mut tables).await?;
    Ok(tables)
}
