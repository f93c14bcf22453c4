"""What was measured: gathered, printed as a table, written as JSON."""
from __future__ import annotations

import json
import math
import pathlib
import statistics
import subprocess
import sys

import measured
from measured import Took
from postgres import Postgres

SYSTEM_BYTES_MARK = 8.0
DEAREST_COLUMNS = 5
MIB = 1 << 20


def note(text: str):
    """Progress goes to stderr; stdout is kept for the table."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


class Bench:
    """One run of the benchmarks: what they need, and what they found."""

    def __init__(self, program: str, server: Postgres, root: pathlib.Path, scale: float, runs: int):
        self.program = program
        self.server = server
        self.root = root
        self.scale = scale
        self.runs = runs
        self.results: list[dict] = []
        self.has_duckdb, self.why_no_duckdb = _check([_beside("duckdb_export.py"), "--check"])
        self.has_pyarrow, self.why_no_pyarrow = _check(["-c", "import pyarrow; print(pyarrow.__version__)"])

    def scaled(self, count: int) -> int:
        return max(1, round(count * self.scale))

    def ratio(self, work: str, beside: str, ours: list[Took], theirs: list[Took], mark: float | None = None,
              aim: float | None = None, facts: int = 0):
        """Their median over ours: above one, bygone is the faster."""
        value = measured.median(theirs) / measured.median(ours)
        self._add(work, beside, "ratio", value, f"{value:.2f} x", _mark(value, mark, aim, least=True, unit=" x"),
                  facts=facts, ours=_runs(ours), theirs=_runs(theirs))

    def memory(self, work: str, ours: list[Took], most: int):
        """The highest peak over runs."""
        value = max(took.peak for took in ours)
        self._add(f"peak memory: {work}", "", "bytes", value, f"{value / MIB:.0f} MiB",
                  _mark(value / MIB, most / MIB, None, least=False, unit=" MiB"))

    def fact_size(self, work: str, capture):
        """What a fact takes in Parquet more than its user columns, written by pyarrow."""
        work = f"bytes per fact, {work}"
        if not self.has_pyarrow:
            self.skip(work, "pyarrow, user columns, zstd", self.why_no_pyarrow)
            return
        scratch = capture.root / "rival.parquet"
        words = [sys.executable, _beside("fact_size.py"), str(scratch), *map(str, capture.fact_files())]
        found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        facts = found["facts"]
        per_fact = {name: size / facts for name, size in found["columns"].items()}
        ours, theirs = found["history"] / facts, found["rival"] / facts
        system = {name: size for name, size in per_fact.items() if name.startswith("_")}
        self._add(work, "pyarrow, user columns, zstd", "ratio", theirs / ours, f"{theirs / ours:.2f} x", "",
                  facts=facts, ours_bytes=ours, theirs_bytes=theirs)
        self._add(f"{work}: more than the rival", "", "bytes", ours - theirs, f"{ours - theirs:.1f} bytes",
                  _mark(ours - theirs, SYSTEM_BYTES_MARK, None, least=False, unit=" bytes"))
        dearest = sorted(per_fact.items(), key=lambda item: -item[1])[:DEAREST_COLUMNS]
        self._add(f"{work}: system columns", "", "bytes", sum(system.values()), f"{sum(system.values()):.1f} bytes",
                  _mark(sum(system.values()), SYSTEM_BYTES_MARK, None, least=False, unit=" bytes"),
                  columns=per_fact, ours_bytes=ours,
                  remark=_listed(sorted(system.items(), key=lambda item: -item[1])[:DEAREST_COLUMNS]))
        self._add(f"{work}: whole fact", "", "bytes", ours, f"{ours:.1f} bytes", "", remark=_listed(dearest))

    def state_size(self, work: str, capture):
        """The state directory against the table's own storage."""
        table = int(self.server.ask(capture.database, "select pg_table_size('orders')"))
        state = capture.state_bytes()
        self._add(f"state directory after {work}", "the table's heap", "ratio", state / table, f"{state / table:.2f} x",
                  _mark(state / table, 1.0, None, least=False, unit=" x"),
                  remark=f"{state / MIB:.0f} of {table / MIB:.0f} MiB")

    def latency(self, work: str, waits: list[float]):
        ordered = sorted(waits)
        points = {name: ordered[max(0, math.ceil(len(ordered) * part) - 1)] * 1000
                  for name, part in (("p50", 0.5), ("p99", 0.99), ("most", 1.0))}
        for name in ("p50", "p99"):
            self._add(f"{work}: {name}", "", "ms", points[name], f"{points[name]:.0f} ms", "",
                      samples=len(waits), most=points["most"])

    def is_whole(self) -> bool:
        return self.scale >= 1

    def at_most(self, work: str, beside: str, ratio: float, mark: float | None, remark: str = ""):
        """What it takes, as a multiple of what it stands beside."""
        self._add(work, beside, "ratio", ratio, f"{ratio:.2f} x", _mark(ratio, mark, None, least=False, unit=" x"), remark=remark)

    def at_most_ms(self, work: str, value: float, mark: float, remark: str = ""):
        self._add(work, "", "ms", value, f"{value:.0f} ms" if value >= 10 else f"{value:.2f} ms", _mark(value, mark, None, least=False, unit=" ms"), remark=remark)

    def skip(self, work: str, beside: str, why: str):
        self._add(work, beside, "skipped", None, "skipped", "", remark=why)

    def _add(self, work: str, beside: str, unit: str, value: float | None, shown: str, mark: str, **more):
        self.results.append({"work": work, "beside": beside, "unit": unit, "value": value, "shown": shown, "mark": mark, **more})

    def table(self) -> str:
        """All results, a line each. Seconds are those on the clock, then (processor time of the program + of the server for it)."""
        lines = [("work", "beside", "result", "mark", "bygone s", "beside s")]
        for result in self.results:
            lines.append((result["work"], result["beside"], result["shown"], result["mark"],
                          _seconds(result.get("ours")), _seconds(result.get("theirs"))))
        widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
        rows = []
        for line, result in zip(lines, [{}, *self.results]):
            rows.append("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
            if result.get("remark"):
                rows.append(f"    {result['remark']}")
        return "\n".join(rows)

    def write(self, path: pathlib.Path, about: dict):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(about | {"results": self.results}, indent=1) + "\n")


def _beside(name: str) -> str:
    return str(pathlib.Path(__file__).with_name(name))


def _check(words: list[str]) -> tuple[bool, str]:
    """Whether a Python program runs, and if not, why not."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    return done.returncode == 0, (done.stderr.strip().splitlines() or ["?"])[-1] if done.returncode else ""


def _mark(value: float, must: float | None, aim: float | None, least: bool, unit: str) -> str:
    wanted = must if must is not None else aim
    if wanted is None:
        return ""
    reached = value >= wanted if least else value <= wanted
    word = "" if must is not None else "aim: "
    bound = "at least" if least else "at most"
    return f"{word}{bound} {wanted:g}{unit}: {'reached' if reached else 'MISSED'}"


def _runs(runs: list[Took]) -> list[dict]:
    return [vars(took) for took in runs]


def _seconds(runs: list[dict] | None) -> str:
    if not runs:
        return ""
    wall, cpu, server = (statistics.median(run[of] for run in runs) for of in ("wall", "cpu", "server"))
    return f"{wall:.2f} ({cpu:.2f} + {server:.2f})"


def _listed(columns: list[tuple[str, float]]) -> str:
    return "dearest: " + ", ".join(f"{name} {size:.2f}" for name, size in columns)
