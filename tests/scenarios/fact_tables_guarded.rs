//! Fact tables are a schema of their own, to which nobody else writes, and each object of which says what it is.

use crate::support::bygone::Bygone;
use crate::support::clock::Clock;
use crate::support::history::History;
use crate::support::majors::on_each_major;
use crate::support::postgres::{DATABASE, Postgres};
use crate::support::scratch::Scratch;
use crate::support::store::Store;

use super::SHOP;
use super::fact_tables::{assert_current, assert_same_facts};

/// Symptom: `--facts-schema public` marked the schema as one of fact tables, and from then on nothing in it was captured.
#[test]
fn a_schema_with_tables_of_others_is_refused_and_left_as_it_is() {
    let server = Postgres::start();
    server.run(SHOP);
    server.run("create schema app; create table app.history (id text primary key, manifest text); create schema own; comment on schema own is 'mine'");
    server.run("create database facts");
    let comment = |schema: &str| {
        server.value(&format!("select obj_description('{schema}'::regnamespace, 'pg_namespace')"))
    };
    let before = comment("public");
    let scratch = Scratch::new("history");
    for (url, schema) in
        [(server.url(), "public"), (server.url(), "app"), (server.url_as("postgres", "facts"), "public")]
    {
        let facts = ["--facts", &url, "--facts-schema", schema];
        let alone =
            Bygone::new(server.url(), scratch.join("none")).without_files().options(&facts).attempt(&[]);
        alone.refused(&["--facts-schema", &format!("{schema}_facts")]);
        assert_eq!(server.value("select count(*) from pg_replication_slots").as_deref(), Some("0"));
        let mut beside =
            Bygone::new(server.url(), scratch.join(format!("{schema}-{}", url.len()))).options(&facts);
        beside.attempt(&[]).refused(&["--facts-schema"]);
        server.run("select pg_drop_replication_slot('bygone'); drop publication bygone, bygone_insert_only");
    }
    assert_eq!(comment("public"), before);
    assert_eq!(comment("app"), None);
    assert_eq!(server.value("select count(*) from app.history").as_deref(), Some("0"));
    // Reading commands do not take a table that is called so for one of bygone's.
    let bygone = Bygone::new(server.url(), scratch.join("none"));
    let asked = bygone.command(&["tables", "--history", &server.url(), "--facts-schema", "app"]);
    assert!(!asked.refused(&["holds no facts"]).stderr.contains("drop it"));
    // One without tables is taken, and one that was restored without its comment.
    let url = server.url();
    let mut bygone =
        Bygone::new(&url, scratch.join("history")).options(&["--facts", &url, "--facts-schema", "own"]);
    bygone.until_current();
    assert!(comment("own").unwrap().starts_with("bygone: facts of"));
    server.run("comment on schema own is null; update orders set total = 9");
    bygone.until_current();
    assert!(comment("own").unwrap().starts_with("bygone: facts of"));
    let history = History::read(Store::directory(scratch.join("history")));
    assert_eq!(history.tables().into_iter().collect::<Vec<_>>(), ["public.orders"]);
}

const WRITES: [&str; 4] =
    ["update % set _op = 'x'", "delete from %", "truncate %", "update % set _op = 'x' where false"];

/// Symptom: sessions that replicate met no trigger, and default privileges let others write, into the tables and through a view.
fn nobody_else_writes_and_replication_alters_nothing(server: Postgres) {
    server.run(SHOP);
    server.run(
        "create role app login; create role auditor login; create role team; create role mate login; grant team to mate;
         alter default privileges grant insert, update, delete, truncate, select on tables to app;
         alter default privileges grant insert on tables to public",
    );
    let scratch = Scratch::new("history");
    let url = server.url();
    let options = ["--facts", &url, "--facts-partition", "month", "--slab-rows", "2"];
    let mut bygone = Bygone::new(&url, scratch.join("history")).options(&options);
    bygone.until_current();
    server.run("update orders set total = 5");
    bygone.until_current();
    let mut client = server.connect();
    let tables = "select c.oid::regclass::text from pg_class c where c.relnamespace = 'bygone'::regnamespace and c.relkind in ('r', 'p') order by 1";
    let tables: Vec<String> = client.query(tables, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert!(tables.iter().any(|table| table.contains("orders_history_p2")), "{tables:?}");
    let refuses = |client: &mut postgres::Client| {
        for table in &tables {
            for sql in ["delete from %", "truncate % cascade"] {
                let error = client.batch_execute(&sql.replace('%', table)).unwrap_err();
                let message = error.as_db_error().unwrap().message().to_owned();
                assert!(message.contains("facts are only ever added"), "{sql} {table}: {message}");
            }
        }
    };
    client.batch_execute("set session_replication_role = replica").unwrap();
    for sql in WRITES {
        let error = client.batch_execute(&sql.replace('%', "bygone.orders_history")).unwrap_err();
        assert!(
            error.as_db_error().unwrap().message().contains("facts are only ever added"),
            "{sql}: {error}"
        );
    }
    refuses(&mut client);
    // Slabs can be removed all the same, and refuse again.
    client.batch_execute("select bygone.drop_slabs()").unwrap();
    refuses(&mut client);
    client.batch_execute("set session_replication_role = origin").unwrap();
    // Default privileges give nobody more than to read.
    let mut app = postgres::Client::connect(&server.url_as("app", DATABASE), postgres::NoTls).unwrap();
    client.batch_execute("grant usage on schema bygone to app").unwrap();
    assert_eq!(app.query("select * from bygone.orders", &[]).unwrap().len(), 3);
    for relation in ["orders_history", "orders_timeline", "commits", "events", "orders_slabs"] {
        let told = app.batch_execute(&format!("insert into bygone.{relation} default values")).unwrap_err();
        assert_eq!(
            told.code().map(|code| code.code().to_owned()).as_deref(),
            Some("42501"),
            "{relation}: {told}"
        );
    }
    let examine = |bygone: &Bygone| {
        let told = bygone.command(&["doctor", "--source", &url, "--facts", &url, "--format", "json"]);
        let checks: Vec<serde_json::Value> = serde_json::from_str(&told.stdout).unwrap();
        checks
            .into_iter()
            .filter(|check| check["check"].as_str().unwrap().starts_with("fact_"))
            .collect::<Vec<_>>()
    };
    let well = examine(&bygone);
    assert!(well.len() == 3 && well.iter().all(|check| check["level"] == "ok"), "{well:#?}");
    // Whatever lets others write is found, and the fix mends it.
    for (opened, check, words) in [
        ("grant insert on bygone.orders_history to app", "fact_writers", "app may write"),
        ("grant update (_op) on bygone.orders_history to app", "fact_writers", "app may write"),
        ("grant insert on bygone.orders_timeline to public", "fact_writers", "everybody may write"),
        ("grant delete on all tables in schema bygone to team", "fact_writers", "team may write"),
        ("grant pg_write_all_data to auditor", "fact_writers", "auditor, as pg_write_all_data, may write"),
        (
            "alter table bygone.orders_history disable trigger bygone_append_only",
            "fact_triggers",
            "orders_history can be altered",
        ),
        (
            "alter table bygone.commits enable trigger bygone_no_truncate",
            "fact_triggers",
            "commits can be altered",
        ),
        ("drop trigger bygone_no_truncate on bygone.events", "fact_triggers", "events can be altered"),
    ] {
        client.batch_execute(opened).unwrap();
        let found: Vec<_> = examine(&bygone).into_iter().filter(|found| found["check"] == check).collect();
        assert!(
            found.iter().any(
                |found| found["level"] == "problem" && found["message"].as_str().unwrap().contains(words)
            ),
            "{opened}: {found:#?}"
        );
        for found in found {
            client.batch_execute(found["fix"].as_str().unwrap()).unwrap();
        }
        let well = examine(&bygone);
        assert!(well.iter().all(|check| check["level"] == "ok"), "{opened}: {well:#?}");
    }
    // So does a start.
    client.batch_execute("drop trigger bygone_append_only on bygone.orders_history; drop trigger bygone_no_truncate on bygone.orders_slabs").unwrap();
    bygone.until_current();
    assert!(examine(&bygone).iter().all(|check| check["level"] == "ok"));
    let elsewhere =
        bygone.command(&["doctor", "--source", &url, "--facts", &url, "--facts-schema", "public"]);
    assert!(elsewhere.refused(&[]).stdout.contains("public_facts"));
}

on_each_major!(
    &[],
    [14 as v14, 15 as v15, 16 as v16, 17 as v17, 18 as v18],
    [nobody_else_writes_and_replication_alters_nothing]
);

/// Objects in the schema that say nothing of themselves.
const UNDESCRIBED: &str = "select string_agg(name, ', ') from (
        select c.relname::text as name from pg_class c where c.relnamespace = 'bygone'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
            and obj_description(c.oid, 'pg_class') is null
        union all select p.proname from pg_proc p where p.pronamespace = 'bygone'::regnamespace and obj_description(p.oid, 'pg_proc') is null
        union all select n.nspname from pg_namespace n where n.nspname = 'bygone' and obj_description(n.oid, 'pg_namespace') is null) o";

#[test]
fn each_month_gets_a_partition_that_says_so_and_refuses_to_be_altered() {
    let Some(clock) = Clock::new() else {
        eprintln!("libfaketime is not installed: clocks are not set");
        return;
    };
    let mut server = Postgres::start();
    server.start_in(&clock.environment());
    server.run(SHOP);
    server.run("create database facts");
    let url = server.url_as("postgres", "facts");
    let scratch = Scratch::new("history");
    let options = ["--facts", &url, "--facts-partition", "month"];
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).options(&options);
    bygone.until_current();
    // Later months, one of another year among them, and two in one commit.
    for days in [40, 75, 400] {
        server.run(&format!("update orders set total = total + {days}"));
        clock.set(&format!("+{days}d"));
        server.run("update orders set total = total + 1; insert into orders select max(id) + 1, 'late', 1 from orders");
        bygone.until_current();
    }
    let mut client = server.connect_to("facts");
    let partitions = "select c.relname::text, obj_description(c.oid, 'pg_class'), (select count(*) from bygone.orders_history h where h.tableoid = \
         c.oid) from pg_class c where c.relispartition and c.relkind = 'r' and c.relnamespace = 'bygone'::regnamespace order by 1";
    let rows = client.query(partitions, &[]).unwrap();
    assert_eq!(rows.len(), 4);
    for row in &rows {
        let (name, said, facts): (String, Option<String>, i64) = (row.get(0), row.get(1), row.get(2));
        assert!(
            said.is_some_and(|said| said.starts_with("the facts of orders_history from 20")) && facts > 0,
            "{name}"
        );
        for sql in WRITES {
            let error = client.batch_execute(&sql.replace('%', &format!("bygone.{name}"))).unwrap_err();
            assert!(error.as_db_error().unwrap().message().contains("facts are only ever added"), "{sql}");
        }
    }
    let history = History::read(Store::directory(scratch.join("history")));
    assert_same_facts(&mut client, &history, "public.orders", "orders");
    assert_current(&server, &mut client, "orders", "orders");
    assert_eq!(client.query_one(UNDESCRIBED, &[]).unwrap().get::<_, Option<String>>(0), None);
    // As of a moment in each of them.
    for row in
        client.query("select extract(epoch from _valid_from)::text from bygone.orders_history", &[]).unwrap()
    {
        let moment: String = row.get(0);
        let sql = format!("select count(*) from bygone.orders_as_of(to_timestamp({moment}))");
        assert!(client.query_one(&sql, &[]).unwrap().get::<_, i64>(0) >= 3, "{moment}");
    }
}
