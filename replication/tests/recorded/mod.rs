//! The decoder on what real servers sent.
//!
//! Recordings and what they say were made by `scripts/record-streams`, whose own decoder was written from the manual
//! alone. A recording is a list of messages: of each, four bytes of length and its bytes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use bygone_replication::pgoutput::{Cell, Message, Old, Tuple};
use sha2::{Digest as _, Sha256};

/// Longer values stand in the text by length and hash alone.
const LONGEST_SHOWN: usize = 100;

struct Recording {
    /// `18-binary`.
    name: String,
    messages: Vec<Vec<u8>>,
    /// A line for each message.
    said: Vec<String>,
}

fn recordings() -> Vec<Recording> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded");
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "stream"))
        .collect();
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Recording {
    let bytes = fs::read(path).unwrap();
    let mut rest = bytes.as_slice();
    let mut messages = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (message, after) = after.split_at(u32::from_be_bytes(*length) as usize);
        messages.push(message.to_vec());
        rest = after;
    }
    assert_eq!(rest, b"", "{}", path.display());
    let said = fs::read_to_string(path.with_extension("said")).unwrap();
    Recording {
        name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
        messages,
        said: said.lines().map(str::to_owned).collect(),
    }
}

/// A message as the recording script writes it down.
fn tell(message: &Message<'_>) -> String {
    match message {
        Message::Begin(begin) => {
            format!("begin final {} at {} xid {}", begin.final_lsn, begin.committed_at, begin.xid)
        }
        Message::Commit(commit) => {
            format!("commit {} end {} at {}", commit.commit_lsn, commit.end_lsn, commit.committed_at)
        }
        Message::Origin { lsn, name } => format!("origin {lsn} {}", quote(name.as_bytes())),
        Message::Relation(relation) => {
            let (schema, name) = (quote(relation.schema.as_bytes()), quote(relation.name.as_bytes()));
            let identity = char::from(relation.identity);
            let mut line = format!("relation {} {schema} {name} identity {identity}:", relation.oid);
            for column in relation.columns() {
                let key = if column.key { "*" } else { "" };
                let name = quote(column.name.as_bytes());
                write!(line, " {key}{name} {} {}", column.type_oid, column.typmod).unwrap();
            }
            line
        }
        Message::Type { oid, schema, name } => {
            format!("type {oid} {} {}", quote(schema.as_bytes()), quote(name.as_bytes()))
        }
        Message::Insert { relation, new } => format!("insert {relation} new {}", row(*new)),
        Message::Update { relation, old, new } => {
            let old = old.as_ref().map(|old| format!(" {}", before(old))).unwrap_or_default();
            format!("update {relation}{old} new {}", row(*new))
        }
        Message::Delete { relation, old } => format!("delete {relation} {}", before(old)),
        Message::Truncate { cascade, restart_identity, relations } => {
            let mut line = "truncate".to_owned();
            line.push_str(if *cascade { " cascade" } else { "" });
            line.push_str(if *restart_identity { " restart" } else { "" });
            for oid in relations.oids() {
                write!(line, " {oid}").unwrap();
            }
            line
        }
        Message::Logical { transactional, lsn, prefix, content } => {
            let kind = if *transactional { "transactional" } else { "immediate" };
            format!("message {kind} {lsn} {} {}", quote(prefix.as_bytes()), quote(content))
        }
    }
}

fn before(old: &Old<'_>) -> String {
    match old {
        Old::Key(key) => format!("key {}", row(*key)),
        Old::Row(whole) => format!("row {}", row(*whole)),
    }
}

fn row(tuple: Tuple<'_>) -> String {
    let cells: Vec<String> = tuple
        .cells()
        .map(|cell| match cell {
            Cell::Null => "null".to_owned(),
            Cell::Unchanged => "unchanged".to_owned(),
            Cell::Text(bytes) if bytes.len() <= LONGEST_SHOWN => format!("t{}", quote(bytes)),
            Cell::Binary(bytes) if bytes.len() <= LONGEST_SHOWN => format!("b{}", hex(bytes)),
            Cell::Text(bytes) => format!("t{}", digest(bytes)),
            Cell::Binary(bytes) => format!("b{}", digest(bytes)),
        })
        .collect();
    assert_eq!(cells.len(), tuple.len());
    format!("({})", cells.join(", "))
}

fn quote(bytes: &[u8]) -> String {
    let mut text = "\"".to_owned();
    for byte in bytes {
        match byte {
            b'"' | b'\\' => write!(text, "\\x{byte:02x}").unwrap(),
            0x20..0x7F => text.push(char::from(*byte)),
            _ => write!(text, "\\x{byte:02x}").unwrap(),
        }
    }
    text + "\""
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(bytes: &[u8]) -> String {
    format!("<{} bytes {}>", bytes.len(), &hex(&Sha256::digest(bytes))[..16])
}

/// Reads everything there is to read in a message, as the rest of bygone would.
fn walk(message: &Message<'_>) -> usize {
    let cells = |tuple: Tuple<'_>| {
        let cells = tuple.cells().count();
        assert_eq!(cells, tuple.len());
        cells
    };
    match message {
        Message::Insert { new, .. } => cells(*new),
        Message::Update { old, new, .. } => cells(*new) + old.map_or(0, |old| cells(old.tuple())),
        Message::Delete { old, .. } => cells(old.tuple()),
        Message::Relation(relation) => relation.columns().map(|column| column.name.len()).sum(),
        Message::Truncate { relations, .. } => relations.oids().count(),
        _ => 0,
    }
}

#[test]
fn every_message_says_what_the_recording_says() {
    let recordings = recordings();
    let names: Vec<&str> = recordings.iter().map(|recording| recording.name.as_str()).collect();
    let all =
        ["14-binary", "14-text", "15-binary", "15-text", "16-binary", "17-text", "18-binary", "18-text"];
    assert_eq!(names, all);
    for Recording { name, messages, said } in recordings {
        assert_eq!(messages.len(), said.len(), "{name}");
        for (at, (message, said)) in messages.iter().zip(said).enumerate() {
            let decoded =
                Message::decode(message).unwrap_or_else(|error| panic!("{name}, message {at}: {error}"));
            assert_eq!(tell(&decoded), said, "{name}, message {at}");
        }
    }
}

/// A workload that lost a case would leave the tests above with less to say, and nobody would notice.
#[test]
fn the_recordings_hold_every_kind_of_message() {
    for Recording { name, said, .. } in recordings() {
        let binary = name.ends_with("binary");
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut see = |case: &'static str, there: bool| *seen.entry(case).or_default() += usize::from(there);
        for (at, line) in said.iter().enumerate() {
            let is = |word: &str| line.starts_with(word);
            let has = |part: &str| line.contains(part);
            see("begin", is("begin "));
            see("commit", is("commit "));
            see("origin", is("origin 16/B374D848 \"far away\""));
            see("enum", is("type ") && has("\"shop\" \"mood\""));
            see("domain, named after its base type", is("type ") && has("\"\" \"numeric\""));
            for identity in ["identity d:", "identity i:", "identity f:"] {
                see(identity, is("relation ") && has(identity));
            }
            see("leaf", is("relation ") && has("\"day_2\""));
            see("root", !(is("relation ") && has("\"day\" identity")));
            see("insert", is("insert "));
            see("update without an old row", is("update ") && !has(" key (") && !has(" row ("));
            see("update with a key", is("update ") && has(" key ("));
            see("update with a row", is("update ") && has(" row ("));
            see("delete by key", is("delete ") && has(" key ("));
            see("delete by row", is("delete ") && has(" row ("));
            see("truncate", is("truncate 1"));
            see("truncate cascade", is("truncate cascade 1"));
            see("truncate restart identity", is("truncate restart 1"));
            see("truncate with both", is("truncate cascade restart 1"));
            see(
                "truncate of two tables",
                is("truncate ") && line.split(' ').filter(|word| word.parse::<u32>().is_ok()).count() == 2,
            );
            see("message", is("message transactional "));
            see("empty message", is("message transactional ") && line.ends_with(" \"\""));
            see("message that is no text", is("message transactional ") && has("\\xff"));
            // It stands before the transaction in which it was sent.
            let next = said.get(at + 1).map_or("", String::as_str);
            see("message outside", is("message immediate ") && next.starts_with("begin "));
            see("message of a rolled back transaction", is("message immediate ") && has("rolled back"));
            see("unchanged", is("update ") && has("new (") && has("unchanged"));
            see("unchanged with a key", is("update ") && has(" key (") && has("unchanged"));
            see("null", has("null"));
            see("empty string", has(if binary { ", b," } else { "t\"\"" }));
            see("text", has("t\""));
            see("longer than is shown", has("<2050 bytes "));
            see("table of two spaces", has("\"Odd \\x22name\""));
        }
        let (lines, rooted) = (said.len(), seen.remove("root"));
        assert_eq!(rooted, Some(lines), "{name}: a partitioned table came as its root");
        let missing: Vec<_> = seen.iter().filter(|(_, count)| **count == 0).map(|(case, _)| *case).collect();
        assert!(missing.is_empty(), "{name} lacks {missing:?}");
        assert_eq!(binary, said.iter().any(|line| line.contains("(b")), "{name}");
        assert!(said.iter().all(|line| !line.contains("never")), "{name}: a rolled back message");
    }
}

#[test]
fn a_recorded_message_cut_at_any_byte_is_an_error() {
    for Recording { name, messages, .. } in recordings() {
        for (at, message) in messages.iter().enumerate() {
            for cut in 0..message.len() {
                assert!(Message::decode(&message[..cut]).is_err(), "{name}, message {at} cut at {cut}");
            }
        }
    }
}

#[test]
fn a_recorded_message_with_a_byte_too_many_is_an_error() {
    for Recording { name, messages, .. } in recordings() {
        for (at, message) in messages.iter().enumerate() {
            for more in 0..=255 {
                let longer = [message.as_slice(), &[more]].concat();
                assert!(Message::decode(&longer).is_err(), "{name}, message {at} and {more}");
            }
        }
    }
}

#[test]
fn any_byte_of_a_recorded_message_may_be_flipped_without_a_panic() {
    let (mut good, mut bad) = (0usize, 0usize);
    for Recording { messages, .. } in recordings() {
        for mut message in messages {
            for at in 0..message.len() {
                let was = message[at];
                for now in (0..8).map(|bit| was ^ 1 << bit).chain([0, !was, 0xFF]) {
                    message[at] = now;
                    match Message::decode(&message) {
                        Ok(decoded) => good += walk(&decoded),
                        Err(_) => bad += 1,
                    }
                }
                message[at] = was;
            }
        }
    }
    // Most flips hit a value and leave a message that is as good as before; a great many do not.
    assert!(good > 100_000 && bad > 50_000, "{good} values read, {bad} messages refused");
}
