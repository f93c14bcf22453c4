"""bygone at work on one database, as a user runs it, and put back to where it stood for the next run."""
from __future__ import annotations

import json
import os
import pathlib
import shutil

from measured import Took
from postgres import Postgres

NAME = "bench"
TABLE = "public.orders"


class Capture:
    """A history and a state directory for one database, with everything that has to be put back between runs."""

    def __init__(self, program: str, server: Postgres, database: str, root: pathlib.Path):
        self.program = program
        self.server = server
        self.database = database
        self.root = root / database
        self.root.mkdir()
        self.history = self.root / "history"
        self.state = self.root / "state"
        self.tables = TABLE
        self.log = self.root / "bygone.log"
        # Nothing in the surroundings may change what is measured.
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "BYGONE_"))}

    def command(self, *more: str) -> list[str]:
        return [self.program, "run", "--quiet", "--source", self.server.url(self.database), "--name", NAME, "--table", self.tables,
                "--history", str(self.history), "--state", str(self.state), *more]

    def run(self, *more: str) -> Took:
        """One `bygone run --until-current`."""
        return self.server.measure(self.command("--until-current", *more), self.log, env=self.env)

    def detach(self):
        """Removes slot and publications, history and state: the next run begins with a snapshot."""
        self.server.measure([self.program, "detach", "--quiet", "--source", self.server.url(self.database), "--name", NAME],
                            self.log, env=self.env)
        for directory in (self.history, self.state):
            shutil.rmtree(directory, ignore_errors=True)

    def keep(self):
        """Attaches, and keeps what then stands, the slot included, as the place where each drain begins."""
        self.run()
        for directory in (self.history, self.state):
            shutil.copytree(directory, self._kept(directory))
        self.server.ask(self.database, f"select pg_copy_logical_replication_slot('{NAME}', 'keeper')")

    def put_back(self):
        """Slot, history and state as [`keep`] found them."""
        self.server.ask(self.database, f"select pg_drop_replication_slot('{NAME}')",
                        f"select pg_copy_logical_replication_slot('keeper', '{NAME}')")
        for directory in (self.history, self.state):
            shutil.rmtree(directory)
            shutil.copytree(self._kept(directory), directory)

    def _kept(self, directory: pathlib.Path) -> pathlib.Path:
        return self.root / f"kept-{directory.name}"

    def facts(self) -> int:
        """Facts of the table that the log names."""
        return sum(add["rows"] for commit in self.commits() for add in commit["add"] if add["table"] == TABLE)

    def fact_files(self) -> list[pathlib.Path]:
        return [self.history / add["path"] for commit in self.commits() for add in commit["add"] if add["table"] == TABLE]

    def commits(self) -> list[dict]:
        return [json.loads(path.read_text()) for path in sorted((self.history / "log").glob("*.json"))]

    def state_bytes(self) -> int:
        """What the state directory takes on disk."""
        return sum(path.stat().st_blocks * 512 for path in self.state.rglob("*") if path.is_file())


class Recvlogical:
    """PostgreSQL's own reader of slots, writing to nowhere: how fast a stream can be had without doing anything with it."""

    def __init__(self, capture: Capture):
        self.capture = capture
        self.server = capture.server
        self.database = capture.database
        publications = self.server.ask(self.database, "select string_agg(quote_ident(pubname), ',') from pg_publication")
        self.options = ["-o", "proto_version=1", "-o", f"publication_names={publications}"]

    def run(self, end: str) -> Took:
        """Reads a copy of the kept slot up to the LSN `end`."""
        self.server.ask(self.database, "select pg_copy_logical_replication_slot('keeper', 'rival')")
        took = self.server.measure([str(self.server.bin / "pg_recvlogical"), "-d", self.server.parameters(self.database), "-S", "rival",
                                    "--start", "--endpos", end, "-f", "/dev/null", *self.options], self.capture.log)
        self.server.ask(self.database, "select pg_drop_replication_slot('rival')")
        return took
