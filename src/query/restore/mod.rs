//! `bygone restore`: the SQL that brings rows back as they were.

mod apply;
mod lineage;
mod plan;
mod ranks;
mod statement;

use bygone_replication::table::quote_literal;

use super::arguments::{Entity, Restore};
use super::sheet::{harmless, print_sql};
use super::{lookup, open};
use crate::error::{Error, Result};
use plan::Plan;
use ranks::Ranks;

/// So many rows are named in a message; of more, how many they are.
const NAMED: usize = 8;

pub(super) async fn restore(arguments: &Restore) -> Result<()> {
    let archive = open(&arguments.history).await?;
    let mut plan = match (&arguments.table, arguments.transaction, &arguments.condition) {
        (_, Some(xid), _) => Plan::transaction(&archive, xid).await?,
        (Some(name), None, Some(condition)) => {
            let table = lookup::table(&archive, name)?;
            let at = arguments.at.as_deref().ok_or_else(|| Error::usage("--where needs --at"))?;
            Plan::rows(&archive, table, condition, at).await?
        }
        (Some(name), None, None) => {
            let table = lookup::table(&archive, name)?;
            let entity =
                Entity { table: name.clone(), keys: arguments.keys.clone(), key: arguments.key.clone() };
            let entity_id = lookup::entity_id(&table, &entity)?;
            Plan::row(&archive, table, entity_id, arguments.at.as_deref()).await?
        }
        (None, None, _) => return Err(Error::usage("give a table and a key, or --transaction")),
    };
    if !plan.conflicts.is_empty() {
        let list = listed(&plan.conflicts);
        if !arguments.force {
            return Err(Error::other(format!(
                "later changes would be undone as well: {list}; --force undoes them"
            )));
        }
        eprintln!("bygone: later changes are undone as well: {list}");
    }
    if plan.steps.is_empty() {
        eprintln!("bygone: {} is {}: there is nothing to do", plan.title, plan.shown);
        return Ok(());
    }
    for step in &plan.steps {
        for column in &step.statement.unknown {
            let name = plan.name_of(step);
            eprintln!(
                "bygone: the value of {column} of {name}, {}, is not known or cannot stand there now; it is left alone",
                plan.shown
            );
        }
    }
    let message = message(arguments, &plan);
    let source = arguments.source.as_deref();
    if arguments.apply {
        let source = source.ok_or_else(|| Error::usage("--apply needs --source"))?;
        let client = apply::connect(source).await?;
        plan.sort(&Ranks::ask(&client).await?);
        apply::apply(&client, &mut plan, &message, arguments.force).await?;
        print_sql(&script(&plan, &message, None), arguments.format)?;
        eprintln!("bygone: done");
        return Ok(());
    }
    // Only the source knows which table refers to which.
    let ranks = match source.filter(|_| plan.spread() > 1) {
        Some(source) => Ranks::ask(&apply::connect(source).await?).await?,
        None => Ranks::default(),
    };
    plan.sort(&ranks);
    let remedy = match source {
        None if plan.spread() > 1 => Some("with --source they are sorted"),
        _ if !plan.is_sorted_by(&ranks) || plan.is_apart() => Some("--apply finds a way"),
        _ => None,
    };
    print_sql(&script(&plan, &message, remedy), arguments.format)
}

/// The SQL, as psql takes it. `remedy` is what helps where it may be in the wrong order.
fn script(plan: &Plan, message: &str, remedy: Option<&str>) -> String {
    let mut sql = format!("-- {}, {}\n", comment(&plan.title), comment(&plan.shown));
    if let Some(remedy) = remedy {
        sql.push_str(&format!("-- Rows that refer to each other may have to change places; {remedy}.\n"));
    }
    sql.push_str(&format!("begin;\n{message};\n"));
    if plan.steps.len() > 1 {
        sql.push_str("set constraints all deferred;\n");
    }
    let statements = plan.statements();
    if statements.iter().any(|statement| statement.contains("::money")) {
        // Values are printed so, whatever the session's locale.
        sql.push_str("set local lc_monetary = 'C';\n");
    }
    for statement in statements {
        sql.push_str(&statement);
        sql.push_str(";\n");
    }
    sql.push_str("commit;\n");
    sql
}

/// Without a line break that would end the comment, and what a terminal would take as a command.
fn comment(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// The first of them, and how many more there are.
fn listed(all: &[String]) -> String {
    let named = all.iter().take(NAMED).map(|one| harmless(one)).collect::<Vec<_>>().join("; ");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named}; and {more} more"),
    }
}

/// The statement that tells the history who brought the rows back.
fn message(arguments: &Restore, plan: &Plan) -> String {
    let mut context = serde_json::Map::new();
    if let Some(actor) = &arguments.actor {
        context.insert("actor".to_owned(), actor.as_str().into());
    }
    context.insert("reason".to_owned(), format!("bygone restore: {}, {}", plan.title, plan.shown).into());
    let what = match (arguments.transaction, &arguments.condition, plan.steps.first()) {
        (Some(xid), ..) => serde_json::json!({"transaction": xid}),
        (None, Some(condition), Some(step)) => serde_json::json!({
            "table": plan.table(step).map(|table| table.log_name.clone()).unwrap_or_default(),
            "where": condition,
        }),
        (None, _, Some(step)) => serde_json::json!({
            "table": plan.table(step).map(|table| table.log_name.clone()).unwrap_or_default(),
            "key": step.entity_id,
        }),
        (None, _, None) => serde_json::Value::Null,
    };
    context.insert("restore".to_owned(), what);
    let context = serde_json::Value::Object(context).to_string();
    format!("select pg_logical_emit_message(true, 'bygone', {})", quote_literal(&context))
}
