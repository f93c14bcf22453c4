//! `bygone restore`: the SQL that brings a row back as it was.

use std::sync::Arc;

use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::session;
use bygone_replication::table::{DataType, TypeKind, quote_identifier, quote_literal};
use bygone_sink::read::{Cut, OwnedFact, TableHistory};
use bygone_sink::schema::{SchemaColumn, TableSchema};
use bygone_sink::value::{Field, Kind, Status};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::arguments::Restore;
use super::changes::{Shown, damaged, is_unknown, live_at};
use super::sheet::print;
use super::value::text;
use super::{lookup, moment, open};
use crate::error::{Error, Result};

pub(super) async fn restore(arguments: &Restore) -> Result<()> {
    let archive = open(&arguments.history).await?;
    let table = lookup::table(&archive, &arguments.entity.table)?;
    let entity_id = lookup::entity_id(&table, &arguments.entity)?;
    let versions = lookup::versions(&archive, &table, &entity_id).await?;
    let now = versions.last().filter(|fact| !fact.head.tombstone);
    let (then, shown) = match &arguments.at {
        Some(text) => {
            let at = moment::resolve(&archive, text).await?;
            moment::check_known(&archive, &table, &at, false).await?;
            let schema = Arc::clone(table.schema_for(&at.cut, at.place));
            let fact = live_at(&versions, &at.cut);
            (fact.map(|fact| Then { fact, schema }), at.shown)
        }
        None => before_last_change(&table, &versions)?,
    };
    let statement = Statement::new(&table, then.as_ref(), now)?;
    let Some(statement) = statement else {
        eprintln!("bygone: {} {entity_id} is as it was at {shown}: there is nothing to do", table.log_name);
        return Ok(());
    };
    for column in &statement.unknown {
        eprintln!("bygone: the value of {column} at {shown} is not known; it is left as it is");
    }
    let message = message(arguments.actor.as_deref(), &table, &entity_id, &shown);
    print(&format!(
        "-- {} {entity_id} as it was at {shown}\nbegin;\n{message};\n{};\ncommit;\n",
        comment(&table.log_name),
        statement.sql
    ))?;
    if arguments.apply {
        let source = arguments.source.as_deref().ok_or_else(|| Error::other("--apply needs --source"))?;
        apply(source, &table, &versions, now, &statement, &message, arguments.force).await?;
        eprintln!("bygone: done");
    }
    Ok(())
}

/// A row that there was, and the columns that its table had.
struct Then<'a> {
    fact: &'a OwnedFact,
    schema: Arc<TableSchema>,
}

/// The row as the version before its last one left it.
fn before_last_change<'a>(
    table: &TableHistory,
    versions: &'a [OwnedFact],
) -> Result<(Option<Then<'a>>, String)> {
    let Some(at) = versions.len().checked_sub(2) else {
        // What came with its only version goes with it; a row that was there before the history began does not.
        if versions.first().is_some_and(|fact| matches!(fact.head.op.as_str(), "insert" | "rekey")) {
            return Ok((None, "its beginning, before its only version".to_owned()));
        }
        return Err(Error::other(
            "the row has one version only: there is nothing older to bring back; --at says as of when",
        ));
    };
    let Some(before) = versions.get(at) else { return Err(Error::other("there is no version")) };
    let place = versions.last().map_or(before.head.lsn, |last| last.head.lsn);
    let cut = Cut::Lsn(place);
    let schema = Arc::clone(table.schema_for(&cut, place));
    let shown = format!("version {}", before.head.version);
    Ok(((!before.head.tombstone).then_some(Then { fact: before, schema }), shown))
}

/// One change that makes the row what it was.
struct Statement {
    sql: String,
    /// Columns that would have to change and whose value is not known.
    unknown: Vec<String>,
}

impl Statement {
    fn new(table: &TableHistory, then: Option<&Then<'_>>, now: Option<&OwnedFact>) -> Result<Option<Self>> {
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
                let sql = format!("delete from {} where {}", table.name.quoted(), one_row(newest, now)?);
                Ok(Some(Self { sql, unknown: Vec::new() }))
            }
            (Some((then, _)), None) => Self::insert(table, newest, then).map(Some),
            (Some((then, _)), Some(now)) => Self::update(table, newest, then, now),
        }
    }

    fn insert(table: &TableHistory, newest: &TableSchema, then: &Shown) -> Result<Self> {
        let (mut names, mut values, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        let mut always = false;
        for (column, kind, field) in settable(newest, then)? {
            if is_unknown(&field) {
                unknown.push(column.column.name.clone());
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
        Ok(Self { sql, unknown })
    }

    fn update(table: &TableHistory, newest: &TableSchema, then: &Shown, now: &Shown) -> Result<Option<Self>> {
        let fields_now = now.fields()?;
        let (mut sets, mut unknown) = (Vec::new(), Vec::new());
        for (column, kind, field) in settable(newest, then)? {
            let at = newest.position(column.column.attnum);
            let (Some(at), Some(kind_now)) = (at, at.and_then(|at| newest.kinds().get(at))) else { continue };
            let Some(field_now) = fields_now.get(at).copied() else { continue };
            let same = field.status == field_now.status
                && text(&kind, field).map_err(damaged)? == text(kind_now, field_now).map_err(damaged)?;
            if same {
                continue;
            }
            if is_unknown(&field) {
                unknown.push(column.column.name.clone());
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
        let sql = format!(
            "update {} set {}\nwhere {}",
            table.name.quoted(),
            sets.join(", "),
            one_row(newest, now)?
        );
        Ok(Some(Self { sql, unknown }))
    }
}

/// The columns of the newest schema that a row of an earlier one has a value for, generated ones aside: the columns as
/// they are now, with the kind and value of then.
fn settable<'a>(
    newest: &'a TableSchema,
    then: &'a Shown,
) -> Result<Vec<(&'a SchemaColumn, Kind, Field<'a>)>> {
    let fields = then.fields()?;
    let columns = newest.columns.iter().filter(|column| column.column.generated.is_none());
    Ok(columns
        .filter_map(|column| {
            let at = then.schema.position(column.column.attnum)?;
            Some((column, then.schema.kinds().get(at)?.clone(), *fields.get(at)?))
        })
        .collect())
}

/// A condition that holds for this row alone: its key; without one, one of the rows that are the same.
fn one_row(schema: &TableSchema, row: &Shown) -> Result<String> {
    let fields = row.fields()?;
    if schema.key.is_empty() {
        let mut same = Vec::new();
        for ((column, kind), field) in schema.columns.iter().zip(schema.kinds()).zip(&fields) {
            if is_unknown(field) || column.column.generated.is_some() {
                continue;
            }
            same.push(equal(column, kind, *field)?);
        }
        let name = schema.name.quoted();
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

/// Without a line break that would end the comment.
fn comment(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// The statement that tells the history who brought the row back.
fn message(actor: Option<&str>, table: &TableHistory, entity_id: &str, shown: &str) -> String {
    let mut context = serde_json::Map::new();
    if let Some(actor) = actor {
        context.insert("actor".to_owned(), actor.into());
    }
    context.insert("reason".to_owned(), format!("bygone restore to {shown}").into());
    context.insert("restore".to_owned(), serde_json::json!({"table": table.log_name, "key": entity_id}));
    let context = serde_json::Value::Object(context).to_string();
    format!("select pg_logical_emit_message(true, 'bygone', {})", quote_literal(&context).trim_start())
}

/// Runs the statement where the row is what the history last knows of it.
async fn apply(
    source: &str,
    table: &TableHistory,
    versions: &[OwnedFact],
    now: Option<&OwnedFact>,
    statement: &Statement,
    message: &str,
    force: bool,
) -> Result<()> {
    let options = ConnectOptions::parse(source)?.with_application_name("bygone restore");
    let client = session::connect_sql(&options).await?;
    let sql = |error: tokio_postgres::Error| {
        let told = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
        Error::other(format!("the source refuses: {told}; nothing was changed"))
    };
    // What is not committed at the end goes with the session.
    client.batch_execute("begin").await.map_err(sql)?;
    client.batch_execute(message).await.map_err(sql)?;
    let differences = differences(&client, table, versions, now).await?;
    if !differences.is_empty() {
        let list = differences.join("; ");
        if !force {
            return Err(Error::other(format!(
                "the row in the source is not what the history last knows of it ({list}): it was changed since, or bygone run \
                 is behind. Nothing was changed; --force brings it back all the same"
            )));
        }
        eprintln!("bygone: the row has changed since: {list}");
    }
    let rows = client.execute(statement.sql.as_str(), &[]).await.map_err(sql)?;
    if rows != 1 {
        return Err(Error::other(format!(
            "the statement concerned {rows} rows instead of 1; nothing was changed"
        )));
    }
    client.batch_execute("commit").await.map_err(sql)
}

/// How the row in the source differs from what the history last knows of it. Locks it until the transaction ends.
async fn differences(
    client: &Client,
    table: &TableHistory,
    versions: &[OwnedFact],
    now: Option<&OwnedFact>,
) -> Result<Vec<String>> {
    let schema = table.newest();
    let Some(last) = versions.last() else { return Ok(Vec::new()) };
    let row = Shown::new(table, last, schema)?;
    let fields = row.fields()?;
    let compared: Vec<(&SchemaColumn, &Kind, Field<'_>)> = schema
        .columns
        .iter()
        .zip(schema.kinds())
        .zip(fields)
        .filter(|((column, _), field)| column.column.generated.is_none() && !is_unknown(field))
        .map(|((column, kind), field)| (column, kind, field))
        .collect();
    if schema.key.is_empty() && now.is_none() {
        // Nothing names a row that is gone and had no key.
        return Ok(Vec::new());
    }
    let names: Vec<String> =
        compared.iter().map(|(column, ..)| quote_identifier(&column.column.name)).collect();
    let query = format!(
        "select {} from {} where {} for update",
        names.join(", "),
        table.name.quoted(),
        one_row(schema, &row)?
    );
    let told = client.simple_query(&query).await.map_err(|error| {
        let told = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
        Error::other(format!("the row cannot be compared with the source: {told}; nothing was changed"))
    })?;
    let found = told.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(match (found, now) {
        (None, None) => Vec::new(),
        (None, Some(_)) => vec!["it is gone there".to_owned()],
        (Some(_), None) => vec!["it is there again".to_owned()],
        (Some(found), Some(_)) => {
            let mut differences = Vec::new();
            for (at, (column, kind, field)) in compared.into_iter().enumerate() {
                let known = match field.status {
                    Status::Null => None,
                    _ => Some(text(kind, field).map_err(damaged)?),
                };
                let there = found.try_get(at).ok().flatten();
                if there != known.as_deref() {
                    let shown = |text: Option<&str>| text.map_or_else(|| "null".to_owned(), str::to_owned);
                    differences.push(format!(
                        "{} is {}, not {}",
                        column.column.name,
                        shown(there),
                        shown(known.as_deref())
                    ));
                }
            }
            differences
        }
    })
}
