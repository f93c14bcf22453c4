//! Opens a history and tells what it holds: its tables, and the versions of one row.
//!
//! `cargo run -p bygone-sink --example history -- ./history [public.orders 7]`

use std::process::ExitCode;

use bygone_sink::error::Result;
use bygone_sink::read::{Archive, Columns, FactFilter, Flow};
use bygone_sink::store::{Location, Store, StoreOptions};
use bygone_sink::value::{Row, render};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let told = match arguments.as_slice() {
        [history] => tables(history).await,
        [history, table, entity] => versions(history, table, entity).await,
        _ => {
            eprintln!("usage: history HISTORY [TABLE ENTITY]");
            return ExitCode::from(2);
        }
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn open(history: &str) -> Result<Archive> {
    let store = Store::open(&Location::parse(history)?, &StoreOptions::default())?;
    Archive::open(&store).await
}

async fn tables(history: &str) -> Result<()> {
    let archive = open(history).await?;
    for table in archive.tables()? {
        let facts: u64 = table.files.iter().map(|file| file.add.rows).sum();
        println!("{}: {facts} facts in {} files", table.log_name, table.files.len());
    }
    Ok(())
}

async fn versions(history: &str, table: &str, entity: &str) -> Result<()> {
    let archive = open(history).await?;
    let table = archive.table(table)?;
    archive
        .facts(&table, &FactFilter::entity(entity), &Columns::All, &mut |fact| {
            let mut text = String::new();
            let fields = Row::new(fact.row, fact.schema.kinds()).fields();
            for (field, column) in fields.zip(&fact.schema.columns) {
                text.push_str(&format!(" {}=", column.column.name));
                // A damaged value shows as none.
                if field.and_then(|field| render(&column.kind, field, &mut text)).is_err() {
                    text.push('?');
                }
            }
            println!("{} {} {}:{text}", fact.head.version, fact.head.op, fact.head.valid_from);
            Flow::Continue(())
        })
        .await
}
