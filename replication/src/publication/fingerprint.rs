//! A publication's state as a text, to be recorded.

use std::fmt::Write as _;
use std::str::FromStr;

use super::state::{Publication, PublicationState, SchemaMember, Stamp, TableMember};
use crate::table::TableName;

impl PublicationState {
    /// The state as a text that [`FromStr`] reads back: one line for each publication, schema and table. Names are part
    /// of it, for messages, so a table that is renamed changes the text: [`compare`](super::compare) is what tells whether the stream is
    /// the same.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut text = String::new();
        for publication in &self.publications {
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "publication {} {} {}",
                publication.oid,
                quote_line(&publication.name),
                publication.flags().join(",")
            );
            if let Some(Stamp { xmin, owner }) = publication.stamp {
                let _ = write!(text, " stamp {xmin},{owner}");
            }
            text.push('\n');
            for schema in &publication.schemas {
                let _ = write!(text, "schema {} {}", schema.oid, quote_line(&schema.name));
                if let Some(entry) = schema.entry {
                    let _ = write!(text, " entry {entry}");
                }
                text.push('\n');
            }
            for table in &publication.tables {
                let _ = write!(
                    text,
                    "table {} {} {}",
                    table.oid,
                    quote_line(&table.name.schema),
                    quote_line(&table.name.name)
                );
                if let Some(entry) = table.entry {
                    let _ = write!(text, " entry {entry}");
                }
                if let Some(columns) = &table.columns {
                    let columns: Vec<String> = columns.iter().map(ToString::to_string).collect();
                    let _ = write!(text, " columns {}", quote_line(&columns.join(",")));
                }
                if let Some(filter) = &table.filter {
                    let _ = write!(text, " where {}", quote_line(filter));
                }
                text.push('\n');
            }
        }
        text
    }
}

impl Publication {
    fn flags(&self) -> Vec<&'static str> {
        [
            (self.all_tables, "all_tables"),
            (self.insert, "insert"),
            (self.update, "update"),
            (self.delete, "delete"),
            (self.truncate, "truncate"),
            (self.via_root, "via_root"),
            (self.generated, "generated"),
        ]
        .into_iter()
        .filter_map(|(on, name)| on.then_some(name))
        .collect()
    }
}

/// A text in quotes on one line: backslash escapes for the quote, the backslash and line ends.
fn quote_line(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\r', "\\r");
    format!("\"{escaped}\"")
}

/// The text is not a fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the recorded publications cannot be read")]
pub struct ParseFingerprintError {
    /// Counted from 1.
    pub line: usize,
}

impl FromStr for PublicationState {
    type Err = ParseFingerprintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut state = Self::default();
        for (index, line) in text.lines().enumerate() {
            parse_line(&mut state, line).ok_or(ParseFingerprintError { line: index + 1 })?;
        }
        Ok(state)
    }
}

fn parse_line(state: &mut PublicationState, line: &str) -> Option<()> {
    let words = words(line)?;
    let mut words = words.iter().map(String::as_str);
    let sort = words.next()?;
    let oid = words.next()?.parse().ok()?;
    let name = words.next()?.to_owned();
    match sort {
        "publication" => {
            let mut publication = Publication {
                oid,
                name,
                all_tables: false,
                insert: false,
                update: false,
                delete: false,
                truncate: false,
                via_root: false,
                generated: false,
                stamp: None,
                schemas: Vec::new(),
                tables: Vec::new(),
            };
            for flag in words.next().unwrap_or_default().split(',').filter(|flag| !flag.is_empty()) {
                *match flag {
                    "all_tables" => &mut publication.all_tables,
                    "insert" => &mut publication.insert,
                    "update" => &mut publication.update,
                    "delete" => &mut publication.delete,
                    "truncate" => &mut publication.truncate,
                    "via_root" => &mut publication.via_root,
                    "generated" => &mut publication.generated,
                    _ => return None,
                } = true;
            }
            while let Some(word) = words.next() {
                let (xmin, owner) = words.next().filter(|_| word == "stamp")?.split_once(',')?;
                publication.stamp = Some(Stamp { xmin: xmin.parse().ok()?, owner: owner.parse().ok()? });
            }
            state.publications.push(publication);
        }
        "schema" => {
            let mut member = SchemaMember { oid, name, entry: None };
            while let Some(word) = words.next() {
                member.entry = Some(words.next().filter(|_| word == "entry")?.parse().ok()?);
            }
            state.publications.last_mut()?.schemas.push(member);
        }
        "table" => {
            let mut member = TableMember {
                oid,
                name: TableName { schema: name, name: words.next()?.to_owned() },
                filter: None,
                columns: None,
                entry: None,
            };
            while let Some(word) = words.next() {
                let value = words.next()?;
                match word {
                    "columns" if value.is_empty() => member.columns = Some(Vec::new()),
                    "columns" => {
                        member.columns =
                            Some(value.split(',').map(str::parse).collect::<Result<_, _>>().ok()?);
                    }
                    "entry" => member.entry = Some(value.parse().ok()?),
                    "where" => member.filter = Some(value.to_owned()),
                    _ => return None,
                }
            }
            state.publications.last_mut()?.tables.push(member);
        }
        _ => return None,
    }
    Some(())
}

/// Splits a line at spaces outside quotes, and undoes the quoting.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    while let Some(first) = chars.next() {
        let mut word = String::new();
        if first == '"' {
            loop {
                word.push(match chars.next()? {
                    '"' => break,
                    '\\' => match chars.next()? {
                        'n' => '\n',
                        'r' => '\r',
                        other => other,
                    },
                    other => other,
                });
            }
            if chars.next().is_some_and(|next| next != ' ') {
                return None;
            }
        } else {
            let mut next = Some(first);
            while let Some(char) = next.filter(|char| *char != ' ') {
                word.push(char);
                next = chars.next();
            }
        }
        words.push(word);
    }
    Some(words)
}
