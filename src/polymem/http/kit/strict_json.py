"""JSON as the server takes it: one meaning for every body, nothing that cannot be stored and given back.

Refused beside what the grammar forbids: invalid UTF-8, duplicate keys, NaN and infinities, numbers beyond 64 bits,
NUL characters, lone surrogates, and nesting deeper than `MAX_DEPTH`.
"""

import json
import re
from collections import Counter
from typing import Any

from polymem.domain.model import JsonValue
from polymem.errors import InvalidInput
from polymem.http.kit.faults import EdgeCode, EdgeError, Violation

MAX_DEPTH = 64
_INT64_BOUND = 1 << 63
_SHORT_INTEGER = 18
_SHOWN_KEY_LENGTH = 60
# Possessive, and an unclosed string still matches: one pass, whatever the text.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|([{}\[\]])', re.DOTALL)


def _malformed(reason: str) -> EdgeError:
    return EdgeError(EdgeCode.MALFORMED_BODY, reason)


def _shown(key: str) -> str:
    return json.dumps(key[:_SHOWN_KEY_LENGTH])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _malformed(f"duplicate key {_shown(repeated)}")
    return result


def _integer(text: str) -> int:
    if len(text) > _SHORT_INTEGER + 2 or not -_INT64_BOUND <= int(text) < _INT64_BOUND:
        raise _malformed("number out of range")
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _malformed("number out of range")
    return value


def _constant(text: str) -> float:
    raise _malformed(f"{text} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_real, parse_constant=_constant, strict=True
)


def parse_json(body: bytes) -> JsonValue:
    """The value of a JSON text. Raises `EdgeError` MALFORMED_BODY, or `InvalidInput` naming the offending string."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _malformed(f"not UTF-8 at byte {error.start}") from None
    _refuse_deep_nesting(text)
    try:
        value: JsonValue = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _malformed(f"{error.msg[0].lower()}{error.msg[1:]} at character {error.pos}") from None
    if "\\u" in text:
        _refuse_unstorable_text(value)
    return value


def _refuse_deep_nesting(text: str) -> None:
    """Raises when brackets outside strings nest deeper than `MAX_DEPTH`; texts with few brackets cost two counts."""
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        bracket = match.group(1)
        if bracket is None:
            continue
        depth += 1 if bracket in "{[" else -1
        if depth > MAX_DEPTH:
            raise _malformed(f"nested deeper than {MAX_DEPTH} levels")


def text_fault(text: str) -> str | None:
    """Why a text cannot be stored, or None when it can."""
    if "\x00" in text:
        return "must not contain NUL characters"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "must not contain lone surrogates"
    return None


def _refuse_unstorable_text(value: JsonValue) -> None:
    pending: list[tuple[tuple[str | int, ...], JsonValue]] = [((), value)]
    while pending:
        path, item = pending.pop()
        if isinstance(item, str):
            if (reason := text_fault(item)) is not None:
                raise InvalidInput(Violation(path, reason).field, reason)
        elif isinstance(item, dict):
            for key, child in item.items():
                if (reason := text_fault(key)) is not None:
                    raise InvalidInput(Violation(path, reason).field, f"a key {reason}")
                pending.append(((*path, key), child))
        elif isinstance(item, list):
            pending.extend(((*path, number), child) for number, child in enumerate(item))
