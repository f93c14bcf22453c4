//! The replication stream against a real walsender.

use std::time::{Duration, Instant};

use bygone_replication::stream::{Feedback, StreamOptions, WalMessage, WalStream};
use bygone_replication::wire::{Connection, Mode};
use bygone_replication::{ErrorKind, Lsn, Policy};

use crate::cluster::{Cluster, Proxy, options};

const START: &str =
    "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p', messages 'true')";

/// A cluster with a published table and a slot.
pub(super) fn source(settings: &str) -> Cluster {
    let cluster = Cluster::start(settings);
    cluster.psql("create table t (id int primary key, body text)");
    cluster.psql("create publication p for table t");
    cluster.psql("select pg_create_logical_replication_slot('s', 'pgoutput')");
    cluster
}

/// Rows `from..=to` in transactions of `size`.
pub(super) fn insert(cluster: &Cluster, from: u32, to: u32, size: u32) {
    cluster.psql(&format!(
        "do $$ begin for i in 0..{} loop \
           insert into t select g, repeat('x', 100) from generate_series({from} + i * {size}, {from} + (i + 1) * {size} - 1) g; \
           commit; end loop; end $$",
        (to - from + 1) / size - 1
    ));
}

async fn open(
    connection: &bygone_replication::conninfo::ConnectOptions,
    options: &StreamOptions,
) -> (WalStream, Feedback) {
    let connection = Connection::connect(connection, Mode::Replication).await.unwrap();
    connection.start_replication_with(START, options).await.unwrap()
}

/// What was read of a stream.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// `id` of the inserted rows, in order.
    pub(super) ids: Vec<u32>,
    pub(super) commits: usize,
    pub(super) chunks: usize,
    /// End of the last transaction.
    pub(super) end: Lsn,
    /// Length of the longest body.
    longest: usize,
}

impl Seen {
    pub(super) fn take(&mut self, chunk: &bygone_replication::stream::WalChunk) {
        self.chunks += 1;
        for message in chunk.messages() {
            let WalMessage::Data { body, sent_at, .. } = message else { continue };
            assert!(sent_at > 800_000_000_000_000, "{sent_at}");
            self.longest = self.longest.max(body.len());
            match body[0] {
                b'I' => {
                    let length = u32::from_be_bytes(body[9..13].try_into().unwrap()) as usize;
                    self.ids.push(std::str::from_utf8(&body[13..13 + length]).unwrap().parse().unwrap());
                }
                b'C' => {
                    self.commits += 1;
                    let end = Lsn(u64::from_be_bytes(body[10..18].try_into().unwrap()));
                    assert!(end > self.end);
                    self.end = end;
                }
                _ => {}
            }
        }
    }

    pub(super) async fn until(&mut self, rows: usize, stream: &mut WalStream) {
        while self.ids.len() < rows || !matches!(self.commits, 1..) {
            let chunk = stream.next().await.expect("the stream goes on").unwrap();
            self.take(&chunk);
        }
    }
}

fn confirmed(cluster: &Cluster) -> Lsn {
    cluster.psql("select confirmed_flush_lsn from pg_replication_slots").parse().unwrap()
}

#[tokio::test]
async fn changes_come_in_order_while_the_consumer_sleeps_longer_than_the_server_waits() {
    let cluster = source("wal_sender_timeout = 2s");
    insert(&cluster, 1, 200_000, 100);
    for (connection, name) in [(cluster.tcp(""), "tcp"), (cluster.socket(""), "socket")] {
        // A queue that is full at once: the server must wait as well.
        let small = StreamOptions { queue_bytes: 64 * 1024, ..StreamOptions::default() };
        let (mut stream, feedback) = open(&connection, &small).await;
        let before = confirmed(&cluster);
        let mut seen = Seen::default();
        seen.until(1000, &mut stream).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(cluster.psql("select active from pg_replication_slots"), "t", "{name}");
        seen.until(200_000, &mut stream).await;
        assert!(seen.ids.iter().copied().eq(1..=200_000), "{name}");
        assert_eq!(confirmed(&cluster), before, "{name}: nothing was acknowledged");
        assert!(feedback.received() >= seen.end);
        drop((stream, feedback));
        wait_until_free(&cluster);
    }

    // The same once more, acknowledged in the middle, and from there.
    let (mut stream, feedback) = open(&cluster.tcp(""), &StreamOptions::default()).await;
    let mut seen = Seen::default();
    seen.until(100_000, &mut stream).await;
    let (acknowledged, row) = (seen.end, seen.commits * 100);
    feedback.set_flushed(acknowledged);
    feedback.set_flushed(Lsn(1));
    assert_eq!(feedback.flushed(), acknowledged);
    let started = Instant::now();
    while confirmed(&cluster) != acknowledged {
        assert!(started.elapsed() < Duration::from_secs(5), "an acknowledgement is sent at once");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    feedback.shutdown().await.unwrap();
    assert!(stream.next().await.is_none());
    assert_eq!(confirmed(&cluster), acknowledged);

    let (mut stream, feedback) = open(&cluster.tcp(""), &StreamOptions::default()).await;
    let mut rest = Seen::default();
    rest.until(200_000 - row, &mut stream).await;
    assert!(rest.ids.iter().map(|id| *id as usize).eq(row + 1..=200_000));
    feedback.set_flushed(rest.end);
    feedback.shutdown().await.unwrap();
    assert_eq!(confirmed(&cluster), rest.end, "the last acknowledgement goes before the end");
    assert!(!cluster.log().contains("terminating walsender"), "{}", cluster.log());
}

fn wait_until_free(cluster: &Cluster) {
    let started = Instant::now();
    while cluster.psql("select active from pg_replication_slots") == "t" {
        assert!(started.elapsed() < Duration::from_secs(10), "the slot is let go");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn a_busy_stream_is_read_in_large_gulps_and_an_idle_one_at_once() {
    let cluster = source("");
    insert(&cluster, 1, 100_000, 5);
    let (mut stream, feedback) = open(&cluster.tcp(""), &StreamOptions::default()).await;
    let mut seen = Seen::default();
    seen.until(100_000, &mut stream).await;
    assert!(seen.chunks < 20_000, "{} chunks for 140 000 messages", seen.chunks);

    let client = bygone_replication::session::connect_sql(&cluster.tcp("")).await.unwrap();
    let mut delays = Vec::new();
    for id in 100_001..100_051 {
        client.execute("insert into t values ($1, 'x')", &[&id]).await.unwrap();
        let committed = Instant::now();
        seen.until(id as usize, &mut stream).await;
        delays.push(committed.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    delays.sort();
    assert!(delays[25] < Duration::from_millis(20), "{delays:?}");
    feedback.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_row_of_200_megabytes_comes_whole() {
    let cluster = source("");
    cluster.psql("alter table t alter body set storage external");
    cluster.psql("insert into t values (1, repeat('y', 200000000)); insert into t values (2, 'small')");
    for connection in [cluster.tcp(""), cluster.socket("")] {
        let small = StreamOptions { queue_bytes: 1000, ..StreamOptions::default() };
        let (mut stream, feedback) = open(&connection, &small).await;
        let mut seen = Seen::default();
        while seen.ids.len() < 2 {
            let chunk = stream.next().await.unwrap().unwrap();
            seen.take(&chunk);
            for message in chunk.messages() {
                if let WalMessage::Data { body, .. } = message
                    && body.len() > 1_000_000
                {
                    // 'I', oid, 'N', count, 't', length, "1", 't', length, text.
                    let text = &body[body.len() - 200_000_000..];
                    assert!(text.iter().all(|byte| *byte == b'y'));
                    assert_eq!(chunk.keep(text).len(), 200_000_000);
                }
            }
        }
        assert_eq!(seen.ids, [1, 2]);
        assert!(seen.longest > 200_000_000);
        feedback.shutdown().await.unwrap();
    }
}

#[test]
fn a_plain_thread_reads_as_well() {
    let cluster = source("");
    insert(&cluster, 1, 1000, 10);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut stream, feedback) = runtime.block_on(open(&cluster.tcp(""), &StreamOptions::default()));
    // The runtime is not driven any more: reading and feedback must not need it.
    let mut seen = Seen::default();
    while seen.ids.len() < 1000 {
        seen.take(&stream.blocking_next().unwrap().unwrap());
    }
    while let Ok(chunk) = stream.blocking_next_timeout(Duration::from_millis(500)) {
        seen.take(&chunk.unwrap().unwrap());
    }
    assert!(seen.ids.iter().copied().eq(1..=1000));
    feedback.set_flushed(seen.end);
    feedback.blocking_shutdown().unwrap();
    assert!(stream.blocking_next().is_none());
    assert_eq!(confirmed(&cluster), seen.end);
}

#[tokio::test]
async fn a_server_that_goes_away_is_worth_a_retry() {
    for signal in ["QUIT", "INT"] {
        let mut cluster = source("");
        insert(&cluster, 1, 200_000, 100);
        let (mut stream, feedback) = open(&cluster.tcp(""), &StreamOptions::default()).await;
        let mut seen = Seen::default();
        seen.until(1000, &mut stream).await;
        let reader = tokio::spawn(async move {
            while let Some(chunk) = stream.next().await {
                match chunk {
                    Ok(chunk) => {
                        seen.take(&chunk);
                        // A server that shuts down in order waits for everything to be acknowledged.
                        feedback.set_flushed(chunk.wal_end());
                    }
                    Err(err) => {
                        assert!(stream.next().await.is_none(), "an error is the end");
                        let shutdown = feedback.shutdown().await.unwrap_err();
                        assert_eq!(shutdown.policy(), Policy::Retry, "{shutdown}");
                        return (err, seen);
                    }
                }
            }
            panic!("the stream ended without an error");
        });
        tokio::task::spawn_blocking(move || cluster.stop(signal)).await.unwrap();
        let (err, seen) = reader.await.unwrap();
        assert_eq!(err.policy(), Policy::Retry, "{signal}: {err}");
        assert!(seen.ids.iter().copied().eq(1..=u32::try_from(seen.ids.len()).unwrap()));
        if signal == "INT" {
            assert_eq!(seen.ids.len(), 200_000);
        }
    }
}

#[tokio::test]
async fn refusals_keep_their_sqlstate() {
    let cluster = source("");
    let start = async |sql: &str| {
        let connection = Connection::connect(&cluster.tcp(""), Mode::Replication).await.unwrap();
        connection.start_replication(sql).await
    };
    let err = start(&START.replace("SLOT s", "SLOT nowhere")).await.unwrap_err();
    assert_eq!((err.sqlstate(), err.policy()), (Some("42704"), Policy::Stop), "{err}");
    let err = start("nonsense").await.unwrap_err();
    assert_eq!((err.sqlstate(), err.policy()), (Some("42601"), Policy::Stop), "{err}");
    let err = start("select 1").await.unwrap_err();
    assert_eq!((err.kind(), err.policy()), (ErrorKind::Protocol, Policy::Stop), "{err}");

    let (mut stream, feedback) = start(START).await.unwrap();
    let err = start(START).await.unwrap_err();
    assert_eq!((err.sqlstate(), err.policy()), (Some("55006"), Policy::Retry), "{err}");

    // In mid-stream: the publication has gone. (From version 18 on the server passes over it in silence.)
    let version: u32 = cluster.psql("show server_version_num").parse().unwrap();
    if version < 180_000 {
        cluster.psql("drop publication p; insert into t values (1)");
        let err = loop {
            if let Err(err) = stream.next().await.unwrap() {
                break err;
            }
        };
        assert_eq!((err.sqlstate(), err.policy()), (Some("42704"), Policy::Stop), "{err}");
        assert!(err.to_string().contains("publication \"p\""), "{err}");
        assert!(feedback.shutdown().await.is_err());
    }
}

#[tokio::test]
async fn an_idle_stream_tells_how_far_the_server_is() {
    let cluster = source("wal_sender_timeout = 2s");
    let (mut stream, feedback) = open(&cluster.tcp(""), &StreamOptions::default()).await;
    cluster.psql("create table unpublished as select g from generate_series(1, 1000) g");
    let written: Lsn = cluster.psql("select pg_current_wal_lsn()").parse().unwrap();
    let started = Instant::now();
    loop {
        let chunk = stream.next().await.unwrap().unwrap();
        if chunk.messages().any(|m| matches!(m, WalMessage::Keepalive { wal_end, .. } if wal_end >= written))
        {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    let reported = "select write_lsn >= $1, flush_lsn is null from pg_stat_replication";
    let started = Instant::now();
    while cluster.psql(&reported.replace("$1", &format!("'{written}'"))) != "t|t" {
        assert!(started.elapsed() < Duration::from_secs(5), "received is told, flushed is not made up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    feedback.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let cluster = source("wal_sender_timeout = 0");
    let proxy = Proxy::to(cluster.port);
    let through = options(&format!("host=127.0.0.1 port={} user=postgres", proxy.port));
    let brief = StreamOptions {
        silence: Duration::from_secs(2),
        status_interval: Some(Duration::from_millis(200)),
        ..StreamOptions::default()
    };
    let (mut stream, feedback) = open(&through, &brief).await;
    // Idle for longer than that, but alive: the server answers when it is asked.
    let idle = tokio::time::timeout(Duration::from_secs(4), async {
        while let Some(chunk) = stream.next().await {
            chunk.unwrap();
        }
    });
    assert!(idle.await.is_err());
    proxy.go_quiet();
    let started = Instant::now();
    let err = loop {
        if let Err(err) = stream.next().await.unwrap() {
            break err;
        }
    };
    assert_eq!((err.kind(), err.policy()), (ErrorKind::Timeout, Policy::Retry), "{err}");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(feedback.shutdown().await.is_err());
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_consumer_or_a_dead_server() {
    let cluster = source("");
    insert(&cluster, 1, 100_000, 100);
    let small =
        StreamOptions { queue_bytes: 1000, farewell: Duration::from_secs(1), ..StreamOptions::default() };
    let (stream, feedback) = open(&cluster.tcp(""), &small).await;
    feedback.shutdown().await.unwrap();
    drop(stream);

    let proxy = Proxy::to(cluster.port);
    let through = options(&format!("host=127.0.0.1 port={} user=postgres", proxy.port));
    let (mut stream, feedback) = open(&through, &small).await;
    assert!(stream.next().await.unwrap().is_ok());
    proxy.go_quiet();
    let started = Instant::now();
    assert_eq!(feedback.shutdown().await.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(started.elapsed() < Duration::from_secs(3));
}
