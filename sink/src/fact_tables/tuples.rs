//! Tuples in one of COPY's formats.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::mpsc::SyncSender;

use bygone_replication::Lsn;
use bygone_replication::pgoutput::POSTGRES_EPOCH_US;
use bytes::Bytes;

use super::binary::{Form, array_head, put_bytes, put_null};
use crate::fact::parse_fact_id;
use crate::timestamp::Timestamp;
use crate::value::{Field, Kind, RowError, Status, render};

/// Bytes that are sent at a time.
const PIECE: usize = 256 << 10;
/// What the binary format begins with: its signature, no flags, no more in the head.
const SIGNATURE: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const END: [u8; 2] = (-1i16).to_be_bytes();
/// The oid of `text`, everywhere.
const TEXT: u32 = 25;

/// A format of COPY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Binary,
}

/// Bytes of one format; another format after it is another COPY.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) format: Format,
    pub(super) bytes: Bytes,
}

/// Why a value is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It has no binary form here.
    NoForm,
    /// The row is damaged.
    Damaged,
}

impl From<RowError> for Unfit {
    fn from(_: RowError) -> Self {
        Self::Damaged
    }
}

/// Makes tuples, and sends them on in pieces.
#[derive(Debug)]
pub(super) struct Tuples {
    format: Format,
    out: Vec<u8>,
    /// Where the tuple begins that is made.
    tuple: usize,
    scratch: String,
    pieces: SyncSender<Piece>,
}

impl Tuples {
    pub(super) fn new(format: Format, pieces: SyncSender<Piece>) -> Self {
        let out = if format == Format::Binary { SIGNATURE.to_vec() } else { Vec::new() };
        Self { format, out, tuple: 0, scratch: String::new(), pieces }
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Begins a tuple of so many columns.
    pub(super) fn begin(&mut self, columns: usize) -> Result<(), Unfit> {
        self.tuple = self.out.len();
        if self.format == Format::Binary {
            let columns = i16::try_from(columns).map_err(|_| Unfit::NoForm)?;
            self.out.extend(columns.to_be_bytes());
        }
        Ok(())
    }

    /// Forgets the tuple that was begun, and goes on as text.
    pub(super) fn go_on_as_text(&mut self) {
        self.out.truncate(self.tuple);
        // Where nobody takes it any more, the next one finds out.
        self.finish();
        self.format = Format::Text;
    }

    pub(super) fn end(&mut self) {
        if self.format == Format::Text {
            self.out.pop();
            self.out.push(b'\n');
        }
    }

    /// Sends what has been gathered, once that is worth it. False where nobody takes it any more.
    pub(super) fn flush(&mut self) -> bool {
        self.out.len() < PIECE || self.send()
    }

    /// Sends the rest.
    pub(super) fn finish(&mut self) -> bool {
        if self.format == Format::Binary {
            self.out.extend(END);
        }
        self.out.is_empty() || self.send()
    }

    fn send(&mut self) -> bool {
        let bytes = Bytes::from(std::mem::take(&mut self.out));
        // A thread of its own, which may wait.
        self.pieces.send(Piece { format: self.format, bytes }).is_ok()
    }

    fn null(&mut self) {
        match self.format {
            Format::Text => self.out.extend_from_slice(b"\\N\t"),
            Format::Binary => put_null(&mut self.out),
        }
    }

    /// A value of a type whose binary form has a fixed length.
    fn fixed(&mut self, text: std::fmt::Arguments<'_>, binary: &[u8]) -> Result<(), Unfit> {
        match self.format {
            Format::Text => {
                self.scratch.clear();
                // Writing to a String does not fail.
                let _ = self.scratch.write_fmt(text);
                self.out.extend_from_slice(self.scratch.as_bytes());
                self.out.push(b'\t');
                Ok(())
            }
            Format::Binary => put_bytes(binary, &mut self.out).ok_or(Unfit::NoForm),
        }
    }

    pub(super) fn bigint(&mut self, number: i64) -> Result<(), Unfit> {
        self.fixed(format_args!("{number}"), &number.to_be_bytes())
    }

    pub(super) fn integer(&mut self, number: i32) -> Result<(), Unfit> {
        self.fixed(format_args!("{number}"), &number.to_be_bytes())
    }

    pub(super) fn lsn(&mut self, lsn: Lsn) -> Result<(), Unfit> {
        self.fixed(format_args!("{lsn}"), &lsn.0.to_be_bytes())
    }

    pub(super) fn uuid(&mut self, text: &str) -> Result<(), Unfit> {
        let binary = match self.format {
            Format::Text => [0; 16],
            Format::Binary => parse_fact_id(text).ok_or(Unfit::NoForm)?,
        };
        self.fixed(format_args!("{text}"), &binary)
    }

    pub(super) fn time(&mut self, time: Option<Timestamp>) -> Result<(), Unfit> {
        let Some(time) = time else {
            self.null();
            return Ok(());
        };
        let binary = time.0.saturating_sub(POSTGRES_EPOCH_US);
        self.fixed(format_args!("{time}"), &binary.to_be_bytes())
    }

    /// Text, of which PostgreSQL's type knows no NUL character. What an application says of itself may have one.
    pub(super) fn text(&mut self, text: Option<&str>) -> Result<(), Unfit> {
        let Some(text) = text else {
            self.null();
            return Ok(());
        };
        let text = without_nul(text);
        match self.format {
            Format::Binary => put_bytes(text.as_bytes(), &mut self.out).ok_or(Unfit::NoForm)?,
            Format::Text => put_escaped(&text, &mut self.out),
        }
        Ok(())
    }

    /// JSON for a column of type `jsonb`, which knows no NUL character.
    pub(super) fn jsonb(&mut self, json: Option<&str>) -> Result<(), Unfit> {
        let json = json.map(json_without_nul);
        match (json, self.format) {
            (Some(json), Format::Binary) => self.text(Some(&format!("\u{1}{json}"))),
            (json, _) => self.text(json.as_deref()),
        }
    }

    /// An array of names.
    pub(super) fn names(&mut self, names: Option<&[String]>) -> Result<(), Unfit> {
        match (names, self.format) {
            (None, _) => {
                self.null();
                Ok(())
            }
            (Some(names), Format::Text) => {
                let quoted = names.iter().map(|name| name.replace('\\', "\\\\").replace('"', "\\\""));
                let quoted: Vec<String> = quoted.map(|name| format!("\"{name}\"")).collect();
                self.text(Some(&format!("{{{}}}", quoted.join(","))))
            }
            (Some(names), Format::Binary) => {
                let mut array = array_head(TEXT, names.len(), false).ok_or(Unfit::NoForm)?;
                for name in names {
                    put_bytes(name.as_bytes(), &mut array).ok_or(Unfit::NoForm)?;
                }
                put_bytes(&array, &mut self.out).ok_or(Unfit::NoForm)
            }
        }
    }

    /// A value of a column, binary in a form.
    pub(super) fn value(&mut self, kind: &Kind, field: Field<'_>, form: Option<&Form>) -> Result<(), Unfit> {
        if self.format == Format::Binary {
            let form = form.ok_or(Unfit::NoForm)?;
            let fits = form.put(kind, field, &mut self.scratch, &mut self.out)?;
            return fits.then_some(()).ok_or(Unfit::NoForm);
        }
        if matches!(field.status, Status::Null | Status::Unknown) {
            self.null();
        } else {
            self.scratch.clear();
            render(kind, field, &mut self.scratch)?;
            put_escaped(&self.scratch, &mut self.out);
        }
        Ok(())
    }
}

/// A text in which another character stands for each NUL.
fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

/// The same for JSON, which spells that character out. A backslash may itself be what the one before it spells.
pub(super) fn json_without_nul(json: &str) -> Cow<'_, str> {
    const NUL: &str = "\\u0000";
    if !json.contains(NUL) {
        return json.into();
    }
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let (plain, escape) = rest.split_at(at);
        out.push_str(plain);
        // JSON has one more character after each backslash, and what `\u` has behind it holds none.
        let length = 1 + escape.chars().nth(1).map_or(0, char::len_utf8);
        let (escape, after) = match escape.strip_prefix(NUL) {
            Some(after) => ("\\ufffd", after),
            None => escape.split_at(length),
        };
        out.push_str(escape);
        rest = after;
    }
    out.push_str(rest);
    out.into()
}

/// A field of COPY's text format.
fn put_escaped(text: &str, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r')) {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        out.push(b'\\');
        out.push(match special.first() {
            Some(b'\t') => b't',
            Some(b'\n') => b'n',
            Some(b'\r') => b'r',
            _ => b'\\',
        });
        rest = special.get(1..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out.push(b'\t');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_in_json_is_told_from_a_backslash_with_letters_behind_it() {
        for (json, wanted) in [
            (r#"{"a":"x\u0000y"}"#, None),
            (r#"{"a":"x\\u0000y"}"#, Some(r#"{"a":"x\\u0000y"}"#)),
            (r#"{"a":"x\\\u0000\u0000"}"#, Some(r#"{"a":"x\\\ufffd\ufffd"}"#)),
            (r#"{"\"é\u0000\t\u00e9":"\\"}"#, Some(r#"{"\"é\ufffd\t\u00e9":"\\"}"#)),
            (r#"{"a":"plain"}"#, Some(r#"{"a":"plain"}"#)),
        ] {
            assert_eq!(json_without_nul(json), wanted.unwrap_or(r#"{"a":"x\ufffdy"}"#), "{json}");
        }
    }
}
