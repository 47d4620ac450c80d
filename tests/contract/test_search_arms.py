"""Both recall arms against a plain reference: the same memories, scored one by one in Python."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from polymem.domain.model import Memory, MemoryId, MemoryState, MemoryType, ModelIdentity, SpaceId, TenantId
from polymem.domain.query import MemoryFilter
from polymem.ports.changes import (
    AddSpace,
    Applied,
    Change,
    DeleteMemory,
    EmbeddedChunk,
    Embedding,
    IndexEntry,
    PutMemory,
    SetEmbedding,
    UpdateMemory,
)
from polymem.ports.directory import NewAccount
from polymem.ports.search import ArmHit, SearchIndex
from polymem.ports.storage import Storage

MODEL = ModelIdentity(name="small", revision="1", dimension=16, token_dimension=4)
OTHER = ModelIdentity(name="small", revision="2", dimension=16, token_dimension=4)
TERMS = ("alpha", "beta", "gamma", "delta", "3.14", "c++", "数据", "据库", "a_b", "ünder", "x" * 64, "\U0001f600")


def embedding_of(rows: NDArray[np.float32], model: ModelIdentity = MODEL) -> Embedding:
    """An embedding with one chunk a row."""
    tokens = np.full((2, model.token_dimension), 5, dtype=np.int8)
    return Embedding(
        model=model,
        is_complete=True,
        chunks=tuple(
            EmbeddedChunk(start=10 * place, end=10 * place + 9, embedding=row, token_vectors=tokens)
            for place, row in enumerate(rows)
        ),
    )


def unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    """The rows at unit length."""
    exact = np.asarray(rows, dtype=np.float32)
    scaled: NDArray[np.float32] = exact / np.linalg.norm(exact, axis=-1, keepdims=True)
    return scaled


def passes(memory: Memory, where: MemoryFilter) -> bool:
    """Whether the memory passes, read from the words of the filter."""
    return all(
        (
            memory.space_id in where.spaces,
            where.states is None or memory.state in where.states,
            where.memory_types is None or memory.memory_type in where.memory_types,
            set(where.tags) <= set(memory.tags),
            where.source is None or memory.source == where.source,
            where.agent_id is None or memory.agent_id == where.agent_id,
            where.session_ids is None or memory.session_id in where.session_ids,
            where.created_from_at is None or memory.created_at >= where.created_from_at,
            where.created_until_at is None or memory.created_at < where.created_until_at,
            where.updated_from_at is None or memory.updated_at >= where.updated_from_at,
            where.updated_until_at is None or memory.updated_at < where.updated_until_at,
        )
    )


class Corpus:
    """One tenant's memories in the storage and, beside it, in a plain dictionary."""

    def __init__(self, storage: Storage, account: NewAccount, make: Any, seed: int) -> None:
        self.account = account
        self.make = make
        self.random = Random(seed)
        self.vectors = np.random.default_rng(seed)
        self.store = storage.tenant(account.tenant.id)
        self.index: SearchIndex = storage.search(account.tenant.id)
        self.kept: dict[MemoryId, tuple[Memory, IndexEntry]] = {}
        self.spaces: list[SpaceId] = [account.space.id]

    async def commit(self, *changes: Change) -> None:
        """The changes are in the storage."""
        assert isinstance(await self.store.commit(changes, now=self.make.at()), Applied)

    async def add_space(self) -> None:
        """The tenant has one more space."""
        space = self.make.space()
        await self.commit(AddSpace(space=space, members=()))
        self.spaces.append(space.id)

    def entry(self) -> IndexEntry:
        """Some terms, and mostly vectors of one to three chunks."""
        terms = tuple(self.random.choices(TERMS, weights=range(len(TERMS), 0, -1), k=self.random.randint(0, 12)))
        if self.random.random() < 0.2:
            return IndexEntry(terms=terms, embedding=None)
        rows = unit(self.vectors.standard_normal((self.random.randint(1, 3), MODEL.dimension)))
        return IndexEntry(terms=terms, embedding=embedding_of(rows, self.random.choice((MODEL, MODEL, OTHER))))

    def memory(self, **fields: Any) -> Memory:
        """A memory with random properties."""
        given = {
            "space_id": self.random.choice(self.spaces),
            "state": self.random.choice((MemoryState.ACTIVE, MemoryState.ACTIVE, MemoryState.ARCHIVED)),
            "memory_type": self.random.choice((MemoryType.INSIGHT, MemoryType.PINNED)),
            "tags": tuple(self.random.sample(("red", "green", "blue"), self.random.randint(0, 3))),
            "source": self.random.choice((None, "cli", "web")),
            "agent_id": self.random.choice((None, "agent-1", "agent-2")),
            "session_id": self.random.choice((None, "s1", "s2", "s3")),
            **fields,
        }
        made: Memory = self.make.memory(self.account, **given)
        return made

    async def put(self, memory: Memory | None = None, entry: IndexEntry | None = None) -> MemoryId:
        """One more memory is stored."""
        memory, entry = memory or self.memory(), entry or self.entry()
        await self.commit(PutMemory(memory=memory, index=entry))
        self.kept[memory.id] = (memory, entry)
        return memory.id

    async def update(self, memory_id: MemoryId) -> None:
        """The memory has other properties, terms and vectors."""
        old, entry = self.kept[memory_id][0], self.entry()
        new = self.memory(id=old.id, revision=old.revision + 1, created_at=old.created_at)
        await self.commit(
            UpdateMemory(memory=new, index=entry, expected_revision=old.revision, replaced_by=None, reason="test")
        )
        self.kept[memory_id] = (new, entry)

    async def delete(self, memory_id: MemoryId) -> None:
        """The memory is gone."""
        await self.commit(DeleteMemory(memory_id=memory_id, spaces=frozenset(self.spaces)))
        del self.kept[memory_id]

    async def embed(self, memory_id: MemoryId) -> None:
        """The memory has new vectors, its terms are as they were."""
        memory, entry = self.kept[memory_id]
        embedding = embedding_of(unit(self.vectors.standard_normal((2, MODEL.dimension))))
        await self.commit(SetEmbedding(memory_id=memory_id, expected_revision=memory.revision, embedding=embedding))
        self.kept[memory_id] = (memory, replace(entry, embedding=embedding))

    async def change(self) -> None:
        """Something happened to some memory."""
        known = sorted(self.kept)
        match self.random.choice(("put", "put", "put", "update", "delete", "embed")) if known else "put":
            case "put":
                await self.put()
            case "update":
                await self.update(self.random.choice(known))
            case "delete":
                await self.delete(self.random.choice(known))
            case _:
                await self.embed(self.random.choice(known))

    def everywhere(self, **fields: Any) -> MemoryFilter:
        """All spaces and states."""
        return MemoryFilter(**{"spaces": frozenset(self.spaces), "states": None, **fields})

    def filters(self) -> list[MemoryFilter]:
        """Each condition alone, and some together."""
        middle = self.make.at(self.make.count // 2)
        later = middle + timedelta(seconds=20)
        return [
            self.everywhere(),
            self.everywhere(states=frozenset({MemoryState.ACTIVE})),
            self.everywhere(states=frozenset()),
            self.everywhere(spaces=frozenset(self.spaces[:1])),
            self.everywhere(spaces=frozenset()),
            self.everywhere(spaces=frozenset({SpaceId("unknown")})),
            self.everywhere(memory_types=frozenset({MemoryType.PINNED})),
            self.everywhere(tags=("red",)),
            self.everywhere(tags=("red", "blue")),
            self.everywhere(source="cli"),
            self.everywhere(agent_id="agent-2"),
            self.everywhere(agent_id="nobody"),
            self.everywhere(session_ids=frozenset({"s1", "s3"})),
            self.everywhere(session_ids=frozenset()),
            self.everywhere(created_from_at=middle),
            self.everywhere(created_until_at=middle),
            self.everywhere(updated_from_at=middle, updated_until_at=later),
            self.everywhere(tags=("green",), source="web", memory_types=frozenset({MemoryType.INSIGHT})),
        ]

    def best_lexical(self, terms: tuple[str, ...], where: MemoryFilter) -> dict[MemoryId, float]:
        """The BM25 of every memory that passes and holds a term."""
        entries = [entry.terms for _, entry in self.kept.values()]
        average = sum(map(len, entries)) / len(entries) if entries else 0
        scores: dict[MemoryId, float] = {}
        for memory, entry in self.kept.values():
            score = 0.0
            for term in set(terms) & set(entry.terms):
                holding = sum(term in other for other in entries)
                weight = math.log(1 + (len(entries) - holding + 0.5) / (holding + 0.5))
                count = entry.terms.count(term)
                score += weight * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(entry.terms) / max(average, 1.0)))
            if score > 0 and passes(memory, where):
                scores[memory.id] = score
        return scores

    def best_dense(
        self, vector: NDArray[np.float32], where: MemoryFilter, model: ModelIdentity = MODEL
    ) -> dict[MemoryId, float]:
        """The cosine of the best chunk of every memory that passes and has vectors of the model."""
        scores: dict[MemoryId, float] = {}
        for memory, entry in self.kept.values():
            if entry.embedding is not None and entry.embedding.model == model and passes(memory, where):
                stored = unit(np.array([chunk.embedding for chunk in entry.embedding.chunks], dtype=np.float16))
                scores[memory.id] = float((stored @ vector).max())
        return scores


def assert_best(hits: tuple[ArmHit, ...], expected: dict[MemoryId, float], limit: int) -> None:
    """The hits are the first of what is expected: the scores of the best, in order, ties by id."""
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected.values(), reverse=True)[:limit], abs=1e-5)
    assert {hit.memory_id: hit.score for hit in hits} == pytest.approx(
        {hit.memory_id: expected[hit.memory_id] for hit in hits}, abs=1e-5
    )
    assert [(-hit.score, hit.memory_id) for hit in hits] == sorted((-hit.score, hit.memory_id) for hit in hits)


@pytest.fixture
async def corpus(storage: Storage, account: NewAccount, make: Any) -> Corpus:
    made = Corpus(storage, account, make, seed=1)
    await made.add_space()
    return made


@pytest.mark.parametrize("seed", range(3))
async def test_after_any_changes_the_lexical_arm_scores_as_plain_bm25_does(
    storage: Storage, account: NewAccount, make: Any, seed: int
) -> None:
    corpus = Corpus(storage, account, make, seed)
    await corpus.add_space()
    for step in range(60):
        await corpus.change()
        if step % 6 == 5:
            terms = tuple(corpus.random.sample(TERMS, 4))
            where = corpus.random.choice(corpus.filters())
            limit = corpus.random.choice((1, 5, 100))
            hits = await corpus.index.lexical(terms, where, limit=limit)
            assert_best(hits, corpus.best_lexical(terms, where), limit)


@pytest.mark.parametrize("seed", range(3))
async def test_after_any_changes_the_dense_arm_finds_what_comparing_all_vectors_finds(
    storage: Storage, account: NewAccount, make: Any, seed: int
) -> None:
    corpus = Corpus(storage, account, make, seed)
    await corpus.add_space()
    for step in range(60):
        await corpus.change()
        if step % 6 == 5:
            vector = unit(corpus.vectors.standard_normal(MODEL.dimension))
            where = corpus.random.choice(corpus.filters())
            limit = corpus.random.choice((1, 5, 100))
            model = corpus.random.choice((MODEL, OTHER))
            hits = await corpus.index.dense(vector, model, where, limit=limit)
            assert_best(hits, corpus.best_dense(vector, where, model), limit)


async def test_every_filter_acts_inside_both_arms(corpus: Corpus) -> None:
    for _ in range(40):
        await corpus.put()
    vector = unit(corpus.vectors.standard_normal(MODEL.dimension))
    for where in corpus.filters():
        hits = await corpus.index.lexical(("alpha", "beta"), where, limit=7)
        assert_best(hits, corpus.best_lexical(("alpha", "beta"), where), 7)
        hits = await corpus.index.dense(vector, MODEL, where, limit=7)
        assert_best(hits, corpus.best_dense(vector, where), 7)


async def test_the_dense_arm_finds_the_exact_best_among_many_that_are_close(corpus: Corpus) -> None:
    center = unit(corpus.vectors.standard_normal(MODEL.dimension))
    changes: list[Change] = []
    for _ in range(1500):
        row = unit(center + 0.002 * corpus.vectors.standard_normal(MODEL.dimension))
        memory, entry = corpus.memory(), IndexEntry(terms=("alpha",), embedding=embedding_of(row[np.newaxis]))
        changes.append(PutMemory(memory=memory, index=entry))
        corpus.kept[memory.id] = (memory, entry)
    await corpus.commit(*changes)
    hits = await corpus.index.dense(center, MODEL, corpus.everywhere(), limit=20)
    assert_best(hits, corpus.best_dense(center, corpus.everywhere()), 20)


async def test_equal_scores_are_ordered_by_id(corpus: Corpus) -> None:
    row = unit(np.ones(MODEL.dimension))
    entry = IndexEntry(terms=("alpha",), embedding=embedding_of(row[np.newaxis]))
    ids = sorted([await corpus.put(entry=entry) for _ in range(6)])
    lexical = await corpus.index.lexical(("alpha",), corpus.everywhere(), limit=4)
    dense = await corpus.index.dense(row, MODEL, corpus.everywhere(), limit=4)
    assert [hit.memory_id for hit in lexical] == ids[:4]
    assert [hit.memory_id for hit in dense] == ids[:4]


@pytest.mark.parametrize("term", [*TERMS, "_", "_x", "__", "o.b", "ALPHA", "'", '"', "x" * 5000, "ß" * 3000, "a\tb"])
async def test_a_term_of_any_characters_is_found_whole_and_alone(corpus: Corpus, term: str) -> None:
    found = await corpus.put(entry=IndexEntry(terms=(term,), embedding=None))
    for near in (f"{term}x", f"x{term}", term.swapcase() + "y", term[:-1] or "z"):
        await corpus.put(entry=IndexEntry(terms=(near,), embedding=None))
    hits = await corpus.index.lexical((term,), corpus.everywhere(), limit=10)
    assert [hit.memory_id for hit in hits] == [found]


async def test_repeats_of_a_term_count_even_side_by_side(corpus: Corpus) -> None:
    for count in (1, 2, 3, 7):
        terms = ("alpha",) * count + ("beta",) * (8 - count)
        await corpus.put(entry=IndexEntry(terms=terms, embedding=None))
    hits = await corpus.index.lexical(("alpha",), corpus.everywhere(), limit=10)
    assert_best(hits, corpus.best_lexical(("alpha",), corpus.everywhere()), 10)


async def test_many_asked_terms_score_as_few_do(corpus: Corpus) -> None:
    for _ in range(30):
        await corpus.put()
    terms = (*TERMS, *(f"unknown{number}" for number in range(200)))
    hits = await corpus.index.lexical(terms, corpus.everywhere(), limit=50)
    assert_best(hits, corpus.best_lexical(terms, corpus.everywhere()), 50)


async def test_an_asked_term_counts_once_however_often_it_is_asked(corpus: Corpus) -> None:
    for _ in range(10):
        await corpus.put()
    once = await corpus.index.lexical(("alpha", "beta"), corpus.everywhere(), limit=10)
    assert await corpus.index.lexical(("alpha", "beta", "alpha"), corpus.everywhere(), limit=10) == once


async def test_a_rare_term_leads_to_its_memory_among_thousands_that_hold_a_common_one(corpus: Corpus) -> None:
    common = IndexEntry(terms=("alpha", "beta"), embedding=None)
    await corpus.commit(*(PutMemory(memory=corpus.memory(), index=common) for _ in range(3000)))
    rare = await corpus.put(entry=IndexEntry(terms=("alpha", "omega"), embedding=None))
    await corpus.commit(*(PutMemory(memory=corpus.memory(), index=common) for _ in range(1000)))
    hits = await corpus.index.lexical(("alpha", "omega"), corpus.everywhere(), limit=50)
    assert hits[0].memory_id == rare
    assert len(hits) == 50


async def test_no_terms_and_unknown_tenants_have_no_hits(storage: Storage, corpus: Corpus) -> None:
    await corpus.put(entry=IndexEntry(terms=("alpha",), embedding=None))
    vector = unit(np.ones(MODEL.dimension))
    nobody = storage.search(TenantId("nobody"))
    assert await corpus.index.lexical((), corpus.everywhere(), limit=10) == ()
    assert await corpus.index.lexical(("missing",), corpus.everywhere(), limit=10) == ()
    assert await corpus.index.dense(vector, MODEL, corpus.everywhere(), limit=10) == ()
    assert await nobody.lexical(("alpha",), corpus.everywhere(), limit=10) == ()
    assert await nobody.dense(vector, MODEL, corpus.everywhere(), limit=10) == ()


async def test_words_are_searched_by_the_rarest_of_the_telling_ones(corpus: Corpus) -> None:
    for terms in (("alpha", "beta"), ("alpha", "gamma", "beta"), ("alpha", "delta"), ("alpha", "gamma")):
        await corpus.put(entry=IndexEntry(terms=terms, embedding=None))
    every, where = ("beta", "alpha", "missing", "gamma", "delta"), corpus.everywhere()
    counts = {"beta": 2, "alpha": 4, "missing": 0, "gamma": 2, "delta": 1}
    for telling, most, searched in (
        (("gamma", "alpha", "missing", "beta"), 9, ("gamma", "alpha", "beta")),
        (("gamma", "alpha", "missing", "beta"), 2, ("gamma", "beta")),
        (("gamma", "alpha", "missing", "beta"), 1, ("beta",)),
        (("delta", "beta", "delta"), 1, ("delta",)),
        (("missing",), 9, ()),
        ((), 9, ()),
        (("alpha",), 0, ()),
    ):
        found = await corpus.index.words(every, telling, where, limit=3, most=most)
        assert (found.searched, found.statistics.documents_with) == (searched, counts)
        assert found.hits == await corpus.index.lexical(searched, where, limit=3)
    assert (await corpus.index.words(every, ("beta",), where, limit=0, most=9)).hits == ()


@pytest.mark.parametrize("seed", range(3))
async def test_words_find_what_the_lexical_arm_finds_after_any_changes(corpus: Corpus, seed: int) -> None:
    random = Random(seed)
    for _ in range(60):
        await corpus.change()
        every = random.sample(TERMS, 6)
        found = await corpus.index.words(every, every[2:], corpus.everywhere(), limit=20, most=3)
        counts = {term: sum(term in entry.terms for _, entry in corpus.kept.values()) for term in every}
        lengths = [len(entry.terms) for _, entry in corpus.kept.values()]
        assert found.statistics.documents_with == counts
        assert found.statistics.documents == len(lengths)
        assert found.statistics.average_length == pytest.approx(sum(lengths) / max(len(lengths), 1))
        rarest = sorted((counts[term], term) for term in every[2:] if counts[term])[:3]
        assert found.searched == tuple(term for term in every[2:] if (counts[term], term) in rarest)
        assert found.hits == await corpus.index.lexical(found.searched, corpus.everywhere(), limit=20)


async def test_what_another_tenant_writes_moves_no_score(storage: Storage, corpus: Corpus, make: Any) -> None:
    for _ in range(20):
        await corpus.put()
    vector = unit(corpus.vectors.standard_normal(MODEL.dimension))

    async def answers() -> tuple[object, ...]:
        return (
            await corpus.index.lexical(TERMS[:3], corpus.everywhere(), limit=10),
            await corpus.index.dense(vector, MODEL, corpus.everywhere(), limit=10),
            await corpus.index.words(TERMS[:3], TERMS[:2], corpus.everywhere(), limit=10, most=9),
        )

    before = await answers()
    account = make.account(name="another")
    assert await storage.directory.create_account(account)
    neighbour = Corpus(storage, account, make, seed=9)
    for _ in range(30):
        await neighbour.put()
    assert await answers() == before
    where = neighbour.everywhere(spaces=frozenset([*neighbour.spaces, *corpus.spaces]))
    hits = await neighbour.index.lexical(TERMS[:3], where, limit=100)
    assert_best(hits, neighbour.best_lexical(TERMS[:3], where), 100)


async def test_a_commit_of_another_process_is_seen_by_the_next_call(
    connect: Callable[[], Awaitable[Storage]], corpus: Corpus
) -> None:
    other = await connect()
    index = other.search(corpus.account.tenant.id)
    vector = unit(corpus.vectors.standard_normal(MODEL.dimension))
    for _ in range(25):
        await corpus.change()
        hits = await index.dense(vector, MODEL, corpus.everywhere(), limit=100)
        assert_best(hits, corpus.best_dense(vector, corpus.everywhere()), 100)
        hits = await index.lexical(("alpha",), corpus.everywhere(), limit=100)
        assert_best(hits, corpus.best_lexical(("alpha",), corpus.everywhere()), 100)


async def test_searches_at_the_same_time_as_writes_find_every_memory_that_was_there_before(corpus: Corpus) -> None:
    row = unit(np.ones(MODEL.dimension))
    entry = IndexEntry(terms=("alpha",), embedding=embedding_of(row[np.newaxis]))
    there = {await corpus.put(entry=entry) for _ in range(20)}

    async def search() -> None:
        for _ in range(10):
            dense = await corpus.index.dense(row, MODEL, corpus.everywhere(), limit=200)
            lexical = await corpus.index.lexical(("alpha",), corpus.everywhere(), limit=200)
            assert there <= {hit.memory_id for hit in dense}
            assert there <= {hit.memory_id for hit in lexical}

    async def write() -> None:
        for _ in range(20):
            await corpus.commit(PutMemory(memory=corpus.memory(), index=entry))

    await asyncio.gather(search(), search(), search(), write())
