"""Recall through the real storage, with a model that knows words and nothing else."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from polymem.domain.model import (
    ContentType,
    Memory,
    MemoryId,
    MemoryState,
    MemoryType,
    Role,
    Scope,
    SpaceId,
    SpaceKind,
    Turn,
)
from polymem.domain.query import HitTrace, MemoryFilter, RecallPage, RecallRequest, WordMatch
from polymem.domain.ranking import CONTEXT, DEFAULT_WEIGHTS, Weights
from polymem.domain.scoring import DEFAULT_RELEVANCE_CUT, relevance
from polymem.engine.access import Access
from polymem.engine.indexing import Indexer
from polymem.engine.judging import CHUNKS_SCORED, Measured, measure
from polymem.engine.recall import TRACED_CHARACTERS, WORDS_TRACED, Recall
from polymem.engine.retrieve import (
    NEIGHBOURS_OF,
    POOL_SIZES,
    QUERY_TERMS,
    ROWS_ON_THE_LOOP,
    TIME_POOL,
    pool_size,
)
from polymem.errors import Forbidden, StorageUnavailable
from polymem.ports.changes import DeleteMemory, PutMemory
from samples import insight
from word_model import WordModel

SAID_AT = datetime(2023, 5, 8, tzinfo=UTC)


class Desk:
    """Writes memories and recalls them."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.model = WordModel()
        self.indexer = Indexer(self.model, inline_chunks=1_000)
        self.recall = self.recaller()

    def recaller(self, storage: Any = None, weights: Weights = DEFAULT_WEIGHTS) -> Recall:
        given = storage or self.world.storage
        return Recall(given, self.model, Access(self.world.storage), clock=self.world.clock, weights=weights)

    @property
    def space_id(self) -> SpaceId:
        space_id: SpaceId = self.world.principal.personal_space_id
        return space_id

    async def keep(self, content: str, **given: Any) -> Memory:
        memory = insight(
            self.world.ids.new_id(), content, space_id=self.space_id, user_id=self.world.principal.user_id, at=SAID_AT
        )
        memory = replace(memory, **given)
        entry, _ = await self.indexer.entry(memory)
        await self.world.store.commit([PutMemory(memory=memory, index=entry)], now=self.world.clock.now())
        return memory

    async def say(self, session: str, *turns: str, **given: Any) -> list[Memory]:
        """The turns of a session, each as "name: text", a minute apart."""
        said = []
        for seq, (role, _, text) in enumerate(turn.partition(": ") for turn in turns):
            turn = Turn(role=role, seq=seq, content_type=ContentType.TEXT)
            at = datetime(2023, 5, 8, tzinfo=UTC) + timedelta(minutes=seq)
            told = {"turn": turn, "memory_type": MemoryType.SESSION, "session_id": session, "created_at": at}
            said.append(await self.keep(text, **(told | given)))
        return said

    async def ask(self, text: str, *, limit: int = 10, offset: int = 0, **given: Any) -> RecallPage:
        asked = {
            name: given.pop(name)
            for name in ("min_relevance", "pinned_first_from", "reference_at", "trace")
            if name in given
        }
        where = MemoryFilter(**({"spaces": frozenset({self.space_id})} | given))
        request = RecallRequest(text=text, where=where, limit=limit, offset=offset, **asked)
        return await self.recall.search(self.world.call(), request)


def _contents(page: RecallPage) -> list[str]:
    return [hit.memory.content for hit in page.hits]


def _part(trace: HitTrace, name: str) -> float:
    return dict(trace.parts).get(name, 0.0)


def _arms(trace: HitTrace) -> list[tuple[str, int]]:
    return [(arm.arm, arm.rank) for arm in trace.arms]


@pytest.fixture
def desk(world: Any) -> Desk:
    return Desk(world)


async def test_the_memory_that_answers_comes_first_and_says_why(desk: Desk) -> None:
    cat = await desk.keep("My cat is called Milo")
    await desk.keep("The car needs new tyres")
    page = await desk.ask("what is the cat called?")
    assert page.hits[0].memory == cat
    assert not page.is_degraded
    assert page.total == 2
    assert set(page.candidate_ids) == {hit.memory.id for hit in page.hits}
    best = page.hits[0]
    assert _arms(best.trace) == [("lexical", 1), ("dense", 1)]
    assert best.trace.late_interaction == pytest.approx((0.8, 0.8), abs=0.2)
    assert best.trace.coverage == 1.0
    assert _part(best.trace, "length") == 0
    assert best.trace.words == ()
    assert sum(value for _, value in best.trace.parts) == pytest.approx(best.score)
    assert best.similarity is not None
    assert best.relevance > DEFAULT_RELEVANCE_CUT > page.hits[1].relevance


async def test_a_memory_that_shares_no_word_is_found_by_its_meaning(desk: Desk) -> None:
    await desk.keep("The kitten sleeps")
    await desk.keep("The automobile rusts")
    page = await desk.ask("feline")
    assert page.hits[0].memory.content == "The kitten sleeps"
    assert _arms(page.hits[0].trace) == [("dense", 1)]
    assert page.hits[0].trace.coverage == 0


async def test_without_the_model_words_decide_and_the_page_says_so(desk: Desk) -> None:
    await desk.keep("The car needs new tyres")
    await desk.keep("My cat is called Milo")
    desk.model.problem = "no model"
    page = await desk.ask("what is the cat called?")
    assert page.is_degraded
    assert _contents(page) == ["My cat is called Milo"]
    assert page.hits[0].similarity is None
    assert page.hits[0].trace.late_interaction is None
    assert page.hits[0].relevance > DEFAULT_RELEVANCE_CUT


async def test_a_question_the_model_cannot_read_is_left_to_its_words(desk: Desk) -> None:
    await desk.keep("\u6211\u559c\u6b22\u5728\u5317\u4eac\u5403\u70e4\u9e2d")
    await desk.keep(
        "\u041c\u043e\u044f \u043a\u043e\u0448\u043a\u0430 \u043b\u044e\u0431\u0438\u0442 \u0447\u0430\u0439"
    )
    found = await desk.ask("\u70e4\u9e2d")
    assert (len(found.hits), found.is_degraded) == (1, False)
    assert found.hits[0].relevance > DEFAULT_RELEVANCE_CUT
    assert _arms(found.hits[0].trace) == [("lexical", 1)]
    for stranger in ("\u98de\u673a", "\u0441\u0430\u043c\u043e\u043b\u0451\u0442", "\N{ROCKET}"):
        assert (await desk.ask(stranger)).hits == ()


async def test_a_memory_without_vectors_stands_on_the_same_scale(desk: Desk) -> None:
    desk.model.problem = "no model"
    await desk.keep("My cat is called Milo")
    desk.model.problem = None
    await desk.keep("The car needs new tyres")
    page = await desk.ask("cat called Milo")
    assert _contents(page) == ["My cat is called Milo", "The car needs new tyres"]
    assert page.hits[0].relevance > DEFAULT_RELEVANCE_CUT > page.hits[1].relevance


async def test_the_cut_drops_hits_and_counts_only_those_above_it(desk: Desk) -> None:
    await desk.keep("My cat is called Milo")
    await desk.keep("The car needs new tyres")
    page = await desk.ask("what is the cat called?", min_relevance=DEFAULT_RELEVANCE_CUT)
    assert (_contents(page), page.total) == (["My cat is called Milo"], 1)
    nothing = await desk.ask("quantum chromodynamics", min_relevance=DEFAULT_RELEVANCE_CUT)
    assert (nothing.hits, nothing.total) == ((), 0)


async def test_pinned_memories_that_are_relevant_enough_stand_first_where_that_is_asked_for(desk: Desk) -> None:
    best = await desk.keep("My cat is called Milo")
    close = await desk.keep("My cat is called something", memory_type=MemoryType.PINNED)
    far = await desk.keep("The car needs new tyres", memory_type=MemoryType.PINNED)
    plain = await desk.ask("what is my cat called? Milo")
    assert [hit.memory.id for hit in plain.hits] == [best.id, close.id, far.id]
    for least, expected in (
        (plain.hits[1].relevance, [close, best, far]),
        (0.0, [close, far, best]),
        (1.0, [best, close, far]),
    ):
        page = await desk.ask("what is my cat called? Milo", pinned_first_from=least)
        assert [hit.memory.id for hit in page.hits] == [memory.id for memory in expected]
        second = await desk.ask("what is my cat called? Milo", pinned_first_from=least, limit=1, offset=1)
        assert [hit.memory.id for hit in second.hits] == [expected[1].id]


async def test_relevance_leaves_out_what_the_context_gives_to_the_first(desk: Desk) -> None:
    await desk.say("s", "Ada: The zebra is called Otto", "Ben: I know a zebra called Otto too")
    page = await desk.ask("zebra called Otto")
    given = sum(_part(page.hits[0].trace, name) for name in CONTEXT)
    assert given > 0
    for hit in page.hits:
        assert hit.trace.own_score == pytest.approx(hit.score - given)
        assert hit.relevance == pytest.approx(relevance(hit.trace.own_score, documents=2))


async def test_a_single_keyword_passes_the_cut(desk: Desk) -> None:
    await desk.keep("Project uses PostgreSQL 15")
    assert (await desk.ask("postgresql", min_relevance=DEFAULT_RELEVANCE_CUT)).total == 1


@pytest.mark.parametrize(
    ("text", "judged"),
    [
        ("the", 1),
        ("who is it", 1),
        ('"NEAR( OR * ^', 1),
        ("cat " * 2_000, 1),
        ("x" * 20_000, 1),
        ("🎉", 0),
        ("", 0),
        ("\ud800", 0),
        ("我喜欢", 0),
    ],
)
async def test_any_question_gets_an_answer(desk: Desk, text: str, judged: int) -> None:
    await desk.keep("The cat is called Milo")
    page = await desk.ask(text)
    assert page.total == judged


async def test_an_empty_tenant_answers_with_an_empty_page(desk: Desk) -> None:
    assert await desk.ask("cat") == RecallPage(hits=(), total=0)


async def test_a_long_question_is_searched_by_its_rarest_words(desk: Desk) -> None:
    for number in range(3):
        await desk.keep(" ".join(f"common{word}" for word in range(QUERY_TERMS)) + f" number{number}")
    rare = await desk.keep("unusual zebra")
    desk.model.problem = "no model"
    page = await desk.ask(" ".join(f"common{word}" for word in range(QUERY_TERMS)) + " zebra")
    assert rare.id in {hit.memory.id for hit in page.hits}


async def test_the_speaker_of_a_turn_is_part_of_what_is_found(desk: Desk) -> None:
    await desk.say("s", "Caroline: I adopted a cat", "Melanie: I adopted a cat")
    page = await desk.ask("What did Melanie adopt?")
    assert page.hits[0].memory.turn is not None
    assert page.hits[0].memory.turn.role == "Melanie"


async def test_the_answer_in_the_last_chunk_of_a_long_memory_is_found(desk: Desk) -> None:
    filler = " ".join(f"filler{number}" for number in range(40 * (CHUNKS_SCORED + 4)))
    await desk.keep(f"{filler} the zebra is called Otto")
    page = await desk.ask("zebra called Otto")
    assert page.hits[0].trace.late_interaction == pytest.approx((1.0, 1.0), abs=0.05)
    assert _part(page.hits[0].trace, "length") < 0


async def test_long_texts_are_judged_off_the_event_loop_and_alike(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def watched(*given: Any) -> Measured:
        threads.append(threading.get_ident())
        return measure(*given)

    monkeypatch.setattr("polymem.engine.retrieve.measure", watched)
    short = await desk.keep("the zebra is called Otto")
    before = await desk.ask("zebra called Otto")
    assert threads == [threading.get_ident()]
    await desk.keep("filler " * (ROWS_ON_THE_LOOP + 1))
    after = await desk.ask("zebra called Otto")
    assert threads[1] != threading.get_ident()
    assert before.hits[0].memory == after.hits[0].memory == short


async def test_filters_act_inside_recall(desk: Desk) -> None:
    await desk.keep("cat one", tags=("pets",))
    await desk.keep("cat two", state=MemoryState.ARCHIVED)
    await desk.keep("cat three", memory_type=MemoryType.PINNED)
    assert set(_contents(await desk.ask("cat"))) == {"cat one", "cat three"}
    assert _contents(await desk.ask("cat", tags=("pets",))) == ["cat one"]
    assert _contents(await desk.ask("cat", memory_types=frozenset({MemoryType.PINNED}))) == ["cat three"]
    assert _contents(await desk.ask("cat", states=frozenset({MemoryState.ARCHIVED}))) == ["cat two"]
    until = datetime(2023, 5, 8, tzinfo=UTC) + timedelta(days=1)
    assert (await desk.ask("cat", created_from_at=until)).total == 0


async def test_what_the_principal_may_not_read_is_not_recalled(desk: Desk) -> None:
    hidden = await desk.world.space(SpaceKind.HUB)
    shared = await desk.world.space(SpaceKind.HUB, Role.VIEWER)
    await desk.keep("cat hidden", space_id=hidden)
    await desk.keep("cat shared", space_id=shared)
    await desk.keep("cat own")
    spaces = frozenset({hidden, shared, desk.space_id})
    assert set(_contents(await desk.ask("cat", spaces=spaces))) == {"cat shared", "cat own"}
    assert await desk.ask("cat", spaces=frozenset({hidden})) == RecallPage(hits=(), total=0)
    desk.model.problem = "no model"
    assert (await desk.ask("cat", spaces=frozenset())).is_degraded


async def test_a_key_without_the_scope_to_read_recalls_nothing(desk: Desk) -> None:
    call = desk.world.call(scopes=frozenset({Scope.WRITE}))
    where = MemoryFilter(spaces=frozenset({desk.space_id}))
    with pytest.raises(Forbidden):
        await desk.recall.search(call, RecallRequest(text="cat", where=where, limit=1))


async def test_another_tenant_sees_nothing_and_changes_no_score(desk: Desk) -> None:
    await desk.keep("My cat is called Milo")
    before = await desk.ask("cat")
    stranger = await desk.world.stranger()
    where = MemoryFilter(spaces=frozenset({desk.space_id, stranger.personal_space_id}))
    call = replace(desk.world.call(), principal=stranger)
    assert (await desk.recall.search(call, RecallRequest(text="cat", where=where, limit=9))).total == 0
    assert await desk.ask("cat") == before


async def test_what_was_replaced_stands_below_what_replaced_it(desk: Desk) -> None:
    newest = await desk.keep("Caroline lives somewhere in Berlin now")
    newer = await desk.keep("Caroline lives in Munich", superseded_by=newest.id)
    oldest = await desk.keep("Caroline lives in Paris", superseded_by=newer.id)
    page = await desk.ask("where does Caroline live")
    assert [hit.memory.id for hit in page.hits] == [newest.id, newer.id, oldest.id]
    relevances = [hit.relevance for hit in page.hits]
    assert relevances == sorted(relevances, reverse=True)
    assert [_part(hit.trace, "superseded") < 0 for hit in page.hits] == [False, True, True]


async def test_memories_that_replace_each_other_end_no_recall(desk: Desk) -> None:
    first, second = (MemoryId(desk.world.ids.new_id()) for _ in range(2))
    await desk.keep("cat one", id=first, superseded_by=second)
    await desk.keep("cat two", id=second, superseded_by=first)
    assert [hit.memory.id for hit in (await desk.ask("cat")).hits] == [first, second]


async def test_a_replacement_that_is_not_recalled_only_costs(desk: Desk) -> None:
    gone = MemoryId(desk.world.ids.new_id())
    plain = await desk.keep("cat")
    old = await desk.keep("cat", superseded_by=gone)
    page = await desk.ask("cat")
    assert [hit.memory.id for hit in page.hits] == [plain.id, old.id]
    assert page.hits[1].score == pytest.approx(page.hits[0].score - DEFAULT_WEIGHTS.superseded)


async def test_what_is_lowered_below_the_cut_is_left_out(desk: Desk) -> None:
    plain = await desk.keep("cat dog")
    await desk.keep("cat dog", superseded_by=plain.id)
    both = await desk.ask("cat bird")
    cut = (both.hits[0].relevance + both.hits[1].relevance) / 2
    assert (await desk.ask("cat bird", min_relevance=cut)).total == 1


async def test_what_replaced_it_and_matches_less_takes_it_along(desk: Desk) -> None:
    newer = await desk.keep("the car was sold to a neighbour in spring")
    older = await desk.keep("cat called Milo", superseded_by=newer.id)
    other = await desk.keep("a dog called Otto")
    page = await desk.ask("cat called Milo")
    assert [hit.memory.id for hit in page.hits] == [other.id, newer.id, older.id]
    assert page.hits[1].score == page.hits[2].score


class Deleting:
    """A storage in which these memories are deleted just before they are read."""

    def __init__(self, desk: Desk, *doomed: Memory) -> None:
        self._desk = desk
        self._doomed = [memory.id for memory in doomed]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._desk.world.storage, name)

    def tenant(self, tenant_id: Any) -> Any:
        self._store = self._desk.world.storage.tenant(tenant_id)
        return self

    async def get_memories(self, ids: Any, spaces: Any) -> Any:
        gone = [DeleteMemory(memory_id=memory_id, spaces=spaces) for memory_id in self._doomed if memory_id in ids]
        await self._store.commit(gone, now=self._desk.world.clock.now())
        return await self._store.get_memories(ids, spaces)


async def test_a_memory_deleted_between_find_and_fetch_gives_its_place_to_the_next(desk: Desk) -> None:
    cats = [await desk.keep("the same cat") for _ in range(5)]
    recall = desk.recaller(Deleting(desk, cats[0], cats[2], cats[4]))
    where = MemoryFilter(spaces=frozenset({desk.space_id}))
    page = await recall.search(desk.world.call(), RecallRequest(text="cat", where=where, limit=2))
    assert ([hit.memory.id for hit in page.hits], page.total) == ([cats[1].id, cats[3].id], 3)
    last = await recall.search(desk.world.call(), RecallRequest(text="cat", where=where, limit=2, offset=2))
    assert (last.hits, last.total) == ((), 2)


async def test_when_all_are_deleted_between_find_and_fetch_the_page_is_empty(desk: Desk) -> None:
    recall = desk.recaller(Deleting(desk, await desk.keep("cat one"), await desk.keep("cat two")))
    where = MemoryFilter(spaces=frozenset({desk.space_id}))
    page = await recall.search(desk.world.call(), RecallRequest(text="cat", where=where, limit=1))
    assert (page.hits, page.total) == ((), 0)


async def test_a_memory_deleted_before_it_is_judged_is_no_candidate(desk: Desk) -> None:
    kept, deleted = await desk.keep("cat one"), await desk.keep("cat two")
    index = desk.world.storage.search(desk.world.principal.tenant_id)

    class Late:
        def __getattr__(self, name: str) -> Any:
            return getattr(index, name)

        async def evidence(self, ids: Any, *rest: Any) -> Any:
            assert deleted.id in ids
            return await index.evidence([each for each in ids if each != deleted.id], *rest)

    class Storage:
        def __getattr__(self, name: str) -> Any:
            return getattr(desk.world.storage, name)

        def search(self, _: Any) -> Late:
            return Late()

    where = MemoryFilter(spaces=frozenset({desk.space_id}))
    page = await desk.recaller(Storage()).search(desk.world.call(), RecallRequest(text="cat", where=where, limit=9))
    assert [hit.memory.id for hit in page.hits] == [kept.id]


async def test_a_storage_that_cannot_answer_is_told_as_it_is(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any, **__: Any) -> Any:
        raise StorageUnavailable("shutting down")

    index = type(desk.world.storage.search(desk.world.principal.tenant_id))
    for arm in ("words", "dense", "evidence"):
        await desk.keep("a cat")
        with monkeypatch.context() as patched:
            patched.setattr(index, arm, fail)
            with pytest.raises(StorageUnavailable):
                await desk.ask("cat")


NEIGHBOURLY = ("Ada: The zebra is called Otto", "Ben: That sounds lovely", "Ada: Let us drink tea")


async def test_the_turns_beside_the_best_of_a_dialogue_are_brought_in(desk: Desk) -> None:
    desk.model.problem = "no model"
    zebra, reply, tea = await desk.say("s", *NEIGHBOURLY)
    page = await desk.ask("zebra called Otto")
    assert [hit.memory.id for hit in page.hits] == [zebra.id, reply.id]
    assert page.candidate_ids == (zebra.id,)
    assert (page.hits[1].trace.arms, page.hits[1].trace.fused) == ((), 0.0)
    assert _part(page.hits[1].trace, "previous") > 0
    around = await desk.ask("lovely")
    assert {hit.memory.id for hit in around.hits} == {zebra.id, reply.id, tea.id}


async def test_the_turns_beside_a_turn_of_a_chat_or_out_of_the_filter_are_not(desk: Desk) -> None:
    desk.model.problem = "no model"
    await desk.say("chat", *(turn.replace("Ada", "user").replace("Ben", "assistant") for turn in NEIGHBOURLY))
    assert _contents(await desk.ask("zebra called Otto")) == ["The zebra is called Otto"]
    first, *_ = await desk.say("s", *NEIGHBOURLY[:1], state=MemoryState.PAUSED)
    states = frozenset({MemoryState.PAUSED})
    await desk.say("s", "Eve: unrelated")
    assert [hit.memory.id for hit in (await desk.ask("zebra called Otto", states=states)).hits] == [first.id]


async def test_a_turn_beside_the_best_that_is_deleted_meanwhile_is_left_out(desk: Desk) -> None:
    desk.model.problem = "no model"
    zebra, reply, _ = await desk.say("s", *NEIGHBOURLY)
    where = MemoryFilter(spaces=frozenset({desk.space_id}))
    recall = desk.recaller(Deleting(desk, reply))
    page = await recall.search(desk.world.call(), RecallRequest(text="zebra called Otto", where=where, limit=9))
    assert [hit.memory.id for hit in page.hits] == [zebra.id]


async def test_only_the_best_few_bring_their_neighbours(desk: Desk) -> None:
    desk.model.problem = "no model"
    for number in range(NEIGHBOURS_OF + 2):
        await desk.say(f"s {number}", "Ada: a zebra", "Ben: indeed")
    page = await desk.ask("zebra", limit=50)
    assert _contents(page).count("a zebra") == NEIGHBOURS_OF + 2
    assert _contents(page).count("indeed") == NEIGHBOURS_OF


async def test_the_time_asked_for_finds_what_the_pool_misses(desk: Desk) -> None:
    for number in range(POOL_SIZES[0] + 4):
        await desk.keep("Ada met the zebra", created_at=datetime(2022, 1, 1, tzinfo=UTC) + timedelta(hours=number))
    then = await desk.keep("on that day Ada saw a lonely zebra by a lake", created_at=datetime(2023, 3, 9, tzinfo=UTC))
    missed = await desk.ask("Ada met the zebra")
    assert then.id not in missed.candidate_ids
    # Not "in March 2023", which are words under which it is found.
    asked_at = datetime(2023, 4, 9, tzinfo=UTC)
    found = await desk.ask("Ada met the zebra last month", limit=POOL_SIZES[0], reference_at=asked_at)
    assert found.candidate_ids[-1] == then.id
    (trace,) = [hit.trace for hit in found.hits if hit.memory.id == then.id]
    assert _arms(trace) == [("lexical within the time 1", 1), ("dense within the time 1", 1)]
    assert _part(trace, "said_then") == pytest.approx(DEFAULT_WEIGHTS.said_then)


async def test_the_time_asked_for_never_widens_the_filter_nor_hides_what_is_outside_of_it(desk: Desk) -> None:
    march, april, may = [
        await desk.keep("a zebra", created_at=datetime(2023, month, 9, tzinfo=UTC)) for month in (3, 4, 5)
    ]
    every = await desk.ask("zebra in March 2023 or in May 2023")
    assert {hit.memory.id for hit in every.hits} == {march.id, april.id, may.id}
    from_at, until_at = datetime(2023, 4, 1, tzinfo=UTC), datetime(2023, 5, 1, tzinfo=UTC)
    asked = "zebra from March 2023 to May 2023, in April 2023"
    some = await desk.ask(asked, created_from_at=from_at, created_until_at=until_at)
    assert [hit.memory.id for hit in some.hits] == [april.id]


async def test_the_time_asked_for_gives_a_bounded_number_of_candidates(desk: Desk) -> None:
    for number in range(POOL_SIZES[0] + 2):
        await desk.keep("Ada met the zebra", created_at=datetime(2022, 1, 1, tzinfo=UTC) + timedelta(hours=number))
    for number in range(TIME_POOL + 6):
        await desk.keep(f"the zebra {number}", created_at=datetime(2023, 3, 1 + number % 28, tzinfo=UTC))
    page = await desk.ask("Ada met the zebra in March 2023")
    assert len(page.candidate_ids) <= POOL_SIZES[0] + TIME_POOL


async def test_a_time_is_asked_for_without_words_or_without_a_model(desk: Desk) -> None:
    then = await desk.keep("we saw a zebra", created_at=datetime(2023, 3, 9, tzinfo=UTC))
    page = await desk.ask("yesterday", reference_at=datetime(2023, 3, 10, tzinfo=UTC))
    assert _arms(page.hits[0].trace) == [("dense", 1), ("dense within the time 1", 1)]
    desk.model.problem = "no model"
    page = await desk.ask("zebra yesterday", reference_at=datetime(2023, 3, 10, tzinfo=UTC))
    assert page.hits[0].memory.id == then.id
    assert _arms(page.hits[0].trace) == [("lexical", 1), ("lexical within the time 1", 1)]


async def test_time_words_are_read_against_the_time_of_the_question_in_utc(desk: Desk) -> None:
    await desk.keep("we saw a zebra", created_at=datetime(2023, 3, 9, tzinfo=UTC))
    east = timezone(timedelta(hours=10))
    asked = {
        datetime(2023, 3, 10, 12, tzinfo=UTC): True,
        datetime(2023, 3, 11, 8, tzinfo=east): True,
        datetime(2023, 3, 11, 12, tzinfo=east): False,
        datetime(2023, 12, 1, tzinfo=UTC): False,
    }
    for reference_at, is_then in asked.items():
        page = await desk.ask("zebra yesterday", reference_at=reference_at)
        assert (_part(page.hits[0].trace, "said_then") == DEFAULT_WEIGHTS.said_then) == is_then
    desk.world.clock.at = datetime(2023, 3, 10, tzinfo=UTC)
    assert _part((await desk.ask("zebra yesterday")).hits[0].trace, "said_then") == DEFAULT_WEIGHTS.said_then


async def test_times_after_all_that_is_remembered_are_read_against_the_newest(desk: Desk) -> None:
    await desk.keep("we saw a zebra", created_at=datetime(2022, 6, 9, tzinfo=UTC))
    june = await desk.keep("a zebra was there", created_at=datetime(2023, 6, 9, tzinfo=UTC))
    asked_at = datetime(2026, 2, 1, tzinfo=UTC)
    page = await desk.ask("where was the zebra in June", reference_at=asked_at)
    assert page.hits[0].memory.id == june.id
    assert _part(page.hits[0].trace, "said_then") == pytest.approx(DEFAULT_WEIGHTS.said_then)
    # This June lies in 2025 for the asker and in 2023 for the memories; March 2026 lies nowhere.
    nowhere = await desk.ask("where was the zebra in March 2026", reference_at=asked_at)
    assert max(_part(hit.trace, "said_then") for hit in nowhere.hits) < 0.01


async def test_a_newer_statement_of_the_same_fact_stands_above_the_older_one(desk: Desk) -> None:
    old, new = [
        await desk.keep("Ada lives in Berlin", created_at=datetime(year, 1, 1, tzinfo=UTC)) for year in (2022, 2023)
    ]
    page = await desk.ask("where does Ada live")
    assert [hit.memory.id for hit in page.hits] == [new.id, old.id]
    assert _part(page.hits[0].trace, "newer") > 0
    past = await desk.ask("where did Ada live before")
    assert [hit.memory.id for hit in past.hits] == [old.id, new.id]


async def test_a_trace_tells_which_words_met_which(desk: Desk) -> None:
    await desk.keep("Our kitten sleeps on the mat")
    page = await desk.ask("where is the feline on mats?", trace=True)
    words = page.hits[0].trace.words
    assert [(word.word, word.met) for word in words][:2] == [("feline", "kitten"), ("mats", "mat")]
    assert all(word.cosine == pytest.approx(1.0, abs=0.02) for word in words[:2])
    weights = [word.weight for word in words]
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) == pytest.approx(1.0)


async def test_a_trace_names_whole_words_once_and_only_the_heaviest(desk: Desk) -> None:
    desk.model.is_piecewise = True
    await desk.keep("(kitten)")
    page = await desk.ask("feline feline", trace=True)
    (word,) = page.hits[0].trace.words
    assert word == WordMatch(word="feline", weight=0.5, met="kitten", cosine=word.cosine)
    assert word.cosine == pytest.approx(1.0, abs=0.02)
    asked = [f"word{number}" for number in range(WORDS_TRACED + 3)]
    many = await desk.ask(" ".join(asked), trace=True)
    assert [word.word for word in many.hits[0].trace.words] == sorted(asked)[:WORDS_TRACED]


async def test_a_trace_without_a_model_or_without_vectors_names_no_words(desk: Desk) -> None:
    desk.model.problem = "no model"
    await desk.keep("a cat called Milo")
    assert (await desk.ask("cat", trace=True)).hits[0].trace.words == ()
    desk.model.problem = None
    assert (await desk.ask("cat", trace=True)).hits[0].trace.words == ()


async def test_a_trace_of_what_is_met_far_into_a_text_leaves_the_word_open(desk: Desk) -> None:
    filler = "filler " * (TRACED_CHARACTERS // len("filler "))
    await desk.keep(f"{filler} zebra")
    page = await desk.ask("zebra", trace=True)
    assert [(word.word, word.met) for word in page.hits[0].trace.words] == [("zebra", "")]


async def test_equal_memories_come_in_the_order_of_their_ids_page_by_page(desk: Desk) -> None:
    kept = [await desk.keep("the same cat") for _ in range(7)]
    found = [hit.memory.id for at in range(0, 9, 3) for hit in (await desk.ask("cat", limit=3, offset=at)).hits]
    assert found == [memory.id for memory in kept]
    assert (await desk.ask("cat", offset=7)).hits == ()
    assert (await desk.ask("cat", offset=7)).total == 7


def test_the_pool_has_the_first_size_that_holds_the_page() -> None:
    assert pool_size(1) == pool_size(POOL_SIZES[0]) == POOL_SIZES[0]
    assert pool_size(POOL_SIZES[0] + 1) == pool_size(10_000) == POOL_SIZES[1]
