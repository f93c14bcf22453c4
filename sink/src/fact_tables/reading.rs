//! What a column of the source reads as, out of rows that were written when it had another name or type, or was not there.
//!
//! The SQL says of rows of one schema version what [`Reshape`](crate::read::Reshape) makes of them.

use std::fmt::Write as _;

use bygone_replication::Lsn;
use bygone_replication::table::{DataType, quote_identifier, quote_literal};

use super::refused::is_of_users;
use crate::log::EventLsn;
use crate::read::{TableHistory, Version};
use crate::schema::{SchemaColumn, TableSchema};
use crate::value;

/// Oids of built-in types, which are the same everywhere.
mod oid {
    pub(super) const INT8: u32 = 20;
    pub(super) const INT2: u32 = 21;
    pub(super) const INT4: u32 = 23;
    pub(super) const TEXT: u32 = 25;
    pub(super) const OID: u32 = 26;
    pub(super) const FLOAT4: u32 = 700;
    pub(super) const FLOAT8: u32 = 701;
    pub(super) const VARCHAR: u32 = 1043;
    pub(super) const NUMERIC: u32 = 1700;
}

/// The moment as of which rows are asked for: an SQL expression.
#[derive(Clone, Copy, Debug)]
pub(super) enum Moment<'a> {
    Now,
    /// A `timestamptz`.
    Time(&'a str),
    /// A `pg_lsn`.
    Place(&'a str),
}

impl Moment<'_> {
    /// A condition on a history row: it is of this moment or before, with an `and` before it.
    pub(super) fn covers(self, row: &str) -> String {
        match self {
            Self::Now => String::new(),
            Self::Time(at) => format!(" and {row}._valid_from <= {at}"),
            Self::Place(at) => format!(" and {row}._lsn <= {at}"),
        }
    }

    /// A condition that a position has been passed, with an `and` before it.
    fn is_behind(self, schema: &str, place: Lsn) -> String {
        match self {
            Self::Now => String::new(),
            // In a query of its own, so that it is asked once, and only if such a row is met.
            Self::Time(at) => {
                format!(" and {at} >= (select {}.time_of('{place}'))", quote_identifier(schema))
            }
            Self::Place(at) => format!(" and {at} >= '{place}'"),
        }
    }
}

/// A column as the source has it.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) name: String,
    /// Its names in the history, the newest first: one for each type, or name, that it had.
    pub(super) forms: Vec<String>,
    /// What rows of schema versions before one read as, the oldest first.
    older: Vec<(i32, Read)>,
    /// What rows of all later ones read as.
    newest: Read,
}

/// Where a column's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Read {
    /// From a column of the history.
    Column { physical: String, cast: Cast },
    /// The row is older than the column, and reads so since the position at which it came [23].
    Missing { literal: String, since: Lsn, cast: Cast },
    /// Nothing can be said.
    Null,
}

/// How a value of then becomes one of the type of now.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cast {
    /// Not at all.
    None,
    /// By a cast that takes every value.
    To(&'static str),
    /// As text, which every value has; the types of which the text depends on no setting are told from the others.
    Text { is_immutable: bool },
    /// To a `numeric` of a scale.
    Scale(i32),
    /// Between `timestamp` and `timestamptz`: in UTC, as the server does where it rewrites nothing.
    Utc,
    /// From `cidr` to `inet` where the column has the text of both.
    Host,
    /// Through text, to null where that is no value of the type; fractions are rounded first, if the new type has none.
    Try { from: TryFrom },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TryFrom {
    Text,
    Float,
    Numeric,
}

impl Cast {
    /// Of values that differ in type. Both types stand on the target as they are named, or as something wider.
    fn between(from: &DataType, to: &DataType) -> Self {
        let (base, wanted) = (from.base(), to.oid);
        let is_int = matches!(base.oid, oid::INT2 | oid::INT4 | oid::INT8);
        if let value::Cast::IntoUtc | value::Cast::OutOfUtc = value::Cast::between(from, to) {
            return Self::Utc;
        }
        match (base.oid, wanted) {
            (oid::OID, oid::INT4) => Self::To("integer"),
            (oid::INT4, oid::OID) => Self::To("oid"),
            (oid::INT2, oid::INT4) => Self::To("integer"),
            (oid::INT2 | oid::INT4, oid::INT8) => Self::To("bigint"),
            (oid::INT2 | oid::INT4 | oid::FLOAT4, oid::FLOAT8) => Self::To("double precision"),
            (oid::INT2 | oid::INT4 | oid::INT8 | oid::NUMERIC, oid::NUMERIC) => {
                numeric_scale(to.typmod).map_or(Self::To("numeric"), Self::Scale)
            }
            (_, oid::TEXT | oid::VARCHAR) => Self::Text { is_immutable: is_int || base.oid == oid::NUMERIC },
            (oid::FLOAT4 | oid::FLOAT8, oid::INT2 | oid::INT4 | oid::INT8) => {
                Self::Try { from: TryFrom::Float }
            }
            (oid::NUMERIC, oid::INT2 | oid::INT4 | oid::INT8) => Self::Try { from: TryFrom::Numeric },
            _ => Self::Try { from: TryFrom::Text },
        }
    }

    fn is_immutable(&self) -> bool {
        match self {
            Self::None | Self::To(_) | Self::Scale(_) | Self::Utc | Self::Host => true,
            Self::Text { is_immutable } => *is_immutable,
            Self::Try { .. } => false,
        }
    }

    /// `value` as one of the type of now, which the column `like` has.
    fn apply(&self, value: &str, schema: &str, like: &str) -> String {
        match self {
            Self::None => value.to_owned(),
            Self::To(name) => format!("{value}::{name}"),
            Self::Text { .. } => format!("{value}::text"),
            Self::Scale(scale) => format!("round({value}::numeric, {scale})"),
            Self::Utc => format!("({value} at time zone 'UTC')"),
            Self::Host => {
                format!("regexp_replace({value}::text, '{}', '\\1\\2')", value::HOST)
            }
            Self::Try { from } => {
                let text = match from {
                    TryFrom::Text => format!("{value}::text"),
                    // A float's own text may have an exponent, which integers do not take.
                    TryFrom::Float => format!("round({value}::double precision)::numeric::text"),
                    TryFrom::Numeric => format!("round({value}::numeric)::text"),
                };
                format!("{}.as_type({text}, {like})", quote_identifier(schema))
            }
        }
    }
}

/// The scale that a modifier of `numeric` says. Since PostgreSQL 15 it may be negative.
fn numeric_scale(typmod: i32) -> Option<i32> {
    let packed = typmod.checked_sub(4).filter(|packed| *packed >= 0)?;
    Some(((packed & 0x7FF) ^ 0x400) - 0x400)
}

impl Shown {
    /// The columns of a table's newest schema.
    pub(super) fn all(table: &TableHistory) -> Vec<Self> {
        let newest: &TableSchema = table.newest();
        newest.columns.iter().map(|column| Self::of(table, newest, column)).collect()
    }

    fn of(table: &TableHistory, newest: &TableSchema, column: &SchemaColumn) -> Self {
        let mut forms = vec![column.physical.clone()];
        let mut older: Vec<(i32, Read)> = Vec::new();
        let mut last: Option<Read> = None;
        for version in &table.versions {
            let read = Read::of(table, version, newest, column);
            if let Read::Column { physical, .. } = &read
                && !forms.contains(physical)
            {
                forms.insert(1, physical.clone());
            }
            if let Some(before) = last.take_if(|before| *before != read) {
                older.push((version.schema.version, before));
            }
            last = Some(read);
        }
        let newest = last.unwrap_or(Read::Null);
        Self { name: column.column.name.clone(), forms, older, newest }
    }

    fn physical(&self) -> &str {
        self.forms.first().map_or("", String::as_str)
    }

    /// Its value in a row of the history or a slab, which is called `row`, as of a moment.
    pub(super) fn value(&self, schema: &str, row: &str, moment: Moment<'_>) -> String {
        let dot = if row.is_empty() { "" } else { "." };
        let of = |name: &str| format!("{row}{dot}{}", quote_identifier(name));
        let like = of(self.physical());
        let written = |read: &Read| match read {
            Read::Column { physical, cast } => cast.apply(&of(physical), schema, &like),
            Read::Missing { literal, cast, .. } => cast.apply(literal, schema, &like),
            Read::Null => "null".to_owned(),
        };
        let mut cases = String::new();
        for (below, read) in &self.older {
            let since = match read {
                Read::Missing { since, .. } => moment.is_behind(schema, *since),
                _ => String::new(),
            };
            // Writing to a String does not fail.
            let _ = write!(cases, "when {row}{dot}_schema < {below}{since} then {} ", written(read));
            if !since.is_empty() {
                let _ = write!(cases, "when {row}{dot}_schema < {below} then null ");
            }
        }
        match (cases.is_empty(), &self.newest) {
            (true, Read::Null) => like,
            (true, newest) => written(newest),
            (false, Read::Null) => format!("case {cases}else {like} end"),
            (false, newest) => format!("case {cases}else {} end", written(newest)),
        }
    }

    /// What an index has to hold, so that conditions on the column reach it: where the column had other types, its value.
    pub(super) fn indexed(&self, schema: &str) -> String {
        let reads = self.older.iter().map(|(_, read)| read);
        let is_immutable = reads.clone().all(|read| match read {
            Read::Column { cast, .. } => cast.is_immutable(),
            // That the moment is behind where it came is said beside it.
            Read::Missing { .. } => false,
            Read::Null => true,
        });
        if self.older.is_empty() || !is_immutable {
            quote_identifier(self.physical())
        } else {
            format!("({})", self.value(schema, "", Moment::Now))
        }
    }

    /// Some values of before may be none of the type of now.
    pub(super) fn may_not_read(&self) -> bool {
        self.older.iter().any(|(_, read)| match read {
            Read::Column { cast, .. } | Read::Missing { cast, .. } => matches!(cast, Cast::Try { .. }),
            Read::Null => false,
        })
    }
}

impl Read {
    /// Of the rows of a version.
    fn of(table: &TableHistory, version: &Version, newest: &TableSchema, column: &SchemaColumn) -> Self {
        let from = &version.schema;
        let own = from.namesake(newest, column).and_then(|at| from.columns.get(at));
        match own {
            Some(before) if !before.is_form_of(column) => Self::Null,
            Some(before) if before.physical == column.physical => {
                let is_host = before.cast_to(column) == value::Cast::Host;
                let cast = if is_host { Cast::Host } else { Cast::None };
                Self::Column { physical: before.physical.clone(), cast }
            }
            Some(before) => Self::Column {
                physical: before.physical.clone(),
                cast: Kept::of(table, &before.physical).into(&Kept::of(table, &column.physical)),
            },
            None if from.oid != newest.oid => Self::Null,
            None => Self::missing(table, from.version, column),
        }
    }

    fn missing(table: &TableHistory, after: i32, column: &SchemaColumn) -> Self {
        let Some((version, came)) = table.added_after(column.column.attnum, after) else { return Self::Null };
        let Some(text) = came.column.missing.as_deref().filter(|_| came.is_form_of(column)) else {
            return Self::Null;
        };
        let since = match version.from {
            EventLsn::Within([after, seen]) if after == seen => Lsn(after.0.saturating_add(1)),
            from => from.latest(),
        };
        let text = came.cast_to(column).apply(text.to_owned());
        let literal = quote_literal(&text);
        let is_kept = |kept: &Kept<'_>| {
            kept.declared.iter().all(|declared| is_one_type(declared, &came.column.data_type))
        };
        // Types that somebody made may not take by now what they took then.
        let cast = if is_kept(&Kept::of(table, &column.physical)) && !is_of_users(&came.column.data_type) {
            Cast::None
        } else {
            Cast::Try { from: TryFrom::Text }
        };
        Self::Missing { literal, since, cast }
    }
}

/// What a column of the history holds.
struct Kept<'a> {
    /// The types that it was declared with in the source, each once but for its modifiers; none of hashes, which are text.
    declared: Vec<&'a DataType>,
}

/// They differ in their modifiers at most.
fn is_one_type(one: &DataType, other: &DataType) -> bool {
    (one.oid, &one.schema, &one.name) == (other.oid, &other.schema, &other.name)
}

impl<'a> Kept<'a> {
    fn of(table: &'a TableHistory, physical: &str) -> Self {
        let mut declared: Vec<&DataType> = Vec::new();
        for column in table.versions.iter().flat_map(|version| &version.schema.columns) {
            let data_type = &column.column.data_type;
            if column.physical == physical
                && column.column.hashed.is_none()
                && !declared.iter().any(|known| is_one_type(known, data_type))
            {
                declared.push(data_type);
            }
        }
        Self { declared }
    }

    fn is_text(&self) -> bool {
        self.declared.iter().all(|declared| matches!(declared.oid, oid::TEXT | oid::VARCHAR))
    }

    /// How its values become those of another column.
    fn into(self, other: &Self) -> Cast {
        match (self.declared.as_slice(), other.declared.as_slice()) {
            ([one], [two]) if is_one_type(one, two) && one.typmod == two.typmod => Cast::None,
            _ if self.is_text() && other.is_text() => Cast::Text { is_immutable: true },
            ([one], [two]) => Cast::between(one, two),
            // Of several types the column is as wide as to hold all of them.
            _ => Cast::Try { from: TryFrom::Text },
        }
    }
}
