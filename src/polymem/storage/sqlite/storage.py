"""The embedded storage as the `Storage` port: one data directory, one SQLite file in it."""

import asyncio
import os
import sqlite3
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from polymem.domain.model import TenantId
from polymem.errors import StorageDamaged, StorageFull, StorageReadOnly, StorageUnavailable
from polymem.ports.storage import Finding
from polymem.storage.copies import UNFINISHED_COPY
from polymem.storage.rows import microseconds
from polymem.storage.sqlite.buckets import SqliteBuckets
from polymem.storage.sqlite.check import check
from polymem.storage.sqlite.connection import Database
from polymem.storage.sqlite.daily import SqliteDailyQueries
from polymem.storage.sqlite.directory import SqliteDirectory
from polymem.storage.sqlite.index_snapshots import Snapshots, known_stamp
from polymem.storage.sqlite.jobs import SqliteJobQueue, end_leases
from polymem.storage.sqlite.lock import DirectoryLock, directory_error
from polymem.storage.sqlite.memories import SqliteTenantStore
from polymem.storage.sqlite.purge import purge
from polymem.storage.sqlite.search import SqliteSearch
from polymem.storage.sqlite.transaction import next_number
from polymem.storage.sqlite.vectors import VectorIndexes

DATABASE_FILE: Final = "polymem.db"
VECTOR_BYTES: Final = 1 << 30
_PRIVATE: Final = 0o700
_PRIVATE_FILE: Final = 0o600
_FORGOTTEN_PER_UNIT: Final = 1000


class SqliteStorage:
    """One open data directory. Made by `open`."""

    def __init__(self, database: Database, lock: DirectoryLock | None, *, vector_bytes: int) -> None:
        self._database = database
        self._lock = lock
        self._is_closed = False
        self._snapshots = Snapshots(database.path)
        self._vectors = VectorIndexes(database, max_bytes=vector_bytes, snapshots=self._snapshots)
        self._directory = SqliteDirectory(database)
        self._jobs = SqliteJobQueue(database)
        self._buckets = SqliteBuckets(database)
        self._daily_queries = SqliteDailyQueries(database)

    @classmethod
    async def open(
        cls,
        data_dir: Path,
        *,
        owns_directory: bool = True,
        reader_count: int = 4,
        vector_bytes: int = VECTOR_BYTES,
    ) -> "SqliteStorage":
        """The storage in `data_dir`, made when missing and migrated.

        A server owns the directory: raises `DataDirectoryLocked` while another one does. The command line opens
        it with `owns_directory` False, also beside a running server. `vector_bytes` bounds the vectors kept in
        memory. Raises the storage errors.
        """
        lock = await asyncio.to_thread(_prepare, data_dir, owns_directory=owns_directory)
        try:
            database = await Database.open(data_dir / DATABASE_FILE, reader_count=reader_count)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        storage = cls(database, lock, vector_bytes=vector_bytes)
        try:
            await database.read(require_whole)
        except BaseException:
            await storage.close()
            raise
        if owns_directory:
            # The lock proves that no other worker lives: what one held when it died need not wait for its lease.
            await database.write(end_leases)
        return storage

    @property
    def directory(self) -> SqliteDirectory:
        """Tenants, users, keys and plans."""
        return self._directory

    @property
    def jobs(self) -> SqliteJobQueue:
        """The dispatch of jobs."""
        return self._jobs

    @property
    def buckets(self) -> SqliteBuckets:
        """The buckets of the rate limits: this process's own, for no other one serves from the directory."""
        return self._buckets

    @property
    def daily_queries(self) -> SqliteDailyQueries:
        """The queries that tenants used on a day."""
        return self._daily_queries

    def search(self, tenant_id: TenantId) -> SqliteSearch:
        """The index of this tenant."""
        return SqliteSearch(self._database, self._vectors, tenant_id)

    def tenant(self, tenant_id: TenantId) -> SqliteTenantStore:
        """The store bound to this tenant."""
        return SqliteTenantStore(self._database, tenant_id)

    async def ping(self) -> None:
        """A write was committed and read back just now."""
        await self._database.write(lambda connection: next_number(connection, "pings"))
        await self._database.read(lambda connection: connection.execute("SELECT value FROM counters").fetchone())

    async def check(self) -> tuple[Finding, ...]:
        """Every derived copy is compared with the rows it comes from; nothing is changed."""
        return await check(self._database)

    async def forget_idempotency(self, *, before: datetime) -> int:
        """Idempotency keys first used before the time are forgotten; how many. Done in bounded units."""
        at, forgotten = microseconds(before), 0

        def unit(connection: sqlite3.Connection) -> int:
            oldest = "SELECT rowid FROM idempotency WHERE created_at < ? LIMIT ?"
            return connection.execute(
                f"DELETE FROM idempotency WHERE rowid IN ({oldest})", (at, _FORGOTTEN_PER_UNIT)
            ).rowcount

        while count := await self._database.write(unit):
            forgotten += count
        return forgotten

    async def purge(self) -> None:
        """Nothing of what was deleted can be read from the files any more."""
        await purge(self._database, self._snapshots)

    async def tend(self) -> None:
        """Nothing is to do: the index in memory suits every size."""

    async def close(self) -> None:
        """What was accepted is durable, the file is closed, the directory is free; closing twice is harmless."""
        if self._lock is not None and not self._is_closed:
            with suppress(StorageUnavailable, StorageFull, StorageReadOnly, StorageDamaged):
                await self._save_indexes()
        self._is_closed = True
        await self._buckets.close()
        await self._database.close()
        if self._lock is not None:
            self._lock.release()

    async def _save_indexes(self) -> None:
        """What a start would have to build anew stands in files; a copy, so that failing to write it is no loss."""
        for tenant_id, stamp in (await self._vectors.save()).items():
            await self._database.write(partial(known_stamp, tenant_id=tenant_id, stamp=stamp))


def require_whole(connection: sqlite3.Connection) -> None:
    """The database is no unfinished copy. Raises `StorageDamaged`."""
    if connection.execute("SELECT 1 FROM copies").fetchone() is not None:
        raise StorageDamaged(UNFINISHED_COPY)


def _prepare(data_dir: Path, *, owns_directory: bool) -> DirectoryLock | None:
    """The directory is there, ours to write, readable by no other user, and locked when we are to own it."""
    make_private(data_dir)
    return DirectoryLock.acquire(data_dir) if owns_directory else None


def make_private(data_dir: Path) -> None:
    """The directory and its database file are there, ours to write, readable by no other user."""
    try:
        data_dir.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    except OSError as error:
        raise directory_error(error, data_dir) from error
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise StorageReadOnly(f"the data directory {data_dir} cannot be written")
    try:
        # SQLite would make the file readable by others; its log and shared memory take the mode over from it.
        (data_dir / DATABASE_FILE).touch(mode=_PRIVATE_FILE)
    except OSError as error:
        raise directory_error(error, data_dir) from error
