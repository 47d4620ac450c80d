"""Conditions on metadata say what they say of JSON values, whatever Python thinks of them."""

import pytest

from polymem.domain.conditions import holds
from polymem.domain.model import JsonValue
from polymem.domain.query import Comparison, MetadataCondition

EQ, CONTAINS, IN = Comparison.EQ, Comparison.CONTAINS, Comparison.IN


@pytest.mark.parametrize(
    ("one", "other", "are_equal"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (True, True, True),
        (None, None, True),
        (None, False, False),
        (2**70, 2**70 + 1, False),
        (10**23, 1e23, True),
        (2**70, 2.0**70, False),
        ("a", "a", True),
        ("a", "A", False),
        ("1", 1, False),
        ([], {}, False),
        ([], "", False),
        ([1, [2.0]], [1.0, [2]], True),
        ([1, 2], [2, 1], False),
        ([1], [1, 1], False),
        ([1], [True], False),
        ({"a": 1, "b": [{}]}, {"b": [{}], "a": 1.0}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 1}}, False),
    ],
)
def test_values_are_equal_as_json(one: JsonValue, other: JsonValue, *, are_equal: bool) -> None:
    for found, wanted in ((one, other), (other, one)):
        assert holds(MetadataCondition(("k",), EQ, wanted), {"k": found}) is are_equal
        assert holds(MetadataCondition(("k",), IN, ["other", wanted]), {"k": found}) is are_equal
        assert holds(MetadataCondition(("k",), CONTAINS, wanted), {"k": ["other", found]}) is are_equal


@pytest.mark.parametrize(
    ("found", "wanted", "is_contained"),
    [
        ("a text", "text", True),
        ("a text", "", True),
        ("a text", "Text", False),
        ("1", 1, False),
        ("text", ["text"], False),
        ([["x"]], ["x"], True),
        (["x", "y"], ["x"], False),
        (["longer"], "long", False),
        ([{"a": 1, "b": 2}], {"a": 1}, False),
        ([], None, False),
        ({"a": 1, "b": 2}, {"a": 1.0}, True),
        ({"a": 1, "b": 2}, {}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, True),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": [{"b": 1, "c": 2}]}, {"a": [{"b": 1}]}, False),
        ({"a": "text"}, {"a": "tex"}, False),
        ({"a": 1}, "a", False),
        (7, 7, False),
        (None, None, False),
    ],
)
def test_lists_texts_and_objects_contain_what_stands_in_them(
    found: JsonValue, wanted: JsonValue, *, is_contained: bool
) -> None:
    assert holds(MetadataCondition(("k",), CONTAINS, wanted), {"k": found}) is is_contained


@pytest.mark.parametrize("wanted", ["a text", {"a": 1}, None, 1])
def test_nothing_is_in_what_is_no_list(wanted: JsonValue) -> None:
    assert not holds(MetadataCondition(("k",), IN, wanted), {"k": "a"})


def test_nothing_is_in_an_empty_list() -> None:
    assert not holds(MetadataCondition(("k",), IN, []), {"k": []})


@pytest.mark.parametrize("comparison", list(Comparison))
@pytest.mark.parametrize("wanted", [None, [None], {}, ""])
@pytest.mark.parametrize("metadata", [None, {}, {"a": 1}, {"a": {"c": None}}, {"a": [{"b": None}]}, ["a"], "a", 7])
def test_a_missing_path_matches_nothing(comparison: Comparison, wanted: JsonValue, metadata: JsonValue) -> None:
    assert not holds(MetadataCondition(("a", "b"), comparison, wanted), metadata)


def test_a_path_goes_through_objects_by_their_keys() -> None:
    metadata: JsonValue = {"a.b": 1, "a": {"b": 2, "": {"0": 3}}}
    assert holds(MetadataCondition(("a.b",), EQ, 1), metadata)
    assert holds(MetadataCondition(("a", "b"), EQ, 2), metadata)
    assert holds(MetadataCondition(("a", "", "0"), EQ, 3), metadata)
    assert not holds(MetadataCondition(("a", "0"), EQ, 3), metadata)
    assert not holds(MetadataCondition(("list", "0"), EQ, 3), {"list": [3]})


def test_an_empty_path_is_the_metadata_itself() -> None:
    assert holds(MetadataCondition((), EQ, {"a": 1}), {"a": 1.0})
    assert holds(MetadataCondition((), CONTAINS, 2), [1, 2])
    assert not holds(MetadataCondition((), EQ, None), None)


def test_values_may_nest_deeper_than_any_stack() -> None:
    one: JsonValue = {}
    other: JsonValue = {}
    for _ in range(20_000):
        one, other = {"a": [one]}, {"a": [other]}
    assert holds(MetadataCondition(("k",), CONTAINS, {"k": one}), {"k": {"k": other, "x": 1}})
