"""A throw-away PostgreSQL, and psql."""
from __future__ import annotations

import dataclasses
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import time

import measured
from measured import Took

PREFERRED_VERSION = "15"
SETTINGS = {
    "wal_level": "logical",
    "listen_addresses": "127.0.0.1",
    "max_wal_senders": "12",
    "max_replication_slots": "12",
    "shared_buffers": "256MB",
    "max_wal_size": "16GB",
    # The source's disk is not what is measured, and nothing here has to outlive a crash of the machine.
    "fsync": "off",
    "jit": "off",
    # Nothing may begin by itself in the middle of a run.
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "log_min_error_statement": "fatal",
    "lc_messages": "C",
}


def programs() -> pathlib.Path:
    """The directory of PostgreSQL's programs: $BYGONE_TEST_PG_BIN, version 15, or the newest that there is."""
    given = os.environ.get("BYGONE_TEST_PG_BIN")
    if given:
        return pathlib.Path(given)
    root = pathlib.Path("/usr/lib/postgresql")
    found = [path.name for path in root.iterdir() if (path / "bin/postgres").exists()] if root.exists() else []
    if found:
        best = PREFERRED_VERSION if PREFERRED_VERSION in found else max(found, key=float)
        return root / best / "bin"
    at = shutil.which("postgres")
    if at is None:
        raise SystemExit("bench: there is no PostgreSQL server; run scripts/install postgres")
    return pathlib.Path(at).resolve().parent


class Postgres:
    """A running cluster, `with Postgres(directory) as server`. It listens on loopback and asks nobody for a password."""

    def __init__(self, root: pathlib.Path):
        self.bin = programs()
        self.root = root / "postgres"
        self.log = root / "postgres.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.server: subprocess.Popen | None = None

    def __enter__(self) -> Postgres:
        self.root.mkdir()
        # PostgreSQL refuses to run as root.
        self.become = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.root, user.pw_uid, user.pw_gid)
            self.become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
        data = self.root / "data"
        made = subprocess.run([*self.become, str(self.bin / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust",
                               "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"], capture_output=True, text=True, cwd="/")
        if made.returncode:
            raise SystemExit(f"bench: initdb failed:\n{made.stdout}{made.stderr}")
        settings = SETTINGS | {"port": str(self.port), "unix_socket_directories": str(self.root)}
        with open(data / "postgresql.auto.conf", "a", encoding="utf-8") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        with open(self.log, "ab") as log:
            # However the benchmark ends, the kernel stops the server.
            orphaned = self.become or ["setpriv"]
            self.server = subprocess.Popen([*orphaned, "--pdeathsig", "QUIT", str(self.bin / "postgres"), "-D", str(data)],
                                           stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
        for _ in range(600):
            if self.server.poll() is not None:
                break
            if subprocess.run([str(self.bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]).returncode == 0:
                return self
            time.sleep(0.1)
        self.__exit__()
        raise SystemExit(f"bench: PostgreSQL does not start:\n{self.log.read_text(errors='replace')[-2000:]}")

    def __exit__(self, *_):
        if self.server is not None and self.server.poll() is None:
            self.server.send_signal(signal.SIGINT)
            try:
                self.server.wait(60)
            except subprocess.TimeoutExpired:
                self.server.send_signal(signal.SIGQUIT)
                self.server.wait(60)
        shutil.rmtree(self.root, ignore_errors=True)

    def measure(self, command: list[str], log: pathlib.Path, env: dict | None = None) -> Took:
        """Runs a program that works with this server; what its connections cost the server is counted too."""
        idle = self._children()
        before = self._spent()
        took = measured.run(command, log, env=env)
        # The server may need a moment to see that a connection has gone; what a process has spent is known once it has ended.
        for _ in range(200):
            if self._children() <= idle:
                break
            time.sleep(0.05)
        else:
            raise RuntimeError("a connection outlives its program")
        return dataclasses.replace(took, server=self._spent() - before)

    def _children(self) -> set[str]:
        """Processes of the server: one for each connection, and some that are always there."""
        pid = self.server.pid
        return set(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    def _spent(self) -> float:
        """Seconds of processor time of all the server's processes that have ended."""
        fields = pathlib.Path(f"/proc/{self.server.pid}/stat").read_text().rpartition(")")[2].split()
        # cutime and cstime; the state is field 3 of the manual page and the first here.
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")

    def version(self) -> str:
        return self.ask("postgres", "show server_version")

    def url(self, database: str) -> str:
        return f"postgres://postgres@127.0.0.1:{self.port}/{database}"

    def parameters(self, database: str) -> str:
        """The same as libpq's key=value string."""
        return f"host=127.0.0.1 port={self.port} user=postgres dbname={database}"

    def psql(self, database: str, *more: str) -> list[str]:
        """A psql command that stops at the first error and prints bare values."""
        return [str(self.bin / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", self.url(database), *more]

    def ask(self, database: str, *statements: str) -> str:
        """Runs statements in one session, each in a transaction of its own; returns what they print."""
        words = [word for statement in statements for word in ("-c", statement)]
        done = subprocess.run(self.psql(database, *words), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"psql: {done.stderr}\n{statements}")
        return done.stdout.strip()

    def create(self, database: str):
        self.ask("postgres", f"create database {database}")

    def drop(self, database: str):
        """Gives disk and WAL back before the next subject."""
        slots = f"select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = '{database}'"
        self.ask("postgres", slots, f"drop database {database}", "checkpoint")
