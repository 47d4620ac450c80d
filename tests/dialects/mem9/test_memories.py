"""One memory: created, read, changed, deleted."""

import json
import uuid
from datetime import timedelta
from typing import Any

import pytest

from polymem.http.dialects.mem9.wire import relative_age

Client = Any
NOBODY = "00000000-0000-7000-8000-000000000000"


def iso(moment: Any) -> str:
    text: str = moment.isoformat()
    return text.replace("+00:00", "Z")


# --- create ----------------------------------------------------------------------------------------------


@pytest.mark.requirement("mem9.create.content", "mem9.create.accepted", "mem9.memory.shape")
async def test_the_pages_memory_is_kept_word_for_word(api: Client, clock: Any) -> None:
    answer = await api.post(
        "/memories",
        headers={"Content-Type": "application/json", "X-Mnemo-Agent-Id": "openclaw-main"},
        content=b'{"content":"Project uses PostgreSQL 15","tags":["tech","database"],'
        b'"metadata":{"source":"setup-note"}}',
    )
    made = answer.json()["id"]
    assert (answer.status_code, answer.json()) == (202, {"status": "accepted", "id": made})
    assert (await api.get(f"/memories/{made}")).json() == {
        "id": str(uuid.UUID(made)),
        "content": "Project uses PostgreSQL 15",
        "memory_type": "insight",
        "source": "openclaw-main",
        "tags": ["tech", "database"],
        "metadata": {"source": "setup-note"},
        "agent_id": "openclaw-main",
        "state": "active",
        "version": 1,
        "created_at": iso(clock.now()),
        "updated_at": iso(clock.now()),
    }


@pytest.mark.requirement("mem9.create.accepted")
@pytest.mark.parametrize(
    ("sync", "status", "word"), [(True, 200, "ok"), (False, 202, "accepted"), (None, 202, "accepted")]
)
async def test_a_memory_is_findable_when_answered(api: Client, *, sync: bool | None, status: int, word: str) -> None:
    answer = await api.post("/memories", json={"content": "the parrot is called Coco", "sync": sync})
    made = answer.json()["id"]
    assert (answer.status_code, answer.json()) == (status, {"status": word, "id": made})
    found = (await api.get("/memories?q=what is the parrot called")).json()["memories"]
    assert [memory["id"] for memory in found] == [made]
    assert (await api.get("/memories")).json()["total"] == 1


@pytest.mark.requirement("mem9.create.pinned", "mem9.memory.shape")
async def test_a_pinned_memory_is_answered_whole(api: Client, clock: Any) -> None:
    answer = await api.post(
        "/memories", json={"content": "never deploy on Friday", "memory_type": "pinned", "tags": []}
    )
    made = answer.json()["id"]
    expected = {
        "id": made,
        "content": "never deploy on Friday",
        "memory_type": "pinned",
        "state": "active",
        "version": 1,
        "created_at": iso(clock.now()),
        "updated_at": iso(clock.now()),
    }
    assert (answer.status_code, answer.json()) == (201, expected)
    assert (await api.get(f"/memories/{made}")).json() == expected


@pytest.mark.requirement(
    "mem9.create.both", "mem9.create.mode", "mem9.create.memory_type", "mem9.create.limits", "mem9.error.field"
)
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "content: content or messages required"),
        ({"content": "", "messages": []}, "content: content or messages required"),
        ({"content": None}, "content: content or messages required"),
        ({"content": " \n"}, "content: content or messages required"),
        (
            {"content": "a", "messages": [{"role": "user", "content": "b"}]},
            "body: provide either content or messages, not both",
        ),
        ({"content": "a", "mode": "raw"}, "body: content mode does not accept mode"),
        ({"content": "a", "memory_type": "insight"}, "memory_type: must be 'pinned'"),
        ({"content": "a", "memory_type": "session"}, "memory_type: must be 'pinned'"),
        (
            {"messages": [{"role": "user", "content": "b"}], "memory_type": "pinned"},
            "memory_type: memory_type is only allowed with content, not messages",
        ),
        ({"content": "a" * 50_001}, "content: too long (max 50000)"),
        ({"content": "ä" * 25_001}, "content: too long (max 50000)"),
        ({"content": "a", "tags": ["t"] * 21}, "tags: too many (max 20)"),
        ({"content": "a", "tags": ["t" * 201]}, "tags[0]: too long (max 200)"),
        ({"content": "a", "tags": [""]}, "tags[0]: too short (min 1)"),
        ({"content": "a", "tags": [" "]}, "tags[0]: must not be blank"),
        ({"content": "a", "agent_id": "x" * 101}, "agent_id: too long (max 100)"),
        ({"content": "a", "session_id": "x" * 256}, "session_id: too long (max 255)"),
        ({"content": "a", "session_id": " "}, "session_id: must not be blank"),
    ],
)
async def test_fields_that_do_not_go_together_or_are_too_large_are_refused(
    api: Client, body: dict[str, Any], error: str
) -> None:
    answer = await api.post("/memories", json=body)
    assert (answer.status_code, answer.json()) == (400, {"error": error})
    assert (await api.get("/memories?memory_type=insight,pinned,session")).json()["total"] == 0


@pytest.mark.requirement("mem9.create.types", "mem9.error.field")
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"content": 5}, "content: must be a string"),
        ({"content": ["a"]}, "content: must be a string"),
        ({"content": {"a": 1}}, "content: must be a string"),
        ({"content": "a", "tags": "a,b"}, "tags: must be a list"),
        ({"content": "a", "tags": [1]}, "tags[0]: must be a string"),
        ({"content": "a", "sync": "true"}, "sync: must be true or false"),
        ({"content": "a", "sync": 1}, "sync: must be true or false"),
        ({"content": "a", "agent_id": 7}, "agent_id: must be a string"),
        ({"content": "a", "session_id": False}, "session_id: must be a string"),
        ({"messages": {}}, "messages: must be a list"),
        ({"messages": ["a"]}, "messages[0]: must be an object"),
        ({"messages": [{"content": "a"}]}, "messages[0].role: required"),
        ({"messages": [{"role": "user"}]}, "messages[0].content: required"),
        ({"messages": [{"role": "user", "content": "a"}], "mode": 1}, "mode: must be a string"),
        ([], "body: must be an object"),
        ("a", "body: must be an object"),
        (7, "body: must be an object"),
    ],
)
async def test_a_field_of_another_type_is_refused_and_never_coerced(api: Client, body: object, error: str) -> None:
    answer = await api.post("/memories", content=json.dumps(body).encode())
    assert (answer.status_code, answer.json()) == (400, {"error": error})


@pytest.mark.requirement("mem9.create.limits")
async def test_the_largest_content_and_most_tags_are_kept(api: Client, remember: Any) -> None:
    content, tags = "ä" * 25_000, [f"tag {number}" for number in range(20)]
    memory = (await api.get(f"/memories/{await remember(content, tags=tags)}")).json()
    assert (memory["content"], memory["tags"]) == (content, tags)


@pytest.mark.requirement("mem9.create.session_id")
async def test_the_session_of_a_content_is_kept(api: Client, remember: Any) -> None:
    made = await remember("said in a session", session_id="ses-1")
    assert (await api.get(f"/memories/{made}")).json()["session_id"] == "ses-1"
    assert (await api.get("/memories?session_id=ses-1")).json()["total"] == 1


@pytest.mark.requirement("mem9.create.empty")
async def test_empty_fields_are_absent_and_unknown_ones_ignored(api: Client, remember: Any) -> None:
    made = await remember(
        "plain",
        agent_id="",
        session_id="",
        tags=None,
        metadata=None,
        memory_type="",
        messages=[],
        mode="",
        wild={"a": 1},
    )
    memory = (await api.get(f"/memories/{made}")).json()
    assert memory.keys() == {"id", "content", "memory_type", "state", "version", "created_at", "updated_at"}


@pytest.mark.requirement("mem9.create.metadata")
@pytest.mark.parametrize(
    "metadata", [{"a": [1, 2.5, None, {"b": True}]}, [], "text", 0, False, {"ä": "\U0001f600"}, 2**62]
)
async def test_metadata_is_any_json_value(api: Client, remember: Any, metadata: object) -> None:
    made = await remember("with metadata", metadata=metadata)
    assert (await api.get(f"/memories/{made}")).json()["metadata"] == metadata


@pytest.mark.requirement("mem9.create.metadata", "mem9.error.field")
@pytest.mark.parametrize("metadata", [{"a": "x" * 70_000}, json.loads("[" * 40 + "]" * 40)])
async def test_metadata_beyond_its_limits_is_refused(api: Client, metadata: object) -> None:
    answer = await api.post("/memories", json={"content": "a", "metadata": metadata})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("metadata: ")


# --- read ------------------------------------------------------------------------------------------------


@pytest.mark.requirement("mem9.get")
async def test_one_memory_is_read_with_its_version(api: Client, remember: Any) -> None:
    made = await remember("a")
    answer = await api.get(f"/memories/{made.upper()}")
    assert (answer.status_code, answer.headers["etag"]) == (200, "1")
    for unknown in (NOBODY, "none", "mem_1", "%20", "x" * 5000):
        missing = await api.get(f"/memories/{unknown}")
        assert (missing.status_code, missing.json()) == (404, {"error": "not found"})


# --- change ----------------------------------------------------------------------------------------------


@pytest.mark.requirement("mem9.put", "mem9.put.updated_by")
async def test_an_update_replaces_what_it_names(api: Client, remember: Any, clock: Any) -> None:
    made = await remember("Project uses PostgreSQL 15", tags=["tech"], metadata={"a": 1})
    created = iso(clock.now())
    clock.advance(60)
    answer = await api.put(
        f"/memories/{made}",
        headers={"Content-Type": "application/json", "If-Match": "1", "X-Mnemo-Agent-Id": "ada"},
        content=b'{"content":"Project uses PostgreSQL 16","tags":["tech","database"]}',
    )
    expected = {
        "id": made,
        "content": "Project uses PostgreSQL 16",
        "memory_type": "insight",
        "tags": ["tech", "database"],
        "metadata": {"a": 1},
        "updated_by": "ada",
        "state": "active",
        "version": 2,
        "created_at": created,
        "updated_at": iso(clock.now()),
    }
    assert (answer.status_code, answer.headers["etag"], answer.json()) == (200, "2", expected)
    assert (await api.get(f"/memories/{made}")).json() == expected
    assert [row["id"] for row in (await api.get("/memories?q=which PostgreSQL")).json()["memories"]] == [made]


@pytest.mark.requirement("mem9.put.ignored")
@pytest.mark.parametrize("body", [{}, {"content": "", "tags": None, "metadata": None}, {"wild": 1}])
async def test_an_update_that_names_nothing_changes_nothing(api: Client, remember: Any, body: object) -> None:
    made = await remember("a", tags=["t"])
    before = (await api.get(f"/memories/{made}")).json()
    answer = await api.put(f"/memories/{made}", json=body)
    assert (answer.status_code, answer.json(), answer.headers["etag"]) == (200, before, "1")


@pytest.mark.requirement("mem9.put")
async def test_tags_can_be_emptied_and_metadata_replaced(api: Client, remember: Any) -> None:
    made = await remember("a", tags=["t"], metadata={"a": 1})
    answer = (await api.put(f"/memories/{made}", json={"tags": [], "metadata": [2]})).json()
    assert ("tags" in answer, answer["metadata"], answer["version"]) == (False, [2], 2)


@pytest.mark.requirement("mem9.put.if_match")
async def test_a_stale_guard_changes_nothing(api: Client, remember: Any) -> None:
    made = await remember("a")
    await api.put(f"/memories/{made}", json={"content": "b"})
    for stale in ("1", "7", "0", "-1", "9" * 18):
        answer = await api.put(f"/memories/{made}", json={"content": "c"}, headers={"If-Match": stale})
        expected = {"error": f"version conflict: expected {stale}, current is 2"}
        assert (answer.status_code, answer.json()) == (409, expected)
    beyond = await api.put(f"/memories/{made}", json={"content": "c"}, headers={"If-Match": "9" * 30})
    assert beyond.status_code == 409
    assert (await api.get(f"/memories/{made}")).json()["content"] == "b"


@pytest.mark.requirement("mem9.put.if_match.forms", "mem9.error.field")
async def test_a_guard_is_a_number_bare_or_quoted_or_a_star(api: Client, remember: Any) -> None:
    made = await remember("a")
    for version, guard in enumerate(("1", '"2"', "*", " 4 "), start=2):
        answer = await api.put(f"/memories/{made}", json={"tags": [guard]}, headers={"If-Match": guard})
        assert (answer.status_code, answer.json()["version"]) == (200, version)
    for guard in ("", "x", "1.0", '"1', '1, "2"', 'W/"5"'):
        answer = await api.put(f"/memories/{made}", json={"content": "c"}, headers={"If-Match": guard})
        assert (answer.status_code, answer.json()) == (400, {"error": "If-Match: must be a version number or *"})


@pytest.mark.requirement("mem9.put.if_match.advisory")
async def test_an_advisory_guard_is_overwritten(caller: Any, remember: Any) -> None:
    made = await remember("a")
    async with caller.on(mem9_if_match="advisory") as client:
        answer = await client.put(f"/memories/{made}", json={"content": "b"}, headers={"If-Match": "7"})
        invalid = await client.put(f"/memories/{made}", json={"content": "b"}, headers={"If-Match": "x"})
    assert (answer.status_code, answer.json()["version"]) == (200, 2)
    assert invalid.status_code == 400


@pytest.mark.requirement("mem9.put.unknown")
async def test_an_unknown_or_deleted_memory_cannot_be_changed(api: Client, remember: Any) -> None:
    made = await remember("a")
    await api.delete(f"/memories/{made}")
    for unknown in (made, NOBODY, "none"):
        answer = await api.put(f"/memories/{unknown}", json={"content": "b"})
        assert (answer.status_code, answer.json()) == (404, {"error": "not found"})


@pytest.mark.requirement("mem9.error.field", "mem9.create.types", "mem9.create.limits")
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"content": 5}, "content: must be a string"),
        ({"tags": "a"}, "tags: must be a list"),
        ({"tags": ["t"] * 21}, "tags: too many (max 20)"),
        ({"content": "a" * 50_001}, "content: too long (max 50000)"),
        ({"content": " "}, "content: must not be empty"),
    ],
)
async def test_an_update_beyond_the_limits_is_refused(
    api: Client, remember: Any, body: dict[str, Any], error: str
) -> None:
    made = await remember("a")
    answer = await api.put(f"/memories/{made}", json=body)
    assert (answer.status_code, answer.json()) == (400, {"error": error})
    assert (await api.get(f"/memories/{made}")).json()["version"] == 1


# --- delete ----------------------------------------------------------------------------------------------


@pytest.mark.requirement("mem9.delete", "mem9.delete.repeat")
async def test_a_deleted_memory_is_gone_and_deleting_again_is_harmless(api: Client, remember: Any) -> None:
    made = await remember("the parrot is called Coco")
    answers = [await api.delete(f"/memories/{each}") for each in (made, made, NOBODY, "none")]
    assert [(answer.status_code, answer.text) for answer in answers] == [
        (204, ""),
        (204, ""),
        (404, '{"error":"not found"}'),
        (404, '{"error":"not found"}'),
    ]
    assert (await api.get(f"/memories/{made}")).status_code == 404
    assert (await api.get("/memories?state=all")).json()["total"] == 0
    assert (await api.get("/memories?q=parrot&min_confidence=0")).json()["total"] == 0


@pytest.mark.requirement("mem9.batch_delete")
async def test_a_batch_counts_what_was_there(api: Client, remember: Any) -> None:
    first, second, third = [await remember(text) for text in ("a", "b", "c")]
    await api.delete(f"/memories/{first}")
    ids = [first, second, second.upper(), third, NOBODY, "none", ""]
    answer = await api.post("/memories/batch-delete", json={"ids": ids})
    assert (answer.status_code, answer.json()) == (200, {"deleted": 2})
    assert (await api.get("/memories")).json()["total"] == 0


@pytest.mark.requirement("mem9.batch_delete.limits", "mem9.error.field")
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "ids: required"),
        ({"ids": []}, "ids: required"),
        ({"ids": None}, "ids: required"),
        ({"ids": [NOBODY] * 1001}, "ids: too many (max 1000)"),
        ({"ids": NOBODY}, "ids: must be a list"),
        ({"ids": [1]}, "ids[0]: must be a string"),
        ({"ids": ["x" * 256]}, "ids[0]: too long (max 255)"),
    ],
)
async def test_a_batch_of_none_or_too_many_is_refused(api: Client, body: dict[str, Any], error: str) -> None:
    answer = await api.post("/memories/batch-delete", json=body)
    assert (answer.status_code, answer.json()) == (400, {"error": error})


@pytest.mark.requirement("mem9.batch_delete.limits")
async def test_a_thousand_ids_are_taken(api: Client) -> None:
    answer = await api.post("/memories/batch-delete", json={"ids": [str(uuid.uuid4()) for _ in range(1000)]})
    assert answer.json() == {"deleted": 0}


# --- age -------------------------------------------------------------------------------------------------


@pytest.mark.requirement("mem9.memory.age")
async def test_rows_tell_their_age_and_one_memory_does_not(api: Client, remember: Any, clock: Any) -> None:
    made = await remember("the parrot is called Coco")
    ages = []
    for seconds in (59, 1, 60, 3600, 86_400 * 8):
        clock.advance(seconds)
        ages.append((await api.get("/memories")).json()["memories"][0]["relative_age"])
    assert ages == ["just now", "1 minute ago", "2 minutes ago", "1 hour ago", "1 week ago"]
    assert (await api.get("/memories?q=parrot")).json()["memories"][0]["relative_age"] == "1 week ago"
    assert "relative_age" not in (await api.get(f"/memories/{made}")).json()


@pytest.mark.requirement("mem9.memory.age")
@pytest.mark.parametrize(
    ("days", "age"),
    [
        (-1, "just now"),
        (1, "1 day ago"),
        (6, "6 days ago"),
        (29, "4 weeks ago"),
        (364, "12 months ago"),
        (800, "2 years ago"),
    ],
)
async def test_ages_are_told_in_the_largest_unit(clock: Any, days: int, age: str) -> None:
    assert relative_age(clock.now() - timedelta(days=days), clock.now()) == age
