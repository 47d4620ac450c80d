"""Talking to the server that runs on a data directory. Imported only when there is one: httpx takes time to load."""

from collections.abc import Sequence
from typing import Any

import httpx

from polymem.bootstrap import ServerRecord
from polymem.errors import Forbidden, InvalidInput, PolymemError, Unauthenticated, Unavailable

_PROBE_SECONDS = 2.0
_CALL_SECONDS = 60.0


async def is_answering(record: ServerRecord) -> bool:
    """True when the server of the record answers now."""
    try:
        async with httpx.AsyncClient(timeout=_PROBE_SECONDS, trust_env=False) as client:
            answer = await client.get(f"{record.url}/livez")
    except httpx.HTTPError:
        return False
    return answer.is_success


class ServerClient:
    """Writes to and recalls from a running server, in the mem9 API, as the owner of a key."""

    def __init__(self, record: ServerRecord, secret: str) -> None:
        if "mem9" not in record.apis:
            raise Unavailable(f"the server at {record.url} does not serve the mem9 API, which this command speaks")
        self._base = record.apis["mem9"]
        self._headers = {"X-API-Key": secret}

    async def write(self, content: str, tags: Sequence[str]) -> str:
        """The content is stored and found from now on; its id."""
        body = {"content": content, "tags": list(tags), "sync": True}
        answer = await self._call("POST", "/memories", json=body)
        return str(answer["id"])

    async def recall(
        self, query: str, *, limit: int, at: str | None = None, is_explained: bool = False
    ) -> list[dict[str, Any]]:
        """The memories that the query finds, best first, as the API shows them; with a `trace` each if asked.

        `at` is when the query is asked, None for now. Raises `Unavailable` when the server cannot explain.
        """
        params = {"q": query, "limit": str(limit)}
        if at is not None:
            params["reference_at"] = at
        if is_explained:
            params["trace"] = "true"
        rows = list((await self._call("GET", "/memories", params=params))["memories"])
        if is_explained and not all("trace" in row for row in rows):
            raise Unavailable(f"the server at {self._base} is older than this command and does not explain")
        return rows

    async def _call(self, method: str, path: str, **parts: Any) -> dict[str, Any]:
        try:
            async with httpx.AsyncClient(timeout=_CALL_SECONDS, headers=self._headers, trust_env=False) as client:
                answer = await client.request(method, self._base + path, **parts)
        except httpx.HTTPError as error:
            raise Unavailable(f"the server at {self._base} does not answer ({type(error).__name__})") from error
        if answer.is_success:
            return dict(answer.json())
        raise _refusal(answer)


def _refusal(answer: httpx.Response) -> PolymemError:
    """What the server's refusal says, as the error that it was before it became a status."""
    try:
        told = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        told = answer.reason_phrase
    message = f"the server refused: {told}"
    match answer.status_code:
        case 401:
            return Unauthenticated(message)
        case 403:
            return Forbidden(message)
        case 400 | 413 | 422:
            return InvalidInput("argument", message)
        case _:
            return Unavailable(f"{message} (status {answer.status_code})")
