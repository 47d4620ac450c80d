"""How many memories pass a filter, as the planner sees it, which reads no row; of metadata, as a sample shows it."""

from dataclasses import replace
from typing import Final

from polymem.domain.model import TenantId
from polymem.domain.query import MemoryFilter
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.filters import where_clause
from polymem.storage.postgres.metadata import metadata_clause
from polymem.storage.postgres.transaction import fetch_all

# Of the oldest memories and of the newest so many are asked for their metadata: about a millisecond.
_SAMPLED: Final = 256
_END: Final = "(SELECT m.metadata FROM memories AS m WHERE m.tenant_id = %s ORDER BY m.memory_id {order} LIMIT %s)"
_SHARE: Final = (
    "SELECT count(*) FILTER (WHERE {condition}), count(*) FROM"
    f" ({_END.format(order='ASC')} UNION ALL {_END.format(order='DESC')}) AS m"
)


async def estimate_passing(connection: Connection, tenant_id: TenantId, where: MemoryFilter) -> int:
    """About how many of the tenant's memories pass; far off at times, so only the speed may depend on it."""
    condition, parameters = where_clause(replace(where, metadata=()), tenant_id, "m")
    cursor = await connection.execute(
        f"EXPLAIN (FORMAT JSON) SELECT 1 FROM memories AS m WHERE {condition}", parameters
    )
    (plans,) = await cursor.fetchone() or ([],)
    planned = int(plans[0]["Plan"]["Plan Rows"])
    return int(planned * await _share(connection, tenant_id, where)) if where.metadata else planned


async def _share(connection: Connection, tenant_id: TenantId, where: MemoryFilter) -> float:
    """The share of a sample of the tenant's memories whose metadata pass."""
    condition, parameters = metadata_clause(where.metadata, "m.metadata")
    ((passing, asked),) = await fetch_all(
        connection, _SHARE.format(condition=condition), (*parameters, *(tenant_id, _SAMPLED) * 2)
    )
    return passing / asked if asked else 0.0
