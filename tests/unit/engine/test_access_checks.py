"""What a principal may touch, checked on every path into stored things."""

from dataclasses import replace
from typing import Any

import pytest

from polymem.domain.access import Action
from polymem.domain.model import MemoryId, Role, Scope, SpaceId, SpaceKind
from polymem.domain.query import MemoryFilter
from polymem.engine.access import Access
from polymem.engine.requests import MemoryPatch, NewMemory
from polymem.errors import Forbidden, NotFound

ABSENT: Any = "0190b4a0-0000-7000-8000-000000000000"


@pytest.fixture
def access(world: Any) -> Access:
    return Access(world.storage)


async def test_the_readable_spaces_are_the_own_the_open_and_those_of_the_members(world: Any, access: Access) -> None:
    open_domain = await world.space(SpaceKind.DOMAIN, is_restricted=False)
    hub = await world.space(SpaceKind.HUB, Role.VIEWER)
    await world.space(SpaceKind.DOMAIN)
    await world.space(SpaceKind.HUB)
    await world.space(SpaceKind.INSTANCE)
    own = world.principal.personal_space_id
    assert await access.readable(world.call()) == {own, open_domain, hub}
    assert await access.allowing(world.call(), Action.WRITE) == {own, open_domain}
    assert await access.readable(world.call(allowed_spaces=frozenset({hub}))) == {hub}


async def test_a_filter_loses_what_may_not_be_read_and_gains_nothing(world: Any, access: Access) -> None:
    hub = await world.space(SpaceKind.HUB, Role.VIEWER)
    foreign = await world.space(SpaceKind.HUB)
    own = world.principal.personal_space_id
    where = MemoryFilter(spaces=frozenset({hub, foreign, ABSENT}), source="s")
    assert await access.narrow(world.call(), where) == replace(where, spaces=frozenset({hub}))
    assert (await access.narrow(world.call(), replace(where, spaces=frozenset({own, hub})))).spaces == {own, hub}


async def test_the_personal_space_alone_is_checked_without_a_read(world: Any, access: Access) -> None:
    own = world.principal.personal_space_id
    world.storage.reads.clear()
    where = MemoryFilter(spaces=frozenset({own}))
    assert await access.narrow(world.call(), where) == where
    assert (await access.narrow(world.call(allowed_spaces=frozenset()), where)).spaces == frozenset()
    assert (await access.narrow(world.call(), replace(where, spaces=frozenset()))).spaces == frozenset()
    assert await access.writable(world.call(), None) == own
    assert await access.writable(world.call(), own) == own
    assert world.storage.reads == []


async def test_each_use_case_asks_for_its_scope(world: Any) -> None:
    written = await world.engine.write.memory(world.call(), NewMemory(content="x"))
    memory_id = written.memory.id
    nothing = world.call(scopes=frozenset())
    engine = world.engine
    where = MemoryFilter(spaces=frozenset({world.principal.personal_space_id}))
    for refused in (
        engine.write.memory(nothing, NewMemory(content="x")),
        engine.write.update(nothing, memory_id, MemoryPatch(content="y")),
        engine.write.delete(nothing, memory_id),
        engine.write.delete_many(nothing, [memory_id]),
        engine.read.get(nothing, memory_id),
        engine.read.list(nothing, where, limit=1),
        engine.read.session_messages(nothing, ["s"], limit_per_session=1),
        engine.read.versions(nothing, memory_id),
        engine.transfer.get_import(nothing, ABSENT),
        engine.transfer.list_imports(nothing),
    ):
        with pytest.raises(Forbidden, match="this key lacks the scope"):
            await refused


async def test_writing_goes_to_the_asked_space_or_nowhere(world: Any, access: Access) -> None:
    hub = await world.space(SpaceKind.HUB, Role.CONTRIBUTOR)
    watched = await world.space(SpaceKind.HUB, Role.VIEWER)
    foreign = await world.space(SpaceKind.HUB)
    assert await access.writable(world.call(), hub) == hub
    with pytest.raises(Forbidden, match="does not allow writing"):
        await access.writable(world.call(), watched)
    for unknown in (foreign, SpaceId(ABSENT)):
        with pytest.raises(NotFound, match="space not found"):
            await access.writable(world.call(), unknown)
    with pytest.raises(Forbidden, match="personal space"):
        await access.writable(world.call(allowed_spaces=frozenset({hub})), None)


async def test_a_memory_is_found_wherever_it_may_be_touched(world: Any, access: Access) -> None:
    hub = await world.space(SpaceKind.HUB, Role.OWNER)
    own_memory = (await world.engine.write.memory(world.call(), NewMemory(content="own"))).memory
    hub_memory = (await world.engine.write.memory(world.call(), NewMemory(content="hub", space_id=hub))).memory
    assert await access.find(world.call(), own_memory.id, Action.READ) == own_memory
    assert await access.find(world.call(), hub_memory.id, Action.DELETE) == hub_memory
    assert await access.find(world.call(), MemoryId(ABSENT), Action.READ) is None
    assert await access.find(world.call(allowed_spaces=frozenset({hub})), own_memory.id, Action.READ) is None
    only_own = frozenset({world.principal.personal_space_id})
    assert await access.find(world.call(allowed_spaces=only_own), hub_memory.id, Action.READ) is None
    write_only = world.call(scopes=frozenset({Scope.WRITE}))
    assert await access.find(write_only, hub_memory.id, Action.WRITE) == hub_memory


async def test_what_may_be_read_but_not_changed_is_forbidden_not_hidden(world: Any, access: Access) -> None:
    shared = await world.space(SpaceKind.HUB, Role.CONTRIBUTOR)
    memory = (await world.engine.write.memory(world.call(), NewMemory(content="x", space_id=shared))).memory
    reader = await world.engine.accounts.create_user(world.account.tenant.id, "reader")
    key = await world.engine.keys.create(None, user_id=reader.id, name="k", scopes=list(Scope))
    stranger = world.call(user_id=reader.id, personal_space_id=reader.personal_space_id)
    assert (await world.engine.keys.authenticate(key.secret)).user_id == reader.id
    assert await access.find(stranger, memory.id, Action.WRITE) is None
    domain = await world.space(SpaceKind.DOMAIN, Role.VIEWER, is_restricted=False)
    open_memory = (await world.engine.write.memory(stranger, NewMemory(content="y", space_id=domain))).memory
    with pytest.raises(Forbidden, match="does not allow to write"):
        await access.find(world.call(), open_memory.id, Action.WRITE)


async def test_another_tenant_sees_nothing_of_it(world: Any) -> None:
    memory = (await world.engine.write.memory(world.call(), NewMemory(content="mine"))).memory
    stranger = replace(world.call(), principal=await world.stranger())
    for refused in (
        world.engine.read.get(stranger, memory.id),
        world.engine.write.update(stranger, memory.id, MemoryPatch(content="theirs")),
        world.engine.write.delete(stranger, memory.id),
    ):
        with pytest.raises(NotFound, match="memory not found"):
            await refused
    assert await world.engine.write.delete_many(stranger, [memory.id]) == 0
    foreign = MemoryFilter(spaces=frozenset({memory.space_id}))
    assert (await world.engine.read.list(stranger, foreign, limit=5)).total == 0
