//! Makes the capture's own publications, keeps their tables, and drops them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio_postgres::Client;

use super::Names;
use super::state::{Publication, PublicationState, TableMember, inspect, server_version};
use crate::catalog::{CatalogError, ErrorKind, get};
use crate::table::{Table, TableKind, TableName, quote_identifier};

/// Tables added by one statement: it locks them all until it ends (against DDL and VACUUM, not against reading and
/// writing), and the lock table of a default server holds 6,400.
const BATCH: usize = 64;

/// How long a table's lock is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// How long each is, where it is one of several of which one is locked.
const SHORT_LOCK_TIMEOUT: Duration = Duration::from_secs(1);

const PREPARING: &str = "preparing the publications";

/// What [`ensure`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ensured {
    /// What changed, in order.
    pub changes: Vec<Change>,
    /// The statements that were run.
    pub statements: Vec<String>,
    /// Tables that are in the publications though they are not wanted; they are left alone.
    pub unwanted: Vec<TableMember>,
}

/// One thing that [`ensure`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The publication was made.
    Created {
        /// Its name.
        publication: String,
    },
    /// A table was added.
    Added {
        /// The publication's name.
        publication: String,
        /// The table's oid.
        oid: u32,
        /// The table.
        table: TableName,
    },
    /// A table was taken out, having been added to the other publication just before.
    Moved {
        /// The name of the publication that it was taken out of.
        publication: String,
        /// The table's oid.
        oid: u32,
        /// The table.
        table: TableName,
    },
}

/// A table that could not be published for now, while the others were.
#[derive(Debug)]
pub struct Refused {
    /// Its oid.
    pub oid: u32,
    /// Its name.
    pub table: TableName,
    /// Why, with the remedy.
    pub error: CatalogError,
}

impl Change {
    /// The publication that was made.
    fn made(&self) -> Option<&str> {
        match self {
            Self::Created { publication } => Some(publication),
            Self::Added { .. } | Self::Moved { .. } => None,
        }
    }

    /// The oid of the table that is concerned.
    #[must_use]
    pub fn table_oid(&self) -> Option<u32> {
        self.table().map(|(oid, _)| oid)
    }

    /// The table that is concerned.
    fn table(&self) -> Option<(u32, &TableName)> {
        match self {
            Self::Created { .. } => None,
            Self::Added { oid, table, .. } | Self::Moved { oid, table, .. } => Some((*oid, table)),
        }
    }

    /// The statement that changes this table alone.
    fn statement(&self) -> Option<String> {
        let (publication, verb, table) = match self {
            Self::Created { .. } => return None,
            Self::Added { publication, table, .. } => (publication, "add", table),
            Self::Moved { publication, table, .. } => (publication, "drop", table),
        };
        let publication = quote_identifier(publication);
        Some(format!("alter publication {publication} {verb} table only {}", table.quoted()))
    }
}

/// What is missing.
struct Plan {
    steps: Vec<Step>,
    /// Tables that are listed though they are not wanted.
    unwanted: Vec<TableMember>,
}

impl Plan {
    fn statements(&self) -> Vec<String> {
        self.steps.iter().map(|step| format!("{};", step.sql)).collect()
    }
}

/// A statement still to be run, and what it changes.
struct Step {
    sql: String,
    changes: Vec<Change>,
}

/// Makes the capture's publications (see [`Names`]) if they are missing and adds the tables that they lack.
///
/// Tables without an identity go into the publication of inserts. Partitioned roots among the tables are passed over: their leaves are what is published, and have to be in the lists.
/// A table that is in the one publication and wanted in the other is moved. Must not be called within a transaction.
/// Adding a table while a transaction writes to it splits that transaction, so a new table's snapshot has to be taken
/// from a slot that is made after this returned.
///
/// # Errors
/// [`ErrorKind::Rights`] with the statements that a DBA has to run; [`ErrorKind::Conflict`] when a publication of that
/// name exists with other options; [`ErrorKind::Busy`] when a table stays locked.
pub async fn ensure(client: &Client, names: &Names, tables: &[&Table]) -> Result<Ensured, CatalogError> {
    let plan = plan(client, names, tables).await?;
    let statements = plan.statements();
    let Plan { steps, unwanted } = plan;
    let mut ensured = Ensured { unwanted, ..Ensured::default() };
    if !steps.is_empty() && in_recovery(client, PREPARING).await? {
        return Err(on_the_primary(PREPARING, "start again once the standby has replayed it", &statements));
    }
    for step in steps {
        if let Err(error) = run(client, &step.sql, LOCK_TIMEOUT).await {
            return Err(match error.kind() {
                ErrorKind::Rights => {
                    // Ours would be in the way: its owner alone could add to it.
                    for made in ensured.changes.iter().filter_map(Change::made) {
                        let dropped = client.batch_execute(&drop_statement(made)).await;
                        dropped.map_err(CatalogError::from_postgres(PREPARING))?;
                    }
                    let again = ensured.changes.iter().any(|change| change.made().is_some());
                    let done = if again { 0 } else { ensured.statements.len() };
                    let left = statements.get(done..).unwrap_or_default();
                    error.with_remedy(&format!(
                        "as the owner of the tables with CREATE on the database, or as a superuser, run:\n{}",
                        left.join("\n")
                    ))
                }
                ErrorKind::Busy => error.with_remedy(&format!(
                    "somebody holds a lock on one of the tables of: {} (a long ALTER TABLE or VACUUM); start again when it is over",
                    step.sql
                )),
                _ => error,
            });
        }
        ensured.changes.extend(step.changes);
        ensured.statements.push(step.sql);
    }
    Ok(ensured)
}

/// The same while a capture runs: a table that cannot be published stands in the way of none of the others.
///
/// # Errors
/// As [`ensure`], but for what concerns single tables, which is told beside what was done.
pub async fn ensure_each(
    client: &Client,
    names: &Names,
    tables: &[&Table],
) -> Result<(Ensured, Vec<Refused>), CatalogError> {
    let plan = plan(client, names, tables).await?;
    let statements = plan.statements();
    let Plan { steps, unwanted } = plan;
    let (mut ensured, mut refused) = (Ensured { unwanted, ..Ensured::default() }, Vec::<Refused>::new());
    if !steps.is_empty() && in_recovery(client, PREPARING).await? {
        let then = "it is captured once the standby has replayed it";
        if steps.iter().flat_map(|step| &step.changes).any(|change| change.table().is_none()) {
            return Err(on_the_primary(PREPARING, then, &statements));
        }
        return Ok((ensured, left_to_the_primary(&steps, then)));
    }
    for step in steps {
        match run(client, &step.sql, LOCK_TIMEOUT).await {
            Ok(()) => {
                ensured.changes.extend(step.changes);
                ensured.statements.push(step.sql);
                continue;
            }
            Err(error) if error.kind() == ErrorKind::Connection => return Err(error),
            Err(error) if step.changes.iter().any(|change| change.table().is_none()) => return Err(error),
            Err(_) => {}
        }
        for change in step.changes {
            let (Some((oid, table)), Some(sql)) = (change.table(), change.statement()) else { continue };
            // One that could not be added to the one publication stays in the other.
            if refused.iter().any(|refused| refused.oid == oid) {
                continue;
            }
            match run(client, &sql, SHORT_LOCK_TIMEOUT).await {
                Ok(()) => {
                    ensured.changes.push(change);
                    ensured.statements.push(sql);
                }
                Err(error) if error.kind() == ErrorKind::Connection => return Err(error),
                Err(error) => {
                    let error = match error.kind() {
                        ErrorKind::Rights => error.with_remedy(&format!(
                            "as the owner of the table, or as a superuser, run:\n{sql};"
                        )),
                        _ => error,
                    };
                    refused.push(Refused { oid, table: table.clone(), error });
                }
            }
        }
    }
    Ok((ensured, refused))
}

/// Each table with the statements that concern it alone.
fn left_to_the_primary(steps: &[Step], then: &str) -> Vec<Refused> {
    let mut tables: BTreeMap<u32, (&TableName, Vec<String>)> = BTreeMap::new();
    for change in steps.iter().flat_map(|step| &step.changes) {
        if let (Some((oid, table)), Some(sql)) = (change.table(), change.statement()) {
            tables.entry(oid).or_insert_with(|| (table, Vec::new())).1.push(format!("{sql};"));
        }
    }
    let refused = tables.into_iter().map(|(oid, (table, statements))| Refused {
        oid,
        table: table.clone(),
        error: on_the_primary(PREPARING, then, &statements),
    });
    refused.collect()
}

async fn run(client: &Client, sql: &str, lock_timeout: Duration) -> Result<(), CatalogError> {
    // One message, so the server runs both in one transaction and nothing of the setting stays behind.
    let sql = format!("set local lock_timeout = {}; {sql}", lock_timeout.as_millis());
    client.batch_execute(&sql).await.map_err(CatalogError::from_postgres(PREPARING))
}

/// The statements that [`ensure`] would run for tables, all of which it captures.
///
/// # Errors
/// As there, but for what running them may give.
pub async fn missing(client: &Client, names: &Names, tables: &[Table]) -> Result<Vec<String>, CatalogError> {
    let tables: Vec<&Table> = tables.iter().collect();
    Ok(plan(client, names, &tables).await?.statements())
}

async fn plan(client: &Client, names: &Names, tables: &[&Table]) -> Result<Plan, CatalogError> {
    let (insert_only, all): (Vec<&Table>, Vec<&Table>) =
        tables.iter().copied().partition(|table| super::is_insert_only(table));
    let version = server_version(client).await?;
    let state = inspect(client, &names.both()).await?;
    let wanted = [(&names.all, &all, ALL_OPERATIONS), (&names.insert_only, &insert_only, INSERT_ONLY)];
    let mut steps = Vec::new();
    for (name, tables, operations) in wanted {
        plan_one(version, &state, name, tables, operations, &mut steps)?;
    }
    // Only now, so that a table is never in neither.
    for ((_, tables, _), other) in wanted.into_iter().zip([&names.insert_only, &names.all]) {
        let oids: BTreeSet<u32> = tables.iter().map(|table| table.oid).collect();
        let members = state.get(other).map_or(&[][..], |publication| &publication.tables);
        for member in members.iter().filter(|member| oids.contains(&member.oid)) {
            let change =
                Change::Moved { publication: other.clone(), oid: member.oid, table: member.name.clone() };
            steps.extend(change.statement().map(|sql| Step { sql, changes: vec![change] }));
        }
    }

    let known: BTreeSet<u32> = tables.iter().map(|table| table.oid).collect();
    let members = state.publications.iter().flat_map(|publication| &publication.tables);
    let unwanted = members.filter(|member| !known.contains(&member.oid)).cloned().collect();
    Ok(Plan { steps, unwanted })
}

/// Publications are the primary's alone to make and to drop.
async fn in_recovery(client: &Client, doing: &'static str) -> Result<bool, CatalogError> {
    let sql = "select pg_catalog.pg_is_in_recovery() as in_recovery";
    let row = client.query_typed_one(sql, &[]).await.map_err(CatalogError::from_postgres(doing))?;
    get(&row, "in_recovery")
}

fn on_the_primary(doing: &'static str, then: &str, statements: &[String]) -> CatalogError {
    CatalogError::new(
        ErrorKind::Missing,
        doing,
        format!(
            "the source is a standby, and publications come to it from its primary. As the owner of the tables with CREATE on \
             the database, or as a superuser, run this on the primary, and {then}:\n{}",
            statements.join("\n")
        ),
    )
}

/// Insert, update, delete, truncate.
type Operations = [bool; 4];
const ALL_OPERATIONS: Operations = [true; 4];
const INSERT_ONLY: Operations = [true, false, false, true];

fn publish_list(operations: Operations) -> String {
    let names = ["insert", "update", "delete", "truncate"].into_iter().zip(operations);
    names.filter_map(|(name, on)| on.then_some(name)).collect::<Vec<_>>().join(", ")
}

/// The statements that make one publication and add what it lacks.
fn plan_one(
    version: u32,
    state: &PublicationState,
    name: &str,
    tables: &[&Table],
    operations: Operations,
    steps: &mut Vec<Step>,
) -> Result<(), CatalogError> {
    let quoted = quote_identifier(name);
    let listed: BTreeSet<u32> = match state.get(name) {
        Some(publication) => {
            check_own(publication, operations)?;
            publication.tables.iter().map(|table| table.oid).collect()
        }
        None => {
            let generated = if version >= 180_000 { ", publish_generated_columns = stored" } else { "" };
            steps.push(Step {
                sql: format!(
                    "create publication {quoted} with (publish = '{}', publish_via_partition_root = false{generated})",
                    publish_list(operations)
                ),
                changes: vec![Change::Created { publication: name.to_owned() }],
            });
            BTreeSet::new()
        }
    };
    let missing: Vec<&&Table> = tables
        .iter()
        .filter(|table| table.kind != TableKind::Partitioned && !listed.contains(&table.oid))
        .collect();
    for batch in missing.chunks(BATCH) {
        // ONLY: children of an inheritance tree are tables of their own.
        let list: Vec<String> = batch.iter().map(|table| format!("only {}", table.name.quoted())).collect();
        let added = |table: &&&Table| Change::Added {
            publication: name.to_owned(),
            oid: table.oid,
            table: table.name.clone(),
        };
        steps.push(Step {
            sql: format!("alter publication {quoted} add table {}", list.join(", ")),
            changes: batch.iter().map(added).collect(),
        });
    }
    Ok(())
}

/// Refuses a publication that has the capture's name but is not as this crate makes it.
fn check_own(publication: &Publication, operations: Operations) -> Result<(), CatalogError> {
    let conflict = |problem: String| {
        Err(CatalogError::new(
            ErrorKind::Conflict,
            PREPARING,
            format!("publication {:?} exists and {problem}", publication.name),
        ))
    };
    let quoted = quote_identifier(&publication.name);
    if publication.all_tables || !publication.schemas.is_empty() {
        return conflict(format!(
            "publishes whole schemas, which makes updates of tables without a replica identity fail; choose another \
             name for the capture, or run: drop publication {quoted};"
        ));
    }
    let now = [publication.insert, publication.update, publication.delete, publication.truncate];
    if now != operations || publication.via_root {
        return conflict(format!(
            "publishes with other options; choose another name for the capture, or run: alter publication {quoted} \
             set (publish = '{}', publish_via_partition_root = false);",
            publish_list(operations)
        ));
    }
    if let Some(table) =
        publication.tables.iter().find(|table| table.filter.is_some() || table.columns.is_some())
    {
        return conflict(format!(
            "publishes only a part of table {}; choose another name for the capture, or run: alter publication {quoted} \
             drop table only {};",
            table.name,
            table.name.quoted()
        ));
    }
    Ok(())
}

fn drop_statement(publication: &str) -> String {
    format!("drop publication if exists {}", quote_identifier(publication))
}

/// Drops the capture's publications where they exist; returns the statements that were run.
///
/// # Errors
/// [`ErrorKind::Rights`] with the statements that a DBA has to run.
pub async fn drop(client: &Client, names: &Names) -> Result<Vec<String>, CatalogError> {
    let state = inspect(client, &names.both()).await?;
    let mut statements: Vec<String> = Vec::new();
    let all: Vec<String> =
        state.publications.iter().map(|publication| drop_statement(&publication.name)).collect();
    let doing = "dropping the publications";
    if !all.is_empty() && in_recovery(client, doing).await? {
        let statements: Vec<String> = all.iter().map(|sql| format!("{sql};")).collect();
        return Err(on_the_primary(doing, "all is removed", &statements));
    }
    for (done, sql) in all.iter().enumerate() {
        if let Err(error) = client.batch_execute(sql).await {
            let error = CatalogError::from_postgres(doing)(error);
            let rest: Vec<String> = all.iter().skip(done).map(|sql| format!("{sql};")).collect();
            return Err(match error.kind() {
                ErrorKind::Rights => {
                    error.with_remedy(&format!("as their owner or a superuser, run:\n{}", rest.join("\n")))
                }
                _ => error,
            });
        }
        statements.push(sql.clone());
    }
    Ok(statements)
}
