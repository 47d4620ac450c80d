"""The in-memory index of each tenant: what filters ask for, posting lists and vectors, loaded once and kept in step.

A unit of reading takes the tenant's lock before its first statement, so that its snapshot is at least as new as
what is loaded; it catches up to exactly that snapshot, takes a view that later changes do not touch, and lets the
lock go. Long catching up happens in a unit of its own, one for all callers of a tenant, while the others wait on
the event loop and hold no thread.
"""

import asyncio
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Final, Protocol, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from polymem.domain.model import MemoryId, ModelIdentity, TenantId
from polymem.domain.query import MemoryFilter
from polymem.errors import StorageUnavailable
from polymem.ports.search import ArmHit
from polymem.storage.entries import bm25_norms
from polymem.storage.sqlite.index_documents import Documents, Told
from polymem.storage.sqlite.index_postings import PostingsView
from polymem.storage.sqlite.index_rows import find_model
from polymem.storage.sqlite.index_snapshots import FEWEST_MEMORIES, Snapshots
from polymem.storage.sqlite.metadata import condition_text
from polymem.storage.sqlite.vector_rows import HeldRows, RowsView, VectorRows

# One tenant of a million memories takes 1.2 GB.
DEFAULT_MAX_BYTES: Final = 2 << 30

# Up to so many missed changes, or memories in all, a reader catches up on its way; beyond it that is a unit of its own.
_FEW_CHANGES = 256
_FEW_MEMORIES = 1024

# A reader that meets another one at work waits so long before it gives its thread back and waits on the loop.
_LOCK_SECONDS = 0.05
_TRIES = 32

# Dead positions cost memory and time until the index is built anew.
_DEAD_WORTH_REBUILDING = 4096

# Filters of which it is kept what passes them.
_MASKS_KEPT = 8

# Memories found lately of which it is kept where they stand.
_NAMES_KEPT = 8192

# What the objects of a tenant's index take beside their arrays.
_OWN_BYTES = 4096

_PLACES = (
    "SELECT m.memory_id, m.doc_no FROM json_each(?) AS wanted"
    " CROSS JOIN memories AS m ON m.tenant_id = ? AND m.memory_id = wanted.value"
)

_NO_NORMS: Final[tuple[int, NDArray[np.float32]]] = (-1, np.empty(0, dtype=np.float32))

Result = TypeVar("Result")


_MaskKey = tuple[MemoryFilter, tuple[str, ...]]


class Reads(Protocol):
    """A database that runs a unit of reading on a thread, in one snapshot."""

    async def read(self, unit: Callable[[sqlite3.Connection], Result]) -> Result:
        """What the unit returns."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantCounts:
    """The counters of a tenant's row."""

    tenant_no: int
    change_no: int
    memory_count: int
    terms_total: int

    @property
    def average_length(self) -> float:
        """The mean number of terms of a memory; 0 when there is none."""
        return self.terms_total / self.memory_count if self.memory_count else 0.0


@dataclass(frozen=True, slots=True)
class Behind:
    """The index has to catch up first, with the matrix of `model` where one is named."""

    model: ModelIdentity | None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is loaded of a tenant, in step with the snapshot of the connection that asked.

    By position: `doc_nos` (ascending), `ids`, `norms` (of BM25) and `passes`, whether the memory passes the filter.
    `model_no` is None where no model was asked for, or no vector is of it; `rows` also where its vectors do not fit in
    memory. `taken`: the rows whose memories pass, None for all. `names`: where what is found is remembered to stand.
    """

    counts: TenantCounts
    doc_nos: NDArray[np.int64]
    ids: NDArray[np.bytes_]
    norms: NDArray[np.float32]
    passes: NDArray[np.bool_]
    postings: PostingsView
    model_no: int | None
    rows: RowsView | None
    taken: NDArray[np.int64] | None
    names: dict[str, int]

    def best(
        self, positions: NDArray[np.int64] | NDArray[np.int32], scores: NDArray[np.float64], *, limit: int
    ) -> tuple[ArmHit, ...]:
        """The first `limit` in the order of every arm: higher score first, ties by id. No position stands twice."""
        if len(scores) > limit:
            least = np.partition(scores, -limit)[-limit]
            kept = np.flatnonzero(scores >= least)
            positions, scores = positions[kept], scores[kept]
        ids = self.ids[positions]
        order = np.lexsort((ids, -scores))[:limit]
        names = [MemoryId(name.decode()) for name in ids[order].tolist()]
        self.names.update(zip(names, positions[order].tolist(), strict=True))
        return tuple([ArmHit(*each) for each in zip(names, scores[order].tolist(), strict=True)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What is loaded of some memories, in step with the snapshot of the connection that asked.

    In the order of `positions`, ascending: `ids`, `doc_nos`, `told` and `rows`.
    """

    tenant_no: int
    ids: list[MemoryId]
    positions: NDArray[np.int64]
    doc_nos: list[int]
    told: list[Told]
    rows: HeldRows
    postings: PostingsView


class _Mask:
    """What passes one filter at one change: positions, and of each model whose vectors were asked for the rows."""

    def __init__(self, passes: NDArray[np.bool_]) -> None:
        self.passes = passes
        self._rows: dict[int, NDArray[np.int64] | None] = {}

    @property
    def size_bytes(self) -> int:
        return self.passes.nbytes + sum(rows.nbytes for rows in tuple(self._rows.values()) if rows is not None)

    def rows_of(self, model_no: int, rows: RowsView) -> NDArray[np.int64] | None:
        if model_no not in self._rows:
            self._rows[model_no] = rows.select(self.passes)
        return self._rows[model_no]


class TenantIndex:
    """All that is in memory of one tenant. Safe for threads."""

    def __init__(self, tenant_id: TenantId, *, max_bytes: int, snapshots: Snapshots | None = None) -> None:
        self._snapshots = snapshots
        self._snapshot_no = -1
        self.loading = asyncio.Lock()
        self._tenant_id = tenant_id
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._documents = Documents()
        self._rows: dict[int, VectorRows | None] = {}
        self._norms = _NO_NORMS
        self._names: dict[str, int] = {}
        self._masks: OrderedDict[_MaskKey, _Mask] = OrderedDict()
        self._masks_of = -1

    @property
    def extent(self) -> tuple[int, ...]:
        """What the size of the index follows from: as long as it stays, so does the size."""
        return (self._documents.change_no, len(self._rows), len(self._masks))

    @property
    def size_bytes(self) -> int:
        """The memory the index holds."""
        matrices = sum(rows.size_bytes for rows in tuple(self._rows.values()) if rows is not None)
        masks = sum(mask.size_bytes for mask in tuple(self._masks.values()))
        return _OWN_BYTES + self._documents.size_bytes + matrices + masks + self._norms[1].nbytes

    def view(
        self, connection: sqlite3.Connection, where: MemoryFilter, *, model: ModelIdentity | None = None
    ) -> View | Behind | None:
        """What is loaded, in step with the connection's snapshot; None for an unknown tenant.

        Must be the first thing a unit does: the snapshot has to be taken under the lock.
        """
        if not self._lock.acquire(timeout=_LOCK_SECONDS):
            return Behind(model)
        try:
            counts = read_counts(connection, self._tenant_id)
            if counts is None:
                return None
            model_no = None if model is None else find_model(connection, model)
            if not self._is_near(counts, model_no):
                return Behind(model)
            found = self._catch_up(connection, counts, model, model_no)
            mask = self._select(connection, where)
            rows = None if found is None else found.view()
            return View(
                counts=counts,
                doc_nos=self._documents.doc_nos[: self._documents.count],
                ids=self._documents.ids[: self._documents.count],
                norms=self._norms_at(counts),
                passes=mask.passes,
                postings=self._documents.postings.view(),
                model_no=model_no,
                rows=rows,
                names=self._fresh_names(),
                taken=None if rows is None or model_no is None else mask.rows_of(model_no, rows),
            )
        finally:
            self._lock.release()

    def held(self, connection: sqlite3.Connection, ids: Sequence[MemoryId], model: ModelIdentity) -> Held | None:
        """What is loaded of those of the memories that there are; None where catching up would be long work.

        None also where no vector is of the model, or its vectors do not fit in memory. Must be the first thing a
        unit does, like `view`.
        """
        if not self._lock.acquire(timeout=_LOCK_SECONDS):
            return None
        try:
            counts = read_counts(connection, self._tenant_id)
            model_no = find_model(connection, model)
            if counts is None or model_no is None or not self._is_near(counts, model_no):
                return None
            rows = self._catch_up(connection, counts, model, model_no)
            if rows is None:
                return None
            documents = self._documents
            found = sorted(self._places(connection, ids).items(), key=itemgetter(1))
            positions = np.array([position for _, position in found], dtype=np.int64)
            return Held(
                tenant_no=counts.tenant_no,
                ids=[memory_id for memory_id, _ in found],
                positions=positions,
                doc_nos=documents.doc_nos[positions].tolist(),
                told=documents.tell(positions),
                rows=rows.held(positions),
                postings=documents.postings.view(),
            )
        finally:
            self._lock.release()

    def _fresh_names(self) -> dict[str, int]:
        """Where memories stood that were found lately, with room for more."""
        if len(self._names) > _NAMES_KEPT:
            self._names.clear()
        return self._names

    def _places(self, connection: sqlite3.Connection, ids: Sequence[MemoryId]) -> dict[MemoryId, int]:
        """The positions of those of the memories that there are: as remembered where that holds, else as stored."""
        remembered = {
            each: place
            for each in ids
            if (place := self._names.get(each, self._documents.count)) < self._documents.count
        }
        positions = np.array(list(remembered.values()), dtype=np.int64)
        is_there = self._documents.named(positions, list(remembered)).tolist()
        # They may have been remembered of an index that was built anew since, or be gone.
        found = {each: remembered[each] for each, is_so in zip(remembered, is_there, strict=True) if is_so}
        others = [each for each in ids if each not in found]
        if others:
            stored = connection.execute(_PLACES, (orjson.dumps(others).decode(), self._tenant_id)).fetchall()
            places = self._documents.find(np.array([doc_no for _, doc_no in stored], dtype=np.int64)).tolist()
            found |= {memory_id: place for (memory_id, _), place in zip(stored, places, strict=True)}
        return found

    def save(self) -> str | None:
        """What is loaded stands in a file, whose digest is given; None where that would not pay."""
        with self._lock:
            documents = self._documents
            if self._snapshots is None or documents.count < FEWEST_MEMORIES:
                return None
            if documents.change_no == self._snapshot_no:
                return None
            return self._snapshots.write(self._tenant_id, documents)

    def load(self, connection: sqlite3.Connection, model: ModelIdentity | None) -> None:
        """The index is in step with the connection's snapshot, however long that takes."""
        with self._lock:
            counts = read_counts(connection, self._tenant_id)
            if counts is not None:
                model_no = None if model is None else find_model(connection, model)
                self._catch_up(connection, counts, model, model_no)

    def _norms_at(self, counts: TenantCounts) -> NDArray[np.float32]:
        """What BM25 needs of each memory's length, computed once for each change of the tenant."""
        if self._norms[0] != counts.change_no:
            lengths = self._documents.lengths[: self._documents.count]
            self._norms = (counts.change_no, bm25_norms(lengths, counts.average_length))
        return self._norms[1]

    def _select(self, connection: sqlite3.Connection, where: MemoryFilter) -> "_Mask":
        """Which positions pass; kept for the next arms and questions until something changes."""
        if self._masks_of != self._documents.change_no:
            self._masks.clear()
            self._masks_of = self._documents.change_no
        key = _mask_key(where)
        mask = self._masks.get(key)
        if mask is None:
            mask = self._masks[key] = _Mask(self._documents.select(connection, self._tenant_id, where))
            if len(self._masks) > _MASKS_KEPT:
                self._masks.popitem(last=False)
        return mask

    def _is_near(self, counts: TenantCounts, model_no: int | None) -> bool:
        """True when catching up is short work."""
        if self._is_mostly_dead:
            return False
        if counts.memory_count <= _FEW_MEMORIES:
            return True
        oldest = self._documents.change_no
        if model_no is not None:
            if model_no not in self._rows:
                return False
            rows = self._rows[model_no]
            oldest = oldest if rows is None else min(oldest, rows.change_no)
        return oldest >= 0 and counts.change_no - oldest <= _FEW_CHANGES

    @property
    def _is_mostly_dead(self) -> bool:
        return self._documents.dead_count > max(_DEAD_WORTH_REBUILDING, self._documents.count // 2)

    def _catch_up(
        self, connection: sqlite3.Connection, counts: TenantCounts, model: ModelIdentity | None, model_no: int | None
    ) -> VectorRows | None:
        """All is in step; the matrix of the model, or None when there is none or it does not fit."""
        if self._is_mostly_dead:
            self._documents = Documents()
            self._rows.clear()
            # These go by position and would be taken for the new ones: the change may be the same.
            self._masks.clear()
            self._norms = _NO_NORMS
        if self._snapshots is not None and not self._documents.count and counts.memory_count >= FEWEST_MEMORIES:
            self._read_snapshot(connection, counts)
        self._documents.catch_up(connection, self._tenant_id, counts.tenant_no, counts.change_no)
        if model is None or model_no is None:
            return None
        rows = self._rows.setdefault(model_no, VectorRows(model_no, model.dimension))
        if rows is not None and not rows.catch_up(
            connection, self._tenant_id, counts.tenant_no, self._documents, max_bytes=self._max_bytes
        ):
            rows = self._rows[model_no] = None
        return rows

    def _read_snapshot(self, connection: sqlite3.Connection, counts: TenantCounts) -> None:
        found = None if self._snapshots is None else self._snapshots.read(connection, self._tenant_id)
        if found is not None and found.change_no <= counts.change_no:
            self._documents = found
            self._snapshot_no = found.change_no


class VectorIndexes:
    """The indexes of the tenants used last, in at most `max_bytes` in all.

    A tenant whose matrix alone would take more than that is scanned from its rows. Called on the event loop only.
    """

    def __init__(
        self, database: Reads, *, max_bytes: int = DEFAULT_MAX_BYTES, snapshots: Snapshots | None = None
    ) -> None:
        self._database = database
        self._snapshots = snapshots
        self._max_bytes = max_bytes
        self._indexes: OrderedDict[TenantId, TenantIndex] = OrderedDict()
        self._sizes: dict[TenantId, int] = {}
        self._extents: dict[TenantId, tuple[int, ...]] = {}
        self._total_bytes = 0

    @property
    def size_bytes(self) -> int:
        """The memory all indexes hold."""
        return self._total_bytes

    async def read(
        self, tenant_id: TenantId, unit: Callable[[sqlite3.Connection, TenantIndex], Result | Behind]
    ) -> Result:
        """What the unit returns once the index is near enough for it."""
        for _ in range(_TRIES):
            index = self._index(tenant_id)
            found = await self._database.read(partial(_run, unit, index))
            if not isinstance(found, Behind):
                self._account(tenant_id, index)
                return found
            await self._load(index, found)
            self._account(tenant_id, index)
        raise StorageUnavailable("the index changes faster than it can be read")

    async def save(self) -> dict[TenantId, str]:
        """What is loaded of large tenants, where it is newer than its file, stands in files; their digests."""
        found = {tenant_id: await asyncio.to_thread(index.save) for tenant_id, index in tuple(self._indexes.items())}
        return {tenant_id: stamp for tenant_id, stamp in found.items() if stamp is not None}

    async def _load(self, index: TenantIndex, behind: Behind) -> None:
        if index.loading.locked():
            async with index.loading:
                return
        async with index.loading:
            await self._database.read(lambda connection: index.load(connection, behind.model))

    def _index(self, tenant_id: TenantId) -> TenantIndex:
        index = self._indexes.get(tenant_id)
        if index is None:
            index = self._indexes[tenant_id] = TenantIndex(
                tenant_id, max_bytes=self._max_bytes, snapshots=self._snapshots
            )
        self._indexes.move_to_end(tenant_id)
        return index

    def _account(self, tenant_id: TenantId, index: TenantIndex) -> None:
        """The size of the index is known, and those used longest ago have made room for it."""
        if self._indexes.get(tenant_id) is not index or self._extents.get(tenant_id) == index.extent:
            return
        self._extents[tenant_id] = index.extent
        size = index.size_bytes
        self._total_bytes += size - self._sizes.get(tenant_id, 0)
        self._sizes[tenant_id] = size
        while self._total_bytes > self._max_bytes and len(self._indexes) > 1:
            oldest = next(iter(self._indexes))
            if oldest == tenant_id:
                self._indexes.move_to_end(oldest)
                continue
            del self._indexes[oldest]
            self._extents.pop(oldest, None)
            self._total_bytes -= self._sizes.pop(oldest, 0)


def _mask_key(where: MemoryFilter) -> _MaskKey:
    """Equal for equal filters alone: values of metadata need have no hash, and Python takes true for 1."""
    return replace(where, metadata=()), tuple([condition_text(each) for each in where.metadata])


def _run(
    unit: Callable[[sqlite3.Connection, TenantIndex], Result], index: TenantIndex, connection: sqlite3.Connection
) -> Result:
    return unit(connection, index)


def read_counts(connection: sqlite3.Connection, tenant_id: TenantId) -> TenantCounts | None:
    """The counters of the tenant, or None when there is no such tenant."""
    row = connection.execute(
        "SELECT tenant_no, change_no, memory_count, terms_total FROM tenants WHERE tenant_id = ?", (tenant_id,)
    ).fetchone()
    if row is None:
        return None
    tenant_no, change_no, memory_count, terms_total = row
    return TenantCounts(tenant_no=tenant_no, change_no=change_no, memory_count=memory_count, terms_total=terms_total)
