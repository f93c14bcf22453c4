//! Changes that are lost for good: where the operator allows it, the loss is recorded and the stream goes on behind it.
//!
//! What was lost is a stretch of the WAL, and with it every version that rows had there in between. What the rows are
//! *now* is not lost: all tables are put in doubt, copied beside the stream, and compared with what is known
//! ([`join`](super::join)), so that `reconcile` facts lead over to the present. The record comes first: it stands in the log
//! before anything is taken that lies behind the gap.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bygone_replication::catalog::ErrorKind as CatalogErrorKind;
use bygone_replication::preflight::{SlotRefused, StartRefused};
use bygone_replication::publication::{self, Difference};
use bygone_replication::slot;
use bygone_replication::wire::{Connection, Mode};
use bygone_replication::{Lsn, catalog, session};
use bygone_sink::failpoint;
use bygone_sink::log::{Event, EventKind, EventLsn};
use tokio_postgres::Client;

use super::attach::export;
use super::commit::{Said, Told};
use super::pipeline::Until;
use super::{ACTIVE_SLOT_PATIENCE, ACTIVE_SLOT_PAUSE, Capture, source, watcher};
use crate::cli::OnGap;
use crate::error::{Error, Result};

/// What was lost, and so where the stream can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Loss {
    /// The slot is gone, or nothing can be read from it any more: a new one begins now.
    Slot(String),
    /// The slot holds more WAL than it may.
    TooMuch(String),
    /// The slot is further than the history: it is read on from there.
    SlotAhead(Lsn),
    /// Changes were not published for a while; those that were are still in the stream.
    Unpublished(Vec<String>),
    /// A publication itself is not what it was: the stream of the slot's past cannot be decoded with it.
    Publication(Vec<String>),
    /// The source went another way, from before where the history ends.
    Fork { switch: Option<Lsn> },
}

impl Loss {
    /// What a refusal stands for; none for those that something else is the matter with.
    fn of(error: &Error) -> Option<Self> {
        let refused = match error {
            Error::Refused(refused) => refused,
            Error::SlotLag { held, limit, .. } => {
                return Some(Self::TooMuch(format!(
                    "the slot was dropped: it held {held} bytes of WAL, and {limit} are allowed"
                )));
            }
            _ => return None,
        };
        Some(match refused {
            StartRefused::SlotMissing { slot, .. } => Self::Slot(format!("slot {slot:?} was gone")),
            StartRefused::Slot(SlotRefused::Lost { slot, reason, .. }) => {
                Self::Slot(format!("slot {slot:?} was lost: {reason}"))
            }
            StartRefused::Slot(SlotRefused::Unfinished { slot }) => {
                Self::Slot(format!("the creation of slot {slot:?} was never finished"))
            }
            StartRefused::SlotAhead { confirmed, .. } => Self::SlotAhead(*confirmed),
            StartRefused::PublicationChanged { differences } => {
                let of_itself = differences.iter().any(|difference| {
                    matches!(difference, Difference::Missing { .. } | Difference::Replaced { .. })
                });
                let said = differences.iter().map(ToString::to_string).collect();
                if of_itself { Self::Publication(said) } else { Self::Unpublished(said) }
            }
            StartRefused::Fork { switch, .. } => Self::Fork { switch: *switch },
            StartRefused::SourceBehind { wal_end, .. } => Self::Fork { switch: Some(*wal_end) },
            StartRefused::OtherPast { confirmed, .. } => Self::Fork { switch: Some(*confirmed) },
            _ => return None,
        })
    }

    /// Why, as the log keeps it.
    fn reason(&self) -> String {
        match self {
            Self::Slot(reason) | Self::TooMuch(reason) => reason.clone(),
            Self::SlotAhead(confirmed) => format!("the slot had confirmed {confirmed}"),
            Self::Unpublished(differences) | Self::Publication(differences) => differences.join("; "),
            Self::Fork { switch } => match switch {
                Some(switch) => format!("the source went another way from {switch} on"),
                None => "the source never was on the history's timeline".to_owned(),
            },
        }
    }
}

/// Changes are lost for good, by this.
pub(super) fn is_loss(error: &Error) -> bool {
    Loss::of(error).is_some()
}

impl Capture {
    /// Has a loss recorded before tables are copied for the first time: these copies take the stream up to their own place.
    pub(super) async fn bridge_first(&mut self) -> Result<()> {
        if self.exported.is_some() || self.pipeline()?.follower.registry.to_copy_first().is_empty() {
            return Ok(());
        }
        loop {
            let pipeline = self.pipeline()?;
            let (position, timeline) = (pipeline.axis.of_source(pipeline.position), pipeline.source.timeline);
            // Whatever else is wrong is found, and told, by those who come next.
            let Err(error) = self.connect_at(position, timeline).await else { return Ok(()) };
            if !self.bridge(&error, Until::Stopped).await? {
                return Ok(());
            }
        }
    }

    /// Goes on behind a loss, where it is one and the operator allows that: true then, and the stream can be asked for again.
    pub(super) async fn bridge(&mut self, error: &Error, until: Until) -> Result<bool> {
        let Some(loss) = Loss::of(error) else { return Ok(false) };
        // Behind a commit that nobody waits for the next start goes on.
        if let Loss::TooMuch(_) = loss
            && (self.options.on_gap == OnGap::Stop || self.pipeline()?.forsaken)
        {
            self.give_up(error).await?;
            return Ok(false);
        }
        let allowed = match loss {
            Loss::Fork { .. } => self.options.accept_fork,
            _ => self.options.on_gap == OnGap::Reconcile,
        };
        // A slot or publication that the operator made is the operator's to make again.
        let theirs = match loss {
            Loss::Slot(_) => self.options.slot.is_some(),
            Loss::Publication(_) => self.options.slot.is_some() || !self.options.publications.is_empty(),
            _ => false,
        };
        if !allowed || theirs || self.options.discard || matches!(until, Until::Exactly(_)) {
            return Ok(false);
        }
        tracing::warn!("{error}");
        // Two that set the publications right at once would each take the other's work for somebody else's.
        if let Some(looks) = self.pipeline()?.looks.take() {
            looks.stop().await;
        }
        let sql = session::connect_sql(&self.connect).await?;
        if let Loss::Unpublished(_) = loss {
            // Once the publications are as they were, nothing else tells of the loss: the log has to, before that.
            let now = catalog::watch::position(&sql).await?;
            let event = self.event(EventKind::Gap, &loss, now)?;
            self.write_down(event).await?;
            if let Some(alone) = self.pipeline()?.committer.alone.clone() {
                alone.deliver().await?;
            }
            self.publish_again(&sql).await?;
            failpoint::hit("gap.after_slot")?;
        } else {
            // In this order: a slot knows a publication only if that was there before it [3].
            self.publish_again(&sql).await?;
            let to = match &loss {
                Loss::SlotAhead(confirmed) => *confirmed,
                Loss::Fork { .. } => self.slot_of_fork(&sql).await?,
                _ => self.new_slot(&sql).await?,
            };
            // The slot is ahead of the history from here until the next commit: a loss that is found again.
            failpoint::hit("gap.after_slot")?;
            let mut connection = Connection::connect(&self.connect, Mode::Replication).await?;
            let timeline = source::identify(&mut connection).await?.timeline;
            connection.close().await;
            self.go_on_behind(&loss, to, timeline)?;
        }
        self.look_anew()?;
        Ok(true)
    }

    /// The publications as they are now are those of the capture, with the tables that they lack.
    async fn publish_again(&mut self, sql: &Client) -> Result<()> {
        let names = self.wanted.publications.clone();
        self.shared.record(&publication::inspect(sql, &names).await?);
        let mut watcher = watcher(&self.options, &self.connect, &self.wanted, &self.shared, &self.metrics)?;
        let look = watcher.look(sql).await?;
        self.pipeline()?.tell_published(look.publications);
        Ok(())
    }

    /// Makes the capture's own slot anew, and says where it begins.
    async fn new_slot(&mut self, sql: &Client) -> Result<Lsn> {
        self.drop_slot(sql).await?;
        self.metrics.slot_held.store(0, Ordering::Relaxed);
        let connection = Connection::connect(&self.connect, Mode::Replication).await?;
        let version = connection.server_version();
        let exported = export(sql, connection, &self.wanted.slot, version, false, &self.stop).await?;
        exported.connection.close().await;
        Ok(exported.point)
    }

    /// Drops the capture's own slot, which the server may need a moment to see free.
    async fn drop_slot(&self, sql: &Client) -> Result<()> {
        let since = Instant::now();
        loop {
            match slot::drop(sql, &self.wanted.slot).await {
                Err(error)
                    if error.kind() == CatalogErrorKind::Busy && since.elapsed() < ACTIVE_SLOT_PATIENCE =>
                {
                    tokio::time::sleep(ACTIVE_SLOT_PAUSE).await;
                }
                dropped => return dropped.map(drop).map_err(Error::from),
            }
        }
    }

    /// The slot is dropped, and the log says what that costs, for the operator to go on from.
    pub(super) async fn give_up(&mut self, error: &Error) -> Result<()> {
        let Some(loss) = Loss::of(error) else { return Ok(()) };
        let sql = session::connect_sql(&self.connect).await?;
        let now = catalog::watch::position(&sql).await?;
        // What was taken since the last commit goes with this process.
        let pipeline = self.pipeline()?;
        pipeline.position = pipeline.durable;
        let event = self.event(EventKind::Gap, &loss, now)?;
        self.write_down(event).await?;
        self.drop_slot(&sql).await
    }

    /// Where the source can be read from on its new way.
    async fn slot_of_fork(&mut self, sql: &Client) -> Result<Lsn> {
        if self.options.slot.is_none() {
            return self.new_slot(sql).await;
        }
        let slot = slot::read(sql, &self.wanted.slot).await?;
        slot.and_then(|slot| slot.confirmed_flush_lsn).ok_or_else(|| {
            Error::other(format!(
                "there is no replication slot {0:?} on this server: run select pg_create_logical_replication_slot('{0}', \
                 'pgoutput');",
                self.wanted.slot
            ))
        })
    }

    /// What the log says of a loss that ends at a position of the source.
    fn event(&mut self, kind: EventKind, loss: &Loss, to: Lsn) -> Result<Event> {
        let pipeline = self.pipeline()?;
        let (mut from, to) = (pipeline.position, pipeline.axis.of_history(to));
        if let Loss::Unpublished(_) | Loss::Publication(_) = loss {
            // It may have been altered some time before that was seen, while the stream of other tables went on.
            from = from.min(pipeline.catalog_held());
        }
        let reason = loss.reason();
        tracing::warn!(
            kind = kind.as_str(),
            %from,
            %to,
            reason,
            "what changed in between is lost: this is recorded, and every table is compared with the source"
        );
        let event = Event::placed(kind, None, EventLsn::Within([from, to]));
        Ok(event.with("doubt", true).with("reason", reason))
    }

    /// Has a commit of its own say what was lost.
    async fn write_down(&mut self, event: Event) -> Result<()> {
        let pipeline = self.pipeline()?;
        // Of what was taken since the last commit the history knows nothing yet.
        let Told { server_time, high_water } = pipeline.told;
        let said = Said { events: vec![event], server_time, high_water, ..pipeline.said_nothing() };
        let log = Arc::clone(&pipeline.committer.log);
        let appended = log.lock().await.append(said.body(&[])).await?;
        let pipeline = self.pipeline()?;
        pipeline.next_seq = appended.seq() + 1;
        pipeline.hear(appended.passed());
        pipeline.follower.registry.doubt_all();
        Ok(())
    }

    /// Has the next commit, which comes before anything else is taken, say what was lost up to where the source goes on.
    fn go_on_behind(&mut self, loss: &Loss, to: Lsn, timeline: u32) -> Result<()> {
        let pipeline = self.pipeline()?;
        let mut kind = EventKind::Gap;
        if let Loss::Fork { .. } = loss {
            kind = EventKind::Fork;
            pipeline.epoch += 1;
            pipeline.axis = pipeline.axis.beyond(pipeline.position, to);
            pipeline.copies.axis = pipeline.axis;
            // Transaction ids go on from where the source turned off.
            pipeline.next_xid = 0;
        }
        let event = self.event(kind, loss, to)?;
        let pipeline = self.pipeline()?;
        pipeline.follower.registry.doubt_all();
        pipeline.follower.registry.new_events.push(event);
        pipeline.position = pipeline.axis.of_history(to);
        pipeline.source.timeline = timeline;
        self.shared.set_held(Lsn::ZERO);
        Ok(())
    }

    /// What was seen, or copied, of the time before the loss is of no use.
    fn look_anew(&mut self) -> Result<()> {
        let looks = watcher(&self.options, &self.connect, &self.wanted, &self.shared, &self.metrics)?.start();
        let pipeline = self.pipeline()?;
        pipeline.looks = Some(looks);
        pipeline.ahead = VecDeque::new();
        pipeline.noticed = None;
        pipeline.noticed_at = pipeline.position;
        pipeline.shadow = None;
        pipeline.copy_again = None;
        pipeline.verdict = None;
        Ok(())
    }
}
