"""Facts as rows in PostgreSQL: how fast a backlog becomes rows, and how long questions about the past take there."""
from __future__ import annotations

import statistics
import subprocess

import past
import source_tables
from capture import NAME, TABLE, Capture, Recvlogical
from report import Bench, note

CHANGES = 900_000
MARK = 0.5
ROWS = 100_000
VERSIONS = 100
AS_OF_MARK = 3.0
ONE_MARK = 1.0
ALL = "id, customer, status, total, note, quantity, changed, paid"
BOTH = "rows and files"


class Rows(Capture):
    """A capture whose facts are rows of another database, with files beside them or alone."""

    def __init__(self, bench: Bench, database: str, files: bool):
        super().__init__(bench.program, bench.server, database, bench.root)
        self.files = files
        self.target = f"{database}_facts"
        self.kept_target = f"{self.target}_kept"

    def command(self, *more: str) -> list[str]:
        files = ["--history", str(self.history)] if self.files else []
        return [self.program, "run", "--quiet", "--source", self.server.url(self.database), "--name", NAME, "--table", self.tables,
                "--facts", self.server.url(self.target), *files, "--state", str(self.state), *more]

    def keep(self):
        self.history.mkdir(exist_ok=True)
        self.server.create(self.target)
        super().keep()
        self._copy(self.target, self.kept_target)

    def put_back(self):
        super().put_back()
        self.server.drop(self.target)
        self._copy(self.kept_target, self.target)

    def _copy(self, database: str, to: str):
        self.server.ask("postgres", f"create database {to} template {database}")

    def facts(self) -> int:
        return int(self.server.ask(self.target, f"select count(*) from bygone.{TABLE.removeprefix('public.')}_history"))


def orders(bench: Bench):
    """A backlog of small transactions."""
    wanted = bench.scaled(CHANGES)
    for files in (False, True):
        subject = f"{BOTH if files else 'rows alone'}, {wanted:,} changes"
        database = "with_files" if files else "rows_alone"
        bench.server.create(database)
        bench.server.ask(database, source_tables.ORDERS + source_tables.TRANSACTIONS)
        drain(bench, Rows(bench, database, files), subject, wanted)
    asked(bench)


def drain(bench: Bench, capture: Rows, subject: str, wanted: int):
    server, database = bench.server, capture.database
    capture.keep()
    note(f"{subject}: loading")
    changes = int(server.ask(database, "set synchronous_commit = off", f"call work({wanted}, null)").split()[-1])
    server.ask(database, "create table flushed ()", "checkpoint")
    end = server.ask(database, "select pg_current_wal_lsn()")
    recvlogical = Recvlogical(capture)
    theirs, ours = [], []
    for turn in range(bench.runs):
        theirs.append(recvlogical.run(end))
        capture.put_back()
        ours.append(capture.run())
        facts = capture.facts()
        if facts != changes:
            raise SystemExit(f"bench: {subject}: {facts} facts for {changes} changes: this is a bug")
        note(f"{subject}: run {turn + 1}: pg_recvlogical {theirs[-1].wall:.2f} s, bygone {ours[-1].wall:.2f} s")
    bench.ratio(subject, "pg_recvlogical", ours, theirs, mark=MARK, facts=changes)
    capture.detach()
    for name in (capture.target, capture.kept_target, database):
        server.drop(name)


def asked(bench: Bench):
    """The past of a table with many versions of each row, asked in PostgreSQL."""
    server, database, target = bench.server, "past_rows", "past_facts"
    rows = bench.scaled(ROWS)
    subject = f"{rows:,} rows with {VERSIONS} versions each"
    server.create(database)
    server.create(target)
    server.ask(database, past.TABLE.format(rows=rows), "vacuum (freeze, analyze) orders", "checkpoint")
    capture = Capture(bench.program, server, database, bench.root)
    capture.run()
    note(f"{subject}: changing rows")
    past.changing(bench, database, rows, VERSIONS)
    capture.run("--no-slabs", "--no-index", "--no-compact")
    note(f"{subject}: becoming rows")
    words = [bench.program, "backfill-facts", "--history", str(capture.history), "--facts", server.url(target)]
    if not bench.is_whole():
        words += ["--slab-rows", str(rows)]
    made = server.measure(words, capture.log, env=capture.env)
    server.ask(target, "vacuum (freeze, analyze)", "checkpoint")
    # The table that is scanned beside is as wide as it was, and as dense as a table can be.
    server.ask(database, "vacuum (full, freeze, analyze) orders")
    slabs = int(server.ask(target, "select count(*) from bygone.slabs"))
    moments = server.ask(target, "select begins + (ends - begins) * 0.7 from (select *, row_number() over (order by begins) as n from bygone.slabs) s "
                                 f"where n in ({slabs // 4}, {slabs // 2}, {slabs - 1})").split("\n")
    sums = f"select count(*), sum(hashtext(row({ALL})::text)) from "
    scan = times(bench, database, {"scan": f"{sums} orders"})["scan"]
    questions = {f"in slab {at}": f"{sums} bygone.orders_as_of('{moment}'::timestamptz)" for at, moment in enumerate(moments)}
    questions |= {
        "now": f"{sums} bygone.orders",
        "one": f"select {ALL} from bygone.orders_as_of('{moments[1]}'::timestamptz) where id = {rows // 2}",
        "history": f"select * from bygone.orders_timeline where _entity_id = '{rows // 2}'",
    }
    took = times(bench, target, questions)
    ratios = [took[name] / scan for name in questions if name.startswith("in slab")]
    bench.at_most(f"orders_as_of(t) in PostgreSQL, {subject}", "PostgreSQL's scan of the table", max(ratios), AS_OF_MARK,
                  remark=f"{min(ratios):.2f} to {max(ratios):.2f} x of {scan * 1000:.0f} ms, {slabs} slabs; made of files in {made.wall:.0f} s")
    bench.at_most("the table as it is, from its facts", "the same", took["now"] / scan, None)
    bench.at_most_ms("orders_as_of(t) of one row", took["one"] * 1000, ONE_MARK)
    bench.at_most_ms(f"all {VERSIONS} versions of one row", took["history"] * 1000, ONE_MARK)
    capture.detach()
    for name in (target, database):
        server.drop(name)


def times(bench: Bench, database: str, questions: dict[str, str]) -> dict[str, float]:
    """Seconds as psql measures them, without the start of a session; the first run of each does not count."""
    script = "\\timing on\n" + "".join(f"\\echo {name}\n{question};\n" for name, question in questions.items() for _ in range(2 * bench.runs + 2))
    told = subprocess.run(bench.server.psql(database), input=script, capture_output=True, text=True, check=True).stdout
    took: dict[str, list[float]] = {name: [] for name in questions}
    name = ""
    for line in told.splitlines():
        if line in took:
            name = line
        elif line.startswith("Time: "):
            took[name].append(float(line.split()[1]) / 1000)
    return {name: statistics.median(all[1:]) for name, all in took.items()}
