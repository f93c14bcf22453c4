//! A million random entries against a `BTreeMap`.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::open;
use crate::state::State;

const TABLES: u32 = 4;
const ENTRIES: usize = 1_000_000;

type Rows = BTreeMap<(u32, Vec<u8>), Vec<u8>>;

struct Model {
    rng: SmallRng,
    rows: Rows,
    spilled: BTreeMap<(u32, Vec<u8>), Option<Vec<u8>>>,
    entries: usize,
    seq: u64,
}

impl Model {
    fn key(&mut self) -> Vec<u8> {
        let number = self.rng.random_range(0..40_000_u32).wrapping_mul(0x9E37_79B9);
        // Lengths around those of the prefix that sorting compares first.
        let length = 8 + (number >> 3) as usize % 14;
        let mut key = number.to_be_bytes().repeat(6);
        key.truncate(length);
        key
    }

    fn changes(&mut self) -> Vec<(u32, Vec<u8>, Option<Vec<u8>>)> {
        let count = match self.rng.random_range(0..20) {
            0 => 40_000,
            1 | 2 => self.rng.random_range(5000..15_000),
            _ => self.rng.random_range(0..800),
        };
        self.entries += count;
        let table = self.rng.random_range(0..TABLES);
        (0..count)
            .map(|_| {
                let table =
                    if self.rng.random_ratio(1, 10) { self.rng.random_range(0..TABLES) } else { table };
                let value = (!self.rng.random_ratio(1, 5)).then(|| {
                    let large = self.rng.random_ratio(1, 50);
                    let length = self.rng.random_range(if large { 900..5000 } else { 0..300 });
                    let mut value = self.seq.to_be_bytes().to_vec();
                    value.resize(length, self.rng.random());
                    value
                });
                (table, self.key(), value)
            })
            .collect()
    }

    /// What is seen now.
    fn seen(&self, table: u32) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let range = (table, vec![])..(table + 1, vec![]);
        let mut seen: BTreeMap<_, _> =
            self.rows.range(range.clone()).map(|((_, key), value)| (key.clone(), value.clone())).collect();
        for ((_, key), value) in self.spilled.range(range) {
            match value {
                Some(value) => drop(seen.insert(key.clone(), value.clone())),
                None => drop(seen.remove(key)),
            }
        }
        seen
    }

    fn check(&mut self, state: &State) {
        for table in 0..TABLES {
            let scanned: BTreeMap<_, _> = state
                .scan(table)
                .unwrap()
                .map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap())
                .collect();
            assert!(scanned == self.seen(table), "table {table} differs after {} entries", self.entries);
        }
    }

    fn look_up(&mut self, state: &State) {
        for _ in 0..200 {
            let (table, key) = (self.rng.random_range(0..TABLES), self.key());
            let found = state.get(table, &key).unwrap().map(|value| value.to_vec());
            let full = (table, key);
            let expected = match self.spilled.get(&full) {
                Some(spilled) => spilled.clone(),
                None => self.rows.get(&full).cloned(),
            };
            assert_eq!(found, expected, "{full:?} after {} entries", self.entries);
        }
    }
}

fn merge(rows: &mut Rows, changes: impl IntoIterator<Item = ((u32, Vec<u8>), Option<Vec<u8>>)>) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(rows.insert(key, value)),
            None => drop(rows.remove(&key)),
        }
    }
}

#[test]
fn a_million_random_entries_read_back_as_from_a_map() {
    let seed = rand::random();
    eprintln!("seed {seed}");
    let rng = SmallRng::seed_from_u64(seed);
    let mut model = Model { rng, rows: Rows::new(), spilled: BTreeMap::new(), entries: 0, seq: 0 };
    let dir = tempfile::tempdir().unwrap();
    let mut state = Arc::new(open(dir.path()));
    let mut steps = 0;
    while model.entries < ENTRIES {
        steps += 1;
        match model.rng.random_range(0..40_u32) {
            0 => {
                drop(state);
                state = Arc::new(open(dir.path()));
                model.spilled.clear();
                assert_eq!(state.applied().unwrap_or(0), model.seq);
            }
            1 => {
                state.wait_until_compacted();
                state.rows.pack(state.rows.watermark()).unwrap();
            }
            2 => {
                let table = model.rng.random_range(0..TABLES);
                state.remove_table(table).unwrap();
                model.rows.retain(|(of, _), _| *of != table);
            }
            3 if model.rng.random_ratio(1, 4) => {
                state.clear().unwrap();
                model.rows.clear();
                model.spilled.clear();
                model.seq = 0;
            }
            4..8 => {
                let changes = model.changes();
                state.spill(changes.clone()).unwrap();
                model.spilled.extend(changes.into_iter().map(|(table, key, value)| ((table, key), value)));
            }
            8 => {
                state.discard_spill().unwrap();
                model.spilled.clear();
            }
            9 | 10 => {
                model.seq += 1;
                state.apply_spilled(model.seq).unwrap();
                merge(&mut model.rows, std::mem::take(&mut model.spilled));
            }
            11 => {
                model.seq += 1;
                let loader = state.bulk_load(1).unwrap();
                let mut writer = loader.writer();
                let rows: BTreeMap<_, _> = (0..30_000)
                    .map(|_| (model.key(), vec![model.seq as u8; model.rng.random_range(0..300)]))
                    .collect();
                model.entries += rows.len();
                for (key, value) in &rows {
                    writer.push(key, value).unwrap();
                }
                writer.finish().unwrap();
                loader.finish(model.seq).unwrap();
                merge(&mut model.rows, rows.into_iter().map(|(key, value)| ((1, key), Some(value))));
            }
            kind => {
                model.seq += 1;
                let mut changes = model.changes();
                let sorted = kind.is_multiple_of(2);
                if sorted {
                    changes.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
                }
                // A caller that is wrong about the order costs time, not rows.
                let claimed = sorted || (kind == 13 && changes.len() < 1000);
                state.apply(model.seq, changes.clone(), claimed).unwrap();
                merge(&mut model.rows, changes.into_iter().map(|(table, key, value)| ((table, key), value)));
            }
        }
        model.look_up(&state);
        if steps % 20 == 0 {
            model.check(&state);
        }
    }
    state.wait_until_compacted();
    model.check(&state);
    drop(state);
    model.spilled.clear();
    model.check(&open(dir.path()));
}
