"""The turns beside a turn: bounded walks of the index by session, to both sides, in one statement."""

from typing import Final

from polymem.domain.model import MemoryId, TenantId
from polymem.domain.query import MemoryFilter
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.filters import where_clause

_BESIDE = (
    "(SELECT {side} AS side, m.turn_seq, m.memory_id FROM memories AS m"
    " WHERE m.session_id = t.session_id AND m.space_id = t.space_id AND m.turn_seq IS NOT NULL"
    " AND (m.turn_seq, m.memory_id) {comparison} (t.turn_seq, t.memory_id) AND {condition}"
    " ORDER BY m.turn_seq {order}, m.memory_id {order} LIMIT %s)"
)
_TURNS = (
    "SELECT t.memory_id, b.side, b.memory_id FROM memories AS t"
    " LEFT JOIN LATERAL ({before} UNION ALL {after}) AS b ON true"
    " WHERE t.tenant_id = %s AND t.memory_id = ANY(%s) AND t.session_id IS NOT NULL AND t.turn_seq IS NOT NULL"
    " ORDER BY t.memory_id, b.turn_seq, b.memory_id"
)
_BEFORE: Final = -1
_AFTER: Final = 1


async def find_neighbours(
    connection: Connection, tenant_id: TenantId, ids: tuple[MemoryId, ...], where: MemoryFilter, reach: int
) -> dict[MemoryId, tuple[tuple[int, MemoryId], ...]]:
    """For each of the ids that is a turn, those beside it that pass, each with its distance."""
    condition, parameters = where_clause(where, tenant_id, "m")
    before = _BESIDE.format(side=_BEFORE, comparison="<", order="DESC", condition=condition)
    after = _BESIDE.format(side=_AFTER, comparison=">", order="ASC", condition=condition)
    cursor = await connection.execute(
        _TURNS.format(before=before, after=after), (*parameters, reach, *parameters, reach, tenant_id, list(ids))
    )
    found: dict[MemoryId, dict[int, list[MemoryId]]] = {}
    for turn, side, other in await cursor.fetchall():
        sides = found.setdefault(turn, {_BEFORE: [], _AFTER: []})
        if other is not None:
            sides[side].append(other)
    return {
        turn: (*enumerate(sides[_BEFORE], start=-len(sides[_BEFORE])), *enumerate(sides[_AFTER], start=1))
        for turn, sides in found.items()
    }
