"""The plain baselines, on documents made by hand."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.recall.baselines import DenseScan, PlainBm25, PlainScript, QueryVectors, StoredVectors, fused, late_score
from bench.recall.plain_words import light_stem, plain_query, plain_spans, plain_terms


def _unit(*numbers: float) -> NDArray[np.float32]:
    vector = np.array(numbers, dtype=np.float32)
    return vector / np.linalg.norm(vector)


def _stored(embedding: NDArray[np.float32], *tokens: tuple[int, ...]) -> StoredVectors:
    return StoredVectors(embedding[np.newaxis], (np.array(tokens, dtype=np.int8),))


def test_bm25_scores_are_those_of_the_formula() -> None:
    plain = PlainBm25([["a", "a", "b"], ["b"], ["c", "c"]])
    idf_a, idf_b = math.log(1 + 2.5 / 1.5), math.log(1 + 1.5 / 2.5)

    def part(count: int, length: int) -> float:
        return count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / 2))

    expected = [idf_a * part(2, 3) + idf_b * part(1, 3), idf_b * part(1, 1), 0.0]
    assert plain.scores(["a", "b", "unknown"]).tolist() == pytest.approx(expected)
    assert plain.idf("unknown") == pytest.approx(math.log(1 + 3.5 / 0.5))


def test_bm25_finds_only_documents_that_hold_a_term_ties_in_their_order() -> None:
    plain = PlainBm25([["x"], ["a"], ["a"], ["a", "a"]])
    assert plain.ranking(["a"], 10) == [3, 1, 2]
    assert plain.ranking(["a"], 2) == [3, 1]
    assert plain.ranking(["unknown"], 10) == []


def test_the_dense_scan_takes_the_nearest_chunk_and_leaves_out_what_has_none() -> None:
    far_and_near = StoredVectors(np.stack([_unit(0, 1), _unit(1, 0)]), ())
    none = StoredVectors(np.zeros((0, 2), dtype=np.float32), ())
    scan = DenseScan([_stored(_unit(1, 1)), far_and_near, none, _stored(_unit(-1, 0))])
    assert scan.ranking(_unit(1, 0), 10) == [1, 0, 3]


def test_fusion_adds_reciprocal_ranks_ties_in_the_order_of_documents() -> None:
    # 1/61 + 1/62 for 2 and for 1; 1/63 for 0 and 3.
    assert fused([[2, 1, 0], [1, 2, 3]], 10) == [1, 2, 0, 3]
    assert fused([[2, 1, 0], [1, 2, 3]], 1) == [1]


def test_late_interaction_is_the_weighted_mean_of_best_cosines_in_the_best_chunk() -> None:
    query = np.array([[1, 0], [0, 1]], dtype=np.float32)
    weights = np.array([3, 1], dtype=np.float32)
    chunks = [np.array([[127, 0], [0, -127]], dtype=np.int8), np.array([[0, 127]], dtype=np.int8)]
    assert late_score(query, weights, chunks) == pytest.approx(0.75)
    assert late_score(query, weights, chunks[1:]) == pytest.approx(0.25)
    assert late_score(query, weights, []) == 0.0


def test_the_plain_script_scores_by_idf_and_lifts_turns_of_a_good_session() -> None:
    texts = ["rare word", "common thing", "common stuff", "common place"]
    query = QueryVectors(_unit(1, 0), np.array([[1, 0], [0, 1]], dtype=np.float32), [(0, 4), (5, 11)])
    # Cosines with the tokens of "rare" and "common" by document: (1, 0), (0, 1), (0, 1), (0, 1).
    vectors = [
        _stored(_unit(1, 0), (127, 0)),
        _stored(_unit(1, 1), (0, 127)),
        _stored(_unit(1, 2), (0, 127)),
        _stored(_unit(1, 3), (0, 127)),
    ]
    plain = PlainScript(texts, ["s1", "s2", "s1", "s3"], vectors)
    assert plain.lexical("rare common", 10) == [0, 1, 2, 3]
    assert plain.dense(query, 10) == [0, 1, 2, 3]
    # Document 2 shares the session of 0 and so comes before 1; 1 and 3 keep the order of the fusion.
    assert plain.ranking("rare common", query, 10) == [0, 2, 1, 3]
    assert plain.ranking("rare common", query, 2) == [0, 2]


def test_a_question_of_stop_words_weighs_every_token_alike() -> None:
    query = QueryVectors(_unit(1, 0), np.array([[1, 0]], dtype=np.float32), [(0, 3)])
    plain = PlainScript(["a", "b"], ["s", "t"], [_stored(_unit(1, 1), (90, 90)), _stored(_unit(0, 1), (127, 0))])
    assert plain.ranking("who", query, 10) == [1, 0]


@pytest.mark.parametrize(
    ("word", "stem"),
    [
        ("cities", "city"),
        ("city", "city"),
        ("walked", "walk"),
        ("walking", "walk"),
        ("walks", "walk"),
        ("running", "run"),
        ("calling", "call"),
        ("classes", "class"),
        ("bus", "bus"),
        ("used", "used"),
        ("bake", "bak"),
        ("baking", "bak"),
        ("tie", "tie"),
    ],
)
def test_light_stems(word: str, stem: str) -> None:
    assert light_stem(word) == stem


def test_plain_terms_leave_out_stop_words_and_clitics() -> None:
    assert plain_terms("What did Anna's dogs do in 2023? Dogs!") == ["anna", "dog", "2023", "dog"]
    assert plain_query("Dogs and dogs") == ["dog"]
    assert list(plain_spans("The dogs")) == [("dog", 4, 8)]
