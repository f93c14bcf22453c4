//! `COPY … TO STDOUT`.

use bygone_replication::Policy;
use bygone_replication::wire::{Connection, Mode};

use crate::cluster::Cluster;

#[tokio::test]
async fn a_million_rows_come_whole_and_in_order() {
    let cluster = Cluster::start("");
    let mut connection = Connection::connect(&cluster.tcp(""), Mode::Sql).await.unwrap();
    for (sql, binary) in [
        ("copy (select g, repeat('x', 200) from generate_series(1, 1000000) g) to stdout", false),
        (
            "copy (select g, repeat('x', 200) from generate_series(1, 1000000) g) to stdout (format binary)",
            true,
        ),
    ] {
        let mut copy = connection.copy_out(sql).await.unwrap();
        assert_eq!(copy.is_binary(), binary);
        assert_eq!(copy.rows(), None);
        let (mut rows, mut chunks) = (0_i32, 0);
        while let Some(chunk) = copy.next().await.unwrap() {
            chunks += 1;
            for payload in chunk.payloads() {
                if binary {
                    // The header stands before the first row; the trailer is -1 for the count of fields.
                    let row = if rows == 0 { &payload[19..] } else { payload };
                    if row == [0xFF, 0xFF] {
                        continue;
                    }
                    rows += 1;
                    assert_eq!(row[..10], [&[0, 2, 0, 0, 0, 4][..], &rows.to_be_bytes()].concat());
                } else {
                    rows += 1;
                    assert!(payload.starts_with(format!("{rows}\tx").as_bytes()));
                    assert!(payload.ends_with(b"x\n"));
                }
            }
        }
        assert_eq!((rows, copy.rows()), (1_000_000, Some(1_000_000)));
        assert!(copy.next().await.unwrap().is_none());
        assert!(chunks < 60_000, "{chunks} wake-ups");
    }
    assert_eq!(connection.simple_query("select 1").await.unwrap(), [[Some("1".to_owned())]]);
}

#[tokio::test]
async fn an_empty_table_and_a_huge_row_are_copied() {
    let cluster = Cluster::start("");
    let mut connection = Connection::connect(&cluster.socket(""), Mode::Sql).await.unwrap();
    let mut copy = connection.copy_out("copy (select 1 where false) to stdout").await.unwrap();
    assert!(copy.next().await.unwrap().is_none());
    assert_eq!(copy.rows(), Some(0));

    let sql = "copy (select repeat('y', 200000000) union all select 'small') to stdout";
    let mut copy = connection.copy_out(sql).await.unwrap();
    let mut lengths = Vec::new();
    while let Some(chunk) = copy.next().await.unwrap() {
        lengths.extend(chunk.payloads().map(<[u8]>::len));
    }
    assert_eq!(lengths, [200_000_001, 6]);
}

#[tokio::test]
async fn a_copy_that_fails_midway_is_an_error_and_the_connection_lives() {
    let cluster = Cluster::start("");
    let mut connection = Connection::connect(&cluster.tcp(""), Mode::Sql).await.unwrap();
    let err = connection.copy_out("copy nowhere to stdout").await.unwrap_err();
    assert_eq!(err.sqlstate(), Some("42P01"));

    let sql = "copy (select 1000 / (500000 - g) from generate_series(1, 1000000) g) to stdout";
    let mut copy = connection.copy_out(sql).await.unwrap();
    let mut rows = 0;
    let err = loop {
        match copy.next().await {
            Ok(chunk) => rows += chunk.unwrap().payloads().count(),
            Err(err) => break err,
        }
    };
    assert_eq!((rows, err.sqlstate(), copy.rows()), (499_999, Some("22012"), None));
    assert_eq!(connection.simple_query("select 1").await.unwrap(), [[Some("1".to_owned())]]);

    // A notice in the midst of the rows is no part of them.
    connection
        .simple_query(
            "create function pg_temp.loud(g int) returns int language plpgsql as \
             $$ begin if g % 100 = 0 then raise warning 'look'; end if; return g; end $$",
        )
        .await
        .unwrap();
    let sql = "copy (select pg_temp.loud(g) from generate_series(1, 1000) g) to stdout";
    let mut copy = connection.copy_out(sql).await.unwrap();
    let mut rows = 0;
    while let Some(chunk) = copy.next().await.unwrap() {
        rows += chunk.payloads().count();
    }
    assert_eq!((rows, copy.rows()), (1000, Some(1000)));
}

#[tokio::test]
async fn a_server_lost_in_mid_copy_is_worth_a_retry() {
    let mut cluster = Cluster::start("");
    let mut connection = Connection::connect(&cluster.tcp(""), Mode::Sql).await.unwrap();
    let sql = "copy (select g from generate_series(1, 100000000) g) to stdout";
    let mut copy = connection.copy_out(sql).await.unwrap();
    assert!(copy.next().await.unwrap().is_some());
    cluster.stop("QUIT");
    let err = loop {
        match copy.next().await {
            Ok(chunk) => assert!(chunk.is_some()),
            Err(err) => break err,
        }
    };
    assert_eq!(err.policy(), Policy::Retry, "{err}");
}
