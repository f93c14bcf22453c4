//! Slabs of fact tables: rows laid out by time, as the [slabs](crate::slabs) of files are.
//!
//! A slab of the moments from K1 to before K2 stands in one piece in `<table>_slabs`: the rows alive at K1, and each that began in it, with the
//! end of its validity where that lies in it. As of a moment is then a filter over one slab, however long the history. A slab is cut
//! once one and a half times as many rows have ended as were alive at the cut before, so that all of them take about as much room as the facts.
//!
//! They hold no truth: `drop_slabs()` removes them, and the facts answer in their place. A partition for each slab was tried: then each
//! question has to plan all of them (4 ms for a hundred), and each cut is DDL.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bygone_replication::table::{quote_identifier, quote_literal};
use tokio::task::JoinHandle;
use tokio_postgres::types::{PgLsn, ToSql};
use tokio_postgres::{Client, Row};

use super::objects::slab_index;
use super::told;
use crate::error::{Error, ErrorKind, Result};

/// Columns of a slab that are not the user's. Those that the history has not are named so that they meet none of the user's.
pub(super) const SLAB: &str = "_bygone_slab";
pub(super) const BEGAN: &str = "_bygone_began";
pub(super) const ENDED: &str = "_bygone_ended";
pub(super) const FROM_HISTORY: [&str; 3] = ["_entity_id", "_version", "_schema"];

/// Rows that have ended for two that were alive.
const ENDED_FOR_TWO_ALIVE: u64 = 3;

/// What is done, for messages.
const DOING: &str = "making a slab";

/// Where the last slab of a table ends.
#[derive(Debug)]
struct Last {
    /// Its number; none before the first.
    slab: Option<i64>,
    ends: String,
    /// The facts up to here are in slabs.
    up_to: PgLsn,
    /// Rows alive at its end.
    alive: u64,
}

/// Makes slabs in a session of its own, beside the one that writes facts.
#[derive(Debug)]
pub struct Cutter {
    work: Arc<Work>,
    /// Facts written since a table was last looked at.
    since: HashMap<String, u64>,
    running: Option<JoinHandle<Result<u64>>>,
}

#[derive(Debug)]
struct Work {
    client: Client,
    schema: String,
    least: u64,
    stop: AtomicBool,
    /// How many facts have to come before it is looked again whether a slab is due.
    patience: Mutex<HashMap<String, u64>>,
}

impl Cutter {
    /// No table gets a slab before `least` of its rows have ended.
    ///
    /// # Errors
    /// What the target says.
    pub async fn new(client: Client, schema: &str, least: u64) -> Result<Self> {
        // A slab that is lost with the server is made again.
        let settings =
            "set timezone = 'UTC'; set synchronous_commit = off; set application_name = 'bygone slabs'";
        client
            .batch_execute(settings)
            .await
            .map_err(|error| told("preparing a session for slabs", &error))?;
        let work = Work {
            client,
            schema: schema.to_owned(),
            least,
            stop: AtomicBool::new(false),
            patience: Mutex::default(),
        };
        Ok(Self { work: Arc::new(work), since: HashMap::new(), running: None })
    }

    /// What a table holds is looked at as soon as more comes.
    pub(super) fn look_at(&mut self, base: &str) {
        self.since.insert(base.to_owned(), self.work.least);
    }

    /// Facts came to a table.
    pub(super) fn note(&mut self, base: &str, facts: u64) {
        *self.since.entry(base.to_owned()).or_default() += facts;
    }

    /// Begins with what may be due, unless it is at work already.
    pub(super) async fn consider(&mut self) {
        let due: Vec<String> = self
            .since
            .iter()
            .filter(|(base, facts)| **facts >= self.work.patience(base))
            .map(|(base, _)| base.clone())
            .collect();
        if due.is_empty() {
            return;
        }
        match self.running.take() {
            Some(running) if !running.is_finished() => {
                self.running = Some(running);
                return;
            }
            Some(ended) => {
                if let Err(error) = flat(ended.await) {
                    // They hold no truth: facts are asked in their place.
                    tracing::warn!(%error, "slabs of the fact tables could not be made");
                }
            }
            None => {}
        }
        self.since.retain(|base, _| !due.contains(base));
        let work = Arc::clone(&self.work);
        self.running = Some(tokio::spawn(async move { work.cut_all(&due).await }));
    }

    /// Makes all that is due; gives how many.
    ///
    /// # Errors
    /// What the target says.
    pub async fn finish(mut self) -> Result<u64> {
        let mut made = match self.running.take() {
            Some(running) => flat(running.await)?,
            None => 0,
        };
        let left: Vec<String> = self.since.drain().map(|(base, _)| base).collect();
        made += self.work.cut_all(&left).await?;
        Ok(made)
    }
}

/// What is under way is not waited for.
impl Drop for Cutter {
    fn drop(&mut self) {
        self.work.stop.store(true, Ordering::Relaxed);
    }
}

fn flat(ended: std::result::Result<Result<u64>, tokio::task::JoinError>) -> Result<u64> {
    ended.map_err(|error| Error::new(ErrorKind::Io, "a task was ended", "making slabs").with_source(error))?
}

impl Work {
    fn patience(&self, base: &str) -> u64 {
        let known = self.patience.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(base).copied().unwrap_or(self.least)
    }

    async fn cut_all(&self, bases: &[String]) -> Result<u64> {
        let mut made = 0;
        for base in bases {
            while !self.stop.load(Ordering::Relaxed) && self.cut(base).await? {
                made += 1;
            }
        }
        Ok(made)
    }

    /// Makes the next slab of a table, if it is due.
    async fn cut(&self, base: &str) -> Result<bool> {
        self.execute("begin").await?;
        let made = self.cut_within(base).await;
        match made {
            Ok(true) => self.execute("commit").await?,
            _ => self.execute("rollback").await?,
        }
        made
    }

    async fn cut_within(&self, base: &str) -> Result<bool> {
        // In the order in which a change of columns takes them.
        self.execute(&format!("lock table {} in access share mode", self.name(base, "_history"))).await?;
        let last = self.last(base).await?;
        let Some(next) = self.next(base, &last).await? else { return Ok(false) };
        self.fill(base, &last, &next).await?;
        Ok(true)
    }

    /// Where the last slab of a table ends, or its history begins.
    async fn last(&self, base: &str) -> Result<Last> {
        let sql = format!(
            "select slab, ends::text, up_to, alive from {} where base = $1 order by begins desc limit 1",
            self.registry()
        );
        if let Some(row) = self.ask(&sql, &[&base]).await? {
            return Ok(Last {
                slab: Some(row.get(0)),
                ends: row.get(1),
                up_to: row.get(2),
                alive: u64::try_from(row.get::<_, i64>(3)).unwrap_or(0),
            });
        }
        let sql = format!("select count(*) from {} where _version = 1", self.name(base, "_history"));
        let alive: i64 = self.ask(&sql, &[]).await?.map_or(0, |row| row.get(0));
        Ok(Last {
            slab: None,
            ends: "-infinity".to_owned(),
            up_to: PgLsn::from(0),
            alive: u64::try_from(alive).unwrap_or(0),
        })
    }

    /// Where the next slab ends, if enough rows have ended: the time, and the last position before it.
    async fn next(&self, base: &str, last: &Last) -> Result<Option<(String, PgLsn)>> {
        let history = self.name(base, "_history");
        let wanted = (last.alive.saturating_mul(ENDED_FOR_TWO_ALIVE) / 2).max(self.least);
        // A look takes longer the more rows there are.
        let patience = (wanted / 4).max(self.least);
        self.patience.lock().unwrap_or_else(PoisonError::into_inner).insert(base.to_owned(), patience);
        // The fact that ends the last of those rows: all facts of earlier times are there.
        let sql = format!(
            "select _valid_from::text, _lsn from {history} where _lsn > $1 and _version > 1 order by _lsn, _seq offset $2 limit 1"
        );
        let offset = i64::try_from(wanted - 1).unwrap_or(i64::MAX);
        let Some(row) = self.ask(&sql, &[&last.up_to, &offset]).await? else { return Ok(None) };
        let (ends, ending): (String, PgLsn) = (row.get(0), row.get(1));
        let before = format!(
            "select _lsn from {history} where _lsn > $1 and _lsn <= $2 and _valid_from < $3::text::timestamptz order by _lsn desc limit 1"
        );
        if let Some(row) = self.ask(&before, &[&last.up_to, &ending, &ends]).await? {
            return Ok(Some((ends, row.get(0))));
        }
        // All of them are of one moment: the slab ends with the next.
        let sql = format!(
            "select _valid_from::text, _lsn from {history} where _lsn > $1 and _valid_from > $2::text::timestamptz order by _lsn, _seq limit 1"
        );
        let Some(row) = self.ask(&sql, &[&ending, &ends]).await? else { return Ok(None) };
        let (ends, ending): (String, PgLsn) = (row.get(0), row.get(1));
        let row = self.ask(&before, &[&last.up_to, &ending, &ends]).await?;
        Ok(row.map(|row| (ends, row.get(0))))
    }

    /// Lays out the rows of the next slab, and says that it is there.
    async fn fill(&self, base: &str, last: &Last, (ends, up_to): &(String, PgLsn)) -> Result<()> {
        let (history, slabs, registry) =
            (self.name(base, "_history"), self.name(base, "_slabs"), self.registry());
        let columns = self.columns(base).await?;
        let names = |prefix: &str| {
            let all = FROM_HISTORY.iter().map(|name| (*name).to_owned()).chain(columns.iter().cloned());
            all.map(|name| format!("{prefix}{}", quote_identifier(&name))).collect::<Vec<_>>().join(", ")
        };
        let number = format!("select nextval(pg_get_serial_sequence({}, 'slab'))", quote_literal(&registry));
        let slab: i64 = self.ask(&number, &[]).await?.map_or(0, |row| row.get(0));
        // The rows alive before. None are, before the first.
        let carried = last.slab.map_or_else(String::new, |last| {
            format!(
                "select {BEGAN} as at, false as gone, {} from {slabs} p where p.{SLAB} = {last} and p.{ENDED} is null union all ",
                names("p.")
            )
        });
        let fill = format!(
            "insert into {slabs} ({SLAB}, {BEGAN}, {ENDED}, {}) select {slab}, at, ended, {} from (select x.*, lead(at) over (partition by \
             _entity_id order by _version) as ended from ({carried}select h._valid_from as at, h._deleted_at is not null as gone, {} from \
             {history} h where h._lsn > '{}' and h._lsn <= '{up_to}') x) y where not gone",
            names(""),
            names("y."),
            names("h."),
            last.up_to
        );
        self.execute(&fill).await?;
        let note = format!(
            "insert into {registry} (slab, base, begins, ends, up_to, alive) select $1, $2, $3::text::timestamptz, $4::text::timestamptz, $5, \
             count(*) from {slabs} where {SLAB} = $1 and {ENDED} is null"
        );
        let noted = self.client.execute(&note, &[&slab, &base, &last.ends, ends, up_to]).await;
        noted.map_err(|error| told(DOING, &error))?;
        let index = format!("{}.{}", quote_identifier(&self.schema), slab_index(&format!("{base}_slabs")));
        let summarize =
            format!("select brin_summarize_new_values({}); analyze {slabs}", quote_literal(&index));
        self.execute(&summarize).await?;
        tracing::debug!(table = base, slab, until = ends, "a slab was made");
        Ok(())
    }

    /// A table of a captured table.
    fn name(&self, base: &str, suffix: &str) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&format!("{base}{suffix}")))
    }

    /// What says which slabs there are.
    fn registry(&self) -> String {
        format!("{}.slabs", quote_identifier(&self.schema))
    }

    async fn ask(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>> {
        self.client.query_opt(sql, parameters).await.map_err(|error| told(DOING, &error))
    }

    /// The user's columns, as the slabs have them.
    async fn columns(&self, base: &str) -> Result<Vec<String>> {
        let sql = "select a.attname::text from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = \
             c.relnamespace where n.nspname = $1 and c.relname = $2 and a.attnum > 0 and not a.attisdropped order by a.attnum";
        let rows = self
            .client
            .query(sql, &[&self.schema, &format!("{base}_slabs")])
            .await
            .map_err(|error| told("reading the target's catalog", &error))?;
        let names = rows.iter().map(|row| row.get::<_, String>(0));
        let own = |name: &String| {
            ![SLAB, BEGAN, ENDED].contains(&name.as_str()) && !FROM_HISTORY.contains(&name.as_str())
        };
        Ok(names.filter(own).collect())
    }

    async fn execute(&self, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).await.map_err(|error| told(DOING, &error))
    }
}
