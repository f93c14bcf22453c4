//! Publications on a real server.

use bygone_replication::catalog::ErrorKind;
use bygone_replication::publication::{
    self, Change, Difference, Ensured, Names, Partial, PublicationState, compare, ensure, inspect,
};
use bygone_replication::table::{Table, TableKind};
use tokio_postgres::Client;

use super::server::{Server, run, value, version};
use super::zoo::{find, load, open};

/// Makes the publications of a capture named `bygone` for all tables.
async fn publish(
    client: &Client,
    tables: &[Table],
) -> Result<Ensured, bygone_replication::catalog::CatalogError> {
    ensure(client, &Names::new("bygone").unwrap(), &tables.iter().collect::<Vec<_>>()).await
}

async fn members(client: &Client, publication: &str) -> Vec<String> {
    let sql = format!(
        "select coalesce(string_agg(tablename, ';' order by tablename), '') \
         from pg_publication_tables where pubname = '{publication}'"
    );
    let names = value(client, &sql).await;
    names.split(';').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[tokio::test]
async fn publishing_everything_breaks_no_update_of_the_application() {
    // Given a database with one of everything, published,
    let database = Server::shared().database().await;
    let client = database.connect().await;
    open(&client).await;
    let tables = load(&client, &[]).await.tables;
    let ensured = publish(&client, &tables).await.unwrap();
    assert!(ensured.unwanted.is_empty());

    // when the application updates and deletes anywhere, then nothing fails
    for table in &tables {
        if let Some(column) = table.columns.iter().find(|c| c.generated.is_none() && c.identity.is_none()) {
            let name = table.name.quoted();
            let column = bygone_replication::table::quote_identifier(&column.name);
            run(
                &client,
                &format!(
                    "update {name} set {column} = {column}; delete from {name}; truncate {name} cascade"
                ),
            )
            .await;
        }
    }
    // and every table is published once: leaves, not roots; children on their own.
    let mut expected: Vec<String> = tables
        .iter()
        .filter(|table| table.kind != TableKind::Partitioned)
        .map(|table| table.name.name.clone())
        .collect();
    expected.sort();
    let mut published =
        [members(&client, "bygone").await, members(&client, "bygone_insert_only").await].concat();
    published.sort();
    assert_eq!(published, expected);
    assert!(members(&client, "bygone_insert_only").await.contains(&"deferrable_key".to_owned()));

    let state = inspect(&client, &["bygone", "bygone_insert_only"]).await.unwrap();
    let options = |name| {
        let one = state.get(name).unwrap();
        (one.insert, one.update, one.delete, one.truncate, one.via_root, one.all_tables)
    };
    assert_eq!(options("bygone"), (true, true, true, true, false, false));
    assert_eq!(options("bygone_insert_only"), (true, false, false, true, false, false));
    let generated = version(&client).await >= 180_000;
    assert!(state.publications.iter().all(|one| one.generated == generated), "{state:?}");
}

#[tokio::test]
async fn a_second_run_changes_nothing_and_a_new_table_is_added() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    run(&client, "create table a (id int primary key); create table b (id int)").await;
    let first = publish(&client, &load(&client, &[]).await.tables).await.unwrap();
    assert_eq!(first.statements.len(), 4, "{:?}", first.statements);
    assert_eq!(first.changes[0], Change::Created { publication: "bygone".to_owned() });

    let tables = load(&client, &[]).await.tables;
    assert_eq!(publish(&client, &tables).await.unwrap(), Ensured::default());

    run(&client, r#"create table "New, one" (id int primary key)"#).await;
    let tables = load(&client, &[]).await.tables;
    let ensured = publish(&client, &tables).await.unwrap();
    assert_eq!(ensured.statements, [r#"alter publication "bygone" add table only "public"."New, one""#]);
    let unwanted = publish(&client, &[]).await.unwrap().unwanted;
    assert_eq!(unwanted.len(), 3, "left alone, but told");
}

#[tokio::test]
async fn a_table_follows_its_identity_into_the_other_publication() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    run(&client, "create table a (id int primary key); insert into a values (1)").await;
    publish(&client, &load(&client, &[]).await.tables).await.unwrap();

    // Without its key the table's updates fail,
    run(&client, "alter table a drop constraint a_pkey").await;
    assert!(client.batch_execute("update a set id = 2").await.is_err());
    // until it is moved;
    let ensured = publish(&client, &load(&client, &[]).await.tables).await.unwrap();
    assert!(
        matches!(&ensured.changes[..], [Change::Added { .. }, Change::Moved { publication, .. }] if publication == "bygone")
    );
    run(&client, "update a set id = 2").await;
    assert_eq!(members(&client, "bygone").await, Vec::<String>::new());
    assert_eq!(members(&client, "bygone_insert_only").await, ["a"]);
    // and with a key it comes back.
    run(&client, "alter table a add primary key (id)").await;
    publish(&client, &load(&client, &[]).await.tables).await.unwrap();
    assert_eq!(members(&client, "bygone").await, ["a"]);
    assert_eq!(members(&client, "bygone_insert_only").await, Vec::<String>::new());
}

#[tokio::test]
async fn many_tables_are_added_in_batches() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    run(
        &client,
        "do $$ begin for n in 1..200 loop execute format('create table t%s (id int primary key)', n); end loop; end $$",
    )
    .await;
    let ensured = publish(&client, &load(&client, &[]).await.tables).await.unwrap();
    assert_eq!(ensured.statements.len(), 2 + 4);
    assert_eq!(members(&client, "bygone").await.len(), 200);
}

#[tokio::test]
async fn a_role_without_rights_is_told_the_sql_that_a_dba_has_to_run() {
    let database = Server::shared().database().await;
    let admin = database.connect().await;
    let role = database.own("capture");
    run(
        &admin,
        &format!("create role {role} login; create table a (id int primary key); create table b (id int); grant select on a, b to {role}"),
    )
    .await;
    let client = database.connect_as(&role).await;
    let tables = load(&client, &[]).await.tables;

    // Without CREATE on the database,
    let error = publish(&client, &tables).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rights);
    let told = error.to_string();
    let (_, sql) = told.split_once("run:\n").unwrap();
    // what is told is enough,
    run(&admin, sql).await;
    assert_eq!(publish(&client, &tables).await.unwrap(), Ensured::default());
    // also where the role may make publications but does not own the table: none of its own is left in the way then.
    run(
        &admin,
        &format!(
            "drop publication bygone, bygone_insert_only; grant create on database {} to {role}",
            database.name
        ),
    )
    .await;
    let error = publish(&client, &tables).await.unwrap_err();
    let told = error.to_string();
    let (_, sql) = told.split_once("run:\n").unwrap();
    assert!(sql.starts_with("create publication \"bygone\""), "{sql}");
    assert!(inspect(&admin, &["bygone"]).await.unwrap().get("bygone").is_none());
    run(&admin, sql).await;
    assert_eq!(publish(&client, &tables).await.unwrap(), Ensured::default());

    run(&admin, "alter publication bygone owner to postgres").await;
    let error = publication::drop(&client, &Names::new("bygone").unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rights);
    assert!(error.to_string().contains("drop publication if exists \"bygone\";"), "{error}");
    run(&admin, &format!("drop owned by {role} cascade; drop role {role}")).await;
}

#[tokio::test]
async fn a_publication_of_the_same_name_that_is_other_is_not_used() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    run(&client, "create table a (id int primary key, v int)").await;
    let tables = load(&client, &[]).await.tables;
    let old = version(&client).await < 150_000;
    for (make, remedy) in [
        ("for all tables", "drop publication \"bygone\""),
        ("for tables in schema public", "drop publication \"bygone\""),
        ("with (publish = 'insert, update')", "set (publish = 'insert, update, delete, truncate'"),
        ("with (publish_via_partition_root = true)", "publish_via_partition_root = false"),
        ("for table a where (id > 5)", "drop table only \"public\".\"a\""),
        ("for table a (id)", "drop table only \"public\".\"a\""),
    ] {
        if old && ["schema", "where", "(id)"].iter().any(|word| make.contains(word)) {
            continue;
        }
        run(&client, &format!("create publication bygone {make}")).await;
        let error = publish(&client, &tables).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{make}");
        assert!(error.to_string().contains(remedy), "{make}: {error}");
        // What is advised helps.
        let told = error.to_string();
        let (_, sql) = told.split_once("or run: ").unwrap();
        run(&client, sql).await;
        publish(&client, &tables).await.unwrap();
        assert_eq!(publication::drop(&client, &Names::new("bygone").unwrap()).await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn detaching_leaves_no_publication() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    run(&client, "create table a (id int primary key)").await;
    let names = Names::new("bygone").unwrap();
    publish(&client, &load(&client, &[]).await.tables).await.unwrap();
    assert_eq!(publication::drop(&client, &names).await.unwrap().len(), 2);
    assert_eq!(publication::drop(&client, &names).await.unwrap(), Vec::<String>::new());
    assert_eq!(inspect(&client, &names.both()).await.unwrap(), PublicationState::default());
}

#[tokio::test]
async fn a_locked_table_is_waited_for_only_so_long() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    run(&client, "create table a (id int primary key)").await;
    let tables = load(&client, &[]).await.tables;
    let other = database.connect().await;
    run(&other, "begin; lock table a in access exclusive mode").await;
    // Shorter than what the statement brings with it.
    run(&client, "set statement_timeout = '500ms'").await;
    let error = publish(&client, &tables).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    run(&other, "rollback").await;
    publish(&client, &tables).await.unwrap();
    assert_eq!(value(&client, "show lock_timeout").await, "0", "the session is as it was");
}

/// A publication `p` for the tables `a` and `b`; then each change, what it is told as, how it is undone, and what tells that
/// it once was.
async fn notice(client: &Client, cases: &[[&str; 4]]) {
    for [change, told, undo, left] in cases {
        let recorded = inspect(client, &["p"]).await.unwrap();
        let said = async || -> Vec<String> {
            let differences = compare(&recorded, &inspect(client, &["p"]).await.unwrap());
            differences.iter().map(ToString::to_string).collect()
        };
        run(client, change).await;
        assert_eq!(said().await, [*told], "{change}");
        run(client, undo).await;
        let left: &[&str] = if left.is_empty() { &[] } else { &[left] };
        assert_eq!(said().await, left, "{undo}");
    }
}

const ALTERED_BACK: &str = "publication \"p\" was altered, and altered back to what it was";
const A_PUT_BACK: &str = "table public.a was taken out of publication \"p\", and put back";
const B_PUT_BACK: &str = "table public.b was taken out of publication \"p\", and put back";

#[tokio::test]
async fn every_change_of_a_publication_is_noticed() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    run(
        &client,
        "create table a (id int primary key); create table b (id int primary key); create table c (id int primary key);
        create publication p for table a, b",
    )
    .await;
    notice(
        &client,
        &[
            [
                "alter publication p add table c",
                "table public.c was added to publication \"p\"",
                "alter publication p drop table c",
                "",
            ],
            [
                "alter publication p drop table a",
                "table public.a is no longer in publication \"p\"",
                "alter publication p add table a",
                A_PUT_BACK,
            ],
            [
                "alter publication p set (publish = 'insert,update,delete')",
                "publication \"p\" no longer publishes truncates",
                "alter publication p set (publish = 'insert,update,delete,truncate')",
                ALTERED_BACK,
            ],
            [
                "alter publication p set (publish_via_partition_root = true)",
                "publication \"p\" now publishes partitions as their root",
                "alter publication p set (publish_via_partition_root = false)",
                ALTERED_BACK,
            ],
            [
                "alter publication p rename to q",
                "publication \"p\" no longer exists",
                "alter publication q rename to p",
                ALTERED_BACK,
            ],
        ],
    )
    .await;

    let recorded = inspect(&client, &["p"]).await.unwrap();
    run(&client, "create schema s1; alter table a rename to a2; alter table a2 set schema s1").await;
    let renamed = inspect(&client, &["p"]).await.unwrap();
    assert_eq!(compare(&recorded, &renamed), [], "a rename changes no stream");
    run(&client, "drop publication p; create publication p for table s1.a2").await;
    let differences = compare(&recorded, &inspect(&client, &["p"]).await.unwrap());
    assert!(
        matches!(&differences[..], [Difference::Replaced { .. }, Difference::TableRemoved { .. }]),
        "{differences:?}"
    );
}

#[tokio::test]
async fn changes_of_filters_column_lists_and_schemas_are_noticed() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    if version(&client).await < 150_000 {
        return;
    }
    run(
        &client,
        "create schema s1; create table a (id int primary key, v int); create table b (id int primary key, v int);
        create publication p for table a, b where (id > 5)",
    )
    .await;
    notice(
        &client,
        &[
            [
                "alter publication p set table a (id), b where (id > 5)",
                "the column list of table public.a in publication \"p\" changed",
                "alter publication p set table a, b where (id > 5)",
                A_PUT_BACK,
            ],
            [
                "alter publication p set table a, b where (id > 6)",
                "the row filter of table public.b in publication \"p\" changed",
                "alter publication p set table a, b where (id > 5)",
                B_PUT_BACK,
            ],
            [
                "alter publication p add tables in schema s1",
                "schema s1 was added to publication \"p\"",
                "alter publication p drop tables in schema s1",
                "",
            ],
        ],
    )
    .await;
    if version(&client).await >= 180_000 {
        notice(
            &client,
            &[[
                "alter publication p set (publish_generated_columns = stored)",
                "publication \"p\" now publishes generated columns",
                "alter publication p set (publish_generated_columns = none)",
                ALTERED_BACK,
            ]],
        )
        .await;
    }
}

#[tokio::test]
async fn a_fingerprint_is_read_back_whatever_the_names_are() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    let odd = bygone_replication::table::quote_identifier("a \"x\" \\\n\r y");
    run(
        &client,
        &format!(
            "create schema {odd}; create table {odd}.{odd} (id int primary key, v text);
            create publication {odd} for table {odd}.{odd} with (publish = 'insert');
            create publication p for all tables"
        ),
    )
    .await;
    let names = ["p", "a \"x\" \\\n\r y"];
    if version(&client).await >= 150_000 {
        let partial = "(id, v) where (v <> E'\\n\"\\\\')";
        run(&client, &format!("alter publication {odd} set table {odd}.{odd} {partial}")).await;
        run(&client, "create publication q for tables in schema public").await;
    }
    let state = inspect(&client, &[names[0], names[1], "q"]).await.unwrap();
    assert!(state.publications.len() >= 2);
    let text = state.fingerprint();
    assert_eq!(text.parse::<PublicationState>().unwrap(), state, "{text}");
    let lines: usize = state.publications.iter().map(|one| 1 + one.tables.len() + one.schemas.len()).sum();
    assert_eq!(text.lines().count(), lines, "one line each: {text}");
    // Cut off anywhere it is refused, or read as less.
    for end in 0..text.len() {
        if let Some(part) = text.get(..end)
            && let Ok(read) = part.parse::<PublicationState>()
        {
            assert!(read != state || part == text.trim_end(), "{part}");
        }
    }
}

#[tokio::test]
async fn partial_publications_of_somebody_are_refused_unless_accepted() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    if version(&client).await < 150_000 {
        // Neither filters nor column lists.
        return;
    }
    run(
        &client,
        "create table a (id int primary key, v int);
        create table b (id int primary key, v int);
        create publication whole for table a, b;
        create publication everything for all tables;
        create publication some_rows for table a where (id > 5);
        create publication some_columns for table b (id);
        create publication some_operations for table a with (publish = 'insert, truncate');
        create publication rooted for table a with (publish_via_partition_root = true)",
    )
    .await;
    for names in [vec!["whole"], vec!["everything"], vec!["everything", "whole"]] {
        let state = inspect(&client, &names).await.unwrap();
        assert_eq!(publication::check_user_made(&state, &names, false).unwrap(), []);
        let oids = publication::published_tables(&client, &names).await.unwrap();
        assert_eq!(oids.len(), 2);
    }
    for (name, expected) in [
        ("some_rows", "only some rows of public.a"),
        ("some_columns", "only some columns of public.b"),
        ("some_operations", "does not publish update, delete"),
        ("rooted", "as their root"),
    ] {
        let state = inspect(&client, &[name]).await.unwrap();
        let error = publication::check_user_made(&state, &[name], false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains(expected), "{error}");
        let accepted: Vec<Partial> = publication::check_user_made(&state, &[name], true).unwrap();
        assert_eq!(accepted.len(), 1, "to be recorded");
    }
    let both = ["whole", "some_columns"];
    let state = inspect(&client, &both).await.unwrap();
    let error = publication::check_user_made(&state, &both, true).unwrap_err();
    assert!(error.to_string().contains("different column lists"), "{error}");
    let error = publication::check_user_made(&state, &["whole", "gone"], true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing);
}

#[tokio::test]
async fn partitions_made_later_are_not_published_by_themselves() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    open(&client).await;
    publish(&client, &load(&client, &["parts"]).await.tables).await.unwrap();
    run(&client, "create table parts_asia partition of parts for values in ('asia')").await;
    let tables = load(&client, &["parts"]).await.tables;
    let ensured = publish(&client, &tables).await.unwrap();
    let added = find(&tables, "parts_asia");
    assert!(
        matches!(&ensured.changes[..], [Change::Added { oid, .. }] if *oid == added.oid),
        "{:?}",
        ensured.changes
    );
}
