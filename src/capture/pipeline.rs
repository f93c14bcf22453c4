//! From the stream to commits: the thread that follows the source.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bygone_replication::Lsn;
use bygone_replication::backoff::Backoff;
use bygone_replication::catalog::widen_xid;
use bygone_replication::ddl;
use bygone_replication::pgoutput::Message;
use bygone_replication::preflight::StartRefused;
use bygone_replication::publication::PublicationState;
use bygone_replication::stream::{Feedback, WalStream};
use bygone_sink::encoder::Encoder;
use bygone_sink::fact::Origin;
use bygone_sink::failpoint;
use bygone_sink::log::{Event, EventKind, Source};
use tokio::runtime::Handle;

use super::assembler::{Assembled, Assembler, Transaction};
use super::axis::Axis;
use super::commit::{Committer, Durable, Pending, Progress, Said, Told};
use super::registry::Known;
use super::relations::{Follower, Place};
use super::shadow::{self, Shadow};
use super::source::CatalogReader;
use super::watcher::{Look, Looks, Shared};
use crate::error::{Error, Result};
use crate::metrics::Metrics;

/// An idle source gets an empty commit so rarely that the log does not grow by it, and so often that the source can throw
/// away WAL [6].
const IDLE_COMMIT_EVERY: Duration = Duration::from_secs(300);
const IDLE_COMMIT_WAL: u64 = 64 << 20;
/// A server that shuts down asks again and again for what it has sent to be acknowledged.
const ASKED_COMMIT_EVERY: Duration = Duration::from_secs(1);
/// The prefix of messages that ask for a commit, with `pg_logical_emit_message(true, 'bygone.commit', '')`.
pub(crate) const COMMIT_PREFIX: &str = "bygone.commit";
/// How long the thread may sleep without looking at its commit and at signals.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a commit is waited for once the source keeps more WAL than it may.
const FORSAKEN_AFTER: Duration = Duration::from_secs(10);
/// A commit time this far ahead of the server's clock comes from elsewhere [11].
const CLOCK_SLACK_US: i64 = 1_000_000;

/// When commits are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CutAt {
    pub(crate) age: Duration,
    /// Bytes of encoded files.
    pub(crate) bytes: u64,
    /// Bytes of changes that state has to be told.
    pub(crate) pending: usize,
}

/// Where to stop by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Only when told to.
    Stopped,
    /// Once everything up to here is durable. More may be.
    Reached(Lsn),
    /// Exactly here: no transaction that ends later is taken.
    Exactly(Lsn),
}

/// Why the thread came to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It was told to stop, and everything received is durable.
    Stopped,
    /// It has reached what [`Until`] says, and that is durable.
    Reached,
}

/// What the thread works with.
pub(crate) struct Pipeline {
    /// The captured tables, and what makes facts of their changes.
    pub(crate) follower: Follower,
    pub(crate) encoder: Encoder,
    pub(crate) committer: Committer,
    pub(crate) catalog: CatalogReader,
    /// Runs what is asynchronous.
    pub(crate) runtime: Handle,
    /// When a commit is cut.
    pub(crate) cut_at: CutAt,
    /// The database, as the next commit names it.
    pub(crate) source: Source,
    /// How many forks there were.
    pub(crate) epoch: u32,
    /// How positions of the source and of the history relate.
    pub(crate) axis: Axis,
    pub(crate) metrics: Arc<Metrics>,
    /// When the metrics were last told of tables.
    pub(crate) gauged: Option<Instant>,
    /// Everything that ends here or before has been taken.
    pub(crate) position: Lsn,
    /// The `resume` of the last durable commit.
    pub(crate) durable: Lsn,
    /// Where the next commit begins.
    pub(crate) covered: Lsn,
    /// The number of the next commit: files are named after it.
    pub(crate) next_seq: u64,
    /// The latest `_valid_from` so far.
    pub(crate) high_water: Option<i64>,
    /// The source's clock at the latest message.
    pub(crate) server_time: Option<i64>,
    /// What the last commit says of both, or the one on its way.
    pub(crate) told: Told,
    /// By which 32 bits of a transaction id are widened to 64 [10].
    pub(crate) next_xid: u64,
    /// Where to stop.
    pub(crate) until: Until,
    /// No `_valid_from` is later than this, while facts are taken that come before those of a copy already made.
    pub(crate) ceiling: Option<i64>,
    /// Somebody asked for a commit.
    pub(crate) commit_wanted: bool,
    /// Facts taken since the last commit was cut.
    pub(crate) uncommitted: u64,
    /// When the oldest change came that is in no commit yet.
    pub(crate) oldest: Option<Instant>,
    /// When the last commit was cut.
    pub(crate) last_cut: Instant,
    /// The commit that is being written.
    pub(crate) pending: Option<Pending>,
    /// A commit is on its way that nobody waits for: nothing more can be taken.
    pub(crate) forsaken: bool,
    /// A transaction beyond [`Until::Exactly`] was met.
    pub(crate) passed: bool,
    /// Facts and transactions so far, for the log.
    pub(crate) facts: u64,
    pub(crate) transactions: u64,
    /// Nothing is written: for measuring.
    pub(crate) discard: bool,
    /// Values come in binary form in this connection.
    pub(crate) binary: bool,
    /// Looks at the catalog, as the watcher sends them; none where nobody watches.
    pub(crate) looks: Option<Looks>,
    /// Looks that the stream has yet to come to.
    pub(crate) ahead: VecDeque<Look>,
    /// The number of the look that was taken last.
    pub(crate) noticed: Option<u64>,
    /// What is known of the catalog held up to here at the least: where that look was, or what the log says.
    pub(crate) noticed_at: Lsn,
    /// The end of the last transaction that brought facts.
    pub(crate) last_facts: Lsn,
    /// Where the last transaction ended of which the history holds facts, or will with the next commit.
    pub(crate) last_transaction: Lsn,
    /// The stream has to bring that transaction again, and has not yet.
    pub(crate) witness: Option<Witness>,
    /// What this thread and the watcher tell each other.
    pub(crate) shared: Arc<Shared>,
    /// The labels of each enum, by oid, as they were seen last.
    pub(crate) enums: BTreeMap<u32, Vec<String>>,
    /// The publications as the log has them, or the next commit.
    pub(crate) published: PublicationState,
    /// What the next commit has to say of the publications.
    pub(crate) publication: Option<String>,
    /// How tables are copied beside the stream.
    pub(crate) copies: shadow::Settings,
    /// The copy beside the stream that is being made.
    pub(crate) shadow: Option<Shadow>,
    /// A copy has failed: not before then is it tried again.
    pub(crate) copy_again: Option<Instant>,
    /// After copies that settled nothing.
    pub(crate) fruitless: Backoff,
    /// What a look ended with that was taken within a transaction: it waits for the end of that.
    pub(crate) verdict: Option<Error>,
}

/// A transaction by which the source's past is known to be the history's. A source that was put back to an earlier copy of its
/// files is on the same timeline; once it has written past the end of the history nothing else tells. The slot's position
/// was put back with it, so what the slot has not confirmed is asked for again, though the history has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Witness {
    /// Where the transaction ends.
    end: Lsn,
    /// What the slot has confirmed, in positions of the source.
    confirmed: Lsn,
}

impl Witness {
    fn is_missing(&self, axis: Axis) -> Error {
        StartRefused::OtherPast { witness: axis.of_source(self.end), confirmed: self.confirmed }.into()
    }
}

impl Pipeline {
    /// Where the stream is to begin, in positions of the source, and what has to come before it is trusted.
    pub(crate) fn begin_at(&mut self, confirmed: Option<Lsn>) -> Lsn {
        let position = self.axis.of_source(self.position);
        self.witness = confirmed
            .filter(|confirmed| self.axis.of_history(*confirmed) < self.last_transaction)
            .filter(|_| self.last_transaction <= self.position)
            .map(|confirmed| Witness { end: self.last_transaction, confirmed });
        self.witness.map_or(position, |witness| witness.confirmed)
    }

    /// Follows a stream until told to stop, or as [`Until`] says; what was taken is then durable and acknowledged.
    ///
    /// After an error of the connection it can be called again with another stream, begun at `position`.
    pub(crate) fn follow(
        &mut self,
        stream: &mut WalStream,
        feedback: &Feedback,
        assembler: &mut Assembler,
        stop: &AtomicBool,
    ) -> Result<Rest> {
        self.follower.forget();
        assembler.reset();
        let rest = loop {
            if stop.load(Ordering::Relaxed) {
                break Rest::Stopped;
            }
            if self.is_reached() {
                break Rest::Reached;
            }
            match stream.blocking_next_timeout(self.patience()) {
                Ok(Some(chunk)) => {
                    let chunk = chunk?;
                    assembler.push(&chunk, self)?;
                    // It may have waited for a commit, or for what has to come before the stream is trusted.
                    if self.witness.is_none() {
                        feedback.set_flushed(self.axis.of_source(self.durable));
                    }
                    if chunk.reply_requested() {
                        self.answer(feedback)?;
                    }
                }
                Ok(None) => return Err(Error::other("the stream ended")),
                Err(_elapsed) => {}
            }
            self.look(feedback)?;
            self.attend(feedback)?;
            if self.is_cut_due() {
                self.cut(feedback)?;
            }
        };
        // Runs that end each time before an idle commit is due must let the source throw away WAL, too.
        if self.has_news() || self.behind() >= IDLE_COMMIT_WAL {
            self.cut(feedback)?;
        }
        self.settle(feedback)?;
        Ok(rest)
    }

    fn is_reached(&self) -> bool {
        match self.until {
            Until::Stopped => false,
            Until::Reached(target) => self.position >= target && self.witness.is_none() && !self.has_doubts(),
            Until::Exactly(target) => self.passed || self.position >= target,
        }
    }

    /// There is something that the log has to be told.
    pub(super) fn has_news(&self) -> bool {
        self.uncommitted > 0
            || !self.follower.registry.new_schemas.is_empty()
            || !self.follower.registry.new_events.is_empty()
            || self.publication.is_some()
    }

    /// Has the next commit say what is published.
    pub(super) fn tell_published(&mut self, published: PublicationState) {
        self.publication = Some(published.fingerprint());
        self.published = published;
    }

    /// Bytes of WAL that were seen and are not acknowledged.
    fn behind(&self) -> u64 {
        self.position.0.saturating_sub(self.durable.0)
    }

    /// How long to wait for the stream.
    fn patience(&self) -> Duration {
        let due = self.oldest.map(|oldest| self.cut_at.age.saturating_sub(oldest.elapsed()));
        due.unwrap_or(LOOK_EVERY).min(LOOK_EVERY).max(Duration::from_millis(1))
    }

    fn is_cut_due(&self) -> bool {
        let wanted = self.commit_wanted && self.last_cut.elapsed() >= ASKED_COMMIT_EVERY;
        if self.has_news() {
            let full = self.follower.versioner.pending_bytes() >= self.cut_at.pending
                || self.encoder.bytes_since_finish() >= self.cut_at.bytes;
            let old = wanted || self.oldest.is_none_or(|oldest| oldest.elapsed() >= self.cut_at.age);
            // A commit that is only old waits for the one before it; one that is full holds the stream up.
            return full || (old && self.pending.is_none());
        }
        let behind = self.behind();
        let due = wanted || behind >= IDLE_COMMIT_WAL || self.last_cut.elapsed() >= IDLE_COMMIT_EVERY;
        behind > 0 && due && self.pending.is_none()
    }

    /// The server wants to hear how far we are, as it does when it shuts down: it waits for an acknowledgement of all that
    /// it has sent, and only a commit can give one.
    fn answer(&mut self, feedback: &Feedback) -> Result<()> {
        if self.position > self.durable
            && self.pending.is_none()
            && self.last_cut.elapsed() >= ASKED_COMMIT_EVERY
        {
            self.cut(feedback)?;
        }
        Ok(())
    }

    /// Ends the commit that was being gathered and sends it on its way.
    pub(super) fn cut(&mut self, feedback: &Feedback) -> Result<()> {
        self.settle(feedback)?;
        self.last_cut = Instant::now();
        self.oldest = None;
        self.commit_wanted = false;
        if self.discard {
            self.uncommitted = 0;
            drop(self.follower.versioner.seal()?);
            self.follower.versioner.release();
            return Ok(());
        }
        let sealed = self.follower.versioner.seal()?;
        self.next_seq += 1;
        let files = self.encoder.finish(Some(self.next_seq))?;
        let said = Said {
            to: self.position,
            publication: self.publication.take().map(Into::into),
            schemas: std::mem::take(&mut self.follower.registry.new_schemas),
            events: std::mem::take(&mut self.follower.registry.new_events),
            ..self.said_nothing()
        };
        self.told = said.told();
        self.covered = self.position;
        self.uncommitted = 0;
        self.pending = Some(self.committer.start(files, said, sealed));
        Ok(())
    }

    /// A relation that is new or has changed may have values that are read as text only: then the stream has to be asked
    /// for as text before anything of the transaction is taken [19].
    fn check_binary(&self, body: &[u8]) -> Result<()> {
        if !self.binary || body.first() != Some(&b'R') {
            return Ok(());
        }
        let Message::Relation(relation) = Message::decode(body)? else { return Ok(()) };
        match self.follower.registry.look_up(&relation) {
            Known::Same { .. } => Ok(()),
            Known::Changed { .. } | Known::Unknown => Err(Error::TextNeeded),
        }
    }

    /// A relation is announced by a transaction that the history has: not again before the next row.
    fn announced(&mut self, body: &[u8]) -> Result<()> {
        if let Some(shadow) = &mut self.shadow {
            shadow.announced(body)?;
        }
        self.follower.remember(body)
    }

    /// What a commit says that has nothing to tell.
    pub(crate) fn said_nothing(&self) -> Said {
        Said {
            from: self.covered,
            to: self.covered,
            source: self.source.clone(),
            epoch: self.epoch,
            axis: self.axis,
            seen: self.seen(),
            server_time: self.server_time,
            high_water: self.high_water,
            publication: None,
            schemas: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Up to where looks at the catalog found nothing that the history does not have; none where they are further than the stream.
    fn seen(&self) -> Option<Lsn> {
        self.shared.held(self.noticed.unwrap_or(0)).map(|held| self.axis.of_history(held))
    }

    /// Up to where the catalog is known to have been as the history has it. Whatever it shows that is new, or the stream does, came
    /// behind that.
    pub(super) fn catalog_held(&self) -> Lsn {
        let pending = || self.ahead.front().and_then(|look| look.since);
        self.seen().or_else(pending).unwrap_or(self.noticed_at).min(self.position)
    }

    /// The metrics are told where the history lacks nothing of what has come.
    fn gauge_settled(&self, sent_at: i64) {
        if !self.has_news() && self.pending.is_none() {
            self.metrics.settled(self.axis.of_source(self.position), sent_at);
        }
    }

    /// Looks at the commit on its way.
    fn look(&mut self, feedback: &Feedback) -> Result<()> {
        let Some(pending) = &mut self.pending else { return Ok(()) };
        match pending.look() {
            Ok(progress) => self.took(progress, Some(feedback)),
            Err(error) => {
                self.pending = None;
                Err(error)
            }
        }
    }

    /// Waits until no commit is on its way.
    pub(crate) fn settle(&mut self, feedback: &Feedback) -> Result<()> {
        self.settle_since(None, feedback)
    }

    /// The same, but for what is on its way to a target that does not answer: once the slot is to be dropped, as it is `since` then, that
    /// is not waited for any longer.
    pub(crate) fn settle_since(&mut self, since: Option<Instant>, feedback: &Feedback) -> Result<()> {
        let (mut since, mut verdict) = (since, None);
        while let Some(pending) = &mut self.pending {
            match pending.wait(&self.runtime, LOOK_EVERY) {
                Ok(Progress::Waiting) if since.is_some_and(|since| since.elapsed() >= FORSAKEN_AFTER) => {
                    self.pending = None;
                    self.forsaken = true;
                }
                Ok(Progress::Waiting) => {
                    if let Err(error) = self.take_looks() {
                        since = matches!(error, Error::SlotLag { .. }).then(Instant::now);
                        verdict = Some(error);
                    }
                }
                Ok(progress) => self.took(progress, Some(feedback))?,
                Err(error) => {
                    self.pending = None;
                    return Err(error);
                }
            }
        }
        verdict.map_or(Ok(()), Err)
    }

    /// The same within a transaction, which outgrows memory and cannot go to disk behind a commit on its way. It is never left half
    /// done: what ends the capture meanwhile waits for its end, and the transaction then for more memory.
    fn settle_within(&mut self) -> Result<()> {
        while self.verdict.is_none()
            && let Some(pending) = &mut self.pending
        {
            match pending.wait(&self.runtime, LOOK_EVERY) {
                Ok(Progress::Waiting) => self.verdict = self.take_looks().err(),
                Ok(progress) => self.took(progress, None)?,
                Err(error) => {
                    self.pending = None;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// A message of a transaction may outgrow the memory that changes may take.
    fn is_heavy(&self, body: &[u8]) -> Result<bool> {
        let versioner = &self.follower.versioner;
        if !versioner.is_sealed() {
            return Ok(false);
        }
        Ok(match body.first() {
            Some(b'T') => true,
            // Rows without a key are all found anew where their columns have changed.
            Some(b'R') => match Message::decode(body)? {
                Message::Relation(relation) => {
                    matches!(self.follower.registry.look_up(&relation), Known::Changed { .. })
                }
                _ => false,
            },
            _ => versioner.pending_bytes() > self.cut_at.pending,
        })
    }

    fn took(&mut self, progress: Progress, feedback: Option<&Feedback>) -> Result<()> {
        match progress {
            Progress::Waiting => {}
            Progress::Durable(durable) => self.acknowledge(&durable, feedback)?,
            Progress::Applied => {
                self.pending = None;
                self.follower.versioner.release();
            }
        }
        Ok(())
    }

    /// Tells the source that a commit is durable: the only way in which its slot moves. Within a transaction, that waits for its end.
    fn acknowledge(&mut self, durable: &Durable, feedback: Option<&Feedback>) -> Result<()> {
        failpoint::hit("ack.before")?;
        self.durable = durable.resume;
        if let Some(feedback) = feedback.filter(|_| self.witness.is_none()) {
            feedback.set_flushed(self.axis.of_source(durable.resume));
        }
        failpoint::hit("ack.after")?;
        tracing::debug!(seq = durable.seq, resume = %durable.resume, "commit");
        // Commits of others may have come between.
        self.next_seq = self.next_seq.max(durable.seq + 1);
        self.hear(&durable.passed);
        Ok(())
    }

    /// Takes what others said about the history before a commit.
    pub(super) fn hear(&mut self, passed: &[Event]) {
        for event in passed {
            self.follower.registry.hear(event);
        }
    }
}

/// Whose a logical message is.
fn prefix(body: &[u8]) -> Option<&str> {
    if body.first() != Some(&b'M') {
        return None;
    }
    match Message::decode(body) {
        Ok(Message::Logical { prefix, .. }) => Some(prefix),
        _ => None,
    }
}

impl Assembled for Pipeline {
    fn transaction(&mut self, transaction: &mut Transaction<'_>) -> Result<()> {
        let end = self.axis.of_history(transaction.commit.end_lsn);
        if let Some(witness) = self.witness {
            if end > witness.end {
                return Err(witness.is_missing(self.axis));
            }
            self.witness = Some(witness).filter(|witness| end < witness.end);
        }
        if end <= self.position {
            // The history has it. What it announces holds for what follows: the server says it once, or again where it changed.
            return transaction.for_each(|body| match body.first() {
                Some(b'R') => self.announced(body),
                _ => Ok(()),
            });
        }
        if matches!(self.until, Until::Exactly(target) if end > target) {
            self.passed = true;
        }
        if self.passed {
            return Ok(());
        }
        self.catalog.end_facts();
        let xid = widen_xid(transaction.begin.xid, self.next_xid);
        self.next_xid = self.next_xid.max(xid);
        // Once for all that is to be known before: a transaction may stand in a file.
        transaction.for_each(|body| {
            self.check_binary(body)?;
            self.follower.prepare(body, &mut self.catalog, xid)
        })?;
        self.catalog.begin_facts();
        let raw = transaction.commit.committed_at;
        // A time of the future, as a transaction from elsewhere may have it, must not stop the clock for all others [11].
        if raw > transaction.sent_at.saturating_add(CLOCK_SLACK_US) {
            self.follower.registry.new_events.push(
                Event::at(EventKind::Clock, None, end)
                    .with("ahead_us", raw.saturating_sub(transaction.sent_at)),
            );
        }
        let latest = transaction.sent_at.min(self.ceiling.unwrap_or(i64::MAX));
        let valid_from = raw.min(latest).max(self.high_water.unwrap_or(i64::MIN));
        self.high_water = Some(valid_from);
        self.server_time = self.server_time.max(Some(transaction.sent_at));
        self.follower.versioner.begin(Origin {
            lsn: end,
            xid: xid.cast_signed(),
            committed_at: raw,
            valid_from,
        });
        let place = Place {
            held: self.catalog_held(),
            position: self.position,
            end,
            xid: Some(transaction.begin.xid),
        };
        transaction.for_each(|body| {
            if self.is_heavy(body)? {
                self.settle_within()?;
            }
            if let Some(shadow) = &mut self.shadow {
                shadow.keep(end, body)?;
            }
            if let Some(prefix) = prefix(body) {
                self.commit_wanted |= prefix == COMMIT_PREFIX;
                // What it tells is for the catalog to confirm.
                if prefix == ddl::PREFIX {
                    self.shared.look_anew();
                }
            }
            self.follower.message(body, &mut self.catalog, &place)
        })?;
        self.catalog.end_facts();
        let summary = self.follower.versioner.commit()?;
        for index in self.follower.versioner.take_doubtful() {
            self.follower.registry.missed(index, end);
        }
        for index in self.follower.versioner.take_ambiguous() {
            self.follower.registry.ambiguous(index, end);
        }
        self.position = end;
        self.metrics.received.store(self.axis.of_source(end).0, Ordering::Relaxed);
        if summary.facts > 0 {
            self.last_facts = end;
            self.last_transaction = end;
            self.metrics.transactions.fetch_add(1, Ordering::Relaxed);
            if !summary.has_actor {
                self.metrics.transactions_without_actor.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.uncommitted += summary.facts;
        self.facts += summary.facts;
        self.transactions += 1;
        if self.has_news() && self.oldest.is_none() {
            self.oldest = Some(Instant::now());
        }
        self.gauge_settled(transaction.sent_at);
        Ok(())
    }

    fn quiet_until(&mut self, wal_end: Lsn, sent_at: i64) -> Result<()> {
        if self.passed {
            return Ok(());
        }
        let wal_end = self.axis.of_history(wal_end);
        if let Some(witness) = self.witness {
            return if wal_end < witness.end { Ok(()) } else { Err(witness.is_missing(self.axis)) };
        }
        let wal_end = match self.until {
            Until::Exactly(target) => wal_end.min(target.max(self.position)),
            Until::Stopped | Until::Reached(_) => wal_end,
        };
        self.position = self.position.max(wal_end);
        self.metrics.received.store(self.axis.of_source(self.position).0, Ordering::Relaxed);
        self.server_time = self.server_time.max(Some(sent_at));
        self.gauge_settled(sent_at);
        Ok(())
    }
}
