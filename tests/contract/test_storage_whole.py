"""A storage as a whole: it proves that it works, closes without loss, and opens again as it was."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from polymem.errors import StorageUnavailable
from polymem.ports.changes import AddJob, Applied
from polymem.ports.directory import NewAccount
from polymem.ports.storage import FindingKind, Storage, TenantStore

if TYPE_CHECKING:
    from contract.conftest import Connect, Made


async def test_a_ping_is_answered_until_the_storage_is_closed(storage: Storage) -> None:
    await storage.ping()
    await storage.close()
    with pytest.raises(StorageUnavailable):
        await storage.ping()


async def test_a_closed_storage_answers_nothing_and_closing_twice_is_harmless(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    await storage.close()
    await storage.close()
    with pytest.raises(StorageUnavailable):
        await store.commit([make.put(make.memory(account))], now=make.at())
    with pytest.raises(StorageUnavailable):
        await store.change_no()


async def test_closing_finishes_what_was_accepted(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage, connect: Connect
) -> None:
    memories = [make.memory(account) for _ in range(100)]
    commits = [asyncio.create_task(store.commit([make.put(memory)], now=make.at())) for memory in memories]
    await asyncio.sleep(0)  # all are handed over
    await storage.close()
    results = await asyncio.gather(*commits)
    assert all(isinstance(result, Applied) for result in results)
    again = (await connect()).tenant(account.tenant.id)
    found = await again.get_memories([memory.id for memory in memories], frozenset({account.space.id}))
    assert found == {memory.id: memory for memory in memories}


async def test_what_was_stored_is_there_when_the_storage_is_opened_again(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage, connect: Connect
) -> None:
    memory, job = make.memory(account, tags=("a",)), make.job(account)
    await store.commit([make.put(memory, "a", "b", identity="x"), AddJob(job=job)], now=make.at())
    await storage.close()
    again = await connect()
    reopened = again.tenant(account.tenant.id)
    assert await reopened.get_memories([memory.id], frozenset({account.space.id})) == {memory.id: memory}
    assert await reopened.change_no() == 1
    claimed = await again.jobs.claim(queues=frozenset({"default"}), now=make.at(1), lease_until_at=make.at(2))
    assert claimed is not None
    assert claimed.id == job.id
    assert await again.directory.list_tenants() == (account.tenant,)


async def test_a_check_looks_at_everything_and_finds_nothing_wrong(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    await store.commit([make.put(make.memory(account), "a", "b"), AddJob(job=make.job(account))], now=make.at())
    findings = await storage.check()
    assert {finding.kind for finding in findings} == set(FindingKind)
    assert [finding for finding in findings if not finding.is_ok] == []
