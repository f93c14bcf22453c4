//! Rows that were known before a change of columns are known after it, whatever else happens in the same moment.

use super::{Diary, SOON};
use crate::support::comparison::assert_flawless;

/// The operations of a table's facts.
fn operations(diary: &Diary, table: &str) -> Vec<String> {
    let facts = diary.history().texts(table, &["_op"]);
    facts.into_iter().filter_map(|mut fact| fact.pop().flatten()).collect()
}

#[test]
fn rows_without_a_key_are_found_when_state_lacks_the_commit_that_changed_their_columns() {
    let mut diary = Diary::begin(
        false,
        "create table heap (a text, n int); alter table heap replica identity full;
         insert into heap values ('x', 1), ('x', 1), ('y', 2), ('z', 3)",
    );
    diary
        .server
        .run("alter table heap add column b text default 'b'; insert into heap values ('new', 4, 'c')");
    diary.bygone.start("state.before_apply=abort");
    diary.bygone.abort(SOON);
    diary.server.run("update heap set n = n + 10 where a = 'x'; delete from heap where a = 'y'");
    diary.settle();
    diary.save("heap");
    diary.check();
    let operations = operations(&diary, "public.heap");
    assert!(!operations.contains(&"reconcile".to_owned()), "rows were not found again: {operations:?}");
}

/// One row reads now as the other one did before.
#[test]
fn rows_without_a_key_that_become_alike_are_two_still() {
    let mut diary = Diary::begin(
        false,
        "create table flags (n int, flag bool); alter table flags replica identity full;
         insert into flags select i, b from generate_series(1, 20) i, unnest(array[true, false]) b",
    );
    diary.change("alter table flags drop column flag; alter table flags add column other bool default false; insert into flags values (0, true)", &[]);
    diary.save("flags");
    diary.change(
        "delete from flags where n between 1 and 10; update flags set other = true where n = 15",
        &[],
    );
    diary.save("flags");
    diary.check();
    let operations = operations(&diary, "public.flags");
    assert!(!operations.contains(&"reconcile".to_owned()), "rows were not found again: {operations:?}");
}

/// A row that a delete takes out of its partition may only have moved, so that its end waits for what follows.
#[test]
fn a_row_that_leaves_its_partition_before_a_change_of_columns_has_ended() {
    let mut diary = Diary::begin(
        false,
        "create table part (id int, region text, n numeric, primary key (id, region)) partition by list (region);
         create table part_eu partition of part for values in ('eu');
         create table part_us partition of part for values in ('us');
         insert into part select i, r, i from generate_series(1, 10) i, unnest(array['eu', 'us']) r",
    );
    for change in [
        "alter table part add column late text default 'x'",
        "alter table part drop column n",
        "alter table part alter late drop default, alter late type int using 7",
    ] {
        let id = diary.server.value("select max(id)::text from part").unwrap();
        diary.server.run(&format!(
            "begin; delete from part_eu where id = {id}; {change}; insert into part (id, region) values ({id} - 100, 'us');
             delete from part_us where id = {id}; commit"
        ));
        diary.settle();
        diary.save("part");
    }
    diary.check();
}

/// The table goes on with the versions of the one whose name it has, also where its first copy was begun by another process.
#[test]
fn a_table_that_was_made_anew_counts_on_after_a_kill() {
    for point in ["copy.begun", "copy.ready", "join.before_cut"] {
        let mut diary = Diary::begin(
            false,
            "create table items (id int primary key, v text); insert into items values (1, 'a'), (2, 'b'), (3, 'c')",
        );
        diary.server.run("update items set v = 'aa' where id = 1");
        diary.settle();
        diary.server.run(
            "drop table items; create table items (id int primary key, v text, w int); insert into items values (1, 'A'), (2, 'B'), (4, 'D')",
        );
        diary.bygone.start(&format!("{point}=abort"));
        diary.bygone.abort(SOON);
        diary.settle();
        diary.save("items");
        diary.server.run("update items set w = id; delete from items where id = 4");
        diary.settle();
        diary.save("items");
        diary.check();
        assert_flawless(&diary.history().violations);
    }
}

/// Another table's row, of after the ALTER, comes before the next row of the table itself: the columns of that moment are not known, and
/// of the moments before it they are.
fn a_moment_between_an_alter_and_the_row_that_shows_it(live: bool) {
    let mut diary = Diary::begin(
        live,
        "create table pairs (id int primary key, n int); insert into pairs values (1, 0), (2, 0);
         create table others (id int primary key, n int); insert into others values (1, 0)",
    );
    diary.server.run("update pairs set n = 1 where id = 1");
    let here = "select pg_current_wal_insert_lsn()";
    let before = diary.server.value(here).unwrap();
    // Behind that the catalog is looked at.
    diary.save("pairs");
    diary.server.run("alter table pairs add column later int default 43");
    diary.server.run("update others set n = 1");
    let between = diary.server.value(here).unwrap();
    diary.server.run("update pairs set n = 2 where id = 1");
    diary.save("pairs");
    diary.check();
    let told = |at: &str| diary.bygone.ask(&["as-of", "pairs", "--at", at]).well().stderr;
    assert!(told(&between).contains("the columns of public.pairs changed between"), "{}", told(&between));
    assert!(!told(&before).contains("changed between"), "{}", told(&before));
}

#[test]
fn a_moment_between_an_alter_and_the_row_that_shows_it_is_not_told_as_known_while_running() {
    a_moment_between_an_alter_and_the_row_that_shows_it(true);
}

#[test]
fn a_moment_between_an_alter_and_the_row_that_shows_it_is_not_told_as_known_while_stopped() {
    a_moment_between_an_alter_and_the_row_that_shows_it(false);
}
