//! The database of fact tables: whether it can be reached, whether the role may make them there, and of those that are there, whether they
//! are bygone's own and nobody else can write to them.

use bygone_replication::doctor::Check;
use bygone_replication::table::quote_identifier;
use bygone_sink::fact_tables::{Inspected, Unguarded, Writer, check_encoding, inspect};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::cli::FactsPlace;
use crate::facts;

const TARGET: &str = "facts";
const TABLES: &str = "fact_tables";
const WRITERS: &str = "fact_writers";
const TRIGGERS: &str = "fact_triggers";
/// Fact tables are kept by servers from here on.
const OLDEST: i32 = 14;

/// What is found in the target of `--facts`; nothing where no fact tables are to be kept.
pub(super) async fn check(place: &FactsPlace) -> Vec<Check> {
    let Some(url) = place.url() else { return Vec::new() };
    let client = match facts::connect("--facts", url).await {
        Ok(client) => client,
        Err(error) => return vec![Check::problem(TARGET, error.to_string())],
    };
    let schema = &place.facts_schema;
    let target = target(&client, schema).await;
    let target = target.unwrap_or_else(|error| Check::problem(TARGET, error.to_string()));
    let there = match inspect(&client, schema).await {
        Ok(inspected) => tables(schema, &inspected),
        // A schema that the role may not even look into.
        Err(error) => vec![Check::problem(TABLES, error.to_string())],
    };
    [vec![target], there].concat()
}

/// Whether the role may make fact tables.
async fn target(client: &Client, schema: &str) -> Result<Check, tokio_postgres::Error> {
    let sql =
        "select pg_is_in_recovery() as standby, current_setting('server_version_num')::int4 / 10000 as major,
            current_setting('server_encoding') as encoding,
            current_user::text as role, current_database()::text as database, n.oid is not null as there,
            case when n.oid is null then has_database_privilege(current_database(), 'create')
                else has_schema_privilege(n.oid, 'create') end as may_make
        from (select $1::text as name) wanted left join pg_namespace n on n.nspname = wanted.name";
    let row = client.query_typed_one(sql, &[(&schema, Type::TEXT)]).await?;
    let (role, database): (String, String) = (row.try_get("role")?, row.try_get("database")?);
    let major: i32 = row.try_get("major")?;
    Ok(if row.try_get("standby")? {
        Check::problem(TARGET, "the server of --facts is a standby, which takes no rows")
            .fix("give --facts its primary")
    } else if major < OLDEST {
        Check::problem(
            TARGET,
            format!("the server of --facts is PostgreSQL {major}; fact tables need {OLDEST}"),
        )
    } else if let Err(error) = check_encoding(row.try_get("encoding")?) {
        Check::problem(TARGET, error.to_string())
    } else if row.try_get("may_make")? {
        Check::ok(
            TARGET,
            format!("role {role:?} may make tables in schema {schema:?} of database {database:?}"),
        )
    } else if row.try_get("there")? {
        Check::problem(
            TARGET,
            format!("role {role:?} may not make tables in schema {schema:?}, which is there already"),
        )
        .fix("give the role that made it, or another --facts-schema")
    } else {
        Check::problem(
            TARGET,
            format!("role {role:?} may not make schema {schema:?} in database {database:?}"),
        )
        .fix(format!(
            "grant create on database {} to {}; -- on the server of --facts",
            quote_identifier(&database),
            quote_identifier(&role)
        ))
    })
}

/// Fact tables that are there.
fn tables(schema: &str, inspected: &Inspected) -> Vec<Check> {
    match inspected {
        Inspected::Missing => Vec::new(),
        Inspected::Foreign => {
            let problem = format!("schema {schema:?} is not bygone's own");
            vec![Check::problem(TABLES, problem).fix(format!("--facts-schema {schema}_facts"))]
        }
        Inspected::Facts { writers, unguarded, of_others } => {
            let mut checks = vec![owners(schema, of_others)];
            checks.extend(writing(schema, writers));
            checks.extend(triggers(unguarded));
            checks
        }
    }
}

fn owners(schema: &str, of_others: &[(String, String)]) -> Check {
    match of_others {
        [] => Check::ok(TABLES, format!("schema {schema:?} holds facts, and is the role's own")),
        [(relation, owner), rest @ ..] => {
            let problem = format!("{relation} is {owner}'s{}", and_more(rest.len()));
            Check::problem(TABLES, problem).fix(format!("grant {owner} to … -- the role of --facts"))
        }
    }
}

fn writing(schema: &str, writers: &[Writer]) -> Vec<Check> {
    let of_all = writers.iter().find(|writer| writer.through.as_deref() == Some("public"));
    let others = writers.iter().filter(|writer| writer.through.as_deref() != Some("public"));
    let checks: Vec<Check> = of_all.into_iter().chain(others).map(|writer| writes(schema, writer)).collect();
    if checks.is_empty() {
        return vec![Check::ok(WRITERS, "nobody but their owner, and superusers, may write to them")];
    }
    checks
}

fn writes(schema: &str, writer: &Writer) -> Check {
    let Writer { role, relation, count, through } = writer;
    let more = and_more(usize::try_from(count - 1).unwrap_or(0));
    let revoke = |from: &str| {
        let s = quote_identifier(schema);
        format!(
            "revoke insert, update, delete, truncate, references, trigger on all tables in schema {s} from {from}"
        )
    };
    let (who, fix) = match through.as_deref() {
        None => (role.clone(), revoke(role)),
        Some("public") => ("everybody".to_owned(), revoke("public")),
        Some(group) => (format!("{role}, as {group},"), format!("revoke {group} from {role}")),
    };
    Check::problem(WRITERS, format!("{who} may write to {relation}{more}")).fix(fix)
}

fn triggers(unguarded: &[Unguarded]) -> Vec<Check> {
    if unguarded.is_empty() {
        return vec![Check::ok(
            TRIGGERS,
            "all tables refuse UPDATE, DELETE and TRUNCATE, for their owner too",
        )];
    }
    let problem = |Unguarded { table, fix }: &Unguarded| {
        Check::problem(TRIGGERS, format!("{table} can be altered: its triggers are off, or gone")).fix(fix)
    };
    unguarded.iter().map(problem).collect()
}

fn and_more(count: usize) -> String {
    if count == 0 { String::new() } else { format!(" and {count} more") }
}
