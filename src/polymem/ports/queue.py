"""The job queue port: the dispatch of jobs to workers, across tenants."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from polymem.domain.model import Job, JobId, JobKind, JobState, TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCounts:
    """How many jobs stand where, over all tenants."""

    by_kind_and_state: Mapping[tuple[JobKind, JobState], int]


class JobQueue(Protocol):
    """The dispatch of jobs to workers, across tenants. Jobs are added and finished by `TenantStore.commit`."""

    async def claim(self, *, queues: frozenset[str], now: datetime, lease_until_at: datetime) -> Job | None:
        """The next due job is this caller's until the lease ends: running, attempts + 1, fence + 1.

        Due: queued with `run_after_at` <= now, or running with an expired lease. Higher priority first, then
        lower sequence. A job is passed over while an earlier unfinished job of its ordering key exists; a
        failed one counts as unfinished only where `blocks_key_when_failed`. Two callers never get the same
        job. None when nothing is due.
        """
        ...

    def on_added(self, wake: Callable[[], None]) -> None:
        """`wake` is called soon after another process has added a job.

        Only a hint: it may be called for nothing, and a call may be missed.
        """
        ...

    async def extend(self, tenant_id: TenantId, job_id: JobId, *, fence: int, lease_until_at: datetime) -> bool:
        """The lease ends later; False when the fence is no longer the holder's."""
        ...

    async def retry_later(
        self, tenant_id: TenantId, job_id: JobId, *, fence: int, error: str, run_after_at: datetime, now: datetime
    ) -> bool:
        """The job is queued again with its error shown; False when the fence is lost."""
        ...

    async def park(self, tenant_id: TenantId, job_id: JobId, *, fence: int, error: str, now: datetime) -> bool:
        """The job is failed, kept with its input and error; False when the fence is lost."""
        ...

    async def release(self, tenant_id: TenantId, job_id: JobId, *, fence: int, now: datetime) -> bool:
        """The job is queued again at once and the attempt does not count (a worker that stops cleanly)."""
        ...

    async def requeue(self, tenant_id: TenantId, job_id: JobId, *, now: datetime) -> bool:
        """A failed job is queued again with its attempts at 0; False when it is not failed."""
        ...

    async def counts(self) -> JobCounts:
        """How many jobs stand in which state, by kind."""
        ...

    async def delete_finished(self, *, before: datetime) -> int:
        """Done, cancelled and failed jobs that finished before the time are gone; how many."""
        ...
