"""New jobs, each kind with its queue, weight and patience."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from polymem.domain.model import (
    Call,
    Job,
    JobId,
    JobKind,
    JobState,
    JsonValue,
    KeyId,
    MemoryId,
    SpaceId,
    TenantId,
    UserId,
)
from polymem.ports.runtime import Ids

LEASE = timedelta(seconds=60)
"""How long a claimed job stays its holder's without a sign of life, when the worker says nothing else."""


class RunOutcome(StrEnum):
    """How a run of a job ended, when it did not fail."""

    FINISHED = "finished"
    FENCE_LOST = "fence_lost"


@dataclass(frozen=True, slots=True)
class JobRule:
    """Where jobs of a kind queue, how soon they run, and how often they are tried."""

    queue: str
    priority: int
    max_attempts: int


RULES: Mapping[JobKind, JobRule] = {
    # A model that is away for weeks is tried once an hour; it is no reason to park what only waits for it.
    JobKind.EMBED: JobRule(queue="embed", priority=10, max_attempts=1000),
    JobKind.IMPORT: JobRule(queue="import", priority=5, max_attempts=8),
    JobKind.SWEEP: JobRule(queue="upkeep", priority=0, max_attempts=5),
    JobKind.CONSOLIDATE: JobRule(queue="consolidate", priority=5, max_attempts=5),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """On whose account something is stored, now or by a job later."""

    tenant_id: TenantId
    user_id: UserId
    key_id: KeyId
    request_id: str


def author_of(call: Call) -> Author:
    """The author of what a call stores."""
    principal = call.principal
    return Author(
        tenant_id=principal.tenant_id,
        user_id=principal.user_id,
        key_id=principal.key_id,
        request_id=call.request_id,
    )


def new_job(
    job_id: JobId,
    kind: JobKind,
    *,
    tenant_id: TenantId,
    user_id: UserId,
    space_id: SpaceId,
    payload: Mapping[str, JsonValue],
    now: datetime,
    ordering_key: str | None = None,
) -> Job:
    """A job as it is queued; its sequence is given by the storage."""
    rule = RULES[kind]
    return Job(
        id=job_id,
        tenant_id=tenant_id,
        space_id=space_id,
        user_id=user_id,
        kind=kind,
        queue=rule.queue,
        ordering_key=ordering_key,
        blocks_key_when_failed=False,
        sequence=0,
        state=JobState.QUEUED,
        priority=rule.priority,
        attempts=0,
        max_attempts=rule.max_attempts,
        fence=0,
        payload=payload,
        result={},
        progress_total=0,
        progress_done=0,
        error=None,
        reference_at=now,
        run_after_at=now,
        lease_until_at=None,
        created_at=now,
        updated_at=now,
        finished_at=None,
    )


def lease_from(job: Job, now: datetime) -> datetime:
    """When a job claimed by a worker is free again if its holder shows its last sign of life now.

    As long after now as the worker's lease was from its claim on.
    """
    return now + (LEASE if job.lease_until_at is None else job.lease_until_at - job.updated_at)


def embed_job(ids: Ids, author: Author, space_id: SpaceId, memory_ids: Sequence[MemoryId], *, now: datetime) -> Job:
    """A job that makes the vectors these memories of one space still lack."""
    return new_job(
        JobId(ids.new_id()),
        JobKind.EMBED,
        tenant_id=author.tenant_id,
        user_id=author.user_id,
        space_id=space_id,
        payload={"memory_ids": list(memory_ids)},
        now=now,
    )
