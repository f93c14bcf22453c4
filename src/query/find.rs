//! `bygone find`: every version in which a column held a value.

use std::collections::{HashMap, HashSet};

use bygone_sink::read::{Columns, Fact, FactFilter, Flow, Head};
use bygone_sink::schema::TableSchema;
use bygone_sink::timestamp::Timestamp;

use super::arguments::Find;
use super::changes::is_unknown;
use super::comparable::{Wanted, tell_of_hashes};
use super::row::xid_cell;
use super::sheet::{Cell, Sheet, left, right, when};
use super::value::{fields, moment_cell};
use super::{counted, lookup, open};
use crate::cli::Format;
use crate::error::Result;

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
    let (mut found, mut not_known): (Vec<Head>, usize) = (Vec::new(), 0);
    let mut look = |fact: &Fact<'_>| {
        let at = position(fact.schema);
        let row = fields(fact.row, fact.schema.kinds()).ok();
        let field = at.and_then(|at| row.as_ref()?.get(at).copied());
        let kind = at.and_then(|at| fact.schema.kinds().get(at));
        if let (false, Some(field), Some(kind)) = (fact.head.tombstone, field, kind) {
            if is_unknown(&field) {
                not_known += 1;
            } else if wanted.is(kind, field) {
                found.push(fact.head.clone());
            }
        }
        Flow::Continue(())
    };
    archive.facts(&table, &FactFilter::default(), &columns, &mut look).await?;
    if not_known > 0 {
        let (name, versions) = (&column.column.name, counted(not_known, "version"));
        eprintln!("bygone: {name} is not known in {versions} of {}, which may have held it", table.log_name);
    }
    let entities: HashSet<String> = found.iter().map(|head| head.entity_id.clone()).collect();
    let mut begins: HashMap<(String, i64), Timestamp> = HashMap::new();
    if !entities.is_empty() {
        let filter = FactFilter { entities: Some(entities), ..FactFilter::default() };
        let mut note = |fact: &Fact<'_>| {
            begins.insert((fact.head.entity_id.clone(), fact.head.version), fact.head.valid_from);
            Flow::Continue(())
        };
        archive.facts(&table, &filter, &Columns::Some(Vec::new()), &mut note).await?;
    }
    found.sort_by_key(|fact| (fact.lsn, fact.seq, fact.version));
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
    for head in found {
        let until = begins.get(&(head.entity_id.clone(), head.version + 1));
        sheet.row(vec![
            Cell::Text(head.entity_id),
            Cell::number(head.version),
            moment_cell(head.valid_from),
            until.map_or(Cell::Null, |until| moment_cell(*until)),
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
