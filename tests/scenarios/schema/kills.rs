//! Killed while tables change: nothing is lost of what the stream does not tell, and nothing doubled.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Diary, ITEMS};
use crate::support::comparison::assert_flawless;

/// What an application does to its tables between two kills. Each leaves `items` and `part` as tables with a key.
const STEPS: [&str; 16] = [
    "alter table items alter n type bigint using n + 1",
    "alter table items add column r float8 default random(); update items set a = 'r' where id = 1",
    "create table born_1 (id int primary key, t text); insert into born_1 select i, repeat('x', 100) from generate_series(1, 3000) i",
    "alter table items drop column r; update born_1 set t = 'y' where id % 2 = 0",
    "drop table born_1; create table born_1 (t text, id int primary key); insert into born_1 values ('z', 1), ('zz', 2)",
    "create table part_asia (id int not null, region text not null, n int, primary key (id, region));
     insert into part_asia values (100, 'asia', 1), (101, 'asia', 2); alter table part attach partition part_asia for values in ('asia')",
    "truncate part_eu; insert into part values (2, 'eu', 22)",
    "alter table items rename v to w; insert into items (id) select i from generate_series(1000, 1500) i",
    "begin; alter table items replica identity full; alter table items drop constraint items_pkey; alter table items add column k int;
     update items set k = id; alter table items alter k set not null; alter table items add primary key (k);
     alter table items replica identity default; commit",
    "alter table part detach partition part_asia; update part set n = -n",
    "update part_asia set n = 9 where id = 100; delete from items where k > 1400",
    "alter table items rename to things; create table items (id int primary key, a text); insert into items values (1, 'other')",
    "alter table things alter n type text using 'n' || n",
    "drop table part_us; insert into part values (4, 'eu', 44)",
    "create table born_2 (id int primary key); insert into born_2 select generate_series(1, 500); drop table born_2",
    "alter table things add column late int default 3; delete from things where k = 1001; truncate born_1",
];

#[test]
fn kills_while_tables_change_lose_nothing() {
    let habits = crate::support::workload::Habits::default();
    let mut random = StdRng::seed_from_u64(habits.seed);
    eprintln!("seed {}", habits.seed);
    let mut diary = Diary::begin(
        false,
        &format!(
            "{ITEMS};
             create table part (id int, region text, n int, primary key (id, region)) partition by list (region);
             create table part_eu partition of part for values in ('eu');
             create table part_us partition of part for values in ('us');
             insert into part select i, case i % 2 when 0 then 'eu' else 'us' end, i from generate_series(1, 20) i"
        ),
    );
    for step in STEPS {
        diary.server.run(step);
        for _ in 0..2 {
            diary.bygone.start("");
            std::thread::sleep(Duration::from_millis(random.random_range(30..1500)));
            diary.bygone.kill();
        }
        if random.random_bool(0.2) {
            diary.bygone.forget();
        }
    }
    diary.settle();
    for table in ["items", "things", "part", "part_asia", "born_1"] {
        diary.save(table);
    }
    diary.check();
}

/// The first copy of a table that goes on under the name of another is cut short, and made at a start.
#[test]
fn a_table_that_is_made_again_goes_on_counting_versions_whatever_is_cut_short() {
    let mut diary = Diary::begin(false, ITEMS);
    diary.server.run("drop table items; create table items (id int primary key, a text); insert into items values (1, 'again'), (99, 'new')");
    diary.bygone.start("copy.ready=sleep(60000)");
    let attached = crate::support::process::eventually(Duration::from_secs(60), || {
        diary.events("attach", "public.items").len() == 2
    });
    assert!(attached, "{}", diary.bygone.said());
    diary.bygone.kill();
    diary.settle();
    diary.save("items");
    diary.check();
    let facts = diary.history().texts("public.items", &["_entity_id", "_version", "_op"]);
    let mut of_1: Vec<String> = facts
        .iter()
        .filter(|fact| fact[0].as_deref() == Some("1"))
        .map(|fact| fact[1..].iter().flatten().cloned().collect::<Vec<_>>().join(" "))
        .collect();
    of_1.sort();
    assert_eq!(of_1, ["1 snapshot", "2 drop", "3 snapshot"]);
}

/// At each durable step of a copy beside the stream.
#[test]
fn a_kill_at_each_step_of_a_comparison_loses_nothing() {
    let points = [
        "copy.begun",
        "copy.ready",
        "join.before_cut",
        "file.before_write",
        "file.after_upload",
        "commit.before_put",
        "commit.after_put",
        "state.before_apply",
        "ack.before",
    ];
    let mut diary = Diary::begin(false, ITEMS);
    for (number, point) in points.into_iter().enumerate() {
        diary.server.run(&format!(
            "alter table items alter n type {} using n + 1; create table t{number} (id int primary key); insert into t{number} values (1), (2)",
            if number % 2 == 0 { "bigint" } else { "int" }
        ));
        // Commits are rare enough for the one of the comparison to be met.
        let nth = if matches!(point, "copy.begun" | "copy.ready" | "join.before_cut") { 1 } else { 2 };
        diary.bygone.start(&format!("{point}=abort@{nth}"));
        // The second commit may never come, where all fits into one.
        let server = &diary.server;
        let done = std::sync::atomic::AtomicBool::new(false);
        let beat = std::thread::scope(|scope| {
            let beating = scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    server.run("update items set v = 'beat' where id = 50");
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
            diary.bygone.abort(super::SOON);
            done.store(true, std::sync::atomic::Ordering::SeqCst);
            beating.join()
        });
        beat.unwrap();
        if number % 3 == 1 {
            diary.bygone.forget();
        }
    }
    diary.settle();
    diary.save("items");
    diary.save("t0");
    diary.save("t8");
    diary.check();
}

#[test]
fn hundreds_of_tables_are_captured_and_followed() {
    let mut diary = Diary::begin(false, "create table first (id int primary key)");
    let made = |from: u32, to: u32| {
        format!(
            "do $$ begin for i in {from}..{to} loop
                 execute format('create table many_%s (id int primary key, t text); insert into many_%s values (1, ''a''), (2, ''b'')', i, i);
             end loop; end $$"
        )
    };
    // A transaction holds a lock on each table that it makes.
    for batch in 0..2 {
        diary.server.run(&made(batch * 300 + 1, batch * 300 + 300));
    }
    diary.bygone.start("");
    diary.live = true;
    diary.settle();
    diary.change(
        "do $$ begin for i in 1..100 loop
             execute format('create table more_%s (id int primary key); insert into more_%s values (7)', i, i);
             execute format('update many_%s set t = ''c'' where id = 2', i);
         end loop; end $$",
        &[("snapshot", "public.more_100")],
    );
    for table in ["many_1", "many_100", "many_600", "more_1", "more_100"] {
        diary.save(table);
    }
    diary.check();
    let history = diary.history();
    assert_eq!(history.events("snapshot").len(), 702, "with those of `first` and the beat");
    assert_flawless(&history.violations);
}
