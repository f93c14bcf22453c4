//! Values from Postgres' output text (session settings of [18]).

use super::ValueError;
use super::kind::Kind;
use super::numeric::{Parsed, parse_decimal};
use super::printed::Printed;
use super::row::{ListBuilder, RowBuilder};
use crate::civil::days_from_civil;

pub(super) fn read(kind: &Kind, bytes: &[u8], row: &mut RowBuilder) -> Result<(), ValueError> {
    match kind {
        // The bare byte is what PostgreSQL 14 prints where later ones print octal digits.
        Kind::Printed(Printed::Char) => match bytes {
            [byte @ 0x80..=0xFF] => row.variable(format!("\\{byte:03o}").as_bytes()),
            _ => put_text(bytes, row),
        },
        Kind::Text | Kind::Json | Kind::Jsonb | Kind::NumericText | Kind::Other | Kind::Printed(_) => {
            put_text(bytes, row);
        }
        Kind::Bool => match bytes {
            b"t" => row.fixed([1]),
            b"f" => row.fixed([0]),
            _ => return Err(ValueError::Text("boolean")),
        },
        Kind::Int16 => row.fixed(integer::<i16>(bytes, "smallint")?.to_le_bytes()),
        Kind::Int32 => row.fixed(integer::<i32>(bytes, "integer")?.to_le_bytes()),
        Kind::Int64 => row.fixed(integer::<i64>(bytes, "bigint")?.to_le_bytes()),
        Kind::Oid => row.fixed(integer::<u32>(bytes, "oid")?.to_le_bytes()),
        Kind::Float32 => row.fixed(float::<f32>(bytes)?.to_bits().to_le_bytes()),
        Kind::Float64 => row.fixed(float::<f64>(bytes)?.to_bits().to_le_bytes()),
        Kind::Uuid => row.fixed(uuid(bytes)?),
        Kind::Bytes => {
            let hex = bytes.strip_prefix(b"\\x").ok_or(ValueError::Text("bytea"))?;
            let (pairs, []) = hex.as_chunks::<2>() else { return Err(ValueError::Text("bytea")) };
            let mut value = Vec::with_capacity(pairs.len());
            for [high, low] in pairs {
                value.push(
                    nibble(*high).ok_or(ValueError::Text("bytea"))? << 4
                        | nibble(*low).ok_or(ValueError::Text("bytea"))?,
                );
            }
            row.variable(&value);
        }
        Kind::Date => match date(bytes) {
            Some(days) => row.fixed(days.to_le_bytes()),
            None => raw(bytes, row, is_infinity(bytes), "date")?,
        },
        Kind::Timestamp => match timestamp(bytes) {
            Some(Moment { us: Some(us), zoned: false }) => row.fixed(us.to_le_bytes()),
            Some(Moment { us: None, .. }) => raw(bytes, row, true, "timestamp")?,
            _ => raw(bytes, row, is_infinity(bytes), "timestamp")?,
        },
        Kind::Timestamptz => match timestamp(bytes) {
            Some(Moment { us: Some(us), zoned: true }) => row.fixed(us.to_le_bytes()),
            Some(Moment { us: None, .. }) => raw(bytes, row, true, "timestamptz")?,
            _ => raw(bytes, row, is_infinity(bytes), "timestamptz")?,
        },
        Kind::Decimal { precision, scale } => match parse_decimal(bytes, *precision, *scale) {
            Parsed::Digits(digits) => row.decimal(digits),
            Parsed::NotHeld => raw(bytes, row, true, "numeric")?,
            Parsed::NotNumeric => return Err(ValueError::Text("numeric")),
        },
        Kind::List(element) => list(element, bytes, row)?,
    }
    Ok(())
}

/// Text as it is; bytes that are not UTF-8 (an SQL_ASCII database) as the hex form of `bytea`, marked raw.
#[inline]
pub(super) fn put_text(bytes: &[u8], row: &mut RowBuilder) {
    // Short texts are mostly ASCII, which is sooner told than that they are UTF-8.
    if bytes.is_ascii() || std::str::from_utf8(bytes).is_ok() {
        row.variable(bytes);
    } else {
        row.raw(&super::render::hex(bytes));
    }
}

/// The text of a value that its kind cannot hold; bytes that are not UTF-8 in hex.
pub(super) fn put_raw(bytes: &[u8], row: &mut RowBuilder) {
    match std::str::from_utf8(bytes) {
        Ok(text) => row.raw(text),
        Err(_) => row.raw(&super::render::hex(bytes)),
    }
}

/// The exact text, where it is one that the kind cannot hold; else an error.
fn raw(bytes: &[u8], row: &mut RowBuilder, known: bool, what: &'static str) -> Result<(), ValueError> {
    let text = std::str::from_utf8(bytes).ok().filter(|_| known).ok_or(ValueError::Text(what))?;
    row.raw(text);
    Ok(())
}

fn is_infinity(bytes: &[u8]) -> bool {
    matches!(bytes, b"infinity" | b"-infinity")
}

/// An integer as Postgres prints it: digits with at most a minus sign.
fn integer<T: TryFrom<i64>>(bytes: &[u8], what: &'static str) -> Result<T, ValueError> {
    let parse = || {
        let (digits, negative) = match bytes.strip_prefix(b"-") {
            Some(digits) => (digits, true),
            None => (bytes, false),
        };
        if digits.is_empty() || digits.len() > 19 {
            return None;
        }
        let mut value = 0i64;
        for digit in digits {
            let digit = i64::from(digit.wrapping_sub(b'0'));
            if digit > 9 {
                return None;
            }
            // Below zero, because the smallest bigint has no positive counterpart.
            value = value.checked_mul(10)?.checked_sub(digit)?;
        }
        T::try_from(if negative { value } else { value.checked_neg()? }).ok()
    };
    parse().ok_or(ValueError::Text(what))
}

fn float<T: std::str::FromStr>(bytes: &[u8]) -> Result<T, ValueError> {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or(ValueError::Text("float"))
}

pub(super) const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn uuid(bytes: &[u8]) -> Result<[u8; 16], ValueError> {
    let parse = || {
        let [a, b, c, d, e, f, g, h, b'-', i, j, k, l, b'-', m, n, o, p, b'-', q, r, s, t, b'-', rest @ ..] =
            bytes
        else {
            return None;
        };
        let head = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t];
        let mut made = [0; 16];
        let mut digits = head.into_iter().chain(rest);
        if rest.len() != 12 {
            return None;
        }
        for byte in &mut made {
            *byte = nibble(*digits.next()?)? << 4 | nibble(*digits.next()?)?;
        }
        Some(made)
    };
    parse().ok_or(ValueError::Text("uuid"))
}

/// The most digits that any part of a date or time has is seven (a year); below a thousand million, what is reckoned
/// from them fits 64 bits.
const MOST_DIGITS: usize = 9;

/// Takes decimal digits off the front: their value and how many there were.
fn number(bytes: &mut &[u8]) -> Option<(i64, usize)> {
    let mut value = 0i64;
    let mut count = 0;
    while let [digit @ b'0'..=b'9', rest @ ..] = *bytes {
        value = value * 10 + i64::from(digit - b'0');
        count += 1;
        if count > MOST_DIGITS {
            return None;
        }
        *bytes = rest;
    }
    (count > 0).then_some((value, count))
}

fn literal(bytes: &mut &[u8], wanted: u8) -> Option<()> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    (*first == wanted).then_some(())
}

/// `2026-11-24`, of a year of four digits or more.
fn date_part(bytes: &mut &[u8]) -> Option<(i64, u32, u32)> {
    let (year, digits) = number(bytes)?;
    literal(bytes, b'-')?;
    let (month, _) = number(bytes)?;
    literal(bytes, b'-')?;
    let (day, _) = number(bytes)?;
    (digits >= 4).then_some(())?;
    Some((year, u32::try_from(month).ok()?, u32::try_from(day).ok()?))
}

/// `… BC`: the year 44 BC is the year -43 of the count with a year 0.
fn era(bytes: &[u8], year: i64) -> Option<i64> {
    match bytes {
        b"" => Some(year),
        b" BC" => Some(1 - year),
        _ => None,
    }
}

fn date(mut bytes: &[u8]) -> Option<i32> {
    let (year, month, day) = date_part(&mut bytes)?;
    i32::try_from(days_from_civil(era(bytes, year)?, month, day)?).ok()
}

/// A timestamp that was read.
struct Moment {
    /// Microseconds since the Unix epoch; `None` past 294247-01-10, where 64 bits end [52].
    us: Option<i64>,
    /// It came with an offset from UTC.
    zoned: bool,
}

fn timestamp(mut bytes: &[u8]) -> Option<Moment> {
    let rest = &mut bytes;
    let (year, month, day) = date_part(rest)?;
    literal(rest, b' ')?;
    let (hour, _) = number(rest)?;
    literal(rest, b':')?;
    let (minute, _) = number(rest)?;
    literal(rest, b':')?;
    let (second, _) = number(rest)?;
    let mut micros = 0;
    if rest.first() == Some(&b'.') {
        literal(rest, b'.')?;
        let (fraction, digits) = number(rest)?;
        micros = fraction.checked_mul(10i64.checked_pow(6u32.checked_sub(u32::try_from(digits).ok()?)?)?)?;
    }
    let mut offset = 0;
    let sign = rest.first().copied().filter(|sign| matches!(sign, b'+' | b'-'));
    if let Some(sign) = sign {
        literal(rest, sign)?;
        offset = number(rest)?.0.checked_mul(3600)?;
        for unit in [60, 1] {
            if rest.first() == Some(&b':') {
                literal(rest, b':')?;
                offset += number(rest)?.0.checked_mul(unit)?;
            }
        }
        if sign == b'-' {
            offset = -offset;
        }
    }
    let days = days_from_civil(era(rest, year)?, month, day)?;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    let us = seconds.checked_mul(1_000_000).and_then(|us| us.checked_add(micros));
    Some(Moment { us, zoned: sign.is_some() })
}

/// `{1,NULL,"a b"}`. Several dimensions and other lower bounds are kept as text, and so are lists with an element that the
/// kind cannot hold.
fn list(element: &Kind, bytes: &[u8], row: &mut RowBuilder) -> Result<(), ValueError> {
    const WRONG: ValueError = ValueError::Text("array");
    let Some(mut rest) = bytes.strip_prefix(b"{") else {
        // `[0:1]={7,8}`
        if bytes.first() != Some(&b'[') {
            return Err(WRONG);
        }
        put_raw(bytes, row);
        return Ok(());
    };
    let mut whole = true;
    let mut made = ListBuilder::new();
    let mut one = RowBuilder::default();
    let mut unquoted = Vec::new();
    if rest == b"}" {
        made.finish(row);
        return Ok(());
    }
    loop {
        let (item, quoted) = match rest.first() {
            Some(b'{') => {
                put_raw(bytes, row);
                return Ok(());
            }
            Some(b'"') => {
                unquoted.clear();
                rest = unquote(rest.get(1..).ok_or(WRONG)?, &mut unquoted).ok_or(WRONG)?;
                (unquoted.as_slice(), true)
            }
            _ => {
                let end = rest.iter().position(|byte| matches!(byte, b',' | b'}')).ok_or(WRONG)?;
                let (item, after) = rest.split_at_checked(end).ok_or(WRONG)?;
                rest = after;
                (item, false)
            }
        };
        if !quoted && item == b"NULL" {
            made.null();
        } else {
            one.start(1);
            read(element, item, &mut one)?;
            whole = whole && made.element(element, &one)?;
        }
        match rest {
            [b',', after @ ..] => rest = after,
            [b'}'] => break,
            _ => return Err(WRONG),
        }
    }
    if whole {
        made.finish(row);
    } else {
        put_raw(bytes, row);
    }
    Ok(())
}

/// Reads up to the closing quote; what follows it is returned.
fn unquote<'a>(mut bytes: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match bytes {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', escaped, rest @ ..] => {
                out.push(*escaped);
                bytes = rest;
            }
            [byte, rest @ ..] => {
                out.push(*byte);
                bytes = rest;
            }
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Row, Status, render};
    use super::*;

    fn round(kind: &Kind, text: &str) -> (Status, String) {
        let mut row = RowBuilder::default();
        row.start(1);
        read(kind, text.as_bytes(), &mut row).unwrap_or_else(|error| panic!("{kind:?} {text}: {error}"));
        let kinds = [kind.clone()];
        let field = Row::new(row.bytes(), &kinds).fields().next().unwrap().unwrap();
        let mut shown = String::new();
        render(kind, field, &mut shown).unwrap();
        (field.status, shown)
    }

    #[test]
    fn values_come_back_as_the_text_they_were() {
        let decimal = Kind::Decimal { precision: 38, scale: 10 };
        let list = |kind: Kind| Kind::List(Box::new(kind));
        for (kind, texts) in [
            (Kind::Bool, vec!["t", "f"]),
            (Kind::Int16, vec!["-32768", "32767", "0"]),
            (Kind::Int64, vec!["-9223372036854775808", "9223372036854775807"]),
            (Kind::Oid, vec!["4294967295"]),
            (Kind::Uuid, vec!["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
            (Kind::Bytes, vec!["\\x", "\\x00ff"]),
            (Kind::Date, vec!["2026-11-24", "0044-03-15 BC", "4714-11-24 BC", "5874897-12-31", "0001-01-01"]),
            (
                Kind::Timestamp,
                vec![
                    "2026-11-24 02:55:58.123456",
                    "2026-11-24 02:55:58",
                    "1969-12-31 23:59:59.5",
                    "0044-03-15 12:00:00 BC",
                    "294247-01-10 04:00:54.775807",
                ],
            ),
            (Kind::Timestamptz, vec!["2026-11-24 02:55:58.1+00", "0044-03-15 12:00:00+00 BC"]),
            (decimal, vec!["-0.0000000001", "9999999999999999999999999999.9999999999", "0.0000000000"]),
            (list(Kind::Int32), vec!["{}", "{1,NULL,-3}"]),
            (list(Kind::Text), vec![r#"{NULL,"NULL","a,b","q\"","\\",plain,""}"#, "{\" \",é}"]),
            (list(Kind::Date), vec!["{2026-11-24}"]),
            (Kind::Printed(Printed::Char), vec!["x", "", "\\310"]),
        ] {
            for text in texts {
                assert_eq!(round(&kind, text), (Status::Value, text.to_owned()), "{kind:?}");
            }
        }
    }

    #[test]
    fn what_a_kind_cannot_hold_is_kept_as_text() {
        let list = Kind::List(Box::new(Kind::Int32));
        for (kind, text) in [
            (Kind::Date, "infinity"),
            (Kind::Timestamp, "-infinity"),
            (Kind::Timestamptz, "infinity"),
            (Kind::Timestamp, "294276-12-31 23:59:59.999999"),
            (Kind::Timestamp, "294247-01-10 04:00:54.775808"),
            (Kind::Decimal { precision: 20, scale: 6 }, "NaN"),
            (list.clone(), "{{1,2},{3,4}}"),
            (list, "[0:1]={7,8}"),
            (Kind::List(Box::new(Kind::Date)), "{2026-11-24,infinity}"),
        ] {
            assert_eq!(round(&kind, text), (Status::Raw, text.to_owned()), "{kind:?}");
        }
    }

    #[test]
    fn other_text_is_an_error() {
        for (kind, texts) in [
            (Kind::Bool, &["", "true"][..]),
            (Kind::Int16, &["32768", "", "-", "1 ", "+1", "0x1"]),
            (Kind::Int64, &["9223372036854775808", "99999999999999999999"]),
            (Kind::Uuid, &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1", "a0eebc999c0b4ef8bb6d6bb9bd380a11"]),
            (Kind::Bytes, &["", "\\x0", "\\xzz", "00"]),
            (Kind::Date, &["", "2026-13-01", "2026-02-30", "26-01-01", "2026-01-01 AD"]),
            (Kind::Timestamp, &["2026-01-01", "2026-01-01 00:00:00+00", "2026-01-01T00:00:00"]),
            (Kind::Date, &["9223372036854775807-01-01", "-1-01-01", "2026-9223372036854775807-01"]),
            (
                Kind::Timestamptz,
                &[
                    "9223372036854775807-01-01 00:00:00+00",
                    "2026-01-01 9223372036854775807:00:00+00",
                    "2026-01-01 00:9223372036854775807:00+00",
                    "2026-01-01 00:00:00+9223372036854775807",
                    "2026-01-01 00:00:00.9223372036854775807+00",
                ],
            ),
            (Kind::Decimal { precision: 5, scale: 2 }, &["", "1.2.3", "abc"]),
            (Kind::List(Box::new(Kind::Int32)), &["", "{1", "{1,}x", "{a}", "{\"1}"]),
        ] {
            for text in texts {
                let mut row = RowBuilder::default();
                row.start(1);
                assert!(read(&kind, text.as_bytes(), &mut row).is_err(), "{kind:?} {text:?}");
            }
        }
    }
}
