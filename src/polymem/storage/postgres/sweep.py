"""What is cleared away in time: used idempotency keys, and what is left of deleted rows in the tables' files."""

from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Final

from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.driver import Connection, translated
from polymem.storage.postgres.transaction import done_again, fetch_all
from polymem.storage.rows import microseconds

_FORGOTTEN_PER_ROUND: Final = 1000

_FIND_OLD_CLAIMS: Final = (
    "SELECT tenant_id, key FROM idempotency WHERE created_at < %s ORDER BY created_at, tenant_id, key LIMIT %s"
)

# Statements that name no tenant: where there is something to sweep.
ACROSS_TENANTS: Final = (_FIND_OLD_CLAIMS,)

# The tables whose rows say what a user wrote, beside the parts of chunks.
_PURGED: Final = (
    "memories",
    "memory_tags",
    "memory_concepts",
    "associations",
    "memory_versions",
    "index_entries",
    "jobs",
)
# In which of them rows were deleted since the last purge, by the server's own count, which starts at 0 after a crash.
_DELETED_SINCE: Final = (
    "SELECT s.relname, s.n_tup_del FROM pg_stat_user_tables AS s LEFT JOIN counters AS c"
    " ON c.name = 'purged ' || s.relname WHERE s.schemaname = current_schema()"
    " AND (s.relname = ANY(%s::text[]) OR s.relid IN (SELECT p.inhrelid FROM pg_inherits AS p"
    " WHERE p.inhparent = 'chunks'::regclass)) AND s.n_tup_del <> coalesce(c.value, 0)"
)
_NOTE_PURGED: Final = (
    "INSERT INTO counters (name, value) VALUES ('purged ' || %s::text, %s)"
    " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)


async def forget_idempotency(database: Database, before: datetime) -> int:
    """Idempotency keys first used before the time are forgotten; how many. Done in bounded units, tenant by tenant."""
    at, forgotten = microseconds(before), 0
    while old := await database.read(
        lambda connection: fetch_all(connection, _FIND_OLD_CLAIMS, (at, _FORGOTTEN_PER_ROUND))
    ):
        for tenant_id, of_tenant in groupby(sorted(old), key=itemgetter(0)):
            forgotten += await _forget(database, tenant_id, [key for _, key in of_tenant])
    return forgotten


async def purge(database: Database) -> None:
    """No row that was deleted before the call can be found in the tables or their indexes, however they are read.

    What a deleted row left is given free to be written over, except where a reader that began before still may see
    it. Beside the tables the server keeps what was once written in its write-ahead log and in copies made from it
    (archives, standbys, backups), as long as its own settings say; and the bytes of a freed place stand in the
    table's file until something is written there. Cheap when nothing was deleted since the last purge.
    """
    deleted = await database.read(lambda connection: fetch_all(connection, _DELETED_SINCE, (list(_PURGED),)))
    if not deleted:
        return
    with translated():
        async with await database.alone() as connection:
            # Waits for another process that does the same.
            await connection.execute("SET lock_timeout = 0")
            for table, rows_deleted in deleted:
                await connection.execute(f"VACUUM (INDEX_CLEANUP ON) {table}")
                await connection.execute(_NOTE_PURGED, (table, rows_deleted))


async def _forget(database: Database, tenant_id: str, keys: list[str]) -> int:
    async def unit(connection: Connection) -> int:
        cursor = await connection.execute(
            "DELETE FROM idempotency WHERE tenant_id = %s AND key = ANY(%s::text[])", (tenant_id, keys)
        )
        return cursor.rowcount

    return await database.write(unit, was_stored=done_again)
