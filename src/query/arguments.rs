//! The command line of the reading commands.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::{Format, ReadArgument};

const MOMENTS: &str = "\
A MOMENT is one of
  2026-11-24T10:00:00Z, '2026-11-24 10:00+01'   a time with its zone
  '2026-11-24 10:00', 2026-11-24                local time; a date is its first instant
  now, today, yesterday, '2 hours ago'          yesterday is 24 hours ago, today began at 00:00
  'today 09:30', 'yesterday 14:00'              local time of that day
  0/15D6B88                                     a position in the WAL, as pg_current_wal_lsn() gives it
  tx:1234                                       just after that transaction";

const KEYS: &str = "\
KEY is the primary key's value. For a key of several columns give the values in the key's order (history t 1 eu), by
name (--key id=1,region=eu), or as the JSON array that _entity_id holds.";

/// The commands that read a history. None of them needs the source, or changes the history.
#[derive(Debug, Subcommand)]
pub(crate) enum Query {
    /// The captured tables: rows, versions, and what is known about them.
    Tables(Tables),
    /// The commits of a history and the events that they record.
    Log(Log),
    /// Every version of one row: when, who, and what changed.
    History(History),
    /// A table as it was at a moment.
    AsOf(AsOf),
    /// What changed in a table between two moments.
    Diff(Diff),
    /// For each column of a row: the version that last changed it, when, and who.
    Blame(Blame),
    /// The transactions that changed captured tables, newest first.
    Transactions(Transactions),
    /// Everything that one transaction did, over all tables.
    Transaction(Transaction),
    /// Everything that an actor did, newest first.
    Who(Who),
    /// Every version in which a column held a value.
    Find(Find),
    /// Print the SQL that brings rows back as they were, or undoes a transaction; run it with --apply.
    Restore(Box<Restore>),
    /// Run SQL over the tables as of any moment; without a query, an interactive shell.
    Sql(Sql),
    /// Views and functions over the history for another engine, as SQL.
    Views(Views),
}

/// What all reading commands take.
#[derive(Debug, Args)]
pub(crate) struct Reading {
    #[command(flatten)]
    pub(crate) history: ReadArgument,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// Which row.
#[derive(Debug, Args)]
pub(crate) struct Entity {
    /// The table: orders, or public.orders.
    pub(crate) table: String,
    /// The row's key.
    #[arg(value_name = "KEY", required_unless_present = "key", allow_negative_numbers = true)]
    pub(crate) keys: Vec<String>,
    /// The row's key by column: a=1,b=2.
    #[arg(long, value_name = "COLUMN=VALUE", conflicts_with = "keys")]
    pub(crate) key: Vec<String>,
}

/// `bygone tables`.
#[derive(Debug, Args)]
pub(crate) struct Tables {
    #[command(flatten)]
    pub(crate) reading: Reading,
}

/// `bygone log`.
#[derive(Debug, Args)]
pub(crate) struct Log {
    #[command(flatten)]
    pub(crate) reading: Reading,
    /// Keep printing new commits; with --format json, one JSON object per line.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last N commits.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

/// `bygone history`.
#[derive(Debug, Args)]
#[command(after_help = KEYS)]
pub(crate) struct History {
    #[command(flatten)]
    pub(crate) entity: Entity,
    #[command(flatten)]
    pub(crate) reading: Reading,
}

/// How a table is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AsOfFormat {
    /// For people.
    Table,
    /// An array of objects.
    Json,
    /// Comma-separated values; null is empty, the empty string is "".
    Csv,
    /// A Parquet file, written to --output.
    Parquet,
}

/// `bygone as-of`.
#[derive(Debug, Args)]
#[command(after_help = format!("{MOMENTS}

--where takes columns compared with literals, joined by and, or, not and parentheses:
  total >= 10.5 and (customer in ('ann', 'bob') or note like 'urgent%') and paid is not null
Text compares by its bytes. Up to 200,000 rows come in the order of their keys, more in the order of their changes."))]
pub(crate) struct AsOf {
    /// The table: orders, or public.orders.
    pub(crate) table: String,
    /// The moment.
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true)]
    pub(crate) at: String,
    /// Only these columns: a,b.
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    pub(crate) columns: Vec<String>,
    /// Only rows for which this condition holds.
    #[arg(long = "where", value_name = "CONDITION")]
    pub(crate) condition: Option<String>,
    /// Only N rows.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Answer even where the table is not known exactly: in a gap, or when its updates and deletes cannot be seen.
    #[arg(long)]
    pub(crate) inexact: bool,
    #[command(flatten)]
    pub(crate) history: ReadArgument,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = AsOfFormat::Table)]
    pub(crate) format: AsOfFormat,
    /// Write to this file instead of standard output.
    #[arg(short, long, value_name = "FILE", required_if_eq("format", "parquet"))]
    pub(crate) output: Option<PathBuf>,
}

/// `bygone diff`.
#[derive(Debug, Args)]
#[command(after_help = MOMENTS)]
pub(crate) struct Diff {
    /// The table: orders, or public.orders.
    pub(crate) table: String,
    /// The first moment.
    #[arg(long, value_name = "MOMENT")]
    pub(crate) from: String,
    /// The second moment.
    #[arg(long, value_name = "MOMENT", default_value = "now")]
    pub(crate) to: String,
    /// Answer even where the table is not known exactly: in a gap, or when its updates and deletes cannot be seen.
    #[arg(long)]
    pub(crate) inexact: bool,
    #[command(flatten)]
    pub(crate) reading: Reading,
}

/// `bygone blame`.
#[derive(Debug, Args)]
#[command(after_help = KEYS)]
pub(crate) struct Blame {
    #[command(flatten)]
    pub(crate) entity: Entity,
    #[command(flatten)]
    pub(crate) reading: Reading,
}

/// `bygone transactions`.
#[derive(Debug, Args)]
#[command(after_help = MOMENTS)]
pub(crate) struct Transactions {
    /// Only those at or after this moment.
    #[arg(long, value_name = "MOMENT")]
    pub(crate) since: Option<String>,
    /// Only those at or before this moment.
    #[arg(long, value_name = "MOMENT")]
    pub(crate) until: Option<String>,
    /// Only those of this actor.
    #[arg(long)]
    pub(crate) actor: Option<String>,
    /// Only the last N.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
    #[command(flatten)]
    pub(crate) reading: Reading,
}

/// `bygone transaction`.
#[derive(Debug, Args)]
pub(crate) struct Transaction {
    /// The transaction id: all 64 bits, or the 32 that xmin and pg_stat_activity show.
    pub(crate) xid: i64,
    #[command(flatten)]
    pub(crate) reading: Reading,
}

/// `bygone who`.
#[derive(Debug, Args)]
pub(crate) struct Who {
    /// The actor, as recorded by the application.
    pub(crate) actor: String,
    /// Only the last N changes.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
    #[command(flatten)]
    pub(crate) reading: Reading,
}

/// `bygone find`.
#[derive(Debug, Args)]
pub(crate) struct Find {
    /// The table: orders, or public.orders.
    pub(crate) table: String,
    /// The column.
    pub(crate) column: String,
    /// The value, as Postgres prints it.
    #[arg(allow_hyphen_values = true)]
    pub(crate) value: String,
    #[command(flatten)]
    pub(crate) reading: Reading,
}

/// `bygone restore`.
#[derive(Debug, Args)]
#[command(
    group(clap::ArgGroup::new("rows").required(true).args(["keys", "key", "condition", "transaction"])),
    override_usage = "bygone restore <TABLE> <KEY>... [--at MOMENT] [OPTIONS]\n       bygone restore <TABLE> --where CONDITION --at MOMENT [OPTIONS]\n       bygone restore --transaction XID [OPTIONS]",
    after_help = format!("{KEYS}

{MOMENTS}

Without --at a row comes back as it was before its last change. --where takes what `as-of` takes, and brings back the rows
for which it held at the moment; rows that came later are left alone. --transaction undoes all that one transaction did,
unless something it changed was changed again since: then the later changes are named, and --force undoes them, too.

The SQL goes to standard output. With --apply it runs in one transaction on --source, after the rows there have been
compared with what the history last knows of them."))]
pub(crate) struct Restore {
    /// The table: orders, or public.orders.
    #[arg(required_unless_present = "transaction")]
    pub(crate) table: Option<String>,
    /// The row's key.
    #[arg(value_name = "KEY", allow_negative_numbers = true)]
    pub(crate) keys: Vec<String>,
    /// The row's key by column: a=1,b=2.
    #[arg(long, value_name = "COLUMN=VALUE", conflicts_with = "keys")]
    pub(crate) key: Vec<String>,
    /// All rows for which this held at the moment.
    #[arg(long = "where", value_name = "CONDITION", conflicts_with_all = ["keys", "key"], requires = "at")]
    pub(crate) condition: Option<String>,
    /// Undo what this transaction did.
    #[arg(long, value_name = "XID", conflicts_with_all = ["table", "key", "condition", "at"])]
    pub(crate) transaction: Option<i64>,
    /// The moment as of which rows come back.
    #[arg(long, value_name = "MOMENT")]
    pub(crate) at: Option<String>,
    /// Run the SQL on the source.
    #[arg(long, requires = "source")]
    pub(crate) apply: bool,
    /// The database to bring rows back in.
    #[arg(long, env = "BYGONE_SOURCE", value_name = "URL", hide_env_values = true)]
    pub(crate) source: Option<String>,
    /// Restore even if the row was changed again later.
    #[arg(long)]
    pub(crate) force: bool,
    /// The actor to record for this restore. Default: $USER.
    #[arg(long, env = "USER")]
    pub(crate) actor: Option<String>,
    /// How to print the SQL: as it is, or as a value of JSON or CSV.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) history: ReadArgument,
}

/// `bygone sql`.
#[derive(Debug, Args)]
#[command(after_help = format!("\
For each table T: T (its rows now), T_history (every fact, with _valid_to), and T_as_of(moment), its rows as of a moment.
`show tables` and `describe T_history` tell what there is. The SQL is DataFusion's, which is much like Postgres'.

{MOMENTS}

Examples:
  bygone sql \"select status, count(*) from orders_as_of('yesterday') group by status\"
  bygone sql \"select n.id, o.total as was, n.total as is from orders n join orders_as_of('0/15D6B88') o using (id)\"
  bygone sql --format csv < report.sql"))]
pub(crate) struct Sql {
    /// The query, or several with semicolons between them. Without it they are read from standard input.
    #[arg(allow_hyphen_values = true)]
    pub(crate) query: Option<String>,
    /// Answer even where tables are not known exactly: in a gap, or when their updates and deletes cannot be seen.
    #[arg(long)]
    pub(crate) inexact: bool,
    #[command(flatten)]
    pub(crate) reading: Reading,
}

/// An engine that `bygone views` writes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Engine {
    /// DuckDB: views and table macros.
    Duckdb,
    /// Spark SQL 4: temporary views and table functions.
    Spark,
    /// PostgreSQL: what stands on the fact tables of `bygone run --facts`, which makes it by itself.
    Postgres,
}

/// `bygone views`.
#[derive(Debug, Args)]
#[command(after_help = "\
For each table T: the view T (its rows now), the view T_history (every fact, with _valid_to), and T_as_of(t), its rows
as of a time. They name the files of the history as it is now: run this again after new commits.

Examples:
  bygone views duckdb --history ./history > views.sql
  duckdb -init views.sql -c \"from orders_as_of(timestamptz '2026-11-24 10:00+01')\"")]
pub(crate) struct Views {
    /// The engine.
    #[arg(value_enum)]
    pub(crate) engine: Engine,
    /// Only these tables.
    #[arg(long = "table", value_name = "TABLE")]
    pub(crate) tables: Vec<String>,
    /// Have the views of DuckDB and Spark answer even where tables are not known exactly: in a gap, between a rewrite and its comparison with
    /// the source, or when their updates and deletes cannot be seen.
    #[arg(long)]
    pub(crate) inexact: bool,
    /// How to print the SQL: as it is, or as a value of JSON or CSV.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) history: ReadArgument,
}
