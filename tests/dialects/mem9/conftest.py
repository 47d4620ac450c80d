"""Callers of mem9: see the fixtures of every dialect; below the paths whose key stands in a header."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio


@pytest.fixture(scope="session")
def base() -> str:
    return "/v1alpha2/mem9s"


@pytest_asyncio.fixture(loop_scope="session")
async def remember(api: httpx.AsyncClient) -> Callable[..., Awaitable[str]]:
    """Keeps a text and tells its id."""

    async def keep(content: str, headers: dict[str, str] | None = None, **fields: Any) -> str:
        answer = await api.post("/memories", json={"content": content, "sync": True, **fields}, headers=headers)
        assert answer.status_code in {200, 201}, answer.text
        made: str = answer.json()["id"]
        return made

    return keep
