"""Facts as rows in PostgreSQL: how fast a backlog becomes rows, and how long questions about the past take there."""
from __future__ import annotations

import pathlib

import source_tables
from capture import NAME, TABLE, Capture, Recvlogical
from report import Bench, note

CHANGES = 900_000
MARK = 0.5
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
