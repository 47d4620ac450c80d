"""Texts kept when they are news, over real storages; the vectors here are the words of a text, and nothing else."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from desk import Desk, desk_of, reading_desk
from polymem.domain.model import Job, MemoryId, MemoryState, Plan, Role, Scope, SpaceId
from polymem.engine.requests import Filtered, NewAtom, NewMemory, Remembered
from polymem.errors import (
    Conflict,
    Forbidden,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    TooLarge,
)
from polymem.ports.changes import AddJob, Associate, Audit, Change, DeleteMemory, PutMemory, SetMember

ABSENT = MemoryId("0190b4a0-0000-7000-8000-000000000000")
PORT = "The staging database of the shop listens on port 5432"
OTHER_PORT = "The staging database of the shop listens on port 5433"


@pytest.fixture
def desk(world: Any) -> Desk:
    return reading_desk(world)


def limited(most: int) -> Plan:
    return Plan(name="small", requests_per_minute=60, burst=60, max_memories=most)


async def test_a_new_text_is_kept_with_all_that_was_said_of_it(desk: Desk) -> None:
    result = await desk.kept(
        PORT, domain="shop", concepts=("Staging", "ports"), metadata={"a": 1}, fingerprint="f", source="s", agent_id="a"
    )
    memory = result.memory
    assert (memory.concepts, memory.metadata, memory.fingerprint) == (("Staging", "ports"), {"a": 1}, "f")
    assert (memory.source, memory.agent_id, memory.version, memory.valence) == ("s", "a", 1, 0.0)
    assert 0.5 < memory.importance <= 1.0
    assert result.is_new
    assert result.reason == f"novel insight: nothing here is like it (importance {memory.importance:.3f})"
    spaces = await desk.spaces.names(desk.world.call())
    assert spaces[memory.space_id] == "shop"
    assert await desk.world.store.get_memories([memory.id], frozenset(spaces)) == {memory.id: memory}


async def test_concepts_are_read_from_a_text_that_comes_without_and_the_known_ones_come_first(desk: Desk) -> None:
    await desk.kept("Blue whales sing low songs", concepts=("blue whale",))
    memory = (await desk.kept("Near Iceland a blue whale was heard by the research vessel Polaris")).memory
    assert memory.concepts[0] == "blue whale"
    assert len(memory.concepts) > 1
    assert (await desk.kept("?!")).memory.concepts == ()


async def test_the_concepts_of_one_text_are_associated(desk: Desk) -> None:
    memory = (await desk.kept(PORT, concepts=("Staging", "port", "shop"))).memory
    owned = (await desk.world.store.owned_associations([memory.id]))[memory.id]
    assert {(each.source, each.target) for each in owned} == {
        ("port", "shop"),
        ("port", "staging"),
        ("shop", "staging"),
    }


async def test_an_exact_repeat_is_refused_and_names_what_it_repeats(desk: Desk) -> None:
    first = (await desk.kept(PORT)).memory
    result = await desk.one(f"  {PORT.upper()}\n")
    assert result == Filtered(importance=0.0, reason=f"exact duplicate of {first.id}", repeats=first.id)
    assert await desk.contents() == [PORT]


async def test_a_restatement_is_below_the_threshold_and_a_correction_is_not(desk: Desk) -> None:
    first = (await desk.kept(PORT)).memory
    result = await desk.one("Port 5432: that is where the staging database of the shop listens")
    assert isinstance(result, Filtered)
    assert result.importance < 0.1
    assert result.reason == f"Below importance threshold ({result.importance:.3f} < 0.100): repeats {first.id}"
    assert result.repeats == first.id
    correction = await desk.kept(OTHER_PORT)
    assert correction.memory.importance > 0.25
    assert correction.reason.startswith(f"novel insight: it says what {first.id} does not")


async def test_without_vectors_the_words_decide(desk: Desk) -> None:
    desk.world.embedder.problem = "away"
    await desk.kept(PORT)
    assert isinstance(await desk.one("Port 5432: the staging database of the shop listens"), Filtered)
    await desk.kept(OTHER_PORT)
    await desk.kept("Breakfast is oat porridge with honey")
    await desk.kept("Breakfast is oat porridge with jam")


async def test_a_text_that_the_model_cannot_read_is_judged_by_its_letters(desk: Desk) -> None:
    await desk.kept("我每天早上喝绿茶")
    await desk.kept("我每天早上喝咖啡")
    assert isinstance(await desk.one("我每天早上喝绿茶。"), Filtered)


async def test_a_threshold_above_all_refuses_what_nothing_is_like(world: Any) -> None:
    result = await desk_of(world, importance_threshold=1.1).one("anything at all")
    assert isinstance(result, Filtered)
    assert result.reason == f"Below importance threshold ({result.importance:.3f} < 1.100)"
    assert result.repeats is None


async def test_what_was_superseded_or_archived_or_stands_in_another_domain_is_no_repeat(desk: Desk) -> None:
    first = (await desk.kept(PORT)).memory
    await desk.kept(PORT, domain="other")
    second = (await desk.kept(OTHER_PORT, supersedes=(first.id,))).memory
    assert second.supersedes == (first.id,)
    third = (await desk.kept(PORT)).memory
    assert third.id != first.id


async def test_a_text_that_supersedes_is_kept_however_like_it_is(desk: Desk) -> None:
    first = (await desk.kept(PORT, domain="shop")).memory
    result = await desk.kept(PORT, supersedes=(first.id, first.id))
    assert result.superseded == (first.id,)
    assert result.reason.startswith("kept because it supersedes others")
    present = await desk.world.store.get_memories([first.id], frozenset({first.space_id}))
    assert present[first.id].superseded_by == result.memory.id


async def test_nothing_is_stored_when_a_superseded_memory_is_not_there_or_may_not_be_written(desk: Desk) -> None:
    with pytest.raises(NotFound) as caught:
        await desk.one(PORT, supersedes=((await desk.kept("Whales sing")).memory.id, ABSENT))
    assert (caught.value.kind, caught.value.identifier) == ("atom", ABSENT)
    first = (await desk.kept("Something else entirely", domain="shop")).memory
    await _may_only_read(desk, first.space_id)
    with pytest.raises(Forbidden):
        await desk.one(PORT, supersedes=(first.id,))
    assert await desk.contents() == ["Something else entirely", "Whales sing"]


async def _may_only_read(desk: Desk, space_id: SpaceId) -> None:
    change = SetMember(space_id=space_id, user_id=desk.world.principal.user_id, role=Role.VIEWER)
    await desk.world.store.commit([change], now=desk.world.clock.now())


async def test_a_reference_names_one_text_for_good(desk: Desk) -> None:
    first = await desk.kept(PORT, external_ref="r")
    assert first.reason.startswith("kept under its external_ref")
    again = await desk.kept(PORT, external_ref="r", domain="elsewhere")
    assert again == Remembered(memory=first.memory, reason="this external_ref named this text before", is_new=False)
    with pytest.raises(Conflict, match="names another text"):
        await desk.one(OTHER_PORT, external_ref="r")
    assert (await desk.kept(PORT, external_ref="s")).is_new
    assert await desk.contents() == [PORT, PORT]


async def test_a_key_that_may_only_write_can_repeat_its_call_and_learns_nothing_of_other_texts(desk: Desk) -> None:
    write_only = desk.world.call(scopes=frozenset({Scope.WRITE}))
    first = await desk.remember.one(write_only, NewAtom(content=PORT, external_ref="r"))
    again = await desk.remember.one(write_only, NewAtom(content=PORT, external_ref="r"))
    assert isinstance(first, Remembered)
    assert isinstance(again, Remembered)
    assert again.memory == first.memory
    with pytest.raises(Conflict):
        await desk.remember.one(write_only, NewAtom(content=PORT, external_ref="r", domain="elsewhere"))


async def test_a_reference_that_another_call_took_meanwhile_is_told_all_the_same(desk: Desk) -> None:
    async def go_before(changes: Sequence[Change]) -> None:
        if any(isinstance(change, PutMemory) for change in changes):
            desk.world.storage.before_commit = None
            await desk.kept(PORT, external_ref="r")

    desk.world.storage.before_commit = go_before
    result = await desk.kept(PORT, external_ref="r")
    assert not result.is_new
    desk.world.storage.before_commit = go_before
    with pytest.raises(Conflict):
        await desk.one(OTHER_PORT, external_ref="r")


async def test_the_reference_of_a_memory_that_was_deleted_for_good_stays_taken(desk: Desk) -> None:
    memory = (await desk.kept(PORT, external_ref="r")).memory
    spaces = frozenset({memory.space_id})
    change = DeleteMemory(memory_id=memory.id, spaces=spaces, remembers_identity=True)
    await desk.world.store.commit([change], now=desk.world.clock.now())
    with pytest.raises(Conflict, match="deleted for good"):
        await desk.one(PORT, external_ref="r")


async def test_the_same_text_by_two_calls_at_once_is_kept_once(desk: Desk) -> None:
    results = await asyncio.gather(desk.one(PORT), desk.one(PORT), desk.one(PORT))
    kept = [each for each in results if isinstance(each, Remembered)]
    assert len(kept) == 1
    assert {each.repeats for each in results if isinstance(each, Filtered)} == {kept[0].memory.id}
    assert await desk.contents() == [PORT]


async def test_a_retry_gets_what_the_first_call_did(desk: Desk) -> None:
    old = (await desk.kept("An older note about the shop")).memory
    first = await desk.kept(PORT, "k", supersedes=(old.id,))
    again = await desk.kept(PORT, "k", supersedes=(old.id,))
    assert again == replace(first, is_new=False, reason="kept before, when this call was first made")
    with pytest.raises(IdempotencyConflict):
        await desk.remember.one(desk.world.call("k", digest="other"), NewAtom(content=PORT))
    assert len(await desk.contents()) == 2


async def test_a_retry_of_what_was_not_kept_does_not_keep_it(desk: Desk) -> None:
    first = (await desk.kept(PORT)).memory
    assert isinstance(await desk.one(PORT, "k"), Filtered)
    await desk.world.engine.write.delete(desk.world.call(), first.id)
    again = await desk.one(PORT, "k")
    assert isinstance(again, Filtered)
    assert again.reason == "not kept when this call was first made"
    assert await desk.contents() == []


async def test_a_retry_tells_of_a_memory_that_was_deleted_since(desk: Desk) -> None:
    first = await desk.kept(PORT, "k")
    await desk.world.engine.write.delete(desk.world.call(), first.memory.id)
    again = await desk.kept(PORT, "k")
    assert (again.memory.id, again.memory.content, again.is_new) == (first.memory.id, PORT, False)
    other = (await desk.kept(PORT)).memory
    assert (await desk.one(PORT, "k")) == Filtered(
        importance=0.0, reason=f"exact duplicate of {other.id}", repeats=other.id
    )


async def test_a_retry_of_a_repeat_that_only_the_commit_saw_tells_the_same(desk: Desk) -> None:
    async def go_before(changes: Sequence[Change]) -> None:
        if any(isinstance(change, PutMemory) for change in changes):
            desk.world.storage.before_commit = None
            await desk.kept(PORT)

    desk.world.storage.before_commit = go_before
    first = await desk.one(PORT, "k")
    assert isinstance(first, Filtered)
    assert await desk.one(PORT, "k") == first


async def test_a_retry_whose_key_served_another_use_is_not_taken_for_kept(desk: Desk) -> None:
    await desk.world.engine.write.memory(desk.world.call("k"), NewMemory(content=PORT))
    result = await desk.kept(PORT, "k")
    assert not result.is_new


async def test_a_batch_whose_key_served_another_use_is_told_so(desk: Desk) -> None:
    await desk.world.engine.write.memory(desk.world.call("k"), NewMemory(content=PORT))
    *_, last = await desk.many(*(NewAtom(content=text) for text in ("Whales", "Granite", "Yeast")), key="k")
    assert isinstance(last, Conflict)
    assert last.message == "this idempotency key did other work before"


async def test_a_batch_tells_each_text_its_fate(desk: Desk) -> None:
    results = await desk.many(
        NewAtom(content=PORT),
        NewAtom(content=""),
        NewAtom(content=PORT),
        NewAtom(content="Port 5432 is where the staging database of the shop listens"),
        NewAtom(content=OTHER_PORT),
        NewAtom(content="x", supersedes=(ABSENT,)),
        NewAtom(content="A named text", external_ref="r"),
        NewAtom(content="A named text", external_ref="r"),
        NewAtom(content="Another text of that name", external_ref="r"),
        NewAtom(content=PORT, domain="shop"),
        NewAtom(content="y", metadata=["no object"]),
    )
    first = results[0].memory
    assert [type(each) for each in results] == [
        Remembered, InvalidInput, Filtered, Filtered, Remembered, InvalidInput,
        Remembered, Remembered, Conflict, Remembered, InvalidInput,
    ]  # fmt: skip
    assert results[2] == Filtered(importance=0.0, reason=f"exact duplicate of {first.id}", repeats=first.id)
    assert results[3].repeats == first.id
    assert (results[1].field, results[5].field, results[10].field) == ("content", "supersedes", "metadata")
    assert (results[6].is_new, results[7].is_new) == (True, False)
    assert results[7].memory == results[6].memory
    assert await desk.contents() == sorted([PORT, OTHER_PORT, "A named text", PORT])


async def test_a_text_after_one_that_was_not_kept_shares_its_fate(desk: Desk) -> None:
    await desk.kept(PORT)
    near = "Port 5432 is where the staging database of the shop listens"
    first, second = await desk.many(NewAtom(content=near), NewAtom(content=near))
    assert isinstance(first, Filtered)
    assert second == first


async def test_a_batch_without_anything_good_commits_nothing(desk: Desk) -> None:
    assert await desk.many() == ()
    made: list[Sequence[Change]] = []

    async def note(changes: Sequence[Change]) -> None:
        made.append(changes)

    desk.world.storage.before_commit = note
    (result,) = await desk.many(NewAtom(content=" "))
    assert isinstance(result, InvalidInput)
    assert made == []


async def test_a_large_batch_is_committed_in_parts_and_judged_beside_all_before(desk: Desk) -> None:
    made: list[int] = []

    async def note(changes: Sequence[Change]) -> None:
        made.append(sum(isinstance(change, PutMemory) for change in changes))

    desk.world.storage.before_commit = note
    words = [hashlib.sha256(str(number).encode()).hexdigest()[:12] for number in range(400)]
    texts = [" ".join(words[4 * number : 4 * number + 4]) for number in range(70)]
    results = await desk.many(*(NewAtom(content=text) for text in (*texts, *texts)))
    assert [type(each) for each in results] == [Remembered] * 70 + [Filtered] * 70
    assert made == [50, 20]
    long = [NewAtom(content=f"{word} " * 6_000) for word in words[300:304]]
    assert all(isinstance(each, Remembered) for each in await desk.many(*long))
    assert made[2:] == [3, 1]
    with pytest.raises(TooLarge):
        await desk.many(*([NewAtom(content="x")] * 1001))


async def test_a_retried_batch_tells_the_same_again(desk: Desk) -> None:
    news = (
        NewAtom(content=PORT),
        NewAtom(content=PORT),
        NewAtom(content=""),
        NewAtom(content="A named text", external_ref="r"),
    )
    first = await desk.many(*news, key="k")
    again = await desk.many(*news, key="k")
    assert again[0] == replace(first[0], is_new=False, reason="kept before, when this call was first made")
    assert again[1] == first[1]
    assert isinstance(again[2], InvalidInput)
    assert again[3].memory == first[3].memory
    assert len(await desk.contents()) == 2


async def test_the_quota_takes_the_first_texts_and_refuses_the_others(desk: Desk) -> None:
    await desk.kept("Whales sing", external_ref="r")
    results = await desk.many(
        NewAtom(content="Granite is a rock"),
        NewAtom(content="Whales sing", external_ref="r"),
        NewAtom(content="Violins have four strings", external_ref="s"),
        NewAtom(content="Bread needs yeast"),
        NewAtom(content="Bread needs yeast"),
        NewAtom(content="Violins have four strings", external_ref="s"),
        NewAtom(content="Granite is a rock"),
        key="k",
        plan=limited(3),
    )
    assert [type(each) for each in results] == [
        Remembered, Remembered, Remembered, QuotaExceeded, QuotaExceeded, Remembered, Filtered,
    ]  # fmt: skip
    assert await desk.contents() == ["Granite is a rock", "Violins have four strings", "Whales sing"]


async def test_a_single_text_beyond_the_quota_is_refused_and_a_repeat_is_not(desk: Desk) -> None:
    await desk.kept(PORT)
    call = desk.world.call(plan=limited(1))
    with pytest.raises(QuotaExceeded):
        await desk.remember.one(call, NewAtom(content="Whales sing"))
    assert isinstance(await desk.remember.one(call, NewAtom(content=PORT)), Filtered)


async def test_room_that_others_take_meanwhile_is_counted_anew(desk: Desk) -> None:
    taken: list[str] = []

    async def take_room(changes: Sequence[Change]) -> None:
        if any(isinstance(change, PutMemory) for change in changes):
            desk.world.storage.before_commit = None
            taken.append(hashlib.sha256(bytes([len(taken)])).hexdigest())
            await desk.kept(f"{taken[-1]} was here first")
            desk.world.storage.before_commit = take_room

    desk.world.storage.before_commit = take_room
    texts = ("Whales sing", "Granite is a rock", "Bread needs yeast")
    results = await desk.many(*(NewAtom(content=text) for text in texts), plan=limited(3))
    assert [type(each) for each in results] == [QuotaExceeded] * 3
    assert await desk.contents() == sorted(f"{each} was here first" for each in taken)
    assert len(taken) == 3


async def test_a_quota_that_never_tells_its_room_refuses_in_the_end(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.kept(PORT)
    counts: list[int] = []

    async def none_yet(_: Any) -> int:
        counts.append(0)
        return 0

    monkeypatch.setattr(type(desk.world.store), "count_memories", none_yet, raising=False)
    (result,) = await desk.many(NewAtom(content="Whales sing"), plan=limited(1))
    assert isinstance(result, QuotaExceeded)
    assert len(counts) == 3


def _ids_of(job: Job) -> Any:
    return job.payload["memory_ids"]


async def test_without_a_model_the_texts_of_each_space_are_embedded_by_one_job(desk: Desk) -> None:
    desk.world.embedder.problem = "away"
    commits: list[Sequence[Change]] = []

    async def note(changes: Sequence[Change]) -> None:
        commits.append(changes)

    desk.world.storage.before_commit = note
    desk.world.engine.jobs_queued.clear()
    await desk.many(NewAtom(content="Whales sing"), NewAtom(content="Granite"), NewAtom(content="Yeast", domain="d"))
    jobs = [change.job for change in commits[-1] if isinstance(change, AddJob)]
    assert sorted(len(_ids_of(job)) for job in jobs) == [1, 2]
    assert desk.world.engine.jobs_queued.is_set()
    actions = [change.action for change in commits[-1] if isinstance(change, Audit)]
    assert actions == ["memory.create"] * 3
    assert not any(isinstance(change, Associate) and not change.pairs for change in commits[-1])


async def test_who_may_not_write_is_refused(desk: Desk) -> None:
    reader = desk.world.call(scopes=frozenset({Scope.READ}))
    with pytest.raises(Forbidden):
        await desk.remember.one(reader, NewAtom(content=PORT))
    with pytest.raises(Forbidden):
        await desk.remember.many(reader, [NewAtom(content=PORT)])
    restricted = (await desk.kept("Whales sing", domain="closed")).memory.space_id
    await _may_only_read(desk, restricted)
    good, bad, also_bad = await desk.many(
        NewAtom(content=PORT),
        NewAtom(content="Granite", domain="closed"),
        NewAtom(content="Yeast", domain="closed"),
    )
    assert isinstance(good, Remembered)
    assert isinstance(bad, Forbidden)
    assert isinstance(also_bad, Forbidden)


@pytest.mark.parametrize(
    ("field", "broken"),
    [
        ("content", {"content": "a\x00b"}),
        ("domain", {"domain": "d" * 201}),
        ("concepts", {"concepts": ("c",) * 257}),
        ("concepts", {"concepts": ("c" * 257,)}),
        ("metadata", {"metadata": "text"}),
        ("external_ref", {"external_ref": "r" * 256}),
        ("fingerprint", {"fingerprint": "f" * 513}),
        ("supersedes", {"supersedes": tuple(f"id {number}" for number in range(33))}),
        ("supersedes", {"supersedes": ("",)}),
        ("source", {"source": ""}),
    ],
)
async def test_what_is_beyond_the_limits_is_refused_by_name(desk: Desk, field: str, broken: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        await desk.one(**{"content": PORT} | broken)
    assert caught.value.field == field
    assert await desk.contents() == []


async def test_two_tenants_never_meet(desk: Desk) -> None:
    await desk.kept(PORT, external_ref="r")
    stranger = await desk.world.stranger()
    call = replace(desk.world.call(), principal=stranger)
    kept = await desk.remember.one(call, NewAtom(content=PORT))
    named = await desk.remember.one(call, NewAtom(content=OTHER_PORT, external_ref="r"))
    assert isinstance(kept, Remembered)
    assert isinstance(named, Remembered)
    assert await desk.contents(states=frozenset(MemoryState)) == [PORT]


async def test_a_retry_of_what_was_deleted_and_said_again_finds_what_is_there(desk: Desk) -> None:
    first = await desk.kept("The ferry leaves at nine", key="once")
    await desk.world.engine.write.delete(desk.world.call(), first.memory.id)
    again = await desk.kept("The ferry leaves at nine")
    retried = await desk.one("The ferry leaves at nine", key="once")
    assert isinstance(retried, Filtered)
    assert retried.repeats == again.memory.id
