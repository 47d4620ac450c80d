"""Pieces with their vectors: made once by the real model, kept in a file."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.speed.texts import mixed
from polymem.domain.model import ModelIdentity
from polymem.inference.embedder import LocalEmbedder
from polymem.ports.changes import EmbeddedChunk, Embedding

_BATCH = 256
_NOISE = 0.25


@dataclass(frozen=True, slots=True)
class Pieces:
    """Texts of one chunk each; `tokens` holds the token vectors of all, cut by `ends`."""

    texts: list[str]
    embeddings: NDArray[np.float32]
    tokens: NDArray[np.int8]
    ends: NDArray[np.int64]

    def tokens_of(self, number: int) -> NDArray[np.int8]:
        """The token vectors of one piece."""
        return self.tokens[self.ends[number - 1] if number else 0 : self.ends[number]]


@dataclass(frozen=True, slots=True)
class Mix:
    """Which two pieces make a text, and how much of the first; equal numbers are the piece itself."""

    first: int
    last: int
    share: float


async def embedded(embedder: LocalEmbedder, texts: list[str], cache: Path | None) -> Pieces:
    """The pieces with their vectors, from the cache when it holds these texts by this model; else made and kept."""
    name = f"{embedder.identity.name}@{embedder.identity.revision}"
    if cache is not None and (known := _read(cache, name, texts)) is not None:
        return known
    started = time.perf_counter()
    chunks = [
        text.chunks[0]
        for start in range(0, len(texts), _BATCH)
        for text in await embedder.embed_texts(texts[start : start + _BATCH], max_chunks=1)
    ]
    print(f"embedded {len(texts)} pieces in {time.perf_counter() - started:.1f} s")
    made = Pieces(
        texts,
        np.stack([chunk.embedding for chunk in chunks]).astype(np.float32),
        np.concatenate([chunk.token_vectors for chunk in chunks]),
        np.cumsum([len(chunk.token_vectors) for chunk in chunks]),
    )
    if cache is not None:
        np.savez(
            cache, model=name, texts=np.array(texts), embeddings=made.embeddings, tokens=made.tokens, ends=made.ends
        )
    return made


def text_of(pieces: Pieces, mix: Mix) -> str:
    """The text of a mix."""
    if mix.first == mix.last:
        return pieces.texts[mix.first]
    return mixed(pieces.texts[mix.first], pieces.texts[mix.last], mix.share)


def embedding_of(pieces: Pieces, mix: Mix, text: str, model: ModelIdentity, noise: NDArray[np.float32]) -> Embedding:
    """The vectors of a mix: see the package's docstring."""
    if mix.first == mix.last:
        vector, tokens = pieces.embeddings[mix.first], pieces.tokens_of(mix.first)
    else:
        mean = mix.share * pieces.embeddings[mix.first] + (1 - mix.share) * pieces.embeddings[mix.last]
        vector = mean / np.linalg.norm(mean) + _NOISE * noise / np.linalg.norm(noise)
        vector /= np.linalg.norm(vector)
        heads, tails = pieces.tokens_of(mix.first), pieces.tokens_of(mix.last)
        tokens = np.concatenate([heads[: round(len(heads) * mix.share)], tails[round(len(tails) * mix.share) :]])
    chunk = EmbeddedChunk(start=0, end=len(text), embedding=vector.astype(np.float32), token_vectors=tokens)
    return Embedding(model=model, chunks=(chunk,), is_complete=True)


def _read(cache: Path, name: str, texts: list[str]) -> Pieces | None:
    if not cache.is_file():
        return None
    with np.load(cache) as found:
        if str(found["model"]) != name or found["texts"].tolist() != texts:
            return None
        return Pieces(texts, found["embeddings"], found["tokens"], found["ends"])
