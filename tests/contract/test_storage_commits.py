"""A commit is all or nothing, once, bounded by the quota, and counted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from polymem.domain.model import IdempotencyClaim, Membership, Role
from polymem.ports.changes import (
    AddJob,
    AddSpace,
    AlreadyDeleted,
    Applied,
    Audit,
    Change,
    Deleted,
    DeleteMemory,
    Duplicate,
    FenceLost,
    FinishJob,
    Forgotten,
    KeyReused,
    Missing,
    OverQuota,
    Replayed,
    RevisionMoved,
    SetMember,
    Stored,
    Updated,
    UpdateMemory,
)
from polymem.ports.directory import NewAccount
from polymem.ports.storage import Storage, TenantStore

if TYPE_CHECKING:
    from contract.conftest import Connect, Made

CLAIM = IdempotencyClaim(key="request-1", digest="a" * 64)


async def test_an_empty_commit_is_applied_and_not_counted(make: Made, account: NewAccount, store: TenantStore) -> None:
    assert await store.commit([], now=make.at()) == Applied((), 0)
    await store.commit([make.put(make.memory(account))], now=make.at())
    assert await store.commit([], now=make.at(), max_memories=0) == Applied((), 1)
    assert await store.change_no() == 1


async def test_each_commit_counts_once_however_many_changes_it_has(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    numbers = []
    for size in (1, 3, 2):
        result = await store.commit([make.put(make.memory(account)) for _ in range(size)], now=make.at())
        assert isinstance(result, Applied)
        numbers.append(result.change_no)
    assert numbers == [1, 2, 3]
    assert await store.change_no() == 3


# --- idempotency -----------------------------------------------------------------------------------------


async def test_a_claim_used_again_replays_the_first_outcomes_and_does_nothing(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    first, second = make.memory(account), make.memory(account)
    assert await store.commit([make.put(first)], now=make.at(), idempotency=CLAIM) == Applied((Stored(first.id),), 1)
    again = await store.commit([make.put(second)], now=make.at(1), idempotency=CLAIM)
    assert again == Replayed((Stored(first.id),))
    assert (await store.count_memories(), await store.change_no()) == (1, 1)


async def test_a_claim_used_for_another_request_is_refused(make: Made, account: NewAccount, store: TenantStore) -> None:
    await store.commit([make.put(make.memory(account))], now=make.at(), idempotency=CLAIM)
    other = replace(CLAIM, digest="b" * 64)
    assert await store.commit([make.put(make.memory(account))], now=make.at(), idempotency=other) == KeyReused(
        CLAIM.key
    )
    assert await store.count_memories() == 1


async def test_a_replay_tells_every_kind_of_outcome(make: Made, account: NewAccount, store: TenantStore) -> None:
    spaces = frozenset({account.space.id})
    kept, gone, dropped, never = (make.memory(account) for _ in range(4))
    await store.commit(
        [make.put(kept, identity="kept"), make.put(gone, identity="gone"), make.put(dropped)], now=make.at()
    )
    forget = DeleteMemory(memory_id=gone.id, spaces=spaces, remembers_identity=True)
    await store.commit([forget], now=make.at())
    job = make.job(account)
    changes: list[Change] = [
        make.put(never),
        make.put(make.memory(account), identity="kept"),
        make.put(make.memory(account), identity="gone"),
        UpdateMemory(
            memory=replace(kept, revision=2), index=make.entry(), expected_revision=1, replaced_by=None, reason=""
        ),
        DeleteMemory(memory_id=dropped.id, spaces=spaces),
        forget,
        DeleteMemory(memory_id=make.memory(account).id, spaces=spaces),
        AddJob(job=job),
    ]
    result = await store.commit(changes, now=make.at(), idempotency=CLAIM)
    assert isinstance(result, Applied)
    assert [type(outcome) for outcome in result.outcomes] == [
        Stored,
        Duplicate,
        Forgotten,
        Updated,
        Deleted,
        AlreadyDeleted,
        Missing,
        Stored,
    ]
    assert await store.commit(changes, now=make.at(), idempotency=CLAIM) == Replayed(result.outcomes)


async def test_a_refused_commit_does_not_use_its_claim_up(make: Made, account: NewAccount, store: TenantStore) -> None:
    memory = make.memory(account, revision=2)
    await store.commit([make.put(memory)], now=make.at())
    stale = UpdateMemory(memory=memory, index=make.entry(), expected_revision=1, replaced_by=None, reason="")
    assert await store.commit([stale], now=make.at(), idempotency=CLAIM) == RevisionMoved(memory.id, 2)
    over = await store.commit([make.put(make.memory(account))], now=make.at(), idempotency=CLAIM, max_memories=1)
    assert over == OverQuota(1)
    good = await store.commit([make.put(make.memory(account))], now=make.at(), idempotency=CLAIM)
    assert isinstance(good, Applied)


async def test_the_claim_of_an_empty_commit_is_kept(make: Made, store: TenantStore) -> None:
    assert await store.commit([], now=make.at(), idempotency=CLAIM) == Applied((), 0)
    assert await store.commit([], now=make.at(), idempotency=CLAIM) == Replayed(())
    assert await store.commit([], now=make.at(), idempotency=replace(CLAIM, digest="c")) == KeyReused(CLAIM.key)


async def test_claims_belong_to_their_tenant(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    rival = make.account("rival")
    await storage.directory.create_account(rival)
    await store.commit([make.put(make.memory(account))], now=make.at(), idempotency=CLAIM)
    theirs = await storage.tenant(rival.tenant.id).commit(
        [make.put(make.memory(rival))], now=make.at(), idempotency=CLAIM
    )
    assert isinstance(theirs, Applied)


async def test_claims_are_forgotten_by_their_age_alone(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    claims = [replace(CLAIM, key=f"key {second}") for second in range(3)]
    for second, claim in enumerate(claims):
        await store.commit([make.put(make.memory(account))], now=make.at(second), idempotency=claim)
    assert await storage.forget_idempotency(before=make.at(1)) == 1
    assert await storage.forget_idempotency(before=make.at(1)) == 0
    results = [await store.commit([], now=make.at(9), idempotency=claim) for claim in claims]
    assert [type(result) for result in results] == [Applied, Replayed, Replayed]


async def test_of_many_commits_with_one_claim_at_once_exactly_one_is_applied(
    make: Made, account: NewAccount, store: TenantStore, connect: Connect
) -> None:
    other = (await connect()).tenant(account.tenant.id)
    memories = [make.memory(account) for _ in range(20)]
    results = await asyncio.gather(
        *(
            (store if number % 2 else other).commit([make.put(memory)], now=make.at(), idempotency=CLAIM)
            for number, memory in enumerate(memories)
        )
    )
    applied = [result for result in results if isinstance(result, Applied)]
    assert len(applied) == 1
    replayed = [result for result in results if not isinstance(result, Applied)]
    assert replayed == [Replayed(applied[0].outcomes)] * 19
    assert await store.count_memories() == 1


# --- quota -----------------------------------------------------------------------------------------------


async def test_the_quota_bounds_the_memories_held_after_the_commit(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    first, second, third = (make.memory(account) for _ in range(3))
    filled = await store.commit([make.put(first), make.put(second)], now=make.at(), max_memories=2)
    assert filled == Applied((Stored(first.id), Stored(second.id)), 1)
    assert await store.commit([make.put(third)], now=make.at(), max_memories=2) == OverQuota(2)
    assert (await store.count_memories(), await store.change_no()) == (2, 1)
    delete = DeleteMemory(memory_id=first.id, spaces=frozenset({account.space.id}))
    swapped = await store.commit([make.put(third), delete], now=make.at(), max_memories=2)
    assert swapped == Applied((Stored(third.id), Deleted(first.id)), 2)
    assert await store.count_memories() == 2


async def test_duplicates_do_not_count_against_the_quota(make: Made, account: NewAccount, store: TenantStore) -> None:
    first = make.memory(account)
    await store.commit([make.put(first, identity="x")], now=make.at(), max_memories=1)
    again = await store.commit([make.put(make.memory(account), identity="x")], now=make.at(), max_memories=1)
    assert again == Applied((Duplicate(first.id),), 2)


async def test_a_tenant_beyond_a_lowered_quota_may_still_change_and_delete(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    memories = [make.memory(account) for _ in range(3)]
    await store.commit([make.put(memory) for memory in memories], now=make.at())
    update = UpdateMemory(
        memory=replace(memories[0], revision=2), index=make.entry(), expected_revision=1, replaced_by=None, reason=""
    )
    delete = DeleteMemory(memory_id=memories[1].id, spaces=frozenset({account.space.id}))
    result = await store.commit([update, delete], now=make.at(), max_memories=1)
    assert result == Applied((Updated(memories[0].id), Deleted(memories[1].id)), 2)


async def test_the_quota_holds_under_concurrent_commits(
    make: Made, account: NewAccount, store: TenantStore, connect: Connect
) -> None:
    other = (await connect()).tenant(account.tenant.id)
    results = await asyncio.gather(
        *(
            (store if number % 2 else other).commit([make.put(make.memory(account))], now=make.at(), max_memories=7)
            for number in range(30)
        )
    )
    assert sum(isinstance(result, Applied) for result in results) == 7
    assert [result for result in results if not isinstance(result, Applied)] == [OverQuota(7)] * 23
    assert await store.count_memories() == 7


# --- many at once ----------------------------------------------------------------------------------------


async def test_two_hundred_concurrent_commits_are_all_stored_once_and_counted_in_order(
    make: Made, account: NewAccount, store: TenantStore, connect: Connect, storage: Storage
) -> None:
    memories = [make.memory(account) for _ in range(200)]
    results = await asyncio.gather(*(store.commit([make.put(memory)], now=make.at()) for memory in memories))
    assert [result.outcomes for result in results if isinstance(result, Applied)] == [
        (Stored(memory.id),) for memory in memories
    ]
    numbers = [result.change_no for result in results if isinstance(result, Applied)]
    assert sorted(numbers) == list(range(1, 201))
    elsewhere = (await connect()).tenant(account.tenant.id)
    found = await elsewhere.get_memories([memory.id for memory in memories], frozenset({account.space.id}))
    assert found == {memory.id: memory for memory in memories}
    assert [finding for finding in await storage.check() if not finding.is_ok] == []


async def test_commits_that_are_refused_leave_their_neighbours_alone(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    base = make.memory(account, revision=2)
    await store.commit([make.put(base)], now=make.at())
    stale = UpdateMemory(memory=base, index=make.entry(), expected_revision=1, replaced_by=None, reason="")
    memories = [make.memory(account) for _ in range(60)]
    results = await asyncio.gather(
        *(
            store.commit([make.put(memory), *([stale] if number % 3 == 0 else [])], now=make.at())
            for number, memory in enumerate(memories)
        )
    )
    assert results[::3] == [RevisionMoved(base.id, 2)] * 20
    stored = [memory.id for number, memory in enumerate(memories) if number % 3]
    found = await store.get_memories([memory.id for memory in memories], frozenset({account.space.id}))
    assert list(found) == stored
    assert await store.change_no() == 41


async def test_of_many_updates_of_one_revision_exactly_one_wins(
    make: Made, account: NewAccount, store: TenantStore, connect: Connect
) -> None:
    other = (await connect()).tenant(account.tenant.id)
    memory = make.memory(account)
    await store.commit([make.put(memory)], now=make.at())
    updates = [
        UpdateMemory(
            memory=replace(memory, content=f"by {number}", revision=2),
            index=make.entry(),
            expected_revision=1,
            replaced_by=None,
            reason="race",
        )
        for number in range(20)
    ]
    results = await asyncio.gather(
        *((store if number % 2 else other).commit([update], now=make.at()) for number, update in enumerate(updates))
    )
    won = [number for number, result in enumerate(results) if isinstance(result, Applied)]
    assert len(won) == 1
    assert [result for result in results if not isinstance(result, Applied)] == [RevisionMoved(memory.id, 2)] * 19
    found = await store.get_memories([memory.id], frozenset({account.space.id}))
    assert found == {memory.id: updates[won[0]].memory}


async def test_a_cancelled_caller_does_not_take_its_accepted_commit_back(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    memory = make.memory(account)
    task = asyncio.create_task(store.commit([make.put(memory)], now=make.at()))
    await asyncio.sleep(0)  # the commit is handed over, its answer cannot be there yet
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.commit([make.put(make.memory(account))], now=make.at())
    assert await store.get_memories([memory.id], frozenset({account.space.id})) == {memory.id: memory}


# --- all or nothing over all kinds of things -------------------------------------------------------------


async def test_a_refused_commit_leaves_nothing_of_any_kind(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    job, space, memory = make.job(account), make.space(), make.memory(account)
    lost = FinishJob(job_id=make.job(account).id, fence=1, result={}, error=None, finished_at=make.at())
    changes: list[Change] = [
        make.put(memory, identity="x"),
        AddJob(job=job),
        AddSpace(space=space, members=(Membership(space_id=space.id, user_id=account.user.id, role=Role.OWNER),)),
        SetMember(space_id=account.space.id, user_id=account.user.id, role=Role.ADMIN),
        Audit(
            at=make.at(),
            user_id=account.user.id,
            key_id=account.key.id,
            action="write",
            target=memory.id,
            request_id="r",
        ),
    ]
    assert await store.commit([*changes, lost], now=make.at()) == FenceLost(lost.job_id)
    assert await store.count_memories() == 0
    assert await store.get_job(job.id) is None
    assert await store.list_spaces(account.user.id) == ((account.space, None),)
    applied = await store.commit(changes, now=make.at())
    assert isinstance(applied, Applied)
    assert applied.change_no == 1
    assert [type(outcome) for outcome in applied.outcomes] == [Stored, Stored, Stored, Updated, Stored]
    assert [finding for finding in await storage.check() if not finding.is_ok] == []


async def test_a_commit_that_cannot_be_written_raises_and_stores_nothing(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    good, broken = make.memory(account), make.memory(account, content="lone \ud800 surrogate")
    with pytest.raises(UnicodeEncodeError):
        await store.commit([make.put(good), make.put(broken)], now=make.at())
    assert await store.count_memories() == 0
    with_nul = make.memory(account, content="a\0b", metadata={"k": "\0"})
    await store.commit([make.put(good), make.put(with_nul)], now=make.at())
    found = await store.get_memories([good.id, with_nul.id], frozenset({account.space.id}))
    assert found == {good.id: good, with_nul.id: with_nul}
