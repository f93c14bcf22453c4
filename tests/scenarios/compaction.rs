//! Small files are merged while others write and read: no fact is lost, doubled or altered, for nobody and at no moment.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::Source;
use super::exactly_once::wait_for_commits;
use crate::support::bygone::Bygone;
use crate::support::comparison::assert_flawless;
use crate::support::history::History;
use crate::support::moto::Moto;
use crate::support::postgres::Postgres;
use crate::support::process::eventually;
use crate::support::scratch::Scratch;
use crate::support::store::Store;
use crate::support::workload::{Habits, Workload};

const ACCOUNTS: &str = "
    create table accounts (id int primary key, balance int not null);
    insert into accounts select i, 0 from generate_series(1, 20) i";

/// Each transaction keeps the sum of all balances at zero.
const TRANSFER: &str = "
    with parties as (select (random() * 19)::int + 1 as a, (random() * 19)::int + 1 as b, (random() * 100)::int as amount)
    update accounts set balance = balance + case when id = a and id = b then 0 when id = a then -amount else amount end
    from parties where id in (a, b)";

/// All facts of the tables, by id.
fn facts(history: &History) -> Vec<Vec<Option<String>>> {
    let mut all = Vec::new();
    for table in history.tables() {
        all.extend(history.texts(table, &["_id", "_entity_id", "_version", "_op", "_lsn", "_changed"]));
    }
    all.sort_unstable();
    all
}

#[test]
fn readers_see_each_transaction_whole_all_through_writing_and_merging() {
    let server = Postgres::start();
    server.run(ACCOUNTS);
    let scratch = Scratch::new("history");
    let path = scratch.join("history");
    let mut bygone = Bygone::new(server.url(), &path).options(&[
        "--commit-interval",
        "20ms",
        "--compact-interval",
        "100ms",
        "--grace",
        "10s",
    ]);
    bygone.start("");
    wait_for_commits(&mut bygone, &path, 2);
    let ended = AtomicBool::new(false);
    let reads = std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut client = server.connect();
            while !ended.load(Ordering::Relaxed) {
                client.batch_execute(TRANSFER).unwrap();
            }
        });
        let mut reads = 0;
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_secs(8) {
            let question = ["as-of", "accounts", "--at", "now", "--columns", "balance", "--format", "csv"];
            let balances = bygone.ask(&question).well().stdout;
            let balances: Vec<i64> = balances.lines().skip(1).map(|line| line.parse().unwrap()).collect();
            assert_eq!(
                (balances.len(), balances.iter().sum::<i64>()),
                (20, 0),
                "a torn or doubled transaction"
            );
            reads += 1;
        }
        ended.store(true, Ordering::Relaxed);
        reads
    });
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    let mut history = History::read(Store::directory(&path));
    let compactions = history.events("compact").len();
    eprintln!(
        "{reads} reads, {} commits, {compactions} compactions, {} live files",
        history.commits.len(),
        history.live.len()
    );
    assert!(compactions >= 3 && reads >= 10, "{compactions} compactions and {reads} reads prove nothing");
    history.verify(true);
    assert_flawless(&history.violations);
    assert!(history.live.len() < history.commits.len() / 3, "{} files", history.live.len());
    bygone.ask(&["verify"]).well();

    // What was merged goes when its time is up; what is left is the same.
    let before = facts(&history);
    let told = bygone.ask(&["compact", "--all", "--grace", "1ms"]).well();
    bygone.ask(&["compact", "--grace", "1ms"]).well();
    assert!(told.stderr.contains("became"), "{}", told.stderr);
    let history = History::read(Store::directory(&path));
    assert_eq!(facts(&history), before);
    let parquet = history
        .objects
        .keys()
        .filter(|path| path.ends_with(".parquet") && !path.starts_with("slabs/"))
        .count();
    assert_eq!(parquet, history.live.len(), "old objects stay");
    // A state that is made anew from the merged files goes on counting.
    bygone.forget();
    server.run(TRANSFER);
    bygone.until_current();
    let mut history = History::read(Store::directory(&path));
    history.verify(true);
    assert_flawless(&history.violations);
}

/// A capture goes on for long, and removes what each of its passes replaced.
#[test]
fn old_files_go_pass_after_pass() {
    let server = Postgres::start();
    server.run(ACCOUNTS);
    let scratch = Scratch::new("history");
    let path = scratch.join("history");
    let options = ["--commit-interval", "20ms", "--compact-interval", "100ms", "--grace", "500ms"];
    let mut bygone = Bygone::new(server.url(), &path).options(&options);
    bygone.start("");
    wait_for_commits(&mut bygone, &path, 2);
    // By commit, the files that it replaced.
    let replaced = || -> Vec<Vec<String>> {
        let history = History::read(Store::directory(&path));
        let removes = history.commits.iter().map(|commit| {
            let paths = commit["remove"].as_array().into_iter().flatten();
            paths.map(|path| path.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        });
        removes.filter(|paths| !paths.is_empty()).collect()
    };
    while replaced().len() < 4 {
        server.run(TRANSFER);
    }
    let replaced = replaced();
    let left = || replaced.iter().flatten().filter(|file| path.join(file).exists()).count();
    assert!(eventually(Duration::from_secs(30), || left() == 0), "{} files are left", left());
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.ask(&["verify"]).well();
}

#[test]
fn a_kill_at_each_step_of_a_compaction_costs_nothing() {
    let source = Source::start();
    let workload = Workload::start(&source.server, &Habits { large: 300, ..Habits::default() });
    let mut bygone = source.bygone().options(&["--commit-interval", "150ms"]);
    let root = source.history();
    for point in
        ["compact.after_file", "compact.before_commit", "compact.after_commit", "compact.before_delete"]
    {
        // Beside a capture that goes on
        bygone.start("");
        workload.wait_for(30);
        let commits = History::read(Store::directory(&root)).commits.len();
        wait_for_commits(&mut bygone, &root, commits + 5);
        let killed = Bygone::new(source.server.url(), &root)
            .env("BYGONE_FAILPOINTS", &format!("{point}=abort"))
            .ask(&["compact", "--all", "--grace", "1ms"]);
        assert_eq!(killed.code(), None, "{point} was not reached: {}", killed.stderr);
        assert!(bygone.alive(), "{}", bygone.said());
        bygone.kill();
    }
    workload.finish();
    bygone.until_current();
    for _ in 0..2 {
        bygone.ask(&["compact", "--all", "--grace", "1ms"]).well();
    }
    // What the killed ones had made goes an hour later: here it is taken away by hand.
    let left = History::read(Store::directory(&root));
    let left: Vec<String> = left.orphans().into_iter().map(str::to_owned).collect();
    assert!(!left.is_empty() && left.iter().all(|path| path.contains("-c")), "{left:?}");
    for path in left {
        std::fs::remove_file(root.join(path)).unwrap();
    }
    let history = source.assert_exact(Store::directory(&root), 300);
    let parquet = history
        .objects
        .keys()
        .filter(|path| path.ends_with(".parquet") && !path.starts_with("slabs/"))
        .count();
    assert_eq!(parquet, history.live.len(), "old objects stay");
    bygone.ask(&["verify"]).well();
    // And the state that a capture had all the while is the one that the facts give.
    bygone.forget();
    bygone.until_current();
    source.assert_exact(Store::directory(&root), 300);
}

#[test]
fn a_history_in_a_bucket_is_merged_and_an_altered_file_is_left_alone() {
    let server = Postgres::start();
    server.run(ACCOUNTS);
    let moto = Moto::start();
    let mut bygone = moto.bygone(server.url(), "merged");
    for _ in 0..4 {
        server.run(TRANSFER);
        bygone.until_current();
    }
    let before = facts(&History::read(moto.store("merged")));
    let dry = bygone.ask(&["compact", "--all", "--dry-run"]).well();
    assert!(dry.stderr.contains("would become"), "{}", dry.stderr);
    bygone.ask(&["compact", "--all", "--grace", "1ms"]).well();
    let history = History::read(moto.store("merged"));
    assert_eq!(facts(&history), before);
    assert_eq!(history.live.len(), 2, "one file of facts, and one of transactions");

    let scratch = Scratch::new("history");
    let path = scratch.join("history");
    let mut bygone = Bygone::new(server.url(), &path).options(&["--name", "other"]);
    for _ in 0..3 {
        server.run(TRANSFER);
        bygone.until_current();
    }
    let history = History::read(Store::directory(&path));
    let victim = history.live.keys().find(|path| path.starts_with("tables/")).unwrap();
    let mut bytes = std::fs::read(path.join(victim)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path.join(victim), bytes).unwrap();
    bygone.ask(&["compact", "--all", "--grace", "1ms"]).refused(&["cannot be read", "SHA-256"]);
    assert!(path.join(victim).exists());
    // What is wrong with one table's file keeps no other's from being merged, and no old one from being removed.
    let merged = History::read(Store::directory(&path));
    let of = |history: &History, directory: &str| {
        history.live.keys().filter(|path| path.starts_with(directory)).count()
    };
    assert_eq!(of(&merged, "tables/"), of(&history, "tables/"));
    assert_eq!((of(&history, "transactions/"), of(&merged, "transactions/")), (2, 1));
    let replaced = history.live.keys().filter(|file| file.starts_with("transactions/"));
    for file in replaced {
        assert!(!path.join(file).exists(), "{file} was not removed");
    }
}
