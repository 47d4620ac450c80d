"""Nonsense at every route of mem9: never a 500, always mem9's error shape, never a partial write."""

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


async def _keep(client: httpx.AsyncClient) -> str:
    memory_id: str = (await client.post("/v1alpha2/mem9s/memories", json={"content": "a"})).json()["id"]
    return memory_id


def _is_said_well(body: Any) -> bool:
    return list(body) == ["error"] and isinstance(body["error"], str) and bool(body["error"])


@pytest.fixture(scope="module", params=["postgres", "sqlite"])
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> Iterator[Target]:
    server = postgres_server if request.param == "postgres" else None
    with opened_target(tmp_path_factory.mktemp("data"), server, keep=_keep, is_said_well=_is_said_well) as target:
        yield target


OPERATIONS = operations_of(document_of("mem9", "/v1alpha2"))
ROUTES = sorted({(operation.method.upper(), operation.path) for operation in OPERATIONS})


@pytest.mark.parametrize(("operation", "mode"), aims_at(OPERATIONS))
def test_generated_requests_are_answered_as_documented(target: Target, operation: Any, mode: GenerationMode) -> None:
    answer_generated(target, operation, mode, id_name="id")


CONTENT_TYPES = st.sampled_from(
    [b"application/json", b"multipart/form-data; boundary=cut", b"multipart/form-data", b"text/plain", b"\xff", b""]
)
PARAMETERS = st.sampled_from(
    [
        b"q",
        b"limit",
        b"offset",
        b"tags",
        b"state",
        b"memory_type",
        b"session_id",
        b"limit_per_session",
        b"min_confidence",
    ]
)
JSON_LIKE = json_like(b"content", b"messages", b"ids", b"role")
FORM_LIKE = st.lists(
    st.sampled_from(
        [
            b"--cut",
            b"--cut--",
            b"\r\n",
            b"\r\n\r\n",
            b"Content-Disposition: form-data; ",
            b'name="file"; ',
            b"x",
            b"\xff",
            b'filename="a.json"',
            b'name="file_type"',
            b"memory",
            b"session",
            b'[{"content":"a"}]',
            b"\x00",
        ]
    ),
    max_size=30,
).map(b"".join)


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=str)
def test_raw_bytes_are_refused_or_understood(target: Target, method: str, path: str) -> None:
    send_raw_bytes(target, method, path, "id", PARAMETERS, CONTENT_TYPES, st.one_of(JSON_LIKE, FORM_LIKE))
