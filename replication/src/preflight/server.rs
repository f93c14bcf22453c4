//! Whether a server can be captured from.

use std::fmt;

use tokio_postgres::Client;

use crate::catalog::{self, CatalogError, RoleRights, ServerInfo, get};
use crate::table::quote_identifier;

/// The oldest version of the source that is supported (`server_version_num`).
pub const OLDEST_VERSION: u32 = 140_000;

/// The first version that decodes on a standby.
const STANDBYS_DECODE: u32 = 160_000;

/// What a server has to have for a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerState {
    /// The server and the database.
    pub server: ServerInfo,
    /// The role.
    pub role: RoleRights,
    /// `wal_level`.
    pub wal_level: String,
    /// `max_replication_slots`.
    pub max_slots: u32,
    /// Slots that exist, of any kind.
    pub used_slots: u32,
    /// `max_wal_senders`.
    pub max_senders: u32,
    /// Replication connections that are open.
    pub used_senders: u32,
    /// `hot_standby_feedback`, which matters on a standby alone.
    pub standby_feedback: bool,
}

/// Something that a server lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerRefused {
    /// Too old.
    Version {
        /// `server_version`.
        version: String,
    },
    /// `wal_level` is not `logical`.
    WalLevel {
        /// What it is.
        wal_level: String,
    },
    /// A standby of a version that does not decode there.
    Standby {
        /// `server_version`.
        version: String,
    },
    /// All slots are taken.
    Slots {
        /// `max_replication_slots`.
        max: u32,
    },
    /// All WAL senders are taken.
    Senders {
        /// `max_wal_senders`.
        max: u32,
    },
    /// The role may not replicate.
    Replication {
        /// The role.
        role: String,
        /// It is an Amazon RDS or Aurora server, as far as can be told.
        rds: bool,
    },
}

impl std::error::Error for ServerRefused {}

impl fmt::Display for ServerRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { version } => {
                write!(f, "the source is PostgreSQL {version}; 14 is the oldest version that is supported")
            }
            Self::WalLevel { wal_level } => write!(
                f,
                "wal_level is {wal_level:?}, so the source's WAL does not say what changed. As a superuser run: \
                 alter system set wal_level = 'logical'; and restart the server (on managed servers it is a parameter: \
                 rds.logical_replication, cloudsql.logical_decoding, azure.replication_support)"
            ),
            Self::Standby { version } => write!(
                f,
                "the source is a standby, and PostgreSQL {version} decodes on a primary only (standbys do from 16 on). \
                 Connect to the primary"
            ),
            Self::Slots { max } => write!(
                f,
                "all {max} replication slots are taken (select slot_name, active from pg_replication_slots;). Drop one \
                 that nobody needs, or as a superuser run: alter system set max_replication_slots = {}; and restart the \
                 server",
                max.saturating_add(10)
            ),
            Self::Senders { max } => write!(
                f,
                "all {max} WAL senders are taken (select pid, application_name from pg_stat_replication;). As a superuser \
                 run: alter system set max_wal_senders = {}; and restart the server",
                max.saturating_add(10)
            ),
            Self::Replication { role, rds: false } => write!(
                f,
                "role {role:?} may not replicate. As a superuser run: alter role {} replication;",
                quote_identifier(role)
            ),
            Self::Replication { role, rds: true } => write!(
                f,
                "role {role:?} may not replicate. As the instance's master user run: grant rds_replication to {};",
                quote_identifier(role)
            ),
        }
    }
}

/// Reads what [`check_server`] looks at.
///
/// # Errors
/// [`catalog::ErrorKind::Connection`] and whatever else the server says.
pub async fn read_server(client: &Client) -> Result<ServerState, CatalogError> {
    let sql = "
        select pg_catalog.current_setting('wal_level') as wal_level,
            pg_catalog.current_setting('max_replication_slots')::int4 as max_slots,
            pg_catalog.current_setting('max_wal_senders')::int4 as max_senders,
            pg_catalog.current_setting('hot_standby_feedback')::bool as standby_feedback,
            (select pg_catalog.count(*) from pg_catalog.pg_replication_slots)::int4 as used_slots,
            (select pg_catalog.count(*) from pg_catalog.pg_stat_replication)::int4 as used_senders";
    let row = client
        .query_typed_one(sql, &[])
        .await
        .map_err(CatalogError::from_postgres("reading the server's settings"))?;
    let count = |column| get::<i32>(&row, column).map(|count| u32::try_from(count).unwrap_or_default());
    Ok(ServerState {
        server: catalog::server_info(client).await?,
        role: catalog::current_role_rights(client).await?,
        wal_level: get(&row, "wal_level")?,
        max_slots: count("max_slots")?,
        used_slots: count("used_slots")?,
        max_senders: count("max_senders")?,
        used_senders: count("used_senders")?,
        standby_feedback: get(&row, "standby_feedback")?,
    })
}

/// What will go wrong sooner or later though the server can be captured from, with the remedy.
#[must_use]
pub fn warnings(state: &ServerState) -> Vec<&'static str> {
    let mut warnings = Vec::new();
    if state.server.in_recovery && !state.standby_feedback {
        warnings.push(
            "the source is a standby with hot_standby_feedback off: the primary removes rows of its catalog that the slot \
             still needs, which ends the slot for good. As a superuser run on the standby: alter system set \
             hot_standby_feedback = on; select pg_reload_conf(); (and give it a slot on the primary: primary_slot_name)",
        );
    }
    warnings
}

/// Whether the server can be captured from. `new_slots` and `new_senders` say how many more of each are going to be
/// needed: none of the slots once the capture has its own.
///
/// # Errors
/// Everything that is lacking.
pub fn check_server(state: &ServerState, new_slots: u32, new_senders: u32) -> Result<(), Vec<ServerRefused>> {
    let mut refused = Vec::new();
    if state.server.version < OLDEST_VERSION {
        refused.push(ServerRefused::Version { version: state.server.version_text.clone() });
    }
    if state.server.in_recovery && state.server.version < STANDBYS_DECODE {
        refused.push(ServerRefused::Standby { version: state.server.version_text.clone() });
    }
    if state.wal_level != "logical" {
        refused.push(ServerRefused::WalLevel { wal_level: state.wal_level.clone() });
    }
    if state.used_slots.saturating_add(new_slots) > state.max_slots {
        refused.push(ServerRefused::Slots { max: state.max_slots });
    }
    if state.used_senders.saturating_add(new_senders) > state.max_senders {
        refused.push(ServerRefused::Senders { max: state.max_senders });
    }
    if !state.role.may_replicate() {
        refused.push(ServerRefused::Replication { role: state.role.role.clone(), rds: state.role.on_rds });
    }
    if refused.is_empty() { Ok(()) } else { Err(refused) }
}
