"""Files taken in and imported in the background."""

import json
import uuid
from typing import Any

import pytest

Client = Any


def lines(*records: object) -> bytes:
    return b"\n".join(json.dumps(record).encode() for record in records)


async def upload(
    api: Client, content: bytes, file_type: str = "memory", name: str = "memory.json", **given: Any
) -> Any:
    headers = given.pop("headers", None)
    return await api.post(
        "/imports", files={"file": (name, content)}, data={"file_type": file_type, **given}, headers=headers
    )


async def imported(api: Client, run_jobs: Any, content: bytes, file_type: str = "memory", **given: Any) -> Any:
    answer = await upload(api, content, file_type, **given)
    assert answer.status_code == 202, answer.text
    await run_jobs()
    return (await api.get(f"/imports/{answer.json()['id']}")).json()


async def listed(api: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api.get("/memories?limit=1000&memory_type=insight,pinned,session")).json()[
        "memories"
    ]
    return found


@pytest.mark.requirement("mem9.import.start", "mem9.import.progress", "mem9.import.memory")
async def test_the_pages_memory_file_is_imported(api: Client, run_jobs: Any) -> None:
    content = json.dumps(
        {"memories": [{"content": "a", "tags": ["t"], "metadata": {"k": 1}, "source": "old"}]}
    ).encode()
    answer = await upload(api, content, agent_id="openclaw-main")
    task = answer.json()["id"]
    assert (answer.status_code, answer.json()) == (202, {"id": str(uuid.UUID(task)), "status": "pending"})
    waiting = {"id": task, "file": "memory.json", "status": "pending", "total": 0, "done": 0}
    assert (await api.get(f"/imports/{task}")).json() == waiting
    await run_jobs()
    done = {"id": task, "file": "memory.json", "status": "done", "total": 1, "done": 1}
    assert (await api.get(f"/imports/{task}")).json() == done
    (memory,) = await listed(api)
    told = {name: memory[name] for name in ("content", "memory_type", "tags", "metadata", "source", "agent_id")}
    assert told == {
        "content": "a",
        "memory_type": "insight",
        "tags": ["t"],
        "metadata": {"k": 1},
        "source": "old",
        "agent_id": "openclaw-main",
    }


@pytest.mark.requirement("mem9.import.memory")
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("list.json", json.dumps([{"content": "a"}, {"content": "b"}]).encode(), {"a", "b"}),
        ("lines.jsonl", lines({"content": "a"}, {"content": "b"}), {"a", "b"}),
        (
            "export.json",
            json.dumps({"schema_version": "mem9.memory_export.v1", "memories": [{"content": "a"}]}).encode(),
            {"a"},
        ),
        ("notes.md", b"# Notes\n\nbuy milk", {"# Notes\n\nbuy milk"}),
    ],
)
async def test_memory_files_come_in_several_layouts(
    api: Client, run_jobs: Any, name: str, content: bytes, expected: set[str]
) -> None:
    task = await imported(api, run_jobs, content, name=name)
    assert (task["status"], task["file"]) == ("done", name)
    assert {memory["content"] for memory in await listed(api)} == expected


@pytest.mark.requirement("mem9.import.session", "mem9.import.session_id")
@pytest.mark.parametrize(
    ("content", "session_id"),
    [
        (json.dumps({"session_id": "own", "messages": [{"role": "user", "content": "hello"}]}).encode(), None),
        (json.dumps({"session_id": "own", "messages": [{"role": "user", "content": "hello"}]}).encode(), "ses-001"),
        (json.dumps({"messages": [{"role": "user", "content": "hello"}]}).encode(), "ses-001"),
        (lines({"role": "user", "content": "hello"}), "ses-001"),
        (
            lines(
                {"type": "session", "version": 1},
                {"type": "message", "message": {"role": "user", "content": [{"type": "text", "text": "hello"}]}},
            ),
            "ses-001",
        ),
    ],
)
async def test_session_files_become_the_turns_of_their_session(
    api: Client, run_jobs: Any, content: bytes, session_id: str | None
) -> None:
    given = {} if session_id is None else {"session_id": session_id}
    task = await imported(api, run_jobs, content, "session", agent_id="openclaw-main", **given)
    assert task["status"] == "done", task
    found = (await api.get(f"/session-messages?session_id={session_id or 'own'}")).json()["messages"]
    assert [(row["role"], row["content"], row["agent_id"]) for row in found] == [("user", "hello", "openclaw-main")]


@pytest.mark.requirement("mem9.import.session_id", "mem9.error.field")
@pytest.mark.parametrize(
    "content",
    [
        lines({"role": "user", "content": "hello"}),
        json.dumps({"messages": [{"role": "user", "content": "hello"}]}).encode(),
        json.dumps({"session_id": "", "messages": [{"role": "user", "content": "hello"}]}).encode(),
    ],
)
async def test_messages_without_a_session_are_refused(api: Client, content: bytes) -> None:
    answer = await upload(api, content, "session")
    expected = {"error": "session_id: required for session files that name none themselves"}
    assert (answer.status_code, answer.json()) == (400, expected)
    assert (await api.get("/imports")).json() == {"status": "empty", "tasks": []}


@pytest.mark.requirement("mem9.import.fields", "mem9.error.field")
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, "file_type: must be session or memory"),
        ({"file_type": "video"}, "file_type: must be session or memory"),
        ({"file_type": "memory", "agent_id": "x" * 101}, "agent_id: too long (max 100)"),
        ({"file_type": "memory", "agent_id": "../x"}, "agent_id: must not contain /, \\ or .."),
        ({"file_type": "memory", "agent_id": "a\\b"}, "agent_id: must not contain /, \\ or .."),
        ({"file_type": "session", "session_id": "x" * 256}, "session_id: too long (max 255 characters)"),
    ],
)
async def test_an_upload_must_say_what_it_is(api: Client, fields: dict[str, str], error: str) -> None:
    answer = await api.post("/imports", files={"file": ("a.json", b"[]")}, data=fields)
    assert (answer.status_code, answer.json()) == (400, {"error": error})


@pytest.mark.requirement("mem9.import.fields", "mem9.error.field")
async def test_an_upload_needs_its_file(api: Client) -> None:
    answer = await api.post("/imports", files={"other": ("a.json", b"[]")}, data={"file_type": "memory"})
    assert (answer.status_code, answer.json()) == (400, {"error": "file: file required"})


@pytest.mark.requirement("mem9.import.start")
async def test_an_upload_without_a_name_gets_one_and_the_agent_of_the_header(api: Client, run_jobs: Any) -> None:
    body = (
        b'--cut\r\nContent-Disposition: form-data; name="file_type"\r\n\r\nmemory\r\n'
        b'--cut\r\nContent-Disposition: form-data; name="file"\r\n\r\n[{"content":"a"}]\r\n--cut--\r\n'
    )
    headers = {"Content-Type": "multipart/form-data; boundary=cut", "X-Mnemo-Agent-Id": "ada"}
    answer = await api.post("/imports", content=body, headers=headers)
    await run_jobs()
    assert (await api.get(f"/imports/{answer.json()['id']}")).json()["file"] == "upload"
    (memory,) = await listed(api)
    assert (memory["agent_id"], memory["source"]) == ("ada", "ada")


@pytest.mark.requirement("mem9.import.progress")
async def test_progress_counts_chunks_and_bad_records_are_told(api: Client, run_jobs: Any) -> None:
    records: list[dict[str, Any]] = [{"content": f"memory {number}"} for number in range(250)]
    records[7] = {"content": 7}
    task = await imported(api, run_jobs, json.dumps({"memories": records}).encode())
    assert (task["status"], task["total"], task["done"]) == ("done", 3, 3)
    assert "item 8" in task["error"]
    assert (await api.get("/memories")).json()["total"] == 249


@pytest.mark.requirement("mem9.import.failed")
async def test_a_session_file_without_messages_fails_with_its_reason(api: Client, run_jobs: Any) -> None:
    task = await imported(api, run_jobs, b"no messages here", "session", session_id="ses")
    assert task["status"] == "failed"
    assert task["error"] == "parse session file: no valid messages found in file"


@pytest.mark.requirement("mem9.import.failed")
async def test_an_empty_memory_list_is_done(api: Client, run_jobs: Any) -> None:
    task = await imported(api, run_jobs, b'{"memories":[]}')
    assert {name: task[name] for name in ("status", "total", "done")} == {"status": "done", "total": 0, "done": 0}


@pytest.mark.requirement("mem9.import.unknown")
@pytest.mark.parametrize("task", ["00000000-0000-7000-8000-000000000000", "none"])
async def test_an_unknown_task_is_not_found(api: Client, task: str) -> None:
    answer = await api.get(f"/imports/{task}")
    assert (answer.status_code, answer.json()) == (404, {"error": "not found"})


@pytest.mark.requirement("mem9.import.list")
async def test_tasks_are_listed_newest_first_with_their_aggregate(api: Client, run_jobs: Any, clock: Any) -> None:
    assert (await api.get("/imports")).json() == {"status": "empty", "tasks": []}
    good = (await upload(api, b'[{"content":"a"}]')).json()["id"]
    assert (await api.get("/imports")).json()["status"] == "processing"
    await run_jobs()
    assert (await api.get("/imports")).json()["status"] == "done"
    clock.advance(1)
    bad = (await upload(api, b"nothing", "session", session_id="ses")).json()["id"]
    await run_jobs()
    answer = (await api.get("/imports")).json()
    assert answer["status"] == "partial"
    assert [(task["id"], task["status"]) for task in answer["tasks"]] == [(bad, "failed"), (good, "done")]
    assert answer["tasks"][1] == (await api.get(f"/imports/{good}")).json()


@pytest.mark.requirement("mem9.import.list.failed")
async def test_the_aggregate_is_done_when_all_failed(api: Client, run_jobs: Any) -> None:
    await upload(api, b"nothing", "session", session_id="ses")
    await run_jobs()
    assert (await api.get("/imports")).json()["status"] == "done"


@pytest.mark.requirement("mem9.import.size", "mem9.error.too_large")
async def test_a_file_of_fifty_mebibytes_is_taken_and_a_larger_one_refused(api: Client) -> None:
    largest = b" " * (50 * 1024 * 1024)
    taken = await upload(api, largest, name="big.json")
    over = await upload(api, largest + b" ", name="bigger.json")
    form = await upload(api, largest + b" " * 100_000, name="biggest.json")
    assert taken.status_code == 202
    assert over.status_code == form.status_code == 413
    assert over.json() == {"error": "file: larger than 52428800 bytes"}
    assert len((await api.get("/imports")).json()["tasks"]) == 1


@pytest.mark.requirement("mem9.import.repeat", "mem9.idempotency")
async def test_a_repeated_upload_is_the_same_task(api: Client, run_jobs: Any) -> None:
    once = {"Idempotency-Key": "import-1"}
    first = await upload(api, b'[{"content":"a"}]', headers=once)
    again = await upload(api, b'[{"content":"a"}]', headers=once)
    other = await upload(api, b'[{"content":"b"}]', headers=once)
    assert (again.status_code, again.json()) == (202, first.json())
    assert other.status_code == 409
    await run_jobs()
    assert [memory["content"] for memory in await listed(api)] == ["a"]


@pytest.mark.requirement("mem9.import.errors")
async def test_a_task_names_the_items_that_were_not_imported_and_a_cut_off_file_keeps_what_came_before(
    api: Client, run_jobs: Any
) -> None:
    content = (
        b'{"memories":[{"content":"one"},{"content":""},{"content":"two","tags":"x"},{"content":"three"},{"content":"fo'
    )
    task = await imported(api, run_jobs, content)
    assert [error["item"] for error in task["errors"]] == [2, 3, 5]
    assert task["errors"][0] == {"item": 2, "error": "content: must not be empty"}
    assert (task["status"], task["total"], task["done"]) == ("done", 1, 1)
    assert sorted(memory["content"] for memory in await listed(api)) == ["one", "three"]
    (shown,) = (await api.get("/imports")).json()["tasks"]
    assert "errors" not in shown


@pytest.mark.requirement("mem9.import.memory", "mem9.import.fields")
@pytest.mark.parametrize(
    ("form", "agents"), [({}, ["itemag", "fileag"]), ({"agent_id": "formag"}, ["formag", "formag"])]
)
async def test_the_header_names_the_agent_only_where_form_item_and_file_do_not(
    api: Client, run_jobs: Any, form: dict[str, str], agents: list[str]
) -> None:
    content = json.dumps(
        {"agent_id": "fileag", "memories": [{"content": "x1"}, {"content": "x2", "agent_id": "itemag"}]}
    ).encode()
    await imported(api, run_jobs, content, headers={"X-Mnemo-Agent-Id": "hdr"}, **form)
    assert [memory["agent_id"] for memory in await listed(api)] == agents
    await imported(api, run_jobs, b'[{"content":"x3"}]', headers={"X-Mnemo-Agent-Id": "hdr"})
    assert (await listed(api))[0]["agent_id"] == "hdr"
