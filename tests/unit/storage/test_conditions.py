"""The parts by which metadata is sifted stand in everything that passes, and in little else."""

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from polymem.domain.conditions import holds
from polymem.domain.model import JsonValue
from polymem.domain.query import Comparison, MetadataCondition
from polymem.storage.conditions import parts_of_metadata
from polymem.storage.rows import to_json

KEYS = ("a", "b", 'q"', "é")
numbers = (
    st.sampled_from((0, -0.0, 1, 1.0, True, 7, 7.0, -7, 1e15, 10**15, 1e22, 10**22, 2**53, 0.5, 1.5, 999999999999999.0))
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
)
values: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | numbers | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=5,
)


def may_hold(condition: MetadataCondition, metadata: JsonValue) -> bool:
    stored = to_json(metadata)
    return all(any(part in stored for part in group) for group in parts_of_metadata(condition))


def turned(value: JsonValue) -> JsonValue:
    """An equal value that is written in another way, where there is one."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000 and float(value) == value:
        return float(value)
    if isinstance(value, dict):
        return {key: turned(each) for key, each in reversed(value.items())}
    return [turned(each) for each in value] if isinstance(value, list) else value


@settings(max_examples=400)
@given(value=values, comparison=st.sampled_from(list(Comparison)), path=st.lists(st.sampled_from(KEYS), max_size=2))
@example(value=-0.0, comparison=Comparison.EQ, path=["a"])
@example(value=1e22, comparison=Comparison.EQ, path=["a"])
def test_what_a_condition_holds_of_has_a_part_of_each_group(
    value: JsonValue, comparison: Comparison, path: list[str]
) -> None:
    for wanted in (value, turned(value)):
        for asked in (wanted, [wanted], [None, wanted, "x"], *(wanted.values() if isinstance(wanted, dict) else ())):
            condition = MetadataCondition(tuple(path), comparison, asked)
            metadata = value
            for found in (metadata, [metadata], {"é": 1, "a": metadata}):
                nested: JsonValue = found
                for key in reversed(path):
                    nested = {key: nested, "other": None}
                assert may_hold(condition, nested) or not holds(condition, nested)


@settings(max_examples=200)
@given(condition=st.builds(MetadataCondition, st.lists(st.sampled_from(KEYS), max_size=2).map(tuple),
                           st.sampled_from(list(Comparison)), values), metadata=values)  # fmt: skip
def test_what_has_not_a_part_of_each_group_does_not_pass(condition: MetadataCondition, metadata: JsonValue) -> None:
    assume(not may_hold(condition, metadata))
    assert not holds(condition, metadata)


@pytest.mark.parametrize(
    ("condition", "parts"),
    [
        (MetadataCondition(("a", "b"), Comparison.EQ, "x"), (('"a":',), ('"b":"x"',))),
        (MetadataCondition(("a",), Comparison.EQ, 7.0), (('"a":7',),)),
        (MetadataCondition(("a",), Comparison.EQ, {"b": None}), (('"a":',), ('"b":null',))),
        (MetadataCondition(("a",), Comparison.IN, ["x", True]), (('"a":"x"', '"a":true'),)),
        (MetadataCondition(("a",), Comparison.IN, []), ((),)),
        (MetadataCondition(("a",), Comparison.IN, "x"), ((),)),
        (MetadataCondition(("a",), Comparison.IN, list(range(17))), (('"a":',),)),
        (MetadataCondition(("a",), Comparison.CONTAINS, 'say "x"'), (('"a":',), ('say \\"x\\"',))),
        (MetadataCondition(("a",), Comparison.CONTAINS, 5), (('"a":',), ("5",))),
    ],
)
def test_parts_tell_as_much_as_the_text_of_json_can(
    condition: MetadataCondition, parts: tuple[tuple[str, ...], ...]
) -> None:
    assert parts_of_metadata(condition) == parts
