"""The HNSW graphs over the vectors of large tenants: built as tenants grow, dropped as they shrink, found by searches.

One graph over all tenants would lose rows: a search walks it to what is nearest in any tenant, and the filter then
leaves too few. So each large tenant has its own, a partial index of its part of `chunks`; the others are small enough
to be compared row by row. What is not active stands in no graph: thousands of memories that are archived at once need
no new place in one, and a graph leads only questions about active ones. `vector_graphs` has a row for each from before
it is built until after it is dropped: what a killed process leaves behind is found by it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final, NamedTuple

from polymem.domain.model import MemoryState, ModelIdentity, TenantId
from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.driver import Connection, translated

_log = logging.getLogger(__name__)

# To compare so many rows one by one takes some 10 ms.
EXACT_ROWS: Final = 10_000
# See MIGRATING of `migrate`: one process at a time builds.
TENDING: Final = (0x706D656D, 3)

# With a breadth of 64 one of a hundred nearest was missed, in a graph of 100,000 (`python -m bench.scale`).
_LINKS: Final = 16
_BREADTH: Final = 128
# pgvector indexes no longer halfvec.
_MOST_DIMENSIONS: Final = 4000

_CACHE_SECONDS: Final = 5.0
_MOST_CACHED: Final = 8192
# A tenant's rows are counted anew when it has changed by so many commits, or its size by this share.
_COMMITS_UNCOUNTED: Final = 64
_SHARE_UNCOUNTED: Final = 0.1
_TERMS_PER_CHUNK: Final = 64

_LINK_BYTES: Final = 1024
_LEAST_MEMORY_KIB: Final = 64 * 1024
_MOST_MEMORY_KIB: Final = 1024 * 1024

_FIND = (
    "SELECT n.tenant_no, g.model_no FROM vector_graphs AS g JOIN tenants AS n ON n.tenant_id = g.tenant_id"
    " JOIN models AS d ON d.model_no = g.model_no"
    " WHERE g.tenant_id = %s AND n.tenant_id = %s AND g.is_ready"
    " AND d.name = %s AND d.revision = %s AND d.dimension = %s AND d.token_dimension = %s"
)
_TENANTS = (
    "SELECT n.tenant_id, n.tenant_no, n.change_no, GREATEST(n.memory_count, n.terms_total / %s) FROM tenants AS n"
    " WHERE GREATEST(n.memory_count, n.terms_total / %s) > %s"
    " OR EXISTS (SELECT 1 FROM vector_graphs AS g WHERE g.tenant_id = n.tenant_id) ORDER BY n.tenant_id"
)
# Statements that name no tenant: which of all have outgrown the exact scan.
ACROSS_TENANTS: Final = (_TENANTS,)
_STANDING = (
    "SELECT g.tenant_id, g.model_no, g.index_name, g.is_ready AND COALESCE("
    "(SELECT i.indisvalid FROM pg_index AS i WHERE i.indexrelid = to_regclass(g.index_name)), false)"
    " FROM vector_graphs AS g"
)
_ROWS = (
    "SELECT c.model_no, d.dimension, count(*) FROM chunks AS c JOIN models AS d ON d.model_no = c.model_no"
    f" WHERE c.tenant_id = %s AND c.state = '{MemoryState.ACTIVE.value}'"
    " GROUP BY c.model_no, d.dimension ORDER BY c.model_no"
)
_BEGIN_GRAPH = (
    "INSERT INTO vector_graphs (tenant_id, model_no, index_name, is_ready) VALUES (%s, %s, %s, false)"
    " ON CONFLICT (tenant_id, model_no) DO UPDATE SET is_ready = false"
)
_SET_READY = "UPDATE vector_graphs SET is_ready = %s WHERE tenant_id = %s AND model_no = %s"
_FORGET = "DELETE FROM vector_graphs WHERE tenant_id = %s AND model_no = %s"
_CREATE = (
    "CREATE INDEX CONCURRENTLY {name} ON {part} USING hnsw ((embedding::halfvec({dimension})) halfvec_cosine_ops)"
    f" WITH (m = {_LINKS}, ef_construction = {_BREADTH})"
    " WHERE tenant_no = {tenant_no} AND model_no = {model_no}"
    f" AND state = '{MemoryState.ACTIVE.value}'"
)
# What a question must ask for to be led by a graph.
LED_STATES: Final = frozenset({MemoryState.ACTIVE})
_DROP = "DROP INDEX CONCURRENTLY IF EXISTS {name}"
# What tells how many rows pass a filter: a tenant that has grown at once is not in the statistics yet.
_STATISTICS = ("ANALYZE memories", "ANALYZE {part} (tenant_id, memory_id, tenant_no, model_no, space_id, state)")
# The part of `chunks` that holds the tenant's rows, by the schema's own numbers.
_PART = (
    "SELECT 'chunks_' || part FROM generate_series(0, 31) AS part"
    " WHERE satisfies_hash_partition('chunks'::regclass, 32, part, %s::text)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A graph that searches may use: over the active rows of `chunks` with these numbers, of so many dimensions."""

    tenant_no: int
    model_no: int
    dimension: int


class _Rows(NamedTuple):
    """How many vectors of a dimension a tenant's active memories have by one model."""

    model_no: int
    dimension: int
    vectors: int


class _Tenant(NamedTuple):
    """A tenant that may need a graph, or has one; `size`: about how many vectors it has."""

    tenant_id: TenantId
    tenant_no: int
    change_no: int
    size: int


class _Standing(NamedTuple):
    """A graph that has a row; `is_sound` False for what was left of one that was not built or dropped to the end."""

    model_no: int
    index_name: str
    is_sound: bool


class Graphs:
    """The graphs of one database. A tenant has one when more than `exact_rows` vectors by one model are active."""

    def __init__(
        self, database: Database, *, exact_rows: int = EXACT_ROWS, now: Callable[[], float] = monotonic
    ) -> None:
        self.exact_rows = exact_rows
        self._database = database
        self._now = now
        self._found: dict[tuple[TenantId, ModelIdentity], tuple[float, Graph | None]] = {}
        self._counted: dict[TenantId, _Tenant] = {}

    async def find(self, connection: Connection, tenant_id: TenantId, model: ModelIdentity) -> Graph | None:
        """The graph of the tenant's vectors by the model, or None; as it was a few seconds ago at most."""
        until, graph = self._found.get((tenant_id, model), (0.0, None))
        if self._now() < until:
            return graph
        identity = (model.name, model.revision, model.dimension, model.token_dimension)
        cursor = await connection.execute(_FIND, (tenant_id, tenant_id, *identity))
        row = await cursor.fetchone()
        graph = None if row is None else Graph(tenant_no=row[0], model_no=row[1], dimension=model.dimension)
        if len(self._found) >= _MOST_CACHED:
            self._found.clear()
        self._found[tenant_id, model] = (self._now() + _CACHE_SECONDS, graph)
        return graph

    async def tend(self) -> None:
        """Each tenant has the graphs that its size asks for, and no others; nothing is done while another process does.

        Raises the storage errors; what was begun is then finished by the next call.
        """
        connection = await self._database.alone()
        with translated():
            async with connection:
                cursor = await connection.execute("SELECT pg_try_advisory_lock(%s, %s)", TENDING)
                if await cursor.fetchone() == (True,):
                    # To build beside writers means to wait for their transactions to end. The lock goes with the
                    # connection, however that ends.
                    await connection.execute("SET lock_timeout = 0")
                    await self._tend(connection)

    async def _tend(self, connection: Connection) -> None:
        standing: dict[TenantId, list[_Standing]] = {}
        cursor = await connection.execute(_STANDING)
        for tenant_id, *graph in await cursor.fetchall():
            standing.setdefault(tenant_id, []).append(_Standing(*graph))
        cursor = await connection.execute(_TENANTS, (_TERMS_PER_CHUNK, _TERMS_PER_CHUNK, self.exact_rows))
        tenants = [_Tenant(*row) for row in await cursor.fetchall()]
        self._counted = {each.tenant_id: self._counted[each.tenant_id] for each in tenants if self._knows(each)}
        for tenant in tenants:
            graphs = standing.get(tenant.tenant_id, [])
            if all(graph.is_sound for graph in graphs) and self._is_as_counted(tenant):
                continue
            cursor = await connection.execute(_ROWS, (tenant.tenant_id,))
            await self._suit(connection, tenant, graphs, [_Rows(*row) for row in await cursor.fetchall()])
            self._counted[tenant.tenant_id] = tenant

    def _knows(self, tenant: _Tenant) -> bool:
        return tenant.tenant_id in self._counted

    def _is_as_counted(self, tenant: _Tenant) -> bool:
        """True when the tenant has hardly changed since its rows were counted here."""
        before = self._counted.get(tenant.tenant_id)
        return (
            before is not None
            and tenant.change_no - before.change_no < _COMMITS_UNCOUNTED
            and abs(tenant.size - before.size) <= _SHARE_UNCOUNTED * before.size
        )

    async def _suit(self, connection: Connection, tenant: _Tenant, graphs: list[_Standing], rows: list[_Rows]) -> None:
        """The tenant has the graphs that these rows ask for.

        Between half the bound and the bound a graph stays as it is, so that none is built and dropped in turns.
        """
        counts = {each.model_no: each.vectors for each in rows}
        sound = {graph.model_no for graph in graphs if graph.is_sound}
        for graph in graphs:
            least = self.exact_rows // 2 if graph.is_sound else self.exact_rows + 1
            if counts.get(graph.model_no, 0) < least:
                await self._drop(connection, tenant, graph)
        for each in rows:
            if each.vectors > self.exact_rows and each.model_no not in sound and each.dimension <= _MOST_DIMENSIONS:
                await self._build(connection, tenant, each)

    async def _build(self, connection: Connection, tenant: _Tenant, rows: _Rows) -> None:
        """The graph stands and searches may use it; what was left of an earlier attempt is gone."""
        name = f"chunks_graph_{tenant.tenant_no}_{rows.model_no}"
        _log.info("a graph over %d vectors of tenant number %d is built", rows.vectors, tenant.tenant_no)
        started = self._now()
        cursor = await connection.execute(_PART, (tenant.tenant_id,))
        ((part,),) = await cursor.fetchall()
        await connection.execute(_BEGIN_GRAPH, (tenant.tenant_id, rows.model_no, name))
        await connection.execute(_DROP.format(name=name))
        await connection.execute("SELECT set_config('maintenance_work_mem', %s, false)", (_memory(rows),))
        await connection.execute(
            _CREATE.format(
                name=name, part=part, dimension=rows.dimension, tenant_no=tenant.tenant_no, model_no=rows.model_no
            )
        )
        for statement in _STATISTICS:
            await connection.execute(statement.format(part=part))
        await connection.execute(_SET_READY, (True, tenant.tenant_id, rows.model_no))
        self._found.clear()
        _log.info("the graph stands after %.1f seconds", self._now() - started)

    async def _drop(self, connection: Connection, tenant: _Tenant, graph: _Standing) -> None:
        """The graph is gone. Searches that still count on it compare all rows: right, though slower."""
        await connection.execute(_SET_READY, (False, tenant.tenant_id, graph.model_no))
        await connection.execute(_DROP.format(name=graph.index_name))
        await connection.execute(_FORGET, (tenant.tenant_id, graph.model_no))
        self._found.clear()
        _log.info("the graph over vectors of tenant number %d is dropped", tenant.tenant_no)


def _memory(rows: _Rows) -> str:
    """What building may take of memory: all of the graph where that is not too much, for then it is far quicker."""
    wanted = rows.vectors * (2 * rows.dimension + _LINK_BYTES) // 1024 * 5 // 4
    return f"{min(max(wanted, _LEAST_MEMORY_KIB), _MOST_MEMORY_KIB)}kB"
