//! Which files are merged.

use std::collections::BTreeMap;

use crate::log::{LiveFile, LogState};

use super::Policy;

/// Files below this are of the first size.
const SMALLEST: u64 = 64 << 10;

/// Files that become one.
#[derive(Debug)]
pub(super) struct Group {
    /// In the order of their facts.
    pub(super) files: Vec<LiveFile>,
}

/// The directory, schema version and leaf partition of a file: what files have to share to become one.
type Kin<'a> = (&'a str, &'a str, i32, u32);

/// All that is due among the files of commits up to `last`.
pub(super) fn plan(log: &LogState, policy: &Policy, last: Option<u64>) -> Vec<Group> {
    let mut kin: BTreeMap<Kin<'_>, Vec<&LiveFile>> = BTreeMap::new();
    // A file is read into memory as a whole: one with large values is as large as these, however well they are packed.
    let due_by = |file: &LiveFile| Some(file.commits()[1]) <= last && !file.add.is_large();
    for (path, file) in log.files().filter(|(_, file)| due_by(file)) {
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        kin.entry((&file.add.table, directory, file.add.schema, file.add.leaf())).or_default().push(file);
    }
    let mut groups = Vec::new();
    for (_, mut files) in kin {
        files.sort_by(|a, b| a.in_order(b));
        groups.extend(due(&files, policy));
    }
    groups
}

/// The first stretch of neighbours, of the smallest size for which there is one: enough of about that size, with what is
/// smaller between them.
fn due(files: &[&LiveFile], policy: &Policy) -> Option<Group> {
    let fan_in = policy.fan_in.max(2);
    let (mut least, mut size) = (0, SMALLEST);
    loop {
        // A file is read into memory as a whole: those of more than half the target stay as they are.
        let below = |file: &LiveFile| file.add.bytes < size && file.add.bytes <= policy.target_bytes / 2;
        for stretch in files.chunk_by(|a, b| below(a) && below(b)) {
            let mut bytes = 0;
            let fits = stretch.iter().take_while(|file| {
                bytes += file.add.bytes;
                bytes <= policy.target_bytes
            });
            let fits = fits.count();
            let chosen = stretch.get(..fits).unwrap_or_default();
            let of_size = chosen.iter().filter(|file| file.add.bytes >= least).count();
            // A file that would be full is made, however few become it.
            let full = fits < stretch.len()
                && chosen.iter().map(|file| file.add.bytes).sum::<u64>() > policy.target_bytes / 2;
            if fits >= 2 && (of_size >= fan_in || full) {
                return Some(Group { files: chosen.iter().map(|file| (*file).clone()).collect() });
            }
        }
        if size >= policy.target_bytes {
            return None;
        }
        // With a fan-in of two everything that fits is merged.
        least = if fan_in == 2 { 0 } else { size };
        size = size.saturating_mul(8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tests_support::live_file;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    fn policy(fan_in: usize) -> Policy {
        Policy { fan_in, target_bytes: 128 * MIB, ..Policy::default() }
    }

    fn sizes(files: &[u64], fan_in: usize) -> Vec<u64> {
        let files: Vec<LiveFile> = (0..).zip(files).map(|(at, bytes)| live_file(at, *bytes)).collect();
        let files: Vec<&LiveFile> = files.iter().collect();
        let group = due(&files, &policy(fan_in));
        group.map(|group| group.files.iter().map(|file| file.add.bytes).collect()).unwrap_or_default()
    }

    #[test]
    fn as_many_neighbours_of_a_size_as_it_takes_become_one() {
        assert_eq!(sizes(&[KIB; 7], 8), [0u64; 0]);
        assert_eq!(sizes(&[KIB; 9], 8), [KIB; 9]);
        assert_eq!(sizes(&[&[200 * KIB; 7][..], &[KIB; 7]].concat(), 8), [0u64; 0]);
        let mixed = [&[200 * KIB; 4][..], &[KIB], &[200 * KIB; 4]].concat();
        assert_eq!(sizes(&mixed, 8), mixed);
        assert_eq!(sizes(&[&[9 * MIB][..], &[KIB; 8]].concat(), 8), [KIB; 8]);
        assert_eq!(sizes(&[KIB, 200 * MIB, KIB], 2), [0u64; 0]);
    }

    #[test]
    fn no_file_grows_beyond_the_target() {
        assert_eq!(sizes(&[50 * MIB, 50 * MIB, 50 * MIB], 2), [50 * MIB, 50 * MIB]);
        assert_eq!(sizes(&[127 * MIB, 2 * MIB], 2), [0u64; 0]);
        assert_eq!(
            sizes(&[&[60 * MIB; 2][..], &[MIB; 3], &[60 * MIB]].concat(), 8),
            [&[60 * MIB; 2][..], &[MIB; 3]].concat()
        );
    }

    /// A day of commits every ten seconds leaves tens of files, each byte having been rewritten a few times.
    #[test]
    fn a_day_of_commits_leaves_tens_of_files() {
        let mut files: Vec<u64> = Vec::new();
        let (mut rewritten, mut written) = (0, 0);
        for commit in 1..=8640 {
            files.push(20 * KIB);
            written += 20 * KIB;
            // Every five minutes.
            if commit % 30 != 0 {
                continue;
            }
            loop {
                let live: Vec<LiveFile> =
                    (0..).zip(&files).map(|(at, bytes)| live_file(at, *bytes)).collect();
                let Some(group) = due(&live.iter().collect::<Vec<_>>(), &policy(8)) else { break };
                let first = group.files[0].added_by as usize;
                let bytes: u64 = group.files.iter().map(|file| file.add.bytes).sum();
                files.splice(first..first + group.files.len(), [bytes]);
                rewritten += bytes;
            }
        }
        assert!(files.len() <= 40, "{} files: {files:?}", files.len());
        assert!(rewritten <= 5 * written, "{rewritten} bytes rewritten of {written}");
    }
}
