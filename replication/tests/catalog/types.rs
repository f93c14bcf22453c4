//! Types of columns.

use bygone_replication::catalog;
use bygone_replication::table::{DataType, TypeKind};

use super::server::{Server, run, value};
use super::zoo::{find, load, open};

fn describe(data_type: &DataType) -> String {
    let modifier = if data_type.typmod < 0 { String::new() } else { format!("({})", data_type.typmod) };
    let name = format!("{}{modifier}", data_type.name);
    match &data_type.kind {
        TypeKind::Base => name,
        TypeKind::Domain(inner) => format!("{name} is {}", describe(inner)),
        TypeKind::Array(element) => format!("{name} of {}", describe(element)),
        TypeKind::Enum => format!("enum {name}"),
        TypeKind::Composite => format!("composite {name}"),
        TypeKind::Range => format!("range {name}"),
        TypeKind::Multirange => format!("multirange {name}"),
    }
}

#[tokio::test]
async fn everything_inside_a_type_is_told() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    open(&client).await;
    let loaded = load(&client, &["typed"]).await;
    let typed = find(&loaded.tables, "typed");
    let seen: Vec<(&str, String, bool)> = typed
        .columns
        .iter()
        .map(|column| (column.name.as_str(), describe(&column.data_type), column.data_type.binary))
        .collect();
    // numeric(5,1) is ((5 << 16) | 1) + 4, numeric(12,2) likewise; varchar(7) is 7 + 4.
    let expected = [
        ("m", "enum mood", true),
        ("ms", "_mood of enum mood", true),
        ("c", "cents is numeric(786438)", true),
        ("p", "price is cents is numeric(786438)", true),
        ("ps", "_price of price is cents is numeric(786438)", true),
        ("n", "numeric(327685)", true),
        ("ns", "_numeric(327685) of numeric(327685)", true),
        ("r", "range int4range", true),
        ("mr", "multirange int4multirange", true),
        ("s", "range span", true),
        ("pr", "composite pair", true),
        ("prs", "_pair of composite pair", true),
        ("bad", "composite bad_pair", false),
        ("bads", "_bad_pair of composite bad_pair", false),
        ("acl", "aclitem", false),
        ("acls", "_aclitem of aclitem", false),
        ("iv", "int2vector", true),
        ("ov", "oidvector", true),
        ("vc", "varchar(11)", true),
        ("dom_array", "_price of price is cents is numeric(786438)", true),
    ];
    let expected: Vec<_> =
        expected.iter().map(|(name, text, binary)| (*name, (*text).to_owned(), *binary)).collect();
    assert_eq!(seen, expected);
    assert_eq!(typed.column(3).unwrap().data_type.base().name, "numeric");
    assert_eq!(typed.columns[0].data_type.schema, "public");
    assert_eq!(typed.columns[5].data_type.schema, "pg_catalog");
}

/// The server itself says which types it can send in binary: for every type that a column can be of, and its array.
#[tokio::test]
async fn binary_is_told_where_the_server_can_send_it() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    open(&client).await;
    let sql = "select array_to_string(array_agg(format('%s', t.oid::regtype) order by t.oid), ';')
        from pg_type t left join pg_class c on c.oid = t.typrelid
        where t.typtype in ('b', 'e', 'd', 'r', 'm', 'c') and (t.typtype <> 'c' or c.relkind = 'c')
            and not exists (
                select from pg_type e left join pg_class r on r.oid = e.typrelid
                where e.oid = t.typelem and (e.typtype = 'p' or r.relkind <> 'c'))
            and t.typname not in ('pg_node_tree')
            and (t.typnamespace = 'pg_catalog'::regnamespace or t.typnamespace = 'public'::regnamespace)
            and t.typname !~ '^(_?pg_|_?bad_pair|bad_pair)'";
    let names = value(&client, sql).await;
    let names: Vec<&str> = names.split(';').collect();
    assert!(names.len() > 120, "{}", names.len());
    for (number, name) in names.iter().enumerate() {
        run(&client, &format!("create table of_type_{number} (v {name})")).await;
    }
    let tables = load(&client, &["of_type_*"]).await.tables;
    let mut refused = 0;
    for (number, name) in names.iter().enumerate() {
        let table = find(&tables, &format!("of_type_{number}"));
        let data_type = &table.columns[0].data_type;
        // An array's own output function exists always: it fails on its first use, for which an empty array is enough.
        let fill = match data_type.kind {
            TypeKind::Array(_) => format!("insert into of_type_{number} values ('{{}}')"),
            _ => "select".to_owned(),
        };
        run(&client, &fill).await;
        let mut replication = database.replicate().await;
        let statement = format!("copy public.of_type_{number} to stdout (format binary)");
        let mut worked = match replication.copy_out(&statement).await {
            Ok(mut copy) => loop {
                match copy.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            },
            Err(_) => false,
        };
        if matches!(data_type.kind, TypeKind::Domain(_)) {
            worked = data_type.base().binary;
        }
        refused += usize::from(!worked);
        assert_eq!(data_type.binary, worked, "{name}");
    }
    assert!(refused >= 3, "aclitem, its array and more: {refused}");
}

#[tokio::test]
async fn a_composite_with_an_unsendable_attribute_is_not_binary() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    run(
        &client,
        "create type inner_one as (a int, b aclitem);
        create type outer_one as (x inner_one[]);
        create domain wrapped as outer_one;
        create table t (id int primary key, w wrapped, p point);
        insert into t values (1, row(array[row(1, 'postgres=r/postgres'::aclitem)::inner_one])::outer_one)",
    )
    .await;
    let tables = load(&client, &["t"]).await.tables;
    let binary: Vec<bool> = tables[0].columns.iter().map(|column| column.data_type.binary).collect();
    assert_eq!(binary, [true, false, true]);
    let mut replication = database.replicate().await;
    let failed = match replication.copy_out("copy public.t (w) to stdout (format binary)").await {
        Ok(mut copy) => loop {
            match copy.next().await {
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(error) => break error.sqlstate() == Some("42883"),
            }
        },
        Err(error) => error.sqlstate() == Some("42883"),
    };
    assert!(failed, "the server can send it after all");
    assert!(catalog::load_table(&client, tables[0].oid).await.unwrap().is_some());
}
