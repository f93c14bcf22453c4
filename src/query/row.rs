//! `bygone history` and `bygone blame`: the versions of one row.

use super::arguments::{Blame, History};
use super::changes::{Shown, by_version, changes_cell, is_unknown, why_unknown};
use super::sheet::{Cell, Sheet, left, right, when};
use super::value::moment_cell;
use super::{counted, lookup, open};
use crate::cli::Format;
use crate::error::{Error, Result};

pub(super) async fn history(arguments: &History) -> Result<()> {
    let archive = open(&arguments.reading.history).await?;
    let table = lookup::table(&archive, &arguments.entity.table)?;
    let entity_id = lookup::entity_id(&table, &arguments.entity)?;
    let (entity_id, versions) = lookup::versions(&archive, &table, entity_id).await?;
    let headings = vec![
        right("version"),
        when("when"),
        left("op"),
        left("who").if_any(),
        right("xid").if_any(),
        left("lsn"),
        left("changes"),
    ];
    let mut sheet = Sheet::new(arguments.reading.format, headings)?;
    for (at, fact) in versions.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| versions.get(at));
        let head = &fact.head;
        sheet.row(vec![
            Cell::number(head.version),
            moment_cell(head.valid_from),
            Cell::Text(head.op.clone()),
            Cell::optional(head.actor.clone()),
            xid_cell(head.xid),
            Cell::Text(head.lsn.to_string()),
            changes_cell(&by_version(&table, before, fact)?),
        ])?;
    }
    let rows = sheet.finish()?;
    if arguments.reading.format == Format::Table {
        eprintln!("{} of {} {entity_id}", counted(rows, "version"), table.log_name);
    }
    for fact in &versions {
        let (end, from, to) = (fact.head.tombstone, "rekeyed_from", "rekeyed_to");
        if let Some(other) = rekeyed(fact.head.context.as_deref(), if end { to } else { from }) {
            let what = if end { "was given the key" } else { "had the key" };
            let when = if end { "in" } else { "before" };
            let version = fact.head.version;
            eprintln!(
                "bygone: {when} version {version} the row {what} {other}: bygone history {} {}",
                for_shell(&table.log_name),
                for_shell(&other)
            );
        }
    }
    Ok(())
}

/// The other key of a row whose key changed.
pub(super) fn rekeyed(context: Option<&str>, which: &str) -> Option<String> {
    let context: serde_json::Value = serde_json::from_str(context?).ok()?;
    Some(context.get("bygone")?.get(which)?.as_str()?.to_owned())
}

/// A word as a shell takes it.
fn for_shell(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A snapshot has no transaction.
pub(super) fn xid_cell(xid: i64) -> Cell {
    if xid == 0 { Cell::Null } else { Cell::number(xid) }
}

pub(super) async fn blame(arguments: &Blame) -> Result<()> {
    let archive = open(&arguments.reading.history).await?;
    let table = lookup::table(&archive, &arguments.entity.table)?;
    let entity_id = lookup::entity_id(&table, &arguments.entity)?;
    let (entity_id, versions) = lookup::versions(&archive, &table, entity_id).await?;
    let Some(last) = versions.last() else { return Err(Error::other("there is no version")) };
    if last.head.tombstone {
        eprintln!(
            "bygone: {} {entity_id} was deleted at {}; these are its last values",
            table.log_name,
            super::value::moment(last.head.valid_from)
        );
    }
    let schema = table.newest();
    // Columns that came later than a version read as their missing value there, and were not changed by anybody.
    let shown: Vec<Shown> =
        versions.iter().map(|fact| Shown::new(&table, fact, schema)).collect::<Result<_>>()?;
    let headings = vec![
        left("column"),
        left("value"),
        right("version"),
        when("when"),
        left("who").if_any(),
        left("op"),
        right("xid").if_any(),
    ];
    let width = headings.len();
    let mut sheet = Sheet::new(arguments.reading.format, headings)?;
    let Some(values) = shown.last().map(Shown::cells).transpose()? else { return Ok(()) };
    let fields = shown.iter().map(Shown::fields).collect::<Result<Vec<_>>>()?;
    let mut unknown = Vec::new();
    for (at, (column, value)) in schema.columns.iter().zip(values).enumerate() {
        // Nobody knows which version gave it the value that it has.
        if value == Cell::Unknown {
            unknown.push(column);
            let mut cells = vec![Cell::Text(column.column.name.clone()), value];
            cells.resize(width, Cell::Null);
            sheet.row(cells)?;
            continue;
        }
        let is_changed = |version: usize| {
            let before =
                version.checked_sub(1).and_then(|before| Some((versions.get(before)?, fields.get(before)?)));
            let here = fields.get(version).and_then(|fields| fields.get(at));
            // A generated column that is not sent is not known after an update, which is no change.
            let unsent = !column.sent && here.is_some_and(is_unknown);
            !unsent && before.is_none_or(|(fact, fields)| fact.head.tombstone || fields.get(at) != here)
        };
        let by = (0..versions.len())
            .rev()
            .filter(|version| versions.get(*version).is_some_and(|fact| !fact.head.tombstone))
            .find(|version| is_changed(*version))
            .and_then(|version| versions.get(version));
        let Some(by) = by.or(versions.first()) else { continue };
        sheet.row(vec![
            Cell::Text(column.column.name.clone()),
            value,
            Cell::number(by.head.version),
            moment_cell(by.head.valid_from),
            Cell::optional(by.head.actor.clone()),
            Cell::Text(by.head.op.clone()),
            xid_cell(by.head.xid),
        ])?;
    }
    sheet.finish()?;
    for column in unknown {
        let (name, why) = (&column.column.name, why_unknown(column));
        eprintln!("bygone: {name} is not known and shown as null, and nor is which version set it: {why}");
    }
    Ok(())
}
