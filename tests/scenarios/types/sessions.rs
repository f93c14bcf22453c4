//! Settings and encodings of the source do not change what arrives.

use super::catalogue::{BUILT_IN, DDL, MADE};
use super::specimens::{Column, STREAMED, Specimens, run, texts};
use super::{assert_none, assert_stream, read};
use crate::support::bygone::Bygone;
use crate::support::postgres::{DATABASE, Postgres};
use crate::support::scratch::Scratch;

/// As unlike the usual ones as they can be.
const SETTINGS: &[(&str, &str)] = &[
    ("DateStyle", "German, YMD"),
    ("IntervalStyle", "sql_standard"),
    ("TimeZone", "America/St_Johns"),
    ("bytea_output", "escape"),
    ("extra_float_digits", "-15"),
    ("xmlbinary", "hex"),
    ("xmloption", "document"),
    ("client_encoding", "LATIN1"),
    ("search_path", "texts, public"),
    ("quote_all_identifiers", "on"),
    ("standard_conforming_strings", "off"),
    ("array_nulls", "off"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("row_security", "off"),
    ("statement_timeout", "50ms"),
    ("lock_timeout", "50ms"),
    ("idle_in_transaction_session_timeout", "50ms"),
];

#[test]
fn settings_of_the_source_do_not_change_what_arrives() {
    // Given two roles: one has set everything otherwise
    let server = Postgres::start();
    let mut client = server.connect();
    run(&mut client, &format!("{DDL} create schema texts; create role odd superuser replication login"));
    for (name, value) in SETTINGS {
        run(&mut client, &format!("alter role odd set {name} = '{value}'"));
    }
    let money = super::another_currency(&server);
    match &money {
        Some(locale) => run(&mut client, &format!("alter role odd set lc_monetary = '{locale}'")),
        None => eprintln!("no locale with another currency is installed: lc_monetary stays"),
    }
    run(&mut client, "alter database shop set datestyle = 'Postgres, MDY'");
    let specimens = Specimens::of(server.major(), BUILT_IN.iter().chain(MADE));
    specimens.create(&mut client, "texts.zoo");
    specimens.insert(&mut client, "texts.zoo", 0);
    // When each of them captures
    let scratch = Scratch::new("history");
    let mut captures = ["postgres", "odd"].map(|role| {
        let bygone = Bygone::new(server.url_as(role, DATABASE), scratch.join(role))
            .tables(&["texts.*"])
            .options(&["--name", role]);
        (bygone, role)
    });
    for (bygone, _) in &mut captures {
        bygone.until_current();
    }
    specimens.insert(&mut client, "texts.zoo", STREAMED);
    for (bygone, _) in &mut captures {
        bygone.until_current();
    }
    // Then the same has arrived, and it is right.
    let [usual, odd] = captures.map(|(_, role)| specimens.found(&read(scratch.join(role)), "texts.zoo"));
    assert_none(&specimens.judge(&server, DATABASE, "texts.zoo", &odd));
    let pairs = usual.iter().zip(&odd);
    let wrong: Vec<String> = pairs.flat_map(|(one, other)| specimens.differences(one, other)).collect();
    assert_none(&wrong);
    assert_eq!(usual.len(), odd.len());
}

fn column(number: usize, sql: &str, values: &[&str]) -> Column {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    Column { name: format!("c{number}"), sql: sql.to_owned(), values, readable: true }
}

#[test]
fn a_database_in_latin_1_arrives_in_unicode() {
    let server = Postgres::start();
    run(
        &mut server.connect(),
        "create database latin encoding 'LATIN1' template template0 lc_collate 'C' lc_ctype 'C'",
    );
    let mut client = server.connect_to("latin");
    let all = "(select string_agg(chr(n), '') from generate_series(160, 255) n)";
    run(
        &mut client,
        "create type mood as enum ('très bien', 'ä'); create type pair as (größe text);
         create schema kept; create table \"grün\" (\"größe\" text primary key); insert into \"grün\" values ('maß')",
    );
    let specimens = Specimens {
        columns: vec![
            column(0, "text", &[all, "'é'", "chr(233)", "chr(133) || chr(160)"]),
            column(1, "char(3)", &["'é'"]),
            column(2, "text[]", &["array['é', 'a b', chr(160), null]", "array[['é'], ['ü']]"]),
            column(3, "mood", &["'très bien'", "'ä'"]),
            column(4, "json", &["'{\"ä\": \"é\\u00e9\"}'"]),
            column(5, "jsonb", &["'{\"ä\": \"é\\u00e9\"}'"]),
            column(6, "name", &["'naïve'"]),
            column(7, "varchar(96)", &[all]),
            column(8, "mood[]", &["array['ä']::mood[]"]),
        ],
    };
    let mut wide = specimens.clone();
    wide.columns.push(column(9, "pair", &["row(chr(160) || 'é')", "row('é, ü')"]));
    wide.columns.push(column(10, "xml", &["'<ä>é</ä>'"]));
    wide.columns.push(column(11, "tsvector", &["'é ä'"]));
    both_ways(&server, "latin", &specimens, &wide);
}

/// What is said in a message comes in the encoding of the database, whether an application, a trigger or a piece of DDL says it.
#[test]
fn what_is_said_in_latin_1_arrives_in_unicode() {
    let server = Postgres::start();
    run(
        &mut server.connect(),
        "create database latin encoding 'LATIN1' template template0 lc_collate 'C' lc_ctype 'C'",
    );
    let mut client = server.connect_to("latin");
    run(
        &mut client,
        "create table goods (id int primary key, \"größe\" text); insert into goods values (1, 'ü');
         create table kept (id int primary key)",
    );
    let source = server.url_as("postgres", "latin");
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(&source, scratch.join("history"));
    bygone.command(&["install", "ddl", "--source", &source]).well();
    bygone.command(&["install", "context", "--source", &source, "--table", "public.kept"]).well();
    bygone.until_current();
    for sql in [
        "select pg_logical_emit_message(true, 'bygone', '{\"actor\": \"André\", \"raison\": \"été\"}'); insert into goods values (2)",
        "select pg_logical_emit_message(true, 'bygone', convert_to('{\"actor\": \"Zoë\"}', 'UTF8')); insert into goods values (3)",
        "select pg_logical_emit_message(true, 'bygone', 'ça va'); insert into goods values (4)",
        "select pg_logical_emit_message(true, 'größe', 'é'); insert into goods values (5)",
        "set local bygone.actor = 'Jürgen'; insert into kept values (1)",
        "alter table goods add column \"maß\" text default 'groß'; insert into goods values (6)",
    ] {
        run(&mut client, &format!("begin; {sql}; commit"));
    }
    bygone.until_current();
    let history = read(scratch.join("history"));
    let said = |table: &str| {
        let facts = history.texts(table, &["_entity_id", "_actor", "_context"]);
        facts.into_iter().map(|mut fact| (fact[1].take(), fact[2].take())).collect::<Vec<_>>()
    };
    let text = |text: &str| Some(text.to_owned());
    let goods = said("public.goods");
    assert_eq!(goods[1], (text("André"), text(r#"{"actor":"André","raison":"été"}"#)));
    assert_eq!(goods[2], (text("Zoë"), text(r#"{"actor":"Zoë"}"#)));
    assert_eq!(goods[3], (None, text(r#"{"message":"ça va"}"#)));
    assert_eq!(goods[4], (None, None));
    assert_eq!(said("public.kept")[0].0, text("Jürgen"));
    // The DDL was understood: its place is exact, and what older rows read as came along.
    let schemas = history.events("schema");
    assert!(schemas.len() == 1 && schemas[0]["lsn"].is_string(), "{schemas:?}");
    let rows = bygone.ask(&["as-of", "goods", "--at", "now", "--format", "csv"]).well().stdout;
    assert!(rows.starts_with("id,größe,maß\n1,ü,groß\n"), "{rows}");
}

/// Captures the tables `bin.t` and `text.t`, one as text and one in binary form, and judges them.
fn both_ways(server: &Postgres, database: &str, narrow: &Specimens, wide: &Specimens) {
    let mut client = server.connect_to(database);
    let scratch = Scratch::new("history");
    let mut found = Vec::new();
    for (schema, specimens) in [("bin", narrow), ("text", wide)] {
        let table = format!("{schema}.t");
        run(&mut client, &format!("create schema {schema}"));
        specimens.create(&mut client, &table);
        specimens.insert(&mut client, &table, 0);
        let mut bygone = Bygone::new(server.url_as("postgres", database), scratch.join(schema))
            .tables(&[&format!("{schema}.*")])
            .options(&["--name", schema]);
        bygone.until_current();
        specimens.insert(&mut client, &table, STREAMED);
        assert_stream(&bygone.until_current().stderr, schema == "bin");
        let history = read(scratch.join(schema));
        let facts = specimens.found(&history, &table);
        assert_none(&specimens.judge(server, database, &table, &facts));
        found.push(narrow.found(&history, &table));
    }
    let wrong: Vec<String> =
        found[0].iter().zip(&found[1]).flat_map(|(one, other)| narrow.differences(one, other)).collect();
    assert_none(&wrong);
    assert_eq!(found[0].len(), found[1].len());
}

#[test]
fn bytes_that_are_no_unicode_are_kept_in_hex() {
    // Given a database that takes any bytes for text
    let server = Postgres::start();
    run(
        &mut server.connect(),
        "create database bytes encoding 'SQL_ASCII' template template0 lc_collate 'C' lc_ctype 'C'",
    );
    let mut client = server.connect_to("bytes");
    let specimens = Specimens {
        columns: vec![
            column(0, "text", &["E'\\xff\\xfe'", "E'caf\\xc3\\xa9'", "'\\xff'", "E'a\\xe9'"]),
            column(1, "char(4)", &["E'\\xe9'"]),
            column(2, "text[]", &["array[E'\\xff', 'b c']", "array['é', null]", "array[[E'\\xff'], ['b']]"]),
            column(3, "name", &["E'\\x80'"]),
            column(4, "varchar", &["E'\\xf0\\x9f\\xa6'", "E'\\xf0\\x9f\\xa6\\x80'"]),
        ],
    };
    let mut wide = specimens.clone();
    run(&mut client, "create type pair as (a text, b int)");
    wide.columns.push(column(5, "pair", &["row(E'\\xff \"', 1)"]));
    let scratch = Scratch::new("history");
    for (schema, specimens) in [("bin", &specimens), ("text", &wide)] {
        let table = format!("{schema}.t");
        run(&mut client, &format!("create schema {schema}"));
        specimens.create(&mut client, &table);
        specimens.insert(&mut client, &table, 0);
        let mut bygone = Bygone::new(server.url_as("postgres", "bytes"), scratch.join(schema))
            .tables(&[&format!("{schema}.*")])
            .options(&["--name", schema]);
        bygone.until_current();
        specimens.insert(&mut client, &table, STREAMED);
        assert_stream(&bygone.until_current().stderr, schema == "bin");
        // Then every text is either itself, or in hex beside its column.
        let facts = specimens.found(&read(scratch.join(schema)), &table);
        assert_eq!(facts.len(), 2 * usize::try_from(specimens.rows()).unwrap());
        let mut in_hex = 0;
        for fact in &facts {
            for (column, cell) in specimens.columns.iter().zip(&fact.cells) {
                // In print, padding included.
                let sql = format!(
                    "select coalesce(encode(convert_to(format('%s', {0}), 'SQL_ASCII'), 'hex'), '') from {table} where id = {1} and {0} is not null",
                    column.name, fact.id
                );
                let hex = texts(&mut client, &sql).pop();
                let due = hex.map(|hex| {
                    let bytes: Vec<u8> = (0..hex.len() / 2)
                        .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
                        .collect();
                    String::from_utf8(bytes).map_err(|_| format!("\\x{hex}"))
                });
                let at = format!("{} of row {}, {}", column.sql, fact.id, fact.op);
                match due {
                    None => assert_eq!(cell.text(), None, "{at}"),
                    Some(Err(hex)) => {
                        assert_eq!(cell.raw(), Some(hex.as_str()), "{at}");
                        in_hex += 1;
                    }
                    Some(Ok(text)) if !column.sql.ends_with("[]") => {
                        assert_eq!((cell.text(), cell.raw()), (Some(text), None), "{at}");
                    }
                    Some(Ok(_)) => assert!(cell.text().is_some(), "{at}"),
                }
            }
        }
        assert!(in_hex >= 2 * 7, "{in_hex}");
    }
}

#[test]
fn what_is_said_in_no_encoding_is_kept_in_hex() {
    let server = Postgres::start();
    run(
        &mut server.connect(),
        "create database bytes encoding 'SQL_ASCII' template template0 lc_collate 'C' lc_ctype 'C'",
    );
    let mut client = server.connect_to("bytes");
    run(&mut client, "create table t (id int primary key)");
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url_as("postgres", "bytes"), scratch.join("history"));
    bygone.until_current();
    for sql in [
        "select pg_logical_emit_message(true, 'bygone', convert_to('{\"actor\": \"Zoë\"}', 'SQL_ASCII')); insert into t values (1)",
        "select pg_logical_emit_message(true, 'bygone', '\\x22e922'::bytea); insert into t values (2)",
        "select pg_logical_emit_message(true, E'gr\\xf6\\xdfe', ''); insert into t values (3)",
    ] {
        run(&mut client, &format!("begin; {sql}; commit"));
    }
    bygone.until_current();
    let facts = read(scratch.join("history")).texts("public.t", &["_actor", "_context"]);
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        facts,
        [
            [text("Zoë"), text(r#"{"actor":"Zoë"}"#)],
            [None, text(r#"{"message_bytes":"\\x22e922"}"#)],
            [None, None]
        ]
    );
}
