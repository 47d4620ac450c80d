"""The tables spread over the servers of a Citus cluster: every tenant's rows together on one of them.

No Citus could be had where this was written: the calls below follow its documentation and were never run against one.
What could be tested is: each table of the schema has its place here, every key of a distributed table holds the
tenant, and every statement of the engine names its tenant.
"""

from typing import Final

import psycopg

from polymem.errors import SettingsInvalid
from polymem.storage.postgres.driver import Connection, translated

# Distributed by tenant_id, all in step with `tenants`: rows of one tenant lie on one server, joins and foreign keys
# within a tenant stay there.
DISTRIBUTED: Final = (
    "tenants",
    "users",
    "spaces",
    "members",
    "memories",
    "memory_tags",
    "memory_concepts",
    "associations",
    "memory_versions",
    "tombstones",
    "forgotten_identities",
    "index_entries",
    "term_counts",
    "chunks",
    "jobs",
    "idempotency",
    "audit_log",
    "daily_queries",
    "commits",
)

# Small and read for every tenant: a whole copy on each server.
REFERENCE: Final = ("plans", "models")

# Looked up before the tenant is known, or across tenants: on the coordinator alone.
LOCAL: Final = ("keys", "job_dispatch", "buckets", "counters", "vector_graphs", "migrations", "copies", "copy_marks")


async def distribute(connection: Connection) -> int:
    """Every table is where it belongs in the cluster; how many were moved now. Harmless to run again.

    The connection is to the coordinator, in autocommit mode. Servers should be stopped: moving a table locks it.
    Raises `SettingsInvalid` when the server has no Citus, and the storage errors.
    """
    with translated():
        await _require_citus(connection)
        cursor = await connection.execute("SELECT table_name::text FROM citus_tables")
        there = {name for (name,) in await cursor.fetchall()}
        moved = 0
        for table in REFERENCE:
            if table not in there:
                await connection.execute("SELECT create_reference_table(%s)", (table,))
                moved += 1
        for table in DISTRIBUTED:
            if table not in there:
                beside = "default" if table == DISTRIBUTED[0] else DISTRIBUTED[0]
                await connection.execute(
                    "SELECT create_distributed_table(%s, 'tenant_id', colocate_with => %s)", (table, beside)
                )
                moved += 1
        return moved


async def _require_citus(connection: Connection) -> None:
    cursor = await connection.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'citus'")
    if await cursor.fetchone() != (1,):
        raise SettingsInvalid(
            "the server at database_url has no Citus; `polymem migrate --citus` needs its coordinator"
        )
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS citus")
    except psycopg.errors.InsufficientPrivilege as error:
        raise SettingsInvalid(
            "this user may not install Citus; an administrator runs CREATE EXTENSION citus in this database once"
        ) from error
