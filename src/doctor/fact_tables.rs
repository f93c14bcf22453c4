//! Fact tables that are there: whether they are bygone's own, and whether nobody else can write to them.

use bygone_replication::doctor::Check;
use bygone_replication::table::quote_identifier;
use bygone_sink::fact_tables::{Inspected, Unguarded, Writer, inspect};

use crate::cli::FactsPlace;
use crate::error::Result;
use crate::facts;

const TABLES: &str = "fact_tables";
const WRITERS: &str = "fact_writers";
const TRIGGERS: &str = "fact_triggers";

/// What is found in the target of `--facts`; nothing where there are none yet.
pub(super) async fn check(place: &FactsPlace) -> Result<Vec<Check>> {
    let Some(url) = place.url() else { return Ok(Vec::new()) };
    // That it cannot be reached is found by the check before.
    let Ok(client) = facts::connect("--facts", url).await else { return Ok(Vec::new()) };
    let schema = &place.facts_schema;
    let found = match inspect(&client, schema).await {
        Ok(found) => found,
        Err(error) => return Ok(vec![Check::problem(TABLES, error.to_string())]),
    };
    Ok(match found {
        Inspected::Missing { .. } => Vec::new(),
        Inspected::Foreign => {
            let problem = format!("schema {schema:?} is not bygone's own");
            vec![Check::problem(TABLES, problem).fix(format!("--facts-schema {schema}_facts"))]
        }
        Inspected::Facts { writers, unguarded, of_others } => {
            let mut checks = vec![owners(schema, &of_others)];
            checks.extend(writing(schema, &writers));
            checks.extend(triggers(&unguarded));
            checks
        }
    })
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
