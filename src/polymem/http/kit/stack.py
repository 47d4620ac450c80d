"""The stack around each dialect's own application: what every request and every answer goes through."""

import logging
from collections.abc import Callable
from typing import cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polymem.errors import InvalidInput, PolymemError
from polymem.http.auth import redacted_path
from polymem.http.kit.dialect import Dialect, DialectContext
from polymem.http.kit.docs import add_docs
from polymem.http.kit.faults import EdgeCode, EdgeError, Fault, fault_of, unknown_fault
from polymem.http.kit.requests import SCOPE_KEY, KitRoute, RequestState, limited_address, state_of
from polymem.http.kit.responses import fault_response
from polymem.http.kit.validation import schema_mismatch
from polymem.http.limits import check_target, rate_headers, sane_request_id

_LOG = logging.getLogger("polymem.http")
_ACCESS = logging.getLogger("polymem.http.access")
_NOT_FOUND = 404
_METHOD_NOT_ALLOWED = 405
_CLIENT_CLOSED_REQUEST = 499
_SERVER_ERROR = 500


def dialect_app(dialect: Dialect, context: DialectContext, *, mount: str = "") -> ASGIApp:
    """The dialect as an ASGI application for its own paths, `mount` already taken off them."""
    app = FastAPI(
        title=dialect.title,
        description=dialect.description,
        version=context.settings.version,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,
        servers=[{"url": mount or "/"}],
    )
    app.router.route_class = KitRoute
    dialect.add_routes(app.router, context)
    add_docs(app, dialect)
    app.add_exception_handler(PolymemError, _answer_error)
    app.add_exception_handler(EdgeError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_schema_mismatch)
    app.add_exception_handler(HTTPException, _answer_framework_error)
    app.add_exception_handler(Exception, _answer_unknown)
    return DialectStack(dialect, context, app)


def _answer(request: Request, make: Callable[[str], Fault]) -> Response:
    state = state_of(request)
    return fault_response(state.dialect, make(state.request_id))


async def _answer_error(request: Request, error: Exception) -> Response:
    foreseen = cast("PolymemError | EdgeError", error)
    return _answer(request, lambda request_id: fault_of(foreseen, request_id))


async def _answer_schema_mismatch(request: Request, error: Exception) -> Response:
    mismatch = schema_mismatch(cast("RequestValidationError", error).errors())
    return _answer(request, lambda request_id: fault_of(mismatch, request_id))


async def _answer_framework_error(request: Request, error: Exception) -> Response:
    found = cast("HTTPException", error)
    edge: EdgeError | PolymemError
    if found.status_code == _NOT_FOUND:
        edge = EdgeError(EdgeCode.ROUTE_NOT_FOUND, "not found")
    elif found.status_code == _METHOD_NOT_ALLOWED:
        edge = EdgeError(EdgeCode.METHOD_NOT_ALLOWED, "method not allowed", headers={"Allow": _allowed(request)})
    else:
        edge = InvalidInput("body", str(found.detail))
    return _answer(request, lambda request_id: fault_of(edge, request_id))


def _allowed(request: Request) -> str:
    """The methods that the request's path has, over all routes of that path."""
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return ", ".join(sorted(methods))


async def _answer_unknown(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=_CLIENT_CLOSED_REQUEST)  # nobody reads it; it keeps the log from telling a failure
    return _answer(request, unknown_fault)


class _Outgoing:
    """What is sent to the client: every head gets the headers the kit owes, status and start are remembered."""

    def __init__(self, scope: Scope, send: Send, state: RequestState, *, has_body: bool) -> None:
        self._scope = scope
        self._send = send
        self._state = state
        self._has_body = has_body
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        """The message goes out; a response's head with the request id, the rate state and the dialect's headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._complete(MutableHeaders(raw=message["headers"]))
        elif not self._has_body:
            message = {**message, "body": b""}
        await self._send(message)

    def _complete(self, headers: MutableHeaders) -> None:
        state = self._state
        headers["X-Request-Id"] = state.request_id
        headers.setdefault("X-Content-Type-Options", "nosniff")
        headers.setdefault("Referrer-Policy", "no-referrer")
        headers.setdefault("Cache-Control", "no-store")
        for name, value in state.dialect.headers.items():
            headers.setdefault(name, value)
        rate = state.rate
        if rate is None and state.dialect.always_tells_rate:
            rate = state.context.engine.limits.anonymous_state(limited_address(self._scope))
        if rate is not None:
            now = state.context.settings.clock.now().timestamp()
            for name, value in rate_headers(rate, now).items():
                headers[name] = value


class DialectStack:
    """One dialect behind request ids, target limits, error shapes, rate headers, metrics and the access log."""

    def __init__(self, dialect: Dialect, context: DialectContext, app: ASGIApp) -> None:
        self.dialect = dialect
        self.app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The request is answered, in the dialect's shape whatever happens, and counted."""
        clock = self._context.settings.clock
        is_body_wanted = scope["method"] != "HEAD"
        request_id = sane_request_id(Headers(scope=scope)) or self._context.settings.ids.new_id()
        state = RequestState(dialect=self.dialect, context=self._context, request_id=request_id)
        scope = _normal(scope, state)
        outgoing = _Outgoing(scope, send, state, has_body=is_body_wanted)
        started = clock.monotonic()
        try:
            check_target(scope)
            await self.app(scope, receive, outgoing.send)
        except ClientDisconnect:
            _LOG.debug("client went away", extra={"request_id": request_id})
        except PolymemError as error:
            await fault_response(self.dialect, fault_of(error, request_id))(scope, receive, outgoing.send)
        except Exception:  # noqa: BLE001 - the outer edge: logged here, once
            _LOG.exception("request failed", extra={"request_id": request_id, "route": state.route})
            if outgoing.status is None:
                await fault_response(self.dialect, unknown_fault(request_id))(scope, receive, outgoing.send)
        finally:
            self._finish(scope, state, outgoing.status or _SERVER_ERROR, clock.monotonic() - started)

    def _finish(self, scope: Scope, state: RequestState, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _KNOWN_METHODS else "OTHER"
        self._context.metrics.request_answered(self.dialect.name, method, state.route, status, seconds)
        if not _ACCESS.isEnabledFor(logging.INFO):
            return
        client = scope.get("client")
        _ACCESS.info(
            "request",
            extra={
                "request_id": state.request_id,
                "dialect": self.dialect.name,
                "method": method,
                "path": redacted_path(scope["path"], self.dialect.key_in_path),
                "route": state.route,
                "status": status,
                "duration_ms": round(seconds * 1000, 2),
                "client": client[0] if client else None,
                "tenant_id": state.principal.tenant_id if state.principal else None,
                "key_id": state.principal.key_id if state.principal else None,
            },
        )


_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _normal(scope: Scope, state: RequestState) -> Scope:
    """Both spellings of a path are one route, with no redirect; a HEAD is a GET whose body is not sent."""
    path: str = scope["path"]
    if len(path) > 1 and path.endswith("/"):
        path = path[:-1]
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    return {**scope, "path": path, "method": method, SCOPE_KEY: state}
