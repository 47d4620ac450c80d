"""Laws of recall over the real storage and the real model: determinism, paging, filters, cuts, order, isolation."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from polymem.domain.model import (
    Call,
    ContentType,
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
    Turn,
    User,
    UserId,
)
from polymem.domain.query import MemoryFilter, RecallPage, RecallRequest
from polymem.domain.text import is_mostly_latin
from polymem.engine.access import Access
from polymem.engine.indexing import Indexer
from polymem.engine.recall import Recall
from polymem.inference.embedder import LocalEmbedder
from polymem.ports.changes import PutMemory
from polymem.ports.directory import NewAccount
from polymem.storage.sqlite.storage import SqliteStorage

START = datetime(2024, 1, 1, tzinfo=UTC)
ASKED_AT = datetime(2024, 3, 1, 12, tzinfo=UTC)
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
# Who said it, in which session; the last two speak in a chat.
TURNS = (
    ("Ada", "talk", "What did you do last week?"),
    ("Ben", "talk", "I went to the lake with Caroline"),
    ("Ada", "talk", "How lovely! I was in Berlin yesterday"),
    ("Ben", "talk", "Two weeks ago I was there too"),
    ("Ada", "other talk", "My cat Milo is ill since March 2024"),
    ("Ben", "other talk", "Poor Milo"),
    ("user", "chat", "Which database should I use?"),
    ("assistant", "chat", "PostgreSQL 15 would serve you well"),
)
TAGS = ("home", "work")
# Laws hold for every example of one long-lived tenant: nothing is written after the fixture.
LAWS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

questions = st.one_of(
    st.sampled_from(
        [
            "where does Ada live",
            "cat",
            "postgres",
            "who paints?",
            "Marvin battery",
            "the",
            "🎉",
            "May 2024",
            "What did Ben do two weeks ago?",
            "What did you recommend to me yesterday?",
            "where did Ada live before January 2024",
            "cat since last week, in March 2024, on Monday",
        ]
    ),
    st.lists(st.sampled_from(" ".join((*SUBJECTS, *FACTS)).split()), min_size=1, max_size=8).map(" ".join),
    st.text(max_size=40),
)
# Any code point: lone surrogates and NUL too.
anything = st.lists(
    st.one_of(
        st.characters(),
        st.characters(categories=["Cs", "Cc", "Co", "Cn"]),
        st.sampled_from(
            ["\u6211\u559c\u6b22", "\u0623\u062d\u0628", "\N{WHITE SMILING FACE}\ufe0f", '"', "NEAR(", "*", " "]
        ),
    ),
    max_size=60,
).map("".join)


@dataclass(repr=False)
class Tenancy:
    """One filled tenant and the loop it lives on."""

    runner: asyncio.Runner
    recall: Recall
    call: Call
    memories: dict[MemoryId, Memory]
    other: Call
    shuffled: Call

    def ask(self, text: str, *, limit: int = 128, offset: int = 0, cut: float = 0.0, **given: Any) -> RecallPage:
        call, trace = given.pop("call", self.call), given.pop("trace", False)
        chosen = MemoryFilter(**({"spaces": frozenset({call.principal.personal_space_id})} | given))
        request = RecallRequest(
            text=text, where=chosen, limit=limit, offset=offset, min_relevance=cut, trace=trace, reference_at=ASKED_AT
        )
        return self.runner.run(self.recall.search(call, request))


class Stopped:
    """A clock that stands still."""

    def now(self) -> datetime:
        return ASKED_AT

    def monotonic(self) -> float:
        return 0.0


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
    notes = [_memory(account, number, content) for number, content in enumerate(contents)]
    # One memory was replaced by the next, which says the same of another subject.
    notes[1] = replace(notes[1], superseded_by=notes[2].id)
    turns = [
        replace(
            _memory(account, len(notes) + seq, content),
            memory_type=MemoryType.SESSION,
            session_id=session,
            turn=Turn(role=role, seq=seq, content_type=ContentType.TEXT),
        )
        for seq, (role, session, content) in enumerate(TURNS)
    ]
    return notes + turns


def _memory(account: NewAccount, number: int, content: str) -> Memory:
    return Memory(
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


async def _filled(
    storage: SqliteStorage, embedder: LocalEmbedder, number: int, shuffler: Random | None = None
) -> tuple[Call, list[Memory]]:
    """A tenant with all memories, perhaps written one by one in another order, and a call of its owner."""
    account = _account(number)
    await storage.directory.create_account(account)
    memories = _memories(account)
    entries = await Indexer(embedder).entries(memories)
    puts = [PutMemory(memory=memory, index=entry) for memory, (entry, _) in zip(memories, entries, strict=True)]
    store = storage.tenant(account.tenant.id)
    if shuffler is None:
        await store.commit(puts, now=START)
    else:
        shuffler.shuffle(puts)
        for put in puts:
            await store.commit([put], now=START)
    principal = Principal(
        tenant_id=account.tenant.id,
        user_id=account.user.id,
        key_id=account.key.id,
        personal_space_id=account.space.id,
        scopes=frozenset(Scope),
        allowed_spaces=None,
        plan=PLAN,
    )
    return Call(principal=principal, request_id="law"), memories


async def _opened(stack: AsyncExitStack, directory: Path) -> tuple[Recall, Call, dict[MemoryId, Memory], Call, Call]:
    storage = await SqliteStorage.open(directory, owns_directory=False, reader_count=1)
    stack.push_async_callback(storage.close)
    embedder = LocalEmbedder.open()
    stack.push_async_callback(embedder.close)
    call, memories = await _filled(storage, embedder, 1)
    other, _ = await _filled(storage, embedder, 2)
    shuffled, _ = await _filled(storage, embedder, 3, Random(7))
    recall = Recall(storage, embedder, Access(storage), clock=Stopped())
    return recall, call, {memory.id: memory for memory in memories}, other, shuffled


@pytest.fixture(scope="module")
def tenancy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenancy]:
    """A tenant of fifty memories that no test changes, beside two more that hold the same."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            yield Tenancy(runner, *runner.run(_opened(stack, tmp_path_factory.mktemp("laws") / "data")))
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


filters = st.fixed_dictionaries(
    {},
    optional={
        "tags": st.sets(st.sampled_from(TAGS)).map(lambda found: tuple(sorted(found))),
        "states": st.none() | st.frozensets(st.sampled_from([MemoryState.ACTIVE, MemoryState.ARCHIVED])),
        "memory_types": st.none() | st.frozensets(st.sampled_from(list(MemoryType))),
        "session_ids": st.none() | st.frozensets(st.sampled_from(["talk", "chat", "session 1", "nowhere"])),
        "created_from_at": st.none() | st.integers(0, 50).map(lambda days: START + timedelta(days=days)),
        "created_until_at": st.none() | st.integers(0, 50).map(lambda days: START + timedelta(days=days)),
    },
)


def _passes(memory: Memory, where: dict[str, Any]) -> bool:
    states = where.get("states", frozenset({MemoryState.ACTIVE}))
    types, sessions = where.get("memory_types"), where.get("session_ids")
    from_at, until_at = where.get("created_from_at"), where.get("created_until_at")
    return all(
        (
            set(where.get("tags", ())) <= set(memory.tags),
            states is None or memory.state in states,
            types is None or memory.memory_type in types,
            sessions is None or memory.session_id in sessions,
            from_at is None or memory.created_at >= from_at,
            until_at is None or memory.created_at < until_at,
        )
    )


@LAWS
@given(text=questions, where=filters)
def test_every_hit_passes_the_filter(tenancy: Tenancy, text: str, where: dict[str, Any]) -> None:
    assert all(_passes(hit.memory, where) for hit in tenancy.ask(text, **where).hits)


@LAWS
@given(text=questions, where=filters)
def test_a_stricter_filter_leaves_the_hits_that_pass_it(tenancy: Tenancy, text: str, where: dict[str, Any]) -> None:
    # A question that the model cannot read has hits by its words, and the turns beside these: other ones when the
    # filter takes the nearest away.
    assume(is_mostly_latin(text))
    whole, found = tenancy.ask(text, states=None), tenancy.ask(text, **where)
    assert {hit.memory.id for hit in found.hits} == {hit.memory.id for hit in whole.hits if _passes(hit.memory, where)}


@LAWS
@given(text=questions)
def test_the_parts_of_a_score_add_up_to_it(tenancy: Tenancy, text: str) -> None:
    for hit in tenancy.ask(text, trace=True).hits:
        assert sum(value for _, value in hit.trace.parts) == pytest.approx(hit.score)
        assert all(value for _, value in hit.trace.parts)


@LAWS
@given(text=questions)
def test_a_trace_changes_no_hit(tenancy: Tenancy, text: str) -> None:
    plain, traced = tenancy.ask(text), tenancy.ask(text, trace=True)
    assert replace(traced, hits=()) == replace(plain, hits=())
    for hit, also in zip(plain.hits, traced.hits, strict=True):
        assert replace(also, trace=replace(also.trace, words=())) == hit


@LAWS
@given(text=questions)
def test_the_order_in_which_memories_were_written_does_not_matter(tenancy: Tenancy, text: str) -> None:
    one, other = tenancy.ask(text), tenancy.ask(text, call=tenancy.shuffled)
    assert [(hit.memory.id, hit.score) for hit in one.hits] == [(hit.memory.id, hit.score) for hit in other.hits]


@LAWS
@given(text=questions)
def test_two_tenants_never_meet(tenancy: Tenancy, text: str) -> None:
    both = frozenset({tenancy.call.principal.personal_space_id, tenancy.other.principal.personal_space_id})
    for call in (tenancy.call, tenancy.other):
        own = call.principal.personal_space_id
        page = tenancy.ask(text, call=call, spaces=both)
        assert {hit.memory.space_id for hit in page.hits} <= {own}
        assert page == tenancy.ask(text, call=call)
        assert tenancy.ask(text, call=call, spaces=both - {own}).total == 0


@LAWS
@given(text=anything)
@example(text="\ud800")
@example(text="\x00 cat \udfff\x00")
@example(text="\U0010ffff" * 60)
@example(text="\u0663 days ago \u0130\u1e9e\ufb03")
def test_any_question_gets_an_answer(tenancy: Tenancy, text: str) -> None:
    for trace in (False, True):
        page = tenancy.ask(text, trace=trace)
        assert page.total == len(page.hits)
        assert all(0 <= hit.relevance <= 1 for hit in page.hits)
        assert all(left.score >= right.score for left, right in pairwise(page.hits))


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
