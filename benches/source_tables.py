"""The tables that are captured, and what is done to them.

Values come from a hash of the row's number and a salt: as uneven as real ones, and the same in each run.
"""

PICK = """
create function pick(id bigint, salt bigint, below bigint) returns bigint language sql immutable as $$
  select (hashint8extended(id, salt) & 9223372036854775807) % below $$;
"""

ORDERS = PICK + """
create table orders (id bigint primary key, customer bigint not null, status text not null, placed timestamptz not null,
  due date, amount numeric(12,2) not null, tax numeric(12,2), quantity int, paid boolean, note text, channel varchar(20),
  ref uuid, score double precision, tags text);
create function order_row(id bigint) returns orders language sql immutable as $$
  select row(id, pick(id, 1, 50000), (array['new', 'paid', 'sent', 'back'])[1 + pick(id, 2, 4)],
    timestamptz '2026-01-01 00:00+00' + (id * 1700000 + pick(id, 3, 1700000)) * interval '1 us',
    date '2026-01-01' + (id / 50000 + pick(id, 4, 30))::int, pick(id, 5, 100000) / 100.0, pick(id, 6, 1900) / 100.0,
    pick(id, 7, 9), pick(id, 8, 2) = 0, 'order ' || id || ' of customer ' || pick(id, 1, 50000),
    (array['web', 'shop', 'phone'])[1 + pick(id, 9, 3)], md5(id::text)::uuid, sqrt(pick(id, 10, 1000000)),
    'a,b,' || pick(id, 11, 13))::orders $$;
"""

WIDE = PICK + """
create type mood as enum ('calm', 'glad', 'cross');
create table orders (id bigint primary key, account int not null, kind smallint not null, active boolean not null,
  name text not null, email text, status varchar(16) not null, created timestamptz not null, updated timestamp,
  birthday date, opens time, amount numeric(14,2) not null, rate numeric(10,6), balance numeric, weight real,
  height double precision, uid uuid, payload jsonb not null, settings json, tags text[], scores int[],
  prices numeric(10,2)[], seen timestamptz[], flags boolean[], address inet, span interval, hash bytea, body text,
  mood mood, comment text);
create function order_row(id bigint) returns orders language sql immutable as $$
  select row(id, pick(id, 1, 50000), pick(id, 2, 7), pick(id, 3, 2) = 0, 'name ' || pick(id, 4, 9973),
    'user' || id || '@example.org', (array['new', 'paid', 'sent', 'back'])[1 + pick(id, 5, 4)],
    timestamptz '2026-01-01 00:00+00' + (id * 1700000 + pick(id, 6, 1700000)) * interval '1 us',
    timestamp '2026-02-01 00:00' + (id * 900000 + pick(id, 7, 900000)) * interval '1 us',
    date '1970-01-01' + pick(id, 8, 18000)::int, time '08:00' + pick(id, 9, 600) * interval '1 min',
    pick(id, 10, 1000000) / 100.0, pick(id, 11, 1000000) / 1000000.0, pick(id, 12, 100000000) / 1000.0,
    pick(id, 13, 1000) / 8.0, sqrt(pick(id, 14, 1000000)), md5(id::text)::uuid,
    jsonb_build_object('items', jsonb_build_array(pick(id, 15, 11), pick(id, 16, 13)), 'note', 'gift for ' || pick(id, 17, 997),
      'express', pick(id, 18, 5) = 0),
    json_build_object('theme', pick(id, 19, 3), 'lang', 'en'), array['a', 'b', 't' || pick(id, 20, 13)],
    array[pick(id, 21, 5), pick(id, 22, 7), pick(id, 23, 9)], array[pick(id, 24, 100) / 4.0, pick(id, 25, 77) / 2.0],
    array[timestamptz '2026-01-01 00:00+00' + pick(id, 26, 100000000) * interval '1 s'],
    array[pick(id, 27, 2) = 0, pick(id, 28, 3) = 0], ('10.' || pick(id, 29, 250) || '.' || pick(id, 30, 241) || '.1')::inet,
    pick(id, 31, 90) * interval '1 day', decode(md5(id::text || 'hash'), 'hex'),
    -- One row in fifty has a value so large that it is stored out of line, and that updates leave out of the WAL.
    case when pick(id, 32, 50) = 0 then (select string_agg(md5((id + g)::text), '') from generate_series(1, 100) g)
      else 'body of ' || id end,
    (array['calm', 'glad', 'cross'])[1 + pick(id, 33, 3)]::mood,
    case when pick(id, 34, 3) = 0 then null else 'comment ' || pick(id, 35, 499) end)::orders $$;
"""

# Transactions of one to three row changes: half insert, four in ten update rows from anywhere in the table, one in ten deletes.
# Ends with the number of row changes made, which is at least the number asked for.
TRANSACTIONS = """
create procedure work(wanted bigint, inout made bigint) language plpgsql as $$
declare
  step bigint := 0; fresh bigint := 1; size int; low bigint; hit bigint;
begin
  made := 0;
  while made < wanted loop
    step := step + 1;
    size := 1 + pick(step, 101, 3);
    low := 1 + pick(step, 102, fresh);
    case pick(step, 103, 10)
      when 0, 1, 2, 3, 4 then
        insert into orders select made_row.* from generate_series(fresh, fresh + size - 1) id, order_row(id) made_row;
        fresh := fresh + size;
      when 5, 6, 7, 8 then
        update orders set status = 'step ' || step % 101, amount = amount + 1 where id between low and low + size - 1;
      else
        delete from orders where id between low and low + size - 1;
    end case;
    get diagnostics hit = row_count;
    made := made + hit;
    commit;
  end loop;
end $$;
"""

FILL = "insert into orders select made_row.* from generate_series(1, {rows}) id, order_row(id) made_row"
