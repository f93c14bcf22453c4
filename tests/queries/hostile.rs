//! Whatever stands in the files of a history, a command that reads them answers or refuses: it neither panics, nor hangs, nor takes
//! the machine's memory, and what the log names and is not what it was is found by `bygone verify`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::Shop;
use super::engines::make_slabs;
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::scratch::{Scratch, copy_directory};
use crate::support::store::Store;
use crate::support::workload::Habits;

/// Histories that are damaged, each in one file.
const DAMAGES: usize = 60;
/// As much as a command takes at most for a history of some hundred kilobytes.
const MOST_MEMORY: u64 = 1 << 30;
const LONGEST: Duration = Duration::from_secs(60);

const COMMANDS: &[&[&str]] = &[
    &["tables"],
    &["log"],
    &["transactions"],
    &["as-of", "orders", "--at", "now"],
    &["as-of", "orders", "--at", "now", "--format", "json", "--where", "id > 3"],
    &["history", "orders", "7"],
    &["history", "many", "777"],
    &["blame", "orders", "7"],
    &["diff", "orders", "--from", "0/1", "--to", "now"],
    &["find", "orders", "note", "first"],
    &["restore", "orders", "7", "--at", "now"],
    &["sql", "select count(*), min(note), max(total) from orders_history"],
    &["sql", "select count(*) from orders"],
    &["views", "duckdb"],
    &["views", "spark"],
    &["delta"],
    &["compact", "--all"],
];

/// The kinds of files that there are, by the directory that they are in.
fn files(root: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let mut ways = vec![root.to_owned()];
    while let Some(way) = ways.pop() {
        for entry in fs::read_dir(way).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                ways.push(path);
                continue;
            }
            let inside = path.strip_prefix(root).unwrap().to_owned();
            let is_delta = inside.components().any(|part| part.as_os_str() == "_delta_log");
            let kind =
                if is_delta { "_delta_log".into() } else { inside.iter().next().unwrap().to_string_lossy() };
            found.entry(kind.into_owned()).or_default().push(inside);
        }
    }
    found.values_mut().for_each(|paths| paths.sort());
    found
}

/// What somebody makes of a file's bytes; the deed's name.
fn damage(body: &mut Vec<u8>, other: &[u8], random: &mut StdRng) -> &'static str {
    let length = body.len().max(1);
    let mut place = || random.random_range(0..length);
    match place() % 8 {
        0 => {
            for _ in 0..8 {
                let (at, bit) = (place(), place() % 8);
                if let Some(byte) = body.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            "flipped bits"
        }
        1 => {
            body.truncate(place());
            "cut off"
        }
        2 => {
            let (from, to) = (place(), place());
            let fill = [0, 0xFF, b'9', b'"'][place() % 4];
            body.get_mut(from.min(to)..from.max(to).min(from.min(to) + 64)).unwrap_or_default().fill(fill);
            "overwritten"
        }
        3 => {
            let (from, to, at) = (place(), place(), place());
            let span = body.get(from.min(to)..from.max(to)).unwrap_or_default().to_vec();
            body.splice(at..at, span);
            "a span twice"
        }
        4 => {
            let (from, to) = (place(), place());
            body.drain(from.min(to)..from.max(to));
            "a span left out"
        }
        5 => {
            // Numbers that are larger than anything, most of all in JSON.
            let digits: Vec<usize> = (0..body.len()).filter(|at| body[*at].is_ascii_digit()).collect();
            let at = digits.get(place() % digits.len().max(1)).copied().unwrap_or(0);
            let number: &[u8] =
                [&b"18446744073709551616"[..], b"-1", b"1e400", b"9223372036854775807", b"null"][place() % 5];
            body.splice(at..(at + 1).min(body.len()), number.iter().copied());
            "another number"
        }
        6 => {
            *body = other.to_vec();
            "another file of the kind"
        }
        _ => {
            // The end of a Parquet file says where everything else is.
            let tail = body.len().saturating_sub(1 + place() % 200);
            let value = u8::try_from(place() % 256).unwrap();
            if let Some(byte) = body.get_mut(tail) {
                *byte = value;
            }
            "a byte near the end"
        }
    }
}

#[test]
fn files_that_somebody_altered_make_no_command_panic() {
    // Given a history that has files of each kind
    let mut shop = Shop::with(
        "create table orders (id bigint primary key, note text, total numeric(12,2), at timestamptz, tags text[]);
         insert into orders select n, 'first', n / 3.0, now(), array['a', null] from generate_series(1, 300) n;
         create table many (id int primary key, note text);
         insert into many select n, 'note ' || n % 7 from generate_series(1, 60000) n",
    );
    for round in 0..6 {
        shop.server.run(&format!(
            "update orders set note = 'note {round}', total = total + 1 where id % 3 = {round} % 3; delete from orders where id = {round} * 9 + 5"
        ));
        shop.capture();
    }
    shop.bygone.ask(&["compact", "--all", "--grace", "1ms", "--checkpoint-every", "2"]).well();
    make_slabs(&shop, "50", 1);
    shop.server.run("update orders set note = 'last' where id < 9");
    shop.capture();
    let sound = shop.scratch.join("history");
    let kinds = files(&sound);
    for kind in ["log", "tables", "slabs", "index", "checkpoints", "_delta_log"] {
        assert!(kinds.contains_key(kind), "there is no file of {kind}: {:?}", kinds.keys());
    }
    let named: Vec<PathBuf> =
        History::read(Store::directory(&sound)).live.keys().map(PathBuf::from).collect();
    let last = kinds["log"].last().unwrap();
    let seed = Habits::default().seed;
    eprintln!("the damages are repeated by BYGONE_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut wrong = Vec::new();
    let mut refused = 0;
    for number in 0..DAMAGES {
        // When one of them is altered
        let all: Vec<&Vec<PathBuf>> = kinds.values().collect();
        let paths = all.choose(&mut random).unwrap();
        let (path, other) = (paths.choose(&mut random).unwrap(), paths.choose(&mut random).unwrap());
        let before = fs::read(sound.join(path)).unwrap();
        let mut body = before.clone();
        let deed = damage(&mut body, &fs::read(sound.join(other)).unwrap(), &mut random);
        let scratch = Scratch::new("hostile");
        let root = scratch.join("history");
        copy_directory(&sound, &root);
        fs::write(root.join(path), &body).unwrap();
        let bygone = Bygone::new(shop.server.url(), &root);
        // Then each command comes to an end of its own
        let mut ask = |arguments: &[&str]| {
            let outcome = bygone.ask(arguments);
            let panicked = outcome.stderr.contains("panicked") || !matches!(outcome.code(), Some(0..=2));
            if panicked || outcome.peak > MOST_MEMORY || outcome.took > LONGEST {
                wrong.push(format!(
                    "{} of {}, {deed}: {arguments:?} ended with {} after {:?}, {} MiB\n{}",
                    number,
                    path.display(),
                    outcome.status,
                    outcome.took,
                    outcome.peak >> 20,
                    outcome.stderr.chars().take(600).collect::<String>()
                ));
            }
            outcome.code()
        };
        let proof = ask(&["verify"]);
        for _ in 0..3 {
            let arguments = COMMANDS.choose(&mut random).unwrap();
            refused += usize::from(ask(arguments) != Some(0));
        }
        // and what the log names, and the log itself, cannot be altered unnoticed.
        // What nothing follows, nothing proves: the last commit's own words.
        let proved = (path.starts_with("log") && path != last) || named.contains(path);
        if proved && body != before && proof != Some(1) {
            wrong.push(format!(
                "{} of {}, {deed}: verify has not found it: {proof:?}",
                number,
                path.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {DAMAGES}:\n{}", wrong.len(), wrong.join("\n\n"));
    assert!(refused > 0, "no command minded anything");
}
