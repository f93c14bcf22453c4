//! Literals, and how the values of a column compare with them: as Postgres does, for each type.

use std::cmp::Ordering;

use bygone_sink::civil::days_from_civil;
use bygone_sink::schema::SchemaColumn;
use bygone_sink::value::{Field, Kind, Status};

use super::lookup::reread;
use super::moment;
use super::value::text;
use crate::error::{Error, Result};

/// A literal that a column is compared with.
#[derive(Debug)]
pub(crate) struct Wanted {
    value: Comparable,
    sort: Sort,
}

/// The digits of a hash.
const HASH: usize = 64;

/// How a column's values compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Number,
    Float,
    Single,
    Bool,
    Date,
    Time,
    ZonedTime,
    /// By bytes.
    Text,
    /// `char(n)`: blanks at the end do not count.
    Padded,
    /// `citext`.
    Folded,
    /// Equal or not, by Postgres' text.
    Exact,
}

/// A value that has an order among its like.
#[derive(Clone, Debug, PartialEq)]
enum Comparable {
    Number(Decimal),
    Float(f64),
    /// Days or microseconds; the infinities at the ends.
    Moment(i128),
    Text(String),
}

impl Wanted {
    /// Reads a literal as a value of a column.
    ///
    /// # Errors
    /// In a sentence, where it is none.
    pub(crate) fn new(column: &SchemaColumn, literal: &str) -> Result<Self> {
        let base = column.column.data_type.base();
        let sort = match &column.kind {
            Kind::Int16
            | Kind::Int32
            | Kind::Int64
            | Kind::Oid
            | Kind::Decimal { .. }
            | Kind::NumericText => Sort::Number,
            Kind::Float32 => Sort::Single,
            Kind::Float64 => Sort::Float,
            Kind::Bool => Sort::Bool,
            Kind::Date => Sort::Date,
            Kind::Timestamp => Sort::Time,
            Kind::Timestamptz => Sort::ZonedTime,
            // The order of hashes is not that of values.
            Kind::Text if column.column.hashed.is_some() => Sort::Exact,
            Kind::Text if base.name == "bpchar" => Sort::Padded,
            Kind::Text if base.name == "citext" => Sort::Folded,
            // An enum's order is that of its labels, which a history does not have.
            Kind::Text if base.schema != "pg_catalog" => Sort::Exact,
            Kind::Text | Kind::Uuid | Kind::Bytes => Sort::Text,
            Kind::Json | Kind::Jsonb | Kind::Printed(_) | Kind::Other | Kind::List(_) => Sort::Exact,
        };
        let as_printed = match &column.kind {
            Kind::Uuid => uuid(literal),
            Kind::Bytes => bytea(literal),
            Kind::List(_) => Some(reread(&column.kind, literal).unwrap_or_else(|| literal.to_owned())),
            _ => Some(literal.to_owned()),
        };
        let value = as_printed.and_then(|text| comparable(sort, &text)).ok_or_else(|| {
            Error::usage(format!("{literal:?} is no value of {} ({})", column.column.name, base.name))
        })?;
        Ok(Self { value, sort })
    }

    pub(crate) fn has_order(&self) -> bool {
        self.sort != Sort::Exact
    }

    /// How a field compares with the literal; none for null and what is not known.
    pub(crate) fn compare(&self, kind: &Kind, field: Field<'_>) -> Option<Ordering> {
        if matches!(field.status, Status::Null | Status::Unknown) {
            return None;
        }
        self.compare_text(&text(kind, field).ok()?)
    }

    /// How a value, as Postgres prints it, compares with the literal; none where it is no value of the column's type.
    fn compare_text(&self, value: &str) -> Option<Ordering> {
        match (&comparable(self.sort, value)?, &self.value) {
            (Comparable::Number(a), Comparable::Number(b)) => Some(a.cmp(b)),
            (Comparable::Float(a), Comparable::Float(b)) => Some(order_of_floats(*a, *b)),
            (Comparable::Moment(a), Comparable::Moment(b)) => Some(a.cmp(b)),
            (Comparable::Text(a), Comparable::Text(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// A value, as Postgres prints it, is the literal.
    pub(crate) fn is_text(&self, value: &str) -> bool {
        self.compare_text(value).is_some_and(Ordering::is_eq)
    }

    /// A field is the literal.
    pub(crate) fn is(&self, kind: &Kind, field: Field<'_>) -> bool {
        self.compare(kind, field).is_some_and(Ordering::is_eq)
    }
}

/// Says that a column holds hashes, where a literal is none: what the value's hash is, nobody knows without the key.
pub(crate) fn tell_of_hashes(column: &SchemaColumn, literal: &str) {
    let is_hash = literal.len() == HASH && literal.bytes().all(|byte| byte.is_ascii_hexdigit());
    if column.column.hashed.is_some() && !is_hash {
        eprintln!(
            "bygone: {} is kept as hashes, and compared as such: bygone hash prints the hash of a value",
            column.column.name
        );
    }
}

/// As Postgres has it: NaN is one value, above all others; the two zeros are equal.
fn order_of_floats(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        _ => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
    }
}

fn comparable(sort: Sort, text: &str) -> Option<Comparable> {
    let infinity = match text.trim().to_ascii_lowercase().as_str() {
        "infinity" => Some(i128::MAX),
        "-infinity" => Some(i128::MIN),
        _ => None,
    };
    Some(match sort {
        Sort::Number => Comparable::Number(Decimal::parse(text)?),
        Sort::Float => Comparable::Float(text.trim().parse().ok()?),
        Sort::Single => Comparable::Float(f64::from(text.trim().parse::<f32>().ok()?)),
        Sort::Bool => Comparable::Moment(match text.trim().to_ascii_lowercase().as_str() {
            "t" | "true" | "yes" | "on" | "1" => 1,
            "f" | "false" | "no" | "off" | "0" => 0,
            _ => return None,
        }),
        Sort::Date | Sort::Time | Sort::ZonedTime if infinity.is_some() => Comparable::Moment(infinity?),
        // As Postgres has it: a date is without its time, and both are without their zone.
        Sort::Date => {
            let instant = Written::parse(text)?.micros;
            Comparable::Moment(instant - instant.rem_euclid(DAY_US))
        }
        Sort::Time => Comparable::Moment(Written::parse(text)?.micros),
        Sort::ZonedTime => Comparable::Moment(Written::parse(text)?.instant(text)?),
        Sort::Text | Sort::Exact => Comparable::Text(text.to_owned()),
        Sort::Padded => Comparable::Text(text.trim_end_matches(' ').to_owned()),
        Sort::Folded => Comparable::Text(text.to_lowercase()),
    })
}

const SECOND_US: i128 = 1_000_000;
const DAY_US: i128 = 86_400 * SECOND_US;

/// A date or a time as it is written, of any year.
struct Written {
    year: i64,
    /// Microseconds since 1970 on the calendar and clock that it was read from.
    micros: i128,
    /// How far that clock is ahead of UTC, in seconds.
    offset: Option<i128>,
}

impl Written {
    /// Reads `2026-11-24`, `2026-11-24T10:00:00.5Z`, `10000-01-01 10:00 BC` and what lies between; the whole text has to be that.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (text, before_christ) = match text.len().checked_sub(3).and_then(|at| text.split_at_checked(at)) {
            Some((rest, era)) if era.eq_ignore_ascii_case(" bc") => (rest, true),
            Some((rest, era)) if era.eq_ignore_ascii_case(" ad") => (rest, false),
            _ => (text, false),
        };
        let mut rest = Digits(text);
        let year = rest.number(4..=7)?;
        // There is no year 0: the one before 1 is 1 BC.
        let year = if before_christ { 1 - year } else { year };
        let month = rest.after('-')?.number(1..=2)?;
        let day = rest.after('-')?.number(1..=2)?;
        if year < 1 && !before_christ {
            return None;
        }
        let days = days_from_civil(year, u32::try_from(month).ok()?, u32::try_from(day).ok()?)?;
        let mut micros = i128::from(days) * DAY_US;
        if rest.0.starts_with([' ', 'T', 't'])
            && !rest.0.trim_start().starts_with(['+', '-', 'Z', 'z', 'U', 'u', 'G', 'g'])
        {
            rest.0 = rest.0.get(1..)?.trim_start();
            micros += rest.clock()?;
        }
        let offset = rest.zone()?;
        Some(Self { year, micros, offset })
    }

    /// The moment. Without a zone it is one of this machine's.
    fn instant(&self, text: &str) -> Option<i128> {
        match self.offset {
            Some(offset) => Some(self.micros - offset * SECOND_US),
            None if (1..=9999).contains(&self.year) => moment::parse_time(text).map(|time| time.0.into()),
            None => Some(self.micros),
        }
    }
}

/// What is left of a text that begins with numbers.
struct Digits<'a>(&'a str);

impl<'a> Digits<'a> {
    fn number(&mut self, digits: std::ops::RangeInclusive<usize>) -> Option<i64> {
        let count = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = self.0.split_at_checked(count).filter(|_| digits.contains(&count))?;
        self.0 = rest;
        number.parse().ok()
    }

    fn after(&mut self, mark: char) -> Option<&mut Self> {
        self.0 = self.0.strip_prefix(mark)?;
        Some(self)
    }

    /// `10:00`, `10:00:00`, `10:00:00.123456`, in microseconds.
    fn clock(&mut self) -> Option<i128> {
        let hour = self.number(1..=2)?;
        let minute = self.after(':')?.number(2..=2)?;
        let second = match self.after(':') {
            Some(rest) => rest.number(2..=2)?,
            None => 0,
        };
        let fraction = match self.after('.') {
            Some(rest) => rest.fraction()?,
            None => 0,
        };
        let micros = i128::from((hour * 60 + minute) * 60 + second) * SECOND_US + fraction;
        (hour <= 24 && minute <= 59 && second <= 60 && micros <= DAY_US).then_some(micros)
    }

    /// Digits of a second's fraction, to the nearest microsecond.
    fn fraction(&mut self) -> Option<i128> {
        let count = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        let tenths: i128 = format!("{digits:0<7}").get(..7)?.parse().ok()?;
        Some((tenths + 5) / 10)
    }

    /// The zone that ends the text: none, or seconds ahead of UTC.
    fn zone(&mut self) -> Option<Option<i128>> {
        let zone = self.0.trim();
        if zone.is_empty() {
            return Some(None);
        }
        if ["z", "utc", "gmt"].contains(&zone.to_ascii_lowercase().as_str()) {
            return Some(Some(0));
        }
        let (ahead, digits) = match zone.split_at_checked(1)? {
            ("+", digits) => (1, digits),
            ("-", digits) => (-1, digits),
            _ => return None,
        };
        let parts: Vec<&str> = match digits.len() {
            4 if !digits.contains(':') => vec![digits.get(..2)?, digits.get(2..)?],
            _ => digits.split(':').collect(),
        };
        let mut seconds = 0;
        for (part, unit) in parts.iter().zip([3_600, 60, 1]) {
            let number = Digits(part).number(1..=2).filter(|_| part.len() <= 2)?;
            seconds += unit * i128::from(number);
        }
        (parts.len() <= 3 && seconds < 16 * 3_600).then_some(Some(ahead * seconds))
    }
}

/// A UUID as Postgres prints it, from any form that it takes: in capitals, in braces, with hyphens after any four digits.
fn uuid(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let inside = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => &text,
    };
    let mut digits = String::with_capacity(36);
    let mut count = 0;
    let mut last = '-';
    for character in inside.chars() {
        if character == '-' {
            if count % 4 != 0 || last == '-' {
                return None;
            }
        } else {
            if !character.is_ascii_hexdigit() {
                return None;
            }
            if [8, 12, 16, 20].contains(&count) {
                digits.push('-');
            }
            digits.push(character);
            count += 1;
        }
        last = character;
    }
    (count == 32 && last != '-').then_some(digits)
}

/// Bytes as Postgres prints them, from its hex or its escape form.
fn bytea(text: &str) -> Option<String> {
    if let Some(hex) = text.strip_prefix("\\x") {
        let digits: String = hex.chars().filter(|character| !character.is_ascii_whitespace()).collect();
        let even = digits.len().is_multiple_of(2) && digits.chars().all(|digit| digit.is_ascii_hexdigit());
        return even.then(|| format!("\\x{}", digits.to_ascii_lowercase()));
    }
    let mut out = String::from("\\x");
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match (byte, after) {
            (b'\\', [b'\\', after @ ..]) => (b'\\', after),
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), after)
            }
            (b'\\', _) => return None,
            other => other,
        };
        out.push_str(&format!("{byte:02x}"));
        rest = after;
    }
    Some(out)
}

/// A number of any size, as its digits.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Decimal {
    NegativeInfinity,
    Finite { negative: bool, whole: String, fraction: String },
    Infinity,
    NaN,
}

impl Decimal {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        match text.to_ascii_lowercase().as_str() {
            "nan" => return Some(Self::NaN),
            "infinity" | "inf" => return Some(Self::Infinity),
            "-infinity" | "-inf" => return Some(Self::NegativeInfinity),
            _ => {}
        }
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !plain(whole) || !plain(fraction) || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let zero = whole.is_empty() && fraction.is_empty();
        Some(Self::Finite {
            negative: negative && !zero,
            whole: whole.to_owned(),
            fraction: fraction.to_owned(),
        })
    }

    fn rank(&self) -> u8 {
        match self {
            Self::NegativeInfinity => 0,
            Self::Finite { .. } => 1,
            Self::Infinity => 2,
            Self::NaN => 3,
        }
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (
                Self::Finite { negative: a, whole: whole_a, fraction: fraction_a },
                Self::Finite { negative: b, whole: whole_b, fraction: fraction_b },
            ) => {
                let size = (whole_a.len(), whole_a, fraction_a).cmp(&(whole_b.len(), whole_b, fraction_b));
                match (a, b) {
                    (false, false) => size,
                    (true, true) => size.reverse(),
                    (true, false) => Ordering::Less,
                    (false, true) => Ordering::Greater,
                }
            }
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_whole_and_of_any_year() {
        let time = |text| comparable(Sort::Time, text).map(|value| format!("{value:?}"));
        let ten = time("2026-11-24 10:00:00");
        assert!(ten.is_some());
        for same in [
            "2026-11-24T10:00:00Z",
            "2026-11-24 10:00",
            "2026-11-24 10:00:00+05:30",
            " 2026-11-24 10:00:00.0000001 UTC",
            "2026-11-24 10:00:00 -08",
            "2026-11-24 10:00 AD",
        ] {
            assert_eq!(time(same), ten, "{same}");
        }
        for wrong in [
            "",
            "2026",
            "2026-11",
            "2026-13-01",
            "2026-02-30",
            "1900-02-29",
            "0000-01-01",
            "2026-nonsense",
            "2026-11-24 25:00",
            "2026-11-24 24:00:01",
            "2026-11-24 10:60",
            "2026-11-24 10:00 Europe/Berlin",
            "2026-11-24 10:00+99",
            "2026-11-24 10:00+00:00:00:00",
            "2026-11-24x",
            "26-11-24",
        ] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
        let zoned = |text| comparable(Sort::ZonedTime, text);
        assert_eq!(zoned("2026-11-24 10:00:00+00"), zoned("2026-11-24T15:30:00+0530"));
        assert_eq!(
            zoned("2026-11-24"),
            moment::parse_time("2026-11-24").map(|time| Comparable::Moment(time.0.into()))
        );
        assert_eq!(comparable(Sort::Date, "2026-11-24 10:00"), comparable(Sort::Date, "2026-11-24"));
        let order = [
            "-infinity",
            "4714-11-24 BC",
            "0044-03-15 BC",
            "0044-03-16 BC",
            "0001-12-31 BC",
            "0001-01-01",
            "1969-12-31",
            "1970-01-01",
            "2000-02-29",
            "9999-12-31",
            "10000-01-01",
            "10000-12-31",
            "5874897-12-31",
            "infinity",
        ];
        let moment = |text: &&str| match comparable(Sort::Date, text) {
            Some(Comparable::Moment(moment)) => moment,
            other => panic!("{text}: {other:?}"),
        };
        let moments: Vec<i128> = order.iter().map(moment).collect();
        assert!(moments.is_sorted_by(|a, b| a < b), "{moments:?}");
        // `select date '0001-01-01' - date '1970-01-01', date '4714-11-24 BC' - date '1970-01-01', date '5874897-12-31' - date '1970-01-01'`
        for (text, days) in
            [("0001-01-01", -719_162), ("4714-11-24 BC", -2_440_588), ("5874897-12-31", 2_145_042_905)]
        {
            assert_eq!(moment(&text), days * DAY_US, "{text}");
        }
    }

    #[test]
    fn uuids_and_bytes_are_taken_in_every_form_that_postgres_takes() {
        let id = Some("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".to_owned());
        for form in [
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        ] {
            assert_eq!(uuid(form), id, "{form}");
        }
        for wrong in [
            "",
            "no uuid",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a-0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11-",
        ] {
            assert_eq!(uuid(wrong), None, "{wrong}");
        }
        let bytes = |text| bytea(text);
        assert_eq!(bytes(r"\xDE ad"), Some(r"\xdead".to_owned()));
        assert_eq!(bytes(r"a\\\000\377"), Some(r"\x615c00ff".to_owned()));
        assert_eq!(bytes(""), Some(r"\x".to_owned()));
        for wrong in [r"\xa", r"\xzz", r"\9", r"\400", r"a\"] {
            assert_eq!(bytea(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn numbers_of_any_size_have_their_order() {
        let order = [
            "-Infinity",
            "-123456789012345678901234567890.5",
            "-10",
            "-9.5",
            "-0.1",
            "0",
            "0.09",
            "0.1",
            "0.11",
            "9",
            "10",
            "10.000000000000000000000000000000000001",
            "123456789012345678901234567890",
            "Infinity",
            "NaN",
        ];
        let parsed: Vec<Decimal> = order.iter().map(|text| Decimal::parse(text).unwrap()).collect();
        assert!(parsed.windows(2).all(|pair| pair[0] < pair[1]), "{parsed:?}");
        for (a, b) in [("1.0", "1.000"), ("-0", "0.0"), ("007", "7"), (".5", "0.5"), ("+1", "1.")] {
            assert_eq!(Decimal::parse(a), Decimal::parse(b), "{a} {b}");
        }
        for wrong in ["", ".", "-", "1e5", "1,5", "a"] {
            assert!(Decimal::parse(wrong).is_none(), "{wrong}");
        }
    }
}
