"""Jobs: queued in a commit, claimed by one worker at a time, ended once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from polymem.domain.model import Job, JobId, JobKind, JobState, SpaceId
from polymem.ports.changes import AddJob, Applied, FenceLost, FinishJob, ProgressJob, Stored, Updated
from polymem.ports.directory import NewAccount
from polymem.ports.queue import JobCounts
from polymem.ports.storage import Storage, TenantStore

if TYPE_CHECKING:
    from contract.conftest import Connect, Made

QUEUES = frozenset({"default"})
LEASE_SECONDS = 30


async def _add(store: TenantStore, make: Made, *jobs: Job) -> tuple[Job, ...]:
    """The jobs as stored."""
    result = await store.commit([AddJob(job=job) for job in jobs], now=make.at())
    assert isinstance(result, Applied)
    assert result.outcomes == tuple(Stored(job.id) for job in jobs)
    stored = [await store.get_job(job.id) for job in jobs]
    return tuple(job for job in stored if job is not None)


async def _claim(storage: Storage, make: Made, second: float, queues: frozenset[str] = QUEUES) -> Job | None:
    return await storage.jobs.claim(queues=queues, now=make.at(second), lease_until_at=make.at(second + LEASE_SECONDS))


def _running(make: Made, job: Job, second: float, *, attempts: int = 1, fence: int = 1) -> Job:
    """The job as its claimer at `second` sees it."""
    return replace(
        job,
        state=JobState.RUNNING,
        attempts=attempts,
        fence=fence,
        lease_until_at=make.at(second + LEASE_SECONDS),
        updated_at=make.at(second),
    )


def _finish(job: Job, make: Made, second: float = 0, **fields: Any) -> FinishJob:
    given = {"result": {"ok": True}, "error": None, "finished_at": make.at(second), **fields}
    return FinishJob(job_id=job.id, fence=job.fence, **given)


async def test_a_job_reads_back_as_it_was_added_with_a_sequence(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    plain = make.job(account)
    full = make.job(
        account,
        kind=JobKind.IMPORT,
        queue="slow",
        ordering_key="k",
        blocks_key_when_failed=True,
        priority=-3,
        max_attempts=1,
        payload={"ü": [1.5, {"x": None}]},
        result={"so": "far"},
        progress_total=9,
        progress_done=3,
        error="earlier",
        run_after_at=make.at(9.000001),
    )
    stored = await _add(store, make, plain, full)
    assert [replace(job, sequence=0) for job in stored] == [plain, full]
    assert 0 < stored[0].sequence < stored[1].sequence
    assert await store.get_job(JobId("none")) is None
    rival = make.account("rival")
    await storage.directory.create_account(rival)
    assert await storage.tenant(rival.tenant.id).get_job(plain.id) is None


async def test_a_claimed_job_is_running_with_a_lease_and_a_new_fence(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    (job,) = await _add(store, make, make.job(account))
    claimed = await _claim(storage, make, 1)
    assert claimed == _running(make, job, 1)
    assert await store.get_job(job.id) == claimed
    assert await _claim(storage, make, 1) is None


async def test_nothing_is_claimed_before_its_time_or_from_another_queue(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    (job,) = await _add(store, make, make.job(account, run_after_at=make.at(5), queue="slow"))
    assert await _claim(storage, make, 4.999999, frozenset({"slow"})) is None
    assert await _claim(storage, make, 5) is None
    assert await _claim(storage, make, 5, frozenset()) is None
    assert await _claim(storage, make, 5, frozenset({"default", "slow"})) == _running(make, job, 5)


async def test_jobs_are_claimed_by_priority_then_in_the_order_they_were_added(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    rival = make.account("rival")
    await storage.directory.create_account(rival)
    theirs = storage.tenant(rival.tenant.id)
    low = make.job(account, priority=-1)
    first, second, third = make.job(account), make.job(rival), make.job(account, queue="slow")
    high, late = make.job(account, priority=5, queue="slow"), make.job(account, priority=9, run_after_at=make.at(99))
    for target, job in ((store, low), (store, first), (theirs, second), (store, third), (store, high), (store, late)):
        await _add(target, make, job)
    queues = frozenset({"default", "slow"})
    claimed = [await _claim(storage, make, 1, queues) for _ in range(6)]
    assert [job and job.id for job in claimed] == [high.id, first.id, second.id, third.id, low.id, None]


# --- ordering keys ---------------------------------------------------------------------------------------


async def test_jobs_of_one_key_run_one_at_a_time_in_order(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    one, two, three = await _add(store, make, *(make.job(account, ordering_key="k") for _ in range(3)))
    (other,) = await _add(store, make, make.job(account, ordering_key="other"))
    (free,) = await _add(store, make, make.job(account))
    claimed = [await _claim(storage, make, 1) for _ in range(4)]
    assert [job and job.id for job in claimed] == [one.id, other.id, free.id, None]
    assert claimed[0] is not None
    await store.commit([_finish(claimed[0], make)], now=make.at(2))
    assert await _claim(storage, make, 2) == _running(make, two, 2)
    assert await _claim(storage, make, 3) is None
    assert await storage.jobs.park(account.tenant.id, two.id, fence=1, error="broken", now=make.at(4))
    assert await _claim(storage, make, 5) == _running(make, three, 5)


async def test_a_higher_priority_does_not_overtake_within_a_key(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    first, urgent = await _add(
        store, make, make.job(account, ordering_key="k"), make.job(account, ordering_key="k", priority=9)
    )
    assert await _claim(storage, make, 1) == _running(make, first, 1)
    await store.commit([_finish(_running(make, first, 1), make)], now=make.at())
    assert await _claim(storage, make, 2) == _running(make, urgent, 2)


async def test_a_job_that_waits_for_its_retry_holds_its_key_back(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    first, second = await _add(store, make, *(make.job(account, ordering_key="k") for _ in range(2)))
    await _claim(storage, make, 1)
    await storage.jobs.retry_later(
        account.tenant.id, first.id, fence=1, error="later", run_after_at=make.at(50), now=make.at(2)
    )
    assert await _claim(storage, make, 49) is None
    claimed = await _claim(storage, make, 50)
    assert claimed is not None
    assert claimed.id == first.id
    await store.commit([_finish(claimed, make)], now=make.at(51))
    assert await _claim(storage, make, 51) == _running(make, second, 51)


async def test_a_failed_job_blocks_its_key_only_where_it_says_so(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    tenant_id = account.tenant.id
    first, second = await _add(
        store,
        make,
        make.job(account, ordering_key="k", blocks_key_when_failed=True),
        make.job(account, ordering_key="k"),
    )
    await _claim(storage, make, 1)
    assert await storage.jobs.park(tenant_id, first.id, fence=1, error="broken", now=make.at(2))
    assert await _claim(storage, make, 3) is None
    (third,) = await _add(store, make, make.job(account, ordering_key="k"))
    assert await _claim(storage, make, 3) is None
    assert await storage.jobs.requeue(tenant_id, first.id, now=make.at(4))
    again = await _claim(storage, make, 4)
    assert again is not None
    assert (again.id, again.attempts, again.fence) == (first.id, 1, 2)
    await store.commit([_finish(again, make)], now=make.at(5))
    claimed = await _claim(storage, make, 5)
    assert claimed == _running(make, second, 5)
    assert await _claim(storage, make, 5) is None
    await store.commit([_finish(_running(make, second, 5), make)], now=make.at(6))
    assert await _claim(storage, make, 6) == _running(make, third, 6)


async def test_a_failed_job_that_is_deleted_blocks_its_key_no_more(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    first, second = await _add(
        store,
        make,
        make.job(account, ordering_key="k", blocks_key_when_failed=True),
        make.job(account, ordering_key="k"),
    )
    await _claim(storage, make, 1)
    await storage.jobs.park(account.tenant.id, first.id, fence=1, error="broken", now=make.at(2))
    assert await storage.jobs.delete_finished(before=make.at(3)) == 1
    assert await _claim(storage, make, 4) == _running(make, second, 4)


async def test_a_requeued_job_holds_back_the_later_ones_of_its_key_again(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    tenant_id = account.tenant.id
    first, second, third = await _add(store, make, *(make.job(account, ordering_key="k") for _ in range(3)))
    await _claim(storage, make, 1)
    await storage.jobs.park(tenant_id, first.id, fence=1, error="broken", now=make.at(2))
    running = await _claim(storage, make, 3)
    assert running == _running(make, second, 3)
    assert await storage.jobs.requeue(tenant_id, first.id, now=make.at(4))
    # The second job runs on, but does not get another lease before the first is done; the third waits for both.
    claimed = await _claim(storage, make, 40)
    assert claimed is not None
    assert claimed.id == first.id
    assert await _claim(storage, make, 41) is None
    await store.commit([_finish(claimed, make)], now=make.at(42))
    claimed = await _claim(storage, make, 43)
    assert claimed is not None
    assert (claimed.id, claimed.fence) == (second.id, 2)
    await store.commit([_finish(claimed, make)], now=make.at(44))
    assert await _claim(storage, make, 45) == _running(make, third, 45)


async def test_a_requeued_job_holds_back_one_that_was_ready_and_not_yet_claimed(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    first, second = await _add(store, make, *(make.job(account, ordering_key="k") for _ in range(2)))
    await _claim(storage, make, 1)
    await storage.jobs.park(account.tenant.id, first.id, fence=1, error="broken", now=make.at(2))
    await storage.jobs.requeue(account.tenant.id, first.id, now=make.at(3))
    claimed = await _claim(storage, make, 4)
    assert claimed is not None
    assert claimed.id == first.id
    assert await _claim(storage, make, 4) is None
    await store.commit([_finish(claimed, make)], now=make.at(5))
    assert await _claim(storage, make, 6) == _running(make, second, 6)
    assert [finding for finding in await storage.check() if not finding.is_ok] == []


async def test_equal_keys_of_two_tenants_do_not_wait_for_each_other(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    rival = make.account("rival")
    await storage.directory.create_account(rival)
    mine, theirs = make.job(account, ordering_key="k"), make.job(rival, ordering_key="k")
    await _add(store, make, mine)
    await _add(storage.tenant(rival.tenant.id), make, theirs)
    claimed = [await _claim(storage, make, 1) for _ in range(3)]
    assert [job and job.id for job in claimed] == [mine.id, theirs.id, None]


# --- leases and fences -----------------------------------------------------------------------------------


async def test_a_job_whose_lease_ended_is_claimed_again_and_its_late_holder_can_do_nothing(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    (job,) = await _add(store, make, make.job(account))
    late = await _claim(storage, make, 0)
    assert late is not None
    assert await _claim(storage, make, LEASE_SECONDS - 0.000001) is None
    taken = await _claim(storage, make, LEASE_SECONDS)
    assert taken == _running(make, job, LEASE_SECONDS, attempts=2, fence=2)
    memory = make.memory(account)
    progress = ProgressJob(
        job_id=job.id, fence=1, progress_done=1, progress_total=2, result={}, lease_until_at=make.at(99)
    )
    for change in (_finish(late, make), progress):
        assert await store.commit([make.put(memory), change], now=make.at()) == FenceLost(job.id)
    jobs, tenant_id, now = storage.jobs, account.tenant.id, make.at(31)
    assert not await jobs.extend(tenant_id, job.id, fence=1, lease_until_at=make.at(99))
    assert not await jobs.retry_later(tenant_id, job.id, fence=1, error="x", run_after_at=now, now=now)
    assert not await jobs.park(tenant_id, job.id, fence=1, error="x", now=now)
    assert not await jobs.release(tenant_id, job.id, fence=1, now=now)
    assert await store.count_memories() == 0
    assert await store.get_job(job.id) == taken


async def test_a_holder_whose_lease_ended_may_still_finish_what_no_one_else_took(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    await _add(store, make, make.job(account))
    claimed = await _claim(storage, make, 0)
    assert claimed is not None
    result = await store.commit([_finish(claimed, make, 99)], now=make.at(99))
    assert isinstance(result, Applied)


async def test_an_extended_lease_keeps_others_away_longer(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    (job,) = await _add(store, make, make.job(account))
    await _claim(storage, make, 0)
    assert await storage.jobs.extend(account.tenant.id, job.id, fence=1, lease_until_at=make.at(100))
    assert await _claim(storage, make, 99) is None
    stored = await store.get_job(job.id)
    assert stored is not None
    assert stored.lease_until_at == make.at(100)
    claimed = await _claim(storage, make, 100)
    assert claimed is not None
    assert claimed.fence == 2


async def test_progress_is_shown_and_extends_the_lease(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    (job,) = await _add(store, make, make.job(account))
    await _claim(storage, make, 0)
    progress = ProgressJob(
        job_id=job.id, fence=1, progress_done=3, progress_total=7, result={"n": 3}, lease_until_at=make.at(60)
    )
    result = await store.commit([make.put(make.memory(account)), progress], now=make.at(5))
    assert isinstance(result, Applied)
    assert result.outcomes[1] == Updated(job.id)
    expected = replace(
        _running(make, job, 0),
        progress_done=3,
        progress_total=7,
        result={"n": 3},
        lease_until_at=make.at(60),
        updated_at=make.at(5),
    )
    assert await store.get_job(job.id) == expected
    assert await _claim(storage, make, 59) is None


async def test_a_finished_job_is_done_with_its_result_and_never_claimed_again(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    (job,) = await _add(store, make, make.job(account))
    claimed = await _claim(storage, make, 0)
    assert claimed is not None
    finish = _finish(claimed, make, 3, error="2 of 9 items failed")
    assert await store.commit([finish], now=make.at(4)) == Applied((Updated(job.id),), 2)
    expected = replace(
        claimed,
        state=JobState.DONE,
        result={"ok": True},
        error="2 of 9 items failed",
        lease_until_at=None,
        finished_at=make.at(3),
        updated_at=make.at(4),
    )
    assert await store.get_job(job.id) == expected
    assert await _claim(storage, make, 999) is None
    assert await store.commit([finish], now=make.at(5)) == FenceLost(job.id)
    jobs, tenant_id = storage.jobs, account.tenant.id
    assert not await jobs.requeue(tenant_id, job.id, now=make.at(5))
    assert not await jobs.extend(tenant_id, job.id, fence=1, lease_until_at=make.at(9))


async def test_another_tenant_cannot_finish_a_job(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    rival = make.account("rival")
    await storage.directory.create_account(rival)
    await _add(store, make, make.job(account))
    claimed = await _claim(storage, make, 0)
    assert claimed is not None
    theirs = await storage.tenant(rival.tenant.id).commit([_finish(claimed, make)], now=make.at())
    assert theirs == FenceLost(claimed.id)
    assert not await storage.jobs.park(rival.tenant.id, claimed.id, fence=1, error="", now=make.at())
    assert await store.get_job(claimed.id) == claimed


# --- how an attempt ends ---------------------------------------------------------------------------------


async def test_a_job_to_retry_is_queued_with_its_error_until_its_time(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    (job,) = await _add(store, make, make.job(account))
    claimed = await _claim(storage, make, 0)
    assert claimed is not None
    assert await storage.jobs.retry_later(
        account.tenant.id, job.id, fence=1, error="timeout", run_after_at=make.at(20), now=make.at(2)
    )
    expected = replace(
        claimed,
        state=JobState.QUEUED,
        error="timeout",
        run_after_at=make.at(20),
        lease_until_at=None,
        updated_at=make.at(2),
    )
    assert await store.get_job(job.id) == expected
    assert await _claim(storage, make, 19) is None
    assert await _claim(storage, make, 20) == _running(make, expected, 20, attempts=2, fence=2)


async def test_a_released_job_is_due_at_once_and_its_attempt_does_not_count(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    (job,) = await _add(store, make, make.job(account))
    await _claim(storage, make, 0)
    assert await storage.jobs.release(account.tenant.id, job.id, fence=1, now=make.at(2))
    stored = await store.get_job(job.id)
    assert stored is not None
    assert (stored.state, stored.attempts, stored.lease_until_at) == (JobState.QUEUED, 0, None)
    claimed = await _claim(storage, make, 2)
    assert claimed is not None
    assert (claimed.attempts, claimed.fence) == (1, 2)


async def test_a_parked_job_keeps_input_and_error_and_can_be_queued_again(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    tenant_id = account.tenant.id
    (job,) = await _add(store, make, make.job(account))
    claimed = await _claim(storage, make, 0)
    assert claimed is not None
    assert not await storage.jobs.requeue(tenant_id, job.id, now=make.at(1))
    assert await storage.jobs.park(tenant_id, job.id, fence=1, error="gave up", now=make.at(2))
    expected = replace(
        claimed,
        state=JobState.FAILED,
        error="gave up",
        lease_until_at=None,
        finished_at=make.at(2),
        updated_at=make.at(2),
    )
    assert await store.get_job(job.id) == expected
    assert await _claim(storage, make, 999) is None
    assert await storage.jobs.requeue(tenant_id, job.id, now=make.at(3))
    assert not await storage.jobs.requeue(tenant_id, job.id, now=make.at(3))
    again = replace(
        expected,
        state=JobState.QUEUED,
        attempts=0,
        error=None,
        finished_at=None,
        run_after_at=make.at(3),
        updated_at=make.at(3),
    )
    assert await store.get_job(job.id) == again
    assert await _claim(storage, make, 3) == _running(make, again, 3, attempts=1, fence=2)


async def test_what_is_not_there_cannot_be_moved(make: Made, account: NewAccount, storage: Storage) -> None:
    jobs, tenant_id, job_id, now = storage.jobs, account.tenant.id, JobId("none"), make.at()
    assert not await jobs.extend(tenant_id, job_id, fence=0, lease_until_at=now)
    assert not await jobs.retry_later(tenant_id, job_id, fence=0, error="", run_after_at=now, now=now)
    assert not await jobs.park(tenant_id, job_id, fence=0, error="", now=now)
    assert not await jobs.release(tenant_id, job_id, fence=0, now=now)
    assert not await jobs.requeue(tenant_id, job_id, now=now)


# --- many workers ----------------------------------------------------------------------------------------


async def test_many_workers_never_get_the_same_job(
    make: Made, account: NewAccount, store: TenantStore, connect: Connect
) -> None:
    await _add(store, make, *(make.job(account) for _ in range(30)))
    handles = [await connect() for _ in range(3)]
    claimed = await asyncio.gather(*(_claim(handles[number % 3], make, 1) for number in range(40)))
    ids = [job.id for job in claimed if job is not None]
    assert len(ids) == len(set(ids)) == 30


async def test_many_workers_take_one_job_of_a_key_at_a_time(
    make: Made, account: NewAccount, store: TenantStore, connect: Connect
) -> None:
    keys = ("a", "b", "c")
    jobs = await _add(store, make, *(make.job(account, ordering_key=keys[number % 3]) for number in range(15)))
    handles = [await connect() for _ in range(3)]
    done: list[Job] = []
    for second in range(5):
        claimed = await asyncio.gather(*(_claim(handles[number % 3], make, second) for number in range(9)))
        got = [job for job in claimed if job is not None]
        assert sorted(job.ordering_key or "" for job in got) == ["a", "b", "c"]
        await asyncio.gather(*(store.commit([_finish(job, make)], now=make.at(second)) for job in got))
        done += got
    for key in keys:
        order = [job.sequence for job in done if job.ordering_key == key]
        assert order == [job.sequence for job in jobs if job.ordering_key == key]


# --- lists and sweeping ----------------------------------------------------------------------------------


async def test_jobs_are_listed_newest_first_by_kind_and_space(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    elsewhere = SpaceId("elsewhere")
    one, two, three, four = await _add(
        store,
        make,
        make.job(account, created_at=make.at(5)),
        make.job(account, created_at=make.at(5)),
        make.job(account, created_at=make.at(9), kind=JobKind.IMPORT),
        make.job(account, created_at=make.at(1), space_id=elsewhere),
    )
    here, both = frozenset({account.space.id}), frozenset({account.space.id, elsewhere})
    embed, every = frozenset({JobKind.EMBED}), frozenset(JobKind)
    assert await store.list_jobs(every, both, limit=9) == (three, two, one, four)
    assert await store.list_jobs(embed, here, limit=9) == (two, one)
    assert await store.list_jobs(every, both, limit=2) == (three, two)
    assert await store.list_jobs(frozenset(), both, limit=9) == ()
    assert await store.list_jobs(every, frozenset(), limit=9) == ()


async def test_counts_tell_where_the_jobs_of_all_tenants_stand(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    assert await storage.jobs.counts() == JobCounts(by_kind_and_state={})
    rival = make.account("rival")
    await storage.directory.create_account(rival)
    await _add(store, make, *(make.job(account) for _ in range(3)), make.job(account, kind=JobKind.SWEEP))
    await _add(storage.tenant(rival.tenant.id), make, make.job(rival))
    claimed = await _claim(storage, make, 1)
    assert claimed is not None
    await storage.jobs.park(account.tenant.id, claimed.id, fence=1, error="", now=make.at(1))
    await _claim(storage, make, 1)
    assert await storage.jobs.counts() == JobCounts(
        by_kind_and_state={
            (JobKind.EMBED, JobState.FAILED): 1,
            (JobKind.EMBED, JobState.RUNNING): 1,
            (JobKind.EMBED, JobState.QUEUED): 2,
            (JobKind.SWEEP, JobState.QUEUED): 1,
        }
    )


@pytest.mark.parametrize("second", [2, 2.000001])
async def test_jobs_that_finished_before_the_time_are_swept_and_no_others(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage, second: float
) -> None:
    jobs = await _add(store, make, *(make.job(account) for _ in range(4)))
    claimed = [await _claim(storage, make, 0) for _ in range(3)]
    done, parked, running = (job for job in claimed if job is not None)
    await store.commit([_finish(done, make, 1)], now=make.at(1))
    await storage.jobs.park(account.tenant.id, parked.id, fence=1, error="", now=make.at(2))
    swept = {done.id} if second == 2 else {done.id, parked.id}
    assert await storage.jobs.delete_finished(before=make.at(second)) == len(swept)
    left = await store.list_jobs(frozenset(JobKind), frozenset({account.space.id}), limit=9)
    assert {job.id for job in left} == {job.id for job in jobs} - swept
    assert running.id in {job.id for job in left}


async def test_sweeping_takes_any_number_of_jobs(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    finished = [make.job(account, state=JobState.CANCELLED, finished_at=make.at(1)) for _ in range(2100)]
    await _add(store, make, *finished[:1])
    await store.commit([AddJob(job=job) for job in finished[1:]], now=make.at())
    assert await storage.jobs.delete_finished(before=make.at(2)) == 2100
    assert await storage.jobs.counts() == JobCounts(by_kind_and_state={})
