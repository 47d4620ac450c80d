"""Housekeeping once a day: what nobody can ask for any more is gone."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import assert_never
from uuid import UUID

from polymem.domain.model import BlobId, Job, JobId, JobKind, JobState, Tenant, TenantId
from polymem.engine.commits import commit, commit_guarded, internal_claim
from polymem.engine.queueing import RunOutcome, new_job
from polymem.ports.blobs import BlobStore
from polymem.ports.changes import AddJob, Applied, FinishJob
from polymem.ports.runtime import Clock, Ids
from polymem.ports.storage import Storage

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
KEEP_JOBS = timedelta(days=30)
KEEP_IDEMPOTENCY = timedelta(hours=24)
KEEP_ORPHANS = timedelta(hours=24)


class Upkeep:
    """Queues and runs the sweep."""

    def __init__(self, storage: Storage, blobs: BlobStore, *, clock: Clock, ids: Ids, wake: Callable[[], None]) -> None:
        self._storage = storage
        self._blobs = blobs
        self._clock = clock
        self._ids = ids
        self._wake = wake

    async def queue_sweep(self) -> bool:
        """Today's sweep is queued, once however many processes ask; True when this call did it.

        The job is the oldest tenant's, for want of a better home. No tenant, no sweep.
        """
        tenants = await self._storage.directory.list_tenants()
        if not tenants:
            return False
        now = self._clock.now()
        user = (await self._storage.directory.list_users(tenants[0].id))[0]
        job = new_job(
            JobId(self._ids.new_id()),
            JobKind.SWEEP,
            tenant_id=tenants[0].id,
            user_id=user.id,
            space_id=user.personal_space_id,
            payload={},
            now=now,
            ordering_key="sweep",
        )
        store = self._storage.tenant(tenants[0].id)
        result = await commit(store, [AddJob(job=job)], now=now, claim=internal_claim(f"sweep:{now:%Y-%m-%d}"))
        if isinstance(result, Applied):
            self._wake()
            return True
        return False

    async def run(self, job: Job) -> RunOutcome:
        """Old finished jobs and idempotency keys, files of no job and traces of deleted memories are gone.

        Running it twice is harmless.
        """
        now = self._clock.now()
        jobs = await self._storage.jobs.delete_finished(before=now - KEEP_JOBS)
        keys = await self._storage.forget_idempotency(before=now - KEEP_IDEMPOTENCY)
        await self._storage.purge()
        files = 0
        for tenant in await self._storage.directory.list_tenants():
            files += await self._delete_orphans(tenant, before=now - KEEP_ORPHANS)
        finish = FinishJob(
            job_id=job.id,
            fence=job.fence,
            result={"jobs": jobs, "idempotency_keys": keys, "files": files},
            error=None,
            finished_at=self._clock.now(),
        )
        result = await commit_guarded(self._storage.tenant(job.tenant_id), [finish], now=self._clock.now())
        return RunOutcome.FINISHED if isinstance(result, Applied) else RunOutcome.FENCE_LOST

    async def _delete_orphans(self, tenant: Tenant, *, before: datetime) -> int:
        """The tenant's files made before the time that no job needs are gone; how many."""
        deleted = 0
        for blob_id in await self._blobs.list_ids(tenant.id):
            if made_at(blob_id) < before and not await self._is_needed(tenant.id, blob_id):
                await self._blobs.delete(tenant.id, blob_id)
                deleted += 1
        return deleted

    async def _is_needed(self, tenant_id: TenantId, blob_id: BlobId) -> bool:
        """True while the import job that bears the file's id may still read it."""
        job = await self._storage.tenant(tenant_id).get_job(JobId(blob_id))
        if job is None:
            return False
        match job.state:
            case JobState.QUEUED | JobState.RUNNING | JobState.FAILED:
                return True
            case JobState.DONE | JobState.CANCELLED:
                return False
            case _ as never:
                assert_never(never)


def made_at(identifier: str) -> datetime:
    """The moment a UUIDv7 was made, to the millisecond."""
    return _EPOCH + timedelta(milliseconds=UUID(identifier).int >> 80)
