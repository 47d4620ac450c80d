"""The search port on PostgreSQL: the recall arms, the tenant's term counts, and the evidence of candidates."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import MemoryId, ModelIdentity, TenantId
from polymem.domain.query import MemoryFilter
from polymem.ports.search import ArmHit, Evidence, TermStatistics, WordsFound
from polymem.storage.postgres.conceptual import best_by_concepts, read_embeddings
from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.dense import DenseQuery, nearest
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.evidence import read_evidence
from polymem.storage.postgres.graphs import Graphs
from polymem.storage.postgres.lexical import best_by_words, count_terms, rarest
from polymem.storage.postgres.neighbours import find_neighbours


class PostgresSearch:
    """The index of one tenant."""

    def __init__(self, database: Database, tenant_id: TenantId, graphs: Graphs) -> None:
        self._database = database
        self._tenant_id = tenant_id
        self._graphs = graphs

    async def lexical(self, terms: Sequence[str], where: MemoryFilter, *, limit: int) -> tuple[ArmHit, ...]:
        """The best memories by BM25 with the tenant's own counts."""
        if not terms or limit < 1:
            return ()
        found = await self.words(terms, terms, where, limit=limit, most=len(terms))
        return found.hits

    async def dense(
        self, vector: NDArray[np.float32], model: ModelIdentity, where: MemoryFilter, *, limit: int
    ) -> tuple[ArmHit, ...]:
        """The nearest memories by cosine."""
        if limit < 1:
            return ()
        exact = vector.astype(np.float32, copy=False)
        query = DenseQuery(tenant_id=self._tenant_id, vector=exact, model=model, where=where, limit=limit)

        async def unit(connection: Connection) -> tuple[ArmHit, ...]:
            return await nearest(connection, self._graphs, query)

        return await self._database.read(unit)

    async def words(
        self, every: Sequence[str], telling: Sequence[str], where: MemoryFilter, *, limit: int, most: int
    ) -> WordsFound:
        """The tenant's counts of every word, and the best memories by the rarest of the telling ones."""
        asked, by = tuple(dict.fromkeys(every)), tuple(dict.fromkeys(telling))

        async def unit(connection: Connection) -> WordsFound:
            counts = await count_terms(connection, self._tenant_id, asked)
            terms = rarest(counts, by, most)
            hits: tuple[ArmHit, ...] = ()
            if terms and limit > 0:
                hits = await best_by_words(connection, self._tenant_id, counts, terms, where, limit=limit)
            return WordsFound(
                statistics=TermStatistics(
                    documents=counts.documents,
                    average_length=counts.average_length,
                    documents_with=counts.documents_with,
                ),
                searched=tuple(term for term in by if term in terms),
                hits=hits,
            )

        return await self._database.read(unit, in_snapshot=True)

    async def evidence(
        self, ids: Sequence[MemoryId], model: ModelIdentity, terms: Sequence[str]
    ) -> dict[MemoryId, Evidence]:
        """What the index holds of these memories."""
        if not ids:
            return {}
        asked, of_terms = tuple(dict.fromkeys(ids)), tuple(terms)

        async def unit(connection: Connection) -> dict[MemoryId, Evidence]:
            return await read_evidence(connection, self._tenant_id, asked, model, of_terms)

        return await self._database.read(unit)

    async def conceptual(self, weights: Mapping[str, float], where: MemoryFilter, *, limit: int) -> tuple[ArmHit, ...]:
        """The memories that have any of these concepts, by the sum of their weights."""
        if not weights or limit < 1:
            return ()

        async def unit(connection: Connection) -> tuple[ArmHit, ...]:
            return await best_by_concepts(connection, self._tenant_id, weights, where, limit)

        return await self._database.read(unit)

    async def embeddings(self, ids: Sequence[MemoryId], model: ModelIdentity) -> dict[MemoryId, NDArray[np.float32]]:
        """The vectors of these memories by this model."""
        if not ids:
            return {}
        asked = tuple(dict.fromkeys(ids))

        async def unit(connection: Connection) -> dict[MemoryId, NDArray[np.float32]]:
            return await read_embeddings(connection, self._tenant_id, asked, model)

        return await self._database.read(unit)

    async def neighbours(
        self, ids: Sequence[MemoryId], where: MemoryFilter, *, reach: int
    ) -> dict[MemoryId, tuple[tuple[int, MemoryId], ...]]:
        """The turns beside each of these turns that pass."""
        if not ids:
            return {}
        asked = tuple(dict.fromkeys(ids))

        async def unit(connection: Connection) -> dict[MemoryId, tuple[tuple[int, MemoryId], ...]]:
            return await find_neighbours(connection, self._tenant_id, asked, where, reach)

        return await self._database.read(unit)
