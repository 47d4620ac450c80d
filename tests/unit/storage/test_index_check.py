"""`check` is silent on a sound file and names each planted damage."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from polymem.domain.model import (
    MemoryId,
    ModelIdentity,
)
from polymem.errors import StorageDamaged
from polymem.ports.changes import (
    AddJob,
    Applied,
    Associate,
    DeleteMemory,
    EmbeddedChunk,
    Embedding,
    IndexEntry,
    PutMemory,
    UpdateMemory,
)
from polymem.ports.directory import NewAccount
from polymem.ports.storage import Finding, FindingKind
from polymem.storage.sqlite.check import check
from polymem.storage.sqlite.storage import DATABASE_FILE, SqliteStorage
from samples import AT, account_of, job_of, memory_of

# The memory that the statements below damage; its document number is 1.
KEPT = "doc_no = (SELECT doc_no FROM memories WHERE memory_id = 'one-kept')"
MODEL = ModelIdentity(name="small", revision="1", dimension=8, token_dimension=4)


def entry_of(*terms: str) -> IndexEntry:
    row = np.ones(MODEL.dimension, dtype=np.float32) / np.sqrt(np.float32(MODEL.dimension))
    tokens = np.ones((3, MODEL.token_dimension), dtype=np.int8)
    chunks = tuple(EmbeddedChunk(start=place, end=place + 5, embedding=row, token_vectors=tokens) for place in range(2))
    return IndexEntry(terms=terms, embedding=Embedding(model=MODEL, chunks=chunks, is_complete=True))


@dataclass
class OnlyAPath:
    """A database of which nothing but its file is known."""

    path: Path


@dataclass
class Filled:
    """A storage with two tenants, each with memories put, changed and deleted, and with jobs in every place."""

    storage: SqliteStorage
    path: Path

    async def damage(self, statement: str, *parameters: object) -> None:
        """The file was changed by another hand."""

        def run() -> int:
            with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
                before = connection.total_changes
                connection.execute(statement, parameters)
                return connection.total_changes - before

        assert await asyncio.to_thread(run) > 0

    async def wrong(self) -> dict[FindingKind, list[str]]:
        """What is found to be wrong, by kind."""
        found: dict[FindingKind, list[str]] = {}
        for finding in await self.storage.check():
            if not finding.is_ok:
                found.setdefault(finding.kind, []).append(finding.message)
        return found


async def fill(storage: SqliteStorage, account: NewAccount, name: str) -> None:
    store = storage.tenant(account.tenant.id)
    assert await storage.directory.create_account(account)
    applied = await store.commit(
        [
            PutMemory(
                memory=replace(memory_of(account, f"{name}-kept"), concepts=("Cat", "dog")),
                index=entry_of("cat", "dog", "cat", "3.14"),
            ),
            PutMemory(memory=memory_of(account, f"{name}-changed"), index=entry_of("cat", "emu")),
            PutMemory(memory=memory_of(account, f"{name}-deleted"), index=entry_of("cat", "fox")),
            PutMemory(memory=memory_of(account, f"{name}-plain"), index=IndexEntry(terms=(), embedding=None)),
            UpdateMemory(
                memory=memory_of(account, f"{name}-changed", revision=2, tags=("blue", "red")),
                index=entry_of("cat", "gnu"),
                expected_revision=1,
                replaced_by=None,
                reason="test",
            ),
            DeleteMemory(memory_id=MemoryId(f"{name}-deleted"), spaces=frozenset({account.space.id})),
            Associate(space_id=account.space.id, pairs=frozenset({("cat", "dog"), ("cat", "asked")}), rate=0.5, at=AT),
            *(AddJob(job=job_of(account, f"{name}-job-{number}", key)) for number, key in enumerate(("k", "k", None))),
        ],
        now=AT,
    )
    assert isinstance(applied, Applied)
    later = AT + timedelta(seconds=60)
    claimed = await storage.jobs.claim(queues=frozenset({"default"}), now=AT, lease_until_at=later)
    assert claimed is not None
    assert await storage.jobs.park(claimed.tenant_id, claimed.id, fence=claimed.fence, error="no", now=AT)
    assert await storage.jobs.claim(queues=frozenset({"default"}), now=AT, lease_until_at=later) is not None


@pytest.fixture
async def filled(tmp_path: Path) -> AsyncIterator[Filled]:
    storage = await SqliteStorage.open(tmp_path / "data", owns_directory=False, reader_count=1)
    for name in ("one", "two"):
        await fill(storage, account_of(name), name)
    yield Filled(storage=storage, path=tmp_path / "data" / DATABASE_FILE)
    await storage.close()


async def test_a_sound_file_has_findings_of_every_kind_and_all_are_well(filled: Filled) -> None:
    findings = await filled.storage.check()
    assert {finding.kind for finding in findings} == set(FindingKind)
    assert [finding for finding in findings if not finding.is_ok] == []
    terms = next(finding for finding in findings if "add up to its length" in finding.message)
    assert terms == Finding(
        kind=FindingKind.TERMS,
        is_ok=True,
        compared=6,
        message="the counts of an index entry's terms add up to its length",
    )


async def test_an_empty_file_is_sound(tmp_path: Path) -> None:
    storage = await SqliteStorage.open(tmp_path / "data", owns_directory=False, reader_count=1)
    assert [finding for finding in await storage.check() if not finding.is_ok] == []
    await storage.close()


@pytest.mark.parametrize(
    ("kind", "named", "statement"),
    [
        (FindingKind.TERMS, "one-kept", f"DELETE FROM index_entries WHERE {KEPT}"),
        (FindingKind.TERMS, "one-kept", f"UPDATE index_entries SET doc_no = 999 WHERE {KEPT}"),
        (FindingKind.TERMS, "document 999", f"UPDATE index_entries SET doc_no = 999 WHERE {KEPT}"),
        (FindingKind.TERMS, "one-kept", f"UPDATE index_entries SET tenant_no = 999 WHERE {KEPT}"),
        (FindingKind.TERMS, "one-kept", f"UPDATE index_entries SET length = 9 WHERE {KEPT}"),
        (FindingKind.TERMS, "one-kept", f"UPDATE index_entries SET counts = x'02' WHERE {KEPT}"),
        (FindingKind.TERMS, "one-kept", f"UPDATE index_entries SET counts = x'040000' WHERE {KEPT}"),
        (FindingKind.TERMS, "one-kept", f"UPDATE index_entries SET terms = x'00' WHERE {KEPT}"),
        (FindingKind.TERMS, "one-kept", f"UPDATE index_entries SET terms = zeroblob(24) WHERE {KEPT}"),
        (
            FindingKind.TERMS,
            "ghost",
            "UPDATE memories SET memory_id = 'ghost', doc_no = 99 WHERE memory_id = 'one-kept'",
        ),
        (FindingKind.COUNTS, "tenant-one", "UPDATE tenants SET memory_count = 4 WHERE tenant_id = 'tenant-one'"),
        (FindingKind.COUNTS, "tenant-one", "UPDATE tenants SET terms_total = 1 WHERE tenant_id = 'tenant-one'"),
        (FindingKind.COUNTS, "one-kept", "UPDATE memories SET change_no = 50 WHERE memory_id = 'one-kept'"),
        (FindingKind.COUNTS, "document 8", "UPDATE counters SET value = 7 WHERE name = 'doc_no'"),
        (FindingKind.COUNTS, "document 1", "UPDATE tombstones SET doc_no = 1 WHERE memory_id = 'one-deleted'"),
        (FindingKind.VECTORS, "document 1", f"UPDATE index_entries SET chunks = x'', embeddings = x'' WHERE {KEPT}"),
        (FindingKind.VECTORS, "document 1", f"UPDATE index_entries SET chunks = x'00' WHERE {KEPT}"),
        (FindingKind.VECTORS, "document 1", f"UPDATE index_entries SET embeddings = x'00' WHERE {KEPT}"),
        (FindingKind.VECTORS, "document 1", f"UPDATE index_entries SET model_no = NULL WHERE {KEPT}"),
        (FindingKind.VECTORS, "document 1", f"UPDATE index_entries SET model_no = 7 WHERE {KEPT}"),
        (FindingKind.VECTORS, "document 1", f"DELETE FROM token_vectors WHERE {KEPT}"),
        (FindingKind.VECTORS, "one-kept", f"UPDATE token_vectors SET vectors = x'00000000' WHERE {KEPT}"),
        (
            FindingKind.VECTORS,
            "one-kept",
            f"UPDATE index_entries SET chunks = x'ff000000000000000300000000000000ff00000003000000' WHERE {KEPT}",
        ),
        (FindingKind.VECTORS, "document 99", "INSERT INTO token_vectors VALUES (99, 1, x'')"),
        (FindingKind.ROWS, "one-kept", "DELETE FROM memory_tags WHERE memory_id = 'one-kept'"),
        (FindingKind.ROWS, "one-kept", "INSERT INTO memory_tags VALUES ('tenant-one', 'pink', 'one-kept')"),
        (FindingKind.ROWS, "ghost", "INSERT INTO memory_tags VALUES ('tenant-one', 'red', 'ghost')"),
        (FindingKind.ROWS, "memories", "UPDATE memories SET space_id = 'gone' WHERE memory_id = 'one-kept'"),
        (
            FindingKind.ROWS,
            "one-kept",
            "INSERT INTO tombstones VALUES ('tenant-one', 'one-kept', 'space-one', 500, 0, 0)",
        ),
        (FindingKind.ROWS, "one-changed", "UPDATE memory_versions SET revision = 2 WHERE memory_id = 'one-changed'"),
        (FindingKind.ROWS, "ghost", "UPDATE memory_versions SET memory_id = 'ghost' WHERE memory_id = 'one-changed'"),
        (
            FindingKind.CONCEPTS,
            "one-kept",
            "DELETE FROM memory_concepts WHERE memory_id = 'one-kept' AND concept = 'cat'",
        ),
        (FindingKind.CONCEPTS, "one-kept", "UPDATE memory_concepts SET doc_no = 99 WHERE memory_id = 'one-kept'"),
        (FindingKind.CONCEPTS, "one-kept", "UPDATE memories SET concepts = '[\"emu\"]' WHERE memory_id = 'one-kept'"),
        (FindingKind.CONCEPTS, "one-kept", "UPDATE memory_concepts SET space_id = 's' WHERE memory_id = 'one-kept'"),
        (
            FindingKind.CONCEPTS,
            "ghost",
            "INSERT INTO memory_concepts VALUES ('tenant-one', 'space-one', 'cat', 'ghost', 1)",
        ),
        *(
            (FindingKind.CONCEPTS, "cat - dog", f"UPDATE associations SET {change} WHERE target = 'dog'")
            for change in (
                "weight = 1.5",
                "weight = -0.1",
                "valence = 1.5",
                "valence = -1.5",
                "count = 0",
                "space_id = 'space-none'",
            )
        ),
        (
            FindingKind.CONCEPTS,
            "dog - cat",
            "UPDATE associations SET source = 'dog', target = 'cat' WHERE target = 'dog'",
        ),
        (
            FindingKind.CONCEPTS,
            "gone - lost",
            "UPDATE associations SET source = 'gone', target = 'lost' WHERE target = 'dog' AND tenant_id LIKE '%one'",
        ),
        (FindingKind.JOBS, "one-job-1", "DELETE FROM job_dispatch WHERE job_id = 'one-job-1'"),
        (FindingKind.JOBS, "one-job-1", "UPDATE job_dispatch SET due_at = 1 WHERE job_id = 'one-job-1'"),
        (FindingKind.JOBS, "ghost", "UPDATE job_dispatch SET job_id = 'ghost' WHERE job_id = 'one-job-1'"),
        (FindingKind.JOBS, "one-job-1", "UPDATE jobs SET lease_until_at = NULL WHERE job_id = 'one-job-1'"),
        (FindingKind.JOBS, "one-job-0", "UPDATE jobs SET finished_at = NULL WHERE job_id = 'one-job-0'"),
    ],
)
async def test_a_planted_damage_is_named(filled: Filled, kind: FindingKind, named: str, statement: str) -> None:
    await filled.damage(statement)
    wrong = await filled.wrong()
    assert any(named in message for message in wrong.get(kind, [])), wrong


async def test_of_many_differing_rows_the_first_are_named(filled: Filled) -> None:
    await filled.damage("UPDATE index_entries SET length = length + 1")
    messages = (await filled.wrong())[FindingKind.TERMS]
    assert len(messages) == 1
    assert messages[0].endswith(" and more")
    assert messages[0].count("memory one-") + messages[0].count("memory two-") == 5


async def test_checking_changes_nothing(filled: Filled) -> None:
    def dump() -> list[str]:
        with closing(sqlite3.connect(filled.path)) as connection:
            return list(connection.iterdump())

    await filled.damage("UPDATE tenants SET terms_total = 1")
    before = await asyncio.to_thread(dump)
    assert await filled.wrong() != {}
    assert await asyncio.to_thread(dump) == before


async def test_rows_that_cannot_be_read_are_a_finding_and_the_rest_is_still_compared(filled: Filled) -> None:
    await filled.damage("UPDATE memories SET tags = 'no json' WHERE memory_id = 'one-kept'")
    await filled.damage("UPDATE tenants SET terms_total = 7 WHERE tenant_id = 'tenant-two'")
    wrong = await filled.wrong()
    assert any("cannot be read" in message for message in wrong[FindingKind.ROWS])
    assert any("tenant-two" in message for message in wrong[FindingKind.COUNTS])


async def test_a_file_that_is_no_database_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "garbage.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StorageDamaged):
        await check(OnlyAPath(path))
