"""The dispatch of jobs to workers, across tenants: claims with a lease and a fence, and how they end."""

from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Final

from polymem.domain.model import Job, JobId, JobKind, JobState, TenantId
from polymem.ports.queue import JobCounts
from polymem.storage.postgres.connection import Database, Unit
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.job_changes import DISPATCHED, UNFINISHED, dispatch, dispatch_next, take_off
from polymem.storage.postgres.notices import Notices
from polymem.storage.postgres.transaction import Row, done_again, fetch_all, fetch_one
from polymem.storage.rows import JOB_COLUMNS, columns, job_from_row, microseconds

# So many of the first due jobs are tried one after another, as often, when other workers take them meanwhile.
_CANDIDATES: Final = 32
_ROUNDS: Final = 4
_DELETED_PER_ROUND: Final = 1000

# A walk of each queue in rank order, in the index alone. It takes no lock and no transaction: idle workers poll.
_FIND_DUE: Final = (
    "SELECT d.tenant_id, d.job_id FROM unnest(%s::text[]) AS asked (queue) CROSS JOIN LATERAL"
    " (SELECT d.priority, d.sequence, d.tenant_id, d.job_id FROM job_dispatch AS d WHERE d.queue = asked.queue"
    " AND d.due_at <= %s ORDER BY d.priority DESC, d.sequence LIMIT %s) AS d"
    " ORDER BY d.priority DESC, d.sequence LIMIT %s"
)
# The job when it still is due, is not held back by its key, and nobody else holds its row.
_CLAIM: Final = (
    "UPDATE jobs SET state = 'running', attempts = attempts + 1, fence = fence + 1, lease_until_at = %s,"
    " updated_at = %s WHERE tenant_id = %s AND job_id = (SELECT j.job_id FROM jobs AS j"
    " WHERE j.tenant_id = %s AND j.job_id = %s"
    " AND ((j.state = 'queued' AND j.run_after_at <= %s) OR (j.state = 'running' AND j.lease_until_at <= %s))"
    " AND (j.ordering_key IS NULL OR NOT EXISTS (SELECT 1 FROM jobs AS e WHERE e.tenant_id = %s"
    " AND e.ordering_key = j.ordering_key AND e.sequence < j.sequence"
    f" AND {UNFINISHED.format(job='e')})) FOR UPDATE OF j SKIP LOCKED)"
    f" RETURNING {columns(JOB_COLUMNS)}"
)
_DUE_FROM: Final = "UPDATE job_dispatch SET due_at = %s WHERE tenant_id = %s AND job_id = %s"
_HELD: Final = (
    f" WHERE tenant_id = %s AND job_id = %s AND fence = %s AND state = 'running' RETURNING ordering_key, {DISPATCHED}"
)
_LOCK_TENANT: Final = "SELECT 1 FROM tenants WHERE tenant_id = %s FOR NO KEY UPDATE"
# The row locks wait for a claim of one of them, which then is no longer queued.
_LATER_OF_KEY: Final = (
    "SELECT job_id FROM jobs WHERE tenant_id = %s AND ordering_key = %s AND sequence > %s"
    " AND state = 'queued' ORDER BY sequence FOR UPDATE"
)
_ENDED: Final = "finished_at < %s AND finished_at IS NOT NULL AND state IN ('done', 'failed', 'cancelled')"

_COUNT_JOBS: Final = "SELECT kind, state, count(*) FROM jobs GROUP BY kind, state"
_FIND_ENDED: Final = f"SELECT tenant_id, job_id FROM jobs WHERE {_ENDED} ORDER BY finished_at LIMIT %s"

# Statements that name no tenant: the figures of the whole server, and where there is something to sweep.
ACROSS_TENANTS: Final = (_COUNT_JOBS, _FIND_ENDED)


class PostgresJobQueue:
    """The `JobQueue` of one database."""

    def __init__(self, database: Database, notices: Notices) -> None:
        self._database = database
        self._notices = notices

    async def claim(self, *, queues: frozenset[str], now: datetime, lease_until_at: datetime) -> Job | None:
        """The next due job is this caller's until the lease ends; None when nothing is due, or others take it all."""
        at = microseconds(now)
        for _ in range(_ROUNDS):
            candidates = await self._find_due(sorted(queues), at)
            if not candidates:
                return None
            claimed = await self._claim_one_of(candidates, at, microseconds(lease_until_at))
            if claimed is not None:
                return claimed
        return None

    def on_added(self, wake: Callable[[], None]) -> None:
        """`wake` is called soon after another process has added a job."""
        self._notices.on_job(wake)

    async def extend(self, tenant_id: TenantId, job_id: JobId, *, fence: int, lease_until_at: datetime) -> bool:
        """The lease ends later; False when the fence is no longer the holder's."""

        async def unit(connection: Connection) -> bool:
            held = await fetch_one(
                connection,
                f"UPDATE jobs SET lease_until_at = %s{_HELD}",
                (microseconds(lease_until_at), tenant_id, job_id, fence),
            )
            if held is None:
                return False
            await dispatch(connection, tenant_id, job_id, held[1:])
            return True

        return await self._database.write(unit, was_stored=done_again)

    async def retry_later(
        self, tenant_id: TenantId, job_id: JobId, *, fence: int, error: str, run_after_at: datetime, now: datetime
    ) -> bool:
        """The job is queued again with its error shown; False when the fence is lost."""
        return await self._queue_again(
            "UPDATE jobs SET state = 'queued', lease_until_at = NULL, error = %s, run_after_at = %s, updated_at = %s",
            (error, microseconds(run_after_at), microseconds(now)),
            (tenant_id, job_id, fence),
        )

    async def release(self, tenant_id: TenantId, job_id: JobId, *, fence: int, now: datetime) -> bool:
        """The job is queued again at once and the attempt does not count; False when the fence is lost."""
        return await self._queue_again(
            "UPDATE jobs SET state = 'queued', lease_until_at = NULL, attempts = attempts - 1, run_after_at = %s,"
            " updated_at = %s",
            (microseconds(now), microseconds(now)),
            (tenant_id, job_id, fence),
        )

    async def park(self, tenant_id: TenantId, job_id: JobId, *, fence: int, error: str, now: datetime) -> bool:
        """The job is failed, kept with its input and error; False when the fence is lost."""

        async def unit(connection: Connection) -> bool:
            held = await _under_tenant(
                connection,
                tenant_id,
                "UPDATE jobs SET state = 'failed', lease_until_at = NULL, error = %s, finished_at = %s,"
                f" updated_at = %s{_HELD}",
                (error, microseconds(now), microseconds(now), tenant_id, job_id, fence),
            )
            if held is None:
                return False
            await take_off(connection, tenant_id, job_id)
            await dispatch_next(connection, tenant_id, held[0])
            return True

        return await self._database.write(unit, was_stored=_let_go(tenant_id, job_id, fence))

    async def requeue(self, tenant_id: TenantId, job_id: JobId, *, now: datetime) -> bool:
        """A failed job is queued again with its attempts at 0 and no error; False when it is not failed."""

        async def unit(connection: Connection) -> bool:
            row = await _under_tenant(
                connection,
                tenant_id,
                "UPDATE jobs SET state = 'queued', attempts = 0, error = NULL, finished_at = NULL, run_after_at = %s,"
                " updated_at = %s WHERE tenant_id = %s AND job_id = %s AND state = 'failed'"
                f" RETURNING ordering_key, {DISPATCHED}",
                (microseconds(now), microseconds(now), tenant_id, job_id),
            )
            if row is None:
                return False
            ordering_key, *dispatched = row
            if ordering_key is None:
                await dispatch(connection, tenant_id, job_id, tuple(dispatched))
            else:
                await _hold_back_later(connection, tenant_id, ordering_key, dispatched[-1])
                await dispatch_next(connection, tenant_id, ordering_key)
            return True

        async def was_stored(connection: Connection) -> bool:
            statement = "SELECT 1 FROM jobs WHERE tenant_id = %s AND job_id = %s AND state <> 'failed'"
            return await fetch_one(connection, statement, (tenant_id, job_id)) is not None

        return await self._database.write(unit, was_stored=was_stored)

    async def counts(self) -> JobCounts:
        """How many jobs stand in which state, by kind."""
        rows = await self._database.read(lambda connection: fetch_all(connection, _COUNT_JOBS, ()))
        return JobCounts(by_kind_and_state={(JobKind(kind), JobState(state)): count for kind, state, count in rows})

    async def delete_finished(self, *, before: datetime) -> int:
        """Jobs that finished before the time are gone; how many. Done in bounded units, so that writes pass between."""
        at, deleted = microseconds(before), 0
        while ended := await self._database.read(
            lambda connection: fetch_all(connection, _FIND_ENDED, (at, _DELETED_PER_ROUND))
        ):
            for tenant_id, of_tenant in groupby(sorted(ended), key=itemgetter(0)):
                deleted += await self._delete_ended(TenantId(tenant_id), [job_id for _, job_id in of_tenant], at)
        return deleted

    async def _find_due(self, queues: list[str], now: int) -> list[Row]:
        asked = (queues, now, _CANDIDATES, _CANDIDATES)
        return await self._database.read(lambda connection: fetch_all(connection, _FIND_DUE, asked))

    async def _claim_one_of(self, candidates: Iterable[Row], now: int, lease_until: int) -> Job | None:
        """The first of the jobs that nobody else has taken is this caller's."""

        async def unit(connection: Connection) -> Job | None:
            for tenant_id, job_id in candidates:
                asked = (lease_until, now, tenant_id, tenant_id, job_id, now, now, tenant_id)
                row = await fetch_one(connection, _CLAIM, asked)
                if row is not None:
                    await connection.execute(_DUE_FROM, (lease_until, tenant_id, job_id))
                    return job_from_row(row)
            return None

        return await self._database.write(unit)

    async def _queue_again(self, update: str, values: Row, held_by: tuple[TenantId, JobId, int]) -> bool:
        tenant_id, job_id, fence = held_by

        async def unit(connection: Connection) -> bool:
            held = await _under_tenant(connection, tenant_id, f"{update}{_HELD}", (*values, *held_by))
            if held is None:
                return False
            ordering_key, *dispatched = held
            if ordering_key is None:
                await dispatch(connection, tenant_id, job_id, tuple(dispatched))
            else:
                # An earlier job of its key may have been queued again while it ran.
                await take_off(connection, tenant_id, job_id)
                await dispatch_next(connection, tenant_id, ordering_key)
            return True

        return await self._database.write(unit, was_stored=_let_go(tenant_id, job_id, fence))

    async def _delete_ended(self, tenant_id: TenantId, job_ids: list[str], before: int) -> int:
        async def unit(connection: Connection) -> int:
            await connection.execute(_LOCK_TENANT, (tenant_id,))
            rows = await fetch_all(
                connection,
                f"DELETE FROM jobs WHERE tenant_id = %s AND job_id = ANY(%s::text[]) AND {_ENDED}"
                " RETURNING ordering_key, state",
                (tenant_id, job_ids, before),
            )
            # A failed job that blocked its key blocks it no more.
            failed = {ordering_key for ordering_key, state in rows if state == JobState.FAILED.value}
            for ordering_key in sorted(failed - {None}):
                await dispatch_next(connection, tenant_id, ordering_key)
            return len(rows)

        return await self._database.write(unit, was_stored=done_again)


async def _under_tenant(connection: Connection, tenant_id: TenantId, statement: str, values: Row) -> Row | None:
    """What the statement gives, run while the tenant's row is held: no commit of the tenant runs beside it."""
    async with connection.pipeline():
        await connection.execute(_LOCK_TENANT, (tenant_id,))
        return await fetch_one(connection, statement, values)


async def _hold_back_later(connection: Connection, tenant_id: TenantId, ordering_key: str, sequence: int) -> None:
    """Queued jobs of the key after `sequence` wait for it again: no worker finds them."""
    later = [job_id for (job_id,) in await fetch_all(connection, _LATER_OF_KEY, (tenant_id, ordering_key, sequence))]
    await connection.execute(
        "DELETE FROM job_dispatch WHERE tenant_id = %s AND job_id = ANY(%s::text[])", (tenant_id, later)
    )


def _let_go(tenant_id: TenantId, job_id: JobId, fence: int) -> Unit[bool]:
    """Whether the holder of this fence has given the job away: nobody has claimed it since, and it does not run."""

    async def unit(connection: Connection) -> bool:
        statement = "SELECT 1 FROM jobs WHERE tenant_id = %s AND job_id = %s AND fence = %s AND state <> 'running'"
        return await fetch_one(connection, statement, (tenant_id, job_id, fence)) is not None

    return unit
