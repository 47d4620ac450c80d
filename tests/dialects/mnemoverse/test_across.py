"""One memory, many APIs: what mnemoverse keeps is mem9's too, and the reverse."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

Client = Any
QUESTION = "Where does the ferry to Norway leave?"
TEXT = "The ferry to Norway leaves from pier nine"
AGENT = {"X-Mnemo-Agent-Id": "harbour-bot"}


@pytest_asyncio.fixture(loop_scope="session")
async def mem9(house: Any, app: Any, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """The same key at the other API."""
    async with house.client(app, {"X-API-Key": key}) as client:
        client.base_url = httpx.URL("http://127.0.0.1:8765/v1alpha2/mem9s")
        yield client


@pytest.mark.requirement("mnemoverse.across")
async def test_what_is_written_here_is_listed_and_found_by_mem9(mem9: Client, write: Any, api: Client) -> None:
    made = await write(TEXT, headers=AGENT, metadata={"source": "timetable"}, concepts=["ferry"])
    await write("The ferry to Norway is said to leave from another domain", domain="project:x")
    atom = (await api.get(f"/memory/atoms/{made}")).json()
    listed = (await mem9.get("/memories")).json()["memories"]
    found = (await mem9.get("/memories", params={"q": QUESTION})).json()["memories"]
    expected = {
        "id": made,
        "content": TEXT,
        "memory_type": "insight",
        "metadata": {"source": "timetable"},
        "source": "harbour-bot",
        "agent_id": "harbour-bot",
        "state": "active",
        "version": 1,
        "created_at": atom["created_at"],
        "updated_at": atom["updated_at"],
    }
    for rows in (listed, found):
        assert len(rows) == 1
        assert {name: rows[0][name] for name in expected} == expected
    await mem9.delete(f"/memories/{made}")
    assert (await api.get(f"/memory/atoms/{made}")).status_code == 404


@pytest.mark.requirement("mnemoverse.across")
async def test_what_mem9_keeps_is_an_atom_of_general(
    mem9: Client, api: Client, read: Any, house: Any, key: str
) -> None:
    said = {"content": TEXT, "metadata": {"source": "timetable"}, "tags": ["harbour"], "sync": True}
    made = (await mem9.post("/memories", json=said, headers=AGENT)).json()["id"]
    row = (await mem9.get(f"/memories/{made}")).json()
    atom = (await api.get(f"/memory/atoms/{made}")).json()
    principal = await house.engine.keys.authenticate(key)
    provenance = {
        "principal": principal.user_id,
        "agent": "harbour-bot",
        "agent_name": None,
        "client_env": "harbour-bot",
        "is_external": False,
    }
    assert atom == {
        "atom_id": made,
        "content": TEXT,
        "concepts": atom["concepts"],
        "importance": atom["importance"],
        "valence": 0.0,
        "domain": "general",
        "metadata": {"source": "timetable"},
        "atom_type": "episode",
        "state": "active",
        "source_ids": [],
        "supersedes": [],
        "superseded_by": None,
        "external_ref": None,
        "fingerprint": None,
        "tags": ["harbour"],
        "memory_type": "insight",
        "version": 1,
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "provenance": provenance,
    }
    assert [(item["atom_id"], item["domain"]) for item in await read(QUESTION, domain="general")] == [(made, "general")]
    recent = (await api.post("/memory/recent", json={})).json()["items"]
    assert [item["atom_id"] for item in recent] == [made]
    assert (await api.get("/memory/domains")).json() == {"domains": ["general"]}
    # It is taught here, and changed there without losing what it learned.
    await api.post("/memory/feedback", json={"atom_ids": [made], "outcome": 1})
    valence = (await api.get(f"/memory/atoms/{made}")).json()["valence"]
    await mem9.put(f"/memories/{made}", json={"tags": ["port"]})
    changed = (await api.get(f"/memory/atoms/{made}")).json()
    assert (changed["valence"], changed["tags"], changed["version"]) == (valence, ["port"], 2)
    assert valence > 0
    # What is there already is no news, whoever wrote it.
    again = (await api.post("/memory/write", json={"content": TEXT})).json()
    assert (again["stored"], made in again["reason"]) == (False, True)


@pytest.mark.requirement("mnemoverse.across.metadata")
@pytest.mark.parametrize(
    ("kept", "shown"),
    [
        (None, {}),
        ([1, 2], {"value": [1, 2]}),
        ("text", {"value": "text"}),
        (0, {"value": 0}),
        ({"a": None}, {"a": None}),
    ],
)
async def test_metadata_is_always_an_object(mem9: Client, api: Client, kept: Any, shown: Any) -> None:
    made = (await mem9.post("/memories", json={"content": "a note", "metadata": kept, "sync": True})).json()["id"]
    assert (await api.get(f"/memory/atoms/{made}")).json()["metadata"] == shown


@pytest.mark.requirement("mnemoverse.across.turns")
async def test_a_captured_turn_is_an_atom_too(mem9: Client, api: Client, read: Any) -> None:
    turns = [{"role": "user", "content": TEXT}]
    sent = {"messages": turns, "session_id": "s", "sync": True}
    made = (await mem9.post("/memories", json=sent)).json()["id"]
    assert [item["atom_id"] for item in await read(QUESTION)] == [made]
    assert (await api.get(f"/memory/atoms/{made}")).json()["memory_type"] == "session"
