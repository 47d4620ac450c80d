"""The storage port: what the engine asks of a database, in words no database owns.

The engine computes first and then commits a sequence of `Change`s in one transaction. Nothing is read
inside a transaction on the engine's behalf: a change that depends on what was read carries a guard
(`expected_version`, `expected_revision`, a job fence) and the whole commit is refused when a guard fails.

Every method of a `TenantStore` is bound to the tenant it was made for; there is no way to name another.
All methods may raise `StorageUnavailable`, `StorageFull`, `StorageReadOnly` or `StorageDamaged`.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from polymem.domain.model import (
    IdempotencyClaim,
    Job,
    JobId,
    JobKind,
    JobState,
    JsonValue,
    Key,
    KeyId,
    Membership,
    Memory,
    MemoryId,
    MemoryVersion,
    ModelIdentity,
    Plan,
    Role,
    Space,
    SpaceId,
    Tenant,
    TenantId,
    User,
    UserId,
)
from polymem.domain.query import ListOrder, MemoryFilter, MemoryPage
from polymem.ports.search import SearchIndex

# --- what is stored beside a memory ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedChunk:
    """Vectors of one chunk of a memory's index text; `start` and `end` are character offsets in it.

    `embedding`: float32 (dimension,), unit length. `token_vectors`: int8 (tokens, token_dimension),
    127 times unit vectors.
    """

    start: int
    end: int
    embedding: NDArray[np.float32]
    token_vectors: NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """The vectors of a memory by one model; `is_complete` is False while chunks at its end are missing."""

    model: ModelIdentity
    chunks: tuple[EmbeddedChunk, ...]
    is_complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """What makes a memory findable: all its terms in order (with repeats) and, when made, its vectors.

    `traits` are the engine's own few bytes about the text; storage keeps them as they are.
    """

    terms: tuple[str, ...]
    embedding: Embedding | None
    traits: bytes = b""


# --- changes ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PutMemory:
    """Stores a new memory. `identity` names what it is a copy of: a second one with the same is not stored.

    Outcome: `Stored`, or `Duplicate` with the id of the one that is there (in any state), or `Forgotten`
    when the identity was deleted before with `remembers_identity`. The memory's own id counts likewise: one
    that is there is a `Duplicate`, one that was deleted is `Forgotten`.
    """

    memory: Memory
    index: IndexEntry
    identity: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateMemory:
    """Replaces a memory by `memory` (same id) and writes the earlier state to its history.

    Guard: the stored revision is `expected_revision`; else the commit is refused with `RevisionMoved`.
    The caller has set the new version, revision and times. `keeps_history` False is for background
    refinement that moves only the revision. Outcome: `Updated`, or `Missing` when there is no such memory.
    """

    memory: Memory
    index: IndexEntry
    expected_revision: int
    replaced_by: str | None
    reason: str
    keeps_history: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteMemory:
    """Removes a memory for good: row, versions, terms, vectors; a tombstone of the id stays.

    Only within `spaces`. With `remembers_identity` its identity can never be stored again. Outcome: `Deleted`,
    `AlreadyDeleted` when a tombstone is there, `Missing` when it never was in those spaces.
    """

    memory_id: MemoryId
    spaces: frozenset[SpaceId]
    remembers_identity: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SetEmbedding:
    """Replaces the vectors of a memory when its revision still is `expected_revision`.

    Moves neither version nor revision. Outcome: `Updated`, or `Missing` when the memory is gone or has
    moved on (then a newer job makes its vectors). Never refuses the commit.
    """

    memory_id: MemoryId
    expected_revision: int
    embedding: Embedding


@dataclass(frozen=True, slots=True, kw_only=True)
class AddJob:
    """Queues a job; its `sequence` is given by the storage, in commit order. Outcome: `Stored`."""

    job: Job


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressJob:
    """Records how far a running job came, with its result so far. Guard: the fence, else `FenceLost`."""

    job_id: JobId
    fence: int
    progress_done: int
    progress_total: int
    result: Mapping[str, JsonValue]
    lease_until_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishJob:
    """Ends a running job as done, in the same transaction as its effect. Guard: the fence, else `FenceLost`."""

    job_id: JobId
    fence: int
    result: Mapping[str, JsonValue]
    error: str | None
    finished_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AddSpace:
    """Makes a space with its first members. Outcome: `Stored`, or `Duplicate` when kind and name are taken."""

    space: Space
    members: tuple[Membership, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMember:
    """Gives a user a role in a space, or with role None takes it away. Outcome: `Updated`."""

    space_id: SpaceId
    user_id: UserId
    role: Role | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Appends to the tenant's audit log. Outcome: `Stored`."""

    at: datetime
    user_id: UserId
    key_id: KeyId
    action: str
    target: str
    request_id: str


Change = (
    PutMemory
    | UpdateMemory
    | DeleteMemory
    | SetEmbedding
    | AddJob
    | ProgressJob
    | FinishJob
    | AddSpace
    | SetMember
    | Audit
)

# --- outcomes --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """The new thing is there."""

    id: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Nothing was stored: `id` is what was there already."""

    id: str


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Nothing was stored: this identity was deleted for good."""


@dataclass(frozen=True, slots=True)
class Updated:
    """The thing is as the change says."""

    id: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """The thing was there and is gone."""

    id: str


@dataclass(frozen=True, slots=True)
class AlreadyDeleted:
    """The thing was deleted before."""

    id: str


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no such thing here."""

    id: str


Outcome = Stored | Duplicate | Forgotten | Updated | Deleted | AlreadyDeleted | Missing


@dataclass(frozen=True, slots=True)
class Applied:
    """All changes are durable. `outcomes` stand in the order of the changes; `change_no` is the tenant's new count."""

    outcomes: tuple[Outcome, ...]
    change_no: int


@dataclass(frozen=True, slots=True)
class Replayed:
    """Nothing was done: this idempotency key did its work before, with these outcomes."""

    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class RevisionMoved:
    """Refused, nothing stored: the memory has another revision than expected."""

    memory_id: MemoryId
    current_revision: int


@dataclass(frozen=True, slots=True)
class FenceLost:
    """Refused, nothing stored: another worker holds the job now, or it is no longer running."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class KeyReused:
    """Refused, nothing stored: the idempotency key belongs to another request."""

    key: str


@dataclass(frozen=True, slots=True)
class OverQuota:
    """Refused, nothing stored: the tenant would hold more than `limit` memories."""

    limit: int


CommitResult = Applied | Replayed | RevisionMoved | FenceLost | KeyReused | OverQuota


class TenantStore(Protocol):
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
    ) -> CommitResult:
        """All changes are durable and visible to the next read of any process, or none is.

        Changes apply in order; a later one sees the earlier ones. With `idempotency`, the key and the
        outcomes are kept in the same transaction. `max_memories` bounds the memories held after it; a commit
        that adds none is never refused for it. An empty sequence is `Applied` with the present count.
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
        """Ids of memories whose vectors are missing, incomplete, or made by another model, oldest first."""
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


# --- directory -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAccount:
    """A tenant with its first user, that user's personal space, and a first key, made together."""

    tenant: Tenant
    user: User
    space: Space
    key: Key
    key_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What one key opens; `key` may be expired or revoked, `tenant` inactive: the engine decides."""

    key: Key
    tenant: Tenant
    user: User
    plan: Plan


class Directory(Protocol):
    """Tenants, users, keys and plans, across tenants; changes are visible to the next call of any process."""

    async def find_credentials(self, key_hash: bytes) -> Credentials | None:
        """What the key of this hash opens, or None when there is no such key."""
        ...

    def mark(self) -> Hashable:
        """A value that any commit changes, told without waiting; commits some milliseconds apart may share one."""
        ...

    async def create_account(self, account: NewAccount, *, only_if_empty: bool = False) -> bool:
        """The account is there, whole, and True is returned.

        With `only_if_empty` False is returned, and nothing made, when any tenant exists: of several processes that
        start at once exactly one gets True.
        """
        ...

    async def add_user(self, user: User, space: Space) -> None:
        """The user and its personal space are there.

        Raises `NotFound` for an unknown tenant, `Conflict` when the tenant has a user of that name.
        """
        ...

    async def add_key(self, key: Key, key_hash: bytes) -> None:
        """The key opens its tenant from now on. Raises `NotFound` for an unknown tenant or user."""
        ...

    async def revoke_key(self, key_id: KeyId, *, now: datetime) -> Key | None:
        """The key opens nothing any more; revoking again keeps the first time. None for an unknown key."""
        ...

    async def list_keys(self, tenant_id: TenantId | None) -> tuple[Key, ...]:
        """All keys, of one tenant or of all, oldest first."""
        ...

    async def list_tenants(self) -> tuple[Tenant, ...]:
        """All tenants, oldest first."""
        ...

    async def list_users(self, tenant_id: TenantId) -> tuple[User, ...]:
        """All users of a tenant, oldest first."""
        ...

    async def set_tenant(self, tenant: Tenant) -> None:
        """Name, plan and `is_active` of the tenant are as given. Raises `NotFound` for an unknown tenant or plan."""
        ...

    async def list_plans(self) -> tuple[Plan, ...]:
        """All plans by name; `self-hosted` is always there."""
        ...

    async def put_plan(self, plan: Plan) -> None:
        """The plan of that name is as given, for every tenant on it, from the next request on."""
        ...


# --- jobs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCounts:
    """How many jobs stand where, over all tenants."""

    by_kind_and_state: Mapping[tuple[JobKind, JobState], int]


class JobQueue(Protocol):
    """The dispatch of jobs to workers, across tenants. Jobs are added and finished by `TenantStore.commit`."""

    async def claim(self, *, queues: frozenset[str], now: datetime, lease_until_at: datetime) -> Job | None:
        """The next due job is this caller's until the lease ends: running, attempts + 1, fence + 1.

        Due: queued with `run_after_at` <= now, or running with an expired lease. Higher priority first, then
        lower sequence. A job is passed over while an earlier unfinished job of its ordering key exists; a
        failed one counts as unfinished only where `blocks_key_when_failed`. Two callers never get the same
        job. None when nothing is due.
        """
        ...

    async def extend(self, tenant_id: TenantId, job_id: JobId, *, fence: int, lease_until_at: datetime) -> bool:
        """The lease ends later; False when the fence is no longer the holder's."""
        ...

    async def retry_later(
        self, tenant_id: TenantId, job_id: JobId, *, fence: int, error: str, run_after_at: datetime, now: datetime
    ) -> bool:
        """The job is queued again with its error shown; False when the fence is lost."""
        ...

    async def park(self, tenant_id: TenantId, job_id: JobId, *, fence: int, error: str, now: datetime) -> bool:
        """The job is failed, kept with its input and error; False when the fence is lost."""
        ...

    async def release(self, tenant_id: TenantId, job_id: JobId, *, fence: int, now: datetime) -> bool:
        """The job is queued again at once and the attempt does not count (a worker that stops cleanly)."""
        ...

    async def requeue(self, tenant_id: TenantId, job_id: JobId, *, now: datetime) -> bool:
        """A failed job is queued again with its attempts at 0; False when it is not failed."""
        ...

    async def counts(self) -> JobCounts:
        """How many jobs stand in which state, by kind."""
        ...

    async def delete_finished(self, *, before: datetime) -> int:
        """Done, cancelled and failed jobs that finished before the time are gone; how many."""
        ...


# --- the whole -------------------------------------------------------------------------------------------


class FindingKind(StrEnum):
    """What `check` compares."""

    SCHEMA = "schema"
    ROWS = "rows"
    TERMS = "terms"
    COUNTS = "counts"
    VECTORS = "vectors"
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

    async def close(self) -> None:
        """What was accepted is durable and every resource is released; closing twice is harmless."""
        ...
