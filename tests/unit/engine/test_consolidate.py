"""Consolidation over real storages: what merges, what is kept, and what happens when others change things meanwhile."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from polymem.domain.model import (
    JobKind,
    JobState,
    MemoryId,
    MemoryRole,
    MemoryState,
    MemoryType,
    Scope,
    SpaceKind,
)
from polymem.domain.model import Role as SpaceRole
from polymem.domain.query import MemoryFilter
from polymem.engine import commits
from polymem.engine import consolidate as consolidating
from polymem.engine import consolidation_run as running
from polymem.engine.queueing import RunOutcome
from polymem.engine.requests import Consolidated, MemoryPatch
from polymem.errors import Conflict, Forbidden, NotFound, Unavailable
from polymem.ports.changes import (
    Change,
    MoveValence,
    ProgressJob,
    PutMemory,
    RevisionMoved,
    SetStanding,
    Supersede,
    UpdateMemory,
)
from sleeping import BIKE, SOUP, Sleeper


@pytest.fixture
def sleeper(world: Any) -> Sleeper:
    return Sleeper.of(world)


async def test_repeats_become_one_prototype_that_names_its_archived_sources(sleeper: Sleeper) -> None:
    first = await sleeper.put(SOUP[0], 0, concepts=("soup",), importance=0.4, valence=0.1, metadata={"a": 1})
    second = await sleeper.put(SOUP[1], 0, concepts=("Soup", "dinner"), importance=0.9, valence=0.3, metadata={"b": 2})
    alone = await sleeper.put(BIKE[0], 1)

    told = await sleeper.sleep()

    assert replace(told, seconds=0.0) == Consolidated(before=3, after=2, prototypes_made=1, singletons=0, seconds=0.0)
    prototype = await sleeper.prototype(first)
    assert (prototype.role, prototype.state) == (MemoryRole.PROTOTYPE, MemoryState.ACTIVE)
    assert prototype.content == SOUP[0]
    assert prototype.derived_from == (first.id, second.id)
    assert prototype.concepts == ("soup", "dinner")
    assert prototype.metadata == {"a": 1, "b": 2}
    assert prototype.importance == 0.9
    assert prototype.valence == pytest.approx(0.2)
    sources = await sleeper.get(first, second)
    assert [(each.state, each.superseded_by, each.content) for each in sources] == [
        (MemoryState.ARCHIVED, prototype.id, SOUP[0]),
        (MemoryState.ARCHIVED, prototype.id, SOUP[1]),
    ]
    assert await sleeper.get(alone) == [alone]


async def test_a_prototype_is_found_by_the_vectors_of_its_head_without_asking_the_model(sleeper: Sleeper) -> None:
    sleeper.world.embedder.problem = "away"
    first, *_ = await sleeper.many(SOUP, 3)
    await sleeper.sleep()
    prototype = await sleeper.prototype(first)
    search = sleeper.world.engine.storage.search(sleeper.world.principal.tenant_id)
    where = MemoryFilter(spaces=frozenset({first.space_id}))
    vectors = (await search.embeddings([prototype.id], sleeper.world.embedder.identity))[prototype.id]
    hits = await search.dense(vectors[0], sleeper.world.embedder.identity, where, limit=5)
    assert [hit.memory_id for hit in hits] == [prototype.id]
    assert await sleeper.world.store.list_without_vectors(sleeper.world.embedder.identity, limit=5) == ()


async def test_a_second_run_changes_nothing(sleeper: Sleeper) -> None:
    await sleeper.many(SOUP, 0)
    await sleeper.many(BIKE, 1)
    first = await sleeper.sleep()
    before = await sleeper.world.store.feed(
        MemoryFilter(spaces=frozenset({sleeper.world.principal.personal_space_id}), states=None),
        after=None,
        limit=50,
        with_superseded=True,
    )
    second = await sleeper.sleep()
    after = await sleeper.world.store.feed(
        MemoryFilter(spaces=frozenset({sleeper.world.principal.personal_space_id}), states=None),
        after=None,
        limit=50,
        with_superseded=True,
    )
    assert (first.prototypes_made, second.prototypes_made) == (2, 0)
    assert (second.before, second.after) == (first.after, first.after)
    assert before == after


async def test_a_repeat_that_comes_later_joins_the_prototype(sleeper: Sleeper) -> None:
    first, second = await sleeper.many(SOUP[:2], 0)
    await sleeper.sleep()
    prototype = await sleeper.prototype(first)
    late = await sleeper.put(SOUP[2], 0, valence=0.3, importance=1.0, tags=("late",))

    told = await sleeper.sleep()

    assert (told.before, told.after, told.prototypes_made) == (2, 1, 0)
    (joined,) = await sleeper.get(prototype)
    assert joined.content == prototype.content
    assert joined.derived_from == (first.id, second.id, late.id)
    assert joined.valence == pytest.approx(0.1)
    assert (joined.importance, joined.tags, joined.version) == (1.0, ("late",), 1)
    assert joined.revision == prototype.revision + 1
    assert await sleeper.world.store.list_versions(prototype.id, frozenset({prototype.space_id})) == ()


async def test_vectors_of_a_prototype_with_more_tags_than_its_head_are_made_anew(sleeper: Sleeper) -> None:
    sleeper.world.engine.jobs_queued.clear()
    first = await sleeper.put(SOUP[0], 0)
    await sleeper.put(SOUP[1], 0, tags=("kitchen",))
    await sleeper.sleep()
    job = await sleeper.world.claim("embed")
    assert job is not None
    assert job.payload == {"memory_ids": [(await sleeper.prototype(first)).id]}
    assert await sleeper.world.engine.embeddings.run(job) is RunOutcome.FINISHED
    assert await sleeper.world.store.list_without_vectors(sleeper.world.embedder.identity, limit=5) == ()


async def test_pinned_turned_out_and_replaced_memories_and_turns_are_left_alone(sleeper: Sleeper) -> None:
    pinned = await sleeper.put(SOUP[0], 0, memory_type=MemoryType.PINNED)
    loved = await sleeper.put(SOUP[1], 0, valence=0.5)
    hated = await sleeper.put(SOUP[2], 0, valence=-0.7)
    paused = await sleeper.put(SOUP[0], 0, state=MemoryState.PAUSED)
    old = await sleeper.put(SOUP[0], 0)
    await sleeper.world.store.commit(
        [Supersede(memory_ids=(old.id,), by=loved.id, spaces=frozenset({old.space_id}))], now=sleeper.world.clock.now()
    )

    told = await sleeper.sleep()

    assert (told.prototypes_made, told.singletons) == (0, 3)
    found = await sleeper.get(pinned, loved, hated)
    assert {each.role for each in found} == {MemoryRole.SINGLETON}
    assert {each.state for each in found} == {MemoryState.ACTIVE}
    assert await sleeper.get(paused) == [paused]
    (present,) = await sleeper.get(old)
    assert (present.state, present.superseded_by, present.role) == (MemoryState.ACTIVE, loved.id, MemoryRole.EPISODE)
    assert (await sleeper.sleep()).singletons == 3


async def test_a_memory_that_is_no_longer_protected_is_an_episode_again(sleeper: Sleeper) -> None:
    memory = await sleeper.put(SOUP[0], 0, valence=0.6)
    await sleeper.put(BIKE[0], 1)
    await sleeper.sleep()
    assert (await sleeper.get(memory))[0].role is MemoryRole.SINGLETON
    spaces = frozenset({memory.space_id})
    await sleeper.world.store.commit(
        [MoveValence(memory_ids=frozenset({memory.id}), spaces=spaces, outcome=0.0, rate=1.0)],
        now=sleeper.world.clock.now(),
    )
    assert (await sleeper.sleep()).singletons == 0
    assert (await sleeper.get(memory))[0].role is MemoryRole.EPISODE


async def test_a_text_with_news_stays_beside_what_it_resembles(sleeper: Sleeper) -> None:
    kept = await sleeper.many(("The staging server listens on port 8080", "The staging server listens on port 9090"), 0)
    assert (await sleeper.sleep()).prototypes_made == 0
    assert await sleeper.get(*kept) == kept


async def test_memories_without_vectors_take_no_part(sleeper: Sleeper) -> None:
    memories = await sleeper.many(SOUP, 0)
    sleeper.world.embedder.identity = replace(sleeper.world.embedder.identity, revision="2")
    told = await sleeper.sleep()
    assert (told.before, told.after, told.prototypes_made) == (3, 3, 0)
    assert await sleeper.get(*memories) == memories


async def test_more_than_a_page_of_memories_is_read(sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_PAGE", 2)
    monkeypatch.setattr(running, "_ROWS_AT_ONCE", 1)
    await sleeper.many(SOUP, 0)
    await sleeper.many(BIKE, 1)
    for number, word in enumerate(("lemon", "train", "garden", "quark", "violin")):
        await sleeper.put(f"{word} is a word", 2 + number)
    assert (await sleeper.sleep()).prototypes_made == 2


async def test_of_a_domain_too_large_the_newest_take_part(sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_PAGE", 2)
    monkeypatch.setattr(running, "MOST_MEMORIES", 2)
    old = await sleeper.many(BIKE, 1)
    await sleeper.many(SOUP[:2], 0)
    assert (await sleeper.sleep()).prototypes_made == 1
    assert await sleeper.get(*old) == old


async def test_an_empty_and_an_unknown_domain_have_nothing_to_consolidate(sleeper: Sleeper) -> None:
    nothing = Consolidated(before=0, after=0, prototypes_made=0, singletons=0, seconds=0.0)
    assert await sleeper.sleep() == nothing
    assert await sleeper.sleep("project:none") == nothing


async def test_only_the_domain_asked_for_is_consolidated(sleeper: Sleeper) -> None:
    space_id = await sleeper.world.space(SpaceKind.DOMAIN, SpaceRole.OWNER)
    name = next(
        each.name
        for each, _ in await sleeper.world.store.list_spaces(sleeper.world.principal.user_id)
        if each.id == space_id
    )
    here = await sleeper.put(SOUP[0], 0)
    there = await sleeper.put(SOUP[1], 0, space_id=space_id)
    again = await sleeper.put(SOUP[2], 0, space_id=space_id)
    assert (await sleeper.sleep(name)).prototypes_made == 1
    assert await sleeper.get(here) == [here]
    assert {each.state for each in await sleeper.get(there, again, space_id=space_id)} == {MemoryState.ARCHIVED}


async def test_memories_of_two_tenants_never_meet(sleeper: Sleeper) -> None:
    mine = await sleeper.put(SOUP[0], 0)
    other = await sleeper.world.stranger()
    principal, sleeper.world.principal = sleeper.world.principal, other
    theirs = await sleeper.put(SOUP[0], 0)
    assert (await sleeper.sleep()).prototypes_made == 0
    assert await sleeper.get(theirs) == [theirs]
    sleeper.world.principal = principal
    assert (await sleeper.sleep()).prototypes_made == 0
    assert await sleeper.get(mine) == [mine]


@pytest.mark.parametrize("missing", [Scope.WRITE, Scope.DELETE])
async def test_who_may_not_write_and_delete_may_not_consolidate(sleeper: Sleeper, missing: Scope) -> None:
    call = sleeper.world.call(scopes=frozenset(Scope) - {missing})
    with pytest.raises(Forbidden):
        await sleeper.consolidate.domain(call, "project:none")


async def test_a_role_without_deletion_may_not_consolidate(sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch) -> None:
    async def found(*_: object) -> Any:
        return await sleeper.world.space(SpaceKind.DOMAIN, SpaceRole.VIEWER)

    monkeypatch.setattr(sleeper.consolidate, "_find_space", found)
    with pytest.raises(Forbidden, match="does not allow to delete"):
        await sleeper.consolidate.domain(sleeper.world.call(), "x")


async def test_a_call_while_one_waits_joins_it(sleeper: Sleeper) -> None:
    await sleeper.many(SOUP, 0)
    calls = [asyncio.create_task(sleeper.consolidate.domain(sleeper.world.call(), None)) for _ in range(2)]
    spaces = frozenset({sleeper.world.principal.personal_space_id})
    async with asyncio.timeout(30):
        await sleeper.queued()
        third = asyncio.create_task(sleeper.consolidate.domain(sleeper.world.call(), None))
        await asyncio.sleep(0)
        await sleeper.work_until(*calls, third)
    told = [call.result() for call in (*calls, third)]
    assert sum(each.prototypes_made for each in set(told)) == 1
    jobs = await sleeper.world.store.list_jobs(frozenset({JobKind.CONSOLIDATE}), spaces, limit=9)
    assert {job.ordering_key for job in jobs} == {f"consolidate:{sleeper.world.principal.personal_space_id}"}
    assert len(jobs) < 3


async def test_a_retry_under_the_same_key_waits_for_the_same_job(sleeper: Sleeper) -> None:
    await sleeper.many(SOUP, 0)
    first = await sleeper.sleep(call=sleeper.world.call("key"))
    assert await sleeper.sleep(call=sleeper.world.call("key")) == first


async def test_a_job_that_gave_up_is_told_to_who_waits(sleeper: Sleeper) -> None:
    asked = asyncio.create_task(sleeper.consolidate.domain(sleeper.world.call(), None))
    async with asyncio.timeout(30):
        job = await sleeper.waited()
        queue = sleeper.world.engine.storage.jobs
        await queue.park(job.tenant_id, job.id, fence=job.fence, error="broken", now=sleeper.world.clock.now())
        with pytest.raises(Unavailable, match="broken"):
            await asked


async def test_who_waits_too_long_is_told_so_and_the_job_goes_on(
    sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consolidating, "LONGEST_WAIT_SECONDS", 0.05)
    await sleeper.many(SOUP, 0)
    with pytest.raises(Unavailable, match="goes on"):
        await sleeper.consolidate.domain(sleeper.world.call(), None)
    job = await sleeper.claimed()
    assert job is not None
    assert await sleeper.consolidate.run(job) is RunOutcome.FINISHED


async def test_a_job_that_is_gone_is_unavailable(sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nowhere(*_: object) -> None:
        return None

    store = sleeper.world.store
    monkeypatch.setattr(type(store._store), "get_job", nowhere)
    with pytest.raises(Unavailable, match="gone"):
        await sleeper.consolidate.domain(sleeper.world.call(), None)


def test_a_result_that_holds_no_numbers_is_a_broken_promise() -> None:
    with pytest.raises(TypeError):
        consolidating._whole("3")


async def _job(sleeper: Sleeper) -> Any:
    """A consolidation of the personal space that a worker has claimed."""
    asked = asyncio.create_task(sleeper.consolidate.domain(sleeper.world.call(), None))
    async with asyncio.timeout(30):
        job = await sleeper.waited()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    return job


def _is_end(changes: Sequence[Change]) -> bool:
    return any(isinstance(change, PutMemory | SetStanding | UpdateMemory) for change in changes) and len(changes) > 2


async def test_what_a_client_changes_meanwhile_stays_out_and_the_rest_is_consolidated(sleeper: Sleeper) -> None:
    soup = await sleeper.many(SOUP, 0)
    bike = await sleeper.many(BIKE, 1)
    loved = await sleeper.put("Lemons are what I like best of all fruit", 2, valence=0.9)
    job = await _job(sleeper)
    done: list[str] = []

    async def meddle(changes: Sequence[Change]) -> None:
        if _is_end(changes) and not done:
            done.append("once")
            await sleeper.world.engine.write.update(sleeper.world.call(), soup[1].id, MemoryPatch(tags=("new",)))
            await sleeper.world.engine.write.delete(sleeper.world.call(), loved.id)

    sleeper.world.storage.before_commit = meddle
    assert await sleeper.consolidate.run(job) is RunOutcome.FINISHED
    sleeper.world.storage.before_commit = None
    assert {each.state for each in await sleeper.get(*soup)} == {MemoryState.ACTIVE}
    assert {each.state for each in await sleeper.get(*bike)} == {MemoryState.ARCHIVED}
    result = (await sleeper.world.store.get_job(job.id)).result
    assert (result["prototypes_made"], result["singletons"]) == (1, 0)
    assert (await sleeper.sleep()).prototypes_made == 1


async def test_a_memory_that_moved_between_reading_and_composing_stays_out(sleeper: Sleeper) -> None:
    soup = await sleeper.many(SOUP[:2], 0)
    job = await _job(sleeper)
    seen: list[int] = []

    async def meddle(changes: Sequence[Change]) -> None:
        if isinstance(changes[0], ProgressJob) and changes[0].progress_done == 80:
            seen.append(80)
            await sleeper.world.store._store.commit(
                [
                    SetStanding(
                        space_id=soup[0].space_id,
                        revisions=((soup[0].id, 1),),
                        state=MemoryState.PAUSED,
                        role=MemoryRole.EPISODE,
                        superseded_by=None,
                    )
                ],
                now=sleeper.world.clock.now(),
            )

    sleeper.world.storage.before_commit = meddle
    assert await sleeper.consolidate.run(job) is RunOutcome.FINISHED
    assert seen == [80]
    assert [each.state for each in await sleeper.get(*soup)] == [MemoryState.PAUSED, MemoryState.ACTIVE]


async def test_a_domain_that_never_rests_is_tried_again_later(sleeper: Sleeper) -> None:
    await sleeper.put(SOUP[0], 0, valence=0.9)
    memory = await sleeper.put(BIKE[0], 1, valence=0.9)
    job = await _job(sleeper)
    moved = [memory.revision]

    async def refuse(*_: object, **__: object) -> Any:
        moved[0] += 1
        return RevisionMoved(memory.id, moved[0])

    real = commits.commit_guarded

    async def guarded(store: Any, changes: Sequence[Change], **given: Any) -> Any:
        return await (real(store, changes, **given) if isinstance(changes[0], ProgressJob) else refuse())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "commit_guarded", guarded)
        with pytest.raises(Unavailable, match="faster than"):
            await sleeper.consolidate.run(job)
    assert moved[0] == memory.revision + running.MOST_TRIES


@pytest.mark.parametrize("at", [15, 35, 80, None])
async def test_a_worker_that_lost_its_job_stores_nothing(sleeper: Sleeper, at: int | None) -> None:
    soup = await sleeper.many(SOUP, 0)
    job = await _job(sleeper)

    async def lose(changes: Sequence[Change]) -> None:
        here = changes[0]
        is_here = here.progress_done >= at if isinstance(here, ProgressJob) and at is not None else at is None
        if is_here and (at is not None or _is_end(changes)):
            await sleeper.world.engine.storage.jobs.release(
                job.tenant_id, job.id, fence=job.fence, now=sleeper.world.clock.now()
            )

    sleeper.world.storage.before_commit = lose
    assert await sleeper.consolidate.run(job) is RunOutcome.FENCE_LOST
    sleeper.world.storage.before_commit = None
    assert await sleeper.get(*soup) == soup
    assert (await sleeper.world.store.get_job(job.id)).state is JobState.QUEUED
    again = await sleeper.claimed()
    assert again is not None
    assert await sleeper.consolidate.run(again) is RunOutcome.FINISHED
    assert {each.state for each in await sleeper.get(*soup)} == {MemoryState.ARCHIVED}


async def test_deciding_ends_when_nobody_waits_for_it(sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch) -> None:
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[str] = loop.create_future()

    def decide(_: object, __: object, ___: object, look_up: Any) -> None:
        loop.call_soon_threadsafe(started.set)
        try:
            while True:
                look_up()
        except running._StoppedError:
            loop.call_soon_threadsafe(ended.set_result, "stopped")
            raise

    monkeypatch.setattr(running, "consolidate", decide)
    await sleeper.many(SOUP, 0)
    job = await _job(sleeper)
    work = asyncio.create_task(sleeper.consolidate.run(job))
    async with asyncio.timeout(30):
        await started.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert await ended == "stopped"


async def test_progress_is_told(sleeper: Sleeper) -> None:
    await sleeper.many(SOUP, 0)
    told: list[int] = []

    async def watch(changes: Sequence[Change]) -> None:
        told.extend(change.progress_done for change in changes if isinstance(change, ProgressJob))

    sleeper.world.storage.after_commit = watch
    await sleeper.sleep()
    assert told == sorted(told)
    assert {15, 60, 80} <= set(told)


async def test_restoring_brings_the_sources_back_and_takes_the_prototype_away(sleeper: Sleeper) -> None:
    soup = await sleeper.many(SOUP, 0)
    await sleeper.sleep()
    prototype = await sleeper.prototype(soup[0])
    assert await sleeper.consolidate.restore(sleeper.world.call(), prototype.id) == 3
    restored = await sleeper.get(*soup)
    assert [replace(each, revision=1) for each in restored] == soup
    assert await sleeper.get(prototype) == []
    assert (await sleeper.sleep()).prototypes_made == 1


async def test_a_source_names_its_prototype_for_restoring(sleeper: Sleeper) -> None:
    soup = await sleeper.many(SOUP, 0)
    await sleeper.sleep()
    assert await sleeper.consolidate.restore(sleeper.world.call(), soup[1].id) == 3


async def test_an_edited_prototype_stays_as_an_episode_when_its_sources_return(sleeper: Sleeper) -> None:
    soup = await sleeper.many(SOUP, 0)
    await sleeper.sleep()
    prototype = await sleeper.prototype(soup[0])
    await sleeper.world.engine.write.update(sleeper.world.call(), prototype.id, MemoryPatch(content="Soup it is"))
    assert await sleeper.consolidate.restore(sleeper.world.call(), prototype.id) == 3
    (stays,) = await sleeper.get(prototype)
    assert (stays.role, stays.content, stays.state) == (MemoryRole.EPISODE, "Soup it is", MemoryState.ACTIVE)


async def test_what_replaced_a_prototype_replaces_its_restored_sources(sleeper: Sleeper) -> None:
    soup = await sleeper.many(SOUP, 0)
    await sleeper.sleep()
    prototype = await sleeper.prototype(soup[0])
    newer = await sleeper.put("No soup any more, thank you", 4)
    spaces = frozenset({newer.space_id})
    await sleeper.world.store.commit(
        [Supersede(memory_ids=(prototype.id,), by=newer.id, spaces=spaces)], now=sleeper.world.clock.now()
    )
    await sleeper.consolidate.restore(sleeper.world.call(), prototype.id)
    assert {each.superseded_by for each in await sleeper.get(*soup)} == {newer.id}


async def test_what_is_no_prototype_cannot_be_restored(sleeper: Sleeper) -> None:
    memory = await sleeper.put(SOUP[0], 0)
    other = await sleeper.put(BIKE[0], 1, state=MemoryState.ARCHIVED)
    archived = await sleeper.put(BIKE[1], 1, state=MemoryState.ARCHIVED)
    await sleeper.world.store.commit(
        [Supersede(memory_ids=(archived.id,), by=memory.id, spaces=frozenset({memory.space_id}))],
        now=sleeper.world.clock.now(),
    )
    for each in (memory.id, other.id, archived.id, MemoryId("018f0000-0000-7000-8000-000000000000")):
        with pytest.raises(NotFound):
            await sleeper.consolidate.restore(sleeper.world.call(), each)


async def test_restoring_reads_again_when_something_moved(sleeper: Sleeper) -> None:
    soup = await sleeper.many(SOUP[:2], 0)
    await sleeper.sleep()
    prototype = await sleeper.prototype(soup[0])
    changed: list[str] = []

    async def meddle(changes: Sequence[Change]) -> None:
        if isinstance(changes[0], SetStanding) and not changed:
            changed.append("once")
            await sleeper.world.engine.write.update(sleeper.world.call(), prototype.id, MemoryPatch(tags=("x",)))

    sleeper.world.storage.before_commit = meddle
    assert await sleeper.consolidate.restore(sleeper.world.call(), prototype.id) == 2
    assert (await sleeper.get(prototype))[0].tags == ("x",)


async def test_restoring_gives_up_when_others_never_rest(sleeper: Sleeper) -> None:
    soup = await sleeper.many(SOUP[:2], 0)
    await sleeper.sleep()
    prototype = await sleeper.prototype(soup[0])

    async def meddle(changes: Sequence[Change]) -> None:
        if isinstance(changes[0], SetStanding):
            sleeper.world.clock.pass_time(seconds=1)
            tag = f"at {sleeper.world.clock.now():%S}"
            await sleeper.world.engine.write.update(sleeper.world.call(), prototype.id, MemoryPatch(tags=(tag,)))

    sleeper.world.storage.before_commit = meddle
    with pytest.raises(Conflict):
        await sleeper.consolidate.restore(sleeper.world.call(), prototype.id)


async def test_restoring_needs_the_scope_to_delete(sleeper: Sleeper) -> None:
    with pytest.raises(Forbidden):
        await sleeper.consolidate.restore(
            sleeper.world.call(scopes=frozenset({Scope.READ, Scope.WRITE})), MemoryId("x")
        )
