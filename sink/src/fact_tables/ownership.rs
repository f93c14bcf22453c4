//! Whose a schema is: fact tables are put into one of their own. Its comment marks it, and what is marked is never captured.

use bygone_replication::table::quote_literal;
use tokio_postgres::Client;

use super::{MARK, told};
use crate::error::{Error, ErrorKind, Result};

/// A condition on a row `n` of `pg_namespace`: it is a schema of fact tables. A dump without comments loses the mark, and keeps the tables.
pub(super) fn is_ours() -> String {
    format!(
        "(starts_with(coalesce(obj_description(n.oid, 'pg_namespace'), ''), {}) or to_regclass(pg_catalog.format('%I.commits', n.nspname)) is not null \
         and to_regprocedure(pg_catalog.format('%I.refuse()', n.nspname)) is not null)",
        quote_literal(MARK)
    )
}

/// Refuses a schema that holds tables of others, or will: the mark would have them left out of the capture.
pub(super) async fn check(client: &Client, schema: &str) -> Result<()> {
    let sql = format!(
        "select from pg_namespace n where n.nspname = $1 and not {} and (n.nspname = 'public' or exists (select from pg_class c where \
         c.relnamespace = n.oid and c.relkind in ('r', 'p', 'v', 'm', 'f')))",
        is_ours()
    );
    let found = client.query_opt(&sql, &[&schema]).await;
    match found.map_err(|error| told("looking at the schema", &error))? {
        None => Ok(()),
        Some(_) => {
            let detail = format!(
                "schema {schema:?} is not bygone's own: name one that is not there yet with --facts-schema, such as {:?}",
                format!("{schema}_facts")
            );
            Err(Error::new(ErrorKind::Conflict, "fact tables have a schema of their own", detail))
        }
    }
}
