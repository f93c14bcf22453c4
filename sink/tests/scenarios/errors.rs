//! Trouble with the place: each kind is told apart and names its remedy.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use bygone_sink::error::{Error, ErrorKind};
use bygone_sink::history::History;
use bygone_sink::store::{Location, Store, StoreOptions};
use bytes::Bytes;

use crate::support::fixture::{body, identity, writer};
use crate::support::place::{block_on, directory};
use crate::support::s3_server::{S3Server, store_at, unique};

fn open(location: &str, environment: BTreeMap<String, String>) -> Result<Store, Error> {
    let options = StoreOptions {
        retry_for: Duration::from_secs(1),
        environment: Some(environment),
        ..StoreOptions::default()
    };
    Store::open(&Location::parse(location).unwrap(), &options)
}

#[test]
fn a_bucket_that_is_missing_is_named() {
    let server = S3Server::shared();
    let store = open("s3://nowhere/h", S3Server::environment_at(server.port())).unwrap();
    for err in [
        block_on(History::open(&store)).unwrap_err(),
        block_on(History::open_or_create(&store, &identity())).unwrap_err(),
        block_on(store.put_new("x", Bytes::new())).unwrap_err(),
        block_on(store.list("")).unwrap_err(),
    ] {
        assert_eq!(err.kind(), ErrorKind::BucketMissing, "{err:#}");
        assert!(err.to_string().contains("s3://nowhere/h"), "{err}");
    }
}

#[test]
fn wrong_credentials_are_denied_and_not_repeated() {
    let server = S3Server::start_locked();
    let store = server.store("h");
    for err in [
        block_on(store.get("x")).unwrap_err(),
        block_on(store.put_new("x", Bytes::new())).unwrap_err(),
        block_on(store.list("")).unwrap_err(),
        block_on(store.delete("x")).unwrap_err(),
    ] {
        assert_eq!(err.kind(), ErrorKind::Denied, "{err:#}");
        assert!(!format!("{err:#} {err:?}").contains("test-secret"), "{err:#}");
    }
}

#[test]
fn a_server_that_does_not_answer_is_unreachable_and_the_cause_is_said() {
    // A port that nobody listens on.
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let store = store_at(port, "h", Duration::from_secs(1));
    for err in [
        block_on(store.get("x")).unwrap_err(),
        block_on(store.put_new("x", Bytes::new())).unwrap_err(),
        block_on(History::open(&store)).unwrap_err(),
    ] {
        assert_eq!(err.kind(), ErrorKind::Unreachable, "{err:#}");
        assert!(err.is_transient());
        assert!(err.to_string().contains("refused"), "{err}");
    }
}

#[test]
fn settings_come_from_a_profile_where_the_environment_is_silent() {
    let server = S3Server::shared();
    let prefix = unique();
    let home = tempfile::tempdir().unwrap();
    let credentials = home.path().join("credentials");
    std::fs::write(&credentials, "[work]\naws_access_key_id = A\naws_secret_access_key = s\n").unwrap();
    let config = home.path().join("config");
    let endpoint = format!("http://127.0.0.1:{}", server.port());
    std::fs::write(&config, format!("[profile work]\nendpoint_url = {endpoint}\nregion = eu-west-1\n"))
        .unwrap();
    let environment: BTreeMap<String, String> = [
        ("AWS_PROFILE", "work"),
        ("AWS_SHARED_CREDENTIALS_FILE", credentials.to_str().unwrap()),
        ("AWS_CONFIG_FILE", config.to_str().unwrap()),
        ("AWS_ENDPOINT_URL", ""),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();

    let store = open(&format!("s3://kept/{prefix}"), environment.clone()).unwrap();
    block_on(store.put_new("x", Bytes::from_static(b"x"))).unwrap();

    assert_eq!(store.describe(), format!("s3://kept/{prefix} at 127.0.0.1:{}", server.port()));
    assert!(block_on(server.store(&prefix).exists("x")).unwrap());
    let mut gone = environment;
    gone.insert("AWS_PROFILE".to_owned(), "gone".to_owned());
    assert_eq!(open("s3://kept/h", gone).unwrap_err().kind(), ErrorKind::Configuration);
}

#[test]
fn no_message_holds_a_secret() {
    let mut environment = S3Server::environment_at(9);
    let err = block_on(open("s3://kept/h", environment.clone()).unwrap().get("x")).unwrap_err();
    assert!(!format!("{err:#} {err:?}").contains("test-secret"), "{err:#}");
    environment.insert("AWS_ENDPOINT_URL".to_owned(), "http://user:hushhush@127.0.0.1:9".to_owned());
    let err = open("s3://kept/h", environment).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Configuration);
    assert!(!format!("{err:#} {err:?}").contains("hushhush"), "{err:#}");
}

#[test]
fn a_place_that_is_a_file_is_no_directory() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let store = open(file.path().to_str().unwrap(), BTreeMap::new()).unwrap();
    let err = block_on(History::open_or_create(&store, &identity())).unwrap_err();
    assert!(err.to_string().contains(file.path().to_str().unwrap()), "{err}");
    assert_eq!(std::fs::metadata(file.path()).unwrap().len(), 0);
}

/// Runs an ignored test of this binary as root of a namespace of its own, after `setup`. `None` where the machine does not
/// allow namespaces.
fn in_namespace(setup: &str, test: &str, place: &str) -> Option<std::process::Output> {
    let allowed = Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|status| status.success());
    if !allowed {
        eprintln!("not run: this machine allows no mount namespaces");
        return None;
    }
    let run = Command::new("unshare")
        .args(["-rm", "sh", "-ec", &format!("{setup}; exec \"$0\" --exact {test} --ignored --nocapture")])
        .arg(std::env::current_exe().unwrap())
        .env("BYGONE_TEST_PLACE", place)
        .output()
        .unwrap();
    Some(run)
}

fn succeeded(run: Option<std::process::Output>) {
    let Some(run) = run else { return };
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
fn on_a_full_disk_nothing_is_half_made_and_space_lets_it_go_on() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path().to_str().unwrap();
    let setup = format!("mount -t tmpfs -o size=128k none '{place}'");
    succeeded(in_namespace(&setup, "scenarios::errors::full_disk", place));
}

#[test]
#[ignore = "runs inside a namespace with a small file system"]
fn full_disk() {
    let place = std::env::var("BYGONE_TEST_PLACE").unwrap();
    let store = open(&place, BTreeMap::new()).unwrap();
    block_on(async {
        let mut writer = writer(&store).await;
        let filler = format!("{place}/filler");
        std::fs::write(&filler, vec![0; 96 << 10]).unwrap();

        let err = store.put_new("tables/x", Bytes::from(vec![7; 64 << 10])).await.unwrap_err();

        assert_eq!(err.kind(), ErrorKind::NoSpace, "{err:#}");
        assert!(err.to_string().contains("free space"), "{err}");
        assert!(!store.exists("tables/x").await.unwrap());
        std::fs::remove_file(filler).unwrap();
        let _ = writer.append(body(100, vec![])).await.unwrap();
        assert_eq!(History::open(&store).await.unwrap().state().next_seq, 1);
    });
}

#[test]
fn a_read_only_place_can_be_read_and_says_that_it_is() {
    let (directory, store) = directory();
    block_on(async {
        let mut writer = writer(&store).await;
        let _ = writer.append(body(100, vec![])).await.unwrap();
    });
    let place = directory.path().join("history");
    let place = place.to_str().unwrap();
    let setup = format!("mount --bind '{place}' '{place}'; mount -o remount,bind,ro '{place}'");
    succeeded(in_namespace(&setup, "scenarios::errors::read_only", place));
}

#[test]
#[ignore = "runs inside a namespace with a read-only mount"]
fn read_only() {
    let store = open(&std::env::var("BYGONE_TEST_PLACE").unwrap(), BTreeMap::new()).unwrap();
    block_on(async {
        assert_eq!(History::open(&store).await.unwrap().state().next_seq, 1);
        let err = History::open_or_create(&store, &identity()).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ReadOnly, "{err:#}");
    });
}
