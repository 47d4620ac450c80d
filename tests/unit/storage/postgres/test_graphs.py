"""The graphs over the vectors of large tenants: when they stand, that searches use them, and what they never change."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from polymem.domain.model import MemoryId, MemoryRole, MemoryState, ModelIdentity
from polymem.domain.query import MemoryFilter
from polymem.ports.changes import (
    Applied,
    Change,
    DeleteMemory,
    EmbeddedChunk,
    Embedding,
    IndexEntry,
    PutMemory,
    SetEmbedding,
    SetStanding,
)
from polymem.ports.directory import NewAccount
from polymem.storage.postgres import dense
from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.dense import DenseQuery, graph_statement
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.graphs import LED_STATES, TENDING, Graphs
from polymem.storage.postgres.search import PostgresSearch
from polymem.storage.postgres.storage import PostgresStorage
from samples import AT, account_of, memory_of
from writer import MODEL, unit

BOUND = 120
MANY = 150
NEWER = replace(MODEL, revision="2")
CLEARLY = 1e-6


@dataclass
class Tenant:
    """A tenant whose memories have a vector or two each, and what a comparison with all of them finds."""

    storage: PostgresStorage
    database: Database
    account: NewAccount
    random: np.random.Generator
    rows: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def everything(self) -> MemoryFilter:
        return MemoryFilter(spaces=frozenset({self.account.space.id}))

    def graphs(self) -> Graphs:
        """As one more process has them."""
        return Graphs(self.database, exact_rows=BOUND)

    async def commit(self, changes: Sequence[Change]) -> None:
        assert isinstance(await self.storage.tenant(self.account.tenant.id).commit(changes, now=AT), Applied)

    async def grow(self, names: Sequence[str], *, tags: tuple[str, ...] = ("red",)) -> None:
        """These memories are stored."""
        for name in names:
            self.rows[name] = unit(self.random.standard_normal((int(self.random.integers(1, 3)), MODEL.dimension)))
        await self.put(names, tags=tags)

    async def put(self, names: Sequence[str], *, tags: tuple[str, ...] = ()) -> None:
        """These memories are stored with the rows that they have here."""
        await self.commit(
            [
                PutMemory(
                    memory=memory_of(self.account, name, tags=tags),
                    index=IndexEntry(terms=("word",), embedding=embedding_of(self.rows[name])),
                )
                for name in names
            ]
        )

    async def shrink(self, names: Sequence[str]) -> None:
        """These memories are deleted."""
        spaces = frozenset({self.account.space.id})
        await self.commit([DeleteMemory(memory_id=MemoryId(name), spaces=spaces) for name in names])
        for name in names:
            del self.rows[name]

    def nearest(self, question: NDArray[np.float32], limit: int) -> list[str]:
        """The nearest of all, ties by id."""
        stored = {name: unit(rows.astype(np.float16).astype(np.float32)) for name, rows in self.rows.items()}
        return sorted(stored, key=lambda name: (-float((stored[name] @ question).max()), name))[:limit]

    async def stand(self, names: Sequence[str], state: MemoryState, *, revision: int) -> None:
        """These memories have this state."""
        change = SetStanding(
            space_id=self.account.space.id,
            revisions=tuple((MemoryId(name), revision) for name in names),
            state=state,
            role=MemoryRole.EPISODE,
            superseded_by=None,
        )
        await self.commit([change])

    async def found(
        self,
        graphs: Graphs,
        question: NDArray[np.float32],
        limit: int,
        *,
        tags: tuple[str, ...] = (),
        states: frozenset[MemoryState] | None = LED_STATES,
    ) -> list[str]:
        """The nearest that the dense arm finds."""
        index = PostgresSearch(self.database, self.account.tenant.id, graphs)
        asked = replace(self.everything, tags=tags, states=states)
        return [hit.memory_id for hit in await index.dense(question, MODEL, asked, limit=limit)]

    async def standing(self) -> list[tuple[str, bool, bool]]:
        """The graphs' indexes: name, whether searches may use it, whether the server holds it to be whole."""
        return [
            (str(name), bool(is_ready), bool(is_valid))
            for name, is_ready, is_valid in await self.rows_of(
                "SELECT g.index_name, g.is_ready, i.indisvalid FROM pg_index AS i"
                " JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS a ON a.oid = c.relam AND a.amname = 'hnsw'"
                " FULL JOIN vector_graphs AS g ON g.index_name = c.relname ORDER BY 1"
            )
        ]

    async def rows_of(self, statement: str) -> list[tuple[object, ...]]:
        """What the statement gives."""

        async def unit_of_work(connection: Connection) -> list[tuple[object, ...]]:
            cursor = await connection.execute(statement)
            return await cursor.fetchall() if cursor.description else []

        return await self.database.read(unit_of_work)

    async def plan(self, graphs: Graphs, question: NDArray[np.float32]) -> str:
        """How the server goes about a search along the graph."""
        query = DenseQuery(
            tenant_id=self.account.tenant.id, vector=question, model=MODEL, where=self.everything, limit=10
        )

        async def unit_of_work(connection: Connection) -> str:
            graph = await graphs.find(connection, self.account.tenant.id, MODEL)
            assert graph is not None
            statement, parameters = graph_statement(query, graph, 30)
            cursor = await connection.execute("EXPLAIN " + statement, parameters)
            return "\n".join(row[0] for row in await cursor.fetchall())

        return await self.database.read(unit_of_work)


def embedding_of(rows: NDArray[np.float32], model: ModelIdentity = MODEL) -> Embedding:
    """One chunk for each row."""
    token = np.ones((1, model.token_dimension), dtype=np.int8)
    chunks = tuple(EmbeddedChunk(start=0, end=1, embedding=row, token_vectors=token) for row in rows)
    return Embedding(model=model, chunks=chunks, is_complete=True)


def names(first: int, last: int) -> list[str]:
    """Ids of memories."""
    return [f"m{number:04}" for number in range(first, last)]


@pytest.fixture
async def tenant(storage: PostgresStorage, storage_url: str) -> AsyncIterator[Tenant]:
    """A tenant of many memories, beside a smaller one.

    Of so few rows the server would sort all, graph or no graph; here it does so only where nothing else is left.
    """
    async with await psycopg.AsyncConnection.connect(storage_url, autocommit=True) as connection:
        await connection.execute(f"ALTER DATABASE {connection.info.dbname} SET enable_sort = off")
    database = await Database.open(storage_url, connections=4, patience_seconds=5.0)
    for name, count in (("beside", 40), ("one", MANY)):
        account = account_of(name)
        assert await storage.directory.create_account(account)
        tenant = Tenant(storage, database, account, np.random.default_rng(count))
        await tenant.grow(names(0, count))
    yield tenant
    await database.close()


async def test_a_tenant_that_has_grown_large_gets_a_graph_and_a_small_one_none(tenant: Tenant) -> None:
    await tenant.graphs().tend()
    assert await tenant.standing() == [("chunks_graph_2_1", True, True)]


async def test_a_search_of_a_large_tenant_walks_the_graph_and_reads_the_question_once(tenant: Tenant) -> None:
    graphs = tenant.graphs()
    await graphs.tend()
    plan = await tenant.plan(graphs, tenant.rows["m0003"][0])
    assert "Index Scan using chunks_graph_2_1" in plan
    assert "Order By: ((embedding)::halfvec(64) <=> (InitPlan" in plan


async def test_with_a_graph_a_search_finds_what_comparing_all_finds(tenant: Tenant) -> None:
    graphs = tenant.graphs()
    await graphs.tend()
    for _ in range(10):
        question = unit(tenant.random.standard_normal(MODEL.dimension))
        assert await tenant.found(graphs, question, 20) == tenant.nearest(question, 20)


async def test_what_is_stored_and_deleted_after_the_graph_was_built_counts_at_once(tenant: Tenant) -> None:
    graphs = tenant.graphs()
    await graphs.tend()
    await tenant.grow(names(MANY, MANY + 30))
    await tenant.shrink(names(0, 30))
    for name in (*names(MANY, MANY + 5), *names(40, 45)):
        question = unit(tenant.rows[name][0] + 0.02)
        assert await tenant.found(graphs, question, 20) == tenant.nearest(question, 20)


async def test_archived_memories_take_no_place_in_the_graph_and_are_found_by_whom_asks_for_them(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def all_pass(*_: object) -> int:
        return 1_000_000

    monkeypatch.setattr(dense, "estimate_passing", all_pass)
    graphs = tenant.graphs()
    await graphs.tend()
    everywhere = frozenset(MemoryState)
    question = unit(tenant.random.standard_normal(MODEL.dimension))
    nearest = tenant.nearest(question, 40)
    await tenant.stand(nearest[:10], MemoryState.ARCHIVED, revision=1)
    assert await tenant.found(graphs, question, 20) == nearest[10:30]
    assert await tenant.found(graphs, question, 20, states=everywhere) == nearest[:20]
    assert await tenant.found(graphs, question, 20, states=frozenset({MemoryState.ARCHIVED})) == nearest[:10]
    await tenant.stand(nearest[:5], MemoryState.ACTIVE, revision=2)
    assert await tenant.found(graphs, question, 20) == [*nearest[:5], *nearest[10:25]]


async def test_where_few_pass_the_filter_all_of_them_are_found_although_the_graph_leads_elsewhere(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = tenant.graphs()
    await graphs.tend()
    await tenant.grow(names(MANY, MANY + 7), tags=("rare",))
    for estimated in (0, 1_000_000):

        async def estimate(*_: object, told: int = estimated) -> int:
            return told

        monkeypatch.setattr(dense, "estimate_passing", estimate)
        question = unit(tenant.random.standard_normal(MODEL.dimension))
        rare = [name for name in tenant.nearest(question, len(tenant.rows)) if name >= names(MANY, MANY + 1)[0]]
        assert await tenant.found(graphs, question, 20, tags=("rare",)) == rare


@pytest.mark.parametrize("chunks", [30, 400])
async def test_texts_of_many_chunks_near_the_question_do_not_push_the_others_out(tenant: Tenant, chunks: int) -> None:
    question = unit(np.ones(MODEL.dimension))
    long = ("long1", "long2", "long3")
    for name in long:
        tenant.rows[name] = unit(question + 0.02 * tenant.random.standard_normal((chunks, MODEL.dimension)))
    await tenant.put(long)
    graphs = tenant.graphs()
    await graphs.tend()
    found = await tenant.found(graphs, question, 20)
    assert found == tenant.nearest(question, 20)
    assert set(long) <= set(found)


async def test_one_graph_over_all_tenants_would_lose_rows_that_ours_finds(tenant: Tenant, storage_url: str) -> None:
    question = unit(np.ones(MODEL.dimension))
    beside = Tenant(tenant.storage, tenant.database, account_of("beside"), np.random.default_rng(1))
    beside.rows = {
        name: unit(-question + 0.01 * beside.random.standard_normal((1, MODEL.dimension))) for name in names(0, 40)
    }
    await beside.commit(
        [
            SetEmbedding(memory_id=MemoryId(name), expected_revision=1, embedding=embedding_of(rows))
            for name, rows in beside.rows.items()
        ]
    )
    await tenant.grow(names(MANY, 3 * MANY))
    async with await psycopg.AsyncConnection.connect(storage_url, autocommit=True) as connection:
        await connection.execute(
            "CREATE INDEX over_all ON chunks USING hnsw ((embedding::halfvec(64)) halfvec_cosine_ops)"
        )
        await connection.execute("SET enable_seqscan = off")
        await connection.execute("SET enable_sort = off")
        await connection.execute("SET enable_bitmapscan = off")
        vector = f"[{','.join(str(value) for value in question.tolist())}]"
        cursor = await connection.execute(
            "SELECT memory_id FROM chunks WHERE tenant_id = %s"
            " ORDER BY embedding::halfvec(64) <=> (SELECT %s::halfvec(64)) LIMIT 20",
            (beside.account.tenant.id, vector),
        )
        lost = await cursor.fetchall()
        await connection.execute("DROP INDEX over_all")
    assert len(lost) < 20
    assert await beside.found(tenant.graphs(), question, 20) == beside.nearest(question, 20)


def turned_by_rounding(random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A question and two rows: the first is the nearer one, but not to the question in half precision."""
    while True:
        question = unit(random.standard_normal(MODEL.dimension))
        rows = unit(question + 0.02 * unit(random.standard_normal((200, MODEL.dimension))))
        stored = unit(rows.astype(np.float16).astype(np.float64)).astype(np.float64)
        exact = stored @ question.astype(np.float64)
        rounded = stored @ question.astype(np.float16).astype(np.float64)
        is_turned = (exact[:, None] - exact > CLEARLY) & (rounded - rounded[:, None] > CLEARLY)
        if is_turned.any():
            return question, rows[np.argwhere(is_turned)[0]]


async def test_the_order_is_that_of_the_exact_question_not_of_one_in_half_precision(tenant: Tenant) -> None:
    question, rows = turned_by_rounding(tenant.random)
    for name, row in zip(("z", "a"), rows, strict=True):
        tenant.rows[name] = row[np.newaxis]
    await tenant.put(("z", "a"))
    graphs = tenant.graphs()
    assert await tenant.found(graphs, question, 2) == ["z", "a"]
    await graphs.tend()
    assert await tenant.found(tenant.graphs(), question, 2) == ["z", "a"]


async def test_a_tenant_that_has_shrunk_to_less_than_half_the_bound_loses_its_graph(tenant: Tenant) -> None:
    graphs = tenant.graphs()
    await graphs.tend()
    rows = sum(len(each) for each in tenant.rows.values())
    some = names(0, 50)
    assert rows - sum(len(tenant.rows[name]) for name in some) >= BOUND // 2
    await tenant.shrink(some)
    await graphs.tend()
    assert await tenant.standing() == [("chunks_graph_2_1", True, True)]
    await tenant.shrink(names(50, 130))
    await graphs.tend()
    assert await tenant.standing() == []
    question = unit(tenant.random.standard_normal(MODEL.dimension))
    assert await tenant.found(graphs, question, 20) == tenant.nearest(question, 20)


async def test_when_all_vectors_are_by_a_newer_model_its_graph_takes_the_place_of_the_old_ones(tenant: Tenant) -> None:
    graphs = tenant.graphs()
    await graphs.tend()
    await tenant.commit(
        [
            SetEmbedding(memory_id=MemoryId(name), expected_revision=1, embedding=embedding_of(rows, NEWER))
            for name, rows in tenant.rows.items()
        ]
    )
    await tenant.graphs().tend()
    assert await tenant.standing() == [("chunks_graph_2_2", True, True)]


@pytest.mark.parametrize("left", ["not ready", "invalid", "gone"])
async def test_what_a_killed_process_left_of_a_graph_is_dropped_and_built_again(tenant: Tenant, left: str) -> None:
    graphs = tenant.graphs()
    await graphs.tend()
    match left:
        case "not ready":
            await tenant.rows_of("UPDATE vector_graphs SET is_ready = false")
        case "invalid":
            await tenant.rows_of(
                "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'chunks_graph_2_1'::regclass"
            )
        case _:
            await tenant.rows_of("DROP INDEX chunks_graph_2_1")
    await graphs.tend()
    assert await tenant.standing() == [("chunks_graph_2_1", True, True)]


async def test_what_was_left_of_a_graph_of_a_tenant_that_is_small_again_is_only_dropped(tenant: Tenant) -> None:
    graphs = tenant.graphs()
    await graphs.tend()
    await tenant.rows_of("UPDATE vector_graphs SET is_ready = false")
    await tenant.shrink(names(0, 90))
    await graphs.tend()
    assert await tenant.standing() == []


async def test_of_processes_that_tend_at_once_one_builds(tenant: Tenant) -> None:
    await asyncio.gather(*(tenant.graphs().tend() for _ in range(4)))
    assert await tenant.standing() == [("chunks_graph_2_1", True, True)]


async def test_while_another_process_builds_nothing_is_done(tenant: Tenant) -> None:
    other = await tenant.database.alone()
    async with other:
        await other.execute("SELECT pg_advisory_lock(%s, %s)", TENDING)
        await tenant.graphs().tend()
        assert await tenant.standing() == []
    await tenant.graphs().tend()
    assert len(await tenant.standing()) == 1


async def test_a_graph_that_another_process_built_is_used_some_seconds_later(tenant: Tenant) -> None:
    now = [100.0]
    graphs = Graphs(tenant.database, exact_rows=BOUND, now=lambda: now[0])
    found = []

    async def look(connection: Connection) -> None:
        found.append(await graphs.find(connection, tenant.account.tenant.id, MODEL))

    await tenant.database.read(look)
    await tenant.graphs().tend()
    await tenant.database.read(look)
    now[0] += 6.0
    await tenant.database.read(look)
    assert [graph is not None for graph in found] == [False, False, True]


async def test_a_tenant_is_counted_anew_only_after_it_has_changed(tenant: Tenant) -> None:
    graphs = tenant.graphs()
    await graphs.tend()
    # A row more than the counters know of: whoever counts sees that no vector of the tenant is left.
    await tenant.rows_of("DELETE FROM chunks WHERE tenant_id = 'tenant-one'")
    await graphs.tend()
    assert len(await tenant.standing()) == 1
    await tenant.shrink(names(0, 40))
    await graphs.tend()
    assert await tenant.standing() == []
