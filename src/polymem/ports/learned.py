"""The reads of a tenant's store that know what was learned: part of the storage port.

All methods may raise the storage errors.
"""

from collections.abc import Sequence
from typing import Protocol

from polymem.domain.model import Association, Memory, MemoryId, SpaceId
from polymem.domain.query import FeedPosition, Learned, MemoryFilter, SpaceStatistics


class LearnedReads(Protocol):
    """References, repeats, feeds, concepts, associations and counts of one tenant."""

    async def feed(
        self, where: MemoryFilter, *, after: FeedPosition | None, limit: int, with_superseded: bool
    ) -> tuple[Memory, ...]:
        """The memories that pass, newest `created_at` first, ties by id downwards, from the position on.

        What is added or deleted meanwhile moves nothing else: following the last position of each page shows every
        memory that was there all the time once.
        """
        ...

    async def find_external_ref(self, external_ref: str, spaces: frozenset[SpaceId]) -> Memory | None:
        """The memory of this reference, in any state, when it is in these spaces."""
        ...

    async def find_repeats(
        self, spaces: frozenset[SpaceId], *, content_keys: Sequence[str] = (), fingerprint: str | None = None
    ) -> tuple[tuple[MemoryId, str], ...]:
        """Active memories of these spaces that nothing superseded, with a text of one of the keys or this fingerprint.

        Each with the key of its text, oldest first, at most 100.
        """
        ...

    async def learned(self, ids: Sequence[MemoryId], spaces: frozenset[SpaceId]) -> dict[MemoryId, Learned]:
        """What was learned of these memories; unknown ids are left out."""
        ...

    async def count_concepts(self, keys: Sequence[str], spaces: frozenset[SpaceId]) -> dict[str, int]:
        """How many memories of these spaces have each of these concepts; those that none has are left out."""
        ...

    async def associations(
        self, spaces: frozenset[SpaceId], seeds: Sequence[str], *, min_weight: float, limit_per_seed: int
    ) -> tuple[Association, ...]:
        """The strongest associations of each of these concepts in each of these spaces, heaviest first, ties by key.

        Each once; `limit_per_seed` bounds those of one concept in one space, counted on either end.
        """
        ...

    async def owned_associations(self, ids: Sequence[MemoryId]) -> dict[MemoryId, tuple[Association, ...]]:
        """The associations that these memories own, by source and target; a memory that owns none is left out.

        Of the memories of its space that have the source of an association, the one with the lowest id owns it; where
        none has it, of those that have the target. So every association has one owner.
        """
        ...

    async def statistics(self, spaces: frozenset[SpaceId]) -> tuple[SpaceStatistics, ...]:
        """The counts of each of these spaces that has a memory or an association, by space id."""
        ...
