//! Running the SQL on the source, where its rows are what the history last knows of them.

use std::collections::{HashSet, VecDeque};
use std::iter::once;

use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::session;
use bygone_replication::table::quote_identifier;
use bygone_sink::read::{OwnedFact, TableHistory};
use bygone_sink::schema::SchemaColumn;
use bygone_sink::value::{Field, Kind, Status};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::super::changes::{Shown, damaged, is_unknown};
use super::super::value::text;
use super::listed;
use super::plan::{Plan, Step};
use super::statement::{self, Sql, Statement, Verb, one_row, rows_of};
use crate::error::{Error, Result};

/// What undoes a statement. A savepoint that is only rolled back to stays, with a lock of its own.
const TAKEN_BACK: &str = "rollback to savepoint row; release savepoint row";

pub(super) async fn connect(source: &str) -> Result<Client> {
    let options = ConnectOptions::parse(source)?.with_application_name("bygone restore");
    Ok(session::connect_sql(&options).await?)
}

/// Runs the plan in one transaction, and puts its steps into the order in which they went through.
pub(super) async fn apply(client: &Client, plan: &mut Plan, message: &str, force: bool) -> Result<()> {
    let sql = |error: tokio_postgres::Error| {
        Error::other(format!("the source refuses: {}; nothing was changed", told(&error)))
    };
    // What is not committed at the end goes with the session.
    client.batch_execute("begin").await.map_err(sql)?;
    client.batch_execute(message).await.map_err(sql)?;
    client.batch_execute("set constraints all deferred").await.map_err(sql)?;
    let (mut moved, mut taken) = (Vec::new(), Vec::new());
    for (at, step) in plan.steps.iter().enumerate() {
        for last in &step.last {
            let found = differences(client, plan.table(step)?, last).await?;
            if !found.is_empty() {
                moved.push(format!("{}: {}", plan.name_of(step), found.join("; ")));
                if step.statement.verb == Verb::Insert {
                    taken.push(at);
                }
            }
        }
    }
    if !moved.is_empty() {
        let one = plan.steps.len() == 1;
        if !force {
            return Err(Error::other(format!(
                "{} in the source {} not what the history last knows ({}): changed since, or bygone run is behind. Nothing was \
                 changed; --force brings {} back all the same",
                if one { "the row" } else { "rows" },
                if one { "is" } else { "are" },
                listed(&moved),
                if one { "it" } else { "them" },
            )));
        }
        eprintln!("bygone: changed since: {}", listed(&moved));
    }
    plan.replace(&taken);
    let mut waiting: VecDeque<Step> = plan.steps.drain(..).collect();
    let mut done = Vec::with_capacity(waiting.len());
    // A row that another one has to make room for, or to come before, waits for it.
    let (mut refused, mut taken_along, mut roomy) = (0, Vec::new(), HashSet::new());
    let mut round = waiting.len();
    while let Some(step) = waiting.pop_front() {
        round = match round.checked_sub(1) {
            Some(left) => left,
            None => {
                // Those that waited for each other did so in this order, so they may go through in the other one: a row
                // for which a whole chain waits is often the last of it.
                waiting.push_front(step);
                waiting.make_contiguous().reverse();
                round = waiting.len();
                continue;
            }
        };
        client.batch_execute("savepoint row").await.map_err(sql)?;
        match client.execute(&step.statement.sql.to_string(), &[]).await {
            Ok(1) => {
                client.batch_execute("release savepoint row").await.map_err(sql)?;
                done.push(step);
                refused = 0;
            }
            // Another row's change took this one along: `on update cascade`, `on delete cascade`.
            Ok(0) => {
                client.batch_execute("release savepoint row").await.map_err(sql)?;
                taken_along.push(step);
                refused = 0;
            }
            Ok(rows) => {
                return Err(Error::other(format!(
                    "{}: the statement concerned {rows} rows instead of 1; nothing was changed",
                    plan.name_of(&step)
                )));
            }
            Err(error) if refused < waiting.len() && is_about_another_row(&error) => {
                client.batch_execute(TAKEN_BACK).await.map_err(sql)?;
                waiting.push_back(step);
                refused += 1;
            }
            // Rows that refer to each other in a circle, whose constraints cannot be deferred, are one statement.
            Err(error) if error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION) => {
                client.batch_execute(TAKEN_BACK).await.map_err(sql)?;
                let name = plan.name_of(&step);
                let at_once = beside(
                    &step,
                    statement::at_once(once(&step).chain(&waiting).map(|step| &step.statement.sql)),
                );
                client
                    .batch_execute(&at_once.statement.sql.to_string())
                    .await
                    .map_err(|error| stuck(&name, &error))?;
                done.push(at_once);
                taken_along.push(step);
                taken_along.extend(waiting.drain(..));
            }
            // All wait for each other: one of them gives its value away until the others have theirs.
            Err(error) if roomy.insert((step.table, step.entity_id.clone())) => {
                client.batch_execute(TAKEN_BACK).await.map_err(sql)?;
                let room = room(client, &step, &error).await?;
                let Some(room) = room else { return Err(stuck(&plan.name_of(&step), &error)) };
                client.batch_execute(&room.statement.sql.to_string()).await.map_err(sql)?;
                done.push(room);
                waiting.push_back(step);
                refused = 0;
            }
            Err(error) => return Err(stuck(&plan.name_of(&step), &error)),
        }
    }
    for step in taken_along {
        let asked = client.query_one(&format!("select {}", step.statement.done), &[]).await.map_err(sql)?;
        if !asked.get::<_, bool>(0) {
            return Err(Error::other(format!(
                "{}: the statement found no row to change; nothing was changed",
                plan.name_of(&step)
            )));
        }
    }
    client.batch_execute("commit").await.map_err(sql)?;
    plan.steps = done;
    Ok(())
}

/// What makes room for another row: the columns of the unique constraint that the step runs into are null for a moment.
/// None where they may not be, or the step keeps their values.
async fn room(client: &Client, step: &Step, error: &tokio_postgres::Error) -> Result<Option<Step>> {
    let (Some(room), Some(told)) = (&step.statement.room, error.as_db_error()) else { return Ok(None) };
    if *told.code() != SqlState::UNIQUE_VIOLATION {
        return Ok(None);
    }
    let columns = client
        .query(
            "select a.attname::text from pg_class i join pg_namespace n on n.oid = i.relnamespace join pg_index x on x.indexrelid = i.oid
             join pg_attribute a on a.attrelid = x.indrelid and a.attnum = any (x.indkey)
             where i.relname = $1 and n.nspname = $2 and not a.attnotnull",
            &[&told.constraint(), &told.schema()],
        )
        .await
        .map_err(|error| Error::other(format!("the source does not tell its indexes: {}", self::told(&error))))?;
    let columns: Vec<String> = columns.iter().map(|row| row.get(0)).collect();
    Ok(room.made(&columns).map(|sql| beside(step, sql)))
}

/// A statement that no step of the plan stands for, in the place of one.
fn beside(step: &Step, sql: String) -> Step {
    Step {
        table: step.table,
        entity_id: step.entity_id.clone(),
        last: Vec::new(),
        statement: Statement {
            verb: Verb::Update,
            sql: Sql::whole(sql),
            done: "true".to_owned(),
            replacing: None,
            room: None,
            unknown: Vec::new(),
        },
    }
}

/// No order lets the step through.
fn stuck(name: &str, error: &tokio_postgres::Error) -> Error {
    let taken = [SqlState::UNIQUE_VIOLATION, SqlState::EXCLUSION_VIOLATION];
    let is_taken = error.code().is_some_and(|code| taken.contains(code));
    let what = if is_taken { format!(" {name}, which needs what another row has") } else { String::new() };
    Error::other(format!("the source refuses{what}: {}; nothing was changed", told(error)))
}

fn is_about_another_row(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        [SqlState::FOREIGN_KEY_VIOLATION, SqlState::UNIQUE_VIOLATION, SqlState::EXCLUSION_VIOLATION]
            .contains(code)
    })
}

pub(super) fn told(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// How the row in the source differs from what the history last knows of it. Locks it until the transaction ends.
async fn differences(client: &Client, table: &TableHistory, last: &OwnedFact) -> Result<Vec<String>> {
    let schema = table.newest();
    let now = !last.head.tombstone;
    let row = Shown::new(table, last, schema)?;
    let fields = row.fields()?;
    let compared: Vec<(&SchemaColumn, &Kind, Field<'_>)> = schema
        .columns
        .iter()
        .zip(schema.kinds())
        .zip(fields)
        .filter(|((column, _), field)| {
            // A hash is not what the source holds.
            column.column.generated.is_none() && column.column.hashed.is_none() && !is_unknown(field)
        })
        .map(|((column, kind), field)| (column, kind, field))
        .collect();
    if schema.key.is_empty() && !now {
        // Nothing names a row that is gone and had no key.
        return Ok(Vec::new());
    }
    let names: Vec<String> =
        compared.iter().map(|(column, ..)| quote_identifier(&column.column.name)).collect();
    let query = format!(
        "select {} from {} where {} for update",
        names.join(", "),
        rows_of(table),
        one_row(table, &row)?
    );
    let told = client.simple_query(&query).await.map_err(|error| {
        let told = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
        Error::other(format!("the row cannot be compared with the source: {told}; nothing was changed"))
    })?;
    let found = told.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(match (found, now) {
        (None, false) => Vec::new(),
        (None, true) => vec!["it is gone there".to_owned()],
        (Some(_), false) => vec!["it is there again".to_owned()],
        (Some(found), true) => {
            let mut differences = Vec::new();
            for (at, (column, kind, field)) in compared.into_iter().enumerate() {
                let known = match field.status {
                    Status::Null => None,
                    _ => Some(text(kind, field).map_err(damaged)?),
                };
                let there = found.try_get(at).ok().flatten();
                if there != known.as_deref() {
                    let shown = |text: Option<&str>| text.map_or_else(|| "null".to_owned(), str::to_owned);
                    differences.push(format!(
                        "{} is {}, not {}",
                        column.column.name,
                        shown(there),
                        shown(known.as_deref())
                    ));
                }
            }
            differences
        }
    })
}
