"""The search port: recall arms over the index entries of one tenant, and the evidence behind a candidate.

Every arm applies the filter inside itself: `limit` counts matches that pass it. A committed change is seen by
the next call of every arm. All methods may raise the storage errors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import MemoryId, MemoryType, ModelIdentity
from polymem.domain.query import MemoryFilter


class ArmHit(NamedTuple):
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
class WordsFound:
    """What the words of a question are in the tenant, and what they find: all of one moment.

    `statistics`: of every word; `searched`: the words that it was searched by; `hits`: as of `SearchIndex.lexical`.
    """

    statistics: TermStatistics
    searched: tuple[str, ...]
    hits: tuple[ArmHit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the index holds of one candidate, and what else its score needs.

    `frequencies`: how often it holds each of the asked terms that it holds, where counts above 65,535 may be told as
    that; `length`: how many terms it has in all, repeats counted. `traits`: those of its index entry. `role` and
    `seq`: who said a turn, and its place in its session. `token_vectors`: int8 (tokens, token_dimension) per chunk;
    empty when the memory has no vectors of the model. `embeddings`: float32 (chunks, dimension), unit rows, in the
    same order.
    """

    frequencies: Mapping[str, int]
    length: int
    created_at: datetime
    session_id: str | None
    role: str | None
    seq: int | None
    superseded_by: MemoryId | None
    memory_type: MemoryType = MemoryType.INSIGHT
    traits: bytes = b""
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

        Only vectors of `model` take part. In a tenant too large to be compared whole, a few of the nearest may be
        missed, and others stand in their place; the cosines told are exact all the same.
        """
        ...

    async def words(
        self, every: Sequence[str], telling: Sequence[str], where: MemoryFilter, *, limit: int, most: int
    ) -> WordsFound:
        """Counts of `every` word, and the lexical arm by the `most` rarest of the `telling` ones: one round trip.

        The counts are of the tenant's whole index, of every space and state. `telling` is a part of `every`.
        Searched are those of them that occur at all, fewest documents first, ties by the alphabet; `searched` has
        them in the order of `telling`.
        """
        ...

    async def evidence(
        self, ids: Sequence[MemoryId], model: ModelIdentity, terms: Sequence[str]
    ) -> dict[MemoryId, Evidence]:
        """What the index holds of these memories, in one round trip; unknown ids are left out."""
        ...

    async def conceptual(self, weights: Mapping[str, float], where: MemoryFilter, *, limit: int) -> tuple[ArmHit, ...]:
        """The memories that have any of these concepts (by key): the sum of their weights, best first, ties by id.

        Which memories are scored is bounded: of a concept that very many have, only the newest.
        """
        ...

    async def embeddings(self, ids: Sequence[MemoryId], model: ModelIdentity) -> dict[MemoryId, NDArray[np.float32]]:
        """The vectors of these memories by this model: (chunks, dimension), unit rows; those without are left out."""
        ...

    async def neighbours(
        self, ids: Sequence[MemoryId], where: MemoryFilter, *, reach: int
    ) -> dict[MemoryId, tuple[tuple[int, MemoryId], ...]]:
        """For each of the ids that is a turn of a session, the turns beside it that pass the filter.

        Beside it stand the turns of the same space and session, in the order of (seq, id): of those that pass, at
        most `reach` on each side, each with its distance (-2, -1, 1, 2), in that order. The turn itself need not
        pass. Ids that are no turn, or unknown, are left out.
        """
        ...
