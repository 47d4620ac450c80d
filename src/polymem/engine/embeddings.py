"""Vectors made in the background: of what was stored without them, and of everything when the model changed."""

import asyncio
from collections.abc import Callable, Sequence

from polymem.domain.model import Job, JobId, JobKind, Memory, MemoryId, SpaceId, Tenant
from polymem.engine.commits import commit, commit_guarded, internal_claim
from polymem.engine.indexing import Indexer
from polymem.engine.queueing import RunOutcome, lease_from, new_job
from polymem.ports.changes import AddJob, Applied, Change, FinishJob, ProgressJob, SetEmbedding
from polymem.ports.inference import Embedder
from polymem.ports.runtime import Clock, Ids
from polymem.ports.storage import Storage

MEMORIES_PER_COMMIT = 16
_EVERYTHING = "everything"
_MOST_COUNTED = 100_000


class Embeddings:
    """Runs embed jobs, of two sorts: the memories a commit named, or everything a tenant lacks vectors of."""

    def __init__(
        self,
        storage: Storage,
        indexer: Indexer,
        embedder: Embedder,
        *,
        clock: Clock,
        ids: Ids,
        wake: Callable[[], None],
    ) -> None:
        self._storage = storage
        self._indexer = indexer
        self._embedder = embedder
        self._clock = clock
        self._ids = ids
        self._wake = wake

    async def run(self, job: Job) -> RunOutcome:
        """The vectors are stored and the job is done.

        Raises `InferenceUnavailable` when the model cannot answer; what was made before that stays.
        """
        if job.payload.get(_EVERYTHING):
            return await self._run_everything(job)
        return await self._run_named(job)

    async def queue_missing(self) -> int:
        """For each tenant that lacks vectors of the present model a job is queued; how many. No-op without a model.

        Once an hour and model at most, however many processes start.
        """
        if self._embedder.problem is not None:
            return 0
        queued = 0
        for tenant in await self._storage.directory.list_tenants():
            store = self._storage.tenant(tenant.id)
            if await store.list_without_vectors(self._embedder.identity, limit=1):
                queued += await self._queue_everything(tenant)
        if queued:
            self._wake()
        return queued

    async def _queue_everything(self, tenant: Tenant) -> int:
        now = self._clock.now()
        user = (await self._storage.directory.list_users(tenant.id))[0]
        model = self._embedder.identity
        job = new_job(
            JobId(self._ids.new_id()),
            JobKind.EMBED,
            tenant_id=tenant.id,
            user_id=user.id,
            space_id=user.personal_space_id,
            payload={_EVERYTHING: True},
            now=now,
            ordering_key="embed everything",
        )
        claim = internal_claim(f"embed:{model.name}@{model.revision}:{now:%Y-%m-%dT%H}")
        result = await commit(self._storage.tenant(tenant.id), [AddJob(job=job)], now=now, claim=claim)
        return 1 if isinstance(result, Applied) else 0

    async def _run_named(self, job: Job) -> RunOutcome:
        named = job.payload["memory_ids"]
        ids = [MemoryId(str(one)) for one in named] if isinstance(named, Sequence) else []
        for start in range(job.progress_done, len(ids), MEMORIES_PER_COMMIT):
            some = ids[start : start + MEMORIES_PER_COMMIT]
            done = start + len(some)
            outcome = await self._embed(job, some, frozenset({job.space_id}), done=done, total=len(ids))
            if outcome is RunOutcome.FENCE_LOST:
                return RunOutcome.FENCE_LOST
        return await self._finish(job)

    async def _run_everything(self, job: Job) -> RunOutcome:
        """Goes on until nothing lacks vectors, or what still does was tried (its own newer job makes its)."""
        store = self._storage.tenant(job.tenant_id)
        spaces = frozenset(space.id for space, _ in await store.list_spaces(job.user_id))
        done = job.progress_done
        total = done + len(await store.list_without_vectors(self._embedder.identity, limit=_MOST_COUNTED))
        tried: set[MemoryId] = set()
        while True:
            limit = MEMORIES_PER_COMMIT + len(tried)
            lacking = await store.list_without_vectors(self._embedder.identity, limit=limit)
            tried.intersection_update(lacking)
            some = [memory_id for memory_id in lacking if memory_id not in tried][:MEMORIES_PER_COMMIT]
            if not some:
                return await self._finish(job)
            done += len(some)
            total = max(total, done)
            if await self._embed(job, some, spaces, done=done, total=total) is RunOutcome.FENCE_LOST:
                return RunOutcome.FENCE_LOST
            tried.update(some)

    async def _embed(
        self, job: Job, ids: Sequence[MemoryId], spaces: frozenset[SpaceId], *, done: int, total: int
    ) -> RunOutcome:
        """The vectors of these memories are stored, with how far the job came; what is gone is passed over."""
        store = self._storage.tenant(job.tenant_id)
        memories = tuple((await store.get_memories(ids, spaces)).values())
        progress = ProgressJob(
            job_id=job.id,
            fence=job.fence,
            progress_done=done,
            progress_total=total,
            result={},
            lease_until_at=lease_from(job, self._clock.now()),
        )
        changes: list[Change] = [*await self._vectors(memories), progress]
        result = await commit_guarded(store, changes, now=self._clock.now())
        return RunOutcome.FINISHED if isinstance(result, Applied) else RunOutcome.FENCE_LOST

    async def _vectors(self, memories: Sequence[Memory]) -> list[SetEmbedding]:
        embedded = await asyncio.gather(*(self._indexer.embedding(memory) for memory in memories))
        return [
            SetEmbedding(memory_id=memory.id, expected_revision=memory.revision, embedding=embedding)
            for memory, embedding in zip(memories, embedded, strict=True)
        ]

    async def _finish(self, job: Job) -> RunOutcome:
        now = self._clock.now()
        finish = FinishJob(job_id=job.id, fence=job.fence, result={}, error=None, finished_at=now)
        result = await commit_guarded(self._storage.tenant(job.tenant_id), [finish], now=now)
        return RunOutcome.FINISHED if isinstance(result, Applied) else RunOutcome.FENCE_LOST
