//! Types of columns, with everything inside them.

use std::collections::HashMap;

use tokio_postgres::Row;

use super::{CatalogError, get, get_char};
use crate::table::{DataType, TypeKind};

/// Types within types deeper than this are refused: the server itself nests domains and composites without limit, but
/// cannot make a circle, so this only bounds a catalog that changes while it is read.
const MAX_DEPTH: usize = 64;

/// The common table expressions `wanted_types` and `types`: what `used_types (oid)` holds and all inside it.
///
/// A true array prints through array_out: int2vector and oidvector have an element type, too, but print otherwise.
pub(super) const TYPES: &str = "
    wanted_types (oid) as (
        select u.oid from used_types u
        union
        select part.oid
        from wanted_types w
        cross join lateral (
            select t.typbasetype from pg_catalog.pg_type t where t.oid = w.oid and t.typbasetype <> 0
            union all
            select t.typelem from pg_catalog.pg_type t where t.oid = w.oid and t.typelem <> 0
            union all
            select a.atttypid
            from pg_catalog.pg_type t
            join pg_catalog.pg_attribute a on a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
            where t.oid = w.oid and t.typtype = 'c'
            union all
            select r.rngsubtype from pg_catalog.pg_range r where r.rngtypid = w.oid
            union all
            select r.rngtypid from pg_catalog.pg_range r where r.rngmultitypid = w.oid
        ) part (oid)
    ),
    types as (
        select t.oid as type_oid, n.nspname::text as type_schema, t.typname::text as type_name,
            t.typtype::text as type_sort, t.typoutput = 'pg_catalog.array_out'::regproc as type_is_array,
            case when t.typtype = 'd' then t.typbasetype else t.typelem end as type_inner,
            t.typtypmod as type_typmod, t.typsend <> 0 as type_send,
            array(
                select a.atttypid from pg_catalog.pg_attribute a
                where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
                union all
                select r.rngsubtype from pg_catalog.pg_range r where r.rngtypid = t.oid
                union all
                select r.rngtypid from pg_catalog.pg_range r where r.rngmultitypid = t.oid
            ) as type_parts
        from wanted_types w
        join pg_catalog.pg_type t on t.oid = w.oid
        join pg_catalog.pg_namespace n on n.oid = t.typnamespace
    )";

/// `pg_type` rows for a set of types, closed over everything inside them.
#[derive(Debug)]
pub(super) struct Types {
    rows: HashMap<u32, TypeRow>,
}

#[derive(Debug)]
struct TypeRow {
    schema: String,
    name: String,
    sort: Sort,
    /// `typbasetype` or the array's element; 0 for none.
    inner: u32,
    /// `typtypmod` of a domain.
    domain_typmod: i32,
    /// Has a binary output function itself.
    send: bool,
    /// Types of attributes, bounds and elements.
    parts: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
enum Sort {
    Base,
    Enum,
    Domain,
    Array,
    Composite,
    Range,
    Multirange,
}

impl Types {
    /// Takes the rows that [`TYPES`] gave.
    pub(super) fn from_rows<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Result<Self, CatalogError> {
        let mut types = HashMap::new();
        for row in rows {
            let is_array: bool = get(row, "type_is_array")?;
            let sort = match get_char(row, "type_sort")? {
                'e' => Sort::Enum,
                'd' => Sort::Domain,
                'c' => Sort::Composite,
                'r' => Sort::Range,
                'm' => Sort::Multirange,
                _ if is_array => Sort::Array,
                _ => Sort::Base,
            };
            let inner = get(row, "type_inner")?;
            let mut parts: Vec<u32> = get(row, "type_parts")?;
            if matches!(sort, Sort::Domain | Sort::Array) {
                parts.push(inner);
            }
            types.insert(
                get(row, "type_oid")?,
                TypeRow {
                    schema: get(row, "type_schema")?,
                    name: get(row, "type_name")?,
                    sort,
                    inner,
                    domain_typmod: get(row, "type_typmod")?,
                    send: get(row, "type_send")?,
                    parts,
                },
            );
        }
        Ok(Self { rows: types })
    }

    /// One use of a type; `None` when it, or something inside it, is not among the rows.
    pub(super) fn resolve(&self, oid: u32, typmod: i32) -> Option<DataType> {
        self.resolve_within(oid, typmod, MAX_DEPTH)
    }

    fn resolve_within(&self, oid: u32, typmod: i32, depth: usize) -> Option<DataType> {
        let depth = depth.checked_sub(1)?;
        let row = self.rows.get(&oid)?;
        let kind = match row.sort {
            Sort::Base => TypeKind::Base,
            Sort::Enum => TypeKind::Enum,
            Sort::Composite => TypeKind::Composite,
            Sort::Range => TypeKind::Range,
            Sort::Multirange => TypeKind::Multirange,
            Sort::Domain => {
                TypeKind::Domain(Box::new(self.resolve_within(row.inner, row.domain_typmod, depth)?))
            }
            Sort::Array => TypeKind::Array(Box::new(self.resolve_within(row.inner, typmod, depth)?)),
        };
        Some(DataType {
            oid,
            schema: row.schema.clone(),
            name: row.name.clone(),
            typmod,
            kind,
            binary: self.binary(oid, depth)?,
        })
    }

    /// `array_send`, `record_send` and `range_send` fail on a part without a binary output function, so it takes one
    /// all the way down.
    fn binary(&self, oid: u32, depth: usize) -> Option<bool> {
        let depth = depth.checked_sub(1)?;
        let row = self.rows.get(&oid)?;
        let mut binary = row.send;
        for part in &row.parts {
            binary &= self.binary(*part, depth)?;
        }
        Some(binary)
    }
}
