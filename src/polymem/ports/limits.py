"""The port of the rate limits: token buckets that all processes of one storage share."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from polymem.domain.limits import BucketRule


@dataclass(frozen=True, slots=True)
class Drawn:
    """How many whole tokens a draw gave, and what is left in the shared bucket after it."""

    granted: int
    tokens: float


class Buckets(Protocol):
    """Token buckets by name; one that nobody drew from is full. All methods may raise the storage errors.

    Buckets are worth no more than a minute or so of requests: they may be full again after the storage was restarted.
    """

    async def draw(self, name: str, rule: BucketRule, *, wanted: int, unused: int, now: datetime) -> Drawn:
        """Up to `wanted` whole tokens are out of the bucket, after `unused` ones of an earlier draw were put back.

        What time and `unused` add never fills it above its capacity. Draws are atomic, whichever process makes them:
        none sees a bucket that another is drawing from. See `polymem.domain.limits.drawn`.
        """
        ...

    async def forget_full(self, *, before: datetime) -> int:
        """Buckets that were full again by that time take no room any more; how many, where that is known."""
        ...
