"""Settings become adapters, adapters an engine, and everything is closed again in the right order."""

import asyncio
import secrets
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

import uuid_utils

from polymem.bootstrap.adapters import open_blobs, open_storage
from polymem.config import Settings
from polymem.engine.accounts import Accounts
from polymem.engine.engine import Engine
from polymem.engine.keys import Keys
from polymem.errors import SettingsInvalid
from polymem.jobs.worker import EVERY_QUEUE, QUICK_QUEUES, Pace, Worker
from polymem.ports.inference import Embedder
from polymem.ports.storage import Storage

DATABASE_FILE = "polymem.db"
POLL_SECONDS = 2.0
# A stop waits this long for a short job to end; a longer one is given back and goes on at the next start.
JOB_GRACE_SECONDS = 1.0


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        """The present moment, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds from some fixed moment; never goes back."""
        return monotonic()


class Uuid7Ids:
    """Ids and secrets from the operating system's randomness."""

    def new_id(self) -> str:
        """A UUIDv7 (RFC 9562, with a counter within the millisecond): later ids of this process sort later."""
        return str(uuid_utils.uuid7())

    def new_secret(self) -> str:
        """32 random bytes as URL-safe text."""
        return secrets.token_urlsafe(32)

    def new_uuid4(self) -> str:
        """A random UUID."""
        return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class Administration:
    """What an operator's command works on: the accounts of a database, also while servers run on it."""

    storage: Storage
    keys: Keys
    accounts: Accounts


@asynccontextmanager
async def open_administration(settings: Settings) -> AsyncIterator[Administration]:
    """The database is open beside whoever else has it open; one on PostgreSQL is not migrated.

    Raises `SettingsInvalid` when there is none.
    """
    if settings.database_url is None and not (settings.data_dir / DATABASE_FILE).is_file():
        raise SettingsInvalid(f"no database in {settings.data_dir}; `polymem serve` makes one (see --data-dir)")
    clock, ids = SystemClock(), Uuid7Ids()
    async with open_storage(settings, owns_directory=False, migrates=False) as storage:
        keys = Keys(storage, clock, ids)
        yield Administration(storage=storage, keys=keys, accounts=Accounts(storage, keys, clock, ids))


@asynccontextmanager
async def open_engine(settings: Settings, *, runs_jobs: bool = True) -> AsyncIterator[Engine]:
    """The engine over the settings' database, with its worker running unless `runs_jobs` is False.

    Afterwards everything that was accepted is stored and every thread has ended. Raises `DataDirectoryLocked` when a
    server owns the directory of an embedded database.
    """
    async with open_running(settings, runs_jobs=runs_jobs) as running:
        yield running.engine


@dataclass(frozen=True, slots=True)
class Running:
    """An open engine and the worker that does its background work, unless the settings leave that to others."""

    engine: Engine
    worker: Worker


def begin_loading_model(settings: Settings) -> Future[Embedder]:
    """The model is being loaded on a thread of its own, mostly without Python's lock.

    A server begins with this and imports its web stack meanwhile.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="load-model")
    loading = thread.submit(_load_model, settings)
    thread.shutdown(wait=False)
    return loading


def _load_model(settings: Settings) -> Embedder:
    from polymem.inference.embedder import LocalEmbedder  # noqa: PLC0415 - 0.2 s that most commands need not wait

    return LocalEmbedder.open(settings.model_dir, threads=settings.encoder_threads)


@asynccontextmanager
async def open_running(
    settings: Settings, model: Future[Embedder] | None = None, *, runs_jobs: bool = True
) -> AsyncIterator[Running]:
    """What `open_engine` opens, for whoever stops the worker on its own terms; `model` when it is loading already."""
    is_embedded = settings.database_url is None
    async with AsyncExitStack() as stack:
        # Both at once: neither needs the other.
        loading = model or begin_loading_model(settings)
        storage = await stack.enter_async_context(open_storage(settings, owns_directory=is_embedded))
        blobs = await open_blobs(settings, owns_directory=is_embedded)
        embedder = await stack.enter_async_context(open_embedder(settings, loading))
        engine = Engine(
            storage=storage,
            embedder=embedder,
            blobs=blobs,
            clock=SystemClock(),
            ids=Uuid7Ids(),
            inline_chunks=settings.inline_chunks,
            importance_threshold=settings.importance_threshold,
        )
        worker = Worker(engine, pace=_pace(settings))
        if runs_jobs and settings.worker_concurrency > 0:
            worker.start()
        try:
            yield Running(engine, worker)
        finally:
            await worker.stop(grace_seconds=min(settings.shutdown_grace_seconds, JOB_GRACE_SECONDS))
            await engine.limits.give_back()


def _pace(settings: Settings) -> Pace:
    """How the settings let the worker spend time: with two slots or more, one stays free of long jobs."""
    long_runs = max(1, settings.worker_concurrency - 1)
    quick_runs = settings.worker_concurrency - long_runs
    return Pace(slots=(EVERY_QUEUE,) * long_runs + (QUICK_QUEUES,) * quick_runs, poll_seconds=POLL_SECONDS)


@asynccontextmanager
async def open_embedder(settings: Settings, model: Future[Embedder] | None = None) -> AsyncIterator[Embedder]:
    """The embedding model, `model` when it is loading already; when its files are damaged its `problem` says so."""
    embedder = await asyncio.wrap_future(model or begin_loading_model(settings))
    try:
        yield embedder
    finally:
        await embedder.close()
