"""What an arm should find: all vectors scanned, and BM25 over all texts, from the memories and not from a storage."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import MemoryId
from polymem.domain.scoring import BM25_B, BM25_K1, idf
from polymem.ports.changes import PutMemory
from polymem.ports.search import ArmHit

# Two memories may score alike but for rounding: either is right then.
_TIE_SHARE = 1e-4


@dataclass(slots=True)
class ExactTenant:
    """All memories of one tenant: their vectors as stored, and where each term of `vocabulary` stands in them."""

    vocabulary: Collection[str]
    places: dict[MemoryId, int] = field(default_factory=dict)
    _rows: list[NDArray[np.float16]] = field(default_factory=list)
    _unit_rows: NDArray[np.float32] | None = None
    _lengths: list[int] = field(default_factory=list)
    _postings: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def add(self, puts: Sequence[PutMemory]) -> None:
        """The memories count from now on. Each has one chunk."""
        for put in puts:
            place = len(self.places)
            self.places[put.memory.id] = place
            terms, embedding = put.index.terms, put.index.embedding
            if embedding is not None:
                self._rows.append(embedding.chunks[0].embedding.astype(np.float16))
            self._lengths.append(len(terms))
            for term, count in Counter(terms).items():
                if term in self.vocabulary:
                    self._postings.setdefault(term, []).append((place, count))
        self._unit_rows = None

    def cosines(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """The cosine of every memory with a unit vector."""
        if self._unit_rows is None:
            rows = np.stack(self._rows).astype(np.float32)
            self._unit_rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        found: NDArray[np.float32] = self._unit_rows @ vector
        return found

    def word_scores(self, terms: Sequence[str]) -> NDArray[np.float32]:
        """The BM25 of every memory for some terms; 0 where it holds none."""
        scores = np.zeros(len(self.places))
        lengths = np.array(self._lengths)
        norms = BM25_K1 * (1 - BM25_B + BM25_B * lengths / max(lengths.mean(), 1.0))
        for term in terms:
            postings = np.array(self._postings.get(term, ()), dtype=np.int64).reshape(-1, 2)
            places, counts = postings[:, 0], postings[:, 1]
            weight = idf(len(lengths), len(places))
            scores[places] += weight * counts * (BM25_K1 + 1) / (counts + norms[places])
        return scores.astype(np.float32)

    def share(self, hits: Sequence[ArmHit], scores: NDArray[np.float32], *, cut: int) -> float | None:
        """How many of the `cut` best by these scores stand among the first `cut` hits, of all that could.

        Whatever scores as high as the last of the best is as good. None where nothing scores.
        """
        held = min(cut, int(np.count_nonzero(scores)))
        if not held:
            return None
        lowest = np.partition(scores, -held)[-held]
        enough = lowest - abs(lowest) * _TIE_SHARE
        found = {self.places[hit.memory_id] for hit in hits[:cut]}
        return min(sum(bool(scores[place] >= enough) for place in found), held) / held
