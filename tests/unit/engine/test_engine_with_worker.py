"""The engine with its worker: what was queued happens."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

from polymem.domain.model import JobState
from polymem.domain.query import MemoryFilter, RecallRequest
from polymem.engine.requests import ImportFormat, ImportRequest, NewMemory
from polymem.jobs.worker import Pace, Worker


async def chunks(text: str) -> AsyncIterator[bytes]:
    yield text.encode()


async def test_an_import_without_a_model_is_stored_retried_and_in_the_end_whole(world: Any) -> None:
    world.embedder.problem = "no model file"
    worker = Worker(world.engine, chance=lambda: 0.0)
    file = json.dumps([{"content": f"fact number {number}"} for number in range(3)])
    wanted = ImportRequest(format=ImportFormat.MEMORY, file_name="f", chunks=chunks(file))
    job = await world.engine.transfer.start_import(world.call(), wanted)
    assert await worker.run_due() == 2
    assert (await world.engine.transfer.get_import(world.call(), job.id)).state is JobState.DONE
    assert len(await world.store.list_without_vectors(world.embedder.identity, limit=9)) == 3
    assert await worker.run_due() == 0
    world.embedder.problem = None
    world.clock.pass_time(seconds=1)
    assert await worker.run_due() == 1
    assert await world.store.list_without_vectors(world.embedder.identity, limit=9) == ()


async def test_a_file_without_messages_fails_with_its_words_and_stays_visible(world: Any) -> None:
    wanted = ImportRequest(format=ImportFormat.SESSION, file_name="f", chunks=chunks("nothing"), session_id="s")
    job = await world.engine.transfer.start_import(world.call(), wanted)
    await Worker(world.engine).run_due()
    failed = await world.engine.transfer.get_import(world.call(), job.id)
    assert (failed.state, failed.error) == (JobState.FAILED, "parse session file: no valid messages found in file")
    assert (await world.engine.health()).degraded == ()


async def test_a_new_model_is_used_for_everything_after_the_start(world: Any) -> None:
    await world.engine.write.memory(world.call(), NewMemory(content="the sky is blue"))
    world.embedder.identity = replace(world.embedder.identity, revision="2")
    worker = Worker(world.engine, pace=Pace(lease=timedelta(seconds=5)))
    await worker._periodic()
    assert await worker.run_due() == 2
    assert await world.store.list_without_vectors(world.embedder.identity, limit=9) == ()


async def test_what_is_written_is_recalled(world: Any) -> None:
    written = await world.engine.write.memory(world.call(), NewMemory(content="the sky is blue"))
    where = MemoryFilter(spaces=frozenset({world.principal.personal_space_id}))
    page = await world.engine.recall.search(world.call(), RecallRequest(text="sky", where=where, limit=5))
    assert [hit.memory.id for hit in page.hits] == [written.memory.id]
