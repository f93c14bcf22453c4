"""Peak memory at what an ordinary day does not bring. Takes long, and so only when it is named: `scripts/bench limits`."""
from __future__ import annotations

from capture import Capture
from drain import MOST_MEMORY
from report import Bench, note

CHANGES_OF_ONE_TRANSACTION = 10_000_000
SMALL_TRANSACTIONS = 200_000
"""Pieces of 32 characters: 200 MB."""
PIECES_OF_A_VALUE = 6_250_000
TABLES = 5_000
BACKLOG = 10 << 30

SMALL = "create table orders (id bigint primary key, customer int, total numeric(12,2), note text)"


def orders(bench: Bench):
    for limit in (one_transaction, small_transactions, large_row, many_tables, backlog):
        limit(bench)


def one_transaction(bench: Bench):
    rows = bench.scaled(CHANGES_OF_ONE_TRANSACTION)
    _measure(bench, f"one transaction of {rows:,} changes", SMALL,
             f"insert into orders select n, n % 1000, n / 100.0, md5(n::text) from generate_series(1, {rows}) n", rows)


def small_transactions(bench: Bench):
    count = bench.scaled(SMALL_TRANSACTIONS)
    one_by_one = f"""create procedure fill() language plpgsql as $$ begin
      for n in 1..{count} loop insert into orders values (n, n % 1000, n / 100.0, md5(n::text)); commit; end loop; end $$"""
    _measure(bench, f"{count:,} transactions", f"{SMALL}; {one_by_one}", "call fill()", count)


def large_row(bench: Bench):
    pieces = bench.scaled(PIECES_OF_A_VALUE)
    what = f"one row of {pieces * 32 // 1_000_000} MB"
    insert = f"insert into orders select 1, 1, 1, string_agg(md5(n::text), '') from generate_series(1, {pieces}) n"
    _measure(bench, f"{what}, streamed", SMALL, insert, 1)
    _measure(bench, f"{what}, in the first copy", SMALL, insert, 1, first=True)
    _measure(bench, f"{what}, updated beside it", SMALL, f"{insert}; update orders set total = total + 1", 2)


def many_tables(bench: Bench):
    count = bench.scaled(TABLES)
    # In transactions of a hundred: locks of them all would not fit into the server's default.
    make = f"""create procedure make() language plpgsql as $$ begin for n in 1..{count} loop
      execute format('create table t%s (id int primary key, name text)', n); execute format('insert into t%s values (1, %L)', n, 'a');
      if n % 100 = 0 then commit; end if; end loop; end $$;
      create procedure touch() language plpgsql as $$ begin for n in 1..{count} loop
      execute format('update t%s set name = %L', n, 'b'); if n % 100 = 0 then commit; end if; end loop; end $$;"""
    _measure(bench, f"{count:,} tables, their first copy and a change of each", f"{make} ", "call touch()", 2 * count, also="call make()",
             table="public.t*")


def backlog(bench: Bench):
    total = bench.scaled(BACKLOG)
    rows = total // 1200
    fill = f"""create procedure fill() language plpgsql as $$ begin for part in 0..{rows // 10_000} loop
      insert into orders select part * 10000 + n, n, n / 7.0, repeat(md5(n::text), 30) || md5((part + n)::text) from generate_series(1, 10000) n;
      commit; end loop; end $$"""
    _measure(bench, f"a backlog of {total / (1 << 30):.1f} GiB of WAL", f"{SMALL}; {fill}", "call fill()", (rows // 10_000 + 1) * 10_000)


def _measure(bench: Bench, what: str, ddl: str, load: str, facts: int, first: bool = False, also: str = "", table: str = "public.orders"):
    """What is loaded once bygone is attached, or before it is."""
    server, database = bench.server, "limits"
    server.create(database)
    server.ask(database, ddl)
    if also:
        server.ask(database, also)
    capture = Capture(bench.program, server, database, bench.root)
    capture.tables = table
    if not first:
        capture.run()
    note(f"{what}: loading")
    server.ask(database, "set synchronous_commit = off", load)
    server.ask(database, "create table flushed ()", "checkpoint")
    took = capture.run()
    found = sum(add["rows"] for commit in capture.commits() for add in commit["add"] if add["table"] != "transactions")
    if found != facts:
        raise SystemExit(f"bench: {what}: {found} facts, and not {facts}: this is a bug")
    note(f"{what}: {took.wall:.1f} s, {took.peak >> 20} MiB")
    bench.memory(what, [took], most=MOST_MEMORY)
    capture.detach()
    capture.root.rename(bench.root / f"limits-{len(bench.results)}")
    server.drop(database)
