"""What makes captured turns clean, distinct and ordered; pure."""

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from polymem.domain.limits import canonical_json
from polymem.domain.model import JsonValue, SpaceId

_MARK = re.compile(r"<(/?)relevant-memories>", re.IGNORECASE)
_TICK = timedelta(microseconds=1)


def strip_recalled(text: str) -> str:
    """The text without blocks of recalled memories that a client put into it, so that no memory feeds on itself.

    A block reaches to the close that balances its open, one never closed to the end of the text. Without a
    block the text is returned as it is. One pass over the text.
    """
    kept: list[str] = []
    depth = 0
    start = 0
    is_changed = False
    for mark in _MARK.finditer(text):
        if not mark[1]:
            if depth == 0:
                kept.append(text[start : mark.start()])
            depth += 1
            is_changed = True
        elif depth > 0:
            depth -= 1
            start = mark.end()
    if not is_changed:
        return text
    if depth == 0:
        kept.append(text[start:])
    return "".join(kept).strip()


def strip_recalled_json(text: str) -> str:
    """JSON text with `strip_recalled` applied to each string value in it; "" when nothing is left of it.

    Text that does not parse is treated as plain. The text has passed a depth limit where it came in, or is
    returned as it is.
    """
    if _MARK.search(text) is None:
        return text
    try:
        value: JsonValue = json.loads(text)
        stripped = _strip_value(value)
        return canonical_json(stripped) if stripped else ""
    except RecursionError:
        return text
    except ValueError:
        return strip_recalled(text)


def _strip_value(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return strip_recalled(value)
    if isinstance(value, dict):
        return {key: _strip_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_strip_value(inner) for inner in value]
    return value


def turn_identity(space_id: SpaceId, session_id: str, role: str, content: str, *, seq: int | None) -> str:
    """The name under which a turn is stored once: of its session, role and content, and its seq if the client gave one.

    A hash keyed by the space: whoever finds it after the turn was deleted cannot read or compare the text.
    """
    parts: list[JsonValue] = [session_id, role, content]
    if seq is not None:
        parts.append(seq)
    digest = hashlib.blake2b(canonical_json(parts).encode(), key=space_id.encode()[:64], digest_size=32)
    return f"turn:{digest.hexdigest()}"


def number(given: Sequence[int | None], *, first_free: int) -> tuple[int, ...]:
    """A seq for each turn in order: the given one, else one more than all before it, from `first_free` on."""
    numbers: list[int] = []
    free = first_free
    for seq in given:
        numbers.append(free if seq is None else seq)
        free = max(free, numbers[-1] + 1)
    return tuple(numbers)


def moments(given: Sequence[datetime | None], *, now: datetime) -> tuple[datetime, ...]:
    """A time for each turn in order: the given one, else now, a microsecond after the turn before where needed."""
    times: list[datetime] = []
    free = now
    for moment in given:
        times.append(free if moment is None else moment)
        free = max(free, times[-1] + _TICK)
    return tuple(times)
