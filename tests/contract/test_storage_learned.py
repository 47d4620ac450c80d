"""What was learned reads back: feeds, references, repeats, concepts, associations, statistics, and arms of concepts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from polymem.domain.concepts import content_key, external_ref_identity, pairs_within
from polymem.domain.model import (
    Association,
    Membership,
    Memory,
    MemoryId,
    MemoryRole,
    MemoryState,
    MemoryType,
    ModelIdentity,
    Role,
    SpaceId,
    SpaceKind,
)
from polymem.domain.query import FeedPosition, Learned, MemoryFilter, SpaceStatistics
from polymem.ports.changes import AddSpace, Associate, Change, DeleteMemory, Embedding, PutMemory
from polymem.ports.directory import NewAccount
from polymem.ports.storage import Storage, TenantStore

if TYPE_CHECKING:
    from contract.conftest import Made

UNKNOWN = MemoryId("0190aaaa-0000-7000-8000-000000000000")


async def domains(store: TenantStore, make: Made, count: int) -> list[SpaceId]:
    """New spaces."""
    spaces = [make.space() for _ in range(count)]
    await store.commit([AddSpace(space=space, members=()) for space in spaces], now=make.at())
    return [space.id for space in spaces]


async def put(store: TenantStore, make: Made, *memories: Memory) -> None:
    await store.commit([make.put(memory) for memory in memories], now=make.at())


# --- feed ------------------------------------------------------------------------------------------------


async def walk(store: TenantStore, where: MemoryFilter, *, limit: int, with_superseded: bool = True) -> list[Memory]:
    """All pages of the feed."""
    found: list[Memory] = []
    after = None
    while page := await store.feed(where, after=after, limit=limit, with_superseded=with_superseded):
        assert len(page) <= limit
        found += page
        after = FeedPosition(page[-1].created_at, page[-1].id)
    return found


async def test_a_feed_goes_from_the_newest_to_the_oldest_through_all_spaces(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    spaces = [account.space.id, *await domains(store, make, 2)]
    memories = [
        make.memory(account, space_id=spaces[number % 3], created_at=make.at(number // 4)) for number in range(12)
    ]
    await put(store, make, *memories)
    expected = sorted(memories, key=lambda memory: (memory.created_at, memory.id), reverse=True)
    everywhere = MemoryFilter(spaces=frozenset(spaces))
    for limit in (1, 5, 12, 50):
        assert await walk(store, everywhere, limit=limit) == expected
    two = MemoryFilter(spaces=frozenset(spaces[:2]))
    assert await walk(store, two, limit=5) == [memory for memory in expected if memory.space_id in two.spaces]
    assert await store.feed(MemoryFilter(spaces=frozenset()), after=None, limit=5, with_superseded=True) == ()
    assert await store.feed(everywhere, after=None, limit=0, with_superseded=True) == ()


async def test_a_feed_obeys_its_filter_and_leaves_out_what_was_replaced(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    plain = make.memory(account)
    replaced = make.memory(account, superseded_by=plain.id)
    archived = make.memory(account, state=MemoryState.ARCHIVED)
    tagged = make.memory(account, tags=("a", "b"), agent_id="bot", memory_type=MemoryType.PINNED)
    turn = make.turn(account, "s", 1)
    await put(store, make, plain, replaced, archived, tagged, turn)
    where = MemoryFilter(spaces=frozenset({account.space.id}), states=None)
    active = replace(where, states=frozenset({MemoryState.ACTIVE}))
    assert await walk(store, where, limit=2) == [turn, tagged, archived, replaced, plain]
    assert await walk(store, where, limit=2, with_superseded=False) == [turn, tagged, archived, plain]
    assert await walk(store, active, limit=2, with_superseded=False) == [turn, tagged, plain]
    for narrowed in (
        replace(where, tags=("b", "a")),
        replace(where, agent_id="bot"),
        replace(where, memory_types=frozenset({MemoryType.PINNED})),
        replace(where, created_from_at=tagged.created_at, created_until_at=turn.created_at),
    ):
        assert await walk(store, narrowed, limit=2) == [tagged]
    assert await walk(store, replace(where, session_ids=frozenset({"s"})), limit=2) == [turn]
    assert await walk(store, replace(where, session_ids=frozenset()), limit=2) == []


async def test_what_comes_and_goes_moves_nothing_else_in_a_feed(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    where = MemoryFilter(spaces=frozenset({account.space.id}))
    memories = [make.memory(account, created_at=make.at(7)) for _ in range(9)]
    await put(store, make, *memories)
    first = await store.feed(where, after=None, limit=3, with_superseded=True)
    after = FeedPosition(first[-1].created_at, first[-1].id)
    # The one the feed stands at goes, and one of those to come; two of the same time come, on either side of it.
    gone = (first[-1].id, memories[1].id)
    before, behind = MemoryId("zzz"), MemoryId("000")
    changes: list[Change] = [DeleteMemory(memory_id=each, spaces=where.spaces) for each in gone]
    changes += [make.put(make.memory(account, id=each, created_at=make.at(7))) for each in (before, behind)]
    await store.commit(changes, now=make.at())
    rest: list[Memory] = []
    while page := await store.feed(where, after=after, limit=2, with_superseded=True):
        rest += page
        after = FeedPosition(page[-1].created_at, page[-1].id)
    expected = [memory.id for memory in reversed(memories[:6]) if memory.id not in gone]
    assert [memory.id for memory in rest] == [*expected, behind]


# --- references and repeats ------------------------------------------------------------------------------


async def test_a_memory_is_found_by_its_reference_in_any_state_in_the_spaces_asked_for(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    memory = make.memory(account, external_ref="Ticket 7", state=MemoryState.ARCHIVED)
    other = make.memory(account)
    await store.commit(
        [make.put(memory, identity=external_ref_identity("Ticket 7")), make.put(other, identity="Ticket 8")],
        now=make.at(),
    )
    spaces = frozenset({account.space.id})
    assert await store.find_external_ref("Ticket 7", spaces) == memory
    assert await store.find_external_ref("ticket 7", spaces) is None
    assert await store.find_external_ref("Ticket 8", spaces) is None
    assert await store.find_external_ref("Ticket 7", frozenset({SpaceId("elsewhere")})) is None
    assert await store.find_external_ref("Ticket 7", frozenset()) is None


async def test_repeats_are_the_active_memories_that_stand_oldest_first(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    (apart,) = await domains(store, make, 1)
    newer = make.memory(account, content="Said", created_at=make.at(90))
    older = make.memory(account, content="said ", created_at=make.at(10), fingerprint="f")
    marked = make.memory(account, content="other", created_at=make.at(50), fingerprint="f")
    unlike = make.memory(account, content="unlike", fingerprint="F")
    archived = make.memory(account, content="said", state=MemoryState.ARCHIVED, fingerprint="f")
    replaced = make.memory(account, content="said", superseded_by=UNKNOWN, fingerprint="f")
    elsewhere = make.memory(account, content="said", space_id=apart, fingerprint="f", created_at=make.at(20))
    await put(store, make, newer, older, marked, unlike, archived, replaced, elsewhere)
    said, other, spaces = content_key("said"), content_key("other"), frozenset({account.space.id})

    assert await store.find_repeats(spaces, content_keys=[said, "none"]) == ((older.id, said), (newer.id, said))
    assert await store.find_repeats(spaces, fingerprint="f") == ((older.id, said), (marked.id, other))
    both = ((older.id, said), (elsewhere.id, said), (marked.id, other), (newer.id, said))
    assert await store.find_repeats(spaces | {apart}, content_keys=[said, said], fingerprint="f") == both
    assert await store.find_repeats(spaces) == ()
    assert await store.find_repeats(frozenset(), content_keys=[said], fingerprint="f") == ()


async def test_of_very_many_repeats_the_oldest_hundred_are_named(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    memories = [make.memory(account, content="said", fingerprint="f") for _ in range(120)]
    await put(store, make, *reversed(memories))
    oldest = tuple((memory.id, content_key("said")) for memory in memories[:100])
    spaces = frozenset({account.space.id})
    assert await store.find_repeats(spaces, content_keys=[content_key("said")]) == oldest
    assert await store.find_repeats(spaces, content_keys=[content_key("said")], fingerprint="f") == oldest


# --- concepts and associations ---------------------------------------------------------------------------


async def test_what_was_learned_of_memories_is_their_valence_and_the_keys_of_their_concepts(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    one = make.memory(account, concepts=("Data  Base", "data base", "Ünïcode", "!"), valence=0.25)
    two = make.memory(account, state=MemoryState.ARCHIVED)
    await put(store, make, one, two)
    spaces = frozenset({account.space.id})
    expected = {
        one.id: Learned(valence=0.25, concepts=frozenset({"data base", "unicode"})),
        two.id: Learned(valence=0.0, concepts=frozenset()),
    }
    assert await store.learned([two.id, UNKNOWN, one.id, one.id], spaces) == expected
    assert await store.learned([one.id], frozenset({SpaceId("elsewhere")})) == {}
    assert await store.learned([], spaces) == {}


async def test_concepts_are_counted_by_the_memories_of_the_spaces_asked_for(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    (apart,) = await domains(store, make, 1)
    await put(
        store,
        make,
        make.memory(account, concepts=("a", "A", "b")),
        make.memory(account, concepts=("a",), state=MemoryState.ARCHIVED),
        make.memory(account, concepts=("a", "c"), space_id=apart),
    )
    spaces = frozenset({account.space.id})
    assert await store.count_concepts(["a", "a", "b", "c", "d"], spaces) == {"a": 2, "b": 1}
    assert await store.count_concepts(["a", "c"], spaces | {apart}) == {"a": 3, "c": 1}
    assert await store.count_concepts(["a"], frozenset()) == {}
    assert await store.count_concepts([], spaces) == {}


def strengthen(make: Made, space_id: SpaceId, weights: dict[tuple[str, str], float]) -> list[Change]:
    return [
        Associate(space_id=space_id, pairs=frozenset({pair}), rate=weight, at=make.at())
        for pair, weight in weights.items()
    ]


async def test_the_strongest_associations_of_each_seed_come_heaviest_first(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    (apart,) = await domains(store, make, 1)
    keys = ("a", "b", "c", "d", "e")
    weights = {("a", "c"): 0.5, ("b", "c"): 0.75, ("c", "d"): 0.5, ("c", "e"): 0.25, ("a", "b"): 0.125}
    for space_id in (account.space.id, apart):
        await put(store, make, make.memory(account, space_id=space_id, concepts=keys))
    await store.commit(strengthen(make, account.space.id, weights), now=make.at())
    await store.commit(strengthen(make, apart, {("a", "c"): 0.5}), now=make.at())
    here, both = frozenset({account.space.id}), frozenset({account.space.id, apart})

    async def found(
        spaces: frozenset[SpaceId], *seeds: str, floor: float = 0.0, limit: int = 9
    ) -> list[tuple[str, str, float]]:
        edges = await store.associations(spaces, seeds, min_weight=floor, limit_per_seed=limit)
        return [(edge.source, edge.target, edge.weight) for edge in edges]

    of_c = [("b", "c", 0.75), ("a", "c", 0.5), ("c", "d", 0.5), ("c", "e", 0.25)]
    assert await found(here, "c") == of_c
    assert await found(here, "c", limit=2) == of_c[:2]
    assert await found(here, "c", limit=3) == of_c[:3]
    assert await found(here, "c", floor=0.5) == of_c[:3]
    assert await found(here, "c", floor=0.6) == of_c[:1]
    assert await found(here, "c", "b", "c") == [*of_c, ("a", "b", 0.125)]
    assert await found(here, "e", "a", limit=1) == [("a", "c", 0.5), ("c", "e", 0.25)]
    assert await found(both, "a", limit=1) == [("a", "c", 0.5), ("a", "c", 0.5)]
    assert await found(here, "unknown") == []
    assert await found(here) == []
    assert await found(frozenset(), "c") == []


async def test_every_association_has_one_owner(make: Made, account: NewAccount, store: TenantStore) -> None:
    random = np.random.default_rng(7)
    keys = [f"k{number:02}" for number in range(14)]
    spaces = [account.space.id, *await domains(store, make, 1)]
    memories = [
        make.memory(
            account,
            space_id=spaces[number % 2],
            concepts=tuple(random.choice(keys[: 5 + number], size=3)),
            state=MemoryState.ARCHIVED if number % 4 == 0 else MemoryState.ACTIVE,
        )
        for number in range(9)
    ]
    await put(store, make, *reversed(memories))
    for space_id in spaces:
        change = Associate(space_id=space_id, pairs=pairs_within(keys), rate=0.5, at=make.at())
        await store.commit([change], now=make.at())
    everything = await store.associations(frozenset(spaces), keys, min_weight=0.0, limit_per_seed=1000)
    ids = [memory.id for memory in memories]
    owned = await store.owned_associations([*ids, UNKNOWN, ids[0]])

    having = {
        (space_id, key): min((m.id for m in memories if m.space_id == space_id and key in m.concepts), default=None)
        for space_id in spaces
        for key in keys
    }
    expected: dict[MemoryId, list[Association]] = {}
    for edge in sorted(everything, key=lambda edge: (edge.source, edge.target)):
        owner = having[edge.space_id, edge.source] or having[edge.space_id, edge.target]
        assert owner is not None
        expected.setdefault(owner, []).append(edge)
    assert len(everything) > 50
    assert owned == {memory_id: tuple(edges) for memory_id, edges in expected.items()}
    for one, two in pairwise(ids):
        part = await store.owned_associations([one, two])
        assert part == {each: owned[each] for each in (one, two) if each in owned}


# --- statistics and spaces -------------------------------------------------------------------------------


async def test_statistics_count_what_is_active_in_each_space_that_holds_anything(
    make: Made, account: NewAccount, store: TenantStore
) -> None:
    shelved, empty = await domains(store, make, 2)
    await put(
        store,
        make,
        make.memory(account, content="said", valence=0.5, importance=0.25, concepts=("a", "b", "c")),
        make.memory(account, content="SAID", valence=-0.25, importance=0.5),
        make.memory(account, content="marked", fingerprint="f", role=MemoryRole.PROTOTYPE),
        make.memory(account, content="marked too", fingerprint="f", superseded_by=UNKNOWN),
        make.memory(account, content="gone", state=MemoryState.ARCHIVED, valence=1.0, fingerprint="g"),
        make.memory(account, content="gone too", state=MemoryState.ARCHIVED, space_id=shelved),
    )
    await store.commit(strengthen(make, account.space.id, {("a", "b"): 0.5, ("b", "c"): 0.5}), now=make.at())
    everywhere = frozenset({account.space.id, shelved, empty})
    nothing = dict.fromkeys(MemoryRole, 0)
    expected = [
        SpaceStatistics(
            space_id=account.space.id,
            by_role={**nothing, MemoryRole.EPISODE: 3, MemoryRole.PROTOTYPE: 1},
            fingerprints=2,
            valence_sum=0.25,
            importance_sum=1.75,
            associations=2,
        ),
        SpaceStatistics(
            space_id=shelved, by_role=nothing, fingerprints=0, valence_sum=0.0, importance_sum=0.0, associations=0
        ),
    ]
    expected.sort(key=lambda each: each.space_id)
    assert await store.statistics(everywhere) == tuple(expected)
    assert await store.statistics(frozenset({empty})) == ()
    assert await store.statistics(frozenset()) == ()


async def test_a_space_is_found_by_its_kind_and_name_with_ones_own_membership(
    storage: Storage, make: Made, account: NewAccount, store: TenantStore
) -> None:
    amy, personal = make.user(account.tenant.id, "amy")
    await storage.directory.add_user(amy, personal)
    domain = make.space(name="Work")
    hub = make.space(name="Work", kind=SpaceKind.HUB)
    viewer = Membership(space_id=domain.id, user_id=amy.id, role=Role.VIEWER)
    await store.commit([AddSpace(space=domain, members=(viewer,)), AddSpace(space=hub, members=())], now=make.at())
    assert await store.find_space(SpaceKind.DOMAIN, "Work", amy.id) == (domain, viewer)
    assert await store.find_space(SpaceKind.DOMAIN, "Work", account.user.id) == (domain, None)
    assert await store.find_space(SpaceKind.HUB, "Work", amy.id) == (hub, None)
    assert await store.find_space(SpaceKind.DOMAIN, "work", amy.id) is None
    assert await store.find_space(SpaceKind.PERSONAL, "general", amy.id) is None


# --- the arm of concepts, and vectors --------------------------------------------------------------------


async def test_memories_are_found_by_the_sum_of_the_weights_of_their_concepts(
    storage: Storage, make: Made, account: NewAccount, store: TenantStore
) -> None:
    (apart,) = await domains(store, make, 1)
    one = make.memory(account, concepts=("Alpha", "beta"))
    two = make.memory(account, concepts=("beta",), tags=("x",))
    three = make.memory(account, concepts=("beta", "gamma"), metadata={"n": 1})
    archived = make.memory(account, concepts=("alpha",), state=MemoryState.ARCHIVED)
    elsewhere = make.memory(account, concepts=("alpha", "beta"), space_id=apart)
    await put(store, make, three, two, one, archived, elsewhere)
    index = storage.search(account.tenant.id)
    where = MemoryFilter(spaces=frozenset({account.space.id}), states=frozenset({MemoryState.ACTIVE}))

    async def found(weights: dict[str, float], where: MemoryFilter, limit: int = 9) -> list[tuple[MemoryId, float]]:
        return [(hit.memory_id, hit.score) for hit in await index.conceptual(weights, where, limit=limit)]

    weights = {"alpha": 0.5, "beta": 0.25, "unknown": 1.0}
    ranked = [(one.id, 0.75), (two.id, 0.25), (three.id, 0.25)]
    assert await found(weights, where) == ranked
    assert await found(weights, where, limit=2) == ranked[:2]
    assert await found(weights, where, limit=0) == []
    assert await found({}, where) == []
    assert await found(weights, replace(where, tags=("x",))) == [(two.id, 0.25)]
    assert await found(weights, replace(where, states=None)) == [ranked[0], (archived.id, 0.5), *ranked[1:]]
    everywhere = replace(where, spaces=frozenset({account.space.id, apart}))
    assert await found({"alpha": 1.0}, everywhere) == [(one.id, 1.0), (elsewhere.id, 1.0)]
    assert await found(weights, replace(where, spaces=frozenset())) == []

    await store.commit([DeleteMemory(memory_id=one.id, spaces=where.spaces)], now=make.at())
    assert await found(weights, where) == ranked[1:]
    assert await storage.search(make.account("nobody").tenant.id).conceptual(weights, where, limit=9) == ()


async def test_the_vectors_of_memories_are_unit_rows_one_for_each_chunk(
    storage: Storage, make: Made, account: NewAccount, store: TenantStore
) -> None:
    whole, bare, empty, foreign = (make.memory(account) for _ in range(4))
    other = ModelIdentity(name="other", revision="1", dimension=8, token_dimension=4)
    chunks = tuple(make.embedding(seed).chunks[0] for seed in (1, 2))
    entries = {
        whole: Embedding(model=make.model, chunks=chunks, is_complete=True),
        bare: None,
        empty: Embedding(model=make.model, chunks=(), is_complete=False),
        foreign: make.embedding(3, model=other),
    }
    await store.commit(
        [PutMemory(memory=memory, index=make.entry(embedding=each)) for memory, each in entries.items()], now=make.at()
    )
    ids = [memory.id for memory in (foreign, whole, bare, empty, whole)]
    index = storage.search(account.tenant.id)
    found = await index.embeddings([*ids, UNKNOWN], make.model)
    assert list(found) == [whole.id]
    rows = found[whole.id]
    assert rows.shape == (2, 8)
    assert rows.dtype == np.dtype(np.float32)
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1.0, 1.0], abs=1e-6)
    assert rows == pytest.approx(np.stack([chunk.embedding for chunk in chunks]), abs=2e-3)
    assert list(await index.embeddings(ids, other)) == [foreign.id]
    assert await index.embeddings([], make.model) == {}
    assert await index.embeddings(ids, replace(other, revision="2")) == {}
    assert await storage.search(make.account("nobody").tenant.id).embeddings(ids, make.model) == {}
