"""The engine in this process against a data set: the real storage, model and recall, without HTTP."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.recall_lab.dataset import History
from bench.recall_lab.memories import EPOCH, lab_uuid, memory, space_id, tenant_id, user_id
from polymem.domain.model import (
    Call,
    Key,
    KeyId,
    Memory,
    Plan,
    Principal,
    Scope,
    Space,
    SpaceKind,
    Tenant,
    User,
)
from polymem.domain.query import MemoryFilter, RecallPage, RecallRequest
from polymem.engine.access import Access
from polymem.engine.indexing import Indexer
from polymem.engine.recall import Recall
from polymem.inference.embedder import LocalEmbedder
from polymem.ports.storage import NewAccount, PutMemory, SetEmbedding
from polymem.storage.sqlite.storage import SqliteStorage

_PLAN = Plan(name="self-hosted", requests_per_minute=60_000, burst=60_000, max_memories=None)
_BATCH = 64


@dataclass(frozen=True, slots=True)
class LabEngine:
    """What a run needs of the engine."""

    storage: SqliteStorage
    embedder: LocalEmbedder
    indexer: Indexer
    recall: Recall


@asynccontextmanager
async def open_engine(directory: Path, *, threads: int = 2) -> AsyncIterator[LabEngine]:
    """The engine over a data directory, closed at the end."""
    storage = await SqliteStorage.open(directory)
    embedder = LocalEmbedder.open(threads=threads)
    try:
        yield LabEngine(storage, embedder, Indexer(embedder), Recall(storage, embedder, Access(storage)))
    finally:
        await embedder.close()
        await storage.close()


async def feed(engine: LabEngine, number: int, history: History) -> float:
    """All turns of a history are stored with all their vectors as tenant `number`; the seconds it took.

    Nothing is done when the tenant is there from an earlier run.
    """
    if tenant_id(number) in {tenant.id for tenant in await engine.storage.directory.list_tenants()}:
        return 0.0
    await engine.storage.directory.create_account(_account(number))
    started = time.perf_counter()
    store = engine.storage.tenant(tenant_id(number))
    memories = [memory(number, position, turn) for position, turn in enumerate(history.turns)]
    for start in range(0, len(memories), _BATCH):
        batch = memories[start : start + _BATCH]
        entries = await engine.indexer.entries(batch)
        puts = [PutMemory(memory=each, index=entry) for each, (entry, _) in zip(batch, entries, strict=True)]
        await store.commit(puts, now=EPOCH)
        await _complete(engine, number, [each for each, (_, needs) in zip(batch, entries, strict=True) if needs])
    return time.perf_counter() - started


async def ask(engine: LabEngine, number: int, text: str, *, limit: int, min_relevance: float = 0.0) -> RecallPage:
    """The hits of a question among the turns of tenant `number`."""
    where = MemoryFilter(spaces=frozenset({space_id(number)}))
    request = RecallRequest(text=text, where=where, limit=limit, min_relevance=min_relevance)
    return await engine.recall.search(_call(number), request)


async def _complete(engine: LabEngine, number: int, memories: Sequence[Memory]) -> None:
    store = engine.storage.tenant(tenant_id(number))
    for each in memories:
        whole = await engine.indexer.embedding(each)
        await store.commit(
            [SetEmbedding(memory_id=each.id, expected_revision=each.revision, embedding=whole)], now=EPOCH
        )


def _account(number: int) -> NewAccount:
    tenant = Tenant(id=tenant_id(number), name=f"lab {number}", plan=_PLAN.name, is_active=True, created_at=EPOCH)
    user = User(
        id=user_id(number),
        tenant_id=tenant.id,
        name="lab",
        personal_space_id=space_id(number),
        created_at=EPOCH,
    )
    space = Space(
        id=user.personal_space_id, kind=SpaceKind.PERSONAL, name="personal", is_restricted=True, created_at=EPOCH
    )
    key = Key(
        id=KeyId(lab_uuid(4, number)),
        tenant_id=tenant.id,
        user_id=user.id,
        name="lab",
        prefix="lab",
        scopes=frozenset(Scope),
        allowed_spaces=None,
        created_at=EPOCH,
        expires_at=None,
        revoked_at=None,
    )
    return NewAccount(tenant=tenant, user=user, space=space, key=key, key_hash=number.to_bytes(32, "big"))


def _call(number: int) -> Call:
    principal = Principal(
        tenant_id=tenant_id(number),
        user_id=user_id(number),
        key_id=KeyId(lab_uuid(4, number)),
        personal_space_id=space_id(number),
        scopes=frozenset(Scope),
        allowed_spaces=None,
        plan=_PLAN,
    )
    return Call(principal=principal, request_id="lab")
