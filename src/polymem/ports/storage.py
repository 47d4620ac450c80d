"""The storage port: what the engine asks of a database, in words no database owns.

The engine computes first and then commits a sequence of `Change`s in one transaction. Nothing is read
inside a transaction on the engine's behalf: a change that depends on what was read carries a guard
(`expected_version`, `expected_revision`, a job fence) and the whole commit is refused when a guard fails.

Every method of a `TenantStore` is bound to the tenant it was made for; there is no way to name another.
All methods may raise `StorageUnavailable`, `StorageFull`, `StorageReadOnly` or `StorageDamaged`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from polymem.domain.model import (
    IdempotencyClaim,
    Job,
    JobId,
    JobKind,
    Membership,
    Memory,
    MemoryId,
    MemoryVersion,
    ModelIdentity,
    Space,
    SpaceId,
    SpaceKind,
    TenantId,
    UserId,
)
from polymem.domain.query import ListOrder, MemoryFilter, MemoryPage
from polymem.ports.changes import Change, CommitResult, SessionEnd
from polymem.ports.directory import Directory
from polymem.ports.learned import LearnedReads
from polymem.ports.limits import Buckets, DailyQueries
from polymem.ports.queue import JobQueue
from polymem.ports.search import SearchIndex


class TenantStore(LearnedReads, Protocol):
    """All that is stored of one tenant."""

    @property
    def tenant_id(self) -> TenantId:
        """The tenant this store is bound to."""
        ...

    async def commit(
        self,
        changes: Sequence[Change],
        *,
        now: datetime,
        idempotency: IdempotencyClaim | None = None,
        max_memories: int | None = None,
        ends_at: SessionEnd | None = None,
    ) -> CommitResult:
        """All changes are durable and visible to the next read of any process, or none is.

        Changes apply in order; a later one sees the earlier ones. With `idempotency`, the key and the
        outcomes are kept in the same transaction. `max_memories` bounds the memories held after it; a commit
        that adds none is never refused for it. With `ends_at` it is refused with `SessionMoved` when the session
        ends elsewhere, unless the idempotency key says that it was done before. An empty sequence is `Applied`
        with the present count.
        Raises `NotFound` for an unknown tenant, or a change that names an unknown space or member.
        """
        ...

    async def get_memories(self, ids: Sequence[MemoryId], spaces: frozenset[SpaceId]) -> dict[MemoryId, Memory]:
        """The memories of these ids in these spaces, in any state; unknown ids are left out."""
        ...

    async def is_deleted(self, memory_id: MemoryId, spaces: frozenset[SpaceId]) -> bool:
        """True when a memory of this id was in one of these spaces and has been deleted."""
        ...

    async def list_memories(self, where: MemoryFilter, *, order: ListOrder, limit: int, offset: int) -> MemoryPage:
        """One page in `order`; an offset beyond the end gives an empty page with the true total."""
        ...

    async def find_space(self, kind: SpaceKind, name: str, user_id: UserId) -> tuple[Space, Membership | None] | None:
        """The space of this kind and name, which is not `personal`, with this user's membership in it."""
        ...

    async def list_versions(self, memory_id: MemoryId, spaces: frozenset[SpaceId]) -> tuple[MemoryVersion, ...]:
        """The earlier states of a memory, newest first; empty when it has none or is not there."""
        ...

    async def list_session_messages(
        self, session_ids: Sequence[str], spaces: frozenset[SpaceId], *, limit_per_session: int
    ) -> tuple[Memory, ...]:
        """The first `limit_per_session` turns, in any state, of each session; by session id, created_at, seq, id."""
        ...

    async def last_seq(self, session_id: str, space_id: SpaceId) -> int | None:
        """The highest seq among the turns of a session, or None when it has no turn."""
        ...

    async def known_identities(self, identities: Sequence[str]) -> frozenset[str]:
        """Those of these identities under which `PutMemory` would store nothing: they are there, or forgotten."""
        ...

    async def count_memories(self) -> int:
        """How many memories the tenant holds, in every state and space."""
        ...

    async def list_without_vectors(self, model: ModelIdentity, *, limit: int) -> tuple[MemoryId, ...]:
        """Ids of memories whose vectors are missing, incomplete, or made by another model, oldest first.

        Oldest by when they were stored, or by their ids, which are made in order of time.
        """
        ...

    async def list_spaces(self, user_id: UserId) -> tuple[tuple[Space, Membership | None], ...]:
        """Every space of the tenant with this user's membership in it, if any, by creation then id."""
        ...

    async def get_job(self, job_id: JobId) -> Job | None:
        """The job of this id, or None."""
        ...

    async def list_jobs(self, kinds: frozenset[JobKind], spaces: frozenset[SpaceId], *, limit: int) -> tuple[Job, ...]:
        """The jobs of these kinds in these spaces, newest first."""
        ...

    async def change_no(self) -> int:
        """The tenant's count of committed changes; it only grows, and orders them."""
        ...


class FindingKind(StrEnum):
    """What `check` compares."""

    SCHEMA = "schema"
    ROWS = "rows"
    TERMS = "terms"
    COUNTS = "counts"
    VECTORS = "vectors"
    CONCEPTS = "concepts"
    JOBS = "jobs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing `check` looked at: how many it compared and, when `is_ok` is False, what differs."""

    kind: FindingKind
    is_ok: bool
    compared: int
    message: str


class Storage(Protocol):
    """One open database. Opening migrates it; closing finishes what was accepted."""

    @property
    def directory(self) -> Directory:
        """Tenants, users, keys and plans."""
        ...

    @property
    def jobs(self) -> JobQueue:
        """The dispatch of jobs."""
        ...

    @property
    def buckets(self) -> Buckets:
        """The buckets of the rate limits, shared by every process that serves from this storage."""
        ...

    @property
    def daily_queries(self) -> DailyQueries:
        """The queries that tenants used on a day, shared in the same way."""
        ...

    def search(self, tenant_id: TenantId) -> SearchIndex:
        """The index of this tenant; cheap to make."""
        ...

    def tenant(self, tenant_id: TenantId) -> TenantStore:
        """The store bound to this tenant; cheap to make."""
        ...

    async def ping(self) -> None:
        """The storage answers a read and a write now; raises otherwise."""
        ...

    async def check(self) -> tuple[Finding, ...]:
        """Every derived copy is compared with the rows it comes from; nothing is changed."""
        ...

    async def forget_idempotency(self, *, before: datetime) -> int:
        """Idempotency keys first used before the time are forgotten; how many."""
        ...

    async def purge(self) -> None:
        """Nothing of what was deleted before the call can be read from the storage's files any more.

        What was deleted cannot be asked for from the moment of its commit; this is about what still lies on the disk.
        Cheap when nothing was deleted since the last time.
        """
        ...

    async def tend(self) -> None:
        """What makes searches of large tenants quick suits the sizes that tenants have now.

        Cheap when nothing is to do; of several processes that call it one does the work. May take minutes where a
        tenant has grown: for a background task.
        """
        ...

    async def close(self) -> None:
        """What was accepted is durable and every resource is released; closing twice is harmless."""
        ...
