"""One worker process: runs background jobs of a database that API processes serve from."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from polymem.bootstrap.adapters import database_place, open_storage, warn_of_traps
from polymem.bootstrap.composition import open_running
from polymem.bootstrap.signals import Stop
from polymem.config import Settings
from polymem.errors import SettingsInvalid
from polymem.ports.inference import Embedder


@dataclass(frozen=True, slots=True, kw_only=True)
class Working:
    """A worker that runs jobs: of which database, how many at a time, and what is degraded."""

    database: str
    concurrency: int
    degraded: tuple[str, ...]


async def work(settings: Settings, announce: Callable[[Working], None], model: Future[Embedder] | None = None) -> None:
    """Jobs have been run until SIGINT or SIGTERM; `announce` is called once the first can be.

    A stop lets a short job end and gives a longer one back: another worker goes on where its last commit ended. A
    second signal ends the process at once; its jobs go on when their leases have ended. Nothing is written to the data
    directory. Raises `SettingsInvalid` for settings that leave nothing to do.
    """
    require_worker(settings)
    is_asked, stop = asyncio.Event(), Stop()
    with stop.on_signals():
        async with open_running(settings, model) as running:
            stop.then(is_asked.set)
            warn_of_traps(settings)
            health = await running.engine.health()
            announce(
                Working(
                    database=database_place(settings),
                    concurrency=settings.worker_concurrency,
                    degraded=health.degraded,
                )
            )
            await is_asked.wait()


async def check_work(settings: Settings) -> None:
    """A worker with these settings could start: its database answers and has this program's schema.

    Raises `SettingsInvalid` and the storage errors.
    """
    require_worker(settings)
    async with open_storage(settings, owns_directory=False, migrates=False) as storage:
        await storage.ping()


def require_worker(settings: Settings) -> None:
    """The settings leave a worker something to do. Raises `SettingsInvalid`."""
    if settings.database_url is None:
        raise SettingsInvalid(
            "setting database_url: a worker of its own needs PostgreSQL; `polymem serve` runs the jobs of an embedded"
            " database itself"
        )
    if settings.worker_concurrency == 0:
        raise SettingsInvalid("setting worker_concurrency: a worker needs at least 1")


async def bring_up_schema(settings: Settings) -> None:
    """The database is there with this program's schema.

    Raises `DataDirectoryLocked` while a server runs on an embedded one, `SettingsInvalid` and the storage errors.
    """
    async with open_storage(settings, owns_directory=True):
        return
