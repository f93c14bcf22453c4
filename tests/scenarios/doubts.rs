//! Tables of which the stream did not tell all: what is known of them, until they have been compared with the source, and how
//! that comes to an end.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;

use super::schema::{Diary, ITEMS};
use crate::support::process::eventually;

const SOON: Duration = Duration::from_secs(60);

/// The doubt is over: a run that ends by itself does, and the table is there as the source has it.
#[track_caller]
fn ends_with(diary: &mut Diary, table: &str, rows: &str) {
    diary.bygone.terminate(Signal::TERM, Duration::from_secs(20));
    diary.bygone.until_current();
    diary.bygone.ask(&["verify"]).well();
    let columns = if table == "items" { "id,a,n" } else { "id,v" };
    let asked = ["as-of", table, "--at", "now", "--inexact", "--format", "csv", "--columns", columns];
    let shown = diary.bygone.ask(&asked).well().stdout;
    let mut shown: Vec<&str> = shown.lines().skip(1).collect();
    shown.sort_unstable();
    let expected = diary.server.value(rows).unwrap();
    let mut expected: Vec<&str> = expected.lines().collect();
    expected.sort_unstable();
    assert_eq!(shown, expected);
}

/// Nobody can tell rows apart by a key that is no more, but the history goes on with it.
#[test]
fn a_table_that_lost_its_key_is_compared_once() {
    let mut diary = Diary::begin(true, ITEMS);
    diary.change("alter table items drop constraint items_pkey", &[("updates_unseen", "public.items")]);
    diary.change(
        "alter table items alter n type bigint using n + 1000",
        &[("rewrite", "public.items"), ("reconcile", "public.items")],
    );
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(diary.events("reconcile", "public.items").len(), 1, "{}", diary.bygone.said());
    ends_with(
        &mut diary,
        "items",
        "select string_agg(id || ',a' || id || ',' || id + 1000, chr(10) order by id) from items",
    );
}

#[test]
fn a_partitioned_table_that_lost_its_key_is_compared_once() {
    let mut diary = Diary::begin(
        true,
        "create table parted (id int, v text) partition by range (id);
         create table parted_1 partition of parted (primary key (id)) for values from (0) to (50);
         insert into parted select i, 'v' || i from generate_series(1, 20) i",
    );
    diary.change(
        "create table parted_2 partition of parted for values from (50) to (100); insert into parted values (60, 'v60')",
        &[("partition", "public.parted"), ("reconcile", "public.parted")],
    );
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(diary.events("reconcile", "public.parted").len(), 1, "{}", diary.bygone.said());
    ends_with(&mut diary, "parted", "select string_agg(id || ',' || v, chr(10) order by id) from parted");
}

/// A part of the key does not name rows that differ in the other part alone.
#[test]
fn rows_of_a_table_that_lost_part_of_its_key_stay_apart() {
    let mut diary = Diary::begin(
        true,
        "create table pairs (id int, other int, v text, primary key (id, other));
         insert into pairs values (1, 1, 'one'), (1, 2, 'two'), (2, 1, 'three')",
    );
    diary.change(
        "alter table pairs drop column other",
        &[("key", "public.pairs"), ("reconcile", "public.pairs")],
    );
    diary.change("insert into pairs values (1, 'zero')", &[]);
    diary.settle();
    ends_with(&mut diary, "pairs", "select string_agg(id || ',' || v, chr(10) order by v) from pairs");
}

/// Of rows without a key, all that the stream sends is what they are known by.
#[test]
fn rows_without_a_key_are_known_whatever_is_generated_in_them() {
    let mut diary = Diary::begin(
        true,
        "create table lines (t text, n int, twice int generated always as (n * 2) stored);
         alter table lines replica identity full;
         insert into lines select 'line ' || i, i from generate_series(1, 10) i",
    );
    diary.change("update lines set t = 'new' where n = 1; delete from lines where n = 2", &[]);
    diary.change("insert into lines values ('eleven', 11); update lines set n = 12 where n = 11", &[]);
    diary.settle();
    assert!(diary.events("gap", "public.lines").is_empty(), "{}", diary.bygone.said());
    let shown =
        diary.bygone.ask(&["as-of", "lines", "--at", "now", "--format", "csv", "--columns", "t,n"]).well();
    let mut rows: Vec<&str> = shown.stdout.lines().skip(1).collect();
    rows.sort_unstable();
    let mut expected: Vec<String> = (3..=10).map(|i| format!("line {i},{i}")).collect();
    expected.extend(["new,1".to_owned(), "eleven,12".to_owned()]);
    expected.sort();
    assert_eq!(rows, expected);
    diary.bygone.ask(&["verify"]).well();
    // A comparison finds none of them other.
    let url = diary.server.url();
    diary.bygone.ask(&["reconcile", "--source", &url, "--no-record"]).well();
}

/// Nothing tells them apart, and each costs no more than the one before.
#[test]
fn equal_rows_may_be_many() {
    let mut diary = Diary::begin(
        false,
        "create table flags (up boolean); alter table flags replica identity full;
         insert into flags select true from generate_series(1, 60000)",
    );
    diary.change(
        "delete from flags where ctid in (select ctid from flags limit 30000);
         insert into flags select true from generate_series(1, 10000)",
        &[],
    );
    diary.save("flags");
    diary.change("update flags set up = false where ctid in (select ctid from flags limit 15000)", &[]);
    diary.save("flags");
    diary.check();
}

/// Under the columns of now a row has the very bytes that another had under those of before.
#[test]
fn rows_without_a_key_that_come_to_read_as_others_did_are_told_apart() {
    let mut diary = Diary::begin(
        true,
        "create table edges (src int, dst int); alter table edges replica identity full;
         insert into edges select 100 + i, i from generate_series(2, 40) i;
         insert into edges select i, 1 from generate_series(2, 40) i",
    );
    diary.change("alter table edges drop src, add weight int default 1", &[("schema", "public.edges")]);
    diary.save("edges");
    diary.change(
        "update edges set weight = 10 + dst where dst > 1 and dst % 2 = 0; delete from edges where dst % 3 = 0",
        &[],
    );
    diary.save("edges");
    assert!(diary.events("gap", "public.edges").is_empty(), "{}", diary.bygone.said());
    diary.check();
}

/// What the stream calls a row is not what it called it before, and no message says so.
#[test]
fn rows_without_a_key_that_read_otherwise_are_compared() {
    for (made, altered) in [
        (
            "create type spot as (x int, y int); create table marks (at spot, n int); insert into marks select (i, i)::spot, i",
            "alter type spot add attribute z int",
        ),
        (
            "create table named (); create table marks (at regclass, n int); insert into marks select 'named', i",
            "alter table named rename to called",
        ),
    ] {
        let mut diary = Diary::begin(
            true,
            &format!("{made} from generate_series(1, 10) i; alter table marks replica identity full"),
        );
        diary.change(altered, &[]);
        diary.change(
            "update marks set n = 100 where n = 1; delete from marks where n = 2",
            &[("gap", "public.marks"), ("reconcile", "public.marks")],
        );
        diary.save("marks");
        diary.change("update marks set n = 101 where n = 100; delete from marks where n = 3", &[]);
        diary.save("marks");
        assert_eq!(diary.events("reconcile", "public.marks").len(), 1, "{altered}: {}", diary.bygone.said());
        diary.check();
    }
}

/// The first partition of a table that had none brings rows along.
#[test]
fn rows_of_the_first_partition_that_is_attached_are_known() {
    for live in [true, false] {
        let mut diary = Diary::begin(
            live,
            "create table parted (id int primary key, v text) partition by range (id);
             create table filled (id int primary key, v text); insert into filled select i, 'v' || i from generate_series(1, 10) i",
        );
        diary.change(
            "alter table parted attach partition filled for values from (0) to (100)",
            &[("detach", "public.filled"), ("partition", "public.parted"), ("reconcile", "public.parted")],
        );
        diary.change("insert into parted values (11, 'new'); delete from parted where id = 1", &[]);
        diary.save("parted");
        diary.check();
    }
}

/// A large value that an update leaves alone is not sent: what is known of it is of before what nobody told.
#[test]
fn a_value_that_is_not_sent_is_not_taken_from_before_a_gap() {
    let mut diary = Diary::begin(
        false,
        "create table notes (id int primary key, body text, n int); alter table notes alter body set storage external;
         insert into notes select i, repeat('old', 2000), 0 from generate_series(1, 3) i",
    );
    diary.server.run("select pg_drop_replication_slot('bygone')");
    diary.server.run("update notes set body = repeat('unheard', 1000) where id = 1");
    diary.bygone.start_with(&["--on-gap", "reconcile"], "copy.ready=sleep(8000)@1");
    let begun = eventually(SOON, || diary.bygone.said().contains("copying tables beside the stream"));
    assert!(begun, "{}", diary.bygone.said());
    diary.server.run("update notes set n = 1");
    // The values that a version of the first row has, and which of them are not known.
    let version = |diary: &Diary, number: usize| {
        let of_row =
            |fact: &BTreeMap<String, String>| fact["id"] == "1" && fact["_version"] == number.to_string();
        diary.history().whole("public.notes").into_iter().find(of_row)
    };
    let came = eventually(SOON, || version(&diary, 2).is_some());
    assert!(came, "{}", diary.bygone.said());
    let second = version(&diary, 2).unwrap();
    assert_eq!((second["n"].as_str(), second["_unknown"].as_str()), ("1", "{\"body\"}"), "{second:?}");
    let compared = eventually(SOON, || !diary.events("reconcile", "public.notes").is_empty());
    assert!(compared, "{}", diary.bygone.said());
    let third = version(&diary, 3).unwrap();
    assert!(third["body"].starts_with("unheard") && third["_op"] == "reconcile", "{third:?}");
    // From then on what is known is known.
    diary.server.run("update notes set n = 2");
    assert!(eventually(SOON, || version(&diary, 4).is_some()), "{}", diary.bygone.said());
    let fourth = version(&diary, 4).unwrap();
    assert!(fourth["body"].starts_with("unheard") && fourth["n"] == "2", "{fourth:?}");
    diary.bygone.terminate(Signal::TERM, Duration::from_secs(20));
    diary.save("notes");
    diary.check();
}

/// The stream names rows by another index than that of their key, also those that a comparison has brought.
#[test]
fn rows_that_a_comparison_brings_are_known_by_the_index_that_the_stream_names_them_by() {
    let mut diary = Diary::begin(
        false,
        "create table parts (id int primary key, code int not null unique, v text);
         alter table parts replica identity using index parts_code_key;
         insert into parts select i, i, 'v' || i from generate_series(1, 20) i",
    );
    diary.bygone.start("copy.ready=sleep(4000)@1");
    let streams = eventually(SOON, || diary.bygone.said().contains("streaming"));
    assert!(streams, "{}", diary.bygone.said());
    diary.server.run("alter table parts alter code type bigint using code + 1000");
    let begun = eventually(SOON, || diary.bygone.said().contains("copying tables beside the stream"));
    assert!(begun, "{}", diary.bygone.said());
    diary.server.run("update parts set v = 'heard' where id = 1");
    let compared = eventually(SOON, || !diary.events("reconcile", "public.parts").is_empty());
    assert!(compared, "{}", diary.bygone.said());
    let before = diary.events("gap", "public.parts").len();
    diary.server.run("delete from parts where id = 2; update parts set code = 5000 where id = 3");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(diary.events("gap", "public.parts").len(), before, "{}", diary.bygone.said());
    diary.bygone.terminate(Signal::TERM, Duration::from_secs(20));
    diary.save("parts");
    diary.check();
}

#[test]
fn a_partitioned_table_that_becomes_a_partition_is_detached() {
    let mut diary = Diary::begin(
        true,
        "create table world (id int, place text, primary key (id, place)) partition by list (place);
         create table europe (id int, place text, primary key (id, place)) partition by range (id);
         create table europe_1 partition of europe for values from (0) to (100);
         insert into europe select i, 'europe' from generate_series(1, 10) i",
    );
    diary.change(
        "alter table world attach partition europe for values in ('europe')",
        &[("detach", "public.europe"), ("partition", "public.world"), ("reconcile", "public.world")],
    );
    assert!(diary.events("drop", "public.europe").is_empty());
    diary.change("insert into world values (11, 'europe'); delete from world where id = 1", &[]);
    diary.save("world");
    diary.check();
}
