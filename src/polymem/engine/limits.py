"""Request limits: per tenant by its plan, per address for those who show no key yet; and queries of a day.

The buckets are shared by every process of the storage. A process draws a few tokens at a time (a lease: 1 % of what a
bucket holds) and admits requests from them without asking again; what it has not used within a second goes back with
the next draw. So all processes together never admit more than capacity + rate x time, and less than that by at most a
lease each.

Queries of a day are drawn in the same way, 1 % of the plan's at a time, from counts that survive everything; what is
left goes back when the process stops. All processes together never admit more than the plan allows; a process that is
killed takes at most a lease with it.
"""

import asyncio
import ipaddress
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

from polymem.domain.limits import (
    BucketRule,
    TokenBucket,
    drawn,
    leased_part,
    leased_tokens,
    refilled,
    seconds_until_full,
    seconds_until_next_day,
    seconds_until_token,
)
from polymem.domain.model import Principal, TenantId
from polymem.engine.requests import RateState
from polymem.errors import DailyLimitReached, RateLimited, StorageFull, StorageReadOnly, StorageUnavailable
from polymem.ports.limits import Buckets, DailyQueries, Drawn
from polymem.ports.runtime import Clock

ANONYMOUS = BucketRule(capacity=60, refill_per_second=2.0)
LEASE_SECONDS = 1.0
MAX_LEASES = 50_000
_DRAIN_PER_CALL = 2


@dataclass(slots=True)
class _Lease:
    """What this process may still take of one bucket, and what the bucket holds as far as it knows.

    `rule` None: it was never asked. One draw is in flight at a time; `draw` makes the others wait for it.
    """

    known: TokenBucket
    left: int = 0
    rule: BucketRule | None = None
    ends_seconds: float = 0.0
    draw: asyncio.Lock = field(default_factory=asyncio.Lock)


class Limits:
    """Counts requests over shared buckets. Raises the storage errors when the buckets do not answer.

    While the storage can be read and not written, requests are still served: each process then counts alone.
    """

    def __init__(
        self,
        buckets: Buckets,
        daily_queries: DailyQueries,
        clock: Clock,
        *,
        anonymous: BucketRule = ANONYMOUS,
        max_leases: int = MAX_LEASES,
    ) -> None:
        self._buckets = buckets
        self._queries = _Queries(daily_queries, clock, max_leases=max_leases)
        self._clock = clock
        self._anonymous = anonymous
        self._max_leases = max_leases
        self._leases: OrderedDict[str, _Lease] = OrderedDict()

    async def take(self, principal: Principal) -> RateState:
        """One request of the principal's tenant is counted. Raises `RateLimited` beyond its plan."""
        plan = principal.plan
        rule = BucketRule(capacity=plan.burst, refill_per_second=plan.requests_per_minute / 60)
        tokens = await self._take(f"tenant:{principal.tenant_id}", rule)
        return _state(plan.requests_per_minute, tokens, rule)

    async def take_anonymous(self, address: str) -> RateState:
        """One keyless request or failed login from an address is counted. Raises `RateLimited` beyond the rule.

        IPv6 addresses count by their /64, which one caller owns whole.
        """
        tokens = await self._take(f"address:{_network(address)}", self._anonymous)
        return _state(round(self._anonymous.refill_per_second * 60), tokens, self._anonymous)

    def anonymous_state(self, address: str | None) -> RateState:
        """Where an address stands as far as this process knows; nothing is counted. None: one that has no limit."""
        rule, tokens = self._anonymous, self._anonymous.capacity
        lease = None if address is None else self._leases.get(f"address:{_network(address)}")
        if lease is not None and lease.rule == rule:
            tokens = refilled(lease.known, rule, self._clock.now()).tokens
        return _state(round(rule.refill_per_second * 60), tokens, rule)

    async def take_query(self, principal: Principal) -> None:
        """One query of the principal's tenant is counted for today (UTC).

        Raises `DailyLimitReached` beyond its plan. A plan without that limit costs nothing.
        """
        limit = principal.plan.queries_per_day
        if limit is not None:
            await self._queries.take(principal.tenant_id, limit)

    async def forget_full(self) -> int:
        """Buckets that are full and days that are over take no room any more; how many buckets, where that is known."""
        await self._queries.forget()
        return await self._buckets.forget_full(before=self._clock.now())

    async def give_back(self) -> None:
        """What this process drew of today's queries and did not use is there for others; for a clean stop."""
        await self._queries.give_back()

    async def _take(self, name: str, rule: BucketRule) -> float:
        """How many tokens are left, after one was taken. Raises `RateLimited` when there is none."""
        lease = self._lease(name)
        if not self._is_settled(lease, rule):
            async with lease.draw:
                # Another request may have drawn meanwhile.
                if not self._is_settled(lease, rule):
                    await self._draw(name, rule, lease)
        lease.known = refilled(lease.known, rule, self._clock.now())
        if lease.left == 0:
            raise RateLimited(seconds_until_token(lease.known.tokens, rule))
        lease.left -= 1
        lease.known = replace(lease.known, tokens=lease.known.tokens - 1)
        return lease.known.tokens

    def _is_settled(self, lease: _Lease, rule: BucketRule) -> bool:
        """True while the lease can answer: it has a token, or knows that the bucket has none."""
        if lease.rule != rule or self._clock.monotonic() >= lease.ends_seconds:
            return False
        return lease.left > 0 or refilled(lease.known, rule, self._clock.now()).tokens < 1.0

    async def _draw(self, name: str, rule: BucketRule, lease: _Lease) -> None:
        """The lease is new; what was left of it went back."""
        now = self._clock.now()
        unused, lease.left = lease.left, 0
        try:
            found = await self._buckets.draw(name, rule, wanted=leased_tokens(rule), unused=unused, now=now)
        except (StorageReadOnly, StorageFull):
            alone, granted = drawn(
                lease.known if lease.rule == rule else None, rule, wanted=leased_tokens(rule), unused=0, now=now
            )
            found = Drawn(granted, alone.tokens)
        lease.left, lease.rule = found.granted, rule
        lease.known = TokenBucket(found.tokens + found.granted, now)
        lease.ends_seconds = self._clock.monotonic() + LEASE_SECONDS

    def _says_nothing(self, lease: _Lease) -> bool:
        """True for a lease without tokens of a bucket that must be full by now."""
        if lease.left > 0 or lease.draw.locked() or self._clock.monotonic() < lease.ends_seconds:
            return False
        return lease.rule is None or refilled(lease.known, lease.rule, self._clock.now()).tokens >= lease.rule.capacity

    def _lease(self, name: str) -> _Lease:
        """The lease of this name, for which room was made among a bounded number."""
        for _ in range(_DRAIN_PER_CALL):
            oldest = next(iter(self._leases.values()), None)
            if oldest is None or not self._says_nothing(oldest):
                break
            self._leases.popitem(last=False)
        lease = self._leases.get(name)
        if lease is None:
            lease = self._leases[name] = _Lease(TokenBucket(0.0, self._clock.now()))
        self._leases.move_to_end(name)
        if len(self._leases) > self._max_leases:
            self._leases.popitem(last=False)
        return lease


@dataclass(slots=True)
class _DayLease:
    """What this process may still take of one tenant's queries of one day.

    `admitted`: how many were left here in all. `owed`: those among them that the storage, which could not be written,
    has not counted yet. `limit`: the plan's when it was last asked. A refusal stands until `refused_until_seconds`.
    """

    day: date
    left: int = 0
    admitted: int = 0
    owed: int = 0
    limit: int | None = None
    refused_until_seconds: float = 0.0
    draw: asyncio.Lock = field(default_factory=asyncio.Lock)


class _Queries:
    """Counts queries of a day over shared counts; while these cannot be written, alone."""

    def __init__(self, daily_queries: DailyQueries, clock: Clock, *, max_leases: int) -> None:
        self._daily = daily_queries
        self._clock = clock
        self._max_leases = max_leases
        self._leases: OrderedDict[TenantId, _DayLease] = OrderedDict()

    async def take(self, tenant_id: TenantId, limit: int) -> None:
        """One query is counted. Raises `DailyLimitReached` beyond the limit."""
        now = self._clock.now()
        lease = self._lease(tenant_id, now.date())
        if not self._is_settled(lease, limit):
            async with lease.draw:
                # Another query may have drawn meanwhile.
                if not self._is_settled(lease, limit):
                    await self._draw(tenant_id, lease, limit)
        if lease.left == 0:
            raise DailyLimitReached(limit, seconds_until_next_day(now))
        lease.left -= 1

    async def forget(self) -> None:
        """Days that are over on every clock take no room any more."""
        await self._daily.forget(before=self._clock.now().date() - timedelta(days=1))

    async def give_back(self) -> None:
        """What is left of today's leases went back, as far as the storage can be written."""
        today = self._clock.now().date()
        unused: dict[TenantId, int] = {}
        for tenant_id, lease in self._leases.items():
            if lease.day == today and lease.left > lease.owed:
                unused[tenant_id] = lease.left - lease.owed
                lease.left = 0
        if unused:
            with suppress(StorageUnavailable):
                await self._daily.give_back(today, unused)

    def _is_settled(self, lease: _DayLease, limit: int) -> bool:
        """True while the lease can answer: it has a query, or was told just now that there is none."""
        return lease.limit == limit and (lease.left > 0 or self._clock.monotonic() < lease.refused_until_seconds)

    async def _draw(self, tenant_id: TenantId, lease: _DayLease, limit: int) -> None:
        """The lease is new. What a lease under another limit had left is dropped: it may be more than there is now."""
        lease.left = 0
        part = leased_part(limit)
        try:
            granted = await self._daily.take(tenant_id, lease.day, wanted=part + lease.owed, limit=limit)
        except (StorageReadOnly, StorageFull):
            lease.left = max(0, min(part, limit - lease.admitted))
            lease.owed += lease.left
        else:
            paid = min(granted, lease.owed)
            lease.left, lease.owed = granted - paid, lease.owed - paid
        lease.admitted += lease.left
        lease.limit = limit
        lease.refused_until_seconds = 0.0 if lease.left else self._clock.monotonic() + LEASE_SECONDS

    def _lease(self, tenant_id: TenantId, today: date) -> _DayLease:
        """The tenant's lease of today, for which room was made among a bounded number."""
        for _ in range(_DRAIN_PER_CALL):
            oldest = next(iter(self._leases.values()), None)
            if oldest is None or oldest.day == today:
                break
            self._leases.popitem(last=False)
        lease = self._leases.get(tenant_id)
        if lease is None or lease.day != today:
            lease = self._leases[tenant_id] = _DayLease(today)
        self._leases.move_to_end(tenant_id)
        if len(self._leases) > self._max_leases:
            self._leases.popitem(last=False)
        return lease


def _state(limit: int, tokens: float, rule: BucketRule) -> RateState:
    return RateState(limit=limit, remaining=min(limit, int(tokens)), reset_seconds=seconds_until_full(tokens, rule))


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed.packed, 64), strict=False))
