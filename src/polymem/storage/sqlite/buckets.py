"""Rate limit buckets of the embedded storage: in memory, for only one server owns a data directory."""

from collections import OrderedDict
from datetime import datetime
from typing import Final

from polymem.domain.limits import BucketRule, TokenBucket, drawn, refilled
from polymem.ports.limits import Drawn

MAX_BUCKETS: Final = 50_000
_DRAIN_PER_DRAW: Final = 2


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
