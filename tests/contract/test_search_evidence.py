"""What the index tells of its candidates and of itself."""

from dataclasses import replace
from typing import Any

import numpy as np

from polymem.domain.model import MemoryId, TenantId
from polymem.ports.search import TermStatistics
from polymem.ports.storage import DeleteMemory, IndexEntry, NewAccount, PutMemory, SetEmbedding, Storage, TenantStore


async def test_the_counts_are_those_of_all_spaces_and_states(
    storage: Storage, account: NewAccount, store: TenantStore, make: Any
) -> None:
    first, second = make.memory(account), make.memory(account)
    await store.commit([make.put(first, "cat", "cat", "dog"), make.put(second, "cat")], now=make.at())
    index = storage.search(account.tenant.id)
    assert await index.term_statistics(["cat", "dog", "emu"]) == TermStatistics(
        documents=2, average_length=2.0, documents_with={"cat": 2, "dog": 1, "emu": 0}
    )
    await store.commit([DeleteMemory(memory_id=first.id, spaces=frozenset({account.space.id}))], now=make.at())
    assert await index.term_statistics(["cat", "dog"]) == TermStatistics(
        documents=1, average_length=1.0, documents_with={"cat": 1, "dog": 0}
    )


async def test_a_tenant_without_memories_counts_nothing(storage: Storage, account: NewAccount) -> None:
    empty = TermStatistics(documents=0, average_length=0.0, documents_with={"cat": 0})
    assert await storage.search(account.tenant.id).term_statistics(["cat"]) == empty
    assert await storage.search(TenantId("nobody")).term_statistics(["cat"]) == empty


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
    found = await index.evidence([with_vectors.id, MemoryId("unknown"), without.id, without.id], make.model)
    assert set(found) == {with_vectors.id, without.id}
    assert found[with_vectors.id].terms == ("a", "b", "a")
    assert [tokens.tolist() for tokens in found[with_vectors.id].token_vectors] == [
        chunk.token_vectors.tolist() for chunk in many.chunks
    ]
    expected = np.array([chunk.embedding for chunk in many.chunks])
    assert found[with_vectors.id].embeddings.dtype == np.float32
    np.testing.assert_allclose(found[with_vectors.id].embeddings, expected, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found[with_vectors.id].embeddings, axis=1), 1.0, atol=1e-6)
    assert found[without.id].terms == ()
    assert found[without.id].token_vectors == ()
    assert found[without.id].embeddings.shape == (0, make.model.dimension)
    assert await index.evidence([], make.model) == {}


async def test_vectors_of_another_model_are_no_evidence(
    storage: Storage, account: NewAccount, store: TenantStore, make: Any
) -> None:
    memory = make.memory(account)
    await store.commit([PutMemory(memory=memory, index=make.entry("a", embedding=make.embedding()))], now=make.at())
    newer = replace(make.model, revision="2")
    index = storage.search(account.tenant.id)
    assert (await index.evidence([memory.id], newer))[memory.id].token_vectors == ()
    await store.commit(
        [SetEmbedding(memory_id=memory.id, expected_revision=1, embedding=make.embedding(2, model=newer))],
        now=make.at(),
    )
    assert len((await index.evidence([memory.id], newer))[memory.id].token_vectors) == 1
    assert (await index.evidence([memory.id], make.model))[memory.id].token_vectors == ()


async def test_another_tenants_memory_is_no_evidence(
    storage: Storage, account: NewAccount, store: TenantStore, make: Any
) -> None:
    memory = make.memory(account)
    await store.commit([make.put(memory, "secret")], now=make.at())
    other = make.account(name="another")
    assert await storage.directory.create_account(other)
    assert await storage.search(other.tenant.id).evidence([memory.id], make.model) == {}
