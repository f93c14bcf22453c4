//! `bygone diff`: what changed in a table between two moments.

use std::sync::Arc;

use bygone_sink::read::diff as changed_entities;

use super::arguments::Diff;
use super::changes::{between, changes_cell};
use super::sheet::{Cell, Sheet, left};
use super::{lookup, moment, open};
use crate::cli::Format;
use crate::error::{Error, Result};

pub(super) async fn diff(arguments: &Diff) -> Result<()> {
    let archive = open(&arguments.reading.history).await?;
    let table = lookup::table(&archive, &arguments.table)?;
    let from = moment::resolve(&archive, &arguments.from).await?;
    let to = moment::resolve(&archive, &arguments.to).await?;
    for at in [&from, &to] {
        moment::check_known(&archive, &table, at, Some(arguments.inexact)).await?;
    }
    if to.place < from.place {
        return Err(Error::usage(format!("--from ({}) is later than --to ({})", from.shown, to.shown)));
    }
    let schemas = [&from, &to].map(|at| Arc::clone(table.schema_for(&at.cut, at.place)));
    let [schema_before, schema_after] = &schemas;
    let mut sheet = Sheet::new(arguments.reading.format, vec![left("change"), left("key"), left("changes")])?;
    let mut counts = [0usize; 3];
    let [added, removed, changed] = &mut counts;
    for change in changed_entities(&archive, &table, from.cut, to.cut).await? {
        let differences = between(
            &table,
            change.before.as_ref().map(|fact| (fact, schema_before)),
            change.after.as_ref().map(|fact| (fact, schema_after)),
        )?;
        let (what, count) = match (&change.before, &change.after) {
            (None, _) => ("added", &mut *added),
            (_, None) => ("removed", &mut *removed),
            // Changed, and changed back.
            _ if differences.is_empty() => continue,
            _ => ("changed", &mut *changed),
        };
        *count += 1;
        sheet.row(vec![
            Cell::Text(what.to_owned()),
            Cell::Text(change.entity_id),
            changes_cell(&differences),
        ])?;
    }
    sheet.finish()?;
    if arguments.reading.format == Format::Table {
        let [added, removed, changed] = counts;
        eprintln!(
            "{added} added, {removed} removed, {changed} changed between {} and {}",
            from.shown, to.shown
        );
    }
    Ok(())
}
