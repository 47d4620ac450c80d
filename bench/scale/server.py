"""The PostgreSQL that a laboratory uses: its own or a given one, and what the kernel says of its processes."""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

# What one would set on a machine of this size; the rest are the server's own defaults. Durable: every commit is synced.
SETTINGS = {
    "shared_buffers": "2GB",
    "effective_cache_size": "8GB",
    "work_mem": "16MB",
    "maintenance_work_mem": "1GB",
    "max_wal_size": "4GB",
    "wal_level": "replica",
    "random_page_cost": "1.1",
    "fsync": "on",
    "autovacuum_naptime": "1min",
}
_TESTS = Path(__file__).resolve().parents[2] / "tests"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class LabServer:
    """A PostgreSQL server; `pid` is its first process where that runs on this machine, else None."""

    url: str
    settings: str
    pid: int | None
    is_own: bool = False

    def rows(self, statement: str, *values: object, url: str | None = None) -> list[tuple[Any, ...]]:
        """What the statement gives, run in the database of `url`, outside any transaction."""
        with psycopg.connect(url or self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self, name: str, *, stays: bool) -> Iterator[str]:
        """The URL of a database beside the server's own, made when missing, dropped afterwards unless it stays."""
        whole = f"{self._name()}_{name}" if stays else f"{self._name()}_{name}_{secrets.token_hex(4)}"
        quoted = sql.Identifier(whole)
        with psycopg.connect(self.url, autocommit=True) as connection:
            is_there = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (whole,)).fetchone()
            if is_there is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(quoted))
        try:
            yield self._beside(whole)
        finally:
            if not stays:
                with psycopg.connect(self.url, autocommit=True) as connection:
                    connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(quoted))

    def cpu_seconds(self) -> float:
        """User and system time of all its processes so far; 0 where they cannot be seen."""
        if self.pid is None:
            return 0.0
        gone = _times(self.pid)[2:]
        return (sum(sum(_times(each)[:2]) for each in (self.pid, *_children(self.pid))) + sum(gone)) / _TICKS

    def memory_mb(self) -> float | None:
        """Resident memory of all its processes, what they share counted once, in MB of 10^6 bytes."""
        if self.pid is None:
            return None
        return sum(proportional_mb(each) for each in (self.pid, *_children(self.pid)))

    def _beside(self, name: str) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}/{name}" + (f"?{parts.query}" if parts.query else "")

    def _name(self) -> str:
        return urlsplit(self.url).path.lstrip("/") or "polymem"


@contextmanager
def lab_server(url: str | None) -> Iterator[LabServer]:
    """The server at the URL, or without one a server of our own that is gone with its data afterwards."""
    with ExitStack() as stack:
        if url is not None:
            yield LabServer(url, "as given", _pid_behind(url))
            return
        if str(_TESTS) not in sys.path:
            sys.path.append(str(_TESTS))
        from postgres import running_postgres  # noqa: PLC0415 - of the tests, whose folder is on the path only now

        own = stack.enter_context(running_postgres(**SETTINGS))
        assert own.process is not None  # noqa: S101 - for the type checker: it runs
        told = ", ".join(f"{name} {value}" for name, value in SETTINGS.items())
        yield LabServer(own.url("postgres"), told, own.process.pid, is_own=True)


def _pid_behind(url: str) -> int | None:
    """The first process of the server at the URL when it is reached through a socket of this machine."""
    with psycopg.connect(url) as connection:
        if not connection.info.host.startswith("/"):
            return None
        backend = connection.info.backend_pid
        try:
            fields = Path(f"/proc/{backend}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except FileNotFoundError:
            return None
        return int(fields[1])


def proportional_mb(pid: int | str) -> float:
    """Resident memory of a process, of what it shares its share, in MB of 10^6 bytes; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def _times(pid: int) -> tuple[int, int, int, int]:
    """Clock ticks: user and system time, its own and that of its ended children."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return (0, 0, 0, 0)
    fields = stat.rpartition(")")[2].split()
    user, system, of_user, of_system = (int(each) for each in fields[11:15])
    return (user, system, of_user, of_system)


def _children(pid: int) -> list[int]:
    """The processes that this one started and that still run."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(each) for each in (task / "children").read_text(encoding="ascii").split()]
    return found
