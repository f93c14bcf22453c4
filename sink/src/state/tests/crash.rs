//! Kill -9 while commits are applied.
//!
//! Symptom if broken: after a restart the state says that it holds a commit whose rows are missing, and versions
//! restart or are doubled. Cause: the record of the last commit reached the disk before the rows did. Rule: rows first.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::{identity, open};
use crate::state::State;

const DIR: &str = "BYGONE_TEST_STATE_DIR";
const KEYS: u32 = 30_000;

/// What commit `seq` does: small commits mostly, every fifth one large enough for a sorted file.
fn changes(seq: u64) -> BTreeMap<u32, Option<Vec<u8>>> {
    let mut rng = SmallRng::seed_from_u64(seq);
    let count = if seq.is_multiple_of(5) { 25_000 } else { rng.random_range(1..400) };
    (0..count)
        .map(|_| {
            let value = (!rng.random_ratio(1, 8)).then(|| {
                let mut value = seq.to_be_bytes().to_vec();
                value.resize(rng.random_range(8..500), seq as u8);
                value
            });
            (rng.random_range(0..KEYS), value)
        })
        .collect()
}

#[test]
#[ignore = "run by the test below, which kills it"]
fn child() {
    let state = open(Path::new(&std::env::var_os(DIR).unwrap()));
    let mut seq = state.applied().map_or(1, |applied| applied + 1);
    loop {
        let changes = changes(seq).into_iter().map(|(key, value)| (1, key.to_be_bytes(), value));
        state.apply(seq, changes, true).unwrap();
        writeln!(std::io::stdout(), "\napplied {seq}").unwrap();
        seq += 1;
    }
}

#[test]
fn a_killed_process_leaves_every_row_that_it_vouches_for() {
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let child = format!("{}::child", module_path!().split_once("::").unwrap().1);
    let mut progress = 0;
    for _ in 0..20 {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &child, "--ignored", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let printed = std::thread::spawn(move || {
            let said = output.lines().map_while(Result::ok);
            said.filter_map(|line| line.strip_prefix("applied ")?.parse::<u64>().ok()).last()
        });
        std::thread::sleep(Duration::from_millis(rng.random_range(30..500)));
        process.kill().unwrap();
        process.wait().unwrap();
        let printed = printed.join().unwrap().unwrap_or(progress);

        let state = State::open(dir.path(), &identity(), super::CACHE).unwrap();
        let applied = state.applied().unwrap_or(0);
        assert!(applied >= progress, "went back from {progress} to {applied}");
        assert!(applied <= printed + 1, "claims {applied}, yet only {printed} was applied");
        progress = applied;
        check(&state, applied, printed + 1);
    }
    assert!(progress > 20, "hardly anything was applied: {progress}");
}

/// Each entity is as commit `applied` left it, or as a later one did that was under way.
fn check(state: &State, applied: u64, under_way: u64) {
    let mut expected = BTreeMap::new();
    for seq in 1..=applied {
        expected.extend(changes(seq));
    }
    let later: Vec<_> = (applied + 1..=under_way).map(changes).collect();
    for key in 0..KEYS {
        let found = state.get(1, &key.to_be_bytes()).unwrap().map(|value| value.to_vec());
        let as_applied = expected.get(&key).cloned().flatten();
        let ahead = later.iter().filter_map(|changes| changes.get(&key)).any(|value| *value == found);
        assert!(found == as_applied || ahead, "entity {key} after commit {applied}");
    }
}
