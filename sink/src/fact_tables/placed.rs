//! Where the facts of a commit stand by now: in the files that it added, or in those that these were merged into.
//!
//! A merged file holds facts of other commits, too, and several files of one commit may have become one: those of a first copy are all of one
//! position. So what was merged is looked for together, in each merged file that may hold some of it, and is told from the facts of other
//! commits by its positions. Only a comparison shares its position with facts of a commit before it: these the target has, and
//! facts of commits after it come later in the files, when as many were found as the commit has.

use std::collections::BTreeMap;

use bygone_replication::Lsn;

use crate::error::{Error, ErrorKind, Result};
use crate::log::{Add, LiveFile, LogState};

/// Facts of one commit that are copied together.
#[derive(Debug)]
pub(super) struct Placed<'a> {
    /// A file that the commit added, which says of what table, schema version and leaf partition they are.
    pub(super) of: &'a Add,
    /// The files that hold them, in the order of their facts.
    pub(super) files: Vec<LiveFile>,
    /// The least and the greatest of their positions.
    pub(super) range: [Lsn; 2],
    /// How many they are.
    pub(super) count: u64,
    /// The files were merged, and hold facts of other commits.
    pub(super) is_merged: bool,
}

/// What the files that were merged into one have in common: table, directory, schema version and leaf partition.
type Kin<'a> = (&'a str, &'a str, i32, u32);

fn kin(add: &Add) -> Kin<'_> {
    (&add.table, directory(&add.path), add.schema, add.leaf())
}

fn directory(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// Where the facts of commit `seq` stand, of these of its files.
///
/// # Errors
/// [`ErrorKind::Damaged`] where no live file may hold them.
pub(super) fn placed<'a>(
    log: &LogState,
    seq: u64,
    adds: impl Iterator<Item = &'a Add>,
) -> Result<Vec<Placed<'a>>> {
    let mut placed = Vec::new();
    let mut merged: BTreeMap<Kin<'a>, Placed<'a>> = BTreeMap::new();
    for add in adds {
        let file = log.file(&add.path);
        let facts = Placed {
            of: add,
            files: file.into_iter().cloned().collect(),
            range: add.lsn,
            count: add.rows,
            is_merged: file.is_none(),
        };
        if facts.is_merged {
            merged.entry(kin(add)).and_modify(|others| others.join(add)).or_insert(facts);
        } else {
            placed.push(facts);
        }
    }
    for (kin_of_all, mut facts) in merged {
        facts.files = merged_files(log, seq, kin_of_all, facts.range);
        if facts.files.is_empty() {
            let detail = format!("no live file holds what {} held", facts.of.path);
            return Err(Error::new(ErrorKind::Damaged, "a commit's facts are not to be found", detail));
        }
        placed.push(facts);
    }
    Ok(placed)
}

/// The merged files that may hold facts of commit `seq`, in the order of their facts.
fn merged_files(log: &LogState, seq: u64, of: Kin<'_>, range: [Lsn; 2]) -> Vec<LiveFile> {
    let (table, ..) = of;
    let holds = |file: &&LiveFile| {
        let [first, last] = file.commits();
        file.is_merged()
            && (first..=last).contains(&seq)
            && kin(&file.add) == of
            && file.add.lsn[0] <= range[1]
            && range[0] <= file.add.lsn[1]
    };
    log.files_of(table).into_iter().filter(holds).cloned().collect()
}

impl Placed<'_> {
    /// Takes in another file of the commit that was merged, too.
    fn join(&mut self, add: &Add) {
        self.range = [self.range[0].min(add.lsn[0]), self.range[1].max(add.lsn[1])];
        self.count += add.rows;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::log::COMMITS;
    use crate::log::path::compacted_path;
    use crate::log::tests_support::live_file;

    /// A file of commit `seq`, the `n`th of its table.
    fn added(seq: u64, n: u64, lsn: [u64; 2], rows: u64) -> Add {
        let path = format!("tables/public.t/_date=2026-11-23/{seq:020}-{n:03}.parquet");
        Add { path, lsn: lsn.map(Lsn), rows, ..live_file(seq, 1).add }
    }

    /// The file that these were merged into.
    fn merged(adds: &[&Add], commits: [u64; 2], id: u64) -> LiveFile {
        let (first, last) = (adds[0], adds[adds.len() - 1]);
        let mut add = Add { path: compacted_path(&first.path, 9, id), ..first.clone() };
        add.lsn = [first.lsn[0], last.lsn[1]];
        add.extra.insert(COMMITS.to_owned(), json!(commits));
        LiveFile { add, added_by: 9 }
    }

    fn paths(placed: &Placed<'_>) -> Vec<String> {
        placed.files.iter().map(|file| file.add.path.clone()).collect()
    }

    #[test]
    fn files_of_one_position_are_looked_for_together_in_all_that_they_were_merged_into() {
        let first_copy: Vec<Add> = (0..5).map(|n| added(1, n, [7, 7], 10 + n)).collect();
        let (before, after) = (added(0, 0, [3, 5], 1), added(2, 0, [8, 9], 1));
        let [one, two] = [
            merged(&[&before, &first_copy[0], &first_copy[1]], [0, 1], 8),
            merged(&[&first_copy[3], &first_copy[4], &after], [1, 2], 2),
        ];
        let other = merged(&[&added(3, 0, [10, 12], 1)], [3, 4], 1);
        let live = LiveFile { add: first_copy[2].clone(), added_by: 1 };
        let log = LogState::of_files([one.clone(), two.clone(), other, live.clone()]);

        let found = placed(&log, 1, first_copy.iter()).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((paths(&found[0]), found[0].is_merged, found[0].count), (vec![live.add.path], false, 12));
        assert_eq!(paths(&found[1]), [one.add.path.clone(), two.add.path]);
        assert_eq!((found[1].is_merged, found[1].count, found[1].range), (true, 48, [Lsn(7), Lsn(7)]));

        let found = placed(&log, 0, [&before].into_iter()).unwrap();
        assert_eq!((found.len(), paths(&found[0])), (1, vec![one.add.path]));
    }

    #[test]
    fn facts_that_no_live_file_holds_are_damage() {
        let gone = added(1, 0, [7, 7], 10);
        let error = placed(&LogState::of_files([]), 1, [&gone].into_iter()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
    }
}
