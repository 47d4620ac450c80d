"""Concepts meet by their keys, and pairs of them do not depend on order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.domain.concepts import (
    MAX_KEY_CHARACTERS,
    MOST_ASSOCIATED,
    concept_key,
    concept_keys,
    content_key,
    external_ref_identity,
    pairs_between,
    pairs_within,
)


@pytest.mark.parametrize(
    ("concept", "key"),
    [
        ("Caching", "caching"),
        ("  machine \n learning ", "machine learning"),
        ('"Café"', "cafe"),
        ("(PostgreSQL)", "postgresql"),
        ("C++", "c++"),
        ("...", ""),
        ("x" * 300, "x" * MAX_KEY_CHARACTERS),
        (f"{'x' * 255} y", "x" * 255),
    ],
)
def test_spellings_of_a_concept_have_one_key(concept: str, key: str) -> None:
    assert concept_key(concept) == key


@given(st.text(max_size=400))
def test_the_key_of_a_key_is_itself(concept: str) -> None:
    key = concept_key(concept)
    assert concept_key(key) == key
    assert len(key) <= MAX_KEY_CHARACTERS


def test_keys_stand_once_and_in_order_without_empty_ones() -> None:
    assert concept_keys(["Go", "rust", "...", "GO", "zig"]) == ("go", "rust", "zig")


@given(st.lists(st.sampled_from("abcdefg"), max_size=8))
def test_pairs_do_not_depend_on_order(keys: list[str]) -> None:
    assert pairs_within(keys) == pairs_within(keys[::-1])
    assert all(source < target for source, target in pairs_within(keys))


def test_of_very_many_concepts_the_first_ones_form_pairs() -> None:
    keys = [f"k{number:03}" for number in range(40)]
    assert len(pairs_within(keys)) == MOST_ASSOCIATED * (MOST_ASSOCIATED - 1) // 2
    assert len(pairs_between(keys, [f"o{number:03}" for number in range(40)])) == MOST_ASSOCIATED**2


def test_a_concept_is_not_paired_with_itself() -> None:
    assert pairs_between(["a", "b"], ["b", "c"]) == {("a", "b"), ("a", "c"), ("b", "c")}


def test_texts_that_differ_in_case_and_space_alone_have_one_key() -> None:
    assert content_key("Redis  is\nfast") == content_key(" redis is FAST ")
    assert content_key("redis is fast") != content_key("redis is not fast")
    assert len(content_key("")) == 32


def test_a_reference_never_looks_like_a_turn() -> None:
    assert external_ref_identity("turn:1") == "ref:turn:1"
