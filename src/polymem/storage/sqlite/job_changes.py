"""The changes that touch jobs, and the dispatch rows that tell workers where work is."""

import sqlite3
from typing import Final, assert_never

from polymem.domain.model import Job, JobId, JobState, TenantId
from polymem.ports.changes import AddJob, FenceLost, FinishJob, Outcome, ProgressJob, Stored, Updated
from polymem.storage.outcomes import Refused
from polymem.storage.rows import JOB_COLUMNS, insert_into, job_row, microseconds, to_json
from polymem.storage.sqlite.transaction import Transaction, next_number

_INSERT = insert_into("jobs", JOB_COLUMNS)
_SEQUENCE = JOB_COLUMNS.index("sequence")
_DISPATCHED = frozenset({JobState.QUEUED, JobState.RUNNING})

# Which jobs hold back the later ones of their ordering key. The first half is spelled as in the index jobs_by_key.
UNFINISHED: Final = (
    "{job}.state IN ('queued', 'running', 'failed') AND ({job}.state <> 'failed' OR {job}.blocks_key_when_failed = 1)"
)


def change_job(transaction: Transaction, change: AddJob | ProgressJob | FinishJob) -> Outcome:
    """The change is applied within the transaction. Raises `Refused` when its fence is lost."""
    match change:
        case AddJob():
            return _add(transaction, change.job)
        case ProgressJob():
            return _progress(transaction, change)
        case FinishJob():
            return _finish(transaction, change)
        case _:
            assert_never(change)


def dispatch_next(connection: sqlite3.Connection, tenant_id: TenantId, ordering_key: str | None) -> None:
    """The first unfinished job of an ordering key, when it is queued, can be found by workers."""
    if ordering_key is None:
        return
    row = connection.execute(
        "SELECT job_id, state FROM jobs AS j WHERE j.tenant_id = ? AND j.ordering_key = ?"
        f" AND {UNFINISHED.format(job='j')} ORDER BY j.sequence LIMIT 1",
        (tenant_id, ordering_key),
    ).fetchone()
    if row is not None and row[1] == JobState.QUEUED.value:
        dispatch(connection, tenant_id, JobId(row[0]))


def dispatch(connection: sqlite3.Connection, tenant_id: TenantId, job_id: JobId) -> None:
    """Workers can find the job, due as its row says."""
    connection.execute(
        "INSERT INTO job_dispatch (queue, due_at, priority, sequence, tenant_id, job_id)"
        " SELECT queue, coalesce(lease_until_at, run_after_at), priority, sequence, tenant_id, job_id"
        " FROM jobs WHERE tenant_id = ? AND job_id = ?"
        " ON CONFLICT (tenant_id, job_id) DO UPDATE SET due_at = excluded.due_at",
        (tenant_id, job_id),
    )


def take_off(connection: sqlite3.Connection, tenant_id: TenantId, job_id: JobId) -> None:
    """No worker finds the job any more."""
    connection.execute("DELETE FROM job_dispatch WHERE tenant_id = ? AND job_id = ?", (tenant_id, job_id))


def _add(transaction: Transaction, job: Job) -> Stored:
    connection, tenant_id = transaction.connection, transaction.tenant_id
    row = list(job_row(job))
    row[0] = tenant_id
    row[_SEQUENCE] = next_number(connection, "job_sequence")
    connection.execute(_INSERT, row)
    if job.state in _DISPATCHED:
        if job.ordering_key is None or job.state is JobState.RUNNING:
            dispatch(connection, tenant_id, job.id)
        else:
            dispatch_next(connection, tenant_id, job.ordering_key)
    return Stored(job.id)


def _progress(transaction: Transaction, change: ProgressJob) -> Updated:
    changed = transaction.connection.execute(
        "UPDATE jobs SET progress_done = ?, progress_total = ?, result = ?, lease_until_at = ?, updated_at = ?"
        " WHERE tenant_id = ? AND job_id = ? AND fence = ? AND state = 'running'",
        (
            change.progress_done,
            change.progress_total,
            to_json(change.result),
            microseconds(change.lease_until_at),
            transaction.now,
            transaction.tenant_id,
            change.job_id,
            change.fence,
        ),
    )
    if changed.rowcount == 0:
        raise Refused(FenceLost(change.job_id))
    dispatch(transaction.connection, transaction.tenant_id, change.job_id)
    return Updated(change.job_id)


def _finish(transaction: Transaction, change: FinishJob) -> Updated:
    connection, tenant_id = transaction.connection, transaction.tenant_id
    row = connection.execute(
        "UPDATE jobs SET state = 'done', result = ?, error = ?, lease_until_at = NULL, finished_at = ?, updated_at = ?"
        " WHERE tenant_id = ? AND job_id = ? AND fence = ? AND state = 'running' RETURNING ordering_key",
        (
            to_json(change.result),
            change.error,
            microseconds(change.finished_at),
            transaction.now,
            tenant_id,
            change.job_id,
            change.fence,
        ),
    ).fetchone()
    if row is None:
        raise Refused(FenceLost(change.job_id))
    take_off(connection, tenant_id, change.job_id)
    dispatch_next(connection, tenant_id, row[0])
    return Updated(change.job_id)
