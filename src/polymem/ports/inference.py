"""The inference port: what the engine asks of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import ModelIdentity
from polymem.ports.changes import EmbeddedChunk


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryEmbedding:
    """A query as vectors.

    `embedding` is float32 (dimension,), unit length; `token_vectors` float32 (tokens, token_dimension), unit rows;
    `tokens` the character span in the query of each row; `unknown` the spans that the model has no token for.
    """

    embedding: NDArray[np.float32]
    token_vectors: NDArray[np.float32]
    tokens: tuple[tuple[int, int], ...]
    unknown: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedText:
    """The chunks of one text, in order; `is_complete` is False when `max_chunks` cut its end off."""

    chunks: tuple[EmbeddedChunk, ...]
    is_complete: bool


class Embedder(Protocol):
    """A model that turns texts into vectors. The same text always gives the same vectors.

    Both methods raise `InferenceUnavailable` when the model cannot answer.
    """

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is."""
        ...

    @property
    def problem(self) -> str | None:
        """Why the model cannot answer, or None when it can."""
        ...

    async def embed_query(self, text: str) -> QueryEmbedding:
        """The vectors of a query; text beyond the model's window does not take part."""
        ...

    async def embed_texts(self, texts: Sequence[str], *, max_chunks: int | None = None) -> tuple[EmbeddedText, ...]:
        """The vectors of each text, at least one chunk each, at most `max_chunks`."""
        ...

    def token_spans(self, text: str) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each chunk of a text the character span of each of its token vectors; no chunks without a model."""
        ...

    async def close(self) -> None:
        """The model's threads have ended."""
        ...
