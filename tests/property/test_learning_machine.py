"""Two tenants write, judge, sleep and delete at random, over restarts: what is learned keeps its promises."""

import asyncio
import atexit
import contextlib
import functools
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from polymem.domain.model import Association, Call, Memory, MemoryId, MemoryState
from polymem.engine.engine import Engine
from polymem.engine.requests import NewAtom, NewFeedback, Remembered
from polymem.errors import NotFound
from polymem.jobs.worker import Worker
from polymem.ports.storage import Storage
from polymem.storage.postgres.storage import PostgresStorage
from polymem.storage.sqlite.storage import SqliteStorage
from postgres import PostgresServer, running_postgres
from word_model import WordModel

T = TypeVar("T")
SECRETS = ("pm_tenant-a-secret-0", "pm_tenant-b-secret-0")
DOMAINS = (None, "project:x")
SUBJECTS = ("cat", "ferry", "budget", "garden")
CONCEPTS = ("pets", "Travel", "money", "home", "travel")
# One text in two orders: with references both are kept, and sleep merges them.
FORMS = ("the {subject} of house {number}", "of house {number} the {subject}")
OUTCOMES = (-1.0, -0.5, 0.0, 0.3, 1.0)


class Clock:
    """Time that moves a second with each look."""

    def __init__(self) -> None:
        self._at = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        self._at += timedelta(seconds=1)
        return self._at

    def monotonic(self) -> float:
        return self.now().timestamp()


class Ids:
    """UUIDs in the order of making."""

    def __init__(self) -> None:
        self._count = 0

    def new_id(self) -> str:
        self._count += 1
        return str(UUID(int=(7 << 76) | (2 << 62) | (self._count << 80)))

    new_secret = new_id
    new_uuid4 = new_id


class NoBlobs:
    """No file is taken in here."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


class LearningMachine(RuleBasedStateMachine):
    """On a data directory."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._folder = Path(tempfile.mkdtemp(prefix="polymem-learning-"))
        self._clock, self._ids = Clock(), Ids()
        self._engine: Engine
        self._calls: list[Call] = []
        self._known: list[list[MemoryId]] = [[], []]

    def teardown(self) -> None:
        self._run(self._engine.storage.close())
        self._runner.close()
        shutil.rmtree(self._folder)

    async def open_storage(self) -> Storage:
        """The storage of this run, with all that was stored in it before."""
        return await SqliteStorage.open(self._folder, owns_directory=False, reader_count=1)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    async def _open(self) -> None:
        storage = await self.open_storage()
        blobs: Any = NoBlobs()
        self._engine = Engine(storage=storage, embedder=WordModel(), blobs=blobs, clock=self._clock, ids=self._ids)

    @initialize()
    def two_tenants(self) -> None:
        async def begin() -> None:
            await self._open()
            first = await self._engine.keys.first_start(secret=SECRETS[0])
            assert first is not None
            second = await self._engine.keys.provision(name="b")
            for told in (first, second):
                principal = await self._engine.keys.authenticate(told.secret)
                self._calls.append(Call(principal=principal, request_id="r"))

        self._run(begin())

    @rule(
        tenant=st.integers(0, 1),
        forms=st.sampled_from((FORMS[:1], FORMS, FORMS)),
        what=st.tuples(st.sampled_from(SUBJECTS), st.integers(1, 2)),
        domain=st.sampled_from(DOMAINS),
        concepts=st.lists(st.sampled_from(CONCEPTS), max_size=3),
    )
    def write(
        self, tenant: int, *, forms: tuple[str, ...], what: tuple[str, int], domain: str | None, concepts: list[str]
    ) -> None:
        texts = [f"tenant {'ab'[tenant]}: {form.format(subject=what[0], number=what[1])}" for form in forms]
        references = [None] if len(forms) == 1 else texts
        news = [
            NewAtom(content=text, domain=domain, concepts=tuple(concepts), external_ref=reference)
            for text, reference in zip(texts, references, strict=True)
        ]
        kept = self._run(self._engine.remember.many(self._calls[tenant], news))
        self._known[tenant] += [each.memory.id for each in kept if isinstance(each, Remembered)]

    @precondition(lambda self: any(self._known))
    @rule(
        tenant=st.integers(0, 1),
        places=st.lists(st.integers(0, 30), min_size=1, max_size=4),
        outcome=st.sampled_from(OUTCOMES),
        asked=st.lists(st.sampled_from(CONCEPTS), max_size=2),
    )
    def judge(self, tenant: int, places: list[int], outcome: float, asked: list[str]) -> None:
        # Ids of the other tenant are named too: they must count for nothing.
        ids = self._known[0] + self._known[1]
        named = tuple(ids[place % len(ids)] for place in places)
        new = NewFeedback(memory_ids=named, outcome=outcome, query_concepts=tuple(asked), concepts=tuple(asked[:1]))
        given = self._run(self._engine.feedback.give(self._calls[tenant], new))
        assert given.updated <= len(set(named) & set(self._known[tenant]))
        assert -1.0 <= given.average_valence <= 1.0

    @precondition(lambda self: any(self._known))
    @rule(tenant=st.integers(0, 1), place=st.integers(0, 30), restores=st.booleans())
    def delete_or_restore(self, tenant: int, place: int, *, restores: bool) -> None:
        ids = self._known[0] + self._known[1]
        target = ids[place % len(ids)]
        act = self._engine.consolidate.restore if restores else self._engine.write.delete
        with contextlib.suppress(NotFound):
            self._run(act(self._calls[tenant], target))

    @rule(tenant=st.integers(0, 1), domain=st.sampled_from(DOMAINS))
    def sleep(self, tenant: int, domain: str | None) -> None:
        async def consolidate() -> None:
            before = Counter(memory.content for memory, _ in await self._export(tenant))
            worker = Worker(self._engine)
            asked = asyncio.create_task(self._engine.consolidate.domain(self._calls[tenant], domain))
            while not asked.done():
                await worker.run_due()
                await asyncio.sleep(0)
            done = await asked
            after = await self._export(tenant)
            assert before <= Counter(memory.content for memory, _ in after)
            assert {memory.content for memory, _ in after} == set(before)
            assert done.after <= done.before
            event(f"prototypes made: {done.prototypes_made > 0}")

        self._run(consolidate())

    @rule()
    def restart(self) -> None:
        async def again() -> None:
            await self._engine.storage.close()
            await self._open()

        self._run(again())

    async def _export(self, tenant: int) -> list[tuple[Memory, tuple[Association, ...]]]:
        return [row async for page in self._engine.read.export(self._calls[tenant]) for row in page]

    @invariant()
    def an_export_holds_everything_of_its_tenant_and_nothing_else(self) -> None:
        for tenant, letter in enumerate("ab"[: len(self._calls)]):
            self._run(self._check(tenant, letter))

    async def _check(self, tenant: int, letter: str) -> None:
        call = self._calls[tenant]
        rows = await self._export(tenant)
        by_id = {memory.id: memory for memory, _ in rows}
        assert len(by_id) == len(rows) == await self._engine.storage.tenant(call.principal.tenant_id).count_memories()
        for memory in by_id.values():
            assert memory.content.startswith(f"tenant {letter}:")
            assert -1.0 <= memory.valence <= 1.0
            assert 0.0 <= memory.importance <= 1.0
            assert all(by_id[source].space_id == memory.space_id for source in memory.derived_from)
            if memory.state is MemoryState.ARCHIVED:
                assert memory.superseded_by is not None
                assert memory.id in by_id[memory.superseded_by].derived_from
        edges = [edge for _, owned in rows for edge in owned]
        assert len({(edge.space_id, edge.source, edge.target) for edge in edges}) == len(edges)
        for edge in edges:
            assert edge.source < edge.target
            assert 0.0 <= edge.weight <= 1.0
            assert -1.0 <= edge.valence <= 1.0
        counted = await self._engine.read.statistics(call)
        assert counted.associations == len(edges)
        assert counted.episodes + counted.prototypes + counted.singletons == sum(
            memory.state is MemoryState.ACTIVE for memory in by_id.values()
        )


@functools.cache
def _server() -> PostgresServer:
    running = contextlib.ExitStack()
    atexit.register(running.close)
    return running.enter_context(running_postgres())


class ServerLearningMachine(LearningMachine):
    """The same on PostgreSQL."""

    def __init__(self) -> None:
        super().__init__()
        self._url = _server().new_database()

    async def open_storage(self) -> Storage:
        """The storage of this run, with all that was stored in it before."""
        return await PostgresStorage.open(self._url, connections=2)


_SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
LearningMachine.TestCase.settings = settings(_SETTINGS, max_examples=15, stateful_step_count=20)
# Fewer: an example takes a database, and each step some round trips.
ServerLearningMachine.TestCase.settings = settings(_SETTINGS, max_examples=3, stateful_step_count=15)
TestLearningKeepsItsPromises = LearningMachine.TestCase
TestLearningOnPostgresKeepsItsPromises = ServerLearningMachine.TestCase
