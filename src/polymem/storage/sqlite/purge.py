"""What is left of deleted memories in the write-ahead log and in the files of the index, made to go away.

The database file itself keeps nothing of a deleted row (`secure_delete`); the log holds old pages until it is cut, and
the files beside the database are as a tenant once was. They cannot be asked for, but could be read from the disk.
"""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from polymem.storage.sqlite.connection import Database
from polymem.storage.sqlite.driver import connect
from polymem.storage.sqlite.index_snapshots import Snapshots


async def purge(database: Database, snapshots: Snapshots) -> None:
    """No file beside or of the database holds a page of what was deleted before the call.

    Nothing is done when nothing was deleted since the last time. The log is cut only as far as readers allow.
    """
    deleted = await database.read(_last_tombstone)
    if deleted == await database.read(_purged):
        return
    await database.write(lambda connection: _note_purged(connection, deleted))
    await asyncio.to_thread(snapshots.remove_all)
    await asyncio.to_thread(_cut_log, database.path)


def _last_tombstone(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(rowid), 0) FROM tombstones").fetchone()[0])


def _purged(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT value FROM counters WHERE name = 'tombstones_purged'").fetchone()[0])


def _note_purged(connection: sqlite3.Connection, tombstone: int) -> None:
    connection.execute("DELETE FROM index_snapshots")
    connection.execute("UPDATE counters SET value = ? WHERE name = 'tombstones_purged'", (tombstone,))


def _cut_log(path: Path) -> None:
    with closing(connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
