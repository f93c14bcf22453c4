//! `bygone doctor`: what would go wrong, and the exact fix for each.

mod fact_tables;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bygone_replication::catalog::{self, CatalogError, Loaded};
use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::doctor::{self, Check, Level, Sample, WantedSlot};
use bygone_replication::pattern::Patterns;
use bygone_replication::publication::{self, Names, PublicationState};
use bygone_replication::table::{Table, TableKind, TableName};
use bygone_replication::{preflight, session, slot};
use bygone_sink::error::ErrorKind as SinkErrorKind;
use bygone_sink::history::History;
use bygone_sink::schema::{PhysicalNames, TableSchema};
use bygone_sink::store::{Location, Store, StoreOptions};
use serde::Serialize;
use tokio_postgres::Client;

use crate::capture::{self, ColumnRules, Registry, Retention};
use crate::cli::{Captured, Doctor, Format};
use crate::error::{Error, Result};
use crate::facts;
use crate::query::counted;
use crate::query::sheet::{Cell, Sheet, left};
use crate::screen::{print_wrapped, tell};

/// Measured: what a first copy makes of a byte of table, in Parquet and in state. See docs/performance.md.
const PARQUET_PER_BYTE: f64 = 0.35;
const STATE_PER_BYTE: f64 = 0.85;
/// A store's clock that is further off makes signed requests fail.
const CLOCK_SLACK_S: i64 = 60;

/// A capture as the command line has it: what is wrong with its words is no finding.
struct Plan<'a> {
    arguments: &'a Doctor,
    connect: ConnectOptions,
    patterns: Patterns,
    names: Names,
    rules: ColumnRules,
    retention: Retention,
    location: Option<Location>,
}

impl<'a> Plan<'a> {
    fn of(arguments: &'a Doctor) -> Result<Self> {
        let captured = &arguments.captured;
        let connect = ConnectOptions::parse(&arguments.source)?
            .with_application_name("bygone doctor")
            .with_password_command(captured.password_command.as_deref());
        slot::check_name(captured.slot())?;
        arguments.facts.url().map(|url| facts::options("--facts", url)).transpose()?;
        Ok(Self {
            arguments,
            connect,
            patterns: Patterns::parse(&captured.tables).map_err(CatalogError::from)?,
            names: Names::new(&captured.name)?,
            rules: captured.column_rules()?,
            retention: Retention::parse(&captured.retention)?,
            location: arguments.history.as_deref().map(Location::parse).transpose()?,
        })
    }

    fn captured(&self) -> &'a Captured {
        &self.arguments.captured
    }
}

/// A finding, and of which capture of a file.
#[derive(Serialize)]
struct Finding {
    #[serde(skip_serializing_if = "Option::is_none")]
    capture: Option<String>,
    #[serde(flatten)]
    check: Check,
}

/// Looks at everything, of each capture, and prints what was found.
pub(crate) async fn doctor(captures: &[Doctor]) -> Result<ExitCode> {
    let mut findings = Vec::new();
    for arguments in captures {
        let checks = examine(&Plan::of(arguments)?).await?;
        let of_capture = |check| Finding { capture: arguments.capture.clone(), check };
        findings.extend(checks.into_iter().map(of_capture));
    }
    let format = captures.first().map_or(Format::Table, |arguments| arguments.format);
    print(format, &findings)?;
    let worst = findings.iter().map(|finding| finding.check.level).max();
    Ok(if worst == Some(Level::Problem) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn examine(plan: &Plan<'_>) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let mut needed = None;
    match session::connect_sql(&plan.connect).await {
        Ok(sql) => needed = source(plan, &sql, &mut checks).await?,
        Err(error) => checks.push(Check::problem("connection", error.to_string())),
    }
    if let Some(location) = &plan.location {
        checks.extend(history(plan, location).await);
    }
    checks.extend(room(plan, needed));
    checks.extend(fact_tables::check(&plan.arguments.facts).await);
    Ok(checks)
}

/// The database; gives what a first copy of it takes.
async fn source(plan: &Plan<'_>, sql: &Client, checks: &mut Vec<Check>) -> Result<Option<Sample>> {
    let captured = plan.captured();
    let state = preflight::read_server(sql).await?;
    let slot = WantedSlot { name: captured.slot(), given: captured.slot.is_some() };
    checks.extend(doctor::server(sql, &state, slot).await?);
    let mut loaded = match catalog::load_tables(sql, &plan.patterns).await {
        Ok(loaded) => loaded,
        Err(error) if error.kind() == catalog::ErrorKind::Pattern => {
            checks.push(Check::problem("tables", error.to_string()));
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let oids: Vec<u32> = loaded.tables.iter().map(|table| table.oid).collect();
    let rights = catalog::table_rights(sql, &oids).await?;
    checks.extend(doctor::tables(&state.server, &loaded, &state.role, &rights));
    let own = publication::inspect(sql, &plan.names.both()).await?;
    let given = &captured.publications;
    if given.is_empty() {
        let publishing =
            doctor::publishing(sql, &plan.names, &state.server, &loaded, &state.role, &rights).await?;
        checks.extend(publishing);
        checks.extend(taken(&plan.names, &own));
    } else {
        let published = publication::inspect(sql, given).await?;
        checks.extend(doctor::published(sql, &published, given, captured.accept_partial, &loaded).await?);
        publication::restrict(&mut loaded.tables, &published);
    }
    checks.extend(doctor::cascades(sql, &loaded).await?);
    checks.extend(columns(&loaded, &own));
    checks.extend(unruly(plan, &loaded.tables));
    let sample = doctor::sample(sql, &loaded, state.server.block_size).await;
    // Without the right to read there is another finding that says so.
    let Ok(sample) = sample else { return Ok(None) };
    checks.push(first_copy(&sample));
    Ok(Some(sample))
}

/// A publication that somebody else made under the name of the capture's own.
fn taken(names: &Names, published: &PublicationState) -> Option<Check> {
    let theirs = published.get(&names.all).is_some() && published.get(&names.insert_only).is_none();
    let both = names.both().map(str::to_owned);
    let error = publication::check_user_made(published, &both, false).err().filter(|_| theirs)?;
    Some(Check::problem("publications", error.to_string()))
}

/// Settings of columns and tables that do not fit what there is.
fn unruly(plan: &Plan<'_>, tables: &[Table]) -> Vec<Check> {
    let known = Registry::default();
    let fit =
        [("columns", plan.rules.check(tables, &known)), ("retention", plan.retention.check(tables, &known))];
    let told =
        fit.into_iter().filter_map(|(check, fits)| Some(Check::problem(check, fits.err()?.to_string())));
    told.collect()
}

/// Names and types of columns. A table that is published is captured already: a column that came since is kept under another name.
fn columns(loaded: &Loaded, published: &PublicationState) -> Vec<Check> {
    let is_captured = |oid: u32| {
        let mut tables = published.publications.iter().flat_map(|publication| &publication.tables);
        tables.any(|table| table.oid == oid)
    };
    let mut checks = Vec::new();
    let mut text = Vec::new();
    for table in loaded.tables.iter().filter(|table| !matches!(table.kind, TableKind::Leaf { .. })) {
        if let Some(column) = TableSchema::clash(table).filter(|_| !is_captured(table.oid)) {
            checks.push(
                Check::problem(
                    "column_names",
                    format!("column {column} of {} has a name that bygone needs for itself", table.name),
                )
                .fix(format!("bygone run … --table '-{0}' -- or rename the column", table.name)),
            );
        }
        let name = TableName::new(table.name.schema.clone(), table.name.name.clone());
        let schema = TableSchema::new(0, name.to_string(), 1, table, table.key(), &PhysicalNames::default());
        for column in schema
            .columns
            .iter()
            .filter(|column| !column.kind.reads_binary() || !column.column.data_type.binary)
        {
            text.push(format!("{}.{} ({})", table.name, column.column.name, column.column.data_type.name));
        }
    }
    if text.is_empty() {
        checks.push(Check::ok("types", "all are read in binary form"));
    } else {
        let left = text.len().saturating_sub(5);
        text.truncate(5);
        let more = if left > 0 { format!(" and {left} more") } else { String::new() };
        checks.push(Check::warning(
            "types",
            format!(
                "the stream is sent as text, which is exact and slower, because of {}{more}",
                text.join(", ")
            ),
        ));
    }
    checks
}

fn first_copy(sample: &Sample) -> Check {
    let bytes = sample.table_bytes as f64;
    let gibibytes = |bytes: f64| {
        if bytes < 1e9 {
            format!("{:.0} MiB", bytes / 1_048_576.0)
        } else {
            format!("{:.1} GiB", bytes / 1_073_741_824.0)
        }
    };
    let time = match sample.bytes_per_second {
        Some(rate) => format!("about {:.0} s", (bytes / rate).max(1.0).ceil()),
        None => "no time".to_owned(),
    };
    Check::ok(
        "first_copy",
        format!(
            "{} of tables, about {} rows: {time} for one connection by a sample, about {} of Parquet and {} of state",
            gibibytes(bytes),
            sample.rows,
            gibibytes(bytes * PARQUET_PER_BYTE),
            gibibytes(bytes * STATE_PER_BYTE)
        ),
    )
}

/// What a bucket does for an archive in it; nothing of a directory.
async fn protection(store: &Store) -> Vec<Check> {
    const VERSIONING: &str = "store_versioning";
    const LOCK: &str = "store_object_lock";
    match store.protection().await {
        Ok(None) => Vec::new(),
        Ok(Some(protection)) => {
            let versioning = if protection.versioning {
                Check::ok(VERSIONING, "what is deleted stays as an earlier version")
            } else {
                Check::warning(VERSIONING, "off: an object that is deleted or replaced is gone").fix(
                    "aws s3api put-bucket-versioning --bucket … --versioning-configuration Status=Enabled",
                )
            };
            let lock = match (&protection.retention, protection.lock) {
                (Some(retention), _) => Check::ok(LOCK, format!("each new object is locked: {retention}")),
                (None, true) => {
                    Check::warning(LOCK, "on, without a default retention: no object is locked by itself")
                        .fix(
                            "aws s3api put-object-lock-configuration --bucket … --object-lock-configuration \
                     'ObjectLockEnabled=Enabled,Rule={DefaultRetention={Mode=COMPLIANCE,Days=365}}'",
                        )
                }
                (None, false) => Check::ok(
                    LOCK,
                    "off: who may delete objects may delete the history (for an archive under rules see docs/security.md)",
                ),
            };
            vec![versioning, lock]
        }
        Err(error) => vec![
            Check::warning(VERSIONING, format!("not known: {error}"))
                .fix("allow s3:GetBucketVersioning and s3:GetBucketObjectLockConfiguration"),
        ],
    }
}

/// The place of the history.
async fn history(plan: &Plan<'_>, location: &Location) -> Vec<Check> {
    let store = match Store::open(location, &StoreOptions::default()) {
        Ok(store) => store,
        Err(error) => return vec![Check::problem("history", error.to_string())],
    };
    let mut checks = Vec::new();
    match store.probe().await {
        Ok(skew) => {
            checks.push(Check::ok(
                "history",
                format!("{} takes objects, and puts none in another's place", store.describe()),
            ));
            match skew {
                Some(skew) if skew.abs() > CLOCK_SLACK_S => checks.push(
                    Check::warning(
                        "store_clock",
                        format!("the store's clock is {skew} s ahead of this machine's"),
                    )
                    .fix("set this machine's clock by NTP: requests are signed with its time"),
                ),
                Some(skew) => {
                    checks.push(Check::ok("store_clock", format!("{skew} s ahead of this machine's")))
                }
                None => {}
            }
        }
        Err(error) => {
            let problem = Check::problem("history", error.to_string());
            checks.push(match store.local_root() {
                Some(root) => problem.fix(format!("chown \"$USER\" {}", root.display())),
                None => problem,
            });
            return checks;
        }
    }
    checks.extend(protection(&store).await);
    match History::open(&store).await {
        Ok(history) => {
            let manifest = history.manifest();
            let message = format!(
                "a history of {:?}, named {:?}, {} commits",
                manifest.source.database,
                manifest.name,
                history.state().next_seq
            );
            checks.push(if manifest.name == plan.captured().name {
                Check::ok("history_of", message)
            } else {
                Check::problem("history_of", message).fix(format!("--name {}", manifest.name))
            });
            checks.extend(goes_on(plan, &history).await);
        }
        Err(error) if error.kind() == SinkErrorKind::NoHistory => {
            checks.push(Check::ok("history_of", "none yet: bygone run begins it"));
        }
        Err(error) => {
            checks.push(Check::problem("history_of", error.to_string()).fix("bygone verify --history …"))
        }
    }
    checks
}

/// Whether `bygone run` would go on with a history that has been begun, from this source.
async fn goes_on(plan: &Plan<'_>, history: &History) -> Option<Check> {
    const STREAM: &str = "stream";
    history.state().last_seq()?;
    Some(match capture::check_start(&plan.connect, history.manifest(), history.state()).await {
        Ok(()) => Check::ok(STREAM, "the source has everything from where the history ends"),
        // Such as a slot that bygone run is reading from.
        Err(Error::Refused(refused)) if refused.passes() => Check::ok(STREAM, refused.to_string()),
        Err(error) => Check::problem(STREAM, error.to_string()),
    })
}

/// Room on the disks that are written to.
fn room(plan: &Plan<'_>, needed: Option<Sample>) -> Vec<Check> {
    let Some(sample) = needed else { return Vec::new() };
    let bytes = sample.table_bytes as f64;
    let mut checks = Vec::new();
    let state = plan.arguments.state.clone().or_else(state_base);
    if let Some(state) = state {
        checks.extend(free("state", &state, bytes * STATE_PER_BYTE, "--state DIR"));
    }
    if let Some(Location::Local(root)) = &plan.location {
        checks.extend(free("history_room", root, bytes * PARQUET_PER_BYTE, "--history DIR"));
    }
    checks
}

fn state_base() -> Option<PathBuf> {
    let given = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    given.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state")))
}

fn free(check: &'static str, at: &Path, needed: f64, flag: &str) -> Option<Check> {
    let there = at.ancestors().find(|path| path.is_dir()).filter(|path| !path.as_os_str().is_empty());
    let found = rustix::fs::statvfs(there.unwrap_or(Path::new("."))).ok()?;
    let free = (found.f_bavail * found.f_frsize) as f64;
    let mebibytes = |bytes: f64| bytes / 1_048_576.0;
    let message = format!(
        "{}: {:.0} MiB free, about {:.0} MiB are needed at first",
        at.display(),
        mebibytes(free),
        mebibytes(needed)
    );
    Some(if free < needed * 1.2 {
        Check::problem(check, message).fix(format!("choose a place with more room: {flag}"))
    } else {
        Check::ok(check, message)
    })
}

fn print(format: Format, findings: &[Finding]) -> Result<()> {
    match format {
        Format::Json => {
            let text = serde_json::to_string_pretty(findings)
                .map_err(|error| Error::other(format!("the findings have no JSON: {error}")))?;
            tell!("{text}");
        }
        Format::Csv => print_csv(findings)?,
        Format::Table => print_lines(findings),
    }
    Ok(())
}

fn print_csv(findings: &[Finding]) -> Result<()> {
    let of_file = findings.iter().any(|finding| finding.capture.is_some());
    let mut headings = vec![left("level"), left("check"), left("message"), left("fix")];
    if of_file {
        headings.insert(0, left("capture"));
    }
    let mut sheet = Sheet::new(Format::Csv, headings)?;
    for Finding { capture, check } in findings {
        let mut cells = vec![
            Cell::Text(check.level.as_str().to_owned()),
            Cell::Text(check.check.to_owned()),
            Cell::Text(check.message.clone()),
            Cell::optional(check.fix.clone()),
        ];
        if of_file {
            cells.insert(0, Cell::optional(capture.clone()));
        }
        sheet.row(cells)?;
    }
    sheet.finish()?;
    Ok(())
}

fn print_lines(findings: &[Finding]) {
    let mut shown = None;
    for Finding { capture, check } in findings {
        if let Some(capture) = capture.as_ref().filter(|capture| shown != Some(*capture)) {
            tell!("[capture.{capture}]");
            shown = Some(capture);
        }
        print_wrapped(
            &format!("{:8} ", check.level.as_str()),
            &format!("{}: {}", check.check, check.message),
        );
        if let Some(fix) = &check.fix {
            tell!("         fix: {fix}");
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.check.level == level).count();
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    let said = [(findings.len(), "check"), (problems, "problem"), (warnings, "warning")];
    eprintln!("bygone: {}", said.map(|(count, what)| counted(count, what)).join(", "));
}
