"""Content of every kind for tests of copies, and the ends between which it is copied."""

import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Protocol
from uuid import UUID

import numpy as np
import psycopg
from numpy.typing import NDArray

from polymem.domain.concepts import concept_keys, pairs_within
from polymem.domain.model import (
    BlobId,
    ContentType,
    IdempotencyClaim,
    JobKind,
    JsonValue,
    KeyId,
    Membership,
    Memory,
    MemoryId,
    MemoryRole,
    MemoryState,
    MemoryType,
    ModelIdentity,
    Plan,
    Role,
    Scope,
    Space,
    SpaceId,
    SpaceKind,
    Turn,
    User,
    UserId,
)
from polymem.engine.copy import Copying, CopyResult, Progress
from polymem.ports.blobs import BlobStore
from polymem.ports.changes import (
    AddJob,
    AddSpace,
    Associate,
    Audit,
    Change,
    DeleteMemory,
    EmbeddedChunk,
    Embedding,
    IndexEntry,
    MoveValence,
    PutMemory,
    SetEmbedding,
    SetMember,
    UpdateMemory,
)
from polymem.ports.copy import SHARED_TABLES, TENANT_TABLES, CopyReader, CopyRow, CopySource, CopyTarget
from polymem.ports.directory import NewAccount
from polymem.ports.storage import Storage
from polymem.storage.blobs.filesystem import FilesystemBlobs
from polymem.storage.postgres.copy import PostgresCopySource, PostgresCopyTarget
from polymem.storage.postgres.storage import PostgresStorage
from polymem.storage.sqlite.copy import SqliteCopySource, SqliteCopyTarget
from polymem.storage.sqlite.storage import DATABASE_FILE, SqliteStorage
from samples import AT, account_of, job_of, memory_of

MODELS = (
    ModelIdentity(name="small", revision="1", dimension=8, token_dimension=4),
    ModelIdentity(name='other "model"', revision="ünï", dimension=6, token_dimension=2),
)
_WORDS = (
    "alpha",
    "beta",
    "gamma",
    "delta",
    "Größe",
    "記憶",
    "build",
    "server",
    "\U0001f600",
    "tab\tline\nend\\",
    "nul\0and\x10",
)
_TAGS = _WORDS[:-1]
_CONCEPTS = ("Alpha", "alpha", "Größe", "記憶", "two words")
_METADATA: tuple[dict[str, JsonValue] | None, ...] = (None, {}, {"a": [1, 2.5, None, "é"], "b": {"c": True}})


# --- content ---------------------------------------------------------------------------------------------


class Content:
    """Random tenants with everything that can be stored of them; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._learned = random.Random(seed)
        self._made = 0

    async def fill(self, storage: Storage, *, tenants: int = 2, memories: int = 20) -> list[NewAccount]:
        """The storage holds the tenants, each with about so many memories and all that belongs to them."""
        await storage.directory.put_plan(Plan(name="small", requests_per_minute=7, burst=3, max_memories=1000))
        accounts = [account_of(f"t{number}") for number in range(tenants)]
        for account in accounts:
            await self._account(storage, account)
            spaces = await self._spaces(storage, account)
            kept = await self._memories(storage, account, spaces, memories)
            await self._change(storage, account, spaces, kept)
            await self._jobs(storage, account)
            await storage.daily_queries.take(account.tenant.id, AT.date(), wanted=3, limit=9)
        return accounts

    async def _account(self, storage: Storage, account: NewAccount) -> None:
        await storage.directory.create_account(account)
        user = User(
            id=UserId(f"second-{account.tenant.id}"),
            tenant_id=account.tenant.id,
            name="Zoë",
            personal_space_id=SpaceId(f"own-{account.tenant.id}"),
            created_at=AT + timedelta(microseconds=1),
        )
        own = replace(account.space, id=user.personal_space_id)
        await storage.directory.add_user(user, own)
        for number in range(3):
            key = replace(
                account.key,
                id=KeyId(f"key-{number}-{account.tenant.id}"),
                user_id=user.id,
                scopes=frozenset({Scope.READ}),
                allowed_spaces=frozenset({own.id}) if number else None,
                expires_at=AT + timedelta(days=number) if number else None,
            )
            await storage.directory.add_key(key, self._random.randbytes(32))
        await storage.directory.revoke_key(KeyId(f"key-1-{account.tenant.id}"), now=AT)
        await storage.directory.set_tenant(replace(account.tenant, plan="small", is_active=self._random.random() < 0.5))

    async def _spaces(self, storage: Storage, account: NewAccount) -> list[SpaceId]:
        spaces = [
            Space(
                id=SpaceId(f"{kind.value}-{account.tenant.id}"),
                kind=kind,
                name=f"{kind.value} space",
                is_restricted=self._random.random() < 0.5,
                created_at=AT,
            )
            for kind in SpaceKind
            if kind is not SpaceKind.PERSONAL
        ]
        changes: list[Change] = [
            AddSpace(space=space, members=(Membership(space_id=space.id, user_id=account.user.id, role=Role.OWNER),))
            for space in spaces
        ]
        changes.append(
            SetMember(space_id=spaces[0].id, user_id=UserId(f"second-{account.tenant.id}"), role=Role.VIEWER)
        )
        await storage.tenant(account.tenant.id).commit(changes, now=AT)
        return [account.space.id, *(space.id for space in spaces)]

    async def _memories(
        self, storage: Storage, account: NewAccount, spaces: Sequence[SpaceId], count: int
    ) -> list[Memory]:
        store = storage.tenant(account.tenant.id)
        made = [self._memory(account, spaces) for _ in range(count)]
        for number, memory in enumerate(made):
            identity = f"identity {number}" if number % 3 else None
            await store.commit(
                [
                    PutMemory(memory=memory, index=self._entry(), identity=identity),
                    Audit(
                        at=AT,
                        user_id=account.user.id,
                        key_id=account.key.id,
                        action="write",
                        target=memory.id,
                        request_id=f"r{number}",
                    ),
                ],
                now=AT + timedelta(seconds=number),
                idempotency=IdempotencyClaim(key=f"claim {number}", digest="d") if number % 4 == 0 else None,
            )
        return made

    def _memory(self, account: NewAccount, spaces: Sequence[SpaceId]) -> Memory:
        self._made += 1
        chosen, learned = self._random, self._learned
        at = AT + timedelta(microseconds=chosen.randrange(10**12))
        is_turn = chosen.random() < 0.3
        return replace(
            memory_of(account, str(UUID(int=chosen.getrandbits(128))), content=" ".join(chosen.choices(_WORDS, k=9))),
            space_id=chosen.choice(spaces),
            memory_type=MemoryType.SESSION if is_turn else chosen.choice((MemoryType.INSIGHT, MemoryType.PINNED)),
            state=chosen.choice(list(MemoryState)),
            tags=tuple(dict.fromkeys(chosen.choices(_TAGS, k=chosen.randrange(4)))),
            metadata=chosen.choice(_METADATA),
            source=chosen.choice((None, "import")),
            agent_id=chosen.choice((None, "agent")),
            session_id="session" if is_turn else None,
            turn=Turn(role="user", seq=self._made, content_type=ContentType.TEXT) if is_turn else None,
            derived_from=(MemoryId("x"),) if chosen.random() < 0.2 else (),
            created_at=at,
            updated_at=at,
            role=learned.choice(list(MemoryRole)),
            concepts=tuple(learned.sample(_CONCEPTS, k=learned.randrange(4))),
            importance=learned.random(),
            valence=learned.uniform(-1, 1),
            external_ref=f"ref {self._made}" if learned.random() < 0.2 else None,
            fingerprint="fingerprint" if learned.random() < 0.2 else None,
            supersedes=(MemoryId("y"),) if learned.random() < 0.2 else (),
        )

    def _entry(self) -> IndexEntry:
        chosen = self._random
        terms = tuple(chosen.choices(_WORDS, k=chosen.randrange(1, 12)))
        if chosen.random() < 0.1:
            terms += ("often",) * 300
        embedding = self.embedding(chosen.choice(MODELS)) if chosen.random() < 0.8 else None
        return IndexEntry(terms=terms, embedding=embedding, traits=chosen.randbytes(chosen.randrange(6)))

    def embedding(self, model: ModelIdentity) -> Embedding:
        """Vectors of a few chunks, or of none yet."""
        numbers = np.random.default_rng(self._random.getrandbits(32))
        count = self._random.randrange(4)
        chunks = tuple(_chunk(numbers, model, start=7 * number) for number in range(count))
        return Embedding(model=model, chunks=chunks, is_complete=count > 1)

    async def _change(
        self, storage: Storage, account: NewAccount, spaces: Sequence[SpaceId], made: Sequence[Memory]
    ) -> None:
        store = storage.tenant(account.tenant.id)
        for number, memory in enumerate(made):
            # The first few make sure that there is one of everything.
            match number if number < 3 else self._random.randrange(5):
                case 1:
                    deletion = DeleteMemory(
                        memory_id=memory.id, spaces=frozenset(spaces), remembers_identity=number % 2 == 1
                    )
                    await store.commit([deletion], now=AT)
                case 0:
                    later = replace(memory, content="changed", tags=("new",), version=2, revision=2)
                    update = UpdateMemory(
                        memory=later,
                        index=self._entry(),
                        expected_revision=1,
                        replaced_by=account.user.id,
                        reason="better",
                    )
                    await store.commit([update], now=AT)
                case 2:
                    vectors = SetEmbedding(
                        memory_id=memory.id, expected_revision=1, embedding=self.embedding(MODELS[0])
                    )
                    await store.commit([vectors], now=AT)
                case _:
                    pass
        taught: list[Change] = [
            MoveValence(
                memory_ids=frozenset(each.id for each in made), spaces=frozenset(spaces), outcome=1.0, rate=0.3
            ),
            *(
                Associate(
                    space_id=space_id,
                    pairs=pairs_within(concept_keys(_CONCEPTS)),
                    rate=self._learned.random(),
                    at=AT,
                    outcome=self._learned.uniform(-1, 1),
                    valence_rate=self._learned.random(),
                )
                for space_id in spaces
            ),
        ]
        await store.commit(taught, now=AT)

    async def _jobs(self, storage: Storage, account: NewAccount) -> None:
        store = storage.tenant(account.tenant.id)
        names = [f"{number}-{account.tenant.id}" for number in range(6)]
        for number, name in enumerate(names):
            job = replace(
                job_of(account, name, ordering_key="key" if number < 3 else None),
                priority=number,
                payload={"nested": [1, {"x": "é"}]},
                blocks_key_when_failed=number == 0,
                kind=list(JobKind)[number % len(list(JobKind))],
            )
            await store.commit([AddJob(job=job)], now=AT)
        claimed = [
            await storage.jobs.claim(queues=frozenset({"default"}), now=AT, lease_until_at=AT + timedelta(minutes=1))
            for _ in range(3)
        ]
        held = [job for job in claimed if job is not None and job.tenant_id == account.tenant.id]
        for job in held[:1]:
            await storage.jobs.park(job.tenant_id, job.id, fence=job.fence, error="no", now=AT)


def _chunk(numbers: np.random.Generator, model: ModelIdentity, *, start: int) -> EmbeddedChunk:
    vector: NDArray[np.float32] = numbers.standard_normal(model.dimension).astype(np.float32)
    tokens = numbers.integers(-128, 128, size=(int(numbers.integers(0, 4)), model.token_dimension))
    return EmbeddedChunk(
        start=start,
        end=start + 9,
        embedding=(vector / np.linalg.norm(vector)).astype(np.float32),
        token_vectors=tokens.astype(np.int8),
    )


# --- ends ------------------------------------------------------------------------------------------------


class End(Protocol):
    """One database of a test, and the directory of its files."""

    @property
    def files(self) -> Path:
        """Where files stand."""
        ...

    async def source(self) -> CopySource:
        """The end is read."""
        ...

    async def target(self) -> CopyTarget:
        """The end is written."""
        ...

    async def storage(self) -> Storage:
        """The end as a server opens it."""
        ...

    def run(self, statement: str) -> None:
        """The statement ran beside whoever has the database open."""
        ...


@dataclass(frozen=True)
class SqliteEnd:
    """A data directory."""

    folder: Path

    @property
    def files(self) -> Path:
        """Where files stand."""
        return self.folder / "blobs"

    async def source(self) -> CopySource:
        """The end is read."""
        return await SqliteCopySource.open(self.folder)

    async def target(self) -> CopyTarget:
        """The end is written."""
        return await SqliteCopyTarget.open(self.folder)

    async def storage(self) -> Storage:
        """The end as a server opens it."""
        return await SqliteStorage.open(self.folder, owns_directory=False, reader_count=1)

    def run(self, statement: str) -> None:
        """The statement ran."""
        with closing(sqlite3.connect(self.folder / DATABASE_FILE)) as connection, connection:
            connection.execute(statement)


@dataclass(frozen=True)
class PostgresEnd:
    """A database on the test server."""

    url: str
    files: Path

    async def source(self) -> CopySource:
        """The end is read."""
        return await PostgresCopySource.open(self.url)

    async def target(self) -> CopyTarget:
        """The end is written."""
        return await PostgresCopyTarget.open(self.url)

    async def storage(self) -> Storage:
        """The end as a server opens it."""
        return await PostgresStorage.open(self.url, connections=2)

    def run(self, statement: str) -> None:
        """The statement ran."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())


async def filled(end: End, seed: int, *, tenants: int = 2, memories: int = 20) -> list[NewAccount]:
    """The end holds random content."""
    storage = await end.storage()
    try:
        return await Content(seed).fill(storage, tenants=tenants, memories=memories)
    finally:
        await storage.close()


class Counted:
    """Ids that tell one copy from another."""

    def new_id(self) -> str:
        """Not asked for by a copy."""
        raise NotImplementedError

    def new_secret(self) -> str:
        """Not asked for by a copy."""
        raise NotImplementedError

    def new_uuid4(self) -> str:
        """The one id of these tests."""
        return "copy"


async def copied(
    source: End,
    destination: End,
    *,
    report: Callable[[Progress], None] = lambda _: None,
    wrap: Callable[[CopyTarget], CopyTarget] = lambda target: target,
    blobs: Callable[[Path], BlobStore] = FilesystemBlobs,
) -> CopyResult:
    """One run of a copy; `wrap` stands between it and the destination."""
    read = await source.source()
    try:
        written = await destination.target()
        try:
            copying = Copying(
                read,
                wrap(written),
                source_blobs=FilesystemBlobs(source.files),
                target_blobs=blobs(destination.files),
                ids=Counted(),
                report=report,
            )
            return await copying.run()
        finally:
            await written.close()
    finally:
        await read.close()


async def put_file(end: End, account: NewAccount, name: str, content: bytes) -> None:
    """The end has the file."""

    async def pieces() -> AsyncIterator[bytes]:
        yield content

    await FilesystemBlobs(end.files).put(account.tenant.id, BlobId(name), pieces(), max_bytes=1 << 30)


async def told(end: CopyReader) -> dict[tuple[str | None, str], list[CopyRow]]:
    """All rows of an end, by tenant and table; the end is closed."""
    try:
        tenants = [None, *(extent.tenant_id for extent in await end.tenants())]
        return {
            (tenant_id, table.name): [row async for piece in end.rows(table, tenant_id) for row in piece]
            for tenant_id in tenants
            for table in (SHARED_TABLES if tenant_id is None else TENANT_TABLES)
        }
    finally:
        await end.close()


async def rows_of(end: End) -> dict[tuple[str | None, str], list[CopyRow]]:
    """What the end holds, as a source tells it."""
    return await told(await end.source())
