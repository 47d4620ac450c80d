"""The search port: recall arms over the index entries of one tenant, and the evidence behind a candidate.

Every arm applies the filter inside itself: `limit` counts matches that pass it. A committed change is seen by
the next call of every arm. All methods may raise the storage errors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import MemoryId, ModelIdentity
from polymem.domain.query import MemoryFilter


@dataclass(frozen=True, slots=True)
class ArmHit:
    """One memory as one arm scored it."""

    memory_id: MemoryId
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TermStatistics:
    """Counts over the tenant's index entries; `documents_with` has an entry, perhaps 0, for each asked term."""

    documents: int
    average_length: float
    documents_with: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the index holds of one candidate: its terms, and its token vectors if the model made them.

    `token_vectors`: int8 (tokens, token_dimension) per chunk; empty when the memory has no vectors of the model.
    `embeddings`: float32 (chunks, dimension), unit rows, in the same order.
    """

    terms: tuple[str, ...]
    token_vectors: tuple[NDArray[np.int8], ...]
    embeddings: NDArray[np.float32]


class SearchIndex(Protocol):
    """The index of one tenant."""

    async def lexical(self, terms: Sequence[str], where: MemoryFilter, *, limit: int) -> tuple[ArmHit, ...]:
        """The memories that hold any of the terms, best BM25 first (k1 1.2, b 0.75), ties by id.

        Document frequencies, document count and average length are the tenant's own, so that scores do not
        depend on other tenants. No terms, no hits. Which memories are scored is bounded: with very common terms
        only a bounded number of the most promising ones.
        """
        ...

    async def dense(
        self, vector: NDArray[np.float32], model: ModelIdentity, where: MemoryFilter, *, limit: int
    ) -> tuple[ArmHit, ...]:
        """The memories nearest to a unit vector by exact cosine of their best chunk, best first, ties by id.

        Only vectors of `model` take part.
        """
        ...

    async def term_statistics(self, terms: Sequence[str]) -> TermStatistics:
        """Counts of the tenant's whole index, of every space and state."""
        ...

    async def evidence(self, ids: Sequence[MemoryId], model: ModelIdentity) -> dict[MemoryId, Evidence]:
        """What the index holds of these memories, in one round trip; unknown ids are left out."""
        ...
