use super::*;

fn in_environment(text: &str, variables: &[(&str, &str)]) -> Result<ConnectOptions, ConnInfoError> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    ConnectOptions::parse_in(text, &Environment { variables, home: None, user: Some("me".to_owned()) })
}

fn parse(text: &str) -> ConnectOptions {
    in_environment(text, &[]).unwrap_or_else(|err| panic!("{text}: {err}"))
}

fn error(text: &str) -> String {
    in_environment(text, &[]).expect_err(text).to_string()
}

fn password(options: &ConnectOptions) -> Option<&str> {
    options.hosts[0].password.as_ref().map(|password| password.0.as_str())
}

#[test]
fn both_forms_say_the_same() {
    for (url, pairs) in [
        ("postgres://", ""),
        ("postgresql://db", "host=db"),
        ("postgresql://db:5433", "host=db port=5433"),
        ("postgresql://db/shop", "host=db dbname=shop"),
        ("postgresql://app@db", "host=db user=app"),
        ("postgresql://app:secret@db", "host=db user=app password=secret"),
        ("postgresql:///shop?host=db&port=5433", "dbname=shop host = db port = 5433"),
        ("postgresql://app@/shop?host=/run/x", "user=app dbname=shop host=/run/x"),
        ("postgresql://%2Frun%2Fx/shop", "host=/run/x dbname=shop"),
        ("postgresql://a:1,b:2,c/shop", "host=a,b,c port=1,2, dbname=shop"),
        ("postgresql://[::1]:5433/shop", "host=::1 port=5433 dbname=shop"),
        ("postgresql://[2001:db8::1]/", "host=2001:db8::1"),
        ("postgresql://db?sslmode=require", "host=db sslmode=require"),
        ("postgresql://db?ssl=true", "host=db sslmode=require"),
        ("postgresql://u%20%40:p%3A%2F%25@db/d%20b", r"host=db user='u @' password='p:/%' dbname='d b'"),
        ("postgresql://db?options=-c%20a%3Db", r"host=db options=-c\ a=b"),
        ("postgres://db/one?dbname=two", "host=db dbname=one dbname=two"),
        ("  postgres://db/x\n", "\n host = db\tdbname='x' "),
        ("postgres://db?password=it's\\", r"host=db password='it\'s\\'"),
    ] {
        assert_eq!(parse(url), parse(pairs), "{url}");
    }
}

#[test]
fn what_is_not_said_has_libpqs_defaults() {
    let options = parse("");
    assert_eq!((options.user(), options.database(), options.port()), ("me", "me", 5432));
    assert!(options.host().starts_with('/'), "{}", options.host());
    assert_eq!(options.tls.mode, SslMode::Prefer);
    assert_eq!(options.tls.roots, RootCertificates::Default(None));
    assert_eq!(options.channel_binding, ChannelBinding::Prefer);
    assert_eq!(options.keepalives, Some(Keepalives::default()));
    assert_eq!(options.application_name(), "bygone");
    assert_eq!(parse("user=app").database(), "app");
    assert_eq!(parse("sslrootcert=system").tls.mode, SslMode::VerifyFull);
    let nobody = ConnectOptions::parse_in("host=db", &Environment::default()).unwrap_err();
    assert!(nobody.to_string().contains("PGUSER"), "{nobody}");
}

#[test]
fn the_environment_fills_what_the_text_leaves_out() {
    let variables = [
        ("PGHOST", "env"),
        ("PGPORT", "5544"),
        ("PGUSER", "envuser"),
        ("PGPASSWORD", "envsecret"),
        ("PGDATABASE", "envdb"),
        ("PGSSLMODE", "verify-ca"),
        ("PGSSLROOTCERT", "/ca"),
        ("PGSSLCERT", "/cert"),
        ("PGSSLKEY", "/key"),
        ("PGAPPNAME", "envapp"),
        ("PGCONNECT_TIMEOUT", "7"),
        ("PGOPTIONS", "-c a=b"),
        ("PGCHANNELBINDING", "require"),
        ("PGTARGETSESSIONATTRS", "primary"),
    ];
    let options = in_environment("", &variables).unwrap();
    assert_eq!((options.host(), options.port(), options.user()), ("env".to_owned(), 5544, "envuser"));
    assert_eq!((password(&options), options.database()), (Some("envsecret"), "envdb"));
    assert_eq!(
        options.tls,
        TlsOptions {
            mode: SslMode::VerifyCa,
            roots: RootCertificates::File("/ca".into()),
            client: Some(("/cert".into(), "/key".into())),
            server_name: true,
        }
    );
    assert_eq!((options.application_name(), options.options.as_deref()), ("envapp", Some("-c a=b")));
    assert_eq!(options.connect_timeout, Some(Duration::from_secs(7)));
    assert_eq!(options.channel_binding, ChannelBinding::Require);
    assert_eq!(options.target_session, TargetSession::Primary);

    let options = in_environment("postgres://app:own@db:1/shop?sslmode=disable", &variables).unwrap();
    assert_eq!((options.host(), options.port(), options.user()), ("db".to_owned(), 1, "app"));
    assert_eq!((password(&options), options.database()), (Some("own"), "shop"));
    assert_eq!(options.tls.mode, SslMode::Disable);
    // Empty is not set, in the environment; empty in the text wins over the environment, as in libpq.
    assert_eq!(in_environment("", &[("PGHOST", ""), ("PGPORT", "")]).unwrap(), parse(""));
    assert_eq!(in_environment("port=''", &variables).unwrap().port(), 5432);
    let refused = in_environment("host=db", &[("PGREQUIREAUTH", "scram-sha-256")]).unwrap_err();
    assert!(refused.to_string().contains("require_auth"), "{refused}");
}

#[test]
fn hosts_addresses_and_ports_belong_together() {
    let hosts = |text: &str| parse(text).hosts().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(hosts("host=a,b port=1,2"), ["a:1", "b:2"]);
    assert_eq!(hosts("host=a,b port=7"), ["a:7", "b:7"]);
    assert_eq!(hosts("host=a,/run/x,::1 port=1,,3"), ["a:1", "/run/x/.s.PGSQL.5432", "[::1]:3"]);
    assert_eq!(hosts("hostaddr=10.0.0.1,::1"), ["10.0.0.1:5432", "[::1]:5432"]);
    let named = parse("host=a hostaddr=10.0.0.1");
    let address = Some("10.0.0.1".parse().unwrap());
    assert_eq!(named.hosts()[0].endpoint, Endpoint::Tcp { name: "a".to_owned(), address });
    for text in
        ["host=a,b hostaddr=10.0.0.1", "host=a,b,c port=1,2", "hostaddr=db", "port=0", "port=65536", "port=x"]
    {
        error(text);
    }
}

#[test]
fn numbers_and_choices_are_checked() {
    let options = parse(
        "keepalives_idle=10 keepalives_interval=5 keepalives_count=3 tcp_user_timeout=4000 connect_timeout=1 sslsni=0",
    );
    assert_eq!(
        options.keepalives,
        Some(Keepalives {
            idle: Some(Duration::from_secs(10)),
            interval: Some(Duration::from_secs(5)),
            count: Some(3)
        })
    );
    assert_eq!(options.tcp_user_timeout, Some(Duration::from_secs(4)));
    assert_eq!(options.connect_timeout, Some(Duration::from_secs(2)));
    assert!(!options.tls.server_name);
    assert_eq!(parse("keepalives=0").keepalives, None);
    assert_eq!(parse("connect_timeout=0").connect_timeout, None);
    assert_eq!(parse("connect_timeout=-1").connect_timeout, None);
    for (text, says) in [
        ("connect_timeout=soon", "connect_timeout"),
        ("sslmode=on", "verify-full"),
        ("channel_binding=1", "prefer"),
        ("target_session_attrs=master", "primary"),
        ("sslrootcert=system sslmode=require", "verify-full"),
        ("sslcert=/x", "sslkey"),
        ("gssencmode=require", "gssencmode=require is not supported"),
        ("sslcrl=/x", "sslcrl"),
        ("service=shop", "service"),
        ("sslmod=require", "\"sslmode\""),
        ("postgres://db?sslmodes=require", "\"sslmode\""),
    ] {
        let err = error(text);
        assert!(err.contains(says), "{text}: {err}");
    }
    // What libpq knows and what has no bearing here.
    parse("gssencmode=prefer krbsrvname=x client_encoding=auto replication=database sslcompression=0");
}

#[test]
fn malformed_text_is_an_error_and_never_a_panic() {
    for text in [
        "host",
        "=x",
        "host=a b",
        "host='a",
        "user='a\\",
        "postgres://[::1",
        "postgres://[]/",
        "postgres://[::1]x",
        "postgres://%zz@db",
        "postgres://%4",
        "postgres://%",
        "postgres://%00@db",
        "postgres://%ff@db",
        "postgres://db?x",
        "postgres://db?=x",
        "postgres://db?a=b=c",
        "postgres://db?host=a&&port=1",
        "http://db/x",
        "shop",
    ] {
        error(text);
    }
    let long = r"postgres://u%20:p%3A@[::1]:5432,b:6,/d%20b?sslmode=require&options=-c%20a%3Db&ssl=true";
    for end in 0..=long.len() {
        let _ = in_environment(&long[..end], &[]);
    }
    let long = r" host = 'a\'b' port=1 password=x\ y user='' ";
    for end in 0..=long.len() {
        let _ = in_environment(&long[..end], &[]);
    }
}

#[test]
fn passwords_are_never_shown() {
    let options = parse("postgres://app:hunter2@db,other/shop?application_name=x");
    for shown in [format!("{options:?}"), options.redacted(), format!("{:?}", options.hosts())] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    assert_eq!(options.redacted(), "db:5432,other:5432 as 'app' to database 'shop'");
    let environment = Environment {
        variables: [("PGPASSWORD".to_owned(), "hunter2".to_owned())].into(),
        ..Environment::default()
    };
    assert!(!format!("{environment:?}").contains("hunter2"));
    // A password with reserved characters lands anywhere in a URL.
    for text in [
        "postgres://app:hunter2/x@db/shop",
        "postgres://app:hunter2?x@db/shop",
        "postgres://app:hunter2%x@db/shop",
        "postgres://app:a@hunter2:b/shop",
        "postgres://app:x@[hunter2/shop",
        "host=db password=two hunter2",
        "host=db password='hunter2",
    ] {
        let err = error(text);
        assert!(!err.contains("hunter2"), "{text}: {err}");
    }
}
