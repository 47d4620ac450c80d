"""The search port on SQLite: both recall arms, the tenant's term counts, and the evidence of candidates."""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import MemoryId, ModelIdentity, TenantId
from polymem.domain.query import MemoryFilter
from polymem.ports.search import ArmHit, Evidence, TermStatistics, WordsFound
from polymem.storage.sqlite.conceptual import ConceptQuery
from polymem.storage.sqlite.evidence import evidence_of, read_embeddings, read_evidence
from polymem.storage.sqlite.index_postings import PostingList
from polymem.storage.sqlite.lexical import documents_in, score_memories
from polymem.storage.sqlite.neighbours import find_neighbours
from polymem.storage.sqlite.vector_scan import nearest_stored
from polymem.storage.sqlite.vectors import Behind, Reads, TenantIndex, VectorIndexes, View


class SqliteSearch:
    """The index of one tenant."""

    def __init__(self, database: Reads, vectors: VectorIndexes, tenant_id: TenantId) -> None:
        self._database = database
        self._vectors = vectors
        self._tenant_id = tenant_id

    async def lexical(self, terms: Sequence[str], where: MemoryFilter, *, limit: int) -> tuple[ArmHit, ...]:
        """The best memories by BM25 with the tenant's own counts."""
        if not terms or limit < 1:
            return ()
        return await self._vectors.read(self._tenant_id, _LexicalQuery(tuple(terms), where, limit))

    async def dense(
        self, vector: NDArray[np.float32], model: ModelIdentity, where: MemoryFilter, *, limit: int
    ) -> tuple[ArmHit, ...]:
        """The nearest memories by exact cosine."""
        if limit < 1:
            return ()
        exact = vector.astype(np.float32, copy=False)
        query = _DenseQuery(tenant_id=self._tenant_id, vector=exact, model=model, where=where, limit=limit)
        return await self._vectors.read(self._tenant_id, query)

    async def words(
        self, every: Sequence[str], telling: Sequence[str], where: MemoryFilter, *, limit: int, most: int
    ) -> WordsFound:
        """The tenant's counts of every word, and the best memories by the rarest of the telling ones."""
        query = _WordsQuery(
            every=tuple(dict.fromkeys(every)), telling=tuple(telling), where=where, limit=limit, most=most
        )
        return await self._vectors.read(self._tenant_id, query)

    async def evidence(
        self, ids: Sequence[MemoryId], model: ModelIdentity, terms: Sequence[str]
    ) -> dict[MemoryId, Evidence]:
        """What the index holds of these memories."""
        if not ids:
            return {}
        asked, of_terms = tuple(dict.fromkeys(ids)), tuple(terms)
        query = _EvidenceQuery(tenant_id=self._tenant_id, ids=asked, model=model, terms=of_terms)
        return await self._vectors.read(self._tenant_id, query)

    async def conceptual(self, weights: Mapping[str, float], where: MemoryFilter, *, limit: int) -> tuple[ArmHit, ...]:
        """The memories with any of these concepts, by the sum of their weights."""
        if not weights or limit < 1:
            return ()
        query = ConceptQuery(tenant_id=self._tenant_id, weights=dict(weights), where=where, limit=limit)
        return await self._vectors.read(self._tenant_id, query)

    async def embeddings(self, ids: Sequence[MemoryId], model: ModelIdentity) -> dict[MemoryId, NDArray[np.float32]]:
        """The vectors of these memories by this model."""
        return await self._database.read(partial(read_embeddings, self._tenant_id, tuple(dict.fromkeys(ids)), model))

    async def neighbours(
        self, ids: Sequence[MemoryId], where: MemoryFilter, *, reach: int
    ) -> dict[MemoryId, tuple[tuple[int, MemoryId], ...]]:
        """The turns beside each of these turns that pass."""
        if not ids:
            return {}
        asked = tuple(dict.fromkeys(ids))
        return await self._database.read(partial(find_neighbours, self._tenant_id, asked, where, reach))


@dataclass(frozen=True, slots=True)
class _LexicalQuery:
    """One call of the lexical arm, as a unit of reading."""

    terms: tuple[str, ...]
    where: MemoryFilter
    limit: int

    def __call__(self, connection: sqlite3.Connection, index: TenantIndex) -> tuple[ArmHit, ...] | Behind:
        """The best memories, or that the index has to catch up first."""
        view = index.view(connection, self.where)
        if view is None or isinstance(view, Behind):
            return view or ()
        return _best_by_words(view, view.postings.find_terms(self.terms), self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class _WordsQuery:
    """One call of `SearchIndex.words`, as a unit of reading."""

    every: tuple[str, ...]
    telling: tuple[str, ...]
    where: MemoryFilter
    limit: int
    most: int

    def __call__(self, connection: sqlite3.Connection, index: TenantIndex) -> WordsFound | Behind:
        """The counts and the best memories, or that the index has to catch up first."""
        view = index.view(connection, self.where)
        if isinstance(view, Behind):
            return view
        if view is None:
            nothing = TermStatistics(documents=0, average_length=0.0, documents_with=dict.fromkeys(self.every, 0))
            return WordsFound(statistics=nothing, searched=(), hits=())
        found = view.postings.find_terms(self.every)
        counts = {term: documents_in(lists) for term, lists in found.items()}
        known = sorted((counts[term], term) for term in set(self.telling) if counts[term])
        rarest = {term: found[term] for _, term in known[: self.most]}
        return WordsFound(
            statistics=TermStatistics(
                documents=view.counts.memory_count, average_length=view.counts.average_length, documents_with=counts
            ),
            searched=tuple(term for term in dict.fromkeys(self.telling) if term in rarest),
            hits=_best_by_words(view, rarest, self.limit) if rarest and self.limit > 0 else (),
        )


def _best_by_words(view: View, found: Mapping[str, Sequence[PostingList]], limit: int) -> tuple[ArmHit, ...]:
    """The best memories by BM25 over the postings of these terms."""
    return view.best(*score_memories(found, view.norms, view.passes, view.counts.memory_count), limit=limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class _EvidenceQuery:
    """One call of `SearchIndex.evidence`, as a unit of reading. It loads nothing: a check reads a whole tenant so."""

    tenant_id: TenantId
    ids: tuple[MemoryId, ...]
    model: ModelIdentity
    terms: tuple[str, ...]

    def __call__(self, connection: sqlite3.Connection, index: TenantIndex) -> dict[MemoryId, Evidence]:
        """The evidence by what is loaded, else by the rows."""
        held = index.held(connection, self.ids, self.model)
        if held is None:
            return read_evidence(self.tenant_id, self.ids, self.model, self.terms, connection)
        return evidence_of(held, self.model, self.terms, connection)


@dataclass(frozen=True, slots=True, kw_only=True)
class _DenseQuery:
    """One call of the dense arm, as a unit of reading."""

    tenant_id: TenantId
    vector: NDArray[np.float32]
    model: ModelIdentity
    where: MemoryFilter
    limit: int

    def __call__(self, connection: sqlite3.Connection, index: TenantIndex) -> tuple[ArmHit, ...] | Behind:
        """The nearest memories, or that the index has to catch up first."""
        view = index.view(connection, self.where, model=self.model)
        if view is None or isinstance(view, Behind):
            return view or ()
        if view.model_no is None:
            return ()
        if view.rows is not None:
            return self._nearest(view, view.rows.nearest(self.vector, view.taken, documents=self.limit))
        return nearest_stored(
            connection,
            self.vector,
            self.where,
            tenant_id=self.tenant_id,
            tenant_no=view.counts.tenant_no,
            model_no=view.model_no,
            limit=self.limit,
        )

    def _nearest(self, view: View, found: tuple[NDArray[np.int32], NDArray[np.float64]]) -> tuple[ArmHit, ...]:
        """The memories of these positions, each by its best cosine."""
        positions, cosines = found
        distinct, places = np.unique(positions, return_inverse=True)
        best = np.full(len(distinct), -np.inf)
        np.maximum.at(best, places, cosines)
        return view.best(distinct, best, limit=self.limit)
