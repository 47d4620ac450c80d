"""What the records of import files mean."""

from datetime import UTC, datetime
from typing import Any

import pytest

from polymem.domain.imports import (
    MemoryRecord,
    NotAMessage,
    Opening,
    TurnRecord,
    label_of,
    memory_record,
    opening_of,
    turn_record,
    without_mark,
)
from polymem.domain.model import MemoryType
from polymem.errors import InvalidInput, TooLarge


@pytest.mark.parametrize(
    ("head", "opening"),
    [
        (b'{"memories": [', Opening.JSON),
        (b'{\n  "a', Opening.JSON),
        (b'[ { "a"', Opening.JSON),
        (b" [] ", Opening.JSON),
        (b"{ }", Opening.JSON),
        (b"", Opening.EMPTY),
        (b" \n\t", Opening.EMPTY),
        (b"# notes", Opening.TEXT),
        (b"[link](somewhere)", Opening.TEXT),
        (b"[ ] buy milk", Opening.TEXT),
        (b"[[wiki]]", Opening.TEXT),
        (b"{curly}", Opening.TEXT),
        (b"\xff\xfe{\x00", Opening.TEXT),
        (b"[", Opening.TEXT),
    ],
)
def test_the_first_visible_bytes_tell_json_from_text(head: bytes, opening: Opening) -> None:
    assert opening_of(head) is opening


def test_a_byte_order_mark_is_no_part_of_the_file() -> None:
    assert without_mark(b"\xef\xbb\xbf[]") == b"[]"


def test_a_memory_record_needs_only_content() -> None:
    assert memory_record({"content": "x"}) == MemoryRecord(
        content="x",
        memory_type=MemoryType.INSIGHT,
        tags=(),
        metadata=None,
        source=None,
        agent_id=None,
        session_id=None,
        created_at=None,
    )


def test_a_memory_record_keeps_what_an_export_says() -> None:
    exported: dict[str, Any] = {
        "id": "ignored",
        "content": "x",
        "memory_type": "pinned",
        "tags": ["a", "b"],
        "metadata": {"k": [1]},
        "source": "s",
        "agent_id": "agent",
        "session_id": "session",
        "created_at": "2024-05-06T07:08:09Z",
    }
    assert memory_record(exported) == MemoryRecord(
        content="x",
        memory_type=MemoryType.PINNED,
        tags=("a", "b"),
        metadata={"k": [1]},
        source="s",
        agent_id="agent",
        session_id="session",
        created_at=datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC),
    )


def test_empty_optional_texts_count_as_absent_and_a_time_without_zone_as_utc() -> None:
    said: Any = {"content": "x", "source": "", "memory_type": "", "tags": None, "created_at": "2024-05-06T07:08:09"}
    record = memory_record(said)
    assert (record.source, record.memory_type, record.tags) == (None, MemoryType.INSIGHT, ())
    assert record.created_at == datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    assert memory_record({"content": "x", "created_at": ""}).created_at is None


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        (5, "item", "must be a JSON object"),
        ({}, "content", "required"),
        ({"content": 5}, "content", "must be text"),
        ({"content": " "}, "content", "must not be empty"),
        ({"content": "a\x00"}, "content", "must not contain NUL characters"),
        ({"content": "x", "tags": "a"}, "tags", "must be a list of texts"),
        ({"content": "x", "tags": {"a": 1}}, "tags", "must be a list of texts"),
        ({"content": "x", "tags": [1]}, "tags", "must be text"),
        ({"content": "x", "metadata": "\ud800"}, "metadata", "must not contain lone surrogates"),
        ({"content": "x", "memory_type": "session"}, "memory_type", "must be insight or pinned"),
        ({"content": "x", "memory_type": []}, "memory_type", "must be insight or pinned"),
        ({"content": "x", "source": "s" * 256}, "source", "too long (max 255 characters)"),
        ({"content": "x", "created_at": "yesterday"}, "created_at", "must be a time in ISO 8601"),
        ({"content": "x", "created_at": 5}, "created_at", "must be text"),
    ],
)
def test_a_bad_memory_record_is_refused_by_field(value: Any, field: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        memory_record(value)
    assert (caught.value.field, caught.value.message) == (field, message)


def turn(content: str = "hi", **fields: Any) -> TurnRecord:
    given: dict[str, Any] = {"role": "user", "content": content, "seq": None, "created_at": None, **fields}
    return TurnRecord(**given)


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ({"role": "user", "content": "hi"}, turn()),
        ({"role": "user", "content": "hi", "seq": 4, "created_at": "2024-01-02T00:00:00+00:00"},
         turn(seq=4, created_at=datetime(2024, 1, 2, tzinfo=UTC))),
        ({"type": "message", "role": "user", "content": "hi"}, turn()),
        ({"role": "user", "content": ["hi", {"type": "text", "text": "there"}]}, turn("hi\nthere")),
        ({"type": "message", "message": {"role": "user", "content": [{"type": "text", "text": "hi"}]}}, turn()),
        ({"type": "message", "timestamp": "2024-01-02T00:00:00Z", "message": {"role": "user", "content": "hi"}},
         turn(created_at=datetime(2024, 1, 2, tzinfo=UTC))),
        ({"type": "message", "timestamp": 1_700_000_000, "message": {"role": "user", "content": "hi"}}, turn()),
        ({"type": "message", "message": {"role": "assistant", "content": [{"type": "toolCall"}, 5]}}, NotAMessage()),
        ({"type": "session", "id": "x"}, NotAMessage()),
    ],
)  # fmt: skip
def test_a_session_record_is_a_turn_or_something_else_that_a_log_holds(value: Any, meant: Any) -> None:
    assert turn_record(value) == meant


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        ([], "item", "must be a JSON object"),
        ({"content": "hi"}, "role", "required"),
        ({"role": " ", "content": "hi"}, "role", "must not be empty"),
        ({"role": "user"}, "content", "required"),
        ({"role": "user", "content": {"a": 1}}, "content", "must be text"),
        ({"role": "user", "content": [{"type": "text", "text": 1}]}, "content.text", "must be text"),
        ({"role": "user", "content": "hi", "seq": "1"}, "seq", "must be a whole number"),
        ({"role": "user", "content": "hi", "seq": True}, "seq", "must be a whole number"),
        ({"role": "user", "content": "hi", "seq": -1}, "seq", "must be from 0 to 2147483647"),
        ({"type": "message", "message": "hi"}, "item", "must be a JSON object"),
    ],
)
def test_a_bad_session_record_is_refused_by_field(value: Any, field: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        turn_record(value)
    assert (caught.value.field, caught.value.message) == (field, message)


def test_a_turn_beyond_its_bytes_is_too_large() -> None:
    with pytest.raises(TooLarge):
        turn_record({"role": "user", "content": "x" * 1_000_001})


def test_what_a_file_says_of_itself_is_a_short_text_or_nothing() -> None:
    assert label_of({"agent_id": "a"}, "agent_id") == "a"
    assert label_of({}, "agent_id") is None
    with pytest.raises(InvalidInput):
        label_of({"agent_id": 5}, "agent_id")
