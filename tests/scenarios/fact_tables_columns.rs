//! Columns of fact tables over time: what is read of rows that were written when a column had another name or type, or was not there.

use super::fact_tables::{assert_answers_alike, assert_same_history};
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::majors::on_each_major;
use crate::support::postgres::Postgres;
use crate::support::scratch::Scratch;
use crate::support::store::Store;

/// A table of which a column changes.
struct Case {
    table: &'static str,
    /// What it is made with, beside its key `id`, and values of the rows 1 to 4.
    columns: &'static str,
    values: [&'static str; 4],
    change: &'static str,
    /// What the rows of before the change read as under the columns of after it, in their order.
    before: &'static str,
    /// An assignment, and values of a row that is new, after the change.
    set: &'static str,
    new: &'static str,
}

const CASES: [Case; 17] = [
    Case {
        table: "widened",
        columns: "n int",
        values: ["1", "null", "-3", "4"],
        change: "alter table widened alter n type bigint",
        before: "n",
        set: "n = 5000000000",
        new: "6000000000",
    },
    Case {
        table: "worded",
        columns: "w varchar(5)",
        values: ["'a'", "''", "null", "'e '"],
        change: "alter table worded alter w type text",
        before: "w",
        set: "w = 'longer than five'",
        new: "'another'",
    },
    Case {
        table: "parsed",
        columns: "t text",
        values: ["'12'", "'x'", "'99999999999'", "null"],
        change: "alter table parsed alter t type int using case when length(t) = 2 then t::int * 10 else 0 end",
        before: "case t when '12' then 12 end",
        set: "t = 7",
        new: "8",
    },
    Case {
        table: "rounded",
        columns: "f float8, d numeric",
        values: ["1.5, 2.5", "1e6, 'NaN'", "'Infinity', 1e30", "null, -0.4"],
        change: "alter table rounded alter f type int using 1, alter d type smallint using 2",
        before: "case when f < 'Infinity' then f::int end, case when abs(d) < 10 then d::smallint end",
        set: "f = 7",
        new: "8, 9",
    },
    Case {
        table: "scaled",
        columns: "n int, m numeric(8, 2)",
        values: ["1, 1.50", "2, null", "-3, -99.99", "null, 'NaN'"],
        change: "alter table scaled alter n type numeric(12, 3), alter m type numeric(14, 4)",
        before: "n::numeric(12, 3), m::numeric(14, 4)",
        set: "n = 0.125",
        new: "1.5, 0.0001",
    },
    Case {
        table: "renamed",
        columns: "former text",
        values: ["'a'", "'b'", "null", "''"],
        change: "alter table renamed rename former to present",
        before: "former",
        set: "present = 'c'",
        new: "'d'",
    },
    Case {
        table: "swapped",
        columns: "a text, b text",
        values: ["'a1', 'b1'", "'a2', 'b2'", "null, 'b3'", "'a4', null"],
        change: "alter table swapped rename a to x; alter table swapped rename b to a; alter table swapped rename x to b",
        before: "a, b",
        set: "a = 'new'",
        new: "'b5', 'a5'",
    },
    Case {
        table: "again",
        columns: "c int",
        values: ["1", "2", "null", "4"],
        change: "alter table again drop c; alter table again add c int",
        before: "null::int",
        set: "c = 20",
        new: "30",
    },
    Case {
        table: "again_with",
        columns: "c int",
        values: ["1", "2", "null", "4"],
        change: "alter table again_with drop c; alter table again_with add c int default 7",
        before: "null::int",
        set: "c = null",
        new: "30",
    },
    Case {
        table: "added",
        columns: "c text",
        values: ["'a'", "'b'", "null", "''"],
        change: "alter table added add m int default 7, add t text default 'it''s \\'",
        before: "c, null::int, null::text",
        set: "m = null",
        new: "'e', 8, null",
    },
    Case {
        table: "keyed",
        columns: "t text",
        values: ["'a'", "'b'", "null", "''"],
        change: "alter table keyed alter id type bigint",
        before: "t",
        set: "t = 'new'",
        new: "'e'",
    },
    // Types that one column of the files takes, and not one of another server's.
    Case {
        table: "loosened",
        columns: "u uuid, m mood, j jsonb, o oid, s short, b char(4), l uuid[]",
        values: [
            "'00000000-0000-0000-0000-00000000000a', 'calm', '{\"a\": 1}', 5, 'ab', 'ab', '{00000000-0000-0000-0000-00000000000b,null}'",
            "null, 'glad', 'null', 4000000000, '', '', '{}'",
            "null, null, null, null, null, null, null",
            "null, 'calm', '[]', 0, 'x', '1234', '{}'",
        ],
        change: "alter table loosened alter u type text, alter m type text, alter j type json, alter o type bigint, alter s type text, \
                 alter b type text, alter l type text[]",
        // Another text is what the source makes of it, and no fact of before.
        before: "u, m, j, o, s, b, l",
        set: "u = 'none', m = 'none', j = '{\"b\":2,  \"a\":1}', o = 5000000000, s = 'as long as it likes', b = 'longer', l = '{x,null}'",
        new: "'', '', '{ }', -1, '', '', null",
    },
    Case {
        table: "tightened",
        columns: "j json, v varchar(3)[]",
        values: ["'{\"a\":1}', '{a,b}'", "'[]', '{}'", "null, null", "'1', null"],
        change: "alter table tightened alter j type jsonb, alter v type text[]",
        before: "j, v",
        set: "j = '{\"b\": 2}', v = '{longer}'",
        new: "'{}', '{e}'",
    },
    // Twice: the type of before is none of now's, and the default came with another type.
    Case {
        table: "twice",
        columns: "d date",
        values: ["'2026-01-02'", "'infinity'", "null", "'4713-01-01 BC'"],
        change: "alter table twice add c text default 'none'; alter table twice alter d type timestamptz; alter table twice rename d to at",
        before: "d::timestamptz, null::text",
        set: "at = '2030-01-01 00:00:00+00'",
        new: "null, 'some'",
    },
    // Types that share a form on disk: PostgreSQL rewrites nothing where the session is in UTC.
    Case {
        table: "in_place",
        columns: "t timestamp, z timestamptz, c cidr, n int",
        values: [
            "'2026-01-01 10:00', '2026-01-01 10:00+00', '10.1.2.3', -5",
            "'infinity', '-infinity', '10.0.0.0/8', 7",
            "null, null, null, null",
            "'0044-03-15 12:00 BC', '0044-03-15 12:00+00 BC', '::1', 0",
        ],
        change: "alter table in_place alter t type timestamptz, alter z type timestamp, alter c type inet, alter n type oid",
        before: "t at time zone 'UTC', z at time zone 'UTC', c::inet, n::oid",
        set: "t = '2030-01-01 00:00:00+00'",
        new: "null, null, '10.1.2.4', 8",
    },
    // Another table of the name: its columns of the same names go on.
    Case {
        table: "made_again",
        columns: "c text, gone int, n int",
        values: ["'12', 1, 1", "'x', 2, null", "null, 3, 3", "'4', 4, 4"],
        change: "drop table made_again; create table made_again (id int primary key, n bigint, c int, more int default 7); \
                 insert into made_again values (1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4)",
        before: "n::bigint, case when c < 'a' then c::int end, null::int",
        set: "c = 20",
        new: "30, 31, null",
    },
    Case {
        table: "\"Odd \"\"Name\"",
        columns: "\"a \"\"b\" int, \"{}\" text",
        values: ["1, '1'", "2, 'two'", "null, null", "4, ''"],
        change: "alter table \"Odd \"\"Name\" alter \"a \"\"b\" type bigint, alter \"{}\" type int using 0",
        before: "\"a \"\"b\", case \"{}\" when '1' then 1 end",
        set: "\"a \"\"b\" = 3",
        new: "7, 8",
    },
];

impl Case {
    /// What the table's rows at a moment read as, as texts with their ids.
    fn expected(&self, moment: usize) -> String {
        let saved = self.saved(moment);
        if moment == 0 {
            format!("select id::text, row(id, {})::text from {saved}", self.before)
        } else {
            format!("select id::text, whole_row::text from {saved} whole_row")
        }
    }

    fn saved(&self, moment: usize) -> String {
        format!("saved.\"{}{moment}\"", self.bare())
    }

    fn bare(&self) -> String {
        self.table.replace("\"\"", "\u{0}").replace('"', "").replace('\u{0}', "\"\"")
    }

    fn relation(&self, suffix: &str) -> String {
        format!("bygone.\"{}{suffix}\"", self.bare())
    }

    /// Fails where a relation has not the rows that the table had at a moment.
    fn assert_rows(&self, client: &mut postgres::Client, relation: &str, moment: usize) {
        let read = |client: &mut postgres::Client, sql: &str| {
            let rows = client
                .query(&format!("{sql} order by 1, 2"), &[])
                .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            rows.iter().map(|row| (row.get(0), row.get(1))).collect::<Vec<(String, String)>>()
        };
        let told = read(client, &format!("select id::text, whole_row::text from {relation} whole_row"));
        assert_eq!(told, read(client, &self.expected(moment)), "{relation} at moment {moment}");
    }
}

struct Moment {
    lsn: String,
    time: String,
}

/// Copies all tables, and tells when. Nothing else happens at that moment.
fn save(client: &mut postgres::Client, number: usize) -> Moment {
    client.batch_execute("insert into beat default values").unwrap();
    for case in &CASES {
        client
            .batch_execute(&format!("create table {} as table {}", case.saved(number), case.table))
            .unwrap();
    }
    let now = "select pg_current_wal_insert_lsn()::text, clock_timestamp()::text";
    let row = client.query_one(now, &[]).unwrap();
    client.batch_execute("insert into beat default values").unwrap();
    Moment { lsn: row.get(0), time: row.get(1) }
}

fn assert_all_moments(client: &mut postgres::Client, moments: &[Moment]) {
    for case in &CASES {
        for (number, Moment { lsn, time }) in moments.iter().enumerate() {
            for at in [format!("pg_lsn '{lsn}'"), format!("timestamptz '{time}'")] {
                case.assert_rows(client, &format!("{}({at})", case.relation("_as_of")), number);
            }
        }
        case.assert_rows(client, &case.relation(""), moments.len() - 1);
    }
}

/// Changes the tables, with moments before, between and after.
fn assert_changes_read(server: &Postgres, scratch: &Scratch, with: impl FnOnce(Bygone) -> Bygone) -> Bygone {
    server.run(
        "create type mood as enum ('calm', 'glad'); create domain short as varchar(5) check (length(value) < 6); create schema saved;
         create table beat (id int generated always as identity primary key)",
    );
    for Case { table, columns, values, .. } in &CASES {
        server.run(&format!("create table {table} (id int primary key, {columns})"));
        for (at, values) in values.iter().enumerate() {
            server.run(&format!("insert into {table} values ({}, {values})", at + 1));
        }
    }
    let url = server.url();
    let options = ["--facts", &url, "--slab-rows", "2"];
    let mut bygone = with(Bygone::new(&url, scratch.join("history")).tables(&["public.*"]).options(&options));
    bygone.until_current();
    let mut client = server.connect();
    client.batch_execute("set timezone = 'UTC'").unwrap();
    let mut moments = vec![save(&mut client, 0)];
    bygone.until_current();
    for case in &CASES {
        client.batch_execute(case.change).unwrap_or_else(|error| panic!("{}: {error:?}", case.table));
    }
    // The change is known, and no row was touched since.
    bygone.until_current();
    moments.push(save(&mut client, 1));
    bygone.until_current();
    assert_all_moments(&mut client, &moments);
    for Case { table, set, new, .. } in &CASES {
        client.batch_execute(&format!("update {table} set {set} where id = 2; delete from {table} where id = 4; insert into {table} values (5, {new})")).unwrap();
    }
    bygone.until_current();
    moments.push(save(&mut client, 2));
    bygone.until_current();
    assert_all_moments(&mut client, &moments);

    for case in &CASES {
        // Both sides of a difference are what the table was then.
        let [first, _, last] = moments.as_slice() else { unreachable!() };
        let differ = format!(
            "with told as (select _entity_id as id, old::text, new::text, change from {}('{}', '{}')), was as ({}), is_now as ({})
             select count(*) filter (where t.change = 'changed'), count(*) filter (where t.change <> 'changed'),
                coalesce(bool_and(t.old is not distinct from w.row and t.new is not distinct from n.w), false) from told t \
             left join was w (id, row) on w.id = t.id left join is_now n (id, w) on n.id = t.id",
            case.relation("_diff"),
            first.time,
            last.time,
            case.expected(0),
            case.expected(2),
        );
        let row = client.query_one(&differ, &[]).unwrap_or_else(|error| panic!("{differ}: {error:?}"));
        let (changed, others, same): (i64, i64, bool) = (row.get(0), row.get(1), row.get(2));
        assert!(
            changed >= 1 && others == 2 && same,
            "{}: {changed} changed, {others} came or went, {same}",
            case.table
        );
    }
    let blame = |client: &mut postgres::Client, table: &str, key: &str| {
        let sql = format!(
            "select string_agg(column_name || ' ' || version, ',') from bygone.{table}_blame('{key}')"
        );
        client.query_one(&sql, &[]).unwrap().get::<_, String>(0)
    };
    assert_eq!(blame(&mut client, "renamed", "1"), "id 1,present 1");
    assert_eq!(blame(&mut client, "renamed", "2"), "id 1,present 2");
    assert_eq!(blame(&mut client, "swapped", "2"), "id 1,b 1,a 2");

    // A key that was widened is an index access all the same.
    client.batch_execute("set enable_seqscan = off").unwrap();
    for asked in [
        "keyed_as_of('2030-01-01'::timestamptz)",
        "keyed",
        "added_as_of('2030-01-01'::timestamptz)",
        "parsed",
    ] {
        let plan = client.query(&format!("explain select * from bygone.{asked} where id = 2"), &[]).unwrap();
        let plan = plan.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n");
        assert!(
            plan.contains("bygone_key_") && !plan.contains("Function Scan") && !plan.contains("Seq Scan"),
            "{plan}"
        );
    }
    client.batch_execute("set enable_seqscan = on").unwrap();
    let comment = "select obj_description('bygone.parsed'::regclass, 'pg_class')";
    let comment: String = client.query_one(comment, &[]).unwrap().get(0);
    assert!(comment.contains("had another type: t."), "{comment}");

    // Nor do they depend on the zone of whoever asks.
    let in_place = CASES.iter().find(|case| case.table == "in_place").unwrap();
    client.batch_execute("set timezone = 'Asia/Kolkata'").unwrap();
    for (number, Moment { lsn, .. }) in moments.iter().enumerate() {
        let then = format!("{}(pg_lsn '{lsn}')", in_place.relation("_as_of"));
        in_place.assert_rows(&mut client, &then, number);
    }
    client.batch_execute("set timezone = 'UTC'").unwrap();

    // Without slabs the answers are the same.
    client.batch_execute("select bygone.drop_slabs()").unwrap();
    assert_all_moments(&mut client, &moments);
    // What another version made is made anew.
    client
        .batch_execute(
            "drop function bygone.widened_as_of(pg_lsn); create or replace view bygone.added as select id, c, null::int as m, t from \
             bygone.added_history; drop function bygone.added_blame(text)",
        )
        .unwrap();
    bygone.until_current();
    assert_all_moments(&mut client, &moments);
    bygone
}

fn rows_of_before_a_change_of_columns_read_as_they_did(server: Postgres) {
    let scratch = Scratch::new("history");
    let url = server.url();
    let bygone = assert_changes_read(&server, &scratch, |bygone| bygone);
    // Rows and files hold the same, also where a column was widened for values of another type.
    let history = History::read(Store::directory(scratch.join("history")));
    let asked = assert_answers_alike(
        &bygone,
        &url,
        &history,
        &["public.widened", "public.loosened", "public.tightened"],
    );
    assert!(asked > 20, "{asked}");
    let back = scratch.join("back");
    bygone.command(&["backfill-history", "--facts", &url, "--history", back.to_str().unwrap()]).well();
    assert_same_history(&history, &History::read(Store::directory(&back)));
}

#[test]
fn columns_of_rows_alone_by_month_read_as_they_did() {
    let by_month = ["--facts-partition", "month"];
    let (server, scratch) = (Postgres::start(), Scratch::new("history"));
    assert_changes_read(&server, &scratch, |bygone| bygone.without_files().options(&by_month));
}

on_each_major!(&[], [14 as v14, 15 as v15, 18 as v18], [rows_of_before_a_change_of_columns_read_as_they_did]);
