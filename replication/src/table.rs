//! What the catalog says of a table: its columns, types, key and identity.

use std::fmt;

/// A table's schema and name, as the catalog spells them (unquoted).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// `pg_namespace.nspname`.
    pub schema: String,
    /// `pg_class.relname`.
    pub name: String,
}

impl TableName {
    /// A name from its two parts.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }

    /// The name as SQL takes it, both parts quoted.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.name))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// An identifier as SQL takes it whatever it holds: `a"b` becomes `"a""b"`. The names of `regclass` and its kin are written so, too.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The same for SQL that is shown to people: control characters, which a terminal would obey, are written as escapes.
#[must_use]
pub fn printable_identifier(name: &str) -> String {
    if !name.chars().any(is_obeyed) {
        return quote_identifier(name);
    }
    format!("U&{}", escaped(&quote_identifier(name), |c| format!("\\{:04x}", u32::from(c))))
}

/// A string as an SQL literal, whatever `standard_conforming_strings` says. Control characters are escaped as in
/// [`printable_identifier`].
#[must_use]
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') || quoted.chars().any(is_obeyed) {
        format!("E'{}'", escaped(&quoted, |c| format!("\\u{:04x}", u32::from(c))))
    } else {
        format!("'{quoted}'")
    }
}

/// A terminal does something else with it than to show it or to go on to the next line or column.
fn is_obeyed(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

/// The text with each backslash doubled, and what terminals obey as `escape` writes it.
fn escaped(text: &str, escape: impl Fn(char) -> String) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            c if is_obeyed(c) => out.push_str(&escape(c)),
            c => out.push(c),
        }
    }
    out
}

/// A column's type as `pg_type` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataType {
    /// `pg_type.oid`.
    pub oid: u32,
    /// `pg_namespace.nspname` of the type (`pg_catalog` for built-in ones).
    pub schema: String,
    /// `pg_type.typname`: `int8`, `_text` for `text[]`, `mood`.
    pub name: String,
    /// The modifier of this use (`numeric(12,2)`), -1 for none.
    pub typmod: i32,
    /// What sort of type it is.
    pub kind: TypeKind,
    /// The type, and everything inside it, has a binary output function.
    pub binary: bool,
}

/// What sort of type a [`DataType`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeKind {
    /// A base type; also pseudo-types, which no column has.
    Base,
    /// An enum.
    Enum,
    /// A domain over the type, with the domain's own modifier applied.
    Domain(Box<DataType>),
    /// A true array (`typcategory = 'A'`) of the element type, with the column's modifier applied to the element.
    Array(Box<DataType>),
    /// A composite (row) type.
    Composite,
    /// A range.
    Range,
    /// A multirange.
    Multirange,
}

impl DataType {
    /// The type below all domains.
    #[must_use]
    pub fn base(&self) -> &Self {
        match &self.kind {
            TypeKind::Domain(inner) => inner.base(),
            _ => self,
        }
    }

    /// The type below all domains and arrays: what a value is made of.
    #[must_use]
    pub fn innermost(&self) -> &Self {
        match &self.kind {
            TypeKind::Domain(inner) | TypeKind::Array(inner) => inner.innermost(),
            _ => self,
        }
    }
}

/// One live column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// `attname`.
    pub name: String,
    /// `attnum`: names the column for ever, whatever it is called.
    pub attnum: i16,
    /// The column's type.
    pub data_type: DataType,
    /// `attnotnull`.
    pub not_null: bool,
    /// `attgenerated`: `s` (stored), `v` (virtual) or none.
    pub generated: Option<char>,
    /// `attidentity`: `a` (always), `d` (by default) or none.
    pub identity: Option<char>,
    /// `attstorage`: `p`, `e`, `m` or `x`; `e` and `x` can be stored out of line.
    pub storage: char,
    /// `attmissingval` as text: what rows older than the column read as, where `atthasmissing`.
    pub missing: Option<String>,
    /// The column has a default expression (`atthasdef`, generated columns aside).
    pub has_default: bool,
    /// Its values are not to be read: neither copied nor taken from the stream. The catalog never says so; whoever captures does.
    pub left_out: bool,
    /// An update that changes no other column is not to be told. The catalog never says so either.
    pub unwatched: bool,
    /// A hash is to be kept instead of its values, made with the key of this id; `missing` is a hash then, too. The catalog never
    /// says so either.
    pub hashed: Option<String>,
}

/// How `pgoutput` names the old row of an update or delete: `pg_class.relreplident`, resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// `default`, and there is a primary key that can serve.
    PrimaryKey,
    /// `using index`.
    Index,
    /// `full`: all columns.
    Full,
    /// None that works: `nothing`, or `default` without a primary key that is immediate and valid.
    Nothing,
}

/// What sort of relation a [`Table`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// An ordinary table.
    Ordinary,
    /// The root of a partitioned table.
    Partitioned,
    /// A leaf partition, with the oid of its topmost root.
    Leaf {
        /// `oid` of the root.
        root: u32,
    },
}

/// A table as the catalog has it at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema and name.
    pub name: TableName,
    /// Ordinary, partitioned or a leaf.
    pub kind: TableKind,
    /// How updates and deletes name their row.
    pub identity: ReplicaIdentity,
    /// Attnums of the primary key in index order; empty without one. A deferrable one counts.
    pub primary_key: Vec<i16>,
    /// Attnums of the replica identity index in index order; empty unless [`ReplicaIdentity::Index`].
    pub identity_index: Vec<i16>,
    /// Live columns by attnum.
    pub columns: Vec<Column>,
    /// `relfilenode` (`pg_relation_filenode`): changes with every rewrite. 0 for partitioned tables.
    pub filenode: u32,
    /// Changes whenever the catalog's word on one of the columns does: the sum of `xmin` over `pg_attribute`. With another
    /// `filenode` it tells an `ALTER TABLE` that rewrote from a `VACUUM FULL` [24].
    pub columns_stamp: u64,
    /// `relpersistence`: `p`, `u` or `t`.
    pub persistence: char,
    /// Size of the main fork in blocks of `block_size` bytes, by the file system's word.
    pub blocks: u64,
    /// `reltuples`, where the server has an estimate.
    pub rows: Option<u64>,
    /// Row-level security is on and would filter what the current role reads.
    pub row_security: bool,
    /// Only rows for which this SQL expression holds are captured: the row filters of a publication that somebody made.
    pub row_filter: Option<String>,
}

impl Table {
    /// Attnums of the key that names an entity, pinned at attach: the primary key if there is one, else the identity
    /// index, else none (FULL and NOTHING without a primary key).
    #[must_use]
    pub fn key(&self) -> &[i16] {
        if self.primary_key.is_empty() { &self.identity_index } else { &self.primary_key }
    }

    /// The oid of the table that it is a partition of, however deep; its own where it is none.
    #[must_use]
    pub fn root(&self) -> u32 {
        match self.kind {
            TableKind::Leaf { root } => root,
            TableKind::Ordinary | TableKind::Partitioned => self.oid,
        }
    }

    /// The column of an attnum.
    #[must_use]
    pub fn column(&self, attnum: i16) -> Option<&Column> {
        self.columns.iter().find(|column| column.attnum == attnum)
    }
}
