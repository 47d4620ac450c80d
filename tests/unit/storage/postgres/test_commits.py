"""Commits of many processes to one tenant, and commits whose answer is lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from polymem.domain.model import IdempotencyClaim, MemoryId
from polymem.domain.query import ListOrder, MemoryFilter
from polymem.errors import NotFound, StorageFull
from polymem.ports.changes import (
    AddJob,
    Applied,
    Associate,
    Associated,
    Deleted,
    DeleteMemory,
    IndexEntry,
    PutMemory,
    Replayed,
    Stored,
)
from polymem.ports.directory import NewAccount
from polymem.storage.postgres.storage import PostgresStorage
from samples import AT, account_of, job_of, memory_of

if TYPE_CHECKING:
    from postgres import PostgresServer
    from unit.storage.postgres.conftest import OpenStorage
    from wire import Wire
BOUND_SECONDS = 30.0
EACH = 25


def put(account: NewAccount, name: str) -> PutMemory:
    return PutMemory(memory=memory_of(account, name), index=IndexEntry(terms=(name,), embedding=None))


async def test_commits_of_two_processes_are_numbered_without_a_gap_and_none_is_seen_late(
    storage: PostgresStorage, account: NewAccount, open_storage: OpenStorage, storage_url: str
) -> None:
    stores = [storage.tenant(account.tenant.id), (await open_storage(storage_url)).tenant(account.tenant.id)]
    reader = (await open_storage(storage_url)).tenant(account.tenant.id)
    where = MemoryFilter(spaces=frozenset({account.space.id}))
    numbers: list[int] = []

    async def write(process: int) -> None:
        for number in range(EACH):
            result = await stores[process].commit([put(account, f"{process}-{number}")], now=AT)
            assert isinstance(result, Applied)
            numbers.append(result.change_no)

    async def read() -> None:
        seen = 0
        while seen < 2 * EACH:
            seen = await reader.change_no()
            page = await reader.list_memories(where, order=ListOrder.UPDATED_NEWEST, limit=1, offset=0)
            assert page.total >= seen, "a change that was numbered is not there yet"

    async with asyncio.timeout(BOUND_SECONDS):
        await asyncio.gather(write(0), write(1), read())
    assert sorted(numbers) == list(range(1, 2 * EACH + 1))


async def test_nothing_is_associated_because_of_a_memory_that_its_own_commit_deletes(
    storage: PostgresStorage, account: NewAccount
) -> None:
    spaces = frozenset({account.space.id})
    kept, gone = (put(account, name) for name in ("kept", "gone"))
    associate = Associate(
        space_id=account.space.id, pairs=frozenset({("ant", "bee")}), rate=0.5, at=AT, because_of=MemoryId("gone")
    )
    told = replace(kept, memory=replace(kept.memory, concepts=("ant",)))
    deleted = DeleteMemory(memory_id=MemoryId("gone"), spaces=spaces)
    result = await storage.tenant(account.tenant.id).commit([told, gone, associate, deleted, associate], now=AT)
    assert isinstance(result, Applied)
    assert result.outcomes[2:] == (Associated(1), Deleted(MemoryId("gone")), Associated(0))


async def test_a_commit_whose_answer_is_lost_is_found_and_not_done_twice(
    account: NewAccount, wired: PostgresStorage, wire: Wire
) -> None:
    store = wired.tenant(account.tenant.id)
    wire.cut_after(b"COMMIT")
    result = await store.commit([put(account, "a"), AddJob(job=job_of(account, "j"))], now=AT)
    assert (result, wire.cuts) == (Applied((Stored("a"), Stored("j")), 1), 1)
    assert (await store.count_memories(), await store.change_no()) == (1, 1)


async def test_a_commit_that_is_lost_with_its_answer_is_done_again(
    account: NewAccount, wired: PostgresStorage, wire: Wire
) -> None:
    store = wired.tenant(account.tenant.id)
    wire.cut_before(b"COMMIT")
    assert await store.commit([put(account, "a")], now=AT) == Applied((Stored("a"),), 1)
    assert (await store.count_memories(), await store.change_no(), wire.cuts) == (1, 1, 1)


async def test_the_claim_of_an_empty_commit_whose_answer_is_lost_is_found(
    account: NewAccount, wired: PostgresStorage, wire: Wire
) -> None:
    claim = IdempotencyClaim(key="k", digest="d")
    store = wired.tenant(account.tenant.id)
    wire.cut_after(b"COMMIT")
    assert await store.commit([], now=AT, idempotency=claim) == Applied((), 0)
    assert await store.commit([], now=AT, idempotency=claim) == Replayed(())


async def test_an_account_whose_answer_is_lost_was_made_by_this_call(
    storage: PostgresStorage, wired: PostgresStorage, wire: Wire
) -> None:
    first = account_of("first")
    wire.cut_after(b"COMMIT")
    assert await wired.directory.create_account(first, only_if_empty=True)
    assert (await storage.directory.list_tenants(), wire.cuts) == ((first.tenant,), 1)
    assert not await storage.directory.create_account(account_of("second"), only_if_empty=True)


@pytest.mark.parametrize("table", ["memories", "commits"])
async def test_an_error_half_way_is_told_as_what_it_is_and_stores_nothing(
    storage: PostgresStorage, account: NewAccount, postgres_server: PostgresServer, storage_url: str, table: str
) -> None:
    full = (
        "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'no room' USING ERRCODE = 'disk_full'; END $$;"
        f"CREATE TRIGGER no_room BEFORE INSERT ON {table} EXECUTE FUNCTION no_room()"
    )
    postgres_server.run(full, storage_url.partition("?")[0].rpartition("/")[2])
    store = storage.tenant(account.tenant.id)
    with pytest.raises(StorageFull):
        await store.commit([put(account, "a")], now=AT)
    assert (await store.count_memories(), await store.change_no()) == (0, 0)


async def test_a_run_of_new_memories_is_told_one_by_one(storage: PostgresStorage, account: NewAccount) -> None:
    store = storage.tenant(account.tenant.id)
    homeless = PutMemory(memory=memory_of(account_of("nobody"), "homeless"), index=IndexEntry(terms=(), embedding=None))
    with pytest.raises(NotFound):
        await store.commit([put(account, "a"), homeless], now=AT)
    assert await store.count_memories() == 0
    delete = DeleteMemory(memory_id=MemoryId("b"), spaces=frozenset({account.space.id}))
    run = [put(account, name) for name in ("a", "b", "a")]
    result = await store.commit([*run, delete, delete, put(account, "b")], now=AT)
    assert isinstance(result, Applied)
    assert [type(outcome).__name__ for outcome in result.outcomes] == [
        "Stored",
        "Stored",
        "Duplicate",
        "Deleted",
        "AlreadyDeleted",
        "Forgotten",
    ]
    assert [finding for finding in await storage.check() if not finding.is_ok] == []
