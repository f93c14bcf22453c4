//! Tables as the catalog has them.

use std::time::Duration;

use bygone_replication::catalog::{self, ErrorKind, SkipReason};
use bygone_replication::pattern::Patterns;
use bygone_replication::table::{ReplicaIdentity, Table, TableKind};

use super::server::{Server, run, value};
use super::zoo::{find, load, open};

fn attnums(table: &Table, names: &[&str]) -> Vec<i16> {
    let attnum = |name: &&str| table.columns.iter().find(|column| column.name == *name).unwrap().attnum;
    names.iter().map(attnum).collect()
}

#[tokio::test]
async fn keys_and_identities_are_resolved_as_the_server_does() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    open(&client).await;
    let tables = load(&client, &[]).await.tables;

    for (name, identity, primary_key, identity_index) in [
        ("orders", ReplicaIdentity::PrimaryKey, &["id"][..], &[][..]),
        ("composite_key", ReplicaIdentity::PrimaryKey, &["a", "b"], &[]),
        ("identity_index", ReplicaIdentity::Index, &[], &["y", "x"]),
        ("lost_index", ReplicaIdentity::Nothing, &["x"], &[]),
        ("pk_as_index", ReplicaIdentity::Index, &["x"], &["x"]),
        ("identity_full", ReplicaIdentity::Full, &[], &[]),
        ("full_with_key", ReplicaIdentity::Full, &["x"], &[]),
        ("identity_nothing", ReplicaIdentity::Nothing, &["x"], &[]),
        ("deferrable_key", ReplicaIdentity::Nothing, &["x"], &[]),
        ("no_key", ReplicaIdentity::Nothing, &[], &[]),
        ("no_columns", ReplicaIdentity::Nothing, &[], &[]),
        ("child", ReplicaIdentity::Nothing, &[], &[]),
    ] {
        let table = find(&tables, name);
        assert_eq!(table.identity, identity, "{name}");
        assert_eq!(table.primary_key, attnums(table, primary_key), "{name}");
        assert_eq!(table.identity_index, attnums(table, identity_index), "{name}");
        assert_eq!(table.kind, TableKind::Ordinary, "{name}");
    }
}

#[tokio::test]
async fn the_server_refuses_updates_of_just_the_tables_whose_identity_is_nothing() {
    // Given a publication of all operations for every table,
    let database = Server::shared().database().await;
    let client = database.connect().await;
    open(&client).await;
    let tables = load(&client, &[]).await.tables;
    for table in
        tables.iter().filter(|table| table.kind != TableKind::Partitioned && !table.columns.is_empty())
    {
        let name = table.name.quoted();
        run(&client, &format!("create publication trap for table only {name}")).await;
        // when a row of it is deleted,
        let deleted = client.batch_execute(&format!("delete from only {name}")).await;
        // then the server has the same opinion of its identity.
        assert_eq!(deleted.is_ok(), table.identity != ReplicaIdentity::Nothing, "{name}");
        run(&client, "drop publication trap").await;
    }
}

#[tokio::test]
async fn columns_are_described() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    open(&client).await;
    let tables = load(&client, &[]).await.tables;

    let made = find(&tables, "made");
    let seen: Vec<_> = made
        .columns
        .iter()
        .map(|column| {
            (
                column.name.as_str(),
                column.identity,
                column.generated,
                column.has_default,
                column.not_null,
                column.storage,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("id", Some('a'), None, false, true, 'p'),
            ("number", Some('d'), None, false, true, 'p'),
            ("serial", None, None, true, true, 'p'),
            ("doubled", None, Some('s'), false, false, 'p'),
            ("plain", None, None, true, false, 'p'),
            ("big", None, None, false, false, 'x'),
            ("external", None, None, false, false, 'e'),
            ("main", None, None, false, false, 'm'),
        ]
    );

    let odd = find(&tables, "we\"ird, n'ame");
    assert_eq!(odd.name.schema, "Odd.Schema");
    let names: Vec<_> = odd.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["Id", "sp ace", "tab\t", "é\\"]);

    let orders = find(&tables, "orders");
    assert_eq!((orders.persistence, orders.row_security), ('p', false));
    assert_eq!(orders.filenode.to_string(), value(&client, "select pg_relation_filenode('orders')").await);
    assert_eq!(orders.rows, None, "never analyzed");
}

#[tokio::test]
async fn what_rows_older_than_a_column_read_as_is_told_as_the_server_prints_it() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    open(&client).await;
    let tables = load(&client, &["changed"]).await.tables;

    let changed = find(&tables, "changed");
    let attnums: Vec<i16> = changed.columns.iter().map(|column| column.attnum).collect();
    assert_eq!(attnums, [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], "the dropped column leaves a gap");
    let mut told = 0;
    for column in &changed.columns {
        if let Some(missing) = &column.missing {
            let sql = format!("select {}::text from changed", column.name);
            assert_eq!(*missing, value(&client, &sql).await, "{}", column.name);
            told += 1;
        }
    }
    assert_eq!(told, 7, "c to i");
}

#[tokio::test]
async fn partitions_are_leaves_of_their_topmost_root() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    open(&client).await;
    let loaded = load(&client, &["parts"]).await;

    let names: Vec<_> = loaded.tables.iter().map(|table| table.name.name.as_str()).collect();
    assert_eq!(
        names,
        ["parts", "parts_eu_24", "parts_us"],
        "nothing between root and leaves, nothing unlogged"
    );
    let root = find(&loaded.tables, "parts");
    assert_eq!((root.kind, root.filenode, root.blocks), (TableKind::Partitioned, 0, 0));
    for leaf in ["parts_eu_24", "parts_us"] {
        let leaf = find(&loaded.tables, leaf);
        assert_eq!(leaf.kind, TableKind::Leaf { root: root.oid });
        assert_eq!(leaf.primary_key, attnums(leaf, &["id", "region", "day"]), "{leaf:?}");
    }
    let order: Vec<_> =
        find(&loaded.tables, "parts_us").columns.iter().map(|column| &column.name[..]).collect();
    assert_eq!(order, ["v", "region", "day", "id"]);
    assert_eq!(loaded.skipped.len(), 1);
    assert_eq!(loaded.skipped[0].name.name, "parts_unlogged");

    for pattern in ["parts_*", "parts_eu", "public.parts_us"] {
        let error = catalog::load_tables(&client, &Patterns::parse(&[pattern]).unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Pattern);
        assert!(error.to_string().contains("name its root public.parts"), "{error}");
    }
}

#[tokio::test]
async fn what_cannot_be_captured_is_reported() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    open(&client).await;
    let skipped = |loaded: &catalog::Loaded| -> Vec<(String, SkipReason)> {
        loaded.skipped.iter().map(|skipped| (skipped.name.name.clone(), skipped.reason)).collect()
    };

    let all = load(&client, &[]).await;
    assert_eq!(
        skipped(&all),
        [
            ("parts_unlogged".to_owned(), SkipReason::Unlogged),
            ("cache".to_owned(), SkipReason::Unlogged),
            ("far".to_owned(), SkipReason::Foreign)
        ],
        "another session's temporary tables and views are nobody's wish"
    );
    let shop = load(&client, &["shop.*", "-shop.order_*"]).await;
    let names: Vec<_> = shop.tables.iter().map(|table| table.name.name.as_str()).collect();
    assert_eq!(names, ["customers"]);
    let views = load(&client, &["shop.order_view", "order_mat", "customers"]).await;
    assert_eq!(
        skipped(&views),
        [("order_mat".to_owned(), SkipReason::View), ("order_view".to_owned(), SkipReason::View)]
    );
    let fleeting = load(&client, &["fleeting", "customers"]).await;
    assert_eq!(skipped(&fleeting), [("fleeting".to_owned(), SkipReason::Temporary)]);
    let error =
        catalog::load_tables(&client, &Patterns::parse(&["shop.custommer"]).unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("the nearest: shop.customers"), "{error}");
}

#[tokio::test]
async fn one_table_is_found_by_its_oid() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    open(&client).await;
    for table in load(&client, &[]).await.tables {
        assert_eq!(catalog::load_table(&client, table.oid).await.unwrap().as_ref(), Some(&table));
    }
    let view: u32 = value(&client, "select 'shop.order_view'::regclass::oid").await.parse().unwrap();
    assert_eq!(catalog::load_table(&client, view).await.unwrap(), None);
    assert_eq!(catalog::load_table(&client, 1).await.unwrap(), None);
}

#[tokio::test]
async fn row_security_is_told_when_it_would_filter() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    let reader = database.own("reader");
    run(
        &client,
        &format!(
            "create role {reader} login;
            create table guarded (id int primary key);
            alter table guarded enable row level security;
            create table open (id int primary key);
            grant select on guarded to {reader}"
        ),
    )
    .await;
    for (user, expected) in [("postgres", false), (reader.as_str(), true)] {
        let client = database.connect_as(user).await;
        let tables = load(&client, &[]).await.tables;
        assert_eq!(find(&tables, "guarded").row_security, expected, "{user}");
        assert!(!find(&tables, "open").row_security, "{user}");
        let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
        let rights = catalog::table_rights(&client, &oids).await.unwrap();
        let of = |name: &str| *rights.iter().find(|one| one.oid == find(&tables, name).oid).unwrap();
        assert_eq!((of("guarded").select, of("guarded").owner), (true, !expected), "{user}");
        assert_eq!(of("open").select, !expected, "{user}");
    }
    run(&client, &format!("drop owned by {reader}; drop role {reader}")).await;
}

#[tokio::test]
async fn size_and_row_count_are_the_file_system_and_the_statistics() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    run(
        &client,
        "create table big (t text); insert into big select repeat('x', 100) from generate_series(1, 5000)",
    )
    .await;
    run(&client, "analyze big").await;
    let tables = load(&client, &["big"]).await.tables;
    let blocks = value(&client, "select pg_relation_size('big') / 8192").await;
    assert_eq!(tables[0].blocks.to_string(), blocks);
    assert_eq!(tables[0].rows, Some(5000));
}

#[tokio::test]
async fn a_table_that_somebody_alters_is_not_waited_for() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    run(&client, "create table busy (id int primary key, t text)").await;
    run(&client, "insert into busy select n, repeat('x', 100) from generate_series(1, 1000) n; analyze busy")
        .await;
    let other = database.connect().await;
    run(&other, "begin; alter table busy add column more int").await;

    let loading = load(&client, &["busy"]);
    let tables =
        tokio::time::timeout(Duration::from_secs(20), loading).await.expect("it waits for the lock").tables;
    assert_eq!(tables[0].columns.len(), 2, "not committed yet");
    assert!(tables[0].blocks > 0, "measured by the estimate");
    run(&other, "rollback").await;
}

#[tokio::test]
async fn reading_the_catalog_takes_no_transaction_id() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    open(&client).await;
    run(&client, "begin isolation level repeatable read").await;
    load(&client, &[]).await;
    let info = catalog::server_info(&client).await.unwrap();
    catalog::current_role_rights(&client).await.unwrap();
    assert_eq!(value(&client, "select (pg_current_xact_id_if_assigned() is null)::text").await, "true");
    run(&client, "rollback").await;

    let id: u64 = value(&client, "select pg_current_xact_id()").await.parse().unwrap();
    assert!(id >= info.next_xid, "{id} {}", info.next_xid);
    // The cluster's epoch is 3 where it could be set: the low half alone would be below 2^32.
    assert_eq!(info.next_xid >> 32, id >> 32);
    assert_eq!(catalog::widen_xid(u32::try_from(id & 0xFFFF_FFFF).unwrap(), info.next_xid), id);
}

#[tokio::test]
async fn the_server_tells_what_it_is() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    let info = catalog::server_info(&client).await.unwrap();
    assert_eq!(info.database, database.name);
    assert_eq!(info.version.to_string(), value(&client, "show server_version_num").await);
    assert_eq!((info.encoding.as_str(), info.block_size, info.in_recovery), ("UTF8", 8192, false));
    let system_id = value(&client, "select system_identifier from pg_control_system()").await;
    assert_eq!(info.system_id.unwrap().to_string(), system_id);
    assert!(info.wal_flush.unwrap() <= info.wal_insert.unwrap());
    assert_eq!(info.wal_replay, None);

    let mut replication = database.replicate().await;
    let identity = replication.simple_query("IDENTIFY_SYSTEM").await.unwrap();
    assert_eq!(identity[0][0].as_deref(), Some(system_id.as_str()));

    let role = catalog::current_role_rights(&client).await.unwrap();
    assert!(role.superuser && role.may_replicate() && role.create_in_database && role.login && !role.on_rds);
    let weak = database.own("weak");
    run(&client, &format!("create role {weak} login")).await;
    let role = catalog::current_role_rights(&database.connect_as(&weak).await).await.unwrap();
    assert_eq!(role.role, weak);
    assert!(!role.may_replicate() && !role.create_in_database);
    // As on Amazon RDS.
    run(&client, &format!("create role rds_replication; grant rds_replication to {weak}")).await;
    let role = catalog::current_role_rights(&database.connect_as(&weak).await).await.unwrap();
    assert!(role.may_replicate() && role.on_rds);
    run(&client, &format!("drop role rds_replication; drop role {weak}")).await;
}

#[tokio::test]
async fn types_that_change_while_they_are_read_do_not_confuse() {
    // Given a table whose column changes between two types that come and go,
    let database = Server::shared().database().await;
    let client = database.connect().await;
    let other = database.connect().await;
    run(&client, "create table restless (id int primary key, v text)").await;
    let changing = tokio::spawn(async move {
        for round in 0..200 {
            let create = format!("create type t{round} as enum ('x')");
            run(&other, &create).await;
            run(&other, &format!("alter table restless drop column v, add column v t{round}")).await;
            if round > 0 {
                run(&other, &format!("drop type t{}", round - 1)).await;
            }
        }
    });
    // when it is loaded over and over meanwhile, then each answer is whole.
    while !changing.is_finished() {
        let tables = load(&client, &["restless"]).await.tables;
        let names: Vec<_> = tables[0].columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["id", "v"]);
        assert!(!tables[0].columns[1].data_type.name.is_empty());
    }
    changing.await.unwrap();
}

/// Run with `--ignored --nocapture`; making the tables takes longer than reading them.
#[tokio::test]
#[ignore = "a measurement: makes 5,000 tables"]
async fn five_thousand_tables_are_read_in_seconds() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    let columns: Vec<String> =
        (0..20).map(|n| format!("c{n} {}", ["int", "text", "numeric(10,2)"][n % 3])).collect();
    for batch in 0..50 {
        let list = columns.join(", ");
        run(
            &client,
            &format!(
                "do $$ begin for n in 1..100 loop execute format('create table t_%s ({list}, primary key (c0))', \
                 {batch} * 100 + n); end loop; end $$"
            ),
        )
        .await;
    }
    let start = std::time::Instant::now();
    let tables = load(&client, &[]).await.tables;
    let took = start.elapsed();
    println!("{} tables in {took:?}", tables.len());
    assert_eq!(tables.len(), 5000);
    assert!(took < Duration::from_secs(10), "{took:?}");
}
