"""The changes of what is learned from use: the valence of memories, and the associations of concepts.

The caller's transaction holds the row of the tenant, so that what is read here is still so when it is written.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from math import fsum
from typing import Final

from polymem.errors import NotFound
from polymem.ports.changes import Associate, Associated, MoveValence, Outcome, Valued
from polymem.storage.postgres.transaction import Transaction, fetch_all, fetch_one
from polymem.storage.rows import microseconds

_MOVE_VALENCE: Final = (
    "UPDATE memories SET valence = greatest(-1.0, least(1.0, valence + %s::float8 * (%s::float8 - valence)))"
    " WHERE tenant_id = %s AND memory_id = ANY(%s::text[]) AND space_id = ANY(%s::text[]) RETURNING valence"
)
_REASONS: Final = "SELECT memory_id FROM memories WHERE tenant_id = %s AND memory_id = ANY(%s::text[])"
_SPACE: Final = "SELECT 1 FROM spaces WHERE tenant_id = %s AND space_id = %s"
# Each is looked up by itself: a join of so many rows at once is at times planned as a walk of the whole table.
_KNOWN: Final = (
    "SELECT g.space_id, g.concept FROM unnest(%s::text[], %s::text[]) AS g (space_id, concept) CROSS JOIN LATERAL"
    " (SELECT 1 FROM memory_concepts AS c WHERE c.tenant_id = %s AND c.space_id = g.space_id AND c.concept = g.concept"
    " LIMIT 1) AS c"
)
_FIND: Final = (
    "SELECT g.space_id, g.source, g.target, a.weight, a.valence, a.count, a.updated_at"
    " FROM unnest(%s::text[], %s::text[], %s::text[]) AS g (space_id, source, target) CROSS JOIN LATERAL"
    " (SELECT * FROM associations AS a"
    " WHERE a.tenant_id = %s AND a.space_id = g.space_id AND a.source = g.source AND a.target = g.target LIMIT 1) AS a"
)
_PUT: Final = (
    "INSERT INTO associations (tenant_id, space_id, source, target, weight, valence, count, updated_at)"
    " SELECT %s, g.* FROM unnest(%s::text[], %s::text[], %s::text[], %s::float8[], %s::float8[], %s::bigint[],"
    " %s::bigint[]) AS g (space_id, source, target, weight, valence, count, updated_at)"
    " ORDER BY g.space_id, g.source, g.target"
    " ON CONFLICT (tenant_id, space_id, source, target) DO UPDATE SET weight = excluded.weight,"
    " valence = excluded.valence, count = excluded.count, updated_at = excluded.updated_at"
)

_Key = tuple[str, str, str]


async def move_valences(transaction: Transaction, changes: Sequence[MoveValence]) -> list[Outcome]:
    """Each memory of each change is nearer to its outcome than it was."""
    sent = [
        await transaction.connection.execute(
            _MOVE_VALENCE,
            (
                change.rate,
                change.outcome,
                transaction.tenant_id,
                sorted(change.memory_ids),
                sorted(change.spaces),
            ),
        )
        for change in changes
    ]
    moved = [[valence for (valence,) in await cursor.fetchall()] for cursor in sent]
    return [Valued(len(valences), fsum(valences)) for valences in moved]


@dataclass(slots=True)
class _Edge:
    """An association as it is after the changes so far."""

    weight: float = 0.0
    valence: float = 0.0
    count: int = 0
    updated_at: int = 0

    def strengthen(self, change: Associate) -> None:
        """The change has acted on it once."""
        self.weight = max(0.0, min(1.0, self.weight + change.rate * (1.0 - self.weight)))
        if change.outcome is not None:
            moved = self.valence + change.valence_rate * (change.outcome - self.valence)
            self.valence = max(-1.0, min(1.0, moved))
        self.count += 1
        self.updated_at = max(self.updated_at, microseconds(change.at))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """What is there of all that the changes of a run name; concepts stand with the space of which a memory has them."""

    memories: AbstractSet[str]
    concepts: frozenset[tuple[str, str]]
    edges: dict[_Key, _Edge]

    def acts(self, change: Associate) -> bool:
        """True when the memory that the change is done for is there, or it names none."""
        return change.because_of is None or change.because_of in self.memories

    def touched(self, change: Associate) -> list[_Key]:
        """The associations that the change strengthens.

        One of two concepts that no memory of the space has would be nobody's: see `TenantStore.owned_associations`.
        """
        return [key for key in _keys(change) if not self.concepts.isdisjoint(_ends(key))]


async def associate(transaction: Transaction, changes: Sequence[Associate]) -> list[Outcome]:
    """The pairs of each change are associated more strongly, unless the memory it is done for is not there.

    Raises `NotFound` for an unknown space.
    """
    stored = await _read(transaction, changes)
    touched: set[_Key] = set()
    outcomes: list[Outcome] = []
    for change in changes:
        keys = stored.touched(change) if stored.acts(change) else []
        if not keys and stored.acts(change):
            await _require_space(transaction, change.space_id)
        for key in keys:
            stored.edges.setdefault(key, _Edge()).strengthen(change)
        touched.update(keys)
        outcomes.append(Associated(len(keys)))
    await _put(transaction, sorted(touched), stored.edges)
    return outcomes


async def _read(transaction: Transaction, changes: Sequence[Associate]) -> _Stored:
    """All that the changes name, in one round trip."""
    connection, tenant_id = transaction.connection, transaction.tenant_id
    keys = sorted({key for change in changes for key in _keys(change)})
    ends = sorted({end for key in keys for end in _ends(key)})
    reasons = {change.because_of for change in changes if change.because_of is not None} - transaction.stored
    found = await connection.execute(_REASONS, (tenant_id, sorted(reasons))) if reasons else None
    known = await connection.execute(_KNOWN, (*([end[place] for end in ends] for place in range(2)), tenant_id))
    edges = await fetch_all(connection, _FIND, (*_arrays(keys), tenant_id))
    there = [] if found is None else await found.fetchall()
    return _Stored(
        memories=transaction.stored.union(memory_id for (memory_id,) in there),
        concepts=frozenset((space_id, concept) for space_id, concept in await known.fetchall()),
        edges={row[:3]: _Edge(*row[3:]) for row in edges},
    )


async def _require_space(transaction: Transaction, space_id: str) -> None:
    """The space is there. Raises `NotFound`."""
    if await fetch_one(transaction.connection, _SPACE, (transaction.tenant_id, space_id)) is None:
        raise NotFound("space", space_id)


async def _put(transaction: Transaction, keys: Sequence[_Key], edges: dict[_Key, _Edge]) -> None:
    """These associations are stored as they are now."""
    if not keys:
        return
    values = [edges[key] for key in keys]
    await transaction.connection.execute(
        _PUT,
        (
            transaction.tenant_id,
            *_arrays(keys),
            [edge.weight for edge in values],
            [edge.valence for edge in values],
            [edge.count for edge in values],
            [edge.updated_at for edge in values],
        ),
    )


def _keys(change: Associate) -> frozenset[_Key]:
    """The pairs of the change as associations are kept: the smaller concept first, none with itself."""
    return frozenset((change.space_id, min(pair), max(pair)) for pair in change.pairs if pair[0] != pair[1])


def _ends(key: _Key) -> tuple[tuple[str, str], tuple[str, str]]:
    """The two concepts, each with its space."""
    space_id, source, target = key
    return (space_id, source), (space_id, target)


def _arrays(keys: Sequence[_Key]) -> tuple[list[str], ...]:
    """The spaces, sources and targets of the keys."""
    return tuple([key[place] for key in keys] for place in range(3))
