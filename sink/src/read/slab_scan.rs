//! A table as of a moment by whole columns: the files of the moment's slab, filtered. No row is looked at by itself.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, ListArray, MapArray, RecordBatch, RecordBatchOptions,
    TimestampMicrosecondArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema};
use futures_util::{Stream, TryStreamExt};
use parquet::arrow::ProjectionMask;

use super::archive::Kept;
use super::as_of::as_time;
use super::file::{self, Opened, column};
use super::{Archive, Cut, Reshape, TableHistory};
use crate::error::{Error, ErrorKind, Result};
use crate::fact_file::damaged;
use crate::schema::TableSchema;
use crate::slabs::{BEGAN, ENDED, SlabSet};
use crate::timestamp::Timestamp;

/// Some of a table's rows as of a moment: those in one row group of a slab's file. Parts can be read at the same time.
#[derive(Clone, Debug)]
pub struct SlabPart {
    file: Opened,
    group: usize,
    /// What the wanted columns are called in the file.
    columns: Vec<String>,
    time: Timestamp,
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

impl SlabPart {
    /// All parts of a table as of a moment, for these columns; none where no slab answers for it, or a column had another form in one of
    /// its files, so that rows have to be turned one by one.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub async fn all(
        archive: &Archive,
        table: &TableHistory,
        cut: Cut,
        columns: &Arc<TableSchema>,
    ) -> Result<Option<Vec<Self>>> {
        let Kept::Files(store) = archive.kept() else { return Ok(None) };
        let slabs = SlabSet::load(store, &table.log_name).await?;
        let time = if slabs.all().is_empty() { None } else { as_time(archive, table, cut).await? };
        let Some((slab, time)) = time.and_then(|time| Some((slabs.at(time)?, time))) else { return Ok(None) };
        let mut parts = Vec::new();
        for slab_file in &slab.files {
            let Some(written) = table.version(slab_file.schema) else { return Ok(None) };
            let reshape = Reshape::new(table, written, columns);
            let Some(columns) = reshape.as_in_files() else { return Ok(None) };
            let file = Opened::of(store, &slab_file.path, slab_file.bytes).await?;
            let columns: Vec<String> = columns.into_iter().map(str::to_owned).collect();
            let part = |group| Self { file: file.clone(), group, columns: columns.clone(), time };
            parts.extend((0..file.row_groups()).map(part));
        }
        Ok(Some(parts))
    }

    /// Its rows.
    ///
    /// # Errors
    /// In the stream too, where the file cannot be read.
    pub fn batches(&self) -> Result<impl Stream<Item = Result<SlabBatch>> + Send + use<>> {
        let builder = self.file.builder().with_row_groups(vec![self.group]);
        let wanted = |name: &str| {
            [BEGAN, ENDED, "_raw", "_unknown"].contains(&name)
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
        let time = self.time.0;
        let lived: BooleanArray = began
            .iter()
            .zip(ended)
            .map(|(began, ended)| {
                Some(began.is_none_or(|began| began <= time) && ended.is_none_or(|ended| time < ended))
            })
            .collect();
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
