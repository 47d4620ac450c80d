"""Spaces by their names, emptied, and all that they hold read back."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from desk import Desk, reading_desk
from polymem.domain.access import Action
from polymem.domain.concepts import concept_key
from polymem.domain.model import (
    Association,
    Memory,
    MemoryRole,
    MemoryState,
    Role,
    Scope,
    Space,
    SpaceId,
    SpaceKind,
)
from polymem.domain.query import FeedPosition, MemoryFilter
from polymem.engine.requests import MemoryStatistics, NewMemory, NewTurn, NewTurns
from polymem.errors import Forbidden, IdempotencyConflict, InvalidInput, NotFound
from polymem.ports.changes import AddSpace, Change, DeleteMemory, MoveValence, SetMember, SetStanding

TEXTS = ("Whales sing low songs", "Granite is a hard rock", "Bread needs yeast and time")


@pytest.fixture
def desk(world: Any) -> Desk:
    return reading_desk(world)


async def become(desk: Desk, space_id: SpaceId, role: Role) -> None:
    change = SetMember(space_id=space_id, user_id=desk.world.principal.user_id, role=role)
    await desk.world.store.commit([change], now=desk.world.clock.now())


async def restricted(desk: Desk, name: str) -> SpaceId:
    """A domain of this name that is open to its members, of whom the caller is none."""
    made = Space(
        id=SpaceId(desk.world.ids.new_id()),
        kind=SpaceKind.DOMAIN,
        name=name,
        is_restricted=True,
        created_at=desk.world.clock.now(),
    )
    await desk.world.store.commit([AddSpace(space=made, members=())], now=desk.world.clock.now())
    return made.id


@pytest.mark.parametrize("name", [None, "", "general"])
async def test_general_is_the_personal_space(desk: Desk, name: str | None) -> None:
    personal = desk.world.principal.personal_space_id
    assert await desk.spaces.ensure(desk.world.call(), name) == personal
    assert await desk.spaces.find(desk.world.call(), name, Action.DELETE) == personal
    elsewhere = desk.world.call(allowed_spaces=frozenset({SpaceId("other")}))
    assert await desk.spaces.find(elsewhere, name, Action.READ) is None
    with pytest.raises(Forbidden):
        await desk.spaces.ensure(elsewhere, name)


async def test_a_domain_is_made_once_and_found_byte_for_byte(desk: Desk) -> None:
    call = desk.world.call()
    assert await desk.spaces.find(call, "project:x", Action.READ) is None
    made = await desk.spaces.ensure(call, "project:x")
    assert await desk.spaces.ensure(call, "project:x") == made
    assert await desk.spaces.find(call, "project:x", Action.WRITE) == made
    assert await desk.spaces.find(call, "Project:x", Action.READ) is None
    assert await desk.spaces.ensure(call, "Project:x") != made
    for name in ("x" * 201, " ", "a\x00b"):
        with pytest.raises(InvalidInput):
            await desk.spaces.ensure(call, name)


async def test_two_that_make_a_domain_at_once_get_the_same(desk: Desk) -> None:
    async def go_before(_: Sequence[Change]) -> None:
        desk.world.storage.before_commit = None
        await desk.spaces.ensure(desk.world.call(), "shop")

    desk.world.storage.before_commit = go_before
    made = await desk.spaces.ensure(desk.world.call(), "shop")
    assert await desk.spaces.find(desk.world.call(), "shop", Action.READ) == made
    assert sorted((await desk.spaces.names(desk.world.call())).values()) == ["general", "shop"]


async def test_a_domain_is_hidden_from_who_may_not_read_it_and_refused_to_who_may_not_write(desk: Desk) -> None:
    call = desk.world.call()
    hidden = await restricted(desk, "hidden")
    assert await desk.spaces.find(call, "hidden", Action.READ) is None
    with pytest.raises(Forbidden):
        await desk.spaces.ensure(call, "hidden")
    await become(desk, hidden, Role.VIEWER)
    assert await desk.spaces.find(call, "hidden", Action.READ) == hidden
    for action in (Action.WRITE, Action.DELETE):
        with pytest.raises(Forbidden):
            await desk.spaces.find(call, "hidden", action)
    with pytest.raises(Forbidden):
        await desk.spaces.ensure(call, "hidden")


async def test_a_key_without_the_scope_or_for_other_spaces_finds_and_makes_nothing(desk: Desk) -> None:
    made = await desk.spaces.ensure(desk.world.call(), "shop")
    reader = desk.world.call(scopes=frozenset({Scope.READ}))
    with pytest.raises(Forbidden):
        await desk.spaces.find(reader, "unknown", Action.DELETE)
    with pytest.raises(Forbidden):
        await desk.spaces.ensure(reader, "new")
    bound = desk.world.call(allowed_spaces=frozenset({made}))
    assert await desk.spaces.ensure(bound, "shop") == made
    with pytest.raises(Forbidden):
        await desk.spaces.ensure(bound, "new")
    assert await desk.spaces.names(bound) == {made: "shop"}
    with pytest.raises(Forbidden):
        await desk.spaces.names(desk.world.call(scopes=frozenset({Scope.WRITE})))


async def test_a_wiped_domain_is_empty_and_still_there(desk: Desk) -> None:
    first = (await desk.kept(TEXTS[0], domain="shop", concepts=("whale", "song"))).memory
    await desk.kept(TEXTS[1], domain="shop", supersedes=(first.id,))
    await desk.kept(TEXTS[2])
    archived = SetStanding(
        space_id=first.space_id,
        revisions=((first.id, 2),),
        state=MemoryState.ARCHIVED,
        role=MemoryRole.EPISODE,
        superseded_by=None,
    )
    await desk.world.store.commit([archived], now=desk.world.clock.now())
    assert await desk.spaces.wipe(desk.world.call(), "shop") == 2
    assert await desk.spaces.wipe(desk.world.call(), "shop") == 0
    assert await desk.contents(states=None) == [TEXTS[2]]
    assert await desk.spaces.find(desk.world.call(), "shop", Action.READ) == first.space_id
    assert await desk.spaces.wipe(desk.world.call(), "general") == 1
    with pytest.raises(NotFound) as caught:
        await desk.spaces.wipe(desk.world.call(), "unknown")
    assert (caught.value.kind, caught.value.identifier) == ("domain", "unknown")


async def test_a_wipe_deletes_in_bounded_commits_and_leaves_what_is_written_meanwhile(desk: Desk) -> None:
    turns = tuple(NewTurn(role="user", content=f"turn {number}") for number in range(120))
    await desk.world.engine.ingest.messages(desk.world.call(), NewTurns(turns=turns, session_id="s"))
    sizes: list[int] = []

    async def note(changes: Sequence[Change]) -> None:
        sizes.append(sum(isinstance(change, DeleteMemory) for change in changes))
        desk.world.storage.before_commit = None
        desk.world.clock.pass_time(minutes=1)
        await desk.kept(f"written meanwhile, {len(sizes)} Xylo{len(sizes)}")
        desk.world.storage.before_commit = note

    desk.world.storage.before_commit = note
    assert await desk.spaces.wipe(desk.world.call(), "general") == 120
    assert sizes == [50, 50, 20]
    desk.world.storage.before_commit = None
    assert len(await desk.contents()) == 3
    again = await desk.world.engine.ingest.messages(desk.world.call(), NewTurns(turns=turns[:3], session_id="s"))
    assert (again.memory_ids, again.duplicates) == ((), 3)  # what a user deleted does not come back


async def test_a_retried_wipe_counts_the_same_and_touches_nothing_new(desk: Desk) -> None:
    for text in TEXTS:
        await desk.kept(text, domain="shop")
    call = desk.world.call("k")
    assert await desk.spaces.wipe(call, "shop") == 3
    await desk.kept(TEXTS[0], domain="shop")
    assert await desk.spaces.wipe(call, "shop") == 3
    assert await desk.contents() == [TEXTS[0]]
    with pytest.raises(IdempotencyConflict):
        await desk.spaces.wipe(desk.world.call("k", digest="other"), "shop")


async def test_a_reset_empties_every_space_where_the_principal_may_delete(desk: Desk) -> None:
    kept = (await desk.kept(TEXTS[0], domain="read only")).memory
    await become(desk, kept.space_id, Role.VIEWER)
    await desk.kept(TEXTS[1], domain="shop")
    await desk.kept(TEXTS[2])
    assert await desk.spaces.reset(desk.world.call()) == 2
    assert await desk.contents() == [TEXTS[0]]
    with pytest.raises(Forbidden):
        await desk.spaces.reset(desk.world.call(scopes=frozenset({Scope.READ})))


async def test_a_memory_is_read_by_its_reference(desk: Desk) -> None:
    memory = (await desk.kept(TEXTS[0], external_ref="r", domain="shop")).memory
    assert await desk.read.by_external_ref(desk.world.call(), "r") == memory
    for call, ref in (
        (desk.world.call(), "s"),
        (desk.world.call(allowed_spaces=frozenset({desk.world.principal.personal_space_id})), "r"),
        (replace(desk.world.call(), principal=await desk.world.stranger()), "r"),
    ):
        with pytest.raises(NotFound):
            await desk.read.by_external_ref(call, ref)
    with pytest.raises(InvalidInput):
        await desk.read.by_external_ref(desk.world.call(), "")


async def test_a_feed_shows_every_memory_once_newest_first(desk: Desk) -> None:
    memories = []
    for text in TEXTS:
        desk.world.clock.pass_time(minutes=1)
        memories.append((await desk.kept(text)).memory)
    replaced = (await desk.kept("Bread needs no yeast", supersedes=(memories[2].id,))).memory
    where = MemoryFilter(spaces=frozenset({memories[0].space_id, SpaceId("not there")}))
    seen: list[Memory] = []
    after: FeedPosition | None = None
    while page := await desk.read.feed(desk.world.call(), where, after=after, limit=2, with_superseded=False):
        seen += page
        after = FeedPosition(page[-1].created_at, page[-1].id)
    assert seen == [replaced, memories[1], memories[0]]
    every = await desk.read.feed(desk.world.call(), where, after=None, limit=10, with_superseded=True)
    assert [memory.content for memory in every] == ["Bread needs no yeast", *reversed(TEXTS)]
    nowhere = replace(where, spaces=frozenset[SpaceId]())
    assert await desk.read.feed(desk.world.call(), nowhere, after=None, limit=1, with_superseded=True) == ()
    for limit in (0, 1001):
        with pytest.raises(InvalidInput):
            await desk.read.feed(desk.world.call(), where, after=None, limit=limit, with_superseded=True)


async def exported(desk: Desk, **principal: Any) -> list[tuple[Memory, tuple[Association, ...]]]:
    pages = desk.read.export(desk.world.call(**principal))
    return [each async for page in pages for each in page]


async def test_an_export_holds_every_memory_and_every_association_once(desk: Desk) -> None:
    for number in range(60):
        await desk.kept(f"Xylo{number} is note {number} of the zeta{number} set", concepts=(f"note {number}", "set"))
    first = (await desk.kept(TEXTS[0], domain="shop", concepts=("whale", "song"))).memory
    await desk.kept(TEXTS[1], domain="shop", supersedes=(first.id,), concepts=("granite", "rock"))
    held = await exported(desk)
    assert len({memory.id for memory, _ in held}) == len(held) == 62
    pairs = [(each.source, each.target) for _, owned in held for each in owned]
    assert len(pairs) == len(set(pairs)) == 62
    assert {("song", "whale"), ("granite", "rock")} <= set(pairs)
    assert all(memory.concepts and concept_key(memory.concepts[0]) for memory, _ in held)


async def test_an_export_holds_what_may_be_read_and_deleted_and_nothing_else(desk: Desk) -> None:
    memory = (await desk.kept(TEXTS[0], domain="read only")).memory
    await become(desk, memory.space_id, Role.VIEWER)
    mine = (await desk.kept(TEXTS[1])).memory
    assert [each.id for each, _ in await exported(desk)] == [mine.id]
    assert await exported(desk, allowed_spaces=frozenset({memory.space_id})) == []
    for scopes in ({Scope.READ}, {Scope.DELETE}):
        with pytest.raises(Forbidden):
            desk.read.export(desk.world.call(scopes=frozenset(scopes)))


async def test_statistics_count_what_may_be_read(desk: Desk) -> None:
    nothing = await desk.read.statistics(desk.world.call())
    assert nothing == MemoryStatistics(
        episodes=0,
        prototypes=0,
        singletons=0,
        associations=0,
        fingerprints=0,
        domains=(),
        average_valence=0.0,
        average_importance=0.0,
    )
    memories = [(await desk.kept(text, domain="shop", concepts=("a", "b"))).memory for text in TEXTS[:2]]
    memories.append((await desk.kept(TEXTS[2])).memory)
    await desk.spaces.ensure(desk.world.call(), "empty")
    hub = await desk.world.space(SpaceKind.HUB, Role.OWNER)
    await desk.world.engine.write.memory(desk.world.call(), NewMemory(content="A note of the hub", space_id=hub))
    spaces = frozenset(memory.space_id for memory in memories)
    moved = MoveValence(memory_ids=frozenset({memories[0].id}), spaces=spaces, outcome=1.0, rate=0.4)
    await desk.world.store.commit([moved], now=desk.world.clock.now())
    counted = await desk.read.statistics(desk.world.call())
    assert (counted.episodes, counted.prototypes, counted.singletons) == (4, 0, 0)
    assert (counted.associations >= 1, counted.fingerprints, counted.domains) == (True, 4, ("general", "shop"))
    assert counted.average_valence == pytest.approx(0.1)
    every = [memory.importance for memory in memories]
    assert counted.average_importance == pytest.approx((sum(every) + 0.5) / 4)
    nowhere = desk.world.call(allowed_spaces=frozenset({SpaceId("not there")}))
    assert await desk.read.statistics(nowhere) == nothing
