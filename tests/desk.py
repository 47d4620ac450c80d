"""What remembers texts, put together over the engine of a test, with vectors that mean something."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from polymem.domain.model import ModelIdentity
from polymem.domain.query import MemoryFilter
from polymem.domain.text import query_terms
from polymem.engine.access import Access
from polymem.engine.compose import Compose
from polymem.engine.indexing import Indexer
from polymem.engine.read import Read
from polymem.engine.remember import Remember
from polymem.engine.requests import Filtered, NewAtom, Remembered
from polymem.engine.spaces import Spaces
from polymem.ports.changes import EmbeddedChunk

WORDS = 512
CHUNK_CHARACTERS = 200


@dataclass
class Desk:
    """A world with what remembers in it."""

    world: Any
    remember: Remember
    spaces: Spaces
    read: Read

    async def one(self, content: str, key: str | None = None, **fields: Any) -> Remembered | Filtered:
        return await self.remember.one(self.world.call(key), NewAtom(content=content, **fields))

    async def kept(self, content: str, key: str | None = None, **fields: Any) -> Remembered:
        result = await self.one(content, key, **fields)
        assert isinstance(result, Remembered)
        return result

    async def many(self, *news: NewAtom, key: str | None = None, **principal: Any) -> tuple[Any, ...]:
        return await self.remember.many(self.world.call(key, **principal), news)

    async def contents(self, **conditions: Any) -> list[str]:
        spaces = frozenset(await self.spaces.names(self.world.call()))
        where = MemoryFilter(spaces=spaces, **conditions)
        page = await self.world.store.feed(where, after=None, limit=1000, with_superseded=True)
        return sorted(memory.content for memory in page)


def _meaning(text: str, start: int = 0) -> EmbeddedChunk:
    vector = np.full(WORDS, 1e-3, dtype=np.float32)
    for term in query_terms(text):
        vector[int.from_bytes(hashlib.sha256(term.encode()).digest()[:4]) % WORDS] += 1.0
    vector /= np.linalg.norm(vector)
    return EmbeddedChunk(start=start, end=len(text), embedding=vector, token_vectors=np.ones((1, 4), dtype=np.int8))


def reading_desk(world: Any) -> Desk:
    """A desk whose model knows the words of a text, and nothing else."""
    world.embedder.identity = ModelIdentity(name="words", revision="1", dimension=WORDS, token_dimension=4)
    world.embedder._chunk = lambda text, start: _meaning(text[start : start + CHUNK_CHARACTERS], start)
    return desk_of(world)


def desk_of(world: Any, **given: Any) -> Desk:
    """A desk over the engine's own storage, model, clock and ids."""
    access = Access(world.storage)
    compose = Compose(Indexer(world.embedder), world.ids)
    spaces = Spaces(world.storage, access, clock=world.clock, ids=world.ids)
    wake = world.engine.jobs_queued.set
    remember = Remember(world.storage, access, spaces, compose, clock=world.clock, ids=world.ids, wake=wake, **given)
    return Desk(world, remember, spaces, Read(world.storage, access))
