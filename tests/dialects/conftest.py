"""What the tests of every dialect stand on: the real engine behind the real HTTP server, in this process.

Manifests: the folder of a dialect holds `manifest.toml`, its wire behaviours; a test says with
`@pytest.mark.requirement("dialect.behaviour")` which of them it proves. `test_manifests.py` checks both ways.

One engine serves the whole run, in one event loop; tests stay apart by provisioning a key, hence a tenant, each.
A dialect's own conftest says with the fixture `base` below which path its `api` calls.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
import uuid_utils
from starlette.types import ASGIApp

from polymem.engine.engine import Engine
from polymem.engine.queueing import LEASE, RULES
from polymem.errors import PolymemError
from polymem.http.app import build_app, known_dialects
from polymem.http.settings import HttpSettings
from polymem.inference.embedder import LocalEmbedder
from polymem.jobs.handlers import handlers_of
from polymem.ports.storage import Storage
from polymem.storage.blobs.filesystem import FilesystemBlobs
from polymem.storage.postgres.storage import PostgresStorage
from polymem.storage.sqlite.storage import SqliteStorage
from postgres import PostgresServer

Answered = TypeVar("Answered")
_HERE = Path(__file__).parent
_STARTED_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
_QUEUES = frozenset(rule.queue for rule in RULES.values())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not isinstance(item, pytest.Function) or not item.path.is_relative_to(_HERE):
            continue
        if inspect.iscoroutinefunction(item.obj):
            # Before the marker without a scope that the plugin gave it: the first one counts.
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


class HandMovedClock:
    """A clock that stands until a test moves it on; it never goes back."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def now(self) -> datetime:
        return _STARTED_AT + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        return self._seconds

    def advance(self, seconds: float) -> None:
        self._seconds += seconds


class RandomIds:
    """Ids as the server makes them."""

    def new_id(self) -> str:
        return str(uuid_utils.uuid7())

    def new_secret(self) -> str:
        return uuid4().hex

    def new_uuid4(self) -> str:
        return str(uuid4())


@dataclass(frozen=True)
class House:
    """A running engine, and the means to serve it."""

    engine: Engine
    clock: HandMovedClock

    def app(self, **settings: Any) -> ASGIApp:
        """The server over the engine with every dialect; loopback and open unless said otherwise."""
        given = {"is_loopback": True, "mounts": dict.fromkeys(known_dialects(), ""), **settings}
        return build_app(
            self.engine,
            HttpSettings(version="9.9.9", started_at=_STARTED_AT, clock=self.clock, ids=RandomIds(), **given),
        )

    def client(
        self, app: ASGIApp, headers: dict[str, str] | None = None, *, address: str = "127.0.0.1"
    ) -> httpx.AsyncClient:
        """A caller of the server from this address."""
        transport = httpx.ASGITransport(app=cast("Any", app), client=(address, 50_000))
        return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8765", headers=headers)

    async def run_jobs(self) -> None:
        """Every queued job has been run once, as the worker would."""
        handlers = handlers_of(self.engine)
        jobs = self.engine.storage.jobs
        now = self.clock.now()
        while (job := await jobs.claim(queues=_QUEUES, now=now, lease_until_at=now + LEASE)) is not None:
            try:
                await handlers[job.kind](job)
            except PolymemError as error:
                await jobs.park(job.tenant_id, job.id, fence=job.fence, error=error.message, now=now)

    async def beside_worker(self, request: Awaitable[Answered]) -> Answered:
        """What is answered to a request that may wait for jobs it has queued."""
        answering = asyncio.ensure_future(request)
        while not answering.done():
            await asyncio.wait({answering}, timeout=0.001)
            await self.run_jobs()
        return await answering


@asynccontextmanager
async def open_house(directory: Path, database: str | None = None) -> AsyncIterator[House]:
    """An engine over a new data directory, or a PostgreSQL database, open until the end of the block."""
    clock = HandMovedClock()
    storage: Storage
    if database is None:
        storage = await SqliteStorage.open(directory)
    else:
        storage = await PostgresStorage.open(database, connections=4)
    embedder = LocalEmbedder.open()
    try:
        blobs = FilesystemBlobs(directory / "blobs")
        yield House(Engine(storage=storage, embedder=embedder, blobs=blobs, clock=clock, ids=RandomIds()), clock)
    finally:
        await embedder.close()
        await storage.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=["postgres", "sqlite"])
async def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    database = None
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        database = server.new_database()
    async with open_house(tmp_path_factory.mktemp("data"), database) as opened:
        yield opened


@pytest.fixture(scope="session")
def app(house: House) -> ASGIApp:
    return house.app()


@pytest.fixture
def clock(house: House) -> HandMovedClock:
    return house.clock


@pytest.fixture
def run_jobs(house: House) -> Callable[[], Awaitable[None]]:
    return house.run_jobs


def below(client: httpx.AsyncClient, path: str) -> httpx.AsyncClient:
    """The client, with relative addresses below the path."""
    client.base_url = httpx.URL(str(client.base_url).rstrip("/") + path)
    return client


async def provision(house: House) -> str:
    """A key that opens an empty memory."""
    return (await house.engine.keys.provision(name="test")).secret


@pytest_asyncio.fixture(loop_scope="session")
async def anyone(house: House, app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    async with house.client(app) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def key(house: House) -> str:
    return await provision(house)


@pytest_asyncio.fixture(loop_scope="session")
async def api(house: House, app: ASGIApp, key: str, base: str) -> AsyncIterator[httpx.AsyncClient]:
    async with below(house.client(app, {"X-API-Key": key}), base) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def other(house: House, app: ASGIApp, base: str) -> AsyncIterator[httpx.AsyncClient]:
    """A caller with another key."""
    async with below(house.client(app, {"X-API-Key": await provision(house)}), base) as client:
        yield client


@dataclass(frozen=True)
class Caller:
    """Makes callers of servers with other settings, for one key."""

    house: House
    key: str
    base: str

    def on(self, headers: dict[str, str] | None = None, **settings: Any) -> httpx.AsyncClient:
        client = self.house.client(self.house.app(**settings), {"X-API-Key": self.key, **(headers or {})})
        return below(client, self.base)

    def with_key(self, key: str) -> httpx.AsyncClient:
        return below(self.house.client(self.house.app(), {"X-API-Key": key}), self.base)


@pytest_asyncio.fixture(loop_scope="session")
async def caller(house: House, key: str, base: str) -> Caller:
    return Caller(house, key, base)
