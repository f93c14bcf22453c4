"""Asks about the past in DuckDB or PostgreSQL and says how long that took. Reads what to do as JSON, and answers so."""
import datetime
import json
import pathlib
import re
import statistics
import subprocess
import sys
import time

import by_psql

ALL = "id, customer, status, total, note, quantity, changed, paid"
# The same in every dialect; looks at every value.
SUMS = "select count(*), sum(id), max(customer), max(status), sum(total), max(note), sum(quantity), cast(max(changed) as varchar), max(paid) from "
# Questions that a process is asked behind its first one.
MORE = 8


def median(ask, runs: int) -> float:
    ask()
    took = []
    for _ in range(runs):
        began = time.perf_counter()
        ask()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def duckdb(task: dict) -> dict:
    import duckdb as engine

    link = engine.connect()
    link.execute(task["views"])
    runs, sums = task["runs"], f"select count(*), sum(hash({ALL})) from "
    times = lambda relation: median(lambda: link.execute(sums + relation).fetchall(), runs)
    slabs = sorted({tuple(map(int, re.findall(r"=(\d+)/", str(path)))) for path in pathlib.Path(task["history"]).glob("slabs/*/*/*/*.parquet")})
    moments = task["moments"]
    if moments is None:
        # The first slab begins with the first copy of the table.
        some = [slabs[len(slabs) // 4], slabs[len(slabs) // 2], slabs[-1]]
        moments = [begins + (ends - begins) * part // 10 for begins, ends in some for part in (1, 5, 9)]
    as_of = lambda moment: f"orders_as_of(make_timestamptz({moment}))"
    found = {"moments": moments, "slabs": len(slabs)}
    rows = [link.execute(f"select count(*) from {as_of(moment)}").fetchone()[0] for moment in moments]
    if set(rows) != {task["rows"]}:
        raise SystemExit(f"{rows} rows: this is a bug")
    found["in_slab"] = [times(as_of(moment)) for moment in moments]
    if slabs:
        file = task["scratch"]
        link.execute(f"copy (select * from {as_of(moments[4])} order by id) to '{file}' (format parquet, compression zstd)")
        found["sums"] = median(lambda: link.execute(f"{SUMS} '{file}'").fetchall(), runs)
        found |= {"scan": times(f"'{file}'"), "newest": times(as_of(slabs[-1][1] + 1)), "now": times("orders")}
    return found


def bygone(task: dict) -> dict:
    """A process for each question, and one that is asked several: what its start takes is left out of the latter."""
    def ask(*words: str, text: str = ""):
        command = [task["program"], *words, "--history", task["history"]]
        subprocess.run(command, input=text, text=True, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def took(at: str) -> dict:
        question = f"{SUMS} orders_as_of('{at}');\n"
        script = lambda count: median(lambda: ask("sql", text=question * count), task["runs"])
        as_of = lambda *more: median(lambda: ask("as-of", "orders", "--at", at, *more), task["runs"])
        one = script(1)
        return {"sql": one, "sql_again": (script(1 + MORE) - one) / MORE, "csv": as_of("--format", "csv"),
                "parquet": as_of("--format", "parquet", "--output", task["scratch"])}

    utc = datetime.timezone.utc
    moments = [datetime.datetime.fromtimestamp(moment / 1e6, utc).isoformat() for moment in task["moments"]]
    all_of = [took(moment) for moment in moments]
    found = {name: statistics.median(one[name] for one in all_of) for name in all_of[0]}
    return found | {"start": median(lambda: ask("sql", "select 1"), task["runs"])}


def postgres(task: dict) -> dict:
    moment = "(select percentile_disc(0.5) within group (order by lower(period)) from (select period from orders_history limit 1000000) h)"
    sums = f"select count(*), sum(hashtext(row({ALL})::text)) from "
    between = f"(select {ALL} from orders where period @> :'at'::timestamptz union all select {ALL} from orders_history where period @> :'at'::timestamptz) t"
    questions = {
        "scan": f"{sums} orders",
        "as_of": f"{sums} {between}",
        "one": f"select {ALL} from orders where id = {task['rows'] // 2} union all select {ALL} from orders_history where id = {task['rows'] // 2}",
    }
    return by_psql.medians(task["psql"], questions, task["runs"], before=f"select {moment} as at \\gset\n")


task = json.load(sys.stdin)
print(json.dumps({"duckdb": duckdb, "bygone": bygone, "psql": postgres}[task["engine"]](task)))
