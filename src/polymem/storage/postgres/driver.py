"""psycopg as this storage uses it: how a connection is set up, how values travel, what its errors mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector.psycopg import register_vector_async
from psycopg import errors
from psycopg.abc import Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format

from polymem.errors import (
    PolymemError,
    SettingsInvalid,
    StorageDamaged,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
)
from polymem.storage.postgres.texts import register_texts

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

OLDEST_POSTGRES: Final = 17
OLDEST_PGVECTOR: Final = (0, 8)

_BIGINT_ARRAY_OID: Final = 1016
_BIGINT_OID: Final = 20
_ARRAY_HEADER_BYTES: Final = 20
_ITEM: Final = np.dtype([("size", ">i4"), ("value", ">i8")])

# Statements are planned for the values they get: a plan for any tenant suits none. A graph is searched on until enough
# rows pass the filter. Compiling to machine code takes longer than any of our statements.
SESSION: Final = {
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
    "hnsw.ef_search": "200",
    "hnsw.iterative_scan": "relaxed_order",
    "hnsw.max_scan_tuples": "40000",
    "idle_in_transaction_session_timeout": "60s",
    "lock_timeout": "10s",
    "TimeZone": "UTC",
}


class ConnectionLost(Exception):
    """The connection ended under a unit of work; what the unit did is rolled back, or is about to be."""


def connection_options() -> dict[str, Any]:
    """What every connection is opened with, beside the URL."""
    return {
        "autocommit": True,
        "application_name": "polymem",
        "connect_timeout": 5,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }


async def set_up(connection: Connection) -> None:
    """The connection has the session's settings and the types of the search."""
    settings = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in SESSION.items())
    await connection.execute(f"SELECT {settings}")
    await register_vector_async(connection)
    connection.adapters.register_loader(_BIGINT_ARRAY_OID, _BigintsLoader)
    connection.adapters.register_dumper(np.ndarray, _BigintsDumper)
    register_texts(connection)


class _BigintsLoader(Loader):
    """A bigint[] without nulls as an array of int64."""

    format = Format.BINARY

    def load(self, data: Buffer) -> NDArray[np.int64]:
        """The numbers in their order."""
        items = np.frombuffer(data, dtype=_ITEM, offset=min(_ARRAY_HEADER_BYTES, len(data)))
        values: NDArray[np.int64] = items["value"].astype(np.int64)
        return values


class _BigintsDumper(Dumper):
    """An array of int64 as a bigint[] of one dimension."""

    format = Format.BINARY
    oid = _BIGINT_ARRAY_OID

    def dump(self, obj: NDArray[np.int64]) -> bytes:
        """The array as the server reads it."""
        values = np.ascontiguousarray(obj, dtype=np.int64)
        header = np.array([1 if len(values) else 0, 0, _BIGINT_OID, len(values), 1], dtype=">i4")
        items = np.empty(len(values), dtype=_ITEM)
        items["size"], items["value"] = 8, values
        return (header if len(values) else header[:3]).tobytes() + items.tobytes()


# --- errors ----------------------------------------------------------------------------------------------

# The server went away, or is about to: the same call may succeed on another connection.
_LOST: Final = (
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.IdleInTransactionSessionTimeout,
)
_COLLIDED: Final = (errors.SerializationFailure, errors.DeadlockDetected)


def is_lost(error: psycopg.Error, connection: Connection) -> bool:
    """True when the connection can serve no more."""
    return connection.closed or isinstance(error, _LOST)


def is_collision(error: psycopg.Error) -> bool:
    """True when the unit was rolled back for the sake of another one and may be run again."""
    return isinstance(error, _COLLIDED)


# What an error means to a caller; the first kind that it is one of counts.
_MEANINGS: Final[tuple[tuple[tuple[type[psycopg.Error], ...], type[PolymemError], str], ...]] = (
    ((errors.DiskFull, errors.ConfigurationLimitExceeded), StorageFull, "the database has no room to write"),
    ((errors.ReadOnlySqlTransaction,), StorageReadOnly, "the database cannot be written: read-only, or a standby"),
    ((errors.DataCorrupted, errors.IndexCorrupted), StorageDamaged, "the database reports damage to what is stored"),
    (
        (errors.UndefinedTable, errors.UndefinedColumn),
        StorageDamaged,
        "the database lacks a part of the schema; `polymem migrate` says more",
    ),
    (
        (errors.TooManyConnections, errors.OutOfMemory),
        StorageUnavailable,
        "the database has no connection or memory left",
    ),
    ((errors.QueryCanceled, errors.LockNotAvailable), StorageUnavailable, "the database did not answer in time"),
    (_COLLIDED, StorageUnavailable, "the database was too busy with other writes"),
    (
        (errors.InvalidPassword, errors.InvalidAuthorizationSpecification),
        SettingsInvalid,
        "setting database_url: the server refuses this user or password",
    ),
    ((errors.InvalidCatalogName,), SettingsInvalid, "setting database_url: the server has no such database"),
    (
        (errors.InsufficientPrivilege,),
        SettingsInvalid,
        "setting database_url: this user may not do what polymem needs; it must own its tables",
    ),
    ((psycopg.OperationalError, psycopg.InterfaceError), StorageUnavailable, "the database does not answer"),
)


def storage_error(error: psycopg.Error) -> PolymemError | None:
    """What the error means to a caller; None for one that only a mistake of ours can cause. Never tells the URL."""
    return next((known(message) for kinds, known, message in _MEANINGS if isinstance(error, kinds)), None)


@contextmanager
def translated() -> Iterator[None]:
    """Errors of the driver leave as storage errors; one that only a mistake of ours can cause leaves as it is."""
    try:
        yield
    except psycopg.Error as error:
        known = storage_error(error)
        if known is None:
            raise
        raise known from error
