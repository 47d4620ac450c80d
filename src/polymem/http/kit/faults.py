"""What can go wrong at the HTTP edge, and how a dialect is told of it.

Errors of the engine carry an `ErrorCode`. What fails before the engine is reached (no such route, a body that does
not parse) carries an `EdgeCode`. Both become one `Fault`, which a dialect's error table turns into a response.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from polymem.errors import ErrorCode, InvalidInput, PolymemError, RateLimited


class EdgeCode(StrEnum):
    """Every way a request can fail before it reaches the engine and is not an error of the engine's kind."""

    ROUTE_NOT_FOUND = "route_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    MALFORMED_BODY = "malformed_body"
    SCHEMA_MISMATCH = "schema_mismatch"


_LONGEST_FIELD = 200

FaultCode = ErrorCode | EdgeCode
FAULT_CODES: frozenset[FaultCode] = frozenset([*ErrorCode, *EdgeCode])


@dataclass(frozen=True, slots=True)
class Violation:
    """One part of a request that breaks the schema; `path` holds keys and list positions, outermost first."""

    path: tuple[str | int, ...]
    message: str

    @property
    def field(self) -> str:
        """The path as text: `messages[0].role`; `body` for the whole body."""
        text = ""
        for step in self.path:
            text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
        return text[:_LONGEST_FIELD] or "body"


class EdgeError(Exception):
    """A request that fails before the engine is reached; the message is safe to show."""

    def __init__(
        self,
        code: EdgeCode,
        message: str,
        *,
        violations: tuple[Violation, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.violations = violations
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A failure as a dialect sees it. `error` is the engine's own error, when there is one."""

    code: FaultCode
    message: str
    request_id: str
    field: str | None = None
    violations: tuple[Violation, ...] = ()
    retry_after_seconds: int | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    error: PolymemError | None = None

    @property
    def is_retryable(self) -> bool:
        """True when the same request may succeed later."""
        return isinstance(self.code, ErrorCode) and self.code.is_retryable


_RETRY_SECONDS = {
    ErrorCode.UNAVAILABLE: 1,
    ErrorCode.INFERENCE_UNAVAILABLE: 5,
    ErrorCode.STORAGE_UNAVAILABLE: 1,
    ErrorCode.STORAGE_FULL: 60,
    ErrorCode.STORAGE_READ_ONLY: 60,
}


def fault_of(error: PolymemError | EdgeError, request_id: str) -> Fault:
    """The error as a fault; `retry_after_seconds` is whole and at least 1."""
    if isinstance(error, EdgeError):
        first = error.violations[0].field if error.violations else None
        return Fault(
            code=error.code,
            message=error.message,
            request_id=request_id,
            field=first,
            violations=error.violations,
            headers=error.headers,
        )
    retry_after = _RETRY_SECONDS.get(error.code)
    if isinstance(error, RateLimited):
        retry_after = max(1, math.ceil(error.retry_after_seconds))
    return Fault(
        code=error.code,
        message=error.message,
        request_id=request_id,
        field=error.field if isinstance(error, InvalidInput) else None,
        retry_after_seconds=retry_after,
        error=error,
    )


def unknown_fault(request_id: str) -> Fault:
    """A failure nobody foresaw: the caller learns nothing of it but the request id."""
    return Fault(code=ErrorCode.INTERNAL, message="internal server error", request_id=request_id)
