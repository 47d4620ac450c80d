"""The changes that touch memories, each as the statements that make it so."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import assert_never

from polymem.domain.concepts import concept_keys, content_key
from polymem.domain.model import Memory, MemoryId, SpaceId
from polymem.errors import NotFound
from polymem.ports.changes import (
    AlreadyDeleted,
    Deleted,
    DeleteMemory,
    Duplicate,
    Forgotten,
    Missing,
    Outcome,
    PutMemory,
    RevisionMoved,
    SetEmbedding,
    Stored,
    Updated,
    UpdateMemory,
)
from polymem.storage.outcomes import Refused
from polymem.storage.rows import (
    MEMORY_COLUMNS,
    UPDATED_COLUMNS,
    columns,
    insert_into,
    memory_row,
    updated_row,
    version_body,
)
from polymem.storage.sqlite.filters import one_of
from polymem.storage.sqlite.index_rows import put_entry, remove_entry, replace_entry, set_embedding
from polymem.storage.sqlite.learning_changes import Place, move_concepts
from polymem.storage.sqlite.transaction import Transaction, next_number

_INSERT = insert_into("memories", ("tenant_id", "doc_no", "identity", "change_no", *MEMORY_COLUMNS))
_UPDATE = (
    "UPDATE memories SET change_no = ?, "
    + ", ".join(f"{name} = ?" for name in UPDATED_COLUMNS)
    + " WHERE tenant_id = ? AND memory_id = ?"
)
_SELECT = f"SELECT doc_no, {columns(MEMORY_COLUMNS)} FROM memories WHERE tenant_id = ? AND memory_id = ?"
_REVISION = 1 + MEMORY_COLUMNS.index("revision")
_TAGS = 1 + MEMORY_COLUMNS.index("tags")
_SPACE = 1 + MEMORY_COLUMNS.index("space_id")
_CONCEPTS = 1 + MEMORY_COLUMNS.index("concepts")
_OLDEST_REPEAT = (
    "SELECT memory_id FROM memories WHERE tenant_id = ? AND space_id = ? AND content_key = ? AND state = 'active'"
    " AND superseded_by IS NULL ORDER BY created_at, memory_id LIMIT 1"
)


def change_memory(transaction: Transaction, change: PutMemory | UpdateMemory | DeleteMemory | SetEmbedding) -> Outcome:
    """The change is applied within the transaction. Raises `Refused` when its guard fails."""
    match change:
        case PutMemory():
            return _put(transaction, change)
        case UpdateMemory():
            return _update(transaction, change)
        case DeleteMemory():
            return _delete(transaction, change)
        case SetEmbedding():
            return _set_embedding(transaction, change)
        case _:
            assert_never(change)


def _put(transaction: Transaction, change: PutMemory) -> Outcome:
    there = _find_same(transaction, change)
    if there is not None:
        return there
    connection, memory = transaction.connection, change.memory
    doc_no = next_number(connection, "doc_no")
    with _known_space(memory):
        connection.execute(
            _INSERT, (transaction.tenant_id, doc_no, change.identity, transaction.change_no, *memory_row(memory))
        )
    _move_tags(transaction, memory.id, old=frozenset(), new=frozenset(memory.tags))
    move_concepts(transaction, memory.id, doc_no, new=_places(memory.space_id, memory.concepts))
    put_entry(
        connection,
        tenant_id=transaction.tenant_id,
        tenant_no=transaction.tenant_no,
        doc_no=doc_no,
        entry=change.index,
    )
    transaction.memories_added += 1
    return Stored(memory.id)


def _find_same(transaction: Transaction, change: PutMemory) -> Duplicate | Forgotten | None:
    """Why the memory may not be stored: its identity, its id or its text is there, or it was deleted for good."""
    connection, tenant_id = transaction.connection, transaction.tenant_id
    row = connection.execute(
        "SELECT memory_id FROM memories WHERE tenant_id = :tenant AND memory_id = :id"
        " UNION ALL SELECT memory_id FROM memories WHERE tenant_id = :tenant AND identity = :identity LIMIT 1",
        {"tenant": tenant_id, "id": change.memory.id, "identity": change.identity},
    ).fetchone()
    if row is not None:
        return Duplicate(row[0])
    (is_forgotten,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM tombstones WHERE tenant_id = :tenant AND memory_id = :id)"
        " OR EXISTS (SELECT 1 FROM forgotten_identities WHERE tenant_id = :tenant AND identity = :identity)",
        {"tenant": tenant_id, "id": change.memory.id, "identity": change.identity},
    ).fetchone()
    if is_forgotten:
        return Forgotten()
    return _find_repeat(transaction, change.memory) if change.unless_repeated else None


def _find_repeat(transaction: Transaction, memory: Memory) -> Duplicate | None:
    """The oldest active memory of the space that says the same and that nothing superseded."""
    row = transaction.connection.execute(
        _OLDEST_REPEAT, (transaction.tenant_id, memory.space_id, content_key(memory.content))
    ).fetchone()
    return None if row is None else Duplicate(row[0])


def _update(transaction: Transaction, change: UpdateMemory) -> Outcome:
    connection, memory = transaction.connection, change.memory
    row = connection.execute(_SELECT, (transaction.tenant_id, memory.id)).fetchone()
    if row is None:
        return Missing(memory.id)
    if row[_REVISION] != change.expected_revision:
        raise Refused(RevisionMoved(memory.id, row[_REVISION]))
    if change.keeps_history:
        connection.execute(
            "INSERT INTO memory_versions (tenant_id, memory_id, revision, body, replaced_at, replaced_by, reason)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                transaction.tenant_id,
                memory.id,
                row[_REVISION],
                version_body(row[1:]),
                transaction.now,
                change.replaced_by,
                change.reason,
            ),
        )
    with _known_space(memory):
        connection.execute(_UPDATE, (transaction.change_no, *updated_row(memory), transaction.tenant_id, memory.id))
    _move_tags(transaction, memory.id, old=_tags(row[_TAGS]), new=frozenset(memory.tags))
    move_concepts(
        transaction,
        memory.id,
        row[0],
        old=_places(row[_SPACE], json.loads(row[_CONCEPTS])),
        new=_places(memory.space_id, memory.concepts),
    )
    replace_entry(
        connection,
        tenant_id=transaction.tenant_id,
        tenant_no=transaction.tenant_no,
        doc_no=row[0],
        entry=change.index,
    )
    return Updated(memory.id)


def _delete(transaction: Transaction, change: DeleteMemory) -> Outcome:
    connection, tenant_id, memory_id = transaction.connection, transaction.tenant_id, change.memory_id
    in_spaces, spaces = one_of("space_id", change.spaces)
    row = connection.execute(
        f"SELECT doc_no, space_id, identity, tags, concepts FROM memories"
        f" WHERE tenant_id = ? AND memory_id = ? AND {in_spaces}",
        (tenant_id, memory_id, *spaces),
    ).fetchone()
    if row is None:
        (was_there,) = connection.execute(
            f"SELECT EXISTS (SELECT 1 FROM tombstones WHERE tenant_id = ? AND memory_id = ? AND {in_spaces})",
            (tenant_id, memory_id, *spaces),
        ).fetchone()
        return AlreadyDeleted(memory_id) if was_there else Missing(memory_id)
    doc_no, space_id, identity, tags, concepts = row
    remove_entry(connection, tenant_id=tenant_id, tenant_no=transaction.tenant_no, doc_no=doc_no)
    _move_tags(transaction, memory_id, old=_tags(tags), new=frozenset())
    move_concepts(transaction, memory_id, doc_no, old=_places(space_id, json.loads(concepts)))
    connection.execute("DELETE FROM memory_versions WHERE tenant_id = ? AND memory_id = ?", (tenant_id, memory_id))
    connection.execute("DELETE FROM memories WHERE tenant_id = ? AND memory_id = ?", (tenant_id, memory_id))
    connection.execute(
        "INSERT INTO tombstones (tenant_id, memory_id, space_id, doc_no, deleted_at, change_no)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (tenant_id, memory_id, space_id, doc_no, transaction.now, transaction.change_no),
    )
    if change.remembers_identity and identity is not None:
        connection.execute(
            "INSERT INTO forgotten_identities (tenant_id, identity) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (tenant_id, identity),
        )
    transaction.memories_added -= 1
    return Deleted(memory_id)


def _set_embedding(transaction: Transaction, change: SetEmbedding) -> Outcome:
    moved = transaction.connection.execute(
        "UPDATE memories SET change_no = ? WHERE tenant_id = ? AND memory_id = ? AND revision = ? RETURNING doc_no",
        (transaction.change_no, transaction.tenant_id, change.memory_id, change.expected_revision),
    ).fetchone()
    if moved is None:
        return Missing(change.memory_id)
    set_embedding(transaction.connection, tenant_no=transaction.tenant_no, doc_no=moved[0], embedding=change.embedding)
    return Updated(change.memory_id)


@contextmanager
def _known_space(memory: Memory) -> Iterator[None]:
    """A row that names a space which is not there is answered with `NotFound`."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
            raise NotFound("space", memory.space_id) from error
        raise


def _places(space_id: SpaceId, concepts: Iterable[str]) -> frozenset[Place]:
    return frozenset((space_id, key) for key in concept_keys(concepts))


def _tags(stored: str) -> frozenset[str]:
    return frozenset(json.loads(stored))


def _move_tags(transaction: Transaction, memory_id: MemoryId, *, old: frozenset[str], new: frozenset[str]) -> None:
    """The memory is found by exactly the new tags."""
    connection, tenant_id = transaction.connection, transaction.tenant_id
    connection.executemany(
        "DELETE FROM memory_tags WHERE tenant_id = ? AND tag = ? AND memory_id = ?",
        [(tenant_id, tag, memory_id) for tag in sorted(old - new)],
    )
    connection.executemany(
        "INSERT INTO memory_tags (tenant_id, tag, memory_id) VALUES (?, ?, ?)",
        [(tenant_id, tag, memory_id) for tag in sorted(new - old)],
    )
