"""The index rows of a memory: terms, counts and vectors, written in the transaction of the memory's own row.

Every function here runs on the writer's connection inside an open transaction. What they keep equal:

- `index_entries` has one row per memory, with all its terms in order;
- `terms_fts` holds the same terms, each as the token `fts_token` makes of it, under the memory's `doc_no`;
- `term_counts` counts, per tenant and term, the entries that hold the term;
- `tenants.terms_total` is the sum of the lengths of the tenant's entries;
- `chunks` holds the vectors, all of the one model that `index_entries.model_no` names.
"""

import re
import sqlite3
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np

from polymem.domain.model import MemoryId, ModelIdentity, TenantId
from polymem.errors import StorageDamaged
from polymem.ports.storage import EmbeddedChunk, Embedding, IndexEntry

# What the ascii tokenizer of FTS5 keeps as one token: it splits at, or folds, every other ASCII character. The
# leading underscore is kept free to mark encoded terms.
_PLAIN_TERM = re.compile(r"[a-z0-9\x80-\U0010ffff][a-z0-9_\x80-\U0010ffff]*")

# FTS5 cuts tokens at 32,768 bytes; terms far below that are hashed, which also keeps its pages small.
_MAX_PLAIN_BYTES = 200
_DIGEST_BYTES = 20


def fts_token(tenant_no: int, term: str) -> str:
    """The one token under which `terms_fts` holds a tenant's term; different terms give different tokens."""
    if _PLAIN_TERM.fullmatch(term) and len(term.encode()) <= _MAX_PLAIN_BYTES:
        return f"{tenant_no}_{term}"
    return f"{tenant_no}__{blake2b(term.encode(), digest_size=_DIGEST_BYTES).hexdigest()}"


def fts_text(tenant_no: int, terms: Iterable[str]) -> str:
    """The text that `terms_fts` indexes for these terms; repeats stay, so that its own ranking sees them."""
    tokens: dict[str, str] = {}
    written: list[str] = []
    for term in terms:
        token = tokens.get(term)
        if token is None:
            token = tokens[term] = fts_token(tenant_no, term)
        written.append(token)
    return " ".join(written)


def join_terms(terms: Sequence[str]) -> str:
    """The stored form of an entry's terms. Raises `ValueError` for an empty term or one that holds a space."""
    joined = " ".join(terms)
    if "" in terms or split_terms(joined) != tuple(terms):
        message = "a term is empty or holds a space"
        raise ValueError(message)
    return joined


def split_terms(stored: str) -> tuple[str, ...]:
    """The terms of an entry, in order with repeats, from their stored form."""
    return tuple(stored.split(" ")) if stored else ()


def put_entry(
    connection: sqlite3.Connection,
    *,
    tenant_id: TenantId,
    tenant_no: int,
    memory_id: MemoryId,
    doc_no: int,
    entry: IndexEntry,
) -> None:
    """The new memory's terms and vectors are in the index, and counted."""
    stored = join_terms(entry.terms)
    connection.execute(
        "INSERT INTO index_entries (tenant_id, memory_id, doc_no, length, model_no, is_complete, terms)"
        " VALUES (?, ?, ?, ?, NULL, 0, ?)",
        (tenant_id, memory_id, doc_no, len(entry.terms), stored),
    )
    connection.execute("INSERT INTO terms_fts (rowid, terms) VALUES (?, ?)", (doc_no, fts_text(tenant_no, entry.terms)))
    _count_up(connection, tenant_id, set(entry.terms))
    _move_total(connection, tenant_id, len(entry.terms))
    if entry.embedding is not None:
        _write_vectors(connection, tenant_id, memory_id, entry.embedding)


def replace_entry(
    connection: sqlite3.Connection,
    *,
    tenant_id: TenantId,
    tenant_no: int,
    memory_id: MemoryId,
    doc_no: int,
    entry: IndexEntry,
) -> None:
    """The memory is indexed as `entry` says and in no other way; without an embedding it has no vectors."""
    old = _stored_terms(connection, tenant_id, memory_id)
    if old != entry.terms:
        _replace_terms(
            connection,
            tenant_id=tenant_id,
            tenant_no=tenant_no,
            memory_id=memory_id,
            doc_no=doc_no,
            old=old,
            new=entry.terms,
        )
    _drop_vectors(connection, tenant_id, memory_id)
    if entry.embedding is None:
        connection.execute(
            "UPDATE index_entries SET model_no = NULL, is_complete = 0 WHERE tenant_id = ? AND memory_id = ?",
            (tenant_id, memory_id),
        )
    else:
        _write_vectors(connection, tenant_id, memory_id, entry.embedding)


def set_embedding(
    connection: sqlite3.Connection, *, tenant_id: TenantId, memory_id: MemoryId, embedding: Embedding
) -> None:
    """The memory's vectors are these and no others; its terms are untouched."""
    _drop_vectors(connection, tenant_id, memory_id)
    _write_vectors(connection, tenant_id, memory_id, embedding)


def remove_entry(
    connection: sqlite3.Connection, *, tenant_id: TenantId, tenant_no: int, memory_id: MemoryId, doc_no: int
) -> None:
    """Nothing of the memory is in the index, and nothing of it is counted."""
    old = _stored_terms(connection, tenant_id, memory_id)
    _forget_fts(connection, doc_no, fts_text(tenant_no, old))
    _count_down(connection, tenant_id, set(old))
    _move_total(connection, tenant_id, -len(old))
    _drop_vectors(connection, tenant_id, memory_id)
    connection.execute("DELETE FROM index_entries WHERE tenant_id = ? AND memory_id = ?", (tenant_id, memory_id))


def find_model(connection: sqlite3.Connection, model: ModelIdentity) -> int | None:
    """The stored number of a model, or None when no vector was ever made by it."""
    row = connection.execute(
        "SELECT model_no FROM models WHERE name = ? AND revision = ? AND dimension = ? AND token_dimension = ?",
        (model.name, model.revision, model.dimension, model.token_dimension),
    ).fetchone()
    return None if row is None else int(row[0])


def _stored_terms(connection: sqlite3.Connection, tenant_id: TenantId, memory_id: MemoryId) -> tuple[str, ...]:
    row = connection.execute(
        "SELECT terms FROM index_entries WHERE tenant_id = ? AND memory_id = ?", (tenant_id, memory_id)
    ).fetchone()
    if row is None:
        message = "a memory has no index entry"
        raise StorageDamaged(message)
    return split_terms(row[0])


def _replace_terms(
    connection: sqlite3.Connection,
    *,
    tenant_id: TenantId,
    tenant_no: int,
    memory_id: MemoryId,
    doc_no: int,
    old: tuple[str, ...],
    new: tuple[str, ...],
) -> None:
    _forget_fts(connection, doc_no, fts_text(tenant_no, old))
    connection.execute("INSERT INTO terms_fts (rowid, terms) VALUES (?, ?)", (doc_no, fts_text(tenant_no, new)))
    _count_down(connection, tenant_id, set(old) - set(new))
    _count_up(connection, tenant_id, set(new) - set(old))
    _move_total(connection, tenant_id, len(new) - len(old))
    connection.execute(
        "UPDATE index_entries SET length = ?, terms = ? WHERE tenant_id = ? AND memory_id = ?",
        (len(new), join_terms(new), tenant_id, memory_id),
    )


def _forget_fts(connection: sqlite3.Connection, doc_no: int, text: str) -> None:
    # A contentless table cannot look the old text up: it has to be told, exactly as it was written.
    connection.execute("INSERT INTO terms_fts (terms_fts, rowid, terms) VALUES ('delete', ?, ?)", (doc_no, text))


def _count_up(connection: sqlite3.Connection, tenant_id: TenantId, terms: set[str]) -> None:
    connection.executemany(
        "INSERT INTO term_counts (tenant_id, term, documents) VALUES (?, ?, 1)"
        " ON CONFLICT (tenant_id, term) DO UPDATE SET documents = documents + 1",
        [(tenant_id, term) for term in sorted(terms)],
    )


def _count_down(connection: sqlite3.Connection, tenant_id: TenantId, terms: set[str]) -> None:
    keys = [(tenant_id, term) for term in sorted(terms)]
    connection.executemany("DELETE FROM term_counts WHERE tenant_id = ? AND term = ? AND documents = 1", keys)
    connection.executemany("UPDATE term_counts SET documents = documents - 1 WHERE tenant_id = ? AND term = ?", keys)


def _move_total(connection: sqlite3.Connection, tenant_id: TenantId, difference: int) -> None:
    connection.execute("UPDATE tenants SET terms_total = terms_total + ? WHERE tenant_id = ?", (difference, tenant_id))


def _drop_vectors(connection: sqlite3.Connection, tenant_id: TenantId, memory_id: MemoryId) -> None:
    connection.execute("DELETE FROM chunks WHERE tenant_id = ? AND memory_id = ?", (tenant_id, memory_id))


def _write_vectors(
    connection: sqlite3.Connection, tenant_id: TenantId, memory_id: MemoryId, embedding: Embedding
) -> None:
    model_no = _number_model(connection, embedding.model)
    connection.executemany(
        "INSERT INTO chunks (tenant_id, memory_id, chunk_no, model_no, start_offset, end_offset,"
        " embedding, token_vectors) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (tenant_id, memory_id, number, model_no, chunk.start, chunk.end, *_chunk_bytes(chunk, embedding.model))
            for number, chunk in enumerate(embedding.chunks)
        ],
    )
    connection.execute(
        "UPDATE index_entries SET model_no = ?, is_complete = ? WHERE tenant_id = ? AND memory_id = ?",
        (model_no, int(embedding.is_complete), tenant_id, memory_id),
    )


def _chunk_bytes(chunk: EmbeddedChunk, model: ModelIdentity) -> tuple[bytes, bytes]:
    """The chunk's vectors as stored: little-endian float16, and int8 row after row."""
    if chunk.embedding.shape != (model.dimension,):
        message = f"an embedding has the shape {chunk.embedding.shape}, its model the dimension {model.dimension}"
        raise ValueError(message)
    if chunk.token_vectors.ndim != 2 or chunk.token_vectors.shape[1] != model.token_dimension:  # noqa: PLR2004
        message = f"token vectors have the shape {chunk.token_vectors.shape}, not (*, {model.token_dimension})"
        raise ValueError(message)
    return chunk.embedding.astype("<f2").tobytes(), chunk.token_vectors.astype(np.int8, copy=False).tobytes()


def _number_model(connection: sqlite3.Connection, model: ModelIdentity) -> int:
    known = find_model(connection, model)
    if known is not None:
        return known
    connection.execute(
        "INSERT INTO models (name, revision, dimension, token_dimension) VALUES (?, ?, ?, ?)",
        (model.name, model.revision, model.dimension, model.token_dimension),
    )
    return int(connection.execute("SELECT last_insert_rowid()").fetchone()[0])
