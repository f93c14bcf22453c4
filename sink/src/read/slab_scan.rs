//! A table as of a moment by whole columns: the files of the moment's slab, or of the last one before it, filtered. No row of theirs is looked
//! at by itself.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, ListArray, MapArray, RecordBatch, RecordBatchOptions,
    StringArray, TimestampMicrosecondArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema};
use futures_util::{Stream, TryStreamExt};
use parquet::arrow::ProjectionMask;

use super::archive::Kept;
use super::as_of::{FactPlaces, as_time, facts_since};
use super::file::{self, Opened, column};
use super::{Archive, Cut, Reshape, TableHistory};
use crate::entity::{StateKey, state_key};
use crate::error::{Error, ErrorKind, Result};
use crate::fact_file::damaged;
use crate::schema::TableSchema;
use crate::slabs::{BEGAN, ENDED, SlabSet};
use crate::timestamp::Timestamp;

/// A table's rows as of a moment, where slabs answer for them.
#[derive(Clone, Debug)]
pub struct SlabRows {
    /// Those in slabs.
    pub parts: Vec<SlabPart>,
    /// Those among the facts since.
    pub since: FactPlaces,
}

/// Some of a table's rows as of a moment: those in one row group of a slab's file. Parts can be read at the same time.
#[derive(Clone, Debug)]
pub struct SlabPart {
    file: Opened,
    group: usize,
    /// What the wanted columns are called in the file.
    columns: Vec<String>,
    wanted: Wanted,
}

/// Which rows of a slab.
#[derive(Clone, Debug)]
enum Wanted {
    /// Those that lived at a time in its stretch.
    At(Timestamp),
    /// Those that lived at its end, but for those of entities with facts since.
    Carried(Arc<HashSet<StateKey>>),
}

/// Rows of a part.
#[derive(Clone, Debug)]
pub struct SlabBatch {
    /// The wanted columns, in their order.
    pub rows: RecordBatch,
    /// Rows in which the value of one of them stands in `_raw`, and is null here.
    pub raw: usize,
    /// Rows in which one of them is not known, and null here.
    pub unknown: usize,
}

impl SlabRows {
    /// Those of a table as of a moment, in these columns; none where no slab answers for it, or a column had another form in one of its
    /// files, so that rows have to be turned one by one.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub async fn find(
        archive: &Archive,
        table: &TableHistory,
        cut: Cut,
        columns: &Arc<TableSchema>,
    ) -> Result<Option<Self>> {
        let Kept::Files(store) = archive.kept() else { return Ok(None) };
        let slabs = SlabSet::load(store, &table.log_name).await?;
        let time = if slabs.all().is_empty() { None } else { as_time(archive, table, cut).await? };
        let Some(time) = time else { return Ok(None) };
        let within = slabs.at(time);
        let Some(slab) = within.or_else(|| slabs.before(time)) else { return Ok(None) };
        let mut files = Vec::new();
        for file in &slab.files {
            let Some(written) = table.version(file.schema) else { return Ok(None) };
            let reshape = Reshape::new(table, written, columns);
            let Some(columns) = reshape.as_in_files() else { return Ok(None) };
            files.push((file, columns.into_iter().map(str::to_owned).collect::<Vec<String>>()));
        }
        let (wanted, since) = match within {
            Some(_) => (Wanted::At(time), FactPlaces::default()),
            None => {
                let (entities, places) = facts_since(archive, table, slab.to, cut).await?;
                (Wanted::Carried(Arc::new(entities)), places)
            }
        };
        let mut parts = Vec::new();
        for (file, columns) in files {
            let file = Opened::of(store, &file.path, file.bytes).await?;
            let part = |group| SlabPart {
                file: file.clone(),
                group,
                columns: columns.clone(),
                wanted: wanted.clone(),
            };
            parts.extend((0..file.row_groups()).map(part));
        }
        Ok(Some(Self { parts, since }))
    }
}

impl SlabPart {
    /// Its rows.
    ///
    /// # Errors
    /// In the stream too, where the file cannot be read.
    pub fn batches(&self) -> Result<impl Stream<Item = Result<SlabBatch>> + Send + use<>> {
        let builder = self.file.builder().with_row_groups(vec![self.group]);
        let wanted = |name: &str| {
            ["_entity_id", BEGAN, ENDED, "_raw", "_unknown"].contains(&name)
                || self.columns.iter().any(|column| column == name)
        };
        // Roots, not paths: a column may be called like a part of another one.
        let descriptor = builder.parquet_schema();
        let roots = descriptor.root_schema().get_fields().iter().enumerate();
        let roots: Vec<usize> = roots.filter(|(_, field)| wanted(field.name())).map(|(at, _)| at).collect();
        let mask = ProjectionMask::roots(descriptor, roots);
        let path = self.file.path().to_owned();
        let batches = file::read(&path, builder.with_projection(mask))?;
        let part = self.clone();
        Ok(batches
            .map_err(move |error| file::failed(&path, error))
            .try_filter_map(move |batch| std::future::ready(part.take(&batch))))
    }

    /// The rows that lived then.
    fn take(&self, batch: &RecordBatch) -> Result<Option<SlabBatch>> {
        let path = self.file.path();
        let began: &TimestampMicrosecondArray = column(path, batch, BEGAN)?;
        let ended: &TimestampMicrosecondArray = column(path, batch, ENDED)?;
        let lived: BooleanArray = match &self.wanted {
            Wanted::At(Timestamp(time)) => began
                .iter()
                .zip(ended)
                .map(|(began, ended)| {
                    Some(began.is_none_or(|began| began <= *time) && ended.is_none_or(|ended| *time < ended))
                })
                .collect(),
            Wanted::Carried(since) => {
                let entity_id: &StringArray = column(path, batch, "_entity_id")?;
                let carried = |at| ended.is_null(at) && !since.contains(&state_key(entity_id.value(at)));
                (0..batch.num_rows()).map(|at| Some(carried(at))).collect()
            }
        };
        let broken = |error: arrow::error::ArrowError| {
            Error::new(ErrorKind::Damaged, "rows of a slab cannot be filtered", path.to_owned())
                .with_source(error)
        };
        let rows = filter_record_batch(batch, &lived).map_err(broken)?;
        if rows.num_rows() == 0 {
            return Ok(None);
        }
        let arrays: Vec<ArrayRef> = self
            .columns
            .iter()
            .map(|name| {
                rows.column_by_name(name)
                    .cloned()
                    .ok_or_else(|| damaged(path, &format!("it lacks column {name}")))
            })
            .collect::<Result<_>>()?;
        let fields: Vec<Field> = self
            .columns
            .iter()
            .zip(&arrays)
            .map(|(name, array)| Field::new(name, array.data_type().clone(), true))
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let shown = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
            .map_err(broken)?;
        Ok(Some(SlabBatch { raw: self.raw(&rows)?, unknown: self.unknown(&rows)?, rows: shown }))
    }

    fn raw(&self, rows: &RecordBatch) -> Result<usize> {
        let maps: &MapArray = column(self.file.path(), rows, "_raw")?;
        let concerned = |at: &usize| maps.is_valid(*at) && self.names_one(maps.value(*at).column(0));
        Ok(if maps.null_count() == maps.len() { 0 } else { (0..maps.len()).filter(concerned).count() })
    }

    fn unknown(&self, rows: &RecordBatch) -> Result<usize> {
        let lists: &ListArray = column(self.file.path(), rows, "_unknown")?;
        let concerned = |at: &usize| lists.is_valid(*at) && self.names_one(&lists.value(*at));
        Ok(if lists.null_count() == lists.len() { 0 } else { (0..lists.len()).filter(concerned).count() })
    }

    /// One of these names is that of a wanted column.
    fn names_one(&self, names: &ArrayRef) -> bool {
        let mut names = names.as_string_opt::<i32>().into_iter().flatten().flatten();
        names.any(|name| self.columns.iter().any(|column| column == name))
    }
}
