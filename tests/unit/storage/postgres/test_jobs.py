"""Claims beside commits: nobody waits for a worker, and no two lock each other out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from polymem.domain.model import Job, JobId, JobState
from polymem.ports.changes import AddJob, Applied, FinishJob
from polymem.ports.directory import NewAccount
from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.storage import PostgresStorage
from samples import AT, account_of, job_of

if TYPE_CHECKING:
    from unit.storage.postgres.conftest import OpenStorage
    from wire import Wire
BOUND_SECONDS = 30.0
LEASE = timedelta(minutes=1)
QUEUES = frozenset({"default"})
WORKERS = 6
JOBS = 60


@pytest.fixture
async def beside(storage_url: str) -> AsyncIterator[Database]:
    """Another process's connections to the same database."""
    database = await Database.open(storage_url, connections=2, patience_seconds=5.0)
    yield database
    await database.close()


async def claim(storage: PostgresStorage) -> Job | None:
    return await storage.jobs.claim(queues=QUEUES, now=AT, lease_until_at=AT + LEASE)


async def finish(storage: PostgresStorage, job: Job) -> None:
    change = FinishJob(job_id=job.id, fence=job.fence, result={}, error=None, finished_at=AT)
    assert isinstance(await storage.tenant(job.tenant_id).commit([change], now=AT), Applied)


@pytest.mark.parametrize("table", ["jobs", "tenants"])
async def test_a_claim_passes_a_row_that_another_holds_without_waiting(
    storage: PostgresStorage, account: NewAccount, beside: Database, table: str
) -> None:
    store = storage.tenant(account.tenant.id)
    await store.commit([AddJob(job=job_of(account, "a")), AddJob(job=job_of(account, "b"))], now=AT)

    async def unit(connection: Connection) -> Job | None:
        condition = "AND job_id = 'a'" if table == "jobs" else ""
        held = f"SELECT 1 FROM {table} WHERE tenant_id = %s {condition} FOR UPDATE"
        await connection.execute(held, (account.tenant.id,))
        async with asyncio.timeout(BOUND_SECONDS / 10):
            return await claim(storage)

    claimed = await beside.write(unit)
    assert claimed is not None
    assert claimed.id == ("b" if table == "jobs" else "a")


async def test_workers_that_claim_and_finish_at_once_run_every_job_once_and_in_order(
    storage: PostgresStorage, account: NewAccount, open_storage: OpenStorage, storage_url: str, beside: Database
) -> None:
    keys = [None, "x", "y"]
    jobs = [job_of(account, f"{number:03}", keys[number % 3]) for number in range(JOBS)]
    await storage.tenant(account.tenant.id).commit([AddJob(job=job) for job in jobs], now=AT)
    storages = [storage, await open_storage(storage_url)]
    done: list[Job] = []

    async def work(worker: int) -> None:
        while len(done) < JOBS:
            job = await claim(storages[worker % 2])
            if job is not None:
                await finish(storages[worker % 2], job)
                done.append(job)

    async with asyncio.timeout(BOUND_SECONDS):
        await asyncio.gather(*(work(worker) for worker in range(WORKERS)))
    assert sorted(job.id for job in done) == [job.id for job in jobs]
    assert [job.fence for job in done] == [1] * JOBS
    for key in ("x", "y"):
        mine = [job.sequence for job in done if job.ordering_key == key]
        assert mine == sorted(mine)
    assert await beside.read(_deadlocks) == 0
    assert [finding for finding in await storage.check() if not finding.is_ok] == []


async def test_a_job_that_is_given_back_waits_for_an_earlier_one_that_was_queued_again(
    storage: PostgresStorage, account: NewAccount
) -> None:
    tenant_id = account.tenant.id
    first, second = (job_of(account, name, "key") for name in ("first", "second"))
    await storage.tenant(tenant_id).commit([AddJob(job=first), AddJob(job=second)], now=AT)
    await claim(storage)
    assert await storage.jobs.park(tenant_id, first.id, fence=1, error="broken", now=AT)
    assert await claim(storage) is not None
    assert await storage.jobs.requeue(tenant_id, first.id, now=AT)
    assert await storage.jobs.release(tenant_id, second.id, fence=1, now=AT)
    assert [finding for finding in await storage.check() if not finding.is_ok] == []
    again = await claim(storage)
    assert again is not None
    assert again.id == first.id
    assert await claim(storage) is None
    await finish(storage, again)
    last = await claim(storage)
    assert last is not None
    assert last.id == second.id


async def test_an_idle_worker_takes_no_transaction(storage: PostgresStorage, beside: Database) -> None:
    before = await beside.read(_next_transaction)
    for _ in range(3):
        assert await claim(storage) is None
    assert await beside.read(_next_transaction) == before


async def test_finished_jobs_of_several_tenants_are_swept(storage: PostgresStorage, account: NewAccount) -> None:
    other = account_of("two")
    await storage.directory.create_account(other)
    for owner in (account, other):
        await storage.tenant(owner.tenant.id).commit([AddJob(job=job_of(owner, "j"))], now=AT)
        job = await claim(storage)
        assert job is not None
        await finish(storage, job)
    assert await storage.jobs.delete_finished(before=AT) == 0
    assert await storage.jobs.delete_finished(before=AT + LEASE) == 2
    assert await storage.tenant(other.tenant.id).get_job(JobId("j")) is None


async def test_a_job_whose_answer_is_lost_is_given_back_once(
    storage: PostgresStorage, account: NewAccount, wired: PostgresStorage, wire: Wire
) -> None:
    tenant_id = account.tenant.id
    store = storage.tenant(tenant_id)
    await store.commit([AddJob(job=job_of(account, "j"))], now=AT)
    job = await claim(storage)
    assert job is not None
    wire.cut_after(b"COMMIT")
    assert await wired.jobs.park(tenant_id, job.id, fence=1, error="broken", now=AT)
    wire.cut_after(b"COMMIT")
    assert await wired.jobs.requeue(tenant_id, job.id, now=AT)
    wire.cut_after(b"COMMIT")
    extended = await wired.jobs.extend(tenant_id, job.id, fence=1, lease_until_at=AT + LEASE)
    stored = await store.get_job(job.id)
    assert stored is not None
    assert (extended, stored.state, wire.cuts) == (False, JobState.QUEUED, 3)


async def _deadlocks(connection: Connection) -> int:
    cursor = await connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return int((await cursor.fetchall())[0][0])


async def _next_transaction(connection: Connection) -> str:
    cursor = await connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
    return str((await cursor.fetchall())[0][0])
