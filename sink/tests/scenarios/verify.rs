//! Every kind of damage is named.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bygone_sink::error::ErrorKind;
use bygone_sink::log::path::commit_path;
use bygone_sink::log::{Commit, ContentHash};
use bygone_sink::store::Store;
use bygone_sink::verify::{Expectation, ProblemKind, Report, verify};
use bytes::Bytes;
use tempfile::TempDir;

use crate::support::fixture::{body, commit, file, writer};
use crate::support::place::{block_on, directory, each};

/// Six commits with a file each; commit 5 removes the file of commit 0.
struct Damaged {
    directory: TempDir,
    store: Store,
}

impl Damaged {
    fn new() -> Self {
        let (directory, store) = directory();
        block_on(async {
            let mut writer = writer(&store).await;
            for rows in 1..=5 {
                let _ = commit(&mut writer, rows).await;
            }
            let mut last = body(200, vec![file(&writer, 6).await]);
            last.remove = vec![writer.state().files().next().unwrap().0.to_owned()];
            let _ = writer.append(last).await.unwrap();
        });
        Self { directory, store }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join("history").join(path)
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.at(path)).unwrap()
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.at(path), bytes).unwrap();
    }

    fn edit(&self, seq: u64, edit: impl FnOnce(&mut Commit)) {
        let mut commit = Commit::from_bytes(&self.read(&commit_path(seq)), seq).unwrap();
        edit(&mut commit);
        self.write(&commit_path(seq), commit.to_bytes().unwrap());
    }

    /// The data file of commit `seq`.
    fn file(&self, seq: u64) -> String {
        format!("tables/public.orders/_date=2026-11-23/{seq:020}-000.parquet")
    }

    fn verify(&self) -> Report {
        self.verify_from(None)
    }

    fn verify_from(&self, expected: Option<Expectation>) -> Report {
        block_on(verify(&self.store, expected, |_| {})).unwrap()
    }

    /// Exactly these problems, each with its object.
    fn expect(&self, problems: &[(ProblemKind, &str)]) -> Report {
        let report = self.verify();
        let found: BTreeSet<_> =
            report.problems.iter().map(|problem| (problem.kind as u8, problem.path.as_str())).collect();
        let expected: BTreeSet<_> = problems.iter().map(|(kind, path)| (*kind as u8, *path)).collect();
        assert_eq!(found, expected, "{report:#?}");
        assert_eq!(report.ok, problems.is_empty());
        assert_eq!(report.is_ok(), problems.is_empty());
        report
    }
}

#[test]
fn a_whole_history_is_found_whole_wherever_it_is() {
    each(|store| async move {
        let mut writer = writer(&store).await;
        for rows in 1..=5 {
            let _ = commit(&mut writer, rows).await;
        }
        let mut calls = Vec::new();
        let report = verify(&store, None, |progress| calls.push(*progress)).await.unwrap();
        assert!(report.ok && report.problems.is_empty() && report.warnings.is_empty(), "{report:#?}");
        assert_eq!((report.commits, report.files, report.rows), (5, 5, 15));
        assert_eq!(report.head.unwrap().sha256, writer.state().last_hash.unwrap());
        assert_eq!(calls.len(), 10, "one call a commit and a file");
        let last = calls.last().unwrap();
        assert_eq!((last.files, last.bytes), (last.files_total, last.bytes_total));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["ok"], true);
        assert_eq!(json["head"]["seq"], 4);
    });
}

#[test]
fn where_there_is_nothing_there_is_no_history() {
    let (_directory, store) = directory();
    assert_eq!(block_on(verify(&store, None, |_| {})).unwrap_err().kind(), ErrorKind::NoHistory);
}

#[test]
fn a_flipped_bit_in_a_file_is_named_wherever_it_is() {
    let history = Damaged::new();
    let path = history.file(2);
    let whole = history.read(&path);
    for at in [0, 4, whole.len() / 2, whole.len() - 5, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        history.write(&path, &bytes);
        let report = history.expect(&[(ProblemKind::AlteredFile, &path)]);
        assert_eq!(report.problems[0].expected.as_deref(), Some(&*ContentHash::of(&whole).to_string()));
        assert_eq!(report.problems[0].found.as_deref(), Some(&*ContentHash::of(&bytes).to_string()));
    }
    history.write(&path, whole);
    history.expect(&[]);
}

#[test]
fn a_file_that_is_missing_or_has_another_length_is_named() {
    let history = Damaged::new();
    let [gone, short, long] = [1, 2, 3].map(|seq| history.file(seq));
    fs::remove_file(history.at(&gone)).unwrap();
    let bytes = history.read(&short);
    history.write(&short, &bytes[..bytes.len() - 1]);
    let bytes = history.read(&long);
    history.write(&long, [bytes, b"x".to_vec()].concat());
    history.expect(&[
        (ProblemKind::MissingFile, &gone),
        (ProblemKind::TruncatedFile, &short),
        (ProblemKind::AlteredFile, &long),
    ]);
}

#[test]
fn a_file_that_was_removed_by_a_commit_may_be_gone() {
    let history = Damaged::new();
    history.expect(&[]);
    fs::remove_file(history.at(&history.file(0))).unwrap();
    history.expect(&[]);
}

#[test]
fn a_commit_that_removes_more_than_it_adds_is_named() {
    let history = Damaged::new();
    let more = [history.file(3), history.file(4)];
    history.edit(5, |commit| commit.body.remove.extend(more));
    history.expect(&[(ProblemKind::LostFacts, &commit_path(5))]);
}

#[test]
fn a_missing_commit_is_named() {
    for gone in [0, 3] {
        let history = Damaged::new();
        fs::remove_file(history.at(&commit_path(gone))).unwrap();
        let report = history.verify();
        assert!(!report.ok);
        assert_eq!(report.problems[0].kind, ProblemKind::MissingCommit);
        assert_eq!(report.problems[0].path, commit_path(gone));
        assert!(
            report.warnings.iter().any(|warning| warning.path == history.file(gone)),
            "its file is named too"
        );
    }
}

#[test]
fn an_edited_commit_is_named_unless_it_is_the_last() {
    for seq in 0..5 {
        let history = Damaged::new();
        history.edit(seq, |commit| commit.body.source.database = "other".to_owned());
        let report = history.expect(&[(ProblemKind::AlteredCommit, &commit_path(seq))]);
        let next = Commit::from_bytes(&history.read(&commit_path(seq + 1)), seq + 1).unwrap();
        assert_eq!(report.problems[0].expected, next.prev.map(|prev| prev.to_string()));
    }
    // Nothing vouches for the last but what was kept elsewhere.
    let history = Damaged::new();
    let head = history.verify().head.unwrap();
    let expected = Expectation { seq: head.seq, sha256: head.sha256 };
    history.edit(5, |commit| commit.body.source.database = "other".to_owned());
    history.expect(&[]);
    assert_eq!(history.verify_from(Some(expected)).problems[0].kind, ProblemKind::AlteredCommit);
}

#[test]
fn one_byte_of_a_commit_s_space_counts() {
    let history = Damaged::new();
    let text = String::from_utf8(history.read(&commit_path(1))).unwrap();
    history.write(&commit_path(1), text.replacen(',', ", ", 1));
    history.expect(&[(ProblemKind::AlteredCommit, &commit_path(1))]);
}

#[test]
fn a_commit_with_a_false_predecessor_is_named() {
    let history = Damaged::new();
    history.edit(3, |commit| commit.prev = Some(ContentHash([0; 32])));
    let report = history.expect(&[
        (ProblemKind::AlteredCommit, &commit_path(2)),
        (ProblemKind::AlteredCommit, &commit_path(3)),
    ]);
    assert!(report.problems[0].message.contains("this one may be as it was"), "{report:#?}");
}

#[test]
fn reordered_commits_are_named() {
    let history = Damaged::new();
    let (two, three) = (history.read(&commit_path(2)), history.read(&commit_path(3)));
    history.write(&commit_path(2), three);
    history.write(&commit_path(3), two);
    history.expect(&[
        (ProblemKind::ReorderedCommit, &commit_path(2)),
        (ProblemKind::ReorderedCommit, &commit_path(3)),
    ]);
}

#[test]
fn a_commit_dropped_and_its_followers_renumbered_is_named() {
    let history = Damaged::new();
    for seq in 2..5 {
        let next = history.read(&commit_path(seq + 1));
        history.write(&commit_path(seq), next);
    }
    fs::remove_file(history.at(&commit_path(5))).unwrap();
    let report = history.verify();
    for seq in 2..5 {
        assert!(
            report
                .problems
                .iter()
                .any(|problem| problem.kind == ProblemKind::ReorderedCommit
                    && problem.path == commit_path(seq)),
            "{report:#?}"
        );
    }
}

#[test]
fn a_log_cut_off_at_its_end_is_told_by_what_was_kept_elsewhere() {
    let history = Damaged::new();
    let head = history.verify().head.unwrap();
    fs::remove_file(history.at(&commit_path(5))).unwrap();
    let report = history.expect(&[]);
    let file = history.file(5);
    assert_eq!(report.warnings.iter().map(|warning| &warning.path).collect::<Vec<_>>(), [&file]);
    let expected = Expectation { seq: head.seq, sha256: head.sha256 };
    let report = history.verify_from(Some(expected));
    assert_eq!(report.problems[0].kind, ProblemKind::MissingCommit);
}

#[test]
fn a_commit_that_cannot_be_read_is_named() {
    let history = Damaged::new();
    let whole = history.read(&commit_path(5));
    for bytes in [&b""[..], b"{", b"\0\0\0", &whole[..whole.len() / 2], b"[[[[[["] {
        history.write(&commit_path(5), bytes);
        let report = history.verify();
        assert_eq!(report.problems[0].kind, ProblemKind::UnreadableCommit, "{report:#?}");
        assert_eq!(report.problems[0].path, commit_path(5));
    }
    history.write(&commit_path(5), b"{\"format\":9}\n");
    assert_eq!(history.verify().problems[0].kind, ProblemKind::NewerFormat);
}

#[test]
fn a_hostile_log_is_refused_by_name() {
    let history = Damaged::new();
    let known = history.file(2);
    history.edit(5, |commit| {
        let add = commit.body.add[0].clone();
        for path in
            ["../../etc/passwd", "/etc/passwd", "log/00000000000000000000.json", "tables/x\n.parquet", &known]
        {
            let mut bad = add.clone();
            bad.path = path.to_owned();
            commit.body.add.push(bad);
        }
        commit.body.remove.push("tables/never.parquet".to_owned());
    });
    let report = history.verify();
    let count = |kind| report.problems.iter().filter(|problem| problem.kind == kind).count();
    assert_eq!(count(ProblemKind::UnsafePath), 4, "{report:#?}");
    assert_eq!(count(ProblemKind::DuplicateAdd), 1, "{report:#?}");
    assert_eq!(count(ProblemKind::RemoveNotLive), 1, "{report:#?}");
    assert_eq!(report.problems.len(), 6, "{report:#?}");
}

#[test]
fn a_commit_with_a_giant_number_does_no_harm() {
    let history = Damaged::new();
    history.write("log/18446744073709551615.json", b"{}");
    let report = history.verify();
    assert!(!report.ok);
    assert!(report.problems.len() < 2_000);
}

#[test]
fn a_false_row_count_is_named() {
    let history = Damaged::new();
    history.edit(5, |commit| commit.body.add[0].rows += 1);
    let path = history.file(5);
    let report = history.expect(&[(ProblemKind::RowCount, &path)]);
    assert_eq!(report.problems[0].expected.as_deref(), Some("7"));
    assert_eq!(report.problems[0].found.as_deref(), Some("6"));
}

#[test]
fn files_that_are_no_parquet_are_named_although_their_hash_is_right() {
    let history = Damaged::new();
    let path = history.file(5);
    let whole = history.read(&path);
    let mut bad_footers = vec![
        Vec::new(),
        b"PAR1".to_vec(),
        b"\xFF\xFF\xFF\xFFPAR1".to_vec(),
        b"PAR1\0\0\0\0PAR1".to_vec(),
        vec![b'x'; 1000],
    ];
    // Every bit of the real footer in turn; those that still read and still say six rows are as good as before.
    let footer = u32::from_le_bytes(whole[whole.len() - 8..whole.len() - 4].try_into().unwrap()) as usize;
    for at in (whole.len() - 8 - footer..whole.len() - 4).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bad_footers.push(bytes);
    }
    let must_fail = 5;
    for (n, bytes) in bad_footers.into_iter().enumerate() {
        history.write(&path, &bytes);
        history.edit(5, |commit| {
            commit.body.add[0].sha256 = ContentHash::of(&bytes);
            commit.body.add[0].bytes = bytes.len() as u64;
        });
        let report = history.verify();
        if n < must_fail {
            assert_eq!(report.problems.len(), 1, "{n}: {report:#?}");
            assert_eq!(
                (report.problems[0].kind, &report.problems[0].path),
                (ProblemKind::UnreadableFile, &path)
            );
        }
        assert!(report.problems.len() <= 1);
    }
}

#[test]
fn what_nobody_names_is_a_warning() {
    let history = Damaged::new();
    let orphan = "tables/public.orders/_date=2026-11-23/00000000000000000003-007.parquet";
    block_on(async {
        for path in
            [orphan, "notes.txt", "tables/public.orders/_delta_log/00000000000000000000.json", "log/readme"]
        {
            history.store.put_new(path, Bytes::from_static(b"x")).await.unwrap();
        }
    });
    let report = history.expect(&[]);
    let mut warned: Vec<_> =
        report.warnings.iter().map(|warning| (warning.kind, warning.path.as_str())).collect();
    warned.sort_by_key(|(_, path)| *path);
    assert_eq!(
        warned,
        [
            (ProblemKind::UnknownObject, "log/readme"),
            (ProblemKind::UnknownObject, "notes.txt"),
            (ProblemKind::UnreferencedFile, orphan)
        ]
    );
}

#[test]
fn a_manifest_that_is_missing_or_bad_is_named() {
    let history = Damaged::new();
    history.write("bygone.json", b"{}");
    history.expect(&[(ProblemKind::UnreadableManifest, "bygone.json")]);
    fs::remove_file(history.at("bygone.json")).unwrap();
    history.expect(&[(ProblemKind::MissingManifest, "bygone.json")]);
}

#[test]
fn verifying_changes_nothing() {
    let history = Damaged::new();
    let root = history.directory.path().join("history");
    let before = names(&root);
    history.verify();
    assert_eq!(names(&root), before);
}

fn names(directory: &Path) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(names(&path));
        }
        all.insert(path);
    }
    all
}
