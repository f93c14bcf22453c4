//! Measures embedded stores on the work that state does: load 3 M rows, then commits of look-ups and writes.

#[path = "../../../sink/src/state/mod.rs"]
#[allow(dead_code)]
mod state;

mod rows;
mod stores;

use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rand_distr::{Distribution as _, Zipf};

use rows::{Row, key, shuffled};
use stores::{Chunk, open};

const HELP: &str = "state-bench copy ROWS            rows for COPY … FROM STDIN, on stdout
state-bench ddl                  the table for them
state-bench head                 the heads of the columns of `run`
state-bench run STORE ROWS ORDER KEYS [COMMITS]
  STORE  state | fjall-batch | fjall-ingest | redb | redb-none
  ORDER  ordered | random: of the keys in the bulk load
  KEYS   uniform | zipf: of the commits, 300 k look-ups and 300 k upserts each
state-bench small STORE ROWS [SIZE]
  commits of SIZE (300) rows, 900 k in all, on top of ROWS rows
  columns: store, SIZE, write, write settled, p50, p99, slowest ms, MB settled, MB peak, MB rss

Costs are microseconds of processor time a row; `settled` includes background work. BENCH_DIR names the scratch directory.";

const HEAD: &str = "\
| store | load, commits | load | load, settled | MB | hit | miss | in key order | write | write, settled | slowest s | scan | MB settled | MB peak | MB rss |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// Look-ups, half of which miss, and upserts in one commit.
const COMMIT: usize = 300_000;
const CHUNK: u64 = 10_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["ddl"] => println!("{};", rows::DDL),
        ["copy", count] => copy(count.parse().unwrap()),
        ["run", store, count, order, keys] => run(store, count.parse().unwrap(), order, keys, 6),
        ["run", store, count, order, keys, commits] => {
            run(store, count.parse().unwrap(), order, keys, commits.parse().unwrap())
        }
        ["small", store, count] => small(store, count.parse().unwrap(), 300),
        ["small", store, count, size] => small(store, count.parse().unwrap(), size.parse().unwrap()),
        ["head"] => println!("{HEAD}"),
        _ => println!("{HELP}"),
    }
}

fn copy(count: u64) {
    let mut out = BufWriter::new(std::io::stdout().lock());
    for id in 0..count {
        Row::new(id, 1).copy_text(&mut out).unwrap();
    }
    out.flush().unwrap();
}

/// Processor time of this process so far, all threads, in steps of 10 ms.
fn process_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Processor time of this thread so far.
fn thread_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

/// A figure of /proc/self/status, in MiB.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

fn disk(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(found) = std::fs::metadata(path) else { return 0 };
    if !found.is_dir() {
        return found.blocks() * 512;
    }
    std::fs::read_dir(path).unwrap().map(|entry| disk(&entry.unwrap().path())).sum()
}

fn make(ids: impl Iterator<Item = u64>, version: u64) -> impl Iterator<Item = ([u8; 9], Vec<u8>)> {
    ids.map(move |id| {
        let mut value = Vec::with_capacity(320);
        Row::new(id, version).encode(version, &mut value);
        (key(id), value)
    })
}

fn chunk(ids: impl Iterator<Item = u64>, version: u64) -> Chunk {
    make(ids, version).collect()
}

/// What making rows costs: to be taken off, for they are made while they are written.
fn dry(rows: impl Iterator<Item = ([u8; 9], Vec<u8>)>) -> Duration {
    let begun = thread_cpu();
    let bytes: usize = rows.map(|row| row.1.len()).sum();
    assert!(bytes > 0);
    thread_cpu() - begun
}

/// Ids of the loaded rows are even, so that odd ones miss.
fn loaded(n: u64) -> u64 {
    n * 2
}

/// Sums up what a kind of call costs.
#[derive(Default)]
struct Cost {
    cpu: Duration,
    rows: usize,
    slowest: Duration,
}

impl Cost {
    /// Times a call in this thread; `apart` is no cost of the store.
    fn add<T>(&mut self, rows: usize, apart: Duration, call: impl FnOnce() -> T) -> T {
        let (wall, cpu) = (Instant::now(), thread_cpu());
        let result = call();
        self.cpu += (thread_cpu() - cpu).saturating_sub(apart);
        self.slowest = self.slowest.max(wall.elapsed());
        self.rows += rows;
        result
    }

    /// Microseconds a row.
    fn each(&self) -> f64 {
        each(self.cpu, self.rows)
    }
}

fn each(cpu: Duration, rows: usize) -> f64 {
    cpu.as_secs_f64() * 1e6 / rows as f64
}

/// Watches the size of a directory; tells the largest, in MiB, and what watching cost.
fn watch(dir: &Path) -> impl FnOnce() -> (u64, Duration) + use<> {
    let stop = Arc::new(AtomicBool::new(false));
    let (dir, theirs) = (dir.to_owned(), stop.clone());
    let thread = std::thread::spawn(move || {
        let mut largest = 0;
        while !theirs.load(Ordering::Relaxed) {
            largest = largest.max(disk(&dir));
            std::thread::sleep(Duration::from_millis(100));
        }
        (largest >> 20, thread_cpu())
    });
    move || {
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap()
    }
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(std::env::var("BENCH_DIR").unwrap_or_else(|_| ".".into())).unwrap()
}

fn run(name: &str, count: u64, order: &str, keys: &str, commits: u64) {
    let dir = scratch();
    let place = |n: u64| if order == "random" { shuffled(n, count) } else { n };
    let chunks = (0..count.div_ceil(CHUNK)).map(|c| (c * CHUNK, ((c + 1) * CHUNK).min(count)));
    let making = dry(chunks.clone().flat_map(|(from, to)| make((from..to).map(|n| loaded(place(n))), 1)));

    let store = open(name, dir.path());
    let begun = process_cpu();
    store.load(&mut chunks.map(|(from, to)| chunk((from..to).map(|n| loaded(place(n))), 1)));
    let load = each((process_cpu() - begun).saturating_sub(making), count as usize);
    store.settle();
    let load_settled = each((process_cpu() - begun).saturating_sub(making), count as usize);
    let loaded_size = disk(dir.path()) >> 20;

    let mut rng = SmallRng::seed_from_u64(42);
    let zipf = Zipf::new(count as f64, 0.99).unwrap();
    let mut pick = || match keys {
        "zipf" => loaded(shuffled(zipf.sample(&mut rng) as u64 - 1, count)),
        _ => loaded(rng.random_range(0..count)),
    };
    let largest = watch(dir.path());
    let (mut hits, mut misses, mut in_order, mut writes) =
        (Cost::default(), Cost::default(), Cost::default(), Cost::default());
    let (all, own) = (process_cpu(), thread_cpu());
    for commit in 0..commits {
        let mut there: Vec<_> = (0..COMMIT / 2).map(|_| key(pick())).collect();
        let absent: Vec<_> = (0..COMMIT / 2).map(|_| key(pick() + 1)).collect();
        assert_eq!(hits.add(there.len(), Duration::ZERO, || store.get(&there)), there.len());
        assert_eq!(misses.add(absent.len(), Duration::ZERO, || store.get(&absent)), 0);
        there.extend(absent);
        there.sort_unstable();
        in_order.add(there.len(), Duration::ZERO, || store.get(&there));
        drop(there);

        let mut ids: Vec<u64> = (0..COMMIT).map(|_| pick()).collect();
        ids.sort_unstable();
        ids.dedup();
        let apart = dry(make(ids.iter().copied(), commit + 2));
        writes.add(ids.len(), apart, || store.put(commit + 2, &mut make(ids.iter().copied(), commit + 2)));
    }
    let foreground = thread_cpu() - own;
    store.settle();
    let (largest, watching) = largest();
    let background = (process_cpu() - all).saturating_sub(foreground + watching);
    let settled_size = disk(dir.path()) >> 20;
    let peak = status("VmHWM");
    let mut scan = Cost::default();
    scan.add(count as usize, Duration::ZERO, || assert_eq!(store.scan(), count as usize));
    println!(
        "| {name} | {order}, {keys} | {load:.2} | {load_settled:.2} | {loaded_size} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} | {:.2} | {:.2} | {settled_size} | {} | {peak} |",
        hits.each(),
        misses.each(),
        in_order.each(),
        writes.each(),
        writes.each() + each(background, writes.rows),
        writes.slowest.as_secs_f64(),
        scan.each(),
        largest,
    );
}

fn small(name: &str, count: u64, size: u64) {
    let dir = scratch();
    let store = open(name, dir.path());
    store.load(&mut (0..count.div_ceil(CHUNK)).map(|c| chunk((c * CHUNK..(c + 1) * CHUNK).map(loaded), 1)));
    store.settle();
    let mut rng = SmallRng::seed_from_u64(7);
    let largest = watch(dir.path());
    let (all, own) = (process_cpu(), thread_cpu());
    let mut writes = Cost::default();
    let mut times = Vec::new();
    for commit in 0..900_000 / size {
        let mut rows = chunk((0..size).map(|_| loaded(rng.random_range(0..count))), commit + 2);
        rows.sort_unstable();
        rows.dedup_by_key(|row| row.0);
        let began = Instant::now();
        writes.add(rows.len(), Duration::ZERO, || store.put(commit + 2, &mut rows.into_iter()));
        times.push(began.elapsed());
    }
    let foreground = thread_cpu() - own;
    store.settle();
    let (largest, watching) = largest();
    let background = (process_cpu() - all).saturating_sub(foreground + watching);
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    println!(
        "| {name} | {size} | {:.2} | {:.2} | {:.1} | {:.1} | {:.1} | {} | {} | {} |",
        writes.each(),
        writes.each() + each(background, writes.rows),
        at(50),
        at(99),
        at(100),
        disk(dir.path()) >> 20,
        largest,
        status("VmHWM"),
    );
}
