"""What callers hand to the engine and what it hands back, in the engine's own words."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from polymem.domain.model import ContentType, JsonValue, Key, Memory, MemoryId, MemoryType, SpaceId, Tenant, User
from polymem.ports.queue import JobCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMemory:
    """A text to keep. `space_id` None is the principal's personal space; `memory_type` is not `session`."""

    content: str
    memory_type: MemoryType = MemoryType.INSIGHT
    tags: tuple[str, ...] = ()
    metadata: JsonValue = None
    source: str | None = None
    agent_id: str | None = None
    session_id: str | None = None
    space_id: SpaceId | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPatch:
    """What a client changes of a memory; None leaves a part as it is."""

    content: str | None = None
    tags: tuple[str, ...] | None = None
    metadata: JsonValue = None
    updated_by: str | None = None
    expected_version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTurn:
    """One message of a conversation; `seq` None takes the next number of its session."""

    role: str
    content: str
    content_type: ContentType = ContentType.TEXT
    seq: int | None = None
    created_at: datetime | None = None


class IngestMode(StrEnum):
    """How messages become memories: turns and, with a model, facts (smart), or turns alone (raw)."""

    SMART = "smart"
    RAW = "raw"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTurns:
    """Messages of one session, in the order they were said. `session_id` None makes a new session."""

    turns: tuple[NewTurn, ...]
    session_id: str | None = None
    agent_id: str | None = None
    source: str | None = None
    tags: tuple[str, ...] = ()
    metadata: JsonValue = None
    mode: IngestMode = IngestMode.SMART
    space_id: SpaceId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """Every turn is durable: the ids of the new ones, in order, and how many were there before."""

    session_id: str
    memory_ids: tuple[MemoryId, ...]
    duplicates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The memory as stored; `is_new` False when a retry found what it had written."""

    memory: Memory
    is_new: bool


class ImportFormat(StrEnum):
    """What an import file holds."""

    MEMORY = "memory"
    SESSION = "session"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """A file to import; its bytes come from `chunks` and are durable before the job is acknowledged.

    `agent_id` goes before what the file says; `default_agent_id` counts where neither says anything.
    """

    format: ImportFormat
    file_name: str
    chunks: AsyncIterator[bytes]
    agent_id: str | None = None
    default_agent_id: str | None = None
    session_id: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSecret:
    """A key with its secret, which is told here once and stored nowhere."""

    key: Key
    secret: str
    tenant: Tenant
    user: User


@dataclass(frozen=True, slots=True, kw_only=True)
class RateState:
    """Where a principal stands in its plan's request limit after one request was counted."""

    limit: int
    remaining: int
    reset_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the server can serve, and what is degraded, each in words for an operator.

    `jobs`: how many stand where; None when the storage did not say.
    """

    is_serving: bool
    degraded: tuple[str, ...]
    jobs: JobCounts | None = None
