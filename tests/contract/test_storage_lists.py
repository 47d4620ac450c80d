"""Lists of memories: every filter, both orders, exact totals, sessions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from polymem.domain.model import MemoryState, MemoryType, SpaceId
from polymem.domain.query import ListOrder, MemoryFilter, MemoryPage
from polymem.ports.changes import AddSpace, DeleteMemory, UpdateMemory
from polymem.ports.directory import NewAccount
from polymem.ports.storage import Storage, TenantStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from contract.conftest import Made
    from polymem.domain.model import Memory

OTHER = SpaceId("0190aaaa-0000-7000-8000-00000000000f")
EVERYTHING = 100


@pytest.fixture
async def shelf(make: Made, account: NewAccount, store: TenantStore) -> dict[str, Memory]:
    """Memories that differ each in one thing from `plain`."""
    await store.commit([AddSpace(space=make.space(id=OTHER), members=())], now=make.at())
    made: dict[str, dict[str, Any]] = {
        "plain": {},
        "elsewhere": {"space_id": OTHER},
        "paused": {"state": MemoryState.PAUSED},
        "archived": {"state": MemoryState.ARCHIVED},
        "pinned": {"memory_type": MemoryType.PINNED},
        "tagged a": {"tags": ("a",)},
        "tagged ab": {"tags": ("b", "a")},
        "odd tag": {"tags": ("a%", "")},
        "source": {"source": "web"},
        "agent": {"agent_id": "bot", "source": "bot"},
        "session 1": {"session_id": "s1"},
        "session 2": {"session_id": "s2", "agent_id": "bot"},
        "old": {"created_at": make.at(-1000), "updated_at": make.at(-500)},
        "micro": {"created_at": make.at(-2000), "updated_at": make.at(-1999.999999)},
    }
    shelf = {name: make.memory(account, **fields) for name, fields in made.items()}
    shelf["turn"] = make.turn(account, "s1", 1)
    await store.commit([make.put(memory) for memory in shelf.values()], now=make.at())
    return shelf


async def _names(store: TenantStore, shelf: dict[str, Memory], where: MemoryFilter) -> set[str]:
    page = await store.list_memories(where, order=ListOrder.UPDATED_NEWEST, limit=EVERYTHING, offset=0)
    assert page.total == len(page.memories)
    names = {memory.id: name for name, memory in shelf.items()}
    assert all(shelf[names[memory.id]] == memory for memory in page.memories)
    return {names[memory.id] for memory in page.memories}


ACTIVE_HERE = {
    "plain",
    "pinned",
    "tagged a",
    "tagged ab",
    "odd tag",
    "source",
    "agent",
    "session 1",
    "session 2",
    "old",
    "micro",
    "turn",
}


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, ACTIVE_HERE),
        ({"states": None}, ACTIVE_HERE | {"paused", "archived"}),
        ({"states": frozenset({MemoryState.PAUSED})}, {"paused"}),
        ({"states": frozenset({MemoryState.PAUSED, MemoryState.ARCHIVED})}, {"paused", "archived"}),
        ({"states": frozenset()}, set()),
        ({"memory_types": frozenset({MemoryType.PINNED})}, {"pinned"}),
        ({"memory_types": frozenset({MemoryType.PINNED, MemoryType.SESSION})}, {"pinned", "turn"}),
        ({"memory_types": frozenset()}, set()),
        ({"tags": ("a",)}, {"tagged a", "tagged ab"}),
        ({"tags": ("a", "b")}, {"tagged ab"}),
        ({"tags": ("b", "b")}, {"tagged ab"}),
        ({"tags": ("a%",)}, {"odd tag"}),
        ({"tags": ("",)}, {"odd tag"}),
        ({"tags": ("A",)}, set()),
        ({"tags": ("a", "missing")}, set()),
        ({"source": "web"}, {"source"}),
        ({"source": ""}, set()),
        ({"agent_id": "bot"}, {"agent", "session 2"}),
        ({"agent_id": "bot", "source": "bot"}, {"agent"}),
        ({"session_ids": frozenset({"s1"})}, {"session 1", "turn"}),
        ({"session_ids": frozenset({"s1", "s2", "none"})}, {"session 1", "session 2", "turn"}),
        ({"session_ids": frozenset()}, set()),
        ({"session_ids": frozenset({"s1"}), "memory_types": frozenset({MemoryType.SESSION})}, {"turn"}),
    ],
)
async def test_a_filter_passes_exactly_what_meets_every_condition(
    account: NewAccount, store: TenantStore, shelf: dict[str, Memory], conditions: dict[str, Any], expected: set[str]
) -> None:
    where = MemoryFilter(spaces=frozenset({account.space.id}), **conditions)
    assert await _names(store, shelf, where) == expected


async def test_a_list_reaches_the_given_spaces_only(
    account: NewAccount, store: TenantStore, shelf: dict[str, Memory]
) -> None:
    here, there = account.space.id, OTHER
    assert await _names(store, shelf, MemoryFilter(spaces=frozenset({there}))) == {"elsewhere"}
    assert await _names(store, shelf, MemoryFilter(spaces=frozenset({here, there}))) == ACTIVE_HERE | {"elsewhere"}
    assert await _names(store, shelf, MemoryFilter(spaces=frozenset())) == set()
    many = frozenset({there, *(SpaceId(f"space {number}") for number in range(1000))})
    assert await _names(store, shelf, MemoryFilter(spaces=many)) == {"elsewhere"}


async def test_a_list_of_very_many_sessions_is_answered(
    account: NewAccount, store: TenantStore, shelf: dict[str, Memory]
) -> None:
    sessions = frozenset({"s1", *(f"session {number}" for number in range(1000))})
    where = MemoryFilter(spaces=frozenset({account.space.id}), session_ids=sessions)
    assert await _names(store, shelf, where) == {"session 1", "turn"}
    assert await _names(store, shelf, replace(where, spaces=frozenset())) == set()
    assert await _names(store, shelf, replace(where, tags=("a",))) == set()


async def test_a_tag_that_very_many_memories_have_is_listed_whole(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    tags = [("common", "rare") if number % 500 == 0 else ("common",) for number in range(2500)]
    await store.commit([make.put(make.memory(account, tags=each)) for each in tags], now=make.at())
    for wanted, total in ((("common",), 2500), (("common", "rare"), 5), (("rare",), 5), (("common", "none"), 0)):
        where = MemoryFilter(spaces=frozenset({account.space.id}), tags=wanted)
        page = await store.list_memories(where, order=ListOrder.UPDATED_NEWEST, limit=3, offset=1)
        assert (page.total, len(page.memories)) == (total, min(3, max(0, total - 1)))
        assert all(set(wanted) <= set(memory.tags) for memory in page.memories)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (lambda at: {"created_until_at": at(-1999.999999)}, {"micro"}),
        (lambda at: {"created_until_at": at(-2000)}, set()),
        (lambda at: {"created_from_at": at(-2000), "created_until_at": at(-999)}, {"micro", "old"}),
        (lambda at: {"created_from_at": at(-1999.999999), "created_until_at": at(0)}, {"old"}),
        (lambda at: {"updated_until_at": at(-500)}, {"micro"}),
        (lambda at: {"updated_from_at": at(-500), "updated_until_at": at(0)}, {"old"}),
        (lambda at: {"updated_from_at": at(-1999.999999), "updated_until_at": at(-1999.999998)}, {"micro"}),
        (lambda at: {"updated_from_at": at(5), "updated_until_at": at(5)}, set()),
        (lambda at: {"updated_from_at": at(10_000)}, set()),
    ],
)
async def test_times_are_inclusive_from_and_exclusive_until_to_the_microsecond(
    make: Made,
    account: NewAccount,
    store: TenantStore,
    shelf: dict[str, Memory],
    *,
    conditions: Callable[[Callable[[float], object]], dict[str, Any]],
    expected: set[str],
) -> None:
    where = MemoryFilter(spaces=frozenset({account.space.id}), **conditions(make.at))
    assert await _names(store, shelf, where) == expected


async def test_changed_and_deleted_memories_move_in_every_list(
    make: Made, account: NewAccount, store: TenantStore, shelf: dict[str, Memory]
) -> None:
    spaces = frozenset({account.space.id})
    changed = replace(shelf["tagged ab"], tags=("b", "c"), state=MemoryState.PAUSED, revision=2)
    update = UpdateMemory(memory=changed, index=make.entry(), expected_revision=1, replaced_by=None, reason="")
    delete = DeleteMemory(memory_id=shelf["tagged a"].id, spaces=spaces)
    await store.commit([update, delete], now=make.at())
    shelf["tagged ab"] = changed
    assert await _names(store, shelf, MemoryFilter(spaces=spaces, tags=("a",), states=None)) == set()
    assert await _names(store, shelf, MemoryFilter(spaces=spaces, tags=("c", "b"), states=None)) == {"tagged ab"}
    assert await _names(store, shelf, MemoryFilter(spaces=spaces, tags=("c",))) == set()
    expected = ACTIVE_HERE - {"tagged a", "tagged ab"}
    assert await _names(store, shelf, MemoryFilter(spaces=spaces)) == expected


# --- order and pages -------------------------------------------------------------------------------------


async def test_lists_are_newest_first_with_ties_by_id_downwards(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    first = make.memory(account, created_at=make.at(3), updated_at=make.at(4))
    second = make.memory(account, created_at=make.at(2), updated_at=make.at(5))
    third = make.memory(account, created_at=make.at(3), updated_at=make.at(4))
    await store.commit([make.put(memory) for memory in (second, third, first)], now=make.at())
    where = MemoryFilter(spaces=frozenset({account.space.id}))
    by_update = await store.list_memories(where, order=ListOrder.UPDATED_NEWEST, limit=9, offset=0)
    assert by_update == MemoryPage(memories=(second, third, first), total=3)
    by_creation = await store.list_memories(where, order=ListOrder.CREATED_NEWEST, limit=9, offset=0)
    assert by_creation == MemoryPage(memories=(third, first, second), total=3)


@pytest.mark.parametrize("order", list(ListOrder))
async def test_pages_join_to_the_whole_list_and_each_tells_the_true_total(
    make: Made, account: NewAccount, store: TenantStore, order: ListOrder
) -> None:
    await store.commit([AddSpace(space=make.space(id=OTHER), members=())], now=make.at())
    memories = [
        make.memory(account, updated_at=make.at(number % 3), space_id=OTHER if number % 2 else account.space.id)
        for number in range(11)
    ]
    await store.commit([make.put(memory) for memory in memories], now=make.at())
    where = MemoryFilter(spaces=frozenset({account.space.id, OTHER}))
    whole = await store.list_memories(where, order=order, limit=EVERYTHING, offset=0)
    pages = [await store.list_memories(where, order=order, limit=4, offset=offset) for offset in (0, 4, 8)]
    assert tuple(memory for page in pages for memory in page.memories) == whole.memories
    assert {page.total for page in pages} == {11}
    assert await store.list_memories(where, order=order, limit=4, offset=12) == MemoryPage(memories=(), total=11)
    assert await store.list_memories(where, order=order, limit=0, offset=0) == MemoryPage(memories=(), total=11)


async def test_a_tenants_list_never_shows_another_tenants_memories(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    rival = make.account("rival")
    await storage.directory.create_account(rival)
    theirs = storage.tenant(rival.tenant.id)
    memory = make.turn(rival, "s", 1, tags=("a",))
    await theirs.commit([make.put(memory)], now=make.at())
    where = MemoryFilter(spaces=frozenset({account.space.id, rival.space.id}), states=None, tags=("a",))
    page = await store.list_memories(where, order=ListOrder.UPDATED_NEWEST, limit=9, offset=0)
    assert page == MemoryPage(memories=(), total=0)
    assert await store.list_session_messages(["s"], where.spaces, limit_per_session=9) == ()
    assert await store.last_seq("s", rival.space.id) is None
    assert await theirs.last_seq("s", rival.space.id) == 1


# --- sessions --------------------------------------------------------------------------------------------


async def test_session_messages_are_the_first_of_each_session_by_time_seq_and_id(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    def turn(session: str, seq: int, second: float, **fields: Any) -> Memory:
        return make.turn(account, session, seq, created_at=make.at(second), **fields)

    b1, b0, b2 = turn("b", 5, 1), turn("b", 9, 0), turn("b", 6, 1)
    twin_1, twin_2 = turn("a", 1, 3), turn("a", 1, 3)
    archived = turn("a", 0, 3, state=MemoryState.ARCHIVED)
    upper = turn("B", 1, 7)
    insight = make.memory(account, session_id="a")
    stored = [b1, b0, b2, twin_2, twin_1, archived, upper, insight]
    await store.commit([make.put(memory) for memory in stored], now=make.at())
    spaces = frozenset({account.space.id})
    found = await store.list_session_messages(["b", "a", "none", "B", "a"], spaces, limit_per_session=500)
    assert found == (upper, archived, twin_1, twin_2, b0, b1, b2)
    found = await store.list_session_messages(["b", "a"], spaces, limit_per_session=2)
    assert found == (archived, twin_1, b0, b1)
    assert await store.list_session_messages([], spaces, limit_per_session=2) == ()
    assert await store.list_session_messages(["a"], frozenset(), limit_per_session=2) == ()


async def test_an_identity_is_known_when_a_memory_has_it_or_it_was_forgotten(
    make: Made, account: NewAccount, storage: Storage, store: TenantStore
) -> None:
    rival = make.account("rival")
    await storage.directory.create_account(rival)
    held, gone, freed = [make.turn(account, "s", seq) for seq in range(3)]
    puts = [make.put(memory, identity=name) for memory, name in ((held, "held"), (gone, "gone"), (freed, "freed"))]
    await store.commit(puts, now=make.at())
    spaces = frozenset({account.space.id})
    deletions = [
        DeleteMemory(memory_id=gone.id, spaces=spaces, remembers_identity=True),
        DeleteMemory(memory_id=freed.id, spaces=spaces),
    ]
    await store.commit(deletions, now=make.at())
    asked = ["gone", "new", "held", "held", "freed", 'odd " name']
    assert await store.known_identities(asked) == {"held", "gone"}
    assert await store.known_identities([]) == frozenset()
    assert await storage.tenant(rival.tenant.id).known_identities(asked) == frozenset()


async def test_the_last_seq_is_of_the_turns_of_one_session_in_one_space(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    await store.commit([AddSpace(space=make.space(id=OTHER), members=())], now=make.at())
    here = [make.turn(account, "s", seq) for seq in (3, 11, 7)]
    there = make.turn(account, "s", 50, space_id=OTHER)
    other = make.turn(account, "t", 99)
    insight = make.memory(account, session_id="u")
    await store.commit([make.put(memory) for memory in [*here, there, other, insight]], now=make.at())
    assert await store.last_seq("s", account.space.id) == 11
    assert await store.last_seq("s", OTHER) == 50
    assert await store.last_seq("u", account.space.id) is None
    assert await store.last_seq("none", account.space.id) is None
    await store.commit([DeleteMemory(memory_id=here[1].id, spaces=frozenset({account.space.id}))], now=make.at())
    assert await store.last_seq("s", account.space.id) == 7
