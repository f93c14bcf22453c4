//! The SQL that makes one row what it was.

use std::fmt;
use std::sync::Arc;

use bygone_replication::table::{DataType, TableName, TypeKind, printable_identifier, quote_literal};
use bygone_sink::read::{OwnedFact, TableHistory};
use bygone_sink::schema::{SchemaColumn, TableSchema};
use bygone_sink::value::{Field, Kind, Status};

use super::super::changes::{Shown, damaged};
use super::super::lookup::reread;
use super::super::value::text;
use crate::error::{Error, Result};

/// A row that there was, and the columns that its table had.
pub(super) struct Then<'a> {
    pub(super) fact: &'a OwnedFact,
    pub(super) schema: Arc<TableSchema>,
}

/// SQL that changes one row, and that other rows may share.
pub(super) struct Sql {
    head: String,
    row: String,
    /// What stands between rows that share the head; none where a statement takes one row.
    between: Option<&'static str>,
}

impl Sql {
    /// A statement that no other row can share.
    pub(super) const fn whole(text: String) -> Self {
        Self { head: text, row: String::new(), between: None }
    }

    /// A statement that starts like this may take rows beside this one.
    pub(super) const fn takes_more(&self) -> bool {
        self.between.is_some()
    }

    /// One statement may do the work of both.
    fn is_shared_with(&self, other: &Self) -> bool {
        self.takes_more() && self.between == other.between && self.head == other.head
    }
}

impl fmt::Display for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.head, self.row)
    }
}

/// So many bytes of a statement's rows make it full: a server takes a multiple of them to parse it.
const FULL: usize = 1 << 20;

/// Statements that do the same, one after another. Neighbours share one where they can: constraints between its rows are looked at when it
/// ends, so that the order of rows that refer to each other is of no matter.
pub(super) fn shared<'a>(all: impl IntoIterator<Item = &'a Sql>) -> Vec<String> {
    let mut statements: Vec<String> = Vec::new();
    let mut before: Option<&Sql> = None;
    for sql in all {
        let room = statements.last_mut().filter(|statement| statement.len() < FULL);
        match (room, before.filter(|before| before.is_shared_with(sql)).and(sql.between)) {
            (Some(statement), Some(between)) => {
                statement.push_str(between);
                statement.push_str(&sql.row);
            }
            _ => statements.push(sql.to_string()),
        }
        before = Some(sql);
    }
    statements
}

/// One statement that does what several do: constraints are looked at when it ends.
pub(super) fn at_once<'a>(all: impl IntoIterator<Item = &'a Sql>) -> String {
    let all = shared(all).into_iter().enumerate();
    let parts: Vec<String> = all.map(|(at, sql)| format!("change_{at} as (\n{sql}\n)")).collect();
    format!("with {}\nselect", parts.join(", "))
}

/// One change that makes the row what it was.
pub(super) struct Statement {
    pub(super) verb: Verb,
    pub(super) sql: Sql,
    /// An expression that is true once the row is what it was.
    pub(super) done: String,
    /// What brings a row back whose key another one has by now; none where there is no column but the key.
    pub(super) replacing: Option<String>,
    /// Of an update: the row, and the columns that it changes and that may be null for a moment.
    pub(super) room: Option<Room>,
    /// Columns that would have to change and whose value is not known.
    pub(super) unknown: Vec<String>,
}

/// How a row makes room for another one that is to have a value of its.
pub(super) struct Room {
    table: String,
    row: String,
    columns: Vec<String>,
}

impl Room {
    /// Takes the values away that it has of these columns; none where it keeps all of them.
    pub(super) fn made(&self, columns: &[String]) -> Option<String> {
        let given: Vec<String> = self
            .columns
            .iter()
            .filter(|column| columns.contains(column))
            .map(|column| format!("{} = null", printable_identifier(column)))
            .collect();
        let (table, row) = (&self.table, &self.row);
        (!given.is_empty()).then(|| format!("update {table} set {}\nwhere {row}", given.join(", ")))
    }
}

/// What a statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
                Ok::<_, Error>((row, Shown::new(table, then.fact, newest)?))
            })
            .transpose()?;
        match (&then, &now) {
            (None, None) => Ok(None),
            (None, Some(now)) => {
                let (name, row) = (rows_of(table), one_row(table, now)?);
                let done = format!("not exists (select from {name} where {row})");
                // Without a key one condition stands for one of several rows.
                let between = (!newest.key.is_empty()).then_some("\n   or ");
                let sql = Sql { head: format!("delete from {name}\nwhere "), row, between };
                Ok(Some(Self {
                    verb: Verb::Delete,
                    sql,
                    done,
                    replacing: None,
                    room: None,
                    unknown: Vec::new(),
                }))
            }
            (Some((then, as_now)), None) => Self::insert(table, newest, then, as_now).map(Some),
            (Some((then, _)), Some(now)) => Self::update(table, newest, then, now),
        }
    }

    fn insert(table: &TableHistory, newest: &TableSchema, then: &Shown, as_now: &Shown) -> Result<Self> {
        let (mut names, mut values, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        let (mut always, mut sets) = (false, Vec::new());
        for Settable { column, value, lost } in settable(newest, then)? {
            if let Some(why) = lost {
                unknown.push(named(column, why));
                continue;
            }
            always |= column.column.identity == Some('a');
            let (name, value) = (printable_identifier(&column.column.name), literal(column, &value));
            let at = newest.position(column.column.attnum);
            if at.is_some_and(|at| !newest.key.contains(&at)) && column.column.identity != Some('a') {
                sets.push(format!("{name} = {value}"));
            }
            names.push(name);
            values.push(value);
        }
        let overriding = if always { " overriding system value" } else { "" };
        let head = format!(
            "insert into {} ({}){overriding}\nvalues ",
            printable_name(&table.name),
            names.join(", ")
        );
        let sql = Sql { head, row: format!("({})", values.join(", ")), between: Some(",\n       ") };
        let name = rows_of(table);
        let row = one_row(table, as_now)?;
        let replacing =
            (!sets.is_empty()).then(|| format!("update {name} set {}\nwhere {row}", sets.join(", ")));
        let done = is_there(table, newest, then)?;
        Ok(Self { verb: Verb::Insert, sql, done, replacing, room: None, unknown })
    }

    fn update(table: &TableHistory, newest: &TableSchema, then: &Shown, now: &Shown) -> Result<Option<Self>> {
        let fields_now = now.fields()?;
        let (mut sets, mut unknown, mut columns) = (Vec::new(), Vec::new(), Vec::new());
        for Settable { column, value, lost } in settable(newest, then)? {
            let at = newest.position(column.column.attnum);
            let Some(field_now) = at.and_then(|at| fields_now.get(at).copied()) else { continue };
            if Value::new(&column.kind, field_now)? == value {
                continue;
            }
            if let Some(why) = lost {
                unknown.push(named(column, why));
                continue;
            }
            sets.push(format!("{} = {}", printable_identifier(&column.column.name), literal(column, &value)));
            columns.push(column.column.name.clone());
        }
        if sets.is_empty() && unknown.is_empty() {
            return Ok(None);
        }
        if sets.is_empty() {
            return Err(Error::other(format!(
                "the values then of {} are not known, or cannot stand there now: they cannot be brought back",
                unknown.join(", ")
            )));
        }
        let (name, row) = (rows_of(table), one_row(table, now)?);
        let sql = Sql::whole(format!("update {name} set {}\nwhere {row}", sets.join(", ")));
        let done = is_there(table, newest, then)?;
        // Without a key its values name the row, which must not change in between.
        let room = (!newest.key.is_empty()).then_some(Room { table: name, row, columns });
        Ok(Some(Self { verb: Verb::Update, sql, done, replacing: None, room, unknown }))
    }
}

/// A row with these values is in the table.
fn is_there(table: &TableHistory, newest: &TableSchema, then: &Shown) -> Result<String> {
    let known = settable(newest, then)?.into_iter().filter(|settable| settable.lost.is_none());
    let same: Vec<String> = known.map(|Settable { column, value, .. }| equal(column, &value)).collect();
    let same = if same.is_empty() { "true".to_owned() } else { same.join(" and ") };
    Ok(format!("exists (select from {} where {same})", rows_of(table)))
}

/// A value as Postgres prints it.
#[derive(Debug, PartialEq)]
enum Value {
    Null,
    Unknown,
    Text(String),
}

impl Value {
    fn new(kind: &Kind, field: Field<'_>) -> Result<Self> {
        Ok(match field.status {
            Status::Null => Self::Null,
            Status::Unknown => Self::Unknown,
            Status::Raw | Status::Value | Status::Large => Self::Text(text(kind, field).map_err(damaged)?),
        })
    }
}

/// A column as it is now, with its value of then.
struct Settable<'a> {
    column: &'a SchemaColumn,
    value: Value,
    /// Why the column cannot be given the value, in words that follow its name.
    lost: Option<&'static str>,
}

/// How a column is called that cannot be given its value.
fn named(column: &SchemaColumn, why: &str) -> String {
    format!("{}{why}", column.column.name)
}

/// The columns of the newest schema that a row of an earlier one has a value for, generated ones aside.
fn settable<'a>(newest: &'a TableSchema, then: &Shown) -> Result<Vec<Settable<'a>>> {
    let fields = then.fields()?;
    let columns = newest.columns.iter().filter(|column| column.column.generated.is_none());
    columns
        .filter_map(|column| {
            let at = then.schema.namesake(newest, column)?;
            Some((column, then.schema.columns.get(at)?, *fields.get(at)?))
        })
        .map(|(column, before, field)| Settable::new(column, before, field))
        .collect()
}

impl<'a> Settable<'a> {
    /// The column, with the value that it had under `before`.
    fn new(column: &'a SchemaColumn, before: &SchemaColumn, field: Field<'_>) -> Result<Self> {
        let mut value = Value::new(&before.kind, field)?;
        let lost = match &mut value {
            Value::Null => None,
            Value::Unknown => Some(""),
            Value::Text(_) if before.column.hashed.is_some() => Some(" (hashed)"),
            Value::Text(text) => {
                // As rows of then read under the columns of now.
                let read = before.cast_to(column).apply(std::mem::take(text));
                let reread =
                    if before.kind == column.kind { None } else { Some(reread(&column.kind, &read)) };
                let lost = matches!(reread, Some(None)).then_some(" (which its type of now does not take)");
                *text = reread.flatten().unwrap_or(read);
                lost
            }
        };
        Ok(Self { column, value, lost })
    }
}

/// The table's own rows, to read or change: tables that inherit from it have theirs.
pub(super) fn rows_of(table: &TableHistory) -> String {
    let only = if table.newest().partitioned { "" } else { "only " };
    format!("{only}{}", printable_name(&table.name))
}

/// A condition that holds for this row alone: its key; without one, one of the rows that are the same.
pub(super) fn one_row(table: &TableHistory, row: &Shown) -> Result<String> {
    let schema = table.newest();
    let fields = row.fields()?;
    let value = |column: &SchemaColumn, at: usize| {
        fields.get(at).map_or(Ok(Value::Unknown), |field| Value::new(&column.kind, *field))
    };
    if schema.key.is_empty() {
        let mut same = Vec::new();
        for (at, column) in schema.columns.iter().enumerate() {
            let value = value(column, at)?;
            if value != Value::Unknown && column.column.generated.is_none() {
                same.push(equal(column, &value));
            }
        }
        // A ctid names one row of one partition.
        let place = if schema.partitioned { "(tableoid, ctid)" } else { "ctid" };
        let (name, same) = (rows_of(table), same.join(" and "));
        let select = place.trim_matches(['(', ')']);
        return Ok(format!("{place} = (select {select} from {name} where {same} limit 1)"));
    }
    let mut parts = Vec::new();
    for (at, column) in schema.key.iter().filter_map(|at| Some((*at, schema.columns.get(*at)?))) {
        let value = literal(column, &value(column, at)?);
        parts.push(format!("{} = {value}", printable_identifier(&column.column.name)));
    }
    Ok(parts.join(" and "))
}

/// A column is exactly this value. Types without an operator for that are compared as text.
fn equal(column: &SchemaColumn, value: &Value) -> String {
    let name = printable_identifier(&column.column.name);
    match (&column.kind, value) {
        (_, Value::Null | Value::Unknown) => format!("{name} is null"),
        (Kind::Json | Kind::Printed(_) | Kind::Other | Kind::List(_), Value::Text(text)) => {
            format!("{name}::text = {}", quote_literal(text))
        }
        _ => format!("{name} = {}", literal(column, value)),
    }
}

/// A value as SQL takes it, whatever surrounds it.
fn literal(column: &SchemaColumn, value: &Value) -> String {
    let Value::Text(text) = value else { return "null".to_owned() };
    match (&column.kind, text.as_str()) {
        (Kind::Int16 | Kind::Int32 | Kind::Int64, digits)
            if !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()) =>
        {
            digits.to_owned()
        }
        (Kind::Bool, "t") => "true".to_owned(),
        (Kind::Bool, "f") => "false".to_owned(),
        _ => match type_name(&column.column.data_type) {
            Some(name) => format!("{}::{name}", quote_literal(text)),
            None => quote_literal(text),
        },
    }
}

fn printable_name(name: &TableName) -> String {
    format!("{}.{}", printable_identifier(&name.schema), printable_identifier(&name.name))
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
    Some(format!("{}.{}", printable_identifier(&data_type.schema), printable_identifier(&data_type.name)))
}
