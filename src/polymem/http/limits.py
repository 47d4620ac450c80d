"""Limits of one request and what a response says about the limits of its caller."""

import hashlib
import math
import re
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope

from polymem.domain.model import IdempotencyClaim
from polymem.engine.requests import RateState
from polymem.errors import InvalidInput, TooLarge
from polymem.http.auth import key_in_headers

LONGEST_TARGET_BYTES = 16 * 1024
LARGEST_HEADERS_BYTES = 32 * 1024
IDEMPOTENCY_HEADER = "idempotency-key"
_DISCARD_BYTES = 64 * 1024 * 1024
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def sane_request_id(headers: Headers) -> str | None:
    """The caller's `X-Request-Id` when it is fit for logs and headers, and not the key by mistake; else None."""
    given = headers.get("x-request-id", "")
    is_fit = _REQUEST_ID.fullmatch(given) is not None and given != key_in_headers(headers)
    return given if is_fit else None


def check_target(scope: Scope) -> None:
    """The request line and headers are within limits, and path and query are UTF-8 without NUL; raises otherwise."""
    raw_path: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogatepass")
    raw_query: bytes = scope["query_string"]
    if len(raw_path) + len(raw_query) > LONGEST_TARGET_BYTES:
        raise TooLarge("url", LONGEST_TARGET_BYTES, "bytes")
    if sum(len(name) + len(value) for name, value in scope["headers"]) > LARGEST_HEADERS_BYTES:
        raise TooLarge("headers", LARGEST_HEADERS_BYTES, "bytes")
    _check_encoding("path", raw_path)
    _check_encoding("query", raw_query)


def _check_encoding(field: str, raw: bytes) -> None:
    decoded = unquote_to_bytes(raw)
    if b"\x00" in decoded:
        raise InvalidInput(field, "must not contain NUL characters")
    try:
        decoded.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput(field, "must be UTF-8") from None


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises `TooLarge` as soon as it is known to exceed `limit`; never holds more than that.

    What a caller with too large a body still sends is read and dropped for a while, so that it sees the answer.
    """
    declared = request.headers.get("content-length", "")
    is_too_large = declared.isdecimal() and int(declared[:20]) > limit
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit or is_too_large:
            is_too_large = True
            chunks.clear()
            if size > _DISCARD_BYTES:
                break
        else:
            chunks.append(chunk)
    if is_too_large:
        raise TooLarge("body", limit, "bytes")
    return b"".join(chunks)


def idempotency_claim(request: Request, body_digest: bytes) -> IdempotencyClaim | None:
    """The caller's `Idempotency-Key` bound to method, path, query and body; None without the header.

    `body_digest` is the SHA-256 of what the body says. Raises `InvalidInput` for a key that is not 1 to 255
    visible characters.
    """
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is None:
        return None
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidInput("Idempotency-Key", "must be 1 to 255 visible characters")
    digest = hashlib.sha256()
    for part in (request.method.encode(), request.scope["path"].encode(), request.scope["query_string"], body_digest):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return IdempotencyClaim(key=key, digest=digest.hexdigest())


def rate_headers(state: RateState, now_seconds: float) -> dict[str, str]:
    """Where the caller stands: limit, what remains, and when (Unix seconds) the limit is whole again."""
    return {
        "X-RateLimit-Limit": str(state.limit),
        "X-RateLimit-Remaining": str(max(0, state.remaining)),
        "X-RateLimit-Reset": str(math.ceil(now_seconds + max(0.0, state.reset_seconds))),
    }
