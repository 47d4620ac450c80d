"""No read of a tenant's store walks a whole table: the plans of all statements name an index."""

import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from polymem.domain.model import (
    JobId,
    JobKind,
    KeyId,
    MemoryId,
    MemoryType,
    ModelIdentity,
    SpaceId,
    SpaceKind,
    TenantId,
    UserId,
)
from polymem.domain.query import FeedPosition, ListOrder, MemoryFilter
from polymem.storage.sqlite.memories import SqliteTenantStore
from polymem.storage.sqlite.storage import SqliteStorage

AT = datetime(2025, 1, 1, tzinfo=UTC)
FEED = MemoryFilter(spaces=frozenset({SpaceId("s")}))
ONE, TWO = frozenset({SpaceId("s")}), frozenset({SpaceId("s"), SpaceId("t")})
MEMORIES = frozenset({MemoryType.INSIGHT, MemoryType.PINNED})
MODEL = ModelIdentity(name="m", revision="1", dimension=1, token_dimension=1)
LARGE = ("memories", "m", "r", "memory_concepts", "c", "associations", "a", "memory_tags", "t", "memory_versions", "v",
         "tombstones", "index_entries", "jobs", "j", "e", "job_dispatch", "d", "keys", "k", "users", "u",
         "idempotency")  # fmt: skip

Read = Callable[[SqliteStorage], Awaitable[object]]


def _list(order: ListOrder = ListOrder.UPDATED_NEWEST, **conditions: object) -> Read:
    where = MemoryFilter(**{"spaces": ONE, "memory_types": MEMORIES, **conditions})  # type: ignore[arg-type]
    return lambda storage: storage.tenant(TenantId("a")).list_memories(where, order=order, limit=10, offset=0)


def _store(storage: SqliteStorage) -> SqliteTenantStore:
    return storage.tenant(TenantId("a"))


READS: dict[str, Read] = {
    "list": _list(),
    "list by creation": _list(ListOrder.CREATED_NEWEST),
    "list of all types": _list(memory_types=None),
    "list of all states": _list(states=None, memory_types=None),
    "list of two spaces": _list(spaces=TWO),
    "list by tags": _list(tags=("x", "y")),
    "list by source": _list(source="x"),
    "list by agent": _list(agent_id="x"),
    "list by session": _list(session_ids=frozenset({"x"}), memory_types=None),
    "list by sessions": _list(session_ids=frozenset({"x", "y"}), memory_types=None),
    "list by time": _list(updated_from_at=AT, created_until_at=AT),
    "get": lambda storage: storage.tenant(TenantId("a")).get_memories([MemoryId("m"), MemoryId("n")], TWO),
    "deleted": lambda storage: storage.tenant(TenantId("a")).is_deleted(MemoryId("m"), TWO),
    "versions": lambda storage: storage.tenant(TenantId("a")).list_versions(MemoryId("m"), TWO),
    "session": lambda storage: storage.tenant(TenantId("a")).list_session_messages(["x"], TWO, limit_per_session=9),
    "last seq": lambda storage: storage.tenant(TenantId("a")).last_seq("x", SpaceId("s")),
    "known identities": lambda storage: storage.tenant(TenantId("a")).known_identities(["x", "y"]),
    "count": lambda storage: storage.tenant(TenantId("a")).count_memories(),
    "without vectors": lambda storage: storage.tenant(TenantId("a")).list_without_vectors(MODEL, limit=9),
    "spaces": lambda storage: storage.tenant(TenantId("a")).list_spaces(UserId("u")),
    "feed": lambda storage: _store(storage).feed(FEED, after=None, limit=9, with_superseded=True),
    "feed from a position": lambda storage: _store(storage).feed(
        FEED, after=FeedPosition(AT, MemoryId("m")), limit=9, with_superseded=False
    ),
    "reference": lambda storage: _store(storage).find_external_ref("x", TWO),
    "repeats": lambda storage: _store(storage).find_repeats(TWO, content_keys=["x", "y"], fingerprint="z"),
    "learned": lambda storage: _store(storage).learned([MemoryId("m")], TWO),
    "count of concepts": lambda storage: _store(storage).count_concepts(["x", "y"], TWO),
    "associations": lambda storage: _store(storage).associations(TWO, ["x"], min_weight=0.1, limit_per_seed=9),
    "owned associations": lambda storage: _store(storage).owned_associations([MemoryId("m")]),
    "statistics": lambda storage: _store(storage).statistics(TWO),
    "space of a name": lambda storage: _store(storage).find_space(SpaceKind.DOMAIN, "x", UserId("u")),
    "concepts": lambda storage: storage.search(TenantId("a")).conceptual({"x": 1.0}, FEED, limit=9),
    "embeddings": lambda storage: storage.search(TenantId("a")).embeddings([MemoryId("m")], MODEL),
    "job": lambda storage: storage.tenant(TenantId("a")).get_job(JobId("j")),
    "jobs": lambda storage: storage.tenant(TenantId("a")).list_jobs(frozenset(JobKind), TWO, limit=9),
    "claim": lambda storage: storage.jobs.claim(queues=frozenset({"q"}), now=AT, lease_until_at=AT),
    "credentials": lambda storage: storage.directory.find_credentials(b"x"),
    "keys of a tenant": lambda storage: storage.directory.list_keys(TenantId("a")),
    "users": lambda storage: storage.directory.list_users(TenantId("a")),
    "requeue": lambda storage: storage.jobs.requeue(TenantId("a"), JobId("j"), now=AT),
    "park": lambda storage: storage.jobs.park(TenantId("a"), JobId("j"), fence=1, error="", now=AT),
    "sweep": lambda storage: storage.jobs.delete_finished(before=AT),
    "revoke": lambda storage: storage.directory.revoke_key(KeyId("k"), now=AT),
    "forget": lambda storage: storage.forget_idempotency(before=AT),
}


# Where a wrong index would be used without a walk over a table, yet over a whole space.
LED_BY = {
    "get": r"SEARCH m USING INDEX sqlite_autoindex_memories_\d \(tenant_id=\? AND memory_id=\?\)",
    "list": r"COVERING INDEX memories_by_update \(tenant_id=\? AND space_id=\? AND state=\? AND memory_type=\?\)",
    "list by session": r"SEARCH m USING INDEX memories_by_session \(tenant_id=\? AND session_id=\?\)",
    "list by sessions": r"SEARCH m USING INDEX memories_by_session \(tenant_id=\? AND session_id=\?\)",
    "list by tags": r"SEARCH lead USING PRIMARY KEY \(tenant_id=\? AND tag=\?\)",
    "feed": r"SEARCH m USING COVERING INDEX memories_by_creation \(tenant_id=\? AND space_id=\?\)",
    "feed from a position": r"memories_by_creation \(.* space_id=\? AND \(created_at,memory_id\)<\(\?,\?\)\)",
    "reference": r"SEARCH m USING INDEX memories_by_identity \(tenant_id=\? AND identity=\?\)",
    "repeats": r"COVERING INDEX memories_by_content \(.* content_key=\? AND state=\? AND superseded_by=\?\)",
    "count of concepts": r"SEARCH c USING PRIMARY KEY \(tenant_id=\? AND space_id=\? AND concept=\?\)",
    "statistics": r"COVERING INDEX memories_by_content \(tenant_id=\? AND space_id=\?\)",
    "space of a name": r"SEARCH s USING INDEX spaces_by_name \(tenant_id=\? AND kind=\? AND name=\?\)",
    "claim": r"SEARCH d USING INDEX job_dispatch_by_rank \(queue=\?\)",
}


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[SqliteStorage]:
    opened = await SqliteStorage.open(tmp_path, reader_count=1)
    yield opened
    await opened.close()


def _scans(connection: sqlite3.Connection, statement: str) -> list[str]:
    """The steps of the statement's plan that walk all rows of a large table."""
    plan = [detail for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
    return [step for step in plan if re.match(rf"SCAN ({'|'.join(LARGE)})\b(?! VIRTUAL TABLE)", step)]


@pytest.mark.parametrize("name", sorted(READS))
async def test_no_large_table_is_walked(storage: SqliteStorage, name: str) -> None:
    statements: list[str] = []
    reader, writer = storage._database._readers[0], storage._database._writer_connection
    for connection in (reader, writer):
        connection.set_trace_callback(statements.append)
    await READS[name](storage)
    for connection in (reader, writer):
        connection.set_trace_callback(None)
    traced = [statement for statement in statements if re.match("SELECT|UPDATE|DELETE|INSERT", statement)]
    assert traced
    assert {statement: scans for statement in traced if (scans := _scans(reader, statement))} == {}
    steps = [step for statement in traced for *_, step in reader.execute(f"EXPLAIN QUERY PLAN {statement}")]
    assert any(re.search(LED_BY.get(name, ""), step) for step in steps)


async def test_a_page_is_counted_and_picked_from_the_index_alone(storage: SqliteStorage) -> None:
    statements: list[str] = []
    reader = storage._database._readers[0]
    reader.set_trace_callback(statements.append)
    await _list(agent_id="x", source="y", created_from_at=AT)(storage)
    reader.set_trace_callback(None)
    for statement in statements:
        if statement.startswith("SELECT"):
            plan = [detail for *_, detail in reader.execute(f"EXPLAIN QUERY PLAN {statement}")]
            picking = [step for step in plan if "memories_by_" in step]
            assert picking
            assert all("COVERING INDEX memories_by_update" in step for step in picking)
