//! What the reading commands answer is what the source returned then, for every type and over changes of columns.
//!
//! The judge is PostgreSQL: tables saved at a moment are compared, as their own types, with what a command prints. DuckDB
//! reads the views that bygone prints, and has to come to the same rows.

mod conditions;
pub(crate) mod cookbook;
mod derived;
pub(crate) mod engines;
mod events;
mod formats;
mod hashed;
mod hostile;
mod inventory;
mod moments;
mod remade;
mod requests;
mod restore;
mod rows;
mod shell;
mod sql;

use std::io::Write;
use std::time::Duration;

use serde_json::Value;

use crate::support::bygone::Bygone;
use crate::support::postgres::Postgres;
use crate::support::scratch::Scratch;

/// A source, and a history of its schema `public`.
struct Shop {
    server: Postgres,
    bygone: Bygone,
    scratch: Scratch,
}

impl Shop {
    /// With these tables in it before the history begins.
    fn with(sql: &str) -> Self {
        let server = Postgres::start();
        server.run(&format!("create schema saved; {sql}"));
        let scratch = Scratch::new("history");
        let mut bygone = Bygone::new(server.url(), scratch.join("history"));
        bygone.until_current();
        Self { server, bygone, scratch }
    }

    fn capture(&mut self) {
        self.bygone.until_current();
    }

    fn orders() -> Self {
        let mut shop = Self::with(
            "create table orders (id bigint primary key, customer text, total numeric(12,2));
             insert into orders values (1, 'ann', 12.50), (2, 'bob', 99.90), (3, 'cid', 0.01);
             create table notes (a int, b text, note text, primary key (b, a));
             insert into notes values (1, 'x,y', 'first'), (2, 'eu', null)",
        );
        shop.server.run(
            r#"begin; select pg_logical_emit_message(true, 'bygone', '{"actor": "ann", "reason": "refund"}');
               update orders set total = 13.50 where id = 1; update notes set note = 'second' where a = 1; commit"#,
        );
        shop.server.run(
            "update orders set customer = '', total = null where id = 2; delete from orders where id = 3",
        );
        shop.capture();
        shop
    }

    /// A successful command's output.
    #[track_caller]
    fn ask(&self, arguments: &[&str]) -> String {
        self.bygone.ask(arguments).well().stdout
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let mut all = arguments.to_vec();
        all.extend(["--format", "json"]);
        let text = self.ask(&all);
        let Ok(Value::Array(rows)) = serde_json::from_str(&text) else { panic!("no JSON array: {text}") };
        rows
    }

    /// The rows of `as-of`, and what it says beside them.
    #[track_caller]
    fn answered(&self, table: &str, at: &str) -> (String, String) {
        let outcome = self.bygone.ask(&["as-of", table, "--at", at, "--format", "csv"]).well();
        (outcome.stdout, outcome.stderr)
    }

    /// A command that must fail without printing a result.
    #[track_caller]
    fn refused(&self, arguments: &[&str], words: &[&str]) {
        let outcome = self.bygone.ask(arguments).refused(words);
        assert_eq!(outcome.stdout, "", "{arguments:?}");
    }

    /// A command that must be told apart from one that has no answer.
    #[track_caller]
    fn misused(&self, arguments: &[&str], words: &[&str]) {
        let outcome = self.bygone.ask(arguments).misused(words);
        assert_eq!(outcome.stdout, "", "{arguments:?}");
    }

    /// What is there now, saved as `saved.<name>`: where the WAL stood, and the time.
    fn save(&self, table: &str, name: &str) -> (String, String) {
        self.server.run(&format!("create table saved.{name} as table {table}"));
        let lsn = self.server.value("select pg_current_wal_insert_lsn()").unwrap();
        let time = self
            .server
            .value("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US+00')");
        std::thread::sleep(Duration::from_millis(5));
        (lsn, time.unwrap())
    }

    /// The CSV is the saved table: every column cast to its own type.
    #[track_caller]
    fn assert_saved(&self, csv: &str, saved: &str) {
        let mut client = self.server.connect();
        client
            .batch_execute(&format!("drop table if exists told; create temp table told (like saved.{saved})"))
            .unwrap();
        let mut copy = client.copy_in("copy told from stdin (format csv, header match)").unwrap();
        copy.write_all(csv.as_bytes()).unwrap();
        copy.finish().unwrap_or_else(|error| panic!("{saved}: {error}\n{csv}"));
        let differences = client
            .query_one(
                &format!(
                    "select count(*)::bigint, min(line) from (
                        (select 'missing ' || t::text as line from saved.{saved} t except all select 'missing ' || t::text from told t)
                        union all
                        (select 'extra ' || t::text from told t except all select 'extra ' || t::text from saved.{saved} t)) d"
                ),
                &[],
            )
            .unwrap();
        let (count, line): (i64, Option<String>) = (differences.get(0), differences.get(1));
        assert_eq!(count, 0, "{saved}: {}\n{csv}", line.unwrap_or_default());
    }
}

/// Many types, with values that are easily lost.
const WIDE: &str = r#"
    create type mood as enum ('sad', 'ok');
    create domain short as varchar(5);
    create table wide (
        id int primary key, flag boolean, small smallint, big bigint, money numeric(38,10), free numeric, single real,
        dbl float8, word varchar(20), padded char(5), any_text text, label mood, domained short, bytes bytea, day date,
        at timestamp, atz timestamptz, clock time, span interval, unique_id uuid, document json, binary_document jsonb,
        ints int[], texts text[], floats float8[], times timestamptz[], ragged int[], net inet, period tstzrange, bits bit(3), gone text, t timestamptz default '2026-01-01');
    insert into wide values
        (1, true, -32768, 9223372036854775807, 'nan', 'Infinity', '1e-40', 5e-324, 'a,"b"', 'ab', E'line\nbreak\ttab', 'ok', 'five5',
         '\x00ff', 'infinity', '-infinity', 'infinity', '24:00', '1 mon -2 days 03:00', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11',
         '{"b": 1,  "a": 1}', '{"b": 1, "a": 1e30}', '{1,null,3}', '{"",null,"NULL","a b","c\"d"}', '{nan,1e300,-0}',
         '{2026-11-24 10:00+05:30,infinity}', '{{1,2},{3,4}}', '10.0.0.1/8', '[2026-01-01,)', '101', 'x'),
        (2, false, 0, -9223372036854775808, 0.0000000001, 1e-30, 'nan', '-infinity', '', '', '', 'sad', '', '', '4713-01-01 BC',
         '0001-01-01 00:00:00 BC', '2026-11-24 10:00:00.123456+00', '00:00:00.000001', '0', null, 'null', 'null', '{}', '{}', '{}',
         '{}', '{}', '::1', 'empty', '000', ''),
        (3, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null,
         null, null, null, null, null, null, null, null, null, null),
        (-4, true, 1, 1, 12345678901234567890.5, 10, 16777216, 1e15, '\.', ' a', ' ', 'ok', ' ', '\x5c', '294276-12-31',
         '294276-12-31 23:59:59.999999', '0044-03-15 12:00 BC', '12:00', '1 day', '00000000-0000-0000-0000-000000000000', '[]', '[]',
         '{-1}', '{é,漢字}', '{0.1}', null, '[0:1]={7,8}', '0.0.0.0/0', '(,)', '111', '\x')"#;
