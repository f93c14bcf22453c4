-- What scripts/record-streams has a server say: every message of pgoutput, and every shape of row.

\set ON_ERROR_STOP on
set client_min_messages = warning;
set search_path = shop;

-- Values of every kind: ordinary, at the ends of their range, null, empty.
insert into typed values (
    1, true, 7, -7, 4294967295, 1.5, 0.1, 12.30, 1e-20, 'Grüße', 'varchar', 'ab', 'name', '\x00ff', '2026-11-24',
    '2026-11-24 02:55:58.123456', '2026-11-24 02:55:58.5+02', '02:55:58', '1 day 02:00', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
    '{"a": 1}', '{"b": [1, null]}', '{1,NULL,-3}', '{NULL,"NULL","a,b","q\"",""}', 'so-so', 9.90, '10.0.0.0/8', 'postgres=r/postgres');
insert into typed values (
    9223372036854775807, false, -32768, 2147483647, 0, 'NaN', '-Infinity', -9999999999.99, 'NaN', '', '', '', '', '', 'infinity',
    '-infinity', '0044-03-15 12:00:00 BC', '24:00', '-1 mon', '00000000-0000-0000-0000-000000000000', '""', 'null', '{}',
    '{{a,b},{c,d}}', 'glad', 0, '::1', null);
insert into typed (id, f4, f8, n, free, d, ts, tz, ints, iv) values (
    -9223372036854775808, 'Infinity', 1e300, 0.01, 12345678901234567890.000000000000000000012345, '4714-11-24 BC',
    '294276-12-31 23:59:59.999999', '1969-12-31 23:59:59.999999+00', '[0:1]={7,8}', '178000000 years');
update typed set t = 'a' || chr(9) || chr(10) || '\', n = null where id < 0;
update typed set id = -2, f4 = null where id < 0;
delete from typed where id < 0;

-- A key alone, a row alone, nothing of the old row; several statements and tables in one transaction.
begin;
insert into pair values (1, 'x', 'one'), (2, '', null);
update pair set v = 'two' where a = 1;
update pair set b = 'y' where a = 1;
insert into "Odd ""name" values (1, null);
savepoint undone;
delete from pair;
rollback to savepoint undone;
delete from pair where a = 2;
commit;

insert into coded values (1, 'c1', 'n');
update coded set note = 'm' where id = 1;
update coded set code = 'c2' where id = 1;
delete from coded where id = 1;

-- Unchanged values that are stored out of line: not sent, but for the old row of a table under FULL.
update wide set v = 2 where id = 1;
update wide set id = 3 where id = 1;
update wide set body = null where id = 3;
delete from wide where id = 2;
insert into whole values (1, '', null);
update whole set v = 'changed' where body is not null;
update whole set v = v where body is null;
delete from whole where body is null;

insert into nameless values ('seen'), (null), ('');
insert into made values (4);
update made set id = 5;

-- A partitioned table comes as its leaves, whose columns may stand in another order; a move is a delete and an insert.
insert into day values (1, '2026-01-10'), (2, '2026-02-10');
update day set day = '2026-02-11' where id = 1;

insert into owner default values;
insert into pet (owner) values (1);
truncate owner cascade;
truncate pet, owner restart identity;
truncate whole;
truncate coded, pair restart identity cascade;

-- Messages, in transactions and beside them, of one that is rolled back too; bytes need not be text.
select pg_logical_emit_message(true, 'bygone', '{"actor": "ann", "reason": "refund"}') is null as said \gset
begin;
select pg_logical_emit_message(true, 'bygone', '') is null as said \gset
insert into pair values (3, 'm', 'after a message');
select pg_logical_emit_message(false, 'beside', 'outside of the transaction') is null as said \gset
select pg_logical_emit_message(true, '', '\x00ff10'::bytea) is null as said \gset
commit;
begin;
select pg_logical_emit_message(false, 'beside', 'rolled back') is null as said \gset
select pg_logical_emit_message(true, 'bygone', 'never') is null as said \gset
rollback;

-- From elsewhere.
select pg_replication_origin_create('far away') as origin \gset
select pg_replication_origin_session_setup('far away') is null as set_up \gset
begin;
select pg_replication_origin_xact_setup('16/B374D848', '2020-02-02 02:02:02.020202+00') is null as set_up \gset
insert into pair values (4, 'o', 'from far away');
commit;
select pg_replication_origin_session_reset() is null as set_up \gset

-- Other columns than before, before and inside a transaction.
alter table pair add column later int4 default 42;
update pair set v = 'with a default' where a = 3;
begin;
alter table pair rename column v to said;
alter table pair alter column later type text;
insert into pair values (5, 'r', 'renamed', 'text');
alter table pair replica identity full;
update pair set said = 'whole' where a = 5;
commit;

-- Nothing that is published.
insert into unpublished values (1);

-- Kept in one of the recordings only.
insert into wide values (6, 6, repeat('long ', 4000));
