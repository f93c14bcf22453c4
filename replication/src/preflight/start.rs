//! Whether the stream can go on where the history ends.

use std::fmt;

use crate::Lsn;
use crate::publication::{self, Difference, PublicationState};
use crate::slot::Slot;
use crate::table::quote_literal;

/// What the history's log says about its source.
#[derive(Clone, Copy, Debug)]
pub struct Recorded<'a> {
    /// System identifier of the source.
    pub system_id: u64,
    /// Timeline of the last commit.
    pub timeline: u32,
    /// Where the last commit ends: everything before it is durable, and nothing after it is.
    pub resume: Lsn,
    /// The slot that is read from.
    pub slot: &'a str,
    /// The publications as they were recorded.
    pub publications: &'a PublicationState,
}

/// What the server says.
#[derive(Clone, Copy, Debug)]
pub struct Current<'a> {
    /// `systemid` of IDENTIFY_SYSTEM.
    pub system_id: u64,
    /// `timeline` of IDENTIFY_SYSTEM.
    pub timeline: u32,
    /// `xlogpos` of IDENTIFY_SYSTEM: the end of the WAL that can be streamed.
    pub wal_end: Lsn,
    /// The content of TIMELINE_HISTORY for `timeline`; needed only when that is not the recorded one.
    pub timeline_history: Option<&'a [u8]>,
    /// The database that the connection is to.
    pub database: &'a str,
    /// The server is a standby.
    pub in_recovery: bool,
    /// The slot's row, `None` when there is none of the name.
    pub slot: Option<&'a Slot>,
    /// The publications of the recorded names.
    pub publications: &'a PublicationState,
}

/// Why the stream must not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartRefused {
    /// Another database cluster.
    OtherSystem {
        /// As recorded.
        recorded: u64,
        /// The server's.
        current: u64,
    },
    /// The server is on a timeline that branched off before what the history holds: after a failover that lost
    /// transactions, or a restore to an earlier point.
    Fork {
        /// The recorded timeline.
        recorded: u32,
        /// The server's.
        current: u32,
        /// Where the server's history leaves the recorded timeline; `None` where it never was on it.
        switch: Option<Lsn>,
        /// Where the history ends.
        resume: Lsn,
    },
    /// The server's timeline differs, and its history could not be had or read.
    TimelineUnknown {
        /// The recorded timeline.
        recorded: u32,
        /// The server's.
        current: u32,
    },
    /// The server's WAL ends before the history does.
    SourceBehind {
        /// Where the server's WAL ends.
        wal_end: Lsn,
        /// Where the history ends.
        resume: Lsn,
    },
    /// A transaction that the history holds, and that the slot has not confirmed, does not come again: the source was put back to
    /// an earlier copy of its files, on the same timeline, and has written other things since.
    OtherPast {
        /// Where the transaction ended.
        witness: Lsn,
        /// What the slot has confirmed: up to there both are the same.
        confirmed: Lsn,
    },
    /// A standby has not come to where the history ends: it lags, or was restarted and replays. It passes by itself.
    StandbyBehind {
        /// Up to where the standby has the WAL.
        wal_end: Lsn,
        /// Where the history ends.
        resume: Lsn,
    },
    /// Publications are not as recorded.
    PublicationChanged {
        /// In what way; never empty.
        differences: Vec<Difference>,
    },
    /// The slot is gone.
    SlotMissing {
        /// Its name.
        slot: String,
        /// Where the history ends.
        resume: Lsn,
    },
    /// The slot is beyond the history: something else read from it or moved it.
    SlotAhead {
        /// Its name.
        slot: String,
        /// What it has confirmed.
        confirmed: Lsn,
        /// Where the history ends.
        resume: Lsn,
    },
    /// The slot cannot be read from.
    Slot(SlotRefused),
}

/// Why a slot cannot be read from, whatever the history says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlotRefused {
    /// The WAL that it needs is gone, or the server invalidated it.
    Lost {
        /// Its name.
        slot: String,
        /// `invalidation_reason`, or what comes nearest.
        reason: String,
        /// What it had confirmed: changes after that are lost.
        confirmed: Option<Lsn>,
    },
    /// Its creation was never finished.
    Unfinished {
        /// Its name.
        slot: String,
    },
    /// It is of another plugin, or a physical slot.
    Plugin {
        /// Its name.
        slot: String,
        /// The plugin, `None` for a physical slot.
        plugin: Option<String>,
    },
    /// It belongs to another database.
    Database {
        /// Its name.
        slot: String,
        /// The slot's database.
        database: String,
        /// The one of the connection.
        current: String,
    },
    /// It decodes prepared transactions at PREPARE.
    TwoPhase {
        /// Its name.
        slot: String,
    },
    /// It is a standby's copy, which cannot be read before a promotion.
    Synced {
        /// Its name.
        slot: String,
    },
    /// Somebody else reads from it: after a crash, perhaps the server's end of the connection before this one. The only
    /// refusal of a slot that passes by itself.
    Active {
        /// Its name.
        slot: String,
        /// The server process that does.
        pid: Option<i32>,
    },
}

impl StartRefused {
    /// Whether it may pass by itself, so that trying again after a pause makes sense.
    #[must_use]
    pub const fn passes(&self) -> bool {
        matches!(self, Self::StandbyBehind { .. } | Self::Slot(SlotRefused::Active { .. }))
    }
}

impl std::error::Error for StartRefused {}
impl std::error::Error for SlotRefused {}

impl fmt::Display for StartRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherSystem { recorded, current } => write!(
                f,
                "the source is another database cluster (system identifier {current}, the history's is {recorded}): its \
                 positions and row keys mean something else, so its changes would be mixed up with the history's. \
                 Connect to the cluster that the history was made from, or start a new history"
            ),
            Self::Fork { recorded, current, switch, resume } => {
                write!(
                    f,
                    "the source's past is not the history's: the history follows timeline {recorded} up to {resume}, "
                )?;
                match switch {
                    Some(switch) => {
                        write!(f, "the source left that timeline at {switch} and is on {current} now. ")
                    }
                    None => write!(f, "the source is on timeline {current} and never was on {recorded}. "),
                }?;
                f.write_str(
                    "A failover or a restore lost transactions that the history holds, and those that took their place \
                     would be skipped if the stream went on. Connect to the server that has them if it still exists; \
                     otherwise start with --accept-fork, which keeps what the history holds, records the fork, and \
                     compares every table with the source",
                )
            }
            Self::TimelineUnknown { recorded, current } => write!(
                f,
                "the source is on timeline {current}, the history on {recorded}, and the source does not say where the \
                 two part, so it cannot be told whether transactions were lost between them. Make the file \
                 {current:08X}.history available in the source's pg_wal (it is in the WAL archive)"
            ),
            Self::SourceBehind { wal_end, resume } => write!(
                f,
                "the source's WAL ends at {wal_end}, before the history does ({resume}): it was restored from a backup, \
                 or is a server that lags behind. The server would accept the start and swallow every change up to \
                 {resume}. Connect to the server that is ahead; if it no longer exists, start with --accept-fork, which keeps \
                 what the history holds, records the fork, and compares every table with the source"
            ),
            Self::OtherPast { witness, confirmed } => write!(
                f,
                "the source's past is not the history's: the transaction that ended at {witness} is not there any more. The source \
                 was put back to an earlier copy of its files, from {confirmed} or later, and has written other transactions since, \
                 which would be skipped if the stream went on. Connect to the server that has it if that still exists; \
                 otherwise start with --accept-fork, which keeps what the history holds, records the fork, and \
                 compares every table with the source"
            ),
            Self::StandbyBehind { wal_end, resume } => write!(
                f,
                "the source is a standby that has come to {wal_end}, the history is further ({resume}): it is waited for"
            ),
            Self::PublicationChanged { differences } => {
                f.write_str("the publications are not as they were recorded: ")?;
                for (index, difference) in differences.iter().enumerate() {
                    write!(f, "{}{difference}", if index == 0 { "" } else { "; " })?;
                }
                f.write_str(
                    ". Changes made in the meantime may not be in the stream, and the history would miss them without a \
                     sign. Restore the publications if they were altered by mistake and nothing was written since; \
                     otherwise start with --on-gap reconcile, which records the gap and compares every table with the \
                     source",
                )
            }
            Self::SlotMissing { slot, resume } => write!(
                f,
                "replication slot {slot:?} does not exist any more: it was dropped, or the source failed over to a server \
                 that had no copy of it. A new one would begin now, and every change since {resume} would be missing. \
                 Connect to the server that has the slot; otherwise start with --on-gap reconcile, which makes a new one, \
                 records the gap, and compares every table with the source"
            ),
            Self::SlotAhead { slot, confirmed, resume } => write!(
                f,
                "replication slot {slot:?} has confirmed {confirmed}, the history ends at {resume}: something else read \
                 from the slot or moved it, or the history is an older copy. The server would silently begin at \
                 {confirmed} and every change between the two would be missing. Use the history that belongs to the slot; \
                 otherwise start with --on-gap reconcile, which records the gap and compares every table with the source"
            ),
            Self::Slot(refused) => refused.fmt(f),
        }
    }
}

impl fmt::Display for SlotRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { slot, reason, confirmed } => {
                write!(
                    f,
                    "replication slot {slot:?} is lost ({reason}): the source no longer has the WAL that it needs"
                )?;
                if let Some(confirmed) = confirmed {
                    write!(f, ", so changes since {confirmed} can never be streamed")?;
                }
                write!(
                    f,
                    ". Raise max_slot_wal_keep_size (and idle_replication_slot_timeout) so that it does not happen again, and \
                     start with --on-gap reconcile, which makes a new slot, records the gap, and compares every table with \
                     the source (a slot of your own, given with --slot, has to be dropped and made anew before: select \
                     pg_drop_replication_slot({});)",
                    quote_literal(slot)
                )
            }
            Self::Unfinished { slot } => write!(
                f,
                "replication slot {slot:?} has no confirmed position: its creation was interrupted. Nothing can be read \
                 from it; drop it (select pg_drop_replication_slot({});) and start again, with --on-gap reconcile where the \
                 history has begun",
                quote_literal(slot)
            ),
            Self::Plugin { slot, plugin } => {
                match plugin {
                    Some(plugin) => write!(f, "replication slot {slot:?} is of the output plugin {plugin:?}"),
                    None => write!(f, "replication slot {slot:?} is a physical one"),
                }?;
                f.write_str(
                    ", so its stream cannot be understood here, and reading would take it away from its owner. Use a slot \
                     of pgoutput, or another name",
                )
            }
            Self::Database { slot, database, current } => write!(
                f,
                "replication slot {slot:?} belongs to database {database:?}, the connection is to {current:?}: the changes \
                 of another database would be read, or none. Connect to {database:?}, or use another slot or name"
            ),
            Self::TwoPhase { slot } => write!(
                f,
                "replication slot {slot:?} has two_phase on: prepared transactions would be sent before it is known whether \
                 they commit, and not again when they do. Use a slot without it (it can be switched off from PostgreSQL \
                 18 on: ALTER_REPLICATION_SLOT)"
            ),
            Self::Synced { slot } => write!(
                f,
                "replication slot {slot:?} is a standby's copy of the primary's slot and cannot be read before the standby \
                 is promoted. Connect to the primary"
            ),
            Self::Active { slot, pid } => {
                write!(f, "replication slot {slot:?} is being read by another process")?;
                if let Some(pid) = pid {
                    write!(f, " (server process {pid})")?;
                }
                f.write_str(
                    ": two readers would each get a part of the changes. Stop the other one, or wait for the server to notice \
                     that its connection is gone",
                )
            }
        }
    }
}

/// Whether the stream may be started at `recorded.resume` without losing a change.
///
/// A server that went on to a new timeline after `resume` is fine: its WAL holds everything up to there.
///
/// # Errors
/// The first [`StartRefused`]: what is wrong with the server comes before what is wrong with publications and slot.
pub fn check_start(recorded: &Recorded<'_>, current: &Current<'_>) -> Result<(), StartRefused> {
    if recorded.system_id != current.system_id {
        return Err(StartRefused::OtherSystem { recorded: recorded.system_id, current: current.system_id });
    }
    check_timeline(recorded, current)?;
    if current.wal_end < recorded.resume {
        let (wal_end, resume) = (current.wal_end, recorded.resume);
        return Err(if current.in_recovery {
            StartRefused::StandbyBehind { wal_end, resume }
        } else {
            StartRefused::SourceBehind { wal_end, resume }
        });
    }
    let Some(slot) = current.slot else {
        return Err(StartRefused::SlotMissing { slot: recorded.slot.to_owned(), resume: recorded.resume });
    };
    check_slot(slot, current.database, current.in_recovery).map_err(StartRefused::Slot)?;
    if let Some(confirmed) = slot.confirmed_flush_lsn.filter(|confirmed| *confirmed > recorded.resume) {
        return Err(StartRefused::SlotAhead { slot: slot.name.clone(), confirmed, resume: recorded.resume });
    }
    let differences = publication::compare(recorded.publications, current.publications);
    if !differences.is_empty() {
        return Err(StartRefused::PublicationChanged { differences });
    }
    // Last, since it is the only one that waiting cures.
    check_idle(slot).map_err(StartRefused::Slot)
}

/// Whether a slot can be read from at all; part of [`check_start`], and alone for a slot that is used for the first time.
/// That somebody reads from it at the moment is [`check_idle`]'s matter.
///
/// # Errors
/// The first [`SlotRefused`].
pub fn check_slot(slot: &Slot, database: &str, in_recovery: bool) -> Result<(), SlotRefused> {
    let name = || slot.name.clone();
    if slot.plugin.as_deref() != Some("pgoutput") {
        return Err(SlotRefused::Plugin { slot: name(), plugin: slot.plugin.clone() });
    }
    if let Some(of) = slot.database.as_deref().filter(|of| *of != database) {
        return Err(SlotRefused::Database {
            slot: name(),
            database: of.to_owned(),
            current: database.to_owned(),
        });
    }
    if let Some(reason) = slot.lost() {
        return Err(SlotRefused::Lost {
            slot: name(),
            reason: reason.to_owned(),
            confirmed: slot.confirmed_flush_lsn,
        });
    }
    if in_recovery && slot.synced == Some(true) {
        return Err(SlotRefused::Synced { slot: name() });
    }
    if slot.two_phase {
        return Err(SlotRefused::TwoPhase { slot: name() });
    }
    if slot.confirmed_flush_lsn.is_none() {
        return Err(SlotRefused::Unfinished { slot: name() });
    }
    Ok(())
}

/// Whether nobody reads from the slot.
///
/// # Errors
/// [`SlotRefused::Active`].
pub fn check_idle(slot: &Slot) -> Result<(), SlotRefused> {
    if slot.active {
        return Err(SlotRefused::Active { slot: slot.name.clone(), pid: slot.active_pid });
    }
    Ok(())
}

fn check_timeline(recorded: &Recorded<'_>, current: &Current<'_>) -> Result<(), StartRefused> {
    if recorded.timeline == current.timeline {
        return Ok(());
    }
    let fork = |switch| StartRefused::Fork {
        recorded: recorded.timeline,
        current: current.timeline,
        switch,
        resume: recorded.resume,
    };
    // A lower number is an older server, whatever its history says.
    if current.timeline < recorded.timeline {
        return Err(fork(None));
    }
    let unknown = StartRefused::TimelineUnknown { recorded: recorded.timeline, current: current.timeline };
    let Some(history) = current.timeline_history.and_then(parse_timeline_history) else {
        return Err(unknown);
    };
    match history.iter().find(|entry| entry.timeline == recorded.timeline) {
        Some(entry) if entry.end >= recorded.resume => Ok(()),
        Some(entry) => Err(fork(Some(entry.end))),
        None => Err(fork(None)),
    }
}

/// A timeline that the server's WAL went through before its present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineEntry {
    /// Its number.
    pub timeline: u32,
    /// Where the next one begins.
    pub end: Lsn,
}

/// Reads a timeline history file: lines of a number, a position and a reason, and comments after `#`.
/// `None` when it is none.
#[must_use]
pub fn parse_timeline_history(content: &[u8]) -> Option<Vec<TimelineEntry>> {
    // The reason is free text in any encoding.
    let content = String::from_utf8_lossy(content);
    let lines = content.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let timeline = words.next()?.parse().ok()?;
            Some(TimelineEntry { timeline, end: words.next()?.parse().ok()? })
        })
        .collect()
}
