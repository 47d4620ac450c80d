"""The engine: every use case of a memory server over the ports, put together once."""

import asyncio

from polymem.domain.gate import LEAST_IMPORTANCE
from polymem.domain.model import JobKind, JobState
from polymem.engine.access import Access
from polymem.engine.accounts import Accounts
from polymem.engine.associate import Associate
from polymem.engine.compose import Compose
from polymem.engine.consolidate import Consolidate
from polymem.engine.consolidation_run import ConsolidationRun
from polymem.engine.embeddings import Embeddings
from polymem.engine.feedback import Feedback
from polymem.engine.import_run import ImportRun
from polymem.engine.indexing import INLINE_CHUNKS, Indexer
from polymem.engine.ingest import Ingest
from polymem.engine.keys import Keys
from polymem.engine.limits import Limits
from polymem.engine.read import Read
from polymem.engine.recall import Recall
from polymem.engine.recollect import Recollect
from polymem.engine.remember import Remember
from polymem.engine.requests import Health
from polymem.engine.spaces import Spaces
from polymem.engine.transfer import Transfer
from polymem.engine.upkeep import Upkeep
from polymem.engine.write import Write
from polymem.errors import PolymemError
from polymem.ports.blobs import BlobStore
from polymem.ports.inference import Embedder
from polymem.ports.queue import JobCounts
from polymem.ports.runtime import Clock, Ids
from polymem.ports.storage import Storage

_OURS = frozenset({JobKind.EMBED, JobKind.SWEEP})
"""Kinds whose parked jobs degrade the server; a parked import is its owner's file and tells its owner."""
WRITE_CHECK_SECONDS = 5.0
# Less than a probe waits.
HEALTH_SECONDS = 2.0


class Engine:
    """The use cases, each an object. `embeddings` and `upkeep` are for jobs; the rest serves callers.

    `jobs_queued` is set when a job was queued; a worker in this process waits for it.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        embedder: Embedder,
        blobs: BlobStore,
        clock: Clock,
        ids: Ids,
        inline_chunks: int = INLINE_CHUNKS,
        importance_threshold: float = LEAST_IMPORTANCE,
        limits: Limits | None = None,
    ) -> None:
        self.storage = storage
        self.embedder = embedder
        self.clock = clock
        self.jobs_queued = asyncio.Event()
        wake = self.jobs_queued.set
        access = Access(storage)
        indexer = Indexer(embedder, inline_chunks=inline_chunks)
        compose = Compose(indexer, ids)
        self.keys = Keys(storage, clock, ids)
        self.accounts = Accounts(storage, self.keys, clock, ids)
        self.limits = Limits(storage.buckets, storage.daily_queries, clock) if limits is None else limits
        self.write = Write(storage, access, indexer, compose, clock=clock, ids=ids, wake=wake)
        self.read = Read(storage, access)
        self.recall = Recall(storage, embedder, access, clock=clock)
        self.spaces = Spaces(storage, access, clock=clock, ids=ids)
        self.remember = Remember(
            storage,
            access,
            self.spaces,
            compose,
            clock=clock,
            ids=ids,
            wake=wake,
            importance_threshold=importance_threshold,
        )
        self.associate = Associate(storage, access)
        self.recollect = Recollect(storage, embedder, access, self.associate, clock=clock)
        self.feedback = Feedback(storage, access, clock)
        self.consolidate = Consolidate(
            storage,
            access,
            self.spaces.find,
            ConsolidationRun(storage, embedder, clock=clock, ids=ids, wake=wake),
            clock=clock,
            ids=ids,
            wake=wake,
        )
        self.ingest = Ingest(storage, access, compose, clock=clock, ids=ids, wake=wake)
        run = ImportRun(storage, compose, self.ingest, blobs, clock=clock, wake=wake)
        self.transfer = Transfer(storage, access, run, blobs, clock=clock, ids=ids, wake=wake)
        self.embeddings = Embeddings(storage, indexer, embedder, clock=clock, ids=ids, wake=wake)
        self.upkeep = Upkeep(storage, blobs, clock=clock, ids=ids, wake=wake)
        self._written_at: float | None = None

    async def health(self) -> Health:
        """Whether the server can serve, and what works less well than it should; storage errors do not raise.

        A storage that does not say within `HEALTH_SECONDS` whether it works does not.
        """
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await self._write_now_and_then()
                jobs = await self.storage.jobs.counts()
        except PolymemError as error:
            return Health(is_serving=False, degraded=(f"storage: {error.message}",))
        except TimeoutError:
            return Health(is_serving=False, degraded=(f"storage: no answer within {HEALTH_SECONDS:g} s",))
        degraded: list[str] = []
        if self.embedder.problem is not None:
            degraded.append(f"model: {self.embedder.problem}")
        counts = jobs.by_kind_and_state
        parked = sum(count for (kind, state), count in counts.items() if state is JobState.FAILED and kind in _OURS)
        if parked:
            degraded.append(f"jobs: {parked} gave up and wait for an operator")
        return Health(is_serving=True, degraded=tuple(degraded), jobs=jobs)

    async def _write_now_and_then(self) -> None:
        """A write has gone through within the last `WRITE_CHECK_SECONDS`; one that fails is tried again each time.

        It notices a full or read-only disk, and is not free: it is synced.
        """
        now = self.clock.monotonic()
        if self._written_at is None or now - self._written_at >= WRITE_CHECK_SECONDS:
            self._written_at = None
            await self.storage.ping()
            self._written_at = now

    async def job_counts(self) -> JobCounts:
        """How many jobs stand in which state, by kind."""
        return await self.storage.jobs.counts()
