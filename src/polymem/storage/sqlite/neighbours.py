"""The turns beside a turn: bounded walks of the index by session, to both sides."""

import sqlite3

import orjson

from polymem.domain.model import MemoryId, TenantId
from polymem.domain.query import MemoryFilter
from polymem.storage.sqlite.filters import where_clause

_TURNS = (
    "SELECT m.memory_id, m.space_id, m.session_id, m.turn_seq FROM json_each(?) AS wanted"
    " CROSS JOIN memories AS m ON m.tenant_id = ? AND m.memory_id = wanted.value"
    " WHERE m.session_id IS NOT NULL AND m.turn_seq IS NOT NULL"
)
_BESIDE = (
    "SELECT m.memory_id FROM memories AS m WHERE m.space_id = ? AND m.session_id = ?"
    " AND m.turn_seq IS NOT NULL AND (m.turn_seq, m.memory_id) {comparison} (?, ?)"
    " AND {condition} ORDER BY m.turn_seq {order}, m.memory_id {order} LIMIT ?"
)


def find_neighbours(
    tenant_id: TenantId, ids: tuple[MemoryId, ...], where: MemoryFilter, reach: int, connection: sqlite3.Connection
) -> dict[MemoryId, tuple[tuple[int, MemoryId], ...]]:
    """For each of the ids that is a turn, those beside it that pass, each with its distance."""
    condition, parameters = where_clause(where, tenant_id, tags_lead=False)
    before = _BESIDE.format(condition=condition, comparison="<", order="DESC")
    after = _BESIDE.format(condition=condition, comparison=">", order="ASC")
    turns = connection.execute(_TURNS, (orjson.dumps(ids).decode(), tenant_id)).fetchall()
    found: dict[MemoryId, tuple[tuple[int, MemoryId], ...]] = {}
    for memory_id, space_id, session_id, seq in turns:
        asked = (space_id, session_id, seq, memory_id, *parameters, reach)
        earlier = [row[0] for row in connection.execute(before, asked)]
        later = [row[0] for row in connection.execute(after, asked)]
        found[memory_id] = (
            *((-distance, each) for distance, each in reversed([*enumerate(earlier, start=1)])),
            *enumerate(later, start=1),
        )
    return found
