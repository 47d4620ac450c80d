"""Which use case runs which kind of job."""

from collections.abc import Awaitable, Callable, Mapping

from polymem.domain.model import Job, JobKind
from polymem.engine.engine import Engine
from polymem.engine.queueing import RunOutcome

Handler = Callable[[Job], Awaitable[RunOutcome]]
"""Does the work of a job and commits its end with it. A `PolymemError` that is not retryable parks the job at
once, any other failure is tried again."""


def handlers_of(engine: Engine) -> Mapping[JobKind, Handler]:
    """A handler for every kind of job."""
    return {
        JobKind.EMBED: engine.embeddings.run,
        JobKind.IMPORT: engine.transfer.run_import,
        JobKind.SWEEP: engine.upkeep.run,
        JobKind.CONSOLIDATE: engine.consolidate.run,
    }


def periodic_of(engine: Engine) -> Callable[[], Awaitable[None]]:
    """What the worker does when it starts and once an hour: queue what is due, and forget whom no limit holds back."""
    has_looked_for_vectors = False

    async def queue_what_is_due() -> None:
        nonlocal has_looked_for_vectors
        await engine.limits.forget_full()
        await engine.upkeep.queue_sweep()
        if not has_looked_for_vectors:
            await engine.embeddings.queue_missing()
            has_looked_for_vectors = True

    return queue_what_is_due
