"""The associations of concepts, as they are asked for: those of a concept, and those that a memory owns."""

from collections.abc import Sequence
from typing import Final

from polymem.domain.model import Association, MemoryId, SpaceId, TenantId
from polymem.storage.postgres.concept_changes import stored_concept_rows
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.transaction import fetch_all
from polymem.storage.rows import ASSOCIATION_COLUMNS, association_from_row, columns

_ASSOCIATION: Final = columns(ASSOCIATION_COLUMNS, "a")
# One bounded walk of an index for each concept, space and end, strongest first.
_OF_SEED: Final = (
    f"(SELECT {_ASSOCIATION} FROM associations AS a WHERE a.tenant_id = %s AND a.space_id = p.space_id"
    " AND a.{end} = s.concept AND a.weight >= %s ORDER BY a.weight DESC, a.{other} LIMIT %s)"
)
# Of the same weight those that end in the concept come first, as their sources are the smaller ones.
_STRONGEST: Final = (
    f"SELECT DISTINCT {_ASSOCIATION} FROM unnest(%s::text[]) AS s (concept)"
    " CROSS JOIN unnest(%s::text[]) AS p (space_id) CROSS JOIN LATERAL"
    f" (SELECT * FROM ({_OF_SEED.format(end='source', other='target')}"
    f" UNION ALL {_OF_SEED.format(end='target', other='source')}) AS a"
    " ORDER BY a.weight DESC, a.source, a.target LIMIT %s) AS a"
    " ORDER BY a.weight DESC, a.source, a.target, a.space_id"
)
_CONCEPTS: Final = (
    "SELECT memory_id, space_id, concepts FROM memories WHERE tenant_id = %s AND memory_id = ANY(%s::text[])"
)
# Of each concept given, in its space, the memory that leads it: the one with the lowest id.
_LED: Final = (
    "WITH led AS MATERIALIZED (SELECT g.* FROM unnest(%s::text[], %s::text[], %s::text[])"
    " AS g (space_id, concept, memory_id) WHERE NOT EXISTS (SELECT 1 FROM memory_concepts AS c WHERE c.tenant_id = %s"
    " AND c.space_id = g.space_id AND c.concept = g.concept AND c.memory_id < g.memory_id))"
)
_OWNED: Final = (
    f"{_LED} SELECT led.memory_id, {_ASSOCIATION} FROM led JOIN associations AS a ON a.tenant_id = %s"
    " AND a.space_id = led.space_id AND a.source = led.concept"
    f" UNION ALL SELECT led.memory_id, {_ASSOCIATION} FROM led JOIN associations AS a ON a.tenant_id = %s"
    " AND a.space_id = led.space_id AND a.target = led.concept WHERE NOT EXISTS (SELECT 1 FROM memory_concepts AS c"
    " WHERE c.tenant_id = %s AND c.space_id = a.space_id AND c.concept = a.source)"
    " ORDER BY memory_id, source, target"
)


async def strongest(
    connection: Connection,
    tenant_id: TenantId,
    spaces: frozenset[SpaceId],
    seeds: Sequence[str],
    *,
    min_weight: float,
    limit_per_seed: int,
) -> tuple[Association, ...]:
    """The strongest of each concept in each space, heaviest first, then by source, target and space."""
    walk = (tenant_id, min_weight, limit_per_seed)
    rows = await fetch_all(connection, _STRONGEST, (sorted(set(seeds)), sorted(spaces), *walk, *walk, limit_per_seed))
    return tuple(association_from_row(row) for row in rows)


async def owned(
    connection: Connection, tenant_id: TenantId, ids: Sequence[MemoryId]
) -> dict[MemoryId, tuple[Association, ...]]:
    """The associations that each of these memories owns; the connection's statements see one moment."""
    memories = await fetch_all(connection, _CONCEPTS, (tenant_id, list(dict.fromkeys(ids))))
    rows = [row for memory_id, *told in memories for row in stored_concept_rows(tenant_id, told[0], memory_id, told[1])]
    if not rows:
        return {}
    given = [[row[place] for row in rows] for place in (1, 2, 3)]
    found: dict[MemoryId, list[Association]] = {}
    for memory_id, *row in await fetch_all(connection, _OWNED, (*given, tenant_id, tenant_id, tenant_id, tenant_id)):
        found.setdefault(memory_id, []).append(association_from_row(tuple(row)))
    return {memory_id: tuple(associations) for memory_id, associations in found.items()}
