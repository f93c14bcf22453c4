//! Requests to a bucket whose outcome the client is not told.
//!
//! Symptom: a conditional put takes effect, its reply is lost, the repetition is refused because "the object exists", and a
//! writer takes its own commit for another's. Rule: after a refusal or an unclear error, what stands there decides.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bygone_sink::error::ErrorKind;
use bygone_sink::history::History;
use bygone_sink::store::{PutOutcome, Store};
use bytes::Bytes;

use crate::support::fixture::{body, commit, file, identity, writer};
use crate::support::place::block_on;
use crate::support::proxy::{Fate, Proxy};
use crate::support::s3_server::{BUCKET, S3Server, request, store_at, unique};

/// A store behind a proxy.
fn behind(proxy: &Proxy, prefix: &str) -> Store {
    store_at(proxy.port(), prefix, Duration::from_secs(5))
}

/// Counts the requests that are meant, and gives each its number from 0.
fn numbered(meant: impl Fn(&str) -> bool, fate: impl Fn(usize) -> Fate) -> impl Fn(&str) -> Fate {
    let count = AtomicUsize::new(0);
    move |request: &str| if meant(request) { fate(count.fetch_add(1, Ordering::SeqCst)) } else { Fate::Pass }
}

fn is_put(request: &str) -> bool {
    request.starts_with("PUT ")
}

fn completes(request: &str) -> bool {
    request.starts_with("POST ") && request.contains("uploadId=")
}

#[test]
fn our_own_object_is_ours_although_its_reply_was_lost() {
    let (server, prefix) = (S3Server::shared(), unique());
    for lost in 1..=3 {
        let fate = numbered(is_put, move |n| if n < lost { Fate::LoseReply } else { Fate::Pass });
        let proxy = Proxy::start(server.port(), fate);
        let path = format!("x{lost}");
        assert_eq!(
            block_on(behind(&proxy, &prefix).put_new(&path, Bytes::from_static(b"mine"))).unwrap(),
            PutOutcome::Created
        );
        assert!(proxy.puts() >= 2, "the client did repeat it");
        assert_eq!(block_on(server.store(&prefix).get(&path)).unwrap().as_ref(), b"mine");
    }
}

#[test]
fn another_s_object_is_not_ours_whatever_was_lost() {
    let (server, prefix) = (S3Server::shared(), unique());
    let proxy =
        Proxy::start(server.port(), numbered(is_put, |n| if n < 2 { Fate::LoseReply } else { Fate::Pass }));
    server.request(&format!("PUT /{BUCKET}/{prefix}/x"), b"theirs");
    let outcome = block_on(behind(&proxy, &prefix).put_new("x", Bytes::from_static(b"mine"))).unwrap();
    assert_eq!(outcome, PutOutcome::AlreadyExists);
    assert_eq!(block_on(server.store(&prefix).get("x")).unwrap().as_ref(), b"theirs");
}

#[test]
fn a_store_that_is_overloaded_for_a_while_is_waited_for() {
    let (server, prefix) = (S3Server::shared(), unique());
    let fate = numbered(is_put, |n| match n {
        0..3 => Fate::Answer(503),
        3 => Fate::Refuse,
        4 => Fate::Answer(409),
        _ => Fate::Pass,
    });
    let proxy = Proxy::start(server.port(), fate);
    assert_eq!(
        block_on(behind(&proxy, &prefix).put_new("x", Bytes::from_static(b"mine"))).unwrap(),
        PutOutcome::Created
    );
}

#[test]
fn a_large_file_s_completion_may_lose_its_reply() {
    let (server, prefix) = (S3Server::shared(), unique());
    let fate = numbered(completes, |n| if n == 0 { Fate::LoseReply } else { Fate::Pass });
    let proxy = Proxy::start(server.port(), fate);
    block_on(async {
        let mut file = large(&behind(&proxy, &prefix)).await;
        assert_eq!(file.publish("large").await.unwrap(), PutOutcome::Created);
        assert_eq!(server.store(&prefix).head("large").await.unwrap(), LARGE as u64);
    });
}

#[test]
fn a_large_file_does_not_replace_one_that_came_in_between() {
    let (server, prefix) = (S3Server::shared(), unique());
    let upstream = server.port();
    let large_object = format!("PUT /{BUCKET}/{prefix}/large");
    let proxy = Proxy::start(upstream, move |line| {
        if completes(line) {
            request(upstream, &large_object, b"theirs");
        }
        Fate::Pass
    });
    block_on(async {
        let mut file = large(&behind(&proxy, &prefix)).await;
        assert_eq!(file.publish("large").await.unwrap(), PutOutcome::AlreadyExists);
        assert_eq!(server.store(&prefix).get("large").await.unwrap().as_ref(), b"theirs");
        assert_eq!(file.publish("large2").await.unwrap(), PutOutcome::Created);
    });
}

#[test]
fn a_store_that_ignores_conditions_is_refused() {
    let (server, prefix) = (S3Server::shared(), unique());
    let proxy = Proxy::start(server.port(), |_| Fate::StripCondition);
    let err = block_on(History::open_or_create(&behind(&proxy, &prefix), &identity())).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported);
    assert!(err.to_string().contains("If-None-Match"), "{err}");
}

#[test]
fn a_commit_whose_reply_was_lost_is_appended_once() {
    let (server, prefix) = (S3Server::shared(), unique());
    let fate = numbered(
        |line| is_put(line) && line.contains("/log/"),
        |n| {
            if n.is_multiple_of(2) { Fate::LoseReply } else { Fate::Pass }
        },
    );
    let proxy = Proxy::start(server.port(), fate);
    block_on(async {
        let mut writer = writer(&behind(&proxy, &prefix)).await;
        for seq in 0..5 {
            assert_eq!(writer.append(body(100 + seq, vec![])).await.unwrap().seq(), seq);
        }
        assert_eq!(History::open(&server.store(&prefix)).await.unwrap().state().next_seq, 5);
    });
}

#[test]
fn a_commit_of_unknown_outcome_latches_the_writer_and_the_next_opening_finds_it() {
    let (server, prefix) = (S3Server::shared(), unique());
    let cut = Arc::new(AtomicBool::new(false));
    let gone = Arc::clone(&cut);
    // The commit takes effect, and from then on nobody answers.
    let proxy = Proxy::start(server.port(), move |line| {
        if gone.load(Ordering::SeqCst) {
            Fate::Refuse
        } else if is_put(line) && line.contains("/log/") {
            gone.store(true, Ordering::SeqCst);
            Fate::LoseReply
        } else {
            Fate::Pass
        }
    });
    block_on(async {
        let mut lost = writer(&store_at(proxy.port(), &prefix, Duration::from_secs(1))).await;

        let err = lost.append(body(100, vec![])).await.unwrap_err();

        assert_eq!(err.kind(), ErrorKind::Unreachable, "{err:#}");
        assert!(err.is_transient());
        cut.store(false, Ordering::SeqCst);
        assert_eq!(lost.append(body(100, vec![])).await.unwrap_err().kind(), ErrorKind::Latched);
        let next = writer(&server.store(&prefix)).await;
        assert_eq!(next.state().last_writer.as_deref(), Some(lost.id()), "it was there after all");
    });
}

#[test]
fn an_orphan_that_may_not_be_removed_is_counted_and_left() {
    let (server, prefix) = (S3Server::shared(), unique());
    // What a bucket under object lock, or without s3:DeleteObject, answers.
    let proxy = Proxy::start(server.port(), |line| {
        if line.starts_with("POST ") && line.contains("?delete") { Fate::Answer(403) } else { Fate::Pass }
    });
    block_on(async {
        let mut writer = writer(&behind(&proxy, &prefix)).await;
        let orphan = file(&writer, 1).await.path;
        let _ = commit(&mut writer, 2).await;

        let orphans = writer.remove_orphans().await.unwrap();

        assert_eq!((orphans.removed, orphans.kept), (0, 1));
        assert!(server.store(&prefix).exists(&orphan).await.unwrap());
        let _ = commit(&mut writer, 3).await;
    });
}

const LARGE: usize = 17 << 20;

async fn large(store: &Store) -> bygone_sink::store::Sealed {
    let mut file = store.stage().unwrap();
    file.write_all(&vec![7; LARGE]).unwrap();
    file.seal().await.unwrap()
}
