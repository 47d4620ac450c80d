"""Fusion, late interaction, lexical evidence, relevance."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from polymem.domain import scoring
from polymem.domain.scoring import (
    DEFAULT_RELEVANCE_CUT,
    LexicalEvidence,
    bm25,
    idf,
    late_interaction,
    length_prior,
    lexical_evidence,
    lexical_score,
    reciprocal_rank_fusion,
    relevance,
    score,
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


def test_late_interaction_is_the_weighted_mean_of_the_best_cosines() -> None:
    query = np.array([[1, 0], [0, 1]], dtype=np.float32)
    weights = np.array([3, 1], dtype=np.float32)
    both, first, neither = _rows([1, 0], [0, 1]), _rows([1, 0]), _rows([-1, 0])
    found = late_interaction(query, weights, [[both], [first], [neither]])
    assert found == [pytest.approx(1.0), pytest.approx(0.75), pytest.approx(-0.75)]


def test_late_interaction_takes_the_best_chunk_not_the_best_of_all_chunks() -> None:
    query = np.array([[1, 0], [0, 1]], dtype=np.float32)
    weights = np.ones(2, dtype=np.float32)
    assert late_interaction(query, weights, [[_rows([1, 0]), _rows([0, 1])]]) == [pytest.approx(0.5)]


def test_late_interaction_leaves_out_what_has_no_token_vectors() -> None:
    query = np.array([[1, 0]], dtype=np.float32)
    empty = np.zeros((0, 2), dtype=np.int8)
    found = late_interaction(query, np.ones(1, dtype=np.float32), [[], [empty], [empty, _rows([1, 0])]])
    assert found == [None, None, pytest.approx(1.0)]
    assert late_interaction(query[:0], np.ones(0, dtype=np.float32), [[_rows([1, 0])]]) == [None]
    assert late_interaction(query, np.ones(1, dtype=np.float32), [[]]) == [None]


def test_late_interaction_in_parts_is_the_same_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(7)
    query = random.standard_normal((5, 8)).astype(np.float32)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    weights = random.random(5).astype(np.float32)
    documents = [[_rows(*random.standard_normal((9, 8)).tolist()) for _ in range(3)] for _ in range(20)]
    whole = late_interaction(query, weights, documents)
    monkeypatch.setattr(scoring, "_ROWS_AT_ONCE", 20)
    assert late_interaction(query, weights, documents) == pytest.approx(whole, abs=1e-6)


def test_lexical_evidence_counts_the_weight_of_the_terms_held() -> None:
    evidence = lexical_evidence({"cat": 3.0, "dog": 1.0}, ("a", "cat", "sat"), average_length=3)
    assert evidence.coverage == pytest.approx(0.75)
    assert evidence.bm25 == pytest.approx(3.0 / (4 * 2.2))
    assert evidence.length == 3
    assert lexical_evidence({}, ("a",), average_length=1) == LexicalEvidence(0.0, 0.0, 1)
    assert lexical_evidence({"cat": 1.0}, (), average_length=0) == LexicalEvidence(0.0, 0.0, 0)


def test_only_length_beyond_a_few_sentences_costs_and_not_without_end() -> None:
    assert length_prior(0) == length_prior(60) == 0
    assert length_prior(200) == pytest.approx(-0.05 * math.log(200 / 60))
    assert length_prior(600) == length_prior(100_000)


def test_an_exact_answer_scores_above_a_vague_one_with_and_without_vectors() -> None:
    exact, vague = LexicalEvidence(1.0, 0.5, 10), LexicalEvidence(0.3, 0.1, 10)
    assert score(late=0.9, similarity=0.6, lexical=exact) > score(late=0.5, similarity=0.3, lexical=vague)
    assert lexical_score(exact) > lexical_score(vague)
    assert relevance(lexical_score(exact), documents=50) > DEFAULT_RELEVANCE_CUT
    assert relevance(lexical_score(LexicalEvidence(0.0, 0.0, 10)), documents=50) < DEFAULT_RELEVANCE_CUT


@given(st.floats(-100, 100), st.floats(-100, 100), st.integers(0, 10**9))
def test_relevance_is_a_share_and_keeps_the_order(left: float, right: float, documents: int) -> None:
    low, high = sorted((left, right))
    assert 0 <= relevance(low, documents=documents) <= relevance(high, documents=documents) <= 1


def test_the_same_score_means_less_among_more_memories() -> None:
    assert relevance(0.6, documents=100) > relevance(0.6, documents=5_000) > relevance(0.6, documents=10_000)
    assert relevance(0.6, documents=1) == relevance(0.6, documents=100)
