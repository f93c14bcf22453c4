//! `bygone transactions`, `bygone transaction` and `bygone who`: what happened together, and by whom.

use std::collections::{HashMap, HashSet};

use bygone_sink::read::{Columns, Cut, Fact, FactFilter, Flow, OwnedFact, Transaction, TransactionFilter};

use super::arguments::{Transaction as One, Transactions, Who};
use super::changes::{by_version, changes_cell};
use super::row::xid_cell;
use super::sheet::{Cell, Sheet, json_string, left, print, right, when};
use super::value::{moment, moment_cell};
use super::{counted, lookup, moment as moments, open};
use crate::cli::Format;
use crate::error::{Error, Result};

pub(super) async fn list(arguments: &Transactions) -> Result<()> {
    let archive = open(&arguments.reading.history).await?;
    let beginning = moments::beginning(&archive).await?;
    let until = match &arguments.until {
        Some(text) => {
            let until = moments::resolve(&archive, text).await?;
            if let Some((_, since)) = beginning.filter(|(first, _)| until.place < *first) {
                return Err(Error::other(format!(
                    "nothing is known at {}: the history begins at {since}",
                    until.shown
                )));
            }
            Some(until.cut)
        }
        None => None,
    };
    let since = match &arguments.since {
        Some(text) => {
            let since = moments::resolve(&archive, text).await?;
            match since.cut {
                Cut::Time(time) => Some(time),
                Cut::Lsn(lsn) => archive.time_of_place(lsn).await?,
            }
        }
        None => None,
    };
    let filter =
        TransactionFilter { until, since, actor: arguments.actor.clone(), ..TransactionFilter::default() };
    let mut found = Vec::new();
    let mut take = |transaction: Transaction| {
        found.push(transaction);
        if found.len() >= arguments.limit { Flow::Break(()) } else { Flow::Continue(()) }
    };
    if arguments.limit > 0 {
        archive.transactions(&filter, &mut take).await?;
    }
    let headings = vec![
        right("xid"),
        when("when"),
        left("who").if_any(),
        left("lsn"),
        left("tables"),
        left("context").if_any(),
    ];
    let mut sheet = Sheet::new(arguments.reading.format, headings)?;
    for transaction in &found {
        sheet.row(vec![
            Cell::number(transaction.xid),
            moment_cell(transaction.valid_from),
            Cell::optional(transaction.actor.clone()),
            Cell::Text(transaction.lsn.to_string()),
            tables_cell(&transaction.tables),
            Cell::document(transaction.context.as_deref()),
        ])?;
    }
    let rows = sheet.finish()?;
    if arguments.reading.format == Format::Table {
        eprintln!("{}", counted(rows, "transaction"));
    }
    Ok(())
}

fn tables_cell(tables: &[(String, i64)]) -> Cell {
    let lines: Vec<String> = tables.iter().map(|(table, count)| format!("{table}: {count}")).collect();
    let pairs: Vec<String> =
        tables.iter().map(|(table, count)| format!("{}: {count}", json_string(table))).collect();
    Cell::Value { text: lines.join("\n"), json: format!("{{{}}}", pairs.join(", ")) }
}

pub(super) async fn one(arguments: &One) -> Result<()> {
    let archive = open(&arguments.reading.history).await?;
    let filter = TransactionFilter { xid: Some(arguments.xid), ..TransactionFilter::default() };
    let mut found = None;
    let mut take = |transaction: Transaction| {
        found = Some(transaction);
        Flow::Break(())
    };
    archive.transactions(&filter, &mut take).await?;
    let Some(transaction) = found else {
        return Err(moments::unknown_transaction(&archive, arguments.xid));
    };
    let format = arguments.reading.format;
    let mut headings =
        vec![left("table"), left("key"), right("version"), left("op"), left("who").if_any(), left("changes")];
    if format == Format::Table {
        let mut about = format!(
            "transaction {}, committed {}, ends at {}\n",
            transaction.xid,
            moment(transaction.committed_at),
            transaction.lsn
        );
        for (name, value) in
            [("by", &transaction.actor), ("context", &transaction.context), ("origin", &transaction.origin)]
        {
            if let Some(value) = value {
                about.push_str(&format!("{name} {value}\n"));
            }
        }
        print(&format!("{about}\n"))?;
    } else {
        headings.extend([right("xid"), when("when"), left("context")]);
    }
    let mut sheet = Sheet::new(format, headings)?;
    for (name, _) in &transaction.tables {
        let table = archive.table(name)?;
        let filter = FactFilter { lsn: Some(transaction.lsn), ..FactFilter::default() };
        let mut done: Vec<OwnedFact> = Vec::new();
        let mut keep = |fact: &Fact<'_>| {
            if fact.head.xid == transaction.xid {
                done.push(fact.to_owned());
            }
            Flow::Continue(())
        };
        archive.facts(&table, &filter, &Columns::All, &mut keep).await?;
        done.sort_by_key(|fact| fact.head.seq);
        let before = versions_before(&archive, &table, &done, Cut::Lsn(transaction.lsn)).await?;
        for fact in &done {
            let head = &fact.head;
            let earlier = before.get(&(head.entity_id.clone(), head.version - 1));
            let mut cells = vec![
                Cell::Text(name.clone()),
                Cell::Text(head.entity_id.clone()),
                Cell::number(head.version),
                Cell::Text(head.op.clone()),
                Cell::optional(head.actor.clone()),
                changes_cell(&by_version(&table, earlier, fact)?),
            ];
            if format != Format::Table {
                cells.extend([
                    Cell::number(transaction.xid),
                    moment_cell(transaction.valid_from),
                    Cell::document(head.context.as_deref().or(transaction.context.as_deref())),
                ]);
            }
            sheet.row(cells)?;
        }
    }
    let rows = sheet.finish()?;
    if format == Format::Table {
        eprintln!("{}", counted(rows, "change"));
    }
    Ok(())
}

/// The version before each of some facts.
async fn versions_before(
    archive: &bygone_sink::read::Archive,
    table: &bygone_sink::read::TableHistory,
    done: &[OwnedFact],
    until: Cut,
) -> Result<HashMap<(String, i64), OwnedFact>> {
    let wanted: HashSet<(String, i64)> =
        done.iter().map(|fact| (fact.head.entity_id.clone(), fact.head.version - 1)).collect();
    let entities: HashSet<String> = wanted.iter().map(|(entity, _)| entity.clone()).collect();
    let filter = FactFilter { entities: Some(entities), until: Some(until), ..FactFilter::default() };
    let mut before = HashMap::new();
    let mut keep = |fact: &Fact<'_>| {
        let place = (fact.head.entity_id.clone(), fact.head.version);
        if wanted.contains(&place) {
            before.insert(place, fact.to_owned());
        }
        Flow::Continue(())
    };
    archive.facts(table, &filter, &Columns::All, &mut keep).await?;
    Ok(before)
}

pub(super) async fn who(arguments: &Who) -> Result<()> {
    let archive = open(&arguments.reading.history).await?;
    let filter = FactFilter { actor: Some(arguments.actor.clone()), ..FactFilter::default() };
    let mut done = Vec::new();
    for table in archive.tables()? {
        let mut keep = |fact: &Fact<'_>| {
            let named = |physical: &String| {
                let known = fact.schema.columns.iter().find(|column| column.physical == *physical);
                known.map_or_else(|| physical.clone(), |column| column.column.name.clone())
            };
            let changed: Vec<String> = fact.head.changed.iter().flatten().map(named).collect();
            done.push((table.log_name.clone(), fact.head.clone(), changed));
            Flow::Continue(())
        };
        archive.facts(&table, &filter, &Columns::Some(Vec::new()), &mut keep).await?;
    }
    if done.is_empty() {
        let mut known: Vec<String> = Vec::new();
        let mut note = |transaction: Transaction| {
            if let Some(actor) = transaction.actor.filter(|actor| !known.contains(actor)) {
                known.push(actor);
            }
            Flow::Continue(())
        };
        archive.transactions(&TransactionFilter::default(), &mut note).await?;
        let hint = lookup::did_you_mean(&arguments.actor, known.into_iter());
        eprintln!("bygone: the history has nothing by {}{hint}", arguments.actor);
    }
    done.sort_by_key(|(_, fact, _)| std::cmp::Reverse((fact.lsn, fact.seq)));
    let all = done.len();
    done.truncate(arguments.limit);
    let headings = vec![
        when("when"),
        right("xid"),
        left("table"),
        left("key"),
        right("version"),
        left("op"),
        left("changed"),
    ];
    let mut sheet = Sheet::new(arguments.reading.format, headings)?;
    for (table, head, changed) in done {
        let names: Vec<String> = changed.iter().map(|name| json_string(name)).collect();
        sheet.row(vec![
            moment_cell(head.valid_from),
            xid_cell(head.xid),
            Cell::Text(table),
            Cell::Text(head.entity_id),
            Cell::number(head.version),
            Cell::Text(head.op),
            Cell::Value { text: changed.join(", "), json: format!("[{}]", names.join(", ")) },
        ])?;
    }
    let rows = sheet.finish()?;
    if arguments.reading.format == Format::Table {
        let more = if all > rows { format!(" of {all}; --limit shows more") } else { String::new() };
        eprintln!("{}{more}", counted(rows, "change"));
    }
    Ok(())
}
