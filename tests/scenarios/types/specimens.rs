//! Values put into a table, and found again in the facts.

use std::io::Write;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int32Type, TimeUnit};
use postgres::Client;

use super::catalogue::{BINARY, Entry};
use crate::support::comparison::SESSION;
use crate::support::history::History;
use crate::support::oracle::{literal, quoted};
use crate::support::postgres::Postgres;
use crate::support::rendering;

/// Rows that come through the stream have this added to the number of the row that the first copy brings.
pub(crate) const STREAMED: i32 = 1000;

/// A column and the values that its rows hold.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// As it is declared.
    pub(crate) sql: String,
    /// SQL expressions, one a row; rows beyond are null.
    pub(crate) values: Vec<String>,
    /// Its values have texts that PostgreSQL reads back.
    pub(crate) readable: bool,
}

impl Column {
    fn of(number: usize, entry: &Entry) -> Self {
        let values = entry.values.iter().map(|value| expression(value, entry.sql)).collect();
        Self { name: format!("c{number}"), sql: entry.sql.to_owned(), values, readable: entry.readable }
    }

    /// Arrays of the same values, in every shape.
    fn array_of(number: usize, entry: &Entry) -> Self {
        let long = |value: &&&str| value.contains("repeat(") || value.contains("generate_series(");
        let items: Vec<String> = entry
            .values
            .iter()
            .filter(|value| !long(value))
            .map(|value| expression(value, entry.sql))
            .collect();
        let array = format!("{}[]", entry.sql);
        let mut values = vec![format!("'{{}}'::{array}"), format!("array[null]::{array}")];
        if entry.sql == "words" {
            // There is no expression for an array of a domain over arrays.
            values.push(r#"'{"{a,NULL}",NULL,"{\"b c\"}","{}"}'::words[]"#.to_owned());
        } else if let [first, .., last] | [first @ last] = items.as_slice() {
            values.push(format!("array[{first}]"));
            values.push(format!("array[{}, null]", items.join(", ")));
            values.push(format!("array[[{first}, null], [{last}, {first}]]"));
            values.push(format!("array_fill({last}, array[2], array[-1])"));
            values.push(format!("array_fill({first}, array[2, 1, 2], array[0, 5, -3])"));
        }
        Self { name: format!("a{number}"), sql: array, values, readable: entry.readable }
    }

    /// It, or what it is an array of, is among the types that come in binary form.
    pub(crate) fn is_binary(&self) -> bool {
        // Boxes are parted by a semicolon, and domains over arrays are no elements of a list.
        if matches!(self.sql.as_str(), "box[]" | "words[]") {
            return false;
        }
        let element = self.sql.strip_suffix("[]").unwrap_or(&self.sql);
        BINARY.contains(&element.split('(').next().unwrap_or_default())
    }
}

/// A value of the catalogue as an expression of its type.
fn expression(value: &str, sql: &str) -> String {
    match value.strip_prefix('=') {
        Some(expression) => format!("({expression})::{sql}"),
        None => format!("'{value}'::{sql}"),
    }
}

/// The columns of a table, with a value or null for each row.
#[derive(Debug, Clone)]
pub(crate) struct Specimens {
    pub(crate) columns: Vec<Column>,
}

impl Specimens {
    /// Of every type that this server has, and of its arrays.
    pub(crate) fn of<'a>(version: u32, entries: impl Iterator<Item = &'a Entry>) -> Self {
        let entries = entries.filter(|entry| entry.since <= version);
        let columns = entries.enumerate().flat_map(|(number, entry)| {
            let array = entry.readable.then(|| Column::array_of(number, entry));
            std::iter::once(Column::of(number, entry)).chain(array)
        });
        Self { columns: columns.collect() }
    }

    /// Those columns for which it holds.
    pub(crate) fn only(&self, wanted: impl Fn(&Column) -> bool) -> Self {
        Self { columns: self.columns.iter().filter(|column| wanted(column)).cloned().collect() }
    }

    /// How many rows show every value, and one row of nulls.
    pub(crate) fn rows(&self) -> i32 {
        let most = self.columns.iter().map(|column| column.values.len()).max().unwrap_or(0);
        i32::try_from(most).unwrap() + 1
    }

    pub(crate) fn create(&self, client: &mut Client, table: &str) {
        let columns: Vec<String> =
            self.columns.iter().map(|column| format!("{} {}", quoted(&column.name), column.sql)).collect();
        run(client, &format!("create table {table} (id int primary key, {})", columns.join(", ")));
    }

    /// Inserts all rows, the first of them under `first`.
    pub(crate) fn insert(&self, client: &mut Client, table: &str, first: i32) {
        for row in 0..self.rows() {
            let present: Vec<(&Column, &String)> = self
                .columns
                .iter()
                .filter_map(|column| Some((column, column.values.get(usize::try_from(row).unwrap())?)))
                .collect();
            let names: String =
                present.iter().map(|(column, _)| format!(", {}", quoted(&column.name))).collect();
            let values: String = present.iter().map(|(_, value)| format!(", {value}")).collect();
            let insert = format!("insert into {table} (id{names}) values ({}{values})", first + row);
            if let Err(error) = client.batch_execute(&insert) {
                let wrong = present.iter().filter_map(|(_, value)| {
                    let error = client.batch_execute(&format!("select {value}")).err()?;
                    Some(format!("{value}: {}", error.as_db_error().map_or("", |error| error.message())))
                });
                panic!("{error:?}\n{}", wrong.collect::<Vec<_>>().join("\n"));
            }
        }
    }

    /// The facts of a table, in log order.
    pub(crate) fn found(&self, history: &History, table: &str) -> Vec<Found> {
        let mut found = Vec::new();
        for batch in history.facts(table) {
            for row in 0..batch.num_rows() {
                let number = |name: &str| {
                    batch
                        .column_by_name(name)
                        .unwrap()
                        .as_primitive::<arrow::datatypes::Int64Type>()
                        .value(row)
                };
                let place = (number("_lsn"), number("_seq"));
                let id = batch.column_by_name("id").unwrap().as_primitive::<Int32Type>().value(row);
                let op = batch.column_by_name("_op").unwrap().as_string::<i32>().value(row).to_owned();
                let cells = self.columns.iter().map(|column| Cell::of(&batch, row, &column.name)).collect();
                found.push(Found { place, id, op, cells });
            }
        }
        found.sort_by_key(|fact| fact.place);
        found
    }

    /// What is wrong with facts, going by the table `kept`: its rows, as PostgreSQL has them, by `id`.
    ///
    /// A fact's text, cast to the type of its column, must be the very same value: byte by byte in the server's memory,
    /// which is stricter than `is not distinct from`, and in print.
    pub(crate) fn judge(
        &self,
        server: &Postgres,
        database: &str,
        kept: &str,
        facts: &[Found],
    ) -> Vec<String> {
        let mut client = server.connect_to(database);
        run(&mut client, SESSION);
        self.load(&mut client, facts);
        let types: Vec<String> = texts(
            &mut client,
            &format!(
                "select format_type(atttypid, -1) from pg_attribute where attrelid = {}::regclass and attnum > 1
                     and not attisdropped order by attnum",
                literal(kept)
            ),
        );
        assert_eq!(types.len(), self.columns.len());
        let mut wrong = Vec::new();
        for (column, base) in self.columns.iter().zip(types) {
            let name = quoted(&column.name);
            let cast = match base.as_str() {
                // The cast from text looks for names alone; what reads a literal takes numbers as well.
                "regclass" => format!("regclassin((t.{name})::cstring)"),
                _ => format!("(t.{name})::{base}"),
            };
            let differs = if column.readable {
                format!(
                    "not record_image_eq(row({cast}), row(k.{name})) or format('%s', {cast}) is distinct from format('%s', k.{name})"
                )
            } else {
                format!("t.{name} is distinct from k.{name}::text")
            };
            let sql = format!(
                "select format('row %s, %s: %s instead of %s', id, op, left(format('%L', t.{name}), 200), left(format('%L', k.{name}), 200))
                 from told t join {kept} k using (id) where {differs} order by id limit 3"
            );
            match client.simple_query(&sql) {
                Ok(rows) => wrong.extend(rows.iter().filter_map(|row| match row {
                    postgres::SimpleQueryMessage::Row(row) => {
                        Some(format!("{} {}: {}", column.name, column.sql, row.get(0).unwrap_or_default()))
                    }
                    _ => None,
                })),
                Err(error) => {
                    let why =
                        error.as_db_error().map_or_else(|| error.to_string(), |e| e.message().to_owned());
                    wrong.push(format!("{} {}: {why}", column.name, column.sql));
                }
            }
        }
        let unjudged = texts(
            &mut client,
            &format!("select format('no row %s', id) from told where id not in (select id from {kept})"),
        );
        wrong.extend(unjudged);
        wrong
    }

    fn load(&self, client: &mut Client, facts: &[Found]) {
        let names: Vec<String> = self.columns.iter().map(|column| quoted(&column.name)).collect();
        run(client, &format!("create temp table told (id int, op text, {} text)", names.join(" text, ")));
        let mut copy = client.copy_in("copy told from stdin").unwrap();
        for fact in facts {
            let mut line = format!("{}\t{}", fact.id, fact.op);
            for cell in &fact.cells {
                line.push('\t');
                match cell.text() {
                    None => line.push_str("\\N"),
                    Some(text) => line.push_str(&escaped(&text)),
                }
            }
            line.push('\n');
            copy.write_all(line.as_bytes()).unwrap();
        }
        copy.finish().unwrap_or_else(|error| panic!("{error:?}"));
    }

    /// What differs between the same rows, as two facts have them: by column, byte by byte.
    pub(crate) fn differences(&self, one: &Found, other: &Found) -> Vec<String> {
        let cells = self.columns.iter().zip(one.cells.iter().zip(&other.cells));
        cells
            .filter(|(_, (one, other))| one != other)
            .map(|(column, (mine, theirs))| {
                format!(
                    "{} {}, {} {} and {} {}: {mine:?} and {theirs:?}",
                    column.name, column.sql, one.op, one.id, other.op, other.id
                )
            })
            .collect()
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t")
}

/// A fact: which row, how it came, and what it holds.
#[derive(Debug)]
pub(crate) struct Found {
    place: (i64, i64),
    pub(crate) id: i32,
    pub(crate) op: String,
    pub(crate) cells: Vec<Cell>,
}

/// A value as a file has it.
#[derive(Clone)]
pub(crate) struct Cell {
    value: ArrayRef,
    raw: Option<String>,
}

impl Cell {
    fn of(batch: &RecordBatch, row: usize, name: &str) -> Self {
        let value = batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}")).slice(row, 1);
        let raws = batch.column_by_name("_raw").unwrap().as_map();
        let entries = raws.is_valid(row).then(|| raws.value(row));
        let raw = entries.and_then(|entries| {
            let (names, texts) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
            let at = names.iter().position(|other| other == Some(name))?;
            Some(texts.value(at).to_owned())
        });
        assert!(value.is_null(0) || raw.is_none(), "{name} is both in its column and in _raw");
        Self { value, raw }
    }

    /// The text that PostgreSQL reads back; `None` for null.
    pub(crate) fn text(&self) -> Option<String> {
        self.raw.clone().or_else(|| rendering::text(&self.value, 0).unwrap())
    }

    pub(crate) fn raw(&self) -> Option<&str> {
        self.raw.as_deref()
    }

    pub(crate) fn data_type(&self) -> &DataType {
        self.value.data_type()
    }
}

impl PartialEq for Cell {
    /// Floats by their bits.
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw && self.value.to_data() == other.value.to_data()
    }
}

impl std::fmt::Debug for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = format!("{:?}", rendering::text(&self.value, 0));
        if let Some((at, _)) = text.char_indices().nth(200) {
            text.truncate(at);
        }
        write!(f, "{text} raw {:?}", self.raw)
    }
}

/// The Arrow type that `docs/design.md` promises for a column of the catalogue.
pub(crate) fn promised(sql: &str) -> DataType {
    if let Some(element) = sql.strip_suffix("[]") {
        // Arrays of arrays, by way of a domain, and of boxes, which are parted otherwise, are kept as text.
        return match element {
            "box" | "words" => DataType::Utf8,
            _ => DataType::new_list(promised(element), true),
        };
    }
    match sql {
        "boolean" => DataType::Boolean,
        "smallint" => DataType::Int16,
        "integer" => DataType::Int32,
        "bigint" | "oid" | "xid" => DataType::Int64,
        "real" => DataType::Float32,
        "double precision" => DataType::Float64,
        "bytea" => DataType::Binary,
        "date" => DataType::Date32,
        "numeric(12,2)" | "cents" | "price" => DataType::Decimal128(12, 2),
        "numeric(38,10)" => DataType::Decimal128(38, 10),
        "numeric(38,38)" => DataType::Decimal128(38, 38),
        "numeric(3,-2)" => DataType::Decimal128(5, 0),
        "numeric(2,5)" => DataType::Decimal128(5, 5),
        "words" => DataType::new_list(DataType::Utf8, true),
        "when_told" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        _ if sql.starts_with("timestamptz") => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        _ if sql.starts_with("timestamp") => DataType::Timestamp(TimeUnit::Microsecond, None),
        _ => DataType::Utf8,
    }
}

/// Runs a statement.
#[track_caller]
pub(crate) fn run(client: &mut Client, sql: &str) {
    if let Err(error) = client.batch_execute(sql) {
        panic!("{error:?}\n{}", sql.chars().take(4000).collect::<String>());
    }
}

/// The one column of a query, as text.
#[track_caller]
pub(crate) fn texts(client: &mut Client, sql: &str) -> Vec<String> {
    let rows = client.simple_query(sql).unwrap_or_else(|error| panic!("{error:?}\n{sql}"));
    let texts = rows.iter().filter_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    texts.collect()
}
