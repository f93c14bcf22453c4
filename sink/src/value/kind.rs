//! What sort of value a column holds, and which Arrow type carries it.

use std::sync::Arc;

use arrow::datatypes::{DataType as ArrowType, Field, TimeUnit};
use bygone_replication::table::{Column, DataType, TypeKind};

use super::printed::Printed;

/// The largest precision that Parquet's, DuckDB's and Spark's decimals share.
const MAX_PRECISION: i32 = 38;

/// What sort of value a column holds: one for each way to keep and to show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `boolean`.
    Bool,
    /// `smallint`.
    Int16,
    /// `integer`.
    Int32,
    /// `bigint`.
    Int64,
    /// `oid` and `xid`: 32 bits without a sign, kept as a bigint.
    Oid,
    /// `real`.
    Float32,
    /// `double precision`.
    Float64,
    /// A type whose text and binary forms are the same bytes: `text`, `varchar`, `char(n)`, `name`, `citext`, enums.
    Text,
    /// `json`.
    Json,
    /// `jsonb`: its binary form has a version byte before the text.
    Jsonb,
    /// `numeric` without a precision that fits a decimal: exact text.
    NumericText,
    /// A type that is kept as the text that Postgres prints, whose binary form is printed likewise.
    Printed(Printed),
    /// Any other type: the text that Postgres prints.
    Other,
    /// `uuid`.
    Uuid,
    /// `bytea`.
    Bytes,
    /// `date`.
    Date,
    /// `timestamp without time zone`.
    Timestamp,
    /// `timestamp with time zone`.
    Timestamptz,
    /// `numeric(precision, scale)`.
    Decimal {
        /// All digits, at most 38.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// A one-dimensional array.
    List(Box<Kind>),
}

impl Kind {
    /// The kind that holds a type's values.
    #[must_use]
    pub fn of(data_type: &DataType) -> Self {
        let base = data_type.base();
        match &base.kind {
            TypeKind::Enum => Self::Text,
            TypeKind::Array(element) if !is_array(element.base()) && base.schema == "pg_catalog" => {
                // The elements of box[] are parted by a semicolon; Postgres' text of the whole is kept.
                if element.name == "box" { Self::Other } else { Self::List(Box::new(Self::of(element))) }
            }
            TypeKind::Array(element) if !is_array(element.base()) => Self::List(Box::new(Self::of(element))),
            TypeKind::Base | TypeKind::Range | TypeKind::Multirange if base.schema == "pg_catalog" => {
                Self::of_builtin(&base.name, base.typmod)
            }
            TypeKind::Base if base.name == "citext" => Self::Text,
            _ => Self::Other,
        }
    }

    /// The kind in which a column's values are kept: a hash is text, whatever it is the hash of.
    #[must_use]
    pub fn of_column(column: &Column) -> Self {
        if column.hashed.is_some() { Self::Text } else { Self::of(&column.data_type) }
    }

    fn of_builtin(name: &str, typmod: i32) -> Self {
        match name {
            "bool" => Self::Bool,
            "int2" => Self::Int16,
            "int4" => Self::Int32,
            "int8" => Self::Int64,
            "oid" | "xid" => Self::Oid,
            "float4" => Self::Float32,
            "float8" => Self::Float64,
            "text" | "varchar" | "bpchar" | "name" => Self::Text,
            "json" => Self::Json,
            "jsonb" => Self::Jsonb,
            "uuid" => Self::Uuid,
            "bytea" => Self::Bytes,
            "date" => Self::Date,
            "timestamp" => Self::Timestamp,
            "timestamptz" => Self::Timestamptz,
            "numeric" => Self::of_numeric(typmod),
            other => Printed::of_builtin(other).map_or(Self::Other, Self::Printed),
        }
    }

    /// `numeric(p, s)`: since Postgres 15 the scale may be negative or above the precision, which Parquet's decimal does
    /// not know [49].
    fn of_numeric(typmod: i32) -> Self {
        let Some(packed) = typmod.checked_sub(4).filter(|packed| *packed >= 0) else {
            return Self::NumericText;
        };
        let precision = packed >> 16 & 0xFFFF;
        let scale = ((packed & 0x7FF) ^ 0x400) - 0x400;
        let precision = if scale < 0 { precision - scale } else { precision.max(scale) };
        let scale = scale.max(0);
        match (u8::try_from(precision), u8::try_from(scale)) {
            (Ok(precision), Ok(scale)) if i32::from(precision) <= MAX_PRECISION => {
                Self::Decimal { precision, scale }
            }
            _ => Self::NumericText,
        }
    }

    /// bygone reads the type's binary form and shows it exactly as Postgres does.
    #[must_use]
    pub fn reads_binary(&self) -> bool {
        match self {
            Self::Other => false,
            Self::List(element) => element.reads_binary(),
            _ => true,
        }
    }

    /// The Arrow type of the column.
    #[must_use]
    pub fn arrow(&self) -> ArrowType {
        match self {
            Self::Bool => ArrowType::Boolean,
            Self::Int16 => ArrowType::Int16,
            Self::Int32 => ArrowType::Int32,
            Self::Int64 | Self::Oid => ArrowType::Int64,
            Self::Float32 => ArrowType::Float32,
            Self::Float64 => ArrowType::Float64,
            Self::Text
            | Self::Json
            | Self::Jsonb
            | Self::NumericText
            | Self::Printed(_)
            | Self::Other
            | Self::Uuid => ArrowType::Utf8,
            Self::Bytes => ArrowType::Binary,
            Self::Date => ArrowType::Date32,
            Self::Timestamp => ArrowType::Timestamp(TimeUnit::Microsecond, None),
            Self::Timestamptz => ArrowType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Decimal { precision, scale } => ArrowType::Decimal128(*precision, scale.cast_signed()),
            Self::List(element) => ArrowType::List(Arc::new(Field::new("element", element.arrow(), true))),
        }
    }

    /// Bytes that a kept value takes, where that is the same for all.
    #[inline]
    pub(super) const fn fixed_width(&self) -> Option<usize> {
        match self {
            Self::Bool => Some(1),
            Self::Int16 => Some(2),
            Self::Int32 | Self::Oid | Self::Float32 | Self::Date => Some(4),
            Self::Int64 | Self::Float64 | Self::Timestamp | Self::Timestamptz => Some(8),
            Self::Uuid => Some(16),
            _ => None,
        }
    }
}

fn is_array(data_type: &DataType) -> bool {
    matches!(data_type.kind, TypeKind::Array(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numeric_becomes_a_decimal_where_38_digits_hold_it() {
        let typmod = |precision: i32, scale: i32| (precision << 16 | scale & 0x7FF) + 4;
        let decimal = |precision, scale| Kind::Decimal { precision, scale };
        assert_eq!(Kind::of_numeric(-1), Kind::NumericText);
        assert_eq!(Kind::of_numeric(typmod(12, 2)), decimal(12, 2));
        assert_eq!(Kind::of_numeric(typmod(38, 38)), decimal(38, 38));
        assert_eq!(Kind::of_numeric(typmod(39, 0)), Kind::NumericText);
        assert_eq!(Kind::of_numeric(typmod(3, -2)), decimal(5, 0));
        assert_eq!(Kind::of_numeric(typmod(2, 5)), decimal(5, 5));
        assert_eq!(Kind::of_numeric(typmod(30, -20)), Kind::NumericText);
        assert_eq!(Kind::of_numeric(198_658), Kind::Decimal { precision: 5, scale: 0 });
    }
}
