"""The index rows of a memory: terms and vectors, written in the transaction of the memory's own row.

Every function here runs on the writer's connection inside an open transaction. What they keep equal:

- `index_entries` has one row per memory, under the memory's `doc_no`, with its terms, traits and embeddings;
- `tenants.terms_total` is the sum of the lengths of the tenant's entries;
- `token_vectors` has a row for each entry that names a model; all vectors of an entry are of that one model.
"""

import sqlite3
from typing import Final

import numpy as np

from polymem.domain.model import ModelIdentity, TenantId
from polymem.errors import StorageDamaged
from polymem.ports.changes import Embedding, IndexEntry
from polymem.storage.entries import check_shapes
from polymem.storage.terms import pack_terms

# Start, end and number of tokens of one chunk, four bytes each.
CHUNK_BYTES: Final = 12


def put_entry(
    connection: sqlite3.Connection, *, tenant_id: TenantId, tenant_no: int, doc_no: int, entry: IndexEntry
) -> None:
    """The new memory's terms and vectors are in the index, and counted."""
    connection.execute(
        "INSERT INTO index_entries"
        " (doc_no, tenant_no, length, terms, counts, traits, model_no, is_complete, chunks, embeddings)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            doc_no,
            tenant_no,
            len(entry.terms),
            *pack_terms(entry.terms),
            entry.traits,
            *_vectors(connection, entry.embedding),
        ),
    )
    _move_total(connection, tenant_id, len(entry.terms))
    _put_tokens(connection, tenant_no, doc_no, entry.embedding)


def replace_entry(
    connection: sqlite3.Connection, *, tenant_id: TenantId, tenant_no: int, doc_no: int, entry: IndexEntry
) -> None:
    """The memory is indexed as `entry` says and in no other way; without an embedding it has no vectors."""
    remove_entry(connection, tenant_id=tenant_id, tenant_no=tenant_no, doc_no=doc_no)
    put_entry(connection, tenant_id=tenant_id, tenant_no=tenant_no, doc_no=doc_no, entry=entry)


def set_embedding(connection: sqlite3.Connection, *, tenant_no: int, doc_no: int, embedding: Embedding) -> None:
    """The memory's vectors are these and no others; its terms are untouched."""
    _drop_tokens(connection, tenant_no, doc_no)
    connection.execute(
        "UPDATE index_entries SET model_no = ?, is_complete = ?, chunks = ?, embeddings = ?"
        " WHERE tenant_no = ? AND doc_no = ?",
        (*_vectors(connection, embedding), tenant_no, doc_no),
    )
    _put_tokens(connection, tenant_no, doc_no, embedding)


def remove_entry(connection: sqlite3.Connection, *, tenant_id: TenantId, tenant_no: int, doc_no: int) -> None:
    """Nothing of the memory is in the index, and nothing of it is counted. Raises `StorageDamaged` without an entry."""
    row = connection.execute(
        "DELETE FROM index_entries WHERE tenant_no = ? AND doc_no = ? RETURNING length", (tenant_no, doc_no)
    ).fetchone()
    if row is None:
        raise StorageDamaged("a memory has no index entry")
    _move_total(connection, tenant_id, -row[0])
    _drop_tokens(connection, tenant_no, doc_no)


def find_model(connection: sqlite3.Connection, model: ModelIdentity) -> int | None:
    """The stored number of a model, or None when no vector was ever made by it."""
    row = connection.execute(
        "SELECT model_no FROM models WHERE name = ? AND revision = ? AND dimension = ? AND token_dimension = ?",
        (model.name, model.revision, model.dimension, model.token_dimension),
    ).fetchone()
    return None if row is None else int(row[0])


def _move_total(connection: sqlite3.Connection, tenant_id: TenantId, difference: int) -> None:
    connection.execute("UPDATE tenants SET terms_total = terms_total + ? WHERE tenant_id = ?", (difference, tenant_id))


def _vectors(connection: sqlite3.Connection, embedding: Embedding | None) -> tuple[int | None, int, bytes, bytes]:
    """The model, whether it is complete, the chunks and their embeddings, as an entry stores them."""
    if embedding is None:
        return None, 0, b"", b""
    places, rows = [], []
    for chunk in embedding.chunks:
        check_shapes(chunk, embedding.model)
        places.append((chunk.start, chunk.end, len(chunk.token_vectors)))
        rows.append(chunk.embedding.astype("<f2").tobytes())
    number = _number_model(connection, embedding.model)
    return number, int(embedding.is_complete), np.array(places, dtype="<i4").tobytes(), b"".join(rows)


def _put_tokens(connection: sqlite3.Connection, tenant_no: int, doc_no: int, embedding: Embedding | None) -> None:
    if embedding is not None:
        vectors = b"".join([chunk.token_vectors.astype(np.int8, copy=False).tobytes() for chunk in embedding.chunks])
        connection.execute(
            "INSERT INTO token_vectors (doc_no, tenant_no, vectors) VALUES (?, ?, ?)", (doc_no, tenant_no, vectors)
        )


def _drop_tokens(connection: sqlite3.Connection, tenant_no: int, doc_no: int) -> None:
    connection.execute("DELETE FROM token_vectors WHERE tenant_no = ? AND doc_no = ?", (tenant_no, doc_no))


def _number_model(connection: sqlite3.Connection, model: ModelIdentity) -> int:
    known = find_model(connection, model)
    if known is not None:
        return known
    connection.execute(
        "INSERT INTO models (name, revision, dimension, token_dimension) VALUES (?, ?, ?, ?)",
        (model.name, model.revision, model.dimension, model.token_dimension),
    )
    return int(connection.execute("SELECT last_insert_rowid()").fetchone()[0])
