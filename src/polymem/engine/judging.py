"""Candidates with all that orders them: evidence of the index read against one question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import MemoryId
from polymem.domain.ranking import Candidates
from polymem.domain.scoring import Late, late_interaction, lexical_evidence, token_weights
from polymem.domain.traits import Traits, decode_traits
from polymem.ports.inference import QueryEmbedding
from polymem.ports.search import Evidence

# Of a very long memory the chunks nearest to the question take part in late interaction.
CHUNKS_SCORED: Final = 16

_MICROSECONDS = 1_000_000

Floats = NDArray[np.float64]
Neighbours = Mapping[MemoryId, Sequence[tuple[int, MemoryId]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question as terms: the ones it is searched by, and the weight of all it holds."""

    text: str
    searched: tuple[str, ...]
    weights: Mapping[str, float]
    evidence_weights: Mapping[str, float]
    documents: int
    average_length: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What words and vectors say of some candidates, one row each, in the order they were measured."""

    narrow: Floats
    wide: Floats
    similarity: Floats
    coverage: Floats
    bm25: Floats
    embeddings: NDArray[np.float32]

    def __add__(self, other: "Measured") -> "Measured":
        return Measured(
            narrow=np.concatenate([self.narrow, other.narrow]),
            wide=np.concatenate([self.wide, other.wide]),
            similarity=np.concatenate([self.similarity, other.similarity]),
            coverage=np.concatenate([self.coverage, other.coverage]),
            bm25=np.concatenate([self.bm25, other.bm25]),
            embeddings=np.concatenate([self.embeddings, other.embeddings]),
        )


def measure(question: Question, vectors: QueryEmbedding | None, held: Sequence[Evidence]) -> Measured:
    """What words and vectors say of each candidate."""
    words = [
        lexical_evidence(
            question.evidence_weights, each.frequencies, length=each.length, average_length=question.average_length
        )
        for each in held
    ]
    coverage, by_bm25 = np.array(words, dtype=np.float64).reshape(-1, 2).T
    late = _late(question, vectors, held, coverage)
    embeddings, similarity = _nearest(vectors, held)
    return Measured(
        narrow=late.narrow,
        wide=late.wide,
        similarity=similarity,
        coverage=coverage,
        bm25=by_bm25,
        embeddings=embeddings,
    )


def as_candidates(measured: Measured, evidence: Mapping[MemoryId, Evidence], beside: Neighbours) -> Candidates:
    """The measured candidates, which are those of `evidence` in its order; `beside` tells who stands before whom."""
    ids, held = tuple(evidence), tuple(evidence.values())
    return Candidates(
        ids=ids,
        narrow=measured.narrow,
        wide=measured.wide,
        similarity=measured.similarity,
        coverage=measured.coverage,
        bm25=measured.bm25,
        lengths=np.array([each.length for each in held], dtype=np.int64),
        said_at=np.array([int(each.created_at.timestamp() * _MICROSECONDS) for each in held], dtype=np.int64),
        said_on=tuple(each.created_at.date() for each in held),
        session=_sessions(held),
        previous=_previous(ids, held, beside),
        traits=tuple(_traits(each.traits) for each in held),
        embeddings=measured.embeddings,
    )


@dataclass(frozen=True, slots=True)
class TokenMatch:
    """A token of the question: its span, its share of all weight, and the best row of the best chunk for it."""

    span: tuple[int, int]
    weight: float
    chunk: int
    row: int
    cosine: float


def token_matches(question: Question, vectors: QueryEmbedding, held: Evidence) -> tuple[TokenMatch, ...]:
    """What each weighted token of the question matches best; nothing where there are no token vectors."""
    chunks = [(number, chunk) for number, chunk in enumerate(held.token_vectors) if chunk.shape[0]]
    if not chunks:
        return ()
    weights = token_weights(question.text, vectors.tokens, question.weights)
    cosines = [(number, chunk.astype(np.float32) @ vectors.token_vectors.T / 127.0) for number, chunk in chunks]
    found = []
    for token in np.flatnonzero(weights):
        number, best = max(cosines, key=lambda item: float(item[1][:, token].max()))
        row = int(best[:, token].argmax())
        share = float(weights[token] / weights.sum())
        found.append(TokenMatch(vectors.tokens[token], share, number, row, float(best[row, token])))
    return tuple(found)


@lru_cache(maxsize=1 << 15)
def _traits(stored: bytes) -> Traits:
    return decode_traits(stored)


def _late(question: Question, vectors: QueryEmbedding | None, held: Sequence[Evidence], coverage: Floats) -> Late:
    """Late interaction; for the share of the question that the model does not know, what words it holds instead."""
    missing = np.full(len(held), np.nan)
    if vectors is None:
        return Late(missing, missing)
    weights = token_weights(question.text, (*vectors.tokens, *vectors.unknown), question.weights)
    known = weights[: len(vectors.tokens)]
    if not known.any():
        return Late(missing, missing)
    late = late_interaction(vectors.token_vectors, known, [_nearest_chunks(vectors, each) for each in held])
    share = float(known.sum() / weights.sum())
    return Late(share * late.narrow + (1 - share) * coverage, share * late.wide + (1 - share) * coverage)


def _nearest_chunks(vectors: QueryEmbedding, held: Evidence) -> Sequence[NDArray[np.int8]]:
    """The token vectors of the chunks nearest to the question, at most `CHUNKS_SCORED`."""
    if len(held.token_vectors) <= CHUNKS_SCORED:
        return held.token_vectors
    nearest = np.argsort(-(held.embeddings @ vectors.embedding), kind="stable")[:CHUNKS_SCORED]
    return [held.token_vectors[number] for number in nearest]


def _nearest(vectors: QueryEmbedding | None, held: Sequence[Evidence]) -> tuple[NDArray[np.float32], Floats]:
    """The chunk of each candidate that is nearest to the question and its cosine; zeros and NaN where there is none."""
    if vectors is None:
        return np.zeros((len(held), 1), dtype=np.float32), np.full(len(held), np.nan)
    rows = np.zeros((len(held), vectors.embedding.shape[0]), dtype=np.float32)
    similarity = np.full(len(held), np.nan)
    counts = np.array([each.embeddings.shape[0] for each in held], dtype=np.int64)
    owners = np.flatnonzero(counts)
    if len(owners):
        chunks = np.concatenate([held[owner].embeddings for owner in owners.tolist()])
        cosines = chunks @ vectors.embedding
        ends = np.cumsum(counts[owners])
        starts = ends - counts[owners]
        similarity[owners] = np.maximum.reduceat(cosines, starts)
        best = [start + int(cosines[start:end].argmax()) for start, end in zip(starts, ends, strict=True)]
        rows[owners] = chunks[best]
    return rows, similarity


def _sessions(held: Sequence[Evidence]) -> NDArray[np.int64]:
    numbers: dict[str, int] = {}
    return np.array(
        [-1 if each.session_id is None else numbers.setdefault(each.session_id, len(numbers)) for each in held],
        dtype=np.int64,
    )


def _previous(ids: Sequence[MemoryId], held: Sequence[Evidence], beside: Neighbours) -> NDArray[np.int64]:
    """The row of the turn before each: as the index tells, else by the numbers of the turns; -1 for none."""
    places = {(each.session_id, each.seq): row for row, each in enumerate(held) if each.seq is not None}
    found = [-1 if each.seq is None else places.get((each.session_id, each.seq - 1), -1) for each in held]
    rows = {memory_id: row for row, memory_id in enumerate(ids)}
    for memory_id, around in beside.items():
        for distance, other in around:
            if other in rows:
                before, after = (other, memory_id) if distance < 0 else (memory_id, other)
                found[rows[after]] = rows[before]
    return np.array(found, dtype=np.int64)
