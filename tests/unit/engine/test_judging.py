"""Judging: what the index holds of candidates, read against one question."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta

import numpy as np
import pytest
from numpy.typing import NDArray

from polymem.domain.model import MemoryId
from polymem.domain.traits import Traits, encode_traits
from polymem.engine.judging import (
    CHUNKS_SCORED,
    Measured,
    Question,
    TokenMatch,
    as_candidates,
    measure,
    token_matches,
)
from polymem.ports.inference import QueryEmbedding
from polymem.ports.search import Evidence
from samples import AT

# Both words on their own axes; a third is left for what matches nothing.
QUESTION = Question(
    text="cat, dog",
    searched=("cat",),
    weights={"cat": 3.0, "dog": 1.0},
    evidence_weights={"cat": 3.0, "dog": 1.0},
    documents=10,
    average_length=5.0,
)
AXES = np.eye(3, dtype=np.float32)
VECTORS = QueryEmbedding(embedding=AXES[0], token_vectors=AXES[:2], tokens=((0, 3), (5, 8)))


def _chunk(*axes: int) -> NDArray[np.int8]:
    return (AXES[list(axes)] * 127).astype(np.int8)


def _held(
    *chunks: NDArray[np.int8],
    embeddings: Sequence[Sequence[float]] = (),
    session: str | None = None,
    seq: int | None = None,
    at: datetime = AT,
    traits: bytes = b"",
    **frequencies: int,
) -> Evidence:
    return Evidence(
        frequencies=frequencies,
        length=5,
        created_at=at,
        session_id=session,
        role=None,
        seq=seq,
        superseded_by=None,
        traits=traits,
        token_vectors=chunks,
        embeddings=np.array(embeddings, dtype=np.float32).reshape(len(embeddings), 3),
    )


def _previous(held: dict[str, Evidence], beside: dict[str, list[tuple[int, str]]]) -> list[int]:
    evidence = {MemoryId(name): each for name, each in held.items()}
    around = {MemoryId(name): [(at, MemoryId(other)) for at, other in near] for name, near in beside.items()}
    candidates = as_candidates(measure(QUESTION, None, list(held.values())), evidence, around)
    return [int(row) for row in candidates.previous]


def test_words_and_vectors_are_measured_for_each_candidate() -> None:
    both = _held(_chunk(0, 1), embeddings=[[0, 1, 0], [0.6, 0.8, 0]], cat=1, dog=1)
    bare = _held(cat=1)
    found = measure(QUESTION, VECTORS, [both, bare])
    assert found.narrow.tolist() == pytest.approx([1.0, np.nan], nan_ok=True)
    assert found.wide.tolist() == pytest.approx([1.0, np.nan], nan_ok=True)
    assert found.similarity.tolist() == pytest.approx([0.6, np.nan], nan_ok=True)
    assert found.coverage.tolist() == [1.0, 0.75]
    assert found.bm25[0] > found.bm25[1] > 0
    assert found.embeddings.tolist() == [pytest.approx([0.6, 0.8, 0.0]), [0.0, 0.0, 0.0]]


def test_without_the_model_the_words_alone_are_measured() -> None:
    found = measure(QUESTION, None, [_held(_chunk(0), embeddings=[[1, 0, 0]], cat=1)])
    assert np.isnan([found.narrow, found.wide, found.similarity]).all()
    assert (found.coverage.tolist(), found.embeddings.tolist()) == ([0.75], [[0.0]])


def test_for_what_the_model_does_not_know_the_words_held_count_instead() -> None:
    half = replace(VECTORS, token_vectors=AXES[:1], tokens=((0, 3),), unknown=((5, 8),))
    held = [_held(_chunk(0), cat=1, dog=1), _held(_chunk(0), cat=1), _held(_chunk(2), dog=1), _held(cat=1)]
    found = measure(QUESTION, half, held)
    expected = [0.75 + 0.25 * 1.0, 0.75 + 0.25 * 0.75, 0.25 * 0.25, np.nan]
    assert found.narrow.tolist() == pytest.approx(expected, nan_ok=True)
    assert found.wide.tolist() == pytest.approx(expected, nan_ok=True)


def test_a_question_of_which_the_model_knows_nothing_has_no_late_interaction() -> None:
    for tokens, rows in (((), AXES[:0]), (((3, 4),), AXES[:1])):
        nothing = replace(VECTORS, token_vectors=rows, tokens=tokens, unknown=((0, 3), (5, 8)))
        found = measure(QUESTION, nothing, [_held(_chunk(0, 1), cat=1)])
        assert np.isnan([found.narrow, found.wide]).all()


def test_no_candidates_measure_nothing() -> None:
    for vectors in (None, VECTORS):
        found = measure(QUESTION, vectors, [])
        assert len(as_candidates(found, {}, {})) == 0
        assert found.embeddings.shape[0] == 0


def test_measured_in_two_parts_is_measured_at_once() -> None:
    held = [_held(_chunk(0, 1), embeddings=[[1, 0, 0]], cat=1), _held(dog=2), _held(_chunk(2), embeddings=[[0, 0, 1]])]
    whole, parts = measure(QUESTION, VECTORS, held), measure(QUESTION, VECTORS, held[:1])
    parts += measure(QUESTION, VECTORS, held[1:])
    for name in Measured.__slots__:
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_of_a_very_long_memory_the_chunks_nearest_to_the_question_are_scored() -> None:
    far = [[0.0, 0.0, 1.0]] * CHUNKS_SCORED
    many = _held(*[_chunk(2)] * CHUNKS_SCORED, _chunk(0, 1), embeddings=[*far, [1.0, 0.0, 0.0]])
    assert measure(QUESTION, VECTORS, [many]).wide.tolist() == pytest.approx([1.0])
    hidden = _held(*[_chunk(2)] * CHUNKS_SCORED, _chunk(0, 1), embeddings=[*far, [0.0, -1.0, 0.0]])
    assert measure(QUESTION, VECTORS, [hidden]).wide.tolist() == pytest.approx([0.0])


def test_a_candidate_has_its_day_its_traits_and_the_number_of_its_session() -> None:
    ada = Traits(speaker="Ada", has_number=True)
    later = AT + timedelta(microseconds=1)
    held = {
        MemoryId("a"): _held(session="s", seq=1, traits=encode_traits(ada)),
        MemoryId("b"): _held(at=later),
        MemoryId("c"): _held(session="t", seq=1),
        MemoryId("d"): _held(session="s", seq=9),
    }
    candidates = as_candidates(measure(QUESTION, None, list(held.values())), held, {})
    assert candidates.ids == ("a", "b", "c", "d")
    assert candidates.traits == (ada, Traits(), Traits(), Traits())
    assert candidates.session.tolist() == [0, -1, 1, 0]
    assert candidates.said_on == (date(2025, 3, 1),) * 4
    assert (candidates.said_at[1:] - candidates.said_at[0]).tolist() == [1, 0, 0]
    assert candidates.lengths.tolist() == [5, 5, 5, 5]
    assert candidates.previous.tolist() == [-1, -1, -1, -1]


def test_the_turn_before_is_told_by_the_numbers_of_the_turns() -> None:
    turns = {
        "second": _held(session="s", seq=2),
        "first": _held(session="s", seq=1),
        "elsewhere": _held(session="t", seq=2),
        "unnumbered": _held(session="s"),
    }
    assert _previous(turns, {}) == [1, -1, -1, -1]


def test_the_turn_before_is_told_by_the_index_where_numbers_have_gaps() -> None:
    turns = {"late": _held(session="s", seq=9), "early": _held(session="s", seq=2), "last": _held(session="s", seq=11)}
    beside = {"late": [(-1, "early"), (1, "last")], "early": [(-1, "no candidate"), (1, "late")]}
    assert _previous(turns, beside) == [1, -1, 0]


def test_each_token_is_matched_with_the_best_row_of_the_best_chunk() -> None:
    held = _held(_chunk(2, 1), np.zeros((0, 3), dtype=np.int8), _chunk(2, 2, 0), embeddings=[[1, 0, 0]] * 3)
    assert token_matches(QUESTION, VECTORS, held) == (
        TokenMatch(span=(0, 3), weight=0.75, chunk=2, row=2, cosine=1.0),
        TokenMatch(span=(5, 8), weight=0.25, chunk=0, row=1, cosine=1.0),
    )


def test_marks_match_nothing_and_neither_does_anything_without_vectors() -> None:
    marked = replace(VECTORS, tokens=((0, 3), (3, 4)))
    (match,) = token_matches(QUESTION, marked, _held(_chunk(0), embeddings=[[1, 0, 0]]))
    assert (match.span, match.weight) == ((0, 3), 1.0)
    assert token_matches(QUESTION, VECTORS, _held()) == ()
