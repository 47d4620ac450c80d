"""How recalled memories are ordered: fusion of arms, late interaction, lexical evidence, and their calibration.

All functions are pure. The constants are rows of `bench/RESULTS.md` (in-process laboratory, both development
sets); a change of one is a change of that table.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from polymem.domain.text import is_stop_word, words_with_spans

# Reciprocal rank fusion with the constant that Cormack et al. (2009) published; it only chooses the pool.
RRF_K = 60

BM25_K1 = 1.2
BM25_B = 0.75

# A tenant with three memories has no statistics worth the name: its counts are mixed with those of this many
# imagined memories, in which a telling word is rare and a stop word is not. Row `prior of 400`.
PRIOR_DOCUMENTS = 100
PRIOR_SHARE = 0.002
PRIOR_STOP_SHARE = 0.3

# Rows `late interaction`, `late + coverage`, `late + bm25 share`, `late + similarity`, `no length`: none helps both
# sets much alone, together they do.
COVERAGE_WEIGHT = 0.15
BM25_WEIGHT = 0.15
SIMILARITY_WEIGHT = 0.2

# A long text has more tokens that may match by chance. From 60 terms to 600 each factor e costs this much; the
# rows `no length`, `length 0.03` gain .04 all@10 on long chats and nothing on short turns. Beyond 600 a text is not
# asked to pay more.
LENGTH_PENALTY = 0.05
SHORT_TERMS = 60
LONG_TERMS = 600

# Token rows that are multiplied at once; bounds the memory of one call to some 20 MB.
_ROWS_AT_ONCE = 32_768

K = TypeVar("K", bound=str)


def reciprocal_rank_fusion(rankings: Sequence[Sequence[K]], *, k: int = RRF_K) -> dict[K, float]:
    """Every ranked key with the sum over rankings of 1 / (k + rank), best first, ties by key."""
    fused: dict[K, float] = {}
    for ranking in rankings:
        for rank, key in enumerate(ranking, start=1):
            fused[key] = fused.get(key, 0.0) + 1.0 / (k + rank)
    return dict(sorted(fused.items(), key=lambda item: (-item[1], item[0])))


def idf(documents: int, documents_with: int) -> float:
    """The BM25 weight of a term: never negative, larger the rarer it is."""
    found = min(documents_with, documents)
    return math.log(1.0 + (documents - found + 0.5) / (found + 0.5))


def bm25(*, count: int, length: int, average_length: float) -> float:
    """How much `count` occurrences in a document of `length` terms count, in [0, BM25_K1 + 1)."""
    if count <= 0:
        return 0.0
    norm = BM25_K1 * (1.0 - BM25_B + BM25_B * length / max(average_length, 1.0))
    return count * (BM25_K1 + 1.0) / (count + norm)


def term_weight(term: str, *, documents: int, documents_with: int) -> float:
    """How much a query term tells in this tenant: its idf, steadied by the prior.

    A stop word weighs what its frequency gives it: "who", "before" and "my" do tell something once the model has
    read them in their sentence. Row `stop words x 0`.
    """
    share = PRIOR_STOP_SHARE if is_stop_word(term) else PRIOR_SHARE
    total = documents + PRIOR_DOCUMENTS
    found = min(documents_with, documents) + PRIOR_DOCUMENTS * share
    return math.log(1.0 + (total - found + 0.5) / (found + 0.5))


def token_weights(query: str, tokens: Sequence[tuple[int, int]], weights: Mapping[str, float]) -> NDArray[np.float32]:
    """The weight of each query token: that of the word it is a piece of, 0 for marks between words.

    `tokens` are character spans in the query. A query without any weighted word weighs all tokens alike.
    """
    of_character = np.zeros(len(query) + 1, dtype=np.float32)
    for term, start, end in words_with_spans(query):
        of_character[start:end] = np.maximum(of_character[start:end], weights.get(term, 0.0))
    found = np.array(
        [of_character[start:end].max() if start < end <= len(query) else 0.0 for start, end in tokens],
        dtype=np.float32,
    )
    return found if found.any() else np.ones(len(tokens), dtype=np.float32)


def late_interaction(
    query: NDArray[np.float32],
    weights: NDArray[np.float32],
    documents: Sequence[Sequence[NDArray[np.int8]]],
) -> list[float | None]:
    """`sum_t w(t) * max_j cos(q_t, d_j) / sum_t w(t)` of each document's best chunk; None without token vectors.

    `query` float32 (tokens, dimension) unit rows; each chunk int8 (tokens, dimension), 127 times unit rows.
    """
    best: list[float | None] = [None] * len(documents)
    chunks = [(number, chunk) for number, document in enumerate(documents) for chunk in document if chunk.shape[0] > 0]
    if not chunks or query.shape[0] == 0:
        return best
    scaled = query * (weights / (127.0 * weights.sum()))[:, np.newaxis]
    start = 0
    while start < len(chunks):
        end, rows = start, 0
        while end < len(chunks) and (end == start or rows + chunks[end][1].shape[0] <= _ROWS_AT_ONCE):
            rows += chunks[end][1].shape[0]
            end += 1
        scores = _chunk_scores(scaled, [chunk for _, chunk in chunks[start:end]])
        for (number, _), score in zip(chunks[start:end], scores, strict=True):
            known = best[number]
            best[number] = float(score) if known is None else max(known, float(score))
        start = end
    return best


def _chunk_scores(scaled: NDArray[np.float32], chunks: Sequence[NDArray[np.int8]]) -> NDArray[np.float32]:
    """The weighted sum over query tokens of the best cosine in each chunk."""
    starts = np.cumsum([0, *(chunk.shape[0] for chunk in chunks[:-1])])
    cosines = np.concatenate(chunks).astype(np.float32) @ scaled.T
    scores: NDArray[np.float32] = np.maximum.reduceat(cosines, starts, axis=0).sum(axis=1)
    return scores


@dataclass(frozen=True, slots=True)
class LexicalEvidence:
    """What the terms of a memory say about a query; `coverage` and `bm25` in [0, 1].

    `coverage`: the weight of the query terms it holds, of all; `bm25`: its BM25 score, of the highest possible;
    `length`: how many terms the memory has.
    """

    coverage: float
    bm25: float
    length: int


def lexical_evidence(weights: Mapping[str, float], terms: Sequence[str], *, average_length: float) -> LexicalEvidence:
    """The evidence of a memory's `terms` for the weighted query terms; zero for a query of no weight."""
    total = sum(weights.values())
    if total <= 0:
        return LexicalEvidence(0.0, 0.0, len(terms))
    counts = Counter(term for term in terms if term in weights)
    held = sorted(counts)
    covered = sum(weights[term] for term in held)
    scored = sum(
        weights[term] * bm25(count=counts[term], length=len(terms), average_length=average_length) for term in held
    )
    return LexicalEvidence(covered / total, scored / (total * (BM25_K1 + 1.0)), len(terms))


def length_prior(length: int) -> float:
    """What a memory of so many terms loses, at most 0."""
    return -LENGTH_PENALTY * math.log(min(max(length, SHORT_TERMS), LONG_TERMS) / SHORT_TERMS)


def score(*, late: float, similarity: float, lexical: LexicalEvidence) -> float:
    """What orders memories that have vectors."""
    return (
        late
        + COVERAGE_WEIGHT * lexical.coverage
        + BM25_WEIGHT * lexical.bm25
        + SIMILARITY_WEIGHT * similarity
        + length_prior(lexical.length)
    )


# Fitted by `bench/calibrate.py`: the score of a memory without vectors from its lexical evidence alone. Rows
# `words alone`: better than plain BM25 on both sets.
LEXICAL_ONLY_BASE = 0.44
LEXICAL_ONLY_COVERAGE = 0.29
LEXICAL_ONLY_BM25 = 0.58

# Fitted by `bench/calibrate.py`: the logistic that tells answers from other candidates, each as likely as the other.
RELEVANCE_SLOPE = 13.0
RELEVANCE_MIDDLE = 0.67
# The best of many memories that have nothing to do with a question scores higher than the best of few: by this much
# for each factor e of memories. The middle above is that of so many; where it is not measured it stays the same.
RELEVANCE_GROWTH = 0.046
RELEVANCE_DOCUMENTS = 3_600
FEWEST_DOCUMENTS = 100
MOST_DOCUMENTS = 10_000

# Below this a hit is left out where a caller asks for answers, not for everything (mem9: confidence 45). Rows
# `calibration`: how many off-topic questions then get at most one hit, and how many answers are kept.
DEFAULT_RELEVANCE_CUT = 0.45


def lexical_score(lexical: LexicalEvidence) -> float:
    """What orders memories that have no vectors, on the scale of `score`."""
    return (
        LEXICAL_ONLY_BASE
        + LEXICAL_ONLY_COVERAGE * lexical.coverage
        + LEXICAL_ONLY_BM25 * lexical.bm25
        + length_prior(lexical.length)
    )


def relevance(total: float, *, documents: int) -> float:
    """A score as a number in [0, 1] that means the same in a tenant of few `documents` and of many.

    Among the hits of one question it never changes the order.
    """
    known = min(max(documents, FEWEST_DOCUMENTS), MOST_DOCUMENTS)
    middle = RELEVANCE_MIDDLE + RELEVANCE_GROWTH * math.log(known / RELEVANCE_DOCUMENTS)
    return 1.0 / (1.0 + math.exp(min(-RELEVANCE_SLOPE * (total - middle), 60.0)))
