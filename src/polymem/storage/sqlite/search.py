"""The search port on SQLite: both recall arms, the tenant's term counts, and the evidence of candidates."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from polymem.domain.model import MemoryId, ModelIdentity, TenantId
from polymem.domain.query import MemoryFilter
from polymem.ports.search import ArmHit, Evidence, TermStatistics
from polymem.storage.sqlite.index_postings import count_documents, find_candidates, score_entries
from polymem.storage.sqlite.index_rows import find_model, split_terms
from polymem.storage.sqlite.vector_rows import RowsView, most_first, unit_rows
from polymem.storage.sqlite.vector_scan import StoredVectors, best_hits
from polymem.storage.sqlite.vectors import Behind, Reads, TenantIndex, VectorIndexes, View, read_counts

# Candidates of the int8 scan that are scored exactly, as a multiple of the hits asked for, and at least so many.
_CANDIDATES_PER_HIT: Final = 2
_FEWEST_CANDIDATES: Final = 64

# How many more are scored exactly when the int8 error leaves open whether they belong to the hits.
_MOST_DOUBTFUL: Final = 4096

_TERMS_OF = (
    "SELECT e.memory_id, e.terms FROM json_each(?) AS wanted"
    " CROSS JOIN index_entries AS e ON e.tenant_id = ? AND e.memory_id = wanted.value"
)
_CHUNKS_OF = (
    "SELECT c.memory_id, c.embedding, c.token_vectors FROM json_each(?) AS wanted"
    " CROSS JOIN chunks AS c ON c.tenant_id = ? AND c.memory_id = wanted.value"
    " WHERE c.model_no = ? ORDER BY wanted.key, c.chunk_no"
)


class SqliteSearch:
    """The index of one tenant."""

    def __init__(self, database: Reads, vectors: VectorIndexes, tenant_id: TenantId) -> None:
        self._database = database
        self._vectors = vectors
        self._tenant_id = tenant_id

    async def lexical(self, terms: Sequence[str], where: MemoryFilter, *, limit: int) -> tuple[ArmHit, ...]:
        """The best memories by exact BM25 with the tenant's own counts."""
        if not terms or limit < 1:
            return ()
        query = _LexicalQuery(tenant_id=self._tenant_id, terms=tuple(terms), where=where, limit=limit)
        return await self._vectors.read(self._tenant_id, query)

    async def dense(
        self, vector: NDArray[np.float32], model: ModelIdentity, where: MemoryFilter, *, limit: int
    ) -> tuple[ArmHit, ...]:
        """The nearest memories by exact cosine."""
        if limit < 1:
            return ()
        exact = vector.astype(np.float32, copy=False)
        query = _DenseQuery(tenant_id=self._tenant_id, vector=exact, model=model, where=where, limit=limit)
        return await self._vectors.read(self._tenant_id, query)

    async def term_statistics(self, terms: Sequence[str]) -> TermStatistics:
        """The counts of the tenant's whole index."""
        return await self._database.read(partial(_statistics, self._tenant_id, tuple(terms)))

    async def evidence(self, ids: Sequence[MemoryId], model: ModelIdentity) -> dict[MemoryId, Evidence]:
        """What the index holds of these memories."""
        if not ids:
            return {}
        return await self._database.read(partial(_evidence, self._tenant_id, tuple(dict.fromkeys(ids)), model))


@dataclass(frozen=True, slots=True, kw_only=True)
class _LexicalQuery:
    """One call of the lexical arm, as a unit of reading."""

    tenant_id: TenantId
    terms: tuple[str, ...]
    where: MemoryFilter
    limit: int

    def __call__(self, connection: sqlite3.Connection, index: TenantIndex) -> tuple[ArmHit, ...] | Behind:
        """The best memories, or that the index has to catch up first."""
        view = index.view(connection, self.where)
        if view is None or isinstance(view, Behind):
            return view or ()
        documents_with = count_documents(connection, self.tenant_id, self.terms)
        candidates = find_candidates(connection, view, documents_with)
        scores = score_entries(connection, self.tenant_id, view.counts, documents_with, candidates)
        return best_hits(scores.items(), limit=self.limit)


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
        stored = StoredVectors(connection, self.tenant_id, view.model_no)
        if view.rows is None:
            return stored.nearest(self.vector, self.where, limit=self.limit)
        return self._nearest(stored, view, view.rows)

    def _nearest(self, stored: StoredVectors, view: View, rows: RowsView) -> tuple[ArmHit, ...]:
        """The nearest by exact cosine: the scan picks candidates, the stored rows decide.

        After that, whoever the scan puts within its error of the last hit is scored too, so that none is missed.
        """
        estimates = rows.best_by_document(self.vector, view.passes)
        first = most_first(estimates, max(_CANDIDATES_PER_HIT * self.limit, _FEWEST_CANDIDATES))
        scores = stored.cosines(view.doc_nos[first], self.vector)
        hits = best_hits(scores.items(), limit=self.limit)
        if len(hits) == self.limit:
            estimates[first] = -np.inf
            doubtful = np.flatnonzero(estimates >= hits[-1].score - rows.largest_error)
            doubtful = doubtful[most_first(estimates[doubtful], _MOST_DOUBTFUL)]
            scores |= stored.cosines(view.doc_nos[doubtful], self.vector)
            hits = best_hits(scores.items(), limit=self.limit)
        return hits


def _statistics(tenant_id: TenantId, terms: tuple[str, ...], connection: sqlite3.Connection) -> TermStatistics:
    counts = read_counts(connection, tenant_id)
    return TermStatistics(
        documents=0 if counts is None else counts.memory_count,
        average_length=0.0 if counts is None else counts.average_length,
        documents_with=count_documents(connection, tenant_id, terms),
    )


def _evidence(
    tenant_id: TenantId, ids: tuple[MemoryId, ...], model: ModelIdentity, connection: sqlite3.Connection
) -> dict[MemoryId, Evidence]:
    asked = orjson.dumps(ids).decode()
    terms = dict(connection.execute(_TERMS_OF, (asked, tenant_id)).fetchall())
    chunks: dict[MemoryId, list[tuple[bytes, bytes]]] = {}
    model_no = find_model(connection, model)
    for memory_id, embedding, tokens in connection.execute(_CHUNKS_OF, (asked, tenant_id, model_no)).fetchall():
        chunks.setdefault(memory_id, []).append((embedding, tokens))
    return {
        memory_id: Evidence(
            terms=split_terms(stored),
            token_vectors=tuple(
                np.frombuffer(tokens, dtype=np.int8).reshape(-1, model.token_dimension)
                for _, tokens in chunks.get(memory_id, ())
            ),
            embeddings=unit_rows([blob for blob, _ in chunks.get(memory_id, ())], model.dimension),
        )
        for memory_id, stored in terms.items()
    }
