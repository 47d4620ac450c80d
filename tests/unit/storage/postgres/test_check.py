"""`check` is silent on a sound database and names each planted damage."""

from dataclasses import replace

import numpy as np
import pytest

from polymem.domain.model import MemoryId, ModelIdentity
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
from polymem.ports.storage import FindingKind
from polymem.storage.postgres.storage import PostgresStorage
from postgres import PostgresServer
from samples import AT, account_of, job_of, memory_of

MODEL = ModelIdentity(name="small", revision="1", dimension=8, token_dimension=4)
KEPT = "memory_id = 'one-kept'"


def entry_of(*terms: str) -> IndexEntry:
    row = np.ones(MODEL.dimension, dtype=np.float32) / np.sqrt(np.float32(MODEL.dimension))
    tokens = np.ones((3, MODEL.token_dimension), dtype=np.int8)
    chunks = tuple(EmbeddedChunk(start=place, end=place + 5, embedding=row, token_vectors=tokens) for place in range(2))
    return IndexEntry(terms=terms, embedding=Embedding(model=MODEL, chunks=chunks, is_complete=True))


async def fill(storage: PostgresStorage, name: str) -> None:
    """A tenant with memories put, changed and deleted, and with jobs in every place."""
    account: NewAccount = account_of(name)
    assert await storage.directory.create_account(account)
    update = UpdateMemory(
        memory=memory_of(account, f"{name}-changed", revision=2, tags=("blue",)),
        index=entry_of("emu", "emu"),
        expected_revision=1,
        replaced_by=None,
        reason="test",
    )
    delete = DeleteMemory(memory_id=MemoryId(f"{name}-deleted"), spaces=frozenset({account.space.id}))
    kept = replace(
        memory_of(account, f"{name}-kept"), tags=("red", "\0", "red"), concepts=("New York", "new york", "cat", "\0")
    )
    applied = await storage.tenant(account.tenant.id).commit(
        [
            PutMemory(memory=kept, index=entry_of("cat", "dog", "cat", "3.14")),
            PutMemory(memory=memory_of(account, f"{name}-changed"), index=entry_of("cat", "emu")),
            PutMemory(memory=memory_of(account, f"{name}-deleted"), index=entry_of("cat", "fox")),
            PutMemory(memory=memory_of(account, f"{name}-plain"), index=IndexEntry(terms=(), embedding=None)),
            Associate(space_id=account.space.id, pairs=frozenset({("cat", "new york")}), rate=0.5, at=AT),
            update,
            delete,
            *(AddJob(job=job_of(account, f"{name}-job {number}", "key")) for number in range(2)),
            AddJob(job=job_of(account, f"{name}-free job")),
        ],
        now=AT,
    )
    assert isinstance(applied, Applied)


async def wrong(storage: PostgresStorage) -> dict[FindingKind, list[str]]:
    """What is found to be wrong, by kind."""
    found: dict[FindingKind, list[str]] = {}
    for finding in await storage.check():
        if not finding.is_ok:
            found.setdefault(finding.kind, []).append(finding.message.removeprefix("not so: "))
    return found


async def test_a_sound_database_has_nothing_wrong_and_everything_compared(storage: PostgresStorage) -> None:
    for name in ("one", "two"):
        await fill(storage, name)
    assert await wrong(storage) == {}
    findings = await storage.check()
    assert {finding.kind for finding in findings} == set(FindingKind)
    assert all(finding.compared > 0 or "graph" in finding.message for finding in findings)


ENTRY = "every memory has an index entry that copies its columns: memory one-kept"
CHUNK = (
    "a chunk is of its entry's model, has vectors of that model's size, and copies the memory's columns:"
    " memory one-kept"
)
CHUNKS = "an index entry has chunks, one after another, exactly when it names a model that is known: memory one-kept"
TERMS = "the counts of an index entry's terms add up to its length, and its weights are made of them: memory one-kept"
COUNTED = "each term is counted in the entries that hold it: tenant tenant-one"
TAGS = "a memory's tags are those it is found by: memory one-kept"
CONCEPTS = "a memory's concepts are those it is found by: memory "
EDGE = (
    "an association is of two concepts in order, one of which a memory of the space has, and within bounds:"
    " association "
)
TOTALS = "the totals of a tenant are those of its rows: tenant tenant-one"
SHOWN = "workers are shown exactly the jobs that are running or next of their key, as they stand: job "
ENDED = "a job that has ended says when and holds no lease, and one that has not says neither: job one-free job"
LATE = "no change is numbered beyond its tenant's count: memory one-kept"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (f"UPDATE index_entries SET state = 'paused' WHERE {KEPT}", {FindingKind.TERMS: [ENTRY]}),
        (f"UPDATE index_entries SET superseded_by = 'x' WHERE {KEPT}", {FindingKind.TERMS: [ENTRY]}),
        (
            f"UPDATE index_entries SET tags = '{{red}}' WHERE {KEPT}",
            {FindingKind.ROWS: [TAGS], FindingKind.VECTORS: [CHUNK]},
        ),
        (f"DELETE FROM memory_tags WHERE tag = 'red' AND {KEPT}", {FindingKind.ROWS: [TAGS]}),
        ("INSERT INTO memory_tags VALUES ('tenant-one', 'green', 'one-kept')", {FindingKind.ROWS: [TAGS]}),
        (
            "INSERT INTO memory_tags VALUES ('tenant-one', 'green', 'nobody')",
            {FindingKind.ROWS: ["a memory's tags are those it is found by: memory nobody"]},
        ),
        (
            f"DELETE FROM memory_concepts WHERE concept = 'cat' AND {KEPT}",
            {FindingKind.CONCEPTS: [CONCEPTS + "one-kept"]},
        ),
        (
            f"UPDATE memory_concepts SET space_id = 'other' WHERE concept = 'cat' AND {KEPT}",
            {FindingKind.CONCEPTS: [CONCEPTS + "one-kept"]},
        ),
        (
            "INSERT INTO memory_concepts VALUES ('tenant-one', 'space-one', 'dog', 'nobody')",
            {FindingKind.CONCEPTS: [CONCEPTS + "nobody"]},
        ),
        (
            "UPDATE associations SET weight = 1.5 WHERE tenant_id = 'tenant-one'",
            {FindingKind.CONCEPTS: [EDGE + "cat - new york"]},
        ),
        (
            "UPDATE associations SET valence = -2 WHERE tenant_id = 'tenant-one'",
            {FindingKind.CONCEPTS: [EDGE + "cat - new york"]},
        ),
        (
            "INSERT INTO associations VALUES ('tenant-one', 'space-one', 'new york', 'cat', 0.5, 0, 1, 1)",
            {FindingKind.CONCEPTS: [EDGE + "new york - cat"]},
        ),
        (
            "INSERT INTO associations VALUES ('tenant-one', 'space-one', 'ant', 'bee', 0.5, 0, 1, 1)",
            {FindingKind.CONCEPTS: [EDGE + "ant - bee"]},
        ),
        (
            "INSERT INTO tombstones VALUES ('tenant-one', 'one-kept', 's', 1, 1)",
            {FindingKind.ROWS: ["a deleted memory left nothing behind: memory one-kept"]},
        ),
        (
            "UPDATE memory_versions SET revision = 9 WHERE memory_id = 'one-changed'",
            {FindingKind.ROWS: ["earlier versions belong to a memory that has moved on from them: memory one-changed"]},
        ),
        (f"UPDATE memories SET change_no = 9 WHERE {KEPT}", {FindingKind.COUNTS: [LATE]}),
        ("UPDATE tenants SET memory_count = 9 WHERE name = 'one'", {FindingKind.COUNTS: [TOTALS]}),
        ("UPDATE tenants SET terms_total = 9 WHERE name = 'one'", {FindingKind.COUNTS: [TOTALS]}),
        (
            f"DELETE FROM chunks WHERE chunk_no = 0 AND {KEPT}",
            {FindingKind.VECTORS: [CHUNKS]},
        ),
        (f"UPDATE chunks SET source = 'x' WHERE {KEPT}", {FindingKind.VECTORS: [CHUNK]}),
        (f"UPDATE chunks SET embedding = '[1,2]' WHERE {KEPT}", {FindingKind.VECTORS: [CHUNK]}),
        (f"UPDATE chunks SET tenant_no = 99 WHERE {KEPT}", {FindingKind.VECTORS: [CHUNK]}),
        (f"UPDATE index_entries SET codes = codes[1:2] WHERE {KEPT}", {FindingKind.TERMS: [TERMS, COUNTED]}),
        (
            f"UPDATE index_entries SET weights = '{{1:1}}/1000000000' WHERE {KEPT}",
            {FindingKind.TERMS: [TERMS, COUNTED]},
        ),
        (
            "UPDATE term_counts SET documents = 9 WHERE tenant_id = 'tenant-one'",
            {FindingKind.TERMS: [COUNTED]},
        ),
        (
            "INSERT INTO term_counts VALUES ('nobody', 1, 1)",
            {FindingKind.TERMS: ["each term is counted in the entries that hold it: tenant nobody"]},
        ),
        ("DELETE FROM job_dispatch WHERE job_id = 'one-job 0'", {FindingKind.JOBS: [SHOWN + "one-job 0"]}),
        (
            "INSERT INTO job_dispatch VALUES ('tenant-one', 'one-job 1', 'default', 1, 0, 9)",
            {FindingKind.JOBS: [SHOWN + "one-job 1"]},
        ),
        (
            "UPDATE jobs SET finished_at = 1 WHERE job_id = 'one-free job'",
            {FindingKind.JOBS: [ENDED]},
        ),
        (
            "INSERT INTO vector_graphs VALUES ('tenant-one', 1, 'missing', true)",
            {FindingKind.VECTORS: ["every graph that searches may use is a whole index: graph missing"]},
        ),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'jobs_by_kind'::regclass",
            {FindingKind.SCHEMA: ["every index is whole: index jobs_by_kind"]},
        ),
        (
            "DELETE FROM migrations WHERE number = 1",
            {FindingKind.SCHEMA: ["all migrations were applied: migration 1"]},
        ),
        (
            "UPDATE tenants SET tenant_no = 1",
            {
                FindingKind.COUNTS: ["no two tenants have one number: number 1"],
                FindingKind.TERMS: [COUNTED.replace("one", "two")],
                FindingKind.VECTORS: [CHUNK.replace("one-kept", "two-changed, memory two-kept")],
            },
        ),
    ],
)
async def test_each_damage_is_named_and_nothing_else(
    storage: PostgresStorage,
    storage_url: str,
    postgres_server: PostgresServer,
    damage: str,
    expected: dict[FindingKind, list[str]],
) -> None:
    for name in ("one", "two"):
        await fill(storage, name)
    postgres_server.run(damage, storage_url.partition("?")[0].rpartition("/")[2])
    assert await wrong(storage) == expected
