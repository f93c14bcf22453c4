//! The SQL of fact tables: tables that only grow, and what readers ask.

use std::fmt::Write as _;

use bygone_replication::table::{quote_identifier, quote_literal};

use crate::log::ContentHash;
use crate::read::TableHistory;
use crate::schema::TableSchema;

use super::MARK;
use super::slabs::{BEGAN, ENDED, SLAB};

/// A literal, as statements take it.
fn literal(text: &str) -> String {
    quote_literal(text).trim_start().to_owned()
}

/// The schema with the tables that all histories have. Does nothing where they are there.
pub(super) fn frame(schema: &str, database: &str) -> String {
    let s = quote_identifier(schema);
    let mark = literal(&format!(
        "{MARK}database {database}; rows are only ever added (https://github.com/bygone/bygone)"
    ));
    let mut sql = format!(
        "do $bygone$ begin
            if not exists (select from pg_namespace where nspname = {name}) then
                create schema {s};
            end if;
            if coalesce(obj_description(to_regnamespace({quoted}), 'pg_namespace'), '') not like 'bygone: facts of %' then
                comment on schema {s} is {mark};
            end if;
        end $bygone$;
        create table if not exists {s}.history (id text primary key, manifest text not null);
        alter table {s}.history add column if not exists manifest text;
        create table if not exists {s}.commits (seq bigint primary key, at timestamptz not null, wal_to pg_lsn not null,
            resume pg_lsn not null, epoch int not null, known_until timestamptz, document text not null);
        alter table {s}.commits add column if not exists document text;
        create table if not exists {s}.slabs (base text not null, slab bigint not null, begins timestamptz not null, ends timestamptz not null,
            up_to pg_lsn not null, alive bigint not null, place text not null, primary key (base, slab));
        comment on table {s}.slabs is 'tables laid out by time, from which the past is read faster; each may be dropped';
        create table if not exists {s}.tables (log_name text primary key, base text not null unique);
        create table if not exists {s}.schemas (table_name text not null, schema int not null, document jsonb not null,
            primary key (table_name, schema));
        create table if not exists {s}.events (seq bigint not null, kind text not null, table_name text, lsn pg_lsn, detail jsonb not null);
        create table if not exists {s}.transactions (xid bigint not null, lsn pg_lsn primary key, committed_at timestamptz not null,
            valid_from timestamptz not null, actor text, context jsonb, origin text, tables jsonb not null);
        create index if not exists transactions_xid on {s}.transactions (xid);
        create index if not exists transactions_actor on {s}.transactions (actor) where actor is not null;
        create or replace function {s}.refuse() returns trigger language plpgsql as $bygone$ begin
            raise exception '% on %.% is refused: facts are only ever added', tg_op, tg_table_schema, tg_table_name
                using hint = 'a correction is a new fact, made by a change in the source';
        end $bygone$;
        comment on function {s}.refuse() is 'keeps facts from being altered, by the owner too';
        comment on table {s}.commits is 'commits of the log whose facts are here, each written in one transaction';
        comment on table {s}.transactions is 'one row per transaction of the source that changed something captured';
        comment on table {s}.events is 'what happened that no fact says: schema changes, gaps, comparisons';
        comment on table {s}.schemas is 'the columns of each table at each of its schema versions';
        comment on table {s}.tables is 'what each captured table is called here';
        comment on table {s}.history is 'the history that these tables follow';
        create or replace function {s}.who_changed(table_name text default null, actor_name text default null)
            returns table (xid bigint, lsn pg_lsn, committed_at timestamptz, actor text, context jsonb, facts bigint) language sql stable as $bygone$
            select t.xid, t.lsn, t.committed_at, t.actor, t.context,
                (select sum(n::bigint)::bigint from jsonb_each_text(t.tables) as c (name, n) where $1 is null or name = $1)
            from {s}.transactions t
            where ($1 is null or t.tables ? $1) and ($2 is null or t.actor = $2) order by t.lsn desc $bygone$;
        comment on function {s}.who_changed(text, text) is 'transactions, newest first: of a table (schema.name), of an actor, or all';\n",
        name = literal(schema),
        quoted = literal(&s),
    );
    for table in ["history", "commits", "tables", "schemas", "events", "transactions", "slabs"] {
        sql.push_str(&guards(schema, table));
    }
    sql
}

/// Triggers that refuse everything but INSERT.
pub(super) fn guards(schema: &str, table: &str) -> String {
    let (s, t) = (quote_identifier(schema), quote_identifier(table));
    format!(
        "do $bygone$ begin
            if not exists (select from pg_trigger where tgrelid = {of}::regclass and tgname = 'bygone_append_only') then
                create trigger bygone_append_only before update or delete on {s}.{t} for each statement execute function {s}.refuse();
                create trigger bygone_no_truncate before truncate on {s}.{t} for each statement execute function {s}.refuse();
            end if;
        end $bygone$;\n",
        of = literal(&format!("{s}.{t}")),
    )
}

/// Lets readers read, through a role: needs the right to make one.
pub(super) fn reader(schema: &str) -> [String; 2] {
    let s = quote_identifier(schema);
    [
        "do $bygone$ begin
            if not exists (select from pg_roles where rolname = 'bygone_reader') then create role bygone_reader; end if;
        end $bygone$"
            .to_owned(),
        format!(
            "grant usage on schema {s} to bygone_reader; grant select on all tables in schema {s} to bygone_reader;
             alter default privileges in schema {s} grant select on tables to bygone_reader"
        ),
    ]
}

/// How history tables are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Each is one table.
    #[default]
    Whole,
    /// Each is partitioned by the month of `_valid_from`.
    ByMonth,
}

/// The history table of a captured table, with the system columns alone.
pub(super) fn history_table(schema: &str, base: &str, log_name: &str, layout: Layout) -> String {
    let (s, t) = (quote_identifier(schema), quote_identifier(&format!("{base}_history")));
    let comment = literal(&format!("every version of every row of {log_name}: rows are only ever added"));
    let key = match layout {
        Layout::Whole => "primary key (_entity_id, _version))",
        // A key of a partitioned table has to hold what it is partitioned by.
        Layout::ByMonth => {
            "primary key (_entity_id, _version, _valid_from)) partition by range (_valid_from)"
        }
    };
    let mut sql = format!(
        "create table {s}.{t} (_id uuid not null, _entity_id text not null, _version bigint not null, _op text not null,
            _valid_from timestamptz not null, _deleted_at timestamptz, _lsn pg_lsn not null, _seq bigint not null, _xid bigint not null,
            _changed text[], _actor text, _context jsonb, _unknown text[], _schema int not null, {key};
         create index on {s}.{t} using brin (_valid_from) with (pages_per_range = 32);
         create index on {s}.{t} (_lsn, _seq);
         comment on table {s}.{t} is {comment};\n"
    );
    sql.push_str(&guards(schema, &format!("{base}_history")));
    sql
}

/// The table of a captured table's slabs, with the columns alone that all have.
pub(super) fn slab_table(schema: &str, base: &str) -> String {
    let t = format!("{}.{}", quote_identifier(schema), quote_identifier(&format!("{base}_slabs")));
    format!(
        "create table if not exists {t} ({SLAB} bigint not null, {BEGAN} timestamptz not null, {ENDED} timestamptz, _entity_id text not null, \
         _version bigint not null, _schema int not null) partition by list ({SLAB}); comment on table {t} is 'rows laid out by time, from which \
         the past is read faster; partitions may be dropped';\n"
    )
}

/// The partition of a history table that holds a month, given as the first days of it and of the next.
pub(super) fn partition(schema: &str, base: &str, month: [&str; 2]) -> String {
    let [from, to] = month;
    let digits: String = from.chars().filter(char::is_ascii_digit).take(6).collect();
    let name = format!("{base}_history_p{digits}");
    let of = format!("{}.{}", quote_identifier(schema), quote_identifier(&format!("{base}_history")));
    let mut sql = format!(
        "create table if not exists {}.{} partition of {of} for values from ('{from} 00:00:00+00') to ('{to} 00:00:00+00');\n",
        quote_identifier(schema),
        quote_identifier(&name)
    );
    // What is done to a partition itself does not meet the triggers of the whole.
    sql.push_str(&guards(schema, &name));
    sql
}

/// What readers ask of one table.
#[derive(Debug)]
pub struct Objects {
    schema: String,
    base: String,
    log_name: String,
    columns: Vec<Shown>,
    key: Vec<String>,
}

/// A column as the source has it.
#[derive(Debug)]
struct Shown {
    name: String,
    physical: String,
    /// What rows read as that are older than the column, with the schema version that brought it.
    missing: Option<(i32, String)>,
}

impl Objects {
    /// Of a table with all its schema versions, the newest last.
    #[must_use]
    pub fn of(schema: &str, base: &str, table: &TableHistory) -> Self {
        let newest: &TableSchema = table.newest();
        let columns = newest
            .columns
            .iter()
            .map(|column| {
                let attnum = column.column.attnum;
                let first = table.versions.iter().find(|version| version.schema.position(attnum).is_some());
                let oldest = table.versions.first().map_or(1, |version| version.schema.version);
                let missing = first.filter(|first| first.schema.version > oldest).and_then(|first| {
                    let at = first.schema.position(attnum)?;
                    let missing = first.schema.columns.get(at)?.column.missing.clone()?;
                    Some((first.schema.version, missing))
                });
                Shown { name: column.column.name.clone(), physical: column.physical.clone(), missing }
            })
            .collect();
        let key = newest.key.iter().filter_map(|at| newest.columns.get(*at));
        Self {
            schema: schema.to_owned(),
            base: base.to_owned(),
            log_name: table.log_name.clone(),
            key: key.map(|column| column.physical.clone()).collect(),
            columns,
        }
    }

    fn name(&self, suffix: &str) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&format!("{}{suffix}", self.base)))
    }

    /// The columns of the source, in its order, out of a history row `h`: each with its name.
    fn values(&self) -> impl Iterator<Item = (String, String)> {
        self.columns.iter().map(|column| {
            let physical = quote_identifier(&column.physical);
            let value = match &column.missing {
                // A row that was never rewritten reads so since the column came [23].
                Some((since, text)) => {
                    format!("case when h._schema < {since} then {} else h.{physical} end", literal(text))
                }
                None => format!("h.{physical}"),
            };
            (value, quote_identifier(&column.name))
        })
    }

    /// Rows as they were where `moment` holds of a history row, and not of the next version. `more` is selected before the columns.
    fn alive(&self, more: &str, whole_row: bool, moment: &str) -> String {
        let history = self.name("_history");
        let condition =
            |of: &str| if moment.is_empty() { String::new() } else { format!(" and {of}.{moment}") };
        // A table without columns has rows all the same.
        let columns = if whole_row {
            let values: Vec<String> = self.values().map(|(value, _)| value).collect();
            format!("row({})::{} as r", values.join(", "), self.name(""))
        } else {
            self.values().map(|(value, name)| format!("{value} as {name}")).collect::<Vec<_>>().join(", ")
        };
        format!(
            "select {more}{columns} from {history} h where h._deleted_at is null{} and not exists (select from {history} n where \
             n._entity_id = h._entity_id and n._version = h._version + 1{})",
            condition("h"),
            condition("n")
        )
    }

    /// Rows as they were at a moment, or as they are without one: by a slab where one answers, else by the slab before and the facts since.
    fn at(&self, moment: Option<&str>) -> String {
        // A table without columns has nothing that a slab could hold.
        if self.columns.is_empty() {
            return self.alive(
                "",
                false,
                &moment.map_or_else(String::new, |at| format!("_valid_from <= {at}")),
            );
        }
        let (history, slabs) = (self.name("_history"), self.name("_slabs"));
        let columns: Vec<String> = self.values().map(|(value, name)| format!("{value} as {name}")).collect();
        let columns = columns.join(", ");
        let begun = moment.map_or_else(String::new, |at| format!(" and s.begins <= {at}"));
        // The last slab that begins at the moment or before; one that was dropped is none.
        let last = |what: &str| {
            format!(
                "(select {what} from {}.slabs s where s.base = {} and to_regclass(s.place) is not null{begun} order by s.begins desc limit 1)",
                quote_identifier(&self.schema),
                literal(&self.base)
            )
        };
        let until = |of: &str, column: &str| {
            moment.map_or_else(String::new, |at| format!(" and {of}.{column} <= {at}"))
        };
        let next = |more: &str| {
            format!(
                "not exists (select from {history} n where n._entity_id = h._entity_id and n._version = h._version + 1{more}{})",
                until("n", "_valid_from")
            )
        };
        let mut parts = Vec::new();
        if let Some(at) = moment {
            parts.push(format!(
                "select {columns} from {slabs} h where h.{SLAB} = {} and h.{BEGAN} <= {at} and (h.{ENDED} is null or {at} < h.{ENDED})",
                last(&format!("case when {at} < s.ends then s.slab end"))
            ));
        }
        let behind = moment
            .map_or_else(|| last("s.slab"), |at| last(&format!("case when {at} >= s.ends then s.slab end")));
        let since = format!("coalesce({}, '-infinity')", last("s.ends"));
        parts.push(format!(
            "select {columns} from {slabs} h where h.{SLAB} = {behind} and h.{ENDED} is null and {}",
            next(&format!(" and n._valid_from >= {since}"))
        ));
        let is_behind = moment.map_or_else(String::new, |at| format!(" and {at} >= {since}"));
        parts.push(format!(
            "select {columns} from {history} h where h._valid_from >= {since}{is_behind}{} and h._deleted_at is null and {}",
            until("h", "_valid_from"),
            next("")
        ));
        parts.join(" union all ")
    }

    /// Statements that make everything, anew where it is there.
    #[must_use]
    pub fn statements(&self) -> String {
        let (history, current, timeline) = (self.name("_history"), self.name(""), self.name("_timeline"));
        let (as_of, blame, diff) = (self.name("_as_of"), self.name("_blame"), self.name("_diff"));
        let signatures = [
            format!("{as_of}(timestamptz)"),
            format!("{as_of}(pg_lsn)"),
            format!("{blame}(text)"),
            format!("{diff}(timestamptz, timestamptz)"),
        ];
        let comment = |kind: &str, of: &str, text: &str| {
            format!("comment on {kind} {of} is {};\n", literal(&text.replace("{}", &self.log_name)))
        };
        let mut sql = String::new();
        for signature in &signatures {
            // Writing to a String does not fail.
            let _ = writeln!(sql, "drop function if exists {signature};");
        }
        sql.push_str(&view(&current, &self.at(None)));
        sql.push_str(&comment("view", &current, "{} as it is now"));
        let whole = format!(
            "select h.*, (select n._valid_from from {history} n where n._entity_id = h._entity_id and n._version = h._version + 1) as \
             _valid_to from {history} h"
        );
        sql.push_str(&view(&timeline, &whole));
        sql.push_str(&comment(
            "view",
            &timeline,
            "every version of every row of {}, with the end of its validity",
        ));
        // Plain SQL, stable, one statement: it is inlined, and conditions on its result reach the indexes.
        let bodies = [("timestamptz", self.at(Some("$1"))), ("pg_lsn", self.alive("", false, "_lsn <= $1"))];
        for (axis, body) in bodies {
            let _ = writeln!(
                sql,
                "create function {as_of}({axis}) returns setof {current} language sql stable as $bygone$ {body} $bygone$;"
            );
            sql.push_str(&comment("function", &format!("{as_of}({axis})"), "{} as it was at a moment"));
        }
        let _ = writeln!(
            sql,
            "create function {blame}(key text) returns table (column_name text, version bigint, valid_from timestamptz, xid bigint, actor \
             text) language sql stable as $bygone$ select c.name, h._version, h._valid_from, h._xid, h._actor from unnest({}::text[], \
             {}::text[]) as c (name, physical) cross join lateral (select * from {history} h where h._entity_id = key and (h._version = 1 \
             or h._changed @> array[c.physical]) order by h._version desc limit 1) h $bygone$;",
            array(self.columns.iter().map(|column| column.name.as_str())),
            array(self.columns.iter().map(|column| column.physical.as_str()))
        );
        let what = "for each column of the row with this _entity_id: the version that last changed it, when, and who";
        sql.push_str(&comment("function", &format!("{blame}(text)"), what));
        let _ = writeln!(
            sql,
            "create function {diff}(timestamptz, timestamptz) returns table (change text, _entity_id text, old {current}, new {current}) \
             language sql stable as $bygone$ select case when o._entity_id is null then 'added' when n._entity_id is null then 'removed' \
             else 'changed' end, coalesce(o._entity_id, n._entity_id), o.r, n.r from ({}) o full join ({}) n on n._entity_id = \
             o._entity_id where o._entity_id is null or n._entity_id is null or o._version <> n._version $bygone$;",
            self.alive("h._entity_id, h._version, ", true, "_valid_from <= $1"),
            self.alive("h._entity_id, h._version, ", true, "_valid_from <= $2")
        );
        let what = "rows of {} that were added, removed or changed between two moments";
        sql.push_str(&comment("function", &format!("{diff}(timestamptz, timestamptz)"), what));
        if !self.key.is_empty() {
            let key: Vec<String> = self.key.iter().map(|name| quote_identifier(name)).collect();
            // Named after what it is on: another key gets another index.
            let hash = ContentHash::of(format!("{} {}", self.base, key.join(",")).as_bytes()).to_string();
            let index = format!("bygone_key_{}", hash.get(..16).unwrap_or_default());
            let _ = writeln!(
                sql,
                "create index if not exists {index} on {history} ({}, _version desc); create index if not exists {index}_slabs on {} ({0});",
                key.join(", "),
                self.name("_slabs")
            );
        }
        let _ = writeln!(
            sql,
            "do $bygone$ begin if exists (select from pg_roles where rolname = 'bygone_reader') then grant select on {current}, \
             {timeline} to bygone_reader; end if; exception when insufficient_privilege then null; end $bygone$;"
        );
        sql
    }
}

/// A view, made anew where its columns are other ones; what others have built on it stands in the way then, and is not dropped.
fn view(name: &str, query: &str) -> String {
    format!(
        "do $bygone$ begin create or replace view {name} as {query}; exception when invalid_table_definition then drop view {name}; \
         create view {name} as {query}; end $bygone$;\n"
    )
}

pub(super) fn array<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> =
        texts.map(|text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))).collect();
    literal(&format!("{{{}}}", quoted.join(",")))
}
