//! Makes an index, and proves one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::errors::ParquetError;

use super::{HASH, ROW, hash};
use crate::error::{Error, ErrorKind, Result};
use crate::fact_file::damaged;
use crate::failpoint;
use crate::log::Add;
use crate::parquet_layout;
use crate::read::file::{self, column};
use crate::store::{Object, PutOutcome, StagedFile, Store};

/// Makes the index of a file; its bytes, or none where `stop` was set meanwhile.
pub(super) async fn build(store: &Store, add: &Add, path: &str, stop: &AtomicBool) -> Result<Option<u64>> {
    let Some(entries) = entries(store, add, Some(stop)).await? else { return Ok(None) };
    let mut sealed = write(store, &entries)?.seal().await?;
    failpoint::hit("index.before_file")?;
    // One that is there was made by another at the same time: of the same file.
    let _: PutOutcome = sealed.publish(path).await?;
    Ok(Some(sealed.bytes()))
}

/// The index of a file is what it would be if it were made now.
///
/// # Errors
/// Where the file cannot be read, or the index is no such file.
pub async fn prove(store: &Store, add: &Add, index: &Object) -> Result<bool> {
    let Some(expected) = entries(store, add, None).await? else { return Ok(false) };
    let mut expected = expected.into_iter();
    let path = &index.path;
    let mut batches = file::read(path, file::open(store, path, index.bytes).await?)?;
    while let Some(batch) = file::next(path, &mut batches).await? {
        let hashes: &Int64Array = column(path, &batch, HASH)?;
        let rows: &Int64Array = column(path, &batch, ROW)?;
        for (hash, row) in hashes.values().iter().zip(rows.values()) {
            let entry = expected.next().map(parted);
            if entry != Some((*hash, *row)) {
                return Ok(false);
            }
        }
    }
    Ok(expected.next().is_none())
}

/// Hash and row of each fact, in one number, sorted.
async fn entries(store: &Store, add: &Add, stop: Option<&AtomicBool>) -> Result<Option<Vec<u64>>> {
    let builder = file::open(store, &add.path, add.bytes).await?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), ["_entity_id"]);
    let mut batches = file::read(&add.path, builder.with_projection(mask))?;
    let mut entries = Vec::with_capacity(usize::try_from(add.rows).unwrap_or(0));
    let mut row = 0u32;
    while let Some(batch) = file::next(&add.path, &mut batches).await? {
        if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Ok(None);
        }
        let ids: &StringArray = column(&add.path, &batch, "_entity_id")?;
        for id in ids {
            entries.push(u64::from(hash(id.unwrap_or_default())) << 32 | u64::from(row));
            row = row.checked_add(1).ok_or_else(|| damaged(&add.path, "it holds too many facts"))?;
        }
    }
    if entries.len() as u64 != add.rows {
        let what = format!("it holds {} facts, and the log says {}", entries.len(), add.rows);
        return Err(damaged(&add.path, &what));
    }
    entries.sort_unstable();
    Ok(Some(entries))
}

fn parted(entry: u64) -> (i64, i64) {
    ((entry >> 32).cast_signed(), (entry & u64::from(u32::MAX)).cast_signed())
}

fn write(store: &Store, entries: &[u64]) -> Result<StagedFile> {
    let fields = [HASH, ROW].map(|name| Field::new(name, DataType::Int64, false));
    let schema = Arc::new(Schema::new(fields.to_vec()));
    let encoding = |error: ParquetError| {
        Error::new(ErrorKind::Io, "a Parquet file cannot be encoded", error.to_string())
    };
    let properties = parquet_layout::index_properties(&schema);
    let mut writer =
        ArrowWriter::try_new(store.stage()?, Arc::clone(&schema), Some(properties)).map_err(encoding)?;
    for entries in entries.chunks(parquet_layout::INDEX_GROUP_ROWS) {
        let (hashes, rows): (Vec<i64>, Vec<i64>) = entries.iter().map(|entry| parted(*entry)).unzip();
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(hashes)), Arc::new(Int64Array::from(rows))];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns)
            .map_err(|error| Error::new(ErrorKind::Io, "an index cannot be laid out", error.to_string()))?;
        writer.write(&batch).map_err(encoding)?;
    }
    writer.into_inner().map_err(encoding)
}
