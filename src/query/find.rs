//! `bygone find`: every version in which a column held a value.

use std::collections::{HashMap, HashSet};

use bygone_replication::Lsn;
use bygone_sink::read::{Columns, Fact, FactFilter, Flow, Head};
use bygone_sink::schema::TableSchema;
use bygone_sink::timestamp::Timestamp;

use super::arguments::Find;
use super::changes::{Shaper, is_unknown};
use super::comparable::{Wanted, tell_of_hashes};
use super::row::xid_cell;
use super::sheet::{Cell, Sheet, left, right, when};
use super::value::{fields, moment_cell};
use super::{counted, lookup, open};
use crate::cli::Format;
use crate::error::Result;

/// A version that held the value.
struct Found {
    head: Head,
    /// It is older than the column, which is there from here on.
    from: Option<Lsn>,
}

pub(super) async fn find(arguments: &Find) -> Result<()> {
    let archive = open(&arguments.reading.history).await?;
    let table = lookup::table(&archive, &arguments.table)?;
    // A column that is gone can be asked for by the name that it had.
    let newest = table.newest();
    let (schema, column) = match lookup::column(newest, &arguments.column) {
        Ok((_, column)) => (newest, column),
        Err(error) => {
            let mut older = table.versions.iter().rev().map(|version| &version.schema);
            let found = older.find_map(|schema| {
                lookup::column(schema, &arguments.column).ok().map(|(_, column)| (schema, column))
            });
            found.ok_or(error)?
        }
    };
    // A value may be one of a type that the column had.
    let wanted = Wanted::new(column, &arguments.value).or_else(|error| {
        let older = table.versions.iter().rev().map(|version| &version.schema);
        let mut forms = older.filter_map(|older| older.columns.get(older.namesake(schema, column)?));
        forms.find_map(|form| Wanted::new(form, &arguments.value).ok()).ok_or(error)
    })?;
    tell_of_hashes(column, &arguments.value);
    let position = |within: &TableSchema| within.namesake(schema, column);
    let attnums = table
        .versions
        .iter()
        .filter_map(|version| Some(version.schema.columns.get(position(&version.schema)?)?.column.attnum));
    let columns = Columns::Some(attnums.collect());
    let (mut found, mut not_known): (Vec<Found>, usize) = (Vec::new(), 0);
    let mut shaper = Shaper::new(&table, schema);
    let mut look = |fact: &Fact<'_>| {
        let at = position(fact.schema);
        let row = fields(fact.row, fact.schema.kinds()).ok();
        let field = at.and_then(|at| row.as_ref()?.get(at).copied());
        let kind = at.and_then(|at| fact.schema.kinds().get(at));
        if let (false, Some(field), Some(kind)) = (fact.head.tombstone, field, kind) {
            if is_unknown(&field) {
                not_known += 1;
            } else if wanted.is(kind, field) {
                found.push(Found { head: fact.head.clone(), from: None });
            }
        }
        // A row that is older than the column reads as its default, once the column is there.
        if let (false, None, Some((version, _))) =
            (fact.head.tombstone, at, table.added_after(column.column.attnum, fact.schema.version))
        {
            let row = shaper.row(fact.schema, fact.row).ok();
            let row = row.and_then(|row| fields(row, schema.kinds()).ok());
            let field = position(schema).and_then(|at| Some((schema.kinds().get(at)?, *row?.get(at)?)));
            if field.is_some_and(|(kind, field)| !is_unknown(&field) && wanted.is(kind, field)) {
                found.push(Found { head: fact.head.clone(), from: Some(version.from.earliest()) });
            }
        }
        Flow::Continue(())
    };
    archive.facts(&table, &FactFilter::default(), &columns, &mut look).await?;
    if not_known > 0 {
        let (name, versions) = (&column.column.name, counted(not_known, "version"));
        eprintln!("bygone: {name} is not known in {versions} of {}, which may have held it", table.log_name);
    }
    let entities: HashSet<String> = found.iter().map(|found| found.head.entity_id.clone()).collect();
    let mut begins: HashMap<(String, i64), (Lsn, Timestamp)> = HashMap::new();
    if !entities.is_empty() {
        let filter = FactFilter { entities: Some(entities), ..FactFilter::default() };
        let mut note = |fact: &Fact<'_>| {
            let Head { entity_id, version, lsn, valid_from, .. } = fact.head;
            begins.insert((entity_id.clone(), *version), (*lsn, *valid_from));
            Flow::Continue(())
        };
        archive.facts(&table, &filter, &Columns::Some(Vec::new()), &mut note).await?;
    }
    let next = |head: &Head| begins.get(&(head.entity_id.clone(), head.version + 1)).copied();
    found.retain(|Found { head, from }| {
        from.is_none_or(|from| next(head).is_none_or(|(ends, _)| ends > from))
    });
    found.sort_by_key(|Found { head, .. }| (head.lsn, head.seq, head.version));
    let headings = vec![
        left("key"),
        right("version"),
        when("from"),
        when("until"),
        left("op"),
        left("who"),
        right("xid"),
    ];
    let mut sheet = Sheet::new(arguments.reading.format, headings)?;
    for Found { head, .. } in found {
        let until = next(&head);
        sheet.row(vec![
            Cell::Text(head.entity_id),
            Cell::number(head.version),
            moment_cell(head.valid_from),
            until.map_or(Cell::Null, |(_, until)| moment_cell(until)),
            Cell::Text(head.op),
            Cell::optional(head.actor),
            xid_cell(head.xid),
        ])?;
    }
    let rows = sheet.finish()?;
    if arguments.reading.format == Format::Table {
        eprintln!("{}", counted(rows, "version"));
    }
    Ok(())
}
