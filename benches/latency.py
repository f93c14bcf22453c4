"""How long after a COMMIT has returned its facts are durable, on an idle system."""
from __future__ import annotations

import json
import pathlib
import random
import subprocess
import time

import source_tables
from capture import NAME, TABLE, Capture
from report import Bench, note

COMMIT_INTERVAL = "200ms"
SAMPLES = 200
SEED = 1
# Seconds between samples: more than the interval, so that each commit meets an idle capture.
PAUSE = (0.25, 0.5)
LOOK_EVERY = 0.001
PATIENCE = 30


class Session:
    """A psql that stays: a statement costs a round trip, and no start of a program."""

    def __init__(self, command: list[str]):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, statement: str) -> str:
        """Runs a statement that returns one value."""
        self.process.stdin.write(statement + ";\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("psql has ended")
        return line.strip()

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)


class Log:
    """The log of a history, followed as it grows."""

    def __init__(self, history: pathlib.Path):
        self.directory = history / "log"
        self.seq = max(int(path.stem) for path in self.directory.glob("*.json"))

    def wait_for_facts(self) -> float:
        """Returns the moment at which the next commit with facts of the table was first seen."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            path = self.directory / f"{self.seq + 1:020d}.json"
            if not path.exists():
                time.sleep(LOOK_EVERY)
                continue
            seen = time.monotonic()
            self.seq += 1
            if any(add["table"] == TABLE for add in json.loads(path.read_text())["add"]):
                return seen
        raise SystemExit(f"bench: a commit of the source was not durable within {PATIENCE} s")


def orders(bench: Bench):
    server, database = bench.server, "latency"
    samples = bench.scaled(SAMPLES)
    subject = f"commit to durable, --commit-interval {COMMIT_INTERVAL}"
    server.create(database)
    server.ask(database, source_tables.ORDERS)
    capture = Capture(bench.program, server, database, bench.root)
    capture.run()
    follower = subprocess.Popen(capture.command("--commit-interval", COMMIT_INTERVAL), stdin=subprocess.DEVNULL,
                                stderr=open(capture.log, "ab"), env=capture.env)
    chance = random.Random(SEED)
    session = Session(server.psql(database))
    waits = []
    try:
        slot = f"select active from pg_replication_slots where slot_name = '{NAME}'"
        while session.ask(slot) != "t":
            time.sleep(0.1)
        log = Log(capture.history)
        # The first one pays for what is only done once.
        for sample in range(samples + 1):
            time.sleep(chance.uniform(*PAUSE))
            # psql prints the value once the server is ready for the next statement: after the commit.
            session.ask(f"insert into orders select * from order_row({sample}) returning id")
            committed = time.monotonic()
            waits.append(log.wait_for_facts() - committed)
    finally:
        session.close()
        follower.terminate()
        status = follower.wait(60)
    if status:
        raise SystemExit(f"bench: {subject}: bygone ended with {status}; see {capture.log}")
    note(f"{subject}: {samples} samples")
    bench.latency(subject, waits[1:])
    capture.detach()
    server.drop(database)
