//! Appending, reading and fencing.

use bygone_replication::Lsn;
use bygone_sink::error::ErrorKind;
use bygone_sink::history::History;
use bygone_sink::log::path::commit_path;
use bygone_sink::log::{self, ContentHash, Event, EventKind, MANIFEST, ManifestSource, Orphans};
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{FutureExt, TryStreamExt};

use crate::support::fixture::{body, commit, file, identity, writer};
use crate::support::place::{block_on, directory, each};

#[test]
fn what_is_appended_is_read_back_in_order_and_chained() {
    each(|store| async move {
        let mut writer = writer(&store).await;
        for rows in 1..=20 {
            let _ = commit(&mut writer, rows).await;
        }

        let history = History::open(&store).await.unwrap();

        let state = history.state();
        assert_eq!((state.next_seq, state.resume, state.files().len()), (20, Some(Lsn(119)), 20));
        assert_eq!(state.last_writer.as_deref(), Some(writer.id()));
        assert_eq!(state.files_of("public.orders").iter().map(|file| file.add.rows).sum::<u64>(), 210);
        let commits: Vec<_> = log::commits(&store, 0..20).try_collect().await.unwrap();
        assert_eq!(commits[0].commit.prev, None);
        for pair in commits.windows(2) {
            assert_eq!(pair[1].commit.prev, Some(pair[0].hash));
        }
        // Anyone can check it with sha256sum: the hash is of the bytes as they lie there.
        let bytes = store.get(&commit_path(19)).await.unwrap();
        assert_eq!(state.last_hash, Some(ContentHash::of(&bytes)));
        assert!(bytes.ends_with(b"}\n"));
    });
}

#[test]
fn a_reader_sees_any_commit_as_it_was_and_goes_on_from_it() {
    each(|store| async move {
        let mut writer = writer(&store).await;
        for rows in 1..=5 {
            let _ = commit(&mut writer, rows).await;
        }
        let mut then = History::open_at(&store, Some(2)).await.unwrap();
        assert_eq!((then.state().next_seq, then.state().files().len()), (3, 3));

        assert_eq!(then.refresh().await.unwrap(), 2);

        assert_eq!(then.state().files().len(), 5);
        assert_eq!(then.refresh().await.unwrap(), 0);
        assert_eq!(History::open_at(&store, Some(5)).await.unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn of_two_writers_the_loser_is_told_the_winner_and_stops() {
    each(|store| async move {
        let mut winner = writer(&store).await;
        let mut loser = writer(&store).await;
        let _ = commit(&mut winner, 1).await;
        let orphan = file(&loser, 2).await;

        let err = loser.append(body(200, vec![orphan.clone()])).await.unwrap_err();

        assert_eq!(err.kind(), ErrorKind::Fenced);
        assert!(err.to_string().contains(winner.id()), "{err}");
        assert!(err.to_string().contains(&winner.state().last_at.unwrap().to_string()), "{err}");
        assert_eq!(loser.append(body(200, vec![])).await.unwrap_err().kind(), ErrorKind::Latched);
        assert_eq!(loser.remove_orphans().await.unwrap(), Orphans::default(), "a loser removes nothing");
        let _ = commit(&mut winner, 3).await;
        assert_eq!(History::open(&store).await.unwrap().state().next_seq, 2);
    });
}

#[test]
fn of_sixteen_writers_each_commit_has_one() {
    each(|store| async move {
        writer(&store).await;
        let writers = join_all((0..16).map(|_| writer(&store))).await;
        let race = writers.into_iter().map(|mut writer| {
            tokio::spawn(async move { writer.append(body(100, vec![])).await.map_err(|err| err.kind()) })
        });
        let outcomes: Vec<_> = join_all(race).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        assert!(
            outcomes.iter().flat_map(|outcome| outcome.as_ref().err()).all(|kind| *kind == ErrorKind::Fenced)
        );
        assert_eq!(log::load(&store, None).await.unwrap().next_seq, 1);
    });
}

#[test]
fn a_long_pause_ends_with_a_look_at_the_fence() {
    each(|store| async move {
        let (mut one, mut other) = (writer(&store).await, writer(&store).await);
        one.check_fence().await.unwrap();
        let _ = commit(&mut other, 1).await;
        assert_eq!(one.check_fence().await.unwrap_err().kind(), ErrorKind::Fenced);
        assert_eq!(one.append(body(100, vec![])).await.unwrap_err().kind(), ErrorKind::Latched);
    });
}

#[test]
fn what_others_say_is_told_with_the_next_commit_also_where_a_look_at_the_fence_came_between() {
    each(|store| async move {
        let mut first = writer(&store).await;
        let _ = commit(&mut first, 1).await;
        let other = History::open(&store).await.unwrap();
        let mut said = other.state().aside().unwrap();
        said.events.push(Event::at(EventKind::Gap, Some("public.orders".to_owned()), Lsn(1)));
        let _ = other.into_writer().append(said.clone()).await.unwrap();

        first.check_fence().await.unwrap();

        assert_eq!(commit(&mut first, 2).await.passed(), said.events);
        assert_eq!(commit(&mut first, 3).await.passed(), []);
    });
}

#[test]
fn orphans_go_only_after_the_first_commit_of_the_new_writer() {
    each(|store| async move {
        let mut rival = writer(&store).await;
        let late = file(&rival, 7).await.path;
        let live = commit(&mut rival, 1).await.commit().body.add[0].path.clone();
        let orphan = file(&rival, 2).await.path;
        let delta = "tables/public.orders/_delta_log/00000000000000000000.json";
        store.put_new(delta, Bytes::new()).await.unwrap();

        let mut next = writer(&store).await;
        assert_eq!(next.remove_orphans().await.unwrap(), Orphans::default(), "the rival may yet commit them");
        assert!(store.exists(&late).await.unwrap(), "also what is named after a commit that is there");
        let committed = file(&next, 3).await;
        assert_ne!(committed.path, orphan, "the orphan is in the way and stays");
        let _ = next.append(body(200, vec![committed.clone()])).await.unwrap();
        let under_way = file(&next, 4).await.path;

        assert_eq!(next.remove_orphans().await.unwrap().removed, 2);

        for path in [&orphan, &late] {
            assert!(!store.exists(path).await.unwrap(), "{path}");
        }
        for path in [&live, &committed.path, &under_way, delta] {
            assert!(store.exists(path).await.unwrap(), "{path}");
        }
        assert_eq!(rival.append(body(300, vec![])).await.unwrap_err().kind(), ErrorKind::Fenced);
    });
}

#[test]
fn a_removed_file_is_no_orphan() {
    each(|store| async move {
        let mut writer = writer(&store).await;
        let path = commit(&mut writer, 1).await.commit().body.add[0].path.clone();
        let mut compact = body(200, vec![]);
        compact.remove = vec![path.clone()];
        let _ = writer.append(compact).await.unwrap();
        assert_eq!(writer.remove_orphans().await.unwrap(), Orphans::default());
        assert!(store.exists(&path).await.unwrap(), "readers of the commit before may be at it");
    });
}

#[test]
fn a_commit_that_readers_would_refuse_is_not_written() {
    each(|store| async move {
        let mut writer = writer(&store).await;
        let add = file(&writer, 1).await;
        let mut escaping = add.clone();
        escaping.path = "tables/../../escape.parquet".to_owned();
        for bad in [vec![escaping], vec![add.clone(), add.clone()]] {
            assert_eq!(writer.append(body(100, bad)).await.unwrap_err().kind(), ErrorKind::Conflict);
        }
        assert_eq!(log::commit_count(&store).await.unwrap(), 0);
        let _ = writer.append(body(100, vec![add])).await.unwrap();
    });
}

#[test]
fn a_history_belongs_to_one_database_and_capture() {
    each(|store| async move {
        let began = History::open_or_create(&store, &identity()).await.unwrap();
        let again = History::open_or_create(&store, &identity()).await.unwrap();
        assert_eq!(began.manifest().id, again.manifest().id);

        let mut others = [identity(), identity(), identity()];
        others[0].source = ManifestSource { system_id: "1".to_owned(), ..others[0].source.clone() };
        others[1].source.database = "billing".to_owned();
        others[2].name = "second".to_owned();
        for other in others {
            let err = History::open_or_create(&store, &other).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::OtherSource, "{err}");
        }
    });
}

#[test]
fn readers_create_nothing() {
    each(|store| async move {
        assert_eq!(History::open(&store).await.unwrap_err().kind(), ErrorKind::NoHistory);
        assert_eq!(store.list("").await.unwrap(), []);
    });
    let (directory, store) = directory();
    block_on(History::open(&store)).unwrap_err();
    assert!(!directory.path().join("history").exists());
}

#[test]
fn two_that_begin_a_history_at_once_begin_one() {
    each(|store| async move {
        let identity = identity();
        let both = join_all((0..8).map(|_| History::open_or_create(&store, &identity))).await;
        let ids: std::collections::BTreeSet<_> =
            both.into_iter().map(|history| history.unwrap().manifest().id.clone()).collect();
        assert_eq!(ids.len(), 1);
    });
}

#[test]
fn a_newer_format_is_refused_by_name() {
    each(|store| async move {
        store.put_new(MANIFEST, Bytes::from_static(b"{\"format\":2,\"anything\":[]}\n")).await.unwrap();
        for err in [
            History::open(&store).await.unwrap_err(),
            History::open_or_create(&store, &identity()).await.unwrap_err(),
        ] {
            assert_eq!(err.kind(), ErrorKind::NewerFormat);
            assert!(err.to_string().contains("written by a newer bygone"), "{err}");
        }
    });
}

#[test]
fn a_log_without_its_manifest_is_not_begun_anew() {
    each(|store| async move {
        let mut writer = writer(&store).await;
        let _ = commit(&mut writer, 1).await;
        store.delete(MANIFEST).await.unwrap();
        assert_eq!(
            History::open_or_create(&store, &identity()).await.unwrap_err().kind(),
            ErrorKind::Damaged
        );
    });
}

#[test]
fn a_damaged_chain_is_not_opened() {
    let (directory, store) = directory();
    block_on(async {
        let mut writer = writer(&store).await;
        for rows in 1..=4 {
            let _ = commit(&mut writer, rows).await;
        }
    });
    let at = |seq| directory.path().join("history").join(commit_path(seq));
    let whole: Vec<_> = (0..4).map(|seq| std::fs::read(at(seq)).unwrap()).collect();
    let damages: [(&str, &dyn Fn()); 5] = [
        ("missing", &|| std::fs::remove_file(at(1)).unwrap()),
        ("altered", &|| {
            std::fs::write(at(1), String::from_utf8_lossy(&whole[1]).replace("shop", "shoq")).unwrap()
        }),
        ("swapped", &|| {
            (std::fs::write(at(1), &whole[2]).unwrap(), std::fs::write(at(2), &whole[1]).unwrap()).0
        }),
        ("cut", &|| std::fs::write(at(3), &whole[3][..whole[3].len() - 1]).unwrap()),
        ("escaping", &|| {
            let text = String::from_utf8_lossy(&whole[3]).replace("tables/public.orders", "tables/../..");
            std::fs::write(at(3), text).unwrap();
        }),
    ];
    for (name, damage) in damages {
        damage();
        let err = block_on(History::open(&store)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Damaged, "{name}: {err}");
        for (seq, bytes) in (0..).zip(&whole) {
            std::fs::write(at(seq), bytes).unwrap();
        }
        assert_eq!(block_on(History::open(&store)).unwrap().state().next_seq, 4);
    }
}

#[test]
fn a_commit_given_up_in_the_midst_latches_the_writer() {
    let (_directory, store) = directory();
    block_on(async {
        let mut given_up = writer(&store).await;
        assert!(
            given_up.append(body(100, vec![])).now_or_never().is_none(),
            "a disk takes longer than one poll"
        );

        assert_eq!(given_up.append(body(101, vec![])).await.unwrap_err().kind(), ErrorKind::Latched);

        // Whatever became of it, another opening finds out, or loses the race against it.
        match writer(&store).await.append(body(102, vec![])).await {
            Ok(appended) => assert!(appended.seq() <= 1),
            Err(err) => assert_eq!(err.kind(), ErrorKind::Fenced),
        }
    });
}
