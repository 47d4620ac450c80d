"""Traits: what a stored text tells beside its words, and as how many bytes."""

from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.domain.model import ContentType, Memory, MemoryType, Turn
from polymem.domain.timewords import MAX_SPANS, DaySpan
from polymem.domain.traits import SPEAKER_LIMIT, Traits, decode_traits, encode_traits, traits_of
from samples import AT, account_of, memory_of

ACCOUNT = account_of("a")


def _note(content: str) -> Memory:
    return replace(memory_of(ACCOUNT, "note"), content=content)


def _turn(role: str, content: str) -> Memory:
    turn = Turn(role=role, seq=1, content_type=ContentType.TEXT)
    return replace(_note(content), turn=turn, memory_type=MemoryType.SESSION, session_id="s")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("I moved", (None, False, False)),
        ("Caroline: I moved", ("Caroline", True, False)),
        ("Assistant: take the train", ("Assistant", False, True)),
    ],
)
def test_a_note_is_no_dialogue_but_may_begin_with_the_name_of_who_said_it(
    content: str, told: tuple[str | None, bool, bool]
) -> None:
    traits = traits_of(_note(content))
    assert (traits.is_note, traits.is_dialogue) == (True, False)
    assert (traits.speaker, traits.has_name, traits.is_chat) == told


@pytest.mark.parametrize(
    ("role", "content", "speaker", "kind"),
    [
        ("Caroline", "I moved", "Caroline", "dialogue"),
        (" Caroline ", "I moved", "Caroline", "dialogue"),
        ("Caroline", "Melanie: I moved", "Caroline", "dialogue"),
        ("user", "I moved", "user", "person"),
        ("user", "Caroline: I moved", "Caroline", "dialogue"),
        ("Human", "  Dr. Anna-Maria O'Neil: hello", "Dr. Anna-Maria O'Neil", "dialogue"),
        ("user", "note: buy milk", "user", "person"),
        ("user", "One two Three four Five: no", "user", "person"),
        ("customer", "At 10:30 we met", "customer", "person"),
        ("assistant", "Caroline: I moved", "assistant", "assistant"),
        ("AI", "hello", "AI", "assistant"),
        ("tool", "{}", "tool", "assistant"),
        ("  ", "hello", None, "nobody"),
        ("\u5f20\u4f1f", "\u4f60\u597d", "\u5f20\u4f1f", "dialogue"),
    ],
)
def test_who_speaks_is_told_by_the_role_or_by_a_name_before_a_colon(
    role: str, content: str, speaker: str | None, kind: str
) -> None:
    traits = traits_of(_turn(role, content))
    assert traits.speaker == speaker
    assert traits.is_dialogue == (kind == "dialogue")
    assert traits.is_assistant == (kind == "assistant")


def test_a_speaker_of_any_length_is_cut_and_kept_whole_as_letters() -> None:
    traits = traits_of(_turn("\u5f20" * 500, "hello"))
    assert traits.speaker == "\u5f20" * SPEAKER_LIMIT
    assert decode_traits(encode_traits(traits)).speaker == traits.speaker


@pytest.mark.parametrize(
    ("content", "asking", "ends_asking"),
    [
        ("", 0.0, False),
        ("I moved.", 0.0, False),
        ("How are you?", 1.0, True),
        ("How are you?  \n", 1.0, True),
        ("Really? Yes", 7 / 10, False),
        ("\u4f60\u597d\u5417\uff1f\u6211\u5f88\u597d\u3002", 0.5, False),
        ("\u4f60\u597d\u5417\uff1f", 1.0, True),
        ("???", 0.0, True),
    ],
)
def test_how_much_of_a_text_asks(content: str, asking: float, *, ends_asking: bool) -> None:
    traits = traits_of(_note(content))
    assert traits.asking == pytest.approx(asking)
    assert traits.ends_asking == ends_asking


@pytest.mark.parametrize(
    ("content", "has_number", "has_time", "names"),
    [
        ("we ate bread", False, False, 0.0),
        ("we ate 3 loaves", True, False, 0.0),
        ("we ate Three loaves in Tuesday's rain", True, True, 2 / 7),
        ("I met Anna and Ben", False, False, 2 / 5),
        ("Anna met nobody", False, False, 0.0),
        ("in 1999", True, True, 0.0),
        ("a, Aaa, Bbb", False, False, 2 / 3),
        ("\u6211\u559c\u6b22\u70e4\u9e2d", False, False, 0.0),
    ],
)
def test_whether_a_text_has_numbers_times_and_names(
    content: str, names: float, *, has_number: bool, has_time: bool
) -> None:
    traits = traits_of(_note(content))
    assert (traits.has_number, traits.has_time) == (has_number, has_time)
    assert traits.names == pytest.approx(names)


def test_the_days_it_names_are_read_against_the_day_it_was_said() -> None:
    day = AT.date() - timedelta(days=1)
    assert traits_of(_note("yesterday")).spans == (DaySpan(day, day),)
    later = replace(_note("yesterday"), created_at=AT + timedelta(days=1))
    assert traits_of(later).spans == (DaySpan(AT.date(), AT.date()),)


def test_only_the_beginning_of_a_very_long_text_is_read() -> None:
    assert traits_of(_note("word " * 20_000 + "yesterday, 5 times?")) == Traits(is_note=True)


def test_no_bytes_are_the_traits_of_a_text_that_tells_nothing() -> None:
    assert decode_traits(b"") == Traits() == decode_traits(encode_traits(Traits()))


def test_a_lone_surrogate_in_a_name_is_replaced() -> None:
    assert decode_traits(encode_traits(Traits(speaker="A\ud800"))).speaker == "A?"


def test_a_span_of_centuries_is_cut_to_what_two_bytes_count() -> None:
    span = DaySpan(date(1, 1, 1), date(9999, 12, 31))
    (kept,) = decode_traits(encode_traits(Traits(spans=(span,)))).spans
    assert (kept.first, kept.days) == (span.first, 0xFFFF)


spans = st.builds(
    lambda first, days: DaySpan(first, min(first, date.max - timedelta(days=days)) + timedelta(days=days)),
    st.dates(max_value=date(9000, 1, 1)),
    st.integers(0, 0xFFFE),
)
shares = st.floats(0, 1)


@given(
    traits=st.builds(
        Traits,
        speaker=st.none() | st.text(st.characters(codec="utf-8"), min_size=1, max_size=SPEAKER_LIMIT),
        asking=shares,
        ends_asking=st.booleans(),
        has_number=st.booleans(),
        has_time=st.booleans(),
        names=shares,
        spans=st.lists(spans, max_size=MAX_SPANS).map(tuple),
        is_note=st.booleans(),
    )
)
def test_what_is_encoded_comes_back_with_its_shares_rounded(traits: Traits) -> None:
    back = decode_traits(encode_traits(traits))
    assert replace(back, asking=0.0, names=0.0) == replace(traits, asking=0.0, names=0.0)
    assert back.asking == pytest.approx(traits.asking, abs=0.51 / 255)
    assert back.names == pytest.approx(min(traits.names, 255 / 500), abs=0.51 / 500)
    assert encode_traits(back) == encode_traits(traits)


@given(content=st.text(), role=st.text())
def test_any_text_of_any_role_has_traits_that_fit(content: str, role: str) -> None:
    traits = traits_of(_turn(role, content))
    assert 0 <= traits.asking <= 1
    assert 0 <= traits.names <= 1
    assert len(encode_traits(traits)) <= 4 + 6 * MAX_SPANS + 4 * SPEAKER_LIMIT
    assert encode_traits(decode_traits(encode_traits(traits))) == encode_traits(traits)
