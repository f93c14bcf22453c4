//! Tables without a snapshot get one: at the slot's own consistent point, or at that of a temporary slot [4].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bygone_replication::Lsn;
use bygone_replication::catalog;
use bygone_replication::session;
use bygone_replication::table::{Table, TableKind};
use bygone_replication::wire::{Connection, Mode};
use bygone_sink::fact::Origin;
use bygone_sink::log::{Event, EventKind};
use bygone_sink::versioning;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::attach::{Exported, export_within, temporary_slot, unreadable};
use super::pipeline::{Pipeline, Rest, Until};
use super::snapshot::{self, Copied, CopySettings, Missed, Outcome, Wanted};
use super::source::restrict;
use super::{Capture, gap};
use crate::error::{Error, Result};
use crate::metrics::Metrics;

/// A table that cannot be copied at so many points is copied beside the stream, which does not wait for it.
const ATTEMPTS: usize = 3;
/// How long the stream waits, at a start, for transactions that keep tables from being copied first.
const PATIENCE: Duration = Duration::from_secs(10);
/// Copied tables are committed together, so that thousands of small ones do not make thousands of commits.
const COMMIT_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked at what the slot holds meanwhile.
const WATCH_EVERY: Duration = Duration::from_secs(1);

impl Capture {
    /// Copies the tables whose snapshot is not in the log.
    pub(super) async fn copy_missing(&mut self) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let missing = self.pipeline()?.follower.registry.to_copy_first();
            if missing.is_empty() {
                return Ok(());
            }
            if self.options.discard {
                return Err(Error::other(
                    "--discard measures the stream: let an ordinary run take the snapshot first",
                ));
            }
            let (exported, missing) = match self.exported.take() {
                Some(exported) => (exported, missing),
                None => match self.begin_beside_stream(missing).await? {
                    Some(begun) => begun,
                    None => {
                        tracing::info!("tables without a first copy are copied beside the stream");
                        return Ok(());
                    }
                },
            };
            self.copy_at(&exported, &missing).await?;
            exported.connection.close().await;
        }
        let left = self.pipeline()?.follower.registry.to_copy_first().len();
        if left > 0 {
            tracing::warn!(
                tables = left,
                "tables that could not be copied first are copied beside the stream"
            );
        }
        Ok(())
    }

    /// A point for tables to be copied at, with those of them that can be read; none where there are none, or no point comes about.
    async fn begin_beside_stream(&mut self, missing: Vec<usize>) -> Result<Option<(Exported, Vec<usize>)>> {
        let readable = self.readable(missing).await?;
        if readable.is_empty() {
            return Ok(None);
        }
        Ok(self.point_beside_stream().await?.map(|exported| (exported, readable)))
    }

    /// Leaves out what is gone, and what the role cannot read whole: it is tried again beside the stream.
    async fn readable(&mut self, mut missing: Vec<usize>) -> Result<Vec<usize>> {
        let sql = session::connect_sql(&self.connect).await?;
        let registry = &self.pipeline()?.follower.registry;
        let oid_of = |index: usize| registry.tables().get(index).map(|table| table.schema().oid);
        let mut oids: Vec<u32> = missing.iter().filter_map(|index| oid_of(*index)).collect();
        oids.extend(registry.leaves_of(&missing));
        let tables = catalog::load_tables_by_oid(&sql, &oids).await?;
        let is_there = |oid: u32| tables.iter().any(|table| table.oid == oid);
        missing.retain(|index| oid_of(*index).is_some_and(is_there));
        if let Some((error, hidden)) = unreadable(&sql, &tables).await? {
            tracing::warn!(%error, "the others are copied");
            missing.retain(|index| oid_of(*index).is_none_or(|oid| !hidden.contains(&oid)));
        }
        Ok(missing)
    }

    /// Makes a point for tables to be copied at, and has the stream come to it: facts are committed in the order of their positions.
    /// None where transactions that began before do not let it come about soon, or something is lost before it.
    async fn point_beside_stream(&mut self) -> Result<Option<Exported>> {
        let sql = session::connect_sql(&self.connect).await?;
        let connection = Connection::connect(&self.connect, Mode::Replication).await?;
        let version = connection.server_version();
        let name = temporary_slot(&self.wanted.slot);
        let made = export_within(&sql, connection, &name, version, true, &self.stop, Some(PATIENCE)).await?;
        let Some(mut exported) = made else {
            tracing::warn!(
                "transactions that began before are still open: the stream goes on, and what they keep from being copied is copied \
                 once they have ended"
            );
            return Ok(None);
        };
        let pipeline = self.pipeline()?;
        exported.point = pipeline.axis.of_history(exported.point);
        // The time axis never goes back: the copy is of no earlier moment than what is there already.
        exported.at = exported.at.max(pipeline.high_water.unwrap_or(i64::MIN));
        pipeline.ceiling = Some(exported.at);
        let rest = self.stream(Until::Exactly(exported.point)).await;
        self.pipeline()?.ceiling = None;
        match rest {
            Ok(Rest::Reached) => Ok(Some(exported)),
            Ok(Rest::Stopped) => Err(Error::Stopped),
            // What leads over it is the stream's affair, and the copies come after that.
            Err(error @ Error::Refused(_)) if gap::is_loss(&error) => {
                tracing::debug!(%error, "the stream did not come to the place of a copy");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Copies tables at a consistent point, where the stream stands. Those that are done are committed, whatever becomes of the others.
    async fn copy_at(&mut self, exported: &Exported, missing: &[usize]) -> Result<()> {
        let sql = session::connect_sql(&self.connect).await?;
        let block_size = catalog::server_info(&sql).await?.block_size;
        let wanted = self.wanted_tables(&sql, missing).await?;
        let settings = CopySettings {
            options: self.connect.clone(),
            snapshot_name: exported.name.clone(),
            taken: exported.taken,
            origin: Origin {
                lsn: exported.point,
                xid: 0,
                committed_at: exported.at,
                valid_from: exported.at,
            },
            workers: self.options.snapshot_workers,
            block_size,
            limits: self.memory.encoder,
            stop: Arc::clone(&self.stop),
            aside: false,
            hash_key: self.options.column_rules.hash_key().cloned(),
        };
        let state = Arc::clone(&self.pipeline()?.committer.state);
        let (done, outcomes) = mpsc::channel(64);
        let store = self.store.clone();
        let numbers = Arc::clone(&self.numbers);
        let copying =
            tokio::spawn(
                async move { snapshot::copy(&settings, &store, &state, &numbers, wanted, done).await },
            );
        let ready = match self.commit_as_done(exported, outcomes).await {
            Ok(ready) => ready,
            Err(error) => {
                copying.abort();
                // Whether or not it is bridged: a slot made anew would hold no less by the end of the next copy.
                if gap::is_loss(&error) {
                    self.give_up(&error).await?;
                }
                return Err(error);
            }
        };
        let copied = copying
            .await
            .unwrap_or_else(|error| Err(Error::other(format!("the snapshot has failed: {error}"))));
        copied.and(self.commit_copied(exported.point, exported.at, ready).await)?;
        self.follow_log();
        Ok(())
    }

    /// Takes tables as they are done, and commits them from time to time; gives those of since the last commit.
    ///
    /// # Errors
    /// [`Error::SlotLag`] as soon as the source keeps more WAL for the slot than it may: copying takes nothing from there.
    async fn commit_as_done(
        &mut self,
        exported: &Exported,
        mut outcomes: mpsc::Receiver<Outcome>,
    ) -> Result<Vec<Copied>> {
        let bound = self.slot_bound();
        let mut ready = Vec::new();
        let mut due = tokio::time::interval_at(tokio::time::Instant::now() + COMMIT_EVERY, COMMIT_EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = tokio::time::interval(WATCH_EVERY);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                outcome = outcomes.recv() => match outcome {
                    Some(Outcome::Copied(copied)) => ready.push(*copied),
                    Some(Outcome::Missed { index, why }) => self.tell_missed(index, why)?,
                    None => return Ok(ready),
                },
                // A table that takes an hour keeps those that took a second from being lost no longer than this.
                _ = due.tick() => {
                    self.commit_copied(exported.point, exported.at, std::mem::take(&mut ready)).await?;
                }
                _ = watch.tick() => bound.check()?,
            }
        }
    }

    fn slot_bound(&self) -> SlotBound {
        let (metrics, slot) = (Arc::clone(&self.metrics), self.wanted.slot.clone());
        SlotBound { metrics, slot, limit: self.options.max_slot_lag }
    }

    fn tell_missed(&mut self, index: usize, why: Missed) -> Result<()> {
        let table = self.pipeline()?.follower.registry.tables().get(index);
        let table = table.map(|table| table.schema().log_name.clone());
        tracing::warn!(table, "could not be copied: {why}; it is copied once more");
        Ok(())
    }

    /// The tables as the catalog has them now, with the parts that hold their rows.
    async fn wanted_tables(
        &mut self,
        sql: &tokio_postgres::Client,
        missing: &[usize],
    ) -> Result<Vec<Wanted>> {
        let registry = &self.pipeline()?.follower.registry;
        let known = missing.iter().filter_map(|index| Some(registry.tables().get(*index)?.schema().oid));
        let mut oids: Vec<u32> = known.collect();
        oids.extend(registry.leaves_of(missing));
        let mut tables: Vec<Table> = catalog::load_tables_by_oid(sql, &oids).await?;
        restrict(sql, &self.options.publications, &mut tables).await?;
        let pipeline = self.pipeline()?;
        let mut roots = Vec::with_capacity(missing.len());
        for index in missing {
            let of = |pipeline: &Pipeline| {
                Some(Arc::clone(pipeline.follower.registry.tables().get(*index)?.schema()))
            };
            let Some(before) = of(pipeline) else { continue };
            // One that was dropped is noticed by the watcher: that it had no rows is not said.
            let Some(now) = tables.iter().find(|table| table.oid == before.oid) else { continue };
            // Copied is by the names that columns have now, whatever they were called when the table was first seen [30].
            let here = pipeline.position;
            pipeline.columns(*index, now, false, Lsn(u64::MAX), [here, here])?;
            roots.extend(of(pipeline).map(|schema| (*index, schema.oid, schema)));
        }
        Ok(roots
            .into_iter()
            .map(|(index, oid, schema)| {
                let parts = tables
                    .iter()
                    .filter(|table| match table.kind {
                        TableKind::Ordinary => table.oid == oid,
                        TableKind::Leaf { root } => root == oid,
                        TableKind::Partitioned => false,
                    })
                    .cloned()
                    .collect();
                Wanted { index, schema, parts }
            })
            .collect())
    }

    /// Commits copied tables, and has state know their rows.
    async fn commit_copied(&mut self, point: Lsn, at: i64, copied: Vec<Copied>) -> Result<()> {
        if copied.is_empty() {
            return Ok(());
        }
        let numbers = Arc::clone(&self.numbers);
        let store = self.store.clone();
        let bound = self.slot_bound();
        let pipeline = self.pipeline()?;
        let mut said = pipeline.said_nothing();
        said.from = pipeline.covered;
        said.to = point;
        said.server_time = said.server_time.max(Some(at));
        said.high_water = said.high_water.max(Some(at));
        let mut files = Vec::new();
        let mut loaders = Vec::new();
        let mut without_key = std::collections::HashMap::new();
        for table in copied {
            let Some(captured) = pipeline.follower.registry.tables().get(table.index) else { continue };
            let name = captured.schema().log_name.clone();
            if table.loader.is_none() {
                without_key.insert(name.clone(), captured.versions.clone());
            }
            tracing::info!(table = name, rows = table.rows, "snapshot");
            said.events.push(Event::at(EventKind::Snapshot, Some(name), point).with("rows", table.rows));
            files.extend(table.files);
            loaders.extend(table.loader);
            pipeline.follower.registry.snapshot_done(table.index, point);
            pipeline.follower.versioner.set_start(table.index, point);
        }
        said.schemas = std::mem::take(&mut pipeline.follower.registry.new_schemas);
        said.events.extend(std::mem::take(&mut pipeline.follower.registry.new_events));
        pipeline.high_water = said.high_water;
        pipeline.server_time = said.server_time;
        pipeline.told = said.told();
        let began = Instant::now();
        let (durable, known) = (said.axis.of_source(point), said.high_water);
        let mut log = pipeline.committer.log.lock().await;
        let appended = log.append(said.body(&files)).await?;
        let seq = appended.seq();
        if let Some(alone) = &pipeline.committer.alone {
            tokio::select! {
                delivered = alone.deliver() => delivered?,
                error = bound.broken() => return Err(error),
            }
        }
        pipeline.metrics.committed(seq, durable, known, &files, began.elapsed());
        numbers.start(seq + 1);
        let state = Arc::clone(&pipeline.committer.state);
        state.commit_is(seq, appended.hash().to_string());
        let installed = tokio::task::spawn_blocking(move || {
            loaders.into_iter().try_for_each(bygone_sink::state::BulkLoader::install)
        });
        installed
            .await
            .map_err(|error| Error::other(format!("loading state: {error}")))?
            .map_err(bygone_sink::error::Error::from)?;
        if without_key.is_empty() {
            let nothing = std::iter::empty::<(u32, Vec<u8>, Option<Vec<u8>>)>();
            state.apply(seq, nothing, true).map_err(bygone_sink::error::Error::from)?;
        } else {
            versioning::catch_up(&state, &store, None, log.state(), &without_key).await?;
        }
        drop(log);
        pipeline.committer.clear(seq).await?;
        pipeline.hear(appended.passed());
        pipeline.next_seq = seq + 1;
        pipeline.covered = point;
        pipeline.position = pipeline.position.max(point);
        pipeline.durable = point;
        Ok(())
    }
}

/// What the source may keep for the slot. The watcher measures it; nobody takes its looks while tables are copied.
struct SlotBound {
    metrics: Arc<Metrics>,
    slot: String,
    limit: Option<u64>,
}

impl SlotBound {
    fn check(&self) -> Result<()> {
        let held = u64::try_from(self.metrics.slot_held.load(Ordering::Relaxed)).unwrap_or_default();
        match self.limit.filter(|limit| held > *limit) {
            Some(limit) => Err(Error::SlotLag { slot: self.slot.clone(), held, limit }),
            None => Ok(()),
        }
    }

    /// Comes back once it keeps more.
    async fn broken(&self) -> Error {
        loop {
            if let Err(error) = self.check() {
                return error;
            }
            tokio::time::sleep(WATCH_EVERY).await;
        }
    }
}
