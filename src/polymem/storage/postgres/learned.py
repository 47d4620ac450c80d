"""The reads of what was learned of a tenant's memories, and of what repeats and refers: a part of its store."""

import json
from collections.abc import Sequence
from typing import Final

from polymem.domain.concepts import concept_keys, external_ref_identity
from polymem.domain.model import (
    Association,
    Membership,
    Memory,
    MemoryId,
    MemoryRole,
    Space,
    SpaceId,
    SpaceKind,
    TenantId,
    UserId,
)
from polymem.domain.query import FeedPosition, Learned, MemoryFilter, SpaceStatistics
from polymem.storage.conditions import MOST_REPEATS
from polymem.storage.postgres.associations import owned, strongest
from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.memory_lists import list_feed
from polymem.storage.postgres.transaction import Row, fetch_all
from polymem.storage.rows import MEMORY_COLUMNS, SPACE_COLUMNS, columns, membership_of, memory_from_row, space_from_row

_BY_REFERENCE: Final = (
    f"SELECT {columns(MEMORY_COLUMNS)} FROM memories"
    " WHERE tenant_id = %s AND identity = %s AND space_id = ANY(%s::text[])"
)
_STANDING: Final = "m.space_id = ANY(%s::text[]) AND m.state = 'active' AND m.superseded_by IS NULL"
_REPEATS: Final = (
    "SELECT r.memory_id, r.content_key FROM ("
    "SELECT m.created_at, m.memory_id, m.content_key FROM memories AS m"
    f" WHERE m.tenant_id = %s AND m.content_key = ANY(%s::text[]) AND {_STANDING}"
    " UNION SELECT m.created_at, m.memory_id, m.content_key FROM memories AS m"
    f" WHERE m.tenant_id = %s AND m.fingerprint = %s AND {_STANDING}"
    f") AS r ORDER BY r.created_at, r.memory_id LIMIT {MOST_REPEATS}"
)
_LEARNED: Final = (
    "SELECT memory_id, valence, concepts FROM memories"
    " WHERE tenant_id = %s AND memory_id = ANY(%s::text[]) AND space_id = ANY(%s::text[])"
)
_COUNTS: Final = (
    "SELECT w.concept, sum(n.held)::bigint FROM unnest(%s::text[]) AS w (concept)"
    " CROSS JOIN unnest(%s::text[]) AS p (space_id) CROSS JOIN LATERAL (SELECT count(*) AS held"
    " FROM memory_concepts AS c WHERE c.tenant_id = %s AND c.space_id = p.space_id AND c.concept = w.concept) AS n"
    " GROUP BY w.concept HAVING sum(n.held) > 0 ORDER BY w.concept"
)
_COUNTED: Final = (
    *(f"count(*) FILTER (WHERE m.state = 'active' AND m.role = '{role.value}')" for role in MemoryRole),
    (
        "count(DISTINCT m.content_key) FILTER (WHERE m.state = 'active' AND m.fingerprint IS NULL)"
        " + count(DISTINCT m.fingerprint) FILTER (WHERE m.state = 'active')"
    ),
    "coalesce(sum(m.valence) FILTER (WHERE m.state = 'active'), 0.0)",
    "coalesce(sum(m.importance) FILTER (WHERE m.state = 'active'), 0.0)",
)
# Each space is counted along its own part of an index.
_STATISTICS: Final = (
    "SELECT p.space_id, c.*, e.held FROM unnest(%s::text[]) AS p (space_id) CROSS JOIN LATERAL"
    f" (SELECT {', '.join(_COUNTED)}, count(*) AS held FROM memories AS m"
    " WHERE m.tenant_id = %s AND m.space_id = p.space_id) AS c CROSS JOIN LATERAL"
    " (SELECT count(*) AS held FROM associations AS a WHERE a.tenant_id = %s AND a.space_id = p.space_id) AS e"
    " WHERE c.held > 0 OR e.held > 0 ORDER BY p.space_id"
)
_FIND_SPACE: Final = (
    f"SELECT {columns(SPACE_COLUMNS, 's')}, b.role FROM spaces AS s LEFT JOIN members AS b"
    " ON b.tenant_id = s.tenant_id AND b.space_id = s.space_id AND b.user_id = %s"
    " WHERE s.tenant_id = %s AND s.kind = %s AND s.name = %s AND s.kind <> 'personal'"
)


class LearnedReads:
    """The part of a tenant's store that tells what was learned."""

    def __init__(self, database: Database, tenant_id: TenantId) -> None:
        self._database = database
        self._tenant_id = tenant_id

    async def feed(
        self, where: MemoryFilter, *, after: FeedPosition | None, limit: int, with_superseded: bool
    ) -> tuple[Memory, ...]:
        """The memories that pass, newest first, from the position on."""

        async def unit(connection: Connection) -> tuple[Memory, ...]:
            return await list_feed(
                connection, self._tenant_id, where, after=after, limit=limit, with_superseded=with_superseded
            )

        return await self._database.read(unit)

    async def find_external_ref(self, external_ref: str, spaces: frozenset[SpaceId]) -> Memory | None:
        """The memory of this reference when it is in these spaces."""
        identity = external_ref_identity(external_ref)
        rows = await self._rows(_BY_REFERENCE, (self._tenant_id, identity, sorted(spaces)))
        return memory_from_row(rows[0]) if rows else None

    async def find_repeats(
        self, spaces: frozenset[SpaceId], *, content_keys: Sequence[str] = (), fingerprint: str | None = None
    ) -> tuple[tuple[MemoryId, str], ...]:
        """Active memories that nothing superseded, with one of these texts or this fingerprint, oldest first."""
        within = sorted(spaces)
        rows = await self._rows(
            _REPEATS, (self._tenant_id, sorted(set(content_keys)), within, self._tenant_id, fingerprint, within)
        )
        return tuple((MemoryId(memory_id), key) for memory_id, key in rows)

    async def learned(self, ids: Sequence[MemoryId], spaces: frozenset[SpaceId]) -> dict[MemoryId, Learned]:
        """Valence and concept keys of these memories, in the order of the ids."""
        asked = list(dict.fromkeys(ids))
        rows = await self._rows(_LEARNED, (self._tenant_id, asked, sorted(spaces)))
        found = {
            memory_id: Learned(valence=valence, concepts=frozenset(concept_keys(json.loads(concepts))))
            for memory_id, valence, concepts in rows
        }
        return {memory_id: found[memory_id] for memory_id in asked if memory_id in found}

    async def count_concepts(self, keys: Sequence[str], spaces: frozenset[SpaceId]) -> dict[str, int]:
        """How many memories of these spaces have each of these concepts."""
        return dict(await self._rows(_COUNTS, (sorted(set(keys)), sorted(spaces), self._tenant_id)))

    async def associations(
        self, spaces: frozenset[SpaceId], seeds: Sequence[str], *, min_weight: float, limit_per_seed: int
    ) -> tuple[Association, ...]:
        """The strongest associations of each of these concepts in each of these spaces."""

        async def unit(connection: Connection) -> tuple[Association, ...]:
            return await strongest(
                connection, self._tenant_id, spaces, seeds, min_weight=min_weight, limit_per_seed=limit_per_seed
            )

        return await self._database.read(unit)

    async def owned_associations(self, ids: Sequence[MemoryId]) -> dict[MemoryId, tuple[Association, ...]]:
        """The associations that these memories own, by source and target."""

        async def unit(connection: Connection) -> dict[MemoryId, tuple[Association, ...]]:
            return await owned(connection, self._tenant_id, ids)

        return await self._database.read(unit, in_snapshot=True)

    async def statistics(self, spaces: frozenset[SpaceId]) -> tuple[SpaceStatistics, ...]:
        """The counts of each of these spaces that has a memory or an association."""
        rows = await self._rows(_STATISTICS, (sorted(spaces), self._tenant_id, self._tenant_id))
        return tuple(_statistics(row) for row in rows)

    async def find_space(self, kind: SpaceKind, name: str, user_id: UserId) -> tuple[Space, Membership | None] | None:
        """The space of this kind and name with this user's membership in it."""
        rows = await self._rows(_FIND_SPACE, (user_id, self._tenant_id, kind.value, name))
        return (space_from_row(rows[0]), membership_of(rows[0][0], user_id, rows[0][-1])) if rows else None

    async def _rows(self, statement: str, parameters: tuple[object, ...]) -> list[Row]:
        return await self._database.read(lambda connection: fetch_all(connection, statement, parameters))


def _statistics(row: Row) -> SpaceStatistics:
    """The statistics of a row of `_STATISTICS`."""
    space_id, *counts, fingerprints, valence_sum, importance_sum, _, associations = row
    return SpaceStatistics(
        space_id=space_id,
        by_role=dict(zip(MemoryRole, counts, strict=True)),
        fingerprints=fingerprints,
        valence_sum=valence_sum,
        importance_sum=importance_sum,
        associations=associations,
    )
