"""Turns made clean, distinct and ordered."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.domain.model import SpaceId
from polymem.domain.turns import moments, number, strip_recalled, strip_recalled_json, turn_identity

OPEN, CLOSE = "<relevant-memories>", "</relevant-memories>"
NOW = datetime(2025, 3, 1, tzinfo=UTC)
PLAIN = st.text(st.characters(exclude_characters="<>"), max_size=10)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("hello", "hello"),
        (" spaces stay ", " spaces stay "),
        (f"{OPEN}a{CLOSE}", ""),
        (f"{OPEN}a{CLOSE}\n\nhello ", "hello"),
        (f"one {OPEN}a{CLOSE}two{OPEN}b{CLOSE} three", "one two three"),
        (f"before {OPEN}never closed", "before"),
        (f"x{OPEN}a{OPEN}b{CLOSE}c{CLOSE}y", "xy"),
        (f"x{OPEN}a{OPEN}b{CLOSE}c", "x"),
        (f"a stray {CLOSE} stays", f"a stray {CLOSE} stays"),
        (f"x{OPEN}a{CLOSE}y{CLOSE}z", f"xy{CLOSE}z"),
        ("<Relevant-Memories>a</RELEVANT-memories>b", "b"),
    ],
)
def test_recalled_blocks_are_cut_out_and_the_rest_stays(text: str, left: str) -> None:
    assert strip_recalled(text) == left


@given(st.lists(PLAIN | st.sampled_from([OPEN, CLOSE]), max_size=20))
def test_no_text_inside_a_block_is_left_and_all_outside_is(parts: list[str]) -> None:
    depth, left = 0, ""
    for part in parts:
        if part == OPEN:
            depth += 1
        elif part == CLOSE and depth:
            depth -= 1
        elif depth == 0:
            left += part
    assert strip_recalled("".join(parts)).strip() == left.strip()


def test_a_megabyte_of_opens_is_cut_in_one_pass() -> None:
    assert strip_recalled("x" + OPEN * 60_000) == "x"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('[{"type": "text"}]', '[{"type": "text"}]'),
        (f'{{"b": "{OPEN}x{CLOSE} y", "a": [1, null]}}', '{"a":[1,null],"b":"y"}'),
        (f'"{OPEN}x"', ""),
        (f"no json {OPEN}x", "no json"),
    ],
)
def test_recalled_blocks_are_cut_out_of_the_strings_of_json(text: str, left: str) -> None:
    assert strip_recalled_json(text) == left


def test_json_nested_beyond_reason_is_left_alone() -> None:
    text = "[" * 100_000 + f'"{OPEN}"'
    assert strip_recalled_json(text) == text


def identity(
    space: str = "s", session: str = "x", role: str = "user", content: str = "c", seq: int | None = None
) -> str:
    return turn_identity(SpaceId(space), session, role, content, seq=seq)


def test_a_turn_is_told_apart_by_space_session_role_content_and_given_seq() -> None:
    known = {
        identity(),
        identity(space="other"),
        identity(session="other"),
        identity(role="assistant"),
        identity(content="other"),
        identity(seq=0),
        identity(seq=1),
        identity(session="x\x1f", role="user"),
    }
    assert len(known) == 8
    assert identity(seq=3) == identity(seq=3)
    assert "content" not in identity(content="content")


@given(st.lists(st.none() | st.integers(0, 100), max_size=30), st.integers(0, 50))
def test_turns_without_a_number_come_after_all_before_them(given_numbers: list[int | None], first: int) -> None:
    numbers = number(given_numbers, first_free=first)
    before = first - 1
    for told, got in zip(given_numbers, numbers, strict=True):
        assert got == (told if told is not None else before + 1)
        before = max(before, got)


@given(st.lists(st.none() | st.integers(-5, 5).map(lambda days: NOW + timedelta(days=days)), max_size=30))
def test_turns_without_a_time_are_later_than_all_before_them_and_not_before_now(told: list[datetime | None]) -> None:
    times = moments(told, now=NOW)
    for index, (given_time, got) in enumerate(zip(told, times, strict=True)):
        if given_time is not None:
            assert got == given_time
        else:
            assert got >= NOW
            assert all(earlier < got for earlier in times[:index])


def test_stripped_json_is_json() -> None:
    text = json.dumps([{"type": "text", "text": f"{OPEN}a{CLOSE} b"}])
    assert json.loads(strip_recalled_json(text)) == [{"type": "text", "text": "b"}]
