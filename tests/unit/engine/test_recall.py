"""Recall through the real storage, with a model that knows words and nothing else."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from polymem.domain.model import (
    ContentType,
    Memory,
    MemoryId,
    MemoryState,
    MemoryType,
    ModelIdentity,
    Role,
    Scope,
    SpaceId,
    SpaceKind,
    Turn,
)
from polymem.domain.query import MemoryFilter, RecallPage, RecallRequest
from polymem.domain.scoring import DEFAULT_RELEVANCE_CUT
from polymem.domain.text import words_with_spans
from polymem.engine.access import Access
from polymem.engine.indexing import Indexer
from polymem.engine.recall import (
    CHUNKS_SCORED,
    POOL_SIZES,
    QUERY_TERMS,
    SUPERSEDED_PENALTY,
    Recall,
    pool_size,
)
from polymem.errors import Forbidden, InferenceUnavailable, StorageUnavailable
from polymem.ports.inference import EmbeddedText, QueryEmbedding
from polymem.ports.storage import DeleteMemory, EmbeddedChunk, PutMemory

# Words that mean the same to this model.
MEANINGS = {"feline": "cat", "kitten": "cat", "automobil": "car"}
_DIMENSION = 48


class WordModel:
    """Deterministic; words of one meaning have one vector, other words are nearly at right angles."""

    def __init__(self, *, chunk_words: int = 40) -> None:
        self.identity = ModelIdentity(name="words", revision="1", dimension=_DIMENSION, token_dimension=_DIMENSION)
        self.problem: str | None = None
        self._chunk_words = chunk_words

    async def embed_query(self, text: str) -> QueryEmbedding:
        self._answer()
        words = words_with_spans(text)
        rows = self._rows([term for term, _, _ in words])
        return QueryEmbedding(
            embedding=_sum(rows), token_vectors=rows, tokens=tuple((start, end) for _, start, end in words)
        )

    async def embed_texts(self, texts: Sequence[str], *, max_chunks: int | None = None) -> tuple[EmbeddedText, ...]:
        self._answer()
        return tuple(self._embedded(text, max_chunks) for text in texts)

    async def close(self) -> None:
        return

    def _answer(self) -> None:
        if self.problem is not None:
            raise InferenceUnavailable(self.problem)

    def _embedded(self, text: str, max_chunks: int | None) -> EmbeddedText:
        words = words_with_spans(text)
        starts = list(range(0, max(1, len(words)), self._chunk_words))
        chunks = []
        for at in starts[:max_chunks]:
            rows = self._rows([term for term, _, _ in words[at : at + self._chunk_words]])
            vectors = np.rint(rows * 127).astype(np.int8)
            chunks.append(EmbeddedChunk(start=0, end=len(text), embedding=_sum(rows), token_vectors=vectors))
        return EmbeddedText(chunks=tuple(chunks), is_complete=len(chunks) == len(starts))

    def _rows(self, terms: Sequence[str]) -> NDArray[np.float32]:
        rows = [_direction(MEANINGS.get(term, term)) for term in terms]
        return np.array(rows, dtype=np.float32).reshape(len(rows), _DIMENSION)


def _direction(term: str) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(term.encode()).digest()[:8])
    drawn = np.random.default_rng(seed).standard_normal(_DIMENSION)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def _sum(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    total = rows.sum(axis=0) if len(rows) else _direction("")
    return (total / max(float(np.linalg.norm(total)), 1e-6)).astype(np.float32)


class Desk:
    """Writes memories and recalls them."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.model = WordModel()
        self.indexer = Indexer(self.model, inline_chunks=1_000)
        self.recall = Recall(world.storage, self.model, Access(world.storage))

    @property
    def space_id(self) -> SpaceId:
        space_id: SpaceId = self.world.principal.personal_space_id
        return space_id

    async def keep(self, content: str, **given: Any) -> Memory:
        memory = Memory(
            id=MemoryId(self.world.ids.new_id()),
            space_id=self.space_id,
            content=content,
            memory_type=MemoryType.INSIGHT,
            state=MemoryState.ACTIVE,
            tags=(),
            metadata=None,
            source=None,
            agent_id=None,
            session_id=None,
            turn=None,
            created_by=self.world.principal.user_id,
            updated_by=None,
            superseded_by=None,
            derived_from=(),
            version=1,
            revision=1,
            created_at=datetime(2023, 5, 8, tzinfo=UTC),
            updated_at=self.world.clock.now(),
        )
        memory = replace(memory, **given)
        entry, _ = await self.indexer.entry(memory)
        await self.world.store.commit([PutMemory(memory=memory, index=entry)], now=self.world.clock.now())
        return memory

    async def ask(
        self, text: str, *, limit: int = 10, offset: int = 0, min_relevance: float = 0.0, **where: Any
    ) -> RecallPage:
        chosen = MemoryFilter(**({"spaces": frozenset({self.space_id})} | where))
        request = RecallRequest(text=text, where=chosen, limit=limit, offset=offset, min_relevance=min_relevance)
        return await self.recall.search(self.world.call(), request)


def _contents(page: RecallPage) -> list[str]:
    return [hit.memory.content for hit in page.hits]


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
    assert [(arm.arm, arm.rank) for arm in best.trace.arms] == [("lexical", 1), ("dense", 1)]
    assert best.trace.late_interaction == pytest.approx(0.9, abs=0.1)
    assert best.trace.coverage == 1.0
    assert dict(best.trace.priors)["length"] == 0
    assert best.similarity is not None
    assert best.relevance > DEFAULT_RELEVANCE_CUT > page.hits[1].relevance


async def test_a_memory_that_shares_no_word_is_found_by_its_meaning(desk: Desk) -> None:
    await desk.keep("The kitten sleeps")
    await desk.keep("The automobile rusts")
    page = await desk.ask("feline")
    assert page.hits[0].memory.content == "The kitten sleeps"
    assert [arm.arm for arm in page.hits[0].trace.arms] == ["dense"]
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
    assert [arm.arm for arm in found.hits[0].trace.arms] == ["lexical"]
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
    for number, role in enumerate(("Caroline", "Melanie")):
        turn = Turn(role=role, seq=number, content_type=ContentType.TEXT)
        await desk.keep("I adopted a cat", turn=turn, memory_type=MemoryType.SESSION, session_id="s")
    page = await desk.ask("What did Melanie adopt?")
    assert page.hits[0].memory.turn is not None
    assert page.hits[0].memory.turn.role == "Melanie"


async def test_the_answer_in_the_last_chunk_of_a_long_memory_is_found(desk: Desk) -> None:
    filler = " ".join(f"filler{number}" for number in range(40 * (CHUNKS_SCORED + 4)))
    await desk.keep(f"{filler} the zebra is called Otto")
    page = await desk.ask("zebra called Otto")
    assert page.hits[0].trace.late_interaction == pytest.approx(1.0, abs=0.05)
    assert dict(page.hits[0].trace.priors)["length"] < 0


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
    assert dict(page.hits[1].trace.priors)["superseded"] == -SUPERSEDED_PENALTY


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
    assert page.hits[1].score == pytest.approx(page.hits[0].score - SUPERSEDED_PENALTY)


async def test_what_is_lowered_below_the_cut_is_left_out(desk: Desk) -> None:
    plain = await desk.keep("cat dog")
    await desk.keep("cat dog", superseded_by=plain.id)
    both = await desk.ask("cat bird")
    cut = (both.hits[0].relevance + both.hits[1].relevance) / 2
    assert (await desk.ask("cat bird", min_relevance=cut)).total == 1


async def test_a_memory_deleted_during_recall_is_left_out(desk: Desk) -> None:
    kept, deleted = await desk.keep("cat one"), await desk.keep("cat two")
    real = desk.recall._storage

    class Deleting:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def tenant(self, tenant_id: Any) -> Any:
            store = real.tenant(tenant_id)

            class Store:
                async def get_memories(self, ids: Any, spaces: Any) -> Any:
                    change = DeleteMemory(memory_id=deleted.id, spaces=spaces)
                    await store.commit([change], now=desk.world.clock.now())
                    return await store.get_memories(ids, spaces)

            return Store()

    storage: Any = Deleting()
    recall = Recall(storage, desk.model, Access(real))
    where = MemoryFilter(spaces=frozenset({desk.space_id}))
    page = await recall.search(desk.world.call(), RecallRequest(text="cat", where=where, limit=9))
    assert ([hit.memory.id for hit in page.hits], page.total) == ([kept.id], 1)


async def test_a_storage_that_cannot_answer_is_told_as_it_is(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any, **__: Any) -> Any:
        raise StorageUnavailable("shutting down")

    for arm in ("lexical", "dense", "evidence"):
        await desk.keep("a cat")
        with monkeypatch.context() as patched:
            patched.setattr(f"polymem.storage.sqlite.search.SqliteSearch.{arm}", fail)
            with pytest.raises(StorageUnavailable):
                await desk.ask("cat")


async def test_equal_memories_come_in_the_order_of_their_ids_page_by_page(desk: Desk) -> None:
    kept = [await desk.keep("the same cat") for _ in range(7)]
    found = [hit.memory.id for at in range(0, 9, 3) for hit in (await desk.ask("cat", limit=3, offset=at)).hits]
    assert found == [memory.id for memory in kept]
    assert (await desk.ask("cat", offset=7)).hits == ()
    assert (await desk.ask("cat", offset=7)).total == 7


def test_the_pool_has_the_first_size_that_holds_the_page() -> None:
    assert pool_size(1) == pool_size(POOL_SIZES[0]) == POOL_SIZES[0]
    assert pool_size(POOL_SIZES[0] + 1) == pool_size(10_000) == POOL_SIZES[1]
