"""What an application loses: transactions a second of pgbench with bygone attached, beside none and beside history tables filled by triggers."""
from __future__ import annotations

import re
import statistics
import subprocess
import time

from capture import NAME, Capture
from report import Bench, note

SCALE = 10
CLIENTS = 4
SECONDS = 15

# In the manner of the extension temporal_tables, for each table of pgbench that is updated.
TRIGGERS = """
create function keep() returns trigger language plpgsql as $$
begin
  execute format('insert into %I select ($1).*, now()', tg_table_name || '_past') using old;
  return new;
end $$;
""" + "".join(f"""
create table pgbench_{table}_past as select *, now() as until from pgbench_{table} limit 0;
create index on pgbench_{table}_past ({key}, until);
create trigger keep before update or delete on pgbench_{table} for each row execute function keep();
""" for table, key in (("accounts", "aid"), ("tellers", "tid"), ("branches", "bid")))


def pgbench(bench: Bench):
    server = bench.server
    seconds = max(2, bench.scaled(SECONDS))
    subject = f"pgbench, {CLIENTS} clients, scale {SCALE}"
    for database in ("load_none", "load_bygone", "load_triggers"):
        server.create(database)
        _pgbench(bench, database, "-i", "-s", str(SCALE))
    server.ask("load_triggers", TRIGGERS)
    capture = Capture(bench.program, server, "load_bygone", bench.root)
    capture.tables = "public.*"
    capture.run()
    none, attached, triggers = [], [], []
    for turn in range(bench.runs):
        none.append(_tps(bench, "load_none", seconds))
        follower = subprocess.Popen(capture.command(), stdin=subprocess.DEVNULL, stderr=open(capture.log, "ab"), env=capture.env)
        try:
            active = f"select active from pg_replication_slots where slot_name = '{NAME}'"
            while server.ask("load_bygone", active) != "t":
                time.sleep(0.1)
            attached.append(_tps(bench, "load_bygone", seconds))
        finally:
            follower.terminate()
            status = follower.wait(120)
        if status:
            raise SystemExit(f"bench: {subject}: bygone ended with {status}; see {capture.log}")
        triggers.append(_tps(bench, "load_triggers", seconds))
        note(f"{subject}: run {turn + 1}: alone {none[-1]:.0f}, bygone attached {attached[-1]:.0f}, triggers {triggers[-1]:.0f} transactions a second")
    alone, ours, theirs = (statistics.median(runs) for runs in (none, attached, triggers))
    bench.at_most(f"{subject}: with bygone attached", "nothing attached", ours / alone, None, f"{ours:.0f} of {alone:.0f} transactions a second")
    bench.at_most(f"{subject}: with history tables by triggers", "nothing attached", theirs / alone, None, f"{theirs:.0f} transactions a second")
    bench.at_most(f"{subject}: with bygone attached", "history tables by triggers", ours / theirs, None)
    capture.detach()
    for database in ("load_none", "load_bygone", "load_triggers"):
        server.drop(database)


def _pgbench(bench: Bench, database: str, *more: str) -> str:
    words = [str(bench.server.bin / "pgbench"), *more, bench.server.url(database)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench: pgbench: {done.stderr}")
    return done.stdout


def _tps(bench: Bench, database: str, seconds: int) -> float:
    bench.server.ask(database, "vacuum", "checkpoint")
    told = _pgbench(bench, database, "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "1", "-T", str(seconds))
    return float(re.search(r"tps = ([0-9.]+)", told).group(1))
