"""What is cleared away: used claims by their age, and what deleted rows left in the tables."""

from dataclasses import replace
from datetime import timedelta

import pytest

from polymem.domain.model import IdempotencyClaim, MemoryId
from polymem.ports.changes import Associate, DeleteMemory, IndexEntry, PutMemory
from polymem.ports.directory import NewAccount
from polymem.storage.postgres.storage import PostgresStorage
from postgres import PostgresServer
from samples import AT, account_of, memory_of

PURGED = ("memories", "memory_tags", "memory_concepts", "associations", "index_entries")


@pytest.fixture
def vacuums(postgres_server: PostgresServer, storage_url: str) -> "Vacuums":
    return Vacuums(postgres_server, storage_url.partition("?")[0].rpartition("/")[2])


class Vacuums:
    """How often each table was vacuumed by a command, as the server counts."""

    def __init__(self, server: PostgresServer, database: str) -> None:
        self._server = server
        self._database = database

    def counts(self) -> dict[str, int]:
        rows = self._server.run("SELECT relname, vacuum_count FROM pg_stat_user_tables", self._database)
        return {name: count for name, count in rows if count}

    def dead_rows(self) -> dict[str, int]:
        """How many rows of each table were deleted and still stand in its file."""
        rows = self._server.run("SELECT relname, n_dead_tup FROM pg_stat_user_tables", self._database)
        return {name: count for name, count in rows if name in PURGED}


async def test_what_deleted_memories_left_is_purged_once(
    storage: PostgresStorage, account: NewAccount, vacuums: Vacuums
) -> None:
    store = storage.tenant(account.tenant.id)
    await storage.purge()
    assert vacuums.counts() == {}
    secret = replace(memory_of(account, "secret"), concepts=("secret",))
    await store.commit(
        [
            PutMemory(memory=secret, index=IndexEntry(terms=("secret",), embedding=None)),
            Associate(space_id=account.space.id, pairs=frozenset({("secret", "known")}), rate=0.5, at=AT),
        ],
        now=AT,
    )
    await store.commit([DeleteMemory(memory_id=MemoryId("secret"), spaces=frozenset({account.space.id}))], now=AT)
    assert vacuums.dead_rows() == dict.fromkeys(PURGED, 1)
    await storage.purge()
    assert vacuums.counts() == dict.fromkeys(PURGED, 1)
    assert vacuums.dead_rows() == dict.fromkeys(PURGED, 0)
    await storage.purge()
    assert vacuums.counts() == dict.fromkeys(PURGED, 1)


async def test_claims_of_every_tenant_are_forgotten_by_their_age(storage: PostgresStorage, account: NewAccount) -> None:
    other = account_of("two")
    await storage.directory.create_account(other)
    for owner in (account, other):
        for second in range(3):
            claim = IdempotencyClaim(key=f"key {second}", digest="d")
            await storage.tenant(owner.tenant.id).commit([], now=AT + timedelta(seconds=second), idempotency=claim)
    assert await storage.forget_idempotency(before=AT + timedelta(seconds=2)) == 4
    assert await storage.forget_idempotency(before=AT + timedelta(seconds=2)) == 0
