//! What there is to select from: the relations of each table, and the functions that take a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{
    CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider, Session, TableFunctionArgs,
    TableFunctionImpl, TableProvider,
};
use datafusion::common::DFSchema;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::{ColumnarValue, Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::scalar::ScalarValue;

use bygone_replication::Lsn;
use bygone_sink::read::{Archive, Cut, TableHistory};
use bygone_sink::timestamp::Timestamp;

use super::super::moment::{self, Resolved};
use super::super::views::relation_names;
use super::names;
use super::pushdown::Pushdown;
use super::relation::{Shape, as_written};
use super::scan::{Scan, What};
use crate::error::{Error, Result};

const CATALOG: &str = "bygone";
/// Names without a schema are looked for here, as in Postgres.
pub(super) const SCHEMA: &str = "public";

/// The relations of a history.
pub(super) struct Catalog {
    archive: Arc<Archive>,
    tables: Vec<Arc<TableHistory>>,
    /// What each table's relations are called, by its name in the log.
    names: BTreeMap<String, String>,
    /// Tables whose updates and deletes cannot be seen are answered for, too.
    inexact: bool,
}

impl Catalog {
    pub(super) fn of(archive: Archive, inexact: bool) -> Result<Self> {
        let tables = archive.tables()?;
        let names = relation_names(&tables);
        Ok(Self {
            archive: Arc::new(archive),
            tables: tables.into_iter().map(Arc::new).collect(),
            names,
            inexact,
        })
    }

    /// `history of shop, known until …`.
    pub(super) fn greeting(&self) -> String {
        let (last, until) = self.archive.known_until();
        let until =
            until.map_or_else(String::new, |until| format!("{} ", super::super::value::moment(until)));
        format!("history of {}, known until {until}({last})", self.archive.manifest().source.database)
    }

    /// The names of all relations.
    pub(super) fn names(&self) -> Vec<String> {
        let names = self.names.values();
        names
            .flat_map(|name| [name.clone(), format!("{name}_history"), format!("{name}_as_of(moment)")])
            .collect()
    }

    /// A session that knows the relations.
    pub(super) fn context(&self) -> Result<SessionContext> {
        let config = SessionConfig::new()
            .with_default_catalog_and_schema(CATALOG, SCHEMA)
            .with_information_schema(true);
        let context = SessionContext::new_with_config(config);
        let catalog = MemoryCatalogProvider::new();
        let mut schemas: BTreeMap<&str, Arc<MemorySchemaProvider>> = BTreeMap::new();
        let mut relations: Vec<(&str, String, Arc<dyn TableProvider>)> = Vec::new();
        let mut functions: Vec<(String, Arc<dyn TableFunctionImpl>)> = Vec::new();
        for table in &self.tables {
            let Some(name) = self.names.get(&table.log_name) else { continue };
            let now: Arc<dyn TableProvider> = Arc::new(Relation::now(&self.archive, table, self.inexact));
            let history: Arc<dyn TableProvider> = Arc::new(Relation::history(&self.archive, table));
            for (suffix, relation) in [("", now), ("_history", history)] {
                let own = format!("{}{suffix}", table.name.name);
                relations.push((SCHEMA, format!("{name}{suffix}"), Arc::clone(&relation)));
                relations.push((&table.name.schema, own, relation));
            }
            let function: Arc<dyn TableFunctionImpl> = Arc::new(AsOf {
                archive: Arc::clone(&self.archive),
                table: Arc::clone(table),
                inexact: self.inexact,
            });
            functions.push((names::qualified(SCHEMA, &format!("{name}_as_of")), Arc::clone(&function)));
            let own = format!("{}_as_of", table.name.name);
            functions.push((names::qualified(&table.name.schema, &own), function));
        }
        // Where two have a name, it is the first one's.
        for (name, function) in functions.into_iter().rev() {
            context.register_udtf(&name, function);
        }
        let mut taken: BTreeSet<(&str, String)> = BTreeSet::new();
        for (schema, name, relation) in relations {
            if taken.insert((schema, name.clone())) {
                let schema = schemas.entry(schema).or_default();
                schema.register_table(name, relation).map_err(|error| Error::other(error.to_string()))?;
            }
        }
        for (name, schema) in schemas {
            let done = catalog.register_schema(name, schema);
            done.map_err(|error| Error::other(error.to_string()))?;
        }
        context.register_catalog(CATALOG, Arc::new(catalog));
        Ok(context)
    }
}

/// A relation over one table.
#[derive(Debug)]
struct Relation {
    archive: Arc<Archive>,
    table: Arc<TableHistory>,
    shape: Shape,
    pushdown: Pushdown,
    /// The moment; none for the present, which has to be looked at when it is read.
    at: Option<Resolved>,
    history: bool,
    inexact: bool,
}

impl Relation {
    fn now(archive: &Arc<Archive>, table: &Arc<TableHistory>, inexact: bool) -> Self {
        Self {
            archive: Arc::clone(archive),
            table: Arc::clone(table),
            shape: Shape::of_rows(table.newest()),
            pushdown: Pushdown::of(table, false),
            at: None,
            history: false,
            inexact,
        }
    }

    fn history(archive: &Arc<Archive>, table: &Arc<TableHistory>) -> Self {
        let table = Arc::new(as_written(table));
        Self {
            archive: Arc::clone(archive),
            shape: Shape::of_history(&table),
            pushdown: Pushdown::of(&table, true),
            table,
            at: None,
            history: true,
            inexact: false,
        }
    }

    fn as_of(archive: &Arc<Archive>, table: &Arc<TableHistory>, at: Resolved) -> Self {
        Self {
            archive: Arc::clone(archive),
            table: Arc::clone(table),
            shape: Shape::of_rows(table.schema_for(&at.cut, at.place)),
            pushdown: Pushdown::of(table, false),
            at: Some(at),
            history: false,
            inexact: false,
        }
    }

    async fn what(&self) -> Result<What> {
        if self.history {
            return Ok(What::History);
        }
        if let Some(at) = &self.at {
            return Ok(What::At(at.cut));
        }
        let (last, until) = self.archive.known_until();
        let at = Resolved {
            cut: Cut::Lsn(last),
            place: last,
            next: Lsn(last.0.saturating_add(1)),
            shown: until.map_or_else(|| last.to_string(), super::super::value::moment),
        };
        moment::check_known(&self.archive, &self.table, &at, Some(self.inexact)).await?;
        Ok(What::At(at.cut))
    }
}

#[async_trait]
impl TableProvider for Relation {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.shape.arrow)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        let told = |filter: &&Expr| match self.pushdown.takes(filter) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(told).collect())
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let what = self.what().await.map_err(external)?;
        Scan {
            archive: Arc::clone(&self.archive),
            table: Arc::clone(&self.table),
            what,
            filter: self.pushdown.filter(filters),
            limit: limit.filter(|_| filters.is_empty()),
            places: None,
        }
        .plan(&self.shape, projection)
        .await
    }
}

/// `T_as_of(moment)`.
#[derive(Debug)]
struct AsOf {
    archive: Arc<Archive>,
    table: Arc<TableHistory>,
    inexact: bool,
}

impl TableFunctionImpl for AsOf {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> DataFusionResult<Arc<dyn TableProvider>> {
        let [moment] = args.exprs() else {
            return Err(DataFusionError::Plan(format!(
                "{}_as_of takes one moment, as in {0}_as_of('2026-11-24 10:00+01') or {0}_as_of('0/15D6B88')",
                self.table.name.name
            )));
        };
        let text = text_of(moment, args.session())?;
        // DataFusion asks for the columns at once, and they depend on the moment. The runtime has other threads.
        let at = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let at = moment::resolve(&self.archive, &text).await?;
                moment::check_known(&self.archive, &self.table, &at, Some(self.inexact)).await?;
                Ok::<_, Error>(at)
            })
        });
        Ok(Arc::new(Relation::as_of(&self.archive, &self.table, at.map_err(external)?)))
    }
}

/// A moment as the other commands take it.
fn text_of(moment: &Expr, session: &dyn Session) -> DataFusionResult<String> {
    // What was written is taken by its word: without a zone it is local time here as everywhere.
    let written = match moment {
        Expr::Cast(cast) => &cast.expr,
        other => other,
    };
    if let Expr::Literal(value, _) = written
        && let Some(text) = text_of_value(value)
    {
        return Ok(text);
    }
    let none = RecordBatch::try_new_with_options(
        Arc::new(Schema::empty()),
        Vec::new(),
        &RecordBatchOptions::new().with_row_count(Some(1)),
    )?;
    let constant = session.create_physical_expr(moment.clone(), &DFSchema::empty())?.evaluate(&none)?;
    let value = match constant {
        ColumnarValue::Scalar(value) => value,
        ColumnarValue::Array(array) => ScalarValue::try_from_array(&array, 0)?,
    };
    text_of_value(&value).ok_or_else(|| {
        DataFusionError::Plan(format!(
            "a moment is a time or a position such as '2026-11-24 10:00+01', '2 hours ago' or '0/15D6B88', not {value}"
        ))
    })
}

fn text_of_value(value: &ScalarValue) -> Option<String> {
    Some(match value {
        ScalarValue::Utf8(text) | ScalarValue::Utf8View(text) | ScalarValue::LargeUtf8(text) => {
            text.clone()?
        }
        // As `_lsn` has it.
        ScalarValue::Int64(lsn) => Lsn::from_i64((*lsn).filter(|lsn| *lsn >= 0)?).to_string(),
        ScalarValue::TimestampSecond(time, _) => Timestamp((*time)?.checked_mul(1_000_000)?).to_string(),
        ScalarValue::TimestampMillisecond(time, _) => Timestamp((*time)?.checked_mul(1_000)?).to_string(),
        ScalarValue::TimestampMicrosecond(time, _) => Timestamp((*time)?).to_string(),
        ScalarValue::TimestampNanosecond(time, _) => Timestamp((*time)?.div_euclid(1_000)).to_string(),
        ScalarValue::Date32(days) => Timestamp(i64::from((*days)?).checked_mul(86_400_000_000)?).to_string(),
        _ => return None,
    })
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
