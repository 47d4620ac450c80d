"""A small dialect of its own kind, defined here, served by the kit over an engine of three parts."""

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, cast

import httpx
import pytest
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp

from polymem.domain.model import Call, KeyId, Plan, Principal, Scope, SpaceId, TenantId, UserId
from polymem.engine.engine import Engine
from polymem.engine.requests import Health, RateState
from polymem.errors import DailyLimitReached, ErrorCode, Forbidden, RateLimited, Unauthenticated
from polymem.http.app import serve
from polymem.http.kit import (
    FAULT_CODES,
    Dialect,
    DialectContext,
    EdgeCode,
    ErrorRule,
    Fault,
    FaultCode,
    KitRequest,
    count_query,
    json_response,
    received_form,
)
from polymem.http.settings import HttpSettings
from polymem.ports.queue import JobCounts

SECRET = "pm_0123456789abcdef0123456789"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class StillClock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.moment = NOW
        self.seconds = 0.0

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)
        self.seconds += seconds


class CountingIds:
    """Ids that count."""

    def __init__(self) -> None:
        self.count = 0

    def new_id(self) -> str:
        self.count += 1
        return f"id-{self.count}"

    def new_secret(self) -> str:
        return f"secret-{self.new_id()}"

    def new_uuid4(self) -> str:
        return f"uuid-{self.new_id()}"


PLAN = Plan(name="small", requests_per_minute=60, burst=3, max_memories=None)
PRINCIPAL = Principal(
    tenant_id=TenantId("tenant"),
    user_id=UserId("user"),
    key_id=KeyId("key"),
    personal_space_id=SpaceId("space"),
    scopes=frozenset(Scope),
    allowed_spaces=None,
    plan=PLAN,
)


class PartKeys:
    async def authenticate(self, secret: str, *, agent_id: str | None = None) -> Principal:
        if secret == "inactive-inactive":
            raise Forbidden("tenant is inactive")
        if secret != SECRET:
            raise Unauthenticated("invalid API key")
        return replace(PRINCIPAL, agent_id=agent_id)


@dataclass
class PartLimits:
    left: int = 1000
    queries_left: int = 1000
    strangers: list[str] = field(default_factory=list)

    async def take(self, _principal: Principal) -> RateState:
        if self.left == 0:
            raise RateLimited(1.2)
        self.left -= 1
        return RateState(limit=60, remaining=self.left, reset_seconds=0.5)

    async def take_anonymous(self, address: str) -> RateState:
        self.strangers.append(address)
        return RateState(limit=1, remaining=0, reset_seconds=1)

    def anonymous_state(self, address: str | None) -> RateState:
        counted = self.strangers.count(address or "")
        return RateState(limit=120, remaining=60 - counted, reset_seconds=counted / 2)

    async def take_query(self, principal: Principal) -> None:
        assert principal.tenant_id == PRINCIPAL.tenant_id
        if self.queries_left == 0:
            raise DailyLimitReached(3, 4321.0001)
        self.queries_left -= 1


@dataclass
class PartEngine:
    """What the kit itself asks of an engine."""

    keys: PartKeys = field(default_factory=PartKeys)
    limits: PartLimits = field(default_factory=PartLimits)
    health_now: Health = field(
        default_factory=lambda: Health(is_serving=True, degraded=(), jobs=JobCounts(by_kind_and_state={}))
    )
    health_error: Exception | None = None

    async def health(self) -> Health:
        if self.health_error is not None:
            raise self.health_error
        return self.health_now


class EchoBody(BaseModel):
    model_config = ConfigDict(strict=True)

    text: Annotated[str, Field(max_length=5000)]
    count: Annotated[int, Field(ge=1, le=9)] = 1
    names: Annotated[list[str], Field(max_length=2)] = []
    extra: Any = None
    when: date | None = None


class PageQuery(BaseModel):
    page: Annotated[int, Field(ge=1)] = 1


@dataclass
class Seen:
    """What the handlers saw, and what they shall fail with."""

    calls: list[Call] = field(default_factory=list)
    bodies: list[object] = field(default_factory=list)
    error: Exception | None = None
    files: list[bytes] = field(default_factory=list)
    context: DialectContext | None = None


def _envelope(fault: Fault) -> Any:
    return {
        "failure": {
            "kind": fault.code.value,
            "text": fault.message,
            "request": fault.request_id,
            "again": fault.is_retryable,
            "where": [{"at": list(each.path), "text": each.message} for each in fault.violations],
        }
    }


_STATUSES: dict[FaultCode, int] = {
    ErrorCode.MISSING_KEY: 401,
    ErrorCode.INVALID_KEY: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    EdgeCode.ROUTE_NOT_FOUND: 404,
    EdgeCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.TOO_LARGE: 413,
    EdgeCode.UNSUPPORTED_MEDIA_TYPE: 415,
    EdgeCode.SCHEMA_MISMATCH: 422,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.QUERIES_EXHAUSTED: 429,
    ErrorCode.INTERNAL: 500,
    ErrorCode.STORAGE_UNAVAILABLE: 503,
}


@dataclass(frozen=True)
class Parrot:
    """The handlers."""

    seen: Seen

    async def echo(self, request: KitRequest, body: EchoBody) -> Response:
        self.seen.calls.append(request.call())
        if self.seen.error is not None:
            raise self.seen.error
        self.seen.bodies.append(body)
        return json_response({"said": body.text})

    async def maybe(self, request: KitRequest, body: EchoBody | None = None) -> Response:
        return json_response({"said": body.text if body else None, "agent": request.principal.agent_id})

    async def look(self, _request: KitRequest, query: Annotated[PageQuery, Query()], name: str) -> Response:
        return json_response({"name": name, "page": query.page})

    async def ask(self, request: KitRequest) -> Response:
        await count_query(request)
        return json_response({"answer": 42})

    async def hello(self, _request: KitRequest) -> Response:
        return json_response({"hello": "you"})

    async def nobody(self, request: KitRequest) -> Response:
        return json_response({"who": request.principal.user_id})

    async def upload(self, request: KitRequest) -> Response:
        async with received_form(request, file_field="file", limit=3_000_000) as form:
            self.seen.calls.append(request.call_with(form.digest))
            if form.file is not None:
                self.seen.files.append(b"".join([piece async for piece in form.file.chunks()]))
            told = {"file": form.file.name, "size": form.file.size} if form.file else {"file": None, "size": 0}
            return json_response({**told, **form.fields})

    async def half(self, _request: KitRequest) -> Response:
        async def content() -> AsyncIterator[bytes]:
            yield b"first"
            raise RuntimeError("secret detail")

        return StreamingResponse(content())

    async def by_path(self, request: KitRequest) -> Response:
        return json_response({"tenant": request.principal.tenant_id})

    def rows(self) -> list[tuple[str, str, Callable[..., Any]]]:
        return [
            ("POST", "/parrot/echo", self.echo),
            ("POST", "/parrot/maybe", self.maybe),
            ("GET", "/parrot/look/{name}", self.look),
            ("GET", "/parrot/ask", self.ask),
            ("GET", "/parrot/hello", self.hello),
            ("GET", "/parrot/nobody", self.nobody),
            ("POST", "/parrot/upload", self.upload),
            ("GET", "/parrot/half", self.half),
            ("GET", "/parrot/with/{key}/tenant", self.by_path),
            ("POST", "/parrot/small", self.echo),
        ]


def parrot(seen: Seen) -> Dialect:
    """A dialect with another error shape than any real one."""

    def add_routes(router: APIRouter, context: DialectContext) -> None:
        seen.context = context
        for method, path, handler in Parrot(seen).rows():
            router.add_api_route(path, handler, methods=[method], response_model=None)

    return Dialect(
        name="parrot",
        title="Parrot",
        description="Says what you said.",
        paths=("/parrot",),
        docs_base="/parrot",
        add_routes=add_routes,
        errors={code: ErrorRule(_STATUSES.get(code, 400), _envelope) for code in FAULT_CODES},
        open_routes=frozenset({("GET", "/parrot/hello"), ("GET", "/parrot/nobody")}),
        body_limit=100_000,
        body_limits={"/parrot/small": 20},
        key_in_path=re.compile(r"/parrot/with/(?P<key>[^/]+)"),
        agent_of=lambda headers: headers.get("x-parrot-agent"),
        headers={"X-Parrot": "yes"},
    )


def make_settings(clock: StillClock, **given: Any) -> HttpSettings:
    return HttpSettings(version="1.2.3", started_at=NOW, clock=clock, ids=CountingIds(), mounts={}, **given)


@dataclass
class Cage:
    """The parrot served, and what stands around it."""

    app: ASGIApp
    dialect: Dialect
    seen: Seen
    engine: PartEngine
    clock: StillClock

    def client(self, address: str = "127.0.0.1", **headers: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=cast("Any", self.app), client=(address, 4321))
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)

    def keyed(self) -> httpx.AsyncClient:
        return self.client(**{"X-API-Key": SECRET})


@pytest.fixture
def make_cage() -> Callable[..., Cage]:
    def make(
        mount: str = "", times: int = 1, kind: Callable[[Dialect], Dialect] = lambda dialect: dialect, **given: Any
    ) -> Cage:
        seen, engine, clock = Seen(), PartEngine(), StillClock()
        dialect = kind(parrot(seen))
        app = serve(cast("Engine", engine), make_settings(clock, **given), [(dialect, mount)] * times)
        return Cage(app, dialect, seen, engine, clock)

    return make


@pytest.fixture
def cage(make_cage: Callable[..., Cage]) -> Cage:
    return make_cage()
