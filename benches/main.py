"""Measures bygone beside what else does such work, on a throw-away PostgreSQL. `make bench` runs it.

usage: main.py [--bygone PROGRAM] [--json FILE] [SUBJECT...]

SCALE makes everything smaller (0.1: a tenth), RUNS is how often each is measured (3; the median counts).
"""
from __future__ import annotations

import argparse
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import day
import drain
import facts
import latency
import limits
import load
import past
import snapshot
from postgres import Postgres
from report import Bench, note

SUBJECTS = {
    "drain": drain.orders,
    "snapshot": snapshot.orders,
    "transaction": drain.one_transaction,
    "wide": drain.wide,
    "latency": latency.orders,
    "past": past.orders,
    "facts": facts.orders,
    "load": load.pgbench,
}
# Only when they are named.
OTHERS = {"limits": limits.orders, "day": day.fast_motion}
RUNS = 3


def main():
    parser = argparse.ArgumentParser(description="Measures bygone.", epilog=f"subjects: {', '.join(SUBJECTS)}; when named: {', '.join(OTHERS)}")
    parser.add_argument("--bygone", required=True, metavar="PROGRAM", help="the program to measure")
    parser.add_argument("--json", required=True, metavar="FILE", help="where the results go")
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help="what to measure (default: all)")
    arguments = parser.parse_args()
    unknown = set(arguments.subjects) - set(SUBJECTS | OTHERS)
    if unknown:
        parser.error(f"no such subject: {', '.join(sorted(unknown))}")
    scale = float(os.environ.get("SCALE", "1"))
    runs = int(os.environ.get("RUNS", RUNS))
    # A polite end takes the server and the scratch directory with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    root = pathlib.Path(tempfile.mkdtemp(prefix="bygone-bench-"))
    # The server's user has to pass through.
    root.chmod(0o755)
    try:
        with Postgres(root) as server:
            bench = Bench(str(pathlib.Path(arguments.bygone).resolve()), server, root, scale, runs)
            about = surroundings(bench)
            note(f"{about['cores']} cores, PostgreSQL {about['postgres']}, load {about['load_before']:.1f}, scale {scale:g}")
            for name in arguments.subjects or SUBJECTS:
                (SUBJECTS | OTHERS)[name](bench)
            about["load_after"] = os.getloadavg()[0]
            bench.write(pathlib.Path(arguments.json), about)
            print(bench.table())
            print(f"\nmedians of {runs}, scale {scale:g}, {about['cores']} cores, PostgreSQL {about['postgres']}, bygone "
                  f"{about['commit']}; other work on the machine: load {about['load_before']:.1f} at the start")
            print("seconds are those on the clock, then (processor time of the program + of the server's connections)")
            print(f"the same as JSON: {arguments.json}")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def surroundings(bench: Bench) -> dict:
    here = pathlib.Path(__file__).parent
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit.stdout.strip() or "unknown",
        "scale": bench.scale,
        "runs": bench.runs,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "postgres": bench.server.version(),
        "load_before": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
