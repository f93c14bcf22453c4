//! All faults at once, at random, from a seed: what each alone does is the matter of the other modules.
//!
//! A round is half a minute of an application and of faults, and then the oracle's judgement. `make test` runs one;
//! `make soak` goes on for as long as it is told. `BYGONE_TEST_SEED` repeats the first round.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

use super::Source;
use super::exactly_once::{STREAMING, assert_not_acknowledged_too_far};
use super::faults::{files, through};
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::link::Link;
use crate::support::moto::Moto;
use crate::support::postgres::{Postgres, Stop};
use crate::support::s3_proxy::{Fate, Proxy};
use crate::support::store::Store;
use crate::support::workload::{Habits, Workload};

const ROUND: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Terminate,
    Sleep,
    ServerStops,
    SessionsEnd,
    NetworkCut,
    NetworkSlow,
    NetworkForgets,
    StateGone,
    StateDamaged,
    KilledCompaction,
    Reader,
}

const FAULTS: [Fault; 12] = [
    Fault::Kill,
    Fault::Terminate,
    Fault::Sleep,
    Fault::ServerStops,
    Fault::SessionsEnd,
    Fault::NetworkCut,
    Fault::NetworkSlow,
    Fault::NetworkForgets,
    Fault::StateGone,
    Fault::StateDamaged,
    Fault::KilledCompaction,
    Fault::Reader,
];

/// Where a compaction, and what is made beside it, may be told to die.
const BESIDE: [&str; 8] = [
    "compact.after_file",
    "compact.before_commit",
    "compact.after_commit",
    "compact.before_delete",
    "delta.before_put",
    "index.before_file",
    "slab.before_file",
    "slab.after_file",
];

/// Where a round's facts are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Disk,
    /// In tables alone, of another server.
    Tables,
    /// In a bucket that fails now and then.
    Bucket,
}

/// What rows are delivered by, where they are all there is.
const DELIVERY: [&str; 3] = ["facts.before_commit", "facts.after_commit", "spool.after_write"];

#[test]
fn all_faults_at_random_cost_nothing() {
    let minutes = std::env::var("BYGONE_SOAK_MINUTES").ok().and_then(|text| text.parse::<f64>().ok());
    let end = Instant::now() + Duration::from_secs_f64(minutes.unwrap_or(0.0) * 60.0);
    let mut seed = Habits::default().seed;
    let mut rounds = 0;
    loop {
        round(seed, [Place::Disk, Place::Tables, Place::Bucket][rounds % 3]);
        rounds += 1;
        if Instant::now() >= end {
            break;
        }
        seed += 1;
    }
    eprintln!("{rounds} rounds");
}

fn round(seed: u64, place: Place) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut source = Source::of(Postgres::with(&[("wal_sender_timeout", "3s")]));
    let link = Link::to(source.server.port());
    let habits = Habits { seed, large: 1500, pause: Duration::from_millis(15), ..Habits::default() };
    let workload = Workload::start(&source.server, &habits);
    let bucket = (place == Place::Bucket).then(|| shaky_bucket(random.random()));
    let target = (place == Place::Tables).then(Postgres::stranger);
    let facts = target.as_ref().map(Postgres::url);
    let state = source.scratch.join("state");
    let url = through(&link);
    let bygone = match (&bucket, &facts) {
        (Some((moto, proxy)), _) => {
            moto.bygone(url, "soak").env("AWS_ENDPOINT_URL", &format!("http://127.0.0.1:{}", proxy.port()))
        }
        (None, Some(facts)) => {
            Bygone::new(url, source.history()).without_files().options(&["--facts", facts])
        }
        (None, None) => Bygone::new(url, source.history()).options(&["--compact-interval", "500ms"]),
    };
    let mut bygone = bygone.options(&[
        "--state",
        state.to_str().unwrap(),
        "--commit-interval",
        "200ms",
        "--source-timeout",
        "3s",
        "--slab-rows",
        "100",
        "--checkpoint-every",
        "7",
    ]);
    let root = source.history();
    let store = || match &bucket {
        Some((moto, _)) => moto.store("soak"),
        None => Store::directory(&root),
    };
    // Where a run may be told to die.
    let beside = if facts.is_some() { &DELIVERY[..] } else { &BESIDE };
    let points = [&["snapshot.after_slot", "snapshot.table_done"][..], &STREAMING, beside].concat();
    let began = Instant::now();
    let mut told = Vec::new();
    while began.elapsed() < ROUND {
        if !bygone.alive() {
            told.extend(
                bygone
                    .end()
                    .map(|status| format!("ended by itself: {status}: {}", last_word(&bygone.said()))),
            );
            let point = if random.random_bool(0.4) {
                format!("{}=abort@{}", points.choose(&mut random).unwrap(), random.random_range(1..4))
            } else {
                String::new()
            };
            told.push(format!("start {point}"));
            bygone.start(&point);
        }
        std::thread::sleep(Duration::from_secs_f64(random.random_range(0.1..1.5)));
        let fault = *FAULTS.choose(&mut random).unwrap();
        told.push(format!("{fault:?}"));
        let moment = Duration::from_millis(random.random_range(100..2500));
        match fault {
            Fault::Kill => {
                bygone.end();
            }
            Fault::Terminate => {
                if bygone.alive() {
                    bygone.signal(Signal::TERM);
                    std::thread::sleep(moment);
                }
                // Or it would go on for as long as the network is away.
                bygone.end();
            }
            Fault::Sleep => {
                if bygone.alive() {
                    bygone.signal(Signal::STOP);
                    std::thread::sleep(2 * moment);
                    bygone.signal(Signal::CONT);
                }
            }
            Fault::ServerStops => {
                match random.random_range(0..3) {
                    0 => source.server.stop(Stop::Immediate),
                    1 => source.server.stop(Stop::Fast),
                    _ => source.server.kill(),
                }
                std::thread::sleep(moment / 4);
                source.server.start_again();
            }
            Fault::SessionsEnd => {
                let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'bygone'";
                source.server.value(end);
            }
            Fault::NetworkCut => {
                link.cut();
            }
            Fault::NetworkSlow => link.slow_down(moment / 100),
            Fault::NetworkForgets => link.forget(),
            Fault::StateGone | Fault::StateDamaged => {
                bygone.end();
                let mut found = Vec::new();
                // Before the first start has come that far there is none.
                if state.exists() {
                    files(&state, &mut found);
                }
                match (fault, found.choose(&mut random)) {
                    (Fault::StateDamaged, Some(file)) => {
                        let mut bytes = std::fs::read(file).unwrap();
                        let length = bytes.len();
                        if let Some(byte) = bytes.get_mut(random.random_range(0..length.max(1))) {
                            *byte ^= 1 << random.random_range(0..8);
                        }
                        std::fs::write(file, bytes).unwrap();
                    }
                    _ => {
                        let _ = std::fs::remove_dir_all(&state);
                    }
                }
            }
            Fault::KilledCompaction if place == Place::Disk => {
                let point = BESIDE[random.random_range(0..BESIDE.len())];
                let compaction = Bygone::new(source.server.url(), source.history())
                    .env("BYGONE_FAILPOINTS", &format!("{point}=abort"))
                    .ask(&["compact", "--all", "--slab-rows", "100"]);
                assert!(matches!(compaction.code(), None | Some(0 | 1)), "{}", compaction.stderr);
            }
            Fault::KilledCompaction => {}
            Fault::Reader => {
                let question = ["as-of", "orders", "--at", "now", "--format", "csv"];
                let told = match &facts {
                    Some(facts) => bygone.ask_of(facts, &question),
                    None => bygone.ask(&question),
                };
                let early = ["no history", "no table", "not known", "not in the history yet"];
                let early = early.iter().any(|words| told.stderr.contains(words));
                assert!(told.code() == Some(0) || early || bucket.is_some(), "{}", told.stderr);
            }
        }
        if random.random_bool(0.2) && place == Place::Disk {
            assert_not_acknowledged_too_far_if_there(&source);
        }
    }
    eprintln!("seed {seed}, {place:?}: {}", told.join(", "));
    workload.finish();
    bygone.end();
    drop(link);
    bygone.reach(source.server.url());
    // State that was damaged may show late, and then says what to do.
    if bygone.attempt(&[]).code() != Some(0) {
        let _ = std::fs::remove_dir_all(&state);
        bygone.until_current();
    }
    if let Some(facts) = &facts {
        let back = source.scratch.join("back");
        let back_in_files = ["backfill-history", "--facts", facts, "--history", back.to_str().unwrap()];
        bygone.command(&back_in_files).well();
        source.assert_exact(Store::directory(&back), 100);
        bygone.ask_of(facts, &["as-of", "orders", "--at", "now"]).well();
        return;
    }
    // What a killed compaction had made goes after an hour.
    if place == Place::Disk {
        let left = History::read(store());
        for path in left.orphans().into_iter().filter(|path| path.contains("-c")) {
            std::fs::remove_file(source.history().join(path)).unwrap();
        }
    }
    source.assert_exact(store(), 100);
    bygone.ask(&["verify"]).well();
    bygone.ask(&["as-of", "orders", "--at", "now"]).well();
}

/// Before the first slot there is nothing to acknowledge.
fn assert_not_acknowledged_too_far_if_there(source: &Source) {
    let slot = source.server.value("select 1 from pg_replication_slots where slot_name = 'bygone'");
    if slot.is_some() && source.history().join("log").exists() {
        assert_not_acknowledged_too_far(&source.server, &History::read(Store::directory(source.history())));
    }
}

fn shaky_bucket(seed: u64) -> (Moto, Proxy) {
    let moto = Moto::start();
    let count = AtomicUsize::new(0);
    let proxy = Proxy::start(moto.port(), move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst) as u64;
        match StdRng::seed_from_u64(seed ^ number).random_range(0..60) {
            0 => Fate::Answer(500),
            1 => Fate::LoseReply,
            2 => Fate::Answer(503),
            3 => Fate::Refuse,
            _ => Fate::Pass,
        }
    });
    (moto, proxy)
}

/// The last line that says something.
fn last_word(said: &str) -> String {
    let lines = said
        .lines()
        .rev()
        .find(|line| line.contains("ERROR") || line.contains("error") || line.contains("bygone:"));
    lines.unwrap_or_default().chars().take(160).collect()
}
