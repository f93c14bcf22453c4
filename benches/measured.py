"""Runs a program, and says what it took."""
from __future__ import annotations

import dataclasses
import os
import pathlib
import statistics
import subprocess
import time


@dataclasses.dataclass(frozen=True)
class Took:
    """What one run of a program took."""

    wall: float
    """Seconds from its start to its end."""
    cpu: float
    """Seconds of processor time, user and system, of the program itself: a server that works for it is not in it."""
    peak: int
    """Bytes of memory that it held at its peak (the kernel's ru_maxrss)."""
    server: float = 0.0
    """Seconds of processor time that the server spent on its connections."""


class Failed(Exception):
    """A program ended with an error. Its last words are in the message."""


def run(command: list[str], log: pathlib.Path, timeout: float = 1800, env: dict | None = None) -> Took:
    """Runs a program to its end, its output appended to `log`."""
    with open(log, "ab") as out:
        out.write(f"--- {' '.join(command)}\n".encode())
        out.flush()
        began = time.monotonic()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env)
        try:
            status, usage = _wait(child, timeout)
        except BaseException:
            child.kill()
            child.wait()
            raise
        wall = time.monotonic() - began
    if status:
        tail = log.read_bytes()[-2000:].decode(errors="replace")
        raise Failed(f"{command[0]} ended with {status}:\n{tail}")
    # Between fork and exec a child counts as large as its parent. This process stays small for that reason: whatever needs
    # pyarrow or DuckDB is a program of its own.
    return Took(wall=wall, cpu=usage.ru_utime + usage.ru_stime, peak=usage.ru_maxrss * 1024)


def _wait(child: subprocess.Popen, timeout: float):
    """wait4 with an end. Looks a hundred times a second, which is fine beside seconds and costs nothing."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode, usage
        time.sleep(0.01)
    raise Failed(f"{child.args[0]} did not end within {timeout:.0f} s")


def median(runs: list[Took], of: str = "wall") -> float:
    """The median over runs of one of the fields."""
    return statistics.median(getattr(took, of) for took in runs)
