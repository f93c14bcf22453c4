//! The shape of a relation: which columns it has, and as which schema facts have to be shown for it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use bygone_sink::read::TableHistory;
use bygone_sink::schema::{SYSTEM_COLUMNS, SchemaColumn, TableSchema};
use bygone_sink::value::Kind;

use super::super::views::columns_ever;

/// When the next version of the entity begins; null while there is none.
pub(super) const VALID_TO: &str = "_valid_to";

/// Columns of a relation: the user's, then bygone's.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// The user's columns under the names that they have here.
    pub(super) target: Arc<TableSchema>,
    /// All columns.
    pub(super) arrow: SchemaRef,
}

impl Shape {
    /// The columns of one schema version alone: a table as of a moment.
    pub(super) fn of_rows(schema: &TableSchema) -> Self {
        let mut used = BTreeSet::new();
        let columns = schema.columns.iter().map(|column| named(column, &mut used)).collect();
        let target = with_columns(schema, columns);
        let arrow = Arc::new(Schema::new(user_fields(&target)));
        Self { target, arrow }
    }

    /// Every column that a table ever had, and what is said of facts.
    pub(super) fn of_history(table: &TableHistory) -> Self {
        let newest = table.newest();
        let mut used: BTreeSet<String> = SYSTEM_COLUMNS.iter().map(|name| (*name).to_owned()).collect();
        used.insert(VALID_TO.to_owned());
        let mut strangers = i16::MIN;
        let columns = columns_ever(table).into_iter().map(|(schema, column, _)| {
            let mut column = named(column, &mut used);
            // A column of a table that was there before under the name: no attnum of today is its own.
            if schema.oid != newest.oid {
                strangers = strangers.saturating_add(1);
                column.column.attnum = strangers;
            }
            column
        });
        let target = with_columns(newest, columns.collect());
        let mut fields = user_fields(&target);
        let system = target.arrow().fields().iter().take(SYSTEM_COLUMNS.len());
        fields.extend(system.map(|field| field.as_ref().clone()));
        let valid_from = target.arrow().field_with_name("_valid_from").map(|field| field.data_type().clone());
        fields.push(Field::new(VALID_TO, valid_from.unwrap_or(DataType::Null), true));
        Self { arrow: Arc::new(Schema::new(fields)), target }
    }

    /// How many columns are the user's.
    pub(super) fn users(&self) -> usize {
        self.target.columns.len()
    }
}

/// The same table with other columns.
pub(super) fn with_columns(schema: &TableSchema, columns: Vec<SchemaColumn>) -> Arc<TableSchema> {
    let (name, log_name) = (schema.name.clone(), schema.log_name.clone());
    Arc::new(TableSchema::of_columns(schema.number, name, log_name, schema.oid, schema.version, columns, &[]))
}

/// The column under a name that no other has.
fn named(column: &SchemaColumn, used: &mut BTreeSet<String>) -> SchemaColumn {
    let own = [column.column.name.clone(), column.physical.clone()].into_iter();
    let numbered = (column.column.attnum..i16::MAX).map(|number| format!("{}__{number}", column.column.name));
    let name = own.chain(numbered).find(|name| used.insert(name.to_lowercase()));
    let mut column = column.clone();
    column.physical = name.unwrap_or_else(|| column.physical.clone());
    column
}

/// What the user's columns are, without what a fact file says of them.
fn user_fields(target: &TableSchema) -> Vec<Field> {
    let stored = target.arrow().fields().iter().skip(SYSTEM_COLUMNS.len());
    stored
        .zip(target.kinds())
        .map(|(field, kind)| {
            let metadata = if matches!(kind, Kind::Json | Kind::Jsonb) {
                HashMap::from([("ARROW:extension:name".to_owned(), "arrow.json".to_owned())])
            } else {
                HashMap::new()
            };
            Field::new(field.name(), field.data_type().clone(), true).with_metadata(metadata)
        })
        .collect()
}

/// The table, its columns reading as null in rows that are older than they are.
pub(super) fn as_written(table: &TableHistory) -> TableHistory {
    let mut table = table.clone();
    for version in &mut table.versions {
        let key: Vec<i16> = version
            .schema
            .key
            .iter()
            .filter_map(|at| Some(version.schema.columns.get(*at)?.column.attnum))
            .collect();
        let mut columns = version.schema.columns.clone();
        columns.iter_mut().for_each(|column| column.column.missing = None);
        let old = &version.schema;
        version.schema = Arc::new(TableSchema::of_columns(
            old.number,
            old.name.clone(),
            old.log_name.clone(),
            old.oid,
            old.version,
            columns,
            &key,
        ));
    }
    table
}
