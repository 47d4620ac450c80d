"""Laws of recall over the real storage and the real model: determinism, paging, filters, cuts, order."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polymem.domain.model import (
    Call,
    Key,
    KeyId,
    Memory,
    MemoryId,
    MemoryState,
    MemoryType,
    Plan,
    Principal,
    Scope,
    Space,
    SpaceId,
    SpaceKind,
    Tenant,
    TenantId,
    User,
    UserId,
)
from polymem.domain.query import MemoryFilter, RecallPage, RecallRequest
from polymem.engine.access import Access
from polymem.engine.indexing import Indexer
from polymem.engine.recall import Recall
from polymem.inference.embedder import LocalEmbedder
from polymem.ports.storage import NewAccount, PutMemory
from polymem.storage.sqlite.storage import SqliteStorage

START = datetime(2024, 1, 1, tzinfo=UTC)
PLAN = Plan(name="self-hosted", requests_per_minute=60_000, burst=60_000, max_memories=None)
SUBJECTS = ("Ada", "Ben", "Caroline", "the build server", "my sister", "the old car")
FACTS = (
    "moved to Berlin in March",
    "likes hiking and painting",
    "is called Marvin",
    "needs a new battery",
    "works as a nurse",
    "uses PostgreSQL 15",
    "adopted a cat named Milo",
)
TAGS = ("home", "work")
# Laws hold for every example of one long-lived tenant: nothing is written after the fixture.
LAWS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

questions = st.one_of(
    st.sampled_from(
        ["where does Ada live", "cat", "postgres", "who paints?", "Marvin battery", "the", "🎉", "May 2024"]
    ),
    st.lists(st.sampled_from(" ".join((*SUBJECTS, *FACTS)).split()), min_size=1, max_size=8).map(" ".join),
    st.text(max_size=40),
)


@dataclass(repr=False)
class Tenancy:
    """One filled tenant and the loop it lives on."""

    runner: asyncio.Runner
    recall: Recall
    call: Call
    memories: dict[MemoryId, Memory]

    def ask(self, text: str, *, limit: int = 128, offset: int = 0, cut: float = 0.0, **where: Any) -> RecallPage:
        chosen = MemoryFilter(**({"spaces": frozenset({self.call.principal.personal_space_id})} | where))
        request = RecallRequest(text=text, where=chosen, limit=limit, offset=offset, min_relevance=cut)
        return self.runner.run(self.recall.search(self.call, request))


def _account(number: int) -> NewAccount:
    def made(kind: int) -> str:
        return f"018f0000-000{kind}-7000-8000-{number:012x}"

    tenant = Tenant(id=TenantId(made(0)), name=f"{number}", plan=PLAN.name, is_active=True, created_at=START)
    space = Space(id=SpaceId(made(1)), kind=SpaceKind.PERSONAL, name="own", is_restricted=True, created_at=START)
    user = User(id=UserId(made(2)), tenant_id=tenant.id, name="someone", personal_space_id=space.id, created_at=START)
    key = Key(
        id=KeyId(made(3)),
        tenant_id=tenant.id,
        user_id=user.id,
        name="key",
        prefix="pm_",
        scopes=frozenset(Scope),
        allowed_spaces=None,
        created_at=START,
        expires_at=None,
        revoked_at=None,
    )
    return NewAccount(tenant=tenant, user=user, space=space, key=key, key_hash=number.to_bytes(32, "big"))


def _memories(account: NewAccount) -> list[Memory]:
    contents = [f"{subject} {fact}" for subject in SUBJECTS for fact in FACTS]
    return [
        Memory(
            id=MemoryId(f"018f0000-0009-7000-8000-{number:012x}"),
            space_id=account.space.id,
            content=content,
            memory_type=MemoryType.PINNED if number % 5 == 0 else MemoryType.INSIGHT,
            state=MemoryState.ARCHIVED if number % 7 == 0 else MemoryState.ACTIVE,
            tags=tuple(tag for bit, tag in enumerate(TAGS) if number >> bit & 1),
            metadata=None,
            source=None,
            agent_id=None,
            session_id=f"session {number % 3}",
            turn=None,
            created_by=account.user.id,
            updated_by=None,
            superseded_by=None,
            derived_from=(),
            version=1,
            revision=1,
            created_at=START + timedelta(days=number),
            updated_at=START + timedelta(days=number),
        )
        for number, content in enumerate(contents)
    ]


async def _opened(stack: AsyncExitStack, directory: Path) -> tuple[Recall, Call, dict[MemoryId, Memory]]:
    storage = await SqliteStorage.open(directory, owns_directory=False, reader_count=1)
    stack.push_async_callback(storage.close)
    embedder = LocalEmbedder.open()
    stack.push_async_callback(embedder.close)
    account = _account(1)
    await storage.directory.create_account(account)
    memories = _memories(account)
    # One memory was replaced by the next, which says the same of another subject.
    memories[1] = replace(memories[1], superseded_by=memories[2].id)
    entries = await Indexer(embedder).entries(memories)
    puts = [PutMemory(memory=memory, index=entry) for memory, (entry, _) in zip(memories, entries, strict=True)]
    await storage.tenant(account.tenant.id).commit(puts, now=START)
    principal = Principal(
        tenant_id=account.tenant.id,
        user_id=account.user.id,
        key_id=account.key.id,
        personal_space_id=account.space.id,
        scopes=frozenset(Scope),
        allowed_spaces=None,
        plan=PLAN,
    )
    call = Call(principal=principal, request_id="law")
    return Recall(storage, embedder, Access(storage)), call, {memory.id: memory for memory in memories}


@pytest.fixture(scope="module")
def tenancy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenancy]:
    """A tenant of forty-two memories that no test changes."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            recall, call, memories = runner.run(_opened(stack, tmp_path_factory.mktemp("laws") / "data"))
            yield Tenancy(runner, recall, call, memories)
        finally:
            runner.run(stack.aclose())


@LAWS
@given(text=questions)
def test_the_same_question_gets_the_same_answer(tenancy: Tenancy, text: str) -> None:
    assert tenancy.ask(text) == tenancy.ask(text)


@LAWS
@given(text=questions, size=st.integers(1, 15))
def test_pages_together_are_the_whole_answer(tenancy: Tenancy, text: str, size: int) -> None:
    whole = tenancy.ask(text)
    pages = [tenancy.ask(text, limit=size, offset=at) for at in range(0, whole.total + size, size)]
    assert tuple(hit for page in pages for hit in page.hits) == whole.hits
    assert {page.total for page in pages} == {whole.total} == {len(whole.hits)}


@LAWS
@given(text=questions)
def test_hits_are_distinct_and_fall_in_score_and_relevance(tenancy: Tenancy, text: str) -> None:
    hits = tenancy.ask(text).hits
    assert len({hit.memory.id for hit in hits}) == len(hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert [hit.relevance for hit in hits] == sorted((hit.relevance for hit in hits), reverse=True)
    assert all(0 <= hit.relevance <= 1 for hit in hits)


@LAWS
@given(text=questions, cut=st.floats(0, 1))
def test_a_cut_keeps_the_head_of_the_answer(tenancy: Tenancy, text: str, cut: float) -> None:
    whole, above = tenancy.ask(text), tenancy.ask(text, cut=cut)
    assert above.hits == tuple(hit for hit in whole.hits if hit.relevance >= cut)
    assert above.total == len(above.hits)


@LAWS
@given(
    text=questions,
    tags=st.sets(st.sampled_from(TAGS)).map(lambda found: tuple(sorted(found))),
    states=st.none() | st.frozensets(st.sampled_from([MemoryState.ACTIVE, MemoryState.ARCHIVED])),
    types=st.none() | st.frozensets(st.sampled_from([MemoryType.PINNED, MemoryType.INSIGHT])),
)
def test_a_filter_leaves_the_rest_in_order(
    tenancy: Tenancy,
    text: str,
    tags: tuple[str, ...],
    states: frozenset[MemoryState] | None,
    types: frozenset[MemoryType] | None,
) -> None:
    def passes(memory: Memory) -> bool:
        return (
            set(tags) <= set(memory.tags)
            and (states is None or memory.state in states)
            and (types is None or memory.memory_type in types)
        )

    whole = tenancy.ask(text, states=None)
    found = tenancy.ask(text, tags=tags, states=states, memory_types=types)
    expected = [hit.memory.id for hit in whole.hits if passes(hit.memory)]
    replaced = {memory.id for memory in tenancy.memories.values() if memory.superseded_by is not None}
    assert [hit.memory.id for hit in found.hits if hit.memory.id not in replaced] == [
        memory_id for memory_id in expected if memory_id not in replaced
    ]
    assert {hit.memory.id for hit in found.hits} == set(expected)


@LAWS
@given(text=questions)
def test_what_was_replaced_never_stands_above_its_replacement(tenancy: Tenancy, text: str) -> None:
    ids = [hit.memory.id for hit in tenancy.ask(text, states=None).hits]
    for memory in tenancy.memories.values():
        if memory.superseded_by in ids and memory.id in ids:
            assert ids.index(memory.id) > ids.index(memory.superseded_by)


@LAWS
@given(number=st.integers(0, len(SUBJECTS) * len(FACTS) - 1))
def test_a_memory_is_the_first_answer_to_its_own_text(tenancy: Tenancy, number: int) -> None:
    memory = list(tenancy.memories.values())[number]
    if memory.superseded_by is None:
        assert tenancy.ask(memory.content, states=None).hits[0].memory.content == memory.content
