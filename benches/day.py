"""A day in fast motion: as many commits, and merges of their files, as 24 hours bring. Takes long, and so only when it is named."""
from __future__ import annotations

import os
import pathlib
import subprocess
import time

from capture import NAME, Capture
from report import Bench, note

# One each 10 s, which is the default.
COMMITS = 8_640
TABLES = 4
ROWS = 2_000
# Memory and handles are looked at after each of so many parts.
PARTS = 8
FLAT = 1.25
PATIENCE = 1800
STARTS = 5
# A pass of merging comes each 10 minutes or so of that day, and old files go.
FAST = ("--commit-interval", "1ms", "--compact-interval", "2s", "--grace", "5s", "--catalog-interval", "500ms")

MAKE = "; ".join(
    f"create table orders{n} (id bigint primary key, customer int, total numeric(12,2), note text); "
    f"insert into orders{n} select i, i % 100, i / 7.0, md5(i::text) from generate_series(1, {ROWS}) i" for n in range(TABLES))
# Each round is a transaction of a few changes, in the tables in turn.
LIVE = f"""create procedure live(rounds int) language plpgsql as $$ declare t text; begin
  for n in 1..rounds loop
    t := 'orders' || n % {TABLES};
    execute format('update %I set total = total + 1, note = md5($1::text) where id = 1 + $1 %% {ROWS}', t) using n;
    execute format('insert into %I values ($1, 1, 1, ''new'') on conflict (id) do update set total = excluded.total', t) using {ROWS} + n % 500;
    execute format('delete from %I where id = $1', t) using {ROWS} + (n + 250) % 500;
    commit;
    perform pg_sleep(0.01);
  end loop; end $$"""


def fast_motion(bench: Bench):
    server, database = bench.server, "day"
    wanted = bench.scaled(COMMITS)
    server.create(database)
    server.ask(database, MAKE)
    server.ask(database, LIVE)
    capture = Capture(bench.program, server, database, bench.root)
    capture.tables = "public.orders*"
    capture.run()
    first = start_up(capture)
    follower = subprocess.Popen(capture.command(*FAST), stdin=subprocess.DEVNULL, stderr=open(capture.log, "ab"), env=capture.env)
    samples = []
    try:
        while server.ask(database, f"select active from pg_replication_slots where slot_name = '{NAME}'") != "t":
            time.sleep(0.1)
        for part in range(1, PARTS + 1):
            end = time.monotonic() + PATIENCE
            while commits(capture) < wanted * part // PARTS and follower.poll() is None and time.monotonic() < end:
                server.ask(database, "call live(200)")
            samples.append((resident(follower.pid), handles(follower.pid)))
            note(f"{commits(capture):,} commits: {samples[-1][0] >> 20} MiB, {samples[-1][1]} handles, "
                 f"{sum(1 for _ in (capture.history / 'tables').rglob('*.parquet')):,} files of facts")
    finally:
        follower.terminate()
        status = follower.wait(60)
    if status:
        raise SystemExit(f"bench: a day in fast motion: bygone ended with {status}; see {capture.log}")
    last = start_up(capture)
    work = f"{commits(capture):,} commits"
    early = samples[0]
    late = [max(sample[of] for sample in samples[-2:]) for of in (0, 1)]
    bench.at_most(f"{work}: memory at their end", f"after an eighth of them ({early[0] >> 20} MiB)", late[0] / early[0], FLAT,
                  remark=f"{late[0] >> 20} MiB")
    bench.at_most(f"{work}: open handles at their end", f"after an eighth of them ({early[1]})", late[1] / early[1], FLAT,
                  remark=f"{late[1]}")
    bench.at_most(f"{work}: a start that finds nothing new", f"after the first copy ({first:.2f} s)", last / first, None, remark=f"{last:.2f} s")
    server.measure([capture.program, "verify", "--quiet", "--history", str(capture.history)], capture.log, env=capture.env)
    capture.detach()
    server.drop(database)


def start_up(capture: Capture) -> float:
    """The median of some runs that find nothing new."""
    return sorted(capture.run("--no-compact").wall for _ in range(STARTS))[STARTS // 2]


def commits(capture: Capture) -> int:
    return 1 + max(int(path.stem) for path in (capture.history / "log").glob("*.json"))


def resident(pid: int) -> int:
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def handles(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
