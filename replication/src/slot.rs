//! Replication slots: their state, and the commands of the replication connection that make and read them.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::Lsn;
use crate::catalog::{CatalogError, ErrorKind, get, get_lsn};
use crate::table::{quote_identifier, quote_literal};

/// How long a session is waited for that was told to end.
const ENDING: Duration = Duration::from_secs(5);

/// Longest name of a slot in bytes (`NAMEDATALEN - 1`).
const MAX_NAME: usize = 63;

/// A row of `pg_replication_slots`. What a version of the server does not have is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// `slot_name`.
    pub name: String,
    /// `plugin`; `None` for a physical slot.
    pub plugin: Option<String>,
    /// `database`; `None` for a physical slot.
    pub database: Option<String>,
    /// Goes away with its session.
    pub temporary: bool,
    /// Somebody is reading from it.
    pub active: bool,
    /// Who is.
    pub active_pid: Option<i32>,
    /// The oldest transaction whose effects on system catalogs are kept for the slot.
    pub catalog_xmin: Option<u32>,
    /// From where on WAL is kept; `None` for a slot whose WAL is lost.
    pub restart_lsn: Option<Lsn>,
    /// Up to where the consumer has acknowledged. It survives the loss of the slot's WAL.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Bytes of WAL that can still be written before the slot is in danger; `None` where nothing limits it, or when lost.
    pub safe_wal_size: Option<i64>,
    /// Prepared transactions are decoded at PREPARE. Sticky: it cannot be switched off again before version 18.
    pub two_phase: bool,
    /// From 16 on: invalidated by a conflict with recovery (on standbys).
    pub conflicting: Option<bool>,
    /// From 17 on: why it was invalidated, `None` for a healthy slot.
    pub invalidation_reason: Option<String>,
    /// From 17 on: since when nobody reads it, as the server prints the time.
    pub inactive_since: Option<String>,
    /// From 17 on: kept in step on standbys.
    pub failover: Option<bool>,
    /// From 17 on: a copy, on a standby, of the primary's slot.
    pub synced: Option<bool>,
    /// Bytes of WAL that the server keeps for the slot, by its newest WAL.
    pub wal_held: Option<i64>,
}

impl Slot {
    /// Why nothing can be read from the slot any more; `None` while it works.
    ///
    /// Decided by the columns, since the server's error texts differ from version to version.
    #[must_use]
    pub fn lost(&self) -> Option<&str> {
        if let Some(reason) = self.invalidation_reason.as_deref() {
            return Some(reason);
        }
        // Version 16 has no reasons, and calls every lost slot conflicting: only one whose WAL went has no place left.
        if self.conflicting == Some(true) && self.restart_lsn.is_some() {
            return Some("conflict with recovery");
        }
        let lost = self.conflicting == Some(true) || self.wal_status.as_deref() == Some("lost");
        lost.then_some("wal_removed")
    }

    /// Whose it is, where it is not a slot of pgoutput in the database that one is connected to.
    fn foreign(&self) -> String {
        let whose = match (self.plugin.as_deref(), self.database.as_deref()) {
            (None, _) => "is a physical one, of a standby or of whoever archives the WAL".to_owned(),
            (Some("pgoutput"), database) => {
                format!(
                    "belongs to database {:?}, to which the connection is not",
                    database.unwrap_or_default()
                )
            }
            (Some(plugin), database) => {
                format!("is of the output plugin {plugin:?} in database {:?}", database.unwrap_or_default())
            }
        };
        format!(
            "{:?} {whose}: whoever reads it would lose changes with it, so it is left alone. Only a slot of pgoutput in the \
             database of the connection is dropped: connect to the capture's database, and give its name",
            self.name
        )
    }
}

/// Reads one slot; `None` when there is none of that name.
///
/// # Errors
/// [`ErrorKind::Connection`] and whatever else the server says.
pub async fn read(client: &Client, name: &str) -> Result<Option<Slot>, CatalogError> {
    let slots = read_where(client, "s.slot_name = $1", name).await?;
    Ok(slots.into_iter().next())
}

/// Reads every slot of the server whose name begins with `prefix` (all of them for an empty one), by name.
///
/// # Errors
/// [`ErrorKind::Connection`] and whatever else the server says.
pub async fn read_all(client: &Client, prefix: &str) -> Result<Vec<Slot>, CatalogError> {
    read_where(client, "pg_catalog.starts_with(s.slot_name::text, $1)", prefix).await
}

async fn read_where(client: &Client, condition: &str, name: &str) -> Result<Vec<Slot>, CatalogError> {
    // As JSON a column that this version lacks is null instead of an error.
    let sql = format!(
        "select s.slot_name::text, s.plugin::text, s.database::text, s.temporary, s.active, s.active_pid,
            s.catalog_xmin::text, s.restart_lsn, s.confirmed_flush_lsn, s.wal_status, s.safe_wal_size, s.two_phase,
            (j.slot ->> 'conflicting')::bool as conflicting, j.slot ->> 'invalidation_reason' as invalidation_reason,
            j.slot ->> 'inactive_since' as inactive_since, (j.slot ->> 'failover')::bool as failover,
            (j.slot ->> 'synced')::bool as synced,
            pg_catalog.pg_wal_lsn_diff(
                case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
                else pg_catalog.pg_current_wal_lsn() end, s.restart_lsn)::int8 as wal_held
        from pg_catalog.pg_replication_slots s
        cross join lateral (select pg_catalog.to_jsonb(s) as slot) j
        where {condition}
        order by s.slot_name"
    );
    let rows = client
        .query_typed(&sql, &[(&name, Type::TEXT)])
        .await
        .map_err(CatalogError::from_postgres("reading the replication slots"))?;
    rows.iter().map(slot).collect()
}

fn slot(row: &Row) -> Result<Slot, CatalogError> {
    let catalog_xmin: Option<&str> = get(row, "catalog_xmin")?;
    Ok(Slot {
        name: get(row, "slot_name")?,
        plugin: get(row, "plugin")?,
        database: get(row, "database")?,
        temporary: get(row, "temporary")?,
        active: get(row, "active")?,
        active_pid: get(row, "active_pid")?,
        catalog_xmin: catalog_xmin.and_then(|xid| xid.parse().ok()),
        restart_lsn: get_lsn(row, "restart_lsn")?,
        confirmed_flush_lsn: get_lsn(row, "confirmed_flush_lsn")?,
        wal_status: get(row, "wal_status")?,
        safe_wal_size: get(row, "safe_wal_size")?,
        two_phase: get::<Option<bool>>(row, "two_phase")?.unwrap_or_default(),
        conflicting: get(row, "conflicting")?,
        invalidation_reason: get(row, "invalidation_reason")?,
        inactive_since: get(row, "inactive_since")?,
        failover: get(row, "failover")?,
        synced: get(row, "synced")?,
        wal_held: get(row, "wal_held")?,
    })
}

/// Drops a slot over an ordinary connection. `false` when there is none of that name.
///
/// Slots are the whole server's, and whoever reads one loses changes with it: only a slot of pgoutput in the connection's own
/// database is touched.
///
/// # Errors
/// [`ErrorKind::Conflict`] where the slot is somebody else's, [`ErrorKind::Busy`] while somebody reads from it,
/// [`ErrorKind::Rights`] with the SQL to run.
pub async fn drop(client: &Client, name: &str) -> Result<bool, CatalogError> {
    const DOING: &str = "dropping the replication slot";
    // In one statement, so that no other slot can take the name in between.
    let sql = "
        select pg_catalog.pg_drop_replication_slot(s.slot_name) from pg_catalog.pg_replication_slots s
        where s.slot_name = $1 and s.plugin = 'pgoutput' and s.database = pg_catalog.current_database()";
    match client.query_typed(sql, &[(&name, Type::TEXT)]).await {
        Ok(rows) if !rows.is_empty() => Ok(true),
        Ok(_) => match read(client, name).await? {
            Some(slot) => Err(CatalogError::new(ErrorKind::Conflict, DOING, slot.foreign())),
            None => Ok(false),
        },
        Err(error) => {
            let error = CatalogError::from_postgres(DOING)(error);
            match error.kind() {
                ErrorKind::Missing => Ok(false),
                ErrorKind::Rights => Err(error.with_remedy(&format!(
                    "as a superuser or a role with REPLICATION, run: select pg_drop_replication_slot({});",
                    quote_literal(name)
                ))),
                _ => Err(error),
            }
        }
    }
}

/// Ends the making of a slot that is not made yet: the server goes on waiting for transactions to end though nobody asks for it
/// any more. A slot that is there already stays.
///
/// # Errors
/// [`ErrorKind::Rights`] where the session is another role's, and whatever else the server says.
pub async fn abandon(client: &Client, name: &str) -> Result<(), CatalogError> {
    let doing = "ending the making of a replication slot";
    let end = "
        select pg_catalog.pg_terminate_backend(active_pid) from pg_catalog.pg_replication_slots
        where slot_name = $1 and active_pid is not null and confirmed_flush_lsn is null";
    let left =
        "select 1 from pg_catalog.pg_replication_slots where slot_name = $1 and active_pid is not null";
    let name: [(&(dyn ToSql + Sync), Type); 1] = [(&name, Type::TEXT)];
    if client.query_typed(end, &name).await.map_err(CatalogError::from_postgres(doing))?.is_empty() {
        return Ok(());
    }
    let began = Instant::now();
    while began.elapsed() < ENDING
        && !client.query_typed(left, &name).await.map_err(CatalogError::from_postgres(doing))?.is_empty()
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A transaction that writes, or may commit later: making a slot waits for all that run when it begins, on the whole
/// server, twice over; and the oldest of them keeps the WAL that a slot needs from being given up.
#[derive(Clone, Debug, PartialEq)]
pub struct RunningTransaction {
    /// The server process, `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// The global identifier of a prepared transaction.
    pub prepared: Option<String>,
    /// Its database.
    pub database: Option<String>,
    /// Whose it is.
    pub role: Option<String>,
    /// `application_name`; `None` for a prepared transaction, and where the rights do not reach.
    pub application: Option<String>,
    /// `active`, `idle in transaction`, …; `None` as above.
    pub state: Option<String>,
    /// Seconds since it began, or was prepared; `None` where the rights do not reach.
    pub seconds: Option<f64>,
}

/// Reads what the making of a slot waits for, oldest first. A role without `pg_read_all_stats` sees that others have
/// transactions only as far as the server tells.
///
/// # Errors
/// [`ErrorKind::Connection`] and whatever else the server says.
pub async fn running_transactions(client: &Client) -> Result<Vec<RunningTransaction>, CatalogError> {
    let sql = "
        select a.pid, null::text as prepared, a.datname::text as database, a.usename::text as role,
            a.application_name as application, a.state,
            extract(epoch from pg_catalog.clock_timestamp() - a.xact_start)::float8 as seconds
        from pg_catalog.pg_stat_activity a
        where a.backend_xid is not null and a.pid <> pg_catalog.pg_backend_pid()
        union all
        select null, p.gid, p.database::text, p.owner::text, null, null,
            extract(epoch from pg_catalog.clock_timestamp() - p.prepared)::float8
        from pg_catalog.pg_prepared_xacts p
        order by seconds desc nulls last";
    let rows = client
        .query_typed(sql, &[])
        .await
        .map_err(CatalogError::from_postgres("reading the running transactions"))?;
    rows.iter()
        .map(|row| {
            Ok(RunningTransaction {
                pid: get(row, "pid")?,
                prepared: get(row, "prepared")?,
                database: get(row, "database")?,
                role: get(row, "role")?,
                application: get(row, "application")?,
                state: get(row, "state")?,
                seconds: get(row, "seconds")?,
            })
        })
        .collect()
}

/// Checks that a name can be a slot's: 1 to 63 of `a-z`, `0-9` and `_`.
///
/// # Errors
/// [`ErrorKind::Name`].
pub fn check_name(name: &str) -> Result<(), CatalogError> {
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(letters) {
        return Ok(());
    }
    Err(CatalogError::new(
        ErrorKind::Name,
        "naming the replication slot",
        format!(
            "{name:?} cannot be a slot's name, which is 1 to {MAX_NAME} of the characters a-z, 0-9 and _"
        ),
    ))
}

/// The first version of which standbys keep copies of a slot.
pub const FAILOVER_VERSION: u32 = 170_000;

/// What [`create_command`] should make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CreateOptions {
    /// Drop the slot with the session that makes it.
    pub temporary: bool,
    /// Export a snapshot of the slot's consistent point; it lives until the connection's next command.
    pub export_snapshot: bool,
    /// Have standbys keep a copy of the slot, from version 17 on.
    pub failover: bool,
}

/// The text of `CREATE_REPLICATION_SLOT` for a logical slot that pgoutput reads, in the grammar of the version.
///
/// # Errors
/// [`ErrorKind::Name`] for a name that no slot can have, [`ErrorKind::Unsupported`] for a failover slot before 17.
pub fn create_command(
    server_version: u32,
    name: &str,
    options: CreateOptions,
) -> Result<String, CatalogError> {
    check_name(name)?;
    if options.failover && server_version < FAILOVER_VERSION {
        return Err(CatalogError::new(
            ErrorKind::Unsupported,
            "creating the replication slot",
            "failover slots need PostgreSQL 17 or later on the source",
        ));
    }
    let mut command = format!("CREATE_REPLICATION_SLOT {}", quote_identifier(name));
    if options.temporary {
        command.push_str(" TEMPORARY");
    }
    command.push_str(" LOGICAL pgoutput");
    if server_version < 150_000 {
        command.push_str(if options.export_snapshot { " EXPORT_SNAPSHOT" } else { " NOEXPORT_SNAPSHOT" });
    } else {
        command.push_str(if options.export_snapshot {
            " (SNAPSHOT 'export'"
        } else {
            " (SNAPSHOT 'nothing'"
        });
        if options.failover {
            command.push_str(", FAILOVER true");
        }
        command.push(')');
    }
    Ok(command)
}

/// The text of `DROP_REPLICATION_SLOT`, for the replication connection.
#[must_use]
pub fn drop_command(name: &str) -> String {
    format!("DROP_REPLICATION_SLOT {}", quote_identifier(name))
}

/// The text of `START_REPLICATION` for pgoutput, protocol 1: whole transactions at commit, with logical messages and
/// from any origin. The same on all versions from 14 on.
///
/// `binary` asks for values in binary form; see [`DataType::binary`] for when that is safe.
///
/// [`DataType::binary`]: crate::table::DataType::binary
#[must_use]
pub fn start_command<S: AsRef<str>>(slot: &str, from: Lsn, publications: &[S], binary: bool) -> String {
    // The server splits the list like a list of identifiers (SplitIdentifierString), after its own quoting is undone.
    // The grammar of replication commands knows no backslash escapes, so quote_literal would be wrong here.
    let names: Vec<String> = publications.iter().map(|name| quote_identifier(name.as_ref())).collect();
    let names = names.join(",").replace('\'', "''");
    let mut command = format!("START_REPLICATION SLOT {} LOGICAL {from}", quote_identifier(slot));
    // Writing to a string does not fail.
    let _ = write!(command, " (proto_version '1', publication_names '{names}', messages 'true'");
    if binary {
        command.push_str(", binary 'true'");
    }
    command.push(')');
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: CreateOptions = CreateOptions { temporary: true, export_snapshot: true, failover: true };

    #[test]
    fn each_version_gets_its_own_grammar() {
        let options = CreateOptions { failover: false, ..ALL };
        assert_eq!(
            create_command(140_023, "bygone", options).unwrap(),
            "CREATE_REPLICATION_SLOT \"bygone\" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT"
        );
        assert_eq!(
            create_command(150_018, "bygone", CreateOptions::default()).unwrap(),
            "CREATE_REPLICATION_SLOT \"bygone\" LOGICAL pgoutput (SNAPSHOT 'nothing')"
        );
        assert_eq!(
            create_command(170_010, "bygone", ALL).unwrap(),
            "CREATE_REPLICATION_SLOT \"bygone\" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export', FAILOVER true)"
        );
        assert_eq!(create_command(160_000, "bygone", ALL).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn only_names_that_the_server_takes_are_let_through() {
        for name in ["a", "bygone_1", &"x".repeat(63)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "Bygone", "by-gone", "a b", "é", "a\"", &"x".repeat(64)] {
            assert_eq!(check_name(name).unwrap_err().kind(), ErrorKind::Name, "{name}");
        }
    }

    #[test]
    fn publication_names_are_quoted_twice() {
        assert_eq!(
            start_command("s", Lsn(0x1_0000_00FF), &["by'gone", "a,b", "q\"q", "back\\slash"], true),
            "START_REPLICATION SLOT \"s\" LOGICAL 1/FF (proto_version '1', \
             publication_names '\"by''gone\",\"a,b\",\"q\"\"q\",\"back\\slash\"', messages 'true', binary 'true')"
        );
    }
}
