"""What is learned is the same on both storages, and filters pass what the domain says that they pass."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import pytest

from congruence.learner import KEYS, SPACES, Learner
from polymem.domain.concepts import content_key
from polymem.domain.model import Association, Memory, MemoryId, SpaceKind
from polymem.domain.passing import passes
from polymem.domain.query import FeedPosition, ListOrder, MemoryFilter, SpaceStatistics
from polymem.ports.changes import Applied, Change, IndexEntry, PutMemory, Valued
from polymem.ports.search import SearchIndex
from polymem.ports.storage import Storage, TenantStore
from polymem.storage.conditions import NEWEST_OF_CONCEPT
from samples import AT, memory_of
from writer import ACCOUNT, MODEL, WORDS

CLOSE = 1e-9
EVERYTHING = MemoryFilter(spaces=SPACES, states=None)
Both = tuple[Storage, Storage]
Stores = tuple[TenantStore, TenantStore]
Answer = TypeVar("Answer")


def alike(answers: Sequence[Answer]) -> Answer:
    """What both answered."""
    one, other = answers
    assert other == one
    return one


async def apply(stores: Stores, changes: list[Change]) -> None:
    """The changes were applied on both, with the same outcomes."""
    alike([await outcomes(store, changes) for store in stores])


async def outcomes(store: TenantStore, changes: list[Change]) -> list[object]:
    """What came of the changes; sums may differ by the order in which they were added up."""
    applied = await store.commit(changes, now=AT)
    assert isinstance(applied, Applied)
    return [
        (each.count, pytest.approx(each.valence_sum, abs=CLOSE)) if isinstance(each, Valued) else each
        for each in applied.outcomes
    ]


async def all_of(store: TenantStore) -> Mapping[MemoryId, Memory]:
    """Every memory of the tenant."""
    page = await store.list_memories(EVERYTHING, order=ListOrder.UPDATED_NEWEST, limit=10_000, offset=0)
    return {memory.id: memory for memory in page.memories}


async def fed(store: TenantStore, where: MemoryFilter, *, with_superseded: bool) -> list[Memory]:
    """A feed followed to its end, page by page."""
    found: list[Memory] = []
    while True:
        after = FeedPosition(found[-1].created_at, found[-1].id) if found else None
        page = await store.feed(where, after=after, limit=7, with_superseded=with_superseded)
        found += page
        if not page:
            return found


def about(statistics: tuple[SpaceStatistics, ...]) -> list[tuple[SpaceStatistics, object, object]]:
    """The statistics, with sums that may differ by the order in which they were added up."""
    return [
        (
            replace(each, valence_sum=0.0, importance_sum=0.0),
            pytest.approx(each.valence_sum, abs=CLOSE),
            pytest.approx(each.importance_sum, abs=CLOSE),
        )
        for each in statistics
    ]


async def assert_same_lessons(stores: Stores) -> None:
    """Whatever is asked of what was learned, both answer the same."""
    stored = alike([await all_of(store) for store in stores])
    ids = [*sorted(stored), MemoryId("nobody")]
    texts = [content_key(memory.content) for memory in list(stored.values())[:9]]
    alike([await store.learned(ids, SPACES) for store in stores])
    alike([await store.count_concepts([*KEYS, "unknown"], SPACES) for store in stores])
    for limit in (2, 1000):
        alike([await store.associations(SPACES, KEYS[:4], min_weight=0.2, limit_per_seed=limit) for store in stores])
    alike([about(await store.statistics(SPACES)) for store in stores])
    for fingerprint in (None, "print 3"):
        alike([await store.find_repeats(SPACES, content_keys=texts, fingerprint=fingerprint) for store in stores])
    for reference in range(50):
        alike([await store.find_external_ref(f"ref {reference}", SPACES) for store in stores])
    alike([await store.find_space(SpaceKind.DOMAIN, "second", ACCOUNT.user.id) for store in stores])
    edges = alike([await store.associations(SPACES, KEYS, min_weight=0.0, limit_per_seed=1000) for store in stores])
    owned = alike([await store.owned_associations(ids) for store in stores])
    assert sorted([edge for own in owned.values() for edge in own], key=_place) == sorted(edges, key=_place)


def _place(association: Association) -> tuple[str, str, str]:
    return association.space_id, association.source, association.target


async def assert_same_passing(both: Both, stores: Stores, learner: Learner) -> None:
    """Of each filter both storages pass, in lists, feeds and every arm, what the domain says."""
    stored = await all_of(stores[0])
    indexes = [storage.search(ACCOUNT.tenant.id) for storage in both]
    for where in learner.filters(stored):
        passing = {each.id for each in stored.values() if passes(where, each)}
        for store in stores:
            page = await store.list_memories(where, order=ListOrder.CREATED_NEWEST, limit=10_000, offset=0)
            assert ({each.id for each in page.memories}, page.total) == (passing, len(passing))
        feed = alike([await fed(store, where, with_superseded=True) for store in stores])
        assert {each.id for each in feed} == passing
        alike([await fed(store, where, with_superseded=False) for store in stores])
        for arm in (by_words, by_vector(learner), by_concepts):
            one, other = [await arm(index, where) for index in indexes]
            assert other == pytest.approx(one, abs=1e-5)
            assert one.keys() <= passing


async def by_words(index: SearchIndex, where: MemoryFilter) -> dict[MemoryId, float]:
    """What all words find, with scores."""
    return {hit.memory_id: hit.score for hit in await index.lexical(WORDS, where, limit=10_000)}


def by_vector(learner: Learner) -> Callable[[SearchIndex, MemoryFilter], Awaitable[dict[MemoryId, float]]]:
    """What one question finds, with scores."""
    question = learner.question()

    async def arm(index: SearchIndex, where: MemoryFilter) -> dict[MemoryId, float]:
        return {hit.memory_id: hit.score for hit in await index.dense(question, MODEL, where, limit=10_000)}

    return arm


async def by_concepts(index: SearchIndex, where: MemoryFilter) -> dict[MemoryId, float]:
    """What some concepts find, best first, the first of them alone being the same."""
    weights = {key: 0.1 * (1 + place) for place, key in enumerate(KEYS[:5])}
    hits = await index.conceptual(weights, where, limit=10_000)
    assert await index.conceptual(weights, where, limit=5) == hits[:5]
    return {hit.memory_id: hit.score for hit in hits}


@pytest.mark.parametrize("seed", range(4))
async def test_after_any_changes_both_storages_have_learned_the_same(both: Both, seed: int) -> None:
    learner = Learner(seed)
    stores = (both[0].tenant(ACCOUNT.tenant.id), both[1].tenant(ACCOUNT.tenant.id))
    await apply(stores, learner.begin())
    await apply(stores, [learner.put() for _ in range(80)])
    for _ in range(8):
        stored = await all_of(stores[0])
        await apply(stores, learner.lessons(stored))
        await assert_same_lessons(stores)
        await assert_same_passing(both, stores, learner)
        stored = await all_of(stores[0])
        learner.revisions = {str(memory_id): memory.revision for memory_id, memory in stored.items()}
        await apply(stores, learner.changes())
    indexes = [storage.search(ACCOUNT.tenant.id) for storage in both]
    vectors = [await index.embeddings([*stored, MemoryId("nobody")], MODEL) for index in indexes]
    assert {key: rows.tobytes() for key, rows in vectors[0].items()} == {
        key: rows.tobytes() for key, rows in vectors[1].items()
    }
    for storage in both:
        assert [finding.message for finding in await storage.check() if not finding.is_ok] == []


async def test_of_a_concept_that_very_many_have_the_newest_are_scored_on_both(both: Both) -> None:
    many = [f"m{number:05}" for number in range(NEWEST_OF_CONCEPT + 50)]
    stores = (both[0].tenant(ACCOUNT.tenant.id), both[1].tenant(ACCOUNT.tenant.id))
    puts: list[Change] = [
        PutMemory(
            memory=replace(memory_of(ACCOUNT, name), concepts=("hub",) if number % 1000 else ("hub", "own")),
            index=IndexEntry(terms=(), embedding=None),
        )
        for number, name in enumerate(many)
    ]
    await apply(stores, puts)
    everything = MemoryFilter(spaces=frozenset({ACCOUNT.space.id}))
    indexes = [storage.search(ACCOUNT.tenant.id) for storage in both]
    found = alike([await index.conceptual({"hub": 0.5, "own": 0.25}, everything, limit=10_000) for index in indexes])
    scores = {hit.memory_id: hit.score for hit in found}
    own = dict.fromkeys(many[::1000], 0.25)
    assert scores == own | {name: 0.5 + own.get(name, 0.0) for name in many[50:]}
    assert alike([await store.count_concepts(["hub"], everything.spaces) for store in stores]) == {"hub": len(many)}
