"""What was learned of memories and said before: references, repeats, concepts and the counts of spaces."""

import json
import sqlite3
from typing import Final

from polymem.domain.concepts import concept_keys, external_ref_identity
from polymem.domain.model import Memory, MemoryId, MemoryRole, SpaceId, TenantId
from polymem.domain.query import Learned, SpaceStatistics
from polymem.storage.conditions import MOST_REPEATS
from polymem.storage.rows import MEMORY_COLUMNS, columns, memory_from_row, to_json
from polymem.storage.sqlite.filters import one_of

_MEMORY: Final = columns(MEMORY_COLUMNS, "m")

# One statement of bounded walks: the oldest of each text in each space, and of the fingerprint in each space.
_STANDS: Final = "r.state = 'active' AND r.superseded_by IS NULL ORDER BY r.created_at, r.memory_id LIMIT :most"
_REPEATS: Final = (
    "SELECT m.memory_id, m.content_key FROM memories AS m WHERE m.doc_no IN ("
    " SELECT d.value FROM json_each(:spaces) AS s CROSS JOIN json_each(:keys) AS k"
    "  CROSS JOIN json_each((SELECT json_group_array(doc_no) FROM (SELECT r.doc_no FROM memories AS r"
    "   INDEXED BY memories_by_content WHERE r.tenant_id = :tenant AND r.space_id = s.value"
    f"   AND r.content_key = k.value AND {_STANDS}))) AS d"
    " UNION SELECT d.value FROM json_each(:spaces) AS s"
    "  CROSS JOIN json_each((SELECT json_group_array(doc_no) FROM (SELECT r.doc_no FROM memories AS r"
    "   INDEXED BY memories_by_fingerprint WHERE r.tenant_id = :tenant AND r.space_id = s.value"
    f"   AND r.fingerprint = :fingerprint AND r.fingerprint IS NOT NULL AND {_STANDS}))) AS d"
    ") ORDER BY m.created_at, m.memory_id LIMIT :most"
)
_COUNT: Final = (
    "SELECT k.value, sum((SELECT count(*) FROM memory_concepts AS c"
    "  WHERE c.tenant_id = :tenant AND c.space_id = s.value AND c.concept = k.value))"
    " FROM json_each(:keys) AS k CROSS JOIN json_each(:spaces) AS s GROUP BY k.value"
)
_ROLES: Final = tuple(MemoryRole)
# Each is a walk of an index that holds all it asks for.
_STATISTICS: Final = (
    "SELECT total(m.valence), total(m.importance), "
    + ", ".join(f"coalesce(sum(m.role = '{role.value}'), 0)" for role in _ROLES)
    + " FROM memories AS m INDEXED BY memories_by_content"
    " WHERE m.tenant_id = ? AND m.space_id = ? AND m.state = 'active'"
)
_TEXTS: Final = (
    "SELECT count(DISTINCT m.content_key) FROM memories AS m INDEXED BY memories_by_content"
    " WHERE m.tenant_id = ? AND m.space_id = ? AND m.state = 'active' AND m.fingerprint IS NULL"
)
_FINGERPRINTS: Final = (
    "SELECT count(DISTINCT m.fingerprint) FROM memories AS m INDEXED BY memories_by_fingerprint"
    " WHERE m.tenant_id = ? AND m.space_id = ? AND m.fingerprint IS NOT NULL AND m.state = 'active'"
)
_IS_USED: Final = "SELECT EXISTS (SELECT 1 FROM memories WHERE tenant_id = ? AND space_id = ?)"
_ASSOCIATIONS: Final = (
    "SELECT count(*) FROM associations AS a INDEXED BY associations_by_source WHERE a.tenant_id = ? AND a.space_id = ?"
)


def find_external_ref(
    tenant_id: TenantId, external_ref: str, spaces: frozenset[SpaceId], connection: sqlite3.Connection
) -> Memory | None:
    """The memory of this reference, in any state, when it is in these spaces."""
    in_spaces, space_ids = one_of("m.space_id", spaces)
    row = connection.execute(
        f"SELECT {_MEMORY} FROM memories AS m INDEXED BY memories_by_identity"
        f" WHERE m.tenant_id = ? AND m.identity = ? AND +{in_spaces}",
        (tenant_id, external_ref_identity(external_ref), *space_ids),
    ).fetchone()
    return None if row is None else memory_from_row(row)


def find_repeats(
    tenant_id: TenantId,
    spaces: frozenset[SpaceId],
    content_keys: tuple[str, ...],
    fingerprint: str | None,
    connection: sqlite3.Connection,
) -> tuple[tuple[MemoryId, str], ...]:
    """Active memories that nothing superseded, with one of these texts or this fingerprint, oldest first."""
    asked = {
        "tenant": tenant_id,
        "spaces": to_json(sorted(spaces)),
        "keys": to_json(sorted(set(content_keys))),
        "fingerprint": fingerprint,
        "most": MOST_REPEATS,
    }
    return tuple((MemoryId(memory_id), key) for memory_id, key in connection.execute(_REPEATS, asked))


def read_learned(
    tenant_id: TenantId, ids: tuple[MemoryId, ...], spaces: frozenset[SpaceId], connection: sqlite3.Connection
) -> dict[MemoryId, Learned]:
    """The valence and the keys of the concepts of those of these memories that are in these spaces."""
    in_spaces, space_ids = one_of("m.space_id", spaces)
    rows = connection.execute(
        "SELECT m.memory_id, m.valence, m.concepts FROM json_each(?) AS asked"
        f" CROSS JOIN memories AS m ON m.tenant_id = ? AND m.memory_id = asked.value WHERE {in_spaces}",
        (to_json(tuple(dict.fromkeys(ids))), tenant_id, *space_ids),
    )
    return {
        MemoryId(memory_id): Learned(valence=valence, concepts=frozenset(concept_keys(json.loads(concepts))))
        for memory_id, valence, concepts in rows
    }


def count_concepts(
    tenant_id: TenantId, keys: tuple[str, ...], spaces: frozenset[SpaceId], connection: sqlite3.Connection
) -> dict[str, int]:
    """How many memories of these spaces have each of these concepts, of those that any has."""
    asked = {"tenant": tenant_id, "keys": to_json(sorted(set(keys))), "spaces": to_json(sorted(spaces))}
    return {key: count for key, count in connection.execute(_COUNT, asked) if count}


def read_statistics(
    tenant_id: TenantId, spaces: frozenset[SpaceId], connection: sqlite3.Connection
) -> tuple[SpaceStatistics, ...]:
    """The counts of each of these spaces that has a memory or an association, by space id."""
    found = []
    for space_id in sorted(spaces):
        place = (tenant_id, space_id)
        valence, importance, *counts = connection.execute(_STATISTICS, place).fetchone()
        (texts,) = connection.execute(_TEXTS, place).fetchone()
        (fingerprints,) = connection.execute(_FINGERPRINTS, place).fetchone()
        (associations,) = connection.execute(_ASSOCIATIONS, place).fetchone()
        if associations or connection.execute(_IS_USED, place).fetchone() == (1,):
            found.append(
                SpaceStatistics(
                    space_id=space_id,
                    by_role=dict(zip(_ROLES, counts, strict=True)),
                    fingerprints=texts + fingerprints,
                    valence_sum=valence,
                    importance_sum=importance,
                    associations=associations,
                )
            )
    return tuple(found)
