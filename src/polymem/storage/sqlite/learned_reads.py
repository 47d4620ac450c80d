"""The reads of a tenant's store that know what was learned: feeds, references, repeats, concepts, associations."""

import sqlite3
from collections.abc import Sequence
from functools import partial

from polymem.domain.model import Association, Membership, Memory, MemoryId, Space, SpaceId, SpaceKind, TenantId, UserId
from polymem.domain.query import FeedPosition, Learned, MemoryFilter, SpaceStatistics
from polymem.storage.rows import SPACE_COLUMNS, columns, membership_of, space_from_row
from polymem.storage.sqlite.associations import owned_associations, strongest_associations
from polymem.storage.sqlite.connection import Database
from polymem.storage.sqlite.feed import feed_page
from polymem.storage.sqlite.learned import (
    count_concepts,
    find_external_ref,
    find_repeats,
    read_learned,
    read_statistics,
)

_SPACE_OF_NAME = (
    f"SELECT {columns(SPACE_COLUMNS, 's')}, b.role FROM spaces AS s LEFT JOIN members AS b"
    " ON b.tenant_id = s.tenant_id AND b.space_id = s.space_id AND b.user_id = ?"
    " WHERE s.tenant_id = ? AND s.kind = ? AND s.name = ? AND s.kind <> 'personal'"
)


class SqliteLearnedReads:
    """The part of `SqliteTenantStore` that reads what was learned."""

    def __init__(self, database: Database, tenant_id: TenantId) -> None:
        self._database = database
        self._tenant_id = tenant_id

    async def feed(
        self, where: MemoryFilter, *, after: FeedPosition | None, limit: int, with_superseded: bool
    ) -> tuple[Memory, ...]:
        """The memories that pass, newest first, from the position on."""

        def unit(connection: sqlite3.Connection) -> tuple[Memory, ...]:
            return feed_page(
                connection, self._tenant_id, where, after=after, limit=limit, with_superseded=with_superseded
            )

        return await self._database.read(unit)

    async def find_external_ref(self, external_ref: str, spaces: frozenset[SpaceId]) -> Memory | None:
        """The memory of this reference in these spaces."""
        return await self._database.read(partial(find_external_ref, self._tenant_id, external_ref, spaces))

    async def find_repeats(
        self, spaces: frozenset[SpaceId], *, content_keys: Sequence[str] = (), fingerprint: str | None = None
    ) -> tuple[tuple[MemoryId, str], ...]:
        """Active memories that say one of these texts, or have this fingerprint, oldest first."""
        unit = partial(find_repeats, self._tenant_id, spaces, tuple(content_keys), fingerprint)
        return await self._database.read(unit)

    async def learned(self, ids: Sequence[MemoryId], spaces: frozenset[SpaceId]) -> dict[MemoryId, Learned]:
        """What was learned of these memories."""
        return await self._database.read(partial(read_learned, self._tenant_id, tuple(ids), spaces))

    async def count_concepts(self, keys: Sequence[str], spaces: frozenset[SpaceId]) -> dict[str, int]:
        """How many memories have each of these concepts."""
        return await self._database.read(partial(count_concepts, self._tenant_id, tuple(keys), spaces))

    async def associations(
        self, spaces: frozenset[SpaceId], seeds: Sequence[str], *, min_weight: float, limit_per_seed: int
    ) -> tuple[Association, ...]:
        """The strongest associations of these concepts, heaviest first."""

        def unit(connection: sqlite3.Connection) -> tuple[Association, ...]:
            return strongest_associations(
                connection, self._tenant_id, spaces, seeds, min_weight=min_weight, limit_per_seed=limit_per_seed
            )

        return await self._database.read(unit)

    async def owned_associations(self, ids: Sequence[MemoryId]) -> dict[MemoryId, tuple[Association, ...]]:
        """The associations that each of these memories owns."""
        return await self._database.read(partial(owned_associations, self._tenant_id, tuple(ids)))

    async def statistics(self, spaces: frozenset[SpaceId]) -> tuple[SpaceStatistics, ...]:
        """The counts of each of these spaces that holds anything."""
        return await self._database.read(partial(read_statistics, self._tenant_id, spaces))

    async def find_space(self, kind: SpaceKind, name: str, user_id: UserId) -> tuple[Space, Membership | None] | None:
        """The space of this kind and name, with this user's membership in it."""

        def unit(connection: sqlite3.Connection) -> tuple[Space, Membership | None] | None:
            row = connection.execute(_SPACE_OF_NAME, (user_id, self._tenant_id, kind.value, name)).fetchone()
            return None if row is None else (space_from_row(row), membership_of(row[0], user_id, row[-1]))

        return await self._database.read(unit)
