//! Targets without libFuzzer: the seeds and random mutations of them, for a second or so in the ordinary tests.
//!
//! A failure prints its input in hex and the seed that finds it again. `BYGONE_TEST_SEED` sets the seed,
//! `BYGONE_FUZZ_SECONDS` how long each target goes on.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, thread};

/// Mutations of each target, unless its time is up before.
const MUTATIONS: u64 = 20_000;
const LONGEST_RUN: Duration = Duration::from_secs(3);
/// No input grows beyond this.
const LONGEST_INPUT: usize = 16 << 10;

/// Runs a target on the seeds in `fuzz/seeds/<target>` and on mutations of them.
pub(crate) fn exercise(target: &str, run: fn(&[u8])) {
    let seeds = seeds(target);
    for (name, seed) in &seeds {
        attempt(&format!("{target}, seed corpus file {name}"), run, seed);
    }
    let seed = number("BYGONE_TEST_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.as_secs() << 20 ^ u64::from(now.subsec_nanos())
    });
    println!("{target}: mutations are repeated by BYGONE_TEST_SEED={seed}");
    let seconds = number("BYGONE_FUZZ_SECONDS").map(Duration::from_secs);
    let (limit, until) = match seconds {
        Some(seconds) => (u64::MAX, seconds),
        None => (MUTATIONS, LONGEST_RUN),
    };
    let mut random = Random(seed);
    let started = Instant::now();
    let mut done = 0;
    while done < limit && started.elapsed() < until {
        let input = random.mutant(&seeds);
        attempt(&format!("{target}, mutation {done} of BYGONE_TEST_SEED={seed}"), run, &input);
        done += 1;
    }
    println!("{target}: {} seeds, {done} mutations", seeds.len());
    assert!(done > 100, "{target}: only {done} mutations in {until:?}");
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// The corpus, by name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut seeds: Vec<(String, Vec<u8>)> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap())
        })
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{} is empty", directory.display());
    seeds
}

fn attempt(what: &str, run: fn(&[u8]), input: &[u8]) {
    let told = Told { what, input };
    run(input);
    drop(told);
}

/// Prints the input of an attempt that panics.
struct Told<'a> {
    what: &'a str,
    input: &'a [u8],
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let hex = self.input.iter().fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").unwrap();
                hex
            });
            eprintln!("{} fails with\n  {hex}\n  {}", self.what, self.input.escape_ascii());
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    fn mutant(&mut self, seeds: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = self.pick(seeds).1.clone();
        for _ in 0..=self.below(5) {
            self.mutate(&mut bytes, seeds);
        }
        bytes.truncate(LONGEST_INPUT);
        bytes
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>, seeds: &[(String, Vec<u8>)]) {
        let at = self.below(bytes.len());
        let end = at + self.below(bytes.len() - at + 1).min(64);
        match self.below(10) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (self.next() % 8);
                }
            }
            1 => {
                let value =
                    *self.pick(&[0, 1, 0x7F, 0x80, 0xFF, b'0', b'9', b'-', b'"', b'\\', b' ', b'{', b'}']);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copy = bytes[at..end].to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            4 => {
                let other = &self.pick(seeds).1;
                let from = self.below(other.len());
                let to = from + self.below(other.len() - from + 1).min(64);
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            5 => {
                let number =
                    *self.pick(&[0_u32, 1, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, u32::MAX]);
                let width = *self.pick(&[2, 4]);
                overwrite(bytes, at, &number.to_be_bytes()[4 - width..]);
            }
            6 => {
                let extreme = *self.pick(&[i64::MIN, i64::MIN + 1, -1, i64::MAX - 1, i64::MAX]);
                overwrite(bytes, at, &extreme.to_be_bytes());
            }
            7 => {
                let token = *self.pick(&[
                    "9223372036854775807",
                    "-9223372036854775808",
                    "99999999999999999999999999999999999999",
                    "000000",
                    "infinity",
                    "NaN",
                    " BC",
                    "+00",
                    "-15:59:59",
                    "NULL",
                    "\\x",
                    "\"\"",
                    "1e999",
                    "null",
                    "[[[[",
                ]);
                bytes.splice(at..at, token.bytes());
            }
            8 => {
                // A digit for a digit keeps a text what it is.
                if let Some(byte) = bytes.get_mut(at)
                    && byte.is_ascii_digit()
                {
                    *byte = b'0' + u8::try_from(self.next() % 10).unwrap();
                }
            }
            _ => bytes.truncate(end),
        }
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (byte, new) in bytes.iter_mut().skip(at).zip(with) {
        *byte = *new;
    }
}
