"""A model of words for tests: deterministic, quick, and with some synonyms."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import ModelIdentity
from polymem.domain.text import words_with_spans
from polymem.errors import InferenceUnavailable
from polymem.ports.changes import EmbeddedChunk
from polymem.ports.inference import EmbeddedText, QueryEmbedding

# Words, as they are indexed, that mean the same to this model.
MEANINGS = {"felin": "cat", "kitten": "cat", "automobil": "car"}
_DIMENSION = 48


class WordModel:
    """Deterministic; words of one meaning have one vector, other words are nearly at right angles.

    With `is_piecewise` each of its tokens is a piece from within a word.
    """

    def __init__(self, *, chunk_words: int = 40, is_piecewise: bool = False) -> None:
        self.is_piecewise = is_piecewise
        self.identity = ModelIdentity(name="words", revision="1", dimension=_DIMENSION, token_dimension=_DIMENSION)
        self.problem: str | None = None
        self._chunk_words = chunk_words

    async def embed_query(self, text: str) -> QueryEmbedding:
        self._answer()
        words = words_with_spans(text)
        rows = self._rows([term for term, _, _ in words])
        return QueryEmbedding(
            embedding=_sum(rows), token_vectors=rows, tokens=tuple(self._piece(*span) for _, *span in words)
        )

    async def embed_texts(self, texts: Sequence[str], *, max_chunks: int | None = None) -> tuple[EmbeddedText, ...]:
        self._answer()
        return tuple(self._embedded(text, max_chunks) for text in texts)

    def token_spans(self, text: str) -> tuple[tuple[tuple[int, int], ...], ...]:
        pieces = [self._piece(*span) for _, *span in words_with_spans(text)]
        starts = range(0, len(pieces), self._chunk_words)
        return tuple(tuple(pieces[at : at + self._chunk_words]) for at in starts)

    async def close(self) -> None:
        return

    def _piece(self, start: int, end: int) -> tuple[int, int]:
        is_cut = self.is_piecewise and end - start > len("abc")
        return (start + 1, end - 1) if is_cut else (start, end)

    def _answer(self) -> None:
        if self.problem is not None:
            raise InferenceUnavailable(self.problem)

    def _embedded(self, text: str, max_chunks: int | None) -> EmbeddedText:
        words = words_with_spans(text)
        starts = list(range(0, max(1, len(words)), self._chunk_words))
        chunks = []
        for at in starts[:max_chunks]:
            rows = self._rows([term for term, _, _ in words[at : at + self._chunk_words]])
            vectors = np.rint(rows * 127).astype(np.int8)
            chunks.append(EmbeddedChunk(start=0, end=len(text), embedding=_sum(rows), token_vectors=vectors))
        return EmbeddedText(chunks=tuple(chunks), is_complete=len(chunks) == len(starts))

    def _rows(self, terms: Sequence[str]) -> NDArray[np.float32]:
        rows = [_direction(MEANINGS.get(term, term)) for term in terms]
        return np.array(rows, dtype=np.float32).reshape(len(rows), _DIMENSION)


def _direction(term: str) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(term.encode()).digest()[:8])
    drawn = np.random.default_rng(seed).standard_normal(_DIMENSION)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def _sum(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    total = rows.sum(axis=0) if len(rows) else _direction("")
    return (total / max(float(np.linalg.norm(total)), 1e-6)).astype(np.float32)
