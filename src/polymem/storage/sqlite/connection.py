"""One open database file: a writer thread with group commit and a pool of readers."""

import asyncio
import queue
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from polymem.errors import StorageUnavailable
from polymem.storage.sqlite.driver import connect, storage_error
from polymem.storage.sqlite.migrate import migrate
from polymem.storage.sqlite.writer import Writer

Result = TypeVar("Result")


class Database:
    """Units of work on one SQLite file, off the event loop: one hop to a thread for each.

    A unit is a plain function of a connection. It begins and ends no transaction of its own: a read unit
    sees one snapshot, a write unit is all stored or not at all. Driver errors come out as storage errors.
    """

    def __init__(self, path: Path, writer: sqlite3.Connection, readers: list[sqlite3.Connection]) -> None:
        self.path = path
        self._writer_connection = writer
        self._writer = Writer(writer)
        self._readers = readers
        # Last in, first out: the connection used last has the warmest cache.
        self._idle: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        for reader in readers:
            self._idle.put(reader)
        self._executor = ThreadPoolExecutor(max_workers=len(readers), thread_name_prefix="polymem-reader")
        self._is_closed = False

    @classmethod
    async def open(cls, path: Path, *, reader_count: int = 4) -> "Database":
        """The database at `path`, made when missing, migrated to this program's schema. Raises the storage errors."""
        writer, readers = await asyncio.to_thread(_open_connections, path, reader_count)
        return cls(path, writer, readers)

    async def read(self, unit: Callable[[sqlite3.Connection], Result]) -> Result:
        """What the unit returns, from one snapshot that holds everything committed before the call."""
        if self._is_closed:
            raise StorageUnavailable("the storage is closed")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._run_reader, unit)

    async def write(self, unit: Callable[[sqlite3.Connection], Result], *, is_large: bool = False) -> Result:
        """What the unit returns, once it is durable. A unit that raises stores nothing and its error is raised.

        `is_large`: it writes very many pages, and shares its transaction with no other.
        A task cancelled while it waits here gives up the answer, not the write.
        """
        return await self._writer.run(unit, is_large=is_large)

    async def close(self) -> None:
        """Accepted writes are durable and all connections are closed; closing twice is harmless."""
        self._is_closed = True
        await asyncio.to_thread(self._close)

    def _run_reader(self, unit: Callable[[sqlite3.Connection], Result]) -> Result:
        connection = self._idle.get()
        try:
            connection.execute("BEGIN")
            try:
                return unit(connection)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            known = storage_error(error)
            if known is None:
                raise
            raise known from error
        finally:
            self._idle.put(connection)

    def _close(self) -> None:
        self._writer.close()
        self._executor.shutdown(wait=True)
        for reader in self._readers:
            reader.close()
        self._writer_connection.close()


def _open_connections(path: Path, reader_count: int) -> tuple[sqlite3.Connection, list[sqlite3.Connection]]:
    opened: list[sqlite3.Connection] = []
    try:
        migrate(path)
        opened.append(connect(path))
        opened.extend(connect(path, is_reader=True) for _ in range(reader_count))
    except sqlite3.Error as error:
        for connection in opened:
            connection.close()
        known = storage_error(error)
        if known is None:
            raise
        raise known from error
    return opened[0], opened[1:]
