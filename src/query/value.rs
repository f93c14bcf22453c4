//! Values as people and programs read them: Postgres' text, and JSON.

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
        Status::Value | Status::Large => {
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
    render(kind, field, &mut out)?;
    Ok(out)
}

/// The value as JSON, where that is not its text as a string. What a double does not hold exactly stays a string.
pub(crate) fn json(kind: &Kind, field: Field<'_>, text: &str) -> Result<Option<String>, RowError> {
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
    fn moments_end_where_their_digits_do() {
        assert_eq!(moment(Timestamp(0)), "1970-01-01 00:00:00+00");
        assert_eq!(moment(Timestamp(1_500_000)), "1970-01-01 00:00:01.5+00");
        assert_eq!(moment(Timestamp(10_000_000)), "1970-01-01 00:00:10+00");
    }
}
