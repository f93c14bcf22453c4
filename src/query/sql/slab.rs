//! Reading a table as of a moment by the parts of a slab, each for itself.

use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures_util::{StreamExt, TryStreamExt, stream};

use bygone_sink::read::{SlabBatch, SlabPart};

use super::scan::tell;

/// The parts as partitions of a plan, which gives their columns the names of the schema.
pub(super) fn partitions(
    parts: Vec<SlabPart>,
    schema: &SchemaRef,
    table: &str,
) -> Vec<Arc<dyn PartitionStream>> {
    let seen = Arc::new(Seen { table: table.to_owned(), rows: Mutex::default() });
    let partition = |part| {
        Arc::new(Partition { part, schema: Arc::clone(schema), seen: Arc::clone(&seen) })
            as Arc<dyn PartitionStream>
    };
    parts.into_iter().map(partition).collect()
}

/// What is to be said of the rows once nobody reads any more.
#[derive(Debug)]
struct Seen {
    table: String,
    /// With a value that stands in `_raw`, and with one that is not known.
    rows: Mutex<[usize; 2]>,
}

impl Seen {
    fn add(&self, batch: &SlabBatch) {
        let [raw, unknown] = &mut *self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        *raw += batch.raw;
        *unknown += batch.unknown;
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        let [raw, unknown] = *self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        tell(&self.table, raw, unknown);
    }
}

#[derive(Debug)]
struct Partition {
    part: SlabPart,
    schema: SchemaRef,
    seen: Arc<Seen>,
}

impl PartitionStream for Partition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _task: Arc<TaskContext>) -> SendableRecordBatchStream {
        let external = |error| DataFusionError::External(Box::new(error));
        let (schema, seen) = (Arc::clone(&self.schema), Arc::clone(&self.seen));
        let rename = move |batch: SlabBatch| -> DataFusionResult<RecordBatch> {
            seen.add(&batch);
            let options = RecordBatchOptions::new().with_row_count(Some(batch.rows.num_rows()));
            let columns = batch.rows.columns().to_vec();
            Ok(RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)?)
        };
        let batches = match self.part.batches() {
            Ok(batches) => batches.map_err(external).map(move |batch| batch.and_then(&rename)).boxed(),
            Err(error) => stream::iter([Err(external(error))]).boxed(),
        };
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches))
    }
}
