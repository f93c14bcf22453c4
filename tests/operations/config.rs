//! `bygone.toml`: one file for all settings, behind flags and environment.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::postgres::{DATABASE, Postgres, Stop};
use crate::support::process::{eventually, free_port};
use crate::support::scratch::Scratch;
use crate::support::store::Store;

fn bygone() -> Bygone {
    Bygone::new("postgres://localhost/none", "/nonexistent")
}

#[test]
fn flags_come_before_the_environment_that_before_the_file_and_that_before_defaults() {
    let scratch = Scratch::new("config");
    let file = scratch.join("bygone.toml");
    fs::write(
        &file,
        "memory = \"128MiB\"\ncommit-interval = \"7s\"\n[capture.shop]\nsource = \"postgres://app:hunter2@db/shop\"\nhistory = \"./h\"\n\
         table = [\"public.*\", \"-public.x\"]\nno-compact = true\npassword-command = \"echo hunter2\"\n\
         facts = \"postgres://app:hunter2@db/past\"\n[capture.other]\nsource = \"dbname=o user=app\"\nhistory = \"./o\"\n",
    )
    .unwrap();
    let path = file.to_str().unwrap();
    let outcome =
        bygone().env("BYGONE_MEMORY", "512MiB").command(&["config", "--config", path, "--print"]).well();
    let (other, shop) = outcome.stdout.split_once("[capture.shop]").unwrap();
    assert!(other.contains("[capture.other]") && other.contains("name = \"other\"  # file"), "{other}");
    for line in [
        "memory = \"512MiB\"  # environment",
        "commit-interval = \"7s\"  # file",
        "commit-size = \"128MiB\"  # default",
        "table = [\"public.*\", \"-public.x\"]  # file",
        "no-compact = true  # file",
        "name = \"shop\"  # file",
    ] {
        assert!(shop.contains(line), "{line}:\n{shop}");
    }
    assert!(!outcome.stdout.contains("hunter2") && shop.contains("to database 'shop'"), "{shop}");
    assert!(shop.contains("password-command = \"echo …\""), "{shop}");
    let checked = bygone().command(&["config", "--config", path, "--check"]).well();
    assert!(checked.stderr.contains("other, shop"), "{}", checked.stderr);
}

#[test]
fn what_makes_no_sense_is_refused_with_the_nearest_name() {
    let scratch = Scratch::new("config");
    let file = scratch.join("bygone.toml");
    let path = file.to_str().unwrap();
    let refused = |text: &str, words: &[&str]| {
        fs::write(&file, text).unwrap();
        for command in [&["config", "--config", path][..], &["run", "--config", path]] {
            let outcome = bygone().command(command);
            assert!(matches!(outcome.code(), Some(1 | 2)), "{text}: {}", outcome.stderr);
            for word in words {
                assert!(outcome.stderr.contains(word), "{text}: nothing about {word} in {}", outcome.stderr);
            }
        }
    };
    let base = "source = \"postgres://localhost:1/shop\"\nhistory = \"./h\"\n";
    for (more, words) in [
        ("comit-interval = \"5s\"", &["comit-interval", "did you mean commit-interval"][..]),
        ("commit-interval = \"soon\"", &["commit-interval", "soon"]),
        ("memory = true", &["memory"]),
        ("no-compact = \"yes\"", &["no-compact", "true or false"]),
        ("x = ", &["bygone.toml", "line 3"]),
        ("discard = true", &["discard"]),
        ("capture = 1", &["capture"]),
    ] {
        refused(&format!("{base}{more}\n"), words);
    }
    // What a run refuses before it connects.
    let certificate = scratch.join("none.crt");
    let certificate = certificate.to_str().unwrap();
    for (more, words) in [
        ("table = [\"public.\"]", &["table", "public."][..]),
        ("retention = [\"nonsense\"]", &["retention", "nonsense"]),
        ("leave-out = [\"nocolumn\"]", &["leave-out", "nocolumn"]),
        ("ignore-updates = [\"nocolumn\"]", &["ignore-updates", "nocolumn"]),
        ("hash-column = [\"users.email\"]", &["users.email", "hash-key-file"]),
        ("hash-column = [\"users.email\"]\nhash-key-file = \"/nonexistent/key\"", &["/nonexistent/key"]),
        ("slot = \"Bad Name\"", &["Bad Name"]),
        ("facts = \"mysql://db/past\"", &["facts"]),
        ("accept-partial = true", &["publication"]),
        ("max-slot-lag = \"1GiB\"\nslot = \"mine\"", &["max-slot-lag", "slot"]),
    ] {
        refused(&format!("{base}{more}\n"), words);
    }
    for (text, words) in [
        ("source = \"postgres://localhost:1/shop\"\n".to_owned(), &["history"][..]),
        (format!("{base}[capture.shop]\nhistory = \"ftp://h\"\n"), &["capture shop", "history", "ftp"]),
        (
            format!(
                "history = \"./h\"\nsource = \"host=db sslmode=verify-full sslrootcert={certificate}\"\n"
            ),
            &["source", certificate],
        ),
    ] {
        refused(&text, words);
    }
    let twice = |a: &str, b: &str| format!("{base}[capture.a]\n{a}\n[capture.b]\n{b}\n");
    for (text, words) in [
        ("source = 5\nhistory = \"./h\"\n".to_owned(), &["source", "postgres://"][..]),
        (format!("{base}[capture.\"Odd Name\"]\n"), &["Odd Name", "name"]),
        (twice("", ""), &["captures a and b", "history"]),
        (twice("history = \"./a\"\nname = \"n\"", "name = \"n\""), &["captures a and b", "slot"]),
        (twice("history = \"./a\"\nlisten = \"9464\"", "listen = 9464"), &["captures a and b", "listen"]),
        (
            twice("history = \"./a\"\nstate = \"./s\"", "state = \"s/\""),
            &["captures a and b", "share one state directory"],
        ),
    ] {
        refused(&text, words);
    }
    fs::write(&file, "[capture.shop]\nhistory = \"./h\"\n").unwrap();
    bygone().command(&["config", "--config", path]).refused(&["capture shop", "--source"]);
    let outcome = bygone().command(&["run", "--config", path, "shpo"]);
    assert!(outcome.stderr.contains("did you mean shop"), "{}", outcome.stderr);
    bygone().command(&["run", "--source", "x", "--history", "y", "shop"]).misused(&["--config"]);
}

/// Flags that are about how a command is run, and not about a capture.
const NO_KEYS: [&str; 6] = ["config", "help", "version", "verbose", "quiet", "log-format"];

#[test]
fn each_flag_of_a_run_is_a_key_of_the_file() {
    let scratch = Scratch::new("config");
    let file = scratch.join("bygone.toml");
    let path = file.to_str().unwrap();
    bygone().command(&["config", "--config", path]).refused(&["cannot read", "give --config a file"]);
    let help = bygone().command(&["run", "--help"]).well().stdout;
    let flags = help
        .lines()
        .filter_map(|line| line.trim().split("--").nth(1).filter(|_| line.trim().starts_with('-')));
    let flags: Vec<&str> = flags
        .map(|flag| flag.split([' ', '[', '=']).next().unwrap())
        .filter(|flag| !NO_KEYS.contains(flag))
        .collect();
    assert!(flags.len() > 30, "{flags:?}");
    for flag in flags {
        // Whether the value is one is another question.
        fs::write(&file, format!("{flag} = true\n")).unwrap();
        let said = bygone().command(&["config", "--config", path]).stderr;
        assert!(!said.contains("there is no setting"), "{said}");
    }
}

#[test]
fn a_line_that_cannot_be_read_is_named_and_not_shown() {
    let scratch = Scratch::new("config");
    let file = scratch.join("bygone.toml");
    let path = file.to_str().unwrap();
    for (text, line) in [
        ("history = \"./h\"\nsource = \"postgres://app:hunter2@db/shop\n", "line 2, column"),
        ("source = postgres://app:hunter2@db/shop\n", "line 1, column"),
        ("[capture.a]\n\nsource = 'postgres://app:hunter2@db/shop' x\n", "line 3, column"),
        (
            "source = \"postgres://app:hunter2@db/shop\"\nsource = \"postgres://app:hunter2@db/shop\"\n",
            "line 2, column",
        ),
    ] {
        fs::write(&file, text).unwrap();
        for command in [&["config", "--config", path][..], &["run", "--config", path]] {
            let outcome = bygone().command(command);
            let said = outcome.stdout + &outcome.stderr;
            assert!(said.contains(line) && said.contains("bygone.toml"), "{said}");
            assert!(!said.contains("hunter2") && !said.contains("db/shop"), "{said}");
        }
    }
}

/// Each line as the JSON object that it has to be.
#[track_caller]
fn objects(lines: &str) -> Vec<Value> {
    let object = |line: &str| match serde_json::from_str(line) {
        Ok(Value::Object(object)) => Value::Object(object),
        other => panic!("{other:?}: {line}"),
    };
    lines.lines().map(object).collect()
}

#[test]
fn the_error_that_ends_a_command_is_json_like_the_lines_before_it() {
    let scratch = Scratch::new("config");
    let file = scratch.join("bygone.toml");
    fs::write(&file, "nothing\n").unwrap();
    let history = scratch.join("history");
    let history = history.to_str().unwrap();
    let unreachable = format!("postgres://nobody@127.0.0.1:{}/none", free_port());
    for (arguments, word) in [
        (&["run", "--log-format", "json", "--source", &unreachable, "--history", history][..], "connect"),
        (&["run", "--config", file.to_str().unwrap(), "--log-format", "json"], "line 1"),
    ] {
        let outcome = bygone().command(arguments);
        let lines = objects(&outcome.stderr);
        let last = lines.last().unwrap();
        assert_eq!(last["level"], "ERROR", "{last}");
        assert!(last["timestamp"].as_str().unwrap().ends_with('Z'), "{last}");
        assert!(last["message"].as_str().unwrap().contains(word), "{last}");
    }
}

#[test]
fn a_capture_of_several_waits_for_a_source_that_is_down_and_each_line_says_whose_it_is() {
    let mut servers = [Postgres::start(), Postgres::start()];
    for server in &servers {
        server.run("create table t (id int primary key); insert into t values (1)");
    }
    servers[1].stop(Stop::Fast);
    let scratch = Scratch::new("config");
    let file = scratch.join("bygone.toml");
    let port = free_port();
    let text = format!(
        "commit-interval = \"100ms\"\n[capture.up]\nsource = \"{up}\"\nhistory = \"{root}/up\"\n\
         [capture.down]\nsource = \"{down}\"\nhistory = \"{root}/down\"\nlisten = {port}\n",
        up = servers[0].url(),
        down = servers[1].url(),
        root = scratch.path().display(),
    );
    fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let facts = |name: &str| {
        let root = scratch.join(name);
        let begun = root.join("log/00000000000000000000.json").exists();
        if begun { History::read(Store::directory(&root)).fact_count() } else { 0 }
    };
    let mut bygone = bygone();
    bygone.start_bare(&["run", "--log-format", "json", "--config", path]);
    let tried = || bygone.said().matches("tried again").count() >= 2;
    assert!(eventually(Duration::from_secs(60), || facts("up") == 1 && tried()), "{}", bygone.said());
    assert!(bygone.alive());
    servers[1].start_again();
    assert!(eventually(Duration::from_secs(90), || facts("down") == 1), "{}", bygone.said());
    bygone.terminate(Signal::TERM, Duration::from_secs(60));
    let said = bygone.said();
    // The first line may be cut.
    let lines = objects(said.split_once('\n').unwrap().1);
    let of = |name: &str| lines.iter().filter(|line| line["span"]["capture"] == name).count();
    assert!(of("up") > 0 && of("down") > 0, "{said}");
    let nobodys = lines.iter().find(|line| line["span"]["capture"].is_null());
    assert!(nobodys.is_none(), "{nobodys:?}");
    // A signal ends the waiting, too; and whoever wants to be current hears at once that it cannot be.
    servers[1].stop(Stop::Fast);
    bygone.start_bare(&["run", "--config", path]);
    assert!(
        eventually(Duration::from_secs(60), || bygone.said().contains("tried again")),
        "{}",
        bygone.said()
    );
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.command(&["run", "--config", path, "--until-current"]).refused(&["capture=down", "connect"]);
}

#[test]
fn captures_of_one_file_run_together_or_by_name_with_passwords_that_a_command_prints() {
    let server = Postgres::start();
    server.run("create database billing; ");
    server.run("create table orders (id int primary key); insert into orders values (1)");
    server
        .connect_to("billing")
        .batch_execute("create table bills (id int primary key); insert into bills values (1), (2)")
        .unwrap();
    server.run("create role bygone login superuser password 'first'");
    server.admit("scram-sha-256");
    let scratch = Scratch::new("config");
    let secret = scratch.join("secret");
    fs::write(&secret, "first\n").unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = scratch.join("bygone.toml");
    let text = format!(
        "commit-interval = \"100ms\"\npassword-command = \"cat {secret}\"\n\
         [capture.shop]\nsource = \"{shop}\"\nhistory = \"{root}/shop\"\n\
         [capture.billing]\nsource = \"{billing}\"\nhistory = \"{root}/billing\"\n",
        secret = secret.display(),
        shop = server.url_as("bygone", DATABASE),
        billing = server.url_as("bygone", "billing"),
        root = scratch.path().display(),
    );
    fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let facts = |name: &str| {
        let root = scratch.join(name);
        if root.join("bygone.json").exists() {
            History::read(Store::directory(&root)).fact_count()
        } else {
            0
        }
    };
    let mut bygone = bygone();
    bygone.command(&["run", "--config", path, "--until-current", "shop"]).well();
    assert_eq!((facts("shop"), facts("billing")), (1, 0));
    bygone.command(&["run", "--config", path, "--until-current"]).well();
    assert_eq!((facts("shop"), facts("billing")), (1, 2));
    fs::write(&secret, "second\n").unwrap();
    bygone.command(&["run", "--config", path, "--until-current"]).refused(&["password"]);

    fs::write(&secret, "first\n").unwrap();
    bygone.start_bare(&["run", "--config", path]);
    let slots = "select 1 from pg_replication_slots where active having count(*) = 2";
    let admin = format!("host=127.0.0.1 port={} user=bygone password=first dbname={DATABASE}", server.port());
    let mut client = postgres::Client::connect(&admin, postgres::NoTls).unwrap();
    let mut both = || client.query_opt(slots, &[]).unwrap().is_some();
    assert!(eventually(Duration::from_secs(30), &mut both), "{}", bygone.said());
    client.batch_execute("insert into orders values (2)").unwrap();
    assert!(eventually(Duration::from_secs(30), || facts("shop") == 2), "{}", bygone.said());

    // Commands about one capture take the same file.
    bygone.command(&["status", "--config", path]).misused(&["several captures", "billing, shop"]);
    bygone.command(&["status", "--config", path, "shpo"]).misused(&["shop"]);
    let status = bygone.command(&["status", "--config", path, "shop", "--format", "json"]).well().stdout;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["history"]["name"], "shop");
    assert!(status["source"].is_object(), "{status}");
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    let detached = bygone.command(&["detach", "--config", path, "billing"]).well().stderr;
    assert!(detached.contains("dropped replication slot billing"), "{detached}");
    let slots = "select string_agg(slot_name, ',') from pg_replication_slots";
    assert_eq!(client.query_one(slots, &[]).unwrap().get::<_, String>(0), "shop");
}
