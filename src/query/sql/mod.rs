//! `bygone sql`: SQL over a history, through DataFusion.
//!
//! For each table `T` there are `T` (its rows now), `T_history` (every fact, with `_valid_to`) and the table function
//! `T_as_of(moment)`. They are read as the other commands read them ([`scan`]), so that a moment gives the same rows
//! everywhere; DataFusion joins, filters and counts.

mod catalog;
mod names;
mod output;
mod pushdown;
mod relation;
mod scan;
mod slab;
mod statements;

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};

use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::context::SQLOptions;
use datafusion::prelude::{DataFrame, SessionContext};

use super::arguments::Sql;
use super::{lookup, open};
use crate::cli::Format;
use crate::error::{Error, Result};
use crate::screen::tell;
use statements::Statements;

const PROMPT: &str = "bygone> ";
const GOES_ON: &str = "     -> ";

pub(super) async fn sql(arguments: &Sql) -> Result<()> {
    let archive = open(&arguments.reading.history).await?;
    let catalog = catalog::Catalog::of(archive, arguments.inexact)?;
    let session =
        Session { context: catalog.context()?, names: catalog.names(), format: arguments.reading.format };
    match &arguments.query {
        Some(text) => session.run_all(text).await,
        None if std::io::stdin().is_terminal() => session.shell(&catalog).await,
        None => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Error::other(format!("standard input cannot be read: {error}")))?;
            session.run_all(&text).await
        }
    }
}

struct Session {
    context: SessionContext,
    /// What there is to select from.
    names: Vec<String>,
    format: Format,
}

impl Session {
    async fn run_all(&self, text: &str) -> Result<()> {
        let statements = Statements::all(text);
        if statements.is_empty() {
            return Err(Error::other("there is no statement: give one, or several with ; between them"));
        }
        for statement in statements {
            self.run(&statement).await?;
        }
        Ok(())
    }

    async fn run(&self, statement: &str) -> Result<()> {
        // A history is read, never written; and files of this machine are no part of it.
        let only_reading =
            SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let frame = self.frame(statement, only_reading).await.map_err(|error| self.told(&error))?;
        let schema = std::sync::Arc::clone(frame.schema().inner());
        let batches = frame.execute_stream().await.map_err(|error| self.told(&error))?;
        output::print(&schema, batches, self.format, &|error| self.told(error)).await
    }

    async fn frame(&self, statement: &str, allowed: SQLOptions) -> DataFusionResult<DataFrame> {
        let state = self.context.state();
        let dialect = state.config_options().sql_parser.dialect;
        let mut statement = state.sql_to_statement(statement, &dialect)?;
        names::resolve(&mut statement);
        let plan = state.statement_to_plan(statement).await?;
        allowed.verify_plan(&plan)?;
        self.context.execute_logical_plan(plan).await
    }

    /// Reads statements from a terminal until it ends. What goes wrong is said, and the next one is read.
    async fn shell(&self, catalog: &catalog::Catalog) -> Result<()> {
        eprintln!(
            "{}\nStatements end with a semicolon; \\d lists the relations, \\q ends.",
            catalog.greeting()
        );
        let mut statements = Statements::default();
        let mut lines = std::io::stdin().lock().lines();
        loop {
            eprint!("{}", if statements.is_open() { GOES_ON } else { PROMPT });
            let _ = std::io::stderr().flush();
            let Some(line) = lines.next() else {
                eprintln!();
                return Ok(());
            };
            let line =
                line.map_err(|error| Error::other(format!("standard input cannot be read: {error}")))?;
            match line.trim() {
                "\\q" => return Ok(()),
                "exit" | "quit" if !statements.is_open() => return Ok(()),
                "\\d" | "\\dt" => {
                    for name in &self.names {
                        tell!("{name}");
                    }
                    continue;
                }
                _ => {}
            }
            for statement in statements.take(&line) {
                if let Err(error) = self.run(&statement).await {
                    eprintln!("bygone: {error}");
                }
            }
        }
    }

    /// An error as a sentence; a name that is not known with the nearest that are.
    fn told(&self, error: &DataFusionError) -> Error {
        let text = match error.find_root() {
            DataFusionError::External(source) => source.to_string(),
            DataFusionError::Plan(text)
            | DataFusionError::Execution(text)
            | DataFusionError::NotImplemented(text)
            | DataFusionError::Configuration(text)
            | DataFusionError::ResourcesExhausted(text) => text.clone(),
            DataFusionError::SQL(error, _) => error.to_string().replacen("sql parser error: ", "", 1),
            DataFusionError::ArrowError(error, _) => error.to_string(),
            DataFusionError::SchemaError(error, _) => error.to_string(),
            other => other.to_string(),
        };
        let missing = text.split('\'').nth(1).filter(|_| text.ends_with("not found"));
        if let Some(missing) = missing {
            let name = missing.replace('\0', ".");
            let name = name.strip_prefix("bygone.").unwrap_or(&name);
            let name = name.strip_prefix("public.").unwrap_or(name);
            let near = lookup::did_you_mean(name, self.names.iter().map(|name| name.replace("(moment)", "")));
            let all = if near.is_empty() { "; `show tables` lists what there is" } else { &near };
            return Error::other(format!("there is no relation {name}{all}"));
        }
        if text.contains("not supported")
            && (text.starts_with("DDL") || text.starts_with("DML") || text.starts_with("Statement"))
        {
            return Error::other(format!(
                "{text}: a history is read, not written; `bygone restore` changes the source"
            ));
        }
        match error.find_root() {
            DataFusionError::External(source)
                if matches!(source.downcast_ref::<Error>(), Some(Error::Usage(_))) =>
            {
                Error::Usage(text)
            }
            _ => Error::other(text),
        }
    }
}
