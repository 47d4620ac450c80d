"""The in-memory index of each tenant: what filters ask for and the int8 matrix, loaded once and kept in step.

A unit of reading takes the tenant's lock before its first statement, so that its snapshot is at least as new as
what is loaded; it catches up to exactly that snapshot, takes a view that later changes do not touch, and lets the
lock go. Long catching up happens in a unit of its own, one for all callers of a tenant, while the others wait on
the event loop and hold no thread.
"""

import asyncio
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import ModelIdentity, TenantId
from polymem.domain.query import MemoryFilter
from polymem.errors import StorageUnavailable
from polymem.storage.sqlite.index_documents import Documents
from polymem.storage.sqlite.index_rows import find_model
from polymem.storage.sqlite.vector_rows import RowsView, VectorRows

DEFAULT_MAX_BYTES: Final = 1 << 30

# Up to so many missed changes, or memories in all, a reader catches up on its way; beyond it that is a unit of its own.
_FEW_CHANGES = 256
_FEW_MEMORIES = 1024

# A reader that meets another one at work waits so long before it gives its thread back and waits on the loop.
_LOCK_SECONDS = 0.05
_TRIES = 32

# Dead positions cost memory and time until the index is built anew.
_DEAD_WORTH_REBUILDING = 4096

# What the objects of a tenant's index take beside their arrays.
_OWN_BYTES = 4096

Result = TypeVar("Result")


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

    `passes` says for each position whether the memory passes the filter. `model_no` is None where no model was asked
    for, or no vector is of it; `rows` also where its matrix does not fit in memory.
    """

    counts: TenantCounts
    doc_nos: NDArray[np.int64]
    lengths: NDArray[np.int32]
    passes: NDArray[np.bool_]
    model_no: int | None
    rows: RowsView | None


class TenantIndex:
    """All that is in memory of one tenant. Safe for threads."""

    def __init__(self, tenant_id: TenantId, *, max_bytes: int) -> None:
        self.loading = asyncio.Lock()
        self._tenant_id = tenant_id
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._documents = Documents()
        self._rows: dict[int, VectorRows | None] = {}

    @property
    def size_bytes(self) -> int:
        """The memory the index holds."""
        matrices = sum(rows.size_bytes for rows in tuple(self._rows.values()) if rows is not None)
        return _OWN_BYTES + self._documents.size_bytes + matrices

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
            rows = self._catch_up(connection, counts, model, model_no)
            return View(
                counts=counts,
                doc_nos=self._documents.doc_nos[: self._documents.count],
                lengths=self._documents.lengths[: self._documents.count],
                passes=self._documents.select(connection, self._tenant_id, where),
                model_no=model_no,
                rows=None if rows is None else rows.view(),
            )
        finally:
            self._lock.release()

    def load(self, connection: sqlite3.Connection, model: ModelIdentity | None) -> None:
        """The index is in step with the connection's snapshot, however long that takes."""
        with self._lock:
            counts = read_counts(connection, self._tenant_id)
            if counts is not None:
                model_no = None if model is None else find_model(connection, model)
                self._catch_up(connection, counts, model, model_no)

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
        self._documents.catch_up(connection, self._tenant_id, counts.change_no)
        if model is None or model_no is None:
            return None
        rows = self._rows.setdefault(model_no, VectorRows(model_no, model.dimension))
        if rows is not None and not rows.catch_up(
            connection, self._tenant_id, self._documents, max_bytes=self._max_bytes
        ):
            rows = self._rows[model_no] = None
        return rows


class VectorIndexes:
    """The indexes of the tenants used last, in at most `max_bytes` in all.

    A tenant whose matrix alone would take more than that is scanned from its rows. Called on the event loop only.
    """

    def __init__(self, database: Reads, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._database = database
        self._max_bytes = max_bytes
        self._indexes: OrderedDict[TenantId, TenantIndex] = OrderedDict()
        self._sizes: dict[TenantId, int] = {}
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

    async def _load(self, index: TenantIndex, behind: Behind) -> None:
        if index.loading.locked():
            async with index.loading:
                return
        async with index.loading:
            await self._database.read(lambda connection: index.load(connection, behind.model))

    def _index(self, tenant_id: TenantId) -> TenantIndex:
        index = self._indexes.get(tenant_id)
        if index is None:
            index = self._indexes[tenant_id] = TenantIndex(tenant_id, max_bytes=self._max_bytes)
        self._indexes.move_to_end(tenant_id)
        return index

    def _account(self, tenant_id: TenantId, index: TenantIndex) -> None:
        """The size of the index is known, and those used longest ago have made room for it."""
        if self._indexes.get(tenant_id) is not index:
            return
        size = index.size_bytes
        self._total_bytes += size - self._sizes.get(tenant_id, 0)
        self._sizes[tenant_id] = size
        while self._total_bytes > self._max_bytes and len(self._indexes) > 1:
            oldest = next(iter(self._indexes))
            if oldest == tenant_id:
                self._indexes.move_to_end(oldest)
                continue
            del self._indexes[oldest]
            self._total_bytes -= self._sizes.pop(oldest, 0)


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
