"""What a prototype is made of."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from polymem.domain.limits import MAX_TAGS
from polymem.domain.model import JsonValue, Memory, MemoryId, MemoryRole, UserId
from polymem.domain.prototypes import MOST_CONCEPTS, joined, joining_rate, prototype_of
from samples import AT, account_of, memory_of

_ACCOUNT = account_of("acme")


def _memory(name: str, **fields: Any) -> Memory:
    return replace(memory_of(_ACCOUNT, name, tags=()), **fields)


def _made(*members: Memory, head: int = 0) -> Memory:
    return prototype_of(MemoryId("p"), members[head], members)


def test_a_prototype_has_the_text_and_time_of_its_head_and_the_latest_change() -> None:
    one = _memory("a", created_at=AT, updated_at=AT + timedelta(days=2), created_by=UserId("one"))
    other = _memory("b", created_at=AT + timedelta(days=1), updated_at=AT + timedelta(days=1), external_ref="r")
    made = _made(one, other, head=1)
    assert (made.content, made.created_at, made.updated_at) == ("b", other.created_at, one.updated_at)
    assert (made.derived_from, made.role, made.version, made.revision) == (("a", "b"), MemoryRole.PROTOTYPE, 1, 1)
    assert (made.external_ref, made.fingerprint, made.created_by) == (None, None, other.created_by)


def test_what_all_agree_on_stays() -> None:
    made = _made(_memory("a", agent_id="x", source="s"), _memory("b", agent_id="x", source="t"))
    assert (made.agent_id, made.source, made.session_id) == ("x", None, None)


def test_concepts_stand_by_how_many_have_them_and_are_bounded() -> None:
    many = tuple(f"concept {number}" for number in range(MOST_CONCEPTS))
    made = _made(
        _memory("a", concepts=("Tea", *many)),
        _memory("b", concepts=("milk", "tea", "tea")),
        _memory("c", concepts=("milk",)),
    )
    assert made.concepts[:3] == ("Tea", "milk", "concept 0")
    assert len(made.concepts) == MOST_CONCEPTS


@pytest.mark.parametrize(
    ("head", "others", "expected"),
    [
        (None, (None,), None),
        ({}, (None,), {}),
        ({"a": 1}, ({"a": 2, "b": 3},), {"a": 1, "b": 3}),
        ({"a": 1}, ({"b": 3}, {"b": 4}), {"a": 1}),
        (None, ({"b": [1]}, {"b": [1]}), {"b": [1]}),
        ("text", ({"b": 1},), "text"),
        ({"a": 1}, ([1, 2],), {"a": 1}),
        ({"a": "x" * 40_000}, ({"b": "y" * 40_000, "c": 1},), {"a": "x" * 40_000, "c": 1}),
    ],
)
def test_metadata_is_the_heads_and_what_the_others_say_alike(
    head: JsonValue, others: tuple[JsonValue, ...], expected: JsonValue
) -> None:
    members = [_memory("h", metadata=head), *(_memory(f"{at}", metadata=each) for at, each in enumerate(others))]
    assert _made(*members).metadata == expected


def test_tags_are_merged_within_their_limit() -> None:
    made = _made(_memory("a", tags=("x",)), _memory("b", tags=tuple(f"t{at}" for at in range(MAX_TAGS))), head=1)
    assert made.tags == tuple(f"t{at}" for at in range(MAX_TAGS))
    assert _made(_memory("a", tags=("x",)), _memory("b", tags=("y", "x"))).tags == ("x", "y")


def test_importance_is_the_highest_and_valence_the_mean() -> None:
    made = _made(_memory("a", importance=0.2, valence=-0.4), _memory("b", importance=0.7, valence=0.2))
    assert made.importance == 0.7
    assert made.valence == pytest.approx(-0.1)


def test_what_the_sources_replaced_the_prototype_replaces() -> None:
    made = _made(_memory("a", supersedes=(MemoryId("x"),)), _memory("b", supersedes=(MemoryId("y"), MemoryId("x"))))
    assert made.supersedes == ("x", "y")


def test_joining_keeps_text_and_version_and_weighs_each_source_alike() -> None:
    made = _made(_memory("a", agent_id="x"), _memory("b", agent_id="x"))
    late = _memory("c", agent_id="y", concepts=("tea",), importance=0.9)
    after = joined(made, [late])
    assert (after.id, after.content, after.version, after.revision) == ("p", "a", 1, 2)
    assert (after.derived_from, after.agent_id, after.concepts, after.importance) == (
        ("a", "b", "c"),
        None,
        ("tea",),
        0.9,
    )
    assert joining_rate(made, 1) == pytest.approx(1 / 3)
