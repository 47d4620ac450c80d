"""Deleting prototypes and their sources: what a client sees go is gone, and what it did not name is back."""

from collections.abc import Sequence
from typing import Any

import pytest

from polymem.domain.model import Memory, MemoryRole, MemoryState
from polymem.engine import write as writing
from polymem.engine.requests import MemoryPatch
from polymem.errors import Conflict
from polymem.ports.changes import AlreadyDeleted, Change, Deleted, DeleteMemory, SetStanding
from sleeping import BIKE, SOUP, Sleeper


@pytest.fixture
def sleeper(world: Any) -> Sleeper:
    return Sleeper.of(world)


async def _slept(sleeper: Sleeper) -> tuple[list[Memory], Memory]:
    """Three sources and their prototype."""
    soup = await sleeper.many(SOUP, 0)
    await sleeper.sleep()
    return soup, await sleeper.prototype(soup[0])


async def test_a_prototype_is_deleted_with_its_sources(sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_DELETES_PER_COMMIT", 2)
    soup, prototype = await _slept(sleeper)
    write, call = sleeper.world.engine.write, sleeper.world.call()
    assert await write.delete(call, prototype.id) == Deleted(prototype.id)
    assert await sleeper.get(prototype, *soup) == []
    assert await write.delete(call, prototype.id) == AlreadyDeleted(prototype.id)
    assert await write.delete(call, soup[0].id) == AlreadyDeleted(soup[0].id)


async def test_after_a_failure_in_between_deleting_again_does_the_rest(
    sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_DELETES_PER_COMMIT", 1)
    soup, prototype = await _slept(sleeper)
    commits: list[int] = []

    async def fail(_: Sequence[Change]) -> None:
        commits.append(1)
        if len(commits) == 3:
            raise OSError("gone")

    sleeper.world.storage.before_commit = fail
    with pytest.raises(OSError, match="gone"):
        await sleeper.world.engine.write.delete(sleeper.world.call(), prototype.id)
    assert len(await sleeper.get(prototype, *soup)) == 2
    assert await sleeper.world.engine.write.delete(sleeper.world.call(), prototype.id) == Deleted(prototype.id)
    assert await sleeper.get(prototype, *soup) == []


async def test_deleting_a_source_takes_its_prototype_apart(sleeper: Sleeper) -> None:
    soup, prototype = await _slept(sleeper)
    assert await sleeper.world.engine.write.delete(sleeper.world.call(), soup[1].id) == Deleted(soup[1].id)
    assert await sleeper.get(prototype, soup[1]) == []
    left = await sleeper.get(soup[0], soup[2])
    assert [(each.state, each.role, each.superseded_by) for each in left] == 2 * [
        (MemoryState.ACTIVE, MemoryRole.EPISODE, None)
    ]


async def test_deleting_the_only_source_left_deletes_the_prototype(sleeper: Sleeper) -> None:
    soup, prototype = await _slept(sleeper)
    spaces = frozenset({prototype.space_id})
    await sleeper.world.store.commit(
        [DeleteMemory(memory_id=each.id, spaces=spaces) for each in soup[1:]], now=sleeper.world.clock.now()
    )
    await sleeper.world.engine.write.delete(sleeper.world.call(), soup[0].id)
    assert await sleeper.get(prototype, *soup) == []


async def test_a_prototype_that_a_client_edited_outlives_its_source(sleeper: Sleeper) -> None:
    soup, prototype = await _slept(sleeper)
    await sleeper.world.engine.write.update(sleeper.world.call(), prototype.id, MemoryPatch(content="Soup it is"))
    await sleeper.world.engine.write.delete(sleeper.world.call(), soup[1].id)
    (stays,) = await sleeper.get(prototype)
    assert (stays.content, stays.role) == ("Soup it is", MemoryRole.EPISODE)


async def test_many_are_counted_once_each_by_the_ids_that_were_named(sleeper: Sleeper) -> None:
    soup, prototype = await _slept(sleeper)
    plain = await sleeper.put(BIKE[0], 1)
    archived = await sleeper.put(BIKE[1], 1, state=MemoryState.ARCHIVED)
    named = [prototype.id, plain.id, archived.id]
    assert await sleeper.world.engine.write.delete_many(sleeper.world.call(), named) == 3
    assert await sleeper.get(prototype, plain, archived, *soup) == []
    assert await sleeper.world.engine.write.delete_many(sleeper.world.call(), named) == 0


async def test_a_prototype_named_with_its_sources_goes_with_them(sleeper: Sleeper) -> None:
    soup, prototype = await _slept(sleeper)
    named = [prototype.id, *(each.id for each in soup)]
    await sleeper.world.engine.write.delete_many(sleeper.world.call(), named)
    assert await sleeper.get(prototype, *soup) == []


async def test_deleting_a_source_reads_again_when_something_moved(sleeper: Sleeper) -> None:
    soup, prototype = await _slept(sleeper)
    changed: list[str] = []

    async def meddle(changes: Sequence[Change]) -> None:
        if any(isinstance(change, SetStanding) for change in changes) and not changed:
            changed.append("once")
            await sleeper.world.engine.write.update(sleeper.world.call(), prototype.id, MemoryPatch(tags=("x",)))

    sleeper.world.storage.before_commit = meddle
    assert await sleeper.world.engine.write.delete(sleeper.world.call(), soup[0].id) == Deleted(soup[0].id)
    assert [each.tags for each in await sleeper.get(prototype)] == [("x",)]


async def test_deleting_a_source_gives_up_when_others_never_rest(sleeper: Sleeper) -> None:
    soup, prototype = await _slept(sleeper)
    count = 0

    async def meddle(changes: Sequence[Change]) -> None:
        nonlocal count
        if any(isinstance(change, SetStanding) for change in changes):
            count += 1
            await sleeper.world.engine.write.update(sleeper.world.call(), prototype.id, MemoryPatch(tags=(str(count),)))

    sleeper.world.storage.before_commit = meddle
    with pytest.raises(Conflict):
        await sleeper.world.engine.write.delete(sleeper.world.call(), soup[0].id)
    assert len(await sleeper.get(*soup)) == 3
