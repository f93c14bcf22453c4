//! `bygone detach`: the source is left as it was found, but for what `bygone install` has put there.

use bygone_replication::catalog::ErrorKind;
use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::publication::{self, Names};
use bygone_replication::{ddl, session, slot};

use crate::cli::Detach;
use crate::error::{Error, Result};

/// Removes the slot, then the publications that it reads.
pub(crate) async fn detach(arguments: &Detach) -> Result<()> {
    let options = ConnectOptions::parse(&arguments.source)?
        .with_application_name("bygone")
        .with_password_command(arguments.password_command.as_deref());
    let sql = session::connect_sql(&options).await?;
    slot::check_name(&arguments.name)?;
    let names = Names::new(&arguments.name)?;
    let dropped_slot = slot::drop(&sql, &arguments.name).await.map_err(|error| match error.kind() {
        ErrorKind::Busy => Error::other(format!(
            "{error}; stop the bygone run of this capture first (a server may take a moment to notice that it is gone)"
        )),
        _ => error.into(),
    })?;
    let statements = match publication::drop(&sql, &names).await {
        Ok(statements) => statements,
        Err(error) => {
            if dropped_slot {
                eprintln!("bygone: dropped replication slot {}", arguments.name);
            }
            return Err(error.into());
        }
    };
    if ddl::is_installed(&sql).await? {
        eprintln!("bygone: the triggers of bygone install are still there: bygone uninstall removes them");
    }
    if !dropped_slot && statements.is_empty() {
        eprintln!(
            "bygone: {} has neither a slot nor publications named {:?}",
            options.redacted(),
            arguments.name
        );
        return Ok(());
    }
    if dropped_slot {
        eprintln!("bygone: dropped replication slot {}", arguments.name);
    }
    for statement in statements {
        eprintln!("bygone: {statement}");
    }
    Ok(())
}
