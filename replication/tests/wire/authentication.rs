//! Every authentication method of `pg_hba.conf` that can be had without another service.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use bygone_replication::conninfo::{ConnectOptions, Environment};
use bygone_replication::wire::{Connection, Mode};
use bygone_replication::{ErrorKind, Policy};

use crate::cluster::Cluster;

async fn who(options: &ConnectOptions, mode: Mode) -> Result<String, bygone_replication::Error> {
    let mut connection = Connection::connect(options, mode).await?;
    let rows = connection.simple_query("select current_user").await?;
    connection.close().await;
    Ok(rows[0][0].clone().unwrap())
}

#[tokio::test]
async fn each_method_lets_the_right_password_in_and_no_other() {
    let cluster = Cluster::start("");
    cluster.psql("set password_encryption = 'md5'; create role md5 login replication password 's3 \\ecret'");
    cluster.psql(
        "create role scram login replication password 's3 \\ecret'; create role open login replication",
    );
    // RFC 4013: both forms of the letter are the same password.
    cluster.psql(
        "create role prepared login password U&'\\00E9\\2168'; create role clear login password 's3 \\ecret'",
    );
    cluster.admit(
        "host all md5 127.0.0.1/32 md5\nhost all scram 127.0.0.1/32 scram-sha-256\n\
         host all open 127.0.0.1/32 trust\nhost all prepared 127.0.0.1/32 scram-sha-256\n\
         host all clear 127.0.0.1/32 password\nlocal all scram scram-sha-256",
    );
    for mode in [Mode::Sql, Mode::Replication] {
        for user in ["md5", "scram", "clear"] {
            if user == "clear" && mode == Mode::Replication {
                continue;
            }
            let right = cluster.tcp(&format!("user={user} password='s3 \\\\ecret'"));
            assert_eq!(who(&right, mode).await.unwrap(), user);

            let wrong = cluster.tcp(&format!("user={user} password=guess"));
            let err = who(&wrong, mode).await.unwrap_err();
            assert_eq!((err.kind(), err.sqlstate()), (ErrorKind::Server, Some("28P01")), "{user}: {err}");
            assert_eq!(err.policy(), Policy::Stop);
            assert!(!err.to_string().contains("guess"), "{err}");

            let err = who(&cluster.tcp(&format!("user={user}")), mode).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Auth, "{user}: {err}");
            assert!(err.to_string().contains("PGPASSWORD"), "{err}");
        }
        assert_eq!(who(&cluster.tcp("user=open"), mode).await.unwrap(), "open");
    }
    assert_eq!(
        who(&cluster.tcp("user=prepared password='e\u{301}IX'"), Mode::Sql).await.unwrap(),
        "prepared"
    );
    // `localhost` may have addresses at which nobody listens.
    let by_name = crate::cluster::options(&format!(
        "host=localhost port={} user=md5 dbname=postgres password=x",
        cluster.port
    ));
    let err = who(&by_name, Mode::Sql).await.unwrap_err();
    assert_eq!(err.sqlstate(), Some("28P01"), "{err}");
    assert_eq!(who(&cluster.socket("user=scram password='s3 \\\\ecret'"), Mode::Sql).await.unwrap(), "scram");
}

#[tokio::test]
async fn refusals_keep_their_sqlstate() {
    let cluster =
        Cluster::start("max_connections = 7\nsuperuser_reserved_connections = 1\nmax_wal_senders = 1");
    cluster.psql("create role plain login");
    for (options, mode, code, policy) in [
        (cluster.tcp("dbname=nowhere"), Mode::Sql, "3D000", Policy::Stop),
        (cluster.tcp("user=nobody"), Mode::Sql, "28000", Policy::Stop),
        (cluster.tcp("user=plain"), Mode::Replication, "42501", Policy::Stop),
        (cluster.tcp("options='-c nonsense=1'"), Mode::Sql, "42704", Policy::Stop),
    ] {
        let err = who(&options, mode).await.unwrap_err();
        assert_eq!((err.sqlstate(), err.policy()), (Some(code), policy), "{err}");
        assert!(err.to_string().starts_with("the server refused the connection: 127.0.0.1:"), "{err}");
    }
    let mut held = Vec::new();
    let err = loop {
        match Connection::connect(&cluster.tcp("user=plain"), Mode::Sql).await {
            Ok(connection) => held.push(connection),
            Err(err) => break err,
        }
        assert!(held.len() < 10);
    };
    assert_eq!((err.sqlstate(), err.policy()), (Some("53300"), Policy::Retry), "{err}");

    drop(held);
    cluster.admit("host all plain 127.0.0.1/32 reject");
    let mut err = who(&cluster.tcp("user=plain"), Mode::Sql).await.unwrap_err();
    // The server notices after a while that the connections were closed.
    for _ in 0..100 {
        if err.sqlstate() != Some("53300") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        err = who(&cluster.tcp("user=plain"), Mode::Sql).await.unwrap_err();
    }
    assert_eq!((err.sqlstate(), err.policy()), (Some("28000"), Policy::Stop), "{err}");
}

#[tokio::test]
async fn the_password_file_is_used_for_each_host() {
    let cluster = Cluster::start("");
    cluster.psql("create role app login password 'from file'");
    cluster.admit("host all app 127.0.0.1/32 scram-sha-256");
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".pgpass");
    fs::write(
        &file,
        format!("other:*:*:*:wrong\n127.0.0.1:{}:shop:*:wrong\n*:*:*:app:from file\n", cluster.port),
    )
    .unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let environment = Environment { home: Some(home.path().to_owned()), ..Environment::default() };
    let url = format!("postgres://app@127.0.0.1:{}/postgres", cluster.port);
    let options = ConnectOptions::parse_in(&url, &environment).unwrap();
    assert_eq!(who(&options, Mode::Sql).await.unwrap(), "app");

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let options = ConnectOptions::parse_in(&url, &environment).unwrap();
    assert_eq!(who(&options, Mode::Sql).await.unwrap_err().kind(), ErrorKind::Auth);
}

#[tokio::test]
async fn a_server_that_asks_for_what_we_lack_is_told_so() {
    let cluster = Cluster::start("");
    cluster.psql("create role app login password 'x'");
    cluster.admit("host all app 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 trust");
    for user in ["app", "postgres"] {
        let options = cluster.tcp(&format!("user={user} password=x channel_binding=require"));
        let err = who(&options, Mode::Sql).await.unwrap_err();
        assert_eq!((err.kind(), err.policy()), (ErrorKind::Auth, Policy::Stop), "{err}");
    }
}
