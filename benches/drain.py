"""How fast a backlog is drained, beside pg_recvlogical on a copy of the slot."""
from __future__ import annotations

import source_tables
from capture import Capture, Recvlogical
from report import Bench, note

CHANGES = 900_000
WIDE_CHANGES = 300_000
ROWS_OF_ONE_TRANSACTION = 1_000_000
MOST_MEMORY = 512 << 20

SPEED_MARK = 1.0


def measure(bench: Bench, capture: Capture, subject: str, load: str, discard: bool = False, mark: float = SPEED_MARK):
    """Loads a backlog and drains it in turn with the rival; `load` ends with the number of row changes that it made."""
    server, database = bench.server, capture.database
    capture.keep()
    note(f"{subject}: loading")
    said = server.ask(database, "set synchronous_commit = off", load)
    changes = int(said.split()[-1])
    # Flushes what the asynchronous commits left, and gives both readers the same end.
    server.ask(database, "create table flushed ()", "checkpoint")
    end = server.ask(database, "select pg_current_wal_lsn()")
    recvlogical = Recvlogical(capture)
    theirs, ours, nulls = [], [], []
    for turn in range(bench.runs):
        theirs.append(recvlogical.run(end))
        if discard:
            capture.put_back()
            nulls.append(capture.run("--discard"))
        capture.put_back()
        ours.append(capture.run())
        facts = capture.facts()
        if facts != changes:
            raise SystemExit(f"bench: {subject}: {facts} facts for {changes} changes: this is a bug")
        note(f"{subject}: run {turn + 1}: pg_recvlogical {theirs[-1].wall:.2f} s, bygone {ours[-1].wall:.2f} s"
             + (f", without writing {nulls[-1].wall:.2f} s" if discard else ""))
    bench.ratio(subject, "pg_recvlogical", ours, theirs, mark=mark, facts=changes)
    if discard:
        bench.ratio(f"{subject}, null sink", "pg_recvlogical", nulls, theirs, facts=changes)
    bench.memory(subject, ours, most=MOST_MEMORY)


def orders(bench: Bench):
    """Small transactions on a table of 14 columns."""
    capture = _prepare(bench, "drain", source_tables.ORDERS + source_tables.TRANSACTIONS)
    wanted = bench.scaled(CHANGES)
    measure(bench, capture, f"drain, {wanted:,} changes", f"call work({wanted}, null)", discard=True)
    bench.fact_size("a drain", capture)
    bench.state_size("a drain", capture)
    bench.server.drop(capture.database)


def wide(bench: Bench):
    """The same on a table of 30 columns of all kinds."""
    capture = _prepare(bench, "wide", source_tables.WIDE + source_tables.TRANSACTIONS)
    wanted = bench.scaled(WIDE_CHANGES)
    measure(bench, capture, f"wide drain, {wanted:,} changes", f"call work({wanted}, null)", discard=True)
    bench.fact_size("a wide drain", capture)
    bench.server.drop(capture.database)


def one_transaction(bench: Bench):
    """A transaction larger than the memory that it may take."""
    capture = _prepare(bench, "transaction", source_tables.ORDERS)
    rows = bench.scaled(ROWS_OF_ONE_TRANSACTION)
    load = f"with filled as ({source_tables.FILL.format(rows=rows)} returning 1) select count(*) from filled"
    measure(bench, capture, f"one transaction, {rows:,} rows", load)
    bench.server.drop(capture.database)


def _prepare(bench: Bench, database: str, ddl: str) -> Capture:
    bench.server.create(database)
    bench.server.ask(database, ddl)
    return Capture(bench.program, bench.server, database, bench.root)
