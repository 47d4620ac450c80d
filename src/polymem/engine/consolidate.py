"""Consolidation as its callers see it: asked for and waited for, or taken back."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import assert_never

from polymem.domain.access import Action
from polymem.domain.model import Call, Job, JobId, JobKind, JobState, JsonValue, MemoryId, Scope, SpaceId
from polymem.engine.access import Access
from polymem.engine.audit import AuditAction, audit
from polymem.engine.commits import claim_of, commit, commit_guarded
from polymem.engine.consolidation_run import ConsolidationRun
from polymem.engine.prototypes import prototype_behind, sources_of, taking_apart
from polymem.engine.queueing import RunOutcome, author_of, new_job
from polymem.engine.requests import Consolidated
from polymem.errors import Conflict, Forbidden, NotFound, Unavailable
from polymem.ports.changes import AddJob, Applied, FenceLost, Replayed, RevisionMoved, SessionMoved, Stored
from polymem.ports.runtime import Clock, Ids
from polymem.ports.storage import Storage, TenantStore

FindSpace = Callable[[Call, str | None, Action], Awaitable[SpaceId | None]]
"""The space of a name where the principal may do this, None when it knows of none; see `Spaces.find`."""

MOST_TRIES = 8
LONGEST_WAIT_SECONDS = 900.0
_FIRST_LOOK_SECONDS = 0.02
_LAST_LOOK_SECONDS = 0.5
# One domain has one job at a time and perhaps one that waits; the others in the list are done.
_JOBS_LOOKED_AT = 20
_NOTHING = Consolidated(before=0, after=0, prototypes_made=0, singletons=0, seconds=0.0)


class Consolidate:
    """Makes prototypes of what repeats in a domain, by a job, and takes them apart again."""

    def __init__(
        self,
        storage: Storage,
        access: Access,
        find_space: FindSpace,
        run: ConsolidationRun,
        *,
        clock: Clock,
        ids: Ids,
        wake: Callable[[], None],
    ) -> None:
        self._storage = storage
        self._access = access
        self._find_space = find_space
        self._run = run
        self._clock = clock
        self._ids = ids
        self._wake = wake

    async def domain(self, call: Call, name: str | None) -> Consolidated:
        """What the domain was and is: a job has consolidated it. An unknown domain has nothing to consolidate.

        The job goes on when the caller does not wait; a call while one is queued waits for that. Raises `Forbidden`
        when the principal may not both write and delete there, `Unavailable` when the job gave up or takes too long.
        """
        self._access.require(call, Scope.WRITE)
        self._access.require(call, Scope.DELETE)
        space_id = await self._find_space(call, name, Action.WRITE)
        if space_id is None:
            return _NOTHING
        if not await self._access.within(call, frozenset({space_id}), Action.DELETE):
            raise Forbidden("your role in this space does not allow to delete its memories")
        store = self._storage.tenant(call.principal.tenant_id)
        job_id = await self._queued(store, space_id) or await self._queue(store, call, space_id)
        self._wake()
        return await self._end_of(store, job_id)

    async def run(self, job: Job) -> RunOutcome:
        """What `ConsolidationRun.run` says."""
        return await self._run.run(job)

    async def restore(self, call: Call, memory_id: MemoryId) -> int:
        """The sources of a prototype, named by its id or one of theirs, are active again; how many.

        The prototype is gone, unless a client has edited it: then it stays as an episode. Raises `NotFound` when the
        memory is neither a prototype nor the source of one, `Forbidden`, `Conflict` when others keep changing it.
        """
        self._access.require(call, Scope.DELETE)
        store = self._storage.tenant(call.principal.tenant_id)
        for _ in range(MOST_TRIES):
            memory = await self._access.find(call, memory_id, Action.WRITE)
            prototype = None if memory is None else await prototype_behind(store, memory)
            if prototype is None:
                raise NotFound("prototype", memory_id)
            sources = await sources_of(store, prototype)
            now = self._clock.now()
            entry = audit(author_of(call), AuditAction.RESTORE_SOURCES, prototype.id, at=now)
            result = await commit_guarded(store, [*taking_apart(prototype, sources), entry], now=now)
            match result:
                case Applied() | Replayed():
                    return len(sources)
                case RevisionMoved() | FenceLost() | SessionMoved():
                    continue
                case _ as never:
                    assert_never(never)
        raise Conflict("the memories keep changing; try again")

    async def _queued(self, store: TenantStore, space_id: SpaceId) -> JobId | None:
        """The job of the space that waits to begin. One that has begun may have missed what was written since."""
        jobs = await store.list_jobs(frozenset({JobKind.CONSOLIDATE}), frozenset({space_id}), limit=_JOBS_LOOKED_AT)
        return next((job.id for job in jobs if job.state is JobState.QUEUED), None)

    async def _queue(self, store: TenantStore, call: Call, space_id: SpaceId) -> JobId:
        now = self._clock.now()
        job = new_job(
            JobId(self._ids.new_id()),
            JobKind.CONSOLIDATE,
            tenant_id=call.principal.tenant_id,
            user_id=call.principal.user_id,
            space_id=space_id,
            payload={},
            now=now,
            ordering_key=f"consolidate:{space_id}",
        )
        entry = audit(author_of(call), AuditAction.CONSOLIDATE, job.id, at=now)
        result = await commit(store, [AddJob(job=job), entry], now=now, claim=claim_of(call))
        first = result.outcomes[0]
        return JobId(first.id) if isinstance(first, Stored) else job.id

    async def _end_of(self, store: TenantStore, job_id: JobId) -> Consolidated:
        """What the job came to, looked for more and more seldom."""
        pause = _FIRST_LOOK_SECONDS
        try:
            async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                while True:
                    found = _result_of(await store.get_job(job_id))
                    if found is not None:
                        return found
                    await asyncio.sleep(pause)
                    pause = min(_LAST_LOOK_SECONDS, 1.5 * pause)
        except TimeoutError as error:
            raise Unavailable("consolidation takes long and goes on; ask again later") from error


def _result_of(job: Job | None) -> Consolidated | None:
    """What a job came to, None while it has not ended. Raises `Unavailable` when it gave up."""
    if job is None:
        raise Unavailable("the consolidation is gone")
    match job.state:
        case JobState.QUEUED | JobState.RUNNING:
            return None
        case JobState.DONE:
            return _consolidated(job.result)
        case JobState.FAILED | JobState.CANCELLED:
            raise Unavailable(f"the consolidation gave up: {job.error}")
        case _ as never:
            assert_never(never)


def _consolidated(result: Mapping[str, JsonValue]) -> Consolidated:
    return Consolidated(
        before=_whole(result["before"]),
        after=_whole(result["after"]),
        prototypes_made=_whole(result["prototypes_made"]),
        singletons=_whole(result["singletons"]),
        seconds=_whole(result["milliseconds"]) / 1000.0,
    )


def _whole(value: JsonValue) -> int:
    if not isinstance(value, int):
        raise TypeError("a job's result holds whole numbers")
    return value
