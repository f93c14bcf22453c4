//! The tables: what of each can be seen, and what a first copy of them takes.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::Check;
use crate::catalog::{CatalogError, Loaded, RoleRights, ServerInfo, TableRights, get};
use crate::publication::{self, Names, Partial, PublicationState};
use crate::table::{ReplicaIdentity, Table, TableKind, TableName, quote_identifier};

const PUBLICATIONS: &str = "publications";
/// Names in one message: the rest is counted.
const NAMED: usize = 5;
/// As much is read for an estimate, or for as long.
const SAMPLE_BYTES: u64 = 8 << 20;
const SAMPLE_FOR: Duration = Duration::from_secs(2);
/// From here on the server sends stored generated columns.
const GENERATED_PUBLISHED: u32 = 180_000;

/// Checks tables that the patterns select, and what the role may do with them.
#[must_use]
pub fn tables(server: &ServerInfo, loaded: &Loaded, role: &RoleRights, rights: &[TableRights]) -> Vec<Check> {
    let mut checks = Vec::new();
    let roots = || loaded.tables.iter().filter(|table| !matches!(table.kind, TableKind::Leaf { .. }));
    let partitioned = roots().filter(|table| table.kind == TableKind::Partitioned).count();
    let count = roots().count();
    checks.push(if count == 0 {
        Check::problem(
            "tables",
            "there is no table to capture: the database has none, or --table selects none",
        )
    } else {
        Check::ok(
            "tables",
            format!("{count} to capture, {partitioned} of them partitioned (each captured as one table)"),
        )
    });
    for skipped in &loaded.skipped {
        checks.push(Check::warning("not_captured", skipped.to_string()));
    }
    checks.extend(identities(loaded));
    checks.extend(readable(loaded, role, rights));
    checks.extend(generated(server.version, loaded));
    checks
}

fn identities(loaded: &Loaded) -> Vec<Check> {
    let mut checks: Vec<Check> = physical(loaded)
        .filter(|table| table.identity == ReplicaIdentity::Nothing)
        .map(|table| {
            Check::warning(
                "replica_identity",
                format!(
                    "{}: updates and deletes cannot be seen, for it has neither a primary key nor another replica identity; its \
                     inserts are captured",
                    table.name
                ),
            )
            .fix(format!("alter table {} replica identity full; -- or give it a primary key", table.name.quoted()))
        })
        .collect();
    let of = |identity| physical(loaded).filter(move |table| table.identity == identity).count();
    let (key, index, full) =
        (of(ReplicaIdentity::PrimaryKey), of(ReplicaIdentity::Index), of(ReplicaIdentity::Full));
    if key + index + full > 0 {
        checks.push(Check::ok(
            "replica_identity",
            format!(
                "{key} by primary key, {index} by an index, {full} full; none needs FULL for its past values, which bygone keeps itself"
            ),
        ));
    }
    checks
}

fn readable(loaded: &Loaded, role: &RoleRights, rights: &[TableRights]) -> Vec<Check> {
    let mut checks = Vec::new();
    let name = quote_identifier(&role.role);
    let unreadable: Vec<&Table> = physical(loaded)
        .filter(|table| rights.iter().any(|right| right.oid == table.oid && !right.select))
        .collect();
    checks.push(if unreadable.is_empty() {
        Check::ok("select", format!("role {:?} may read all of them", role.role))
    } else {
        let all: Vec<String> = unreadable.iter().map(|table| table.name.quoted()).collect();
        let schemas: HashSet<String> =
            unreadable.iter().map(|table| quote_identifier(&table.name.schema)).collect();
        let mut schemas: Vec<String> = schemas.into_iter().collect();
        schemas.sort_unstable();
        Check::problem(
            "select",
            format!("role {:?} may not read {}", role.role, some(unreadable.iter().map(|table| &table.name))),
        )
        .fix(format!(
            "grant usage on schema {} to {name}; grant select on {} to {name};",
            schemas.join(", "),
            all.join(", ")
        ))
    });
    let guarded: Vec<&Table> = physical(loaded).filter(|table| table.row_security).collect();
    if !guarded.is_empty() {
        checks.push(
            Check::problem(
                "row_security",
                format!("row-level security hides rows of {}", some(guarded.iter().map(|table| &table.name))),
            )
            .fix(format!("alter role {name} bypassrls; -- as a superuser")),
        );
    }
    checks
}

fn generated(version: u32, loaded: &Loaded) -> Vec<Check> {
    let mut names = Vec::new();
    for table in &loaded.tables {
        for column in &table.columns {
            let unseen = match column.generated {
                Some('s') => version < GENERATED_PUBLISHED,
                Some(_) => true,
                None => false,
            };
            if unseen {
                names.push(format!("{}.{}", table.name, column.name));
            }
        }
    }
    if names.is_empty() {
        return Vec::new();
    }
    let message = format!(
        "generated columns are not in the stream of this version; the first copy has them, later facts name them in _unknown: {}",
        some(names.iter())
    );
    vec![Check::warning("generated_columns", message)]
}

/// Whether the role can publish what the capture's own publications lack.
///
/// # Errors
/// Where the server does not answer.
pub async fn publishing(
    client: &Client,
    names: &Names,
    server: &ServerInfo,
    loaded: &Loaded,
    role: &RoleRights,
    rights: &[TableRights],
) -> Result<Vec<Check>, CatalogError> {
    let may_create = role.superuser || role.create_in_database;
    let mut checks = Vec::new();
    if !may_create {
        checks.push(
            Check::problem(
                PUBLICATIONS,
                format!("role {:?} may not make publications in this database", role.role),
            )
            .fix(format!(
                "grant create on database {} to {}; -- or make them, and give --publication",
                quote_identifier(&server.database),
                quote_identifier(&role.role)
            )),
        );
    }
    let unowned: Vec<&Table> = physical(loaded)
        .filter(|table| rights.iter().any(|right| right.oid == table.oid && !right.owner))
        .collect();
    let missing = if role.superuser || unowned.is_empty() {
        Vec::new()
    } else {
        // One that is in the way has a finding of its own, too.
        publication::missing(client, names, &loaded.tables).await.unwrap_or_default()
    };
    if !missing.is_empty() {
        let message = format!(
            "role {:?} does not own {}, and only owners publish tables",
            role.role,
            some(unowned.iter().map(|table| &table.name))
        );
        let fix = format!("{} -- as the owner of the tables, or a superuser", missing.join(" "));
        checks.push(Check::problem(PUBLICATIONS, message).fix(fix));
    } else if may_create {
        checks.push(Check::ok(PUBLICATIONS, format!("role {:?} may make them", role.role)));
    }
    Ok(checks)
}

/// Publications that somebody made (`--publication`): whether they are there, what they leave out, and which tables.
///
/// # Errors
/// Where the server does not answer.
pub async fn published(
    client: &Client,
    state: &PublicationState,
    names: &[String],
    accept_partial: bool,
    loaded: &Loaded,
) -> Result<Vec<Check>, CatalogError> {
    let absent: Vec<&String> = names.iter().filter(|name| state.get(name).is_none()).collect();
    if !absent.is_empty() {
        let tables = listed(physical(loaded));
        let told = absent.into_iter().map(|name| {
            let message = format!("publication {name:?} does not exist in this database");
            let create = format!("create publication {} for table {tables};", quote_identifier(name));
            Check::problem(PUBLICATIONS, message).fix(create)
        });
        return Ok(told.collect());
    }
    let partial = match publication::check_user_made(state, names, true) {
        Ok(partial) => partial,
        Err(error) => return Ok(vec![Check::problem(PUBLICATIONS, error.to_string())]),
    };
    let mut checks: Vec<Check> = partial.iter().map(|partial| left_out(partial, accept_partial)).collect();
    let known = publication::published_tables(client, names).await?;
    let unlisted: Vec<&Table> = physical(loaded).filter(|table| !known.contains(&table.oid)).collect();
    if let (false, Some(first)) = (unlisted.is_empty(), names.first()) {
        let told = some(unlisted.iter().map(|table| &table.name));
        let add = format!(
            "alter publication {} add table {}; -- or select with --table what is published",
            quote_identifier(first),
            listed(unlisted.into_iter())
        );
        checks.push(Check::problem(PUBLICATIONS, format!("not published: {told}")).fix(add));
    }
    if checks.is_empty() {
        checks
            .push(Check::ok(PUBLICATIONS, format!("{} publish all of the tables, whole", names.join(", "))));
    }
    Ok(checks)
}

/// What a publication leaves out: in the way, unless it is accepted.
fn left_out(partial: &Partial, accepted: bool) -> Check {
    if accepted {
        return Check::warning(PUBLICATIONS, format!("{partial}; the history will say so"));
    }
    let message = format!("{partial}; what is not published cannot stand in the history");
    Check::problem(PUBLICATIONS, message).fix(format!("{} -- or give --accept-partial", partial.remedy()))
}

/// Rows that disappear or change by a foreign key's action, in tables that are not captured.
///
/// # Errors
/// Where the server does not answer.
pub async fn cascades(client: &Client, loaded: &Loaded) -> Result<Vec<Check>, CatalogError> {
    let oids: Vec<u32> = loaded.tables.iter().map(|table| table.oid).collect();
    let sql = "
        select n.nspname::text as schema, c.relname::text as name, c.oid, f.confrelid::pg_catalog.regclass::text as of
        from pg_catalog.pg_constraint f
        join pg_catalog.pg_class c on c.oid = f.conrelid
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where f.contype = 'f' and (f.confdeltype in ('c', 'n', 'd') or f.confupdtype in ('c', 'n', 'd'))
            and f.confrelid = any ($1) and not f.conrelid = any ($1)
        order by 1, 2";
    let rows = client
        .query_typed(sql, &[(&oids, Type::OID_ARRAY)])
        .await
        .map_err(CatalogError::from_postgres("reading foreign keys"))?;
    rows.iter()
        .map(|row| {
            let name = TableName::new(get::<String>(row, "schema")?, get::<String>(row, "name")?);
            let of: String = get(row, "of")?;
            Ok(Check::warning(
                "cascades",
                format!("a delete or update in {of} changes rows of {name} by a foreign key, and {name} is not captured"),
            )
            .fix(format!("bygone run … --table '{name}'")))
        })
        .collect()
}

/// What a first copy takes, judged by a piece of the largest table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Size of all tables on the source's disk, in bytes.
    pub table_bytes: u64,
    /// Rows of all tables, by the server's estimate, or by the piece where it has none.
    pub rows: u64,
    /// Bytes of table that were read in a second; none where there was nothing to read.
    pub bytes_per_second: Option<f64>,
}

/// Reads a piece of the largest table, as a first copy does.
///
/// # Errors
/// Where the server does not answer.
pub async fn sample(client: &Client, loaded: &Loaded, block_size: u32) -> Result<Sample, CatalogError> {
    let bytes = |table: &Table| table.blocks * u64::from(block_size);
    let mut found = Sample {
        table_bytes: physical(loaded).map(bytes).sum(),
        rows: physical(loaded).filter_map(|table| table.rows).sum(),
        bytes_per_second: None,
    };
    let Some(largest) = physical(loaded).max_by_key(|table| table.blocks).filter(|table| table.blocks > 0)
    else {
        return Ok(found);
    };
    let blocks = (SAMPLE_BYTES / u64::from(block_size)).min(largest.blocks);
    let sql = format!(
        "copy (select * from only {} where ctid < '({blocks},1)'::pg_catalog.tid) to stdout (format binary)",
        largest.name.quoted()
    );
    let failed = CatalogError::from_postgres("reading a sample");
    let began = Instant::now();
    let stream = client.copy_out(&sql).await.map_err(&failed)?;
    let mut stream = std::pin::pin!(stream);
    let mut complete = true;
    let mut rows = 0_u64;
    while let Some(piece) = stream.try_next().await.map_err(&failed)? {
        drop(piece);
        rows += 1;
        if began.elapsed() > SAMPLE_FOR {
            complete = false;
            break;
        }
    }
    if complete {
        let seconds = began.elapsed().as_secs_f64().max(0.001);
        found.bytes_per_second = Some((blocks * u64::from(block_size)) as f64 / seconds);
        // Tables that were never analysed: as if their rows were as long.
        let unknown: u64 =
            physical(loaded).filter(|table| table.rows.is_none()).map(|table| table.blocks).sum();
        found.rows += rows * unknown / blocks;
    }
    Ok(found)
}

/// Those that hold rows of their own.
fn physical(loaded: &Loaded) -> impl Iterator<Item = &Table> {
    loaded.tables.iter().filter(|table| table.kind != TableKind::Partitioned)
}

/// The tables as a statement about a publication lists them.
fn listed<'a>(tables: impl Iterator<Item = &'a Table>) -> String {
    tables.map(|table| format!("only {}", table.name.quoted())).collect::<Vec<_>>().join(", ")
}

fn some<T: std::fmt::Display>(names: impl ExactSizeIterator<Item = T>) -> String {
    let left = names.len().saturating_sub(NAMED);
    let mut text: Vec<String> = names.take(NAMED).map(|name| name.to_string()).collect();
    if left > 0 {
        text.push(format!("and {left} more"));
    }
    text.join(", ")
}
