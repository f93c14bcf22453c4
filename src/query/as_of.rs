//! `bygone as-of`: a table as it was at a moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use bygone_sink::read::{AsOf, Columns, Flow, LiveRow, TableHistory};
use bygone_sink::schema::TableSchema;
use bygone_sink::value::{Field, Kind, Status};

use super::arguments::{AsOf as Arguments, AsOfFormat};
use super::changes::{Shaper, damaged, is_unknown, why_unknown};
use super::condition::Condition;
use super::parquet_file::ParquetRows;
use super::sheet::{Heading, Sheet, left, right};
use super::value::fields;
use super::verdict::{Verdict, tell_not_known};
use super::{counted, lookup, moment, open};
use crate::cli::Format;
use crate::error::{Error, Result};

/// Up to so many rows are put into the order of their keys; more are printed as they are read, in little memory.
const SORTED: usize = 200_000;

pub(super) async fn as_of(arguments: &Arguments) -> Result<()> {
    let archive = open(&arguments.history).await?;
    let table = lookup::table(&archive, &arguments.table)?;
    let at = moment::resolve(&archive, &arguments.at).await?;
    moment::check_known(&archive, &table, &at, Some(arguments.inexact)).await?;
    let schema = Arc::clone(table.schema_for(&at.cut, at.place));
    let shown = match arguments.columns.as_slice() {
        [] => (0..schema.columns.len()).collect(),
        names => names
            .iter()
            .map(|name| lookup::column(&schema, name.trim()).map(|(at, _)| at))
            .collect::<Result<Vec<usize>>>()?,
    };
    let condition = match &arguments.condition {
        Some(text) => Condition::parse(&schema, text)?,
        None => Condition::default(),
    };
    let attnums: Vec<i16> = shown
        .iter()
        .copied()
        .chain(condition.columns())
        .filter_map(|at| Some(schema.columns.get(at)?.column.attnum))
        .collect();
    let rows = AsOf::find(&archive, &table, at.cut).await?;
    let mut sink = Rows::new(arguments, &table, &schema, shown, condition)?;
    let columns = Columns::Some(attnums);
    let mut visit = |row: &LiveRow<'_>| sink.take(row);
    rows.sorted_if_few(&columns, SORTED, &mut visit).await?;
    let Finished { count, unknown, raw, not_told } = sink.finish()?;
    tell_not_known(&table.log_name, not_told);
    for (at, rows) in unknown {
        if let Some(column) = schema.columns.get(at) {
            let why = why_unknown(column);
            let (name, rows) = (&column.column.name, counted(rows, "row"));
            eprintln!("bygone: {name} is not known in {rows} and shown as null: {why}");
        }
    }
    if raw > 0 {
        eprintln!(
            "bygone: {raw} values do not fit their Parquet type (infinity, NaN, dates out of range) and are null there; \
             --format csv has them exactly"
        );
    }
    if arguments.format == AsOfFormat::Table {
        eprintln!("{} as of {}", counted(count, "row"), at.shown);
    }
    Ok(())
}

/// Where the rows go.
enum Out {
    Sheet(Box<Sheet>),
    Parquet(Box<ParquetRows>),
}

/// What there is to say of the rows at the end.
struct Finished {
    count: usize,
    /// Rows in which a column is not known, by the column's position.
    unknown: BTreeMap<usize, usize>,
    raw: usize,
    /// Rows of which the condition cannot tell.
    not_told: usize,
}

/// Takes rows, one after another.
struct Rows<'a> {
    schema: &'a Arc<TableSchema>,
    shown: Vec<usize>,
    condition: Condition,
    limit: usize,
    out: Out,
    shaper: Shaper<'a>,
    finished: Finished,
    failed: Option<Error>,
}

impl<'a> Rows<'a> {
    fn new(
        arguments: &Arguments,
        table: &'a TableHistory,
        schema: &'a Arc<TableSchema>,
        shown: Vec<usize>,
        condition: Condition,
    ) -> Result<Self> {
        let columns = shown.iter().filter_map(|at| schema.columns.get(*at));
        let headings = columns.map(|column| heading(&column.column.name, &column.kind)).collect();
        let format = match arguments.format {
            AsOfFormat::Table => Some(Format::Table),
            AsOfFormat::Json => Some(Format::Json),
            AsOfFormat::Csv => Some(Format::Csv),
            AsOfFormat::Parquet => None,
        };
        let out = match (format, &arguments.output) {
            (Some(format), output) => Out::Sheet(Box::new(Sheet::to(output.as_deref(), format, headings)?)),
            (None, Some(path)) => Out::Parquet(Box::new(ParquetRows::create(path, schema, &shown)?)),
            (None, None) => return Err(Error::usage("--format parquet needs --output FILE")),
        };
        Ok(Self {
            schema,
            shown,
            condition,
            limit: arguments.limit.unwrap_or(usize::MAX),
            out,
            shaper: Shaper::new(table, schema),
            finished: Finished { count: 0, unknown: BTreeMap::new(), raw: 0, not_told: 0 },
            failed: None,
        })
    }

    fn take(&mut self, row: &LiveRow<'_>) -> Flow {
        if self.finished.count >= self.limit {
            return Flow::Break(());
        }
        match self.put(row) {
            Ok(()) => Flow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                Flow::Break(())
            }
        }
    }

    fn put(&mut self, row: &LiveRow<'_>) -> Result<()> {
        let row = self.shaper.row(row.schema, row.row)?;
        let kinds = self.schema.kinds();
        let fields: Vec<Field<'_>> = fields(row, kinds).map_err(damaged)?;
        match self.condition.of(&fields, kinds) {
            Verdict::Holds => {}
            Verdict::Not => return Ok(()),
            Verdict::NotKnown => {
                self.finished.not_told += 1;
                return Ok(());
            }
        }
        self.finished.count += 1;
        let shown = || self.shown.iter().filter_map(|at| Some((kinds.get(*at)?, *fields.get(*at)?)));
        for at in self.shown.iter().filter(|at| fields.get(**at).is_some_and(is_unknown)) {
            *self.finished.unknown.entry(*at).or_default() += 1;
        }
        match &mut self.out {
            Out::Sheet(sheet) => sheet.values(shown()),
            Out::Parquet(file) => {
                self.finished.raw += shown().filter(|(_, field)| field.status == Status::Raw).count();
                file.append(row)
            }
        }
    }

    fn finish(self) -> Result<Finished> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.out {
            Out::Sheet(sheet) => {
                sheet.finish()?;
            }
            Out::Parquet(file) => file.finish()?,
        }
        Ok(self.finished)
    }
}

fn heading(name: &str, kind: &Kind) -> Heading {
    match kind {
        Kind::Int16
        | Kind::Int32
        | Kind::Int64
        | Kind::Oid
        | Kind::Float32
        | Kind::Float64
        | Kind::Decimal { .. }
        | Kind::NumericText => right(name),
        _ => left(name),
    }
}
