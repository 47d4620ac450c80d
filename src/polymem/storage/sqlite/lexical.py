"""The lexical arm: BM25 over the posting lists in memory, rare terms first, exact but for very common terms.

The work is bounded by the postings read. Where the lists of all asked terms are longer than that, the most common
terms no longer find memories: they only add to the score of those that the rarer ones found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from polymem.domain.scoring import BM25_K1, idf
from polymem.storage.sqlite.index_postings import PostingList, PostingsView

# Reading a million postings takes some 10 ms on one core.
MAX_POSTINGS: Final = 1_000_000
# Of very common terms, the memories that they add to: those that the rarer terms put first.
MAX_PROMISING: Final = 4096


def documents_in(lists: Sequence[PostingList]) -> int:
    """How many of the tenant's memories hold the term of these lists."""
    return sum(each.size for each in lists)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One asked term: how much it weighs, where it stands, and in how many memories."""

    weight: float
    lists: Sequence[PostingList]
    count: int


def score_memories(
    found: Mapping[str, Sequence[PostingList]],
    norms: NDArray[np.float32],
    passes: NDArray[np.bool_],
    documents: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The positions that pass and hold one of the found terms, in order, and their BM25."""
    asked = _asked(found, documents)
    scores = np.zeros(len(passes))
    allowed = np.flatnonzero(passes) if np.count_nonzero(passes) <= MAX_PROMISING else None
    left = MAX_POSTINGS
    for term in asked:
        if allowed is None and term.count > left:
            allowed = _promising(scores, passes)
        for each in term.lists:
            _add(scores, each, term.weight, norms, allowed)
        left -= term.count
    held = np.flatnonzero(scores > 0)
    held = held[passes[held]]
    return held, scores[held]


def _asked(found: Mapping[str, Sequence[PostingList]], documents: int) -> list[_Asked]:
    """The terms that stand anywhere, rarest first."""
    counted = [(documents_in(lists), term, lists) for term, lists in found.items()]
    ordered = sorted((each for each in counted if each[0]), key=lambda each: each[:2])
    return [_Asked(idf(documents, count), lists, count) for count, _, lists in ordered]


def _promising(scores: NDArray[np.float64], passes: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """The positions that the rarer terms put first; None when they found none that pass."""
    found = np.flatnonzero(scores > 0)
    found = found[passes[found]]
    if not len(found):
        return None
    if len(found) > MAX_PROMISING:
        found = found[np.argpartition(scores[found], -MAX_PROMISING)[-MAX_PROMISING:]]
        found.sort()
    return found


def _add(
    scores: NDArray[np.float64],
    postings: PostingList,
    weight: float,
    norms: NDArray[np.float32],
    allowed: NDArray[np.int64] | None,
) -> None:
    """The scores have what the postings of one term give, to the allowed positions alone if these are given."""
    positions, counts = postings.positions, postings.counts.astype(np.float32)
    if len(postings.gone):
        counts[postings.gone_places()] = 0
    if allowed is not None:
        places = np.searchsorted(positions, allowed.astype(positions.dtype, copy=False))
        places[places == len(positions)] = 0
        places = places[positions[places] == allowed]
        positions, counts = positions[places], counts[places]
    scores[positions] += weight * (BM25_K1 + 1.0) * counts / (counts + norms[positions])


def posted_frequencies(
    postings: PostingsView, positions: NDArray[np.int32], terms: Sequence[str]
) -> list[dict[str, int]]:
    """For each of the positions, which ascend, how often it holds each of the terms it holds."""
    found: list[dict[str, int]] = [{} for _ in positions]
    for term, lists in postings.find_terms(terms).items():
        for each in lists:
            places = each.positions.searchsorted(positions)
            places[places == len(each.positions)] = 0
            held = np.flatnonzero(each.positions[places] == positions)
            if len(each.gone):
                held = held[~np.isin(positions[held], each.gone)]
            for owner, count in zip(held.tolist(), each.counts[places[held]].tolist(), strict=True):
                found[owner][term] = count
    return found
