//! `bygone install` and `bygone uninstall`: what the source may hold to make the history more exact.

use bygone_replication::catalog::CatalogError;
use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::pattern::Patterns;
use bygone_replication::publication::Names;
use bygone_replication::table::Table;
use bygone_replication::{catalog, context, ddl, session};

use crate::cli::{Install, Installed, Uninstall};
use crate::error::{Error, Result};
use crate::screen::tell;

/// Puts event triggers into the source, or prints the SQL that does.
pub(crate) async fn install(arguments: &Install) -> Result<()> {
    let names = Names::new(&arguments.name)?;
    let statements = match arguments.what {
        Installed::Ddl => ddl::install_statements(&names),
        Installed::Context => context::install_statements(&tables(arguments).await?),
    };
    if arguments.print {
        print(&statements);
        return Ok(());
    }
    let (doing, done) = match arguments.what {
        Installed::Ddl => {
            ("installing event triggers", "event triggers bygone_ddl_end and bygone_sql_drop are installed")
        }
        Installed::Context => ("installing triggers", "the trigger bygone_context is on the tables"),
    };
    run(arguments.source.as_deref(), doing, &statements).await?;
    eprintln!("bygone: {done}, with the schema bygone_installed; bygone uninstall removes them");
    Ok(())
}

/// The tables that the trigger is to be put on.
async fn tables(arguments: &Install) -> Result<Vec<Table>> {
    let source = arguments
        .source
        .as_deref()
        .ok_or_else(|| Error::other("--source is needed, for it has the tables"))?;
    let options = ConnectOptions::parse(source)?.with_application_name("bygone");
    let sql = session::connect_sql(&options).await?;
    let patterns = Patterns::parse(&arguments.tables).map_err(CatalogError::from)?;
    Ok(catalog::load_tables(&sql, &patterns).await?.tables)
}

/// Removes them.
pub(crate) async fn uninstall(arguments: &Uninstall) -> Result<()> {
    let statements = ddl::uninstall_statements().map(str::to_owned);
    if arguments.print {
        print(&statements);
        return Ok(());
    }
    run(arguments.source.as_deref(), "removing event triggers", &statements).await?;
    eprintln!("bygone: nothing that bygone install put there is left");
    Ok(())
}

async fn run(source: Option<&str>, doing: &'static str, statements: &[String]) -> Result<()> {
    let source = source.ok_or_else(|| Error::other("--source is needed"))?;
    let options = ConnectOptions::parse(source)?.with_application_name("bygone");
    let sql = session::connect_sql(&options).await?;
    Ok(ddl::execute(&sql, doing, statements).await?)
}

fn print(statements: &[String]) {
    tell!("begin;");
    for statement in statements {
        tell!("{statement};");
    }
    tell!("commit;");
}
