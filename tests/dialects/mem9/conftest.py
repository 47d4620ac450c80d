"""Callers of mem9: without a key, with one, with another."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest_asyncio

ALPHA1 = "/v1alpha1/mem9s"
ALPHA2 = "/v1alpha2/mem9s"


def below(client: httpx.AsyncClient, path: str) -> httpx.AsyncClient:
    """The client, with relative addresses below the path."""
    client.base_url = httpx.URL(str(client.base_url).rstrip("/") + path)
    return client


async def provision(client: httpx.AsyncClient) -> str:
    """A key that opens an empty memory."""
    answer = await client.post(ALPHA1)
    assert answer.status_code == 201, answer.text
    key: str = answer.json()["id"]
    return key


@pytest_asyncio.fixture(loop_scope="session")
async def anyone(house: Any, app: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with house.client(app) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def key(anyone: httpx.AsyncClient) -> str:
    return await provision(anyone)


@pytest_asyncio.fixture(loop_scope="session")
async def api(house: Any, app: Any, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with below(house.client(app, {"X-API-Key": key}), ALPHA2) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def other(house: Any, app: Any, anyone: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """A caller with another key."""
    async with below(house.client(app, {"X-API-Key": await provision(anyone)}), ALPHA2) as client:
        yield client


@dataclass(frozen=True)
class Caller:
    """Makes callers of servers with other settings, for one key."""

    house: Any
    key: str

    def on(self, headers: dict[str, str] | None = None, **settings: Any) -> httpx.AsyncClient:
        return below(self.house.client(self.house.app(**settings), {"X-API-Key": self.key, **(headers or {})}), ALPHA2)

    def with_key(self, key: str) -> httpx.AsyncClient:
        return below(self.house.client(self.house.app(), {"X-API-Key": key}), ALPHA2)


@pytest_asyncio.fixture(loop_scope="session")
async def caller(house: Any, key: str) -> Caller:
    return Caller(house, key)


@pytest_asyncio.fixture(loop_scope="session")
async def remember(api: httpx.AsyncClient) -> Callable[..., Awaitable[str]]:
    """Keeps a text and tells its id."""

    async def keep(content: str, headers: dict[str, str] | None = None, **fields: Any) -> str:
        answer = await api.post("/memories", json={"content": content, "sync": True, **fields}, headers=headers)
        assert answer.status_code in {200, 201}, answer.text
        made: str = answer.json()["id"]
        return made

    return keep
