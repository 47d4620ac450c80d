"""Exact cosines from the stored rows: of chosen candidates, or of all that pass where no matrix fits in memory."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import MemoryId, TenantId
from polymem.domain.query import MemoryFilter
from polymem.ports.search import ArmHit
from polymem.storage.sqlite.filters import where_clause
from polymem.storage.sqlite.index_documents import BATCH_ROWS
from polymem.storage.sqlite.vector_rows import products, unit_rows

_OF_DOCUMENTS = (
    "SELECT e.memory_id, c.embedding FROM json_each(?) AS wanted"
    " CROSS JOIN index_entries AS e ON e.doc_no = wanted.value"
    " CROSS JOIN chunks AS c ON c.tenant_id = e.tenant_id AND c.memory_id = e.memory_id"
    " WHERE e.tenant_id = ? AND c.model_no = ?"
)
_OF_ALL = (
    "SELECT c.memory_id, c.embedding FROM chunks AS c"
    " CROSS JOIN memories AS m ON m.tenant_id = c.tenant_id AND m.memory_id = c.memory_id"
    " WHERE c.tenant_id = ? AND c.model_no = ?"
)


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """The stored embeddings of one tenant by one model, in the snapshot of a connection."""

    connection: sqlite3.Connection
    tenant_id: TenantId
    model_no: int

    def cosines(self, doc_nos: NDArray[np.int64], vector: NDArray[np.float32]) -> dict[MemoryId, float]:
        """The exact cosine of the best chunk of each of these documents that has one."""
        if not len(doc_nos):
            return {}
        listed = f"[{','.join(map(str, doc_nos.tolist()))}]"
        rows = self.connection.execute(_OF_DOCUMENTS, (listed, self.tenant_id, self.model_no)).fetchall()
        best: dict[MemoryId, float] = {}
        _take_best(best, rows, vector)
        return best

    def nearest(self, vector: NDArray[np.float32], where: MemoryFilter, *, limit: int) -> tuple[ArmHit, ...]:
        """The nearest memories that pass, by reading every stored embedding once; slow, and bounded in memory."""
        condition, parameters = where_clause(where, self.tenant_id, tags_lead=False)
        cursor = self.connection.execute(f"{_OF_ALL} AND {condition}", (self.tenant_id, self.model_no, *parameters))
        best: dict[MemoryId, float] = {}
        while batch := cursor.fetchmany(BATCH_ROWS):
            _take_best(best, batch, vector)
            best = {hit.memory_id: hit.score for hit in best_hits(best.items(), limit=limit)}
        return best_hits(best.items(), limit=limit)


def best_hits(scores: Iterable[tuple[MemoryId, float]], *, limit: int) -> tuple[ArmHit, ...]:
    """The first `limit` in the order of every arm: higher score first, ties by id."""
    ordered = sorted(scores, key=lambda item: (-item[1], item[0]))
    return tuple(ArmHit(memory_id, score) for memory_id, score in ordered[:limit])


def _take_best(
    best: dict[MemoryId, float], rows: Sequence[tuple[MemoryId, bytes]], vector: NDArray[np.float32]
) -> None:
    """Each memory of the rows has the better of its known cosine and those of its rows."""
    cosines = products(unit_rows([blob for _, blob in rows], len(vector)), vector)
    for (memory_id, _), cosine in zip(rows, cosines.tolist(), strict=True):
        if cosine > best.get(memory_id, -np.inf):
            best[memory_id] = cosine
