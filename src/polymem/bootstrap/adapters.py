"""Which adapters the settings name; what one of them alone needs is imported when it is chosen."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from polymem.config import Settings, without_secrets
from polymem.errors import SettingsInvalid
from polymem.ports.blobs import BlobStore
from polymem.ports.storage import Storage
from polymem.storage.blobs.filesystem import FilesystemBlobs
from polymem.storage.sqlite.storage import SqliteStorage

if TYPE_CHECKING:
    from polymem.storage.postgres.storage import PostgresStorage

BLOB_FOLDER = "blobs"

_log = logging.getLogger(__name__)


@asynccontextmanager
async def open_storage(settings: Settings, *, owns_directory: bool, migrates: bool = True) -> AsyncIterator[Storage]:
    """The storage that the settings name; closed afterwards.

    `owns_directory`: as the one server of an embedded database. `migrates` False: a PostgreSQL database with another
    schema is refused; an embedded one is always brought up to this program's. Raises `SettingsInvalid`,
    `DataDirectoryLocked` and the storage errors.
    """
    storage = await _storage(settings, owns_directory=owns_directory, migrates=migrates)
    try:
        yield storage
    finally:
        await storage.close()


async def _storage(settings: Settings, *, owns_directory: bool, migrates: bool) -> Storage:
    if settings.database_url is None:
        return await SqliteStorage.open(
            settings.data_dir,
            owns_directory=owns_directory,
            reader_count=settings.reader_threads,
            vector_bytes=settings.vector_memory_bytes,
        )
    return await _postgres().open(settings.database_url, connections=settings.database_connections, migrates=migrates)


async def distribute_tables(settings: Settings) -> int:
    """The tables of the database lie on the servers of its Citus cluster, by tenant; how many were moved now.

    Raises `SettingsInvalid` without a PostgreSQL database, or when it has no Citus; the storage errors.
    """
    if settings.database_url is None:
        raise SettingsInvalid("setting database_url: only the tables of PostgreSQL can be distributed")
    storage = await _postgres().open(settings.database_url)
    try:
        return await storage.distribute()
    finally:
        await storage.close()


def _postgres() -> "type[PostgresStorage]":
    try:
        from polymem.storage.postgres.storage import PostgresStorage  # noqa: PLC0415 - its driver is an extra
    except ImportError as error:
        raise missing_packages("setting database_url", "postgres", error) from error
    return PostgresStorage


async def open_blobs(settings: Settings, *, owns_directory: bool) -> BlobStore:
    """The store of uploaded files that the settings name.

    `owns_directory`: no other process puts files there, so what a crash left half written is removed.
    """
    if settings.blob_url is None:
        blobs = FilesystemBlobs(settings.data_dir / BLOB_FOLDER)
        if owns_directory:
            await blobs.remove_partial()
        return blobs
    try:
        from polymem.storage.blobs.s3 import blobs_at  # noqa: PLC0415 - its client is an extra
    except ImportError as error:
        raise missing_packages("setting blob_url", "s3", error) from error
    return blobs_at(
        settings.blob_url,
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=settings.s3_secret_access_key,
    )


def database_place(settings: Settings) -> str:
    """Where the PostgreSQL database is, without secrets; empty for the embedded one."""
    return without_secrets(settings.database_url)


def warn_of_traps(settings: Settings) -> None:
    """What can be meant and is more often an oversight stands in the log."""
    if settings.database_url is not None and settings.blob_url is None:
        _log.warning(
            "uploaded files stand in %s: imports only work where API processes and workers share that directory; "
            "the setting blob_url names a bucket for them instead",
            settings.data_dir / BLOB_FOLDER,
        )
    if settings.database_url is None and settings.worker_concurrency == 0:
        _log.warning(
            "worker_concurrency is 0, and no other process can run the jobs of an embedded database: imports will wait"
        )


def missing_packages(what: str, extra: str, error: ImportError) -> SettingsInvalid:
    """What an operator installs for `what`. Raises the error itself when it is a part of ours that is missing."""
    if (error.name or "").partition(".")[0] == "polymem":
        raise error
    return SettingsInvalid(f"{what}: this needs packages that are not installed: pip install 'polymem[{extra}]'")
