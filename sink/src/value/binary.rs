//! Values from Postgres' binary format, as each type's `send` function writes them.

use bygone_replication::pgoutput::POSTGRES_EPOCH_US;

use super::ValueError;
use super::kind::Kind;
use super::numeric::{Binary, Parsed};
use super::row::RowBuilder;
use super::text::put_text;

/// Days between 1970-01-01 and 2000-01-01.
const POSTGRES_EPOCH_DAYS: i32 = 10_957;

pub(super) fn read(kind: &Kind, bytes: &[u8], row: &mut RowBuilder) -> Result<(), ValueError> {
    match kind {
        Kind::Text | Kind::Json => put_text(bytes, row),
        Kind::Jsonb => match bytes {
            [1, text @ ..] => put_text(text, row),
            _ => return Err(ValueError::Binary("jsonb")),
        },
        Kind::Bool => match bytes {
            [value @ (0 | 1)] => row.fixed([*value]),
            _ => return Err(ValueError::Binary("boolean")),
        },
        Kind::Int16 => row.fixed(i16::from_be_bytes(array(bytes, "smallint")?).to_le_bytes()),
        Kind::Int32 => row.fixed(i32::from_be_bytes(array(bytes, "integer")?).to_le_bytes()),
        Kind::Int64 => row.fixed(i64::from_be_bytes(array(bytes, "bigint")?).to_le_bytes()),
        Kind::Oid => row.fixed(u32::from_be_bytes(array(bytes, "oid")?).to_le_bytes()),
        // One NaN for all: text has but one.
        Kind::Float32 => {
            let value = f32::from_be_bytes(array(bytes, "real")?);
            row.fixed(if value.is_nan() { f32::NAN } else { value }.to_le_bytes());
        }
        Kind::Float64 => {
            let value = f64::from_be_bytes(array(bytes, "double precision")?);
            row.fixed(if value.is_nan() { f64::NAN } else { value }.to_le_bytes());
        }
        Kind::Uuid => row.fixed(array::<16>(bytes, "uuid")?),
        Kind::Bytes => row.variable(bytes),
        Kind::Date => match i32::from_be_bytes(array(bytes, "date")?) {
            i32::MAX => row.raw("infinity"),
            i32::MIN => row.raw("-infinity"),
            days => row.fixed(
                days.checked_add(POSTGRES_EPOCH_DAYS).ok_or(ValueError::Binary("date"))?.to_le_bytes(),
            ),
        },
        Kind::Timestamp | Kind::Timestamptz => match i64::from_be_bytes(array(bytes, "timestamp")?) {
            i64::MAX => row.raw("infinity"),
            i64::MIN => row.raw("-infinity"),
            us => match us.checked_add(POSTGRES_EPOCH_US) {
                Some(us) => row.fixed(us.to_le_bytes()),
                None => {
                    let zone = matches!(kind, Kind::Timestamptz);
                    let unix = i128::from(us) + i128::from(POSTGRES_EPOCH_US);
                    let mut text = String::new();
                    super::render::timestamp(unix, zone, &mut text);
                    row.raw(&text);
                }
            },
        },
        Kind::Decimal { precision, scale } => {
            let value = Binary::parse(bytes).ok_or(ValueError::Binary("numeric"))?;
            match value.decimal(*precision, *scale) {
                Parsed::Digits(digits) => row.decimal(digits),
                _ => row.raw(&value.text()),
            }
        }
        Kind::NumericText => {
            let value = Binary::parse(bytes).ok_or(ValueError::Binary("numeric"))?;
            row.variable(value.text().as_bytes());
        }
        Kind::Other | Kind::List(_) => return Err(ValueError::UnexpectedBinary),
    }
    Ok(())
}

#[inline]
fn array<const N: usize>(bytes: &[u8], what: &'static str) -> Result<[u8; N], ValueError> {
    bytes.try_into().map_err(|_| ValueError::Binary(what))
}
