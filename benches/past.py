"""How long questions about the past take, beside the table as it is, plain history files, and history tables filled by triggers."""
from __future__ import annotations

import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

import measured
from capture import Capture
from report import Bench, note

ROWS = 100_000
VERSIONS = 100
"""A transaction changes so many rows: no row is changed twice in one."""
AT_ONCE = 10_000

IN_SLAB_MARK = 2.0
NEWEST_MARK = 6.0
BYTES_MARK = 2.2
LOOK_UP_MARK = 100.0

TABLE = """
create table orders (id int primary key, customer text not null, status text not null, total numeric(12,2) not null,
  note text, quantity int not null, changed timestamptz not null, paid boolean not null);
insert into orders select n, 'customer ' || n % 1000, 'new', n / 100.0, md5(n::text), n % 9, now(), false from generate_series(1, {rows}) n;
"""

# In the manner of the extension temporal_tables: the row that was goes into a table of its own, with the time in which it held.
TRIGGER = """
create table orders (id int primary key, customer text not null, status text not null, total numeric(12,2) not null,
  note text, quantity int not null, changed timestamptz not null, paid boolean not null, period tstzrange not null default tstzrange(now(), null));
create table orders_history (like orders);
create index on orders_history (id);
create index on orders_history using gist (period);
create function keep() returns trigger language plpgsql as $$
begin
  insert into orders_history select old.id, old.customer, old.status, old.total, old.note, old.quantity, old.changed, old.paid,
    tstzrange(lower(old.period), now());
  new.period := tstzrange(now(), null);
  return new;
end $$;
create trigger keep before update on orders for each row execute function keep();
insert into orders (id, customer, status, total, note, quantity, changed, paid)
  select n, 'customer ' || n % 1000, 'new', n / 100.0, md5(n::text), n % 9, now(), false from generate_series(1, {rows}) n;
"""

# Values as uneven as real ones, and the same in each run.
CHANGE = """update orders set total = abs(hashint4(id * 31 + {version})) % 1000000 / 100.0, quantity = abs(hashint4(id + {version})) % 9,
  changed = clock_timestamp(), status = (array['new', 'paid', 'sent', 'back'])[1 + abs(hashint4(id * 7 + {version})) % 4]
  where id > {after} and id <= {after} + {many};"""


def changes(rows: int, versions: int) -> list[str]:
    many = min(rows, AT_ONCE)
    return [CHANGE.format(version=version, after=after, many=many) for version in range(1, versions) for after in range(0, rows, many)]


def orders(bench: Bench):
    server, database = bench.server, "past"
    rows, versions = bench.scaled(ROWS), VERSIONS
    subject = f"{rows:,} rows with {versions} versions each"
    if not bench.has_duckdb:
        bench.skip(f"as of a moment, {subject}", "", bench.why_no_duckdb)
        return
    server.create(database)
    server.ask(database, TABLE.format(rows=rows), "vacuum (freeze, analyze) orders", "checkpoint")
    capture = Capture(bench.program, server, database, bench.root)
    capture.run()
    note(f"{subject}: changing rows")
    ours = changing(bench, database, rows, versions)
    capture.run("--no-slabs", "--no-index")
    plain = capture.root / "plain"
    shutil.copytree(capture.history, plain)
    shutil.rmtree(plain / "slabs", ignore_errors=True)
    note(f"{subject}: compacting")
    words = [bench.program, "compact", "--history", str(capture.history), "--grace", "1ms"]
    if not bench.is_whole():
        words += ["--slab-rows", str(rows)]
    made = server.measure(words, capture.log, env=capture.env)

    found = asked(bench, capture, "duckdb", rows)
    # Each takes seconds.
    bare = asked(bench, capture, "duckdb", rows, history=plain, moments=found["moments"][:2])
    scan = found["scan"]
    ratios = [time / scan for time in found["in_slab"]]
    work = f"as of a moment in a slab, {subject}"
    bench.at_most(work, "DuckDB over a plain Parquet copy of the table", max(ratios), IN_SLAB_MARK,
                  remark=f"{min(ratios):.2f} to {max(ratios):.2f} x of {scan * 1000:.1f} ms, {found['slabs']} slabs")
    bench.at_most("as of a moment behind the last slab", "the same", found["newest"] / scan, NEWEST_MARK)
    bench.at_most("the table as it is", "the same", found["now"] / scan, NEWEST_MARK)
    bench.at_most("as of the same moments, without slabs", "the same", statistics.median(bare["in_slab"]) / scan, None)
    bench.at_most("bytes of facts, slabs, indexes", "facts", size(capture.history) / size(capture.history / "tables"), BYTES_MARK,
                  remark=f"{size(capture.history / 'tables') >> 20} MiB of facts; made in {made.wall:.1f} s")

    own = asked(bench, capture, "bygone", rows, moments=[found["moments"][1], found["moments"][4]])
    sums, beside = found["sums"], "DuckDB's sums over a plain Parquet copy"
    bench.at_most("bygone sql, sums as of a moment in a slab, in a process that is there", beside, own["sql_again"] / sums, IN_SLAB_MARK,
                  remark=f"{own['sql_again'] * 1000:.0f} ms of {sums * 1000:.1f} ms")
    bench.at_most("bygone sql, the same, a process each", beside, own["sql"] / sums, None,
                  remark=f"{own['sql'] * 1000:.0f} ms, of which {own['start'] * 1000:.0f} ms for a process that asks nothing")
    bench.at_most("bygone as-of --format csv, a process each", beside, own["csv"] / sums, None, remark=f"{own['csv'] * 1000:.0f} ms")
    bench.at_most("bygone as-of --format parquet, a process each", beside, own["parquet"] / sums, None, remark=f"{own['parquet'] * 1000:.0f} ms")

    note(f"{subject}: the same by triggers")
    rival = "past_triggers"
    server.create(rival)
    server.ask(rival, TRIGGER.format(rows=rows), "vacuum (freeze, analyze) orders", "checkpoint")
    theirs = changing(bench, rival, rows, versions)
    server.ask(rival, "vacuum (freeze, analyze)")
    bench.at_most("the application's changes, history tables by triggers", "the same changes with bygone attached", theirs / ours, None)
    triggers = asked(bench, capture, "psql", rows, database=rival)
    bench.at_most("as of a moment, history tables by triggers in PostgreSQL", "PostgreSQL's scan of the table", triggers["as_of"] / triggers["scan"], None,
                  remark=f"{triggers['as_of'] * 1000:.0f} ms of {triggers['scan'] * 1000:.0f} ms; DuckDB over slabs {statistics.median(found['in_slab']) * 1000:.1f} ms")
    one = [measured.run([bench.program, "history", "orders", str(rows // 2), "--history", str(capture.history), "--format", "csv"],
                        capture.log, env=capture.env) for _ in range(2 * bench.runs + 1)]
    bench.at_most_ms(f"bygone history of one row, {rows * versions:,} facts", measured.median(one) * 1000, LOOK_UP_MARK,
                     remark=f"the same by triggers, an index access within a session: {triggers['one'] * 1000:.1f} ms")
    capture.detach()
    server.drop(rival)
    server.drop(database)


def changing(bench: Bench, database: str, rows: int, versions: int) -> float:
    script = bench.root / f"{database}.sql"
    script.write_text("\n".join(changes(rows, versions)))
    began = time.monotonic()
    subprocess.run(bench.server.psql(database, "-f", str(script)), check=True)
    return time.monotonic() - began


def asked(bench: Bench, capture: Capture, engine: str, rows: int, history: pathlib.Path | None = None, moments: list | None = None,
          database: str = "") -> dict:
    """Asks in a program of its own, so that this one stays small."""
    task = {"engine": engine, "runs": 2 * bench.runs + 1, "rows": rows, "moments": moments, "scratch": str(capture.root / f"{engine}.parquet")}
    if engine == "duckdb":
        history = history or capture.history
        views = subprocess.run([bench.program, "views", "duckdb", "--history", str(history)], check=True, capture_output=True,
                               text=True, env=capture.env).stdout
        task |= {"views": views, "history": str(history)}
    elif engine == "bygone":
        task |= {"program": bench.program, "history": str(capture.history)}
    else:
        task |= {"psql": bench.server.psql(database)}
    program = str(pathlib.Path(__file__).with_name("past_ask.py"))
    done = subprocess.run([sys.executable, program], input=json.dumps(task), capture_output=True, text=True, env=capture.env)
    if done.returncode:
        raise SystemExit(f"bench: {engine}: {done.stderr}")
    return json.loads(done.stdout)


def size(directory: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*.parquet"))
