-- What is there before scripts/record-streams makes its slots.

\set ON_ERROR_STOP on
set client_min_messages = warning;
create schema shop;
set search_path = shop;
create type mood as enum ('glad', 'so-so');
create domain cents as numeric(12,2) check (value >= 0);
create domain price as cents;

create table typed (
    id int8 primary key, b bool, i2 int2, i4 int4, o oid, f4 float4, f8 float8, n numeric(12,2), free numeric,
    t text, v varchar(20), c char(5), nm name, by bytea, d date, ts timestamp, tz timestamptz, ti time, iv interval,
    u uuid, j json, jb jsonb, ints int4[], texts text[], m mood, p price, ip inet,
    -- No binary form: comes as text in a binary stream.
    acl aclitem
);
-- Values above 2 kB are stored out of line, as they are.
create table wide (id int4 primary key, v int4, body text);
alter table wide alter column body set storage external;
create table whole (id int4, v text, body text);
alter table whole replica identity full, alter column body set storage external;
create table coded (id int4 primary key, code text not null unique, note text);
alter table coded replica identity using index coded_code_key;
create table pair (a int4, b text, v text, primary key (b, a));
create table nameless (v text);
create table "Odd ""name" (id int4 primary key, "two words" text);
create table day (id int4, day date, primary key (id, day)) partition by range (day);
create table day_1 partition of day for values from ('2026-01-01') to ('2026-02-01');
create table day_2 (day date not null, id int4 not null, primary key (id, day));
alter table day attach partition day_2 for values from ('2026-02-01') to ('2026-03-01');
create table made (id int4 primary key, twice int4 generated always as (id * 2) stored);
create table owner (id serial primary key);
create table pet (id serial primary key, owner int4 references owner);
create table unpublished (id int4 primary key);

create publication recorded
    for table typed, wide, whole, coded, pair, "Odd ""name", day_1, day_2, made, owner, pet;
create publication recorded_insert_only for table nameless with (publish = 'insert,truncate');
select current_setting('server_version_num')::int >= 180000 as publishes_generated \gset
\if :publishes_generated
alter publication recorded set (publish_generated_columns = stored);
\endif

insert into wide values (1, 1, repeat('0123456789', 205)), (2, 1, 'short');
insert into whole values (1, '', repeat('y', 2050));
