//! A table as of a moment by whole columns: the files of the moment's slab, or of the last one before it, filtered. No row of theirs is looked
//! at by itself.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, StringArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::mpsc;

use super::archive::Kept;
use super::as_of::{FactPlaces, as_time, facts_since};
use super::file::{self, Opened, column};
use super::{Archive, Cut, Reshape, TableHistory};
use crate::entity::{StateKey, state_key};
use crate::error::{Error, ErrorKind, Result};
use crate::fact_file::{Notes, damaged};
use crate::schema::TableSchema;
use crate::slabs::{BEGAN, ENDED, Slab, SlabFile, SlabSet};
use crate::store::Store;
use crate::timestamp::Timestamp;

/// Parts that are read at the same time.
const AT_ONCE: usize = 2;
/// Batches of each that wait for who reads them.
const AHEAD: usize = 2;

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
    rows: Lived,
    /// What the wanted columns are called in the file.
    columns: Vec<String>,
}

/// The rows of a row group of a slab's file that are wanted.
#[derive(Clone, Debug)]
pub(super) struct Lived {
    file: Opened,
    schema: i32,
    group: usize,
    wanted: Wanted,
}

/// Which rows of a slab.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
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
        let Some(answering) = Answering::find(archive, table, cut).await? else { return Ok(None) };
        let mut files = Vec::new();
        for file in &answering.slab.files {
            let Some(written) = table.version(file.schema) else { return Ok(None) };
            let reshape = Reshape::new(table, written, columns);
            let Some(columns) = reshape.as_in_files() else { return Ok(None) };
            files.push((file, columns.into_iter().map(str::to_owned).collect::<Vec<String>>()));
        }
        let (wanted, since) = answering.wanted(archive, table, cut).await?;
        let mut parts = Vec::new();
        for (file, columns) in files {
            let lived = Lived::in_file(store, file, &wanted).await?;
            parts.extend(lived.into_iter().map(|rows| SlabPart { rows, columns: columns.clone() }));
        }
        Ok(Some(Self { parts, since }))
    }
}

/// The slab that answers for a table as of a moment.
#[derive(Debug)]
pub(super) struct Answering {
    pub(super) slab: Slab,
    /// The moment, where it lies in the slab's stretch; none where it lies behind.
    within: Option<Timestamp>,
}

impl Answering {
    /// None where no slab does: the table has none, or the moment lies before the first or between facts of one time.
    pub(super) async fn find(archive: &Archive, table: &TableHistory, cut: Cut) -> Result<Option<Self>> {
        let slabs = SlabSet::load(archive.store()?, &table.log_name).await?.up_to(archive.known_until().0);
        let time = if slabs.all().is_empty() { None } else { as_time(archive, table, cut).await? };
        Ok(time.and_then(|time| {
            let within = slabs.at(time).map(|slab| Self { slab: slab.clone(), within: Some(time) });
            within.or_else(|| Some(Self { slab: slabs.before(time)?.clone(), within: None }))
        }))
    }

    /// Which of its rows are wanted, and where the others stand among the facts since.
    pub(super) async fn wanted(
        &self,
        archive: &Archive,
        table: &TableHistory,
        cut: Cut,
    ) -> Result<(Wanted, FactPlaces)> {
        if let Some(time) = self.within {
            return Ok((Wanted::At(time), FactPlaces::default()));
        }
        let (entities, places) = facts_since(archive, table, self.slab.to, cut).await?;
        Ok((Wanted::Carried(Arc::new(entities)), places))
    }
}

impl Lived {
    /// Those of a file, by row group.
    pub(super) async fn in_file(store: &Store, file: &SlabFile, wanted: &Wanted) -> Result<Vec<Self>> {
        let opened = Opened::of(store, &file.path, file.bytes).await?;
        let of = |group| Self { file: opened.clone(), schema: file.schema, group, wanted: wanted.clone() };
        Ok((0..opened.row_groups()).map(of).collect())
    }

    pub(super) fn path(&self) -> &str {
        self.file.path()
    }

    /// The schema version of the rows.
    pub(super) const fn schema(&self) -> i32 {
        self.schema
    }

    /// What there is to be read about values that their column does not have. Hardly ever is there any, and to read that takes as
    /// long as to read a column of numbers: statistics say so.
    pub(super) fn notes(&self) -> Notes {
        Notes {
            unknown: !self.file.has_none(self.group, "_unknown"),
            raw: !self.file.has_none(self.group, "_raw"),
        }
    }

    /// The rows: these of the user's columns, `_entity_id` if `whose` they are is asked, and what [`Lived::notes`] says.
    ///
    /// # Errors
    /// In the stream too, where the file cannot be read.
    pub(super) fn batches(
        &self,
        is_wanted: &dyn Fn(&str) -> bool,
        whose: bool,
    ) -> Result<impl Stream<Item = Result<RecordBatch>> + Send + use<>> {
        let builder = self.file.builder().with_row_groups(vec![self.group]);
        let notes = self.notes();
        let mask = file::mask(&builder, |name| match name {
            BEGAN | ENDED => true,
            "_entity_id" => whose || matches!(self.wanted, Wanted::Carried(_)),
            "_raw" => notes.raw,
            "_unknown" => notes.unknown,
            name => is_wanted(name),
        });
        let path = self.path().to_owned();
        let batches = file::read(&path, builder.with_projection(mask))?;
        let this = self.clone();
        Ok(batches
            .map_err(move |error| file::failed(&path, error))
            .try_filter_map(move |batch| std::future::ready(this.filter(&batch))))
    }

    fn filter(&self, batch: &RecordBatch) -> Result<Option<RecordBatch>> {
        let path = self.path();
        let began: &TimestampMicrosecondArray = column(path, batch, BEGAN)?;
        let ended: &TimestampMicrosecondArray = column(path, batch, ENDED)?;
        let lived = match &self.wanted {
            Wanted::At(Timestamp(time)) => BooleanBuffer::collect_bool(batch.num_rows(), |at| {
                (began.is_null(at) || began.value(at) <= *time)
                    && (ended.is_null(at) || *time < ended.value(at))
            }),
            Wanted::Carried(since) => {
                let entity_id: &StringArray = column(path, batch, "_entity_id")?;
                let carried = |at| ended.is_null(at) && !since.contains(&state_key(entity_id.value(at)));
                BooleanBuffer::collect_bool(batch.num_rows(), carried)
            }
        };
        let lived = BooleanArray::from(lived);
        if lived.true_count() == 0 {
            return Ok(None);
        }
        let kept = batch.schema_ref().fields().iter().enumerate();
        let kept: Vec<usize> = kept
            .filter(|(_, field)| ![BEGAN, ENDED].contains(&field.name().as_str()))
            .map(|(at, _)| at)
            .collect();
        let rows = batch.project(&kept).and_then(|rows| filter_record_batch(&rows, &lived));
        rows.map(Some).map_err(|error| broken(path, error))
    }
}

/// The rows of parts, part by part; some parts are read ahead by tasks of their own.
///
/// The end of a channel is the end of its part. A task that panics would look alike: in the program a panic of any thread ends the
/// process, and `verify`, which goes on, does not read by this.
pub(super) fn read_ahead(
    parts: &[Lived],
    is_wanted: &dyn Fn(&str) -> bool,
) -> Result<impl Stream<Item = (Lived, mpsc::Receiver<Result<RecordBatch>>)> + use<>> {
    let readers: Vec<_> =
        parts.iter().map(|part| Ok((part.clone(), part.batches(is_wanted, true)?))).collect::<Result<_>>()?;
    Ok(stream::iter(readers)
        .map(|(part, batches)| async move {
            let (sender, receiver) = mpsc::channel(AHEAD);
            tokio::spawn(async move {
                let mut batches = std::pin::pin!(batches);
                while let Some(batch) = batches.next().await {
                    // Whoever reads has seen enough.
                    if sender.send(batch).await.is_err() {
                        break;
                    }
                }
            });
            (part, receiver)
        })
        .buffered(AT_ONCE))
}

fn broken(path: &str, error: arrow::error::ArrowError) -> Error {
    Error::new(ErrorKind::Damaged, "rows of a slab cannot be filtered", path.to_owned()).with_source(error)
}

impl SlabPart {
    /// Its rows.
    ///
    /// # Errors
    /// In the stream too, where the file cannot be read.
    pub fn batches(&self) -> Result<impl Stream<Item = Result<SlabBatch>> + Send + use<>> {
        let is_wanted = |name: &str| self.columns.iter().any(|column| column == name);
        let part = self.clone();
        Ok(self.rows.batches(&is_wanted, false)?.and_then(move |batch| std::future::ready(part.take(&batch))))
    }

    fn take(&self, batch: &RecordBatch) -> Result<SlabBatch> {
        let path = self.rows.path();
        let arrays: Vec<ArrayRef> = self
            .columns
            .iter()
            .map(|name| {
                batch
                    .column_by_name(name)
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
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let rows = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
            .map_err(|error| broken(path, error))?;
        let raw = batch.column_by_name("_raw").map_or(Ok(0), |said| self.raw(said))?;
        let unknown = batch.column_by_name("_unknown").map_or(Ok(0), |said| self.unknown(said))?;
        Ok(SlabBatch { rows, raw, unknown })
    }

    fn raw(&self, said: &ArrayRef) -> Result<usize> {
        let maps = said.as_map_opt().ok_or_else(|| damaged(self.rows.path(), "its _raw is no map"))?;
        let concerned = |at: &usize| maps.is_valid(*at) && self.names_one(maps.value(*at).column(0));
        Ok(if maps.null_count() == maps.len() { 0 } else { (0..maps.len()).filter(concerned).count() })
    }

    fn unknown(&self, said: &ArrayRef) -> Result<usize> {
        let lists = said.as_list_opt::<i32>();
        let lists = lists.ok_or_else(|| damaged(self.rows.path(), "its _unknown is no list"))?;
        let concerned = |at: &usize| lists.is_valid(*at) && self.names_one(&lists.value(*at));
        Ok(if lists.null_count() == lists.len() { 0 } else { (0..lists.len()).filter(concerned).count() })
    }

    /// One of these names is that of a wanted column.
    fn names_one(&self, names: &ArrayRef) -> bool {
        let mut names = names.as_string_opt::<i32>().into_iter().flatten().flatten();
        names.any(|name| self.columns.iter().any(|column| column == name))
    }
}
