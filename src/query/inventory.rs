//! `bygone tables` and `bygone log`: what a history holds.

use std::time::Duration;

use bygone_sink::log::{self, Commit, Event, EventKind, EventLsn, table_text};
use bygone_sink::read::{Archive, AsOf, Cut, Extent, Flow, TableHistory};
use bygone_sink::timestamp::Timestamp;

use super::arguments::{Log, Tables};
use super::sheet::{Cell, Heading, Sheet, json_string, left, right, when, when_about};
use super::value::moment_cell;
use super::{counted, open};
use crate::cli::Format;
use crate::error::{Error, Result};

/// How often `--follow` looks for new commits.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn tables(arguments: &Tables) -> Result<()> {
    let archive = open(&arguments.reading.history).await?;
    let headings = vec![
        left("table"),
        right("rows"),
        right("versions"),
        when_about("first"),
        when_about("last"),
        right("bytes"),
        right("schemas"),
        left("retention").if_any(),
        left("status").if_any(),
    ];
    let mut sheet = Sheet::new(arguments.reading.format, headings)?;
    let (now, until) = archive.known_until();
    for table in archive.tables()? {
        let live = AsOf::find(&archive, &table, Cut::Lsn(now)).await?.count().await?;
        let adds = || table.files.iter().map(|file| &file.add);
        let from = match table.known.first() {
            Some(extent) => archive.time_of_place(extent.from).await?,
            None => None,
        };
        let first = adds().map(|add| add.valid_from[0]).min().or(from);
        let last = adds().map(|add| add.valid_from[1]).max().or(from);
        sheet.row(vec![
            Cell::Text(table.log_name.clone()),
            Cell::number(live),
            Cell::number(adds().map(|add| add.rows).sum::<u64>()),
            time(arguments.reading.format, first),
            time(arguments.reading.format, last),
            bytes(arguments.reading.format, adds().map(|add| add.bytes).sum::<u64>()),
            Cell::number(table.versions.len()),
            Cell::optional(table.newest().retention.clone()),
            status(&table),
        ])?;
    }
    sheet.finish()?;
    if arguments.reading.format == Format::Table {
        let until = until.map_or_else(String::new, |until| format!("{} ", super::value::moment(until)));
        eprintln!("known until {until}({now})");
    }
    Ok(())
}

/// What there is to know of a table beyond numbers; null for one that is captured under the name that it always had.
fn status(table: &TableHistory) -> Cell {
    let mut words = Vec::new();
    match table.known.last() {
        None => words.push("not copied yet".to_owned()),
        Some(Extent { to: Some(to), dropped: true, .. }) => words.push(format!("dropped at {to}")),
        Some(Extent { to: Some(to), .. }) => words.push(format!("not captured since {to}")),
        Some(_) => {}
    }
    let now = table_text(&table.name);
    if now != table.log_name {
        words.push(format!("now {now}"));
    }
    if table.are_updates_unseen() {
        words.push("inserts only".to_owned());
    }
    if words.is_empty() { Cell::Null } else { Cell::Text(words.join(", ")) }
}

pub(super) async fn log(arguments: &Log) -> Result<()> {
    let mut archive = open(&arguments.reading.history).await?;
    let format = arguments.reading.format;
    let headings = log_headings(format);
    let mut sheet =
        if arguments.follow { Sheet::endless(format, headings)? } else { Sheet::new(format, headings)? };
    let end = archive.log().next_seq;
    let limit = arguments.limit.and_then(|limit| u64::try_from(limit).ok());
    let start = limit.map_or(0, |limit| end.saturating_sub(limit));
    let mut shown = Ok(());
    let mut show = |commit: &Commit| {
        shown = sheet.row(log_row(commit, format));
        if shown.is_ok() { Flow::Continue(()) } else { Flow::Break(()) }
    };
    archive.commits_of(start..end, &mut show).await?;
    shown?;
    if !arguments.follow {
        let rows = sheet.finish()?;
        if format == Format::Table {
            eprintln!("{}", counted(rows, "commit"));
        }
        return Ok(());
    }
    loop {
        sheet.show()?;
        tokio::time::sleep(LOOK_EVERY).await;
        for commit in archive.refresh().await? {
            sheet.row(log_row(&commit, format))?;
        }
    }
}

fn log_headings(format: Format) -> Vec<Heading> {
    let mut headings = vec![
        right("commit"),
        when("at"),
        left("wal_to"),
        right("facts"),
        right("files"),
        right("bytes"),
        left("events"),
    ];
    // People do not read hashes.
    if format != Format::Table {
        headings.extend([left("seq"), left("prev"), left("wal_from"), left("writer")]);
    }
    headings
}

fn log_row(commit: &Commit, format: Format) -> Vec<Cell> {
    let body = &commit.body;
    let facts = body.add.iter().filter(|add| add.table != log::path::TRANSACTIONS);
    let lines: Vec<String> = body.events.iter().map(event_line).collect();
    let documents: Vec<String> = body
        .events
        .iter()
        .map(|event| serde_json::to_string(event).unwrap_or_else(|_| json_string(event.kind.as_str())))
        .collect();
    let mut cells = vec![
        Cell::number(commit.seq),
        moment_cell(commit.at),
        Cell::Text(body.wal.to.to_string()),
        Cell::number(facts.map(|add| add.rows).sum::<u64>()),
        Cell::number(body.add.len()),
        bytes(format, body.add.iter().map(|add| add.bytes).sum::<u64>()),
        Cell::Value { text: lines.join("\n"), json: format!("[{}]", documents.join(", ")) },
    ];
    if format != Format::Table {
        cells.extend([
            Cell::number(commit.seq),
            Cell::optional(commit.prev.map(|hash| hash.to_string())),
            Cell::Text(body.wal.from.to_string()),
            Cell::Text(commit.writer.clone()),
        ]);
    }
    cells
}

/// To the second for people.
fn time(format: Format, at: Option<Timestamp>) -> Cell {
    match at {
        None => Cell::Null,
        Some(at) if format == Format::Table => {
            let whole = Timestamp(at.0.div_euclid(1_000_000).saturating_mul(1_000_000));
            moment_cell(whole)
        }
        Some(at) => moment_cell(at),
    }
}

/// People read `41.2 KiB`, programs the number.
fn bytes(format: Format, bytes: u64) -> Cell {
    if format == Format::Table { Cell::bytes(bytes) } else { Cell::number(bytes) }
}

/// `snapshot public.orders (rows 3)`; lists and objects stand in JSON.
fn event_line(event: &Event) -> String {
    let table = event.table.as_ref().map_or_else(String::new, |table| format!(" {table}"));
    let details = event.detail.iter().filter_map(|(name, value)| match value {
        serde_json::Value::String(text) => Some(format!("{name} {text}")),
        serde_json::Value::Number(number) => Some(format!("{name} {number}")),
        _ => None,
    });
    let details: Vec<String> = details.collect();
    // How a table is identified is of use to programs.
    let details = if details.is_empty() || event.kind == EventKind::Attach {
        String::new()
    } else {
        format!(" ({})", details.join(", "))
    };
    match event.lsn {
        Some(EventLsn::Within([from, to])) if from != to => {
            format!("{}{table}{details} between {from} and {to}", event.kind)
        }
        _ => format!("{}{table}{details}", event.kind),
    }
}

/// Opens the history that an argument names.
pub(crate) async fn open_archive(history: &str, facts_schema: &str) -> Result<Archive> {
    use bygone_sink::store::{Location, Store, StoreOptions};
    if history.starts_with("postgres://") || history.starts_with("postgresql://") {
        let client = crate::facts::connect("--history", history).await?;
        return Archive::open_rows(client, facts_schema).await.map_err(Error::from);
    }
    let store = Store::open(&Location::parse(history)?, &StoreOptions::default())?;
    Archive::open(&store).await.map_err(Error::from)
}
