"""The published client, sync and async, against a server process, through every call it has."""

import asyncio
import inspect
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from mnemoverse import AsyncMnemoClient, MnemoClient
from mnemoverse.errors import MnemoAuthError, MnemoError, MnemoRateLimitError, MnemoUnavailableError

from processes import Server, run, serving

NOBODY = UUID("00000000-0000-7000-8000-000000000000")
CALLS = {"write", "write_batch", "read", "recent", "graph", "feedback", "stats", "health"}
Make = Callable[..., "Client"]


class Client:
    """Either client behind one face: every call is awaited, whichever runs it."""

    def __init__(self, made: MnemoClient | AsyncMnemoClient) -> None:
        self._made = made

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        call = getattr(self._made, name)

        async def made(*arguments: Any, **options: Any) -> Any:
            if inspect.iscoroutinefunction(call):
                return await call(*arguments, **options)
            return await asyncio.to_thread(call, *arguments, **options)

        return made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture
def key(server: Server) -> str:
    """A key that opens an empty memory, on a plan of its own."""
    made: str = httpx.post(f"{server.url}/v1alpha1/mem9s", timeout=30, trust_env=False).json()["id"]
    return made


@pytest.fixture(params=[MnemoClient, AsyncMnemoClient])
async def make(request: pytest.FixtureRequest, server: Server, key: str) -> Any:
    """Makes clients of one kind, closed at the end."""
    opened: list[Client] = []

    def made(**options: Any) -> Client:
        given = {"api_key": key, "base_url": server.url, "timeout": 60.0, **options}
        opened.append(Client(request.param(**given)))
        return opened[-1]

    yield made
    for client in opened:
        await client.close()


@pytest.mark.requirement("mnemoverse.client")
def test_every_call_of_the_clients_is_used_here() -> None:
    for kind in (MnemoClient, AsyncMnemoClient):
        public = {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
        assert public - {"close"} == CALLS


@pytest.mark.requirement("mnemoverse.client")
async def test_the_client_writes_reads_teaches_and_counts(make: Make) -> None:
    client = make()
    health = await client.health()
    assert (health.status, health.database) == ("ok", False)
    assert (await client.stats()).total_atoms == 0

    text = "Use exponential backoff when the payment gateway answers 503"
    written = await client.write(
        text, concepts=["backoff", "payment gateway"], domain="project:shop", metadata={"ticket": 7}
    )
    assert written.stored
    assert isinstance(written.atom_id, UUID)
    assert written.reason

    question = "What to do when the payment gateway answers 503?"
    first = await client.read(question, domain="project:shop")
    item = first.items[0]
    assert (item.atom_id, item.content, item.source, item.domain) == (written.atom_id, text, "semantic", "project:shop")
    assert item.metadata == {"ticket": 7}
    assert abs(item.created_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert item.provenance.principal
    assert not first.episodic_hit

    taught = await client.feedback([written.atom_id], 1.0, query_concepts=first.query_concepts or ["gateway errors"])
    assert (taught.updated_count, taught.avg_valence > 0) == (1, True)
    second = await client.read(question, domain="project:shop")
    assert second.items[0].valence == pytest.approx(taught.avg_valence)
    assert second.items[0].relevance > item.relevance

    again = await client.write(text.upper(), domain="project:shop")
    assert (again.stored, again.atom_id) == (False, None)
    assert str(written.atom_id) in again.reason

    stats = await client.stats()
    assert (stats.total_atoms, stats.episodes, stats.domains) == (1, 1, ["project:shop"])
    assert stats.hebbian_edges >= 1


@pytest.mark.requirement("mnemoverse.client")
async def test_the_client_writes_many_with_references(make: Make) -> None:
    client = make()
    batch = await client.write_batch(
        [
            {"content": "Berlin has a television tower", "external_ref": "tower"},
            {"content": "x" * 10_001},
            {"content": "Lisbon has yellow trams"},
        ]
    )
    assert (batch.total_count, batch.stored_count) == (3, 2)
    assert [(row.index, row.stored) for row in batch.results] == [(0, True), (1, False), (2, True)]
    assert "content" in str(batch.results[1].error)
    again = await client.write("Berlin has a television tower", external_ref="tower")
    assert (again.stored, again.atom_id) == (True, batch.results[0].atom_id)
    with pytest.raises(MnemoError) as conflict:
        await client.write("Berlin has two television towers", external_ref="tower")
    assert (conflict.value.status, conflict.value.retryable) == (409, False)


@pytest.mark.requirement("mnemoverse.client")
async def test_the_client_follows_concepts(make: Make) -> None:
    client = make()
    await client.write("Checkout uses Stripe for cards", concepts=["checkout", "stripe"])
    bridge = await client.write("Rotate signing secrets twice a year", concepts=["stripe", "webhook"])
    found = {item.atom_id: item for item in (await client.read("checkout", min_relevance=0.05)).items}
    assert found[bridge.atom_id].source == "hebbian"
    graph = await client.graph(["checkout"], depth=2, limit=10)
    assert [(edge.source, edge.target) for edge in graph.edges] == [("checkout", "stripe"), ("stripe", "webhook")]
    assert {(node.concept, node.degree) for node in graph.nodes} == {("checkout", 1), ("stripe", 2), ("webhook", 1)}
    assert (graph.truncated, graph.min_weight_applied) == (False, 0.05)
    narrow = await client.graph(["checkout"], domain="general", min_weight=0.9)
    assert (narrow.edges, narrow.min_weight_applied) == ([], 0.9)


@pytest.mark.requirement("mnemoverse.client")
async def test_the_client_follows_corrections_and_pages(make: Make) -> None:
    client = make()
    before = datetime.now(UTC) - timedelta(seconds=1)
    old = await client.write("The meetup is on Tuesday")
    new = await client.write("The meetup is on Thursday", supersedes=[old.atom_id], fingerprint="meetup-day")
    assert new.superseded == [old.atom_id]
    live = await client.read("When is the meetup?", min_relevance=0.0)
    history = await client.read("When is the meetup?", min_relevance=0.0, include_history=True)
    assert [(item.atom_id, item.supersedes) for item in live.items] == [(new.atom_id, [old.atom_id])]
    assert {item.atom_id: item.superseded_by for item in history.items} == {
        new.atom_id: None,
        old.atom_id: new.atom_id,
    }
    known = await client.read("anything", fingerprint="meetup-day")
    assert known.episodic_hit
    assert [item.source for item in known.items if item.atom_id == new.atom_id] == ["episodic"]

    for number in range(5):
        await client.write(f"Guest {number} brings {number + 2} cakes", domain="guests")
    pages, cursor = [], None
    for _ in range(4):
        page = await client.recent(domain="guests", limit=2, cursor=cursor)
        pages.append([item.content for item in page.items])
        cursor = page.next_cursor
        if cursor is None:
            break
    assert pages == [
        ["Guest 4 brings 6 cakes", "Guest 3 brings 5 cakes"],
        ["Guest 2 brings 4 cakes", "Guest 1 brings 3 cakes"],
        ["Guest 0 brings 2 cakes"],
    ]
    everything = await client.recent(since=before, until=datetime.now(UTC) + timedelta(minutes=1), include_history=True)
    assert len(everything.items) == 7
    author = everything.items[0].provenance.principal
    assert (await client.recent(exclude_author=author)).items == []

    ordered = await client.read(
        "Who brings cakes?", top_k=3, min_relevance=0.0, order_by="recency", since=before, diversity=0.5
    )
    times = [item.created_at for item in ordered.items]
    assert (len(times), times) == (3, sorted(times, reverse=True))
    assert (await client.read("Who brings cakes?", until=before.isoformat())).items == []
    assert (await client.read("Who brings cakes?", exclude_author=author, concepts=["cake"])).items == []


@pytest.mark.requirement("mnemoverse.client.errors")
async def test_the_client_understands_every_refusal(make: Make) -> None:
    with pytest.raises(MnemoAuthError, match="Invalid or missing API key"):
        await make(api_key="mk_live_nobodys_key_at_all").stats()
    client = make()
    with pytest.raises(MnemoError, match=r"content: too long \(max 10000\)") as too_long:
        await client.write("x" * 10_001)
    assert (too_long.value.status, too_long.value.retryable) == (422, False)
    with pytest.raises(MnemoError, match="supersedes") as in_batch:
        await client.write_batch([{"content": "a", "supersedes": [str(NOBODY)]}])
    assert in_batch.value.status == 422
    with pytest.raises(MnemoError, match="atom not found") as absent:
        await client.write("a", supersedes=[NOBODY])
    assert absent.value.status == 404
    with pytest.raises(MnemoError, match="cursor") as damaged:
        await client.recent(cursor="damaged")
    assert damaged.value.status == 400
    assert (await client.feedback([NOBODY], -1.0)).updated_count == 0


@pytest.mark.requirement("mnemoverse.client.errors")
async def test_the_client_understands_spent_limits(make: Make, server: Server) -> None:
    def on_plan(name: str, *limits: str) -> Client:
        """A client on a plan of its own, without retries."""
        _command(server, "plans", "set", name, *limits)
        made = json.loads(_command(server, "tenants", "create", name, "--plan", name, "--json"))
        return make(api_key=made["secret"], max_retries=0)

    brief = on_plan("brief", "--requests-per-minute", "1", "--burst", "1")
    await brief.stats()
    with pytest.raises(MnemoRateLimitError, match="rate limit exceeded") as minute:
        await brief.stats()
    assert minute.value.retryable
    assert 0 < (minute.value.retry_after or 0) <= 60

    curious = on_plan("curious", "--requests-per-minute", "600", "--queries-per-day", "1")
    await curious.read("what is new?")
    with pytest.raises(MnemoRateLimitError, match="1 queries a day") as day:
        await curious.read("what is new?")
    assert not day.value.retryable
    assert 0 < (day.value.retry_after or 0) <= 86_400

    tiny = on_plan("tiny", "--requests-per-minute", "600", "--max-memories", "1")
    await tiny.write("The one there is room for")
    with pytest.raises(MnemoRateLimitError, match="plan limit reached: 1 memories") as full:
        await tiny.write("Bread is baked on Mondays")
    assert (full.value.retryable, full.value.retry_after) == (False, None)


def _command(server: Server, *arguments: str) -> str:
    done = run(*arguments, "--data-dir", str(server.data_dir))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.requirement("mnemoverse.client.errors")
async def test_the_client_understands_a_server_that_is_away(make: Make) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(MnemoUnavailableError):
        await make(base_url=f"http://127.0.0.1:{port}", max_retries=0).health()
