"""What makes a memory findable: its terms always, its vectors as far as the model gives them now."""

import asyncio
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from polymem.domain.model import Memory
from polymem.domain.text import index_terms, index_text
from polymem.domain.traits import encode_traits, traits_of
from polymem.errors import InferenceUnavailable
from polymem.ports.changes import Embedding, IndexEntry
from polymem.ports.inference import EmbeddedText, Embedder

# Vectors of this many chunks (some 1,000 words) are made before a write is acknowledged; the rest by a job.
INLINE_CHUNKS = 4
# Some milliseconds of cutting: more than that in one go would be felt on the event loop.
CHARACTERS_AT_ONCE = 8_000


class Indexer:
    """Makes index entries. A write never fails for want of a model: the entry then has terms alone.

    `degraded_entries` counts the entries made so since the start, for metrics and health.
    """

    def __init__(self, embedder: Embedder, *, inline_chunks: int = INLINE_CHUNKS) -> None:
        self._embedder = embedder
        self._inline_chunks = inline_chunks
        self.degraded_entries = 0

    async def entry(self, memory: Memory) -> tuple[IndexEntry, bool]:
        """The index entry of a memory, and whether an embed job has to complete it."""
        return (await self.entries([memory]))[0]

    async def entries(
        self, memories: Sequence[Memory], *, known: AbstractSet[int] = frozenset()
    ) -> tuple[tuple[IndexEntry, bool], ...]:
        """The index entry of each memory in order, and whether an embed job has to complete it.

        The memories at the positions `known` are thought to be stored already: they get their terms alone, and no job.
        """
        fresh = [position for position in range(len(memories)) if position not in known]
        texts = [index_text(memories[position]) for position in fresh]
        if sum(len(memory.content) for memory in memories) <= CHARACTERS_AT_ONCE:
            cut = _cut(memories)
            vectors = await self._vectors(texts)
        else:
            cut, vectors = await asyncio.gather(_cut_elsewhere(memories), self._vectors(texts))
        entries = [(entry, False) for entry in cut]
        for position, (embedding, needs_job) in zip(fresh, vectors, strict=True):
            entries[position] = (replace(cut[position], embedding=embedding), needs_job)
        return tuple(entries)

    async def embedding(self, memory: Memory) -> Embedding:
        """The vectors of the whole memory. Raises `InferenceUnavailable` when the model cannot answer."""
        return self._embedding((await self._embedder.embed_texts([index_text(memory)]))[0])

    async def _vectors(self, texts: Sequence[str]) -> list[tuple[Embedding | None, bool]]:
        """The vectors of each text as far as the model gives them now, and whether some are missing."""
        if not texts:
            return []
        try:
            embedded = await self._embedder.embed_texts(texts, max_chunks=self._inline_chunks)
        except InferenceUnavailable:
            self.degraded_entries += len(texts)
            return [(None, True)] * len(texts)
        return [(self._embedding(text), not text.is_complete) for text in embedded]

    def _embedding(self, text: EmbeddedText) -> Embedding:
        return Embedding(model=self._embedder.identity, chunks=text.chunks, is_complete=text.is_complete)


async def _cut_elsewhere(memories: Sequence[Memory]) -> list[IndexEntry]:
    """The entry of each memory without vectors, made off the event loop, some at a time."""
    found: list[IndexEntry] = []
    for some in _parts(memories):
        found += await asyncio.to_thread(_cut, some)
    return found


def bare_entry(memory: Memory) -> IndexEntry:
    """The entry of a memory without vectors."""
    return IndexEntry(terms=index_terms(memory), traits=encode_traits(traits_of(memory)), embedding=None)


def _cut(memories: Sequence[Memory]) -> list[IndexEntry]:
    return [bare_entry(memory) for memory in memories]


def _parts(memories: Sequence[Memory]) -> Iterator[list[Memory]]:
    """The memories in order, in parts of some `CHARACTERS_AT_ONCE`."""
    part: list[Memory] = []
    size = 0
    for memory in memories:
        part.append(memory)
        size += len(memory.content)
        if size >= CHARACTERS_AT_ONCE:
            yield part
            part, size = [], 0
    if part:
        yield part
