"""Recall: the memories that answer a question, best first.

    question -> judged candidates (see `retrieve`) -> cut -> page

Equal calls over an unchanged tenant give equal answers; ties are broken by id.
"""

import asyncio
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC
from typing import Final

import numpy as np

from polymem.domain.model import Call, Memory, MemoryId, MemoryType
from polymem.domain.query import ArmRank, HitTrace, RecallHit, RecallPage, RecallRequest, WordMatch
from polymem.domain.ranking import DEFAULT_WEIGHTS, Weights
from polymem.domain.text import index_text
from polymem.engine.access import Access
from polymem.engine.judging import token_matches
from polymem.engine.retrieve import Judged, Retrieve, page_of, pool_size
from polymem.ports.inference import Embedder
from polymem.ports.runtime import Clock
from polymem.ports.search import ArmHit
from polymem.ports.storage import Storage

# The words of a question that a trace names, and how far into a text it looks for what they met.
WORDS_TRACED: Final = 8
TRACED_CHARACTERS: Final = 32_768


class Recall:
    """Answers questions from what is stored."""

    def __init__(
        self, storage: Storage, embedder: Embedder, access: Access, *, clock: Clock, weights: Weights = DEFAULT_WEIGHTS
    ) -> None:
        self._storage = storage
        self._embedder = embedder
        self._access = access
        self._clock = clock
        self._weights = weights
        self._retrieve = Retrieve(storage, embedder, weights=weights)

    async def search(self, call: Call, request: RecallRequest) -> RecallPage:
        """The page of hits that the principal may read. Raises `Forbidden` without the scope to read.

        Hits come from a bounded pool (`POOL_SIZES`); `total` counts those of the pool above the cut. Without
        the model the words alone decide, and the page says so.
        """
        where = await self._access.narrow(call, request.where)
        if not where.spaces:
            return RecallPage(hits=(), total=0, is_degraded=self._embedder.problem is not None)
        tenant_id = call.principal.tenant_id
        day = (request.reference_at or self._clock.now()).astimezone(UTC).date()
        size = pool_size(request.offset + request.limit)
        judged = await self._retrieve.judged(tenant_id, request.text, where, day=day, size=size)
        found = judged.found
        store = self._storage.tenant(tenant_id)
        above = _pinned_first(
            judged,
            [row for row in judged.order if judged.relevance(row) >= request.min_relevance],
            request.pinned_first_from,
        )
        rows = {MemoryId(judged.candidates.ids[row]): row for row in above}
        page, gone = await page_of(store, tuple(rows), where.spaces, offset=request.offset, limit=request.limit)
        shown = [(rows[memory.id], memory) for memory in page]
        arms = _arm_ranks(found.arms, {memory.id for _, memory in shown})
        # A trace cuts the texts into tokens once more: not on the event loop.
        traced = await asyncio.to_thread(self._words_of_all, judged, shown) if request.trace else {}
        return RecallPage(
            hits=tuple(
                [self._hit(judged, row, memory, arms[memory.id], traced.get(memory.id, ())) for row, memory in shown]
            ),
            total=len(above) - gone,
            is_degraded=found.is_degraded,
            candidate_ids=tuple(judged.fused),
        )

    def _hit(
        self,
        judged: Judged,
        row: int,
        memory: Memory,
        arms: tuple[ArmRank, ...],
        words: tuple[WordMatch, ...],
    ) -> RecallHit:
        similarity = float(judged.candidates.similarity[row])
        return RecallHit(
            memory=memory,
            score=judged.scores[row],
            relevance=judged.relevance(row),
            similarity=None if np.isnan(similarity) else similarity,
            trace=_trace(judged, row, self._weights, arms, words),
        )

    def _words_of_all(
        self, judged: Judged, shown: Sequence[tuple[int, Memory]]
    ) -> dict[MemoryId, tuple[WordMatch, ...]]:
        return {memory.id: self._words(judged, memory) for _, memory in shown}

    def _words(self, judged: Judged, memory: Memory) -> tuple[WordMatch, ...]:
        """The heaviest words of the question, each with the word of the memory that it met; "" for one far into it."""
        question, vectors = judged.found.question, judged.found.vectors
        if vectors is None:
            return ()
        text = index_text(memory)[:TRACED_CHARACTERS]
        spans = self._embedder.token_spans(text)
        found: dict[str, WordMatch] = {}
        for match in token_matches(question, vectors, judged.evidence[memory.id]):
            word = _whole_word(question.text, match.span)
            chunk = spans[match.chunk] if match.chunk < len(spans) else ()
            met = _whole_word(text, chunk[match.row]) if match.row < len(chunk) else ""
            if word not in found or found[word].weight < match.weight:
                found[word] = WordMatch(word=word, weight=match.weight, met=met, cosine=match.cosine)
        return tuple(sorted(found.values(), key=lambda match: (-match.weight, match.word))[:WORDS_TRACED])


def _pinned_first(judged: Judged, rows: list[int], least_relevance: float | None) -> list[int]:
    """The rows with the pinned ones that are relevant enough before the others, each part in its order."""
    if least_relevance is None:
        return rows

    def is_behind(row: int) -> bool:
        is_pinned = judged.evidence[MemoryId(judged.candidates.ids[row])].memory_type is MemoryType.PINNED
        return not (is_pinned and judged.relevance(row) >= least_relevance)

    return sorted(rows, key=is_behind)


def _arm_ranks(
    arms: Mapping[str, Sequence[ArmHit]], shown: AbstractSet[MemoryId]
) -> dict[MemoryId, tuple[ArmRank, ...]]:
    """Where each arm found each of the shown memories."""
    ranks: dict[MemoryId, tuple[ArmRank, ...]] = dict.fromkeys(shown, ())
    for name, hits in arms.items():
        for place, hit in enumerate(hits, start=1):
            if hit.memory_id in shown:
                ranks[hit.memory_id] += (ArmRank(arm=name, rank=place, score=hit.score),)
    return ranks


def _trace(
    judged: Judged, row: int, weights: Weights, arms: tuple[ArmRank, ...], words: tuple[WordMatch, ...]
) -> HitTrace:
    """Where each arm found it, and what each part gave to its score."""
    candidates, ranking = judged.candidates, judged.ranking
    memory_id = MemoryId(candidates.ids[row])
    parts = [(name, getattr(weights, name) * float(column[row])) for name, column in ranking.features.items()]
    parts += [(name, float(column[row])) for name, column in ranking.rules.items()]
    parts.append(("superseded", judged.scores[row] - float(ranking.scores[row])))
    narrow = float(candidates.narrow[row])
    return HitTrace(
        arms=arms,
        fused=judged.fused.get(memory_id, 0.0),
        late_interaction=None if np.isnan(narrow) else (narrow, float(candidates.wide[row])),
        coverage=float(candidates.coverage[row]),
        bm25=float(candidates.bm25[row]),
        own_score=judged.own_score(row),
        parts=tuple((name, value) for name, value in parts if value),
        words=words,
    )


def _whole_word(text: str, span: tuple[int, int]) -> str:
    """The word that a token is a piece of."""
    start, end = span
    while start > 0 and text[start - 1].isalnum():
        start -= 1
    while end < len(text) and text[end].isalnum():
        end += 1
    return text[start:end]
