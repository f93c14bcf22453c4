//! Every type arrives exactly, by every way: copied or streamed, as text or in binary form.
//!
//! The judge is PostgreSQL: what a fact file holds, cast to the column's type, must be the value that the source held.
//! And the ways must agree byte by byte, so that it never matters which one a value took.

mod catalogue;
mod engines;
mod random;
mod sessions;
mod specimens;

use catalogue::{BUILT_IN, DDL, MADE};
pub(super) use engines::interpreter as readers;
pub(crate) use specimens::texts;
use specimens::{Found, STREAMED, Specimens, promised, run};

use super::fact_tables::assert_same_history;
use crate::support::bygone::Bygone;
use crate::support::comparison::assert_flawless;
use crate::support::history::History;
use crate::support::postgres::{DATABASE, Postgres};
use crate::support::scratch::Scratch;
use crate::support::store::Store;

#[track_caller]
fn assert_none(wrong: &[String]) {
    let shown: Vec<_> = wrong.iter().take(60).cloned().collect();
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), shown.join("\n"));
}

/// The history at a directory, whose files and chain are whole.
#[track_caller]
fn read(at: std::path::PathBuf) -> History {
    let mut history = History::read(Store::directory(at));
    history.verify(true);
    assert_flawless(&history.violations);
    history
}

fn with_op<'a>(facts: &'a [Found], op: &str) -> Vec<&'a Found> {
    facts.iter().filter(|fact| fact.op == op).collect()
}

/// Whether the last stream of a run was asked for in binary form.
#[track_caller]
fn assert_stream(said: &str, binary: bool) {
    let streaming = said.lines().rfind(|line| line.contains("streaming"));
    let streaming = streaming.unwrap_or_else(|| panic!("nothing was streamed:\n{said}"));
    assert!(streaming.contains(&format!("binary={binary}")), "{streaming}");
}

/// A locale whose money is not the C locale's, where this machine has one.
fn another_currency(server: &Postgres) -> Option<String> {
    ["de_DE.UTF-8", "ja_JP.UTF-8", "en_US.UTF-8", "en_GB.UTF-8"].into_iter().find_map(|locale| {
        let mut client = server.connect();
        client.batch_execute(&format!("set lc_monetary = '{locale}'")).is_ok().then(|| locale.to_owned())
    })
}

#[test]
fn every_type_arrives_exactly_by_every_way() {
    // Given a table with a column of every type, and one of those types alone that are read in binary form
    let server = Postgres::start();
    let mut client = server.connect();
    run(&mut client, &format!("{DDL} create schema texts; create schema bins; create schema kept"));
    let version = server.major();
    let all = Specimens::of(version, BUILT_IN.iter().chain(MADE));
    let binary = all.only(|column| column.is_binary());
    let tables = [(&all, "texts.zoo"), (&binary, "bins.zoo")];
    for (specimens, table) in tables {
        specimens.create(&mut client, table);
        specimens.insert(&mut client, table, 0);
    }
    let forgotten = texts(
        &mut client,
        "select typname from pg_type t where typtype in ('b', 'r', 'm') and typnamespace = 'pg_catalog'::regnamespace
             and typoutput <> 'array_out'::regproc and not exists (
                 select from pg_attribute where attrelid = 'texts.zoo'::regclass and atttypid = t.oid)",
    );
    assert_eq!(forgotten, [""; 0], "types that the catalogue lacks");

    // When they are copied, added to, and emptied after the state was lost
    let scratch = Scratch::new("history");
    let mut captures = [("texts", false), ("bins", true)].map(|(schema, is_binary)| {
        let bygone = Bygone::new(server.url(), scratch.join(schema))
            .tables(&[&format!("{schema}.*")])
            .options(&["--name", schema]);
        (bygone, is_binary)
    });
    for (bygone, _) in &mut captures {
        bygone.until_current();
    }
    for (specimens, table) in tables {
        specimens.insert(&mut client, table, STREAMED);
    }
    run(&mut client, "create table kept.zoo as table texts.zoo");
    for (bygone, is_binary) in &mut captures {
        assert_stream(&bygone.until_current().stderr, *is_binary);
        bygone.forget();
    }
    run(&mut client, "delete from texts.zoo; delete from bins.zoo");
    for (bygone, _) in &mut captures {
        bygone.until_current();
    }

    // Then the facts are what PostgreSQL holds
    let texts = all.found(&read(scratch.join("texts")), "texts.zoo");
    let bins = binary.found(&read(scratch.join("bins")), "bins.zoo");
    let rows = usize::try_from(all.rows()).unwrap();
    assert_eq!((texts.len(), bins.len()), (4 * rows, 4 * usize::try_from(binary.rows()).unwrap()));
    assert_none(&all.judge(&server, DATABASE, "kept.zoo", &texts));
    // under the types that were promised
    let wrong: Vec<String> = all
        .columns
        .iter()
        .zip(&texts[0].cells)
        .filter(|(column, cell)| !same_type(&promised(&column.sql), cell.data_type()))
        .map(|(column, cell)| format!("{} is {}", column.sql, cell.data_type()))
        .collect();
    assert_none(&wrong);
    // and each way has brought the same.
    let narrow: Vec<Found> = binary.found(&read(scratch.join("texts")), "texts.zoo");
    let mut wrong = Vec::new();
    for (specimens, facts) in [(&all, &texts), (&binary, &bins)] {
        let first = with_op(facts, "snapshot");
        for fact in facts {
            let model = first.iter().find(|model| model.id % STREAMED == fact.id % STREAMED).unwrap();
            wrong.extend(specimens.differences(model, fact));
        }
    }
    for fact in with_op(&bins, "snapshot") {
        let model = narrow.iter().find(|model| model.op == "snapshot" && model.id == fact.id).unwrap();
        wrong.extend(binary.differences(model, fact));
    }
    assert_none(&wrong);
    // What is beside a column is what its type cannot hold, and nothing else.
    let whole = ["date", "timestamp", "numeric", "cents", "price", "when_told"];
    let wrong: Vec<String> = texts
        .iter()
        .flat_map(|fact| all.columns.iter().zip(&fact.cells))
        .filter(|(column, cell)| {
            let may = column.sql.ends_with("[]")
                || column.sql == "words"
                || whole.iter().any(|name| column.sql.starts_with(name))
                    && promised(&column.sql) != promised("text");
            cell.raw().is_some() && !may
        })
        .map(|(column, cell)| format!("{} has {cell:?}", column.sql))
        .collect();
    assert_none(&wrong);
    // As rows they are the same, too, whether or not the target knows the types.
    server.run("create database elsewhere");
    let (bygone, _) = &captures[0];
    let history = read(scratch.join("texts"));
    for (database, facts) in [("own", server.url()), ("elsewhere", server.url_as("postgres", "elsewhere"))] {
        let back = scratch.join(database);
        bygone.ask(&["backfill-facts", "--facts", &facts]).well();
        bygone.command(&["backfill-history", "--facts", &facts, "--history", back.to_str().unwrap()]).well();
        assert_same_history(&history, &read(back));
    }
}

/// The same type, whatever the elements of a list are called.
fn same_type(one: &arrow::datatypes::DataType, other: &arrow::datatypes::DataType) -> bool {
    use arrow::datatypes::DataType::List;
    match (one, other) {
        (List(one), List(other)) => same_type(one.data_type(), other.data_type()),
        _ => one == other,
    }
}

/// The types, and arrays of which, that fact tables get in COPY's binary format.
const COPIED_IN_BINARY: [&str; 29] = [
    "boolean",
    "smallint",
    "integer",
    "bigint",
    "real",
    "double precision",
    "numeric",
    "text",
    "varchar",
    "char",
    "bpchar",
    "bytea",
    "date",
    "timestamp",
    "timestamptz",
    "uuid",
    "json",
    "jsonb",
    "oid",
    "xid",
    "citext",
    "mood",
    "cents",
    "price",
    "when_told",
    "time",
    "interval",
    "inet",
    "cidr",
];

#[test]
fn as_a_row_each_type_is_the_value_of_the_source_whatever_format_copies_it() {
    // Given a table for each type, since one type that has no binary form here makes text of all columns beside it
    let server = Postgres::start();
    let mut client = server.connect();
    run(&mut client, &format!("{DDL} create schema one"));
    let all = Specimens::of(server.major(), BUILT_IN.iter().chain(MADE));
    for column in &all.columns {
        let alone = Specimens { columns: vec![column.clone()] };
        let table = format!("one.{}", column.name);
        alone.create(&mut client, &table);
        alone.insert(&mut client, &table, 0);
    }
    // When their facts become rows beside them
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"))
        .tables(&["one.*"])
        .env("BYGONE_LOG", "info,bygone_sink=trace");
    bygone.until_current();
    let said = bygone.ask(&["backfill-facts", "--facts", &server.url()]).well().stderr;
    // The names of objects are printed as bygone has them printed.
    run(&mut client, "set search_path = pg_catalog");
    // Then each is the very value, byte by byte in the server's memory where the target's type is the source's
    let mut wrong = Vec::new();
    for column in &all.columns {
        let name = &column.name;
        let own: String = texts(
            &mut client,
            &format!(
                "select (h.atttypid = s.atttypid)::text from pg_attribute h join pg_attribute s using (attname) where h.attrelid = \
                 'bygone.one_{name}_history'::regclass and s.attrelid = 'one.{name}'::regclass and attname = '{name}'"
            ),
        )
        .remove(0);
        let same = if own == "true" {
            format!("record_image_eq(row(t.{name}), row(k.{name}))")
        } else {
            "true".to_owned()
        };
        let differ = format!(
            "select format('%s %s: %s instead of %s', {}, id, left(format('%L', t.{name}), 200), left(format('%L', k.{name}), 200)) from \
             bygone.one_{name} t full join one.{name} k using (id) where not ({same} and format('%s', t.{name}) = format('%s', k.{name})) limit 3",
            crate::support::oracle::literal(&column.sql)
        );
        wrong.extend(texts(&mut client, &differ));
    }
    assert_none(&wrong);
    // and the format is the promised one; what has no binary form comes as text.
    assert!(said.contains("format=Text"));
    let copied = |column: &specimens::Column, format: &str| {
        let line = format!("\"one_{}_history\" (", column.name);
        said.lines().any(|said| said.contains(&line) && said.ends_with(&format!("format={format}")))
    };
    let wrong: Vec<String> = all
        .columns
        .iter()
        .filter(|column| {
            let element = column.sql.strip_suffix("[]").unwrap_or(&column.sql);
            // `varchar(5)`, but not `timestamp(3) with time zone`.
            let (name, rest) = element.split_once('(').unwrap_or((element, ")"));
            let promised = COPIED_IN_BINARY.contains(&name) && rest.ends_with(')');
            promised && !copied(column, "Binary")
        })
        .map(|column| column.sql.clone())
        .collect();
    assert_none(&wrong);
}

#[test]
fn an_enum_that_grows_in_mid_stream_brings_its_new_labels() {
    let server = Postgres::start();
    server.run(
        "create type mood as enum ('sad'); create domain feeling as mood;
         create table days (id int primary key, m mood, ms mood[], f feeling); insert into days values (1, 'sad', '{sad}', 'sad')",
    );
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"));
    bygone.until_current();
    for (id, label) in [(2, "très bien"), (3, "a,b")] {
        server.run(&format!("alter type mood add value '{label}' before 'sad'"));
        server.run(&format!(
            "insert into days values ({id}, '{label}', array['{label}', null]::mood[], '{label}')"
        ));
    }
    assert_stream(&bygone.until_current().stderr, true);
    let facts = read(scratch.join("history")).texts("public.days", &["m", "ms", "f"]);
    let due = [
        ["sad", "{\"sad\"}", "sad"],
        ["très bien", "{\"très bien\",NULL}", "très bien"],
        ["a,b", "{\"a,b\",NULL}", "a,b"],
    ];
    assert_eq!(facts, due.map(|fact| fact.map(|text| Some(text.to_owned())).to_vec()));
}

#[test]
fn a_row_without_a_key_is_known_again_by_its_content_whatever_its_types() {
    // Given a table of every type that has no key, copied
    let server = Postgres::start();
    let mut client = server.connect();
    run(&mut client, &format!("{DDL} create schema texts"));
    let specimens = Specimens::of(server.major(), BUILT_IN.iter().chain(MADE));
    specimens.create(&mut client, "texts.zoo");
    specimens.insert(&mut client, "texts.zoo", 0);
    run(&mut client, "alter table texts.zoo drop constraint zoo_pkey, replica identity full");
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).tables(&["texts.*"]);
    bygone.until_current();
    // When each row is changed and removed by what the stream shows of it
    run(&mut client, "update texts.zoo set id = id + 100");
    bygone.until_current();
    bygone.forget();
    run(&mut client, "delete from texts.zoo");
    bygone.until_current();
    // Then nothing was taken for a row that nobody had seen.
    let facts = read(scratch.join("history")).texts("texts.zoo", &["_op", "_version"]);
    let rows = usize::try_from(specimens.rows()).unwrap();
    for (at, due) in [["snapshot", "1"], ["update", "2"], ["delete", "3"]].iter().enumerate() {
        let of_kind = facts.iter().skip(at * rows).take(rows);
        assert!(of_kind.clone().count() == rows);
        for fact in of_kind {
            assert_eq!(fact.iter().flatten().collect::<Vec<_>>(), due);
        }
    }
}
