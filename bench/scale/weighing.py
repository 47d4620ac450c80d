"""What a shape takes on disk, and in the memory of a process that serves it from one storage alone."""

import asyncio
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.scale.server import LabServer, proportional_mb
from bench.scale.sides import ask, side
from polymem.engine.requests import NewSecret
from polymem.inference.embedder import LocalEmbedder
from polymem.ports.storage import Storage
from polymem.storage.postgres.storage import PostgresStorage
from polymem.storage.sqlite.storage import SqliteStorage

# The parts of a partitioned table, or index, count as one.
_WHOLE = "COALESCE(pg_partition_root(c.oid), c.oid)::regclass::text"
_OURS = "FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = 'public'"
_RELATIONS = (
    f"SELECT {_WHOLE}, sum(pg_relation_size(c.oid))::bigint,"
    " sum(pg_total_relation_size(c.oid) - pg_relation_size(c.oid) - pg_indexes_size(c.oid))::bigint,"
    f" sum(pg_indexes_size(c.oid))::bigint {_OURS} AND c.relkind = 'r' GROUP BY 1"
    " HAVING sum(pg_total_relation_size(c.oid)) > 1000000 ORDER BY sum(pg_total_relation_size(c.oid)) DESC"
)
_INDEXES = (
    f"SELECT {_WHOLE}, sum(pg_relation_size(c.oid))::bigint {_OURS} AND c.relkind = 'i' GROUP BY 1"
    " HAVING sum(pg_relation_size(c.oid)) > 1000000 ORDER BY 2 DESC"
)

Place = Path | str
"""A data directory, or the URL of a database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """Bytes of a table: its rows, what it keeps beside them, its indexes."""

    name: str
    rows: int
    beside: int
    indexes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """A process of its own on one storage: memory in MB of 10^6 bytes, and its first answer in milliseconds.

    `before_mb`: with the model loaded and the storage open; `after_mb`: when the questions were answered; `server_mb`:
    all processes of the database server then, what they share counted once; None where they cannot be seen.
    """

    before_mb: float
    after_mb: float
    server_mb: float | None
    first_ms: float


async def open_storage(place: Place) -> Storage:
    """The storage at a place, made where there is none."""
    return await (SqliteStorage.open(place) if isinstance(place, Path) else PostgresStorage.open(place))


def directory_files(directory: Path) -> list[tuple[str, int]]:
    """Name and size of every file of a data directory whose storage is closed, the largest first."""
    files = [(path.name, path.stat().st_size) for path in directory.rglob("*") if path.is_file()]
    return sorted(files, key=lambda each: -each[1])


def tables(server: LabServer, url: str) -> list[Weighed]:
    """The tables of a database that take more than a megabyte, the largest first."""
    found = server.rows(_RELATIONS, url=url)
    return [Weighed(name=name, rows=rows, beside=beside, indexes=indexes) for name, rows, beside, indexes in found]


def indexes(server: LabServer, url: str) -> list[tuple[str, int]]:
    """Name and size of the indexes of a database that take more than a megabyte, the largest first."""
    return [(name, size) for name, size in server.rows(_INDEXES, url=url)]


def footprint(place: Place, server: LabServer | None, asked: Sequence[tuple[NewSecret, str]]) -> Footprint:
    """The questions were answered by a new process on this storage. No other process has it open."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_footprint, place, server, list(asked)).result()


def _footprint(place: Place, server: LabServer | None, asked: Sequence[tuple[NewSecret, str]]) -> Footprint:
    return asyncio.run(_serve(place, server, asked))


async def _serve(place: Place, server: LabServer | None, asked: Sequence[tuple[NewSecret, str]]) -> Footprint:
    embedder = LocalEmbedder.open()
    storage = await open_storage(place)
    try:
        recall = side("", storage, embedder).recall
        for _, text in asked:
            await embedder.embed_query(text)
        before, started, first = proportional_mb("self"), time.perf_counter(), 0.0
        for account, text in asked:
            await ask(recall, account, text)
            first = first or time.perf_counter() - started
        server_mb = None if server is None else server.memory_mb()
        return Footprint(before_mb=before, after_mb=proportional_mb("self"), server_mb=server_mb, first_ms=first * 1000)
    finally:
        await embedder.close()
        await storage.close()
