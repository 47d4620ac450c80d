"""The changes that teach: concepts of memories, their standing and valence, and associations between concepts."""

import sqlite3
from collections.abc import Collection, Iterable
from math import fsum
from typing import Final, assert_never

from polymem.domain.model import MemoryId, SpaceId
from polymem.errors import NotFound
from polymem.ports.changes import (
    Associate,
    Associated,
    Missing,
    MoveValence,
    Outcome,
    RevisionMoved,
    SetStanding,
    Supersede,
    Updated,
    Valued,
)
from polymem.storage.outcomes import Refused
from polymem.storage.rows import microseconds, to_json
from polymem.storage.sqlite.filters import one_of
from polymem.storage.sqlite.transaction import Transaction

# A concept of a memory where it is found: its space and its key.
Place = tuple[SpaceId, str]

_LISTED: Final = "memory_id IN (SELECT value FROM json_each(?))"
_STANDING: Final = (
    "UPDATE memories SET state = ?, role = ?, superseded_by = ?, revision = revision + 1, change_no = ?"
    f" WHERE tenant_id = ? AND {_LISTED}"
)
_KNOWN_KEYS: Final = (
    "SELECT k.value FROM json_each(?) AS k WHERE EXISTS (SELECT 1 FROM memory_concepts AS c"
    " WHERE c.tenant_id = ? AND c.space_id = ? AND c.concept = k.value)"
)
_STRENGTHEN: Final = (
    "INSERT INTO associations (tenant_id, space_id, source, target, weight, valence, count, updated_at)"
    " VALUES (:tenant, :space, :source, :target, max(0.0, min(1.0, :rate)),"
    " max(-1.0, min(1.0, :valence_rate * :outcome)), 1, :at)"
    " ON CONFLICT (tenant_id, space_id, source, target) DO UPDATE SET"
    " weight = max(0.0, min(1.0, weight + :rate * (1.0 - weight))),"
    " valence = max(-1.0, min(1.0, valence + :valence_rate * (:outcome - valence))),"
    " count = count + 1, updated_at = max(updated_at, :at)"
)
_FORGET: Final = tuple(
    f"DELETE FROM associations WHERE tenant_id = ?1 AND space_id = ?2 AND {end} = ?3 AND NOT EXISTS"
    " (SELECT 1 FROM memory_concepts AS c WHERE c.tenant_id = ?1 AND c.space_id = ?2 AND c.concept = ?3)"
    for end in ("source", "target")
)


def change_learning(transaction: Transaction, change: Supersede | SetStanding | MoveValence | Associate) -> Outcome:
    """The change is applied within the transaction. Raises `Refused` when its guard fails."""
    match change:
        case Supersede():
            return _supersede(transaction, change)
        case SetStanding():
            return _set_standing(transaction, change)
        case MoveValence():
            return _move_valence(transaction, change)
        case Associate():
            return _associate(transaction, change)
        case _:
            assert_never(change)


def move_concepts(
    transaction: Transaction,
    memory_id: MemoryId,
    doc_no: int,
    *,
    old: Collection[Place] = (),
    new: Collection[Place] = (),
) -> None:
    """The memory is found by exactly the new concepts; associations of one that no memory has any more are gone."""
    connection, tenant_id = transaction.connection, transaction.tenant_id
    lost, won = sorted(set(old) - set(new)), sorted(set(new) - set(old))
    connection.executemany(
        "DELETE FROM memory_concepts WHERE tenant_id = ? AND space_id = ? AND concept = ? AND memory_id = ?",
        [(tenant_id, *place, memory_id) for place in lost],
    )
    connection.executemany(
        "INSERT INTO memory_concepts (tenant_id, space_id, concept, memory_id, doc_no) VALUES (?, ?, ?, ?, ?)",
        [(tenant_id, *place, memory_id, doc_no) for place in won],
    )
    for statement in _FORGET:
        connection.executemany(statement, [(tenant_id, *place) for place in lost])


def _supersede(transaction: Transaction, change: Supersede) -> Outcome:
    connection, tenant_id = transaction.connection, transaction.tenant_id
    if not _is_there(transaction, change.by):
        return Missing(change.by)
    in_spaces, spaces = one_of("space_id", change.spaces)
    connection.execute(
        "UPDATE memories SET superseded_by = ?, revision = revision + 1, change_no = ?"
        f" WHERE tenant_id = ? AND {_LISTED} AND memory_id <> ? AND {in_spaces}",
        (change.by, transaction.change_no, tenant_id, to_json(change.memory_ids), change.by, *spaces),
    )
    return Updated(change.by)


def _set_standing(transaction: Transaction, change: SetStanding) -> Outcome:
    connection, tenant_id = transaction.connection, transaction.tenant_id
    listed = to_json([memory_id for memory_id, _ in change.revisions])
    stored = dict(
        connection.execute(
            f"SELECT memory_id, revision FROM memories WHERE tenant_id = ? AND {_LISTED} AND +space_id = ?",
            (tenant_id, listed, change.space_id),
        ).fetchall()
    )
    for memory_id, expected in change.revisions:
        if stored.get(memory_id) != expected:
            raise Refused(RevisionMoved(memory_id, stored.get(memory_id, -1)))
    connection.execute(
        _STANDING,
        (change.state.value, change.role.value, change.superseded_by, transaction.change_no, tenant_id, listed),
    )
    return Updated(change.space_id)


def _move_valence(transaction: Transaction, change: MoveValence) -> Outcome:
    in_spaces, spaces = one_of("space_id", change.spaces)
    moved = transaction.connection.execute(
        "UPDATE memories SET valence = max(-1.0, min(1.0, valence + ? * (? - valence)))"
        f" WHERE tenant_id = ? AND {_LISTED} AND {in_spaces} RETURNING valence",
        (change.rate, change.outcome, transaction.tenant_id, to_json(sorted(change.memory_ids)), *spaces),
    ).fetchall()
    return Valued(len(moved), fsum(valence for (valence,) in moved))


def _associate(transaction: Transaction, change: Associate) -> Outcome:
    if change.because_of is not None and not _is_there(transaction, change.because_of):
        return Associated(0)
    pairs = {(min(pair), max(pair)) for pair in change.pairs if pair[0] != pair[1]}
    known = _known_keys(transaction, change.space_id, {key for pair in pairs for key in pair})
    # One that no memory of the space has to do with would be nobody's: see `TenantStore.owned_associations`.
    kept = sorted(pair for pair in pairs if not known.isdisjoint(pair))
    has_outcome = change.outcome is not None
    transaction.connection.executemany(
        _STRENGTHEN,
        [
            {
                "tenant": transaction.tenant_id,
                "space": change.space_id,
                "source": source,
                "target": target,
                "rate": float(change.rate),
                "outcome": float(change.outcome or 0.0),
                "valence_rate": float(change.valence_rate) if has_outcome else 0.0,
                "at": microseconds(change.at),
            }
            for source, target in kept
        ],
    )
    return Associated(len(kept))


def _known_keys(transaction: Transaction, space_id: SpaceId, keys: Iterable[str]) -> frozenset[str]:
    """Those of the keys that a memory of the space has. Raises `NotFound` for an unknown space."""
    connection, tenant_id = transaction.connection, transaction.tenant_id
    _require_space(connection, tenant_id, space_id)
    rows = connection.execute(_KNOWN_KEYS, (to_json(sorted(keys)), tenant_id, space_id))
    return frozenset(key for (key,) in rows)


def _require_space(connection: sqlite3.Connection, tenant_id: str, space_id: SpaceId) -> None:
    row = connection.execute("SELECT 1 FROM spaces WHERE tenant_id = ? AND space_id = ?", (tenant_id, space_id))
    if row.fetchone() is None:
        raise NotFound("space", space_id)


def _is_there(transaction: Transaction, memory_id: MemoryId) -> bool:
    row = transaction.connection.execute(
        "SELECT 1 FROM memories WHERE tenant_id = ? AND memory_id = ?", (transaction.tenant_id, memory_id)
    )
    return row.fetchone() is not None
