//! A process that dies at a failpoint: what the next one finds.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use bygone_sink::error::ErrorKind;
use bygone_sink::failpoint;
use bygone_sink::verify::verify;

use crate::support::fixture::{body, commit, writer};
use crate::support::place::{at, block_on, directory};

/// Runs an ignored test of this binary in a process with these failpoints.
fn run(test: &str, failpoints: &str, place: &std::path::Path) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(failpoint::VARIABLE, failpoints)
        .env("BYGONE_TEST_PLACE", place)
        .output()
        .unwrap()
}

#[test]
fn wherever_it_dies_the_chain_is_whole_and_no_orphan_stays() {
    // After 3 commits: where it dies on the way to the 4th, and how many there are then.
    for (failpoint, committed) in [
        ("file.before_write", 3),
        ("file.after_write", 3),
        ("file.after_upload", 3),
        ("commit.before_put", 3),
        ("commit.after_put", 4),
    ] {
        let (directory, _) = directory();
        let died = run("scenarios::crashes::commits", &format!("{failpoint}=abort@4"), directory.path());
        assert_eq!(died.status.signal(), Some(6), "{failpoint}: {}", String::from_utf8_lossy(&died.stderr));

        let store = at(&directory);
        block_on(async {
            let mut writer = writer(&store).await;
            assert_eq!(writer.next_seq(), committed, "{failpoint}");
            let _ = commit(&mut writer, 1).await;
            writer.remove_orphans().await.unwrap();
            let report = verify(&store, None, |_| {}).await.unwrap();
            assert!(report.is_ok() && report.warnings.is_empty(), "{failpoint}: {report:#?}");
            assert_eq!((report.commits, report.files), (committed + 1, committed + 1), "{failpoint}");
        });
        let staging = directory.path().join("history/.staging");
        assert_eq!(std::fs::read_dir(staging).unwrap().count(), 0, "{failpoint}");
    }
}

#[test]
#[ignore = "dies at a failpoint"]
fn commits() {
    let location = std::path::PathBuf::from(std::env::var("BYGONE_TEST_PLACE").unwrap()).join("history");
    let location = bygone_sink::store::Location::parse(location.to_str().unwrap()).unwrap();
    let store =
        bygone_sink::store::Store::open(&location, &bygone_sink::store::StoreOptions::default()).unwrap();
    block_on(async {
        let mut writer = writer(&store).await;
        for rows in 1..=5 {
            let _ = commit(&mut writer, rows).await;
        }
    });
}

#[test]
fn an_error_after_the_put_latches_the_writer() {
    let (directory, _) = directory();
    let run = run("scenarios::crashes::errs", "commit.after_put=error@1", directory.path());
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let state = block_on(bygone_sink::log::load(&at(&directory), None)).unwrap();
    assert_eq!(state.next_seq, 1, "the commit is there");
}

#[test]
#[ignore = "fails at a failpoint"]
fn errs() {
    let location = std::path::PathBuf::from(std::env::var("BYGONE_TEST_PLACE").unwrap()).join("history");
    let location = bygone_sink::store::Location::parse(location.to_str().unwrap()).unwrap();
    let store =
        bygone_sink::store::Store::open(&location, &bygone_sink::store::StoreOptions::default()).unwrap();
    block_on(async {
        let mut writer = writer(&store).await;
        assert_eq!(writer.append(body(100, vec![])).await.unwrap_err().kind(), ErrorKind::Failpoint);
        assert_eq!(writer.append(body(100, vec![])).await.unwrap_err().kind(), ErrorKind::Latched);
    });
}

#[test]
fn a_misspelt_failpoint_stops_the_process() {
    let (directory, _) = directory();
    let run = run("scenarios::crashes::starts", "commit.before_putt=abort", directory.path());
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
#[ignore = "wants a bad failpoint list"]
fn starts() {
    assert_eq!(failpoint::init().unwrap_err().kind(), ErrorKind::Configuration);
    assert_eq!(failpoint::hit("ack.before").unwrap_err().kind(), ErrorKind::Configuration);
}
