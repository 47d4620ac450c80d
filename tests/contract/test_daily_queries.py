"""Queries of a day: what is taken stays taken, whoever takes it and whatever ends, and never more than the limit."""

import asyncio
from datetime import date
from typing import Any

import pytest

from polymem.domain.model import TenantId
from polymem.ports.storage import Storage

TODAY, TOMORROW = date(2025, 3, 1), date(2025, 3, 2)
ACME, OTHER = TenantId("acme"), TenantId("other")


@pytest.fixture
async def second(connect: Any) -> Storage:
    """The same storage as another process has it."""
    opened: Storage = await connect()
    return opened


async def test_no_more_is_given_than_the_limit_has(storage: Storage) -> None:
    days = storage.daily_queries
    assert await days.take(ACME, TODAY, wanted=4, limit=10) == 4
    assert await days.take(ACME, TODAY, wanted=7, limit=10) == 6
    assert await days.take(ACME, TODAY, wanted=1, limit=10) == 0
    assert await days.take(OTHER, TODAY, wanted=99, limit=10) == 10
    assert await days.take(ACME, TOMORROW, wanted=1, limit=10) == 1


async def test_a_lower_limit_gives_none_and_a_higher_one_the_difference(storage: Storage) -> None:
    days = storage.daily_queries
    await days.take(ACME, TODAY, wanted=8, limit=10)
    assert await days.take(ACME, TODAY, wanted=5, limit=3) == 0
    assert await days.take(ACME, TODAY, wanted=5, limit=12) == 4
    assert await days.take(ACME, TODAY, wanted=0, limit=12) == 0


async def test_what_is_given_back_can_be_taken_again_and_no_more(storage: Storage) -> None:
    days = storage.daily_queries
    await days.take(ACME, TODAY, wanted=10, limit=10)
    await days.take(OTHER, TODAY, wanted=2, limit=10)
    await days.give_back(TODAY, {OTHER: 5, ACME: 3, TenantId("unknown"): 7})
    await days.give_back(TOMORROW, {ACME: 4})
    assert await days.take(ACME, TODAY, wanted=9, limit=10) == 3
    assert await days.take(OTHER, TODAY, wanted=99, limit=10) == 10


async def test_processes_that_take_at_the_same_time_share_what_is_there(storage: Storage, second: Storage) -> None:
    takes = (each.daily_queries.take(ACME, TODAY, wanted=7, limit=100) for _ in range(20) for each in (storage, second))
    granted = await asyncio.gather(*takes)
    assert sum(granted) == 100
    assert sorted(granted) == [0] * 25 + [2] + [7] * 14


async def test_what_was_taken_is_still_taken_after_a_restart(storage: Storage, connect: Any) -> None:
    await storage.daily_queries.take(ACME, TODAY, wanted=7, limit=10)
    await storage.close()
    again = await connect()
    assert await again.daily_queries.take(ACME, TODAY, wanted=7, limit=10) == 3


async def test_days_that_are_over_are_forgotten_and_no_others(storage: Storage) -> None:
    days = storage.daily_queries
    for tenant_id in (ACME, OTHER):
        for day in (TODAY, TOMORROW):
            await days.take(tenant_id, day, wanted=10, limit=10)
    assert await days.forget(before=TODAY) == 0
    assert await days.forget(before=TOMORROW) == 2
    assert await days.take(ACME, TODAY, wanted=1, limit=10) == 1
    assert await days.take(ACME, TOMORROW, wanted=1, limit=10) == 0
