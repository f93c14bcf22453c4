//! Whatever breaks between the source and the history: afterwards each committed change is a fact, once.
//!
//! Kills, crashes of the server and a writer that slept are the matter of [`super::exactly_once`]; a full disk for the
//! history that of [`super::bad_input`]; failovers that of [`super::standbys`].

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use super::exactly_once::{assert_not_acknowledged_too_far, wait_for_commits};
use super::{SHOP, Source, contents};
use crate::support::bygone::Bygone;
use crate::support::clock::Clock;
use crate::support::comparison::{assert_flawless, judge};
use crate::support::disk::Disk;
use crate::support::history::History;
use crate::support::link::Link;
use crate::support::moto::Moto;
use crate::support::postgres::{DATABASE, Postgres, Stop};
use crate::support::process::eventually;
use crate::support::s3_proxy::{Fate, Proxy};
use crate::support::scratch::{Scratch, copy_directory};
use crate::support::store::Store;
use crate::support::workload::{Habits, Workload};

fn commits(source: &Source) -> usize {
    History::read(Store::directory(source.history())).commits.len()
}

/// A capture through a link that gives a silent server three seconds.
fn impatient(source: &Source, link: &Link) -> Bygone {
    Bygone::new(through(link), source.history()).options(&[
        "--commit-interval",
        "200ms",
        "--source-timeout",
        "3s",
    ])
}

/// The database through a link.
pub(super) fn through(link: &Link) -> String {
    format!("postgres://postgres@127.0.0.1:{}/{DATABASE}", link.port())
}

/// The server goes away in the very moment in which the catalog is asked for the second table of a transaction.
#[test]
fn a_source_that_goes_away_in_the_middle_of_a_transaction_doubles_nothing() {
    let mut server = Postgres::start();
    server.run(
        "create table a (id int primary key, v int); create table b (id int primary key, v int);
         insert into a values (1, 0); insert into b values (1, 0)",
    );
    let scratch = Scratch::new("history");
    let root = scratch.join("history");
    let mut bygone = Bygone::new(server.url(), &root).options(&["--commit-interval", "100ms"]);
    bygone.start("catalog.asked=sleep(4000)@2");
    assert!(eventually(Duration::from_secs(60), || bygone.said().contains("streaming")), "{}", bygone.said());
    server.run("begin; update a set v = 1; update b set v = 1; commit");
    std::thread::sleep(Duration::from_secs(1));
    server.stop(Stop::Immediate);
    std::thread::sleep(Duration::from_secs(5));
    server.start_again();
    server.run("begin; update b set v = 2; update a set v = 2; commit");
    let facts = |table: &str| {
        let mut facts = History::read(Store::directory(&root)).texts(table, &["_version", "v"]);
        facts.sort();
        facts
    };
    let came = eventually(Duration::from_secs(60), || facts("public.a").len() >= 3 || !bygone.alive());
    assert!(came && bygone.alive(), "{}", bygone.said());
    assert!(bygone.said().contains("connecting again"), "{}", bygone.said());
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.until_current();
    for table in ["public.a", "public.b"] {
        let told = |version: &str, v: &str| vec![Some(version.to_owned()), Some(v.to_owned())];
        assert_eq!(facts(table), [told("1", "0"), told("2", "1"), told("3", "2")], "{table}");
    }
}

#[test]
fn sessions_that_the_server_ends_are_begun_again() {
    let source = Source::start();
    let workload = Workload::start(&source.server, &Habits { large: 2000, ..Habits::default() });
    workload.wait_for(100);
    let mut bygone = source.bygone().options(&["--commit-interval", "200ms"]);
    bygone.start("");
    wait_for_commits(&mut bygone, &source.history(), 3);
    let walsender =
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 'bygone'";
    let all =
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'bygone'";
    for round in 0..6 {
        workload.wait_for(60);
        let ended = source.server.value(if round % 2 == 0 { walsender } else { all });
        assert!(ended.is_some_and(|ended| ended != "0"), "there was nothing to end");
        let before = commits(&source);
        wait_for_commits(&mut bygone, &source.history(), before + 2);
    }
    workload.finish();
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.until_current();
    source.assert_exact(Store::directory(source.history()), 500);
}

#[test]
fn a_bucket_that_locks_each_object_takes_a_history() {
    let source = Source::start();
    let moto = Moto::start();
    moto.put("locked", "x-amz-bucket-object-lock-enabled: true\r\n", "");
    let rule = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE</Mode>\
                <Days>30</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
    moto.put("locked?object-lock", "", rule);
    let workload = Workload::start(&source.server, &Habits { large: 0, ..Habits::default() });
    workload.wait_for(40);
    let history = "s3://locked/shop";
    let made = Bygone::new(source.server.url(), history).options(&["--commit-interval", "200ms"]);
    let mut bygone = moto.variables().iter().fold(made, |made, (name, value)| made.env(name, value));
    bygone.start("");
    workload.wait_for(60);
    std::thread::sleep(Duration::from_secs(2));
    bygone.kill();
    workload.finish();
    // A file that is uploaded in parts.
    source.server.run(
        "insert into settings (name, value) select 'large ' || n, string_agg(md5(random()::text), '') from generate_series(1, 40) n, generate_series(1, 20000) \
         m group by n",
    );
    bygone.until_current();
    bygone.ask(&["compact", "--all", "--grace", "1ms"]).well();
    bygone.ask(&["compact", "--grace", "1ms"]).well();
    bygone.ask(&["verify"]).well();
    source.assert_exact(moto.store_of("locked", "shop"), 50);
}

/// The source's clock makes `_valid_from`, bygone's own is written beside commits and tells files that have had their time.
/// Sessions of the application that wait for a lock.
const WAITING: &str = "select pid from pg_stat_activity
    where wait_event_type = 'Lock' and backend_type = 'client backend' and application_name not like 'bygone%'";

/// Ends waits for locks. PostgreSQL's own timers (`deadlock_timeout`, `lock_timeout`) go by the time of day: what waits as the clock is
/// set back by two hours would wait for two hours more.
struct Waits {
    stopping: Arc<AtomicBool>,
    watching: Option<JoinHandle<()>>,
}

impl Waits {
    fn end(server: &Postgres) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let (mut client, stop) = (server.connect(), Arc::clone(&stopping));
        let watching = std::thread::spawn(move || {
            let mut before: Vec<i32> = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let waiting = client.query(WAITING, &[]).unwrap();
                let waiting: Vec<i32> = waiting.iter().map(|row| row.get(0)).collect();
                for pid in waiting.iter().filter(|pid| before.contains(pid)) {
                    client.execute("select pg_cancel_backend($1)", &[pid]).unwrap();
                }
                before = waiting;
                std::thread::sleep(Duration::from_secs(2));
            }
        });
        Self { stopping, watching: Some(watching) }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        let ended = self.watching.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

#[test]
fn clocks_that_are_set_back_and_forth_change_no_fact() {
    let (Some(theirs), Some(ours)) = (Clock::new(), Clock::new()) else {
        eprintln!("libfaketime is not installed: clocks are not set");
        return;
    };
    let mut source = Source::start();
    source.server.start_in(&theirs.environment());
    let workload = Workload::start(&source.server, &Habits { large: 500, ..Habits::default() });
    workload.wait_for(60);
    let mut bygone =
        source.bygone().options(&["--commit-interval", "200ms", "--compact-interval", "1s", "--grace", "1s"]);
    for (name, value) in ours.environment() {
        bygone = bygone.env(&name, &value);
    }
    let waits = Waits::end(&source.server);
    let offsets =
        [("+0", "+3d"), ("-2h", "-40d"), ("+2d", "+0"), ("-1d", "+400d"), ("+1h", "-1h"), ("+0", "+0")];
    for (round, (server, own)) in offsets.into_iter().enumerate() {
        bygone.start("");
        workload.wait_for(40);
        // In the midst of it.
        theirs.set(server);
        ours.set(own);
        workload.wait_for(40);
        std::thread::sleep(Duration::from_millis(800));
        assert!(bygone.alive(), "{}", bygone.said());
        if round % 2 == 0 {
            bygone.kill();
        } else {
            bygone.terminate(Signal::TERM, Duration::from_secs(20));
        }
    }
    workload.finish();
    drop(waits);
    bygone.until_current();
    let mut history = History::read(Store::directory(source.history()));
    let mut found = judge(&mut source.server.connect(), &source.oracle, &mut history, true);
    // A commit time that lay ahead of the clock by when it was sent is held back [11], of which the judge knows nothing.
    found.retain(|violation| violation.rule != "time");
    assert_flawless(&found);
    assert!(history.fact_count() > 300, "{}", history.fact_count());
    for table in history.tables() {
        let times = history.texts(table, &["_valid_from"]);
        assert!(times.is_sorted(), "time goes back in {table}");
    }
    bygone.ask(&["verify"]).well();
    let clocks = history.events("clock");
    assert!(!clocks.is_empty(), "nothing tells that the source's clock went back");
}

#[test]
fn a_slow_network_that_cuts_connections_loses_nothing() {
    let source = Source::start();
    let habits = Habits { large: 2000, ..Habits::default() };
    let mut random = StdRng::seed_from_u64(habits.seed);
    let link = Link::to(source.server.port());
    link.slow_down(Duration::from_millis(2));
    let workload = Workload::start(&source.server, &habits);
    workload.wait_for(100);
    let mut bygone = Bygone::new(through(&link), source.history()).options(&["--commit-interval", "200ms"]);
    // A copy that is cut is begun again by the next start; what streams goes on by itself.
    bygone.until_current();
    let before = commits(&source);
    bygone.start("");
    wait_for_commits(&mut bygone, &source.history(), before + 1);
    let mut cuts = 0;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(random.random_range(50..700)));
        cuts += link.cut();
    }
    assert!(cuts >= 10, "only {cuts} connections were cut");
    assert!(bygone.alive(), "{}", bygone.said());
    workload.finish();
    let before = commits(&source);
    source.server.run("update orders set customer = customer where id in (select id from orders limit 3)");
    source.server.run("insert into settings values ('last', 'one')");
    wait_for_commits(&mut bygone, &source.history(), before + 1);
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.until_current();
    source.assert_exact(Store::directory(source.history()), 500);
}

#[test]
fn a_connection_whose_other_end_is_gone_is_given_up() {
    // Given a firewall that forgets the connections
    let mut source = Source::of(Postgres::with(&[("wal_sender_timeout", "3s")]));
    let link = Link::to(source.server.port());
    let mut bygone = impatient(&source, &link);
    bygone.start("");
    // A table that is altered while it is copied first would be copied first once more.
    assert!(eventually(Duration::from_secs(60), || bygone.said().contains("streaming")), "{}", bygone.said());
    let workload = Workload::start(&source.server, &Habits { large: 0, ..Habits::default() });
    wait_for_commits(&mut bygone, &source.history(), 3);
    for _ in 0..2 {
        link.forget();
        // When nothing comes any more, not even the end of the connection, then it is begun anew
        let before = commits(&source);
        wait_for_commits(&mut bygone, &source.history(), before + 3);
    }
    workload.finish();
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.until_current();
    source.assert_exact(Store::directory(source.history()), 300);
    source.server.stop(crate::support::postgres::Stop::Fast);
}

#[test]
fn a_copy_whose_other_end_is_gone_is_begun_again_and_leaves_no_lock_behind() {
    // Given a table that is copied beside the stream, and a firewall that forgets the connections
    let source = Source::start();
    let link = Link::to(source.server.port());
    let mut bygone = impatient(&source, &link);
    bygone.start("");
    assert!(eventually(Duration::from_secs(60), || bygone.said().contains("streaming")), "{}", bygone.said());
    link.slow_down(Duration::from_millis(20));
    source.server.run("create table big (id int primary key, filler text)");
    source.server.run("insert into big select n, repeat('x', 200) from generate_series(1, 100000) n");
    let copied = "select exists (select from pg_stat_activity where query ilike 'copy%big%' and pid <> pg_backend_pid())";
    let is_copied = || source.server.value(copied).as_deref() == Some("t");
    assert!(eventually(Duration::from_secs(60), is_copied), "{}", bygone.said());
    link.forget();
    link.slow_down(Duration::ZERO);

    // When an application alters the table, then it does not wait for a session that nobody is in any more
    source.server.run("set lock_timeout = '30s'; alter table big add column extra int not null default 7");

    // And the table is copied all the same
    let facts = || History::read(Store::directory(source.history())).fact_count();
    assert!(
        eventually(Duration::from_secs(120), || facts() == 100_000),
        "{} facts\n{}",
        facts(),
        bygone.said()
    );
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.until_current();
    let sum = bygone.ask(&["sql", "select count(*), sum(extra) from big", "--format", "csv"]).well().stdout;
    assert_eq!(sum.lines().last(), Some("100000,700000"), "{sum}");
}

#[test]
fn a_server_that_is_long_at_work_on_an_answer_is_waited_for() {
    // Given a transaction that the making of a slot has to wait for
    let source = Source::start();
    let mut other = source.server.connect();
    other.batch_execute("begin; select pg_current_xact_id()").unwrap();
    let mut bygone = source.bygone().options(&["--source-timeout", "1s"]);
    bygone.start("");
    let waits = "select exists (select from pg_stat_activity where query like 'CREATE_REPLICATION_SLOT%' and wait_event_type = 'Lock')";
    let is_waiting = || source.server.value(waits).as_deref() == Some("t");
    assert!(eventually(Duration::from_secs(60), is_waiting), "{}", bygone.said());

    // When that takes several times as long as a server may be silent
    std::thread::sleep(Duration::from_secs(5));
    assert!(is_waiting() && bygone.alive(), "{}", bygone.said());
    other.batch_execute("commit").unwrap();

    // Then nothing was given up
    wait_for_commits(&mut bygone, &source.history(), 1);
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
}

#[test]
fn a_rotated_password_is_read_again_or_asked_for() {
    let server = Postgres::start();
    server.run(SHOP);
    server.run("create role app login superuser password 'first-secret'");
    server.admit("scram-sha-256");
    let scratch = Scratch::new("faults");
    let passfile = scratch.join("pgpass");
    let write = |password: &str| {
        fs::write(&passfile, format!("*:*:*:app:{password}\n")).unwrap();
        fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("first-secret");
    let url = server.url_as("app", DATABASE);
    let mut of_file = Bygone::new(&url, scratch.join("of-file"))
        .options(&["--commit-interval", "200ms", "--name", "of_file"])
        .env("PGPASSFILE", passfile.to_str().unwrap());
    let mut of_url = Bygone::new(server.url_as("app:first-secret", DATABASE), scratch.join("of-url"))
        .options(&["--commit-interval", "200ms", "--name", "of_url", "-vv"]);
    for bygone in [&mut of_file, &mut of_url] {
        bygone.start("");
    }
    // A slot is active while its first copy is made, too, and that does not survive its connection.
    let streams =
        |bygone: &Bygone| eventually(Duration::from_secs(30), || bygone.said().contains("streaming"));
    assert!(streams(&of_file) && streams(&of_url), "{}{}", of_file.said(), of_url.said());

    // When the password is another, and the sessions have to log in again
    server.run("alter role app password 'second-secret'");
    write("second-secret");
    server.run("insert into orders values (4, 'dee', 4)");
    server.run("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'bygone'");

    // Then the file's is used, and the other says that it is wrong, without showing it anywhere
    server.run("insert into orders values (5, 'eve', 5)");
    let status = of_url.ending(Duration::from_secs(60));
    assert_eq!(status.code(), Some(1), "{status}\n{}", of_url.said());
    assert!(of_url.said().contains("password"), "{}", of_url.said());
    let facts = || History::read(Store::directory(scratch.join("of-file"))).fact_count();
    assert!(eventually(Duration::from_secs(30), || facts() == 5), "{}", of_file.said());
    of_file.terminate(Signal::TERM, Duration::from_secs(20));
    for bygone in [&of_file, &of_url] {
        for (path, bytes) in bygone.traces().into_iter().chain(contents(&scratch.join("of-url"))) {
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains("-secret"), "the password stands in {path}");
        }
    }
}

#[test]
fn a_panic_in_any_thread_ends_the_process_and_acknowledges_nothing_more() {
    let source = Source::start();
    let workload = Workload::start(&source.server, &Habits { large: 0, ..Habits::default() });
    workload.wait_for(100);
    let mut bygone = source.bygone().options(&["--commit-interval", "200ms"]);
    bygone.until_current();
    // The thread that encodes, tasks of the runtime, the thread that applies, the thread that follows the stream.
    for point in
        ["file.after_write", "commit.before_put", "commit.after_put", "state.before_apply", "ack.before"]
    {
        bygone.start(&format!("{point}=panic@2"));
        let status = bygone.ending(Duration::from_secs(60));
        assert_eq!(status.signal(), Some(6), "{point}: {status}\n{}", bygone.said());
        let said = bygone.said();
        assert!(said.contains(point) && said.contains("this is a bug"), "{point}: {said}");
        assert_not_acknowledged_too_far(&source.server, &History::read(Store::directory(source.history())));
    }
    workload.finish();
    bygone.until_current();
    source.assert_exact(Store::directory(source.history()), 500);
}

/// Memory has rows and passwords, which a core file would keep.
#[test]
fn a_panic_leaves_no_core_file() {
    let source = Source::start();
    let allowed = getrlimit(Resource::Core).maximum;
    if allowed == Some(0) {
        eprintln!("skipped: no process may leave a core file here");
        return;
    }
    setrlimit(Resource::Core, Rlimit { current: allowed, maximum: allowed }).unwrap();
    let mut bygone = source.bygone();
    bygone.start("commit.before_put=panic");
    let status = bygone.ending(Duration::from_secs(60));
    assert_eq!(status.signal(), Some(6), "{status}\n{}", bygone.said());
    assert!(!status.core_dumped(), "{status}");
}

#[test]
fn a_full_disk_for_state_stops_bygone_and_costs_nothing() {
    let source = Source::start();
    let Some(disk) = Disk::mount(source.scratch.join("small")) else { return };
    let state = disk.path().join("state");
    let mut bygone = source.bygone().options(&["--state", state.to_str().unwrap()]);
    bygone.until_current();
    source.server.run(
        "insert into orders (id, note) select n, (select string_agg(md5((n * m)::text), '') from generate_series(1, 20) m)
         from generate_series(1, 30000) n",
    );
    let outcome = bygone.attempt(&[]).refused(&["space", state.to_str().unwrap()]);
    eprintln!("{}", outcome.stderr);
    bygone.ask(&["verify"]).well();
    disk.grow();
    bygone.until_current();
    source.server.run("update orders set customer = 1 where id % 7 = 0");
    bygone.until_current();
    source.assert_exact(Store::directory(source.history()), 30_000);
}

/// All files below a directory.
pub(super) fn files(at: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn state_that_is_missing_old_foreign_or_damaged_costs_time_and_nothing_else() {
    let source = Source::start();
    let state = source.scratch.join("state");
    let mut bygone = source.bygone().options(&["--state", state.to_str().unwrap()]);
    let habits = Habits { pause: Duration::from_millis(1), large: 1500, ..Habits::default() };
    let mut random = StdRng::seed_from_u64(habits.seed);
    let mut round = 0;
    let mut work = || {
        round += 1;
        let workload =
            Workload::start(&source.server, &Habits { seed: habits.seed + round, ..habits.clone() });
        workload.wait_for(250);
        workload.finish();
    };
    work();
    bygone.until_current();
    let old = source.scratch.join("old");
    copy_directory(&state, &old);
    let stranger = Source::start();
    let foreign = source.scratch.join("foreign");
    stranger.bygone().options(&["--state", foreign.to_str().unwrap()]).until_current();
    drop(stranger);

    type Harm<'a> = (&'a str, Box<dyn FnMut() + 'a>);
    let replace = |with: &Path| {
        fs::remove_dir_all(&state).unwrap();
        copy_directory(with, &state);
    };
    let each_file = |harm: &mut dyn FnMut(&Path)| {
        let mut found = Vec::new();
        files(&state, &mut found);
        assert!(found.len() > 2, "{found:?} is no state");
        found.iter().for_each(|file| harm(file));
    };
    let harms: Vec<Harm<'_>> = vec![
        ("missing", Box::new(|| fs::remove_dir_all(&state).unwrap())),
        ("old", Box::new(|| replace(&old))),
        ("foreign", Box::new(|| replace(&foreign))),
        (
            "cut short",
            Box::new(|| {
                each_file(&mut |file| {
                    let length = fs::metadata(file).unwrap().len();
                    fs::File::options().write(true).open(file).unwrap().set_len(length / 2).unwrap();
                });
            }),
        ),
        ("empty", Box::new(|| each_file(&mut |file| fs::write(file, "").unwrap()))),
        (
            "of other bytes",
            Box::new(|| {
                each_file(&mut |file| {
                    let mut bytes = fs::read(file).unwrap();
                    for _ in 0..4.min(bytes.len()) {
                        let at = random.random_range(0..bytes.len());
                        bytes[at] ^= 1 << random.random_range(0..8);
                    }
                    fs::write(file, bytes).unwrap();
                });
            }),
        ),
    ];
    for (name, mut harm) in harms {
        work();
        harm();
        let outcome = bygone.attempt(&[]);
        if outcome.code() != Some(0) {
            // Damage that shows late is named, with what to do: and that helps.
            let outcome = outcome.refused(&["state", "delete"]);
            eprintln!("{name}: {}", outcome.stderr);
            fs::remove_dir_all(&state).unwrap();
            bygone.until_current();
        }
        eprintln!("{name}: gone on");
        source.assert_exact(Store::directory(source.history()), 100);
    }
}

#[test]
fn a_bucket_that_fails_now_and_then_loses_nothing() {
    let moto = Moto::start();
    let count = AtomicUsize::new(0);
    let proxy = Proxy::start(moto.port(), move |_| match count.fetch_add(1, Ordering::SeqCst) {
        n if n % 23 == 22 => Fate::Answer(500),
        n if n % 17 == 16 => Fate::LoseReply,
        n if n % 13 == 12 => Fate::Answer(503),
        n if n % 29 == 28 => Fate::Refuse,
        _ => Fate::Pass,
    });
    let source = Source::start();
    let workload =
        Workload::start(&source.server, &Habits { pause: Duration::from_millis(15), ..Habits::default() });
    let endpoint = format!("http://127.0.0.1:{}", proxy.port());
    let mut bygone = moto
        .bygone(source.server.url(), "shaky")
        .env("AWS_ENDPOINT_URL", &endpoint)
        .options(&["--commit-interval", "300ms"]);
    for _ in 0..3 {
        bygone.start("");
        std::thread::sleep(Duration::from_secs(4));
        bygone.terminate(Signal::TERM, Duration::from_secs(40));
    }
    workload.finish();
    bygone.until_current();
    source.assert_exact(moto.store("shaky"), 500);
    assert!(proxy.puts() > 30, "{} puts prove nothing", proxy.puts());
    bygone.ask(&["verify"]).well();
}

#[test]
fn a_bucket_that_refuses_for_long_stops_bygone_before_anything_is_acknowledged() {
    let moto = Moto::start();
    let down = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_down = std::sync::Arc::clone(&down);
    let proxy = Proxy::start(moto.port(), move |_| {
        if is_down.load(Ordering::SeqCst) { Fate::Answer(503) } else { Fate::Pass }
    });
    let source = Source::start();
    let workload =
        Workload::start(&source.server, &Habits { pause: Duration::from_millis(15), ..Habits::default() });
    workload.wait_for(50);
    let mut bygone = moto
        .bygone(source.server.url(), "down")
        .env("AWS_ENDPOINT_URL", &format!("http://127.0.0.1:{}", proxy.port()))
        .options(&["--commit-interval", "300ms", "--store-timeout", "4s"]);
    bygone.start("");
    let log = || History::read(moto.store("down")).commits.len();
    assert!(eventually(Duration::from_secs(30), || log() >= 3), "{}", bygone.said());
    down.store(true, Ordering::SeqCst);
    let status = bygone.ending(Duration::from_secs(120));
    assert_eq!(status.code(), Some(1), "{status}\n{}", bygone.said());
    assert!(bygone.said().contains("503") || bygone.said().contains("does not answer"), "{}", bygone.said());
    assert_not_acknowledged_too_far(&source.server, &History::read(moto.store("down")));
    down.store(false, Ordering::SeqCst);
    workload.finish();
    bygone.until_current();
    source.assert_exact(moto.store("down"), 100);
}

#[test]
fn a_publication_that_is_dropped_under_a_running_capture_stops_it() {
    let server = Postgres::start();
    server.run(SHOP);
    let scratch = Scratch::new("faults");
    let mut bygone =
        Bygone::new(server.url(), scratch.join("history")).options(&["--commit-interval", "200ms"]);
    bygone.start("");
    wait_for_commits(&mut bygone, &scratch.join("history"), 2);
    server.run("drop publication bygone");
    server.run("insert into orders values (4, 'dee', 4)");
    let status = bygone.ending(Duration::from_secs(60));
    assert_eq!(status.code(), Some(1), "{status}\n{}", bygone.said());
    assert!(bygone.said().contains("publication"), "{}", bygone.said());
}

#[test]
fn a_capture_that_streams_holds_no_transaction_open() {
    let server = Postgres::start();
    server.run(SHOP);
    let scratch = Scratch::new("faults");
    let mut bygone =
        Bygone::new(server.url(), scratch.join("history")).options(&["--commit-interval", "200ms"]);
    bygone.start("");
    wait_for_commits(&mut bygone, &scratch.join("history"), 2);
    let active = "select 1 from pg_replication_slots where slot_name = 'bygone' and active";
    assert!(eventually(Duration::from_secs(20), || server.value(active).is_some()), "{}", bygone.said());
    server.run("insert into orders values (4, 'dee', 4)");
    let held = "select string_agg(coalesce(state, '') || ' ' || query, '; ') from pg_stat_activity
        where application_name = 'bygone' and (backend_xmin is not null or backend_xid is not null
            or state like 'idle in transaction%')";
    for _ in 0..20 {
        assert_eq!(server.value(held), None);
        std::thread::sleep(Duration::from_millis(50));
    }
    bygone.terminate(Signal::TERM, Duration::from_secs(10));
    // And it has left nothing but its slot and its publications.
    assert_eq!(server.traces(), ["publication bygone", "publication bygone_insert_only", "slot bygone"]);
    let made = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
    assert_eq!(server.value(made).as_deref(), Some("2"), "orders and its index");
}

#[test]
fn wal_that_a_forgotten_transaction_holds_is_told_before_the_slot_is_lost() {
    let server = Postgres::with(&[("max_slot_wal_keep_size", "96MB"), ("max_wal_size", "64MB")]);
    server.run(SHOP);
    server.run("create table other (t text)");
    let scratch = Scratch::new("faults");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"))
        .tables(&["public.orders"])
        .options(&["--commit-interval", "200ms", "--catalog-interval", "500ms"]);
    bygone.start("");
    wait_for_commits(&mut bygone, &scratch.join("history"), 2);
    let mut forgotten = server.connect();
    forgotten.batch_execute("begin; insert into orders values (4, 'dee', 4)").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(!bygone.said().contains("much WAL"), "{}", bygone.said());
    for _ in 0..12 {
        server.run("insert into other select repeat('x', 800) from generate_series(1, 6000); checkpoint");
        std::thread::sleep(Duration::from_millis(200));
        if bygone.said().contains("much WAL") {
            break;
        }
    }
    let told = eventually(Duration::from_secs(10), || bygone.said().contains("much WAL"));
    assert!(told && bygone.said().contains("max_slot_wal_keep_size"), "{}", bygone.said());
    let lost = "select 1 from pg_replication_slots where slot_name = 'bygone' and wal_status = 'lost'";
    assert_eq!(server.value(lost), None, "it was told too late");
    forgotten.batch_execute("commit").unwrap();
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
}

/// What is kept is for its owner alone, whatever the umask of whoever starts bygone.
#[test]
fn files_and_directories_are_for_their_owner_alone() {
    let source = Source::start();
    let mut bygone = source.bygone();
    bygone.until_current();
    let state = source.scratch.join("state");
    bygone.attempt(&["--state", state.to_str().unwrap()]).well();
    bygone.ask(&["compact", "--all"]).well();
    let mut seen = 0;
    let mut waiting = vec![source.history(), state];
    while let Some(at) = waiting.pop() {
        let mode = fs::metadata(&at).unwrap().permissions().mode() & 0o777;
        if at.is_dir() {
            assert_eq!(mode, 0o700, "{}: {mode:o}", at.display());
            waiting.extend(fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            assert_eq!(mode, 0o600, "{}: {mode:o}", at.display());
        }
        seen += 1;
    }
    assert!(seen > 10, "{seen}");
}
