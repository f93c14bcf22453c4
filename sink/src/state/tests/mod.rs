use std::fs;
use std::path::Path;

use super::*;

const CACHE: u64 = 4 << 20;

fn identity() -> Identity {
    Identity { history_id: "one".into() }
}

fn open(dir: &Path) -> State {
    State::open(dir, &identity(), CACHE).unwrap()
}

type Change = (u32, Vec<u8>, Option<Vec<u8>>);

fn put(table: u32, key: &str, value: &str) -> Change {
    (table, key.into(), Some(value.into()))
}

fn remove(table: u32, key: &str) -> Change {
    (table, key.into(), None)
}

fn get(state: &State, table: u32, key: &str) -> Option<String> {
    state.get(table, key.as_bytes()).unwrap().map(|value| text(&value))
}

fn text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).unwrap().trim_end_matches('.').to_owned()
}

fn scan(state: &State, table: u32) -> Vec<(String, String)> {
    collect(state.scan(table).unwrap())
}

fn collect(scan: Scan) -> Vec<(String, String)> {
    scan.map(|entry| entry.map(|(key, value)| (text(&key), text(&value))).unwrap()).collect()
}

/// So many rows go in as a sorted file.
const MANY: usize = 20_000;

fn many(table: u32, value: &str) -> Vec<Change> {
    let dots = ".".repeat(300);
    let changes: Vec<_> =
        (0..MANY).map(|n| put(table, &format!("{n:08}"), &format!("{value} {n}{dots}"))).collect();
    assert!(changes.len() * 300 > tree::RUN_FROM_BYTES);
    changes
}

#[test]
fn what_was_applied_is_there_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    {
        let state = open(dir.path());
        assert_eq!(state.applied(), None);
        state.apply(1, [put(1, "a", "one"), put(1, "b", "one"), put(2, "a", "two")], true).unwrap();
        state
            .apply(2, [put(1, "a", "later"), remove(1, "b"), put(1, "", "empty key"), put(1, "c", "")], false)
            .unwrap();
        state.apply(3, many(3, "three"), true).unwrap();
        assert_eq!(state.applied(), Some(3));
    }
    let state = open(dir.path());
    assert_eq!(state.applied(), Some(3));
    assert_eq!(get(&state, 1, "a").as_deref(), Some("later"));
    assert_eq!(get(&state, 1, "b"), None);
    assert_eq!(get(&state, 1, "").as_deref(), Some("empty key"));
    assert_eq!(get(&state, 1, "c").as_deref(), Some(""));
    assert_eq!(get(&state, 2, "a").as_deref(), Some("two"));
    assert_eq!(get(&state, 3, "00000007").as_deref(), Some("three 7"));
    assert_eq!(scan(&state, 3).len(), MANY);
}

#[test]
fn the_directory_is_private_and_taken_once() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let first = open(&path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    let error = State::open(&path, &identity(), CACHE).unwrap_err();
    assert_eq!(error.kind(), StateErrorKind::InUse);
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    drop(first);
    open(&path);
}

#[test]
fn another_history_starts_empty() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).apply(7, many(1, "x"), false).unwrap();
    let other = Identity { history_id: "two".into() };
    {
        let state = State::open(dir.path(), &other, CACHE).unwrap();
        assert_eq!(state.applied(), None);
        assert_eq!(get(&state, 1, "00000001"), None);
        state.apply(1, [put(1, "a", "of two")], false).unwrap();
    }
    assert_eq!(State::open(dir.path(), &other, CACHE).unwrap().applied(), Some(1));
    assert_eq!(open(dir.path()).applied(), None);
}

#[test]
fn the_hash_of_the_last_commit_is_kept_with_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    {
        let state = open(dir.path());
        state.commit_is(7, "seventh".to_owned());
        state.apply(7, [put(1, "a", "x")], false).unwrap();
        assert_eq!(state.applied_commit().as_deref(), Some("seventh"));
    }
    {
        let state = open(dir.path());
        assert_eq!((state.applied(), state.applied_commit().as_deref()), (Some(7), Some("seventh")));
        state.apply(8, [put(1, "b", "x")], false).unwrap();
        assert_eq!(state.applied_commit(), None);
    }
    let state = open(dir.path());
    assert_eq!((state.applied(), state.applied_commit()), (Some(8), None));
}

#[test]
fn another_format_starts_empty() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).apply(7, [put(1, "a", "x")], false).unwrap();
    let record = dir.path().join("store/applied");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace("\"format\":3", "\"format\":4")).unwrap();
    assert_eq!(open(dir.path()).applied(), None);
}

#[test]
fn spilled_entries_hide_the_rows_until_they_are_discarded_or_the_process_ends() {
    let dir = tempfile::tempdir().unwrap();
    {
        let state = open(dir.path());
        state.apply(1, [put(1, "a", "row"), put(1, "b", "row"), put(1, "c", "row")], true).unwrap();
        state.spill([put(1, "b", "spilled"), remove(1, "c"), put(1, "d", "spilled")]).unwrap();
        let seen =
            [("a", "row"), ("b", "spilled"), ("d", "spilled")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(scan(&state, 1), seen);
        assert_eq!(get(&state, 1, "b").as_deref(), Some("spilled"));
        assert_eq!(get(&state, 1, "c"), None);

        state.discard_spill().unwrap();
        assert_eq!(get(&state, 1, "b").as_deref(), Some("row"));
        assert_eq!(get(&state, 1, "c").as_deref(), Some("row"));
        assert_eq!(get(&state, 1, "d"), None);

        state.spill(many(1, "spilled")).unwrap();
        assert_eq!(get(&state, 1, "00000001").as_deref(), Some("spilled 1"));
        assert_eq!(state.applied(), Some(1));
    }
    let state = open(dir.path());
    assert_eq!(get(&state, 1, "00000001"), None);
    assert_eq!(scan(&state, 1).len(), 3);
}

#[test]
fn spilled_entries_become_rows_with_their_commit() {
    let dir = tempfile::tempdir().unwrap();
    {
        let state = open(dir.path());
        state.apply(1, [put(1, "a", "row"), put(1, "b", "row")], true).unwrap();
        state.spill(many(1, "first")).unwrap();
        state.spill(many(2, "other table")).unwrap();
        state.spill([put(1, "00000003", "second"), remove(1, "00000004"), remove(1, "a")]).unwrap();
        state.apply_spilled(2).unwrap();
        assert_eq!(state.applied(), Some(2));
    }
    let state = open(dir.path());
    assert_eq!(state.applied(), Some(2));
    assert_eq!(get(&state, 1, "a"), None);
    assert_eq!(get(&state, 1, "b").as_deref(), Some("row"));
    assert_eq!(get(&state, 1, "00000002").as_deref(), Some("first 2"));
    assert_eq!(get(&state, 1, "00000003").as_deref(), Some("second"));
    assert_eq!(get(&state, 1, "00000004"), None);
    assert_eq!(get(&state, 2, "00000004").as_deref(), Some("other table 4"));
    assert!(
        !fs::read_dir(dir.path().join("store"))
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_string_lossy().starts_with("spill") })
    );
}

#[test]
fn a_scan_shows_the_moment_it_began() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(dir.path());
    state.apply(1, many(1, "before"), true).unwrap();
    state.apply(2, [put(0, "z", "other"), put(2, "a", "other")], true).unwrap();
    let began = state.scan(1).unwrap();
    state.apply(3, many(1, "after"), true).unwrap();
    state.apply(4, [remove(1, "00000001"), put(1, "new", "row")], true).unwrap();
    state.flush().unwrap();
    state.wait_until_compacted();
    let seen = collect(began);
    assert_eq!(seen.len(), MANY);
    assert!(seen.iter().all(|(_, value)| value.starts_with("before")));
    assert!(seen.is_sorted());
    let now = scan(&state, 1);
    assert_eq!(now.len(), MANY);
    assert!(now.iter().all(|(key, value)| key == "new" || value.starts_with("after")));
}

#[test]
fn a_removed_table_leaves_its_neighbours_alone() {
    let dir = tempfile::tempdir().unwrap();
    {
        let state = open(dir.path());
        for table in [1, 2, u32::MAX] {
            state.apply(1, many(table, "x"), true).unwrap();
        }
        state.apply(2, [put(2, "in memory", "x"), put(3, "in memory", "x")], true).unwrap();
        state.remove_table(2).unwrap();
        assert_eq!(scan(&state, 2), []);
        state.remove_table(u32::MAX).unwrap();
    }
    let state = open(dir.path());
    assert_eq!(scan(&state, 1).len(), MANY);
    assert_eq!(scan(&state, 2), []);
    assert_eq!(scan(&state, 3).len(), 1);
    assert_eq!(scan(&state, u32::MAX), []);
}

#[test]
fn a_cleared_state_is_empty_and_takes_new_rows() {
    let dir = tempfile::tempdir().unwrap();
    {
        let state = open(dir.path());
        state.apply(5, many(1, "x"), true).unwrap();
        state.apply(6, [put(1, "a", "x")], true).unwrap();
        state.clear().unwrap();
        assert_eq!((state.applied(), scan(&state, 1)), (None, vec![]));
        state.apply(1, [put(1, "b", "new")], true).unwrap();
    }
    let state = open(dir.path());
    assert_eq!(state.applied(), Some(1));
    assert_eq!(scan(&state, 1), [("b".to_owned(), "new".to_owned())]);
}

#[test]
fn a_load_shows_when_it_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let rows = 100_000_u32;
    {
        let state = Arc::new(open(dir.path()));
        let loader = state.bulk_load(1).unwrap();
        // Two threads with keys in order, two without.
        std::thread::scope(|scope| {
            for part in 0..4 {
                let mut writer = loader.writer();
                scope.spawn(move || {
                    for n in (0..rows).skip(part).step_by(4) {
                        let key = if part < 2 { n } else { n.reverse_bits() };
                        writer.push(&key.to_be_bytes(), &[7; 300]).unwrap();
                    }
                    writer.finish().unwrap();
                });
            }
        });
        assert_eq!(state.scan(1).unwrap().count(), 0);
        assert_eq!(state.applied(), None);
        loader.finish(9).unwrap();
        assert_eq!(state.applied(), Some(9));
        state.wait_until_compacted();
    }
    let state = open(dir.path());
    assert_eq!(state.applied(), Some(9));
    let expected: std::collections::BTreeSet<u32> =
        (0..rows).map(|n| if n % 4 < 2 { n } else { n.reverse_bits() }).collect();
    let found: Vec<u32> =
        state.scan(1).unwrap().map(|e| u32::from_be_bytes(e.unwrap().0[..].try_into().unwrap())).collect();
    assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    assert_eq!(&*state.get(1, &5_u32.to_be_bytes()).unwrap().unwrap(), &[7; 300]);
}

#[test]
fn a_load_of_keys_in_no_order_takes_any_number_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let rows = 60_000_u32;
    {
        let state = Arc::new(open(dir.path()));
        // Some 60 chunks, each of which spans all keys.
        let sizes = super::bulk::Sizes { chunk: 128 << 10, runs: 4 };
        let loader = super::bulk::BulkLoader::start(Arc::clone(&state), 1, sizes).unwrap();
        std::thread::scope(|scope| {
            for part in 0..2 {
                let mut writer = loader.writer();
                scope.spawn(move || {
                    for n in (0..rows).skip(part).step_by(2) {
                        let key = n.wrapping_mul(2_654_435_761);
                        writer
                            .push(&key.to_be_bytes(), format!("{n} of {rows}").repeat(5).as_bytes())
                            .unwrap();
                    }
                    writer.finish().unwrap();
                });
            }
        });
        assert_eq!(state.scan(1).unwrap().count(), 0, "rows show before the load is finished");
        let store = fs::read_dir(dir.path().join("store")).unwrap();
        let aside =
            store.filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("spill-"));
        assert_eq!(aside.count(), 1, "nothing was set aside");
        loader.finish(9).unwrap();
        state.wait_until_compacted();
    }
    let state = open(dir.path());
    assert_eq!(state.applied(), Some(9));
    let mut keys: Vec<u32> = (0..rows).map(|n| n.wrapping_mul(2_654_435_761)).collect();
    keys.sort_unstable();
    let found: Vec<u32> =
        state.scan(1).unwrap().map(|e| u32::from_be_bytes(e.unwrap().0[..].try_into().unwrap())).collect();
    assert_eq!(found, keys);
    let row = state.get(1, &7_u32.wrapping_mul(2_654_435_761).to_be_bytes()).unwrap().unwrap();
    assert_eq!(&*row, format!("7 of {rows}").repeat(5).as_bytes());
}

#[test]
fn what_two_writers_copy_in_turn_lies_apart_in_few_files() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(open(dir.path()));
    let loader = state.bulk_load(1).unwrap();
    // Each copies every other piece, of several chunks, at the same time as the other.
    let piece = 80_000_u32;
    for round in 0..3 {
        let mut writers = [loader.writer(), loader.writer()];
        for n in 0..piece {
            for (start, writer) in (round * 2..).zip(&mut writers) {
                writer.push(&(start * piece + n).to_be_bytes(), &[7; 300]).unwrap();
            }
        }
        for writer in writers {
            writer.finish().unwrap();
        }
    }
    loader.finish(1).unwrap();
    let files = fs::read_dir(dir.path().join("store/rows/tables")).unwrap().count();
    assert!(files <= 6, "{files} files of six pieces");
    assert_eq!(state.scan(1).unwrap().count(), 6 * 80_000);
}

#[test]
fn an_abandoned_load_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    {
        let state = Arc::new(open(dir.path()));
        state.apply(1, [put(1, "a", "row")], true).unwrap();
        let loader = state.bulk_load(1).unwrap();
        let mut writer = loader.writer();
        for n in 0..50_000_u32 {
            writer.push(&n.to_be_bytes(), &[7; 300]).unwrap();
        }
        drop(writer);
        let error = loader.finish(2).unwrap_err();
        assert_eq!(error.kind(), StateErrorKind::Stopped);
        assert_eq!(state.applied(), Some(1));
        drop(state.bulk_load(1).unwrap());
    }
    let state = open(dir.path());
    assert_eq!(state.applied(), Some(1));
    assert_eq!(scan(&state, 1), [("a".to_owned(), "row".to_owned())]);
    let files = fs::read_dir(dir.path().join("store/rows/tables")).unwrap().count();
    assert_eq!(files, 1, "files of the load are left");
}

#[test]
fn what_is_too_large_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(dir.path());
    let error = state.apply(1, [(1, vec![0; 70_000], Some(vec![]))], false).unwrap_err();
    assert_eq!(error.kind(), StateErrorKind::TooLarge);
    let key = vec![1; 60_000];
    state.apply(1, [(1, key.clone(), Some(vec![2; 40 << 20]))], false).unwrap();
    state.flush().unwrap();
    assert_eq!(state.get(1, &key).unwrap().unwrap().len(), 40 << 20);
}

#[test]
fn a_store_that_is_packed_is_smaller_and_reads_the_same() {
    let dir = tempfile::tempdir().unwrap();
    {
        let state = open(dir.path());
        for table in 0..10 {
            state.apply(1, many(table, "x"), true).unwrap();
        }
        state.apply(2, [put(3, "00000005", "later")], true).unwrap();
        state.wait_until_compacted();
        let before = state.disk_bytes();
        assert!(state.rows.pack(state.rows.watermark()).unwrap());
        assert!(state.disk_bytes() < before / 2, "{before} bytes became {}", state.disk_bytes());
        assert!(!state.rows.pack(state.rows.watermark()).unwrap());
        state.apply(3, [put(3, "00000006", "later still")], true).unwrap();
    }
    let state = open(dir.path());
    assert_eq!(scan(&state, 9).len(), MANY);
    assert_eq!(get(&state, 3, "00000004").as_deref(), Some("x 4"));
    assert_eq!(get(&state, 3, "00000005").as_deref(), Some("later"));
    assert_eq!(get(&state, 3, "00000006").as_deref(), Some("later still"));
}

mod crash;
mod damage;
mod model;
