//! TLS by libpq's rules, with certificates made by OpenSSL as people make them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::session::connect_sql;
use bygone_replication::wire::{Connection, Mode};
use bygone_replication::{Error, ErrorKind, Policy};

use super::stream::{Seen, insert, source};
use crate::cluster::{Cluster, give_to_server, options};

/// A directory with keys and certificates.
struct Authority {
    directory: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let authority = Self { directory: tempfile::tempdir().unwrap() };
        for name in ["root", "other"] {
            let subject = format!("/CN={name}");
            authority.openssl(&format!(
                "req -new -x509 -days 30 -nodes -out {name}.crt -keyout {name}.key -subj {subject} -newkey rsa:2048"
            ));
        }
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn openssl(&self, words: &str) {
        let output = Command::new("openssl")
            .args(words.split_whitespace())
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl {words}\n{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A key and a certificate signed by `root`: `key` and `sign` are options of `openssl req` and `x509`.
    fn certificate(&self, name: &str, subject: &str, key: &str, sign: &str) {
        self.openssl(&format!(
            "req -new -nodes -out {name}.csr -keyout {name}.key -subj {subject} -newkey {key}"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -out {name}.crt -CA root.crt -CAkey root.key -CAcreateserial -days 30 {sign}"
        ));
    }

    /// Makes the server use a certificate, and waits until it does.
    fn install(&self, cluster: &Cluster, name: &str, settings: &str) {
        for (from, to, mode) in [
            (format!("{name}.crt"), "server.crt", 0o644),
            (format!("{name}.key"), "server.key", 0o600),
            ("root.crt".to_owned(), "root.crt", 0o644),
        ] {
            let to = cluster.data().join(to);
            fs::copy(self.path(&from), &to).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(mode)).unwrap();
            give_to_server(&to);
        }
        let own = cluster.data().join("postgresql.conf");
        let before = fs::read_to_string(&own).unwrap();
        fs::write(&own, format!("{before}\nssl = on\nssl_ca_file = 'root.crt'\n{settings}\n")).unwrap();
        cluster.reload();
        assert!(!cluster.log().contains("could not load"), "{}", cluster.log());
    }
}

/// `localhost`, whatever it resolves to.
fn localhost(cluster: &Cluster, more: &str) -> ConnectOptions {
    options(&format!("host=localhost hostaddr=127.0.0.1 port={} user=postgres {more}", cluster.port))
}

fn root(file: &Path) -> String {
    format!("sslrootcert='{}'", file.display())
}

/// Whether the session that results is encrypted, by the server's word.
async fn encrypted(options: &ConnectOptions) -> Result<bool, Error> {
    let mut connection = Connection::connect(options, Mode::Sql).await?;
    let rows = connection.simple_query("select ssl from pg_stat_ssl where pid = pg_backend_pid()").await?;
    let told = rows[0][0].as_deref() == Some("t");
    assert_eq!(told, connection.is_encrypted());
    connection.close().await;
    Ok(told)
}

async fn refused(options: &ConnectOptions) -> Error {
    let err = encrypted(options).await.unwrap_err();
    assert_eq!(err.policy(), Policy::Stop, "{err}");
    err
}

const SAN: &str = "-extfile san.cnf";

fn with_names(authority: &Authority, names: &str) {
    fs::write(authority.path("san.cnf"), format!("subjectAltName={names}\n")).unwrap();
}

#[tokio::test]
async fn each_sslmode_does_what_libpq_does() {
    let authority = Authority::new();
    with_names(&authority, "DNS:localhost");
    authority.certificate("server", "/CN=ignored", "rsa:2048", SAN);
    let (ours, other) = (root(&authority.path("root.crt")), root(&authority.path("other.crt")));
    let cluster = Cluster::start("");

    // Without TLS on the server.
    for (mode, works) in [("disable", true), ("allow", true), ("prefer", true), ("require", false)] {
        let result = encrypted(&localhost(&cluster, &format!("sslmode={mode}"))).await;
        assert_eq!(result.as_ref().ok(), works.then_some(&false), "{mode}");
        if let Err(err) = result {
            assert_eq!((err.kind(), err.policy()), (ErrorKind::Tls, Policy::Stop), "{err}");
        }
    }

    authority.install(&cluster, "server", "");
    for (settings, expected) in [
        ("sslmode=disable".to_owned(), false),
        ("sslmode=allow".to_owned(), false),
        ("sslmode=prefer".to_owned(), true),
        (String::new(), true),
        ("sslmode=require".to_owned(), true),
        ("sslmode=require sslsni=0".to_owned(), true),
        (format!("sslmode=require {ours}"), true),
        (format!("sslmode=verify-ca {ours}"), true),
        (format!("sslmode=verify-full {ours}"), true),
        // Where the chain cannot be verified, `prefer` goes without.
        (format!("sslmode=prefer {other}"), false),
    ] {
        assert_eq!(encrypted(&localhost(&cluster, &settings)).await.unwrap(), expected, "{settings}");
    }
    // By a name that is not in the certificate.
    let by_address = |settings: &str| cluster.tcp(settings);
    assert!(encrypted(&by_address(&format!("sslmode=verify-ca {ours}"))).await.unwrap());
    let err = refused(&by_address(&format!("sslmode=verify-full {ours}"))).await;
    assert!(err.to_string().contains("sslmode=verify-ca"), "{err}");
    // By an authority that did not sign it.
    for mode in ["require", "verify-ca", "verify-full"] {
        let err = refused(&localhost(&cluster, &format!("sslmode={mode} {other}"))).await;
        assert_eq!(err.kind(), ErrorKind::Tls, "{err}");
        assert!(err.to_string().contains("sslrootcert"), "{err}");
    }
    assert_eq!(
        refused(&localhost(&cluster, "sslmode=verify-full sslrootcert=system")).await.kind(),
        ErrorKind::Tls
    );
    // With nothing, or nonsense, to check against.
    for settings in [
        "sslmode=verify-ca",
        "sslmode=verify-full",
        "sslmode=require sslrootcert=/nonexistent",
        "sslrootcert=/etc/passwd",
    ] {
        assert_eq!(refused(&localhost(&cluster, settings)).await.kind(), ErrorKind::Config, "{settings}");
    }
    // Sockets have no TLS and need none.
    assert!(!encrypted(&cluster.socket("sslmode=verify-full")).await.unwrap());

    // The server's own rules.
    cluster.admit("hostssl all all 127.0.0.1/32 trust");
    for (mode, works) in [("disable", false), ("allow", true), ("prefer", true)] {
        let result = encrypted(&localhost(&cluster, &format!("sslmode={mode}"))).await;
        assert_eq!(result.as_ref().ok(), works.then_some(&true), "{mode}");
        assert!(result.is_ok() || result.unwrap_err().sqlstate() == Some("28000"));
    }
    cluster.admit("hostnossl all all 127.0.0.1/32 trust");
    for (mode, works) in [("allow", true), ("prefer", true), ("require", false)] {
        let result = encrypted(&localhost(&cluster, &format!("sslmode={mode}"))).await;
        assert_eq!(result.as_ref().ok(), works.then_some(&false), "{mode}");
    }
}

#[tokio::test]
async fn certificates_as_people_make_them_are_understood() {
    let authority = Authority::new();
    let cluster = Cluster::start("");
    let ours = root(&authority.path("root.crt"));
    let full = |root: &str| format!("sslmode=verify-full {root}");

    // The manual's second recipe: X.509 version 1 with OpenSSL before 3.4, the host in the common name.
    authority.certificate("plain", "/CN=localhost", "rsa:2048", "");
    authority.install(&cluster, "plain", "");
    assert!(encrypted(&localhost(&cluster, &full(&ours))).await.unwrap());
    assert!(encrypted(&localhost(&cluster, "sslmode=require")).await.unwrap());
    assert_eq!(refused(&cluster.tcp(&full(&ours))).await.kind(), ErrorKind::Tls);
    let other = root(&authority.path("other.crt"));
    assert_eq!(refused(&localhost(&cluster, &full(&other))).await.kind(), ErrorKind::Tls);
    // Another authority of the same name.
    authority.openssl(
        "req -new -x509 -days 30 -nodes -out forged.crt -keyout forged.key -subj /CN=root -newkey rsa:2048",
    );
    let forged = root(&authority.path("forged.crt"));
    assert_eq!(refused(&localhost(&cluster, &full(&forged))).await.kind(), ErrorKind::Tls);

    // An alternative name of another host takes the common name's word away.
    with_names(&authority, "DNS:elsewhere");
    authority.certificate("elsewhere", "/CN=localhost", "rsa:2048", SAN);
    authority.install(&cluster, "elsewhere", "");
    assert_eq!(refused(&localhost(&cluster, &full(&ours))).await.kind(), ErrorKind::Tls);

    // An address as alternative name.
    with_names(&authority, "IP:127.0.0.1");
    authority.certificate("address", "/CN=x", "rsa:2048", SAN);
    authority.install(&cluster, "address", "");
    assert!(encrypted(&cluster.tcp(&full(&ours))).await.unwrap());

    // The manual's first recipe: self-signed, an authority by its own word, given as the root.
    authority.openssl(
        "req -new -x509 -days 30 -nodes -out own.crt -keyout own.key -subj /CN=localhost -newkey rsa:2048",
    );
    authority.install(&cluster, "own", "");
    let own = root(&authority.path("own.crt"));
    assert!(encrypted(&localhost(&cluster, &full(&own))).await.unwrap());
    assert_eq!(refused(&cluster.tcp(&full(&own))).await.kind(), ErrorKind::Tls);
    assert_eq!(refused(&localhost(&cluster, &full(&ours))).await.kind(), ErrorKind::Tls);

    // Out of date: by an authority with extensions and without, and by its own word.
    with_names(&authority, "DNS:localhost");
    let key = "-in plain.csr -days -1";
    authority.openssl(&format!("x509 -req {key} -out old3.crt -CA root.crt -CAkey root.key {SAN}"));
    authority.openssl(&format!("x509 -req {key} -out old1.crt -CA root.crt -CAkey root.key"));
    authority.openssl(&format!("x509 -req {key} -out old0.crt -signkey plain.key {SAN}"));
    for (name, root_file) in [("old3", "root.crt"), ("old1", "root.crt"), ("old0", "old0.crt")] {
        fs::copy(authority.path("plain.key"), authority.path(&format!("{name}.key"))).unwrap();
        authority.install(&cluster, name, "");
        let err = refused(&localhost(&cluster, &full(&root(&authority.path(root_file))))).await;
        assert!(err.to_string().contains("renew"), "{name}: {err}");
        assert!(encrypted(&localhost(&cluster, "sslmode=require")).await.unwrap(), "{name}");
    }

    // An intermediate authority that the server sends along.
    fs::write(authority.path("ca.cnf"), "basicConstraints=CA:TRUE\n").unwrap();
    authority.certificate("middle", "/CN=middle", "rsa:2048", "-extfile ca.cnf");
    authority.openssl("req -new -nodes -out leaf.csr -keyout leaf.key -subj /CN=x -newkey rsa:2048");
    authority.openssl(&format!(
        "x509 -req -in leaf.csr -out leaf.crt -CA middle.crt -CAkey middle.key -CAcreateserial -days 30 {SAN}"
    ));
    let chain =
        [fs::read(authority.path("leaf.crt")).unwrap(), fs::read(authority.path("middle.crt")).unwrap()];
    fs::write(authority.path("leaf.crt"), chain.concat()).unwrap();
    authority.install(&cluster, "leaf", "");
    assert!(encrypted(&localhost(&cluster, &full(&ours))).await.unwrap());
}

#[tokio::test]
async fn passwords_are_bound_to_the_tls_connection() {
    let authority = Authority::new();
    with_names(&authority, "DNS:localhost");
    let cluster = Cluster::start("");
    cluster.psql("create role app login replication password 'secret'");
    cluster.admit("host all app 127.0.0.1/32 scram-sha-256");
    let required = |more: &str| {
        localhost(
            &cluster,
            &format!("user=app dbname=postgres password=secret channel_binding=require {more}"),
        )
    };
    for (name, key, sign) in [
        ("rsa256", "rsa:2048", "-sha256"),
        ("rsa384", "rsa:2048", "-sha384"),
        ("rsa512", "rsa:2048", "-sha512"),
        ("pss", "rsa:2048", "-sha384 -sigopt rsa_padding_mode:pss"),
        ("curve", "ec -pkeyopt ec_paramgen_curve:prime256v1", "-sha256"),
    ] {
        authority.certificate(name, "/CN=localhost", key, &format!("{SAN} {sign}"));
        authority.install(&cluster, name, "");
        assert!(encrypted(&required("sslmode=require")).await.unwrap(), "{name}");
        assert!(Connection::connect(&required("sslmode=require"), Mode::Replication).await.is_ok());
        for policy in ["disable", "prefer"] {
            let text = format!("user=app dbname=postgres password=secret channel_binding={policy}");
            assert!(encrypted(&localhost(&cluster, &text)).await.unwrap(), "{name} {policy}");
        }
    }
    let err = refused(&required("sslmode=disable")).await;
    assert_eq!(err.kind(), ErrorKind::Auth, "{err}");
    let err =
        refused(&localhost(&cluster, "user=app dbname=postgres password=wrong channel_binding=require"))
            .await;
    assert_eq!(err.sqlstate(), Some("28P01"), "{err}");
    // `prefer` is refused under TLS by pg_hba.conf, and without it for the password: the latter is what to mend.
    cluster.admit("hostnossl all app 127.0.0.1/32 scram-sha-256");
    let err = refused(&localhost(&cluster, "user=app dbname=postgres password=wrong")).await;
    assert_eq!(err.sqlstate(), Some("28P01"), "{err}");
    cluster.admit("host all app 127.0.0.1/32 scram-sha-256");

    // The server of TLS 1.2, and without certificates that rustls can read.
    authority.install(&cluster, "rsa256", "ssl_max_protocol_version = 'TLSv1.2'");
    assert!(encrypted(&required("sslmode=require")).await.unwrap());
    authority.certificate("plain", "/CN=localhost", "rsa:2048", "");
    authority.install(&cluster, "plain", "ssl_max_protocol_version = 'TLSv1.2'");
    let ours = root(&authority.path("root.crt"));
    assert!(encrypted(&required(&format!("sslmode=verify-full {ours}"))).await.unwrap());

    // Ed25519 has no hash that could bind: `prefer` goes without.
    authority.certificate("ed", "/CN=localhost", "rsa:2048", SAN);
    authority.openssl("genpkey -algorithm ed25519 -out edca.key");
    authority.openssl("req -new -x509 -days 30 -key edca.key -out edca.crt -subj /CN=edca");
    authority.openssl(&format!(
        "x509 -req -in ed.csr -out ed.crt -CA edca.crt -CAkey edca.key -CAcreateserial -days 30 {SAN}"
    ));
    authority.install(&cluster, "ed", "ssl_max_protocol_version = ''");
    let prefer = localhost(&cluster, "user=app dbname=postgres password=secret sslmode=require");
    assert!(encrypted(&prefer).await.unwrap());
    assert_eq!(refused(&required("sslmode=require")).await.kind(), ErrorKind::Auth);
}

#[tokio::test]
async fn client_certificates_are_shown_to_a_server_that_wants_them() {
    let authority = Authority::new();
    with_names(&authority, "DNS:localhost");
    authority.certificate("server", "/CN=localhost", "rsa:2048", SAN);
    authority.certificate("app", "/CN=app", "rsa:2048", SAN);
    authority.certificate("curve", "/CN=app", "ec -pkeyopt ec_paramgen_curve:prime256v1", SAN);
    authority.openssl("rsa -in app.key -out old.key -traditional");
    authority.openssl("rsa -in app.key -aes256 -passout pass:x -out locked.key");
    authority.openssl(
        "req -new -x509 -days 30 -nodes -out foreign.crt -keyout foreign.key -subj /CN=app -newkey rsa:2048",
    );
    let cluster = Cluster::start("");
    cluster.psql("create role app login");
    authority.install(&cluster, "server", "");
    cluster.admit("hostssl all app 127.0.0.1/32 cert");
    let with = |certificate: &str, key: &str| {
        let (certificate, key) = (authority.path(certificate), authority.path(key));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let files = format!("sslcert='{}' sslkey='{}'", certificate.display(), key.display());
        localhost(&cluster, &format!("user=app dbname=postgres sslmode=require {files}"))
    };
    for (certificate, key) in [("app.crt", "app.key"), ("app.crt", "old.key"), ("curve.crt", "curve.key")] {
        assert!(encrypted(&with(certificate, key)).await.unwrap(), "{certificate} {key}");
    }
    let err = refused(&localhost(&cluster, "user=app dbname=postgres sslmode=require")).await;
    assert_eq!(err.sqlstate(), Some("28000"), "{err}");
    // Another user's certificate.
    let err = refused(&with("server.crt", "server.key")).await;
    assert_eq!(err.sqlstate(), Some("28000"), "{err}");
    // The server refuses it in the handshake; TLS 1.3 tells only behind it.
    let err = refused(&with("foreign.crt", "foreign.key")).await;
    assert_eq!(err.kind(), ErrorKind::Tls, "{err}");
    for (certificate, key) in [
        ("app.crt", "server.key"),
        ("app.crt", "locked.key"),
        ("app.crt", "none.key"),
        ("app.key", "app.key"),
    ] {
        if !authority.path(key).exists() {
            fs::write(authority.path(key), "").unwrap();
        }
        let err = refused(&with(certificate, key)).await;
        assert_eq!(err.kind(), ErrorKind::Config, "{certificate} {key}: {err}");
    }
    let exposed = with("app.crt", "app.key");
    fs::set_permissions(authority.path("app.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let err = refused(&exposed).await;
    assert!(err.to_string().contains("chmod 600"), "{err}");
}

#[tokio::test]
async fn everything_works_under_tls() {
    let authority = Authority::new();
    with_names(&authority, "DNS:localhost");
    authority.certificate("server", "/CN=localhost", "rsa:2048", SAN);
    let cluster = source("wal_sender_timeout = 2s");
    for settings in ["", "ssl_max_protocol_version = 'TLSv1.2'"] {
        authority.install(&cluster, "server", settings);
        cluster.psql("truncate t");
        insert(&cluster, 1, 50_000, 10);
        cluster.psql("insert into t values (50001, repeat('z', 20000000))");
        let ours = root(&authority.path("root.crt"));
        let options = localhost(&cluster, &format!("sslmode=verify-full {ours}"));

        let client = connect_sql(&options).await.unwrap();
        let row =
            client.query_one("select ssl from pg_stat_ssl where pid = pg_backend_pid()", &[]).await.unwrap();
        assert!(row.get::<_, bool>(0));

        let mut connection = Connection::connect(&options, Mode::Sql).await.unwrap();
        let mut copy = connection.copy_out("copy t to stdout").await.unwrap();
        let mut rows = 0;
        while let Some(chunk) = copy.next().await.unwrap() {
            rows += chunk.payloads().count();
        }
        assert_eq!((rows, copy.rows()), (50_001, Some(50_001)));
        let canceller = connection.canceller();
        let (result, ()) = tokio::join!(connection.simple_query("select pg_sleep(30)"), async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            canceller.cancel().await.unwrap();
        });
        assert_eq!(result.unwrap_err().sqlstate(), Some("57014"));

        let connection = Connection::connect(&options, Mode::Replication).await.unwrap();
        assert!(connection.is_encrypted());
        let start = "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')";
        let (mut stream, feedback) = connection.start_replication(start).await.unwrap();
        let mut seen = Seen::default();
        seen.until(1000, &mut stream).await;
        tokio::time::sleep(std::time::Duration::from_secs(4)).await;
        seen.until(50_001, &mut stream).await;
        assert!(seen.ids.iter().copied().eq(1..=50_001));
        while seen.commits < 5_002 {
            seen.take(&stream.next().await.unwrap().unwrap());
        }
        feedback.set_flushed(seen.end);
        feedback.shutdown().await.unwrap();
        assert_eq!(
            cluster.psql("select confirmed_flush_lsn from pg_replication_slots"),
            seen.end.to_string()
        );
    }
}
