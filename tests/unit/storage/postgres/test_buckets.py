"""Rate limit buckets that several processes draw from."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import pytest

from polymem.domain.limits import BucketRule
from polymem.domain.model import TenantId
from polymem.errors import StorageReadOnly
from polymem.storage.postgres.buckets import PostgresBuckets
from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.daily import PostgresDailyQueries
from postgres import PostgresServer, running_postgres, standby_of

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)


async def test_processes_that_draw_at_the_same_time_get_each_token_once(postgres_server: PostgresServer) -> None:
    url, rule = postgres_server.new_database(), BucketRule(capacity=500, refill_per_second=1.0)
    async with AsyncExitStack() as opened:
        processes = []
        for _ in range(3):
            database = await Database.open(url, connections=3, patience_seconds=10)
            opened.push_async_callback(database.close)
            processes.append(PostgresBuckets(database))
        draws = [buckets.draw("a", rule, wanted=3, unused=0, now=NOON) for _ in range(80) for buckets in processes]
        granted = [found.granted for found in await asyncio.gather(*draws)]
    assert sum(granted) == 500


async def test_a_bucket_is_one_row_however_often_it_is_drawn_from(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    database = await Database.open(url, connections=1, patience_seconds=10)
    try:
        for _ in range(3):
            await PostgresBuckets(database).draw("a", BucketRule(2, 1), wanted=1, unused=0, now=NOON)
    finally:
        await database.close()
    name = url.partition("@/")[2].partition("?")[0]
    (row,) = postgres_server.run("SELECT name, tokens, granted, full_at - at FROM buckets", name)
    assert row == ("a", 0.0, 0, 2_000_000)


async def test_a_standby_says_that_it_cannot_be_written() -> None:
    with running_postgres(wal_level="replica", max_wal_senders="4") as primary:
        url = primary.new_database()
        with standby_of(primary) as standby:
            database = await Database.open(
                url.replace(str(primary.folder), str(standby.folder)), connections=1, patience_seconds=10
            )
            try:
                with pytest.raises(StorageReadOnly, match="standby"):
                    await PostgresBuckets(database).draw("a", BucketRule(2, 1), wanted=1, unused=0, now=NOON)
                with pytest.raises(StorageReadOnly, match="standby"):
                    await PostgresDailyQueries(database).take(TenantId("a"), NOON.date(), wanted=1, limit=2)
            finally:
                await database.close()
