"""The changes of what memories stand for: replaced by another, archived, made a prototype.

State and replacement stand beside what is searched too: those copies move along.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from polymem.domain.model import MemoryId
from polymem.ports.changes import Missing, Outcome, RevisionMoved, SetStanding, Supersede, Updated
from polymem.storage.outcomes import Refused
from polymem.storage.postgres.transaction import Transaction, fetch_all

# What a memory that is not there has for a revision.
_GONE: Final = -1

_SUPERSEDE: Final = (
    "WITH found AS (SELECT memory_id FROM memories WHERE tenant_id = %s AND memory_id = %s),"
    " marked AS (UPDATE memories AS m SET superseded_by = found.memory_id, revision = m.revision + 1, change_no = %s"
    " FROM found WHERE m.tenant_id = %s AND m.memory_id = ANY(%s::text[]) AND m.space_id = ANY(%s::text[])"
    " AND m.memory_id <> found.memory_id RETURNING m.memory_id, m.superseded_by),"
    " told AS (UPDATE index_entries AS e SET superseded_by = marked.superseded_by FROM marked"
    " WHERE e.tenant_id = %s AND e.memory_id = marked.memory_id)"
    " SELECT count(*) FROM found"
)
_REVISIONS: Final = (
    "SELECT memory_id, space_id, revision FROM memories WHERE tenant_id = %s AND memory_id = ANY(%s::text[])"
)
_STAND: Final = (
    "UPDATE memories AS m SET state = s.state, role = s.role, superseded_by = s.superseded_by, revision = s.revision,"
    " change_no = %s FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[])"
    " AS s (memory_id, state, role, superseded_by, revision) WHERE m.tenant_id = %s AND m.memory_id = s.memory_id"
)
_TELL_ENTRIES: Final = (
    "UPDATE index_entries AS e SET state = s.state, superseded_by = s.superseded_by"
    " FROM unnest(%s::text[], %s::text[], %s::text[]) AS s (memory_id, state, superseded_by)"
    " WHERE e.tenant_id = %s AND e.memory_id = s.memory_id"
    " AND (e.state, e.superseded_by) IS DISTINCT FROM (s.state, s.superseded_by)"
)
_TELL_CHUNKS: Final = (
    "UPDATE chunks AS c SET state = s.state FROM unnest(%s::text[], %s::text[]) AS s (memory_id, state)"
    " WHERE c.tenant_id = %s AND c.memory_id = s.memory_id AND c.state <> s.state"
)


async def supersede(transaction: Transaction, changes: Sequence[Supersede]) -> list[Outcome]:
    """The memories of each change are marked as replaced by its other one, unless that is not there."""
    tenant_id = transaction.tenant_id
    sent = [
        await transaction.connection.execute(
            _SUPERSEDE,
            (
                tenant_id,
                change.by,
                transaction.change_no,
                tenant_id,
                sorted(set(change.memory_ids)),
                sorted(change.spaces),
                tenant_id,
            ),
        )
        for change in changes
    ]
    found = [await cursor.fetchone() for cursor in sent]
    return [
        Updated(change.by) if row == (1,) else Missing(change.by) for change, row in zip(changes, found, strict=True)
    ]


@dataclass(slots=True)
class _Standing:
    """A memory as it stands after the changes so far; `change` is the last of them."""

    space_id: str
    revision: int
    change: SetStanding | None = None


async def set_standings(transaction: Transaction, changes: Sequence[SetStanding]) -> list[Outcome]:
    """The memories stand as the changes say, one after another.

    Raises `Refused` when one has another revision than named, or is not in the space.
    """
    ids = sorted({memory_id for change in changes for memory_id, _ in change.revisions})
    rows = await fetch_all(transaction.connection, _REVISIONS, (transaction.tenant_id, ids))
    standing = {memory_id: _Standing(space_id, revision) for memory_id, space_id, revision in rows}
    for change in changes:
        for memory_id, expected in change.revisions:
            memory = standing.get(memory_id)
            revision = _GONE if memory is None or memory.space_id != change.space_id else memory.revision
            if memory is None or revision == _GONE or revision != expected:
                raise Refused(RevisionMoved(memory_id, revision))
            memory.revision, memory.change = revision + 1, change
    await _write(transaction, standing)
    return [Updated(change.space_id) for change in changes]


async def _write(transaction: Transaction, standing: dict[MemoryId, _Standing]) -> None:
    """The rows of the memories, and the copies beside what is searched, are as these stand."""
    connection, tenant_id = transaction.connection, transaction.tenant_id
    moved = [(memory_id, memory.revision, memory.change) for memory_id, memory in sorted(standing.items())]
    written = [(memory_id, revision, change) for memory_id, revision, change in moved if change is not None]
    if not written:
        return
    ids = [memory_id for memory_id, _, _ in written]
    states = [change.state.value for _, _, change in written]
    roles = [change.role.value for _, _, change in written]
    superseded_by = [change.superseded_by for _, _, change in written]
    revisions = [revision for _, revision, _ in written]
    await connection.execute(_STAND, (transaction.change_no, ids, states, roles, superseded_by, revisions, tenant_id))
    await connection.execute(_TELL_ENTRIES, (ids, states, superseded_by, tenant_id))
    await connection.execute(_TELL_CHUNKS, (ids, states, tenant_id))
