//! The verdict: facts against the oracle, inside PostgreSQL, in the columns' real types.
//!
//! Facts are loaded by `COPY` and cast to the type of the source's column. Two values are the same when the type's
//! output function prints the same text, which is stricter than equality: 1.0 is not 1.00, -0 is not 0.

use std::io::Write;

use postgres::Client;

use super::history::{History, SYSTEM_COLUMNS, Violation, lsn};
use super::oracle::{Audited, Oracle, literal, quoted};
use super::rendering;

/// How values are printed while they are compared.
pub(crate) const SESSION: &str =
    "set timezone = 'UTC'; set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres';
    set extra_float_digits = 3; set bytea_output = 'hex'; set xmloption = 'content'; set lc_monetary = 'C';
    set work_mem = '128MB'; set client_min_messages = 'warning'";

/// Everything that is wrong with a history: its chain and files, the numbering of its facts, and every fact that is
/// not what the oracle saw. `tidy`: the writer ended in good order, so nothing may lie around.
pub(crate) fn judge(
    client: &mut Client,
    oracle: &Oracle,
    history: &mut History,
    tidy: bool,
) -> Vec<Violation> {
    client.batch_execute(SESSION).unwrap();
    Oracle::catch_up(client);
    history.verify(tidy);
    let mut court = Court { client, found: history.violations.clone() };
    court.clock(history);
    for table in &oracle.tables {
        court.schema(history, table);
        court.load(history, table);
        court.numbering(table);
        let cut = court.snapshot_place(history, table);
        court.expect(table, cut);
        court.snapshot(table, cut);
        if table.key.is_empty() {
            court.multiset(table)
        } else {
            court.stream(table)
        }
        court.current(table);
    }
    let audited: Vec<&str> = oracle.tables.iter().map(|table| table.name.as_str()).collect();
    for table in history.tables() {
        if !audited.contains(&table) {
            court.found.push(violation("tables", table, "nobody asked for this table"));
        }
    }
    court.found
}

/// Fails the test when anything is wrong.
#[track_caller]
pub(crate) fn assert_flawless(violations: &[Violation]) {
    let shown: Vec<_> = violations.iter().take(30).map(ToString::to_string).collect();
    assert!(violations.is_empty(), "{} rules are broken:\n{}", violations.len(), shown.join("\n"));
}

/// Checks the rows that a table held when a session saved them into `saved`, together with its
/// `pg_current_snapshot()`: the facts of the transactions visible in that snapshot must give the same rows.
///
/// The facts must have been loaded by [`judge`] last, so this is for histories of one table.
pub(crate) fn judge_moment(
    client: &mut Client,
    table: &Audited,
    saved: &str,
    snapshot: &str,
) -> Vec<Violation> {
    let mut court = Court { client, found: Vec::new() };
    let visible = format!(
        "select * from audit.facts where _op in ('snapshot', 'reconcile')
             or pg_visible_in_snapshot(_xid::text::xid8, {}::pg_snapshot)",
        literal(snapshot)
    );
    let ours = format!(
        "select fact_row as line from (select distinct on (_entity_id) * from ({visible}) v
         order by _entity_id, _version desc) s where _deleted_at is null"
    );
    court.same_lines("moment", table, &ours, &format!("select (whole)::text as line from {saved} whole"));
    court.found
}

fn violation(rule: &str, table: &str, sample: &str) -> Violation {
    Violation { rule: rule.to_owned(), table: table.to_owned(), count: 1, sample: sample.to_owned() }
}

/// `audit.facts` holds the facts of the table at hand, `audit.expected` what the oracle saw of it.
struct Court<'a> {
    client: &'a mut Client,
    found: Vec<Violation>,
}

impl Court<'_> {
    #[track_caller]
    fn run(&mut self, sql: &str) {
        if let Err(error) = self.client.batch_execute(sql) {
            panic!("{error:?}\n{sql}");
        }
    }

    #[track_caller]
    fn number(&mut self, sql: &str) -> Option<i64> {
        self.client.query_one(sql, &[]).unwrap_or_else(|error| panic!("{error:?}\n{sql}")).get(0)
    }

    /// Every row of `cases` breaks the rule; `sample` describes one.
    #[track_caller]
    fn rule(&mut self, rule: &str, table: &Audited, cases: &str, sample: &str) {
        let sql = format!("select count(*), left(min(({sample})::text), 600) from ({cases}) c");
        let row = self.client.query_one(&sql, &[]).unwrap_or_else(|error| panic!("{error:?}\n{sql}"));
        let count: i64 = row.get(0);
        if count > 0 {
            let sample: Option<String> = row.get(1);
            let sample = sample.unwrap_or_default();
            self.found.push(Violation { rule: rule.to_owned(), table: table.name.clone(), count, sample });
        }
    }

    /// Fills `audit.clock`: the time of a fact is the latest of all that came before it, commits and copies of tables.
    fn clock(&mut self, history: &History) {
        let copied: Vec<_> =
            history.copied.iter().map(|(place, micros)| format!("({place}, {micros})")).collect();
        let copied = if copied.is_empty() { "(0, 0)".to_owned() } else { copied.join(", ") };
        self.run(&format!(
            "drop table if exists audit.clock;
             create unlogged table audit.clock as
             select place, timestamptz 'epoch' + micros * interval '1 microsecond' as committed,
                 timestamptz 'epoch' + max(micros) over (order by place) * interval '1 microsecond' as latest
             from (select place, micros from audit.ended union all values {copied}) t;
             create index on audit.clock (place); analyze audit.clock"
        ));
    }

    /// The log knows the table's columns and its key.
    fn schema(&mut self, history: &History, table: &Audited) {
        let known: Vec<(&str, bool)> = history.newest_schema(&table.name);
        let due: Vec<(&str, bool)> =
            table.columns.iter().map(|(name, _)| (name.as_str(), table.key.contains(name))).collect();
        if known != due {
            self.found.push(violation("schema", &table.name, &format!("the log has {known:?}, not {due:?}")));
        }
    }

    /// Fills `audit.facts`: system columns in their types, the user's as `c0`, `c1` … in the source's types, the whole
    /// row as text in `fact_row`, the entity as the key columns have it in `fact_entity`.
    fn load(&mut self, history: &History, table: &Audited) {
        let names: Vec<&str> =
            SYSTEM_COLUMNS.into_iter().chain(table.columns.iter().map(|(name, _)| name.as_str())).collect();
        let columns: Vec<_> = names.iter().map(|name| quoted(name)).collect();
        self.run(&format!(
            "drop table if exists audit.staged; create unlogged table audit.staged ({})",
            columns.iter().map(|name| format!("{name} text")).collect::<Vec<_>>().join(", ")
        ));
        let mut missing = Vec::new();
        let mut unread = None;
        let copy = format!("copy audit.staged ({}) from stdin", columns.join(", "));
        let mut writer = self.client.copy_in(&copy).unwrap();
        for batch in history.facts(&table.name) {
            let arrays: Vec<_> = names.iter().map(|name| batch.column_by_name(name)).collect();
            for (name, array) in names.iter().zip(&arrays) {
                if array.is_none() && !missing.contains(name) {
                    missing.push(name);
                }
            }
            let mut lines = String::new();
            for row in 0..batch.num_rows() {
                for (position, array) in arrays.iter().enumerate() {
                    let text = array.map_or(Ok(None), |array| rendering::text(array, row));
                    let text = text.unwrap_or_else(|problem| {
                        unread = Some(format!("{}: {problem}", names[position]));
                        None
                    });
                    lines.push_str(if position == 0 { "" } else { "\t" });
                    match text {
                        None => lines.push_str("\\N"),
                        Some(text) => push_escaped(&mut lines, &text),
                    }
                }
                lines.push('\n');
            }
            writer.write_all(lines.as_bytes()).unwrap();
        }
        writer.finish().unwrap();
        for name in missing {
            self.found.push(violation("columns", &table.name, &format!("a file has no column {name}")));
        }
        if let Some(problem) = unread {
            self.found.push(violation("columns", &table.name, &problem));
        }
        self.cast(table);
    }

    fn cast(&mut self, table: &Audited) {
        let system = "_id, _entity_id, _version::bigint, _op, _valid_from::timestamptz, _deleted_at::timestamptz,
            _lsn::bigint, _seq::bigint, _xid::bigint, _changed::text[], _actor, _context::jsonb, _unknown::text[],
            _schema::int, _raw::jsonb";
        let exact = |name: &str| format!("coalesce({}, _raw::jsonb ->> {})", quoted(name), literal(name));
        let mut parts: Vec<String> = Vec::new();
        for (name, kind) in &table.columns {
            let cast = format!("({})::{kind}", exact(name));
            let tried = self.client.batch_execute(&format!("select count({cast}) from audit.staged"));
            match tried {
                Ok(()) => parts.push(cast),
                Err(error) => {
                    let why =
                        error.as_db_error().map_or_else(|| error.to_string(), |e| e.message().to_owned());
                    self.found.push(violation("values", &table.name, &format!("{name} as {kind}: {why}")));
                    parts.push(format!("null::{kind}"));
                }
            }
        }
        let own: Vec<_> = (0..parts.len()).map(|n| format!("f.c{n}")).collect();
        self.run(&format!(
            "drop table if exists audit.facts;
             create unlogged table audit.facts as
             select {system}, {}, null::text as fact_row, null::text as fact_entity from audit.staged;
             update audit.facts f set fact_row = row({})::text,
                 fact_entity = (select {} from (select {}) s ({}));
             create index on audit.facts (_entity_id, _version);
             analyze audit.facts",
            parts
                .iter()
                .enumerate()
                .map(|(n, part)| format!("{part} as c{n}"))
                .collect::<Vec<_>>()
                .join(", "),
            own.join(", "),
            table.entity("s."),
            own.join(", "),
            table.list("")
        ));
        let doubly = table.columns.iter().map(|(name, _)| {
            format!("{} is not null and jsonb_exists(_raw::jsonb, {})", quoted(name), literal(name))
        });
        self.rule(
            "raw",
            table,
            &format!("select * from audit.staged where {}", doubly.collect::<Vec<_>>().join(" or ")),
            "format('%s is both in a column and in _raw %s', _id, _raw)",
        );
        let names: Vec<_> = table.columns.iter().map(|(name, _)| literal(name)).collect();
        self.rule(
            "raw",
            table,
            &format!(
                "select _id, k from audit.facts, jsonb_object_keys(_raw) k where k not in ({})",
                names.join(", ")
            ),
            "format('%s has %s in _raw, which is no column', _id, k)",
        );
    }

    /// A value that the column holds in one fact is not beside it in another.
    fn needless_raw(&mut self, table: &Audited) {
        for (n, (name, _)) in table.columns.iter().enumerate() {
            let name = literal(name);
            self.rule(
                "raw-needless",
                table,
                &format!(
                    "select f._id, f._raw from audit.facts f where jsonb_exists(f._raw, {name}) and exists (
                         select from audit.facts o where not coalesce(jsonb_exists(o._raw, {name}), false)
                             and o.c{n}::text = f.c{n}::text)"
                ),
                "format('%s has %s in _raw, which its column can hold', _id, _raw)",
            );
        }
    }

    /// What holds for a table's facts whatever the source did.
    fn numbering(&mut self, table: &Audited) {
        let at = "format('entity %s, version %s, %s at %s/%s', _entity_id, _version, _op, _lsn, _seq)";
        self.rule(
            "nulls",
            table,
            "select * from audit.facts
             where num_nulls(_id, _entity_id, _version, _op, _valid_from, _lsn, _seq, _schema) > 0",
            at,
        );
        self.rule(
            "op-names",
            table,
            "select * from audit.facts where _op not in
             ('snapshot', 'insert', 'update', 'delete', 'truncate', 'rekey', 'reconcile', 'drop')",
            at,
        );
        self.rule(
            "versions",
            table,
            "select _entity_id, array_agg(_version order by _version) as got from audit.facts group by 1
             having min(_version) <> 1 or max(_version) <> count(*) or count(distinct _version) <> count(*)",
            "format('entity %s has the versions %s', _entity_id, got)",
        );
        self.rule(
            "place-unique",
            table,
            "select _lsn, _seq, count(*) as n from audit.facts group by 1, 2 having count(*) > 1",
            "format('%s facts at %s/%s', n, _lsn, _seq)",
        );
        self.rule(
            "id-unique",
            table,
            "select _id, count(*) as n from audit.facts group by 1 having count(*) > 1",
            "format('%s facts have the _id %s', n, _id)",
        );
        self.rule(
            "seq-dense",
            table,
            "select _lsn, min(_seq) as low, max(_seq) as high, count(*) as n from audit.facts
             where _op not in ('snapshot', 'reconcile') group by 1
             having min(_seq) <> 0 or max(_seq) <> count(*) - 1",
            "format('%s facts at %s have _seq from %s to %s', n, _lsn, low, high)",
        );
        self.rule(
            "valid-from",
            table,
            "select * from (select *, lag(_valid_from) over (order by _lsn, _seq) as earlier from audit.facts) f
             where earlier > _valid_from",
            at,
        );
        self.rule("unknown", table, "select * from audit.facts where _unknown is not null", at);
        self.rule(
            "tombstones",
            table,
            "select * from audit.facts where _deleted_at <> _valid_from
                 or (_op in ('delete', 'truncate', 'drop')) and _deleted_at is null
                 or _op in ('snapshot', 'insert', 'update') and _deleted_at is not null",
            at,
        );
        self.needless_raw(table);
        self.succession(table, at);
        self.identities(table, at);
    }

    /// What holds between a version and the one before it.
    fn succession(&mut self, table: &Audited, at: &str) {
        let pairs =
            "audit.facts f join audit.facts p on p._entity_id = f._entity_id and p._version = f._version - 1";
        self.rule(
            "version-order",
            table,
            &format!("select f.* from {pairs} where (p._lsn, p._seq) >= (f._lsn, f._seq)"),
            at,
        );
        self.rule(
            "life",
            table,
            &format!(
                "select f.* from {pairs} where f._op = 'insert' and p._deleted_at is null
                     or f._deleted_at is not null and p._deleted_at is not null
                 union all select * from audit.facts where _version = 1 and _deleted_at is not null"
            ),
            at,
        );
        self.rule(
            "tombstone-row",
            table,
            &format!("select f.* from {pairs} where f._deleted_at is not null and f.fact_row <> p.fact_row"),
            at,
        );
        self.rule(
            "changed",
            table,
            &format!(
                "select *, null::text[] as due from (select f.* from audit.facts f where _version = 1) f
                 where _changed is not null
                 union all
                 select * from (select f.*, {} as due from {pairs}) f
                 where _changed is null or not (_changed @> due and due @> _changed)
                     or cardinality(_changed) <> cardinality(due)",
                table.difference(|n, _| format!("f.c{n}"), |n, _| format!("p.c{n}"))
            ),
            "format('entity %s, version %s, %s: _changed %s, not %s', _entity_id, _version, _op, _changed, due)",
        );
    }

    /// `_id` and `_entity_id`.
    fn identities(&mut self, table: &Audited, at: &str) {
        // The time of a snapshot is its own; that of a transaction is known.
        let milliseconds = "coalesce(micros / 1000, case when _id ~ '^[0-9a-f]{8}-[0-9a-f]{4}-'
            then ('x' || left(replace(_id, '-', ''), 12))::bit(48)::bigint else 0 end)";
        let due = format!(
            "encode(('\\x' || lpad(to_hex({milliseconds}), 12, '0') || '7'
                || lpad(to_hex((_lsn >> 30) & 4095), 3, '0')
                || to_hex(2147483648 | (_lsn & 1073741823))
                || lpad(to_hex(_seq), 8, '0'))::bytea, 'hex')::uuid::text"
        );
        self.rule(
            "id-bits",
            table,
            &format!(
                "select * from (select f.*, {due} as due from audit.facts f
                    left join audit.ended on place = _lsn and _op not in ('snapshot', 'reconcile')) f
                 where _id is distinct from due"
            ),
            "format('_id %s, not %s', _id, due)",
        );
        let entity = match table.key.len() {
            0 => {
                "select f.* from audit.facts f left join audit.facts first
                  on first._entity_id = f._entity_id and first._version = 1
                  where f._entity_id is distinct from first._id"
            }
            1 => "select * from audit.facts where _entity_id is distinct from fact_entity",
            _ => "select * from audit.facts where _entity_id::jsonb::text is distinct from fact_entity",
        };
        self.rule("entity-id", table, entity, at);
    }

    /// The one LSN at which the table was copied. Changes that ended later are streamed.
    fn snapshot_place(&mut self, history: &History, table: &Audited) -> i64 {
        let bounds = "from audit.facts where _op = 'snapshot'";
        let last = self.number(&format!("select max(_lsn) {bounds}"));
        let first = self.number(&format!("select min(_lsn) {bounds}"));
        if first != last {
            let sample = format!("copied at {first:?} and at {last:?}");
            self.found.push(violation("snapshot-point", &table.name, &sample));
        }
        let told = ["snapshot", "attach"].into_iter().find_map(|kind| {
            let events = history.events(kind);
            let told = events.iter().rev().find(|event| event["table"] == table.name.as_str())?;
            lsn(&told["lsn"]).map(u64::cast_signed)
        });
        if told.is_none() {
            self.found.push(violation("snapshot-event", &table.name, "no event says when it was copied"));
        }
        last.or(told).unwrap_or(0)
    }

    /// Fills `audit.expected`: what the oracle saw after the snapshot, a row per fact due.
    fn expect(&mut self, table: &Audited, cut: i64) {
        let Audited { changes, .. } = table;
        let (before, after) = (table.entity("(before)."), table.entity("(after)."));
        let moved = if table.key.is_empty() {
            "false".to_owned()
        } else {
            format!("op = 'update' and {before} <> {after}")
        };
        self.run(&format!(
            "drop table if exists audit.expected;
             create unlogged table audit.expected as
             with seen as (
                 select c.*, xid::text::bigint as due_xid, op in ('delete', 'truncate') as gone, {before} as old, {after} as new, {moved} as moved
                 from {changes} c
             ), due as (
                 select n, 0 as half, due_xid, case when moved then 'rekey' else op end as due_op,
                        gone or moved as due_dead,
                        case when gone or moved then old else new end as due_entity,
                        case when gone or moved then before else after end as due_value,
                        before as earlier, null::text as origin
                 from seen
                 union all
                 select n, 1, due_xid, 'rekey', false, new, after, before, old from seen where moved
             )
             select due.*, due_value::text as due_row, earlier::text as earlier_row, place as due_place,
                    row_number() over (partition by due_entity order by n, half) as position
             from due join audit.ended on low = due_xid & 4294967295
             where place > {cut};
             create index on audit.expected (due_entity, position);
             analyze audit.expected"
        ));
        let unended = self.number(&format!(
            "select count(*) from {changes} where not exists
             (select from audit.ended where low = xid::text::bigint & 4294967295)"
        ));
        assert_eq!(unended, Some(0), "the oracle does not know where its own transactions ended");
    }

    /// The snapshot facts are the rows that the changes before it had left.
    fn snapshot(&mut self, table: &Audited, cut: i64) {
        let Audited { changes, .. } = table;
        let place = "audit.ended on low = xid::text::bigint & 4294967295";
        let standing = format!(
            "select line, sum(weight)::bigint as times from (
                 select after::text as line, 1 as weight from {changes} join {place}
                 where place <= {cut} and op in ('insert', 'update')
                 union all
                 select before::text, -1 from {changes} join {place} where place <= {cut} and op <> 'insert'
             ) c group by 1 having sum(weight) <> 0"
        );
        let copied =
            "select fact_row as line, count(*) as times from audit.facts where _op = 'snapshot' group by 1";
        self.same_counts("snapshot", table, copied, &standing);
    }

    /// Facts after the snapshot are, entity by entity, what the oracle saw, in its order.
    fn stream(&mut self, table: &Audited) {
        self.run(
            "drop table if exists audit.streamed;
             create unlogged table audit.streamed as
             select *, row_number() over (partition by fact_entity order by _version) as position
             from audit.facts where _op not in ('snapshot', 'reconcile');
             create index on audit.streamed (fact_entity, position);
             analyze audit.streamed",
        );
        let counts = "select * from
            (select due_entity as entity, due_xid as xid, count(*) as due from audit.expected group by 1, 2) e full join
            (select fact_entity as entity, _xid as xid, count(*) as got from audit.streamed group by 1, 2) s
            using (entity, xid)";
        let sample = "format('entity %s, transaction %s: %s facts for %s changes', entity, xid, got, due)";
        self.rule("lost", table, &format!("{counts} where coalesce(got, 0) < due"), sample);
        self.rule("doubled", table, &format!("{counts} where coalesce(due, 0) < got"), sample);
        let pairs =
            "audit.expected e join audit.streamed s on fact_entity = due_entity and s.position = e.position";
        let wrong = |case: &str| {
            format!(
                "select s._entity_id, s._version, s._op, s._xid, s._lsn, s._context, s._deleted_at,
                     e.due_op, e.due_xid, e.due_place, e.due_dead, e.origin from {pairs} where {case}"
            )
        };
        self.rule(
            "transaction",
            table,
            &wrong("_xid is distinct from due_xid"),
            "format('entity %s, version %s: _xid %s, not %s', _entity_id, _version, _xid, due_xid)",
        );
        self.rule(
            "op",
            table,
            &wrong("_op <> due_op or (_deleted_at is not null) <> due_dead"),
            "format('entity %s, version %s: %s (deleted %s), not %s (%s)', _entity_id, _version, _op,
                _deleted_at, due_op, due_dead)",
        );
        self.rule(
            "place",
            table,
            &wrong("_lsn <> due_place"),
            "format('entity %s, version %s: _lsn %s, not %s', _entity_id, _version, _lsn, due_place)",
        );
        let named = match table.key.len() {
            1 => "_context #>> '{bygone,rekeyed_from}'",
            _ => "(_context #>> '{bygone,rekeyed_from}')::jsonb::text",
        };
        self.rule(
            "rekeyed-from",
            table,
            &wrong(&format!("origin is distinct from {named}")),
            "format('entity %s, version %s: _context %s, came from %s', _entity_id, _version, _context, origin)",
        );
        self.rule(
            "time",
            table,
            "select s.*, committed, latest from audit.streamed s join audit.clock on place = _lsn
             where _valid_from < committed or _valid_from > latest",
            "format('entity %s, version %s: valid from %s, committed %s, clock at %s', _entity_id, _version,
                _valid_from, committed, latest)",
        );
        self.rule(
            "altered",
            table,
            &format!(
                "select _entity_id, _version, _op, {} as parts from (
                     select s.*, e.due_value from {pairs} where fact_row <> due_row) s",
                table.difference(|n, _| format!("s.c{n}"), |_, name| format!("(due_value).{}", quoted(name)))
            ),
            "format('entity %s, version %s, %s: differs in %s', _entity_id, _version, _op, parts)",
        );
    }

    /// Rows without a key: per transaction, the same changes as often, each from the same row to the same row.
    fn multiset(&mut self, table: &Audited) {
        self.same_counts(
            "multiset",
            table,
            "select concat_ws(' ', _xid, _op, _deleted_at is not null, _lsn, earlier, '->', fact_row) as line,
                 count(*) as times
             from (select *, lag(fact_row) over (partition by _entity_id order by _version) as earlier
                   from audit.facts) f
             where _op not in ('snapshot', 'reconcile') group by 1",
            "select concat_ws(' ', due_xid, due_op, due_dead, due_place, earlier_row, '->', due_row) as line,
                 count(*) as times
             from audit.expected group by 1",
        );
    }

    /// The last versions are the source's table.
    fn current(&mut self, table: &Audited) {
        let standing = "select fact_row as line from (select distinct on (_entity_id) * from audit.facts
            order by _entity_id, _version desc) f where _deleted_at is null";
        self.same_lines(
            "current",
            table,
            standing,
            &format!("select (whole)::text as line from {} whole", table.sql),
        );
    }

    fn same_lines(&mut self, rule: &str, table: &Audited, ours: &str, theirs: &str) {
        let counted = |lines: &str| format!("select line, count(*) as times from ({lines}) l group by 1");
        self.same_counts(rule, table, &counted(ours), &counted(theirs));
    }

    /// Two relations (line, times) are the same.
    fn same_counts(&mut self, rule: &str, table: &Audited, ours: &str, theirs: &str) {
        let both = format!(
            "select coalesce(o.line, t.line) as line, coalesce(o.times, 0) as got, coalesce(t.times, 0) as due
             from ({ours}) o full join ({theirs}) t on o.line = t.line"
        );
        let sample = "format('%s times, not %s: %s', got, due, left(line, 400))";
        self.rule(
            &format!("{rule}-missing"),
            table,
            &format!("select * from ({both}) b where got < due"),
            sample,
        );
        self.rule(
            &format!("{rule}-extra"),
            table,
            &format!("select * from ({both}) b where got > due"),
            sample,
        );
    }
}

/// Appends a value in the text format of COPY.
fn push_escaped(line: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            other => line.push(other),
        }
    }
}
