"""Changes that teach: repeats are told, concepts followed, memories replaced, judged and associated."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from polymem.domain.model import Association, IdempotencyClaim, Memory, MemoryId, MemoryRole, MemoryState, SpaceId
from polymem.domain.query import Learned, MemoryFilter
from polymem.errors import NotFound
from polymem.ports.changes import (
    AddSpace,
    Applied,
    Associate,
    Associated,
    Change,
    Deleted,
    DeleteMemory,
    Duplicate,
    Forgotten,
    Missing,
    MoveValence,
    PutMemory,
    Replayed,
    RevisionMoved,
    SetStanding,
    Stored,
    Supersede,
    Updated,
    UpdateMemory,
    Valued,
)
from polymem.ports.directory import NewAccount
from polymem.ports.storage import Storage, TenantStore

if TYPE_CHECKING:
    from contract.conftest import Made

UNKNOWN = MemoryId("0190aaaa-0000-7000-8000-000000000000")
ELSEWHERE = SpaceId("another space")


def unless_repeated(make: Made, memory: Memory, identity: str | None = None) -> PutMemory:
    return replace(make.put(memory, identity=identity), unless_repeated=True)


def associate(account: NewAccount, make: Made, *pairs: tuple[str, str], rate: float = 0.5) -> Associate:
    return Associate(space_id=account.space.id, pairs=frozenset(pairs), rate=rate, at=make.at())


async def held(store: TenantStore, account: NewAccount, *keys: str) -> dict[tuple[str, str], Association]:
    found = await store.associations(frozenset({account.space.id}), keys, min_weight=0.0, limit_per_seed=100)
    return {(each.source, each.target): each for each in found}


async def stored(store: TenantStore, memory_id: MemoryId, space_id: SpaceId) -> Memory:
    return (await store.get_memories([memory_id], frozenset({space_id})))[memory_id]


# --- repeats ---------------------------------------------------------------------------------------------


async def test_a_text_that_an_active_memory_says_already_is_told_by_the_oldest_of_them(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    later = make.memory(account, content="The  sky is BLUE", created_at=make.at(50))
    older = make.memory(account, content="the sky is blue", created_at=make.at(20))
    await store.commit([make.put(later), make.put(older)], now=make.at())
    again = make.memory(account, content="The sky\nis blue ")
    result = await store.commit([unless_repeated(make, again)], now=make.at())
    assert result == Applied((Duplicate(older.id),), 2)
    assert await store.count_memories() == 2


async def test_a_text_is_no_repeat_of_another_space_or_of_what_is_archived_or_replaced(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    domain = make.space()
    apart = make.memory(account, content="said", space_id=domain.id)
    archived = make.memory(account, content="said", state=MemoryState.ARCHIVED)
    replaced = make.memory(account, content="said", superseded_by=apart.id)
    await store.commit([AddSpace(space=domain, members=()), *map(make.put, (apart, archived, replaced))], now=make.at())
    first, second = make.memory(account, content="said"), make.memory(account, content="Said")
    result = await store.commit([unless_repeated(make, first), unless_repeated(make, second)], now=make.at())
    assert result == Applied((Stored(first.id), Duplicate(first.id)), 2)


async def test_without_the_wish_a_text_may_be_said_twice(make: Made, account: NewAccount, store: TenantStore) -> None:
    one, two = make.memory(account, content="said"), make.memory(account, content="said")
    result = await store.commit([make.put(one), make.put(two)], now=make.at())
    assert result == Applied((Stored(one.id), Stored(two.id)), 1)


async def test_an_identity_tells_before_a_text_does(make: Made, account: NewAccount, store: TenantStore) -> None:
    named, gone = make.memory(account, content="named"), make.memory(account, content="gone")
    said = make.memory(account, content="said")
    await store.commit(
        [make.put(named, identity="n"), make.put(gone, identity="g"), make.put(said)],
        now=make.at(),
    )
    forget = DeleteMemory(memory_id=gone.id, spaces=frozenset({account.space.id}), remembers_identity=True)
    await store.commit([forget], now=make.at())
    again = [make.memory(account, content="said") for _ in range(3)]
    changes = [
        unless_repeated(make, memory, identity) for memory, identity in zip(again, ("n", "g", "new"), strict=True)
    ]
    result = await store.commit(changes, now=make.at())
    assert isinstance(result, Applied)
    assert result.outcomes == (Duplicate(named.id), Forgotten(), Duplicate(said.id))


async def test_of_many_that_say_the_same_at_once_one_is_stored(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    memories = [make.memory(account, content="said at once") for _ in range(12)]
    results = await asyncio.gather(
        *(store.commit([unless_repeated(make, memory)], now=make.at()) for memory in memories)
    )
    outcomes = [result.outcomes[0] for result in results if isinstance(result, Applied)]
    (winner,) = [outcome.id for outcome in outcomes if isinstance(outcome, Stored)]
    assert outcomes.count(Duplicate(winner)) == 11
    assert await store.count_memories() == 1


# --- what is stored of a memory --------------------------------------------------------------------------


async def test_all_that_is_learned_of_a_memory_reads_back(make: Made, account: NewAccount, store: TenantStore) -> None:
    memory = make.memory(
        account,
        role=MemoryRole.SINGLETON,
        concepts=("Beta", "alpha", "BETA", "…"),
        importance=0.125,
        valence=-0.75,
        external_ref="ticket/7",
        fingerprint="f\t1",
        supersedes=(UNKNOWN, MemoryId("x")),
    )
    await store.commit([make.put(memory)], now=make.at())
    assert await stored(store, memory.id, account.space.id) == memory


async def test_a_memory_is_found_by_its_concepts_as_they_are_now(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    domain, spaces = make.space(), frozenset({account.space.id})
    memory = make.memory(account, concepts=("Alpha", "beta"))
    await store.commit([AddSpace(space=domain, members=()), make.put(memory)], now=make.at())
    assert await store.count_concepts(["alpha", "beta", "gamma"], spaces) == {"alpha": 1, "beta": 1}

    changed = replace(memory, concepts=("gamma", "ALPHA"), revision=2)
    await store.commit([_update(make, changed, 1)], now=make.at())
    assert await store.count_concepts(["alpha", "beta", "gamma"], spaces) == {"alpha": 1, "gamma": 1}

    moved = replace(changed, space_id=domain.id, revision=3)
    await store.commit([_update(make, moved, 2)], now=make.at())
    assert await store.count_concepts(["alpha", "gamma"], spaces) == {}
    assert await store.count_concepts(["alpha", "gamma"], frozenset({domain.id})) == {"alpha": 1, "gamma": 1}

    await store.commit([DeleteMemory(memory_id=memory.id, spaces=frozenset({domain.id}))], now=make.at())
    assert await store.count_concepts(["alpha", "gamma"], frozenset({domain.id})) == {}


async def test_a_change_of_a_memory_leaves_what_was_learned_of_it(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    memory, spaces = make.memory(account, valence=0.5), frozenset({account.space.id})
    await store.commit([make.put(memory)], now=make.at())
    changed = replace(memory, content="new", valence=-1.0, importance=0.9, revision=2)
    await store.commit([_update(make, changed, 1)], now=make.at())
    assert await stored(store, memory.id, account.space.id) == replace(changed, valence=0.5)
    assert await store.learned([memory.id], spaces) == {memory.id: Learned(valence=0.5, concepts=frozenset())}


def _update(make: Made, memory: Memory, revision: int) -> UpdateMemory:
    return UpdateMemory(memory=memory, index=make.entry(), expected_revision=revision, replaced_by=None, reason="")


# --- standing --------------------------------------------------------------------------------------------


async def test_replaced_memories_name_what_replaced_them_last(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    spaces = frozenset({account.space.id})
    old, other, first, second = (make.memory(account) for _ in range(4))
    await store.commit([*map(make.put, (old, other, first, second))], now=make.at())
    result = await store.commit([Supersede(memory_ids=(old.id, UNKNOWN), by=first.id, spaces=spaces)], now=make.at(9))
    assert result == Applied((Updated(first.id),), 2)
    assert await stored(store, old.id, account.space.id) == replace(old, superseded_by=first.id, revision=2)

    await store.commit([Supersede(memory_ids=(old.id, old.id), by=second.id, spaces=spaces)], now=make.at(9))
    assert await stored(store, old.id, account.space.id) == replace(old, superseded_by=second.id, revision=3)
    assert await stored(store, other.id, account.space.id) == other
    assert await store.list_versions(old.id, spaces) == ()


async def test_nothing_is_replaced_by_what_is_not_there_nor_outside_the_spaces_nor_by_itself(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    spaces = frozenset({account.space.id})
    old, repeat = make.memory(account, content="said"), make.memory(account, content="said")
    await store.commit([make.put(old)], now=make.at())
    result = await store.commit(
        [
            unless_repeated(make, repeat),
            Supersede(memory_ids=(old.id,), by=repeat.id, spaces=spaces),
            Supersede(memory_ids=(old.id,), by=old.id, spaces=spaces),
        ],
        now=make.at(),
    )
    assert result == Applied((Duplicate(old.id), Missing(repeat.id), Updated(old.id)), 2)
    await store.commit([make.put(repeat)], now=make.at())
    for elsewhere in (frozenset[SpaceId](), frozenset({ELSEWHERE})):
        outside = Supersede(memory_ids=(old.id,), by=repeat.id, spaces=elsewhere)
        assert await store.commit([outside], now=make.at()) == Applied((Updated(repeat.id),), await store.change_no())
    assert await stored(store, old.id, account.space.id) == old


async def test_a_memory_can_be_stored_and_replace_others_in_one_commit(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    old, new = make.memory(account), make.memory(account)
    await store.commit([make.put(old)], now=make.at())
    supersede = Supersede(memory_ids=(old.id,), by=new.id, spaces=frozenset({account.space.id}))
    await store.commit([make.put(new), supersede], now=make.at())
    assert (await stored(store, old.id, account.space.id)).superseded_by == new.id


async def test_memories_stand_as_they_are_told_to(make: Made, account: NewAccount, store: TenantStore) -> None:
    one, two, prototype = (make.memory(account) for _ in range(3))
    await store.commit([*map(make.put, (one, two, prototype))], now=make.at())
    result = await store.commit([_standing(account, (one.id, 1), (two.id, 1), by=prototype.id)], now=make.at(9))
    assert result == Applied((Updated(account.space.id),), 2)
    for each in (one, two):
        expected = replace(
            each, state=MemoryState.ARCHIVED, role=MemoryRole.SINGLETON, superseded_by=prototype.id, revision=2
        )
        assert await stored(store, each.id, account.space.id) == expected
    assert await stored(store, prototype.id, account.space.id) == prototype
    assert await store.list_versions(one.id, frozenset({account.space.id})) == ()


async def test_a_standing_is_refused_whole_when_a_memory_has_moved_or_is_gone_or_elsewhere(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    domain = make.space()
    one, gone, apart = make.memory(account), make.memory(account), make.memory(account, space_id=domain.id)
    await store.commit([AddSpace(space=domain, members=()), *map(make.put, (one, gone, apart))], now=make.at())
    await store.commit([DeleteMemory(memory_id=gone.id, spaces=frozenset({account.space.id}))], now=make.at())
    for revisions, moved in (
        (((one.id, 2),), RevisionMoved(one.id, 1)),
        (((one.id, 1), (gone.id, 1), (UNKNOWN, 1)), RevisionMoved(gone.id, -1)),
        (((apart.id, 1), (one.id, 1)), RevisionMoved(apart.id, -1)),
        (((one.id, 1), (apart.id, -1)), RevisionMoved(apart.id, -1)),
    ):
        assert await store.commit([_standing(account, *revisions)], now=make.at()) == moved
    assert await stored(store, one.id, account.space.id) == one
    assert await store.commit([_standing(account)], now=make.at()) == Applied((Updated(account.space.id),), 3)


async def test_recall_knows_at_once_how_memories_stand(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    one, two = make.memory(account), make.memory(account)
    await store.commit([make.put(one, "word"), make.put(two, "word")], now=make.at())
    where = MemoryFilter(spaces=frozenset({account.space.id}), states=frozenset({MemoryState.ACTIVE}))
    index = storage.search(account.tenant.id)
    assert {hit.memory_id for hit in await index.lexical(["word"], where, limit=9)} == {one.id, two.id}

    await store.commit([_standing(account, (one.id, 1))], now=make.at())
    assert {hit.memory_id for hit in await index.lexical(["word"], where, limit=9)} == {two.id}
    supersede = Supersede(memory_ids=(two.id,), by=one.id, spaces=where.spaces)
    await store.commit([supersede], now=make.at())
    evidence = await index.evidence([one.id, two.id], make.model, ["word"])
    assert evidence[two.id].superseded_by == one.id


def _standing(account: NewAccount, *revisions: tuple[MemoryId, int], by: MemoryId | None = None) -> SetStanding:
    return SetStanding(
        space_id=account.space.id,
        revisions=revisions,
        state=MemoryState.ARCHIVED,
        role=MemoryRole.SINGLETON,
        superseded_by=by,
    )


# --- valence ---------------------------------------------------------------------------------------------


async def test_valence_moves_towards_the_outcome_and_nothing_else_moves(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    one, two = make.memory(account, valence=0.5), make.memory(account, valence=-1.0)
    apart = make.memory(account, space_id=make.space().id)
    await store.commit([make.put(one), make.put(two)], now=make.at())
    ids = frozenset({one.id, two.id, UNKNOWN, apart.id})
    move = MoveValence(memory_ids=ids, spaces=frozenset({account.space.id}), outcome=1.0, rate=0.5)
    result = await store.commit([move], now=make.at(9))
    assert result == Applied((Valued(2, 0.75),), 2)
    assert await stored(store, one.id, account.space.id) == replace(one, valence=0.75)
    assert await stored(store, two.id, account.space.id) == replace(two, valence=0.0)


async def test_valence_stays_within_bounds_and_within_the_spaces(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    memory, spaces = make.memory(account), frozenset({account.space.id})
    await store.commit([make.put(memory)], now=make.at())
    for outcome, rate, expected in ((1.0, 3.0, 1.0), (-1.0, 9.0, -1.0), (0.0, 1.0, 0.0)):
        move = MoveValence(memory_ids=frozenset({memory.id}), spaces=spaces, outcome=outcome, rate=rate)
        result = await store.commit([move], now=make.at())
        assert isinstance(result, Applied)
        assert result.outcomes == (Valued(1, expected),)
    for elsewhere in (frozenset[SpaceId](), frozenset({ELSEWHERE})):
        move = MoveValence(memory_ids=frozenset({memory.id}), spaces=elsewhere, outcome=1.0, rate=1.0)
        result = await store.commit([move], now=make.at())
        assert isinstance(result, Applied)
        assert result.outcomes == (Valued(0, 0.0),)
    assert (await stored(store, memory.id, account.space.id)).valence == 0.0


async def test_no_feedback_given_at_the_same_time_is_lost(make: Made, account: NewAccount, store: TenantStore) -> None:
    memory = make.memory(account, concepts=("a", "b"))
    await store.commit([make.put(memory)], now=make.at())
    move = MoveValence(memory_ids=frozenset({memory.id}), spaces=frozenset({account.space.id}), outcome=1.0, rate=0.1)
    changes: list[Change] = [move, associate(account, make, ("a", "b"), rate=0.1)]
    await asyncio.gather(*(store.commit(changes, now=make.at()) for _ in range(20)))
    assert (await stored(store, memory.id, account.space.id)).valence == pytest.approx(1 - 0.9**20)
    (edge,) = (await held(store, account, "a")).values()
    assert edge.weight == pytest.approx(1 - 0.9**20)
    assert edge.count == 20


async def test_what_feedback_did_is_told_again_when_it_is_sent_again(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    memory = make.memory(account, concepts=("a", "b"))
    await store.commit([make.put(memory)], now=make.at())
    changes: list[Change] = [
        MoveValence(memory_ids=frozenset({memory.id}), spaces=frozenset({account.space.id}), outcome=0.3, rate=0.1),
        associate(account, make, ("a", "b")),
    ]
    claim = IdempotencyClaim(key="feedback", digest="d")
    first = await store.commit(changes, now=make.at(), idempotency=claim)
    assert isinstance(first, Applied)
    assert await store.commit(changes, now=make.at(), idempotency=claim) == Replayed(first.outcomes)
    assert (await held(store, account, "a"))["a", "b"].count == 1


# --- associations ----------------------------------------------------------------------------------------


async def test_pairs_are_associated_once_in_either_order_and_none_with_itself(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    await store.commit([make.put(make.memory(account, concepts=("a", "b", "c")))], now=make.at())
    change = associate(account, make, ("b", "a"), ("a", "b"), ("a", "a"), ("c", "b"), rate=0.25)
    assert await store.commit([change], now=make.at()) == Applied((Associated(2),), 2)
    edge = Association(
        space_id=account.space.id, source="a", target="b", weight=0.25, valence=0.0, count=1, updated_at=make.at()
    )
    expected = {("a", "b"): edge, ("b", "c"): replace(edge, source="b", target="c")}
    assert await held(store, account, "a", "b", "c") == expected


async def test_an_association_grows_by_what_is_left_and_learns_its_outcome(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    await store.commit([make.put(make.memory(account, concepts=("a", "b")))], now=make.at())
    judged = replace(associate(account, make, ("a", "b")), outcome=1.0, valence_rate=0.5, at=make.at(5))
    unjudged = replace(judged, rate=0.25, outcome=None, at=make.at(7))
    spoilt = replace(judged, rate=0.0, outcome=-1.0, at=make.at(6))
    seen = []
    for change in (judged, unjudged, spoilt):
        assert await store.commit([change], now=make.at()) == Applied((Associated(1),), await store.change_no())
        edge = (await held(store, account, "a"))["a", "b"]
        seen.append((edge.weight, edge.valence, edge.count, edge.updated_at))
    assert seen == [
        (0.5, 0.5, 1, make.at(5)),
        (0.625, 0.5, 2, make.at(7)),
        (0.625, -0.25, 3, make.at(7)),
    ]


async def test_associations_stay_within_bounds(make: Made, account: NewAccount, store: TenantStore) -> None:
    await store.commit([make.put(make.memory(account, concepts=("a", "b")))], now=make.at())
    wild = replace(associate(account, make, ("a", "b"), rate=7.0), outcome=1.0, valence_rate=9.0)
    for change, valence in ((wild, 1.0), (replace(wild, outcome=-1.0), -1.0), (replace(wild, outcome=1.0), 1.0)):
        await store.commit([change], now=make.at())
        edge = (await held(store, account, "a"))["a", "b"]
        assert (edge.weight, edge.valence) == (1.0, valence)


async def test_associations_do_not_depend_on_the_order_in_which_they_are_strengthened(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    await store.commit([make.put(make.memory(account, concepts=("a", "b", "c")))], now=make.at())
    steps = [associate(account, make, ("a", "b"), rate=rate) for rate in (0.1, 0.35, 0.6)]
    steps = [replace(step, at=make.at(number)) for number, step in enumerate(steps)]
    seen = []
    for number, order in enumerate(permutations(steps)):
        domain = make.space()
        memory = make.memory(account, space_id=domain.id, concepts=("a",))
        changes = [replace(step, space_id=domain.id) for step in order]
        await store.commit([AddSpace(space=domain, members=()), make.put(memory), *changes], now=make.at(number))
        (edge,) = await store.associations(frozenset({domain.id}), ["a"], min_weight=0.0, limit_per_seed=9)
        assert edge.weight == pytest.approx(1 - 0.9 * 0.65 * 0.4)
        seen.append((edge.valence, edge.count, edge.updated_at))
    assert seen == [(0.0, 3, make.at(2))] * 6


async def test_associations_because_of_a_memory_that_is_not_there_are_not_made(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    there = make.memory(account, content="said", concepts=("a", "b"))
    repeat = make.memory(account, content="said", concepts=("a", "b"))
    change = associate(account, make, ("a", "b"))
    result = await store.commit(
        [
            make.put(there),
            unless_repeated(make, repeat),
            replace(change, because_of=repeat.id),
            replace(change, because_of=there.id),
        ],
        now=make.at(),
    )
    assert result == Applied((Stored(there.id), Duplicate(there.id), Associated(0), Associated(1)), 1)
    assert (await held(store, account, "a"))["a", "b"].count == 1


async def test_concepts_that_no_memory_of_the_space_has_are_associated_with_none_but_such_as_one_has(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    domain = make.space()
    memory = make.memory(account, concepts=("a",))
    await store.commit([AddSpace(space=domain, members=()), make.put(memory)], now=make.at())
    change = associate(account, make, ("a", "asked"), ("asked", "also asked"))
    assert await store.commit([change], now=make.at()) == Applied((Associated(1),), 2)
    assert await store.commit([replace(change, space_id=domain.id)], now=make.at()) == Applied((Associated(0),), 3)
    assert set(await held(store, account, "asked")) == {("a", "asked")}


async def test_associations_of_a_space_that_is_not_there_are_an_error(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    with pytest.raises(NotFound) as raised:
        await store.commit([replace(associate(account, make, ("a", "b")), space_id=ELSEWHERE)], now=make.at())
    assert raised.value.kind == "space"


async def test_associations_go_with_the_last_memory_that_has_their_concept(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    spaces = frozenset({account.space.id})
    one = make.memory(account, concepts=("a", "b"))
    two = make.memory(account, concepts=("B", "c"))
    await store.commit([make.put(one), make.put(two)], now=make.at())
    change = associate(account, make, ("a", "b"), ("b", "c"), ("a", "c"), ("asked", "c"))
    await store.commit([change], now=make.at())

    result = await store.commit([DeleteMemory(memory_id=one.id, spaces=spaces)], now=make.at())
    assert result == Applied((Deleted(one.id),), 3)
    assert set(await held(store, account, "a", "b", "c", "asked")) == {("b", "c"), ("asked", "c")}

    await store.commit([_update(make, replace(two, concepts=("b",), revision=2), 1)], now=make.at())
    assert await held(store, account, "a", "b", "c", "asked") == {}
    assert [finding for finding in await storage.check() if not finding.is_ok] == []


async def test_what_a_space_learns_is_no_other_spaces_and_no_other_tenants(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    other = make.account("other")
    await storage.directory.create_account(other)
    beside = storage.tenant(other.tenant.id)
    memory = make.memory(account, concepts=("a", "b"), content="said")
    theirs = make.memory(other, concepts=("a", "b"), content="said")
    await store.commit([make.put(memory), associate(account, make, ("a", "b"))], now=make.at())
    assert await beside.commit([unless_repeated(make, theirs)], now=make.at()) == Applied((Stored(theirs.id),), 1)
    everywhere = frozenset({account.space.id, other.space.id})
    assert await beside.associations(everywhere, ["a"], min_weight=0, limit_per_seed=9) == ()
    assert await beside.owned_associations([memory.id, theirs.id]) == {}
    assert await beside.count_concepts(["a"], everywhere) == {"a": 1}
    assert await beside.learned([memory.id], everywhere) == {}
    move = MoveValence(memory_ids=frozenset({memory.id}), spaces=everywhere, outcome=1.0, rate=1.0)
    supersede = Supersede(memory_ids=(memory.id,), by=theirs.id, spaces=everywhere)
    assert await beside.commit([move, supersede], now=make.at()) == Applied((Valued(0, 0.0), Updated(theirs.id)), 2)
    assert await stored(store, memory.id, account.space.id) == memory


async def test_times_of_associations_are_kept_to_the_microsecond(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    await store.commit([make.put(make.memory(account, concepts=("a", "b")))], now=make.at())
    at = make.at() + timedelta(microseconds=1)
    await store.commit([replace(associate(account, make, ("a", "b")), at=at)], now=make.at())
    assert (await held(store, account, "a"))["a", "b"].updated_at == at
