//! Rows as a Parquet file: the user's columns alone, under their own names and types.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use bygone_replication::Lsn;
use bygone_sink::batch::{FactBatch, FactHead};
use bygone_sink::fact::{Op, Origin};
use bygone_sink::schema::{SYSTEM_COLUMNS, TableSchema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::error::{Error, Result};

/// A Parquet file that rows are written to.
pub(crate) struct ParquetRows {
    writer: ArrowWriter<File>,
    /// Builds the arrays of rows; what it says beside them is left out.
    batch: FactBatch,
    /// Positions of the columns in a batch of facts.
    columns: Vec<usize>,
    schema: SchemaRef,
}

impl ParquetRows {
    /// A file of some of a table's columns. One that is there is replaced.
    pub(crate) fn create(path: &Path, schema: &Arc<TableSchema>, shown: &[usize]) -> Result<Self> {
        let columns: Vec<usize> = shown.iter().map(|at| SYSTEM_COLUMNS.len() + at).collect();
        let named = columns.iter().zip(shown).filter_map(|(at, column)| {
            let field: &Field = schema.arrow().fields().get(*at)?;
            Some(field.clone().with_name(&schema.columns.get(*column)?.column.name))
        });
        let arrow = Arc::new(Schema::new(named.collect::<Vec<_>>()));
        let file =
            File::create(path).map_err(|error| Error::other(format!("{}: {error}", path.display())))?;
        let properties = WriterProperties::builder()
            .set_created_by(format!("bygone {}", env!("CARGO_PKG_VERSION")))
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .build();
        let writer = ArrowWriter::try_new(file, Arc::clone(&arrow), Some(properties)).map_err(failed)?;
        Ok(Self { writer, batch: FactBatch::new(Arc::clone(schema)), columns, schema: arrow })
    }

    /// Appends a row of the schema.
    pub(crate) fn append(&mut self, row: &[u8]) -> Result<()> {
        let origin = Origin { lsn: Lsn::ZERO, xid: 0, committed_at: 0, valid_from: 0 };
        let head = FactHead {
            entity_id: "",
            version: 0,
            op: Op::Snapshot,
            tombstone: false,
            seq: 0,
            changed: None,
            context: None,
        };
        self.batch.append(&origin, &head, row).map_err(super::changes::damaged)?;
        if self.batch.is_full() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let Some((batch, _)) = self.batch.take().map_err(|error| failed(error.into()))? else {
            return Ok(());
        };
        let arrays = self.columns.iter().filter_map(|at| batch.columns().get(*at).cloned()).collect();
        let batch =
            RecordBatch::try_new(Arc::clone(&self.schema), arrays).map_err(|error| failed(error.into()))?;
        self.writer.write(&batch).map_err(failed)
    }

    /// Writes the end of the file.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.flush()?;
        let file = self.writer.into_inner().map_err(failed)?;
        file.sync_all().map_err(|error| Error::other(format!("the Parquet file cannot be written: {error}")))
    }
}

fn failed(error: parquet::errors::ParquetError) -> Error {
    Error::other(format!("the Parquet file cannot be written: {error}"))
}
