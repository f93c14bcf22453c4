//! The pages of the documentation: what stands in their blocks is run as it stands, but for the names of hosts, places and moments.
//!
//! `docs/querying.md` has a test of its own (`queries::cookbook`), the recipes of `docs/who-did-it.md` theirs (`scenarios::context`).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::queries::cookbook::{blocks, commands, words};
use crate::queries::engines::duckdb;
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::moto::{Moto, moto_python};
use crate::support::postgres::{DATABASE, Postgres, Stop};
use crate::support::process::{free_port, python};
use crate::support::scratch::Scratch;
use crate::support::store::Store;

/// How many blocks of a sort a page has, and who runs them.
const RUN: [(&str, &str, usize, &str); 23] = [
    (
        "README",
        "console",
        4,
        "here; the one of two commands is make's, by the demonstration and by the tests themselves",
    ),
    ("README", "sql", 1, "here"),
    ("configuration", "toml", 1, "here"),
    ("configuration", "sh", 2, "here"),
    ("delta", "python", 1, "here"),
    ("design", "json", 1, "nobody: the log's own document, with dots in it"),
    ("design", "", 4, "nobody: two layouts, the way of a change, a formula"),
    ("fact-tables", "sh", 2, "here"),
    ("fact-tables", "sql", 1, "here"),
    ("getting-started", "sh", 3, "here"),
    ("getting-started", "sql", 1, "here"),
    ("querying", "console", 21, "queries::cookbook"),
    ("querying", "sh", 1, "queries::cookbook, as a variable"),
    ("querying", "sql", 1, "the like of it by scenarios::context"),
    ("querying", "sql source", 3, "queries::cookbook"),
    ("querying", "sql bygone", 1, "queries::cookbook"),
    ("querying", "sql duckdb", 2, "queries::cookbook"),
    ("querying", "sql spark", 1, "queries::engines, where there is Java"),
    ("schema-changes", "sql", 1, "here"),
    ("security", "sh", 2, "here"),
    ("security", "json", 1, "here, as JSON"),
    ("who-did-it", "sql", 2, "here"),
    ("who-did-it", "recipes", 8, "scenarios::context"),
];

fn page(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = if name == "README" { root.join("README.md") } else { root.join(format!("docs/{name}.md")) };
    fs::read_to_string(path).unwrap()
}

/// The n-th block of a sort on a page, with each name replaced by what it is here; each has to be in it.
#[track_caller]
fn block(name: &str, info: &str, nth: usize, names: &[(&str, &str)]) -> String {
    let page = page(name);
    let text = blocks(&page).into_iter().filter(|(kind, _)| *kind == info).nth(nth).unwrap().1;
    names.iter().fold(text, |text, (name, here)| {
        assert!(text.contains(name), "no {name} in {text}");
        text.replace(name, here)
    })
}

#[test]
fn each_block_of_each_page_is_run_by_somebody() {
    let mut found: Vec<(String, String, usize)> = Vec::new();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let pages = fs::read_dir(docs).unwrap().map(|entry| entry.unwrap().path());
    let names = pages.filter_map(|path| Some(path.file_name()?.to_str()?.strip_suffix(".md")?.to_owned()));
    for name in names.chain(["README".to_owned()]) {
        let text = page(&name);
        for (info, _) in blocks(&text) {
            let recipe =
                ["python", "ruby", "elixir", "js", "ts", "java"].contains(&info) && name == "who-did-it";
            let info = if recipe { "recipes" } else { info };
            match found.iter_mut().find(|(page, kind, _)| *page == name && kind == info) {
                Some((_, _, count)) => *count += 1,
                None => found.push((name.clone(), info.to_owned(), 1)),
            }
        }
    }
    let known = RUN.map(|(page, info, count, _)| (page.to_owned(), info.to_owned(), count));
    let of = |blocks: &[(String, String, usize)]| blocks.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(of(&found), of(&known), "blocks that this list does not know are run by nobody");
}

/// The sources below a directory, each as one line, its texts in one piece.
fn sources(below: &Path, texts: &mut Vec<String>) {
    for entry in fs::read_dir(below).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            sources(&entry, texts);
        } else if entry.extension().is_some_and(|kind| kind == "rs") {
            let text = fs::read_to_string(&entry).unwrap();
            let pieces = text.split("\\\n").map(str::trim_start);
            texts.push(pieces.collect::<String>());
        }
    }
}

#[test]
fn each_error_of_the_list_is_one_that_bygone_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    for below in ["src", "replication/src", "sink/src"] {
        sources(&root.join(below), &mut texts);
    }
    let page = page("errors");
    let listed = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut count = 0;
    for error in listed {
        let says = |text: &String| error.split('…').all(|piece| text.contains(piece.trim()));
        assert!(texts.iter().any(says), "nothing says {error:?}");
        count += 1;
    }
    assert!(count > 40, "{count}");
}

/// A directory in which a user follows a page.
struct Desk {
    scratch: Scratch,
    variables: Vec<(&'static str, String)>,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { scratch: Scratch::new("page"), variables: Vec::new() };
        fs::create_dir(desk.scratch.join("bin")).unwrap();
        // What would go on until it is stopped ends once it is current.
        let bygone = env!("CARGO_BIN_EXE_bygone");
        desk.program(
            "bygone",
            &format!("[ \"$1\" = run ] && set -- \"$@\" --until-current\nexec {bygone} \"$@\""),
        );
        desk.program("pass", "echo unused");
        // DuckDB's shell, as far as it runs the file that it is given at its start.
        let reader = python("BYGONE_TEST_READERS", "readers");
        let load = "import duckdb, sys; duckdb.connect().execute(open(sys.argv[2]).read())";
        desk.program("duckdb", &format!("exec {} -c '{load}' \"$@\"", reader.display()));
        let aws = "import json, sys, boto3
words = sys.argv[2:]
call, given = words.pop(0).replace(\"-\", \"_\"), {}
while words:
    name = \"\".join(part.capitalize() for part in words.pop(0)[2:].split(\"-\"))
    value = words.pop(0) if words and not words[0].startswith(\"--\") else True
    given[name] = json.loads(value) if str(value).startswith(\"{\") else value
getattr(boto3.client(\"s3\"), call)(**given)";
        desk.program("aws", &format!("exec {} -c '{aws}' \"$@\"", moto_python().display()));
        desk
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.scratch.join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn output(&self, script: &str) -> Output {
        let path = format!("{}:{}", self.scratch.join("bin").display(), std::env::var("PATH").unwrap());
        Command::new("sh")
            .args(["-euc", script])
            .current_dir(self.scratch.path())
            .env("PATH", path)
            .env("HOME", self.scratch.path())
            .env("XDG_STATE_HOME", self.scratch.join("state"))
            .env_remove("USER")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .output()
            .unwrap()
    }

    /// What a script prints, each command of which has to end well.
    #[track_caller]
    fn shell(&self, script: &str) -> String {
        let done = self.output(script);
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{script}\n{out}{err}");
        out.into_owned()
    }
}

/// Statements line by line, as psql is given them.
fn run_lines(server: &Postgres, sql: &str) {
    sql.lines().filter(|line| !line.trim().is_empty()).for_each(|line| server.run(line));
}

#[test]
fn getting_started_leads_from_a_database_that_is_not_prepared_to_its_end() {
    let mut server = Postgres::with(&[("wal_level", "replica")]);
    server.run(
        "create role the_owner; create table orders (id int primary key, status text);
         alter table orders owner to the_owner; insert into orders values (7, 'new'), (8, 'paid')",
    );
    let desk = Desk::new();
    let url = server.url_as("bygone", DATABASE);
    let doctor = block("getting-started", "sh", 0, &[("postgres://you@db/shop", &server.url())]);
    let told = desk.output(&doctor);
    assert_eq!(told.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&told.stdout).contains("fix: alter system set wal_level = 'logical'"));
    run_lines(&server, &block("getting-started", "sql", 0, &[]));
    server.stop(Stop::Fast);
    server.start_again();
    let grant = "grant the_owner to bygone";
    assert!(page("getting-started").contains(&format!("`{grant}`")));
    server.run(grant);
    desk.shell(&block("getting-started", "sh", 1, &[("postgres://bygone@db/shop", &url)]));
    let told = desk.shell(&block("getting-started", "sh", 2, &[]));
    for word in ["public.orders", "snapshot", "paid"] {
        assert!(told.contains(word), "no {word} in {told}");
    }
    desk.shell(&format!("bygone detach --source {url}"));
    assert_eq!(server.traces(), [""; 0]);
}

#[test]
fn the_file_of_the_configuration_is_taken_as_it_stands() {
    let server = Postgres::start();
    server.run("create database billing");
    server.run("create role bygone login superuser");
    server.run(
        "create table users (id int primary key, email text, password_hash text, last_seen int);
         create table sessions (id int primary key); create table logins (id int primary key); insert into users values (1, 'ada@example.org', 'x', 1)",
    );
    server.connect_to("billing").batch_execute("create table bills (id int primary key)").unwrap();
    let moto = Moto::start();
    moto.put("archive", "", "");
    let mut desk = Desk::new();
    desk.variables = moto.variables().to_vec();
    let place = |name: &str| desk.scratch.join(name).to_str().unwrap().to_owned();
    fs::write(place("hash-key"), "0123456789abcdef\n").unwrap();
    fs::write(place("passwords"), "").unwrap();
    fs::set_permissions(place("passwords"), fs::Permissions::from_mode(0o600)).unwrap();
    let port = server.port().to_string();
    let names = [
        ("bygone@db/shop", format!("bygone@127.0.0.1:{port}/{DATABASE}")),
        ("host=db ", format!("host=127.0.0.1 port={port} ")),
        ("/etc/bygone/passwords", place("passwords")),
        ("/etc/bygone/hash-key", place("hash-key")),
        ("/var/lib/bygone/billing", place("billing")),
        ("9464", free_port().to_string()),
        ("9465", free_port().to_string()),
    ];
    let names: Vec<(&str, &str)> = names.iter().map(|(name, here)| (*name, here.as_str())).collect();
    fs::write(place("bygone.toml"), block("configuration", "toml", 0, &names)).unwrap();
    let shown = desk.shell(&block("configuration", "sh", 0, &[]));
    assert!(
        shown.contains("[capture.shop]") && shown.contains("password-command = \"pass …\"  # file"),
        "{shown}"
    );
    assert!(Path::new(&place("billing")).join("bygone.json").exists());
    desk.shell(&block("configuration", "sh", 1, &[]));
}

#[test]
fn fact_tables_are_made_and_asked_as_their_page_says() {
    let server = Postgres::start();
    server.run("create table orders (id int primary key, status text); insert into orders values (7, 'new')");
    for name in ["beside", "alone", "again"] {
        server.run(&format!("create database {name}"));
    }
    let mut desk = Desk::new();
    // How wide positions are would say where a line is wrapped.
    desk.variables = vec![("COLUMNS", "200".to_owned())];
    let (source, target) = (server.url(), |name: &str| server.url_as("postgres", name));
    let lines = block("fact-tables", "sh", 0, &[("postgres://app@db/shop", &source)]);
    let lines: Vec<&str> = lines.lines().collect();
    let [beside, alone, filled, back] = lines.as_slice() else { panic!("{lines:?}") };
    let into = |line: &str, name: &str| line.replace("postgres://audit@archive/past", &target(name));
    desk.shell(&into(beside, "beside"));
    server.run(
        "begin; select pg_logical_emit_message(true, 'bygone', '{\"actor\": \"ann\"}');
         update orders set status = 'paid' where id = 7; commit",
    );
    desk.shell(&into(beside, "beside"));
    let moment = "select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let moment = server.value(moment).unwrap();
    server.run("insert into orders values (8, 'new')");
    desk.shell(&into(beside, "beside"));
    desk.shell(&format!("bygone detach --source {source}"));
    desk.shell(&into(alone, "alone"));
    desk.shell(&into(filled, "again"));
    desk.shell(&into(back, "again"));
    assert_eq!(History::read(Store::directory(desk.scratch.join("again"))).fact_count(), 3);
    for name in ["beside", "again"] {
        let mut client = server.connect_to(name);
        for query in block("fact-tables", "sql", 0, &[("2026-01-01", &moment)]).split_terminator(";\n") {
            assert!(!client.query(query, &[]).unwrap().is_empty(), "{name} has no rows for {query}");
        }
    }
    let asked = [("postgres://audit@archive/past", target("again")), ("2026-01-01", moment)];
    let told = desk.shell(&block(
        "fact-tables",
        "sh",
        1,
        &asked.each_ref().map(|(name, here)| (*name, here.as_str())),
    ));
    assert!(told.contains("new -> paid") && told.contains("7,paid"), "{told}");
}

#[test]
fn the_delta_view_is_read_as_its_page_says() {
    let server = Postgres::start();
    server.run("create table orders (id int primary key); insert into orders values (7)");
    let desk = Desk::new();
    desk.shell(&format!("bygone run --source {} --history history", server.url()));
    let extension = "import duckdb, duckdb_extension_delta, os
at = os.path.dirname(duckdb_extension_delta.__file__)
duckdb.execute(f\"load '{at}/extensions/v{duckdb.__version__}/delta.duckdb_extension'\")
";
    let read = Command::new(python("BYGONE_TEST_READERS", "readers"))
        .args(["-c", &format!("{extension}{}", block("delta", "python", 0, &[]))])
        .current_dir(desk.scratch.path())
        .output()
        .unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
}

#[test]
fn the_example_of_schema_changes_comes_to_what_its_comments_say() {
    let server = Postgres::start();
    let desk = Desk::new();
    let run =
        || desk.shell(&format!("bygone run --source {} --history history --table 'public.*'", server.url()));
    let text = block("schema-changes", "sql", 0, &[]);
    let bare: Vec<&str> = text.lines().map(|line| line.split("--").next().unwrap()).collect();
    let bare = bare.join(" ");
    let statements: Vec<&str> =
        bare.split(';').map(str::trim).filter(|statement| !statement.is_empty()).collect();
    let [create, changes @ ..] = statements.as_slice() else { panic!("{statements:?}") };
    server.run(create);
    run();
    let mut shown = Vec::new();
    for change in changes {
        server.run(change);
        run();
        let lsn = server.value("select pg_current_wal_insert_lsn()").unwrap();
        run();
        let rows = desk.shell(&format!("bygone as-of orders --at {lsn} --history history --format csv"));
        shown.push(rows.lines().nth(1).unwrap().to_owned());
    }
    assert_eq!(shown, ["1,10", "1,11.90", "1,12.00"]);
    let versions = "select _version, _op, total from orders_history order by _version";
    let told = desk.shell(&format!("bygone sql '{versions}' --history history --format json"));
    let told: Value = serde_json::from_str(&told).unwrap();
    let told: Vec<String> = told
        .as_array()
        .unwrap()
        .iter()
        .map(|row| format!("{}, {}", row["_version"], row["_op"].as_str().unwrap()))
        .collect();
    for fact in &told {
        assert!(text.contains(&format!("version {fact}")), "{fact}");
    }
    assert_eq!(told.len(), 3);
}

#[test]
fn what_security_has_one_run_does_what_it_says() {
    let server = Postgres::start();
    server.run("create table users (id int primary key, email text); insert into users values (1, 'ada@example.org')");
    let moto = Moto::start();
    moto.put("archive", "", "");
    let mut desk = Desk::new();
    desk.variables = moto.variables().to_vec();
    let text = block("security", "sh", 0, &[]);
    let [key, find] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    desk.shell(key);
    let source = server.url();
    desk.shell(&format!(
        "bygone run --source {source} --history s3://archive/shop --hash-column users.email --hash-key-file hash-key"
    ));
    let found = desk.shell(find);
    assert!(found.contains("snapshot") && !found.contains("ada"), "{found}");
    desk.shell(&block("security", "sh", 1, &[]));
    let told = desk.shell(&format!("bygone doctor --source {source} --history s3://audit-archive/shop"));
    assert!(told.contains("COMPLIANCE, 2555 days"), "{told}");
    let policy: Value = serde_json::from_str(&block("security", "json", 0, &[])).unwrap();
    assert!(policy["Statement"].is_array());
}

#[test]
fn an_application_says_who_as_the_page_has_it() {
    let server = Postgres::start();
    server.run("create table orders (id int primary key, status text); insert into orders values (7, 'new')");
    let scratch = Scratch::new("page");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"));
    bygone.until_current();
    let message = block("who-did-it", "sql", 0, &[]);
    server.run(&format!("begin; {message} update orders set status = 'paid' where id = 7; commit"));
    bygone.command(&["install", "context", "--source", &server.url(), "--table", "public.*"]).well();
    run_lines_in_one_session(&server, &block("who-did-it", "sql", 1, &[]));
    bygone.until_current();
    let history = History::read(Store::directory(scratch.join("history")));
    let actors = history.texts("public.orders", &["_actor"]);
    let actors: Vec<Option<&str>> = actors.iter().map(|fact| fact[0].as_deref()).collect();
    assert_eq!(actors, [None, Some("ann"), Some("ann@shop")]);
}

fn run_lines_in_one_session(server: &Postgres, sql: &str) {
    let mut client = server.connect();
    sql.lines().for_each(|line| client.batch_execute(line).unwrap());
}

#[test]
fn the_first_page_shows_what_the_demonstration_prints() {
    let mut desk = Desk::new();
    desk.variables = vec![("COLUMNS", "80".to_owned())];
    let told = desk.shell("bygone demo --directory demo 2>&1");
    let told = told.replace(&format!("{}/demo/history", desk.scratch.path().display()), "./history");
    let sections: Vec<(&str, &str)> = told
        .split("\n$ ")
        .skip(1)
        .filter_map(|section| section.split("\n\n--").next())
        .map(|section| section.split_once('\n').unwrap_or((section, "")))
        .collect();
    // How wide a time is says where it is wrapped.
    let set = |text: &str| words(text).into_iter().collect::<BTreeSet<_>>();
    let mut compared = 0;
    for (command, printed) in commands(&block("README", "console", 2, &[])) {
        let [program, asked, table, ..] = command.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{command}")
        };
        let begins = format!("{program} {asked} {table} ");
        let (_, shown) = sections.iter().find(|(command, _)| command.starts_with(&begins)).unwrap();
        assert_eq!(set(&printed), set(shown), "$ {command}");
        compared += 1;
    }
    assert_eq!(compared, 2);
    let history = format!("'{}/demo/history/", desk.scratch.path().display());
    let rows = duckdb("", &block("README", "sql", 0, &[("'history/", &history)]));
    assert_eq!(rows.len(), 3, "{rows:?}");
    let begins = block("README", "console", 0, &[]);
    assert!(sections.iter().any(|(command, _)| command.starts_with("bygone run --source")), "{begins}");
}
