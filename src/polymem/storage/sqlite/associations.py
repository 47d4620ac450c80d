"""Associations between concepts, read by their ends and by the memory that owns them."""

import json
import sqlite3
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from polymem.domain.concepts import concept_keys
from polymem.domain.model import Association, MemoryId, SpaceId, TenantId
from polymem.storage.rows import ASSOCIATION_COLUMNS, association_from_row, columns, to_json

_ASSOCIATION: Final = columns(ASSOCIATION_COLUMNS, "a")

# The few pairs of space and seed that have anything, before each of them is walked.
_ASSOCIATED: Final = (
    "SELECT s.value, k.value FROM json_each(:spaces) AS s CROSS JOIN json_each(:seeds) AS k WHERE"
    " EXISTS (SELECT 1 FROM associations AS a INDEXED BY associations_by_source"
    "  WHERE a.tenant_id = :tenant AND a.space_id = s.value AND a.source = k.value)"
    " OR EXISTS (SELECT 1 FROM associations AS a INDEXED BY associations_by_target"
    "  WHERE a.tenant_id = :tenant AND a.space_id = s.value AND a.target = k.value)"
)
_STRONGEST: Final = tuple(
    f"SELECT {_ASSOCIATION} FROM associations AS a INDEXED BY associations_by_{end}"
    f" WHERE a.tenant_id = ? AND a.space_id = ? AND a.{end} = ? AND a.weight >= ?"
    f" ORDER BY a.weight DESC, a.{other} LIMIT ?"
    for end, other in (("source", "target"), ("target", "source"))
)
_CONCEPTS: Final = (
    "SELECT m.memory_id, m.space_id, m.concepts FROM json_each(?) AS asked"
    " CROSS JOIN memories AS m ON m.tenant_id = ? AND m.memory_id = asked.value"
)
_FIRST: Final = (
    "SELECT memory_id FROM memory_concepts WHERE tenant_id = ? AND space_id = ? AND concept = ?"
    " ORDER BY memory_id LIMIT 1"
)
_OWNED: Final = (
    f"SELECT {_ASSOCIATION} FROM associations AS a WHERE a.tenant_id = ?1 AND a.space_id = ?2 AND a.source = ?3"
    f" UNION ALL SELECT {_ASSOCIATION} FROM associations AS a INDEXED BY associations_by_target"
    " WHERE a.tenant_id = ?1 AND a.space_id = ?2 AND a.target = ?3 AND NOT EXISTS"
    " (SELECT 1 FROM memory_concepts AS c"
    "  WHERE c.tenant_id = a.tenant_id AND c.space_id = a.space_id AND c.concept = a.source)"
)


def strongest_associations(
    connection: sqlite3.Connection,
    tenant_id: TenantId,
    spaces: frozenset[SpaceId],
    seeds: Sequence[str],
    *,
    min_weight: float,
    limit_per_seed: int,
) -> tuple[Association, ...]:
    """The heaviest of each seed in each space, at most so many of one seed in one space, on either of its ends."""
    asked = {"tenant": tenant_id, "spaces": to_json(sorted(spaces)), "seeds": to_json(sorted(set(seeds)))}
    found: dict[tuple[str, str, str], Association] = {}
    for space_id, seed in connection.execute(_ASSOCIATED, asked).fetchall():
        own = [
            association_from_row(row)
            for statement in _STRONGEST
            for row in connection.execute(statement, (tenant_id, space_id, seed, min_weight, limit_per_seed))
        ]
        for each in sorted(own, key=_heaviest_first)[:limit_per_seed]:
            found[each.space_id, each.source, each.target] = each
    return tuple(sorted(found.values(), key=_heaviest_first))


def owned_associations(
    tenant_id: TenantId, ids: tuple[MemoryId, ...], connection: sqlite3.Connection
) -> dict[MemoryId, tuple[Association, ...]]:
    """The associations that each of these memories owns, by source and target."""
    found: dict[MemoryId, tuple[Association, ...]] = {}
    asked = connection.execute(_CONCEPTS, (to_json(tuple(dict.fromkeys(ids))), tenant_id)).fetchall()
    for memory_id, space_id, concepts in asked:
        owned: list[Association] = []
        for key in concept_keys(json.loads(concepts)):
            place = (tenant_id, space_id, key)
            if connection.execute(_FIRST, place).fetchone() == (memory_id,):
                owned += [association_from_row(row) for row in connection.execute(_OWNED, place)]
        if owned:
            found[memory_id] = tuple(sorted(owned, key=attrgetter("source", "target")))
    return found


def _heaviest_first(association: Association) -> tuple[float, str, str, str]:
    return -association.weight, association.source, association.target, association.space_id
