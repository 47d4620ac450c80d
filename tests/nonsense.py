"""What the tests of nonsense at a dialect's routes share: a target to aim at, requests of two sources.

The sources: schemathesis, from the dialect's own OpenAPI document (requests that fit it, and requests that do not),
and raw bytes in every part of a request.
"""

import asyncio
import importlib.util
import json
import string
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
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
from polymem.engine.limits import Limits
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


serving = _shared(Path(__file__).parent / "dialects" / "conftest.py")
EXAMPLES = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)
ANSWER_SECONDS = 30


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
    await asyncio.wait_for(app(scope, receive, send), ANSWER_SECONDS)
    told = {name.decode().lower(): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent[1:]))


@dataclass(frozen=True)
class Target:
    """A served engine with one key, and one memory to aim at; `is_said_well` checks the body of a refusal.

    `runs_jobs`: a worker runs while a request is answered.
    """

    runner: asyncio.Runner
    house: Any
    app: Any
    key: str
    principal: Any
    memory_id: str
    is_said_well: Callable[[Any], bool]
    runs_jobs: bool

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
        asking = ask(self.app, method, raw_path, query, headers, body)
        answer = self.runner.run(self.house.beside_worker(asking) if self.runs_jobs else asking)
        assert answer.status < 500, (answer, body)
        assert answer.headers["x-request-id"]
        if answer.status >= 400:
            assert answer.headers["content-type"] == "application/json", answer
            assert self.is_said_well(json.loads(answer.body)), answer
            assert self.counts() == before, answer
        return cast("Answer", answer)


@contextmanager
def opened_target(
    directory: Path,
    server: PostgresServer | None,
    *,
    keep: Callable[[httpx.AsyncClient], Awaitable[str]],
    is_said_well: Callable[[Any], bool],
    runs_jobs: bool = False,
) -> Iterator[Target]:
    """A target over a new data directory, or a new database of the server; `keep` writes the memory to aim at."""
    database = server.new_database() if server is not None else None
    with asyncio.Runner() as runner:
        opened = serving.open_house(directory, database)
        house = runner.run(opened.__aenter__())

        async def aim() -> Target:
            app = house.app()
            key = await serving.provision(house)
            async with house.client(app, {"X-API-Key": key}) as client:
                memory_id = await keep(client)
            principal = await house.engine.keys.authenticate(key)
            return Target(runner, house, app, key, principal, memory_id, is_said_well, runs_jobs)

        try:
            yield runner.run(aim())
        finally:
            runner.run(opened.__aexit__(None, None, None))


def document_of(name: str, docs_base: str) -> dict[str, Any]:
    """The OpenAPI document of a dialect; of the engine it needs no more than what tells the rate."""
    clock = serving.HandMovedClock()
    nowhere: Any = None
    engine: Any = SimpleNamespace(limits=Limits(nowhere, nowhere, clock))
    told = HttpSettings(version="1", started_at=clock.now(), clock=clock, ids=serving.RandomIds(), mounts={name: ""})
    app = build_app(engine, told)
    answer = asyncio.run(ask(app, "GET", f"{docs_base}/openapi.json".encode(), b"", [], b""))
    document: dict[str, Any] = json.loads(answer.body)
    return document


def operations_of(document: dict[str, Any]) -> list[Any]:
    """What the document says can be asked."""
    return [cast("Any", result).ok() for result in schemathesis.openapi.from_dict(document).get_all_operations()]


def aims_at(operations: list[Any]) -> list[Any]:
    """Every operation with requests that fit its document and, if it takes anything, with such as do not."""
    return [
        pytest.param(operation, mode, id=f"{operation.label} {mode.value}")
        for operation in operations
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or _has_input(operation)
    ]


def _has_input(operation: Any) -> bool:
    return any((operation.path_parameters, operation.headers, operation.query, operation.body))


def answer_generated(target: Target, operation: Any, mode: GenerationMode, *, id_name: str) -> None:
    """Generated requests of an operation are answered as it is documented."""

    @EXAMPLES
    @given(operation.as_strategy(generation_mode=mode), st.booleans())
    def answer_one(case: Any, is_aimed: bool) -> None:  # noqa: FBT001 - drawn
        if "tenantID" in case.path_parameters:
            case.path_parameters["tenantID"] = target.key
        if is_aimed and id_name in case.path_parameters:
            case.path_parameters[id_name] = target.memory_id
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
_JSON_MARKS = [
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


def json_like(*names: bytes) -> st.SearchStrategy[bytes]:
    """Bytes that look like JSON objects with these names, and seldom are."""
    words = [b'"' + name + b'"' for name in names] + _JSON_MARKS
    return st.lists(st.sampled_from(words), max_size=20).map(b"".join)


def send_raw_bytes(  # noqa: PLR0917 - the parts of a request, in their order
    target: Target,
    method: str,
    path: str,
    id_name: str,
    parameters: st.SearchStrategy[bytes],
    content_types: st.SearchStrategy[bytes],
    bodies: st.SearchStrategy[bytes],
) -> None:
    """Raw bytes in every part of requests to a route are refused or understood."""

    @EXAMPLES
    @given(
        st.data(),
        st.lists(st.tuples(parameters, ENCODED), max_size=4),
        st.lists(st.tuples(HEADER_NAMES, VISIBLE), max_size=3),
        content_types,
        st.one_of(st.binary(max_size=200), bodies),
    )
    def answer_one(
        data: st.DataObject,
        parameters: list[tuple[bytes, bytes]],
        headers: list[tuple[bytes, bytes]],
        content_type: bytes,
        body: bytes,
    ) -> None:
        last = data.draw(st.one_of(ENCODED, st.just(target.memory_id.encode())))
        raw_path = path.replace("{tenantID}", target.key).encode().replace(b"{%b}" % id_name.encode(), last)
        query = b"&".join(name + b"=" + value for name, value in parameters)
        key = (b"x-api-key", target.key.encode())
        sent_method = data.draw(st.sampled_from([method, method, method, "PATCH", "BREW"]))
        target.ask(sent_method, raw_path, query, [key, (b"content-type", content_type), *headers], body)

    answer_one()
