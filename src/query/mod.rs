//! The commands that read a history.

pub(crate) mod arguments;
mod as_of;
mod changes;
mod comparable;
mod condition;
mod dialect;
mod diff;
mod find;
pub(crate) mod inventory;
pub(crate) mod lookup;
mod moment;
mod parquet_file;
mod pattern;
mod restore;
mod row;
pub(crate) mod sheet;
mod sql;
mod transactions;
mod value;
mod verdict;
mod views;

use bygone_sink::read::Archive;

use crate::cli::ReadArgument;
use crate::error::Result;
use arguments::Query;

/// Runs a reading command.
pub(crate) async fn run(query: Query) -> Result<()> {
    match query {
        Query::Tables(arguments) => inventory::tables(&arguments).await,
        Query::Log(arguments) => inventory::log(&arguments).await,
        Query::History(arguments) => row::history(&arguments).await,
        Query::AsOf(arguments) => as_of::as_of(&arguments).await,
        Query::Diff(arguments) => diff::diff(&arguments).await,
        Query::Blame(arguments) => row::blame(&arguments).await,
        Query::Transactions(arguments) => transactions::list(&arguments).await,
        Query::Transaction(arguments) => transactions::one(&arguments).await,
        Query::Who(arguments) => transactions::who(&arguments).await,
        Query::Find(arguments) => find::find(&arguments).await,
        Query::Restore(arguments) => restore::restore(&arguments).await,
        Query::Sql(arguments) => sql::sql(&arguments).await,
        Query::Views(arguments) => views::views(&arguments).await,
    }
}

async fn open(history: &ReadArgument) -> Result<Archive> {
    inventory::open_archive(&history.history, &history.facts_schema).await
}

/// `1 row`, `2 rows`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
