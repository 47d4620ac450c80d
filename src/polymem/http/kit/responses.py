"""Answers: JSON bodies, and faults in the words of a dialect."""

import json
from collections.abc import Mapping

import orjson
from fastapi import Response

from polymem.http.kit.dialect import Dialect
from polymem.http.kit.faults import Fault

_UNAUTHORIZED = 401


def json_body(value: object) -> bytes:
    """The value as JSON in UTF-8; a lone surrogate that got this far becomes `?`."""
    try:
        return orjson.dumps(value)
    except TypeError:  # integers of more than 64 bits, lone surrogates
        pass
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(json_body(value), status, headers, media_type="application/json")


def fault_response(dialect: Dialect, fault: Fault) -> Response:
    """The fault as the dialect's error table says, with `Retry-After` in whole seconds where waiting helps."""
    rule = dialect.errors[fault.code]
    headers = dict(fault.headers)
    if fault.retry_after_seconds is not None:
        headers["Retry-After"] = str(fault.retry_after_seconds)
    if rule.status == _UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return json_response(rule.render(fault), rule.status, headers)
