"""Facts as rows in PostgreSQL: how fast a backlog becomes rows, and how long questions about the past take there."""
from __future__ import annotations

import by_psql
import drain
import past
import source_tables
from capture import NAME, TABLE, Capture
from report import Bench, note

CHANGES = 900_000
MARK = 0.5
ROWS = 100_000
VERSIONS = 100
AS_OF_MARK = 3.0
ONE_MARK = 1.0
ALL = "id, customer, status, total, note, quantity, changed, paid"


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
        database, what = ("with_files", "rows and files") if files else ("rows_alone", "rows alone")
        subject = f"{what}, {wanted:,} changes"
        bench.server.create(database)
        bench.server.ask(database, source_tables.ORDERS + source_tables.TRANSACTIONS)
        capture = Rows(bench, database, files)
        drain.measure(bench, capture, subject, f"call work({wanted}, null)", mark=MARK)
        capture.detach()
        for name in (capture.target, capture.kept_target, database):
            bench.server.drop(name)
    asked(bench)


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
    runs = 2 * bench.runs + 1
    scan = by_psql.medians(server.psql(database), {"scan": f"{sums} orders"}, runs)["scan"]
    questions = {f"in slab {at}": f"{sums} bygone.orders_as_of('{moment}'::timestamptz)" for at, moment in enumerate(moments)}
    questions |= {
        "now": f"{sums} bygone.orders",
        "one": f"select {ALL} from bygone.orders_as_of('{moments[1]}'::timestamptz) where id = {rows // 2}",
        "history": f"select * from bygone.orders_timeline where _entity_id = '{rows // 2}'",
    }
    took = by_psql.medians(server.psql(target), questions, runs)
    ratios = [took[name] / scan for name in questions if name.startswith("in slab")]
    bench.at_most(f"orders_as_of(t) in PostgreSQL, {subject}", "PostgreSQL's scan of the table", max(ratios), AS_OF_MARK,
                  remark=f"{min(ratios):.2f} to {max(ratios):.2f} x of {scan * 1000:.0f} ms, {slabs} slabs; made of files in {made.wall:.0f} s")
    bench.at_most("the table as it is, from its facts", "the same", took["now"] / scan, None)
    bench.at_most_ms("orders_as_of(t) of one row", took["one"] * 1000, ONE_MARK)
    bench.at_most_ms(f"all {VERSIONS} versions of one row", took["history"] * 1000, ONE_MARK)
    capture.detach()
    for name in (target, database):
        server.drop(name)
