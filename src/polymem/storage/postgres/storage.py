"""PostgreSQL as the `Storage` port: one database that any number of processes share."""

from datetime import datetime

from polymem.domain.model import TenantId
from polymem.errors import SettingsInvalid
from polymem.ports.storage import Finding
from polymem.storage.postgres.buckets import PostgresBuckets
from polymem.storage.postgres.check import check
from polymem.storage.postgres.citus import distribute
from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.copy import require_whole
from polymem.storage.postgres.daily import PostgresDailyQueries
from polymem.storage.postgres.directory import PostgresDirectory
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.graphs import Graphs
from polymem.storage.postgres.jobs import PostgresJobQueue
from polymem.storage.postgres.memories import PostgresTenantStore
from polymem.storage.postgres.migrate import migrate, pending
from polymem.storage.postgres.notices import Notices
from polymem.storage.postgres.search import PostgresSearch
from polymem.storage.postgres.sweep import forget_idempotency, purge

CONNECTIONS = 8
PATIENCE_SECONDS = 5.0


class PostgresStorage:
    """One open database. Made by `open`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._notices = Notices(database)
        self._graphs = Graphs(database)
        self._directory = PostgresDirectory(database, self._notices)
        self._jobs = PostgresJobQueue(database, self._notices)
        self._buckets = PostgresBuckets(database)
        self._daily_queries = PostgresDailyQueries(database)

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        connections: int = CONNECTIONS,
        migrates: bool = True,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> "PostgresStorage":
        """The database at `url` answers and has this program's schema.

        With `migrates` False a database whose schema is older is refused instead. `connections`: at most so many at a
        time. `patience_seconds`: how long a call waits for a connection, and is tried again when the server goes away.
        Raises `SettingsInvalid` for a URL, server or schema that cannot be used, and the storage errors.
        """
        database = await Database.open(url, connections=connections, patience_seconds=patience_seconds)
        try:
            await _bring_up(database, migrates=migrates)
        except BaseException:
            await database.close()
            raise
        storage = cls(database)
        await storage._notices.start()
        return storage

    @property
    def directory(self) -> PostgresDirectory:
        """Tenants, users, keys and plans."""
        return self._directory

    @property
    def jobs(self) -> PostgresJobQueue:
        """The dispatch of jobs."""
        return self._jobs

    @property
    def buckets(self) -> PostgresBuckets:
        """The token buckets of the rate limits, shared by all processes."""
        return self._buckets

    @property
    def daily_queries(self) -> PostgresDailyQueries:
        """The queries that tenants used on a day, shared in the same way."""
        return self._daily_queries

    def search(self, tenant_id: TenantId) -> PostgresSearch:
        """The index of this tenant."""
        return PostgresSearch(self._database, tenant_id, self._graphs)

    def tenant(self, tenant_id: TenantId) -> PostgresTenantStore:
        """The store bound to this tenant."""
        return PostgresTenantStore(self._database, self._notices, tenant_id)

    async def ping(self) -> None:
        """A write was committed just now, and what it wrote was read back."""

        async def unit(connection: Connection) -> None:
            await connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'pings' RETURNING value")

        await self._database.write(unit)

    async def check(self) -> tuple[Finding, ...]:
        """Every derived copy is compared with the rows it comes from; nothing is changed."""
        return await check(self._database)

    async def forget_idempotency(self, *, before: datetime) -> int:
        """Idempotency keys first used before the time are forgotten; how many."""
        return await forget_idempotency(self._database, before)

    async def purge(self) -> None:
        """Nothing of what was deleted can be read from the tables' files any more."""
        await purge(self._database)

    async def tend(self) -> None:
        """Large tenants have their graphs, small ones have none."""
        await self._graphs.tend()

    async def distribute(self) -> int:
        """The tables lie on the servers of the database's Citus cluster, by tenant; how many were moved now."""
        async with await self._database.alone() as connection:
            return await distribute(connection)

    async def close(self) -> None:
        """What was accepted is durable and every connection is closed; closing twice is harmless."""
        await self._notices.stop()
        await self._database.close()


async def _bring_up(database: Database, *, migrates: bool) -> None:
    connection = await database.alone()
    async with connection:
        if migrates:
            await migrate(connection)
        elif await pending(connection):
            raise SettingsInvalid("the database has an older schema; run `polymem migrate` first")
        await require_whole(connection)
