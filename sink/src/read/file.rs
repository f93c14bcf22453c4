//! Parquet files of a history, read in the pieces that are needed.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::{
    AsyncFileReader, ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData,
};
use parquet::file::statistics::Statistics;

use crate::error::{Error, Result};
use crate::fact_file::{damaged, rows_at_once};
use crate::log::Add;
use crate::store::Store;

/// The end of a file that is read at first: footers of small files fit in, so that one request tells all.
const FOOTER: usize = 64 << 10;
/// Pieces of one file, or files, that are asked for at the same time.
const REQUESTS: usize = 8;
/// Two pieces are asked for as one where no more than this lies between: a request to a bucket takes as long as a
/// megabyte does, and one to a disk no longer than some kilobytes.
const GAP: u64 = 1 << 20;
const LOCAL_GAP: u64 = 16 << 10;

/// A file in a store.
#[derive(Clone, Debug)]
pub(crate) struct StoredFile {
    store: Store,
    path: String,
    bytes: u64,
    /// Its end, which came with the footer: of a small file that is all.
    end: Option<Bytes>,
}

impl StoredFile {
    async fn range(&self, range: Range<u64>) -> parquet::errors::Result<Bytes> {
        if let Some(known) = self.of_end(&range) {
            return Ok(known);
        }
        self.store.get_range(&self.path, range).await.map_err(|error| ParquetError::External(Box::new(error)))
    }

    /// A piece that lies in the end of the file.
    fn of_end(&self, range: &Range<u64>) -> Option<Bytes> {
        let end = self.end.as_ref()?;
        let begins = self.bytes.checked_sub(end.len() as u64)?;
        let from = usize::try_from(range.start.checked_sub(begins)?).ok()?;
        let to = usize::try_from(range.end.checked_sub(begins)?).ok()?;
        (from <= to && to <= end.len()).then(|| end.slice(from..to))
    }
}

impl AsyncFileReader for StoredFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move {
            let is_end = range.end == self.bytes;
            let bytes = self.range(range).await?;
            if is_end && self.end.is_none() {
                self.end = Some(bytes.clone());
            }
            Ok(bytes)
        }
        .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move {
            let file = &*self;
            let gap = if file.store.local_root().is_some() { LOCAL_GAP } else { GAP };
            let pieces: Vec<(Range<u64>, Bytes)> = stream::iter(merged(&ranges, gap))
                .map(|piece| async move { Ok::<_, ParquetError>((piece.clone(), file.range(piece).await?)) })
                .buffered(REQUESTS)
                .try_collect()
                .await?;
            ranges.iter().map(|range| cut_out(&pieces, range)).collect()
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let reader = ParquetMetaDataReader::new()
                .with_arrow_reader_options(options)
                .with_prefetch_hint(Some(FOOTER));
            let bytes = self.bytes;
            Ok(Arc::new(reader.load_and_finish(self, bytes).await?))
        }
        .boxed()
    }
}

/// The ranges, those that nearly touch as one.
fn merged(ranges: &[Range<u64>], gap: u64) -> Vec<Range<u64>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(gap) => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

fn cut_out(pieces: &[(Range<u64>, Bytes)], range: &Range<u64>) -> parquet::errors::Result<Bytes> {
    let found = pieces.iter().find(|(piece, _)| piece.start <= range.start && range.end <= piece.end);
    let cut = found.and_then(|(piece, bytes)| {
        let from = usize::try_from(range.start - piece.start).ok()?;
        let to = usize::try_from(range.end - piece.start).ok()?;
        (to <= bytes.len() && from <= to).then(|| bytes.slice(from..to))
    });
    cut.ok_or_else(|| ParquetError::General("a piece of the file is missing".to_owned()))
}

pub(crate) type Builder = ParquetRecordBatchStreamBuilder<StoredFile>;
pub(crate) type Batches = ParquetRecordBatchStream<StoredFile>;

/// A file whose footer was read.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    file: StoredFile,
    metadata: ArrowReaderMetadata,
}

impl Opened {
    pub(crate) async fn of(store: &Store, path: &str, bytes: u64) -> Result<Self> {
        let mut file = StoredFile { store: store.clone(), path: path.to_owned(), bytes, end: None };
        // Offsets let a reader that wants some rows skip the pages without any.
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata =
            ArrowReaderMetadata::load_async(&mut file, options).await.map_err(|error| failed(path, error))?;
        Ok(Self { file, metadata })
    }

    pub(crate) fn path(&self) -> &str {
        &self.file.path
    }

    pub(crate) fn row_groups(&self) -> usize {
        self.metadata.metadata().num_row_groups()
    }

    /// No row of a row group has a value of a column that is a list or a map, as its statistics say.
    pub(crate) fn has_none(&self, group: usize, name: &str) -> bool {
        has_none(self.metadata.metadata().row_group(group), name)
    }

    /// A reader of it.
    pub(crate) fn builder(&self) -> Builder {
        let (file, metadata) = (self.file.clone(), self.metadata.clone());
        let rows = rows_at_once(metadata.metadata());
        ParquetRecordBatchStreamBuilder::new_with_metadata(file, metadata).with_batch_size(rows)
    }
}

/// The columns of a file that are wanted, by their names.
pub(crate) fn mask(builder: &Builder, is_wanted: impl Fn(&str) -> bool) -> ProjectionMask {
    // Roots, not paths: a column may be called like a part of another one.
    let descriptor = builder.parquet_schema();
    let roots = descriptor.root_schema().get_fields().iter().enumerate();
    let wanted: Vec<usize> = roots.filter(|(_, field)| is_wanted(field.name())).map(|(at, _)| at).collect();
    ProjectionMask::roots(descriptor, wanted)
}

/// Opens a file by its footer.
pub(crate) async fn open(store: &Store, path: &str, bytes: u64) -> Result<Builder> {
    Ok(Opened::of(store, path, bytes).await?.builder())
}

/// Opens files in their order, some ahead of whoever reads them: a bucket takes its time for each.
pub(crate) fn opened(store: &Store, files: &[&Add]) -> impl Stream<Item = Result<Builder>> + use<> {
    let files: Vec<(String, u64)> = files.iter().map(|add| (add.path.clone(), add.bytes)).collect();
    let store = store.clone();
    stream::iter(files)
        .map(move |(path, bytes)| {
            let store = store.clone();
            async move { open(&store, &path, bytes).await }
        })
        .buffered(REQUESTS)
}

pub(crate) fn read(path: &str, builder: Builder) -> Result<Batches> {
    builder.build().map_err(|error| failed(path, error))
}

pub(crate) async fn next(path: &str, batches: &mut Batches) -> Result<Option<RecordBatch>> {
    batches.try_next().await.map_err(|error| failed(path, error))
}

/// What the store said, where it was the store; else the file is damaged.
pub(super) fn failed(path: &str, error: ParquetError) -> Error {
    match error {
        ParquetError::External(source) => match source.downcast::<Error>() {
            Ok(error) => *error,
            Err(source) => damaged(path, &source.to_string()),
        },
        error => damaged(path, &error.to_string()).with_source(error),
    }
}

/// A column of a batch, as an array of its type.
pub(crate) fn column<'a, T: 'static>(path: &str, batch: &'a RecordBatch, name: &str) -> Result<&'a T> {
    batch
        .column_by_name(name)
        .and_then(|array: &ArrayRef| array.as_any().downcast_ref())
        .ok_or_else(|| damaged(path, &format!("it lacks column {name}, or that has another type")))
}

/// How many rows of a file have no value in a column, as its statistics say.
pub(crate) async fn null_count(store: &Store, path: &str, bytes: u64, name: &str) -> Result<u64> {
    let builder = open(store, path, bytes).await?;
    let counts =
        builder.metadata().row_groups().iter().map(|group| statistics(group, name)?.null_count_opt());
    counts.sum::<Option<u64>>().ok_or_else(|| damaged(path, &format!("no statistics count nulls of {name}")))
}

/// The least and the greatest whole number of a column in a row group, where its statistics say.
pub(crate) fn integer_bounds(group: &RowGroupMetaData, name: &str) -> Option<(i64, i64)> {
    match statistics(group, name)? {
        Statistics::Int64(bounds) => Some((*bounds.min_opt()?, *bounds.max_opt()?)),
        _ => None,
    }
}

/// No text of the column in a row group is this one, as its statistics say.
pub(crate) fn excludes_text(group: &RowGroupMetaData, name: &str, text: &str) -> bool {
    match statistics(group, name) {
        // Bounds may be cut short, and are then still bounds.
        Some(Statistics::ByteArray(bounds)) => {
            let below = bounds.min_opt().is_some_and(|min| text.as_bytes() < min.data());
            let above = bounds.max_opt().is_some_and(|max| text.as_bytes() > max.data());
            below || above
        }
        _ => false,
    }
}

fn has_none(group: &RowGroupMetaData, name: &str) -> bool {
    let is_part =
        |column: &&ColumnChunkMetaData| column.column_path().parts().first().is_some_and(|root| root == name);
    group.columns().iter().find(is_part).is_some_and(|column| {
        let nulls = column.statistics().and_then(Statistics::null_count_opt);
        // What is counted is of the first part: of a row without a value it is one null.
        nulls.is_some_and(|nulls| u64::try_from(column.num_values()).is_ok_and(|all| nulls == all))
    })
}

fn statistics<'a>(group: &'a RowGroupMetaData, name: &str) -> Option<&'a Statistics> {
    let is_it = |column: &&ColumnChunkMetaData| column.column_path().string() == name;
    group.columns().iter().find(is_it)?.statistics()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Location, StoreOptions};

    #[test]
    fn near_pieces_are_one_request_and_come_apart_again() {
        let ranges = [10..20, 0..5, GAP * 2..GAP * 2 + 4];
        let asked = merged(&ranges, GAP);
        assert_eq!(asked, [0..20, GAP * 2..GAP * 2 + 4]);
        let pieces: Vec<_> = asked
            .into_iter()
            .map(|piece| (piece.clone(), piece.map(|at| (at % 251) as u8).collect::<Bytes>()))
            .collect();
        for range in &ranges {
            let expected: Bytes = range.clone().map(|at| (at % 251) as u8).collect();
            assert_eq!(cut_out(&pieces, range).unwrap(), expected);
        }
        assert!(cut_out(&pieces, &(18..22)).is_err());
    }

    #[test]
    fn what_came_with_the_footer_is_not_asked_for_again() {
        let scratch = tempfile::tempdir().unwrap();
        let location = Location::Local(scratch.path().to_owned());
        let store = Store::open(&location, &StoreOptions::default()).unwrap();
        let end = Some(Bytes::from_static(b"0123456789"));
        let file = StoredFile { store, path: "gone".to_owned(), bytes: 30, end };
        assert_eq!(file.of_end(&(20..30)).unwrap(), "0123456789");
        assert_eq!(file.of_end(&(22..24)).unwrap(), "23");
        assert_eq!(file.of_end(&(19..21)), None);
        assert_eq!(file.of_end(&(22..31)), None);
        assert_eq!(StoredFile { end: None, ..file }.of_end(&(22..24)), None);
    }
}
