"""Embed jobs, the sweep, and health."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from polymem.domain.model import BlobId, JobKind, JobState, MemoryId, TenantId
from polymem.engine.embeddings import MEMORIES_PER_COMMIT
from polymem.engine.engine import WRITE_CHECK_SECONDS
from polymem.engine.queueing import LEASE, RunOutcome, lease_from
from polymem.engine.requests import Health, ImportFormat, ImportRequest, MemoryPatch, NewMemory, NewTurn, NewTurns
from polymem.errors import InferenceUnavailable, StorageUnavailable
from polymem.ports.changes import Change


async def write(world: Any, content: str = "text") -> MemoryId:
    memory_id: MemoryId = (await world.engine.write.memory(world.call(), NewMemory(content=content))).memory.id
    return memory_id


async def lacking(world: Any) -> int:
    return len(await world.store.list_without_vectors(world.embedder.identity, limit=1000))


async def job_of(world: Any, job: Any) -> Any:
    return await world.store.get_job(job.id)


async def test_an_embed_job_makes_the_vectors_that_a_write_could_not(world: Any) -> None:
    world.embedder.problem = "no model file"
    turns = tuple(NewTurn(role="user", content=f"turn {number}") for number in range(2 * MEMORIES_PER_COMMIT + 1))
    await world.engine.ingest.messages(world.call(), NewTurns(turns=turns))
    assert await lacking(world) == len(turns)
    job = await world.claim("embed")
    with pytest.raises(InferenceUnavailable):
        await world.engine.embeddings.run(job)
    world.embedder.problem = None
    assert await world.engine.embeddings.run(job) is RunOutcome.FINISHED
    assert await lacking(world) == 0
    done = await job_of(world, job)
    assert (done.state, done.progress_done, done.progress_total) == (JobState.DONE, len(turns), len(turns))


async def test_a_long_text_is_whole_in_the_index_after_its_job(world: Any) -> None:
    await write(world, "x" * 2000)
    assert await lacking(world) == 1
    assert await world.engine.embeddings.run(await world.claim("embed")) is RunOutcome.FINISHED
    assert await lacking(world) == 0


async def test_an_embed_job_passes_over_what_is_gone_or_newer(world: Any) -> None:
    world.embedder.problem = "no model file"
    gone, changed = await write(world, "gone"), await write(world, "changed")
    await world.engine.write.delete(world.call(), gone)
    world.embedder.problem = None

    async def change() -> None:
        world.embedder.before = None
        await world.engine.write.update(world.call(), changed, MemoryPatch(content="newer"))

    for _ in range(2):
        job = await world.claim("embed")
        if job.payload["memory_ids"] == [changed]:
            world.embedder.before = change
        assert await world.engine.embeddings.run(job) is RunOutcome.FINISHED
    assert await lacking(world) == 0


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_an_embed_job_that_was_taken_over_stops(world: Any, after: int) -> None:
    world.embedder.problem = "no model file"
    turns = tuple(NewTurn(role="user", content=f"turn {number}") for number in range(2 * MEMORIES_PER_COMMIT))
    await world.engine.ingest.messages(world.call(), NewTurns(turns=turns))
    world.embedder.problem = None
    job = await world.claim("embed")
    commits = 0

    async def take_over(_: Sequence[Change]) -> None:
        nonlocal commits
        if commits == after:
            world.clock.pass_time(minutes=5)
            assert (await world.claim("embed")).id == job.id
        commits += 1

    world.storage.before_commit = take_over
    assert await world.engine.embeddings.run(job) is RunOutcome.FENCE_LOST
    assert await lacking(world) == len(turns) - after * MEMORIES_PER_COMMIT


async def test_a_new_model_embeds_everything_anew_once(world: Any) -> None:
    count = MEMORIES_PER_COMMIT + 1
    for number in range(count):
        await write(world, f"memory {number}")
    await world.stranger()
    assert await world.engine.embeddings.queue_missing() == 0
    world.embedder.identity = replace(world.embedder.identity, revision="2")
    assert await world.engine.embeddings.queue_missing() == 1
    assert await world.engine.embeddings.queue_missing() == 0
    job = await world.claim("embed")
    assert await world.engine.embeddings.run(job) is RunOutcome.FINISHED
    assert await lacking(world) == 0
    done = await job_of(world, job)
    assert (done.progress_done, done.progress_total) == (count, count)


async def test_without_a_model_nothing_is_queued(world: Any) -> None:
    world.embedder.problem = "no model file"
    await write(world)
    assert await world.engine.embeddings.queue_missing() == 0


async def test_embedding_everything_leaves_what_keeps_changing_to_its_own_job(world: Any) -> None:
    memory_id = await write(world)
    world.embedder.identity = replace(world.embedder.identity, revision="2")
    await world.engine.embeddings.queue_missing()
    job = await world.claim("embed")

    async def change() -> None:
        world.embedder.before = None
        world.embedder.problem = "away"
        await world.engine.write.update(world.call(), memory_id, MemoryPatch(content="newer"))
        world.embedder.problem = None

    world.embedder.before = change
    assert await world.engine.embeddings.run(job) is RunOutcome.FINISHED
    assert await lacking(world) == 1
    assert await world.engine.embeddings.run(await world.claim("embed")) is RunOutcome.FINISHED
    assert await lacking(world) == 0


async def test_embedding_everything_stops_when_taken_over(world: Any) -> None:
    await write(world)
    world.embedder.identity = replace(world.embedder.identity, revision="2")
    await world.engine.embeddings.queue_missing()
    job = await world.claim("embed")
    world.clock.pass_time(minutes=5)
    assert (await world.claim("embed")).fence == job.fence + 1
    assert await world.engine.embeddings.run(job) is RunOutcome.FENCE_LOST


async def chunks() -> Any:
    yield b"[]"


async def test_the_sweep_is_queued_once_a_day(world: Any) -> None:
    upkeep = world.engine.upkeep
    assert await upkeep.queue_sweep()
    assert not await upkeep.queue_sweep()
    world.clock.pass_time(days=1)
    assert await upkeep.queue_sweep()


async def test_the_sweep_forgets_what_nobody_can_ask_for(world: Any) -> None:
    tenant_id = world.principal.tenant_id
    await world.engine.write.memory(world.call("key"), NewMemory(content="x"))

    async def start() -> BlobId:
        wanted = ImportRequest(format=ImportFormat.MEMORY, file_name="f", chunks=chunks())
        return BlobId((await world.engine.transfer.start_import(world.call(), wanted)).id)

    finished, waiting = await start(), await start()
    assert await world.engine.transfer.run_import(await world.claim("import")) is RunOutcome.FINISHED
    old_orphan = BlobId(world.ids.new_id())
    await world.engine.upkeep.queue_sweep()
    world.clock.pass_time(hours=25)
    new_orphan = BlobId(world.ids.new_id())
    for blob_id in (finished, old_orphan, new_orphan):
        await world.blobs.put(tenant_id, blob_id, chunks(), max_bytes=9)
    job = await world.claim("upkeep")
    assert await world.engine.upkeep.run(job) is RunOutcome.FINISHED
    assert (await job_of(world, job)).result == {"jobs": 0, "idempotency_keys": 2, "files": 2}
    assert {blob for _, blob in world.blobs.files} == {waiting, new_orphan}
    again = await world.engine.write.memory(world.call("key"), NewMemory(content="x"))
    assert again.is_new
    world.clock.pass_time(days=31)
    await world.engine.upkeep.queue_sweep()
    job = await world.claim("upkeep")
    assert await world.engine.upkeep.run(job) is RunOutcome.FINISHED
    assert (await job_of(world, job)).result["jobs"] == 2


async def test_a_sweep_that_was_taken_over_says_so(world: Any) -> None:
    await world.engine.upkeep.queue_sweep()
    job = await world.claim("upkeep")
    world.clock.pass_time(minutes=5)
    await world.claim("upkeep")
    assert await world.engine.upkeep.run(job) is RunOutcome.FENCE_LOST


async def test_without_a_tenant_there_is_nothing_to_sweep(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def none() -> tuple[TenantId, ...]:
        return ()

    monkeypatch.setattr(world.engine.storage.directory, "list_tenants", none)
    assert not await world.engine.upkeep.queue_sweep()


async def test_a_server_with_all_its_parts_is_healthy(world: Any) -> None:
    jobs = await world.storage.jobs.counts()
    assert await world.engine.health() == Health(is_serving=True, degraded=(), jobs=jobs)


async def test_the_disk_is_written_to_now_and_then_however_often_health_is_asked(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Exception | None] = [None, StorageUnavailable("full"), None]
    asked = 0

    async def ping() -> None:
        nonlocal asked
        asked += 1
        if (problem := answers.pop(0)) is not None:
            raise problem

    monkeypatch.setattr(world.storage, "ping", ping, raising=False)
    seen = [(await world.engine.health()).is_serving for _ in range(3)]
    assert (seen, asked) == ([True, True, True], 1)
    world.clock.pass_time(seconds=WRITE_CHECK_SECONDS)
    seen = [(await world.engine.health()).is_serving for _ in range(3)]
    assert (seen, asked) == ([False, True, True], 3)


async def test_a_missing_model_and_parked_jobs_degrade_and_a_silent_storage_stops_serving(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.embedder.problem = "no model file"
    await write(world)
    job = await world.claim("embed")
    await world.engine.storage.jobs.park(job.tenant_id, job.id, fence=job.fence, error="e", now=world.clock.now())
    counts = await world.engine.job_counts()
    assert await world.engine.health() == Health(
        is_serving=True, degraded=("model: no model file", "jobs: 1 gave up and wait for an operator"), jobs=counts
    )
    assert counts.by_kind_and_state[JobKind.EMBED, JobState.FAILED] == 1

    async def silent() -> None:
        raise StorageUnavailable("the disk does not answer")

    monkeypatch.setattr(world.storage, "ping", silent, raising=False)
    world.clock.pass_time(seconds=WRITE_CHECK_SECONDS)
    assert await world.engine.health() == Health(is_serving=False, degraded=("storage: the disk does not answer",))


async def test_a_storage_that_hangs_stops_serving_in_bounded_time_and_serves_when_it_is_back(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_back = asyncio.Event()
    monkeypatch.setattr("polymem.engine.engine.HEALTH_SECONDS", 0.01)
    monkeypatch.setattr(world.storage, "ping", is_back.wait, raising=False)
    assert await world.engine.health() == Health(is_serving=False, degraded=("storage: no answer within 0.01 s",))
    is_back.set()
    monkeypatch.setattr("polymem.engine.engine.HEALTH_SECONDS", 10.0)
    assert (await world.engine.health()).is_serving


async def test_a_holder_extends_its_lease_by_as_much_as_its_worker_took(world: Any) -> None:
    await world.engine.upkeep.queue_sweep()
    job = await world.claim("upkeep")
    now = world.clock.now() + timedelta(hours=1)
    assert lease_from(job, now) == now + timedelta(seconds=30)
    assert lease_from(replace(job, lease_until_at=None), now) == now + LEASE
