//! What would go wrong with a capture of this source, and the exact fix for each.
//!
//! Everything here reads: no table is locked, no row is written, no slot is made.

mod server;
mod tables;

use serde::Serialize;

pub use server::{WantedSlot, server};
pub use tables::{Sample, cascades, published, publishing, sample, tables};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// A capture works, and something about it is worth knowing, or will go wrong one day.
    Warning,
    /// A capture does not begin, or loses something.
    Problem,
}

impl Level {
    /// The level as it is printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// What was found about one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Which check: the same word in all versions.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// What to run to set it right: SQL for the source, or a command for the shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    /// All is well.
    #[must_use]
    pub fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, message: message.into(), fix: None }
    }

    /// Worth knowing.
    #[must_use]
    pub fn warning(check: &'static str, message: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::ok(check, message) }
    }

    /// In the way.
    #[must_use]
    pub fn problem(check: &'static str, message: impl Into<String>) -> Self {
        Self { level: Level::Problem, ..Self::ok(check, message) }
    }

    /// The same with its remedy.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}
