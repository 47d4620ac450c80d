"""The engine over the real SQLite storage, with a model, a clock, ids and files that tests can steer."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray

from polymem.domain.model import (
    BlobId,
    Call,
    IdempotencyClaim,
    Job,
    Membership,
    ModelIdentity,
    Principal,
    Role,
    Space,
    SpaceId,
    SpaceKind,
    TenantId,
)
from polymem.engine.engine import Engine
from polymem.engine.requests import NewSecret
from polymem.errors import InferenceUnavailable, NotFound, TooLarge
from polymem.ports.changes import AddSpace, Change, CommitResult, EmbeddedChunk
from polymem.ports.inference import EmbeddedText, QueryEmbedding
from polymem.ports.storage import Storage, TenantStore
from polymem.storage.postgres.storage import PostgresStorage
from polymem.storage.sqlite.storage import SqliteStorage
from postgres import PostgresServer

START = datetime(2025, 3, 1, 12, tzinfo=UTC)
CHUNK_CHARACTERS = 200


@dataclass
class FrozenClock:
    """Time that passes when told to."""

    at: datetime = START
    seconds: float = 1000.0

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.seconds

    def pass_time(self, **amount: float) -> None:
        passed = timedelta(**amount)
        self.at += passed
        self.seconds += passed.total_seconds()


@dataclass
class CountedIds:
    """UUIDv7 of the clock's time, in the order of making, and secrets that look random."""

    clock: FrozenClock
    count: int = 0

    def new_id(self) -> str:
        self.count += 1
        milliseconds = int(self.clock.at.timestamp() * 1000)
        return str(UUID(int=(milliseconds << 80) | (7 << 76) | (2 << 62) | self.count))

    def new_secret(self) -> str:
        self.count += 1
        return hashlib.sha256(f"secret {self.count}".encode()).hexdigest()

    def new_uuid4(self) -> str:
        self.count += 1
        return str(UUID(bytes=hashlib.sha256(f"uuid {self.count}".encode()).digest()[:16], version=4))


class HashEmbedder:
    """Vectors drawn from a hash of the text: the same text, the same vectors; no meaning in them."""

    def __init__(self) -> None:
        self.identity = ModelIdentity(name="hash", revision="1", dimension=8, token_dimension=4)
        self.problem: str | None = None
        self.before: Callable[[], Awaitable[None]] | None = None

    async def embed_query(self, text: str) -> QueryEmbedding:
        await self._answerable()
        tokens = np.abs(self._draw(text, (1, self.identity.token_dimension)))
        return QueryEmbedding(
            embedding=_unit(self._draw(text, (self.identity.dimension,))),
            token_vectors=_unit(tokens),
            tokens=((0, len(text)),),
        )

    async def embed_texts(self, texts: Sequence[str], *, max_chunks: int | None = None) -> tuple[EmbeddedText, ...]:
        await self._answerable()
        return tuple(self._embedded(text, max_chunks) for text in texts)

    def token_spans(self, text: str) -> tuple[tuple[tuple[int, int], ...], ...]:
        ends = [min(len(text), start + CHUNK_CHARACTERS) for start in self._starts(text)]
        return tuple(((start, end), (start, end)) for start, end in zip(self._starts(text), ends, strict=True))

    async def close(self) -> None:
        return

    @staticmethod
    def _starts(text: str) -> list[int]:
        return list(range(0, max(1, len(text)), CHUNK_CHARACTERS))

    async def _answerable(self) -> None:
        if self.before is not None:
            await self.before()
        if self.problem is not None:
            raise InferenceUnavailable(self.problem)

    def _embedded(self, text: str, max_chunks: int | None) -> EmbeddedText:
        starts = self._starts(text)
        kept = starts if max_chunks is None else starts[:max_chunks]
        return EmbeddedText(chunks=tuple(self._chunk(text, start) for start in kept), is_complete=kept == starts)

    def _chunk(self, text: str, start: int) -> EmbeddedChunk:
        end = min(len(text), start + CHUNK_CHARACTERS)
        tokens = self._draw(text[start:end], (2, self.identity.token_dimension))
        return EmbeddedChunk(
            start=start,
            end=end,
            embedding=_unit(self._draw(text[start:end], (self.identity.dimension,))),
            token_vectors=np.rint(_unit(tokens) * 127).astype(np.int8),
        )

    def _draw(self, text: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        seed = int.from_bytes(hashlib.sha256(f"{self.identity}{text}".encode()).digest()[:8])
        drawn: NDArray[np.float32] = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        return drawn


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
    return unit


@dataclass
class MemoryBlobs:
    """Files in a dictionary, read in pieces of a chosen size."""

    piece: int = 64
    files: dict[tuple[TenantId, BlobId], bytes] = field(default_factory=dict)

    async def put(self, tenant_id: TenantId, blob_id: BlobId, chunks: AsyncIterator[bytes], *, max_bytes: int) -> int:
        data = b"".join([chunk async for chunk in chunks])
        if len(data) > max_bytes:
            raise TooLarge("file", max_bytes, "bytes")
        self.files[tenant_id, blob_id] = data
        return len(data)

    async def open(self, tenant_id: TenantId, blob_id: BlobId) -> AsyncIterator[bytes]:
        if (tenant_id, blob_id) not in self.files:
            raise NotFound("blob", blob_id)
        data = self.files[tenant_id, blob_id]
        for start in range(0, len(data), self.piece):
            yield data[start : start + self.piece]

    async def delete(self, tenant_id: TenantId, blob_id: BlobId) -> None:
        self.files.pop((tenant_id, blob_id), None)

    async def list_ids(self, tenant_id: TenantId) -> tuple[BlobId, ...]:
        return tuple(sorted(blob_id for owner, blob_id in self.files if owner == tenant_id))


class WatchedStorage:
    """The storage, with a hook before each commit and after it, where a test fails or interferes."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.before_commit: Callable[[Sequence[Change]], Awaitable[None]] | None = None
        self.after_commit: Callable[[Sequence[Change]], Awaitable[None]] | None = None
        self.reads: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def tenant(self, tenant_id: TenantId) -> "WatchedTenant":
        return WatchedTenant(self, self._storage.tenant(tenant_id))


class WatchedTenant:
    """A tenant's store that tells its storage of each call."""

    def __init__(self, watch: WatchedStorage, store: TenantStore) -> None:
        self._watch = watch
        self._store = store

    def __getattr__(self, name: str) -> Any:
        self._watch.reads.append(name)
        return getattr(self._store, name)

    async def commit(self, changes: Sequence[Change], **given: Any) -> CommitResult:
        if self._watch.before_commit is not None:
            await self._watch.before_commit(changes)
        result = await self._store.commit(changes, **given)
        await asyncio.sleep(0)  # yields as a remote store would; without it the 3.11 tracer loses the lines that follow
        if self._watch.after_commit is not None:
            await self._watch.after_commit(changes)
        return result


@dataclass
class World:
    """An engine with one account, and what drives it."""

    engine: Engine
    storage: WatchedStorage
    clock: FrozenClock
    ids: CountedIds
    embedder: HashEmbedder
    blobs: MemoryBlobs
    account: NewSecret
    principal: Principal

    def call(self, key: str | None = None, digest: str = "d", **principal: Any) -> Call:
        """A call of the account's owner, perhaps with an idempotency key or with less power."""
        claim = None if key is None else IdempotencyClaim(key=key, digest=digest)
        return Call(principal=replace(self.principal, **principal), request_id="request", idempotency=claim)

    @property
    def store(self) -> Any:
        return self.storage.tenant(self.principal.tenant_id)

    async def space(self, kind: SpaceKind, role: Role | None = None, *, is_restricted: bool = True) -> SpaceId:
        """A new space in which the account's owner has this role."""
        made = Space(
            id=SpaceId(self.ids.new_id()),
            kind=kind,
            name=f"space {self.ids.count}",
            is_restricted=is_restricted,
            created_at=self.clock.now(),
        )
        members = () if role is None else (Membership(space_id=made.id, user_id=self.principal.user_id, role=role),)
        await self.store.commit([AddSpace(space=made, members=members)], now=self.clock.now())
        return made.id

    async def stranger(self) -> Principal:
        """The owner of another tenant."""
        return await self.engine.keys.authenticate((await self.engine.keys.provision(name="stranger")).secret)

    async def claim(self, *queues: str) -> Job | None:
        """The next due job, as a worker gets it."""
        return await self.engine.storage.jobs.claim(
            queues=frozenset(queues or ("embed", "import", "upkeep")),
            now=self.clock.now(),
            lease_until_at=self.clock.now() + timedelta(seconds=30),
        )


async def _storage(kind: str, request: pytest.FixtureRequest, folder: Path) -> Storage:
    if kind == "sqlite":
        return await SqliteStorage.open(folder / "data", owns_directory=False, reader_count=1)
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return await PostgresStorage.open(server.new_database(), connections=3)


@pytest.fixture(params=["postgres", "sqlite"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """An engine over an empty storage, after its first start."""
    clock = FrozenClock()
    ids = CountedIds(clock)
    storage = WatchedStorage(await _storage(request.param, request, tmp_path))
    embedder, blobs = HashEmbedder(), MemoryBlobs()
    watched: Any = storage
    engine = Engine(storage=watched, embedder=embedder, blobs=blobs, clock=clock, ids=ids)
    account = await engine.keys.first_start()
    assert account is not None
    principal = await engine.keys.authenticate(account.secret)
    try:
        yield World(engine, storage, clock, ids, embedder, blobs, account, principal)
    finally:
        await storage.close()
