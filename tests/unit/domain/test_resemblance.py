"""Whether two texts say the same, by meaning and letters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.domain.resemblance import LEAST_COSINE, letters_of, may_say_the_same, says_the_same

LONG = " ".join(f"word{number} of a long story that goes on" for number in range(40))


@pytest.mark.parametrize(
    ("some", "others", "cosine"),
    [
        ("I like tea with milk", "i LIKE tea, with milk!", 0.7),
        (
            "Can you recommend a good coffee shop near the station?",
            "Could you recommend a coffee shop near the station",
            0.9,
        ),
        ("A completely other text of the same length", "Nothing here is spelled like the first one, no", 0.95),
        (LONG, LONG[:-20], 0.97),
    ],
)
def test_restatements_say_the_same(some: str, others: str, cosine: float) -> None:
    assert says_the_same(cosine, letters_of(some), letters_of(others))
    assert says_the_same(cosine, letters_of(others), letters_of(some))
    assert may_say_the_same(cosine, len(some), len(others)) or cosine >= 0.94


@pytest.mark.parametrize(
    ("some", "others", "cosine"),
    [
        ("I like tea with milk", "I like tea with milk", LEAST_COSINE - 0.01),
        ("A completely other text of the same length", "Nothing here is spelled like the first one, no", 0.93),
        ("Short", "A longer text that goes on and on with quite different things to say about it", 0.95),
        (LONG, LONG[: len(LONG) // 4] + "and then it is another story altogether, of kings and ships", 0.9),
        (LONG, "x" * len(LONG), 0.99),
    ],
)
def test_other_texts_do_not(some: str, others: str, cosine: float) -> None:
    assert not says_the_same(cosine, letters_of(some), letters_of(others))


@given(st.text(), st.text(), st.floats(-1.0, 1.0))
def test_any_two_texts_are_judged_alike_both_ways(some: str, others: str, cosine: float) -> None:
    one, other = letters_of(some), letters_of(others)
    assert says_the_same(cosine, one, other) == says_the_same(cosine, other, one)
    assert len(one.runs) >= 1


def test_texts_of_no_letters_can_be_compared() -> None:
    assert says_the_same(1.0, letters_of(""), letters_of("\ud800"))


def test_texts_of_very_different_length_need_not_be_looked_at() -> None:
    assert not may_say_the_same(0.8, 10_000, 100)
    assert may_say_the_same(0.8, 100, 90)
    assert not may_say_the_same(0.6, 100, 100)
