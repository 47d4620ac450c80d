"""The worker: claims, heartbeats, retries, parks and gives back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from polymem.domain.model import Job, JobId, JobKind, JobState, SpaceId, TenantId, UserId
from polymem.engine.queueing import RunOutcome, new_job
from polymem.errors import InvalidInput, StorageUnavailable
from polymem.jobs.handlers import handlers_of, periodic_of
from polymem.jobs.worker import EVERY_QUEUE, QUICK_QUEUES, Pace, Worker, retry_delay

NOW = datetime(2025, 3, 1, tzinfo=UTC)
PACE = Pace(slots=(EVERY_QUEUE,), lease=timedelta(seconds=60), poll_seconds=60, period_seconds=60)
BRISK = replace(PACE, lease=timedelta(milliseconds=3), poll_seconds=0.001, period_seconds=0.001, tend_seconds=0.001)
WAIT_SECONDS = 10


def job(kind: JobKind = JobKind.EMBED, **fields: Any) -> Job:
    made = new_job(
        JobId("job"),
        kind,
        tenant_id=TenantId("t"),
        user_id=UserId("u"),
        space_id=SpaceId("s"),
        payload={},
        now=NOW,
    )
    given = {"state": JobState.RUNNING, "attempts": 1, "max_attempts": 3, "fence": 7, **fields}
    return replace(made, **given)


@dataclass
class Queue:
    """Hands out what waits and records what it is told."""

    waiting: list[Job] = field(default_factory=list)
    is_asked: asyncio.Event = field(default_factory=asyncio.Event)
    told: list[tuple[Any, ...]] = field(default_factory=list)
    is_told: asyncio.Event = field(default_factory=asyncio.Event)
    may_extend: Callable[[], bool] = lambda: True
    claim_error: Exception | None = None
    wakes: list[Callable[[], None]] = field(default_factory=list)

    def on_added(self, wake: Callable[[], None]) -> None:
        self.wakes.append(wake)

    async def claim(self, *, queues: frozenset[str], **_: datetime) -> Job | None:
        self.is_asked.set()
        if self.claim_error is not None:
            error, self.claim_error = self.claim_error, None
            raise error
        found = next((one for one in self.waiting if one.queue in queues), None)
        if found is not None:
            self.waiting.remove(found)
        return found

    async def extend(self, *_: str, fence: int, **__: datetime) -> bool:
        self._tell("extend", fence)
        return self.may_extend()

    async def retry_later(self, *_: str, fence: int, error: str, run_after_at: datetime, **__: datetime) -> bool:
        self._tell("retry", fence, error, run_after_at)
        return True

    async def park(self, *_: str, fence: int, error: str, **__: datetime) -> bool:
        self._tell("park", fence, error)
        return True

    async def release(self, *_: str, fence: int, **__: datetime) -> bool:
        self._tell("release", fence)
        return True

    def _tell(self, *what: Any) -> None:
        self.told.append(what)
        self.is_told.set()


class StillClock:
    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0


@dataclass
class Rig:
    """A worker over a scripted queue."""

    queue: Queue = field(default_factory=Queue)
    jobs_queued: asyncio.Event = field(default_factory=asyncio.Event)
    periods: int = 0
    tend: Callable[[], Awaitable[None]] = field(default_factory=lambda: nothing)

    def worker(
        self,
        handler: Callable[[Job], Awaitable[RunOutcome]] | None = None,
        pace: Pace = PACE,
        periodic: Callable[[], Awaitable[None]] | None = None,
    ) -> Worker:
        engine: Any = SimpleNamespace(
            storage=SimpleNamespace(jobs=self.queue, tend=self.tend), clock=StillClock(), jobs_queued=self.jobs_queued
        )
        handlers = dict.fromkeys(JobKind, handler or finish)
        return Worker(engine, handlers=handlers, periodic=periodic or self._period, chance=lambda: 0.5, pace=pace)

    async def _period(self) -> None:
        self.periods += 1


async def nothing() -> None:
    return


async def finish(_: Job) -> RunOutcome:
    return RunOutcome.FINISHED


def failing(error: Exception) -> Callable[[Job], Awaitable[RunOutcome]]:
    async def handler(_: Job) -> RunOutcome:
        raise error

    return handler


@asynccontextmanager
async def running(worker: Worker, *, grace_seconds: float = WAIT_SECONDS) -> AsyncIterator[None]:
    worker.start()
    try:
        yield
    finally:
        await worker.stop(grace_seconds=grace_seconds)


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_every_due_job_is_tried_and_a_finished_one_is_left_alone(rig: Rig) -> None:
    rig.queue.waiting = [job(), job()]
    assert await rig.worker().run_due() == 2
    assert rig.queue.told == []


async def test_a_retryable_failure_comes_back_later_with_its_error(rig: Rig) -> None:
    rig.queue.waiting = [job(attempts=2)]
    await rig.worker(failing(StorageUnavailable("the disk is away"))).run_due()
    assert rig.queue.told == [("retry", 7, "the disk is away", NOW + timedelta(seconds=1.5))]


async def test_a_failure_that_cannot_heal_is_parked_at_once(rig: Rig) -> None:
    rig.queue.waiting = [job()]
    await rig.worker(failing(InvalidInput("file", "no valid messages"))).run_due()
    assert rig.queue.told == [("park", 7, "no valid messages")]


async def test_the_last_attempt_that_fails_is_parked(rig: Rig) -> None:
    rig.queue.waiting = [job(attempts=3)]
    await rig.worker(failing(StorageUnavailable("the disk is away"))).run_due()
    assert rig.queue.told == [("park", 7, "the disk is away")]


async def test_an_unknown_failure_is_retried_and_tells_nothing(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.queue.waiting = [job()]
    await rig.worker(failing(RuntimeError("a secret"))).run_due()
    assert rig.queue.told == [("retry", 7, "internal error", NOW + timedelta(seconds=0.75))]
    assert "a secret" in caplog.text


async def test_a_job_whose_worker_died_too_often_is_parked_unrun(rig: Rig) -> None:
    rig.queue.waiting = [job(attempts=4)]
    await rig.worker(failing(AssertionError("must not run"))).run_due()
    assert rig.queue.told == [("park", 7, "gave up after 3 attempts; the last one never came back")]


async def test_a_lost_fence_is_dropped_silently(rig: Rig) -> None:
    async def lost(_: Job) -> RunOutcome:
        return RunOutcome.FENCE_LOST

    rig.queue.waiting = [job()]
    await rig.worker(lost).run_due()
    assert rig.queue.told == []


async def test_the_lease_is_extended_while_a_job_runs(rig: Rig) -> None:
    async def slow(_: Job) -> RunOutcome:
        await asyncio.wait_for(rig.queue.is_told.wait(), WAIT_SECONDS)
        return RunOutcome.FINISHED

    rig.queue.waiting = [job()]
    await rig.worker(slow, BRISK).run_due()
    assert set(rig.queue.told) == {("extend", 7)}


async def test_a_job_whose_lease_was_lost_is_stopped(rig: Rig) -> None:
    is_stopped = asyncio.Event()

    async def endless(_: Job) -> RunOutcome:
        try:
            await asyncio.Event().wait()
        finally:
            is_stopped.set()
        raise AssertionError

    rig.queue.may_extend = lambda: False
    rig.queue.waiting = [job()]
    await rig.worker(endless, BRISK).run_due()
    assert is_stopped.is_set()
    assert rig.queue.told == [("extend", 7)]


async def test_a_lease_that_cannot_be_extended_now_is_tried_again(rig: Rig) -> None:
    answers = iter((False, True))

    def flaky() -> bool:
        if not next(answers, True):
            raise StorageUnavailable("busy")
        return True

    async def until_second(_: Job) -> RunOutcome:
        while len(rig.queue.told) < 2:
            rig.queue.is_told.clear()
            await asyncio.wait_for(rig.queue.is_told.wait(), WAIT_SECONDS)
        return RunOutcome.FINISHED

    rig.queue.may_extend = flaky
    rig.queue.waiting = [job()]
    await rig.worker(until_second, BRISK).run_due()
    assert rig.queue.told[:2] == [("extend", 7)] * 2


async def test_a_waiting_worker_is_woken_by_a_queued_job(rig: Rig) -> None:
    is_run = asyncio.Event()

    async def note(_: Job) -> RunOutcome:
        is_run.set()
        return RunOutcome.FINISHED

    async with running(rig.worker(note)):
        await asyncio.wait_for(rig.queue.is_asked.wait(), WAIT_SECONDS)
        rig.queue.waiting.append(job())
        rig.jobs_queued.set()
        await asyncio.wait_for(is_run.wait(), WAIT_SECONDS)


async def test_a_waiting_worker_is_woken_by_a_job_of_another_process(rig: Rig) -> None:
    is_run = asyncio.Event()

    async def note(_: Job) -> RunOutcome:
        is_run.set()
        return RunOutcome.FINISHED

    async with running(rig.worker(note)):
        await asyncio.wait_for(rig.queue.is_asked.wait(), WAIT_SECONDS)
        rig.queue.waiting.append(job())
        (wake,) = rig.queue.wakes
        wake()
        await asyncio.wait_for(is_run.wait(), WAIT_SECONDS)


async def test_a_job_that_nobody_announced_is_found_by_polling(rig: Rig) -> None:
    is_run = asyncio.Event()

    async def note(_: Job) -> RunOutcome:
        is_run.set()
        return RunOutcome.FINISHED

    async with running(rig.worker(note, BRISK)):
        await asyncio.wait_for(rig.queue.is_asked.wait(), WAIT_SECONDS)
        rig.queue.waiting.append(job())
        await asyncio.wait_for(is_run.wait(), WAIT_SECONDS)


@pytest.mark.parametrize("error", [StorageUnavailable("busy"), RuntimeError("broken")])
async def test_the_worker_outlives_a_queue_that_fails(
    rig: Rig, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    is_run = asyncio.Event()

    async def note(_: Job) -> RunOutcome:
        is_run.set()
        return RunOutcome.FINISHED

    rig.queue.claim_error = error
    rig.queue.waiting = [job()]
    async with running(rig.worker(note, BRISK)):
        await asyncio.wait_for(is_run.wait(), WAIT_SECONDS)
    assert "the job queue did not answer" in caplog.text


async def test_one_slot_stays_free_of_imports(rig: Rig) -> None:
    is_quick_done = asyncio.Event()

    async def handler(job: Job) -> RunOutcome:
        if job.kind is JobKind.IMPORT:
            await asyncio.wait_for(is_quick_done.wait(), WAIT_SECONDS)
        else:
            is_quick_done.set()
        return RunOutcome.FINISHED

    rig.queue.waiting = [job(JobKind.IMPORT), job(JobKind.IMPORT), job(JobKind.EMBED)]
    async with running(rig.worker(handler, replace(PACE, slots=(EVERY_QUEUE, QUICK_QUEUES)))):
        await asyncio.wait_for(is_quick_done.wait(), WAIT_SECONDS)
    assert rig.queue.told == []


async def test_a_stop_lets_the_job_in_hand_finish(rig: Rig) -> None:
    is_started, may_end, is_done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(_: Job) -> RunOutcome:
        is_started.set()
        await asyncio.wait_for(may_end.wait(), WAIT_SECONDS)
        is_done.set()
        return RunOutcome.FINISHED

    rig.queue.waiting = [job(), job()]
    worker = rig.worker(handler)
    worker.start()
    await asyncio.wait_for(is_started.wait(), WAIT_SECONDS)
    stopping = asyncio.create_task(worker.stop(grace_seconds=WAIT_SECONDS))
    await asyncio.sleep(0)
    may_end.set()
    await stopping
    assert is_done.is_set()
    assert len(rig.queue.waiting) == 1
    assert rig.queue.told == []


async def test_a_job_that_does_not_finish_in_time_is_given_back(rig: Rig) -> None:
    is_started = asyncio.Event()

    async def endless(_: Job) -> RunOutcome:
        is_started.set()
        await asyncio.Event().wait()
        raise AssertionError

    rig.queue.waiting = [job()]
    async with running(rig.worker(endless), grace_seconds=0.01):
        await asyncio.wait_for(is_started.wait(), WAIT_SECONDS)
    assert rig.queue.told == [("release", 7)]


async def test_stopping_what_never_started_is_harmless(rig: Rig) -> None:
    await rig.worker().stop()


async def test_periodic_work_is_repeated_and_outlives_a_failure(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    is_enough = asyncio.Event()
    times = 0

    async def periodic() -> None:
        nonlocal times
        times += 1
        if times == 1:
            raise RuntimeError
        is_enough.set()

    async with running(rig.worker(pace=BRISK, periodic=periodic)):
        await asyncio.wait_for(is_enough.wait(), WAIT_SECONDS)
    assert "periodic work failed and is tried again in 0.001 s" in caplog.text
    assert "RuntimeError" in caplog.text


async def test_the_storage_is_tended_from_the_start_on_whatever_comes_of_it(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    is_enough = asyncio.Event()
    times = 0

    async def tend() -> None:
        nonlocal times
        times += 1
        if times == 1:
            raise StorageUnavailable("away")
        is_enough.set()

    rig.tend = tend
    async with running(rig.worker(pace=BRISK)):
        await asyncio.wait_for(is_enough.wait(), WAIT_SECONDS)
    assert "tending the storage failed and is tried again in 0.001 s: away" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("attempt", "chance", "seconds"),
    [(1, 0.0, 1.0), (2, 0.0, 2.0), (4, 0.5, 6.0), (13, 0.0, 3600.0), (1000, 0.5, 2700.0)],
)
def test_retries_wait_twice_as_long_each_time_up_to_a_limit_less_a_chance(
    attempt: int, chance: float, seconds: float
) -> None:
    assert retry_delay(Pace(), attempt, chance) == timedelta(seconds=seconds)


async def test_every_kind_of_job_has_its_handler_and_what_is_due_is_queued() -> None:
    said: list[str] = []

    def says(what: str) -> Callable[..., Awaitable[RunOutcome]]:
        async def act(*_: Job) -> RunOutcome:
            said.append(what)
            return RunOutcome.FINISHED

        return act

    engine = cast(
        "Any",
        SimpleNamespace(
            embeddings=SimpleNamespace(run=says("embed"), queue_missing=says("missing")),
            transfer=SimpleNamespace(run_import=says("import")),
            upkeep=SimpleNamespace(run=says("sweep"), queue_sweep=says("queue sweep")),
            consolidate=SimpleNamespace(run=says("consolidate")),
            limits=SimpleNamespace(forget_full=says("forget full")),
        ),
    )
    handlers = handlers_of(engine)
    assert set(handlers) == set(JobKind)
    for kind in JobKind:
        await handlers[kind](job(kind))
    assert said == [kind.value for kind in JobKind]
    said.clear()
    periodic = periodic_of(engine)
    await periodic()
    await periodic()
    assert said == ["forget full", "queue sweep", "missing", "forget full", "queue sweep"]


async def test_a_worker_made_of_an_engine_alone_uses_its_handlers(rig: Rig) -> None:
    act = AsyncNothing()
    engine: Any = SimpleNamespace(
        storage=SimpleNamespace(jobs=rig.queue, tend=nothing),
        clock=StillClock(),
        jobs_queued=rig.jobs_queued,
        embeddings=SimpleNamespace(run=act, queue_missing=act),
        transfer=SimpleNamespace(run_import=act),
        upkeep=SimpleNamespace(run=act, queue_sweep=act),
        consolidate=SimpleNamespace(run=act),
    )
    rig.queue.waiting = [job()]
    assert await Worker(engine).run_due() == 1
    assert act.calls == 1


@dataclass
class AsyncNothing:
    """Finishes whatever it is given and counts."""

    calls: int = 0

    async def __call__(self, *_: Job) -> RunOutcome:
        self.calls += 1
        return RunOutcome.FINISHED


def test_long_jobs_leave_one_slot_to_the_quick_ones() -> None:
    assert {"import", "consolidate"} == EVERY_QUEUE - QUICK_QUEUES
    assert Pace().slots == (EVERY_QUEUE, QUICK_QUEUES)
