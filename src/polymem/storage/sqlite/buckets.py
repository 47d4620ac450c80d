"""Rate limit buckets of the embedded storage: in memory, for only one server owns a data directory, and written down.

A request never waits for the disk here. A bucket is written down, beside the requests, when it has run low, and all
are when the storage is closed. So a server that is stopped finds its buckets again as they were; one that is killed
finds those that had run low as they were a moment before, and the others full.
"""

import asyncio
import sqlite3
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Final

from polymem.domain.limits import BucketRule, TokenBucket, drawn, refilled
from polymem.errors import StorageDamaged, StorageUnavailable
from polymem.ports.limits import Drawn
from polymem.storage.rows import microseconds, moment
from polymem.storage.sqlite.connection import Database

MAX_BUCKETS: Final = 50_000
LOW_PART: Final = 0.5
_DRAIN_PER_DRAW: Final = 2
_COLUMNS: Final = "name, tokens, at, capacity, refill_per_second"

Row = tuple[str, float, int, float, float]


class LocalBuckets:
    """Buckets by name, the longest unused first; at most `max_buckets`. A full one says nothing and is dropped."""

    def __init__(self, *, max_buckets: int = MAX_BUCKETS) -> None:
        self._max_buckets = max_buckets
        self._buckets: OrderedDict[str, tuple[TokenBucket, BucketRule]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    async def draw(self, name: str, rule: BucketRule, *, wanted: int, unused: int, now: datetime) -> Drawn:
        """Up to `wanted` whole tokens are out of the bucket, after `unused` ones were put back."""
        self._drop_full(now)
        known = self._buckets.get(name)
        before = None if known is None else known[0]
        bucket, granted = drawn(before, rule, wanted=wanted, unused=unused, now=now)
        self._buckets[name] = (bucket, rule)
        self._buckets.move_to_end(name)
        while len(self._buckets) > self._max_buckets:
            self._buckets.popitem(last=False)
        return Drawn(granted, bucket.tokens)

    async def forget_full(self, *, before: datetime) -> int:
        """Buckets that were full again by that time are gone; how many."""
        full = [name for name in self._buckets if self._is_full(name, before)]
        for name in full:
            del self._buckets[name]
        return len(full)

    def rows(self, names: Iterable[str] | None = None) -> list[Row]:
        """The buckets of these names that are known, or all, as they are written down."""
        found = [(name, self._buckets.get(name)) for name in (self._buckets if names is None else names)]
        return [
            (name, known[0].tokens, microseconds(known[0].at), known[1].capacity, known[1].refill_per_second)
            for name, known in found
            if known is not None
        ]

    def put(self, rows: Iterable[Row]) -> None:
        """The buckets are known as they were written down."""
        for name, tokens, at, capacity, refill_per_second in rows:
            self._buckets[name] = (TokenBucket(tokens, moment(at)), BucketRule(capacity, refill_per_second))

    def _drop_full(self, now: datetime) -> None:
        """A few of the longest unused buckets are gone, if they are full again: what comes in pays for what goes."""
        for _ in range(_DRAIN_PER_DRAW):
            name = next(iter(self._buckets), None)
            if name is None or not self._is_full(name, now):
                return
            del self._buckets[name]

    def _is_full(self, name: str, at: datetime) -> bool:
        bucket, rule = self._buckets[name]
        return refilled(bucket, rule, at).tokens >= rule.capacity


class SqliteBuckets:
    """The local buckets of a data directory, known again after a restart. They are read at the first draw."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._local = LocalBuckets()
        self._is_loaded = False
        self._loading = asyncio.Lock()
        self._low: set[str] = set()
        self._writing: asyncio.Task[None] | None = None

    async def draw(self, name: str, rule: BucketRule, *, wanted: int, unused: int, now: datetime) -> Drawn:
        """Up to `wanted` whole tokens are out of the bucket, after `unused` ones were put back."""
        if not self._is_loaded:
            await self._load()
        found = await self._local.draw(name, rule, wanted=wanted, unused=unused, now=now)
        if found.tokens < rule.capacity * LOW_PART:
            self._low.add(name)
            if self._writing is None or self._writing.done():
                self._writing = asyncio.create_task(self._write_low())
        return found

    async def forget_full(self, *, before: datetime) -> int:
        """Buckets that were full again by that time are gone; how many."""
        await self._load()
        forgotten = await self._local.forget_full(before=before)
        statement = "DELETE FROM buckets WHERE at + (capacity - tokens) / refill_per_second * 1e6 <= ?"
        await self._database.write(lambda connection: connection.execute(statement, (microseconds(before),)))
        return forgotten

    async def close(self) -> None:
        """The buckets are written down as they are now, as far as the storage can be written."""
        if self._writing is not None and not self._writing.done():
            await asyncio.wait({self._writing})
        if self._is_loaded:
            await self._write(self._local.rows(), replaces_all=True)

    async def _load(self) -> None:
        """What was written down is known."""
        async with self._loading:
            if not self._is_loaded:
                self._local.put(
                    await self._database.read(
                        lambda connection: connection.execute(f"SELECT {_COLUMNS} FROM buckets").fetchall()
                    )
                )
                self._is_loaded = True

    async def _write_low(self) -> None:
        """The buckets that have run low are written down, one write after another until there are none."""
        while self._low:
            names, self._low = self._low, set()
            await self._write(self._local.rows(names), replaces_all=False)

    async def _write(self, rows: list[Row], *, replaces_all: bool) -> None:
        def unit(connection: sqlite3.Connection) -> None:
            if replaces_all:
                connection.execute("DELETE FROM buckets")
            connection.executemany(f"INSERT OR REPLACE INTO buckets ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)", rows)

        # The limits hold without the disk; what was not written is full again after a restart.
        with suppress(StorageUnavailable, StorageDamaged):
            await self._database.write(unit)
