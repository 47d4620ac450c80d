"""Concepts are read from a text by rule: the caller's vocabulary, names, then what tells most."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.domain.concepts import MAX_KEY_CHARACTERS, concept_key
from polymem.domain.keyphrases import MOST_CANDIDATES, candidates, concepts_after, keyphrases, telling_words


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("I met Anna Schmidt about the billing service", "anna schmidt"),
        ("We moved to Johns Hopkins University last week.", "johns hopkins university"),
        ("Redis caching reduces latency, and redis caching is cheap", "redis caching reduces"),
        ("The ferry leaves from pier nine. Ferry, ferry!", "ferry"),
        ("They write C++ here", "c++"),
    ],
)
def test_the_most_telling_phrase_comes_first(text: str, first: str) -> None:
    assert keyphrases(text)[0] == first


def test_a_word_that_begins_a_sentence_is_not_a_name_for_that() -> None:
    assert keyphrases("Coffee helps. Then Berlin.", most=1) == ("berlin",)


def test_known_concepts_come_first_and_the_longest_of_overlapping_ones() -> None:
    text = "the machine learning course about neural networks by Anna"
    known = frozenset({"machine learning", "learning", "neural network"})
    assert keyphrases(text, known=known)[:2] == ("machine learning", "neural network")


def test_a_text_names_at_most_as_many_as_are_asked_for() -> None:
    text = "alpha particles, beta decay, gamma rays, delta wings, epsilon greedy, zeta potential"
    assert len(keyphrases(text)) == 5
    assert len(keyphrases(text, most=2)) == 2


def test_words_of_a_chosen_phrase_are_not_told_again() -> None:
    assert keyphrases("billing service. billing service. service") == ("billing service",)


@pytest.mark.parametrize("text", ["", "   ", "!!!", "the of and", "12 34.5 6/7", "really just thanks"])
def test_a_text_that_names_nothing_has_no_concepts(text: str) -> None:
    assert keyphrases(text) == ()


def test_scripts_without_case_have_concepts_too() -> None:
    assert keyphrases("我喜欢喝咖啡") == ("我喜欢喝咖啡",)


def test_a_very_long_word_is_no_concept() -> None:
    assert keyphrases("x" * 60) == ()
    assert candidates(f"{'x' * 60}")[0] == "x" * 60


def test_candidates_are_the_runs_between_stop_words_and_marks() -> None:
    assert candidates("The dogs of Anna's neighbour, in Berlin") == (
        "dogs",
        "dog",
        "dogs of anna",
        "dogs of anna neighbour",
        "anna",
        "anna neighbour",
        "neighbour",
        "berlin",
    )
    assert "company" in candidates("two companies")
    assert "glas" not in candidates("glass")


def test_candidates_are_bounded() -> None:
    assert len(candidates(" ".join(f"word{number}" for number in range(500)))) == MOST_CANDIDATES


def test_telling_words_stand_alone() -> None:
    assert telling_words("What did Anna pay for 3 nights in a hotel?", most=8) == ("anna", "pay", "nights", "hotel")
    assert telling_words("one hotel, two hotels", most=1) == ("hotel",)


def test_concepts_follow_a_text_that_is_changed() -> None:
    before, after = "The ferry leaves from pier nine", "The train leaves from platform two"
    assert concepts_after(("ferry", "travel"), before, after) == ("travel",)
    assert concepts_after(("ferry", "pier"), before, after) == keyphrases(after)
    assert concepts_after(("leaves",), before, after) == ("leaves",)
    assert concepts_after((), before, "of the") == ()


@given(st.text(max_size=300))
def test_any_text_gives_clean_keys(text: str) -> None:
    for key in (*keyphrases(text), *candidates(text), *telling_words(text, most=8)):
        assert key
        assert len(key) <= MAX_KEY_CHARACTERS
        assert concept_key(key) == key
