"""How mem9 says that something failed: always `{"error": "<text>"}`."""

from polymem.errors import ErrorCode, Forbidden, NotFound, PolymemError, Unauthenticated
from polymem.http.kit import EdgeCode, ErrorRule, Fault, FaultCode

_NAMED_WHEN_MISSING = frozenset({"tenant", "key"})


def _as_said(fault: Fault) -> dict[str, str]:
    return {"error": fault.message}


def _with_field(fault: Fault) -> dict[str, str]:
    return {"error": f"{fault.field}: {fault.message}" if fault.field else fault.message}


def _fixed(text: str) -> ErrorRule:
    return ErrorRule(500, lambda _fault: {"error": text})


def _malformed(fault: Fault) -> dict[str, str]:
    return {"error": f"invalid JSON: {fault.message}"}


def _not_found(fault: Fault) -> dict[str, str]:
    error = fault.error
    is_named = isinstance(error, NotFound) and error.kind in _NAMED_WHEN_MISSING
    return {"error": fault.message if is_named else "not found"}


ERRORS: dict[FaultCode, ErrorRule] = {
    ErrorCode.INVALID_INPUT: ErrorRule(400, _with_field),
    EdgeCode.SCHEMA_MISMATCH: ErrorRule(400, _with_field),
    EdgeCode.MALFORMED_BODY: ErrorRule(400, _malformed),
    ErrorCode.MISSING_KEY: ErrorRule(401, _as_said),
    ErrorCode.INVALID_KEY: ErrorRule(401, _as_said),
    ErrorCode.QUOTA_EXCEEDED: ErrorRule(402, _as_said),
    ErrorCode.FORBIDDEN: ErrorRule(403, _as_said),
    ErrorCode.NOT_FOUND: ErrorRule(404, _not_found),
    EdgeCode.ROUTE_NOT_FOUND: ErrorRule(404, _as_said),
    EdgeCode.METHOD_NOT_ALLOWED: ErrorRule(405, _as_said),
    ErrorCode.CONFLICT: ErrorRule(409, _as_said),
    ErrorCode.VERSION_CONFLICT: ErrorRule(409, _as_said),
    ErrorCode.IDEMPOTENCY_CONFLICT: ErrorRule(409, _as_said),
    ErrorCode.TOO_LARGE: ErrorRule(413, _as_said),
    EdgeCode.UNSUPPORTED_MEDIA_TYPE: ErrorRule(415, _as_said),
    ErrorCode.RATE_LIMITED: ErrorRule(429, _as_said),
    ErrorCode.QUERIES_EXHAUSTED: ErrorRule(429, _as_said),
    ErrorCode.INTERNAL: _fixed("internal server error"),
    ErrorCode.STORAGE_DAMAGED: _fixed("stored data is damaged, the operator has to look at it"),
    ErrorCode.DATA_DIRECTORY_LOCKED: _fixed("internal server error"),
    ErrorCode.SETTINGS_INVALID: _fixed("internal server error"),
    ErrorCode.UNAVAILABLE: ErrorRule(503, _as_said),
    ErrorCode.INFERENCE_UNAVAILABLE: ErrorRule(503, _as_said),
    ErrorCode.STORAGE_UNAVAILABLE: ErrorRule(503, _as_said),
    ErrorCode.STORAGE_FULL: ErrorRule(503, _as_said),
    ErrorCode.STORAGE_READ_ONLY: ErrorRule(503, _as_said),
}


def path_key_error(error: Unauthenticated | Forbidden) -> PolymemError:
    """In `v1alpha1` the key is the tenant's name in the path: one that opens nothing is no tenant."""
    return NotFound("tenant", "") if isinstance(error, Unauthenticated) else error
