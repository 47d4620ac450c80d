"""The changes that touch jobs, and the dispatch rows that tell workers where work is.

Locks are taken in one order everywhere: the tenant's row, then rows of jobs, then the dispatch row of a job whose row
is held. A claim takes no tenant's row, skips a job whose row another holds, and so waits for nobody.
"""

from collections.abc import Sequence
from typing import Final, assert_never

from polymem.domain.model import Job, JobId, JobState, TenantId
from polymem.ports.changes import FenceLost, FinishJob, Outcome, ProgressJob, Stored, Updated
from polymem.storage.outcomes import Refused
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.transaction import Row, Transaction, fetch_all, fetch_one, insert_rows
from polymem.storage.rows import JOB_COLUMNS, insert_into, job_row, microseconds, optional_microseconds, to_json

# Which jobs hold back the later ones of their ordering key. The first half is spelled as in the index jobs_by_key.
UNFINISHED: Final = (
    "{job}.state IN ('queued', 'running', 'failed') AND ({job}.state <> 'failed' OR {job}.blocks_key_when_failed)"
)
# What a dispatch row says of a job, in the order in which `dispatch` takes it.
DISPATCHED: Final = "queue, coalesce(lease_until_at, run_after_at), priority, sequence"

_INSERT: Final = insert_into("jobs", JOB_COLUMNS, mark="%s")
_SEQUENCE: Final = JOB_COLUMNS.index("sequence")
_DISPATCH: Final = (
    insert_into("job_dispatch", ("tenant_id", "job_id", "queue", "due_at", "priority", "sequence"), mark="%s")
    + " ON CONFLICT (tenant_id, job_id) DO UPDATE SET due_at = excluded.due_at"
)
_SEQUENCES: Final = "SELECT nextval('job_sequence') FROM generate_series(1, %s)"
_BUSY_KEYS: Final = (
    "SELECT DISTINCT j.ordering_key FROM jobs AS j WHERE j.tenant_id = %s AND j.ordering_key = ANY(%s::text[])"
    f" AND {UNFINISHED.format(job='j')}"
)
_NEXT_OF_KEY: Final = (
    f"SELECT j.job_id, j.state, {DISPATCHED} FROM jobs AS j WHERE j.tenant_id = %s AND j.ordering_key = %s"
    f" AND {UNFINISHED.format(job='j')} ORDER BY j.sequence LIMIT 1 FOR UPDATE"
)
_PROGRESS: Final = (
    "UPDATE jobs SET progress_done = %s, progress_total = %s, result = %s, lease_until_at = %s, updated_at = %s"
    f" WHERE tenant_id = %s AND job_id = %s AND fence = %s AND state = 'running' RETURNING {DISPATCHED}"
)
_FINISH: Final = (
    "UPDATE jobs SET state = 'done', result = %s, error = %s, lease_until_at = NULL, finished_at = %s,"
    " updated_at = %s WHERE tenant_id = %s AND job_id = %s AND fence = %s AND state = 'running' RETURNING ordering_key"
)


async def add_jobs(transaction: Transaction, jobs: Sequence[Job]) -> list[Outcome]:
    """The jobs are queued in their order; those that no earlier job of their key holds back can be found by workers."""
    connection, tenant_id = transaction.connection, transaction.tenant_id
    keys = sorted({job.ordering_key for job in jobs if job.ordering_key is not None})
    drawn = await connection.execute(_SEQUENCES, (len(jobs),))
    busy = {key for (key,) in await fetch_all(connection, _BUSY_KEYS, (tenant_id, keys))} if keys else set()
    sequences = sorted(number for (number,) in await drawn.fetchall())
    rows: list[Row] = []
    shown: list[Row] = []
    for job, sequence in zip(jobs, sequences, strict=True):
        row = job_row(job)
        rows.append((tenant_id, *row[1:_SEQUENCE], sequence, *row[_SEQUENCE + 1 :]))
        if job.state is JobState.RUNNING or (job.state is JobState.QUEUED and job.ordering_key not in busy):
            due_at = optional_microseconds(job.lease_until_at) or microseconds(job.run_after_at)
            shown.append((tenant_id, job.id, job.queue, due_at, job.priority, sequence))
        if job.ordering_key is not None and _holds_back(job):
            busy.add(job.ordering_key)
    await insert_rows(connection, _INSERT, rows)
    await insert_rows(connection, _DISPATCH, shown)
    return [Stored(job.id) for job in jobs]


async def progress_job(transaction: Transaction, change: ProgressJob) -> Outcome:
    """The job came so far and its lease ends later. Raises `Refused` when its fence is lost."""
    row = await fetch_one(
        transaction.connection,
        _PROGRESS,
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
    if row is None:
        raise Refused(FenceLost(change.job_id))
    await dispatch(transaction.connection, transaction.tenant_id, change.job_id, row)
    return Updated(change.job_id)


async def finish_job(transaction: Transaction, change: FinishJob) -> Outcome:
    """The job is done, and the next of its key can be found. Raises `Refused` when its fence is lost."""
    connection, tenant_id = transaction.connection, transaction.tenant_id
    ended = (to_json(change.result), change.error, microseconds(change.finished_at), transaction.now)
    row = await fetch_one(connection, _FINISH, (*ended, tenant_id, change.job_id, change.fence))
    if row is None:
        raise Refused(FenceLost(change.job_id))
    await take_off(connection, tenant_id, change.job_id)
    await dispatch_next(connection, tenant_id, row[0])
    return Updated(change.job_id)


async def dispatch_next(connection: Connection, tenant_id: TenantId, ordering_key: str | None) -> None:
    """The first unfinished job of an ordering key, when it is queued, can be found by workers.

    The tenant's row is held, so that nothing but a claim can move the jobs of the key meanwhile.
    """
    if ordering_key is None:
        return
    row = await fetch_one(connection, _NEXT_OF_KEY, (tenant_id, ordering_key))
    if row is not None and row[1] == JobState.QUEUED.value:
        await dispatch(connection, tenant_id, JobId(row[0]), row[2:])


async def dispatch(connection: Connection, tenant_id: TenantId, job_id: JobId, dispatched: Row) -> None:
    """Workers can find the job; `dispatched` is a row of `DISPATCHED`."""
    await connection.execute(_DISPATCH, (tenant_id, job_id, *dispatched))


async def take_off(connection: Connection, tenant_id: TenantId, job_id: JobId) -> None:
    """No worker finds the job any more."""
    await connection.execute("DELETE FROM job_dispatch WHERE tenant_id = %s AND job_id = %s", (tenant_id, job_id))


def _holds_back(job: Job) -> bool:
    """True when later jobs of its key wait for it: `UNFINISHED` of a job that is being added."""
    match job.state:
        case JobState.QUEUED | JobState.RUNNING:
            return True
        case JobState.FAILED:
            return job.blocks_key_when_failed
        case JobState.DONE | JobState.CANCELLED:
            return False
        case _ as never:
            assert_never(never)
