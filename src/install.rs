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

/// Puts the triggers of an option into the source, or prints the SQL that does.
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
    let (doing, done, remedy) = match arguments.what {
        Installed::Ddl => (
            "installing event triggers",
            "event triggers bygone_ddl_end and bygone_sql_drop are installed",
            "event triggers belong to superusers: have one run what this command prints with --print",
        ),
        Installed::Context => (
            "installing triggers",
            "the trigger bygone_context is on the tables",
            "a trigger is put on a table by its owner, and the schema bygone_installed takes the right CREATE on the database: \
             have a role that has both, or a superuser, run what this command prints with --print, or leave tables of others \
             out with --table '-SCHEMA.TABLE'",
        ),
    };
    run(arguments.source.as_deref(), doing, &statements, remedy).await?;
    eprintln!("bygone: {done}, with the schema bygone_installed; bygone uninstall removes them");
    Ok(())
}

/// The tables that the trigger is to be put on.
async fn tables(arguments: &Install) -> Result<Vec<Table>> {
    let source = arguments
        .source
        .as_deref()
        .ok_or_else(|| Error::usage("--source is needed, for it has the tables"))?;
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
    let remedy = "what install has put there belongs to whoever ran it: have that role, or a superuser, run what this command \
                  prints with --print";
    run(arguments.source.as_deref(), "removing what was installed", &statements, remedy).await?;
    eprintln!("bygone: nothing that bygone install put there is left");
    Ok(())
}

async fn run(source: Option<&str>, doing: &'static str, statements: &[String], remedy: &str) -> Result<()> {
    let source = source.ok_or_else(|| Error::usage("--source is needed"))?;
    let options = ConnectOptions::parse(source)?.with_application_name("bygone");
    let sql = session::connect_sql(&options).await?;
    Ok(ddl::execute(&sql, doing, statements, remedy).await?)
}

fn print(statements: &[String]) {
    tell!("begin;");
    for statement in statements {
        tell!("{statement};");
    }
    tell!("commit;");
}
