"""What makes a memory findable: its terms always, its vectors as far as the model gives them now."""

from collections.abc import Sequence

from polymem.domain.model import Memory
from polymem.domain.text import index_terms, index_text
from polymem.errors import InferenceUnavailable
from polymem.ports.inference import EmbeddedText, Embedder
from polymem.ports.storage import Embedding, IndexEntry

# Vectors of this many chunks (some 1,000 words) are made before a write is acknowledged; the rest by a job.
INLINE_CHUNKS = 4


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

    async def entries(self, memories: Sequence[Memory]) -> tuple[tuple[IndexEntry, bool], ...]:
        """The index entry of each memory in order, and whether an embed job has to complete it."""
        if not memories:
            return ()
        texts = [index_text(memory) for memory in memories]
        try:
            embedded = await self._embedder.embed_texts(texts, max_chunks=self._inline_chunks)
        except InferenceUnavailable:
            self.degraded_entries += len(memories)
            return tuple((IndexEntry(terms=index_terms(memory), embedding=None), True) for memory in memories)
        return tuple(
            (IndexEntry(terms=index_terms(memory), embedding=self._embedding(text)), not text.is_complete)
            for memory, text in zip(memories, embedded, strict=True)
        )

    async def embedding(self, memory: Memory) -> Embedding:
        """The vectors of the whole memory. Raises `InferenceUnavailable` when the model cannot answer."""
        return self._embedding((await self._embedder.embed_texts([index_text(memory)]))[0])

    def _embedding(self, text: EmbeddedText) -> Embedding:
        return Embedding(model=self._embedder.identity, chunks=text.chunks, is_complete=text.is_complete)
