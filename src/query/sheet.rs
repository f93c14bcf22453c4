//! Results on standard output: a table that fits the terminal, JSON, or CSV.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use bygone_sink::value::{Field, Kind, Status, render};
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width};

use super::changes::damaged;
use super::value::{cell, json};
use crate::cli::Format;
use crate::error::{Error, Result};

/// One value of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// SQL null.
    Null,
    /// A value that could not be known.
    Unknown,
    /// Text: a string in JSON.
    Text(String),
    /// Text, and another form in JSON.
    Value {
        /// For tables and CSV.
        text: String,
        /// A JSON value.
        json: String,
    },
    /// A text of several values, of which a table for people shows less.
    Abridged {
        /// For tables.
        brief: String,
        /// For CSV and JSON.
        whole: Box<Cell>,
    },
}

impl Cell {
    /// A number.
    pub(crate) fn number(value: impl std::fmt::Display) -> Self {
        let text = value.to_string();
        Self::Value { json: text.clone(), text }
    }

    /// A number of bytes: `41.2 KiB` for people, the number in JSON.
    pub(crate) fn bytes(bytes: u64) -> Self {
        let mut scaled = bytes as f64;
        let mut unit = "B";
        for next in ["KiB", "MiB", "GiB", "TiB"] {
            if scaled < 1000.0 {
                break;
            }
            (scaled, unit) = (scaled / 1024.0, next);
        }
        let text = if unit == "B" { format!("{bytes} B") } else { format!("{scaled:.1} {unit}") };
        Self::Value { text, json: bytes.to_string() }
    }

    /// Text or null.
    pub(crate) fn optional(text: Option<impl Into<String>>) -> Self {
        text.map_or(Self::Null, |text| Self::Text(text.into()))
    }

    /// A JSON document or null.
    pub(crate) fn document(text: Option<&str>) -> Self {
        text.map_or(Self::Null, |text| Self::Value { text: text.to_owned(), json: text.to_owned() })
    }

    /// The text, without what tells null from the empty string.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Null | Self::Unknown => "",
            Self::Text(text) | Self::Value { text, .. } => text,
            Self::Abridged { whole, .. } => whole.text(),
        }
    }

    /// As part of a sentence: null and unknown by name.
    pub(crate) fn shown(&self) -> &str {
        match self {
            Self::Null => "null",
            Self::Unknown => "unknown",
            Self::Text(text) if text.is_empty() => "''",
            Self::Text(text) | Self::Value { text, .. } => text,
            Self::Abridged { whole, .. } => whole.shown(),
        }
    }

    pub(crate) fn json(&self) -> String {
        match self {
            Self::Null | Self::Unknown => "null".to_owned(),
            Self::Text(text) => json_string(text),
            Self::Value { json, .. } => json.clone(),
            Self::Abridged { whole, .. } => whole.json(),
        }
    }

    /// For a table for people, without what is beyond [`LONGEST`]; and whether that is less than there is.
    fn for_people(self) -> (Self, bool) {
        match self {
            Self::Abridged { brief, .. } => (Self::Text(brief), true),
            Self::Text(text) | Self::Value { text, .. } => match abridged(&text, LONGEST) {
                Some(brief) => (Self::Text(brief), true),
                None => (Self::Text(text), false),
            },
            none => (none, false),
        }
    }
}

/// Longer lines of a value are cut short in a table: nobody reads on, and where they have no blanks, wrapping them takes a time that
/// grows with the square of their length (2 ms for this many characters beyond ASCII, unoptimised).
const LONGEST: usize = 4_000;

/// A text without what each of its lines has beyond so many characters; none where they are shorter.
pub(crate) fn abridged(text: &str, characters: usize) -> Option<String> {
    let end = |line: &str| line.char_indices().nth(characters).map(|(end, _)| end);
    if text.len() <= characters || text.split('\n').all(|line| end(line).is_none()) {
        return None;
    }
    let brief = |line: &str| match end(line).and_then(|end| line.get(..end)) {
        Some(begin) => format!("{begin}…"),
        None => line.to_owned(),
    };
    Some(text.split('\n').map(brief).collect::<Vec<_>>().join("\n"))
}

/// A text as a JSON string.
pub(crate) fn json_string(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// A column of a result.
#[derive(Clone, Debug)]
pub(crate) struct Heading {
    name: String,
    right: bool,
    /// Characters below which its values are not wrapped.
    least: usize,
    /// A table for people leaves it out where it is null in all rows.
    optional: bool,
}

impl Heading {
    /// A column that people need not see where it says nothing.
    pub(crate) fn if_any(mut self) -> Self {
        self.optional = true;
        self
    }
}

/// A column of text.
pub(crate) fn left(name: impl Into<String>) -> Heading {
    Heading { name: name.into(), right: false, least: NARROWEST, optional: false }
}

/// A column of numbers.
pub(crate) fn right(name: impl Into<String>) -> Heading {
    Heading { name: name.into(), right: true, least: usize::MAX, optional: false }
}

/// A column of moments: day and time stay whole.
pub(crate) fn when(name: impl Into<String>) -> Heading {
    Heading { name: name.into(), right: false, least: "10:00:00.000000+00".len(), optional: false }
}

/// A column of moments to the second.
pub(crate) fn when_about(name: impl Into<String>) -> Heading {
    Heading { name: name.into(), right: false, least: "10:00:00+00".len(), optional: false }
}

/// A result that is printed row by row.
pub(crate) struct Sheet {
    format: Format,
    headings: Vec<Heading>,
    out: Box<dyn Write>,
    /// Rows that wait until the widths of all are known.
    waiting: Vec<Vec<Cell>>,
    rows: usize,
    /// Cells of which a table shows less than there is, and nothing was said of yet.
    cut: usize,
    /// One JSON object a line instead of an array: for results without an end.
    lines: bool,
    /// The widths of what was shown already, for a result without an end.
    shown: Option<Vec<usize>>,
    /// What stands before each value of an object in JSON.
    names: Vec<String>,
    /// Room for a line of CSV or JSON, and for a value of it.
    line: String,
    text: String,
}

impl Sheet {
    /// A result on standard output.
    pub(crate) fn new(format: Format, headings: Vec<Heading>) -> Result<Self> {
        Self::begin(format, headings, Box::new(BufWriter::new(io::stdout())), false)
    }

    /// A result on standard output that goes on for ever: rows appear as they come.
    pub(crate) fn endless(format: Format, headings: Vec<Heading>) -> Result<Self> {
        Self::begin(format, headings, Box::new(BufWriter::new(io::stdout())), true)
    }

    /// A result in a file, or on standard output.
    pub(crate) fn to(output: Option<&Path>, format: Format, headings: Vec<Heading>) -> Result<Self> {
        let Some(path) = output else { return Self::new(format, headings) };
        let file =
            File::create(path).map_err(|error| Error::other(format!("{}: {error}", path.display())))?;
        Self::begin(format, headings, Box::new(BufWriter::new(file)), false)
    }

    fn begin(format: Format, headings: Vec<Heading>, out: Box<dyn Write>, lines: bool) -> Result<Self> {
        let names = headings.iter().map(|heading| format!("{}: ", json_string(&heading.name))).collect();
        let mut sheet = Self {
            format,
            headings,
            names,
            out,
            waiting: Vec::new(),
            rows: 0,
            cut: 0,
            lines,
            shown: None,
            line: String::new(),
            text: String::new(),
        };
        match format {
            Format::Csv => {
                let names: Vec<String> = sheet.headings.iter().map(|heading| quoted(&heading.name)).collect();
                sheet.write(&format!("{}\n", names.join(",")))?;
            }
            Format::Json if !lines => sheet.write("[")?,
            Format::Json | Format::Table => {}
        }
        Ok(sheet)
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) -> Result<()> {
        self.rows += 1;
        match self.format {
            Format::Csv => {
                let values: Vec<String> = cells.iter().map(csv).collect();
                self.write(&format!("{}\n", values.join(",")))
            }
            Format::Json => {
                let pairs =
                    self.names.iter().zip(&cells).map(|(name, cell)| format!("{name}{}", cell.json()));
                let pairs = pairs.collect::<Vec<_>>().join(", ");
                self.write(&format!("{}{pairs}{}", self.before_object(), self.after_object()))
            }
            Format::Table => {
                let (cells, cut): (Vec<Cell>, Vec<bool>) = cells.into_iter().map(Cell::for_people).unzip();
                self.cut += cut.into_iter().filter(|cut| *cut).count();
                self.waiting.push(cells);
                Ok(())
            }
        }
    }

    /// Adds a row of a table's values. Whole tables are written so: for programs, none is kept by itself.
    pub(crate) fn values<'f>(&mut self, values: impl Iterator<Item = (&'f Kind, Field<'f>)>) -> Result<()> {
        if self.format == Format::Table {
            let cells = values.map(|(kind, field)| cell(kind, field).map_err(damaged));
            return self.row(cells.collect::<Result<_>>()?);
        }
        self.rows += 1;
        self.line.clear();
        let is_csv = self.format == Format::Csv;
        if !is_csv {
            self.line.push_str(self.before_object());
        }
        for (at, (kind, field)) in values.enumerate() {
            if at > 0 {
                self.line.push_str(if is_csv { "," } else { ", " });
            }
            self.text.clear();
            render(kind, field, &mut self.text).map_err(damaged)?;
            let is_there = !matches!(field.status, Status::Null | Status::Unknown);
            if is_csv {
                if is_there {
                    push_quoted(&self.text, &mut self.line);
                }
                continue;
            }
            self.line.push_str(self.names.get(at).map_or("", String::as_str));
            let json = match field.status {
                Status::Null | Status::Unknown => Some("null".to_owned()),
                // Its type cannot hold it: it is text.
                Status::Raw => None,
                Status::Value | Status::Large => json(kind, field, &self.text).map_err(damaged)?,
            };
            self.line.push_str(&json.unwrap_or_else(|| json_string(&self.text)));
        }
        self.line.push_str(if is_csv { "\n" } else { self.after_object() });
        self.out.write_all(self.line.as_bytes()).map_err(no_output)
    }

    /// What stands before an object in JSON, and after it.
    const fn before_object(&self) -> &'static str {
        match (self.lines, self.rows) {
            (true, _) => "{",
            (false, 1) => "\n {",
            (false, _) => ",\n {",
        }
    }

    const fn after_object(&self) -> &'static str {
        if self.lines { "}\n" } else { "}" }
    }

    /// Shows what came so far: for results without an end.
    pub(crate) fn show(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.waiting);
        if !rows.is_empty() {
            let text = self.going_on(&rows);
            self.write(&text)?;
        }
        self.flush()?;
        self.tell_cut();
        Ok(())
    }

    /// Says that a table showed less than there is, where it did.
    fn tell_cut(&mut self) {
        match std::mem::take(&mut self.cut) {
            0 => {}
            1 => eprintln!("bygone: a long value is cut short at …; --format csv or json has it whole"),
            cut => {
                eprintln!("bygone: {cut} long values are cut short at …; --format csv or json has them whole")
            }
        }
    }

    /// Rows under those that were shown before: as wide as they were, and without another heading.
    fn going_on(&mut self, rows: &[Vec<Cell>]) -> String {
        let width = terminal_width();
        let mut widths = widths(&self.headings, rows);
        let before = self.shown.take();
        if let Some(before) = &before {
            widths.iter_mut().zip(before).for_each(|(width, before)| *width = (*width).max(*before));
        }
        let text = if fits(&widths, width) {
            let text = across(&self.headings, rows, &widths, width);
            match &before {
                // The heading and the line below it.
                Some(_) => text.lines().skip(2).map(|line| format!("{line}\n")).collect(),
                None => text,
            }
        } else {
            down(&self.headings, rows, width)
        };
        self.shown = Some(widths);
        text
    }

    /// Ends the result, and says how many rows it had.
    pub(crate) fn finish(mut self) -> Result<usize> {
        match self.format {
            Format::Table => {
                let rows = std::mem::take(&mut self.waiting);
                let rows = self.without_empty(rows);
                let text = self.laid_out(&rows);
                self.write(&text)?;
            }
            Format::Json if !self.lines => self.write(if self.rows == 0 { "]\n" } else { "\n]\n" })?,
            Format::Json | Format::Csv => {}
        }
        self.flush()?;
        self.tell_cut();
        Ok(self.rows)
    }

    /// The rows, and from here on the headings, without the optional columns that are null in all of them.
    fn without_empty(&mut self, rows: Vec<Vec<Cell>>) -> Vec<Vec<Cell>> {
        let is_null = |row: &Vec<Cell>, at: usize| row.get(at).is_none_or(|cell| *cell == Cell::Null);
        let headings = self.headings.iter().enumerate();
        let keep: Vec<bool> = headings
            .map(|(at, heading)| !heading.optional || rows.iter().any(|row| !is_null(row, at)))
            .collect();
        let mut kept = keep.iter();
        self.headings.retain(|_| kept.next().copied().unwrap_or(true));
        let narrow = |row: Vec<Cell>| {
            row.into_iter().zip(&keep).filter(|(_, keep)| **keep).map(|(cell, _)| cell).collect()
        };
        rows.into_iter().map(narrow).collect()
    }

    fn laid_out(&self, rows: &[Vec<Cell>]) -> String {
        let width = terminal_width();
        let widths = widths(&self.headings, rows);
        if rows.is_empty() || fits(&widths, width) {
            across(&self.headings, rows, &widths, width)
        } else {
            down(&self.headings, rows, width)
        }
    }

    fn write(&mut self, text: &str) -> Result<()> {
        self.out.write_all(text.as_bytes()).map_err(no_output)
    }

    fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(no_output)
    }
}

/// Prints text as a result.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(no_output)
}

/// Prints SQL as it is, or as the one value of a result for programs.
pub(crate) fn print_sql(sql: &str, format: Format) -> Result<()> {
    if format == Format::Table {
        return print(sql);
    }
    let mut sheet = Sheet::new(format, vec![left("sql")])?;
    sheet.row(vec![Cell::Text(sql.to_owned())])?;
    sheet.finish().map(drop)
}

/// The error for a result that cannot be written. Ends the process where nobody reads it.
pub(crate) fn no_output(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        // The reader has seen enough (`| head`): nothing has failed.
        std::process::exit(0);
    }
    Error::other(format!("the result cannot be written: {error}"))
}

/// A value in CSV: null is nothing, the empty string `""`.
fn csv(cell: &Cell) -> String {
    match cell {
        Cell::Null | Cell::Unknown => String::new(),
        Cell::Text(text) | Cell::Value { text, .. } => quoted(text),
        Cell::Abridged { whole, .. } => csv(whole),
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_quoted(text, &mut out);
    out
}

/// Quoted where it must be. `\.` alone on a line would end the data for COPY.
fn push_quoted(text: &str, out: &mut String) {
    let special = |byte: u8| matches!(byte, b',' | b'"' | b'\n' | b'\r');
    let blank = text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace);
    if text.is_empty() || text == "\\." || blank || text.bytes().any(special) {
        out.push('"');
        out.push_str(&text.replace('"', "\"\""));
        out.push('"');
    } else {
        out.push_str(text);
    }
}

pub(crate) fn terminal_width() -> usize {
    let told = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let asked = || terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
    told.or_else(asked).filter(|width| *width >= 20).unwrap_or(80)
}

/// Longer text than this is wrapped where that helps.
const NARROWEST: usize = 16;

/// The width that each column needs at least.
fn widths(headings: &[Heading], rows: &[Vec<Cell>]) -> Vec<usize> {
    let widths = headings.iter().enumerate().map(|(at, heading)| {
        let texts = rows.iter().filter_map(|row| row.get(at)).flat_map(|cell| cell.text().lines());
        let longest = texts.map(UnicodeWidth::width).max().unwrap_or(0).max(heading.name.as_str().width());
        longest.min(heading.least)
    });
    widths.collect()
}

trait UnicodeWidth {
    fn width(self) -> usize;
}

impl UnicodeWidth for &str {
    /// Cells of a terminal, about: characters beyond Latin may take two.
    fn width(self) -> usize {
        self.chars().map(|c| if u32::from(c) < 0x1100 { 1 } else { 2 }).sum()
    }
}

fn fits(widths: &[usize], width: usize) -> bool {
    let needed: usize = widths.iter().map(|width| width + 1).sum();
    needed <= width + 1
}

fn across(headings: &[Heading], rows: &[Vec<Cell>], widths: &[usize], width: usize) -> String {
    let mut table = plain(width);
    table.set_header(headings.iter().map(|heading| comfy_table::Cell::new(harmless(&heading.name))));
    for row in rows {
        table.add_row(row.iter().map(|cell| harmless(cell.text())));
    }
    let last = headings.len().saturating_sub(1);
    for (at, (heading, least)) in headings.iter().zip(widths).enumerate() {
        if let Some(column) = table.column_mut(at) {
            let gap = u16::from(at < last);
            column.set_padding((0, gap));
            let least = u16::try_from(*least).unwrap_or(u16::MAX).saturating_add(gap);
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(least)));
            if heading.right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    ended(&table)
}

/// Each row as a list of names and values.
fn down(headings: &[Heading], rows: &[Vec<Cell>], width: usize) -> String {
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        let mut table = plain(width);
        table.load_style(comfy_table::presets::NOTHING);
        for (heading, cell) in headings.iter().zip(row) {
            table.add_row([harmless(&heading.name), harmless(cell.text())]);
        }
        if let Some(column) = table.column_mut(0) {
            column.set_padding((0, 1));
        }
        text.push_str(&format!(
            "- {} {}\n",
            at + 1,
            "-".repeat(width.saturating_sub(4 + (at + 1).to_string().len()))
        ));
        text.push_str(&ended(&table));
    }
    text
}

fn plain(width: usize) -> Table {
    let mut table = Table::new();
    // A line below the header, and nothing else.
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('-')));
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
    table
}

fn ended(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Without what a terminal would take as a command.
pub(crate) fn harmless(text: &str) -> String {
    if !text.chars().any(|c| c.is_control()) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_tells_null_from_the_empty_string() {
        assert_eq!(csv(&Cell::Null), "");
        assert_eq!(csv(&Cell::Text(String::new())), "\"\"");
        assert_eq!(csv(&Cell::Text("a\"b,c".to_owned())), "\"a\"\"b,c\"");
        assert_eq!(csv(&Cell::Text("\\.".to_owned())), "\"\\.\"");
        assert_eq!(csv(&Cell::Text("plain text".to_owned())), "plain text");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let headings = vec![left("name"), right("n"), left("text")];
        let cells =
            |text: &str| vec![Cell::Text("a".to_owned()), Cell::number(1), Cell::Text(text.to_owned())];
        let rows = vec![cells(&"long words here ".repeat(20)), cells(&"x".repeat(300)), cells("漢字 é")];
        for width in [40, 80, 120] {
            for text in
                [across(&headings, &rows, &widths(&headings, &rows), width), down(&headings, &rows, width)]
            {
                assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            }
        }
    }

    #[test]
    fn lines_that_are_too_long_for_people_are_cut_at_a_character() {
        assert_eq!(abridged("short\nlines", 5), None);
        assert_eq!(abridged("éééé", 4), None);
        assert_eq!(abridged("ééééé\nb\ncccccc\n", 4).as_deref(), Some("éééé…\nb\ncccc…\n"));
    }

    #[test]
    fn a_megabyte_without_a_blank_is_shown_to_people_at_once() {
        let headings = vec![right("id"), left("text")];
        let mut sheet = Sheet::begin(Format::Table, headings, Box::new(io::sink()), false).unwrap();
        let begun = std::time::Instant::now();
        for (at, text) in ["x", "é", "漢"].into_iter().enumerate() {
            sheet.row(vec![Cell::number(at), Cell::Text(text.repeat(1 << 20))]).unwrap();
        }
        assert_eq!(sheet.finish().unwrap(), 3);
        let took = begun.elapsed();
        assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(harmless("a\u{1b}[31mb\tc"), "a\\u{1b}[31mb\\tc");
    }
}
