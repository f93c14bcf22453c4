"""Asks about the past in DuckDB or PostgreSQL and says how long that took. Reads what to do as JSON, and answers so."""
import json
import pathlib
import re
import statistics
import sys
import time

import by_psql

ALL = "id, customer, status, total, note, quantity, changed, paid"


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
        found |= {"scan": times(f"'{file}'"), "newest": times(as_of(slabs[-1][1] + 1)), "now": times("orders")}
    return found


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
print(json.dumps({"duckdb": duckdb, "psql": postgres}[task["engine"]](task)))
