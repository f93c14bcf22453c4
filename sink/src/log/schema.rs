//! What the log says of a table's columns.

use bygone_replication::table::{Column, DataType, TypeKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::schema::SchemaColumn;
use crate::value::Kind;

/// One version of a table's columns. A fact's `_schema` names the version that it was written under.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SchemaVersion {
    /// [`table_text`](super::table_text) of the table.
    pub table: String,
    /// The version, from 1.
    pub schema: i32,
    /// The table's oid: another one under the same name is another generation of the table.
    pub oid: u32,
    /// The columns by attnum, dropped ones that earlier facts have included.
    pub columns: Vec<ColumnDoc>,
    /// Attnums of the key that names an entity, in index order; empty where the row's content does. Absent where the columns'
    /// `key` says enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<i16>,
    /// The table's retention class: what its files are tagged with in a bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<String>,
    /// The table is partitioned: its rows lie in other tables.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partitioned: bool,
    /// What else there is to say.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColumnDoc {
    /// Its name in the source at this version.
    pub name: String,
    /// Its attnum: the same column for ever, whatever it is called.
    pub attnum: i16,
    /// `pg_type.typname`: `int8`, `_text` for `text[]`.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The type's modifier, -1 for none.
    pub typmod: i32,
    /// The column belongs to the key that names an entity.
    pub key: bool,
    /// Its name in the files, where that differs (another column had the name before).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical: Option<String>,
    /// `pg_type.oid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_oid: Option<u32>,
    /// The type's schema, unless it is `pg_catalog`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_schema: Option<String>,
    /// What sort of type it is, unless it is a base type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_kind: Option<TypeKindDoc>,
    /// The element type of an array, the type below a domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Box<TypeDoc>>,
    /// The type, and everything inside it, has a binary output function.
    #[serde(default, skip_serializing_if = "is_false")]
    pub binary: bool,
    /// `attnotnull`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub not_null: bool,
    /// `attgenerated`: `s` or `v`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<char>,
    /// `attidentity`: `a` or `d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<char>,
    /// `attstorage`: `p`, `e`, `m` or `x`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<char>,
    /// The column has a default expression.
    #[serde(default, skip_serializing_if = "is_false")]
    pub has_default: bool,
    /// No value of the column is in the history: it was told to leave it out.
    #[serde(default, skip_serializing_if = "is_false")]
    pub left_out: bool,
    /// Updates that change no other column are no facts.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unwatched: bool,
    /// The history holds hashes instead of values, as text: made with the key of this [id](crate::hashing::HashKey::id).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashed: Option<String>,
    /// What rows older than the column read as, as text; its hash where the column is hashed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// The column is gone from the source; earlier facts have it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dropped: bool,
    /// What else there is to say.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A type inside another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeDoc {
    /// `pg_type.typname`.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The type's modifier, -1 for none.
    pub typmod: i32,
    /// `pg_type.oid`.
    pub type_oid: u32,
    /// The type's schema, unless it is `pg_catalog`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_schema: Option<String>,
    /// What sort of type it is, unless it is a base type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_kind: Option<TypeKindDoc>,
    /// The element type of an array, the type below a domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Box<TypeDoc>>,
    /// The type, and everything inside it, has a binary output function.
    #[serde(default, skip_serializing_if = "is_false")]
    pub binary: bool,
}

/// What sort of type it is: [`TypeKind`] without what is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TypeKindDoc {
    /// An enum.
    Enum,
    /// A domain over `of`.
    Domain,
    /// An array of `of`.
    Array,
    /// A composite type.
    Composite,
    /// A range.
    Range,
    /// A multirange.
    Multirange,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(flag: &bool) -> bool {
    !flag
}

const CATALOG: &str = "pg_catalog";

impl TypeDoc {
    /// The type as the catalog had it.
    #[must_use]
    pub fn new(data_type: &DataType) -> Self {
        let (kind, of) = match &data_type.kind {
            TypeKind::Base => (None, None),
            TypeKind::Enum => (Some(TypeKindDoc::Enum), None),
            TypeKind::Domain(inner) => (Some(TypeKindDoc::Domain), Some(Box::new(Self::new(inner)))),
            TypeKind::Array(inner) => (Some(TypeKindDoc::Array), Some(Box::new(Self::new(inner)))),
            TypeKind::Composite => (Some(TypeKindDoc::Composite), None),
            TypeKind::Range => (Some(TypeKindDoc::Range), None),
            TypeKind::Multirange => (Some(TypeKindDoc::Multirange), None),
        };
        Self {
            type_name: data_type.name.clone(),
            typmod: data_type.typmod,
            type_oid: data_type.oid,
            type_schema: (data_type.schema != CATALOG).then(|| data_type.schema.clone()),
            type_kind: kind,
            of,
            binary: data_type.binary,
        }
    }

    /// The type as the catalog had it. An array or domain of nothing, which only a damaged log holds, is taken for a base
    /// type: its values are text.
    #[must_use]
    pub fn data_type(&self) -> DataType {
        let inner = |of: &Option<Box<Self>>| of.as_ref().map(|of| Box::new(of.data_type()));
        let kind = match self.type_kind {
            None => TypeKind::Base,
            Some(TypeKindDoc::Enum) => TypeKind::Enum,
            Some(TypeKindDoc::Domain) => inner(&self.of).map_or(TypeKind::Base, TypeKind::Domain),
            Some(TypeKindDoc::Array) => inner(&self.of).map_or(TypeKind::Base, TypeKind::Array),
            Some(TypeKindDoc::Composite) => TypeKind::Composite,
            Some(TypeKindDoc::Range) => TypeKind::Range,
            Some(TypeKindDoc::Multirange) => TypeKind::Multirange,
        };
        DataType {
            oid: self.type_oid,
            schema: self.type_schema.clone().unwrap_or_else(|| CATALOG.to_owned()),
            name: self.type_name.clone(),
            typmod: self.typmod,
            kind,
            binary: self.binary,
        }
    }
}

impl SchemaVersion {
    /// The columns that the source had at this version.
    #[must_use]
    pub fn live_columns(&self) -> Vec<SchemaColumn> {
        let live = self.columns.iter().filter(|document| !document.dropped);
        live.map(|document| {
            let column = document.column();
            SchemaColumn {
                physical: document.physical().to_owned(),
                kind: Kind::of_column(&column),
                sent: column.generated.is_none() && !column.left_out,
                column,
            }
        })
        .collect()
    }

    /// The table's number in state; none in a document that this program did not write.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        self.extra.get("number").and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok())
    }
}

impl ColumnDoc {
    /// The column as the catalog had it. `physical` is its name in the files.
    #[must_use]
    pub fn new(column: &Column, key: bool, physical: &str) -> Self {
        let TypeDoc { type_name, typmod, type_oid, type_schema, type_kind, of, binary } =
            TypeDoc::new(&column.data_type);
        Self {
            name: column.name.clone(),
            attnum: column.attnum,
            type_name,
            typmod,
            key,
            physical: (physical != column.name).then(|| physical.to_owned()),
            type_oid: Some(type_oid),
            type_schema,
            type_kind,
            of,
            binary,
            not_null: column.not_null,
            generated: column.generated,
            identity: column.identity,
            storage: Some(column.storage),
            has_default: column.has_default,
            left_out: column.left_out,
            unwatched: column.unwatched,
            hashed: column.hashed.clone(),
            missing: column.missing.clone(),
            dropped: false,
            extra: Map::new(),
        }
    }

    /// The column's name in the files.
    #[must_use]
    pub fn physical(&self) -> &str {
        self.physical.as_deref().unwrap_or(&self.name)
    }

    /// The column's type as the catalog had it.
    #[must_use]
    pub fn data_type(&self) -> DataType {
        let document = TypeDoc {
            type_name: self.type_name.clone(),
            typmod: self.typmod,
            type_oid: self.type_oid.unwrap_or(0),
            type_schema: self.type_schema.clone(),
            type_kind: self.type_kind,
            of: self.of.clone(),
            binary: self.binary,
        };
        document.data_type()
    }

    /// The column as the catalog had it.
    #[must_use]
    pub fn column(&self) -> Column {
        Column {
            name: self.name.clone(),
            attnum: self.attnum,
            data_type: self.data_type(),
            not_null: self.not_null,
            generated: self.generated,
            identity: self.identity,
            storage: self.storage.unwrap_or('p'),
            missing: self.missing.clone(),
            has_default: self.has_default,
            left_out: self.left_out,
            unwatched: self.unwatched,
            hashed: self.hashed.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_type(name: &str, kind: TypeKind) -> DataType {
        DataType {
            oid: 16_400,
            schema: "public".to_owned(),
            name: name.to_owned(),
            typmod: 7,
            kind,
            binary: true,
        }
    }

    #[test]
    fn a_column_comes_back_as_the_catalog_had_it() {
        let text = DataType { schema: "pg_catalog".to_owned(), oid: 25, ..data_type("text", TypeKind::Base) };
        let domain = data_type("short", TypeKind::Domain(Box::new(text.clone())));
        for data_type in [
            text.clone(),
            data_type("mood", TypeKind::Enum),
            data_type("_short", TypeKind::Array(Box::new(domain))),
            data_type("pair", TypeKind::Composite),
            data_type("r", TypeKind::Range),
            data_type("mr", TypeKind::Multirange),
        ] {
            let column = Column {
                name: "r".to_owned(),
                attnum: 3,
                data_type,
                not_null: true,
                generated: Some('s'),
                identity: None,
                storage: 'x',
                missing: Some("7".to_owned()),
                has_default: true,
                left_out: true,
                unwatched: true,
                hashed: Some("0123456789abcdef".to_owned()),
            };
            let written = serde_json::to_string(&ColumnDoc::new(&column, true, "r__2")).unwrap();
            let read: ColumnDoc = serde_json::from_str(&written).unwrap();
            assert_eq!(read.column(), column, "{written}");
            assert_eq!((read.physical(), read.key), ("r__2", true));
        }
    }

    #[test]
    fn an_array_of_nothing_is_taken_for_text() {
        let text = r#"{"name":"a","attnum":1,"type":"_x","typmod":-1,"key":false,"type_kind":"array"}"#;
        let column: ColumnDoc = serde_json::from_str(text).unwrap();
        assert_eq!(column.data_type().kind, TypeKind::Base);
    }
}
