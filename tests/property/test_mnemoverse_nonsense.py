"""Nonsense at every route of mnemoverse: never a 500, always its error shape, never a partial write."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import strategies as st
from schemathesis import GenerationMode

from nonsense import (
    Target,
    aims_at,
    answer_generated,
    document_of,
    json_like,
    opened_target,
    operations_of,
    send_raw_bytes,
)
from postgres import PostgresServer

CODES = {
    "VALIDATION_ERROR",
    "UNAUTHORIZED",
    "FORBIDDEN",
    "NOT_FOUND",
    "METHOD_NOT_ALLOWED",
    "CONFLICT",
    "PAYLOAD_TOO_LARGE",
    "RATE_LIMITED",
}


async def _keep(client: httpx.AsyncClient) -> str:
    atom_id: str = (await client.post("/api/v1/memory/write", json={"content": "a"})).json()["atom_id"]
    return atom_id


def _is_said_well(body: Any) -> bool:
    if body == {"detail": "Not Found"}:
        return True
    names = ["code", "message", "requestId", "retryable", "details"]
    return list(body) == names and body["code"] in CODES and bool(body["message"]) and body["requestId"] != ""


@pytest.fixture(scope="module", params=["postgres", "sqlite"])
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> Iterator[Target]:
    server = postgres_server if request.param == "postgres" else None
    directory = tmp_path_factory.mktemp("data")
    with opened_target(directory, server, keep=_keep, is_said_well=_is_said_well, runs_jobs=True) as target:
        yield target


OPERATIONS = operations_of(document_of("mnemoverse", "/api/v1"))
ROUTES = sorted({(operation.method.upper(), operation.path) for operation in OPERATIONS})


@pytest.mark.parametrize(("operation", "mode"), aims_at(OPERATIONS))
def test_generated_requests_are_answered_as_documented(target: Target, operation: Any, mode: GenerationMode) -> None:
    answer_generated(target, operation, mode, id_name="atom_id")


CONTENT_TYPES = st.sampled_from([b"application/json", b"application/vnd.api+json", b"text/plain", b"\xff", b""])
JSON_LIKE = json_like(
    b"content", b"items", b"query", b"queries", b"atom_ids", b"outcome", b"seeds", b"cursor", b"domain"
)


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=str)
def test_raw_bytes_are_refused_or_understood(target: Target, method: str, path: str) -> None:
    send_raw_bytes(target, method, path, "atom_id", st.sampled_from([b"q", b"limit"]), CONTENT_TYPES, JSON_LIKE)
