//! The table of transactions: one row for each that changed something captured.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int64Builder, MapBuilder, MapFieldNames, RecordBatch, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::batch::Span;
use crate::fact::{Context, Origin};
use crate::schema::instant;

/// Rows after which the batch should be taken.
const ROWS: usize = 8_192;

/// Gathers rows of the table of transactions.
#[derive(Debug)]
pub struct TransactionBatch {
    schema: SchemaRef,
    span: Option<Span>,
    rows: usize,
    xid: Int64Builder,
    lsn: Int64Builder,
    committed_at: TimestampMicrosecondBuilder,
    valid_from: TimestampMicrosecondBuilder,
    actor: StringBuilder,
    context: StringBuilder,
    origin: StringBuilder,
    tables: MapBuilder<StringBuilder, Int64Builder>,
}

/// The columns of the table of transactions.
pub(crate) fn schema() -> SchemaRef {
    let entries = Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Int64, true),
    ]);
    let counts = DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries), false)), false);
    Arc::new(Schema::new(vec![
        Field::new("xid", DataType::Int64, false),
        Field::new("lsn", DataType::Int64, false),
        Field::new("committed_at", instant(), false),
        Field::new("valid_from", instant(), false),
        Field::new("actor", DataType::Utf8, true),
        Field::new("context", DataType::Utf8, true),
        Field::new("origin", DataType::Utf8, true),
        Field::new("tables", counts, false),
    ]))
}

impl Default for TransactionBatch {
    fn default() -> Self {
        let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
        let instants = || TimestampMicrosecondBuilder::with_capacity(0).with_timezone("UTC");
        Self {
            schema: schema(),
            span: None,
            rows: 0,
            xid: Int64Builder::with_capacity(0),
            lsn: Int64Builder::with_capacity(0),
            committed_at: instants(),
            valid_from: instants(),
            actor: StringBuilder::with_capacity(0, 0),
            context: StringBuilder::with_capacity(0, 0),
            origin: StringBuilder::with_capacity(0, 0),
            tables: MapBuilder::new(
                Some(names),
                StringBuilder::with_capacity(0, 0),
                Int64Builder::with_capacity(0),
            ),
        }
    }
}

impl TransactionBatch {
    /// It should be taken before more is appended: it is large, or the next row is of another day.
    #[must_use]
    pub fn is_full(&self, next: &Origin) -> bool {
        const DAY_US: i64 = 86_400_000_000;
        let new_day = self
            .span
            .is_some_and(|span| span.valid_from.0.div_euclid(DAY_US) != next.valid_from.div_euclid(DAY_US));
        self.rows >= ROWS || new_day
    }

    /// Appends a transaction with the number of its facts per table.
    ///
    /// # Errors
    /// When Arrow finds the columns at odds, which would be a bug here.
    pub fn append<'a>(
        &mut self,
        origin: &Origin,
        context: Option<&Context>,
        replication_origin: Option<&str>,
        counts: impl Iterator<Item = (&'a str, i64)>,
    ) -> Result<(), ArrowError> {
        self.xid.append_value(origin.xid);
        self.lsn.append_value(origin.lsn.as_i64());
        self.committed_at.append_value(origin.committed_at);
        self.valid_from.append_value(origin.valid_from);
        self.actor.append_option(context.and_then(|context| context.actor.as_deref()));
        self.context.append_option(context.and_then(|context| context.json.as_deref()));
        self.origin.append_option(replication_origin);
        for (table, count) in counts {
            self.tables.keys().append_value(table);
            self.tables.values().append_value(count);
        }
        self.tables.append(true)?;
        let lsn = origin.lsn.as_i64();
        let point = Span { lsn: (lsn, lsn), valid_from: (origin.valid_from, origin.valid_from) };
        self.span = Some(self.span.map_or(point, |span| span.and(point)));
        self.rows += 1;
        Ok(())
    }

    /// Takes what was gathered, and starts anew.
    ///
    /// # Errors
    /// When Arrow finds the columns at odds, which would be a bug here.
    pub fn take(&mut self) -> Result<Option<(RecordBatch, Span)>, ArrowError> {
        let Some(span) = self.span.take() else { return Ok(None) };
        self.rows = 0;
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(self.xid.finish()),
            Arc::new(self.lsn.finish()),
            Arc::new(self.committed_at.finish()),
            Arc::new(self.valid_from.finish()),
            Arc::new(self.actor.finish()),
            Arc::new(self.context.finish()),
            Arc::new(self.origin.finish()),
            Arc::new(self.tables.finish()),
        ];
        RecordBatch::try_new(Arc::clone(&self.schema), arrays).map(|batch| Some((batch, span)))
    }
}
