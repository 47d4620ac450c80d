"""Storages on databases of their own, and a wire to them that can be cut."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from polymem.ports.directory import NewAccount
from polymem.storage.postgres.storage import PostgresStorage
from postgres import PostgresServer
from samples import account_of
from wire import Wire, wire_to

OpenStorage = Callable[[str], Awaitable[PostgresStorage]]


@pytest.fixture
def storage_url(postgres_server: PostgresServer) -> str:
    """A database with our schema and nothing in it."""
    return postgres_server.new_database()


@pytest.fixture
async def open_storage() -> AsyncIterator[OpenStorage]:
    """Opens the storage at a URL, as one more process would; all are closed at the end."""
    async with AsyncExitStack() as opened:

        async def open_one(url: str) -> PostgresStorage:
            storage = await PostgresStorage.open(url, connections=4, patience_seconds=10.0)
            opened.push_async_callback(storage.close)
            return storage

        yield open_one


@pytest.fixture
async def storage(open_storage: OpenStorage, storage_url: str) -> PostgresStorage:
    """An open storage with nothing in it."""
    return await open_storage(storage_url)


@pytest.fixture
async def account(storage: PostgresStorage) -> NewAccount:
    """A tenant that is in the storage."""
    made = account_of("one")
    assert await storage.directory.create_account(made)
    return made


@pytest.fixture
async def wire(postgres_server: PostgresServer) -> AsyncIterator[Wire]:
    """A wire to the server."""
    # A socket's path has to be short.
    folder = Path(tempfile.mkdtemp(prefix="wire-"))
    async with wire_to(postgres_server.folder, folder) as wire:
        yield wire
    shutil.rmtree(folder)


@pytest.fixture
async def wired(open_storage: OpenStorage, storage_url: str, wire: Wire) -> PostgresStorage:
    """The storage, reached through the wire."""
    return await open_storage(f"{storage_url.partition('?')[0]}?host={wire.folder}")
