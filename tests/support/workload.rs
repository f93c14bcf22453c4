//! A seeded random application: several sessions that change several unlike tables at once.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use postgres::{Client, NoTls};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::oracle::{literal, quoted};
use super::postgres::Postgres;

/// A column's sort of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Small,
    Extreme(u32),
    Flag,
    Money,
    Numeric,
    Float,
    Word,
    Text,
    /// Thousands of characters that do not compress: stored out of line.
    Long,
    Bytes,
    Date,
    Timestamp,
    Timestamptz,
    Time,
    /// One of a few texts.
    Among(&'static [&'static str]),
}

/// A key's columns as a function of the number of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Number,
    Pair,
    Uuid,
    Text,
    None,
}

#[derive(Debug)]
struct Shape {
    name: &'static str,
    key: Key,
    key_columns: &'static [&'static str],
    columns: &'static [(&'static str, Kind)],
}

/// The tables of the workload, by the names that [`super::oracle::Oracle::install`] takes.
pub(crate) const TABLES: [&str; 7] = [
    "public.orders",
    "public.order_lines",
    "public.sessions",
    "public.settings",
    "public.wide",
    "public.clicks",
    "public.\"Odd Table/é\"",
];

const DDL: &str = r#"
create type mood as enum ('sad', 'fair', 'très bien', 'it''s "ok"');
create type point3 as (x int, y text, z numeric);
create domain positive as int check (value > 0);
create table orders (id bigint primary key, customer int, state text, total numeric(12,2), placed timestamptz,
    note text, paid boolean);
create table order_lines (order_id int, article text, quantity smallint, price numeric(38,10), details jsonb,
    remark text, primary key (article, order_id));
create table sessions (token uuid primary key, payload bytea, tags text[], began timestamp, day date, body text);
alter table sessions alter column body set storage external;
create table settings (name text primary key, value text, ratio double precision, changed date);
create table wide (id int primary key, b boolean, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, n numeric,
    n2 numeric(20,6), n3 numeric(3,-2), t text, vc varchar(30), c char(10), nm name, by bytea, d date, ts timestamp,
    tz timestamptz, ti time, tt timetz, iv interval, u uuid, j json, jb jsonb, ia int[], ta text[], na numeric[],
    da date[], ba bytea[], fa float8[], za timestamptz[], ja jsonb[], m mood, ma mood[], p positive, r int4range,
    mr int4multirange, ip inet, ci cidr, mac macaddr, bi bit(5), vb varbit, mo money, x xml, tv tsvector, pt point3,
    bx box, o oid, big text);
create table clicks (page text, visitor int, body text);
alter table clicks replica identity full;
create table "Odd Table/é" ("Id" text primary key, "a b" int, "select" text, "Ünï" text, "q""t" numeric(5,2));
"#;

const SHAPES: [Shape; 7] = [
    Shape {
        name: "orders",
        key: Key::Number,
        key_columns: &["id"],
        columns: &[
            ("customer", Kind::Small),
            ("state", Kind::Text),
            ("total", Kind::Money),
            ("placed", Kind::Timestamptz),
            ("note", Kind::Long),
            ("paid", Kind::Flag),
        ],
    },
    Shape {
        name: "order_lines",
        key: Key::Pair,
        key_columns: &["order_id", "article"],
        columns: &[
            ("quantity", Kind::Extreme(16)),
            ("price", Kind::Among(&["0", "-0.0000000001", "1234567890123456789012345678.0123456789", "1.5"])),
            ("details", Kind::Among(JSON)),
            ("remark", Kind::Long),
        ],
    },
    Shape {
        name: "sessions",
        key: Key::Uuid,
        key_columns: &["token"],
        columns: &[
            ("payload", Kind::Bytes),
            ("tags", Kind::Among(TEXT_ARRAYS)),
            ("began", Kind::Timestamp),
            ("day", Kind::Date),
            ("body", Kind::Long),
        ],
    },
    Shape {
        name: "settings",
        key: Key::Text,
        key_columns: &["name"],
        columns: &[("value", Kind::Text), ("ratio", Kind::Float), ("changed", Kind::Date)],
    },
    Shape {
        name: "wide",
        key: Key::Number,
        key_columns: &["id"],
        columns: &[
            ("b", Kind::Flag),
            ("i2", Kind::Extreme(16)),
            ("i4", Kind::Extreme(32)),
            ("i8", Kind::Extreme(64)),
            ("f4", Kind::Float),
            ("f8", Kind::Float),
            ("n", Kind::Numeric),
            ("n2", Kind::Among(&["NaN", "99999999999999.999999", "-0.000001", "7"])),
            ("n3", Kind::Among(&["99900", "-100", "0", "NaN"])),
            ("t", Kind::Text),
            ("vc", Kind::Word),
            ("c", Kind::Among(&["", "a", "ab  ", "0123456789"])),
            ("nm", Kind::Word),
            ("by", Kind::Bytes),
            ("d", Kind::Date),
            ("ts", Kind::Timestamp),
            ("tz", Kind::Timestamptz),
            ("ti", Kind::Time),
            ("tt", Kind::Among(&["00:00:00+14", "23:59:59.999999-03:30", "24:00:00-15:59:59"])),
            (
                "iv",
                Kind::Among(&[
                    "1 year -3 days 04:05:06.789",
                    "-2 mons +1 day -00:00:00.000001",
                    "0",
                    "178000000 years",
                ]),
            ),
            (
                "u",
                Kind::Among(&[
                    "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
                    "{00000000-0000-0000-0000-000000000000}",
                ]),
            ),
            ("j", Kind::Among(JSON)),
            ("jb", Kind::Among(JSON)),
            ("ia", Kind::Among(&["{}", "{1,NULL,-2147483648}", "{{1,2},{3,4}}", "[0:1]={7,8}", "[5:5]={1}"])),
            ("ta", Kind::Among(TEXT_ARRAYS)),
            ("na", Kind::Among(&["{1.50,NaN}", "{Infinity,-1}", "{NULL,0.000}", "{}"])),
            ("da", Kind::Among(&["{2024-02-29,NULL}", "{infinity}", "{0044-03-15 BC,5874897-12-31}"])),
            ("ba", Kind::Among(&[r#"{"\\x","\\x00ff",NULL}"#, "{}"])),
            ("fa", Kind::Among(&["{1.5,NaN,-Infinity,-0}", "{5e-324,1.7976931348623157e308}"])),
            (
                "za",
                Kind::Among(&[
                    "{2024-02-29 12:00:00.000001+05:30}",
                    "{-infinity,NULL}",
                    "{0001-01-01 00:00:00+00 BC}",
                ]),
            ),
            ("ja", Kind::Among(&[r#"{"{\"a\": [1, null]}",NULL,"\"x\""}"#])),
            ("m", Kind::Among(&["sad", "fair", "très bien", "it's \"ok\""])),
            ("ma", Kind::Among(&[r#"{sad,"très bien",NULL}"#, "{}", r#"{"it's \"ok\""}"#])),
            ("p", Kind::Among(&["1", "2147483647"])),
            ("r", Kind::Among(&["empty", "(,5)", "[1,10)", "[3,)"])),
            ("mr", Kind::Among(&["{}", "{[1,2),[5,9)}", "{(,3)}"])),
            ("ip", Kind::Among(&["10.0.0.1", "10.0.0.0/8", "::1", "2001:db8::/32"])),
            ("ci", Kind::Among(&["10.0.0.0/8", "::/0"])),
            ("mac", Kind::Among(&["08:00:2b:01:02:03"])),
            ("bi", Kind::Among(&["10101", "00000"])),
            ("vb", Kind::Among(&["", "1", "01"])),
            ("mo", Kind::Among(&["12.34", "-92233720368547758.08"])),
            ("x", Kind::Among(&["<a b=\"1\">t</a>", "text", "<a/><b/>"])),
            ("tv", Kind::Among(&["'a':1A 'b c':2,3B", ""])),
            ("pt", Kind::Among(&[r#"(1,"a,b",2.50)"#, "(,,)", r#"(-1,"",NaN)"#])),
            ("bx", Kind::Among(&["(1.5,2),(0,-1)"])),
            ("o", Kind::Among(&["0", "4294967295"])),
            ("big", Kind::Long),
        ],
    },
    Shape {
        name: "clicks",
        key: Key::None,
        key_columns: &[],
        columns: &[
            ("page", Kind::Among(&["/", "/a", "/b"])),
            ("visitor", Kind::Among(&["1", "2"])),
            ("body", Kind::Among(&["", "x"])),
        ],
    },
    Shape {
        name: "Odd Table/é",
        key: Key::Text,
        key_columns: &["Id"],
        columns: &[
            ("a b", Kind::Small),
            ("select", Kind::Text),
            ("Ünï", Kind::Word),
            ("q\"t", Kind::Among(&["-999.99", "0.00", "1.10"])),
        ],
    },
];

const JSON: &[&str] = &[
    r#"{"b" : 1,  "a":[1, 2.50, null], "b": "\u00e9\"\\"}"#,
    "null",
    "\"\"",
    "[]",
    "1e400",
    "[{\"k\": \"日本\"}, true]",
];
const TEXT_ARRAYS: &[&str] = &[
    "{}",
    r#"{NULL,"NULL","a,b","q\"","\\","{}"}"#,
    "{\"\",\"é 🦀\"}",
    "{plain}",
    "{{a,b},{c,d}}",
    "{\"line\nend\"}",
];

/// Texts that trip over quoting, escaping, encoding and paths.
const ODD: &[&str] = &[
    "",
    " ",
    "a b",
    "'q'",
    "\"q\"",
    "back\\slash",
    "line\nend",
    "tab\tend",
    "a,b",
    "null",
    "NULL",
    "\\N",
    "\\.",
    "[1,2]",
    "[\"x\"]",
    "{a}",
    "%20",
    "ü",
    "日本語",
    "🦀",
    "e\u{301}",
    "#",
    "/",
    "../x",
    "=",
    "-1",
    "1.0",
    "\u{200b}",
    "\u{1}",
    "\r\n",
    "A",
    "a",
    "ﬀ",
    "$$",
    "(1)",
    "~",
];

/// How the workload behaves.
#[derive(Debug, Clone)]
pub(crate) struct Habits {
    pub(crate) seed: u64,
    pub(crate) sessions: usize,
    /// Mean time between two transactions of a session.
    pub(crate) pause: Duration,
    /// Rows per table, about.
    pub(crate) rows: u64,
    /// Rows that one large transaction inserts and changes, now and then; 0 for none.
    pub(crate) large: u64,
    pub(crate) truncate: bool,
}

impl Default for Habits {
    fn default() -> Self {
        let given = std::env::var("BYGONE_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| rand::random_range(0..1_000_000));
        let pause = Duration::from_millis(6);
        Self { seed, sessions: 4, pause, rows: 150, large: 4000, truncate: true }
    }
}

#[derive(Debug, Default)]
struct Progress {
    stopping: AtomicBool,
    committed: AtomicU64,
    broken: Mutex<Vec<String>>,
}

/// The running application. It goes on until it is finished or dropped.
#[derive(Debug)]
pub(crate) struct Workload {
    sessions: Vec<JoinHandle<()>>,
    progress: Arc<Progress>,
}

impl Workload {
    /// Creates the tables.
    pub(crate) fn create(server: &Postgres) {
        let mut ddl = DDL.to_owned();
        if server.value("show server_version_num").is_some_and(|version| version.as_str() < "150000") {
            ddl = ddl.replace("numeric(3,-2)", "numeric(5,0)");
        }
        // A server may have been built without libxml.
        if server.connect().batch_execute("select '<a/>'::xml").is_err() {
            ddl = ddl.replace(" x xml,", " x text,");
        }
        server.run(&ddl);
    }

    /// Sets the application going. A session that loses its server finds it again.
    pub(crate) fn start(server: &Postgres, habits: &Habits) -> Self {
        eprintln!("the workload is repeated by BYGONE_TEST_SEED={}", habits.seed);
        let progress = Arc::new(Progress::default());
        let sessions = (0..habits.sessions).map(|number| {
            let (habits, progress) = (habits.clone(), Arc::clone(&progress));
            let address =
                format!("{} connect_timeout=5 options='-c lock_timeout=4s'", server.socket_string());
            std::thread::spawn(move || {
                let random = StdRng::seed_from_u64(habits.seed * 100 + number as u64);
                Session { random, habits, number, turn: 0 }.work(&address, &progress);
            })
        });
        Self { sessions: sessions.collect(), progress }
    }

    /// How many transactions were committed so far.
    pub(crate) fn committed(&self) -> u64 {
        self.progress.committed.load(Ordering::Relaxed)
    }

    /// Waits until `more` transactions were committed from now on.
    #[track_caller]
    pub(crate) fn wait_for(&self, more: u64) {
        let goal = self.committed() + more;
        let came = super::process::eventually(Duration::from_secs(60), || self.committed() >= goal);
        assert!(came, "the workload stands still: {:?}", self.progress.broken.lock().unwrap());
    }

    /// Ends every session after its transaction. The workload itself must have been without fault.
    #[track_caller]
    pub(crate) fn finish(mut self) -> u64 {
        self.progress.stopping.store(true, Ordering::Relaxed);
        for session in self.sessions.drain(..) {
            session.join().unwrap();
        }
        let broken = self.progress.broken.lock().unwrap();
        assert!(broken.is_empty(), "the workload is at fault: {broken:?}");
        drop(broken);
        self.committed()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.progress.stopping.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Session {
    random: StdRng,
    habits: Habits,
    number: usize,
    turn: u64,
}

impl Session {
    fn work(&mut self, address: &str, progress: &Progress) {
        let mut client: Option<Client> = None;
        while !progress.stopping.load(Ordering::Relaxed) {
            let Some(link) = client.as_mut().filter(|link| !link.is_closed()) else {
                client = Client::connect(address, NoTls).ok();
                std::thread::sleep(Duration::from_millis(if client.is_some() { 0 } else { 100 }));
                continue;
            };
            let sql = self.transaction();
            match link.batch_execute(&sql) {
                Ok(()) => {
                    progress.committed.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    // Conflicts between sessions are part of the game, and so is a server that goes away.
                    let state = error.code().map_or("", |code| code.code());
                    if !["", "23", "40", "55", "57", "08"].contains(&state.get(..2).unwrap_or("")) {
                        progress.broken.lock().unwrap().push(format!("{error:?}\n{sql}"));
                    }
                    let _ = link.batch_execute("rollback");
                }
            }
            self.turn += 1;
            let pause = self.habits.pause.mul_f64(-self.random.random_range(0.02_f64..1.0).ln());
            std::thread::sleep(pause);
        }
    }

    /// One transaction as SQL.
    fn transaction(&mut self) -> String {
        if self.number == 0 && self.habits.large > 0 && self.turn % 400 == 120 {
            return self.large();
        }
        if self.habits.truncate && self.random.random_bool(0.004) {
            let table = SHAPES.choose(&mut self.random).unwrap();
            let first = self.statement(table);
            return format!("begin; truncate {}; {first} commit", quoted(table.name));
        }
        let mut sql = String::from("begin; ");
        for _ in 0..*[1, 1, 1, 2, 3, 8].choose(&mut self.random).unwrap() {
            if self.random.random_bool(0.15) {
                let inner = self.random.random_range(1..4);
                sql.push_str("savepoint s; ");
                for _ in 0..inner {
                    sql.push_str(&self.any_statement());
                }
                sql.push_str(if self.random.random_bool(0.6) { "rollback to s; " } else { "release s; " });
            }
            sql.push_str(&self.any_statement());
        }
        sql.push_str(if self.random.random_bool(0.08) { "rollback" } else { "commit" });
        sql
    }

    fn any_statement(&mut self) -> String {
        let table = SHAPES.choose(&mut self.random).unwrap();
        self.statement(table)
    }

    /// Many rows come, change and partly go in one transaction.
    fn large(&self) -> String {
        let first = 1_000_000 + self.turn * 100_000;
        let (last, half) = (first + self.habits.large, first + self.habits.large / 2);
        format!(
            "begin; insert into orders (id, customer, state, total) \
             select n, n % 7, 'large ' || n, n / 100.0 from generate_series({first}::bigint, {last}) n \
             on conflict do nothing; \
             update orders set customer = customer + 1 where id between {first} and {last}; \
             delete from orders where id between {first} and {half}; commit"
        )
    }

    /// One statement on a table.
    fn statement(&mut self, table: &'static Shape) -> String {
        if table.key == Key::None {
            return self.keyless(table);
        }
        let name = quoted(table.name);
        let number = self.row_number();
        let here = conditions(&key(table, number));
        match self.random.random_range(0..100) {
            0..38 => {
                let update = self.random.random_bool(0.5);
                self.insert(table, number, update)
            }
            38..74 => format!("update {name} set {} where {here}; ", self.assignments(table)),
            74..80 => {
                let (column, _) = table.columns.first().unwrap();
                let column = quoted(column);
                format!(
                    "update {name} set {column} = {column} where ctid in (select ctid from {name} limit 5); "
                )
            }
            80..92 => {
                let mut sql = format!("delete from {name} where {here}; ");
                if self.random.random_bool(0.4) {
                    sql.push_str(&self.insert(table, number, false));
                }
                sql
            }
            _ => {
                let moved = key(table, self.row_number());
                let mut sets =
                    moved.iter().map(|(column, value)| format!("{column} = {value}")).collect::<Vec<_>>();
                if self.random.random_bool(0.4) {
                    sets.push(self.assignments(table));
                }
                format!(
                    "update {name} set {} where {here} and not exists (select from {name} where {}); ",
                    sets.join(", "),
                    conditions(&moved)
                )
            }
        }
    }

    /// Changes of rows that nothing tells apart.
    fn keyless(&mut self, table: &'static Shape) -> String {
        let name = quoted(table.name);
        let one = format!("ctid = (select min(ctid) from {name})");
        match self.random.random_range(0..4) {
            0 | 1 => {
                let values: Vec<_> = table.columns.iter().map(|(_, kind)| self.value(*kind)).collect();
                format!("insert into {name} values ({}); ", values.join(", "))
            }
            2 => format!("update {name} set {} where {one}; ", self.assignments(table)),
            _ => format!("delete from {name} where {one}; "),
        }
    }

    fn insert(&mut self, table: &'static Shape, number: u64, update: bool) -> String {
        let mut names: Vec<String> = Vec::new();
        let mut values = Vec::new();
        for (column, value) in key(table, number) {
            names.push(column);
            values.push(value);
        }
        for (column, kind) in table.columns {
            names.push(quoted(column));
            values.push(self.value(*kind));
        }
        let target = table.key_columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ");
        let conflict = if update {
            let (column, _) = *table.columns.choose(&mut self.random).unwrap();
            format!("({target}) do update set {0} = excluded.{0}", quoted(column))
        } else {
            "do nothing".to_owned()
        };
        format!(
            "insert into {} ({}) values ({}) on conflict {conflict}; ",
            quoted(table.name),
            names.join(", "),
            values.join(", ")
        )
    }

    /// New values for one to three columns. Large ones are mostly left alone: that is what makes them hard.
    fn assignments(&mut self, table: &'static Shape) -> String {
        let wanted = self.random.random_range(1..4);
        let short: Vec<_> = table.columns.iter().filter(|(_, kind)| *kind != Kind::Long).collect();
        let mut chosen: Vec<_> = short.choose_multiple(&mut self.random, wanted).copied().collect();
        if self.random.random_bool(0.15) {
            chosen.extend(table.columns.iter().filter(|(_, kind)| *kind == Kind::Long));
        }
        let sets: Vec<_> = chosen
            .iter()
            .map(|(column, kind)| format!("{} = {}", quoted(column), self.value(*kind)))
            .collect();
        sets.join(", ")
    }

    /// Mostly one of the few rows that are busy.
    fn row_number(&mut self) -> u64 {
        let busy = self.random.random_bool(0.5);
        self.random.random_range(0..if busy { self.habits.rows / 10 } else { self.habits.rows })
    }

    /// A value of a kind, as an SQL literal.
    fn value(&mut self, kind: Kind) -> String {
        if self.random.random_bool(0.1) {
            return "null".to_owned();
        }
        let edge = self.random.random_bool(0.2);
        let random = &mut self.random;
        let text = match kind {
            Kind::Small => random.random_range(-20..20).to_string(),
            Kind::Extreme(bits) => match random.random_range(0..4) {
                0 => (-(1_i128 << (bits - 1))).to_string(),
                1 => ((1_i128 << (bits - 1)) - 1).to_string(),
                _ => random.random_range(-100..100).to_string(),
            },
            Kind::Flag => random.random_bool(0.5).to_string(),
            Kind::Money => format!("{:.2}", f64::from(random.random_range(-10_000_000..10_000_000)) / 100.0),
            Kind::Numeric if edge => {
                let odd = ["NaN", "Infinity", "-Infinity", "1e-40", "1e60", "0.000", "-1.500", "1.5"];
                (*odd.choose(random).unwrap()).to_owned()
            }
            Kind::Numeric => format!("{}.{:03}", random.random::<i64>(), random.random_range(0..1000)),
            Kind::Float if edge => {
                let odd = ["NaN", "Infinity", "-Infinity", "-0", "1e-30", "3.4e38"];
                (*odd.choose(random).unwrap()).to_owned()
            }
            Kind::Float => format!("{:?}", f64::from(random.random_range(-1_000_000..1_000_000)) / 64.0),
            Kind::Word => word(random, 1, 20),
            Kind::Text if edge => (*ODD.choose(random).unwrap()).to_owned(),
            Kind::Text => word(random, 0, 40),
            Kind::Long if edge => word(random, 0, 30),
            Kind::Long => word(random, 2500, 6000),
            Kind::Bytes => {
                let length = random.random_range(0..40);
                let mut text = "\\x".to_owned();
                for _ in 0..length {
                    write!(text, "{:02x}", random.random::<u8>()).unwrap();
                }
                text
            }
            Kind::Date if edge => {
                let odd = ["infinity", "-infinity", "0044-03-15 BC", "5874897-12-31", "4713-01-01 BC"];
                (*odd.choose(random).unwrap()).to_owned()
            }
            Kind::Date => format!(
                "{:04}-{:02}-{:02}",
                random.random_range(1..3000),
                random.random_range(1..13),
                random.random_range(1..29)
            ),
            Kind::Timestamp | Kind::Timestamptz if edge => {
                let odd = [
                    "infinity",
                    "-infinity",
                    "0044-03-15 12:00:00 BC",
                    "294276-12-31 23:59:59.999999",
                    "1970-01-01 00:00:00",
                ];
                (*odd.choose(random).unwrap()).to_owned()
            }
            Kind::Timestamp | Kind::Timestamptz => {
                let zone = ["", "+00", "-08", "+05:30"];
                let zone = if kind == Kind::Timestamptz { zone.choose(random).unwrap() } else { "" };
                format!(
                    "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:06}{zone}",
                    random.random_range(1900..2100),
                    random.random_range(1..13),
                    random.random_range(1..29),
                    random.random_range(0..24),
                    random.random_range(0..60),
                    random.random_range(0..60),
                    random.random_range(0..1_000_000)
                )
            }
            Kind::Time if edge => "24:00:00".to_owned(),
            Kind::Time => format!(
                "{:02}:{:02}:00.{:06}",
                random.random_range(0..24),
                random.random_range(0..60),
                random.random_range(0..1_000_000)
            ),
            Kind::Among(texts) => (*texts.choose(random).unwrap()).to_owned(),
        };
        literal(&text)
    }
}

fn word(random: &mut StdRng, least: usize, most: usize) -> String {
    const LETTERS: &[char] = &[
        'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'm', 'n', 'o', 'p', 'q', 'r', 's', 't', 'u',
        'v', 'w', 'x', 'y', 'z', 'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', '0', '1', '2', '3', '4', '5', '6',
        '7', '8', '9', ' ', '_', 'ß',
    ];
    let length = random.random_range(least..=most);
    (0..length).map(|_| *LETTERS.choose(random).unwrap()).collect()
}

/// The key of row `number`: quoted column names with SQL literals.
fn key(table: &Shape, number: u64) -> Vec<(String, String)> {
    let text = || {
        let odd = ODD[usize::try_from(number).unwrap() % ODD.len()];
        if number < ODD.len() as u64 { odd.to_owned() } else { format!("{odd}{number}") }
    };
    let values = match table.key {
        Key::Number if number % 40 == 39 && table.name == "orders" => {
            vec![(i64::MIN + number.cast_signed()).to_string()]
        }
        Key::Number => vec![number.to_string()],
        Key::Pair => {
            vec![(number / 8).to_string(), ODD[usize::try_from(number).unwrap() % ODD.len()].to_owned()]
        }
        Key::Uuid => vec![format!(
            "{:032x}",
            u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
        )],
        Key::Text => vec![text()],
        Key::None => vec![],
    };
    table
        .key_columns
        .iter()
        .map(|column| quoted(column))
        .zip(values.iter().map(|value| literal(value)))
        .collect()
}

fn conditions(key: &[(String, String)]) -> String {
    key.iter().map(|(column, value)| format!("{column} = {value}")).collect::<Vec<_>>().join(" and ")
}
