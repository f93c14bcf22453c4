//! Copying under an exported snapshot, and taking the copies apart.

use std::collections::BTreeSet;
use std::time::Duration;

use bygone_replication::catalog;
use bygone_replication::slot::{self, CreateOptions};
use bygone_replication::snapshot::{
    Chunk, Piece, copy_binary, copy_statement, copy_text, import_statements, lock_statements, plan,
    read_stamp,
};
use bygone_replication::table::{Table, TableKind};
use bygone_replication::wire::Connection;
use tokio_postgres::Client;

use super::server::{Database, Server, run, value, version};
use super::zoo::{find, load, open};

type Values = Vec<Vec<Option<Vec<u8>>>>;

/// Runs a COPY and takes its rows apart.
async fn copy(connection: &mut Connection, statement: &str, columns: usize) -> Values {
    let mut copy =
        connection.copy_out(statement).await.unwrap_or_else(|error| panic!("{error}\n{statement}"));
    let binary = copy.is_binary();
    let mut reader = copy_binary::BinaryCopy::new(columns);
    let mut rows = Vec::new();
    while let Some(chunk) = copy.next().await.unwrap() {
        for mut payload in chunk.payloads() {
            if binary {
                while let Some(row) = reader.next_row(&mut payload).unwrap() {
                    rows.push(row.fields().map(|field| field.map(<[u8]>::to_vec)).collect());
                }
            } else {
                let row = copy_text::Row::parse(payload, columns).unwrap();
                rows.push(row.fields().map(|field| field.map(std::borrow::Cow::into_owned)).collect());
            }
        }
    }
    if binary {
        reader.finish().unwrap();
    }
    rows
}

async fn copy_table(connection: &mut Connection, table: &Table, chunk: Chunk, binary: bool) -> Values {
    copy(connection, &copy_statement(table, &table.columns, chunk, binary), table.columns.len()).await
}

/// What SQL says that the columns hold, by their text output or their own binary one.
async fn oracle(client: &Client, table: &Table) -> Values {
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|column| format!("{}::text", bygone_replication::table::quote_identifier(&column.name)))
        .collect();
    let sql = format!("select {} from only {} order by ctid", columns.join(", "), table.name.quoted());
    let rows = client.simple_query(&sql).await.unwrap_or_else(|error| panic!("{error:?}\n{sql}"));
    let mut values = Vec::new();
    for message in rows {
        if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
            values.push(
                (0..row.len()).map(|index| row.get(index).map(|text| text.as_bytes().to_vec())).collect(),
            );
        }
    }
    values
}

/// Session settings that decide how values print are the same on both connections.
async fn sessions(database: &Database) -> (Client, Connection) {
    (database.connect().await, database.replicate().await)
}

#[tokio::test]
async fn text_copies_of_odd_values_are_what_the_server_says_that_they_are() {
    let database = Server::shared().database().await;
    let (client, mut connection) = sessions(&database).await;
    open(&client).await;
    run(
        &client,
        r#"
        create table odd (id int primary key, t text, b bytea, a text[], j jsonb, p pair, x xml, d float8);
        insert into odd (id, t) values (0, null), (1, ''), (2, '\N'), (3, '\'), (4, '\.'), (5, E'\t'), (6, E'\n'),
            (7, E'a\r\nb\\n\tc'), (8, E'\b\f\v'), (9, E'\u0001\u007f'), (10, 'é😀'), (11, '\\N'), (12, E'tail\\'),
            (13, repeat(E'\\\t\n', 5000)), (14, 'null'), (15, 'NULL'), (16, '"'), (17, E'\\x41\\101');
        insert into odd values (20, 'all', '\x00ff0a095c', array['a,b', null, 'NULL', '', e'\t"\\'],
            '{"k": "a\tb\\\"c"}', row(1, E'a,"\\\n'), '<a>\</a>', 'nan');
        update made set plain = plain;
        insert into made (plain, big, external) values (1, repeat('big', 100000), repeat('x', 9000)), (null, null, '');
        insert into typed (m, ms, c, p, n, r, mr, s, pr, prs, vc)
            values ('it''s ok', '{happy,sad}', 1.5, 2, 3.25, '[1,5)', '{[1,2),[5,6)}', '(1.5,2.5]', '(1,"a b")',
            '{"(1,x)","(2,)"}', 'seven c');
        insert into "Odd.Schema"."we""ird, n'ame" values (1, 'a', 2, 'b');
        insert into no_columns default values;
        insert into no_columns default values"#,
    )
    .await;
    let tables = load(&client, &[]).await.tables;
    for table in tables.iter().filter(|table| table.kind != TableKind::Partitioned) {
        let copied = copy_table(&mut connection, table, Chunk::Whole, false).await;
        if table.columns.is_empty() {
            assert_eq!(copied, vec![Vec::new(); 2]);
            continue;
        }
        assert_eq!(copied, oracle(&client, table).await, "{}", table.name);
    }
    let odd = find(&tables, "odd");
    assert_eq!(copy_table(&mut connection, odd, Chunk::Whole, false).await.len(), 19);
    let made = find(&tables, "made");
    let copied = copy_table(&mut connection, made, Chunk::Whole, false).await;
    assert_eq!(copied[0][3].as_deref(), Some(&b"2"[..]), "a generated column comes as its value");
}

#[tokio::test]
async fn binary_copies_hold_what_the_servers_own_send_functions_make() {
    let database = Server::shared().database().await;
    let (client, mut connection) = sessions(&database).await;
    run(
        &client,
        r#"
        create table odd (id int8 primary key, t text, b bytea, n numeric, f float8, u uuid, ts timestamptz, g bool);
        insert into odd values (1, null, null, null, null, null, null, null),
            (2, '', '', 'nan', 'infinity', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'infinity', true),
            (3, E'\t\n\\', '\x00ff0a', -123456789012345678901234567890.5, '-0', null, '2024-02-29 12:00:00.000001+00', false),
            (4, repeat('é', 60000), decode(repeat('00ff', 100000), 'hex'), 1e-20, 5e-324, null, '0001-01-01 BC', null)"#,
    )
    .await;
    let tables = load(&client, &["odd"]).await.tables;
    let copied = copy_table(&mut connection, &tables[0], Chunk::Whole, true).await;
    let rows = client
        .query("select int8send(id), textsend(t), byteasend(b), numeric_send(n), float8send(f), uuid_send(u), timestamptz_send(ts), boolsend(g) from odd order by ctid", &[])
        .await
        .unwrap();
    let expected: Values = rows
        .iter()
        .map(|row| (0..row.len()).map(|index| row.get::<_, Option<Vec<u8>>>(index)).collect())
        .collect();
    assert_eq!(copied, expected);
    // A table without rows: header and trailer only.
    run(&client, "truncate odd").await;
    assert_eq!(copy_table(&mut connection, &tables[0], Chunk::Whole, true).await, Values::new());
}

#[tokio::test]
async fn pieces_hold_every_row_once_however_wrong_the_size_was() {
    let database = Server::shared().database().await;
    let (client, mut connection) = sessions(&database).await;
    run(
        &client,
        "create table big (id int primary key, t text);
        insert into big select n, repeat('x', 200) from generate_series(1, 20000) n;
        delete from big where id % 7 = 0;
        update big set t = 'moved' where id % 11 = 0",
    )
    .await;
    let tables = load(&client, &["big"]).await.tables;
    let mut expected: Vec<i64> = Vec::new();
    for row in client.query("select id::int8 from big order by id", &[]).await.unwrap() {
        expected.push(row.get(0));
    }
    let blocks = tables[0].blocks;
    assert!(blocks > 400, "{blocks}");
    // The true size, none at all, one from before the table grew, one from before it shrank.
    for told in [blocks, 0, blocks / 3, blocks * 3] {
        let mut table = tables[0].clone();
        table.blocks = told;
        let planned = [table];
        let pieces = plan(&planned, 4, 100 * 8192, 8192);
        let mut seen = Vec::new();
        for piece in &pieces {
            let statement = copy_statement(piece.table, &piece.table.columns[..1], piece.chunk, false);
            for row in copy(&mut connection, &statement, 1).await {
                seen.push(String::from_utf8(row[0].clone().unwrap()).unwrap().parse::<i64>().unwrap());
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, expected, "{told} blocks, {} pieces", pieces.len());
    }
    // The server reads only the blocks of a piece.
    let statement =
        copy_statement(&tables[0], &tables[0].columns, Chunk::Blocks { from: 10, to: Some(20) }, true);
    let query = statement.split_once('(').unwrap().1.rsplit_once(") to").unwrap().0;
    let explained = client.simple_query(&format!("explain {query}")).await.unwrap();
    assert!(format!("{explained:?}").contains("Tid Range Scan"), "{explained:?}");
}

fn table(name: &str, blocks: u64) -> Table {
    use bygone_replication::table::{ReplicaIdentity, TableName};
    Table {
        oid: 1,
        name: TableName::new("public", name),
        kind: TableKind::Ordinary,
        identity: ReplicaIdentity::Nothing,
        primary_key: Vec::new(),
        identity_index: Vec::new(),
        columns: Vec::new(),
        filenode: 1,
        columns_stamp: 1,
        persistence: 'p',
        blocks,
        rows: None,
        row_security: false,
        row_filter: None,
    }
}

#[test]
fn a_plan_covers_each_table_without_a_gap() {
    for blocks in [0, 1, 99, 100, 101, 1000, 12345, u64::from(u32::MAX), u64::MAX] {
        for workers in [0, 1, 3, 64] {
            let tables = [table("t", blocks)];
            // Not too many pieces for the biggest.
            let chunk_blocks = if blocks > 1 << 30 { 1 << 24 } else { 100 };
            let pieces = plan(&tables, workers, chunk_blocks * 8192, 8192);
            if blocks <= chunk_blocks {
                assert_eq!(pieces.iter().map(|piece| piece.chunk).collect::<Vec<_>>(), [Chunk::Whole]);
                continue;
            }
            assert!(pieces.len() >= workers, "{} pieces for {workers} workers", pieces.len());
            let mut next = 0;
            let count = pieces.len();
            for (index, Piece { chunk, number, bytes, .. }) in pieces.into_iter().enumerate() {
                let Chunk::Blocks { from, to } = chunk else { panic!("{chunk:?}") };
                assert_eq!(from, next);
                assert_eq!((number.0 as usize, number.1 as usize), (index, count));
                assert!(bytes > 0 && bytes <= chunk_blocks * 8192);
                assert_eq!(to.is_none(), index + 1 == count, "the last one is open-ended, and no other");
                next = to.unwrap_or_default();
            }
        }
    }
}

#[test]
fn big_tables_come_first_and_roots_not_at_all() {
    let mut root = table("root", 0);
    root.kind = TableKind::Partitioned;
    let mut leaf = table("leaf", 5);
    leaf.kind = TableKind::Leaf { root: 1 };
    let tables = [table("small", 1), table("large", 250), root, leaf];
    let pieces = plan(&tables, 2, 100 * 8192, 8192);
    let names: Vec<_> = pieces.iter().map(|piece| piece.table.name.name.as_str()).collect();
    assert_eq!(names, ["large", "large", "large", "leaf", "small"]);
}

/// A slot with an exported snapshot, and a transaction that imports it.
struct Snapshot {
    /// Holds the export; its next command ends it.
    _walsender: Connection,
    worker: Connection,
    slot: String,
}

impl Snapshot {
    async fn take(database: &Database, name: &str) -> Self {
        let client = database.connect().await;
        let version = catalog::server_info(&client).await.unwrap().version;
        let slot = database.own(name);
        let mut walsender = database.replicate().await;
        let options = CreateOptions { temporary: true, export_snapshot: true, failover: false };
        let command = slot::create_command(version, &slot, options).unwrap();
        let created = walsender.simple_query(&command).await.unwrap();
        let exported = created[0][2].clone().unwrap();
        let mut worker = database.replicate().await;
        for statement in import_statements(&exported) {
            worker.simple_query(&statement).await.unwrap();
        }
        Self { _walsender: walsender, worker, slot }
    }

    async fn lock(&mut self, table: &Table, timeout: Duration) -> Result<(), bygone_replication::Error> {
        for statement in lock_statements(table, timeout) {
            self.worker.simple_query(&statement).await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn rows_are_those_of_the_consistent_point() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    run(&client, "create table t (id int primary key); insert into t values (1), (2)").await;
    let tables = load(&client, &["t"]).await.tables;
    let mut snapshot = Snapshot::take(&database, "point").await;
    assert!(slot::read(&client, &snapshot.slot).await.unwrap().is_some());
    run(&client, "insert into t values (3); delete from t where id = 1").await;
    snapshot.lock(&tables[0], Duration::from_secs(5)).await.unwrap();
    let rows = copy_table(&mut snapshot.worker, &tables[0], Chunk::Whole, false).await;
    assert_eq!(rows, [[Some(b"1".to_vec())], [Some(b"2".to_vec())]]);
    // While it is copied nobody can rewrite it.
    let blocked = client.batch_execute("set lock_timeout = '100ms'; truncate t").await.unwrap_err();
    assert_eq!(blocked.code().unwrap().code(), "55P03");
}

#[tokio::test]
async fn the_lock_is_waited_for_only_so_long() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    run(&client, "create table t (id int primary key)").await;
    let tables = load(&client, &["t"]).await.tables;
    let mut snapshot = Snapshot::take(&database, "locked").await;
    run(&client, "begin; lock table t in access exclusive mode").await;
    let error = snapshot.lock(&tables[0], Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("55P03"));
}

/// The symptom: a table that was truncated or rewritten after the consistent point reads as empty under the old
/// snapshot, without an error.
#[tokio::test]
async fn a_stamp_tells_that_a_table_was_rewritten_or_altered_since_the_consistent_point() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    for (number, (change, noticed)) in [
        ("select 1", false),
        ("insert into t values (9, 'x'); update t set v = 'y'; vacuum t; analyze t", false),
        ("create index on t (v)", false),
        ("alter table t alter v set default 'd'", false),
        ("truncate t", true),
        ("vacuum full t", true),
        ("cluster t using t_pkey", true),
        ("alter table t add column r float default random()", true),
        ("alter table t add column c int default 7", true),
        ("alter table t alter v type varchar(100)", true),
        ("alter table t drop column v", true),
        ("alter table t rename column v to w", true),
        ("alter table t set unlogged", true),
        ("drop table t; create table t (id int primary key, v text)", true),
    ]
    .into_iter()
    .enumerate()
    {
        run(&client, "drop table if exists t").await;
        run(&client, "create table t (id int primary key, v text); insert into t select n from generate_series(1, 5) n")
            .await;
        let tables = load(&client, &["t"]).await.tables;
        let mut snapshot = Snapshot::take(&database, &format!("stamp{number}")).await;
        for statement in change.split(';') {
            run(&client, statement).await;
        }
        // The lock goes by name; the oid says whether it is still the same table.
        snapshot.lock(&tables[0], Duration::from_secs(5)).await.unwrap();
        let now = read_stamp(&client, tables[0].oid).await.unwrap();

        // The stamp at the consistent point is read in the importing transaction, here through an SQL client of its own.
        let rows = snapshot
            .worker
            .simple_query(&format!("select relfilenode from pg_class where oid = {}", tables[0].oid))
            .await
            .unwrap();
        assert_eq!(rows[0][0].as_deref(), Some(tables[0].filenode.to_string().as_str()), "{change}");
        let worker = imported(&database, &mut snapshot).await;
        let then = read_stamp(&worker, tables[0].oid).await.unwrap();
        assert!(then.is_some(), "{change}");
        assert_eq!(then != now, noticed, "{change}: {then:?} {now:?}");

        let rows = copy_rows(&mut snapshot, &tables[0]).await;
        if !noticed {
            assert_eq!(rows, Some(5), "{change}");
        }
        if matches!(change, "truncate t" | "alter table t add column r float default random()") {
            assert_eq!(
                rows,
                Some(0),
                "the server no longer behaves so; the check may not be needed: {change}"
            );
        }
    }
}

/// An SQL client in a transaction on the snapshot that the worker has imported.
async fn imported(database: &Database, snapshot: &mut Snapshot) -> Client {
    let exported = snapshot.worker.simple_query("select pg_export_snapshot()").await.unwrap();
    let client = database.connect().await;
    for statement in import_statements(exported[0][0].as_deref().unwrap()) {
        run(&client, &statement).await;
    }
    client
}

async fn copy_rows(snapshot: &mut Snapshot, table: &Table) -> Option<usize> {
    let statement = copy_statement(table, &table.columns, Chunk::Whole, false);
    let mut copy = snapshot.worker.copy_out(&statement).await.ok()?;
    let mut rows = 0;
    while let Some(chunk) = copy.next().await.ok()? {
        rows += chunk.payloads().count();
    }
    Some(rows)
}

#[tokio::test]
async fn a_filtering_policy_is_an_error_and_not_a_smaller_copy() {
    let database = Server::shared().database().await;
    let client = database.connect().await;
    let role = database.own("reader");
    run(
        &client,
        &format!(
            "create table guarded (id int primary key); insert into guarded values (1), (2);
            alter table guarded enable row level security;
            create policy first on guarded using (id = 1);
            create role {role} login replication; grant select on guarded to {role}"
        ),
    )
    .await;
    let tables = load(&client, &["guarded"]).await.tables;
    let mut worker = Server::shared().replicate(&role, &database.name).await;
    let statement = copy_statement(&tables[0], &tables[0].columns, Chunk::Whole, false);
    assert_eq!(copy(&mut worker, &statement, 1).await.len(), 1, "without the setting one row is hidden");
    run(&client, "begin isolation level repeatable read").await;
    let exported = value(&client, "select pg_export_snapshot()").await;
    for statement in import_statements(&exported) {
        worker.simple_query(&statement).await.unwrap();
    }
    let failed = match worker.copy_out(&statement).await {
        Err(error) => error,
        Ok(mut copy) => loop {
            match copy.next().await {
                Err(error) => break error,
                Ok(Some(_)) => {}
                Ok(None) => panic!("a filtered copy"),
            }
        },
    };
    assert_eq!(failed.sqlstate(), Some("42501"));
    drop(worker);
    run(&client, &format!("rollback; drop owned by {role}; drop role {role}")).await;
}

#[tokio::test]
async fn children_are_copied_on_their_own() {
    let database = Server::shared().database().await;
    let (client, mut connection) = sessions(&database).await;
    open(&client).await;
    run(
        &client,
        "insert into parent values (1, 'p'); insert into child values (2, 'c', 3);
        insert into parts values (1, 'eu', '2024-05-05', 'x'), (2, 'us', '2024-05-05', 'y')",
    )
    .await;
    let tables = load(&client, &["parent", "child", "parts"]).await.tables;
    let mut seen = BTreeSet::new();
    for piece in plan(&tables, 1, 1 << 20, 8192) {
        for row in copy_table(&mut connection, piece.table, piece.chunk, false).await {
            let at = piece.table.columns.iter().position(|column| column.name == "id").unwrap();
            let id = String::from_utf8(row[at].clone().unwrap()).unwrap();
            assert!(seen.insert(format!("{} {id}", piece.table.name.name)));
        }
    }
    let seen: Vec<_> = seen.iter().map(String::as_str).collect();
    assert_eq!(seen, ["child 2", "parent 1", "parts_eu_24 1", "parts_us 2"]);
}

#[tokio::test]
async fn virtual_generated_columns_are_copied_as_their_values() {
    let database = Server::shared().database().await;
    let (client, mut connection) = sessions(&database).await;
    if version(&client).await < 180_000 {
        return;
    }
    run(
        &client,
        "create table t (id int, twice int generated always as (id * 2) virtual); insert into t values (21)",
    )
    .await;
    let tables = load(&client, &["t"]).await.tables;
    assert_eq!(tables[0].columns[1].generated, Some('v'));
    let copied = copy_table(&mut connection, &tables[0], Chunk::Whole, false).await;
    assert_eq!(copied, [[Some(b"21".to_vec()), Some(b"42".to_vec())]]);
}
