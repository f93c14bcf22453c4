//! Publications as the catalog has them.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::catalog::{CatalogError, get};
use crate::table::TableName;

/// One publication as the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// `pg_publication.oid`.
    pub oid: u32,
    /// `pubname`.
    pub name: String,
    /// FOR ALL TABLES.
    pub all_tables: bool,
    /// Publishes inserts.
    pub insert: bool,
    /// Publishes updates.
    pub update: bool,
    /// Publishes deletes.
    pub delete: bool,
    /// Publishes truncates.
    pub truncate: bool,
    /// `publish_via_partition_root`.
    pub via_root: bool,
    /// Publishes stored generated columns (from version 18 on).
    pub generated: bool,
    /// Which version of its row in the catalog it is; none where that was not recorded.
    pub stamp: Option<Stamp>,
    /// FOR TABLES IN SCHEMA, by oid.
    pub schemas: Vec<SchemaMember>,
    /// FOR TABLE, by oid.
    pub tables: Vec<TableMember>,
}

/// Tells a publication that was altered and altered back from one that nobody touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// `xmin` of its row in `pg_publication`.
    pub xmin: u32,
    /// `pubowner`: another one explains another `xmin`.
    pub owner: u32,
}

/// A schema all of whose tables a publication publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaMember {
    /// `pg_namespace.oid`.
    pub oid: u32,
    /// `nspname`, for messages.
    pub name: String,
    /// Of the row by which it is listed; none where that was not recorded.
    pub entry: Option<u32>,
}

/// A table that a publication lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableMember {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its name when it was read, for messages.
    pub name: TableName,
    /// The row filter (`prqual`) as SQL.
    pub filter: Option<String>,
    /// The column list (`prattrs`), ascending; `None` for all columns.
    pub columns: Option<Vec<i16>>,
    /// Of the row by which it is listed (`pg_publication_rel.oid`); none where that was not recorded.
    pub entry: Option<u32>,
}

/// Publications at one moment, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicationState {
    /// Those that exist.
    pub publications: Vec<Publication>,
}

impl PublicationState {
    /// One of them by name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Publication> {
        self.publications.iter().find(|publication| publication.name == name)
    }
}

/// Reads publications by name; those that do not exist are left out.
///
/// # Errors
/// [`ErrorKind::Connection`](crate::catalog::ErrorKind::Connection) and whatever else the server says.
pub async fn inspect<S: AsRef<str>>(client: &Client, names: &[S]) -> Result<PublicationState, CatalogError> {
    let doing = "reading the publications";
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    let version = server_version(client).await?;
    // Row filters, column lists and schemas came with 15, generated columns with 18.
    let generated = if version >= 180_000 { "p.pubgencols <> 'n'" } else { "false" };
    let sql = format!(
        "select p.oid, p.pubname::text as name, p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate,
            p.pubviaroot, {generated} as generated, p.xmin::text::int8 as xmin, p.pubowner
        from pg_catalog.pg_publication p where p.pubname = any ($1::text[]) order by p.pubname"
    );
    let rows = client
        .query_typed(&sql, &[(&names, Type::TEXT_ARRAY)])
        .await
        .map_err(CatalogError::from_postgres(doing))?;
    let mut publications = Vec::with_capacity(rows.len());
    for row in &rows {
        publications.push(Publication {
            oid: get(row, "oid")?,
            name: get(row, "name")?,
            all_tables: get(row, "puballtables")?,
            insert: get(row, "pubinsert")?,
            update: get(row, "pubupdate")?,
            delete: get(row, "pubdelete")?,
            truncate: get(row, "pubtruncate")?,
            via_root: get(row, "pubviaroot")?,
            generated: get(row, "generated")?,
            stamp: Some(Stamp {
                xmin: u32::try_from(get::<i64>(row, "xmin")?).unwrap_or(0),
                owner: get(row, "pubowner")?,
            }),
            schemas: Vec::new(),
            tables: Vec::new(),
        });
    }

    let limits = if version >= 150_000 {
        "pg_catalog.pg_get_expr(r.prqual, r.prrelid) as filter, r.prattrs::int2[] as columns"
    } else {
        "null::text as filter, null::int2[] as columns"
    };
    // The triggers of [`ddl`](crate::ddl) move tables to and fro, and say so in the stream itself.
    let sql = format!(
        "select r.prpubid as publication, case when not exists (select from pg_catalog.pg_event_trigger e
                where e.evtname = 'bygone_ddl_end' and e.evtenabled <> 'D') then r.oid end as entry,
            r.prrelid as oid, n.nspname::text as schema, c.relname::text as name, {limits}
        from pg_catalog.pg_publication_rel r
        join pg_catalog.pg_class c on c.oid = r.prrelid
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where r.prpubid = any ($1::oid[])
        order by r.prpubid, r.prrelid"
    );
    let oids: Vec<u32> = publications.iter().map(|publication| publication.oid).collect();
    let rows = client
        .query_typed(&sql, &[(&oids, Type::OID_ARRAY)])
        .await
        .map_err(CatalogError::from_postgres(doing))?;
    for row in &rows {
        let publication: u32 = get(row, "publication")?;
        let columns: Option<Vec<i16>> = get(row, "columns")?;
        let member = TableMember {
            oid: get(row, "oid")?,
            name: TableName { schema: get(row, "schema")?, name: get(row, "name")? },
            filter: get(row, "filter")?,
            columns: columns.map(|mut columns| {
                columns.sort_unstable();
                columns
            }),
            entry: get(row, "entry")?,
        };
        if let Some(publication) = publications.iter_mut().find(|one| one.oid == publication) {
            publication.tables.push(member);
        }
    }

    if version >= 150_000 {
        let sql = "select s.pnpubid as publication, s.oid as entry, s.pnnspid as oid, n.nspname::text as name
            from pg_catalog.pg_publication_namespace s
            join pg_catalog.pg_namespace n on n.oid = s.pnnspid
            where s.pnpubid = any ($1::oid[])
            order by s.pnpubid, s.pnnspid";
        let rows = client
            .query_typed(sql, &[(&oids, Type::OID_ARRAY)])
            .await
            .map_err(CatalogError::from_postgres(doing))?;
        for row in &rows {
            let publication: u32 = get(row, "publication")?;
            let member = SchemaMember {
                oid: get(row, "oid")?,
                name: get(row, "name")?,
                entry: Some(get(row, "entry")?),
            };
            if let Some(publication) = publications.iter_mut().find(|one| one.oid == publication) {
                publication.schemas.push(member);
            }
        }
    }
    Ok(PublicationState { publications })
}

/// The oids of every table that the publications publish between them, however they name them; under
/// `publish_via_partition_root` these are roots.
///
/// # Errors
/// [`ErrorKind::Connection`](crate::catalog::ErrorKind::Connection) and whatever else the server says.
pub async fn published_tables<S: AsRef<str>>(client: &Client, names: &[S]) -> Result<Vec<u32>, CatalogError> {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    let sql = "select distinct c.oid
        from pg_catalog.pg_publication_tables t
        join pg_catalog.pg_namespace n on n.nspname = t.schemaname
        join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
        where t.pubname = any ($1::text[])
        order by c.oid";
    let rows = client
        .query_typed(sql, &[(&names, Type::TEXT_ARRAY)])
        .await
        .map_err(CatalogError::from_postgres("reading the published tables"))?;
    rows.iter().map(|row| get(row, "oid")).collect()
}

pub(crate) async fn server_version(client: &Client) -> Result<u32, CatalogError> {
    let row = client
        .query_typed_one("select pg_catalog.current_setting('server_version_num')::int4 as version", &[])
        .await
        .map_err(CatalogError::from_postgres("asking the server for its version"))?;
    Ok(get::<i32>(&row, "version")?.cast_unsigned())
}
