"""The arm of concepts: memories by the concepts they have, and the vectors of memories that are compared by them."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import MemoryId, ModelIdentity, TenantId
from polymem.domain.query import MemoryFilter
from polymem.ports.search import ArmHit
from polymem.storage.conditions import NEWEST_OF_CONCEPT
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.evidence import unit_rows
from polymem.storage.postgres.filters import where_clause
from polymem.storage.postgres.transaction import fetch_all

# Sums are compared to the ninth decimal: beyond it they depend on the order in which the server adds them up.
_SCORES: Final = (
    "SELECT n.memory_id, sum(w.weight) AS score FROM unnest(%s::text[], %s::float8[]) AS w (concept, weight)"
    " CROSS JOIN unnest(%s::text[]) AS p (space_id) CROSS JOIN LATERAL (SELECT c.memory_id FROM memory_concepts AS c"
    " WHERE c.tenant_id = %s AND c.space_id = p.space_id AND c.concept = w.concept"
    f" ORDER BY c.memory_id DESC LIMIT {NEWEST_OF_CONCEPT}) AS n GROUP BY n.memory_id"
)
# The best are looked up one after another until enough of them pass.
_BEST: Final = (
    f"SELECT f.memory_id, f.score FROM (SELECT s.*, round(s.score * 1e9) AS compared FROM ({_SCORES}) AS s"
    " ORDER BY compared DESC, s.memory_id OFFSET 0) AS f JOIN memories AS m ON m.memory_id = f.memory_id"
    " WHERE {condition} ORDER BY f.compared DESC, f.memory_id LIMIT %s"
)
_EMBEDDINGS: Final = (
    "SELECT c.memory_id, string_agg(halfvec_send(c.embedding), ''::bytea ORDER BY c.chunk_no) FROM chunks AS c"
    " WHERE c.tenant_id = %s AND c.memory_id = ANY(%s::text[]) AND c.model_no ="
    " (SELECT d.model_no FROM models AS d"
    " WHERE d.name = %s AND d.revision = %s AND d.dimension = %s AND d.token_dimension = %s)"
    " GROUP BY c.memory_id"
)


async def best_by_concepts(
    connection: Connection, tenant_id: TenantId, weights: Mapping[str, float], where: MemoryFilter, limit: int
) -> tuple[ArmHit, ...]:
    """The memories whose concepts weigh most, best first, ties by id."""
    condition, parameters = where_clause(where, tenant_id, "m")
    keys = sorted(weights)
    rows = await fetch_all(
        connection,
        _BEST.format(condition=condition),
        (keys, [weights[key] for key in keys], sorted(where.spaces), tenant_id, *parameters, limit),
    )
    return tuple(ArmHit(MemoryId(memory_id), score) for memory_id, score in rows)


async def read_embeddings(
    connection: Connection, tenant_id: TenantId, ids: tuple[MemoryId, ...], model: ModelIdentity
) -> dict[MemoryId, NDArray[np.float32]]:
    """The unit rows of each memory, chunk by chunk. Raises `StorageDamaged` for one of another size."""
    identity = (model.name, model.revision, model.dimension, model.token_dimension)
    rows = await fetch_all(connection, _EMBEDDINGS, (tenant_id, list(ids), *identity))
    return dict(
        zip(
            (MemoryId(memory_id) for memory_id, _ in rows),
            unit_rows([sent for _, sent in rows], model.dimension),
            strict=True,
        )
    )
