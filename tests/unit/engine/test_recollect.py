"""Recollection learns from outcomes, follows associations, and recognises what it has seen."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from polymem.domain.concepts import concept_keys, pairs_within
from polymem.domain.learning import WRITE_RATE, modulated
from polymem.domain.model import Memory, MemoryId, Role, Scope, SpaceId, SpaceKind
from polymem.domain.query import Comparison, MemoryFilter, MetadataCondition, RecallRequest
from polymem.engine.access import Access
from polymem.engine.associate import FAR_MIN_WEIGHT, MOST_FRONTIER, Associate
from polymem.engine.feedback import MOST_PAIRS, Feedback
from polymem.engine.indexing import Indexer
from polymem.engine.recall import Recall
from polymem.engine.recollect import Recollect
from polymem.engine.requests import (
    FeedbackGiven,
    GraphRequest,
    HitSource,
    NewFeedback,
    Recollection,
    RecollectRequest,
)
from polymem.errors import Conflict, Forbidden, InvalidInput, TooLarge
from polymem.ports import changes
from samples import insight
from word_model import WordModel

AT = datetime(2023, 5, 8, tzinfo=UTC)


class Mind:
    """Remembers, is asked, and is told how it went."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.model = WordModel()
        self.indexer = Indexer(self.model, inline_chunks=1_000)
        access = Access(world.storage)
        self.associate = Associate(world.storage, access)
        self.recollect = Recollect(world.storage, self.model, access, self.associate, clock=world.clock)
        self.feedback = Feedback(world.storage, access, world.clock)

    @property
    def space_id(self) -> SpaceId:
        space_id: SpaceId = self.world.principal.personal_space_id
        return space_id

    async def keep(self, content: str, *concepts: str, **given: Any) -> Memory:
        memory = insight(
            self.world.ids.new_id(), content, space_id=self.space_id, user_id=self.world.principal.user_id, at=AT
        )
        memory = replace(memory, **({"concepts": concepts} | given))
        entry, _ = await self.indexer.entry(memory)
        associate = changes.Associate(
            space_id=memory.space_id, pairs=pairs_within(concept_keys(concepts)), rate=WRITE_RATE, at=AT
        )
        put = changes.PutMemory(memory=memory, index=entry)
        await self.world.store.commit([put, associate], now=self.world.clock.now())
        return memory

    async def ask(self, text: str, **given: Any) -> Recollection:
        asked = {
            name: given.pop(name)
            for name in ("concepts", "fingerprint", "with_superseded", "newest_first", "diversity", "expands")
            if name in given
        }
        limit, least = given.pop("limit", 10), given.pop("min_relevance", 0.3)
        call = given.pop("call", None) or self.world.call()
        where = MemoryFilter(**({"spaces": frozenset({self.space_id})} | given))
        request = RecollectRequest(text=text, where=where, limit=limit, min_relevance=least, **asked)
        return await self.recollect.search(call, request)

    async def tell(self, outcome: float, *memories: Memory, **given: Any) -> FeedbackGiven:
        ids = tuple(memory.id for memory in memories)
        return await self.feedback.give(self.world.call(), NewFeedback(memory_ids=ids, outcome=outcome, **given))

    async def graph(self, *seeds: str, **given: Any) -> Any:
        return await self.associate.graph(self.world.call(), GraphRequest(seeds=seeds, **given))

    async def edges(self) -> dict[tuple[str, str], tuple[float, float, int]]:
        found = await self.world.store.associations(
            frozenset({self.space_id}), sorted("abcdefghijklmnopqrstuvwxyz"), min_weight=0.0, limit_per_seed=100
        )
        return {(each.source, each.target): (each.weight, each.valence, each.count) for each in found}


@pytest.fixture
def mind(world: Any) -> Mind:
    return Mind(world)


def _sources(found: Recollection) -> list[tuple[str, HitSource]]:
    return [(hit.memory.content, hit.source) for hit in found.hits]


# --- what helped ranks higher ----------------------------------------------------------------------------


async def test_a_memory_that_helped_ranks_higher_next_time(mind: Mind) -> None:
    one = await mind.keep("the cat sleeps in room seven")
    other = await mind.keep("the cat sleeps in room nine")
    before = await mind.ask("where does the cat sleep")
    assert {hit.memory.id for hit in before.hits} == {one.id, other.id}
    last = before.hits[1]
    given = await mind.tell(1.0, last.memory)
    assert (given.updated, given.average_valence) == pytest.approx((1, 0.3))
    once = {hit.memory.id: hit for hit in (await mind.ask("where does the cat sleep")).hits}[last.memory.id]
    assert once.relevance == pytest.approx(modulated(last.relevance, 0.3))
    assert (once.memory.valence, once.similarity) == pytest.approx((0.3, last.similarity))
    for _ in range(5):
        await mind.tell(1.0, last.memory)
    assert (await mind.ask("where does the cat sleep")).hits[0].memory.id == last.memory.id


async def test_a_memory_that_failed_falls_below_the_cut_at_last(mind: Mind) -> None:
    bad = await mind.keep("the cat sleeps in the garden")
    relevance = (await mind.ask("where does the cat sleep")).hits[0].relevance
    for _ in range(8):
        await mind.tell(-1.0, bad)
    fallen = modulated(relevance, -0.9)
    assert (await mind.ask("where does the cat sleep", min_relevance=fallen)).hits == ()


async def test_feedback_on_what_is_not_there_counts_nothing(mind: Mind) -> None:
    memory = await mind.keep("the cat sleeps", "a", "b")
    ghost = replace(memory, id=MemoryId("018f0000-0000-7000-8000-000000000000"))
    assert await mind.tell(1.0, ghost) == FeedbackGiven(updated=0, average_valence=0.0, coactivated=0)
    given = await mind.tell(1.0, memory, ghost, memory)
    assert (given.updated, given.average_valence) == pytest.approx((1, 0.3))


async def test_feedback_is_order_independent_within_a_call(mind: Mind) -> None:
    one, other = await mind.keep("one", "a", "b"), await mind.keep("other", "b", "c")
    third, fourth = await mind.keep("third", "d", "e"), await mind.keep("fourth", "e", "f")
    await mind.tell(0.5, one, other, query_concepts=("q", "r"))
    await mind.tell(0.5, fourth, third, query_concepts=("r", "q"))
    found = await mind.edges()
    for pair, twin in ((("a", "b"), ("d", "e")), (("b", "c"), ("e", "f")), (("a", "q"), ("d", "q"))):
        assert found[pair] == found[twin]


async def test_success_strengthens_the_concepts_of_a_memory_and_failure_leaves_their_weight(mind: Mind) -> None:
    memory = await mind.keep("caching", "a", "b")
    assert (await mind.edges())["a", "b"] == pytest.approx((0.2, 0.0, 1))
    await mind.tell(1.0, memory)
    assert (await mind.edges())["a", "b"] == pytest.approx((0.28, 0.0, 2))
    await mind.tell(-1.0, memory)
    assert (await mind.edges())["a", "b"] == pytest.approx((0.28, 0.0, 2))


async def test_concepts_of_a_question_and_of_what_answered_it_grow_together(mind: Mind) -> None:
    memory = await mind.keep("caching", "a", "b")
    given = await mind.tell(1.0, memory, query_concepts=("q", "a"), concepts=("r",))
    # q-a, q-b, a-b and r-a, r-b
    assert given.coactivated == 5
    found = await mind.edges()
    assert found["a", "q"] == pytest.approx((0.3, 0.3, 1))
    assert found["a", "b"] == pytest.approx((1 - 0.8 * 0.7, 0.3, 2))
    assert ("q", "r") not in found


async def test_what_failed_together_passes_less_on(mind: Mind) -> None:
    memory = await mind.keep("caching", "a", "b")
    await mind.tell(-1.0, memory, query_concepts=("a",))
    assert (await mind.edges())["a", "b"] == pytest.approx((0.2, -0.3, 2))


async def test_a_retry_of_feedback_under_its_key_changes_nothing_more(mind: Mind) -> None:
    memory = await mind.keep("caching", "a", "b")
    other = await mind.keep("queueing", "c", "d")
    new = NewFeedback(memory_ids=(memory.id, other.id), outcome=1.0, query_concepts=("q",))
    call = mind.world.call(key="once")
    first = await mind.feedback.give(call, new)
    assert first == await mind.feedback.give(call, new)
    assert (await mind.world.store.get_memories([memory.id], frozenset({mind.space_id})))[
        memory.id
    ].valence == pytest.approx(0.3)


async def test_a_key_that_did_other_work_is_refused(mind: Mind) -> None:
    memory = await mind.keep("caching")
    await mind.world.engine.write.delete(mind.world.call(key="once"), memory.id)
    with pytest.raises(Conflict):
        await mind.feedback.give(mind.world.call(key="once"), NewFeedback(memory_ids=(), outcome=0.0))


async def test_the_pairs_of_one_call_are_bounded(mind: Mind) -> None:
    concepts = [[f"{letter}{number}" for number in range(16)] for letter in "abcdefghijklmnopqrst"]
    memories = [await mind.keep(f"memory {place}", *each) for place, each in enumerate(concepts)]
    asked = tuple(f"q{number}" for number in range(16))
    given = await mind.tell(1.0, *memories, query_concepts=asked)
    assert given.coactivated == MOST_PAIRS < 20 * 16 * 16


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"outcome": 1.01}, InvalidInput),
        ({"outcome": float("nan")}, InvalidInput),
        ({"outcome": 0.0, "memory_ids": ("x",) * 501}, TooLarge),
        ({"outcome": 0.0, "concepts": ("x",) * 257}, TooLarge),
        ({"outcome": 0.0, "query_concepts": ("",)}, InvalidInput),
        ({"outcome": 0.0, "query_concepts": ("x" * 257,)}, InvalidInput),
    ],
)
async def test_feedback_beyond_its_limits_is_refused(mind: Mind, given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        await mind.feedback.give(mind.world.call(), NewFeedback(**({"memory_ids": ()} | given)))


async def test_feedback_needs_the_scope_to_write(mind: Mind) -> None:
    memory = await mind.keep("caching")
    reader = mind.world.call(scopes=frozenset({Scope.READ}))
    with pytest.raises(Forbidden):
        await mind.feedback.give(reader, NewFeedback(memory_ids=(memory.id,), outcome=1.0))


# --- associations ----------------------------------------------------------------------------------------


async def test_a_concept_bridges_two_memories_that_share_no_word(mind: Mind) -> None:
    await mind.keep("the cat sleeps in the garden", "pets", "home")
    far = await mind.keep("insurance number nine", "home", "papers")
    await mind.keep("trains run late")
    found = await mind.ask("where does the cat sleep")
    assert _sources(found)[1:] == [(far.content, HitSource.HEBBIAN)]
    assert {"pets", "home", "papers"} <= set(found.expanded_concepts)
    alone = await mind.ask("where does the cat sleep", expands=False)
    assert [content for content, _ in _sources(alone)] == ["the cat sleeps in the garden"]
    assert alone.expanded_concepts == alone.query_concepts


async def test_a_hint_activates_what_it_is_associated_with(mind: Mind) -> None:
    await mind.keep("redis answers from memory", "caching", "performance")
    tuned = await mind.keep("indexes were rebuilt on Monday", "performance", "database")
    found = await mind.ask("nothing of the kind", concepts=("Caching",))
    assert (tuned.content, HitSource.HEBBIAN) in _sources(found)
    assert found.query_concepts[0] == "caching"
    assert "performance" in found.expanded_concepts


async def test_a_known_concept_is_read_out_of_the_question(mind: Mind) -> None:
    await mind.keep("redis answers from memory", "read latency")
    found = await mind.ask("how do we get read latency down")
    assert found.query_concepts[0] == "read latency"
    assert [content for content, _ in _sources(found)] == ["redis answers from memory"]


async def test_a_rewarded_question_finds_its_answer_again_in_other_words(mind: Mind) -> None:
    answer = await mind.keep("platform nine at noon", "departures")
    for number in range(4):
        await mind.keep(f"filler {number} text about {number}")
    assert (await mind.ask("holiday ferry")).hits == ()
    await mind.tell(1.0, answer, query_concepts=("ferry",))
    assert _sources(await mind.ask("the next ferry please")) == [(answer.content, HitSource.HEBBIAN)]


async def test_associations_of_spaces_that_may_not_be_read_activate_nothing(mind: Mind) -> None:
    hidden = await mind.world.space(SpaceKind.HUB)
    await mind.keep("hidden", "caching", "secret project", space_id=hidden)
    found = await mind.ask("nothing", concepts=("caching",), spaces=frozenset({mind.space_id, hidden}))
    assert found.hits == ()
    assert found.expanded_concepts == found.query_concepts == ("caching",)


async def test_a_page_has_a_place_for_what_only_association_found(mind: Mind) -> None:
    first = await mind.keep("the cat sleeps in the garden", "home")
    for number in range(6):
        await mind.keep(f"the cat sleeps in room {number}")
    far = await mind.keep("insurance papers", "home")
    shown = await mind.ask("the garden where the cat sleeps", limit=5)
    assert shown.hits[0].memory.id == first.id
    assert _sources(shown)[-1] == (far.content, HitSource.HEBBIAN)
    assert [source for _, source in _sources(shown)[:-1]] == [HitSource.SEMANTIC] * 4
    few = await mind.ask("the garden where the cat sleeps", limit=4)
    assert [source for _, source in _sources(few)] == [HitSource.SEMANTIC] * 4
    relevances = [hit.relevance for hit in shown.hits]
    assert relevances == sorted(relevances, reverse=True)


# --- recognition -----------------------------------------------------------------------------------------


async def test_a_given_fingerprint_is_recognised_before_anything_else(mind: Mind) -> None:
    await mind.keep("the cat sleeps in the garden")
    known = await mind.keep("trains run late", fingerprint="build:42")
    found = await mind.ask("where does the cat sleep", fingerprint="build:42")
    assert _sources(found)[0] == (known.content, HitSource.EPISODIC)
    assert found.hits[0].relevance >= found.hits[1].relevance
    assert found.is_episodic
    assert not (await mind.ask("where does the cat sleep", fingerprint="build:43")).is_episodic


async def test_the_own_text_of_a_memory_is_recognised(mind: Mind) -> None:
    known = await mind.keep("The Cat  sleeps")
    await mind.tell(-1.0, known)
    found = await mind.ask("the cat sleeps")
    assert _sources(found) == [(known.content, HitSource.EPISODIC)]
    assert found.hits[0].relevance == 1.0


async def test_a_recognised_memory_passes_the_filter_or_is_not_shown(mind: Mind) -> None:
    await mind.keep("the cat sleeps", metadata={"room": "garden"})
    in_kitchen = (MetadataCondition(("room",), Comparison.EQ, "kitchen"),)
    assert (await mind.ask("the cat sleeps", metadata=in_kitchen)).hits == ()


# --- order and filters -----------------------------------------------------------------------------------


async def test_superseded_memories_are_history(mind: Mind) -> None:
    old = await mind.keep("the cat sleeps in the garden")
    new = await mind.keep("the cat sleeps in the kitchen")
    supersede = changes.Supersede(memory_ids=(old.id,), by=new.id, spaces=frozenset({mind.space_id}))
    await mind.world.store.commit([supersede], now=AT)
    assert [hit.memory.id for hit in (await mind.ask("where does the cat sleep")).hits] == [new.id]
    both = await mind.ask("where does the cat sleep", with_superseded=True)
    assert [hit.memory.id for hit in both.hits] == [new.id, old.id]
    assert both.hits[1].memory.superseded_by == new.id


async def test_hits_are_shown_newest_first_when_asked_for(mind: Mind) -> None:
    old = await mind.keep("the cat sleeps")
    new = await mind.keep("a horse sleeps beside two dogs", created_at=AT + timedelta(days=1))
    assert [hit.memory.id for hit in (await mind.ask("cat sleeps")).hits] == [old.id, new.id]
    found = await mind.ask("cat sleeps", newest_first=True)
    assert [hit.memory.id for hit in found.hits] == [new.id, old.id]


async def test_diversity_puts_a_near_copy_behind(mind: Mind) -> None:
    await mind.keep("the cat sleeps in the garden")
    await mind.keep("the kitten sleeps in the garden")
    await mind.keep("a cat eats")
    plain = await mind.ask("cat sleeps in the garden", min_relevance=0.0)
    mixed = await mind.ask("cat sleeps in the garden", min_relevance=0.0, diversity=0.8)
    assert plain.hits[1].memory.content == "the kitten sleeps in the garden"
    assert mixed.hits[1].memory.content == "a cat eats"
    assert {hit.memory.id for hit in plain.hits} == {hit.memory.id for hit in mixed.hits}
    assert (await mind.ask("quantum", diversity=0.8)).hits == ()


async def test_the_page_holds_no_more_than_asked_for_and_nothing_below_the_cut(mind: Mind) -> None:
    for number in range(5):
        await mind.keep(f"the cat sleeps, note {number}")
    assert len((await mind.ask("cat sleeps", limit=2)).hits) == 2
    assert (await mind.ask("cat sleeps", min_relevance=1.0)).hits == ()


async def test_without_the_model_words_and_associations_decide(mind: Mind) -> None:
    await mind.keep("the cat sleeps", "pets")
    mind.model.problem = "no model"
    found = await mind.ask("where does the cat sleep")
    assert found.is_degraded
    assert [(hit.memory.content, hit.similarity) for hit in found.hits] == [("the cat sleeps", 0.0)]


async def test_association_brings_what_no_arm_found(mind: Mind) -> None:
    near = await mind.keep("the cat sleeps", "pets")
    far = await mind.keep("insurance number nine", "pets")
    mind.model.problem = "no model"
    found = await mind.ask("where does the cat sleep")
    assert _sources(found) == [(near.content, HitSource.SEMANTIC), (far.content, HitSource.HEBBIAN)]


async def test_a_tenant_recollects_nothing_of_another(mind: Mind) -> None:
    await mind.keep("the cat sleeps", "pets", fingerprint="f")
    stranger = await mind.world.stranger()
    call = replace(mind.world.call(), principal=stranger)
    both = frozenset({mind.space_id, stranger.personal_space_id})
    found = await mind.ask("the cat sleeps", call=call, spaces=both, concepts=("pets",), fingerprint="f")
    assert (found.hits, found.expanded_concepts) == ((), found.query_concepts)


# --- graph -----------------------------------------------------------------------------------------------


async def test_a_graph_goes_as_many_steps_as_it_is_asked_to(mind: Mind) -> None:
    await mind.keep("one", "a", "b")
    await mind.keep("two", "b", "c")
    await mind.keep("three", "c", "d")
    near = await mind.graph("A")
    assert [(edge.source, edge.target) for edge in near.edges] == [("a", "b")]
    assert (near.degrees, near.is_truncated, near.min_weight) == ({"a": 1, "b": 1}, False, 0.0)
    far = await mind.graph("a", depth=3)
    assert [(edge.source, edge.target) for edge in far.edges] == [("a", "b"), ("b", "c"), ("c", "d")]
    assert far.degrees == {"a": 1, "b": 2, "c": 2, "d": 1}
    assert far.min_weight == FAR_MIN_WEIGHT
    assert (await mind.graph("unknown")).degrees == {"unknown": 0}


async def test_a_graph_says_when_there_is_more(mind: Mind) -> None:
    await mind.keep("one", "a", "b", "c", "d")
    cut = await mind.graph("a", limit=2)
    assert (len(cut.edges), cut.is_truncated) == (2, True)
    assert not (await mind.graph("a", limit=3)).is_truncated
    assert (await mind.graph("a", min_weight=0.3)).edges == ()


async def test_a_graph_of_several_spaces_has_each_pair_once(mind: Mind) -> None:
    domain = await mind.world.space(SpaceKind.DOMAIN, Role.OWNER)
    hidden = await mind.world.space(SpaceKind.HUB)
    await mind.keep("one", "a", "b")
    for number in range(2):
        await mind.keep(f"other {number}", "a", "b", space_id=domain)
    await mind.keep("hidden", "a", "secret", space_id=hidden)
    found = await mind.graph("a")
    assert [(edge.weight, edge.count) for edge in found.edges] == [(pytest.approx(0.36), 3)]
    assert [edge.count for edge in (await mind.graph("a", spaces=frozenset({mind.space_id}))).edges] == [1]


async def test_a_step_of_a_graph_goes_on_from_a_bounded_number_of_concepts(mind: Mind) -> None:
    for number in range(MOST_FRONTIER + 1):
        await mind.keep(f"memory {number}", "hub", f"spoke {number}")
    assert (await mind.graph("hub", depth=2, limit=500)).is_truncated
    assert not (await mind.graph("hub", limit=500)).is_truncated


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"seeds": ()}, InvalidInput),
        ({"seeds": ("...",)}, InvalidInput),
        ({"seeds": ("x" * 257,)}, InvalidInput),
        ({"seeds": ("x",) * 21}, TooLarge),
        ({"seeds": ("x",), "depth": 4}, InvalidInput),
        ({"seeds": ("x",), "limit": 0}, InvalidInput),
    ],
)
async def test_a_graph_beyond_its_limits_is_refused(mind: Mind, given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        await mind.associate.graph(mind.world.call(), GraphRequest(**given))


async def test_with_nothing_learned_the_order_is_that_of_recall(mind: Mind) -> None:
    for number, text in enumerate(("the cat sleeps", "a cat and a dog", "the kitten sleeps in the garden", "trains")):
        await mind.keep(text, created_at=AT + timedelta(days=number))
    recall = Recall(mind.world.storage, mind.model, Access(mind.world.storage), clock=mind.world.clock)
    where = MemoryFilter(spaces=frozenset({mind.space_id}))
    recalled = await recall.search(mind.world.call(), RecallRequest(text="where sleeps the cat", where=where, limit=10))
    found = await mind.ask("where sleeps the cat", min_relevance=0.0)
    assert [hit.memory.id for hit in found.hits] == [hit.memory.id for hit in recalled.hits]
    assert [hit.relevance for hit in found.hits] == pytest.approx([hit.relevance for hit in recalled.hits])
