"""What is left of deleted memories in the derived files, made to go away.

A contentless FTS5 table marks a deleted entry and keeps its terms in an older segment until segments are merged;
the write-ahead log holds old pages until it is cut. Neither can be asked for anything, but both could be read from
the disk.
"""

import asyncio
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

from polymem.storage.sqlite.connection import Database
from polymem.storage.sqlite.driver import connect

# Pages of the token table that one write unit merges; other writes pass between the units.
_PAGES_PER_UNIT: Final = 500
# FTS5 reports at least this many changed rows while a merge goes on (section "The 'merge' command" of its manual).
_CHANGES_OF_A_MERGE: Final = 2
_MERGE: Final = "INSERT INTO terms_fts (terms_fts, rank) VALUES ('merge', ?)"


async def purge(database: Database) -> None:
    """No file of the database holds a term or a page of what was deleted before the call.

    Nothing is done when nothing was deleted since the last time. The log is cut only as far as readers allow.
    """
    deleted = await database.read(_last_tombstone)
    if deleted == await database.read(_purged):
        return
    # A negative number starts a merge of all segments into one; the same with a positive one goes on with it.
    pages = -_PAGES_PER_UNIT
    while await database.write(partial(_merge, pages=pages)):
        pages = _PAGES_PER_UNIT
    await database.write(lambda connection: _note_purged(connection, deleted))
    await asyncio.to_thread(_cut_log, database.path)


def _last_tombstone(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(rowid), 0) FROM tombstones").fetchone()[0])


def _purged(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT value FROM counters WHERE name = 'tombstones_purged'").fetchone()[0])


def _note_purged(connection: sqlite3.Connection, tombstone: int) -> None:
    connection.execute("UPDATE counters SET value = ? WHERE name = 'tombstones_purged'", (tombstone,))


def _merge(connection: sqlite3.Connection, *, pages: int) -> bool:
    """Part of the merge is done; True while there may be more."""
    before = connection.total_changes
    connection.execute(_MERGE, (pages,))
    return connection.total_changes - before >= _CHANGES_OF_A_MERGE


def _cut_log(path: Path) -> None:
    with closing(connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
