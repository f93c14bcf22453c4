//! Fact files read back: rows in kept form, as the versioner had them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array,
    Float64Array, Int16Array, Int32Array, Int64Array, ListArray, MapArray, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::DataType;
use bygone_replication::Lsn;
use bygone_replication::pgoutput::Cell;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::ParquetMetaData;

use crate::error::{Error, ErrorKind, Result};
use crate::schema::TableSchema;
use crate::value::{self, Kind, RowBuilder};

/// Rows decoded at a time, at most.
const ROWS: usize = 8_192;
/// Bytes that they may take, about: rows of large values pack well, and all that are decoded at once are in memory.
const BYTES: u64 = 16 << 20;

/// Opens a fact file.
///
/// # Errors
/// [`ErrorKind::Damaged`] where the bytes are no Parquet file.
pub(crate) fn open(path: &str, bytes: Bytes) -> Result<ParquetRecordBatchReader> {
    ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|builder| {
            let rows = rows_at_once(builder.metadata());
            builder.with_batch_size(rows).build()
        })
        .map_err(|error| damaged(path, &error.to_string()).with_source(error))
}

/// How many rows of a file are decoded at a time.
pub(crate) fn rows_at_once(metadata: &ParquetMetaData) -> usize {
    let of_row = metadata.row_groups().iter().map(|group| {
        // Of a dictionary's values each is stored once, and decoded as often as it comes.
        let bytes = group.columns().iter().map(|column| {
            column.unencoded_byte_array_data_bytes().unwrap_or(0).max(column.uncompressed_size())
        });
        u64::try_from(bytes.sum::<i64>() / group.num_rows().max(1)).unwrap_or(0)
    });
    let widest = of_row.max().unwrap_or(0).max(1);
    usize::try_from(BYTES / widest).unwrap_or(ROWS).clamp(1, ROWS)
}

pub(crate) fn damaged(path: &str, what: &str) -> Error {
    Error::new(
        ErrorKind::Damaged,
        "a fact file cannot be read",
        format!("{path}: {what}; `bygone verify` says more"),
    )
}

/// The facts of one batch.
#[derive(Debug)]
pub(crate) struct FactRows<'a> {
    entity_id: &'a StringArray,
    version: &'a Int64Array,
    lsn: &'a Int64Array,
    deleted_at: &'a TimestampMicrosecondArray,
    rows: RowColumns<'a>,
}

/// The rows of one batch, whatever else is said of them.
#[derive(Debug)]
pub(crate) struct RowColumns<'a> {
    path: &'a str,
    schema: Arc<TableSchema>,
    /// What is said of values that are not known, and of those that their column cannot hold; none where nothing is.
    unknown: Option<&'a ListArray>,
    raw: Option<&'a MapArray>,
    columns: Vec<Option<&'a ArrayRef>>,
}

/// Which of the columns are there that say something of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Notes {
    pub(crate) unknown: bool,
    pub(crate) raw: bool,
}

impl Notes {
    pub(crate) const ALL: Self = Self { unknown: true, raw: true };
}

impl<'a> FactRows<'a> {
    /// The facts of a batch that was written under `schema`.
    pub(crate) fn new(path: &'a str, schema: Arc<TableSchema>, batch: &'a RecordBatch) -> Result<Self> {
        Ok(Self {
            entity_id: system(path, batch, "_entity_id", |array| array.as_string_opt::<i32>())?,
            version: system(path, batch, "_version", |array| array.as_any().downcast_ref())?,
            lsn: system(path, batch, "_lsn", |array| array.as_any().downcast_ref())?,
            deleted_at: system(path, batch, "_deleted_at", |array| array.as_any().downcast_ref())?,
            rows: RowColumns::new(path, schema, batch, Notes::ALL)?,
        })
    }

    pub(crate) fn entity_id(&self, at: usize) -> &str {
        self.entity_id.value(at)
    }

    pub(crate) fn version(&self, at: usize) -> i64 {
        self.version.value(at)
    }

    pub(crate) fn lsn(&self, at: usize) -> Lsn {
        Lsn::from_i64(self.lsn.value(at))
    }

    pub(crate) fn is_tombstone(&self, at: usize) -> bool {
        self.deleted_at.is_valid(at)
    }

    /// The row of a fact.
    pub(crate) fn row(&self, at: usize, row: &mut RowBuilder) -> Result<()> {
        self.rows.row(at, row)
    }
}

impl<'a> RowColumns<'a> {
    /// The rows of a batch that were written under `schema`.
    pub(crate) fn new(
        path: &'a str,
        schema: Arc<TableSchema>,
        batch: &'a RecordBatch,
        notes: Notes,
    ) -> Result<Self> {
        let unknown = || system(path, batch, "_unknown", |array| array.as_list_opt::<i32>());
        let raw = || system(path, batch, "_raw", |array| array.as_map_opt());
        let columns = schema.columns.iter().map(|column| batch.column_by_name(&column.physical)).collect();
        Ok(Self {
            unknown: notes.unknown.then(unknown).transpose()?,
            raw: notes.raw.then(raw).transpose()?,
            path,
            schema,
            columns,
        })
    }

    /// The row at a place.
    pub(crate) fn row(&self, at: usize, row: &mut RowBuilder) -> Result<()> {
        let unknown = self.unknown.filter(|all| all.is_valid(at)).map(|all| all.value(at));
        let unknown = unknown.as_ref().and_then(|names| names.as_string_opt::<i32>());
        let is_unknown =
            |name: &str| unknown.is_some_and(|names| names.iter().flatten().any(|other| other == name));
        let raw = self.raw.filter(|all| all.is_valid(at)).map(|all| all.value(at));
        let raw = raw.as_ref().and_then(|entries| {
            Some((entries.column(0).as_string_opt::<i32>()?, entries.column(1).as_string_opt::<i32>()?))
        });
        row.start(self.schema.columns.len());
        for (column, array) in self.schema.columns.iter().zip(&self.columns) {
            let text = raw.and_then(|(names, texts)| {
                let place = names.iter().position(|name| name == Some(&column.physical))?;
                Some(texts.value(place))
            });
            if let Some(text) = text {
                row.raw(text);
                continue;
            }
            match array {
                Some(array) if array.is_valid(at) => {
                    append(&column.kind, array, at, row).ok_or_else(|| {
                        damaged(self.path, &format!("column {} has another type", column.physical))
                    })?
                }
                _ if is_unknown(&column.physical) => row.unknown(),
                _ => row.null(),
            }
        }
        Ok(())
    }
}

fn system<'a, T>(
    path: &str,
    batch: &'a RecordBatch,
    name: &str,
    cast: impl FnOnce(&'a ArrayRef) -> Option<&'a T>,
) -> Result<&'a T> {
    batch
        .column_by_name(name)
        .and_then(cast)
        .ok_or_else(|| damaged(path, &format!("it lacks column {name}, or that has another type")))
}

fn cast<T: 'static>(array: &ArrayRef) -> Option<&T> {
    array.as_any().downcast_ref()
}

/// Appends one value. `None` where the array is not of the kind's type.
fn append(kind: &Kind, array: &ArrayRef, at: usize, row: &mut RowBuilder) -> Option<()> {
    match kind {
        Kind::Bool => row.fixed([u8::from(cast::<BooleanArray>(array)?.value(at))]),
        Kind::Int16 => row.fixed(cast::<Int16Array>(array)?.value(at).to_le_bytes()),
        Kind::Int32 => row.fixed(cast::<Int32Array>(array)?.value(at).to_le_bytes()),
        Kind::Int64 => row.fixed(cast::<Int64Array>(array)?.value(at).to_le_bytes()),
        Kind::Oid => row.fixed(u32::try_from(cast::<Int64Array>(array)?.value(at)).ok()?.to_le_bytes()),
        Kind::Float32 => row.fixed(cast::<Float32Array>(array)?.value(at).to_le_bytes()),
        Kind::Float64 => row.fixed(cast::<Float64Array>(array)?.value(at).to_le_bytes()),
        Kind::Text | Kind::Json | Kind::Jsonb | Kind::NumericText | Kind::Printed(_) | Kind::Other => {
            row.variable(array.as_string_opt::<i32>()?.value(at).as_bytes());
        }
        Kind::Uuid => {
            let text = array.as_string_opt::<i32>()?.value(at);
            value::read(kind, Cell::Text(text.as_bytes()), row).ok()?;
        }
        Kind::Bytes => row.variable(cast::<BinaryArray>(array)?.value(at)),
        Kind::Date => row.fixed(cast::<Date32Array>(array)?.value(at).to_le_bytes()),
        Kind::Timestamp | Kind::Timestamptz => {
            row.fixed(cast::<TimestampMicrosecondArray>(array)?.value(at).to_le_bytes());
        }
        Kind::Decimal { scale, .. } => {
            let DataType::Decimal128(_, stored) = array.data_type() else { return None };
            if *stored != scale.cast_signed() {
                return None;
            }
            row.decimal(cast::<Decimal128Array>(array)?.value(at));
        }
        Kind::List(element) => {
            let items = array.as_list_opt::<i32>()?.value(at);
            let mut list = value::ListBuilder::new();
            let mut one = RowBuilder::default();
            for item in 0..items.len() {
                if items.is_null(item) {
                    list.null();
                    continue;
                }
                one.start(1);
                append(element, &items, item, &mut one)?;
                if !list.element(element, &one).ok()? {
                    return None;
                }
            }
            list.finish(row);
        }
    }
    Some(())
}
