//! What a verification found.

use std::fmt;

use serde::Serialize;

use crate::log::{ContentHash, Event};

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// There is no problem. Warnings do not count.
    pub ok: bool,
    /// The history's id.
    pub history: Option<String>,
    /// Commits read.
    pub commits: u64,
    /// Live files found as the log says.
    pub files: u64,
    /// Facts in them.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Checkpoints that hold what the log says.
    pub checkpoints: u64,
    /// Slabs that hold what the facts say. They are looked at where log and files are whole.
    pub slabs: u64,
    /// Rows in them.
    pub slab_rows: u64,
    /// Indexes that say where an entity's facts are.
    pub indexes: u64,
    /// The last commit. Kept elsewhere, it lets a later verification prove that nothing up to here was changed.
    pub head: Option<Head>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What is odd and does no harm.
    pub warnings: Vec<Problem>,
    /// What the history itself says it does not know: gaps, and forks of the source's timeline.
    pub gaps: Vec<Event>,
}

impl Report {
    /// There is no problem. Warnings do not count.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn problem(&mut self, kind: ProblemKind, path: &str, message: &str) {
        self.problems.push(Problem::new(kind, path, message));
    }

    pub(super) fn warning(&mut self, kind: ProblemKind, path: &str, message: &str) {
        self.warnings.push(Problem::new(kind, path, message));
    }
}

/// The last commit of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Head {
    /// Its sequence number.
    pub seq: u64,
    /// SHA-256 of its bytes.
    pub sha256: ContentHash,
}

/// One thing that is not as the log says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What sort of thing.
    pub kind: ProblemKind,
    /// The object.
    pub path: String,
    /// What the log says, where that is one value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What was found instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// What is wrong, as a sentence.
    pub message: String,
}

impl Problem {
    pub(super) fn new(kind: ProblemKind, path: &str, message: &str) -> Self {
        Self { kind, path: path.to_owned(), expected: None, found: None, message: message.to_owned() }
    }

    pub(super) fn values(mut self, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        (self.expected, self.found) = (Some(expected.to_string()), Some(found.to_string()));
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)?;
        if let (Some(expected), Some(found)) = (&self.expected, &self.found) {
            write!(f, " (expected {expected}, found {found})")?;
        }
        Ok(())
    }
}

/// What sort of damage a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProblemKind {
    /// `bygone.json` is missing.
    MissingManifest,
    /// `bygone.json` is no manifest.
    UnreadableManifest,
    /// A commit between others, or up to the expected one, is missing.
    MissingCommit,
    /// A commit's bytes are not those of which the next one holds the hash.
    AlteredCommit,
    /// A commit stands under another one's name.
    ReorderedCommit,
    /// A commit is no document that can be read.
    UnreadableCommit,
    /// A commit was written by a newer bygone.
    NewerFormat,
    /// A commit names a path that is no data file of the history.
    UnsafePath,
    /// A commit adds a file that was named before.
    DuplicateAdd,
    /// A commit removes a file that is not live.
    RemoveNotLive,
    /// A live file is not there.
    MissingFile,
    /// A live file is shorter than it was.
    TruncatedFile,
    /// A live file's bytes are not those that were written.
    AlteredFile,
    /// A live file has the right bytes, and they are no Parquet file.
    UnreadableFile,
    /// A live file holds another number of facts than the log says.
    RowCount,
    /// A commit that only moves facts from file to file moves out more, or fewer, than it moves in.
    LostFacts,
    /// A merged file holds other facts than the files that it replaced did.
    AlteredFacts,
    /// A checkpoint holds something else than the log says, or cannot be read.
    FalseCheckpoint,
    /// A slab holds other rows than the facts it was made from, or cannot be read.
    FalseSlab,
    /// An index is not of the facts in its file, or cannot be read.
    FalseIndex,
    /// A slab cannot be held against the facts: the one before it is missing.
    UnprovenSlab,
    /// A data file that no commit names: an orphan, or of a commit that is under way.
    UnreferencedFile,
    /// An object that is no part of a history.
    UnknownObject,
}

/// How far a verification has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Commits read.
    pub commits: u64,
    /// Commits there are.
    pub commits_total: u64,
    /// Files read.
    pub files: u64,
    /// Live files there are, as far as commits were read.
    pub files_total: u64,
    /// Bytes of files read.
    pub bytes: u64,
    /// Bytes of live files there are, as far as commits were read.
    pub bytes_total: u64,
}
