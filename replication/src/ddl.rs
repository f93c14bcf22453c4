//! Event triggers that send the place of each DDL along in the stream: an option, for who wants it exact [22].
//!
//! The triggers write a logical message into the transaction of the DDL itself, and see to it that a table which loses or
//! gains its replica identity is in the right publication before anybody's next statement [9].

use serde::Deserialize;
use tokio_postgres::Client;

use crate::catalog::{CatalogError, ErrorKind};
use crate::publication::Names;
use crate::table::quote_literal;
use crate::wire::function_settings;

/// Prefix of the messages.
pub const PREFIX: &str = "bygone.ddl";

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Ddl {
    /// A table was made or altered, and is like this now.
    Table {
        /// `pg_class.oid`.
        oid: u32,
        /// Its live columns by attnum.
        columns: Vec<DdlColumn>,
        /// `relfilenode`, 0 for partitioned tables.
        filenode: u32,
        /// As [`Table::columns_stamp`](crate::table::Table::columns_stamp).
        stamp: u64,
    },
    /// A table went into the other publication: its updates are published from here on, or no longer.
    Published {
        /// `pg_class.oid`.
        oid: u32,
        /// They are.
        updates: bool,
    },
    /// A table was dropped.
    Drop {
        /// `pg_class.oid`.
        oid: u32,
    },
}

/// A column in a [`Ddl`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct DdlColumn {
    /// `attname`.
    pub name: String,
    /// `attnum`.
    pub attnum: i16,
    /// `atttypid`.
    #[serde(rename = "type")]
    pub type_oid: u32,
    /// `atttypmod`.
    pub typmod: i32,
    /// The column has a default expression.
    pub has_default: bool,
    /// `attmissingval` as the text of its one-element array.
    pub missing: Option<String>,
}

impl Ddl {
    /// Reads a message.
    ///
    /// # Errors
    /// When it is not one of these.
    pub fn parse(content: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(content)
    }
}

impl DdlColumn {
    /// What rows older than the column read as.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        crate::catalog::only_element(self.missing.as_deref()?)
    }
}

/// What `bygone install` puts into the source, of whichever option, is there.
///
/// # Errors
/// Where the source does not answer.
pub async fn is_installed(client: &Client) -> Result<bool, CatalogError> {
    let sql = "select pg_catalog.to_regnamespace('bygone_installed') is not null";
    let row =
        client.query_one(sql, &[]).await.map_err(CatalogError::from_postgres("looking for triggers"))?;
    Ok(row.get(0))
}

/// A function that what is said goes through: the stream brings a message's content as the bytes that it was given, and what
/// reads it expects UTF-8, whatever the encoding of the database is.
pub(crate) const UTF8_FUNCTION: &str =
    "create or replace function bygone_installed.utf8(said text) returns bytea language plpgsql stable
     set search_path = pg_catalog, pg_temp as $$
     begin
        if getdatabaseencoding() not in ('UTF8', 'SQL_ASCII') then
            begin
                return convert_to(said, 'UTF8');
            exception when others then
                -- A character that Unicode lacks is no reason for a statement of the application to fail.
            end;
        end if;
        return convert_to(said, getdatabaseencoding());
     end $$";

/// The statements that install the triggers for a capture.
#[must_use]
pub fn install_statements(names: &Names) -> Vec<String> {
    let all = quote_literal(&names.all);
    let insert_only = quote_literal(&names.insert_only);
    let settings = function_settings();
    vec![
        "create schema if not exists bygone_installed".to_owned(),
        "comment on schema bygone_installed is 'What bygone install has put here; bygone uninstall removes it'".to_owned(),
        UTF8_FUNCTION.to_owned(),
        // Columns as they are within this transaction; the stamp is that of the catalog's reader. What older rows read as is
        // printed as the capture reads values, whatever the session of the application has set.
        format!("create or replace function bygone_installed.describe(which oid) returns text language sql stable
         set search_path = pg_catalog, pg_temp {settings} as $$
            select json_build_object('kind', 'table', 'oid', c.oid::int8,
                'filenode', coalesce(pg_relation_filenode(c.oid), 0)::int8,
                'stamp', coalesce(sum(a.xmin::text::int8), 0),
                'columns', coalesce(json_agg(json_build_object('name', a.attname, 'attnum', a.attnum, 'type', a.atttypid::int8,
                    'typmod', a.atttypmod, 'has_default', a.atthasdef and a.attgenerated = '',
                    'missing', case when a.atthasmissing then a.attmissingval::text end) order by a.attnum)
                    filter (where a.attnum is not null), '[]'))::text
            from pg_class c left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            where c.oid = which group by c.oid
         $$"),
        format!(
            "create or replace function bygone_installed.publish(which oid) returns void language plpgsql security definer
             set search_path = pg_catalog, pg_temp as $$
             declare
                usable boolean;
                listed text;
                wanted text;
             begin
                select case c.relreplident
                    when 'f' then true
                    when 'i' then exists (select from pg_index i where i.indrelid = c.oid and i.indisreplident and i.indisvalid
                        and i.indimmediate and i.indisunique)
                    when 'd' then exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary and i.indisvalid
                        and i.indimmediate)
                    else false end
                into usable from pg_class c where c.oid = which and c.relkind = 'r';
                select p.pubname into listed from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
                    where r.prrelid = which and p.pubname in ({all}, {insert_only}) limit 1;
                wanted := case when usable then {all} else {insert_only} end;
                if usable is not null and listed is not null and listed <> wanted
                    and exists (select from pg_publication where pubname = wanted) then
                    execute format('alter publication %I add table only %s', wanted, which::regclass);
                    execute format('alter publication %I drop table only %s', listed, which::regclass);
                    perform pg_logical_emit_message(true, 'bygone.ddl',
                        json_build_object('kind', 'published', 'oid', which::int8, 'updates', usable)::text);
                end if;
             end $$"
        ),
        "create or replace function bygone_installed.ddl_end() returns event_trigger language plpgsql security definer
         set search_path = pg_catalog, pg_temp as $$
         declare
            which oid;
         begin
            for which in
                select distinct c.oid from pg_event_trigger_ddl_commands() e
                join pg_class c on e.classid = 'pg_class'::regclass and c.oid = e.objid
                where c.relkind in ('r', 'p') and c.relpersistence = 'p'
            loop
                perform bygone_installed.publish(which);
                perform pg_logical_emit_message(true, 'bygone.ddl', bygone_installed.utf8(bygone_installed.describe(which)));
            end loop;
         end $$"
            .to_owned(),
        format!("create or replace function bygone_installed.sql_drop() returns event_trigger language plpgsql security definer
         set search_path = pg_catalog, pg_temp as $$
         declare
            dropped record;
         begin
            -- The index may have been a table's replica identity.
            if exists (select from pg_event_trigger_dropped_objects() d where d.object_type = 'index') then
                perform bygone_installed.publish(r.prrelid) from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
                    where p.pubname in ({all}, {insert_only});
            end if;
            for dropped in
                select d.objid, d.objsubid, d.object_type, d.is_temporary from pg_event_trigger_dropped_objects() d
                where d.classid = 'pg_class'::regclass
            loop
                if dropped.object_type = 'table' and dropped.objsubid = 0 and not dropped.is_temporary then
                    perform pg_logical_emit_message(true, 'bygone.ddl',
                        json_build_object('kind', 'drop', 'oid', dropped.objid::int8)::text);
                end if;
            end loop;
         end $$"),
        "drop event trigger if exists bygone_ddl_end".to_owned(),
        // A role without any right on the schema still runs DDL: the functions run as their owner.
        "create event trigger bygone_ddl_end on ddl_command_end
         when tag in ('ALTER TABLE', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO')
         execute function bygone_installed.ddl_end()"
            .to_owned(),
        "drop event trigger if exists bygone_sql_drop".to_owned(),
        "create event trigger bygone_sql_drop on sql_drop execute function bygone_installed.sql_drop()".to_owned(),
    ]
}

/// The statements that remove all that was installed, triggers of [`context`](crate::context) included.
#[must_use]
pub fn uninstall_statements() -> [&'static str; 3] {
    [
        "drop event trigger if exists bygone_ddl_end",
        "drop event trigger if exists bygone_sql_drop",
        "drop schema if exists bygone_installed cascade",
    ]
}

/// Runs statements as one transaction.
///
/// # Errors
/// [`ErrorKind::Rights`], with `remedy`, which says whose rights it takes.
pub async fn execute(
    client: &Client,
    doing: &'static str,
    statements: &[String],
    remedy: &str,
) -> Result<(), CatalogError> {
    let sql = format!("begin; {}; commit", statements.join("; "));
    let Err(error) = client.batch_execute(&sql).await else { return Ok(()) };
    // The failed transaction is still open on this connection.
    client.batch_execute("rollback").await.map_err(CatalogError::from_postgres(doing))?;
    let error = CatalogError::from_postgres(doing)(error);
    Err(match error.kind() {
        ErrorKind::Rights => error.with_remedy(remedy),
        _ => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_and_anything_else_is_an_error() {
        let table = br#"{"kind": "table", "oid": 16385, "filenode": 7, "stamp": 12, "columns": [{"name": "a", "attnum": 1,
            "type": 23, "typmod": -1, "has_default": true, "missing": "{7}"}]}"#;
        let Ok(Ddl::Table { oid, columns, .. }) = Ddl::parse(table) else { panic!("it is a table") };
        assert_eq!((oid, columns[0].missing().as_deref()), (16385, Some("7")));
        assert_eq!(Ddl::parse(br#"{"kind":"drop","oid":5}"#).unwrap(), Ddl::Drop { oid: 5 });
        for end in 0..table.len() {
            assert!(Ddl::parse(&table[..end]).is_err());
        }
        assert!(Ddl::parse(br#"{"kind":"novelty"}"#).is_err());
    }
}
