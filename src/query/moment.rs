//! Moments as people write them, and what a history knows at them.

use bygone_replication::Lsn;
use bygone_sink::log::{EventKind, EventLsn};
use bygone_sink::read::{Archive, Cut, Doubt, Flow, TableHistory, TransactionFilter};
use bygone_sink::timestamp::Timestamp;
use chrono::{
    DateTime, Days, FixedOffset, Local, LocalResult, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeZone,
    Utc,
};

use super::value::moment as shown;
use crate::error::{Error, Result};

/// A moment as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Now,
    Time(Timestamp),
    Lsn(Lsn),
    Transaction(i64),
}

/// A moment that the history reaches.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// Which facts lie at or before it.
    pub(crate) cut: Cut,
    /// Where it lies in the WAL: at this position at the earliest …
    pub(crate) place: Lsn,
    /// … and before this one. A time lies somewhere between two positions that are known.
    pub(crate) next: Lsn,
    /// For messages: `2026-11-24 10:00:00+00`, `0/15D6B88`.
    pub(crate) shown: String,
}

/// Finds a moment in a history.
///
/// # Errors
/// Where the text is no moment, or the history is not known until then.
pub(crate) async fn resolve(archive: &Archive, text: &str) -> Result<Resolved> {
    let moment = parse(text, Local::now())?;
    let (last, until) = archive.known_until();
    let known = || match until {
        Some(until) => format!("the history is known until {} ({last})", shown(until)),
        None => format!("the history is known until {last}"),
    };
    if archive.commits().is_empty() {
        return Err(Error::other("the history has no commit yet: nothing is known"));
    }
    match moment {
        Moment::Now => {
            let ago = until.map(|until| age(Timestamp::now(), until));
            eprintln!("bygone: {}{}", known(), ago.map_or_else(String::new, |ago| format!(", {ago} ago")));
            Ok(Resolved {
                cut: Cut::Lsn(last),
                place: last,
                next: after(last),
                shown: until.map_or_else(|| last.to_string(), shown),
            })
        }
        Moment::Time(time) => {
            if until.is_none_or(|until| time > until) {
                return Err(Error::other(format!("nothing is known of {} yet: {}", shown(time), known())));
            }
            let place = archive.place_of_time(time).await?;
            let next = archive.place_after_time(time).await?.unwrap_or(last).max(after(place));
            Ok(Resolved { cut: Cut::Time(time), place, next, shown: shown(time) })
        }
        Moment::Lsn(lsn) => {
            if lsn > last {
                return Err(Error::other(format!("nothing is known of {lsn} yet: {}", known())));
            }
            if let Some(remark) = since_the_fork(archive, lsn) {
                eprintln!("bygone: {remark}");
            }
            Ok(Resolved { cut: Cut::Lsn(lsn), place: lsn, next: after(lsn), shown: lsn.to_string() })
        }
        Moment::Transaction(xid) => {
            let mut found = None;
            let filter = TransactionFilter { xid: Some(xid), ..TransactionFilter::default() };
            let mut take = |transaction: bygone_sink::read::Transaction| {
                found = Some(transaction.lsn);
                Flow::Break(())
            };
            archive.transactions(&filter, &mut take).await?;
            let lsn = found.ok_or_else(|| unknown_transaction(archive, xid))?;
            Ok(Resolved {
                cut: Cut::Lsn(lsn),
                place: lsn,
                next: after(lsn),
                shown: format!("the end of transaction {xid} ({lsn})"),
            })
        }
    }
}

/// What is to be said of a position that may be meant as the source's: since a fork it has some that it had before, and the
/// history has them but once.
fn since_the_fork(archive: &Archive, lsn: Lsn) -> Option<String> {
    let forks = archive.log().events().iter().filter(|(_, event)| event.kind == EventKind::Fork);
    let fork = forks.filter_map(|(_, event)| event.lsn).next_back()?;
    let (offset, from) = (archive.log().lsn_offset, fork.earliest());
    if offset == 0 {
        return (lsn <= from).then(|| {
            format!("{lsn} lies before the fork at {from}, and is answered so, whatever the source had at this position since")
        });
    }
    let now = Lsn(lsn.0.saturating_add(offset));
    let is_open = lsn < fork.latest() || now <= archive.known_until().0;
    is_open.then(|| {
        format!(
            "{lsn} is taken for a position of the history, which lie {} beyond the source's since the fork at {from}: what the \
             source calls {lsn} since then is {now}",
            Lsn(offset)
        )
    })
}

fn after(lsn: Lsn) -> Lsn {
    Lsn(lsn.0.saturating_add(1))
}

/// The error for a transaction that the history does not have.
pub(crate) fn unknown_transaction(archive: &Archive, xid: i64) -> Error {
    Error::other(format!(
        "the history has no transaction {xid}: either it changed nothing that is captured, or it came after {}, where the \
         history ends",
        archive.known_until().0
    ))
}

/// Where the first of what is known begins, and when; none before the first snapshot.
pub(crate) async fn beginning(archive: &Archive) -> Result<Option<(Lsn, String)>> {
    let tables = archive.tables()?;
    let first = tables.iter().filter_map(|table| table.known.first()).map(|extent| extent.from).min();
    let Some(first) = first else { return Ok(None) };
    Ok(Some((first, since(archive, first).await?)))
}

/// `2026-11-24 10:00:00+00 (0/15D6B88)`.
async fn since(archive: &Archive, place: Lsn) -> Result<String> {
    let time = archive.time_of_place(place).await?;
    Ok(time.map_or_else(|| place.to_string(), |time| format!("{} ({place})", shown(time))))
}

/// The rows of a table are known at a moment. `inexact` is none for a command that has no such option.
///
/// # Errors
/// In a sentence, where they are not.
pub(crate) async fn check_known(
    archive: &Archive,
    table: &TableHistory,
    at: &Resolved,
    inexact: Option<bool>,
) -> Result<()> {
    let name = &table.log_name;
    let remedy = |does: &str| inexact.map_or_else(String::new, |_| format!("; --inexact {does}"));
    let Some(first) = table.known.first() else {
        return Err(Error::other(format!("{name} is attached, but its snapshot is not in the history yet")));
    };
    if at.place < first.from {
        let since = since(archive, first.from).await?;
        return Err(Error::other(format!(
            "nothing is known of {name} at {}: its history begins at {since}",
            at.shown
        )));
    }
    let extent = table.known.iter().rev().find(|extent| extent.from <= at.place);
    let doubts: Vec<Doubt<'_>> =
        archive.doubts(name).filter(|doubt| doubt.meets(at.place, at.next)).collect();
    if let Some((extent, to)) = extent.and_then(|extent| Some((extent, extent.to?))) {
        let what = if extent.dropped { "was dropped" } else { "went out of capture" };
        if to <= at.place {
            return Err(Error::other(format!("{name} {what} at {to}, before {}", at.shown)));
        }
        // A time, when no row of it ended that would tell.
        if to < at.next && !doubts.iter().any(is_end) {
            eprintln!("bygone: {name} {what} at {to}, which may be before {}", at.shown);
        }
    }
    for doubt in doubts {
        let again = match doubt.until {
            Some(until) if is_end(&doubt) => format!("its end was noticed at {until}"),
            Some(until) => format!("known again from {until}"),
            None => "the comparison with the source that settles it is not in the history yet".to_owned(),
        };
        let (kind, since) = (&doubt.event.kind, doubt.after);
        if doubt.whole {
            let what = format!("a {kind} lies there; it is known until {since}, and {again}");
            if inexact == Some(true) {
                eprintln!("bygone: what was known of {name} before {} is shown: {what}", at.shown);
                continue;
            }
            return Err(Error::other(format!(
                "{name} is not known at {}: {what}{}",
                at.shown,
                remedy("shows what was known before")
            )));
        }
        let what = unseen(&doubt);
        eprintln!(
            "bygone: the rows of {name} at {} are not known exactly: {what}; known until {since}, {again}",
            at.shown
        );
    }
    if table.were_updates_unseen(at.place, at.next) && inexact != Some(true) {
        return Err(Error::other(format!(
            "{name} has no primary key and no replica identity at {}, so that its updates and deletes cannot be seen: what is \
             known are the rows that were there at first and those that were inserted since{}",
            at.shown,
            remedy("shows them")
        )));
    }
    for (_, event) in archive.events(name).filter(|(_, event)| event.kind == EventKind::Partial) {
        let reason = event.detail.get("reason").and_then(serde_json::Value::as_str).unwrap_or_default();
        eprintln!("bygone: {name} is known in part: {reason}");
    }
    for version in table.unsettled(at.place, at.next) {
        if let EventLsn::Within([from, to]) = version.from {
            eprintln!(
                "bygone: the columns of {name} changed between {from} and {to}; at {} they may have been those of schema {}",
                at.shown, version.schema.version
            );
        }
    }
    Ok(())
}

/// It is about when the table's rows ended.
fn is_end(doubt: &Doubt<'_>) -> bool {
    matches!(doubt.event.kind, EventKind::Drop | EventKind::Detach)
}

/// What happened to rows that are not known exactly.
pub(super) fn unseen(doubt: &Doubt<'_>) -> &'static str {
    match doubt.event.kind {
        EventKind::Partition => match doubt.event.detail.get("action").and_then(serde_json::Value::as_str) {
            Some("detach") => "a partition was detached, without a word in the WAL",
            Some("drop") => "a partition was dropped, without a word in the WAL",
            _ => "a partition came, without a word in the WAL",
        },
        EventKind::Drop => "it was dropped, without a word in the WAL",
        EventKind::Detach => "it went out of capture, without a word in the WAL",
        EventKind::Key => "another key came to name its rows",
        _ => "its rows were rewritten, without a word in the WAL",
    }
}

/// `3 minutes`.
fn age(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.0.saturating_sub(then.0).max(0) / 1_000_000;
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7_200 => (seconds / 60, "minute"),
        7_200..172_800 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

fn parse(text: &str, now: DateTime<Local>) -> Result<Moment> {
    let text = text.trim();
    let lower = text.to_ascii_lowercase();
    if lower == "now" {
        return Ok(Moment::Now);
    }
    if let Some(xid) = lower.strip_prefix("tx:") {
        return xid.trim().parse().map(Moment::Transaction).map_err(|_| {
            Error::usage(format!("not a transaction: {text:?} (expected tx: and its number, as in tx:1234)"))
        });
    }
    if let Ok(lsn) = text.parse() {
        return Ok(Moment::Lsn(lsn));
    }
    relative(&lower, now).or_else(|| absolute(text)).map(|time| time.map(Moment::Time)).unwrap_or_else(|| {
        Err(Error::usage(format!(
            "not a moment: {text:?} (expected a time such as 2026-11-24T10:00:00Z or '2026-11-24 10:00', a date, now, today, \
             yesterday, 'yesterday 14:00', '2 hours ago', a position such as 0/15D6B88, or tx:1234)"
        )))
    })
}

/// `today`, `yesterday`, `2 hours ago`.
fn relative(text: &str, now: DateTime<Local>) -> Option<Result<Timestamp>> {
    let at = |time: DateTime<Local>| Some(Ok(Timestamp(time.timestamp_micros())));
    match text {
        "today" => return Some(local(now.date_naive().and_time(NaiveTime::MIN))),
        "yesterday" => return at(now - chrono::TimeDelta::hours(24)),
        _ => {}
    }
    if let Some((day, clock)) = text.split_once(' ')
        && matches!(day, "today" | "yesterday")
    {
        let date = if day == "today" { now.date_naive() } else { now.date_naive().pred_opt()? };
        return Some(local(date.and_time(clock_time(clock.trim())?)));
    }
    let words: Vec<&str> = text.strip_suffix("ago")?.split_whitespace().collect();
    let [count, unit] = words.as_slice() else { return None };
    let count: u32 = if matches!(*count, "a" | "an") { 1 } else { count.parse().ok()? };
    let seconds =
        |each: i64| now.checked_sub_signed(chrono::TimeDelta::try_seconds(i64::from(count) * each)?);
    let then = match unit.strip_suffix('s').unwrap_or(unit) {
        "second" | "sec" | "" => seconds(1),
        "minute" | "min" | "m" => seconds(60),
        "hour" | "h" => seconds(3_600),
        "day" | "d" => now.checked_sub_days(Days::new(u64::from(count))),
        "week" | "w" => now.checked_sub_days(Days::new(u64::from(count) * 7)),
        "month" => now.checked_sub_months(Months::new(count)),
        "year" | "y" => now.checked_sub_months(Months::new(count.checked_mul(12)?)),
        _ => return None,
    };
    at(then?)
}

/// A date, or a date and a time, with or without a zone.
fn absolute(text: &str) -> Option<Result<Timestamp>> {
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Some(local(date.and_time(NaiveTime::MIN)));
    }
    let (day, rest) = text.split_at_checked(10)?;
    let date = NaiveDate::parse_from_str(day, "%Y-%m-%d").ok()?;
    let rest = rest.strip_prefix(['T', 't', ' '])?.trim();
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.').unwrap_or(rest.len());
    let (clock, zone) = rest.split_at_checked(end)?;
    let moment = date.and_time(clock_time(clock)?);
    let zone = zone.trim();
    if zone.is_empty() {
        return Some(local(moment));
    }
    let offset = offset(zone)?;
    let time = offset.from_local_datetime(&moment).single()?;
    Some(Ok(Timestamp(time.with_timezone(&Utc).timestamp_micros())))
}

fn clock_time(text: &str) -> Option<NaiveTime> {
    ["%H:%M:%S%.f", "%H:%M"].iter().find_map(|form| NaiveTime::parse_from_str(text, form).ok())
}

/// `Z`, `UTC`, `+02`, `-0330`, `+05:30`.
fn offset(zone: &str) -> Option<FixedOffset> {
    if matches!(zone.to_ascii_lowercase().as_str(), "z" | "utc" | "gmt") {
        return FixedOffset::east_opt(0);
    }
    let negative = zone.starts_with('-');
    let digits: String = zone.strip_prefix(['+', '-'])?.split(':').collect();
    let (hours, minutes) = match digits.len() {
        1 | 2 => (digits.as_str(), "0"),
        4 => digits.split_at_checked(2)?,
        _ => return None,
    };
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    let seconds = (minutes < 60).then_some(hours * 3_600 + minutes * 60)?;
    FixedOffset::east_opt(if negative { -seconds } else { seconds })
}

/// Time of this machine's zone. Of the hour that a clock goes through twice, the first is meant.
fn local(moment: NaiveDateTime) -> Result<Timestamp> {
    match Local.from_local_datetime(&moment) {
        LocalResult::Single(time) | LocalResult::Ambiguous(time, _) => Ok(Timestamp(time.timestamp_micros())),
        LocalResult::None => {
            Err(Error::usage(format!("the local clock skipped {moment}: give the time with its zone")))
        }
    }
}

/// A time in a condition: as a moment, if it is a date or a time.
pub(crate) fn parse_time(text: &str) -> Option<Timestamp> {
    absolute(text.trim()).and_then(Result::ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Option<i64> {
        match parse(text, Local::now()) {
            Ok(Moment::Time(time)) => Some(time.0),
            _ => None,
        }
    }

    #[test]
    fn a_moment_can_be_written_in_many_ways() {
        let ten = Some(1_795_514_400_000_000);
        for text in [
            "2026-11-24T10:00:00Z",
            "2026-11-24 10:00:00+00",
            "2026-11-24T11:00:00.000000+01:00",
            "2026-11-24 15:30+0530",
            "2026-11-24 10:00 UTC",
            "2026-11-24t08:30:00-01:30",
        ] {
            assert_eq!(time(text), ten, "{text}");
        }
        assert_eq!(parse("0/15D6B88", Local::now()).unwrap(), Moment::Lsn(Lsn(0x15D_6B88)));
        assert_eq!(parse(" NOW ", Local::now()).unwrap(), Moment::Now);
        assert_eq!(parse("tx:12884902700", Local::now()).unwrap(), Moment::Transaction(12_884_902_700));
    }

    #[test]
    fn a_time_without_a_zone_is_local() {
        let here = Local.with_ymd_and_hms(2026, 11, 24, 10, 0, 0).unwrap().timestamp_micros();
        assert_eq!(time("2026-11-24 10:00"), Some(here));
        assert_eq!(time("2026-11-24"), Some(here - 10 * 3_600 * 1_000_000));
    }

    #[test]
    fn the_past_can_be_counted() {
        let now = Local::now();
        for (text, seconds) in [
            ("2 hours ago", 7_200),
            ("1 minute ago", 60),
            ("90 seconds ago", 90),
            ("an hour ago", 3_600),
            ("30 min ago", 1_800),
            ("yesterday", 86_400),
        ] {
            let Moment::Time(then) = parse(text, now).unwrap() else { panic!("{text}") };
            assert_eq!(now.timestamp_micros() - then.0, seconds * 1_000_000, "{text}");
        }
    }

    #[test]
    fn a_day_can_have_its_clock() {
        let now = Local.with_ymd_and_hms(2026, 11, 24, 18, 0, 0).unwrap();
        for (text, day, hour) in [("today 09:30", 24, 9), ("Yesterday 14:30:00", 23, 14)] {
            let then = Local.with_ymd_and_hms(2026, 11, day, hour, 30, 0).unwrap().timestamp_micros();
            assert_eq!(parse(text, now).unwrap(), Moment::Time(Timestamp(then)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_examples() {
        for text in [
            "",
            "soon",
            "2026-13-01",
            "2026-11-24 25:00",
            "2 hours",
            "-1 hours ago",
            "tx:",
            "tx:a",
            "0/",
            "2026-11-24 10:00+99:99",
            "yesterday 25:00",
            "today at noon",
        ] {
            assert!(parse(text, Local::now()).is_err(), "{text:?}");
        }
    }
}
