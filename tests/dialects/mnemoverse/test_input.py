"""What each field takes and refuses: shapes with 422, meanings with 400, always naming the field."""

import base64
import re
import zlib
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.domain.model import MemoryId
from polymem.domain.query import FeedPosition
from polymem.errors import InvalidInput
from polymem.http.dialects.mnemoverse.wire import cursor_of, position_of

Client = Any
A = "00000000-0000-7000-8000-00000000000a"


def refused(*errors: tuple[list[object], str]) -> dict[str, object]:
    listed = [{"loc": ["body", *loc], "msg": reason} for loc, reason in errors]
    return {
        "code": "VALIDATION_ERROR",
        "message": "Request validation failed",
        "retryable": False,
        "details": {"errors": listed},
    }


WRITE: dict[str, Any] = {"content": "a"}
READ: dict[str, Any] = {"query": "a"}
FEEDBACK: dict[str, Any] = {"atom_ids": [A], "outcome": 1}
GRAPH: dict[str, Any] = {"seeds": ["a"]}
BAD: list[tuple[str, dict[str, Any], list[object], str]] = [
    # write
    ("write", {"content": None}, ["content"], "required"),
    ("write", {"content": ""}, ["content"], "too short (min 1)"),
    ("write", {"content": " \n\t"}, ["content"], "must not be blank"),
    ("write", {"content": "x" * 10_001}, ["content"], "too long (max 10000)"),
    ("write", {"content": 7}, ["content"], "must be a string"),
    ("write", {**WRITE, "concepts": "a,b"}, ["concepts"], "must be a list"),
    ("write", {**WRITE, "concepts": [1]}, ["concepts", 0], "must be a string"),
    ("write", {**WRITE, "concepts": ["a", " "]}, ["concepts", 1], "must not be blank"),
    ("write", {**WRITE, "concepts": ["a" * 257]}, ["concepts", 0], "too long (max 256)"),
    ("write", {**WRITE, "concepts": ["a"] * 257}, ["concepts"], "too many (max 256)"),
    ("write", {**WRITE, "domain": 1}, ["domain"], "must be a string"),
    ("write", {**WRITE, "domain": "  "}, ["domain"], "must not be blank"),
    ("write", {**WRITE, "domain": "d" * 101}, ["domain"], "too long (max 100)"),
    ("write", {**WRITE, "metadata": []}, ["metadata"], "must be an object"),
    ("write", {**WRITE, "metadata": "{}"}, ["metadata"], "must be an object"),
    ("write", {**WRITE, "external_ref": ""}, ["external_ref"], "too short (min 1)"),
    ("write", {**WRITE, "external_ref": "r" * 256}, ["external_ref"], "too long (max 255)"),
    ("write", {**WRITE, "fingerprint": "f" * 513}, ["fingerprint"], "too long (max 512)"),
    ("write", {**WRITE, "supersedes": [A] * 33}, ["supersedes"], "too many (max 32)"),
    ("write", {**WRITE, "supersedes": [A, "x"]}, ["supersedes", 1], "must be a UUID"),
    ("write", {**WRITE, "domain": "xroom:room_1", "supersedes": [A]}, ["supersedes"], "is not taken in a shared room"),
    # write-batch
    ("write-batch", {}, ["items"], "required"),
    ("write-batch", {"items": []}, ["items"], "too few (min 1)"),
    ("write-batch", {"items": [WRITE] * 501}, ["items"], "too many (max 500)"),
    ("write-batch", {"items": WRITE}, ["items"], "must be a list"),
    (
        "write-batch",
        {"items": [WRITE, {**WRITE, "supersedes": [A]}]},
        ["items", 1, "supersedes"],
        "is not taken in a batch: write it alone",
    ),
    # read
    ("read", {}, ["query"], "required"),
    ("read", {"query": ""}, ["query"], "too short (min 1)"),
    ("read", {"query": "  "}, ["query"], "must not be blank"),
    ("read", {"query": "q" * 5_001}, ["query"], "too long (max 5000)"),
    ("read", {**READ, "top_k": 0}, ["top_k"], "must be at least 1"),
    ("read", {**READ, "top_k": 101}, ["top_k"], "must be at most 100"),
    ("read", {**READ, "top_k": "10"}, ["top_k"], "must be an integer"),
    ("read", {**READ, "top_k": True}, ["top_k"], "must be an integer"),
    ("read", {**READ, "top_k": 1.5}, ["top_k"], "must be an integer"),
    ("read", {**READ, "min_relevance": -0.1}, ["min_relevance"], "must be at least 0.0"),
    ("read", {**READ, "min_relevance": 1.1}, ["min_relevance"], "must be at most 1.0"),
    ("read", {**READ, "min_relevance": "0.3"}, ["min_relevance"], "must be a number"),
    ("read", {**READ, "min_relevance": False}, ["min_relevance"], "must be a number"),
    ("read", {**READ, "include_associations": 1}, ["include_associations"], "must be true or false"),
    ("read", {**READ, "include_history": "true"}, ["include_history"], "must be true or false"),
    ("read", {**READ, "domain": "d" * 101}, ["domain"], "too long (max 100)"),
    ("read", {**READ, "concepts": [None]}, ["concepts", 0], "must be a string"),
    ("read", {**READ, "order_by": "date"}, ["order_by"], "must be 'relevance' or 'recency'"),
    ("read", {**READ, "since": "yesterday"}, ["since"], "must be an ISO-8601 time"),
    ("read", {**READ, "until": 1_700_000_000}, ["until"], "must be a string"),
    ("read", {**READ, "exclude_author": "a" * 256}, ["exclude_author"], "too long (max 255)"),
    ("read", {**READ, "fingerprint": "f" * 513}, ["fingerprint"], "too long (max 512)"),
    ("read", {**READ, "diversity": 1.01}, ["diversity"], "must be at most 1.0"),
    # read-batch
    ("read-batch", {"queries": []}, ["queries"], "too few (min 1)"),
    ("read-batch", {"queries": [READ] * 51}, ["queries"], "too many (max 50)"),
    ("read-batch", {"queries": [READ, {}]}, ["queries", 1, "query"], "required"),
    ("read-batch", {"queries": ["a"]}, ["queries", 0], "must be an object"),
    # query
    ("query", {**READ, "domains": "general"}, ["domains"], "must be a list"),
    ("query", {**READ, "domains": [""]}, ["domains", 0], "too short (min 1)"),
    ("query", {**READ, "metadata_filter": {}}, ["metadata_filter"], "must be a list"),
    (
        "query",
        {**READ, "metadata_filter": [{"field": "a", "op": "gt", "value": 1}]},
        ["metadata_filter", 0, "op"],
        "must be 'eq', 'contains' or 'in'",
    ),
    ("query", {**READ, "metadata_filter": [{"field": "a", "op": "eq"}]}, ["metadata_filter", 0, "value"], "required"),
    (
        "query",
        {**READ, "metadata_filter": [{"field": "", "op": "eq", "value": 1}]},
        ["metadata_filter", 0, "field"],
        "too short (min 1)",
    ),
    (
        "query",
        {**READ, "metadata_filter": [{"field": "a.b.c.d.e.f.g.h.i", "op": "eq", "value": 1}]},
        ["metadata_filter", 0, "field"],
        "too many steps (max 8)",
    ),
    (
        "query",
        {**READ, "metadata_filter": [{"field": "a", "op": "in", "value": "abc"}]},
        ["metadata_filter", 0, "value"],
        "must be a list",
    ),
    (
        "query",
        {**READ, "metadata_filter": [{"field": "a", "op": "in", "value": [0] * 101}]},
        ["metadata_filter", 0, "value"],
        "too many (max 100)",
    ),
    (
        "query",
        {**READ, "metadata_filter": [{"field": "a", "op": "eq", "value": 1}] * 17},
        ["metadata_filter"],
        "too many (max 16)",
    ),
    # recent
    ("recent", {"limit": 0}, ["limit"], "must be at least 1"),
    ("recent", {"limit": 101}, ["limit"], "must be at most 100"),
    ("recent", {"cursor": 5}, ["cursor"], "must be a string"),
    # graph
    ("graph", {}, ["seeds"], "required"),
    ("graph", {"seeds": []}, ["seeds"], "too few (min 1)"),
    ("graph", {"seeds": ["a"] * 21}, ["seeds"], "too many (max 20)"),
    ("graph", {**GRAPH, "depth": 0}, ["depth"], "must be at least 1"),
    ("graph", {**GRAPH, "depth": 4}, ["depth"], "must be at most 3"),
    ("graph", {**GRAPH, "limit": 501}, ["limit"], "must be at most 500"),
    ("graph", {**GRAPH, "min_weight": -0.1}, ["min_weight"], "must be at least 0.0"),
    # feedback
    ("feedback", {"outcome": 1}, ["atom_ids"], "required"),
    ("feedback", {"atom_ids": [A]}, ["outcome"], "required"),
    ("feedback", {**FEEDBACK, "atom_ids": []}, ["atom_ids"], "too few (min 1)"),
    ("feedback", {**FEEDBACK, "atom_ids": [A] * 501}, ["atom_ids"], "too many (max 500)"),
    ("feedback", {**FEEDBACK, "atom_ids": [A, A, "mem_1"]}, ["atom_ids", 2], "must be a UUID"),
    ("feedback", {**FEEDBACK, "atom_ids": [f"{{{A}}}"]}, ["atom_ids", 0], "must be a UUID"),
    ("feedback", {**FEEDBACK, "outcome": 1.5}, ["outcome"], "must be at most 1.0"),
    ("feedback", {**FEEDBACK, "outcome": "good"}, ["outcome"], "must be a number"),
    ("feedback", {**FEEDBACK, "outcome": True}, ["outcome"], "must be a number"),
    ("feedback", {**FEEDBACK, "query_concepts": "a"}, ["query_concepts"], "must be a list"),
    # others
    ("consolidate", {"domain": ["a"]}, ["domain"], "must be a string"),
    ("atoms/by-external-ref", {}, ["external_ref"], "required"),
    ("atoms/by-external-ref", {"external_ref": "r" * 256}, ["external_ref"], "too long (max 255)"),
]


@pytest.mark.requirement("mnemoverse.error.schema", "mnemoverse.limits", "mnemoverse.types")
@pytest.mark.parametrize(("path", "sent", "loc", "reason"), BAD)
async def test_a_field_of_another_shape_is_named(
    api: Client, told: Any, *, path: str, sent: dict[str, Any], loc: list[object], reason: str
) -> None:
    answer = await api.post(f"/memory/{path}", json=sent)
    assert told(answer) == (422, refused((loc, reason)))


@pytest.mark.requirement("mnemoverse.error.schema")
async def test_every_field_of_another_shape_is_named(api: Client, told: Any) -> None:
    answer = await api.post("/memory/read", json={"query": "", "top_k": 0})
    assert told(answer) == (422, refused((["query"], "too short (min 1)"), (["top_k"], "must be at least 1")))
    assert told(await api.post("/memory/write", json=["content"])) == (422, refused(([], "must be an object")))


@pytest.mark.requirement("mnemoverse.error.meaning")
@pytest.mark.parametrize(
    ("path", "sent", "field", "reason"),
    [
        ("read", {**READ, "since": "2026-02-01", "until": "2026-01-31"}, "since", "must not be after until"),
        ("recent", {"since": "0001-01-01"}, "since", "must lie in the years 2 to 9998"),
        ("query", {**READ, "until": "9999-12-31T23:59:59Z"}, "until", "must lie in the years 2 to 9998"),
        ("recent", {"cursor": "damaged"}, "cursor", "is damaged, or not one of this server"),
        ("recent", {"cursor": "A" * 40}, "cursor", "is damaged, or not one of this server"),
        ("recent", {"cursor": "A" * 513}, "cursor", "is damaged, or not one of this server"),
        ("recent", {"cursor": "Ünicode!"}, "cursor", "is damaged, or not one of this server"),
        ("recent", {"cursor": "f" * 37 + "=" * 3}, "cursor", "is damaged, or not one of this server"),
        ("write", {**WRITE, "metadata": {"a": "x" * 70_000}}, "metadata", "too large (max 65536 bytes as JSON)"),
    ],
)
async def test_a_field_without_meaning_is_named(
    api: Client, told: Any, *, path: str, sent: dict[str, Any], field: str, reason: str
) -> None:
    answer = await api.post(f"/memory/{path}", json=sent)
    assert told(answer) == (
        400,
        {
            "code": "VALIDATION_ERROR",
            "message": f"{field}: {reason}",
            "retryable": False,
            "details": {"errors": [{"loc": ["body", field], "msg": reason}]},
        },
    )


@pytest.mark.requirement("mnemoverse.limits")
async def test_what_is_just_within_the_limits_is_taken(api: Client) -> None:
    content = "ü" * 9_990 + " it is so"
    written = {
        "content": content,
        "concepts": ["c" * 256, *(f"concept {number}" for number in range(255))],
        "domain": "d" * 100,
        "external_ref": "r" * 255,
        "fingerprint": "f" * 512,
    }
    answers = [
        await api.post("/memory/write", json=written),
        await api.post("/memory/read", json={"query": "q" * 5_000, "top_k": 100, "min_relevance": 1, "diversity": 1}),
        await api.post("/memory/read", json={"query": "q", "top_k": 1, "min_relevance": 0, "fingerprint": "f" * 512}),
        await api.post("/memory/recent", json={"limit": 100}),
        await api.post("/memory/graph", json={"seeds": ["s" * 256] * 20, "depth": 3, "limit": 500, "min_weight": 0}),
        await api.post("/memory/feedback", json={"atom_ids": [A] * 500, "outcome": -1}),
        await api.post(
            "/memory/query",
            json={
                **READ,
                "domains": [f"d{number}" for number in range(100)],
                "metadata_filter": [{"field": "a.b.c.d.e.f.g.h", "op": "in", "value": list(range(100))}] * 16,
            },
        ),
    ]
    assert [answer.status_code for answer in answers] == [200] * 7
    assert answers[0].json()["stored"]
    assert (await api.get(f"/memory/atoms/{answers[0].json()['atom_id']}")).json()["content"] == content


@pytest.mark.requirement("mnemoverse.null")
async def test_null_is_as_absent_and_unknown_fields_are_ignored(api: Client) -> None:
    nothing = dict.fromkeys(
        ("concepts", "domain", "metadata", "external_ref", "supersedes", "fingerprint", "whatever"), None
    )
    written = await api.post("/memory/write", json={"content": "nulls are nothing", **nothing})
    read = await api.post(
        "/memory/read",
        json={
            "query": "nulls are nothing",
            **dict.fromkeys(("top_k", "domain", "min_relevance", "include_associations", "concepts", "since"), None),
            **dict.fromkeys(("order_by", "exclude_author", "include_history", "fingerprint", "diversity"), None),
            "colour": "blue",
        },
    )
    empty = await api.post(
        "/memory/read", json={"query": "nulls are nothing", "domain": "", "since": "", "fingerprint": ""}
    )
    made = written.json()["atom_id"]
    assert (await api.get(f"/memory/atoms/{made}")).json()["metadata"] == {}
    assert [[item["atom_id"] for item in answer.json()["items"]] for answer in (read, empty)] == [[made]] * 2


@pytest.mark.requirement("mnemoverse.uuid")
async def test_an_id_is_taken_in_any_case_with_hyphens_or_without(api: Client, write: Any) -> None:
    made = await write("spelled in many ways")
    bare = made.replace("-", "")
    for spelled in (made.upper(), bare, bare.upper()):
        assert (await api.get(f"/memory/atoms/{spelled}")).json()["atom_id"] == made
    taught = await api.post("/memory/feedback", json={"atom_ids": [made.upper(), bare], "outcome": 1})
    assert taught.json()["updated_count"] == 1
    assert (await api.delete(f"/memory/atoms/{bare.upper()}")).json() == {"deleted": 1, "atom_id": made}


# --- cursors ---------------------------------------------------------------------------------------------


@pytest.mark.requirement("mnemoverse.recent.cursor")
@given(st.datetimes(datetime(2, 1, 2), datetime(9998, 1, 1), timezones=st.just(UTC)), st.uuids())  # noqa: DTZ001 - naive bounds are asked for
def test_a_cursor_leads_back_to_its_place(moment: datetime, made: UUID) -> None:
    memory: Any = SimpleNamespace(created_at=moment, id=str(made))
    cursor = cursor_of(memory)
    assert re.fullmatch(r"[A-Za-z0-9_=-]{1,512}", cursor)
    assert position_of(cursor) == FeedPosition(moment, MemoryId(str(made)))


@pytest.mark.requirement("mnemoverse.recent.cursor")
@given(st.one_of(st.text(max_size=60), st.binary(max_size=40).map(lambda raw: base64.urlsafe_b64encode(raw).decode())))
def test_any_other_text_is_a_damaged_cursor(text: str) -> None:
    with pytest.raises(InvalidInput, match="damaged"):
        position_of(text)


@pytest.mark.requirement("mnemoverse.recent.cursor")
def test_a_cursor_of_a_time_beyond_the_calendar_is_damaged() -> None:
    place = b"\x7f" + bytes(23)
    with pytest.raises(InvalidInput, match="damaged"):
        position_of(base64.urlsafe_b64encode(place + zlib.crc32(place).to_bytes(4, "big")).decode())
