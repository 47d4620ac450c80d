"""A tenant's chunk embeddings by one model in memory, as stored, in step with the rows.

Beside each row of float16 stands the code of its signs, one bit for each dimension. Where many rows pass, their
codes are compared first: the rows with the fewest differing signs are the candidates for the cosine. It needs no
graph, is the same whatever order the rows came in, and obeys any filter. Fewer rows are compared one by one.
"""

import sqlite3
from dataclasses import dataclass
from typing import Final, NamedTuple

import numkong
import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import TenantId
from polymem.errors import StorageDamaged
from polymem.storage.entries import unit
from polymem.storage.sqlite.index_arrays import sparse_nonzero, with_room
from polymem.storage.sqlite.index_documents import BATCH_ROWS, Documents
from polymem.storage.sqlite.index_rows import CHUNK_BYTES

_CHANGED = (
    "SELECT m.doc_no, e.embeddings, e.chunks FROM memories AS m"
    " CROSS JOIN index_entries AS e ON e.doc_no = m.doc_no AND e.tenant_no = ?"
    " WHERE m.tenant_id = ? AND m.change_no > ? AND e.model_no = ?"
)
_TOUCHED = (
    "SELECT doc_no FROM memories WHERE tenant_id = ?1 AND change_no > ?2"
    " UNION ALL SELECT doc_no FROM tombstones WHERE tenant_id = ?1 AND change_no > ?2"
)

# Up to so many rows the cosine of each is computed: 1.2 ms on one core; beyond it, that of the candidates alone.
EXACT_ROWS: Final = 32_768
# Candidates of the signs: so many for each document asked for, and this share of the rows. They hold .99 of the
# nearest 96 and .99 of the nearest 512, of 100,000 memories and of a million (mixed real texts, real questions).
_CANDIDATES = 20
_FEWEST_DOCUMENTS = 64
_CANDIDATE_SHARE = 512
# From so many rows it is estimated how near the candidates have to be.
_ROWS_SAMPLED = 1 << 16

# What an estimate may differ from the cosine by, beside the rounding of the question: float16 rows are not quite of
# unit length, and sums differ by the order in which they are added up.
_ROUNDING = 2e-3

# Rows gathered at a time, into a block that is used again: fresh memory costs more than the copy.
_ROWS_AT_ONCE = 1024

# Codes compared at a time: they and what is counted of them stay in the processor's cache.
_CODES_AT_ONCE = 32_768
_WORD_BITS = 64
# Signs of dimensions where the question is near 0 tell least. Without the lighter half 2,000 candidates of 100,000
# hold what 5,000 hold with it; of many dimensions no more take part than a byte can count.
_MOST_HEAVY = 255

_WORTH_COMPACTING = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsView:
    """The rows as they were at one change count; later changes do not touch them.

    `codes`: for each word of the code an array with that word of every row. No position has more than `most_rows`.
    """

    rows: NDArray[np.float16]
    codes: tuple[NDArray[np.uint64], ...]
    positions: NDArray[np.int32]
    is_alive: NDArray[np.bool_]
    most_rows: int

    def select(self, passes: NDArray[np.bool_]) -> NDArray[np.int64] | None:
        """The rows that are alive and whose positions pass; None for all of them."""
        taken = np.flatnonzero(self.is_alive & passes[self.positions])
        return None if len(taken) == len(self.rows) else taken

    def nearest(
        self, vector: NDArray[np.float32], taken: NDArray[np.int64] | None, *, documents: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Positions of the taken rows, with their exact cosines: of at least the `documents` nearest.

        A position may stand several times.

        Of more than `EXACT_ROWS` rows they are nearly always the nearest, not always.
        """
        count = len(self.rows) if taken is None else len(taken)
        if count <= EXACT_ROWS:
            return self._exact(vector, np.arange(count) if taken is None else taken, documents)
        differing = self._differing_signs(vector)
        if taken is not None:
            differing = differing[taken]
        every = max(1, count // _ROWS_SAMPLED)
        up_to = np.cumsum(np.bincount(differing[::every])) * every
        wanted = _CANDIDATES * max(documents, _FEWEST_DOCUMENTS) + count // _CANDIDATE_SHARE
        while True:
            near = sparse_nonzero(differing <= min(int(np.searchsorted(up_to, wanted)), _MOST_HEAVY))
            candidates = near if taken is None else taken[near]
            if wanted >= count or self._are_of(candidates, documents):
                return self._exact(vector, candidates, documents)
            wanted *= 4

    def _exact(
        self, vector: NDArray[np.float32], candidates: NDArray[np.int64], documents: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """The positions of candidates that may be the best row of one of the best positions, with the cosines."""
        if not len(candidates):
            return np.empty(0, dtype=np.int32), np.empty(0)
        rounded = vector.astype(np.float16)
        estimates = self._products(rounded, candidates)
        margin = 2.0 * (float(np.linalg.norm(vector - rounded.astype(np.float32))) + _ROUNDING)
        floor = self._floor(estimates, candidates, documents)
        kept = np.flatnonzero(estimates >= floor - margin)
        exact = unit(self.rows[candidates[kept]].astype(np.float32)) @ vector
        return self.positions[candidates[kept]], exact.astype(np.float64)

    def _products(self, vector: NDArray[np.float16], taken: NDArray[np.int64]) -> NDArray[np.float64]:
        """The products of the taken rows with the vector."""
        if len(taken) == len(self.rows):
            return np.asarray(numkong.dot(vector, self.rows))
        found = np.empty(len(taken))
        block = np.empty((min(len(taken), _ROWS_AT_ONCE), self.rows.shape[1]), dtype=np.float16)
        for start in range(0, len(taken), _ROWS_AT_ONCE):
            chosen = taken[start : start + _ROWS_AT_ONCE]
            part = block[: len(chosen)]
            np.take(self.rows, chosen, axis=0, out=part, mode="clip")
            found[start : start + len(chosen)] = numkong.dot(vector, part)
        return found

    def _floor(self, estimates: NDArray[np.float64], candidates: NDArray[np.int64], documents: int) -> float:
        """A value that rows of at least so many positions reach; the lowest where there are not so many."""
        wanted = documents
        while wanted < len(estimates):
            floor = float(np.partition(estimates, -wanted)[-wanted])
            if self._are_of(candidates[estimates >= floor], documents):
                return floor
            wanted *= 4
        return float(estimates.min())

    def _are_of(self, candidates: NDArray[np.int64], documents: int) -> bool:
        """True when these rows are of at least so many positions."""
        if len(candidates) >= documents * self.most_rows:
            return True
        return len(np.unique(self.positions[candidates])) >= documents

    def _differing_signs(self, vector: NDArray[np.float32]) -> NDArray[np.uint8]:
        """For each row in how many of the vector's heaviest dimensions its sign is not the vector's."""
        asked, heavy = sign_words(vector[np.newaxis])[:, 0], heavy_words(vector)
        count = len(self.positions)
        found = np.zeros(count, dtype=np.uint8)
        words, ones = np.empty(_CODES_AT_ONCE, dtype=np.uint64), np.empty(_CODES_AT_ONCE, dtype=np.uint8)
        for start in range(0, count, _CODES_AT_ONCE):
            size = min(count - start, _CODES_AT_ONCE)
            part = slice(start, start + size)
            for number in np.flatnonzero(heavy).tolist():
                np.bitwise_xor(self.codes[number][part], asked[number], out=words[:size])
                np.bitwise_and(words[:size], heavy[number], out=words[:size])
                np.bitwise_count(words[:size], out=ones[:size])
                np.add(found[part], ones[:size], out=found[part])
        return found


class HeldRows(NamedTuple):
    """The rows of some memories, one after another, how many tokens each has, and how many rows are of each memory."""

    rows: NDArray[np.float16]
    token_counts: NDArray[np.int32]
    sizes: list[int]


class VectorRows:
    """The rows of one model; `change_no` is the tenant's count they are in step with. The owner holds a lock."""

    def __init__(self, model_no: int, dimension: int) -> None:
        self.change_no = -1
        self._model_no = model_no
        self._dimension = dimension
        self._count = 0
        self._dead_count = 0
        self._most_rows = 1
        self._rows: NDArray[np.float16] = np.empty((0, dimension), dtype=np.float16)
        self._codes = [np.empty(0, dtype=np.uint64) for _ in range(-(-dimension // _WORD_BITS))]
        self._positions: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._is_alive: NDArray[np.bool_] = np.empty(0, dtype=np.bool_)
        self._token_counts: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        # By position: the first of its rows, which stand together, and how many there are.
        self._firsts: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._sizes: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._known = 0

    @property
    def size_bytes(self) -> int:
        """The memory the rows hold."""
        codes = sum(words.nbytes for words in self._codes)
        by_row = (self._rows, self._positions, self._is_alive, self._token_counts)
        return sum(array.nbytes for array in (*by_row, self._firsts, self._sizes)) + codes

    @property
    def _row_bytes(self) -> int:
        return 2 * self._dimension + len(self._codes) * _WORD_BITS // 8

    def view(self) -> RowsView:
        """The rows as they are now."""
        count = self._count
        return RowsView(
            rows=self._rows[:count],
            codes=tuple(words[:count] for words in self._codes),
            positions=self._positions[:count],
            is_alive=self._is_alive[:count],
            most_rows=self._most_rows,
        )

    def catch_up(
        self,
        connection: sqlite3.Connection,
        tenant_id: TenantId,
        tenant_no: int,
        documents: Documents,
        *,
        max_bytes: int,
    ) -> bool:
        """The rows are what the snapshot holds that `documents` is in step with.

        False when they would take more than `max_bytes`; then they are of no use any more.
        """
        if self.change_no == documents.change_no:
            return True
        self._know(documents.count)
        if self._count:
            self._bury(connection, tenant_id, documents)
        else:
            self._make_room(min(documents.count, max_bytes // self._row_bytes))
        cursor = connection.execute(_CHANGED, (tenant_no, tenant_id, self.change_no, self._model_no))
        while batch := cursor.fetchmany(BATCH_ROWS):
            self._append(batch, documents)
            if self._count * self._row_bytes > max_bytes:
                return False
        self.change_no = documents.change_no
        return True

    def held(self, positions: NDArray[np.int64]) -> "HeldRows":
        """A copy of the rows of each of these positions, position after position."""
        sizes = self._sizes[positions]
        ends = np.cumsum(sizes)
        places = np.arange(int(ends[-1]) if len(ends) else 0)
        places += np.repeat(self._firsts[positions] - (ends - sizes), sizes)
        return HeldRows(self._rows[places], self._token_counts[places], sizes.tolist())

    def _bury(self, connection: sqlite3.Connection, tenant_id: TenantId, documents: Documents) -> None:
        touched = [row[0] for row in connection.execute(_TOUCHED, (tenant_id, self.change_no))]
        if not touched:
            return
        is_touched = np.zeros(documents.count, dtype=np.bool_)
        is_touched[documents.find(np.array(touched, dtype=np.int64))] = True
        self._sizes[: self._known][is_touched] = 0
        # A new array: views hold the old one.
        is_alive = self._is_alive.copy()
        is_alive[: self._count] &= ~is_touched[self._positions[: self._count]]
        self._is_alive = is_alive
        self._dead_count = self._count - int(np.count_nonzero(is_alive[: self._count]))
        if self._dead_count > _WORTH_COMPACTING and 2 * self._dead_count > self._count:
            self._compact()

    def _compact(self) -> None:
        kept = np.flatnonzero(self._is_alive[: self._count])
        self._rows, self._positions = self._rows[kept], self._positions[kept]
        self._codes = [words[kept] for words in self._codes]
        self._is_alive = np.ones(len(kept), dtype=np.bool_)
        self._token_counts = self._token_counts[kept]
        self._count, self._dead_count = len(kept), 0
        # The rows of a position stand together: the first is the one whose neighbour before is of another.
        firsts = np.flatnonzero(np.diff(self._positions, prepend=np.int32(-1)))
        self._firsts[self._positions[firsts]] = firsts

    def _make_room(self, more: int) -> None:
        used = self._count
        self._rows = with_room(self._rows, used, more)
        self._codes = [with_room(words, used, more) for words in self._codes]
        self._positions = with_room(self._positions, used, more)
        self._is_alive = with_room(self._is_alive, used, more)
        self._token_counts = with_room(self._token_counts, used, more)

    def _know(self, count: int) -> None:
        """There are so many positions; new ones have no rows."""
        if count > self._known:
            self._firsts = with_room(self._firsts, self._known, count - self._known)
            self._sizes = with_room(self._sizes, self._known, count - self._known)
            self._sizes[self._known : count] = 0
            self._known = count

    def _append(self, batch: list[tuple[int, bytes, bytes]], documents: Documents) -> None:
        rows = stored_rows([blob for _, blob, _ in batch], self._dimension)
        token_counts = stored_token_counts([chunks for _, _, chunks in batch])
        if len(token_counts) != len(rows):
            raise StorageDamaged("an index entry has not one embedding for each chunk")
        positions = documents.find(np.array([doc_no for doc_no, _, _ in batch], dtype=np.int64))
        if len(positions) != len(batch):
            raise StorageDamaged("a memory with vectors has no index entry")
        sizes = np.array([len(blob) // (2 * self._dimension) for _, blob, _ in batch], dtype=np.int32)
        self._most_rows = max(self._most_rows, int(sizes.max()))
        used, more = self._count, len(rows)
        self._make_room(more)
        self._rows[used : used + more] = rows
        for words, new in zip(self._codes, sign_words(rows), strict=True):
            words[used : used + more] = new
        self._positions[used : used + more] = np.repeat(positions, sizes)
        self._is_alive[used : used + more] = True
        self._token_counts[used : used + more] = token_counts
        self._firsts[positions] = used + np.cumsum(sizes) - sizes
        self._sizes[positions] = sizes
        self._count = used + more


def stored_rows(blobs: list[bytes], dimension: int) -> NDArray[np.float16]:
    """Stored embeddings as rows, entry after entry. Raises `StorageDamaged` for one of another size."""
    if any(len(blob) % (2 * dimension) for blob in blobs):
        raise StorageDamaged("a stored embedding has not the size of its model")
    return np.frombuffer(b"".join(blobs), dtype="<f2").reshape(-1, dimension)


def stored_token_counts(chunks: list[bytes]) -> NDArray[np.int32]:
    """How many tokens each chunk has, entry after entry. Raises `StorageDamaged` for chunks cut short."""
    if any(len(each) % CHUNK_BYTES for each in chunks):
        raise StorageDamaged("the chunks of an index entry are damaged")
    return np.frombuffer(b"".join(chunks), dtype="<i4").reshape(-1, 3)[:, 2]


def heavy_words(vector: NDArray[np.float32]) -> NDArray[np.uint64]:
    """The heavier half of the vector's dimensions as bits, in words like those of `sign_words`."""
    order = np.argsort(-np.abs(vector), kind="stable")
    heavy = np.full((1, len(vector)), -1.0, dtype=np.float32)
    heavy[0, order[: min(-(-len(vector) // 2), _MOST_HEAVY)]] = 1.0
    return sign_words(heavy)[:, 0]


def sign_words(rows: NDArray[np.float16] | NDArray[np.float32]) -> NDArray[np.uint64]:
    """The signs of the rows as bits, in words of 64, words first: (words, rows)."""
    # The highest bit of a float is its sign: no comparison of floats is as fast as that of integers.
    numbers = rows.view(np.int16) if rows.dtype == np.float16 else rows.view(np.int32)
    signs = np.packbits(numbers >= 0, axis=1)
    wanted = -(-rows.shape[1] // _WORD_BITS) * 8
    if signs.shape[1] < wanted:
        signs = np.pad(signs, ((0, 0), (0, wanted - signs.shape[1])))
    return np.ascontiguousarray(np.ascontiguousarray(signs).view(np.uint64).T)
