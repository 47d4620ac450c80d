"""Lists and recall."""

from typing import Any

import pytest

from polymem.domain.scoring import DEFAULT_RELEVANCE_CUT
from polymem.engine.retrieve import POOL_SIZES

Client = Any


async def contents(api: Client, query: str) -> list[str]:
    answer = await api.get(f"/memories?{query}")
    assert answer.status_code == 200, answer.text
    return [memory["content"] for memory in answer.json()["memories"]]


# --- lists -----------------------------------------------------------------------------------------------


@pytest.mark.requirement("mem9.list", "mem9.memory.shape")
async def test_a_list_shows_the_newest_change_first(api: Client, remember: Any, clock: Any) -> None:
    made = []
    for content in ("a", "b", "c"):
        made.append(await remember(content, tags=["t"]))
        clock.advance(3600)
    await api.put(f"/memories/{made[0]}", json={"metadata": {"k": 1}})
    answer = await api.get("/memories?limit=2")
    page = answer.json()
    assert [memory["content"] for memory in page["memories"]] == ["a", "c"]
    assert {name: page[name] for name in ("total", "limit", "offset")} == {"total": 3, "limit": 2, "offset": 0}
    whole = (await api.get(f"/memories/{made[0]}")).json()
    assert page["memories"][0] == whole | {"relative_age": "just now"}
    assert await contents(api, "limit=2&offset=2") == ["b"]
    assert await contents(api, "offset=7") == []
    assert (await api.get("/memories?offset=7")).json()["total"] == 3


@pytest.mark.requirement("mem9.list.limit")
@pytest.mark.parametrize(
    ("query", "limit", "offset"),
    [
        ("", 10, 0),
        ("limit=", 10, 0),
        ("limit=0", 10, 0),
        ("limit=-3", 10, 0),
        ("limit=ten", 10, 0),
        ("limit=1.5", 10, 0),
        ("limit=1000", 1000, 0),
        ("limit=1001", 1000, 0),
        ("limit=99999999999", 1000, 0),
        ("limit=99999999999999999999999", 1000, 0),
        ("limit=-99999999999999999999999", 10, 0),
        ("offset=99999999999999999999999", 10, 1000000),
        ("limit=1&limit=7", 7, 0),
        ("offset=-1", 10, 0),
        ("offset=x", 10, 0),
        ("offset=99999999999", 10, 1_000_000),
        ("limit=5&offset=3", 5, 3),
    ],
)
async def test_the_applied_page_is_echoed(api: Client, query: str, limit: int, offset: int) -> None:
    assert (await api.get(f"/memories?{query}")).json() == {
        "memories": [],
        "total": 0,
        "limit": limit,
        "offset": offset,
    }


async def _fill(api: Client, remember: Any) -> None:
    """One memory of each type about the harbour; they differ in all that can be filtered."""
    await remember("harbour insight", tags=["sea", "work"], agent_id="ada", session_id="s1")
    await remember("harbour pinned", tags=["sea"], memory_type="pinned", headers={"X-Mnemo-Agent-Id": "bob"})
    body = {"messages": [{"role": "user", "content": "harbour session"}], "session_id": "s2", "tags": ["sea", "talk"]}
    await api.post("/memories", json=body, headers={"X-Mnemo-Agent-Id": "cleo"})


EVERY_TYPE = "memory_type=insight,pinned,session"


@pytest.mark.requirement("mem9.list.no_sessions", "mem9.filter.memory_type")
async def test_a_list_holds_session_rows_only_when_asked(api: Client, remember: Any) -> None:
    await _fill(api, remember)
    assert set(await contents(api, "")) == {"harbour insight", "harbour pinned"}
    assert await contents(api, "memory_type=session") == ["harbour session"]
    assert len(await contents(api, EVERY_TYPE)) == 3
    assert await contents(api, "memory_type=pinned,") == ["harbour pinned"]
    assert set(await contents(api, "memory_type=")) == {"harbour insight", "harbour pinned"}


@pytest.mark.requirement("mem9.filter.tags", "mem9.filter.source", "mem9.filter.rows", "mem9.filter.memory_type")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("tags=sea", {"insight", "pinned", "session"}),
        ("tags=sea,work", {"insight"}),
        ("tags=sea, talk ,", {"session"}),
        ("tags=sea,none", set()),
        ("tags=", {"insight", "pinned", "session"}),
        ("source=bob", {"pinned"}),
        ("source=cleo", {"session"}),
        ("source=nobody", set()),
        ("agent_id=ada", {"insight"}),
        ("agent_id=cleo", {"session"}),
        ("session_id=s1", {"insight"}),
        ("session_id=s2", {"session"}),
        ("session_id=s2&tags=work", set()),
        ("source=&agent_id=&session_id=", {"insight", "pinned", "session"}),
        ("state=all", {"insight", "pinned", "session"}),
        ("state=active", {"insight", "pinned", "session"}),
        ("state=active,archived", {"insight", "pinned", "session"}),
        ("state=paused", set()),
        ("state=archived", set()),
        ("state=deleted", set()),
        ("memory_type=insight,session", {"insight", "session"}),
    ],
)
async def test_every_filter_acts_on_every_row_with_and_without_a_question(
    api: Client, remember: Any, query: str, expected: set[str]
) -> None:
    await _fill(api, remember)
    rows = query if "memory_type" in query else f"{EVERY_TYPE}&{query}"
    wanted = {f"harbour {name}" for name in expected}
    assert set(await contents(api, rows)) == wanted
    assert set(await contents(api, f"q=harbour&min_confidence=0&{query}")) == wanted


@pytest.mark.requirement("mem9.filter.state", "mem9.filter.memory_type", "mem9.error.field")
@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("state=open", "state: must be active, paused, archived, deleted, all"),
        ("state=active,open", "state: must be active, paused, archived, deleted, all"),
        ("memory_type=note", "memory_type: must be insight, pinned, session"),
        ("memory_type=insight,note", "memory_type: must be insight, pinned, session"),
        ("updated_from=yesterday", "updated_from: must be an ISO-8601 time"),
        ("updated_to=0001-01-01T00:00:00", "updated_to: must be a year from 2 to 9998"),
        ("q=a&min_confidence=x", "min_confidence: must be an integer from 0 to 100"),
        ("q=a&min_confidence=101", "min_confidence: must be an integer from 0 to 100"),
        ("q=a&min_confidence=-1", "min_confidence: must be an integer from 0 to 100"),
    ],
)
async def test_a_filter_nobody_knows_is_refused(api: Client, query: str, error: str) -> None:
    for question in ("", "&q=a"):
        answer = await api.get(f"/memories?{query}{question}")
        assert (answer.status_code, answer.json()) == (400, {"error": error})


@pytest.mark.requirement("mem9.filter.updated")
async def test_changes_are_filtered_by_time(api: Client, remember: Any, clock: Any) -> None:
    await remember("old")
    clock.advance(60)
    moment = clock.now().isoformat().replace("+00:00", "Z")
    await remember("new")
    assert await contents(api, f"updated_from={moment}") == ["new"]
    assert await contents(api, f"updated_to={moment}") == ["old"]
    assert await contents(api, f"updated_to={moment[:-1]}") == ["old"]
    assert len(await contents(api, "updated_from=&updated_to=")) == 2


@pytest.mark.requirement("mem9.search.blank")
@pytest.mark.parametrize("query", ["q=", "q=%20", "q=&limit=500"])
async def test_a_blank_question_is_a_list(api: Client, remember: Any, query: str) -> None:
    await remember("anything")
    row = (await api.get(f"/memories?{query}")).json()["memories"][0]
    assert "confidence" not in row


# --- recall ----------------------------------------------------------------------------------------------


@pytest.mark.requirement("mem9.search", "mem9.memory.shape")
async def test_the_pages_question_finds_its_memory(api: Client, remember: Any) -> None:
    made = await remember("Project uses PostgreSQL 15", tags=["tech", "database"], metadata={"source": "setup-note"})
    await remember("The cat sleeps on the green sofa")
    page = (await api.get("/memories?q=postgres&limit=5")).json()
    row = page["memories"][0]
    whole = (await api.get(f"/memories/{made}")).json()
    assert page == {"memories": [row], "total": 1, "limit": 5, "offset": 0}
    assert row == whole | {"relative_age": "just now", "score": row["score"], "confidence": row["confidence"]}
    assert isinstance(row["confidence"], int)
    assert 100 * DEFAULT_RELEVANCE_CUT <= row["confidence"] <= 100


@pytest.mark.requirement("mem9.search.cut", "mem9.search.min_confidence")
async def test_the_cut_leaves_out_what_does_not_answer(api: Client, remember: Any) -> None:
    await remember("The harbour opens at six in the morning")
    await remember("Bananas are yellow")
    question = "q=when does the harbour open"
    cut = (await api.get(f"/memories?{question}")).json()
    uncut = (await api.get(f"/memories?{question}&min_confidence=0")).json()
    assert [row["content"] for row in cut["memories"]] == ["The harbour opens at six in the morning"]
    assert (cut["total"], uncut["total"]) == (1, 2)
    confidences = [row["confidence"] for row in uncut["memories"]]
    assert confidences == sorted(confidences, reverse=True)
    strict = (await api.get(f"/memories?{question}&min_confidence=100")).json()
    assert strict["total"] == len([each for each in confidences if each == 100])


@pytest.mark.requirement("mem9.search.limit")
async def test_pages_of_a_question_follow_each_other(api: Client, remember: Any) -> None:
    for number in range(5):
        await remember(f"harbour note number {number}")
    whole = await contents(api, "q=harbour note&min_confidence=0")
    pages = [await contents(api, f"q=harbour note&min_confidence=0&limit=2&offset={start}") for start in (0, 2, 4, 6)]
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert [row for page in pages for row in page] == whole
    for asked, applied in (("200", 200), ("201", 200), ("x", 10)):
        answer = (await api.get(f"/memories?q=harbour&limit={asked}")).json()
        assert (answer["limit"], answer["total"]) == (applied, 5)
    far = (await api.get(f"/memories?q=harbour&offset={POOL_SIZES[-1]}")).json()
    assert (far["memories"], far["total"]) == ([], 5)


@pytest.mark.requirement("mem9.search.pinned")
async def test_a_relevant_pinned_memory_comes_first(api: Client, remember: Any) -> None:
    await remember("when does the harbour open")
    await remember("The harbour opens at six", memory_type="pinned")
    await remember("Bananas are yellow", memory_type="pinned")
    found = await contents(api, "q=when does the harbour open&min_confidence=0")
    assert found == ["The harbour opens at six", "when does the harbour open", "Bananas are yellow"]
    assert await contents(api, "q=when does the harbour open&limit=1&offset=1") == ["when does the harbour open"]


@pytest.mark.requirement("mem9.messages.recall", "mem9.search")
async def test_captured_turns_are_recalled_as_session_rows(api: Client) -> None:
    turns = [
        {"role": "user", "content": "My sister Mara moved to Lisbon in May"},
        {"role": "assistant", "content": "Nice!"},
    ]
    await api.post("/memories", json={"messages": turns, "session_id": "ses-1"})
    row = (await api.get("/memories?q=where does Mara live")).json()["memories"][0]
    assert (row["content"], row["memory_type"], row["session_id"], row["version"]) == (
        "My sister Mara moved to Lisbon in May",
        "session",
        "ses-1",
        0,
    )
    assert row["metadata"] == {"role": "user", "seq": 0, "content_type": "text"}
