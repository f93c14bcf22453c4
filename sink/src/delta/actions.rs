//! The actions of a Delta commit, one JSON object a line (protocol of Delta Lake, "Actions").

use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use serde_json::{Map, Value, json};

use crate::log::{Add, Commit, ContentHash};
use crate::timestamp::Timestamp;

/// A table's columns, over all its schema versions: they only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Columns(Vec<(String, Value)>);

impl Columns {
    pub(super) fn of(schemas: impl IntoIterator<Item = SchemaRef>) -> Self {
        let mut columns: Vec<(String, Value)> = Vec::new();
        for schema in schemas {
            for field in schema.fields() {
                if !columns.iter().any(|(name, _)| name == field.name()) {
                    columns.push((field.name().clone(), type_of(field.data_type())));
                }
            }
        }
        Self(columns)
    }

    /// Times without a zone are a feature that readers have to know.
    pub(super) fn needs_features(&self) -> bool {
        self.0.iter().any(|(_, kind)| kind.to_string().contains("timestamp_ntz"))
    }

    fn schema_string(&self) -> String {
        let field =
            |name: &str, kind: &Value| json!({"name": name, "type": kind, "nullable": true, "metadata": {}});
        let mut fields: Vec<Value> = self.0.iter().map(|(name, kind)| field(name, kind)).collect();
        fields.push(field("_date", &json!("date")));
        json!({"type": "struct", "fields": fields}).to_string()
    }
}

/// A type as Delta's schema has it.
fn type_of(kind: &DataType) -> Value {
    let element = |field: &Field| type_of(field.data_type());
    match kind {
        DataType::Boolean => json!("boolean"),
        DataType::Int16 => json!("short"),
        DataType::Int32 => json!("integer"),
        DataType::Int64 => json!("long"),
        DataType::Float32 => json!("float"),
        DataType::Float64 => json!("double"),
        DataType::Binary => json!("binary"),
        DataType::Date32 => json!("date"),
        DataType::Timestamp(TimeUnit::Microsecond, None) => json!("timestamp_ntz"),
        DataType::Timestamp(..) => json!("timestamp"),
        DataType::Decimal128(precision, scale) => json!(format!("decimal({precision},{scale})")),
        DataType::List(field) => {
            json!({"type": "array", "elementType": element(field), "containsNull": true})
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                let mut types = fields.iter().map(|field| element(field));
                json!({"type": "map", "keyType": types.next(), "valueType": types.next(), "valueContainsNull": true})
            }
            _ => json!("string"),
        },
        // Facts have no other types but text.
        _ => json!("string"),
    }
}

/// What one commit says of one table.
#[derive(Debug, Default)]
pub(super) struct Commitment<'a> {
    /// Files below the table's directory.
    pub(super) add: Vec<(&'a str, &'a Add)>,
    pub(super) remove: Vec<&'a str>,
    /// Facts came; false where they only moved into other files.
    pub(super) data_change: bool,
    /// The columns, where they are new.
    pub(super) columns: Option<&'a Columns>,
    /// The protocol has to be told.
    pub(super) upgrade: bool,
    /// The schema version up to which columns are told.
    pub(super) schema: i32,
}

impl Commitment<'_> {
    /// The commit's bytes: the same, whenever and by whomever they are made.
    pub(super) fn to_bytes(&self, commit: &Commit, history: &str, table: &str) -> Vec<u8> {
        let at = commit.at.0 / 1000;
        let mut lines = vec![json!({"commitInfo": {
            "timestamp": at, "operation": if self.data_change { "WRITE" } else { "OPTIMIZE" },
            "engineInfo": "bygone", "bygone": {"seq": commit.seq, "schema": self.schema}}})];
        if self.upgrade {
            let needs_features = self.columns.is_some_and(Columns::needs_features);
            lines.push(if needs_features {
                json!({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["timestampNtz"],
                    "writerFeatures": ["timestampNtz", "appendOnly", "invariants"]}})
            } else {
                json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}})
            });
        }
        if let Some(columns) = self.columns {
            lines.push(json!({"metaData": {
                "id": uuid_of(&format!("{history} {table}")), "name": table, "format": {"provider": "parquet", "options": {}},
                "schemaString": columns.schema_string(), "partitionColumns": ["_date"],
                // A foreign VACUUM would take away files that the log still names [37].
                "configuration": {"delta.appendOnly": "true", "delta.enableExpiredLogCleanup": "false",
                    "delta.deletedFileRetentionDuration": "interval 36500 days", "delta.logRetentionDuration": "interval 36500 days"},
                "createdTime": at}}));
        }
        lines.push(json!({"txn": {"appId": app_id(history), "version": commit.seq, "lastUpdated": at}}));
        for file in &self.remove {
            lines.push(
                json!({"remove": {"path": file, "deletionTimestamp": at, "dataChange": self.data_change,
                "extendedFileMetadata": false}}),
            );
        }
        for (file, add) in &self.add {
            let mut partition = Map::new();
            partition.insert("_date".to_owned(), date_of(file).into());
            let stats = statistics(add);
            lines.push(json!({"add": {"path": file, "partitionValues": partition, "size": add.bytes, "modificationTime": at,
                "dataChange": self.data_change, "stats": stats.to_string()}}));
        }
        let mut text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        // The last line ends the file.
        text.truncate(text.trim_end().len());
        text.push('\n');
        text.into_bytes()
    }
}

/// What the log knows of a file's facts: where they lie in the WAL and in time.
///
/// Delta's statistics hold milliseconds, so that a time is rounded away from the values between the two.
fn statistics(add: &Add) -> Value {
    const STEP: i64 = 1000;
    let [first, last] = add.lsn.map(bygone_replication::Lsn::as_i64);
    let [earliest, latest] = add.valid_from.map(|at| at.0);
    let down = earliest.div_euclid(STEP).saturating_mul(STEP);
    let up = latest.div_euclid(STEP).saturating_add(1).saturating_mul(STEP);
    let (mut min, mut max) = (Map::new(), Map::new());
    // The names of transactions' columns have no underscore.
    let (lsn, time) = if add.schema == 0 { ("lsn", "valid_from") } else { ("_lsn", "_valid_from") };
    if first >= 0 && first <= last {
        min.insert(lsn.to_owned(), first.into());
        max.insert(lsn.to_owned(), last.into());
    }
    // Years of more than four digits are written in a way that not every reader takes.
    if (0..FAR).contains(&down) && up < FAR {
        min.insert(time.to_owned(), Timestamp(down).to_string().into());
        max.insert(time.to_owned(), Timestamp(up).to_string().into());
    }
    json!({"numRecords": add.rows, "minValues": min, "maxValues": max, "nullCount": {}})
}

/// The first moment of the year 10000.
const FAR: i64 = 253_402_300_800_000_000;

fn app_id(history: &str) -> String {
    format!("bygone/{history}")
}

/// A UUID made of a hash.
fn uuid_of(text: &str) -> String {
    let hash = ContentHash::of(text.as_bytes()).to_string();
    let part = |from: usize, to: usize| hash.get(from..to).unwrap_or_default().to_owned();
    format!("{}-{}-8{}-8{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
}

/// The day in `_date=2026-11-23/….parquet`.
fn date_of(file: &str) -> &str {
    file.strip_prefix("_date=").and_then(|rest| rest.split('/').next()).unwrap_or_default()
}

/// The Delta table's directory, and the file below it.
pub(super) fn within(path: &str) -> Option<(&str, &str)> {
    let at = path.find("/_date=")?;
    Some((path.get(..at)?, path.get(at + 1..)?))
}

pub(super) fn commit_path(root: &str, version: u64) -> String {
    format!("{root}/_delta_log/{version:020}.json")
}

/// The table's directory and the version in a Delta commit's path.
pub(super) fn version_of(path: &str) -> Option<(&str, u64)> {
    let (root, name) = path.split_once("/_delta_log/")?;
    let digits = name.strip_suffix(".json")?;
    (digits.len() == 20).then_some((root, digits.parse().ok()?))
}

/// The log's commit that a Delta commit shows, and the schema version of its columns; none where it is not of this history.
pub(super) fn read_back(bytes: &[u8], history: &str) -> Option<(u64, i32)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (mut seq, mut schema) = (None, None);
    for line in text.lines() {
        let action: Value = serde_json::from_str(line).ok()?;
        let at = |pointer: &str| action.pointer(pointer);
        if at("/txn/appId").and_then(Value::as_str) == Some(app_id(history).as_str()) {
            seq = at("/txn/version").and_then(Value::as_u64);
        }
        schema = at("/commitInfo/bygone/schema").and_then(Value::as_i64).or(schema);
    }
    Some((seq?, i32::try_from(schema?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_where_the_table_ends() {
        let path = "tables/public.orders/_date=2026-11-23/00000000000000000042-000.parquet";
        assert_eq!(
            within(path),
            Some(("tables/public.orders", "_date=2026-11-23/00000000000000000042-000.parquet"))
        );
        assert_eq!(date_of("_date=2026-11-23/x.parquet"), "2026-11-23");
        assert_eq!(version_of(&commit_path("tables/public.t", 7)), Some(("tables/public.t", 7)));
        for other in ["tables/t/_delta_log/_last_checkpoint", "tables/t/_delta_log/7.json", path] {
            assert_eq!(version_of(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_another_history_is_not() {
        let commit = Commit::from_bytes(crate::log::tests_support::EXAMPLE.as_bytes(), 42).unwrap();
        let own = Commitment { schema: 3, data_change: true, ..Commitment::default() };
        let bytes = own.to_bytes(&commit, "h", "public.orders");
        assert_eq!(read_back(&bytes, "h"), Some((42, 3)));
        assert_eq!(read_back(&bytes, "other"), None);
        assert_eq!(bytes, own.to_bytes(&commit, "h", "public.orders"));
    }
}
