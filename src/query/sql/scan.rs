//! Reading a relation: a thread walks over facts and sends batches of rows.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{
    Array as _, ArrayRef, Int32Builder, ListBuilder, RecordBatch, RecordBatchOptions, StringBuilder,
    TimestampMicrosecondBuilder,
};
use datafusion::arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use bygone_replication::Lsn;
use bygone_sink::batch::{FactBatch, FactHead};
use bygone_sink::fact::{Context, Op, Origin};
use bygone_sink::read::{
    Archive, AsOf, Columns, Cut, Fact, FactFilter, Flow, Head, LiveRow, OwnedFact, SlabPart, TableHistory,
};
use bygone_sink::schema::{SYSTEM_COLUMNS, SchemaColumn, TableSchema};

use super::super::changes::{Shaper, damaged};
use super::super::counted;
use super::relation::{Shape, VALID_TO, with_columns};
use super::slab;
use crate::error::{Error, Result};

/// Batches that wait for who reads them.
const AHEAD: usize = 2;
/// How long the walk sleeps while nobody takes what it found.
const PATIENCE: Duration = Duration::from_micros(500);

/// Which facts.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// All of them.
    History,
    /// The last of each entity at a moment, if it lives.
    At(Cut),
}

/// A relation to be read.
#[derive(Clone, Debug)]
pub(super) struct Scan {
    pub(super) archive: Arc<Archive>,
    pub(super) table: Arc<TableHistory>,
    pub(super) what: What,
    pub(super) filter: FactFilter,
    pub(super) limit: Option<usize>,
}

/// A column of the result.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The user's, at this position of the target.
    User(usize),
    /// A system column, at this position of a fact.
    System(usize),
    ValidTo,
}

impl Scan {
    /// The plan that gives these columns of the shape.
    pub(super) async fn plan(
        self,
        shape: &Shape,
        projection: Option<&Vec<usize>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..shape.arrow.fields().len()).collect();
        let wanted = projection.unwrap_or(&all);
        let schema = Arc::new(shape.arrow.project(wanted)?);
        let mut columns: Vec<SchemaColumn> = Vec::new();
        let mut sources = Vec::with_capacity(wanted.len());
        for at in wanted {
            match (shape.target.columns.get(*at), at.checked_sub(shape.users())) {
                (Some(column), _) => {
                    sources.push(Source::User(columns.len()));
                    columns.push(column.clone());
                }
                (None, Some(system)) if system < SYSTEM_COLUMNS.len() => sources.push(Source::System(system)),
                _ => sources.push(Source::ValidTo),
            }
        }
        // `_unknown` and `_raw` speak of all columns.
        let of_all = sources.iter().any(|source| match source {
            Source::System(at) => matches!(SYSTEM_COLUMNS.get(*at), Some(&("_unknown" | "_raw"))),
            _ => false,
        });
        let target = if of_all {
            for (source, at) in sources.iter_mut().zip(wanted) {
                if matches!(source, Source::User(_)) {
                    *source = Source::User(*at);
                }
            }
            Arc::clone(&shape.target)
        } else {
            with_columns(&shape.target, columns)
        };
        let limit = self.limit;
        let parts = if sources.iter().all(|source| matches!(source, Source::User(_))) {
            self.parts(&target).await.map_err(|error| DataFusionError::External(Box::new(error)))?
        } else {
            None
        };
        let partitions = match parts {
            Some(parts) => slab::partitions(parts, &schema, &target.name.name),
            None => {
                let partition = Partition { scan: self, target, sources, schema: Arc::clone(&schema) };
                vec![Arc::new(partition) as Arc<dyn PartitionStream>]
            }
        };
        let plan = StreamingTableExec::try_new(schema, partitions, None, None, false, limit)?;
        Ok(Arc::new(plan))
    }

    /// The parts of the slab that holds the rows, where one does.
    async fn parts(&self, target: &Arc<TableSchema>) -> Result<Option<Vec<SlabPart>>> {
        match (self.what, &self.filter.entities) {
            (What::At(cut), None) => {
                let parts = SlabPart::all(&self.archive, &self.table, cut, target).await?;
                Ok(parts.filter(|parts| !parts.is_empty()))
            }
            _ => Ok(None),
        }
    }
}

#[derive(Debug)]
struct Partition {
    scan: Scan,
    target: Arc<TableSchema>,
    sources: Vec<Source>,
    schema: SchemaRef,
}

impl PartitionStream for Partition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _task: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (scan, target) = (self.scan.clone(), Arc::clone(&self.target));
        let (sources, schema) = (self.sources.clone(), Arc::clone(&self.schema));
        // Facts are visited one by one in the midst of a walk, which cannot wait there for a reader: it has a thread.
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let done = runtime.block_on(async {
                let begins = match sources.iter().any(|source| matches!(source, Source::ValidTo)) {
                    true => Some(Begins::of(&scan).await?),
                    false => None,
                };
                let mut sink = Rows::new(&scan.table, &target, sources, schema, begins, sender.clone());
                scan.walk(&target, &mut sink).await?;
                sink.finish()
            });
            if let Err(error) = done {
                let _ = send(&sender, Err(DataFusionError::External(Box::new(error))));
            }
        });
        let batches = stream::unfold(receiver, |mut receiver| async {
            let batch = receiver.recv().await?;
            Some((batch, receiver))
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches))
    }
}

impl Scan {
    async fn walk(&self, target: &Arc<TableSchema>, sink: &mut Rows<'_>) -> Result<()> {
        let columns = self.columns(target);
        let table = &*self.table;
        let mut left = self.limit.unwrap_or(usize::MAX);
        let mut take = |row: &LiveRow<'_>, head: Option<&Head>| {
            if left == 0 {
                return Flow::Break(());
            }
            left -= 1;
            sink.take(row, head)
        };
        match (self.what, &self.filter.entities) {
            (What::History, _) => {
                let mut take = |fact: &Fact<'_>| take(&live_row(fact), Some(fact.head));
                self.archive.facts(table, &self.filter, &columns, &mut take).await?;
            }
            (What::At(cut), None) => {
                let mut take = |row: &LiveRow<'_>| take(row, None);
                AsOf::find(&self.archive, table, cut).await?.rows(&columns, &mut take).await?;
            }
            (What::At(cut), Some(entities)) => {
                let filter = FactFilter {
                    until: Some(cut),
                    entities: Some(entities.clone()),
                    ..FactFilter::default()
                };
                let mut last: HashMap<String, OwnedFact> = HashMap::new();
                let mut keep = |fact: &Fact<'_>| {
                    let known = last.get(&fact.head.entity_id).map_or(0, |known| known.head.version);
                    if fact.head.version > known {
                        last.insert(fact.head.entity_id.clone(), fact.to_owned());
                    }
                    Flow::Continue(())
                };
                self.archive.facts(table, &filter, &columns, &mut keep).await?;
                for OwnedFact { head, schema, row } in last.values().filter(|fact| !fact.head.tombstone) {
                    if take(&LiveRow { entity_id: &head.entity_id, schema, row }, None).is_break() {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// The columns that have to be read for those of the target.
    fn columns(&self, target: &TableSchema) -> Columns {
        let mut attnums = Vec::new();
        for version in &self.table.versions {
            for column in &target.columns {
                let found = version.schema.namesake(target, column);
                attnums.extend(found.and_then(|at| Some(version.schema.columns.get(at)?.column.attnum)));
            }
        }
        attnums.sort_unstable();
        attnums.dedup();
        Columns::Some(attnums)
    }
}

fn live_row<'a>(fact: &Fact<'a>) -> LiveRow<'a> {
    LiveRow { entity_id: &fact.head.entity_id, schema: fact.schema, row: fact.row }
}

fn send(sender: &mpsc::Sender<DataFusionResult<RecordBatch>>, batch: DataFusionResult<RecordBatch>) -> Flow {
    let mut waiting = batch;
    loop {
        match sender.try_send(waiting) {
            Ok(()) => return Flow::Continue(()),
            Err(TrySendError::Full(back)) => {
                waiting = back;
                std::thread::sleep(PATIENCE);
            }
            // The query needs no more.
            Err(TrySendError::Closed(_)) => return Flow::Break(()),
        }
    }
}

/// When each version begins, by 128 bits of entity and version.
struct Begins {
    hashers: [RandomState; 2],
    times: HashMap<[u64; 2], i64>,
}

impl Begins {
    async fn of(scan: &Scan) -> Result<Self> {
        let mut begins = Self { hashers: [RandomState::new(), RandomState::new()], times: HashMap::new() };
        let filter = FactFilter { entities: scan.filter.entities.clone(), ..FactFilter::default() };
        let mut note = |fact: &Fact<'_>| {
            let name = begins.name(&fact.head.entity_id, fact.head.version);
            begins.times.insert(name, fact.head.valid_from.0);
            Flow::Continue(())
        };
        scan.archive.facts(&scan.table, &filter, &Columns::Some(Vec::new()), &mut note).await?;
        Ok(begins)
    }

    fn name(&self, entity_id: &str, version: i64) -> [u64; 2] {
        self.hashers.each_ref().map(|hasher| hasher.hash_one((entity_id, version)))
    }

    fn of_version(&self, entity_id: &str, version: i64) -> Option<i64> {
        self.times.get(&self.name(entity_id, version)).copied()
    }
}

/// Gathers rows into batches, and sends them.
struct Rows<'a> {
    target: Arc<TableSchema>,
    shaper: Shaper<'a>,
    batch: FactBatch,
    /// What a batch of facts has in another form than the file.
    id: StringBuilder,
    op: StringBuilder,
    changed: ListBuilder<StringBuilder>,
    version: Int32Builder,
    valid_to: TimestampMicrosecondBuilder,
    sources: Vec<Source>,
    schema: SchemaRef,
    begins: Option<Begins>,
    sender: mpsc::Sender<DataFusionResult<RecordBatch>>,
    failed: Option<Error>,
    /// Rows with values that stand in `_raw`, or are not known, and are null here.
    raw: usize,
    unknown: usize,
}

impl<'a> Rows<'a> {
    fn new(
        table: &'a TableHistory,
        target: &'a Arc<TableSchema>,
        sources: Vec<Source>,
        schema: SchemaRef,
        begins: Option<Begins>,
        sender: mpsc::Sender<DataFusionResult<RecordBatch>>,
    ) -> Self {
        let element = Field::new("element", DataType::Utf8, true);
        Self {
            target: Arc::clone(target),
            shaper: Shaper::new(table, target),
            batch: FactBatch::new(Arc::clone(target)),
            id: StringBuilder::new(),
            op: StringBuilder::new(),
            changed: ListBuilder::new(StringBuilder::new()).with_field(element),
            version: Int32Builder::new(),
            valid_to: TimestampMicrosecondBuilder::new().with_timezone("UTC"),
            sources,
            schema,
            begins,
            sender,
            failed: None,
            raw: 0,
            unknown: 0,
        }
    }

    /// Takes a row, and what is said of its fact where that is asked for.
    fn take(&mut self, row: &LiveRow<'_>, head: Option<&Head>) -> Flow {
        let put = self.put(row, head);
        let full =
            put.and_then(|()| if self.batch.is_full() { self.flush() } else { Ok(Flow::Continue(())) });
        full.unwrap_or_else(|error| {
            self.failed = Some(error);
            Flow::Break(())
        })
    }

    fn put(&mut self, live: &LiveRow<'_>, head: Option<&Head>) -> Result<()> {
        let row = self.shaper.row(live.schema, live.row)?;
        let time = head.map_or(0, |head| head.valid_from.0);
        let origin = Origin {
            lsn: head.map_or(Lsn::ZERO, |head| head.lsn),
            xid: head.map_or(0, |head| head.xid),
            committed_at: time,
            valid_from: time,
        };
        let context = head.map(|head| Context { actor: head.actor.clone(), json: head.context.clone() });
        let as_batch = FactHead {
            entity_id: live.entity_id,
            version: head.map_or(0, |head| head.version),
            op: Op::Snapshot,
            tombstone: head.is_some_and(|head| head.tombstone),
            seq: head.map_or(0, |head| u32::try_from(head.seq).unwrap_or(u32::MAX)),
            changed: None,
            context: context.as_ref(),
        };
        self.batch.append(&origin, &as_batch, row).map_err(damaged)?;
        let Some(head) = head else { return Ok(()) };
        self.id.append_value(&head.id);
        self.op.append_value(&head.op);
        for name in head.changed.iter().flatten() {
            self.changed.values().append_value(name);
        }
        self.changed.append(head.changed.is_some());
        self.version.append_value(live.schema.version);
        let next = self.begins.as_ref().and_then(|all| all.of_version(&head.entity_id, head.version + 1));
        self.valid_to.append_option(next);
        Ok(())
    }

    fn flush(&mut self) -> Result<Flow> {
        let taken = self.batch.take().map_err(|error| Error::other(error.to_string()))?;
        let Some((batch, _)) = taken else { return Ok(Flow::Continue(())) };
        let set = |name: &str| {
            let told = |source: &Source| matches!(source, Source::System(at) if SYSTEM_COLUMNS.get(*at) == Some(&name));
            let column = batch.column_by_name(name).filter(|_| !self.sources.iter().any(told));
            column.map_or(0, |column| column.len() - column.null_count())
        };
        let (raw, unknown) = (set("_raw"), set("_unknown"));
        self.raw += raw;
        self.unknown += unknown;
        let (id, op): (ArrayRef, ArrayRef) = (Arc::new(self.id.finish()), Arc::new(self.op.finish()));
        let changed: ArrayRef = Arc::new(self.changed.finish());
        let version: ArrayRef = Arc::new(self.version.finish());
        let valid_to: ArrayRef = Arc::new(self.valid_to.finish());
        let arrays = self.sources.iter().filter_map(|source| match source {
            Source::User(at) => batch.columns().get(SYSTEM_COLUMNS.len() + at).cloned(),
            Source::ValidTo => Some(Arc::clone(&valid_to)),
            Source::System(at) => match SYSTEM_COLUMNS.get(*at).copied() {
                Some("_id") => Some(Arc::clone(&id)),
                Some("_op") => Some(Arc::clone(&op)),
                Some("_changed") => Some(Arc::clone(&changed)),
                Some("_schema") => Some(Arc::clone(&version)),
                _ => batch.columns().get(*at).cloned(),
            },
        });
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let shown = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays.collect(), &options);
        let shown =
            shown.map_err(|error| Error::other(format!("{VALID_TO} and its like do not fit: {error}")))?;
        Ok(send(&self.sender, Ok(shown)))
    }

    fn finish(mut self) -> Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let _: Flow = self.flush()?;
        tell(&self.target.name.name, self.raw, self.unknown);
        Ok(())
    }
}

/// Says of how many rows a value is null that is none.
pub(super) fn tell(name: &str, raw: usize, unknown: usize) {
    for (rows, what, remedy) in [
        (raw, "a value that its type here cannot hold", "_raw in its history has it exactly"),
        (unknown, "a value that is not known", "_unknown in its history names it"),
    ] {
        if rows > 0 {
            let has = if rows == 1 { "has" } else { "have" };
            eprintln!(
                "bygone: {} of {name} {has} {what}, which is null here: {remedy}",
                counted(rows, "row")
            );
        }
    }
}
