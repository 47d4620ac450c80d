"""Memories as a tenant's store keeps them: put, change, delete, and read back whole."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from polymem.domain.model import ContentType, MemoryId, MemoryState, MemoryType, MemoryVersion, SpaceId, TenantId, Turn
from polymem.errors import NotFound
from polymem.ports.changes import (
    AddSpace,
    AlreadyDeleted,
    Applied,
    Change,
    Deleted,
    DeleteMemory,
    Duplicate,
    Forgotten,
    Missing,
    RevisionMoved,
    SetEmbedding,
    Stored,
    Updated,
    UpdateMemory,
)
from polymem.ports.directory import NewAccount
from polymem.ports.storage import Storage, TenantStore

if TYPE_CHECKING:
    from contract.conftest import Connect, Made

UNKNOWN = MemoryId("0190aaaa-0000-7000-8000-000000000000")


async def test_a_memory_reads_back_as_it_was_put(make: Made, account: NewAccount, store: TenantStore) -> None:
    memory = make.memory(
        account,
        content="Ünïcode, emoji 🜚, a \"quote\", a 'tick', a\nnew line and a tab\t",
        memory_type=MemoryType.PINNED,
        state=MemoryState.PAUSED,
        tags=("b", "a", "b", "ä, c"),
        metadata={"z": [1, 2.5, True, None, {"deep": {"er": "x"}}], "a": 12345678901234567890123, "": ""},
        source="agent-7",
        agent_id="agent",
        session_id="s 1",
        updated_by="someone",
        superseded_by=UNKNOWN,
        derived_from=(MemoryId("b"), MemoryId("a")),
        version=7,
        revision=9,
    )
    result = await store.commit([make.put(memory)], now=make.at(1))
    assert result == Applied((Stored(memory.id),), 1)
    assert await store.get_memories([memory.id], frozenset({account.space.id})) == {memory.id: memory}


@pytest.mark.parametrize("metadata", [None, {}, [], "", 0, False, 1.0, -0.5, "text", [None], {"k": None}, [[], {}]])
async def test_every_json_value_is_metadata(
    make: Made, account: NewAccount, store: TenantStore, metadata: object
) -> None:
    memory = make.memory(account, metadata=metadata)
    await store.commit([make.put(memory)], now=make.at())
    found = await store.get_memories([memory.id], frozenset({account.space.id}))
    assert found == {memory.id: memory}
    assert type(found[memory.id].metadata) is type(metadata)


async def test_a_turn_reads_back_with_its_role_seq_and_content_type(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    turn = Turn(role="assistant", seq=0, content_type=ContentType.JSON)
    memory = make.turn(account, "session", 0, turn=turn)
    await store.commit([make.put(memory)], now=make.at())
    assert await store.get_memories([memory.id], frozenset({account.space.id})) == {memory.id: memory}


async def test_memories_come_in_the_order_of_the_ids_and_only_from_the_given_spaces(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    other = make.space()
    await store.commit([AddSpace(space=other, members=())], now=make.at())
    here = [make.memory(account) for _ in range(3)]
    there = make.memory(account, space_id=other.id)
    await store.commit([make.put(memory) for memory in [*here, there]], now=make.at())
    asked = [here[2].id, UNKNOWN, there.id, here[0].id, here[2].id]
    found = await store.get_memories(asked, frozenset({account.space.id}))
    assert list(found.items()) == [(here[2].id, here[2]), (here[0].id, here[0])]
    assert await store.get_memories(asked, frozenset()) == {}
    assert await store.get_memories([], frozenset({account.space.id})) == {}
    assert await store.get_memories([there.id], frozenset({other.id, account.space.id})) == {there.id: there}


async def test_a_put_into_an_unknown_space_is_not_found_and_stores_nothing(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    good, bad = make.memory(account), make.memory(account, space_id=SpaceId("nowhere"))
    with pytest.raises(NotFound) as raised:
        await store.commit([make.put(good), make.put(bad)], now=make.at())
    assert (raised.value.kind, raised.value.identifier) == ("space", "nowhere")
    assert (await store.count_memories(), await store.change_no()) == (0, 0)


async def test_a_commit_to_an_unknown_tenant_is_not_found_and_its_reads_are_empty(storage: Storage, make: Made) -> None:
    stranger = make.account("stranger")
    store = storage.tenant(stranger.tenant.id)
    assert store.tenant_id == stranger.tenant.id
    with pytest.raises(NotFound) as raised:
        await store.commit([make.put(make.memory(stranger))], now=make.at())
    assert raised.value.kind == "tenant"
    assert (await store.count_memories(), await store.change_no()) == (0, 0)


# --- identities ------------------------------------------------------------------------------------------


async def test_a_second_memory_of_one_identity_is_a_duplicate_of_the_first_in_any_state(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    first = make.memory(account, state=MemoryState.ARCHIVED)
    second, third = make.memory(account), make.memory(account)
    result = await store.commit(
        [make.put(first, identity="x"), make.put(second, identity="x"), make.put(third, identity="y")], now=make.at()
    )
    assert result == Applied((Stored(first.id), Duplicate(first.id), Stored(third.id)), 1)
    again = await store.commit([make.put(make.memory(account), identity="x")], now=make.at())
    assert again == Applied((Duplicate(first.id),), 2)
    found = await store.get_memories([first.id, second.id, third.id], frozenset({account.space.id}))
    assert found == {first.id: first, third.id: third}


async def test_memories_without_identity_are_never_duplicates(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    twins = [make.memory(account, content="same") for _ in range(2)]
    result = await store.commit([make.put(twin) for twin in twins], now=make.at())
    assert result == Applied(tuple(Stored(twin.id) for twin in twins), 1)


async def test_an_id_that_is_there_is_a_duplicate_and_one_that_was_deleted_is_forgotten(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    memory = make.memory(account)
    delete = DeleteMemory(memory_id=memory.id, spaces=frozenset({account.space.id}))
    changed = replace(memory, content="other")
    result = await store.commit([make.put(memory), make.put(changed), delete, make.put(memory)], now=make.at())
    assert result == Applied((Stored(memory.id), Duplicate(memory.id), Deleted(memory.id), Forgotten()), 1)


async def test_a_deleted_identity_may_come_back_unless_it_is_remembered(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    spaces = frozenset({account.space.id})
    first, second, third = (make.memory(account) for _ in range(3))
    put = await store.commit([make.put(first, identity="x")], now=make.at())
    assert put == Applied((Stored(first.id),), 1)
    result = await store.commit(
        [DeleteMemory(memory_id=first.id, spaces=spaces), make.put(second, identity="x")], now=make.at()
    )
    assert result == Applied((Deleted(first.id), Stored(second.id)), 2)
    gone = DeleteMemory(memory_id=second.id, spaces=spaces, remembers_identity=True)
    result = await store.commit([gone, make.put(third, identity="x")], now=make.at())
    assert result == Applied((Deleted(second.id), Forgotten()), 3)
    later = await store.commit([make.put(make.memory(account), identity="x")], now=make.at())
    assert later == Applied((Forgotten(),), 4)
    assert await store.count_memories() == 0


async def test_remembering_a_memory_without_identity_forgets_nothing_else(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    first, second = make.memory(account), make.memory(account)
    delete = DeleteMemory(memory_id=first.id, spaces=frozenset({account.space.id}), remembers_identity=True)
    result = await store.commit([make.put(first), delete, make.put(second)], now=make.at())
    assert result == Applied((Stored(first.id), Deleted(first.id), Stored(second.id)), 1)


# --- updates ---------------------------------------------------------------------------------------------


async def test_an_update_replaces_the_memory_and_keeps_its_earlier_state(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    spaces = frozenset({account.space.id})
    first = make.memory(account, tags=("a", "b"), metadata={"n": 1}, source="s")
    await store.commit([make.put(first)], now=make.at(1))
    second = replace(
        first, content="new", tags=("b", "c"), metadata=["m"], version=2, revision=2, updated_at=make.at(2)
    )
    third = replace(second, content="newest", version=3, revision=5, updated_by="bob", updated_at=make.at(3))
    one = UpdateMemory(memory=second, index=make.entry(), expected_revision=1, replaced_by="amy", reason="edit")
    two = UpdateMemory(memory=third, index=make.entry(), expected_revision=2, replaced_by=None, reason="again")
    assert await store.commit([one], now=make.at(2)) == Applied((Updated(first.id),), 2)
    assert await store.commit([two], now=make.at(3)) == Applied((Updated(first.id),), 3)
    assert await store.get_memories([first.id], spaces) == {first.id: third}
    assert await store.list_versions(first.id, spaces) == (
        MemoryVersion(memory=second, replaced_at=make.at(3), replaced_by=None, reason="again"),
        MemoryVersion(memory=first, replaced_at=make.at(2), replaced_by="amy", reason="edit"),
    )


async def test_an_update_without_history_leaves_no_version(make: Made, account: NewAccount, store: TenantStore) -> None:
    memory = make.memory(account)
    moved = replace(memory, state=MemoryState.COOLING, revision=2)
    update = UpdateMemory(
        memory=moved, index=make.entry(), expected_revision=1, replaced_by=None, reason="", keeps_history=False
    )
    await store.commit([make.put(memory), update], now=make.at())
    spaces = frozenset({account.space.id})
    assert await store.get_memories([memory.id], spaces) == {memory.id: moved}
    assert await store.list_versions(memory.id, spaces) == ()


async def test_an_update_of_what_is_not_there_is_missing(make: Made, account: NewAccount, store: TenantStore) -> None:
    memory = make.memory(account)
    update = UpdateMemory(memory=memory, index=make.entry(), expected_revision=1, replaced_by=None, reason="")
    assert await store.commit([update], now=make.at()) == Applied((Missing(memory.id),), 1)
    assert await store.count_memories() == 0


async def test_an_update_against_another_revision_refuses_the_whole_commit(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    memory, other = make.memory(account, revision=4), make.memory(account)
    await store.commit([make.put(memory)], now=make.at())
    update = UpdateMemory(
        memory=replace(memory, content="x", revision=4), index=make.entry(), expected_revision=3,
        replaced_by=None, reason="",
    )  # fmt: skip
    result = await store.commit([make.put(other), update], now=make.at())
    assert result == RevisionMoved(memory.id, 4)
    spaces = frozenset({account.space.id})
    assert await store.get_memories([memory.id, other.id], spaces) == {memory.id: memory}
    assert (await store.change_no(), await store.count_memories()) == (1, 1)


async def test_a_later_change_sees_the_revision_an_earlier_one_made(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    memory = make.memory(account)
    second, third = replace(memory, revision=2), replace(memory, revision=3)
    one = UpdateMemory(memory=second, index=make.entry(), expected_revision=1, replaced_by=None, reason="")
    two = UpdateMemory(memory=third, index=make.entry(), expected_revision=2, replaced_by=None, reason="")
    result = await store.commit([make.put(memory), one, two], now=make.at())
    assert result == Applied((Stored(memory.id), Updated(memory.id), Updated(memory.id)), 1)
    assert await store.commit([two], now=make.at()) == RevisionMoved(memory.id, 3)


async def test_an_update_can_move_a_memory_to_another_space(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    other = make.space()
    memory = make.memory(account)
    moved = replace(memory, space_id=other.id, revision=2)
    update = UpdateMemory(memory=moved, index=make.entry(), expected_revision=1, replaced_by=None, reason="move")
    await store.commit([AddSpace(space=other, members=()), make.put(memory), update], now=make.at())
    assert await store.get_memories([memory.id], frozenset({account.space.id})) == {}
    assert await store.get_memories([memory.id], frozenset({other.id})) == {memory.id: moved}
    assert await store.list_versions(memory.id, frozenset({account.space.id})) == ()
    assert len(await store.list_versions(memory.id, frozenset({other.id}))) == 1


async def test_an_update_into_an_unknown_space_is_not_found_and_changes_nothing(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    memory = make.memory(account)
    await store.commit([make.put(memory)], now=make.at())
    lost = replace(memory, space_id=SpaceId("nowhere"), revision=2)
    update = UpdateMemory(memory=lost, index=make.entry(), expected_revision=1, replaced_by=None, reason="")
    with pytest.raises(NotFound):
        await store.commit([update], now=make.at())
    assert await store.get_memories([memory.id], frozenset({account.space.id})) == {memory.id: memory}
    assert await store.list_versions(memory.id, frozenset({account.space.id})) == ()


# --- deletes ---------------------------------------------------------------------------------------------


async def test_a_delete_takes_the_memory_and_its_history_and_leaves_a_tombstone(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    spaces = frozenset({account.space.id})
    memory = make.memory(account, tags=("a",))
    update = UpdateMemory(
        memory=replace(memory, revision=2), index=make.entry("b"), expected_revision=1, replaced_by=None, reason=""
    )
    put = make.put(memory, "a")
    await store.commit([replace(put, index=make.entry("a", embedding=make.embedding())), update], now=make.at())
    delete = DeleteMemory(memory_id=memory.id, spaces=spaces)
    assert not await store.is_deleted(memory.id, spaces)
    assert await store.commit([delete], now=make.at()) == Applied((Deleted(memory.id),), 2)
    assert await store.get_memories([memory.id], spaces) == {}
    assert await store.list_versions(memory.id, spaces) == ()
    assert await store.is_deleted(memory.id, spaces)
    assert await store.count_memories() == 0
    assert await store.commit([delete, delete], now=make.at()) == Applied((AlreadyDeleted(memory.id),) * 2, 3)
    assert [finding for finding in await storage.check() if not finding.is_ok] == []


async def test_a_delete_reaches_only_into_the_given_spaces(make: Made, account: NewAccount, store: TenantStore) -> None:
    other = make.space()
    memory = make.memory(account)
    await store.commit([AddSpace(space=other, members=()), make.put(memory)], now=make.at())
    elsewhere = DeleteMemory(memory_id=memory.id, spaces=frozenset({other.id}))
    nowhere = DeleteMemory(memory_id=memory.id, spaces=frozenset())
    never = DeleteMemory(memory_id=UNKNOWN, spaces=frozenset({account.space.id, other.id}))
    result = await store.commit([elsewhere, nowhere, never], now=make.at())
    assert result == Applied((Missing(memory.id), Missing(memory.id), Missing(UNKNOWN)), 2)
    here = DeleteMemory(memory_id=memory.id, spaces=frozenset({account.space.id, other.id}))
    result = await store.commit([here, elsewhere], now=make.at())
    assert result == Applied((Deleted(memory.id), Missing(memory.id)), 3)
    assert not await store.is_deleted(memory.id, frozenset({other.id}))
    assert not await store.is_deleted(memory.id, frozenset())
    assert not await store.is_deleted(UNKNOWN, frozenset({account.space.id}))


# --- vectors ---------------------------------------------------------------------------------------------


async def test_memories_without_complete_vectors_of_the_model_are_listed_oldest_first(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    other_model = replace(make.model, revision="2")
    embeddings = {
        "none": None,
        "done": make.embedding(1),
        "part": make.embedding(2, is_complete=False),
        "other": make.embedding(3, model=other_model),
        "other part": make.embedding(4, model=other_model, is_complete=False),
        "last": None,
    }
    memories = {name: make.memory(account) for name in embeddings}
    for name, embedding in embeddings.items():
        change = replace(make.put(memories[name]), index=make.entry("a", embedding=embedding))
        await store.commit([change], now=make.at())
    lacking = tuple(memories[name].id for name in ("none", "part", "other", "other part", "last"))
    assert await store.list_without_vectors(make.model, limit=10) == lacking
    assert await store.list_without_vectors(make.model, limit=2) == lacking[:2]
    assert await store.list_without_vectors(make.model, limit=0) == ()
    for_other = tuple(memories[name].id for name in ("none", "done", "part", "other part", "last"))
    assert await store.list_without_vectors(other_model, limit=10) == for_other
    unknown = replace(make.model, name="unknown")
    assert await store.list_without_vectors(unknown, limit=10) == tuple(memory.id for memory in memories.values())


async def test_vectors_made_later_count_only_for_the_revision_they_were_made_of(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    memory = make.memory(account, revision=3)
    await store.commit([make.put(memory)], now=make.at())
    stale = SetEmbedding(memory_id=memory.id, expected_revision=2, embedding=make.embedding())
    gone = SetEmbedding(memory_id=UNKNOWN, expected_revision=1, embedding=make.embedding())
    result = await store.commit([stale, gone], now=make.at())
    assert result == Applied((Missing(memory.id), Missing(UNKNOWN)), 2)
    assert await store.list_without_vectors(make.model, limit=9) == (memory.id,)
    fresh = SetEmbedding(memory_id=memory.id, expected_revision=3, embedding=make.embedding())
    assert await store.commit([fresh, fresh], now=make.at()) == Applied((Updated(memory.id),) * 2, 3)
    assert await store.list_without_vectors(make.model, limit=9) == ()
    assert await store.get_memories([memory.id], frozenset({account.space.id})) == {memory.id: memory}
    assert [finding for finding in await storage.check() if not finding.is_ok] == []


async def test_an_update_without_vectors_drops_those_of_the_older_text(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    memory = make.memory(account)
    put = replace(make.put(memory), index=make.entry("a", embedding=make.embedding()))
    update = UpdateMemory(
        memory=replace(memory, revision=2), index=make.entry("b"), expected_revision=1, replaced_by=None, reason=""
    )
    await store.commit([put], now=make.at())
    assert await store.list_without_vectors(make.model, limit=9) == ()
    await store.commit([update], now=make.at())
    assert await store.list_without_vectors(make.model, limit=9) == (memory.id,)


# --- two tenants, two handles ----------------------------------------------------------------------------


async def test_two_tenants_never_see_each_other(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    rival = make.account("rival")
    await storage.directory.create_account(rival)
    theirs = storage.tenant(rival.tenant.id)
    mine, same = make.memory(account, session_id="s"), make.memory(rival, session_id="s")
    await store.commit([make.put(mine, identity="x")], now=make.at())
    result = await theirs.commit([make.put(same, identity="x")], now=make.at())
    assert result == Applied((Stored(same.id),), 1)
    both = frozenset({account.space.id, rival.space.id})
    assert await theirs.get_memories([mine.id, same.id], both) == {same.id: same}
    attack: list[Change] = [
        DeleteMemory(memory_id=mine.id, spaces=both),
        UpdateMemory(memory=mine, index=make.entry(), expected_revision=1, replaced_by=None, reason=""),
        SetEmbedding(memory_id=mine.id, expected_revision=1, embedding=make.embedding()),
    ]
    assert await theirs.commit(attack, now=make.at()) == Applied((Missing(mine.id),) * 3, 2)
    assert await store.get_memories([mine.id, same.id], both) == {mine.id: mine}
    assert await store.list_without_vectors(make.model, limit=9) == (mine.id,)
    await store.commit([DeleteMemory(memory_id=mine.id, spaces=both, remembers_identity=True)], now=make.at())
    assert not await theirs.is_deleted(mine.id, both)
    assert (await store.count_memories(), await theirs.count_memories()) == (0, 1)
    one_space = make.memory(rival, space_id=account.space.id)
    with pytest.raises(NotFound):
        await theirs.commit([make.put(one_space)], now=make.at())


async def test_two_tenants_may_use_one_id(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    rival = make.account("rival")
    await storage.directory.create_account(rival)
    theirs = storage.tenant(rival.tenant.id)
    mine = make.memory(account, content="mine")
    same = make.memory(rival, id=mine.id, content="theirs")
    await store.commit([make.put(mine)], now=make.at())
    assert await theirs.commit([make.put(same)], now=make.at()) == Applied((Stored(mine.id),), 1)
    assert await theirs.get_memories([mine.id], frozenset({rival.space.id})) == {mine.id: same}
    assert await store.get_memories([mine.id], frozenset({account.space.id})) == {mine.id: mine}


async def test_a_commit_is_seen_by_the_next_read_of_another_process(
    make: Made, account: NewAccount, store: TenantStore, connect: Connect
) -> None:
    other = (await connect()).tenant(TenantId(account.tenant.id))
    spaces = frozenset({account.space.id})
    for number in range(5):
        memory = make.memory(account)
        writer, reader = (store, other) if number % 2 else (other, store)
        await writer.commit([make.put(memory)], now=make.at())
        assert await reader.get_memories([memory.id], spaces) == {memory.id: memory}
        assert await reader.change_no() == number + 1
