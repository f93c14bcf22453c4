//! Arrow values as the text that PostgreSQL reads back without loss.

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Decimal256Array, GenericListArray, MapArray, OffsetSizeTrait,
};
use arrow::datatypes::{
    DataType, Date32Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, UInt32Type, UInt64Type,
};
use chrono::{Datelike, Days, NaiveDate};

/// The value in `row`, in PostgreSQL's input syntax; `None` for null. A map becomes a JSON object.
///
/// Fails where no rule is known for the Arrow type.
pub(crate) fn text(array: &ArrayRef, row: usize) -> Result<Option<String>, String> {
    if array.is_null(row) {
        return Ok(None);
    }
    let text = match array.data_type() {
        DataType::Null => return Ok(None),
        DataType::Utf8 => array.as_string::<i32>().value(row).to_owned(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).to_owned(),
        DataType::Utf8View => array.as_string_view().value(row).to_owned(),
        DataType::Boolean => array.as_boolean().value(row).to_string(),
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).to_string(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).to_string(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).to_string(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row).to_string(),
        // `{:?}` is Rust's shortest form that reads back the same, with an exponent where it is shorter.
        DataType::Float32 => format!("{:?}", array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => format!("{:?}", array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(..) => {
            array.as_any().downcast_ref::<Decimal128Array>().unwrap().value_as_string(row)
        }
        DataType::Decimal256(..) => {
            array.as_any().downcast_ref::<Decimal256Array>().unwrap().value_as_string(row)
        }
        DataType::Binary => bytes(array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => bytes(array.as_binary::<i64>().value(row)),
        DataType::BinaryView => bytes(array.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => bytes(array.as_fixed_size_binary().value(row)),
        DataType::Date32 => date(i64::from(array.as_primitive::<Date32Type>().value(row)), ""),
        DataType::Timestamp(unit, zone) => {
            let micros = match unit {
                TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().value(row),
                TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().value(row) * 1000,
                TimeUnit::Nanosecond => {
                    array.as_primitive::<TimestampNanosecondType>().value(row).div_euclid(1000)
                }
                TimeUnit::Second => return Err("timestamps in seconds".to_owned()),
            };
            timestamp(micros, zone.is_some())
        }
        DataType::List(_) => list(array.as_list::<i32>(), row)?,
        DataType::LargeList(_) => list(array.as_list::<i64>(), row)?,
        DataType::Map(..) => object(array.as_map(), row)?,
        other => return Err(format!("no text for Arrow's {other}")),
    };
    Ok(Some(text))
}

fn bytes(value: &[u8]) -> String {
    let mut text = String::with_capacity(2 + 2 * value.len());
    text.push_str("\\x");
    for byte in value {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Days since 1970 as a date, `time` put between the day and the era.
fn date(days: i64, time: &str) -> String {
    // The calendar repeats every 400 years; chrono knows the years of one such cycle.
    const CYCLE: i64 = 146_097;
    let within = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap();
    let within = within.checked_add_days(Days::new(days.rem_euclid(CYCLE).unsigned_abs())).unwrap();
    let year = i64::from(within.year()) + 400 * days.div_euclid(CYCLE);
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    format!("{year:04}-{:02}-{:02}{time}{era}", within.month(), within.day())
}

/// Microseconds since 1970.
fn timestamp(micros: i64, zoned: bool) -> String {
    const DAY: i64 = 86_400_000_000;
    let clock = micros.rem_euclid(DAY);
    let (seconds, fraction) = (clock / 1_000_000, clock % 1_000_000);
    let zone = if zoned { "+00" } else { "" };
    let time =
        format!(" {:02}:{:02}:{:02}.{fraction:06}{zone}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    date(micros.div_euclid(DAY), &time)
}

fn list<O: OffsetSizeTrait>(lists: &GenericListArray<O>, row: usize) -> Result<String, String> {
    let elements = lists.value(row);
    let mut text = String::from("{");
    for at in 0..elements.len() {
        if at > 0 {
            text.push(',');
        }
        match self::text(&elements, at)? {
            None => text.push_str("NULL"),
            Some(element) => {
                text.push('"');
                text.push_str(&element.replace('\\', "\\\\").replace('"', "\\\""));
                text.push('"');
            }
        }
    }
    text.push('}');
    Ok(text)
}

fn object(maps: &MapArray, row: usize) -> Result<String, String> {
    let entries = maps.value(row);
    let mut made = serde_json::Map::new();
    for at in 0..entries.len() {
        let key = text(entries.column(0), at)?.ok_or("a map's key is null")?;
        let value = text(entries.column(1), at)?;
        if made.insert(key.clone(), value.into()).is_some() {
            return Err(format!("a map has the key {key} twice"));
        }
    }
    Ok(serde_json::Value::Object(made).to_string())
}
