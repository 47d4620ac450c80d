"""The words of polymem as types: tenants, users, keys, spaces, memories, jobs.

Ids are canonical UUIDv7 strings. Times are timezone-aware UTC and named `*_at`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType

JsonValue = None | bool | int | float | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"]

TenantId = NewType("TenantId", str)
UserId = NewType("UserId", str)
KeyId = NewType("KeyId", str)
SpaceId = NewType("SpaceId", str)
MemoryId = NewType("MemoryId", str)
JobId = NewType("JobId", str)
BlobId = NewType("BlobId", str)


UNGAUGED_IMPORTANCE = 0.5


class Scope(StrEnum):
    """What a key may do; one list for all dialects."""

    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    ORGANIZE = "organize"
    TYPES = "types"
    ADMIN = "admin"


class Role(StrEnum):
    """What a member of a space may do there, highest first."""

    OWNER = "owner"
    ADMIN = "admin"
    CONTRIBUTOR = "contributor"
    VIEWER = "viewer"


class SpaceKind(StrEnum):
    """What a space is for; each dialect shows the kinds it knows."""

    PERSONAL = "personal"
    DOMAIN = "domain"
    HUB = "hub"
    INSTANCE = "instance"


class MemoryType(StrEnum):
    """How a memory came to be: written (insight), kept on purpose (pinned), or a captured turn (session)."""

    INSIGHT = "insight"
    PINNED = "pinned"
    SESSION = "session"


class MemoryState(StrEnum):
    """The one lifecycle state that every dialect maps by a table of its own."""

    PROCESSING = "processing"
    ACTIVE = "active"
    PAUSED = "paused"
    COOLING = "cooling"
    ARCHIVED = "archived"


class MemoryRole(StrEnum):
    """What consolidation made of a memory: untouched, standing for many that say the same, or kept for being rare."""

    EPISODE = "episode"
    PROTOTYPE = "prototype"
    SINGLETON = "singleton"


class ContentType(StrEnum):
    """How the content of a captured turn reads."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Named limits of a tenant; None means no limit."""

    name: str
    requests_per_minute: int
    burst: int
    max_memories: int | None
    queries_per_day: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """An organisation: the isolation boundary, owner of plan and limits."""

    id: TenantId
    name: str
    plan: str
    is_active: bool
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person or service account of one tenant."""

    id: UserId
    tenant_id: TenantId
    name: str
    personal_space_id: SpaceId
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A hashed secret of one user; the secret itself is shown once and never stored."""

    id: KeyId
    tenant_id: TenantId
    user_id: UserId
    name: str
    prefix: str
    scopes: frozenset[Scope]
    allowed_spaces: frozenset[SpaceId] | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A named part of a tenant; who may use it follows from its members and `is_restricted`."""

    id: SpaceId
    kind: SpaceKind
    name: str
    is_restricted: bool
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """One user's role in one space."""

    space_id: SpaceId
    user_id: UserId
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who calls: a user of a tenant through one key, perhaps on behalf of an agent."""

    tenant_id: TenantId
    user_id: UserId
    key_id: KeyId
    personal_space_id: SpaceId
    scopes: frozenset[Scope]
    allowed_spaces: frozenset[SpaceId] | None
    plan: Plan
    agent_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyClaim:
    """The caller's promise that `key` names one request; `digest` is the SHA-256 of that request."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to the engine: the principal, and what makes a retry harmless."""

    principal: Principal
    request_id: str
    idempotency: IdempotencyClaim | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What makes a memory a captured message: who said it, where in its session."""

    role: str
    seq: int
    content_type: ContentType


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """One stored text. `version` and `updated_at` move only when a client changes it; `revision` always.

    `created_at` is when it was said or written as the client tells it, else when it was stored.
    `turn` is set exactly when `memory_type` is `session`.
    `concepts`: key terms, as given. `importance` in [0, 1], as gauged when it was written; 0.5 for one nobody gauged.
    `valence` in [-1, 1]: what feedback taught of it; no client's change touches it, and it moves no revision.
    `external_ref` names it once per tenant. `fingerprint`: what a client finds it by, letter for letter.
    `supersedes`: what it was written to replace. An archived memory of a prototype is `superseded_by` that.
    """

    id: MemoryId
    space_id: SpaceId
    content: str
    memory_type: MemoryType
    state: MemoryState
    tags: tuple[str, ...]
    metadata: JsonValue
    source: str | None
    agent_id: str | None
    session_id: str | None
    turn: Turn | None
    created_by: UserId
    updated_by: str | None
    superseded_by: MemoryId | None
    derived_from: tuple[MemoryId, ...]
    version: int
    revision: int
    created_at: datetime
    updated_at: datetime
    role: MemoryRole = MemoryRole.EPISODE
    concepts: tuple[str, ...] = ()
    importance: float = UNGAUGED_IMPORTANCE
    valence: float = 0.0
    external_ref: str | None = None
    fingerprint: str | None = None
    supersedes: tuple[MemoryId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """An undirected edge between two concepts of a space, by their keys; `source` < `target`.

    `weight` in [0, 1] grows with each time they came together; `valence` in [-1, 1] is how that turned out; `count`
    how often it was strengthened or judged.
    """

    space_id: SpaceId
    source: str
    target: str
    weight: float
    valence: float
    count: int
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryVersion:
    """An earlier state of a memory, written when a client changed it."""

    memory: Memory
    replaced_at: datetime
    replaced_by: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """Which model made a vector; vectors of different identities are never compared."""

    name: str
    revision: str
    dimension: int
    token_dimension: int


class JobState(StrEnum):
    """Where a job stands; `failed` jobs are parked: kept with their input and error, retryable."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobKind(StrEnum):
    """What a job does; each kind has one handler."""

    EMBED = "embed"
    IMPORT = "import"
    SWEEP = "sweep"
    CONSOLIDATE = "consolidate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Durable background work of one tenant.

    Jobs of one `ordering_key` run one at a time in `sequence` order. `fence` grows with each claim: a
    holder with an older fence can no longer commit. `reference_at` is the moment the work speaks from
    ("last Monday" resolves against it).
    """

    id: JobId
    tenant_id: TenantId
    space_id: SpaceId
    user_id: UserId
    kind: JobKind
    queue: str
    ordering_key: str | None
    blocks_key_when_failed: bool
    sequence: int
    state: JobState
    priority: int
    attempts: int
    max_attempts: int
    fence: int
    payload: Mapping[str, JsonValue]
    result: Mapping[str, JsonValue]
    progress_total: int
    progress_done: int
    error: str | None
    reference_at: datetime
    run_after_at: datetime
    lease_until_at: datetime | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
