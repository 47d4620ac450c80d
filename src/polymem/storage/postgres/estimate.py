"""How many memories pass a filter, as the server's planner sees it: no row is read."""

from polymem.domain.model import TenantId
from polymem.domain.query import MemoryFilter
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.filters import where_clause


async def estimate_passing(connection: Connection, tenant_id: TenantId, where: MemoryFilter) -> int:
    """About how many of the tenant's memories pass; far off at times, so only the speed may depend on it."""
    condition, parameters = where_clause(where, tenant_id, "m")
    cursor = await connection.execute(
        f"EXPLAIN (FORMAT JSON) SELECT 1 FROM memories AS m WHERE {condition}", parameters
    )
    (plans,) = await cursor.fetchone() or ([],)
    return int(plans[0]["Plan"]["Plan Rows"])
