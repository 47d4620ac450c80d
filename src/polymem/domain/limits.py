"""Limits on everything a caller hands in, and the token bucket; pure.

These are the engine's outer limits, the same for all dialects; a dialect's own, tighter ones stand with it.
Every check names the field as the caller spelled it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from polymem.domain.model import JsonValue
from polymem.errors import InvalidInput, TooLarge

MAX_CONTENT_BYTES = 1024 * 1024
MAX_TURN_BYTES = 1_000_000
MAX_TURNS = 10_000
MAX_TAGS = 100
MAX_TAG_CHARACTERS = 200
MAX_ID_CHARACTERS = 255
MAX_NAME_CHARACTERS = 200
MAX_BATCH = 1000
MAX_PAGE = 1000
MAX_OFFSET = 1_000_000
MAX_JSON_DEPTH = 32
MAX_JSON_BYTES = 64 * 1024
MAX_SEQ = 2**31 - 1
MAX_IMPORT_BYTES = 50 * 1024 * 1024
MIN_INTEGER = -(2**63)
MAX_INTEGER = 2**64 - 1
_FIRST_YEAR = 2
_LAST_YEAR = 9998


def canonical_json(value: JsonValue) -> str:
    """The one text of a JSON value: keys sorted, no white space, not escaped; the value has passed `check_json`."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def check_characters(field: str, text: str) -> None:
    """The text can be stored and sent as UTF-8 everywhere: no NUL, no lone surrogate."""
    if "\x00" in text:
        raise InvalidInput(field, "must not contain NUL characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(field, "must not contain lone surrogates") from None


def check_content(field: str, text: str, *, max_bytes: int = MAX_CONTENT_BYTES) -> None:
    """The text of a memory: not blank, clean, within `max_bytes` of UTF-8."""
    if len(text) > max_bytes:
        raise TooLarge(field, max_bytes, "bytes")
    check_characters(field, text)
    if len(text.encode()) > max_bytes:
        raise TooLarge(field, max_bytes, "bytes")
    if not text.strip():
        raise InvalidInput(field, "must not be empty")


def check_label(field: str, text: str, *, max_characters: int = MAX_ID_CHARACTERS) -> None:
    """A short text that names something: not blank, clean, within `max_characters`."""
    if len(text) > max_characters:
        raise InvalidInput(field, f"too long (max {max_characters} characters)")
    check_characters(field, text)
    if not text.strip():
        raise InvalidInput(field, "must not be empty")


def check_optional_label(field: str, text: str | None, *, max_characters: int = MAX_ID_CHARACTERS) -> None:
    """Either absent, or what `check_label` says."""
    if text is not None:
        check_label(field, text, max_characters=max_characters)


def check_tags(field: str, tags: Sequence[str]) -> None:
    """A list of at most `MAX_TAGS` short texts."""
    if len(tags) > MAX_TAGS:
        raise InvalidInput(field, f"too many (max {MAX_TAGS})")
    for tag in tags:
        check_label(field, tag, max_characters=MAX_TAG_CHARACTERS)


def check_json(field: str, value: JsonValue) -> None:
    """A JSON value that every storage and every client can hold: shallow, small, clean, finite.

    Integers fit 64 bits. Walks without recursion, so that depth cannot exhaust the stack.
    """
    pending: list[tuple[JsonValue, int]] = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if isinstance(item, str):
            check_characters(field, item)
        elif isinstance(item, int | float):
            _check_number(field, item)
        elif item is not None:
            if depth > MAX_JSON_DEPTH:
                raise InvalidInput(field, f"nested too deeply (max {MAX_JSON_DEPTH} levels)")
            if isinstance(item, Mapping):
                for key in item:
                    check_characters(field, key)
                pending.extend((inner, depth + 1) for inner in item.values())
            else:
                pending.extend((inner, depth + 1) for inner in item)
    if len(canonical_json(value).encode()) > MAX_JSON_BYTES:
        raise InvalidInput(field, f"too large (max {MAX_JSON_BYTES} bytes as JSON)")


def _check_number(field: str, number: float) -> None:
    if isinstance(number, int):
        if not MIN_INTEGER <= number <= MAX_INTEGER:
            raise InvalidInput(field, "must not contain integers beyond 64 bits")
    elif not math.isfinite(number):
        raise InvalidInput(field, "must not contain NaN or infinite numbers")


def in_utc(field: str, moment: datetime) -> datetime:
    """The same moment in UTC. Refuses one without a time zone, or beyond the calendar that can be counted on."""
    if moment.utcoffset() is None:
        raise InvalidInput(field, "must carry a time zone")
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise InvalidInput(field, f"must lie in the years {_FIRST_YEAR} to {_LAST_YEAR}")
    return moment.astimezone(UTC)


def check_range(field: str, number: int, *, least: int, most: int) -> None:
    """A whole number from `least` to `most`."""
    if not least <= number <= most:
        raise InvalidInput(field, f"must be from {least} to {most}")


def check_count(field: str, count: int, *, most: int) -> None:
    """A batch of at most `most` items."""
    if count > most:
        raise TooLarge(field, most, "items")


# --- rate limits -----------------------------------------------------------------------------------------

LEASED_PART = 0.01
BUCKET_CLOCKS_APART = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class BucketRule:
    """How many requests may come at once, and how many a second in the long run; both above 0."""

    capacity: float
    refill_per_second: float


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """What was left at a moment."""

    tokens: float
    at: datetime


def refilled(bucket: TokenBucket, rule: BucketRule, now: datetime) -> TokenBucket:
    """The bucket after the time that has passed: never above its capacity, never less for a clock that stood.

    Its time never goes back, so that clocks which differ fill it no faster than one of them; but a time that lies
    more than a minute ahead was a clock's mistake and is dropped.
    """
    passed = max(0.0, (now - bucket.at).total_seconds())
    at = now if bucket.at - now > BUCKET_CLOCKS_APART else max(bucket.at, now)
    return TokenBucket(min(rule.capacity, bucket.tokens + passed * rule.refill_per_second), at)


def drawn(
    bucket: TokenBucket | None, rule: BucketRule, *, wanted: int, unused: int, now: datetime
) -> tuple[TokenBucket, int]:
    """The bucket after a draw, and how many whole tokens it gave: as many as are there of those wanted.

    `unused` tokens of an earlier draw are put back first. None is the bucket of someone who never asked: full.
    """
    present = TokenBucket(rule.capacity, now) if bucket is None else refilled(bucket, rule, now)
    tokens = min(rule.capacity, present.tokens + unused)
    granted = min(wanted, int(tokens))
    return TokenBucket(tokens - granted, present.at), granted


def leased_tokens(rule: BucketRule) -> int:
    """How many tokens one process takes out of the shared bucket at a time."""
    return leased_part(rule.capacity)


def leased_part(limit: float) -> int:
    """How much of a limit that processes share one of them takes at a time."""
    return max(1, int(limit * LEASED_PART))


def seconds_until_next_day(now: datetime) -> float:
    """How long the present day of UTC still lasts; above 0."""
    today = now.astimezone(UTC)
    midnight = today.replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight + timedelta(days=1) - today).total_seconds()


def seconds_until_full(tokens: float, rule: BucketRule) -> float:
    """How long a bucket with these tokens takes to be full again."""
    return max(0.0, rule.capacity - tokens) / rule.refill_per_second


def seconds_until_token(tokens: float, rule: BucketRule) -> float:
    """How long a bucket with these tokens takes to hold a whole one."""
    return max(0.0, 1.0 - tokens) / rule.refill_per_second
