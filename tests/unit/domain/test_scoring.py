"""Fusion, late interaction, lexical evidence, relevance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from polymem.domain import scoring
from polymem.domain.scoring import (
    DEFAULT_RELEVANCE_CUT,
    FEWEST_DOCUMENTS,
    MOST_DOCUMENTS,
    bm25,
    idf,
    late_interaction,
    lexical_evidence,
    reciprocal_rank_fusion,
    relevance,
    term_weight,
    token_weights,
)


def _rows(*rows: list[float]) -> NDArray[np.int8]:
    unit = np.array(rows, dtype=np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return np.rint(unit * 127).astype(np.int8)


def test_fusion_adds_reciprocal_ranks_and_breaks_ties_by_key() -> None:
    fused = reciprocal_rank_fusion([["b", "a", "c"], ["a", "d", "b"]])
    assert list(fused) == ["a", "b", "d", "c"]
    assert fused["a"] == 1 / 62 + 1 / 61
    assert list(reciprocal_rank_fusion([["y", "x"], ["x", "y"]])) == ["x", "y"]
    assert reciprocal_rank_fusion([]) == {}


def test_a_rarer_term_weighs_more_and_no_term_less_than_nothing() -> None:
    assert idf(100, 1) > idf(100, 50) > idf(100, 100) > 0
    assert idf(3, 7) == idf(3, 3)


def test_bm25_grows_with_the_count_and_falls_with_the_length() -> None:
    assert bm25(count=0, length=10, average_length=10) == 0
    assert bm25(count=1, length=10, average_length=10) == pytest.approx(1.0)
    assert bm25(count=2, length=10, average_length=10) > bm25(count=1, length=10, average_length=10)
    assert bm25(count=1, length=40, average_length=10) < bm25(count=1, length=10, average_length=10)
    assert bm25(count=1, length=1, average_length=0) > 0


def test_a_term_in_a_tenant_of_one_memory_still_weighs_more_than_a_stop_word() -> None:
    assert term_weight("postgresql", documents=1, documents_with=1) > 4
    assert term_weight("the", documents=1, documents_with=0) < 2


def test_the_prior_fades_with_real_memories() -> None:
    assert term_weight("cat", documents=100_000, documents_with=500) == pytest.approx(idf(100_000, 500), rel=0.01)


def test_each_token_weighs_what_its_word_weighs() -> None:
    weights = token_weights(
        "Postgres, on disks", [(0, 4), (4, 8), (8, 9), (10, 12), (13, 18)], {"postgr": 3.0, "disk": 2.0}
    )
    assert weights.tolist() == [3.0, 3.0, 0.0, 0.0, 2.0]


def test_tokens_of_a_query_without_weighted_words_weigh_alike() -> None:
    assert token_weights("🎉!", [(0, 1), (1, 2)], {}).tolist() == [1.0, 1.0]
    assert token_weights("cat", [(0, 0), (5, 9)], {"cat": 2.0}).tolist() == [1.0, 1.0]
    assert token_weights("", [], {}).tolist() == []


def _late(
    query: NDArray[np.float32], weights: NDArray[np.float32], *documents: list[NDArray[np.int8]]
) -> list[tuple[float, float]]:
    late = late_interaction(query, weights, documents)
    return list(zip(late.narrow.tolist(), late.wide.tolist(), strict=True))


BOTH = np.eye(3, dtype=np.float32)[:2]
EVEN = np.ones(2, dtype=np.float32)


def _chunk(tokens: int, **at: int) -> NDArray[np.int8]:
    """A chunk of tokens that match nothing, but the two query tokens at these places."""
    rows = [[0.0, 0.0, 1.0]] * tokens
    rows[at["first"]] = [1.0, 0.0, 0.0]
    rows[at["second"]] = [0.0, 1.0, 0.0]
    return _rows(*rows)


def test_late_interaction_is_the_weighted_mean_of_the_best_cosines() -> None:
    both, first, neither = _rows([1, 0, 0], [0, 1, 0]), _rows([1, 0, 0]), _rows([-1, 0, 0])
    found = _late(BOTH, np.array([3, 1], dtype=np.float32), [both], [first], [neither])
    assert found == [pytest.approx((1.0, 1.0)), pytest.approx((0.75, 0.75)), pytest.approx((-0.75, -0.75))]


@pytest.mark.parametrize(
    ("first", "second", "narrow", "wide"),
    [
        (0, 31, 1.0, 1.0),
        (17, 40, 1.0, 1.0),
        (40, 17, 1.0, 1.0),
        (15, 32, 0.5, 1.0),
        (0, 63, 0.5, 1.0),
        (20, 79, 0.5, 1.0),
        (0, 64, 0.5, 0.5),
        (84, 85, 1.0, 1.0),
        (84, 30, 0.5, 0.5),
    ],
)
def test_what_matches_counts_together_only_within_a_window(first: int, second: int, narrow: float, wide: float) -> None:
    assert _late(BOTH, EVEN, [_chunk(86, first=first, second=second)]) == [pytest.approx((narrow, wide))]


def test_a_window_ends_with_its_chunk_and_the_best_chunk_counts() -> None:
    one, other = _rows([1, 0, 0]), _rows([0, 1, 0])
    assert _late(BOTH, EVEN, [one, other]) == [pytest.approx((0.5, 0.5))]
    assert _late(BOTH, EVEN, [one, _chunk(20, first=0, second=19)]) == [pytest.approx((1.0, 1.0))]
    assert _late(BOTH, EVEN, [one], [other]) == [pytest.approx((0.5, 0.5))] * 2


def test_late_interaction_leaves_out_what_has_no_token_vectors() -> None:
    empty = np.zeros((0, 3), dtype=np.int8)
    missing = pytest.approx((np.nan, np.nan), nan_ok=True)
    assert _late(BOTH, EVEN, [], [empty], [empty, _chunk(2, first=0, second=1)]) == [
        missing,
        missing,
        pytest.approx((1.0, 1.0)),
    ]
    assert _late(BOTH[:0], EVEN[:0], [_rows([1, 0, 0])]) == [missing]
    assert _late(BOTH, EVEN, []) == [missing]
    assert _late(BOTH, EVEN) == []


def test_late_interaction_in_parts_is_the_same_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(7)
    query = random.standard_normal((5, 8)).astype(np.float32)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    weights = random.random(5).astype(np.float32)
    documents = [[_rows(*random.standard_normal((19, 8)).tolist()) for _ in range(3)] for _ in range(20)]
    whole = _late(query, weights, *documents)
    for rows in (1, 20, 57, 200):
        monkeypatch.setattr(scoring, "_ROWS_AT_ONCE", rows)
        found = _late(query, weights, *documents)
        assert np.array(found) == pytest.approx(np.array(whole), abs=1e-6)


def test_lexical_evidence_counts_the_weight_of_the_terms_held() -> None:
    held = lexical_evidence({"cat": 3.0, "dog": 1.0}, {"cat": 1, "sat": 1}, length=3, average_length=3)
    assert held == pytest.approx((0.75, 3.0 / (4 * 2.2)))
    assert lexical_evidence({}, {"a": 1}, length=1, average_length=1) == (0.0, 0.0)
    assert lexical_evidence({"cat": 1.0}, {}, length=0, average_length=0) == (0.0, 0.0)


@given(st.floats(-100, 100), st.floats(-100, 100), st.integers(0, 10**9))
def test_relevance_is_a_share_and_keeps_the_order(left: float, right: float, documents: int) -> None:
    low, high = sorted((left, right))
    assert 0 <= relevance(low, documents=documents) <= relevance(high, documents=documents) <= 1


def test_the_same_score_means_less_among_more_memories_up_to_a_bound() -> None:
    few, many = FEWEST_DOCUMENTS, MOST_DOCUMENTS
    known = [relevance(0.6, documents=documents) for documents in (few, (few + many) // 2, many)]
    assert known == sorted(set(known), reverse=True)
    assert relevance(0.6, documents=0) == relevance(0.6, documents=few)
    assert relevance(0.6, documents=many) == relevance(0.6, documents=1_000_000)


def test_a_perfect_match_is_above_the_default_cut_and_nothing_is_below_it() -> None:
    for documents in (1, 1_000_000):
        assert relevance(1.0, documents=documents) > DEFAULT_RELEVANCE_CUT > relevance(0.3, documents=documents)
