"""The baselines every run is compared with: plain scripts, independent of the engine's search and scoring.

BM25 over given terms, the dense scan, their reciprocal rank fusion, and the plain script: fusion, then late
interaction weighted by idf over its best 100, then a small prior for the session. Vectors are the stored ones.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.recall.plain_words import plain_query, plain_spans, plain_terms

K1 = 1.2
B = 0.75
FUSION_K = 60
# How many candidates each arm gives to the fusion, and how many of the fusion the plain script scores again.
ARM_DEPTH = 100
SCORED = 100
SESSION_SHARE = 0.1


class PlainBm25:
    """BM25 over documents given as terms."""

    def __init__(self, documents: Sequence[Sequence[str]]) -> None:
        lengths = np.array([len(document) for document in documents], dtype=np.float64)
        self._norm = K1 * (1 - B + B * lengths / max(lengths.mean(), 1.0))
        self._size = len(documents)
        postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, document in enumerate(documents):
            for term, count in Counter(document).items():
                postings[term].append((number, count))
        self._postings = {term: np.array(entries, dtype=np.int64) for term, entries in postings.items()}

    def idf(self, term: str) -> float:
        """How much a term tells; most for one that no document holds."""
        found = len(self._postings.get(term, ()))
        return float(np.log(1 + (self._size - found + 0.5) / (found + 0.5)))

    def scores(self, terms: Sequence[str]) -> NDArray[np.float64]:
        """The score of every document."""
        scores = np.zeros(self._size)
        for term in terms:
            entries = self._postings.get(term)
            if entries is None:
                continue
            numbers, counts = entries[:, 0], entries[:, 1]
            scores[numbers] += self.idf(term) * counts * (K1 + 1) / (counts + self._norm[numbers])
        return scores

    def ranking(self, terms: Sequence[str], limit: int) -> list[int]:
        """The best documents that hold any of the terms, ties in the order of the documents."""
        scores = self.scores(terms)
        order = np.argsort(-scores, kind="stable")[:limit]
        return [int(number) for number in order if scores[number] > 0]


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """The vectors of one document, chunk by chunk.

    `embeddings` float32 (chunks, dimension), unit rows; each of `tokens` int8 (tokens, token dimension).
    """

    embeddings: NDArray[np.float32]
    tokens: tuple[NDArray[np.int8], ...]


class DenseScan:
    """The exact scan: a document is as near as its nearest chunk; one without vectors is never found."""

    def __init__(self, documents: Sequence[StoredVectors]) -> None:
        rows = [document.embeddings for document in documents if len(document.embeddings)]
        self._matrix = np.concatenate(rows).astype(np.float32)
        self._document_of = np.repeat(np.arange(len(documents)), [len(each.embeddings) for each in documents])
        self._size = len(documents)

    def ranking(self, query: NDArray[np.float32], limit: int) -> list[int]:
        """The nearest documents, ties in the order of the documents."""
        best = np.full(self._size, -np.inf, dtype=np.float32)
        np.maximum.at(best, self._document_of, self._matrix @ query)
        order = np.argsort(-best, kind="stable")[:limit]
        return [int(number) for number in order if best[number] > -np.inf]


def fused(rankings: Sequence[Sequence[int]], limit: int) -> list[int]:
    """The documents by the sum of 1 / (60 + rank) over the rankings, ties in the order of the documents."""
    scores: dict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, number in enumerate(ranking, 1):
            scores[number] += 1 / (FUSION_K + rank)
    return sorted(scores, key=lambda number: (-scores[number], number))[:limit]


@dataclass(frozen=True, slots=True)
class QueryVectors:
    """A question's vectors: of the whole, and of each token with the characters it stands at."""

    embedding: NDArray[np.float32]
    tokens: NDArray[np.float32]
    spans: Sequence[tuple[int, int]]


class PlainScript:
    """BM25 by the recipe of the data's README, the dense scan, their fusion, and the plain script over one history.

    `texts`, `sessions` and `vectors` stand in the order of the documents.
    """

    def __init__(self, texts: Sequence[str], sessions: Sequence[str], vectors: Sequence[StoredVectors]) -> None:
        self._bm25 = PlainBm25([plain_terms(text) for text in texts])
        self._dense = DenseScan(vectors)
        self._sessions = sessions
        self._vectors = vectors

    def lexical(self, text: str, limit: int) -> list[int]:
        """The best documents by BM25 alone."""
        return self._bm25.ranking(plain_query(text), limit)

    def dense(self, query: QueryVectors, limit: int) -> list[int]:
        """The nearest documents."""
        return self._dense.ranking(query.embedding, limit)

    def fusion(self, text: str, query: QueryVectors, limit: int) -> list[int]:
        """The best documents of both together."""
        return fused([self.lexical(text, ARM_DEPTH), self.dense(query, ARM_DEPTH)], limit)

    def ranking(self, text: str, query: QueryVectors, limit: int) -> list[int]:
        """The best of the fusion by late interaction and session, ties in the order of the fusion."""
        candidates = self.fusion(text, query, SCORED)
        weights = self._token_weights(text, query.spans)
        scores = [late_score(query.tokens, weights, self._vectors[number].tokens) for number in candidates]
        best: dict[str, float] = {}
        for number, score in zip(candidates, scores, strict=True):
            best[self._sessions[number]] = max(score, best.get(self._sessions[number], 0.0))
        whole = [
            score + SESSION_SHARE * best[self._sessions[number]]
            for number, score in zip(candidates, scores, strict=True)
        ]
        order = sorted(range(len(candidates)), key=lambda place: -whole[place])
        return [candidates[place] for place in order[:limit]]

    def _token_weights(self, text: str, spans: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
        """The idf of the word that each query token is a piece of; all alike when there is no telling word."""
        of_character = np.zeros(len(text) + 1, dtype=np.float32)
        for term, start, end in plain_spans(text):
            of_character[start:end] = self._bm25.idf(term)
        weights = np.array([of_character[start:end].max(initial=0.0) for start, end in spans], dtype=np.float32)
        return weights if weights.any() else np.ones(len(spans), dtype=np.float32)


def late_score(query: NDArray[np.float32], weights: NDArray[np.float32], chunks: Sequence[NDArray[np.int8]]) -> float:
    """`sum_t w(t) * max_j cos(q_t, d_j) / sum_t w(t)` of the best chunk; 0 without token vectors."""
    cosines = [query @ (chunk.astype(np.float32).T / 127) for chunk in chunks if len(chunk)]
    return max((float(weights @ each.max(axis=1) / weights.sum()) for each in cosines), default=0.0)
