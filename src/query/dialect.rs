//! How engines spell what the views of a history need.

use bygone_replication::pgoutput::Cell;
use bygone_sink::store::Location;
use bygone_sink::timestamp::Timestamp;
use bygone_sink::value::{self, Field, Kind, RowBuilder, Status};

use super::arguments::Engine;
use super::value::{fields, moment, text};
use crate::error::{Error, Result};
use bygone_sink::schema::SYSTEM_COLUMNS;

/// An engine's SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    DuckDb,
    Spark,
}

impl Dialect {
    pub(super) fn of(engine: Engine) -> Result<Self> {
        match engine {
            Engine::Duckdb => Ok(Self::DuckDb),
            Engine::Spark => Ok(Self::Spark),
            Engine::Postgres => {
                Err(Error::other("what stands in Postgres stands on its fact tables, not on the files"))
            }
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::DuckDb => "duckdb",
            Self::Spark => "spark",
        }
    }

    /// What has to be there before a bucket can be read.
    pub(super) const fn bucket_hint(self, location: &Location) -> &'static str {
        match (self, location) {
            (_, Location::Local(_)) => "",
            (Self::DuckDb, Location::Azure { .. }) => {
                "-- The files are in a container: install azure; load azure; create secret (type azure, provider credential_chain, account_name '…');\n"
            }
            (Self::Spark, Location::Azure { .. }) => {
                "-- The files are in a container: Spark needs hadoop-azure and its credentials.\n"
            }
            (Self::DuckDb, _) => {
                "-- The files are in a bucket: install httpfs; load httpfs; create secret (type s3, provider credential_chain);\n"
            }
            (Self::Spark, _) => "-- The files are in a bucket: Spark needs hadoop-aws and its credentials.\n",
        }
    }

    pub(super) fn identifier(self, name: &str) -> String {
        match self {
            Self::DuckDb => format!("\"{}\"", name.replace('"', "\"\"")),
            Self::Spark => format!("`{}`", name.replace('`', "``")),
        }
    }

    pub(super) fn string(self, text: &str) -> String {
        match self {
            Self::DuckDb => format!("'{}'", text.replace('\'', "''")),
            Self::Spark => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
        }
    }

    /// Where a file is, for the engine.
    pub(super) fn address(self, location: &Location, path: &str) -> String {
        match location {
            Location::Local(root) => {
                let whole = format!("{}/{path}", root.display());
                match self {
                    Self::DuckDb => whole,
                    // A path is a pattern there.
                    Self::Spark => {
                        let special = |c: char| matches!(c, '{' | '}' | '[' | ']' | '*' | '?' | '\\' | ',');
                        whole.chars().fold(String::new(), |mut path, c| {
                            if special(c) {
                                path.push('\\');
                            }
                            path.push(c);
                            path
                        })
                    }
                }
            }
            Location::S3 { .. } if self == Self::Spark => {
                format!("{location}/{path}").replacen("s3:", "s3a:", 1)
            }
            // Spark names the account as well, which the address of a history does not.
            Location::Azure { container, prefix } if self == Self::Spark => {
                let account = std::env::var("AZURE_STORAGE_ACCOUNT_NAME")
                    .or_else(|_| std::env::var("AZURE_STORAGE_ACCOUNT"))
                    .unwrap_or_else(|_| "ACCOUNT".to_owned());
                let slash = if prefix.is_empty() { "" } else { "/" };
                format!("abfss://{container}@{account}.dfs.core.windows.net/{prefix}{slash}{path}")
            }
            // As it is written.
            other => format!("{other}/{path}"),
        }
    }

    pub(super) const fn create_view(self) -> &'static str {
        match self {
            Self::DuckDb => "create or replace view",
            Self::Spark => "create or replace temporary view",
        }
    }

    /// What has to come first, and what to select from, to read files.
    pub(super) fn files(self, view: &str, files: &[String]) -> (String, String) {
        match self {
            Self::DuckDb => {
                let list: Vec<String> = files.iter().map(|file| self.string(file)).collect();
                let list = list.join(",\n    ");
                // The directory _date=… is the log's business.
                (
                    String::new(),
                    format!(
                        "read_parquet([\n    {list}\n  ], union_by_name = true, hive_partitioning = false)"
                    ),
                )
            }
            Self::Spark => self.parquet_view(view, files, "/_date=", true),
        }
    }

    /// The same for files of slabs, with the columns that their directories stand for.
    pub(super) fn slab_files(self, view: &str, files: &[String]) -> (String, String) {
        match self {
            Self::DuckDb => {
                let list: Vec<String> = files.iter().map(|file| self.string(file)).collect();
                let list = list.join(",\n    ");
                let types = "{'_slab_from': bigint, '_slab_to': bigint}";
                let source = format!(
                    "read_parquet([\n    {list}\n  ], hive_partitioning = true, hive_types = {types})"
                );
                (String::new(), source)
            }
            Self::Spark => self.parquet_view(view, files, "/_slab_from=", false),
        }
    }

    /// Spark's view over files, which share what comes before `fork`: one path that stands for several.
    fn parquet_view(self, view: &str, files: &[String], fork: &str, merge: bool) -> (String, String) {
        let common =
            files.first().and_then(|file| file.rfind(fork).and_then(|at| file.get(..=at))).unwrap_or("");
        let rest: Vec<&str> = files.iter().map(|file| file.strip_prefix(common).unwrap_or(file)).collect();
        let path = match rest.as_slice() {
            [one] => format!("{common}{one}"),
            several => format!("{common}{{{}}}", several.join(",")),
        };
        let base = self.string(common);
        let sql = format!(
            "create or replace temporary view {view} using parquet\noptions (path {}, basePath {base}, mergeSchema '{merge}');\n\n",
            self.string(&path)
        );
        (sql, view.to_owned())
    }

    /// A moment in microseconds since the Unix epoch.
    pub(super) fn micros(self, moment: &str) -> String {
        match self {
            Self::DuckDb => format!("epoch_us({moment})"),
            Self::Spark => format!("unix_micros({moment})"),
        }
    }

    /// A relation with the system columns and without rows, for a table without facts.
    pub(super) fn nothing(self) -> String {
        let columns: Vec<String> = SYSTEM_COLUMNS
            .iter()
            .map(|name| {
                let kind = match *name {
                    "_version" | "_lsn" | "_seq" | "_xid" => Kind::Int64,
                    "_schema" => Kind::Int32,
                    "_valid_from" | "_deleted_at" => Kind::Timestamptz,
                    "_changed" | "_unknown" => Kind::List(Box::new(Kind::Text)),
                    _ => Kind::Text,
                };
                let null = match (*name, self) {
                    ("_raw", Self::DuckDb) => "cast(null as map(varchar, varchar))".to_owned(),
                    ("_raw", Self::Spark) => "cast(null as map<string, string>)".to_owned(),
                    _ => self.cast("null", &kind),
                };
                format!("{null} as {name}")
            })
            .collect();
        format!("(select {}) where false", columns.join(", "))
    }

    pub(super) fn type_name(self, kind: &Kind) -> String {
        let name = match (kind, self) {
            (Kind::Bool, _) => "boolean",
            (Kind::Int16, _) => "smallint",
            (Kind::Int32, _) => "int",
            (Kind::Int64 | Kind::Oid, _) => "bigint",
            (Kind::Float32, _) => "float",
            (Kind::Float64, _) => "double",
            (Kind::Json | Kind::Jsonb, Self::DuckDb) => "json",
            (Kind::Text | Kind::NumericText | Kind::Printed(_) | Kind::Other | Kind::Uuid, Self::DuckDb) => {
                "varchar"
            }
            (
                Kind::Text
                | Kind::NumericText
                | Kind::Printed(_)
                | Kind::Other
                | Kind::Uuid
                | Kind::Json
                | Kind::Jsonb,
                Self::Spark,
            ) => "string",
            (Kind::Bytes, Self::DuckDb) => "blob",
            (Kind::Bytes, Self::Spark) => "binary",
            (Kind::Date, _) => "date",
            (Kind::Timestamp, Self::DuckDb) => "timestamp",
            (Kind::Timestamp, Self::Spark) => "timestamp_ntz",
            (Kind::Timestamptz, Self::DuckDb) => "timestamptz",
            (Kind::Timestamptz, Self::Spark) => "timestamp",
            (Kind::Decimal { precision, scale }, _) => return format!("decimal({precision}, {scale})"),
            (Kind::List(element), Self::DuckDb) => return format!("{}[]", self.type_name(element)),
            (Kind::List(element), Self::Spark) => return format!("array<{}>", self.type_name(element)),
        };
        name.to_owned()
    }

    pub(super) fn cast(self, expression: &str, kind: &Kind) -> String {
        format!("cast({expression} as {})", self.type_name(kind))
    }

    /// The same, and null where the value is none of the kind.
    pub(super) fn try_cast(self, expression: &str, kind: &Kind) -> String {
        format!("try_cast({expression} as {})", self.type_name(kind))
    }

    /// A value of one kind as another, as PostgreSQL has it where it changes a column's type and rewrites nothing; null where it is none
    /// of that kind.
    pub(super) fn convert(self, expression: &str, from: &Kind, to: &Kind) -> String {
        match (from, to, self) {
            (Kind::Timestamp, Kind::Timestamptz, Self::DuckDb)
            | (Kind::Timestamptz, Kind::Timestamp, Self::DuckDb) => {
                format!("({expression} at time zone 'UTC')")
            }
            // Spark's casts are in the zone of the session.
            (Kind::Timestamp, Kind::Timestamptz, Self::Spark) => {
                format!("cast(concat(cast({expression} as string), 'Z') as timestamp)")
            }
            (Kind::Timestamptz, Kind::Timestamp, Self::Spark) => format!(
                "timestampadd(microsecond, unix_micros({expression}), timestamp_ntz'1970-01-01 00:00:00')"
            ),
            (Kind::Int32, Kind::Oid, _) => {
                format!("case when {expression} < 0 then {expression} + 4294967296 else {expression} end")
            }
            (Kind::Oid, Kind::Int32, _) => {
                let signed = format!(
                    "case when {expression} > 2147483647 then {expression} - 4294967296 else {expression} end"
                );
                self.cast(&signed, to)
            }
            _ => self.try_cast(expression, to),
        }
    }

    /// The text of a `cidr` as an `inet` prints it, and that of an `inet` as it is.
    pub(super) fn host(self, expression: &str) -> String {
        let found = match self {
            Self::DuckDb => r"\1\2",
            Self::Spark => "$1$2",
        };
        format!("regexp_replace({expression}, {}, {})", self.string(value::HOST), self.string(found))
    }

    pub(super) fn instant(self, at: Timestamp) -> String {
        self.cast(&self.string(&moment(at)), &Kind::Timestamptz)
    }

    /// The parameter of a table function, as a moment.
    pub(super) fn parameter(self, name: &str) -> String {
        match self {
            Self::DuckDb => format!("cast({name} as timestamptz)"),
            Self::Spark => name.to_owned(),
        }
    }

    /// An expression that fails with a sentence, of the type of a moment.
    pub(super) fn error(self, text: &str) -> String {
        match self {
            Self::DuckDb => format!("cast(error({}) as timestamptz)", self.string(text)),
            Self::Spark => format!("cast(raise_error({}) as timestamp)", self.string(text)),
        }
    }

    /// A value that the file's type cannot hold and the engine's can, out of `_raw`.
    pub(super) fn raw(self, physical: &str, kind: &Kind) -> Option<String> {
        match self {
            Self::DuckDb => Some(self.try_cast(&format!("_raw[{}]", self.string(physical)), kind)),
            // Spark knows no infinite dates.
            Self::Spark => None,
        }
    }

    pub(super) fn table_function(self, name: &str, parameter: &str, query: &str) -> String {
        match self {
            Self::DuckDb => format!("create or replace macro {name}({parameter}) as table\n{query};"),
            Self::Spark => {
                format!(
                    "create or replace temporary function {name}({parameter} timestamp) returns table return\n{query};"
                )
            }
        }
    }

    /// A value given as Postgres' text; none where it cannot be written.
    pub(super) fn literal(self, kind: &Kind, postgres: &str) -> Option<String> {
        let mut row = RowBuilder::default();
        row.start(1);
        value::read(kind, Cell::Text(postgres.as_bytes()), &mut row).ok()?;
        let field = fields(row.bytes(), std::slice::from_ref(kind)).ok()?.first().copied()?;
        self.value(kind, field)
    }

    fn value(self, kind: &Kind, field: Field<'_>) -> Option<String> {
        let known = text(kind, field).ok()?;
        let cast = |text: &str| self.cast(&self.string(text), kind);
        Some(match (kind, field.status) {
            (_, Status::Null | Status::Unknown) => return None,
            (Kind::Date | Kind::Timestamp | Kind::Timestamptz, Status::Raw) if self == Self::DuckDb => {
                cast(&known)
            }
            (_, Status::Raw) => return None,
            (Kind::Bool, _) => (if known == "t" { "true" } else { "false" }).to_owned(),
            (Kind::Bytes, _) => {
                let digits = known.strip_prefix("\\x").unwrap_or(&known);
                format!("unhex({})", self.string(digits))
            }
            (Kind::List(element), _) => {
                let items: Option<Vec<String>> = field
                    .elements(element)
                    .map(|item| match item.ok()? {
                        None => Some("null".to_owned()),
                        Some(item) => self.value(element, item),
                    })
                    .collect();
                let items = items?.join(", ");
                match self {
                    Self::DuckDb => self.cast(&format!("[{items}]"), kind),
                    Self::Spark => self.cast(&format!("array({items})"), kind),
                }
            }
            _ => cast(&known),
        })
    }
}
