"""What the index tells of its candidates and of itself."""

from dataclasses import replace
from typing import Any

import numpy as np

from polymem.domain.model import MemoryId, MemoryState, TenantId
from polymem.domain.query import MemoryFilter
from polymem.ports.changes import AddSpace, DeleteMemory, IndexEntry, PutMemory, SetEmbedding, UpdateMemory
from polymem.ports.directory import NewAccount
from polymem.ports.search import TermStatistics, WordsFound
from polymem.ports.storage import Storage, TenantStore


async def test_the_counts_are_those_of_all_spaces_and_states(
    storage: Storage, account: NewAccount, store: TenantStore, make: Any
) -> None:
    first, second = make.memory(account), make.memory(account)
    await store.commit([make.put(first, "cat", "cat", "dog"), make.put(second, "cat")], now=make.at())
    index = storage.search(account.tenant.id)
    nowhere = MemoryFilter(spaces=frozenset())
    statistics = TermStatistics(documents=2, average_length=2.0, documents_with={"cat": 2, "dog": 1, "emu": 0})
    assert await index.words(["cat", "dog", "emu"], ["cat"], nowhere, limit=5, most=5) == WordsFound(
        statistics=statistics, searched=("cat",), hits=()
    )
    await store.commit([DeleteMemory(memory_id=first.id, spaces=frozenset({account.space.id}))], now=make.at())
    found = await index.words(["cat", "dog"], ["dog", "cat"], nowhere, limit=5, most=5)
    assert found.statistics == TermStatistics(documents=1, average_length=1.0, documents_with={"cat": 1, "dog": 0})
    assert found.searched == ("cat",)


async def test_a_tenant_without_memories_counts_nothing(storage: Storage, account: NewAccount) -> None:
    empty = TermStatistics(documents=0, average_length=0.0, documents_with={"cat": 0})
    nothing = WordsFound(statistics=empty, searched=(), hits=())
    where = MemoryFilter(spaces=frozenset({account.space.id}))
    for tenant_id in (account.tenant.id, TenantId("nobody")):
        assert await storage.search(tenant_id).words(["cat"], ["cat"], where, limit=5, most=5) == nothing


async def test_evidence_is_what_was_stored_and_unknown_ids_are_left_out(
    storage: Storage, account: NewAccount, store: TenantStore, make: Any
) -> None:
    embedding = make.embedding(3)
    many = replace(embedding, chunks=embedding.chunks * 12)
    with_vectors, without = make.memory(account), make.memory(account)
    await store.commit(
        [
            PutMemory(memory=with_vectors, index=IndexEntry(terms=("a", "b", "a"), embedding=many)),
            PutMemory(memory=without, index=IndexEntry(terms=(), embedding=None)),
        ],
        now=make.at(),
    )
    index = storage.search(account.tenant.id)
    found = await index.evidence([with_vectors.id, MemoryId("unknown"), without.id, without.id], make.model, ("c", "a"))
    assert set(found) == {with_vectors.id, without.id}
    assert (found[with_vectors.id].frequencies, found[with_vectors.id].length) == ({"a": 2}, 3)
    assert [tokens.tolist() for tokens in found[with_vectors.id].token_vectors] == [
        chunk.token_vectors.tolist() for chunk in many.chunks
    ]
    expected = np.array([chunk.embedding for chunk in many.chunks])
    assert found[with_vectors.id].embeddings.dtype == np.float32
    np.testing.assert_allclose(found[with_vectors.id].embeddings, expected, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found[with_vectors.id].embeddings, axis=1), 1.0, atol=1e-6)
    assert (found[without.id].frequencies, found[without.id].length) == ({}, 0)
    assert found[without.id].token_vectors == ()
    assert found[without.id].embeddings.shape == (0, make.model.dimension)
    assert await index.evidence([], make.model, ()) == {}


async def test_vectors_of_another_model_are_no_evidence(
    storage: Storage, account: NewAccount, store: TenantStore, make: Any
) -> None:
    memory = make.memory(account)
    await store.commit([PutMemory(memory=memory, index=make.entry("a", embedding=make.embedding()))], now=make.at())
    newer = replace(make.model, revision="2")
    index = storage.search(account.tenant.id)
    assert (await index.evidence([memory.id], newer, ()))[memory.id].token_vectors == ()
    await store.commit(
        [SetEmbedding(memory_id=memory.id, expected_revision=1, embedding=make.embedding(2, model=newer))],
        now=make.at(),
    )
    assert len((await index.evidence([memory.id], newer, ()))[memory.id].token_vectors) == 1
    assert (await index.evidence([memory.id], make.model, ()))[memory.id].token_vectors == ()


async def test_another_tenants_memory_is_no_evidence(
    storage: Storage, account: NewAccount, store: TenantStore, make: Any
) -> None:
    memory = make.memory(account)
    await store.commit([make.put(memory, "secret")], now=make.at())
    other = make.account(name="another")
    assert await storage.directory.create_account(other)
    assert await storage.search(other.tenant.id).evidence([memory.id], make.model, ()) == {}


async def test_evidence_says_when_a_memory_is_from_where_in_its_session_it_stands_and_what_replaced_it(
    storage: Storage, account: NewAccount, store: TenantStore, make: Any
) -> None:
    newer = make.memory(account)
    older = make.memory(account, superseded_by=newer.id, session_id="s")
    turn = make.turn(account, "s", 7)
    await store.commit([make.put(memory, "a") for memory in (newer, older, turn)], now=make.at())
    found = await storage.search(account.tenant.id).evidence([newer.id, older.id, turn.id], make.model, ())
    assert {
        memory_id: (each.created_at, each.session_id, each.role, each.seq, each.superseded_by)
        for memory_id, each in found.items()
    } == {
        newer.id: (newer.created_at, None, None, None, None),
        older.id: (older.created_at, "s", None, None, newer.id),
        turn.id: (turn.created_at, "s", "user", 7, None),
    }


async def test_neighbours_are_the_turns_beside_a_turn_that_pass(
    storage: Storage, account: NewAccount, store: TenantStore, make: Any
) -> None:
    elsewhere = make.space()
    await store.commit([AddSpace(space=elsewhere, members=())], now=make.at())
    turns = [make.turn(account, "s", seq) for seq in (5, 1, 1, 9, 3)]
    hidden = make.turn(account, "s", 4, state=MemoryState.ARCHIVED)
    others = [
        make.turn(account, "other", 2),
        make.turn(account, "s", 2, space_id=elsewhere.id),
        make.memory(account, session_id="s"),
    ]
    await store.commit([make.put(memory, "a") for memory in (*turns, hidden, *others)], now=make.at())
    index = storage.search(account.tenant.id)
    where = MemoryFilter(spaces=frozenset({account.space.id, elsewhere.id}))
    five, one, one_again, nine, three = (turn.id for turn in turns)
    asked = [three, nine, one, hidden.id, MemoryId("unknown"), three, *(other.id for other in others)]
    assert await index.neighbours(asked, where, reach=2) == {
        three: ((-2, one), (-1, one_again), (1, five), (2, nine)),
        nine: ((-2, three), (-1, five)),
        one: ((1, one_again), (2, three)),
        hidden.id: ((-2, one_again), (-1, three), (1, five), (2, nine)),
        others[0].id: (),
        others[1].id: (),
    }
    assert await index.neighbours([three], where, reach=1) == {three: ((-1, one_again), (1, five))}
    nowhere = MemoryFilter(spaces=frozenset())
    assert await index.neighbours([three], nowhere, reach=2) == {three: ()}
    assert await index.neighbours([], where, reach=2) == {}
    assert await storage.search(TenantId("nobody")).neighbours([three], where, reach=2) == {}


async def test_neighbours_follow_every_change(
    storage: Storage, account: NewAccount, store: TenantStore, make: Any
) -> None:
    turns = [make.turn(account, "s", seq) for seq in range(4)]
    await store.commit([make.put(memory, "a") for memory in turns], now=make.at())
    index = storage.search(account.tenant.id)
    where = MemoryFilter(spaces=frozenset({account.space.id}))
    first, second, third, fourth = (turn.id for turn in turns)
    assert await index.neighbours([second], where, reach=1) == {second: ((-1, first), (1, third))}
    await store.commit([DeleteMemory(memory_id=third, spaces=where.spaces)], now=make.at())
    assert await index.neighbours([second, third], where, reach=1) == {second: ((-1, first), (1, fourth))}
    archived = replace(turns[0], state=MemoryState.ARCHIVED, revision=2)
    await store.commit(
        [
            UpdateMemory(memory=archived, index=make.entry("a"), expected_revision=1, replaced_by=None, reason="test"),
            make.put(make.turn(account, "s", 9), "a"),
        ],
        now=make.at(),
    )
    ((_, (before, after)),) = (await index.neighbours([fourth], where, reach=1)).items()
    assert (before, after[0]) == ((-1, second), 1)
    assert await index.neighbours([second], where, reach=1) == {second: ((1, fourth),)}
