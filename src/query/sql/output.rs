//! Batches of a result as rows for people and programs.

use datafusion::arrow::array::{Array, AsArray as _};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Field, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, SchemaRef,
    TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt64Type,
};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures_util::TryStreamExt as _;

use bygone_sink::value::float::{double, single};
use bygone_sink::value::{Kind, RowBuilder};

use super::super::changes::damaged;
use super::super::counted;
use super::super::sheet::{Cell, Heading, Sheet, json_string, left, right};
use super::super::value::{cell as value_cell, fields};
use crate::cli::Format;
use crate::error::{Error, Result};

pub(super) async fn print(
    schema: &SchemaRef,
    mut batches: SendableRecordBatchStream,
    format: Format,
    told: &dyn Fn(&DataFusionError) -> Error,
) -> Result<()> {
    // Nothing is printed of a result that fails at its first row.
    let mut first = batches.try_next().await.map_err(|error| told(&error))?;
    let mut sheet = Sheet::new(format, schema.fields().iter().map(|field| heading(field)).collect())?;
    while let Some(batch) = first.take() {
        for row in 0..batch.num_rows() {
            let cells = schema.fields().iter().zip(batch.columns()).map(|(field, array)| {
                let is_json =
                    field.metadata().get("ARROW:extension:name").is_some_and(|name| name == "arrow.json");
                match cell(array, row) {
                    // A union or a default may have put a text beside documents.
                    Ok(Cell::Text(text)) if is_json && is_document(&text) => Ok(Cell::document(Some(&text))),
                    other => other,
                }
            });
            sheet.row(cells.collect::<Result<_>>()?)?;
        }
        first = batches.try_next().await.map_err(|error| told(&error))?;
    }
    let rows = sheet.finish()?;
    if format == Format::Table {
        eprintln!("{}", counted(rows, "row"));
    }
    Ok(())
}

fn is_document(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

fn heading(field: &Field) -> Heading {
    if field.data_type().is_numeric() { right(field.name()) } else { left(field.name()) }
}

/// A value as Postgres prints it, and as JSON.
fn cell(array: &dyn Array, row: usize) -> Result<Cell> {
    if array.is_null(row) {
        return Ok(Cell::Null);
    }
    let numbered = |number: i64| Cell::number(number);
    Ok(match array.data_type() {
        DataType::Null => Cell::Null,
        DataType::Boolean => {
            let value = array.as_boolean().value(row);
            let (text, json) = if value { ("t", "true") } else { ("f", "false") };
            Cell::Value { text: text.to_owned(), json: json.to_owned() }
        }
        DataType::Int16 => numbered(array.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int32 => numbered(array.as_primitive::<Int32Type>().value(row).into()),
        // What a double does not hold exactly is a string in JSON.
        DataType::Int64 => match array.as_primitive::<Int64Type>().value(row) {
            large if large.unsigned_abs() > 1 << 53 => Cell::Text(large.to_string()),
            number => numbered(number),
        },
        DataType::UInt64 => Cell::number(array.as_primitive::<UInt64Type>().value(row)),
        DataType::Float32 => float(|out| single(array.as_primitive::<Float32Type>().value(row), out)),
        DataType::Float64 => float(|out| double(array.as_primitive::<Float64Type>().value(row), out)),
        DataType::Timestamp(unit, zone) => {
            let micros = match unit {
                TimeUnit::Second => {
                    array.as_primitive::<TimestampSecondType>().value(row).checked_mul(1_000_000)
                }
                TimeUnit::Millisecond => {
                    array.as_primitive::<TimestampMillisecondType>().value(row).checked_mul(1_000)
                }
                TimeUnit::Microsecond => Some(array.as_primitive::<TimestampMicrosecondType>().value(row)),
                TimeUnit::Nanosecond => {
                    Some(array.as_primitive::<TimestampNanosecondType>().value(row).div_euclid(1_000))
                }
            };
            let micros = micros.ok_or_else(|| Error::other("a time lies beyond what can be printed"))?;
            let kind = if zone.is_some() { Kind::Timestamptz } else { Kind::Timestamp };
            temporal(&kind, micros.to_le_bytes())?
        }
        DataType::Date32 => {
            temporal(&Kind::Date, array.as_primitive::<Date32Type>().value(row).to_le_bytes())?
        }
        DataType::List(_) => list(array.as_list::<i32>().value(row).as_ref())?,
        DataType::LargeList(_) => list(array.as_list::<i64>().value(row).as_ref())?,
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let pairs = (0..entries.len()).map(|at| {
                let (key, value) = (cell(entries.column(0), at)?, cell(entries.column(1), at)?);
                Ok(format!("{}: {}", json_string(key.text()), value.json()))
            });
            let json = format!("{{{}}}", pairs.collect::<Result<Vec<_>>>()?.join(", "));
            Cell::Value { text: json.clone(), json }
        }
        DataType::Struct(fields) => {
            let whole = array.as_struct();
            let pairs = fields.iter().zip(whole.columns()).map(|(field, value)| {
                Ok(format!("{}: {}", json_string(field.name()), cell(value, row)?.json()))
            });
            let json = format!("{{{}}}", pairs.collect::<Result<Vec<_>>>()?.join(", "));
            Cell::Value { text: json.clone(), json }
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            Cell::Text(format!("\\x{}", formatted(array, row)?))
        }
        _ => Cell::Text(formatted(array, row)?),
    })
}

/// As a column of the kind is printed.
fn temporal<const N: usize>(kind: &Kind, value: [u8; N]) -> Result<Cell> {
    let mut row = RowBuilder::default();
    row.start(1);
    row.fixed(value);
    let fields = fields(row.bytes(), std::slice::from_ref(kind)).map_err(damaged)?;
    fields.first().map_or(Ok(Cell::Null), |field| value_cell(kind, *field).map_err(damaged))
}

fn float(print: impl FnOnce(&mut String)) -> Cell {
    let mut text = String::new();
    print(&mut text);
    // The text of a finite float is JSON as it is.
    if text.ends_with(|c: char| c.is_ascii_digit()) {
        Cell::Value { json: text.clone(), text }
    } else {
        Cell::Text(text)
    }
}

/// `{a,NULL,"b c"}`.
fn list(items: &dyn Array) -> Result<Cell> {
    let cells = (0..items.len()).map(|at| cell(items, at)).collect::<Result<Vec<_>>>()?;
    let texts = cells.iter().map(|cell| match cell {
        Cell::Null | Cell::Unknown => "NULL".to_owned(),
        cell => {
            let text = cell.text();
            let plain = !text.is_empty()
                && !text.eq_ignore_ascii_case("null")
                && !text.contains(|c: char| c.is_whitespace() || matches!(c, '{' | '}' | ',' | '"' | '\\'));
            if plain {
                text.to_owned()
            } else {
                format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
            }
        }
    });
    let text = format!("{{{}}}", texts.collect::<Vec<_>>().join(","));
    let json = format!("[{}]", cells.iter().map(Cell::json).collect::<Vec<_>>().join(","));
    Ok(Cell::Value { text, json })
}

fn formatted(array: &dyn Array, row: usize) -> Result<String> {
    let options = FormatOptions::default();
    let formatter =
        ArrayFormatter::try_new(array, &options).map_err(|error| Error::other(error.to_string()))?;
    Ok(formatter.value(row).to_string())
}
