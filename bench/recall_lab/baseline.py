"""The baselines every run is compared with: BM25 alone over the text the engine indexes."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

K1 = 1.2
B = 0.75


class PlainBm25:
    """BM25 over documents given as terms; a plain script, independent of the storage under test."""

    def __init__(self, documents: Sequence[Sequence[str]]) -> None:
        lengths = np.array([len(document) for document in documents], dtype=np.float64)
        self._norm = K1 * (1 - B + B * lengths / max(lengths.mean(), 1.0))
        self._size = len(documents)
        postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, document in enumerate(documents):
            for term, count in Counter(document).items():
                postings[term].append((number, count))
        self._postings = {term: np.array(entries, dtype=np.int64) for term, entries in postings.items()}

    def scores(self, terms: Sequence[str]) -> NDArray[np.float64]:
        """The score of every document."""
        scores = np.zeros(self._size)
        for term in terms:
            entries = self._postings.get(term)
            if entries is None:
                continue
            idf = np.log(1 + (self._size - len(entries) + 0.5) / (len(entries) + 0.5))
            numbers, counts = entries[:, 0], entries[:, 1]
            scores[numbers] += idf * counts * (K1 + 1) / (counts + self._norm[numbers])
        return scores

    def ranking(self, terms: Sequence[str], limit: int) -> list[int]:
        """The best documents that hold any of the terms, ties in the order of the documents."""
        scores = self.scores(terms)
        order = np.argsort(-scores, kind="stable")[:limit]
        return [int(number) for number in order if scores[number] > 0]
