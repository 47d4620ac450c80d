"""The whole HTTP server as one ASGI application: dialects by path, probes, metrics, an index."""

import importlib
import logging
import pkgutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from polymem.engine.engine import Engine
from polymem.errors import Forbidden, PolymemError, SettingsInvalid, Unauthenticated
from polymem.http import dialects
from polymem.http.auth import is_from_loopback, key_in_headers
from polymem.http.kit import Dialect, DialectContext, dialect_app, json_response
from polymem.http.limits import check_target, sane_request_id
from polymem.http.metrics import CONTENT_TYPE, Metrics
from polymem.http.settings import HttpSettings

_LOG = logging.getLogger("polymem.http")
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
_READABLE = frozenset({"GET", "HEAD"})
_EXPOSED_HEADERS = (
    "ETag",
    "Retry-After",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "X-Request-Id",
)


def known_dialects() -> tuple[str, ...]:
    """The names of all dialects that are built, sorted: each is one module or package of `polymem.http.dialects`."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(dialects.__path__)))


def load_dialect(name: str) -> Dialect:
    """The dialect of this name. Raises `SettingsInvalid` for a name that is not built."""
    if name not in known_dialects():
        raise SettingsInvalid(f"dialects: {name} is not one of {', '.join(known_dialects())}")
    dialect: Dialect = importlib.import_module(f"{dialects.__name__}.{name}").DIALECT
    return dialect


def build_app(engine: Engine, settings: HttpSettings) -> ASGIApp:
    """The server over an open engine, with the dialects that the settings name; see `serve`."""
    return serve(engine, settings, [(load_dialect(name), mount) for name, mount in settings.mounts.items()])


def serve(engine: Engine, settings: HttpSettings, served: Sequence[tuple[Dialect, str]]) -> ASGIApp:
    """The server over an open engine with these dialects, each at its mount ("" for the paths of its page).

    Closing the engine stays with who opened it. Raises `SettingsInvalid` when two dialects claim the same path.
    """
    context = DialectContext(engine=engine, settings=settings, metrics=Metrics())
    app: ASGIApp = Server(context, _mounts(context, served))
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_EXPOSED_HEADERS,
        )
    return app


@dataclass(frozen=True, slots=True)
class _Mount:
    """One dialect at its place: requests below `claim` are its, with `taken_off` removed from their path."""

    claim: str
    taken_off: str
    docs: str
    dialect: Dialect
    app: ASGIApp


def _mounts(context: DialectContext, served: Sequence[tuple[Dialect, str]]) -> tuple[_Mount, ...]:
    """All claims, the longest first."""
    found: dict[str, _Mount] = {}
    for dialect, place in served:
        mount = place.rstrip("/")
        app = dialect_app(dialect, context, mount=mount)
        for path in dialect.paths:
            claim = mount + path
            docs = f"{mount}{dialect.docs_base}/docs"
            if claim in found and path not in _SHARED:
                raise SettingsInvalid(f"dialects: {dialect.name} and {found[claim].dialect.name} both claim {claim}")
            found.setdefault(claim, _Mount(claim, mount, docs, dialect, app))
    return tuple(sorted(found.values(), key=lambda each: -len(each.claim)))


_SHARED = frozenset({"/healthz"})  # several pages have it, with the same answer: the first one serves it


class Server:
    """Sends each request to the dialect that claims its path; answers the paths that belong to no dialect."""

    def __init__(self, context: DialectContext, mounts: tuple[_Mount, ...]) -> None:
        self._context = context
        self._mounts = mounts
        self._own: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/": self._index,
            "/livez": self._live,
            "/readyz": self._ready,
            "/metrics": self._metrics,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The request is answered, or the lifespan followed."""
        match scope["type"]:
            case "http":
                await self._answer(scope, receive, send)
            case "lifespan":
                await _follow_lifespan(receive, send)
            case _:
                await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        handler = self._own.get(path.rstrip("/") or "/")
        if handler is None:
            for mount in self._mounts:
                if _is_below(path, mount.claim):
                    await mount.app(_moved(scope, mount.taken_off), receive, send)
                    return
        response = await self._own_response(Request(scope), handler)
        response.headers.update(_HEADERS | {"X-Request-Id": self._request_id(scope)})
        await response(scope, receive, send)

    def _request_id(self, scope: Scope) -> str:
        return sane_request_id(Headers(scope=scope)) or self._context.settings.ids.new_id()

    async def _own_response(
        self, request: Request, handler: Callable[[Request], Awaitable[Response]] | None
    ) -> Response:
        try:
            check_target(request.scope)
            if handler is None:
                return json_response({"error": "not found"}, 404)
            if request.method not in _READABLE:
                return json_response({"error": "method not allowed"}, 405, {"Allow": "GET, HEAD"})
            return await handler(request)
        except PolymemError as error:
            return json_response({"error": error.message}, 503 if error.code.is_retryable else 400)
        except Exception:  # noqa: BLE001 - the outer edge: logged here, once
            _LOG.exception("request failed")
            return json_response({"error": "internal server error"}, 500)

    async def _index(self, _request: Request) -> Response:
        """What is served here."""
        served = {mount.dialect.name: mount.docs for mount in self._mounts}
        apis = [{"name": name, "docs": docs} for name, docs in sorted(served.items())]
        return json_response({"name": "polymem", "version": self._context.settings.version, "apis": apis})

    async def _live(self, _request: Request) -> Response:
        """The process answers."""
        return json_response({"status": "ok"})

    async def _ready(self, _request: Request) -> Response:
        """200 when the server can serve, degraded or not; 503 with the reasons when it cannot."""
        health = await self._context.engine.health()
        self._context.metrics.health_seen(is_serving=health.is_serving, degraded=len(health.degraded))
        if not health.is_serving:
            return json_response({"status": "unavailable", "reasons": list(health.degraded)}, 503)
        status = "degraded" if health.degraded else "ok"
        return json_response({"status": status, "degraded": list(health.degraded)})

    async def _metrics(self, request: Request) -> Response:
        """What the server counts, to any key; without one to callers on this machine, unless a setting says no."""
        settings = self._context.settings
        if not (settings.metrics_open_on_loopback and is_from_loopback(request.scope)):
            secret = key_in_headers(request.headers)
            if secret is None or not await self._opens_something(secret):
                return json_response({"error": "a key is needed"}, 401, {"WWW-Authenticate": "Bearer"})
        health = await self._context.engine.health()
        self._context.metrics.health_seen(is_serving=health.is_serving, degraded=len(health.degraded))
        if health.jobs is not None:
            self._context.metrics.jobs_counted(health.jobs)
        return Response(self._context.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def _opens_something(self, secret: str) -> bool:
        try:
            await self._context.engine.keys.authenticate(secret)
        except (Unauthenticated, Forbidden):
            return False
        return True


def _is_below(path: str, claim: str) -> bool:
    return path == claim or path.startswith(f"{claim}/")


def _moved(scope: Scope, taken_off: str) -> Scope:
    """The request as the dialect sees it: its mount is not part of the path."""
    if not taken_off:
        return scope
    raw_path: bytes = scope.get("raw_path") or b""
    prefix = taken_off.encode()
    return {
        **scope,
        "path": scope["path"][len(taken_off) :],
        "raw_path": raw_path.removeprefix(prefix),
    }


async def _follow_lifespan(receive: Receive, send: Send) -> None:
    """Nothing has to be started or stopped here: the engine is opened before and closed after the server runs."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
