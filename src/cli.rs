//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use bygone_sink::verify::Expectation;
use clap::{Args, Parser, Subcommand};

use crate::capture::ColumnRules;
use crate::error::Error;

/// Keeps every version of every row of your PostgreSQL database, and lets you ask what was true when.
#[derive(Debug, Parser)]
#[command(name = "bygone", version = env!("BYGONE_VERSION"), max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Log more: -v for each commit, -vv for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Log only warnings and errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Form of log lines: text for people, or one JSON object per line.
    #[arg(long, global = true, env = "BYGONE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line: timestamp, level, fields.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Capture a database: copy its tables once, then follow every change.
    Run(Box<Run>),
    /// Say what would go wrong with a capture, and the exact fix for each. Changes nothing.
    Doctor(Box<Doctor>),
    /// Say where a capture stands: position, lag, WAL held on the source, gaps. Exit code 0: healthy, 1: not.
    Status(Status),
    /// Stop capturing for good: remove the replication slot and the publications. The history stays.
    Detach(Detach),
    /// Install optional triggers in the source that make the history more exact (ddl) or name the actor (context).
    Install(Install),
    /// Remove everything that install put into the source.
    Uninstall(Uninstall),
    /// Print the hash of a value, to look it up in a hashed column.
    Hash(Hash),
    /// Check that a history is whole and unaltered: recompute the chain of commits and the hash of every file.
    Verify(Verify),
    /// Prove that the history holds what the source holds: compare every row at one position of the WAL.
    Reconcile(Box<Reconcile>),
    /// Merge small files into large ones and delete merged files after their grace period. bygone run does this in the background.
    Compact(Compact),
    /// Make the Delta Lake view of a history, or bring it up to date. bygone run does this in the background.
    Delta(Delta),
    /// Fill append-only history tables in a PostgreSQL database from a history. bygone run --facts does this as it goes.
    BackfillFacts(BackfillFacts),
    /// Make a history of files from fact tables, or bring it up to date with them.
    BackfillHistory(BackfillHistory),
    /// Check a configuration file, or print the resulting settings.
    Config(Config),
    /// Print the completions for a shell.
    Completions(Completions),
    /// Write the manual pages into a directory.
    Man(Man),
    /// See it all at work on a throw-away database.
    Demo(Demo),
    #[command(flatten)]
    Query(crate::query::arguments::Query),
}

/// `bygone demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Where to put the history. It stays, the database does not. Default: a temporary directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
}

/// Which history to use.
#[derive(Clone, Debug, Args)]
pub(crate) struct HistoryArgument {
    /// Where the history is kept: a directory, file://…, s3://bucket/prefix, or az://container/prefix.
    #[arg(long, env = "BYGONE_HISTORY", value_name = "URL")]
    pub(crate) history: String,
}

/// Which history to read.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReadArgument {
    /// Where the history is kept: a directory, file://…, s3://bucket/prefix, az://container/prefix, or postgres://… for fact tables.
    #[arg(long, env = "BYGONE_HISTORY", value_name = "URL", hide_env_values = true)]
    pub(crate) history: String,
    /// The schema of fact tables.
    #[arg(long, env = "BYGONE_FACTS_SCHEMA", default_value = bygone_sink::fact_tables::DEFAULT_SCHEMA, value_name = "NAME")]
    pub(crate) facts_schema: String,
}

/// `bygone run`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  bygone run --source postgres://app@db/shop --history ./history
  bygone run --source 'host=db dbname=shop user=app' --history s3://archive/shop --table 'public.*'
  bygone run --source postgres://app@db/shop --history ./history --until-current
  bygone run --source postgres://app@db/shop --facts postgres://audit@archive/past
  bygone run --config bygone.toml shop billing

The source needs wal_level = logical and a role with LOGIN, REPLICATION and SELECT on the tables; bygone makes a slot and two
publications there, named after --name, and `bygone detach` removes them. It never writes to a table.")]
pub(crate) struct Run {
    /// With --config: the captures of the file to run. Default: all.
    #[arg(value_name = "CAPTURE")]
    pub(crate) captures: Vec<String>,
    /// Read settings from this file, where neither a flag nor the environment gives them. See docs/configuration.md.
    #[arg(long, env = "BYGONE_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The database to capture: a postgres:// URL or key=value string, as psql takes them. Users of this machine can see a password
    /// that is given here: give it in the environment, a password file, or by --password-command.
    #[arg(long, env = "BYGONE_SOURCE", value_name = "URL", hide_env_values = true)]
    pub(crate) source: String,
    /// Where the history is kept: a directory, file://…, s3://bucket/prefix, or az://container/prefix. With --facts it may be omitted: the
    /// facts are then kept only as rows.
    #[arg(long, env = "BYGONE_HISTORY", value_name = "URL", required_unless_present_any = ["facts", "config"])]
    pub(crate) history: Option<String>,
    #[command(flatten)]
    pub(crate) facts: FactsArgument,
    #[command(flatten)]
    pub(crate) captured: Captured,
    /// What to do when changes are lost for good: the slot is gone or invalid, or publications were altered.
    #[arg(long, env = "BYGONE_ON_GAP", value_enum, default_value_t = OnGap::Stop)]
    pub(crate) on_gap: OnGap,
    /// Drop the slot when the source keeps more WAL for it than this, rather than let it fill the source's disk. What is lost by that is a
    /// gap, see --on-gap. Default: no limit.
    #[arg(long, env = "BYGONE_MAX_SLOT_LAG", value_name = "BYTES", value_parser = parse_bytes, conflicts_with = "slot")]
    pub(crate) max_slot_lag: Option<u64>,
    /// Continue with a source that was restored, or failed over, to a point before the end of the history. What the history holds beyond
    /// it stays, a fork is recorded, and every table is compared with the source.
    #[arg(long)]
    pub(crate) accept_fork: bool,
    /// Directory for the local cache of last versions. It can be deleted at any time. Default: $XDG_STATE_HOME/bygone/<history id>, or
    /// ~/.local/state/bygone/<history id>.
    #[arg(long, env = "BYGONE_STATE", value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Stop once everything that was committed at the start is durable in the history.
    #[arg(long)]
    pub(crate) until_current: bool,
    /// Longest time that a change waits for its commit: 200ms, 10s, 5m. A number without a unit means seconds.
    #[arg(long, env = "BYGONE_COMMIT_INTERVAL", default_value = "10s", value_parser = parse_duration)]
    pub(crate) commit_interval: Duration,
    /// How often to look in the catalog for tables and columns that were created, altered or dropped: 2s, 1m.
    #[arg(long, env = "BYGONE_CATALOG_INTERVAL", default_value = "10s", value_parser = parse_duration)]
    pub(crate) catalog_interval: Duration,
    /// Make a commit earlier once its Parquet files reach this size: 64MiB, 1GiB.
    #[arg(long, env = "BYGONE_COMMIT_SIZE", default_value = "128MiB", value_parser = parse_bytes)]
    pub(crate) commit_size: u64,
    /// Memory for buffers: at least 64MiB.
    #[arg(long, env = "BYGONE_MEMORY", default_value = "256MiB", value_parser = parse_memory)]
    pub(crate) memory: u64,
    /// Connections that copy tables at the same time during the first snapshot.
    #[arg(long, env = "BYGONE_SNAPSHOT_WORKERS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) snapshot_workers: u16,
    /// How often small files are merged in the background.
    #[arg(long, env = "BYGONE_COMPACT_INTERVAL", default_value = "5m", value_parser = parse_duration)]
    pub(crate) compact_interval: Duration,
    /// Do not maintain the Delta Lake view of the files.
    #[arg(long)]
    pub(crate) no_delta: bool,
    /// Do not merge small files in the background; bygone compact does it on demand.
    #[arg(long)]
    pub(crate) no_compact: bool,
    #[command(flatten)]
    pub(crate) merging: Merging,
    /// Serve /metrics (Prometheus), /healthz, /readyz and /status at this port of this machine alone, or at this address.
    #[arg(long, env = "BYGONE_LISTEN", value_name = "[HOST:]PORT", value_parser = crate::metrics::parse_address)]
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// /readyz says no while the history is further than this behind the source's WAL.
    #[arg(long, env = "BYGONE_READY_WITHIN", default_value = "1GiB", value_parser = parse_bytes, value_name = "BYTES")]
    pub(crate) ready_within: u64,
    /// How long the source may be silent before the connection counts as lost. Halfway it is asked for a sign of life.
    #[arg(long, env = "BYGONE_SOURCE_TIMEOUT", default_value = "5m", value_parser = parse_duration)]
    pub(crate) source_timeout: Duration,
    /// How long to repeat a request to a bucket that does not answer before bygone stops.
    #[arg(long, env = "BYGONE_STORE_TIMEOUT", default_value = "30s", value_parser = parse_duration)]
    pub(crate) store_timeout: Duration,
    /// Read and decode, but write nothing and acknowledge nothing: for measuring.
    #[arg(long, hide = true, requires = "until_current")]
    pub(crate) discard: bool,
}

/// What is captured: as `bygone run` does it, and as `bygone doctor` looks at it.
#[derive(Clone, Debug, Args)]
pub(crate) struct Captured {
    /// A shell command that prints the password for the source. It is run at each connect.
    #[arg(long, env = "BYGONE_PASSWORD_COMMAND", value_name = "COMMAND", hide_env_values = true)]
    pub(crate) password_command: Option<String>,
    /// Tables to capture: public.*, shop.order_*, "Odd".name; a leading - leaves tables out. Default: all.
    #[arg(long = "table", value_name = "PATTERN", allow_hyphen_values = true)]
    pub(crate) tables: Vec<String>,
    /// Columns to leave out: users.password, shop.*.secret. Their values are never kept; the history only says that the columns exist. Not
    /// possible for columns of a table's key.
    #[arg(long = "leave-out", env = "BYGONE_LEAVE_OUT", value_name = "TABLE.COLUMN", value_delimiter = ',')]
    pub(crate) leave_out: Vec<String>,
    /// Columns to store as a keyed hash instead of their value: users.email, shop.*.iban. Equal values have equal hashes, so changes remain
    /// visible and a known value can be searched for (see bygone hash). Not possible for columns of a table's key.
    #[arg(
        long = "hash-column",
        env = "BYGONE_HASH_COLUMN",
        value_name = "TABLE.COLUMN",
        value_delimiter = ','
    )]
    pub(crate) hash_columns: Vec<String>,
    /// File with the secret key for --hash-column: at least 16 bytes, a trailing line break not counted. Back it up: without it, hashes can
    /// neither be continued nor looked up.
    #[arg(long, env = "BYGONE_HASH_KEY_FILE", value_name = "FILE")]
    pub(crate) hash_key_file: Option<PathBuf>,
    /// Retention class of tables: public.orders=years-7, shop.*=short. If several match, the last one wins. The log records it; in a bucket the
    /// table's files carry it as the tag bygone-retention, for lifecycle rules.
    #[arg(long, env = "BYGONE_RETENTION", value_name = "TABLE=CLASS", value_delimiter = ',')]
    pub(crate) retention: Vec<String>,
    /// Do not record updates that change nothing but these columns: users.last_seen. The row's next fact has their current values.
    #[arg(long, env = "BYGONE_IGNORE_UPDATES", value_name = "TABLE.COLUMN", value_delimiter = ',')]
    pub(crate) ignore_updates: Vec<String>,
    /// Name of the capture, and of its slot and publications on the source.
    #[arg(long, env = "BYGONE_NAME", default_value = "bygone")]
    pub(crate) name: String,
    /// Read from this existing slot instead of making one. Default: a slot named after --name.
    #[arg(long)]
    pub(crate) slot: Option<String>,
    /// Read from these existing publications instead of making two.
    #[arg(long = "publication", value_name = "NAME")]
    pub(crate) publications: Vec<String>,
    /// Accept publications that leave out rows, columns or operations. The history records it.
    #[arg(long, requires = "publications")]
    pub(crate) accept_partial: bool,
}

impl Captured {
    /// The slot that is read from.
    pub(crate) fn slot(&self) -> &str {
        self.slot.as_ref().unwrap_or(&self.name)
    }

    /// # Errors
    /// Where what is said of columns makes no sense, or the key of hashes cannot be read.
    pub(crate) fn column_rules(&self) -> Result<ColumnRules, Error> {
        let key = self.hash_key_file.as_deref();
        ColumnRules::parse(&self.leave_out, &self.ignore_updates, &self.hash_columns, key)
    }
}

/// What to do where changes are lost for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OnGap {
    /// Explain, and write nothing.
    Stop,
    /// Record the gap, then compare every table with the source and write the differences as facts.
    Reconcile,
}

/// The capture of a file that a command is about.
#[derive(Debug, Args)]
pub(crate) struct OneOfFile {
    /// With --config: the capture of the file that is meant. Needed where it has several.
    #[arg(id = "captures", value_name = "CAPTURE", requires = "config")]
    pub(crate) capture: Option<String>,
    /// Read settings from this file, as bygone run does, where neither a flag nor the environment gives them.
    #[arg(long, env = "BYGONE_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// `bygone detach`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bygone detach --source postgres://app@db/shop
  bygone detach --config bygone.toml shop")]
pub(crate) struct Detach {
    #[command(flatten)]
    pub(crate) of_file: OneOfFile,
    /// The captured database.
    #[arg(long, env = "BYGONE_SOURCE", value_name = "URL", hide_env_values = true)]
    pub(crate) source: String,
    /// A shell command that prints the password for the source.
    #[arg(long, env = "BYGONE_PASSWORD_COMMAND", value_name = "COMMAND", hide_env_values = true)]
    pub(crate) password_command: Option<String>,
    /// Name of the capture.
    #[arg(long, env = "BYGONE_NAME", default_value = "bygone")]
    pub(crate) name: String,
}

/// What `bygone install` can put into the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Installed {
    /// Event triggers that send the position of each DDL command, and keep tables that lose or gain their replica identity in the
    /// right publication. Needs a superuser.
    Ddl,
    /// A small statement-level trigger that says who made a transaction: the login, the application, the client's address, and the
    /// settings bygone.actor and bygone.reason. Needs the tables' owner.
    Context,
}

/// `bygone install`.
#[derive(Debug, Args)]
pub(crate) struct Install {
    /// What to install.
    #[arg(value_enum)]
    pub(crate) what: Installed,
    /// The captured database.
    #[arg(
        long,
        env = "BYGONE_SOURCE",
        value_name = "URL",
        hide_env_values = true,
        required_unless_present = "print"
    )]
    pub(crate) source: Option<String>,
    /// Name of the capture.
    #[arg(long, env = "BYGONE_NAME", default_value = "bygone")]
    pub(crate) name: String,
    /// For context: the tables, as bygone run takes them. Default: all that can be captured.
    #[arg(long = "table", value_name = "PATTERN", allow_hyphen_values = true)]
    pub(crate) tables: Vec<String>,
    /// Print the SQL instead of running it.
    #[arg(long)]
    pub(crate) print: bool,
}

/// `bygone uninstall`.
#[derive(Debug, Args)]
pub(crate) struct Uninstall {
    /// The captured database.
    #[arg(
        long,
        env = "BYGONE_SOURCE",
        value_name = "URL",
        hide_env_values = true,
        required_unless_present = "print"
    )]
    pub(crate) source: Option<String>,
    /// Print the SQL instead of running it.
    #[arg(long)]
    pub(crate) print: bool,
}

/// `bygone doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bygone doctor --source postgres://app@db/shop
  bygone doctor --source postgres://app@db/shop --history s3://archive/shop --format json
  bygone doctor --source postgres://app@db/shop --publication theirs --slot theirs
  bygone doctor --config bygone.toml shop

Give it what bygone run is given. Each line is one check. Exit code 0: no problem, though there may be warnings. 1: bygone run would
fail, or lose something.")]
pub(crate) struct Doctor {
    /// With --config: the captures of the file to check. Default: all.
    #[arg(value_name = "CAPTURE", requires = "config")]
    pub(crate) captures: Vec<String>,
    /// Read settings from this file, as bygone run does, where neither a flag nor the environment gives them.
    #[arg(long, env = "BYGONE_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The capture of the file that this is.
    #[arg(skip)]
    pub(crate) capture: Option<String>,
    /// The database to capture.
    #[arg(long, env = "BYGONE_SOURCE", value_name = "URL", hide_env_values = true)]
    pub(crate) source: String,
    /// Where the history is, or will be: the place is checked, too.
    #[arg(long, env = "BYGONE_HISTORY", value_name = "URL")]
    pub(crate) history: Option<String>,
    #[command(flatten)]
    pub(crate) captured: Captured,
    /// Directory for the state, to check that there is room.
    #[arg(long, env = "BYGONE_STATE", value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) facts: FactsPlace,
    /// How to print the findings.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// `bygone status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bygone status --source postgres://app@db/shop --history s3://archive/shop
  bygone status --at 9464 --format json
  bygone status --config bygone.toml shop

With --history it reports what the log says, with --source what the slot says, with both how far the history is behind; with --at
what a running capture says of itself: facts per second, memory, whether it streams.
Exit code 0: healthy. 1: the slot is gone, lost or not being read, nobody answers at --at, the history is too far behind, a table
waits for its first copy, or for the comparison that settles a gap.")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) of_file: OneOfFile,
    /// The history: a directory, file://…, s3://bucket/prefix, az://container/prefix, or postgres://… for fact tables.
    #[arg(long, env = "BYGONE_HISTORY", value_name = "URL", hide_env_values = true)]
    pub(crate) history: Option<String>,
    /// With --history postgres://…: the schema of the fact tables.
    #[arg(long, env = "BYGONE_FACTS_SCHEMA", default_value = bygone_sink::fact_tables::DEFAULT_SCHEMA, value_name = "NAME")]
    pub(crate) facts_schema: String,
    /// The captured database.
    #[arg(long, env = "BYGONE_SOURCE", value_name = "URL", hide_env_values = true)]
    pub(crate) source: Option<String>,
    /// A shell command that prints the password for the source.
    #[arg(long, env = "BYGONE_PASSWORD_COMMAND", value_name = "COMMAND", hide_env_values = true)]
    pub(crate) password_command: Option<String>,
    /// Where bygone run answers (its --listen): a port of this machine, or an address.
    #[arg(long, value_name = "[HOST:]PORT", value_parser = crate::metrics::parse_address)]
    pub(crate) at: Option<std::net::SocketAddr>,
    /// Name of the capture. Needed only without --history, to find its slot.
    #[arg(long, env = "BYGONE_NAME", default_value = "bygone")]
    pub(crate) name: String,
    /// Report the capture as not healthy if it is further than this behind the source's WAL.
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes, value_name = "BYTES")]
    pub(crate) max_lag: u64,
    /// How to print the report.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// `bygone compact`.
#[derive(Debug, Args)]
#[command(after_help = "\
The facts stay the same, and readers see each exactly once at any time. bygone run may be running. Merged files are kept for --grace,
for readers that opened the history before. Under object lock they cannot be deleted and stay; that is harmless.")]
pub(crate) struct Compact {
    #[command(flatten)]
    pub(crate) history: HistoryArgument,
    /// Merge everything that can be merged, not only what pays off.
    #[arg(long)]
    pub(crate) all: bool,
    /// Print what would be merged, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) merging: Merging,
}

/// How files are merged.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Merging {
    /// Do not merge files beyond this size.
    #[arg(long, env = "BYGONE_COMPACT_SIZE", default_value = "128MiB", value_parser = parse_bytes, value_name = "BYTES")]
    pub(crate) compact_size: u64,
    /// How long merged files are kept for readers that opened the history before the merge; at most 24h.
    #[arg(long = "grace", env = "BYGONE_COMPACT_GRACE", default_value = "1h", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) grace: Duration,
    /// Do not make indexes (which say where in a large file the versions of a row are, so that `history` need not read all of it). They can
    /// be deleted at any time.
    #[arg(long, env = "BYGONE_NO_INDEX")]
    pub(crate) no_index: bool,
    /// Write a checkpoint of the log every so many commits, so that reading commands need not replay it from the beginning; after ten times
    /// as many where the last one was large (4 MiB).
    #[arg(long, env = "BYGONE_CHECKPOINT_EVERY", default_value_t = bygone_sink::checkpoint::EVERY, value_name = "COMMITS",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) checkpoint_every: u64,
    #[command(flatten)]
    pub(crate) slabbing: Slabbing,
}

/// How rows are laid out by time.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Slabbing {
    /// Do not make slabs (copies of the rows laid out by time, which keep as-of queries fast however long the history grows). They can be
    /// deleted at any time.
    #[arg(long, env = "BYGONE_NO_SLABS")]
    pub(crate) no_slabs: bool,
    /// Make a slab only once at least this many row versions of the table have been replaced or deleted since the last one.
    #[arg(long, env = "BYGONE_SLAB_ROWS", default_value_t = bygone_sink::slabs::Policy::default().least, value_name = "ROWS",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) slab_rows: u64,
}

impl Slabbing {
    /// How many rows of a table have to end before its first slab; none where there are to be no slabs.
    pub(crate) fn least(self) -> Option<u64> {
        (!self.no_slabs).then_some(self.slab_rows)
    }
}

/// Where fact tables are.
#[derive(Clone, Debug, Args)]
pub(crate) struct FactsPlace {
    /// A database for append-only history tables: the source's own, another one, or another server.
    #[arg(long, env = "BYGONE_FACTS", value_name = "URL", hide_env_values = true)]
    pub(crate) facts: Option<String>,
    /// The schema for these tables.
    #[arg(long, env = "BYGONE_FACTS_SCHEMA", default_value = bygone_sink::fact_tables::DEFAULT_SCHEMA, value_name = "NAME")]
    pub(crate) facts_schema: String,
}

impl FactsPlace {
    /// The database, if one is given. A variable that is set to nothing (`BYGONE_FACTS=${FACTS:-}`) names none.
    pub(crate) fn url(&self) -> Option<&str> {
        self.facts.as_deref().filter(|url| !url.is_empty())
    }
}

/// Fact tables in PostgreSQL.
#[derive(Clone, Debug, Args)]
pub(crate) struct FactsArgument {
    #[command(flatten)]
    pub(crate) place: FactsPlace,
    /// How to partition history tables that are created from now on.
    #[arg(long, env = "BYGONE_FACTS_PARTITION", value_enum, default_value_t = FactsPartition::None)]
    pub(crate) facts_partition: FactsPartition,
}

/// How history tables are partitioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FactsPartition {
    /// Not at all.
    None,
    /// By the month of _valid_from.
    Month,
}

/// `bygone backfill-facts`.
#[derive(Debug, Args)]
pub(crate) struct BackfillFacts {
    #[command(flatten)]
    pub(crate) history: HistoryArgument,
    #[command(flatten)]
    pub(crate) facts: FactsArgument,
    #[command(flatten)]
    pub(crate) slabbing: Slabbing,
}

/// `bygone backfill-history`.
#[derive(Debug, Args)]
pub(crate) struct BackfillHistory {
    #[command(flatten)]
    pub(crate) history: HistoryArgument,
    #[command(flatten)]
    pub(crate) facts: FactsArgument,
}

/// `bygone config`.
#[derive(Debug, Args)]
pub(crate) struct Config {
    /// The file.
    #[arg(long, env = "BYGONE_CONFIG", value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Check the file. This is the default without --print.
    #[arg(long)]
    pub(crate) check: bool,
    /// Print every setting of every capture, and where it comes from. Passwords are omitted.
    #[arg(long)]
    pub(crate) print: bool,
}

/// `bygone completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bygone completions bash > /etc/bash_completion.d/bygone
  bygone completions zsh > ~/.zfunc/_bygone
  bygone completions fish > ~/.config/fish/completions/bygone.fish")]
pub(crate) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// `bygone man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Where to write the pages, for instance /usr/local/share/man/man1.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
}

/// `bygone delta`.
#[derive(Debug, Args)]
pub(crate) struct Delta {
    #[command(flatten)]
    pub(crate) history: HistoryArgument,
}

/// `bygone reconcile`.
#[derive(Debug, Args)]
#[command(after_help = "\
Compares the rows of the source at one position with those that the history has there, made from its facts alone. `bygone run` has
to be running meanwhile, because the history must reach that position. The result is recorded in the log (bygone log shows it).
Exit code 0: no row differs. 1: some do, or the comparison failed.")]
pub(crate) struct Reconcile {
    /// Tables to compare. Default: all that are captured.
    #[arg(value_name = "TABLE")]
    pub(crate) tables: Vec<String>,
    /// The captured database.
    #[arg(long, env = "BYGONE_SOURCE", value_name = "URL", hide_env_values = true)]
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) history: HistoryArgument,
    /// File with the key for hashed columns, the same as for bygone run.
    #[arg(long, env = "BYGONE_HASH_KEY_FILE", value_name = "FILE")]
    pub(crate) hash_key_file: Option<PathBuf>,
    /// Have bygone run make facts of the differences.
    #[arg(long)]
    pub(crate) repair: bool,
    /// Do not record the result in the log.
    #[arg(long)]
    pub(crate) no_record: bool,
    /// Name at most this many differing rows per table.
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: usize,
    /// Connections that read from the source at the same time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) workers: u16,
    /// How long to wait for the history to reach the compared position.
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    pub(crate) wait: Duration,
    /// Directory for temporary copies of the compared rows. Default: the system's temporary directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// `bygone hash`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bygone find users email \"$(bygone hash --hash-key-file key ada@example.org)\" --history ./history
  bygone hash --hash-key-file key < value.txt

The value is the text that PostgreSQL prints for it: 2026-11-24 00:00:00+00, t, {1,2}.")]
pub(crate) struct Hash {
    /// The value as PostgreSQL prints it. Without it, standard input is read (a trailing line break is dropped); prefer that for secrets,
    /// since arguments are visible to other users.
    #[arg(value_name = "VALUE", allow_hyphen_values = true)]
    pub(crate) value: Option<String>,
    /// File with the key, the same as for bygone run.
    #[arg(long, env = "BYGONE_HASH_KEY_FILE", value_name = "FILE")]
    pub(crate) hash_key_file: PathBuf,
}

/// `bygone verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) history: HistoryArgument,
    /// Also fail unless this commit is still in the log, unaltered: the head that an earlier bygone verify printed. Without it, a log whose
    /// end was cut off, or that was rewritten as a whole, passes.
    #[arg(long, value_name = "SEQ:SHA256", value_parser = parse_head)]
    pub(crate) head: Option<Expectation>,
    /// How to print the findings.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// Comma-separated values; null is empty, the empty string is "".
    Csv,
}

/// `200ms`, `10s`, `5m`, `1h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let scale = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("unknown unit {unit:?}: use ms, s, m or h, as in 200ms or 10s")),
    };
    let count: u64 =
        digits.parse().map_err(|_| "expected a number with a unit, as in 200ms or 10s".to_owned())?;
    let millis = count.checked_mul(scale).filter(|millis| (1..=86_400_000).contains(millis));
    millis.map(Duration::from_millis).ok_or_else(|| "must lie between 1ms and 24h".to_owned())
}

/// `64MiB`, `1GiB`, `500MB`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(format!("unknown unit {unit:?}: use KiB, MiB or GiB, as in 64MiB")),
    };
    let count: u64 = digits.parse().map_err(|_| "expected a number with a unit, as in 64MiB".to_owned())?;
    count
        .checked_mul(scale)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "must be at least 1 byte, and less than 16 EiB".to_owned())
}

/// `42:9f86d081…`, as `bygone verify` prints it.
fn parse_head(text: &str) -> Result<Expectation, String> {
    let parse = || {
        let (seq, sha256) = text.split_once(':')?;
        Some(Expectation { seq: seq.parse().ok()?, sha256: sha256.parse().ok()? })
    };
    parse().ok_or_else(|| "expected the number of a commit and its SHA-256, as in 42:9f86d0…".to_owned())
}

/// As [`parse_bytes`], and at least 64 MiB: below that the fixed shares of `Memory` are too small to work with.
fn parse_memory(text: &str) -> Result<u64, String> {
    parse_bytes(text)?.ge(&(64 << 20)).then_some(()).ok_or_else(|| "must be at least 64MiB".to_owned())?;
    parse_bytes(text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// A command as a shell takes it apart, up to what is not its own any more; none where it has a placeholder in it.
    fn words(line: &str) -> Option<Vec<String>> {
        let (mut words, mut word, mut quote, mut any) = (Vec::new(), String::new(), None, false);
        for char in line.chars() {
            match (quote, char) {
                (None, '|' | '>' | '&' | '#' | ';') => break,
                (None, '…' | '[' | '<' | '*') => return None,
                (None, '\'' | '"') => (quote, any) = (Some(char), true),
                (Some(open), close) if open == close => quote = None,
                (None, ' ') if any || !word.is_empty() => {
                    words.push(std::mem::take(&mut word));
                    any = false;
                }
                (None, ' ') => {}
                (_, char) => word.push(char),
            }
        }
        if any || !word.is_empty() {
            words.push(word);
        }
        quote.is_none().then_some(words)
    }

    /// Why the words are no command. Both addresses may come from the environment or a file.
    fn what_is_wrong(words: &[String]) -> Option<clap::Error> {
        let error = Cli::try_parse_from(words).err().filter(clap::Error::use_stderr)?;
        let told = error.to_string();
        let mut missing = told.lines().skip(1).take_while(|line| line.starts_with("  "));
        let elsewhere = |line: &str| matches!(line.trim(), "--source <URL>" | "--history <URL>");
        let lacks = error.kind() == clap::error::ErrorKind::MissingRequiredArgument;
        (!(lacks && missing.all(elsewhere))).then_some(error)
    }

    #[test]
    fn the_commands_of_the_documentation_are_commands() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let pages = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
        let pages = pages.chain(["README.md", "CHANGELOG.md"].map(|name| root.join(name)));
        let (mut tried, mut wrong) = (0, Vec::new());
        for page in pages.filter(|path| path.extension().is_some_and(|kind| kind == "md")) {
            let text = std::fs::read_to_string(&page).unwrap().replace("\\\n", " ");
            let mut commands: Vec<String> = Vec::new();
            let mut fenced = false;
            for line in text.lines() {
                if line.starts_with("```") {
                    fenced = !fenced;
                } else if fenced {
                    let line = line.trim_start_matches("$ ");
                    commands.extend(line.starts_with("bygone ").then(|| line.to_owned()));
                } else {
                    let spans = line.split('`').skip(1).step_by(2);
                    commands.extend(spans.filter(|span| span.starts_with("bygone ")).map(str::to_owned));
                }
            }
            for command in commands {
                let Some(words) = words(&command.replace("XID", "4711")) else { continue };
                tried += 1;
                // `bygone history` in a sentence is a name.
                let is_name = |error: &clap::Error| {
                    error.kind() == clap::error::ErrorKind::MissingRequiredArgument && words.len() <= 3
                };
                let error = what_is_wrong(&words).filter(|error| !is_name(error));
                wrong.extend(error.map(|error| format!("{}: {command}: {error}", page.display())));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(tried > 80, "only {tried} commands were found");
    }

    #[test]
    fn the_examples_of_the_help_are_commands() {
        let mut tried = 0;
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples = help.lines().map(str::trim).filter(|line| line.starts_with("bygone "));
            for line in examples {
                let Some(words) = words(line) else { continue };
                tried += 1;
                if let Some(error) = what_is_wrong(&words) {
                    panic!("{line}: {error}");
                }
            }
        }
        assert!(tried > 15, "only {tried} examples were found");
    }

    #[test]
    fn durations_and_sizes_take_units() {
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        for wrong in ["", "0s", "ten", "10y", "25h", "-1s", "1.5s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("1gb"), Ok(1_000_000_000));
        for wrong in ["", "0", "MiB", "1TB", "99999999999999999999"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
        assert!(parse_memory("1MiB").is_err());
    }
}
