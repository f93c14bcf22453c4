//! Tables with their columns, keys and partitions.

use std::collections::{HashMap, HashSet};
use std::fmt;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::types::{TYPES, Types};
use super::{CatalogError, ErrorKind, get, get_char};
use crate::pattern::Patterns;
use crate::table::{Column, DataType, ReplicaIdentity, Table, TableKind, TableName};

/// What [`load_tables`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The selected tables by schema and name: ordinary tables, partitioned roots and the leaves of these. Partitioned
    /// tables between a root and its leaves hold no rows and are left out.
    pub tables: Vec<Table>,
    /// What the patterns select but logical decoding cannot follow, by schema and name.
    pub skipped: Vec<Skipped>,
}

/// A relation that the patterns select and that is not captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Schema and name.
    pub name: TableName,
    /// Why.
    pub reason: SkipReason,
}

/// Why a selected relation is not captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SkipReason {
    /// An unlogged table: its changes never reach the WAL.
    Unlogged,
    /// A temporary table, asked for by its very name: its changes never reach the WAL.
    Temporary,
    /// A foreign table: its rows are kept elsewhere.
    Foreign,
    /// A view or materialized view, asked for by its very name: its rows are derived.
    View,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match self.reason {
            SkipReason::Unlogged => write!(
                f,
                "{name} is unlogged, so its changes are not in the WAL (to capture it: alter table {} set logged)",
                name.quoted()
            ),
            SkipReason::Temporary => write!(f, "{name} is temporary, so its changes are not in the WAL"),
            SkipReason::Foreign => {
                write!(
                    f,
                    "{name} is a foreign table, so its changes are in the WAL of another server, if at all"
                )
            }
            SkipReason::View => write!(f, "{name} is a view: capture the tables below it"),
        }
    }
}

/// A relation as the first, cheap query lists it.
struct Listed {
    oid: u32,
    name: TableName,
    kind: char,
    persistence: char,
    /// Root of the partition tree that the relation is part of, itself not being the root.
    root: Option<u32>,
}

impl Listed {
    fn skip_reason(&self) -> Option<SkipReason> {
        match (self.kind, self.persistence) {
            ('v' | 'm', _) => Some(SkipReason::View),
            ('f', _) => Some(SkipReason::Foreign),
            (_, 'u') => Some(SkipReason::Unlogged),
            (_, 't') => Some(SkipReason::Temporary),
            _ => None,
        }
    }
}

/// Reads the tables that the patterns select, in two queries.
///
/// Takes about a second for 5,000 tables of 20 columns. A table that is dropped meanwhile is left out.
///
/// # Errors
/// [`ErrorKind::Pattern`] when a pattern matches nothing; [`ErrorKind::Connection`] and whatever else the server says.
pub async fn load_tables(client: &Client, patterns: &Patterns) -> Result<Loaded, CatalogError> {
    let listed = list(client).await?;
    let by_oid: HashMap<u32, &Listed> = listed.iter().map(|one| (one.oid, one)).collect();
    // A partition follows its root.
    let root = |one: &Listed| one.root.and_then(|root| by_oid.get(&root).copied());
    // Views and temporary tables are nobody's wish unless they are called by name.
    let unasked = |one: &Listed| {
        matches!(one.skip_reason(), Some(SkipReason::View | SkipReason::Temporary))
            && !patterns.name_exactly(&one.name)
    };

    let mut candidates = Vec::new();
    let mut partitions = Vec::new();
    for one in &listed {
        match root(one) {
            _ if unasked(one) => {}
            Some(root) => partitions.push((one.name.clone(), root.name.clone())),
            None => candidates.push(one.name.clone()),
        }
    }
    patterns.require_matches(&candidates, &partitions)?;

    let mut selected = Vec::new();
    let mut skipped = Vec::new();
    for one in &listed {
        let named = root(one).unwrap_or(one);
        if unasked(named) || !patterns.select(&named.name) {
            continue;
        }
        match one.skip_reason() {
            Some(reason) => skipped.push(Skipped { name: one.name.clone(), reason }),
            None if one.kind == 'p' && one.root.is_some() => {}
            None => selected.push(one.oid),
        }
    }
    skipped.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(Loaded { tables: load_tables_by_oid(client, &selected).await?, skipped })
}

/// Reads one table as it is now; `None` when no ordinary, partitioned or leaf table has this oid.
///
/// # Errors
/// [`ErrorKind::Connection`] and whatever else the server says.
pub async fn load_table(client: &Client, oid: u32) -> Result<Option<Table>, CatalogError> {
    Ok(load_tables_by_oid(client, &[oid]).await?.into_iter().next())
}

/// A column as `pg_attribute` names it: what tells columns apart that have one name after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Oid of its relation.
    pub relation: u32,
    /// Its name.
    pub name: String,
    /// Its number, which is never given again.
    pub attnum: i16,
    /// The transaction that last changed its entry: made it, renamed it, gave it another type.
    pub xmin: u32,
}

/// Reads which columns relations have, and nothing else: cheaper than the tables by far.
///
/// # Errors
/// [`ErrorKind::Connection`] and whatever else the server says.
pub async fn load_attributes(client: &Client, oids: &[u32]) -> Result<Vec<Attribute>, CatalogError> {
    let sql = "select a.attrelid as relation, a.attname::pg_catalog.text as name, a.attnum,
            a.xmin::pg_catalog.text::pg_catalog.int8 as xmin
        from pg_catalog.pg_attribute a
        where a.attrelid = any ($1) and a.attnum > 0 and not a.attisdropped
        order by a.attrelid, a.attnum";
    let rows = client
        .query_typed(sql, &[(&oids, Type::OID_ARRAY)])
        .await
        .map_err(CatalogError::from_postgres("reading columns"))?;
    rows.iter()
        .map(|row| {
            let xmin: i64 = get(row, "xmin")?;
            Ok(Attribute {
                relation: get(row, "relation")?,
                name: get(row, "name")?,
                attnum: get(row, "attnum")?,
                xmin: u32::try_from(xmin).unwrap_or(0),
            })
        })
        .collect()
}

/// Reads tables by their oids, in one query, ordered by schema and name; oids that are no tables (any more) are left
/// out.
///
/// # Errors
/// [`ErrorKind::Connection`] and whatever else the server says.
pub async fn load_tables_by_oid(client: &Client, oids: &[u32]) -> Result<Vec<Table>, CatalogError> {
    if oids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "with recursive {TABLES}, used_types (oid) as (select distinct pg_catalog.unnest(s.type_oids) from tables s), {TYPES}
        select k.kind as row_kind, s.*, t.*
        from (values ('table'), ('type')) k (kind)
        left join tables s on k.kind = 'table'
        left join types t on k.kind = 'type'"
    );
    let rows = client
        .query_typed(&sql, &[(&oids, Type::OID_ARRAY)])
        .await
        .map_err(CatalogError::from_postgres("reading tables"))?;
    let mut shapes = Vec::with_capacity(rows.len());
    let mut types = Vec::new();
    let mut seen = HashSet::with_capacity(rows.len());
    for row in &rows {
        match get(row, "row_kind")? {
            // Without a table, or without a type, the outer join leaves one empty row.
            "table" => {
                let oid: Option<u32> = get(row, "oid")?;
                // A second row of a table would need a second primary key: a damaged catalog must not double a table.
                if oid.is_some_and(|oid| seen.insert(oid)) {
                    shapes.push(shape(row)?);
                }
            }
            _ if get::<Option<u32>>(row, "type_oid")?.is_some() => types.push(row),
            _ => {}
        }
    }
    // Sorted here: the server would sort by the database's collation.
    shapes.sort_by(|left, right| left.table.name.cmp(&right.table.name));
    assemble(shapes, &Types::from_rows(types)?).ok_or_else(|| {
        CatalogError::new(ErrorKind::Server, "reading tables", "the catalog lacks the type of a column")
    })
}

/// The oids of the leaf partitions of partitioned tables; foreign ones are left out.
///
/// # Errors
/// [`ErrorKind::Connection`] and whatever else the server says.
pub async fn leaves_of(client: &Client, roots: &[u32]) -> Result<Vec<u32>, CatalogError> {
    let sql = "
        select t.relid::oid as oid
        from pg_catalog.unnest($1::oid[]) r (root)
        cross join lateral pg_catalog.pg_partition_tree(r.root) t
        join pg_catalog.pg_class c on c.oid = t.relid
        where t.isleaf and c.relkind = 'r' and t.relid::oid <> r.root";
    let rows = client
        .query_typed(sql, &[(&roots, Type::OID_ARRAY)])
        .await
        .map_err(CatalogError::from_postgres("listing partitions"))?;
    rows.iter().map(|row| get(row, "oid")).collect()
}

/// Every relation outside the system schemas that could be meant.
async fn list(client: &Client) -> Result<Vec<Listed>, CatalogError> {
    let sql = "
        select c.oid, n.nspname::text as schema, c.relname::text as name, c.relkind::text as kind,
            c.relpersistence::text as persistence,
            case when c.relispartition then pg_catalog.pg_partition_root(c.oid)::oid end as root
        from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'f', 'v', 'm')
            and n.nspname not in ('pg_catalog', 'information_schema')
            and n.nspname !~ '^pg_toast'
            -- Fact tables of bygone's own, on the source's own cluster: capturing them would have no end.
            and coalesce(pg_catalog.obj_description(n.oid, 'pg_namespace'), '') not like 'bygone: facts of %'";
    let rows =
        client.query_typed(sql, &[]).await.map_err(CatalogError::from_postgres("listing the tables"))?;
    rows.iter()
        .map(|row| {
            Ok(Listed {
                oid: get(row, "oid")?,
                name: TableName { schema: get(row, "schema")?, name: get(row, "name")? },
                kind: get_char(row, "kind")?,
                persistence: get_char(row, "persistence")?,
                root: get(row, "root")?,
            })
        })
        .collect()
}

/// The common table expressions `locked` and `tables`: each table of the oids in `$1` in one row, with its columns as
/// parallel arrays. All is one statement, and so of one moment: table, keys, columns and types fit together.
///
/// Of the functions that look at the files, pg_relation_size alone locks: it would wait behind an ALTER TABLE, so a
/// table that is being altered is measured by the estimate.
const TABLES: &str = "
    locked as materialized (
        select l.relation from pg_catalog.pg_locks l
        where l.locktype = 'relation' and l.mode = 'AccessExclusiveLock'
            and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
    ),
    tables as (
        select c.oid, n.nspname::text as schema, c.relname::text as name, c.relkind::text as kind,
            c.relpersistence::text as persistence, c.relreplident::text as identity,
            case when c.relispartition then pg_catalog.pg_partition_root(c.oid)::oid end as root,
            coalesce(pg_catalog.pg_relation_filenode(c.oid), 0) as filenode,
            coalesce(case
                when c.relkind <> 'r' then 0
                when c.oid in (select l.relation from locked l) then greatest(c.relpages, 0)::int8
                else pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::int8
            end, 0) as blocks,
            c.reltuples::float8 as rows,
            coalesce(pg_catalog.row_security_active(c.oid), false) as row_security,
            pk.attnums as primary_key, pk.immediate as primary_key_immediate,
            ri.attnums as identity_index,
            a.*
        from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        left join lateral (
            select (i.indkey::int2[])[0:i.indnkeyatts - 1] as attnums, i.indimmediate as immediate
            from pg_catalog.pg_index i
            where i.indrelid = c.oid and i.indisprimary and i.indisvalid
        ) pk on true
        left join lateral (
            select (i.indkey::int2[])[0:i.indnkeyatts - 1] as attnums
            from pg_catalog.pg_index i
            where i.indrelid = c.oid and i.indisreplident and i.indisvalid and i.indimmediate and i.indisunique
        ) ri on true
        cross join lateral (
            select coalesce(array_agg(s.attnum), '{}') as attnums,
                coalesce(array_agg(s.attname::text), '{}') as names,
                coalesce(array_agg(s.atttypid), '{}') as type_oids,
                coalesce(array_agg(s.atttypmod), '{}') as typmods,
                coalesce(array_agg(s.attnotnull), '{}') as not_null,
                coalesce(array_agg(s.attgenerated::text), '{}') as generated,
                coalesce(array_agg(s.attidentity::text), '{}') as identities,
                coalesce(array_agg(s.attstorage::text), '{}') as storage,
                coalesce(sum(s.xmin::text::int8), 0)::int8 as stamp,
                coalesce(array_agg(s.atthasdef), '{}') as has_default,
                coalesce(array_agg(case when s.atthasmissing then s.attmissingval::text end), '{}') as missing
            from (
                select t.xmin, t.* from pg_catalog.pg_attribute t
                where t.attrelid = c.oid and t.attnum > 0 and not t.attisdropped
                order by t.attnum
            ) s
        ) a
        -- A partitioned partition has no rows, and is no table of its own: its leaves are those of the root.
        where c.oid = any ($1::oid[]) and c.relkind in ('r', 'p') and not (c.relkind = 'p' and c.relispartition)
    )";

/// A table whose columns still lack their types.
struct Shape {
    table: Table,
    type_oids: Vec<u32>,
    typmods: Vec<i32>,
}

fn shape(row: &Row) -> Result<Shape, CatalogError> {
    let primary_key: Option<Vec<i16>> = get(row, "primary_key")?;
    let immediate: Option<bool> = get(row, "primary_key_immediate")?;
    let identity_index: Option<Vec<i16>> = get(row, "identity_index")?;
    // The same choice as RelationGetReplicaIndex in the server's relcache.c: an index that is not valid and immediate
    // is no identity, and then updates and deletes of a published table fail.
    let identity = match get_char(row, "identity")? {
        'd' if immediate == Some(true) => ReplicaIdentity::PrimaryKey,
        'i' if identity_index.is_some() => ReplicaIdentity::Index,
        'f' => ReplicaIdentity::Full,
        _ => ReplicaIdentity::Nothing,
    };
    let root: Option<u32> = get(row, "root")?;
    let kind = match (get_char(row, "kind")?, root) {
        ('p', _) => TableKind::Partitioned,
        (_, Some(root)) => TableKind::Leaf { root },
        _ => TableKind::Ordinary,
    };
    let (columns, type_oids, typmods) = columns(row)?;
    let rows: f64 = get(row, "rows")?;
    let table = Table {
        oid: get(row, "oid")?,
        name: TableName { schema: get(row, "schema")?, name: get(row, "name")? },
        kind,
        identity,
        primary_key: primary_key.unwrap_or_default(),
        identity_index: if identity == ReplicaIdentity::Index {
            identity_index.unwrap_or_default()
        } else {
            Vec::new()
        },
        columns,
        filenode: get(row, "filenode")?,
        columns_stamp: get::<i64>(row, "stamp")?.cast_unsigned(),
        persistence: get_char(row, "persistence")?,
        blocks: u64::try_from(get::<i64>(row, "blocks")?).unwrap_or_default(),
        rows: estimate(rows),
        row_security: get(row, "row_security")?,
        row_filter: None,
    };
    Ok(Shape { table, type_oids, typmods })
}

/// `reltuples` as a number; -1 is the server's "never counted".
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be in range just before"
)]
fn estimate(rows: f64) -> Option<u64> {
    (0.0..9e18).contains(&rows).then_some(rows as u64)
}

type Columns = (Vec<Column>, Vec<u32>, Vec<i32>);

/// The parallel arrays of a table's columns, put together; their types come later.
fn columns(row: &Row) -> Result<Columns, CatalogError> {
    let attnums: Vec<i16> = get(row, "attnums")?;
    let mut names = get::<Vec<String>>(row, "names")?.into_iter();
    let type_oids: Vec<u32> = get(row, "type_oids")?;
    let typmods: Vec<i32> = get(row, "typmods")?;
    let mut not_null = get::<Vec<bool>>(row, "not_null")?.into_iter();
    let mut generated = get::<Vec<&str>>(row, "generated")?.into_iter();
    let mut identities = get::<Vec<&str>>(row, "identities")?.into_iter();
    let mut storage = get::<Vec<&str>>(row, "storage")?.into_iter();
    let mut has_default = get::<Vec<bool>>(row, "has_default")?.into_iter();
    let mut missing = get::<Vec<Option<&str>>>(row, "missing")?.into_iter();
    let mut columns = Vec::with_capacity(attnums.len());
    for attnum in attnums {
        let mut next = || -> Option<Column> {
            let generated = generated.next()?.chars().next();
            Some(Column {
                name: names.next()?,
                attnum,
                // Replaced in `assemble`.
                data_type: unresolved(),
                not_null: not_null.next()?,
                generated,
                identity: identities.next()?.chars().next(),
                storage: storage.next()?.chars().next()?,
                missing: missing.next()?.and_then(only_element),
                has_default: has_default.next()? && generated.is_none(),
                left_out: false,
                hashed: None,
                unwatched: false,
            })
        };
        let column = next().ok_or_else(|| {
            CatalogError::new(
                ErrorKind::Server,
                "reading tables",
                "the server's arrays of columns differ in length",
            )
        })?;
        columns.push(column);
    }
    Ok((columns, type_oids, typmods))
}

const fn unresolved() -> DataType {
    DataType {
        oid: 0,
        schema: String::new(),
        name: String::new(),
        typmod: -1,
        kind: crate::table::TypeKind::Base,
        binary: false,
    }
}

/// Gives every column its type; `None` when one is not among `types`.
fn assemble(shapes: Vec<Shape>, types: &Types) -> Option<Vec<Table>> {
    let mut resolved: HashMap<(u32, i32), DataType> = HashMap::new();
    let mut tables = Vec::with_capacity(shapes.len());
    for mut shape in shapes {
        let uses = shape.type_oids.into_iter().zip(shape.typmods);
        for (column, (oid, typmod)) in shape.table.columns.iter_mut().zip(uses) {
            column.data_type = match resolved.get(&(oid, typmod)) {
                Some(known) => known.clone(),
                None => {
                    let data_type = types.resolve(oid, typmod)?;
                    resolved.insert((oid, typmod), data_type.clone());
                    data_type
                }
            };
        }
        tables.push(shape.table);
    }
    Some(tables)
}

/// The text of the one element of an array literal, as `attmissingval` is: `{7}` or `{"a \"b\""}`.
///
/// The server cannot be asked for the element of an `anyarray`, and a cast to `text[]` would split the elements of types
/// whose delimiter is not the comma (`box`).
pub(crate) fn only_element(literal: &str) -> Option<String> {
    let inner = literal.strip_prefix('{')?.strip_suffix('}')?;
    let Some(quoted) = inner.strip_prefix('"') else { return Some(inner.to_owned()) };
    let quoted = quoted.strip_suffix('"')?;
    let mut text = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    while let Some(next) = chars.next() {
        text.push(if next == '\\' { chars.next()? } else { next });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_element_of_an_array_literal_is_unquoted() {
        for (literal, expected) in [
            ("{7}", "7"),
            ("{\"\"}", ""),
            ("{\"a b\"}", "a b"),
            ("{\"NULL\"}", "NULL"),
            (r#"{"say \"hi\" \\ bye"}"#, r#"say "hi" \ bye"#),
            ("{\"{1,2}\"}", "{1,2}"),
            ("{(1,1),(0,0)}", "(1,1),(0,0)"),
        ] {
            assert_eq!(only_element(literal).as_deref(), Some(expected), "{literal}");
        }
        for broken in ["", "{", "7", "{\"a}", "{\"\\\"}"] {
            assert_eq!(only_element(broken), None, "{broken}");
        }
    }
}
