"""Request limits: per plan and per address, exact over several processes that share buckets."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polymem.domain.limits import BucketRule, leased_tokens
from polymem.domain.model import KeyId, Plan, Principal, Scope, SpaceId, TenantId, UserId
from polymem.engine.limits import LEASE_SECONDS, Limits
from polymem.engine.requests import RateState
from polymem.errors import DailyLimitReached, RateLimited, StorageFull, StorageReadOnly, StorageUnavailable
from polymem.ports.limits import Drawn
from polymem.storage.sqlite.buckets import LocalBuckets

WAIT_SECONDS = 10


@dataclass
class Clock:
    """Time that passes when told to."""

    seconds: float = 0.0

    def now(self) -> datetime:
        return datetime(2025, 3, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


class WatchedBuckets(LocalBuckets):
    """Buckets that count their draws, wait where a test says so, and fail when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[tuple[int, int]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.error: Exception | None = None

    async def draw(self, name: str, rule: BucketRule, *, wanted: int, unused: int, now: datetime) -> Drawn:
        self.draws.append((wanted, unused))
        await asyncio.wait_for(self.may_answer.wait(), WAIT_SECONDS)
        if self.error is not None:
            raise self.error
        return await super().draw(name, rule, wanted=wanted, unused=unused, now=now)


class Days:
    """Counts of days that note their draws, wait where a test says so, and fail when told to."""

    def __init__(self) -> None:
        self.used: Counter[tuple[TenantId, date]] = Counter()
        self.draws: list[tuple[int, int]] = []
        self.forgotten: list[date] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.error: Exception | None = None

    async def take(self, tenant_id: TenantId, day: date, *, wanted: int, limit: int) -> int:
        await asyncio.wait_for(self.may_answer.wait(), WAIT_SECONDS)
        if self.error is not None:
            raise self.error
        granted = max(0, min(wanted, limit - self.used[tenant_id, day]))
        self.draws.append((wanted, granted))
        self.used[tenant_id, day] += granted
        return granted

    async def give_back(self, day: date, unused: Mapping[TenantId, int]) -> None:
        if self.error is not None:
            raise self.error
        for tenant_id, count in unused.items():
            self.used[tenant_id, day] -= count

    async def forget(self, *, before: date) -> int:
        self.forgotten.append(before)
        return 0


def principal(*, burst: int = 1, per_minute: int = 1, tenant: str = "tenant", queries: int | None = None) -> Principal:
    return Principal(
        tenant_id=TenantId(tenant),
        user_id=UserId("user"),
        key_id=KeyId("key"),
        personal_space_id=SpaceId("space"),
        scopes=frozenset(Scope),
        allowed_spaces=None,
        plan=Plan(name="p", requests_per_minute=per_minute, burst=burst, max_memories=None, queries_per_day=queries),
    )


async def admitted(limits: Limits, caller: Principal, requests: int) -> int:
    """How many of these requests, one after another, were let through."""
    count = 0
    for _ in range(requests):
        try:
            await limits.take(caller)
        except RateLimited:
            return count
        count += 1
    return count


async def test_a_plan_limits_its_tenant_and_says_when_to_come_back() -> None:
    clock, first = Clock(), principal(burst=2, per_minute=60)
    limits = Limits(LocalBuckets(), Days(), clock)
    assert await limits.take(first) == RateState(limit=60, remaining=1, reset_seconds=1.0)
    assert await limits.take(first) == RateState(limit=60, remaining=0, reset_seconds=2.0)
    with pytest.raises(RateLimited) as caught:
        await limits.take(first)
    assert caught.value.retry_after_seconds == pytest.approx(1.0)
    assert (await limits.take(replace(first, tenant_id=TenantId("other")))).remaining == 1
    clock.seconds += 1
    assert (await limits.take(first)).remaining == 0


async def test_what_remains_counts_down_by_one_whoever_holds_the_tokens() -> None:
    clock, caller = Clock(), principal(burst=1000, per_minute=60_000)
    limits = Limits(LocalBuckets(), Days(), clock)
    told = [await limits.take(caller) for _ in range(25)]
    assert [state.remaining for state in told] == list(range(999, 974, -1))
    assert told[-1].reset_seconds == pytest.approx(0.025)
    clock.seconds += 0.5
    assert (await limits.take(caller)).remaining == 999


async def test_the_shared_bucket_is_asked_once_for_a_hundredth_of_it() -> None:
    clock, buckets, caller = Clock(), WatchedBuckets(), principal(burst=1000, per_minute=60_000)
    limits = Limits(buckets, Days(), clock)
    assert await admitted(limits, caller, 12) == 12
    assert buckets.draws == [(10, 0), (10, 0)]
    clock.seconds += LEASE_SECONDS
    await limits.take(caller)
    assert buckets.draws[2:] == [(10, 8)]


async def test_callers_at_the_same_time_wait_for_one_draw() -> None:
    buckets, caller = WatchedBuckets(), principal(burst=1000, per_minute=60_000)
    limits = Limits(buckets, Days(), Clock())
    buckets.may_answer.clear()
    takes = [asyncio.create_task(limits.take(caller)) for _ in range(10)]
    await asyncio.sleep(0)
    buckets.may_answer.set()
    assert sorted(state.remaining for state in await asyncio.gather(*takes)) == list(range(990, 1000))
    assert len(buckets.draws) == 1


async def test_who_has_to_wait_is_refused_without_asking_again() -> None:
    clock, buckets, caller = Clock(), WatchedBuckets(), principal(burst=1, per_minute=1)
    limits = Limits(buckets, Days(), clock)
    await limits.take(caller)
    for _ in range(3):
        with pytest.raises(RateLimited):
            await limits.take(caller)
    assert len(buckets.draws) == 1
    clock.seconds += LEASE_SECONDS
    with pytest.raises(RateLimited):
        await limits.take(caller)
    assert len(buckets.draws) == 2


async def test_a_new_plan_counts_at_once() -> None:
    limits = Limits(LocalBuckets(), Days(), Clock())
    assert await admitted(limits, principal(burst=1, per_minute=1), 2) == 1
    with pytest.raises(RateLimited) as caught:
        await limits.take(principal(burst=1, per_minute=60))
    assert caught.value.retry_after_seconds == pytest.approx(1.0)


async def test_a_storage_that_does_not_answer_is_told_and_the_next_request_asks_again() -> None:
    buckets, caller = WatchedBuckets(), principal(burst=1000, per_minute=60_000)
    limits = Limits(buckets, Days(), Clock())
    buckets.error = StorageUnavailable("away")
    with pytest.raises(StorageUnavailable):
        await limits.take(caller)
    buckets.error = None
    assert (await limits.take(caller)).remaining == 999


@pytest.mark.parametrize("error", [StorageReadOnly("a standby"), StorageFull("no room")])
async def test_while_the_storage_cannot_be_written_each_process_counts_alone(error: Exception) -> None:
    clock, buckets, caller = Clock(), WatchedBuckets(), principal(burst=100, per_minute=60)
    limits = Limits(buckets, Days(), clock)
    assert await admitted(limits, caller, 40) == 40
    buckets.error = error
    assert await admitted(limits, caller, 100) == 60
    assert await admitted(Limits(buckets, Days(), clock), caller, 200) == 100
    clock.seconds += 5
    assert await admitted(limits, caller, 100) == 5
    buckets.error = None
    clock.seconds += LEASE_SECONDS
    assert await admitted(limits, caller, 200) == 66


@pytest.mark.parametrize(
    ("address", "same", "other"),
    [
        ("10.0.0.1", "10.0.0.1", "10.0.0.2"),
        ("2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1"),
        ("::ffff:10.0.0.1", "10.0.0.1", "::ffff:10.0.0.2"),
        ("testclient", "testclient", ""),
    ],
)
async def test_keyless_requests_are_limited_by_address(address: str, same: str, other: str) -> None:
    limits = Limits(LocalBuckets(), Days(), Clock(), anonymous=BucketRule(capacity=1, refill_per_second=0.5))
    assert await limits.take_anonymous(address) == RateState(limit=30, remaining=0, reset_seconds=2.0)
    with pytest.raises(RateLimited):
        await limits.take_anonymous(same)
    await limits.take_anonymous(other)


async def test_a_tenant_and_an_address_of_one_name_do_not_share_a_bucket() -> None:
    limits = Limits(LocalBuckets(), Days(), Clock(), anonymous=BucketRule(capacity=1, refill_per_second=1))
    await limits.take_anonymous("x")
    assert await admitted(limits, principal(burst=1, per_minute=60, tenant="x"), 2) == 1


async def test_memory_stays_bounded_however_many_addresses_come() -> None:
    clock, buckets = Clock(), LocalBuckets(max_buckets=10)
    limits = Limits(buckets, Days(), clock, anonymous=BucketRule(capacity=5, refill_per_second=1), max_leases=10)
    for number in range(100):
        await limits.take_anonymous(f"10.0.0.{number}")
    assert (len(limits._leases), len(buckets)) == (10, 10)
    clock.seconds += 60
    for _ in range(6):
        await limits.take_anonymous("10.0.0.99")
        clock.seconds += 2
    assert (len(limits._leases), len(buckets)) == (1, 1)


async def test_a_lease_with_tokens_in_it_is_kept_until_they_can_go_back() -> None:
    clock, buckets = Clock(), WatchedBuckets()
    limits = Limits(buckets, Days(), clock)
    await limits.take(principal(burst=1000, per_minute=60_000))
    clock.seconds += 10
    await limits.take(principal(burst=1000, per_minute=60_000, tenant="other"))
    await limits.take(principal(burst=1000, per_minute=60_000))
    assert buckets.draws == [(10, 0), (10, 0), (10, 9)]


async def test_full_buckets_are_forgotten_when_asked_to() -> None:
    clock, buckets = Clock(), LocalBuckets()
    limits = Limits(buckets, Days(), clock)
    await limits.take(principal(burst=1, per_minute=60))
    assert await limits.forget_full() == 0
    clock.seconds += 1
    assert await limits.forget_full() == 1
    assert len(buckets) == 0


STEPS = st.lists(st.tuples(st.floats(0, 3), st.integers(0, 4), st.integers(0, 400)), min_size=1, max_size=40)


@settings(deadline=None)
@given(st.integers(1, 5), st.sampled_from([1, 50, 100, 1000]), st.integers(1, 6000), STEPS)
def test_processes_together_never_admit_more_than_the_bucket_holds_and_gains(
    processes: int, burst: int, per_minute: int, steps: list[tuple[float, int, int]]
) -> None:
    async def run() -> None:
        clock, buckets, caller = Clock(), LocalBuckets(), principal(burst=burst, per_minute=per_minute)
        each = [Limits(buckets, Days(), clock) for _ in range(processes)]
        count = 0
        for wait, process, requests in steps:
            clock.seconds += wait
            count += await admitted(each[process % processes], caller, requests)
            assert count <= burst + (clock.seconds + 1e-5) * per_minute / 60

    asyncio.run(run())


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 5),
    st.sampled_from([100, 300, 1000]),
    st.integers(60, 3000),
    st.lists(st.floats(0.01, 1.5), min_size=1, max_size=8),
)
def test_processes_that_are_asked_for_all_there_is_admit_it_but_for_a_lease_each(
    processes: int, burst: int, per_minute: int, waits: list[float]
) -> None:
    async def run() -> None:
        clock, buckets, caller = Clock(), LocalBuckets(), principal(burst=burst, per_minute=per_minute)
        each = [Limits(buckets, Days(), clock) for _ in range(processes)]
        count = 0
        for wait in [0.0, *waits]:
            clock.seconds += wait
            for limits in each:
                count += await admitted(limits, caller, 2 * burst + per_minute)
        rule = BucketRule(burst, per_minute / 60)
        whole = burst + clock.seconds * rule.refill_per_second
        assert count >= whole - processes * leased_tokens(rule) - 1
        assert count >= 0.95 * whole - 1

    asyncio.run(run())


# --- where an address stands -----------------------------------------------------------------------------


async def test_where_an_address_stands_is_told_without_counting() -> None:
    clock, buckets = Clock(), WatchedBuckets()
    limits = Limits(buckets, Days(), clock, anonymous=BucketRule(capacity=30, refill_per_second=0.5))
    full = RateState(limit=30, remaining=30, reset_seconds=0.0)
    assert limits.anonymous_state("10.0.0.1") == limits.anonymous_state(None) == full
    assert buckets.draws == []
    counted = await limits.take_anonymous("10.0.0.1")
    assert counted == RateState(limit=30, remaining=29, reset_seconds=2.0)
    assert limits.anonymous_state("10.0.0.1") == limits.anonymous_state("::ffff:10.0.0.1") == counted
    assert limits.anonymous_state("10.0.0.2") == limits.anonymous_state(None) == full
    clock.seconds += 2
    assert limits.anonymous_state("10.0.0.1") == full


# --- queries of a day ------------------------------------------------------------------------------------


async def queried(limits: Limits, caller: Principal, queries: int) -> int:
    """How many of these queries, one after another, were let through."""
    count = 0
    for _ in range(queries):
        try:
            await limits.take_query(caller)
        except DailyLimitReached:
            return count
        count += 1
    return count


async def test_a_plan_limits_the_queries_of_its_tenant_until_the_next_day() -> None:
    clock, days, caller = Clock(), Days(), principal(queries=3)
    clock.seconds = 86_400 - 90.5
    limits = Limits(LocalBuckets(), days, clock)
    assert await queried(limits, caller, 5) == 3
    with pytest.raises(DailyLimitReached) as caught:
        await limits.take_query(caller)
    assert (caught.value.limit, caught.value.retry_after_seconds) == (3, 90.5)
    assert await queried(limits, replace(caller, tenant_id=TenantId("other")), 5) == 3
    clock.seconds += 90.5
    assert await queried(limits, caller, 5) == 3
    assert set(days.used.values()) == {3}


async def test_a_plan_without_a_daily_limit_asks_the_storage_nothing() -> None:
    days = Days()
    days.error = StorageUnavailable("away")
    assert await queried(Limits(LocalBuckets(), days, Clock()), principal(), 1000) == 1000


async def test_queries_are_drawn_a_hundredth_at_a_time() -> None:
    days, caller = Days(), principal(queries=1000)
    limits = Limits(LocalBuckets(), days, Clock())
    assert await queried(limits, caller, 21) == 21
    assert days.draws == [(10, 10)] * 3
    assert await queried(limits, caller, 1000) == 979


async def test_who_used_all_queries_is_refused_without_asking_again_for_a_moment() -> None:
    clock, days, caller = Clock(), Days(), principal(queries=2)
    limits = Limits(LocalBuckets(), days, clock)
    assert await queried(limits, caller, 9) == 2
    assert [await queried(limits, caller, 1) for _ in range(3)] == [0, 0, 0]
    assert days.draws == [(1, 1), (1, 1), (1, 0)]
    clock.seconds += LEASE_SECONDS
    days.used.clear()
    assert await queried(limits, caller, 1) == 1


async def test_queries_at_the_same_time_wait_for_one_draw() -> None:
    days, caller = Days(), principal(queries=1000)
    limits = Limits(LocalBuckets(), days, Clock())
    days.may_answer.clear()
    takes = [asyncio.create_task(limits.take_query(caller)) for _ in range(10)]
    await asyncio.sleep(0)
    days.may_answer.set()
    await asyncio.gather(*takes)
    assert days.draws == [(10, 10)]


async def test_queries_at_the_same_time_get_what_is_there_and_not_more() -> None:
    days, caller = Days(), principal(queries=7)
    limits = Limits(LocalBuckets(), days, Clock())
    found = await asyncio.gather(*(limits.take_query(caller) for _ in range(20)), return_exceptions=True)
    assert [each is None for each in found] == [True] * 7 + [False] * 13


async def test_a_changed_plan_counts_at_once_and_a_lease_of_the_old_one_is_dropped() -> None:
    days = Days()
    limits = Limits(LocalBuckets(), days, Clock())
    assert await queried(limits, principal(queries=1000), 1) == 1
    assert await queried(limits, principal(queries=5), 9) == 0
    assert await queried(limits, principal(queries=12), 9) == 2


async def test_a_stop_gives_back_what_was_not_used() -> None:
    clock, days = Clock(), Days()
    limits = Limits(LocalBuckets(), days, clock)
    await limits.give_back()
    await queried(limits, principal(queries=1000, tenant="yesterday's"), 1)
    clock.seconds += 86_400
    await queried(limits, principal(queries=1000), 13)
    await queried(limits, principal(queries=1000, tenant="exact"), 10)
    await limits.give_back()
    assert sorted(days.used.values()) == [10, 10, 13]
    await limits.give_back()
    assert sorted(days.used.values()) == [10, 10, 13]


async def test_a_stop_goes_on_when_the_storage_is_away() -> None:
    days = Days()
    limits = Limits(LocalBuckets(), days, Clock())
    await queried(limits, principal(queries=1000), 1)
    days.error = StorageUnavailable("away")
    await limits.give_back()
    assert list(days.used.values()) == [10]


@pytest.mark.parametrize("error", [StorageReadOnly("a standby"), StorageFull("no room")])
async def test_while_the_counts_cannot_be_written_each_process_counts_alone_and_tells_it_later(
    error: Exception,
) -> None:
    clock, days, caller = Clock(), Days(), principal(queries=300)
    limits = Limits(LocalBuckets(), days, clock)
    assert await queried(limits, caller, 3) == 3
    days.error = error
    assert await queried(limits, caller, 100) == 100
    days.error = None
    assert await queried(limits, caller, 3) == 3
    assert days.draws[-1] == (105, 105)
    days.error = error
    assert await queried(limits, caller, 1000) == 194
    days.error = None
    clock.seconds += LEASE_SECONDS
    assert await queried(limits, caller, 1) == 0
    assert list(days.used.values()) == [300]


async def test_what_was_admitted_alone_is_not_given_back() -> None:
    days, caller = Days(), principal(queries=1000)
    limits = Limits(LocalBuckets(), days, Clock())
    days.error = StorageFull("no room")
    await queried(limits, caller, 4)
    days.error = None
    await limits.give_back()
    assert sum(days.used.values()) == 0


async def test_days_that_are_over_everywhere_are_forgotten() -> None:
    days = Days()
    await Limits(LocalBuckets(), days, Clock()).forget_full()
    assert days.forgotten == [date(2025, 2, 28)]


async def test_memory_stays_bounded_however_many_tenants_query() -> None:
    clock = Clock()
    limits = Limits(LocalBuckets(), Days(), clock, max_leases=10)
    for number in range(100):
        await limits.take_query(principal(queries=5, tenant=f"{number}"))
    assert len(limits._queries._leases) == 10
    clock.seconds += 86_400
    for _ in range(6):
        await limits.take_query(principal(queries=50, tenant="99"))
    assert len(limits._queries._leases) == 1


@settings(deadline=None)
@given(
    st.integers(1, 5),
    st.sampled_from([1, 50, 100, 1000]),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 400), st.booleans()), min_size=1, max_size=40),
)
def test_processes_together_admit_the_plan_s_queries_but_for_a_lease_of_each_that_was_killed(
    processes: int, limit: int, steps: list[tuple[int, int, bool]]
) -> None:
    async def run() -> None:
        clock, days, caller = Clock(), Days(), principal(queries=limit)
        each = [Limits(LocalBuckets(), days, clock) for _ in range(processes)]
        count = killed = 0
        for number, queries, is_killed in steps:
            count += await queried(each[number % processes], caller, queries)
            assert count <= limit
            if is_killed:
                each[number % processes] = Limits(LocalBuckets(), days, clock)
                killed += 1
        for limits in each:
            await limits.give_back()
        count += await queried(Limits(LocalBuckets(), days, clock), caller, limit)
        assert limit - killed * max(1, limit // 100) <= count <= limit

    asyncio.run(run())
