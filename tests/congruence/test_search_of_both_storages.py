"""The same changes and questions on both storages: the same answers, and of large tenants nearly the exact ones."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from polymem.domain.model import ContentType, JsonValue, Memory, MemoryId, MemoryType, SpaceId, Turn
from polymem.domain.query import Comparison, MemoryFilter, MetadataCondition
from polymem.domain.scoring import bm25, idf
from polymem.ports.changes import AddSpace, Applied, Change, EmbeddedChunk, Embedding, IndexEntry, PutMemory
from polymem.ports.search import ArmHit, Evidence, SearchIndex
from polymem.ports.storage import Storage
from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.dense import DenseQuery, graph_statement
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.graphs import Graphs
from polymem.storage.postgres.search import PostgresSearch
from polymem.storage.postgres.storage import PostgresStorage
from postgres import PostgresServer
from samples import AT, account_of, memory_of
from writer import ACCOUNT, FILTERS, MODEL, WORDS, Writer, unit

CLOSE = 1e-5
ENOUGH = 0.97
POOL = 96
LARGE = 20_000
MATCHES = 4_000
OTHERS = 4
SHARDS = 400


def assert_same(left: Sequence[ArmHit], right: Sequence[ArmHit]) -> None:
    """The same scores in the same order, of the same memories; those that score alike to rounding may change places."""
    assert [hit.score for hit in right] == pytest.approx([hit.score for hit in left], abs=CLOSE)
    scores = [{hit.memory_id: hit.score for hit in hits} for hits in (left, right)]
    for one, other in (scores, scores[::-1]):
        assert one == pytest.approx(one | {each: other[each] for each in one.keys() & other.keys()}, abs=CLOSE)
        last = min(one.values(), default=0.0)
        assert [score for each, score in one.items() if each not in other] == pytest.approx(
            [last for each in one if each not in other], abs=CLOSE
        )


def assert_same_evidence(left: dict[MemoryId, Evidence], right: dict[MemoryId, Evidence]) -> None:
    """All that is known of all memories is the same, the vectors to the last bit."""
    assert left.keys() == right.keys()
    for memory_id, one in left.items():
        other = right[memory_id]
        assert replace(one, token_vectors=(), embeddings=other.embeddings) == replace(other, token_vectors=())
        assert one.embeddings.tobytes() == other.embeddings.tobytes()
        assert [chunk.tolist() for chunk in one.token_vectors] == [chunk.tolist() for chunk in other.token_vectors]


def turns(writer: Writer, session_id: str, seqs: Sequence[int]) -> list[Change]:
    """Turns of a session at these places."""

    def turn(seq: int, number: int) -> Memory:
        memory = memory_of(ACCOUNT, f"{session_id}-{seq}-{number}", tags=writer.tags())
        said = Turn(role="user", seq=seq, content_type=ContentType.TEXT)
        return replace(memory, memory_type=MemoryType.SESSION, session_id=session_id, turn=said)

    return [PutMemory(memory=turn(seq, number), index=writer.entry()) for number, seq in enumerate(seqs)]


async def asked_of(index: SearchIndex, terms: tuple[str, ...], where: MemoryFilter) -> tuple[ArmHit, ...]:
    """What the words find, once it is certain that both ways to ask for them find the same."""
    found = await index.words(WORDS, terms, where, limit=40, most=len(terms))
    assert found.hits == await index.lexical(terms, where, limit=40)
    return found.hits


@pytest.mark.parametrize("seed", range(3))
async def test_after_any_changes_both_storages_give_the_same_answers(both: tuple[Storage, Storage], seed: int) -> None:
    writer = Writer(seed)
    stores = [storage.tenant(ACCOUNT.tenant.id) for storage in both]
    indexes = [storage.search(ACCOUNT.tenant.id) for storage in both]
    sessions = turns(writer, "s1", [writer.random.randrange(20) for _ in range(30)]) + turns(writer, "s2", [4, 5, 5])
    asked = [change.memory.id for change in sessions if isinstance(change, PutMemory)]
    for changes in ([writer.put() for _ in range(300)], sessions, *(writer.changes() for _ in range(8))):
        for store in stores:
            assert isinstance(await store.commit(changes, now=AT), Applied)
        for where in FILTERS:
            terms, question = tuple(writer.random.sample(WORDS, 5)), writer.question()
            statistics = [(await index.words(WORDS, (), where, limit=1, most=1)).statistics for index in indexes]
            assert statistics[0] == statistics[1]
            assert_same(*[await asked_of(index, terms, where) for index in indexes])
            assert_same(*[await index.dense(question, MODEL, where, limit=40) for index in indexes])
            beside = [await index.neighbours(asked, where, reach=2) for index in indexes]
            assert beside[0] == beside[1]
        ids = [MemoryId(name) for name in sorted(writer.revisions)] + asked
        assert_same_evidence(*[await index.evidence(ids, MODEL, WORDS[:20]) for index in indexes])


class Large:
    """A tenant of many memories in two spaces, beside others, with what its answers ought to be."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(11)
        self.account = account_of("large")
        self.second = replace(self.account.space, id=SpaceId("second"), name="second")
        shares = 1.0 / np.arange(1, 4001)
        self.terms = [
            tuple(f"word{number}" for number in self.random.choice(4000, size=size, p=shares / shares.sum()))
            for size in np.clip(self.random.lognormal(3.0, 0.7, LARGE), 2, 300).astype(int)
        ]
        centres = unit(self.random.standard_normal((400, MODEL.dimension)))
        picked = centres[self.random.integers(0, len(centres), LARGE)]
        self.rows = unit(picked + 0.08 * self.random.standard_normal((LARGE, MODEL.dimension)))
        self.is_second = self.random.random(LARGE) < 0.7
        self.names = np.array([f"m{number:06}" for number in range(LARGE)])

    def changes(self, prefix: str = "") -> list[Change]:
        """The memories, each with one vector."""
        token = np.ones((1, MODEL.token_dimension), dtype=np.int8)
        made: list[Change] = []
        for name, terms, row, is_second in zip(self.names, self.terms, self.rows, self.is_second, strict=True):
            space = self.second if is_second else self.account.space
            chunk = EmbeddedChunk(start=0, end=1, embedding=row, token_vectors=token)
            entry = IndexEntry(terms=terms, embedding=Embedding(model=MODEL, chunks=(chunk,), is_complete=True))
            made.append(
                PutMemory(
                    memory=replace(
                        memory_of(self.account, f"{prefix}{name}"),
                        space_id=space.id,
                        metadata={"is_odd": bool(int(name[1:]) % 2), "shard": int(name[1:]) % SHARDS},
                    ),
                    index=entry,
                )
            )
        return made

    def best_by_words(self, asked: Sequence[str]) -> set[str]:
        """The best by plain BM25, ties by id."""
        average = sum(map(len, self.terms)) / LARGE
        scores = np.zeros(LARGE)
        for term in asked:
            counts = {place: terms.count(term) for place, terms in enumerate(self.terms) if term in terms}
            for place, count in counts.items():
                part = bm25(count=count, length=len(self.terms[place]), average_length=average)
                scores[place] += idf(LARGE, len(counts)) * part
        return set(self.names[np.lexsort((self.names, -scores))[:POOL]].tolist())

    def best_by_vector(self, question: NDArray[np.float32], passes: NDArray[np.bool_]) -> set[str]:
        """The nearest of all that pass."""
        stored = unit(self.rows.astype(np.float16).astype(np.float32))
        cosines = np.where(passes, stored @ question, -2.0)
        return set(self.names[np.lexsort((self.names, -cosines))[:POOL]].tolist())

    def filters(self) -> list[tuple[MemoryFilter, NDArray[np.bool_]]]:
        """No filter but the tenant, and one that most pass, with who passes."""
        spaces = frozenset({self.account.space.id, self.second.id})
        return [
            (MemoryFilter(spaces=spaces), np.ones(LARGE, dtype=np.bool_)),
            (MemoryFilter(spaces=frozenset({self.second.id})), self.is_second),
            (replace(MemoryFilter(spaces=spaces), metadata=(_eq("is_odd", True),)), np.arange(LARGE) % 2 == 1),
            (MemoryFilter(spaces=spaces, except_author="nobody"), np.ones(LARGE, dtype=np.bool_)),
        ]

    def narrow(self) -> tuple[MemoryFilter, set[str]]:
        """A filter of metadata that few pass, fewer than are asked for, and all of these."""
        spaces = frozenset({self.account.space.id, self.second.id})
        where = MemoryFilter(spaces=spaces, metadata=(_eq("shard", 7),))
        return where, set(self.names[np.arange(LARGE) % SHARDS == 7].tolist())


def _eq(field: str, value: JsonValue) -> MetadataCondition:
    return MetadataCondition((field,), Comparison.EQ, value)


async def plan_of(database: Database, graphs: Graphs, query: DenseQuery) -> str:
    """How the server goes about the search along the tenant's graph."""

    async def unit_of_work(connection: Connection) -> str:
        graph = await graphs.find(connection, query.tenant_id, query.model)
        assert graph is not None
        statement, parameters = graph_statement(query, graph, 2 * query.limit)
        cursor = await connection.execute(f"EXPLAIN {statement}", parameters)
        return "\n".join(row[0] for row in await cursor.fetchall())

    return await database.read(unit_of_work)


async def fill(storage: Storage, large: Large) -> None:
    """The tenant is stored, and beside it others with the same words and vectors."""
    accounts = [large.account, *(account_of(f"other{number}") for number in range(OTHERS))]
    changes = large.changes()
    for account in accounts:
        assert await storage.directory.create_account(account)
    store = storage.tenant(large.account.tenant.id)
    await store.commit([AddSpace(space=large.second, members=())], now=AT)
    for start in range(0, LARGE, 1000):
        assert isinstance(await store.commit(changes[start : start + 1000], now=AT), Applied)
    for number, account in enumerate(accounts[1:]):
        some = [change for change in changes[number::40] if isinstance(change, PutMemory)]
        moved = [replace(each, memory=replace(each.memory, space_id=account.space.id)) for each in some]
        assert isinstance(await storage.tenant(account.tenant.id).commit(moved, now=AT), Applied)


@pytest.mark.timeout(300)
async def test_of_a_large_tenant_beside_others_nearly_all_of_the_exact_best_are_found_by_words_and_along_its_graph(
    postgres_server: PostgresServer,
) -> None:
    url, large = postgres_server.new_database(), Large()
    storage = await PostgresStorage.open(url, connections=2)
    await fill(storage, large)
    database = await Database.open(url, connections=2, patience_seconds=5.0)
    graphs = Graphs(database, exact_rows=LARGE // 4)
    await graphs.tend()
    index = PostgresSearch(database, large.account.tenant.id, graphs)
    everything, _ = large.filters()[0]
    shares = []
    for asked in (
        ("word3", "word9", "word30"),
        ("word5", "word900", "word2000"),
        ("word2", "word3", "word4", "word11"),
    ):
        found = await index.words(asked, asked, everything, limit=POOL, most=len(asked))
        assert sum(found.statistics.documents_with.values()) >= MATCHES
        shares.append(len(large.best_by_words(asked) & {hit.memory_id for hit in found.hits}) / POOL)
    assert np.mean(shares) >= ENOUGH
    for where, passes in large.filters():
        query = DenseQuery(
            tenant_id=large.account.tenant.id, vector=large.rows[0], model=MODEL, where=where, limit=POOL
        )
        assert "Index Scan using chunks_graph_1_1" in await plan_of(database, graphs, query)
        shares = []
        for place in large.random.integers(0, LARGE, 20).tolist():
            question = unit(large.rows[place] + 0.08 * large.random.standard_normal(MODEL.dimension))
            hits = await index.dense(question, MODEL, where, limit=POOL)
            assert len(hits) == POOL
            shares.append(len(large.best_by_vector(question, passes) & {hit.memory_id for hit in hits}) / POOL)
        assert np.mean(shares) >= ENOUGH
    where, few = large.narrow()
    assert {hit.memory_id for hit in await index.dense(large.rows[0], MODEL, where, limit=POOL)} == few
    common = ("word2", "word3", "word4", "word11")
    holding = {name for name, terms in zip(large.names, large.terms, strict=True) if set(common) & set(terms)}
    assert {hit.memory_id for hit in await index.lexical(common, where, limit=POOL)} == few & holding
    await database.close()
    await storage.close()
