//! Fact files whose facts have values that are on a shelf: such a value goes from there into the file as it is packed.
//!
//! Each fact is a row group of its own, and each of its large values a column chunk of one page ([`Shelf`](crate::shelf::Shelf)
//! keeps pages). Readers find nothing unusual in it.

use std::io::{self, Cursor, Read, Write};
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::{Buf as _, Bytes};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{CompressedPage, Page, PageWriter as _};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ColumnChunkMetaData, OffsetIndexBuilder};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::writer::{SerializedFileWriter, SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use crate::batch::{LargeCell, Span};
use crate::encoder::{Target, arrow_bug, parquet_bug};
use crate::error::{Error, ErrorKind, Result};
use crate::parquet_layout;
use crate::shelf;
use crate::store::{StagedFile, Store};

/// A file of facts with large values, while it is written.
pub(crate) struct LargeFile {
    pub(crate) target: Target,
    pub(crate) rows: u64,
    /// None before the first fact.
    pub(crate) span: Option<Span>,
    writer: SerializedFileWriter<StagedFile>,
    columns: ArrowRowGroupWriterFactory,
}

impl LargeFile {
    pub(crate) fn create(store: &Store, target: Target) -> Result<Self> {
        let properties = parquet_layout::properties(&target.schema);
        let writer = ArrowWriter::try_new(store.stage()?, Arc::clone(&target.schema), Some(properties));
        let (writer, columns) = writer.and_then(ArrowWriter::into_serialized_writer).map_err(parquet_bug)?;
        Ok(Self { target, rows: 0, span: None, writer, columns })
    }

    /// Appends a fact, a batch of one. Returns the bytes of the file so far.
    pub(crate) fn append(&mut self, fact: &RecordBatch, values: &[LargeCell]) -> Result<u64> {
        let span = Span::of(fact).map_err(arrow_bug)?;
        self.span = Some(self.span.map_or(span, |all| all.and(span)));
        self.rows += 1;
        let groups = self.writer.flushed_row_groups().len();
        let mut writers = self.columns.create_column_writers(groups).map_err(parquet_bug)?.into_iter();
        let descriptors = self.writer.schema_descr().columns().to_vec();
        let mut leaf = 0;
        let mut group = self.writer.next_row_group().map_err(parquet_bug)?;
        for (at, (field, array)) in self.target.schema.fields().iter().zip(fact.columns()).enumerate() {
            if let Some(cell) = values.iter().find(|cell| cell.column == at) {
                // A text or bytes is one leaf.
                drop(writers.next());
                let descriptor = descriptors.get(leaf).ok_or_else(|| bug("a column is missing"))?;
                leaf += 1;
                let (chunk, closed) = chunk(descriptor, cell.shelf.page(cell.value)?).map_err(parquet_bug)?;
                group.append_column(&chunk, closed).map_err(parquet_bug)?;
                continue;
            }
            for values in compute_leaves(field, array).map_err(parquet_bug)? {
                leaf += 1;
                let mut writer = writers.next().ok_or_else(|| bug("a column is missing"))?;
                writer.write(&values).map_err(parquet_bug)?;
                writer
                    .close()
                    .and_then(|chunk| chunk.append_to_row_group(&mut group))
                    .map_err(parquet_bug)?;
            }
        }
        group.close().map_err(parquet_bug)?;
        Ok(self.writer.bytes_written() as u64)
    }

    /// Ends the file.
    pub(crate) fn finish(self) -> Result<StagedFile> {
        self.writer.into_inner().map_err(parquet_bug)
    }
}

fn bug(what: &str) -> Error {
    Error::new(ErrorKind::Io, "a Parquet file cannot be encoded", what)
}

/// The column chunk of one page of one value.
fn chunk(descriptor: &ColumnDescPtr, page: shelf::Page) -> ParquetResult<(Chunk, ColumnCloseResult)> {
    if (descriptor.max_def_level(), descriptor.max_rep_level()) != (1, 0) {
        return Err(ParquetError::General("a large value of a column that is no text and no bytes".into()));
    }
    let shelf::Page { body, unpacked } = page;
    let page = Page::DataPage {
        buf: body.clone(),
        num_values: 1,
        encoding: Encoding::PLAIN,
        def_level_encoding: Encoding::RLE,
        rep_level_encoding: Encoding::RLE,
        statistics: None,
    };
    let mut sink = TrackedWrite::new(Head::default());
    let written = SerializedPageWriter::new(&mut sink).write_page(CompressedPage::new(page, unpacked))?;
    let mut head = sink.into_inner()?.0;
    head.truncate(written.compressed_size - body.len());
    let signed = |size: usize| i64::try_from(size).map_err(|error| ParquetError::External(error.into()));
    let (packed, plain) = (signed(written.compressed_size)?, signed(written.uncompressed_size)?);
    let metadata = ColumnChunkMetaData::builder(Arc::clone(descriptor))
        .set_compression(Compression::ZSTD(Default::default()))
        .set_encodings(vec![Encoding::PLAIN, Encoding::RLE])
        .set_num_values(1)
        .set_total_compressed_size(packed)
        .set_total_uncompressed_size(plain)
        .set_data_page_offset(0)
        .build()?;
    let mut index = OffsetIndexBuilder::new();
    index.append_row_count(1);
    let page_size = i32::try_from(packed).map_err(|error| ParquetError::External(error.into()))?;
    index.append_offset_and_size(0, page_size);
    let closed = ColumnCloseResult {
        bytes_written: written.bytes_written,
        rows_written: 1,
        metadata,
        bloom_filter: None,
        column_index: None,
        offset_index: Some(index.build()),
    };
    Ok((Chunk { head: head.into(), body }, closed))
}

/// Keeps the beginning of what is written: the head of a page, which names the sizes of what follows.
#[derive(Default)]
struct Head(Vec<u8>);

impl Head {
    /// Longer than any head without statistics.
    const KEPT: usize = 1024;
}

impl Write for Head {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = Self::KEPT.saturating_sub(self.0.len()).min(bytes.len());
        self.0.extend_from_slice(bytes.get(..room).unwrap_or_default());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A page with its head, without being copied together.
struct Chunk {
    head: Bytes,
    body: Bytes,
}

impl Length for Chunk {
    fn len(&self) -> u64 {
        (self.head.len() + self.body.len()) as u64
    }
}

impl ChunkReader for Chunk {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        if start != 0 {
            return Err(ParquetError::General("a page is read from its start".into()));
        }
        Ok(Box::new(Read::chain(Cursor::new(self.head.clone()), self.body.clone().reader())))
    }

    fn get_bytes(&self, _start: u64, _length: usize) -> ParquetResult<Bytes> {
        Err(ParquetError::General("a page is read as a stream".into()))
    }
}
