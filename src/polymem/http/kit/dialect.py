"""What a dialect tells the kit about itself: all that distinguishes one API's manners from another's."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fastapi import APIRouter
from starlette.datastructures import Headers

from polymem.domain.model import JsonValue
from polymem.engine.engine import Engine
from polymem.errors import Forbidden, PolymemError, Unauthenticated
from polymem.http.auth import key_in_headers
from polymem.http.kit.faults import FAULT_CODES, Fault, FaultCode
from polymem.http.metrics import Metrics
from polymem.http.settings import HttpSettings

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class DialectContext:
    """What a dialect's routes work with."""

    engine: Engine
    settings: HttpSettings
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """How a dialect answers one kind of fault: the status, and the body it makes of the fault."""

    status: int
    render: Callable[[Fault], JsonValue]


def no_agent(_headers: Headers) -> str | None:
    """No header of this dialect names an agent."""
    return None


def unchanged(error: Unauthenticated | Forbidden) -> PolymemError:
    """A key in the path that opens nothing is answered as a key in a header."""
    return error


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One published API over the engine.

    `paths`: what the dialect claims at the root: a prefix (`/v1`) or a single path (`/healthz`); "" is the whole root.
    `docs_base`: where `openapi.json` and `docs` stand ("" is the root).
    `add_routes`: adds every route to the router it is given; a handler takes a `KitRequest` and returns a response.
    `errors`: one rule for every fault code; missing ones are an error when the dialect is made.
    `open_routes`: (method, path template) of routes that need no key; a key they carry is ignored.
    `body_limit`, `body_limits`: bytes, and path templates with a limit of their own.
    `key_in_path`: a pattern at the path's start with a group `key`; the key there counts before any header.
    `key_of`: where else a request carries its key. `agent_of`: the agent a request names, or `InvalidInput`.
    `path_key_error`: how a key in the path that opens nothing is answered.
    `headers`: added to every response.
    `always_tells_rate`: answers to callers without a good key, and of open routes, tell where their address stands.
    """

    name: str
    title: str
    description: str
    paths: tuple[str, ...]
    docs_base: str
    add_routes: Callable[[APIRouter, DialectContext], None]
    errors: Mapping[FaultCode, ErrorRule]
    open_routes: frozenset[tuple[str, str]] = frozenset()
    body_limit: int = 2 * MIB
    body_limits: Mapping[str, int] = field(default_factory=dict)
    key_in_path: re.Pattern[str] | None = None
    key_of: Callable[[Headers], str | None] = key_in_headers
    agent_of: Callable[[Headers], str | None] = no_agent
    path_key_error: Callable[[Unauthenticated | Forbidden], PolymemError] = unchanged
    headers: Mapping[str, str] = field(default_factory=dict)
    always_tells_rate: bool = False

    def __post_init__(self) -> None:
        """Every way a request can fail has its answer."""
        missing = FAULT_CODES - self.errors.keys()
        if missing:
            message = f"dialect {self.name} has no answer for {sorted(missing)}"
            raise ValueError(message)
