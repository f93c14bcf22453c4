//! Sessions: their parameters, hosts in order, queries, tokio-postgres over our own connection.

use std::time::{Duration, Instant};

use bygone_replication::session::connect_sql;
use bygone_replication::wire::{Connection, Mode};
use bygone_replication::{ErrorKind, Policy};

use crate::cluster::{Cluster, free_port, options};

const PARAMETERS: [(&str, &str, &str); 10] = [
    ("TimeZone", "UTC", "Asia/Kolkata"),
    ("DateStyle", "ISO, DMY", "SQL, DMY"),
    ("IntervalStyle", "postgres", "iso_8601"),
    ("extra_float_digits", "3", "-2"),
    ("bytea_output", "hex", "escape"),
    ("lc_monetary", "C", "C.UTF-8"),
    ("xmloption", "content", "document"),
    ("quote_all_identifiers", "off", "on"),
    ("client_encoding", "UTF8", "LATIN1"),
    ("statement_timeout", "0", "1"),
];

#[tokio::test]
async fn session_parameters_win_over_those_of_server_database_and_role() {
    let cluster = Cluster::start("datestyle = 'SQL, DMY'\ntimezone = 'Asia/Kolkata'");
    cluster.psql("create role app login replication");
    for (name, _, other) in PARAMETERS {
        if name == "client_encoding" || name == "statement_timeout" {
            cluster.psql(&format!("alter role app set {name} = '{other}'"));
            continue;
        }
        cluster.psql(&format!("alter database postgres set {name} = '{other}'"));
        cluster.psql(&format!("alter role app in database postgres set {name} = '{other}'"));
    }
    for mode in [Mode::Sql, Mode::Replication] {
        let mut connection = Connection::connect(&cluster.tcp("user=app"), mode).await.unwrap();
        for (name, ours, _) in PARAMETERS {
            let rows = connection.simple_query(&format!("show {name}")).await.unwrap();
            assert_eq!(rows, [[Some(ours.to_owned())]], "{name} {mode:?}");
        }
        assert_eq!(connection.parameter("application_name"), Some("bygone"));
        assert_eq!(connection.parameter("TimeZone"), Some("UTC"));
        connection.close().await;
    }
    let client = connect_sql(&cluster.tcp("user=app")).await.unwrap();
    for (name, ours, _) in PARAMETERS {
        let row = client.query_one(&format!("show {name}"), &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), ours, "{name}");
    }
    // What the user sets by hand stays theirs.
    let own =
        cluster.tcp("user=app application_name=mine options='-c statement_timeout=7s -c search_path=x'");
    let client = connect_sql(&own).await.unwrap();
    for (name, value) in [("statement_timeout", "7s"), ("application_name", "mine"), ("search_path", "x")] {
        let row = client.query_one(&format!("show {name}"), &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), value);
    }
}

#[tokio::test]
async fn queries_give_their_last_rows_and_survive_errors() {
    let cluster = Cluster::start("");
    let mut connection = Connection::connect(&cluster.socket(""), Mode::Replication).await.unwrap();
    assert_eq!(connection.server_version().to_string(), cluster.psql("show server_version_num"));

    let rows = connection.simple_query("IDENTIFY_SYSTEM").await.unwrap();
    assert_eq!(rows[0].len(), 4);
    assert_eq!(
        rows[0][0].as_deref(),
        Some(&*cluster.psql("select system_identifier from pg_control_system()"))
    );
    assert_eq!(rows[0][3].as_deref(), Some("postgres"));

    let rows = connection.simple_query("select 1; select null, 'ä', ''").await.unwrap();
    assert_eq!(rows, [[None, Some("ä".to_owned()), Some(String::new())]]);
    assert!(connection.simple_query("").await.unwrap().is_empty());
    assert!(connection.simple_query("do $$ begin raise warning 'look'; end $$").await.unwrap().is_empty());

    let err = connection.simple_query("select 1; select 1/0").await.unwrap_err();
    assert_eq!(err.sqlstate(), Some("22012"), "{err}");
    let err = connection.simple_query("create temp table t (a int); copy t from stdin").await.unwrap_err();
    assert_eq!(err.sqlstate(), Some("57014"), "{err}");
    let rows =
        connection.simple_query("select repeat('x', 3000000), g from generate_series(1, 3) g").await.unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[2][0].as_ref().unwrap().len(), 3_000_000);

    let slot = "CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput";
    assert_eq!(connection.simple_query(slot).await.unwrap()[0][0].as_deref(), Some("s"));
}

#[tokio::test]
async fn a_command_left_in_the_middle_spoils_the_connection() {
    let cluster = Cluster::start("");
    let mut connection = Connection::connect(&cluster.tcp(""), Mode::Sql).await.unwrap();
    let canceller = connection.canceller();
    let slow = connection.simple_query("select pg_sleep(30)");
    assert!(tokio::time::timeout(Duration::from_millis(100), slow).await.is_err());
    let err = connection.simple_query("select 1").await.unwrap_err();
    assert_eq!((err.kind(), err.policy()), (ErrorKind::Abandoned, Policy::Stop));
    canceller.cancel().await.unwrap();
}

#[tokio::test]
async fn a_running_command_can_be_cancelled() {
    let cluster = Cluster::start("");
    let mut connection = Connection::connect(&cluster.tcp(""), Mode::Sql).await.unwrap();
    let canceller = connection.canceller();
    let started = Instant::now();
    let (result, ()) = tokio::join!(connection.simple_query("select pg_sleep(30)"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        canceller.cancel().await.unwrap();
    });
    assert_eq!(result.unwrap_err().sqlstate(), Some("57014"));
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(connection.simple_query("select 1").await.unwrap(), [[Some("1".to_owned())]]);
}

#[tokio::test]
async fn hosts_are_tried_in_order() {
    let cluster = Cluster::start("");
    let dead = free_port();
    let text = format!("host=127.0.0.1,127.0.0.1 port={dead},{} user=postgres", cluster.port);
    let connection = Connection::connect(&options(&text), Mode::Sql).await.unwrap();
    assert_eq!(connection.host().port, cluster.port);

    for (text, kind) in [
        (format!("host=127.0.0.1 port={dead} user=x"), ErrorKind::Io),
        ("host=/nonexistent user=x".to_owned(), ErrorKind::Io),
        ("host=no-such-host.invalid user=x".to_owned(), ErrorKind::Resolve),
    ] {
        let err = Connection::connect(&options(&text), Mode::Sql).await.unwrap_err();
        assert_eq!((err.kind(), err.policy()), (kind, Policy::Retry), "{err}");
    }

    // A listener that never says anything.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let text =
        format!("host=127.0.0.1,127.0.0.1 port={port},{} user=postgres connect_timeout=2", cluster.port);
    let started = Instant::now();
    let connection = Connection::connect(&options(&text), Mode::Sql).await.unwrap();
    assert_eq!(connection.host().port, cluster.port);
    assert!((2..10).contains(&started.elapsed().as_secs()));
    let text = format!("host=127.0.0.1 port={port} user=postgres connect_timeout=2");
    let err = Connection::connect(&options(&text), Mode::Sql).await.unwrap_err();
    assert_eq!((err.kind(), err.policy()), (ErrorKind::Timeout, Policy::Retry), "{err}");
}

#[tokio::test]
async fn the_wanted_sort_of_server_is_found() {
    let reader = Cluster::start("default_transaction_read_only = on");
    let writer = Cluster::start("");
    for (wanted, port) in [
        ("any", Some(reader.port)),
        ("read-write", Some(writer.port)),
        ("read-only", Some(reader.port)),
        ("primary", Some(reader.port)),
        ("standby", None),
        ("prefer-standby", Some(reader.port)),
    ] {
        let ports = format!("{},{}", reader.port, writer.port);
        let text =
            format!("host=127.0.0.1,127.0.0.1 port={ports} user=postgres target_session_attrs={wanted}");
        let found = Connection::connect(&options(&text), Mode::Sql).await;
        match (found, port) {
            (Ok(connection), port) => assert_eq!(Some(connection.host().port), port, "{wanted}"),
            (Err(err), None) => assert_eq!(err.policy(), Policy::Retry, "{err}"),
            (Err(err), Some(_)) => panic!("{wanted}: {err}"),
        }
    }
}

#[tokio::test]
async fn tokio_postgres_works_over_our_connection() {
    let cluster = Cluster::start("");
    for options in [cluster.tcp(""), cluster.socket("")] {
        let mut client = connect_sql(&options).await.unwrap();
        let transaction = client.transaction().await.unwrap();
        let rows = transaction
            .query("select g, repeat('x', 1000) from generate_series(1, $1::int) g", &[&5000])
            .await
            .unwrap();
        assert_eq!(rows.len(), 5000);
        assert_eq!(rows[4999].get::<_, i32>(0), 5000);
        transaction.commit().await.unwrap();
        let row = client
            .query_one("select application_name from pg_stat_activity where pid = pg_backend_pid()", &[]);
        assert_eq!(row.await.unwrap().get::<_, &str>(0), "bygone");
        let err: bygone_replication::Error = client.query_one("select 1/0", &[]).await.unwrap_err().into();
        assert_eq!(err.sqlstate(), Some("22012"));
        let err = client.query_one("select pg_terminate_backend(pg_backend_pid())", &[]).await.unwrap_err();
        let err: bygone_replication::Error = err.into();
        assert_eq!(err.policy(), Policy::Retry, "{err}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let err: bygone_replication::Error = client.query_one("select 1", &[]).await.unwrap_err().into();
        assert_eq!((err.kind(), err.policy()), (ErrorKind::Closed, Policy::Retry), "{err}");
    }
    assert_eq!(cluster.psql("select count(*) from pg_stat_activity where application_name = 'bygone'"), "0");
}

#[tokio::test]
async fn a_lost_server_is_worth_a_retry() {
    let mut cluster = Cluster::start("");
    let mut connection = Connection::connect(&cluster.tcp(""), Mode::Sql).await.unwrap();
    cluster.stop("QUIT");
    let err = connection.simple_query("select 1").await.unwrap_err();
    assert_eq!(err.policy(), Policy::Retry, "{err}");
    let err = Connection::connect(&cluster.tcp(""), Mode::Sql).await.unwrap_err();
    assert_eq!((err.kind(), err.policy()), (ErrorKind::Io, Policy::Retry), "{err}");
}
