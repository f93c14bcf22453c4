//! The checks before the stream.

use bygone_replication::Lsn;
use bygone_replication::catalog;
use bygone_replication::preflight::{
    Current, Recorded, ServerRefused, SlotRefused, StartRefused, TimelineEntry, check_server, check_start,
    parse_timeline_history, read_server,
};
use bygone_replication::publication::{self, PublicationState};
use bygone_replication::slot::{self, Slot};

use super::server::{Server, run, value};

const RESUME: Lsn = Lsn(0x2000);

/// What a test varies; as it is made, everything is right.
struct Given {
    system_id: u64,
    timeline: u32,
    wal_end: Lsn,
    history: Option<&'static [u8]>,
    database: &'static str,
    in_recovery: bool,
    slot: Option<Slot>,
    publications: PublicationState,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            system_id: 7,
            timeline: 2,
            wal_end: Lsn(0x3000),
            history: None,
            database: "shop",
            in_recovery: false,
            slot: Some(Slot {
                name: "bygone".to_owned(),
                plugin: Some("pgoutput".to_owned()),
                database: Some("shop".to_owned()),
                restart_lsn: Some(Lsn(0x1000)),
                confirmed_flush_lsn: Some(RESUME),
                wal_status: Some("reserved".to_owned()),
                ..Slot::default()
            }),
            publications:
                "publication 5 \"bygone\" insert,update,delete,truncate\ntable 9 \"public\" \"t\"\n"
                    .parse()
                    .unwrap(),
        }
    }
}

impl Given {
    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut given = Self::default();
        change(&mut given);
        given
    }

    fn with_slot(change: impl FnOnce(&mut Slot)) -> Self {
        Self::with(|given| change(given.slot.as_mut().unwrap()))
    }

    fn check(&self) -> Result<(), StartRefused> {
        let publications = Self::default().publications;
        let recorded = Recorded {
            system_id: 7,
            timeline: 2,
            resume: RESUME,
            slot: "bygone",
            publications: &publications,
        };
        let current = Current {
            system_id: self.system_id,
            timeline: self.timeline,
            wal_end: self.wal_end,
            timeline_history: self.history,
            database: self.database,
            in_recovery: self.in_recovery,
            slot: self.slot.as_ref(),
            publications: &self.publications,
        };
        check_start(&recorded, &current)
    }
}

#[test]
fn what_has_not_changed_may_start() {
    assert_eq!(Given::default().check(), Ok(()));
    // The slot may lag behind the log: the start is asked for beyond it, and everything up to there is durable.
    assert_eq!(Given::with_slot(|slot| slot.confirmed_flush_lsn = Some(Lsn(0x1FFF))).check(), Ok(()));
    assert_eq!(Given::with(|given| given.wal_end = RESUME).check(), Ok(()));
    // Unreserved WAL is still there.
    assert_eq!(Given::with_slot(|slot| slot.wal_status = Some("unreserved".to_owned())).check(), Ok(()));
}

#[test]
fn a_new_timeline_is_fine_when_it_begins_after_the_history_ends() {
    for (history, expected) in [
        (
            &b"1\t0/1000\tno recovery target specified\n\n2\t0/2000\tno recovery target specified\n"[..],
            Ok(()),
        ),
        (b"1\t0/1000\tx\n2\t0/2001\tbefore 2024-01-01 00:00:00+00\n", Ok(())),
        // Two failovers: where timeline 2 ended counts.
        (b"# comment\n1\t0/1000\tx\n2\t0/2800\tx\n3\t0/2900\tx\n", Ok(())),
        (b"1\t0/1000\tx\n2\t0/1FFF\tx\n", Err(Some(Lsn(0x1FFF)))),
        (b"1\t0/2000\tthe server left timeline 1 for 4 and never was on 2\n", Err(None)),
    ] {
        let given = Given::with(|given| {
            given.timeline = 4;
            given.history = Some(history);
        });
        let expected =
            expected.map_err(|switch| StartRefused::Fork { recorded: 2, current: 4, switch, resume: RESUME });
        assert_eq!(given.check(), expected);
    }
    for history in [None, Some(&b"nonsense\n"[..]), Some(b"2\n"), Some(b"2\t0-2000\tx\n")] {
        let given = Given::with(|given| {
            given.timeline = 4;
            given.history = history;
        });
        assert_eq!(given.check(), Err(StartRefused::TimelineUnknown { recorded: 2, current: 4 }));
    }
    // Back on an older timeline: the server that was left behind at a failover.
    let given = Given::with(|given| given.timeline = 1);
    assert!(matches!(given.check(), Err(StartRefused::Fork { switch: None, current: 1, .. })));
}

#[test]
fn a_timeline_history_is_read_as_the_server_writes_it() {
    let entries = parse_timeline_history(b"1\t0/13000418\tno recovery target specified \xFF\n").unwrap();
    assert_eq!(entries, [TimelineEntry { timeline: 1, end: Lsn(0x1300_0418) }]);
    assert_eq!(parse_timeline_history(b""), Some(Vec::new()));
    assert_eq!(parse_timeline_history(b"1"), None);
}

#[test]
fn each_refusal_is_of_its_own_kind_and_says_what_to_do() {
    let slot = || "bygone".to_owned();
    for (given, expected, words) in [
        (
            Given::with(|given| given.system_id = 8),
            StartRefused::OtherSystem { recorded: 7, current: 8 },
            &["another database cluster", "start a new history"][..],
        ),
        (
            Given::with(|given| given.wal_end = Lsn(0x1FFF)),
            StartRefused::SourceBehind { wal_end: Lsn(0x1FFF), resume: RESUME },
            &["0/1FFF", "0/2000", "swallow"],
        ),
        (
            Given::with(|given| {
                given.wal_end = Lsn(0x1FFF);
                given.in_recovery = true;
            }),
            StartRefused::StandbyBehind { wal_end: Lsn(0x1FFF), resume: RESUME },
            &["0/1FFF", "0/2000", "waited for"],
        ),
        (
            Given::with(|given| given.slot = None),
            StartRefused::SlotMissing { slot: slot(), resume: RESUME },
            &["does not exist any more", "0/2000", "--on-gap reconcile"],
        ),
        (
            Given::with_slot(|slot| slot.confirmed_flush_lsn = Some(Lsn(0x2001))),
            StartRefused::SlotAhead { slot: slot(), confirmed: Lsn(0x2001), resume: RESUME },
            &["0/2001", "0/2000", "--on-gap reconcile"],
        ),
        (
            Given::with_slot(|slot| slot.plugin = Some("wal2json".to_owned())),
            StartRefused::Slot(SlotRefused::Plugin { slot: slot(), plugin: Some("wal2json".to_owned()) }),
            &["wal2json", "pgoutput"],
        ),
        (
            Given::with_slot(|slot| {
                slot.plugin = None;
                slot.database = None;
            }),
            StartRefused::Slot(SlotRefused::Plugin { slot: slot(), plugin: None }),
            &["physical"],
        ),
        (
            Given::with(|given| given.database = "other"),
            StartRefused::Slot(SlotRefused::Database {
                slot: slot(),
                database: "shop".to_owned(),
                current: "other".to_owned(),
            }),
            &["\"shop\"", "\"other\""],
        ),
        (
            Given::with_slot(|slot| slot.wal_status = Some("lost".to_owned())),
            StartRefused::Slot(SlotRefused::Lost {
                slot: slot(),
                reason: "wal_removed".to_owned(),
                confirmed: Some(RESUME),
            }),
            &["0/2000", "max_slot_wal_keep_size", "pg_drop_replication_slot('bygone')"],
        ),
        (
            Given::with_slot(|slot| slot.invalidation_reason = Some("idle_timeout".to_owned())),
            StartRefused::Slot(SlotRefused::Lost {
                slot: slot(),
                reason: "idle_timeout".to_owned(),
                confirmed: Some(RESUME),
            }),
            &["idle_timeout"],
        ),
        (
            Given::with_slot(|slot| {
                slot.conflicting = Some(true);
                slot.wal_status = Some("lost".to_owned());
            }),
            StartRefused::Slot(SlotRefused::Lost {
                slot: slot(),
                reason: "conflict with recovery".to_owned(),
                confirmed: Some(RESUME),
            }),
            &["conflict with recovery"],
        ),
        (
            Given::with_slot(|slot| slot.two_phase = true),
            StartRefused::Slot(SlotRefused::TwoPhase { slot: slot() }),
            &["two_phase"],
        ),
        (
            Given::with_slot(|slot| slot.confirmed_flush_lsn = None),
            StartRefused::Slot(SlotRefused::Unfinished { slot: slot() }),
            &["interrupted"],
        ),
        (
            Given::with(|given| {
                given.in_recovery = true;
                given.slot.as_mut().unwrap().synced = Some(true);
            }),
            StartRefused::Slot(SlotRefused::Synced { slot: slot() }),
            &["standby", "primary"],
        ),
        (
            Given::with_slot(|slot| {
                slot.active = true;
                slot.active_pid = Some(42);
            }),
            StartRefused::Slot(SlotRefused::Active { slot: slot(), pid: Some(42) }),
            &["process 42"],
        ),
    ] {
        let refused = given.check().unwrap_err();
        assert_eq!(refused, expected);
        let text = refused.to_string();
        for word in words {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
        let passes = matches!(
            refused,
            StartRefused::StandbyBehind { .. } | StartRefused::Slot(SlotRefused::Active { .. })
        );
        assert_eq!(refused.passes(), passes, "{text}");
    }
    // A failover copy that was promoted is as good as any.
    assert_eq!(Given::with_slot(|slot| slot.synced = Some(true)).check(), Ok(()));
}

#[test]
fn a_changed_publication_is_refused() {
    let given = Given::with(|given| given.publications.publications[0].tables.clear());
    let refused = given.check().unwrap_err();
    assert!(matches!(&refused, StartRefused::PublicationChanged { differences } if differences.len() == 1));
    assert!(
        refused.to_string().contains("table public.t is no longer in publication \"bygone\""),
        "{refused}"
    );
    let given = Given::with(|given| given.publications = PublicationState::default());
    assert!(given.check().unwrap_err().to_string().contains("\"bygone\" no longer exists"));
}

#[test]
fn what_waiting_cures_is_told_last() {
    // Somebody who reads from a slot that is also ahead must not be waited for.
    let given = Given::with_slot(|slot| {
        slot.active = true;
        slot.confirmed_flush_lsn = Some(Lsn(0x2001));
    });
    assert!(matches!(given.check(), Err(StartRefused::SlotAhead { .. })));
}

#[tokio::test]
async fn a_slot_that_somebody_advanced_is_refused() {
    // Given a capture that ended at a position,
    let database = Server::shared().database().await;
    let client = database.connect().await;
    let name = database.own("bygone");
    run(&client, "create table t (id int primary key); create publication p for table t").await;
    run(&client, &format!("select pg_create_logical_replication_slot('{name}', 'pgoutput')")).await;
    let info = catalog::server_info(&client).await.unwrap();
    let slot = slot::read(&client, &name).await.unwrap().unwrap();
    let publications = publication::inspect(&client, &["p"]).await.unwrap();
    let recorded = Recorded {
        system_id: info.system_id.unwrap(),
        timeline: 1,
        resume: slot.confirmed_flush_lsn.unwrap(),
        slot: &name,
        publications: &publications,
    };
    let current = |slot| Current {
        system_id: info.system_id.unwrap(),
        timeline: 1,
        wal_end: info.wal_flush.unwrap(),
        timeline_history: None,
        database: &database.name,
        in_recovery: false,
        slot,
        publications: &publications,
    };
    assert_eq!(check_start(&recorded, &current(Some(&slot))), Ok(()));

    // when somebody else moves its slot, then it does not go on.
    run(&client, "insert into t values (1)").await;
    run(&client, &format!("select pg_replication_slot_advance('{name}', pg_current_wal_flush_lsn())")).await;
    let moved = slot::read(&client, &name).await.unwrap().unwrap();
    assert!(matches!(check_start(&recorded, &current(Some(&moved))), Err(StartRefused::SlotAhead { .. })));
    assert!(slot::drop(&client, &name).await.unwrap());
}

#[tokio::test]
async fn a_server_that_lacks_something_is_told_so() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    let state = read_server(&client).await.unwrap();
    assert_eq!(check_server(&state, 1, 1), Ok(()));
    assert_eq!(state.max_slots, 20);
    let refused = |change: &dyn Fn(&mut bygone_replication::preflight::ServerState)| {
        let mut state = state.clone();
        change(&mut state);
        check_server(&state, 1, 1).unwrap_err()
    };
    let full = refused(&|state| state.used_slots = 20);
    assert_eq!(full, [ServerRefused::Slots { max: 20 }]);
    assert!(full[0].to_string().contains("max_replication_slots = 30"));
    assert_eq!(refused(&|state| state.used_senders = 20), [ServerRefused::Senders { max: 20 }]);
    let old = refused(&|state| {
        state.server.version = 130_015;
        state.server.version_text = "13.15".to_owned();
    });
    assert!(old[0].to_string().contains("PostgreSQL 13.15"));
    let mut at_limit = state.clone();
    at_limit.used_slots = 20;
    assert_eq!(check_server(&at_limit, 0, 1), Ok(()), "no new slot is needed");

    // A role without REPLICATION, on a database without an encoding.
    let role = database.own("weak");
    let ascii = Server::shared()
        .create_database("encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C' template template0")
        .await;
    run(&client, &format!("create role {role} login")).await;
    let weak = Server::shared().connect(&role, &ascii).await;
    let refused = check_server(&read_server(&weak).await.unwrap(), 1, 1).unwrap_err();
    assert_eq!(refused, [ServerRefused::Replication { role: role.clone(), rds: false }]);
    let told = refused[0].to_string();
    run(&client, told.split_once("run: ").unwrap().1).await;
    // What its texts hold that is no UTF-8 is kept in hex.
    assert_eq!(check_server(&read_server(&weak).await.unwrap(), 1, 1), Ok(()));
    drop(weak);
    run(&client, &format!("drop role {role}")).await;
}

#[tokio::test]
async fn a_server_without_logical_wal_is_told_so() {
    let server: &'static Server =
        Box::leak(Box::new(Server::start(&["wal_level=replica", "max_replication_slots=0"])));
    let client = server.connect("postgres", "postgres").await;
    let refused = check_server(&read_server(&client).await.unwrap(), 1, 1).unwrap_err();
    assert_eq!(
        refused,
        [ServerRefused::WalLevel { wal_level: "replica".to_owned() }, ServerRefused::Slots { max: 0 }]
    );
    let told = refused[0].to_string();
    assert!(told.contains("alter system set wal_level = 'logical';"), "{told}");
    assert_eq!(value(&client, "show wal_level").await, "replica");
}
