"""Filters as SQL: what each says, and that values travel apart from it."""

from datetime import timedelta

import pytest

from polymem.domain.model import MemoryState, MemoryType, SpaceId, TenantId
from polymem.domain.query import Comparison, MemoryFilter, MetadataCondition
from polymem.storage.postgres.filters import TagsBy, one_of, where_clause
from polymem.storage.rows import microseconds
from samples import AT

TENANT = TenantId("t")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (set(), ("false", [])),
        ({"a"}, ("c = %s", ["a"])),
        ({"b", "a"}, ("c = ANY(%s::text[])", [["a", "b"]])),
        ({MemoryState.PAUSED}, ("c = %s", ["paused"])),
    ],
)
def test_a_column_holds_one_of_the_wanted_values(wanted: set[str], expected: tuple[str, list[object]]) -> None:
    assert one_of("c", wanted) == expected


def test_every_condition_is_in_the_clause_with_its_values_in_order() -> None:
    where = MemoryFilter(
        spaces=frozenset({SpaceId("s2"), SpaceId("s1")}),
        memory_types=frozenset({MemoryType.PINNED}),
        session_ids=frozenset({"'; DROP TABLE memories"}),
        tags=("b", "a", "b"),
        source="web",
        agent_id="bot",
        created_from_at=AT,
        updated_until_at=AT + timedelta(seconds=1),
    )
    clause, parameters = where_clause(where, TENANT, "e", tags=TagsBy.COPY)
    assert clause == (
        "e.tenant_id = %s AND e.space_id = ANY(%s::text[]) AND e.state = %s AND e.memory_type = %s"
        " AND e.session_id = %s AND e.tags @> %s::text[] AND e.source = %s AND e.agent_id = %s"
        " AND e.created_at >= %s AND e.updated_at < %s"
    )
    times = [microseconds(AT), microseconds(AT) + 1_000_000]
    rest = ["active", "pinned", "'; DROP TABLE memories", ["b", "a"], "web", "bot", *times]
    assert parameters == ["t", ["s1", "s2"], *rest]


def test_tags_are_looked_up_in_their_table_one_by_one() -> None:
    where = MemoryFilter(spaces=frozenset({SpaceId("s")}), states=None, tags=("b", "a", "b"))
    clause, parameters = where_clause(where, TENANT, "m")
    assert clause.count("EXISTS (SELECT 1 FROM memory_tags AS t WHERE t.tenant_id = m.tenant_id") == 2
    assert clause.count("%s") == len(parameters)
    assert parameters == ["t", "s", "t", "b", "t", "a"]


def test_no_tags_ask_for_nothing() -> None:
    where = MemoryFilter(spaces=frozenset({SpaceId("s")}), states=None)
    for tags in TagsBy:
        assert where_clause(where, TENANT, "c", tags=tags) == ("c.tenant_id = %s AND c.space_id = %s", ["t", "s"])


def test_what_a_copy_lacks_is_asked_of_the_memory_itself() -> None:
    where = MemoryFilter(
        spaces=frozenset({SpaceId("s")}),
        states=None,
        except_author="bot",
        metadata=(MetadataCondition(("k",), Comparison.EQ, 2),),
    )
    own, values = where_clause(where, TENANT, "m")
    assert "m.agent_id IS DISTINCT FROM %s AND m.created_by <> %s AND" in own
    assert values == ["t", "s", "bot", "bot", '"k":2', '"k"', "2"]
    copied, more = where_clause(where, TENANT, "e", tags=TagsBy.COPY)
    assert copied.startswith("e.tenant_id = %s AND e.space_id = %s AND (SELECT o.agent_id IS DISTINCT FROM %s")
    assert copied.endswith(" FROM memories AS o WHERE o.tenant_id = %s AND o.memory_id = e.memory_id)")
    assert more == [*values, "t"]
    assert copied.count("%s") == len(more)
