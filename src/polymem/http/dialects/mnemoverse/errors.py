"""How mnemoverse says that something failed: always `{code, message, requestId, retryable, details}`.

A path that no route serves is the exception: its clients know it by the bare `{"detail": "Not Found"}`.
"""

import re
from collections.abc import Callable

from polymem.domain.model import JsonValue
from polymem.errors import ErrorCode, InvalidInput, NotFound, PolymemError
from polymem.http.auth import AGENT_HEADER
from polymem.http.kit import EdgeCode, ErrorRule, Fault, FaultCode

_STEP = re.compile(r"[^.\[\]]+")
_OUTSIDE_BODY = frozenset({"body", "headers", "path", "query", "url", "Idempotency-Key", AGENT_HEADER})
_SHOWN_KINDS = {"memory": "atom"}
_MISSING_KEY = "Missing API key. Send X-Api-Key header."
_INVALID_KEY = "Invalid or missing API key"
_INTERNAL = "Internal server error"


def _location(field: str) -> list[JsonValue]:
    """Where a field stands, outermost first, as clients of the framework that mnemoverse runs on know it."""
    if field in _OUTSIDE_BODY:
        return [field]
    return ["body", *(int(step) if step.isdecimal() else step for step in _STEP.findall(field))]


def _errors(fault: Fault) -> JsonValue:
    """What is wrong with which part of the request, as `details`."""
    if fault.violations:
        return {"errors": [{"loc": ["body", *each.path], "msg": each.message} for each in fault.violations]}
    return {"errors": [{"loc": _location(fault.field or "body"), "msg": fault.message}]}


def said(error: PolymemError) -> str:
    """The error in one line that names the field, the way the server tells of an item of a batch."""
    match error:
        case InvalidInput():
            return f"{error.field}: {error.message}"
        case NotFound():
            return f"{_SHOWN_KINDS.get(error.kind, error.kind)} not found"
        case _:
            return error.message


def _rule(
    status: int,
    code: str,
    message: str | None = None,
    details: Callable[[Fault], JsonValue] = lambda _fault: None,
) -> ErrorRule:
    """The rule of one fault; `message` None is what the fault itself says."""

    def render(fault: Fault) -> JsonValue:
        own = fault.message if fault.error is None else said(fault.error)
        return {
            "code": code,
            "message": own if message is None else message,
            "requestId": fault.request_id,
            "retryable": fault.is_retryable,
            "details": details(fault),
        }

    return ErrorRule(status, render)


def _because(reason: str) -> Callable[[Fault], JsonValue]:
    return lambda _fault: {"reason": reason}


ERRORS: dict[FaultCode, ErrorRule] = {
    ErrorCode.INVALID_INPUT: _rule(400, "VALIDATION_ERROR", details=_errors),
    EdgeCode.MALFORMED_BODY: _rule(400, "VALIDATION_ERROR", "Request body is not valid JSON", _errors),
    EdgeCode.SCHEMA_MISMATCH: _rule(422, "VALIDATION_ERROR", "Request validation failed", _errors),
    ErrorCode.MISSING_KEY: _rule(401, "UNAUTHORIZED", _MISSING_KEY, _because("missing_key")),
    ErrorCode.INVALID_KEY: _rule(401, "UNAUTHORIZED", _INVALID_KEY, _because("invalid_key")),
    ErrorCode.FORBIDDEN: _rule(403, "FORBIDDEN"),
    ErrorCode.NOT_FOUND: _rule(404, "NOT_FOUND"),
    EdgeCode.ROUTE_NOT_FOUND: ErrorRule(404, lambda _fault: {"detail": "Not Found"}),
    EdgeCode.METHOD_NOT_ALLOWED: _rule(405, "METHOD_NOT_ALLOWED"),
    ErrorCode.CONFLICT: _rule(409, "CONFLICT"),
    ErrorCode.VERSION_CONFLICT: _rule(409, "CONFLICT"),
    ErrorCode.IDEMPOTENCY_CONFLICT: _rule(409, "CONFLICT"),
    ErrorCode.TOO_LARGE: _rule(413, "PAYLOAD_TOO_LARGE"),
    EdgeCode.UNSUPPORTED_MEDIA_TYPE: _rule(415, "VALIDATION_ERROR"),
    ErrorCode.RATE_LIMITED: _rule(429, "RATE_LIMITED", details=_because("rate_limit")),
    ErrorCode.QUERIES_EXHAUSTED: _rule(429, "RATE_LIMITED", details=_because("daily_limit")),
    ErrorCode.QUOTA_EXCEEDED: _rule(429, "RATE_LIMITED", details=_because("atom_limit")),
    ErrorCode.INTERNAL: _rule(500, "INTERNAL", _INTERNAL),
    ErrorCode.STORAGE_DAMAGED: _rule(
        500, "INTERNAL", "Stored data is damaged, the operator has to look at it", _because("storage_damaged")
    ),
    ErrorCode.DATA_DIRECTORY_LOCKED: _rule(500, "INTERNAL", _INTERNAL),
    ErrorCode.SETTINGS_INVALID: _rule(500, "INTERNAL", _INTERNAL),
    ErrorCode.UNAVAILABLE: _rule(503, "UNAVAILABLE"),
    ErrorCode.INFERENCE_UNAVAILABLE: _rule(503, "UNAVAILABLE"),
    ErrorCode.STORAGE_UNAVAILABLE: _rule(503, "UNAVAILABLE"),
    ErrorCode.STORAGE_FULL: _rule(503, "UNAVAILABLE"),
    ErrorCode.STORAGE_READ_ONLY: _rule(503, "UNAVAILABLE"),
}
