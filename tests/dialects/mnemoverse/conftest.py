"""Callers of mnemoverse: see the fixtures of every dialect; below `/api/v1`."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

NAMES = ["code", "message", "requestId", "retryable", "details"]


@pytest.fixture(scope="session")
def base() -> str:
    return "/api/v1"


@pytest_asyncio.fixture(loop_scope="session")
async def write(api: httpx.AsyncClient) -> Callable[..., Awaitable[str]]:
    """Keeps a text and tells its id."""

    async def keep(content: str, headers: dict[str, str] | None = None, **fields: Any) -> str:
        answer = await api.post("/memory/write", json={"content": content, **fields}, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["stored"], answer.text
        made: str = answer.json()["atom_id"]
        return made

    return keep


@pytest_asyncio.fixture(loop_scope="session")
async def read(api: httpx.AsyncClient) -> Callable[..., Awaitable[list[dict[str, Any]]]]:
    """What answers a question, best first."""

    async def found(query: str, **fields: Any) -> list[dict[str, Any]]:
        answer = await api.post("/memory/read", json={"query": query, **fields})
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    return found


@pytest.fixture
def told() -> Callable[[httpx.Response], tuple[int, object]]:
    """The status and body of a refusal, which names its request; without the name, which differs each time."""

    def parts(answer: httpx.Response) -> tuple[int, object]:
        body = answer.json()
        assert list(body) == NAMES
        assert body.pop("requestId") == answer.headers["x-request-id"]
        return answer.status_code, body

    return parts
