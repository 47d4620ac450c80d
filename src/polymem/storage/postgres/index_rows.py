"""The index rows of memories: terms and vectors, written in the transaction of the memories' own rows.

Every function here runs inside the caller's open transaction, which holds the row of the tenant: no other transaction
writes the tenant's index meanwhile. What they keep equal:

- `index_entries` has one row per memory, with its terms and traits, and copies of the memory's own columns;
- `term_counts` says of each term in how many of the tenant's entries it stands;
- `chunks` has a row for each chunk of an entry's vectors, all by the model that the entry names.

How many terms were added is returned: `tenants.terms_total` is the caller's to move.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector

from polymem.domain.model import Memory, MemoryId, ModelIdentity, TenantId
from polymem.errors import StorageDamaged
from polymem.ports.changes import Embedding, IndexEntry
from polymem.storage.entries import check_shapes
from polymem.storage.postgres.codes import StoredTerms, plain_codes, stored_terms
from polymem.storage.postgres.driver import Connection
from polymem.storage.rows import Row, columns, insert_into, microseconds
from polymem.storage.terms import pack_terms

# The memory's own columns of which entries and chunks hold copies.
COPIED_COLUMNS: Final = (
    "space_id",
    "memory_type",
    "state",
    "source",
    "agent_id",
    "session_id",
    "tags",
    "created_at",
    "updated_at",
)
TOLD_COLUMNS: Final = (*COPIED_COLUMNS, "turn_role", "turn_seq", "superseded_by")
ENTRY_COLUMNS: Final = (
    "tenant_id",
    "memory_id",
    *TOLD_COLUMNS,
    "length",
    "model_no",
    "is_complete",
    "traits",
    "weights",
    "codes",
    "counts",
)
CHUNK_COLUMNS: Final = (
    "tenant_id",
    "memory_id",
    "chunk_no",
    "tenant_no",
    "model_no",
    *COPIED_COLUMNS,
    "start_at",
    "end_at",
    "embedding",
    "token_vectors",
)

_KEY: Final = ("tenant_id", "memory_id")
_INSERT_ENTRY = insert_into("index_entries", ENTRY_COLUMNS, mark="%s")
_INSERT_CHUNK = insert_into("chunks", CHUNK_COLUMNS, mark="%s")
_UPDATE_ENTRY = (
    "UPDATE index_entries SET "
    + ", ".join(f"{name} = %s" for name in ENTRY_COLUMNS[len(_KEY) :])
    + " WHERE tenant_id = %s AND memory_id = %s"
)
_ADD_COUNTS = (
    "INSERT INTO term_counts AS t (tenant_id, code, documents)"
    " SELECT %s, d.code, d.documents FROM unnest(%s::bigint[], %s::bigint[]) AS d (code, documents) ORDER BY d.code"
    " ON CONFLICT (tenant_id, code) DO UPDATE SET documents = t.documents + excluded.documents"
)
_TAKEN = (
    " unnest(%s::bigint[], %s::bigint[]) AS d (code, documents) WHERE t.tenant_id = %s AND t.code = d.code"
    " AND t.documents "
)
_DROP_COUNTS = f"DELETE FROM term_counts AS t USING {_TAKEN} <= d.documents"
_TAKE_COUNTS = f"UPDATE term_counts AS t SET documents = t.documents - d.documents FROM {_TAKEN} > d.documents"


async def put_entries(
    connection: Connection, tenant_id: TenantId, tenant_no: int, rows: Sequence[tuple[Memory, IndexEntry]]
) -> int:
    """The new memories' terms and vectors are in the index and counted; how many terms were added, repeats counted."""
    numbers = await _number_models(connection, [entry.embedding for _, entry in rows])
    packed = [(memory, entry, stored_terms(tenant_no, pack_terms(entry.terms))) for memory, entry in rows]
    entries = [(tenant_id, memory.id, *_entry_row(memory, entry, terms, numbers)) for memory, entry, terms in packed]
    chunks = [
        row
        for memory, entry in rows
        for row in _chunk_rows((tenant_id, memory.id, tenant_no), _copied(memory), entry.embedding, numbers)
    ]
    async with connection.pipeline(), connection.cursor() as cursor:
        await cursor.executemany(_INSERT_ENTRY, entries)
        await cursor.executemany(_INSERT_CHUNK, chunks)
        await _move_counts(connection, tenant_id, tenant_no, added=[terms.codes for _, _, terms in packed])
    return sum(len(entry.terms) for _, entry in rows)


async def remove_entries(
    connection: Connection, tenant_id: TenantId, tenant_no: int, memory_ids: Sequence[MemoryId]
) -> int:
    """Nothing of the memories is in the index or counted; how many terms were added, below 0 as they are gone.

    Raises `StorageDamaged` when one has no entry.
    """
    asked = list(dict.fromkeys(memory_ids))
    cursor = await connection.execute(
        "DELETE FROM index_entries WHERE tenant_id = %s AND memory_id = ANY(%s) RETURNING length, codes",
        (tenant_id, asked),
    )
    gone = await cursor.fetchall()
    if len(gone) < len(asked):
        raise StorageDamaged("a memory has no index entry")
    async with connection.pipeline():
        await connection.execute("DELETE FROM chunks WHERE tenant_id = %s AND memory_id = ANY(%s)", (tenant_id, asked))
        await _move_counts(connection, tenant_id, tenant_no, removed=[codes for _, codes in gone])
    return -sum(int(length) for length, _ in gone)


async def replace_entry(
    connection: Connection, tenant_id: TenantId, tenant_no: int, memory: Memory, entry: IndexEntry
) -> int:
    """The memory is indexed as `entry` says and in no other way; how many more terms it has than before.

    Without an embedding it has no vectors. Raises `StorageDamaged` when it has no entry.
    """
    numbers = await _number_models(connection, [entry.embedding])
    cursor = await connection.execute(
        "SELECT length, codes FROM index_entries WHERE tenant_id = %s AND memory_id = %s", (tenant_id, memory.id)
    )
    before = await cursor.fetchone()
    if before is None:
        raise StorageDamaged("a memory has no index entry")
    terms = stored_terms(tenant_no, pack_terms(entry.terms))
    chunks = _chunk_rows((tenant_id, memory.id, tenant_no), _copied(memory), entry.embedding, numbers)
    async with connection.pipeline(), connection.cursor() as chunk_cursor:
        await connection.execute(_UPDATE_ENTRY, (*_entry_row(memory, entry, terms, numbers), tenant_id, memory.id))
        await connection.execute("DELETE FROM chunks WHERE tenant_id = %s AND memory_id = %s", (tenant_id, memory.id))
        await chunk_cursor.executemany(_INSERT_CHUNK, chunks)
        await _move_counts(connection, tenant_id, tenant_no, added=[terms.codes], removed=[before[1]])
    return len(entry.terms) - int(before[0])


async def set_embedding(
    connection: Connection, tenant_id: TenantId, tenant_no: int, memory_id: MemoryId, embedding: Embedding
) -> None:
    """The memory's vectors are these and no others; its terms are untouched. Raises `StorageDamaged` if not indexed."""
    numbers = await _number_models(connection, [embedding])
    cursor = await connection.execute(
        "UPDATE index_entries SET model_no = %s, is_complete = %s WHERE tenant_id = %s AND memory_id = %s"
        f" RETURNING {columns(COPIED_COLUMNS)}",
        (numbers[embedding.model], embedding.is_complete, tenant_id, memory_id),
    )
    copied = await cursor.fetchone()
    if copied is None:
        raise StorageDamaged("a memory has no index entry")
    async with connection.pipeline(), connection.cursor() as chunk_cursor:
        await connection.execute("DELETE FROM chunks WHERE tenant_id = %s AND memory_id = %s", (tenant_id, memory_id))
        await chunk_cursor.executemany(
            _INSERT_CHUNK, _chunk_rows((tenant_id, memory_id, tenant_no), copied, embedding, numbers)
        )


async def find_model(connection: Connection, model: ModelIdentity) -> int | None:
    """The stored number of a model, or None when no vector was ever made by it."""
    cursor = await connection.execute(
        "SELECT model_no FROM models WHERE name = %s AND revision = %s AND dimension = %s AND token_dimension = %s",
        (model.name, model.revision, model.dimension, model.token_dimension),
    )
    row = await cursor.fetchone()
    return None if row is None else int(row[0])


async def number_model(connection: Connection, model: ModelIdentity) -> int:
    """The stored number of a model, given now if it has none; processes that race for it get the same."""
    while True:
        known = await find_model(connection, model)
        if known is not None:
            return known
        # Waits for another transaction that is giving the number, and finds its row the next time around.
        await connection.execute(
            "INSERT INTO models (name, revision, dimension, token_dimension) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            (model.name, model.revision, model.dimension, model.token_dimension),
        )


async def _number_models(connection: Connection, embeddings: Iterable[Embedding | None]) -> dict[ModelIdentity, int]:
    """The numbers of the models of these embeddings."""
    models = dict.fromkeys(embedding.model for embedding in embeddings if embedding is not None)
    return {model: await number_model(connection, model) for model in models}


def _copied(memory: Memory) -> Row:
    """The memory's values in the order of `COPIED_COLUMNS`."""
    return (
        memory.space_id,
        memory.memory_type.value,
        memory.state.value,
        memory.source,
        memory.agent_id,
        memory.session_id,
        list(memory.tags),
        microseconds(memory.created_at),
        microseconds(memory.updated_at),
    )


def _entry_row(memory: Memory, entry: IndexEntry, terms: StoredTerms, numbers: dict[ModelIdentity, int]) -> Row:
    """The values of `ENTRY_COLUMNS` after the key."""
    turn, embedding = memory.turn, entry.embedding
    return (
        *_copied(memory),
        None if turn is None else turn.role,
        None if turn is None else turn.seq,
        memory.superseded_by,
        len(entry.terms),
        None if embedding is None else numbers[embedding.model],
        embedding is not None and embedding.is_complete,
        entry.traits,
        terms.weights,
        terms.codes,
        terms.counts,
    )


def _chunk_rows(
    owner: tuple[TenantId, MemoryId, int], copied: Row, embedding: Embedding | None, numbers: dict[ModelIdentity, int]
) -> list[Row]:
    """The values of `CHUNK_COLUMNS`, chunk by chunk; `owner` is the tenant, the memory, and the tenant's number."""
    if embedding is None:
        return []
    tenant_id, memory_id, tenant_no = owner
    rows: list[Row] = []
    for number, chunk in enumerate(embedding.chunks):
        check_shapes(chunk, embedding.model)
        rows.append(
            (
                tenant_id,
                memory_id,
                number,
                tenant_no,
                numbers[embedding.model],
                *copied,
                chunk.start,
                chunk.end,
                HalfVector(chunk.embedding.astype(np.float16)),
                chunk.token_vectors.astype(np.int8, copy=False).tobytes(),
            )
        )
    return rows


async def _move_counts(
    connection: Connection,
    tenant_id: TenantId,
    tenant_no: int,
    *,
    added: Sequence[NDArray[np.int64]] = (),
    removed: Sequence[NDArray[np.int64]] = (),
) -> None:
    """Each term is counted in the entries added and no longer in those removed; none is counted 0 times."""
    signs = [*([1] * len(added)), *([-1] * len(removed))]
    codes = np.concatenate([*added, *removed, np.empty(0, dtype=np.int64)])
    distinct, places = np.unique(plain_codes(tenant_no, codes).view(np.int64), return_inverse=True)
    sizes = [len(each) for each in chain(added, removed)]
    moved = np.bincount(places, weights=np.repeat(signs, sizes), minlength=len(distinct)).astype(np.int64)
    more, less = np.flatnonzero(moved > 0), np.flatnonzero(moved < 0)
    if len(more):
        await connection.execute(_ADD_COUNTS, (tenant_id, distinct[more], moved[more]))
    if len(less):
        taken = (distinct[less], -moved[less], tenant_id)
        # First those that fall to 0: after the other statement they could not be told apart.
        await connection.execute(_DROP_COUNTS, taken)
        await connection.execute(_TAKE_COUNTS, taken)
