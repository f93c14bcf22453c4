//! A witness inside the source: triggers that write down every row change, in the table's own row type.
//!
//! Each audited table `t` gets `audit.change_<i>`, which holds the row before and after as values of type `t`: nothing
//! is ever rendered, parsed or sent, so nothing can be altered on the way. Changes of one row are numbered in commit
//! order, because the row stays locked from its trigger to its commit. Where each transaction ended in the WAL is
//! learned from a replication slot over the audit tables alone.

use postgres::Client;

/// The slot and the publication that tell where transactions ended.
const WITNESS: &str = "audit_witness";

/// One table under audit.
#[derive(Debug, Clone)]
pub(crate) struct Audited {
    /// `schema.name`, as the log of a history spells it.
    pub(crate) name: String,
    /// Both parts quoted.
    pub(crate) sql: String,
    /// Columns that name an entity; empty where rows are a multiset.
    pub(crate) key: Vec<String>,
    /// Names and types of all columns, types without modifiers (which would round and cut in silence).
    pub(crate) columns: Vec<(String, String)>,
    /// Where its changes are written down.
    pub(crate) changes: String,
}

impl Audited {
    /// The entity's name as SQL, canonical in white space; `row` is put before each column, as in `(after).`.
    pub(crate) fn entity(&self, row: &str) -> String {
        let text = |name: &String| format!("format('%s', {row}{})", quoted(name));
        match self.key.as_slice() {
            [] => "null::text".to_owned(),
            [one] => text(one),
            many => {
                let parts: Vec<_> = many.iter().map(text).collect();
                format!("jsonb_build_array({})::text", parts.join(", "))
            }
        }
    }

    /// The columns' names, quoted, each behind `prefix`.
    pub(crate) fn list(&self, prefix: &str) -> String {
        let names: Vec<_> =
            self.columns.iter().map(|(name, _)| format!("{prefix}{}", quoted(name))).collect();
        names.join(", ")
    }

    /// SQL for the names of the columns in which two rows differ; each row says how it spells its n-th column.
    pub(crate) fn difference(
        &self,
        one: impl Fn(usize, &str) -> String,
        other: impl Fn(usize, &str) -> String,
    ) -> String {
        let parts = self.columns.iter().enumerate().map(|(n, (name, _))| {
            let (one, other) = (one(n, name), other(n, name));
            format!(
                "case when row({one})::text is distinct from row({other})::text then {} end",
                literal(name)
            )
        });
        format!("array_remove(array[{}]::text[], null)", parts.collect::<Vec<_>>().join(", "))
    }
}

/// The audit of a set of tables.
#[derive(Debug)]
pub(crate) struct Oracle {
    /// What is audited.
    pub(crate) tables: Vec<Audited>,
}

impl Oracle {
    /// Begins the audit. The tables must be empty, and nobody may write to them meanwhile.
    pub(crate) fn install(client: &mut Client, tables: &[&str]) -> Self {
        client.batch_execute("create schema audit; create sequence audit.n").unwrap();
        let mut made = Self { tables: Vec::new() };
        for (position, table) in tables.iter().enumerate() {
            let audited = describe(client, table, format!("audit.change_{position}"));
            client.batch_execute(&triggers(&audited, position)).unwrap();
            made.tables.push(audited);
        }
        let version: i32 =
            client.query_one("select current_setting('server_version_num')::int4", &[]).unwrap().get(0);
        // From PostgreSQL 15 on, the rows themselves need not go through the slot.
        let columns = if version >= 150_000 { " (n)" } else { "" };
        let published: Vec<_> =
            made.tables.iter().map(|table| format!("{}{columns}", table.changes)).collect();
        client
            .batch_execute(&format!(
                "create table audit.ended (low bigint primary key, place bigint not null, micros bigint not null);
                 create publication {WITNESS} for table {} with (publish = 'insert')",
                published.join(", ")
            ))
            .unwrap();
        // From 17 on a standby can keep a copy of it, which a failover must find.
        let failover = if version >= 170_000 { ", failover => true" } else { "" };
        client
            .batch_execute(&format!(
                "select pg_create_logical_replication_slot('{WITNESS}', 'pgoutput'{failover})"
            ))
            .unwrap();
        made
    }

    /// Learns where the transactions ended that were committed since the last call: `audit.ended` maps the low 32 bits
    /// of a transaction's id to the end of its commit record and its commit time in microseconds since 1970.
    pub(crate) fn catch_up(client: &mut Client) {
        // A Commit message: 'C', flags, the record's place, its end, and microseconds since 2000.
        let number =
            |from: u32| format!("('x' || encode(substring(data from {from} for 8), 'hex'))::bit(64)::bigint");
        client
            .batch_execute(&format!(
                "insert into audit.ended
                 select xid::text::bigint, {}, {} + 946684800000000
                 from pg_logical_slot_get_binary_changes('{WITNESS}', null, null, 'proto_version', '1',
                      'publication_names', '{WITNESS}')
                 where get_byte(data, 0) = ascii('C')
                 on conflict do nothing;
                 analyze audit.ended",
                number(11),
                number(19)
            ))
            .unwrap();
    }

    /// How many row changes were written down.
    pub(crate) fn change_count(&self, client: &mut Client) -> i64 {
        let counts = self.tables.iter().map(|table| {
            let count = format!("select count(*) from {}", table.changes);
            client.query_one(&count, &[]).unwrap().get::<_, i64>(0)
        });
        counts.sum()
    }
}

fn describe(client: &mut Client, name: &str, changes: String) -> Audited {
    let row = client
        .query_one(
            "select c.oid, quote_ident(nspname) || '.' || quote_ident(relname), nspname || '.' || relname
             from pg_class c join pg_namespace n on n.oid = relnamespace where c.oid = $1::text::regclass",
            &[&name],
        )
        .unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let oid: u32 = row.get(0);
    let columns = client
        .query(
            "select attname::text, format_type(atttypid, -1) from pg_attribute
             where attrelid = $1 and attnum > 0 and not attisdropped order by attnum",
            &[&oid],
        )
        .unwrap();
    let key = client
        .query(
            "select attname::text from pg_index, unnest(indkey::int2[]) with ordinality as part (number, position)
             join pg_attribute on attnum = number
             where indrelid = $1 and attrelid = indrelid and indisprimary order by position",
            &[&oid],
        )
        .unwrap();
    Audited {
        sql: row.get(1),
        name: row.get(2),
        key: key.iter().map(|row| row.get(0)).collect(),
        columns: columns.iter().map(|row| (row.get(0), row.get(1))).collect(),
        changes,
    }
}

fn triggers(table: &Audited, position: usize) -> String {
    let Audited { sql, changes, .. } = table;
    format!(
        "create table {changes} (n bigint default nextval('audit.n'), xid xid8 default pg_current_xact_id(),
             op text, before {sql}, after {sql});
         create function audit.write_{position}() returns trigger language plpgsql security definer as $body$
         begin
             case tg_op
                 when 'INSERT' then insert into {changes} (op, after) values ('insert', new);
                 when 'UPDATE' then insert into {changes} (op, before, after) values ('update', old, new);
                 when 'DELETE' then insert into {changes} (op, before) values ('delete', old);
                 else insert into {changes} (op, before) select 'truncate', whole from {sql} whole;
             end case;
             return null;
         end $body$;
         create trigger zz_audit after insert or update or delete on {sql}
             for each row execute function audit.write_{position}();
         create trigger zz_audit_truncate before truncate on {sql}
             for each statement execute function audit.write_{position}();"
    )
}

/// A name as SQL takes it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL takes it.
pub(crate) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
