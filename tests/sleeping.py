"""Memories with vectors of a test's choice, and what consolidates them."""

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np

from polymem.domain.model import Call, Job, JobKind, Memory, SpaceId
from polymem.domain.text import index_terms
from polymem.engine.access import Access
from polymem.engine.consolidate import Consolidate
from polymem.engine.consolidation_run import ConsolidationRun
from polymem.engine.queueing import RunOutcome
from polymem.engine.requests import Consolidated
from polymem.engine.spaces import Spaces
from polymem.ports.changes import Applied, EmbeddedChunk, Embedding, IndexEntry, PutMemory
from samples import insight

_PATIENCE_SECONDS = 60.0

SOUP = (
    "I would like to cook a tomato soup for dinner on the weekend",
    "i would like to cook a tomato soup, for dinner on the weekend!",
    "Well, I would like to cook a tomato soup for dinner on the weekend",
)
BIKE = (
    "The chain of my road bike rattles and needs oil",
    "The chain of my road bike rattles, and it needs oil",
)


@dataclass
class Sleeper:
    """A world, its consolidation, and memories put there; `world` is that of the engine's tests."""

    world: Any
    consolidate: Consolidate

    @classmethod
    def of(cls, world: Any) -> "Sleeper":
        """The consolidation of an engine's parts."""
        access = Access(world.storage)
        spaces = Spaces(world.storage, access, clock=world.clock, ids=world.ids)
        run = ConsolidationRun(
            world.storage, world.embedder, clock=world.clock, ids=world.ids, wake=world.engine.jobs_queued.set
        )
        made = Consolidate(
            world.storage,
            access,
            spaces.find,
            run,
            clock=world.clock,
            ids=world.ids,
            wake=world.engine.jobs_queued.set,
        )
        return cls(world, made)

    async def put(self, content: str, direction: int, **fields: Any) -> Memory:
        """A memory of this text is stored, whose vectors point in one of eight directions; each a second later."""
        self.world.clock.pass_time(seconds=1)
        now = self.world.clock.now()
        principal = self.world.principal
        memory = insight(
            self.world.ids.new_id(),
            content,
            space_id=principal.personal_space_id,
            user_id=principal.user_id,
            at=now,
        )
        memory = replace(memory, **fields)
        row = np.zeros(8, dtype=np.float32)
        row[direction] = 1.0
        chunk = EmbeddedChunk(
            start=0, end=len(content), embedding=row, token_vectors=np.full((2, 4), 63, dtype=np.int8)
        )
        embedding = Embedding(model=self.world.embedder.identity, chunks=(chunk,), is_complete=True)
        put = PutMemory(memory=memory, index=IndexEntry(terms=index_terms(memory), embedding=embedding))
        assert isinstance(await self.world.store.commit([put], now=now), Applied)
        return memory

    async def many(self, texts: tuple[str, ...], direction: int, **fields: Any) -> list[Memory]:
        """A memory of each text."""
        return [await self.put(text, direction, **fields) for text in texts]

    async def get(self, *memories: Memory, space_id: SpaceId | None = None) -> list[Memory]:
        """These memories as they are now; those that are gone are left out."""
        space = self.world.principal.personal_space_id if space_id is None else space_id
        found = await self.world.store.get_memories([each.id for each in memories], frozenset({space}))
        return list(found.values())

    async def prototype(self, source: Memory) -> Memory:
        """What stands for the source."""
        (present,) = await self.get(source, space_id=source.space_id)
        assert present.superseded_by is not None
        found = await self.world.store.get_memories([present.superseded_by], frozenset({source.space_id}))
        prototype: Memory = found[present.superseded_by]
        return prototype

    async def sleep(self, name: str | None = None, call: Call | None = None) -> Consolidated:
        """The domain is consolidated as a caller and a worker do it together."""
        asked = asyncio.create_task(self.consolidate.domain(call or self.world.call(), name))
        await self.work_until(asked)
        return await asked

    async def work_until(self, *asked: asyncio.Task[Consolidated]) -> None:
        """These calls have ended: as a worker would, every job that is due is run meanwhile."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not all(call.done() for call in asked):
                job = await self.claimed()
                if job is not None:
                    assert await self.consolidate.run(job) is RunOutcome.FINISHED
                await asyncio.wait(asked, timeout=0.001)

    async def queued(self) -> None:
        """A consolidation stands in the queue."""
        spaces = frozenset({self.world.principal.personal_space_id})
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not await self.world.store.list_jobs(frozenset({JobKind.CONSOLIDATE}), spaces, limit=1):
                await asyncio.wait([asyncio.create_task(asyncio.sleep(0))])

    async def waited(self) -> Job:
        """The first consolidation that becomes due, as a worker gets it."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await self.queued()
            job = await self.claimed()
            assert job is not None
            return job

    async def claimed(self) -> Job | None:
        """The next consolidation that is due, as a worker gets it."""
        job: Job | None = await self.world.engine.storage.jobs.claim(
            queues=frozenset({"consolidate"}),
            now=self.world.clock.now(),
            lease_until_at=self.world.clock.now() + timedelta(seconds=30),
        )
        return job
