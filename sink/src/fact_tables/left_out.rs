//! Tables that the target cannot hold: too many columns, a row that is wider than its pages, a key that is longer than an index takes.
//!
//! No attempt more would help, and one such table must not hold up all others. Its facts are left out from the commit on of which some cannot be
//! held; an event of the target says so, and what readers ask of the table refuses from then on, for what it would say is not whole.

use bygone_replication::table::{quote_identifier, quote_literal};

use super::objects::dollar_quoted;
use super::{FactTables, Unfit, told};
use crate::error::{ErrorKind, Result};

/// The kind of the events that say so. They are the target's, and not of the log.
pub(super) const LEFT_OUT: &str = "left_out";

const DOING: &str = "leaving out a table";

/// The function that refuses, for those who ask of a table that is left out.
pub(super) fn function(schema: &str) -> String {
    let s = quote_identifier(schema);
    format!(
        "create index if not exists events_left_out on {s}.events (table_name) where kind = '{LEFT_OUT}';
        create or replace function {s}.is_complete(captured text) returns boolean language plpgsql stable as $bygone$
        declare since record; begin
            select e.seq, e.detail ->> 'reason' as reason into since from {s}.events e where e.table_name = captured and e.kind = '{LEFT_OUT}'
                order by e.seq limit 1;
            if found then
                raise exception 'facts of % are left out from commit % on: %', captured, since.seq, since.reason
                    using errcode = 'object_not_in_prerequisite_state', hint = 'what came before stands in its history table';
            end if;
            return true;
        end $bygone$;
        comment on function {s}.is_complete(text) is 'fails where facts of a table are left out, because they cannot be held here';\n"
    )
}

impl FactTables {
    /// Whose facts are left out already.
    pub(super) async fn find_left_out(&mut self) -> Result<()> {
        let s = quote_identifier(&self.schema);
        let sql = format!("select table_name, detail ->> 'reason' from {s}.events where kind = '{LEFT_OUT}'");
        for row in self.client.query(&sql, &[]).await.map_err(|error| told(DOING, &error))? {
            let (table, reason): (String, Option<String>) = (row.get(0), row.get(1));
            tracing::warn!(table, reason, "its facts are left out of the fact tables");
            self.left_out.insert(table);
        }
        Ok(())
    }

    /// What was done for a table; remembers it where the target can never hold what there is of it.
    pub(super) fn of_table<T>(&mut self, table: &str, done: Result<T>) -> Result<T> {
        if done.as_ref().is_err_and(|error| error.kind() == ErrorKind::TooLarge) {
            self.unfit = Some(Unfit::Table(table.to_owned()));
        }
        done
    }

    /// Leaves out the facts of a table from a commit on, and says so.
    pub(super) async fn leave_out(&mut self, table: &str, seq: u64, reason: &str) -> Result<()> {
        self.begin_ahead(seq).await?;
        let noted = self.note_left_out(table, seq, reason).await;
        self.end_ahead(noted).await?;
        tracing::error!(
            table,
            reason,
            commit = seq,
            "the fact tables cannot hold it: its facts are left out of them from this commit on; --table '-{table}' leaves out the table itself"
        );
        self.left_out.insert(table.to_owned());
        Ok(())
    }

    async fn note_left_out(&mut self, table: &str, seq: u64, reason: &str) -> Result<()> {
        let s = quote_identifier(&self.schema);
        let sql = format!(
            "insert into {s}.events (seq, kind, table_name, detail) values ($1, '{LEFT_OUT}', $2::text, jsonb_build_object('kind', '{LEFT_OUT}', \
             'table', $2::text, 'reason', $3::text))"
        );
        let seq_there = i64::try_from(seq).unwrap_or(i64::MAX);
        let noted = self.client.execute(&sql, &[&seq_there, &table, &reason]).await;
        noted.map_err(|error| told(DOING, &error))?;
        match self.names.known(table) {
            Some(base) => self.execute(DOING, &refusing(&self.schema, base, table, seq)).await,
            None => Ok(()),
        }
    }
}

/// Statements after which all that readers ask of a table refuses, as far as it is there. What others have built on it does the same.
fn refusing(schema: &str, base: &str, log_name: &str, seq: u64) -> String {
    let s = quote_identifier(schema);
    let name = |suffix: &str| format!("{s}.{}", quote_identifier(&format!("{base}{suffix}")));
    let (current, history) = (name(""), name("_history"));
    let captured = quote_literal(log_name);
    let remark =
        quote_literal(&format!("facts of {log_name} are left out from commit {seq} on: see {s}.events"));
    let guard = format!("where (select {s}.is_complete({captured}))");
    let all = dollar_quoted(&format!(" select * from {current} "));
    let body = format!(
        " declare v text; begin
            foreach v in array array[{views}] loop
                if to_regclass(v) is not null then
                    execute pg_catalog.format('create or replace view %s as select q.* from (%s) q ', v, rtrim(pg_get_viewdef(to_regclass(v)), ';')) ||
                        {guard_literal};
                    execute pg_catalog.format('comment on view %s is %L', v, {remark});
                end if;
            end loop;
            if to_regclass({history_literal}) is not null then
                comment on table {history} is {remark};
            end if;
            if to_regclass({current_literal}) is not null then
                create or replace function {as_of}(timestamptz) returns setof {current} language sql stable as {all};
                create or replace function {as_of}(pg_lsn) returns setof {current} language sql stable as {all};
                create or replace function {as_of}(text) returns setof {current} language sql stable as {all};
                create or replace function {blame}(key text) returns table (column_name text, version bigint, valid_from timestamptz,
                    xid bigint, actor text) language sql stable as {no_blame};
                create or replace function {diff}(timestamptz, timestamptz) returns table (change text, _entity_id text, old {current},
                    new {current}) language sql stable as {no_diff};
            end if;
        end ",
        views = [quote_literal(&current), quote_literal(&name("_timeline"))].join(", "),
        guard_literal = quote_literal(&guard),
        history_literal = quote_literal(&history),
        current_literal = quote_literal(&current),
        as_of = name("_as_of"),
        blame = name("_blame"),
        diff = name("_diff"),
        no_blame = dollar_quoted(&format!(
            " select null::text, null::bigint, null::timestamptz, null::bigint, null::text {guard} "
        )),
        no_diff = dollar_quoted(&format!(" select null::text, null::text, null::{current}, null::{current} {guard} ")),
    );
    format!("do {};\n", dollar_quoted(&body))
}
