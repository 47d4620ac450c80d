"""What the records of import files mean: which become memories, which turns, which are refused; pure.

Memory files: a JSON object with a `memories` list, such a list alone, or JSON Lines of memories; a file that is
no JSON at all is one memory. Session files: a JSON object with a `messages` list, such a list alone, or JSON
Lines of messages, plain (`{"role", "content"}`) or as OpenClaw logs them (`{"type": "message", "message"}`).
"""

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from polymem.domain.limits import (
    MAX_SEQ,
    MAX_TURN_BYTES,
    check_content,
    check_json,
    check_label,
    check_optional_label,
    check_range,
    check_tags,
    in_utc,
)
from polymem.domain.model import JsonValue, MemoryType
from polymem.errors import InvalidInput

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Opening(StrEnum):
    """What the first bytes of a file promise."""

    JSON = "json"
    TEXT = "text"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRecord:
    """A memory of a file; None where the file says nothing."""

    content: str
    memory_type: MemoryType
    tags: tuple[str, ...]
    metadata: JsonValue
    source: str | None
    agent_id: str | None
    session_id: str | None
    created_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRecord:
    """A message of a file; None where the file says nothing."""

    role: str
    content: str
    seq: int | None
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class NotAMessage:
    """A line of a session log that records something else; nothing is wrong with it."""


def without_mark(head: bytes) -> bytes:
    """The beginning of a file without the byte order mark that some editors put before UTF-8."""
    return head.removeprefix(codecs.BOM_UTF8)


def opening_of(head: bytes) -> Opening:
    """What a file is, from its beginning without mark; the first three visible bytes decide.

    `{` before a name, `[` before an object, or either alone with its close: that is JSON, perhaps broken.
    Anything else is text, as are notes that begin with a bracket.
    """
    if head.startswith(_UTF16):
        return Opening.TEXT
    visible = b"".join(head.split(maxsplit=3))[:3]
    if not visible:
        return Opening.EMPTY
    if visible[:2] in (b'{"', b"[{") or visible in (b"{}", b"[]"):
        return Opening.JSON
    return Opening.TEXT


def memory_record(value: JsonValue) -> MemoryRecord:
    """The memory that a record means. Raises `InvalidInput` or `TooLarge` naming what is wrong with it."""
    record = _object(value)
    content = _text("content", record.get("content"))
    check_content("content", content)
    tags = _tags(record.get("tags"))
    metadata = record.get("metadata")
    check_json("metadata", metadata)
    return MemoryRecord(
        content=content,
        memory_type=_memory_type(record.get("memory_type")),
        tags=tags,
        metadata=metadata,
        source=_label("source", record.get("source")),
        agent_id=_label("agent_id", record.get("agent_id")),
        session_id=_label("session_id", record.get("session_id")),
        created_at=_moment("created_at", record.get("created_at")),
    )


def turn_record(value: JsonValue) -> TurnRecord | NotAMessage:
    """The message that a record means, or that it is none. Raises `InvalidInput` or `TooLarge`."""
    record = _object(value)
    kind = record.get("type")
    if "message" in record and kind == "message":
        inner = _object(record["message"])
        return _turn(inner, moment=_logged_moment(record.get("timestamp")))
    if isinstance(kind, str) and "role" not in record:
        return NotAMessage()
    return _turn(record, moment=_moment("created_at", record.get("created_at")))


def label_of(members: Mapping[str, JsonValue], name: str) -> str | None:
    """What a file says of itself under this name. Raises `InvalidInput` when that is no short text."""
    return _label(name, members.get(name))


def _turn(record: Mapping[str, JsonValue], *, moment: datetime | None) -> TurnRecord | NotAMessage:
    role = _text("role", record.get("role"))
    check_label("role", role)
    content = _message_text(record.get("content"))
    if content is None:
        return NotAMessage()
    check_content("content", content, max_bytes=MAX_TURN_BYTES)
    return TurnRecord(role=role, content=content, seq=_seq(record.get("seq")), created_at=moment)


def _message_text(content: JsonValue) -> str | None:
    """The text of a message: given whole or in parts; None when its parts hold none (a tool call, a picture)."""
    if not isinstance(content, list):
        return _text("content", content)
    texts = [_part_text(part) for part in content]
    found = [text for text in texts if text is not None]
    return "\n".join(found) if found else None


def _part_text(part: JsonValue) -> str | None:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type") == "text":
        return _text("content.text", part.get("text"))
    return None


def _object(value: JsonValue) -> Mapping[str, JsonValue]:
    if not isinstance(value, Mapping):
        raise InvalidInput("item", "must be a JSON object")
    return value


def _text(field: str, value: JsonValue) -> str:
    if value is None:
        raise InvalidInput(field, "required")
    if not isinstance(value, str):
        raise InvalidInput(field, "must be text")
    return value


def _label(field: str, value: JsonValue) -> str | None:
    """An optional short text; "" counts as absent, as clients write it."""
    if value is None or value == "":
        return None
    text = _text(field, value)
    check_optional_label(field, text)
    return text


def _tags(value: JsonValue) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidInput("tags", "must be a list of texts")
    tags = tuple(_text("tags", tag) for tag in value)
    check_tags("tags", tags)
    return tags


def _memory_type(value: JsonValue) -> MemoryType:
    if value is None or value in ("", "insight"):
        return MemoryType.INSIGHT
    if value == "pinned":
        return MemoryType.PINNED
    raise InvalidInput("memory_type", "must be insight or pinned")


def _seq(value: JsonValue) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInput("seq", "must be a whole number")
    check_range("seq", value, least=0, most=MAX_SEQ)
    return value


def _moment(field: str, value: JsonValue) -> datetime | None:
    if value is None or value == "":
        return None
    text = _text(field, value)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(field, "must be a time in ISO 8601") from error
    return in_utc(field, moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


def _logged_moment(value: JsonValue) -> datetime | None:
    """The time a log wrote beside a message; a form we do not know is no reason to lose the message."""
    try:
        return _moment("timestamp", value)
    except InvalidInput:
        return None
