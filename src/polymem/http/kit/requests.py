"""One request on its way to a handler: admitted in this order: route, key, rate, media type, size, JSON."""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from email.message import Message
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Scope

from polymem.domain.model import Call, IdempotencyClaim, JsonValue, Principal
from polymem.engine.requests import RateState
from polymem.errors import Forbidden, RateLimited, Unauthenticated
from polymem.http.auth import is_from_loopback
from polymem.http.kit.binding import Binding
from polymem.http.kit.dialect import Dialect, DialectContext
from polymem.http.kit.faults import EdgeCode, EdgeError
from polymem.http.kit.strict_json import parse_json
from polymem.http.limits import IDEMPOTENCY_HEADER, idempotency_claim, read_body

SCOPE_KEY = "polymem.request"
_PLAIN_JSON = "application/json"
_INLINE_JSON_BYTES = 256 * 1024
_REPEATABLE_BY_NATURE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(slots=True)
class RequestState:
    """What the edge learns about a request while it is served; one per request, never shared."""

    dialect: Dialect
    context: DialectContext
    request_id: str
    route: str = "unmatched"
    principal: Principal | None = None
    rate: RateState | None = None


def state_of(request: Request) -> RequestState:
    """The state the kit keeps for this request."""
    state: RequestState = request.scope[SCOPE_KEY]
    return state


class KitRequest(Request):
    """A request that has been admitted."""

    kit_body: bytes = b""
    kit_json: JsonValue = None

    async def body(self) -> bytes:
        """The body that was read, whole and within its limit; empty for routes that take no JSON."""
        return self.kit_body

    async def json(self) -> Any:
        """The value that was parsed from the body."""
        return self.kit_json

    @property
    def request_id(self) -> str:
        """The id of this request, as answered in `X-Request-Id`."""
        return state_of(self).request_id

    @property
    def principal(self) -> Principal:
        """Who calls; only on routes that need a key."""
        principal = state_of(self).principal
        if principal is None:
            message = f"{state_of(self).route} is open and has no principal"
            raise LookupError(message)
        return principal

    def call(self) -> Call:
        """The engine's view of this request: who, which one, and what makes a retry harmless."""
        return self.call_with(lambda: hashlib.sha256(self.kit_body).digest())

    def call_with(self, body_digest: Callable[[], bytes]) -> Call:
        """As `call`, for a handler that reads the body itself; the digest of it is asked for when it is needed."""
        claim: IdempotencyClaim | None = None
        if self.method not in _REPEATABLE_BY_NATURE and IDEMPOTENCY_HEADER in self.headers:
            claim = idempotency_claim(self, body_digest())
        return Call(principal=self.principal, request_id=self.request_id, idempotency=claim)


def media_type(request: Request) -> tuple[str, str]:
    """The body's media type and its charset, both in lower case, "" where not given."""
    header = request.headers.get("content-type", "")
    if not header:
        return "", ""
    if header == _PLAIN_JSON:
        return header, ""
    message = Message()
    message["content-type"] = header
    return message.get_content_type(), str(message.get_content_charset() or "")


class KitRoute(APIRoute):
    """A route whose handler is reached only by requests that the kit admits; see `Binding` for what it may take."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler behind the kit's checks."""
        binding = Binding(self.endpoint, frozenset(self.param_convertors), KitRequest)

        async def admitted(request: Request) -> Response:
            kit_request = KitRequest(request.scope, request.receive)
            state = state_of(kit_request)
            state.route = self.path_format
            if (request.method, self.path_format) not in state.dialect.open_routes:
                await _authenticate(kit_request, state)
            if self.body_field is not None:
                await _take_json(kit_request, state, is_required=self.body_field.field_info.is_required())
            if len(kit_request.kit_body) > _INLINE_JSON_BYTES:
                arguments = await asyncio.to_thread(binding.arguments, kit_request, kit_request.kit_json)
            else:
                arguments = binding.arguments(kit_request, kit_request.kit_json)
            return await binding.handler(**arguments)

        return admitted


async def _authenticate(request: KitRequest, state: RequestState) -> None:
    """The principal is known and one request is counted; raises Unauthenticated, Forbidden or RateLimited."""
    dialect, engine = state.dialect, state.context.engine
    in_path = _key_in_path(request, dialect)
    secret = in_path or dialect.key_of(request.headers)
    if secret is None:
        raise Unauthenticated("missing API key", key_is_missing=True)
    agent_id = dialect.agent_of(request.headers)
    try:
        principal = await engine.keys.authenticate(secret, agent_id=agent_id)
    except (Unauthenticated, Forbidden) as error:
        await count_stranger(request, state.context)
        if in_path is None:
            raise
        raise dialect.path_key_error(error) from error
    state.principal = principal
    try:
        state.rate = await engine.limits.take(principal)
    except RateLimited as error:
        state.rate = RateState(
            limit=principal.plan.requests_per_minute, remaining=0, reset_seconds=error.retry_after_seconds
        )
        raise


async def count_stranger(request: Request, context: DialectContext) -> None:
    """One request without a good key is counted for its address, unless it comes from this machine.

    Raises `RateLimited`.
    """
    address = limited_address(request.scope)
    if address is not None:
        await context.engine.limits.take_anonymous(address)


def limited_address(scope: Scope) -> str | None:
    """The address by which a caller without a good key is limited; None for callers on this machine."""
    if is_from_loopback(scope):
        return None
    client = scope.get("client")
    return client[0] if client else ""


async def count_query(request: KitRequest) -> None:
    """One query is counted for the caller's tenant today. Raises `DailyLimitReached` beyond its plan.

    For a handler, once it knows that the request is one that it can answer.
    """
    await state_of(request).context.engine.limits.take_query(request.principal)


def _key_in_path(request: KitRequest, dialect: Dialect) -> str | None:
    if dialect.key_in_path is None:
        return None
    match = dialect.key_in_path.match(request.scope["path"])
    return match.group("key") if match else None


async def _take_json(request: KitRequest, state: RequestState, *, is_required: bool) -> None:
    """The body is read and parsed; raises for another media type, a body too large, or one that is not JSON."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise EdgeError(EdgeCode.UNSUPPORTED_MEDIA_TYPE, "content-encoding: must be identity")
    kind, charset = media_type(request)
    is_json = kind in {"", _PLAIN_JSON} or (kind.startswith("application/") and kind.endswith("+json"))
    if not is_json:
        raise EdgeError(EdgeCode.UNSUPPORTED_MEDIA_TYPE, "content-type: must be application/json")
    if charset not in {"", "utf-8", "utf8"}:
        raise EdgeError(EdgeCode.UNSUPPORTED_MEDIA_TYPE, "content-type: charset must be utf-8")
    limit = state.dialect.body_limits.get(state.route, state.dialect.body_limit)
    request.kit_body = await read_body(request, limit)
    if not request.kit_body:
        if is_required:
            raise EdgeError(EdgeCode.MALFORMED_BODY, "body is empty")
        return
    if len(request.kit_body) > _INLINE_JSON_BYTES:
        request.kit_json = await asyncio.to_thread(parse_json, request.kit_body)
    else:
        request.kit_json = parse_json(request.kit_body)
