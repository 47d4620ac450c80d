"""Retrieval: the candidates that may answer a question, judged and in their order.

    question -> terms, vectors, time words -> lexical and dense arm, the same within the time asked for -> pool
    -> evidence -> match -> turns beside the best -> order

The lexical arm runs while the question is embedded. Each stage is a function of what the one before gave.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from typing import Final

from polymem.domain.model import Memory, MemoryId, SpaceId, TenantId
from polymem.domain.query import MemoryFilter
from polymem.domain.question import Asked, read_question
from polymem.domain.ranking import DEFAULT_WEIGHTS, Candidates, Ranking, Weights, context_share, own_match, rank
from polymem.domain.scoring import reciprocal_rank_fusion, relevance, term_weight
from polymem.domain.text import is_mostly_latin, query_terms, terms
from polymem.domain.timewords import DaySpan
from polymem.engine.judging import Measured, Neighbours, Question, as_candidates, measure
from polymem.errors import InferenceUnavailable
from polymem.ports.inference import Embedder, QueryEmbedding
from polymem.ports.search import ArmHit, Evidence, SearchIndex, WordsFound
from polymem.ports.storage import Storage, TenantStore

# How many candidates each arm gives and the pool keeps: the first size that holds the asked-for page. Fixed
# sizes, so that the pages of one question agree with each other.
POOL_SIZES: Final = (96, 512)

# How many come from the time a question asks for, beside the pool; of how many such times.
TIME_POOL: Final = 32
TIMES_SEARCHED: Final = 2

# The turns beside so many of the best are looked at too: an answer often stands beside the turn that matches.
NEIGHBOURS_OF: Final = 10

# A question is read to this length and searched by this many of its rarest terms; a pasted document is not a
# question, and must not cost more than one.
QUERY_CHARACTERS: Final = 8_192
QUERY_TERMS: Final = 64

# A millisecond of late interaction: a thread would cost more than it frees.
ROWS_ON_THE_LOOP: Final = 8_192

LEXICAL: Final = "lexical"
DENSE: Final = "dense"
LEXICAL_THEN: Final = "lexical within the time"
DENSE_THEN: Final = "dense within the time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the arms found, each best first; `vectors` None when the model did not take part."""

    question: Question
    arms: Mapping[str, tuple[ArmHit, ...]]
    vectors: QueryEmbedding | None
    is_degraded: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """The candidates in their order, with what they were judged by. `scores` are those after supersession.

    `measured` and `beside`: what words and vectors say of each, and which turns stand beside which.
    """

    asked: Asked
    found: Found
    fused: Mapping[MemoryId, float]
    evidence: Mapping[MemoryId, Evidence]
    measured: Measured
    beside: Neighbours
    candidates: Candidates
    ranking: Ranking
    order: tuple[int, ...]
    scores: Sequence[float]
    context: float

    def own_score(self, row: int) -> float:
        """The score without what context gives the first of all: on the same scale in dialogues and elsewhere."""
        return self.scores[row] - self.context

    def relevance(self, row: int) -> float:
        """The calibrated score of a candidate."""
        return relevance(self.own_score(row), documents=self.found.question.documents)


class Retrieve:
    """Finds and judges the candidates of a question."""

    def __init__(self, storage: Storage, embedder: Embedder, *, weights: Weights = DEFAULT_WEIGHTS) -> None:
        self._storage = storage
        self._embedder = embedder
        self._weights = weights

    async def judged(self, tenant_id: TenantId, text: str, where: MemoryFilter, *, day: date, size: int) -> Judged:
        """The candidates for a question asked on that day among the memories that pass, from a pool of `size`.

        Without the model the words alone decide, and `found` says so.
        """
        read = text[:QUERY_CHARACTERS]
        asked = read_question(read, day)
        index = self._storage.search(tenant_id)
        found = await self._find(index, read, asked, where, size)
        return await self._judge(index, asked, found, where, size)

    async def extended(self, tenant_id: TenantId, judged: Judged, more: Collection[MemoryId]) -> Judged:
        """The same question judged with these candidates, too; those that are none are left out."""
        fresh = sorted(set(more) - judged.evidence.keys())
        if not fresh:
            return judged
        index = self._storage.search(tenant_id)
        asked_terms = tuple(judged.found.question.evidence_weights)
        held = await index.evidence(fresh, self._embedder.identity, asked_terms)
        added = {memory_id: held[memory_id] for memory_id in fresh if memory_id in held}
        measured = judged.measured + await _measured(judged.found, tuple(added.values()))
        evidence = {**judged.evidence, **added}
        return self._ordered(
            asked=judged.asked,
            found=judged.found,
            fused=judged.fused,
            evidence=evidence,
            measured=measured,
            beside=judged.beside,
        )

    async def _find(self, index: SearchIndex, text: str, asked: Asked, where: MemoryFilter, size: int) -> Found:
        """What the arms find; the lexical one while the question is embedded, those of a time after both."""
        (question, words), (vectors, near, is_degraded) = await asyncio.gather(
            _lexical(index, text, where, size), self._dense(index, text, where, size)
        )
        arms = {LEXICAL: words, DENSE: near}
        times = [_within(where, span) for span in asked.spans[:TIMES_SEARCHED]]
        by_words = await asyncio.gather(
            *(index.lexical(question.searched, then, limit=TIME_POOL) for then in times if question.searched)
        )
        arms |= {f"{LEXICAL_THEN} {number}": hits for number, hits in enumerate(by_words, start=1)}
        if vectors is not None:
            identity = self._embedder.identity
            by_vector = await asyncio.gather(
                *(index.dense(vectors.embedding, identity, then, limit=TIME_POOL) for then in times)
            )
            arms |= {f"{DENSE_THEN} {number}": hits for number, hits in enumerate(by_vector, start=1)}
        return Found(question=question, arms=arms, vectors=vectors, is_degraded=is_degraded)

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

    async def _judge(self, index: SearchIndex, asked: Asked, found: Found, where: MemoryFilter, size: int) -> Judged:
        """The candidates, and the turns beside the best of them, in their order."""
        fused = _pool(found, size)
        asked_terms = tuple(found.question.evidence_weights)
        held = await index.evidence(list(fused), self._embedder.identity, asked_terms)
        evidence = {memory_id: held[memory_id] for memory_id in fused if memory_id in held}
        asked = _asked_in_reach(asked, found.question.text, evidence)
        measured = await _measured(found, tuple(evidence.values()))
        best = _best_of_dialogues(as_candidates(measured, evidence, {}), self._weights)
        beside: Neighbours = {}
        if best:
            beside = await index.neighbours(best, where, reach=1)
            fresh = sorted({other for around in beside.values() for _, other in around} - evidence.keys())
            more = await index.evidence(fresh, self._embedder.identity, asked_terms)
            evidence |= {memory_id: more[memory_id] for memory_id in fresh if memory_id in more}
            measured += await _measured(found, tuple(more[each] for each in fresh if each in more))
        return self._ordered(asked=asked, found=found, fused=fused, evidence=evidence, measured=measured, beside=beside)

    def _ordered(
        self,
        *,
        asked: Asked,
        found: Found,
        fused: Mapping[MemoryId, float],
        evidence: Mapping[MemoryId, Evidence],
        measured: Measured,
        beside: Neighbours,
    ) -> Judged:
        """The measured candidates, which are those of `evidence` in its order, ranked."""
        candidates = as_candidates(measured, evidence, beside)
        ranking = rank(asked, frozenset(found.question.weights), candidates, self._weights)
        replaced = {memory_id: held.superseded_by for memory_id, held in evidence.items()}
        order, scores = _below_what_replaced_them(candidates, ranking, replaced, self._weights.superseded)
        context = 0.0 if not order else context_share(ranking, order[0], self._weights)
        return Judged(asked, found, fused, evidence, measured, beside, candidates, ranking, order, scores, context)


async def page_of(
    store: TenantStore, ranked: Sequence[MemoryId], spaces: frozenset[SpaceId], *, offset: int, limit: int
) -> tuple[tuple[Memory, ...], int]:
    """The memories from place `offset` on, at most `limit`, and how many of the ranked ones are gone by now.

    What was deleted since it was found gives its place to the next.
    """
    left = list(ranked)
    while True:
        page = left[offset : offset + limit]
        memories = await store.get_memories(sorted(page), spaces) if page else {}
        if len(memories) == len(page):
            return tuple(memories[memory_id] for memory_id in page), len(ranked) - len(left)
        left = [memory_id for memory_id in left if memory_id not in page or memory_id in memories]


async def _measured(found: Found, held: Sequence[Evidence]) -> Measured:
    """What words and vectors say of each candidate; long texts are measured off the event loop."""
    rows = sum(chunk.shape[0] for each in held for chunk in each.token_vectors)
    if rows <= ROWS_ON_THE_LOOP:
        return measure(found.question, found.vectors, held)
    return await asyncio.to_thread(measure, found.question, found.vectors, held)


def pool_size(wanted: int) -> int:
    """How many candidates are judged for a page that ends at hit number `wanted`."""
    return next((size for size in POOL_SIZES if wanted <= size), POOL_SIZES[-1])


async def _lexical(
    index: SearchIndex, text: str, where: MemoryFilter, size: int
) -> tuple[Question, tuple[ArmHit, ...]]:
    """The question with the tenant's own statistics, and what its words find."""
    telling = query_terms(text)
    every = tuple(dict.fromkeys(terms(text)))
    found = await index.words(every, telling, where, limit=size, most=QUERY_TERMS)
    return _question(text, every, telling, found), found.hits


def _question(text: str, every: Sequence[str], telling: Sequence[str], found: WordsFound) -> Question:
    """The terms of a question with their weights; it is judged by the heaviest of the telling ones."""
    statistics = found.statistics
    weights = {
        term: term_weight(term, documents=statistics.documents, documents_with=statistics.documents_with.get(term, 0))
        for term in every
    }
    judged = _rarest(telling, weights)
    return Question(
        text=text,
        searched=found.searched,
        weights=weights,
        evidence_weights={term: weights[term] for term in telling if term in judged},
        documents=statistics.documents,
        average_length=statistics.average_length,
    )


def _rarest(asked: Sequence[str], weights: Mapping[str, float]) -> frozenset[str]:
    """The `QUERY_TERMS` heaviest of the terms, ties by the alphabet."""
    return frozenset(sorted(asked, key=lambda term: (-weights[term], term))[:QUERY_TERMS])


def _within(where: MemoryFilter, span: DaySpan) -> MemoryFilter:
    """The filter, for those alone that are from these days; never wider than it was."""
    first_at = datetime.combine(span.first, time.min, UTC)
    until_at = datetime.combine(span.last, time.max, UTC)
    return replace(
        where,
        created_from_at=first_at if where.created_from_at is None else max(where.created_from_at, first_at),
        created_until_at=until_at if where.created_until_at is None else min(where.created_until_at, until_at),
    )


def _asked_in_reach(asked: Asked, text: str, evidence: Mapping[MemoryId, Evidence]) -> Asked:
    """The question, read against the newest candidate where all times it names lie after that.

    "In March" is then the last March that is remembered.
    """
    newest = max((held.created_at.date() for held in evidence.values()), default=None)
    if newest is None or not asked.spans or any(span.first <= newest for span in asked.spans):
        return asked
    return read_question(text, newest)


def _pool(found: Found, size: int) -> dict[MemoryId, float]:
    """The best candidates of both arms with their fused rank score, best first, then those of the time asked for."""
    everywhere = [[hit.memory_id for hit in found.arms[name]] for name in (LEXICAL, DENSE)]
    pool = dict(list(reciprocal_rank_fusion(everywhere).items())[:size])
    then = [[hit.memory_id for hit in hits] for name, hits in found.arms.items() if name not in (LEXICAL, DENSE)]
    for memory_id, fused in list(reciprocal_rank_fusion(then).items())[:TIME_POOL]:
        pool.setdefault(memory_id, fused)
    return pool


def _best_of_dialogues(candidates: Candidates, weights: Weights) -> list[MemoryId]:
    """The turns of dialogues among the best `NEIGHBOURS_OF` by their own match."""
    match = own_match(candidates, weights)
    first = sorted(range(len(candidates)), key=lambda row: (-match[row], candidates.ids[row]))[:NEIGHBOURS_OF]
    return [
        MemoryId(candidates.ids[row])
        for row in first
        if candidates.session[row] >= 0 and candidates.traits[row].is_dialogue
    ]


def _below_what_replaced_them(
    candidates: Candidates, ranking: Ranking, replaced: Mapping[MemoryId, MemoryId | None], penalty: float
) -> tuple[tuple[int, ...], Sequence[float]]:
    """The order and the scores, each superseded candidate lowered and never above what came in its place."""
    scores = dict(zip(candidates.ids, ranking.scores.tolist(), strict=True))
    chains = {memory_id: _successors(memory_id, replaced) for memory_id in replaced if replaced[memory_id] is not None}
    for memory_id in chains:
        scores[memory_id] -= penalty
    bounded = {
        memory_id: min([score, *(scores[other] for other in chains.get(MemoryId(memory_id), ()))])
        for memory_id, score in scores.items()
    }
    depths = {memory_id: len(chain) for memory_id, chain in chains.items()}
    listed = [bounded[memory_id] for memory_id in candidates.ids]
    order = sorted(
        range(len(candidates)),
        key=lambda row: (-listed[row], depths.get(MemoryId(candidates.ids[row]), 0), candidates.ids[row]),
    )
    return tuple(order), listed


def _successors(memory_id: MemoryId, replaced: Mapping[MemoryId, MemoryId | None]) -> list[MemoryId]:
    """The candidates that came in its place, one after another."""
    seen: list[MemoryId] = []
    successor = replaced[memory_id]
    while successor is not None and successor in replaced and successor not in (memory_id, *seen):
        seen.append(successor)
        successor = replaced[successor]
    return seen
