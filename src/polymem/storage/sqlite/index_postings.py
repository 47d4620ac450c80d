"""The lexical arm: which memories to score, found in the posting lists, and their exact BM25.

A posting list is read as one row, the document numbers joined, and summed up in numpy under the filter: FTS5's own
bm25() takes a microsecond a row and knows neither the tenant's counts nor the filter. With common terms the work
is bounded three ways, each keeping the most promising: the rarest terms first, of one common term the newest
memories, and of all found those with the best score that the term weights and lengths allow to foresee.
"""

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import MemoryId, TenantId
from polymem.domain.scoring import BM25_B, BM25_K1, bm25, idf
from polymem.storage.sqlite.index_documents import parse_numbers
from polymem.storage.sqlite.index_rows import fts_token, split_terms
from polymem.storage.sqlite.vectors import TenantCounts, View

MAX_TERMS: Final = 64
MAX_POSTINGS: Final = 40_000
MAX_CANDIDATES: Final = 400
MAX_CANDIDATE_TERMS: Final = 400_000

# Of the candidates, so many are taken by the weights of their terms alone: long texts that repeat a term.
_BY_WEIGHT_ALONE = 100

# Up to so many asked terms are counted one by one in the stored text, more in one pass over its terms.
_FEW_TERMS = 12

_POSTINGS = "SELECT group_concat(rowid) FROM terms_fts WHERE terms_fts MATCH ?"
_NEWEST_POSTINGS = (
    "SELECT group_concat(doc_no) FROM"
    " (SELECT rowid AS doc_no FROM terms_fts WHERE terms_fts MATCH ? ORDER BY rowid DESC LIMIT ?)"
)
_ENTRIES = (
    "SELECT e.memory_id, e.length, e.terms FROM json_each(?) AS wanted"
    " CROSS JOIN index_entries AS e ON e.doc_no = wanted.value WHERE e.tenant_id = ?"
)


def count_documents(connection: sqlite3.Connection, tenant_id: TenantId, terms: Sequence[str]) -> dict[str, int]:
    """For each of the terms, in order, how many of the tenant's entries hold it; 0 for an unknown one."""
    counts = dict.fromkeys(terms, 0)
    for term in counts:
        row = connection.execute(
            "SELECT documents FROM term_counts WHERE tenant_id = ? AND term = ?", (tenant_id, term)
        ).fetchone()
        if row is not None:
            counts[term] = row[0]
    return counts


def find_candidates(connection: sqlite3.Connection, view: View, documents_with: Mapping[str, int]) -> NDArray[np.int64]:
    """The document numbers, at most `MAX_CANDIDATES`, of those that pass the filter and hold a term."""
    weights = np.zeros(len(view.doc_nos), dtype=np.float32)
    left = MAX_POSTINGS
    if not len(weights):
        return np.empty(0, dtype=np.int64)
    held = sorted((count, term) for term, count in documents_with.items() if count)
    for count, term in held[:MAX_TERMS]:
        if left <= 0:
            break
        found = _postings(connection, fts_token(view.counts.tenant_no, term), left if count > left else None)
        left -= count
        weights[_positions(view.doc_nos, found)] += idf(view.counts.memory_count, count)
    weights[~view.passes] = 0
    return _most_promising(view, weights)


def score_entries(
    connection: sqlite3.Connection,
    tenant_id: TenantId,
    counts: TenantCounts,
    documents_with: Mapping[str, int],
    doc_nos: NDArray[np.int64],
) -> dict[MemoryId, float]:
    """The exact BM25 of each of these documents that holds a term."""
    weights = {term: idf(counts.memory_count, count) for term, count in documents_with.items()}
    listed = f"[{','.join(map(str, doc_nos.tolist()))}]"
    scores: dict[MemoryId, float] = {}
    for memory_id, length, stored in connection.execute(_ENTRIES, (listed, tenant_id)).fetchall():
        frequencies = term_frequencies(stored, documents_with)
        if frequencies:
            scores[memory_id] = sum(
                weights[term] * bm25(count=count, length=length, average_length=counts.average_length)
                for term, count in frequencies.items()
            )
    return scores


def term_frequencies(stored: str, terms: Mapping[str, object]) -> dict[str, int]:
    """How often each of the terms that an entry holds stands in its stored terms, in the order of the terms."""
    if len(terms) > _FEW_TERMS:
        counted = Counter(split_terms(stored))
        return {term: counted[term] for term in terms if term in counted}
    # With two spaces between terms, neighbours do not share one, and the counts of a term do not overlap.
    spaced = f" {stored.replace(' ', '  ')} "
    return {term: count for term in terms if (count := spaced.count(f" {term} "))}


def _postings(connection: sqlite3.Connection, token: str, newest: int | None) -> NDArray[np.int64]:
    """The documents that hold the token, or the newest of them."""
    asked = f'"{token}"'
    if newest is None:
        row = connection.execute(_POSTINGS, (asked,)).fetchone()
    else:
        row = connection.execute(_NEWEST_POSTINGS, (asked, newest)).fetchone()
    return parse_numbers(row[0])


def _positions(doc_nos: NDArray[np.int64], found: NDArray[np.int64]) -> NDArray[np.int64]:
    """The positions of the found documents; a token of an unknown document, which only a damaged file has, is none."""
    found = found[found <= doc_nos[-1]]
    positions = np.searchsorted(doc_nos, found)
    known: NDArray[np.int64] = positions[doc_nos[positions] == found]
    return known


def _most_promising(view: View, weights: NDArray[np.float32]) -> NDArray[np.int64]:
    """The document numbers of the positions with the highest weights, as many as may be scored."""
    found = np.flatnonzero(weights)
    relative = view.lengths[found] / max(view.counts.average_length, 1.0)
    foreseen = weights[found] / (1 + BM25_K1 * (1 - BM25_B + BM25_B * relative))
    first = _best_first(foreseen)
    if len(found) > MAX_CANDIDATES:
        first = first[: MAX_CANDIDATES - _BY_WEIGHT_ALONE]
        heavy = _best_first(weights[found])[:_BY_WEIGHT_ALONE]
        first = np.concatenate([first, heavy[~np.isin(heavy, first)]])
    chosen = found[first]
    fits = np.cumsum(view.lengths[chosen], dtype=np.int64) <= MAX_CANDIDATE_TERMS
    fits[:1] = True
    return view.doc_nos[chosen[fits]]


def _best_first(scores: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The indexes of the highest scores, at most `MAX_CANDIDATES`, best first, of equal ones the last first."""
    # A trace of the index itself makes all scores differ, far below what float32 scores differ by.
    distinct = scores.astype(np.float64) + np.arange(len(scores)) * 1e-12
    best: NDArray[np.int64] = np.arange(len(scores))
    if len(scores) > MAX_CANDIDATES:
        best = np.argpartition(distinct, len(scores) - MAX_CANDIDATES)[-MAX_CANDIDATES:]
    ordered: NDArray[np.int64] = best[np.argsort(distinct[best])[::-1]]
    return ordered
