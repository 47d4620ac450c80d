"""The dispatch of jobs to workers, across tenants: claims with a lease and a fence, and how they end."""

import sqlite3
from collections.abc import Callable
from datetime import datetime
from typing import Any

from polymem.domain.model import Job, JobId, JobKind, JobState, TenantId
from polymem.ports.queue import JobCounts
from polymem.storage.rows import JOB_COLUMNS, columns, job_from_row, microseconds
from polymem.storage.sqlite.connection import Database
from polymem.storage.sqlite.job_changes import UNFINISHED, dispatch, dispatch_next, take_off

_DELETED_PER_UNIT = 1000

# Walks the queue in rank order and stops at the first job that is due and not held back by its ordering key.
_FIND_DUE = (
    "SELECT d.priority, d.sequence, d.tenant_id, d.job_id FROM job_dispatch AS d"
    " CROSS JOIN jobs AS j ON j.tenant_id = d.tenant_id AND j.job_id = d.job_id"
    " WHERE d.queue = ? AND d.due_at <= ? AND (j.ordering_key IS NULL OR NOT EXISTS"
    " (SELECT 1 FROM jobs AS e WHERE e.tenant_id = j.tenant_id AND e.ordering_key = j.ordering_key"
    f" AND e.sequence < j.sequence AND {UNFINISHED.format(job='e')}))"
    " ORDER BY d.priority DESC, d.sequence LIMIT 1"
)
_CLAIM = (
    "UPDATE jobs SET state = 'running', attempts = attempts + 1, fence = fence + 1, lease_until_at = ?,"
    f" updated_at = ? WHERE tenant_id = ? AND job_id = ? RETURNING {columns(JOB_COLUMNS)}"
)
_HELD = " WHERE tenant_id = ? AND job_id = ? AND fence = ? AND state = 'running' RETURNING ordering_key"


class SqliteJobQueue:
    """The `JobQueue` of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, *, queues: frozenset[str], now: datetime, lease_until_at: datetime) -> Job | None:
        """The next due job is this caller's until the lease ends; None when nothing is due.

        A reader looks first, so that an idle worker's polling does not keep the writer busy.
        """
        names, at = sorted(queues), microseconds(now)
        if await self._database.read(lambda connection: _find_due(connection, names, at)) is None:
            return None

        def unit(connection: sqlite3.Connection) -> Job | None:
            due = _find_due(connection, names, at)
            if due is None:
                return None
            tenant_id, job_id = due
            row = connection.execute(_CLAIM, (microseconds(lease_until_at), at, tenant_id, job_id)).fetchone()
            dispatch(connection, tenant_id, job_id)
            return job_from_row(row)

        return await self._database.write(unit)

    def on_added(self, wake: Callable[[], None]) -> None:
        """Never called: the process that owns the data directory is the only one that serves."""

    async def extend(self, tenant_id: TenantId, job_id: JobId, *, fence: int, lease_until_at: datetime) -> bool:
        """The lease ends later; False when the fence is no longer the holder's."""

        def unit(connection: sqlite3.Connection) -> bool:
            held = connection.execute(
                f"UPDATE jobs SET lease_until_at = ?{_HELD}",
                (microseconds(lease_until_at), tenant_id, job_id, fence),
            ).fetchone()
            if held is None:
                return False
            dispatch(connection, tenant_id, job_id)
            return True

        return await self._database.write(unit)

    async def retry_later(
        self, tenant_id: TenantId, job_id: JobId, *, fence: int, error: str, run_after_at: datetime, now: datetime
    ) -> bool:
        """The job is queued again with its error shown; False when the fence is lost."""
        return await self._queue_again(
            "UPDATE jobs SET state = 'queued', lease_until_at = NULL, error = ?, run_after_at = ?, updated_at = ?",
            (error, microseconds(run_after_at), microseconds(now), tenant_id, job_id, fence),
            tenant_id,
            job_id,
        )

    async def release(self, tenant_id: TenantId, job_id: JobId, *, fence: int, now: datetime) -> bool:
        """The job is queued again at once and the attempt does not count; False when the fence is lost."""
        return await self._queue_again(
            "UPDATE jobs SET state = 'queued', lease_until_at = NULL, attempts = attempts - 1, run_after_at = ?,"
            " updated_at = ?",
            (microseconds(now), microseconds(now), tenant_id, job_id, fence),
            tenant_id,
            job_id,
        )

    async def park(self, tenant_id: TenantId, job_id: JobId, *, fence: int, error: str, now: datetime) -> bool:
        """The job is failed, kept with its input and error; False when the fence is lost."""

        def unit(connection: sqlite3.Connection) -> bool:
            held = connection.execute(
                "UPDATE jobs SET state = 'failed', lease_until_at = NULL, error = ?, finished_at = ?, updated_at = ?"
                f"{_HELD}",
                (error, microseconds(now), microseconds(now), tenant_id, job_id, fence),
            ).fetchone()
            if held is None:
                return False
            take_off(connection, tenant_id, job_id)
            dispatch_next(connection, tenant_id, held[0])
            return True

        return await self._database.write(unit)

    async def requeue(self, tenant_id: TenantId, job_id: JobId, *, now: datetime) -> bool:
        """A failed job is queued again with its attempts at 0 and no error; False when it is not failed."""

        def unit(connection: sqlite3.Connection) -> bool:
            row = connection.execute(
                "UPDATE jobs SET state = 'queued', attempts = 0, error = NULL, finished_at = NULL, run_after_at = ?,"
                " updated_at = ? WHERE tenant_id = ? AND job_id = ? AND state = 'failed'"
                " RETURNING ordering_key, sequence",
                (microseconds(now), microseconds(now), tenant_id, job_id),
            ).fetchone()
            if row is None:
                return False
            ordering_key, sequence = row
            if ordering_key is None:
                dispatch(connection, tenant_id, job_id)
            else:
                _hold_back_later(connection, tenant_id, ordering_key, sequence)
                dispatch_next(connection, tenant_id, ordering_key)
            return True

        return await self._database.write(unit)

    async def counts(self) -> JobCounts:
        """How many jobs stand in which state, by kind."""

        def unit(connection: sqlite3.Connection) -> JobCounts:
            rows = connection.execute("SELECT kind, state, count(*) FROM jobs GROUP BY kind, state")
            return JobCounts(by_kind_and_state={(JobKind(kind), JobState(state)): count for kind, state, count in rows})

        return await self._database.read(unit)

    async def delete_finished(self, *, before: datetime) -> int:
        """Jobs that finished before the time are gone; how many. Done in bounded units, so that writes pass between."""
        at, deleted = microseconds(before), 0
        while count := await self._database.write(lambda connection: _delete_finished(connection, at)):
            deleted += count
        return deleted

    async def _queue_again(self, update: str, parameters: tuple[Any, ...], tenant_id: TenantId, job_id: JobId) -> bool:
        def unit(connection: sqlite3.Connection) -> bool:
            if connection.execute(f"{update}{_HELD}", parameters).fetchone() is None:
                return False
            dispatch(connection, tenant_id, job_id)
            return True

        return await self._database.write(unit)


def end_leases(connection: sqlite3.Connection) -> None:
    """Every running job is due now: whoever held it is known to be dead. Its fence still stands until it is claimed."""
    connection.execute("UPDATE jobs SET lease_until_at = 0 WHERE state = 'running'")
    connection.execute(
        "UPDATE job_dispatch SET due_at = 0 WHERE EXISTS (SELECT 1 FROM jobs AS j"
        " WHERE j.tenant_id = job_dispatch.tenant_id AND j.job_id = job_dispatch.job_id AND j.state = 'running')"
    )


def _find_due(connection: sqlite3.Connection, queues: list[str], now: int) -> tuple[TenantId, JobId] | None:
    """The job to claim next: of the first due job of each queue, the one that ranks first."""
    found = []
    for queue in queues:
        row = connection.execute(_FIND_DUE, (queue, now)).fetchone()
        if row is not None:
            priority, sequence, tenant_id, job_id = row
            found.append((-priority, sequence, TenantId(tenant_id), JobId(job_id)))
    if not found:
        return None
    _, _, tenant, job = min(found)
    return tenant, job


def _hold_back_later(connection: sqlite3.Connection, tenant_id: TenantId, ordering_key: str, sequence: int) -> None:
    """Queued jobs of the key after `sequence` wait for it again: no worker finds them."""
    connection.execute(
        "DELETE FROM job_dispatch WHERE tenant_id = ? AND job_id IN (SELECT job_id FROM jobs"
        " WHERE tenant_id = ? AND ordering_key = ? AND sequence > ? AND state = 'queued'"
        " AND state IN ('queued', 'running', 'failed'))",
        (tenant_id, tenant_id, ordering_key, sequence),
    )


def _delete_finished(connection: sqlite3.Connection, before: int) -> int:
    rows = connection.execute(
        "DELETE FROM jobs WHERE rowid IN (SELECT rowid FROM jobs WHERE finished_at < ?"
        " AND finished_at IS NOT NULL AND state IN ('done', 'failed', 'cancelled') LIMIT ?)"
        " RETURNING tenant_id, ordering_key, state",
        (before, _DELETED_PER_UNIT),
    ).fetchall()
    # A failed job that blocked its key blocks it no more.
    for tenant_id, ordering_key in {(row[0], row[1]) for row in rows if row[2] == JobState.FAILED.value}:
        dispatch_next(connection, TenantId(tenant_id), ordering_key)
    return len(rows)
