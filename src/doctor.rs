//! `bygone doctor`: what would go wrong, and the exact fix for each.

mod facts;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bygone_replication::catalog::{self, CatalogError, Loaded};
use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::doctor::{self, Check, Level, Sample};
use bygone_replication::pattern::Patterns;
use bygone_replication::publication::{self, Names};
use bygone_replication::table::{TableKind, TableName};
use bygone_replication::{preflight, session};
use bygone_sink::error::ErrorKind as SinkErrorKind;
use bygone_sink::history::History;
use bygone_sink::schema::{PhysicalNames, TableSchema};
use bygone_sink::store::{Location, Store, StoreOptions};
use tokio_postgres::Client;

use crate::capture;
use crate::cli::{Doctor, Format};
use crate::error::{Error, Result};
use crate::query::sheet::{Cell, Sheet, left};
use crate::screen::{print_wrapped, tell};

/// Measured: what a first copy makes of a byte of table, in Parquet and in state. See docs/performance.md.
const PARQUET_PER_BYTE: f64 = 0.35;
const STATE_PER_BYTE: f64 = 0.85;
/// A store's clock that is further off makes signed requests fail.
const CLOCK_SLACK_S: i64 = 60;

/// Looks at everything, and prints what was found.
pub(crate) async fn doctor(arguments: &Doctor) -> Result<ExitCode> {
    let mut checks = Vec::new();
    // What is wrong with the words of the command line is no finding.
    let connect = ConnectOptions::parse(&arguments.source)?.with_application_name("bygone doctor");
    let patterns = Patterns::parse(&arguments.tables).map_err(CatalogError::from)?;
    let names = Names::new(&arguments.name)?;
    let location = arguments.history.as_deref().map(Location::parse).transpose()?;
    let mut needed = None;
    match session::connect_sql(&connect).await {
        Ok(sql) => needed = source(arguments, &sql, &patterns, &names, &mut checks).await?,
        Err(error) => checks.push(Check::problem("connection", error.to_string())),
    }
    if let Some(location) = &location {
        checks.extend(history(location, arguments).await);
    }
    checks.extend(facts::facts(&arguments.facts).await?);
    checks.extend(room(arguments, location.as_ref(), needed));
    print(arguments.format, &checks)?;
    let worst = checks.iter().map(|check| check.level).max();
    Ok(if worst == Some(Level::Problem) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The database; gives what a first copy of it takes.
async fn source(
    arguments: &Doctor,
    sql: &Client,
    patterns: &Patterns,
    names: &Names,
    checks: &mut Vec<Check>,
) -> Result<Option<Sample>> {
    let state = preflight::read_server(sql).await?;
    checks.extend(doctor::server(sql, &state, &arguments.name).await?);
    let loaded = match catalog::load_tables(sql, patterns).await {
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
    checks.extend(doctor::publishing(sql, names, &loaded, &state.role, &rights).await?);
    checks.extend(doctor::cascades(sql, &loaded).await?);
    checks.extend(columns(&loaded));
    let published = publication::inspect(sql, &names.both()).await?;
    if let Err(error) = publication::check_user_made(&published, &names.both().map(str::to_owned), false)
        && !published.publications.is_empty()
        && published.get(&names.all).is_some()
        && published.get(&names.insert_only).is_none()
    {
        checks.push(Check::problem("publications", error.to_string()));
    }
    let sample = doctor::sample(sql, &loaded, state.server.block_size).await;
    // Without the right to read there is another finding that says so.
    let Ok(sample) = sample else { return Ok(None) };
    checks.push(first_copy(&sample));
    Ok(Some(sample))
}

/// Names and types of columns.
fn columns(loaded: &Loaded) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut text = Vec::new();
    for table in loaded.tables.iter().filter(|table| !matches!(table.kind, TableKind::Leaf { .. })) {
        if let Some(column) = TableSchema::clash(table) {
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
async fn history(location: &Location, arguments: &Doctor) -> Vec<Check> {
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
            checks.push(if manifest.name == arguments.name {
                Check::ok("history_of", message)
            } else {
                Check::problem("history_of", message).fix(format!("--name {}", manifest.name))
            });
            checks.extend(goes_on(arguments, &history).await);
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
async fn goes_on(arguments: &Doctor, history: &History) -> Option<Check> {
    const STREAM: &str = "stream";
    let connect = ConnectOptions::parse(&arguments.source).ok()?.with_application_name("bygone doctor");
    history.state().last_seq()?;
    Some(match capture::check_start(&connect, history.manifest(), history.state()).await {
        Ok(()) => Check::ok(STREAM, "the source has everything from where the history ends"),
        // Such as a slot that bygone run is reading from.
        Err(Error::Refused(refused)) if refused.passes() => Check::ok(STREAM, refused.to_string()),
        Err(error) => Check::problem(STREAM, error.to_string()),
    })
}

/// Room on the disks that are written to.
fn room(arguments: &Doctor, location: Option<&Location>, needed: Option<Sample>) -> Vec<Check> {
    let Some(sample) = needed else { return Vec::new() };
    let bytes = sample.table_bytes as f64;
    let mut checks = Vec::new();
    let state = arguments.state.clone().or_else(state_base);
    if let Some(state) = state {
        checks.extend(free("state", &state, bytes * STATE_PER_BYTE, "--state DIR"));
    }
    if let Some(Location::Local(root)) = location {
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

fn print(format: Format, checks: &[Check]) -> Result<()> {
    if format == Format::Json {
        let text = serde_json::to_string_pretty(checks)
            .map_err(|error| Error::other(format!("the findings have no JSON: {error}")))?;
        tell!("{text}");
        return Ok(());
    }
    if format == Format::Csv {
        let mut sheet = Sheet::new(format, vec![left("level"), left("check"), left("message"), left("fix")])?;
        for check in checks {
            sheet.row(vec![
                Cell::Text(check.level.as_str().to_owned()),
                Cell::Text(check.check.to_owned()),
                Cell::Text(check.message.clone()),
                Cell::optional(check.fix.clone()),
            ])?;
        }
        sheet.finish()?;
        return Ok(());
    }
    for check in checks {
        print_wrapped(
            &format!("{:8} ", check.level.as_str()),
            &format!("{}: {}", check.check, check.message),
        );
        if let Some(fix) = &check.fix {
            tell!("         fix: {fix}");
        }
    }
    let count = |level| checks.iter().filter(|check| check.level == level).count();
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    eprintln!("bygone: {} checks, {problems} problems, {warnings} warnings", checks.len());
    Ok(())
}
