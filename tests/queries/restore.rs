//! Rows are brought back as they were, and nothing else is touched.

use serde_json::Value;

use super::{Shop, WIDE};
use crate::support::bygone::Outcome;

#[test]
fn a_row_comes_back_as_it_was() {
    let mut shop = Shop::with(&format!(
        "{WIDE};
         create table odd (\"Key\" int generated always as identity primary key, \"it's\" text, sum int generated always as (1) stored);
         insert into odd (\"it's\") values (E'a\\\\b''c'), ('other');
         create table notes (a int, b text, note text, primary key (b, a)); insert into notes values (1, 'x,y', 'first')"
    ));
    shop.server.run("create table saved.wide as table wide; create table saved.odd as table odd; create table saved.notes as table notes");
    // Given rows that were deleted, changed and added
    shop.server.run(
        "delete from wide where id in (1, 2); update wide set word = 'x', ints = '{9}', atz = null where id = -4;
         insert into wide (id) values (7); delete from odd where \"Key\" = 1; update odd set \"it's\" = null where \"Key\" = 2;
         update notes set note = 'second'",
    );
    shop.capture();
    let source = shop.server.url();
    let restore = |row: &[&str]| {
        let mut arguments = vec!["restore"];
        arguments.extend(row);
        arguments.extend(["--apply", "--source", &source]);
        shop.bygone.ask(&arguments)
    };
    // When each is brought back
    for row in [
        &["wide", "1"][..],
        &["wide", "2"],
        &["wide", "-4"],
        &["wide", "7"],
        &["odd", "1"],
        &["odd", "2"],
        &["notes", "x,y", "1"],
    ] {
        restore(row).well();
    }
    // Then the tables are what they were
    for table in ["wide", "odd", "notes"] {
        let differences = shop.server.value(&format!(
            "select count(*) from ((select t::text from {table} t except all select t::text from saved.{table} t)
             union all (select t::text from saved.{table} t except all select t::text from {table} t)) d"
        ));
        assert_eq!(differences.as_deref(), Some("0"), "{table}");
    }
    // And what the history does not know of yet is not overwritten.
    restore(&["wide", "7"]).refused(&["it is gone there", "--force"]);
    shop.server.run("update notes set note = 'third'");
    restore(&["notes", "x,y", "1"]).refused(&["note is third, not second"]);
    assert_eq!(shop.server.value("select note from notes").as_deref(), Some("third"));
    shop.capture();
    let who = shop.json(&["history", "wide", "1"]);
    assert_eq!(who.last().unwrap()["op"], "insert");
}

/// A shop whose tables refer to each other.
const FAMILY: &str = r#"
    create table customers (id bigint generated always as identity primary key, email text unique not null);
    create table orders (id bigint primary key, customer bigint not null references customers, code text unique, total numeric(10,2));
    create table lines (order_id bigint references orders on update cascade, n int, what text, primary key (order_id, n));
    insert into customers (email) values ('ann@example.com'), ('bob@example.com');
    insert into orders values (1, 1, 'A', 10), (2, 2, 'B', 20), (3, 2, 'C', 30);
    insert into lines values (1, 1, 'apple'), (2, 1, 'pear'), (2, 2, 'plum')"#;

impl Shop {
    fn family() -> Self {
        let shop = Self::with(FAMILY);
        for table in ["customers", "orders", "lines"] {
            shop.server.run(&format!("create table saved.{table} as table {table}"));
        }
        shop
    }

    /// One transaction of the shop, captured; gives its id.
    fn transact(&mut self, sql: &str) -> String {
        let mut client = self.server.connect();
        let mut transaction = client.transaction().unwrap();
        transaction.batch_execute(sql).unwrap();
        let xid: String = transaction.query_one("select pg_current_xact_id()::text", &[]).unwrap().get(0);
        transaction.commit().unwrap();
        self.capture();
        xid
    }

    pub(super) fn restore(&self, arguments: &[&str]) -> Outcome {
        let source = self.server.url();
        let mut all = vec!["restore"];
        all.extend(arguments);
        all.extend(["--source", &source]);
        self.bygone.ask(&all)
    }

    /// The tables are as they were at first.
    #[track_caller]
    fn assert_family(&self) {
        for table in ["customers", "orders", "lines"] {
            let differences = self.server.column(&format!(
                "(select 'extra in {table}: ' || t::text from {table} t except all select 'extra in {table}: ' || t::text from saved.{table} t)
                 union all (select 'missing in {table}: ' || t::text from saved.{table} t except all select 'missing in {table}: ' || t::text from {table} t)"
            ));
            assert!(differences.is_empty(), "{differences:?}");
        }
    }
}

#[test]
fn a_transaction_is_undone_whatever_refers_to_what() {
    let mut shop = Shop::family();
    for sql in [
        // Rows that refer to each other come, go, and change hands.
        "insert into customers (email) values ('cid@example.com'); insert into orders values (4, currval('customers_id_seq'), 'D', 1);
         insert into lines values (4, 1, 'fig')",
        "delete from lines where order_id = 2; delete from orders where customer = 2; delete from customers where id = 2",
        "insert into customers overriding system value values (9, 'new@example.com'); update orders set customer = 9 where customer = 2;
         delete from customers where id = 2",
        // A unique value changes hands.
        "delete from orders where id = 3; insert into orders values (5, 1, 'C', 5)",
        "update orders set code = null where id = 1; update orders set code = 'A' where id = 2",
        // Keys change, one after another.
        "update orders set id = 10 where id = 1",
        "update orders set id = 30 where id = 3; update orders set id = 3 where id = 2",
        // What came and went within leaves nothing to do; several versions are one.
        "insert into orders values (8, 1, 'X', 1); update orders set total = 2 where id = 8; delete from orders where id = 8;
         update orders set total = 0 where id = 1; update orders set total = 1 where id = 1",
        "truncate lines",
    ] {
        let xid = shop.transact(sql);
        let told = shop.restore(&["--transaction", &xid]).well();
        assert!(told.stdout.contains("commit;"), "{}", told.stdout);
        shop.restore(&["--transaction", &xid, "--apply", "--actor", "rita"]).well();
        shop.assert_family();
        shop.capture();
        // It is a transaction like any other, and says what it is.
        let who = shop.json(&["transactions", "--limit", "1"]);
        assert_eq!(who[0]["who"], "rita", "{who:?}");
        assert_eq!(who[0]["context"]["restore"]["transaction"].to_string(), xid, "{who:?}");
    }
}

#[test]
fn the_printed_sql_runs_in_psql_as_it_is() {
    let mut shop = Shop::family();
    let xid = shop.transact(
        "delete from lines where order_id = 2; delete from orders where customer = 2; delete from customers where id = 2;
         update lines set what = E'it''s \\\\ \\n new' where order_id = 1",
    );
    let sql = shop.restore(&["--transaction", &xid]).well().stdout;
    shop.server.run(&sql);
    shop.assert_family();
}

#[test]
fn a_row_whose_key_changed_gets_it_back_under_each_of_its_names() {
    let mut shop = Shop::family();
    let before = shop.server.value("select pg_current_wal_insert_lsn()").unwrap();
    let ids = |shop: &Shop| shop.server.column("select id || ' ' || total::int from orders order by id");
    for key in ["30", "3"] {
        shop.server.run("update orders set id = 30 where id = 3");
        shop.capture();
        shop.restore(&["orders", key, "--apply"]).well();
        shop.assert_family();
        shop.capture();
        // Over several keys, at a moment.
        shop.server.run("update orders set id = 29 where id = 3; update orders set total = 0 where id = 29");
        shop.server.run("update orders set id = 30 where id = 29");
        shop.capture();
        shop.restore(&["orders", key, "--at", &before, "--apply"]).well();
        shop.assert_family();
        shop.capture();
    }
    // Later changes are not undone without a word.
    shop.server.run("update orders set id = 30 where id = 3");
    shop.server.run("update orders set total = 1 where id = 30");
    shop.capture();
    shop.restore(&["orders", "3", "--apply"]).refused(&["public.orders 30 was changed again by", "--force"]);
    shop.restore(&["orders", "30", "--apply"]).well();
    assert_eq!(ids(&shop), ["1 10", "2 20", "30 30"]);
    shop.capture();
    shop.restore(&["orders", "--where", "true", "--at", &before, "--apply"]).well();
    shop.assert_family();
    shop.capture();
    // The key of one is another's by now.
    shop.server.run("delete from lines where order_id = 1; delete from orders where id = 1; update orders set id = 1 where id = 3");
    shop.capture();
    shop.restore(&["orders", "--where", "true", "--at", &before, "--apply"]).well();
    shop.restore(&["lines", "--where", "true", "--at", &before, "--apply"]).well();
    shop.assert_family();
}

#[test]
fn a_row_that_the_table_names_by_another_key_is_found_by_both() {
    let mut shop = Shop::with(
        "create table t (id int primary key, code text not null unique, v int);
         insert into t values (1, 'a', 1), (2, 'b', 2), (3, 'c', 3)",
    );
    shop.server.run("update t set v = 10 where id = 1");
    shop.capture();
    let before = shop.server.value("select pg_current_wal_insert_lsn()").unwrap();
    shop.server.run("alter table t drop constraint t_pkey; alter table t add primary key (code)");
    shop.capture();
    shop.capture();
    assert_eq!(shop.json(&["history", "t", "a"])[0]["op"], "rekey");
    // What only names it otherwise is no change of the row.
    let told = shop.restore(&["t", "a"]).well();
    assert!(told.stdout.contains("set \"v\" = 1\nwhere \"code\" = 'a'"), "{told:?}");
    for key in ["b", "2"] {
        let told = shop.restore(&["t", key, "--at", &before]).well();
        assert!(told.stderr.contains("nothing to do"), "{told:?}");
    }
    shop.server.run("update t set v = 20 where code = 'b'; delete from t where code = 'c'");
    shop.capture();
    shop.restore(&["t", "--where", "true", "--at", &before, "--apply"]).well();
    let rows = shop.server.column("select id || code || v from t order by id");
    assert_eq!(rows, ["1a10", "2b2", "3c3"]);
}

#[test]
fn a_row_that_is_there_again_gives_way_by_force() {
    let mut shop = Shop::family();
    let before = shop.server.value("select pg_current_wal_insert_lsn()").unwrap();
    shop.server.run("delete from lines where order_id = 2; delete from orders where id = 2");
    shop.capture();
    shop.server.run("insert into orders values (2, 1, 'Z', 9); insert into lines values (2, 1, 'prune')");
    for arguments in
        [&["orders", "--where", "true", "--at", &before][..], &["lines", "--where", "true", "--at", &before]]
    {
        let mut all = arguments.to_vec();
        all.push("--apply");
        shop.restore(&all).refused(&["it is there again", "--force"]);
        all.push("--force");
        shop.restore(&all).well();
    }
    shop.assert_family();
}

#[test]
fn unique_values_that_rows_swapped_are_swapped_back() {
    let mut shop = Shop::family();
    let swap = "update orders set code = null where id = 1; update orders set code = 'A' where id = 2;
                update orders set code = 'B' where id = 1";
    let before = shop.server.value("select pg_current_wal_insert_lsn()").unwrap();
    let xid = shop.transact(swap);
    let told = shop.restore(&["--transaction", &xid, "--apply"]).well().stdout;
    shop.assert_family();
    // What is printed runs again.
    shop.capture();
    shop.server.run(swap);
    shop.server.run(&told);
    shop.assert_family();
    shop.capture();
    shop.server.run(swap);
    shop.server.run("update orders set code = 'tmp' where id = 3; update orders set code = 'C' where id = 1; update orders set code = 'B' where id = 3");
    shop.capture();
    shop.restore(&["orders", "--where", "true", "--at", &before, "--apply"]).well();
    shop.assert_family();
    shop.capture();
    // Where none of them may be null, nothing is done.
    let xid = shop.transact(
        "update customers set email = 'tmp' where id = 1; update customers set email = 'ann@example.com' where id = 2;
         update customers set email = 'bob@example.com' where id = 1",
    );
    shop.restore(&["--transaction", &xid, "--apply"])
        .refused(&["which needs what another row has", "nothing was changed"]);
}

#[test]
fn nothing_that_a_terminal_obeys_is_printed() {
    let mut shop = Shop::with(
        "create table t (id text primary key, U&\"v\\001b[2J\"\"\\005c\" text);
         insert into t values (E'k\\x1b[2J', E'it''s \\x1b]0;a\\\\b\\x07 \\u009b1m\\r\\nend')",
    );
    shop.server.run("create table saved.t as table t; delete from t");
    shop.capture();
    let sql = shop.restore(&["t", "k\u{1b}[2J"]).well().stdout;
    assert!(!sql.chars().any(|c| c.is_control() && c != '\n'), "{sql:?}");
    shop.server.run(&sql);
    let different =
        shop.server.column("(table t except table saved.t) union all (table saved.t except table t)");
    assert!(different.is_empty(), "{different:?}");
}

/// A chain of rows of which each refers to the one before comes back whatever its length: no attempt leaves a lock behind.
#[test]
fn a_long_chain_of_rows_comes_back() {
    let mut shop = Shop::with(
        "create table tree (id int primary key, parent int references tree on delete cascade);
         insert into tree select 1000 - n, nullif(1001 - n, 1000) from generate_series(1, 600) n",
    );
    let all = "select string_agg(t::text, ';' order by id) from tree t";
    let before = shop.server.value(all);
    let xid = shop.transact("delete from tree where id = 999");
    assert_eq!(shop.server.value("select count(*) from tree").as_deref(), Some("0"));
    shop.restore(&["--transaction", &xid, "--apply"]).well();
    assert_eq!(shop.server.value(all), before);
}

/// What is printed runs as it is, in whatever order the rows of a table that refers to itself came, went or are listed.
#[test]
fn the_printed_sql_of_a_table_that_refers_to_itself_is_in_an_order_that_works() {
    let mut shop = Shop::with(
        "create table tree (id int primary key, parent int references tree on delete cascade on update cascade, v text);
         insert into tree values (3, null, 'root'), (2, 3, 'branch'), (1, 2, 'leaf')",
    );
    let all = "select string_agg(t::text, ';' order by id) from tree t";
    let before = shop.server.value(all);
    let place = shop.server.value("select pg_current_wal_insert_lsn()").unwrap();
    let source = shop.server.url();
    for change in [
        "delete from tree where id = 3",
        "delete from tree where id = 1; delete from tree where id = 2; delete from tree where id = 3",
        "insert into tree values (10, 12), (11, 10), (12, null)",
        "insert into tree values (12, null); insert into tree values (10, 12); insert into tree values (11, 10)",
        "update tree set id = 30 where id = 3",
        "delete from tree where id = 1; insert into tree values (4, 3); update tree set v = 'changed' where id = 2",
    ] {
        let xid = shop.transact(change);
        let (by_transaction, by_row) =
            (["restore", "--transaction", &xid], ["restore", "tree", "--where", "true", "--at", &place]);
        let mut asked = vec![by_transaction.to_vec()];
        if change.starts_with("delete") && !change.contains("insert") {
            asked.push(by_row.to_vec());
        }
        for (arguments, with_source) in
            asked.into_iter().flat_map(|arguments| [(arguments.clone(), true), (arguments, false)])
        {
            let mut arguments = arguments;
            if with_source {
                arguments.extend(["--source", &source]);
            }
            let sql = shop.ask(&arguments);
            assert!(!sql.contains("change places"), "{sql}");
            shop.server.run(&sql);
            assert_eq!(shop.server.value(all), before, "{change}: {sql}");
            // As it was before it was brought back, for the next way to ask.
            shop.server.run(change);
        }
        shop.capture();
        shop.restore(&["--transaction", &xid, "--apply", "--force"]).well();
        assert_eq!(shop.server.value(all), before, "{change}");
        shop.capture();
    }
}

/// Tables that refer to each other by constraints that cannot be deferred: no order of single rows brings them back.
#[test]
fn rows_that_refer_to_each_other_in_a_circle_come_back_at_once() {
    let mut shop = Shop::with(
        "create table hens (id int primary key, egg int); create table eggs (id int primary key, hen int references hens);
         insert into hens values (1, 1), (2, 2), (3, null); insert into eggs values (1, 2), (2, 1), (3, 3);
         alter table hens add foreign key (egg) references eggs",
    );
    let all = "select (select string_agg(h::text, ';' order by id) from hens h) || (select string_agg(e::text, ';' order by id) from eggs e)";
    let before = shop.server.value(all);
    for change in [
        "update hens set egg = null; delete from eggs; delete from hens",
        "insert into hens values (7, null); insert into eggs values (7, 7); update hens set egg = 7 where id = 7",
    ] {
        let xid = shop.transact(change);
        let printed = shop.restore(&["--transaction", &xid]).well().stdout;
        assert!(
            printed
                .contains("-- Rows that refer to each other may have to change places; --apply finds a way."),
            "{printed}"
        );
        let applied = shop.restore(&["--transaction", &xid, "--apply"]).well().stdout;
        assert_eq!(shop.server.value(all), before, "{applied}");
        // What went through is what is printed.
        shop.server.run(change);
        shop.server.run(&applied);
        assert_eq!(shop.server.value(all), before, "{applied}");
        shop.capture();
    }
}

/// Rows of the same place or key in another partition, or in a table that inherits, are none of a restore's business.
#[test]
fn rows_beside_those_that_are_meant_stay_as_they_are() {
    let mut shop = Shop::with(
        "create table q (x int, y text) partition by list (x); create table q1 partition of q for values in (1);
         create table q2 partition of q for values in (2); alter table q replica identity full;
         alter table q1 replica identity full; alter table q2 replica identity full; insert into q values (1, 'precious');
         create table parent (id int primary key, v text); create table child (extra int, primary key (id)) inherits (parent);
         insert into parent values (1, 'parent'); insert into child values (1, 'child', 5), (7, 'seven', 5)",
    );
    for change in [
        "insert into q values (2, 'mistake')",
        "update q set y = 'gone' where x = 1; insert into q values (2, 'mistake')",
        "update only parent set v = 'oops' where id = 1",
        "delete from only parent where id = 1",
        "insert into parent values (7, 'mistake')",
    ] {
        for applied in [true, false] {
            let all = "select (select string_agg(q::text, ';' order by q) from q) || (select string_agg(p::text, ';' order by p) from only parent p)
                || (select string_agg(c::text, ';' order by c) from child c)";
            let before = shop.server.value(all);
            let xid = shop.transact(change);
            if applied {
                shop.restore(&["--transaction", &xid, "--apply"]).well();
            } else {
                let sql = shop.restore(&["--transaction", &xid]).well().stdout;
                shop.server.run(&sql);
            }
            assert_eq!(shop.server.value(all), before, "{change}, applied: {applied}");
            shop.capture();
        }
    }
}

#[test]
fn what_changed_again_later_is_not_undone_without_being_asked_for() {
    let mut shop = Shop::family();
    let first =
        shop.transact("update orders set total = 11 where id = 1; update orders set total = 21 where id = 2");
    let second = shop.transact("update orders set total = 12 where id = 1");
    let refused = shop.restore(&["--transaction", &first]).refused(&[
        "later changes would be undone",
        &format!("public.orders 1 was changed again by transaction {second} (update)"),
        "--force",
    ]);
    assert_eq!(refused.stdout, "");
    assert!(!refused.stderr.contains("public.orders 2"), "{}", refused.stderr);
    shop.restore(&["--transaction", &first, "--apply"]).refused(&["--force"]);
    assert_eq!(shop.server.value("select sum(total)::int from orders where id < 3").as_deref(), Some("33"));
    shop.restore(&["--transaction", &first, "--apply", "--force"]).well();
    shop.assert_family();
    // A change that the history has not seen yet stands in the way as well.
    shop.capture();
    let third = shop.transact("update orders set total = 13 where id = 1");
    shop.server.run("update orders set total = 14 where id = 1");
    shop.restore(&["--transaction", &third, "--apply"]).refused(&["total is 14.00, not 13.00", "--force"]);
    shop.restore(&["--transaction", "1"]).refused(&["no transaction 1"]);
}

#[test]
fn rows_come_back_by_a_condition() {
    let mut shop = Shop::family();
    let before = shop.server.value("select pg_current_wal_insert_lsn()").unwrap();
    shop.server.run(
        "update orders set total = 0 where id in (1, 2); delete from lines where order_id = 2; insert into orders values (7, 2, 'new', 99)",
    );
    shop.capture();
    shop.restore(&["orders", "--where", "total >= 20", "--at", &before, "--apply"]).well();
    // Only what matched then: order 1 stays as it is, order 7 came later.
    let totals = shop.server.column("select id || ' ' || total from orders order by id");
    assert_eq!(totals, ["1 0.00", "2 20.00", "3 30.00", "7 99.00"]);
    shop.restore(&["lines", "--where", "what like 'p%'", "--at", &before, "--apply"]).well();
    assert_eq!(shop.server.value("select count(*) from lines").as_deref(), Some("3"));
    shop.capture();
    let nothing = shop.restore(&["lines", "--where", "true", "--at", &before]).well();
    assert!(nothing.stderr.contains("nothing to do") && nothing.stdout.is_empty(), "{}", nothing.stderr);
    for wrong in [
        &["orders"][..],
        &["orders", "--where", "id = 1"],
        &["orders", "1", "--where", "id = 1", "--at", "now"],
        &["--transaction", "1", "--at", "now"],
        &["orders", "--transaction", "1"],
    ] {
        assert_eq!(shop.restore(wrong).code(), Some(2), "{wrong:?}");
    }
    shop.restore(&["orders", "--where", "nope = 1", "--at", &before]).misused(&["no column \"nope\""]);
    let context = shop.json(&["transactions", "--limit", "1"])[0]["context"]["restore"].clone();
    assert_eq!(context["where"], Value::from("what like 'p%'"));
}

#[test]
fn what_is_not_known_is_refused_without_an_option_that_restore_does_not_have() {
    let mut shop = Shop::with("create table loose (id int, v text); insert into loose values (1, 'a')");
    shop.server.run("insert into loose values (2, 'b')");
    shop.capture();
    let arguments = ["restore", "loose", "--where", "id = 1", "--at", "now"];
    let told = shop.bygone.ask(&arguments).refused(&["its updates and deletes cannot be seen"]);
    assert!(!told.stderr.contains("--inexact"), "{}", told.stderr);
}

/// A type that changed without a rewrite: the value of then is read as the one that it is now.
#[test]
fn values_of_before_a_change_of_type_come_back_as_they_read_now() {
    let mut shop = Shop::with(
        "create table e (id int primary key, at timestamp not null, price money);
         insert into e values (1, '2026-01-01 10:00', '1234.56'), (2, '2026-01-02 10:00', '2')",
    );
    let before = shop.server.value("select pg_current_wal_insert_lsn()").unwrap();
    shop.server.run("update e set price = price where id = 2");
    shop.capture();
    shop.server.run("set timezone = 'UTC'; alter table e alter at type timestamptz");
    shop.capture();
    shop.server.run("delete from e where id = 1");
    shop.capture();
    shop.restore(&["e", "1", "--at", &before, "--apply"]).well();
    let row =
        "select to_char(at at time zone 'UTC', 'YYYY-MM-DD HH24:MI ') || price::numeric from e where id = 1";
    assert_eq!(shop.server.value(row).as_deref(), Some("2026-01-01 10:00 1234.56"));
    shop.capture();
    // What is printed for psql does not depend on the session's locale, either.
    shop.server.run("delete from e where id = 2");
    shop.capture();
    let printed = shop.restore(&["e", "2"]).well().stdout;
    assert!(printed.contains("set local lc_monetary = 'C';"), "{printed}");
}
