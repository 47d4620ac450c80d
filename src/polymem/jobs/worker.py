"""The worker: claims jobs, keeps their lease alive, and decides what a failure means.

    claim -> run under a heartbeat -> finished (committed by the handler itself)
                                   -> failed: again later | parked
                                   -> fence lost: somebody else's by now, dropped
                                   -> stopping: given back

A handler commits its effect and the end of its job in one transaction, guarded by the fence; so a worker may
die between any two lines here, or lose its lease, and each effect still happens once.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import assert_never

from polymem.domain.model import Job, JobKind
from polymem.engine.engine import Engine
from polymem.engine.queueing import LEASE, RULES, RunOutcome
from polymem.errors import PolymemError
from polymem.jobs.handlers import Handler, handlers_of, periodic_of

_log = logging.getLogger(__name__)

EVERY_QUEUE = frozenset(rule.queue for rule in RULES.values())
QUICK_QUEUES = EVERY_QUEUE - {RULES[JobKind.IMPORT].queue, RULES[JobKind.CONSOLIDATE].queue}
"""Queues whose jobs are short; one slot serves only these, so that a long import or consolidation delays no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How the worker spends time. `slots` names the queues each of its concurrent runs serves."""

    slots: Sequence[frozenset[str]] = (EVERY_QUEUE, QUICK_QUEUES)
    lease: timedelta = LEASE
    poll_seconds: float = 5.0
    period_seconds: float = 3600.0
    tend_seconds: float = 60.0
    first_retry_seconds: float = 1.0
    longest_retry_seconds: float = 3600.0


EVEN_PACE = Pace()


def retry_delay(pace: Pace, attempt: int, chance: float) -> timedelta:
    """How long to wait after the given failed attempt (from 1): doubling, up to a limit.

    Less up to half of it by `chance` in [0, 1), so that what failed together does not come back together.
    """
    doubled = pace.first_retry_seconds * 2.0 ** min(attempt - 1, 32)
    return timedelta(seconds=min(pace.longest_retry_seconds, doubled) * (1.0 - chance / 2))


class Worker:
    """Runs the engine's jobs from `start` to `stop`."""

    def __init__(
        self,
        engine: Engine,
        *,
        handlers: Mapping[JobKind, Handler] | None = None,
        periodic: Callable[[], Awaitable[None]] | None = None,
        chance: Callable[[], float] = random.random,
        pace: Pace = EVEN_PACE,
    ) -> None:
        self._queue = engine.storage.jobs
        self._tend = engine.storage.tend
        self._clock = engine.clock
        self._wake = engine.jobs_queued
        self._handlers = handlers_of(engine) if handlers is None else handlers
        self._periodic = periodic_of(engine) if periodic is None else periodic
        self._chance = chance
        self._pace = pace
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """The worker runs in this event loop, and hears of jobs that other processes add."""
        self._queue.on_added(self._wake.set)
        self._tasks = [
            asyncio.create_task(self._serve(queues), name=f"worker slot {number}")
            for number, queues in enumerate(self._pace.slots)
        ]
        for name, work, seconds in (
            ("periodic work", self._periodic, self._pace.period_seconds),
            ("tending the storage", self._tend, self._pace.tend_seconds),
        ):
            self._tasks.append(asyncio.create_task(self._repeat(name, work, seconds), name=f"worker {name}"))

    async def stop(self, *, grace_seconds: float = 10.0) -> None:
        """No job is in hand any more: finished within the grace time, or given back for another worker.

        A job that is given back goes on where its last commit ended, and the attempt does not count.
        """
        self._stopping.set()
        self._wake.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def run_due(self, queues: frozenset[str] = EVERY_QUEUE) -> int:
        """Every job that was due has been tried; how many. For callers that wait: one-off commands, tests."""
        tried = 0
        while await self._run_next(queues):
            tried += 1
        return tried

    async def _serve(self, queues: frozenset[str]) -> None:
        """Claims and runs until told to stop."""
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                is_idle = not await self._run_next(queues)
            except Exception as error:  # noqa: BLE001 - the outer edge of background work: it outlives whatever a claim meets
                _tell("the job queue did not answer", error)
                is_idle = True
            if is_idle and not self._stopping.is_set():
                await _wait(self._wake, self._pace.poll_seconds)

    async def _repeat(self, name: str, work: Callable[[], Awaitable[None]], seconds: float) -> None:
        """The work is done at once and again after each time so long, until told to stop."""
        while not self._stopping.is_set():
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - the outer edge of background work
                _tell(f"{name} failed and is tried again in {seconds:g} s", error)
            await _wait(self._stopping, seconds)

    async def _run_next(self, queues: frozenset[str]) -> bool:
        """One due job was tried, or False when none was due."""
        now = self._clock.now()
        job = await self._queue.claim(queues=queues, now=now, lease_until_at=now + self._pace.lease)
        if job is None:
            return False
        if job.attempts > job.max_attempts:
            await self._park(job, f"gave up after {job.max_attempts} attempts; the last one never came back")
            return True
        await self._run(job)
        return True

    async def _run(self, job: Job) -> None:
        """The job has been run once, whatever came of it."""
        try:
            outcome = await self._under_heartbeat(job)
        except asyncio.CancelledError:
            await asyncio.shield(self._give_back(job))
            raise
        except PolymemError as error:
            await self._failed(job, error.message, may_retry=error.code.is_retryable)
            return
        except Exception:  # noqa: BLE001 - the outer edge of background work: the job says "internal error", the log says why
            _log.exception("job %s (%s) failed", job.id, job.kind)
            await self._failed(job, "internal error", may_retry=True)
            return
        match outcome:
            case RunOutcome.FINISHED:
                _log.info("job %s (%s) is done", job.id, job.kind)
            case RunOutcome.FENCE_LOST:
                _log.warning("job %s (%s) was taken over by another worker", job.id, job.kind)
            case _ as never:
                assert_never(never)

    async def _under_heartbeat(self, job: Job) -> RunOutcome:
        """What the handler came to, its lease extended all the while; stopped when the lease is lost."""
        work = asyncio.ensure_future(self._handlers[job.kind](job))
        beat = asyncio.create_task(self._keep_lease(job))
        try:
            await asyncio.wait({work, beat}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return RunOutcome.FENCE_LOST
            return work.result()
        finally:
            work.cancel()
            beat.cancel()
            await asyncio.gather(work, beat, return_exceptions=True)

    async def _keep_lease(self, job: Job) -> None:
        """Returns when the lease is another's."""
        while True:
            await asyncio.sleep(self._pace.lease.total_seconds() / 3)
            until = self._clock.now() + self._pace.lease
            try:
                if not await self._queue.extend(job.tenant_id, job.id, fence=job.fence, lease_until_at=until):
                    return
            except PolymemError:
                _log.warning("the lease of job %s could not be extended now", job.id)

    async def _failed(self, job: Job, error: str, *, may_retry: bool) -> None:
        """The job waits for its next attempt, or is parked."""
        if not may_retry or job.attempts >= job.max_attempts:
            await self._park(job, error)
            return
        now = self._clock.now()
        run_after_at = now + retry_delay(self._pace, job.attempts, self._chance())
        await self._queue.retry_later(
            job.tenant_id, job.id, fence=job.fence, error=error, run_after_at=run_after_at, now=now
        )

    async def _park(self, job: Job, error: str) -> None:
        _log.warning("job %s (%s) is parked: %s", job.id, job.kind, error)
        await self._queue.park(job.tenant_id, job.id, fence=job.fence, error=error, now=self._clock.now())

    async def _give_back(self, job: Job) -> None:
        await self._queue.release(job.tenant_id, job.id, fence=job.fence, now=self._clock.now())


def _tell(what: str, error: Exception) -> None:
    """The failure stands in the log: one of the known kinds in its own words, any other with where it came from."""
    if isinstance(error, PolymemError):
        _log.warning("%s: %s", what, error.message)
    else:
        _log.error("%s", what, exc_info=error)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """The event is set, or the time has passed."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
