//! Damaged files: the state is wiped or says so; it neither panics nor answers wrongly.

use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::{CACHE, identity, open, put};
use crate::state::{State, StateErrorKind};

const ROWS: u32 = 60_000;

fn value(key: u32, seq: u64) -> Vec<u8> {
    format!("{key} of commit {seq} {}", "x".repeat(key as usize % 200)).into()
}

/// A store with files in several levels, as `(directory, commit that each key has)`.
fn build(dir: &Path) {
    let state = open(dir);
    let all = |seq: u64, keys: std::ops::Range<u32>| {
        keys.map(move |key| (1, key.to_be_bytes(), Some(value(key, seq))))
    };
    state.apply(1, all(1, 0..ROWS), true).unwrap();
    state.wait_until_compacted();
    state.apply(2, all(2, 0..ROWS / 2), true).unwrap();
    state.apply(3, all(3, 0..500), true).unwrap();
}

fn commit_of(key: u32) -> u64 {
    match key {
        0..500 => 3,
        key if key < ROWS / 2 => 2,
        _ => 1,
    }
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Reads and writes everything; returns whether damage was noticed.
fn use_it(state: &State) -> bool {
    let mut noticed = false;
    for key in 0..ROWS {
        match state.get(1, &key.to_be_bytes()) {
            Ok(Some(found)) => assert_eq!(*found, value(key, commit_of(key))),
            Ok(None) => panic!("row {key} is gone"),
            Err(error) => {
                assert_eq!(error.kind(), StateErrorKind::Damaged, "{error}");
                noticed = true;
                break;
            }
        }
    }
    match state.scan(1) {
        Ok(mut scan) => match scan.by_ref().find_map(Result::err) {
            Some(error) => {
                assert_eq!(error.kind(), StateErrorKind::Damaged, "{error}");
                noticed = true;
                assert!(scan.next().is_none());
            }
            None => assert!(!noticed),
        },
        Err(error) => {
            assert_eq!(error.kind(), StateErrorKind::Damaged, "{error}");
            noticed = true;
        }
    }
    let written = state.apply(4, [put(2, "a", "b")], true).and_then(|()| state.flush());
    assert_eq!(written.is_err(), noticed);
    state.wait_until_compacted();
    noticed
}

#[test]
fn a_damaged_file_is_noticed_or_does_no_harm() {
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let intact = tempfile::tempdir().unwrap();
    build(intact.path());
    let mut all = Vec::new();
    files(&intact.path().join("store"), &mut all);
    all.sort();
    assert!(all.len() > 5, "{all:?}");
    let (mut wiped, mut noticed) = (0, 0);
    for file in &all {
        let length = fs::metadata(file).unwrap().len();
        for damage in ["delete", "empty", "halve", "cut", "flip", "flip", "flip", "zeros"] {
            let dir = tempfile::tempdir().unwrap();
            copy(intact.path(), dir.path());
            let target = dir.path().join(file.strip_prefix(intact.path()).unwrap());
            let mut bytes = fs::read(&target).unwrap();
            if bytes.is_empty() && damage != "delete" {
                continue;
            }
            match damage {
                "delete" => fs::remove_file(&target).unwrap(),
                "empty" => bytes.clear(),
                "halve" => bytes.truncate(bytes.len() / 2),
                "cut" => bytes.truncate(bytes.len() - 1),
                "flip" => {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] ^= 1 << rng.random_range(0..8);
                }
                _ => {
                    let at = rng.random_range(0..bytes.len());
                    let end = (at + 4096).min(bytes.len());
                    bytes[at..end].fill(0);
                }
            }
            if damage != "delete" {
                fs::write(&target, &bytes).unwrap();
            }
            let what =
                format!("{damage} {} ({length} bytes)", target.strip_prefix(dir.path()).unwrap().display());
            let state =
                State::open(dir.path(), &identity(), CACHE).unwrap_or_else(|err| panic!("{what}: {err}"));
            match state.applied() {
                None => wiped += 1,
                Some(applied) => {
                    assert_eq!(applied, 3, "{what}");
                    if use_it(&state) {
                        noticed += 1;
                        drop(state);
                        let state = open(dir.path());
                        assert_eq!(state.applied(), None, "{what}: not wiped after damage was noticed");
                        state.apply(1, [put(1, "a", "b")], true).unwrap();
                    }
                }
            }
        }
    }
    eprintln!("{} files: wiped {wiped} times, noticed in use {noticed} times", all.len());
    assert!(wiped > 0 && noticed > 0);
}

#[test]
fn foreign_files_in_the_directory_are_left_alone() {
    let mut rng = SmallRng::seed_from_u64(1);
    let dir = tempfile::tempdir().unwrap();
    let notes = dir.path().join("notes");
    fs::write(&notes, "mine").unwrap();
    open(dir.path()).apply(1, [put(1, "a", "b")], true).unwrap();
    let names = ["applied", "rows/current"];
    fs::write(dir.path().join("store").join(names.choose(&mut rng).unwrap()), "damaged").unwrap();
    assert_eq!(open(dir.path()).applied(), None);
    assert_eq!(fs::read_to_string(&notes).unwrap(), "mine");
}
