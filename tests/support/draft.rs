//! A history written by hand from what the oracle saw: correct as it comes, and easy to spoil.
//!
//! It exists to prove that the judges can say yes and no. Nothing here is bygone's, and bygone has no oracle.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, Int64Builder,
    ListBuilder, MapBuilder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use chrono::{DateTime, NaiveDate};
use parquet::arrow::ArrowWriter;
use postgres::Client;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::history::hex;
use super::oracle::{Audited, Oracle, quoted};

/// What a fact says; the user's values as text, arrays as JSON.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fact {
    pub(crate) id: String,
    pub(crate) entity: String,
    pub(crate) version: i64,
    pub(crate) op: String,
    pub(crate) valid_from: i64,
    pub(crate) deleted_at: Option<i64>,
    pub(crate) lsn: i64,
    pub(crate) seq: i64,
    pub(crate) xid: Option<i64>,
    pub(crate) changed: Option<Vec<String>>,
    pub(crate) context: Option<String>,
    pub(crate) unknown: Option<Vec<String>>,
    pub(crate) raw: Vec<(String, String)>,
    pub(crate) values: Vec<Option<String>>,
}

/// The facts of one table.
#[derive(Debug, Clone)]
pub(crate) struct Sheet {
    pub(crate) table: Audited,
    pub(crate) facts: Vec<Fact>,
}

impl Sheet {
    /// The position of a user's column.
    pub(crate) fn column(&self, name: &str) -> usize {
        self.table.columns.iter().position(|(known, _)| known == name).unwrap()
    }
}

/// A whole history before it is written.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) sheets: Vec<Sheet>,
    /// Commits end at these LSNs; the first is where the snapshot was taken.
    pub(crate) cuts: Vec<i64>,
}

/// A row change as the oracle wrote it down.
struct Change {
    xid: i64,
    op: String,
    before: Option<Vec<Option<String>>>,
    after: Option<Vec<Option<String>>>,
    old: Option<String>,
    new: Option<String>,
    place: i64,
    micros: i64,
}

impl Draft {
    /// Everything up to the last cut.
    pub(crate) fn of(client: &mut Client, oracle: &Oracle, cuts: &[i64]) -> Self {
        client
            .batch_execute("set timezone = 'UTC'; set datestyle = 'ISO, YMD'; set bytea_output = 'hex'")
            .unwrap();
        Oracle::catch_up(client);
        let micros = "select min(micros) from audit.ended";
        let begun: i64 = client.query_one(micros, &[]).unwrap().get(0);
        let sheets = oracle.tables.iter().map(|table| {
            let changes = changes(client, table);
            Sheet { facts: facts(table, &changes, cuts, begun), table: table.clone() }
        });
        Self { sheets: sheets.collect(), cuts: cuts.to_vec() }
    }

    /// The facts of a table.
    pub(crate) fn sheet(&mut self, table: &str) -> &mut Sheet {
        self.sheets.iter_mut().find(|sheet| sheet.table.name == table).unwrap()
    }

    /// Writes it all below `root`.
    pub(crate) fn write(&self, root: &Path) {
        fs::create_dir_all(root.join("log")).unwrap();
        fs::write(root.join("bygone.json"), json!({"format": 1, "id": "by hand"}).to_string()).unwrap();
        let mut prev = Value::Null;
        let mut from = self.cuts[0];
        for (seq, &to) in self.cuts.iter().enumerate() {
            let commit = self.commit(root, seq, (seq > 0).then_some(from), to, prev);
            let body = commit.to_string();
            fs::write(root.join(format!("log/{seq:020}.json")), &body).unwrap();
            prev = hex(&Sha256::digest(&body)).into();
            from = to;
        }
    }

    /// One commit: facts with an LSN after `from` (the snapshot where there is none), up to `to`.
    fn commit(&self, root: &Path, seq: usize, from: Option<i64>, to: i64, prev: Value) -> Value {
        let mut add = Vec::new();
        let mut transactions: BTreeMap<i64, (&Fact, BTreeMap<&str, i64>)> = BTreeMap::new();
        let mut high = 0;
        for sheet in &self.sheets {
            let mut days: BTreeMap<String, Vec<&Fact>> = BTreeMap::new();
            let within = |fact: &&Fact| {
                from.map_or(fact.op == "snapshot", |from| fact.op != "snapshot" && fact.lsn > from)
            };
            for fact in sheet.facts.iter().filter(within).filter(|fact| fact.lsn <= to) {
                days.entry(time(fact.valid_from).format("%Y-%m-%d").to_string()).or_default().push(fact);
                high = high.max(fact.valid_from);
                if fact.op != "snapshot" {
                    let (_, counts) = transactions.entry(fact.lsn).or_insert((fact, BTreeMap::new()));
                    *counts.entry(&sheet.table.name).or_default() += 1;
                }
            }
            for (day, facts) in days {
                let path = format!("tables/{}/_date={day}/{seq:020}-000.parquet", sheet.table.name);
                add.push(put(root, &path, &sheet.table.name, &batch(&sheet.table, &facts), &facts));
            }
        }
        if !transactions.is_empty() {
            let mut tables = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
            for (_, counts) in transactions.values() {
                for (table, count) in counts {
                    tables.keys().append_value(table);
                    tables.values().append_value(*count);
                }
                tables.append(true).unwrap();
            }
            let first = || transactions.values().map(|(fact, _)| fact);
            let times: TimestampMicrosecondArray = first().map(|fact| Some(fact.valid_from)).collect();
            let rows = RecordBatch::try_from_iter([
                ("lsn", Arc::new(first().map(|fact| Some(fact.lsn)).collect::<Int64Array>()) as ArrayRef),
                ("xid", Arc::new(first().map(|fact| fact.xid).collect::<Int64Array>())),
                ("valid_from", Arc::new(times.with_timezone("UTC"))),
                ("tables", Arc::new(tables.finish())),
            ])
            .unwrap();
            let path = format!("transactions/_date=2026-01-01/{seq:020}-000.parquet");
            add.push(put(root, &path, "transactions", &rows, &[]));
        }
        let events = self
            .sheets
            .iter()
            .map(|sheet| json!({"kind": "snapshot", "table": sheet.table.name, "lsn": lsn(self.cuts[0])}));
        let schemas = self.sheets.iter().map(|Sheet { table, .. }| {
            let columns = table
                .columns
                .iter()
                .map(|(name, kind)| json!({"name": name, "type": kind, "key": table.key.contains(name)}));
            json!({"table": table.name, "schema": 1, "columns": columns.collect::<Vec<_>>()})
        });
        json!({
            "format": 1, "seq": seq, "prev": prev, "at": stamp(high), "wal": {"from": lsn(from.unwrap_or(to)), "to": lsn(to)},
            "resume": lsn(to), "writer": "hand", "epoch": 0, "source": {"system_id": "1", "timeline": 1, "database": "shop"},
            "server_time": stamp(high), "high_water": stamp(high), "schemas": if from.is_none() { schemas.collect() } else { Vec::new() },
            "events": if from.is_none() { events.collect() } else { Vec::new() },
            "add": add, "remove": [],
        })
    }
}

fn changes(client: &mut Client, table: &Audited) -> Vec<Change> {
    let text = |row: &str, absent: &str| {
        let parts = table.columns.iter().map(|(name, kind)| {
            let column = format!("({row}).{}", quoted(name));
            if kind.ends_with("[]") { format!("to_jsonb({column})::text") } else { format!("{column}::text") }
        });
        let array = format!("array[{}]", parts.collect::<Vec<_>>().join(", "));
        format!("case when op <> all ('{{{absent}}}') then {array} end")
    };
    let (old, new) = (table.entity("(before)."), table.entity("(after)."));
    let sql = format!(
        "select xid::text::bigint, op, {}, {}, {old}, {new}, place, micros
         from {} join audit.ended on low = xid::text::bigint & 4294967295 order by place, n",
        text("before", "insert"),
        text("after", "delete,truncate"),
        table.changes
    );
    let rows = client.query(&sql, &[]).unwrap();
    let change = rows.iter().map(|row| Change {
        xid: row.get(0),
        op: row.get(1),
        before: row.get(2),
        after: row.get(3),
        old: row.get(4),
        new: row.get(5),
        place: row.get(6),
        micros: row.get(7),
    });
    change.collect()
}

/// Applies the changes one by one, as any writer of facts must.
fn facts(table: &Audited, changes: &[Change], cuts: &[i64], begun: i64) -> Vec<Fact> {
    let mut pen = Pen { table, facts: Vec::new(), last: HashMap::new(), alike: HashMap::new(), clock: begun };
    let cut = cuts[0];
    let mut standing: Vec<(Option<String>, Vec<Option<String>>)> = Vec::new();
    for change in changes.iter().filter(|change| change.place <= cut) {
        if let Some(gone) = &change.before {
            let position = standing.iter().position(|(_, row)| row == gone).unwrap();
            standing.remove(position);
        }
        if let Some(row) = &change.after {
            standing.push((change.new.clone(), row.clone()));
        }
    }
    for (entity, row) in standing {
        pen.write("snapshot", entity, (None, cut, begun), row, false, None);
    }
    for change in changes.iter().filter(|change| change.place > cut && change.place <= *cuts.last().unwrap())
    {
        let at = (Some(change.xid), change.place, change.micros);
        let keyed = !table.key.is_empty();
        match (&change.before, &change.after) {
            (Some(before), Some(after)) if keyed && change.old != change.new => {
                pen.write("rekey", change.old.clone(), at, before.clone(), true, None);
                let origin = change.old.as_deref();
                pen.write("rekey", change.new.clone(), at, after.clone(), false, origin);
            }
            (Some(before), after) => {
                let entity = if keyed { change.old.clone() } else { Some(pen.take(before)) };
                let row = after.as_ref().unwrap_or(before).clone();
                pen.write(&change.op, entity, at, row, after.is_none(), None);
            }
            (None, Some(after)) => pen.write(&change.op, change.new.clone(), at, after.clone(), false, None),
            (None, None) => unreachable!("a change of nothing"),
        }
    }
    pen.facts
}

struct Pen<'a> {
    table: &'a Audited,
    facts: Vec<Fact>,
    /// By entity: version and row.
    last: HashMap<String, (i64, Vec<Option<String>>)>,
    /// Entities by their row, where rows have no key.
    alike: HashMap<Vec<Option<String>>, VecDeque<String>>,
    clock: i64,
}

impl Pen<'_> {
    /// The entity that is one of the rows like this.
    fn take(&mut self, row: &Vec<Option<String>>) -> String {
        self.alike.get_mut(row).unwrap().pop_front().unwrap()
    }

    /// What a date column cannot hold.
    fn beyond(&self, row: &[Option<String>]) -> Vec<(String, String)> {
        let columns = self.table.columns.iter().zip(row);
        let infinite =
            columns.filter(|((_, kind), value)| kind == "date" && value.as_deref() == Some("infinity"));
        infinite.map(|((name, _), _)| (name.clone(), "infinity".to_owned())).collect()
    }

    fn write(
        &mut self,
        op: &str,
        entity: Option<String>,
        (xid, lsn, micros): (Option<i64>, i64, i64),
        row: Vec<Option<String>>,
        dead: bool,
        origin: Option<&str>,
    ) {
        self.clock = self.clock.max(micros);
        let seq = match self.facts.last() {
            Some(before) if before.lsn == lsn && (before.op == "snapshot") == (op == "snapshot") => {
                before.seq + 1
            }
            _ => 0,
        };
        let id = identifier(micros, lsn, seq);
        let entity = entity.unwrap_or_else(|| id.clone());
        let before = self.last.get(&entity);
        let changed = before.map(|(_, old)| {
            let differing = self.table.columns.iter().zip(old.iter().zip(&row)).filter(|(_, (a, b))| a != b);
            differing.map(|((name, _), _)| name.clone()).collect()
        });
        let version = before.map_or(0, |(version, _)| *version) + 1;
        self.last.insert(entity.clone(), (version, row.clone()));
        if self.table.key.is_empty() && !dead {
            self.alike.entry(row.clone()).or_default().push_back(entity.clone());
        }
        self.facts.push(Fact {
            id,
            entity,
            version,
            op: op.to_owned(),
            valid_from: self.clock,
            deleted_at: dead.then_some(self.clock),
            lsn,
            seq,
            xid,
            changed,
            context: origin.map(|origin| json!({"bygone": {"rekeyed_from": origin}}).to_string()),
            unknown: None,
            raw: self.beyond(&row),
            values: row,
        });
    }
}

/// A UUIDv7 of 48 bits of milliseconds, 42 of the LSN and 32 of the ordinal.
fn identifier(micros: i64, lsn: i64, seq: i64) -> String {
    let (time, place, seq) = ((micros / 1000).unsigned_abs(), lsn.unsigned_abs(), seq.unsigned_abs());
    let high = (time << 16) | 0x7000 | (place >> 30 & 0xFFF);
    let low = 0x8000_0000_0000_0000 | (place & 0x3FFF_FFFF) << 32 | seq;
    let digits = format!("{high:016x}{low:016x}");
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// Writes a file and describes it as a commit does.
fn put(root: &Path, path: &str, table: &str, batch: &RecordBatch, facts: &[&Fact]) -> Value {
    let mut body = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut body, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    let file = root.join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, &body).unwrap();
    let bound = |of: fn(&Fact) -> i64| {
        let all = || facts.iter().map(|fact| of(fact));
        [all().min().unwrap_or(0), all().max().unwrap_or(0)]
    };
    json!({
        "path": path, "table": table, "schema": 1, "rows": batch.num_rows(), "bytes": body.len(),
        "sha256": hex(&Sha256::digest(&body)), "lsn": bound(|fact| fact.lsn).map(lsn),
        "valid_from": bound(|fact| fact.valid_from).map(stamp),
    })
}

fn batch(table: &Audited, facts: &[&Fact]) -> RecordBatch {
    let text = |of: &dyn Fn(&Fact) -> Option<String>| -> ArrayRef {
        Arc::new(facts.iter().map(|fact| of(fact)).collect::<StringArray>())
    };
    let number = |of: &dyn Fn(&Fact) -> Option<i64>| -> ArrayRef {
        Arc::new(facts.iter().map(|fact| of(fact)).collect::<Int64Array>())
    };
    let moment = |of: &dyn Fn(&Fact) -> Option<i64>| -> ArrayRef {
        let times: TimestampMicrosecondArray = facts.iter().map(|fact| of(fact)).collect();
        Arc::new(times.with_timezone("UTC"))
    };
    let names = |of: &dyn Fn(&Fact) -> Option<Vec<String>>| strings(facts.iter().map(|fact| of(fact)));
    let mut raw = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for fact in facts {
        for (name, value) in &fact.raw {
            raw.keys().append_value(name);
            raw.values().append_value(value);
        }
        raw.append(!fact.raw.is_empty()).unwrap();
    }
    let schema: ArrayRef = Arc::new(Int32Array::from_iter_values(facts.iter().map(|_| 1)));
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("_id", text(&|fact| Some(fact.id.clone()))),
        ("_entity_id", text(&|fact| Some(fact.entity.clone()))),
        ("_version", number(&|fact| Some(fact.version))),
        ("_op", text(&|fact| Some(fact.op.clone()))),
        ("_valid_from", moment(&|fact| Some(fact.valid_from))),
        ("_deleted_at", moment(&|fact| fact.deleted_at)),
        ("_lsn", number(&|fact| Some(fact.lsn))),
        ("_seq", number(&|fact| Some(fact.seq))),
        ("_xid", number(&|fact| fact.xid)),
        ("_changed", names(&|fact| fact.changed.clone())),
        ("_actor", text(&|_| None)),
        ("_context", text(&|fact| fact.context.clone())),
        ("_unknown", names(&|fact| fact.unknown.clone())),
        ("_schema", schema),
        ("_raw", Arc::new(raw.finish())),
    ];
    for (position, (name, kind)) in table.columns.iter().enumerate() {
        let cells: Vec<Option<&str>> = facts.iter().map(|fact| fact.values[position].as_deref()).collect();
        columns.push((name, typed(kind, &cells)));
    }
    RecordBatch::try_from_iter(columns).unwrap()
}

fn strings(lists: impl Iterator<Item = Option<Vec<String>>>) -> ArrayRef {
    let mut builder = ListBuilder::new(StringBuilder::new());
    for list in lists {
        builder.append_option(list.map(|list| list.into_iter().map(Some)));
    }
    Arc::new(builder.finish())
}

/// A user's column in the type that its values have in Parquet. What the type cannot hold stays text.
fn typed(kind: &str, cells: &[Option<&str>]) -> ArrayRef {
    let parsed = |of: fn(&str) -> i64| cells.iter().map(move |cell| cell.map(of));
    match kind {
        "bigint" => Arc::new(parsed(|text| text.parse().unwrap()).collect::<Int64Array>()),
        "integer" => Arc::new(
            cells.iter().map(|cell| cell.map(|text| text.parse::<i32>().unwrap())).collect::<Int32Array>(),
        ),
        "double precision" => Arc::new(
            cells.iter().map(|cell| cell.map(|text| text.parse::<f64>().unwrap())).collect::<Float64Array>(),
        ),
        "numeric" => {
            let cents = |text: &str| text.replace('.', "").parse::<i128>().unwrap();
            let array: Decimal128Array = cells.iter().map(|cell| cell.map(cents)).collect();
            Arc::new(array.with_precision_and_scale(12, 2).unwrap())
        }
        "date" => {
            let days = |text: &str| {
                let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
                i32::try_from((date - NaiveDate::default()).num_days()).ok()
            };
            Arc::new(cells.iter().map(|cell| cell.and_then(days)).collect::<Date32Array>())
        }
        "timestamp with time zone" => {
            let micros = parsed(|text| {
                DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z").unwrap().timestamp_micros()
            });
            Arc::new(micros.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        }
        "bytea" => {
            let bytes = |text: &str| -> Vec<u8> {
                let digits = text.strip_prefix("\\x").unwrap();
                (0..digits.len())
                    .step_by(2)
                    .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
                    .collect()
            };
            Arc::new(cells.iter().map(|cell| cell.map(bytes)).collect::<BinaryArray>())
        }
        "text[]" => {
            let mut builder = ListBuilder::new(StringBuilder::new());
            for cell in cells {
                let list = cell.map(|text| serde_json::from_str::<Vec<Option<String>>>(text).unwrap());
                builder.append_option(list);
            }
            Arc::new(builder.finish())
        }
        _ => Arc::new(cells.iter().copied().collect::<StringArray>()),
    }
}

fn time(micros: i64) -> DateTime<chrono::Utc> {
    DateTime::from_timestamp_micros(micros).unwrap()
}

fn stamp(micros: i64) -> String {
    time(micros).to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

fn lsn(place: i64) -> String {
    format!("{:X}/{:X}", place >> 32, place & 0xFFFF_FFFF)
}
