"""Recollection: recall whose order learns, and that follows associations.

    question -> judged candidates (see `retrieve`)      -> concepts of question and best hits -> activated concepts
             -> concepts it names, with associations    -> memories that have these -> judged with the others
             -> memories of its fingerprint             -> relevance, lifted and modulated -> cut -> page

The formulas stand in `polymem.domain.learning`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC
from typing import Final

import numpy as np

from polymem.domain.concepts import content_key
from polymem.domain.learning import (
    ACTIVE_ENOUGH_TO_SHOW,
    PLACES_FOR_ONE_ASSOCIATED,
    SPOKEN,
    SPOKEN_ELSEWHERE,
    activation_of,
    concept_weights,
    diversified,
    lifted,
    modulated,
    telling,
)
from polymem.domain.model import Call, Memory, MemoryId
from polymem.domain.passing import passes
from polymem.domain.query import Learned, MemoryFilter
from polymem.domain.text import terms
from polymem.engine.access import Access
from polymem.engine.associate import Associate, Named
from polymem.engine.requests import HitSource, RecollectedHit, Recollection, RecollectRequest
from polymem.engine.retrieve import Judged, Retrieve, page_of, pool_size
from polymem.ports.inference import Embedder
from polymem.ports.runtime import Clock
from polymem.ports.storage import Storage, TenantStore

# Memories that association alone brings to the candidates.
ASSOCIATED_POOL: Final = 32

# Concepts of so many of the best hits activate others, when they are at least so relevant.
HITS_THAT_ACTIVATE: Final = 2
RELEVANCE_THAT_ACTIVATES: Final = 0.5

# A hit that says so little of the question by itself was found by association.
FOUND_BY_ITSELF: Final = 0.3

_FEWEST_TO_SHARE: Final = 5
_UNLEARNED: Final = Learned(valence=0.0, concepts=frozenset())


@dataclass(frozen=True, slots=True)
class _Active:
    """Active concepts, strongest first, with what they speak for a memory.

    `weights`: for one that the question found. `elsewhere`: for one that it did not. `of_question`: for a hit whose own
    concepts are among the active ones (`activators`), which must not speak for itself.
    """

    keys: tuple[str, ...]
    weights: Mapping[str, float]
    elsewhere: Mapping[str, float]
    of_question: Mapping[str, float]
    activators: AbstractSet[MemoryId]

    def of(self, memory_id: MemoryId, known: Learned, *, is_found: bool) -> float:
        """How active this memory is."""
        if memory_id in self.activators:
            return activation_of(known.concepts, self.of_question)
        return activation_of(known.concepts, self.weights if is_found else self.elsewhere)


@dataclass(frozen=True, slots=True)
class _Scored:
    """One candidate: its place among the judged ones, what it is worth, how active it is, and how it was found."""

    row: int
    memory_id: MemoryId
    relevance: float
    activation: float
    source: HitSource


class Recollect:
    """Answers questions from what is stored, in the light of what was learned."""

    def __init__(
        self, storage: Storage, embedder: Embedder, access: Access, associate: Associate, *, clock: Clock
    ) -> None:
        self._storage = storage
        self._embedder = embedder
        self._access = access
        self._associate = associate
        self._clock = clock
        self._retrieve = Retrieve(storage, embedder)

    async def search(self, call: Call, request: RecollectRequest) -> Recollection:
        """The hits that the principal may read, best first. Raises `Forbidden` without the scope to read.

        Memories recognised by their fingerprint come first. Equal calls over unchanged memories give equal answers.
        """
        where = await self._access.narrow(call, request.where)
        tenant_id = call.principal.tenant_id
        store = self._storage.tenant(tenant_id)
        day = self._clock.now().astimezone(UTC).date()
        judging = self._retrieve.judged(tenant_id, request.text, where, day=day, size=pool_size(request.limit))
        naming = self._associate.named(store, request.text, request.concepts, where.spaces)
        judged, named, recognised = await asyncio.gather(judging, naming, _recognised(store, request, where))
        found_first = judged.evidence.keys()
        active = await self._activated(store, request, named, judged, where)
        associated = await self._storage.search(tenant_id).conceptual(active.elsewhere, where, limit=ASSOCIATED_POOL)
        judged = await self._retrieve.extended(tenant_id, judged, [*(hit.memory_id for hit in associated), *recognised])
        learned = await store.learned(sorted(judged.evidence), where.spaces)
        scored = _scored(request, judged, learned, active, found_first=found_first, recognised=recognised)
        ranked = _with_an_associated_one(_arranged(request, judged, scored), request.limit)
        memories, _ = await page_of(
            store, [each.memory_id for each in ranked], where.spaces, offset=0, limit=request.limit
        )
        by_id = {each.memory_id: each for each in ranked}
        hits = [_hit(judged, by_id[memory.id], memory) for memory in memories]
        if request.newest_first:
            hits.sort(key=lambda hit: (hit.memory.created_at, hit.memory.id), reverse=True)
        return Recollection(
            hits=tuple(hits),
            query_concepts=named.concepts,
            expanded_concepts=tuple(dict.fromkeys((*named.concepts, *active.keys))),
            is_degraded=judged.found.is_degraded,
        )

    async def _activated(
        self, store: TenantStore, request: RecollectRequest, named: Named, judged: Judged, where: MemoryFilter
    ) -> _Active:
        """The concepts that the question and its best hits activate; none unless the request expands."""
        if not request.expands:
            return _Active((), {}, {}, {}, frozenset())
        best = [
            (MemoryId(judged.candidates.ids[row]), judged.relevance(row))
            for row in judged.order[:HITS_THAT_ACTIVATE]
            if judged.relevance(row) >= RELEVANCE_THAT_ACTIVATES
        ]
        of_best = await store.learned([memory_id for memory_id, _ in best], where.spaces) if best else {}
        of_hits: dict[str, float] = {}
        for memory_id, relevance in best:
            for key in sorted(of_best.get(memory_id, _UNLEARNED).concepts):
                of_hits[key] = max(of_hits.get(key, 0.0), relevance)
        question = judged.found.question
        documents = question.documents
        spoken = {key: telling(terms(key), question.weights, documents=documents) for key in named.spoken}
        seeds = {**of_hits, **spoken, **dict.fromkeys(named.hints, 1.0)}
        received = await self._associate.received(store, named, seeds, where.spaces)
        asked = {**dict.fromkeys(named.spoken, SPOKEN), **dict.fromkeys(named.hints, 1.0)}
        active = _strongest(received, asked, {key: of_hits[key] for key in of_hits if key not in asked})
        holders = await store.count_concepts(tuple(active), where.spaces)
        of_question = {key: active[key] for key in active if key in asked or key not in of_hits}
        elsewhere = _strongest(active, dict.fromkeys(named.spoken, SPOKEN_ELSEWHERE))
        return _Active(
            keys=tuple(active),
            weights=concept_weights(active, holders, documents=documents),
            elsewhere=concept_weights(elsewhere, holders, documents=documents),
            of_question=concept_weights(of_question, holders, documents=documents),
            activators=frozenset(of_best),
        )


def _strongest(*activations: Mapping[str, float]) -> dict[str, float]:
    """Each concept with the highest of its activations, strongest first, ties by key."""
    found: dict[str, float] = {}
    for each in activations:
        for key, activation in each.items():
            found[key] = max(found.get(key, 0.0), activation)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


async def _recognised(store: TenantStore, request: RecollectRequest, where: MemoryFilter) -> frozenset[MemoryId]:
    """The memories of the request's fingerprint that pass: of the given one, else of the question's own text."""
    if request.fingerprint is not None:
        found = await store.find_repeats(where.spaces, fingerprint=request.fingerprint)
    else:
        found = await store.find_repeats(where.spaces, content_keys=[content_key(request.text)])
    if not found:
        return frozenset()
    memories = await store.get_memories([memory_id for memory_id, _ in found], where.spaces)
    return frozenset(memory_id for memory_id, memory in memories.items() if passes(where, memory))


def _scored(
    request: RecollectRequest,
    judged: Judged,
    learned: Mapping[MemoryId, Learned],
    active: _Active,
    *,
    found_first: AbstractSet[MemoryId],
    recognised: AbstractSet[MemoryId],
) -> list[_Scored]:
    """The candidates above the cut in their final order, recognised ones first; ties as they were judged."""
    scored: list[_Scored] = []
    for row in judged.order:
        memory_id = MemoryId(judged.candidates.ids[row])
        if judged.evidence[memory_id].superseded_by is not None and not request.with_superseded:
            continue
        known = learned.get(memory_id, _UNLEARNED)
        own = judged.relevance(row)
        is_found = memory_id in found_first and own >= FOUND_BY_ITSELF
        activation = active.of(memory_id, known, is_found=is_found)
        relevance = modulated(lifted(own, activation), known.valence)
        if memory_id in recognised:
            scored.append(_Scored(row, memory_id, 1.0, activation, HitSource.EPISODIC))
        elif relevance >= request.min_relevance:
            is_enough = is_found and own >= request.min_relevance
            source = HitSource.SEMANTIC if is_enough or not activation else HitSource.HEBBIAN
            scored.append(_Scored(row, memory_id, relevance, activation, source))
    return _recognised_first(sorted(scored, key=lambda each: -each.relevance))


def _recognised_first(scored: Sequence[_Scored]) -> list[_Scored]:
    """The recognised candidates before the others, whose relevance is never higher."""
    return sorted(scored, key=lambda each: each.source is not HitSource.EPISODIC)


def _with_an_associated_one(ranked: list[_Scored], limit: int) -> list[_Scored]:
    """The candidates with one of each ten places of the page given to one that only association found.

    Such a one stands behind whatever the question itself finds; without a place of its own it would hardly be seen in
    a large memory. The last places are given, to the most active ones; pages of fewer than five have none to give.
    """
    page, beyond = ranked[:limit], ranked[limit:]
    due = 0 if limit < _FEWEST_TO_SHARE else max(1, limit // PLACES_FOR_ONE_ASSOCIATED)
    due -= sum(each.source is HitSource.HEBBIAN for each in page)
    waiting = [each for each in beyond if each.source is HitSource.HEBBIAN and each.activation >= ACTIVE_ENOUGH_TO_SHOW]
    chosen = sorted(waiting, key=lambda each: -each.activation)[: max(0, due)]
    giving = [each for each in reversed(page) if each.source is HitSource.SEMANTIC][: len(chosen)]
    chosen = chosen[: len(giving)]
    kept = [each for each in page if each not in giving]
    return [
        *kept,
        *sorted(chosen, key=lambda each: -each.relevance),
        *giving[::-1],
        *(each for each in beyond if each not in chosen),
    ]


def _arranged(request: RecollectRequest, judged: Judged, scored: list[_Scored]) -> list[_Scored]:
    """The candidates in the order of the page: with diversity, one that is like those before it comes later."""
    if not request.diversity:
        return scored
    rows = judged.candidates.embeddings[[each.row for each in scored]]
    likeness = np.clip(rows @ rows.T, 0.0, 1.0).tolist() if len(scored) else []
    relevance = [each.relevance for each in scored]
    order = diversified(relevance, likeness, diversity=request.diversity, most=len(scored))
    return [scored[place] for place in order]


def _hit(judged: Judged, scored: _Scored, memory: Memory) -> RecollectedHit:
    similarity = float(judged.candidates.similarity[scored.row])
    return RecollectedHit(
        memory=memory,
        relevance=scored.relevance,
        similarity=0.0 if np.isnan(similarity) else similarity,
        source=scored.source,
    )
