//! The rows of a slab, gathered from the slab before and from facts, and parted so that each part fits into memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufReader, BufWriter, Seek};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    UInt32Array, new_null_array,
};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use parquet::arrow::ProjectionMask;

use super::cut::Stretch;
use super::{ENDED, KEPT, Slab};
use crate::entity::{StateKey, state_key};
use crate::error::{Error, ErrorKind, Result};
use crate::fact_file::damaged;
use crate::read::TableHistory;
use crate::read::file::{self, Builder, column};
use crate::schema::{SYSTEM_COLUMNS, TableSchema, instant};
use crate::store::Store;

/// What a gathered row has beside [`KEPT`] and the user's columns: when the fact began, null for a row that was carried over,
/// and whether it is a tombstone.
const GATHERED: [&str; 2] = ["_valid_from", "_deleted_at"];

/// The rows of some entities.
#[derive(Default)]
pub(super) struct Part {
    /// By schema version.
    heaps: BTreeMap<i32, Heap>,
}

/// Rows of one schema version, in memory and, where that was short, in a file without a name.
#[derive(Default)]
struct Heap {
    batches: Vec<RecordBatch>,
    spilled: Option<StreamWriter<BufWriter<File>>>,
}

/// A row of a slab.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Its batch, and its place there.
    pub(super) at: (usize, usize),
    pub(super) began: Option<i64>,
    pub(super) ended: Option<i64>,
}

/// The rows of one schema version in a part of a slab, in the order of their entities and versions.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) schema: Arc<TableSchema>,
    pub(super) batches: Vec<RecordBatch>,
    pub(super) rows: Vec<Row>,
}

/// Gathers them, in so many parts.
pub(super) async fn gather(
    store: &Store,
    table: &TableHistory,
    before: Option<&Slab>,
    stretch: &Stretch,
    parts: usize,
    memory: usize,
) -> Result<Vec<Part>> {
    let mut gathering = Gathering { store, parts: Vec::new(), held: 0, memory };
    gathering.parts.resize_with(parts.max(1), Part::default);
    for slab_file in before.iter().flat_map(|slab| &slab.files) {
        let schema = version(table, slab_file.schema, &slab_file.path)?;
        let builder = file::open(store, &slab_file.path, slab_file.bytes).await?;
        let mut batches = read(&slab_file.path, builder, schema, &[ENDED])?;
        while let Some(batch) = file::next(&slab_file.path, &mut batches).await? {
            let ended: &TimestampMicrosecondArray = column(&slab_file.path, &batch, ENDED)?;
            let alive: BooleanArray = (0..batch.num_rows()).map(|at| Some(ended.is_null(at))).collect();
            gathering.take(&slab_file.path, schema, &batch, &alive)?;
        }
    }
    for live in &table.files {
        let [first, last] = live.add.lsn;
        if last <= stretch.from || first > stretch.to {
            continue;
        }
        let path = &live.add.path;
        let schema = version(table, live.add.schema, path)?;
        let builder = file::open(store, path, live.add.bytes).await?;
        let mut batches = read(path, builder, schema, &["_valid_from", "_deleted_at", "_lsn"])?;
        while let Some(batch) = file::next(path, &mut batches).await? {
            let lsn: &Int64Array = column(path, &batch, "_lsn")?;
            let within = stretch.from.as_i64() + 1..=stretch.to.as_i64();
            let wanted: BooleanArray = lsn.values().iter().map(|lsn| Some(within.contains(lsn))).collect();
            gathering.take(path, schema, &batch, &wanted)?;
        }
    }
    Ok(gathering.parts)
}

fn version<'a>(table: &'a TableHistory, number: i32, path: &str) -> Result<&'a Arc<TableSchema>> {
    table
        .version(number)
        .ok_or_else(|| damaged(path, &format!("the log has no schema {number} of its table")))
}

/// Reads the columns that gathering needs, with `others`.
fn read(path: &str, builder: Builder, schema: &TableSchema, others: &[&str]) -> Result<file::Batches> {
    let descriptor = builder.parquet_schema();
    let wanted = |name: &str| {
        KEPT.contains(&name)
            || others.contains(&name)
            || schema.columns.iter().any(|column| column.physical == name)
    };
    let roots = descriptor.root_schema().get_fields().iter().enumerate();
    let roots: Vec<usize> = roots.filter(|(_, field)| wanted(field.name())).map(|(at, _)| at).collect();
    let mask = ProjectionMask::roots(descriptor, roots);
    file::read(path, builder.with_projection(mask))
}

/// The columns of gathered rows.
fn gathered_schema(schema: &TableSchema) -> SchemaRef {
    let fields = schema.arrow().fields();
    let system = fields.iter().filter(|field| KEPT.contains(&field.name().as_str())).cloned();
    let added = GATHERED.iter().map(|name| Arc::new(Field::new(*name, instant(), true)));
    let users = fields.iter().skip(SYSTEM_COLUMNS.len()).cloned();
    Arc::new(Schema::new(system.chain(added).chain(users).collect::<Vec<_>>()))
}

struct Gathering<'a> {
    store: &'a Store,
    parts: Vec<Part>,
    held: usize,
    memory: usize,
}

impl Gathering<'_> {
    fn take(
        &mut self,
        path: &str,
        schema: &TableSchema,
        batch: &RecordBatch,
        wanted: &BooleanArray,
    ) -> Result<()> {
        let shape = gathered_schema(schema);
        let columns = shape.fields().iter().map(|field| match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            // Of a carried row nobody asks any more when it began.
            None if GATHERED.contains(&field.name().as_str()) => {
                Ok(new_null_array(field.data_type(), batch.num_rows()))
            }
            // A column that no row of the file knew.
            None if field.is_nullable() => Ok(new_null_array(field.data_type(), batch.num_rows())),
            _ => Err(damaged(path, &format!("it lacks column {}, or that has another type", field.name()))),
        });
        let columns: Vec<ArrayRef> = columns.collect::<Result<_>>()?;
        let rows = RecordBatch::try_new(shape, columns).map_err(|error| failed(&error))?;
        let rows = filter_record_batch(&rows, wanted).map_err(|error| failed(&error))?;
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let parts = self.parts.len();
        let entity_id: &StringArray = column(path, &rows, "_entity_id")?;
        let mut places: Vec<Vec<u32>> = vec![Vec::new(); parts];
        for (at, id) in (0u32..).zip(entity_id) {
            let mut hasher = DefaultHasher::new();
            hasher.write(id.unwrap_or_default().as_bytes());
            let part = usize::try_from(hasher.finish() % parts as u64).unwrap_or(0);
            if let Some(places) = places.get_mut(part) {
                places.push(at);
            }
        }
        for (part, places) in self.parts.iter_mut().zip(places) {
            if places.is_empty() {
                continue;
            }
            let taken =
                take_record_batch(&rows, &UInt32Array::from(places)).map_err(|error| failed(&error))?;
            self.held += taken.get_array_memory_size();
            part.heaps.entry(schema.version).or_default().batches.push(taken);
        }
        if parts > 1 && self.held > self.memory {
            for heap in self.parts.iter_mut().flat_map(|part| part.heaps.values_mut()) {
                heap.spill(self.store)?;
            }
            self.held = 0;
        }
        Ok(())
    }
}

impl Heap {
    fn spill(&mut self, store: &Store) -> Result<()> {
        let Some(first) = self.batches.first() else { return Ok(()) };
        let writer = match &mut self.spilled {
            Some(writer) => writer,
            none => {
                let file = BufWriter::new(store.scratch_file()?);
                let writer = StreamWriter::try_new(file, &first.schema()).map_err(|error| failed(&error))?;
                none.insert(writer)
            }
        };
        for batch in self.batches.drain(..) {
            writer.write(&batch).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    fn collect(mut self) -> Result<Vec<RecordBatch>> {
        let Some(mut writer) = self.spilled.take() else { return Ok(self.batches) };
        writer.finish().map_err(|error| failed(&error))?;
        let file = writer.into_inner().map_err(|error| failed(&error))?;
        let mut file = file.into_inner().map_err(|error| {
            Error::new(ErrorKind::Io, "a temporary file cannot be written", error.to_string())
        })?;
        file.rewind().map_err(|error| {
            Error::new(ErrorKind::Io, "a temporary file cannot be read", error.to_string())
        })?;
        let reader = StreamReader::try_new(BufReader::new(file), None).map_err(|error| failed(&error))?;
        let mut batches: Vec<RecordBatch> =
            reader.collect::<Result<_, ArrowError>>().map_err(|error| failed(&error))?;
        batches.append(&mut self.batches);
        Ok(batches)
    }
}

/// A version of an entity.
struct Version {
    key: StateKey,
    version: i64,
    /// Null for a row that was carried over.
    began: Option<i64>,
    tombstone: bool,
    schema: i32,
    at: (usize, usize),
}

impl Part {
    /// The rows that belong into the slab, by schema version.
    pub(super) fn rows(self, table: &TableHistory) -> Result<Vec<Gathered>> {
        let mut versions: Vec<Version> = Vec::new();
        let mut gathered: BTreeMap<i32, Gathered> = BTreeMap::new();
        for (number, heap) in self.heaps {
            let schema = Arc::clone(version(table, number, &table.log_name)?);
            let batches = heap.collect()?;
            for (at, batch) in batches.iter().enumerate() {
                let name = &table.log_name;
                let entity_id: &StringArray = column(name, batch, "_entity_id")?;
                let version: &Int64Array = column(name, batch, "_version")?;
                let began: &TimestampMicrosecondArray = column(name, batch, "_valid_from")?;
                let deleted_at: &TimestampMicrosecondArray = column(name, batch, "_deleted_at")?;
                versions.extend((0..batch.num_rows()).map(|row| Version {
                    key: state_key(entity_id.value(row)),
                    version: version.value(row),
                    began: began.is_valid(row).then(|| began.value(row)),
                    tombstone: deleted_at.is_valid(row),
                    schema: number,
                    at: (at, row),
                }));
            }
            gathered.insert(number, Gathered { schema, batches, rows: Vec::new() });
        }
        versions.sort_unstable_by(|a, b| a.key.cmp(&b.key).then(a.version.cmp(&b.version)));
        for (at, row) in versions.iter().enumerate() {
            let next = versions.get(at + 1).filter(|next| next.key == row.key);
            if let Some(next) = next
                && (next.version <= row.version || next.began < row.began)
            {
                let what = format!("versions {} and {} of a row are out of order", row.version, next.version);
                return Err(damaged(&table.log_name, &what));
            }
            if let Some(gathered) = gathered.get_mut(&row.schema).filter(|_| !row.tombstone) {
                let ended = next.and_then(|next| next.began);
                gathered.rows.push(Row { at: row.at, began: row.began, ended });
            }
        }
        Ok(gathered.into_values().collect())
    }
}

pub(super) fn failed(error: &ArrowError) -> Error {
    Error::new(ErrorKind::Io, "rows of a slab cannot be gathered", error.to_string())
}
