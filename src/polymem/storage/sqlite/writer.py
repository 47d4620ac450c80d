"""The one thread that writes: waiting units of work share a transaction, and so one fsync (group commit)."""

import asyncio
import sqlite3
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from polymem.errors import PolymemError, StorageUnavailable
from polymem.storage.sqlite.driver import storage_error

UNITS_PER_COMMIT: Final = 64
UNITS_WAITING: Final = 4096

Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Work:
    """One accepted unit: what to run, and who waits for it. A large one has a transaction of its own."""

    unit: Callable[[sqlite3.Connection], object]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    is_large: bool
    result: object = None
    error: BaseException | None = None

    def resolve(self) -> None:
        """The waiting task has its answer, unless it was cancelled meanwhile; what was stored stays stored."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class _TransactionLost(Exception):
    """SQLite rolled the whole transaction back on its own while a unit ran."""


class Writer:
    """Runs units of work on its own thread, several to a transaction, each in a savepoint of its own.

    A unit that is alone in its transaction needs no savepoint, and a large one must not have any: what a savepoint
    would bring back is kept in memory, page by page, in a list that SQLite walks. A unit that raises rolls back itself
    alone. When the transaction as a whole fails, every unit in it fails and nothing of it is stored. An accepted unit
    is always run, whoever still waits for it.
    """

    def __init__(self, connection: sqlite3.Connection, *, units_waiting: int = UNITS_WAITING) -> None:
        self._connection = connection
        self._capacity = units_waiting
        self._waiting: deque[_Work] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._serve, name="polymem-writer", daemon=True)
        self._thread.start()

    async def run(self, unit: Callable[[sqlite3.Connection], Result], *, is_large: bool = False) -> Result:
        """The unit's result, once what it wrote is durable. Raises what the unit raised.

        `is_large`: it writes very many pages.
        Raises `StorageUnavailable` without accepting the unit when too many wait or the storage is closing.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        with self._changed:
            if self._is_closing:
                raise StorageUnavailable("the storage is closed")
            if len(self._waiting) >= self._capacity:
                raise StorageUnavailable("too many writes are waiting")
            self._waiting.append(_Work(unit=unit, loop=loop, future=future, is_large=is_large))
            self._changed.notify()
        return await future

    def close(self) -> None:
        """Every accepted unit has been run and the thread has ended. Blocks; closing twice is harmless."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _serve(self) -> None:
        while batch := self._take():
            try:
                self._commit(batch)
            except (sqlite3.Error, _TransactionLost) as error:
                self._roll_back()
                _fail(batch, error)
            _resolve(batch)

    def _take(self) -> list[_Work]:
        """The next units, oldest first; none when the writer is closing and all are done."""
        with self._changed:
            while not self._waiting and not self._is_closing:
                self._changed.wait()
            batch: list[_Work] = []
            while self._waiting and len(batch) < UNITS_PER_COMMIT:
                if self._waiting[0].is_large and batch:
                    break
                batch.append(self._waiting.popleft())
                if batch[-1].is_large:
                    break
            return batch

    def _commit(self, batch: list[_Work]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        if len(batch) == 1:
            self._run_alone(batch[0])
            return
        for work in batch:
            self._run_unit(work)
        self._connection.execute("COMMIT")

    def _run_alone(self, work: _Work) -> None:
        """The transaction is that of this unit: committed with it, or rolled back."""
        try:
            work.result = work.unit(self._connection)
        except BaseException as error:  # whatever a unit raises belongs to its caller; the thread lives on
            if not self._connection.in_transaction:
                raise _TransactionLost from error
            self._roll_back()
            work.error = _translated(error)
        else:
            self._connection.execute("COMMIT")

    def _run_unit(self, work: _Work) -> None:
        self._connection.execute("SAVEPOINT unit")
        try:
            work.result = work.unit(self._connection)
        except BaseException as error:  # whatever a unit raises belongs to its caller; the thread lives on
            if not self._connection.in_transaction:
                raise _TransactionLost from error
            self._connection.execute("ROLLBACK TO unit")
            work.error = _translated(error)
        self._connection.execute("RELEASE unit")

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")


def _translated(error: BaseException) -> BaseException:
    known: PolymemError | None = storage_error(error) if isinstance(error, sqlite3.Error) else None
    if known is None:
        return error
    known.__cause__ = error
    return known


def _fail(batch: Iterable[_Work], error: BaseException) -> None:
    """Every unit of the batch has an error of its own that tells why the transaction failed."""
    cause = error.__cause__ if isinstance(error, _TransactionLost) and error.__cause__ is not None else error
    for work in batch:
        known = storage_error(cause) if isinstance(cause, sqlite3.Error) else None
        work.error = known or StorageUnavailable("the write was rolled back")
        work.error.__cause__ = cause


def _resolve(batch: Iterable[_Work]) -> None:
    """Every waiting task is told, with one wake-up for each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Work]] = defaultdict(list)
    for work in batch:
        by_loop[work.loop].append(work)
    for loop, works in by_loop.items():
        with suppress(RuntimeError):  # the loop was closed: nobody waits there any more
            loop.call_soon_threadsafe(_resolve_all, works)


def _resolve_all(works: Iterable[_Work]) -> None:
    for work in works:
        work.resolve()
