"""The lexical arm where it is bounded: common words, narrow filters, and the index that the server reads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from polymem.domain.model import MemoryId, SpaceId
from polymem.domain.query import Comparison, MemoryFilter, MetadataCondition
from polymem.domain.scoring import bm25, idf
from polymem.ports.changes import AddSpace, Applied, IndexEntry, PutMemory
from polymem.ports.directory import NewAccount
from polymem.ports.search import SearchIndex
from polymem.storage.postgres import lexical
from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.storage import PostgresStorage
from samples import AT, memory_of

BOUND = 40
NARROW = SpaceId("narrow")


@dataclass
class Corpus:
    """Stored memories by id, with their terms, and the index over them."""

    index: SearchIndex
    account: NewAccount
    terms: dict[str, tuple[str, ...]]

    @property
    def everywhere(self) -> MemoryFilter:
        return MemoryFilter(spaces=frozenset({self.account.space.id, NARROW}))

    def best(self, asked: Sequence[str], limit: int, among: Sequence[str]) -> list[str]:
        """The best of these by plain BM25, ties by id."""
        average = sum(map(len, self.terms.values())) / len(self.terms)
        held = {term: sum(term in each for each in self.terms.values()) for term in asked}

        def score(name: str) -> float:
            return sum(
                idf(len(self.terms), held[term])
                * bm25(count=self.terms[name].count(term), length=len(self.terms[name]), average_length=average)
                for term in asked
            )

        return sorted(among, key=lambda name: (-score(name), name))[:limit]

    async def found(self, asked: Sequence[str], where: MemoryFilter, limit: int = 10) -> list[str]:
        return [hit.memory_id for hit in await self.index.lexical(asked, where, limit=limit)]


@pytest.fixture
async def corpus(storage: PostgresStorage, account: NewAccount, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """200 memories: all hold "all", every second one "half", every 20th "some", two of them "rare"; 7 stand apart.

    The server takes all of them to pass: it has no statistics of a table that was filled just now.
    """

    async def all_pass(*_: object) -> int:
        return 200

    monkeypatch.setattr(lexical, "MOST_MATCHES", BOUND)
    monkeypatch.setattr(lexical, "estimate_passing", all_pass)
    store = storage.tenant(account.tenant.id)
    await store.commit([AddSpace(space=replace(account.space, id=NARROW, name="narrow"), members=())], now=AT)
    terms: dict[str, tuple[str, ...]] = {}
    for number in range(200):
        held = ["all", *["more"] * (number % 5), *["half"] * (number % 2), *["some"] * (number % 20 == 0)]
        terms[f"m{number:03}"] = (*held, *["rare"] * (number in {60, 140}), f"own{number}")
    changes = [
        PutMemory(
            memory=replace(
                memory_of(account, name),
                space_id=NARROW if name >= "m193" else account.space.id,
                metadata={"last": name[-1]},
            ),
            index=IndexEntry(terms=held, embedding=None),
        )
        for name, held in terms.items()
    ]
    assert isinstance(await store.commit(changes, now=AT), Applied)
    return Corpus(storage.search(account.tenant.id), account, terms)


async def test_where_metadata_pass_too_few_of_what_rare_words_find_every_word_finds_them(corpus: Corpus) -> None:
    asked = ("all", "half", "rare", "some")
    where = replace(corpus.everywhere, metadata=(MetadataCondition(("last",), Comparison.EQ, "7"),))
    among = [name for name in corpus.terms if name.endswith("7")]
    assert await corpus.found(asked, where) == corpus.best(asked, 10, among)
    where = replace(corpus.everywhere, metadata=(MetadataCondition(("last",), Comparison.EQ, "0"),))
    with_some = [name for name, held in corpus.terms.items() if "some" in held]
    assert await corpus.found(asked, where) == corpus.best(asked, 10, with_some)


async def test_rare_words_find_their_memories_and_common_ones_add_to_the_score_alone(corpus: Corpus) -> None:
    with_rare = ["m060", "m140"]
    with_some = [name for name, held in corpus.terms.items() if "some" in held]
    asked = ("all", "half", "rare", "some")
    assert await corpus.found(asked, corpus.everywhere) == corpus.best(asked, 10, with_some)
    hits = await corpus.index.lexical(asked, corpus.everywhere, limit=2)
    assert [hit.memory_id for hit in hits] == corpus.best(asked, 2, with_rare)
    expected = sum(idf(200, count) for count in (200, 10, 2)) * bm25(count=1, length=4, average_length=_average(corpus))
    assert hits[0].score == pytest.approx(expected, abs=1e-5)


def _average(corpus: Corpus) -> float:
    return sum(map(len, corpus.terms.values())) / len(corpus.terms)


async def test_of_a_word_that_all_memories_hold_a_bounded_part_is_read_the_same_each_time(corpus: Corpus) -> None:
    first = await corpus.found(("all",), corpus.everywhere, limit=200)
    assert len(first) == BOUND
    assert await corpus.found(("all",), corpus.everywhere, limit=200) == first


async def test_where_few_memories_pass_every_word_finds_them(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    async def few(*_: object) -> int:
        return 7

    monkeypatch.setattr(lexical, "estimate_passing", few)
    where = replace(corpus.everywhere, spaces=frozenset({NARROW}))
    apart = [name for name in corpus.terms if name >= "m193"]
    asked = ("all", "half", "rare")
    assert await corpus.found(asked, where) == corpus.best(asked, 10, apart)


async def test_the_server_reads_the_lists_of_the_words_and_no_other_index(
    corpus: Corpus, storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await Database.open(storage_url, connections=2, patience_seconds=5.0)
    tenant_id, asked = corpus.account.tenant.id, ("rare", "some")
    plans: list[str] = []

    async def explain(connection: Connection) -> None:
        counts = await lexical.count_terms(connection, tenant_id, asked)
        with monkeypatch.context() as patched:
            patched.setattr(lexical, "_BEST", f"EXPLAIN {lexical._BEST}")
            patched.setattr(lexical, "_rescored", lambda _, rows, __: plans.extend(row[0] for row in rows))
            await lexical.best_by_words(connection, tenant_id, counts, asked, corpus.everywhere, limit=5)

    await database.read(explain, in_snapshot=True)
    await database.close()
    plan = "\n".join(plans)
    assert "Bitmap Index Scan on index_entries_by_code" in plan
    assert "index_entries_pkey" not in plan
    assert "Seq Scan" not in plan


async def test_an_entry_with_more_words_than_weights_is_found_by_each_of_them(
    storage: PostgresStorage, account: NewAccount
) -> None:
    words = tuple(f"word{number}" for number in range(17_000))
    changes = [PutMemory(memory=memory_of(account, "long"), index=IndexEntry(terms=words, embedding=None))]
    assert isinstance(await storage.tenant(account.tenant.id).commit(changes, now=AT), Applied)
    index, where = storage.search(account.tenant.id), MemoryFilter(spaces=frozenset({account.space.id}))
    for word in (words[0], words[8_000], words[-1]):
        assert [hit.memory_id for hit in await index.lexical((word,), where, limit=3)] == [MemoryId("long")]
