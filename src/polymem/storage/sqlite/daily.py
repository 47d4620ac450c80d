"""Queries of a day in the embedded storage: a row for each tenant and day."""

import sqlite3
from collections.abc import Mapping
from datetime import date
from typing import Final

from polymem.domain.model import TenantId
from polymem.storage.sqlite.connection import Database

_COUNT: Final = (
    "INSERT INTO daily_queries (tenant_id, day, used) VALUES (?1, ?2, ?3)"
    " ON CONFLICT (tenant_id, day) DO UPDATE SET used = used + excluded.used"
)


class SqliteDailyQueries:
    """Queries by tenant and day; one write for each draw that gives something."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, tenant_id: TenantId, day: date, *, wanted: int, limit: int) -> int:
        """Up to `wanted` more queries are counted for the day; how many."""

        def unit(connection: sqlite3.Connection) -> int:
            row = connection.execute(
                "SELECT used FROM daily_queries WHERE tenant_id = ? AND day = ?", (tenant_id, day.isoformat())
            ).fetchone()
            granted = max(0, min(wanted, limit - (0 if row is None else int(row[0]))))
            if granted:
                connection.execute(_COUNT, (tenant_id, day.isoformat(), granted))
            return granted

        return await self._database.write(unit)

    async def give_back(self, day: date, unused: Mapping[TenantId, int]) -> None:
        """So many queries of each tenant are not counted any more."""
        rows = [(count, tenant_id, day.isoformat()) for tenant_id, count in unused.items()]
        statement = "UPDATE daily_queries SET used = max(0, used - ?) WHERE tenant_id = ? AND day = ?"
        await self._database.write(lambda connection: connection.executemany(statement, rows))

    async def forget(self, *, before: date) -> int:
        """Days before this one are gone; how many."""
        return await self._database.write(
            lambda connection: (
                connection.execute("DELETE FROM daily_queries WHERE day < ?", (before.isoformat(),)).rowcount
            )
        )
