"""The dense arm: memories by the cosine of their best chunk.

Each statement has two steps. The first finds somewhat more memories than are asked for, by half-precision distances:
of every row that passes, or along a graph where the tenant has one. The second compares the vectors of these in single
precision, which makes the order. A graph that gives fewer memories than are asked for is not believed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector, Vector

from polymem.domain.model import MemoryId, ModelIdentity, TenantId
from polymem.domain.query import MemoryFilter
from polymem.ports.search import ArmHit
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.estimate import estimate_passing
from polymem.storage.postgres.filters import TagsBy, where_clause
from polymem.storage.postgres.graphs import LED_STATES, Graph, Graphs

# Memories beyond those asked for that are compared in single precision.
_MARGIN: Final = 32
# A memory may have many chunks: so many rows of the graph for each memory wanted, and when these are of too few, more.
_ROWS_PER_MEMORY: Final = (2, 12)

_MODEL = (
    "(SELECT d.model_no FROM models AS d"
    " WHERE d.name = %s AND d.revision = %s AND d.dimension = %s AND d.token_dimension = %s)"
)
# The vector of the question stands in a query of its own: it is then read once, not for every row.
_NEAR_IN_ROWS = (
    "SELECT c.memory_id FROM chunks AS c WHERE {condition} AND c.model_no = {model}"
    " GROUP BY c.memory_id ORDER BY min(c.embedding <=> (SELECT %s::halfvec)), c.memory_id LIMIT %s"
)
_NEAR_IN_FEW = (
    "SELECT c.memory_id FROM memories AS m JOIN chunks AS c ON c.tenant_id = m.tenant_id AND c.memory_id = m.memory_id"
    " WHERE {condition} AND c.tenant_id = %s AND c.model_no = {model}"
    " GROUP BY c.memory_id ORDER BY min(c.embedding <=> (SELECT %s::halfvec)), c.memory_id LIMIT %s"
)
# The numbers stand in the text: the server tells by them that the graph's index holds all these rows.
_NEAR_IN_GRAPH = (
    "SELECT c.memory_id FROM chunks AS c"
    " WHERE {condition} AND c.tenant_no = {tenant_no} AND c.model_no = {model_no}"
    " ORDER BY c.embedding::halfvec({dimension}) <=> (SELECT %s::halfvec({dimension})) LIMIT %s"
)
_EXACTLY = (
    "WITH near AS MATERIALIZED ({near})"
    " SELECT c.memory_id, min(c.embedding::vector <=> (SELECT %s::vector)) AS distance, (SELECT count(*) FROM near)"
    " FROM (SELECT DISTINCT memory_id FROM near) AS found JOIN chunks AS c"
    " ON c.tenant_id = %s AND c.memory_id = found.memory_id AND c.model_no = {model}"
    " GROUP BY c.memory_id ORDER BY distance, c.memory_id LIMIT %s"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseQuery:
    """One call of the dense arm."""

    tenant_id: TenantId
    vector: NDArray[np.float32]
    model: ModelIdentity
    where: MemoryFilter
    limit: int

    @property
    def identity(self) -> tuple[str, str, int, int]:
        """The model's columns, as `models` has them."""
        return (self.model.name, self.model.revision, self.model.dimension, self.model.token_dimension)


async def nearest(connection: Connection, graphs: Graphs, query: DenseQuery) -> tuple[ArmHit, ...]:
    """The memories nearest to the vector, best first, ties by id."""
    graph = await graphs.find(connection, query.tenant_id, query.model)
    if graph is None:
        return await _in_rows(connection, query, are_few=False)
    if await estimate_passing(connection, query.tenant_id, query.where) > graphs.exact_rows:
        if query.where.states != LED_STATES:
            return await _in_rows(connection, query, are_few=False)
        for rows_per_memory in _ROWS_PER_MEMORY:
            rows = (query.limit + _MARGIN) * rows_per_memory
            hits, read = await _in_graph(connection, query, graph, rows)
            if len(hits) == query.limit:
                return hits
            if read < rows:
                break
    return await _in_rows(connection, query, are_few=True)


async def _in_rows(connection: Connection, query: DenseQuery, *, are_few: bool) -> tuple[ArmHit, ...]:
    """The nearest of all memories that pass; `are_few`: these are looked up first, then their vectors."""
    if are_few:
        condition, parameters = where_clause(query.where, query.tenant_id, "m")
        near, passing = _NEAR_IN_FEW, [*parameters, query.tenant_id]
    else:
        condition, parameters = where_clause(query.where, query.tenant_id, "c", tags=TagsBy.COPY)
        near, passing = _NEAR_IN_ROWS, parameters
    cursor = await connection.execute(
        _EXACTLY.format(near=near.format(condition=condition, model=_MODEL), model=_MODEL),
        (
            *passing,
            *query.identity,
            HalfVector(query.vector.astype(np.float16)),
            query.limit + _MARGIN,
            Vector(query.vector),
            query.tenant_id,
            *query.identity,
            query.limit,
        ),
    )
    return _hits(await cursor.fetchall())


async def _in_graph(
    connection: Connection, query: DenseQuery, graph: Graph, rows: int
) -> tuple[tuple[ArmHit, ...], int]:
    """The nearest memories among the `rows` nearest rows that the graph leads to, and how many rows it gave."""
    cursor = await connection.execute(*graph_statement(query, graph, rows))
    found = await cursor.fetchall()
    return _hits(found), found[0][2] if found else 0


def graph_statement(query: DenseQuery, graph: Graph, rows: int) -> tuple[str, tuple[object, ...]]:
    """The statement that reads so many rows along a graph, with its parameters."""
    condition, parameters = where_clause(query.where, query.tenant_id, "c", tags=TagsBy.COPY)
    near = _NEAR_IN_GRAPH.format(
        condition=condition, tenant_no=graph.tenant_no, model_no=graph.model_no, dimension=graph.dimension
    )
    return (
        _EXACTLY.format(near=near, model=graph.model_no),
        (
            *parameters,
            HalfVector(query.vector.astype(np.float16)),
            rows,
            Vector(query.vector),
            query.tenant_id,
            query.limit,
        ),
    )


def _hits(rows: Sequence[tuple[Any, ...]]) -> tuple[ArmHit, ...]:
    """The hits of these rows, best first. A vector of length 0 has no direction: its cosine is taken to be 0."""
    scored = sorted((0.0 if isnan(distance) else distance - 1.0, memory_id) for memory_id, distance, _ in rows)
    return tuple(ArmHit(MemoryId(memory_id), -score) for score, memory_id in scored)
