"""One server process: listens, answers, and stops without losing what it accepted."""

import asyncio
import errno
import gc
import logging
import math
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address

import uvicorn
from starlette.types import ASGIApp

from polymem import __version__
from polymem.bootstrap.adapters import database_place, warn_of_traps
from polymem.bootstrap.composition import JOB_GRACE_SECONDS, Running, SystemClock, Uuid7Ids, open_running
from polymem.bootstrap.directory import FirstKey, ServerRecord, first_key, remove_server, write_server
from polymem.bootstrap.signals import Stop
from polymem.config import Settings
from polymem.errors import SettingsInvalid, StorageReadOnly, Unavailable
from polymem.http.app import build_app
from polymem.http.settings import HttpSettings
from polymem.jobs.worker import Worker
from polymem.ports.inference import Embedder

API_PATHS: Mapping[str, str] = {"mem9": "/v1alpha2/mem9s", "mnemoverse": "/api/v1"}
_BACKLOG = 1024
_KEEP_ALIVE_SECONDS = 75
_IPV4 = 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A server that answers: where, the key that opens it, and what is degraded."""

    record: ServerRecord
    key: FirstKey
    degraded: tuple[str, ...]


async def serve(settings: Settings, announce: Callable[[Serving], None], model: Future[Embedder] | None = None) -> None:
    """The server has served until SIGINT or SIGTERM; `announce` is called once it answers.

    `model` is what `begin_loading_model` gave, when that began before this module was imported.

    A stop answers the requests in flight, hands the worker's job back and stores what was accepted, within
    `shutdown_grace_seconds`. A second signal ends the process at once; what was acknowledged is stored all the same.
    """
    stop = Stop()
    with stop.on_signals():
        async with open_running(settings, model) as running:
            with _listening(settings) as listener:
                await _serve(settings, running, listener, stop, announce)


async def _serve(
    settings: Settings, running: Running, listener: socket.socket, stop: Stop, announce: Callable[[Serving], None]
) -> None:
    warn_of_traps(settings)
    clock, engine = SystemClock(), running.engine
    started_at = clock.now()
    key = await first_key(engine, settings)
    http_settings = HttpSettings(
        version=__version__,
        started_at=started_at,
        clock=clock,
        ids=Uuid7Ids(),
        mounts={name: settings.dialect_prefixes.get(name, "") for name in settings.dialects},
        is_loopback=ip_address(_address(listener)).is_loopback,
        provisioning=settings.provisioning,
        mem9_if_match=settings.mem9_if_match,
        is_reset_enabled=settings.reset_enabled,
        metrics_open_on_loopback=settings.metrics_open_on_loopback,
        cors_origins=settings.cors_origins,
    )
    url = _url(listener)
    record = ServerRecord(
        url=url,
        pid=os.getpid(),
        version=__version__,
        started_at=started_at.isoformat(),
        apis={name: url + mount + API_PATHS[name] for name, mount in http_settings.mounts.items()},
        database=database_place(settings),
    )

    async def answers() -> None:
        await asyncio.to_thread(_tell_others, settings, record)
        health = await engine.health()
        announce(Serving(record=record, key=key, degraded=health.degraded))
        # What stands now stays: collections of the requests' garbage need not walk over it, which took 0.1 s at times.
        gc.freeze()
        gc.enable()

    server = _Server(build_app(engine, http_settings), settings, running.worker, answers)
    stop.before_the_end = partial(remove_server, settings.data_dir, record)
    stop.then(server.leave)
    try:
        await server.serve(sockets=[listener])
    finally:
        await asyncio.to_thread(remove_server, settings.data_dir, record)


def _tell_others(settings: Settings, record: ServerRecord) -> None:
    """The server's record stands in the data directory, which a server on PostgreSQL may do without."""
    try:
        write_server(settings.data_dir, record)
    except StorageReadOnly as error:
        if settings.database_url is None:
            raise
        _log.info("commands on this machine will not find this server: %s", error.message)


class _Server(uvicorn.Server):
    """uvicorn that tells when it answers, and leaves signals to `_Stop`."""

    def __init__(
        self, app: ASGIApp, settings: Settings, worker: Worker, answers: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                http="httptools",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=math.ceil(settings.shutdown_grace_seconds),
            )
        )
        self._grace_seconds = settings.shutdown_grace_seconds
        self._worker = worker
        self._answers = answers

    def leave(self) -> None:
        """The server stops as soon as what it has in hand is answered."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """The server answers, and that has been told."""
        await super().startup(sockets=sockets)
        await self._answers()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Requests in flight are answered and the worker has nothing in hand; a long job was given back."""
        stopping = asyncio.create_task(self._worker.stop(grace_seconds=min(self._grace_seconds, JOB_GRACE_SECONDS)))
        await super().shutdown(sockets=sockets)
        await stopping

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals stay as they are."""
        yield


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """A socket that listens where the settings say. Raises `SettingsInvalid` or `Unavailable`, naming the address."""
    place = f"{settings.host} port {settings.port}"
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise SettingsInvalid(f"setting host: {settings.host!r} is no address of this machine") from error
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Unavailable(f"{place} is in use by another program; choose another with --port") from error
            raise SettingsInvalid(f"cannot listen on {place}: {error.strerror}") from error
        listener.setblocking(False)
        yield listener


def _address(listener: socket.socket) -> str:
    return str(listener.getsockname()[0])


def _url(listener: socket.socket) -> str:
    """Where this machine reaches the listener; one that listens everywhere is reached through loopback."""
    address = ip_address(_address(listener))
    if address.is_unspecified:
        address = ip_address("127.0.0.1" if address.version == _IPV4 else "::1")
    host = str(address) if address.version == _IPV4 else f"[{address}]"
    return f"http://{host}:{listener.getsockname()[1]}"
