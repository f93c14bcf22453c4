"""How fast a table is copied, state included, beside psql's \\copy and DuckDB's export."""
from __future__ import annotations

import pathlib
import sys

import source_tables
from capture import Capture
from drain import MOST_MEMORY
from report import Bench, note

ROWS = 3_000_000

SPEED_MARK = 1.0
SPEED_AIM = 1.0


def orders(bench: Bench):
    server, database = bench.server, "snapshot"
    rows = bench.scaled(ROWS)
    subject = f"snapshot, {rows:,} rows"
    server.create(database)
    note(f"{subject}: filling the table")
    server.ask(database, source_tables.ORDERS, source_tables.FILL.format(rows=rows), "vacuum (freeze, analyze) orders", "checkpoint")
    capture = Capture(bench.program, server, database, bench.root)
    export = capture.root / "duckdb.parquet"
    duckdb = [sys.executable, str(pathlib.Path(__file__).with_name("duckdb_export.py")), server.parameters(database), str(export)]
    ours, psql, exports = [], [], []
    for turn in range(bench.runs):
        psql.append(server.measure(server.psql(database, "-c", r"\copy orders to '/dev/null' (format binary)"), capture.log))
        if bench.has_duckdb:
            exports.append(server.measure(duckdb, capture.log))
        if turn:
            capture.detach()
        ours.append(capture.run())
        facts = capture.facts()
        if facts != rows:
            raise SystemExit(f"bench: {subject}: {facts} facts for {rows} rows: this is a bug")
        note(f"{subject}: run {turn + 1}: psql {psql[-1].wall:.2f} s, bygone {ours[-1].wall:.2f} s"
             + (f", DuckDB {exports[-1].wall:.2f} s" if exports else ""))
    bench.ratio(subject, r"psql \copy, binary, to /dev/null", ours, psql, mark=SPEED_MARK, facts=rows)
    if exports:
        bench.ratio(subject, "DuckDB: postgres_scan to Parquet", ours, exports, aim=SPEED_AIM, facts=rows)
    else:
        bench.skip(subject, "DuckDB: postgres_scan to Parquet", bench.why_no_duckdb)
    bench.memory(subject, ours, most=MOST_MEMORY)
    bench.fact_size("a snapshot", capture)
    bench.state_size("a snapshot", capture)
    capture.detach()
    server.drop(database)
