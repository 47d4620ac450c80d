"""Rate limit buckets: what a draw gives, puts back and leaves, on every storage."""

import asyncio
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from polymem.domain.limits import BucketRule, TokenBucket, drawn
from polymem.ports.limits import Drawn
from polymem.ports.storage import Storage

RULE = BucketRule(capacity=10, refill_per_second=2.0)


@pytest.fixture
def draw(storage: Storage, make: Any) -> Callable[..., Any]:
    """Draws so many seconds after the start of the test."""

    async def drawn_at(seconds: float, wanted: int, *, unused: int = 0, name: str = "a") -> tuple[int, float]:
        found = await storage.buckets.draw(name, RULE, wanted=wanted, unused=unused, now=make.at(seconds))
        assert isinstance(found, Drawn)
        return found.granted, found.tokens

    return drawn_at


async def test_a_bucket_that_nobody_drew_from_is_full_and_gives_no_more_than_it_holds(draw: Any) -> None:
    assert await draw(0, 4) == (4, 6)
    assert await draw(0, 7) == (6, 0)
    assert await draw(0, 1) == (0, 0)
    assert await draw(0, 99, name="b") == (10, 0)
    assert await draw(0, 0, name="c") == (0, 10)


async def test_time_adds_tokens_up_to_the_capacity_and_only_whole_ones_are_given(draw: Any) -> None:
    await draw(0, 10)
    assert await draw(0.75, 9) == (1, 0.5)
    assert await draw(1, 9) == (1, 0)
    assert await draw(3600, 3) == (3, 7)


async def test_what_was_not_used_is_put_back_first_and_never_overfills(draw: Any) -> None:
    await draw(0, 10)
    assert await draw(0, 3, unused=4) == (3, 1)
    assert await draw(0, 0, unused=100) == (0, 10)
    assert await draw(1, 1, unused=5) == (1, 9)


async def test_a_clock_behind_the_others_takes_nothing_away_and_gives_nothing_twice(draw: Any) -> None:
    await draw(10, 10)
    assert await draw(5, 1) == (0, 0)
    assert await draw(11, 9) == (2, 0)


async def test_a_clock_that_was_far_ahead_holds_nobody_up(draw: Any) -> None:
    await draw(3600, 10)
    assert await draw(0, 1) == (0, 0)
    assert await draw(1, 9) == (2, 0)


async def test_draws_at_the_same_time_share_what_is_there(storage: Storage, make: Any) -> None:
    rule = BucketRule(capacity=100, refill_per_second=1.0)
    draws = (storage.buckets.draw("a", rule, wanted=7, unused=0, now=make.at()) for _ in range(40))
    granted = [found.granted for found in await asyncio.gather(*draws)]
    assert sum(granted) == 100
    assert sorted(granted) == [0] * 25 + [2] + [7] * 14


async def test_every_draw_is_the_one_the_domain_tells(storage: Storage, make: Any) -> None:
    rules = [BucketRule(1, 1 / 60), BucketRule(60, 16.7), BucketRule(60_000, 1000), BucketRule(3, 100)]
    chance = random.Random(7)
    expected: dict[int, TokenBucket | None] = {}
    seconds = 0.0
    for _ in range(300):
        seconds += chance.choice([0, 0, 0.001, 0.5, 3])
        which, wanted = chance.randrange(len(rules)), chance.randrange(700)
        unused, now = chance.choice([0, 0, 5, 600]), make.at(seconds)
        found = await storage.buckets.draw(f"{which}", rules[which], wanted=wanted, unused=unused, now=now)
        bucket, granted = drawn(expected.get(which), rules[which], wanted=wanted, unused=unused, now=now)
        expected[which] = bucket
        assert found.granted == granted
        assert found.tokens == pytest.approx(bucket.tokens, abs=1e-6)


async def test_buckets_that_are_full_again_are_forgotten_and_no_others(storage: Storage, draw: Any, make: Any) -> None:
    await draw(0, 10)
    await draw(0, 4, name="b")

    async def forgotten(at: datetime) -> int:
        return await storage.buckets.forget_full(before=at)

    assert await forgotten(make.at(1.9)) == 0
    assert await forgotten(make.at(2)) == 1
    assert await forgotten(make.at(5) - timedelta(microseconds=1)) == 0
    assert await draw(4, 1) == (1, 7)
    assert await draw(4, 1, name="b") == (1, 9)
    assert await forgotten(make.at(3600)) == 2


async def test_a_bucket_is_as_it_was_left_after_a_restart(storage: Storage, connect: Any, draw: Any, make: Any) -> None:
    await draw(0, 9)
    await draw(0, 1, name="hardly touched")
    await storage.close()
    again: Storage = await connect()

    async def drawn_again(seconds: float, name: str) -> Drawn:
        return await again.buckets.draw(name, RULE, wanted=99, unused=0, now=make.at(seconds))

    assert await drawn_again(0.5, "a") == Drawn(2, 0)
    assert await drawn_again(0, "hardly touched") == Drawn(9, 0)
    assert await drawn_again(0, "new") == Drawn(10, 0)
