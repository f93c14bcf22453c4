//! The server, the database and what the role may do.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::{CatalogError, ErrorKind, get, get_lsn};
use crate::Lsn;

/// What the server and the database are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// `server_version_num`: 150018 for 15.18.
    pub version: u32,
    /// `server_version`, as people read it.
    pub version_text: String,
    /// The system identifier of `pg_control_system()`; `None` where a provider withholds that function
    /// (IDENTIFY_SYSTEM on a replication connection tells it, too).
    pub system_id: Option<u64>,
    /// `current_database()`.
    pub database: String,
    /// `pg_database.oid`.
    pub database_oid: u32,
    /// `server_encoding`: `UTF8`.
    pub encoding: String,
    /// The server is a standby.
    pub in_recovery: bool,
    /// The next 64-bit transaction id: what 32-bit ones are widened with, see [`widen_xid`].
    pub next_xid: u64,
    /// Bytes of a block.
    pub block_size: u32,
    /// Where the next WAL record will be inserted; every transaction that is visible now ends at or before it.
    /// `None` on a standby.
    pub wal_insert: Option<Lsn>,
    /// Up to where the WAL is flushed, and so can be streamed. `None` on a standby.
    pub wal_flush: Option<Lsn>,
    /// Up to where a standby has replayed. `None` on a primary.
    pub wal_replay: Option<Lsn>,
}

/// Reads what the server and the database are. Does not take a transaction id.
///
/// # Errors
/// [`ErrorKind::Connection`] and whatever else the server says.
pub async fn server_info(client: &Client) -> Result<ServerInfo, CatalogError> {
    let doing = "asking the server about itself";
    // pg_current_xact_id() would assign an id, and so write; a snapshot's xmax is the next one, epoch included.
    let sql = "
        select pg_catalog.current_setting('server_version_num')::int4 as version,
            pg_catalog.current_setting('server_version') as version_text,
            pg_catalog.current_setting('server_encoding') as encoding,
            pg_catalog.current_setting('block_size')::int4 as block_size,
            d.datname::text as database, d.oid as database_oid,
            r.in_recovery,
            pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text as next_xid,
            case when not r.in_recovery then pg_catalog.pg_current_wal_insert_lsn() end as wal_insert,
            case when not r.in_recovery then pg_catalog.pg_current_wal_flush_lsn() end as wal_flush,
            case when r.in_recovery then pg_catalog.pg_last_wal_replay_lsn() end as wal_replay,
            pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'execute') as may_control
        from pg_catalog.pg_database d, (select pg_catalog.pg_is_in_recovery() as in_recovery) r
        where d.datname = pg_catalog.current_database()";
    let row = client.query_typed_one(sql, &[]).await.map_err(CatalogError::from_postgres(doing))?;
    let nonsense =
        |what: &str| CatalogError::new(ErrorKind::Server, doing, format!("{what} is not a number"));
    let system_id = if get(&row, "may_control")? {
        let sql = "select system_identifier from pg_catalog.pg_control_system()";
        let row = client.query_typed_one(sql, &[]).await.map_err(CatalogError::from_postgres(doing))?;
        Some(get::<i64>(&row, "system_identifier")?.cast_unsigned())
    } else {
        None
    };
    Ok(ServerInfo {
        version: u32::try_from(get::<i32>(&row, "version")?).map_err(|_| nonsense("server_version_num"))?,
        version_text: get(&row, "version_text")?,
        system_id,
        database: get(&row, "database")?,
        database_oid: get(&row, "database_oid")?,
        encoding: get(&row, "encoding")?,
        in_recovery: get(&row, "in_recovery")?,
        next_xid: get::<&str>(&row, "next_xid")?.parse().map_err(|_| nonsense("the next transaction id"))?,
        block_size: u32::try_from(get::<i32>(&row, "block_size")?).map_err(|_| nonsense("block_size"))?,
        wal_insert: get_lsn(&row, "wal_insert")?,
        wal_flush: get_lsn(&row, "wal_flush")?,
        wal_replay: get_lsn(&row, "wal_replay")?,
    })
}

/// The server's time, microseconds since the Unix epoch; on a standby that of the last transaction that it has replayed,
/// which may be hours ago.
///
/// # Errors
/// [`ErrorKind::Connection`] and whatever else the server says.
pub async fn server_time(client: &Client) -> Result<i64, CatalogError> {
    let sql = "
        select (extract(epoch from case when pg_catalog.pg_is_in_recovery()
            then coalesce(pg_catalog.pg_last_xact_replay_timestamp(), pg_catalog.clock_timestamp())
            else pg_catalog.clock_timestamp() end) * 1000000)::int8 as micros";
    let row = client
        .query_typed_one(sql, &[])
        .await
        .map_err(CatalogError::from_postgres("asking the server for its time"))?;
    get(&row, "micros")
}

/// Whether a session that begins now sees what a transaction did. The stream brings a transaction once its commit record is on disk; others
/// see it a moment later, and with synchronous replication once a standby has it, which may be never [10].
///
/// # Errors
/// [`ErrorKind::Connection`] and whatever else the server says.
pub async fn is_visible(client: &Client, xid: u64) -> Result<bool, CatalogError> {
    let sql = "select pg_catalog.pg_visible_in_snapshot($1::text::pg_catalog.xid8, pg_catalog.pg_current_snapshot()) as visible";
    let row = client.query_typed_one(sql, &[(&xid.to_string(), Type::TEXT)]).await;
    get(&row.map_err(CatalogError::from_postgres("asking whether a transaction is visible"))?, "visible")
}

/// Text in the encoding of the database, which is what the stream brings of a logical message; `None` where it is no text in that
/// encoding, or Unicode has no counterpart.
///
/// # Errors
/// [`ErrorKind::Connection`] and whatever else the server says.
pub async fn decode_text(client: &Client, bytes: &[u8]) -> Result<Option<String>, CatalogError> {
    // Bytes, for in SQL_ASCII the server sends as text what is none.
    let sql = "select pg_catalog.convert($1, pg_catalog.getdatabaseencoding(), 'UTF8') as utf8";
    let said = client.query_typed_one(sql, &[(&bytes, Type::BYTEA)]).await;
    match said.map_err(CatalogError::from_postgres("having a message put into Unicode")) {
        Ok(row) => Ok(String::from_utf8(get(&row, "utf8")?).ok()),
        // Class 22 is of data that are wrong; undefined_function is said of an encoding without a way to Unicode.
        Err(error) if error.sqlstate().is_some_and(|state| state.starts_with("22") || state == "42883") => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Widens a 32-bit transaction id of the stream to 64 bits, `reference` being any 64-bit id within 2^31 of it, such as
/// [`ServerInfo::next_xid`] or the one widened before.
///
/// The server never has ids in use that lie further apart.
#[must_use]
pub const fn widen_xid(xid: u32, reference: u64) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are what is compared")]
    let ahead = xid.wrapping_sub(reference as u32).cast_signed();
    reference.saturating_add_signed(ahead as i64)
}

/// What the current role may do, as far as capturing needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRights {
    /// `current_user`.
    pub role: String,
    /// `rolsuper`.
    pub superuser: bool,
    /// `rolreplication`.
    pub replication: bool,
    /// `rolcanlogin`.
    pub login: bool,
    /// `rolbypassrls`.
    pub bypass_row_security: bool,
    /// Member of `rds_replication`, which stands for REPLICATION on Amazon RDS and Aurora.
    pub rds_replication: bool,
    /// The role `rds_replication` exists: the server is one of Amazon RDS or Aurora.
    pub on_rds: bool,
    /// May create publications: CREATE on the database.
    pub create_in_database: bool,
}

impl RoleRights {
    /// May open a replication connection and create slots.
    #[must_use]
    pub const fn may_replicate(&self) -> bool {
        self.superuser || self.replication || self.rds_replication
    }
}

/// Reads what the current role may do.
///
/// # Errors
/// [`ErrorKind::Connection`] and whatever else the server says.
pub async fn current_role_rights(client: &Client) -> Result<RoleRights, CatalogError> {
    let sql = "
        select r.rolname::text as role, r.rolsuper, r.rolreplication, r.rolcanlogin, r.rolbypassrls,
            coalesce((
                select pg_catalog.pg_has_role(r.oid, rds.oid, 'member')
                from pg_catalog.pg_roles rds where rds.rolname = 'rds_replication'
            ), false) as rds_replication,
            exists (select from pg_catalog.pg_roles rds where rds.rolname = 'rds_replication') as on_rds,
            pg_catalog.has_database_privilege(pg_catalog.current_database(), 'create') as create_in_database
        from pg_catalog.pg_roles r where r.rolname = current_user";
    let row = client
        .query_typed_one(sql, &[])
        .await
        .map_err(CatalogError::from_postgres("reading the rights of the role"))?;
    Ok(RoleRights {
        role: get(&row, "role")?,
        superuser: get(&row, "rolsuper")?,
        replication: get(&row, "rolreplication")?,
        login: get(&row, "rolcanlogin")?,
        bypass_row_security: get(&row, "rolbypassrls")?,
        rds_replication: get(&row, "rds_replication")?,
        on_rds: get(&row, "on_rds")?,
        create_in_database: get(&row, "create_in_database")?,
    })
}

/// What the current role may do with one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableRights {
    /// `pg_class.oid`.
    pub oid: u32,
    /// May read every column, for the snapshot: SELECT on the table and USAGE on its schema.
    pub select: bool,
    /// May add the table to a publication: has the rights of its owner.
    pub owner: bool,
}

/// Reads what the current role may do with each of the tables, ordered by oid.
///
/// # Errors
/// [`ErrorKind::Connection`] and whatever else the server says.
pub async fn table_rights(client: &Client, oids: &[u32]) -> Result<Vec<TableRights>, CatalogError> {
    let sql = "
        select c.oid,
            coalesce(pg_catalog.has_schema_privilege(c.relnamespace, 'usage')
                and pg_catalog.has_table_privilege(c.oid, 'select'), false) as may_select,
            pg_catalog.pg_has_role(c.relowner, 'usage') as owner
        from pg_catalog.pg_class c
        where c.oid = any ($1::oid[])
        order by c.oid";
    let rows = client
        .query_typed(sql, &[(&oids, Type::OID_ARRAY)])
        .await
        .map_err(CatalogError::from_postgres("reading the rights on tables"))?;
    rows.iter()
        .map(|row| {
            Ok(TableRights {
                oid: get(row, "oid")?,
                select: get(row, "may_select")?,
                owner: get(row, "owner")?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::widen_xid;

    #[test]
    fn transaction_ids_are_widened_to_the_nearest() {
        let epoch = 1_u64 << 32;
        for (xid, reference, expected) in [
            (700, 710, 700),
            (710, 700, 710),
            (700, 5 * epoch + 710, 5 * epoch + 700),
            // The reference has just wrapped, the transaction is older.
            (u32::MAX - 3, epoch + 5, epoch - 4),
            // The transaction has wrapped, the reference has not.
            (5, epoch - 4, epoch + 5),
        ] {
            assert_eq!(widen_xid(xid, reference), expected, "{xid} by {reference}");
        }
    }
}
