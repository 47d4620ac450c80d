"""One storage of each kind, and builders of what is stored in it.

The tests see the ports alone. Another kind of storage joins by one more entry in `_KINDS`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from polymem.domain.model import (
    ContentType,
    Job,
    JobId,
    JobKind,
    JobState,
    Key,
    KeyId,
    Memory,
    MemoryId,
    MemoryState,
    MemoryType,
    ModelIdentity,
    Scope,
    Space,
    SpaceId,
    SpaceKind,
    Tenant,
    TenantId,
    Turn,
    User,
    UserId,
)
from polymem.ports.changes import EmbeddedChunk, Embedding, IndexEntry, PutMemory
from polymem.ports.directory import NewAccount
from polymem.ports.storage import Storage, TenantStore
from polymem.storage.postgres.storage import PostgresStorage
from polymem.storage.sqlite.storage import SqliteStorage
from postgres import PostgresServer

Connect = Callable[[], Awaitable[Storage]]

_START = datetime(2025, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
_MODEL = ModelIdentity(name="test-model", revision="1", dimension=8, token_dimension=4)


@dataclass
class Made:
    """New things with ids that are never made twice and sort in the order of making."""

    count: int = 0
    model: ModelIdentity = field(default=_MODEL)

    def at(self, seconds: float = 0) -> datetime:
        """A moment so many seconds after the start of the test."""
        return _START + timedelta(seconds=seconds)

    def id(self) -> str:
        """A canonical UUIDv7 that sorts after all earlier ones."""
        self.count += 1
        milliseconds = int(_START.timestamp() * 1000) + self.count
        return str(UUID(int=(milliseconds << 80) | (7 << 76) | (2 << 62) | self.count))

    def account(self, name: str = "acme", **tenant: Any) -> NewAccount:
        """A tenant with its first user, personal space and key."""
        tenant_id, user_id, space_id = TenantId(self.id()), UserId(self.id()), SpaceId(self.id())
        return NewAccount(
            tenant=replace(
                Tenant(id=tenant_id, name=name, plan="self-hosted", is_active=True, created_at=self.at(self.count)),
                **tenant,
            ),
            user=User(
                id=user_id,
                tenant_id=tenant_id,
                name="owner",
                personal_space_id=space_id,
                created_at=self.at(self.count),
            ),
            space=self.space(id=space_id, kind=SpaceKind.PERSONAL, name="general"),
            key=self.key(tenant_id, user_id),
            key_hash=self.id().encode(),
        )

    def key(self, tenant_id: TenantId, user_id: UserId, **fields: Any) -> Key:
        """A key of a user that neither expires nor was revoked."""
        key = Key(
            id=KeyId(self.id()),
            tenant_id=tenant_id,
            user_id=user_id,
            name="first",
            prefix="pm_abcd",
            scopes=frozenset({Scope.READ, Scope.WRITE}),
            allowed_spaces=None,
            created_at=self.at(self.count),
            expires_at=None,
            revoked_at=None,
        )
        return replace(key, **fields)

    def user(self, tenant_id: TenantId, name: str) -> tuple[User, Space]:
        """A user with its personal space."""
        space = self.space(kind=SpaceKind.PERSONAL, name="general")
        user = User(
            id=UserId(self.id()),
            tenant_id=tenant_id,
            name=name,
            personal_space_id=space.id,
            created_at=self.at(self.count),
        )
        return user, space

    def space(self, **fields: Any) -> Space:
        """An open domain."""
        space = Space(
            id=SpaceId(self.id()),
            kind=SpaceKind.DOMAIN,
            name=f"domain {self.count}",
            is_restricted=False,
            created_at=self.at(self.count),
        )
        return replace(space, **fields)

    def memory(self, account: NewAccount, **fields: Any) -> Memory:
        """An active insight in the account's personal space."""
        memory = Memory(
            id=MemoryId(self.id()),
            space_id=account.space.id,
            content=f"memory {self.count}",
            memory_type=MemoryType.INSIGHT,
            state=MemoryState.ACTIVE,
            tags=(),
            metadata=None,
            source=None,
            agent_id=None,
            session_id=None,
            turn=None,
            created_by=account.user.id,
            updated_by=None,
            superseded_by=None,
            derived_from=(),
            version=1,
            revision=1,
            created_at=self.at(self.count),
            updated_at=self.at(self.count),
        )
        return replace(memory, **fields)

    def turn(self, account: NewAccount, session_id: str, seq: int, **fields: Any) -> Memory:
        """A captured turn of a session."""
        turn = Turn(role="user", seq=seq, content_type=ContentType.TEXT)
        given = {"memory_type": MemoryType.SESSION, "session_id": session_id, "turn": turn, **fields}
        return self.memory(account, **given)

    def entry(self, *terms: str, embedding: Embedding | None = None) -> IndexEntry:
        """An index entry of these terms."""
        return IndexEntry(terms=terms or ("word",), embedding=embedding)

    def embedding(self, seed: int = 1, *, model: ModelIdentity | None = None, is_complete: bool = True) -> Embedding:
        """The vectors of one chunk, the same for the same seed."""
        identity = model or self.model
        random = np.random.default_rng(seed)
        vector = random.standard_normal(identity.dimension).astype(np.float32)
        tokens = random.integers(-127, 128, size=(3, identity.token_dimension)).astype(np.int8)
        chunk = EmbeddedChunk(
            start=0, end=9, embedding=(vector / np.linalg.norm(vector)).astype(np.float32), token_vectors=tokens
        )
        return Embedding(model=identity, chunks=(chunk,), is_complete=is_complete)

    def put(self, memory: Memory, *terms: str, identity: str | None = None) -> PutMemory:
        """The change that stores the memory, indexed by these terms alone."""
        return PutMemory(memory=memory, index=self.entry(*terms), identity=identity)

    def job(self, account: NewAccount, **fields: Any) -> Job:
        """A queued job that is due from the start."""
        payload: Mapping[str, Any] = {"memory_id": "m", "nested": {"list": [1, None, "x"]}}
        job = Job(
            id=JobId(self.id()),
            tenant_id=account.tenant.id,
            space_id=account.space.id,
            user_id=account.user.id,
            kind=JobKind.EMBED,
            queue="default",
            ordering_key=None,
            blocks_key_when_failed=False,
            sequence=0,
            state=JobState.QUEUED,
            priority=0,
            attempts=0,
            max_attempts=5,
            fence=0,
            payload=payload,
            result={},
            progress_total=0,
            progress_done=0,
            error=None,
            reference_at=self.at(-60),
            run_after_at=self.at(),
            lease_until_at=None,
            created_at=self.at(self.count),
            updated_at=self.at(self.count),
            finished_at=None,
        )
        return replace(job, **fields)


def _sqlite(request: pytest.FixtureRequest) -> Connect:
    folder: Path = request.getfixturevalue("tmp_path")
    return lambda: SqliteStorage.open(folder / "data", owns_directory=False, reader_count=2)


def _postgres(request: pytest.FixtureRequest) -> Connect:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.new_database()
    return lambda: PostgresStorage.open(url, connections=4)


_KINDS: Mapping[str, Callable[[pytest.FixtureRequest], Connect]] = {"postgres": _postgres, "sqlite": _sqlite}


@pytest.fixture(params=sorted(_KINDS))
def storage_kind(request: pytest.FixtureRequest) -> str:
    """The name of the storage under test."""
    return str(request.param)


@pytest.fixture
def place(storage_kind: str, request: pytest.FixtureRequest) -> Connect:
    """Opens the test's own storage, as one more process would."""
    return _KINDS[storage_kind](request)


@pytest.fixture
async def connect(place: Connect) -> AsyncIterator[Connect]:
    """Opens one more handle on the test's storage, as another process would; all are closed at the end."""
    async with AsyncExitStack() as opened:

        async def open_one() -> Storage:
            storage = await place()
            opened.push_async_callback(storage.close)
            return storage

        yield open_one


@pytest.fixture
async def storage(connect: Connect) -> Storage:
    """An open storage with nothing in it."""
    return await connect()


@pytest.fixture
def make() -> Made:
    """Builders of what is stored."""
    return Made()


@pytest.fixture
async def account(storage: Storage, make: Made) -> NewAccount:
    """A tenant that is in the storage."""
    made = make.account()
    assert await storage.directory.create_account(made)
    return made


@pytest.fixture
def store(storage: Storage, account: NewAccount) -> TenantStore:
    """The store of that tenant."""
    return storage.tenant(account.tenant.id)
