"""Queries of a day that all processes share: a row for each tenant and day, one statement for each draw."""

from collections.abc import Mapping
from datetime import date
from typing import Final

from polymem.domain.model import TenantId
from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.transaction import done_again, fetch_one, insert_rows

# The row is locked before its columns are read, so that of two draws at once the second one reads what the first has
# left. No row comes back where nothing is left.
_TAKE: Final = """
INSERT INTO daily_queries AS q (tenant_id, day, used, granted)
VALUES (%s, %s, least(%s::bigint, %s::bigint), least(%s::bigint, %s::bigint))
ON CONFLICT (tenant_id, day) DO UPDATE SET
  used = q.used + least(%s::bigint, %s::bigint - q.used),
  granted = least(%s::bigint, %s::bigint - q.used)
WHERE q.used < %s::bigint
RETURNING granted
"""
_GIVE_BACK: Final = "UPDATE daily_queries SET used = greatest(0, used - %s) WHERE tenant_id = %s AND day = %s"
_FORGET: Final = "DELETE FROM daily_queries WHERE day < %s"

# Statements that name no tenant: old days of all of them.
ACROSS_TENANTS: Final = (_FORGET,)


class PostgresDailyQueries:
    """Queries by tenant and day, in a table that is logged."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, tenant_id: TenantId, day: date, *, wanted: int, limit: int) -> int:
        """Up to `wanted` more queries are counted for the day; how many.

        When the connection is lost under it, they may be counted twice: a few queries less are admitted then.
        """
        parameters = (tenant_id, day.isoformat(), *(wanted, limit) * 4, limit)
        # One statement is a transaction of its own: it needs none around it.
        row = await self._database.read(lambda connection: fetch_one(connection, _TAKE, parameters))
        return 0 if row is None else int(row[0])

    async def give_back(self, day: date, unused: Mapping[TenantId, int]) -> None:
        """So many queries of each tenant are not counted any more."""
        # In one order everywhere: two processes that stop at once do not wait for each other.
        rows = [(count, tenant_id, day.isoformat()) for tenant_id, count in sorted(unused.items())]
        # When the answer to the commit is lost it is not done again, which could give back more than was taken.
        await self._database.write(lambda connection: insert_rows(connection, _GIVE_BACK, rows))

    async def forget(self, *, before: date) -> int:
        """Days before this one are gone; how many."""

        async def unit(connection: Connection) -> int:
            return (await connection.execute(_FORGET, (before.isoformat(),))).rowcount

        return await self._database.write(unit, was_stored=done_again)
