"""`check` is silent on a sound file and names each planted damage."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from polymem.domain.model import (
    MemoryId,
    ModelIdentity,
)
from polymem.errors import StorageDamaged
from polymem.ports.storage import (
    AddJob,
    Applied,
    DeleteMemory,
    EmbeddedChunk,
    Embedding,
    Finding,
    FindingKind,
    IndexEntry,
    NewAccount,
    PutMemory,
    UpdateMemory,
)
from polymem.storage.sqlite.check import check
from polymem.storage.sqlite.storage import DATABASE_FILE, SqliteStorage
from samples import AT, account_of, job_of, memory_of

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
            PutMemory(memory=memory_of(account, f"{name}-kept"), index=entry_of("cat", "dog", "cat", "3.14")),
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
    tokens = next(f for f in findings if f.message.startswith("the token table"))
    assert tokens == Finding(
        kind=FindingKind.TERMS,
        is_ok=True,
        compared=6,
        message="the token table holds exactly the terms of the index entries",
    )


async def test_an_empty_file_is_sound(tmp_path: Path) -> None:
    storage = await SqliteStorage.open(tmp_path / "data", owns_directory=False, reader_count=1)
    assert [finding for finding in await storage.check() if not finding.is_ok] == []
    await storage.close()


@pytest.mark.parametrize(
    ("kind", "named", "statement"),
    [
        (FindingKind.TERMS, "one-kept", "DELETE FROM index_entries WHERE memory_id = 'one-kept'"),
        (FindingKind.TERMS, "one-kept", "UPDATE index_entries SET doc_no = 999 WHERE memory_id = 'one-kept'"),
        (FindingKind.TERMS, "one-kept", "UPDATE index_entries SET length = 9 WHERE memory_id = 'one-kept'"),
        (FindingKind.TERMS, "one-kept", "UPDATE index_entries SET terms = 'a b c d' WHERE memory_id = 'one-kept'"),
        (FindingKind.TERMS, "one-plain", "UPDATE index_entries SET terms = 'cat' WHERE memory_id = 'one-plain'"),
        (
            FindingKind.TERMS,
            "one-kept",
            "UPDATE index_entries SET terms = 'dog cat cat 3.14' WHERE memory_id = 'one-kept'",
        ),
        (FindingKind.TERMS, "document 77", "INSERT INTO terms_fts (rowid, terms) VALUES (77, '1_cat')"),
        (
            FindingKind.TERMS,
            "one-plain",
            (
                "INSERT INTO terms_fts (rowid, terms)"
                " SELECT doc_no, '1_cat' FROM index_entries WHERE memory_id = 'one-plain'"
            ),
        ),
        (
            FindingKind.TERMS,
            "one-changed",
            (
                "INSERT INTO terms_fts (terms_fts, rowid, terms)"
                " SELECT 'delete', doc_no, '1_cat 1_gnu' FROM index_entries WHERE memory_id = 'one-changed'"
            ),
        ),
        (FindingKind.TERMS, "ghost", "INSERT INTO index_entries VALUES ('tenant-one', 'ghost', 99, 0, NULL, 0, '')"),
        (FindingKind.COUNTS, "tenant-one", "UPDATE term_counts SET documents = 7 WHERE tenant_id = 'tenant-one'"),
        (FindingKind.COUNTS, "tenant-two", "DELETE FROM term_counts WHERE tenant_id = 'tenant-two' AND term = 'cat'"),
        (FindingKind.COUNTS, "tenant-one", "INSERT INTO term_counts VALUES ('tenant-one', 'yak', 1)"),
        (FindingKind.COUNTS, "tenant-gone", "INSERT INTO term_counts VALUES ('tenant-gone', 'yak', 1)"),
        (FindingKind.COUNTS, "tenant-one", "UPDATE tenants SET memory_count = 4 WHERE tenant_id = 'tenant-one'"),
        (FindingKind.COUNTS, "tenant-one", "UPDATE tenants SET terms_total = 1 WHERE tenant_id = 'tenant-one'"),
        (FindingKind.COUNTS, "one-kept", "UPDATE memories SET change_no = 50 WHERE memory_id = 'one-kept'"),
        (FindingKind.COUNTS, "document 8", "UPDATE counters SET value = 7 WHERE name = 'doc_no'"),
        (FindingKind.COUNTS, "document 1", "UPDATE tombstones SET doc_no = 1 WHERE memory_id = 'one-deleted'"),
        (FindingKind.VECTORS, "one-kept", "DELETE FROM chunks WHERE memory_id = 'one-kept'"),
        (FindingKind.VECTORS, "one-kept", "DELETE FROM chunks WHERE memory_id = 'one-kept' AND chunk_no = 0"),
        (FindingKind.VECTORS, "one-kept", "UPDATE chunks SET embedding = x'00' WHERE memory_id = 'one-kept'"),
        (FindingKind.VECTORS, "one-kept", "UPDATE chunks SET token_vectors = x'00' WHERE memory_id = 'one-kept'"),
        (FindingKind.VECTORS, "one-kept", "UPDATE index_entries SET model_no = NULL WHERE memory_id = 'one-kept'"),
        (FindingKind.VECTORS, "ghost", "INSERT INTO chunks VALUES ('tenant-one', 'ghost', 0, 1, 0, 0, x'', x'')"),
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
    await filled.damage("UPDATE term_counts SET documents = 7 WHERE tenant_id = 'tenant-two'")
    wrong = await filled.wrong()
    assert any("cannot be read" in message for message in wrong[FindingKind.ROWS])
    assert any("tenant-two" in message for message in wrong[FindingKind.COUNTS])


async def test_a_file_that_is_no_database_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "garbage.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StorageDamaged):
        await check(OnlyAPath(path))
