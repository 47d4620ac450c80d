"""How important new texts are beside what their spaces hold: what is near is read, then judged."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from polymem.domain.concepts import concept_keys
from polymem.domain.gate import (
    NEWS_NOVELTY,
    concept_rarity,
    importance,
    information,
    least_novelty,
    likeness,
    novelty_beside,
)
from polymem.domain.model import Memory, MemoryId, TenantId
from polymem.domain.news import Facts, facts_of, tells_news
from polymem.domain.query import MemoryFilter
from polymem.domain.text import is_mostly_latin, query_terms
from polymem.engine.compose import DraftedAtom
from polymem.ports.changes import Embedding
from polymem.ports.storage import Storage

# The nearest by meaning, and by words: a repeat is among the first of either.
_NEAREST_BY_MEANING: Final = 8
_NEAREST_BY_WORDS: Final = 4
# More terms than this tell no more of how rare the words of a text are.
_MOST_COUNTED_TERMS: Final = 128
_MOST_SEARCHED_TERMS: Final = 12
_LOOKED_UP_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauged:
    """The importance of a text, and the memory that says most of it, if anything near was found."""

    importance: float
    nearest: MemoryId | None


@dataclass(frozen=True, kw_only=True)
class _Text:
    """A text as it is compared; each part is made when it is first asked for. `vectors`: unit rows, one each chunk."""

    id: MemoryId
    content: str
    vectors: NDArray[np.float32] | None

    @cached_property
    def terms(self) -> frozenset[str]:
        return frozenset(query_terms(self.content))

    @cached_property
    def is_readable(self) -> bool:
        """The model, which knows English, can read it."""
        return is_mostly_latin(self.content)

    @cached_property
    def facts(self) -> Facts:
        return facts_of(self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Surroundings:
    """What storage knows around a text: near memories, and how common its words and concepts are."""

    near: tuple[MemoryId, ...]
    documents: int
    documents_with: tuple[int, ...]
    memories_with_concept: tuple[int, ...]


class Gauge:
    """Importance of drafted atoms, beside active memories of their own space that nothing superseded."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def gauge(
        self, tenant_id: TenantId, drafts: Sequence[DraftedAtom], *, threshold: float
    ) -> tuple[Gauged, ...]:
        """The importance of each, beside what is stored and those before it that are kept: all from the threshold on.

        The work on long texts is done off the event loop.
        """
        some_at_once = asyncio.Semaphore(_LOOKED_UP_AT_ONCE)

        async def look(draft: DraftedAtom) -> _Surroundings:
            async with some_at_once:
                return await self._surroundings(tenant_id, draft)

        found = await asyncio.gather(*(look(draft) for draft in drafts))
        near = await self._texts(tenant_id, drafts, found)
        gauged: list[Gauged] = []
        kept: list[tuple[DraftedAtom, _Text]] = []
        for draft, around in zip(drafts, found, strict=True):
            text = _Text(id=draft.memory.id, content=draft.memory.content, vectors=_vectors(draft.entry.embedding))
            others = [near[each] for each in around.near if each in near and each not in draft.memory.supersedes]
            others += [earlier for other, earlier in kept if other.memory.space_id == draft.memory.space_id]
            result = await asyncio.to_thread(_judge, text, others, around)
            gauged.append(result)
            if result.importance >= threshold or not draft.put.unless_repeated:
                kept.append((draft, text))
        return tuple(gauged)

    async def _surroundings(self, tenant_id: TenantId, draft: DraftedAtom) -> _Surroundings:
        spaces = frozenset({draft.memory.space_id})
        where = MemoryFilter(spaces=spaces)
        index, store = self._storage.search(tenant_id), self._storage.tenant(tenant_id)
        terms = query_terms(draft.memory.content)[:_MOST_COUNTED_TERMS]
        embedding = draft.entry.embedding
        by_words = _NEAREST_BY_WORDS if embedding is not None else _NEAREST_BY_MEANING
        words = await index.words(terms, terms, where, limit=by_words, most=_MOST_SEARCHED_TERMS)
        hits = list(words.hits)
        if embedding is not None:
            first = embedding.chunks[0].embedding
            hits += await index.dense(first, embedding.model, where, limit=_NEAREST_BY_MEANING)
        keys = concept_keys(draft.memory.concepts)
        counts = await store.count_concepts(keys, spaces)
        return _Surroundings(
            near=tuple(dict.fromkeys(hit.memory_id for hit in hits)),
            documents=words.statistics.documents,
            documents_with=tuple(words.statistics.documents_with.values()),
            memories_with_concept=tuple(counts.get(key, 0) for key in keys),
        )

    async def _texts(
        self, tenant_id: TenantId, drafts: Sequence[DraftedAtom], found: Sequence[_Surroundings]
    ) -> dict[MemoryId, _Text]:
        """What is near any of the drafts, as it is compared; without what was superseded."""
        ids = list(dict.fromkeys(each for around in found for each in around.near))
        if not ids:
            return {}
        spaces = frozenset(draft.memory.space_id for draft in drafts)
        memories = await self._storage.tenant(tenant_id).get_memories(ids, spaces)
        present = {each: memory for each, memory in memories.items() if _counts(memory)}
        model = next((each.entry.embedding.model for each in drafts if each.entry.embedding is not None), None)
        vectors = {} if model is None else await self._storage.search(tenant_id).embeddings(list(present), model)
        return {
            each: _Text(id=each, content=memory.content, vectors=vectors.get(each)) for each, memory in present.items()
        }


def _counts(memory: Memory) -> bool:
    return memory.superseded_by is None


def _vectors(embedding: Embedding | None) -> NDArray[np.float32] | None:
    return None if embedding is None else np.stack([chunk.embedding for chunk in embedding.chunks])


def _judge(text: _Text, others: Sequence[_Text], around: _Surroundings) -> Gauged:
    """The importance of the text beside the others, which are compared nearest first while they can matter."""
    nearest: MemoryId | None = None
    least = 1.0
    cosines = sorted(((_cosine(text, other), other) for other in others), key=lambda pair: -_order(pair[0]))
    for cosine, other in cosines:
        if cosine is not None and least_novelty(cosine) >= least:
            break
        new = _novelty(text, other, cosine)
        if new < least:
            nearest, least = other.id, new
    return Gauged(
        importance=importance(
            novelty=least,
            information=information(around.documents_with, documents=around.documents),
            rarity=concept_rarity(around.memories_with_concept, memories=around.documents),
        ),
        nearest=nearest,
    )


def _order(cosine: float | None) -> float:
    """Those that only words can compare come first: nothing else tells whether they are near."""
    return 2.0 if cosine is None else cosine


def _novelty(text: _Text, other: _Text, cosine: float | None) -> float:
    new = novelty_beside(likeness(cosine, text.terms, other.terms))
    if new >= NEWS_NOVELTY or not tells_news(text.facts, other.facts):
        return new
    return novelty_beside(likeness(cosine, text.terms, other.terms, is_news=True))


def _cosine(text: _Text, other: _Text) -> float | None:
    """How well the other covers the worst covered chunk of the text.

    None when one of them has no vectors, or the model cannot read the text.
    """
    if text.vectors is None or other.vectors is None or not text.is_readable:
        return None
    return float((text.vectors @ other.vectors.T).max(axis=1).min())
