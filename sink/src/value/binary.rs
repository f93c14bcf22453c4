//! Values from Postgres' binary format, as each type's `send` function writes them.

use bygone_replication::pgoutput::{Cell, POSTGRES_EPOCH_US};

use super::ValueError;
use super::kind::Kind;
use super::numeric::{Binary, Parsed};
use super::row::{ListBuilder, RowBuilder};
use super::text::{put_raw, put_text};
use super::{array, printed};

/// Days between 1970-01-01 and 2000-01-01.
const POSTGRES_EPOCH_DAYS: i32 = 10_957;

/// As [`super::read`], of what is known to be binary and not null.
#[expect(clippy::inline_always, reason = "one jump for each value of a row, and not three calls")]
#[inline(always)]
pub(crate) fn read(kind: &Kind, bytes: &[u8], row: &mut RowBuilder) -> Result<(), ValueError> {
    match kind {
        Kind::Text | Kind::Json => put_text(bytes, row),
        Kind::Bool => match bytes {
            [value @ (0 | 1)] => row.fixed([*value]),
            _ => return Err(ValueError::Binary("boolean")),
        },
        Kind::Int16 => row.fixed(i16::from_be_bytes(exactly(bytes, "smallint")?).to_le_bytes()),
        Kind::Int32 => row.fixed(i32::from_be_bytes(exactly(bytes, "integer")?).to_le_bytes()),
        Kind::Int64 => row.fixed(i64::from_be_bytes(exactly(bytes, "bigint")?).to_le_bytes()),
        // One NaN for all: text has but one.
        Kind::Float64 => {
            let value = f64::from_be_bytes(exactly(bytes, "double precision")?);
            row.fixed(if value.is_nan() { f64::NAN } else { value }.to_le_bytes());
        }
        Kind::Uuid => row.fixed(exactly::<16>(bytes, "uuid")?),
        Kind::Date => match i32::from_be_bytes(exactly(bytes, "date")?) {
            i32::MAX => row.raw("infinity"),
            i32::MIN => row.raw("-infinity"),
            days => row.fixed(
                days.checked_add(POSTGRES_EPOCH_DAYS).ok_or(ValueError::Binary("date"))?.to_le_bytes(),
            ),
        },
        Kind::Timestamp | Kind::Timestamptz => match i64::from_be_bytes(exactly(bytes, "timestamp")?) {
            i64::MAX => row.raw("infinity"),
            i64::MIN => row.raw("-infinity"),
            us => match us.checked_add(POSTGRES_EPOCH_US) {
                Some(us) => row.fixed(us.to_le_bytes()),
                None => late(kind, us, row),
            },
        },
        Kind::Decimal { precision, scale } => return decimal(*precision, *scale, bytes, row),
        _ => return read_rarer(kind, bytes, row),
    }
    Ok(())
}

/// Reads what rows have less often, or what takes longer than a call.
fn read_rarer(kind: &Kind, bytes: &[u8], row: &mut RowBuilder) -> Result<(), ValueError> {
    match kind {
        Kind::Jsonb => match bytes {
            [1, text @ ..] => put_text(text, row),
            _ => return Err(ValueError::Binary("jsonb")),
        },
        Kind::Oid => row.fixed(u32::from_be_bytes(exactly(bytes, "oid")?).to_le_bytes()),
        Kind::Float32 => {
            let value = f32::from_be_bytes(exactly(bytes, "real")?);
            row.fixed(if value.is_nan() { f32::NAN } else { value }.to_le_bytes());
        }
        Kind::Bytes => row.variable(bytes),
        Kind::NumericText => {
            let value = Binary::parse(bytes).ok_or(ValueError::Binary("numeric"))?;
            row.variable(value.text().as_bytes());
        }
        Kind::Printed(printed) => {
            let mut text = Vec::new();
            printed.print(bytes, &mut text)?;
            put_text(&text, row);
        }
        Kind::List(element) => list(element, bytes, row)?,
        // What else there is was read before.
        _ => return Err(ValueError::UnexpectedBinary),
    }
    Ok(())
}

fn decimal(precision: u8, scale: u8, bytes: &[u8], row: &mut RowBuilder) -> Result<(), ValueError> {
    let value = Binary::parse(bytes).ok_or(ValueError::Binary("numeric"))?;
    match value.decimal(precision, scale) {
        Parsed::Digits(digits) => row.decimal(digits),
        _ => row.raw(&value.text()),
    }
    Ok(())
}

/// A moment that is too late for 64 bits since the Unix epoch.
#[cold]
fn late(kind: &Kind, us: i64, row: &mut RowBuilder) {
    let zone = matches!(kind, Kind::Timestamptz);
    let unix = i128::from(us) + i128::from(POSTGRES_EPOCH_US);
    let mut text = String::new();
    super::render::timestamp(unix, zone, &mut text);
    row.raw(&text);
}

/// Appends the text that Postgres prints for a value, as the bytes that the server holds.
pub(super) fn print(kind: &Kind, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ValueError> {
    match kind {
        Kind::Text | Kind::Json => out.extend_from_slice(bytes),
        Kind::Jsonb => match bytes {
            [1, text @ ..] => out.extend_from_slice(text),
            _ => return Err(ValueError::Binary("jsonb")),
        },
        Kind::Printed(printed) => printed.print(bytes, out)?,
        _ => out.extend_from_slice(printed(kind, Cell::Binary(bytes))?.as_bytes()),
    }
    Ok(())
}

/// One dimension that begins at 1 is a list; what else there is, and lists with an element that the kind cannot hold,
/// are kept as text.
fn list(element: &Kind, bytes: &[u8], row: &mut RowBuilder) -> Result<(), ValueError> {
    let array = array::Array::parse(bytes)?;
    if array.is_list() {
        let mut made = ListBuilder::new();
        let mut one = RowBuilder::default();
        let mut whole = true;
        for item in array.elements() {
            match item? {
                None => made.null(),
                Some(item) => {
                    one.start(1);
                    read(element, item, &mut one)?;
                    whole = whole && made.element(element, &one)?;
                }
            }
        }
        if whole {
            made.finish(row);
            return Ok(());
        }
    }
    let mut text = Vec::new();
    array.print(element, &mut text)?;
    put_raw(&text, row);
    Ok(())
}

#[inline]
fn exactly<const N: usize>(bytes: &[u8], what: &'static str) -> Result<[u8; N], ValueError> {
    bytes.try_into().map_err(|_| ValueError::Binary(what))
}
