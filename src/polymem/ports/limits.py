"""The ports of the limits: token buckets and counts of a day, which all processes of one storage share."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from polymem.domain.limits import BucketRule
from polymem.domain.model import TenantId


@dataclass(frozen=True, slots=True)
class Drawn:
    """How many whole tokens a draw gave, and what is left in the shared bucket after it."""

    granted: int
    tokens: float


class Buckets(Protocol):
    """Token buckets by name; one that nobody drew from is full. All methods may raise the storage errors.

    A server that ends and starts again finds them as it left them, but for the last moment when it was killed. They
    are worth no more than a minute or so of requests: after a crash of the machine or database they may be full again.
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


class DailyQueries(Protocol):
    """How many queries each tenant used on a day of UTC. Durable: what was taken stays taken, whatever crashes.

    All methods may raise the storage errors.
    """

    async def take(self, tenant_id: TenantId, day: date, *, wanted: int, limit: int) -> int:
        """Up to `wanted` more queries are counted for the day, so that it has no more than `limit`; how many.

        Atomic, whichever process asks. A day that already has more than a limit, which was higher then, gets none.
        After an error fewer may be left, never more.
        """
        ...

    async def give_back(self, day: date, unused: Mapping[TenantId, int]) -> None:
        """So many queries of each tenant, which were taken and not used, are not counted any more.

        Done once or, after an error, perhaps not at all. A day that is not known is left alone.
        """
        ...

    async def forget(self, *, before: date) -> int:
        """Days before this one take no room any more; how many there were."""
        ...
