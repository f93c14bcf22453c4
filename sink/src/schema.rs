//! What a table looks like at one moment: its columns, its key, and the shape of its fact files.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType as ArrowType, Field, Fields, Schema, SchemaRef, TimeUnit};
use bygone_replication::table::{Column, Table, TableKind, TableName};

use crate::log::SchemaVersion;
use crate::value::{Cast, Kind};

/// The columns that bygone adds, in file order: see "A fact" in `docs/design.md`.
pub const SYSTEM_COLUMNS: [&str; 15] = [
    "_id",
    "_entity_id",
    "_version",
    "_op",
    "_valid_from",
    "_deleted_at",
    "_lsn",
    "_seq",
    "_xid",
    "_changed",
    "_actor",
    "_context",
    "_unknown",
    "_schema",
    "_raw",
];

/// Names that readers derive: no column of the user's may have them either.
pub const RESERVED_COLUMNS: [&str; 3] = ["_date", "_valid_to", "_current"];

/// A user's column in a [`TableSchema`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaColumn {
    /// The column as the catalog has it.
    pub column: Column,
    /// Its name in the fact files: its own, unless that name already belonged to another column or type [25].
    pub physical: String,
    /// What sort of value it holds.
    pub kind: Kind,
    /// The server sends it, and it is taken: virtual generated columns, and stored ones before PostgreSQL 18, are not sent [26];
    /// columns that are left out are not taken.
    pub sent: bool,
}

impl SchemaColumn {
    /// Values of the two can be compared: both are kept as they are, or hashed with the same key.
    #[must_use]
    pub fn is_form_of(&self, other: &Self) -> bool {
        self.column.hashed == other.column.hashed
    }

    /// How the text of a value becomes one of the same column at another time, where that has another type. A hash is not
    /// touched.
    #[must_use]
    pub fn cast_to(&self, other: &Self) -> Cast {
        if self.column.hashed.is_some() {
            return Cast::Same;
        }
        Cast::between(&self.column.data_type, &other.column.data_type)
    }

    /// A value is kept alike under both.
    #[must_use]
    pub fn reads_as(&self, other: &Self) -> bool {
        self.kind == other.kind && matches!(self.cast_to(other), Cast::Same | Cast::Unknown)
    }
}

/// A table at one schema version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSchema {
    /// Names the table in state: its place in the order in which the history came to know tables.
    pub number: u32,
    /// Schema and name in the source.
    pub name: TableName,
    /// The name in the log: `schema.table`.
    pub log_name: String,
    /// `pg_class.oid` (of the root, for a partitioned table).
    pub oid: u32,
    /// `_schema`: 1, 2, 3 … per table.
    pub version: i32,
    /// The user's columns, by attnum.
    pub columns: Vec<SchemaColumn>,
    /// Positions in `columns` of the key's parts, in key order. Empty: the row's content names the entity.
    pub key: Vec<usize>,
    /// Its retention class: what its files are tagged with in a bucket.
    pub retention: Option<String>,
    /// Its rows lie in its partitions.
    pub partitioned: bool,
    kinds: Vec<Kind>,
    arrow: SchemaRef,
}

impl TableSchema {
    /// The schema of a table as the catalog has it. The key is given by attnum, because it is pinned at attach [16].
    #[must_use]
    pub fn new(
        number: u32,
        log_name: String,
        version: i32,
        table: &Table,
        key: &[i16],
        physical: &PhysicalNames,
    ) -> Self {
        // Names that differ in case alone, as `Id` and `id` do, are one name to most readers [38].
        let mut names = physical.clone();
        let columns: Vec<SchemaColumn> = table
            .columns
            .iter()
            .map(|column| {
                let kind = Kind::of_column(column);
                let physical = names.of(column, &kind);
                names.own(&physical, column, &kind);
                SchemaColumn {
                    physical,
                    sent: column.generated.is_none() && !column.left_out,
                    column: column.clone(),
                    kind,
                }
            })
            .collect();
        let schema = Self::of_columns(number, table.name.clone(), log_name, table.oid, version, columns, key);
        Self { partitioned: table.kind == TableKind::Partitioned, ..schema }
    }

    /// The schema of columns that are already known.
    #[must_use]
    pub fn of_columns(
        number: u32,
        name: TableName,
        log_name: String,
        oid: u32,
        version: i32,
        columns: Vec<SchemaColumn>,
        key: &[i16],
    ) -> Self {
        let key = key
            .iter()
            .filter_map(|attnum| columns.iter().position(|column| column.column.attnum == *attnum))
            .collect();
        let kinds = columns.iter().map(|column| column.kind.clone()).collect();
        let arrow = Arc::new(Schema::new(fact_fields(&columns)));
        Self {
            number,
            name,
            log_name,
            oid,
            version,
            columns,
            key,
            retention: None,
            partitioned: false,
            kinds,
            arrow,
        }
    }

    /// The same of a table that is as the log says.
    #[must_use]
    pub fn as_in(self, version: &SchemaVersion) -> Self {
        Self { retention: version.retention.clone(), partitioned: version.partitioned, ..self }
    }

    /// What sort of value each of the user's columns holds.
    #[must_use]
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// The shape of the fact files: system columns, then the user's.
    #[must_use]
    pub fn arrow(&self) -> &SchemaRef {
        &self.arrow
    }

    /// Position of the column with an attnum.
    #[must_use]
    pub fn position(&self, attnum: i16) -> Option<usize> {
        self.columns.iter().position(|column| column.column.attnum == attnum)
    }

    /// The place here of a column of another version of the table: the same attnum, or, where the two are different
    /// tables that had one name after the other, the same name and a type whose every value the column's own takes. The two
    /// are one column to whoever reads all versions together.
    #[must_use]
    pub fn counterpart(&self, of: &Self, column: &SchemaColumn) -> Option<usize> {
        let at = self.namesake(of, column)?;
        let own = self.columns.get(at)?;
        let is_one = self.oid == of.oid || (own.is_form_of(column) && fits(&own.kind, &column.kind));
        is_one.then_some(at)
    }

    /// The same, whatever the types of a table and the one before it are: where a row's value for the column stands.
    #[must_use]
    pub fn namesake(&self, of: &Self, column: &SchemaColumn) -> Option<usize> {
        if self.oid == of.oid {
            return self.position(column.column.attnum);
        }
        self.columns.iter().position(|own| own.column.name == column.column.name)
    }

    /// Every column's binary form can be asked for, and gives the same facts as its text.
    #[must_use]
    pub fn reads_binary(&self) -> bool {
        self.columns.iter().map(|column| &column.column.data_type).all(|data_type| {
            // A value that is hashed is read as what it is.
            Kind::of(data_type).reads_binary() && data_type.binary
        })
    }

    /// The first of the user's columns whose name bygone needs for itself.
    #[must_use]
    pub fn clash(table: &Table) -> Option<&str> {
        table.columns.iter().map(|column| column.name.as_str()).find(|name| is_ours(name))
    }
}

/// bygone has a column of the name, however it is capitalized.
fn is_ours(name: &str) -> bool {
    SYSTEM_COLUMNS.iter().chain(&RESERVED_COLUMNS).any(|ours| ours.eq_ignore_ascii_case(name))
}

/// Every value of one kind is one of another, and reads the same in every engine.
fn fits(from: &Kind, to: &Kind) -> bool {
    let digits = match from {
        Kind::Int16 => 5,
        Kind::Int32 => 10,
        Kind::Int64 => 19,
        _ => 0,
    };
    match (from, to) {
        _ if from == to => true,
        (Kind::Int16, Kind::Int32 | Kind::Int64) | (Kind::Int32, Kind::Int64) => true,
        (Kind::Int16 | Kind::Int32 | Kind::Int64, Kind::Decimal { precision, scale }) => {
            i16::from(*precision) - i16::from(*scale) >= digits
        }
        (Kind::Decimal { precision: before, scale: fraction }, Kind::Decimal { precision, scale }) => {
            let whole = |precision: &u8, scale: &u8| i16::from(*precision) - i16::from(*scale);
            scale >= fraction && whole(precision, scale) >= whole(before, fraction)
        }
        (Kind::Int16 | Kind::Int32 | Kind::Int64, Kind::NumericText | Kind::Text)
        | (Kind::Decimal { .. }, Kind::NumericText | Kind::Text)
        | (Kind::NumericText | Kind::Uuid, Kind::Text) => true,
        _ => false,
    }
}

/// Which column, holding which type, owns each column name of a table's fact files.
///
/// Files of one table are read together, so a name keeps one meaning for ever: a second column of the same name, or
/// another type, gets a name of its own (`total__2`); a column that is renamed goes on under its new name, and the log's
/// attnums tell that both are one [25, 36, 38]. The names of bygone's own columns are never a column's: one that comes to be called
/// `_version` is `_version__2`.
#[derive(Clone, Debug, Default)]
pub struct PhysicalNames {
    /// By name in lower case.
    owners: HashMap<String, Owner>,
    /// The table whose attnums these are.
    oid: u32,
}

#[derive(Clone, Debug)]
struct Owner {
    /// None where the column was of a table that was dropped: another one of the name and type goes on under it.
    attnum: Option<i16>,
    data_type: ArrowType,
    /// The id of the key with which its values were hashed: values, and the hashes of each key, have names of their own.
    hashed: Option<String>,
}

impl PhysicalNames {
    /// Notes the names that a schema version uses.
    pub fn learn(&mut self, schema: &TableSchema) {
        self.of_table(schema.oid);
        for column in &schema.columns {
            self.own(&column.physical, &column.column, &column.kind);
        }
    }

    /// The names are those of the columns of another table from now on: one that was made under the dropped one's name.
    pub fn of_table(&mut self, oid: u32) {
        if self.oid != oid {
            self.owners.values_mut().for_each(|owner| owner.attnum = None);
            self.oid = oid;
        }
    }

    fn own(&mut self, physical: &str, column: &Column, kind: &Kind) {
        let owner =
            Owner { attnum: Some(column.attnum), data_type: kind.arrow(), hashed: column.hashed.clone() };
        self.owners
            .entry(physical.to_lowercase())
            .and_modify(|known| {
                if known.attnum.is_none() {
                    known.attnum = owner.attnum;
                }
            })
            .or_insert(owner);
    }

    /// The name for a column.
    fn of(&self, column: &Column, kind: &Kind) -> String {
        let (name, wanted) = (&column.name, kind.arrow());
        let free = |candidate: &str| {
            !is_ours(candidate)
                && self.owners.get(&candidate.to_lowercase()).is_none_or(|owner| {
                    owner.attnum.is_none_or(|owner| owner == column.attnum)
                        && owner.data_type == wanted
                        && owner.hashed == column.hashed
                })
        };
        (1u32..)
            .map(|count| if count == 1 { name.clone() } else { numbered(name, count) })
            .find(|candidate| free(candidate))
            .unwrap_or_else(|| name.clone())
    }
}

/// PostgreSQL cuts names after so many bytes.
const LONGEST_NAME: usize = 63;

/// A name with a number behind it, no longer than PostgreSQL takes names: what it cuts would be the name of another column.
fn numbered(name: &str, number: u32) -> String {
    let suffix = format!("__{number}");
    let mut end = name.len().min(LONGEST_NAME - suffix.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.get(..end).unwrap_or_default().to_owned() + &suffix
}

/// `timestamp(us, UTC)`.
pub(crate) fn instant() -> ArrowType {
    ArrowType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

pub(crate) fn text_list() -> ArrowType {
    ArrowType::List(Arc::new(Field::new("element", ArrowType::Utf8, true)))
}

pub(crate) fn text_map() -> ArrowType {
    let entries = Fields::from(vec![
        Field::new("key", ArrowType::Utf8, false),
        Field::new("value", ArrowType::Utf8, true),
    ]);
    ArrowType::Map(Arc::new(Field::new("key_value", ArrowType::Struct(entries), false)), false)
}

fn fact_fields(columns: &[SchemaColumn]) -> Vec<Field> {
    let mut fields = vec![
        Field::new("_id", ArrowType::Utf8, false),
        Field::new("_entity_id", ArrowType::Utf8, false),
        Field::new("_version", ArrowType::Int64, false),
        Field::new("_op", ArrowType::Utf8, false),
        Field::new("_valid_from", instant(), false),
        Field::new("_deleted_at", instant(), true),
        Field::new("_lsn", ArrowType::Int64, false),
        Field::new("_seq", ArrowType::Int64, false),
        Field::new("_xid", ArrowType::Int64, false),
        Field::new("_changed", text_list(), true),
        Field::new("_actor", ArrowType::Utf8, true),
        Field::new("_context", ArrowType::Utf8, true),
        Field::new("_unknown", text_list(), true),
        Field::new("_schema", ArrowType::Int32, false),
        Field::new("_raw", text_map(), true),
    ];
    fields.extend(columns.iter().map(|column| {
        let data_type = &column.column.data_type;
        let mut metadata = HashMap::from([
            ("postgres.type".to_owned(), qualified_type(&data_type.schema, &data_type.name)),
            ("postgres.typmod".to_owned(), data_type.typmod.to_string()),
            ("postgres.attnum".to_owned(), column.column.attnum.to_string()),
        ]);
        if column.physical != column.column.name {
            metadata.insert("postgres.column".to_owned(), column.column.name.clone());
        }
        if let Some(key) = &column.column.hashed {
            metadata.insert("bygone.hashed".to_owned(), key.clone());
        }
        if matches!(column.kind, Kind::Json | Kind::Jsonb) {
            metadata.insert("ARROW:extension:name".to_owned(), "arrow.json".to_owned());
            metadata.insert("ARROW:extension:metadata".to_owned(), String::new());
        }
        Field::new(&column.physical, column.kind.arrow(), true).with_metadata(metadata)
    }));
    fields
}

/// A type's name, with its schema unless that is `pg_catalog`.
#[must_use]
pub fn qualified_type(schema: &str, name: &str) -> String {
    if schema == "pg_catalog" { name.to_owned() } else { format!("{schema}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numbered_name_is_no_longer_than_names_may_be() {
        assert_eq!(numbered("total", 2), "total__2");
        assert_eq!(numbered(&"n".repeat(60), 2), "n".repeat(60) + "__2");
        assert_eq!(numbered(&"n".repeat(63), 12), "n".repeat(59) + "__12");
        // No half of a character is left.
        assert_eq!(numbered(&"é".repeat(31), 2), "é".repeat(30) + "__2");
    }
}
