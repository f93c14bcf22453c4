//! A trigger that says who: an option, for applications that cannot be made to say it themselves.

use crate::ddl::UTF8_FUNCTION;
use crate::table::{Table, TableKind};

/// The statements that install the function and put its trigger on tables.
///
/// Before the first statement of a transaction that changes one of them, and whenever what is to be said has changed, a message says
/// who is logged in, from where and with which application, and what the settings `bygone.actor` and `bygone.reason` hold.
#[must_use]
pub fn install_statements(tables: &[Table]) -> Vec<String> {
    let mut statements = vec![
        "set local lock_timeout = '20s'".to_owned(),
        "create schema if not exists bygone_installed".to_owned(),
        "comment on schema bygone_installed is 'What bygone install has put here; bygone uninstall removes it'".to_owned(),
        UTF8_FUNCTION.to_owned(),
        // Whoever changes a table runs it, as its owner: no right on the schema is needed for that.
        "create or replace function bygone_installed.context() returns trigger language plpgsql security definer
         set search_path = pg_catalog, pg_temp as $$
         declare
            said text := json_strip_nulls(json_build_object(
                'actor', coalesce(nullif(current_setting('bygone.actor', true), ''), session_user),
                'reason', nullif(current_setting('bygone.reason', true), ''),
                'session_user', session_user,
                'application', nullif(current_setting('application_name', true), ''),
                'client', host(inet_client_addr())))::text;
         begin
            -- The setting ends with the transaction, as what it says does.
            if current_setting('bygone.said', true) is distinct from said then
                perform pg_logical_emit_message(true, 'bygone', bygone_installed.utf8(said));
                perform set_config('bygone.said', said, true);
            end if;
            return null;
         end $$"
            .to_owned(),
        "comment on function bygone_installed.context() is 'Tells bygone who changes a table'".to_owned(),
    ];
    // Statements on a partitioned table fire its own triggers; those on a partition, the partition's.
    for table in tables {
        let name = table.name.quoted();
        statements.push(format!("drop trigger if exists bygone_context on {name}"));
        let truncate = if table.kind == TableKind::Partitioned { "" } else { " or truncate" };
        statements.push(format!(
            "create trigger bygone_context before insert or update or delete{truncate} on {name} for each statement execute function \
             bygone_installed.context()"
        ));
    }
    statements
}
