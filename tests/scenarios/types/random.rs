//! Random types and random values of them, for as long as the budget lasts.

use std::time::{Duration, Instant};

use postgres::Client;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::catalogue::DDL;
use super::specimens::{Column, STREAMED, Specimens, run};
use super::{assert_none, read, with_op};
use crate::support::bygone::Bygone;
use crate::support::oracle::literal;
use crate::support::postgres::{DATABASE, Postgres};
use crate::support::scratch::Scratch;

/// Columns of a round's table.
const COLUMNS: usize = 40;
/// Values in each.
const VALUES: usize = 12;

/// A type whose every value comes in binary form, or not.
const BINARY: &[&str] = &[
    "boolean",
    "smallint",
    "integer",
    "bigint",
    "oid",
    "xid8",
    "real",
    "double precision",
    "numeric",
    "numeric(p,s)",
    "text",
    "varchar(n)",
    "char(n)",
    "name",
    "\"char\"",
    "bytea",
    "date",
    "time",
    "timetz",
    "timestamp",
    "timestamptz",
    "uuid",
    "json",
    "jsonb",
    "money",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "bit(n)",
    "bit varying",
    "pg_lsn",
    "tid",
    "point",
    "line",
    "lseg",
    "path",
    "polygon",
    "circle",
    "int4range",
    "int8range",
    "numrange",
    "daterange",
    "tsrange",
    "tstzrange",
    "int4multirange",
    "nummultirange",
    "tstzmultirange",
    "mood",
    "citext",
    "price",
];
const TEXT_ONLY: &[&str] = &["interval", "tsvector", "hstore", "pair", "span", "word_range", "box", "ltree"];

#[test]
fn random_values_of_random_types_arrive_exactly() {
    let seed = std::env::var("BYGONE_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    let seconds = std::env::var("BYGONE_TEST_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let server = Postgres::start();
    run(&mut server.connect(), DDL);
    let began = Instant::now();
    let mut round = 0;
    while round == 0 || began.elapsed() < Duration::from_secs(seconds) {
        eprintln!("BYGONE_TEST_SEED={} repeats round {round}", seed + round);
        Round::new(&server, seed + round, round).play();
        round += 1;
    }
    eprintln!("{round} rounds in {:?}", began.elapsed());
}

struct Round<'a> {
    server: &'a Postgres,
    number: u64,
    random: Values,
}

impl<'a> Round<'a> {
    fn new(server: &'a Postgres, seed: u64, number: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let fine = server.major() >= 15;
        Self { server, number, random: Values { random, fine } }
    }

    fn column(&mut self, client: &mut Client, number: usize, types: &[&str]) -> Column {
        let sort = *types.choose(&mut self.random.random).unwrap();
        let (sql, sort) = self.random.declared(sort);
        let is_array = self.random.random.random_bool(0.3);
        let values: Vec<String> = (0..VALUES)
            .map(|_| if is_array { self.random.array(&sql, &sort) } else { self.random.value(&sql, &sort) })
            .collect();
        let sql = if is_array { format!("{sql}[]") } else { sql };
        // What the type does not take after all, a number out of range for one, is left out.
        let taken = |value: String| match client.batch_execute(&format!("select {value}")) {
            Ok(()) => value,
            Err(_) => format!("null::{sql}"),
        };
        let values: Vec<String> = values.into_iter().map(taken).collect();
        Column { name: format!("c{number}"), sql, values, readable: true }
    }

    /// The same values in two tables: one that is read in binary form, and one that is not, for it has other columns too.
    fn play(mut self) {
        let mut client = self.server.connect();
        run(&mut client, "set log_min_messages = 'fatal'");
        let columns = (0..COLUMNS).map(|n| self.column(&mut client, n, BINARY));
        let narrow = Specimens { columns: columns.collect() };
        let mut wide = narrow.clone();
        wide.columns.extend((COLUMNS..COLUMNS + 10).map(|n| self.column(&mut client, n, TEXT_ONLY)));
        let nulls =
            wide.columns.iter().flat_map(|column| &column.values).filter(|value| value.starts_with("null::"));
        let nulls = nulls.count();
        assert!(nulls < wide.columns.len() * VALUES / 3, "{nulls} nulls: most of the values are none");
        wide.columns.push(Column {
            name: "always_text".to_owned(),
            sql: "tsquery".to_owned(),
            values: vec!["'a & b'".to_owned()],
            readable: true,
        });
        let scratch = Scratch::new("history");
        let mut captures = Vec::new();
        for (specimens, sort) in [(&narrow, "bin"), (&wide, "text")] {
            let schema = format!("{sort}{}", self.number);
            let table = format!("{schema}.t");
            run(&mut client, &format!("create schema {schema}"));
            specimens.create(&mut client, &table);
            specimens.insert(&mut client, &table, 0);
            let mut bygone = Bygone::new(self.server.url(), scratch.join(&schema))
                .tables(&[&format!("{schema}.*")])
                .options(&["--name", &schema]);
            bygone.until_current();
            specimens.insert(&mut client, &table, STREAMED);
            let said = bygone.until_current().stderr;
            super::assert_stream(&said, sort == "bin");
            bygone.command(&["detach", "--source", &self.server.url(), "--name", &schema]).well();
            captures.push((specimens, table, read(scratch.join(&schema))));
        }
        let mut found = Vec::new();
        for (specimens, table, history) in &captures {
            let facts = specimens.found(history, table);
            assert_eq!(facts.len(), 2 * (VALUES + 1));
            assert_none(&specimens.judge(self.server, DATABASE, table, &facts));
            found.push(facts);
        }
        let as_text = narrow.found(&captures[1].2, &captures[1].1);
        let mut wrong = Vec::new();
        for model in with_op(&found[0], "snapshot") {
            for fact in found[0].iter().chain(&as_text).filter(|fact| fact.id % STREAMED == model.id) {
                wrong.extend(narrow.differences(model, fact));
            }
        }
        for model in with_op(&found[1], "snapshot") {
            for fact in found[1].iter().filter(|fact| fact.id % STREAMED == model.id) {
                wrong.extend(wide.differences(model, fact));
            }
        }
        assert_none(&wrong);
    }
}

/// Makes values.
struct Values {
    random: StdRng,
    /// The server knows every scale of a numeric.
    fine: bool,
}

impl Values {
    fn below(&mut self, limit: i64) -> i64 {
        self.random.random_range(0..limit)
    }

    fn one(&mut self, of: &[&str]) -> String {
        (*of.choose(&mut self.random).unwrap()).to_owned()
    }

    /// The declaration of a column, modifiers chosen, and the sort of its values.
    fn declared(&mut self, sort: &str) -> (String, String) {
        let sql = match sort {
            "numeric(p,s)" => {
                let precision = 1 + self.below(50);
                let scale = if self.fine { self.below(precision + 8) - 4 } else { self.below(precision + 1) };
                format!("numeric({precision},{scale})")
            }
            "varchar(n)" => format!("varchar({})", 1 + self.below(20)),
            "char(n)" => format!("char({})", 1 + self.below(20)),
            "bit(n)" => format!("bit({})", 1 + self.below(70)),
            other => other.to_owned(),
        };
        (sql, sort.to_owned())
    }

    /// An expression of the type; sometimes null.
    fn value(&mut self, sql: &str, sort: &str) -> String {
        if self.random.random_bool(0.08) {
            return format!("null::{sql}");
        }
        self.some(sql, sort)
    }

    /// An expression of the array type.
    fn array(&mut self, sql: &str, sort: &str) -> String {
        match self.below(10) {
            0 => "'{}'".to_owned(),
            1 | 2 => {
                let (rows, width) = (1 + self.below(3), 1 + self.below(3));
                let rows: Vec<String> = (0..rows).map(|_| self.list(sql, sort, width)).collect();
                let array = format!("array[{}]", rows.join(", "));
                if self.random.random_bool(0.5) {
                    return array;
                }
                let (low, lower) = (self.below(9) - 4, self.below(9) - 4);
                let high = low + i64::try_from(rows.len()).unwrap() - 1;
                let bounds = format!("[{low}:{high}][{lower}:{}]=", lower + width - 1);
                // Bounds of 1 are not printed, and not wanted twice.
                format!("('{bounds}' || regexp_replace({array}::text, '^\\[.*?\\]=', ''))::{sql}[]")
            }
            3 => format!(
                "array_fill({}, array[{}], array[{}])",
                self.value(sql, sort),
                1 + self.below(3),
                self.below(9) - 4
            ),
            _ => {
                let length = 1 + self.below(6);
                format!("array{}::{sql}[]", self.list(sql, sort, length))
            }
        }
    }

    fn list(&mut self, sql: &str, sort: &str, length: i64) -> String {
        let items: Vec<String> = (0..length).map(|_| self.value(sql, sort)).collect();
        format!("[{}]", items.join(", "))
    }

    fn some(&mut self, sql: &str, sort: &str) -> String {
        let text = match sort {
            "json" | "jsonb" => self.document(3),
            "point" | "lseg" | "path" | "polygon" | "circle" | "box" | "line" => self.shape(sort),
            "hstore" => {
                let (key, value) = (self.text(), self.text());
                return format!(
                    "hstore({}, {}) || hstore('n', null)",
                    literal(&key.replace('\0', "")),
                    literal(&value)
                );
            }
            "pair" => {
                let (number, text) = (self.number(), self.text());
                return format!("row({}, {})::pair", number % 1_000_000_000, literal(&text));
            }
            "word_range" => {
                let (one, other) = (literal(&self.text()), literal(&self.text()));
                return format!(
                    "word_range(least({one}, {other}), greatest({one}, {other}), {})",
                    literal(&self.bounds())
                );
            }
            _ if sort.ends_with("range") || sort == "span" => return self.range(sort),
            _ => self.scalar(sql, sort),
        };
        format!("{}::{sql}", literal(&text))
    }

    fn scalar(&mut self, sql: &str, sort: &str) -> String {
        match sort {
            "boolean" => self.one(&["t", "f"]),
            "smallint" => (self.number() as i16).to_string(),
            "integer" => (self.number() as i32).to_string(),
            "bigint" => self.number().to_string(),
            "oid" => (self.number() as u32).to_string(),
            "xid8" => (self.number() as u64).to_string(),
            "real" => self.single(),
            "double precision" => self.double(),
            "numeric" => self.numeric(60, 40),
            "price" => self.numeric(10, 2).replace('-', ""),
            "numeric(p,s)" => self.fitting(sql),
            "text" | "citext" => self.text(),
            "varchar(n)" | "char(n)" => {
                let length: usize = sql[sql.find('(').unwrap() + 1..].trim_end_matches(')').parse().unwrap();
                self.text().chars().take(length).collect()
            }
            "name" => self.text().chars().take(15).collect(),
            "\"char\"" => {
                let byte = 1 + self.below(255);
                format!("\\{byte:03o}")
            }
            "bytea" => {
                let length = self.below(40);
                let bytes: String = (0..length).map(|_| format!("{:02x}", self.below(256))).collect();
                format!("\\x{bytes}")
            }
            "date" => self.date(),
            "time" => self.clock(),
            "timetz" => format!("{}{}", self.clock(), self.zone()),
            "timestamp" => self.moment(false),
            "timestamptz" => self.moment(true),
            "interval" => format!(
                "{} mons {} days {} microseconds",
                self.number() as i32,
                self.number() as i32,
                // The least of all is printed by PostgreSQL, and not read again.
                (self.number() / (1 << self.below(40))).max(-i64::MAX)
            ),
            "uuid" => (0..16).map(|_| format!("{:02x}", self.below(256))).collect(),
            "money" => {
                let cents = self.number();
                let sign = if cents < 0 { "-" } else { "" };
                format!("{sign}{}.{:02}", cents.unsigned_abs() / 100, cents.unsigned_abs() % 100)
            }
            "inet" => self.address(true),
            "cidr" => self.address(false),
            "macaddr" => self.octets(6),
            "macaddr8" => self.octets(8),
            "bit(n)" => {
                let length: i64 = sql[4..sql.len() - 1].parse().unwrap();
                (0..length).map(|_| self.one(&["0", "1"])).collect()
            }
            "bit varying" => (0..self.below(80)).map(|_| self.one(&["0", "1"])).collect(),
            "pg_lsn" => format!("{:X}/{:X}", self.number() as u32, self.number() as u32),
            "tid" => format!("({},{})", self.number() as u32, self.number() as u16),
            "mood" => self.one(&["sad", "fair", "très bien", "it's \"ok\"", "a,b", "NULL", "{}", "\\"]),
            "tsvector" => {
                (0..self.below(5)).map(|_| format!("w{}:{} ", self.below(50), 1 + self.below(99))).collect()
            }
            "ltree" => (0..1 + self.below(4))
                .map(|n| format!("{}a{}", if n > 0 { "." } else { "" }, self.below(99)))
                .collect(),
            other => panic!("no values of {other}"),
        }
    }

    /// Of any size, also the largest.
    fn number(&mut self) -> i64 {
        match self.below(8) {
            0 => *[i64::MIN, i64::MAX, 0, -1].choose(&mut self.random).unwrap(),
            _ => self.random.random::<i64>() >> self.below(63),
        }
    }

    fn double(&mut self) -> String {
        let value = match self.below(5) {
            0 => f64::from_bits(self.random.random::<u64>() & 0x800F_FFFF_FFFF_FFFF),
            1 => 2f64.powi(i32::try_from(self.below(2100)).unwrap() - 1074),
            2 => self.number() as f64 / 100.0,
            _ => f64::from_bits(self.random.random()),
        };
        if value.is_nan() { "NaN".to_owned() } else { format!("{value:?}") }
    }

    fn single(&mut self) -> String {
        let value = match self.below(4) {
            0 => f32::from_bits(self.random.random::<u32>() & 0x807F_FFFF),
            1 => 2f32.powi(i32::try_from(self.below(277)).unwrap() - 149),
            _ => f32::from_bits(self.random.random()),
        };
        if value.is_nan() { "NaN".to_owned() } else { format!("{value:?}") }
    }

    /// With so many digits before and behind the point at most.
    fn numeric(&mut self, before: i64, after: i64) -> String {
        match self.below(30) {
            0 => return "NaN".to_owned(),
            1 if before > 50 => return self.one(&["Infinity", "-Infinity"]),
            _ => {}
        }
        let sign = self.one(&["", "-"]);
        let digits = |values: &mut Self, count: i64| -> String {
            let zeros = values.below(3) == 0;
            (0..count).map(|_| if zeros { '0' } else { char::from(b'0' + values.below(10) as u8) }).collect()
        };
        let (whole, part) = (self.below(before + 1), self.below(after + 1));
        format!("{sign}0{}.{}0", digits(self, whole), digits(self, part)).trim_end_matches('.').to_owned()
    }

    /// A value that `numeric(p,s)` takes without rounding.
    fn fitting(&mut self, sql: &str) -> String {
        if self.below(20) == 0 {
            return "NaN".to_owned();
        }
        let (precision, scale) = sql["numeric(".len()..sql.len() - 1].split_once(',').unwrap();
        let (precision, scale): (i64, i64) = (precision.parse().unwrap(), scale.parse().unwrap());
        let count = 1 + self.below(precision);
        let digits: String = (0..count).map(|_| char::from(b'0' + self.below(10) as u8)).collect();
        format!("{}{digits}e{}", self.one(&["", "-"]), -scale)
    }

    fn text(&mut self) -> String {
        let length = if self.below(10) == 0 { 300 } else { self.below(12) };
        (0..length)
            .map(|_| {
                let (low, high) = *[
                    (1, 128),
                    (32, 127),
                    (0xA0, 0x600),
                    (0x2000, 0x2100),
                    (0x3000, 0xD7FF),
                    (0xE000, 0x1_1000),
                    (0x1_F000, 0x11_0000),
                ]
                .choose(&mut self.random)
                .unwrap();
                let any = self.random.random_range(low..high);
                let special = *b"\"\\{}(),'[] \n\t".choose(&mut self.random).unwrap();
                if self.below(4) == 0 { char::from(special) } else { char::from_u32(any).unwrap_or('x') }
            })
            .collect()
    }

    fn year(&mut self, last: i64) -> (i64, &'static str) {
        match self.below(4) {
            0 => (1 + self.below(4713), " BC"),
            1 => (1 + self.below(last), ""),
            _ => (1900 + self.below(200), ""),
        }
    }

    fn date(&mut self) -> String {
        if self.below(20) == 0 {
            return self.one(&["infinity", "-infinity"]);
        }
        let (year, era) = self.year(5_874_896);
        format!("{year:04}-{:02}-{:02}{era}", 1 + self.below(12), 1 + self.below(28))
    }

    fn clock(&mut self) -> String {
        if self.below(20) == 0 {
            return "24:00:00".to_owned();
        }
        let fraction = match self.below(3) {
            0 => String::new(),
            1 => format!(".{:06}", self.below(1_000_000)),
            _ => format!(".{}", self.below(10)),
        };
        format!("{:02}:{:02}:{:02}{fraction}", self.below(24), self.below(60), self.below(60))
    }

    fn zone(&mut self) -> String {
        let sign = self.one(&["+", "-"]);
        let (hour, minute, second) = (self.below(16), self.below(60), self.below(60));
        match self.below(3) {
            0 => format!("{sign}{hour:02}"),
            1 => format!("{sign}{hour:02}:{minute:02}"),
            _ => format!("{sign}{hour:02}:{minute:02}:{second:02}"),
        }
    }

    fn moment(&mut self, zoned: bool) -> String {
        if self.below(20) == 0 {
            return self.one(&["infinity", "-infinity"]);
        }
        let (year, era) = self.year(294_275);
        // The very first year is not whole.
        let year = if era.is_empty() { year } else { year.min(4712) };
        let zone = if zoned { self.zone() } else { String::new() };
        format!("{year:04}-{:02}-{:02} {}{zone}{era}", 1 + self.below(12), 1 + self.below(28), self.clock())
    }

    fn document(&mut self, depth: i64) -> String {
        let string = |values: &mut Self| {
            let text = values.text();
            serde_json::Value::from(text).to_string()
        };
        match self.below(if depth > 0 { 8 } else { 6 }) {
            0 => self.one(&["null", "true", "false"]),
            1 | 2 => format!("{}.{:010}e{}", self.number(), self.below(1_000_000_000), self.below(80) - 40),
            6 => {
                let items: Vec<String> = (0..self.below(4)).map(|_| self.document(depth - 1)).collect();
                format!("[ {}]", items.join(" , "))
            }
            7 => {
                let items: Vec<String> = (0..self.below(4))
                    .map(|_| format!("{}: {}", string(self), self.document(depth - 1)))
                    .collect();
                format!("{{{}}}", items.join(","))
            }
            _ => string(self),
        }
    }

    fn shape(&mut self, sort: &str) -> String {
        let point = |values: &mut Self| format!("({},{})", values.double(), values.double());
        match sort {
            "point" => point(self),
            "lseg" => format!("[{},{}]", point(self), point(self)),
            "box" => format!("{},{}", point(self), point(self)),
            "line" => format!("{{{},{},{}}}", 1 + self.below(9), self.below(100), self.below(1000)),
            "circle" => format!("<{},{}>", point(self), self.below(1000)),
            _ => {
                let points: Vec<String> = (0..1 + self.below(4)).map(|_| point(self)).collect();
                let (open, close) =
                    if sort == "path" && self.below(2) == 0 { ("[", "]") } else { ("(", ")") };
                format!("{open}{}{close}", points.join(","))
            }
        }
    }

    fn bounds(&mut self) -> String {
        self.one(&["[]", "[)", "(]", "()"])
    }

    fn range(&mut self, sort: &str) -> String {
        if let Some(one) = sort.strip_suffix("multirange") {
            let one = format!("{one}range");
            let ranges: Vec<String> = (0..self.below(4)).map(|_| self.range(&one)).collect();
            return format!("{sort}({})", ranges.join(", "));
        }
        if self.below(10) == 0 {
            return format!("'empty'::{sort}");
        }
        let (sql, of) = match sort {
            // The last number has no next one.
            "int4range" => ("int", "int"),
            "int8range" => ("bigint", "bigint"),
            "numrange" => ("numeric", "numeric"),
            "daterange" => ("date", "date"),
            "tsrange" => ("timestamp", "timestamp"),
            "span" => ("double precision", "double precision"),
            _ => ("timestamptz", "timestamptz"),
        };
        let mut bound = || match of {
            "int" => format!("{}", self.number() as i32 / 2),
            "bigint" => format!("{}", self.number() / 2),
            "date" => literal(&format!(
                "{}-01-{:02}",
                1 + self.below(5_000_000) % 5_000_000 + 1000,
                1 + self.below(28)
            )),
            _ => literal(&self.scalar(sql, of)),
        };
        let (one, other) = (format!("{}::{sql}", bound()), format!("{}::{sql}", bound()));
        match self.below(6) {
            0 => format!("{sort}(null, {one}, '{}')", self.bounds()),
            1 => format!("{sort}({one}, null, '{}')", self.bounds()),
            _ => format!("{sort}(least({one}, {other}), greatest({one}, {other}), '{}')", self.bounds()),
        }
    }

    fn octets(&mut self, count: i64) -> String {
        let parts: Vec<String> = (0..count).map(|_| format!("{:02x}", self.below(256))).collect();
        parts.join(":")
    }

    /// With a mask of any length; a network's host part is zero.
    fn address(&mut self, host: bool) -> String {
        if self.below(2) == 0 {
            let bits = self.below(33);
            let mask = u32::MAX.checked_shl(32 - u32::try_from(bits).unwrap()).unwrap_or(0);
            let [a, b, c, d] =
                (self.random.random::<u32>() & if host { u32::MAX } else { mask }).to_be_bytes();
            return format!("{a}.{b}.{c}.{d}/{bits}");
        }
        let bits = self.below(129);
        let mask = u128::MAX.checked_shl(128 - u32::try_from(bits).unwrap()).unwrap_or(0);
        let mut whole = 0u128;
        let sparse = self.below(3);
        for word in 0..8 {
            let value = if self.below(3) < sparse { 0 } else { self.below(0x1_0000) };
            let value = if sparse > 0 && word == 5 && self.below(3) == 0 { 0xFFFF } else { value };
            whole = whole << 16 | u128::try_from(value).unwrap();
        }
        let address = std::net::Ipv6Addr::from(whole & if host { u128::MAX } else { mask });
        let words: Vec<String> = address.segments().iter().map(|word| format!("{word:x}")).collect();
        format!("{}/{bits}", words.join(":"))
    }
}
