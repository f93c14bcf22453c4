//! What every store must do, run over each.

use std::io::Write;

use bygone_sink::error::ErrorKind;
use bygone_sink::log::ContentHash;
use bygone_sink::store::{PutOutcome, Store};
use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::join_all;

use crate::support::place::each;

fn object(path: &str, bytes: u64) -> (String, u64) {
    (path.to_owned(), bytes)
}

async fn list(store: &Store, prefix: &str) -> Vec<(String, u64)> {
    store.list(prefix).await.unwrap().into_iter().map(|object| (object.path, object.bytes)).collect()
}

#[test]
fn an_object_reads_back_whole_and_in_part() {
    each(|store| async move {
        let path = "tables/public.~49~d/_date=2026-11-23/00000000000000000000-000.parquet";
        assert_eq!(
            store.put_new(path, Bytes::from_static(b"0123456789")).await.unwrap(),
            PutOutcome::Created
        );

        assert_eq!(store.get(path).await.unwrap().as_ref(), b"0123456789");
        assert_eq!(store.get_range(path, 2..5).await.unwrap().as_ref(), b"234");
        assert_eq!(store.get_range(path, 0..10).await.unwrap().len(), 10);
        assert_eq!(store.get_range(path, 4..4).await.unwrap().len(), 0);
        assert_eq!(store.head(path).await.unwrap(), 10);
        assert!(store.exists(path).await.unwrap());
        let streamed: Vec<Bytes> = store.get_stream(path).await.unwrap().try_collect().await.unwrap();
        assert_eq!(streamed.concat(), b"0123456789");
        for beyond in [0..11, 9..12, 10..11, 100..200] {
            let err = store.get_range(path, beyond.clone()).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Damaged, "{beyond:?}: {err:#}");
        }
    });
}

#[test]
fn an_empty_object_is_an_object() {
    each(|store| async move {
        store.put_new("empty", Bytes::new()).await.unwrap();
        assert_eq!(store.get("empty").await.unwrap().len(), 0);
        assert_eq!(list(&store, "").await, [object("empty", 0)]);
        let streamed: Vec<Bytes> = store.get_stream("empty").await.unwrap().try_collect().await.unwrap();
        assert_eq!(streamed.concat(), b"");
    });
}

#[test]
fn what_is_not_there_is_not_found() {
    each(|store| async move {
        assert_eq!(store.get("a/b").await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(store.head("a/b").await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(store.get_range("a/b", 0..1).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert!(store.get_stream("a/b").await.is_err_and(|err| err.kind() == ErrorKind::NotFound));
        assert!(!store.exists("a/b").await.unwrap());
        assert_eq!(list(&store, "").await, []);
        assert_eq!(list(&store, "a").await, []);
        store.put_new("a/b/c", Bytes::new()).await.unwrap();
        assert!(!store.exists("a/b").await.unwrap(), "a directory is no object");
    });
}

#[test]
fn an_object_is_never_replaced() {
    each(|store| async move {
        assert_eq!(store.put_new("x", Bytes::from_static(b"one")).await.unwrap(), PutOutcome::Created);
        assert_eq!(store.put_new("x", Bytes::from_static(b"two")).await.unwrap(), PutOutcome::AlreadyExists);
        assert_eq!(
            store.put_new("x", Bytes::from_static(b"longer")).await.unwrap(),
            PutOutcome::AlreadyExists
        );
        assert_eq!(
            store.put_new("x", Bytes::from_static(b"one")).await.unwrap(),
            PutOutcome::Created,
            "it stands there"
        );
        assert_eq!(store.get("x").await.unwrap().as_ref(), b"one");
        store.check_put_if_absent("x", Bytes::from_static(b"one")).await.unwrap();
    });
}

#[test]
fn of_sixteen_writers_exactly_one_creates() {
    each(|store| async move {
        for round in 0..5 {
            let path = format!("log/{round}");
            let race = (0..16).map(|me| {
                let (store, path) = (store.clone(), path.clone());
                tokio::spawn(async move {
                    store.put_new(&path, Bytes::from(format!("writer {me}"))).await.unwrap()
                })
            });
            let outcomes: Vec<PutOutcome> = join_all(race).await.into_iter().map(Result::unwrap).collect();

            let winners: Vec<usize> = (0..16).filter(|me| outcomes[*me] == PutOutcome::Created).collect();
            assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
            let stands = store.get(&path).await.unwrap();
            assert_eq!(stands, format!("writer {}", winners[0]), "the winner's bytes stand there");
        }
    });
}

#[test]
fn a_listing_is_by_directory_and_sorted() {
    each(|store| async move {
        for path in ["log/2", "log/10", "log/1", "logs/x", "tables/a.b/_date=2026-11-23/x", "bygone.json"] {
            store.put_new(path, Bytes::from_static(b"x")).await.unwrap();
        }
        let staged = staged(&store, b"never published").await;

        let all = ["bygone.json", "log/1", "log/10", "log/2", "logs/x", "tables/a.b/_date=2026-11-23/x"];
        assert_eq!(list(&store, "").await, all.map(|path| object(path, 1)));
        assert_eq!(list(&store, "log").await, ["log/1", "log/10", "log/2"].map(|path| object(path, 1)));
        assert_eq!(store.list("tables/a.b").await.unwrap().len(), 1);
        assert_eq!(list(&store, "bygone.json").await, [], "an object is no directory");
        drop(staged);
    });
}

#[test]
fn a_listing_of_more_than_a_page_is_whole() {
    each(|store| async move {
        if store.local_root().is_some() {
            return;
        }
        // S3 gives a thousand at a time.
        let puts = (0..1_050).map(|n| {
            let store = store.clone();
            async move { store.put_new(&format!("log/{n:05}"), Bytes::new()).await.unwrap() }
        });
        for outcome in futures_util::StreamExt::collect::<Vec<_>>(futures_util::StreamExt::buffer_unordered(
            futures_util::stream::iter(puts),
            16,
        ))
        .await
        {
            assert_eq!(outcome, PutOutcome::Created);
        }
        assert_eq!(store.list("log").await.unwrap().len(), 1_050);
    });
}

#[test]
fn a_removal_can_be_repeated() {
    each(|store| async move {
        store.put_new("a/x", Bytes::from_static(b"x")).await.unwrap();
        store.delete("a/x").await.unwrap();
        store.delete("a/x").await.unwrap();
        assert!(!store.exists("a/x").await.unwrap());
        assert_eq!(store.put_new("a/x", Bytes::from_static(b"y")).await.unwrap(), PutOutcome::Created);
    });
}

#[test]
fn a_staged_file_appears_whole_under_a_free_path() {
    each(|store| async move {
        let whole = b"some facts".repeat(1000);
        let mut file = staged(&store, &whole).await;
        assert_eq!(file.bytes(), 10_000);
        assert_eq!(file.sha256(), ContentHash::of(&whole));
        store.put_new("tables/t/0", Bytes::from_static(b"another's")).await.unwrap();

        assert_eq!(file.publish("tables/t/0").await.unwrap(), PutOutcome::AlreadyExists);
        assert_eq!(file.publish("tables/t/1").await.unwrap(), PutOutcome::Created);

        assert_eq!(store.get("tables/t/0").await.unwrap().as_ref(), b"another's");
        assert_eq!(store.get("tables/t/1").await.unwrap(), whole);
        assert_eq!(file.publish("tables/t/2").await.unwrap_err().kind(), ErrorKind::Conflict);
        // The same bytes at the same path, as after a crash before the commit.
        assert_eq!(staged(&store, &whole).await.publish("tables/t/1").await.unwrap(), PutOutcome::Created);
    });
}

#[test]
fn a_file_larger_than_one_request_appears_whole() {
    each(|store| async move {
        let whole: Vec<u8> =
            (0..21_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut file = staged(&store, &whole).await;
        assert_eq!(file.publish("tables/t/large").await.unwrap(), PutOutcome::Created);
        assert!(store.get("tables/t/large").await.unwrap() == whole);

        let mut other = staged(&store, &whole[1..]).await;
        assert_eq!(other.publish("tables/t/large").await.unwrap(), PutOutcome::AlreadyExists);
        assert_eq!(store.head("tables/t/large").await.unwrap(), 21_000_000);
        let mut same = staged(&store, &whole).await;
        assert_eq!(same.publish("tables/t/large").await.unwrap(), PutOutcome::Created);
    });
}

#[test]
fn no_path_leads_out() {
    each(|store| async move {
        for path in ["", "..", "../x", "/etc/passwd", "a/../../x", "a//b", "a/", "a b", "a\\b", "a%2fb", "é"]
        {
            let kinds = [
                store.put_new(path, Bytes::new()).await.unwrap_err().kind(),
                store.get(path).await.unwrap_err().kind(),
                store.get_range(path, 0..1).await.unwrap_err().kind(),
                store.head(path).await.unwrap_err().kind(),
                store.delete(path).await.unwrap_err().kind(),
                staged(&store, b"x").await.publish(path).await.unwrap_err().kind(),
            ];
            assert_eq!(kinds, [ErrorKind::InvalidPath; 6], "{path:?}");
        }
        assert_eq!(store.list("..").await.unwrap_err().kind(), ErrorKind::InvalidPath);
        assert_eq!(list(&store, "").await, []);
    });
}

async fn staged(store: &Store, bytes: &[u8]) -> bygone_sink::store::Sealed {
    let mut file = store.stage().unwrap();
    for chunk in bytes.chunks(1 << 20) {
        file.write_all(chunk).unwrap();
    }
    file.seal().await.unwrap()
}
