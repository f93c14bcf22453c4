//! Slots and the commands of the replication connection, on a real server.

use bygone_replication::Lsn;
use bygone_replication::catalog::{self, ErrorKind};
use bygone_replication::slot::{self, CreateOptions};

use super::server::{Server, run, value};

#[tokio::test]
async fn the_commands_are_taken_by_the_server() {
    // Given publications whose names are as awkward as can be,
    let database = Server::shared().database().await;
    let client = database.connect().await;
    let names = ["by'gone", "a,b", "q\"q", "back\\slash", "Case", "sp ace"];
    run(&client, "create table t (id int primary key)").await;
    for name in names {
        let quoted = bygone_replication::table::quote_identifier(name);
        run(&client, &format!("create publication {quoted} for table t")).await;
    }
    let version = catalog::server_info(&client).await.unwrap().version;
    let name = database.own("slot");
    // when a slot is created with the command of this version,
    let mut replication = database.replicate().await;
    let options = CreateOptions { export_snapshot: true, ..CreateOptions::default() };
    let created =
        replication.simple_query(&slot::create_command(version, &name, options).unwrap()).await.unwrap();
    let point: Lsn = created[0][1].as_deref().unwrap().parse().unwrap();
    assert!(created[0][2].is_some(), "a snapshot is exported");

    // then its row says so,
    let row = slot::read(&client, &name).await.unwrap().unwrap();
    assert_eq!(row.name, name);
    assert_eq!(row.plugin.as_deref(), Some("pgoutput"));
    assert_eq!(row.database.as_deref(), Some(database.name.as_str()));
    assert_eq!(row.confirmed_flush_lsn, Some(point));
    assert!(row.restart_lsn.unwrap() <= point);
    assert_eq!((row.active, row.temporary, row.two_phase, row.lost()), (false, false, false, None));
    assert_eq!(row.wal_status.as_deref(), Some("reserved"));
    assert!(row.catalog_xmin.is_some() && row.wal_held.unwrap() >= 0);
    let of_version = if version >= 170_000 { (Some(false), Some(false)) } else { (None, None) };
    assert_eq!((row.failover, row.synced), of_version);

    // and the stream of the publications begins and carries what they publish: only a list that the server splits into
    // the right names does.
    run(&client, "insert into t values (7)").await;
    let start = slot::start_command(&name, point, &names, true);
    let (_, options) = start.split_once('(').unwrap();
    let options: Vec<String> = options
        .trim_end_matches(')')
        .split(", ")
        .map(|option| {
            let (key, value) = option.split_once(' ').unwrap();
            format!("'{key}', {value}")
        })
        .collect();
    // The same options, over the SQL interface.
    let sql = format!(
        "select count(*) from pg_logical_slot_peek_binary_changes('{name}', null, null, {}) where get_byte(data, 0) = 73",
        options.join(", ").replace("'publication_names', '", "'publication_names', E'").replace('\\', "\\\\")
    );
    assert_eq!(value(&client, &sql).await, "1", "one insert");
    let refused = replication.simple_query(&start).await.unwrap_err();
    assert_eq!(refused.sqlstate(), None, "COPY BOTH begins, which this call does not follow: {refused}");
    drop(replication);

    let mut tries = 0;
    let dropped = loop {
        match slot::drop(&client, &name).await {
            Err(error) if error.kind() == ErrorKind::Busy && tries < 100 => {
                // The walsender has not noticed yet that its client is gone.
                tries += 1;
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            other => break other.unwrap(),
        }
    };
    assert!(dropped);
    assert!(!slot::drop(&client, &name).await.unwrap(), "there is none any more");
    assert_eq!(slot::read(&client, &name).await.unwrap(), None);
}

#[tokio::test]
async fn a_temporary_slot_lives_as_long_as_its_session() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    let version = catalog::server_info(&client).await.unwrap().version;
    let name = database.own("temporary");
    let mut replication = database.replicate().await;
    let options = CreateOptions { temporary: true, failover: false, export_snapshot: false };
    let created =
        replication.simple_query(&slot::create_command(version, &name, options).unwrap()).await.unwrap();
    assert_eq!(created[0][2], None, "no snapshot was asked for");
    let row = slot::read(&client, &name).await.unwrap().unwrap();
    assert!(row.temporary && row.active && row.active_pid.is_some());
    let error = slot::drop(&client, &name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    replication.simple_query(&slot::drop_command(&name)).await.unwrap();
    assert_eq!(slot::read(&client, &name).await.unwrap(), None);
}

#[tokio::test]
async fn slots_are_listed_by_the_beginning_of_their_name() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    let prefix = database.own("list");
    for ending in ["b", "a"] {
        let sql = format!("select pg_create_logical_replication_slot('{prefix}_{ending}', 'pgoutput')");
        run(&client, &sql).await;
    }
    let names = |slots: Vec<slot::Slot>| -> Vec<String> { slots.into_iter().map(|slot| slot.name).collect() };
    let all = names(slot::read_all(&client, &prefix).await.unwrap());
    assert_eq!(all, [format!("{prefix}_a"), format!("{prefix}_b")]);
    for name in all {
        assert!(slot::drop(&client, &name).await.unwrap());
    }
}

#[tokio::test]
async fn a_role_without_rights_is_told_how_a_slot_is_dropped() {
    let database = Server::shared().database().await;
    let admin = database.connect().await;
    let name = database.own("kept");
    let role = database.own("weak");
    run(
        &admin,
        &format!("select pg_create_logical_replication_slot('{name}', 'pgoutput'); create role {role} login"),
    )
    .await;
    let client = database.connect_as(&role).await;
    assert!(slot::read(&client, &name).await.unwrap().is_some(), "everybody may look");
    let error = slot::drop(&client, &name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rights);
    let told = error.to_string();
    let (_, sql) = told.split_once("run: ").unwrap();
    run(&admin, sql).await;
    assert_eq!(slot::read(&admin, &name).await.unwrap(), None);
    run(&admin, &format!("drop role {role}")).await;
}

#[tokio::test]
async fn a_slot_whose_wal_is_gone_is_lost_and_keeps_its_position() {
    let server: &'static Server = Box::leak(Box::new(Server::start(&[
        "max_slot_wal_keep_size=1MB",
        "max_wal_size=32MB",
        "wal_keep_size=0",
    ])));
    let database = server.database().await;
    let client = database.connect().await;
    run(&client, "select pg_create_logical_replication_slot('doomed', 'pgoutput')").await;
    let before = slot::read(&client, "doomed").await.unwrap().unwrap();
    assert_eq!(before.lost(), None);
    assert!(before.safe_wal_size.is_some());
    for _ in 0..6 {
        run(
            &client,
            "select pg_logical_emit_message(false, 'fill', repeat('x', 1000000)); select pg_switch_wal()",
        )
        .await;
    }
    run(&client, "checkpoint").await;
    let after = slot::read(&client, "doomed").await.unwrap().unwrap();
    assert_eq!(after.lost(), Some("wal_removed"), "{after:?}");
    assert_eq!(after.confirmed_flush_lsn, before.confirmed_flush_lsn);
    let refused = bygone_replication::preflight::check_slot(&after, &database.name, false).unwrap_err();
    assert!(refused.to_string().contains("is lost (wal_removed)"), "{refused}");
    assert!(slot::drop(&client, "doomed").await.unwrap());
}

#[tokio::test]
async fn what_the_making_of_a_slot_waits_for_is_named() {
    // Its own server: slots that other tests make would wait, too.
    let server: &'static Server = Box::leak(Box::new(Server::start(&[])));
    let database = server.database().await;
    let client = database.connect().await;
    run(&client, "create table t (id int)").await;
    let (writer, reader) = (database.connect().await, database.connect().await);
    run(&client, "begin; insert into t values (1); prepare transaction 'forgotten'").await;
    run(&writer, "set application_name = 'writer'; begin; insert into t values (2)").await;
    run(&reader, "begin; select * from t").await;

    let mut running = slot::running_transactions(&client).await.unwrap();
    running.retain(|one| one.database.as_deref() == Some(database.name.as_str()));
    let found: Vec<_> =
        running.iter().map(|one| (one.prepared.as_deref(), one.application.as_deref())).collect();
    assert_eq!(found, [(Some("forgotten"), None), (None, Some("writer"))], "oldest first, and no reader");
    assert_eq!(running[1].state.as_deref(), Some("idle in transaction"));
    assert!(running[1].pid.is_some() && running.iter().all(|one| one.seconds.unwrap() >= 0.0));
    run(&client, "rollback prepared 'forgotten'").await;
}

#[tokio::test]
async fn a_failover_slot_is_made_where_the_server_knows_them() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    let version = catalog::server_info(&client).await.unwrap().version;
    let name = database.own("failover");
    let options = CreateOptions { failover: true, ..CreateOptions::default() };
    let command = slot::create_command(version, &name, options);
    if version < 170_000 {
        assert_eq!(command.unwrap_err().kind(), ErrorKind::Unsupported);
        return;
    }
    let mut replication = database.replicate().await;
    replication.simple_query(&command.unwrap()).await.unwrap();
    assert_eq!(slot::read(&client, &name).await.unwrap().unwrap().failover, Some(true));
    assert!(slot::drop(&client, &name).await.unwrap());
}
