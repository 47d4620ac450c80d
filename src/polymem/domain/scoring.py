"""What a question and a memory have in common: late interaction, words, and the scale of relevance; fusion of arms.

All functions are pure. The order that follows from them is made in `ranking`.
"""

import math
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

# Token rows that are multiplied at once; bounds the memory of one call to some 20 MB.
_ROWS_AT_ONCE = 32_768
_BLOCK_TOKENS = 16

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


@dataclass(frozen=True, slots=True)
class Late:
    """Late interaction of one query with each document; NaN for a document without token vectors.

    `sum_t w(t) * max_j cos(q_t, d_j) / sum_t w(t)` where j runs over a window of a chunk: of 2 blocks of 16 tokens in
    `narrow`, of 4 in `wide`; of all windows of a document the best counts. A window, unlike the whole of a long text,
    does not match everything a little.
    """

    narrow: NDArray[np.float64]
    wide: NDArray[np.float64]


def late_interaction(
    query: NDArray[np.float32],
    weights: NDArray[np.float32],
    documents: Sequence[Sequence[NDArray[np.int8]]],
) -> Late:
    """The late interaction of each document.

    `query` float32 (tokens, dimension) unit rows; each chunk int8 (tokens, dimension), 127 times unit rows.
    """
    late = Late(np.full(len(documents), np.nan), np.full(len(documents), np.nan))
    chunks = [(number, chunk) for number, document in enumerate(documents) for chunk in document if chunk.shape[0] > 0]
    if not chunks or query.shape[0] == 0:
        return late
    scaled = query * (weights / (127.0 * weights.sum()))[:, np.newaxis]
    start = 0
    while start < len(chunks):
        end, rows = start, 0
        while end < len(chunks) and (end == start or rows + chunks[end][1].shape[0] <= _ROWS_AT_ONCE):
            rows += chunks[end][1].shape[0]
            end += 1
        numbers = np.array([number for number, _ in chunks[start:end]])
        narrow, wide = _window_scores(scaled, [chunk for _, chunk in chunks[start:end]])
        np.fmax.at(late.narrow, numbers, narrow)
        np.fmax.at(late.wide, numbers, wide)
        start = end
    return late


def _window_scores(
    scaled: NDArray[np.float32], chunks: Sequence[NDArray[np.int8]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """For each chunk the best window of 2 and of 4 blocks: the weighted sum over query tokens of its best cosines."""
    lengths = np.array([chunk.shape[0] for chunk in chunks])
    counts = -(-lengths // _BLOCK_TOKENS)
    first_blocks = np.cumsum(counts) - counts
    chunk_of = np.repeat(np.arange(len(chunks)), counts)
    within = np.arange(len(chunk_of)) - first_blocks[chunk_of]
    starts = (np.cumsum(lengths) - lengths)[chunk_of] + within * _BLOCK_TOKENS
    cosines = np.concatenate(chunks).astype(np.float32) @ scaled.T
    blocks = np.maximum.reduceat(cosines, starts, axis=0)
    pairs = _joined(blocks, chunk_of, 1)
    fours = _joined(pairs, chunk_of, 2)
    return (
        np.maximum.reduceat(pairs.sum(axis=1), first_blocks),
        np.maximum.reduceat(fours.sum(axis=1), first_blocks),
    )


def _joined(rows: NDArray[np.float32], chunk_of: NDArray[np.int64], step: int) -> NDArray[np.float32]:
    """Each row with the row `step` further on taken in, where that is of the same chunk."""
    joined = rows.copy()
    is_same = np.flatnonzero(chunk_of[:-step] == chunk_of[step:])
    joined[is_same] = np.maximum(rows[is_same], rows[is_same + step])
    return joined


def lexical_evidence(
    weights: Mapping[str, float], frequencies: Mapping[str, int], *, length: int, average_length: float
) -> tuple[float, float]:
    """What the terms of a memory say about the weighted terms of a query: coverage and BM25, both in [0, 1].

    Coverage is the weight of the terms it holds, of all; BM25 its score, of the highest possible. `frequencies` tells
    how often it holds each, `length` how many terms it has. Both are zero for a query of no weight.
    """
    total = sum(weights.values())
    if total <= 0:
        return 0.0, 0.0
    covered = scored = 0.0
    for term, weight in weights.items():
        count = frequencies.get(term, 0)
        if count:
            covered += weight
            scored += weight * bm25(count=count, length=length, average_length=average_length)
    return covered / total, scored / (total * (BM25_K1 + 1.0))


# Set by `python -m bench.recall calibrate`: the slope of the logistic that tells answers from other candidates; its
# middle so that off-topic questions stay below the default cut in both data sets.
RELEVANCE_SLOPE = 13.0
RELEVANCE_MIDDLE = 0.54
# The best of many memories that have nothing to do with a question scores higher than the best of few: by this much
# for each factor e of memories. The middle above is that of so many; where it is not measured it stays the same.
RELEVANCE_GROWTH = 0.03
RELEVANCE_DOCUMENTS = 3_600
FEWEST_DOCUMENTS = 100
MOST_DOCUMENTS = 10_000

# Below this a hit is left out where a caller asks for answers, not for everything (mem9: confidence 45). Rows
# `calibration`: how many off-topic questions then get at most one hit, and how many answers are kept.
DEFAULT_RELEVANCE_CUT = 0.45


def relevance(total: float, *, documents: int) -> float:
    """A score as a number in [0, 1] that means the same in a tenant of few `documents` and of many.

    Among the hits of one question it never changes the order.
    """
    known = min(max(documents, FEWEST_DOCUMENTS), MOST_DOCUMENTS)
    middle = RELEVANCE_MIDDLE + RELEVANCE_GROWTH * math.log(known / RELEVANCE_DOCUMENTS)
    return 1.0 / (1.0 + math.exp(min(-RELEVANCE_SLOPE * (total - middle), 60.0)))
