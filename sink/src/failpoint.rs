//! Named places at which a test can make bygone die, stall or fail.
//!
//! Compiled in always; one relaxed atomic load where none is set. Set through the environment before the first hit:
//!
//! ```text
//! BYGONE_FAILPOINTS="commit.before_put=abort;file.after_upload=abort@3;ack.before=sleep(500)"
//! ```
//!
//! Actions: `abort` ends the process at once, running nothing that a kill would not run; `panic` panics; `sleep(ms)` blocks
//! the thread; `error` makes [`hit`] fail. `@n` acts on the n-th hit only (counted from 1), otherwise every hit acts.

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// The environment variable that sets failpoints.
pub const VARIABLE: &str = "BYGONE_FAILPOINTS";

/// Every failpoint there is, roughly in the order of a capture's life.
pub const NAMES: [&str; 30] = [
    "catalog.asked",
    "snapshot.after_slot",
    "snapshot.before_lock",
    "gap.after_slot",
    "copy.begun",
    "copy.ready",
    "join.before_cut",
    "snapshot.table_done",
    "spool.after_write",
    "file.before_write",
    "file.after_write",
    "file.after_upload",
    "commit.before_put",
    "commit.after_put",
    "state.before_apply",
    "state.after_apply",
    "ack.before",
    "ack.after",
    "compact.after_file",
    "compact.before_commit",
    "compact.after_commit",
    "compact.before_delete",
    "index.before_file",
    "slab.before_file",
    "slab.after_file",
    "delta.before_put",
    "facts.tables_made",
    "facts.before_commit",
    "facts.after_commit",
    "spool.begun",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Abort,
    Panic,
    Sleep(Duration),
    Error,
}

#[derive(Debug)]
struct Failpoint {
    name: &'static str,
    action: Action,
    /// Act on this hit only, counted from 1; on every hit without it.
    only: Option<u64>,
    hits: AtomicU64,
}

/// A parsed list of failpoints.
#[derive(Debug, Default)]
struct Failpoints(Vec<Failpoint>);

static SET: OnceLock<Result<Failpoints, String>> = OnceLock::new();

/// Reads [`VARIABLE`]. Called once at start-up, so that a misspelt failpoint stops bygone rather than testing nothing.
///
/// # Errors
/// [`ErrorKind::Configuration`] for unknown names and actions.
pub fn init() -> Result<()> {
    match set() {
        Ok(_) => Ok(()),
        Err(what) => {
            Err(Error::new(ErrorKind::Configuration, "bad failpoint list", format!("{VARIABLE}: {what}")))
        }
    }
}

/// Passes the failpoint `name`: does nothing unless it is set.
///
/// # Errors
/// [`ErrorKind::Failpoint`] where the action is `error`; [`ErrorKind::Configuration`] where the list is no good.
pub fn hit(name: &'static str) -> Result<()> {
    debug_assert!(NAMES.contains(&name), "{name} is not in failpoint::NAMES");
    match set() {
        Ok(points) if points.0.is_empty() => Ok(()),
        Ok(points) => points.hit(name),
        Err(_) => init(),
    }
}

fn set() -> &'static Result<Failpoints, String> {
    SET.get_or_init(|| match std::env::var(VARIABLE) {
        Ok(text) => text.parse(),
        Err(std::env::VarError::NotPresent) => Ok(Failpoints::default()),
        Err(err) => Err(err.to_string()),
    })
}

impl Failpoints {
    fn hit(&self, name: &str) -> Result<()> {
        for point in self.0.iter().filter(|point| point.name == name) {
            let hits = point.hits.fetch_add(1, Ordering::SeqCst) + 1;
            if point.only.is_some_and(|only| only != hits) {
                continue;
            }
            match point.action {
                Action::Abort => std::process::abort(),
                Action::Panic => panic!("failpoint {name} said so"),
                Action::Sleep(time) => std::thread::sleep(time),
                Action::Error => {
                    return Err(Error::new(ErrorKind::Failpoint, "a failpoint said so", point.name));
                }
            }
        }
        Ok(())
    }
}

impl FromStr for Failpoints {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
        parts.map(parse_one).collect::<Result<_, _>>().map(Self)
    }
}

fn parse_one(text: &str) -> Result<Failpoint, String> {
    let (name, action) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form name=action"))?;
    let name = name.trim();
    let name = NAMES
        .into_iter()
        .find(|known| *known == name)
        .ok_or_else(|| format!("no failpoint {name:?}; there are {}", NAMES.join(", ")))?;
    let (action, only) = match action.split_once('@') {
        None => (action, None),
        Some((action, n)) => match n.trim().parse() {
            Ok(n) if n > 0 => (action, Some(n)),
            _ => return Err(format!("{n:?} is not the number of a hit (1, 2, …)")),
        },
    };
    let action = match action.trim() {
        "abort" => Action::Abort,
        "panic" => Action::Panic,
        "error" => Action::Error,
        other => other
            .strip_prefix("sleep(")
            .and_then(|rest| rest.strip_suffix(')'))
            .and_then(|ms| ms.trim().parse().ok())
            .map(|ms| Action::Sleep(Duration::from_millis(ms)))
            .ok_or_else(|| format!("no action {other:?}; there are abort, panic, error and sleep(ms)"))?,
    };
    Ok(Failpoint { name, action, only, hits: AtomicU64::new(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acts_on_the_named_hit_only() {
        let points: Failpoints = " commit.before_put = error@2 ; ack.before=sleep(1);".parse().unwrap();
        assert!(points.hit("commit.before_put").is_ok());
        assert!(points.hit("ack.before").is_ok());
        assert_eq!(points.hit("commit.before_put").unwrap_err().kind(), ErrorKind::Failpoint);
        assert!(points.hit("commit.before_put").is_ok());
    }

    #[test]
    fn without_a_number_every_hit_acts() {
        let points: Failpoints = "ack.after=error".parse().unwrap();
        assert!(points.hit("ack.after").is_err());
        assert!(points.hit("ack.after").is_err());
    }

    #[test]
    fn what_is_misspelt_is_refused() {
        for text in [
            "commit.before_putt=abort",
            "abort",
            "ack.after=",
            "ack.after=die",
            "ack.after=abort@0",
            "ack.after=abort@x",
            "ack.after=sleep",
            "ack.after=sleep()",
            "ack.after=sleep(-1)",
            "=abort",
        ] {
            assert!(text.parse::<Failpoints>().is_err(), "{text:?}");
        }
        assert!("".parse::<Failpoints>().unwrap().0.is_empty());
    }
}
