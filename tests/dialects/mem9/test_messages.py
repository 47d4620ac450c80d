"""Conversations taken in and read back."""

import json
import uuid
from typing import Any

import pytest

Client = Any


def say(*texts: Any, role: str = "user", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for text in texts], **fields}


async def rows(api: Client, query: str = "session_id=ses") -> list[dict[str, Any]]:
    answer = await api.get(f"/session-messages?{query}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["messages"]
    return found


@pytest.mark.requirement("mem9.messages.accepted", "mem9.session_messages", "mem9.session_messages.shape")
async def test_turns_are_readable_when_answered(api: Client, clock: Any) -> None:
    body = {
        "messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi", "seq": 7}],
        "session_id": "ses",
        "tags": ["chat"],
    }
    answer = await api.post("/memories", json=body, headers={"X-Mnemo-Agent-Id": "openclaw-main"})
    assert (answer.status_code, answer.json()) == (202, {"status": "accepted"})
    now = clock.now().isoformat().replace("+00:00", "Z")
    found = await rows(api)
    shared = {
        "session_id": "ses",
        "agent_id": "openclaw-main",
        "source": "openclaw-main",
        "content_type": "text",
        "tags": ["chat"],
        "state": "active",
    }
    assert found[0] == shared | {
        "id": found[0]["id"],
        "role": "user",
        "seq": 0,
        "content": "hello",
        "created_at": now,
        "updated_at": now,
    }
    assert (found[1]["seq"], found[1]["role"], found[1]["content"]) == (7, "assistant", "hi")


@pytest.mark.requirement("mem9.messages.accepted", "mem9.session_messages")
async def test_a_long_conversation_in_a_large_body_is_taken_in_whole(api: Client) -> None:
    texts = [f"turn {number} " + "and so on " * 50 for number in range(600)]
    answer = await api.post("/memories", json=say(*texts, session_id="ses", sync=True))
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert [(row["seq"], row["content"]) for row in await rows(api)] == list(enumerate(texts[:500]))


@pytest.mark.requirement("mem9.messages.accepted", "mem9.messages.id")
async def test_one_turn_tells_its_id(api: Client) -> None:
    one = await api.post("/memories", json=say("hello", session_id="ses", sync=True))
    two = await api.post("/memories", json=say("how", "are you", session_id="ses", sync=True))
    made = one.json()["id"]
    assert (one.status_code, one.json()) == (200, {"status": "ok", "id": made})
    assert (two.status_code, two.json()) == (200, {"status": "ok"})
    assert (await api.get(f"/memories/{made}")).json()["memory_type"] == "session"


@pytest.mark.requirement("mem9.messages.session")
async def test_without_a_session_one_is_made_and_told(api: Client) -> None:
    answer = (await api.post("/memories", json=say("a", "b"))).json()
    assert answer.keys() == {"status", "session_id"}
    assert len(await rows(api, f"session_id={answer['session_id']}")) == 2


@pytest.mark.requirement("mem9.messages.repeat")
async def test_a_turn_sent_again_is_stored_once(api: Client, clock: Any) -> None:
    for body in (
        say("hello", "again", session_id="ses"),
        say("hello", session_id="ses"),
        say("hello", session_id="two"),
    ):
        assert (await api.post("/memories", json=body)).status_code == 202
    clock.advance(1)
    numbered = {"messages": [{"role": "user", "content": "hello", "seq": 9}], "session_id": "ses"}
    for _ in range(2):
        await api.post("/memories", json=numbered)
    assert [(row["content"], row["seq"]) for row in await rows(api)] == [("hello", 0), ("again", 1), ("hello", 9)]
    assert len(await rows(api, "session_id=two")) == 1


@pytest.mark.requirement("mem9.messages.recalled")
async def test_recalled_memories_are_cut_out_of_turns(api: Client) -> None:
    block = "<relevant-memories>\nold news\n</relevant-memories>"
    await api.post("/memories", json=say(f"{block} what is new?", block, " ", "", session_id="ses"))
    assert [row["content"].strip() for row in await rows(api)] == ["what is new?"]


@pytest.mark.requirement("mem9.messages.mode")
@pytest.mark.parametrize("mode", ["smart", "raw", "anything", "", None])
async def test_any_mode_keeps_the_turns(api: Client, mode: str | None) -> None:
    answer = await api.post("/memories", json=say("hello", session_id="ses", mode=mode))
    assert answer.status_code == 202
    assert len(await rows(api)) == 1
    assert (await api.get("/memories")).json()["total"] == 0


@pytest.mark.requirement("mem9.messages.created_at", "mem9.error.field")
async def test_a_turn_keeps_its_time(api: Client) -> None:
    times = {
        "2025-05-01T10:00:00+02:00": "2025-05-01T08:00:00Z",
        "2025-05-01T10:00:00": "2025-05-01T10:00:00Z",
        "2025-05-01T10:00:01.5Z": "2025-05-01T10:00:01.500000Z",
        "2025-05-02": "2025-05-02T00:00:00Z",
    }
    messages = [{"role": "user", "content": given, "created_at": given} for given in times]
    await api.post("/memories", json={"messages": messages, "session_id": "ses"})
    assert {row["content"]: row["created_at"] for row in await rows(api)} == times
    for wrong, error in (
        ("yesterday", "must be an ISO-8601 time"),
        ("0001-01-01T00:00:00Z", "must be a year from 2 to 9998"),
        (5, "must be a string"),
    ):
        answer = await api.post("/memories", json={"messages": [{"role": "u", "content": "x", "created_at": wrong}]})
        assert (answer.status_code, answer.json()) == (400, {"error": f"messages[0].created_at: {error}"})


@pytest.mark.requirement("mem9.messages.parts", "mem9.session_messages.shape")
async def test_parts_are_joined_or_kept_as_json(api: Client) -> None:
    words = [{"type": "text", "text": "look"}, {"type": "text", "text": "here"}]
    picture = [{"type": "text", "text": "look"}, {"type": "image", "url": "a.png"}]
    await api.post("/memories", json=say(words, picture, session_id="ses"))
    first, second = await rows(api)
    assert (first["content"], first["content_type"]) == ("look\nhere", "text")
    assert (json.loads(second["content"]), second["content_type"]) == (picture, "json")


@pytest.mark.requirement("mem9.messages.parts", "mem9.error.field")
@pytest.mark.parametrize(
    ("content", "error"),
    [
        (5, "must be a string or a list of parts"),
        (None, "must be a string or a list of parts"),
        ({"type": "text"}, "must be a string or a list of parts"),
        (["look"], "every part must be an object with a type"),
        ([{"text": "look"}], "every part must be an object with a type"),
    ],
)
async def test_another_content_is_refused(api: Client, content: object, error: str) -> None:
    answer = await api.post("/memories", json=say(content))
    assert (answer.status_code, answer.json()) == (400, {"error": f"messages[0].content: {error}"})


@pytest.mark.requirement("mem9.messages.limits", "mem9.error.field")
@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([{"role": "u", "content": ""}] * 10_001, "messages: too many (max 10000)"),
        ([{"role": "u", "content": "x" * 1_000_001}], "messages[0].content: too long (max 1000000)"),
        ([{"role": "", "content": "x"}], "messages[0].role: too short (min 1)"),
        ([{"role": " ", "content": "x"}], "messages[0].role: must not be blank"),
        ([{"role": "r" * 65, "content": "x"}], "messages[0].role: too long (max 64)"),
        ([{"role": "u", "content": "x", "seq": -1}], "messages[0].seq: must be at least 0"),
        ([{"role": "u", "content": "x", "seq": 2**31}], "messages[0].seq: must be at most 2147483647"),
        ([{"role": "u", "content": "x", "seq": "1"}], "messages[0].seq: must be an integer"),
        ([{"role": "u", "content": "x"}, {"role": 5, "content": "x"}], "messages[1].role: must be a string"),
    ],
)
async def test_turns_beyond_their_limits_are_refused_whole(api: Client, messages: object, error: str) -> None:
    answer = await api.post("/memories", json={"messages": messages, "session_id": "ses"})
    assert (answer.status_code, answer.json()) == (400, {"error": error})
    assert await rows(api) == []


@pytest.mark.requirement("mem9.messages.accepted")
async def test_turns_keep_their_agent_and_metadata(api: Client) -> None:
    answer = await api.post(
        "/memories", json=say("hello", session_id="ses", agent_id="ada", metadata={"a": 1}, sync=True)
    )
    memory = (await api.get(f"/memories/{answer.json()['id']}")).json()
    assert memory["agent_id"] == "ada"
    assert memory["metadata"] == {"a": 1, "role": "user", "seq": 0, "content_type": "text"}


@pytest.mark.requirement("mem9.session_messages")
async def test_sessions_come_in_order_and_only_those_asked_for(api: Client) -> None:
    for session in ("ses-002", "ses-001", "ses-003"):
        await api.post("/memories", json=say("a", "b", session_id=session))
    found = await rows(api, "session_id=ses-002&session_id=ses-001&session_id=none")
    assert [(row["session_id"], row["seq"]) for row in found] == [
        ("ses-001", 0),
        ("ses-001", 1),
        ("ses-002", 0),
        ("ses-002", 1),
    ]


@pytest.mark.requirement("mem9.session_messages.ids", "mem9.error.field")
async def test_sessions_are_named_once_each_and_at_most_a_hundred(api: Client) -> None:
    await api.post("/memories", json=say("a", session_id="ses"))
    assert len(await rows(api, "session_id=ses&session_id=ses&session_id=")) == 1
    hundred = "&".join(f"session_id={number}" for number in range(100))
    assert await rows(api, f"{hundred}&session_id=7") == []
    for query, error in (
        ("", "session_id: at least one session_id required"),
        ("session_id=&session_id=%20", "session_id: at least one session_id required"),
        (f"{hundred}&session_id=one-more", "session_id: too many session_ids: maximum is 100"),
    ):
        answer = await api.get(f"/session-messages?{query}")
        assert (answer.status_code, answer.json()) == (400, {"error": error})


@pytest.mark.requirement("mem9.session_messages.limit", "mem9.error.field")
@pytest.mark.parametrize(
    ("given", "applied"), [(None, 500), ("", 500), ("2", 2), ("500", 500), ("501", 500), ("99999999", 500)]
)
async def test_rows_of_a_session_are_limited(api: Client, given: str | None, applied: int) -> None:
    await api.post("/memories", json=say("a", "b", "c", session_id="ses"))
    query = "" if given is None else f"&limit_per_session={given}"
    answer = (await api.get(f"/session-messages?session_id=ses{query}")).json()
    assert (answer["limit_per_session"], len(answer["messages"])) == (applied, min(applied, 3))


@pytest.mark.requirement("mem9.session_messages.limit")
@pytest.mark.parametrize("given", ["0", "-1", "x", "1.5", "%20"])
async def test_a_limit_that_is_no_positive_integer_is_refused(api: Client, given: str) -> None:
    answer = await api.get(f"/session-messages?session_id=ses&limit_per_session={given}")
    assert (answer.status_code, answer.json()) == (400, {"error": "limit_per_session: must be a positive integer"})


@pytest.mark.requirement("mem9.session_messages.shape")
async def test_a_row_without_extras_has_an_empty_list_of_tags(api: Client) -> None:
    await api.post("/memories", json=say("a", session_id="ses"))
    row = (await rows(api))[0]
    assert row["tags"] == []
    assert row.keys() == {
        "id",
        "session_id",
        "seq",
        "role",
        "content",
        "content_type",
        "tags",
        "state",
        "created_at",
        "updated_at",
    }
    assert str(uuid.UUID(row["id"])) == row["id"]
