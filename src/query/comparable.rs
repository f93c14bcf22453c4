//! Literals, and how the values of a column compare with them: as Postgres does, for each type.

use std::cmp::Ordering;

use bygone_sink::schema::SchemaColumn;
use bygone_sink::value::{Field, Kind, Status};

use super::moment;
use super::value::text;
use crate::error::{Error, Result};

/// A literal that a column is compared with.
#[derive(Debug)]
pub(crate) struct Wanted {
    value: Comparable,
    sort: Sort,
}

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
        let literal = if matches!(column.kind, Kind::Uuid | Kind::Bytes) {
            &literal.to_ascii_lowercase()
        } else {
            literal
        };
        let value = comparable(sort, literal).ok_or_else(|| {
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
        let value = comparable(self.sort, &text(kind, field).ok()?)?;
        match (&value, &self.value) {
            (Comparable::Number(a), Comparable::Number(b)) => Some(a.cmp(b)),
            (Comparable::Float(a), Comparable::Float(b)) => Some(order_of_floats(*a, *b)),
            (Comparable::Moment(a), Comparable::Moment(b)) => Some(a.cmp(b)),
            (Comparable::Text(a), Comparable::Text(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// A field is the literal.
    pub(crate) fn is(&self, kind: &Kind, field: Field<'_>) -> bool {
        self.compare(kind, field).is_some_and(Ordering::is_eq)
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
        // A day is its first instant.
        Sort::Date | Sort::Time => Comparable::Moment(
            moment::parse_local_time(text).map_or_else(|| far(text), |us| Some(us.into()))?,
        ),
        Sort::ZonedTime => Comparable::Moment(
            moment::parse_time(text).map_or_else(|| far(text), |time| Some(time.0.into()))?,
        ),
        Sort::Text | Sort::Exact => Comparable::Text(text.to_owned()),
        Sort::Padded => Comparable::Text(text.trim_end_matches(' ').to_owned()),
        Sort::Folded => Comparable::Text(text.to_lowercase()),
    })
}

/// Years beyond four digits, or before Christ: in order by the year alone.
fn far(text: &str) -> Option<i128> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    let year: i128 = digits.parse().ok()?;
    let rest = text.get(digits.len()..)?;
    let year = if rest.ends_with(" BC") { 1 - year } else { year };
    (digits.len() >= 4 && rest.starts_with('-')).then_some((year - 1970) * 31_556_952_000_000)
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
