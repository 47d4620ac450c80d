"""The built-in model behind the Embedder port: off the event loop, batched across requests, queries first.

One thread is kept for queries, `threads` for the beginnings of documents and one for whole documents, so that a
query never waits for a document, nor a write for a background job. The model session is shared between them. Long
documents are cut into segments of some four chunks at white space, so that no single call of the model is long.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from polymem.domain.model import ModelIdentity
from polymem.errors import InferenceUnavailable
from polymem.inference.lane import Lane, LaneLimits
from polymem.inference.minilm import EncodedChunk, MiniLm, ModelDamaged
from polymem.ports.changes import EmbeddedChunk
from polymem.ports.inference import EmbeddedText, QueryEmbedding

QUERY_CACHE_SIZE = 1024
SEGMENT_CHARACTERS = 4_000
_SEGMENT_SLACK = 400
_QUERY_LIMITS = LaneLimits(threads=1, batch_texts=16, batch_characters=4_000, queued_characters=4_000_000)
_UNKNOWN = ModelIdentity(name="all-MiniLM-L6-v2", revision="unavailable", dimension=384, token_dimension=64)


def _document_limits(threads: int) -> LaneLimits:
    return LaneLimits(threads=threads, batch_texts=16, batch_characters=2_500, queued_characters=32_000_000)


class LocalEmbedder:
    """Vectors of queries and documents from the model that ships with polymem.

    Opened without a usable model it stays unavailable: `problem` says why, and every call raises
    `InferenceUnavailable`, so that the server finds memories by their words alone.
    """

    def __init__(self, model: MiniLm | None, *, threads: int, problem: str | None = None) -> None:
        self._model = model
        self._problem = problem
        self._cache: OrderedDict[str, QueryEmbedding] = OrderedDict()
        self._identity = _UNKNOWN if model is None else _identity(model)
        self._queries = None if model is None else Lane(model, "embed-query", _QUERY_LIMITS)
        self._documents = None if model is None else Lane(model, "embed-document", _document_limits(threads))
        self._whole = None if model is None else Lane(model, "embed-whole", _document_limits(1))

    @classmethod
    def open(cls, directory: Path | None = None, *, threads: int = 1) -> Self:
        """The embedder with the model of a directory (default: the one shipped), or unavailable with its problem."""
        try:
            return cls(MiniLm.load(directory, threads=1), threads=threads)
        except ModelDamaged as problem:
            return cls(None, threads=threads, problem=str(problem))

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is; its revision is `unavailable` when none could be loaded."""
        return self._identity

    @property
    def problem(self) -> str | None:
        """Why the model cannot answer, or None when it can."""
        return self._problem

    async def embed_query(self, text: str) -> QueryEmbedding:
        """The vectors of a query; text beyond the model's window does not take part."""
        cached = self._cache.get(text)
        if cached is not None:
            self._cache.move_to_end(text)
            return cached
        encoded = await self._lane(self._queries).encode([text[:SEGMENT_CHARACTERS]], max_chunks=1)
        embedding = _query_embedding(encoded[0][0])
        self._cache[text] = embedding
        if len(self._cache) > QUERY_CACHE_SIZE:
            self._cache.popitem(last=False)
        return embedding

    async def embed_texts(self, texts: Sequence[str], *, max_chunks: int | None = None) -> tuple[EmbeddedText, ...]:
        """The vectors of each text, at least one chunk each, at most `max_chunks`."""
        if max_chunks is None:
            return await _embed_whole(self._lane(self._whole), texts)
        return await _embed_beginnings(self._lane(self._documents), texts, max_chunks)

    def token_spans(self, text: str) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each chunk of a text the character span of each of its token vectors; no chunks without a model."""
        if self._model is None:
            return ()
        return tuple(
            tuple((offset + start, offset + end) for start, end in spans)
            for offset, piece in segments(text)
            for spans in self._model.token_spans(piece)
        )

    async def close(self) -> None:
        """The model's threads have ended."""
        for lane in (self._queries, self._documents, self._whole):
            if lane is not None:
                await lane.close()

    def _lane(self, lane: Lane | None) -> Lane:
        if lane is None:
            raise InferenceUnavailable(f"the model cannot answer: {self._problem}")
        return lane


def segments(text: str) -> tuple[tuple[int, str], ...]:
    """The text in pieces of at most `SEGMENT_CHARACTERS`, cut at white space where there is some near the end.

    Each piece comes with its offset; together they are the text. An empty text is one empty piece.
    """
    pieces: list[tuple[int, str]] = []
    start = 0
    while len(text) - start > SEGMENT_CHARACTERS:
        end = start + SEGMENT_CHARACTERS
        space = max(text.rfind(mark, end - _SEGMENT_SLACK, end) for mark in (" ", "\n", "\t"))
        end = end if space < 0 else space + 1
        pieces.append((start, text[start:end]))
        start = end
    pieces.append((start, text[start:]))
    return tuple(pieces)


async def _embed_whole(lane: Lane, texts: Sequence[str]) -> tuple[EmbeddedText, ...]:
    """Every chunk of each text."""
    cut = [(number, offset, piece) for number, text in enumerate(texts) for offset, piece in segments(text)]
    encoded = await lane.encode([piece for _, _, piece in cut], max_chunks=None)
    chunks: list[list[EmbeddedChunk]] = [[] for _ in texts]
    for (number, offset, _), found in zip(cut, encoded, strict=True):
        chunks[number].extend(_embedded(chunk, offset) for chunk in found)
    return tuple(EmbeddedText(chunks=tuple(found), is_complete=True) for found in chunks)


async def _embed_beginnings(lane: Lane, texts: Sequence[str], max_chunks: int) -> tuple[EmbeddedText, ...]:
    """The first chunks of each text: its segments one after another, only as many as are needed."""
    chunks: list[list[EmbeddedChunk]] = [[] for _ in texts]
    rest = [list(reversed(segments(text))) for text in texts]
    is_complete = [False] * len(texts)
    while open_texts := [n for n in range(len(texts)) if rest[n] and len(chunks[n]) < max_chunks]:
        pieces = [rest[number].pop() for number in open_texts]
        encoded = await lane.encode([piece for _, piece in pieces], max_chunks=max_chunks)
        for number, (offset, piece), found in zip(open_texts, pieces, encoded, strict=True):
            kept = found[: max_chunks - len(chunks[number])]
            chunks[number].extend(_embedded(chunk, offset) for chunk in kept)
            is_whole = len(kept) == len(found) and (len(found) < max_chunks or found[-1].end >= len(piece.rstrip()))
            is_complete[number] = is_whole and not rest[number]
            if not is_whole:
                rest[number].clear()
    return tuple(
        EmbeddedText(chunks=tuple(found), is_complete=whole) for found, whole in zip(chunks, is_complete, strict=True)
    )


def _identity(model: MiniLm) -> ModelIdentity:
    return ModelIdentity(
        name=model.name, revision=model.revision, dimension=model.dimension, token_dimension=model.token_dimension
    )


def _embedded(chunk: EncodedChunk, offset: int) -> EmbeddedChunk:
    return EmbeddedChunk(
        start=offset + chunk.start,
        end=offset + chunk.end,
        embedding=chunk.embedding,
        token_vectors=chunk.token_vectors,
    )


def _query_embedding(chunk: EncodedChunk) -> QueryEmbedding:
    """The one chunk of a query with its token vectors as unit rows of float32; callers share it, none may write.

    Tokens that the model does not know take no part: it would find them in every text that has others of them.
    """
    known = np.array(chunk.is_known, dtype=np.bool_)
    rows = chunk.token_vectors[known].astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    rows.setflags(write=False)
    spans = tuple(zip(chunk.tokens, chunk.is_known, strict=True))
    return QueryEmbedding(
        embedding=chunk.embedding,
        token_vectors=rows,
        tokens=tuple(span for span, is_known in spans if is_known),
        unknown=tuple(span for span, is_known in spans if not is_known),
    )
