"""Files cut into records: the same for any cut of the bytes, and a broken record costs only itself."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polymem.domain.splitting import (
    MAX_RECORD_BYTES,
    DocumentSplitter,
    LineSplitter,
    Record,
    WholeText,
    parse_record,
)

TEXT = st.text(st.sampled_from('ab"\\[]{},: \n\té😀'), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
CUTS = st.integers(1, 7)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def read(blocks: Sequence[bytes], splitter: Any = None) -> tuple[list[Record], Any]:
    used = DocumentSplitter("memories") if splitter is None else splitter
    found = [record for block in blocks for record in used.feed(block)]
    return found + used.finish(), used


@settings(max_examples=200)
@given(items=st.lists(JSON, max_size=5), size=CUTS, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
def test_the_items_of_a_list_come_out_as_they_went_in(
    *, items: list[Any], size: int, ascii_only: bool, indent: int | None
) -> None:
    data = json.dumps(items, ensure_ascii=ascii_only, indent=indent).encode()
    found, splitter = read(cut(data, size))
    assert [record.value for record in found] == items
    assert [record.number for record in found] == list(range(1, len(items) + 1))
    assert (splitter.has_list, splitter.problem) == (True, None)


@settings(max_examples=200)
@given(
    members=st.dictionaries(TEXT, JSON, max_size=3),
    items=st.lists(JSON, max_size=4),
    size=CUTS,
    is_first=st.booleans(),
)
def test_the_list_of_an_object_comes_out_and_its_other_members_are_known(
    *, members: dict[str, Any], items: list[Any], size: int, is_first: bool
) -> None:
    document = {"memories": items, **members} if is_first else {**members, "memories": items}
    found, splitter = read(cut(json.dumps(document, indent=1).encode(), size))
    assert [record.value for record in found] == items
    assert splitter.members == members
    assert (splitter.has_list, splitter.problem) == (True, None)


@settings(max_examples=100)
@given(st.lists(JSON, min_size=1, max_size=4), st.integers(0, 200), CUTS)
def test_a_truncated_document_gives_what_came_before_and_says_where_it_broke(
    items: list[Any], keep: int, size: int
) -> None:
    data = json.dumps({"memories": items}).encode()
    kept = data[: min(keep, len(data) - 1)]
    found, splitter = read(cut(kept, size))
    assert [record.value for record in found] == items[: len(found)]
    if found:
        assert splitter.problem == f"the file breaks off after item {len(found)}"
    assert splitter.problem is not None


@given(st.binary(max_size=60), CUTS)
def test_any_bytes_give_the_same_records_for_any_cut(data: bytes, size: int) -> None:
    for make in (lambda: DocumentSplitter("memories"), LineSplitter, WholeText):
        whole, first = read([data], make())
        parts, second = read(cut(data, size), make())
        assert (whole, first.problem) == (parts, second.problem)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"[1] x", "the file goes on behind its end, after item 1"),
        (b"[1,2}", "the file breaks after item 2: unexpected '}'"),
        (b'{"a": 1]', "the file breaks after item 0: unexpected ']'"),
        (b'{"memories": [1], "b": [2}', "the file breaks off after item 1"),
        (b"hello", "the file is not a JSON object or list"),
        (b"", "the file breaks off after item 0"),
        (b' \n{"memories": [1]} \n', None),
    ],
)
def test_a_document_says_where_it_stops_making_sense(data: bytes, problem: str | None) -> None:
    assert read([data])[1].problem == problem


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (b'{"memories": [{"a": 1}, {"b": 2} ', [{"a": 1}, {"b": 2}]),
        (b'[{"a": [1, {"b": "}"}]}', [{"a": [1, {"b": "}"}]}]),
        (b'[{"a": 1}, {"b": {"c": 2}', [{"a": 1}]),
        (b'[{"a": 1}, {"b": "}', [{"a": 1}]),
        (b"[1, 2", [1]),
        (b'{"memories": [{"a": 1}], "b": {}', [{"a": 1}]),
    ],
)
def test_a_whole_last_object_of_a_list_that_breaks_off_is_kept(data: bytes, values: list[Any]) -> None:
    for size in (1, 7, 100):
        found, splitter = read(cut(data, size))
        assert [record.value for record in found] == values
        assert splitter.problem == f"the file breaks off after item {len(values)}"


def test_nothing_is_read_behind_the_place_where_a_document_broke() -> None:
    splitter = DocumentSplitter("memories")
    splitter.feed(b"[1}")
    assert splitter.feed(b", 2, 3]") == []


@pytest.mark.parametrize(
    "data", [b'{"x": {"memories": [1]}}', b'{"memories": {"a": [1]}}', b'{"memories": 5}', b'{"other": [1]}', b"{}"]
)
def test_only_a_list_directly_under_the_key_counts(data: bytes) -> None:
    found, splitter = read([data])
    assert (found, splitter.has_list, splitter.problem) == ([], False, None)


def test_a_broken_item_costs_nothing_but_itself() -> None:
    found, _ = read([b'[{"a": 1}, {"b": nope}, {"c": "\xff"}, {"d": NaN}, ' + b"9" * 5000 + b", , 2,]"])
    assert [record.value for record in found] == [{"a": 1}, None, None, None, None, 2]
    problems = [record.problem or "" for record in found]
    assert problems[0] == problems[5] == ""
    assert problems[1:4] == [
        "not valid JSON: Expecting value at character 6",
        "not valid UTF-8",
        "not valid JSON: NaN is no JSON number",
    ]
    assert problems[4].startswith("not valid JSON: ")


def test_items_too_large_or_too_deep_are_refused_and_the_next_is_read() -> None:
    large = b'"' + b"x" * MAX_RECORD_BYTES + b'"'
    deep = b"[" * 100 + b"]" * 100
    found, splitter = read(cut(b"[" + large + b"," + deep + b",3]", 65_536))
    assert [(record.number, record.value, record.problem) for record in found] == [
        (1, None, f"larger than {MAX_RECORD_BYTES} bytes"),
        (2, None, "nested too deeply"),
        (3, 3, None),
    ]
    assert splitter.problem is None


def test_members_too_large_or_broken_are_left_out() -> None:
    data = b'{"a": "' + b"x" * 70_000 + b'", "b": nope, "c": ' + b"[" * 99 + b"]" * 99 + b', "d": 1, "memories": [2]}'
    found, splitter = read(cut(data, 1000))
    assert [record.value for record in found] == [2]
    assert splitter.members == {"d": 1}


@given(
    items=st.lists(JSON, max_size=5),
    size=CUTS,
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
    is_ended=st.booleans(),
)
def test_lines_come_out_as_they_went_in_numbered_as_in_the_file(
    *, items: list[Any], size: int, end: str, is_ended: bool
) -> None:
    data = (end.join(json.dumps(item) for item in items) + (end if is_ended else "")).encode()
    found, splitter = read(cut(data, size), LineSplitter())
    step = 2 if end == "\n\n" else 1
    assert [(record.number, record.value) for record in found] == [
        (index * step + 1, item) for index, item in enumerate(items)
    ]
    assert splitter.problem is None


def test_a_line_too_long_or_too_deep_is_refused_and_the_next_is_read() -> None:
    data = b"x" * (MAX_RECORD_BYTES + 1) + b"\n" + b"[" * 200_000 + b"\n1"
    found, _ = read(cut(data, 65_536), LineSplitter())
    assert [record.problem for record in found] == [f"larger than {MAX_RECORD_BYTES} bytes", "nested too deeply", None]


def test_a_file_that_is_no_json_is_one_record() -> None:
    assert read([b"caf\xc3", b"\xa9"], WholeText())[0] == [Record(1, {"content": "café"})]
    assert read([b"\xff"], WholeText())[0] == [Record(1, None, "neither JSON nor UTF-8 text")]
    assert read([b"x" * (MAX_RECORD_BYTES + 1)], WholeText())[0][0].problem == f"larger than {MAX_RECORD_BYTES} bytes"


def test_a_record_with_a_lone_surrogate_escape_parses_and_is_refused_by_its_meaning() -> None:
    assert parse_record(1, b'"\\ud800"') == Record(1, "\ud800")
