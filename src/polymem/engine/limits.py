"""Request limits: per tenant by its plan, per address for those who show no key yet. Bounded memory."""

import ipaddress
from collections import OrderedDict
from typing import assert_never

from polymem.domain.limits import (
    BucketRule,
    Refused,
    Taken,
    TokenBucket,
    full_bucket,
    refilled,
    take_token,
)
from polymem.domain.model import Principal
from polymem.engine.requests import RateState
from polymem.errors import RateLimited
from polymem.ports.runtime import Clock

ANONYMOUS = BucketRule(capacity=60, refill_per_second=2.0)
MAX_BUCKETS = 50_000
_DRAIN_PER_CALL = 2


class Limits:
    """Counts requests in this process. State that says nothing any more (a full bucket) is dropped.

    Each process counts on its own: with several of them a plan's limit holds per process.
    """

    def __init__(self, clock: Clock, *, anonymous: BucketRule = ANONYMOUS, max_buckets: int = MAX_BUCKETS) -> None:
        self._clock = clock
        self._anonymous = anonymous
        self._tenants = _Buckets(max_buckets)
        self._addresses = _Buckets(max_buckets)

    def take(self, principal: Principal) -> RateState:
        """One request of the principal's tenant is counted. Raises `RateLimited` beyond its plan."""
        plan = principal.plan
        rule = BucketRule(capacity=plan.burst, refill_per_second=plan.requests_per_minute / 60)
        taken = self._tenants.take(principal.tenant_id, rule, self._clock.monotonic())
        return _state(plan.requests_per_minute, taken)

    def take_anonymous(self, address: str) -> RateState:
        """One keyless request or failed login from an address is counted. Raises `RateLimited` beyond the rule.

        IPv6 addresses count by their /64, which one caller owns whole.
        """
        taken = self._addresses.take(_network(address), self._anonymous, self._clock.monotonic())
        return _state(round(self._anonymous.refill_per_second * 60), taken)


def _state(limit: int, taken: Taken) -> RateState:
    return RateState(
        limit=limit, remaining=min(limit, int(taken.bucket.tokens)), reset_seconds=max(0.0, taken.full_in_seconds)
    )


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


class _Buckets:
    """Buckets by name, longest unused first; at most `max_buckets`."""

    def __init__(self, max_buckets: int) -> None:
        self._max_buckets = max_buckets
        self._buckets: OrderedDict[str, tuple[TokenBucket, BucketRule]] = OrderedDict()

    def take(self, name: str, rule: BucketRule, now_seconds: float) -> Taken:
        self._drop_full(now_seconds)
        known = self._buckets.get(name)
        bucket = full_bucket(rule, now_seconds) if known is None else known[0]
        outcome = take_token(bucket, rule, now_seconds)
        self._buckets[name] = (outcome.bucket, rule)
        self._buckets.move_to_end(name)
        while len(self._buckets) > self._max_buckets:
            self._buckets.popitem(last=False)
        match outcome:
            case Taken():
                return outcome
            case Refused():
                raise RateLimited(outcome.retry_after_seconds)
            case _ as never:
                assert_never(never)

    def _drop_full(self, now_seconds: float) -> None:
        """A few of the longest unused buckets are gone, if they are full again."""
        for _ in range(_DRAIN_PER_CALL):
            name = next(iter(self._buckets), None)
            if name is None:
                return
            bucket, rule = self._buckets[name]
            if refilled(bucket, rule, now_seconds).tokens < rule.capacity:
                return
            del self._buckets[name]
