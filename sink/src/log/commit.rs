//! The commit document: one atomic append to a history.

use bygone_replication::Lsn;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::event::Event;
use super::hash::ContentHash;
use super::lsn_text;
use super::path::commit_path;
use super::schema::SchemaVersion;
use crate::error::{Error, ErrorKind, Result};
use crate::timestamp::Timestamp;

/// The format that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// One commit, as it stands in the log.
///
/// Fields that this version does not know are passed over in reading: additions do not change what the others mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// [`FORMAT`].
    pub format: u32,
    /// Which commit it is, from 0 without a hole; also its name.
    pub seq: u64,
    /// SHA-256 of the bytes of the commit before; none in commit 0.
    pub prev: Option<ContentHash>,
    /// When it was written, by the writer's clock.
    pub at: Timestamp,
    /// Who wrote it: an id per opening of the history.
    pub writer: String,
    /// What it says.
    #[serde(flatten)]
    pub body: CommitBody,
}

/// What a commit says, apart from its place in the chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommitBody {
    /// The range of the WAL that it covers.
    pub wal: Wal,
    /// Where reading goes on: everything that ended at or before this position is durable. The slot may be told so.
    #[serde(with = "lsn_text")]
    pub resume: Lsn,
    /// Counts the source's ways: one more at each fork.
    pub epoch: u32,
    /// The database that it came from.
    pub source: Source,
    /// The source's clock at the last message that the commit covers.
    pub server_time: Option<Timestamp>,
    /// The latest `_valid_from` given so far; later ones are never earlier.
    pub high_water: Option<Timestamp>,
    /// What the publications looked like, where that changed: bygone compares it at each connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publication: Option<Value>,
    /// New versions of tables' columns.
    #[serde(default)]
    pub schemas: Vec<SchemaVersion>,
    /// What happened that no fact says.
    #[serde(default)]
    pub events: Vec<Event>,
    /// Files that hold facts from now on.
    #[serde(default)]
    pub add: Vec<Add>,
    /// Paths of files whose facts stand in others from now on.
    #[serde(default)]
    pub remove: Vec<String>,
    /// What else a later version says.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The field of a commit that says by how much its positions, and those of its facts and events, lie beyond the source's.
///
/// A source that was restored goes on from an earlier position, and would give positions a second time. The order of a
/// history is one, so these are moved on by a multiple of 4 GiB: `0/15D6B88` is `1/15D6B88` then. Absent where it is 0.
pub const LSN_OFFSET: &str = "lsn_offset";

/// The field that marks a commit of somebody who does not capture: it says something about what is there already, and leaves
/// positions as they are. A capture that finds one in its way goes on behind it.
pub const ASIDE: &str = "aside";

/// The field of an [`Add`] that a compaction made: the first and the last of the commits whose facts the file holds.
pub const COMMITS: &str = "commits";

/// The field of an [`Add`] that names the leaf partition of its facts.
pub const LEAF: &str = "leaf";

/// The field of an [`Add`] whose facts have values of megabytes: it is left as it is by what reads many files at once.
pub const LARGE: &str = "large";

/// The field of a commit that says up to where the catalog, publications included, is known to have been as the history has it: it is
/// looked at every few seconds, and what was altered was so after this.
pub const CATALOG_SEEN: &str = "catalog_seen";

impl CommitBody {
    /// By how much positions lie beyond the source's: [`LSN_OFFSET`].
    #[must_use]
    pub fn lsn_offset(&self) -> u64 {
        self.position(LSN_OFFSET).map_or(0, |lsn| lsn.0)
    }

    /// [`CATALOG_SEEN`].
    #[must_use]
    pub fn catalog_seen(&self) -> Option<Lsn> {
        self.position(CATALOG_SEEN)
    }

    /// The commit is marked as [`ASIDE`].
    #[must_use]
    pub fn is_aside(&self) -> bool {
        self.extra.get(ASIDE).and_then(Value::as_bool) == Some(true)
    }

    fn position(&self, field: &str) -> Option<Lsn> {
        self.extra.get(field).and_then(Value::as_str)?.parse().ok()
    }
}

/// A range of the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wal {
    /// Exclusive: the `to` of the commit before, or the slot's consistent point.
    #[serde(with = "lsn_text")]
    pub from: Lsn,
    /// Inclusive: the end of the last transaction, or what an idle server had reached.
    #[serde(with = "lsn_text")]
    pub to: Lsn,
}

/// The database that changes came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// `system_identifier`, as text: it passes 2^53.
    pub system_id: String,
    /// The timeline.
    pub timeline: u32,
    /// The database's name.
    pub database: String,
}

/// A file of facts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Add {
    /// Its path below the history.
    pub path: String,
    /// [`table_text`](super::table_text) of the table, or [`TRANSACTIONS`](super::path::TRANSACTIONS).
    pub table: String,
    /// The newest schema version among its facts; 0 for transactions.
    pub schema: i32,
    /// How many facts.
    pub rows: u64,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub sha256: ContentHash,
    /// The least and the greatest `_lsn`.
    #[serde(with = "lsn_text::pair")]
    pub lsn: [Lsn; 2],
    /// The earliest and the latest `_valid_from`.
    pub valid_from: [Timestamp; 2],
    /// What its facts say, however a file holds them: see [`content`](crate::content). Of a merged file, SHA-256 of those of
    /// the files that became it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<ContentHash>,
    /// What else a later version says.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The part that is read first: a newer format may have changed everything else.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl Add {
    /// The oid of the leaf partition that its facts are of; 0 outside partitioned tables.
    #[must_use]
    pub fn leaf(&self) -> u32 {
        let leaf = self.extra.get(LEAF).and_then(Value::as_u64);
        leaf.and_then(|leaf| u32::try_from(leaf).ok()).unwrap_or(0)
    }

    /// Its facts have values of megabytes.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.extra.get(LARGE).and_then(Value::as_bool) == Some(true)
    }
}

impl Commit {
    /// The bytes that stand in the log: compact JSON and a line feed.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] where a value has no JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        to_bytes(self)
    }

    /// Reads a commit. `seq` is the one that its name says, for messages.
    ///
    /// # Errors
    /// [`ErrorKind::NewerFormat`], and [`ErrorKind::Damaged`] for everything that is not a commit document.
    pub fn from_bytes(bytes: &[u8], seq: u64) -> Result<Self> {
        from_bytes(bytes, &commit_path(seq))
    }
}

pub(crate) fn to_bytes(document: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(document).map_err(|err| {
        Error::new(ErrorKind::Conflict, "a document cannot be written as JSON", err.to_string())
            .with_source(err)
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

pub(crate) fn from_bytes<T: for<'de> Deserialize<'de>>(bytes: &[u8], path: &str) -> Result<T> {
    let damaged = |err: serde_json::Error| {
        Error::new(ErrorKind::Damaged, "not a document of a history", format!("{path}: {err}"))
            .with_source(err)
    };
    let Head { format } = serde_json::from_slice(bytes).map_err(damaged)?;
    if format > FORMAT {
        let detail =
            format!("{path} has format {format}, this version reads up to {FORMAT}; use a newer bygone");
        return Err(Error::new(ErrorKind::NewerFormat, "written by a newer bygone", detail));
    }
    if format == 0 {
        let detail = format!("{path} has format 0, which never was");
        return Err(Error::new(ErrorKind::Damaged, "not a document of a history", detail));
    }
    if bytes.last() != Some(&b'\n') {
        let detail = format!("{path} does not end in a line feed: it is cut short");
        return Err(Error::new(ErrorKind::Damaged, "not a document of a history", detail));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The example of the design, with what it leaves out filled in.
    pub(crate) const EXAMPLE: &str = r#"{"format":1,"seq":42,"prev":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","at":"2026-11-23T23:19:17.123456Z","writer":"5f0c","wal":{"from":"0/15D6B88","to":"0/1600000"},"resume":"0/1600000","epoch":0,"source":{"system_id":"7312345678901234567","timeline":1,"database":"shop"},"server_time":"2026-11-23T23:19:17.000000Z","high_water":"2026-11-23T23:19:16.000000Z","schemas":[{"table":"public.orders","schema":3,"oid":16385,"columns":[{"name":"id","attnum":1,"type":"int8","typmod":-1,"key":true}]}],"events":[{"kind":"attach","table":"public.orders","lsn":"0/15D6B88"}],"add":[{"path":"tables/public.orders/_date=2026-11-23/00000000000000000042-000.parquet","table":"public.orders","schema":3,"rows":1234,"bytes":56789,"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","lsn":["0/15D6B88","0/1600000"],"valid_from":["2026-11-23T23:19:10.000000Z","2026-11-23T23:19:16.000000Z"]}],"remove":["tables/public.orders/_date=2026-11-22/00000000000000000007-000.parquet"]}
"#;

    #[test]
    fn the_document_is_exactly_the_design_s() {
        let commit = Commit::from_bytes(EXAMPLE.as_bytes(), 42).unwrap();
        assert_eq!(commit.body.resume, Lsn(0x160_0000));
        assert_eq!(commit.body.add[0].rows, 1234);
        assert_eq!(String::from_utf8(commit.to_bytes().unwrap()).unwrap(), EXAMPLE);
    }

    #[test]
    fn what_a_later_version_adds_is_kept() {
        let text = EXAMPLE.replace("\"epoch\":0", "\"epoch\":0,\"novelty\":[1,{\"a\":null}]");
        let commit = Commit::from_bytes(text.as_bytes(), 42).unwrap();
        assert_eq!(commit.body.extra["novelty"], serde_json::json!([1, {"a": null}]));
        assert_eq!(Commit::from_bytes(&commit.to_bytes().unwrap(), 42).unwrap(), commit);
    }

    #[test]
    fn a_newer_format_is_refused_by_name_whatever_else_it_holds() {
        for text in [EXAMPLE.replace("\"format\":1", "\"format\":2"), "{\"format\":7}".to_owned()] {
            let err = Commit::from_bytes(text.as_bytes(), 42).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::NewerFormat);
            assert!(err.to_string().contains("written by a newer bygone"), "{err}");
        }
    }

    #[test]
    fn cut_at_every_byte_it_is_damaged() {
        for cut in 0..EXAMPLE.len() {
            let err = Commit::from_bytes(&EXAMPLE.as_bytes()[..cut], 42).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Damaged, "cut at {cut}: {err}");
        }
    }

    #[test]
    fn with_any_byte_changed_nothing_panics() {
        for at in 0..EXAMPLE.len() {
            for byte in [0, b'"', b'{', b'9', 0xFF] {
                let mut bytes = EXAMPLE.as_bytes().to_vec();
                bytes[at] = byte;
                let _ = Commit::from_bytes(&bytes, 42);
            }
        }
    }

    #[test]
    fn wrong_types_and_huge_numbers_are_damage() {
        for (from, to) in [
            ("\"seq\":42", "\"seq\":-1"),
            ("\"seq\":42", "\"seq\":18446744073709551616"),
            ("\"seq\":42", "\"seq\":1e400"),
            ("\"seq\":42", "\"seq\":\"42\""),
            ("\"format\":1", "\"format\":0"),
            ("\"format\":1", "\"format\":-1"),
            ("\"rows\":1234", "\"rows\":1.5"),
            ("\"epoch\":0", "\"epoch\":4294967296"),
            ("\"attnum\":1", "\"attnum\":99999"),
            ("\"resume\":\"0/1600000\"", "\"resume\":\"0/\""),
            ("\"resume\":\"0/1600000\"", "\"resume\":null"),
            ("[\"0/15D6B88\",\"0/1600000\"]", "[\"0/15D6B88\"]"),
            ("\"at\":\"2026", "\"at\":\"206"),
            ("\"at\":\"2026-11-23T23:19:17.123456Z\"", "\"at\":\"+999999-11-23T23:19:17.123456Z\""),
            ("\"prev\":\"e3", "\"prev\":\"x3"),
            ("\"remove\":[", "\"remove\":[null,"),
            ("\"remove\":[", "\"remove\":[[[["),
        ] {
            let text = EXAMPLE.replacen(from, to, 1);
            assert_ne!(text, EXAMPLE, "{from}");
            let err = Commit::from_bytes(text.as_bytes(), 42).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Damaged, "{to}: {err}");
        }
        let deep = EXAMPLE.replace("\"epoch\":0", &format!("\"epoch\":0,\"x\":{}", "[".repeat(100_000)));
        assert_eq!(Commit::from_bytes(deep.as_bytes(), 42).unwrap_err().kind(), ErrorKind::Damaged);
    }
}
