"""Rate limit buckets of a data directory: what is on the disk, and when, without a request that waits for it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from polymem.domain.limits import BucketRule
from polymem.ports.limits import Drawn
from polymem.storage.sqlite.connection import Database
from polymem.storage.sqlite.storage import DATABASE_FILE, SqliteStorage

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
RULE = BucketRule(capacity=10, refill_per_second=1.0)


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[SqliteStorage]:
    opened = await SqliteStorage.open(tmp_path)
    yield opened
    await opened.close()


async def drawn(storage: SqliteStorage, name: str, wanted: int, *, seconds: float = 0) -> Drawn:
    now = NOON + timedelta(seconds=seconds)
    return await storage.buckets.draw(name, RULE, wanted=wanted, unused=0, now=now)


async def written(storage: SqliteStorage, folder: Path) -> dict[str, float]:
    """The tokens of each bucket that a server would find which starts now, after this one was killed."""
    # The first write lets the buckets ask for theirs, the second one is done after that.
    await storage.ping()
    await storage.ping()
    database = await Database.open(folder / DATABASE_FILE, reader_count=1)
    try:
        return dict(
            await database.read(lambda connection: connection.execute("SELECT name, tokens FROM buckets").fetchall())
        )
    finally:
        await database.close()


async def test_a_bucket_that_runs_low_is_on_the_disk_soon_and_one_that_does_not_is_not(
    storage: SqliteStorage, tmp_path: Path
) -> None:
    await drawn(storage, "half", 5)
    assert await written(storage, tmp_path) == {}
    await drawn(storage, "low", 6)
    await drawn(storage, "low", 1)
    await drawn(storage, "empty", 10)
    assert await written(storage, tmp_path) == {"low": 3, "empty": 0}


async def test_draws_that_come_while_one_is_written_are_written_next(storage: SqliteStorage, tmp_path: Path) -> None:
    await asyncio.gather(*(drawn(storage, f"{number % 50}", 1) for number in range(400)))
    await storage.ping()
    assert await written(storage, tmp_path) == {f"{number}": 2 for number in range(50)}


async def test_a_stop_leaves_every_bucket_as_it_is_and_none_that_is_gone(
    storage: SqliteStorage, tmp_path: Path
) -> None:
    await drawn(storage, "low", 9)
    await drawn(storage, "hardly touched", 1)
    assert "low" in await written(storage, tmp_path)
    assert await storage.buckets.forget_full(before=NOON + timedelta(seconds=9)) == 2
    assert await written(storage, tmp_path) == {}
    await drawn(storage, "other", 3)
    await storage.close()
    again = await SqliteStorage.open(tmp_path)
    try:
        assert await drawn(again, "other", 99) == Drawn(7, 0)
        assert await drawn(again, "low", 99) == Drawn(10, 0)
    finally:
        await again.close()


async def test_a_bucket_that_is_not_full_again_is_not_forgotten(storage: SqliteStorage, tmp_path: Path) -> None:
    await drawn(storage, "low", 9)
    assert await storage.buckets.forget_full(before=NOON + timedelta(seconds=8.9)) == 0
    assert await written(storage, tmp_path) == {"low": 1}


async def test_a_storage_from_which_nobody_drew_leaves_the_buckets_alone(
    storage: SqliteStorage, tmp_path: Path
) -> None:
    await drawn(storage, "low", 9)
    assert await written(storage, tmp_path) == {"low": 1}
    beside = await SqliteStorage.open(tmp_path, owns_directory=False)
    await beside.close()
    assert await written(storage, tmp_path) == {"low": 1}


async def test_limits_hold_where_nothing_can_be_written_any_more(storage: SqliteStorage) -> None:
    await drawn(storage, "a", 4)
    await storage.close()
    assert await drawn(storage, "a", 4) == Drawn(4, 2)
    assert await drawn(storage, "a", 4) == Drawn(2, 0)
    await storage.buckets.close()
