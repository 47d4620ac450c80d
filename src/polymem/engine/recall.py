"""Recall: the memories that answer a question, best first.

    question -> terms, vectors -> lexical and dense arm -> fusion -> pool -> evidence -> score -> cut -> page

The lexical arm runs while the question is embedded. Each stage is a function of what the one before gave.
Equal calls over an unchanged tenant give equal answers; ties are broken by id.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import Call, Memory, MemoryId
from polymem.domain.query import ArmRank, HitTrace, MemoryFilter, RecallHit, RecallPage, RecallRequest
from polymem.domain.scoring import (
    late_interaction,
    length_prior,
    lexical_evidence,
    lexical_score,
    reciprocal_rank_fusion,
    relevance,
    score,
    term_weight,
    token_weights,
)
from polymem.domain.text import is_mostly_latin, query_terms, terms
from polymem.engine.access import Access
from polymem.errors import InferenceUnavailable
from polymem.ports.inference import Embedder, QueryEmbedding
from polymem.ports.search import ArmHit, Evidence, SearchIndex, TermStatistics
from polymem.ports.storage import Storage, TenantStore

# How many candidates each arm gives and the pool keeps: the first size that holds the asked-for page. Fixed
# sizes, so that the pages of one question agree with each other. Rows `pool 50`, `100`, `128`, `150`.
POOL_SIZES: Final = (128, 512)

# A question is read to this length and searched by this many of its rarest terms; a pasted document is not a
# question, and must not cost more than one.
QUERY_CHARACTERS: Final = 8_192
QUERY_TERMS: Final = 64

# Of a very long memory the chunks nearest to the question take part in late interaction.
CHUNKS_SCORED: Final = 16

# A memory replaced by another is told apart by this much and never stands above what replaced it.
SUPERSEDED_PENALTY: Final = 0.1

LEXICAL: Final = "lexical"
DENSE: Final = "dense"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A question as terms: the ones it is searched by, and the weight of all it holds."""

    text: str
    searched: tuple[str, ...]
    weights: Mapping[str, float]
    evidence_weights: Mapping[str, float]
    documents: int
    average_length: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arms:
    """What the arms found, best first; `vectors` None when the model did not take part."""

    question: _Question
    lexical: tuple[ArmHit, ...]
    dense: tuple[ArmHit, ...]
    vectors: QueryEmbedding | None
    is_degraded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scored:
    """A candidate with all that was found out about it."""

    memory_id: MemoryId
    score: float
    relevance: float
    similarity: float | None
    trace: HitTrace


class Recall:
    """Answers questions from what is stored."""

    def __init__(self, storage: Storage, embedder: Embedder, access: Access) -> None:
        self._storage = storage
        self._embedder = embedder
        self._access = access

    async def search(self, call: Call, request: RecallRequest) -> RecallPage:
        """The page of hits that the principal may read. Raises `Forbidden` without the scope to read.

        Hits come from a bounded pool (`POOL_SIZES`); `total` counts those of the pool above the cut. Without
        the model the words alone decide, and the page says so.
        """
        where = await self._access.narrow(call, request.where)
        if not where.spaces:
            return RecallPage(hits=(), total=0, is_degraded=self._embedder.problem is not None)
        tenant_id = call.principal.tenant_id
        index = self._storage.search(tenant_id)
        size = pool_size(request.offset + request.limit)
        arms = await self._ask(index, request.text[:QUERY_CHARACTERS], where, size)
        fused = _pool(arms, size)
        evidence = await index.evidence(list(fused), self._embedder.identity)
        scored = await asyncio.to_thread(_score, arms, fused, evidence)
        rows = await self._rows(self._storage.tenant(tenant_id), scored, where, request.min_relevance)
        hits = _ordered(scored, rows, documents=arms.question.documents)
        above = [hit for hit in hits if hit.relevance >= request.min_relevance]
        return RecallPage(
            hits=tuple(above[request.offset : request.offset + request.limit]),
            total=len(above),
            is_degraded=arms.is_degraded,
            candidate_ids=tuple(fused),
        )

    async def _ask(self, index: SearchIndex, text: str, where: MemoryFilter, size: int) -> _Arms:
        """Both arms, the lexical one while the question is embedded."""
        (question, found), (vectors, near, is_degraded) = await asyncio.gather(
            _lexical(index, text, where, size), self._dense(index, text, where, size)
        )
        return _Arms(question=question, lexical=found, dense=near, vectors=vectors, is_degraded=is_degraded)

    async def _rows(
        self, store: TenantStore, scored: Sequence[_Scored], where: MemoryFilter, min_relevance: float
    ) -> dict[MemoryId, Memory]:
        """The memories of the candidates above the cut, and of those that came in place of one of them."""
        pool = {each.memory_id for each in scored}
        rows: dict[MemoryId, Memory] = {}
        wanted = {each.memory_id for each in scored if each.relevance >= min_relevance}
        while wanted:
            found = await store.get_memories(sorted(wanted), where.spaces)
            rows |= found
            successors = {row.superseded_by for row in found.values() if row.superseded_by is not None}
            wanted = (successors & pool) - rows.keys()
        return rows

    async def _dense(
        self, index: SearchIndex, text: str, where: MemoryFilter, size: int
    ) -> tuple[QueryEmbedding | None, tuple[ArmHit, ...], bool]:
        """The question's vectors, what they find, and whether the model is missed.

        What the model cannot read it would find alike to anything: such a question is left to its words.
        """
        if not is_mostly_latin(text):
            return None, (), False
        try:
            vectors = await self._embedder.embed_query(text)
        except InferenceUnavailable:
            return None, (), True
        return vectors, await index.dense(vectors.embedding, self._embedder.identity, where, limit=size), False


def pool_size(wanted: int) -> int:
    """How many candidates are judged for a page that ends at hit number `wanted`."""
    return next((size for size in POOL_SIZES if wanted <= size), POOL_SIZES[-1])


async def _lexical(
    index: SearchIndex, text: str, where: MemoryFilter, size: int
) -> tuple[_Question, tuple[ArmHit, ...]]:
    """The question with the tenant's own statistics, and what its words find."""
    telling = query_terms(text)
    every = tuple(dict.fromkeys(terms(text)))
    statistics = await index.term_statistics(every)
    question = _question(text, every, telling, statistics)
    if not question.searched:
        return question, ()
    return question, await index.lexical(question.searched, where, limit=size)


def _question(text: str, every: Sequence[str], telling: Sequence[str], statistics: TermStatistics) -> _Question:
    """The terms of a question with their weights; it is searched by the rarest that occur at all."""
    weights = {
        term: term_weight(term, documents=statistics.documents, documents_with=statistics.documents_with.get(term, 0))
        for term in every
    }
    known = [term for term in telling if statistics.documents_with.get(term, 0) > 0]
    rarest, judged = _rarest(known, weights), _rarest(telling, weights)
    return _Question(
        text=text,
        searched=tuple(term for term in known if term in rarest),
        weights=weights,
        evidence_weights={term: weights[term] for term in telling if term in judged},
        documents=statistics.documents,
        average_length=statistics.average_length,
    )


def _rarest(asked: Sequence[str], weights: Mapping[str, float]) -> frozenset[str]:
    """The `QUERY_TERMS` heaviest of the terms, ties by the alphabet."""
    return frozenset(sorted(asked, key=lambda term: (-weights[term], term))[:QUERY_TERMS])


def _pool(arms: _Arms, size: int) -> dict[MemoryId, float]:
    """The best candidates of both arms with their fused rank score, best first."""
    rankings = [[hit.memory_id for hit in arm] for arm in (arms.lexical, arms.dense)]
    return dict(list(reciprocal_rank_fusion(rankings).items())[:size])


def _score(arms: _Arms, fused: Mapping[MemoryId, float], evidence: Mapping[MemoryId, Evidence]) -> list[_Scored]:
    """Every candidate that still has an index entry, judged by words and vectors."""
    ids = [memory_id for memory_id in fused if memory_id in evidence]
    late = _late(arms, [evidence[memory_id] for memory_id in ids])
    ranks = _ranks(arms)
    scored = []
    for memory_id, found in zip(ids, late, strict=True):
        held = evidence[memory_id]
        lexical = lexical_evidence(
            arms.question.evidence_weights, held.terms, average_length=arms.question.average_length
        )
        similarity = _similarity(arms.vectors, held)
        total = (
            lexical_score(lexical)
            if found is None or similarity is None
            else score(late=found, similarity=similarity, lexical=lexical)
        )
        scored.append(
            _Scored(
                memory_id=memory_id,
                score=total,
                relevance=relevance(total, documents=arms.question.documents),
                similarity=similarity,
                trace=HitTrace(
                    arms=ranks[memory_id],
                    fused=fused[memory_id],
                    late_interaction=found,
                    coverage=lexical.coverage,
                    priors=(("bm25", lexical.bm25), ("length", length_prior(lexical.length))),
                ),
            )
        )
    return scored


def _late(arms: _Arms, candidates: Sequence[Evidence]) -> list[float | None]:
    """The late interaction of each candidate; None where the question or the candidate has no token vectors."""
    vectors = arms.vectors
    if vectors is None:
        return [None] * len(candidates)
    weights = token_weights(arms.question.text, vectors.tokens, arms.question.weights)
    return late_interaction(vectors.token_vectors, weights, [_nearest_chunks(vectors, each) for each in candidates])


def _nearest_chunks(vectors: QueryEmbedding, candidate: Evidence) -> list[NDArray[np.int8]]:
    """The token vectors of the chunks nearest to the question, at most `CHUNKS_SCORED`."""
    if len(candidate.token_vectors) <= CHUNKS_SCORED:
        return list(candidate.token_vectors)
    nearest = np.argsort(-(candidate.embeddings @ vectors.embedding), kind="stable")[:CHUNKS_SCORED]
    return [candidate.token_vectors[number] for number in nearest]


def _similarity(vectors: QueryEmbedding | None, candidate: Evidence) -> float | None:
    """The cosine of the question and the nearest chunk."""
    if vectors is None or candidate.embeddings.shape[0] == 0:
        return None
    return float((candidate.embeddings @ vectors.embedding).max())


def _ranks(arms: _Arms) -> dict[MemoryId, tuple[ArmRank, ...]]:
    """Where each arm found each memory."""
    ranks: dict[MemoryId, tuple[ArmRank, ...]] = {}
    for name, hits in ((LEXICAL, arms.lexical), (DENSE, arms.dense)):
        for rank, hit in enumerate(hits, start=1):
            ranks[hit.memory_id] = (*ranks.get(hit.memory_id, ()), ArmRank(arm=name, rank=rank, score=hit.score))
    return ranks


def _ordered(candidates: Sequence[_Scored], rows: Mapping[MemoryId, Memory], *, documents: int) -> list[RecallHit]:
    """The candidates as hits with their memories, best first, each superseded one below what replaced it.

    A candidate whose row is gone meanwhile is left out.
    """
    hits = {
        each.memory_id: RecallHit(
            memory=rows[each.memory_id],
            score=each.score,
            relevance=each.relevance,
            similarity=each.similarity,
            trace=each.trace,
        )
        for each in candidates
        if each.memory_id in rows
    }
    for memory_id, hit in hits.items():
        if hit.memory.superseded_by is not None:
            hits[memory_id] = _lowered(hit, documents)
    depths = {memory_id: _bounded_by_successors(memory_id, hits, documents) for memory_id in hits}
    return sorted(hits.values(), key=lambda hit: (-hit.score, depths[hit.memory.id], hit.memory.id))


def _lowered(hit: RecallHit, documents: int) -> RecallHit:
    """The hit of a superseded memory: less score, and the relevance that goes with it."""
    lowered = hit.score - SUPERSEDED_PENALTY
    trace = replace(hit.trace, priors=(*hit.trace.priors, ("superseded", -SUPERSEDED_PENALTY)))
    return replace(hit, score=lowered, relevance=relevance(lowered, documents=documents), trace=trace)


def _bounded_by_successors(memory_id: MemoryId, hits: dict[MemoryId, RecallHit], documents: int) -> int:
    """The hit scores no more than any hit that came in its place; how many of these there are, one after another."""
    seen = {memory_id}
    successor = hits[memory_id].memory.superseded_by
    while successor in hits and successor not in seen:
        seen.add(successor)
        bound = min(hits[memory_id].score, hits[successor].score)
        hits[memory_id] = replace(hits[memory_id], score=bound, relevance=relevance(bound, documents=documents))
        successor = hits[successor].memory.superseded_by
    return len(seen) - 1
