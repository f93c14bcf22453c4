//! The SQL that makes one row what it was.

use std::sync::Arc;

use bygone_replication::table::{DataType, TypeKind, quote_identifier, quote_literal};
use bygone_sink::read::{OwnedFact, TableHistory};
use bygone_sink::schema::{SchemaColumn, TableSchema};
use bygone_sink::value::{Field, Kind, Status};

use super::super::changes::{Shown, damaged, is_unknown};
use super::super::value::text;
use crate::error::{Error, Result};

/// A row that there was, and the columns that its table had.
pub(super) struct Then<'a> {
    pub(super) fact: &'a OwnedFact,
    pub(super) schema: Arc<TableSchema>,
}

/// One change that makes the row what it was.
pub(super) struct Statement {
    pub(super) verb: Verb,
    pub(super) sql: String,
    /// An expression that is true once the row is what it was.
    pub(super) done: String,
    /// Columns that would have to change and whose value is not known.
    pub(super) unknown: Vec<String>,
}

/// What a statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verb {
    /// A row that was deleted comes back.
    Insert,
    /// A row gets the values that it had.
    Update,
    /// A row that came goes.
    Delete,
}

impl Statement {
    /// The statement that makes the row of `now` that of `then`; none where they are the same.
    pub(super) fn new(
        table: &TableHistory,
        then: Option<&Then<'_>>,
        now: Option<&OwnedFact>,
    ) -> Result<Option<Self>> {
        let newest = table.newest();
        let now = now.map(|fact| Shown::new(table, fact, newest)).transpose()?;
        let then = then
            .map(|then| {
                let row = Shown::new(table, then.fact, &then.schema)?;
                Ok::<_, Error>((row, Arc::clone(&then.schema)))
            })
            .transpose()?;
        match (&then, &now) {
            (None, None) => Ok(None),
            (None, Some(now)) => {
                let (name, row) = (table.name.quoted(), one_row(table, now)?);
                let sql = format!("delete from {name} where {row}");
                let done = format!("not exists (select from {name} where {row})");
                Ok(Some(Self { verb: Verb::Delete, sql, done, unknown: Vec::new() }))
            }
            (Some((then, _)), None) => Self::insert(table, newest, then).map(Some),
            (Some((then, _)), Some(now)) => Self::update(table, newest, then, now),
        }
    }

    fn insert(table: &TableHistory, newest: &TableSchema, then: &Shown) -> Result<Self> {
        let (mut names, mut values, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        let mut always = false;
        for Settable { column, kind, field, hashed } in settable(newest, then)? {
            if is_unknown(&field) || hashed {
                unknown.push(named(column, hashed));
                continue;
            }
            always |= column.column.identity == Some('a');
            names.push(quote_identifier(&column.column.name));
            values.push(literal(&column.column.data_type, &kind, field)?);
        }
        let overriding = if always { " overriding system value" } else { "" };
        let sql = format!(
            "insert into {} ({}){overriding}\nvalues ({})",
            table.name.quoted(),
            names.join(", "),
            values.join(", ")
        );
        Ok(Self { verb: Verb::Insert, sql, done: is_there(table, newest, then)?, unknown })
    }

    fn update(table: &TableHistory, newest: &TableSchema, then: &Shown, now: &Shown) -> Result<Option<Self>> {
        let fields_now = now.fields()?;
        let (mut sets, mut unknown) = (Vec::new(), Vec::new());
        for Settable { column, kind, field, hashed } in settable(newest, then)? {
            let at = newest.position(column.column.attnum);
            let (Some(at), Some(kind_now)) = (at, at.and_then(|at| newest.kinds().get(at))) else { continue };
            let Some(field_now) = fields_now.get(at).copied() else { continue };
            let same = field.status == field_now.status
                && text(&kind, field).map_err(damaged)? == text(kind_now, field_now).map_err(damaged)?;
            if same {
                continue;
            }
            if is_unknown(&field) || hashed {
                unknown.push(named(column, hashed));
                continue;
            }
            let value = literal(&column.column.data_type, &kind, field)?;
            sets.push(format!("{} = {value}", quote_identifier(&column.column.name)));
        }
        if sets.is_empty() && unknown.is_empty() {
            return Ok(None);
        }
        if sets.is_empty() {
            return Err(Error::other(format!(
                "the values of {} then are not known: they cannot be brought back",
                unknown.join(", ")
            )));
        }
        let sql =
            format!("update {} set {}\nwhere {}", table.name.quoted(), sets.join(", "), one_row(table, now)?);
        Ok(Some(Self { verb: Verb::Update, sql, done: is_there(table, newest, then)?, unknown }))
    }
}

/// A row with these values is in the table.
fn is_there(table: &TableHistory, newest: &TableSchema, then: &Shown) -> Result<String> {
    let mut same = Vec::new();
    for Settable { column, kind, field, hashed } in settable(newest, then)? {
        if !is_unknown(&field) && !hashed {
            same.push(equal(column, &kind, field)?);
        }
    }
    let same = if same.is_empty() { "true".to_owned() } else { same.join(" and ") };
    Ok(format!("exists (select from {} where {same})", table.name.quoted()))
}

/// A column as it is now, with the kind and value of then.
struct Settable<'a> {
    column: &'a SchemaColumn,
    kind: Kind,
    field: Field<'a>,
    /// What there is of the value is its hash.
    hashed: bool,
}

/// How a column is called of which the history does not hold the value.
fn named(column: &SchemaColumn, hashed: bool) -> String {
    let name = &column.column.name;
    if hashed { format!("{name} (hashed)") } else { name.clone() }
}

/// The columns of the newest schema that a row of an earlier one has a value for, generated ones aside.
fn settable<'a>(newest: &'a TableSchema, then: &'a Shown) -> Result<Vec<Settable<'a>>> {
    let fields = then.fields()?;
    let columns = newest.columns.iter().filter(|column| column.column.generated.is_none());
    Ok(columns
        .filter_map(|column| {
            let at = then.schema.counterpart(newest, column)?;
            let (of_then, field) = (then.schema.columns.get(at)?, *fields.get(at)?);
            let hashed = of_then.column.hashed.is_some() && field.status != Status::Null;
            Some(Settable { column, kind: of_then.kind.clone(), field, hashed })
        })
        .collect())
}

/// A condition that holds for this row alone: its key; without one, one of the rows that are the same.
pub(super) fn one_row(table: &TableHistory, row: &Shown) -> Result<String> {
    let schema = table.newest();
    let fields = row.fields()?;
    if schema.key.is_empty() {
        let mut same = Vec::new();
        for ((column, kind), field) in schema.columns.iter().zip(schema.kinds()).zip(&fields) {
            if is_unknown(field) || column.column.generated.is_some() {
                continue;
            }
            same.push(equal(column, kind, *field)?);
        }
        let name = table.name.quoted();
        return Ok(format!("ctid = (select ctid from {name} where {} limit 1)", same.join(" and ")));
    }
    let mut parts = Vec::new();
    for at in &schema.key {
        let (Some(column), Some(kind), Some(field)) =
            (schema.columns.get(*at), schema.kinds().get(*at), fields.get(*at))
        else {
            continue;
        };
        let value = literal(&column.column.data_type, kind, *field)?;
        parts.push(format!("{} = {value}", quote_identifier(&column.column.name)));
    }
    Ok(parts.join(" and "))
}

/// A column is exactly this value. Types without an operator for that are compared as text.
fn equal(column: &SchemaColumn, kind: &Kind, field: Field<'_>) -> Result<String> {
    let name = quote_identifier(&column.column.name);
    if field.status == Status::Null {
        return Ok(format!("{name} is null"));
    }
    Ok(match kind {
        Kind::Json | Kind::Printed(_) | Kind::Other | Kind::List(_) => {
            format!("{name}::text = {}", quote_literal(&text(kind, field).map_err(damaged)?))
        }
        _ => format!("{name} = {}", literal(&column.column.data_type, kind, field)?),
    })
}

/// A value as SQL takes it, whatever surrounds it.
fn literal(data_type: &DataType, kind: &Kind, field: Field<'_>) -> Result<String> {
    let text = match field.status {
        Status::Null | Status::Unknown => return Ok("null".to_owned()),
        Status::Raw | Status::Value => text(kind, field).map_err(damaged)?,
    };
    Ok(match (kind, field.status) {
        (Kind::Int16 | Kind::Int32 | Kind::Int64, Status::Value) if !text.starts_with('-') => text,
        (Kind::Bool, Status::Value) => (if text == "t" { "true" } else { "false" }).to_owned(),
        _ => {
            let quoted = quote_literal(&text);
            match type_name(data_type) {
                Some(name) => format!("{}::{name}", quoted.trim_start()),
                None => quoted.trim_start().to_owned(),
            }
        }
    })
}

/// A type as SQL takes it; none for a type that the history does not know by name. Modifiers are left out: the column
/// has its own.
fn type_name(data_type: &DataType) -> Option<String> {
    if data_type.name.starts_with("type ") {
        return None;
    }
    if let TypeKind::Array(element) = &data_type.kind {
        return Some(format!("{}[]", type_name(element)?));
    }
    if data_type.schema == "pg_catalog" {
        return Some(
            match data_type.name.as_str() {
                "int2" => "smallint",
                "int4" => "integer",
                "int8" => "bigint",
                "bool" => "boolean",
                "float4" => "real",
                "float8" => "double precision",
                // A word of SQL's own, which would stand for another type.
                "char" => "\"char\"",
                "bit" => "varbit",
                other => return Some(other.to_owned()),
            }
            .to_owned(),
        );
    }
    Some(format!("{}.{}", quote_identifier(&data_type.schema), quote_identifier(&data_type.name)))
}
