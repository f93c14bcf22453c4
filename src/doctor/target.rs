//! The database that is to hold fact tables: whether it can be reached, and whether the role may make them there.

use bygone_replication::doctor::Check;
use bygone_replication::table::quote_identifier;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::cli::FactsPlace;
use crate::facts;

const CHECK: &str = "facts";
/// Fact tables are kept by servers from here on.
const OLDEST: i32 = 14;

/// Nothing where no fact tables are to be kept.
pub(super) async fn check(place: &FactsPlace) -> Option<Check> {
    let url = place.url()?;
    let found = match facts::connect("--facts", url).await {
        Ok(client) => target(&client, &place.facts_schema).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    Some(found.unwrap_or_else(|error| Check::problem(CHECK, error)))
}

async fn target(client: &Client, schema: &str) -> Result<Check, tokio_postgres::Error> {
    let sql =
        "select pg_is_in_recovery() as standby, current_setting('server_version_num')::int4 / 10000 as major,
            current_user::text as role, current_database()::text as database, n.oid is not null as there,
            case when n.oid is null then has_database_privilege(current_database(), 'create')
                else has_schema_privilege(n.oid, 'create') end as may_make
        from (select $1::text as name) wanted left join pg_namespace n on n.nspname = wanted.name";
    let row = client.query_typed_one(sql, &[(&schema, Type::TEXT)]).await?;
    let (role, database): (String, String) = (row.try_get("role")?, row.try_get("database")?);
    let major: i32 = row.try_get("major")?;
    Ok(if row.try_get("standby")? {
        Check::problem(CHECK, "the server of --facts is a standby, which takes no rows")
            .fix("give --facts its primary")
    } else if major < OLDEST {
        Check::problem(
            CHECK,
            format!("the server of --facts is PostgreSQL {major}; fact tables need {OLDEST}"),
        )
    } else if row.try_get("may_make")? {
        Check::ok(
            CHECK,
            format!("role {role:?} may make tables in schema {schema:?} of database {database:?}"),
        )
    } else if row.try_get("there")? {
        Check::problem(
            CHECK,
            format!("role {role:?} may not make tables in schema {schema:?}, which is there already"),
        )
        .fix("give the role that made it, or another --facts-schema")
    } else {
        Check::problem(
            CHECK,
            format!("role {role:?} may not make schema {schema:?} in database {database:?}"),
        )
        .fix(format!(
            "grant create on database {} to {}; -- on the server of --facts",
            quote_identifier(&database),
            quote_identifier(&role)
        ))
    })
}
