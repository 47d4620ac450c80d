"""Random changes of one tenant, the same for the same seed: to bring to several storages."""

from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import Memory, MemoryId, ModelIdentity
from polymem.domain.query import MemoryFilter
from polymem.ports.changes import (
    Change,
    DeleteMemory,
    EmbeddedChunk,
    Embedding,
    IndexEntry,
    PutMemory,
    SetEmbedding,
    UpdateMemory,
)
from samples import account_of, memory_of

ACCOUNT = account_of("acme")
MODEL = ModelIdentity(name="small", revision="1", dimension=64, token_dimension=4)
WORDS = tuple(f"word{number}" for number in range(60))
FILTERS = (
    MemoryFilter(spaces=frozenset({ACCOUNT.space.id})),
    MemoryFilter(spaces=frozenset({ACCOUNT.space.id}), tags=("blue",)),
    MemoryFilter(spaces=frozenset({ACCOUNT.space.id}), tags=("blue", "rare")),
)


def unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    """The rows at unit length."""
    scaled: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
    return scaled


class Writer:
    """Random changes of one tenant."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.vectors = np.random.default_rng(seed)
        self.centres = unit(self.vectors.standard_normal((30, MODEL.dimension)))
        self.revisions: dict[str, int] = {}
        self.made = 0

    def question(self) -> NDArray[np.float32]:
        centre = self.centres[self.random.randrange(len(self.centres))]
        return unit(centre + 0.08 * self.vectors.standard_normal(MODEL.dimension))

    def embedding(self) -> Embedding:
        token = np.ones((1, MODEL.token_dimension), dtype=np.int8)
        rows = [self.question() for _ in range(self.random.choice((1, 1, 3)))]
        chunks = tuple(EmbeddedChunk(start=0, end=1, embedding=row, token_vectors=token) for row in rows)
        return Embedding(model=MODEL, chunks=chunks, is_complete=True)

    def entry(self) -> IndexEntry:
        terms = tuple(self.random.choices(WORDS, weights=range(len(WORDS), 0, -1), k=self.random.randint(1, 12)))
        return IndexEntry(terms=terms, embedding=self.embedding() if self.random.random() < 0.9 else None)

    def tags(self) -> tuple[str, ...]:
        return tuple(tag for tag, share in (("blue", 0.5), ("rare", 0.02)) if self.random.random() < share)

    def put(self) -> Change:
        self.made += 1
        name = f"m{self.made:05}"
        self.revisions[name] = 1
        return PutMemory(memory=self.memory(name), index=self.entry())

    def memory(self, name: str) -> Memory:
        """The memory of that name as it is from now on."""
        return memory_of(ACCOUNT, name, revision=self.revisions[name], tags=self.tags())

    def changes(self) -> list[Change]:
        """Something happens to each of ten memories."""
        return [self.change(name) for name in self.random.sample(sorted(self.revisions), 10)]

    def change(self, name: str) -> Change:
        match self.random.choice(("put", "update", "delete", "embed")):
            case "put":
                return self.put()
            case "update":
                self.revisions[name] += 1
                return UpdateMemory(
                    memory=self.memory(name),
                    index=self.entry(),
                    expected_revision=self.revisions[name] - 1,
                    replaced_by=None,
                    reason="test",
                )
            case "delete":
                del self.revisions[name]
                return DeleteMemory(memory_id=MemoryId(name), spaces=frozenset({ACCOUNT.space.id}))
            case _:
                return SetEmbedding(
                    memory_id=MemoryId(name), expected_revision=self.revisions[name], embedding=self.embedding()
                )
