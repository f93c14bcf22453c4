//! What an application says about a transaction stands beside the changes that follow.

use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::postgres::{DATABASE, Postgres};
use crate::support::process::installed_in;
use crate::support::scratch::Scratch;
use crate::support::store::Store;

use super::SHOP;

/// A transaction's facts: entity, actor and context, in order.
fn told(transactions: &[&str]) -> Vec<(String, Option<String>, serde_json::Value)> {
    let server = Postgres::start();
    server.run(SHOP);
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"));
    bygone.until_current();
    for transaction in transactions {
        server.run(&format!("begin; {transaction}; commit"));
    }
    bygone.until_current();
    let history = History::read(Store::directory(scratch.join("history")));
    let facts = history.texts("public.orders", &["_op", "_entity_id", "_actor", "_context"]);
    let facts = facts.into_iter().filter(|fact| fact[0].as_deref() != Some("snapshot"));
    let read = |text: Option<String>| {
        text.map_or(serde_json::Value::Null, |text| serde_json::from_str(&text).unwrap())
    };
    facts.map(|mut fact| (fact[1].take().unwrap(), fact[2].take(), read(fact[3].take()))).collect()
}

fn say(prefix: &str, json: &str) -> String {
    format!("select pg_logical_emit_message(true, '{prefix}', '{json}')")
}

#[test]
fn a_message_applies_to_the_changes_after_it_in_its_transaction() {
    let first = say("bygone", r#"{"actor": "ann", "reason": "x"}"#);
    let second = say("bygone", r#"{"actor": "bob"}"#);
    let facts = told(&[
        &format!(
            "update orders set total = 1 where id = 1; {first}; update orders set total = 2 where id = 2; {second};
             update orders set total = 3 where id = 3"
        ),
        "update orders set total = 4 where id = 1",
    ]);
    let actors: Vec<_> = facts.iter().map(|(entity, actor, _)| (entity.as_str(), actor.as_deref())).collect();
    assert_eq!(actors, [("1", None), ("2", Some("ann")), ("3", Some("bob")), ("1", None)]);
    assert_eq!(facts[1].2["reason"], "x");
    assert!(facts[0].2.is_null() && facts[3].2.is_null(), "{facts:?}");
}

#[test]
fn the_messages_of_other_tools_are_understood() {
    let bemi = say("_bemi", r#"{"context": {"user_id": 12, "endpoint": "/pay"}, "SQL": "update"}"#);
    let sequin = say("sequin:transaction_annotations", r#"{"username": "paul", "extra": {"k": [1, null]}}"#);
    let other = say("someone_else", r#"{"actor": "eve"}"#);
    let facts = told(&[
        &format!("{bemi}; update orders set total = 1 where id = 1"),
        &format!("{sequin}; update orders set total = 2 where id = 2"),
        &format!("{other}; update orders set total = 3 where id = 3"),
    ]);
    assert_eq!(facts[0].1.as_deref(), Some("12"));
    assert_eq!(facts[0].2["context"]["endpoint"], "/pay");
    assert_eq!(facts[1].1.as_deref(), Some("paul"));
    assert_eq!(facts[1].2["extra"]["k"][0], 1);
    assert!(facts[2].1.is_none() && facts[2].2.is_null(), "{facts:?}");
}

#[test]
fn a_message_outside_the_transaction_or_rolled_back_says_nothing() {
    let free = "select pg_logical_emit_message(false, 'bygone', '{\"actor\": \"eve\"}')";
    let undone = say("bygone", r#"{"actor": "mallory"}"#);
    let facts = told(&[
        &format!("{free}; update orders set total = 1 where id = 1"),
        &format!("savepoint s; {undone}; rollback to s; update orders set total = 2 where id = 2"),
        &format!("{}; update orders set total = 3 where id = 3", say("bygone", "no JSON")),
    ]);
    assert_eq!(facts[0].1, None);
    assert_eq!(facts[1].1, None);
    assert!(facts[1].2.is_null(), "{facts:?}");
    // What is no JSON is kept all the same.
    assert!(facts[2].2.to_string().contains("no JSON"), "{facts:?}");
}

#[test]
fn a_changed_key_names_the_old_one_beside_what_the_application_said() {
    let said = say("bygone", r#"{"actor": "ann", "ticket": 7}"#);
    let facts = told(&[&format!("{said}; update orders set id = 10 where id = 1")]);
    assert_eq!(facts.len(), 2);
    assert_eq!(facts[0].0, "1");
    assert_eq!(facts[1].0, "10");
    assert_eq!(facts[1].1.as_deref(), Some("ann"));
    assert_eq!(facts[1].2["ticket"], 7);
    assert_eq!(facts[1].2["bygone"]["rekeyed_from"], "1");
}

/// The recipes that are tried: how the document calls each, its program, the orders that it pays.
const RECIPES: [(&str, &str, &[&str]); 5] = [
    ("psycopg", "with_psycopg.py", &["7"]),
    ("SQLAlchemy", "with_sqlalchemy.py", &["7", "8"]),
    ("Django", "with_django.py", &["7"]),
    ("node-postgres", "with_node_postgres.mjs", &["7"]),
    ("Prisma", "with_prisma.mjs", &["7"]),
];

/// The lines of code under a name in the document.
fn recipe(name: &str) -> Vec<String> {
    let document = include_str!("../../docs/who-did-it.md");
    let after =
        document.split_once(&format!("**{name}**")).unwrap_or_else(|| panic!("no recipe for {name}")).1;
    let code = after.split("```").nth(1).unwrap();
    code.lines().skip(1).map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_recipes_work_with_the_clients_that_they_are_for() {
    let server = Postgres::start();
    server.run(
        "create table orders (id bigint primary key, status text); insert into orders values (7, 'new'), (8, 'new')",
    );
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"));
    bygone.until_current();
    let clients = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let node = installed_in("clients-node");
    std::os::unix::fs::symlink(node.join("node_modules"), scratch.join("node_modules")).unwrap();
    let mut tried = Vec::new();
    for (name, program, orders) in RECIPES {
        let source = std::fs::read_to_string(clients.join(program)).unwrap();
        let lines: Vec<&str> = source.lines().map(str::trim).collect();
        for line in recipe(name) {
            assert!(lines.contains(&line.as_str()), "{program} lacks the recipe's line {line}");
        }
        let is_python = program.ends_with(".py");
        let installed = if is_python { installed_in("clients") } else { node.clone() };
        if !installed.join("installed").exists() {
            eprintln!("{name} is not installed: its recipe is not tried");
            continue;
        }
        // Node looks for its packages beside the program.
        let copy = scratch.join(program);
        std::fs::copy(clients.join(program), &copy).unwrap();
        let interpreter = if is_python { installed.join("bin/python3") } else { "node".into() };
        let done = std::process::Command::new(interpreter).arg(&copy).arg(server.url()).output().unwrap();
        assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
        tried.push((format!("ann@{}", name.to_lowercase()), orders));
        server.run("update orders set status = 'new'");
    }
    bygone.until_current();
    let history = History::read(Store::directory(scratch.join("history")));
    let facts = history.texts("public.orders", &["_actor", "_entity_id", "status"]);
    let paid: Vec<(String, String)> = facts
        .into_iter()
        .filter(|fact| fact[2].as_deref() == Some("paid"))
        .map(|mut fact| (fact[0].take().unwrap_or_default(), fact[1].take().unwrap()))
        .collect();
    let due: Vec<(String, String)> = tried
        .iter()
        .flat_map(|(actor, orders)| orders.iter().map(|order| (actor.clone(), (*order).to_owned())))
        .collect();
    assert_eq!(paid, due);
}

/// The recipes of which the SQL alone is tried, through a client that prepares it and leaves the types to the server as theirs do.
const SQL_ALONE: [&str; 3] = ["Rails", "Ecto", "Hibernate"];

/// The statement of such a recipe, its parameter as the protocol has it.
fn statement(name: &str) -> String {
    let code = recipe(name).join("\n");
    let from = code.split_once("\"select ").unwrap_or_else(|| panic!("no statement for {name}")).1;
    format!("select {}", from.split('"').next().unwrap()).replace(":who", "$1")
}

#[test]
fn the_sql_of_the_other_recipes_says_who_when_it_is_prepared() {
    let document = include_str!("../../docs/who-did-it.md");
    let named = document.lines().filter_map(|line| line.strip_prefix("**")?.split("**").next());
    for name in named {
        let tried = RECIPES.iter().any(|(recipe, ..)| *recipe == name) || SQL_ALONE.contains(&name);
        assert!(tried, "nobody tries the recipe for {name}");
    }
    let server = Postgres::start();
    server.run(SHOP);
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"));
    bygone.until_current();
    let mut client = server.connect();
    for name in SQL_ALONE {
        let mut transaction = client.transaction().unwrap();
        let who = format!("{{\"actor\": \"{name}\"}}");
        transaction.query(&statement(name), &[&who]).unwrap_or_else(|error| panic!("{name}: {error}"));
        transaction.batch_execute("update orders set total = total + 1 where id = 1").unwrap();
        transaction.commit().unwrap();
    }
    bygone.until_current();
    let history = History::read(Store::directory(scratch.join("history")));
    let actors = history.texts("public.orders", &["_op", "_actor"]).into_iter();
    let actors: Vec<String> = actors
        .filter(|fact| fact[0].as_deref() == Some("update"))
        .map(|mut fact| fact[1].take().unwrap())
        .collect();
    assert_eq!(actors, SQL_ALONE);
}

/// All that the catalog has of functions, triggers and schemas.
fn catalog(server: &Postgres) -> Vec<String> {
    server.column(
        "select 'schema ' || nspname from pg_namespace where nspname !~ '^pg_' union all select 'function ' || p.oid::regprocedure from pg_proc p \
         join pg_namespace n on n.oid = p.pronamespace where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' union all select 'trigger ' || \
         tgname || ' ' || tgrelid::regclass from pg_trigger where not tgisinternal union all select 'event ' || evtname from pg_event_trigger \
         order by 1",
    )
}

#[test]
fn a_role_that_may_not_install_is_told_whose_rights_it_takes() {
    let server = Postgres::start();
    server.run(
        "create table theirs (id int primary key); create role own login; grant create on database shop to own; grant all on schema public to own; \
         set role own; create table ours (id int primary key); reset role",
    );
    let url = server.url_as("own", DATABASE);
    let bygone = Bygone::new(server.url(), "/nonexistent");
    let install = ["install", "context", "--source", &url];
    let refused = bygone.command(&[&install[..], &["--table", "public.*"]].concat());
    let refused = refused.refused(&["theirs", "its owner", "--print", "--table '-"]);
    assert!(!refused.stderr.contains("event trigger"), "{}", refused.stderr);
    bygone.command(&[&install[..], &["--table", "public.*", "--table", "-public.theirs"]].concat()).well();
    server.run("create role other login");
    let other = server.url_as("other", DATABASE);
    bygone.command(&["uninstall", "--source", &other]).refused(&["whoever ran it", "--print"]);
    bygone.command(&["uninstall", "--source", &url]).well();
    bygone.command(&["install", "ddl", "--source", &url]).refused(&["event triggers belong to superusers"]);
}

#[test]
fn an_installed_trigger_says_who_and_uninstall_leaves_nothing() {
    let server = Postgres::start();
    server.run(SHOP);
    server.run(
        "create table parts (id int, region text, primary key (id, region)) partition by list (region);
         create table parts_eu partition of parts for values in ('eu');
         create table left_out (id int primary key);
         create role clerk login; grant all on all tables in schema public to clerk",
    );
    let before = catalog(&server);
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"));
    bygone.until_current();
    let url = server.url();
    let install =
        ["install", "context", "--source", &url, "--table", "public.*", "--table", "-public.left_out"];
    for _ in 0..2 {
        bygone.command(&install).well();
    }
    let printed = bygone.command(&[&install[..], &["--print"]].concat()).well().stdout;
    assert!(printed.contains("create trigger bygone_context") && !printed.contains("left_out"), "{printed}");

    let clerk = format!("{}?application_name=desk", server.url_as("clerk", DATABASE));
    let mut client = postgres::Client::connect(&clerk, postgres::NoTls).unwrap();
    client.batch_execute("update orders set total = 1 where id = 1").unwrap();
    client.batch_execute("begin; set local bygone.actor = 'ann@shop'; set local bygone.reason = 'refund'; update orders set total = 2 where id = 2; delete from orders where id = 3; commit").unwrap();
    client
        .batch_execute("insert into orders values (4, 'dee', 4); insert into parts values (1, 'eu')")
        .unwrap();
    client.batch_execute("insert into left_out values (1)").unwrap();
    // Bulk loads and what the trigger costs: one message a transaction, however many statements it has.
    client.batch_execute("begin; insert into orders select i, 'x', 1 from generate_series(10, 20) i; update orders set total = 9 where id > 9; commit").unwrap();
    bygone.until_current();
    let history = History::read(Store::directory(scratch.join("history")));
    let facts = history.texts("public.orders", &["_entity_id", "_op", "_actor", "_context"]);
    let of = |id: &str, op: &str| {
        let fact = facts
            .iter()
            .find(|fact| fact[0].as_deref() == Some(id) && fact[1].as_deref() == Some(op))
            .unwrap();
        let context: serde_json::Value = serde_json::from_str(fact[3].as_deref().unwrap()).unwrap();
        (fact[2].clone().unwrap(), context)
    };
    let (actor, context) = of("1", "update");
    assert_eq!(
        (actor.as_str(), &context["application"], &context["client"]),
        ("clerk", &"desk".into(), &"127.0.0.1".into())
    );
    for (id, op) in [("2", "update"), ("3", "delete")] {
        let (actor, context) = of(id, op);
        assert_eq!(
            (actor.as_str(), &context["reason"], &context["session_user"]),
            ("ann@shop", &"refund".into(), &"clerk".into())
        );
    }
    assert_eq!(of("4", "insert").0, "clerk");
    assert_eq!(of("15", "update").0, "clerk");
    let parts = history.texts("public.parts", &["_actor"]);
    assert_eq!(parts, [[Some("clerk".to_owned())]]);
    let rows = history.texts("public.left_out", &["_op", "_actor"]);
    assert!(rows.iter().all(|row| row[1].is_none()), "{rows:?}");

    // Together with the event triggers, both go at once.
    bygone.command(&["install", "ddl", "--source", &url]).well();
    bygone.command(&["uninstall", "--source", &url]).well();
    assert_eq!(catalog(&server), before);
    client.batch_execute("update orders set total = 3 where id = 1").unwrap();
}
