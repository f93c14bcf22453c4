//! Values as people and programs read them: Postgres' text, and JSON.

use std::fmt::Write as _;

use bygone_sink::value::{Field, Kind, Row, RowError, Status, render};

use super::sheet::{Cell, json_string};

/// The largest whole number up to which a double holds every one.
const EXACT: u64 = 1 << 53;

/// The fields of a row.
pub(crate) fn fields<'a>(row: &'a [u8], kinds: &[Kind]) -> Result<Vec<Field<'a>>, RowError> {
    Row::new(row, kinds).fields().collect()
}

/// A value as a cell.
pub(crate) fn cell(kind: &Kind, field: Field<'_>) -> Result<Cell, RowError> {
    Ok(match field.status {
        Status::Null => Cell::Null,
        Status::Unknown => Cell::Unknown,
        Status::Raw => Cell::Text(field.text()?.to_owned()),
        Status::Value => {
            let text = text(kind, field)?;
            match json(kind, field, &text)? {
                Some(json) => Cell::Value { text, json },
                None => Cell::Text(text),
            }
        }
    })
}

/// What `column::text` gives in Postgres; empty for null.
pub(crate) fn text(kind: &Kind, field: Field<'_>) -> Result<String, RowError> {
    let mut out = String::new();
    match (kind, field.status) {
        (Kind::Float32 | Kind::Float64, Status::Value) => out = float(kind, field)?,
        (Kind::List(element), Status::Value) if matches!(**element, Kind::Float32 | Kind::Float64) => {
            out.push('{');
            for (at, item) in field.elements(element).enumerate() {
                if at > 0 {
                    out.push(',');
                }
                match item? {
                    Some(item) => out.push_str(&float(element, item)?),
                    None => out.push_str("NULL"),
                }
            }
            out.push('}');
        }
        _ => render(kind, field, &mut out)?,
    }
    Ok(out)
}

/// A number as Postgres prints a `double precision`, or a `real` (`single`).
pub(crate) fn float_text(value: f64, single: bool) -> String {
    if single {
        // The nearest `real` is the one that was widened.
        #[expect(clippy::cast_possible_truncation, reason = "it was a real before")]
        let narrow = value as f32;
        shortest(&format!("{narrow:e}"), value, 6)
    } else {
        shortest(&format!("{value:e}"), value, 15)
    }
}

fn float(kind: &Kind, field: Field<'_>) -> Result<String, RowError> {
    Ok(match kind {
        Kind::Float32 => {
            let value = f32::from_le_bytes(field.array()?);
            shortest(&format!("{value:e}"), f64::from(value), 6)
        }
        _ => {
            let value = f64::from_le_bytes(field.array()?);
            shortest(&format!("{value:e}"), value, 15)
        }
    })
}

/// The shortest digits that read back as the same value, laid out as Postgres does: with an exponent from
/// 10^`wide` on and below 10^-4 (`float8out`, `ryu`).
fn shortest(scientific: &str, value: f64, wide: i32) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let mut out = sign.to_owned();
    if exponent < -4 || exponent >= wide {
        let _ = write!(out, "{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    } else if exponent < 0 {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', usize::try_from(-exponent - 1).unwrap_or(0)));
        out.push_str(&digits);
    } else {
        let whole = usize::try_from(exponent).unwrap_or(0) + 1;
        let (before, after) = digits.split_at_checked(whole).unwrap_or((&digits, ""));
        out.push_str(before);
        out.extend(std::iter::repeat_n('0', whole.saturating_sub(digits.len())));
        if !after.is_empty() {
            out.push('.');
            out.push_str(after);
        }
    }
    out
}

/// The value as JSON, where that is not its text as a string. What a double does not hold exactly stays a string.
fn json(kind: &Kind, field: Field<'_>, text: &str) -> Result<Option<String>, RowError> {
    Ok(match kind {
        Kind::Bool => Some((if text == "t" { "true" } else { "false" }).to_owned()),
        Kind::Int16 | Kind::Int32 | Kind::Oid => Some(text.to_owned()),
        Kind::Int64 => {
            let value = i64::from_le_bytes(field.array()?);
            (value.unsigned_abs() <= EXACT).then(|| text.to_owned())
        }
        // The text of a finite float is JSON as it is.
        Kind::Float32 | Kind::Float64 => {
            text.ends_with(|c: char| c.is_ascii_digit()).then(|| text.to_owned())
        }
        Kind::Json | Kind::Jsonb => Some(text.to_owned()),
        Kind::Timestamp => Some(json_string(&text.replacen(' ', "T", 1))),
        Kind::Timestamptz => Some(json_string(&rfc_3339(text))),
        Kind::List(element) => {
            let mut out = String::from("[");
            for (at, item) in field.elements(element).enumerate() {
                if at > 0 {
                    out.push(',');
                }
                match item? {
                    None => out.push_str("null"),
                    Some(item) => match cell(element, item)? {
                        Cell::Value { json, .. } => out.push_str(&json),
                        Cell::Text(text) => out.push_str(&json_string(&text)),
                        _ => out.push_str("null"),
                    },
                }
            }
            out.push(']');
            Some(out)
        }
        _ => None,
    })
}

/// `2026-11-23 10:00:00+00` as `2026-11-23T10:00:00+00:00`; years before Christ stay as Postgres writes them.
fn rfc_3339(text: &str) -> String {
    match text.strip_suffix("+00") {
        Some(moment) => format!("{}+00:00", moment.replacen(' ', "T", 1)),
        None => text.to_owned(),
    }
}

/// A moment as Postgres prints a `timestamptz` in UTC.
pub(crate) fn moment(at: bygone_sink::timestamp::Timestamp) -> String {
    let text = at.to_string();
    let Some((day, time)) = text.split_once('T') else { return text };
    let time = time.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.');
    format!("{day} {time}+00")
}

/// A moment as a cell: RFC 3339 in JSON.
pub(crate) fn moment_cell(at: bygone_sink::timestamp::Timestamp) -> Cell {
    Cell::Value { text: moment(at), json: json_string(&at.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bygone_sink::timestamp::Timestamp;

    #[test]
    fn floats_are_laid_out_as_postgres_does() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (123_456_789_012_345.0, "123456789012345"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (1.25e300, "1.25e+300"),
            (5e-324, "5e-324"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(shortest(&format!("{value:e}"), value, 15), text);
        }
        assert_eq!(shortest(&format!("{:e}", 1e6f32), 1e6, 6), "1e+06");
        assert_eq!(shortest(&format!("{:e}", 123_456f32), 123_456.0, 6), "123456");
    }

    #[test]
    fn moments_end_where_their_digits_do() {
        assert_eq!(moment(Timestamp(0)), "1970-01-01 00:00:00+00");
        assert_eq!(moment(Timestamp(1_500_000)), "1970-01-01 00:00:01.5+00");
        assert_eq!(moment(Timestamp(10_000_000)), "1970-01-01 00:00:10+00");
    }
}
