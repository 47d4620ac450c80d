"""Terms: what is indexed, what a query asks for."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.domain.english import stem
from polymem.domain.model import (
    ContentType,
    Memory,
    MemoryId,
    MemoryState,
    MemoryType,
    SpaceId,
    Turn,
    UserId,
)
from polymem.domain.text import (
    TERM_LENGTH_LIMIT,
    fold,
    index_terms,
    index_text,
    is_mostly_latin,
    is_stop_word,
    query_terms,
    terms,
    words_with_spans,
)


def _memory(content: str = "I adopted a cat", **given: Any) -> Memory:
    fields: dict[str, Any] = {
        "id": MemoryId("m"),
        "space_id": SpaceId("s"),
        "content": content,
        "memory_type": MemoryType.INSIGHT,
        "state": MemoryState.ACTIVE,
        "tags": (),
        "metadata": None,
        "source": None,
        "agent_id": None,
        "session_id": None,
        "turn": None,
        "created_by": UserId("u"),
        "updated_by": None,
        "superseded_by": None,
        "derived_from": (),
        "version": 1,
        "revision": 1,
        "created_at": datetime(2023, 5, 8, tzinfo=UTC),
        "updated_at": datetime(2023, 5, 8, tzinfo=UTC),
    }
    return Memory(**(fields | given))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("🎉 … !!", ()),
        ("Project uses PostgreSQL 15", ("project", "use", "postgresql", "15")),
        ("snake_case and kebab-case", ("snak", "case", "and", "kebab", "case")),
        ("Caroline's cats' toys", ("carolin", "cat", "toy")),
        (
            "she'll won't can't isn't o'brien's rock\u2019n\u2019roll",
            ("she", "will", "can", "is", "obrien", "s", "rockn", "roll"),
        ),
        ("2,000 1,000,000 12,5 3.5 1.2.3 192.168.0.1", ("2000", "1000000", "12", "5", "3.5", "1.2.3", "192.168.0.1")),
        ("2023-05-08 8th May, 10:37 007 0", ("2023", "5", "8", "8", "may", "10", "37", "007", "0")),
        ("5pm 20kg 3.5kg b2b mp3 4x4", ("5", "pm", "20", "kg", "3.5", "kg", "b2b", "mp3", "4x4")),
        ("C++, c# and c", ("c++", "c#", "and", "c")),
        ("café CAFE naïve Straße STRASSE Łódź", ("cafe", "cafe", "naiv", "strass", "strass", "lodz")),
        ("ﬁne \uff11\uff12 ² ½", ("fine", "12", "2", "1", "2")),
        ("我喜欢苹果", ("我喜", "喜欢", "欢苹", "苹果")),
        ("東 京タワー", ("東", "京タ", "タワ", "ワー")),
        ("ilike苹果pie", ("ilik", "苹果", "pie")),
        ("안녕하세요", ("안녕", "녕하", "하세", "세요")),
        ("ฉันรัก", ("ฉั", "ัน", "นร", "รั", "ัก")),
        ("हिन्दी भाषा", ("हिन्दी", "भाषा")),
        ("العَرَبِيَّة إسلام", ("العربيه", "اسلام")),
        ("٣٤ १२", ("34", "12")),
        ("Привет, МИР", ("привет", "мир")),
        ("lone \ud800 surrogate", ("lone", "surrogat")),
    ],
)
def test_a_text_becomes_its_terms(text: str, expected: tuple[str, ...]) -> None:
    assert terms(text) == expected


@pytest.mark.parametrize(
    "forms",
    [
        "go goes going went gone",
        "run runs running ran",
        "camp camps camping camped",
        "hope hopes hoping hoped",
        "hop hops hopping hopped",
        "make makes making made",
        "study studies studying studied",
        "party parties",
        "movie movies",
        "child children",
        "buy buys buying bought",
        "use uses using used",
        "box boxes",
        "watch watches watched watching",
        "class classes",
        "create creates creating created",
        "happy happily",
        "quick quickly",
        "agree agrees agreed agreeing",
        "free freed",
        "lie lies lying lied",
        "write writes writing wrote written",
        "recommend recommends recommended recommending",
    ],
)
def test_the_forms_of_a_word_share_one_stem(forms: str) -> None:
    assert len({stem(form) for form in forms.split()}) == 1


@pytest.mark.parametrize("word", ["this", "during", "spring", "bus", "glass", "analysis", "virus", "red", "mp3", "sky"])
def test_a_word_that_only_looks_inflected_is_kept(word: str) -> None:
    assert stem(word) in {word, word.removesuffix("y") + "i"}


@pytest.mark.parametrize(("left", "right"), [("hop", "hope"), ("new", "news"), ("even", "evening"), ("wed", "we")])
def test_different_words_keep_different_stems(left: str, right: str) -> None:
    assert stem(left) != stem(right)


def test_a_query_asks_for_each_telling_term_once() -> None:
    assert query_terms("When did the cats, the other cats, go to the vet?") == ("cat", "go", "vet")


def test_a_query_of_stop_words_alone_asks_for_them() -> None:
    assert query_terms("who is it?") == ("who", "is", "it")
    assert query_terms("🎉") == ()


def test_the_month_may_is_no_stop_word() -> None:
    assert not is_stop_word("may")
    assert is_stop_word("the")


def test_spans_point_at_the_word_of_each_term() -> None:
    text = "I've 2,000 Cafés 苹果汁 20kg"
    assert [(term, text[start:end]) for term, start, end in words_with_spans(text)] == [
        ("i", "I've"),
        ("2000", "2,000"),
        ("cafe", "Cafés"),
        ("苹果", "苹果"),
        ("果汁", "果汁"),
        ("20", "20kg"),
        ("kg", "20kg"),
    ]


def test_a_span_is_the_whole_run_where_folding_changes_its_length() -> None:
    assert words_with_spans("my Straße") == (("my", 0, 2), ("strass", 3, 9))


@given(st.text())
def test_any_text_gives_terms_without_white_space_or_underscore(text: str) -> None:
    for term in terms(text):
        assert 0 < len(term) <= TERM_LENGTH_LIMIT
        assert not any(char.isspace() or char == "_" for char in term)


@given(st.text(alphabet=st.characters(blacklist_categories=()), max_size=60))
def test_spans_name_the_same_terms_and_stay_inside_the_text(text: str) -> None:
    found = words_with_spans(text)
    assert all(0 <= start < end <= len(text) for _, start, end in found)


@given(st.text())
def test_folding_twice_changes_no_term(text: str) -> None:
    assert terms(fold(text)) == terms(text) or not text.isascii()


@pytest.mark.parametrize(
    "unit", ["a", "1,", "1.", "a'", "漢", "é", "1,000", "c+", "\u0301", "_", " ", "🎉", "ab ", "٣", "\ud800"]
)
def test_a_text_of_fifty_thousand_bytes_takes_milliseconds(unit: str) -> None:
    text = (unit * 50_000)[:50_000]
    started = time.perf_counter()
    terms(text)
    assert time.perf_counter() - started < 1.0  # some 10 ms on an idle machine


def test_a_written_memory_is_indexed_by_its_content_and_tags() -> None:
    assert index_text(_memory()) == "I adopted a cat"
    assert index_text(_memory(tags=("pets", "home"))) == "I adopted a cat\npets, home"


def test_a_turn_is_indexed_with_its_speaker() -> None:
    turn = Turn(role="Caroline", seq=3, content_type=ContentType.TEXT)
    assert index_text(_memory(turn=turn)) == "Caroline: I adopted a cat"


def test_a_memory_is_found_by_the_day_it_is_from() -> None:
    assert index_terms(_memory()) == ("i", "adopt", "a", "cat", "8", "may", "2023")


@pytest.mark.parametrize(
    ("text", "is_latin"),
    [
        ("where does Ada live", True),
        ("Caf\u00e9 2023", True),
        ("", False),
        ("\N{ROCKET} ?!", False),
        ("\u70e4\u9e2d", False),
        ("cat \u043a\u043e\u0448\u043a\u0430", True),
        ("cat \u043c\u043e\u044f \u043a\u043e\u0448\u043a\u0430", False),
    ],
)
def test_a_text_is_latin_when_half_of_its_terms_are(text: str, *, is_latin: bool) -> None:
    assert is_mostly_latin(text) == is_latin
