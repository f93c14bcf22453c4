//! A table's columns as the stream shows them, told from what is known before and what the catalog says now [21].

use std::borrow::Cow;

use bygone_replication::ddl::DdlColumn;
use bygone_replication::pgoutput::{Relation, RelationColumn};
use bygone_replication::table::{Column, DataType, Table, TableKind, TableName, TypeKind};
use bygone_sink::schema::{SchemaColumn, TableSchema};

/// The table that a relation of the stream describes.
///
/// The stream tells names and types of then, the catalog attnums and the rest of now. A column is looked for in the
/// catalog under its name and type; else it is the one that had the name before; else a rename of the one that is no
/// longer there, if the place and type agree; a partition has places of its own, and only one of that type may be gone.
pub(super) fn as_of_stream(
    relation: &Relation<'_>,
    old: &TableSchema,
    now: Option<&Table>,
    is_leaf: bool,
) -> Table {
    let listed: Vec<RelationColumn<'_>> = relation.columns().collect();
    let mut columns: Vec<Column> = Vec::with_capacity(listed.len());
    for (at, column) in listed.iter().enumerate() {
        let same = |known: &&Column| {
            known.name == column.name
                && known.data_type.oid == column.type_oid
                && known.data_type.typmod == column.typmod
        };
        let in_catalog = now.and_then(|table| table.columns.iter().find(same)).cloned();
        let by_name =
            || old.columns.iter().map(|known| &known.column).find(|known| known.name == column.name).cloned();
        let renamed = || {
            let fits = |known: &&SchemaColumn| {
                let known = &known.column;
                known.data_type.oid == column.type_oid && !listed.iter().any(|other| other.name == known.name)
            };
            let mut candidates = old.columns.iter().filter(|known| known.sent).filter(fits);
            let known = if is_leaf {
                candidates.next().filter(|_| candidates.next().is_none())?
            } else {
                old.columns.get(at).filter(fits)?
            };
            Some(known.column.clone())
        };
        let mut found = in_catalog.or_else(by_name).or_else(renamed).unwrap_or_else(|| unknown(at, old, now));
        if found.data_type.oid != column.type_oid {
            found.data_type = type_of(column, old, now);
        }
        columns.push(named(column, found));
    }
    // Columns come in the order of their numbers: these have changed names among themselves, and the catalog is ahead.
    if !is_leaf
        && !columns.is_sorted_by(|a, b| a.attnum < b.attnum)
        && let Some(placed) = by_place(&listed, old)
    {
        columns = placed;
    }
    // Columns that are never sent stay.
    let unsent = now.map_or_else(Vec::new, |table| {
        table.columns.iter().filter(|column| column.generated.is_some()).cloned().collect()
    });
    for column in unsent {
        if !columns.iter().any(|known| known.attnum == column.attnum) {
            columns.push(column);
        }
    }
    columns.sort_by_key(|column| column.attnum);
    match now {
        Some(table) => Table { columns, ..table.clone() },
        None => Table { columns, ..bare(relation.oid, TableName::new(relation.schema, relation.name)) },
    }
}

/// A column of the stream is none that was known, nor one that the catalog has: its number is made up.
pub(super) fn has_stranger(table: &Table, old: &TableSchema, now: Option<&Table>) -> bool {
    let is_known =
        |attnum: i16| old.position(attnum).is_some() || now.is_some_and(|now| now.column(attnum).is_some());
    table.columns.iter().any(|column| !is_known(column.attnum))
}

/// The columns that were known, in their order, under the names of the stream; none where they cannot be these.
fn by_place(listed: &[RelationColumn<'_>], old: &TableSchema) -> Option<Vec<Column>> {
    let known: Vec<&Column> =
        old.columns.iter().filter(|known| known.sent).map(|known| &known.column).collect();
    if known.len() != listed.len() {
        return None;
    }
    let placed = listed.iter().zip(known).map(|(column, known)| {
        (known.data_type.oid == column.type_oid).then(|| named(column, known.clone()))
    });
    placed.collect()
}

/// A column under the name, and with the modifier, that the stream tells.
fn named(told: &RelationColumn<'_>, mut column: Column) -> Column {
    column.data_type.typmod = told.typmod;
    told.name.clone_into(&mut column.name);
    column
}

/// A partitioned table, with what older rows read as in columns that came: it has no rows itself, and its partitions know.
pub(super) fn filled_from<'a>(table: &'a Table, leaves: &[Table]) -> Cow<'a, Table> {
    if table.kind != TableKind::Partitioned {
        return Cow::Borrowed(table);
    }
    let mut root = table.clone();
    for column in root.columns.iter_mut().filter(|column| column.missing.is_none()) {
        let mut of_leaves =
            leaves.iter().flat_map(|leaf| &leaf.columns).filter(|other| other.name == column.name);
        column.missing = of_leaves.find_map(|other| other.missing.clone());
    }
    Cow::Owned(root)
}

/// The columns that the stream names stand in the table in the same order, which is that of their numbers.
pub(super) fn is_in_order(relation: &Relation<'_>, table: &Table) -> bool {
    let places: Vec<usize> = relation
        .columns()
        .filter_map(|column| table.columns.iter().position(|known| known.name == column.name))
        .collect();
    places.is_sorted_by(|a, b| a < b)
}

/// A table of which nothing is known but its name.
fn bare(oid: u32, name: TableName) -> Table {
    Table {
        oid,
        name,
        kind: TableKind::Ordinary,
        identity: bygone_replication::table::ReplicaIdentity::Full,
        primary_key: Vec::new(),
        identity_index: Vec::new(),
        columns: Vec::new(),
        filenode: 0,
        columns_stamp: 0,
        persistence: 'p',
        blocks: 0,
        rows: None,
        row_security: false,
        row_filter: None,
    }
}

/// The table with the columns that an event trigger told of: `now` may be later.
pub(super) fn as_told(oid: u32, told: &[DdlColumn], old: &TableSchema, now: Option<&Table>) -> Table {
    let known = |attnum: i16| {
        let before = old.columns.iter().map(|known| &known.column).find(|column| column.attnum == attnum);
        before.or_else(|| now.and_then(|table| table.column(attnum)))
    };
    let columns = told.iter().map(|column| {
        let mut made = known(column.attnum).cloned().unwrap_or_else(|| unknown(0, old, now));
        let mut types = now
            .iter()
            .flat_map(|table| &table.columns)
            .chain(old.columns.iter().map(|known| &known.column))
            .map(|column| &column.data_type);
        made.data_type = types
            .find(|known| known.oid == column.type_oid)
            .cloned()
            .unwrap_or_else(|| text_type(column.type_oid));
        made.data_type.typmod = column.typmod;
        made.name.clone_from(&column.name);
        made.attnum = column.attnum;
        made.has_default = column.has_default;
        made.missing = column.missing();
        // What was told is the value itself.
        made.hashed = None;
        made
    });
    let columns: Vec<Column> = columns.collect();
    match now {
        Some(table) => Table { columns, ..table.clone() },
        None => Table { columns, ..bare(oid, old.name.clone()) },
    }
}

/// No event trigger tells this: a column comes twice, or is gone that was known before and is there by now. Numbers of columns never
/// come again.
pub(super) fn is_impossible(told: &[DdlColumn], old: &TableSchema, now: Option<&Table>) -> bool {
    let mut numbers: Vec<i16> = told.iter().map(|column| column.attnum).collect();
    numbers.sort_unstable();
    let is_there = |attnum: i16| now.is_some_and(|table| table.column(attnum).is_some());
    let known = old.columns.iter().map(|known| known.column.attnum);
    let mut gone = known.filter(|attnum| numbers.binary_search(attnum).is_err());
    !numbers.is_sorted_by(|a, b| a < b) || gone.any(is_there)
}

/// The columns are others, as far as rows are concerned.
pub(super) fn differ(known: &[SchemaColumn], now: &[Column]) -> bool {
    known.len() != now.len()
        || known.iter().zip(now).any(|(known, now)| {
            let known = &known.column;
            known.attnum != now.attnum
                || known.name != now.name
                || known.data_type.oid != now.data_type.oid
                || known.data_type.typmod != now.data_type.typmod
                || known.generated != now.generated
        })
}

/// A column that nobody can tell any more of: it came and went between two looks at the catalog.
fn unknown(at: usize, old: &TableSchema, now: Option<&Table>) -> Column {
    let highest = old
        .columns
        .iter()
        .map(|column| column.column.attnum)
        .chain(now.iter().flat_map(|table| table.columns.iter().map(|column| column.attnum)))
        .max()
        .unwrap_or(0);
    let attnum = highest.saturating_add(1).saturating_add(i16::try_from(at).unwrap_or(0));
    Column {
        name: String::new(),
        attnum,
        data_type: text_type(0),
        not_null: false,
        generated: None,
        identity: None,
        storage: 'x',
        missing: None,
        has_default: false,
        left_out: false,
        unwatched: false,
        hashed: None,
    }
}

/// The type of a column by its oid, as any known column has it.
fn type_of(column: &RelationColumn<'_>, old: &TableSchema, now: Option<&Table>) -> DataType {
    old.columns
        .iter()
        .map(|known| &known.column)
        .chain(now.iter().flat_map(|table| table.columns.iter()))
        .map(|known| &known.data_type)
        .find(|known| known.oid == column.type_oid)
        .cloned()
        .unwrap_or_else(|| text_type(column.type_oid))
}

/// A type that is not known: its values are kept as Postgres' text.
fn text_type(oid: u32) -> DataType {
    DataType {
        oid,
        schema: "pg_catalog".to_owned(),
        name: format!("type {oid}"),
        typmod: -1,
        kind: TypeKind::Base,
        binary: false,
    }
}
