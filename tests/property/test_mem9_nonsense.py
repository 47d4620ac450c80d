"""Nonsense at every route of mem9: never a 500, always mem9's error shape, never a partial write.

Two sources: schemathesis, from our own OpenAPI document (requests that fit it, and requests that do not), and raw
bytes in every part of a request.
"""

import asyncio
import importlib.util
import json
import string
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote_from_bytes, unquote, urlsplit

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from polymem.domain.model import JobKind
from polymem.http.app import build_app
from polymem.http.settings import HttpSettings
from postgres import PostgresServer


def _shared(path: Path) -> Any:
    """The module of that file: the dialects' tests and these serve the same house."""
    spec = importlib.util.spec_from_file_location("dialect_serving", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


serving = _shared(Path(__file__).parent.parent / "dialects" / "conftest.py")
EXAMPLES = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


async def ask(  # noqa: PLR0917 - the parts of a request, in their order
    app: Any, method: str, raw_path: bytes, query: bytes, headers: list[tuple[bytes, bytes]], body: bytes
) -> Answer:
    """What the application answers, called as the web server calls it."""
    sent: list[dict[str, Any]] = []
    chunks = iter([{"type": "http.request", "body": body}])

    async def receive() -> dict[str, Any]:
        for chunk in chunks:
            return chunk
        return await asyncio.Event().wait()  # type: ignore[return-value] # never comes

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": unquote(raw_path.decode("ascii")),
        "raw_path": raw_path,
        "query_string": query,
        "headers": headers,
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8765),
    }
    await asyncio.wait_for(app(scope, receive, send), 30)
    told = {name.decode().lower(): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent[1:]))


@dataclass(frozen=True)
class Target:
    """A served engine with one key, and one memory to aim at."""

    runner: asyncio.Runner
    house: Any
    app: Any
    key: str
    principal: Any
    memory_id: str

    def counts(self) -> tuple[int, int]:
        """How many memories and import tasks there are."""

        async def count() -> tuple[int, int]:
            store = self.house.engine.storage.tenant(self.principal.tenant_id)
            spaces = frozenset({self.principal.personal_space_id})
            jobs = await store.list_jobs(frozenset({JobKind.IMPORT}), spaces, limit=1000)
            return await store.count_memories(), len(jobs)

        return self.runner.run(count())

    def ask(
        self, method: str, raw_path: bytes, query: bytes, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> Answer:
        """What is answered; checked against what holds for every answer."""
        self.house.clock.advance(1)
        before = self.counts()
        answer = self.runner.run(ask(self.app, method, raw_path, query, headers, body))
        assert answer.status < 500, (answer, body)
        assert answer.headers["x-request-id"]
        if answer.status >= 400:
            assert answer.headers["content-type"] == "application/json", answer
            error = json.loads(answer.body)
            assert list(error) == ["error"]
            assert isinstance(error["error"], str)
            assert error["error"]
            assert self.counts() == before, answer
        return answer


@pytest.fixture(scope="module", params=["postgres", "sqlite"])
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> Iterator[Target]:
    database = postgres_server.new_database() if request.param == "postgres" else None
    with asyncio.Runner() as runner:
        opened = serving.open_house(tmp_path_factory.mktemp("data"), database)
        house = runner.run(opened.__aenter__())
        try:
            yield runner.run(_aim(runner, house))
        finally:
            runner.run(opened.__aexit__(None, None, None))


async def _aim(runner: asyncio.Runner, house: Any) -> Target:
    app = house.app()
    async with house.client(app) as client:
        key = (await client.post("/v1alpha1/mem9s")).json()["id"]
        answer = await client.post("/v1alpha2/mem9s/memories", json={"content": "a"}, headers={"X-API-Key": key})
    return Target(runner, house, app, key, await house.engine.keys.authenticate(key), answer.json()["id"])


def _document() -> dict[str, Any]:
    """The OpenAPI document; it needs no engine."""
    clock = serving.HandMovedClock()
    app = build_app(
        cast("Any", None), HttpSettings(version="1", started_at=clock.now(), clock=clock, ids=serving.RandomIds())
    )
    answer = asyncio.run(ask(app, "GET", b"/v1alpha2/openapi.json", b"", [], b""))
    document: dict[str, Any] = json.loads(answer.body)
    return document


DOCUMENT = _document()
OPERATIONS = [cast("Any", result).ok() for result in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()]
ROUTES = sorted({(operation.method.upper(), operation.path) for operation in OPERATIONS})


def _has_input(operation: Any) -> bool:
    return any((operation.path_parameters, operation.headers, operation.query, operation.body))


AIMS = [
    pytest.param(operation, mode, id=f"{operation.label} {mode.value}")
    for operation in OPERATIONS
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or _has_input(operation)
]


@pytest.mark.parametrize(("operation", "mode"), AIMS)
def test_generated_requests_are_answered_as_documented(target: Target, operation: Any, mode: GenerationMode) -> None:
    @EXAMPLES
    @given(operation.as_strategy(generation_mode=mode), st.booleans())
    def answer_one(case: Any, is_aimed: bool) -> None:  # noqa: FBT001 - drawn
        if "tenantID" in case.path_parameters:
            case.path_parameters["tenantID"] = target.key
        if is_aimed and "id" in case.path_parameters:
            case.path_parameters["id"] = target.memory_id
        prepared = requests.Request(**case.as_transport_kwargs(base_url="http://127.0.0.1")).prepare()
        parts = urlsplit(cast("str", prepared.url))
        headers = {name.lower(): str(value) for name, value in prepared.headers.items()} | {"x-api-key": target.key}
        raw = [
            (name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in headers.items()
        ]
        given_body = prepared.body or b""
        body = given_body.encode() if isinstance(given_body, str) else cast("bytes", given_body)
        answer = target.ask(
            cast("str", prepared.method), parts.path.encode("ascii"), parts.query.encode("ascii"), raw, body
        )
        response = httpx.Response(
            answer.status, headers=answer.headers, content=answer.body, request=httpx.Request(case.method, "http://x")
        )
        response.elapsed = timedelta(0)
        checks = [status_code_conformance, content_type_conformance, response_schema_conformance]
        if answer.status < 400:
            case.validate_response(response, checks=checks)

    answer_one()


VISIBLE = st.text(string.printable.strip() + "äöü", max_size=60).map(lambda text: text.encode("latin-1"))
ENCODED = st.binary(max_size=40).map(lambda raw: quote_from_bytes(raw, safe="").encode())
CONTENT_TYPES = st.sampled_from(
    [b"application/json", b"multipart/form-data; boundary=cut", b"multipart/form-data", b"text/plain", b"\xff", b""]
)
HEADER_NAMES = st.sampled_from(
    [
        b"x-mnemo-agent-id",
        b"if-match",
        b"idempotency-key",
        b"x-request-id",
        b"content-length",
        b"content-encoding",
        b"range",
    ]
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
JSON_LIKE = st.lists(
    st.sampled_from(
        [
            b'"content"',
            b'"messages"',
            b'"ids"',
            b'"role"',
            b":",
            b",",
            b"{",
            b"}",
            b"[",
            b"]",
            b'"x"',
            b"1e999",
            b"NaN",
            b"9" * 30,
            b'"\\ud800"',
            b'"\\u0000"',
            b"true",
            b"null",
            b"\xff",
            b"\x00",
            b" ",
        ]
    ),
    max_size=20,
).map(b"".join)
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
    @EXAMPLES
    @given(
        st.data(),
        st.lists(st.tuples(PARAMETERS, ENCODED), max_size=4),
        st.lists(st.tuples(HEADER_NAMES, VISIBLE), max_size=3),
        CONTENT_TYPES,
        st.one_of(st.binary(max_size=200), JSON_LIKE, FORM_LIKE),
    )
    def answer_one(
        data: st.DataObject,
        parameters: list[tuple[bytes, bytes]],
        headers: list[tuple[bytes, bytes]],
        content_type: bytes,
        body: bytes,
    ) -> None:
        last = data.draw(st.one_of(ENCODED, st.just(target.memory_id.encode())))
        raw_path = path.replace("{tenantID}", target.key).encode().replace(b"{id}", last)
        query = b"&".join(name + b"=" + value for name, value in parameters)
        key = (b"x-api-key", target.key.encode())
        sent_method = data.draw(st.sampled_from([method, method, method, "PATCH", "BREW"]))
        target.ask(sent_method, raw_path, query, [key, (b"content-type", content_type), *headers], body)

    answer_one()
