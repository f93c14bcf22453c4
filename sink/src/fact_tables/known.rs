//! The SQL that tells which moments of a table are known: an answer without rows, or with old ones, would be wrong elsewhere [50].

use bygone_replication::table::{quote_identifier, quote_literal};

/// The functions that readers' questions ask first, and that anybody may ask. The rules are those of
/// [`Archive::doubts`](crate::read::Archive::doubts) and of [`TableHistory::known`](crate::read::TableHistory::known).
pub(super) fn functions(schema: &str) -> String {
    let s = quote_identifier(schema);
    let name = quote_literal(schema);
    // The last position before an event, which may have happened anywhere in a range.
    let before = "case when jsonb_typeof(e.detail -> 'lsn') = 'array' then (e.detail -> 'lsn' ->> 0)::pg_lsn else e.lsn - 1 end";
    format!(
        "create index if not exists events_of_gaps on {s}.events (kind) where kind in ('gap', 'fork', 'detach', 'drop');
        create or replace function {s}.gaps(captured text)
            returns table (kind text, known_until timestamptz, after pg_lsn, known_again pg_lsn) language sql stable as $bygone$
            select g.kind, case when g.kind in ('drop', 'detach') then {s}.time_of(g.lsn) - interval '1 microsecond' else
                    (select c.known_until from {s}.commits c where c.wal_to <= g.after and c.known_until is not null
                    order by c.wal_to desc, c.seq desc limit 1) end, g.after,
                coalesce((select l.lsn from {s}.events l
                    where l.seq >= g.seq and l.lsn >= g.lsn and (l.table_name = $1 or l.table_name is null) and case
                        when g.kind in ('drop', 'detach') then l.kind = 'snapshot' and l.table_name is not null
                        when l.detail -> 'verified' is not null then false
                        when l.kind = 'reconcile' then l.detail -> 'leaf' is null
                        when l.kind = 'drop' then l.table_name is not null
                        else l.kind = 'snapshot' and g.table_name is null end
                    order by l.seq, l.lsn limit 1), g.at_once)
            from (select e.*, case when e.kind in ('drop', 'detach') then e.lsn - 1 else {before} end as after,
                    case when e.kind in ('gap', 'fork') and e.detail ->> 'doubt' is distinct from 'true' then e.lsn end as at_once
                from {s}.events e
                where e.kind in ('gap', 'fork', 'detach', 'drop') and e.lsn is not null
                    and (e.table_name = $1 or e.table_name is null and e.kind in ('gap', 'fork'))) g
            order by g.seq, g.lsn $bygone$;
        create or replace function {s}.doubts(captured text)
            returns table (kind text, why text, known_until timestamptz, after pg_lsn, known_again pg_lsn) language sql stable as $bygone$
            select d.kind, case d.kind when 'partition' then case d.detail ->> 'action' when 'detach' then 'a partition was detached'
                        when 'drop' then 'a partition was dropped' else 'a partition came' end
                    when 'key' then 'another key came to name them' when 'drop' then 'their table was dropped'
                    when 'detach' then 'their table went out of capture' else 'they were rewritten' end || ', without a word in the WAL',
                greatest((select c.known_until from {s}.commits c where c.wal_to <= d.after and c.known_until is not null
                    order by c.wal_to desc, c.seq desc limit 1),
                    (select t.valid_from from {s}.transactions t where t.lsn <= d.after order by t.lsn desc limit 1)),
                d.after, coalesce(d.noticed, (select l.lsn from {s}.events l where l.table_name = $1 and l.seq >= d.seq and l.lsn >= d.lsn
                    and l.detail -> 'verified' is null
                    and (l.kind in ('drop', 'detach') or l.kind = 'reconcile' and (d.kind = 'partition' or l.detail -> 'leaf' is null))
                    order by l.seq, l.lsn limit 1))
            from (select e.*, {before} as after, null::pg_lsn as noticed
                from {s}.events e where e.table_name = $1 and e.lsn is not null and e.kind not in ('gap', 'fork')
                    and (e.kind = 'rewrite' or e.detail ->> 'doubt' = 'true')
                union all select e.*, (e.detail ->> 'since')::pg_lsn, e.lsn
                from {s}.events e where e.table_name = $1 and e.kind in ('partition', 'detach', 'drop')
                    and (e.detail ->> 'since')::pg_lsn < e.lsn) d
            order by d.seq, d.lsn $bygone$;
        create or replace function {s}.is_known(captured text, moment timestamptz) returns boolean language plpgsql stable as $bygone$
        declare first record; since timestamptz; gap record; doubt record; known timestamptz; begin
            select e.lsn, c.known_until, t.base into first from {s}.events e join {s}.commits c on c.seq = e.seq join {s}.tables t
                on t.log_name = e.table_name where e.table_name = captured and e.kind = 'snapshot' order by e.seq limit 1;
            if moment is null then
                raise exception 'as of which moment? it is null' using errcode = 'null_value_not_allowed';
            elsif first.lsn is null then
                raise exception 'nothing is known of % yet: its first copy is not in the history', captured using errcode = 'no_data_found';
            elsif moment < first.known_until then
                execute pg_catalog.format('select _valid_from from %I.%I where _lsn = $1 limit 1', {name}, first.base || '_history')
                    into since using first.lsn;
                if moment < coalesce(since, first.known_until) then
                    raise exception 'nothing is known of % at %: its history begins at %', captured, moment,
                        coalesce(since, first.known_until) using errcode = 'no_data_found';
                end if;
            end if;
            for gap in select * from {s}.gaps(captured) g where g.known_until < moment loop
                if gap.known_again is null or moment < {s}.time_of(gap.known_again) then
                    raise exception 'nothing is known of % at %: a % lies there; it is known until %', captured, moment, gap.kind,
                        gap.known_until using errcode = 'no_data_found';
                end if;
            end loop;
            for doubt in select * from {s}.doubts(captured) d where d.known_until < moment loop
                if doubt.known_again is null or moment < {s}.time_of(doubt.known_again) then
                    raise notice 'the rows of % at % are not known exactly: %; known until %', captured, moment, doubt.why, doubt.known_until;
                end if;
            end loop;
            select c.known_until into known from {s}.commits c where c.known_until is not null order by c.seq desc limit 1;
            if moment > known then
                raise notice '% is known until %: what is shown is what was known then', captured, known;
            end if;
            return true;
        end $bygone$;
        create or replace function {s}.is_known(captured text, place pg_lsn) returns boolean language plpgsql stable as $bygone$
        declare since pg_lsn; gap record; doubt record; known pg_lsn; begin
            select e.lsn into since from {s}.events e where e.table_name = captured and e.kind = 'snapshot' order by e.seq limit 1;
            if place is null then
                raise exception 'as of which position? it is null' using errcode = 'null_value_not_allowed';
            elsif since is null then
                raise exception 'nothing is known of % yet: its first copy is not in the history', captured using errcode = 'no_data_found';
            elsif place < since then
                raise exception 'nothing is known of % at %: its history begins at %', captured, place, since
                    using errcode = 'no_data_found';
            end if;
            for gap in select * from {s}.gaps(captured) g where g.after < place loop
                if gap.known_again is null or place < gap.known_again then
                    raise exception 'nothing is known of % at %: a % lies there; it is known until %', captured, place, gap.kind, gap.after
                        using errcode = 'no_data_found';
                end if;
            end loop;
            for doubt in select * from {s}.doubts(captured) d where d.after < place loop
                if doubt.known_again is null or place < doubt.known_again then
                    raise notice 'the rows of % at % are not known exactly: %; known until %', captured, place, doubt.why, doubt.after;
                end if;
            end loop;
            select c.wal_to into known from {s}.commits c order by c.wal_to desc limit 1;
            if place > known then
                raise notice '% is known until %: what is shown is what was known then', captured, known;
            end if;
            return true;
        end $bygone$;
        comment on function {s}.gaps(text) is 'where nothing is known of a table (schema.name) after its history began: gaps, forks of the source, and while it was dropped or not captured';
        comment on function {s}.doubts(text) is 'where the rows of a table (schema.name) are not known exactly: between what the WAL does not carry and the comparison with the source';
        comment on function {s}.is_known(text, timestamptz) is 'fails where nothing is known of a table: before its history begins, and inside of gaps; a notice says where it is not known exactly, or not yet';
        comment on function {s}.is_known(text, pg_lsn) is 'fails where nothing is known of a table: before its history begins, and inside of gaps; a notice says where it is not known exactly, or not yet';\n"
    )
}
