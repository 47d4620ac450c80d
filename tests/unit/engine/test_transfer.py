"""Files imported: every layout, every fault reported by record, every record once."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from polymem.domain.model import ContentType, Job, JobId, JobState, Memory, MemoryId, MemoryType, Plan, Turn
from polymem.domain.query import ListOrder, MemoryFilter
from polymem.engine.queueing import RunOutcome
from polymem.engine.requests import ImportFormat, ImportRequest
from polymem.errors import Forbidden, IdempotencyConflict, InvalidInput, NotFound, QuotaExceeded, TooLarge
from polymem.ports.changes import Change, PutMemory

ABSENT: Any = "0190b4a0-0000-7000-8000-000000000000"
NO_MESSAGES = "parse session file: no valid messages found in file"
NO_MEMORIES = "parse memory file: no valid memories found in file"


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100):
        yield data[start : start + 100]


def request(data: bytes | str, file_format: ImportFormat = ImportFormat.MEMORY, **fields: Any) -> ImportRequest:
    raw = data.encode() if isinstance(data, str) else data
    given = {"file_name": "f.json", **fields}
    return ImportRequest(format=file_format, chunks=pieces(raw), **given)


async def start(world: Any, data: bytes | str, file_format: ImportFormat = ImportFormat.MEMORY, **fields: Any) -> Job:
    job: Job = await world.engine.transfer.start_import(world.call(), request(data, file_format, **fields))
    return job


async def run(world: Any) -> Job:
    """The next due import after one attempt."""
    job = await world.claim("import")
    assert await world.engine.transfer.run_import(job) is RunOutcome.FINISHED
    done: Job = await world.engine.transfer.get_import(world.call(), job.id)
    return done


async def imported(world: Any, data: bytes | str, **fields: Any) -> Job:
    await start(world, data, **fields)
    return await run(world)


async def failure(world: Any, data: bytes | str, file_format: ImportFormat, **fields: Any) -> str:
    """The words with which the import fails, and its job as it is then."""
    await start(world, data, file_format, **fields)
    job = await world.claim("import")
    with pytest.raises(InvalidInput) as caught:
        await world.engine.transfer.run_import(job)
    return caught.value.message


async def memories(world: Any, *types: MemoryType) -> list[Memory]:
    where = MemoryFilter(
        spaces=frozenset({world.principal.personal_space_id}), memory_types=frozenset(types) if types else None
    )
    page = await world.engine.read.list(world.call(), where, order=ListOrder.CREATED_NEWEST, limit=1000)
    return sorted(page.memories, key=lambda memory: memory.id)


async def contents(world: Any) -> list[str]:
    return [memory.content for memory in await memories(world)]


def listed(count: int) -> dict[str, Any]:
    return {"memories": [{"content": f"memory {number}"} for number in range(count)]}


async def test_an_import_is_durable_before_it_is_acknowledged_and_done_by_a_job(world: Any) -> None:
    job = await start(world, json.dumps(listed(250)), file_name="export.json")
    assert (job.state, job.payload["file_name"]) == (JobState.QUEUED, "export.json")
    assert world.engine.jobs_queued.is_set()
    assert [blob for _, blob in world.blobs.files] == [job.id]
    assert [one.id for one in await world.engine.transfer.list_imports(world.call())] == [job.id]
    done = await run(world)
    assert (done.state, done.progress_total, done.progress_done, done.error) == (JobState.DONE, 3, 3, None)
    assert done.result == {"records": 250, "refused": 0, "errors": []}
    assert await contents(world) == [f"memory {number}" for number in range(250)]
    assert world.blobs.files == {}


@pytest.mark.parametrize(
    "data",
    [
        '{"memories": [{"content": "a"}, {"content": "b"}]}',
        '{\n "schema_version": "mem9.memory_export.v1", "memories": [{"content": "a"},\n {"content": "b"}],"n": 1}',
        '[{"content": "a"}, {"content": "b"}]',
        '{"content": "a"}\n\n{"content": "b"}\n',
        b'\xef\xbb\xbf[{"content": "a"}, {"content": "b"}]',
    ],
)
async def test_every_layout_of_a_memory_file_is_understood(world: Any, data: bytes | str) -> None:
    done = await imported(world, data)
    assert (done.progress_total, done.error) == (1, None)
    assert await contents(world) == ["a", "b"]


async def test_what_the_upload_says_goes_before_the_record_and_that_before_its_file(world: Any) -> None:
    file = {
        "memories": [
            {"content": "a"},
            {"content": "b", "agent_id": "own", "source": "own", "session_id": "own", "memory_type": "pinned"},
        ],
        "agent_id": "file",
    }
    await imported(world, json.dumps(file), source="header")
    first, second = await memories(world)
    assert (first.agent_id, first.source, first.session_id) == ("file", "header", None)
    assert (second.agent_id, second.source, second.session_id) == ("own", "own", "own")
    assert second.memory_type is MemoryType.PINNED
    await imported(world, '[{"content": "c", "agent_id": "own"}]', agent_id="upload", session_id="upload")
    third = (await memories(world))[-1]
    assert (third.agent_id, third.session_id) == ("upload", "upload")


async def test_a_file_that_is_no_json_becomes_one_memory(world: Any) -> None:
    done = await imported(world, "# Notes\n[ ] buy milk\n")
    assert (done.progress_total, done.progress_done) == (1, 1)
    assert await contents(world) == ["# Notes\n[ ] buy milk\n"]


@pytest.mark.parametrize("data", ["[]", '{"memories": []}', '{"memories": [], "agent_id": "a"}'])
async def test_an_empty_list_is_done_with_nothing(world: Any, data: str) -> None:
    done = await imported(world, data)
    assert (done.state, done.progress_total, done.progress_done, done.error) == (JobState.DONE, 0, 0, None)


async def test_bad_records_are_reported_one_by_one_and_the_rest_is_imported(world: Any) -> None:
    done = await imported(world, '[{"content": "a"}, {"content": ""}, nope, 5, {"content": "b"}]')
    assert await contents(world) == ["a", "b"]
    assert done.result == {
        "records": 5,
        "refused": 3,
        "errors": [
            {"item": 2, "error": "content: must not be empty"},
            {"item": 3, "error": "not valid JSON: Expecting value at character 0"},
            {"item": 4, "error": "item: must be a JSON object"},
        ],
    }
    assert done.error == "3 not imported; first, item 2: content: must not be empty"


async def test_a_record_beyond_its_size_is_one_of_the_bad_ones(world: Any) -> None:
    world.blobs.piece = 65_536
    done = await imported(world, json.dumps([{"content": "x" * 1_100_000}, {"content": "b"}]))
    assert done.error == "1 not imported; first, item 1: content: larger than 1048576 bytes"
    assert await contents(world) == ["b"]


async def test_at_most_a_hundred_faults_are_kept_and_all_are_counted(world: Any) -> None:
    done = await imported(world, json.dumps([{"content": "a"}, *[{}] * 150]))
    assert (done.result["refused"], len(cast("list[object]", done.result["errors"]))) == (150, 100)


async def test_a_truncated_file_keeps_what_came_before_and_says_where_it_broke(world: Any) -> None:
    whole = json.dumps(listed(3))
    done = await imported(world, whole[: whole.index("memory 2")])
    assert await contents(world) == ["memory 0", "memory 1"]
    assert (done.state, done.progress_total) == (JobState.DONE, 1)
    assert done.error == "1 not imported; first, item 3: the file breaks off after item 2"


@pytest.mark.parametrize(
    "data",
    [
        "",
        " \n",
        "{}",
        '{"memories": 5}',
        '{"memories": [{}]}',
        '{"memories": [',
        '{"agent',
        "[nope",
        b"\xff\xfe",
        "[{}]",
    ],
)
async def test_a_memory_file_without_any_memory_fails(world: Any, data: bytes | str) -> None:
    if data == "[nope":
        await imported(world, data)
        assert await contents(world) == ["[nope"]
    else:
        assert await failure(world, data, ImportFormat.MEMORY) == NO_MEMORIES


async def test_the_faults_of_a_file_without_any_memory_are_kept(world: Any) -> None:
    await failure(world, "[{}]", ImportFormat.MEMORY)
    (job,) = await world.engine.transfer.list_imports(world.call(), limit=1)
    assert job.result["errors"] == [{"item": 1, "error": "content: required"}]
    assert (job.progress_total, job.progress_done) == (1, 1)


@pytest.mark.parametrize(
    "data",
    [
        '{"agent_id":"a","session_id":"s","messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]}',
        '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}], "session_id": "s"}',
        '[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]',
        '{"role": "user", "content": "hi"}\n{"role": "assistant", "content": "ho"}',
        """{"type": "session", "id": "x"}
        {"type": "message", "message": {"role": "user", "content": [{"type": "text", "text": "hi"}]}}\r
        {"type": "message", "message": {"role": "assistant", "content": "ho"}}
        """,
    ],
)
async def test_every_layout_of_a_session_file_is_understood(world: Any, data: str) -> None:
    session_id = None if '"s"' in data else "s"
    done = await imported(world, data, file_format=ImportFormat.SESSION, session_id=session_id, source="header")
    assert (done.progress_total, done.progress_done, done.error) == (1, 1, None)
    found = await world.engine.read.session_messages(world.call(), ["s"], limit_per_session=9)
    assert [(one.content, one.turn.role, one.turn.seq, one.source) for one in found] == [
        ("hi", "user", 0, "header"),
        ("ho", "assistant", 1, "header"),
    ]
    assert found[0].agent_id == ("a" if "agent_id" in data else None)


async def test_the_session_of_the_upload_goes_before_that_of_the_file(world: Any) -> None:
    data = '{"session_id": "file", "agent_id": "file", "messages": [{"role": "user", "content": "hi"}]}'
    await imported(world, data, file_format=ImportFormat.SESSION, session_id="upload", agent_id="upload")
    (found,) = await memories(world)
    assert (found.session_id, found.agent_id) == ("upload", "upload")


async def test_recalled_memories_in_a_session_file_are_cut_out(world: Any) -> None:
    block = "<relevant-memories>x</relevant-memories>"
    data = "\n".join(json.dumps({"role": "user", "content": text}) for text in (block, f"{block} hi"))
    done = await imported(world, data, file_format=ImportFormat.SESSION, session_id="s")
    assert await contents(world) == ["hi"]
    assert done.error is None
    only = json.dumps({"role": "user", "content": block})
    assert (await imported(world, only, file_format=ImportFormat.SESSION, session_id="s")).error is None


async def test_a_long_session_is_stored_in_chunks_of_fifty_in_order(world: Any) -> None:
    lines = "\n".join(json.dumps({"role": "user", "content": f"turn {number}"}) for number in range(120))
    done = await imported(world, lines, file_format=ImportFormat.SESSION, session_id="s")
    assert (done.progress_total, done.progress_done) == (3, 3)
    found = await world.engine.read.session_messages(world.call(), ["s"], limit_per_session=200)
    assert [(one.content, one.turn.seq) for one in found] == [(f"turn {number}", number) for number in range(120)]


async def test_a_file_goes_on_with_its_session_where_another_process_left_it(world: Any) -> None:
    others = [Turn(role="user", seq=seq, content_type=ContentType.TEXT) for seq in (0, 1)]

    async def interfere(changes: Sequence[Change]) -> None:
        if others and any(isinstance(change, PutMemory) for change in changes):
            put = next(change for change in changes if isinstance(change, PutMemory))
            memory = replace(put.memory, id=MemoryId(world.ids.new_id()), turn=others.pop(0))
            await world.storage._storage.tenant(world.principal.tenant_id).commit(
                [PutMemory(memory=memory, index=put.index)], now=world.clock.now()
            )

    world.storage.before_commit = interfere
    data = '{"role": "user", "content": "hi"}\n{"role": "assistant", "content": "ho"}'
    done = await imported(world, data, file_format=ImportFormat.SESSION, session_id="s")
    assert (done.state, others) == (JobState.DONE, [])
    found = await world.engine.read.session_messages(world.call(), ["s"], limit_per_session=9)
    assert sorted((one.turn.seq, one.content) for one in found) == [(0, "hi"), (1, "hi"), (2, "hi"), (3, "ho")]


async def test_long_records_make_chunks_of_fewer(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymem.engine.import_files.BYTES_PER_CHUNK", 100)
    sizes: list[int] = []

    async def watch(changes: Sequence[Change]) -> None:
        sizes.append(sum(isinstance(change, PutMemory) for change in changes))

    world.storage.after_commit = watch
    lengths = [40, 40, 40, 150, 10, 10]
    texts = [str(number) * length for number, length in enumerate(lengths)]
    lines = "\n".join(json.dumps({"content": text}) for text in texts)
    done = await imported(world, lines, file_format=ImportFormat.MEMORY)
    assert [size for size in sizes if size] == [2, 1, 1, 2]
    assert (done.progress_total, done.progress_done, done.error) == (4, 4, None)
    assert sorted(await contents(world)) == sorted(texts)


@pytest.mark.parametrize("data", ["", "{}", "no json at all", "[]", '{"messages": []}', '{"role": "user"}', "[5]"])
async def test_a_session_file_without_any_message_fails_with_the_published_words(world: Any, data: str) -> None:
    assert await failure(world, data, ImportFormat.SESSION, session_id="s") == NO_MESSAGES


async def test_messages_that_belong_to_no_session_fail(world: Any) -> None:
    data = '[{"role": "user", "content": "hi"}]'
    assert "no session_id" in await failure(world, data, ImportFormat.SESSION)


async def test_a_session_id_that_is_no_text_fails(world: Any) -> None:
    data = '{"session_id": 5, "messages": [{"role": "user", "content": "hi"}]}'
    assert await failure(world, data, ImportFormat.SESSION) == "session_id: must be text"


@pytest.mark.parametrize("when", ["before_commit", "after_commit"])
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
@pytest.mark.parametrize("file_format", list(ImportFormat))
async def test_whatever_commit_the_process_dies_at_every_record_is_there_once(
    world: Any, file_format: ImportFormat, nth: int, when: str
) -> None:
    size = 100 if file_format is ImportFormat.MEMORY else 50
    texts = [f"text {number}" for number in range(2 * size + 1)]
    if file_format is ImportFormat.MEMORY:
        records: list[Any] = [{"content": text} for text in texts]
    else:
        records = [{"role": "user", "content": text} for text in texts]
    records.insert(3, {})
    job = await start(world, json.dumps(records), file_format, session_id="s")
    commits = 0

    async def die(_: Sequence[Change]) -> None:
        nonlocal commits
        commits += 1
        if commits == nth:
            raise RuntimeError

    setattr(world.storage, when, die)
    with pytest.raises(RuntimeError):
        await world.engine.transfer.run_import(await world.claim("import"))
    setattr(world.storage, when, None)
    world.clock.pass_time(minutes=5)
    again = await world.claim("import")
    if when == "after_commit" and nth == 4:
        assert again is None
    else:
        assert await world.engine.transfer.run_import(again) is RunOutcome.FINISHED
    done = await world.engine.transfer.get_import(world.call(), job.id)
    assert (done.state, done.progress_done, done.result["refused"]) == (JobState.DONE, 3, 1)
    assert await contents(world) == texts


@pytest.mark.parametrize("count", [0, 1, 100])
async def test_a_holder_that_lost_its_job_stores_nothing(world: Any, count: int) -> None:
    await start(world, json.dumps(listed(count)))
    stale = await world.claim("import")
    world.clock.pass_time(minutes=5)
    fresh = await world.claim("import")
    assert fresh.fence > stale.fence
    assert await world.engine.transfer.run_import(stale) is RunOutcome.FENCE_LOST
    assert await contents(world) == []
    assert len(world.blobs.files) == 1
    assert await world.engine.transfer.run_import(fresh) is RunOutcome.FINISHED
    assert len(await contents(world)) == count


async def test_an_import_beyond_the_plan_fails_and_keeps_what_it_stored(world: Any) -> None:
    plan = Plan(name="p", requests_per_minute=1, burst=1, max_memories=150)
    await world.engine.transfer.start_import(world.call(plan=plan), request(json.dumps(listed(200))))
    with pytest.raises(QuotaExceeded):
        await world.engine.transfer.run_import(await world.claim("import"))
    assert len(await contents(world)) == 100


async def test_a_file_that_is_gone_fails_its_import(world: Any) -> None:
    await start(world, "[]")
    world.blobs.files.clear()
    with pytest.raises(NotFound, match="blob not found"):
        await world.engine.transfer.run_import(await world.claim("import"))


async def test_imports_of_one_space_run_one_after_another(world: Any) -> None:
    first, second = await start(world, "[]"), await start(world, "[]")
    assert (await world.claim("import")).id == first.id
    assert await world.claim("import") is None
    world.clock.pass_time(minutes=5)
    assert await world.engine.transfer.run_import(await world.claim("import")) is RunOutcome.FINISHED
    assert (await world.claim("import")).id == second.id


async def test_an_upload_sent_again_under_its_key_is_one_import(world: Any) -> None:
    transfer = world.engine.transfer
    first = await transfer.start_import(world.call("key"), request("[]"))
    again = await transfer.start_import(world.call("key"), request("[]"))
    assert again.id == first.id
    assert len(world.blobs.files) == 1
    with pytest.raises(IdempotencyConflict):
        await transfer.start_import(world.call("key", digest="other"), request("[]"))
    assert len(world.blobs.files) == 1


async def test_a_refused_upload_leaves_nothing(world: Any) -> None:
    wrong: list[dict[str, Any]] = [{"file_name": ""}, {"agent_id": ""}, {"session_id": "\x00"}, {"source": "x" * 256}]
    for fields in wrong:
        with pytest.raises(InvalidInput):
            await start(world, "[]", **fields)
    with pytest.raises(TooLarge):
        await start(world, b"x" * (50 * 1024 * 1024 + 1))
    assert world.blobs.files == {}
    assert await world.engine.transfer.list_imports(world.call()) == ()


async def test_an_import_is_seen_only_by_who_may_read_its_space(world: Any) -> None:
    job = await start(world, "[]")
    stranger = replace(world.call(), principal=await world.stranger())
    other = await world.engine.accounts.create_user(world.account.tenant.id, "other")
    colleague = world.call(user_id=other.id, personal_space_id=other.personal_space_id)
    for call, job_id in ((stranger, job.id), (colleague, job.id), (world.call(), JobId(ABSENT))):
        with pytest.raises(NotFound, match="import not found"):
            await world.engine.transfer.get_import(call, job_id)
    assert await world.engine.transfer.list_imports(colleague) == ()
    with pytest.raises(Forbidden):
        await world.engine.transfer.list_imports(world.call(allowed_spaces=frozenset()))
    with pytest.raises(InvalidInput):
        await world.engine.transfer.list_imports(world.call(), limit=0)


async def test_an_embed_job_is_no_import(world: Any) -> None:
    world.embedder.problem = "no model file"
    await imported(world, '[{"content": "a"}]')
    job = await world.claim("embed")
    with pytest.raises(NotFound):
        await world.engine.transfer.get_import(world.call(), job.id)
