"""Memories written, changed and deleted by a client."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from polymem.domain.model import ContentType, Memory, MemoryId, MemoryState, MemoryType, Plan, Role, Scope, SpaceKind
from polymem.domain.query import ListOrder, MemoryFilter
from polymem.engine.commits import commit, internal_claim
from polymem.engine.requests import MemoryPatch, NewAtom, NewMemory, NewTurn, NewTurns
from polymem.engine.write import MAX_UPDATE_TRIES
from polymem.errors import (
    Conflict,
    Forbidden,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    TooLarge,
    VersionConflict,
)
from polymem.ports.changes import AddJob, AlreadyDeleted, Audit, Change, Deleted, DeleteMemory, UpdateMemory

ABSENT: Any = "0190b4a0-0000-7000-8000-000000000000"


async def write(world: Any, content: str = "the sky is blue", key: str | None = None, **fields: Any) -> Memory:
    memory: Memory = (await world.engine.write.memory(world.call(key), NewMemory(content=content, **fields))).memory
    return memory


class Recorder:
    """Keeps the changes of each commit."""

    def __init__(self) -> None:
        self.commits: list[list[Change]] = []

    async def __call__(self, changes: Sequence[Change]) -> None:
        self.commits.append(list(changes))

    def audits(self) -> list[tuple[str, str]]:
        return [(one.action, one.target) for made in self.commits for one in made if isinstance(one, Audit)]

    def jobs(self) -> list[Any]:
        return [one.job for made in self.commits for one in made if isinstance(one, AddJob)]


async def test_a_written_memory_is_stored_word_for_word_and_found_at_once(world: Any) -> None:
    said = datetime(2024, 1, 2, 3, tzinfo=timezone(timedelta(hours=1)))
    new = NewMemory(
        content="  Zoë likes café crème\n",
        memory_type=MemoryType.PINNED,
        tags=("a", "b"),
        metadata={"k": [1, None]},
        source="agent",
        agent_id="agent",
        session_id="session",
        created_at=said,
    )
    written = await world.engine.write.memory(world.call(), new)
    assert written.is_new
    assert written.memory == Memory(
        id=written.memory.id,
        space_id=world.principal.personal_space_id,
        content="  Zoë likes café crème\n",
        memory_type=MemoryType.PINNED,
        state=MemoryState.ACTIVE,
        tags=("a", "b"),
        metadata={"k": [1, None]},
        source="agent",
        agent_id="agent",
        session_id="session",
        turn=None,
        created_by=world.principal.user_id,
        updated_by=None,
        superseded_by=None,
        derived_from=(),
        version=1,
        revision=1,
        created_at=said.astimezone(UTC),
        updated_at=world.clock.now(),
        concepts=("a", "b"),
    )
    assert await world.engine.read.get(world.call(), written.memory.id) == written.memory
    where = MemoryFilter(spaces=frozenset({world.principal.personal_space_id}))
    page = await world.engine.read.list(world.call(), where, limit=10)
    assert (page.memories, page.total) == ((written.memory,), 1)


@pytest.mark.parametrize(
    ("new", "field"),
    [
        (NewMemory(content=""), "content"),
        (NewMemory(content="x", memory_type=MemoryType.SESSION), "memory_type"),
        (NewMemory(content="x", tags=("",)), "tags"),
        (NewMemory(content="x", metadata="\x00"), "metadata"),
        (NewMemory(content="x", source=""), "source"),
        (NewMemory(content="x", agent_id=""), "agent_id"),
        (NewMemory(content="x", session_id="\ud800"), "session_id"),
        (NewMemory(content="x", created_at=datetime(2024, 1, 1)), "created_at"),  # noqa: DTZ001 - naive on purpose
    ],
)
async def test_what_breaks_a_rule_is_refused_by_field_and_nothing_is_stored(
    world: Any, new: NewMemory, field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await world.engine.write.memory(world.call(), new)
    assert caught.value.field == field
    assert await world.store.count_memories() == 0


async def test_content_beyond_a_mebibyte_is_too_large(world: Any) -> None:
    with pytest.raises(TooLarge):
        await write(world, "x" * (1024 * 1024 + 1))


async def test_a_retry_under_the_same_key_gets_what_the_first_call_wrote(world: Any) -> None:
    first = await world.engine.write.memory(world.call("key"), NewMemory(content="x"))
    second = await world.engine.write.memory(world.call("key"), NewMemory(content="x"))
    assert (second.memory, second.is_new) == (first.memory, False)
    assert await world.store.count_memories() == 1
    await world.engine.write.update(world.call(), first.memory.id, MemoryPatch(content="y"))
    third = await world.engine.write.memory(world.call("key"), NewMemory(content="x"))
    assert (third.memory.content, third.memory.version) == ("y", 2)


async def test_a_retry_after_the_memory_was_deleted_tells_what_was_written_and_stores_nothing(world: Any) -> None:
    first = await write(world, key="key")
    await world.engine.write.delete(world.call(), first.id)
    again = await world.engine.write.memory(world.call("key"), NewMemory(content=first.content))
    assert (again.memory, again.is_new) == (first, False)
    assert await world.store.count_memories() == 0


async def test_a_key_used_for_another_request_is_a_conflict(world: Any) -> None:
    await write(world, key="key")
    with pytest.raises(IdempotencyConflict):
        await world.engine.write.memory(world.call("key", digest="other"), NewMemory(content="y"))


async def test_a_key_that_did_other_work_under_the_same_digest_is_a_conflict(world: Any) -> None:
    memory = await write(world)
    await world.engine.write.delete(world.call("key"), memory.id)
    with pytest.raises(Conflict, match="did other work"):
        await write(world, key="key")


async def test_keys_of_different_users_never_meet(world: Any) -> None:
    await write(world, key="key")
    other = await world.engine.accounts.create_user(world.account.tenant.id, "other")
    call = world.call("key", user_id=other.id, personal_space_id=other.personal_space_id)
    assert (await world.engine.write.memory(call, NewMemory(content="y"))).is_new


async def test_beyond_the_plan_nothing_is_stored(world: Any) -> None:
    plan = Plan(name="p", requests_per_minute=1, burst=1, max_memories=1)
    call = world.call(plan=plan)
    await world.engine.write.memory(call, NewMemory(content="x"))
    with pytest.raises(QuotaExceeded, match="1 memories"):
        await world.engine.write.memory(call, NewMemory(content="y"))
    assert await world.store.count_memories() == 1


async def test_without_a_model_the_memory_is_stored_and_its_vectors_are_a_job(world: Any) -> None:
    recorder = Recorder()
    world.storage.before_commit = recorder
    world.embedder.problem = "no model file"
    memory = await write(world)
    (job,) = recorder.jobs()
    assert job.payload == {"memory_ids": [memory.id]}
    assert world.engine.jobs_queued.is_set()
    world.engine.jobs_queued.clear()
    await world.engine.write.update(world.call(), memory.id, MemoryPatch(content="other"))
    assert [job.payload for job in recorder.jobs()] == [{"memory_ids": [memory.id]}] * 2
    assert world.engine.jobs_queued.is_set()


async def test_a_text_with_few_chunks_needs_no_job(world: Any) -> None:
    recorder = Recorder()
    world.storage.before_commit = recorder
    await write(world)
    assert recorder.jobs() == []
    assert not world.engine.jobs_queued.is_set()


async def test_an_update_moves_the_version_by_one_and_keeps_the_earlier_state(world: Any) -> None:
    memory = await write(world, tags=("a",), metadata={"k": 1})
    world.clock.pass_time(seconds=5)
    patch = MemoryPatch(content="grey", updated_by="agent", expected_version=1)
    updated = await world.engine.write.update(world.call(), memory.id, patch)
    assert updated == replace(
        memory, content="grey", updated_by="agent", version=2, revision=2, updated_at=world.clock.now()
    )
    assert await world.engine.read.get(world.call(), memory.id) == updated
    (version,) = await world.engine.read.versions(world.call(), memory.id)
    assert (version.memory, version.replaced_by, version.reason) == (memory, "agent", "update")
    tagged = await world.engine.write.update(world.call(), memory.id, MemoryPatch(tags=(), metadata=[2]))
    assert (tagged.version, tagged.tags, tagged.metadata, tagged.content) == (3, (), [2], "grey")


async def test_a_patch_that_names_nothing_changes_nothing(world: Any) -> None:
    memory = await write(world)
    assert await world.engine.write.update(world.call(), memory.id, MemoryPatch(updated_by="agent")) == memory
    assert await world.engine.read.versions(world.call(), memory.id) == ()


async def test_a_stale_guard_changes_nothing(world: Any) -> None:
    memory = await write(world)
    with pytest.raises(VersionConflict, match="expected 7, current is 1"):
        await world.engine.write.update(world.call(), memory.id, MemoryPatch(content="y", expected_version=7))
    with pytest.raises(VersionConflict):
        await world.engine.write.update(world.call("key"), memory.id, MemoryPatch(content="y", expected_version=7))
    assert await world.engine.read.get(world.call(), memory.id) == memory
    assert (await world.engine.write.update(world.call("key"), memory.id, MemoryPatch(content="y"))).version == 2


async def test_concepts_follow_the_tags_they_were_made_of_or_the_text_they_stood_in(world: Any) -> None:
    tagged = await write(world, "The ferry leaves at nine", tags=("travel",))
    renamed = await world.engine.write.update(world.call(), tagged.id, MemoryPatch(tags=("trips", "sea")))
    assert renamed.concepts == ("trips", "sea")
    moved = await world.engine.write.update(world.call(), tagged.id, MemoryPatch(content="The train leaves at ten"))
    assert moved.concepts == ("trips", "sea")
    kept = await world.engine.remember.one(world.call(), NewAtom(content="The bus to Berlin", concepts=("bus", "trip")))
    changed = await world.engine.write.update(world.call(), kept.memory.id, MemoryPatch(content="The tram to Berlin"))
    assert changed.concepts == ("trip",)
    noted = await world.engine.write.update(world.call(), kept.memory.id, MemoryPatch(metadata={"k": 1}))
    assert noted.concepts == ("trip",)
    space = frozenset({world.principal.personal_space_id})
    assert await world.store.count_concepts(["travel", "sea", "bus", "trip"], space) == {"sea": 1, "trip": 1}


async def test_a_guarded_update_sent_again_under_its_key_is_done_once(world: Any) -> None:
    memory = await write(world)
    patch = MemoryPatch(content="y", expected_version=1)
    first = await world.engine.write.update(world.call("key"), memory.id, patch)
    assert await world.engine.write.update(world.call("key"), memory.id, patch) == first
    unguarded = replace(patch, expected_version=None)
    assert (await world.engine.write.update(world.call("key"), memory.id, unguarded)).version == 2


@pytest.mark.parametrize(
    "patch",
    [
        MemoryPatch(content=" "),
        MemoryPatch(tags=("\x00",)),
        MemoryPatch(metadata=float("nan")),
        MemoryPatch(updated_by=""),
    ],
)
async def test_a_bad_patch_is_refused(world: Any, patch: MemoryPatch) -> None:
    memory = await write(world)
    with pytest.raises(InvalidInput):
        await world.engine.write.update(world.call(), memory.id, patch)


async def test_an_update_of_nothing_is_not_found(world: Any) -> None:
    with pytest.raises(NotFound):
        await world.engine.write.update(world.call(), MemoryId(ABSENT), MemoryPatch(content="y"))


async def test_two_updates_at_once_both_count(world: Any) -> None:
    memory = await write(world)
    rivals = iter(range(3))

    async def interfere() -> None:
        world.embedder.before = None
        if next(rivals, None) is not None:
            await world.engine.write.update(world.call(), memory.id, MemoryPatch(tags=("rival",)))
            world.embedder.before = interfere

    world.embedder.before = interfere
    updated = await world.engine.write.update(world.call(), memory.id, MemoryPatch(content="y"))
    assert (updated.version, updated.content, updated.tags) == (5, "y", ("rival",))


async def test_a_guard_that_goes_stale_while_the_model_works_is_a_conflict(world: Any) -> None:
    memory = await write(world)

    async def interfere() -> None:
        world.embedder.before = None
        await world.engine.write.update(world.call(), memory.id, MemoryPatch(tags=("rival",)))

    world.embedder.before = interfere
    with pytest.raises(VersionConflict):
        await world.engine.write.update(world.call(), memory.id, MemoryPatch(content="y", expected_version=1))
    assert (await world.engine.read.get(world.call(), memory.id)).tags == ("rival",)


async def test_an_update_that_never_gets_its_turn_gives_up(world: Any) -> None:
    memory = await write(world)
    is_rival = False

    async def interfere(changes: Sequence[Change]) -> None:
        nonlocal is_rival
        if not is_rival and isinstance(changes[0], UpdateMemory):
            is_rival = True
            await world.engine.write.update(world.call(), memory.id, MemoryPatch(tags=("rival",)))
            is_rival = False

    world.storage.before_commit = interfere
    with pytest.raises(Conflict, match="keeps changing"):
        await world.engine.write.update(world.call(), memory.id, MemoryPatch(content="y"))
    world.storage.before_commit = None
    assert (await world.engine.read.get(world.call(), memory.id)).version == MAX_UPDATE_TRIES + 1


async def test_an_update_of_what_is_deleted_meanwhile_is_not_found(world: Any) -> None:
    memory = await write(world)

    async def interfere() -> None:
        world.embedder.before = None
        await world.engine.write.delete(world.call(), memory.id)

    world.embedder.before = interfere
    with pytest.raises(NotFound):
        await world.engine.write.update(world.call(), memory.id, MemoryPatch(content="y"))


async def test_a_deleted_memory_is_gone_and_deleting_again_says_so(world: Any) -> None:
    memory = await write(world)
    assert await world.engine.write.delete(world.call("key"), memory.id) == Deleted(memory.id)
    assert await world.engine.write.delete(world.call("key"), memory.id) == AlreadyDeleted(memory.id)
    with pytest.raises(NotFound):
        await world.engine.read.get(world.call(), memory.id)
    with pytest.raises(NotFound):
        await world.engine.read.versions(world.call(), memory.id)
    with pytest.raises(NotFound):
        await world.engine.write.delete(world.call(), MemoryId(ABSENT))


async def test_of_two_deletes_at_once_one_finds_it_gone(world: Any) -> None:
    memory = await write(world)

    async def interfere(changes: Sequence[Change]) -> None:
        world.storage.before_commit = None
        assert isinstance(changes[0], DeleteMemory)
        await world.engine.write.delete(world.call(), memory.id)

    world.storage.before_commit = interfere
    assert await world.engine.write.delete(world.call(), memory.id) == AlreadyDeleted(memory.id)


async def test_deleting_many_counts_what_was_there(world: Any) -> None:
    kept, first, second = [(await write(world, f"m {number}")).id for number in range(3)]
    await world.engine.write.delete(world.call(), first)
    ids = [first, second, second, MemoryId(ABSENT)]
    assert await world.engine.write.delete_many(world.call(), ids) == 1
    assert await world.engine.write.delete_many(world.call(), []) == 0
    assert (await world.engine.read.get(world.call(), kept)).content == "m 0"
    with pytest.raises(TooLarge):
        await world.engine.write.delete_many(world.call(), [MemoryId(ABSENT)] * 1001)


async def test_deleting_many_that_fails_between_its_commits_is_finished_by_a_retry(world: Any) -> None:
    turns = tuple(NewTurn(role="user", content=f"turn {number}") for number in range(201))
    ids = (await world.engine.ingest.messages(world.call(), NewTurns(turns=turns))).memory_ids
    commits = 0

    async def fail_second(_: Sequence[Change]) -> None:
        nonlocal commits
        commits += 1
        if commits == 2:
            raise RuntimeError

    world.storage.before_commit = fail_second
    with pytest.raises(RuntimeError):
        await world.engine.write.delete_many(world.call("key"), ids)
    assert await world.store.count_memories() == 151
    world.storage.before_commit = None
    assert await world.engine.write.delete_many(world.call("key"), ids) == 201
    assert await world.engine.write.delete_many(world.call("key"), ids) == 201
    assert await world.store.count_memories() == 0


async def test_every_change_leaves_an_audit_entry(world: Any) -> None:
    recorder = Recorder()
    world.storage.before_commit = recorder
    memory = await write(world)
    await world.engine.write.update(world.call(), memory.id, MemoryPatch(content="y"))
    await world.engine.ingest.messages(
        world.call(), NewTurns(turns=(NewTurn(role="user", content="hi"),), session_id="s")
    )
    await world.engine.write.delete(world.call(), memory.id)
    assert recorder.audits() == [
        ("memory.create", memory.id),
        ("memory.update", memory.id),
        ("turns.ingest", "s"),
        ("memory.delete", memory.id),
    ]


async def test_lists_filter_order_and_page_within_their_limits(world: Any) -> None:
    own = world.principal.personal_space_id
    hub = await world.space(SpaceKind.HUB, Role.OWNER)
    for number in range(3):
        world.clock.pass_time(seconds=1)
        await write(world, f"m {number}", tags=("even",) if number % 2 == 0 else ())
    await write(world, "elsewhere", space_id=hub)
    where = MemoryFilter(spaces=frozenset({own}), tags=("even",))
    page = await world.engine.read.list(world.call(), where, order=ListOrder.CREATED_NEWEST, limit=1, offset=1)
    assert ([memory.content for memory in page.memories], page.total) == (["m 0"], 2)
    for limit, offset in ((0, 0), (1001, 0), (1, -1), (1, 1_000_001)):
        with pytest.raises(InvalidInput):
            await world.engine.read.list(world.call(), where, limit=limit, offset=offset)


async def test_session_messages_come_in_order_from_the_readable_spaces(world: Any) -> None:
    hub = await world.space(SpaceKind.HUB, Role.OWNER)
    for space_id, content in ((None, "own"), (hub, "hub")):
        turns = (NewTurn(role="user", content=content, content_type=ContentType.TEXT),)
        await world.engine.ingest.messages(world.call(), NewTurns(turns=turns, session_id="s", space_id=space_id))
        world.clock.pass_time(seconds=1)
    read = world.engine.read

    async def contents(ids: list[str], **given: Any) -> list[str]:
        return [one.content for one in await read.session_messages(world.call(), ids, limit_per_session=9, **given)]

    assert await contents(["s", "s", "unknown"]) == ["own", "hub"]
    assert await contents(["s"], spaces=frozenset({hub})) == ["hub"]
    assert await contents(["s"], spaces=frozenset()) == []
    assert await contents([]) == []
    with pytest.raises(InvalidInput):
        await read.session_messages(world.call(), ["s"], limit_per_session=0)
    with pytest.raises(TooLarge):
        await read.session_messages(world.call(), ["s"] * 1001, limit_per_session=1)


async def test_a_port_that_refuses_a_commit_without_guards_is_broken(world: Any) -> None:
    memory = await write(world)
    guarded = UpdateMemory(
        memory=memory,
        index=(await world.engine.write._indexer.entry(memory))[0],
        expected_revision=9,
        replaced_by=None,
        reason="r",
    )
    with pytest.raises(AssertionError, match="without a guard"):
        await commit(world.store, [guarded], now=world.clock.now(), claim=internal_claim("x"))


async def test_a_key_that_may_not_read_learns_nothing_by_an_update(world: Any) -> None:
    made = (await world.engine.write.memory(world.call(), NewMemory(content="secret"))).memory
    blind = world.call(scopes=frozenset({Scope.WRITE}))
    with pytest.raises(Forbidden):
        await world.engine.write.update(blind, made.id, MemoryPatch())
    with pytest.raises(Forbidden):
        await world.engine.write.update(blind, made.id, MemoryPatch(content="other"))
    assert (await world.engine.read.get(world.call(), made.id)).content == "secret"
