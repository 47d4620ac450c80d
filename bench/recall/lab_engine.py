"""The engine in this process against a data set: the real storage, model and recall, without HTTP."""

import hashlib
import shutil
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from bench.recall.baselines import QueryVectors, StoredVectors
from bench.recall.dataset import DataSet, History
from bench.recall.memo import remembering_embedder
from bench.recall.memories import EPOCH, lab_uuid, memory, position_of, space_id, tenant_id, user_id
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
from polymem.domain.text import index_terms, index_text
from polymem.engine.access import Access
from polymem.engine.indexing import Indexer
from polymem.engine.recall import Recall
from polymem.inference.embedder import LocalEmbedder
from polymem.ports.changes import PutMemory, SetEmbedding
from polymem.ports.directory import NewAccount
from polymem.ports.storage import Storage
from polymem.storage.sqlite.storage import SqliteStorage

_PLAN = Plan(name="self-hosted", requests_per_minute=60_000, burst=60_000, max_memories=None)
_BATCH = 64
_FED = "fed.txt"
_MADE_BY = (
    "inference/minilm/model/manifest.json",
    "inference/minilm/encoder.py",
    "domain/traits.py",
    "domain/timewords.py",
)


class LabClock:
    """A clock that stands still; questions of the data sets bring the time they are asked at."""

    def now(self) -> datetime:
        """The beginning of the laboratory's time."""
        return EPOCH

    def monotonic(self) -> float:
        """Always the same second."""
        return 0.0


@dataclass(frozen=True, slots=True)
class LabEngine:
    """What a run needs of the engine."""

    storage: Storage
    embedder: LocalEmbedder
    indexer: Indexer


@asynccontextmanager
async def open_engine(directory: Path, *, threads: int = 2, remembers: bool = False) -> AsyncIterator[LabEngine]:
    """The engine over a data directory, closed at the end.

    With `remembers` its indexer asks the model once for the same texts, for one who feeds them elsewhere too.
    """
    storage = await SqliteStorage.open(directory)
    embedder = LocalEmbedder.open(threads=threads)
    try:
        yield LabEngine(storage, embedder, Indexer(remembering_embedder(embedder) if remembers else embedder))
    finally:
        await embedder.close()
        await storage.close()


@asynccontextmanager
async def fed_engine(
    root: Path, data_set: DataSet, *, threads: int = 2, remembers: bool = False
) -> AsyncIterator[LabEngine]:
    """The engine with every history of a data set stored, fed unless an earlier run left it under `root`.

    The directory's name tells what was fed and what made the index entries, so a change of the data, the model,
    the terms or the tables is fed anew; one whose feeding was broken off is cleared.
    """
    directory = directory_of(root, data_set)
    finished = directory / _FED
    if directory.is_dir() and not finished.is_file():
        shutil.rmtree(directory)
    async with open_engine(directory, threads=threads, remembers=remembers) as engine:
        if not finished.is_file():
            seconds = await feed(engine, data_set)
            finished.write_text(f"{data_set.turn_count} turns in {seconds:.1f} s\n", encoding="utf-8")
            print(f"{data_set.name}: fed {finished.read_text(encoding='utf-8').strip()}", file=sys.stderr)
        yield engine


def stored_bytes(root: Path, data_set: DataSet) -> int:
    """The bytes of all files of a fed data set; call it when its engine is closed."""
    return sum(path.stat().st_size for path in directory_of(root, data_set).rglob("*") if path.is_file())


def recall_of(engine: LabEngine) -> Recall:
    """The engine's recall as it runs in a server, nothing remembered."""
    return Recall(engine.storage, engine.embedder, Access(engine.storage), clock=LabClock())


async def ask(recall: Recall, number: int, text: str, *, asked_at: datetime | None, limit: int) -> RecallPage:
    """The hits of a question among the turns of tenant `number`, without a cut."""
    where = MemoryFilter(spaces=frozenset({space_id(number)}))
    request = RecallRequest(text=text, where=where, limit=limit, reference_at=asked_at)
    return await recall.search(_call(number), request)


def turn_ids(history: History, page: RecallPage) -> list[str]:
    """The turns of the hits, best first."""
    return [history.turns[position_of(hit.memory.id)].id for hit in page.hits]


async def stored_vectors(engine: LabEngine, number: int, history: History) -> list[StoredVectors]:
    """The vectors of every turn of a history, in order, as the storage holds them."""
    ids = [memory(number, position, turn).id for position, turn in enumerate(history.turns)]
    index = engine.storage.search(tenant_id(number))
    found: list[StoredVectors] = []
    for start in range(0, len(ids), _BATCH):
        batch = ids[start : start + _BATCH]
        evidence = await index.evidence(batch, engine.embedder.identity, ())
        found += [StoredVectors(evidence[each].embeddings, evidence[each].token_vectors) for each in batch]
    return found


async def query_vectors(engine: LabEngine, text: str) -> QueryVectors:
    """The vectors of a question."""
    found = await engine.embedder.embed_query(text)
    return QueryVectors(found.embedding, found.token_vectors, found.tokens)


async def feed(engine: LabEngine, data_set: DataSet) -> float:
    """Every history is stored, each as a tenant of its own; how many seconds it took."""
    started = time.perf_counter()
    for number, history in enumerate(data_set.histories):
        await _feed(engine, number, history)
    return time.perf_counter() - started


async def _feed(engine: LabEngine, number: int, history: History) -> None:
    """All turns of a history are stored with all their vectors as tenant `number`."""
    await engine.storage.directory.create_account(account_of(number))
    store = engine.storage.tenant(tenant_id(number))
    memories = [memory(number, position, turn) for position, turn in enumerate(history.turns)]
    for start in range(0, len(memories), _BATCH):
        batch = memories[start : start + _BATCH]
        entries = await engine.indexer.entries(batch)
        puts = [PutMemory(memory=each, index=entry) for each, (entry, _) in zip(batch, entries, strict=True)]
        await store.commit(puts, now=EPOCH)
        await _complete(engine, number, [each for each, (_, needs) in zip(batch, entries, strict=True) if needs])


async def _complete(engine: LabEngine, number: int, memories: Sequence[Memory]) -> None:
    store = engine.storage.tenant(tenant_id(number))
    for each in memories:
        whole = await engine.indexer.embedding(each)
        await store.commit(
            [SetEmbedding(memory_id=each.id, expected_revision=each.revision, embedding=whole)], now=EPOCH
        )


def directory_of(root: Path, data_set: DataSet) -> Path:
    """Where a data set is stored, named after all that decides what is stored."""
    made = hashlib.sha256()
    for number, history in enumerate(data_set.histories):
        for position, turn in enumerate(history.turns):
            each = memory(number, position, turn)
            made.update(repr((each, index_text(each), index_terms(each))).encode())
    package = files("polymem")
    for part in _MADE_BY:
        made.update(package.joinpath(part).read_bytes())
    for path in sorted(each.name for each in package.joinpath("storage/sqlite/migrations").iterdir()):
        if path.endswith(".sql"):
            made.update(package.joinpath("storage/sqlite/migrations", path).read_bytes())
    return root / f"{data_set.name}-{made.hexdigest()[:12]}"


def account_of(number: int) -> NewAccount:
    """The tenant, user, space and key of the history of this number."""
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
