//! Who could alter facts: what `bygone doctor` looks for.

use bygone_replication::table::quote_identifier;
use tokio_postgres::Client;

use super::{objects, ownership, told};
use crate::error::Result;

const DOING: &str = "looking at the fact tables";

/// What a schema of fact tables is, and who could write to it.
#[derive(Debug)]
pub enum Inspected {
    /// There are none.
    Missing,
    /// It is somebody else's.
    Foreign,
    /// It holds facts.
    Facts {
        /// Roles that may write, superusers left out.
        writers: Vec<Writer>,
        /// Tables that do not refuse to be altered.
        unguarded: Vec<Unguarded>,
        /// Relations that are another role's, each with it.
        of_others: Vec<(String, String)>,
    },
}

/// A table whose triggers are off, or gone.
#[derive(Debug)]
pub struct Unguarded {
    /// Its name, quoted.
    pub table: String,
    /// Statements after which it refuses to be altered.
    pub fix: String,
}

/// A role that may write to fact tables and is not their owner.
#[derive(Debug)]
pub struct Writer {
    /// Its name, quoted.
    pub role: String,
    /// One of the relations.
    pub relation: String,
    /// How many relations there are.
    pub count: i64,
    /// By what it may, unless by grants to it: `public`, or a role of which it is a member.
    pub through: Option<String>,
}

/// Looks at a schema.
///
/// # Errors
/// What the database says.
pub async fn inspect(client: &Client, schema: &str) -> Result<Inspected> {
    let sql = format!("select {} from pg_namespace n where n.nspname = $1", ownership::is_ours());
    let row = client.query_opt(&sql, &[&schema]).await.map_err(|error| told(DOING, &error))?;
    let Some(row) = row else { return Ok(Inspected::Missing) };
    if !row.get::<_, bool>(0) {
        return Ok(match ownership::check(client, schema).await {
            Ok(()) => Inspected::Missing,
            Err(_) => Inspected::Foreign,
        });
    }
    Ok(Inspected::Facts {
        writers: writers(client, schema).await?,
        unguarded: unguarded(client, schema).await?,
        of_others: of_others(client, schema).await?,
    })
}

async fn writers(client: &Client, schema: &str) -> Result<Vec<Writer>> {
    // Rights on columns count. A role has its own grants, those of everybody, and those of roles of which it is a member.
    let sql = "with relations as (
            select c.oid, c.relowner, c.relacl from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where n.nspname = $1 and c.relkind in ('r', 'p', 'v')),
        found as (
            select r.oid as role, min(c.oid::regclass::text) as relation, count(*) as count, array_agg(distinct c.relowner) as owners,
                array_agg(distinct c.oid) as relations
            from pg_roles r cross join relations c
            where not r.rolsuper and r.oid <> c.relowner and not starts_with(r.rolname, 'pg_')
                and (has_any_column_privilege(r.oid, c.oid, 'insert, update') or has_table_privilege(r.oid, c.oid, 'delete, truncate, trigger'))
            group by 1)
        select quote_ident(r.rolname), f.relation, f.count, case
                when exists (select from pg_class c, aclexplode(c.relacl) a where c.oid = any (f.relations) and a.grantee = r.oid
                    and a.privilege_type in ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER')) then null
                when exists (select from pg_class c, aclexplode(c.relacl) a where c.oid = any (f.relations) and a.grantee = 0
                    and a.privilege_type in ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER')) then 'public'
                else (select quote_ident(g.rolname) from pg_roles g where g.oid <> r.oid and pg_has_role(r.oid, g.oid, 'usage')
                    and (g.oid = any (f.owners) or g.rolname = 'pg_write_all_data' or exists (select from pg_class c, aclexplode(c.relacl) a
                        where c.oid = any (f.relations) and a.grantee = g.oid and a.privilege_type <> 'SELECT'))
                    order by g.oid = any (f.owners), g.rolname limit 1) end
        from found f join pg_roles r on r.oid = f.role order by 1";
    let rows = client.query(sql, &[&schema]).await.map_err(|error| told(DOING, &error))?;
    let writer = |row: &tokio_postgres::Row| Writer {
        role: row.get(0),
        relation: row.get(1),
        count: row.get(2),
        through: row.get(3),
    };
    Ok(rows.iter().map(writer).collect())
}

/// The tables that do not refuse to be altered: their triggers are gone, are off, or are of an earlier version of bygone.
pub(super) async fn unguarded(client: &Client, schema: &str) -> Result<Vec<Unguarded>> {
    let sql = format!(
        "select o.oid::regclass::text from ({}) o where not {} order by 1",
        objects::guarded(schema),
        objects::refuses("o.oid")
    );
    let s = quote_identifier(schema);
    let rows = client.query(&sql, &[]).await.map_err(|error| told(DOING, &error))?;
    let unguarded = |table: String| Unguarded { fix: objects::guard_again(&s, &table), table };
    Ok(rows.iter().map(|row| unguarded(row.get(0))).collect())
}

async fn of_others(client: &Client, schema: &str) -> Result<Vec<(String, String)>> {
    let sql = "select c.oid::regclass::text, quote_ident(pg_get_userbyid(c.relowner)) from pg_class c join pg_namespace n on n.oid = \
         c.relnamespace where n.nspname = $1 and c.relkind in ('r', 'p', 'v') and not pg_has_role(c.relowner, 'usage') order by 1";
    let rows = client.query(sql, &[&schema]).await.map_err(|error| told(DOING, &error))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
