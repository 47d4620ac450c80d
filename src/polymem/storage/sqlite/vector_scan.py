"""The nearest memories from the stored rows, where the vectors of a tenant do not fit in memory."""

import sqlite3
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import MemoryId, TenantId
from polymem.domain.query import MemoryFilter
from polymem.ports.search import ArmHit
from polymem.storage.entries import unit
from polymem.storage.sqlite.filters import where_clause
from polymem.storage.sqlite.index_documents import BATCH_ROWS
from polymem.storage.sqlite.vector_rows import stored_rows

_OF_ALL = (
    "SELECT m.memory_id, e.embeddings FROM memories AS m"
    " CROSS JOIN index_entries AS e ON e.doc_no = m.doc_no AND e.tenant_no = ? WHERE e.model_no = ?"
)


def nearest_stored(
    connection: sqlite3.Connection,
    vector: NDArray[np.float32],
    where: MemoryFilter,
    *,
    tenant_id: TenantId,
    tenant_no: int,
    model_no: int,
    limit: int,
) -> tuple[ArmHit, ...]:
    """The nearest memories that pass, by reading every stored embedding once; slow, and bounded in memory."""
    condition, parameters = where_clause(where, tenant_id)
    cursor = connection.execute(f"{_OF_ALL} AND {condition}", (tenant_no, model_no, *parameters))
    best: dict[MemoryId, float] = {}
    while batch := cursor.fetchmany(BATCH_ROWS):
        rows = stored_rows([blob for _, blob in batch], len(vector)).astype(np.float32)
        sizes = [len(blob) // (2 * len(vector)) for _, blob in batch]
        names = [name for (name, _), size in zip(batch, sizes, strict=True) for _ in range(size)]
        for memory_id, cosine in zip(names, (unit(rows) @ vector).tolist(), strict=True):
            best[memory_id] = max(cosine, best.get(memory_id, cosine))
        best = {hit.memory_id: hit.score for hit in best_hits(best.items(), limit=limit)}
    return best_hits(best.items(), limit=limit)


def best_hits(scores: Iterable[tuple[MemoryId, float]], *, limit: int) -> tuple[ArmHit, ...]:
    """The first `limit` in the order of every arm: higher score first, ties by id."""
    ordered = sorted(scores, key=lambda item: (-item[1], item[0]))
    return tuple(ArmHit(memory_id, score) for memory_id, score in ordered[:limit])
