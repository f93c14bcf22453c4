//! Values as the text that Postgres prints under the session settings of [18].

use std::fmt::Write as _;

use super::array::put_element;
use super::float;
use super::kind::Kind;
use super::numeric::render_decimal;
use super::row::{Field, RowError, Status};
use crate::civil::civil_from_days;

#[inline]
fn integer(value: impl itoa::Integer, out: &mut String) -> std::fmt::Result {
    out.push_str(itoa::Buffer::new().format(value));
    Ok(())
}

/// Appends the text of a value: what `column::text` gives in Postgres.
///
/// A null or unknown field appends nothing: ask its status.
///
/// # Errors
/// When the field is damaged.
pub fn render(kind: &Kind, field: Field<'_>, out: &mut String) -> Result<(), RowError> {
    match field.status {
        Status::Null | Status::Unknown => return Ok(()),
        Status::Raw => {
            out.push_str(field.text()?);
            return Ok(());
        }
        // Its value is not here.
        Status::Large => return Err(RowError),
        Status::Value => {}
    }
    // Writing to a String does not fail.
    let _ = match kind {
        Kind::Text | Kind::Json | Kind::Jsonb | Kind::NumericText | Kind::Other | Kind::Printed(_) => {
            out.push_str(field.text()?);
            Ok(())
        }
        Kind::Bool => {
            out.push(if field.array()? == [1] { 't' } else { 'f' });
            Ok(())
        }
        Kind::Int16 => integer(i16::from_le_bytes(field.array()?), out),
        Kind::Int32 => integer(i32::from_le_bytes(field.array()?), out),
        Kind::Int64 => integer(i64::from_le_bytes(field.array()?), out),
        Kind::Oid => integer(u32::from_le_bytes(field.array()?), out),
        Kind::Float32 => {
            float::single(f32::from_le_bytes(field.array()?), out);
            Ok(())
        }
        Kind::Float64 => {
            float::double(f64::from_le_bytes(field.array()?), out);
            Ok(())
        }
        Kind::Uuid => {
            uuid(field.array()?, out);
            Ok(())
        }
        Kind::Bytes => {
            out.push_str(&hex(field.bytes()));
            Ok(())
        }
        Kind::Date => {
            let (day, era) = date(i64::from(i32::from_le_bytes(field.array()?)));
            write!(out, "{day}{era}")
        }
        Kind::Timestamp => {
            timestamp(i64::from_le_bytes(field.array()?).into(), false, out);
            Ok(())
        }
        Kind::Timestamptz => {
            timestamp(i64::from_le_bytes(field.array()?).into(), true, out);
            Ok(())
        }
        Kind::Decimal { scale, .. } => {
            render_decimal(field.decimal()?, *scale, out);
            Ok(())
        }
        Kind::List(element) => {
            list(element, field, out)?;
            Ok(())
        }
    };
    Ok(())
}

/// `bytea` in hex form.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2 + 2);
    out.push_str("\\x");
    push_hex(bytes, &mut out);
    out
}

/// Appends two digits for each byte.
pub(crate) fn push_hex(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        let pair = HEX_PAIRS.get(usize::from(*byte)).copied().unwrap_or_default();
        out.extend(pair.map(char::from));
    }
}

/// The two digits of every byte.
const HEX_PAIRS: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

/// The text of a UUID.
#[inline]
pub(crate) fn uuid_text(bytes: [u8; 16]) -> [u8; 36] {
    /// Where the digits of each byte stand.
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let mut text = [b'-'; 36];
    // The compiler sees that all of them exist, and leaves nothing but sixteen look-ups: each fact has such an id.
    for (place, byte) in PLACES.into_iter().zip(bytes) {
        if let (Some(slot), Some(pair)) = (text.get_mut(place..place + 2), HEX_PAIRS.get(usize::from(byte))) {
            slot.copy_from_slice(pair);
        }
    }
    text
}

/// Appends the text of a UUID.
#[inline]
pub(crate) fn uuid(bytes: [u8; 16], out: &mut String) {
    // ASCII throughout.
    out.push_str(std::str::from_utf8(&uuid_text(bytes)).unwrap_or_default());
}

fn date(days: i64) -> (String, &'static str) {
    let (year, month, day) = civil_from_days(days);
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    (format!("{year:04}-{month:02}-{day:02}"), era)
}

/// Appends the text of a count of microseconds since the Unix epoch.
pub(super) fn timestamp(us: i128, zone: bool, out: &mut String) {
    let days = us.div_euclid(86_400_000_000);
    let of_day = us.rem_euclid(86_400_000_000);
    let (day, era) = date(i64::try_from(days).unwrap_or(i64::MAX));
    let seconds = of_day / 1_000_000;
    let _ = write!(out, "{day} {:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let micros = of_day % 1_000_000;
    if micros != 0 {
        let fraction = format!("{micros:06}");
        let _ = write!(out, ".{}", fraction.trim_end_matches('0'));
    }
    if zone {
        out.push_str("+00");
    }
    out.push_str(era);
}

fn list(element: &Kind, field: Field<'_>, out: &mut String) -> Result<(), RowError> {
    out.push('{');
    let mut item = String::new();
    for (at, value) in field.elements(element).enumerate() {
        if at > 0 {
            out.push(',');
        }
        let Some(value) = value? else {
            out.push_str("NULL");
            continue;
        };
        item.clear();
        render(element, value, &mut item)?;
        put_element(&item, out);
    }
    out.push('}');
    Ok(())
}
