//! The chain of commits.

use std::collections::{BTreeMap, VecDeque};

use futures_util::{StreamExt, stream};

use super::Expectation;
use super::report::{Head, Problem, ProblemKind, Progress, Report};
use crate::content::{self, Part};
use crate::error::{ErrorKind, Result};
use crate::log::path::{check_data_path, commit_path, commit_seq};
use crate::log::{Add, Commit, ContentHash, Event, EventKind, LONGEST};
use crate::store::Store;

/// Commits read at the same time.
const READ_AHEAD: usize = 16;

/// Every path that a commit names, with what the log says of it while it is live.
pub(super) type Named = BTreeMap<String, Option<Live>>;

/// A live file.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) add: Add,
    /// What it has to be made of, one after another; the whole file, where it was never moved.
    pub(super) parts: Vec<Part>,
    /// A commit that only moves facts wrote it, in place of others.
    pub(super) moved: bool,
}

/// A commit as the next one must vouch for it.
struct Seen {
    seq: u64,
    hash: ContentHash,
    /// What it says of itself; nothing where it cannot be read.
    says: Option<Says>,
}

struct Says {
    seq: u64,
    prev: Option<ContentHash>,
}

impl Seen {
    fn is_misplaced(&self) -> bool {
        self.says.as_ref().is_some_and(|says| says.seq != self.seq)
    }
}

pub(super) async fn verify(
    store: &Store,
    objects: &BTreeMap<String, u64>,
    expected: Option<Expectation>,
    report: &mut Report,
    progress: &mut impl FnMut(&Progress),
) -> Result<Named> {
    let present: Vec<u64> = objects.keys().filter_map(|path| commit_seq(path)).collect();
    let mut state = Progress { commits_total: present.len() as u64, ..Progress::default() };
    let mut named = Named::new();
    let mut next = 0;
    let mut before: Option<Seen> = None;
    let mut accusation = None;
    let mut met = false;

    let reading = stream::iter(present).map(|seq| async move {
        let path = commit_path(seq);
        let too_long = objects.get(&path).is_some_and(|bytes| *bytes > LONGEST);
        (seq, if too_long { Ok(None) } else { store.get(&path).await.map(Some) })
    });
    let mut reading = std::pin::pin!(reading.buffered(READ_AHEAD));
    while let Some((seq, bytes)) = reading.next().await {
        report_missing(next, seq, report);
        let hole = next != seq;
        next = seq.saturating_add(1);
        let bytes = match bytes {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                report.problem(
                    ProblemKind::UnreadableCommit,
                    &commit_path(seq),
                    "it is longer than any commit",
                );
                before = None;
                continue;
            }
            Err(err) if err.kind() == ErrorKind::NotFound => {
                report_missing(seq, next, report);
                before = None;
                continue;
            }
            Err(err) => return Err(err),
        };
        let hash = ContentHash::of(&bytes);
        let commit = read_commit(&bytes, seq, report);
        let says = commit.as_ref().map(|commit| Says { seq: commit.seq, prev: commit.prev });
        let seen = Seen { seq, hash, says };
        if let Some(expected) = expected.filter(|expected| expected.seq == seq) {
            met = true;
            if expected.sha256 != hash {
                let problem = Problem::new(
                    ProblemKind::AlteredCommit,
                    &commit_path(seq),
                    "the commit is not the one that was expected: the history was rewritten",
                );
                report.problems.push(problem.values(expected.sha256, hash));
            }
        }
        let accused = verify_link(before.as_ref().filter(|_| !hole), &seen, report);
        if let (Some(_), Some(problem)) =
            (accused, accusation.and_then(|at: usize| report.problems.get_mut(at)))
        {
            problem.message.push_str("; that one was altered itself, so this one may be as it was");
        }
        accusation = accused;
        if let Some(commit) = commit {
            apply(&commit, &commit_path(seq), &mut named, report);
        }
        report.commits += 1;
        report.head = Some(Head { seq, sha256: hash });
        before = Some(seen);
        state.commits += 1;
        progress(&state);
    }
    if let (Some(expected), false) = (expected, met) {
        let problem = Problem::new(
            ProblemKind::MissingCommit,
            &commit_path(expected.seq),
            "the commit that was expected is missing: the end of the log was cut off",
        );
        report.problems.push(problem);
    }
    Ok(named)
}

/// Names the commits of a hole; of a large one, which a hostile name makes, only its bounds.
fn report_missing(from: u64, to: u64, report: &mut Report) {
    const NAMED_ONE_BY_ONE: u64 = 1000;
    for seq in (from..to).take(NAMED_ONE_BY_ONE as usize) {
        report.problem(ProblemKind::MissingCommit, &commit_path(seq), "the commit is missing");
    }
    let rest = to.saturating_sub(from).saturating_sub(NAMED_ONE_BY_ONE);
    if rest > 0 {
        let message = format!("the commit and {} after it are missing", rest - 1);
        report.problem(ProblemKind::MissingCommit, &commit_path(from + NAMED_ONE_BY_ONE), &message);
    }
}

fn read_commit(bytes: &[u8], seq: u64, report: &mut Report) -> Option<Commit> {
    let path = commit_path(seq);
    match Commit::from_bytes(bytes, seq) {
        Ok(commit) => {
            if commit.seq != seq {
                let problem = Problem::new(
                    ProblemKind::ReorderedCommit,
                    &path,
                    "another commit stands under this name",
                );
                report
                    .problems
                    .push(problem.values(format!("commit {seq}"), format!("commit {}", commit.seq)));
            }
            Some(commit)
        }
        Err(err) => {
            let kind = match err.kind() {
                ErrorKind::NewerFormat => ProblemKind::NewerFormat,
                _ => ProblemKind::UnreadableCommit,
            };
            report.problem(kind, &path, &err.to_string());
            None
        }
    }
}

/// Whether `seen` vouches for the commit before it. Where it does not, the one before is named, and the problem's place in
/// the report returned: a change in `seen` breaks the next link too, and is named there.
fn verify_link(before: Option<&Seen>, seen: &Seen, report: &mut Report) -> Option<usize> {
    // Commits under wrong names are reported as such; their links must be broken.
    let says = seen.says.as_ref().filter(|_| !seen.is_misplaced())?;
    let mut accuse = |seq, message: &str, expected: String, found: String| {
        let problem = Problem::new(ProblemKind::AlteredCommit, &commit_path(seq), message);
        report.problems.push(problem.values(expected, found));
        report.problems.len() - 1
    };
    if seen.seq == 0 {
        let prev = says.prev?;
        let what = "the first commit was altered: it says that there was one before it";
        accuse(0, what, "none".to_owned(), prev.to_string());
        return None;
    }
    let before = before.filter(|before| !before.is_misplaced())?;
    if says.prev == Some(before.hash) {
        return None;
    }
    let message = format!("the commit was altered: {} holds another SHA-256 of it", commit_path(seen.seq));
    let said = says.prev.map_or_else(|| "none".to_owned(), |prev| prev.to_string());
    Some(accuse(before.seq, &message, said, before.hash.to_string()))
}

fn apply(commit: &Commit, commit_path: &str, named: &mut Named, report: &mut Report) {
    let lost = |event: &&Event| matches!(event.kind, EventKind::Gap | EventKind::Fork);
    report.gaps.extend(commit.body.events.iter().filter(lost).cloned());
    let mut gone: VecDeque<Live> = VecDeque::new();
    for path in &commit.body.remove {
        if let Some(live) = named.get_mut(path).and_then(Option::take) {
            gone.push_back(live);
        } else {
            let message = format!("the commit removes {path:?}, which is not live");
            report.problem(ProblemKind::RemoveNotLive, commit_path, &message);
        }
    }
    let aside = commit.body.is_aside();
    let whole = report_lost(commit, &gone, commit_path, report) && aside;
    for add in &commit.body.add {
        let parts = if whole {
            report_altered(add, &mut gone, commit_path, report)
        } else if aside {
            // Where facts are missing, more cannot be said.
            Vec::new()
        } else {
            vec![Part { seq: commit.seq, rows: add.rows, content: add.digest }]
        };
        if let Err(err) = check_data_path(&add.path) {
            report.problem(ProblemKind::UnsafePath, commit_path, &format!("the commit adds a file: {err}"));
        } else if named.contains_key(&add.path) {
            let message = format!("the commit adds {}, which was named before", add.path);
            report.problem(ProblemKind::DuplicateAdd, commit_path, &message);
        } else {
            named.insert(add.path.clone(), Some(Live { add: add.clone(), parts, moved: aside }));
        }
    }
}

/// Of a commit that only moves facts: that as many come in as go out, table by table; of another, that no more go out than come in.
fn report_lost(commit: &Commit, gone: &VecDeque<Live>, commit_path: &str, report: &mut Report) -> bool {
    // What comes in less what goes out.
    let mut moved: BTreeMap<&str, i128> = BTreeMap::new();
    for add in &commit.body.add {
        *moved.entry(&add.table).or_default() += i128::from(add.rows);
    }
    for live in gone {
        *moved.entry(&live.add.table).or_default() -= i128::from(live.add.rows);
    }
    let aside = commit.body.is_aside();
    moved.retain(|_, rows| if aside { *rows != 0 } else { *rows < 0 });
    for (table, rows) in &moved {
        let message = if aside {
            format!("the commit only moves facts, and that of {table} changes their number by {rows}")
        } else {
            format!("the commit removes facts of {table}: {} more than it adds", -rows)
        };
        report.problem(ProblemKind::LostFacts, commit_path, &message);
    }
    moved.is_empty()
}

/// Takes the next of the files that are gone for those that a merged file is of, and compares what they are said to hold. Gives
/// the parts that the file has to be made of.
fn report_altered(add: &Add, gone: &mut VecDeque<Live>, commit_path: &str, report: &mut Report) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut digests = Vec::new();
    let mut rows = 0;
    while rows < add.rows
        && let Some(live) = gone.pop_front_if(|live| live.add.table == add.table)
    {
        rows += live.add.rows;
        parts.extend(live.parts);
        digests.push(live.add.digest);
    }
    if rows != add.rows {
        let message = format!("{} is not of the files that it replaces, one after another", add.path);
        report.problem(ProblemKind::AlteredFacts, commit_path, &message);
        return Vec::new();
    }
    let expected = digests.into_iter().collect::<Option<Vec<_>>>().map(content::of_parts);
    if expected.is_some() && add.digest != expected {
        let told =
            |digest: Option<ContentHash>| digest.map_or_else(|| "none".to_owned(), |hash| hash.to_string());
        let message = format!("{} is said to hold other facts than the files that it replaces", add.path);
        let problem = Problem::new(ProblemKind::AlteredFacts, commit_path, &message);
        report.problems.push(problem.values(told(expected), told(add.digest)));
    }
    parts
}
