//! Writes a slab.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use sha2::{Digest, Sha256};

use super::cut::Stretch;
use super::gather::{Gathered, Row, failed, gather};
use super::path::{Name, directory};
use super::{BEGAN, ENDED, KEPT, Slab};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::log::LiveFile;
use crate::parquet_layout;
use crate::read::TableHistory;
use crate::read::file;
use crate::schema::{SYSTEM_COLUMNS, TableSchema, instant};
use crate::store::{PutOutcome, Sealed, StagedFile, Store};

/// Rows that are put together at a time.
const ROWS: usize = 8_192;

/// A slab of fewer rows is read by one thread as quickly.
const ALONE: usize = 20_000;
const MOST_IN_GROUP: usize = 96 * 1024;

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// Makes the slab of a stretch; none where `stop` was set meanwhile, with nothing that a reader would take.
pub(super) async fn build(
    store: &Store,
    table: &TableHistory,
    before: Option<&Slab>,
    stretch: &Stretch,
    begun: bool,
    memory: usize,
    stop: &AtomicBool,
) -> Result<Option<Made>> {
    let Some(directory) = directory(&table.log_name) else { return Ok(None) };
    let parts = parts(store, table, before, stretch, memory).await?;
    let mut sealed: Vec<(i32, Sealed)> = Vec::new();
    let mut made = Made { rows: 0, bytes: 0 };
    for part in gather(store, table, before, stretch, parts, memory).await? {
        for gathered in part.rows(table)? {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if !gathered.rows.is_empty() {
                made.rows += gathered.rows.len() as u64;
                sealed.push((gathered.schema.version, write(store, &gathered)?.seal().await?));
            }
        }
    }
    if sealed.is_empty() {
        // Nothing lived and nothing came: that, too, has to be known.
        let schema = Arc::clone(table.newest());
        let version = schema.version;
        let none = Gathered { schema, batches: Vec::new(), rows: Vec::new() };
        sealed.push((version, write(store, &none)?.seal().await?));
    }
    let Stretch { from, to, times, .. } = *stretch;
    let total = u32::try_from(sealed.len()).unwrap_or(u32::MAX);
    let mut hash = Sha256::new();
    sealed.iter().for_each(|(_, file)| hash.update(file.sha256().0));
    let tag = hash.finalize().first_chunk().map_or(0, |head| u32::from_be_bytes(*head));
    for (part, (schema, mut file)) in (1..).zip(sealed) {
        made.bytes += file.bytes();
        let path = Name { from, to, times, tag, part, parts: total, schema, begun }.path(&directory);
        failpoint::hit("slab.before_file")?;
        // The name holds what the slab is made of: one that is there was left by a maker that ended before its last file.
        let _: PutOutcome = file.publish_of_class(&path, table.newest().retention.as_deref()).await?;
        failpoint::hit("slab.after_file")?;
    }
    Ok(Some(made))
}

/// In how many parts a slab is made, so that one fits into memory.
pub(super) async fn parts(
    store: &Store,
    table: &TableHistory,
    before: Option<&Slab>,
    stretch: &Stretch,
    memory: usize,
) -> Result<usize> {
    let within = |live: &&LiveFile| live.add.lsn[1] > stretch.from && live.add.lsn[0] <= stretch.to;
    let facts = table.files.iter().filter(within).map(|live| (live.add.path.as_str(), live.add.bytes));
    let carried = before.iter().flat_map(|slab| &slab.files).map(|file| (file.path.as_str(), file.bytes));
    let (mut bytes, mut rows) = (0u64, 0u64);
    for (path, size) in facts.chain(carried) {
        for group in file::open(store, path, size).await?.metadata().row_groups() {
            let count = u64::try_from(group.num_rows()).unwrap_or(0);
            // Values that a dictionary holds once are as many in memory as there are rows, and sorting takes some.
            bytes += u64::try_from(group.total_byte_size()).unwrap_or(0).saturating_mul(2) + count * 100;
            rows += count;
        }
    }
    // The files may hold more than the stretch: merged ones hold the facts of many.
    let bytes = u128::from(bytes) * u128::from(stretch.rows.min(rows)) / u128::from(rows.max(1));
    let needed = usize::try_from(bytes / memory.max(1) as u128).unwrap_or(usize::MAX);
    // One file is the best: an engine takes its time over each that a view names.
    Ok(needed.saturating_add(1).min(1_024))
}

/// The columns of a slab.
fn slab_schema(schema: &TableSchema) -> SchemaRef {
    let fields = schema.arrow().fields();
    let system = fields.iter().filter(|field| KEPT.contains(&field.name().as_str())).cloned();
    let ends = [BEGAN, ENDED].into_iter().map(|name| Arc::new(Field::new(name, instant(), true)));
    let users = fields.iter().skip(SYSTEM_COLUMNS.len()).cloned();
    Arc::new(Schema::new(system.chain(ends).chain(users).collect::<Vec<_>>()))
}

fn write(store: &Store, gathered: &Gathered) -> Result<StagedFile> {
    let schema = slab_schema(&gathered.schema);
    let encoding = |error: ParquetError| {
        Error::new(ErrorKind::Io, "a Parquet file cannot be encoded", error.to_string())
    };
    let properties = parquet_layout::slab_properties(&schema);
    let mut writer =
        ArrowWriter::try_new(store.stage()?, Arc::clone(&schema), Some(properties)).map_err(encoding)?;
    for group in gathered.rows.chunks(group_rows(gathered.rows.len())) {
        for rows in group.chunks(ROWS) {
            writer.write(&batch(&schema, gathered, rows)?).map_err(encoding)?;
            if writer.in_progress_size() > parquet_layout::ROW_GROUP_BYTES {
                writer.flush().map_err(encoding)?;
            }
        }
        writer.flush().map_err(encoding)?;
    }
    writer.into_inner().map_err(encoding)
}

/// Rows of a row group: groups are as large as each other and even in number, so that threads which share them end together.
fn group_rows(rows: usize) -> usize {
    if rows <= ALONE {
        return ALONE;
    }
    rows.div_ceil(rows.div_ceil(MOST_IN_GROUP).next_multiple_of(2))
}

fn batch(schema: &SchemaRef, gathered: &Gathered, rows: &[Row]) -> Result<RecordBatch> {
    let sources: Vec<&RecordBatch> = gathered.batches.iter().collect();
    let places: Vec<(usize, usize)> = rows.iter().map(|row| row.at).collect();
    let taken = interleave_record_batch(&sources, &places).map_err(|error| failed(&error))?;
    let times = |time: fn(&Row) -> Option<i64>| -> ArrayRef {
        Arc::new(rows.iter().map(time).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
    };
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        BEGAN => Ok(times(|row| row.began)),
        ENDED => Ok(times(|row| row.ended)),
        name => taken
            .column_by_name(name)
            .cloned()
            .ok_or_else(|| Error::new(ErrorKind::Damaged, "rows of a slab lack a column", name.to_owned())),
    });
    let columns: Vec<ArrayRef> = columns.collect::<Result<_>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|error| failed(&error))
}
