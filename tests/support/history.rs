//! A reader of histories that shares no code with bygone: what `docs/design.md` promises is all that it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::rendering;
use super::store::Store;

/// The columns that stand in every fact file beside the user's.
pub(crate) const SYSTEM_COLUMNS: [&str; 15] = [
    "_id",
    "_entity_id",
    "_version",
    "_op",
    "_valid_from",
    "_deleted_at",
    "_lsn",
    "_seq",
    "_xid",
    "_changed",
    "_actor",
    "_context",
    "_unknown",
    "_schema",
    "_raw",
];

/// The name under which the log keeps the transactions themselves.
const TRANSACTIONS: &str = "transactions";

/// One broken rule.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    /// The rule's name.
    pub(crate) rule: String,
    /// The table, empty when it is about the whole history.
    pub(crate) table: String,
    /// How many cases there are.
    pub(crate) count: i64,
    /// One of them.
    pub(crate) sample: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({} x): {}", self.rule, self.table, self.count, self.sample)
    }
}

/// A live file, as the commit that added it describes it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) table: String,
    pub(crate) schema: i64,
    pub(crate) rows: i64,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
    pub(crate) lsn: [u64; 2],
    pub(crate) valid_from: [DateTime<Utc>; 2],
    /// Sequence number of the commit.
    pub(crate) commit: u64,
    /// The commit also removes files: it moves facts, which keep the LSNs that they had.
    moved: bool,
}

/// What the log says, and what is wrong with it.
#[derive(Debug)]
pub(crate) struct History {
    store: Store,
    pub(crate) objects: BTreeMap<String, u64>,
    /// The commits in order, as their documents stand.
    pub(crate) commits: Vec<Value>,
    /// Live files by path.
    pub(crate) live: BTreeMap<String, Entry>,
    /// Paths that any commit has ever added.
    named: BTreeSet<String>,
    /// Where tables were copied, and the latest `_valid_from` of their rows (microseconds since 1970): known once the
    /// files are verified.
    pub(crate) copied: BTreeMap<i64, i64>,
    /// What was found broken so far.
    pub(crate) violations: Vec<Violation>,
}

impl History {
    /// Reads the whole log.
    pub(crate) fn read(store: Store) -> Self {
        let objects = store.list();
        let mut made = Self {
            store,
            objects,
            commits: Vec::new(),
            live: BTreeMap::new(),
            named: BTreeSet::new(),
            copied: BTreeMap::new(),
            violations: Vec::new(),
        };
        made.read_identity();
        made.read_log();
        made
    }

    fn blame(&mut self, rule: &str, table: &str, sample: String) {
        self.violations.push(Violation { rule: rule.to_owned(), table: table.to_owned(), count: 1, sample });
    }

    fn read_identity(&mut self) {
        let Some(body) = self.store.read("bygone.json") else {
            return self.blame("layout", "", "bygone.json is missing".to_owned());
        };
        match serde_json::from_slice::<Value>(&body) {
            Ok(identity) if identity["format"] == 1 => {}
            Ok(identity) => {
                self.blame("layout", "", format!("bygone.json has format {}", identity["format"]))
            }
            Err(error) => self.blame("layout", "", format!("bygone.json: {error}")),
        }
    }

    fn read_log(&mut self) {
        let numbered: Vec<(u64, String)> = self
            .objects
            .keys()
            .filter_map(|path| {
                let digits = path.strip_prefix("log/")?.strip_suffix(".json")?;
                let plain = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
                Some((plain.then(|| digits.parse().ok()).flatten()?, path.clone()))
            })
            .collect();
        let mut before = Value::Null;
        for (position, (seq, path)) in numbered.iter().enumerate() {
            if *seq != position as u64 {
                self.blame("chain", "", format!("{path} stands where commit {position} is due"));
            }
            let body = self.store.read(path).unwrap_or_default();
            let hash = hex(&Sha256::digest(&body));
            match serde_json::from_slice::<Value>(&body) {
                Err(error) => self.blame("chain", "", format!("{path}: {error}")),
                Ok(commit) => {
                    if commit["seq"] != *seq {
                        self.blame("chain", "", format!("{path} says that it is {}", commit["seq"]));
                    }
                    if commit["prev"] != before {
                        self.blame("chain", "", format!("{path} follows {}, not {before}", commit["prev"]));
                    }
                    self.take(*seq, commit);
                }
            }
            before = hash.into();
        }
        self.check_order();
    }

    fn take(&mut self, seq: u64, commit: Value) {
        for field in
            ["format", "at", "wal", "resume", "writer", "epoch", "source", "server_time", "high_water"]
        {
            if commit.get(field).is_none() {
                self.blame("commit-fields", "", format!("commit {seq} has no {field}"));
            }
        }
        let removed = list(&commit["remove"]);
        for path in removed {
            let path = path.as_str().unwrap_or_default();
            if self.live.remove(path).is_none() {
                self.blame("replay", "", format!("commit {seq} removes {path}, which is not there"));
            }
        }
        for add in list(&commit["add"]) {
            match entry(add, seq, !removed.is_empty()) {
                None => self.blame("commit-fields", "", format!("commit {seq} adds {add}")),
                Some(entry) => {
                    if !self.named.insert(entry.path.clone()) {
                        self.blame("replay", &entry.table, format!("commit {seq} adds {} again", entry.path));
                    }
                    self.live.insert(entry.path.clone(), entry);
                }
            }
        }
        self.commits.push(commit);
    }

    /// What may only grow from commit to commit.
    fn check_order(&mut self) {
        let mut found = Vec::new();
        for pair in self.commits.windows(2) {
            let (old, new) = (&pair[0], &pair[1]);
            if lsn(&new["resume"]) < lsn(&old["resume"]) {
                found.push(("resume-order", format!("{} after {}", new["resume"], old["resume"])));
            }
            if lsn(&new["wal"]["from"]) != lsn(&old["wal"]["to"]) {
                found.push(("wal-range", format!("{} after {}", new["wal"], old["wal"])));
            }
            if moment(&new["high_water"]) < moment(&old["high_water"]) {
                found.push(("high-water", format!("{} after {}", new["high_water"], old["high_water"])));
            }
        }
        for (rule, sample) in found {
            self.blame(rule, "", sample);
        }
    }

    /// Where the next run begins.
    pub(crate) fn resume(&self) -> Option<u64> {
        self.commits.last().and_then(|commit| lsn(&commit["resume"]))
    }

    /// All events of a kind, over all commits.
    pub(crate) fn events(&self, kind: &str) -> Vec<&Value> {
        let all = self.commits.iter().flat_map(|commit| list(&commit["events"]));
        all.filter(|event| event["kind"] == kind).collect()
    }

    /// The names of a table's columns in its newest schema, and which are its key.
    pub(crate) fn newest_schema(&self, table: &str) -> Vec<(&str, bool)> {
        let mut schemas = self.commits.iter().flat_map(|commit| list(&commit["schemas"]));
        let newest = schemas.rfind(|schema| schema["table"] == table);
        let columns = newest.map_or(&[][..], |schema| list(&schema["columns"]));
        columns.iter().filter_map(|column| Some((column["name"].as_str()?, column["key"] == true))).collect()
    }

    /// The tables that have facts, as the log names them.
    pub(crate) fn tables(&self) -> BTreeSet<&str> {
        self.live.values().map(|entry| entry.table.as_str()).filter(|table| *table != TRANSACTIONS).collect()
    }

    /// How many facts are live.
    pub(crate) fn fact_count(&self) -> i64 {
        self.live.values().filter(|entry| entry.table != TRANSACTIONS).map(|entry| entry.rows).sum()
    }

    /// Objects that no commit names, and none should: what is made from the facts (Delta logs, slabs) is in no commit.
    pub(crate) fn orphans(&self) -> Vec<&str> {
        let mut found = Vec::new();
        for path in self.objects.keys() {
            let known = path == "bygone.json"
                || path.contains("/_delta_log/")
                || ["slabs/", "index/", "checkpoints/"].iter().any(|made| path.starts_with(made))
                || self.named.contains(path)
                || path.strip_prefix("log/").is_some_and(|name| name.len() == 25 && name.ends_with(".json"));
            if !known {
                found.push(path.as_str());
            }
        }
        found
    }

    /// Checks every live file against the log, and whether any transaction is torn. `tidy`: the writer has ended in
    /// good order, so nothing else may lie around.
    pub(crate) fn verify(&mut self, tidy: bool) {
        if tidy {
            for path in self.orphans().into_iter().map(str::to_owned).collect::<Vec<_>>() {
                self.blame("orphan", "", format!("{path} is in no commit"));
            }
        }
        let mut streams = Streams::default();
        for entry in self.live.clone().into_values() {
            if let Err((rule, problem)) = self.verify_file(&entry, &mut streams) {
                self.blame(rule, &entry.table, format!("{}: {problem}", entry.path));
            }
        }
        for problem in streams.problems() {
            self.blame(problem.0, "", problem.1);
        }
        self.copied = streams.copied;
        // A copy of tables without a row has its time in the log alone.
        for commit in &self.commits {
            for copy in list(&commit["events"]).iter().filter(|event| event["kind"] == "snapshot") {
                if let (Some(place), Some(time)) = (lsn(&copy["lsn"]), moment(&commit["high_water"])) {
                    let latest = self.copied.entry(place.cast_signed()).or_insert(i64::MIN);
                    *latest = time.timestamp_micros().max(*latest);
                }
            }
        }
    }

    fn verify_file(&self, entry: &Entry, streams: &mut Streams) -> Result<(), (&'static str, String)> {
        let body = self.store.read(&entry.path).ok_or(("file", "is missing".to_owned()))?;
        if body.len() as u64 != entry.bytes {
            return Err(("file", format!("{} bytes, the log says {}", body.len(), entry.bytes)));
        }
        let hash = hex(&Sha256::digest(&body));
        if hash != entry.sha256 {
            return Err(("file", format!("hashes to {hash}, the log says {}", entry.sha256)));
        }
        let batches = batches(body).map_err(|error| ("file", error))?;
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if rows as i64 != entry.rows {
            return Err(("file", format!("{rows} rows, the log says {}", entry.rows)));
        }
        let day = entry.path.split('/').find_map(|part| part.strip_prefix("_date=")).unwrap_or_default();
        if entry.table == TRANSACTIONS {
            return batches.iter().try_for_each(|batch| streams.transactions(batch));
        }
        let mut known = self.commits.iter().flat_map(|commit| list(&commit["schemas"]));
        if !known.any(|known| known["table"] == *entry.table && known["schema"] == entry.schema) {
            return Err(("schema", format!("is of schema {}, which the log does not have", entry.schema)));
        }
        let directory = format!("tables/{}/_date={day}/", directory(&entry.table));
        if !entry.path.starts_with(&directory) {
            return Err(("path", format!("should lie in {directory}")));
        }
        for batch in &batches {
            check_columns(batch)?;
            streams.facts(batch, entry, day)?;
        }
        Ok(())
    }

    /// The live facts of a table, file by file in the order of their paths.
    pub(crate) fn facts(&self, table: &str) -> Vec<RecordBatch> {
        let files = self.live.values().filter(|entry| entry.table == table);
        let read = files.filter_map(|entry| batches(self.store.read(&entry.path)?).ok());
        read.flatten().collect()
    }

    /// All that the facts of a table say, in their order: each column that is not null.
    pub(crate) fn whole(&self, table: &str) -> Vec<BTreeMap<String, String>> {
        let mut rows = Vec::new();
        for batch in self.facts(table) {
            let number =
                |name: &str, row| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().value(row);
            let schema = batch.schema();
            for row in 0..batch.num_rows() {
                let cells = schema.fields().iter().zip(batch.columns()).filter_map(|(field, column)| {
                    let text = rendering::text(column, row).unwrap()?;
                    let told = if field.name() == "_context" { object_of(&text) } else { text };
                    Some((field.name().clone(), told))
                });
                rows.push(((number("_lsn", row), number("_seq", row)), cells.collect()));
            }
        }
        rows.sort_by_key(|(place, _)| *place);
        rows.into_iter().map(|(_, cells)| cells).collect()
    }

    /// The values of some columns of a table's facts, as text, in the order of `_lsn` and `_seq`.
    pub(crate) fn texts(&self, table: &str, columns: &[&str]) -> Vec<Vec<Option<String>>> {
        let mut rows = Vec::new();
        for batch in self.facts(table) {
            let number =
                |name: &str, row| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().value(row);
            for row in 0..batch.num_rows() {
                let cells = columns.iter().map(|name| {
                    let column =
                        batch.column_by_name(name).unwrap_or_else(|| panic!("{table} has no column {name}"));
                    rendering::text(column, row).unwrap()
                });
                rows.push(((number("_lsn", row), number("_seq", row)), cells.collect()));
            }
        }
        rows.sort_by_key(|(place, _)| *place);
        rows.into_iter().map(|(_, cells)| cells).collect()
    }
}

/// What an object of JSON says: the order of its keys is no part of it.
pub(crate) fn object_of(text: &str) -> String {
    serde_json::from_str::<BTreeMap<String, Value>>(text)
        .map_or(text.to_owned(), |object| format!("{object:?}"))
}

/// The directory of a table: what is not `[a-z0-9_-]` stands as `~hex~`, except the dot between schema and name.
fn directory(table: &str) -> String {
    let (schema, rest) = log_name_part(table);
    let (name, _) = log_name_part(rest.strip_prefix('.').unwrap_or(rest));
    let encoded = |part: &str| {
        let mut text = String::new();
        for c in part.chars() {
            match c {
                'a'..='z' | '0'..='9' | '_' | '-' => text.push(c),
                other => text.push_str(&format!("~{:x}~", u32::from(other))),
            }
        }
        text
    };
    format!("{}.{}", encoded(&schema), encoded(&name))
}

/// The first part of a table's name in the log, and what follows it. Parts with a dot or a quote stand in quotes.
fn log_name_part(text: &str) -> (String, &str) {
    let Some(mut rest) = text.strip_prefix('"') else {
        let (part, _) = text.split_once('.').unwrap_or((text, ""));
        return (part.to_owned(), &text[part.len()..]);
    };
    let mut part = String::new();
    while let Some((before, after)) = rest.split_once('"') {
        part.push_str(before);
        match after.strip_prefix('"') {
            Some(after) => {
                part.push('"');
                rest = after;
            }
            None => return (part, after),
        }
    }
    (text.to_owned(), "")
}

/// A transaction, as its facts in all tables have it.
#[derive(Debug, Default)]
struct Transaction {
    /// Commits that hold facts of it.
    commits: BTreeSet<u64>,
    /// (xid, valid from): one pair, if all is well.
    stamps: BTreeSet<(Option<i64>, i64)>,
    /// Facts by table.
    counts: BTreeMap<String, i64>,
}

/// What is gathered over all files of a history: transactions by their `_lsn`.
#[derive(Debug, Default)]
struct Streams {
    /// As the facts have them.
    seen: BTreeMap<i64, Transaction>,
    /// The latest time of the rows that were copied at each position.
    copied: BTreeMap<i64, i64>,
    /// As the table of transactions has them, and how often.
    listed: BTreeMap<i64, (usize, Transaction)>,
}

impl Streams {
    fn facts(&mut self, batch: &RecordBatch, entry: &Entry, day: &str) -> Result<(), (&'static str, String)> {
        let lsns = batch.column_by_name("_lsn").unwrap().as_primitive::<Int64Type>();
        let xids = batch.column_by_name("_xid").unwrap().as_primitive::<Int64Type>();
        let times = batch.column_by_name("_valid_from").unwrap().as_primitive::<TimestampMicrosecondType>();
        let ops = batch.column_by_name("_op").unwrap();
        for row in 0..batch.num_rows() {
            let (at, time) = (lsns.value(row), times.value(row));
            let place = at.cast_unsigned();
            if place < entry.lsn[0] || place > entry.lsn[1] {
                return Err(("file-range", format!("_lsn {at} is outside {:?}", entry.lsn)));
            }
            let moment = DateTime::from_timestamp_micros(time).unwrap();
            if moment < entry.valid_from[0] || moment > entry.valid_from[1] {
                return Err((
                    "file-range",
                    format!("_valid_from {moment} is outside {:?}", entry.valid_from),
                ));
            }
            if moment.format("%Y-%m-%d").to_string() != day {
                return Err(("file-date", format!("_valid_from {moment} does not belong to _date={day}")));
            }
            let op = rendering::text(ops, row).unwrap().unwrap_or_default();
            if op == "snapshot" {
                let latest = self.copied.entry(at).or_insert(time);
                *latest = time.max(*latest);
            } else if xids.value(row) != 0 {
                let transaction = self.seen.entry(at).or_default();
                if !entry.moved {
                    transaction.commits.insert(entry.commit);
                }
                transaction.stamps.insert(((!xids.is_null(row)).then(|| xids.value(row)), time));
                *transaction.counts.entry(entry.table.clone()).or_default() += 1;
            }
        }
        Ok(())
    }

    fn transactions(&mut self, batch: &RecordBatch) -> Result<(), (&'static str, String)> {
        let column =
            |name: &str| batch.column_by_name(name).ok_or(("transactions", format!("has no column {name}")));
        let (lsns, xids) = (column("lsn")?.as_primitive::<Int64Type>(), column("xid")?);
        let times = column("valid_from")?.as_primitive::<TimestampMicrosecondType>();
        let (tables, xids) = (column("tables")?, xids.as_primitive::<Int64Type>());
        for row in 0..batch.num_rows() {
            let (times_listed, transaction) = self.listed.entry(lsns.value(row)).or_default();
            *times_listed += 1;
            transaction.stamps.insert(((!xids.is_null(row)).then(|| xids.value(row)), times.value(row)));
            let counts = rendering::text(tables, row).ok().flatten().unwrap_or_default();
            let counts: BTreeMap<String, String> = serde_json::from_str(&counts).unwrap_or_default();
            for (table, count) in counts {
                *transaction.counts.entry(table).or_default() += count.parse::<i64>().unwrap();
            }
        }
        Ok(())
    }

    fn problems(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        for (at, seen) in &self.seen {
            if seen.commits.len() > 1 {
                found.push((
                    "torn",
                    format!("the transaction at {at} lies in the commits {:?}", seen.commits),
                ));
            }
            if seen.stamps.len() > 1 {
                found.push((
                    "one-transaction",
                    format!("{at} has several (_xid, _valid_from): {:?}", seen.stamps),
                ));
            }
            match self.listed.get(at) {
                Some((1, listed)) if listed.stamps == seen.stamps && listed.counts == seen.counts => {}
                listed => found.push(("transactions", format!("{at} is {seen:?}, but listed as {listed:?}"))),
            }
        }
        found
    }
}

/// Every system column is there, in its type.
fn check_columns(batch: &RecordBatch) -> Result<(), (&'static str, String)> {
    for name in SYSTEM_COLUMNS {
        let schema = batch.schema();
        let field = schema.field_with_name(name).map_err(|_| ("columns", format!("has no {name}")))?;
        let kind = field.data_type();
        let fits = match name {
            "_version" | "_lsn" | "_seq" | "_xid" => *kind == DataType::Int64,
            "_schema" => *kind == DataType::Int32,
            "_valid_from" | "_deleted_at" => matches!(
                kind,
                DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some(zone))
                    if zone.as_ref() == "UTC" || zone.as_ref() == "+00:00"
            ),
            "_changed" | "_unknown" => matches!(kind, DataType::List(_)),
            "_raw" => matches!(kind, DataType::Map(..)),
            _ => matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
        };
        if !fits {
            return Err(("columns", format!("{name} is {kind}")));
        }
    }
    Ok(())
}

fn batches(body: Vec<u8>) -> Result<Vec<RecordBatch>, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(body))
        .and_then(|builder| builder.with_batch_size(4096).build())
        .map_err(|error| error.to_string())?;
    reader.collect::<Result<_, _>>().map_err(|error| error.to_string())
}

fn entry(add: &Value, commit: u64, moved: bool) -> Option<Entry> {
    Some(Entry {
        path: add["path"].as_str()?.to_owned(),
        table: add["table"].as_str()?.to_owned(),
        schema: add["schema"].as_i64()?,
        rows: add["rows"].as_i64()?,
        bytes: add["bytes"].as_u64()?,
        sha256: add["sha256"].as_str()?.to_owned(),
        lsn: [lsn(&add["lsn"][0])?, lsn(&add["lsn"][1])?],
        valid_from: [moment(&add["valid_from"][0])?, moment(&add["valid_from"][1])?],
        commit,
        moved,
    })
}

/// The elements of an array, none where there is no array.
fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn moment(value: &Value) -> Option<DateTime<Utc>> {
    Some(DateTime::parse_from_rfc3339(value.as_str()?).ok()?.to_utc())
}

/// A position as the log writes it: two hexadecimal halves. Of an interval, its end.
pub(crate) fn lsn(value: &Value) -> Option<u64> {
    let value = value.as_array().and_then(|bounds| bounds.last()).unwrap_or(value);
    let (high, low) = value.as_str()?.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}

/// Bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
