"""What other processes tell: that keys or plans changed, that a job was added. Hints alone; nothing relies on them.

A notice is sent after the commit it tells of, on a statement of its own: within the transaction it would make all
commits of the server wait for each other.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import psycopg

from polymem.errors import PolymemError
from polymem.storage.postgres.connection import Database

_log = logging.getLogger(__name__)

_CHANNEL: Final = "polymem"
_START_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 1.0
# While nobody listens, the mark moves this often: nothing is remembered for longer.
_BEATS_WITHOUT_EAR: Final = 0.25


class Topic(StrEnum):
    """What a notice is about."""

    DIRECTORY = "directory"
    JOBS = "jobs"


class Notices:
    """Sends and hears the notices of one database, from `start` to `stop`; `is_heard` while it listens."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._mark = 0
        self._wakes: list[Callable[[], None]] = []
        self._began = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.is_heard = False
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def mark(self) -> tuple[int, int]:
        """A value that moves with each change of the directory that was made here or heard of.

        While nobody listens it moves a few times a second.
        """
        beat = 0 if self.is_heard else int(asyncio.get_running_loop().time() / _BEATS_WITHOUT_EAR)
        return self._mark, beat

    def on_job(self, wake: Callable[[], None]) -> None:
        """`wake` is called when another process has added a job."""
        self._wakes.append(wake)

    async def start(self) -> None:
        """Notices are heard from now on, or, when that takes longer than a moment, as soon as the server lets us."""
        if self._task is None:
            self._task = asyncio.create_task(self._listen(), name="postgres notices")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._began.wait(), _START_SECONDS)

    async def stop(self) -> None:
        """Nothing is heard or sent any more."""
        tasks = [task for task in (self._task, *self._sending) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def directory_changed(self) -> None:
        """This process reads keys anew at once, the others soon."""
        self._mark += 1
        await self._send(Topic.DIRECTORY)

    def job_added(self) -> None:
        """Workers of other processes are told soon; one notice for all jobs added meanwhile."""
        if not self._sending:
            task = asyncio.create_task(self._send(Topic.JOBS))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, topic: Topic) -> None:
        async def unit(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
            await connection.execute("SELECT pg_notify(%s, %s)", (_CHANNEL, topic.value))

        try:
            await self._database.read(unit)
        except PolymemError as error:
            _log.warning("other processes could not be told of a change: %s", error.message)

    async def _listen(self) -> None:
        """Listens for ever; what may have been missed while the connection was gone counts as told."""
        while True:
            try:
                connection = await self._database.alone()
                async with connection:
                    await connection.execute(f"LISTEN {_CHANNEL}")
                    self.is_heard = True
                    self._began.set()
                    self._hear(Topic.DIRECTORY)
                    self._hear(Topic.JOBS)
                    async for notice in connection.notifies():
                        with contextlib.suppress(ValueError):
                            self._hear(Topic(notice.payload))
            except (psycopg.Error, PolymemError) as error:
                # Once for each time that they fall silent, not for each time that they are asked for.
                if self.is_heard or not self._began.is_set():
                    _log.warning("the database's notices are not heard now: %s", type(error).__name__)
                self._began.set()
            finally:
                self.is_heard = False
                self._mark += 1
            await asyncio.sleep(_RETRY_SECONDS)

    def _hear(self, topic: Topic) -> None:
        match topic:
            case Topic.DIRECTORY:
                self._mark += 1
            case Topic.JOBS:
                for wake in self._wakes:
                    wake()
