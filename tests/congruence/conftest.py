"""Two storages that should answer alike."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from polymem.ports.storage import Storage
from polymem.storage.postgres.storage import PostgresStorage
from polymem.storage.sqlite.storage import SqliteStorage
from postgres import PostgresServer
from writer import ACCOUNT


@pytest.fixture
async def both(postgres_server: PostgresServer, tmp_path: Path) -> AsyncIterator[tuple[Storage, Storage]]:
    """SQLite and PostgreSQL with the same tenant."""
    async with AsyncExitStack() as opened:
        sqlite = await SqliteStorage.open(tmp_path / "data", owns_directory=False)
        opened.push_async_callback(sqlite.close)
        postgres = await PostgresStorage.open(postgres_server.new_database(), connections=4)
        opened.push_async_callback(postgres.close)
        for storage in (sqlite, postgres):
            assert await storage.directory.create_account(ACCOUNT)
        yield sqlite, postgres
