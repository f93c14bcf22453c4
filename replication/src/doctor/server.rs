//! The server: its version, settings, slots and what runs on it.

use std::collections::HashMap;

use tokio_postgres::Client;

use super::Check;
use crate::catalog::{CatalogError, get};
use crate::preflight::{ServerRefused, ServerState, check_server};
use crate::slot::{self, FAILOVER_VERSION, Slot};
use crate::table::{quote_identifier, quote_literal};

/// A transaction that is older holds up the making of a slot, and the WAL that a slot keeps.
const OLD_TRANSACTION_S: f64 = 60.0;
/// A walsender that is given less time is ended while a commit is being uploaded.
const SHORT_SENDER_TIMEOUT_MS: i64 = 10_000;

/// The settings that matter, in `pg_settings`' own units; what a version does not have is absent.
struct Settings(HashMap<String, String>);

impl Settings {
    async fn read(client: &Client) -> Result<Self, CatalogError> {
        let sql = "select name, setting from pg_catalog.pg_settings where name in ('max_slot_wal_keep_size',
            'idle_replication_slot_timeout', 'wal_sender_timeout', 'logical_decoding_work_mem', 'hot_standby_feedback',
            'sync_replication_slots', 'synchronized_standby_slots', 'primary_slot_name', 'track_commit_timestamp')";
        let rows = client
            .query_typed(sql, &[])
            .await
            .map_err(CatalogError::from_postgres("reading the server's settings"))?;
        rows.iter()
            .map(|row| Ok((get(row, "name")?, get(row, "setting")?)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.0.get(name)?.parse().ok()
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// The slot that a capture is to read from.
#[derive(Clone, Copy, Debug)]
pub struct WantedSlot<'a> {
    /// Its name.
    pub name: &'a str,
    /// It has to be there already (`--slot`): bygone makes none in its place.
    pub given: bool,
}

/// Checks the server, the role and the slot, which may be there already.
///
/// # Errors
/// Where the server does not answer.
pub async fn server(
    client: &Client,
    state: &ServerState,
    slot: WantedSlot<'_>,
) -> Result<Vec<Check>, CatalogError> {
    let settings = Settings::read(client).await?;
    let existing = slot::read(client, slot.name).await?;
    let mut checks = vec![Check::ok(
        "server",
        format!(
            "PostgreSQL {}{}, database {:?}, encoding {}",
            state.server.version_text,
            if state.server.in_recovery { " (a standby)" } else { "" },
            state.server.database,
            state.server.encoding
        ),
    )];
    checks.extend(essentials(state, existing.is_some()));
    checks.extend(wanted_slot(slot, existing.as_ref(), &state.server.database));
    checks.push(kept_wal(&settings));
    checks.extend(timeouts(&settings));
    checks.push(work_memory(&settings));
    if state.server.in_recovery {
        checks.extend(standby(&settings, state.standby_feedback));
    } else {
        checks.extend(failover(client, state.server.version, &settings, existing.as_ref()).await?);
    }
    if existing.is_none() {
        checks.extend(old_transactions(client).await?);
    }
    Ok(checks)
}

/// What a capture cannot begin without.
fn essentials(state: &ServerState, has_slot: bool) -> Vec<Check> {
    let refused = check_server(state, u32::from(!has_slot), 1).err().unwrap_or_default();
    let of = |check: &'static str, fine: String, is_it: fn(&ServerRefused) -> bool, fix: Option<String>| {
        match refused.iter().find(|refused| is_it(refused)) {
            Some(refused) => {
                let problem = Check::problem(check, refused.to_string());
                match fix {
                    Some(fix) => problem.fix(fix),
                    None => problem,
                }
            }
            None => Check::ok(check, fine),
        }
    };
    let role = quote_identifier(&state.role.role);
    let setting =
        |name: &str, value: u32| format!("alter system set {name} = {value}; -- then restart the server");
    let replication = if state.role.on_rds {
        format!("grant rds_replication to {role};")
    } else {
        format!("alter role {role} replication;")
    };
    let mut checks = vec![
        of("version", "supported".to_owned(), |r| matches!(r, ServerRefused::Version { .. }), None),
        of(
            "wal_level",
            state.wal_level.clone(),
            |r| matches!(r, ServerRefused::WalLevel { .. }),
            Some("alter system set wal_level = 'logical'; -- then restart the server".to_owned()),
        ),
        of(
            "replication_slots",
            format!("{} of {} are taken", state.used_slots, state.max_slots),
            |r| matches!(r, ServerRefused::Slots { .. }),
            Some(setting("max_replication_slots", state.max_slots.saturating_add(10))),
        ),
        of(
            "wal_senders",
            format!("{} of {} are taken", state.used_senders, state.max_senders),
            |r| matches!(r, ServerRefused::Senders { .. }),
            Some(setting("max_wal_senders", state.max_senders.saturating_add(10))),
        ),
        of(
            "role_replication",
            format!("role {:?} may replicate", state.role.role),
            |r| matches!(r, ServerRefused::Replication { .. }),
            Some(replication),
        ),
    ];
    if let Some(standby) = refused.iter().find(|refused| matches!(refused, ServerRefused::Standby { .. })) {
        checks.push(Check::problem("standby", standby.to_string()));
    }
    let short = |free: u32| (1..=2).contains(&free);
    if short(state.max_slots.saturating_sub(state.used_slots)) {
        checks.push(
            Check::warning(
                "replication_slots",
                "few are left: tables that come later are copied through a second one",
            )
            .fix(setting("max_replication_slots", state.max_slots.saturating_add(10))),
        );
    }
    checks
}

fn wanted_slot(wanted: WantedSlot<'_>, slot: Option<&Slot>, database: &str) -> Vec<Check> {
    let WantedSlot { name, given } = wanted;
    let quoted = quote_literal(name);
    let Some(slot) = slot else {
        return vec![if given {
            Check::problem(
                "slot",
                format!("there is no {name:?}, and bygone run makes none where --slot is given"),
            )
            .fix(format!(
                "select pg_create_logical_replication_slot({quoted}, 'pgoutput'); -- after the publications"
            ))
        } else {
            Check::ok("slot", format!("{name:?} will be made by bygone run"))
        }];
    };
    let drop = format!("select pg_drop_replication_slot({quoted});");
    if let Some(reason) = slot.lost() {
        return vec![
            Check::problem(
                "slot",
                format!(
                    "{name:?} is lost ({reason}): what changed since it was read last can never be streamed"
                ),
            )
            .fix(format!("{drop} -- and start bygone run with --on-gap reconcile")),
        ];
    }
    if slot.plugin.as_deref() != Some("pgoutput") || slot.database.as_deref() != Some(database) {
        return vec![
            Check::problem(
                "slot",
                format!(
                    "{name:?} is a slot of something else (plugin {}, database {})",
                    slot.plugin.as_deref().unwrap_or("none"),
                    slot.database.as_deref().unwrap_or("none")
                ),
            )
            .fix(if given { "give another --slot" } else { "give the capture another --name" }),
        ];
    }
    let held = slot.wal_held.unwrap_or_default();
    let who = match slot.active_pid {
        Some(pid) => format!("read by server process {pid}"),
        None => "nobody reads it".to_owned(),
    };
    let said = format!("{name:?}: {who}; the source keeps {} for it", mebibytes(held));
    let check = match slot.safe_wal_size {
        Some(left) if held > left => {
            Check::warning("slot", format!("{said}; after {} more it is lost", mebibytes(left)))
        }
        _ if slot.active || held < (1 << 30) => Check::ok("slot", said),
        _ => Check::warning("slot", said)
            .fix(format!("start bygone run; if the capture is not wanted any more: {drop}")),
    };
    vec![check]
}

fn kept_wal(settings: &Settings) -> Check {
    match settings.number("max_slot_wal_keep_size") {
        Some(limit) if limit >= 0 => Check::ok(
            "max_slot_wal_keep_size",
            format!("{limit} MB: a slot that falls further behind is lost, and bygone says so before"),
        ),
        _ => Check::warning(
            "max_slot_wal_keep_size",
            "not set: while bygone is down, the WAL that its slot keeps can fill the source's disk",
        )
        .fix("alter system set max_slot_wal_keep_size = '100GB'; select pg_reload_conf(); -- what the disk can spare"),
    }
}

fn timeouts(settings: &Settings) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Some(seconds) = settings.number("idle_replication_slot_timeout") {
        checks.push(if seconds == 0 {
            Check::ok("idle_replication_slot_timeout", "off")
        } else {
            Check::warning(
                "idle_replication_slot_timeout",
                format!("{seconds} s: the slot is lost when bygone is down for longer"),
            )
            .fix("alter system set idle_replication_slot_timeout = 0; select pg_reload_conf();")
        });
    }
    let timeout = settings.number("wal_sender_timeout").unwrap_or(60_000);
    checks.push(match timeout {
        0 => Check::warning(
            "wal_sender_timeout",
            "off: the server does not notice when bygone's connection is gone, and holds the slot",
        )
        .fix("alter system set wal_sender_timeout = '60s'; select pg_reload_conf();"),
        1..SHORT_SENDER_TIMEOUT_MS => Check::warning(
            "wal_sender_timeout",
            format!("{timeout} ms is short: connections are cut when the network or machine stalls"),
        )
        .fix("alter system set wal_sender_timeout = '60s'; select pg_reload_conf();"),
        _ => Check::ok("wal_sender_timeout", format!("{} s", timeout / 1000)),
    });
    checks
}

fn work_memory(settings: &Settings) -> Check {
    let kilobytes = settings.number("logical_decoding_work_mem").unwrap_or(65_536);
    if kilobytes < 16_384 {
        return Check::warning(
            "logical_decoding_work_mem",
            format!("{kilobytes} kB: transactions above that are spilled to the source's disk before they are sent"),
        )
        .fix("alter system set logical_decoding_work_mem = '64MB'; select pg_reload_conf();");
    }
    Check::ok(
        "logical_decoding_work_mem",
        format!("{} MB; larger transactions are spilled on the source", kilobytes / 1024),
    )
}

fn standby(settings: &Settings, feedback: bool) -> Vec<Check> {
    let mut checks = vec![if feedback {
        Check::ok("hot_standby_feedback", "on")
    } else {
        Check::warning(
            "hot_standby_feedback",
            "off: the primary removes rows of its catalog that the slot still needs, which ends the slot for good",
        )
        .fix("alter system set hot_standby_feedback = on; select pg_reload_conf(); -- on the standby")
    }];
    if settings.text("primary_slot_name").is_none_or(str::is_empty) {
        checks.push(
            Check::warning("primary_slot_name", "not set: the primary may remove WAL that this standby still needs")
                .fix("alter system set primary_slot_name = '…'; select pg_reload_conf(); -- a physical slot on the primary"),
        );
    }
    checks
}

/// Whether the slot would survive a failover, where the primary has standbys.
async fn failover(
    client: &Client,
    version: u32,
    settings: &Settings,
    slot: Option<&Slot>,
) -> Result<Vec<Check>, CatalogError> {
    let sql = "select pg_catalog.count(*)::int4 as standbys from pg_catalog.pg_replication_slots where slot_type = 'physical'";
    let row = client
        .query_typed_one(sql, &[])
        .await
        .map_err(CatalogError::from_postgres("looking for standbys"))?;
    let standbys: i32 = get(&row, "standbys")?;
    if standbys == 0 {
        return Ok(Vec::new());
    }
    if version < FAILOVER_VERSION {
        return Ok(vec![Check::warning(
            "failover",
            "the source has a standby, and before PostgreSQL 17 slots do not survive a failover: after one, bygone run stops, and \
             goes on with --on-gap reconcile",
        )]);
    }
    let mut checks = Vec::new();
    if settings.text("synchronized_standby_slots").is_none_or(str::is_empty) {
        checks.push(
            Check::warning("failover", "bygone may be sent what the standby does not have yet, which a failover would undo")
                .fix("alter system set synchronized_standby_slots = '…'; select pg_reload_conf(); -- the standby's physical slot"),
        );
    }
    if slot.is_some_and(|slot| slot.failover == Some(false)) {
        checks.push(
            Check::warning("failover", "the slot is none that standbys keep a copy of")
                .fix("ALTER_REPLICATION_SLOT … (FAILOVER true), on a replication connection"),
        );
    }
    if checks.is_empty() {
        checks.push(Check::ok(
            "failover",
            "standbys keep a copy of the slot (sync_replication_slots has to be on there)",
        ));
    }
    Ok(checks)
}

/// Making a slot waits for all transactions that run.
async fn old_transactions(client: &Client) -> Result<Vec<Check>, CatalogError> {
    let running = slot::running_transactions(client).await?;
    let old = running.iter().filter(|running| running.seconds.is_some_and(|age| age > OLD_TRANSACTION_S));
    let mut checks: Vec<Check> = old
        .map(|running| {
            let age = running.seconds.unwrap_or_default();
            match (&running.prepared, running.pid) {
                (Some(name), _) => Check::warning(
                    "long_transactions",
                    format!("the making of the slot would wait for the prepared transaction {name:?}, {age:.0} s old"),
                )
                .fix(format!("commit prepared {0}; -- or: rollback prepared {0};", quote_literal(name))),
                (None, pid) => {
                    let pid = pid.unwrap_or_default();
                    Check::warning(
                        "long_transactions",
                        format!("the making of the slot would wait for the transaction of server process {pid}, {age:.0} s old"),
                    )
                    .fix(format!("select pg_terminate_backend({pid}); -- if nobody needs it"))
                }
            }
        })
        .collect();
    if checks.is_empty() {
        checks.push(Check::ok("long_transactions", "none that the making of the slot would wait for"));
    }
    Ok(checks)
}

fn mebibytes(bytes: i64) -> String {
    format!("{:.1} MiB of WAL", bytes as f64 / f64::from(1 << 20))
}
