"""JSON has one meaning here, and what is taken can be given back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.errors import ErrorCode, InvalidInput
from polymem.http.kit import EdgeCode, EdgeError, parse_json, text_fault

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=30,
)


@given(values, st.booleans())
def test_every_storable_value_comes_back_equal(value: object, escaped: bool) -> None:  # noqa: FBT001 - drawn
    assert parse_json(json.dumps(value, ensure_ascii=escaped).encode()) == value


def take(body: bytes) -> None:
    """The body is a value that can be written again, or is refused as such."""
    try:
        value = parse_json(body)
    except (EdgeError, InvalidInput) as error:
        refusal = error
    else:
        assert json.loads(json.dumps(value, allow_nan=False).encode()) == value
        return
    assert refusal.code in {EdgeCode.MALFORMED_BODY, ErrorCode.INVALID_INPUT}


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_value_or_a_refusal(body: bytes) -> None:
    take(body)


@given(st.text('{}[]":,\\u00d8 a1', max_size=300))
def test_arbitrary_json_like_text_is_a_value_or_a_refusal(text: str) -> None:
    take(text.encode())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "expecting value at character 0"),
        ("{} {}", "extra data at character 3"),
        ('"\n"', "invalid control character at at character 1"),
        ("-Infinity", "-Infinity is not JSON"),
        ("9223372036854775808", "number out of range"),
        ("-9223372036854775809", "number out of range"),
        ("1" * 5000, "number out of range"),
        ("-1e400", "number out of range"),
        ('{"a":{"b":1,"b":2}}', 'duplicate key "b"'),
        ("[" * 65 + "]" * 65, "nested deeper than 64 levels"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested deeper than 64 levels"),
        ("\ufeff{}", "expecting value at character 0"),
    ],
)
def test_a_text_without_one_meaning_is_refused(body: str, reason: str) -> None:
    with pytest.raises(EdgeError) as refused:
        parse_json(body.encode())
    assert refused.value.message == reason


@pytest.mark.parametrize("body", ["9223372036854775807", "-9223372036854775808", "1e308", "[" * 64 + "]" * 64])
def test_the_largest_of_each_is_taken(body: str) -> None:
    assert parse_json(body.encode()) == json.loads(body)


def test_brackets_within_strings_do_not_nest() -> None:
    body = json.dumps(["[" * 100, '\\"[[[', "{" * 100] * 5)
    assert parse_json(body.encode()) == json.loads(body)


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        (rb'{"a":["x",{"b":"\ud800"}]}', "a[1].b", "must not contain lone surrogates"),
        (rb'{"a":"\u0000"}', "a", "must not contain NUL characters"),
        (rb'{"a":{"\udfff":1}}', "a", "a key must not contain lone surrogates"),
        (rb'"\u0000"', "body", "must not contain NUL characters"),
    ],
)
def test_text_that_cannot_be_stored_is_named_by_its_place(body: bytes, field: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_json(body)
    assert (refused.value.field, refused.value.message) == (field, reason)


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert parse_json(rb'{"a":"\ud83d\ude00","b":"\\u0000"}') == {"a": "\U0001f600", "b": "\\u0000"}


def test_text_is_judged_without_json() -> None:
    assert text_fault("späße") is None
    assert text_fault("a\x00") == "must not contain NUL characters"
    assert text_fault("\ud800") == "must not contain lone surrogates"
