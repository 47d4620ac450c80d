"""The evidence of candidates: from the tenant's index in memory, or from the rows where that is not loaded.

Both are the same. In memory stands all but the token vectors: they alone are read from the database.
"""

import sqlite3
from collections.abc import Sequence

import numpy as np
import orjson
from numpy.typing import NDArray

from polymem.domain.model import MemoryId, MemoryType, ModelIdentity, TenantId
from polymem.ports.search import Evidence
from polymem.storage.entries import cut, frequencies_of, unit
from polymem.storage.rows import moment
from polymem.storage.sqlite.index_rows import find_model
from polymem.storage.sqlite.lexical import posted_frequencies
from polymem.storage.sqlite.vector_rows import stored_rows, stored_token_counts
from polymem.storage.sqlite.vectors import Held
from polymem.storage.terms import term_code, unpack_terms

_ENTRIES = (
    "SELECT m.memory_id, e.length, m.created_at, m.session_id, m.turn_role, m.turn_seq, m.superseded_by,"
    " e.terms, e.counts, e.chunks, e.embeddings, t.vectors, e.traits, m.memory_type"
    " FROM tenants AS n CROSS JOIN json_each(?) AS wanted"
    " CROSS JOIN memories AS m ON m.tenant_id = n.tenant_id AND m.memory_id = wanted.value"
    " CROSS JOIN index_entries AS e ON e.doc_no = m.doc_no AND e.tenant_no = n.tenant_no"
    " LEFT JOIN token_vectors AS t ON t.doc_no = e.doc_no AND t.tenant_no = e.tenant_no AND e.model_no = ?"
    " WHERE n.tenant_id = ?"
)
_TOKENS = (
    "SELECT t.doc_no, t.vectors FROM json_each(?) AS wanted"
    " CROSS JOIN token_vectors AS t ON t.doc_no = wanted.value AND t.tenant_no = ?"
)

_EMBEDDINGS = (
    "SELECT m.memory_id, e.embeddings FROM json_each(?) AS wanted"
    " CROSS JOIN memories AS m ON m.tenant_id = ? AND m.memory_id = wanted.value"
    " CROSS JOIN index_entries AS e ON e.doc_no = m.doc_no WHERE e.model_no = ? AND length(e.embeddings) > 0"
)


def read_embeddings(
    tenant_id: TenantId, ids: tuple[MemoryId, ...], model: ModelIdentity, connection: sqlite3.Connection
) -> dict[MemoryId, NDArray[np.float32]]:
    """The vectors of those of these memories that have any by this model, one row for each chunk."""
    asked = (orjson.dumps(ids).decode(), tenant_id, find_model(connection, model))
    found = connection.execute(_EMBEDDINGS, asked).fetchall()
    return dict(zip([row[0] for row in found], _embeddings([row[1] for row in found], model), strict=True))


def read_evidence(
    tenant_id: TenantId,
    ids: tuple[MemoryId, ...],
    model: ModelIdentity,
    terms: Sequence[str],
    connection: sqlite3.Connection,
) -> dict[MemoryId, Evidence]:
    """What the index holds of these memories; vectors of another model are left out."""
    model_no = find_model(connection, model)
    rows = connection.execute(_ENTRIES, (orjson.dumps(ids).decode(), model_no, tenant_id)).fetchall()
    frequencies = frequencies_of(
        *unpack_terms([(row[7], row[8]) for row in rows]), {term_code(term): term for term in terms}
    )
    own = [row[11] is not None for row in rows]
    embeddings = _embeddings([row[10] if is_own else b"" for row, is_own in zip(rows, own, strict=True)], model)
    return {
        row[0]: Evidence(
            frequencies=held,
            length=row[1],
            created_at=moment(row[2]),
            session_id=row[3],
            role=row[4],
            seq=row[5],
            superseded_by=row[6],
            memory_type=MemoryType(row[13]),
            traits=row[12],
            token_vectors=_of_chunks(stored_token_counts([row[9]]), row[11], model) if is_own else (),
            embeddings=of_chunks,
        )
        for row, held, is_own, of_chunks in zip(rows, frequencies, own, embeddings, strict=True)
    }


def evidence_of(
    held: Held, model: ModelIdentity, terms: Sequence[str], connection: sqlite3.Connection
) -> dict[MemoryId, Evidence]:
    """What the index holds of these memories, by what is loaded of them."""
    frequencies = posted_frequencies(held.postings, held.positions.astype(np.int32), terms)
    asked = [doc_no for doc_no, size in zip(held.doc_nos, held.rows.sizes, strict=True) if size]
    stored = dict(connection.execute(_TOKENS, (orjson.dumps(asked).decode(), held.tenant_no)).fetchall())
    embeddings = cut(unit(held.rows.rows.astype(np.float32)), held.rows.sizes)
    chunks = cut(held.rows.token_counts, held.rows.sizes)
    return {
        memory_id: Evidence(
            frequencies=counted,
            length=told.length,
            created_at=moment(told.created_at),
            session_id=told.session_id,
            role=told.role,
            seq=told.seq,
            superseded_by=told.superseded_by,
            memory_type=told.memory_type,
            traits=told.traits,
            token_vectors=_of_chunks(of_chunks, stored.get(doc_no, b""), model),
            embeddings=rows,
        )
        for memory_id, doc_no, told, counted, of_chunks, rows in zip(
            held.ids, held.doc_nos, held.told, frequencies, chunks, embeddings, strict=True
        )
    }


def _embeddings(blobs: list[bytes], model: ModelIdentity) -> list[NDArray[np.float32]]:
    """The unit rows of each entry."""
    rows = unit(stored_rows(blobs, model.dimension).astype(np.float32))
    return cut(rows, [len(blob) // (2 * model.dimension) for blob in blobs])


def _of_chunks(token_counts: NDArray[np.int32], vectors: bytes, model: ModelIdentity) -> tuple[NDArray[np.int8], ...]:
    """The token vectors of each chunk."""
    rows = np.frombuffer(vectors, dtype=np.int8).reshape(-1, model.token_dimension)
    return (rows,) if len(token_counts) == 1 else tuple(cut(rows, token_counts.tolist()))
