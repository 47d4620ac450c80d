"""Importance is bounded, and grows with what it is made of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.domain.gate import (
    LEAST_IMPORTANCE,
    NEWS_NOVELTY,
    Likeness,
    concept_rarity,
    distance,
    importance,
    information,
    least_novelty,
    likeness,
    novelty,
    novelty_beside,
)

units = st.floats(0.0, 1.0)
cosines = st.floats(-1.0, 1.0)
words = st.frozensets(st.sampled_from("abcdefghijklmnop"), max_size=16)
counts = st.lists(st.integers(0, 1_000), max_size=30)


@given(cosine=st.none() | cosines, terms=words, others=words, is_news=st.booleans())
def test_distance_and_novelty_lie_between_0_and_1(
    cosine: float | None, terms: frozenset[str], others: frozenset[str], *, is_news: bool
) -> None:
    like = likeness(cosine, terms, others, is_news=is_news)
    assert 0.0 <= distance(like) <= 1.0 + 1e-9
    assert 0.0 <= novelty_beside(like) <= 1.0
    if cosine is not None:
        assert least_novelty(cosine) <= novelty_beside(like) + 1e-9


@given(one=cosines, other=cosines, terms=words, others=words, is_news=st.booleans())
def test_what_is_nearer_in_meaning_is_less_new(
    one: float, other: float, terms: frozenset[str], others: frozenset[str], *, is_news: bool
) -> None:
    low, high = sorted((one, other))
    far, near = (likeness(cosine, terms, others, is_news=is_news) for cosine in (low, high))
    assert novelty_beside(near) <= novelty_beside(far)


@given(st.none() | cosines, st.integers(1, 40), st.data())
def test_a_text_that_shares_more_terms_is_less_new(cosine: float | None, terms: int, data: st.DataObject) -> None:
    fewer, more = sorted(data.draw(st.tuples(st.integers(0, terms), st.integers(0, terms))))
    new, old = (
        novelty_beside(Likeness(cosine=cosine, shared=shared, terms=terms, memory_terms=40)) for shared in (fewer, more)
    )
    assert old <= new


@given(st.none() | cosines, words, words)
def test_news_is_at_least_half_new(cosine: float | None, terms: frozenset[str], others: frozenset[str]) -> None:
    plain, news = (likeness(cosine, terms, others, is_news=is_news) for is_news in (False, True))
    assert novelty_beside(news) == max(novelty_beside(plain), NEWS_NOVELTY)


@given(st.lists(st.tuples(cosines, words, words)))
def test_the_memory_that_says_most_of_a_text_decides(known: list[tuple[float, frozenset[str], frozenset[str]]]) -> None:
    likenesses = [likeness(*each) for each in known]
    assert novelty(likenesses) == min([1.0, *map(novelty_beside, likenesses)])


@given(units, units, units, units)
def test_importance_is_bounded_and_grows_with_each_part(new: float, told: float, rare: float, more: float) -> None:
    whole = importance(novelty=new, information=told, rarity=rare)
    assert 0.0 <= whole <= 1.0
    assert importance(novelty=max(new, more), information=told, rarity=rare) >= whole
    assert importance(novelty=new, information=max(told, more), rarity=rare) >= whole
    assert importance(novelty=new, information=told, rarity=max(rare, more)) >= whole


@given(counts, st.integers(0, 1_000))
def test_information_is_bounded_and_grows_with_terms_and_their_rarity(found: list[int], documents: int) -> None:
    whole = information(found, documents=documents)
    assert 0.0 <= whole <= 1.0
    assert information([*found, 0], documents=documents) >= whole
    assert information([count // 2 for count in found], documents=documents) >= whole - 1e-12


@given(counts, st.integers(0, 1_000))
def test_rarity_is_bounded_and_falls_with_use(found: list[int], memories: int) -> None:
    whole = concept_rarity(found, memories=memories)
    assert 0.0 <= whole <= 1.0
    assert concept_rarity([count + 1 for count in found], memories=memories) <= whole


def test_the_ends_of_the_scales() -> None:
    assert novelty([]) == 1.0
    assert information([], documents=10) == 0.0
    assert concept_rarity([], memories=10) == 0.0
    assert concept_rarity([0, 0], memories=0) == 1.0
    assert concept_rarity([0], memories=10) == 1.0
    assert concept_rarity([10], memories=10) == pytest.approx(0.0)
    assert distance(likeness(1.0, frozenset("ab"), frozenset("ab"))) == 0.0
    assert distance(likeness(None, frozenset("ab"), frozenset())) == 1.0
    assert distance(likeness(None, frozenset(), frozenset())) == 1.0


def test_one_other_thing_in_a_sentence_passes_and_another_word_for_it_does_not() -> None:
    """By the cosines that the built-in model gives: at most .89 for the one, at least .96 for most of the other."""
    terms = frozenset("abcdef")
    for cosine, passes in ((0.887, True), (0.968, False)):
        new = novelty([likeness(cosine, terms, terms - {"a"})])
        whole = importance(novelty=new, information=information([1] * 6, documents=50), rarity=0.5)
        assert (whole >= LEAST_IMPORTANCE) is passes
