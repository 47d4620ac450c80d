"""A tenant's chunk embeddings by one model as an int8 matrix in memory, in step with the rows.

A row is `scale * int8` of the unit vector that the stored float16 stands for. Scores from it only pick
candidates: `largest_error` bounds how far a score may be from the exact cosine.
"""

import sqlite3
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import TenantId
from polymem.errors import StorageDamaged
from polymem.storage.sqlite.index_arrays import with_room
from polymem.storage.sqlite.index_documents import BATCH_ROWS, Documents

_CHANGED = (
    "SELECT m.doc_no, c.embedding FROM memories AS m"
    " JOIN chunks AS c ON c.tenant_id = m.tenant_id AND c.memory_id = m.memory_id AND c.model_no = ?"
    " WHERE m.tenant_id = ? AND m.change_no > ?"
)
_TOUCHED = (
    "SELECT doc_no FROM memories WHERE tenant_id = ?1 AND change_no > ?2"
    " UNION ALL SELECT doc_no FROM tombstones WHERE tenant_id = ?1 AND change_no > ?2"
)

_LARGEST_INT8 = 127
_SMALLEST_NORM = 1e-12

# What float32 sums may differ by, whichever way they are added up.
_ROUNDING = 1e-5

# Numbers turned into float32 at a time: the block stays in the processor's cache, and the product with it runs in
# BLAS. On one core 100,000 x 384 take 6.4 ms so, 12.2 ms as a float32 matrix, 45 ms as integers. Products of twice
# this size are shared by OpenBLAS among threads that wait for each other: 227 ms on a busy machine.
_BLOCK_SIZE = 1024 * 384

_WORTH_COMPACTING = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsView:
    """The matrix as it was at one change count; later changes do not touch it."""

    rows: NDArray[np.int8]
    scales: NDArray[np.float32]
    positions: NDArray[np.int32]
    is_alive: NDArray[np.bool_]
    largest_error: float

    def best_by_document(self, vector: NDArray[np.float32], passes: NDArray[np.bool_]) -> NDArray[np.float32]:
        """For each document position the estimate of its best chunk; minus infinity where there is none or it fails."""
        best = np.full(len(passes), -np.inf, dtype=np.float32)
        if not len(self.rows):
            return best
        taken = np.flatnonzero(self.is_alive & passes[self.positions])
        is_sparse = 2 * len(taken) < len(self.rows)
        scores = products(self.rows, vector, taken if is_sparse else None) * (
            self.scales[taken] if is_sparse else self.scales
        )
        np.maximum.at(best, self.positions[taken], scores if is_sparse else scores[taken])
        return best


class VectorRows:
    """The matrix of one model; `change_no` is the tenant's count it is in step with. The owner holds a lock."""

    def __init__(self, model_no: int, dimension: int) -> None:
        self.change_no = -1
        self._model_no = model_no
        self._dimension = dimension
        self._count = 0
        self._dead_count = 0
        self._largest_error = _ROUNDING
        self._rows: NDArray[np.int8] = np.empty((0, dimension), dtype=np.int8)
        self._scales: NDArray[np.float32] = np.empty(0, dtype=np.float32)
        self._positions: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._is_alive: NDArray[np.bool_] = np.empty(0, dtype=np.bool_)

    @property
    def size_bytes(self) -> int:
        """The memory the matrix holds."""
        return self._rows.nbytes + self._scales.nbytes + self._positions.nbytes + self._is_alive.nbytes

    def view(self) -> RowsView:
        """The matrix as it is now."""
        count = self._count
        return RowsView(
            rows=self._rows[:count],
            scales=self._scales[:count],
            positions=self._positions[:count],
            is_alive=self._is_alive[:count].copy(),
            largest_error=self._largest_error,
        )

    def catch_up(
        self, connection: sqlite3.Connection, tenant_id: TenantId, documents: Documents, *, max_bytes: int
    ) -> bool:
        """The rows are what the snapshot holds that `documents` is in step with.

        False when they would take more than `max_bytes`; then the matrix is of no use any more.
        """
        if self.change_no == documents.change_no:
            return True
        if self._count:
            self._bury(connection, tenant_id, documents)
        cursor = connection.execute(_CHANGED, (self._model_no, tenant_id, self.change_no))
        while batch := cursor.fetchmany(BATCH_ROWS):
            self._append(batch, documents)
            if self.size_bytes > max_bytes:
                return False
        self.change_no = documents.change_no
        return True

    def _bury(self, connection: sqlite3.Connection, tenant_id: TenantId, documents: Documents) -> None:
        touched = [row[0] for row in connection.execute(_TOUCHED, (tenant_id, self.change_no))]
        if not touched:
            return
        is_touched = np.zeros(documents.count, dtype=np.bool_)
        is_touched[documents.find(np.array(touched, dtype=np.int64))] = True
        is_alive = self._is_alive[: self._count]
        is_alive &= ~is_touched[self._positions[: self._count]]
        self._dead_count = self._count - int(np.count_nonzero(is_alive))
        if self._dead_count > _WORTH_COMPACTING and 2 * self._dead_count > self._count:
            self._compact()

    def _compact(self) -> None:
        kept = np.flatnonzero(self._is_alive[: self._count])
        self._rows, self._scales, self._positions = self._rows[kept], self._scales[kept], self._positions[kept]
        self._is_alive = np.ones(len(kept), dtype=np.bool_)
        self._count, self._dead_count = len(kept), 0

    def _append(self, batch: list[tuple[int, bytes]], documents: Documents) -> None:
        vectors = unit_rows([blob for _, blob in batch], self._dimension)
        positions = documents.find(np.array([doc_no for doc_no, _ in batch], dtype=np.int64))
        if len(positions) != len(batch):
            raise StorageDamaged("a memory with vectors has no index entry")
        scales = np.maximum(np.abs(vectors).max(axis=1), _SMALLEST_NORM) / _LARGEST_INT8
        rounded = np.rint(vectors / scales[:, np.newaxis])
        errors = np.linalg.norm(vectors - rounded * scales[:, np.newaxis], axis=1)
        self._largest_error = max(self._largest_error, float(errors.max()) + _ROUNDING)
        used, more = self._count, len(batch)
        self._rows = with_room(self._rows, used, more)
        self._scales = with_room(self._scales, used, more)
        self._positions = with_room(self._positions, used, more)
        self._is_alive = with_room(self._is_alive, used, more)
        self._rows[used : used + more] = rounded
        self._scales[used : used + more] = scales
        self._positions[used : used + more] = positions
        self._is_alive[used : used + more] = True
        self._count = used + more


def unit_rows(blobs: list[bytes], dimension: int) -> NDArray[np.float32]:
    """Stored embeddings as float32 rows of unit length. Raises `StorageDamaged` for one of another size."""
    if any(len(blob) != 2 * dimension for blob in blobs):
        raise StorageDamaged("a stored embedding has not the size of its model")
    rows = np.frombuffer(b"".join(blobs), dtype="<f2").reshape(-1, dimension).astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(_SMALLEST_NORM))
    return rows


def most_first(estimates: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The positions of the `count` highest estimates, in no order; those of minus infinity are left out."""
    if len(estimates) > count:
        best: NDArray[np.int64] = np.argpartition(estimates, len(estimates) - count)[-count:]
        return best[estimates[best] > -np.inf]
    return np.flatnonzero(estimates > -np.inf)


def products(
    rows: NDArray[np.int8] | NDArray[np.float32], vector: NDArray[np.float32], taken: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """The products of all rows, or of the taken ones, with the vector."""
    count = len(rows) if taken is None else len(taken)
    found = np.empty(count, dtype=np.float32)
    at_once = max(1, _BLOCK_SIZE // rows.shape[1])
    block = np.empty((min(count, at_once), rows.shape[1]), dtype=np.float32)
    for start in range(0, count, at_once):
        end = min(count, start + at_once)
        part = block[: end - start]
        part[...] = rows[start:end] if taken is None else rows[taken[start:end]]
        np.dot(part, vector, out=found[start:end])
    return found
