"""The changes that touch memories: a run of one kind is looked up at once, told one by one, and written at once."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from polymem.domain.concepts import content_key
from polymem.domain.model import Memory, MemoryId, MemoryState, SpaceId
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
from polymem.storage.postgres.concept_changes import (
    move_concepts,
    put_concepts,
    remove_concepts,
    stored_concept_rows,
)
from polymem.storage.postgres.index_rows import put_entries, remove_entries, replace_entry, set_embedding
from polymem.storage.postgres.transaction import Transaction, fetch_all, insert_rows
from polymem.storage.rows import (
    MEMORY_COLUMNS,
    UPDATED_COLUMNS,
    Row,
    columns,
    insert_into,
    memory_row,
    microseconds,
    updated_row,
    version_body,
)

_INSERT: Final = insert_into("memories", ("tenant_id", "identity", "change_no", *MEMORY_COLUMNS), mark="%s")
_INSERT_TAG: Final = insert_into("memory_tags", ("tenant_id", "tag", "memory_id"), mark="%s")
_INSERT_VERSION: Final = insert_into(
    "memory_versions",
    ("tenant_id", "memory_id", "revision", "body", "replaced_at", "replaced_by", "reason"),
    mark="%s",
)
_INSERT_TOMBSTONE: Final = insert_into(
    "tombstones", ("tenant_id", "memory_id", "space_id", "deleted_at", "change_no"), mark="%s"
)
_INSERT_FORGOTTEN: Final = (
    insert_into("forgotten_identities", ("tenant_id", "identity"), mark="%s") + " ON CONFLICT DO NOTHING"
)
_UPDATE: Final = (
    "UPDATE memories SET change_no = %s, "
    + ", ".join(f"{name} = %s" for name in UPDATED_COLUMNS)
    + " WHERE tenant_id = %s AND memory_id = %s"
)
_THERE, _GONE, _FORGOTTEN, _SPACE = "there", "gone", "forgotten", "space"
# Whatever decides about new memories: those of the same ids and identities, and which of their spaces there are.
_FIND_SAME: Final = (
    f"SELECT '{_THERE}', m.memory_id, m.identity FROM memories AS m"
    " WHERE m.tenant_id = %s AND m.memory_id = ANY(%s::text[])"
    f" UNION ALL SELECT '{_THERE}', m.memory_id, m.identity FROM memories AS m"
    " WHERE m.tenant_id = %s AND m.identity = ANY(%s::text[])"
    f" UNION ALL SELECT '{_GONE}', d.memory_id, NULL FROM tombstones AS d"
    " WHERE d.tenant_id = %s AND d.memory_id = ANY(%s::text[])"
    f" UNION ALL SELECT '{_FORGOTTEN}', NULL, f.identity FROM forgotten_identities AS f"
    " WHERE f.tenant_id = %s AND f.identity = ANY(%s::text[])"
    f" UNION ALL SELECT '{_SPACE}', s.space_id, NULL FROM spaces AS s"
    " WHERE s.tenant_id = %s AND s.space_id = ANY(%s::text[])"
)
# Of each text in a space the oldest memory that says it, among those that are active and that nothing superseded.
_FIND_REPEATED: Final = (
    "SELECT g.space_id, g.content_key, m.created_at, m.memory_id"
    " FROM unnest(%s::text[], %s::text[]) AS g (space_id, content_key) CROSS JOIN LATERAL"
    " (SELECT m.created_at, m.memory_id FROM memories AS m WHERE m.tenant_id = %s AND m.space_id = g.space_id"
    " AND m.content_key = g.content_key AND m.state = 'active' AND m.superseded_by IS NULL"
    " ORDER BY m.created_at, m.memory_id LIMIT 1) AS m"
)
_FIND: Final = f"SELECT {columns(MEMORY_COLUMNS)} FROM memories WHERE tenant_id = %s AND memory_id = ANY(%s::text[])"
_FIND_SPACES: Final = "SELECT space_id FROM spaces WHERE tenant_id = %s AND space_id = ANY(%s::text[])"
_FIND_DELETED: Final = (
    f"SELECT '{_THERE}', m.memory_id, m.space_id, m.identity, m.tags, m.concepts FROM memories AS m"
    " WHERE m.tenant_id = %s AND m.memory_id = ANY(%s::text[])"
    f" UNION ALL SELECT '{_GONE}', d.memory_id, d.space_id, NULL, NULL, NULL FROM tombstones AS d"
    " WHERE d.tenant_id = %s AND d.memory_id = ANY(%s::text[])"
)
_REVISION: Final = MEMORY_COLUMNS.index("revision")
_SPACE_ID: Final = MEMORY_COLUMNS.index("space_id")
_TAGS: Final = MEMORY_COLUMNS.index("tags")
_CONCEPTS: Final = MEMORY_COLUMNS.index("concepts")
_VALENCE: Final = MEMORY_COLUMNS.index("valence")


# --- new memories ----------------------------------------------------------------------------------------


async def put_memories(transaction: Transaction, changes: Sequence[PutMemory]) -> list[Outcome]:
    """Those that may be stored are, with tags, concepts and index entries. Raises `NotFound` for an unknown space."""
    there = await _find_same(transaction, changes)
    outcomes: list[Outcome] = [there.outcome(change) for change in changes]
    stored = [change for change, outcome in zip(changes, outcomes, strict=True) if isinstance(outcome, Stored)]
    if not stored:
        return outcomes
    connection, tenant_id = transaction.connection, transaction.tenant_id
    await insert_rows(
        connection,
        _INSERT,
        [(tenant_id, change.identity, transaction.change_no, *memory_row(change.memory)) for change in stored],
    )
    await insert_rows(connection, _INSERT_TAG, [row for change in stored for row in _tag_rows(transaction, change)])
    await put_concepts(transaction, [change.memory for change in stored])
    transaction.terms_added += await put_entries(
        connection, tenant_id, transaction.tenant_no, [(change.memory, change.index) for change in stored]
    )
    transaction.memories_added += len(stored)
    transaction.stored.update(change.memory.id for change in stored)
    return outcomes


class _Same:
    """What is there, or was, of the ids, identities and spaces of new memories; grows with each that is stored."""

    def __init__(self, rows: Iterable[Row], said: "_Said | None") -> None:
        self._said = said
        self._ids: set[str] = set()
        self._owners: dict[str, str] = {}
        self._gone: set[str] = set()
        self._forgotten: set[str] = set()
        self._spaces: set[str] = set()
        for kind, identifier, identity in rows:
            if kind == _THERE:
                self._hold(identifier, identity)
            elif kind == _GONE:
                self._gone.add(identifier)
            elif kind == _FORGOTTEN:
                self._forgotten.add(identity)
            else:
                self._spaces.add(identifier)

    def outcome(self, change: PutMemory) -> Stored | Duplicate | Forgotten:
        """What comes of the change after all earlier ones. Raises `NotFound` for an unknown space."""
        memory, identity = change.memory, change.identity
        if memory.id in self._ids:
            return Duplicate(memory.id)
        if identity is not None and identity in self._owners:
            return Duplicate(self._owners[identity])
        if memory.id in self._gone or identity in self._forgotten:
            return Forgotten()
        if memory.space_id not in self._spaces:
            raise NotFound("space", memory.space_id)
        if self._said is not None:
            repeated = self._said.before(memory) if change.unless_repeated else None
            if repeated is not None:
                return Duplicate(repeated)
            self._said.add(memory)
        self._hold(memory.id, identity)
        return Stored(memory.id)

    def _hold(self, memory_id: str, identity: str | None) -> None:
        self._ids.add(memory_id)
        if identity is not None:
            self._owners[identity] = memory_id


class _Said:
    """The oldest active memory that says each text in each space, and that nothing superseded."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._oldest: dict[tuple[str, str], tuple[int, str]] = {row[:2]: row[2:] for row in rows}

    def before(self, memory: Memory) -> str | None:
        """The oldest memory that says the same in the space, or None."""
        found = self._oldest.get(_text_of(memory))
        return None if found is None else found[1]

    def add(self, memory: Memory) -> None:
        """The memory is stored from now on."""
        if memory.state is MemoryState.ACTIVE and memory.superseded_by is None:
            text, own = _text_of(memory), (microseconds(memory.created_at), memory.id)
            self._oldest[text] = min(own, self._oldest.get(text, own))


def _text_of(memory: Memory) -> tuple[str, str]:
    """The space of a memory and the key of its text."""
    return memory.space_id, content_key(memory.content)


async def _find_same(transaction: Transaction, changes: Sequence[PutMemory]) -> _Same:
    tenant_id = transaction.tenant_id
    ids = [change.memory.id for change in changes]
    identities = [change.identity for change in changes if change.identity is not None]
    spaces = sorted({change.memory.space_id for change in changes})
    asked = (ids, identities, ids, identities, spaces)
    parameters = tuple(value for each in asked for value in (tenant_id, each))
    found = await transaction.connection.execute(_FIND_SAME, parameters)
    texts = sorted({_text_of(change.memory) for change in changes if change.unless_repeated})
    if not texts:
        return _Same(await found.fetchall(), None)
    space_ids, keys = zip(*texts, strict=True)
    said = await fetch_all(transaction.connection, _FIND_REPEATED, (list(space_ids), list(keys), tenant_id))
    return _Same(await found.fetchall(), _Said(said))


def _tag_rows(transaction: Transaction, change: PutMemory) -> list[Row]:
    return [(transaction.tenant_id, tag, change.memory.id) for tag in sorted(set(change.memory.tags))]


# --- changed memories ------------------------------------------------------------------------------------


async def update_memories(transaction: Transaction, changes: Sequence[UpdateMemory]) -> list[Outcome]:
    """Those that are there are as the changes say, one after another.

    Raises `Refused` when one has another revision than expected, `NotFound` for an unknown space.
    """
    connection, tenant_id = transaction.connection, transaction.tenant_id
    ids = sorted({change.memory.id for change in changes})
    found = await connection.execute(_FIND, (tenant_id, ids))
    wanted = sorted({change.memory.space_id for change in changes})
    spaces = {space_id for (space_id,) in await fetch_all(connection, _FIND_SPACES, (tenant_id, wanted))}
    rows = {MemoryId(row[0]): row for row in await found.fetchall()}
    outcomes: list[Outcome] = []
    for change in changes:
        memory = change.memory
        row = rows.get(memory.id)
        if row is None:
            outcomes.append(Missing(memory.id))
            continue
        if row[_REVISION] != change.expected_revision:
            raise Refused(RevisionMoved(memory.id, row[_REVISION]))
        if memory.space_id not in spaces:
            raise NotFound("space", memory.space_id)
        rows[memory.id] = await _update(transaction, change, row)
        outcomes.append(Updated(memory.id))
    return outcomes


async def _update(transaction: Transaction, change: UpdateMemory, row: Row) -> Row:
    """The memory that was `row` is as the change says; its row by now."""
    connection, tenant_id, memory = transaction.connection, transaction.tenant_id, change.memory
    if change.keeps_history:
        version = (row[_REVISION], version_body(row), transaction.now, change.replaced_by, change.reason)
        await connection.execute(_INSERT_VERSION, (tenant_id, memory.id, *version))
    await connection.execute(_UPDATE, (transaction.change_no, *updated_row(memory), tenant_id, memory.id))
    await _move_tags(transaction, memory, old=frozenset(json.loads(row[_TAGS])))
    before = stored_concept_rows(tenant_id, row[_SPACE_ID], memory.id, row[_CONCEPTS])
    await move_concepts(transaction, before, memory)
    transaction.terms_added += await replace_entry(connection, tenant_id, transaction.tenant_no, memory, change.index)
    return memory_row(replace(memory, valence=row[_VALENCE]))


async def _move_tags(transaction: Transaction, memory: Memory, *, old: frozenset[str]) -> None:
    """The memory is found by exactly its own tags."""
    connection, tenant_id, new = transaction.connection, transaction.tenant_id, frozenset(memory.tags)
    if old - new:
        await connection.execute(
            "DELETE FROM memory_tags WHERE tenant_id = %s AND tag = ANY(%s::text[]) AND memory_id = %s",
            (tenant_id, sorted(old - new), memory.id),
        )
    await insert_rows(connection, _INSERT_TAG, [(tenant_id, tag, memory.id) for tag in sorted(new - old)])


async def set_embeddings(transaction: Transaction, changes: Sequence[SetEmbedding]) -> list[Outcome]:
    """The memories that still have the expected revision have these vectors and no others."""
    connection, tenant_id = transaction.connection, transaction.tenant_id
    ids = sorted({change.memory_id for change in changes})
    found = await fetch_all(
        connection,
        "SELECT memory_id, revision FROM memories WHERE tenant_id = %s AND memory_id = ANY(%s::text[])",
        (tenant_id, ids),
    )
    revisions: dict[str, int] = dict(found)
    outcomes: list[Outcome] = []
    moved: list[str] = []
    for change in changes:
        if revisions.get(change.memory_id) != change.expected_revision:
            outcomes.append(Missing(change.memory_id))
            continue
        await set_embedding(connection, tenant_id, transaction.tenant_no, change.memory_id, change.embedding)
        moved.append(change.memory_id)
        outcomes.append(Updated(change.memory_id))
    await connection.execute(
        "UPDATE memories SET change_no = %s WHERE tenant_id = %s AND memory_id = ANY(%s::text[])",
        (transaction.change_no, tenant_id, moved),
    )
    return outcomes


# --- deleted memories ------------------------------------------------------------------------------------


async def delete_memories(transaction: Transaction, changes: Sequence[DeleteMemory]) -> list[Outcome]:
    """Nothing is left of those that were in the spaces of their change but a tombstone."""
    tenant_id = transaction.tenant_id
    ids = sorted({change.memory_id for change in changes})
    there: dict[str, _There] = {}
    gone: dict[str, str] = {}
    for kind, memory_id, *row in await fetch_all(
        transaction.connection, _FIND_DELETED, (tenant_id, ids, tenant_id, ids)
    ):
        if kind == _THERE:
            there[memory_id] = _There(*row)
        else:
            gone[memory_id] = row[0]
    outcomes: list[Outcome] = []
    deleted: dict[MemoryId, _There] = {}
    forgotten: list[str] = []
    for change in changes:
        memory_id = change.memory_id
        memory = there.get(memory_id)
        if memory is not None and memory.space_id in change.spaces:
            deleted[memory_id] = there.pop(memory_id)
            gone[memory_id] = memory.space_id
            if change.remembers_identity and memory.identity is not None:
                forgotten.append(memory.identity)
            outcomes.append(Deleted(memory_id))
        else:
            was_here = gone.get(memory_id) in change.spaces
            outcomes.append(AlreadyDeleted(memory_id) if was_here else Missing(memory_id))
    if deleted:
        await _remove(transaction, deleted, forgotten)
    return outcomes


class _There(NamedTuple):
    """What a delete needs of a memory that is there."""

    space_id: SpaceId
    identity: str | None
    tags: str
    concepts: str


async def _remove(transaction: Transaction, deleted: dict[MemoryId, _There], forgotten: Sequence[str]) -> None:
    """The memories are gone; these identities can never be stored again."""
    connection, tenant_id, ids = transaction.connection, transaction.tenant_id, list(deleted)
    tags = sorted({tag for memory in deleted.values() for tag in json.loads(memory.tags)})
    await connection.execute(
        "DELETE FROM memory_tags WHERE tenant_id = %s AND tag = ANY(%s::text[]) AND memory_id = ANY(%s::text[])",
        (tenant_id, tags, ids),
    )
    await remove_concepts(
        transaction,
        [
            row
            for memory_id, memory in deleted.items()
            for row in stored_concept_rows(tenant_id, memory.space_id, memory_id, memory.concepts)
        ],
    )
    transaction.terms_added += await remove_entries(connection, tenant_id, transaction.tenant_no, ids)
    for table in ("memory_versions", "memories"):
        await connection.execute(
            f"DELETE FROM {table} WHERE tenant_id = %s AND memory_id = ANY(%s::text[])", (tenant_id, ids)
        )
    await insert_rows(
        connection,
        _INSERT_TOMBSTONE,
        [
            (tenant_id, memory_id, memory.space_id, transaction.now, transaction.change_no)
            for memory_id, memory in deleted.items()
        ],
    )
    await insert_rows(connection, _INSERT_FORGOTTEN, [(tenant_id, identity) for identity in forgotten])
    # The purge is told by the server's own count of deleted rows, which a session reports but now and then.
    await connection.execute("SELECT pg_stat_force_next_flush()")
    transaction.memories_added -= len(deleted)
    transaction.stored.difference_update(deleted)
