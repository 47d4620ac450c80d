"""The edge to SQLite's own driver: how a connection is opened and what its errors mean to us."""

import sqlite3
import time
from pathlib import Path
from typing import Final

from polymem.errors import PolymemError, StorageDamaged, StorageFull, StorageReadOnly, StorageUnavailable
from polymem.storage.sqlite.metadata import register_metadata

BUSY_TIMEOUT_SECONDS: Final = 5.0
# STRICT tables (3.37) and RETURNING (3.35) are used throughout.
OLDEST_SQLITE: Final = (3, 37, 0)

_PRIMARY_CODE = 0xFF
_STATEMENTS_KEPT = 512
_WAL_RETRY_SECONDS = 0.01
# Of a new file. A row of vectors is some 3 KB: pages of 4 KB would hold one of them and stay a quarter empty.
_PAGE_BYTES = 8192
_PRAGMAS = (
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA secure_delete = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -32768",
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA wal_autocheckpoint = 2000",
)
# Readers find most pages in the system's cache: with 32 MB of its own the evidence of 128 candidates took 3.6 ms of
# one core, with 2 MB it takes 2.4 ms. A mapped file would save 0.5 ms more, and be counted as resident by each reader.
_READER_PRAGMAS = ("PRAGMA query_only = ON", "PRAGMA cache_size = -2048")

_FULL_CODES = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})
_MEANINGS: dict[int, tuple[type[PolymemError], str]] = {
    sqlite3.SQLITE_READONLY: (StorageReadOnly, "the database cannot be written"),
    sqlite3.SQLITE_PERM: (StorageReadOnly, "the database file may not be accessed"),
    sqlite3.SQLITE_CORRUPT: (StorageDamaged, "the database is damaged; run `polymem doctor`"),
    sqlite3.SQLITE_NOTADB: (StorageDamaged, "the database file is damaged or not a database"),
    sqlite3.SQLITE_BUSY: (StorageUnavailable, "the database is locked by another process"),
    sqlite3.SQLITE_LOCKED: (StorageUnavailable, "the database is locked"),
    sqlite3.SQLITE_PROTOCOL: (StorageUnavailable, "the database is locked by another process"),
    sqlite3.SQLITE_IOERR: (StorageUnavailable, "the disk did not read or write"),
    sqlite3.SQLITE_CANTOPEN: (StorageUnavailable, "the database file cannot be opened"),
    sqlite3.SQLITE_NOMEM: (StorageUnavailable, "the database ran out of memory"),
}


def storage_error(error: sqlite3.Error) -> PolymemError | None:
    """What a driver error says about the storage; None when it says that our own statement is wrong."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    if code in _FULL_CODES:
        return StorageFull("there is no room left to write")
    meaning = _MEANINGS.get(code & _PRIMARY_CODE)
    if meaning is None:
        return None
    kind, words = meaning
    return kind(words)


def connect(path: Path, *, is_reader: bool = False) -> sqlite3.Connection:
    """An open connection with our pragmas, in autocommit: transactions are begun in words.

    A writer creates the file when it is missing and turns WAL on. Raises the driver's own errors.
    """
    connection = sqlite3.connect(
        path,
        timeout=BUSY_TIMEOUT_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_STATEMENTS_KEPT,
    )
    try:
        register_metadata(connection)
        if not is_reader:
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            _turn_wal_on(connection)
        for pragma in _PRAGMAS + (_READER_PRAGMAS if is_reader else ()):
            connection.execute(pragma)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _turn_wal_on(connection: sqlite3.Connection) -> None:
    """The database is in WAL mode; the busy timeout does not cover this step, so it is tried again here."""
    give_up_at = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & _PRIMARY_CODE == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() >= give_up_at:
                raise
            time.sleep(_WAL_RETRY_SECONDS)
        else:
            return
