//! `bygone run`: from the source to the history.

mod assembler;
mod attach;
mod axis;
mod column_rules;
mod commit;
mod evolve;
mod first_copy;
mod gap;
mod join;
mod notice;
mod pipeline;
mod progress;
mod registry;
mod relations;
mod retention;
mod shadow;
mod snapshot;
mod source;
pub(crate) mod trial;
mod wal_held;
mod watcher;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bygone_replication::backoff::Backoff;
use bygone_replication::catalog::CatalogError;
use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::pattern::Patterns;
use bygone_replication::preflight::StartRefused;
use bygone_replication::{Lsn, Policy, publication, slot};
use bygone_sink::compaction;
use bygone_sink::encoder::{Encoder, EncoderLimits, FileNumbers};
use bygone_sink::error::ErrorKind as SinkErrorKind;
use bygone_sink::failpoint;
use bygone_sink::log::path::TRANSACTIONS;
use bygone_sink::log::{LogState, Manifest};
use bygone_sink::store::{Location, Store, StoreOptions};
use bygone_sink::versioning::Versioner;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::cli::OnGap;
use crate::compact::{Background, DerivedPolicy};
use crate::delta;
use crate::error::{Error, Result};
use crate::facts;
use crate::follower;
use crate::live::Live;
use crate::metrics::{self, Metrics};
use assembler::Assembler;
use attach::Attached;
use axis::Axis;
pub(crate) use column_rules::{ColumnRules, read_hash_key};
use commit::{Committer, Told};
use pipeline::{CutAt, Pipeline, Rest, Until};
pub(crate) use registry::Registry;
use relations::Follower;
pub(crate) use retention::Retention;
use source::CatalogReader;
use wal_held::WalHeld;
use watcher::{Shared, Watcher};

/// For how long a slot that another process reads is tried before that is an error: the server may need a moment to notice
/// that an earlier bygone was killed.
const ACTIVE_SLOT_PATIENCE: Duration = Duration::from_secs(20);
/// Between two such tries.
const ACTIVE_SLOT_PAUSE: Duration = Duration::from_secs(1);

/// Empty commits that tidying may make, at most: files of a writer that died are numbered for a commit or two after the log's last.
const EMPTY_COMMITS: usize = 3;

/// How long attaching may take to come to its end after a signal.
const STOPPING: Duration = Duration::from_secs(3);

/// What `bygone run` was asked to do.
#[derive(Clone, Debug)]
pub(crate) struct RunOptions {
    pub(crate) source: String,
    /// What prints its password.
    pub(crate) password_command: Option<String>,
    /// Where the history is kept; none where its facts are kept in tables alone.
    pub(crate) history: Option<String>,
    pub(crate) tables: Vec<String>,
    /// Where fact tables are kept.
    pub(crate) facts: Option<facts::Target>,
    /// The Delta Lake view is kept, too.
    pub(crate) delta: bool,
    pub(crate) name: String,
    pub(crate) slot: Option<String>,
    pub(crate) publications: Vec<String>,
    pub(crate) accept_partial: bool,
    /// Which columns are left out, hashed, or not watched.
    pub(crate) column_rules: ColumnRules,
    /// The retention classes of tables.
    pub(crate) retention: Retention,
    pub(crate) state: Option<PathBuf>,
    pub(crate) until_current: bool,
    pub(crate) commit_interval: Duration,
    pub(crate) catalog_interval: Duration,
    pub(crate) commit_bytes: u64,
    pub(crate) memory: u64,
    pub(crate) snapshot_workers: usize,
    pub(crate) discard: bool,
    /// What to do where changes are lost for good.
    pub(crate) on_gap: OnGap,
    /// Where metrics are shown.
    pub(crate) listen: Option<std::net::SocketAddr>,
    pub(crate) ready_within: u64,
    /// How often files are merged; never where none is given.
    pub(crate) compact_every: Option<Duration>,
    pub(crate) compaction: compaction::Policy,
    /// What is made from facts beside them.
    pub(crate) derived: DerivedPolicy,
    /// Bytes of WAL that the source may keep for the slot.
    pub(crate) max_slot_lag: Option<u64>,
    /// Go on with a source whose past is not the history's.
    pub(crate) accept_fork: bool,
    /// How long the source may say nothing.
    pub(crate) source_timeout: Duration,
    /// How long a bucket may not answer.
    pub(crate) store_timeout: Duration,
    /// Whoever begins this capture was told to stop.
    pub(crate) stopping: Option<Arc<AtomicBool>>,
}

/// How the memory that `--memory` allows is shared out.
///
/// The parts are bounds, and rarely all reached at once; what is left over goes to batches on their way between threads and
/// to the state's own buffers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Bytes of the stream that wait to be read.
    pub(crate) queue: usize,
    /// Bytes of one transaction before it waits in a file.
    pub(crate) transaction: usize,
    /// Bytes of changes that state has to be told, of one commit. Two can be there at once.
    pub(crate) changes: usize,
    pub(crate) encoder: EncoderLimits,
    pub(crate) state_cache: u64,
}

impl Memory {
    fn of(total: u64) -> Self {
        let part = |of_64: u64| usize::try_from(total / 64 * of_64).unwrap_or(usize::MAX);
        Self {
            queue: part(6),
            transaction: part(6),
            changes: part(10),
            encoder: EncoderLimits { file_bytes: part(8), open_bytes: part(12), pending_bytes: part(10) },
            state_cache: total / 64 * 8,
        }
    }
}

/// Runs until told to stop, or until current.
pub(crate) async fn run(mut options: RunOptions) -> Result<()> {
    failpoint::init()?;
    let connect = ConnectOptions::parse(&options.source)?
        .with_application_name("bygone")
        .with_silence(options.source_timeout)
        .with_password_command(options.password_command.as_deref());
    let store_options = StoreOptions { retry_for: options.store_timeout, ..StoreOptions::default() };
    let stop = Arc::new(AtomicBool::new(false));
    watch_signals(Arc::clone(&stop))?;
    // A signal that came just before was not for this one to hear.
    if options.stopping.as_ref().is_some_and(|stopping| stopping.load(Ordering::SeqCst)) {
        stop.store(true, Ordering::SeqCst);
    }
    let (place, alone) = match &options.history {
        Some(history) => {
            (follower::Place { location: Location::parse(history)?, options: store_options }, None)
        }
        None => {
            let alone = without_history(&mut options, store_options, &stop).await?;
            (alone.spool().clone(), Some(Arc::new(alone)))
        }
    };
    let store = place.open()?;
    let memory = Memory::of(options.memory);
    // Before anything that may take long: whoever watches over the process sees that it is alive, though not ready.
    let metrics = Arc::new(Metrics::default());
    if let Some(address) = options.listen {
        metrics::listen(address, Arc::clone(&metrics), options.ready_within)?;
    }
    let attaching = attach::attach(&options, &connect, &store, memory, alone.as_deref(), &stop);
    let attached = tokio::select! {
        attached = attaching => attached,
        // What takes long looks at the signal itself; this is for a source, or a command for its password, that does not answer.
        () = attach::stopped(&stop, STOPPING) => Err(Error::Stopped),
    };
    let attached = match attached {
        Err(Error::Stopped) if stop.load(Ordering::SeqCst) => {
            tracing::info!("stopped before anything was captured; the next start begins there");
            return Ok(());
        }
        attached => attached?,
    };
    if let Some(alone) = &alone {
        alone.deliver().await?;
    }
    let mut capture = Capture::new(options, connect, store, place, memory, stop, attached, metrics, alone)?;
    capture.bridge_first().await?;
    let copied = capture.copy_missing().await;
    let compacting = capture.compact_in_background().await?;
    let live = (!capture.options.until_current)
        .then(|| Live::start(&capture.options.name, Arc::clone(&capture.metrics)))
        .flatten();
    let streamed = match copied {
        Ok(()) => capture.stream(capture.target).await.map(drop),
        Err(error) => Err(error),
    };
    drop(live);
    if let Some(compacting) = compacting {
        compacting.finish().await;
    }
    let mut ended = match streamed {
        Ok(()) => capture.tidy().await,
        Err(error @ Error::Stopped) if capture.stop.load(Ordering::SeqCst) => {
            tracing::info!("{error}");
            capture.tidy().await
        }
        Err(error) => Err(error),
    };
    // Last, for tidying up may need a commit.
    for follower in std::mem::take(&mut capture.followers) {
        ended = ended.and(follower.finish().await);
    }
    ended
}

/// Whether a capture could go on with this history now: what it checks at each connect before its stream.
///
/// # Errors
/// [`Error::Refused`] with what stands in the way; [`Error::Source`] or [`Error::Catalog`] where the source cannot be asked.
pub(crate) async fn check_start(connect: &ConnectOptions, manifest: &Manifest, log: &LogState) -> Result<()> {
    let (Some(source), Some(recorded)) = (&log.source, attach::recorded(log)?) else { return Ok(()) };
    let system_id = source.system_id.parse();
    let system_id = system_id.map_err(|_| Error::other("the log's system identifier is damaged"))?;
    let wanted = source::Wanted {
        slot: manifest.slot.clone().unwrap_or_else(|| manifest.name.clone()),
        publications: manifest.publications.clone(),
    };
    let axis = Axis { offset: log.lsn_offset };
    let resume = axis.of_source(log.resume.unwrap_or(Lsn::ZERO));
    let captured = Registry::of_log(log)?.oids();
    let checked = source::connect(connect, &wanted, system_id, source.timeline, resume, &recorded, &captured);
    let ready = checked.await?;
    ready.connection.close().await;
    Ok(())
}

/// Prepares for a capture whose facts are kept in tables alone.
async fn without_history(
    options: &mut RunOptions,
    store_options: StoreOptions,
    stop: &Arc<AtomicBool>,
) -> Result<facts::Alone> {
    let target = options
        .facts
        .clone()
        .ok_or_else(|| Error::usage("give --history, --facts, or both: where is the history to be kept?"))?;
    let directory = match &options.state {
        Some(state) => state.join("spool"),
        None => state_directory(None, &target.file_name(&options.name))?,
    };
    // Files are only on their way there.
    options.delta = false;
    options.compact_every = None;
    facts::Alone::begin(target, directory, store_options, Arc::clone(stop)).await
}

/// Ends the process at once on the second signal; on the first, lets the commit that is being gathered come to its end.
fn watch_signals(stop: Arc<AtomicBool>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen =
        |kind| signal(kind).map_err(|error| Error::other(format!("cannot listen for signals: {error}")));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if stop.swap(true, Ordering::SeqCst) {
                tracing::warn!("stopped at once; what was not committed is read again at the next start");
                std::process::exit(130);
            }
            tracing::info!("stopping: the current commit is being finished (once more to stop at once)");
        }
    });
    Ok(())
}

/// A capture that is attached: everything between the source and the history.
struct Capture {
    options: RunOptions,
    connect: ConnectOptions,
    store: Store,
    memory: Memory,
    stop: Arc<AtomicBool>,
    wanted: source::Wanted,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    system_id: u64,
    numbers: Arc<FileNumbers>,
    pipeline: Option<Pipeline>,
    assembler: Option<Assembler>,
    /// The exported snapshot of the slot that was made just now, with the connection that keeps it.
    exported: Option<attach::Exported>,
    /// Where to stop by itself.
    target: Until,
    /// A stream or a copy came about: a connection that is lost from then on is made again.
    established: bool,
    /// Sinks that roll forward from the log.
    followers: Vec<follower::Follower>,
    /// Where the history is kept, for those who open a store of their own.
    place: follower::Place,
    /// A table came whose values have to be read as text.
    text_only: bool,
}

impl Capture {
    #[expect(clippy::too_many_arguments, reason = "one caller, which has all of it at hand")]
    fn new(
        options: RunOptions,
        connect: ConnectOptions,
        store: Store,
        place: follower::Place,
        memory: Memory,
        stop: Arc<AtomicBool>,
        attached: Attached,
        metrics: Arc<Metrics>,
        alone: Option<Arc<facts::Alone>>,
    ) -> Result<Self> {
        let Attached { log, state, registry, wanted, recorded, source, next_xid, exported, current, spool } =
            attached;
        let runtime = Handle::current();
        let next_seq = log.next_seq();
        let transactions = log.state().files().filter(|(_, file)| file.add.table == TRANSACTIONS);
        let last_transaction = transactions.map(|(_, file)| file.add.lsn[1]).max().unwrap_or(Lsn::ZERO);
        let resume = log.state().resume.unwrap_or(Lsn::ZERO);
        let axis = Axis { offset: log.state().lsn_offset };
        let numbers = Arc::new(FileNumbers::after(log.state()));
        let encoder = if options.discard {
            Encoder::discarding()
        } else {
            Encoder::start(store.clone(), Arc::clone(&numbers), memory.encoder, runtime.clone())?.0
        };
        let system_id =
            source.system_id.parse().map_err(|_| Error::other("the log's system identifier is damaged"))?;
        let mut versioner = Versioner::new(Arc::clone(&state), encoder.clone(), memory.changes)
            .with_hash_key(options.column_rules.hash_key().cloned());
        for table in registry.tables() {
            // Until its snapshot is in the log, nothing of a table is taken from the stream.
            versioner.add_table(&table.versions, table.snapshot.unwrap_or(Lsn(u64::MAX)));
        }
        let patterns = Patterns::parse(&options.tables).map_err(CatalogError::from)?;
        let shared = Shared::new(registry.oids(), registry.left_out(&patterns), recorded.clone());
        shared.set_held(log.state().catalog_seen.map_or(Lsn::ZERO, |seen| axis.of_source(seen)));
        let looks = if options.discard {
            None
        } else {
            Some(watcher(&options, &connect, &wanted, &shared, &metrics)?.start())
        };
        let copies = shadow::Settings {
            options: connect.clone(),
            slot: wanted.slot.clone(),
            workers: options.snapshot_workers,
            limits: memory.encoder,
            spill_bytes: memory.changes,
            directory: spool.clone(),
            made: options.publications.clone(),
            store: store.clone(),
            axis,
            rules: options.column_rules.clone(),
            keys: HashMap::new(),
            whole: false,
            shelf: Some(Arc::clone(state.shelf())),
        };
        let told = Told {
            server_time: log.state().server_time.map(|at| at.0),
            high_water: log.state().high_water.map(|at| at.0),
        };
        let pipeline = Pipeline {
            follower: Follower::new(versioner, registry),
            binary: false,
            looks,
            ahead: VecDeque::new(),
            noticed: None,
            noticed_at: log.state().catalog_seen.map_or(resume, |seen| seen.min(resume)),
            last_facts: Lsn::ZERO,
            last_transaction,
            witness: None,
            shared: Arc::clone(&shared),
            enums: BTreeMap::new(),
            published: recorded,
            publication: None,
            copies,
            shadow: None,
            copy_again: None,
            fruitless: Backoff::default(),
            verdict: None,
            encoder,
            epoch: log.state().epoch,
            axis,
            high_water: told.high_water,
            server_time: told.server_time,
            told,
            committer: Committer {
                log: Arc::new(Mutex::new(log)),
                state,
                runtime: runtime.clone(),
                metrics: Arc::clone(&metrics),
                alone,
            },
            metrics: Arc::clone(&metrics),
            gauged: None,
            catalog: CatalogReader::new(
                connect.clone(),
                runtime.clone(),
                options.publications.clone(),
                Arc::clone(&stop),
            ),
            runtime,
            cut_at: CutAt {
                age: options.commit_interval,
                bytes: options.commit_bytes,
                pending: memory.changes,
            },
            source,
            position: resume,
            durable: resume,
            covered: resume,
            next_seq,
            next_xid,
            until: Until::Stopped,
            ceiling: None,
            commit_wanted: false,
            uncommitted: 0,
            oldest: None,
            last_cut: Instant::now(),
            pending: None,
            forsaken: false,
            passed: false,
            facts: 0,
            transactions: 0,
            discard: options.discard,
        };
        metrics.resumed(next_seq);
        let target =
            if options.until_current { Until::Reached(axis.of_history(current)) } else { Until::Stopped };
        let assembler = Assembler::new(&spool, memory.transaction, Arc::clone(&metrics));
        Ok(Self {
            options,
            connect,
            store,
            memory,
            stop,
            wanted,
            shared,
            metrics,
            system_id,
            numbers,
            pipeline: Some(pipeline),
            assembler: Some(assembler),
            exported,
            target,
            established: false,
            followers: Vec::new(),
            place,
            text_only: false,
        })
    }

    /// Has small files merged while the stream is followed.
    async fn compact_in_background(&mut self) -> Result<Option<Background>> {
        let Some(every) = self.options.compact_every.filter(|_| self.target == Until::Stopped) else {
            return Ok(None);
        };
        let log = Arc::clone(&self.pipeline()?.committer.log);
        let state = log.lock().await.state().clone();
        let RunOptions { compaction, derived, .. } = &self.options;
        Background::start(self.place.clone(), state, *compaction, *derived, every).map(Some)
    }

    /// Has other sinks follow the log, now that it is sure that this capture goes on with it.
    fn follow_log(&mut self) {
        if std::mem::replace(&mut self.established, true) {
            return;
        }
        if let Some(target) = self.options.facts.clone().filter(|_| self.options.history.is_some()) {
            self.followers.push(follower::Follower::start(target, self.place.clone(), &self.metrics));
        }
        if self.options.delta {
            self.followers.push(follower::Follower::start(delta::View, self.place.clone(), &self.metrics));
        }
    }

    fn pipeline(&mut self) -> Result<&mut Pipeline> {
        self.pipeline
            .as_mut()
            .ok_or_else(|| Error::other("the stream's thread has failed: see the error before"))
    }

    /// Follows the stream, through lost connections, until told to stop or as `until` says.
    async fn stream(&mut self, until: Until) -> Result<Rest> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let mut refused_since: Option<Instant> = None;
        loop {
            let before = self.pipeline()?.position;
            let error = match self.stream_once(until).await {
                Ok(rest) => return Ok(rest),
                Err(error) => error,
            };
            if self.stop.load(Ordering::SeqCst) {
                if error.policy() == Policy::Retry {
                    tracing::info!(%error, "stopped; what was not committed yet is read again at the next start");
                    return Ok(Rest::Stopped);
                }
                return Err(error);
            }
            self.check_fence(&error).await?;
            if self.bridge(&error, until).await? {
                continue;
            }
            if matches!(error, Error::TextNeeded) {
                self.text_only = true;
                tracing::info!(
                    "asking for the stream as text: a table came that cannot be read in binary form"
                );
                continue;
            }
            let lags = matches!(error, Error::Refused(StartRefused::StandbyBehind { .. }));
            let in_use = matches!(error, Error::Refused(_)) && !lags;
            refused_since = refused_since.filter(|_| in_use).or_else(|| in_use.then(Instant::now));
            let waited = refused_since.map_or(Duration::ZERO, |since| since.elapsed());
            if (error.policy() == Policy::Stop && !error.is_undefined())
                || (in_use && waited > ACTIVE_SLOT_PATIENCE)
                || (!self.established && !in_use && !lags)
            {
                return Err(error);
            }
            if self.pipeline()?.position > before {
                backoff.reset();
            }
            let pause = if in_use { ACTIVE_SLOT_PAUSE } else { backoff.next_pause() };
            self.metrics.reconnects.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(error = %error, pause = pause.as_secs_f64(), "connecting again");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = attach::stopped(&self.stop, Duration::ZERO) => return Ok(Rest::Stopped),
            }
        }
    }

    /// Fails where another writer has gone on with the history while this one was away from the source: that it did is
    /// the reason for what the slot looks like by now.
    async fn check_fence(&mut self, error: &Error) -> Result<()> {
        if !matches!(error, Error::Source(_) | Error::Refused(_)) {
            return Ok(());
        }
        let log = Arc::clone(&self.pipeline()?.committer.log);
        match log.lock().await.check_fence().await {
            Err(fenced) if fenced.kind() == SinkErrorKind::Fenced => Err(fenced.into()),
            // A store that does not answer is the next commit's affair.
            _ => Ok(()),
        }
    }

    /// Connects, where nothing is lost by going on at a position of the source.
    async fn connect_at(&self, position: Lsn, timeline: u32) -> Result<source::Ready> {
        let (recorded, captured) = (self.shared.recorded(), self.shared.kept());
        let (connect, wanted) = (&self.connect, &self.wanted);
        source::connect(connect, wanted, self.system_id, timeline, position, &recorded, &captured).await
    }

    /// Connects once, and follows the stream for as long as the connection lasts.
    async fn stream_once(&mut self, until: Until) -> Result<Rest> {
        let (position, timeline) = {
            let pipeline = self.pipeline()?;
            pipeline.until = until;
            pipeline.passed = false;
            (pipeline.axis.of_source(pipeline.position), pipeline.source.timeline)
        };
        let ready = self.connect_at(position, timeline).await?;
        let text_only = self.text_only;
        let pipeline = self.pipeline()?;
        let binary = !text_only && pipeline.follower.registry.reads_binary();
        pipeline.binary = binary;
        let begin = pipeline.begin_at(ready.confirmed);
        let command = slot::start_command(&self.wanted.slot, begin, &self.wanted.publications, binary);
        let stream_options = bygone_replication::stream::StreamOptions {
            queue_bytes: self.memory.queue,
            silence: self.options.source_timeout,
            ..Default::default()
        };
        let (mut stream, feedback) =
            ready.connection.start_replication_with(&command, &stream_options).await?;
        tracing::info!(from = %position, slot = self.wanted.slot, binary, "streaming");
        self.follow_log();
        self.metrics.streaming.store(true, Ordering::Relaxed);
        let (Some(mut pipeline), Some(mut assembler)) = (self.pipeline.take(), self.assembler.take()) else {
            return Err(Error::other("the stream's thread has failed: see the error before"));
        };
        pipeline.source.timeline = ready.timeline;
        pipeline.next_xid = pipeline.next_xid.max(ready.next_xid);
        pipeline.catalog.adopt(ready.sql);
        if let Some(alone) = &pipeline.committer.alone {
            alone.deliver().await?;
        }
        if pipeline.witness.is_none() {
            feedback.set_flushed(pipeline.axis.of_source(pipeline.durable));
        }
        let stop = Arc::clone(&self.stop);
        let followed = tokio::task::spawn_blocking(move || {
            let mut result = pipeline.follow(&mut stream, &feedback, &mut assembler, &stop);
            if let Err(error) = &result {
                // What is on its way is waited for: its outcome decides where the stream goes on, if it does.
                let since = matches!(error, Error::SlotLag { .. }).then(Instant::now);
                if let Err(failed) = pipeline.settle_since(since, &feedback) {
                    tracing::debug!(%error, "the stream was left, and then the commit on its way failed");
                    result = Err(failed);
                }
            }
            (pipeline, assembler, feedback, result)
        });
        let (pipeline, assembler, feedback, result) = followed
            .await
            .map_err(|error| Error::other(format!("the stream's thread has failed: {error}")))?;
        self.metrics.streaming.store(false, Ordering::Relaxed);
        self.pipeline = Some(pipeline);
        self.assembler = Some(assembler);
        match &result {
            Ok(_) => {
                if let Err(error) = feedback.shutdown().await {
                    tracing::debug!(error = %error, "the stream did not end in good order");
                }
            }
            Err(_) => drop(feedback),
        }
        result
    }

    /// Removes what earlier writers left without a commit.
    async fn tidy(&mut self) -> Result<()> {
        if self.options.discard {
            return Ok(());
        }
        let said = {
            let pipeline = self.pipeline()?;
            pipeline.said_nothing()
        };
        let log = Arc::clone(&self.pipeline()?.committer.log);
        let mut log = log.lock().await;
        let mut orphans = log.remove_orphans().await?;
        let mut tries = 0;
        // A writer that died had perhaps begun files for a commit or two after the last that is there; and before a commit of
        // our own nothing proves that no other writer is about to name what lies around.
        while attach::has_orphans(&log).await? && orphans.kept == 0 && tries < EMPTY_COMMITS {
            let appended = log.append(said.clone().body(&[])).await?;
            tracing::debug!(seq = appended.seq(), "an empty commit, to remove what an earlier writer left");
            let more = log.remove_orphans().await?;
            orphans.removed += more.removed;
            orphans.kept += more.kept;
            tries += 1;
        }
        if orphans.removed + orphans.kept > 0 {
            tracing::info!(removed = orphans.removed, kept = orphans.kept, "removed what no commit names");
        }
        let last = log.state().last_seq();
        drop(log);
        match (self.pipeline()?.committer.alone.clone(), last) {
            (Some(alone), Some(last)) => {
                alone.deliver().await?;
                self.pipeline()?.committer.clear(last).await
            }
            _ => Ok(()),
        }
    }
}

/// Whoever watches the catalog for a capture.
fn watcher(
    options: &RunOptions,
    connect: &ConnectOptions,
    wanted: &source::Wanted,
    shared: &Arc<Shared>,
    metrics: &Arc<Metrics>,
) -> Result<Watcher> {
    let names = publication::Names::new(&options.name)?;
    Ok(Watcher {
        options: connect.clone(),
        patterns: Patterns::parse(&options.tables).map_err(CatalogError::from)?,
        publications: wanted.publications.clone(),
        own: options.publications.is_empty().then_some(names),
        shared: Arc::clone(shared),
        every: options.catalog_interval,
        held: WalHeld::new(wanted.slot.clone(), options.max_slot_lag, Arc::clone(metrics)),
        patience: options.source_timeout,
        ends: options.until_current,
        quiet_until: None,
        refused: HashSet::new(),
        unpublished: HashMap::new(),
    })
}

/// The directory for state, by the history's id.
fn state_directory(given: Option<&Path>, history_id: &str) -> Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let base = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state")))
        .ok_or_else(|| Error::other("there is no HOME to keep state in: give --state a directory"))?;
    Ok(base.join("bygone").join(history_id))
}
