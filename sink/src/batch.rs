//! Facts of one table, gathered column by column.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray as _, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder,
    Float64Builder, Int16Builder, Int32Array, Int32Builder, Int64Builder, ListArray, ListBuilder, MapBuilder,
    MapFieldNames, NullBufferBuilder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType as ArrowType, Field as ArrowField, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;

use crate::fact::{Context, Op, Origin, fact_id};
use crate::schema::{SYSTEM_COLUMNS, TableSchema};
use crate::shelf::{LargeRef, Shelf};
use crate::value::{Elements, Field, Kind, RowBlock, RowError, get_decimal, uuid_text};

/// Rows in a batch: enough for the encoders to work on runs, few enough to stay in the cache.
const ROWS: usize = 8_192;
/// Bytes of text after which a batch is full, whatever its rows.
const BYTES: usize = 8 << 20;

/// What is said of one fact beside its row.
#[derive(Debug)]
pub struct FactHead<'a> {
    /// `_entity_id`.
    pub entity_id: &'a str,
    /// `_version`.
    pub version: i64,
    /// `_op`.
    pub op: Op,
    /// The fact is a tombstone.
    pub tombstone: bool,
    /// `_seq`.
    pub seq: u32,
    /// `_changed`, as positions of columns; `None` for version 1.
    pub changed: Option<&'a [u16]>,
    /// Who and why.
    pub context: Option<&'a Context>,
}

/// Positions and moments that a batch covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Smallest and largest `_lsn`.
    pub lsn: (i64, i64),
    /// Smallest and largest `_valid_from`, microseconds since the Unix epoch.
    pub valid_from: (i64, i64),
}

impl Span {
    fn point(origin: &Origin) -> Self {
        let lsn = origin.lsn.as_i64();
        Self { lsn: (lsn, lsn), valid_from: (origin.valid_from, origin.valid_from) }
    }

    /// What the facts of a batch cover, which has some.
    pub(crate) fn of(facts: &RecordBatch) -> Result<Self, ArrowError> {
        let column = |name: &str| {
            facts
                .column_by_name(name)
                .ok_or_else(|| ArrowError::SchemaError(format!("facts without a column {name}")))
        };
        let (lsn, valid_from) = (column("_lsn")?, column("_valid_from")?);
        let ends = |values: &[i64]| {
            let (least, most) = (values.iter().min(), values.iter().max());
            (least.copied().unwrap_or(0), most.copied().unwrap_or(0))
        };
        Ok(Self {
            lsn: ends(lsn.as_primitive::<Int64Type>().values()),
            valid_from: ends(valid_from.as_primitive::<TimestampMicrosecondType>().values()),
        })
    }

    /// The span that holds both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let both = |a: (i64, i64), b: (i64, i64)| (a.0.min(b.0), a.1.max(b.1));
        Self { lsn: both(self.lsn, other.lsn), valid_from: both(self.valid_from, other.valid_from) }
    }
}

/// A value that is not in a batch but on a shelf.
#[derive(Clone, Debug)]
pub(crate) struct LargeCell {
    /// Its row in the batch.
    pub(crate) row: usize,
    /// Its column in the batch.
    pub(crate) column: usize,
    pub(crate) value: LargeRef,
    pub(crate) shelf: Arc<Shelf>,
}

/// What is mostly the same in facts that follow one another: all those of a copy, those of a large transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Common {
    version: i64,
    op: Op,
    valid_from: i64,
    tombstone: bool,
    lsn: i64,
    xid: i64,
    /// Neither `_changed` nor a context is said.
    bare: bool,
}

/// Gathers facts of one table at one schema version.
#[derive(Debug)]
pub struct FactBatch {
    schema: Arc<TableSchema>,
    rows: usize,
    bytes: usize,
    span: Option<Span>,
    /// What the last facts have in common, and how many they are: not in the columns yet.
    common: Option<(Common, usize)>,
    id: BinaryBuilder,
    entity_id: StringBuilder,
    version: Int64Builder,
    op: StringBuilder,
    valid_from: TimestampMicrosecondBuilder,
    deleted_at: TimestampMicrosecondBuilder,
    lsn: Int64Builder,
    seq: Int64Builder,
    xid: Int64Builder,
    changed: ListBuilder<StringBuilder>,
    actor: StringBuilder,
    context: StringBuilder,
    unknown: ListBuilder<StringBuilder>,
    raw: MapBuilder<StringBuilder, StringBuilder>,
    columns: Vec<ColumnBuilder>,
    /// Rows that are not in the columns yet.
    block: RowBlock,
    /// Rows that are.
    filled: usize,
    /// Where the rows' large values are, and those themselves.
    shelf: Option<Arc<Shelf>>,
    large: Vec<LargeCell>,
}

impl FactBatch {
    /// An empty batch.
    #[must_use]
    pub fn new(schema: Arc<TableSchema>) -> Self {
        let columns = schema.kinds().iter().map(ColumnBuilder::new).collect();
        let instants = || TimestampMicrosecondBuilder::with_capacity(0).with_timezone("UTC");
        let texts = || {
            ListBuilder::new(StringBuilder::with_capacity(0, 0)).with_field(ArrowField::new(
                "element",
                ArrowType::Utf8,
                true,
            ))
        };
        let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
        Self {
            schema,
            rows: 0,
            bytes: 0,
            span: None,
            common: None,
            id: BinaryBuilder::with_capacity(0, 0),
            entity_id: StringBuilder::with_capacity(0, 0),
            version: Int64Builder::with_capacity(0),
            op: StringBuilder::with_capacity(0, 0),
            valid_from: instants(),
            deleted_at: instants(),
            lsn: Int64Builder::with_capacity(0),
            seq: Int64Builder::with_capacity(0),
            xid: Int64Builder::with_capacity(0),
            changed: texts(),
            actor: StringBuilder::with_capacity(0, 0),
            context: StringBuilder::with_capacity(0, 0),
            unknown: texts(),
            raw: MapBuilder::new(
                Some(names),
                StringBuilder::with_capacity(0, 0),
                StringBuilder::with_capacity(0, 0),
            ),
            columns,
            block: RowBlock::default(),
            filled: 0,
            shelf: None,
            large: Vec::new(),
        }
    }

    /// Rows may have their large values on a shelf.
    #[must_use]
    pub(crate) fn with_shelf(self, shelf: Option<Arc<Shelf>>) -> Self {
        Self { shelf, ..self }
    }

    /// The schema of its facts.
    #[must_use]
    pub fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// Facts in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rows
    }

    /// There are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// It should be taken before more is appended.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.rows >= ROWS || self.bytes >= BYTES
    }

    /// Bytes of values in it, about.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first `_valid_from` in it.
    #[must_use]
    pub fn first_valid_from(&self) -> Option<i64> {
        self.span.map(|span| span.valid_from.0)
    }

    /// Appends a fact.
    ///
    /// # Errors
    /// When the row, or one that was appended before it, is not one of this schema.
    pub fn append(&mut self, origin: &Origin, head: &FactHead<'_>, row: &[u8]) -> Result<(), RowError> {
        self.id.append_value(uuid_text(fact_id(origin.committed_at, origin.lsn, head.seq)));
        self.entity_id.append_value(head.entity_id);
        self.seq.append_value(i64::from(head.seq));
        self.append_common(origin, head)?;
        if self.block.push(row, self.columns.len()) {
            self.fill()?;
        }
        let point = Span::point(origin);
        self.span = Some(self.span.map_or(point, |span| span.and(point)));
        self.rows += 1;
        self.bytes += row.len() + head.entity_id.len() + 64;
        Ok(())
    }

    /// Notes what a fact has in common with those before and behind it.
    fn append_common(&mut self, origin: &Origin, head: &FactHead<'_>) -> Result<(), RowError> {
        let common = Common {
            version: head.version,
            op: head.op,
            valid_from: origin.valid_from,
            tombstone: head.tombstone,
            lsn: origin.lsn.as_i64(),
            xid: origin.xid,
            bare: head.changed.is_none() && head.context.is_none(),
        };
        if let Some((last, facts)) = &mut self.common
            && common.bare
            && *last == common
        {
            *facts += 1;
            return Ok(());
        }
        self.settle();
        self.common = Some((common, 1));
        if !common.bare {
            for position in head.changed.unwrap_or_default() {
                let column = self.schema.columns.get(usize::from(*position)).ok_or(RowError)?;
                self.changed.values().append_value(&column.physical);
            }
            self.changed.append(head.changed.is_some());
            self.actor.append_option(head.context.and_then(|context| context.actor.as_deref()));
            self.context.append_option(head.context.and_then(|context| context.json.as_deref()));
        }
        Ok(())
    }

    /// Appends what the last facts have in common, as often as there are such facts.
    fn settle(&mut self) {
        let Some((common, facts)) = self.common.take() else { return };
        self.version.append_value_n(common.version, facts);
        self.op.append_value_n(common.op.name(), facts);
        self.valid_from.append_value_n(common.valid_from, facts);
        if common.tombstone {
            self.deleted_at.append_value_n(common.valid_from, facts);
        } else {
            self.deleted_at.append_nulls(facts);
        }
        self.lsn.append_value_n(common.lsn, facts);
        self.xid.append_value_n(common.xid, facts);
        if common.bare {
            self.changed.append_nulls(facts);
            self.actor.append_nulls(facts);
            self.context.append_nulls(facts);
        }
    }

    /// Moves the rows of the block into the columns.
    fn fill(&mut self) -> Result<(), RowError> {
        let rows = self.block.len();
        for (at, (builder, column)) in self.columns.iter_mut().zip(&self.schema.columns).enumerate() {
            builder.fill(&column.kind, &mut self.block, at)?;
        }
        let mut odd = self.block.odd().peekable();
        if odd.peek().is_none() {
            self.raw.append_nulls(rows).map_err(|_| RowError)?;
            self.unknown.append_nulls(rows);
        } else {
            for row in 0..rows {
                let (mut raw, mut unknown) = (false, false);
                while let Some((at, text)) = odd.next_if(|(at, _)| at.row == row) {
                    let name = &self.schema.columns.get(at.column).ok_or(RowError)?.physical;
                    if let Some(text) = text {
                        self.raw.keys().append_value(name);
                        self.raw.values().append_value(std::str::from_utf8(text).map_err(|_| RowError)?);
                        raw = true;
                    } else {
                        self.unknown.values().append_value(name);
                        unknown = true;
                    }
                }
                self.raw.append(raw).map_err(|_| RowError)?;
                self.unknown.append(unknown);
            }
        }
        drop(odd);
        for (row, column, value) in self.block.large() {
            self.large.push(LargeCell {
                row: self.filled + row,
                column: SYSTEM_COLUMNS.len() + column,
                value: LargeRef::from_bytes(value).ok_or(RowError)?,
                shelf: self.shelf.clone().ok_or(RowError)?,
            });
        }
        self.filled += rows;
        self.block.clear();
        Ok(())
    }

    /// Takes the large values of the batch that was just taken, by their rows.
    pub(crate) fn take_large(&mut self) -> Vec<LargeCell> {
        let mut large = std::mem::take(&mut self.large);
        large.sort_by_key(|cell| cell.row);
        large
    }

    /// Takes what was gathered, and starts anew.
    ///
    /// # Errors
    /// When a row was not one of this schema ([`RowError`]); when Arrow finds the columns at odds, which would be a bug here.
    pub fn take(&mut self) -> Result<Option<(RecordBatch, Span)>, ArrowError> {
        let Some(span) = self.span.take() else { return Ok(None) };
        self.settle();
        self.fill().map_err(|error| ArrowError::from_external_error(Box::new(error)))?;
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(StringArray::try_from_binary(self.id.finish())?),
            Arc::new(self.entity_id.finish()),
            Arc::new(self.version.finish()),
            Arc::new(self.op.finish()),
            Arc::new(self.valid_from.finish()),
            Arc::new(self.deleted_at.finish()),
            Arc::new(self.lsn.finish()),
            Arc::new(self.seq.finish()),
            Arc::new(self.xid.finish()),
            Arc::new(self.changed.finish()),
            Arc::new(self.actor.finish()),
            Arc::new(self.context.finish()),
            Arc::new(self.unknown.finish()),
            Arc::new(Int32Array::from_value(self.schema.version, self.rows)),
            Arc::new(self.raw.finish()),
        ];
        for column in &mut self.columns {
            arrays.push(column.finish()?);
        }
        self.rows = 0;
        self.filled = 0;
        self.bytes = 0;
        RecordBatch::try_new(Arc::clone(self.schema.arrow()), arrays).map(|batch| Some((batch, span)))
    }
}

/// Builds the Arrow array of one of the user's columns.
#[derive(Debug)]
enum ColumnBuilder {
    Bool(BooleanBuilder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    /// Text: looked at as a whole once it is gathered.
    Text(BinaryBuilder),
    Bytes(BinaryBuilder),
    Date(Date32Builder),
    Instant(TimestampMicrosecondBuilder),
    Decimal(Decimal128Builder),
    List(Box<ListColumn>),
}

/// Builds a list column.
#[derive(Debug)]
struct ListColumn {
    element: Arc<ArrowField>,
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
    values: ColumnBuilder,
    length: i32,
}

impl ListColumn {
    /// Appends a list, as it is kept.
    fn append(&mut self, kind: &Kind, list: &[u8]) -> Result<(), RowError> {
        for element in Elements::new(list, kind) {
            match element? {
                Some(element) => self.values.append(kind, element)?,
                None => self.values.append_null(),
            }
            self.length = self.length.checked_add(1).ok_or(RowError)?;
        }
        self.offsets.push(self.length);
        self.nulls.append_non_null();
        Ok(())
    }

    fn append_null(&mut self) {
        self.offsets.push(self.length);
        self.nulls.append_null();
    }
}

impl ColumnBuilder {
    fn new(kind: &Kind) -> Self {
        match kind {
            Kind::Bool => Self::Bool(BooleanBuilder::with_capacity(0)),
            Kind::Int16 => Self::Int16(Int16Builder::with_capacity(0)),
            Kind::Int32 => Self::Int32(Int32Builder::with_capacity(0)),
            Kind::Int64 | Kind::Oid => Self::Int64(Int64Builder::with_capacity(0)),
            Kind::Float32 => Self::Float32(Float32Builder::with_capacity(0)),
            Kind::Float64 => Self::Float64(Float64Builder::with_capacity(0)),
            Kind::Text
            | Kind::Json
            | Kind::Jsonb
            | Kind::NumericText
            | Kind::Printed(_)
            | Kind::Other
            | Kind::Uuid => Self::Text(BinaryBuilder::with_capacity(0, 0)),
            Kind::Bytes => Self::Bytes(BinaryBuilder::with_capacity(0, 0)),
            Kind::Date => Self::Date(Date32Builder::with_capacity(0)),
            Kind::Timestamp | Kind::Timestamptz => {
                Self::Instant(TimestampMicrosecondBuilder::with_capacity(0).with_data_type(kind.arrow()))
            }
            Kind::Decimal { .. } => {
                Self::Decimal(Decimal128Builder::with_capacity(0).with_data_type(kind.arrow()))
            }
            Kind::List(element) => Self::List(Box::new(ListColumn {
                element: Arc::new(ArrowField::new("element", element.arrow(), true)),
                offsets: vec![0],
                nulls: NullBufferBuilder::new(0),
                values: Self::new(element),
                length: 0,
            })),
        }
    }

    /// Appends a column of all rows of a block.
    fn fill(&mut self, kind: &Kind, block: &mut RowBlock, at: usize) -> Result<(), RowError> {
        match (self, kind) {
            (Self::Bool(builder), _) => {
                block.fixed(at, |value| builder.append_option(value.map(|value| value == [1])))
            }
            (Self::Int16(builder), _) => {
                block.fixed(at, |value| builder.append_option(value.map(i16::from_le_bytes)))
            }
            (Self::Int32(builder), _) => {
                block.fixed(at, |value| builder.append_option(value.map(i32::from_le_bytes)))
            }
            (Self::Int64(builder), Kind::Oid) => block.fixed(at, |value| {
                builder.append_option(value.map(|value| i64::from(u32::from_le_bytes(value))));
            }),
            (Self::Int64(builder), _) => {
                block.fixed(at, |value| builder.append_option(value.map(i64::from_le_bytes)))
            }
            (Self::Float32(builder), _) => {
                block.fixed(at, |value| builder.append_option(value.map(f32::from_le_bytes)))
            }
            (Self::Float64(builder), _) => {
                block.fixed(at, |value| builder.append_option(value.map(f64::from_le_bytes)))
            }
            (Self::Text(builder), Kind::Uuid) => {
                block.fixed(at, |value| builder.append_option(value.map(uuid_text)))
            }
            (Self::Text(builder) | Self::Bytes(builder), _) => block.counted(at, |value| {
                builder.append_option(value);
                Ok(())
            }),
            (Self::Date(builder), _) => {
                block.fixed(at, |value| builder.append_option(value.map(i32::from_le_bytes)))
            }
            (Self::Instant(builder), _) => {
                block.fixed(at, |value| builder.append_option(value.map(i64::from_le_bytes)))
            }
            (Self::Decimal(builder), _) => block.counted(at, |value| {
                builder.append_option(value.map(get_decimal).transpose()?);
                Ok(())
            }),
            (Self::List(list), Kind::List(element)) => block.counted(at, |value| match value {
                Some(value) => list.append(element, value),
                None => {
                    list.append_null();
                    Ok(())
                }
            }),
            (Self::List(_), _) => Err(RowError),
        }
    }

    /// Appends an element of a list.
    fn append(&mut self, kind: &Kind, field: Field<'_>) -> Result<(), RowError> {
        match (self, kind) {
            (Self::Bool(builder), _) => builder.append_value(field.array()? == [1]),
            (Self::Int16(builder), _) => builder.append_value(i16::from_le_bytes(field.array()?)),
            (Self::Int32(builder), _) => builder.append_value(i32::from_le_bytes(field.array()?)),
            (Self::Int64(builder), Kind::Oid) => {
                builder.append_value(i64::from(u32::from_le_bytes(field.array()?)));
            }
            (Self::Int64(builder), _) => builder.append_value(i64::from_le_bytes(field.array()?)),
            (Self::Float32(builder), _) => builder.append_value(f32::from_le_bytes(field.array()?)),
            (Self::Float64(builder), _) => builder.append_value(f64::from_le_bytes(field.array()?)),
            (Self::Text(builder), Kind::Uuid) => builder.append_value(uuid_text(field.array()?)),
            (Self::Text(builder) | Self::Bytes(builder), _) => builder.append_value(field.bytes()),
            (Self::Date(builder), _) => builder.append_value(i32::from_le_bytes(field.array()?)),
            (Self::Instant(builder), _) => builder.append_value(i64::from_le_bytes(field.array()?)),
            (Self::Decimal(builder), _) => builder.append_value(field.decimal()?),
            (Self::List(list), Kind::List(element)) => list.append(element, field.bytes())?,
            (Self::List(_), _) => return Err(RowError),
        }
        Ok(())
    }

    fn append_null(&mut self) {
        match self {
            Self::Bool(builder) => builder.append_null(),
            Self::Int16(builder) => builder.append_null(),
            Self::Int32(builder) => builder.append_null(),
            Self::Int64(builder) => builder.append_null(),
            Self::Float32(builder) => builder.append_null(),
            Self::Float64(builder) => builder.append_null(),
            Self::Text(builder) => builder.append_null(),
            Self::Bytes(builder) => builder.append_null(),
            Self::Date(builder) => builder.append_null(),
            Self::Instant(builder) => builder.append_null(),
            Self::Decimal(builder) => builder.append_null(),
            Self::List(list) => list.append_null(),
        }
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Bool(builder) => Arc::new(builder.finish()),
            Self::Int16(builder) => Arc::new(builder.finish()),
            Self::Int32(builder) => Arc::new(builder.finish()),
            Self::Int64(builder) => Arc::new(builder.finish()),
            Self::Float32(builder) => Arc::new(builder.finish()),
            Self::Float64(builder) => Arc::new(builder.finish()),
            Self::Text(builder) => Arc::new(StringArray::try_from_binary(builder.finish())?),
            Self::Bytes(builder) => Arc::new(builder.finish()),
            Self::Date(builder) => Arc::new(builder.finish()),
            Self::Instant(builder) => Arc::new(builder.finish()),
            Self::Decimal(builder) => Arc::new(builder.finish()),
            Self::List(list) => {
                let offsets = std::mem::replace(&mut list.offsets, vec![0]);
                list.length = 0;
                Arc::new(ListArray::try_new(
                    Arc::clone(&list.element),
                    OffsetBuffer::new(offsets.into()),
                    list.values.finish()?,
                    list.nulls.finish(),
                )?)
            }
        })
    }
}
