import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.notices import Notices
from postgres import PostgresServer


@pytest.fixture
async def two(postgres_server: PostgresServer) -> AsyncIterator[tuple[Notices, Notices]]:
    url = postgres_server.new_database(is_empty=True)
    databases = [await Database.open(url, connections=2, patience_seconds=5.0) for _ in range(2)]
    first, second = (Notices(database) for database in databases)
    for notices in (first, second):
        await notices.start()
    await until(lambda: first.is_heard and second.is_heard)
    yield first, second
    for notices in (first, second):
        await notices.stop()
    for database in databases:
        await database.close()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 - another process's doing, which no event of ours tells
            await asyncio.sleep(0.005)  # what another process tells comes when it comes; bounded above


async def test_a_change_moves_the_mark_here_at_once_and_elsewhere_soon(two: tuple[Notices, Notices]) -> None:
    first, second = two
    here, there = first.mark, second.mark
    assert (first.mark, second.mark) == (here, there)
    changed = asyncio.create_task(first.directory_changed())
    await until(lambda: first.mark != here)
    await changed
    await until(lambda: second.mark != there)


async def test_jobs_added_by_one_wake_the_other(two: tuple[Notices, Notices]) -> None:
    first, second = two
    woken = asyncio.Event()
    second.on_job(woken.set)
    first.job_added()
    first.job_added()
    async with asyncio.timeout(20):
        await woken.wait()


async def test_who_was_deaf_for_a_while_takes_all_as_told(
    two: tuple[Notices, Notices], postgres_server: PostgresServer
) -> None:
    _, second = two
    woken = asyncio.Event()
    second.on_job(woken.set)
    before = second.mark
    postgres_server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
    await until(lambda: second.mark != before and second.is_heard)
    async with asyncio.timeout(20):
        await woken.wait()


async def test_the_mark_does_not_stand_still_while_nobody_listens(postgres_server: PostgresServer) -> None:
    database = await Database.open(postgres_server.new_database(is_empty=True), connections=1, patience_seconds=5.0)
    notices = Notices(database)
    before = notices.mark
    await until(lambda: notices.mark != before)
    await database.close()
    notices.job_added()
    await notices.directory_changed()
    await notices.stop()
